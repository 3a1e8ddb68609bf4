"""The command line: what a program reads parses, and what a learner mistypes is told in a few lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lessonkit import cli, curriculum, execution
from lessonkit.assets import assets
from lessonkit.curriculum import load_curriculum
from lessonkit.progress import Journal

ROOT = Path(__file__).resolve().parents[1]
ITEM = "understand-fine-tuning"
TOY = [
    "import os, pathlib",
    "import lessonkit\nlesson = lessonkit.start('start-here')",
    "print('noise on stdout')",
    "lesson.record(accuracy=0.5)",
]


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def lessonkit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Command:
    """``lessonkit ...`` in this process, through the entry point that the shell calls."""

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["lessonkit", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return Said(code, *capfd.readouterr())

    return call


def refused(said: Said, *told: str) -> None:
    """Exit code 1, nothing on stdout, all of ``told`` on stderr, in a few lines without a traceback."""
    assert said.code == 1
    assert said.out == ""
    assert "Traceback" not in said.err
    for text in (*told, "Next: "):
        assert text in said.err


# ---- What each command says -------------------------------------------------------------------------


def test_doctor_shows_each_choice_with_its_reason(lessonkit: Command):
    said = lessonkit("doctor")
    assert said.code == 0
    for name in (
        "device",
        "memory",
        "processor",
        "dtype",
        "attention",
        "threads",
        "scale",
        "assets",
        "journal",
    ):
        assert f"\n{name:<10} " in f"\n{said.out}"
    told = json.loads(lessonkit("doctor", "--json").out)
    assert {"lessonkit", "hardware", "versions", "assets", "cache", "journal", "problems"} <= set(told)
    assert set(told["assets"]) == set(assets())
    assert told["hardware"]["reasons"]["scale"] in " ".join(said.out.split())


def test_doctor_says_how_to_fetch_what_is_missing(
    lessonkit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("LESSONKIT_CACHE", str(tmp_path / "empty"))
    said = lessonkit("doctor")
    assert "-> lessonkit fetch minilm" in said.out
    assert said.code == 0  # a lesson would fetch it by itself


def test_lessons_lists_all_and_says_what_is_not_written(lessonkit: Command):
    course = load_curriculum(check_files=False)
    said = lessonkit("lessons")
    listed = [line.split()[0] for line in said.out.splitlines() if " min " in line]
    assert listed == [each.id for each in course.lessons]
    unwritten = [line for line in said.out.splitlines() if "not written yet" in line]
    assert len(unwritten) == sum(not each.written for each in course.lessons)
    rows = json.loads(lessonkit("lessons", "--json").out)
    assert [row["id"] for row in rows] == listed
    assert {row["status"] for row in rows} <= {"ready", "not written yet"}


def test_fetch_list_shows_source_and_licence_and_fetches_nothing(
    lessonkit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("LESSONKIT_CACHE", str(tmp_path / "empty"))
    said = lessonkit("fetch", "--list")
    assert said.code == 0
    for each in assets().values():
        block = said.out[said.out.index(f"{each.name} ({each.kind}, not fetched yet)") :]
        assert block.index(each.source) < block.index(each.licence)
    rows = json.loads(lessonkit("fetch", "--list", "--json").out)
    assert [row["name"] for row in rows] == list(assets())
    assert all(row["licence"] and row["source"] and row["origin"] for row in rows)
    assert not any(row["fetched"] for row in rows)
    assert not (tmp_path / "empty").exists()


def test_fetch_finds_what_is_there(lessonkit: Command):
    said = lessonkit("fetch", "reuters-r8", "--json")
    assert said.code == 0
    assert list(json.loads(said.out)) == ["reuters-r8"]
    assert "All there: reuters-r8" in lessonkit("fetch", "reuters-r8").out


def test_tick_untick_and_progress(lessonkit: Command):
    assert f"[ ] {item_text()} ({ITEM})" in lessonkit("progress").out
    assert "Ticked" in lessonkit("tick", ITEM).out
    assert "already ticked" in lessonkit("tick", ITEM).out
    assert f"[x] {item_text()} ({ITEM})" in lessonkit("progress").out
    assert "Unticked" in lessonkit("untick", ITEM).out
    assert "is not ticked" in lessonkit("untick", ITEM).out
    assert f"[ ] {item_text()} ({ITEM})" in lessonkit("progress").out


def test_progress_as_json(lessonkit: Command):
    lessonkit("tick", ITEM)
    lessonkit("note", "the loss is noisy", "--about", "full-fine-tuning")
    told = json.loads(lessonkit("progress", "--json").out)
    assert [path["ticked"] for path in told["paths"]] == [1, 0, 0]
    assert [path["total"] for path in told["paths"]] == [6, 8, 12]
    assert told["notes"][0]["text"] == "the loss is noisy"
    assert told["grid"]["qlora"]["beginner"] == "N/A"


def item_text() -> str:
    return load_curriculum(check_files=False).item(ITEM).text


def test_a_guide_is_ticked_and_what_it_earns_with_it(lessonkit: Command):
    """Reading the guide was the last thing missing for the item."""
    evidence = load_curriculum(check_files=False).item(ITEM).evidence
    assert "introduction" in evidence.lessons
    for name in set(evidence.lessons) - {"introduction"}:
        Journal().append("run", lesson=name, scale="laptop", metrics={}, seconds=1.0, peak_bytes=1)
    for lesson, _, exercise in (name.partition(":") for name in evidence.exercises):
        Journal().append("exercise", lesson=lesson, exercise=exercise, outcome="passed", diagnosis="")
    said = lessonkit("tick", "introduction")
    assert said.code == 0
    assert f"Ticked {ITEM}: " in said.out
    assert f"[x] {item_text()}" in lessonkit("progress").out


def test_next_goes_on_once_a_step_is_done(lessonkit: Command):
    first = json.loads(lessonkit("next", "--json").out)
    assert {"kind", "id", "text", "command"} <= set(first)
    assert first["text"] in lessonkit("next").out
    lessonkit("tick", first["id"])
    assert json.loads(lessonkit("next", "--json").out)["id"] != first["id"]


def test_help_begins_with_what_comes_first(lessonkit: Command):
    shown = lessonkit("--help").out
    places = [shown.index(f" {name} ") for name in ("next", "progress", "lessons", "stuck", "data", "plan")]
    assert places == sorted(places)


def test_without_a_name_the_chosen_path_is_told(lessonkit: Command):
    assert "Your path: Quick Start" in lessonkit("path").out
    lessonkit("path", "deep-dive")
    said = lessonkit("path").out
    assert "Your path: Deep Dive" in said
    assert "production-ready" in said


def test_a_path_is_chosen(lessonkit: Command):
    assert "Your path: Deep Dive" in lessonkit("path", "deep-dive").out
    assert json.loads(lessonkit("progress", "--json").out)["path"] == "deep-dive"


def test_merging_twice_adds_nothing_twice(lessonkit: Command, tmp_path: Path):
    other = Journal(tmp_path / "other.jsonl")
    other.append("note", text="from the other machine", about="")
    assert "1 event added; 0 already here" in lessonkit("merge", str(other.path)).out
    assert "0 events added; 1 already here" in lessonkit("merge", str(other.path)).out


def test_without_arguments_it_shows_its_help(lessonkit: Command):
    said = lessonkit()
    for name in ("doctor", "lessons", "run", "fetch", "progress", "next", "tick", "untick", "note", "merge"):
        assert name in said.out + said.err


# ---- Running a lesson -------------------------------------------------------------------------------


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small notebook in place of every lesson's."""
    path = tmp_path / "toy.ipynb"
    cells = [new_markdown_cell("# A toy"), *map(new_code_cell, TOY)]
    nbformat.write(new_notebook(cells=cells), path)
    lesson = load_curriculum(check_files=False).lesson("start-here")
    monkeypatch.setattr(execution, "notebook_of", lambda name: (lesson, path))
    there = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(there))
    return path


def test_run_as_json_has_stdout_for_itself(lessonkit: Command, toy: Path, tmp_path: Path):
    said = lessonkit(
        "run", "start-here", "--scale", "smoke", "--json", "--output", str(tmp_path / "ran.ipynb")
    )
    assert said.code == 0
    result = json.loads(said.out)
    assert list(result) == ["lesson", "scale", "metrics", "seconds", "peak_bytes"]
    assert result["lesson"] == "start-here"
    assert result["scale"] == "smoke"
    assert result["metrics"] == {"accuracy": 0.5}
    assert result["seconds"] >= 0
    assert isinstance(result["peak_bytes"], int)
    assert "[1/5] A toy" in said.err
    assert "noise on stdout" in said.err
    assert nbformat.read(tmp_path / "ran.ipynb", as_version=4).cells[3].outputs[0].text == "noise on stdout\n"


def test_run_prints_its_metrics(lessonkit: Command, monkeypatch: pytest.MonkeyPatch):
    result = {
        "lesson": "toy",
        "scale": "laptop",
        "metrics": {"accuracy": 0.94753, "texts": 2189.0, "none": 0.0},
    }
    result |= {"seconds": 93.21, "peak_bytes": 3 * 2**29}
    monkeypatch.setattr(execution, "run_lesson", lambda *_, **__: result)
    rows = [line.split() for line in lessonkit("run", "toy").out.splitlines()]
    assert ["accuracy", "0.9475"] in rows
    assert ["texts", "2,189"] in rows
    assert ["none", "0"] in rows
    assert ["peak", "memory", "1.5", "GiB"] in rows


