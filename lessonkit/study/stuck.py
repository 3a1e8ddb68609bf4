"""The stuck timer: 15 minutes for a problem, what was tried, hint by hint, then the worked step or a break.

Its state is a fold of the ``stuck`` events and of the exercises passed meanwhile. A hint is never held back
for more than three minutes, and never at all from who has just said what was tried.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from lessonkit.study.times import (
    CLOCK_SLACK,
    StudyError,
    at_most,
    clock_time,
    later,
    moment,
    said,
    stamp,
    text_of,
    utc,
)

if TYPE_CHECKING:
    from lessonkit.progress.events import Event
    from lessonkit.progress.journal import Journal

__all__ = [
    "ENDS",
    "HINT_WAIT",
    "LEFT_AFTER",
    "STUCK_MINUTES",
    "Hint",
    "Stuck",
    "Tried",
    "current_stuck",
    "end_if_solved",
]
__all__ += [
    "comfort",
    "end_stuck",
    "fold_stuck",
    "headline",
    "last_stuck",
    "log_text",
    "proposal",
    "start_stuck",
]
__all__ += ["stuck_log", "take_hint", "tell_tried"]

STUCK_MINUTES = 15
HINT_WAIT = timedelta(minutes=3)  # from one hint to the next, without a word on what was tried
LEFT_AFTER = timedelta(minutes=60)  # without a sign of life: the learner has gone on to something else
ENDS = {  # how a session ends, as its log says it
    "solved": "solved",
    "solution": "with the worked answer",
    "break": "with a break",
    "stopped": "stopped",
    "switched": "left for something else",
    "left": "left open",
}


class Tried(NamedTuple):
    """What was tried. at: UTC."""

    at: datetime
    text: str


class Hint(NamedTuple):
    """A hint that was taken. at: UTC. number: from 1. text: as shown."""

    at: datetime
    number: int
    text: str


@dataclass(frozen=True)
class Stuck:
    """One session of being stuck.

    session: its id. started: UTC. lesson, exercise: on what; empty where it is something else. tried, hints:
    oldest first. told: whether something was tried since the last hint. ended: UTC, None while it is open.
    how: a key of ``ENDS``, empty while it is open.
    """

    session: str
    started: datetime
    lesson: str = ""
    exercise: str = ""
    tried: tuple[Tried, ...] = ()
    hints: tuple[Hint, ...] = ()
    told: bool = False
    ended: datetime | None = None
    how: str = ""

    @property
    def last_sign(self) -> datetime:
        """When it was begun, added to, or given a hint, whichever came last."""
        return max([self.started, *(each.at for each in self.tried), *(each.at for each in self.hints)])

    def seconds(self, now: datetime | None = None) -> float:
        """How long it has taken, or took."""
        return later(self.started, self.ended or utc(now))

    def remaining(self, now: datetime | None = None) -> float:
        """Seconds left of the 15 minutes; 0 when they are over."""
        return max(0.0, 60.0 * STUCK_MINUTES - self.seconds(now))

    def hint_wait(self, now: datetime | None = None) -> float:
        """Seconds until the next hint opens; 0 when it is open."""
        now = utc(now)
        since = self.hints[-1].at if self.hints else self.started
        if self.told or not self.remaining(now) or now < since - CLOCK_SLACK:
            return 0.0
        return later(now, since + HINT_WAIT)


def start_stuck(
    journal: Journal, lesson: str = "", exercise: str = "", tried: str = "", now: datetime | None = None
) -> Stuck:
    """Start the 15 minutes, or go on with those that run for the same exercise.

    lesson, exercise: ids; empty for anything else. tried: what was tried so far, which opens the first hint.
    A session on something else ends with it. Raises JournalError where the journal can't be written.
    """
    now = utc(now)
    lesson, exercise = text_of(lesson, "lesson"), text_of(exercise, "exercise")
    tried = text_of(tried, "tried")
    running = current_stuck(journal, now)
    if running is None or (running.lesson, running.exercise) != (lesson, exercise):
        session = uuid.uuid4().hex
        about = {"lesson": lesson, "exercise": exercise}
        journal.append("stuck", session=session, action="start", at=stamp(now), **about)
        running = Stuck(session, now, lesson, exercise)
    return tell_tried(journal, tried, now) if tried else running


def tell_tried(journal: Journal, text: str, now: datetime | None = None) -> Stuck:
    """Keep what was tried; it opens the next hint.

    Raises:
        StudyError: nothing was said, or no session is open.
    """
    now, text = utc(now), text_of(text, "tried")
    running = _open_one(journal, now)
    if not text:
        raise StudyError(
            "What did you try? A few words are enough.",
            fix='lessonkit stuck tried "I printed the shapes: (8, 2) and (2, 8)"',
        )
    journal.append("stuck", session=running.session, action="tried", at=stamp(now), text=text)
    return replace(running, tried=(*running.tried, Tried(now, text)), told=True)


def take_hint(journal: Journal, hints: Sequence[str], given: int = 0, now: datetime | None = None) -> Hint:
    """The next of an exercise's hints, which is kept in the log.

    given: how many of them were shown outside of this session.

    Raises:
        StudyError: no session is open, the next hint isn't open yet, or there are no more.
    """
    now = utc(now)
    running = _open_one(journal, now)
    number = max([given, *(each.number for each in running.hints)]) + 1
    if number > len(hints):
        if not running.exercise:
            fix = "lessonkit stuck --exercise NAME, for an exercise of a lesson; lessonkit explain, for an error message"
            raise StudyError("There are no hints for this: hints belong to exercises.", fix=fix)
        none = "Those were all the hints." if hints else "This exercise has no hints."
        raise StudyError(none, fix=proposal(running))
    wait = running.hint_wait(now)
    if wait:
        raise StudyError(
            f"Hint {number} opens by itself in {at_most(wait)}.",
            fix='say what you tried, and it opens at once: lessonkit stuck tried "..."',
        )
    text = hints[number - 1]
    journal.append("stuck", session=running.session, action="hint", at=stamp(now), number=number, text=text)
    return Hint(now, number, text)


def end_stuck(journal: Journal, how: str = "stopped", now: datetime | None = None) -> Stuck | None:
    """End the session that is open; None where none is. What was tried without an exercise becomes a note.

    Raises:
        StudyError: how is none of ``ENDS``.
    """
    now = utc(now)
    if how not in ENDS:
        raise StudyError(f"{how!r} is not one of the ways to end.", fix=f"one of: {', '.join(ENDS)}")
    running = current_stuck(journal, now)
    if running is None:
        return None
    journal.append("stuck", session=running.session, action="end", at=stamp(now), how=how)
    ended = replace(running, ended=max(now, running.started), how=how)
    if ended.tried and not ended.exercise:
        journal.append("note", text=log_text(ended), about=ended.lesson)
    return ended


def end_if_solved(journal: Journal, lesson: str, exercise: str, now: datetime | None = None) -> str:
    """End the session on an exercise that was just passed; a sentence for the learner, or "" without one."""
    now = utc(now)
    latest = last_stuck(journal, now)
    if latest is None or (latest.lesson, latest.exercise) != (lesson, exercise):
        return ""
    if latest.ended is None:
        latest = end_stuck(journal, "solved", now) or latest
    elif latest.how != "solved" or later(latest.ended, now) > CLOCK_SLACK.total_seconds():
        return ""
    return f"Solved after {said(latest.seconds(now))}. What you tried is kept: lessonkit stuck log"


def current_stuck(journal: Journal, now: datetime | None = None) -> Stuck | None:
    """The session that is open; None without one."""
    latest = last_stuck(journal, now)
    return latest if latest is not None and latest.ended is None else None


def last_stuck(journal: Journal, now: datetime | None = None) -> Stuck | None:
    """The latest session, open or ended; None without one."""
    sessions = stuck_log(journal, now)
    return sessions[-1] if sessions else None


def stuck_log(journal: Journal, now: datetime | None = None) -> list[Stuck]:
    """All sessions, oldest first. Raises JournalError where the journal can't be read."""
    return fold_stuck(journal.read("stuck", "exercise").events, now)


