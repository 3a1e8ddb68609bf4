"""What must hold between the entries of the curriculum: names, circles, grid, weeks, files, links.

Each check reports what is wrong with which field; an empty value was told when it was read.
"""

from __future__ import annotations

import dataclasses
import graphlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lessonkit.curriculum_reading import guess

if TYPE_CHECKING:
    from lessonkit.curriculum import Curriculum, Evidence, LearningPath, Lesson, Technique

__all__ = ["CHECKS", "NOT_APPLICABLE", "file_problems"]

NOT_APPLICABLE = "N/A"  # a grid cell for which there is deliberately no lesson
KINDS = ("guide", "notebook", "lab", "production")

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
            message = f"there is no {kind} called {name!r}{guess(name, known)}"
            report(owner, key or name, f"{key!r}: {message}" if key else message)
        if count > 1:
            report(owner, key, f"{key!r} names {name!r} {count} times")


def _check_lessons(course: Curriculum, report: _Report) -> None:
    lessons = [lesson.id for lesson in course.lessons]
    for lesson in course.lessons:
        _check_names(report, lesson, "kind", "kind", [lesson.kind], KINDS)
        _check_names(report, lesson, "level", "level", [lesson.level], _ids(course.levels))
        _check_names(
            report, lesson, "technique", "technique", [lesson.technique or ""], _ids(course.techniques)
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
    """Every file has one owner and a sound relative path. Whether it exists is ``file_problems``' part."""
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
        return  # told already
    techniques, levels = _ids(course.techniques), _ids(course.levels)
    _check_names(report, course.grid, "", "technique", course.grid, techniques)
    for technique in techniques:
        if technique not in course.grid:
            report(course, "grid", f"the grid has no row for the technique {technique!r}")
    for technique, row in course.grid.items():
        if not row:
            continue
        _check_names(report, row, "", "level", row, levels)
        for level in levels:
            if level not in row:
                hint = f"(write {NOT_APPLICABLE} where there is no lesson)"
                report(row, level, f"no cell for the level {level!r} {hint}")
        _check_cells(course, technique, report)
    placed = {name for row in course.grid.values() for name in row.values()}
    for lesson in course.lessons:
        if lesson.technique and lesson.id not in placed:
            report(lesson, "technique", f"the lesson {lesson.id!r} has a technique but no cell in the grid")


def _check_cells(course: Curriculum, technique: str, report: _Report) -> None:
    """Each lesson stands in the one cell of its own technique and level."""
    lessons = {lesson.id: lesson for lesson in course.lessons}
    row = course.grid[technique]
    for level, name in row.items():
        if name == NOT_APPLICABLE:
            continue
        _check_names(report, row, level, "lesson", [name], lessons)
        lesson = lessons.get(name) if technique in _ids(course.techniques) else None
        if lesson and (lesson.technique, lesson.level) != (technique, level):
            found = f"{lesson.technique or 'no technique'}, {lesson.level}"
            report(row, level, f"{level!r}: the lesson {name!r} says of itself: {found}")


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
            if item.evidence.lessons:  # else told already
                _check_evidence(item.evidence, path, lessons, report)


def _check_evidence(
    evidence: Evidence, path: LearningPath, lessons: dict[str, Lesson], report: _Report
) -> None:
    _check_names(report, evidence, "lessons", "lesson", evidence.lessons, lessons)
    known = [lessons[name] for name in evidence.lessons if name in lessons]
    if known and not any(lesson.runnable for lesson in known):
        report(evidence, "lessons", "none of these lessons can be run, so nothing can be measured")
    for lesson in known:
        if lesson.id not in path.lesson_ids:
            report(evidence, "lessons", f"the lesson {lesson.id!r} is in no step of the path {path.id!r}")
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


CHECKS = (
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


def file_problems(course: Curriculum, root: Path) -> list[str]:
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
