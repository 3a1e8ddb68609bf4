"""The exercises of `expert/lora`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

from lessonkit.exercises import Bar, Choice, Exercise, Function, Value, WrongAnswer, part, share_right
from lessonkit.exercises.plain import Grid, plain

TASKS = {"wires": "reuters-r8", "articles": "bbc-news", "posts": "20newsgroups"}


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_pissa(), _loftq_scaling(), _cross_terms(), _merge(), _many()]


# ---- PiSSA ------------------------------------------------------------------------------------------


def _split(weight, r, s):
    import torch

    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    return left[:, :r], values[:r], right[:r]


def _pissa_reference(weight, r, s):
    left, values, right = _split(weight, r, s)
    root = (values / s).sqrt()
    a, b = root[:, None] * right, left * root
    return weight - s * b @ a, a, b


def _pissa_by_diagonals(weight, r, s):
    """With diagonal matrices, as PEFT writes it."""
    import torch

    left, values, right = _split(weight, r, s)
    root = torch.diag(torch.sqrt(values / s))
    a, b = root @ right, left @ root
    return weight - s * (b @ a), a, b


def _pissa_unscaled(weight, r, s):
    left, values, right = _split(weight, r, s)
    a, b = values.sqrt()[:, None] * right, left * values.sqrt()
    return weight - b @ a, a, b


def _pissa_doubled(weight, r, s):
    left, values, right = _split(weight, r, s)
    a, b = (values / s)[:, None] * right, left * (values / s)
    return weight - s * b @ a, a, b


def _pissa_whole(weight, r, s):
    _, a, b = _pissa_reference(weight, r, s)
    return weight, a, b


def _pissa_smallest(weight, r, s):
    import torch

    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = (values[-r:] / s).sqrt()
    a, b = root[:, None] * right[-r:], left[:, -r:] * root
    return weight - s * b @ a, a, b


def _pissa_one_sided(weight, r, s):
    left, values, right = _split(weight, r, s)
    a, b = (values / s)[:, None] * right, left
    return weight - s * b @ a, a, b


def _without_signs(result: Any, *arguments: Any) -> Any:
    """What PiSSA fixes: W', B A, and the length of each row of A and column of B. A pair may change its sign."""
    rest, a, b = result
    return rest, b @ a, a.norm(dim=1), b.norm(dim=0)


def _weights() -> list:
    import torch

    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((6, 6), (5, 8), (9, 4))]


def _pissa() -> Exercise:
    square, wide, tall = _weights()
    return Function(
        name="pissa",
        reference=_pissa_reference,
        also_right=(_pissa_by_diagonals,),
        cases=((square, 2, 2.0), (wide, 1, 1.0), (tall, 3, 0.5), (wide, 4, 4.0)),
        look=_without_signs,
        relative=1e-5,
        tolerance=1e-6,
        because="s B A is then exactly the part of W that its r largest singular values make up, and W' is the rest.",
        source="import torch\n\n\ndef pissa(W, r, s):\n"
        "    U, S, Vh = torch.linalg.svd(W, full_matrices=False)\n"
        "    root = (S[:r] / s).sqrt()\n"
        "    A, B = root[:, None] * Vh[:r], U[:, :r] * root\n"
        "    return W - s * B @ A, A, B",
        hints=(
            "The r largest singular values come first: `S[:r]`, with the columns `U[:, :r]` and the rows `Vh[:r]`.",
            "The layer multiplies B A by s, so B A must be the wanted part of W divided by s.",
            "`root = (S[:r] / s).sqrt()`; A is `root[:, None] * Vh[:r]`, B is `U[:, :r] * root`, and W' is W less s B A.",
        ),
        wrong=(
            WrongAnswer(
                "scaling-forgotten",
                _pissa_unscaled,
                "Your W' + B A is W, but the layer adds s B A. Divide the singular values by s before you split them.",
            ),
            WrongAnswer(
                "no-root",
                _pissa_doubled,
                "Both A and B carry the singular values, so B A carries their squares. Give each the square root.",
            ),
            WrongAnswer(
                "nothing-taken-out",
                _pissa_whole,
                "A and B are right, but W is still whole: the layer would count that part twice. Subtract s B A from it.",
            ),
            WrongAnswer(
                "smallest",
                _pissa_smallest,
                "These are the smallest singular values. `S` is sorted from large to small: take the first r.",
            ),
            WrongAnswer(
                "one-sided",
                _pissa_one_sided,
                "W' and B A are right, but A carries all of the singular values and B none. Give each their square root, as "
                "PEFT does, so that both begin at one size.",
            ),
        ),
    )


