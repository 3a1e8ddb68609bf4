"""The course as data: ``curriculum.yaml`` as the dataclasses below, sound or refused.

Their type hints are the schema (a field without a default is required): ``curriculum_reading`` builds
them from YAML, ``curriculum_checks`` looks at what only holds between entries.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lessonkit.curriculum_checks import CHECKS, NOT_APPLICABLE, file_problems
from lessonkit.curriculum_reading import Reader, parse
from lessonkit.errors import CurriculumError, UnknownNameError

__all__ = [
    "NOT_APPLICABLE",
    "ChecklistItem",
    "Curriculum",
    "Evidence",
    "LearningPath",
    "Lesson",
    "Level",
    "NextStep",
    "Resource",
    "Resources",
    "Span",
    "Step",
    "StudyTips",
    "Technique",
    "Tip",
    "WeekBlock",
    "load_curriculum",
    "project_root",
]

DEFAULT_PATH = Path(__file__).absolute().with_name("curriculum.yaml")
_POSITIVE = {"least": 1}


class _Written:
    written: bool

    @property
    def status(self) -> str:
        """``"ready"`` or ``"not written yet"``."""
        return "ready" if self.written else "not written yet"


@dataclass(frozen=True)
class Level:
    """How deep a lesson goes."""

    id: str
    title: str
    summary: str


@dataclass(frozen=True)
class Technique(_Written):
    """A way to fine-tune. ``guide`` is relative to the checkout; ``written`` is about that guide."""

    id: str
    title: str
    full_title: str
    summary: str
    guide: str
    written: bool


@dataclass(frozen=True)
class Lesson(_Written):
    """One thing to study: a guide to read, or a notebook to run.

    kind: ``guide``, ``notebook``, ``lab`` or ``production``.
    source, notebook: paths relative to the checkout; a guide has no notebook.
    minutes: planned study time. prerequisites: ids of lessons.
    """

    id: str
    title: str
    kind: str
    level: str
    source: str
    minutes: int = field(metadata=_POSITIVE)
    written: bool
    summary: str
    notebook: str | None = None
    technique: str | None = None
    prerequisites: tuple[str, ...] = ()

    @property
    def runnable(self) -> bool:
        """Whether it has a notebook; a guide is only read."""
        return self.kind != "guide"


@dataclass(frozen=True)
class Span:
    """An inclusive range of whole numbers."""

    min: int = field(metadata=_POSITIVE)
    max: int = field(metadata=_POSITIVE)

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min}-{self.max}"


@dataclass(frozen=True)
class Evidence:
    """What earns a checklist item: all of these lessons done and all of these exercises passed.

    lessons: ids. exercises: ``"lesson id:exercise name"``.
    """

    lessons: tuple[str, ...]
    exercises: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChecklistItem:
    """One box to tick on a path; ``id`` is what journals keep."""

    id: str
    text: str
    evidence: Evidence


@dataclass(frozen=True)
class Step:
    """One box of a path's picture, and the ids of the lessons it stands for."""

    text: str
    lessons: tuple[str, ...]


@dataclass(frozen=True)
class WeekBlock:
    """A stretch of weeks, ``first`` to ``last`` inclusive, counted from 1."""

    title: str
    first: int = field(metadata=_POSITIVE)
    last: int = field(metadata=_POSITIVE)
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class LearningPath:
    """A way through the course, with its weeks and its checklist."""

    id: str
    title: str
    emoji: str
    goal: str
    duration_weeks: Span
    hours_per_week: Span
    weeks: tuple[WeekBlock, ...]
    checklist: tuple[ChecklistItem, ...]

    @property
    def weeks_text(self) -> str:
        """For example ``"1-2 weeks"``."""
        return f"{self.duration_weeks} weeks"

    @property
    def hours_text(self) -> str:
        """For example ``"5-10 hours/week"``."""
        return f"{self.hours_per_week} hours/week"

    @property
    def lesson_ids(self) -> tuple[str, ...]:
        """The lessons of its steps, each once, in the order of the weeks."""
        steps = [step for week in self.weeks for step in week.steps]
        return tuple(dict.fromkeys(name for step in steps for name in step.lessons))


@dataclass(frozen=True)
class NextStep:
    """A starting point: it leads to a lesson or to a technique's guide, never both."""

    label: str
    text: str
    lesson: str | None = None
    guide: str | None = None


@dataclass(frozen=True)
class Tip:
    """A study tip."""

    title: str
    text: str


@dataclass(frozen=True)
class StudyTips:
    """Tips for keeping focus, and for being stuck."""

    focus: tuple[Tip, ...]
    when_stuck: tuple[Tip, ...]


@dataclass(frozen=True)
class Resource:
    """Something on the web."""

    title: str
    url: str
    note: str | None = None


@dataclass(frozen=True)
class Resources:
    """Where to go on."""

    essential_reading: tuple[Resource, ...]
    community: tuple[Resource, ...]
    tools: tuple[Resource, ...]


