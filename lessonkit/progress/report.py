"""A learner's progress told: as text for a terminal, and as JSON for programs."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lessonkit.progress.events import local_time, plain
from lessonkit.progress.pace import pace, streak
from lessonkit.progress.records import Note, Progress, Run
from lessonkit.progress.suggestions import NOT_WRITTEN
from lessonkit.progress.weeks import hidden_boxes, weeks

if TYPE_CHECKING:
    from lessonkit.curriculum import ChecklistItem, Curriculum, LearningPath, Lesson

__all__ = ["cell", "notes_on", "notes_text", "printable", "render_text", "to_dict"]

RUNS_SHOWN = 10


def to_dict(progress: Progress, curriculum: Curriculum) -> dict[str, Any]:
    """All of it as strict JSON; NaN and infinities, which JSON lacks, as text."""
    told = {
        "path": progress.path,
        "only": progress.only,
        "paths": [_path_dict(progress, path) for path in curriculum.paths],
        "grid": {
            technique.id: {
                level.id: cell(progress, lesson) for level, lesson in zip(curriculum.levels, row, strict=True)
            }
            for technique, row in curriculum.grid_rows()
        },
        "runs": [asdict(run) for run in _all_runs(progress)],
        "exercises_passed": progress.passed,
        "notes": [asdict(note) for note in progress.notes],
        "pace": asdict(pace(progress)),
        "streak": asdict(streak(progress)),
        "next": asdict(progress.next_step()),
    }
    return plain(told)


def render_text(
    progress: Progress, curriculum: Curriculum, *, everything: bool = False, now: datetime | None = None
) -> str:
    """The chosen path's checklist, the technique grid, the time, the runs and what's next, as plain text.

    everything: all techniques, also where one was chosen.
    """
    path = curriculum.path(progress.path)
    only = "" if everything else progress.only
    ticked, total = progress.done(path.id)
    lines = [f"{path.emoji} {path.title} ({path.weeks_text}): {ticked} of {total} done"]
    for week in weeks(curriculum, path, only):
        lines += [week.title, *(_guide_line(progress, guide) for guide in week.guides)]
        lines += [_item_line(progress, item) for item in week.items]
    if only:
        title, hidden = curriculum.technique(only).title, hidden_boxes(curriculum, path, only)
        lines.append(f"Only {title} is shown ({hidden} more boxes). To see all: lessonkit progress --all")
    for other in curriculum.paths if not only else ():
        if other.id != path.id:
            count = progress.done(other.id)
            lines.append(f"{other.emoji} {other.title}: {count.ticked} of {count.total} done ({other.id})")
    lines += ["", *_grid_lines(progress, curriculum, only), ""]
    lines += [f"Time: {pace(progress, now=now).text}", f"Days: {streak(progress, now).text}", ""]
    lines += _run_lines(progress, curriculum, only)
    step = progress.next_step()
    lines += ["", f"Next: {step.text}"]
    lines += [f"      {step.command}"] if step.command else []
    return "\n".join(lines)


def notes_on(progress: Progress, about: str = "") -> list[Note]:
    """The notes on a lesson, item or technique (those on its lessons too), or all of them, oldest first."""
    names = {about, *(lesson.id for lesson in progress.curriculum.lessons if lesson.technique == about)}
    return [note for note in progress.notes if not about or note.about in names]


def notes_text(notes: Sequence[Note]) -> str:
    """Notes in full, each below its time and what it is about; safe to print whatever it holds."""
    told = []
    for note in notes:
        head = " · ".join(filter(None, [local_time(note.time), note.about]))
        told.append(printable(f"{head}\n") + textwrap.indent(printable(note.text), "  ", lambda _line: True))
    return "\n\n".join(told)


def printable(text: str) -> str:
    """The text without what would steer a terminal; line breaks and tabs stay."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def _run_lines(progress: Progress, curriculum: Curriculum, only: str) -> list[str]:
    own = {lesson.id for lesson in curriculum.lessons if lesson.technique == only}
    runs = [run for run in _all_runs(progress) if not only or run.lesson in own]
    shown = runs[-RUNS_SHOWN:]
    title = f"Runs, the last {len(shown)} of {len(runs)}" if runs else "No runs yet"
    return [title, *map(_run_line, reversed(shown))]


def _path_dict(progress: Progress, path: LearningPath) -> dict[str, Any]:
    ticked, total = progress.done(path.id)
    items: list[dict[str, Any]] = []
    for item in path.checklist:
        mark = progress.ticked.get(item.id)
        items.append({"id": item.id, "text": item.text, "ticked": mark is not None})
        if mark:
            items[-1] |= asdict(mark)
    return {"id": path.id, "title": path.title, "ticked": ticked, "total": total, "items": items}


def _all_runs(progress: Progress) -> list[Run]:
    return sorted((run for runs in progress.runs.values() for run in runs), key=lambda run: run.time)


def cell(progress: Progress, lesson: Lesson | None) -> str:
    """What a cell of the technique grid says: ``done``, ``open``, ``not written yet`` or ``N/A``."""
    if lesson is None:
        return "N/A"
    if progress.lesson_done(lesson.id):
        return "done"
    return "open" if lesson.written else NOT_WRITTEN


def _guide_line(progress: Progress, guide: Lesson) -> str:
    """A guide; it counts for no item by itself, but who has ticked it wants to see it."""
    box = "[x]" if guide.id in progress.ticked else "[ ]"
    return f"  {box} Read: {guide.title} ({guide.id})"


def _item_line(progress: Progress, item: ChecklistItem) -> str:
    mark = progress.ticked.get(item.id)
    box = "[x]" if mark else "[ ]"
    unwritten = not all(progress.curriculum.lesson(name).written for name in item.evidence.lessons)
    about = mark.why if mark else NOT_WRITTEN if unwritten else ""
    return f"  {box} {item.text} ({item.id})" + (f": {about}" if about else "")


def _grid_lines(progress: Progress, curriculum: Curriculum, only: str = "") -> list[str]:
    marks = {"done": "✅", "open": "⬜", NOT_WRITTEN: "⬜*", "N/A": "N/A"}
    table = [["Technique", *(level.title for level in curriculum.levels), "Notes"]]
    for technique, row in curriculum.grid_rows():
        if only not in ("", technique.id):
            continue
        about = {technique.id, *(lesson.id for lesson in row if lesson)}
        notes = [note.text for note in progress.notes if note.about in about]
        last = " ".join(notes[-1].split()) if notes else ""
        cells = [marks[cell(progress, lesson)] for lesson in row]
        table.append([technique.title, *cells, last if len(last) <= 40 else last[:39] + "…"])
    widths = [max(map(_width, column)) + 2 for column in zip(*table, strict=True)]
    padded = (
        (text + " " * (width - _width(text)) for text, width in zip(row, widths, strict=True))
        for row in table
    )
    return [
        *("".join(row).rstrip() for row in padded),
        f"✅ done   ⬜ open   ⬜* {NOT_WRITTEN}   N/A no such lesson",
    ]


def _width(text: str) -> int:
    """How many columns a text takes in a terminal: these emoji take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _run_line(run: Run) -> str:
    parts = [local_time(run.time), run.lesson, run.scale]
    parts += [f"{run.seconds:.0f} s"] if run.seconds is not None else []
    parts += [f"{run.peak_bytes / 2**30:.2f} GiB"] if run.peak_bytes is not None else []
    parts += [f"{name} {value:.4g}" for name, value in run.metrics.items()]
    return "  " + "  ".join(parts)
