"""How long progress takes with 10,000 events in the journal: commands as processes, and single actions.

python benchmarks/progress.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from saving import save

from lessonkit.curriculum import load_curriculum
from lessonkit.progress import (
    Event,
    Journal,
    TickOutcome,
    fold,
    record_evidence,
    render_text,
    tick,
    untick,
)
from lessonkit.progress.portfolio import export

EVENTS = 10_000
ROUNDS = 20
LESSON = "beginner/full-fine-tuning"
ITEM = "model-registry"
CURVE = [[10 * step, round(2.5 / (step + 1), 5)] for step in range(60)]
# What one learner's journal holds, twenty events of it; curves make a run the longest line.
SHARES: list[tuple[str, dict]] = [
    *[("work", {"lesson": LESSON, "seconds": 300})] * 8,
    *[("exercise", {"lesson": LESSON, "exercise": "recall", "outcome": "failed", "diagnosis": "precision"})]
    * 4,
    ("exercise", {"lesson": LESSON, "exercise": "recall", "outcome": "passed", "diagnosis": ""}),
    ("tick", {"item": "experiment-tracking", "by": "hand", "why": ""}),
    ("untick", {"item": "experiment-tracking", "by": "hand", "why": ""}),
    ("note", {"text": "A learning rate of 5e-5 is enough here; more makes it forget. " * 3, "about": "lora"}),
    ("note", {"text": "Ask why.", "about": ""}),
    (
        "focus",
        {"session": "a", "action": "stop", "minutes": 25, "rest": 5, "done": "section 3", "seconds": 1500},
    ),
    ("stuck", {"session": "b", "action": "hint", "lesson": LESSON, "exercise": "recall", "number": 1}),
    (
        "run",
        {
            "lesson": LESSON,
            "scale": "laptop",
            "metrics": {"test_accuracy": 0.951, "test_macro_f1": 0.887, "test_texts": 2189},
            "seconds": 93.2,
            "peak_bytes": 2**30,
            "hardware": "a processor, 2 cores, 8 GiB",
            "curves": {"training 1": CURVE},
        },
    ),
]


def lines() -> Iterator[str]:
    """The journal's lines, ten minutes apart."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(EVENTS):
        at = (begin + timedelta(minutes=10 * number)).isoformat(timespec="microseconds")
        kind, data = SHARES[number % len(SHARES)]
        yield Event(f"{number:032x}", at, 1, kind, data).to_line() + "\n"


def timed(*actions: Callable[[], object], rounds: int = ROUNDS) -> list[dict[str, float]]:
    """Milliseconds of each action, done in turn: the median and the slowest, the first round not counted."""
    taken: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds + 1):
        for action, kept in zip(actions, taken, strict=True):
            start = time.perf_counter()
            action()
            kept.append(1000 * (time.perf_counter() - start))
    return [
        {
            "median_milliseconds": round(statistics.median(kept[1:]), 2),
            "slowest_milliseconds": round(max(kept[1:]), 2),
        }
        for kept in taken
    ]


def command(name: str, folder: Path) -> Callable[[], object]:
    """``lessonkit NAME`` as a process of its own, from its start to its end."""
    environ = os.environ | {"LESSONKIT_PROGRESS": str(folder)}
    arguments = [sys.executable, "-m", "lessonkit", name]
    return lambda: subprocess.run(arguments, env=environ, check=True, capture_output=True)


def measure(folder: Path) -> list[dict[str, object]]:
    """A row for each thing that is timed, with the journal that lies in this folder."""
    curriculum, journal = load_curriculum(check_files=False), Journal(folder / "journal.jsonl")
    progress = fold(journal.read().events, curriculum)

    def change(action: Callable[..., TickOutcome]) -> Callable[[], object]:
        def once() -> None:
            if not action(journal, curriculum, ITEM).changed:
                raise RuntimeError("nothing was written")

        return once

    names = ["`lessonkit progress`", "`lessonkit next`"]
    rows = timed(command("progress", folder), command("next", folder), rounds=7)
    names += ["`tick(...)`", "`untick(...)`"]
    rows += timed(change(tick), change(untick))  # in turn: a second tick in a row would write nothing
    for name, action in (
        ("read and fold all events", lambda: fold(journal.read().events, curriculum)),
        ("look for earned items", lambda: record_evidence(journal, curriculum)),
        ("the report as text", lambda: render_text(progress, curriculum)),
        ("the portfolio as HTML", lambda: export(progress, curriculum, "html")),
    ):
        names.append(name)
        rows += timed(action)
    return [{"name": name} | row for name, row in zip(names, rows, strict=True)]


def main() -> None:
    """Measure and save."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "journal.jsonl"
        path.write_text("".join(lines()), encoding="utf-8")
        size = path.stat().st_size
        rows = measure(path.parent)
    save("progress", rows, events=EVENTS, journal_bytes=size, rounds=ROUNDS)


if __name__ == "__main__":
    main()
