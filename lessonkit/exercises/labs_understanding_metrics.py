"""The exercises of `labs/understanding-metrics`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Attempt, Bar, Choice, Exercise, Function, Value, WrongAnswer, part
from lessonkit.exercises.plain import Grid, is_number, plain

# Reuters-R8's official test texts; tests/test_lesson_labs_understanding_metrics.py counts them anew.
EARN, TEST_TEXTS, TOPICS = 1083, 2189, 8
F1_OF_EARN = 2 * EARN / (TEST_TEXTS + EARN)


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_lazy_f1(), _macro_f1(), _alarm(), _temperature(), _bits_per_byte(), _rouge()]


def _lazy_f1() -> Exercise:
    return Value(
        name="lazy-f1",
        reference=F1_OF_EARN / TOPICS,
        also_right=(0.083, "8.3 %", Fraction(2 * EARN, TEST_TEXTS + EARN) / TOPICS),
        relative=0.01,
        because=f"`earn` gets 2 x {EARN:,} / ({TEST_TEXTS:,} + {EARN:,}) = {F1_OF_EARN:.3f}, the seven other topics get 0, "
        f"and the mean of the eight is {F1_OF_EARN / TOPICS:.3f}.",
        hints=(
            f"For `earn`: {EARN:,} hits, {TEST_TEXTS:,} texts called `earn`, {EARN:,} texts that are `earn`.",
            "For each other topic: no hit, so its F1 is 0. It still counts in the mean.",
            f"F1 of `earn` is 2 x {EARN:,} / ({TEST_TEXTS:,} + {EARN:,}). Divide by the number of topics.",
        ),
        wrong=(
            WrongAnswer(
                "accuracy",
                EARN / TEST_TEXTS,
                "That is the accuracy. Macro-F1 needs an F1 for each of the eight topics first, then their mean.",
            ),
            WrongAnswer(
                "one-topic",
                F1_OF_EARN,
                "That is the F1 of `earn` alone. Seven topics are never named: each has an F1 of 0, and counts as much.",
            ),
            WrongAnswer(
                "recall",
                1 / TOPICS,
                "That is the mean of the recalls: 1 for `earn`, 0 for the others. F1 also asks for precision: how many of "
                "the texts called `earn` are `earn`?",
            ),
            WrongAnswer(
                "precision",
                EARN / TEST_TEXTS / TOPICS,
                "That is the mean of the precisions. F1 also asks for recall: which share of the `earn` texts is found?",
            ),
            WrongAnswer(
                "weighted",
                F1_OF_EARN * EARN / TEST_TEXTS,
                "You weighted `earn` by how frequent it is. That is *weighted* F1; in macro-F1 each topic counts an eighth.",
            ),
            WrongAnswer(
                "percent",
                100 * F1_OF_EARN / TOPICS,
                "That's in per cent. Scores here run from 0 to 1, so divide by 100.",
            ),
        ),
    )


# ---- Macro-F1 ---------------------------------------------------------------------------------------


def _three(matrix: Any) -> tuple:
    """Hits, texts called so, and texts that are so, for each topic."""
    import numpy as np

    matrix = np.asarray(matrix)
    return np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)


def _macro_f1_reference(matrix):
    scores = []
    for topic in range(len(matrix)):
        hits = matrix[topic][topic]
        called = sum(row[topic] for row in matrix)
        are = sum(matrix[topic])
        scores.append(2 * hits / (called + are) if called + are else 0.0)
    return sum(scores) / len(scores)


def _macro_f1_by_arrays(matrix):
    """From precision and recall, where they exist."""
    import numpy as np

    hits, called, are = _three(matrix)
    precision, recall = hits / np.maximum(called, 1), hits / np.maximum(are, 1)
    both = precision + recall
    return float(np.mean(2 * precision * recall / np.where(both > 0, both, 1)))


def _macro_of(score: Any) -> Any:
    """A function of a matrix: the mean over the topics of ``score(precision, recall)``."""

    def macro(matrix):
        import numpy as np

        hits, called, are = _three(matrix)
        return float(np.mean(score(hits / np.maximum(called, 1), hits / np.maximum(are, 1))))

    return macro


def _f1_of_means(matrix):
    import numpy as np

    hits, called, are = _three(matrix)
    precision, recall = (hits / np.maximum(called, 1)).mean(), (hits / np.maximum(are, 1)).mean()
    return float(2 * precision * recall / (precision + recall))


def _unguarded(matrix):
    import numpy as np

    hits, called, are = _three(matrix)
    with np.errstate(all="ignore"):
        precision, recall = hits / called, hits / are
        return float(np.mean(2 * precision * recall / (precision + recall)))


def _micro(matrix):
    hits, _, are = _three(matrix)
    return float(hits.sum() / are.sum())


def _weighted(matrix):
    import numpy as np

    hits, called, are = _three(matrix)
    return float(np.average(2 * hits / np.maximum(called + are, 1), weights=are))


def _rows_only(matrix):
    import numpy as np

    hits, _, are = _three(matrix)
    return float(np.mean(2 * hits / np.maximum(2 * are, 1)))


def _macro_f1() -> Exercise:
    import numpy as np

    matrices = (
        [[8, 2], [1, 9]],
        [[50, 0, 0], [3, 5, 2], [4, 1, 0]],
        [[6, 0, 4], [2, 3, 0], [0, 0, 9]],
        [[7, 0, 1], [4, 0, 2], [2, 0, 3]],  # the topic in the middle is never called
        [[7, 1, 2], [0, 0, 0], [3, 2, 4]],  # and here never there
    )
    return Function(
        name="macro-f1",
        reference=_macro_f1_reference,
        also_right=(_macro_f1_by_arrays,),
        because="Each topic gets its own F1 first, 0 where nothing was found; the mean counts every topic the same.",
        cases=tuple((np.array(matrix),) for matrix in matrices),
        source="def macro_f1(matrix):\n"
        "    scores = []\n"
        "    for topic in range(len(matrix)):\n"
        "        hits = matrix[topic, topic]\n"
        "        called = matrix[:, topic].sum()\n"
        "        are = matrix[topic, :].sum()\n"
        "        scores.append(2 * hits / (called + are))\n"
        "    return sum(scores) / len(scores)",
        hints=(
            "For topic 0: hits are `matrix[0, 0]`, called so `matrix[:, 0].sum()`, are so `matrix[0, :].sum()`.",
            "F1 = 2 x hits / (called + are). That needs no precision or recall, which may not exist.",
            "Collect the F1s in a list, `for topic in range(len(matrix))`, and return `sum(scores) / len(scores)`.",
        ),
        wrong=(
            WrongAnswer(
                "never-called",
                _unguarded,
                "A topic that is never called has no precision (0 / 0), and the mean becomes `nan`. It found nothing, so "
                "its F1 is 0: `2 * hits / (called + are)` gives that by itself.",
            ),
            WrongAnswer(
                "of-means",
                _f1_of_means,
                "You averaged precision and recall over the topics and took one F1 of the two means. Macro-F1 is the other "
                "way round: an F1 for each topic, then their mean.",
            ),
            WrongAnswer(
                "plain-mean",
                _macro_of(lambda precision, recall: (precision + recall) / 2),
                "You took the ordinary mean of precision and recall. F1 is their *harmonic* mean, 2PR / (P + R), which "
                "stays low if either is low.",
            ),
            WrongAnswer(
                "micro",
                _micro,
                "That is the accuracy, which equals *micro*-F1: frequent topics dominate it. Compute an F1 for each topic.",
            ),
            WrongAnswer(
                "weighted",
                _weighted,
                "You weighted each topic by its number of texts. In macro-F1 all topics count the same.",
            ),
            WrongAnswer(
                "recall",
                _rows_only,
                "That is the mean recall: only rows are summed. The column, all texts called so, is missing.",
            ),
            WrongAnswer(
                "precision",
                _macro_of(lambda precision, recall: precision),
                "That is the mean precision: only columns are summed. The row, all texts that are so, is missing.",
            ),
        ),
    )


# ---- The threshold ----------------------------------------------------------------------------------

MISS, FALSE_ALARM = 10, 1  # what each costs
SLACK = 3.0  # so much above the lowest cost is near enough
VALIDATION = {"smoke": 24}  # texts; 485 at the other scales


@dataclass(frozen=True)
class _Validation:
    """Whether each validation text is about crude, as section 1 draws them."""

    truth: list[bool]


def _validation(scale: str) -> _Validation:
    from lessonkit.data import load_dataset

    split = load_dataset("reuters-r8")["train"]
    crude = split.features["label"].names.index("crude")
    drawn = split.shuffle(seed=0).select(range(5000, 5000 + VALIDATION.get(scale, 485)))
    return _Validation([label == crude for label in drawn["label"]])


def cost(scores: Sequence[float], truth: Sequence[bool], threshold: float) -> int:
    """What the misses and false alarms cost if every text that scores at least the threshold raises an alarm."""
    missed = sum(is_so and score < threshold for score, is_so in zip(scores, truth, strict=True))
    alarms = sum(not is_so and score >= threshold for score, is_so in zip(scores, truth, strict=True))
    return MISS * missed + FALSE_ALARM * alarms


def _lowest(scores: Sequence[float], truth: Sequence[bool]) -> int:
    return min(cost(scores, truth, threshold) for threshold in {*scores, math.inf})


def _part(answer: Any, name: str) -> Any:
    return part(answer, name, 'answer = {"threshold": 0.5, "scores": crude_scores["validation"]}')


def _threshold(answer: Any) -> float:
    found = plain(_part(answer, "threshold"))
    if isinstance(found, Grid) and found.array.size == 1:
        found = found.array.item()
    if not is_number(found) or not math.isfinite(found):
        raise ExerciseError("`threshold` must be one number, such as 0.5.")
    return float(found)


def _scores(answer: Any, truth: Sequence[bool]) -> list[float]:
    found = plain(_part(answer, "scores"))
    if isinstance(found, Grid):
        if found.array.ndim > 1 and found.array.size > len(truth):
            what = f"`scores` has the shape {found.shape}: probabilities of all topics?"
            raise ExerciseError(what, fix='pass those of `crude` alone: `crude_scores["validation"]`')
        found = found.array.ravel().tolist()
    if not isinstance(found, list) or not all(is_number(each) and math.isfinite(each) for each in found):
        raise ExerciseError("`scores` must hold one number for each text.")
    if len(found) != len(truth):
        raise ExerciseError(
            f"`scores` has {len(found):,} numbers, and there are {len(truth):,} validation texts.",
            why="a threshold is chosen on the validation texts; the test texts are for the last measurement",
            fix='pass `crude_scores["validation"]`',
        )
    return found


def _above_lowest(answer: Any, held_out: _Validation) -> float:
    scores = _scores(answer, held_out.truth)
    return float(cost(scores, held_out.truth, _threshold(answer)) - _lowest(scores, held_out.truth))


def _hard(attempt: Attempt) -> bool:
    return len({*_scores(attempt.answer, attempt.held_out.truth)}) <= 2


def _side(attempt: Attempt) -> float:
    """How far the threshold lies above (or, negative, below) the nearest of the best ones."""
    scores, truth = _scores(attempt.answer, attempt.held_out.truth), attempt.held_out.truth
    lowest = _lowest(scores, truth)
    best = [each for each in {*scores, 1.0} if cost(scores, truth, each) == lowest]
    return min((_threshold(attempt.answer) - each for each in best), key=abs)


def _all_alarm(attempt: Attempt) -> bool:
    return _threshold(attempt.answer) <= min(_scores(attempt.answer, attempt.held_out.truth))


def _at_half(attempt: Attempt) -> bool:
    return not attempt.reached and abs(_threshold(attempt.answer) - 0.5) < 0.005


def _made(held_out: _Validation, threshold: float) -> dict[str, Any]:
    """Scores like a timid model's: a text about crude has 0.2 to 0.6, others have up to 0.3."""
    places = range(len(held_out.truth))
    scores = [
        0.2 + 0.4 * (place % 7) / 6 if is_so else 0.3 * (place % 50) / 49
        for place, is_so in zip(places, held_out.truth, strict=True)
    ]
    return {"threshold": threshold, "scores": scores}


