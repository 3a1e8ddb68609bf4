"""Finding a lesson's exercises: ``beginner/lora`` has them in the module ``beginner_lora``."""

from __future__ import annotations

import importlib

from lessonkit.errors import ExerciseError
from lessonkit.exercises.base import Exercise

__all__ = ["load_exercises"]


def load_exercises(lesson: str) -> dict[str, Exercise]:
    """The exercises of one lesson by name, fresh but for how many hints of each were given in this kernel.

    Raises ExerciseError if the lesson has none.
    """
    name = lesson.replace("/", "_").replace("-", "_")
    module = f"lessonkit.exercises.{name}"
    try:
        found = importlib.import_module(module) if name.isidentifier() else None
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        found = None
    if not hasattr(found, "exercises"):  # a journal may name any lesson, one called `base` too
        what = f"The lesson {lesson} has no exercises yet."
        raise ExerciseError(what, fix="read on; nothing is missing")
    exercises = found.exercises()
    for each in exercises:
        each.lesson = lesson
    return {each.name: each for each in exercises}
