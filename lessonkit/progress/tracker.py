"""What the journal's events add up to: a fold, so it never depends on the order of the lines.

What each kind of event carries (all of it optional to the reader, who passes over what it can't use):

    tick, untick   item (a checklist item's or a lesson's id), by ("hand" or "evidence"), why
    run            lesson, scale, metrics {name: number}, seconds, peak_bytes
    exercise       lesson, exercise, outcome ("passed", "failed", "error")
    note           text, about (the id of an item, lesson or technique)
    path           path
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from lessonkit.errors import UnknownNameError
from lessonkit.progress.events import Event, local_time
from lessonkit.progress.journal import Journal

if TYPE_CHECKING:
    from lessonkit.curriculum import ChecklistItem, Curriculum, Lesson

__all__ = [
    "Done",
    "Note",
    "Progress",
    "Run",
    "Suggestion",
    "Tick",
    "TickOutcome",
    "choose_path",
    "evidence_ticks",
    "evidence_why",
    "fold",
    "record_evidence",
    "tick",
    "untick",
]

DEFAULT_PATH = "quick-start"
REAL_SCALES = ("laptop", "gpu")  # smoke only shows that every line runs
NOT_WRITTEN = "not written yet"


class Done(NamedTuple):
    """How many of a path's checklist items are ticked."""

    ticked: int
    total: int


@dataclass(frozen=True)
class Tick:
    """The last word on an item. time: UTC, ISO 8601. by: ``hand`` or ``evidence``."""

    time: str
    by: str
    why: str


@dataclass(frozen=True)
class Run:
    """One recorded run. time: UTC, ISO 8601. seconds, peak_bytes: None where they weren't measured."""

    time: str
    lesson: str
    scale: str
    metrics: dict[str, float]
    seconds: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class Note:
    """The learner's own words; about: the id of an item, lesson or technique, or empty."""

    time: str
    text: str
    about: str


@dataclass(frozen=True)
class Suggestion:
    """What to do next. kind: ``lesson``, ``item`` or ``finished``; minutes: planned; command: to type."""

    kind: str
    id: str
    text: str
    written: bool = True
    minutes: int | None = None
    command: str = ""


@dataclass(frozen=True)
class TickOutcome:
    """changed: whether an event was written; message: a sentence for the learner."""

    item: str
    changed: bool
    message: str
    event: Event | None = None


@dataclass
class Progress:
    """Where the learner stands; made by ``fold``.

    ticked, unticked: the last word on each item that has one. runs: per lesson, oldest first.
    passed: per lesson, when each exercise was first passed. others: events that this fold makes nothing
    of (other kinds, or fields missing), for those who do.
    """

    curriculum: Curriculum
    ticked: dict[str, Tick] = field(default_factory=dict)
    unticked: dict[str, Tick] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    passed: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    chosen_path: str | None = None
    others: list[Event] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The chosen path's id; Quick Start as long as none was chosen."""
        known = [path.id for path in self.curriculum.paths]
        return next(name for name in (self.chosen_path, DEFAULT_PATH, known[0]) if name in known)

    def real_runs(self, lesson: str) -> list[Run]:
        """The lesson's runs at laptop or GPU scale, oldest first."""
        return [run for run in self.runs.get(lesson, []) if run.scale in REAL_SCALES]

    def lesson_done(self, lesson: str) -> bool:
        """Whether it was run at laptop or GPU scale, or its reader ticked it."""
        return lesson in self.ticked or bool(self.real_runs(lesson))

    def done(self, path: str | None = None) -> Done:
        """Ticked and all items of a path, the chosen one by default. Raises UnknownNameError."""
        items = self.curriculum.path(path or self.path).checklist
        return Done(sum(item.id in self.ticked for item in items), len(items))

    def next_step(self, path: str | None = None) -> Suggestion:
        """What to do next on a path, the chosen one by default. Raises UnknownNameError."""
        chosen = self.curriculum.path(path or self.path)
        settled = {lesson.id for lesson in self.curriculum.lessons if self.lesson_done(lesson.id)}
        settled |= _left_behind(self.curriculum, settled)
        for lesson in map(self.curriculum.lesson, chosen.lesson_ids):
            before = map(self.curriculum.lesson, lesson.prerequisites)
            ready = all(other.id in settled or not other.written for other in before)
            if lesson.written and lesson.id not in settled and ready:
                return _suggest_lesson(lesson)
        for item in chosen.checklist:
            if item.id not in self.ticked:
                return _suggest_item(self, item)
        return Suggestion("finished", chosen.id, f"{chosen.title} is complete: all items are ticked.")