def _best_made(held_out: _Validation) -> dict[str, Any]:
    answer = _made(held_out, 0.0)
    scores = answer["scores"]
    return answer | {"threshold": min(sorted(scores), key=lambda each: cost(scores, held_out.truth, each))}


def _best_as_arrays(held_out: _Validation) -> dict[str, Any]:
    import numpy as np

    answer = _best_made(held_out)
    return {"threshold": np.array([answer["threshold"]]), "scores": np.array(answer["scores"])[:, None]}


def _alarm() -> Exercise:
    return Bar(
        name="alarm",
        reference=_best_made,
        also_right=(_best_as_arrays,),
        measure=_above_lowest,
        bar=SLACK,
        held_out=_validation,
        higher_is_better=False,
        score_name="cost above the lowest possible",
        measured_on="the validation texts",
        because="Where a miss costs ten times a false alarm, it pays to sound the alarm on a small suspicion: the best "
        "threshold lies far below 0.5.",
        hints=(
            'Try some: `for t in (0.5, 0.3, 0.1, 0.03): print(t, cost(crude_scores["validation"], is_crude["validation"], '
            "t))`.",
            "Then look closer around the best of them: `np.arange(0.01, 0.5, 0.01)`.",
            'The best of many is `min(np.arange(0.01, 0.5, 0.01), key=lambda t: cost(crude_scores["validation"], '
            'is_crude["validation"], t))`.',
        ),
        source='scores, truth = crude_scores["validation"], is_crude["validation"]\n'
        "best = min(np.arange(0.01, 0.5, 0.005), key=lambda t: cost(scores, truth, t))\n"
        'answer = {"threshold": best, "scores": scores}',
        wrong=(
            WrongAnswer(
                "no-probabilities",
                lambda data: {"threshold": 0.5, "scores": [float(each) for each in data.truth]},
                "These scores are only 0 or 1: answers or true labels, not probabilities, and no threshold can trade "
                'anything with them. Pass `crude_scores["validation"]`.',
                when=_hard,
            ),
            WrongAnswer(
                "all-alarm",
                lambda data: _made(data, 0.0),
                "At this threshold every single text raises the alarm. Nothing is missed, but hundreds of false alarms cost "
                "more than a few misses. Raise it.",
                when=_all_alarm,
            ),
            WrongAnswer(
                "half",
                lambda data: _made(data, 0.5),
                "0.5 treats a miss and a false alarm alike. Here a miss costs ten times as much: accept some false alarms.",
                when=_at_half,
            ),
            WrongAnswer(
                "too-high",
                lambda data: _made(data, 0.4),
                "Too high: wires about crude are missed at 10 apiece. A lower threshold costs some false alarms, 1 apiece.",
                when=lambda attempt: not attempt.reached and _side(attempt) > 0,
            ),
            WrongAnswer(
                "too-low",
                lambda data: _made(data, 0.05),
                "Too low: so many false alarms cost more than the misses that they avoid. Raise it a little.",
                when=lambda attempt: not attempt.reached and _side(attempt) < 0,
            ),
        ),
    )


