"""The whole evaluation, from a configuration to a folder of three files; written all or not at all."""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lessonkit.errors import DataError
from lessonkit.scoring.config import EvaluationConfig
from lessonkit.scoring.html_report import report_page
from lessonkit.scoring.loading import LabelledTexts, labelled_texts, load_scored_model, numbered
from lessonkit.scoring.measuring import metrics, slices
from lessonkit.scoring.predicting import Prediction, predict

__all__ = ["Evaluation", "evaluate", "evaluate_function", "read_evaluation"]

PREDICTIONS, METRICS, REPORT = "predictions.jsonl", "metrics.json", "report.html"
VERSIONS = ("lessonkit", "torch", "transformers", "peft", "scikit-learn")


@dataclass
class Evaluation:
    """folder: where its files are. metrics: what ``metrics.json`` holds. predictions: one for each text, in order."""

    folder: Path
    metrics: dict[str, Any]
    predictions: list[Prediction] = field(repr=False)

    def __str__(self) -> str:
        m = self.metrics
        (low, high), (f_low, f_high) = m["accuracy_interval"], m["macro_f1_interval"]
        lines = [
            f"accuracy {m['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}, n = {m['n']:,}); "
            f"majority class {m['majority_accuracy']:.3f}",
            f"macro-F1 {m['macro_f1']:.3f} ({f_low:.3f} to {f_high:.3f}); "
            f"calibration error {m['calibration']['error']:.3f}",
        ]
        weak = [each for each in m["slices"] if each["sure"] and each["accuracy"] < each["others"]]
        if weak:
            told = "worst slice: {slice} {value!r} {accuracy:.3f} (n = {n:,}; the others {others:.3f})"
            lines.append(told.format(**weak[0]))
        return "\n".join(
            [*lines, *m["notes"], f"Written to {self.folder}: {PREDICTIONS}, {METRICS}, {REPORT}"]
        )


def evaluate(config: EvaluationConfig, *, tell: Callable[[str], None] = lambda text: None) -> Evaluation:
    """Score a saved classifier on labelled texts, and write predictions, metrics and a report into ``config.output``.

    tell: gets a line for each stage. An earlier evaluation in that folder is replaced, once all three files are there.
    Raises DataError, ModelError or UnknownNameError, and then has written nothing.
    """
    data = labelled_texts(config)
    tell(f"{len(data.texts):,} texts")
    scored = load_scored_model(config.model, base=config.base)
    data.notes += scored.notes
    numbers, names = numbered(data.labels, scored.names, data.notes)
    tell(f"Model loaded: {len(names)} labels")
    probabilities, tokens, seconds = predict(
        scored, data.texts, batch_size=config.batch_size, max_length=config.max_length
    )
    if probabilities.shape[1] != len(names):
        raise DataError(
            f"The model tells {probabilities.shape[1]} classes apart, the data has {len(names)}.",
            fix=f"write the label names, in the order of the training, into label_names.json in {config.model}",
        )
    tell("Scored; writing the report")
    return _scored(config, data, (numbers, names), probabilities.tolist(), tokens, seconds)


def evaluate_function(
    config: EvaluationConfig, answer: Callable[[list[str]], Any], names: Sequence[str]
) -> Evaluation:
    """The same for anything that can give probabilities, such as a baseline, so that the gate can compare it.

    answer: gets the texts, gives their probabilities, shape (n, len(names)). names: the labels, in the order of its
    columns. config.model is only what it is called. A text's length is counted in words here.
    Raises DataError for another shape, and for rows that are no probabilities; then nothing has been written.
    """
    import numpy as np

    data = labelled_texts(config)
    numbers, known = numbered(data.labels, list(names), data.notes)
    start = time.perf_counter()
    given = np.asarray(answer(list(data.texts)), dtype=float)
    seconds = time.perf_counter() - start
    if given.shape != (len(data.texts), len(known)):
        raise DataError(
            f"The answers have the shape {given.shape}.",
            why=f"there are {len(data.texts):,} texts and {len(known)} labels",
            fix="give one row for each text, with one probability for each name: predict_proba(texts)",
        )
    if not np.isfinite(given).all() or (given < 0).any() or abs(given.sum(1) - 1).max() > 1e-3:
        raise DataError(
            "The answers are no probabilities: each row sums to 1.", fix="take the softmax of logits"
        )
    words = [len(each.split()) for each in data.texts]
    return _scored(config, data, (numbers, known), given.tolist(), words, seconds)


def _scored(
    config: EvaluationConfig,
    data: LabelledTexts,
    labels: tuple[list[int], list[str]],
    probabilities: list[list[float]],
    tokens: list[int],
    seconds: float,
) -> Evaluation:
    """Predictions and metrics of probabilities, (n, labels), written to ``config.output``."""
    numbers, names = labels
    predictions = []
    for place, (row, number) in enumerate(zip(probabilities, numbers, strict=True)):
        best = max(row)
        predictions.append(
            Prediction(
                line=data.lines[place],
                text=data.texts[place],
                label=names[number],
                prediction=names[row.index(best)],
                confidence=best,
                label_probability=row[number],
                loss=-math.log(max(row[number], 1e-12)),
                tokens=tokens[place],
                columns={name: values[place] for name, values in data.columns.items()},
            )
        )
    found = metrics(predictions, names) | {
        "slices": slices(predictions, config.slices),
        "texts_per_second": len(predictions) / max(seconds, 1e-9),
        "config": config.to_dict(),
        "data_sha256": data.digest,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "notes": data.notes,
    }
    folder = Path(config.output).expanduser()
    _write(folder, predictions, found)
    return Evaluation(folder, found, predictions)


def read_evaluation(folder: str | Path) -> Evaluation:
    """What ``evaluate`` wrote into a folder. Raises DataError if it isn't there or isn't whole."""
    place = Path(folder).expanduser()
    try:
        found = json.loads((place / METRICS).read_text(encoding="utf-8"))
        with (place / PREDICTIONS).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        for row in rows:
            row.pop("right")
        predictions = [Prediction(**row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{place} holds no whole evaluation.",
            why=f"{type(error).__name__}: {error}"[:200],
            fix=f"write one: lessonkit evaluate --model FOLDER --data FILE --output {place}",
        ) from error
    if len(predictions) != found.get("n"):
        raise DataError(
            f"{place} has {len(predictions)} predictions, its metrics tell of {found.get('n')}.",
            fix="evaluate again; the files are of two evaluations, or cut short",
        )
    return Evaluation(place, found, predictions)


def _write(folder: Path, predictions: list[Prediction], found: dict[str, Any]) -> None:
    lines = "".join(json.dumps(each.to_dict(), ensure_ascii=False) + "\n" for each in predictions)
    files = {
        PREDICTIONS: lines,
        METRICS: json.dumps(found, indent=1, ensure_ascii=False) + "\n",
        REPORT: report_page(predictions, found),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            for name, text in files.items():
                (Path(part) / name).write_text(text, encoding="utf-8", errors="replace", newline="\n")
            for name in files:
                os.replace(Path(part) / name, folder / name)
    except OSError as error:
        raise DataError(
            f"The evaluation cannot be written to {folder}.",
            why=error.strerror or str(error),
            fix="pass another --output FOLDER",
        ) from error


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
