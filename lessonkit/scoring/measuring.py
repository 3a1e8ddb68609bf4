"""Metrics of a list of predictions: all, by slice, by class, and whether the confidence can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lessonkit.errors import DataError
from lessonkit.evaluation import bootstrap_interval, classification_scores
from lessonkit.scoring.predicting import Prediction

__all__ = ["calibration", "metrics", "slices"]

BINS = 10
FEW = 20  # texts in a slice; fewer say little
LENGTHS = ("shortest third", "middle third", "longest third")


def metrics(predictions: Sequence[Prediction], names: Sequence[str]) -> dict[str, Any]:
    """Plain data for JSON: accuracy, macro- and micro-F1, each with a 95 % interval where one is known, and n; the majority
    baseline; precision, recall and F1 of each class; the confusion matrix (true class by predicted class); calibration.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    if not predictions:
        raise DataError("There are no predictions to score.", fix="look at the dataset: is it empty?")
    place = {name: number for number, name in enumerate(names)}
    true = [place[each.label] for each in predictions]
    predicted = [place[each.prediction] for each in predictions]
    scores = classification_scores(true, predicted, names)
    numbers = list(range(len(names)))
    by_class = precision_recall_fscore_support(true, predicted, labels=numbers, zero_division=0)
    return {
        "n": scores.n,
        "accuracy": scores.accuracy,
        "accuracy_interval": list(scores.interval),
        "macro_f1": scores.macro_f1,
        "macro_f1_interval": list(scores.macro_f1_interval),
        "micro_f1": float(f1_score(true, predicted, labels=numbers, average="micro", zero_division=0)),
        "majority_accuracy": scores.baseline,
        "majority_macro_f1": scores.macro_f1_baseline,
        "mean_loss": sum(each.loss for each in predictions) / len(predictions),
        "names": list(names),
        "classes": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
            for name, p, r, f, n in zip(names, *by_class, strict=True)
        },
        "confusion": scores.confusion.tolist(),
        "calibration": calibration(predictions),
    }


def calibration(predictions: Sequence[Prediction], bins: int = BINS) -> dict[str, Any]:
    """Is the model right as often as it is sure? Expected calibration error, and the bins that it sums.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2: predictions are put into ``bins`` equal ranges of
    confidence; the error is the mean distance of a bin's accuracy from its mean confidence, weighted by its texts.
    """
    rows = []
    for number in range(bins):
        inside = [each for each in predictions if min(int(each.confidence * bins), bins - 1) == number]
        if inside:
            sure = sum(each.confidence for each in inside) / len(inside)
            right = sum(each.right for each in inside) / len(inside)
            rows.append({"from": number / bins, "confidence": sure, "accuracy": right, "n": len(inside)})
    total = sum(each["n"] for each in rows)
    error = sum(each["n"] * abs(each["accuracy"] - each["confidence"]) for each in rows) / max(total, 1)
    return {"error": error, "bins": rows}


def slices(predictions: Sequence[Prediction], columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Accuracy of parts of the data, worst first: each label, each third by length, each value of the named columns.

    ``sure`` says whether a part's interval leaves out the accuracy of all the others; parts with fewer than 20 texts are
    never sure.
    """
    parts: dict[tuple[str, str], list[Prediction]] = {}
    order = sorted(range(len(predictions)), key=lambda each: predictions[each].tokens)
    third = {each: LENGTHS[min(3 * rank // max(len(order), 1), 2)] for rank, each in enumerate(order)}
    for place, each in enumerate(predictions):
        values = [("label", each.label), ("length", third[place])]
        values += [(name, each.columns.get(name, "") or "(empty)") for name in columns]
        for key in values:
            parts.setdefault(key, []).append(each)
    total = sum(each.right for each in predictions)
    found = []
    for (kind, value), inside in parts.items():
        right, rest = sum(each.right for each in inside), len(predictions) - len(inside)
        low, high = bootstrap_interval([float(each.right) for each in inside])
        others = (total - right) / rest if rest else None
        sure = others is not None and len(inside) >= FEW and not low <= others <= high
        found.append(
            {
                "slice": kind,
                "value": value,
                "n": len(inside),
                "accuracy": right / len(inside),
                "interval": [low, high],
                "others": others,
                "sure": sure,
            }
        )
    return sorted(found, key=lambda each: (each["accuracy"], each["slice"], each["value"]))