def _temperature() -> Exercise:
    return Choice(
        name="temperature",
        reference="c",
        also_right=("(C)", "only log loss and calibration error"),
        options={
            "a": "only accuracy and macro-F1",
            "b": "all four",
            "c": "only log loss and calibration error",
            "d": "none of them",
        },
        because="Dividing all scores of a text by one number keeps their order, so the winner stays the winner; what "
        "moves is how sure the model says it is.",
        hints=(
            "Take the scores 3, 2, -1. Divide all by 2. Which is the largest, before and after?",
            "Accuracy and macro-F1 only look at which topic wins. Which scores look at its probability?",
        ),
        wrong=(
            WrongAnswer(
                "answers-change",
                "a",
                "It is the other way round. The largest score stays the largest, so every answer stays as it was; the "
                "probabilities move.",
            ),
            WrongAnswer(
                "everything-changes",
                "b",
                "The probabilities change, but not their order: 3, 2, -1 divided by 2 is 1.5, 1, -0.5. Which topic wins?",
            ),
            WrongAnswer(
                "nothing-changes",
                "d",
                "The answers stay. But softmax of 3, 2, -1 is sharper than softmax of 1.5, 1, -0.5: the stated probability "
                "moves, and with it every score that looks at it.",
            ),
        ),
    )


