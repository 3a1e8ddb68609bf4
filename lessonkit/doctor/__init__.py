"""``lessonkit doctor``: what this machine and installation are, and what to mend, to read or to paste.

It goes on where something is broken, so that the report is whole, and it never raises.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lessonkit import __version__
from lessonkit.doctor import checks as checks
from lessonkit.doctor import installation
from lessonkit.errors import LessonkitError
from lessonkit.hardware import REPORTED_PACKAGES, Hardware, Problem, system, versions
from lessonkit.hardware.system import format_bytes

__all__ = ["Report", "examine"]

WIDTH, INDENT = 100, 11
PACKAGES = (*REPORTED_PACKAGES, "jupyterlab", "ipywidgets", "ipykernel")


@dataclass(frozen=True)
class Report:
    """What was found. facts: by check, as the check returned it. problems: broken things first."""

    facts: Mapping[str, Any]
    problems: tuple[Problem, ...]

    @property
    def broken(self) -> bool:
        """Whether something must be mended before the lessons run."""
        return any(problem.broken for problem in self.problems)

    @property
    def hardware(self) -> Hardware | None:
        """The machine; None if PyTorch cannot be used."""
        return self.facts["hardware"]

    def to_dict(self) -> dict:
        """Plain data, as ``lessonkit doctor --json`` prints it. ``hardware`` is None without PyTorch."""
        facts = self.facts
        return {
            "lessonkit": __version__,
            "hardware": self.hardware.to_dict() if self.hardware else None,
            "versions": facts["versions"],
            "assets": facts["assets"]["fetched"],
            "cache": facts["assets"]["cache"],
            "journal": facts["journal"]["path"],
            "system": facts["system"],
            "python": facts["python"],
            "driver": facts["driver"],
            "environment": facts["environment"],
            "disk": facts["folders"],
            "busy_processes": facts["processes"],
            "problems": [asdict(problem) for problem in self.problems],
        }

    def text(self) -> str:
        """The report as plain text, with ~ for the home folder."""
        lines = [f"lessonkit {__version__}, what `lessonkit doctor` found", ""]
        for name, value in [*_machine_rows(self.facts), *_installation_rows(self.facts)]:
            lines += _wrapped(f"{name:<{INDENT}}", without_home(value))
        lines += ["", *_mending(self.problems)]
        return without_home("\n".join(lines))


def examine() -> Report:
    """Look at everything; a check that fails becomes a problem of the report, and the others go on."""
    nowhere = {"fetched": {}, "cache": ""}
    room = {"cache_free_bytes": None, "outputs_free_bytes": None}
    steps: list[tuple[str, Callable, Any]] = [
        ("hardware", checks.check_hardware, None),
        ("driver", checks.check_driver, {}),
        ("python", installation.check_python, {}),
        ("packages", installation.check_packages, {}),
        ("versions", lambda _: (versions(PACKAGES), []), {}),
        ("system", lambda _: (_system(), []), {}),
        ("environment", checks.check_environment, {}),
        ("assets", checks.check_assets, nowhere),
        ("journal", checks.check_journal, {"path": "", "events": None}),
        ("folders", checks.check_folders, room),
        ("processes", checks.check_processes, []),
    ]
    facts, problems = {}, []
    for name, check, otherwise in steps:
        facts[name], found = _guarded(name, check, otherwise)
        problems += found
    problems = list(dict.fromkeys(problems))  # two checks may meet the same trouble
    return Report(facts, tuple(sorted(problems, key=lambda problem: not problem.broken)))


def _guarded(name: str, check: Callable, otherwise: Any) -> tuple[Any, list[Problem]]:
    try:
        return check(os.environ)
    except LessonkitError as error:
        return otherwise, [checks.problem_of(error)]
    except Exception as error:  # a report with a hole in it helps more than none
        said = next(iter(str(error).splitlines()), "")
        what = f"The check of {name} could not be made ({type(error).__name__}: {said})."
        return otherwise, [Problem(what, _fix_for(error), broken=True)]


def _fix_for(error: Exception) -> str:
    if isinstance(error, ImportError) and error.name:
        return installation.pip_install([error.name])
    return "python start.py   (mends the installation); if it stays so, ask for help with this report"


def _system() -> dict[str, Any]:
    return {
        "name": system.system_name(),
        "cpu_name": system.cpu_name(),
        "cpu_cores": system.usable_cores(),
        "machine_cores": system.machine_cores(),
        "ram_total_bytes": system.ram_total(),
        "ram_free_bytes": system.ram_free(),
    }


# ---- As text ----------------------------------------------------------------------------------------


def _machine_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine, found = facts["system"], facts["hardware"]
    cores, all_cores = machine.get("cpu_cores", "unknown"), machine.get("machine_cores")
    of_all = f" of {all_cores}" if all_cores and all_cores != cores else ""
    features = f", {', '.join(found.cpu_features)}" if found and found.cpu_features else ""
    processor = f"{machine.get('cpu_name', 'unknown')}, {cores}{of_all} cores{features}"
    ram = f"{_of(machine.get('ram_free_bytes'), machine.get('ram_total_bytes'))}"
    if found is None:
        unknown = "unknown (the reason is below)"
        return [("device", unknown), ("processor", processor), ("memory", ram)]
    rows = [("device", f"{found.device_name} ({found.reasons['device']})")]
    for gpu in found.gpus:
        capability = "{}.{}".format(*gpu.compute_capability) if gpu.compute_capability else "unknown"
        used = "" if found.device == "cuda" and gpu.index == 0 else ", not used"
        spoken = f"{gpu.name}, " + ("" if "ROCm" in found.backend else f"compute capability {capability}, ")
        memory = _of(gpu.memory_free_bytes, gpu.memory_total_bytes)
        rows.append((f"GPU {gpu.index}", f"{spoken}{memory}{used}"))
    if found.device == "mps":
        rows.append(("GPU", _of(found.memory_free_bytes, found.memory_total_bytes)))
    rows += [("processor", processor), ("memory", ram)]
    for name in ("dtype", "attention", "threads", "scale"):
        rows.append((name, f"{getattr(found, name)} ({found.reasons[name]})"))
    return rows


def _of(free: int | None, total: int | None) -> str:
    return f"{format_bytes(free)} of {format_bytes(total)} free"


def _installation_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    python, found, driver = facts["python"], facts["hardware"], facts["driver"]
    rows = [("system", facts["system"].get("name", "unknown"))]
    rows.append(("python", ", ".join(python.values()) or "unknown"))
    listed = {"lessonkit": __version__, **facts["versions"]}
    rows.append(("versions", ", ".join(f"{k} {v}" for k, v in listed.items() if k != "python")))
    built = [found.backend] if found and found.backend else []
    if driver:
        built.append(
            f"NVIDIA driver {driver['driver'] or 'unknown'}, for CUDA up to {driver['driver_cuda'] or 'unknown'}"
        )
    if built:
        rows.append(("GPU driver", "; ".join(built)))
    variables = " ".join(f"{name}={_quoted(value)}" for name, value in facts["environment"].items())
    rows.append(("variables", variables or "none that matter here"))
    fetched = facts["assets"]["fetched"]
    rows.append(
        ("assets", f"{sum(fetched.values())} of {len(fetched)} in {facts['assets']['cache'] or 'unknown'}")
    )
    events = facts["journal"]["events"]
    counted = f", {events} events" if events is not None else ""
    rows.append(("journal", f"{facts['journal']['path'] or 'unknown'}{counted}"))
    free = [format_bytes(facts["folders"][f"{name}_free_bytes"]) for name in ("cache", "outputs")]
    rows.append(("disk", "{} free for assets, {} for what lessons save".format(*free)))
    return rows


def _quoted(value: str) -> str:
    """A value on one line, short enough for a report."""
    shown = value if len(value) <= 60 else value[:57] + "..."
    return shown if shown.isprintable() and shown and " " not in shown else repr(shown)


def _mending(problems: tuple[Problem, ...]) -> list[str]:
    if not problems:
        return ["Nothing to mend."]
    broken = sum(problem.broken for problem in problems)
    lines = [f"To mend: {broken} broken, {len(problems) - broken} that could be better"]
    for number, problem in enumerate(problems, 1):
        kind = "" if problem.broken else "(hint) "
        lines += _wrapped(f"{number:>2}. ", kind + without_home(problem.what))
        lines.append(f"    -> {' '.join(problem.fix.split())}")  # one line: it is there to be copied
    return lines


def _wrapped(first: str, text: str) -> list[str]:
    options = {"break_long_words": False, "break_on_hyphens": False}
    text = " ".join(text.split())
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first), **options
    ) or [first]


def without_home(text: str, home: Path | None = None) -> str:
    """The text with ~ for the home folder: a report that is pasted in public names no user."""
    folder = home or Path.home()
    for spelling in dict.fromkeys([str(folder), os.path.realpath(folder), folder.as_posix()]):
        if len(Path(spelling).parts) > 1:  # a home at the root of the disk names nobody
            for written in (spelling, spelling.replace("\\", "\\\\")):
                flags = re.IGNORECASE if os.name == "nt" else 0
                text = re.sub(rf"{re.escape(written)}(?![\w.-])", "~", text, flags=flags)
    return text
