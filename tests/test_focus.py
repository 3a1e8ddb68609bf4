"""The focus timer: what counts is honest, whatever is stopped, forgotten, merged or restarted."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonkit.errors import LessonkitError
from lessonkit.progress import events as event_module
from lessonkit.progress.events import SCHEMA, Event
from lessonkit.progress.journal import Journal
from lessonkit.study import focus as module
from lessonkit.study.focus import (
    Focus,
    current_focus,
    days,
    focus_log,
    fold_focus,
    keep_words,
    last_focus,
    sentence,
    session_line,
    start_focus,
    stop_focus,
    words,
)
from lessonkit.study.times import StudyError, at_most, number_between, said

NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)


def after(minutes: float, start: datetime = NINE) -> datetime:
    return start + timedelta(minutes=minutes)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def again(journal: Journal) -> Journal:
    """The same file in a kernel that has just been started."""
    return Journal(journal.path)


# ---- One session ------------------------------------------------------------------------------------


def test_a_session_is_focus_then_rest_then_over(journal: Journal):
    begun = start_focus(journal, "LoRA", now=NINE)
    assert (begun.minutes, begun.rest) == (25, 5)
    assert [begun.phase(after(m)) for m in (0, 24.9, 25, 29.9, 30)] == [
        "focus", "focus", "rest", "rest", "over",
    ]  # fmt: skip
    assert begun.remaining(after(1)) == 24 * 60
    assert begun.remaining(after(26)) == 4 * 60
    assert begun.remaining(after(31)) == 0


def test_it_survives_a_restarted_kernel(journal: Journal):
    begun = start_focus(journal, "LoRA", minutes=50, rest=10, now=NINE)
    found = current_focus(again(journal), after(20))
    assert found is not None
    assert (found.session, found.about, found.minutes, found.rest) == (begun.session, "LoRA", 50, 10)
    assert found.seconds == 20 * 60
    assert found.remaining(after(20)) == 30 * 60
    stopped = stop_focus(again(journal), "half of it", after(30))
    assert stopped is not None
    assert stopped.seconds == 30 * 60
    assert current_focus(again(journal), after(31)) is None
    assert [(each.done, each.seconds) for each in focus_log(again(journal), after(90))] == [
        ("half of it", 30 * 60)
    ]


def test_one_that_is_left_running_ends_as_planned(journal: Journal):
    start_focus(journal, now=NINE)
    assert current_focus(journal, after(8 * 60)) is None
    assert [each.seconds for each in focus_log(journal, after(8 * 60))] == [25 * 60]
    start_focus(journal, now=after(8 * 60))  # nothing is in the way
    assert [each.seconds for each in focus_log(journal, after(8 * 60 + 1))] == [25 * 60, 60]


def test_stopped_hours_later_it_counts_as_planned(journal: Journal):
    start_focus(journal, now=NINE)
    stopped = stop_focus(journal, "the introduction", after(200))
    assert stopped is not None
    assert (stopped.seconds, stopped.done) == (25 * 60, "the introduction")
    assert focus_log(journal, after(300))[0].done == "the introduction"


def test_stopping_in_the_break_counts_the_focus_only(journal: Journal):
    start_focus(journal, now=NINE)
    stopped = stop_focus(journal, now=after(27))
    assert stopped is not None
    assert stopped.seconds == 25 * 60
    assert current_focus(journal, after(28)) is None


def test_stopping_nothing_is_no_error(journal: Journal):
    assert stop_focus(journal, now=NINE) is None
    assert stop_focus(journal, "something", NINE) is None
    assert not journal.path.exists()


def test_words_can_be_added_after_the_end_and_keep_the_break(journal: Journal):
    start_focus(journal, now=NINE)
    kept = keep_words(journal, "read the guide", after(26))
    assert kept is not None
    assert current_focus(journal, after(27)).phase(after(27)) == "rest"  # type: ignore[union-attr]
    keep_words(journal, "and the notebook", after(28))
    keep_words(journal, "read the guide", after(28))
    assert last_focus(journal, after(29)).done == "read the guide; and the notebook"  # type: ignore[union-attr]


def test_words_are_not_added_to_last_weeks_session(journal: Journal):
    start_focus(journal, now=NINE)
    assert keep_words(journal, "too late", after(7 * 24 * 60)) is None
    assert last_focus(journal, after(7 * 24 * 60)).done == ""  # type: ignore[union-attr]


def test_a_second_start_says_what_runs_and_how_to_stop_it(journal: Journal):
    start_focus(journal, "LoRA", now=NINE)
    with pytest.raises(StudyError, match=r"(?s)on “LoRA” is running already: 15:00 left.*focus stop"):
        start_focus(journal, now=after(10))
    assert len(focus_log(journal, after(10))) == 1


def test_a_start_ends_the_break(journal: Journal):
    start_focus(journal, now=NINE)
    second = start_focus(journal, now=after(26))
    assert current_focus(journal, after(27)).session == second.session  # type: ignore[union-attr]
    assert [each.seconds for each in focus_log(journal, after(200))] == [25 * 60, 25 * 60]


@pytest.mark.parametrize(
    "minutes", [0, -5, 181, 1e12, float("nan"), float("inf"), "abc", "", None, True, [25]]
)
def test_minutes_that_cannot_be_are_told(journal: Journal, minutes: object):
    with pytest.raises(LessonkitError, match=r"(?s)minutes is .* from 1 to 180.*Next: "):
        start_focus(journal, minutes=minutes, now=NINE)  # type: ignore[arg-type]
    assert not journal.path.exists()


@pytest.mark.parametrize("rest", [-1, 61, "x"])
def test_a_rest_that_cannot_be_is_told(journal: Journal, rest: object):
    with pytest.raises(LessonkitError, match=r"rest is .* from 0 to 60"):
        start_focus(journal, rest=rest, now=NINE)  # type: ignore[arg-type]


def test_minutes_may_be_typed_as_people_do():
    for typed in (25, 25.0, "25", " 25 min", "25 minutes", "25m", "+25"):
        assert number_between(typed, 1, 180, "minutes", "") == 25
    assert number_between("7,5", 1, 180, "minutes", "") == 7.5


def test_words_with_newlines_emoji_and_a_megabyte_are_kept(journal: Journal):
    start_focus(journal, "two\nlines 😀", now=NINE)
    stop_focus(journal, "x" * 2**20, after(5))
    found = focus_log(journal, after(5))[0]
    assert found.about == "two\nlines 😀"
    assert 0 < len(found.done) <= 10_000
    assert "\n" not in session_line(found)
    with pytest.raises(StudyError, match="not text"):
        start_focus(journal, about=5, now=after(6))  # type: ignore[arg-type]


# ---- Clocks, machines, kernels ----------------------------------------------------------------------


def test_a_clock_that_was_put_back_neither_counts_nor_blocks(journal: Journal):
    start_focus(journal, now=NINE)
    assert current_focus(journal, after(-180)) is None
    begun = start_focus(journal, now=after(-180))
    assert current_focus(journal, after(-170)).session == begun.session  # type: ignore[union-attr]
    assert [each.seconds for each in focus_log(journal, after(-170))] == [0, 600]


def test_a_clock_corrected_by_seconds_changes_nothing(journal: Journal):
    begun = start_focus(journal, now=NINE)
    assert begun.phase(NINE - timedelta(seconds=20)) == "focus"
    assert begun.remaining(NINE - timedelta(seconds=20)) == 25 * 60
    assert current_focus(journal, NINE - timedelta(seconds=20)) is not None


def test_two_kernels_that_start_at_once_count_once(journal: Journal):
    for session, about in (("a" * 32, "one"), ("b" * 32, "two")):  # neither has seen the other
        journal.append(
            "focus", session=session, action="start", minutes=25, rest=5, about=about, at=NINE.isoformat()
        )
    running = current_focus(journal, after(10))
    assert running is not None
    assert running.about == "two"
    log = focus_log(journal, after(60))
    assert sum(each.seconds for each in log) == 25 * 60
    assert [len(each) for each in days(log).values()] == [1]  # the one of a moment isn't listed


def test_two_kernels_that_stop_at_once_keep_both_words(journal: Journal):
    begun = start_focus(journal, now=NINE)
    for minute, done in ((10, "mine"), (12, "yours")):
        journal.append("focus", session=begun.session, action="stop", done=done, at=after(minute).isoformat())
    found = focus_log(journal, after(60))[0]
    assert (found.seconds, found.done) == (600, "mine; yours")


def test_merged_machines_overlap_nowhere(tmp_path: Path):
    events = [
        event(1, NINE, session="laptop", action="start", minutes=25, rest=5),
        event(2, after(15), session="colab", action="start", minutes=25, rest=5),
        event(3, after(25), session="laptop", action="stop"),
    ]
    one, two = Journal(tmp_path / "one.jsonl"), Journal(tmp_path / "two.jsonl")
    one.path.write_text("".join(each.to_line() + "\n" for each in events[::2]))
    two.path.write_text(events[1].to_line() + "\n")
    one.merge(two.path)
    two.merge(one.path)
    assert focus_log(one, after(90)) == focus_log(two, after(90))
    assert [each.seconds for each in focus_log(one, after(90))] == [15 * 60, 25 * 60]


def event(number: int, time: datetime, kind: str = "focus", **data: object) -> Event:
    return Event(f"{number:032x}", event_module.iso(time), SCHEMA, kind, data)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"session": 5, "action": "start"},
        {"session": "", "action": "start"},
        {"session": "x", "action": ["start"]},
        {"session": "x", "action": "stop", "done": 3},
        {"session": "x"},
        {"session": ["x"], "action": "start"},
    ],
)
def test_events_that_say_nothing_are_passed_over(data: dict):
    whole = event(1, NINE, session="good", action="start", minutes=25, rest=5)
    assert [each.session for each in fold_focus([event(2, after(1), **data), whole], after(2))] == ["good"]


@pytest.mark.parametrize("bad", [None, "many", float("nan"), -3, 10**9, 10**400, True, [], {}])
def test_fields_that_cannot_be_are_replaced(bad: object):
    data = {"minutes": bad, "rest": bad, "about": bad, "at": bad}
    found = fold_focus([event(1, NINE, session="x", action="start", **data)], after(1))[0]
    assert found.started == NINE
    assert 1 <= found.minutes <= 180
    assert 0 <= found.rest <= 60
    assert isinstance(found.about, str)


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00", "yesterday", "2026-03-02"]
)
def test_a_moment_that_cannot_be_counted_with_is_the_events_own(at: str):
    found = fold_focus([event(1, NINE, session="x", action="start", at=at)], after(1))[0]
    assert found.started == NINE


# ---- Whatever happens, in any order -----------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["start", "stop", "words", "look"]),
        st.floats(0, 90),  # minutes that pass before it
        st.integers(1, 180),
        st.integers(0, 60),
        st.integers(0, 1),  # in which of two kernels
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, wait=st.floats(0, 400))
def test_never_more_than_elapsed_and_never_two_at_once(tmp_path_factory, steps, wait):
    kernels = [Journal(tmp_path_factory.mktemp("j") / "journal.jsonl")] * 2
    now = NINE
    for action, pause, minutes, rest, kernel in steps:
        now = after(pause, now)
        journal = again(kernels[kernel])
        if action == "start":
            try:
                start_focus(journal, "x", minutes, rest, now)
            except StudyError:
                assert current_focus(journal, now).phase(now) == "focus"
        elif action == "stop":
            assert (current_focus(journal, now) is None) == (stop_focus(journal, now=now) is None)
            assert current_focus(journal, now) is None
        elif action == "words":
            keep_words(journal, "words", now)
        else:
            sentence(last_focus(journal, now), now)
    now = after(wait, now)
    log = focus_log(kernels[0], now)
    assert sum(each.seconds for each in log) <= (now - NINE).total_seconds() + 1e-3
    assert all(0 <= each.seconds <= 60 * each.minutes for each in log)
    spans = [(each.started, each.started + timedelta(seconds=each.seconds)) for each in log]
    assert all(end <= start + timedelta(milliseconds=1) for (_, end), (start, _) in itertools.pairwise(spans))
    assert sum(each.phase(now) != "over" for each in log) <= 1
    for each in log:
        assert each.remaining(now) <= 60 * max(each.minutes, each.rest)
        assert 0 <= each.share(now) <= 1


ANY = st.lists(
    st.builds(
        lambda number, minute, session, action, plan: event(
            number, after(minute), session=session, action=action, minutes=plan, rest=5, done=f"d{number}"
        ),
        st.integers(0, 10**6),
        st.integers(0, 300),
        st.sampled_from("abc"),
        st.sampled_from(["start", "stop", "done", "?"]),
        st.integers(-5, 200),
    ),
    max_size=12,
    unique_by=lambda each: each.id,
)


@settings(max_examples=100, deadline=None)
@given(events=ANY, data=st.data())
def test_the_fold_does_not_depend_on_the_order_of_the_lines(events, data):
    mixed = data.draw(st.permutations(events))
    found = fold_focus(events, after(400))
    assert found == fold_focus(mixed, after(400))
    assert sum(each.seconds for each in found) <= 400 * 60


# ---- What it says -----------------------------------------------------------------------------------


def test_it_says_what_to_do_at_the_end_of_focus_and_of_rest(journal: Journal):
    begun = start_focus(journal, "LoRA", now=NINE)
    assert "25:00 left" in sentence(begun, NINE)
    assert "That was 25 minutes on “LoRA”. Good." in words(begun.at(after(25)), after(25))
    assert "break" in words(begun.at(after(25)), after(25))
    assert words(begun.at(after(31)), after(31)).startswith("The break is over.")
    assert words(begun.at(after(240)), after(240)) == "No focus session is running."
    assert words(None, NINE) == "No focus session is running."


def test_without_a_break_it_says_so_too(journal: Journal):
    begun = start_focus(journal, rest=0, now=NINE)
    assert begun.phase(after(25)) == "over"
    assert words(begun, after(26)).startswith("That was 25 minutes. Good.")


def test_a_stopped_session_is_not_said_to_be_in_its_break(journal: Journal):
    start_focus(journal, now=NINE)
    stopped = stop_focus(journal, now=after(10))
    assert words(stopped, after(31)) == "No focus session is running."


def test_words_for_lengths():
    assert [said(60 * m) for m in (0, 1, 25, 60, 61, 125)] == [
        "less than a minute", "1 minute", "25 minutes", "1 hour", "1 hour 1 minute", "2 hours 5 minutes",
    ]  # fmt: skip
    assert [at_most(s) for s in (0, 0.4, 59.2, 60, 1500)] == ["0:00", "0:01", "1:00", "1:00", "25:00"]


def test_days_are_the_learners_own(journal: Journal):
    start_focus(journal, "LoRA", now=NINE)
    found = days(focus_log(journal, after(60)))
    assert list(found) == [f"{NINE.astimezone():%Y-%m-%d}"]
    assert module.session_line(found[next(iter(found))][0]).endswith("25 minutes  LoRA")


def test_a_focus_without_anything_has_the_usual_lengths():
    plain = Focus("x", NINE)
    assert (plain.minutes, plain.rest, plain.focus_end, plain.rest_end) == (25, 5, after(25), after(30))
