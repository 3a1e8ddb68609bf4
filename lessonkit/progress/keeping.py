"""All that is kept about a learner, in one place: show it, take it along, delete it.

That is the journal with its lock file, and what lessons saved in the outputs folder (models that the learner
trained). The cache of fetched models and datasets is not personal: it is the same on every machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.errors import JournalError
from lessonkit.progress.folding import fold
from lessonkit.progress.journal import Journal
from lessonkit.progress.portfolio import export

if TYPE_CHECKING:
    from lessonkit.curriculum import Curriculum

__all__ = ["Deleted", "Kept", "delete_all", "export_all", "outputs_folder", "what_is_kept", "write_new"]

ABOUT = """\
What lessonkit kept about you, as of the day this file was made.

journal.jsonl   every event, one line of JSON each: ticks, runs, exercises, notes, timers
portfolio.md    the same as a text to read, your notes included
portfolio.html  the same as a page for a browser

To go on with it elsewhere: unpack it there, and type: lessonkit merge journal.jsonl
"""


@dataclass(frozen=True)
class Kept:
    """What is kept, and where.

    journal: the file. exists: whether it is there yet. bytes: its size. kinds: how many events of each kind,
    the most frequent first. first, last: times (UTC, ISO 8601) of the oldest and newest event, or empty.
    unreadable: lines that hold no event of this version. outputs: (folder, bytes) for each lesson's own.
    """

    journal: Path
    exists: bool
    bytes: int
    kinds: Mapping[str, int]
    first: str
    last: str
    unreadable: int
    outputs: tuple[tuple[Path, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = {name: getattr(self, name) for name in ("exists", "bytes", "first", "last", "unreadable")}
        outputs = {str(folder): size for folder, size in self.outputs}
        return {"journal": str(self.journal), **plain, "kinds": dict(self.kinds), "outputs": outputs}


@dataclass(frozen=True)
class Deleted:
    """removed: what is gone. left: what was not touched, each with the reason."""

    removed: tuple[str, ...]
    left: tuple[str, ...]


def outputs_folder(root: Path | None = None) -> Path:
    """Where lessons save models and files: ``LESSONKIT_OUTPUTS``, else ``outputs`` in the checkout or here.

    A relative path counts from there too, so that a notebook and the command line mean the same folder.
    """
    from lessonkit.curriculum import project_root

    return (root or project_root() or Path.cwd()) / (os.environ.get("LESSONKIT_OUTPUTS") or "outputs")


def what_is_kept(journal: Journal, curriculum: Curriculum) -> Kept:
    """Count it all. Raises JournalError if the journal is there and can't be read."""
    reading = journal.read()
    kinds = Counter(event.kind for event in reading.events)
    times = [event.time for event in reading.events]
    there = journal.path.exists()
    return Kept(
        journal.path,
        there,
        journal.path.stat().st_size if there else 0,
        dict(kinds.most_common()),
        min(times, default=""),
        max(times, default=""),
        sum(problem.kind in ("torn", "unreadable", "newer") for problem in reading.problems),
        tuple((folder, _size(folder)) for folder in _own_outputs(curriculum)),
    )


def export_all(journal: Journal, curriculum: Curriculum, file: Path, *, force: bool = False) -> Path:
    """Write a zip with the journal, byte for byte, and the portfolio with all notes. Returns the file.

    Raises JournalError if the file is there already and not ``force``, or can't be written.
    """
    progress = fold(journal.read().events, curriculum)

    def fill(target: Path) -> None:
        # Some mounted drives say that a file is of 1970, for which a zip has no words.
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            archive.writestr("README.txt", ABOUT)
            if journal.path.exists():
                archive.write(journal.path, "journal.jsonl")
            for form, name in (("markdown", "portfolio.md"), ("html", "portfolio.html")):
                archive.writestr(name, export(progress, curriculum, form, with_notes=True))

    write_new(file, fill, force=force)
    return file


def write_new(file: Path, fill: Callable[[Path], object], *, force: bool = False) -> None:
    """Let ``fill(path)`` write a file that is then there whole or not at all.

    Raises JournalError if it is there already and not ``force``, or can't be written.
    """
    try:
        if file.is_dir():
            raise JournalError(
                f"{file} is a folder.", fix=f"name a file in it, such as {file / 'portfolio.html'}"
            )
        if file.exists() and not force:
            raise JournalError(f"{file} is there already.", fix="choose another name, or add --force")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".lessonkit-") as folder:
            part = Path(folder) / "part"
            fill(part)
            os.replace(part, file)
    except OSError as error:
        if isinstance(error, JournalError):
            raise
        why = error.strerror or str(error)
        raise JournalError(
            f"{file} can't be written.", why=why, fix="name a file in another folder"
        ) from error


def delete_all(journal: Journal, curriculum: Curriculum) -> Deleted:
    """Delete the journal, its lock and the lessons' outputs, while no other process writes.

    No link is followed: of a link only the link itself is deleted, and where it led is told.
    Raises JournalError if another process holds the journal, or something can't be deleted.
    """
    removed: list[str] = []
    left: list[str] = []
    base = outputs_folder()
    if os.path.islink(base):
        left.append(f"{base}: it is a link to {os.path.realpath(base)}; look there yourself")
    try:
        lock = journal.lock_path  # asked now: it lies beside the file that a link leads to
        if os.path.lexists(journal.path) or lock.exists():
            with journal.locked():  # the journal first: where it can't be had, nothing at all is deleted
                _remove(journal.path, removed, left)
                _remove_lock(lock)
            _remove_lock(lock)  # where a file that is open can't be deleted
            removed.append(str(lock))
        for folder in _own_outputs(curriculum):
            _remove(folder, removed, left)
        with contextlib.suppress(OSError):  # it holds something that no lesson saved, or was never there
            base.rmdir()
    except OSError as error:
        if isinstance(error, JournalError):
            raise
        gone = f" Already deleted: {', '.join(removed)}." if removed else ""
        fix = "close what has it open, then try again"
        why = error.strerror or str(error)
        raise JournalError(f"{error.filename} can't be deleted.{gone}", why=why, fix=fix) from error
    return Deleted(tuple(removed), tuple(left))


def _own_outputs(curriculum: Curriculum) -> list[Path]:
    """What lessons saved; whatever else lies in the outputs folder is none of ours."""
    base = outputs_folder()
    if os.path.islink(base):  # which, unlike a Path's own question, never raises
        return []
    folders = [base / lesson.id.replace("/", "-") for lesson in curriculum.lessons if lesson.runnable]
    return [folder for folder in folders if os.path.lexists(folder)]


def _remove(path: Path, removed: list[str], left: list[str]) -> None:
    if path.is_symlink():
        left.append(f"{os.path.realpath(path)}: {path} was a link to it, and only the link is deleted")
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    else:
        return
    removed.append(str(path))


def _remove_lock(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count as nothing."""
    if path.is_symlink():
        return 0
    inside = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    total = 0
    for each in inside if path.is_dir() else (path,):
        with contextlib.suppress(OSError):  # gone by now: a training deletes its older checkpoints
            total += 0 if each.is_symlink() else each.lstat().st_size
    return total
