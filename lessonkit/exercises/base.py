"""What every exercise has: a check that never raises, hints in steps, a worked answer, named mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lessonkit.errors import LessonkitError
from lessonkit.exercises.plain import plain
from lessonkit.exercises.sandbox import Place, Ran, Trouble, guarded
from lessonkit.exercises.showing import block, code, plain_text, show

__all__ = ["RESERVED", "TODO", "Exercise", "Outcome", "WrongAnswer"]

#: Diagnoses that the engine gives itself; no named wrong answer may be called so.
RESERVED = ("changes-its-input", "not-a-number", "raises", "too-much-memory", "too-slow")

MARKS = {"passed": "✅", "failed": "❌", "error": "⚠️", "unattempted": "⬜"}
STUCK_AFTER = 3  # failed checks in a row
TOGETHER = 4  # a whole check may take so many times what one case may


class _Todo:
    """What an exercise's cell holds before its reader has tried it."""

    def __repr__(self) -> str:
        return "TODO"


TODO = _Todo()


@dataclass(frozen=True)
class WrongAnswer:
    """A wrong answer that people really give.

    name: the misconception. answer: an example of it. says: what is wrong and where to look.
    when: for a ``Bar`` only, which attempts show this misconception; by default those like the example.
    """

    name: str
    answer: Any
    says: str
    when: Callable[[Any], bool] | None = None


@dataclass(frozen=True)
class Outcome:
    """How an answer was judged.

    status: ``"passed"``, ``"failed"``, ``"error"`` (not of the kind asked for) or ``"unattempted"``.
    message: what is said of it, with `code` and **bold**. diagnosis: a WrongAnswer's name, one of
    ``RESERVED``, or "". printed: the beginning of what the answer printed meanwhile.
    """

    status: str
    message: str
    diagnosis: str = ""
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether the answer was right."""
        return self.status == "passed"

    @property
    def shown(self) -> str:
        """All that is put on the screen, in the little Markdown of ``showing``."""
        text = f"{MARKS[self.status]} {self.message}"
        return f"{text}\nIt printed:\n{block(self.printed)}" if self.printed else text

    def __str__(self) -> str:
        return plain_text(self.shown)

    __repr__ = __str__

    def _ipython_display_(self) -> None:
        """Show nothing: ``check`` has shown it, and a cell that ends in it would show it twice."""


@dataclass
class _Count:
    """What is remembered of an exercise, also when a cell makes it anew."""

    hints_given: int = 0
    failed_in_a_row: int = 0


_counts: dict[tuple[str, str], _Count] = {}


@dataclass
class Exercise:
    """The base of every kind: only ``name``, ``reference`` and ``because`` must be given.

    name: as in ``lesson.exercise(name)``. reference: a right answer. because: why it is right.
    hints: one more step each. wrong: at least two named wrong answers (or tuples to make them of).
    also_right: other ways to write a right answer, for tests and for authors.
    seconds: that one run of the answer may take; a whole check, four times as long.
    lesson, scale: set by ``load_exercises`` and ``lesson.exercise``.
    """

    name: str
    reference: Any
    because: str
    hints: tuple[str, ...] = ()
    wrong: tuple[WrongAnswer, ...] = ()
    also_right: tuple = field(default=(), kw_only=True)
    seconds: float = field(default=5.0, kw_only=True)
    on_outcome: Callable[[Exercise, Outcome], None] | None = field(default=None, repr=False, kw_only=True)
    lesson: str = field(default="", repr=False, kw_only=True)
    scale: str = field(default="laptop", repr=False, kw_only=True)

    def __post_init__(self) -> None:
        self.wrong = tuple(
            each if isinstance(each, WrongAnswer) else WrongAnswer(*each) for each in self.wrong
        )
        self._own_count = _Count()

    @property
    def hints_given(self) -> int:
        """How many hints have been shown; remembered for as long as the kernel runs."""
        return self._count.hints_given

    def check(self, answer: Any) -> Outcome:
        """Judge the answer and show the outcome. Never raises, whatever the answer is or does.

        Only the Stop button ends it early, as it ends any cell.
        """
        try:
            outcome = self.judge(answer)
        except Exception as error:  # ours or the author's mistake; the learner's notebook goes on
            what = f"Your answer could not be checked: {type(error).__name__}: {error}"
            outcome = self._no_verdict(what)
        outcome = self._with_offer(outcome)
        show(outcome.shown, outcome.status)  # first: the verdict is seen even if it cannot be recorded
        if self.on_outcome is not None and outcome.status != "unattempted":
            try:
                self.on_outcome(self, outcome)
            except Exception as error:  # a full disk, say: the verdict stands all the same
                what = str(error) if isinstance(error, LessonkitError) else f"{type(error).__name__}: {error}"
                show(f"Not recorded in your journal. {what}", "error")
        return outcome

    def judge(self, answer: Any) -> Outcome:
        """The outcome, without showing or recording it."""
        if _untried(answer):
            return self._not_tried()
        return self._judged(answer)

    def hint(self) -> None:
        """Show one more hint each time."""
        count = self._count
        count.hints_given = min(count.hints_given + 1, len(self.hints))
        shown = self.hints[: count.hints_given]
        lines = [f"**Hint {number} of {len(self.hints)}:** {hint}" for number, hint in enumerate(shown, 1)]
        if count.hints_given == len(self.hints):
            known = "That was the last one" if self.hints else "There are no hints here"
            lines.append(f"{known}; the worked answer: {self._call('solution')}")
        show("\n".join(lines))

    def solution(self) -> None:
        """Show a right answer and why it is right. Looking is allowed at any time; nothing is recorded."""
        show(f"**A right answer:** {self._worked()}\n{self.because}")

    def spoken(self) -> str:
        """The reference answer as plain text."""
        return plain_text(self._worked())

    def _worked(self) -> str:
        """The reference answer in the little Markdown of ``showing``."""
        return code(repr(self.reference))

    def made(self, example: Any) -> Any:
        """An answer made of ``reference``, of one of ``also_right`` or of a wrong answer's ``answer``."""
        return example

    def _judged(self, answer: Any) -> Outcome:
        """The outcome of an answer that has been tried."""
        raise NotImplementedError

    def _read(self, answer: Any) -> Ran:
        """The answer as plain data, or what went wrong on the way."""
        return guarded(lambda: plain(answer), seconds=self.seconds)

    def _unreadable(self, ran: Ran) -> Outcome | None:
        """What to say if an answer could not even be looked at."""
        if ran.stopped:
            took = f"Looking at your answer took more than {self.seconds:g} seconds."
            return self._no_verdict(f"{took} {after_stop(ran)}", "too-slow")
        if ran.trouble is not None:
            return self._no_verdict(f"Your answer can't be looked at: it raises {raised(ran.trouble)}.")
        return None

    def _named(self, fits: Callable[[WrongAnswer], bool]) -> WrongAnswer | None:
        return next((wrong for wrong in self.wrong if fits(wrong)), None)

    def _passed(self, note: str = "") -> Outcome:
        return Outcome("passed", " ".join(filter(None, ["**Right.**", note, self.because])))

    def _failed(self, says: str, diagnosis: str = "") -> Outcome:
        return Outcome("failed", f"**Not yet.** {says}", diagnosis)

    def _no_verdict(self, says: str, diagnosis: str = "") -> Outcome:
        return Outcome("error", f"**Can't be judged yet.** {says}", diagnosis)

    def _for_a_step(self) -> str:
        return f"For a hint: {self._call('hint')}"

    def _not_tried(self) -> Outcome:
        message = f"**Not tried yet.** Replace {code('TODO')}, or ask for help: {self._call('hint')}"
        return Outcome("unattempted", message)

    def _call(self, method: str) -> str:
        return code(f'lesson.exercise("{self.name}").{method}()')

    @property
    def _count(self) -> _Count:
        if not self.lesson:
            return self._own_count
        return _counts.setdefault((self.lesson, self.name), _Count())

    def _with_offer(self, outcome: Outcome) -> Outcome:
        """The outcome; after the third failure in a row, and each third one from there, with an offer of help."""
        count = self._count
        if outcome.status in ("failed", "error"):
            count.failed_in_a_row += 1
        elif outcome.status == "passed":
            count.failed_in_a_row = 0
        failed = count.failed_in_a_row
        if outcome.status not in ("failed", "error") or failed % STUCK_AFTER:
            return outcome
        stuck = code(f'lesson.stuck("{self.name}")')
        offer = (
            f"That was try number {failed}. Everybody gets stuck; {stuck} gives you 15 minutes and a way out."
        )
        return Outcome(outcome.status, f"{outcome.message}\n{offer}", outcome.diagnosis, outcome.printed)


