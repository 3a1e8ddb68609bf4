"""What stands where on a path: its weeks with their steps, the guides to read, and the boxes to tick."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lessonkit.curriculum import ChecklistItem, Curriculum, LearningPath, Lesson, Step, WeekBlock

__all__ = ["Week", "about", "hidden_boxes", "weeks"]


@dataclass(frozen=True)
class Week:
    """A stretch of a path. guides: lessons to read and tick; items: checklist items that are earned here."""

    title: str
    steps: tuple[Step, ...]
    guides: tuple[Lesson, ...]
    items: tuple[ChecklistItem, ...]


def weeks(curriculum: Curriculum, path: LearningPath, only: str = "") -> list[Week]:
    """The path's weeks. only: a technique's id leaves what is about it, and the weeks that have any of it.

    A checklist item stands in the week in which the last of the lessons that earn it comes up.
    """
    at = {name: number for number, week in reversed(list(enumerate(path.weeks))) for name in _lessons(week)}
    found = []
    for number, week in enumerate(path.weeks):
        steps = tuple(step for step in week.steps if about(curriculum, step.lessons, only))
        guides = dict.fromkeys(name for step in steps for name in step.lessons if at[name] == number)
        items = tuple(
            item
            for item in path.checklist
            if _week_of(item, at, len(path.weeks)) == number
            and about(curriculum, item.evidence.lessons, only)
        )
        if steps or items:
            read = tuple(lesson for lesson in map(curriculum.lesson, guides) if not lesson.runnable)
            found.append(Week(week.title, steps, read, items))
    return found


def hidden_boxes(curriculum: Curriculum, path: LearningPath, only: str) -> int:
    """How many boxes of the path ``only`` hides."""
    return _boxes(weeks(curriculum, path)) - _boxes(weeks(curriculum, path, only))


def about(curriculum: Curriculum, lessons: Iterable[str], only: str) -> bool:
    """Whether any of the lessons is about the technique; with an empty one, always."""
    return not only or any(curriculum.lesson(name).technique == only for name in lessons)


def _lessons(week: WeekBlock) -> tuple[str, ...]:
    return tuple(name for step in week.steps for name in step.lessons)


def _week_of(item: ChecklistItem, at: dict[str, int], count: int) -> int:
    """The number of an item's week; the last one's where its lessons are not on the path."""
    known = [at[name] for name in item.evidence.lessons if name in at]
    return max(known) if known else count - 1


def _boxes(found: list[Week]) -> int:
    return sum(len(week.items) + len(week.guides) for week in found)
