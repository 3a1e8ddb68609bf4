"""A version's folder: which files may be in it, how it is copied whole or not at all, and what it must hash to.

The manifest ``version.json`` stands beside the model's files: {"record": the run's, "files": {name: sha256}}. Its own
sha256 is kept elsewhere (in the registry's database), so that nobody can change a file and the manifest alike.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lessonkit.errors import ModelError
from production.records import file_sha256

__all__ = [
    "MANIFEST",
    "PART",
    "check_version",
    "copy_version",
    "lineage_of",
    "no_room",
    "refusals",
    "weights_problem",
]

MANIFEST = "version.json"
BLOCK = 2**20  # bytes that are copied at a time
#: How an unfinished copy's name begins.
PART = ".part-"
WEIGHTS, TEXTS = (".safetensors",), (".json", ".txt", ".jinja", ".md")
#: The first bytes of what `pickle` and `torch.save` write; unpickling calls whatever function the file names.
PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
PICKLE_NAMES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
#: What must be known of a version: its name here -> where it stands in the run's record.
LINEAGE = {
    "run_id": ("run_id",),
    "data_name": ("data", "name"),
    "data_sha256": ("data", "sha256"),
    "code_sha256": ("code", "sha256"),
}
MORE = {"code_commit": ("code", "commit"), "code_dirty": ("code", "dirty"), "seed": ("seed",)}


# ---- What may be in it -----------------------------------------------------------------------------------


def refusals(folder: Path) -> list[str]:
    """Why this folder may not be loaded: each file that is no safetensors and no text, whatever its name says.

    Empty if all is well. A folder without any weights is refused, too.
    """
    files = sorted(each for each in folder.rglob("*") if each.is_file() and each.name != MANIFEST)
    found = [f"{each.relative_to(folder).as_posix()} {why}" for each in files if (why := _refused(each))]
    if not any(each.suffix in WEIGHTS for each in files):
        found.append("there is no .safetensors file")
    return found


def _refused(file: Path) -> str:
    with file.open("rb") as opened:
        first = opened.read(4)
    if file.suffix in PICKLE_NAMES or first.startswith(PICKLED):
        return (
            "is a pickle: loading it can run any code" if first.startswith(PICKLED) else "has a pickle's name"
        )
    if file.suffix in WEIGHTS:
        problem = weights_problem(file)
        return f"is no safetensors: {problem}" if problem else ""
    if file.suffix not in TEXTS:
        return f"is of a kind that has no place here (weights: {WEIGHTS[0]}; texts: {', '.join(TEXTS)})"
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            json.loads(text)
    except ValueError:
        return "is not the text that its name says"
    return ""


def weights_problem(file: Path) -> str:
    """Why these aren't whole safetensors; empty if they are. Nothing but the header is read.

    The format: 8 bytes with the header's length (little-endian), the header (JSON), then all tensors' bytes.

    Source: https://github.com/huggingface/safetensors, README, "Format".
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(size - 8, 100_000_000):
            return "its first 8 bytes are no header length"
        try:
            header = json.loads(opened.read(length))
            spans = sorted(each["data_offsets"] for name, each in header.items() if name != "__metadata__")
        except (ValueError, TypeError, KeyError, AttributeError):
            return "its header is no JSON table of tensors"
    end = 0
    for start, stop in spans:
        if start != end or stop < start:
            return "its tensors overlap, or leave gaps"
        end = stop
    return "" if 8 + length + end == size else "its length isn't what the header says"


def lineage_of(record: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """{"run_id", "data_name", "data_sha256", "code_sha256", ...} of a run's record, and the names that it lacks."""
    found = {name: _at(record, path) for name, path in {**LINEAGE, **MORE}.items()}
    missing = [name for name in LINEAGE if not found[name]]
    return {name: str(value) for name, value in found.items() if value is not None}, missing


def _at(record: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = record
    for each in path:
        value = value.get(each) if isinstance(value, Mapping) else None
    return value


# ---- Copying ---------------------------------------------------------------------------------------------


def copy_version(model: Path, record: Mapping[str, Any], root: Path) -> tuple[Path, str]:
    """Copy a run's model into a new hidden folder below ``root``, to the disk. Gives it, and its manifest's sha256.

    The caller renames it. Raises ModelError if a file is not what the record says; OSError if it can't be written.
    Nothing is left behind then.
    """
    part = Path(tempfile.mkdtemp(prefix=PART, dir=root))
    try:
        files = {}
        for source in sorted(each for each in model.rglob("*") if each.is_file()):
            name = source.relative_to(model).as_posix()
            files[name] = _copy(source, part / name)
            if record["files"].get(f"{model.name}/{name}") != files[name]:
                raise ModelError(f"{name} was changed while it was copied.", fix="register the run again")
        manifest = json.dumps({"record": record, "files": files}, indent=1).encode("utf-8")
        _written(part / MANIFEST, manifest)
        _sync_folder(part)
        os.chmod(part, 0o755)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return part, hashlib.sha256(manifest).hexdigest()


def _copy(source: Path, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as write:
        while block := read.read(BLOCK):
            digest.update(block)
            write.write(block)
        write.flush()
        os.fsync(write.fileno())
    return digest.hexdigest()


def _written(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder can't be opened there
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def no_room(error: BaseException) -> bool:
    """Whether a write failed because the disk, or the share of it that this process may use, is full."""
    codes = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
    told = str(error).lower()
    full = getattr(error, "errno", None) in codes
    return full or "no space left" in told or "disk is full" in told


# ---- Checking --------------------------------------------------------------------------------------------


def check_version(folder: Path, manifest_sha256: str) -> dict[str, Any]:
    """The manifest, once it and each file were found with their hash. Raises ModelError naming all that differ."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ModelError(
            f"Version {folder.name} can't be loaded: its {MANIFEST} can't be read ({error.strerror}).",
            fix=f"bring {folder} back from a backup, or go back: python -m production.registry rollback",
        ) from None
    wrong = []
    if hashlib.sha256(content).hexdigest() != manifest_sha256:
        wrong.append(f"{MANIFEST} was changed")
    else:
        files = json.loads(content)["files"]
        there = {
            each.relative_to(folder).as_posix()
            for each in folder.rglob("*")
            if each.is_file() and each.name != MANIFEST
        }
        for name, digest in files.items():
            if name not in there:
                wrong.append(f"{name} is missing")
            elif file_sha256(folder / name) != digest:
                wrong.append(f"{name} was changed")
        wrong += [f"{name} was added" for name in sorted(there - files.keys())]
        wrong += refusals(folder)
    if wrong:
        raise ModelError(
            f"Version {folder.name} can't be loaded: {'; '.join(wrong)}.",
            why="its files are not those that were registered",
            fix=f"bring {folder} back from a backup, or go back: python -m production.registry rollback",
        )
    return json.loads(content)
