"""Checked exercises: the engine in ``engine``, and one module of exercises for each notebook."""

from __future__ import annotations

from lessonkit.exercises.engine import (
    TODO,
    Choice,
    Exercise,
    Function,
    Outcome,
    Value,
    WrongAnswer,
    load_exercises,
)

__all__ = ["TODO", "Choice", "Exercise", "Function", "Outcome", "Value", "WrongAnswer", "load_exercises"]
