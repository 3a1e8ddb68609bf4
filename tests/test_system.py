"""What the operating system lets a process use: containers' limits, the GPU's driver, who else computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lessonkit.hardware import system
from lessonkit.hardware.system import GIB

V2 = {"proc/self/cgroup": "0::/box/inner\n"}
V1 = {"proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n"}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes a machine's /proc and /sys; it has 8 cores, 16 GiB, of which 10 are free."""
    monkeypatch.setattr(system, "_affinity", lambda: 8)
    memory = SimpleNamespace(total=16 * GIB, available=10 * GIB)
    monkeypatch.setattr(system, "_virtual_memory", lambda: memory)

    def make(files: dict[str, object]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        (V2 | {"sys/fs/cgroup/box/inner/cpu.max": "350000 100000"}, 3),
        (V2 | {"sys/fs/cgroup/box/cpu.max": "400000 100000", "sys/fs/cgroup/box/inner/cpu.max": "max 1"}, 4),
        (V2 | {"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),  # half a core is one thread
        (V2 | {"sys/fs/cgroup/cpu.max": "6400000 100000"}, 8),  # a quota above what there is
        (V2 | {"sys/fs/cgroup/cpu.max": "garbage"}, 8),
        (V2 | {"sys/fs/cgroup/cpu.max": "100000 0"}, 8),
        (V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1, "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000}, 8),
        (
            V1
            | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": 200000, "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000},
            2,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": 300000,
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": 100000,
            },
            3,
        ),
    ],
)
def test_a_containers_quota_caps_the_cores(tree, files, cores):
    assert system.usable_cores(tree(files)) == cores


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        ({}, 16, 10),
        (V2 | {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": GIB}, 16, 10),
        (V2 | {"sys/fs/cgroup/memory.max": 4 * GIB, "sys/fs/cgroup/memory.current": GIB}, 4, 3),
        (V2 | {"sys/fs/cgroup/box/memory.max": 4 * GIB, "sys/fs/cgroup/box/memory.current": 5 * GIB}, 4, 0),
        (V2 | {"sys/fs/cgroup/memory.max": 4 * GIB}, 4, 4),
        (  # what the kernel only keeps as a cache is free
            V2
            | {
                "sys/fs/cgroup/memory.max": 4 * GIB,
                "sys/fs/cgroup/memory.current": 3 * GIB,
                "sys/fs/cgroup/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}",
            },
            4,
            3,
        ),
        (V1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712}, 16, 10),
        (
            V1
            | {
                "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": 2 * GIB,
                "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": GIB,
            },
            2,
            1,
        ),
    ],
)
def test_a_containers_limit_is_the_memory(tree, files, total, free):
    root = tree(files)
    assert system.ram_total(root) == total * GIB
    assert system.ram_free(root) == free * GIB


def test_memory_is_unknown_without_psutil(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert system.ram_total() is None
    assert system.ram_free() is None
    assert system.busy_pythons() == ()


def test_this_machine():
    assert 1 <= system.usable_cores() <= (system.machine_cores() or 1)
    assert system.cpu_name()
    assert "\n" not in system.system_name()
    total, free = system.ram_total(), system.ram_free()
    assert total is None or 0 <= free <= total


SMI = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |
+-----------------------------------------------------------------------------------------+
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that puts an `nvidia-smi` in the path."""
    if os.name == "nt":
        pytest.skip("a shell script stands in for the program")

    def put(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


def test_the_driver_tells_its_version_and_gpus(smi):
    listing = "GPU 0: Tesla T4 (UUID: GPU-1)\nGPU 1: NVIDIA A100 (UUID: GPU-2)\n"
    smi(f"if [ \"$1\" = -L ]; then cat <<'E'\n{listing}E\nelse cat <<'E'\n{SMI}E\nfi\n")
    found = system.nvidia_driver()
    assert (found.version, found.cuda, found.trouble) == ("550.54.15", (12, 4), "")
    assert found.gpus == ("Tesla T4", "NVIDIA A100")


def test_a_driver_that_fails_tells_why(smi):
    smi("echo NVIDIA-SMI has failed because it could not talk to the driver; exit 9\n")
    found = system.nvidia_driver()
    assert (found.version, found.cuda, found.gpus) == (None, None, ())
    assert "could not talk" in found.trouble


def test_a_driver_that_says_nothing_known_is_unknown(smi):
    smi("echo something else\n")
    assert system.nvidia_driver() == system.NvidiaDriver(None, None)


def test_no_driver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(system.shutil, "which", lambda *_, **__: None)
    assert system.nvidia_driver() is None


def test_a_python_that_computes_is_seen_and_one_that_waits_is_not():
    script = "import sys; print('up', flush=True)\n"
    busy = subprocess.Popen([sys.executable, "-c", script + "while True: pass"], stdout=subprocess.PIPE)
    idle = subprocess.Popen(
        [sys.executable, "-c", script + "sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        for child in (busy, idle):
            child.stdout.readline()
        found = {each.pid: each for each in system.busy_pythons(0.5, at_least=0.02)}
    finally:
        for child in (busy, idle):
            child.kill()
            child.communicate()
    assert found[busy.pid].kind == "Python"
    assert found[busy.pid].cores > 0
    assert idle.pid not in found


def test_this_process_and_those_that_started_it_are_left_out(monkeypatch):
    monkeypatch.setattr(system, "_is_python", lambda name: True)  # also what is no Python, such as a shell
    found = {each.pid for each in system.busy_pythons(0.01, at_least=-1.0)}
    assert found & {os.getpid(), os.getppid()} == set()


@pytest.mark.parametrize(
    ("windows", "words"), [("posix", ("export", "unset")), ("nt", ("$env:", "Remove-Item"))]
)
def test_commands_suit_the_shell(monkeypatch, windows, words):
    monkeypatch.setattr(system, "os", SimpleNamespace(name=windows))
    assert system.set_command("NAME", "1").startswith(words[0])
    assert system.unset_command("NAME").startswith(words[1])
    assert "NAME" in system.unset_command("NAME")
