"""The doctor's checks. Each looks at one thing and returns what it found, and the problems with it.

A check takes the environment variables and may raise: ``doctor`` makes a problem of that too.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lessonkit.doctor.installation import course_folder, installed_version, pip_install, python_command
from lessonkit.errors import AssetError, HardwareError, LessonkitError, UnknownNameError
from lessonkit.hardware import Hardware, Problem, choose_threads, detect_hardware, system
from lessonkit.hardware.system import GIB, format_bytes, set_command, unset_command

__all__ = [
    "check_assets",
    "check_driver",
    "check_environment",
    "check_folders",
    "check_hardware",
    "check_journal",
    "check_processes",
    "problem_of",
]

Environ = Mapping[str, str]
OWN_VARIABLES = {f"LESSONKIT_{name}" for name in ("CACHE", "OUTPUTS", "PROGRESS", "RESULT", "SCALE")}
#: Variables of others that change what a lesson does; those that are set are shown.
SHOWN_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES"),
    *("PYTORCH_CUDA_ALLOC_CONF", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "PYTHONPATH"),
)
ROOM_BYTES = GIB  # what a lesson's saved models may take; all assets take about 600 MB


def problem_of(error: LessonkitError, *, broken: bool = True) -> Problem:
    """An error as a line of the report."""
    why = f" {error.why}" if error.why else ""
    return Problem(f"{error.what}{why}", error.fix, broken)


# ---- Machine ----------------------------------------------------------------------------------------


def check_hardware(environ: Environ) -> tuple[Hardware | None, list[Problem]]:
    """The machine as the lessons see it; None if PyTorch cannot be used."""
    problems = []
    try:
        found = detect_hardware(environ)
    except UnknownNameError as error:  # LESSONKIT_SCALE: every lesson would stop at it
        problems.append(Problem(problem_of(error).what, unset_command("LESSONKIT_SCALE"), broken=True))
        found = detect_hardware({name: environ[name] for name in environ if name != "LESSONKIT_SCALE"})
    except HardwareError as error:
        return None, [Problem(f"{error.what} {error.why}", _torch_fix(error.why), broken=True)]
    return found, [*problems, *found.problems]


def _torch_fix(why: str) -> str:
    if "WinError 126" in why or "WinError 1114" in why:
        return "install the Microsoft Visual C++ Redistributable (x64), then restart this computer"
    version = installed_version("torch")
    if version is None or version == "damaged":
        return pip_install(["torch"])
    return f"{python_command()} -m pip install --force-reinstall --no-deps torch=={version.partition('+')[0]}"


def check_driver(environ: Environ) -> tuple[dict[str, str | None], list[Problem]]:
    """The NVIDIA driver and the newest CUDA it runs; empty without one. Its problems are the hardware's."""
    driver = system.nvidia_driver()
    if driver is None:
        return {}, []
    cuda = "{}.{}".format(*driver.cuda) if driver.cuda else None
    return {"driver": driver.version, "driver_cuda": cuda}, []


def check_processes(environ: Environ) -> tuple[list[dict], list[Problem]]:
    """Other Python processes that compute right now."""
    busy = system.busy_pythons()
    listed = [{"pid": each.pid, "kind": each.kind, "cores": round(each.cores, 1)} for each in busy]
    if not busy:
        return listed, []
    spoken = ", ".join(f"{each.kind} {each.pid} on {each.cores:.1f} cores" for each in busy[:3])
    spoken += f" and {len(busy) - 3} more" if len(busy) > 3 else ""
    what = f"Other Python processes are computing: {spoken}. Trainings at the same time slow each other down"
    fix = "wait for them, or shut down the notebooks that you do not need (JupyterLab: Kernel > Shut Down)"
    return listed, [Problem(f"{what} several times over.", fix)]


# ---- Environment variables --------------------------------------------------------------------------


def check_environment(environ: Environ) -> tuple[dict[str, str], list[Problem]]:
    """The variables that change what a lesson does, and those of them that say nothing sensible."""
    own = sorted(name for name in environ if name.startswith("LESSONKIT_"))
    told = {name: environ[name] for name in (*own, *SHOWN_VARIABLES) if name in environ}
    problems = [_unknown_variable(name) for name in own if name not in OWN_VARIABLES]
    problems += _threads_problem(environ)
    devices = environ.get("CUDA_VISIBLE_DEVICES", "")
    entry = r"\s*(\d+|-1|(GPU|MIG)-[\w/-]+)\s*"  # anything else ends the list: the GPUs after it are hidden
    if devices.strip() and not re.fullmatch(f"{entry}(,{entry})*", devices):
        what = f"CUDA_VISIBLE_DEVICES={devices} is no list of GPU numbers such as 0 or 0,1, and hides GPUs."
        problems.append(Problem(what, unset_command("CUDA_VISIBLE_DEVICES")))
    return told, problems