# ---- Language models --------------------------------------------------------------------------------


def _bits_per_byte_reference(losses, text):
    return sum(losses) / math.log(2) / len(text.encode("utf-8"))


def _bits_per_byte_by_arrays(losses, text):
    import numpy as np

    return np.asarray(losses).sum() * np.log2(np.e) / np.frombuffer(text.encode(), dtype=np.uint8).size


def _bits_per_byte() -> Exercise:
    return Function(
        name="bits-per-byte",
        reference=_bits_per_byte_reference,
        also_right=(_bits_per_byte_by_arrays,),
        because="The summed loss says how much the whole text surprised the model, however it was cut; bytes belong to the "
        "text and not to a tokenizer.",
        cases=(
            ([2.0, 0.5, 1.25], "the cat sat"),
            ([3.0, 1.0], "Überraschung"),  # 12 characters, 13 bytes
            ([0.7, 0.1, 2.2, 4.0], "price: 5 €"),  # 10 characters, 12 bytes
            ([1.0], "a"),
        ),
        source="import math\n\n"
        "def bits_per_byte(losses, text):\n"
        '    return sum(losses) / math.log(2) / len(text.encode("utf-8"))',
        hints=(
            "Three steps: add up the losses; turn nats into bits; divide by the number of bytes.",
            "One bit is ln 2 = 0.693 nats, so bits = nats / `math.log(2)`.",
            '`len(text)` counts characters. `text.encode("utf-8")` gives the bytes.',
        ),
        wrong=(
            WrongAnswer(
                "nats",
                lambda losses, text: sum(losses) / len(text.encode("utf-8")),
                "That is nats per byte. The losses use the natural logarithm; divide by `math.log(2)` to have bits.",
            ),
            WrongAnswer(
                "characters",
                lambda losses, text: sum(losses) / math.log(2) / len(text),
                "`len(text)` counts characters; `Ü` is one character and two bytes. Count "
                '`len(text.encode("utf-8"))`.',
            ),
            WrongAnswer(
                "per-token",
                lambda losses, text: sum(losses) / math.log(2) / len(losses),
                "That is bits per *token*, and depends on how the tokenizer cuts. Divide by the bytes of the text.",
            ),
            WrongAnswer(
                "mean-loss",
                lambda losses, text: sum(losses) / len(losses) / math.log(2) / len(text.encode("utf-8")),
                "You divide twice: by the tokens and by the bytes. Take the *sum* of the losses.",
            ),
            WrongAnswer(
                "times-ln-2",
                lambda losses, text: sum(losses) * math.log(2) / len(text.encode("utf-8")),
                "You multiply by ln 2. A bit is smaller than a nat (0.693 of it), so there are more bits: divide.",
            ),
            WrongAnswer(
                "perplexity",
                lambda losses, text: math.exp(sum(losses) / len(losses)),
                "That is the perplexity: exp of the mean loss per token. Bits per byte takes no exp, and divides by bytes.",
            ),
        ),
    )


