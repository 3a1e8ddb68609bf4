"""On Google Colab: install what is missing, and never touch torch or NumPy, which are loaded already."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from lessonkit.errors import LessonError

__all__ = ["EXTRAS", "install_missing", "missing_requirements", "on_colab"]

NEVER_TOUCHED = ("torch", "numpy")
EXTRAS = ("decoder", "labs", "qlora")  # what lessons use beyond the core


def on_colab() -> bool:
    """Whether this Python runs on Google Colab."""
    try:
        return importlib.util.find_spec("google.colab") is not None
    except ModuleNotFoundError:  # there is no `google` package at all
        return False


def missing_requirements(extras: tuple[str, ...] = EXTRAS) -> list[str]:
    """The requirements of lessonkit that no installed package has the name of, as pip takes them.

    A package that is there in an older version is left as it is: on Colab another one may be loaded.
    """
    missing = []
    for line in metadata.requires("lessonkit") or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if extra and extra.group(1) not in extras:
            continue
        name = re.match(r"[\w.-]+", requirement).group(0)
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.strip())
    return missing


def install_missing(extras: tuple[str, ...] = EXTRAS) -> list[str]:
    """Install the missing requirements, with torch and NumPy held at the versions that are there.

    Returns what was installed. Raises LessonError if pip fails.
    """
    try:
        missing = [name for name in missing_requirements(extras) if not name.startswith(NEVER_TOUCHED)]
    except metadata.PackageNotFoundError:  # used from a checkout, without an installation
        return []
    if not missing:
        return []
    print(f"Installing for Colab: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "held.txt"
        held.write_text("".join(f"{name}=={version}\n" for name, version in _held_versions()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(held), *missing]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line]
        raise LessonError(
            "Packages that the lesson needs could not be installed.",
            why=said[-1] if said else "pip gave no reason",
            fix="choose Runtime > Disconnect and delete runtime, then run this cell again",
        )
    importlib.invalidate_caches()
    return missing


def _held_versions() -> list[tuple[str, str]]:
    held = []
    for name in NEVER_TOUCHED:
        try:
            held.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return held