# ---- What is mistyped -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (("run", "beginner/full-finetuning"), "beginner/full-fine-tuning"),
        (("run", "start-here", "--scale", "laptob"), "laptop"),
        (("fetch", "reuters-r9"), "reuters-r8"),
        (("fetch", "--list", "minilmm"), "minilm"),
        (("fetch", "minilm", "--source", "hubb"), "hub"),
        (("tick", "understand-fine-tunning"), ITEM),
        (("untick", "understand-fine-tunning"), ITEM),
        (("path", "quick-strat"), "quick-start"),
        (("note", "text", "--about", "full-finetuning"), "full-fine-tuning"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest(lessonkit: Command, arguments: tuple, nearest: str):
    refused(lessonkit(*arguments), "There is no ", "Did you mean ", repr(nearest))
    assert not Journal().path.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "introduction"), "a text to read"),
        (("note", "  "), "The note is empty"),
        (("merge", "no-such-file.jsonl"), "no-such-file.jsonl"),
        (("fetch", "reuters-r8", "--source", "hub"), "no repository on the Hugging Face Hub"),
    ],
)
def test_what_cannot_be_done_is_told(
    lessonkit: Command, arguments: tuple, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    if arguments[0] == "fetch":
        monkeypatch.setenv("LESSONKIT_CACHE", str(tmp_path / "empty"))
    refused(lessonkit(*arguments), told)


def test_a_lesson_that_is_not_written_is_told_and_not_run(
    lessonkit: Command, monkeypatch: pytest.MonkeyPatch
):
    """Whichever lessons are written today: a name in a list here would one day run that lesson in full."""
    course = load_curriculum(check_files=False)
    planned = replace(course, lessons=tuple(replace(each, written=False) for each in course.lessons))
    monkeypatch.setattr(execution, "load_curriculum", lambda **_: planned)
    refused(lessonkit("run", "beginner/lora"), "not written yet")


def test_a_wrong_scale_in_the_environment_is_told(lessonkit: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LESSONKIT_SCALE", "laptob")
    said = lessonkit("doctor")
    assert said.code == 1
    assert "There is no scale called 'laptob'. Did you mean 'laptop'?" in said.out
    told = lessonkit("doctor", "--json")
    assert told.code == 1
    assert json.loads(told.out)["problems"][0]["broken"]


# ---- What is damaged --------------------------------------------------------------------------------


def test_a_damaged_journal_line_is_told_and_costs_no_other_line(lessonkit: Command):
    lessonkit("note", "before")
    path = Journal().path
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": "cut off in the mid\n')
    lessonkit("tick", ITEM)
    before = path.read_bytes()

    said = lessonkit("progress")
    assert said.code == 0
    assert f"[x] {item_text()}" in said.out
    assert "Note: line 2" in said.err
    told = lessonkit("progress", "--json")
    assert json.loads(told.out)["notes"][0]["text"] == "before"
    assert "line 2" in lessonkit("doctor").out
    assert path.read_bytes() == before


def test_a_journal_that_cannot_be_written_is_told(
    lessonkit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LESSONKIT_PROGRESS", str(tmp_path / "file/progress"))
    refused(lessonkit("note", "lost?"), "LESSONKIT_PROGRESS")


@pytest.mark.parametrize("command", [("lessons",), ("next",), ("tick", ITEM), ("run", "start-here")])
def test_an_edited_curriculum_is_told_all_at_once(
    lessonkit: Command, command: tuple, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    text = curriculum.DEFAULT_PATH.read_text(encoding="utf-8")
    edited = text.replace("prerequisites: [start-here, introduction]", "prerequisites: [start-hear]", 1)
    edited = edited.replace("    minutes: 20\n", "    minutes: fifteen\n", 1)
    edited = edited.replace("  - id: introduction\n", "  - id: start-here\n", 1)
    assert edited != text
    path = tmp_path / "curriculum.yaml"
    path.write_text(edited, encoding="utf-8")
    monkeypatch.setattr(curriculum, "DEFAULT_PATH", path)
    refused(lessonkit(*command), "start-hear", "fifteen", "git checkout lessonkit/curriculum.yaml")
    assert not Journal().path.exists()


def test_a_curriculum_that_is_no_yaml_is_told(
    lessonkit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    path = tmp_path / "curriculum.yaml"
    path.write_text("lessons: [", encoding="utf-8")
    monkeypatch.setattr(curriculum, "DEFAULT_PATH", path)
    refused(lessonkit("lessons"), "curriculum.yaml")


def test_a_cache_that_cannot_be_written_is_told(
    lessonkit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LESSONKIT_CACHE", str(tmp_path / "file/cache"))
    refused(lessonkit("fetch", "minilm"), "cannot be written", "LESSONKIT_CACHE")


# ---- As a program -----------------------------------------------------------------------------------


def as_program(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """``python -m lessonkit``, offline and with an empty cache."""
    there = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "PYTHONPATH": there, "LESSONKIT_CACHE": str(tmp_path / "cache"), **variables}
    environ |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    environ.pop("PIP_FIND_LINKS", None)
    command = [sys.executable, "-m", "lessonkit", *arguments]
    return subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )


def test_no_network_on_the_first_fetch_is_told_and_leaves_nothing(tmp_path: Path):
    done = as_program(tmp_path, "fetch", "minilm")
    refused(Said(done.returncode, done.stdout, done.stderr), "could not be downloaded", "no connection")
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name != ".lock"] == []


def test_help_is_quick_and_bad_options_exit_with_2(tmp_path: Path):
    code = (
        "import sys; from lessonkit import cli; sys.argv = ['lessonkit', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    there = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "PYTHONPATH": there}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout.splitlines()[-1] == "[]"
    bad = as_program(tmp_path, "tick")
    assert bad.returncode == 2
    assert "Traceback" not in bad.stderr
