"""Exercises of production/multi-task."""

from __future__ import annotations

import math

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]

# Exercise 2; the lesson's text names the same numbers.
WEIGHT, TIMES = 0.001, 100


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_shares(), _surgery(), _unit(), _same_bits()]


# ---- Whose batch comes next -------------------------------------------------------------------------


def _normal(values: dict) -> dict:
    total = sum(values.values())
    return {name: each / total for name, each in values.items()}


def _shares_reference(sizes, temperature):
    return _normal({name: size ** (1 / temperature) for name, size in sizes.items()})


def _by_logarithms(sizes, temperature):
    """The same as a softmax of log(n) / T."""
    return _normal({name: math.exp(math.log(size) / temperature) for name, size in sizes.items()})


def _shares() -> Exercise:
    sizes = {"large": 900, "small": 100}
    return Function(
        name="shares",
        reference=_shares_reference,
        also_right=(_by_logarithms,),
        because="T = 1 leaves the sizes as they are, a large T makes all alike, and nothing between them jumps.",
        cases=(
            (sizes, 1),
            (sizes, 2),
            (sizes, math.inf),
            ({"a": 64, "b": 8, "c": 1}, 3),
            ({"a": 5, "b": 5}, 0.5),
            ({"only": 7}, 4),
        ),
        source="def shares(sizes, temperature):\n"
        "    powers = {name: size ** (1 / temperature) for name, size in sizes.items()}\n"
        "    return {name: power / sum(powers.values()) for name, power in powers.items()}",
        hints=(
            "First a dictionary of powers: `size ** (1 / temperature)` for each task.",
            "Then divide each power by the sum of all of them, so that the shares sum up to 1.",
            "`1 / math.inf` is 0.0, and any size to the power of 0 is 1: equal shares need no case of their own.",
        ),
        wrong=(
            WrongAnswer(
                "turned",
                lambda sizes, temperature: _normal({name: size**temperature for name, size in sizes.items()}),
                "At T = 2 the large task gets more than at T = 1; a higher temperature should even them out. The "
                "exponent is 1 / T.",
            ),
            WrongAnswer(
                "divided",
                lambda sizes, temperature: _normal(
                    {name: size / min(temperature, 1e9) for name, size in sizes.items()}
                ),
                "All sizes are divided by the same T, and that falls out when you normalise: T does nothing. It belongs "
                "into the exponent.",
            ),
            WrongAnswer(
                "not-normalised",
                lambda sizes, temperature: {name: size ** (1 / temperature) for name, size in sizes.items()},
                "These are the powers, not yet probabilities: they don't sum up to 1.",
            ),
            WrongAnswer(
                "shares-first",
                lambda sizes, temperature: {
                    name: each ** (1 / temperature) for name, each in _normal(sizes).items()
                },
                "You normalise first and take the power afterwards: then the shares sum up to more than 1. Normalise last.",
            ),
        ),
    )


# ---- Gradients that pull apart ----------------------------------------------------------------------


def _dot(one, other) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _surgery_reference(mine, other):
    product = _dot(mine, other)
    if product >= 0:
        return list(mine)
    factor = product / _dot(other, other)
    return [a - factor * b for a, b in zip(mine, other, strict=True)]


def _surgery_by_min(mine, other):
    """The same without an if."""
    size = _dot(other, other)
    factor = min(0.0, _dot(mine, other)) / size if size else 0.0
    return tuple(a - factor * b for a, b in zip(mine, other, strict=True))


def _always(mine, other):
    size = _dot(other, other)
    factor = _dot(mine, other) / size if size else 0.0
    return [a - factor * b for a, b in zip(mine, other, strict=True)]


def _by_length(mine, other):
    product = _dot(mine, other)
    if product >= 0:
        return list(mine)
    factor = product / math.sqrt(_dot(other, other))
    return [a - factor * b for a, b in zip(mine, other, strict=True)]


def _wrong_sign(mine, other):
    product = _dot(mine, other)
    if product >= 0:
        return list(mine)
    factor = product / _dot(other, other)
    return [a + factor * b for a, b in zip(mine, other, strict=True)]


def _dropped(mine, other):
    return list(mine) if _dot(mine, other) >= 0 else [0.0] * len(mine)


def _surgery() -> Exercise:
    return Function(
        name="surgery",
        reference=_surgery_reference,
        also_right=(_surgery_by_min,),
        because="What is left is at right angles to the other gradient: to first order, a step along it leaves the other "
        "loss as it is. Agreement is kept.",
        cases=(
            ([1.0, 0.0], [-1.0, 1.0]),
            ([1.0, 2.0], [2.0, 1.0]),
            ([3.0, 0.0, 1.0], [-2.0, 4.0, 0.0]),
            ([1.0, 0.0], [0.0, 5.0]),
            ([2.0, -1.0], [-4.0, 2.0]),
            ([1.0, 1.0], [0.0, 0.0]),
        ),
        source="def without_conflict(mine, other):\n"
        "    product = sum(a * b for a, b in zip(mine, other))\n"
        "    if product >= 0:\n"
        "        return list(mine)\n"
        "    factor = product / sum(b * b for b in other)\n"
        "    return [a - factor * b for a, b in zip(mine, other)]",
        hints=(
            "Whether two gradients pull apart is the sign of their product: `sum(a * b for a, b in zip(mine, other))`.",
            "Nothing is to be done where it is 0 or more. Else take away the part of `mine` that lies along `other`.",
            "That part is `product / sum(b * b for b in other)` times `other`.",
        ),
        wrong=(
            WrongAnswer(
                "always",
                _always,
                "You take the common part away where both agree, too. That throws away what one task may learn from the "
                "other: change nothing where the product is 0 or more.",
            ),
            WrongAnswer(
                "by-length",
                _by_length,
                "You divide by the length of `other`; the projection divides by its square, `sum(b * b for b in other)`.",
            ),
            WrongAnswer(
                "wrong-sign",
                _wrong_sign,
                "The conflict is doubled instead of taken away: the product is below 0, so *subtract* product / |other|² "
                "times `other`.",
            ),
            WrongAnswer(
                "dropped",
                _dropped,
                "On conflict you drop the whole gradient, so that the task learns nothing in this step. Take away only the "
                "part along `other`.",
            ),
        ),
    )


# ---- A loss's unit ----------------------------------------------------------------------------------


def _unit() -> Exercise:
    return Value(
        name="unit",
        reference=WEIGHT * TIMES**2,
        also_right=("10", 10),
        tolerance=1e-6,
        because=f"Numbers {TIMES} times smaller have squares {TIMES**2:,} times smaller, so the weight grows by "
        f"{TIMES**2:,}: {WEIGHT} becomes {WEIGHT * TIMES**2:g}. A weight says nothing without the unit of its loss.",
        hints=(
            "The loss is the mean of *squares*. By how much does it shrink when each number is counted in hundreds?",
            f"{TIMES} times smaller numbers, {TIMES} x {TIMES} times smaller squares. Weight times loss is to stay.",
        ),
        wrong=(
            WrongAnswer(
                "once",
                WEIGHT * TIMES,
                f"That makes up for numbers {TIMES} times smaller. Their squares are {TIMES**2:,} times smaller.",
            ),
            WrongAnswer(
                "turned",
                WEIGHT / TIMES**2,
                "The loss becomes smaller, so its weight must grow, for the product to stay as it was.",
            ),
            WrongAnswer(
                "turned-once",
                WEIGHT / TIMES,
                "The loss shrinks, so the weight must grow; and it shrinks by a square.",
            ),
            WrongAnswer(
                "the-same",
                WEIGHT,
                "With the same weight this loss would count for next to nothing: it is smaller now, and the other is not.",
            ),
        ),
    )


# ---- Adding a task ----------------------------------------------------------------------------------


def _same_bits() -> Exercise:
    return Choice(
        name="same-bits",
        reference="c",
        also_right=("C", "a new adapter and a new head on the frozen base"),
        because="The base and the other adapters are only read, and the same numbers are computed in the same order. All "
        "other ways move weights that the old tasks read.",
        options={
            "a": "train everything further on the new task, at a hundredth of the learning rate",
            "b": "train everything further, and replay texts of the old tasks in between",
            "c": "a new adapter and a new head on the frozen base",
            "d": "train everything further on the new task, with a new head, the old heads frozen",
        },
        hints=(
            "What does an old task's answer depend on? Its head, its adapter if it has one, and the base.",
            "Bit for bit: a change of any size in any of these is enough to miss it.",
        ),
        wrong=(
            WrongAnswer(
                "small-steps",
                "a",
                "Smaller steps forget less, yet every weight moves: close is not bit for bit.",
            ),
            WrongAnswer(
                "replay",
                "b",
                "Replay holds the old *scores* up, roughly. The weights move all the same, and some answers change.",
            ),
            WrongAnswer(
                "frozen-heads",
                "d",
                "The old heads stay, but the encoder below them moves: they read other vectors than they were trained on.",
            ),
        ),
    )