PREDICTED, REFERENCE = "the cat sat on the mat", "the mat sat on the cat"


def _rouge() -> Exercise:
    return Value(
        name="rouge",
        reference=4 / 6,
        also_right=(0.667, "0.67", Fraction(2, 3)),
        tolerance=0.005,
        because="*the sat on the* stands in both in this order, with gaps: 4 words. Precision and recall are 4 / 6 each, so "
        "F1 is, too.",
        hints=(
            "Cross out words in both, until the same words stand in the same order. How many can be left at most?",
            "You need not keep neighbours: *the ... sat on the ...*. But neither *cat* nor *mat* can be kept as well.",
            "It is 4 words of 6 on either side.",
        ),
        wrong=(
            WrongAnswer(
                "bag-of-words",
                1.0,
                "That is word overlap, which ignores order: the same six words. ROUGE-L wants them in the same order.",
            ),
            WrongAnswer(
                "in-one-piece",
                3 / 6,
                "*sat on the* is the longest common piece without a gap. Gaps are allowed: one word more fits in front.",
            ),
            WrongAnswer(
                "count",
                4,
                "Four words is right. Now precision (of the 6 predicted), recall (of the 6 in the reference), and F1.",
            ),
            WrongAnswer(
                "exact-match",
                0.0,
                "That is exact match: the two aren't equal. Overlap scores give credit for a part.",
            ),
            WrongAnswer(
                "too-many",
                5 / 6,
                "One word too many. With *cat* or *mat* kept on one side, it must stand at the same place in the order on "
                "the other side as well.",
            ),
        ),
    )
