"""Time is counted by the learner's own days and weeks, and no sentence scolds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonkit.curriculum import load_curriculum
from lessonkit.errors import UnknownNameError
from lessonkit.progress import Event, Progress, fold
from lessonkit.progress.pace import hours, pace, streak

CURRICULUM = load_curriculum(check_files=False)
LESSON = "beginner/full-fine-tuning"
NOON = datetime(2026, 3, 12, 12, tzinfo=UTC)  # a Thursday
GUILT = ("only", "missed", "lost", "behind", "broken", "should", "failed", "despite", "but ", "!")


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch):
    """A function that moves this machine to another time zone."""
    if not hasattr(time, "tzset"):
        pytest.skip("this system takes its zone from its settings")

    def move(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    move("UTC")
    yield move
    monkeypatch.undo()
    time.tzset()


def event(at: datetime, kind: str = "work", clock: str = "", **data: object) -> Event:
    data = {"lesson": LESSON, "seconds": 600} | data
    stamp = at.astimezone(UTC).isoformat(timespec="microseconds")
    return Event(f"{stamp}{kind}{data}", stamp, 1, kind, data, clock)


def days(*ago: float, kind: str = "work") -> Progress:
    """Some study this many days before NOON."""
    return fold([event(NOON - timedelta(days=each), kind) for each in ago], CURRICULUM)


# ---- Against the plan -------------------------------------------------------------------------------


def test_nothing_yet_says_what_is_planned() -> None:
    told = pace(Progress(CURRICULUM), now=NOON)
    assert (told.spent_minutes, told.week_minutes) == (0, 0)
    assert told.planned_minutes == sum(minutes for _, _, minutes in told.lessons) > 0
    assert hours(told.planned_minutes) in told.text


def test_spent_time_stands_beside_the_plan_for_lesson_path_and_week() -> None:
    elsewhere = "expert/qlora"
    progress = fold(
        [
            event(NOON - timedelta(hours=1)),
            event(NOON - timedelta(days=2), seconds=1200),  # Tuesday
            event(NOON - timedelta(days=4), seconds=3000),  # Sunday: last week
            event(NOON - timedelta(hours=2), lesson=elsewhere),
        ],
        CURRICULUM,
    )
    told = pace(progress, now=NOON)
    path = CURRICULUM.path("quick-start")
    assert [name for name, _, _ in told.lessons] == list(path.lesson_ids)
    spent = {name: minutes for name, minutes, _ in told.lessons}
    assert spent[LESSON] == told.spent_minutes == 80
    assert told.week_minutes == 40  # all that was studied this week, on whatever path
    assert told.week_plan == (300, 600)
    assert "40 minutes this week" in told.text
    assert "1 hour 20 minutes" in told.text
    deep = pace(progress, "deep-dive", NOON)
    assert (deep.path, deep.week_plan) == ("deep-dive", (600, 900))
    with pytest.raises(UnknownNameError):
        pace(progress, "deep-drive")


def test_time_of_a_lesson_that_is_gone_does_no_harm() -> None:
    told = pace(fold([event(NOON, lesson="gone")], CURRICULUM), now=NOON)
    assert (told.spent_minutes, told.week_minutes) == (0, 10)


def test_an_event_from_the_future_is_time_spent_but_in_no_week() -> None:
    progress = fold([event(NOON + timedelta(days=400)), event(NOON + timedelta(hours=5))], CURRICULUM)
    told = pace(progress, now=NOON)
    assert (told.spent_minutes, told.week_minutes) == (20, 0)
    assert streak(progress, NOON).days_in_all == 0


def test_a_clock_that_was_put_back_counts_by_what_it_says() -> None:
    """Its event is ordered after one from 2090, but happened today."""
    late = event(datetime(2090, 1, 1, tzinfo=UTC), clock=NOON.isoformat(timespec="microseconds"))
    told = pace(fold([late], CURRICULUM), now=NOON)
    assert told.week_minutes == 10
    assert streak(fold([late], CURRICULUM), NOON).current == 1


def test_a_week_begins_on_the_learners_own_monday(zone: Callable[[str], None]) -> None:
    monday = datetime(2026, 3, 9, 3, tzinfo=UTC)  # still Sunday evening in New York
    progress = fold([event(monday)], CURRICULUM)
    assert pace(progress, now=NOON).week_minutes == 10
    zone("America/New_York")
    assert pace(progress, now=NOON).week_minutes == 0


def test_a_week_with_a_change_of_clocks_is_whole(zone: Callable[[str], None]) -> None:
    zone("Europe/Berlin")  # summer time began on Sunday, 2026-03-29, at 01:00 UTC
    sunday = datetime(2026, 3, 29, 21, 30, tzinfo=UTC)  # 23:30 there
    first = datetime(2026, 3, 22, 23, 15, tzinfo=UTC)  # Monday, 00:15
    before = datetime(2026, 3, 22, 22, 45, tzinfo=UTC)  # Sunday, 23:45
    assert pace(fold([event(first)], CURRICULUM), now=sunday).week_minutes == 10
    assert pace(fold([event(before)], CURRICULUM), now=sunday).week_minutes == 0
    assert pace(fold([event(sunday)], CURRICULUM), now=sunday + timedelta(hours=1)).week_minutes == 0


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        (0, "0 minutes"),
        (1, "1 minute"),
        (59.4, "59 minutes"),
        (59.6, "1 hour"),
        (61, "1 hour 1 minute"),
        (125, "2 hours 5 minutes"),
        (12 * 60 + 20, "12 hours"),
    ],
)
def test_minutes_in_words(minutes: float, said: str) -> None:
    assert hours(minutes) == said


# ---- Days -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ago", "current", "longest", "in_all", "this_week"),
    [
        ((), 0, 0, 0, 0),
        ((0,), 1, 1, 1, 1),
        ((0, 0.1, 0.2), 1, 1, 1, 1),
        ((1,), 1, 1, 1, 1),  # today isn't over
        ((2,), 1, 1, 1, 1),  # one free day is a rest
        ((3,), 0, 1, 1, 1),
        ((0, 1, 2), 3, 3, 3, 3),
        ((0, 2, 4), 3, 3, 3, 2),
        ((0, 3), 1, 1, 2, 2),
        ((0, 1, 10, 11, 12, 13), 2, 4, 6, 2),
        ((-5, -1, 0), 1, 1, 1, 1),  # the future is not yet
    ],
    ids=str,
)
def test_study_days(ago: tuple, current: int, longest: int, in_all: int, this_week: int) -> None:
    told = streak(days(*ago), NOON)
    assert (told.current, told.longest, told.days_in_all, told.days_this_week) == (
        current,
        longest,
        in_all,
        this_week,
    )


@pytest.mark.parametrize("kind", ["tick", "run", "exercise", "note", "work", "focus", "stuck"])
def test_whatever_is_studying_makes_a_day(kind: str) -> None:
    assert streak(days(0, kind=kind), NOON).days_in_all == 1


@pytest.mark.parametrize("kind", ["path", "only", "setting", "untick", "anything"])
def test_settings_make_no_day(kind: str) -> None:
    assert streak(days(0, kind=kind), NOON).days_in_all == 0


def test_a_day_is_the_learners_own(zone: Callable[[str], None]) -> None:
    evening = [datetime(2026, 3, day, 23, 30, tzinfo=UTC) for day in (9, 10)]
    night = datetime(2026, 3, 11, 0, 30, tzinfo=UTC)
    progress = fold([event(at) for at in (*evening, night)], CURRICULUM)
    assert streak(progress, NOON).days_in_all == 3
    zone("Asia/Tokyo")  # 08:30, 08:30 and 09:30 of the next day
    assert streak(progress, NOON).days_in_all == 2


def test_a_short_day_and_a_long_day_are_days(zone: Callable[[str], None]) -> None:
    for name, first in (
        ("Europe/Berlin", datetime(2026, 3, 27)),
        ("America/Sao_Paulo", datetime(2018, 11, 2)),
    ):
        zone(name)
        evenings = [(first + timedelta(days=day, hours=23, minutes=30)).astimezone() for day in range(4)]
        progress = fold([event(at) for at in evenings], CURRICULUM)
        told = streak(progress, evenings[-1] + timedelta(minutes=20))
        assert (told.current, told.days_in_all) == (4, 4)


def test_a_year_beyond_the_calendar_does_no_harm() -> None:
    far = [event(NOON)]
    far += [
        dataclasses.replace(far[0], id=time, time=time)
        for time in ("0001-01-01T00:00:00.000000+00:00", "9999-12-31T23:59:59.999999+00:00")
    ]
    progress = fold(far, CURRICULUM)
    assert pace(progress, now=NOON).week_minutes == 10
    assert streak(progress, NOON).current == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(min_value=-3, max_value=60), max_size=12))
def test_whatever_the_days_the_counts_agree_and_nobody_is_scolded(ago: list[float]) -> None:
    progress = days(*ago)
    told = streak(progress, NOON)
    assert 0 <= told.current <= told.longest <= told.days_in_all <= len(ago)
    assert told.days_this_week <= min(4, told.days_in_all)
    for text in (told.text, pace(progress, now=NOON).text):
        assert text.endswith(".")
        assert not [word for word in GUILT if word in text.lower()]