def _loftq_scaling() -> Exercise:
    return Choice(
        name="loftq-scaling",
        reference="b",
        also_right=("(B)", "exactly as far"),
        options={"a": "nearer", "b": "exactly as far", "c": "farther"},
        because="The error is E and a rest R at right angles to it. With 2 E subtracted, R - E is left, as long as R + E.",
        hints=(
            "The error of NF4 is R + E, with E its best rank-r approximation. What is left after 2 E is taken away?",
            "R - E. E and R share no singular direction, so the squares of their lengths add up.",
        ),
        wrong=(
            WrongAnswer(
                "as-advertised",
                "a",
                "That holds if E is subtracted once. Here the layer multiplies B A, which is E already, by s = 2: look at "
                "what is left of E.",
            ),
            WrongAnswer(
                "overshoot",
                "c",
                "It does overshoot, but by how much? R + E becomes R - E: compare the lengths, given that E and R are at "
                "right angles.",
            ),
        ),
    )


def _cross_terms() -> Exercise:
    return Value(
        name="cross-terms",
        reference=6,
        also_right=(6.0, "6"),
        because="3 x 3 products in all, of which 3 pair a task's B with its own A. With n tasks it is n² - n.",
        hints=(
            "Multiply out: each of the three Bs meets each of the three As.",
            "That makes 3 x 3 products, of which three are wanted.",
        ),
        wrong=(
            WrongAnswer("all", 9, "That's all of them. Three of these nine are the wanted ones."),
            WrongAnswer(
                "pairs",
                3,
                "That's the number of pairs of tasks. Each pair gives two products: B₁A₂ is not B₂A₁.",
            ),
            WrongAnswer(
                "none",
                0,
                "Try it with numbers in place of matrices: (1 + 1)(1 + 1) is not 1 x 1 + 1 x 1. Multiply the brackets out.",
            ),
        ),
    )


# ---- Merging ----------------------------------------------------------------------------------------

REACH = 0.68  # mean of the three tasks' accuracies


@dataclass(frozen=True)
class _Validation:
    """The labels of the validation texts, as section 1 draws them, by task; numbers of the joint head's outputs."""

    labels: Mapping[str, list[int]]
    first: Mapping[str, int]  # the first output of each task


@lru_cache(maxsize=1)  # three data sets to read
def _validation(scale: str) -> _Validation:
    from lessonkit.data import load_dataset

    start, count = {"smoke": (48, 16), "gpu": (1600, 160)}.get(scale, (320, 200))
    labels, first, before = {}, {}, 0
    for task, name in TASKS.items():
        rows = load_dataset(name)["train"]
        drawn = rows.shuffle(seed=0)
        drawn = drawn.select(range(start, min(start + count, len(drawn))))
        labels[task] = [before + label for label in drawn["label"]]
        first[task] = before
        before += rows.features["label"].num_classes
    return _Validation(labels, first)


def _predictions(answer: Any, task: str) -> Any:
    return part(answer, task, "answer = {task: predict(shelf, validation[task], task) for task in sets}")


def _by_task(answer: Any, validation: _Validation) -> dict[str, float]:
    return {task: share_right(_predictions(answer, task), each) for task, each in validation.labels.items()}


def _mean(answer: Any, validation: _Validation) -> float:
    return fmean(_by_task(answer, validation).values())


def _lost(answer: Any, validation: _Validation) -> bool:
    """Whether some task is answered no better than always with its most frequent topic."""
    shares = _by_task(answer, validation)
    most = {task: max(map(each.count, each)) / len(each) for task, each in validation.labels.items()}
    return any(shares[task] <= most[task] for task in TASKS)


def _from_zero(answer: Any, validation: _Validation) -> bool:
    """Whether the class numbers are those of the data sets, not of the shared head's outputs."""
    return all(
        _least(_predictions(answer, task)) < first for task, first in validation.first.items() if first
    )


def _least(predicted: Any) -> float:
    """The least class number; infinity for scores, which are none."""
    found = plain(predicted)
    if isinstance(found, Grid):
        found = found.array.ravel().tolist() if found.array.ndim == 1 else []
    return min(found, default=math.inf)


def _partly(validation: _Validation, shares: Mapping[str, float]) -> dict[str, list[int]]:
    """The labels, but that only this share of them is right; the others get another topic of their task."""
    found = {}
    for task, labels in validation.labels.items():
        right, first = round(shares[task] * len(labels)), validation.first[task]
        others = [first if label != first else first + 1 for label in labels]
        found[task] = labels[:right] + others[right:]
    return found


# ---- One batch, many adapters -----------------------------------------------------------------------


def _many_reference(x, a, b, which, scaling):
    import torch

    thin = torch.bmm(a[which], x[:, :, None])  # (rows, r, 1)
    return scaling * torch.bmm(b[which], thin)[:, :, 0]


def _many_by_einsum(x, a, b, which, scaling):
    import torch

    return scaling * torch.einsum("nor,nri,ni->no", b[which], a[which], x)


