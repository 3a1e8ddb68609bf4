"""The exercises of `beginner/prompt-tuning`."""

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

# SmolLM2-135M; tests/test_lesson_beginner_prompt_tuning.py computes these anew from the model and the tokenizer.
QUESTION_TOKENS, HIDDEN, VOCABULARY, PARAMETERS = 18, 576, 49_152, 134_515_008
STEPS, FULL_RATE = 40, 2e-4


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_count(), _reach(), _cosines(), _reading(), _five_tokens()]


def _count() -> Exercise:
    return Value(
        name="count",
        reference=QUESTION_TOKENS * HIDDEN,
        also_right=(float(QUESTION_TOKENS * HIDDEN), "10368"),
        because=f"{QUESTION_TOKENS} virtual tokens of {HIDDEN} numbers each: under a hundredth of a per cent of the "
        "model, and not one of the model's own numbers among them.",
        hints=(
            "A virtual token is one row of the prompt's matrix. How many numbers does a row hold?",
            "Section 2 prints the question's shape as (its tokens, numbers for each).",
            f"Multiply the two: {QUESTION_TOKENS} times {HIDDEN}.",
        ),
        wrong=(
            WrongAnswer(
                "tokens-only",
                QUESTION_TOKENS,
                "That's how many virtual tokens there are. Each is a vector, so count the numbers in each: look at the "
                "second number of the shape.",
            ),
            WrongAnswer(
                "one-vector",
                HIDDEN,
                "That's one virtual token's vector. The question has several tokens: look at the first number of its "
                "shape.",
            ),
            WrongAnswer(
                "whole-table",
                VOCABULARY * HIDDEN,
                "That's the whole embedding matrix, a row for each token of the vocabulary. It is frozen; only the "
                "prompt's own rows are trained.",
            ),
            WrongAnswer(
                "with-the-model",
                PARAMETERS + QUESTION_TOKENS * HIDDEN,
                "That counts the model, too. It is frozen: only the prompt is trained.",
            ),
            WrongAnswer(
                "vocabulary",
                QUESTION_TOKENS * VOCABULARY,
                "A row of the prompt is a vector that the layers read, not a score for each token of the vocabulary: "
                "take the second number of the shape.",
            ),
        ),
    )


def _reach() -> Exercise:
    return Value(
        name="reach",
        reference=STEPS * FULL_RATE,
        also_right=(0.008, "0.008"),
        relative=0.05,
        because=f"{STEPS} steps of {FULL_RATE:g}, all in the same direction. The numbers in SmolLM2's word vectors "
        "have a standard deviation of 0.14, so that is a small fraction of what tells one word from another.",
        hints=(
            "Suppose that all the steps go in the same direction: that is the farthest it can get.",
            f"{STEPS} times {FULL_RATE:g}.",
        ),
        wrong=(
            WrongAnswer(
                "one-step",
                FULL_RATE,
                f"That's a single step. There are {STEPS} of them, and at the farthest all go the same way.",
            ),
            WrongAnswer(
                "hundred-times",
                STEPS * 100 * FULL_RATE,
                "That would be with the rate that comes next, 100 times larger. The question is about 2e-4.",
            ),
            WrongAnswer(
                "random-walk",
                STEPS**0.5 * FULL_RATE,
                "That's how far it typically gets if each step's direction is a coin toss. The farthest is where all "
                "steps agree: multiply by the number of steps, not by its square root.",
            ),
            WrongAnswer(
                "whole-vector",
                STEPS * FULL_RATE * HIDDEN,
                "You've added up all the numbers of a vector. The question is about one number.",
            ),
        ),
    )


def _cosines_reference(vector, table):
    def length(numbers):
        return sum(x * x for x in numbers) ** 0.5

    return [
        sum(x * y for x, y in zip(vector, row, strict=True)) / (length(vector) * length(row)) for row in table
    ]


def _cosines_of_arrays(vector, table):
    """The same by arrays, which is how many would write it."""
    import numpy as np

    vector, table = np.asarray(vector, dtype=float), np.asarray(table, dtype=float)
    return (table @ vector / np.linalg.norm(vector) / np.linalg.norm(table, axis=1)).tolist()


def _products(vector, table):
    return [sum(x * y for x, y in zip(vector, row, strict=True)) for row in table]


