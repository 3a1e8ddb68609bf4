"""The exercises of `beginner/lora`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import (
    Attempt,
    Bar,
    Choice,
    Exercise,
    Function,
    Value,
    WrongAnswer,
    part,
    share_right,
)

# MiniLM, r = 8; tests/test_lesson_beginner_lora.py counts them anew on the model itself.
LAYERS, WIDTH, TOPICS, RANK = 6, 384, 8, 8
PAIR = RANK * WIDTH + WIDTH * RANK  # A and B of one matrix
HEAD = TOPICS * WIDTH + TOPICS
TRAINED = LAYERS * 2 * PAIR + HEAD


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_count(), _first_step(), _seconds(), _budget(), _merge()]


def _count() -> Exercise:
    return Value(
        name="count",
        reference=TRAINED,
        also_right=(float(TRAINED), f"{TRAINED}"),
        tolerance=0.5,
        because=f"A and B of one matrix have 8 x 384 + 384 x 8 = {PAIR:,} numbers; 6 layers x 2 matrices make "
        f"{12 * PAIR:,}, and the head has 8 x 384 + 8 = {HEAD:,}.",
        hints=(
            "A has the shape 8 x 384, B has 384 x 8. How many numbers are that for one matrix?",
            "6 layers, 2 matrices in each: twelve such pairs.",
            "Add the head: 8 x 384 weights and 8 biases.",
        ),
        wrong=(
            WrongAnswer(
                "no-head",
                12 * PAIR,
                "The thin matrices are counted right. The head is new, so it is trained as well: look at its 8 outputs.",
            ),
            WrongAnswer(
                "half",
                LAYERS * PAIR + HEAD,
                "That is half of the thin matrices. Two matrices in each layer get a pair, and a pair is an A *and* a B.",
            ),
            WrongAnswer(
                "one-layer",
                2 * PAIR + HEAD,
                "That is one layer's share, and the head. MiniLM has 6 layers.",
            ),
            WrongAnswer(
                "no-bias",
                12 * PAIR + TOPICS * WIDTH,
                "Nearly: each of the head's 8 outputs also has a bias, one number more.",
            ),
            WrongAnswer(
                "all-of-W",
                12 * WIDTH * WIDTH + HEAD,
                "That counts the 384 x 384 matrices themselves. They are frozen; count A (8 x 384) and B (384 x 8).",
            ),
            WrongAnswer(
                "product",
                12 * RANK * RANK + HEAD,
                "That takes r x r numbers for a matrix. A is r x 384 and B is 384 x r: each has a long side.",
            ),
        ),
    )


def _first_step() -> Exercise:
    return Choice(
        name="first-step",
        reference="c",
        also_right=("(C)", "only those of B"),
        options={"a": "those of A and of B", "b": "only those of A", "c": "only those of B", "d": "neither"},
        because="What A does reaches the loss only through B, which is zero; B's own gradient holds A x, which isn't.",
        hints=(
            "h = W x + 2 B (A x). Change one number of A a little, with B at zero: does h change?",
            "And now change one number of B a little. A x is not zero: does h change?",
        ),
        wrong=(
            WrongAnswer(
                "both",
                "a",
                "Both are trained, but ask whether h would change: a small change of A is multiplied by B, which is zero.",
            ),
            WrongAnswer(
                "only-A",
                "b",
                "It is the other way round. A's change is multiplied by B = 0 and lost; B's change is multiplied by A x.",
            ),
            WrongAnswer(
                "neither",
                "d",
                "Then it could never start. That would be so if A were zero as well: look at A in the picture.",
            ),
        ),
    )


def _seconds() -> Exercise:
    return Choice(
        name="seconds",
        reference="c",
        also_right=('"c"', "less, but more than a third"),
        options={
            "a": "about 0.34 % of the time",
            "b": "about a tenth",
            "c": "less, but more than a third",
            "d": "longer",
        },
        because="Every text still goes forward through the whole base, and gradients come back through its layers. Only "
        "the gradients of the frozen weights, and AdamW's work on them, fall away.",
        hints=(
            "A step is forward, backward, and AdamW's move. Which of these does a frozen weight spare?",
            "The forward pass costs as much as before. So the time can't fall to a tenth.",
        ),
        wrong=(
            WrongAnswer(
                "as-the-parameters",
                "a",
                "Time doesn't go with the number of trained parameters: each text still goes through all the frozen ones, "
                "forward and, for the gradients, back. Compare the seconds in the table below.",
            ),
            WrongAnswer(
                "a-tenth",
                "b",
                "The forward pass alone is about a third of a full step, and it is still all there.",
            ),
            WrongAnswer(
                "longer",
                "d",
                "A and B do add small products, but a frozen weight needs no gradient of its own and no move of AdamW: "
                "that saves more.",
            ),
        ),
    )


# ---- A training of the learner's own ----------------------------------------------------------------

BUDGET = {"smoke": 13_000, "laptop": 13_000, "gpu": 45_000}
REACH = 0.9


@dataclass(frozen=True)
class _Validation:
    """The validation texts' labels, as section 1 draws them."""

    labels: list[int]


