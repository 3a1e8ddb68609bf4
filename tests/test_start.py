"""start.py: one command from a bare Python to JupyterLab, told plainly when it cannot be.

Nothing here reaches the network: the programs that start.py runs are faked, except in the rehearsal at the
end, which makes a real virtual environment for a course that needs no package.
"""

from __future__ import annotations

import ast
import collections
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[1] / "start.py"
NO_NETWORK = """
Looking in indexes: https://index.invalid/simple
WARNING: Retrying (Retry(total=0, connect=None, read=None)) after connection broken by 'NewConnectionError(
'Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')'
ERROR: Could not find a version that satisfies the requirement accelerate==1.15.0 (from versions: none)
ERROR: No matching distribution found for accelerate==1.15.0
""".splitlines()
TORN = ["error: uninstall-no-record-file", "hint: The package was not installed by pip."]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """start.py as a module, in an environment of its own."""
    spec = importlib.util.spec_from_file_location("start_under_test", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout in a folder whose name has a space and letters beyond ASCII."""
    folder = tmp_path / "mein Kurs é 学"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "notebooks" / "00-start-here.ipynb").write_text("{}", encoding="utf-8")
    (folder / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
    (folder / "production").mkdir()
    (folder / "production" / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
    (folder / "pyproject.toml").write_text("[project]\nname = 'lessonkit'\n", encoding="utf-8")
    return folder


class Machine:
    """Stands in for the programs that start.py runs; keeps their commands, fails when told to."""

    def __init__(self, start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.start, self.commands, self.answers, self.environments = start, [], {}, []
        monkeypatch.setattr(start, "run", self.run)
        monkeypatch.setattr(start, "probe", self.probe)

    def kinds(self) -> list[str]:
        """What was run, in a word each."""
        return [self.kind(command) for command in self.commands]

    @staticmethod
    def kind(command: list[str]) -> str:
        words = [Path(word).name for word in command[2:]]
        return next((word for word in ("-r", "-e", "fetch") if word in words), words[0])

    def run(self, command, home, on_line=None, on_tick=None, **extra):
        self.commands.append(command)
        self.environments.append(extra)
        answer = self.answers.get(self.kind(command))
        if isinstance(answer, list):  # one answer for each time it is asked, the last for ever
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if self.kind(command) == "venv" and answer is None:
            home.bin.mkdir(parents=True)
            (home.venv / "pyvenv.cfg").write_text("home = here\n")
            home.python.write_text("")
        if isinstance(answer, BaseException):
            raise answer
        code, lines = answer or (0, [])
        for line in lines:
            on_line(line)
        return code

    def probe(self, home):
        if not home.python.exists():
            return {}
        return {"pip": "24.3.1", "packages": str(home.venv), "missing": []}


@pytest.fixture
def machine(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(start, monkeypatch)


SET_UP = ["venv", "-r", "-e", "fetch", "jupyterlab"]


# The file itself


def test_grammar_is_that_of_an_old_python():
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_imports_are_of_the_standard_library():
    nodes = list(ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_nothing_an_old_python_lacks_comes_before_its_check():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    check = next(node for node in tree.body if isinstance(node, ast.If))
    before = [node for node in tree.body if node.lineno < check.lineno]
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.Expr)
    assert all(isinstance(node, allowed) for node in before)
    since_3_7 = {"__future__", "dataclasses", "tomllib", "zoneinfo", "graphlib"}
    names = {alias.name for node in before if isinstance(node, ast.Import) for alias in node.names}
    assert not since_3_7 & names


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13), (3, 14, 0), (4, 0, 0)])
def test_wrong_python_is_told_in_a_sentence(start, monkeypatch, version):
    monkeypatch.setattr(start.shutil, "which", lambda name: None)
    text = start.python_problem(version)
    assert text.startswith(
        f"This is Python {version[0]}.{version[1]}; the course needs Python 3.11, 3.12 or 3.13."
    )
    assert "Install" in text


def test_a_fitting_python_elsewhere_is_named(start, monkeypatch):
    monkeypatch.setattr(start.shutil, "which", lambda name: "/bin/" + name if name == "python3.13" else None)
    monkeypatch.setattr(start.subprocess, "call", lambda *command, **how: 0)
    assert start.python_problem((3, 9, 1)).endswith("Type: python3.13 start.py")


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 7), (3, 13, 2)])
def test_right_python_passes_and_32_bits_do_not(start, monkeypatch, version):
    monkeypatch.setattr(start.shutil, "which", lambda name: None)
    assert start.python_problem(version) is None
    assert "32-bit" in start.python_problem(version, bits=32)


# What can be asked for


def test_help_names_both_commands(start, capsys):
    with pytest.raises(SystemExit) as stopped:
        start.main(["--help"])
    assert stopped.value.code == 0
    assert "python start.py test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["tset"], "did you mean 'test'"),
        (["doctor"], "lessonkit doctor"),
        (["--nobrowser"], "--nobrowser"),
        (["--port", "many"], "'many' is no port"),
        (["--port", "99999"], "from 1 to 65535"),
    ],
)
def test_unknown_arguments_are_told(start, machine, capsys, argv, told):
    with pytest.raises(SystemExit) as stopped:
        start.main(argv)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
    assert machine.commands == []


def test_jupyter_is_for_this_computer_only(start, machine, root, capsys):
    assert start.main(["--no-browser", "--port", "9001"], root) == 0
    assert machine.kinds() == SET_UP
    command = machine.commands[-1]
    assert {"--ip=127.0.0.1", "--no-browser", "--port=9001"} <= set(command)
    assert f"--ServerApp.root_dir={root}" in command
    assert "--LabApp.default_url=/lab/tree/notebooks/00-start-here.ipynb" in command
    assert len([line for line in capsys.readouterr().out.splitlines() if "Ready after" in line]) == 1


def test_ctrl_c_in_jupyter_is_a_clean_end(start, machine, root, capsys):
    machine.answers["jupyterlab"] = KeyboardInterrupt()
    assert start.main([], root) == 0
    assert "JupyterLab has ended." in capsys.readouterr().out


def test_tests_run_all_four_checks_and_keep_the_journal_apart(start, machine, root, capsys):
    assert start.main(["test"], root) == 0
    assert machine.kinds() == ["venv", "-r", "-e", "fetch", "ruff", "ruff", "pytest", "pytest"]
    for extra in machine.environments[4:]:
        assert extra["LESSONKIT_SCALE"] == "smoke"
        assert extra["OMP_NUM_THREADS"] == "1"
        assert not Path(extra["LESSONKIT_PROGRESS"]).is_relative_to(root)
    assert "All is well" in capsys.readouterr().out


def test_one_failed_check_fails_the_whole_but_not_the_rest(start, machine, root, capsys):
    machine.answers["ruff"] = [(1, []), (0, [])]
    assert start.main(["test"], root) == 1
    assert machine.kinds()[-2:] == ["pytest", "pytest"]
    assert "Failed: style;" in capsys.readouterr().out


def test_arguments_after_test_go_to_pytest_alone(start, machine, root):
    assert start.main(["test", "tests/test_a.py", "-k", "disk", "--port"], root) == 0
    assert machine.kinds()[4:] == ["pytest"]
    assert machine.commands[-1][-4:] == ["tests/test_a.py", "-k", "disk", "--port"]


# When it is done again


def test_second_start_installs_nothing(start, machine, root):
    start.main([], root)
    machine.commands.clear()
    assert start.main([], root) == 0
    assert machine.kinds() == ["fetch", "jupyterlab"]


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_edited_requirements_are_installed(start, machine, root, name):
    start.main([], root)
    (root / name).write_text("# something else\n", encoding="utf-8")
    machine.commands.clear()
    start.main([], root)
    assert machine.kinds() == SET_UP[1:]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"python": "3.11"}', '{"fingerprint": 1}', "\x00\xff", None]
)
def test_damaged_stamp_installs_again(start, machine, root, damage):
    start.main([], root)
    stamp = root / ".venv" / "lessonkit-setup.json"
    if damage is None:
        stamp.unlink()
    else:
        stamp.write_text(damage, encoding="latin-1")
    machine.commands.clear()
    start.main([], root)
    assert machine.kinds() == SET_UP[1:]
    assert json.loads(stamp.read_text(encoding="utf-8"))["fingerprint"]


def test_missing_package_is_installed_again(start, machine, root, monkeypatch):
    start.main([], root)
    monkeypatch.setattr(start, "probe", lambda home: {**machine.probe(home), "missing": ["torch"]})
    machine.commands.clear()
    start.main([], root)
    assert machine.kinds() == SET_UP[1:]


def test_moved_folder_installs_again(start, machine, root):
    start.main([], root)
    moved = root.rename(root.with_name("elsewhere"))
    machine.commands.clear()
    start.main([], moved)
    assert machine.kinds() == SET_UP[1:]


@pytest.mark.parametrize("step", ["venv", "-r", "-e", "fetch"])
def test_interrupted_set_up_says_so_and_mends_itself(start, machine, root, capsys, step):
    machine.answers[step] = KeyboardInterrupt()
    assert start.main([], root) == 130
    assert "type the same command again" in capsys.readouterr().out
    machine.answers.clear()
    assert start.main([], root) == 0
    machine.commands.clear()
    start.main([], root)
    assert machine.kinds() == ["fetch", "jupyterlab"]


def test_package_cut_off_before_its_record_is_forgotten(start, machine, root):
    start.main([], root)
    whole, torn = root / ".venv" / "a-1.dist-info", root / ".venv" / "b-1.dist-info"
    for folder in (whole, torn):
        folder.mkdir()
        (folder / "METADATA").write_text("")
    (whole / "RECORD").write_text("")
    start.install(start.Home(root))
    assert whole.exists()
    assert not torn.exists()


# The production part


def installed_from(machine: Machine) -> list[str]:
    """The files of pins in the last installation."""
    command = [command for command in machine.commands if machine.kind(command) == "-r"][-1]
    return [Path(after).as_posix() for word, after in itertools.pairwise(command) if word == "-r"]


BOTH = ["requirements.txt", "production/requirements.txt"]


@pytest.mark.parametrize(("argv", "files"), [([], BOTH[:1]), (["--production"], BOTH), (["test"], BOTH)])
def test_the_production_part_is_installed_when_asked_for_and_for_the_tests(start, machine, root, argv, files):
    assert start.main(argv, root) == 0
    assert installed_from(machine) == files


def test_the_production_part_is_added_later_and_stays(start, machine, root):
    start.main([], root)
    machine.commands.clear()
    assert start.main(["--production"], root) == 0
    assert machine.kinds() == SET_UP[1:]
    machine.commands.clear()
    assert start.main([], root) == 0
    assert machine.kinds() == ["fetch", "jupyterlab"]
    (root / "production" / "requirements.txt").write_text("# something else\n", encoding="utf-8")
    assert start.main([], root) == 0
    assert installed_from(machine) == BOTH


def test_pins_of_the_production_part_do_not_concern_who_has_not_got_it(start, machine, root):
    start.main([], root)
    (root / "production" / "requirements.txt").write_text("# something else\n", encoding="utf-8")
    machine.commands.clear()
    assert start.main([], root) == 0
    assert machine.kinds() == ["fetch", "jupyterlab"]


def test_the_production_parts_pins_are_looked_for_too(start, root):
    (root / "requirements.txt").write_text("numpy==1\n", encoding="utf-8")
    (root / "production" / "requirements.txt").write_text("mlflow==1\n", encoding="utf-8")
    asked = []

    def check_output(command, **how):
        asked.append(command)
        raise OSError("not here")

    start.subprocess = types.SimpleNamespace(
        check_output=check_output, SubprocessError=Exception, DEVNULL=None
    )
    start.probe(start.Home(root, production=True))
    start.probe(start.Home(root))
    assert [[name in command for name in ("numpy", "mlflow")] for command in asked] == [
        [True, True],
        [True, False],
    ]


# What .venv may be


def test_broken_venv_is_made_anew(start, machine, root):
    start.main([], root)
    (root / ".venv" / "bin" / "python").unlink(missing_ok=True)
    (root / ".venv" / "Scripts" / "python.exe").unlink(missing_ok=True)
    machine.commands.clear()
    assert start.main([], root) == 0
    assert machine.kinds() == SET_UP


def test_damaged_packages_are_made_anew_once(start, machine, root):
    start.main([], root)
    (root / ".venv" / "lessonkit-setup.json").unlink()
    machine.commands.clear()
    machine.answers["-r"] = [(1, TORN), (0, [])]
    assert start.main([], root) == 0
    assert machine.kinds() == ["-r", *SET_UP]
    (root / ".venv" / "lessonkit-setup.json").unlink()
    machine.commands.clear()
    machine.answers["-r"] = (1, TORN)
    assert start.main([], root) == 1
    assert machine.kinds() == ["-r", "venv", "-r"]


def test_folder_that_is_no_venv_is_left_alone(start, machine, root, capsys):
    (root / ".venv").mkdir()
    (root / ".venv" / "thesis.txt").write_text("years of work")
    assert start.main([], root) == 1
    assert (root / ".venv" / "thesis.txt").read_text() == "years of work"
    told = capsys.readouterr().err
    assert "thesis.txt" in told
    assert "Rename or remove it." in told


def test_file_in_the_place_of_the_venv_is_left_alone(start, machine, root):
    (root / ".venv").write_text("a note")
    assert start.main([], root) == 1
    assert (root / ".venv").read_text() == "a note"


def test_link_in_the_place_of_the_venv_is_left_alone(start, machine, root, tmp_path):
    (tmp_path / "other" / "lib").mkdir(parents=True)
    try:
        (root / ".venv").symlink_to(tmp_path / "other", target_is_directory=True)
    except OSError:
        pytest.skip("links cannot be made here")
    assert start.main([], root) == 1
    assert (tmp_path / "other" / "lib").is_dir()
    assert machine.commands == []


def test_half_made_or_half_removed_venv_is_made_anew(start, machine, root):
    (root / ".venv" / "lib" / "python3.11").mkdir(parents=True)
    assert start.main([], root) == 0
    assert machine.kinds() == SET_UP


def test_two_at_once_are_told(start, machine, root, capsys):
    with start.locked(start.Home(root)):
        assert start.main([], root) == 1
    assert "Another start.py" in capsys.readouterr().err
    assert start.main([], root) == 0


@pytest.mark.skipif(os.name == "nt", reason="folder permissions of POSIX")
def test_folder_that_cannot_be_written_is_told(start, machine, root, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(start, "open", refuse, raising=False)
    assert start.main([], root) == 1
    assert "Copy the course to a folder of your own" in capsys.readouterr().err


# What can go wrong


def test_full_disk_is_told_before_anything_is_written(start, machine, root, capsys, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(start.shutil, "disk_usage", lambda path: usage(10**10, 10**10, 3 * 10**8))
    assert start.main([], root) == 1
    assert machine.commands == []
    assert "2.3 GB, and 0.3 GB are free" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (NO_NETWORK, "No network"),
        (
            ["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"],
            "disk is full",
        ),
        (
            ["SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", *NO_NETWORK],
            "certificate",
        ),
        (["ProxyError('Cannot connect to proxy.', NewConnectionError('...'))", *NO_NETWORK], "HTTPS_PROXY"),
        (["ERROR: Could not install: [Errno 13] Permission denied: 'x'"], "yours to write in"),
        (["ReadTimeoutError: Read timed out."], "No network"),
        (["ERROR: No matching distribution found for torch==2.13.0"], "does not exist for this computer"),
    ],
)
def test_failure_of_pip_is_told_in_plain_words(start, machine, root, capsys, lines, told):
    machine.answers["-r"] = (1, lines)
    assert start.main([], root) == 1
    shown = capsys.readouterr()
    assert told in shown.err
    assert "Traceback" not in shown.err
    assert lines[-1][:60] in shown.out
    assert (root / ".venv" / "setup.log").read_text(encoding="utf-8").splitlines()[-1] == lines[-1]
    assert str(root / ".venv" / "setup.log") in shown.err
    assert machine.kinds() == ["venv", "-r"]  # a cause that is known is not tried twice
    assert not (root / ".venv" / "lessonkit-setup.json").exists()


def test_debian_without_venv_is_told_what_to_install(start, machine, root, capsys):
    machine.answers["venv"] = (1, ["The virtual environment was not created: ensurepip is not available."])
    assert start.main([], root) == 1
    assert "sudo apt install python3-venv" in capsys.readouterr().err


def test_failed_fetch_stops_before_jupyter(start, machine, root, capsys):
    machine.answers["fetch"] = (1, [])
    assert start.main([], root) == 1
    assert machine.kinds()[-1] == "fetch"
    assert "models and data are not complete" in capsys.readouterr().err


def test_disk_that_fills_while_we_write_is_told(start, machine, root, capsys, monkeypatch):
    monkeypatch.setattr(
        start, "quiet_jupyter", lambda home: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    assert start.main([], root) == 1
    assert "The disk is full." in capsys.readouterr().err


# What is on screen


def test_news_of_pip_is_short(start, capsys):
    news = start.PipNews()
    for line in (
        "Collecting torch==2.13.0 (from -r requirements.txt (line 7))",
        "  Downloading torch-2.13.0-cp312-cp312-win_amd64.whl.metadata (29 kB)",
        "Collecting numpy==2.4.6",
        "Downloading torch-2.13.0-cp312-cp312-win_amd64.whl (750.1 MB)",
        "Progress 250000000 of 750100000",
        "Installing collected packages: torch, numpy",
    ):
        news.read(line)
        if line.startswith("Progress"):
            assert news.doing == "downloading torch (250 of 750 MB)"
    shown = [line.strip().rpartition(";")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        "Packages found: 2; downloading torch (750 MB)",
        "Packages found: 2; putting 2 packages in place",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (100, "1 min 40 s")]
)
def test_durations_read_as_people_say_them(start, seconds, said):
    assert start.duration(seconds) == said


def test_environment_keeps_pip_settings_and_drops_foreign_modules(start, root, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    env = start.Home(root).env(EXTRA="1")
    assert env["PIP_INDEX_URL"] == "https://index.invalid/simple"
    assert "PYTHONPATH" not in env
    assert env["PATH"].startswith(str(root / ".venv"))
    assert env["EXTRA"] == "1"


# A rehearsal with real programs

BACKEND = """
import os, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "lessonkit-0.1-py3-none-any.whl"
    meta = {"METADATA": "Metadata-Version: 2.1\\nName: lessonkit\\nVersion: 0.1\\n",
            "WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
    files = {"lessonkit-0.1.dist-info/" + key: text for key, text in meta.items()}
    files["lessonkit.pth"] = os.path.join(os.getcwd(), "src")
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr("lessonkit-0.1.dist-info/RECORD", "".join(path + ",,\\n" for path in files))
    return name
def build_wheel(*args): raise NotImplementedError
"""


@pytest.fixture
def tiny_course(root: Path) -> Path:
    """A course that needs no package, with its own stand-ins for lessonkit and JupyterLab."""
    shutil.copy(SOURCE, root / "start.py")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n', encoding="utf-8"
    )
    (root / "backend.py").write_text(BACKEND, encoding="utf-8")
    for name in ("lessonkit", "jupyterlab"):
        (root / "src" / name).mkdir(parents=True)
        text = f"import os, sys\nprint('{name} in', os.path.basename(os.getcwd()), *sys.argv[1:])\n"
        (root / "src" / name / "__main__.py").write_text(text, encoding="utf-8")
    return root


def test_rehearsal_from_bare_folder_to_second_start(start, tiny_course, tmp_path):
    env = {**os.environ, "PIP_NO_INDEX": "1", "PYTHONUTF8": "1"}

    def begin() -> str:
        command = [sys.executable, str(tiny_course / "start.py"), "--no-browser"]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first = begin()
    assert str(tiny_course / ".venv") in first
    assert f"lessonkit in {tiny_course.name} fetch" in first
    assert f"jupyterlab in {tiny_course.name} " in first
    assert "default_url=/lab/tree/notebooks/00-start-here.ipynb" in first
    assert f"root_dir={tiny_course}" in first
    assert first.index("[1/4]") < first.index("[2/4]") < first.index("[3/4]") < first.index("[4/4]")
    second = begin()
    assert "Packages: in place" in second
    home = start.Home(tiny_course)
    assert start.is_ready(home)
    home.python.unlink()
    assert start.probe(home) == {}
    assert not start.is_ready(home)
