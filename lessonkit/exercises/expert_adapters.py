"""The exercises of `expert/adapters`."""

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


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_gate(), _shuffled(), _fuse(), _shared(), _upper()]


# ---- The gate of prefix tuning ----------------------------------------------------------------------


def _gate_reference(prefix, text):
    return (prefix.logsumexp(-1) - text.logsumexp(-1)).sigmoid()


def _gate_with_softmax(prefix, text):
    """The same: what the softmax over all gives to the prefix."""
    import torch

    return torch.cat([prefix, text]).softmax(-1)[: len(prefix)].sum()


def _gate_with_a_shift(prefix, text):
    most = max(float(prefix.max()), float(text.max()))
    a, b = (prefix - most).exp().sum(), (text - most).exp().sum()
    return float(a / (a + b))


def _gate_overflows(prefix, text):
    a, b = prefix.exp().sum(), text.exp().sum()
    return a / (a + b)


def _gate_of_the_text(prefix, text):
    return 1 - _gate_reference(prefix, text)


def _gate_as_ratio(prefix, text):
    return (prefix.logsumexp(-1) - text.logsumexp(-1)).exp()


def _gate_by_counting(prefix, text):
    return len(prefix) / (len(prefix) + len(text))


def _gate_of_raw_scores(prefix, text):
    return prefix.sum() / (prefix.sum() + text.sum())


def _gate_of_means(prefix, text):
    return (prefix.mean() - text.mean()).sigmoid()


def _gate() -> Exercise:
    import torch

    draw = torch.Generator().manual_seed(0)
    cases = (
        (torch.zeros(2), torch.tensor([1.0, 3.0]).log()),  # 2 / 6, as in the guide
        (torch.randn(8, generator=draw), 2 * torch.randn(12, generator=draw)),
        (torch.tensor([300.0, 299.0]), torch.tensor([301.0])),
    )
    return Function(
        name="gate",
        reference=_gate_reference,
        also_right=(_gate_with_softmax, _gate_with_a_shift),
        because="The share of a in a + b is the sigmoid of log a - log b, and `logsumexp` gives these logarithms without "
        "computing the exponentials themselves.",
        cases=cases,
        relative=1e-4,
        source="def gate(prefix, text):\n    return (prefix.logsumexp(-1) - text.logsumexp(-1)).sigmoid()",
        hints=(
            "Of one softmax over all the scores, which share do the prefix's get together?",
            "That is a / (a + b), with a the sum of exp over the prefix's scores and b over the text's.",
            "exp(300) is infinite in float32. Softmax over `torch.cat([prefix, text])` is safe; so are two `logsumexp`, "
            "since a / (a + b) is the sigmoid of log a - log b.",
        ),
        wrong=(
            WrongAnswer(
                "overflows",
                _gate_overflows,
                "The formula is right, but exp(300) is infinite in float32, and infinite through infinite is no number. "
                "Take the largest score away first, or use `logsumexp` or `softmax`.",
            ),
            WrongAnswer(
                "the-texts-share",
                _gate_of_the_text,
                "That is 1 - λ, the text's share. λ is the prefix's.",
            ),
            WrongAnswer(
                "ratio-not-share",
                _gate_as_ratio,
                "That is the prefix's exponentials through the text's. A share is through *both*: a / (a + b).",
            ),
            WrongAnswer(
                "counts-tokens",
                _gate_by_counting,
                "You count tokens. Each counts with the exponential of its score; that is how the gate differs from "
                "token to token.",
            ),
            WrongAnswer(
                "no-exponentials",
                _gate_of_raw_scores,
                "Those are shares of the scores themselves. Softmax takes their exponentials first.",
            ),
            WrongAnswer(
                "means-of-scores",
                _gate_of_means,
                "The mean of the scores is not the logarithm of the sum of their exponentials: take `logsumexp`.",
            ),
        ),
    )


# ---- Units without an order -------------------------------------------------------------------------


