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
    module = lesson.replace("/", "_").replace("-", "_")
    try:
        found = importlib.import_module(f"lessonkit.exercises.{module}")
    except ModuleNotFoundError as error:
        if error.name != f"lessonkit.exercises.{module}":
            raise
        what = f"The lesson {lesson} has no exercises yet."
        raise ExerciseError(what, fix="read on; nothing is missing") from None
    exercises = found.exercises()
    for each in exercises:
        each.lesson = lesson
    return {each.name: each for each in exercises}
