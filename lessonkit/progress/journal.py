"""The learner's journal: one JSON event a line, only ever appended, flushed before it is acknowledged.

    {"id": "9f0c...", "time": "2026-03-01T18:20:11.000042+00:00", "schema": 1, "kind": "tick", "data": {...}}

What has happened is never rewritten, so a crash can cost at most the line being written, and merging
two machines' journals is the union of their lines. What the events mean is ``tracker``'s business.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lessonkit.errors import JournalError
from lessonkit.progress.events import SCHEMA, Event, Problem, Reading, Scan, iso, plain

__all__ = ["SCHEMA", "Event", "Journal", "MergeReport", "Problem", "Reading", "journal_path"]

FILE_NAME = "journal.jsonl"
ELSEWHERE = "set LESSONKIT_PROGRESS to a folder of your own, then try again"
OTHERS = "check the path, or copy that file to a folder of your own"  # of a journal that is merged
CLOCK_SLACK = timedelta(seconds=60)  # clocks are corrected by less than this all the time: not worth a word
# A quotation mark inside a JSON string is escaped, so no note can look like this.
TIME_FIELD, SCHEMA_FIELD = b'"time": "', b'", "schema"'
LINE_TIME = re.compile(rb'"time": "(\d{4}-\d\d-\d\dT[\d:.]{15}\+00:00)", "schema"')
MEANINGS = {
    errno.ENOSPC: ("the disk is full", "free some disk space, then try again"),
    errno.EDQUOT: ("your share of the disk is used up", "free some disk space, then try again"),
    errno.EACCES: ("this account may not read or write there", ELSEWHERE),
    errno.EPERM: ("this account may not read or write there", ELSEWHERE),
    errno.EROFS: ("the disk is read-only", ELSEWHERE),
    errno.ENOTDIR: ("a part of that path is a file, where a folder is needed", ELSEWHERE),
    errno.EEXIST: ("a part of that path is a file, where a folder is needed", ELSEWHERE),
    errno.EISDIR: ("it is a folder, where a file is needed", ELSEWHERE),
    errno.ENOENT: ("there is no such file", "check the path"),
    errno.ENAMETOOLONG: ("the path is too long", ELSEWHERE),
    errno.EIO: ("the disk reports an error", f"check the disk; {ELSEWHERE}"),
}


def journal_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where the journal lies.

    ``LESSONKIT_PROGRESS`` (a folder, or a file whose name ends in ``.jsonl``), else ``progress/`` of the
    checkout that holds this package, else the user's data folder. A relative path counts from the checkout:
    each notebook runs in a folder of its own, and all of them write to one journal.
    """
    chosen = (os.environ if environ is None else environ).get("LESSONKIT_PROGRESS", "")
    checkout = Path(__file__).resolve().parents[2]
    has_checkout = (checkout / "start.py").is_file()
    if chosen:
        try:
            path = Path(chosen).expanduser()
            path = (checkout if has_checkout else Path.cwd()) / path
        except RuntimeError as error:
            fix = "write the whole path instead of ~"
            raise JournalError(f"LESSONKIT_PROGRESS is {chosen!r}.", why=str(error), fix=fix) from error
        return path if path.suffix == ".jsonl" else path / FILE_NAME
    if has_checkout:
        return checkout / "progress" / FILE_NAME
    import platformdirs

    return Path(platformdirs.user_data_dir("lessonkit", appauthor=False)) / FILE_NAME


@dataclass(frozen=True)
class MergeReport:
    """added and already: how many events were new and how many known; problems: lines not taken over."""

    added: int
    already: int
    problems: tuple[Problem, ...]


class Journal:
    """A journal file; it and its folder are made by the first ``append``.

    path: where it lies, default ``journal_path()``. lock_seconds: how long to wait for another process.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, lock_seconds: float = 10.0) -> None:
        self.path = Path(path).absolute() if path is not None else journal_path()
        self.lock_seconds = lock_seconds

    def append(self, kind: str, /, **data: Any) -> Event:
        """Add an event; when this returns, it is on the disk.

        NumPy scalars become numbers; NaN and infinities, which JSON lacks, become the strings that
        ``float()`` reads.

        Raises:
            JournalError: the data isn't JSON, or the journal can't be written. What was there stays.
        """
        if not isinstance(kind, str) or not kind:
            fix = "journal.append('note', text='...')"
            raise JournalError(f"An event's kind is a word, not {kind!r}.", fix=fix)
        try:
            kept = json.loads(json.dumps(plain(data)))  # as it will be read back
        except (TypeError, ValueError, RuntimeError) as error:  # a tensor of several numbers raises the last
            fix = "give text, numbers, lists and dicts of these"
            raise JournalError(f"This {kind} can't be kept as JSON.", why=str(error), fix=fix) from error
        with self._opened() as descriptor:
            time, clock = self._stamp()
            event = Event(uuid.uuid4().hex, time, SCHEMA, kind, kept, clock)
            _write_durably(descriptor, self.path, [event.to_line().encode()])
        return event

    def read(self, *kinds: str, holding: str = "") -> Reading:
        """All events and all problems; no journal yet is an empty reading.

        kinds: read events of these kinds only, which is many times quicker; lines passed over on the
        way are not checked, so problems may be missing. holding: only lines that hold this text.

        Raises:
            JournalError: the file is there but can't be opened, or is a folder.
        """
        content = _read_bytes(self.path, missing_is_empty=True)
        return Scan(content, kinds, holding).reading(self.path)

    def merge(self, other: str | os.PathLike[str]) -> MergeReport:
        """Add the events of another journal that this one lacks, byte for byte; all of them or none.

        other: a journal file, or a folder that holds a ``journal.jsonl``. Lines of a newer schema are
        taken over too; unreadable ones stay where they are and are told.

        Raises:
            JournalError: there is nothing of that name, or this journal can't be written.
        """
        source = _other_journal(other)
        theirs = Scan(_read_bytes(source, missing_is_empty=False))
        with self._opened() as descriptor:
            mine = Scan(_read_bytes(self.path, missing_is_empty=True))
            missing = sorted(
                (line for line in theirs.lines if not mine.has(line)), key=lambda line: line.rank
            )
            if missing:
                _write_durably(descriptor, self.path, [line.raw for line in missing])
        lost = tuple(problem for problem in theirs.problems if problem.kind in ("torn", "unreadable"))
        return MergeReport(len(missing), len(theirs.lines) - len(missing), lost)

    @property
    def lock_path(self) -> Path:
        """The empty file by which processes take turns; it lies beside the journal's own file."""
        return Path(os.path.realpath(self.path) + ".lock")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside the ``with``, no other process writes this journal.

        Raises:
            JournalError: another process keeps it for longer than ``lock_seconds``, or it can't be written.
        """
        from filelock import FileLock, SoftFileLock, Timeout

        try:
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            os.makedirs(self.lock_path.parent, exist_ok=True)
            options = {"timeout": self.lock_seconds, "poll_interval": 0.005}
            lock: Any = FileLock(self.lock_path, **options)
            try:
                lock.acquire()
            except NotImplementedError:  # a mounted drive without locks: the file's presence is the lock
                lock = SoftFileLock(self.lock_path, **options)
                lock.acquire()
            try:
                yield
            finally:
                lock.release()
        except Timeout as error:
            raise JournalError(
                f"The journal {self.path} could not be written for {self.lock_seconds:g} seconds.",
                why="another process holds it: a notebook or another lessonkit command",
                fix=f"try again; if nothing else is running, delete {self.lock_path}",
            ) from error
        except OSError as error:
            if isinstance(error, JournalError):
                raise
            raise _explained(error, self.path, "written") from error

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor to read and append with, while no other process has one."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        with self.locked():
            descriptor = os.open(self.path, flags, 0o600)  # notes are private
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def _stamp(self) -> tuple[str, str]:
        """The time for a new event, and the clock's own where that went backwards.

        Later events sort later even if the clock was put back, else an untick could lose to the tick
        that it takes back.
        """
        latest = _latest(self.path.read_bytes())
        now = _now()
        try:
            after = datetime.fromisoformat(latest.decode()) + timedelta(microseconds=1)
        except (ValueError, OverflowError):  # no event yet, or a time that can't be: go by the clock
            return iso(now), ""
        return iso(max(now, after)), iso(now) if after - now > CLOCK_SLACK else ""


def _latest(content: bytes) -> bytes:
    """The latest time of all lines; empty where there is none.

    Merged lines may be anywhere, so all are looked at. Taking the content apart at a fixed text is several
    times quicker than reading each line, which only lines in another form need.
    """
    times = [piece[:32] for piece in content.split(TIME_FIELD)[1:] if piece[32:43] == SCHEMA_FIELD]
    found = max(times, default=b"")
    lines = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
    if len(times) == lines and (not found or LINE_TIME.match(TIME_FIELD + found + SCHEMA_FIELD)):
        return found
    return max(_times(content), default=b"")


def _times(content: bytes) -> Iterator[bytes]:
    """The time of each line that has one: in the journal's own form at once, any other line read whole."""
    for line in content.split(b"\n"):
        own = LINE_TIME.search(line)
        if own:
            yield own[1]
        elif line.strip():
            with contextlib.suppress(JournalError):
                yield Event.from_line(line.strip()).time.encode()


def _now() -> datetime:
    return datetime.now(UTC)


def _other_journal(other: str | os.PathLike[str]) -> Path:
    """The journal file that a path names, itself or as its folder."""
    path = Path(other)
    try:
        path = path.expanduser()
        return path / FILE_NAME if path.is_dir() else path
    except OSError as error:  # too long, or below a folder that this account may not look into
        raise _explained(error, path, "read", OTHERS) from error
    except RuntimeError as error:  # the home folder of nobody
        fix = "write the whole path instead of ~"
        raise JournalError(f"The journal {path} can't be read.", why=str(error), fix=fix) from error


def _read_bytes(path: Path, *, missing_is_empty: bool) -> bytes:
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return path.read_bytes()
    except FileNotFoundError as error:
        if missing_is_empty:
            return b""
        raise _explained(error, path, "read") from error
    except OSError as error:
        raise _explained(error, path, "read", "" if missing_is_empty else OTHERS) from error


def _write_durably(descriptor: int, path: Path, lines: Iterable[bytes]) -> None:
    """Append the lines in one write and flush them to the disk; a failure takes all of it back."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    os.lseek(descriptor, max(size - 1, 0), os.SEEK_SET)
    torn = size > 0 and os.read(descriptor, 1) != b"\n"
    content = (b"\n" if torn else b"") + b"".join(line + b"\n" for line in lines)
    try:
        written = os.write(descriptor, content)
        while written < len(content):  # a nearly full disk takes a part first, then says so
            written += os.write(descriptor, content[written:])
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # a drive that can't flush
                raise
    except OSError:
        with contextlib.suppress(OSError):  # else half a line stays, which the next append closes
            os.ftruncate(descriptor, size)
        raise
    if size == 0 and os.name == "posix":
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make a new file's name survive a power cut."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explained(error: OSError, path: Path, verb: str, fix: str = "") -> JournalError:
    """An operating system's error in a learner's words; ``errno`` is kept."""
    why, usual = MEANINGS.get(error.errno or 0, (error.strerror or str(error), ELSEWHERE))
    told = JournalError(f"The journal {path} can't be {verb}.", why=why, fix=fix or usual)
    told.errno = error.errno
    return told
