"""What the operating system lets this process use: cores, memory, the GPU's driver. Needs no PyTorch.

A container's limits count: those of control groups, version 1 and 2, of this process's own group and
of all groups above it. What cannot be found out is None.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "GIB",
    "BusyPython",
    "NvidiaDriver",
    "busy_pythons",
    "cpu_flags",
    "cpu_name",
    "format_bytes",
    "machine_cores",
    "nvidia_driver",
    "ram_free",
    "ram_total",
    "set_command",
    "system_name",
    "unset_command",
    "usable_cores",
]

GIB = 2**30
ROOT = Path("/")


def format_bytes(count: float | None) -> str:
    """``1610612736`` -> ``'1.5 GiB'``; ``None`` and NaN -> ``'unknown'``."""
    if count is None or count != count:
        return "unknown"
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def set_command(name: str, value: str) -> str:
    """What sets an environment variable, in the shell that this system comes with."""
    return f'$env:{name} = "{value}"' if os.name == "nt" else f"export {name}={value}"


def unset_command(name: str) -> str:
    """What takes an environment variable away, in the shell that this system comes with."""
    return f"Remove-Item Env:{name}" if os.name == "nt" else f"unset {name}"


def machine_cores() -> int | None:
    """Logical cores of the whole machine; None if unknown."""
    return os.cpu_count()


def usable_cores(root: Path = ROOT) -> int:
    """Cores that this process may use: by affinity, capped by a container's CPU quota. At least 1."""
    cores = _affinity() or os.cpu_count() or 1
    for folder in _group_folders("cpu", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()  # "max" is no number: no limit
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if int(quota) > 0:  # -1 is version 1's way to say that there is no limit
                cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def _affinity() -> int | None:
    with contextlib.suppress(Exception):  # macOS has neither, Windows only the second
        read = getattr(os, "sched_getaffinity", None)
        if read is not None:
            return len(read(0))
        import psutil

        return len(psutil.Process().cpu_affinity())
    return None


def ram_total(root: Path = ROOT) -> int | None:
    """Bytes of main memory that this process may use; None if unknown."""
    memory = _virtual_memory()
    if memory is None:
        return None
    return min([memory.total, *(limit for limit, _ in _memory_limits(root))])


def ram_free(root: Path = ROOT) -> int | None:
    """Bytes of main memory that are still to be had; None if unknown."""
    memory = _virtual_memory()
    if memory is None:
        return None
    return min([memory.available, *(max(0, limit - used) for limit, used in _memory_limits(root))])


def _virtual_memory() -> Any | None:
    try:
        import psutil

        return psutil.virtual_memory()
    except Exception:  # not installed, or not able to read this system
        return None


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Each limit on this process's memory and what is in use under it, in bytes.

    The page cache that the kernel would give back at need (inactive files) is not counted as used.
    """
    for folder in _group_folders("memory", root):
        names = (("memory.max", "memory.current", "inactive_file"),)
        names += (("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),)
        for limit_file, used_file, cached in names:
            with contextlib.suppress(OSError, ValueError):  # ValueError: it says "max", which is no limit
                limit = int((folder / limit_file).read_text())
                used = _number(folder / used_file) - _statistic(folder / "memory.stat", cached)
                yield limit, max(0, used)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _statistic(path: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(name + " "):
                return int(line.split()[1])
    return 0


def _group_folders(controller: str, root: Path) -> list[Path]:
    """Folders of this process's control group and of all above it, for version 1 and version 2.

    Inside a container the path may be the host's, of which only the top is to be seen: that is read too.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    mount = root / "sys/fs/cgroup"
    folders = [mount]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controller if controllers else mount
        group = top / path.strip("/")
        folders += [group, *(above for above in group.parents if above == top or top in above.parents)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def cpu_name() -> str:
    """What the maker calls the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        name = _output(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]).strip()
        if name:
            return name
    return platform.processor() or platform.machine() or "unknown CPU"


def cpu_flags() -> frozenset[str]:
    """The instruction sets that Linux lists for the processor; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found.group(1).split() if found else ())


def system_name() -> str:
    """The operating system, its release and the processor's architecture."""
    if sys.platform == "darwin":
        name = f"macOS {platform.mac_ver()[0]}"
    elif sys.platform == "win32":
        name = f"Windows {platform.release()} ({platform.version()})"
    else:
        with contextlib.suppress(OSError):
            release = platform.freedesktop_os_release()
            inside = " under Windows (WSL)" if "microsoft" in platform.release().lower() else ""
            described = release.get("PRETTY_NAME", "Linux")
            return f"{described}{inside}, kernel {platform.release()}, {platform.machine()}"
        name = f"{platform.system()} {platform.release()}"
    return f"{name}, {platform.machine()}"


@dataclass(frozen=True)
class NvidiaDriver:
    """What ``nvidia-smi`` says.

    version: the driver's. cuda: the newest CUDA ``(major, minor)`` that it can run. Both None if unknown.
    gpus: the GPUs' names. trouble: why it could not answer, or "".
    """

    version: str | None
    cuda: tuple[int, int] | None
    gpus: tuple[str, ...] = ()
    trouble: str = ""


def nvidia_driver() -> NvidiaDriver | None:
    """The NVIDIA driver of this machine; None where there is no ``nvidia-smi``, which comes with it."""
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if program is None:
        return None
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=20, errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        return NvidiaDriver(None, None, trouble=str(error))
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        return NvidiaDriver(None, None, trouble=said[0] if said else f"exit code {done.returncode}")
    version = re.search(r"Driver Version:\s*([\d.]+)", done.stdout)
    cuda = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", done.stdout)
    names = re.findall(r"^GPU \d+: (.*?)(?: \(UUID.*)?$", _output([program, "-L"]), re.MULTILINE)
    return NvidiaDriver(
        version=version.group(1) if version else None,
        cuda=(int(cuda.group(1)), int(cuda.group(2))) if cuda else None,
        gpus=tuple(names),
    )


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, errors="replace").stdout
    except (OSError, subprocess.SubprocessError):
        return ""


@dataclass(frozen=True)
class BusyPython:
    """Another Python process at work. kind: ``"notebook kernel"`` or ``"Python"``; cores: how many it keeps busy."""

    pid: int
    kind: str
    cores: float


def busy_pythons(seconds: float = 0.3, at_least: float = 0.5) -> tuple[BusyPython, ...]:
    """This user's other Python processes that keep at least ``at_least`` cores busy, busiest first.

    seconds: how long to watch them. Processes that this one was started by are left out.
    """
    try:
        import psutil

        own = psutil.Process()
        spared = {own.pid, *(each.pid for each in own.parents())}
        user = own.username()
    except Exception:  # psutil is missing, or the system does not tell
        return ()
    began = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in spared and _is_python(process.name()) and process.username() == user:
                began[process] = _cpu_seconds(process)
    if not began:
        return ()
    clock = time.perf_counter()
    time.sleep(seconds)
    found = []
    for process, before in began.items():
        with contextlib.suppress(psutil.Error, OSError):
            cores = (_cpu_seconds(process) - before) / (time.perf_counter() - clock)
            if cores >= at_least:
                kernel = any("ipykernel" in word for word in process.cmdline())
                found.append(BusyPython(process.pid, "notebook kernel" if kernel else "Python", cores))
    return tuple(sorted(found, key=lambda each: -each.cores))


def _is_python(name: str) -> bool:
    return re.match(r"(?i)(python|pypy|ipython|jupyter|pt_main_thread|torchrun)", name) is not None


def _cpu_seconds(process: Any) -> float:
    times = process.cpu_times()
    return times.user + times.system
