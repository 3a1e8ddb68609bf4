"""Notebooks run headless: metrics come back, failures say where, and no lesson asks for the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lessonkit import execution
from lessonkit.curriculum import load_curriculum
from lessonkit.errors import LessonError, UnknownNameError

ROOT = Path(__file__).resolve().parents[1]
KEYS = {"lesson", "scale", "metrics", "seconds", "peak_bytes"}
BLOCKED = "sockets are blocked by this test"
RECORDS = """
import json
result = {"lesson": "toy", "scale": os.environ["LESSONKIT_SCALE"], "metrics": {"accuracy": 0.5}}
result |= {"seconds": 1.5, "peak_bytes": 2}
with open(os.environ["LESSONKIT_RESULT"], "w") as file:
    json.dump(result, file)
"""

# Every Python process of the test imports this first: it lets nothing out but to this computer.
SITECUSTOMIZE = f"""
import os, pathlib, socket, sys

folder = pathlib.Path(os.environ["SOCKET_RECORD"])
(folder / f"active-{{os.getpid()}}").write_text(" ".join(sys.orig_argv))


def check(host):
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost", "::1") or str(host).startswith("127."):
        return
    with open(folder / f"attempt-{{os.getpid()}}", "a") as file:
        file.write(f"{{host}}\\n")
    raise OSError("{BLOCKED}")


def guard(method):
    def guarded(self, address):
        if isinstance(address, tuple):  # a Unix socket's address is a path
            check(address[0])
        return method(self, address)

    return guarded


def guarded_getaddrinfo(host, *args, _original=socket.getaddrinfo, **kwargs):
    check(host)
    return _original(host, *args, **kwargs)


socket.socket.connect = guard(socket.socket.connect)
socket.socket.connect_ex = guard(socket.socket.connect_ex)
socket.getaddrinfo = guarded_getaddrinfo
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Makes a notebook of the given code cells stand for every lesson."""
    lesson = load_curriculum(check_files=False).lesson("start-here")
    path = tmp_path / "toy.ipynb"

    def make(*cells: str) -> Path:
        first = [new_markdown_cell("# A toy"), new_code_cell("import os")]
        section = new_markdown_cell("## 1. The middle\n\ntext")
        nbformat.write(new_notebook(cells=[*first, section, *map(new_code_cell, cells)]), path)
        monkeypatch.setattr(execution, "notebook_of", lambda name: (lesson, path))
        return path

    return make


def test_the_metrics_come_back_and_progress_is_told(toy, monkeypatch: pytest.MonkeyPatch):
    toy("print('half way')", RECORDS)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    before, told = dict(os.environ), []
    result = execution.run_lesson("toy", scale="smoke", tell=told.append)
    expected = {
        "lesson": "toy",
        "scale": "smoke",
        "metrics": {"accuracy": 0.5},
        "seconds": 1.5,
        "peak_bytes": 2,
    }
    assert result == expected
    assert told == ["[1/5] A toy", "[3/5] 1. The middle", "    half way"]
    assert dict(os.environ) == before


def test_a_lesson_that_records_nothing_has_no_metrics(toy):
    toy("2 + 2")
    result = execution.run_lesson("toy", tell=lambda text: None)
    assert set(result) == KEYS
    assert result["metrics"] == {}


def test_a_failing_cell_is_told_with_its_section_and_the_partial_output_is_saved(toy, tmp_path: Path):
    notebook = toy("print('so far')", "\nanswer = 1 / 0", "print('never')")
    untouched = notebook.read_bytes()
    before, told, output = dict(os.environ), [], tmp_path / "new folder/partial.ipynb"
    with pytest.raises(LessonError) as caught:
        execution.run_lesson("toy", scale="smoke", output=output, tell=told.append)
    assert "“1. The middle” failed: ZeroDivisionError: division by zero" in caught.value.what
    assert dict(os.environ) == before
    assert told[-1].endswith(str(output))
    saved = nbformat.read(output, as_version=4).cells[3:]
    assert saved[0].outputs[0].text == "so far\n"
    assert saved[1].outputs[0].ename == "ZeroDivisionError"
    assert saved[2].outputs == []
    assert notebook.read_bytes() == untouched


def test_the_first_line_of_the_failing_cell_is_shown(toy):
    toy("answer = 1 / 0\nprint(answer)")
    with pytest.raises(LessonError, match="the cell begins with: answer = 1 / 0\n"):
        execution.run_lesson("toy", tell=lambda text: None)


def test_a_kernel_that_dies_is_told(toy):
    toy("os._exit(1)")
    with pytest.raises(LessonError, match=r"The kernel stopped in the section “1\. The middle”") as caught:
        execution.run_lesson("toy", tell=lambda text: None)
    assert "memory may have run out" in caught.value.fix


def test_an_output_that_cannot_be_saved_is_told(toy, tmp_path: Path):
    toy("2 + 2")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LessonError, match="could not be saved"):
        execution.run_lesson("toy", output=tmp_path / "file/out.ipynb", tell=lambda text: None)


def test_live_progress_is_told_as_it_changes(toy):
    first = "from IPython.display import display\nhandle = display({'text/plain': 'step 1'}, raw=True, display_id=True)"
    toy(
        first,
        "handle.update({'text/plain': 'step 2'}, raw=True)\nhandle.update({'text/plain': ''}, raw=True)",
    )
    told = []
    execution.run_lesson("toy", tell=told.append)
    assert "    step 2" in told


def test_what_a_widget_prints_stops_nothing_and_leaves_no_state(tmp_path: Path):
    slider = "from ipywidgets import interact\n_ = interact(lambda r: print('r is', r), r=(1, 9))"
    notebook = execution.execute(new_notebook(cells=[new_code_cell(slider)]), tmp_path)
    assert "widgets" not in notebook.metadata
    assert not [each for each in notebook.cells[0].outputs if each.output_type == "error"]


def test_a_misspelt_lesson_is_told_with_the_nearest():
    with pytest.raises(UnknownNameError, match="'beginner/full-fine-tuning'"):
        execution.run_lesson("begginer/full-fine-tuning")


def test_a_lesson_without_a_notebook_is_told():
    """That one which isn't written yet is told, too: see test_cli.py."""
    with pytest.raises(LessonError, match="a text to read"):
        execution.run_lesson("introduction")


