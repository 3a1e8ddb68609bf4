"""Exact match: the share of generated answers that equal an accepted one."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError
from lessonkit.evaluation.bootstrap import bootstrap_interval

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ExactMatchScores", "exact_match", "normalize_answer"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.IGNORECASE)


@dataclass(frozen=True)
class ExactMatchScores:
    """How many answers equal an accepted one.

    n: answers scored. exact_match: share right, 0 to 1. interval: its 95 % bootstrap interval.
    baseline: share right when ``baseline_answer``, the most frequent answer, is always given.
    normalization: what was done to both sides before they were compared.
    right: (n,) booleans, which answers were right.
    """

    n: int
    exact_match: float
    interval: tuple[float, float]
    baseline: float
    baseline_answer: str
    normalization: str
    right: np.ndarray = field(repr=False, compare=False)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"exact match {self.exact_match:.3f} (95 % interval {low:.3f} to {high:.3f}, n = {self.n:,}; "
            f"{self.normalization}); always {self.baseline_answer!r} {self.baseline:.3f}"
        )

    def to_dict(self) -> dict:
        """Plain data for JSON, without the single answers."""
        names = ("n", "exact_match", "interval", "baseline", "baseline_answer", "normalization")
        return {name: getattr(self, name) for name in names}


def exact_match(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    train_answers: Sequence[str | Sequence[str]] | None = None,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_articles: bool = False,
) -> ExactMatchScores:
    """Compare n generated answers with n references, whole string against whole string.

    references: for each answer the right one, or a list of several that are all accepted.
    train_answers: where the baseline's answer, the most frequent one, is taken from (a training split's
    answers); left out, the references themselves.
    ignore_case, ignore_punctuation, ignore_articles: see ``normalize_answer``. With none of them only the
    white space around an answer is ignored; with all three this is the exact match of SQuAD (Rajpurkar et
    al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1).
    Raises DataError if the two differ in length, are empty, or hold anything but text.
    """
    import numpy as np

    chosen = {
        "ignore_case": ignore_case,
        "ignore_punctuation": ignore_punctuation,
        "ignore_articles": ignore_articles,
    }
    given = [normalize_answer(each, **chosen) for each in _texts("predictions", predictions)]
    accepted = _accepted("references", references, chosen)
    if len(given) != len(accepted):
        raise DataError(
            f"There are {len(given)} predictions and {len(accepted)} references.",
            fix="pass one reference, or one list of accepted references, for each prediction",
        )
    if not given:
        raise DataError("There are no answers to score.", fix="look at the dataset: is the split empty?")
    known = accepted if train_answers is None else _accepted("train_answers", train_answers, chosen)
    if not known:
        raise DataError(
            "There are no training answers for the baseline.",
            fix="pass the training split's answers, or leave train_answers out",
        )
    # dict.fromkeys and not set: of two answers equally frequent the first one wins, every time
    usual, _ = Counter(answer for each in known for answer in dict.fromkeys(each)).most_common(1)[0]
    right = np.array([answer in each for answer, each in zip(given, accepted, strict=True)])
    return ExactMatchScores(
        n=len(given),
        exact_match=float(right.mean()),
        interval=bootstrap_interval(right),
        baseline=float(np.mean([usual in each for each in accepted])),
        baseline_answer=usual,
        normalization=", ".join(["stripped", *(name.replace("_", " ") for name, on in chosen.items() if on)]),
        right=right,
    )


def normalize_answer(
    answer: str, *, ignore_case: bool = False, ignore_punctuation: bool = False, ignore_articles: bool = False
) -> str:
    """What of an answer is compared: always without white space around it.

    ignore_case: Unicode case folding. ignore_punctuation: without ASCII punctuation.
    ignore_articles: without the words a, an and the. Where the last two take something out, the white
    space that is left becomes one space, as in SQuAD's own scoring program; its order of steps is kept.
    """
    if ignore_case:
        answer = answer.casefold()
    if ignore_punctuation:
        answer = answer.translate(_PUNCTUATION)
    if ignore_articles:
        answer = _ARTICLES.sub(" ", answer)
    if ignore_punctuation or ignore_articles:
        answer = " ".join(answer.split())
    return answer.strip()


def _accepted(what: str, answers: Any, chosen: dict[str, bool]) -> list[list[str]]:
    """For each text its accepted answers, normalised."""
    accepted = []
    for number, each in enumerate(_items(what, answers)):
        several = [each] if isinstance(each, str) else _texts(f"{what}[{number}]", each)
        if not several:
            raise DataError(
                f"{what}[{number}] accepts no answer at all.",
                why="its list is empty",
                fix='take that text out, or write [""] if the right answer is to say nothing',
            )
        accepted.append([normalize_answer(answer, **chosen) for answer in several])
    return accepted


def _texts(what: str, values: Any) -> list[str]:
    found = _items(what, values)
    for number, each in enumerate(found):
        if not isinstance(each, str):
            raise DataError(
                f"{what}[{number}] is not text but {type(each).__name__}.",
                why="exact match compares strings",
                fix="turn token ids into text with `tokenizer.batch_decode(ids, skip_special_tokens=True)`, "
                "and numbers with `str(...)`",
            )
    return found


def _items(what: str, values: Any) -> list:
    if isinstance(values, str):
        raise DataError(f"{what} is a single string.", fix=f"pass a list: [{values[:20]!r}]")
    try:
        return list(values)
    except TypeError as error:
        raise DataError(
            f"{what} is {type(values).__name__}, not a list of answers.",
            fix="pass a list of strings, one for each text",
        ) from error
