"""The course as data: reads ``curriculum.yaml`` and tells everything that is wrong with it at once.

Two stages share one list of problems. ``_Reader`` turns YAML into the dataclasses below, whose type
hints are the schema (a field without a default is required). The ``_check_*`` functions then look at
what only holds between entries: names, cycles, weeks, files.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import graphlib
import re
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lessonkit.errors import CurriculumError, UnknownNameError, nearest

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

NOT_APPLICABLE = "N/A"  # a grid cell for which there is deliberately no lesson
DEFAULT_PATH = Path(__file__).absolute().with_name("curriculum.yaml")
VERSION = 1
KINDS = ("guide", "notebook", "lab", "production")
_POSITIVE = {"least": 1}


def _status(written: bool) -> str:
    return "ready" if written else "not written yet"


@dataclass(frozen=True)
class Level:
    """How deep a lesson goes."""

    id: str
    title: str
    summary: str


@dataclass(frozen=True)
class Technique:
    """A way to fine-tune. ``guide`` is relative to the checkout; ``written`` is about that guide."""

    id: str
    title: str
    full_title: str
    summary: str
    guide: str
    written: bool

    @property
    def status(self) -> str:
        """``"ready"`` or ``"not written yet"``, for the guide."""
        return _status(self.written)


@dataclass(frozen=True)
class Lesson:
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
    def status(self) -> str:
        """``"ready"`` or ``"not written yet"``."""
        return _status(self.written)

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
        return tuple(
            dict.fromkeys(name for week in self.weeks for step in week.steps for name in step.lessons)
        )


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
        loaded = _load(file, (stat.st_mtime_ns, stat.st_size))
    except OSError as error:
        raise CurriculumError(f"{file.name} cannot be read: {error}.", fix=_restore(file)) from error
    problems = list(loaded.problems)
    root = Path(root) if root is not None else project_root()
    if check_files and root is not None:
        problems += _file_problems(loaded.curriculum, root)
    if problems:
        # Only files are missing: the curriculum itself may be sound, and each line has its own cure.
        fix = _restore(file) if loaded.problems else "in the project's folder, do what each line above says"
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise CurriculumError(f"{file.name} has {count}:", problems=problems, fix=fix)
    return loaded.curriculum


def project_root() -> Path | None:
    """The checkout that this package lies in; None when it was installed as a wheel."""
    parent = Path(__file__).resolve().parent.parent
    if (parent / "start.py").is_file():
        return parent
    try:
        text = (parent / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return parent if re.search(r'^name\s*=\s*["\']lessonkit["\']', text, re.MULTILINE) else None


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


# ---- Reading: YAML to dataclasses --------------------------------------------------------------------


class _Table(dict):
    """A YAML mapping that knows its line, the lines of its keys, and its repeated keys."""

    def __init__(self, line: int = 0) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[Any, int] = {}
        self.repeated: list[tuple[Any, int]] = []


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # the C parser, where it was built
    pass


def _construct_table(loader: Any, node: yaml.MappingNode) -> _Table:
    table = _Table(node.start_mark.line + 1)
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if key in table:
            table.repeated.append((key, line))
            continue
        table[key] = loader.construct_object(value_node, deep=True)
        table.lines[key] = line
    return table


_YamlLoader.add_constructor("tag:yaml.org,2002:map", _construct_table)


@dataclass(frozen=True)
class _Loaded:
    curriculum: Curriculum
    problems: tuple[str, ...]


@functools.lru_cache(maxsize=8)
def _load(file: Path, stamp: tuple[int, int]) -> _Loaded:
    """Parse and check one file. ``stamp`` (mtime, size) makes an edited file a new entry."""
    try:
        raw = yaml.load(file.read_text(encoding="utf-8-sig"), _YamlLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: not UTF-8, or no such date
        raise CurriculumError(
            f"{file.name} is not valid YAML:", problems=[_syntax(error)], fix=_restore(file)
        ) from error
    if not isinstance(raw, _Table):
        raise CurriculumError(
            f"{file.name} must be a mapping of keys to values at its top, found {_name(raw)}.",
            fix=_restore(file),
        )
    if isinstance(raw.get("version"), int) and raw["version"] != VERSION:
        raise CurriculumError(
            f"{file.name} has version {raw['version']}; this lessonkit reads version {VERSION}.",
            fix=_restore(file),
        )
    reader = _Reader()
    curriculum = reader.table(Curriculum, raw, "")
    for check in _CHECKS:
        check(curriculum, reader.report)
    problems = sorted(reader.problems, key=lambda problem: problem[0])
    return _Loaded(curriculum, tuple(dict.fromkeys(text for _, text in problems)))


def _syntax(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return " ".join(str(error).split()) or type(error).__name__
    text = ", ".join(part for part in (error.context, error.problem) if part)
    return f"line {mark.line + 1}, column {mark.column + 1}: {text}"


_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a fraction",
    list: "a list",
    dict: "a mapping",
    _Table: "a mapping",
    type(None): "nothing",
    datetime.date: "a date",
    datetime.datetime: "a date",
}


def _name(value: Any) -> str:
    kind = _NAMES.get(type(value), type(value).__name__)
    shown = str(value) if len(str(value)) <= 40 else f"{str(value)[:40]}..."
    return f"{kind} ({shown})" if isinstance(value, str | bool | int | float) else kind


_hints = functools.lru_cache(typing.get_type_hints)


class _Reader:
    """Builds dataclasses from YAML, noting what is wrong and going on with an empty value instead.

    So later checks can run over the rest; they take an empty value as "already told".
    """

    def __init__(self) -> None:
        self.problems: list[tuple[int, str]] = []  # (line, text)
        self._places: dict[int, tuple[str, _Table]] = {}  # id() of a built object: its name and its YAML

    def note(self, table: _Table, key: Any, where: str, message: str) -> None:
        line = table.lines.get(key, table.line)
        self.problems.append((line, f"line {line}: " + (f"{where}: " if where else "") + message))

    def report(self, owner: Any, key: str, message: str) -> None:
        """A problem with a field of an object that was built here."""
        where, table = self._places[id(owner)]
        self.note(table, key, where, message)

    def table(self, kind: type, raw: _Table, where: str) -> Any:
        fields = {spec.name: spec for spec in dataclasses.fields(kind)}
        for key, line in raw.repeated:
            self.note(_Table(line), None, where, f"the key {key!r} stands here a second time")
        for key in raw:
            if key not in fields:
                self.note(raw, key, where, f"unknown key {key!r}{_guess(str(key), fields)}")
        values = {}
        for name, spec in fields.items():
            required = spec.default is dataclasses.MISSING
            if name in raw:
                values[name] = self.value(_hints(kind)[name], raw, name, where, spec.metadata.get("least"))
                if required and raw[name] == []:
                    self.note(raw, name, where, f"{name!r} is empty")
            elif required:
                self.note(raw, name, where, f"the key {name!r} is missing")
                values[name] = _empty(_hints(kind)[name])
        built = kind(**values)
        self._places[id(built)] = (where, raw)
        return built

    def value(self, hint: Any, raw: _Table, key: str, where: str, least: int | None = None) -> Any:
        value = raw[key]
        if isinstance(hint, types.UnionType):  # "str | None" is the only kind of union used above
            if value is None:
                return None
            hint = typing.get_args(hint)[0]
        origin = typing.get_origin(hint)
        expected = {tuple: list, Mapping: _Table}.get(origin, _Table if origin is None else None)
        if hint in (str, int, bool):
            expected = hint
        if type(value) is not expected:  # not isinstance: True is no number here
            self.note(raw, key, where, f"{key!r} must be {_NAMES[expected]}, found {_name(value)}")
            return _empty(hint)
        if hint is str and not value.strip():
            self.note(raw, key, where, f"{key!r} is empty")
        if least is not None and value < least:
            self.note(raw, key, where, f"{key!r} must be at least {least}, found {value}")
            return _empty(hint)
        if origin is tuple:
            return self.sequence(typing.get_args(hint)[0], raw, key, where)
        if origin is Mapping:
            inner = typing.get_args(hint)[1]
            return self.mapping(inner, value, _join(where, key))
        return self.table(hint, value, _join(where, key)) if dataclasses.is_dataclass(hint) else value

    def sequence(self, hint: Any, raw: _Table, key: str, where: str) -> tuple:
        built = []
        for number, entry in enumerate(raw[key], start=1):
            place = _join(where, key, _label(entry, number))
            if hint is str and isinstance(entry, str):
                built.append(entry)
                if not entry.strip():
                    self.note(raw, key, place, "is empty")
            elif hint is not str and isinstance(entry, _Table):
                built.append(self.table(hint, entry, place))
            else:
                expected = _NAMES[str if hint is str else dict]
                self.note(raw, key, place, f"must be {expected}, found {_name(entry)}")
        return tuple(built)

    def mapping(self, hint: Any, raw: _Table, where: str) -> Mapping:
        for key, line in raw.repeated:
            self.note(_Table(line), None, where, f"the key {key!r} stands here a second time")
        if not raw:
            self.note(raw, None, where, "is empty")
        for key in raw:
            if not isinstance(key, str):
                self.note(raw, key, where, f"the key {key!r} must be text, found {_name(key)}")
        names = [key for key in raw if isinstance(key, str)]
        built = types.MappingProxyType({name: self.value(hint, raw, name, where) for name in names})
        self._places[id(built)] = (where, raw)
        return built


def _empty(hint: Any) -> Any:
    """What stands for a value that could not be read."""
    if dataclasses.is_dataclass(hint):
        return hint(**{name: _empty(inner) for name, inner in _hints(hint).items()})
    if isinstance(hint, types.UnionType):
        return None
    if hint in (str, int, bool):
        return hint()
    return types.MappingProxyType({}) if typing.get_origin(hint) is Mapping else ()


def _join(*parts: str) -> str:
    return " > ".join(part for part in parts if part)


def _label(entry: Any, number: int) -> str:
    """What to call an entry of a list: its id or title where it has one, its number otherwise."""
    if isinstance(entry, _Table):
        for key in ("id", "title", "label", "text"):
            if isinstance(entry.get(key), str) and entry[key]:
                return entry[key]
    return f"entry {number}"


def _guess(name: str, choices: Iterable[str]) -> str:
    guesses = nearest(name, choices, count=1)
    return f" (did you mean {guesses[0]!r}?)" if guesses else ""


# ---- Checking: what only holds between entries -------------------------------------------------------

_Report = Callable[[Any, str, str], None]  # (object, its field, message)


def _check_ids(course: Curriculum, report: _Report) -> None:
    pattern = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(/[a-z0-9]+(-[a-z0-9]+)*)?")
    for kind in (course.levels, course.techniques, course.lessons, course.paths, course.items):
        seen = set()
        for entry in kind:
            if entry.id and entry.id in seen:
                report(entry, "id", f"the id {entry.id!r} is taken already")
            elif entry.id and not pattern.fullmatch(entry.id):
                report(entry, "id", f"the id {entry.id!r} must be small letters and digits, joined by '-'")
            seen.add(entry.id)


def _check_names(
    report: _Report, owner: Any, key: str, kind: str, names: Iterable[str], known: Iterable[str]
) -> None:
    """Each of ``names`` must be one of ``known``, and stand there once. Without a key they are the keys."""
    known = [name for name in known if name]
    for name, count in Counter(list(names)).items():
        if name and known and name not in known:  # nothing known: that is told already, once
            message = f"there is no {kind} called {name!r}{_guess(name, known)}"
            report(owner, key or name, f"{key!r}: {message}" if key else message)
        if count > 1:
            report(owner, key, f"{key!r} names {name!r} {count} times")


def _check_lessons(course: Curriculum, report: _Report) -> None:
    lessons = [lesson.id for lesson in course.lessons]
    for lesson in course.lessons:
        _check_names(report, lesson, "kind", "kind", [lesson.kind], KINDS)
        _check_names(report, lesson, "level", "level", [lesson.level], _ids(course.levels))
        if lesson.technique is not None:
            _check_names(
                report, lesson, "technique", "technique", [lesson.technique], _ids(course.techniques)
            )
        _check_names(report, lesson, "prerequisites", "lesson", lesson.prerequisites, lessons)
        if not lesson.runnable and lesson.notebook is not None:
            report(lesson, "notebook", "a guide has no notebook")
        elif lesson.runnable and lesson.kind in KINDS and lesson.notebook is None:
            report(lesson, "notebook", "the key 'notebook' is missing (only a guide has none)")


def _check_cycles(course: Curriculum, report: _Report) -> None:
    needs = {lesson.id: list(lesson.prerequisites) for lesson in course.lessons}
    while True:
        try:
            return graphlib.TopologicalSorter(needs).prepare()
        except graphlib.CycleError as error:
            cycle = error.args[1][::-1]  # each one needs the next; the last is the first again
        owner = next(lesson for lesson in course.lessons if lesson.id == cycle[0])
        report(owner, "prerequisites", f"the prerequisites go round in a circle: {' -> '.join(cycle)}")
        needs[cycle[0]] = [name for name in needs[cycle[0]] if name != cycle[1]]  # on to other circles


def _check_files(course: Curriculum, report: _Report) -> None:
    """Every file has one owner and a sound relative path. Whether it exists is ``_file_problems``' part."""
    owners: dict[str, str] = {}
    for entry, key, file in _files(course):
        prefix, suffix = ("notebooks", ".ipynb") if key == "notebook" else ("lessons", ".py")
        if key == "guide" or (key == "source" and not entry.runnable):
            suffix = ".md"
        posix = PurePosixPath(file)
        if posix.parts[:1] != (prefix,) or ".." in posix.parts or "\\" in file or posix.suffix != suffix:
            report(entry, key, f"{key!r} must be a path below {prefix}/ ending in {suffix}, found {file!r}")
        # Windows and macOS know no difference between small and capital letters in file names.
        first = owners.setdefault(file.lower(), entry.id)
        if first != entry.id:
            report(entry, key, f"{file} belongs to {first!r} already")


