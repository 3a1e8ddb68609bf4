"""The exercises of `intermediate/lora`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import (
    Bar,
    Choice,
    Exercise,
    Function,
    Value,
    WrongAnswer,
    part,
    share_right,
)

GROUPS = 20
WEIGHT = (
    2.0**-5
)  # of the exercise on bf16; tests/test_lesson_intermediate_lora.py tries it on real bf16 numbers
LOST = 2.0**-13  # half of the distance to the next number above


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_energy(), _truncate(), _coupling(), _rescue(), _lost()]


def _energy() -> Exercise:
    return Choice(
        name="energy",
        reference="c",
        also_right=("(C)", "more than 32"),
        options={"a": "1 to 4", "b": "8 to 16", "c": "more than 32"},
        because="AdamW moves every weight by about the learning rate, so each of hundreds of directions gets a little, and "
        "together they hold much of the energy. What the task needs is another question.",
        hints=(
            "A step of AdamW moves every weight by about the learning rate, however small its gradient. Is the result "
            "likely to be simple?",
            "Run the next cell: it prints what each rank keeps.",
        ),
        wrong=(
            WrongAnswer(
                "as-lora-works",
                "a",
                "That LoRA works at rank 4 doesn't mean that full fine-tuning's change has rank 4. Look at what it keeps "
                "in the table below.",
            ),
            WrongAnswer(
                "usual-rank",
                "b",
                "8 and 16 are usual ranks for LoRA, but the tail of the singular values holds more than you expect: look at "
                "the table below.",
            ),
        ),
    )


# ---- The knife --------------------------------------------------------------------------------------


def _truncate_reference(matrix, r):
    import torch

    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :r] * s[:r]) @ vh[:r]


def _truncate_as_sum(matrix, r):
    """Term by term, as the text writes it."""
    import torch

    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    result = torch.zeros_like(matrix)
    for i in range(min(r, len(s))):
        result += s[i] * torch.outer(u[:, i], vh[i])
    return result


def _truncate_by_zeros(matrix, r):
    """The small singular values set to zero."""
    import torch

    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ torch.diag(torch.where(torch.arange(len(s)) < r, s, 0.0)) @ vh


def _no_values(matrix, r):
    import torch

    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :r] @ vh[:r]


def _smallest(matrix, r):
    import torch

    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, -r:] * s[-r:]) @ vh[-r:]


def _columns_of_vh(matrix, r):
    import torch

    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :r] * s[:r]) @ vh[:, :r].T


def _corner(matrix, r):
    import torch

    result = torch.zeros_like(matrix)
    result[:r, :r] = matrix[:r, :r]
    return result


def _rest(matrix, r):
    return matrix - _truncate_reference(matrix, r)


def _truncate() -> Exercise:
    import torch

    draw = torch.Generator().manual_seed(0)
    cases = tuple(
        (torch.randn((rows, columns), generator=draw), r)
        for rows, columns, r in ((4, 4, 1), (6, 4, 2), (3, 7, 2), (5, 5, 4))
    )
    return Function(
        name="truncate",
        reference=_truncate_reference,
        also_right=(_truncate_as_sum, _truncate_by_zeros),
        because="The first r terms s u vᵀ are the closest matrix of rank r that there is (Eckart and Young, 1936).",
        cases=cases,
        tolerance=1e-4,
        source="import torch\n\n\ndef truncate(matrix, r):\n"
        "    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)\n"
        "    return (u[:, :r] * s[:r]) @ vh[:r]",
        hints=(
            "Keep the first r columns of u, the first r of s, and the first r rows of vh.",
            "`torch.diag(s[:r])` makes an r x r matrix of the values. What shapes do the three products have?",
            "`u[:, :r] @ torch.diag(s[:r]) @ vh[:r]`",
        ),
        wrong=(
            WrongAnswer(
                "no-singular-values",
                _no_values,
                "The directions are right, but each counts the same. Each term is multiplied by its singular value: bring "
                "`s[:r]` in.",
            ),
            WrongAnswer(
                "the-smallest",
                _smallest,
                "These are the r smallest terms. torch gives the singular values from the largest down: take `[:r]`.",
            ),
            WrongAnswer(
                "columns-of-vh",
                _columns_of_vh,
                "`vh` is transposed already: its rows are the directions v. Take `vh[:r]`, with no `.T`.",
            ),
            WrongAnswer(
                "a-corner",
                _corner,
                "That keeps a corner of the matrix. Rank isn't about places: cut the sum of s u vᵀ, not the table.",
            ),
            WrongAnswer(
                "the-rest",
                _rest,
                "That is what the cut takes away. Return what stays.",
            ),
        ),
    )


def _coupling() -> Exercise:
    return Value(
        name="coupling",
        reference=1e-4,
        also_right=("0.0001", 1e-4 * 1.001),
        relative=0.02,
        because="alpha / r became four times as large, so what A and B learn counts four times; a quarter of the learning "
        "rate makes up for it, nearly: the head has no alpha, so then tune around it.",
        hints=(
            "By what factor does alpha / r change, from 16 / 16 to 64 / 16?",
            "In the right heat map, go one row down and find the cell with about the same length of change.",
            "One row down goes with one column to the left: alpha times 4, learning rate divided by 4.",
        ),
        wrong=(
            WrongAnswer(
                "unchanged",
                4e-4,
                "Then the change would grow about four times as fast as in the recipe. In the right heat map, compare "
                "a cell with the one below it.",
            ),
            WrongAnswer(
                "same-direction",
                1.6e-3,
                "Both knobs turned up multiply: alpha and the learning rate each make the change longer. Turn one down when "
                "the other goes up.",
            ),
            WrongAnswer(
                "square-root",
                2e-4,
                "A square root belongs to rsLoRA's rule for the rank. Here the rank stays, and alpha / r grows by 4: "
                "look at the diagonals of the right heat map.",
            ),
        ),
    )


# ---- A training of the learner's own ----------------------------------------------------------------

REACH = 0.5
SPOILED = 0.4  # below the head that each training starts from, by far
RANK = 64


@dataclass(frozen=True)
class _Validation:
    """The validation texts' labels, as section 1 draws them."""

    labels: list[int]