def _many_by_loop(x, a, b, which, scaling):
    import torch

    return torch.stack([scaling * b[int(k)] @ (a[int(k)] @ row) for row, k in zip(x, which, strict=True)])


def _many_cases() -> tuple:
    import torch

    draw = torch.Generator().manual_seed(1)

    def case(rows, adapters, r, wide, out, which, scaling):
        def numbers(*shape):
            return torch.randn(shape, generator=draw, dtype=torch.float64)

        return (
            numbers(rows, wide),
            numbers(adapters, r, wide),
            numbers(adapters, out, r),
            torch.tensor(which),
            scaling,
        )

    return (
        case(4, 3, 2, 5, 6, [2, 0, 0, 1], 2.0),
        case(3, 3, 1, 4, 4, [1, 1, 2], 0.5),
        case(2, 2, 3, 4, 5, [1, 0], 1.0),
    )


def _many() -> Exercise:
    return Function(
        name="many",
        reference=_many_reference,
        also_right=(_many_by_einsum, _many_by_loop),
        cases=_many_cases(),
        because="`A[which]` gathers each row's own A, so one batched product serves them all.",
        source="import torch\n\n\ndef many(x, A, B, which, scaling):\n"
        "    thin = torch.bmm(A[which], x[:, :, None])  # (rows, r, 1)\n"
        "    return scaling * torch.bmm(B[which], thin)[:, :, 0]",
        hints=(
            "`A[which]` has the shape (rows, r, in): each row's own A.",
            "`torch.bmm` multiplies row by row; make x a stack of columns first: `x[:, :, None]` is (rows, in, 1).",
            "`thin = torch.bmm(A[which], x[:, :, None])`, then the same with `B[which]`, times scaling, and `[:, :, 0]`.",
        ),
        wrong=(
            WrongAnswer(
                "scaling-forgotten",
                lambda x, a, b, which, scaling: _many_reference(x, a, b, which, 1.0),
                "Right but for the scaling: alpha / r belongs before the product.",
            ),
            WrongAnswer(
                "first-adapter",
                lambda x, a, b, which, scaling: _many_reference(x, a, b, which * 0, scaling),
                "Every row gets adapter 0. Look at `which`: it names the adapter of each row.",
            ),
            WrongAnswer(
                "in-order",
                lambda x, a, b, which, scaling: _many_reference(
                    x, a, b, which.new_tensor(range(len(which))) % len(a), scaling
                ),
                "Row 0 gets adapter 0, row 1 adapter 1, and so on. Index the stacks with `which`.",
            ),
            WrongAnswer(
                "all-adapters",
                lambda x, a, b, which, scaling: scaling * (x @ a.sum(0).mT) @ b.sum(0).mT,
                "This adds all adapters up, cross terms and all, for every row. Each row gets one adapter: `A[which]`.",
            ),
        ),
    )


def _merge() -> Exercise:
    return Bar(
        name="merge",
        reference=lambda data: _partly(data, dict.fromkeys(TASKS, 0.9)),
        also_right=(lambda data: _partly(data, {"wires": 0.9, "articles": 0.95, "posts": 0.6}),),
        measure=_mean,
        bar={"laptop": REACH, "gpu": REACH},
        held_out=_validation,
        score_name="mean accuracy of the three tasks",
        measured_on="the validation texts",
        because="One adapter holds three tasks in part: what each keeps depends on how loudly the others speak.",
        hints=(
            "Look at the last plot: which way, at which weight, has the highest mean? `linear` at 1 is not it.",
            "`cat` adds up the products, with no cross terms. Begin with its best weight of the plot for all three.",
            "Print the three accuracies, and give the weakest task a larger weight.",
        ),
        source="shelf.add_weighted_adapter(list(sets), [0.5, 0.5, 0.5], 'mine', combination_type='cat')\n"
        "use('mine')\n"
        "answer = {task: predict(shelf, validation[task], task) for task in sets}",
        wrong=(
            WrongAnswer(
                "numbers-from-zero",
                lambda data: {
                    task: [label - data.first[task] for label in each] for task, each in data.labels.items()
                },
                "Your class numbers begin at 0 in each task. In the shared head, those of articles begin at 8 and those of "
                "posts at 13: take `predict`, which adds them.",
                when=lambda attempt: _from_zero(attempt.answer, attempt.held_out),
            ),
            WrongAnswer(
                "task-lost",
                lambda data: _partly(data, {"wires": 0.7, "articles": 0.7, "posts": 0.02}),
                "One of the tasks is lost: it is answered no better than by its most frequent topic. Print the three "
                "accuracies, and give that task a larger weight.",
                when=lambda attempt: not attempt.reached and _lost(attempt.answer, attempt.held_out),
            ),
        ),
    )