@dataclass(frozen=True)
class Curriculum:
    """The whole course. ``grid[technique id][level id]`` is a lesson's id or ``NOT_APPLICABLE``."""

    version: int
    levels: tuple[Level, ...]
    techniques: tuple[Technique, ...]
    grid: Mapping[str, Mapping[str, str]]
    lessons: tuple[Lesson, ...]
    paths: tuple[LearningPath, ...]
    next_steps: tuple[NextStep, ...]
    study_tips: StudyTips
    resources: Resources

    @functools.cached_property
    def _by_id(self) -> dict[str, Lesson]:
        return {lesson.id: lesson for lesson in self.lessons}

    @functools.cached_property
    def items(self) -> tuple[ChecklistItem, ...]:
        """All checklist items, path after path."""
        return tuple(item for path in self.paths for item in path.checklist)

    def lesson(self, name: str) -> Lesson:
        """The lesson with this id. Raises UnknownNameError, offering the nearest."""
        levels = [known for known in self._by_id if known.endswith(f"/{name}")]  # 'lora' was typed
        fix = f"type one of: {', '.join(levels)}" if levels else "lessonkit lessons lists them all"
        return _find("lesson", name, self._by_id, fix=fix)

    def technique(self, name: str) -> Technique:
        """The technique with this id. Raises UnknownNameError, offering the nearest."""
        return _find("technique", name, {technique.id: technique for technique in self.techniques})

    def path(self, name: str) -> LearningPath:
        """The learning path with this id. Raises UnknownNameError, offering the nearest."""
        return _find("learning path", name, {path.id: path for path in self.paths})

    def item(self, name: str) -> ChecklistItem:
        """The checklist item with this id. Raises UnknownNameError, offering the nearest."""
        return _find("checklist item", name, {item.id: item for item in self.items})

    def path_of(self, item: str) -> LearningPath:
        """The path whose checklist holds this item. Raises UnknownNameError."""
        wanted = self.item(item)
        return next(path for path in self.paths if wanted in path.checklist)

    def items_for(self, lesson: str) -> tuple[ChecklistItem, ...]:
        """The items that doing this lesson helps to earn. Raises UnknownNameError."""
        wanted = self.lesson(lesson).id
        return tuple(item for item in self.items if wanted in item.evidence.lessons)

    def cell(self, technique: str, level: str) -> Lesson | None:
        """The lesson in one cell of the grid; None where the cell is N/A. Raises UnknownNameError."""
        row = self.grid[self.technique(technique).id]
        name = _find("level", level, row)
        return None if name == NOT_APPLICABLE else self.lesson(name)

    def grid_rows(self) -> Iterator[tuple[Technique, tuple[Lesson | None, ...]]]:
        """One row per technique, with a cell per level in the order of ``levels``; None is N/A."""
        for technique in self.techniques:
            yield technique, tuple(self.cell(technique.id, level.id) for level in self.levels)

    def ready(self, lesson: Lesson | str) -> bool:
        """Whether a lesson is written. Raises UnknownNameError for an id that does not exist."""
        return (lesson if isinstance(lesson, Lesson) else self.lesson(lesson)).written


def load_curriculum(
    path: Path | None = None, root: Path | None = None, *, check_files: bool = True
) -> Curriculum:
    """The validated curriculum; read again only when its file has changed.

    path: another curriculum file than the package's own.
    root: the checkout against which the files of written lessons are looked for; ``project_root()``
        where not given. Without a checkout (lessonkit installed as a wheel) that check is skipped.
    check_files: False skips it too, for a build that is about to make those files.

    Raises CurriculumError with every problem found.
    """
    file = Path(path).absolute() if path is not None else DEFAULT_PATH
    try:
        stat = file.stat()
        course, problems = _load(file, (stat.st_mtime_ns, stat.st_size))
    except OSError as error:
        raise CurriculumError(f"{file.name} cannot be read: {error}.", fix=_restore(file)) from error
    root = Path(root) if root is not None else project_root()
    missing = file_problems(course, root) if check_files and root is not None else []
    if problems or missing:
        # Only files are missing: the curriculum itself may be sound, and each line has its own cure.
        fix = _restore(file) if problems else "in the project's folder, do what each line above says"
        told = [*problems, *missing]
        count = "1 problem" if len(told) == 1 else f"{len(told)} problems"
        raise CurriculumError(f"{file.name} has {count}:", problems=told, fix=fix)
    return course


def project_root() -> Path | None:
    """The checkout that this package lies in; None when it was installed as a wheel."""
    parent = Path(__file__).resolve().parent.parent
    if (parent / "start.py").is_file():
        return parent
    try:
        text = (parent / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return parent if 'name = "lessonkit"' in text else None


@functools.lru_cache(maxsize=8)
def _load(file: Path, stamp: tuple[int, int]) -> tuple[Curriculum, list[str]]:
    """Read and check one file. ``stamp`` (mtime, size) makes an edited file a new entry."""
    raw = parse(file, fix=_restore(file))
    reader = Reader()
    course = reader.table(Curriculum, raw)
    for check in CHECKS:
        check(course, reader.report)
    return course, reader.told()


def _find(kind: str, name: str, table: Mapping[str, Any], fix: str = "") -> Any:
    try:
        return table[name]
    except (KeyError, TypeError):
        raise UnknownNameError(kind, str(name), table, fix=fix) from None


def _restore(file: Path) -> str:
    if file != DEFAULT_PATH:
        return f"mend {file}"
    if project_root() is None:
        return f"mend {file}, or restore it: pip install --force-reinstall --no-deps lessonkit"
    return (
        "mend lessonkit/curriculum.yaml, or restore it (your edits to it are lost), "
        "in the project's folder: git checkout lessonkit/curriculum.yaml"
    )
