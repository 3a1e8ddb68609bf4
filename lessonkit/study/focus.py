"""The focus timer: some minutes of work, then a short break; its state is a fold of the ``focus`` events.

What counts is the time from a session's start to its planned end, to its stop, or to the start of the next
one, whichever came first. So a session that nobody stopped ends as planned however long the laptop was
closed, and sessions of two notebooks or two machines are never counted twice.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lessonkit.study.times import (
    CLOCK_SLACK,
    StudyError,
    at_most,
    clock_time,
    later,
    moment,
    number_between,
    said,
    stamp,
    text_of,
    utc,
)

if TYPE_CHECKING:
    from lessonkit.progress.events import Event
    from lessonkit.progress.journal import Journal

__all__ = ["FOCUS_MINUTES", "LONGEST_FOCUS", "LONGEST_REST", "REST_MINUTES", "Focus", "current_focus"]
__all__ += ["days", "focus_log", "fold_focus", "keep_words", "last_focus", "sentence", "session_line"]
__all__ += ["start_focus", "stop_focus", "words"]

FOCUS_MINUTES, REST_MINUTES = 25, 5  # the study tips' rhythm
LONGEST_FOCUS, LONGEST_REST = 180, 60  # minutes
STILL_FRESH = timedelta(minutes=30)  # how long after a break its end is worth a word
WORDS_LATER = timedelta(hours=12)  # until then a session that ended by itself can be told what was done in it
EXAMPLE = "lessonkit focus start --minutes 25 --rest 5"


@dataclass(frozen=True)
class Focus:
    """One focus session.

    session: its id. started: UTC. minutes, rest: as planned. about: what it was for. seconds: of focus, up to
    the moment of reading; never more than planned. done: what was done in it, in the learner's words.
    ended: UTC, when it was stopped or another one was started; None where it goes, or went, as planned.
    """

    session: str
    started: datetime
    minutes: float = FOCUS_MINUTES
    rest: float = REST_MINUTES
    about: str = ""
    seconds: float = 0.0
    done: str = ""
    ended: datetime | None = None

    @property
    def focus_end(self) -> datetime:
        """When the planned focus ends, UTC."""
        return self.started + timedelta(minutes=self.minutes)

    @property
    def rest_end(self) -> datetime:
        """When the planned break ends, UTC."""
        return self.focus_end + timedelta(minutes=self.rest)

    def phase(self, now: datetime | None = None) -> str:
        """``"focus"``, ``"rest"`` or ``"over"``; over too where the clock says that it hasn't begun."""
        now = utc(now)
        if self.ended is not None or now < self.started - CLOCK_SLACK or now >= self.rest_end:
            return "over"
        return "focus" if now < self.focus_end else "rest"

    def remaining(self, now: datetime | None = None) -> float:
        """Seconds left of the present phase; 0 when it is over."""
        now = utc(now)
        phase = self.phase(now)
        if phase == "over":
            return 0.0
        whole = self.minutes if phase == "focus" else self.rest
        return min(60.0 * whole, later(now, self.focus_end if phase == "focus" else self.rest_end))

    def at(self, now: datetime | None = None) -> Focus:
        """The same session with its ``seconds`` counted up to a moment."""
        end = self.ended or utc(now)
        return replace(self, seconds=min(60.0 * self.minutes, later(self.started, end)))

    def share(self, now: datetime | None = None) -> float:
        """How much of the present phase is behind, 0 to 1."""
        whole = 60.0 * (self.minutes if self.phase(now) == "focus" else self.rest)
        return 1.0 - self.remaining(now) / whole if whole else 1.0


def start_focus(
    journal: Journal,
    about: str = "",
    minutes: float = FOCUS_MINUTES,
    rest: float = REST_MINUTES,
    now: datetime | None = None,
) -> Focus:
    """Start a session; a break that is still going on ends with it.

    minutes: 1 to 180; rest: 0 to 60. about: what it is for, in a few words.

    Raises:
        StudyError: a session is running, or a number is not one of those.
        JournalError: the journal can't be written.
    """
    now = utc(now)
    minutes = number_between(minutes, 1, LONGEST_FOCUS, "minutes", EXAMPLE)
    rest = number_between(rest, 0, LONGEST_REST, "rest", EXAMPLE)
    about = text_of(about, "about")
    running = current_focus(journal, now)
    if running is not None and running.phase(now) == "focus":
        raise StudyError(
            f"A focus session{_for(running)} is running already: {at_most(running.remaining(now))} left.",
            fix="go on with it, or stop it first: lessonkit focus stop (in a notebook: the Stop button)",
        )
    session = uuid.uuid4().hex
    plan = {"minutes": minutes, "rest": rest, "about": about}
    journal.append("focus", session=session, action="start", at=stamp(now), **plan)
    return Focus(session, now, minutes, rest, about)


def stop_focus(journal: Journal, done: str = "", now: datetime | None = None) -> Focus | None:
    """Stop the session that is running, or its break; the time so far counts.

    done: what was done, in a few words. Where the session has ended by itself in the last 12 hours, its words
    are kept all the same, and it is returned; without words, None: nothing was running.
    """
    now, done = utc(now), text_of(done, "done")
    running = current_focus(journal, now)
    if running is None:
        return keep_words(journal, done, now) if done else None
    journal.append(
        "focus",
        session=running.session,
        action="stop",
        at=stamp(now),
        done=done,
        seconds=round(running.seconds),
    )
    return replace(running, done=_joined(running.done, done), ended=max(running.started, now)).at(now)


