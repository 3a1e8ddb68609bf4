"""On Colab only what is missing is installed, and never torch or NumPy."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from lessonkit import colab
from lessonkit.errors import LessonError

REQUIRES = [
    "torch>=2.6",
    "numpy>=1.26",
    "transformers>=5.0",
    "peft>=0.18",
    'bitsandbytes>=0.48; extra == "qlora"',
    'gguf>=0.17; extra == "decoder"',
    'jupyterlab>=4.1; extra == "notebooks"',
    'pytest>=8.3; extra == "dev"',
]


class Pip:
    """Stands in for `pip`: keeps the command and the constraints, which lie in a temporary file."""

    def __init__(self) -> None:
        self.command: list[str] = []
        self.constraints: list[str] = []
        self.returncode, self.stderr = 0, ""

    def run(self, command: list[str], **_: object) -> SimpleNamespace:
        self.command = command
        self.constraints = Path(command[command.index("--constraint") + 1]).read_text().splitlines()
        return SimpleNamespace(returncode=self.returncode, stdout="", stderr=self.stderr)

    @property
    def asked(self) -> list[str]:
        """The requirements in the command."""
        return self.command[self.command.index("--constraint") + 2 :]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The packages that are there, to change at will: name -> version."""
    there = {"torch": "2.8.0+cu126", "numpy": "2.0.2", "transformers": "4.57.0"}

    def version(name: str) -> str:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(colab.metadata, "version", version)
    monkeypatch.setattr(colab.metadata, "requires", lambda name: REQUIRES)
    return there


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    stand_in = Pip()
    monkeypatch.setattr(colab.subprocess, "run", stand_in.run)
    return stand_in


def test_this_is_not_colab():
    assert not colab.on_colab()


def test_colab_is_known_by_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "google" / "colab").mkdir(parents=True)
    (tmp_path / "google" / "colab" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name == "google" or name.startswith("google.")]:
        monkeypatch.delitem(sys.modules, name)
    try:
        assert colab.on_colab()
    finally:
        sys.modules.pop("google", None)


def test_other_packages_of_google_are_not_colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "google" / "protobuf").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name == "google" or name.startswith("google.")]:
        monkeypatch.delitem(sys.modules, name)
    try:
        assert not colab.on_colab()
    finally:
        sys.modules.pop("google", None)


def test_missing_is_what_no_package_has_the_name_of(installed):
    assert colab.missing_requirements() == ["peft>=0.18", "bitsandbytes>=0.48", "gguf>=0.17"]


def test_an_older_version_is_left_alone(installed):
    assert not any(line.startswith("transformers") for line in colab.missing_requirements())


def test_extras_for_other_places_are_left_out(installed):
    assert not any(line.startswith(("jupyterlab", "pytest")) for line in colab.missing_requirements())


def test_install_names_the_missing_and_holds_torch_and_numpy(installed, pip, capsys):
    assert colab.install_missing() == ["peft>=0.18", "bitsandbytes>=0.48", "gguf>=0.17"]
    assert pip.command[:4] == [sys.executable, "-m", "pip", "install"]
    assert pip.asked == ["peft>=0.18", "bitsandbytes>=0.48", "gguf>=0.17"]
    assert pip.constraints == ["torch==2.8.0+cu126", "numpy==2.0.2"]
    assert "--upgrade" not in pip.command
    assert "peft" in capsys.readouterr().out


@pytest.mark.parametrize("gone", ["torch", "numpy"])
def test_torch_and_numpy_are_never_installed(installed, pip, gone: str):
    del installed[gone]
    colab.install_missing()
    assert not any(line.startswith(("torch", "numpy")) for line in pip.asked)
    assert not any(line.startswith(gone) for line in pip.constraints)


def test_nothing_missing_calls_nothing(installed, pip, capsys):
    installed |= {"peft": "0.18", "bitsandbytes": "0.50", "gguf": "0.17"}
    assert colab.install_missing() == []
    assert pip.command == []
    assert capsys.readouterr().out == ""


def test_checkout_without_an_installation_installs_nothing(installed, pip, monkeypatch):
    def unknown(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(colab.metadata, "requires", unknown)
    assert colab.install_missing() == []
    assert pip.command == []


def test_package_without_requirements_misses_nothing(installed, monkeypatch):
    monkeypatch.setattr(colab.metadata, "requires", lambda name: None)
    assert colab.missing_requirements() == []


@pytest.mark.parametrize(
    ("stderr", "why"),
    [
        ("warn\nERROR: one\nERROR: No matching distribution\n", "ERROR: No matching distribution"),
        ("", "no reason"),
    ],
)
def test_failure_says_what_pip_said_and_what_to_do(installed, pip, stderr: str, why: str):
    pip.returncode, pip.stderr = 1, stderr
    with pytest.raises(LessonError, match="could not be installed") as caught:
        colab.install_missing()
    assert why in caught.value.why
    assert "Runtime" in caught.value.fix


def test_the_packages_own_requirements_are_read_as_they_are_written(installed, monkeypatch):
    root = Path(__file__).resolve().parents[1]
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra, wanted in project["optional-dependencies"].items():
        lines += [f'{line}; extra == "{extra}"' for line in wanted]
    monkeypatch.setattr(colab.metadata, "requires", lambda name: lines)
    installed.clear()
    missing = {line.split(">=")[0] for line in colab.missing_requirements()}
    named = {line.split(">=")[0] for line in project["dependencies"]}
    assert missing == named | {
        *("bitsandbytes", "gguf"),
        *("charset-normalizer", "ftfy", "jinja2", "openpyxl", "optuna", "pandas", "rapidfuzz"),
    }


def test_pip_is_never_asked_for_input(installed, monkeypatch):
    given = {}

    def run(command: list[str], **options: object) -> SimpleNamespace:
        given.update(options)
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(colab.subprocess, "run", run)
    colab.install_missing()
    assert given["stdin"] == subprocess.DEVNULL