def fold_stuck(events: Iterable[Event], now: datetime | None = None) -> list[Stuck]:
    """The sessions that the events, in any order, add up to; what can't be read is passed over."""
    now, sessions = utc(now), {}
    latest = ""
    for event in sorted(events, key=lambda event: event.rank):
        session = event.data.get("session")
        if event.kind == "exercise" and latest:
            sessions[latest] = _passed(sessions[latest], event)
        if event.kind != "stuck" or not isinstance(session, str) or not session:
            continue
        if event.data.get("action") == "start" and session not in sessions:
            if latest and sessions[latest].ended is None:
                sessions[latest] = _left(sessions[latest], moment(event), "switched")
            sessions[session], latest = _begun(session, event), session
        elif session in sessions:
            sessions[session] = _told(sessions[session], event)
    return [_left(each, now, "") if each.ended is None else each for each in sessions.values()]


def headline(stuck: Stuck, now: datetime | None = None) -> str:
    """Where a session stands, in a sentence or two."""
    now, on = utc(now), _on(stuck)
    if stuck.ended is not None:
        return f"Ended{on} after {said(stuck.seconds(now))}: {ENDS[stuck.how]}."
    if stuck.remaining(now):
        end = clock_time(stuck.started + timedelta(minutes=STUCK_MINUTES))
        return f"{comfort(stuck)} {at_most(stuck.remaining(now))} left, until {end}."
    return f"{said(stuck.seconds(now)).capitalize()}{on}: long enough for one go. {proposal(stuck)}"