def keep_words(journal: Journal, done: str, now: datetime | None = None) -> Focus | None:
    """Add what was done to the latest session of the last 12 hours without ending it; None without one."""
    now, done = utc(now), text_of(done, "done")
    latest = last_focus(journal, now)
    if not done or latest is None or later(latest.rest_end, now) > WORDS_LATER.total_seconds():
        return None
    journal.append("focus", session=latest.session, action="done", at=stamp(now), done=done)
    return replace(latest, done=_joined(latest.done, done))


def current_focus(journal: Journal, now: datetime | None = None) -> Focus | None:
    """The session that is running, or in its break; None without one."""
    latest = last_focus(journal, now)
    return latest if latest is not None and latest.phase(now) != "over" else None


def last_focus(journal: Journal, now: datetime | None = None) -> Focus | None:
    """The latest session, running or over; None without one."""
    sessions = focus_log(journal, now)
    return sessions[-1] if sessions else None


def focus_log(journal: Journal, now: datetime | None = None) -> list[Focus]:
    """All sessions, oldest first. Raises JournalError where the journal can't be read."""
    return fold_focus(journal.read("focus").events, now)


def fold_focus(events: Iterable[Event], now: datetime | None = None) -> list[Focus]:
    """The sessions that the events, in any order, add up to; what can't be read is passed over."""
    now, sessions = utc(now), {}
    for event in sorted(events, key=lambda event: event.rank):
        session = event.data.get("session")
        if event.kind != "focus" or not isinstance(session, str) or not session:
            continue
        action, known = event.data.get("action"), sessions.get(session)
        if action == "start" and known is None:
            sessions[session] = _begun(session, event)
        elif action in ("stop", "done") and known is not None:
            sessions[session] = _told(known, event, stopped=action == "stop")
    listed = list(sessions.values())
    cut = [_cut(each, after) for each, after in zip(listed, [*listed, None][1:], strict=True)]
    return [each.at(now) for each in cut]


def words(latest: Focus | None, now: datetime | None = None) -> str:
    """Where the latest session stands, and what to do now; the same text for all of a phase."""
    now = utc(now)
    phase = latest.phase(now) if latest is not None else "over"
    if latest is None or (phase == "over" and not _just_over(latest, now)):
        return "No focus session is running."
    if phase == "focus":
        return f"Focus{_for(latest)} until {clock_time(latest.focus_end)}."
    whole = said(60 * latest.minutes)
    if phase == "rest":
        pause = "Now the break: stand up, drink something, look out of the window."
        return f"That was {whole}{_for(latest)}. Good. {pause} Until {clock_time(latest.rest_end)}."
    if latest.rest:
        return f"The break is over. Another {whole}? Start when you are ready; to stop for today is fine too."
    return f"That was {whole}{_for(latest)}. Good. Take a break if you want one."


def sentence(latest: Focus | None, now: datetime | None = None) -> str:
    """``words``, and the time left."""
    now = utc(now)
    left = latest.remaining(now) if latest is not None else 0.0
    return f"{words(latest, now)} {at_most(left)} left." if left else words(latest, now)


def session_line(each: Focus) -> str:
    """A session in a line of a log: ``09:00  25 minutes  LoRA, section 2: understood what the rank is``."""
    about = ": ".join(" ".join(text.split()) for text in (each.about, each.done) if text.strip())
    return f"{clock_time(each.started)}  {said(each.seconds):<10}  {about}".rstrip()


def days(sessions: Iterable[Focus]) -> dict[str, list[Focus]]:
    """The sessions by the local date on which they began, ``2026-03-01``, without those of a moment."""
    found: dict[str, list[Focus]] = {}
    for each in sessions:
        if each.seconds >= 60 or each.done:
            found.setdefault(f"{each.started.astimezone():%Y-%m-%d}", []).append(each)
    return found


def _just_over(latest: Focus, now: datetime) -> bool:
    """Whether a session, its break included, has ended by itself not long ago."""
    return latest.ended is None and timedelta() <= now - latest.rest_end < STILL_FRESH


def _begun(session: str, event: Event) -> Focus:
    minutes = _planned(event.data.get("minutes"), FOCUS_MINUTES, 1, LONGEST_FOCUS)
    rest = _planned(event.data.get("rest"), REST_MINUTES, 0, LONGEST_REST)
    return Focus(session, moment(event), minutes, rest, _words(event.data.get("about")))


def _told(known: Focus, event: Event, *, stopped: bool) -> Focus:
    """The session after a stop or some words; the first stop is the one that counts."""
    done = _joined(known.done, _words(event.data.get("done")))
    if not stopped or known.ended is not None:
        return replace(known, done=done)
    return replace(known, done=done, ended=max(known.started, moment(event)))


def _cut(each: Focus, after: Focus | None) -> Focus:
    """The session, ended where the next one was started before its planned end."""
    if after is None or after.started >= each.rest_end:
        return each
    ended = max(each.started, after.started)
    return each if each.ended is not None and each.ended <= ended else replace(each, ended=ended)


def _planned(value: Any, usual: float, low: float, high: float) -> float:
    """A planned length as an event carries it; the usual one where it is no number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return min(high, max(low, value)) if number and -math.inf < value < math.inf else usual


def _words(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _joined(before: str, more: str) -> str:
    """Words added to words, each once."""
    return more if not before else before if not more or more in before.split("; ") else f"{before}; {more}"


def _for(each: Focus) -> str:
    """What a session is about, on one line and not too long; empty where nothing was said."""
    words = " ".join(each.about.split())
    return f" on “{words if len(words) <= 60 else words[:59] + '…'}”" if words else ""
