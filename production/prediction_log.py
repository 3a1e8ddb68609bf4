"""What was predicted, one JSON line a request; true labels that arrive later are joined to it by the request's id.

By default the log holds no texts: a topic, a confidence and two lengths are enough for most questions, and can't leak
what somebody wrote.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lessonkit.errors import DataError

__all__ = ["Delayed", "PredictionLog", "join_labels", "read_log", "safe_id", "wilson"]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def safe_id(text: str) -> str:
    """The id that a client sent, if it is short and plain; else "". It goes into a header and a log, so it is checked."""
    return text if _ID.fullmatch(text) else ""


class PredictionLog:
    """Appends to ``path``. texts: keep the texts, too; decide that with whoever is responsible for them."""

    def __init__(self, path: str | Path, texts: bool = False) -> None:
        self.path, self.texts = Path(path), texts
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()

    def add(self, request_id: str, text: str, answer: Mapping[str, Any], seconds: float) -> None:
        """One line. seconds: from request to answer."""
        row = {
            "id": request_id,
            "time": round(time.time(), 3),
            "version": answer["version"],
            "label": answer["label"],
            "confidence": round(answer["score"], 6),
            "characters": len(text),
            "tokens": answer.get("tokens"),
            "seconds": round(seconds, 4),
        }
        if self.texts:
            row["text"] = text
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """All whole lines; a last line that a crash cut short is left out. DataError for anything else that is no JSON."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise DataError(
            f"The prediction log {path} can't be read: {error.strerror}.",
            fix="check the path; the server writes it once it was started with --log FILE and was asked something",
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise DataError(f"Line {number} of {path} is no JSON.", fix="remove that line") from None
    return found


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share (Wilson, 1927), 95 % by default; (0, 1) for n = 0. Unlike p +- z*s it holds near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    p, centre = right / n, (right + z * z / 2) / (n + z * z)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Delayed:
    """n: predictions whose label has arrived, of ``of``. delay: the median, in seconds. interval: of the accuracy."""

    right: int
    n: int
    of: int
    delay: float
    unknown: int

    @property
    def accuracy(self) -> float:
        """Share right of those whose label is known; nan for none."""
        return self.right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """By Wilson, 95 %."""
        return wilson(self.right, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"accuracy {self.accuracy:.3f} ({low:.3f} to {high:.3f}), labels for {self.n} of {self.of}, "
            f"median delay {self.delay:.1f} s"
        )


def join_labels(log: Iterable[Mapping[str, Any]], labels: Iterable[Mapping[str, Any]]) -> dict[str, Delayed]:
    """By version: how many were right, of those whose label is known.

    labels: rows with "id", "label" and "time" (of its arrival). The last one for an id counts: people correct
    themselves. Ids that the log doesn't have are counted as unknown, in every version's line.
    """
    last = {str(row["id"]): row for row in labels}
    rows = {str(row["id"]): row for row in log}  # a request that was repeated counts once
    unknown = len(set(last) - set(rows))
    found = {}
    for version in sorted({row["version"] for row in rows.values()}):
        mine = {each: row for each, row in rows.items() if row["version"] == version}
        known = [each for each in mine if each in last]
        right = sum(mine[each]["label"] == last[each]["label"] for each in known)
        delays = sorted(last[each]["time"] - mine[each]["time"] for each in known)
        delay = delays[len(delays) // 2] if delays else math.nan
        found[version] = Delayed(right, len(known), len(mine), delay, unknown)
    return found
