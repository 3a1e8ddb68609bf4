"""Exercises whose answer is a value, a prediction, or one of some options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lessonkit.exercises.base import Exercise, Outcome, WrongAnswer
from lessonkit.exercises.plain import Grid, Other, alike, as_text, is_number, plain
from lessonkit.exercises.sandbox import guarded
from lessonkit.exercises.showing import code

__all__ = ["Choice", "Value"]


@dataclass
class Value(Exercise):
    """A number, or a list, array or dictionary of them.

    tolerance: how far a number may be off, absolute. relative: or how far as a share of the right one.
    A number may be Python's, NumPy's or torch's, a Fraction or a Decimal, and text such as "0.9" or "90 %".
    True and False are not numbers here.
    """

    tolerance: float = 1e-9
    relative: float = 0.0

    def _judged(self, answer: Any) -> Outcome:
        ran = self._read(answer)
        unreadable = self._unreadable(ran)
        if unreadable:
            return unreadable
        want = plain(self.reference)
        got, complaint = _fitting(ran.value, want)
        if complaint:
            return self._no_verdict(complaint)
        if self._same(got, want):
            return self._passed()
        wrong = self._named(lambda each: self._same(got, _fitting(plain(each.answer), want)[0]))
        if wrong:
            return self._failed(wrong.says, wrong.name)
        return self._failed(f"{_direction(got, want, self._same)} {self._for_a_step()}")

    def _same(self, got: Any, want: Any) -> bool:
        return alike(got, want, self.tolerance, self.relative)

    def _worked(self) -> str:
        return code(as_text(plain(self.reference)))


def _fitting(got: Any, want: Any) -> tuple[Any, str]:
    """The answer in the reference's form, and a complaint if it has another one."""
    if is_number(want):
        return _one_number(got)
    if isinstance(want, dict):
        if not isinstance(got, dict):
            return None, f"A dictionary with {_listed(want)} is wanted here, but the answer is {_kind(got)}."
        missing = [key for key in want if key not in got]
        if missing:
            return None, f"The answer has no {_listed(missing)}."
        pairs = {key: _fitting(got[key], want[key]) for key in want}
        complaint = next((f"{code(str(key))}: {said}" for key, (_, said) in pairs.items() if said), "")
        return {key: found for key, (found, _) in pairs.items()}, complaint
    if isinstance(want, list | Grid):
        if not isinstance(got, list | Grid):
            return None, f"{_size(want)} wanted here, but the answer is {_kind(got)}."
        return got, "" if _shape(got) == _shape(want) else f"{_size(want)} wanted here, not {_size(got, '')}."
    return got, "" if type(got) is type(want) else f"The answer is {_kind(got)}; another kind is wanted here."


def _one_number(got: Any) -> tuple[Any, str]:
    if isinstance(got, bool):
        return None, f"A number is wanted here, not {code(str(got))}."
    if isinstance(got, str):
        found = _spelt(got)
        if found is None:
            return None, "A number is wanted here, without quotes; the answer is a str (text)."
        got = found
    if isinstance(got, Grid) and got.array.size == 1 and got.array.dtype.kind in "iuf":
        got = got.array.item()
    if not is_number(got):
        return None, f"A number is wanted here, but the answer is {_kind(got)}."
    try:
        finite = math.isfinite(got)
    except OverflowError:
        return None, "A number is wanted here, but the answer is an int too large to compare."
    return got, "" if finite else f"A finite number is wanted here, not {code(str(got))}."


def _spelt(text: str) -> float | None:
    """A number written as text, also with a per cent sign."""
    text = text.strip()
    share = text.endswith("%")
    try:
        return float(text.removesuffix("%")) / (100 if share else 1)
    except ValueError:
        return None


def _direction(got: Any, want: Any, same: Any) -> str:
    """Which number is off, and to which side."""
    if is_number(want):
        return f"{code(as_text(got))} is too {'large' if got > want else 'small'}."
    if isinstance(want, dict):
        key = next(each for each in want if not same(got[each], want[each]))
        return f"{code(str(key))}: {_direction(got[key], want[key], same)}"
    if isinstance(want, list | Grid):
        ours, theirs = _flat(want), _flat(got)
        for place, (one, two) in enumerate(zip(theirs, ours, strict=False), 1):
            if is_number(one) and is_number(two) and not same(one, two):
                return f"Number {place} of {len(ours)}: {_direction(one, two, same)}"
    return "That isn't it."


def _flat(value: Any) -> list:
    if isinstance(value, Grid):
        return value.array.ravel().tolist()
    return [each for inner in value for each in _flat(inner)] if isinstance(value, list) else [value]


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, Grid):
        return value.shape
    if not isinstance(value, list):
        return ()
    return (len(value), *(_shape(value[0]) if value else ()))


def _size(value: Any, verb: str = " are") -> str:
    shape = _shape(value)
    if len(shape) == 1:
        return f"{shape[0]} numbers{verb}"
    return f"numbers in the shape {shape}{verb}".capitalize() if verb else f"the shape {shape}"


def _kind(value: Any) -> str:
    if isinstance(value, Other):
        return {"huge": f"a {value.name} too large to look at"}.get(value.note, f"a {value.name}")
    if isinstance(value, Grid):
        return f"an array or tensor (ndarray, Tensor) of shape {value.shape}"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _listed(keys: Any) -> str:
    return ", ".join(code(str(key)) for key in keys)


@dataclass
class Choice(Exercise):
    """One of some options, given by its letter or in its own words.

    options: what each letter stands for. The wrong ones have their reasons as named wrong answers.
    """

    options: Mapping[str, str] = field(default_factory=dict)

    def _judged(self, answer: Any) -> Outcome:
        ran = guarded(lambda: self._letter(plain(answer)), seconds=self.seconds)
        unreadable = self._unreadable(ran)
        if unreadable:
            return unreadable
        if ran.value is None:
            letters = ", ".join(f'`"{letter}"`' for letter in self.options)
            return self._no_verdict(f"Answer with one of {letters}, as text in quotes.")
        if ran.value == self.reference:
            return self._passed()
        wrong = self._named(lambda each: each.answer == ran.value) or WrongAnswer("", None, "That isn't it.")
        step = "" if wrong.name else f" {self._for_a_step()}"
        return self._failed(wrong.says + step, wrong.name)

    def _letter(self, answer: Any) -> str | None:
        if not isinstance(answer, str):
            return None
        said = answer.strip().strip("().:\"'` ").lower()
        words = {text.strip().strip(".").lower(): letter for letter, text in self.options.items()}
        return next((letter for letter in self.options if letter.lower() == said), words.get(said))

    def _worked(self) -> str:
        return f'`"{self.reference}"`: {self.options[self.reference]}'
