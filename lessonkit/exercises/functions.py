"""Exercises whose answer is a function: it is run on cases that the learner doesn't see."""

from __future__ import annotations

import contextlib
import copy
import inspect
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from lessonkit.exercises.base import (
    TODO,
    TOGETHER,
    Exercise,
    Outcome,
    WrongAnswer,
    after_stop,
    at,
    raised,
)
from lessonkit.exercises.plain import Grid, Other, alike, as_text, is_number, plain, type_name
from lessonkit.exercises.sandbox import GIB, Ran, code_of, guarded
from lessonkit.exercises.showing import block, code
from lessonkit.exercises.surroundings import Printed

__all__ = ["Function"]

MEMORY = 2 * GIB  # that an answer may add to the process
OWN_SECONDS = 120.0  # for the reference and the named wrong answers, on however slow a computer


@dataclass(frozen=True)
class _Result:
    """What one case gave, as plain data. changed: the function changed what it was given."""

    value: Any = None
    changed: bool = False
    untried: bool = False


@dataclass
class Function(Exercise):
    """A function; right if it gives what the reference gives in all cases.

    cases: tuples of positional arguments; each call gets its own copy. tolerance, relative: how far a number
    may be off, also inside lists, dictionaries, arrays and tensors (the default fits float32, and leaves
    whole numbers exact). Raising the reference's kind of error counts as the same. pure: fail an answer that
    changes what it is given; otherwise that is only mentioned. look: what is compared instead of the result, a
    function of the result and the arguments as they are after the call (for functions that change a model, say).
    source: the reference as text, for ``solution()``; by default it is read from its file.
    """

    cases: tuple[tuple, ...] = ()
    tolerance: float = 1e-9
    source: str = ""
    relative: float = 1e-6
    pure: bool = False
    look: Callable[..., Any] | None = None

    def _worked(self) -> str:
        source = self.source
        if not source:
            with contextlib.suppress(OSError, TypeError):
                source = textwrap.dedent(inspect.getsource(self.reference))
        return "\n" + block(source or repr(self.reference))

    def _judged(self, answer: Any) -> Outcome:
        if not callable(answer):
            kind = type_name(answer)
            kind = f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
            what = f"A function is wanted here, without brackets after its name, not {kind}."
            return self._no_verdict(what)
        printed = Printed()
        got = self._all_cases(answer, printed)
        outcome = self._verdict(answer, got)
        return Outcome(outcome.status, outcome.message, outcome.diagnosis, printed.shown())

    def _all_cases(self, answer: Any, printed: Printed) -> list[Ran]:
        """One result a case, up to the first that had to be stopped or shows that nothing was tried."""
        until, found, lines = time.monotonic() + TOGETHER * self.seconds, [], code_of(answer)
        for case in self.cases:
            seconds = min(self.seconds, until - time.monotonic())
            ran = self._run(answer, case, max(0.0, seconds), printed, lines)
            found.append(ran)
            if ran.stopped or (isinstance(ran.value, _Result) and ran.value.untried):
                break
        return found

    def _verdict(self, answer: Any, got: list[Ran]) -> Outcome:
        last = got[-1]
        if isinstance(last.value, _Result) and last.value.untried:
            return self._not_tried()
        if all(ran.trouble is not None and ran.trouble.kind is NotImplementedError for ran in got):
            return self._not_tried()
        if last.stopped:
            return self._stopped(answer, self.cases[len(got) - 1], last)
        want = [self._own(self.reference, case) for case in self.cases]
        differing = [
            number for number, pair in enumerate(zip(got, want, strict=True)) if not self._same(*pair)
        ]
        if not differing:
            return self._right(answer, got)
        wrong = self._named(lambda each: self._is_like(each, got))
        if wrong:
            return self._failed(wrong.says, wrong.name)
        first = differing[0]
        says = self._difference(answer, self.cases[first], got[first], want[first])
        raises = any(ran.trouble is not None for ran in got)
        return self._failed(f"{says} {self._for_a_step()}", "raises" if raises else "")

    def _right(self, answer: Any, got: list[Ran]) -> Outcome:
        changed = next((case for case, ran in zip(self.cases, got, strict=True) if _changed(ran)), None)
        if changed is None:
            return self._passed()
        call = _call_text(answer, changed)
        if not self.pure:
            return self._passed("(It also changes what it is given: work on a copy where others need it.)")
        says = f"The results are right, but {call} changes what it is given, and whoever calls it may need it still."
        return self._failed(f"{says} Work on a copy. {self._for_a_step()}", "changes-its-input")

    def _is_like(self, wrong: WrongAnswer, got: list[Ran]) -> bool:
        """Whether the learner's results are those of a named wrong answer, in every case."""
        return all(
            self._same(ran, self._own(wrong.answer, case), exactly=True)
            for case, ran in zip(self.cases, got, strict=True)
        )

    def _own(self, function: Callable, case: tuple) -> Ran:
        return self._run(function, case, OWN_SECONDS, Printed(), None)

    def _run(
        self, function: Callable, case: tuple, seconds: float, printed: Printed, lines: CodeType | None
    ) -> Ran:
        def work() -> _Result:
            arguments = copy.deepcopy(case)
            before = plain(arguments)
            result = function(*arguments)
            if result is TODO or result is ...:
                return _Result(untried=True)
            if self.look is not None:
                return _Result(plain(self.look(result, *arguments)))
            return _Result(plain(result), changed=not alike(plain(arguments), before))

        return guarded(work, seconds=seconds, printed=printed, code=lines, memory=MEMORY)

    def _same(self, got: Ran, want: Ran, exactly: bool = False) -> bool:
        if got.trouble is not None and want.trouble is not None:
            kinds = got.trouble.kind, want.trouble.kind
            return kinds[0] is kinds[1] if exactly else issubclass(*kinds)
        if got.trouble is not None or want.trouble is not None or want.stopped:
            return False
        return alike(got.value.value, want.value.value, self.tolerance, self.relative)

    # ---- What is said -------------------------------------------------------------------------------

    def _stopped(self, answer: Any, case: tuple, ran: Ran) -> Outcome:
        call, where = _call_text(answer, case), at(ran.place)
        if ran.stopped == "memory":
            says = f"{call} takes more than {MEMORY / GIB:g} GiB of memory{where}."
            return self._failed(f"{says} {after_stop(ran)}", "too-much-memory")
        says = f"{call} had not come back after {ran.seconds:.1f} seconds{where}."
        return self._failed(f"{says} Does something there never end? {after_stop(ran)}", "too-slow")

    def _difference(self, answer: Any, case: tuple, got: Ran, want: Ran) -> str:
        call = _call_text(answer, case)
        if got.trouble is not None:
            should = f" It should raise {code(want.trouble.name)}." if want.trouble is not None else ""
            return f"{call} raises {raised(got.trouble)}.{should}"
        if want.trouble is not None:
            return f"{call} returns {_shown(got.value.value)}, but should raise {code(want.trouble.name)}."
        said = f"{call} returns {_returned(got.value.value, want.value.value)}"
        if _changed(got) and self.look is None:
            said += " It also changes what it is given; is that meant?"
        return said


