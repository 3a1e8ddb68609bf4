"""One small tree of errors; each says what happened, why, and what to type next.

Every class also is the built-in error a Python programmer would expect, so ``except OSError``
still catches a full disk. A traceback without a ``LessonkitError`` at its end is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AdapterError",
    "AssetError",
    "CurriculumError",
    "DataError",
    "ExerciseError",
    "HardwareError",
    "JournalError",
    "LessonError",
    "LessonkitError",
    "ModelError",
    "TrainingError",
    "UnknownNameError",
    "nearest",
]


class LessonkitError(Exception):
    """Something a learner can mend.

    what: what happened, one sentence.
    why: the cause, where it is known.
    fix: what to type or change next.
    """

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        lines = [what]
        if why:
            lines.append(f"Why: {why}")
        if fix:
            lines.append(f"Next: {fix}")
        super().__init__("\n".join(lines))
        self.what = what
        self.why = why
        self.fix = fix

    def __reduce__(self) -> tuple:
        """Survive the way out of a worker process, whatever the constructor of a subclass takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[LessonkitError], args: tuple, fields: dict) -> LessonkitError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class UnknownNameError(LessonkitError, LookupError):
    """A lesson, dataset, model or checklist item that does not exist; the nearest is offered."""

    def __init__(self, kind: str, name: str, choices: Iterable[str], *, fix: str = "") -> None:
        names = list(choices)
        guesses = nearest(name, names)
        why = f"Did you mean {' or '.join(repr(guess) for guess in guesses)}?" if guesses else ""
        listed = ", ".join(sorted(names)) or "none"
        super().__init__(
            f"There is no {kind} called {name!r}.",
            why=why,
            fix=fix or f"use one of: {listed}",
        )
        self.name = name
        self.nearest = guesses


class HardwareError(LessonkitError, RuntimeError):
    """The machine cannot do what was asked of it."""


class AssetError(LessonkitError, OSError):
    """A model or dataset could not be fetched, verified or stored."""


class CurriculumError(LessonkitError, ValueError):
    """``curriculum.yaml`` breaks its own rules; ``problems`` lists all of them."""

    def __init__(self, what: str, *, problems: Iterable[str] = (), fix: str = "") -> None:
        self.problems = list(problems)
        listing = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(what + listing, fix=fix)


class DataError(LessonkitError, ValueError):
    """A dataset does not look as it should."""


class ModelError(LessonkitError, OSError):
    """A model's files cannot be loaded."""


class AdapterError(LessonkitError, ValueError):
    """An adapter cannot be made, switched, removed or loaded as asked."""


class TrainingError(LessonkitError, RuntimeError):
    """A training run cannot start or go on."""


class JournalError(LessonkitError, OSError):
    """The learner's journal cannot be read or written."""


class LessonError(LessonkitError, RuntimeError):
    """A lesson cannot be started, built or run."""


class ExerciseError(LessonkitError, RuntimeError):
    """An exercise is used in a way that it cannot understand."""


def nearest(name: str, choices: Iterable[str], count: int = 2) -> list[str]:
    """The names most like ``name``, best first; empty when none is close."""
    typed, lowered = name.lower(), {choice.lower(): choice for choice in choices}
    found = [low for low in lowered if typed and low.endswith(f"/{typed}")]  # 'lora' for 'beginner/lora'
    found += difflib.get_close_matches(typed, lowered, n=count, cutoff=0.5)
    if not found:
        found = [low for low in lowered if typed and typed in low]
    return [lowered[low] for low in dict.fromkeys(found)][:count]