def _shuffled() -> Exercise:
    return Choice(
        name="shuffled",
        reference="c",
        also_right=("(c)", " C "),
        options={
            "a": "its answers change",
            "b": "neither its answers nor the average change",
            "c": "its answers stay, the average is another adapter",
        },
        because="The units' contributions are added up, in whatever order. But the average pairs unit 1 with another unit, "
        "and half of two different units is neither.",
        hints=(
            "What the adapter adds is a sum over its units: up's column times ReLU of down's row with h.",
            "So the order doesn't matter for the sum. Which units does the average put together?",
        ),
        wrong=(
            WrongAnswer(
                "order-matters",
                "a",
                "Rows of `down` and columns of `up` moved together, so each unit still writes what it wrote. A sum "
                "doesn't depend on the order.",
            ),
            WrongAnswer(
                "same-function-same-average",
                "b",
                "The two compute the same, but number by number they differ, and the average is taken number by number: "
                "it mixes unit 1 of the one with a stranger.",
            ),
        ),
    )


# ---- Fusion for one token ---------------------------------------------------------------------------


def _fuse_reference(h, z, q, k, v):
    s = ((z @ k.T) @ (q @ h)).softmax(-1)
    return s @ (z @ v.T)


def _fuse_value_last(h, z, q, k, v):
    s = (z @ (k.T @ (q @ h))).softmax(-1)
    return v @ (s @ z)


def _fuse_in_a_loop(h, z, q, k, v):
    import torch

    s = torch.stack([(q @ h) @ (k @ each) for each in z]).softmax(0)
    return sum(weight * (v @ each) for weight, each in zip(s, z, strict=True))


def _fuse_scaled(h, z, q, k, v):
    s = ((z @ k.T) @ (q @ h) / len(h) ** 0.5).softmax(-1)
    return s @ (z @ v.T)


def _fuse_no_value(h, z, q, k, v):
    return ((z @ k.T) @ (q @ h)).softmax(-1) @ z


def _fuse_mean(h, z, q, k, v):
    return (z @ v.T).mean(0)


def _fuse_no_softmax(h, z, q, k, v):
    return ((z @ k.T) @ (q @ h)) @ (z @ v.T)


def _fuse_transposed(h, z, q, k, v):
    s = ((z @ k) @ (h @ q)).softmax(-1)
    return s @ (z @ v)


def _fuse_hardest(h, z, q, k, v):
    return v @ z[((z @ k.T) @ (q @ h)).argmax()]


def _fuse() -> Exercise:
    import torch

    draw = torch.Generator().manual_seed(0)

    def case(d: int, adapters: int) -> tuple:
        shapes = ((d,), (adapters, d), (d, d), (d, d), (d, d))
        return tuple(torch.randn(*shape, generator=draw, dtype=torch.float64) / d**0.25 for shape in shapes)

    return Function(
        name="fuse",
        reference=_fuse_reference,
        also_right=(_fuse_value_last, _fuse_in_a_loop),
        because="Query from the frozen block's output, keys and values from the adapters' outputs, softmax over the "
        "adapters. V may also come after the sum: it is linear.",
        cases=(case(3, 2), case(5, 3), case(4, 1)),
        source="def fuse(h, z, Q, K, V):\n    scores = (z @ K.T) @ (Q @ h)  # (N,)\n"
        "    return scores.softmax(-1) @ (z @ V.T)",
        hints=(
            "The query is `Q @ h`. For all adapters at once, the keys are `z @ K.T`, shape (N, d).",
            "N scores: each key's dot product with the query. Softmax over them.",
            "The weights times the values `z @ V.T`, summed over the adapters: `weights @ (z @ V.T)`.",
        ),
        wrong=(
            WrongAnswer(
                "scaled",
                _fuse_scaled,
                "You divide the scores by the square root of d, as transformers do. AdapterFusion's formula has no such "
                "division.",
            ),
            WrongAnswer(
                "no-values",
                _fuse_no_value,
                "The weights are right, but the values aren't: V is applied to each adapter's output (or to their sum).",
            ),
            WrongAnswer(
                "averages",
                _fuse_mean,
                "You weight all adapters alike. The weights are the softmax of the scores between Q h and K z.",
            ),
            WrongAnswer(
                "no-softmax",
                _fuse_no_softmax,
                "The softmax over the adapters is missing: the weights must be positive and add up to 1.",
            ),
            WrongAnswer(
                "transposed",
                _fuse_transposed,
                "The matrices are used transposed. For one vector it is `K @ z_n`; for rows of vectors, `z @ K.T`.",
            ),
            WrongAnswer(
                "only-the-best",
                _fuse_hardest,
                "You take the adapter with the highest score alone. Softmax gives each its share, so that gradients reach "
                "all scores.",
            ),
        ),
    )