def fold(events: Iterable[Event], curriculum: Curriculum) -> Progress:
    """The progress that the events, in any order, add up to."""
    progress = Progress(curriculum)
    for event in sorted(events, key=lambda event: event.rank):
        if not _take(progress, event):
            progress.others.append(event)
    return progress


def evidence_ticks(progress: Progress, curriculum: Curriculum) -> Iterator[str]:
    """The ids of unticked items that have been earned.

    Earned: all evidence is there (notebooks run at laptop or GPU scale, guides ticked as read,
    exercises passed), and some of it is newer than the learner's own unticking, if there was one.
    """
    for item in curriculum.items:
        if item.id in progress.ticked:
            continue
        times = _evidence_times(progress, item)
        taken_back = progress.unticked.get(item.id)
        if times and all(times) and (taken_back is None or max(times) > taken_back.time):
            yield item.id


def evidence_why(progress: Progress, curriculum: Curriculum, item: str) -> str:
    """Why an item is earned, for its tick event: ``ran beginner/lora (laptop, 2026-03-01)``."""
    evidence = curriculum.item(item).evidence
    reasons = []
    for name in evidence.lessons:
        runs = progress.real_runs(name)
        if runs:
            reasons.append(f"ran {name} ({runs[-1].scale}, {runs[-1].time[:10]})")
        elif name in progress.ticked:
            reasons.append(f"read {name} ({progress.ticked[name].time[:10]})")
    reasons += [f"passed {name}" for name in evidence.exercises if _passed_at(progress, name)]
    return ", ".join(reasons)


def record_evidence(journal: Journal, curriculum: Curriculum) -> list[Event]:
    """Tick what has been earned; call it after a run, a passed exercise or a guide read."""
    progress = fold(journal.read().events, curriculum)
    return [
        journal.append("tick", item=item, by="evidence", why=evidence_why(progress, curriculum, item))
        for item in evidence_ticks(progress, curriculum)
    ]


def tick(journal: Journal, curriculum: Curriculum, item: str, why: str = "") -> TickOutcome:
    """Tick a checklist item, or a lesson as done, by hand; ticking twice writes nothing.

    Raises:
        UnknownNameError: there is no such item or lesson.
    """
    title = _title(curriculum, item)
    before = fold(journal.read("tick", "untick").events, curriculum).ticked.get(item)
    if before is not None:
        how = "by hand" if before.by == "hand" else "by what you ran"
        message = f"{title!r} is already ticked ({how}, {local_time(before.time)})."
        return TickOutcome(item, False, message)
    event = journal.append("tick", item=item, by="hand", why=why)
    return TickOutcome(item, True, f"Ticked: {title!r}.", event)


def untick(journal: Journal, curriculum: Curriculum, item: str, why: str = "") -> TickOutcome:
    """Take a tick back; what isn't ticked stays so and writes nothing.

    Raises:
        UnknownNameError: there is no such item or lesson.
    """
    title = _title(curriculum, item)
    if item not in fold(journal.read("tick", "untick").events, curriculum).ticked:
        return TickOutcome(item, False, f"{title!r} is not ticked.")
    event = journal.append("untick", item=item, by="hand", why=why)
    return TickOutcome(item, True, f"Unticked: {title!r}.", event)


def choose_path(journal: Journal, curriculum: Curriculum, path: str) -> Event:
    """Make a path the chosen one. Raises UnknownNameError."""
    return journal.append("path", path=curriculum.path(path).id)


# ---- The fold -------------------------------------------------------------------------------------


