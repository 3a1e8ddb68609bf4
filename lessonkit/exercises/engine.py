"""The exercise engine: an answer is passed in, an outcome comes back, nothing else is looked at.

An exercise holds its task, its reference answer, its hints and the wrong answers that people give,
each with what it says about their thinking. Tests prove that the stub counts as unattempted, the
reference passes, and each wrong answer fails with its own diagnosis.
"""

from __future__ import annotations

import copy
import html
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Number
from typing import Any

from lessonkit.errors import ExerciseError, LessonkitError
from lessonkit.live import in_notebook

__all__ = ["TODO", "Choice", "Exercise", "Function", "Outcome", "Value", "WrongAnswer", "load_exercises"]


class _Todo:
    """What an exercise's cell holds before its reader has tried it."""

    def __repr__(self) -> str:
        return "TODO"


TODO = _Todo()


@dataclass(frozen=True)
class WrongAnswer:
    """A wrong answer that people really give.

    name: the misconception. answer: an example of it. says: what is wrong and where to look.
    """

    name: str
    answer: Any
    says: str


@dataclass(frozen=True)
class Outcome:
    """How an answer was judged.

    status: ``"passed"``, ``"failed"``, ``"error"`` or ``"unattempted"``. diagnosis: a WrongAnswer's name,
    ``"raises"`` for a function that fails in a way that no one has named, or "".
    """

    status: str
    message: str
    diagnosis: str = ""

    @property
    def passed(self) -> bool:
        """Whether the answer was right."""
        return self.status == "passed"

    def __str__(self) -> str:
        mark = {"passed": "✅", "failed": "❌", "error": "⚠️", "unattempted": "⬜"}[self.status]
        return f"{mark} {self.message}"

    __repr__ = __str__

    def _ipython_display_(self) -> None:
        """Show nothing: ``check`` has shown it, and a cell that ends in it would show it twice."""


@dataclass
class Exercise:
    """The base of every kind: subclasses say when two answers are the same.

    name: as in ``lesson.exercise(name)``. reference: a right answer. because: why it is right.
    hints: one more step each. wrong: at least two named wrong answers.
    """

    name: str
    reference: Any
    because: str
    hints: tuple[str, ...]
    wrong: tuple[WrongAnswer, ...]
    on_outcome: Callable[[Exercise, Outcome], None] | None = field(default=None, repr=False)
    _hints_given: int = field(default=0, repr=False)

    def check(self, answer: Any) -> Outcome:
        """Judge the answer and show the outcome. Never raises, whatever the answer is."""
        try:
            outcome = self.judge(answer)
        except Exception as error:  # an answer may be any object, with any behaviour
            message = f"Your answer could not be checked: {type(error).__name__}: {error}"
            outcome = Outcome("error", message)
        _show(str(outcome))  # first: the verdict is seen even if it cannot be recorded
        if self.on_outcome is not None and outcome.status != "unattempted":
            try:
                self.on_outcome(self, outcome)
            except LessonkitError as error:  # a full disk, say: the verdict stands all the same
                _show(f"Not recorded in your journal. {error}")
        return outcome

    def judge(self, answer: Any) -> Outcome:
        """The outcome, without showing or recording it."""
        if answer is TODO or answer is None:
            message = f"Not tried yet. Replace TODO, or ask for help: {self._call('hint')}"
            return Outcome("unattempted", message)
        complaint = self.complaint(answer)
        if complaint:
            return Outcome("error", complaint)
        if self.same(answer, self.reference):
            return Outcome("passed", f"Right. {self.because}")
        for wrong in self.wrong:
            if not self.complaint(wrong.answer) and self.same(answer, wrong.answer):
                return Outcome("failed", f"Not yet. {wrong.says}", wrong.name)
        return Outcome("failed", f"Not yet. {self.other(answer)} For a step: {self._call('hint')}")

    def hint(self) -> None:
        """Show one more hint each time."""
        if self._hints_given < len(self.hints):
            self._hints_given += 1
        shown = self.hints[: self._hints_given]
        last = self._hints_given == len(self.hints)
        lines = [f"Hint {number} of {len(self.hints)}: {hint}" for number, hint in enumerate(shown, 1)]
        if last:
            lines.append(f"That was the last one; the worked answer: {self._call('solution')}")
        _show("\n".join(lines))

    def solution(self) -> None:
        """Show a right answer and why it is right."""
        _show(f"A right answer: {self.spoken()}\n{self.because}")

    def complaint(self, answer: Any) -> str:
        """Why the answer is not of the kind that can be judged; empty if it is."""
        return ""

    def same(self, answer: Any, other: Any) -> bool:
        """Whether two answers mean the same."""
        raise NotImplementedError

    def other(self, answer: Any) -> str:
        """What to say of a wrong answer that nobody has named."""
        return "That isn't it."

    def spoken(self) -> str:
        """The reference answer as text."""
        return repr(self.reference)

    def _call(self, method: str) -> str:
        return f'lesson.exercise("{self.name}").{method}()'


