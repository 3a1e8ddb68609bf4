"""Packages that are missing, old or damaged, and the command that mends them."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from lessonkit.doctor import installation
from lessonkit.doctor.installation import check_packages, check_python, pip_install


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions to pretend, by package; None is one that is not installed."""
    pretended: dict[str, str | None] = {}
    real = metadata.version

    def version(name: str) -> str:
        if name not in pretended:
            return real(name)
        if pretended[name] is None:
            raise metadata.PackageNotFoundError(name)
        return pretended[name]

    monkeypatch.setattr(metadata, "version", version)
    return pretended


def test_what_is_installed_here_will_do():
    found, problems = check_packages({})
    assert problems == []
    assert {"torch", "transformers", "jupyterlab", "bitsandbytes", "gguf"} <= set(found)
    assert "ruff" not in found  # a learner needs none of the tools that build the course


def test_all_old_and_all_missing_packages_are_told_at_once(versions):
    versions |= {"transformers": "4.57.1", "peft": "0.9", "datasets": None, "nbclient": None}
    _, problems = check_packages({})
    missing, old = problems
    assert missing.broken
    assert "datasets, nbclient" in missing.what
    assert missing.fix.endswith('-m pip install "datasets>=4.0" "nbclient>=0.10"')
    assert old.broken
    assert "peft 0.9 (needed: >=0.18), transformers 4.57.1 (needed: >=5.2)" in old.what
    assert old.fix.endswith('"peft>=0.18" "transformers>=5.2"')


@pytest.mark.parametrize("name", ["bitsandbytes", "gguf", "jupyterlab"])
def test_what_only_some_need_is_a_hint(versions, name):
    versions[name] = None
    _, [problem] = check_packages({})
    assert not problem.broken
    assert name in problem.what
    assert name in problem.fix


@pytest.mark.parametrize("name", ["ipykernel", "nbformat", "ipywidgets", "psutil"])
def test_what_every_lesson_needs_is_broken(versions, name):
    versions[name] = None
    _, [problem] = check_packages({})
    assert problem.broken


@pytest.mark.parametrize(
    "version", ["2.13.0+cpu", "2.13.0a0+git1234", "2.7.0.dev20250101+cu118", "my-own-build"]
)
def test_unusual_versions_of_torch_are_not_called_old(versions, version):
    versions["torch"] = version
    assert check_packages({})[1] == []


def test_damaged_metadata_counts_as_missing(versions):
    versions["peft"] = ""
    found, [problem] = check_packages({})
    assert "peft" not in found
    assert "damaged: peft" in problem.what


@pytest.mark.parametrize("version", ["3.10.14", "3.14.0"])
def test_a_python_that_is_too_old_or_too_new_is_broken(monkeypatch, version):
    monkeypatch.setattr(installation.platform, "python_version", lambda: version)
    _, [problem] = check_packages({})
    assert problem.broken
    assert version in problem.what


def test_without_a_checkout_the_installed_metadata_says_what_is_needed(versions, monkeypatch):
    monkeypatch.setattr(installation, "course_folder", lambda: None)
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    lines = ["torch>=2.6", "peft>=99", 'gguf>=99; extra == "decoder"', "ruff>=99; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    found, problems = check_packages({})
    assert [problem.broken for problem in problems] == [True, False]
    assert "peft" in problems[0].what
    assert "gguf" in problems[1].what
    assert "ruff" not in found


def test_on_colab_the_command_is_for_a_cell(monkeypatch):
    monkeypatch.setattr(installation, "on_colab", lambda: True)
    assert pip_install(["peft>=0.18"]).startswith('%pip install "peft>=0.18"')
    assert check_python({})[0]["kind"] == "Google Colab"


def test_this_python():
    told, _ = check_python({})
    assert told["executable"] == sys.executable
    assert told["kind"]
    assert told["version"].startswith("3.")


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a .venv of its own."""
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(installation, "course_folder", lambda: tmp_path)
    return tmp_path


def test_another_python_than_the_courses_is_a_hint(course):
    told, [problem] = check_python({})
    assert not problem.broken
    assert "activate" in problem.fix
    assert told["kind"] != "the course's .venv"


def test_the_courses_own_python_is_called_so(course, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(course / ".venv"))
    told, problems = check_python({})
    assert told["kind"] == "the course's .venv"
    assert problems == []


def test_a_conda_environment_is_called_so(tmp_path, monkeypatch):
    (tmp_path / "conda-meta").mkdir()
    for name in ("prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    assert check_python({})[0]["kind"] == "conda environment"


def test_32_bits_are_too_few(monkeypatch):
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert any(each.broken and "32-bit" in each.what for each in check_python({})[1])


def test_python_for_intel_on_an_apple_chip_is_told(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(installation.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(installation.system, "cpu_name", lambda: "Apple M3")
    assert any(each.broken and "Apple chip" in each.what for each in check_python({})[1])
    monkeypatch.setattr(installation.system, "cpu_name", lambda: "Intel(R) Core(TM) i7")
    assert not any("Apple chip" in each.what for each in check_python({})[1])


def test_a_path_with_spaces_can_be_typed(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/some where/python")
    monkeypatch.setattr(installation.shutil, "which", lambda name: None)
    assert "/some\\ where/python -m pip install torch" in pip_install(["torch"]) or sys.platform == "win32"
