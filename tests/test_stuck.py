"""The stuck timer: hints come when they help, nothing is held back for long, and the log is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonkit import lesson as lesson_module
from lessonkit.errors import UnknownNameError
from lessonkit.exercises import Choice, WrongAnswer
from lessonkit.progress import events as event_module
from lessonkit.progress.events import SCHEMA, Event
from lessonkit.progress.journal import Journal
from lessonkit.study.stuck import (
    ENDS,
    current_stuck,
    end_if_solved,
    end_stuck,
    fold_stuck,
    headline,
    last_stuck,
    log_text,
    start_stuck,
    stuck_log,
    take_hint,
    tell_tried,
)
from lessonkit.study.times import StudyError

NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)
LESSON, NAME = "beginner/full-fine-tuning", "recall"
HINTS = ("look at the row", "divide by its sum", "mind a sum of 0")


def after(minutes: float, start: datetime = NINE) -> datetime:
    return start + timedelta(minutes=minutes)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def begin(journal: Journal, minute: float = 0, **more: str):
    return start_stuck(journal, LESSON, NAME, now=after(minute), **more)


def passed(journal: Journal, outcome: str = "passed", exercise: str = NAME) -> None:
    journal.append("exercise", lesson=LESSON, exercise=exercise, outcome=outcome)


# ---- Hints ------------------------------------------------------------------------------------------


def test_the_first_hint_opens_as_soon_as_something_was_tried(journal: Journal):
    begin(journal)
    with pytest.raises(StudyError, match=r"(?s)Hint 1 opens by itself in 3:00.*lessonkit stuck tried"):
        take_hint(journal, HINTS, now=NINE)
    tell_tried(journal, "I divided by the column", NINE)
    hint = take_hint(journal, HINTS, now=NINE)
    assert (hint.number, hint.text) == (1, HINTS[0])


def test_each_next_one_opens_after_a_few_minutes_or_another_try(journal: Journal):
    begin(journal, tried="the column")
    take_hint(journal, HINTS, now=after(1))
    with pytest.raises(StudyError, match="Hint 2 opens by itself in 2:00"):
        take_hint(journal, HINTS, now=after(2))
    assert take_hint(journal, HINTS, now=after(4)).number == 2
    tell_tried(journal, "the row", after(4))
    assert take_hint(journal, HINTS, now=after(4)).number == 3
    with pytest.raises(StudyError, match=r"(?s)all the hints.*worked answer.*break"):
        take_hint(journal, HINTS, now=after(10))


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["tried", "hint"]), st.floats(0, 4)), max_size=8),
    wait=st.floats(0, 30),
)
def test_no_hint_is_ever_withheld_for_more_than_five_minutes(tmp_path_factory, steps, wait):
    journal = Journal(tmp_path_factory.mktemp("j") / "journal.jsonl")
    begin(journal)
    now = NINE
    for action, pause in steps:
        now = after(pause, now)
        stuck = current_stuck(journal, now)
        assert stuck is not None
        assert stuck.hint_wait(now) <= 5 * 60
        if action == "tried":
            tell_tried(journal, "something", now)
            assert current_stuck(journal, now).hint_wait(now) == 0  # type: ignore[union-attr]
        elif not stuck.hint_wait(now):
            take_hint(journal, HINTS * 4, now=now)
    now = after(wait, now)
    last = last_stuck(journal, now)
    assert last is not None
    if wait >= 5:
        assert last.hint_wait(now) == 0


def test_at_15_minutes_all_is_open_and_the_answer_or_a_break_is_proposed(journal: Journal):
    begin(journal, tried="the column")
    take_hint(journal, HINTS, now=after(14))
    stuck = current_stuck(journal, after(15))
    assert stuck is not None
    assert stuck.hint_wait(after(15)) == 0
    assert f'lesson.exercise("{NAME}").solution()' in headline(stuck, after(15))
    assert "break" in headline(stuck, after(15))
    assert "solution" not in headline(stuck, after(14))
    assert "1:00 left" in headline(stuck, after(14))


def test_hints_seen_elsewhere_are_not_given_again(journal: Journal):
    begin(journal, tried="the column")
    assert take_hint(journal, HINTS, given=2, now=NINE).text == HINTS[2]


def test_there_are_no_hints_without_an_exercise(journal: Journal):
    start_stuck(journal, tried="restarted it", now=NINE)
    with pytest.raises(StudyError, match=r"(?s)no hints for this.*lessonkit explain"):
        take_hint(journal, (), now=NINE)


# ---- Sessions ---------------------------------------------------------------------------------------


def test_it_survives_a_restarted_kernel(journal: Journal):
    begin(journal, tried="the column")
    take_hint(journal, HINTS, now=after(1))
    fresh = Journal(journal.path)
    found = current_stuck(fresh, after(6))
    assert found is not None
    assert [each.text for each in found.tried] == ["the column"]
    assert [each.text for each in found.hints] == [HINTS[0]]
    assert found.seconds(after(6)) == 6 * 60
    assert found.hint_wait(after(2)) == 2 * 60
    assert start_stuck(fresh, LESSON, NAME, now=after(7)).session == found.session  # goes on
    assert len(stuck_log(fresh, after(7))) == 1


def test_passing_the_exercise_ends_it(journal: Journal):
    now = datetime.now(UTC)
    start_stuck(journal, LESSON, NAME, tried="the column", now=now - timedelta(minutes=7))
    passed(journal, "failed")
    passed(journal, exercise="baseline")
    assert current_stuck(journal) is not None
    passed(journal)
    assert current_stuck(journal) is None
    assert end_if_solved(journal, LESSON, NAME).startswith("Solved after 7 minutes.")
    found = last_stuck(journal)
    assert found is not None
    assert found.how == "solved"
    assert "ended after 7 minutes: solved" in log_text(found)


def test_passing_something_that_nobody_was_stuck_on_says_nothing(journal: Journal):
    assert end_if_solved(journal, LESSON, NAME, NINE) == ""
    begin(journal)
    assert end_if_solved(journal, LESSON, "baseline", after(1)) == ""
    end_stuck(journal, "break", after(2))
    assert end_if_solved(journal, LESSON, NAME, after(3)) == ""


def test_one_left_open_is_over_after_an_hour_and_not_counted_as_one(journal: Journal):
    begin(journal, tried="the column")
    tell_tried(journal, "the row", after(4))
    assert current_stuck(journal, after(50)) is not None
    assert current_stuck(journal, after(24 * 60)) is None
    found = last_stuck(journal, after(24 * 60))
    assert found is not None
    assert (found.how, found.seconds(after(24 * 60))) == ("left", 4 * 60)
    assert begin(journal, 24 * 60).session != found.session


def test_who_solves_it_the_next_day_was_not_stuck_all_night(journal: Journal):
    start_stuck(journal, LESSON, NAME, now=datetime.now(UTC) - timedelta(hours=12))
    passed(journal)
    found = last_stuck(journal)
    assert found is not None
    assert found.how == "left"
    assert end_if_solved(journal, LESSON, NAME) == ""


def test_another_exercise_ends_the_first(journal: Journal):
    begin(journal)
    second = start_stuck(journal, LESSON, "baseline", now=after(5))
    assert [each.how for each in stuck_log(journal, after(6))] == ["switched", ""]
    assert current_stuck(journal, after(6)).session == second.session  # type: ignore[union-attr]


def test_a_clock_that_was_put_back_blocks_nothing(journal: Journal):
    begin(journal)
    early = after(-120)
    assert current_stuck(journal, early) is None
    tried = begin(journal, -120, tried="the column")
    assert take_hint(journal, HINTS, now=early).number == 1
    assert current_stuck(journal, early).session == tried.session  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ENDS)
def test_every_end_is_kept(journal: Journal, how: str):
    begin(journal)
    ended = end_stuck(journal, how, after(8))
    assert ended is not None
    found = stuck_log(Journal(journal.path), after(60))[0]
    assert (found.how, found.seconds()) == (how, 8 * 60)
    assert current_stuck(journal, after(9)) is None
    assert end_stuck(journal, how, after(9)) is None


def test_without_an_exercise_the_log_becomes_a_note(journal: Journal):
    start_stuck(journal, now=NINE, tried="reinstalled it\nin a fresh folder 😀")
    end_stuck(journal, "break", after(15))
    notes = [event.data["text"] for event in journal.read("note").events]
    assert len(notes) == 1
    assert "reinstalled it\nin a fresh folder 😀" in notes[0]
    assert "with a break" in notes[0]
    begin(journal, 20, tried="the column")
    end_stuck(journal, "solved", after(21))
    assert len(journal.read("note").events) == 1


def test_mistakes_are_told(journal: Journal):
    for act in (lambda: tell_tried(journal, "x", NINE), lambda: take_hint(journal, HINTS, now=NINE)):
        with pytest.raises(StudyError, match=r"(?s)No stuck timer is running.*lessonkit stuck"):
            act()
    begin(journal)
    with pytest.raises(StudyError, match="What did you try"):
        tell_tried(journal, "  \n", NINE)
    with pytest.raises(StudyError, match=r"(?s)'fled' is not one of the ways to end.*solved"):
        end_stuck(journal, "fled", NINE)
    with pytest.raises(StudyError, match="not text"):
        tell_tried(journal, 5, NINE)  # type: ignore[arg-type]
    tell_tried(journal, "x" * 2**20, NINE)
    assert len(current_stuck(journal, NINE).tried[0].text) <= 10_000  # type: ignore[union-attr]


def event(number: int, minute: float, kind: str = "stuck", /, **data: object) -> Event:
    return Event(f"{number:032x}", event_module.iso(after(minute)), SCHEMA, kind, data)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"session": 5, "action": "start"},
        {"session": "good", "action": "tried", "text": 5},
        {"session": "good", "action": "hint", "number": "one"},
        {"session": "good", "action": "hint", "number": True},
        {"session": "good", "action": ["end"]},
        {"session": "other", "action": "tried", "text": "x"},
    ],
)
def test_events_that_say_nothing_are_passed_over(data: dict):
    whole = event(1, 0, session="good", action="start", lesson=LESSON, exercise=NAME)
    found = fold_stuck([event(2, 1, **data), whole, event(3, 1, "exercise")], after(2))
    assert [(each.session, each.tried, each.hints, each.how) for each in found] == [("good", (), (), "")]


ANY = st.lists(
    st.builds(
        lambda number, minute, session, action, outcome: event(
            number,
            minute,
            "exercise" if outcome else "stuck",
            **({"session": session, "action": action} if not outcome else {"outcome": outcome}),
            lesson=LESSON,
            exercise=NAME,
            text="t",
            number=number % 4,
            how="break",
        ),
        st.integers(0, 10**6),
        st.integers(0, 200),
        st.sampled_from("abc"),
        st.sampled_from(["start", "tried", "hint", "end", "?"]),
        st.sampled_from(["", "", "passed", "failed"]),
    ),
    max_size=12,
    unique_by=lambda each: each.id,
)


@settings(max_examples=100, deadline=None)
@given(events=ANY, data=st.data())
def test_the_fold_does_not_depend_on_the_order_and_leaves_one_open_at_most(events, data):
    found = fold_stuck(events, after(201))
    assert found == fold_stuck(data.draw(st.permutations(events)), after(201))
    assert sum(each.ended is None for each in found) <= 1
    for each in found:
        assert 0 <= each.seconds(after(201)) <= 201 * 60
        assert log_text(each)
        assert headline(each, after(201))


# ---- In a lesson ------------------------------------------------------------------------------------


@pytest.fixture
def lesson(monkeypatch: pytest.MonkeyPatch):
    """A lesson with one exercise, whose journal is the test's own."""
    exercise = Choice(
        name=NAME,
        reference="a",
        options={"a": "yes", "b": "no"},
        because="It is so.",
        hints=HINTS,
        wrong=(WrongAnswer("no", "b", "Look again."),),
    )
    monkeypatch.setattr("lessonkit.exercises.load_exercises", lambda name: {NAME: exercise})
    return lesson_module.Lesson.__new__(lesson_module.Lesson)