def _check_grid(course: Curriculum, report: _Report) -> None:
    if not course.grid:
        return
    lessons = {lesson.id: lesson for lesson in course.lessons}
    _check_names(report, course.grid, "", "technique", course.grid, _ids(course.techniques))
    for technique in _ids(course.techniques):
        if technique not in course.grid:
            report(course, "grid", f"the grid has no row for the technique {technique!r}")
    placed: Counter[str] = Counter()
    for technique, row in course.grid.items():
        if not row:
            continue
        _check_names(report, row, "", "level", row, _ids(course.levels))
        for level in _ids(course.levels):
            if level not in row:
                report(
                    row,
                    level,
                    f"no cell for the level {level!r} (write {NOT_APPLICABLE} where there is no lesson)",
                )
        for level, name in row.items():
            if name == NOT_APPLICABLE:
                continue
            placed[name] += 1
            _check_names(report, row, level, "lesson", [name], lessons)
            lesson = lessons.get(name) if technique in _ids(course.techniques) else None
            if lesson and (lesson.technique, lesson.level) != (technique, level):
                found = f"{lesson.technique or 'no technique'}, {lesson.level}"
                report(row, level, f"{level!r}: the lesson {name!r} says of itself: {found}")
    for lesson in course.lessons:
        if placed[lesson.id] > 1:
            report(course, "grid", f"the lesson {lesson.id!r} stands in {placed[lesson.id]} cells")
        if lesson.technique and not placed[lesson.id]:
            report(lesson, "technique", f"the lesson {lesson.id!r} has a technique but no cell in the grid")