def _changed(ran: Ran) -> bool:
    return isinstance(ran.value, _Result) and ran.value.changed


def _call_text(answer: Any, case: tuple) -> str:
    """The call as the learner would type it: `recall([[8, 2], [1, 9]], 0)`."""
    named = type(answer) is FunctionType and answer.__name__.isidentifier()
    arguments = ", ".join(as_text(plain(each)) for each in case)
    return code(f"{answer.__name__ if named else 'your_function'}({arguments})")


NOTES = {
    "generator": "a generator: it has a `yield`, or round brackets where `[...]` is meant.",
    "coroutine": "a coroutine: write `def` without `async`.",
    "iterator": "an iterator, which can be read only once: wrap it in `list(...)`.",
    "function": "a function: are the brackets `()` behind its name missing?",
    "huge": "something with more than two million numbers in it.",
}


def _returned(got: Any, want: Any) -> str:
    """What came back, and what should have."""
    if isinstance(got, Other) and got.note in NOTES:
        return NOTES[got.note]
    if got is None:
        return "None: is a `return` missing?"
    if isinstance(got, Grid) and isinstance(want, Grid) and got.shape != want.shape:
        return f"the shape {code(str(got.shape))}, not {code(str(want.shape))}."
    if isinstance(got, Grid) and is_number(want):
        return f"an array or tensor of shape {code(str(got.shape))}, not the number {_shown(want)}."
    if isinstance(got, bool) and is_number(want):
        return f"{_shown(got)}, but a number is wanted: {_shown(want)}."
    if isinstance(got, str) and is_number(want):
        return f"{_shown(got)}, which is text; the number {_shown(want)} is wanted."
    pair = as_text(got), as_text(want)
    if pair[0] == pair[1]:
        pair = as_text(got, exactly=True), as_text(want, exactly=True)
    return f"{code(pair[0])}, not {code(pair[1])}."


def _shown(value: Any) -> str:
    return code(as_text(value))