def _take(progress: Progress, event: Event) -> bool:
    """Add an event to the progress; False where nothing can be made of it."""
    match event.kind, event.data:
        case "tick" | "untick", {"item": str(item)} if item:
            now, before = progress.ticked, progress.unticked
            if event.kind == "untick":
                now, before = before, now
            before.pop(item, None)
            by, why = event.data.get("by"), event.data.get("why", "")
            now[item] = Tick(event.time, str(by or "hand"), str(why))
        case "run", {"lesson": str(lesson), "scale": str(scale)}:
            progress.runs.setdefault(lesson, []).append(_run(event, lesson, scale))
        case "exercise", {"lesson": str(lesson), "exercise": str(exercise), "outcome": "passed"}:
            progress.passed.setdefault(lesson, {}).setdefault(exercise, event.time)
        case "note", {"text": str(text)}:
            progress.notes.append(Note(event.time, text, str(event.data.get("about") or "")))
        case "path", {"path": str(path)}:
            progress.chosen_path = path
        case _:
            return False
    return True


def _run(event: Event, lesson: str, scale: str) -> Run:
    metrics = event.data.get("metrics")
    metrics = metrics if isinstance(metrics, Mapping) else {}
    numbers = {name: number for name, value in metrics.items() if (number := _number(value)) is not None}
    peak = _number(event.data.get("peak_bytes"))
    peak = int(peak) if peak is not None and math.isfinite(peak) else None
    return Run(event.time, lesson, scale, numbers, _number(event.data.get("seconds")), peak)


def _number(value: object) -> float | None:
    """A number; the journal keeps NaN and infinities as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


# ---- Evidence and suggestions -----------------------------------------------------------------------


def _passed_at(progress: Progress, name: str) -> str:
    """When an exercise, "lesson id:exercise name", was passed; empty where it wasn't."""
    lesson, _, exercise = name.partition(":")
    return progress.passed.get(lesson, {}).get(exercise, "")


def _evidence_times(progress: Progress, item: ChecklistItem) -> list[str]:
    """When each piece of an item's evidence came in; an empty text for a missing one."""
    times = []
    for name in item.evidence.lessons:
        runs = progress.real_runs(name)
        read = progress.ticked.get(name) if not progress.curriculum.lesson(name).runnable else None
        times.append(runs[-1].time if runs else read.time if read else "")
    return times + [_passed_at(progress, name) for name in item.evidence.exercises]


def _left_behind(curriculum: Curriculum, settled: set[str]) -> set[str]:
    """Guides, and lessons that no item asks for, on which a lesson already done was built.

    Who has fine-tuned a model needn't be sent back to the welcome page.
    """
    reached, waiting = set(), list(settled)
    while waiting:
        for name in curriculum.lesson(waiting.pop()).prerequisites:
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return {n for n in reached if not curriculum.lesson(n).runnable or not curriculum.items_for(n)}


def _suggest_lesson(lesson: Lesson) -> Suggestion:
    text = f"{lesson.title} ({lesson.minutes} minutes): {lesson.summary}"
    if lesson.runnable:
        command = f"open {lesson.notebook}, or: lessonkit run {lesson.id}"
    else:
        command = f"read {lesson.source}, then: lessonkit tick {lesson.id}"
    return Suggestion("lesson", lesson.id, text, True, lesson.minutes, command)


def _suggest_item(progress: Progress, item: ChecklistItem) -> Suggestion:
    lessons = [progress.curriculum.lesson(name) for name in item.evidence.lessons]
    missing = [lesson.id for lesson in lessons if not lesson.written]
    if missing:
        text = f"{item.text}: its lesson is {NOT_WRITTEN} ({', '.join(missing)})"
        return Suggestion("item", item.id, text, False)
    minutes = sum(lesson.minutes for lesson in lessons if not progress.lesson_done(lesson.id))
    return Suggestion(
        "item", item.id, item.text, True, minutes, f"when you have it: lessonkit tick {item.id}"
    )


def _title(curriculum: Curriculum, name: str) -> str:
    """The text of an item, or the title of a lesson."""
    titles = {lesson.id: lesson.title for lesson in curriculum.lessons}
    titles |= {item.id: item.text for item in curriculum.items}
    if name not in titles:
        fix = "lessonkit progress shows the items of your path"
        raise UnknownNameError("checklist item", name, titles, fix=fix)
    return titles[name]