def comfort(stuck: Stuck) -> str:
    """What to hear first."""
    return f"Stuck{_on(stuck)}: that happens to everybody."


def proposal(stuck: Stuck) -> str:
    """What to do when the hints or the 15 minutes are used up."""
    rest = "take a break of 5 to 10 minutes, away from the screen"
    if stuck.exercise:
        solution = f'lesson.exercise("{stuck.exercise}").solution()'
        return f"See the worked answer ({solution}, or lessonkit stuck solution), or {rest}: both are good."
    return f"Now {rest}. For an error message: lessonkit explain. What you tried is kept."


def log_text(stuck: Stuck) -> str:
    """What was tried, which hints were taken, and how it ended, a line each."""
    lines = [f"Stuck on {_name(stuck) or 'something'}, {stuck.started.astimezone():%Y-%m-%d %H:%M}"]
    steps = [(each.at, f"tried: {each.text}") for each in stuck.tried]
    steps += [(each.at, f"hint {each.number}: {each.text}".rstrip(": ")) for each in stuck.hints]
    for at, text in sorted(steps, key=lambda step: step[0]):
        lines.append(f"  after {said(later(stuck.started, at))}, {text}")
    if stuck.ended is not None:
        lines.append(f"  ended after {said(stuck.seconds())}: {ENDS[stuck.how]}")
    return "\n".join(lines)


def _open_one(journal: Journal, now: datetime) -> Stuck:
    running = current_stuck(journal, now)
    if running is None:
        raise StudyError(
            "No stuck timer is running.", fix='lessonkit stuck (in a lesson: lesson.stuck("NAME"))'
        )
    return running


def _on(stuck: Stuck) -> str:
    return f" on {_name(stuck)}" if _name(stuck) else ""


def _name(stuck: Stuck) -> str:
    """What a session is about: ``recall (beginner/full-fine-tuning)``."""
    if stuck.exercise and stuck.lesson:
        return f"{stuck.exercise} ({stuck.lesson})"
    return stuck.exercise or stuck.lesson


def _begun(session: str, event: Event) -> Stuck:
    return Stuck(session, moment(event), _text(event, "lesson"), _text(event, "exercise"))


def _told(known: Stuck, event: Event) -> Stuck:
    """The session after something was tried, a hint, or its end; the first end is the one that counts."""
    at, action = max(moment(event), known.started), event.data.get("action")
    if action == "tried" and _text(event, "text"):
        return replace(known, tried=(*known.tried, Tried(at, _text(event, "text"))), told=True)
    number = event.data.get("number")
    if action == "hint" and isinstance(number, int) and not isinstance(number, bool) and number > 0:
        return replace(known, hints=(*known.hints, Hint(at, number, _text(event, "text"))), told=False)
    if action == "end" and known.ended is None:
        how = _text(event, "how")
        return replace(known, ended=at, how=how if how in ENDS else "stopped")
    return known


def _passed(known: Stuck, event: Event) -> Stuck:
    """The session, ended if this event says that its exercise was passed."""
    about = (_text(event, "lesson"), _text(event, "exercise"))
    passed = event.data.get("outcome") == "passed" and about == (known.lesson, known.exercise)
    if known.ended is not None or not known.exercise or not passed:
        return known
    solved = moment(event)
    known = _left(known, solved, "")  # who comes back the next day wasn't stuck all night
    return known if known.ended else replace(known, ended=max(solved, known.started), how="solved")


def _left(known: Stuck, now: datetime, how: str) -> Stuck:
    """The session, ended where nothing was heard of it for long, or else as ``how`` says, if it does."""
    away = now - known.last_sign
    if away > LEFT_AFTER or away < -CLOCK_SLACK:
        return replace(known, ended=known.last_sign, how="left")
    return replace(known, ended=max(now, known.started), how=how) if how else known


def _text(event: Event, name: str) -> str:
    value = event.data.get(name)
    return value.strip() if isinstance(value, str) else ""
