"""Building notebooks: the same source gives the same bytes, and nothing unfit gets as far as `notebooks/`."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lessonkit.curriculum import Lesson, load_curriculum
from lessonkit.errors import LessonError

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# %% [markdown] tags=["title"]
# # A toy

# %% tags=["setup"]
import lessonkit
"""
TOY = (
    HEAD
    + """
lesson = lessonkit.start("start-here")

# %% [markdown]
# ## 1. Facts

# %% tags=["nbval-check-output"]
print(6 * 7)

# %%
import pathlib

print(lesson.folder / "model", pathlib.Path.home() / "somewhere", pathlib.Path.cwd())

# %%
lesson.record(accuracy=0.5)
"""
)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """tools/build_notebooks.py, at work in a project of its own with one toy lesson."""
    spec = importlib.util.spec_from_file_location("build_under_test", ROOT / "tools/build_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    project = tmp_path / "project"
    (project / "lessons").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", project)
    there = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(there))  # for kernels, where lessonkit isn't installed
    monkeypatch.setattr(module, "ROOT", project)
    monkeypatch.setattr(module, "lessons_to_build", lambda: iter([toy()]))
    module.set_repository("")
    return module


def toy() -> Lesson:
    """The toy lesson: a real one's entry with other files."""
    real = load_curriculum(check_files=False).lesson("start-here")
    return dataclasses.replace(real, source="lessons/toy.py", notebook="notebooks/toy.ipynb")


def write_source(tool: ModuleType, text: str = TOY) -> Path:
    path = tool.ROOT / toy().source
    path.write_text(text, encoding="utf-8")
    return path


def converted(tool: ModuleType, text: str = TOY, repo: str = "") -> nbformat.NotebookNode:
    return tool.convert(write_source(tool, text), "start-here", toy().notebook, repo)


def ids(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.id for cell in notebook.cells]


