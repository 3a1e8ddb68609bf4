"""Measured numbers: each file says where it comes from, and no page says anything else."""

from __future__ import annotations

import datetime
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lessonkit

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "results").glob("*.json"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.fixture
def tool() -> ModuleType:
    """tools/render_results.py as a module."""
    spec = importlib.util.spec_from_file_location("render_under_test", ROOT / "tools/render_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The tool at work on a copy of the pages and the results."""
    shutil.copytree(ROOT / "results", tmp_path / "copy/results")
    shutil.copy(ROOT / "README.md", tmp_path / "copy")
    for page in (ROOT / "lessons").rglob("*.md"):
        target = tmp_path / "copy" / page.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, target)
    monkeypatch.setattr(tool, "ROOT", tmp_path / "copy")
    return tmp_path / "copy"


def render(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["render_results.py", *arguments])
    return tool.main()


def measured(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


# ---- Pages ------------------------------------------------------------------------------------------


def test_the_committed_pages_agree_with_the_results(tool: ModuleType, monkeypatch: pytest.MonkeyPatch):
    assert render(tool, monkeypatch, "--check") == 0, "run: python tools/render_results.py"


def test_a_changed_number_is_found_and_rendering_mends_it(
    tool: ModuleType, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    path = copy / "results/full-fine-tuning.json"
    numbers = json.loads(path.read_text(encoding="utf-8"))
    numbers["rows"][-1]["accuracy"] = 0.123
    path.write_text(json.dumps(numbers), encoding="utf-8")
    page = (copy / "README.md").read_bytes()
    assert render(tool, monkeypatch, "--check") == 1
    assert "README.md" in capsys.readouterr().out
    assert (copy / "README.md").read_bytes() == page
    assert render(tool, monkeypatch) == 0
    assert "0.123" in (copy / "README.md").read_text(encoding="utf-8")
    assert render(tool, monkeypatch, "--check") == 0


def test_a_number_typed_into_a_page_is_found(tool: ModuleType, copy: Path, monkeypatch: pytest.MonkeyPatch):
    page = copy / "README.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(
        text.replace("<!-- /results -->", "typed by hand\n<!-- /results -->", 1), encoding="utf-8"
    )
    assert render(tool, monkeypatch, "--check") == 1


@each_file
def test_every_result_is_shown_on_some_page(path: Path, tool: ModuleType):
    shown = [
        name for page in tool.pages() for _, name, _ in tool.BLOCK.findall(page.read_text(encoding="utf-8"))
    ]
    assert path.stem in shown


@each_file
def test_every_table_names_its_date_hardware_and_versions(path: Path, tool: ModuleType):
    numbers = measured(path.stem)
    table = "\n".join(tool.TABLES[path.stem](numbers))
    assert numbers["date"] in table
    assert numbers["hardware"] in table
    assert f"torch {numbers['versions']['torch']}" in table
    assert all(row["name"] in table for row in numbers["rows"])


# ---- Files ------------------------------------------------------------------------------------------


def test_there_are_results():
    assert {path.stem for path in FILES} >= {"attention-on-cpu", "full-fine-tuning"}


@each_file
def test_every_result_says_when_and_on_what_it_was_measured(path: Path):
    numbers = measured(path.stem)
    assert datetime.date.fromisoformat(numbers["date"])
    assert re.search(r"\d+ cores|GiB", numbers["hardware"])
    assert {"python", "torch", "transformers"} <= set(numbers["versions"])
    assert numbers["rows"]
    assert all(row["name"] for row in numbers["rows"])


@each_file
def test_every_result_has_a_program_that_measures_it(path: Path):
    assert (ROOT / "benchmarks" / f"{path.stem.replace('-', '_')}.py").exists()


def test_full_fine_tuning_stands_beside_its_baselines_with_seeds_and_n():
    numbers = measured("full-fine-tuning")
    test = lessonkit.load_dataset("reuters-r8")["test"]
    baseline, simple, row = numbers["rows"]
    assert simple["name"].startswith("Counting words")
    assert len(set(numbers["seeds"])) >= 3
    assert numbers["test_texts"] == len(test)
    assert baseline["name"] == "Majority class"
    earn = test.features["label"].str2int("earn")
    assert baseline["accuracy"] == pytest.approx(test["label"].count(earn) / len(test), abs=1e-4)
    assert row["accuracy"] >= 0.93 > baseline["accuracy"]
    for name in ("accuracy", "macro_f1", "seconds", "peak_bytes"):
        assert row[f"{name}_spread"] >= 0
    assert row["seconds"] <= 180
