"""Checked exercises: an answer is passed in, an outcome comes back, nothing else is looked at.

One module of exercises for each notebook, named after the lesson, with a function ``exercises()``. An exercise
takes three lines; the reference is the first thing given after the name, then why it is right::

    Value("steps", 200, "3,200 texts in batches of 16.", tolerance=0.5)
    Choice("metric", "b", "Rare topics count too.", options={"a": "accuracy", "b": "macro-F1"})
    Function("double", lambda x: 2 * x, "Twice.", cases=((2,), (0,), (-1.5,)))

In the notebook its cell reads ``answer = TODO`` and ``lesson.exercise("steps").check(answer)``. Before a lesson
is done, tests ask for more: ``hints``, one more step each; ``wrong``, at least two answers that people really
give, each ``(name, example, what to say)``; and ``also_right``, the right answer written in another way.

- ``Value``: a number or a prediction, or a list, array or dictionary of them, within a tolerance.
- ``Choice``: one of some options; the wrong ones have their reasons.
- ``Function``: run on cases that the learner doesn't see, in a sandbox with a time limit.
- ``Bar``: a model or a run that must reach a bar on held-out data; the bar depends on the scale.

Whatever an answer does (raise, hang, print a megabyte, change its input, lie about itself), ``check`` says so
in words and returns. Modules: ``base`` what all kinds share, ``kinds``, ``functions`` and ``bar`` the kinds,
``plain`` reads an answer once, ``sandbox`` and ``surroundings`` run it, ``showing`` puts words on the screen.
"""

from __future__ import annotations

from lessonkit.exercises.bar import Attempt, Bar, part, share_right
from lessonkit.exercises.base import RESERVED, TODO, Exercise, Outcome, WrongAnswer
from lessonkit.exercises.functions import Function
from lessonkit.exercises.kinds import Choice, Value
from lessonkit.exercises.loading import load_exercises

__all__ = [
    "RESERVED",
    "TODO",
    "Attempt",
    "Bar",
    "Choice",
    "Exercise",
    "Function",
    "Outcome",
    "Value",
    "WrongAnswer",
    "load_exercises",
    "part",
    "share_right",
]
