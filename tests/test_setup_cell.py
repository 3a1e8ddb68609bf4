"""The first cell of every notebook: lessonkit is there, in a checkout, beside the notebook, or on Colab.

Colab is played by an environment of its own: every installed package except lessonkit and one that it
needs, a stand-in for `google.colab`, an empty folder, and pip without a network. What pip is asked for is
written down.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from lessonkit.errors import LessonError

ROOT = Path(__file__).resolve().parents[1]
ABSENT = "platformdirs"  # needed by lessonkit, not by pip; its stand-in says where progress goes
STAND_IN = "def user_data_dir(*_, **__):\n    return 'from-the-stand-in'\n"
# Started by every Python of the stand-in: what it was called with, and the versions that pip must keep.
RECORDER = """
import json, os, sys

arguments = list(sys.orig_argv)
held = ""
if "--constraint" in arguments:
    with open(arguments[arguments.index("--constraint") + 1]) as file:
        held = file.read()
if "pip" in arguments:
    with open(os.environ["PIP_CALLS"], "a") as file:
        file.write(json.dumps({"arguments": arguments, "held": held}) + "\\n")
"""


def setup_cell(repository: str = "", lesson: str = "start-here") -> str:
    """The cell as the build writes it."""
    spec = importlib.util.spec_from_file_location("build_for_setup", ROOT / "tools/build_notebooks.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    notebook = tool.nbformat.v4.new_notebook()
    title = tool.nbformat.v4.new_markdown_cell("# Title", metadata={"tags": ["title"]})
    own = f'import lessonkit\n\nlesson = lessonkit.start("{lesson}")'
    notebook.cells = [title, tool.nbformat.v4.new_code_cell(own, metadata={"tags": ["setup"]})]
    tool.dress(notebook, "notebooks/title.ipynb", repository)
    return notebook.cells[1].source


def imports_only(cell: str) -> str:
    """The cell as far as the import, then where lessonkit came from."""
    return cell[: cell.index("lesson = ")] + "print(lessonkit.__file__)\n"


def bare(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run code with the standard library alone."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


# ---- Without pip ------------------------------------------------------------------------------------


def test_with_neither_wheel_nor_repository_it_says_what_to_do(tmp_path: Path):
    done = bare(setup_cell(), tmp_path / "empty")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(
        "lessonkit is missing. Upload the file lessonkit-0.1.0-py3-none-any.whl beside"
    )
    assert "python -m pip wheel --no-deps ." in done.stderr


def test_inside_a_checkout_it_uses_the_checkout(tmp_path: Path):
    package = tmp_path / "project/lessonkit"
    shutil.copytree(ROOT / "lessonkit", package, ignore=shutil.ignore_patterns("__pycache__"))
    done = bare(imports_only(setup_cell()), tmp_path / "project/notebooks/beginner")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).samefile(package / "__init__.py")


def test_what_is_installed_comes_before_any_installation(tmp_path: Path):
    package = tmp_path / "site/lessonkit"
    shutil.copytree(ROOT / "lessonkit", package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/lessonkit-9.9-py3-none-any.whl").write_text("never looked at")
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r})\n" + imports_only(setup_cell())
    done = bare(code, tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).samefile(package / "__init__.py")


@pytest.mark.parametrize("wheel", [False, True])
def test_a_wheel_beside_the_notebook_comes_before_the_repository(tmp_path: Path, wheel: bool):
    (tmp_path / "empty").mkdir()
    if wheel:
        (tmp_path / "empty/lessonkit-0.1.0-py3-none-any.whl").touch()
    code = "import subprocess, sys\nsubprocess.run = lambda *a, **k: sys.exit('\\n'.join(a[0][1:]))\n"
    done = bare(code + setup_cell("owner/name"), tmp_path / "empty")
    *command, source = done.stderr.splitlines()
    assert command == ["-m", "pip", "install", "-q", "--no-deps"]
    if wheel:
        assert Path(source).samefile(tmp_path / "empty/lessonkit-0.1.0-py3-none-any.whl")
    else:
        assert source == "git+https://github.com/owner/name"


# ---- The stand-in for Colab -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lessonkit's wheel, built from a copy and without a network."""
    copy, folder = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for package in ("lessonkit", "production"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run([*command, "-w", str(folder), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("lessonkit-*.whl"))


def test_the_wheel_holds_all_that_lessonkit_reads(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("lessonkit/")}
    kinds = (".py", ".yaml", ".toml", ".jinja", ".csv", ".jsonl")
    files = [path for path in (ROOT / "lessonkit").rglob("*") if path.suffix in kinds]
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}


def write_stand_in(folder: Path) -> None:
    """A wheel of ABSENT that only says where progress goes."""
    info = f"{ABSENT}-4.9.9.dist-info"
    content = {
        f"{ABSENT}.py": STAND_IN,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {ABSENT}\nVersion: 4.9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(text.encode())}")
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{ABSENT}-4.9.9-py3-none-any.whl", "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)


