"""The study panels, driven through their widgets: what is clicked is kept, and the clock goes on by itself."""

from __future__ import annotations

import builtins
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import lessonkit
from lessonkit.exercises import Choice, WrongAnswer
from lessonkit.progress.journal import Journal
from lessonkit.study import panels, ticking
from lessonkit.study.focus import current_focus, focus_log, start_focus, stop_focus
from lessonkit.study.focus_view import FocusPanel, focus_panel
from lessonkit.study.stuck import current_stuck, last_stuck, stuck_log
from lessonkit.study.stuck_view import StuckPanel, stuck_panel

NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)
VIEW = "application/vnd.jupyter.widget-view+json"
LESSON = "beginner/full-fine-tuning"


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = NINE

    def __call__(self) -> datetime:
        return self.now

    def go(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


@pytest.fixture(autouse=True)
def no_thread(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Panels are ticked by hand here; those that asked to be followed."""
    asked: list[Any] = []
    monkeypatch.setattr(panels, "follow", asked.append)
    return asked


@pytest.fixture
def in_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "in_notebook", lambda: True)


@pytest.fixture
def panel(journal: Journal, clock: Clock) -> FocusPanel:
    made = FocusPanel(journal, clock)
    assert made.widget
    return made


def seen(panel: Any) -> str:
    """All that the panel says in HTML, from its widgets."""
    from ipywidgets import HTML, Box

    def walk(widget: Any) -> str:
        if widget.layout.display == "none":
            return ""
        if isinstance(widget, Box):
            return "\n".join(map(walk, widget.children))
        return widget.value if isinstance(widget, HTML) else f"[{widget.description}]"

    return walk(panel.widget)


# ---- The focus timer --------------------------------------------------------------------------------


def test_start_and_stop_reach_the_journal(panel: FocusPanel, journal: Journal, clock: Clock):
    panel.about.value, panel.minutes.value, panel.rest.value = "LoRA", 40, 10
    panel.button.click()
    running = current_focus(journal, clock())
    assert running is not None
    assert (running.about, running.minutes, running.rest) == ("LoRA", 40, 10)
    assert "40:00" in seen(panel)
    assert "[Stop]" in seen(panel)
    clock.go(12)
    panel.done.value = "half of it"
    panel.button.click()
    assert current_focus(journal, clock()) is None
    assert [(each.seconds, each.done) for each in focus_log(journal, clock())] == [(12 * 60, "half of it")]
    assert "Stopped after 12 minutes" in seen(panel)
    assert "Today: 12 minutes in 1 session" in seen(panel)
    assert panel.done.value == ""


def test_the_countdown_follows_the_clock_through_focus_rest_and_after(panel: FocusPanel, clock: Clock):
    panel.button.click()
    clock.go(1.5)
    panel.tick()
    assert "23:30" in seen(panel)
    assert 'role="timer"' in seen(panel)
    assert "23 minutes 30 seconds left" in seen(panel)
    clock.go(24)
    panel.tick()
    assert "4:30" in seen(panel)
    assert "That was 25 minutes. Good." in seen(panel)
    assert "[Start]" in seen(panel)
    clock.go(5)
    panel.tick()
    assert "The break is over." in seen(panel)
    assert 'role="timer"' not in seen(panel)


def test_what_cannot_be_used_now_is_out_of_sight_and_out_of_reach(panel: FocusPanel, clock: Clock):
    assert "[What for]" in seen(panel)
    assert "[What I did]" not in seen(panel)
    panel.button.click()
    assert "[What for]" not in seen(panel)
    assert "[What I did]" in seen(panel)
    clock.go(26)
    panel.tick()
    assert "[What for]" in seen(panel)
    assert "[What I did]" in seen(panel)


def test_a_tick_that_changes_nothing_sends_nothing(panel: FocusPanel, stuck: StuckPanel):
    changes: list = []
    for each in (panel, stuck):
        each.tick()
        for widget in (each.widget, *each.widget.children):
            widget.observe(changes.append)
            widget.layout.observe(changes.append)
    panel.tick()
    stuck.tick()
    assert changes == []


def test_what_was_done_can_be_kept_during_the_break_and_after(
    panel: FocusPanel, journal: Journal, clock: Clock
):
    panel.button.click()
    assert "[Keep]" not in seen(panel)
    clock.go(26)
    panel.tick()
    panel.keep.click()
    assert "Write a few words first" in seen(panel)
    panel.done.value = "read it"
    panel.keep.click()
    assert focus_log(journal, clock())[0].done == "read it"
    assert current_focus(journal, clock()) is not None  # the break goes on
    clock.go(10)
    panel.tick()
    assert "[Keep]" not in seen(panel)


def test_words_that_were_typed_are_not_lost_by_starting_the_next(
    panel: FocusPanel, journal: Journal, clock: Clock
):
    panel.button.click()
    clock.go(26)
    panel.tick()
    panel.done.value = "read it"
    panel.button.click()
    log = focus_log(journal, clock())
    assert [each.done for each in log] == ["read it", ""]
    assert log[1].phase(clock()) == "focus"


def test_a_double_click_starts_and_does_not_stop(panel: FocusPanel, journal: Journal, clock: Clock):
    panel.button.click()
    panel.button.click()
    assert current_focus(journal, clock()) is not None
    clock.go(1)
    panel.button.click()
    assert current_focus(journal, clock()) is None


def test_a_restarted_kernel_finds_the_session(panel: FocusPanel, journal: Journal, clock: Clock):
    panel.about.value = "LoRA"
    panel.button.click()
    clock.go(10)
    fresh = FocusPanel(Journal(journal.path), clock)
    assert fresh.widget
    assert "15:00" in seen(fresh)
    assert "LoRA" in seen(fresh)
    fresh.button.click()
    assert current_focus(journal, clock()) is None


def test_it_shows_what_was_done_elsewhere(panel: FocusPanel, journal: Journal, clock: Clock):
    elsewhere = Journal(journal.path)
    start_focus(elsewhere, "QLoRA", now=clock())
    panel.tick()
    assert "QLoRA" in seen(panel)
    clock.go(5)
    stop_focus(elsewhere, now=clock())
    panel.tick()
    assert "[Start]" in seen(panel)


def test_a_start_that_lost_the_race_says_what_runs(panel: FocusPanel, journal: Journal, clock: Clock):
    start_focus(Journal(journal.path), "QLoRA", now=clock())  # since the last tick
    panel.button.click()
    assert "is running already" in seen(panel)
    assert len(focus_log(journal, clock())) == 1


def test_a_stop_that_came_too_late_says_so(panel: FocusPanel, journal: Journal, clock: Clock):
    panel.button.click()
    clock.go(200)  # a click that waited behind a long cell
    panel.button.click()
    assert "ended already, as planned" in seen(panel)
    assert focus_log(journal, clock())[0].seconds == 25 * 60


def test_a_journal_that_cannot_be_written_is_told_in_the_panel(tmp_path: Path, clock: Clock):
    (tmp_path / "taken").mkdir()
    broken = FocusPanel(Journal(tmp_path / "fresh.jsonl"), clock)
    assert broken.widget
    broken.journal = Journal(tmp_path / "taken")
    broken.tick()
    broken.button.click()
    assert "Next: " in seen(broken)


def test_a_learners_words_are_escaped(panel: FocusPanel):
    panel.about.value = "<b>bold</b><script>"
    panel.button.click()
    assert "<script>" not in seen(panel)
    assert "&lt;b&gt;bold" in seen(panel)


def test_controls_have_names_and_nothing_fixes_a_background(panel: FocusPanel):
    for control in (panel.about, panel.minutes, panel.rest, panel.done, panel.button, panel.keep):
        assert control.description
        assert control.tooltip
    panel.button.click()
    assert "background" not in seen(panel)


# ---- The stuck timer --------------------------------------------------------------------------------


@pytest.fixture
def exercise() -> Choice:
    return Choice(
        name="overfitting",
        reference="b",
        options={"a": "go on", "b": "go back"},
        because="The validation loss was lowest there.",
        hints=("look at the `validation` loss", "where was it lowest?"),
        wrong=(WrongAnswer("memorising", "a", "Look again."),),
    )


@pytest.fixture
def stuck(journal: Journal, clock: Clock, exercise: Choice) -> StuckPanel:
    made = stuck_panel(journal, LESSON, exercise, clock=clock)
    assert made.widget
    return made


def test_it_asks_then_gives_hint_by_hint(stuck: StuckPanel, journal: Journal, clock: Clock):
    assert "What have you tried so far?" in seen(stuck)
    assert stuck.hint_button.disabled
    assert "[Next hint in 3:00]" in seen(stuck)
    stuck.tried.value = "took the last epoch"
    stuck.keep_button.click()
    assert not stuck.hint_button.disabled
    stuck.hint_button.click()
    assert "Hint 1 of 2" in seen(stuck)
    assert "<code" in seen(stuck)
    assert stuck.hint_button.disabled
    clock.go(3)
    stuck.tick()
    assert not stuck.hint_button.disabled
    assert "[Show the worked answer]" not in seen(stuck)
    stuck.hint_button.click()
    assert "where was it lowest?" in seen(stuck)
    assert "[Show the worked answer]" in seen(stuck)
    kept = current_stuck(journal, clock())
    assert kept is not None
    assert [each.text for each in kept.tried] == ["took the last epoch"]
    assert [each.number for each in kept.hints] == [1, 2]


def test_at_15_minutes_it_proposes_the_answer_or_a_break(stuck: StuckPanel, journal: Journal, clock: Clock):
    assert "Stuck on overfitting" in seen(stuck)
    assert "take a break" not in seen(stuck)
    clock.go(15)
    stuck.tick()
    assert "long enough for one go" in seen(stuck)
    assert "take a break" in seen(stuck)
    assert "[Take a break]" in seen(stuck)
    assert "[Next hint]" in seen(stuck)
    stuck.solution_button.click()
    assert "go back" in seen(stuck)
    assert "The validation loss was lowest there." in seen(stuck)
    assert "[I have it]" not in seen(stuck)
    assert last_stuck(journal, clock()).how == "solution"  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "how"), [("break_button", "break"), ("end_button", "solved")])
def test_the_other_ends(stuck: StuckPanel, journal: Journal, clock: Clock, name: str, how: str):
    clock.go(16)
    stuck.tick()
    getattr(stuck, name).click()
    assert last_stuck(journal, clock()).how == how  # type: ignore[union-attr]
    stuck.keep_button.click()
    assert "has ended already" in seen(stuck)


def test_a_passed_exercise_ends_it_in_the_panel(journal: Journal, exercise: Choice):
    begun = datetime.now(UTC) - timedelta(minutes=7)
    clock = Clock()
    clock.now = begun
    stuck = stuck_panel(journal, LESSON, exercise, tried="guessed", clock=clock)
    assert stuck.widget
    journal.append("exercise", lesson=LESSON, exercise="overfitting", outcome="passed")
    clock.now = datetime.now(UTC)
    stuck.tick()
    assert "after 7 minutes: solved" in seen(stuck)
    assert "tried: guessed" in seen(stuck)


def test_a_restarted_kernel_goes_on_where_it_was(
    stuck: StuckPanel, journal: Journal, clock: Clock, exercise: Choice
):
    stuck.tried.value = "took the last epoch"
    stuck.keep_button.click()
    stuck.hint_button.click()
    clock.go(5)
    fresh = stuck_panel(Journal(journal.path), LESSON, exercise, clock=clock)
    assert fresh.widget
    assert "Hint 1 of 2" in seen(fresh)
    assert "10:00" in seen(fresh)
    assert len(stuck_log(journal, clock())) == 1


def test_hints_that_the_exercise_gave_are_there_from_the_start(
    journal: Journal, clock: Clock, exercise: Choice, capsys
):
    exercise.hint()
    stuck = stuck_panel(journal, LESSON, exercise, tried="guessed", clock=clock)
    assert "where was it lowest?" in str(stuck)


def test_without_an_exercise_there_are_no_hints_to_click(journal: Journal, clock: Clock):
    stuck = stuck_panel(journal, LESSON, clock=clock)
    assert stuck.widget
    assert "hint" not in seen(stuck).lower()
    clock.go(16)
    stuck.tick()
    assert "lessonkit explain" in seen(stuck)
    assert "[Show the worked answer]" not in seen(stuck)
    stuck.break_button.click()
    assert last_stuck(journal, clock()).how == "break"  # type: ignore[union-attr]


def test_its_methods_do_the_same_without_widgets(journal: Journal, clock: Clock, exercise: Choice, capsys):
    stuck = stuck_panel(journal, LESSON, exercise, clock=clock)
    assert 'lesson.stuck("overfitting", tried="what I tried")' in str(stuck)
    clock.go(4)
    stuck.hint()
    assert "Hint 1 of 2: look at the `validation` loss" in capsys.readouterr().out
    stuck.solution()
    assert "go back" in capsys.readouterr().out
    assert last_stuck(journal, clock()).how == "solution"  # type: ignore[union-attr]


# ---- In a notebook, a terminal, and without widgets ---------------------------------------------------


def test_a_notebook_gets_the_live_panel_and_text_beside_it(in_notebook, journal: Journal, clock: Clock):
    bundle = focus_panel(journal, clock)._repr_mimebundle_()
    assert set(bundle) == {VIEW, "text/plain"}
    assert "lessonkit focus start" in bundle["text/plain"]


def test_a_terminal_gets_text_and_no_thread(no_thread: list, journal: Journal, clock: Clock):
    start_focus(journal, "LoRA", now=clock())
    panel = focus_panel(journal, clock)
    assert set(panel._repr_mimebundle_()) == {"text/plain"}
    assert "Focus on “LoRA”" in str(panel)
    assert "lessonkit focus stop" in str(panel)
    assert no_thread == []


def test_without_ipywidgets_text_has_to_do(in_notebook, journal: Journal, clock: Clock, monkeypatch):
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert set(focus_panel(journal, clock)._repr_mimebundle_()) == {"text/plain"}


def test_it_is_a_public_name_and_takes_the_learners_journal():
    panel = lessonkit.focus_panel()
    assert panel.journal.path == Journal().path
    assert "No focus session is running." in str(panel)


# ---- The thread -------------------------------------------------------------------------------------


class Ticked:
    """Counts its ticks, and says when there were some."""

    def __init__(self, fails: bool = False) -> None:
        self.count, self.often, self.fails = 0, threading.Event(), fails

    def tick(self) -> None:
        self.count += 1
        if self.count >= 3:
            self.often.set()
        if self.fails:
            raise RuntimeError("closed")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch):
    """The thread at a hundred ticks a second; nothing is followed before or after."""
    monkeypatch.setattr(ticking, "SECONDS", 0.01)
    yield
    for panel in list(ticking._panels):
        ticking.unfollow(panel)


def test_panels_are_ticked_while_this_thread_does_something_else(quick):
    one, other = Ticked(), Ticked()
    ticking.follow(one)
    ticking.follow(other)
    ticking.follow(other)
    assert one.often.wait(30)
    assert other.often.wait(30)
    assert sum(each.name == "lessonkit-study" for each in threading.enumerate()) == 1


def test_the_thread_ends_with_its_last_panel_and_starts_again(quick):
    one = Ticked()
    ticking.follow(one)
    thread = next(each for each in threading.enumerate() if each.name == "lessonkit-study")
    assert thread.daemon
    ticking.unfollow(one)
    thread.join(30)
    assert not thread.is_alive()
    again = Ticked()
    ticking.follow(again)
    assert again.often.wait(30)


def test_a_panel_that_fails_is_left_alone_and_the_others_go_on(quick):
    bad, good = Ticked(fails=True), Ticked()
    ticking.follow(bad)
    ticking.follow(good)
    assert good.often.wait(30)
    assert not ticking.followed(bad)
    assert bad.count == 1


def test_the_oldest_panels_stop_moving(quick):
    many = [Ticked() for _ in range(ticking.MOST_PANELS + 2)]
    for each in many:
        ticking.follow(each)
    assert [ticking.followed(each) for each in many] == [False] * 2 + [True] * ticking.MOST_PANELS


def test_a_closed_panel_is_not_followed(journal: Journal, clock: Clock, monkeypatch, quick):
    monkeypatch.setattr(panels, "follow", ticking.follow)
    panel = FocusPanel(journal, clock)
    assert panel.widget
    assert ticking.followed(panel)
    panel.close()
    assert not ticking.followed(panel)


KERNEL = """
import lessonkit
from lessonkit.study import start_focus
from lessonkit.progress import Journal
start_focus(Journal(), "LoRA")
panel = lessonkit.focus_panel()
panel
"""


def test_the_countdown_goes_on_in_a_kernel_that_is_busy():
    """A real kernel: updates of the widget reach the front end before the cell that runs has ended."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive(KERNEL, timeout=60, output_hook=lambda message: None)
        client.execute("import time\nwhile True: time.sleep(0.05)")
        times = set()
        while len(times) < 2:
            message = client.get_iopub_msg(timeout=60)
            state = message["content"].get("data", {}).get("state", {})
            if message["msg_type"] == "comm_msg" and 'role="timer"' in str(state.get("value")):
                times.add(state["value"])
        assert all(">24:" in value for value in times)
        manager.interrupt_kernel()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