def _validation(scale: str) -> _Validation:
    from lessonkit.data import load_dataset

    end = {"smoke": 5024}.get(scale, 5485)
    return _Validation(
        list(load_dataset("reuters-r8")["train"].shuffle(seed=0).select(range(5000, end))["label"])
    )


def _part(answer: Any, name: str) -> Any:
    return part(answer, name, 'answer = {"model": yours, "predicted": predict(yours, validation).argmax(-1)}')


def _accuracy(answer: Any, validation: _Validation) -> float:
    _trained(answer)  # says so if there is no model
    return share_right(_part(answer, "predicted"), validation.labels)


def _trained(answer: Any) -> int:
    model = _part(answer, "model")
    try:
        return sum(each.numel() for each in model.parameters() if each.requires_grad)
    except (AttributeError, TypeError):
        what = "`model` must be the model that you trained."
        raise ExerciseError(what, fix='write `"model": yours`') from None


def _budget_of(attempt: Attempt) -> int:
    return BUDGET.get(attempt.scale, BUDGET["laptop"])


def _one_topic(attempt: Attempt) -> bool:
    predicted, count = _part(attempt.answer, "predicted"), len(attempt.held_out.labels)
    return any(share_right(predicted, [topic] * count) == 1 for topic in range(TOPICS))


def _mostly_right(labels: Sequence[int], every: int) -> list[int]:
    """The labels, but that each so-many-th one is wrong."""
    return [(label + 1) % TOPICS if place % every == 0 else label for place, label in enumerate(labels)]


def _made(trained: int, predicted: Any) -> dict[str, Any]:
    """An answer whose model has so many trained parameters, and some frozen ones."""
    import torch

    model = torch.nn.ParameterList([torch.zeros(trained), torch.zeros(50_000)])
    model[0].requires_grad_(trained > 0)
    model[1].requires_grad_(False)
    return {"model": model, "predicted": predicted}


def _as_scores(validation: _Validation) -> dict[str, Any]:
    """The logits themselves."""
    import torch

    labels = torch.tensor(_mostly_right(validation.labels, 15))
    return _made(9_000, torch.nn.functional.one_hot(labels, TOPICS) - 3.5)