# ---- Shared lower layers ----------------------------------------------------------------------------


def _shared() -> Exercise:
    return Value(
        name="shared",
        reference=10 / 18,
        also_right=("55.6 %", 0.556, 0.5556),
        tolerance=0.002,
        because="Four layers run once, two run three times: 4 + 3 x 2 = 10 of 18.",
        hints=(
            "The lowest four layers give all three tasks the same, so they run once.",
            "The upper two run once for each task.",
            "4 + 3 x 2, divided by 3 x 6.",
        ),
        wrong=(
            WrongAnswer(
                "upper-run-once-too",
                6 / 18,
                "Above the shared layers each task has its own adapters, so the upper two run three times.",
            ),
            WrongAnswer(
                "passes-not-share",
                10,
                "That is the number of passes. The question asks for their share of 18.",
            ),
            WrongAnswer(
                "what-is-saved",
                8 / 18,
                "That is the share that is saved. The question asks for what is left.",
            ),
            WrongAnswer(
                "kept-and-dropped-swapped",
                (2 + 3 * 4) / 18,
                "You share the upper two layers. It is the lowest four that have no adapters, and so are alike for all.",
            ),
        ),
    )


# ---- Adapters in the upper half only ----------------------------------------------------------------

REACH = 0.65
FIRST = 0.5  # no adapter below this share of the layers
TRAIN, VALIDATION = 1300, 250
SMOKE_TRAIN, SMOKE_VALIDATION = 48, 32
OFFSET = 13  # the posts' first output


@dataclass(frozen=True)
class _Validation:
    """The outputs that stand for the posts' labels, as the lesson's `tokenized` draws them."""

    labels: list[int]


def _validation(scale: str) -> _Validation:
    from lessonkit.data import load_dataset

    start, count = (SMOKE_TRAIN, SMOKE_VALIDATION) if scale == "smoke" else (TRAIN, VALIDATION)
    rows = load_dataset("20newsgroups")["train"].shuffle(seed=0).select(range(start, start + count))
    return _Validation([OFFSET + label for label in rows["label"]])


def _part(answer: Any, name: str) -> Any:
    return part(answer, name, 'answer = {"model": yours, "predicted": predicted}')


def _layers(answer: Any) -> tuple[list[int], int, bool]:
    """The numbers of the layers with adapters, how many layers there are, and whether the base is trained."""
    named = getattr(_part(answer, "model"), "named_parameters", None)
    if named is None:
        raise ExerciseError("`model` must be the model that you trained.", fix='write `"model": yours`')
    adapted, numbers, base = set(), {-1}, False
    for name, parameter in named():
        _, found, after = name.partition("encoder.layer.")
        if not found:
            base |= parameter.requires_grad and "classifier" not in name
            continue
        number = int(after.split(".")[0])
        numbers.add(number)
        if ".adapters." in name:
            adapted.add(number)
        else:
            base |= parameter.requires_grad
    return sorted(adapted), max(numbers) + 1, base


def _right(answer: Any, validation: _Validation) -> float:
    _layers(answer)  # its complaint first, if the model is none
    return share_right(_part(answer, "predicted"), validation.labels)


def _too_low(attempt: Attempt) -> bool:
    adapted, count, _ = _layers(attempt.answer)
    return bool(adapted) and adapted[0] < FIRST * count


def _task_not_told(attempt: Attempt) -> bool:
    from lessonkit.exercises.plain import Grid, plain

    found = plain(_part(attempt.answer, "predicted"))
    numbers = found.array.ravel().tolist() if isinstance(found, Grid) and found.array.ndim == 1 else found
    return isinstance(numbers, list) and all(number < 20 for number in numbers) and min(numbers) < OFFSET


def _one_class(attempt: Attempt) -> bool:
    predicted, count = _part(attempt.answer, "predicted"), len(attempt.held_out.labels)
    return any(share_right(predicted, [OFFSET + label] * count) == 1 for label in range(20))


def _mostly_right(labels: list[int], every: int) -> list[int]:
    """The labels, but that each so-many-th one is wrong."""
    return [
        OFFSET + (label - OFFSET + 1) % 20 if place % every == 0 else label
        for place, label in enumerate(labels)
    ]