def _check_weeks(course: Curriculum, report: _Report) -> None:
    for path in course.paths:
        for name, span in (("duration_weeks", path.duration_weeks), ("hours_per_week", path.hours_per_week)):
            if span.min > span.max > 0:
                report(path, name, f"{name!r}: min {span.min} is more than max {span.max}")
        if all(block.first and block.last for block in path.weeks):  # else a number is missing: told already
            _check_blocks(path, report)
        longest = path.duration_weeks.max
        known = {lesson.id: lesson.minutes for lesson in course.lessons}
        hours = sum(known.get(name, 0) for name in path.lesson_ids) / 60
        if 0 < longest * path.hours_per_week.max < hours:
            report(path, "hours_per_week", f"its lessons take {hours:.0f} hours, more than its weeks have")


def _check_blocks(path: LearningPath, report: _Report) -> None:
    """The blocks follow each other from week 1 to the path's last week, with no gap and no overlap."""
    due = 1
    for block in path.weeks:
        if block.first > block.last:
            report(block, "first", f"its first week {block.first} comes after its last week {block.last}")
        elif block.first != due:
            report(block, "first", f"it starts in week {block.first}, but week {due} comes next")
        due = max(block.first, block.last) + 1
    longest = path.duration_weeks.max
    if path.weeks and longest and due - 1 != longest:
        report(path, "weeks", f"its weeks end with week {due - 1}, 'duration_weeks' with {longest}")