def _budget() -> Exercise:
    return Bar(
        name="budget",
        reference=lambda data: _made(12_296, _mostly_right(data.labels, 15)),
        also_right=(_as_scores,),
        measure=_accuracy,
        bar=REACH,
        held_out=_validation,
        measured_on="the validation texts",
        because="Rank 1 is enough for this task: one direction of change in each matrix, and the head.",
        hints=(
            f"The head takes {HEAD:,} of them. What is left for A and B, which take {12 * PAIR // RANK:,} for each rank?",
            "Only r = 1 fits the budget. One epoch of 800 texts is 50 steps: look at the loss, does it still fall?",
            "`lora_config(r=1)`, `LORA_RATE` and 6 epochs.",
        ),
        source="few = train_dataset.select(range(800))\n"
        "yours = get_peft_model(fresh_model(), lora_config(r=1))\n"
        "trainer = Trainer(yours, arguments(LORA_RATE, epochs=6), train_dataset=few, data_collator=collator)\n"
        "lessonkit.run(trainer)\n"
        "answer = {'model': yours, 'predicted': predict(yours, validation).argmax(-1)}",
        wrong=(
            WrongAnswer(
                "nothing-trained",
                lambda data: _made(0, _mostly_right(data.labels, 15)),
                "This model has no trained parameters. Pass the one that was trained, as it is after training, neither "
                "merged nor loaded from a file.",
                when=lambda attempt: _trained(attempt.answer) == 0,
            ),
            WrongAnswer(
                "over-budget",
                lambda data: _made(76_808, _mostly_right(data.labels, 15)),
                "More parameters are trained than the budget allows. `yours.print_trainable_parameters()` counts them; "
                "the count falls with the rank.",
                when=lambda attempt: _trained(attempt.answer) > _budget_of(attempt),
            ),
            WrongAnswer(
                "the-labels",
                lambda data: _made(12_296, data.labels),
                "Every single one right? No honest model manages that on this data. Were the true labels passed in, or was "
                "the model trained on the validation texts?",
                when=lambda attempt: attempt.score > 0.995,
            ),
            WrongAnswer(
                "one-topic",
                lambda data: _made(12_296, [2] * len(data.labels)),
                "Your model says the same topic of every text: it has not learned to tell them apart. Its learning rate is "
                "far too high, far too low, or its head is frozen; ours is in `LORA_RATE`.",
                when=_one_topic,
            ),
            WrongAnswer(
                "too-short",
                lambda data: _made(12_296, _mostly_right(data.labels, 5)),
                "It fits the budget and has learned something, but not enough yet. Look at the loss: if it still falls at "
                "the end, go through the texts more often; if it fell slowly, check that the rate is LoRA's, not that of "
                "full fine-tuning.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )


# ---- The merge --------------------------------------------------------------------------------------


def _merge_reference(weight, lora_a, lora_b, alpha):
    r = lora_a.shape[0]
    return weight + (alpha / r) * (lora_b @ lora_a)


def _merge_one_by_one(weight, lora_a, lora_b, alpha):
    """The same as a sum over the r directions."""
    result = weight.clone()
    for row in range(lora_a.shape[0]):
        result += alpha / lora_b.shape[1] * lora_b[:, row : row + 1] * lora_a[row : row + 1, :]
    return result


def _merge() -> Exercise:
    import torch

    draw = torch.Generator().manual_seed(0)

    def case(outputs: int, inputs: int, r: int, alpha: float) -> tuple:
        shapes = (outputs, inputs), (r, inputs), (outputs, r)
        return (*(torch.randint(-3, 4, shape, generator=draw).float() for shape in shapes), alpha)

    return Function(
        name="merge",
        reference=_merge_reference,
        also_right=(_merge_one_by_one,),
        because="B @ A has the shape of W, so the sum is one matrix that does what both paths did: "
        "(W + (alpha / r) B A) x = W x + (alpha / r) B A x.",
        cases=(case(3, 2, 2, 4), case(2, 2, 1, 2), case(4, 4, 2, 2), case(3, 5, 4, 1)),
        source="def merged(weight, lora_a, lora_b, alpha):\n    r = lora_a.shape[0]\n"
        "    return weight + (alpha / r) * (lora_b @ lora_a)",
        hints=(
            "h = W x + (alpha / r) B A x. Write it as one matrix times x.",
            "r isn't given: it is the number of rows of A: `lora_a.shape[0]`.",
            "`lora_b @ lora_a` has the shape (out, in), as W has; `lora_a @ lora_b` has not.",
        ),
        wrong=(
            WrongAnswer(
                "no-scale",
                lambda weight, lora_a, lora_b, alpha: weight + lora_b @ lora_a,
                "The change is added as it is. In training it counted alpha / r times: look at the formula of section 2.",
            ),
            WrongAnswer(
                "not-divided",
                lambda weight, lora_a, lora_b, alpha: weight + alpha * (lora_b @ lora_a),
                "You multiply by alpha. The scale is alpha / r, with r the number of rows of A.",
            ),
            WrongAnswer(
                "other-side",
                lambda weight, lora_a, lora_b, alpha: weight + alpha / lora_b.shape[0] * (lora_b @ lora_a),
                "You divide by the number of B's rows, which is the matrix's height. r is B's number of columns, and A's "
                "of rows.",
            ),
            WrongAnswer(
                "the-change-alone",
                lambda weight, lora_a, lora_b, alpha: alpha / lora_a.shape[0] * (lora_b @ lora_a),
                "That is the change alone. Merged, one matrix must do what W and the change did together.",
            ),
            WrongAnswer(
                "swapped",
                lambda weight, lora_a, lora_b, alpha: weight + alpha / lora_a.shape[0] * (lora_a @ lora_b),
                "A @ B applies B first, and has the shape (r, r) or none at all. x goes through A first, then B: that is "
                "`lora_b @ lora_a`.",
            ),
        ),
    )