def _made(predicted: Any, adapted: tuple[int, ...] = (3, 4, 5), base_trains: bool = False) -> dict:
    """An answer with a model of six small layers, adapters in some of them."""
    from torch import nn

    model = nn.Module()
    model.bert, model.classifier = nn.Module(), nn.Linear(4, 33)
    model.bert.encoder = nn.Module()
    model.bert.encoder.layer = nn.ModuleList()
    for number in range(6):
        layer = nn.Module()
        layer.dense = nn.Linear(4, 4).requires_grad_(base_trains)
        if number in adapted:
            layer.dense.add_module("adapters", nn.Linear(4, 2))
        model.bert.encoder.layer.append(layer)
    return {"model": model, "predicted": predicted}


def _as_array(validation: _Validation) -> dict:
    import numpy as np

    return _made(np.array(_mostly_right(validation.labels, 4)), adapted=(5,))


def _upper() -> Exercise:
    return Bar(
        name="upper",
        reference=lambda data: _made(_mostly_right(data.labels, 4)),
        also_right=(_as_array,),
        measure=_right,
        bar={"laptop": REACH, "gpu": REACH},
        held_out=_validation,
        measured_on="the posts' validation texts",
        because="The upper layers' adapters are enough for this, and each training step costs less.",
        hints=(
            "Look at the loss at the end of your training: does it still fall? Then take more steps.",
            '1,300 texts are few. `tokenized("posts", "train", TRAIN_TEXTS + VALIDATION_TEXTS, 3000)` gives others.',
            "Width 64, 3,000 other texts, and twice `STEPS` or more.",
        ),
        source='more = tokenized("posts", "train", TRAIN_TEXTS + VALIDATION_TEXTS, 3000)\n'
        "yours = fresh_model()\n"
        'add_adapter(yours, "upper", bottleneck=64, layers=range(half, len(layers)))\n'
        "train(yours, more, steps=2 * STEPS)\n"
        'predicted = answers(logits_of(yours, validation["posts"]), "posts")\n'
        'answer = {"model": yours, "predicted": predicted}',
        wrong=(
            WrongAnswer(
                "base-trains",
                lambda data: _made(_mostly_right(data.labels, 4), base_trains=True),
                "The base model is trainable in your model. `add_adapter` freezes it; was it thawed afterwards?",
                when=lambda attempt: _layers(attempt.answer)[2],
            ),
            WrongAnswer(
                "adapters-below",
                lambda data: _made(_mostly_right(data.labels, 4), adapted=(2, 3, 4, 5)),
                "There are adapters in the lower half, so the backward pass goes down to them. Pass "
                "`layers=range(half, len(layers))`, to a fresh model.",
                when=_too_low,
            ),
            WrongAnswer(
                "no-adapter",
                lambda data: _made(_mostly_right(data.labels, 3), adapted=()),
                "There is no adapter in your model: only its head was trained. Call `add_adapter` before `train`.",
                when=lambda attempt: not _layers(attempt.answer)[0],
            ),
            WrongAnswer(
                "the-labels",
                lambda data: _made(list(data.labels)),
                "Nearly every one right? No honest model manages that here. Were the true labels passed in, or was it "
                "trained on the validation texts?",
                when=lambda attempt: attempt.score > 0.95,
            ),
            WrongAnswer(
                "numbers-of-the-task",
                lambda data: _made([label - OFFSET for label in _mostly_right(data.labels, 4)]),
                "Those are numbers from 0 to 19. The posts' outputs are 13 to 32: take "
                '`answers(logits_of(yours, validation["posts"]), "posts")`.',
                when=_task_not_told,
            ),
            WrongAnswer(
                "one-class",
                lambda data: _made([OFFSET + 2] * len(data.labels)),
                "Your model says the same of every text. Was it trained? Look at its losses.",
                when=_one_class,
            ),
            WrongAnswer(
                "too-short",
                lambda data: _made(
                    [label if place % 5 == 0 else OFFSET for place, label in enumerate(data.labels)]
                ),
                "Adapters are where they should be, the accuracy is not there yet. More steps, more texts, or a wider "
                "bottleneck: look which of them moves it.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )
