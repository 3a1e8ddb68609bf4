"""What is known about a learner's way so far, as plain records; ``folding`` makes them from events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from lessonkit.progress.events import Event
from lessonkit.progress.suggestions import Suggestion, suggest

if TYPE_CHECKING:
    from lessonkit.curriculum import Curriculum

__all__ = ["Done", "Note", "Progress", "Run", "Tick", "Work"]

DEFAULT_PATH = "quick-start"
REAL_SCALES = ("laptop", "gpu")  # smoke only shows that every line runs


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
    """One recorded run. time: UTC, ISO 8601. seconds, peak_bytes: None where they weren't measured.

    hardware: the machine in words. curves: (step, loss) pairs of each of its trainings, by name.
    """

    time: str
    lesson: str
    scale: str
    metrics: dict[str, float]
    seconds: float | None
    peak_bytes: int | None
    hardware: str = ""
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """The learner's own words; about: the id of an item, lesson or technique, or empty."""

    time: str
    text: str
    about: str


class Work(NamedTuple):
    """A stretch of study that ended at ``time`` (UTC, ISO 8601)."""

    time: str
    lesson: str
    seconds: float


@dataclass
class Progress:
    """Where the learner stands; made by ``fold``.

    ticked, unticked: the last word on each item that has one. runs: per lesson, oldest first.
    passed: per lesson, when each exercise was first passed. failed: per lesson and exercise, how many
    checks have failed since it was last passed. work: seconds of study per lesson; stretches: the same
    in the pieces it was recorded in. begun: per lesson, when it was last worked on. moments: the minutes
    (UTC, ``2026-03-01T18:20``) at which something was studied, by the machine's own clock.
    only: the one technique to be shown, or empty. celebrate: whether a completed item may be celebrated.
    others: events that this fold makes nothing of (other kinds, or fields missing), for those who do.
    """

    curriculum: Curriculum
    ticked: dict[str, Tick] = field(default_factory=dict)
    unticked: dict[str, Tick] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    passed: dict[str, dict[str, str]] = field(default_factory=dict)
    failed: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    work: dict[str, float] = field(default_factory=dict)
    stretches: list[Work] = field(default_factory=list)
    begun: dict[str, str] = field(default_factory=dict)
    moments: set[str] = field(default_factory=set)
    chosen_path: str | None = None
    chosen_only: str = ""
    celebrate: bool = True
    others: list[Event] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The chosen path's id; Quick Start as long as none was chosen."""
        known = [path.id for path in self.curriculum.paths]
        return next(name for name in (self.chosen_path, DEFAULT_PATH, known[0]) if name in known)

    @property
    def only(self) -> str:
        """The id of the one technique to be shown; empty means all, also where it no longer exists."""
        known = {technique.id for technique in self.curriculum.techniques}
        return self.chosen_only if self.chosen_only in known else ""

    def real_runs(self, lesson: str) -> list[Run]:
        """The lesson's runs at laptop or GPU scale, oldest first."""
        return [run for run in self.runs.get(lesson, []) if run.scale in REAL_SCALES]

    def lesson_done(self, lesson: str) -> bool:
        """Whether it was run at laptop or GPU scale, or its reader ticked it, or the item that asks just for it."""
        if lesson in self.ticked or self.real_runs(lesson):
            return True
        needed = {each.id: each.evidence for each in self.curriculum.items if each.id in self.ticked}
        return any(each.lessons == (lesson,) and not each.exercises for each in needed.values())

    def passed_at(self, exercise: str) -> str:
        """When an exercise, ``"lesson id:exercise name"``, was first passed; empty where it wasn't."""
        lesson, _, name = exercise.partition(":")
        return self.passed.get(lesson, {}).get(name, "")

    def done(self, path: str | None = None) -> Done:
        """Ticked and all items of a path, the chosen one by default. Raises UnknownNameError."""
        items = self.curriculum.path(path or self.path).checklist
        return Done(sum(item.id in self.ticked for item in items), len(items))

    def next_step(self, path: str | None = None) -> Suggestion:
        """What to do next on a path, the chosen one by default. Raises UnknownNameError."""
        return suggest(self, path)