def finished(*outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook fit to be committed, except for what the outputs of its one cell may be."""
    cell = new_code_cell("work()", execution_count=1, outputs=list(outputs))
    stamp = {"version": "1", "hardware": "a machine", "seconds": 30, "scale": "laptop"}
    return new_notebook(cells=[cell], metadata={"lessonkit": stamp})


# ---- Conversion -------------------------------------------------------------------------------------


def test_one_source_gives_the_same_ids_each_time(tool: ModuleType):
    assert ids(converted(tool)) == ids(converted(tool))


def test_ids_are_unique_even_for_equal_cells(tool: ModuleType):
    found = ids(converted(tool, TOY + "\n# %%\nprint(6 * 7)\n\n# %%\nprint(6 * 7)\n"))
    assert len(set(found)) == len(found)


def test_editing_one_cell_leaves_the_others_ids(tool: ModuleType):
    before, after = ids(converted(tool)), ids(converted(tool, TOY.replace("6 * 7", "6 * 8")))
    changed = [number for number, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    assert changed == [3]


def test_a_new_cell_leaves_the_others_ids(tool: ModuleType):
    more = TOY.replace("# %% [markdown]\n# ## 1. Facts", "# %%\nnew = 1\n\n# %% [markdown]\n# ## 1. Facts")
    assert set(ids(converted(tool))) < set(ids(converted(tool, more)))


def test_no_cell_has_an_output_or_a_count_before_it_is_run(tool: ModuleType):
    code = [cell for cell in converted(tool).cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None and cell.outputs == [] for cell in code)


def test_the_setup_cell_is_expanded_and_keeps_the_lessons_own_lines(tool: ModuleType):
    source = converted(tool).cells[1].source
    assert source.startswith("# Makes `lessonkit` importable")
    assert source.endswith('import lessonkit\n\nlesson = lessonkit.start("start-here")')
    assert source.count("import lessonkit\n") == 1
    assert "{source}" not in source
    assert "{version}" not in source
    compile(source, "setup", "exec")


def test_tags_are_kept(tool: ModuleType):
    tags = [cell.metadata.get("tags", []) for cell in converted(tool).cells]
    assert tags == [["title"], ["setup"], [], ["nbval-check-output"], [], []]


@pytest.mark.parametrize("tag", ["title", "setup"])
def test_a_source_without_its_two_marks_is_told(tool: ModuleType, tag: str):
    with pytest.raises(LessonError, match="one cell tagged title and one tagged setup"):
        converted(tool, TOY.replace(f' tags=["{tag}"]', ""))


def test_the_hash_does_not_depend_on_line_ends(tool: ModuleType):
    path = write_source(tool)
    before = tool.source_hash(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert tool.source_hash(path) == before


# ---- Cleaning ---------------------------------------------------------------------------------------


def test_widget_state_is_dropped_and_its_fallback_stays(tool: ModuleType):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "abc"}, "text/plain": "IntSlider()"}
    figure = {"image/png": "iVBO", "text/plain": "<Figure>"}
    notebook = finished(new_output("display_data", view), new_output("display_data", figure))
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    tool.clean(notebook, {})
    assert "widgets" not in notebook.metadata
    assert [output.data for output in notebook.cells[0].outputs] == [figure]


def test_timing_and_colours_are_dropped(tool: ModuleType):
    notebook = finished(new_output("stream", text="\x1b[31mred\x1b[0m"))
    notebook.cells[0].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    tool.clean(notebook, {})
    assert notebook.cells[0].outputs[0].text == "red"
    assert "execution" not in notebook.cells[0].metadata


def test_machine_paths_are_replaced_in_every_kind_of_text(tool: ModuleType):
    data = {"text/plain": "at /here/a", "text/html": "<b>/here/a</b>", "image/png": "/here/"}
    notebook = finished(new_output("stream", text="/here/a"), new_output("display_data", data))
    tool.clean(notebook, {"/here/": ""})
    stream, shown = notebook.cells[0].outputs
    assert stream.text == "a"
    assert shown.data == {"text/plain": "at a", "text/html": "<b>a</b>", "image/png": "/here/"}


# ---- What may not be committed ----------------------------------------------------------------------


def test_a_finished_notebook_has_no_problems(tool: ModuleType):
    assert tool.problems(finished(new_output("stream", text="42"))) == []


def test_a_changed_source_is_told(tool: ModuleType):
    notebook = converted(tool)
    assert not [line for line in tool.problems(notebook, write_source(tool)) if "stale" in line]
    assert "it is stale" in tool.problems(notebook, write_source(tool, TOY + "\n# %%\nnew = 1\n"))[0]


def test_a_missing_stamp_is_told(tool: ModuleType):
    notebook = finished()
    del notebook.metadata["lessonkit"]["hardware"]
    assert tool.problems(notebook) == ["the stamp lacks hardware"]


@pytest.mark.parametrize("counts", [(1, 3), (2, 1), (1, None)])
def test_a_gap_in_the_execution_counts_is_told(tool: ModuleType, counts: tuple):
    notebook = finished()
    notebook.cells = [new_code_cell("work()", execution_count=count) for count in counts]
    assert "execution counts" in tool.problems(notebook)[0]


def test_an_empty_cell_and_text_need_no_count(tool: ModuleType):
    notebook = finished()
    notebook.cells += [new_code_cell("  "), new_markdown_cell("text")]
    assert tool.problems(notebook) == []


def test_an_error_output_is_told_with_its_cell(tool: ModuleType):
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    assert tool.problems(finished(error)) == ["an error output: ValueError in the cell 'work()'"]


def test_a_warning_is_told_with_its_cell(tool: ModuleType):
    warning = new_output("stream", name="stderr", text="FutureWarning: soon\n")
    assert tool.problems(finished(warning)) == ["a warning in the cell 'work()': FutureWarning: soon"]


def test_a_notebook_over_the_limit_is_told(tool: ModuleType):
    found = tool.problems(finished(new_output("stream", text="x" * 1_000_001)))
    assert len(found) == 1
    assert "1,000,000 are the limit" in found[0]


def test_a_notebook_that_is_missing_or_broken_is_stale(tool: ModuleType):
    write_source(tool)
    assert tool.stale(toy()) == ["it is not built yet"]
    path = tool.ROOT / toy().notebook
    path.parent.mkdir()
    path.write_text("<<<<<<< ours\n{}", encoding="utf-8")
    assert "cannot be read" in tool.stale(toy())[0]


# ---- Whole builds -----------------------------------------------------------------------------------


def test_two_builds_are_the_same_bytes_and_fit_to_be_committed(
    tool: ModuleType, capsys: pytest.CaptureFixture, tmp_path: Path
):
    write_source(tool)
    surroundings = dict(os.environ)
    target = tool.ROOT / toy().notebook
    tool.build(toy(), "laptop", target)
    first = target.read_bytes()
    tool.build(toy(), "laptop", target)
    assert target.read_bytes() == first
    assert dict(os.environ) == surroundings

    assert tool.stale(toy()) == []
    notebook = nbformat.reads(first.decode(), as_version=4)
    stamp = notebook.metadata["lessonkit"]
    assert (stamp["lesson"], stamp["scale"]) == ("start-here", "laptop")
    assert stamp["seconds"] % 30 == 0
    printed = [cell.outputs[0].text for cell in notebook.cells if cell.get("outputs")]
    assert "Progress: progress/journal.jsonl" in printed[0]
    assert "asks for it" not in printed[0]
    assert printed[1] == "42\n"
    assert printed[2] == "outputs/start-here/model ~/somewhere notebooks\n"
    assert str(tmp_path) not in first.decode()
    assert "1. Facts" in capsys.readouterr().out


def test_nothing_of_a_build_reaches_the_builders_own_journal(tool: ModuleType, tmp_path: Path):
    write_source(tool, HEAD + '\n# %%\nlessonkit.Journal().append("note", text="from a build")\n')
    tool.build(toy(), "laptop", tool.ROOT / toy().notebook)
    assert not (tmp_path / "progress").exists()


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("raise ValueError('on purpose')", "ValueError: on purpose"),
        ("import sys; print('a warning', file=sys.stderr)", "a warning in the cell"),
    ],
)
def test_a_build_that_fails_leaves_the_old_notebook(tool: ModuleType, cell: str, told: str):
    write_source(tool, f"{HEAD}\n# %%\n{cell}\n")
    target = tool.ROOT / toy().notebook
    target.parent.mkdir()
    target.write_text("the old one", encoding="utf-8")
    with pytest.raises(LessonError, match=told):
        tool.build(toy(), "laptop", target)
    assert target.read_text(encoding="utf-8") == "the old one"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_check_names_what_is_stale_and_builds_nothing(tool: ModuleType, capsys: pytest.CaptureFixture):
    write_source(tool)
    assert tool.main(["--check"]) == 1
    assert "start-here: it is not built yet" in capsys.readouterr().out
    assert not (tool.ROOT / "notebooks").exists()


# ---- The repository setting -------------------------------------------------------------------------


def test_the_repository_is_written_everywhere_and_removed_without_a_trace(tool: ModuleType):
    notebook = converted(tool)
    path = tool.ROOT / toy().notebook
    path.parent.mkdir()
    tool.write(notebook, path)
    before = {file: file.read_bytes() for file in (path, tool.ROOT / "pyproject.toml")}

    assert tool.main(["--repository", "owner/name"]) == 0
    assert tool.repository() == "owner/name"
    title, setup = nbformat.read(path, as_version=4).cells[:2]
    link = "https://colab.research.google.com/github/owner/name/blob/main/notebooks/toy.ipynb"
    assert title.source.startswith("# A toy\n\n[![Open in Colab](")
    assert title.source.endswith(f"({link})")
    assert 'else "git+https://github.com/owner/name"' in setup.source
    assert ids(nbformat.read(path, as_version=4)) == ids(converted(tool, repo="owner/name"))

    assert tool.main(["--repository", "other/place"]) == 0
    title, setup = nbformat.read(path, as_version=4).cells[:2]
    assert title.source.count("Open in Colab") == 1
    assert "owner/name" not in title.source + setup.source

    assert tool.main(["--repository", ""]) == 0
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize("name", ["owner", "owner/name/more", "https://github.com/owner/name", 'a"b/c', "a/"])
def test_what_is_no_repository_is_refused(tool: ModuleType, name: str):
    before = (tool.ROOT / "pyproject.toml").read_bytes()
    with pytest.raises(LessonError, match="not a repository's name"):
        tool.main(["--repository", name])
    assert (tool.ROOT / "pyproject.toml").read_bytes() == before


# ---- Texts and links, without executing -------------------------------------------------------------


@pytest.fixture
def later(tool: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """Call it with whether the lesson ``notebooks/labs/later.ipynb`` is written."""

    def say(written: bool) -> None:
        lesson = dataclasses.replace(toy(), notebook="notebooks/labs/later.ipynb", written=written)
        curriculum = SimpleNamespace(lessons=[lesson])
        monkeypatch.setattr(tool, "load_curriculum", lambda **_: curriculum)

    return say


def test_a_link_to_a_lesson_that_is_not_written_is_plain_words(tool: ModuleType, later):
    link = "[later on](labs/later.ipynb)"
    text = TOY.replace(
        "# ## 1. Facts", f"# ## 1. Facts\n#\n# Next: {link}, or [the guide](../lessons/guide.md)."
    )
    later(written=False)
    write_source(tool, text)
    path = tool.ROOT / toy().notebook
    path.parent.mkdir()
    built = tool.convert(tool.ROOT / toy().source, "toy", toy().notebook, "")
    tool.write(built, path)
    facts = next(cell.source for cell in built.cells if "1. Facts" in cell.source)
    assert facts.endswith("Next: later on (not written yet), or [the guide](../lessons/guide.md).")
    later(written=True)  # and as soon as it is, the link comes back, with nothing executed
    assert tool.main(["--dress"]) == 0
    assert any(link in cell.source for cell in nbformat.read(path, as_version=4).cells)


def test_dressing_renews_texts_and_keeps_outputs(tool: ModuleType):
    notebook = converted(tool)
    code = next(cell for cell in notebook.cells if "6 * 7" in cell.source)
    code.outputs, code.execution_count = [nbformat.v4.new_output("stream", text="42\n")], 2
    path = tool.ROOT / toy().notebook
    path.parent.mkdir()
    tool.write(notebook, path)
    source = write_source(tool, TOY.replace("## 1. Facts", "## 1. Plain facts"))
    assert tool.main(["--dress"]) == 0
    dressed = nbformat.read(path, as_version=4)
    assert any("Plain facts" in cell.source for cell in dressed.cells)
    assert [cell.outputs for cell in dressed.cells if "6 * 7" in cell.source] == [code.outputs]
    assert dressed.metadata.lessonkit.source_sha256 == tool.source_hash(source)


def test_changed_code_is_not_dressed_but_must_be_run(tool: ModuleType, capsys: pytest.CaptureFixture[str]):
    path = tool.ROOT / toy().notebook
    path.parent.mkdir()
    tool.write(converted(tool), path)
    before = path.read_bytes()
    write_source(tool, TOY.replace("6 * 7", "6 * 8"))
    assert tool.main(["--dress"]) == 1
    assert "build them: start-here" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_sizes_of_another_scale_may_change_without_a_run(tool: ModuleType):
    """A notebook built at laptop scale shows the same, whatever smoke runs take; not so for its own sizes."""
    code = "lesson.pick(smoke={}, laptop={}, gpu=900)"
    notebook = converted(tool, TOY.replace("6 * 7", code.format(16, 300)))
    notebook.metadata.lessonkit.scale = "laptop"
    path = tool.ROOT / toy().notebook
    path.parent.mkdir()
    tool.write(notebook, path)
    write_source(tool, TOY.replace("6 * 7", code.format(4, 300)))
    assert tool.main(["--dress"]) == 0
    assert "smoke=4, laptop=300" in path.read_text("utf-8")
    for changed in (code.format(4, 301), code.format(4, 300) + " + 1", "6 * 8"):
        write_source(tool, TOY.replace("6 * 7", changed))
        assert tool.main(["--dress"]) == 1
