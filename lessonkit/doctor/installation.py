"""Python and its packages: what lessonkit asks for, what is here, and what to type where they differ."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lessonkit.colab import on_colab
from lessonkit.hardware import system
from lessonkit.hardware.devices import Problem

__all__ = [
    "check_packages",
    "check_python",
    "course_folder",
    "installed_version",
    "pip_install",
    "python_command",
]

Environ = Mapping[str, str]
#: Extras of pyproject.toml, and whether a lesson cannot be opened or run at all without one of their packages.
EXTRAS = {"notebooks": True, "qlora": False, "decoder": False, "labs": False}
NOT_ALWAYS_NEEDED = ("jupyterlab",)  # VS Code and Colab open notebooks too


def python_command() -> str:
    """What starts this Python: ``python`` if that does, else its path."""
    found = shutil.which("python")
    if found and os.path.realpath(found) == os.path.realpath(sys.executable):
        same_environment = Path(found).parent == Path(sys.executable).parent
        if same_environment:
            return "python"
    if os.name == "nt":
        return f'& "{sys.executable}"' if " " in sys.executable else sys.executable
    return sys.executable.replace(" ", "\\ ")  # no quotation marks: ~ for the home folder would stay as it is


def pip_install(requirements: list[str]) -> str:
    """What installs these requirements into this Python."""
    named = " ".join(f'"{each}"' if re.search(r"[<>!= ]", each) else each for each in requirements)
    if on_colab():
        return f"%pip install {named}   (in a cell, then Runtime > Restart session)"
    return f"{python_command()} -m pip install {named}"


def course_folder() -> Path | None:
    """The checkout with start.py that this package lies in, if it does."""
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "start.py").is_file() else None


def check_python(environ: Environ) -> tuple[dict[str, str], list[Problem]]:
    """Version, kind and place of this Python."""
    course = course_folder()
    venv = course / ".venv" if course else None
    in_course = venv is not None and os.path.realpath(sys.prefix) == os.path.realpath(venv)
    told = {
        "version": platform.python_version(),
        "kind": _python_kind(in_course),
        "executable": sys.executable,
    }
    problems = []
    if sys.maxsize < 2**32:
        fix = "install 64-bit Python 3.12 from python.org, then: python start.py"
        problems.append(Problem("This is a 32-bit Python; PyTorch exists for 64-bit Python only.", fix, True))
    if sys.platform == "darwin" and platform.machine() == "x86_64" and "Intel" not in system.cpu_name():
        what = "This Python is made for Intel Macs; on an Apple chip it is slow and sees no GPU."
        problems.append(Problem(what, "install Python 3.12 from python.org, then: python3.12 start.py", True))
    if course and venv.is_dir() and not in_course and not on_colab():
        what = "This Python is not the course's: .venv beside start.py holds the versions that are tested."
        activate = ".venv\\Scripts\\activate" if os.name == "nt" else "source .venv/bin/activate"
        problems.append(Problem(what, activate))
    return told, problems


def _python_kind(in_course: bool) -> str:
    if on_colab():
        return "Google Colab"
    if in_course:
        return "the course's .venv"
    if sys.prefix != sys.base_prefix:
        return "virtual environment"
    if (Path(sys.prefix) / "conda-meta").is_dir():
        return "conda environment"
    return "no environment of its own"


@dataclass(frozen=True)
class _Need:
    """A package that lessonkit asks for. broken: whether lessons cannot do without it."""

    name: str
    bounds: str
    broken: bool


def check_packages(environ: Environ) -> tuple[dict[str, str], list[Problem]]:
    """Whether every package is there and new enough; returns the versions found."""
    needs, python_bounds = _needs()
    missing, old, found = [], [], {}
    for need in needs:
        version = installed_version(need.name)
        if version is None or version == "damaged":
            missing.append(need)
            continue
        found[need.name] = version
        if not _satisfies(version, need.bounds):
            old.append(need)
    problems = []
    here = platform.python_version()
    if not _satisfies(here, python_bounds):
        what = f"This is Python {here}; lessonkit needs {python_bounds}."
        problems.append(Problem(what, "install Python 3.12, then: python3.12 start.py", broken=True))
    for broken in (True, False):
        problems += _told(
            "Not installed, or damaged", [each for each in missing if each.broken is broken], {}, broken
        )
        problems += _told("Too old", [each for each in old if each.broken is broken], found, broken)
    return found, problems


def _satisfies(version: str, bounds: str) -> bool:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return SpecifierSet(bounds).contains(Version(version), prereleases=True)
    except InvalidVersion:  # built by someone who counts otherwise: no reason to call it old
        return True


def _told(what: str, needs: list[_Need], found: Mapping[str, str], broken: bool) -> list[Problem]:
    if not needs:
        return []
    spoken = [
        f"{need.name} {found[need.name]} (needed: {need.bounds})" if found else need.name for need in needs
    ]
    for_what = "" if broken else "; some lessons need it" if len(needs) == 1 else "; some lessons need them"
    fix = pip_install([need.name + need.bounds for need in needs])
    return [Problem(f"{what}: {', '.join(spoken)}{for_what}.", fix, broken)]


def _needs() -> tuple[list[_Need], str]:
    """What lessonkit asks for, and of which Python: from the checkout's pyproject.toml, else as installed."""
    from packaging.requirements import Requirement

    course = course_folder()
    if course is not None:  # what was installed from it may be older than the file
        raw = tomllib.loads((course / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = [(line, "") for line in raw["dependencies"]]
        lines += [(line, extra) for extra in EXTRAS for line in raw["optional-dependencies"].get(extra, [])]
        python_bounds = raw["requires-python"]
    else:
        python_bounds = metadata.metadata("lessonkit")["Requires-Python"] or ""
        lines = []
        for line in metadata.requires("lessonkit") or []:
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
            if extra is None or extra[1] in EXTRAS:
                lines.append((line.partition(";")[0], extra[1] if extra else ""))
    needs = []
    for line, extra in lines:
        wanted = Requirement(line)
        broken = EXTRAS.get(extra, True) and wanted.name not in NOT_ALWAYS_NEEDED
        needs.append(_Need(wanted.name, str(wanted.specifier), broken))
    return needs, python_bounds


def installed_version(name: str) -> str | None:
    """The package's version; ``"damaged"`` if it is there but does not say; None if it is not there."""
    try:
        return metadata.version(name) or "damaged"
    except metadata.PackageNotFoundError:
        return None
    except Exception:  # metadata that was cut off raises several errors
        return "damaged"
