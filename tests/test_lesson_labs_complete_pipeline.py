"""What the lab says of its script is so; its helpers change what they say. The script's own tests: test_samples.py."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from itertools import combinations
from pathlib import Path

import pytest
from lesson_source import lesson_text, statement

import lessonkit
from lessonkit.exercises import labs_complete_pipeline as facts
from lessonkit.samples import pipeline

LESSON = "labs/complete-pipeline"


def own(*names: str, **given) -> dict:
    """The lesson's own functions, as a learner has them, with the names that they use."""
    found = {"json": json, "re": re, "Path": Path, "lessonkit": lessonkit, **given}
    for each in names:
        exec(statement(LESSON, each), found)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("pipeline.py", "pipeline.toml"):
        (tmp_path / name).write_text(
            lessonkit.sample_file(name).read_text(encoding="utf-8"), encoding="utf-8"
        )
    return tmp_path


def test_the_exercises_have_the_scripts_steps():
    assert {name: list(step.uses) for name, step in pipeline.STEPS.items()} == facts.USES
    assert len(facts.USES) == 6


def test_one_value_changes_and_all_else_stays(folder: Path):
    change = own("change", folder=folder)["change"]
    before = tomllib.loads((folder / "pipeline.toml").read_text())
    change("train", "steps", 7)
    change("search", "learning_rate", [1e-4, 0.002])
    change("model", "name", "google-bert/bert-base-uncased")
    change("release", "allow_equal", True)
    after = tomllib.loads((folder / "pipeline.toml").read_text())
    assert after["train"].pop("steps") == 7
    assert after["search"].pop("learning_rate") == [1e-4, 0.002]
    assert after["model"].pop("name") == "google-bert/bert-base-uncased"
    assert after["release"].pop("allow_equal") is True
    for section, name in (
        ("train", "steps"),
        ("search", "learning_rate"),
        ("model", "name"),
        ("release", "allow_equal"),
    ):
        before[section].pop(name)
    assert after == before
    assert pipeline.read_settings(folder / "pipeline.toml")


def test_it_changes_only_what_there_is():
    config = pipeline.read_settings(lessonkit.sample_file("pipeline.toml"))
    told = re.findall(r'^(?:# )?change\("(\w+)", "(\w+)"', lesson_text(LESSON), re.MULTILINE)
    assert len(told) >= 8
    for section, name in told:
        assert name in config[section]


def test_what_it_shows_is_whole(folder: Path, capsys):
    show = own("show", folder=folder)["show"]
    for begins in re.findall(r'^show\("([^"]+)"\)', lesson_text(LESSON), re.MULTILINE):
        show(begins)
        shown = capsys.readouterr().out
        compile(shown, begins, "exec")
        assert 5 < len(shown.splitlines()) < 30


def test_its_commands_are_the_scripts():
    lines = re.findall(r'terminal\(\s*"(python pipeline.py[^"]*)"', lesson_text(LESSON))
    assert len(lines) >= 10
    for line in lines:
        known = {"--config", "--until", "--run"}
        assert {each for each in shlex.split(line) if each.startswith("--")} <= known
    assert re.findall(r"--until (\w+)", " ".join(lines))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_rule_of_exercise_two_is_the_scripts(size: int):
    """Against the plain definition: a step runs again if a path leads to it from one that changed."""

    def reaches(step: str, changed: tuple) -> bool:
        return step in changed or any(reaches(used, changed) for used in facts.USES[step])

    for changed in combinations(facts.USES, size):
        wanted = [step for step in facts.USES if reaches(step, changed)]
        assert facts._rerun_reference(facts.USES, changed) == wanted


def change_exercise():
    exercise = facts._change()
    exercise.scale = "laptop"
    return exercise


def test_the_change_is_judged_by_what_really_ran():
    folders = {step: {"status": "kept", "folder": f"{step}-1"} for step in facts.USES}
    config = tomllib.loads(lessonkit.sample_file("pipeline.toml").read_text(encoding="utf-8"))
    shorter = config | {"model": config["model"] | {"max_length": 16}}
    again = ["search", "train", "evaluate", "baseline", "release"]
    assert again == facts._rerun_reference(facts.USES, ["search", "evaluate", "baseline"])
    after = {"config": shorter, "steps": folders | {step: {"folder": f"{step}-2"} for step in again}}
    answer = {"before": {"config": config, "steps": folders}, "after": after, "predicted": again}
    assert change_exercise().judge(answer).passed
    assert change_exercise().judge(answer | {"predicted": set(again)}).passed
    assert change_exercise().judge(answer | {"predicted": again[:1]}).diagnosis == "readers-only"
    early = {"config": shorter, "steps": {"data": {"folder": "data-1"}}}
    assert "ended early" in change_exercise().judge(answer | {"after": early}).message
    assert "list of steps" in change_exercise().judge(answer | {"predicted": ["training"]}).message
