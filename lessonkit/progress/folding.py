"""What the journal's events add up to: a fold, so it never depends on the order of the lines.

What each kind of event carries (all of it optional to the reader, who passes over what it can't use):

    tick, untick   item (a checklist item's or a lesson's id), by ("hand" or "evidence"), why
    run            lesson, scale, metrics {name: number}, seconds, peak_bytes, hardware,
                   curves {name: [[step, loss], ...]}
    exercise       lesson, exercise, outcome ("passed", "failed", "error")
    note           text, about (the id of an item, lesson or technique)
    path           path
    work           lesson, seconds (of study, since the last such event of the same notebook)
    only           technique (the one to be shown; empty for all)
    setting        name, value
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lessonkit.progress.events import Event
from lessonkit.progress.records import Note, Progress, Run, Tick, Work

if TYPE_CHECKING:
    from lessonkit.curriculum import Curriculum

__all__ = ["fold"]

STUDY = ("tick", "run", "exercise", "note", "work", "focus", "stuck")  # what somebody does who studies
PLAIN = {int, float}
LONGEST_WORK = 6 * 3600  # seconds in one event; the study clock writes far shorter ones


def fold(events: Iterable[Event], curriculum: Curriculum) -> Progress:
    """The progress that the events, in any order, add up to."""
    progress = Progress(curriculum)
    for event in sorted(events, key=lambda event: event.rank):
        if event.kind in STUDY:
            progress.moments.add(event.moment[:16])
        if not _take(progress, event):
            progress.others.append(event)
    return progress


def _take(progress: Progress, event: Event) -> bool:
    """Add an event to the progress; False where nothing can be made of it."""
    match event.kind, event.data:
        case "tick" | "untick", {"item": str(item)} if item:
            _take_tick(progress, event, item)
        case "run", {"lesson": str(lesson), "scale": str(scale)}:
            progress.runs.setdefault(lesson, []).append(_run(event, lesson, scale))
        case "exercise", {"lesson": str(lesson), "exercise": str(exercise), "outcome": str(outcome)}:
            _take_exercise(progress, event, lesson, exercise, outcome)
        case "work", {"lesson": str(lesson), "seconds": seconds}:
            return _take_work(progress, event, lesson, _number(seconds))
        case "note", {"text": str(text)}:
            progress.notes.append(Note(event.time, text, str(event.data.get("about") or "")))
        case "path", {"path": str(path)}:
            progress.chosen_path = path
        case "only", {"technique": str(technique)}:
            progress.chosen_only = technique
        case "setting", {"name": "celebrate", "value": bool(on)}:
            progress.celebrate = on
        case _:
            return False
    return True


def _take_tick(progress: Progress, event: Event, item: str) -> None:
    now, before = progress.ticked, progress.unticked
    if event.kind == "untick":
        now, before = before, now
    before.pop(item, None)
    by, why = event.data.get("by"), event.data.get("why", "")
    now[item] = Tick(event.time, str(by or "hand"), str(why))


def _take_exercise(progress: Progress, event: Event, lesson: str, exercise: str, outcome: str) -> None:
    progress.begun[lesson] = event.time
    failed = progress.failed.setdefault(lesson, {})
    if outcome == "passed":
        progress.passed.setdefault(lesson, {}).setdefault(exercise, event.time)
        failed.pop(exercise, None)
    elif outcome == "failed":
        failed[exercise] = failed.get(exercise, 0) + 1
    if not failed:
        del progress.failed[lesson]


def _take_work(progress: Progress, event: Event, lesson: str, seconds: float | None) -> bool:
    if seconds is None or not 0 < seconds <= LONGEST_WORK:
        return False
    progress.begun[lesson] = event.time
    progress.work[lesson] = progress.work.get(lesson, 0.0) + seconds
    progress.stretches.append(Work(event.moment, lesson, seconds))
    return True


def _run(event: Event, lesson: str, scale: str) -> Run:
    data = event.data
    metrics = data.get("metrics")
    metrics = metrics if isinstance(metrics, Mapping) else {}
    numbers = {name: number for name, value in metrics.items() if (number := _number(value)) is not None}
    peak = _number(data.get("peak_bytes"))
    peak = int(peak) if peak is not None and math.isfinite(peak) else None
    hardware = data.get("hardware")
    hardware = hardware if isinstance(hardware, str) else ""
    seconds = _number(data.get("seconds"))
    return Run(event.time, lesson, scale, numbers, seconds, peak, hardware, _curves(data.get("curves")))


def _curves(data: object) -> dict[str, list[tuple[float, float]]]:
    """The curves that are whole: at least two points of two finite numbers each."""
    curves = {}
    for name, points in data.items() if isinstance(data, Mapping) else ():
        kept = [(p[0], p[1]) for p in points if _is_point(p)] if isinstance(points, list) else []
        if len(kept) >= 2:
            curves[name] = kept
    return curves


def _is_point(point: object) -> bool:
    """Two finite numbers; a million of them may be looked at, so without detours."""
    if type(point) is not list or len(point) != 2 or not {type(point[0]), type(point[1])} <= PLAIN:
        return False
    try:
        return math.isfinite(point[0]) and math.isfinite(point[1])
    except OverflowError:  # a whole number too large for a float
        return False


def _number(value: object) -> float | None:
    """A number; the journal keeps NaN and infinities as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