@dataclass
class Value(Exercise):
    """A number, right within ``tolerance`` (absolute)."""

    tolerance: float = 1e-9

    def complaint(self, answer: Any) -> str:
        try:
            number = _number(answer)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            return f"A number is wanted here, but the answer is a {type(answer).__name__}."
        return "" if math.isfinite(number) else f"A finite number is wanted here, not {number}."

    def same(self, answer: Any, other: Any) -> bool:
        # A little more than the tolerance, for 0.905 - 0.9 is a little more than 0.005 to a computer.
        return abs(_number(answer) - _number(other)) <= self.tolerance * (1 + 1e-9)

    def other(self, answer: Any) -> str:
        number = _number(answer)
        return f"{number:g} is too {'large' if number > _number(self.reference) else 'small'}."


@dataclass
class Choice(Exercise):
    """One of some options, given by its letter, with the reasons as diagnoses."""

    options: Mapping[str, str] = field(default_factory=dict)

    def complaint(self, answer: Any) -> str:
        if isinstance(answer, str) and answer.strip().lower().strip("().\"'") in self.options:
            return ""
        letters = ", ".join(f'"{letter}"' for letter in self.options)
        return f"Answer with one of {letters}, as text in quotes."

    def same(self, answer: Any, other: Any) -> bool:
        return answer.strip().lower().strip("().\"'") == other

    def spoken(self) -> str:
        return f'"{self.reference}": {self.options[self.reference]}'


@dataclass
class Function(Exercise):
    """A function, run on cases that the learner does not see; right if it equals the reference on all.

    cases: tuples of positional arguments. tolerance: absolute, for numbers, also those inside lists,
    dictionaries, arrays and tensors. Raising the same kind of error counts as the same.
    source: the reference as text, for ``solution()``.
    """

    cases: tuple[tuple, ...] = ()
    tolerance: float = 1e-9
    source: str = ""

    def complaint(self, answer: Any) -> str:
        return "" if callable(answer) else f"A function is wanted here, not a {type(answer).__name__}."

    def same(self, answer: Any, other: Any) -> bool:
        return all(self._same_on(case, answer, other) for case in self.cases)

    def other(self, answer: Any) -> str:
        case = next(case for case in self.cases if not self._same_on(case, answer, self.reference))
        got, want = _called(answer, case), _called(self.reference, case)
        if isinstance(got, Exception):
            return f"Called with {_short(case)}, it raises {type(got).__name__}: {got}"
        if isinstance(want, Exception):
            right = type(want).__name__
            return f"Called with {_short(case)}, it returns {_short(got)}, but should raise {right}."
        if got is None:
            return f"Called with {_short(case)}, it returns None: is a `return` missing?"
        return f"Called with {_short(case)}, it returns {_short(got)}, not {_short(want)}."

    def judge(self, answer: Any) -> Outcome:
        if not callable(answer):
            return super().judge(answer)
        if _called(answer, self.cases[0]) is TODO:
            return super().judge(TODO)
        outcome = super().judge(answer)
        unnamed = outcome.status == "failed" and not outcome.diagnosis
        if unnamed and any(isinstance(_called(answer, case), Exception) for case in self.cases):
            return replace(outcome, diagnosis="raises")
        return outcome

    def spoken(self) -> str:
        return "\n" + self.source

    def _same_on(self, case: tuple, answer: Any, other: Any) -> bool:
        got, want = _called(answer, case), _called(other, case)
        if isinstance(got, Exception) or isinstance(want, Exception):
            return type(got) is type(want)
        return _close(got, want, self.tolerance)


def load_exercises(lesson: str) -> dict[str, Exercise]:
    """The exercises of one lesson by name, fresh; ``beginner/lora`` is the module ``beginner_lora``.

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
    return {each.name: each for each in found.exercises()}


def _number(answer: Any) -> float:
    """The answer as a number; a tensor that is part of a graph gives its value."""
    return float(answer.detach() if hasattr(answer, "detach") else answer)


def _called(function: Callable, case: tuple) -> Any:
    """What the function returns for the case, or the exception that it raises."""
    try:
        return function(*copy.deepcopy(case))  # a copy, since a function may change what it is given
    except Exception as error:
        return error


def _close(got: Any, want: Any, tolerance: float) -> bool:
    """Whether two results are the same, numbers within the tolerance, at any depth."""
    got, want = (each.tolist() if hasattr(each, "tolist") else each for each in (got, want))
    if isinstance(got, Number) and isinstance(want, Number):
        return got == want or abs(got - want) <= tolerance or (got != got and want != want)
    if isinstance(got, Mapping) and isinstance(want, Mapping):
        return got.keys() == want.keys() and all(_close(got[key], want[key], tolerance) for key in want)
    if isinstance(got, (list, tuple)) and isinstance(want, (list, tuple)):
        pairs = zip(got, want, strict=False)
        return len(got) == len(want) and all(_close(one, two, tolerance) for one, two in pairs)
    return bool(got == want)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _show(text: str) -> None:
    if not in_notebook():
        print(text)
        return
    from IPython.display import display

    rich = "<br>".join(html.escape(line) for line in text.splitlines())
    style = "padding:0.4em 0.8em;border-left:4px solid #0072B2"
    display({"text/plain": text, "text/html": f'<div style="{style}">{rich}</div>'}, raw=True)
