"""The exercises of `labs/compare-techniques`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Attempt, Bar, Choice, Exercise, Function, WrongAnswer, part, share_right


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_memory(), _ninety_nine(), _front(), _less()]


def _memory() -> Exercise:
    return Choice(
        name="memory",
        reference="c",
        also_right=("C", " 'c'"),
        options={
            "a": "at most half of it",
            "b": "less, but more than half",
            "c": "about the same, or more",
        },
        because="What LoRA's and the prompt's step hold is nearly all weights and activations. The weights are the same, "
        "and 20 virtual tokens make each text of 24 tokens nearly twice as long, so that the activations grow.",
        hints=(
            "What lies in memory during a step: weights, gradients, optimiser states, activations. Which of them are large "
            "when next to nothing is trained?",
            "How many positions does a layer see per text with LoRA, and how many with a soft prompt of 20?",
        ),
        wrong=(
            WrongAnswer(
                "parameters-are-memory",
                "a",
                "The memory doesn't follow the trained parameters: gradients and optimiser states of both are tiny. What "
                "else is held, and is it smaller with a prompt?",
            ),
            WrongAnswer(
                "a-little-less",
                "b",
                "The prompt saves some gradients and optimiser states, which are well under 5 MiB of LoRA's. It also "
                "lengthens each text from 24 to 44 positions: what does that do to the activations?",
            ),
        ),
    )


def _ninety_nine() -> Exercise:
    return Choice(
        name="ninety-nine",
        reference="c",
        also_right=("C)", '"c"'),
        options={
            "a": "it is refuted",
            "b": "it is confirmed",
            "c": "neither; it takes more test texts or seeds to tell",
        },
        because="99 % lies inside the interval: the data agree with shares on both sides of it.",
        hints=(
            "Mark 96.9, 99 and 100.4 on a line. Which true shares would make this measurement no surprise?",
            'A claim of "at least 99" is confirmed if the whole interval lies above, refuted if the whole lies below.',
        ),
        wrong=(
            WrongAnswer(
                "the-mean-decides",
                "a",
                "98.6 is this draw's mean. With other seeds and texts it would be another, up to about 100.4, and that is "
                "more than 99.",
            ),
            WrongAnswer(
                "the-end-decides",
                "b",
                "The interval reaches beyond 99, and below it too. That it *may* be true is no confirmation.",
            ),
        ),
    )


# ---- The Pareto front -------------------------------------------------------------------------------


def _front_reference(points: dict[str, tuple[float, float]]) -> list[str]:
    def beaten(name: str) -> bool:
        cost, quality = points[name]
        return any(
            other[0] <= cost and other[1] >= quality and tuple(other) != (cost, quality)
            for other in points.values()
        )

    return sorted((name for name in points if not beaten(name)), key=lambda name: points[name][0])


def _all_sorted(points: dict) -> list[str]:
    return sorted(points, key=lambda name: points[name][0])


def _running_best(points: dict) -> list[str]:
    """Right, in another way: from the cheapest on, whoever is better than all before; equal ones together."""
    front, best = [], float("-inf")
    for name in sorted(points, key=lambda each: (points[each][0], -points[each][1])):
        cost, quality = points[name]
        if quality > best or (front and (cost, quality) == tuple(points[front[-1]])):
            front.append(name)
            best = max(best, quality)
    return front


def _cost_alone(points: dict) -> list[str]:
    return [min(points, key=lambda name: points[name][0])]


def _quality_alone(points: dict) -> list[str]:
    return [max(points, key=lambda name: points[name][1])]


def _cheap_is_bad(points: dict) -> list[str]:
    """As if a higher cost were better."""
    return _all_sorted({n: points[n] for n in _front_reference({n: (-c, q) for n, (c, q) in points.items()})})


def _dearest_first(points: dict) -> list[str]:
    return _front_reference(points)[::-1]


def _beats_itself(points: dict) -> list[str]:
    """Equal points count as beaten, and each point equals itself."""
    kept = [n for n, (c, q) in points.items() if not any(a <= c and b >= q for a, b in points.values())]
    return sorted(kept, key=lambda name: points[name][0])


def _front() -> Exercise:
    return Function(
        name="front",
        reference=_front_reference,
        also_right=(_running_best,),
        cases=(
            ({"full": (100, 0.90), "LoRA": (10, 0.89), "prompt": (1, 0.80)},),
            ({"full": (100, 0.90), "LoRA": (10, 0.91), "prompt": (1, 0.80), "adapters": (12, 0.85)},),
            ({"dear": (9, 0.5), "cheap": (2, 0.5), "best": (9, 0.7)},),
            ({"one": (3, 0.6)},),
            ({"b": (2, 0.7), "a": (1, 0.7), "c": (3, 0.9), "d": (3, 0.8), "e": (0.5, 0.1)},),
        ),
        source="def pareto_front(points):\n"
        "    def beaten(name):\n"
        "        cost, quality = points[name]\n"
        "        others = [each for each in points.values() if each != points[name]]\n"
        "        return any(c <= cost and q >= quality for c, q in others)\n\n"
        "    front = [name for name in points if not beaten(name)]\n"
        "    return sorted(front, key=lambda name: points[name][0])",
        because="A name stays if no other point costs at most as much, is at least as good, and differs from it.",
        hints=(
            "Write `beaten(name)` first: is there another point with a cost of at most this one's, and a quality of at "
            "least this one's?",
            "A point must not beat itself: ask that the two points differ.",
            "`sorted(names, key=lambda name: points[name][0])` sorts by cost.",
        ),
        wrong=(
            WrongAnswer(
                "cost-alone",
                _cost_alone,
                "Only the cheapest is there. Those that cost more and are better stay too.",
            ),
            WrongAnswer(
                "quality-alone",
                _quality_alone,
                "Only the best is there. One that costs less and is worse may stay too.",
            ),
            WrongAnswer(
                "all-of-them", _all_sorted, "All points are there, also those that another beats in both."
            ),
            WrongAnswer(
                "dear-is-good",
                _cheap_is_bad,
                "This is the front of those who like to pay: a lower cost is better, a higher quality is.",
            ),
            WrongAnswer(
                "dearest-first", _dearest_first, "The names are right. Sort them by cost, the cheapest first."
            ),
            WrongAnswer(
                "beats-itself",
                _beats_itself,
                "Every point is at most as costly as itself and at least as good: each one beats itself, and none is left.",
            ),
        ),
    )


# ---- With less --------------------------------------------------------------------------------------

SHARE = 0.0004  # of the model's numbers, the head included
REACH = 0.85
VALIDATION, SMOKE_VALIDATION, GPU_VALIDATION = 240, 16, 480


@dataclass(frozen=True)
class _Validation:
    """The labels of the validation texts, as the lesson draws them."""

    labels: list[int]


def _validation(scale: str) -> _Validation:
    from lessonkit.data import load_dataset

    rows = load_dataset("reuters-r8")["train"].shuffle(seed=1234)
    count = SMOKE_VALIDATION if scale == "smoke" else GPU_VALIDATION if scale == "gpu" else VALIDATION
    return _Validation(list(rows.select(range(count))["label"]))


def _part(answer: Any, name: str) -> Any:
    return part(answer, name, 'answer = {"model": yours, "predicted": predict(yours, validation)}')


def _counts(answer: Any) -> tuple[int, int]:
    """(trained, all) numbers."""
    parameters = getattr(_part(answer, "model"), "parameters", None)
    if parameters is None:
        raise ExerciseError("`model` must be the model that you trained.", fix='write `"model": yours`')
    sizes = [(each.numel(), each.requires_grad) for each in parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def _share(answer: Any) -> float:
    trained, everything = _counts(answer)
    return trained / max(1, everything)


def _right(answer: Any, validation: _Validation) -> float:
    _counts(answer)  # its complaint first, if the model is none
    return share_right(_part(answer, "predicted"), validation.labels)


def _one_class(attempt: Attempt) -> bool:
    predicted, count = _part(attempt.answer, "predicted"), len(attempt.held_out.labels)
    return any(share_right(predicted, [label] * count) == 1 for label in range(8))


def _mostly_right(labels: list[int], every: int) -> list[int]:
    """The labels, but that each so-many-th one is wrong."""
    return [(label + 1) % 8 if place % every == 0 else label for place, label in enumerate(labels)]


def _made(predicted: list[int], trained: int = 30, frozen: int = 100_000) -> dict[str, Any]:
    """An answer with a model of so many frozen numbers, and so many that are trained."""
    import torch
    from torch import nn

    model = nn.Module()
    model.base = nn.Parameter(torch.zeros(frozen), requires_grad=False)
    if trained:
        model.lora_A = nn.Parameter(torch.zeros(trained))
    return {"model": model, "predicted": predicted}


def _as_scores(validation: _Validation) -> dict[str, Any]:
    """Logits in place of classes."""
    import torch

    labels = torch.tensor(_mostly_right(validation.labels, 20))
    return _made(torch.nn.functional.one_hot(labels, 8) - 2.5)


def _less() -> Exercise:
    return Bar(
        name="less",
        reference=lambda data: _made(_mostly_right(data.labels, 20)),
        also_right=(_as_scores,),
        measure=_right,
        bar={"laptop": REACH, "gpu": REACH},
        held_out=_validation,
        measured_on="the validation texts",
        because="Half the soft prompt is enough for this task; what it lacks in numbers, steps make up.",
        hints=(
            "The head has 3,080 numbers in MiniLM, 0.014 % of it. LoRA on query and value has 6 layers x 2 matrices x 2 x "
            "384 x r numbers.",
            "With `r=1` on `value` alone the share is 0.034 %, with a soft prompt of 10 tokens 0.030 %. Does the loss still "
            "fall at the end? Then give it more epochs.",
            "`PromptTuningConfig(task_type=KIND, num_virtual_tokens=10)`, a rate of 5e-2 and four epochs.",
        ),
        source="small = PromptTuningConfig(task_type=KIND, num_virtual_tokens=10)\n"
        'yours = build("prompt tuning", 0, peft_config=small)\n'
        "lessonkit.run(trainer_for(yours, train[0], 5e-2, seed=0, epochs=4))\n"
        'answer = {"model": yours, "predicted": predict(yours, validation)}',
        wrong=(
            WrongAnswer(
                "too-many",
                lambda data: _made(_mostly_right(data.labels, 30), trained=500),
                "More than 0.04 % of the model's numbers are trained. Print `numbers(yours)[1] / total`; a lower rank, "
                "fewer target modules or a shorter prompt bring it down.",
                when=lambda attempt: _share(attempt.answer) > SHARE,
            ),
            WrongAnswer(
                "nothing-trained",
                lambda data: _made(_mostly_right(data.labels, 30), trained=0),
                "No number of this model is trainable. If it was merged or frozen after its training, pass it as it was in "
                "training.",
                when=lambda attempt: _counts(attempt.answer)[0] == 0,
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
                "Your model says the same of every text: its rate is far too high, or it has hardly been trained.",
                when=_one_class,
            ),
            WrongAnswer(
                "too-short",
                lambda data: _made(_mostly_right(data.labels, 3)),
                "Small enough, but not there yet. Does the loss still fall at the end? Then take more epochs.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )
