"""A run's folder, ``WORK/runs/RUN_ID/``: the model, and ``run.json``, which says how it came about.

``run.json`` is written last and in one move, so a folder without it is a run that did not end well. Its keys:
run_id, created (UTC), kind ("train" or "repeat"), repeats (a run id or ""), data, code, seed, hardware, versions,
settings, metrics, losses ([step, loss] of each step) and files (sha256 of each file below ``model/``).
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import secrets
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lessonkit.errors import DataError, ModelError, TrainingError, UnknownNameError

__all__ = [
    "KEYS",
    "MODEL",
    "RUN_FILE",
    "code_sha256",
    "code_state",
    "file_hashes",
    "file_sha256",
    "find_run",
    "incomplete_runs",
    "list_runs",
    "new_run_id",
    "read_rows",
    "read_run",
    "rows_sha256",
    "verify_run",
    "versions",
    "write_run",
]

RUN_FILE, MODEL = "run.json", "model"
#: What a record must have, each with its type; more may stand beside it.
KEYS: dict[str, type] = {
    "run_id": str,
    "created": str,
    "data": dict,
    "code": dict,
    "seed": int,
    "hardware": dict,
    "versions": dict,
    "settings": dict,
    "metrics": dict,
    "files": dict,
}
PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "wandb", "mlflow")


def new_run_id() -> str:
    """The time to the second, and four random hex digits for two runs within one: ``20260131-120000-3fa9``."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


# ---- Fingerprints ----------------------------------------------------------------------------------------


def rows_sha256(rows: Iterable[tuple[str, str]]) -> str:
    """Of (text, label name) pairs, in their order: another order is another training."""
    digest = hashlib.sha256()
    for text, label in rows:
        digest.update(json.dumps([text, label]).encode("utf-8"))
    return digest.hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """``{"model/model.safetensors": sha256}`` of all files below a run folder's ``model/``."""
    files = sorted(each for each in (folder / MODEL).rglob("*") if each.is_file())
    return {each.relative_to(folder).as_posix(): file_sha256(each) for each in files}


def file_sha256(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def code_sha256(files: Iterable[Path]) -> str:
    """Of source files' names and texts, sorted by path; how lines end does not count."""
    digest = hashlib.sha256()
    for each in sorted(files):
        digest.update(each.name.encode("utf-8") + b"\0" + each.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def code_state(files: Iterable[Path], version: str) -> dict[str, Any]:
    """{"version", "sha256", "commit", "dirty"} of the code in ``files``.

    commit, dirty: of the git repository that keeps them; None where git or a repository is missing. dirty: whether
    one of these files differs from the commit, so that the commit alone does not name the code.
    """
    files = sorted(files)
    folder = files[0].parent
    commit, changed = None, None
    if _git(folder, "ls-files", "--error-unmatch", *map(str, files[:1])) is not None:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", *map(str, files))
    dirty = None if changed is None else bool(changed)
    return {"version": version, "sha256": code_sha256(files), "commit": commit, "dirty": dirty}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Of Python, and of the libraries that a training's numbers depend on."""
    import platform

    found = {"python": platform.python_version()}
    for each in PACKAGES:
        try:
            found[each] = metadata.version(each)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_rows(file: Path) -> list[tuple[str, str]]:
    """(text, label) of each row of a CSV file with these two columns. Raises DataError if it has other ones."""
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"The data {file} can't be read: {error}.", fix="check `data` in [tracking]"
        ) from None
    if not rows or not all(row.get("text") and row.get("label") for row in rows):
        raise DataError(
            f"The data {file} has no rows, or rows without a text or a label.",
            fix="its first line must be text,label, and no field of these two may be empty",
        )
    return [(row["text"], row["label"]) for row in rows]


# ---- Writing and reading ---------------------------------------------------------------------------------


def write_run(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write ``run.json``, whole or not at all: into a file beside it, to the disk, then renamed.

    The hashes of the model's files are added. OSError (a full disk, say) is the caller's; no run.json is left then.
    """
    whole = _plain({**record, "files": file_hashes(folder)})
    problems = _problems(whole)
    if problems:
        raise TrainingError(f"This record can't be written: {'; '.join(problems)}.")
    target, beside = folder / RUN_FILE, folder / f".{RUN_FILE}.part"
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(whole, file, indent=2, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return target


def read_run(folder: str | Path) -> dict[str, Any]:
    """The record of a run's folder. Raises TrainingError for a folder without one, or with a damaged one."""
    folder = Path(folder)
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(
            f"The run {folder.name} is incomplete: it has no {RUN_FILE}.",
            why="the record is written last; that training is still running, or was interrupted before its end",
            fix=f"train again; if none runs there, the folder {folder} can be deleted",
        ) from None
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{folder / RUN_FILE} can't be read: {error}.",
            why="it was changed or damaged after it was written",
            fix="bring it back from a backup, or train again",
        ) from None
    problems = _problems(record) if isinstance(record, dict) else ["it is no JSON object"]
    if problems:
        raise TrainingError(
            f"{folder / RUN_FILE} is no record of a run: {'; '.join(problems)}.",
            fix="bring it back from a backup, or train again",
        )
    return record


def verify_run(folder: str | Path) -> dict[str, Any]:
    """The record, once each file of the model was found with its hash. Raises ModelError naming all others."""
    folder = Path(folder)
    record = read_run(folder)
    now = file_hashes(folder)
    wrong = [
        f"{name} {'is missing' if name not in now else 'was changed'}"
        for name, digest in record["files"].items()
        if now.get(name) != digest
    ]
    wrong += [f"{name} was added" for name in now if name not in record["files"]]
    if wrong:
        raise ModelError(
            f"The run {folder.name} is not what its record says: {'; '.join(wrong)}.",
            why="its files differ from those that were hashed when the training ended",
            fix="use a backup, or make it anew: python -m production.tracking repeat " + record["run_id"],
        )
    return record


def _problems(record: Mapping[str, Any]) -> list[str]:
    found = [f"{name} is missing" for name in KEYS if name not in record]
    found += [
        f"{name} is {record[name]!r}, but must be of the kind {kind.__name__}"
        for name, kind in KEYS.items()
        if name in record and (not isinstance(record[name], kind) or isinstance(record[name], bool))
    ]
    return found


def _plain(value: Any) -> Any:
    """The same in what JSON knows: no NaN and no infinity (null instead), paths as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


# ---- All runs of a work folder ---------------------------------------------------------------------------


def _folders(work: str | Path) -> list[Path]:
    runs = Path(work) / "runs"
    return sorted(each for each in runs.iterdir() if each.is_dir()) if runs.is_dir() else []


def find_run(work: str | Path, run_id: str) -> Path:
    """The folder of a complete run. UnknownNameError offers the nearest; TrainingError tells of an incomplete one."""
    found = {each.name: each for each in _folders(work)}
    if run_id not in found:
        whole = [name for name, each in found.items() if (each / RUN_FILE).is_file()]
        fix = "" if whole else "train one first: python -m production.tracking train"
        raise UnknownNameError("run", run_id, whole, fix=fix)
    read_run(found[run_id])
    return found[run_id]


def list_runs(work: str | Path) -> list[dict[str, Any]]:
    """The records of all complete runs, oldest first. A damaged record raises, and is never left out silently."""
    records = [read_run(each) for each in _folders(work) if (each / RUN_FILE).exists()]
    return sorted(records, key=lambda record: (record["created"], record["run_id"]))


def incomplete_runs(work: str | Path) -> list[str]:
    """The names of the folders without a record: interrupted, or still running."""
    return [each.name for each in _folders(work) if not (each / RUN_FILE).exists()]
