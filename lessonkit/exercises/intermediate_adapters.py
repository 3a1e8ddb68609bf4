"""The exercises of `intermediate/adapters`."""

from __future__ import annotations

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

# MiniLM; tests/test_lesson_intermediate_adapters.py counts them anew in the model.
LAYERS, HIDDEN = 6, 384


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_count(), _first_gradient(), _small(), _stacked(), _extra_work()]


def _numbers(adapters: int, bottleneck: int, biases: bool = True) -> int:
    """Of so many adapters."""
    return adapters * (2 * HIDDEN * bottleneck + biases * (bottleneck + HIDDEN))


def _count() -> Exercise:
    return Value(
        name="count",
        reference=_numbers(2 * LAYERS, 16),
        also_right=(152256.0, "152256"),
        tolerance=0.5,
        because="Twelve adapters (two in each of six layers), each with 2 x 384 x 16 weights and 16 + 384 biases: "
        "12 x 12,688 = 152,256.",
        hints=(
            "How many adapters does Houlsby put into one layer? And into six?",
            "One adapter: `down` has 384 x 16 weights and 16 biases, `up` has 16 x 384 weights and 384 biases.",
            "One adapter has 12,688 numbers. Multiply by the number of adapters.",
        ),
        wrong=(
            WrongAnswer(
                "one-per-layer",
                _numbers(LAYERS, 16),
                "That is Pfeiffer's: one adapter in each layer. Look at the picture: Houlsby has two.",
            ),
            WrongAnswer(
                "no-biases",
                _numbers(2 * LAYERS, 16, biases=False),
                "Those are the weights alone. `nn.Linear` has biases too: 16 in `down` and 384 in `up`, in each adapter.",
            ),
            WrongAnswer(
                "one-adapter",
                _numbers(1, 16),
                "That is a single adapter. Count how many of them there are in six layers.",
            ),
            WrongAnswer(
                "one-layer",
                _numbers(2, 16),
                "Those are the two adapters of one layer. MiniLM has six layers.",
            ),
            WrongAnswer(
                "one-direction",
                2 * LAYERS * (HIDDEN * 16 + 16),
                "That counts `down` only. `up` leads back from 16 to 384.",
            ),
        ),
    )


def _first_gradient() -> Exercise:
    return Choice(
        name="first-gradient",
        reference="b",
        also_right=(" B)", "'b'."),
        options={"a": "both", "b": "only `up`", "c": "only `down`", "d": "neither"},
        because="`up`'s gradient contains what `down` and ReLU put out, which is not zero; `down`'s passes through "
        "`up`, which is. After the first step `up` is no longer zero, and both learn.",
        hints=(
            "Put U = 0 into the two gradients written above.",
            "`up`'s gradient is g times f(Dh): is anything in it zero? `down`'s contains U's transpose times g.",
        ),
        wrong=(
            WrongAnswer(
                "nothing-is-in-the-way",
                "a",
                "The gradient of `down` comes back through `up`: it is multiplied by U, and U is zero.",
            ),
            WrongAnswer(
                "the-other-way-round",
                "c",
                "It is the other way round: a matrix's gradient is made of what went *into* it, and into `up` went f(Dh), "
                "which is not zero.",
            ),
            WrongAnswer(
                "zero-cannot-learn",
                "d",
                "Zero weights can learn: a weight's gradient does not contain the weight itself. Look at the formula for "
                "`up`.",
            ),
        ),
    )


# ---- A small adapter of the learner's own -----------------------------------------------------------

SHARE = 0.0025  # of all the model's numbers, the head included
REACH = 0.85
BBC_VALIDATION = 300
SMOKE_VALIDATION = 32


@dataclass(frozen=True)
class _Validation:
    """The labels of the BBC validation texts, as the lesson's `prepare` draws them."""

    labels: list[int]


def _validation(scale: str) -> _Validation:
    from lessonkit.data import load_dataset

    rows = load_dataset("bbc-news")["train"].shuffle(seed=0)
    count = SMOKE_VALIDATION if scale == "smoke" else BBC_VALIDATION
    return _Validation(list(rows.select(range(len(rows) - count, len(rows)))["label"]))


def _part(answer: Any, name: str) -> Any:
    return part(answer, name, 'answer = {"model": yours, "predicted": predict(yours, bbc["validation"])}')


def _share(answer: Any) -> float:
    """Of the model's numbers, those that are trained: adapters by their names, and the head; frozen again or not."""
    parameters = getattr(_part(answer, "model"), "named_parameters", None)
    if parameters is None:
        what = "`model` must be the model that you trained."
        raise ExerciseError(what, fix='write `"model": yours`')
    counts = [
        (each.numel(), each.requires_grad or ".adapters." in name or name.startswith("classifier."))
        for name, each in parameters()
    ]
    return sum(count for count, trained in counts if trained) / max(1, sum(count for count, _ in counts))


