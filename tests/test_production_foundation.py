"""What the production commands share: settings, processes that end with their starter, one start at a time."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lessonkit.errors import DataError, LessonError
from production import commands, processes, settings


@dataclass(frozen=True)
class Section:
    """Settings for the tests."""

    rate: float = 0.5
    texts: int = 8
    names: tuple[str, ...] = ("a",)
    mode: str = "fast"

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate is {self.rate}, not above 0")


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_file_goes_before_the_defaults_and_options_before_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[part]\nrate = 2\ntexts = 3\nnames = ['b', 'c']\n")
    assert settings.read("part", Section, file, texts=4, mode=None) == Section(2.0, 4, ("b", "c"))
    assert settings.read("other", Section, file) == Section()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[part]\nrat = 2", "did you mean 'rate'"),
        ("[part]\ntexts = 1.5", "texts is 1.5, but must be a whole number"),
        ("[part]\ntexts = true", "a whole number"),
        ("[part]\nnames = 'b'", "names is 'b'"),
        ("[part]\nrate = 0", "not above 0"),
        ("[part\nrate = 0", "no TOML"),
        ("rate = 1", "in no section: rate"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        settings.read("part", Section, written(tmp_path, text))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        settings.read("part", Section, written(tmp_path, "[part]\nrat = 2\ntexts = 'x'\nmode = 3"))
    assert all(name in str(caught.value) for name in ("rat", "texts", "mode"))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="start from a copy"):
        settings.read("part", Section, tmp_path / "none.toml")


def test_the_variable_names_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        settings.VARIABLE, str(written(tmp_path, f"[work]\nfolder = '{tmp_path.as_posix()}/made'"))
    )
    assert settings.work_folder() == (tmp_path / "made").resolve()


def test_one_start_at_a_time(tmp_path: Path) -> None:
    hold = "import sys, time; from production.commands import only_one\n"
    hold += "with only_one(sys.argv[1], 'training'): print('held', flush=True); time.sleep(300)"
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline().strip() == "held"
        with (
            pytest.raises(LessonError, match=rf"\({holder.pid}\) is training"),
            commands.only_one(tmp_path, "training"),
        ):
            pass
        with commands.only_one(tmp_path, "registering"):
            pass
        holder.kill()
    with commands.only_one(tmp_path, "training"):  # a killed holder holds nothing
        pass


SLEEPER = "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']); "
SLEEPER += "print(child.pid, flush=True); time.sleep(300)"


def gone(pid: int, seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def first_line(log: Path) -> str:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if log.exists() and log.read_text().endswith("\n"):
            return log.read_text().splitlines()[0]
        time.sleep(0.05)
    raise AssertionError("nothing was printed")


def test_a_stopped_process_takes_its_children_along(tmp_path: Path) -> None:
    with processes.start(["python", "-c", SLEEPER], tmp_path / "log") as process:
        child = int(first_line(tmp_path / "log"))
        assert process.running
        assert psutil.pid_exists(child)
    assert not process.running
    assert gone(process.pid)
    assert gone(child)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_processes_end_when_their_starter_is_killed(tmp_path: Path) -> None:
    starter = "import sys, time; from production import processes\n"
    starter += (
        "made = processes.start(['python', '-c', sys.argv[1]], sys.argv[2]); print(made.pid, flush=True)\n"
    )
    starter += "time.sleep(300)"
    command = [sys.executable, "-c", starter, SLEEPER, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kernel:
        pid = int(kernel.stdout.readline())
        child = int(first_line(tmp_path / "log"))
        kernel.send_signal(signal.SIGKILL)
    assert gone(pid)
    assert gone(child)


def test_exit_codes_and_signals_come_through(tmp_path: Path) -> None:
    assert processes.start(["python", "-c", "raise SystemExit(3)"], tmp_path / "log").wait(120) == 3
    if os.name != "nt":
        process = processes.start(["python", "-c", "import time; time.sleep(300)"], tmp_path / "log")
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(120) == -signal.SIGKILL


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LessonError, match="no-such-program can't be started"):
        processes.start(["no-such-program"], tmp_path / "log")


def test_a_server_that_ends_at_once_is_told_with_its_words(tmp_path: Path) -> None:
    process = processes.start(
        ["python", "-c", "raise SystemExit('no room')"], tmp_path / "log", name="the server"
    )
    with pytest.raises(LessonError, match=r"(?s)the server ended \(exit code 1\).*no room"):
        process.wait_for(f"http://127.0.0.1:{processes.free_port()}/")


def test_a_server_that_answers_is_waited_for(tmp_path: Path) -> None:
    port = processes.free_port()
    command = ["python", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with processes.start(command, tmp_path / "log", folder=tmp_path) as server:
        assert server.wait_for(f"http://127.0.0.1:{port}/", 120) < 120


def test_free_ports_are_none_that_the_system_hands_out_itself() -> None:
    found = []
    for _ in range(20):
        random.seed(0)  # as each training does
        found.append(processes.free_port())
        processes.check_port(found[-1])
    assert len(set(found)) > 15
    assert max(found) < 32_768


def test_no_free_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("taken")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(LessonError, match="No free port"):
        processes.free_port()


def test_a_taken_port_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LessonError, match=f"Port {port}"):
            processes.check_port(port)
    processes.check_port(port)
