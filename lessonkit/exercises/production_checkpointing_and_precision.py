"""Exercises of production/checkpointing-and-precision."""

from __future__ import annotations

import math

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_recompute(), _changes(), _fastest(), _paid_back()]


# ---- What a second forward pass costs ----------------------------------------------------------------


def _recompute() -> Exercise:
    return Value(
        name="recompute",
        reference=4 / 3,
        also_right=("1.33", 1.34),
        tolerance=0.02,
        because="Forward 1, backward 2: 3 parts. Checkpointing runs the forward pass again: 4 parts, 4/3 of the time.",
        hints=(
            "Count in forward passes: how many is the backward pass worth? It computes two products for each one.",
            "Without checkpointing a step is 1 + 2 parts. Which part runs twice with it?",
        ),
        wrong=(
            WrongAnswer(
                "doubled",
                2.0,
                "The backward pass isn't repeated, only the forward pass: it is one part of three.",
            ),
            WrongAnswer(
                "half-more",
                1.5,
                "That counts the backward pass as one part. It computes two products where the forward pass computes one: "
                "the gradient of the input and that of the weights.",
            ),
            WrongAnswer(
                "nothing",
                1.0,
                "What isn't kept must be computed again before the backward pass can use it: that takes time.",
            ),
        ),
    )


# ---- The fastest that fits ---------------------------------------------------------------------------


def _fastest_reference(costs, limit):
    fit = {name: seconds for name, (size, seconds) in costs.items() if size <= limit}
    return min(fit, key=fit.get) if fit else None


def _fastest_by_loop(costs, limit):
    """The same, one after the other."""
    best = None
    for name, (size, seconds) in costs.items():
        if size <= limit and (best is None or seconds < costs[best][1]):
            best = name
    return best


def _fastest() -> Exercise:
    three = {"none": (925, 2.8), "checkpointing": (457, 3.9), "4 small batches": (528, 3.1)}
    return Function(
        name="fastest",
        reference=_fastest_reference,
        also_right=(_fastest_by_loop,),
        because="First what fits, then the fastest of it. Room that is left over buys nothing.",
        cases=(
            (three, 1000),
            (three, 600),
            (three, 500),
            (three, 457),
            (three, 400),
            ({"slow": (100, 9.0), "slower": (50, 10.0)}, 120),
        ),
        source="def fastest(costs, limit):\n"
        "    fit = {name: seconds for name, (size, seconds) in costs.items() if size <= limit}\n"
        "    return min(fit, key=fit.get) if fit else None",
        hints=(
            "`for name, (size, seconds) in costs.items()` gives you all three.",
            "Keep those with `size <= limit`; what if none is left?",
            "`min(fit, key=fit.get)` is the key of the smallest value of a dictionary.",
        ),
        wrong=(
            WrongAnswer(
                "smallest",
                lambda costs, limit: next(
                    (
                        name
                        for name, (size, _) in sorted(costs.items(), key=lambda each: each[1])
                        if size <= limit
                    ),
                    None,
                ),
                "That takes the smallest one that fits. Memory that stays free is worth nothing; take the fastest.",
            ),
            WrongAnswer(
                "no-limit",
                lambda costs, limit: min(costs, key=lambda name: costs[name][1]),
                "That takes the fastest of all, whether it fits or not.",
            ),
            WrongAnswer(
                "below-only",
                lambda costs, limit: _fastest_reference(costs, limit - 1),
                "What takes exactly the limit fits as well: `<=`.",
            ),
        ),
    )


# ---- When compiling is paid back ---------------------------------------------------------------------


def _paid_reference(first, before, after):
    if after >= before:
        return None
    return math.ceil((first - after) / (before - after))


def _paid_by_steps(first, before, after):
    """The same, by walking."""
    if before <= after:
        return None
    steps, ahead = 0, first - after
    while ahead > 1e-9:
        steps, ahead = steps + 1, ahead - (before - after)
    return steps


def _paid_back() -> Exercise:
    return Function(
        name="paid-back",
        reference=_paid_reference,
        also_right=(_paid_by_steps,),
        because="The first step costs `first - after` seconds more than a compiled one; each compiled step earns "
        "`before - after` seconds. Their quotient, rounded up, is the number of steps.",
        cases=((21.0, 3.0, 2.0), (21.0, 3.0, 2.5), (20.0, 3.0, 1.7), (21.0, 2.8, 2.8), (21.0, 2.8, 3.0)),
        source="def paid_back(first, before, after):\n"
        "    if after >= before:\n"
        "        return None\n"
        "    return math.ceil((first - after) / (before - after))",
        hints=(
            "What does compiling cost once? The first step took `first`; a compiled step takes `after`.",
            "What does each compiled step earn, beside one that isn't compiled?",
            "If it earns nothing, it is never paid back: `None`. Else `math.ceil(cost / earned)`.",
        ),
        wrong=(
            WrongAnswer(
                "never-forgotten",
                lambda first, before, after: (
                    math.ceil((first - after) / abs(before - after)) if before != after else 0
                ),
                "If compiled steps are no faster, no number of steps pays it back: `None`.",
            ),
            WrongAnswer(
                "all-of-the-first",
                lambda first, before, after: None if after >= before else math.ceil(first / (before - after)),
                "The first step also trains: only `first - after` is what compiling cost.",
            ),
            WrongAnswer(
                "rounded-down",
                lambda first, before, after: (
                    None if after >= before else math.floor((first - after) / (before - after) - 1e-9)
                ),
                "After that many steps a part of the cost is still open. Round up.",
            ),
        ),
    )


# ---- Which one changes what is learned ---------------------------------------------------------------


def _changes() -> Exercise:
    return Choice(
        name="changes",
        reference="c",
        also_right=("C", "bf16"),
        options={
            "a": "gradient checkpointing",
            "b": "accumulation with the same effective batch",
            "c": "bf16",
            "d": "compilation",
        },
        because="bf16 keeps 8 significant bits where float32 keeps 24: its losses differ from the first step on, by far "
        "more than rounding. The others compute the same sums, some in another order.",
        hints=(
            "Three of them compute the same products and sums, if in another order or twice.",
            "Which one computes with fewer digits?",
        ),
        wrong=(
            WrongAnswer(
                "checkpointing",
                "a",
                "It computes the same forward pass twice, with the same dice: the same numbers.",
            ),
            WrongAnswer(
                "accumulation",
                "b",
                "With sums divided by all answers of the effective batch it adds the same gradients, in another order.",
            ),
            WrongAnswer(
                "compilation",
                "d",
                "It joins operations into one loop; sums may have another order, nothing more.",
            ),
        ),
    )