def _unknown_variable(name: str) -> Problem:
    known = sorted(each.removeprefix("LESSONKIT_") for each in OWN_VARIABLES)
    meant = difflib.get_close_matches(name.removeprefix("LESSONKIT_"), known, n=1)
    hint = f" Did you mean LESSONKIT_{meant[0]}?" if meant else f" It knows LESSONKIT_{', '.join(known)}."
    return Problem(f"{name} is set, but lessonkit does not know it.{hint}", unset_command(name))


def _threads_problem(environ: Environ) -> list[Problem]:
    asked = environ.get("OMP_NUM_THREADS", "").strip()
    if not asked:
        return []
    cores = system.usable_cores()
    _, why = choose_threads(cores, environ)
    if "passed over" in why:
        what = f"OMP_NUM_THREADS={asked} is not a number from 1 on; it is passed over."
    elif "asks for more" in why:
        what = f"OMP_NUM_THREADS={asked} is more than the {cores} cores that this process may use."
    else:
        return []
    return [Problem(what, unset_command("OMP_NUM_THREADS"))]


# ---- Files ------------------------------------------------------------------------------------------


def check_assets(environ: Environ) -> tuple[dict[str, Any], list[Problem]]:
    """Which models and datasets are in the cache, complete and undamaged."""
    from lessonkit.assets import assets, is_fetched

    folder = _cache_folder()
    fetched = {name: is_fetched(name) for name in assets()}
    missing = [name for name, there in fetched.items() if not there]
    problems = []
    if missing:
        what = (
            f"Not in the cache, or damaged there: {', '.join(missing)}. A lesson that needs one fetches it."
        )
        problems.append(Problem(what, f"lessonkit fetch {' '.join(missing)}"))
        problems += _place_problem("The cache for models and data", folder, "LESSONKIT_CACHE")
    return {"fetched": fetched, "cache": str(folder)}, problems


def check_journal(environ: Environ) -> tuple[dict[str, Any], list[Problem]]:
    """Where progress is kept, and whether it can be read and written."""
    from lessonkit.progress import Journal

    journal = Journal()
    reading = journal.read()
    problems = _place_problem("Your progress", journal.path.parent, "LESSONKIT_PROGRESS")
    aside = [str(each) for each in reading.problems]
    if aside:
        more = f" And {len(aside) - 2} more." if len(aside) > 2 else ""
        what = f"The journal has something to tell; its other lines count. {'. '.join(aside[:2])}.{more}"
        problems.append(
            Problem(what, f"look at it: {journal.path}; a line that is lost you may delete there")
        )
    return {"path": str(journal.path), "events": len(reading.events)}, problems


def check_folders(environ: Environ) -> tuple[dict[str, int | None], list[Problem]]:
    """Room on the disks of the cache and of what lessons save, in bytes."""
    base = course_folder() or Path.cwd()
    outputs = Path(environ.get("LESSONKIT_OUTPUTS") or base / "outputs")
    room = {"cache_free_bytes": None, "outputs_free_bytes": _free(outputs)}
    with contextlib.suppress(AssetError):  # the check of assets tells it
        room["cache_free_bytes"] = _free(_cache_folder())
    problems = _place_problem("What lessons save", outputs, "LESSONKIT_OUTPUTS")
    free = room["outputs_free_bytes"]
    if free is not None and free < ROOM_BYTES:
        what = f"The disk for what lessons save has only {format_bytes(free)} free."
        problems.append(
            Problem(
                what, f"empty {outputs}, or take another disk: {set_command('LESSONKIT_OUTPUTS', 'FOLDER')}"
            )
        )
    return room, problems


def _cache_folder() -> Path:
    """The cache for assets. Raises AssetError if it is in the home folder of a user that is not there."""
    from lessonkit.assets import cache_folder

    try:
        return cache_folder()
    except RuntimeError as error:
        what = f"LESSONKIT_CACHE is {os.environ.get('LESSONKIT_CACHE', '')!r}."
        fix = set_command("LESSONKIT_CACHE", "FOLDER")
        raise AssetError(what, why=str(error), fix=fix) from error


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next((each for each in (folder, *folder.parents) if os.path.lexists(each)), folder)


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(_existing(folder)).free
    except OSError:
        return None


def _place_problem(what: str, folder: Path, variable: str) -> list[Problem]:
    """The problem if nothing can be written in a folder that is there, or is to be made."""
    there = _existing(folder)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    why = "this account may not write there" if there.is_dir() else f"{there} is not a folder"
    fix = unset_command(variable) if os.environ.get(variable) else set_command(variable, "FOLDER")
    return [Problem(f"{what} cannot be written to {folder}: {why}.", fix, broken=True)]