@pytest.fixture
def begun(lesson):
    lesson.name, lesson.scale, lesson.journal, lesson._exercises = LESSON, "laptop", Journal(), None
    return lesson


def test_a_lesson_starts_it_and_a_right_answer_ends_it(begun, capsys):
    panel = begun.stuck(NAME)
    assert current_stuck(begun.journal) is not None
    assert f'lesson.stuck("{NAME}", tried=' in str(panel)
    begun.exercise(NAME).check("b")
    assert current_stuck(begun.journal) is not None
    begun.exercise(NAME).check("a")
    assert current_stuck(begun.journal) is None
    assert "Solved after less than a minute." in capsys.readouterr().out


def test_what_was_tried_brings_the_next_hint_at_once(begun):
    shown = str(begun.stuck(NAME, tried="guessed"))
    assert f"Hint 1 of 3: {HINTS[0]}" in shown
    assert HINTS[1] not in shown
    assert HINTS[1] in str(begun.stuck(NAME, tried="guessed again"))
    assert len(stuck_log(begun.journal)) == 1


def test_a_lesson_knows_its_exercises_and_being_stuck_on_anything(begun):
    with pytest.raises(UnknownNameError, match=NAME):
        begun.stuck("recal")
    assert stuck_log(begun.journal) == []
    assert "lesson.stuck(tried=" in str(begun.stuck())
    assert current_stuck(begun.journal).exercise == ""  # type: ignore[union-attr]