def _validation(scale: str) -> _Validation:
    from lessonkit.data import load_dataset

    count = {"smoke": 40, "laptop": 1000}.get(scale, 2000)
    rows = load_dataset("20newsgroups")["train"].shuffle(seed=0)
    return _Validation(list(rows.select(range(len(rows) - count, len(rows)))["label"]))


def _part(answer: Any, name: str) -> Any:
    return part(answer, name, 'answer = {"model": yours, "predicted": predict(yours, validation).argmax(-1)}')


def _ranks(answer: Any) -> dict[str, int]:
    """The rank of each adapter matrix A by its parameter's name, read off its rows."""
    model = _part(answer, "model")
    try:
        return {name: each.shape[0] for name, each in model.named_parameters() if "lora_A" in name}
    except (AttributeError, TypeError):
        what = "`model` must be the model that you trained."
        raise ExerciseError(what, fix='write `"model": yours`') from None


def _is_smaller(answer: Any) -> bool:
    """Whether a rank is lower than asked for, or only the attention's matrices have an adapter."""
    ranks = _ranks(answer)
    return min(ranks.values()) < RANK or not any("intermediate" in name for name in ranks)


def _accuracy(answer: Any, validation: _Validation) -> float:
    _ranks(answer)  # says so if there is no model
    return share_right(_part(answer, "predicted"), validation.labels)


def _partly_right(labels: Sequence[int], share: float) -> list[int]:
    """The labels, of which about that share is right."""
    return [
        label if place % 100 < 100 * share else (label + 1) % GROUPS for place, label in enumerate(labels)
    ]


def _made(predicted: Any, rank: int = RANK, modules: Sequence[str] = ("query", "intermediate")) -> dict:
    """An answer whose model has A matrices of that rank in these modules."""
    import torch

    model = torch.nn.ModuleDict({"classifier": torch.nn.Linear(4, GROUPS)})
    for name in modules:
        model[name] = torch.nn.ModuleDict({"lora_A": torch.nn.Linear(4, rank, bias=False)})
    return {"model": model, "predicted": predicted}


