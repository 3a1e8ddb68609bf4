"""Which checklist items have been earned, and why.

A run at laptop or GPU scale is evidence that a lesson was done: its notebook trained and scored a model from
top to bottom on this machine. So an item that says "run", "complete" or "build" is earned by the runs of its
lessons. A run is no evidence that anybody understood: an item that says "understand" names exercises too, in
``curriculum.yaml``, and is earned when these are passed as well. Whatever the evidence says, a learner may
tick any item by hand (``lessonkit tick``), and an item taken back stays so until there is new evidence.

Why an item is ticked names all that speaks for it, exercises included, whether they were asked for or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lessonkit.progress.events import Event, local_time
from lessonkit.progress.folding import fold
from lessonkit.progress.journal import Journal
from lessonkit.progress.records import Progress

if TYPE_CHECKING:
    from lessonkit.curriculum import ChecklistItem, Curriculum

__all__ = ["evidence_ticks", "evidence_why", "exercise_names", "record_evidence"]

KINDS = ("tick", "untick", "run", "exercise")  # of events that evidence is made from


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
    """Why an item is earned: ``ran beginner/lora (laptop, 2026-03-01), 4 of 6 exercises passed``."""
    evidence = curriculum.item(item).evidence
    reasons = []
    for name in evidence.lessons:
        runs = progress.real_runs(name)
        if runs:
            reasons.append(f"ran {name} ({runs[-1].scale}, {local_time(runs[-1].time)[:10]})")
            reasons += _exercises_passed(progress, name)
        elif name in progress.ticked:
            reasons.append(f"read {name} ({local_time(progress.ticked[name].time)[:10]})")
    reasons += [f"passed {name}" for name in evidence.exercises if progress.passed_at(name)]
    return ", ".join(reasons)


def record_evidence(journal: Journal, curriculum: Curriculum) -> list[Event]:
    """Tick what has been earned; call it after a run, a passed exercise or a guide read."""
    progress = fold(journal.read(*KINDS).events, curriculum)
    return [
        journal.append("tick", item=item, by="evidence", why=evidence_why(progress, curriculum, item))
        for item in evidence_ticks(progress, curriculum)
    ]


def exercise_names(lesson: str) -> tuple[str, ...]:
    """The names of a lesson's exercises; none where it has none yet."""
    from lessonkit.errors import ExerciseError
    from lessonkit.exercises import load_exercises

    try:
        return tuple(load_exercises(lesson))
    except ExerciseError:
        return ()


def _exercises_passed(progress: Progress, lesson: str) -> list[str]:
    """For example ``["4 of 6 exercises passed"]``; empty where none was."""
    names = exercise_names(lesson)
    passed = progress.passed.get(lesson, {})
    count = len(passed.keys() & set(names)) if names else len(passed)
    if not count:
        return []
    return [f"{count} of {len(names)} exercises passed" if names else f"{count} exercises passed"]


def _evidence_times(progress: Progress, item: ChecklistItem) -> list[str]:
    """When each piece of an item's evidence came in; an empty text for a missing one."""
    times = []
    for name in item.evidence.lessons:
        runs = progress.real_runs(name)
        read = progress.ticked.get(name) if not progress.curriculum.lesson(name).runnable else None
        times.append(runs[-1].time if runs else read.time if read else "")
    return times + [progress.passed_at(name) for name in item.evidence.exercises]
