"""What the focus timer and the stuck timer share: moments, how they are said, and checked numbers.

A timer's events carry ``at``: what this machine's clock said. An event's own ``time`` orders the journal, and
stands in for ``at`` where an event lacks it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lessonkit.errors import LessonkitError

if TYPE_CHECKING:
    from lessonkit.progress.events import Event

__all__ = ["CLOCK_SLACK", "StudyError", "at_most", "clock_time", "later", "minutes_in_all", "moment"]
__all__ += ["number_between", "said", "stamp", "text_of", "utc"]

CLOCK_SLACK = timedelta(seconds=60)  # clocks are corrected by less than this all the time
LONGEST_TEXT = 10_000  # characters of what a learner types about a session; nobody reads more


class StudyError(LessonkitError, RuntimeError):
    """A study timer is asked for something that it can't do."""


def utc(now: datetime | None = None) -> datetime:
    """A moment in UTC; without one, now."""
    if now is None:
        return datetime.now(UTC)
    return now.astimezone(UTC)


def stamp(now: datetime) -> str:
    """A moment as an event carries it."""
    return utc(now).isoformat(timespec="microseconds")


def moment(event: Event) -> datetime:
    """When an event happened by the clock of the machine that wrote it."""
    for text in (event.data.get("at"), event.clock, event.time):
        try:
            found = datetime.fromisoformat(text)  # type: ignore[arg-type]
            if found.tzinfo is not None and 1 < found.year < 9999:  # room to add a session's length
                return found.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            continue
    return datetime(2000, 1, 1, tzinfo=UTC)


def later(earlier: datetime, now: datetime) -> float:
    """Seconds from one moment to another; a clock that was put back gives 0."""
    return max(0.0, (now - earlier).total_seconds())


def clock_time(when: datetime) -> str:
    """The hour and minute that the learner's clock shows; marked where that clock is set to UTC, as Colab's is."""
    local = when.astimezone()
    return local.strftime("%H:%M") + (" UTC" if local.tzname() in ("UTC", "Etc/UTC") else "")


def said(seconds: float) -> str:
    """A length of time in words: ``25 minutes``, ``1 hour 5 minutes``, ``less than a minute``."""
    minutes = int(seconds / 60 + 0.5)
    if minutes < 1:
        return "less than a minute"
    hours, minutes = divmod(minutes, 60)
    parts = [f"{n} {word}{'s' * (n > 1)}" for n, word in ((hours, "hour"), (minutes, "minute")) if n]
    return " ".join(parts)


def minutes_in_all(seconds: Iterable[float]) -> int:
    """Whole minutes of several lengths together, rounded once."""
    return int(sum(seconds) / 60 + 0.5)


def at_most(seconds: float) -> str:
    """Time left as a clock counts it down: ``24:59``; a second that has begun still counts."""
    whole = math.ceil(max(0.0, seconds))
    return f"{whole // 60}:{whole % 60:02d}"


def number_between(
    value: Any, low: float, high: float, name: str, example: str, unit: str = "minutes"
) -> float:
    """A number of minutes as typed (``25``, ``"25"``, ``"25 min"``), an int where it is whole.

    Raises:
        StudyError: it is no number, or outside of ``low`` to ``high``.
    """
    number = math.nan
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([+-]?\d{1,9}(?:[.,]\d{1,9})?)\s*(?:m|min|mins|minutes?)?\s*", value, re.I)
        number = float(match[1].replace(",", ".")) if match else math.nan
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e9 else math.inf
    if not low <= number <= high:
        what = f"{name} is {_short(value)}: a number of {unit} from {low:g} to {high:g} is needed."
        raise StudyError(what, fix=example)
    return int(number) if number == int(number) else number


def text_of(value: Any, name: str) -> str:
    """What a learner typed, without spaces around it, cut where nobody would read on.

    Raises:
        StudyError: it is not text.
    """
    if not isinstance(value, str):
        raise StudyError(f"{name} is {_short(value)}, which is not text.", fix=f'{name}="a few words"')
    text = value.strip()
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