def _by_rows_length_only(vector, table):
    return [
        product / sum(x * x for x in row) ** 0.5
        for product, row in zip(_products(vector, table), table, strict=True)
    ]


def _by_squares(vector, table):
    own = sum(x * x for x in vector)
    return [
        product / (own * sum(x * x for x in row))
        for product, row in zip(_products(vector, table), table, strict=True)
    ]


def _distances(vector, table):
    return [sum((x - y) ** 2 for x, y in zip(vector, row, strict=True)) ** 0.5 for row in table]


def _cosines_by_torch(vector, table):
    import torch

    return torch.nn.functional.cosine_similarity(table, vector[None], dim=1)


def _cosines_by_product(vector, table):
    return table @ vector / (vector.norm() * table.norm(dim=1))


def _cosines() -> Exercise:
    import torch

    return Function(
        name="cosines",
        reference=_cosines_reference,
        also_right=(_cosines_of_arrays, _cosines_by_torch, _cosines_by_product),
        because="Dividing by both lengths leaves the direction alone: twice as long a vector has the same cosines.",
        cases=tuple(  # tensors, which loops, NumPy and PyTorch can all read
            (torch.tensor(vector), torch.tensor(table))
            for vector, table in (
                ([1.0, 0.0], [[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]),
                ([3.0, 4.0], [[6.0, 8.0], [4.0, 3.0]]),
                ([0.5, -1.0, 2.0], [[1.0, 1.0, 1.0], [-0.5, 1.0, -2.0], [0.0, 2.0, 1.0]]),
            )
        ),
        tolerance=1e-6,
        relative=1e-5,  # float32
        source="def cosines(vector, table):\n    length = lambda numbers: sum(x * x for x in numbers) ** 0.5\n"
        "    return [\n        sum(x * y for x, y in zip(vector, row)) / (length(vector) * length(row))\n"
        "        for row in table\n    ]",
        hints=(
            "The length of a vector is the square root of the sum of its squares.",
            "For one row: `sum(x * y for x, y in zip(vector, row))`, divided by both lengths.",
            "Do that in a list, `[... for row in table]`, and return the list.",
        ),
        wrong=(
            WrongAnswer(
                "dot-product",
                _products,
                "That's the dot product: longer vectors win. Divide it by the lengths of both.",
            ),
            WrongAnswer(
                "one-length",
                _by_rows_length_only,
                "You divide by the row's length only, so the result grows with `vector`: a vector's cosine with "
                "itself must be 1. Divide by the length of `vector`, too.",
            ),
            WrongAnswer(
                "no-root",
                _by_squares,
                "You divide by the sums of squares; a length is the square *root* of that.",
            ),
            WrongAnswer(
                "distance",
                _distances,
                "That's the distance: small where vectors are alike. The cosine is 1 for the same direction.",
            ),
        ),
    )


def _reading() -> Exercise:
    return Choice(
        name="reading",
        reference="c",
        also_right=("C)", "nothing yet: look at what the model does with the prompt"),
        options={
            "a": "the prompt tells the model to delete and refund",
            "b": "the training failed",
            "c": "nothing yet: look at what the model does with the prompt",
            "d": "replace the vectors by these words",
        },
        because="The nearest words are not what the prompt does. What it does is measured on texts.",
        hints=(
            "What happened above when the learned vectors were replaced by their nearest words?",
            "How near are the nearest words of pure noise?",
        ),
        wrong=(
            WrongAnswer(
                "words-are-the-prompt",
                "a",
                "The vector is not the word. Look at the table above: the nearest words, put in its place, did not do "
                "what the vectors do.",
            ),
            WrongAnswer(
                "words-as-a-test",
                "b",
                "The prompt that started from noise had unrelated words, too. Whether a training failed is told by its "
                "score, so look at that.",
            ),
            WrongAnswer(
                "words-instead",
                "d",
                "We did just that above. Look at what it did to the share of right answers.",
            ),
        ),
    )


# ---- A soft prompt of the learner's own -------------------------------------------------------------

MOST_TOKENS = 5
# "Topic of this news?" (5 tokens) on the lesson's training texts at 2e-2: 0.70 after 40 steps, 0.71 after 60; at
# 4e-2 after 40: 0.63. Untrained, the wordings of section 2 reach 0.24 to 0.56 (0.72 at best where calibrated, which
# isn't done here).
REACH = 0.65


@dataclass(frozen=True)
class _Validation:
    """The validation texts' labels, as section 1 draws them."""

    labels: list[int]


def _validation(scale: str) -> _Validation:
    from lessonkit.data import load_dataset

    count = {"smoke": 8, "gpu": 400}.get(scale, 120)
    rows = load_dataset("bbc-news")["train"].shuffle(seed=0).select(range(count))
    return _Validation(list(rows["label"]))


def _part(answer: Any, name: str) -> Any:
    return part(
        answer,
        name,
        'answer = {"prompt": my_path[-1], "predicted": scores(my_path[-1], validation).argmax(-1)}',
    )


def _accuracy(answer: Any, validation: _Validation) -> float:
    _virtual_tokens(answer)  # an answer of another form is told so first
    return share_right(_part(answer, "predicted"), validation.labels)


def _virtual_tokens(answer: Any) -> int:
    shape = getattr(_part(answer, "prompt"), "shape", ())
    if len(shape) != 2 or not shape[0]:
        what = "`prompt` must be the learned vectors, one row for each virtual token."
        raise ExerciseError(what, fix='write `"prompt": my_path[-1]`')
    return int(shape[0])


def _one_topic(attempt: Attempt) -> bool:
    predicted, count = _part(attempt.answer, "predicted"), len(attempt.held_out.labels)
    return any(share_right(predicted, [topic] * count) == 1 for topic in range(5))


def _mostly_right(labels: Sequence[int], every: int) -> list[int]:
    """The labels, but that each so-many-th one is wrong."""
    return [(label + 1) % 5 if place % every == 0 else label for place, label in enumerate(labels)]


def _made(tokens: int, predicted: Any) -> dict[str, Any]:
    import numpy as np

    return {"prompt": np.ones((tokens, HIDDEN)), "predicted": predicted}


def _as_tensors(validation: _Validation) -> dict[str, Any]:
    """The parameter itself and the scores, as a learner might pass them."""
    import torch

    right = torch.nn.functional.one_hot(torch.tensor(_mostly_right(validation.labels, 5)), 5)
    return {"prompt": torch.nn.Parameter(torch.ones(3, HIDDEN)), "predicted": right - 4.0}


def _five_tokens() -> Exercise:
    return Bar(
        name="five-tokens",
        reference=lambda data: _made(MOST_TOKENS, _mostly_right(data.labels, 5)),
        also_right=(_as_tensors,),
        measure=_accuracy,
        bar={"laptop": REACH, "gpu": REACH},
        held_out=_validation,
        measured_on="the validation texts",
        because="A handful of vectors is enough for a task that the model can nearly do: what it lacked was not room, "
        "but being told exactly.",
        hints=(
            "Look at the losses: do they still fall at the end? Then give it more steps.",
            "`num_virtual_tokens` follows from the text: `len(tokenizer(text)['input_ids'])`. Keep it at 5 or less.",
            "Start from words, keep `LEARNING_RATE`, and give `train` 60 steps or more.",
        ),
        source="mine = with_soft_prompt('Topic of this news?')\n"
        "my_path, _ = train(mine, train_dataset, LEARNING_RATE, steps=60)\n"
        "answer = {'prompt': my_path[-1], 'predicted': scores(my_path[-1], validation).argmax(-1)}",
        wrong=(
            WrongAnswer(
                "too-many-tokens",
                lambda data: _made(18, _mostly_right(data.labels, 5)),
                f"This prompt has more than {MOST_TOKENS} virtual tokens. Print `my_path[-1].shape`; a shorter text "
                "has fewer.",
                when=lambda attempt: _virtual_tokens(attempt.answer) > MOST_TOKENS,
            ),
            WrongAnswer(
                "the-labels",
                lambda data: _made(5, data.labels),
                "Every single one right? No honest prompt of this model manages that on so little of each text. Were the "
                "true labels passed in?",
                when=lambda attempt: attempt.score > 0.995,
            ),
            WrongAnswer(
                "one-topic",
                lambda data: _made(5, [2] * len(data.labels)),
                "One and the same topic for every text: the prompt hasn't learned to tell them apart. Look at the "
                "losses that `train` printed, and at the learning rate.",
                when=_one_topic,
            ),
            WrongAnswer(
                "too-short",
                lambda data: _made(5, _mostly_right(data.labels, 2)),
                "It has learned something, but not enough yet. Give it more steps, or another start, and look at whether "
                "the loss still falls at the end.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )
