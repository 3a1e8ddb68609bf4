"""Scores that never stand alone: each comes with n, a baseline and an interval.

scikit-learn does the arithmetic; the names are its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lessonkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ClassificationScores", "bootstrap_interval", "classification_scores", "majority_baseline"]

RESAMPLES = 1000


@dataclass(frozen=True)
class ClassificationScores:
    """How a classifier did on one labelled set.

    n: texts scored. accuracy: share right, 0 to 1. interval: its 95 % bootstrap interval.
    macro_f1: F1 averaged over the classes, each counting the same.
    baseline: accuracy of always answering the majority class on the same texts.
    confusion: (classes, classes) counts; row: true class, column: predicted class.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    macro_f1: float
    baseline: float
    names: tuple[str, ...]
    confusion: np.ndarray

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"accuracy {self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}, n = {self.n:,}), "
            f"macro-F1 {self.macro_f1:.3f}; majority class {self.baseline:.3f}"
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
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    true, predicted = _checked(labels, predictions, len(names))
    classes = range(len(names))
    baseline = majority_baseline(true if majority_label is None else [majority_label], true)
    return ClassificationScores(
        n=len(true),
        accuracy=float(accuracy_score(true, predicted)),
        interval=bootstrap_interval(true == predicted),
        macro_f1=float(f1_score(true, predicted, labels=list(classes), average="macro", zero_division=0)),
        baseline=baseline,
        names=tuple(names),
        confusion=confusion_matrix(true, predicted, labels=list(classes)),
    )


def majority_baseline(train_labels: Sequence[int], test_labels: Sequence[int]) -> float:
    """Accuracy on ``test_labels`` of always answering the most frequent of ``train_labels``."""
    import numpy as np

    train, test = np.asarray(train_labels), np.asarray(test_labels)
    if not len(train) or not len(test):
        raise DataError("There are no labels to score.", fix="look at the dataset: is the split empty?")
    values, counts = np.unique(train, return_counts=True)
    return float((test == values[counts.argmax()]).mean())


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values``, shape (n,).

    Draws n values with replacement RESAMPLES times (Efron 1979, "Bootstrap Methods: Another Look at
    the Jackknife") and takes the middle ``level`` of the means.
    Raises DataError if ``values`` is empty, not one-dimensional, or holds anything but finite numbers.
    """
    import numpy as np

    try:
        sample = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            "Only numbers can be resampled.", why=str(error), fix="pass one number a text"
        ) from error
    if sample.ndim != 1 or not len(sample):
        raise DataError(
            f"There is nothing to resample in the shape {sample.shape}.",
            fix="pass one number a text, at least one",
        )
    if not np.isfinite(sample).all():
        raise DataError("A value to resample is not a finite number.", fix="look for NaN in the scores")
    if not 0 < level < 1:
        raise DataError(f"An interval's level is a share between 0 and 1, not {level}.", fix="use level=0.95")
    draws = np.random.default_rng(seed)
    means = [sample[draws.integers(0, len(sample), len(sample))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(
    labels: Sequence[int], predictions: Sequence[int], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = _class_numbers("labels", labels), _class_numbers("predictions", predictions)
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


def _class_numbers(what: str, values: Sequence[int]) -> np.ndarray:
    """The values as an array of whole numbers."""
    import numpy as np

    try:
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