def raised(trouble: Trouble) -> str:
    """An exception in words: its name, its text, and the line that it came from."""
    text = trouble.text.partition("\n")[0] if issubclass(trouble.kind, LessonkitError) else trouble.text
    words = code(f"{trouble.name}: {text[:300]}" if text else trouble.name)
    helpful = {
        RecursionError: " (it calls itself without end)",
        MemoryError: " (there is not enough memory for that)",
        SystemExit: " (a function ends with `return`, not with `exit()`)",
    }
    return words + helpful.get(trouble.kind, "") + at(trouble.place)


def at(place: Place | None) -> str:
    """ ", in line 3: `return x / 0`", as far as it is known."""
    if place is None:
        return ""
    return f", in line {place.number}" + (f": {code(place.source)}" if place.source else "")


def after_stop(ran: Ran) -> str:
    """Whether code whose time was up has been stopped, and what to do if it hasn't."""
    if ran.ended:
        return "It has been stopped."
    return "It could not be stopped and goes on in the background: save, then choose **Kernel, Restart**."


def _untried(answer: Any) -> bool:
    """Whether there is still a TODO in it, or nothing at all."""
    if answer is TODO or answer is None or answer is ...:
        return True
    if type(answer) in (list, tuple) and len(answer) <= 20:
        return any(each is TODO for each in answer)
    return type(answer) is dict and len(answer) <= 20 and any(each is TODO for each in answer.values())
