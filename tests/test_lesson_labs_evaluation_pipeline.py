"""What the lesson builds by hand is what the library gives; its exercises count as the gate does."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lesson_source import lesson_text, statement
from scipy.stats import binomtest
from typer.main import get_command

import lessonkit
from lessonkit.cli import app
from lessonkit.exercises import labs_evaluation_pipeline as facts
from lessonkit.scoring import Evaluation, Prediction, gate, metrics, read_config

LESSON = "labs/evaluation-pipeline"


def own(*names: str, **given) -> dict:
    """The lesson's own functions, as a learner has them, with the names that they use."""
    found = {"np": np, "json": json, "binomtest": binomtest, **given}
    for each in names:
        exec(statement(LESSON, each), found)
    return found


def scored(right: np.ndarray, folder: Path = Path("nowhere")) -> Evaluation:
    said = [
        Prediction(n, f"text {n}", "ab"[n % 2], "ab"[n % 2] if each else "ba"[n % 2], 0.8, 0.8, 0.2, 5)
        for n, each in enumerate(right)
    ]
    return Evaluation(folder, metrics(said, ["a", "b"]) | {"data_sha256": "same"}, said)


# ---- By hand and by the library --------------------------------------------------------------------------


def test_rights_are_read_from_the_file(tmp_path: Path):
    made = scored(np.array([1, 0, 1]), tmp_path)
    lines = "".join(json.dumps(each.to_dict()) + "\n" for each in made.predictions)
    (tmp_path / "predictions.jsonl").write_text(lines)
    assert own("rights")["rights"](made).tolist() == [True, False, True]


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_by_hand_is_the_tools(seed: int):
    right = np.random.default_rng(seed).random(150) < 0.8
    by_hand = np.quantile(own("resampled")["resampled"](right), [0.025, 0.975])
    assert by_hand.tolist() == scored(right).metrics["accuracy_interval"]


@pytest.mark.parametrize("n", [6, 40, 300])
@pytest.mark.parametrize("lead", [-0.25, 0, 0.05, 0.3])
def test_the_gate_by_hand_says_what_the_tool_says(n: int, lead: float):
    draws = np.random.default_rng(n)
    one, other = draws.random(n) < 0.6 + lead, draws.random(n) < 0.6
    verdict, low, high = own("resampled", "gate_by_hand")["gate_by_hand"](one, other)
    tool = gate(scored(one), scored(other))
    assert (verdict, (low, high)) == (tool.verdict, tool.comparison.interval)


def test_overlapping_intervals_hide_a_sure_difference():
    pairs = [(1, 1)] * facts.BOTH + [(1, 0)] * facts.ONLY_FIRST
    pairs += [(0, 1)] * facts.ONLY_SECOND + [(0, 0)] * facts.NEITHER
    assert len(pairs) == 1000
    one, other = np.array(pairs).T
    assert lessonkit.bootstrap_interval(one)[1] > lessonkit.bootstrap_interval(other)[0]
    assert gate(scored(other), scored(one)).verdict == "better"
    told = f"One has {one.sum()} right, the other {other.sum()}. On {facts.BOTH} texts both"
    assert told in lesson_text(LESSON).replace("\n# ", " ")
    counts = (facts.BOTH, facts.ONLY_FIRST, facts.ONLY_SECOND, facts.NEITHER)
    assert re.findall(r"\(\d, \d\)\] \* (\d+)", statement(LESSON, "right_in")) == [
        str(each) for each in counts
    ]


def test_five_of_five_is_no_proof_and_six_of_six_is():
    by_hand = own("resampled", "gate_by_hand")["gate_by_hand"]
    verdicts = [by_hand(np.ones(n), np.zeros(n))[0] for n in (5, 6)]
    assert verdicts == ["can't tell", "better"]


# ---- What the lesson tells the tools ---------------------------------------------------------------------


def test_its_configuration_is_understood(tmp_path: Path):
    names = {"lesson": SimpleNamespace(folder=tmp_path), "MAX_LENGTH": 48}
    written = re.search(r"config\.write_text\(.*?\"\"\"\)", lesson_text(LESSON), re.DOTALL).group()
    exec(f"{statement(LESSON, 'config')}\n{written}", names)
    (tmp_path / "champion").mkdir()
    found = read_config(tmp_path / "evaluation.toml")
    assert (found.model, found.slices, found.max_length) == (str(tmp_path / "champion"), ("form",), 48)


def test_its_commands_and_options_exist():
    commands = get_command(app).commands
    lines = re.findall(r'terminal\(\s*"(lessonkit [^"]+)"', lesson_text(LESSON))
    assert len(lines) == 3
    for line in lines:
        _, name, *rest = shlex.split(line)
        known = {option for each in commands[name].params for option in each.opts}
        assert {each for each in rest if each.startswith("--")} <= known


def test_the_form_is_seen_by_whole_words():
    form = own("form")["form"]
    assert form("shr one dlr vs two") == "table"
    assert form("versus the shrinking market") == "prose"


# ---- Exercises -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_exercises_two_numbers_are_the_gates(seed: int):
    draws = np.random.default_rng(seed)
    one, other = draws.random(80) < 0.7, draws.random(80) < 0.6
    files = [[each.to_dict() for each in scored(right).predictions] for right in (one, other)]
    random.Random(seed).shuffle(files[1])
    comparison = gate(scored(one), scored(other)).comparison
    wanted = (comparison.only_first, comparison.only_second)
    assert facts._paired_reference(*files) == wanted
    names: dict = {}
    exec(facts._paired().source, names)
    assert names["paired"](*files) == wanted


def test_twenty_tries_as_they_are_drawn():
    draw = random.Random(0)
    passed = [any(draw.random() < facts.LUCK for _ in range(facts.TRIES)) for _ in range(20_000)]
    assert facts._twenty().reference == pytest.approx(sum(passed) / len(passed), abs=0.015)


def slice_exercise():
    exercise = facts._slice()
    exercise.scale = "laptop"
    return exercise


def test_a_slice_is_taken_from_real_predictions():
    draws = np.random.default_rng(0)
    labels = draws.choice(list("abcd"), 400)
    doubts = draws.random(400)
    found = [
        Prediction(n, "", label, label if doubt > 0.12 else "z", doubt, doubt, 0.1, 5)
        for n, (label, doubt) in enumerate(zip(labels, doubts, strict=True))
    ]
    answer = {"inside": [each.confidence < 0.2 for each in found], "predictions": found}
    assert slice_exercise().judge(answer).passed
    source: dict = {"champion_scores": SimpleNamespace(predictions=found)}
    exec(facts._slice().source, source)
    assert slice_exercise().judge(source["answer"]).passed
    assert "True or False" in slice_exercise().judge(answer | {"inside": ["yes"] * 400}).message
    assert "3 entries" in slice_exercise().judge(answer | {"inside": [True] * 3}).message
    assert "no text" in slice_exercise().judge(answer | {"inside": [False] * 400}).message