def _check_steps(course: Curriculum, report: _Report) -> None:
    lessons = {lesson.id: lesson for lesson in course.lessons}
    for path in course.paths:
        for step in (step for block in path.weeks for step in block.steps):
            _check_names(report, step, "lessons", "lesson", step.lessons, lessons)
        for item in path.checklist:
            evidence = item.evidence
            if not evidence.lessons:
                continue  # told already
            _check_names(report, evidence, "lessons", "lesson", evidence.lessons, lessons)
            known = [lessons[name] for name in evidence.lessons if name in lessons]
            if known and not any(lesson.runnable for lesson in known):
                report(evidence, "lessons", "none of these lessons can be run, so nothing can be measured")
            for lesson in known:
                if lesson.id not in path.lesson_ids:
                    report(
                        evidence, "lessons", f"the lesson {lesson.id!r} is in no step of the path {path.id!r}"
                    )
            for exercise in evidence.exercises:
                owner, colon, name = exercise.partition(":")
                if not (owner and colon and name):
                    report(evidence, "exercises", f"{exercise!r} must look like 'lesson id:exercise name'")
                else:
                    _check_names(report, evidence, "exercises", "lesson", [owner], lessons)


def _check_next_steps(course: Curriculum, report: _Report) -> None:
    for entry in course.next_steps:
        if (entry.lesson is None) == (entry.guide is None):
            report(entry, "lesson", "needs either 'lesson' or 'guide', and not both")
        _check_names(report, entry, "lesson", "lesson", [entry.lesson or ""], _ids(course.lessons))
        _check_names(report, entry, "guide", "technique", [entry.guide or ""], _ids(course.techniques))


