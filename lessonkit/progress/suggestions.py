"""What to do next: go on where one was, else the next lesson of the path, else what an item still needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lessonkit.curriculum import ChecklistItem, Curriculum, Lesson
    from lessonkit.progress.tracker import Progress

__all__ = ["NOT_WRITTEN", "Suggestion", "minutes_left", "suggest"]

NOT_WRITTEN = "not written yet"
LEAST_MINUTES = 5  # what is left of a lesson that took longer than planned; also the step of rounding


@dataclass(frozen=True)
class Suggestion:
    """What to do next. kind: ``lesson``, ``item`` or ``finished``; minutes: planned; command: to type."""

    kind: str
    id: str
    text: str
    written: bool = True
    minutes: int | None = None
    command: str = ""


def suggest(progress: Progress, path: str | None = None) -> Suggestion:
    """The next step on a path, the chosen one by default. Raises UnknownNameError.

    A lesson that was begun and isn't done comes first, the latest one if there are several. With one
    technique chosen, its lessons come before the path's for as long as any of them is open. Where the path's
    own lessons wait for others, what the first open item needs comes next, and what that is built on.
    """
    curriculum = progress.curriculum
    chosen = curriculum.path(path or progress.path)
    settled = {lesson.id for lesson in curriculum.lessons if progress.lesson_done(lesson.id)}
    settled |= _left_behind(curriculum, settled)
    own = [lesson for lesson in curriculum.lessons if lesson.technique == progress.only]
    own = [lesson for lesson in own if lesson.written and lesson.id not in settled]
    if progress.only and own:
        return _resume(progress, own) or _suggest_lesson(_first_ready(curriculum, own, settled) or own[0])
    begun = _resume(progress, curriculum.lessons)
    if begun:
        return begun
    lesson = _first_ready(curriculum, map(curriculum.lesson, chosen.lesson_ids), settled)
    if lesson:
        return _suggest_lesson(lesson)
    open_items = [item for item in chosen.checklist if item.id not in progress.ticked]
    if open_items:  # what can be earned today first
        item = min(open_items, key=lambda each: not _earnable(curriculum, each))
        return _suggest_item(progress, item, settled)
    return Suggestion("finished", chosen.id, f"{chosen.title} is complete: all items are ticked.")


def minutes_left(progress: Progress, lesson: Lesson) -> int:
    """What the plan leaves of a lesson's minutes, in steps of 5 and never under 5."""
    left = lesson.minutes - progress.work.get(lesson.id, 0.0) / 60
    return max(LEAST_MINUTES, int(LEAST_MINUTES * round(left / LEAST_MINUTES)))


def _resume(progress: Progress, lessons: Iterable[Lesson]) -> Suggestion | None:
    """The lesson last worked on that isn't done, if there is one."""
    begun = [each for each in lessons if each.id in progress.begun and each.written]
    begun = [each for each in begun if not progress.lesson_done(each.id)]
    if not begun:
        return None
    lesson = max(begun, key=lambda each: progress.begun[each.id])
    left = minutes_left(progress, lesson)
    spent = round(progress.work.get(lesson.id, 0.0) / 60)
    text = f"Resume here (about {left} minutes): {lesson.title}"
    text += f", {spent} of {lesson.minutes} minutes so far" if spent else ""
    return Suggestion("lesson", lesson.id, f"{text}.", True, left, _command(lesson))


def _first_ready(curriculum: Curriculum, lessons: Iterable[Lesson], settled: set[str]) -> Lesson | None:
    """The first that is written, open, and for which everything that can be had is settled."""

    def ready(lesson: Lesson) -> bool:
        before = [curriculum.lesson(name) for name in lesson.prerequisites if name not in settled]
        return all(not other.written and ready(other) for other in before)

    for lesson in lessons:
        if lesson.written and lesson.id not in settled and ready(lesson):
            return lesson
    return None


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


def _command(lesson: Lesson) -> str:
    if lesson.runnable:
        return f"open {lesson.notebook}, or: lessonkit run {lesson.id}"
    return f"read {lesson.source}, then: lessonkit tick {lesson.id}"


def _suggest_lesson(lesson: Lesson) -> Suggestion:
    text = f"{lesson.title} ({lesson.minutes} minutes): {lesson.summary}"
    return Suggestion("lesson", lesson.id, text, True, lesson.minutes, _command(lesson))


def _earnable(curriculum: Curriculum, item: ChecklistItem) -> bool:
    """Whether all lessons that earn an item are written."""
    return all(curriculum.lesson(name).written for name in item.evidence.lessons)


def _suggest_item(progress: Progress, item: ChecklistItem, settled: set[str]) -> Suggestion:
    curriculum = progress.curriculum
    lessons = [curriculum.lesson(name) for name in item.evidence.lessons]
    undone = [lesson for lesson in lessons if not progress.lesson_done(lesson.id)]
    missing = [lesson.id for lesson in lessons if not lesson.written]
    first = _first_ready(curriculum, _built_on(curriculum, undone), settled)
    if first:
        step = _suggest_lesson(first)
        lead = f"{item.text}: its lesson is {NOT_WRITTEN}. Until then" if missing else f"{item.text}. First"
        return replace(step, text=f"{lead}: {step.text}")
    if missing:
        text = f"{item.text}: its lesson is {NOT_WRITTEN} ({', '.join(missing)})"
        return Suggestion("item", item.id, text, False)
    minutes = sum(lesson.minutes for lesson in undone)
    exercises = [name for name in item.evidence.exercises if not progress.passed_at(name)]
    text = item.text + (f": the exercise {exercises[0]} is still open" if exercises else "")
    command = f"when you have it: lessonkit tick {item.id}"
    return Suggestion("item", item.id, text, True, minutes, command)


def _built_on(curriculum: Curriculum, lessons: Iterable[Lesson]) -> list[Lesson]:
    """The lessons, each after those on which it is built."""
    found: dict[str, Lesson] = {}

    def add(lesson: Lesson) -> None:
        if lesson.id not in found:
            for name in lesson.prerequisites:
                add(curriculum.lesson(name))
            found[lesson.id] = lesson

    for lesson in lessons:
        add(lesson)
    return list(found.values())
