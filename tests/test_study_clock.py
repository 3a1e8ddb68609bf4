"""The study clock counts a person's time in a notebook, and nobody else's."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonkit import lesson as lesson_module
from lessonkit.curriculum import load_curriculum
from lessonkit.execution import environment, execute
from lessonkit.progress import Journal, fold, study_clock
from lessonkit.progress.study_clock import StudyClock, attended, start_clock

ROOT = Path(__file__).resolve().parents[1]
LESSON = "start-here"


class Hand:
    """A clock whose hand is moved by the test, with what the study clock said."""

    def __init__(self, path: Path) -> None:
        self.seconds = 1000.0
        self.said: list[str] = []
        self.journal = Journal(path)
        self.clock = StudyClock(self.journal, LESSON, now=lambda: self.seconds, tell=self.said.append)

    def beat_after(self, *gaps: float) -> None:
        for gap in gaps:
            self.seconds += gap
            self.clock.beat()

    @property
    def written(self) -> list[float]:
        return [event.data["seconds"] for event in self.journal.read("work").events]


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    return Hand(tmp_path / "journal.jsonl")


def test_time_between_cells_counts_and_is_written_from_time_to_time(hand: Hand) -> None:
    hand.beat_after(60, 60, 60)
    assert hand.written == []
    hand.beat_after(60, 60)
    assert hand.written == [300]
    hand.beat_after(100, 100)
    assert hand.written == [300]
    hand.clock.flush()
    assert hand.written == [300, 200]
    hand.clock.flush()
    assert hand.written == [300, 200]  # nothing new, nothing written
    work = fold(hand.journal.read().events, load_curriculum(check_files=False)).work
    assert work == {LESSON: 500}


def test_reading_for_a_while_is_study_and_a_night_is_a_break(hand: Hand) -> None:
    hand.beat_after(15 * 60)
    assert hand.written == [900]
    hand.beat_after(9 * 3600)
    hand.clock.flush()
    assert hand.written == [900, 300]


def test_a_glance_is_not_worth_an_event(hand: Hand) -> None:
    hand.beat_after(20)
    hand.clock.flush()
    assert hand.written == []
    assert not hand.journal.path.exists()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(min_value=-50, max_value=3000), max_size=40))
def test_events_are_few_and_never_say_more_than_passed(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[float]
) -> None:
    hand = Hand(tmp_path_factory.mktemp("clock") / "journal.jsonl")
    hand.beat_after(*gaps)
    hand.clock.flush()
    passed = sum(gap for gap in gaps if gap > 0)
    assert sum(hand.written) <= passed + len(hand.written)  # each event is rounded
    assert len(hand.written) <= passed / 300 + 1
    assert all(seconds <= 1200 for seconds in hand.written)


def test_a_journal_that_cannot_be_written_is_told_once_and_costs_nothing(hand: Hand, tmp_path: Path) -> None:
    hand.journal.path = tmp_path / "file" / "journal.jsonl"
    (tmp_path / "file").write_text("in the way")
    hand.beat_after(400, 400, 400)
    assert len(hand.said) == 1
    assert "study time is not being kept" in hand.said[0]
    assert "Next: " in hand.said[0]
    (tmp_path / "file").unlink()
    hand.beat_after(400)
    assert hand.written == [1600]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_a_fork_writes_nothing(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_clock.os, "getpid", lambda: -1)
    hand.beat_after(400)
    hand.clock.flush()
    assert hand.written == []


# ---- In a kernel ------------------------------------------------------------------------------------


def shell_of(allow_stdin: bool | None) -> Any:
    content = {} if allow_stdin is None else {"allow_stdin": allow_stdin}
    return SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda channel: {"content": content}))


def test_only_who_can_answer_a_question_is_a_person() -> None:
    assert attended(shell_of(True))
    for nobody in (shell_of(False), shell_of(None), SimpleNamespace(), None, SimpleNamespace(kernel=None)):
        assert not attended(nobody)


def test_outside_of_a_kernel_nothing_is_hooked(tmp_path: Path) -> None:
    assert start_clock(Journal(tmp_path / "journal.jsonl"), LESSON) is None


CELLS = """
import time
import lessonkit
from lessonkit.progress import study_clock
lesson = lessonkit.start("{lesson}")
clock = study_clock._clock
print("counting" if clock else "not counting")
---
if clock:
    clock._now = lambda ahead=[0]: ahead.__setitem__(0, ahead[0] + 200) or time.monotonic() + ahead[0]
---
lesson = lessonkit.start("{lesson}")
print("the same" if study_clock._clock is clock else "another")
---
pass
"""


def run_cells(monkeypatch: pytest.MonkeyPatch, person: bool) -> str:
    """What four cells print in a real kernel, sent by a front end with or without a person."""
    import nbclient
    import nbformat.v4 as v4

    if person:
        real = nbclient.NotebookClient.async_start_new_kernel_client

        async def with_person(self: Any, **options: Any) -> Any:
            client = await real(self, **options)
            self.kc.allow_stdin = True
            return client

        monkeypatch.setattr(nbclient.NotebookClient, "async_start_new_kernel_client", with_person)
    cells = [v4.new_code_cell(source.strip()) for source in CELLS.format(lesson=LESSON).split("---")]
    there = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with environment({"PYTHONPATH": there, "LESSONKIT_SCALE": "laptop"}):
        notebook = execute(v4.new_notebook(cells=cells), ROOT)
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


def test_a_person_in_a_kernel_is_counted_once_also_if_the_lesson_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = run_cells(monkeypatch, person=True)
    assert "counting" in said.splitlines()
    assert "the same" in said
    seconds = [event.data["seconds"] for event in Journal().read("work").events]
    # A beat at each begin and end of a cell, 200 seconds apart; the last one comes at the kernel's end.
    assert len(seconds) >= 2
    assert sum(seconds) >= 1200


def test_a_run_without_a_person_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not counting" in run_cells(monkeypatch, person=False)
    assert Journal().read("work").events == ()


@pytest.mark.parametrize(
    ("scale", "result", "counted"), [("laptop", "", 1), ("smoke", "", 0), ("laptop", "result.json", 0)]
)
def test_no_clock_at_smoke_scale_nor_for_the_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scale: str, result: str, counted: int
) -> None:
    started: list[str] = []
    monkeypatch.setattr(lesson_module, "start_clock", lambda journal, name: started.append(name))
    monkeypatch.setenv("LESSONKIT_SCALE", scale)
    if result:
        monkeypatch.setenv("LESSONKIT_RESULT", str(tmp_path / result))
    lesson_module.start(LESSON)
    assert started == [LESSON] * counted