def _has_adapter(answer: Any) -> bool:
    return any(".adapters." in name for name, _ in _part(answer, "model").named_parameters())


def _right(answer: Any, validation: _Validation) -> float:
    _share(answer)  # its complaint first, if the model is none
    return share_right(_part(answer, "predicted"), validation.labels)


def _one_class(attempt: Attempt) -> bool:
    predicted, count = _part(attempt.answer, "predicted"), len(attempt.held_out.labels)
    return any(share_right(predicted, [label] * count) == 1 for label in range(5))


def _mostly_right(labels: list[int], every: int) -> list[int]:
    """The labels, but that each so-many-th one is wrong."""
    return [(label + 1) % 5 if place % every == 0 else label for place, label in enumerate(labels)]


def _made(
    predicted: list[int], adapter: int = 200, base_trains: bool = False, inside: str = "adapters"
) -> dict:
    """An answer with a model of 100,000 frozen numbers, a head of 10, and an adapter of so many."""
    import torch
    from torch import nn

    projection = nn.Module()
    projection.weight = nn.Parameter(torch.zeros(100_000), requires_grad=base_trains)
    if adapter:
        projection.add_module(inside, nn.Module())
        getattr(projection, inside).down = nn.Parameter(torch.zeros(adapter))
    model, head = nn.Module(), nn.Module()
    head.weight = nn.Parameter(torch.zeros(10))  # drawn from no chance, which a check must leave alone
    model.dense, model.classifier = projection, head
    return {"model": model, "predicted": predicted}


def _as_scores(validation: _Validation) -> dict[str, Any]:
    """Logits in place of classes."""
    import torch

    labels = torch.tensor(_mostly_right(validation.labels, 20))
    return _made(torch.nn.functional.one_hot(labels, 5) - 2.5)


def _frozen_again(validation: _Validation) -> dict[str, Any]:
    """After `set_active(model, "small", train=[])`: a small adapter all the same."""
    answer = _made(_mostly_right(validation.labels, 20))
    answer["model"].requires_grad_(False)
    return answer


