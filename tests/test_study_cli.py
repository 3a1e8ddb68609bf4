"""The study commands: what they say, what a program reads, and what is typed wrongly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import NamedTuple

import pytest

import lessonkit as package
from lessonkit import cli
from lessonkit.cli import study as module
from lessonkit.curriculum import load_curriculum
from lessonkit.progress import Journal, fold
from lessonkit.study.focus import current_focus, focus_log
from lessonkit.study.stuck import current_stuck, last_stuck, stuck_log

NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)
EXERCISE, LESSON = "recall", "beginner/full-fine-tuning"


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


class Clock:
    def __init__(self) -> None:
        self.now = NINE

    def __call__(self) -> datetime:
        return self.now

    def go(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The commands' clock; it goes when it is told to."""
    made = Clock()
    monkeypatch.setattr(module, "moment_now", made)
    return made


@pytest.fixture
def lessonkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """``lessonkit ...`` in this process, through the entry point that the shell calls."""

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["lessonkit", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody at a terminal who gives these answers."""
    answers: list[str] = []
    monkeypatch.setattr(module, "somebody_asked", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answers.pop(0) == "y")
    return answers


def refused(said: Said, *told: str) -> None:
    """Exit code 1, nothing on stdout, all of ``told`` on stderr, in a few lines without a traceback."""
    assert said.code == 1
    assert said.out == ""
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= 4
    for text in (*told, "Next: "):
        assert text in said.err


# ---- focus ------------------------------------------------------------------------------------------


def test_a_session_from_start_to_log(lessonkit: Command, clock: Clock):
    assert "No focus session is running." in lessonkit("focus").out
    said = lessonkit("focus", "start", "--about", "LoRA", "--minutes", "40", "--rest", "10")
    assert "Focus on “LoRA” until" in said.out
    assert "40:00 left" in said.out
    clock.go(15)
    assert "25:00 left" in lessonkit("focus").out
    assert lessonkit("focus", "status").out == lessonkit("focus").out
    said = lessonkit("focus", "stop", "--done", "section 1")
    assert said.out == "Kept, with 15 minutes: section 1\n"
    log = lessonkit("focus", "log").out
    assert "15 minutes in 1 session\n" in log
    assert "LoRA: section 1" in log


def test_stop_tells_what_became_of_the_session(lessonkit: Command, clock: Clock):
    assert lessonkit("focus", "stop").code == 0
    assert "Start one: lessonkit focus start" in lessonkit("focus", "stop").out
    lessonkit("focus", "start")
    clock.go(10)
    assert "Stopped after 10 minutes. That time counts." in lessonkit("focus", "stop").out
    assert "Kept, with 10 minutes: a guide" in lessonkit("focus", "stop", "--done", "a guide").out
    lessonkit("focus", "start")
    clock.go(300)
    assert "ended as planned, after 25 minutes. That time counts" in lessonkit("focus", "stop").out
    assert "Kept, with 25 minutes: a notebook" in lessonkit("focus", "stop", "--done", "a notebook").out


def test_focus_as_json(lessonkit: Command, clock: Clock):
    assert json.loads(lessonkit("focus", "--json").out) is None
    begun = json.loads(lessonkit("focus", "start", "--about", "LoRA", "--json").out)
    clock.go(5)
    for told in (lessonkit("focus", "--json").out, lessonkit("focus", "status", "--json").out):
        now = json.loads(told)
        assert (now["session"], now["phase"], now["remaining"], now["seconds"]) == (
            begun["session"],
            "focus",
            1200,
            300,
        )
    stopped = json.loads(lessonkit("focus", "stop", "--json").out)
    assert (stopped["phase"], stopped["seconds"]) == ("over", 300)
    assert datetime.fromisoformat(stopped["ended"]) == clock.now
    assert [each["about"] for each in json.loads(lessonkit("focus", "log", "--json").out)] == ["LoRA"]


def test_a_second_start_is_refused_where_nobody_can_be_asked(lessonkit: Command):
    lessonkit("focus", "start")
    refused(lessonkit("focus", "start"), "running already", "lessonkit focus stop")


@pytest.mark.parametrize("answer", ["y", "n"])
def test_somebody_is_asked_whether_to_stop_the_first(
    lessonkit: Command, clock: Clock, somebody: list, answer: str
):
    lessonkit("focus", "start", "--about", "one")
    clock.go(10)
    somebody.append(answer)
    said = lessonkit("focus", "start", "--about", "two")
    about = current_focus(Journal(), clock.now).about  # type: ignore[union-attr]
    assert (about, said.code) == (("two", 0) if answer == "y" else ("one", 1))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--minutes", "abc"), "from 1 to 180"),
        (("--minutes", "0"), "from 1 to 180"),
        (("--minutes", "999999999999999999999"), "from 1 to 180"),
        (("--rest", "61"), "from 0 to 60"),
        (("--rest", "-1"), "from 0 to 60"),
    ],
)
def test_lengths_that_cannot_be_are_told(lessonkit: Command, options: tuple, told: str):
    refused(lessonkit("focus", "start", *options), told)
    assert focus_log(Journal()) == []


def test_the_log_goes_back_as_far_as_asked(lessonkit: Command, clock: Clock):
    assert "No sessions yet." in lessonkit("focus", "log").out
    lessonkit("focus", "start", "--about", "long ago")
    clock.go(20 * 24 * 60)
    said = lessonkit("focus", "log").out
    assert "No sessions in the last 7 days" in said
    assert "lessonkit focus log --days all" in said
    assert "long ago" in lessonkit("focus", "log", "--days", "30").out
    assert "long ago" in lessonkit("focus", "log", "--days", "all").out
    refused(lessonkit("focus", "log", "--days", "few"), "a number of days")


def test_wait_counts_down_to_the_end_of_the_break(lessonkit: Command, clock: Clock, monkeypatch):
    monkeypatch.setattr(
        module, "time", SimpleNamespace(sleep=lambda seconds: clock.go(seconds / 2))
    )  # half minutes
    said = lessonkit("focus", "start", "--minutes", "3", "--rest", "2", "--wait")
    assert said.code == 0
    lines = said.out.splitlines()
    assert [line for line in lines if line.endswith(" left")] == ["3:00 left", "2:30 left", "1:30 left", "0:30 left",
                                                                "2:00 left", "1:30 left", "0:30 left"]  # fmt: skip
    assert sum("Good. Now the break" in line for line in lines) == 1
    assert lines[-1].startswith("The break is over.")


def test_ctrl_c_leaves_the_session_running_and_says_so(lessonkit: Command, clock: Clock, monkeypatch):
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=interrupted))
    said = lessonkit("focus", "start", "--wait")
    assert said.code == 0
    assert "The session goes on" in said.out
    assert "lessonkit focus stop" in said.out
    assert current_focus(Journal(), clock.now) is not None


def test_wait_ends_when_the_session_is_stopped_elsewhere(lessonkit: Command, clock: Clock, monkeypatch):
    from lessonkit.study.focus import stop_focus

    def elsewhere(seconds: float) -> None:
        clock.go(1)
        stop_focus(Journal(), now=clock.now)

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=elsewhere))
    assert lessonkit("focus", "start", "--wait").code == 0


# ---- stuck ------------------------------------------------------------------------------------------


def test_stuck_on_an_exercise_from_start_to_answer(lessonkit: Command, clock: Clock):
    said = lessonkit("stuck", "--exercise", EXERCISE)
    assert f"Stuck on {EXERCISE} ({LESSON})" in said.out
    assert "15:00 left" in said.out
    refused(lessonkit("stuck", "hint"), "opens by itself in 3:00")
    assert "A hint is open" in lessonkit("stuck", "tried", "divided by the column").out
    assert "Hint 1 of " in lessonkit("stuck", "hint").out
    refused(lessonkit("stuck", "solution"), "opens in 15:00", "stuck hint")
    clock.go(15)
    assert "long enough for one go" in lessonkit("stuck").out
    assert "def recall" in lessonkit("stuck", "solution").out
    log = lessonkit("stuck", "log").out
    assert "tried: divided by the column" in log
    assert "hint 1" in log
    assert "ended after 15 minutes: with the worked answer" in log


def test_after_the_last_hint_the_way_on_is_the_worked_answer(lessonkit: Command, clock: Clock):
    lessonkit("stuck", "--exercise", EXERCISE)
    for number in (1, 2, 3):
        assert "A hint is open" in lessonkit("stuck", "tried", f"attempt {number}").out
        lessonkit("stuck", "hint")
    assert "The worked answer: lessonkit stuck solution" in lessonkit("stuck", "tried", "all of them").out
    refused(lessonkit("stuck", "hint"), "all the hints", "lessonkit stuck solution")


def test_stuck_on_anything(lessonkit: Command, clock: Clock):
    said = lessonkit("stuck", "--tried", "restarted\nit 😀")
    assert "lessonkit explain" in said.out
    assert "stuck hint" not in said.out
    assert lessonkit("stuck", "tried", "reinstalled it").out == "Kept.\n"
    refused(lessonkit("stuck", "hint"), "no hints for this")
    refused(lessonkit("stuck", "--exercise", "recall", "--lesson", "introduction"), "has no exercises yet")
    refused(lessonkit("stuck", "solution"), "no exercise")
    clock.go(16)
    assert "break" in lessonkit("stuck").out
    assert "Good choice." in lessonkit("stuck", "end", "break").out
    assert [event.data["text"].count("tried:") for event in Journal().read("note").events] == [2]
    assert len(stuck_log(Journal(), clock.now)) == 1


def test_stuck_asks_what_was_tried(lessonkit: Command, clock: Clock, somebody: list):
    somebody.append("the column")
    assert "lessonkit stuck hint" in lessonkit("stuck", "--exercise", EXERCISE).out
    found = current_stuck(Journal(), clock.now)
    assert found is not None
    assert [each.text for each in found.tried] == ["the column"]
    lessonkit("stuck")  # goes on, and asks no more
    assert len(stuck_log(Journal(), clock.now)) == 1


def test_stuck_as_json(lessonkit: Command, clock: Clock):
    told = json.loads(lessonkit("stuck", "--exercise", EXERCISE, "--tried", "x", "--json").out)
    assert (told["lesson"], told["exercise"], told["tried"][0]["text"]) == (LESSON, EXERCISE, "x")
    clock.go(7)
    lessonkit("stuck", "end", "solved")
    told = json.loads(lessonkit("stuck", "log", "--json").out)
    assert [(each["how"], each["seconds"]) for each in told] == [("solved", 420)]


def test_the_ends_say_something_kind(lessonkit: Command, clock: Clock):
    assert "Start one: lessonkit stuck" in lessonkit("stuck", "end").out
    for how, told in (("solved", "Solved after 5 minutes."), ("stopped", "Ended after 5 minutes.")):
        lessonkit("stuck")
        clock.go(5)
        assert told in lessonkit("stuck", "end", how).out
        assert last_stuck(Journal(), clock.now).how == how  # type: ignore[union-attr]


def test_stuck_mistakes_are_told(lessonkit: Command):
    refused(lessonkit("stuck", "--exercise", "recal"), "Did you mean 'recall'")
    refused(lessonkit("stuck", "--exercise", EXERCISE, "--lesson", "beginner/lorra"), "no lesson")
    refused(lessonkit("stuck", "tried", "x"), "No stuck timer is running.")
    refused(lessonkit("stuck", "hint"), "No stuck timer is running.")
    refused(lessonkit("stuck", "solution"), "No stuck timer is running.")
    refused(lessonkit("stuck", "end", "fled"), "solved")
    lessonkit("stuck")
    refused(lessonkit("stuck", "tried", "  "), "What did you try?")
    assert "Nothing yet." not in lessonkit("stuck", "log").out


def test_an_exercise_of_several_lessons_needs_its_lesson(lessonkit: Command, monkeypatch):
    monkeypatch.setattr("lessonkit.exercises.load_exercises", lambda lesson: {EXERCISE: object()})
    refused(lessonkit("stuck", "--exercise", EXERCISE), "lessons have an exercise", "--lesson start-here")


# ---- only -------------------------------------------------------------------------------------------


def chosen() -> str:
    return fold(Journal().read().events, load_curriculum(check_files=False)).only


def test_only_one_technique_and_all_again(lessonkit: Command):
    assert "All techniques are shown." in lessonkit("only").out
    said = lessonkit("only", "LoRA").out
    assert "Only LoRA is shown from now on." in said
    lessons = load_curriculum(check_files=False).lessons
    written = any(each.written for each in lessons if each.technique == "lora")
    assert ("not written yet" in said) is not written
    assert chosen() == "lora"
    assert "Only LoRA is shown." in lessonkit("only").out
    size = Journal().path.stat().st_size
    assert "Only LoRA is shown." in lessonkit("only", "lora").out
    assert Journal().path.stat().st_size == size  # nothing to say twice
    assert "All techniques are shown again." in lessonkit("only", "--all").out
    assert chosen() == ""
    lessonkit("only", "qlora")
    assert "All techniques are shown again." in lessonkit("only", "all").out


def test_only_mistakes_are_told(lessonkit: Command):
    refused(lessonkit("only", "lroa"), "Did you mean 'lora'")
    refused(lessonkit("only", "lora", "--all"), "not both")
    assert chosen() == ""


def test_only_in_a_notebook(capsys):
    package.only("adapters")
    assert chosen() == "adapters"
    package.only()
    package.only("all")
    assert chosen() == ""
    told = capsys.readouterr().out.splitlines()
    assert [line.split(".")[0] for line in told] == [
        "Only Adapters is shown from now on",
        "Only Adapters is shown",
        "All techniques are shown again",
    ]


# ---- All of them ------------------------------------------------------------------------------------


def test_a_journal_that_is_a_folder_is_told(lessonkit: Command, monkeypatch, tmp_path):
    (tmp_path / "taken.jsonl").mkdir()
    monkeypatch.setenv("LESSONKIT_PROGRESS", str(tmp_path / "taken.jsonl"))
    for command in (
        ("focus",),
        ("focus", "start"),
        ("focus", "log"),
        ("stuck",),
        ("stuck", "log"),
        ("only", "lora"),
    ):
        refused(lessonkit(*command), "folder")


@pytest.mark.parametrize("command", [("focus",), ("focus", "start"), ("stuck",), ("stuck", "end"), ("only",)])
def test_help_is_there(lessonkit: Command, command: tuple):
    said = lessonkit(*command, "--help")
    assert said.code == 0
    assert "Usage" in said.out
