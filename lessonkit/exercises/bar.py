"""Exercises in which a model or a run must reach a bar on held-out data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lessonkit.errors import ExerciseError, LessonkitError
from lessonkit.exercises.base import Exercise, Outcome, WrongAnswer, after_stop, at, raised
from lessonkit.exercises.plain import Grid, alike, is_number, plain
from lessonkit.exercises.sandbox import Ran, code_of, guarded
from lessonkit.exercises.showing import block, code
from lessonkit.exercises.surroundings import Printed

__all__ = ["Attempt", "Bar", "part", "share_right"]


@dataclass(frozen=True)
class Attempt:
    """What a named wrong answer's ``when`` is asked about.

    answer: as passed in. score: what was measured. held_out: what it was measured on. reached: the bar.
    """

    answer: Any
    score: float
    held_out: Any
    scale: str
    reached: bool


@dataclass
class Bar(Exercise):
    """A model, its predictions or a whole run: measured on held-out data, it must reach a bar.

    measure: ``measure(answer, held_out) -> score``; it raises ExerciseError for an answer of another form.
    bar: the score to reach, one for all scales or one for each of ``laptop`` and ``gpu``.
    held_out: ``held_out(scale)`` loads what the score is measured on, anew for each check.
    score_name, measured_on: the words for them. higher_is_better: False for a loss.
    source: a right answer as code, for ``solution()``.

    reference, also_right and each wrong answer's ``answer`` are functions: of ``held_out``, they make an
    example. A wrong answer says with ``when(attempt)`` which attempts show it, and is asked first, so that a
    model that saw the held-out data doesn't pass. At smoke scale the score is measured and shown, but proves
    nothing, so the exercise stays unattempted.
    """

    measure: Callable[[Any, Any], float] = lambda answer, held_out: math.nan
    bar: Mapping[str, float] | float = 0.0
    held_out: Callable[[str], Any] = lambda scale: None
    higher_is_better: bool = True
    score_name: str = "accuracy"
    measured_on: str = "held-out data"
    source: str = ""
    seconds: float = 120.0

    def made(self, example: Any) -> Any:
        return example(self.held_out(self.scale))

    def _worked(self) -> str:
        return "\n" + block(self.source)

    @property
    def height(self) -> float:
        """The score to reach at this scale; at smoke scale, what it would be on a laptop."""
        if not isinstance(self.bar, Mapping):
            return self.bar
        return self.bar.get(self.scale, self.bar["laptop"])

    def _judged(self, answer: Any) -> Outcome:
        printed = Printed()
        lines = code_of(answer) if callable(answer) else None
        ran = guarded(
            lambda: self._measured(answer), seconds=self.seconds, printed=printed, code=lines, memory=None
        )
        outcome = self._verdict(ran)
        return Outcome(outcome.status, outcome.message, outcome.diagnosis, printed.shown())

    def _measured(self, answer: Any) -> tuple[float, str]:
        """The score and the name of the misconception that it shows; runs in the sandbox."""
        held_out = self.held_out(self.scale)
        score = float(self.measure(answer, held_out))
        attempt = Attempt(answer, score, held_out, self.scale, self._reaches(score))
        shown = (wrong.name for wrong in self.wrong if _shows(wrong, attempt))
        return score, next(shown, "")

    def _verdict(self, ran: Ran) -> Outcome:
        if ran.stopped:
            says = f"Measuring your answer took more than {self.seconds:g} seconds{at(ran.place)}."
            return self._no_verdict(f"{says} {after_stop(ran)}", "too-slow")
        if ran.trouble is not None:
            if issubclass(ran.trouble.kind, LessonkitError):
                return self._no_verdict(ran.trouble.text)
            return self._no_verdict(f"Measuring your answer raises {raised(ran.trouble)}.")
        score, name = ran.value
        wrong = self._named(lambda each: each.name == name) if name else None
        told = f"{self._told(score)}; the bar is {self.height:g}."
        if self.scale == "smoke":
            return self._proves_nothing(score)
        if wrong:
            return self._failed(f"{told} {wrong.says}", wrong.name)
        if not math.isfinite(score):
            says = "A score that is no number comes from a NaN before it: look at the losses of the training."
            return self._failed(f"{self._told(score)}. {says} {self._for_a_step()}", "not-a-number")
        if self._reaches(score):
            return self._passed(told)
        return self._failed(f"{told} {self._for_a_step()}")

    def _proves_nothing(self, score: float) -> Outcome:
        says = (
            f"**Measured, not judged.** {self._told(score)}. At smoke scale nothing is learned, so this number "
            f"proves nothing. With `LESSONKIT_SCALE=laptop` in the environment, the bar is {self.height:g}."
        )
        return Outcome("unattempted", says)

    def _reaches(self, score: float) -> bool:
        return score >= self.height if self.higher_is_better else score <= self.height

    def _told(self, score: float) -> str:
        text = f"{score:.3f}"
        if float(text) == self.height != score:  # 0.8996 is no 0.900
            text = f"{score:.6g}"
        return f"{self.score_name.capitalize()} {code(text)} on {self.measured_on}"


def _shows(wrong: WrongAnswer, attempt: Attempt) -> bool:
    if wrong.when is not None:
        return bool(wrong.when(attempt))
    return alike(plain(attempt.answer), plain(wrong.answer(attempt.held_out)))


def part(answer: Any, name: str, form: str) -> Any:
    """What an answer, a dictionary, holds under ``name``. Raises ExerciseError, which says to write ``form``, code."""
    try:
        return answer[name]
    except (TypeError, KeyError, IndexError, ValueError):
        raise ExerciseError(f"The answer has no `{name}`.", fix=f"write `{form}`") from None


def share_right(predicted: Any, labels: list[int]) -> float:
    """The share of predictions that equal the labels: class numbers, or scores of shape (n, classes).

    Raises ExerciseError, in words for the learner, if they are not one for each label.
    """
    found = plain(predicted)
    if isinstance(found, Grid) and found.array.ndim == 2 and found.shape[1] > 1:
        if (found.array != found.array).any():
            return math.nan
        found = found.array.argmax(-1).tolist()
    elif isinstance(found, Grid):
        found = found.array.ravel().tolist()
    if not isinstance(found, list) or not all(is_number(each) for each in found):
        raise ExerciseError(
            "The predictions must be class numbers, one for each text.",
            fix="pass `predict(model, dataset).argmax(-1)`",
        )
    if len(found) != len(labels):
        raise ExerciseError(
            f"{len(labels):,} predictions are wanted, but there are {len(found):,}.",
            why="they must be for the held-out texts, all of them, in order",
        )
    return sum(one == two for one, two in zip(found, labels, strict=True)) / len(labels)