def test_a_missing_notebook_and_a_missing_project_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(execution, "project_root", lambda: tmp_path)
    with pytest.raises(LessonError, match=r"git checkout notebooks/00-start-here\.ipynb"):
        execution.notebook_of("start-here")
    monkeypatch.setattr(execution, "project_root", lambda: None)
    with pytest.raises(LessonError, match="There are no notebooks here"):
        execution.notebook_of("start-here")


# ---- Offline ----------------------------------------------------------------------------------------


def blocked(tmp_path: Path, record: str) -> dict[str, str]:
    """An environment in which no Python process reaches out; what it tries is written down."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    (tmp_path / record).mkdir()
    there = [str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(there), "SOCKET_RECORD": str(tmp_path / record)}
    environ["OMP_NUM_THREADS"] = "1"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        environ.pop(name, None)  # a learner sets none of them
    return environ


@pytest.mark.parametrize(
    "attempt", ["create_connection(('192.0.2.1', 80), timeout=5)", "getaddrinfo('example.invalid', 443)"]
)
def test_the_block_blocks(tmp_path: Path, attempt: str):
    command = [sys.executable, "-c", f"import socket; socket.{attempt}"]
    done = subprocess.run(command, env=blocked(tmp_path, "probe"), capture_output=True, text=True)
    assert done.returncode
    assert BLOCKED in done.stderr
    assert list((tmp_path / "probe").glob("attempt-*"))


def test_the_first_lesson_runs_with_sockets_blocked(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "lessonkit",
        "run",
        "beginner/full-fine-tuning",
        "--scale",
        "smoke",
        "--json",
    ]
    done = subprocess.run(
        command,
        env=blocked(tmp_path, "record"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == KEYS
    assert (result["lesson"], result["scale"]) == ("beginner/full-fine-tuning", "smoke")
    assert 0 <= result["metrics"]["test_accuracy"] <= 1
    assert "Overfitting, provoked" in done.stderr
    guarded = [path.read_text() for path in (tmp_path / "record").glob("active-*")]
    assert any("ipykernel" in command for command in guarded)
    attempts = [path.read_text() for path in (tmp_path / "record").glob("attempt-*")]
    assert attempts == []
    assert not (tmp_path / "progress/journal.jsonl").exists()  # smoke scale leaves no evidence


def test_a_slider_that_prints_runs_and_leaves_no_widget_state(tmp_path: Path):
    source = "from ipywidgets import interact\n_ = interact(lambda rank: print('rank', rank), rank=(1, 9))"
    notebook = new_notebook(cells=[new_code_cell(source)])
    execution.execute(notebook, tmp_path)
    assert [output.output_type for output in notebook.cells[0].outputs] == ["display_data"]
    assert "widgets" not in notebook.metadata