def _check_reach(course: Curriculum, report: _Report) -> None:
    """Every lesson must be met by somebody: on a path, as a starting point, or as a prerequisite."""
    needs = {lesson.id: lesson.prerequisites for lesson in course.lessons}
    todo = [name for path in course.paths for name in path.lesson_ids]
    todo += [entry.lesson for entry in course.next_steps if entry.lesson]
    if not todo:
        return  # no paths at all: told already
    met: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in met:
            met.add(name)
            todo += needs.get(name, ())
    for lesson in course.lessons:
        if lesson.id and lesson.id not in met:
            report(lesson, "id", f"no path, starting point or prerequisite leads to {lesson.id!r}")


def _check_links(course: Curriculum, report: _Report) -> None:
    seen: set[str] = set()
    for group in dataclasses.fields(course.resources):
        for resource in getattr(course.resources, group.name):
            if resource.url and not re.fullmatch(r"https://[^\s/]+\.[^\s]+", resource.url):
                report(resource, "url", f"'url' must be a web address with https://, found {resource.url!r}")
            if resource.url and resource.url in seen:
                report(resource, "url", f"the address {resource.url} stands here a second time")
            seen.add(resource.url)


_CHECKS = (
    _check_ids,
    _check_lessons,
    _check_cycles,
    _check_files,
    _check_grid,
    _check_weeks,
    _check_steps,
    _check_next_steps,
    _check_reach,
    _check_links,
)


def _ids(entries: Iterable[Any]) -> list[str]:
    return [entry.id for entry in entries if entry.id]


def _files(course: Curriculum) -> Iterator[tuple[Lesson | Technique, str, str]]:
    """Every file that the curriculum names: (its owner, the field, the path)."""
    for entry, keys in [(lesson, ("source", "notebook")) for lesson in course.lessons] + [
        (technique, ("guide",)) for technique in course.techniques
    ]:
        for key in keys:
            if file := getattr(entry, key):
                yield entry, key, file


def _file_problems(course: Curriculum, root: Path) -> list[str]:
    """The files of written lessons and guides that a checkout lacks."""
    problems = []
    for entry, key, file in _files(course):
        if entry.written and not (root / file).is_file():
            owner = "the guide of" if key == "guide" else "the lesson"
            build = "build it: python tools/build_notebooks.py, or " if key == "notebook" else ""
            problems.append(
                f"{owner} {entry.id!r} is marked written, but {file} is missing "
                f"({build}restore it: git checkout {file}, or set written: false)"
            )
    return problems
