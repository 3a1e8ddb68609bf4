"""Progress at the command line: what is mistyped is told in a few lines, and nothing is lost."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from lessonkit import cli
from lessonkit.curriculum import load_curriculum
from lessonkit.progress import Journal, fold, render_text, set_only, tick, untick

ROOT = Path(__file__).resolve().parents[1]
LESSON = "beginner/full-fine-tuning"


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def lessonkit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Command:
    """``lessonkit ...`` in this process; ``typed`` is what comes from the keyboard."""

    def call(*arguments: str, typed: str = "") -> Said:
        monkeypatch.setattr(sys, "argv", ["lessonkit", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return Said(code, *capfd.readouterr())

    return call


def refused(said: Said, *told: str) -> None:
    assert said.code == 1
    assert said.out == ""
    assert "Traceback" not in said.err
    assert len(said.err) < 600
    for text in (*told, "Next: "):
        assert text in said.err


# ---- Progress and what comes next -------------------------------------------------------------------


def test_a_lesson_begun_is_resumed(lessonkit: Command):
    Journal().append("work", lesson=LESSON, seconds=3600)
    left = load_curriculum(check_files=False).lesson(LESSON).minutes - 60
    said = lessonkit("next")
    assert said.out.startswith(f"Resume here (about {left} minutes): Full Fine-Tuning, Beginner")
    told = lessonkit("progress").out
    assert "Next: Resume here" in told
    assert "Time: 1 hour this week" in told
    assert "Days: 1 study day" in told
    plain = json.loads(lessonkit("progress", "--json").out)
    assert plain["pace"]["week_minutes"] == 60
    assert plain["streak"]["days_in_all"] == 1


def test_one_technique_hides_the_others_and_all_shows_them(lessonkit: Command):
    curriculum = load_curriculum(check_files=False)
    other = curriculum.item("run-beginner-prompt-tuning").text
    set_only(Journal(), curriculum, "lora")
    said = lessonkit("progress").out
    assert other not in said
    assert "lessonkit progress --all" in said
    assert other in lessonkit("progress", "--all").out


# ---- Notes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["two\nlines", "😀", "x" * 100_000, "--", "'; rm -rf"])
def test_a_note_is_kept_word_for_word(lessonkit: Command, text: str):
    assert lessonkit("note", "--about", "lora", "--", text).out == "Kept. All of them: lessonkit note\n"
    assert Journal().read("note").events[0].data == {"text": text, "about": "lora"}


def test_a_note_can_come_through_a_pipe(lessonkit: Command):
    assert lessonkit("note", "-", typed="first\nsecond\n").out == "Kept. All of them: lessonkit note\n"
    assert Journal().read("note").events[0].data["text"] == "first\nsecond"
    refused(lessonkit("note", "-"), "The note is empty")


def test_words_without_quotes_are_one_note(lessonkit: Command):
    assert lessonkit("note", "r=8", "was", "enough", "--about", "lora").code == 0
    assert Journal().read("note").events[0].data == {"text": "r=8 was enough", "about": "lora"}


def test_notes_are_shown_in_full(lessonkit: Command):
    assert "No notes yet" in lessonkit("note").out
    lessonkit("note", "first line\nsecond 🎉 \x1b[2J\u202e", "--about", "beginner/lora")
    lessonkit("note", "about nothing in particular")
    said = lessonkit("note").out
    assert " · beginner/lora\n  first line\n  second 🎉 \ufffd[2J\ufffd\n\n" in said
    assert said.endswith("  about nothing in particular\n")
    assert (
        "particular" not in lessonkit("note", "--about", "lora").out
    )  # a technique's lessons are part of it
    assert "second 🎉" in lessonkit("note", "--about", "lora").out
    assert "No notes yet" in lessonkit("note", "--about", "qlora").out
    notes = json.loads(lessonkit("note", "--json").out)
    assert [each["about"] for each in notes] == ["beginner/lora", ""]
    refused(lessonkit("note", "--about", "lroa"), "'lora'")
    assert len(Journal().read().events) == 2  # looking keeps nothing


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_note_of_other_bytes_is_refused_and_not_kept_in_part(
    lessonkit: Command, monkeypatch: pytest.MonkeyPatch, errors: str
):
    pipe = io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(io, "StringIO", lambda _typed: pipe)
    refused(lessonkit("note", "-"), "not UTF-8", "not kept")
    assert not Journal().path.exists()


CLOSED = """
import sys
sys.{0} = None
sys.argv = ["lessonkit", *sys.argv[1:]]
from lessonkit.cli import main
main()
"""


@pytest.mark.parametrize(
    ("stream", "command", "told"),
    [
        ("stdin", ("note", "-"), "The note is empty"),
        ("stdin", ("stuck",), ""),
        ("stdin", ("explain",), "no error message"),
        ("stdin", ("data", "delete"), "Abort"),
        ("stdout", ("focus", "start"), ""),
    ],
)
def test_a_closed_stream_ends_in_no_traceback(stream: str, command: tuple, told: str):
    Journal().append("note", text="mine")
    program = [sys.executable, "-c", CLOSED.format(stream), *command]
    said = subprocess.run(program, capture_output=True, text=True, check=False)
    assert "Traceback" not in said.stderr
    assert told in said.stderr
    assert said.returncode == (1 if told else 0)
    assert len(Journal().read("note").events) == 1


def test_a_megabyte_of_note_is_refused_in_a_sentence(lessonkit: Command):
    refused(lessonkit("note", "-", typed="x" * 1_000_000), "1,000,000 characters", "100,000 are the limit")
    assert not Journal().path.exists()


@pytest.mark.parametrize("command", [("tick", "model-registry"), ("note", "x"), ("progress",), ("next",)])
def test_a_folder_where_the_journal_should_be_is_told(
    lessonkit: Command, command: tuple, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = tmp_path / "journal.jsonl"
    folder.mkdir()
    monkeypatch.setenv("LESSONKIT_PROGRESS", str(folder))
    refused(lessonkit(*command), "it is a folder", "LESSONKIT_PROGRESS")
    assert list(folder.iterdir()) == []


# ---- Export -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begins"),
    [("page.html", "<!DOCTYPE html>"), ("page.md", "# Fine"), ("page.json", "{"), ("page", "# ")],
)
def test_a_files_name_says_its_format(lessonkit: Command, tmp_path: Path, name: str, begins: str):
    lessonkit("note", "private")
    file = tmp_path / "new" / name
    assert "without your notes" in lessonkit("export", "--output", str(file)).out
    text = file.read_text(encoding="utf-8")
    assert text.startswith(begins)
    assert "private" not in text
    refused(lessonkit("export", "--output", str(file)), "is there already", "--force")
    lessonkit("export", "--output", str(file), "--force", "--with-notes", "--name", "Me")
    assert "private" in file.read_text(encoding="utf-8")
    assert "Me" in file.read_text(encoding="utf-8")


def test_without_a_file_it_is_printed_alone(lessonkit: Command):
    assert json.loads(lessonkit("export", "--format", "json").out)["title"]
    assert lessonkit("export").out.startswith("# Fine-tuning portfolio\n")
    assert lessonkit("export", "--format", "html").out.endswith("</html>\n")


def test_a_page_that_cannot_be_made_is_refused(lessonkit: Command, tmp_path: Path):
    said = lessonkit("export", "--output", str(tmp_path / "page.pdf"))
    assert said.code == 1
    assert "can't be saved as .pdf" in said.err
    assert not (tmp_path / "page.pdf").exists()


def test_an_unknown_format_is_told_with_the_nearest(lessonkit: Command, tmp_path: Path):
    file = tmp_path / "page"
    refused(lessonkit("export", "--format", "htm", "--output", str(file)), "'html'")
    refused(lessonkit("export", "--output", str(tmp_path)), "is a folder")
    assert not file.exists()


# ---- All that is kept -------------------------------------------------------------------------------


def test_what_is_kept_is_shown(lessonkit: Command):
    assert "nothing yet" in lessonkit("data", "show").out
    lessonkit("note", "one")
    lessonkit("tick", "model-registry")
    said = lessonkit("data", "show").out
    assert str(Journal().path) in said
    assert "2 events" in said
    assert "1  note" in said
    assert "not personal" in said
    assert json.loads(lessonkit("data", "show", "--json").out)["kinds"] == {"note": 1, "tick": 1}


def test_every_word_of_it_is_shown(lessonkit: Command):
    lessonkit("note", "two\nlines 🎉")
    lessonkit("stuck", "--exercise", "recall", "--tried", "I counted the rows")
    lessonkit("focus", "start", "--about", "section 2")
    with Journal().path.open("ab") as file:
        file.write(b"\x1b[2Jgarbage\n")
    assert "data show --all" in lessonkit("data", "show").out
    said = lessonkit("data", "show", "--all").out
    for word in (r"two\nlines 🎉", "I counted the rows", "section 2", "[2Jgarbage"):
        assert word in said
    assert "\x1b" not in said
    events = json.loads(lessonkit("data", "show", "--all", "--json").out)["events"]
    assert [each["kind"] for each in events] == ["note", "stuck", "stuck", "focus"]
    assert "events" not in json.loads(lessonkit("data", "show", "--json").out)


# ---- With ten thousand events ------------------------------------------------------------------------


def test_ten_thousand_events_are_measured_within_a_second_and_a_tick_within_20_milliseconds():
    measured = json.loads((ROOT / "results" / "progress.json").read_text(encoding="utf-8"))
    slowest = {row["name"]: row["slowest_milliseconds"] for row in measured["rows"]}
    assert measured["events"] == 10_000
    assert slowest["`lessonkit progress`"] < 1000
    assert slowest["`tick(...)`"] < 20


def test_with_ten_thousand_events_progress_is_told_and_ticked_without_a_wait():
    """In seconds of the processor: the clock on the wall counts what other programs do, too."""
    course, journal = load_curriculum(check_files=False), Journal()
    first = journal.append("work", lesson=LESSON, seconds=300)
    with journal.path.open("a", encoding="utf-8") as file:
        for number in range(9_999):
            file.write(replace(first, id=f"{number:032x}").to_line() + "\n")

    def show():
        assert "Resume here" in render_text(fold(journal.read().events, course), course)

    def click():
        tick(journal, course, "model-registry")
        untick(journal, course, "model-registry")

    assert seconds_of(show) < 1
    assert seconds_of(click) < 2 * 0.02


def seconds_of(work: Callable[[], object]) -> float:
    """The least of five rounds: what else runs on this machine makes others slower."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        work()
        rounds.append(time.process_time() - start)
    return min(rounds)


