"""Time: what was spent beside what was planned, and the days on which something was studied.

Days and weeks are the learner's own: each moment is turned into local time with the rules that held then,
so summer time costs nobody a day. What lies in the future (a clock that was wrong, a journal from a machine
whose clock is ahead) counts as time spent, but makes no day and no week.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from lessonkit.progress.events import iso

if TYPE_CHECKING:
    from lessonkit.progress.records import Progress

__all__ = ["Pace", "Streak", "hours", "pace", "streak"]

REST_DAYS = 1  # free days between two study days that don't end a streak
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pace:
    """Minutes spent and planned on one path.

    lessons: (lesson id, minutes spent, minutes planned) for each lesson of the path, in its order.
    planned_minutes: those of its lessons together. week_minutes: of this week, Monday to now, whatever
    was studied. week_plan: the path's least and most minutes a week. text: one or two sentences.
    """

    path: str
    spent_minutes: float
    planned_minutes: int
    lessons: tuple[tuple[str, float, int], ...]
    week_minutes: float
    week_plan: tuple[int, int]
    text: str


@dataclass(frozen=True)
class Streak:
    """Days with some study. current, longest: study days in a row, where one free day between two is no gap.

    days_this_week: from Monday to today. days_in_all: ever. text: a sentence that never counts what wasn't.
    """

    days_this_week: int
    current: int
    longest: int
    days_in_all: int
    text: str


def pace(progress: Progress, path: str = "", now: datetime | None = None) -> Pace:
    """Time spent against the plan of a path, the chosen one by default. Raises UnknownNameError."""
    curriculum = progress.curriculum
    chosen = curriculum.path(path or progress.path)
    rows = tuple(
        (lesson.id, progress.work.get(lesson.id, 0.0) / 60, lesson.minutes)
        for lesson in map(curriculum.lesson, chosen.lesson_ids)
    )
    now = _local(now)
    monday = datetime.combine(now.date() - now.weekday() * DAY, time())  # without a zone: local midnight
    begin, end = (iso(at.astimezone(UTC)) for at in (monday, now))  # texts of one form: quick to compare
    week = sum(work.seconds / 60 for work in progress.stretches if begin <= work.time <= end)
    spent, planned = sum(row[1] for row in rows), sum(row[2] for row in rows)
    plan = (chosen.hours_per_week.min * 60, chosen.hours_per_week.max * 60)
    return Pace(
        chosen.id, spent, planned, rows, week, plan, _pace_text(spent, planned, week, chosen.hours_text)
    )


def streak(progress: Progress, now: datetime | None = None) -> Streak:
    """The days on which something was studied, up to now."""
    now = _local(now)
    today = now.date()
    moments = filter(None, map(_moment, progress.moments))
    days = sorted({moment.date() for moment in moments if moment <= now})
    monday = today - today.weekday() * DAY
    chains = _chains(days)
    current = chains[-1] if chains and (today - days[-1]).days <= REST_DAYS + 1 else 0
    this_week = sum(day >= monday for day in days)
    longest = max(chains, default=0)
    text = _streak_text(len(days), this_week, current, bool(days) and days[-1] == today)
    return Streak(this_week, current, longest, len(days), text)


def hours(minutes: float) -> str:
    """Minutes in words: ``45 minutes``, ``1 hour 5 minutes``, ``12 hours``."""
    whole = round(minutes)
    if whole < 60:
        return f"{whole} minute{'s' * (whole != 1)}"
    full, rest = divmod(whole, 60)
    text = f"{full} hour{'s' * (full != 1)}"
    return text + (f" {rest} minute{'s' * (rest != 1)}" if rest and full < 10 else "")


def _pace_text(spent: float, planned: int, week: float, plan: str) -> str:
    if not spent and not week:
        return f"No study time is recorded yet. The lessons of this path are planned with {hours(planned)} in all, {plan}."
    return (
        f"{hours(week)} this week (the plan says {plan}; yours may differ). "
        f"On this path so far: {hours(spent)} of about {hours(planned)}."
    )


def _streak_text(in_all: int, this_week: int, current: int, today: bool) -> str:
    if not in_all:
        return "Your first day starts with the first thing you do. Ten minutes count."
    if today and current > 1:
        return f"{current} study days in a row; {_days(in_all)} in all."
    if current > 1:
        return f"{current} study days in a row so far; {_days(in_all)} in all. Ten minutes make a day."
    if this_week:
        return f"{_days(this_week)} this week, {in_all} in all."
    return f"{_days(in_all)} so far, and all of it still counts. Welcome back."


def _days(count: int) -> str:
    return f"{count} study day{'s' * (count != 1)}"


def _chains(days: Iterable[date]) -> list[int]:
    """The study days of each chain: days in order, at most ``REST_DAYS`` free days between two."""
    chains: list[int] = []
    before: date | None = None
    for day in days:
        if before is not None and (day - before).days <= REST_DAYS + 1:
            chains[-1] += 1
        else:
            chains.append(1)
        before = day
    return chains


def _local(now: datetime | None) -> datetime:
    return (now or datetime.now()).astimezone()


def _moment(text: str) -> datetime | None:
    """The first 16 characters of a journal's time, in local time; None where they are no time."""
    try:
        return datetime.fromisoformat(f"{text}+00:00").astimezone()
    except (ValueError, OverflowError, OSError):  # a year that the machine's calendar doesn't reach
        return None