def _small() -> Exercise:
    return Bar(
        name="small",
        reference=lambda data: _made(_mostly_right(data.labels, 20)),
        also_right=(_as_scores, _frozen_again),
        measure=_right,
        bar={"laptop": REACH, "gpu": REACH},
        held_out=_validation,
        measured_on="the BBC validation texts",
        because="A narrow bottleneck is enough for this task: width costs numbers and brings little here.",
        hints=(
            "Print `count_parameters(yours).trainable_share`: with a width of 64 it is above 0.0025. The width enters "
            "nearly in proportion.",
            "Look at the loss: if it still falls at the end of an epoch, give it more epochs.",
            "Width 8, and three to five epochs at the lesson's learning rate.",
        ),
        source='bbc = tasks["bbc-news"]\n'
        "yours = fresh_model(labels=5)\n"
        'add_adapter(yours, "small", bottleneck=lesson.pick(smoke=8, laptop=8, gpu=12))\n'
        'train(yours, bbc["train"], epochs=4)\n'
        'answer = {"model": yours, "predicted": predict(yours, bbc["validation"])}',
        wrong=(
            WrongAnswer(
                "everything-trains",
                lambda data: _made(_mostly_right(data.labels, 30), base_trains=True),
                "The base model is trainable in your model, so this is full fine-tuning. `add_adapter` freezes the base; "
                "was it thawed afterwards?",
                when=lambda attempt: _share(attempt.answer) > 0.5,
            ),
            WrongAnswer(
                "too-wide",
                lambda data: _made(_mostly_right(data.labels, 30), adapter=1000),
                "More than 0.25 % of the model's numbers are trained. Take a smaller bottleneck, or fewer layers, and look "
                "at `count_parameters(yours).trainable_share`.",
                when=lambda attempt: _share(attempt.answer) > SHARE,
            ),
            WrongAnswer(
                "no-adapter",
                lambda data: _made(_mostly_right(data.labels, 10), adapter=0),
                "There is no adapter in your model: only its head was trained. Call `add_adapter` before `train`.",
                when=lambda attempt: not _has_adapter(attempt.answer),
            ),
            WrongAnswer(
                "the-labels",
                lambda data: _made(list(data.labels)),
                "Every single one right? No honest model manages that here. Were the true labels passed in, or was it "
                "trained on the validation texts?",
                when=lambda attempt: attempt.score > 0.995,
            ),
            WrongAnswer(
                "one-class",
                lambda data: _made([2] * len(data.labels)),
                "Your model says the same of every text. Its learning rate is far too high or far too low: look at the "
                "losses, and begin with `LEARNING_RATE`.",
                when=_one_class,
            ),
            WrongAnswer(
                "too-short",
                lambda data: _made(_mostly_right(data.labels, 3)),
                "The size is right, the accuracy is not there yet. Look at the loss: if it still falls at the end, go "
                "through the texts more often.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )


# ---- Stacking ---------------------------------------------------------------------------------------


def _stacked_reference(h, adapters):
    import numpy as np

    for down, up in adapters:
        h = h + up @ np.maximum(down @ h, 0)
    return h


def _stacked_by_recursion(h, adapters):
    """The same, written as the lowest first and the rest on top of it."""
    if not len(adapters):
        return h
    down, up = adapters[0]
    narrow = down @ h
    return _stacked_by_recursion(h + up @ (narrow * (narrow > 0)), adapters[1:])


def _side_by_side(h, adapters):
    import numpy as np

    return h + sum((up @ np.maximum(down @ h, 0) for down, up in adapters), np.zeros_like(h))


def _without_residual(h, adapters):
    import numpy as np

    for down, up in adapters:
        h = up @ np.maximum(down @ h, 0)
    return h


def _without_relu(h, adapters):
    for down, up in adapters:
        h = h + up @ (down @ h)
    return h


def _from_the_top(h, adapters):
    return _stacked_reference(h, adapters[::-1])


def _stacked() -> Exercise:
    import numpy as np

    draws = np.random.default_rng(0)
    pairs = [(draws.normal(size=(m, 4)), draws.normal(size=(4, m))) for m in (2, 3, 2)]
    h = draws.normal(size=4)
    return Function(
        name="stacked",
        reference=_stacked_reference,
        also_right=(_stacked_by_recursion,),
        because="Each adapter reads what the one below it puts out, so their order matters.",
        cases=((h, pairs[:1]), (h, pairs[:2]), (h, pairs[1:]), (-h, pairs), (h, [])),
        source="import numpy as np\n\n\ndef stacked(h, adapters):\n    for down, up in adapters:\n"
        "        h = h + up @ np.maximum(down @ h, 0)\n    return h",
        hints=(
            "One adapter is `h + up @ np.maximum(down @ h, 0)`.",
            "Go through the list; what comes out of one adapter goes into the next.",
            "Give `h` its new value in the loop: `h = h + ...`, and return it at the end.",
        ),
        wrong=(
            WrongAnswer(
                "side-by-side",
                _side_by_side,
                "All your adapters read the same `h`, and their changes are added: they stand side by side. In a stack "
                "the second reads what the first puts out.",
            ),
            WrongAnswer(
                "no-residual",
                _without_residual,
                "The residual is missing: an adapter adds its change to what came in. Look at `forward` in section 2.",
            ),
            WrongAnswer(
                "no-relu",
                _without_relu,
                "The ReLU is missing. Without it an adapter is a matrix, and could be merged.",
            ),
            WrongAnswer(
                "from-the-top",
                _from_the_top,
                "You begin with the last one. The first in the list is the lowest: it reads `h` itself.",
            ),
        ),
    )


def _extra_work() -> Exercise:
    return Value(
        name="extra-work",
        reference=64 / (6 * HIDDEN),
        also_right=("2.8 %", 0.0278, 49152 / 1769472),
        relative=0.02,
        because="2 d m / 12 d^2 = m / (6 d) = 64 / 2,304, or 2.8 %: one adapter in each layer.",
        hints=(
            "Both numbers are per layer and token, and Pfeiffer has one adapter in a layer.",
            "Divide 2 d m by 12 d^2; one d falls out.",
        ),
        wrong=(
            WrongAnswer(
                "both-places",
                2 * 64 / (6 * HIDDEN),
                "That is Houlsby's share, with two adapters in a layer. Pfeiffer has one.",
            ),
            WrongAnswer(
                "all-layers",
                LAYERS * 64 / (6 * HIDDEN),
                "You set six layers' adapters against one layer. Compare layer with layer.",
            ),
            WrongAnswer(
                "one-matrix",
                32 / (6 * HIDDEN),
                "An adapter multiplies twice: d m numbers on the way down, and d m on the way up.",
            ),
            WrongAnswer(
                "percent",
                100 * 64 / (6 * HIDDEN),
                "That's in per cent. A number between 0 and 1 is asked for.",
            ),
            WrongAnswer(
                "multiplications",
                49152,
                "That is how many there are more. The question asks for their share of the layer's 12 d^2.",
            ),
        ),
    )