class Colab:
    """An environment with everything installed but lessonkit and ABSENT.

    home: the empty folder that a notebook is opened in. site: its site-packages, links mostly.
    """

    def __init__(self, base: Path) -> None:
        self.base, self.home = base, base / "content"
        self.home.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(base / "venv")], check=True)
        places = {"base": str(base / "venv"), "platbase": str(base / "venv")}
        self.site = Path(sysconfig.get_path("purelib", "venv", vars=places))
        self.python = Path(sysconfig.get_path("scripts", "venv", vars=places)) / "python"
        for name in ("purelib", "platlib"):
            for entry in Path(sysconfig.get_path(name)).iterdir():
                if not self._left_out(entry.name) and not (self.site / entry.name).exists():
                    (self.site / entry.name).symlink_to(entry)
        (base / "stand-in/google/colab").mkdir(parents=True)
        (base / "stand-in/google/colab/__init__.py").touch()
        (base / "stand-in/sitecustomize.py").write_text(RECORDER, encoding="utf-8")
        write_stand_in(base / "wheels")

    @staticmethod
    def _left_out(name: str) -> bool:
        own = name.lower().startswith(("lessonkit", "__editable__", ABSENT))
        return own or name == "__pycache__" or name.endswith(".pth")

    def run(self, code: str, **variables: str) -> subprocess.CompletedProcess:
        """Run a cell as a script in the empty folder."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("LESSONKIT_", "PIP_"))}
        environ = {**kept, "PYTHONPATH": str(self.base / "stand-in"), "OMP_NUM_THREADS": "1"}
        environ |= {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.base / "wheels"),
            "PIP_CONFIG_FILE": os.devnull,
        }
        environ |= {"PIP_CALLS": str(self.base / "pip-calls.jsonl"), **variables}
        environ.pop("PYTHONHOME", None)
        command = [str(self.python), "-c", code]
        return subprocess.run(
            command, env=environ, cwd=self.home, capture_output=True, text=True, encoding="utf-8"
        )

    def pip_calls(self) -> list[dict]:
        """What pip was called with, call by call."""
        path = self.base / "pip-calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def entries(self) -> dict[str, str]:
        """Everything in site-packages, and where it points."""
        found = (entry for entry in self.site.iterdir() if entry.name != "__pycache__")
        return {entry.name: os.readlink(entry) if entry.is_symlink() else "" for entry in found}


@pytest.fixture
def colab(tmp_path: Path) -> Colab:
    if os.name == "nt":
        pytest.skip("the stand-in needs symbolic links")
    return Colab(tmp_path)


def test_on_colab_it_installs_lessonkit_and_only_what_is_missing(colab: Colab, wheel: Path):
    shutil.copy(wheel, colab.home)
    before = colab.entries()
    done = colab.run(setup_cell())
    assert done.returncode == 0, done.stderr
    assert f"Installing for Colab: {ABSENT}>=" in done.stdout
    assert "Machine:  " in done.stdout
    assert "from-the-stand-in" in done.stdout  # the new package is in use, in the same process

    after = colab.entries()
    assert {name: after[name] for name in before} == before  # torch and NumPy among them
    new = sorted(set(after) - set(before))
    ours = ["lessonkit", "lessonkit-0.1.0.dist-info", "production"]
    assert new == sorted([*ours, f"{ABSENT}-4.9.9.dist-info", f"{ABSENT}.py"])

    first, second = colab.pip_calls()
    assert "--no-deps" in first["arguments"]
    assert first["arguments"][-1].endswith(wheel.name)
    asked = second["arguments"][second["arguments"].index("--constraint") + 2 :]
    assert asked == [f"{ABSENT}>=4.0"]
    held = dict(line.split("==") for line in second["held"].splitlines())
    assert sorted(held) == ["numpy", "torch"]

    again = colab.run(setup_cell())
    assert again.returncode == 0, again.stderr
    assert "Installing" not in again.stdout
    assert len(colab.pip_calls()) == 2


def test_a_failed_installation_is_told(colab: Colab, wheel: Path):
    shutil.copy(wheel, colab.home)
    done = colab.run(setup_cell(), PIP_FIND_LINKS=str(colab.home / "nothing"))
    assert done.returncode == 1
    assert "LessonError: Packages that the lesson needs could not be installed." in done.stderr
    assert f"Why: ERROR: No matching distribution found for {ABSENT}" in done.stderr
    assert "Next: choose Runtime" in done.stderr


def test_off_colab_nothing_is_installed(monkeypatch: pytest.MonkeyPatch):
    import lessonkit
    from lessonkit import colab

    monkeypatch.setattr(colab, "on_colab", lambda: False)
    monkeypatch.setattr(colab, "install_missing", lambda: pytest.fail("pip was called"))
    assert lessonkit.start("start-here").name == "start-here"


def test_torch_and_numpy_are_never_asked_for(monkeypatch: pytest.MonkeyPatch):
    from lessonkit import colab

    class Done:
        returncode, stderr = 1, "ERROR: on purpose"

    commands = []
    monkeypatch.setattr(
        colab, "missing_requirements", lambda extras: ["torch>=2.6", "numpy>=1.26", "gguf>=0.17"]
    )
    monkeypatch.setattr(colab.subprocess, "run", lambda command, **_: commands.append(command) or Done())
    with pytest.raises(LessonError, match="on purpose"):
        colab.install_missing()
    assert commands[0][-1] == "gguf>=0.17"
    assert not any(word.startswith(("torch", "numpy")) for word in commands[0])