def _as_scores(validation: _Validation) -> dict[str, Any]:
    """The logits themselves."""
    import torch

    labels = torch.tensor(_partly_right(validation.labels, 0.6))
    return _made(torch.nn.functional.one_hot(labels, GROUPS) - 3.5)


def _rescue() -> Exercise:
    return Bar(
        name="rescue",
        reference=lambda data: _made(_partly_right(data.labels, 0.6)),
        also_right=(_as_scores,),
        measure=_accuracy,
        bar=REACH,
        held_out=_validation,
        measured_on="the validation texts",
        because="The rank was not at fault: at this scale, this many numbers want a lower learning rate.",
        hints=(
            "In section 5, what did a change that became far too long do to the accuracy? Which two knobs make it shorter?",
            "`length_of_change(yours)` says how long yours became. The good cells of the heat map are a few tenths of W at "
            "most. Go down with the learning rate in steps of 4.",
            "`train_lora('all-linear', 64, rate=LORA_RATE / 8)`",
        ),
        source="yours, run = train_lora('all-linear', 64, rate=LORA_RATE / 8)\n"
        "answer = {'model': yours, 'predicted': predict(yours, validation).argmax(-1)}",
        wrong=(
            WrongAnswer(
                "no-adapter",
                lambda data: _made(_partly_right(data.labels, 0.6), modules=()),
                "This model has no LoRA matrices. Pass the model as it is after training, not merged.",
                when=lambda attempt: not _ranks(attempt.answer),
            ),
            WrongAnswer(
                "another-adapter",
                lambda data: _made(_partly_right(data.labels, 0.6), modules=("query",)),
                "This is a smaller adapter than the one to rescue: keep `train_lora('all-linear', 64, ...)`, and change "
                "alpha or the learning rate.",
                when=lambda attempt: _is_smaller(attempt.answer),
            ),
            WrongAnswer(
                "the-labels",
                lambda data: _made(data.labels),
                "No honest model is that good with so few texts. Were the true labels passed in, or was the model trained "
                "on the validation texts?",
                when=lambda attempt: attempt.score > 0.95,
            ),
            WrongAnswer(
                "spoiled",
                lambda data: _made(_partly_right(data.labels, 0.2)),
                "That is worse than the head that training starts from: alpha times learning rate is still too high. Go "
                "further down.",
                when=lambda attempt: attempt.score < SPOILED,
            ),
            WrongAnswer(
                "too-timid",
                lambda data: _made(_partly_right(data.labels, 0.46)),
                "Not yet: it hardly got beyond the head that training starts from, or lost again what it won. Compare "
                "`length_of_change(yours)` with the heat map on the right: is it among the shortest changes there, or among "
                "the longest?",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )


def _lost() -> Exercise:
    return Value(
        name="lost",
        reference=LOST,
        also_right=("0.000122", 0.00012207),
        relative=0.01,
        because="The next number above lies 2⁻¹² away. What adds less than half of that is rounded back, and so is a tie.",
        hints=(
            "Which two numbers that bf16 knows does 2⁻⁵ plus a small change lie between?",
            "They are 2⁻⁵ and 2⁻⁵ + 2⁻¹². Rounding goes to the nearer one.",
            "Half of 2⁻¹².",
        ),
        wrong=(
            WrongAnswer(
                "whole-step",
                2.0**-12,
                "That is the distance to the next number: a change of that size is kept in full. Rounding goes to the "
                "nearer one, so where does it turn?",
            ),
            WrongAnswer(
                "below",
                2.0**-14,
                "Below 2⁻⁵ the numbers lie twice as close, so that is right for a negative change. The question is about a "
                "positive one.",
            ),
            WrongAnswer(
                "relative",
                2.0**-8,
                "That is relative to the weight: half a step is 2⁻⁸ of it. Multiply by the weight, 2⁻⁵.",
            ),
            WrongAnswer(
                "float16",
                2.0**-16,
                "That would be float16, which has 10 written digits. bf16 has 7: look at the line above the exercise.",
            ),
        ),
    )
