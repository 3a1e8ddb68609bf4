"""The committed notebooks are what their sources give today, whole, and readable anywhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import nbformat
import pytest
from nbformat import NotebookNode

from lessonkit.curriculum import Lesson, load_curriculum
from lessonkit.exercises import load_exercises

ROOT = Path(__file__).resolve().parents[1]
LESSONS = [each for each in load_curriculum(check_files=False).lessons if each.written and each.notebook]
LINK = re.compile(r"\]\(([^)\s]+)\)")
MACHINE_PATH = re.compile(r"(?<![\w./~])/(?:tmp|root|home|work|Users|private|var)/|[A-Za-z]:\\Users")
LONGEST_BUILD = 1800  # seconds, on one busy core of a CPU without bf16 instructions; with them, a third of it
REBUILD = "build it anew: python tools/build_notebooks.py"

pytestmark = pytest.mark.parametrize("lesson", LESSONS, ids=lambda each: each.id)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/build_notebooks.py as a module."""
    spec = importlib.util.spec_from_file_location("build_for_notebooks", ROOT / "tools/build_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(lesson: Lesson) -> NotebookNode:
    return nbformat.read(ROOT / lesson.notebook, as_version=4)


def texts(notebook: NotebookNode) -> list[str]:
    """Every text of the notebook: sources, and outputs other than pictures."""
    found = [cell.source for cell in notebook.cells]
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        found.append(output.get("text", ""))
        found += [str(value) for kind, value in output.get("data", {}).items() if kind != "image/png"]
    return found


def test_it_is_fresh_and_fit_to_be_committed(lesson: Lesson, tool: ModuleType):
    assert tool.stale(lesson) == [], REBUILD


def test_its_cells_are_what_the_source_gives_today(lesson: Lesson, tool: ModuleType):
    wanted = tool.convert(ROOT / lesson.source, lesson.id, lesson.notebook, tool.repository())
    for built, cell in zip(read(lesson).cells, wanted.cells, strict=True):
        # The setup cell also follows the template and the repository setting, which no source hash sees.
        assert (built.id, built.source) == (cell.id, cell.source), REBUILD
        assert built.metadata.get("tags", []) == cell.metadata.get("tags", [])


def test_its_ids_are_unique(lesson: Lesson):
    found = [cell.id for cell in read(lesson).cells]
    assert len(set(found)) == len(found)


def test_it_says_where_and_how_it_was_built(lesson: Lesson):
    stamp = read(lesson).metadata["lessonkit"]
    assert stamp["lesson"] == lesson.id
    assert stamp["scale"] == "laptop"
    assert stamp["hardware"]
    assert 0 < stamp["seconds"] <= LONGEST_BUILD


def test_it_shows_a_picture(lesson: Lesson):
    if lesson.id == "start-here":
        pytest.skip("nothing is trained there")
    outputs = [output for cell in read(lesson).cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_some_of_its_outputs_are_checked_each_time(lesson: Lesson):
    tags = [tag for cell in read(lesson).cells for tag in cell.metadata.get("tags", [])]
    assert "nbval-check-output" in tags


def test_its_links_lead_somewhere(lesson: Lesson):
    folder = (ROOT / lesson.notebook).parent
    links = [
        link
        for cell in read(lesson).cells
        if cell.cell_type == "markdown"
        for link in LINK.findall(cell.source)
    ]
    local = [link for link in links if not re.match(r"[a-z]+:|#", link)]
    assert local
    assert [link for link in local if not (folder / unquote(link.split("#")[0])).exists()] == []


def test_it_names_no_path_of_the_machine_that_built_it(lesson: Lesson):
    assert [text for text in texts(read(lesson)) if MACHINE_PATH.search(text)] == []


def test_it_shows_no_value_that_only_happened_to_stand_last_in_a_cell(lesson: Lesson):
    """Such as an axis that a plotting call gives back: its address differs with each run, and it tells nobody."""
    outputs = [output for cell in read(lesson).cells for output in cell.get("outputs", [])]
    bare = [each["data"]["text/plain"] for each in outputs if list(each.get("data", {})) == ["text/plain"]]
    assert [text for text in bare if "Not tried yet" not in text] == []


def test_each_of_its_exercises_is_asked_and_none_is_solved(lesson: Lesson):
    exercises = load_exercises(lesson.id)
    sources = "\n".join(cell.source for cell in read(lesson).cells if cell.cell_type == "code")
    assert sorted(re.findall(r'lesson\.exercise\("([\w-]+)"\)\.check', sources)) == sorted(exercises)
    outputs = [output for cell in read(lesson).cells for output in cell.get("outputs", [])]
    plain = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    assert sum("Not tried yet" in text for text in plain) == len(exercises)