def test_it_is_exported_and_merged_again(lessonkit: Command, tmp_path: Path):
    lessonkit("note", "mine")
    file = tmp_path / "mine.zip"
    assert "Saved" in lessonkit("data", "export", str(file)).out
    refused(lessonkit("data", "export", str(file)), "is there already")
    assert lessonkit("data", "delete", "--yes").code == 0
    with zipfile.ZipFile(file) as archive:
        archive.extract("journal.jsonl", tmp_path)
    assert "1 event added" in lessonkit("merge", str(tmp_path / "journal.jsonl")).out


def test_a_zip_that_was_not_unpacked_is_no_journal(lessonkit: Command, tmp_path: Path):
    lessonkit("note", "mine")
    lessonkit("data", "export", str(tmp_path / "mine.zip"))
    refused(lessonkit("merge", str(tmp_path / "mine.zip")), "holds no event", "unpacked")
    (tmp_path / "fresh.jsonl").touch()
    assert lessonkit("merge", str(tmp_path / "fresh.jsonl")).out.startswith("0 events added")


@pytest.mark.parametrize("typed", ["\n", "yes\n", "no\n"])
def test_deleting_asks_and_any_other_word_keeps_it(lessonkit: Command, typed: str):
    lessonkit("note", "mine")
    before = Journal().path.read_bytes()
    said = lessonkit("data", "delete", typed=typed)
    assert "Nothing was deleted" in said.out
    assert "data export" in said.out
    assert Journal().path.read_bytes() == before


def test_no_keyboard_keeps_it(lessonkit: Command):
    lessonkit("note", "mine")
    assert lessonkit("data", "delete", typed="").code == 1
    assert Journal().path.exists()


@pytest.mark.parametrize(("arguments", "typed"), [((), "delete\n"), (("--yes",), "")])
def test_deleting_says_exactly_what_is_gone(lessonkit: Command, arguments: tuple, typed: str, tmp_path: Path):
    lessonkit("note", "mine")
    saved = tmp_path / "outputs" / "beginner-lora"
    saved.mkdir(parents=True)
    said = lessonkit("data", "delete", *arguments, typed=typed)
    assert said.code == 0
    gone = [line.removeprefix("Deleted: ") for line in said.out.splitlines() if line.startswith("Deleted: ")]
    assert set(gone) == {str(saved), str(Journal().path), str(Journal().lock_path)}
    assert not any(Path(path).exists() for path in gone)
    assert "nothing to delete" in lessonkit("data", "delete").out
