"""Scores of a classifier: accuracy, macro-F1 and the confusion matrix, never without n and a baseline.

scikit-learn does the arithmetic; the names are its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lessonkit.errors import DataError
from lessonkit.evaluation.bootstrap import RESAMPLES, bootstrap_interval, percentile_interval

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ClassificationScores", "class_numbers", "classification_scores", "majority_baseline"]


@dataclass(frozen=True)
class ClassificationScores:
    """How a classifier did on one labelled set.

    n: texts scored. accuracy: share right, 0 to 1. interval: its 95 % bootstrap interval.
    macro_f1: F1 averaged over the classes, each counting the same.
    baseline: accuracy of always answering the majority class on the same texts.
    confusion: (classes, classes) counts; row: true class, column: predicted class.
    macro_f1_interval: 95 % bootstrap interval of macro_f1. macro_f1_baseline: macro-F1 of always
    answering the majority class.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    macro_f1: float
    baseline: float
    names: tuple[str, ...]
    confusion: np.ndarray
    macro_f1_interval: tuple[float, float]
    macro_f1_baseline: float

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"accuracy {self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}, n = {self.n:,}), "
            f"macro-F1 {self.macro_f1:.3f}; majority class {self.baseline:.3f}"
        )

    def details(self) -> str:
        """Two lines, accuracy and macro-F1, each with its interval, n and the majority class's score."""
        rows = (
            ("accuracy", self.accuracy, self.interval, self.baseline),
            ("macro-F1", self.macro_f1, self.macro_f1_interval, self.macro_f1_baseline),
        )
        return "\n".join(
            f"{name} {score:.3f} (95 % interval {low:.3f} to {high:.3f}, n = {self.n:,}); "
            f"majority class {baseline:.3f}"
            for name, score, (low, high), baseline in rows
        )

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {**asdict(self), "confusion": self.confusion.tolist()}


def classification_scores(
    labels: Sequence[int],
    predictions: Sequence[int],
    names: Sequence[str],
    *,
    majority_label: int | None = None,
) -> ClassificationScores:
    """Score predicted class numbers, shape (n,), against the true ones, shape (n,).

    names: the classes' names, in the order of their numbers.
    majority_label: the class that a lazy baseline would always answer, best taken from the training
    labels; left out, it is the most frequent of ``labels``.
    Raises DataError if the two differ in length, are empty, or hold anything but numbers of ``names``.
    """
    import numpy as np
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    true, predicted = _checked(labels, predictions, len(names))
    majority = _majority(true if majority_label is None else [majority_label])
    if majority not in range(len(names)):
        raise DataError(
            f"majority_label is {majority_label!r}, which is none of the {len(names)} class numbers.",
            fix="pass the number of the most frequent class of the training labels, or leave it out",
        )
    always = np.full_like(true, majority)
    macro = {"labels": list(range(len(names))), "average": "macro", "zero_division": 0}
    confusion = confusion_matrix(true, predicted, labels=macro["labels"])
    return ClassificationScores(
        n=len(true),
        accuracy=float(accuracy_score(true, predicted)),
        interval=bootstrap_interval(true == predicted),
        macro_f1=float(f1_score(true, predicted, **macro)),
        baseline=float(accuracy_score(true, always)),
        names=tuple(names),
        confusion=confusion,
        macro_f1_interval=_macro_f1_interval(confusion),
        macro_f1_baseline=float(f1_score(true, always, **macro)),
    )


def majority_baseline(train_labels: Sequence[int], test_labels: Sequence[int]) -> float:
    """Accuracy on ``test_labels`` of always answering the most frequent of ``train_labels``."""
    import numpy as np

    train, test = np.asarray(train_labels), np.asarray(test_labels)
    if not len(train) or not len(test):
        raise DataError("There are no labels to score.", fix="look at the dataset: is the split empty?")
    return float((test == _majority(train)).mean())


def _majority(labels: Sequence[int]) -> int:
    import numpy as np

    values, counts = np.unique(np.asarray(labels), return_counts=True)
    return values[counts.argmax()]


def _macro_f1_interval(confusion: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of macro-F1, from the confusion matrix, shape (classes, classes).

    The texts of each true class are resampled among themselves. Drawn from all texts at once, a rare class
    would be missing from many resamples, count as F1 = 0 there, and pull the interval below the score.
    To draw texts of one class is to draw the cells of its row: a multinomial draw, with no loop over texts.
    A class of one or two texts hardly varies this way, so with many of those the interval is too narrow.
    """
    import numpy as np

    draws = np.random.default_rng(seed)
    right, predicted = np.zeros((2, RESAMPLES, len(confusion)))
    sizes = confusion.sum(axis=1)
    for row in np.flatnonzero(sizes):
        cells = np.flatnonzero(confusion[row])
        drawn = draws.multinomial(sizes[row], confusion[row, cells] / sizes[row], RESAMPLES)
        predicted[:, cells] += drawn
        right[:, row] += drawn[:, cells == row].sum(axis=1)
    # F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (predicted + true); a class in neither counts as 0
    f1 = 2 * right / np.maximum(predicted + sizes, 1)
    return percentile_interval(f1.mean(axis=1))


def _checked(
    labels: Sequence[int], predictions: Sequence[int], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = class_numbers("labels", labels), class_numbers("predictions", predictions)
    if true.shape != predicted.shape or true.ndim != 1:
        raise DataError(
            f"Labels have the shape {true.shape}, predictions {predicted.shape}.",
            why="there must be one predicted class number for each text",
            fix="if these are logits, take `logits.argmax(-1)` first",
        )
    if not len(true):
        raise DataError("There is nothing to score.", fix="look at the dataset: is the split empty?")
    for what, values in (("label", true), ("prediction", predicted)):
        if values.min() < 0 or values.max() >= classes:
            raise DataError(
                f"There is a {what} {int(values.max() if values.max() >= classes else values.min())}, "
                f"but only {classes} classes have names (0 to {classes - 1}).",
                fix="give all the classes' names, in the order of their numbers",
            )
    return true, predicted


def class_numbers(what: str, values: Sequence[int]) -> np.ndarray:
    """The values as an array of whole numbers; ``what`` names them in the DataError if they are none."""
    import numpy as np

    try:
        if hasattr(values, "detach"):  # a tensor, which may lie on a GPU
            values = values.detach().cpu()
        numbers = np.asarray(values)
        if not numbers.size:
            return numbers.astype(np.int64)  # an empty list counts as floats
        if numbers.dtype.kind in "iubf":
            with np.errstate(invalid="ignore"):  # NaN has no whole number, which the comparison finds
                whole = numbers.astype(np.int64)
            if (whole == numbers).all():
                return whole
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise DataError(
        f"The {what} are not class numbers.",
        why="each must be a whole number, the place of its class among the names",
        fix="if these are logits, take `logits.argmax(-1)` first; if they are names, use their numbers",
    )
