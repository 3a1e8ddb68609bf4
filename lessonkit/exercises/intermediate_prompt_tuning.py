"""The exercises of `intermediate/prompt-tuning`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Attempt, Bar, Exercise, Function, Value, WrongAnswer, part, share_right

# SmolLM2-135M; tests/test_lesson_intermediate_prompt_tuning.py computes these anew.
TOKENS, LAYERS, HIDDEN, KEY_VALUE_NUMBERS = 20, 30, 576, 3 * 64


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_prefix_parameters(), _mixed_prefixes(), _rescaled_attention(), _short_prompt()]


def _prefix_parameters() -> Exercise:
    both = TOKENS * 2 * LAYERS
    return Value(
        name="prefix-parameters",
        reference=both * KEY_VALUE_NUMBERS,
        also_right=("230400", 20 * 2 * 30 * 3 * 64.0),
        tolerance=0.5,
        because="20 tokens x 2 (a key and a value) x 30 layers x 3 heads x 64 numbers. Key-value heads count, not query "
        "heads: the text's nine query heads share three keys and values, and a prefix has no queries.",
        hints=(
            "Look at the shape over the right half of the picture: a prefix is keys and values, for every layer.",
            "A key has head size x key-value heads numbers, 64 x 3 = 192; a value as many.",
            "Multiply: tokens x 2 x layers x 192.",
        ),
        wrong=(
            WrongAnswer(
                "hidden-size",
                both * HIDDEN,
                "You took 576 numbers for each key. That holds where every query head has a key-value head of its own; "
                "here 9 query heads share 3, so look at 3 x 64.",
            ),
            WrongAnswer(
                "keys-only",
                both // 2 * KEY_VALUE_NUMBERS,
                "That's the keys of all layers. Each virtual token also has a value in each layer: look at the 2 in the "
                "shape over the picture.",
            ),
            WrongAnswer(
                "one-layer",
                TOKENS * 2 * KEY_VALUE_NUMBERS,
                "That's one layer. Look at the picture's right half: every layer has its own orange block.",
            ),
            WrongAnswer(
                "prompt-tuning",
                TOKENS * HIDDEN,
                "That's prompt tuning: 20 vectors at the input. A prefix stands in the layers: look at the right half.",
            ),
        ),
    )


def _prefixes(saved: Any, rows: Any, layers: int, heads: int) -> Any:
    chosen = saved[rows]  # (rows, tokens, layers x 2 x heads x head size)
    batch, tokens, numbers = chosen.shape
    size = numbers // (layers * 2 * heads)
    return chosen.view(batch, tokens, layers, 2, heads, size).permute(2, 3, 0, 4, 1, 5)


def _prefixes_one_by_one(saved: Any, rows: Any, layers: int, heads: int) -> Any:
    """The same row by row, as some would write it."""
    import torch

    cut = []
    for row in rows:
        prefix = saved[int(row)]
        prefix = prefix.reshape(len(prefix), layers, 2, heads, -1)
        cut.append(prefix.permute(1, 2, 3, 0, 4))
    return torch.stack(cut, dim=2)


def _only_reshaped(saved: Any, rows: Any, layers: int, heads: int) -> Any:
    chosen = saved[rows]
    return chosen.reshape(layers, 2, chosen.shape[0], heads, chosen.shape[1], -1)


def _all_keys_first(saved: Any, rows: Any, layers: int, heads: int) -> Any:
    chosen = saved[rows]
    return chosen.view(*chosen.shape[:2], 2, layers, heads, -1).permute(3, 2, 0, 4, 1, 5)


def _first_task_for_all(saved: Any, rows: Any, layers: int, heads: int) -> Any:
    return _prefixes(saved, rows * 0, layers, heads)


def _tokens_before_heads(saved: Any, rows: Any, layers: int, heads: int) -> Any:
    return _prefixes(saved, rows, layers, heads).transpose(3, 4)


def _mixed_prefixes() -> Exercise:
    import torch

    def case(tasks: int, tokens: int, layers: int, heads: int, size: int, rows: list[int]) -> tuple:
        numbers = tasks * tokens * layers * 2 * heads * size
        saved = torch.arange(numbers, dtype=torch.float32).view(tasks, tokens, -1)
        return saved, torch.tensor(rows), layers, heads

    return Function(
        name="mixed-prefixes",
        reference=_prefixes,
        also_right=(_prefixes_one_by_one,),
        because="Pick each row's task, cut the long last dimension up in the order in which it was written, then bring "
        "the dimensions into the order that the layers want. Cutting up (`view`) and reordering (`permute`) are two "
        "steps.",
        cases=(case(2, 3, 2, 2, 4, [1, 0, 1]), case(3, 5, 4, 1, 2, [2]), case(2, 2, 3, 3, 2, [0, 1, 1, 0])),
        source="def mixed_prefixes(saved, rows, layers, heads):\n"
        "    chosen = saved[rows]  # (rows, tokens, layers x 2 x heads x head size)\n"
        "    batch, tokens, numbers = chosen.shape\n"
        "    size = numbers // (layers * 2 * heads)\n"
        "    return chosen.view(batch, tokens, layers, 2, heads, size).permute(2, 3, 0, 4, 1, 5)",
        hints=(
            "`saved[rows]` picks a task's prefix for each row: (rows, tokens, numbers).",
            "`view` cuts the last dimension up: `.view(batch, tokens, layers, 2, heads, -1)`.",
            "`permute` names the old dimensions in their new order: here 2, 3, 0, 4, 1, 5.",
        ),
        wrong=(
            WrongAnswer(
                "only-reshaped",
                _only_reshaped,
                "The shape is right, the numbers stand in the wrong places: a reshape alone reads them on in the old order, "
                "so that tokens become layers. Cut up the last dimension first, then reorder with `permute`.",
            ),
            WrongAnswer(
                "keys-first",
                _all_keys_first,
                "You cut the row up as all layers' keys, then all layers' values. PEFT writes the layer slowest: layer 0's "
                "key and value, then layer 1's. Look at the order in the task.",
            ),
            WrongAnswer(
                "first-task-for-all",
                _first_task_for_all,
                "Every row has the first task's prefix. Index with `rows`: look at `prompts[task]` in `mixed_batch`.",
            ),
            WrongAnswer(
                "tokens-before-heads",
                _tokens_before_heads,
                "Tokens and heads have changed places. The cache keeps (rows, heads, tokens, head size): look at the shape "
                "that is asked for.",
            ),
        ),
    )


def _rescaled_attention() -> Exercise:
    return Value(
        name="rescaled-attention",
        reference=[0.12, 0.18, 0.3],
        also_right=((0.12, 0.18, 0.30), [0.6 * each for each in (0.2, 0.3, 0.5)]),
        tolerance=0.002,
        because="The prefix adds terms to the softmax's sum and touches no other score, so all three are multiplied by "
        "1 - 0.4 = 0.6, and stay in the proportion 2 : 3 : 5.",
        hints=(
            "Softmax: each score's exponential, divided by the sum of all. Which of the two does a prefix change?",
            "The three words' exponentials stay; the sum grows. So all three are divided by the same larger number.",
            "Together they get what the prefix leaves, 0.6, in the proportion 0.2 : 0.3 : 0.5.",
        ),
        wrong=(
            WrongAnswer(
                "unchanged",
                [0.2, 0.3, 0.5],
                "With the prefix's 0.4 that adds up to 1.4, but all attention adds up to 1. Look at what the prefix leaves.",
            ),
            WrongAnswer(
                "times-the-prefix",
                [0.08, 0.12, 0.2],
                "You multiplied by the prefix's own share, 0.4. The words share what is left of it: look at 1 - 0.4.",
            ),
            WrongAnswer(
                "minus-alike",
                [0.2 - 0.4 / 3, 0.3 - 0.4 / 3, 0.5 - 0.4 / 3],
                "You took the same amount from each word. A softmax divides by its sum, so each loses the same *share*: "
                "look at whether 2 : 3 : 5 still holds.",
            ),
        ),
    )


# ---- A training of the learner's own ----------------------------------------------------------------

MOST_TOKENS = 3
# Section 3 measures, at laptop scale: twelve drawn words 0.65, the sentence's first three tokens 0.74.
REACH = 0.65
TOPICS = ("business", "entertainment", "politics", "sports", "tech")  # as the notebook orders them
FORM = (
    'answer = {"prompt": mine.get_prompt(1)[0], '
    '"predicted": predict(mine, news["validation"], words["news"])}'
)
VALIDATION_TEXTS = {"smoke": 4, "laptop": 80, "gpu": 300}


@dataclass(frozen=True)
class _Validation:
    """The numbers of the right words of the validation texts, as section 1 draws them."""

    labels: list[int]


def _validation(scale: str) -> _Validation:
    from lessonkit.data import load_dataset

    data = load_dataset("bbc-news")["train"]
    topics = data.features["label"].names
    chosen = [place for place, label in enumerate(data["label"]) if topics[label] in TOPICS]
    rows = data.select(chosen).shuffle(seed=0).select(range(VALIDATION_TEXTS[scale]))
    return _Validation([TOPICS.index(topics[label]) for label in rows["label"]])


def _part(answer: Any, name: str) -> Any:
    return part(answer, name, FORM)


def _tokens(attempt: Attempt) -> int:
    prompt = _part(attempt.answer, "prompt")
    shape = getattr(prompt, "shape", ())
    if len(shape) != 2:
        what = (
            f"`prompt` must be the learned vectors, (tokens, hidden size); this has the shape {tuple(shape)}."
        )
        raise ExerciseError(what, fix='write `"prompt": mine.get_prompt(1)[0]`')
    return int(shape[0])


def _accuracy(answer: Any, validation: _Validation) -> float:
    return share_right(_part(answer, "predicted"), validation.labels)


def _one_word(attempt: Attempt) -> bool:
    predicted, count = _part(attempt.answer, "predicted"), len(attempt.held_out.labels)
    return any(share_right(predicted, [word] * count) == 1 for word in range(len(TOPICS)))


def _made(tokens: int, predicted: list[int]) -> dict[str, Any]:
    import numpy as np

    return {"prompt": np.zeros((tokens, HIDDEN)), "predicted": predicted}


def _right_but(labels: list[int], every: int) -> list[int]:
    """The labels, but that each so-many-th one is wrong."""
    return [(label + 1) % len(TOPICS) if place % every == 0 else label for place, label in enumerate(labels)]


def _as_tensors(validation: _Validation) -> dict[str, Any]:
    import torch

    predicted = torch.tensor(_right_but(validation.labels, 6))
    return {"prompt": torch.zeros(2, HIDDEN, requires_grad=True), "predicted": predicted}


def _short_prompt() -> Exercise:
    return Bar(
        name="short-prompt",
        reference=lambda data: _made(3, _right_but(data.labels, 6)),
        also_right=(_as_tensors,),
        measure=_accuracy,
        bar={"laptop": REACH, "gpu": REACH},
        held_out=_validation,
        measured_on="the validation texts of `news`",
        because="Three vectors can hold a task that the model nearly knows. On this budget length matters less than a "
        "start in words that fit, and a learning rate that leaves it without losing it.",
        hints=(
            'Count your words\' tokens: `len(tokenizer("...")["input_ids"])`. A longer sentence is cut at three.',
            "Look at the losses of the run: if they still fall at the end, the learning rate may be higher.",
            "Section 3 measured one short prompt that did well. It began with `Topic: business`, at `PROMPT_RATE`: start "
            "from there, and change one thing at a time.",
        ),
        source='TASKS["news"]["sentence"] = "Topic: business"\n'
        'mine, run = tune(soft_prompt("news", tokens=3), news["train"], PROMPT_RATE)\n' + FORM,
        wrong=(
            WrongAnswer(
                "too-many-tokens",
                lambda data: _made(12, _right_but(data.labels, 8)),
                f"That prompt has more than {MOST_TOKENS} virtual tokens: pass `tokens={MOST_TOKENS}` to `soft_prompt`.",
                when=lambda attempt: _tokens(attempt) > MOST_TOKENS,
            ),
            WrongAnswer(
                "the-labels",
                lambda data: _made(3, data.labels),
                "Every single one right? So short a text doesn't allow that. Were the true answers passed in? Look at "
                "`predicted`: it comes from `predict`.",
                when=lambda attempt: attempt.score > 0.995,
            ),
            WrongAnswer(
                "one-word",
                lambda data: _made(3, [2] * len(data.labels)),
                "Your model says the same word of every text. Look at the losses that were drawn: a rate far too high "
                "throws the prompt away from all words, one far too low leaves it where it was.",
                when=_one_word,
            ),
            WrongAnswer(
                "too-little",
                lambda data: _made(3, _right_but(_right_but(data.labels, 2), 3)),
                "Not enough yet. Was the prompt trained, with `tune`? Then look at the losses: do they still fall at the "
                "end? Then try another rate; do they start high? Then other words to start from.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )
