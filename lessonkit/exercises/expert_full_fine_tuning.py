"""The exercises of `expert/full-fine-tuning`."""

from __future__ import annotations

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

# SmolLM2-135M's; tests/test_lesson_expert_full_fine_tuning.py counts them anew.
PARAMETERS = 134_515_008
GIB = 2**30
TENTH_IN_BFLOAT16 = 0.10009765625  # the bfloat16 next to 0.1; tests/test_lesson_... adds up the steps


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_bill(), _accumulated_loss(), _thousand_steps(), _interpolate(), _beyond()]


def _bill() -> Exercise:
    return Value(
        name="bill",
        reference=16 * PARAMETERS / GIB,
        also_right=(2.0, 2.004),
        relative=0.01,
        because="Four numbers of 4 bytes for each parameter: the weight, its gradient, and AdamW's two averages.",
        hints=(
            "How many numbers does each parameter need: one weight, one gradient, and how many states?",
            "A float32 takes 4 bytes, so it is 4 x 4 = 16 bytes a parameter.",
            "`16 * 134_515_008 / 2**30`",
        ),
        wrong=(
            WrongAnswer(
                "weights-only",
                4 * PARAMETERS / GIB,
                "That's the weights alone. Training also keeps a gradient and AdamW's two averages for each of them.",
            ),
            WrongAnswer(
                "no-gradients",
                12 * PARAMETERS / GIB,
                "That's three numbers a parameter. Count again: weight, gradient, average of the gradient, average "
                "of its square.",
            ),
            WrongAnswer(
                "gigabytes",
                16 * PARAMETERS / 1e9,
                "Those are GB of 10^9 bytes. A GiB is 2^30 bytes, about 7 % more.",
            ),
            WrongAnswer(
                "half-precision",
                8 * PARAMETERS / GIB,
                "That's 2 bytes a number, or two numbers of 4. Here all four numbers are in float32, 4 bytes each.",
            ),
        ),
    )


def _accumulated(mean_losses, tokens):
    return sum(loss * count for loss, count in zip(mean_losses, tokens, strict=True)) / sum(tokens)


def _accumulated_numpy(mean_losses, tokens):
    import numpy as np

    return float(np.average(mean_losses, weights=tokens))


def _accumulated_loss() -> Exercise:
    return Function(
        name="accumulated-loss",
        reference=_accumulated,
        also_right=(_accumulated_numpy,),
        because="Each token counts once: turn every mean back into a sum, add up, and divide by all tokens.",
        cases=(
            ([2.0, 4.0], [10, 30]),
            ([1.0, 1.0, 1.0], [5, 1, 7]),
            ([3.0, 0.5, 2.0, 8.0], [100, 1, 50, 3]),
            ([2.5], [4]),
        ),
        source="def accumulated_loss(mean_losses, tokens):\n"
        "    summed = sum(loss * count for loss, count in zip(mean_losses, tokens))\n"
        "    return summed / sum(tokens)",
        hints=(
            "A mean loss times its number of tokens is the sum of that micro-batch's losses.",
            "Add up those sums, and divide by the number of tokens of the whole batch.",
            "`sum(loss * count for loss, count in zip(mean_losses, tokens)) / sum(tokens)`",
        ),
        wrong=(
            WrongAnswer(
                "mean-of-means",
                lambda mean_losses, tokens: sum(mean_losses) / len(mean_losses),
                "You average the micro-batches' means. A micro-batch of 3 tokens then counts as much as one of 100: "
                "weigh each by its tokens.",
            ),
            WrongAnswer(
                "sum-of-means",
                lambda mean_losses, tokens: sum(mean_losses),
                "You add the means up. That grows with the number of micro-batches, and so would the gradient; this "
                "is what happens when the division is forgotten.",
            ),
            WrongAnswer(
                "no-division",
                lambda mean_losses, tokens: sum(
                    loss * count for loss, count in zip(mean_losses, tokens, strict=True)
                ),
                "That's the summed loss of all tokens. The loss of a batch is a mean: divide by the tokens.",
            ),
            WrongAnswer(
                "divided-by-micro-batches",
                lambda mean_losses, tokens: (
                    sum(loss * count for loss, count in zip(mean_losses, tokens, strict=True)) / len(tokens)
                ),
                "You divide by the number of micro-batches. Divide by the number of tokens in all of them.",
            ),
        ),
    )


def _thousand_steps() -> Exercise:
    return Value(
        name="thousand-steps",
        reference=TENTH_IN_BFLOAT16,
        also_right=(0.1, 0.1001),
        tolerance=0.0002,
        because="bfloat16's next number after 0.1 is 0.0005 away. Adding 0.00001 rounds back to where it was, each time.",
        hints=(
            "bfloat16 has 7 bits of fraction. How far is the next number from 0.1?",
            "Between 1/16 and 1/8, neighbours are 2^-4 x 2^-7 = 0.0005 apart.",
            "A sum is rounded to the nearest number that exists; 0.10001 is nearest to 0.1 itself.",
        ),
        wrong=(
            WrongAnswer(
                "float32",
                0.11,
                "That's what float32 gives: 0.1 + 1,000 x 0.00001. In bfloat16 each sum is rounded before the next one.",
            ),
            WrongAnswer(
                "one-neighbour",
                TENTH_IN_BFLOAT16 + 2**-11,
                "That's one neighbour further. Not even the first step gets there: it would have to be more than half "
                "of the distance.",
            ),
            WrongAnswer(
                "vanishes",
                0.0,
                "It is the update that vanishes, not the weight: 0.1 stays.",
            ),
        ),
    )


def _line(base, tuned, alpha):
    return {name: (1 - alpha) * base[name] + alpha * tuned[name] for name in base}


def _line_by_difference(base, tuned, alpha):
    return {name: value + alpha * (tuned[name] - value) for name, value in base.items()}


def _line_by_lerp(base, tuned, alpha):
    import torch

    return {name: torch.lerp(base[name], tuned[name], alpha) for name in base}


def _weights(**values):
    import torch

    return {name: torch.tensor(each) for name, each in values.items()}


def _interpolate() -> Exercise:
    return Function(
        name="interpolate",
        reference=_line,
        also_right=(_line_by_difference, _line_by_lerp),
        because="At 0 it is the base model, at 1 the tuned one; every weight moves along its own straight line.",
        cases=(
            (_weights(w=[1.0, 5.0], b=[-2.0]), _weights(w=[3.0, 4.0], b=[2.0]), 0.5),
            (_weights(w=[1.0, 5.0], b=[-2.0]), _weights(w=[3.0, 4.0], b=[2.0]), 0.25),
            (_weights(w=[[4.0, 0.0]]), _weights(w=[[1.0, 1.0]]), 0.0),
            (_weights(w=[[4.0, 0.0]]), _weights(w=[[1.0, 1.0]]), 1.0),
            (_weights(a=[0.0], b=[1.0], c=[8.0]), _weights(a=[1.0], b=[0.0], c=[4.0]), 0.75),
        ),
        tolerance=1e-5,
        source="def interpolate(base, tuned, alpha):\n"
        "    return {name: (1 - alpha) * base[name] + alpha * tuned[name] for name in base}",
        hints=(
            "Make a new dictionary with the same names.",
            "Each value is (1 - alpha) times the base's plus alpha times the tuned one's.",
            "`{name: (1 - alpha) * base[name] + alpha * tuned[name] for name in base}`",
        ),
        wrong=(
            WrongAnswer(
                "ends-swapped",
                lambda base, tuned, alpha: {
                    name: alpha * base[name] + (1 - alpha) * tuned[name] for name in base
                },
                "Your 0 is the tuned model and your 1 the base model. Alpha says how far to go from base to tuned.",
            ),
            WrongAnswer(
                "adds-tuned",
                lambda base, tuned, alpha: {name: base[name] + alpha * tuned[name] for name in base},
                "You add the tuned weights to the base's. Either take (1 - alpha) of the base, or add alpha times the "
                "*difference* tuned - base.",
            ),
            WrongAnswer(
                "always-halfway",
                lambda base, tuned, alpha: {name: (base[name] + tuned[name]) / 2 for name in base},
                "That's the midpoint, whatever alpha is.",
            ),
        ),
    )


def _beyond() -> Exercise:
    return Choice(
        name="beyond",
        reference="b",
        also_right=(" B)", "tales and answers both get worse"),
        options={
            "a": "tales go on improving, the answers stay",
            "b": "tales and answers both get worse",
            "c": "nothing changes",
        },
        because="Training stopped near the lowest point along this line; twice as far lies on the other side of the valley.",
        hints=(
            "`set_dial(2.0)`, then `{kind: found.perplexity for kind, found in judge('beyond').items()}`.",
            "Compare with `dial[1.0]`: higher is worse.",
        ),
        wrong=(
            WrongAnswer(
                "more-is-better",
                "a",
                "The loss along the line is a valley, not a slope: compare `judge('beyond')['tales']` with "
                "`dial[1.0]['tales']`.",
            ),
            WrongAnswer(
                "nothing",
                "c",
                "Did `set_dial(2.0)` run before `judge`? The weights there are those of no model that was trained.",
            ),
        ),
    )
