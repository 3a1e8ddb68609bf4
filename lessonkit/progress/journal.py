"""The learner's journal: one JSON event a line, only ever appended, flushed before it is acknowledged.

    {"id": "9f0c...", "time": "2026-03-01T18:20:11.000042+00:00", "schema": 1, "kind": "tick", "data": {...}}

What has happened is never rewritten, so a crash can cost at most the line being written, and merging
two machines' journals is the union of their lines. What the events mean is ``tracker``'s business.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lessonkit.errors import JournalError

__all__ = ["SCHEMA", "Event", "Journal", "MergeReport", "Problem", "Reading", "journal_path"]

SCHEMA = 1
FILE_NAME = "journal.jsonl"
ELSEWHERE = "set LESSONKIT_PROGRESS to a folder of your own, then try again"
CLOCK_SLACK = timedelta(seconds=60)  # clocks are corrected by less than this all the time: not worth a word
BOM = b"\xef\xbb\xbf"  # some Windows editors put it before the first line
# A quotation mark inside a JSON string is escaped, so no note can look like this.
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
    checkout that holds this package, else the user's data folder.
    """
    chosen = (os.environ if environ is None else environ).get("LESSONKIT_PROGRESS", "")
    if chosen:
        try:
            path = Path(chosen).expanduser().absolute()
        except RuntimeError as error:
            fix = "write the whole path instead of ~"
            raise JournalError(f"LESSONKIT_PROGRESS is {chosen!r}.", why=str(error), fix=fix) from error
        return path if path.suffix == ".jsonl" else path / FILE_NAME
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "start.py").is_file():
        return checkout / "progress" / FILE_NAME
    import platformdirs

    return Path(platformdirs.user_data_dir("lessonkit", appauthor=False)) / FILE_NAME


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    id: unique, 32 hexadecimal digits. time: UTC, ISO 8601 with microseconds; orders the events.
    schema: the version of this format that wrote it. kind: ``tick``, ``run``, ``note``, ...; kinds that
    this version doesn't know are kept. data: plain JSON.
    clock: what the machine's clock said, where it was more than a minute behind the journal; else empty.
    """

    id: str
    time: str
    schema: int
    kind: str
    data: dict[str, Any]
    clock: str = ""

    def to_line(self) -> str:
        """The event as one line of JSON, without the newline."""
        fields = {name: getattr(self, name) for name in ("id", "time", "schema", "kind", "data")}
        if self.clock:
            fields["clock"] = self.clock
        return json.dumps(fields, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_line(cls, line: str | bytes) -> Event:
        """The event that a line holds.

        Raises:
            JournalError: the line isn't a whole event, or a newer lessonkit wrote it.
        """
        raw = line if isinstance(line, bytes) else line.encode("utf-8", "replace")
        try:
            return _parse(raw)
        except _SetAside as aside:
            what = f"This is not an event that can be read: {aside.reason}."
            raise JournalError(what, why=_preview(raw)) from None


@dataclass(frozen=True)
class Problem:
    """Something to tell about a journal. line_number counts from 1; preview is safe to print.

    kind: ``torn`` (cut short), ``unreadable``, ``newer`` (kept for a newer lessonkit), ``conflict``
    (one id, two contents) or ``clock`` (nothing is wrong with the line; the clock was put back).
    """

    line_number: int
    reason: str
    preview: str
    kind: str = "unreadable"

    def __str__(self) -> str:
        return f"line {self.line_number}: {self.reason}: {self.preview}"


@dataclass(frozen=True)
class Reading:
    """A journal as read: events by (time, id), each id once, and what was set aside."""

    events: tuple[Event, ...]
    problems: tuple[Problem, ...]
    path: Path


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
        self._scanned = 0  # bytes already searched for the latest time
        self._latest = b""

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
        except (TypeError, ValueError, RecursionError) as error:
            fix = "give text, numbers, lists and dicts of these"
            raise JournalError(f"This {kind} can't be kept as JSON.", why=str(error), fix=fix) from error
        with self._opened() as descriptor:
            time, clock = self._stamp(descriptor)
            event = Event(uuid.uuid4().hex, time, SCHEMA, kind, kept, clock)
            _write_durably(descriptor, self.path, [event.to_line().encode()])
        return event

    def read(self, *kinds: str) -> Reading:
        """All events and all problems; no journal yet is an empty reading.

        kinds: read events of these kinds only, which is many times quicker; lines passed over on the
        way are not checked, so problems may be missing.

        Raises:
            JournalError: the file is there but can't be opened, or is a folder.
        """
        content = _read_bytes(self.path, missing_is_empty=True)
        return _scan(content, kinds).reading(self.path)

    def merge(self, other: str | os.PathLike[str]) -> MergeReport:
        """Add the events of another journal that this one lacks, byte for byte; all of them or none.

        other: a journal file, or a folder that holds a ``journal.jsonl``. Lines of a newer schema are
        taken over too; unreadable ones stay where they are and are told.
        """
        source = Path(other).expanduser()
        source = source / FILE_NAME if source.is_dir() else source
        theirs = _scan(_read_bytes(source, missing_is_empty=False))
        with self._opened() as descriptor:
            mine = _scan(_read_bytes(self.path, missing_is_empty=True))
            missing = sorted((line for line in theirs.lines if not mine.has(line)), key=_rank)
            if missing:
                _write_durably(descriptor, self.path, [line.raw for line in missing])
        lost = tuple(problem for problem in theirs.problems if problem.kind in ("torn", "unreadable"))
        return MergeReport(len(missing), len(theirs.lines) - len(missing), lost)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor to read and append with, while no other process has one."""
        from filelock import FileLock, SoftFileLock, Timeout

        lock_path = os.path.realpath(self.path) + ".lock"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            os.makedirs(os.path.dirname(lock_path), exist_ok=True)
            options = {"timeout": self.lock_seconds, "poll_interval": 0.005}
            lock: Any = FileLock(lock_path, **options)
            try:
                lock.acquire()
            except NotImplementedError:  # a mounted drive without locks: the file's presence is the lock
                lock = SoftFileLock(lock_path, **options)
                lock.acquire()
            try:
                descriptor = os.open(self.path, flags, 0o600)  # notes are private
                try:
                    yield descriptor
                finally:
                    os.close(descriptor)
            finally:
                lock.release()
        except Timeout as error:
            raise JournalError(
                f"The journal {self.path} could not be written for {self.lock_seconds:g} seconds.",
                why="another process holds it: a notebook or another lessonkit command",
                fix=f"try again; if nothing else is running, delete {lock_path}",
            ) from error
        except OSError as error:
            if isinstance(error, JournalError):
                raise
            raise _explained(error, self.path, "written") from error

    def _stamp(self, descriptor: int) -> tuple[str, str]:
        """The time for a new event, and the clock's own where that went backwards.

        Later events sort later even if the clock was put back, else an untick could lose to the tick
        that it takes back.
        """
        with self.path.open("rb") as file:
            if os.fstat(descriptor).st_size < self._scanned:  # another file by now
                self._scanned, self._latest = 0, b""
            file.seek(self._scanned)
            fresh = file.read()
        self._latest = max([self._latest, *LINE_TIME.findall(fresh)])
        self._scanned += len(fresh)
        now = _now()
        try:
            after = datetime.fromisoformat(self._latest.decode()) + timedelta(microseconds=1)
        except (ValueError, OverflowError):  # no event yet, or a time that can't be: go by the clock
            return _iso(now), ""
        return _iso(max(now, after)), _iso(now) if after - now > CLOCK_SLACK else ""


class _SetAside(Exception):  # noqa: N818 - not an error: it carries a line's verdict from parser to scan
    """A line that isn't an event of this version."""

    def __init__(self, reason: str, kind: str = "unreadable", id: str = "") -> None:
        super().__init__(reason)
        self.reason, self.kind, self.id = reason, kind, id


@dataclass(frozen=True, slots=True)
class _Line:
    """A line worth keeping: an event, or one of a newer schema (event None)."""

    number: int
    id: str
    raw: bytes
    event: Event | None


class _Scan:
    """The lines of one file: what is kept, each event once, and the problems."""

    def __init__(self) -> None:
        self.lines: list[_Line] = []
        self.problems: list[Problem] = []
        self._by_id: dict[str, list[_Line]] = {}

    def has(self, line: _Line) -> bool:
        """Whether this very event is there; a different one with the same id doesn't count."""
        known = self._by_id.get(line.id, ())
        return any(line.raw == old.raw or (line.event and line.event == old.event) for old in known)

    def add(self, line: _Line) -> None:
        if self.has(line):
            return
        if line.id in self._by_id:
            reason = "has the id of another event; the later of them counts"
            self.tell(line.number, reason, line.raw, "conflict")
        if line.event is None:
            reason = "written by a newer lessonkit, kept as it is; update lessonkit to see it"
            self.tell(line.number, reason, line.raw, "newer")
        self._by_id.setdefault(line.id, []).append(line)
        self.lines.append(line)

    def tell(self, number: int, reason: str, raw: bytes, kind: str = "unreadable") -> None:
        self.problems.append(Problem(number, reason, _preview(raw), kind))

    def reading(self, path: Path) -> Reading:
        """The events by (time, id); of two with one id the same one whatever the order of the lines."""
        late = [line for line in self.lines if line.event and line.event.clock]
        if late:
            reason = f"this machine's clock went backwards; {len(late)} event(s) keep the order they came in"
            self.tell(late[0].number, reason, late[0].raw, "clock")
        latest = [lines[0] if len(lines) == 1 else max(lines, key=_rank) for lines in self._by_id.values()]
        events = sorted(
            (line.event for line in latest if line.event), key=lambda event: (event.time, event.id)
        )
        return Reading(tuple(events), tuple(sorted(self.problems, key=lambda told: told.line_number)), path)


def _rank(line: _Line) -> tuple[str, bytes]:
    """What orders lines: their time, then their bytes; a newer schema's time isn't known."""
    return (line.event.time if line.event else "", line.raw)


def _scan(content: bytes, kinds: tuple[str, ...] = ()) -> _Scan:
    scan = _Scan()
    wanted = re.compile('"kind": *"({})"'.format("|".join(map(re.escape, kinds))).encode())
    lines = content.removeprefix(BOM).split(b"\n")
    for number, padded in enumerate(lines, start=1):
        raw = padded.strip()
        if not raw or (kinds and not wanted.search(raw)):
            continue
        try:
            event = _parse(raw)
            scan.add(_Line(number, event.id, raw, event))
        except _SetAside as aside:
            if aside.kind == "newer":
                scan.add(_Line(number, aside.id, raw, None))
            elif number == len(lines):  # no newline after it
                reason = "cut short: the program or the machine stopped while writing it"
                scan.tell(number, reason, raw, "torn")
            else:
                scan.tell(number, aside.reason, raw)
    return scan


def _parse(raw: bytes) -> Event:
    """The event in a line; raises _SetAside with the reason where there is none."""
    try:
        fields = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise _SetAside("damaged: it is not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise _SetAside("damaged or cut short: it is not JSON") from None
    if not isinstance(fields, dict):
        raise _SetAside("not an event: it is JSON but not an object")
    id, schema = fields.get("id"), fields.get("schema")
    if not isinstance(id, str) or not id:
        raise _SetAside("not an event: it has no id")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 0:
        raise _SetAside("not an event: it has no schema number")
    if schema > SCHEMA:
        raise _SetAside(f"schema {schema} is newer than this lessonkit's", "newer", id)
    kind, data, clock = fields.get("kind"), fields.get("data"), fields.get("clock", "")
    if not isinstance(kind, str) or not kind or not isinstance(data, dict) or not isinstance(clock, str):
        raise _SetAside("not an event: its kind or its data is missing")
    return Event(id, _utc(fields.get("time")), schema, kind, data, clock)


def _utc(text: object) -> str:
    """A time in the journal's own form; one without a zone is taken as UTC."""
    try:
        time = datetime.fromisoformat(text)  # type: ignore[arg-type]
        if len(text) == 32 and text[19] == "." and text.endswith("+00:00"):  # type: ignore[arg-type,index]
            return text  # type: ignore[return-value]
        return _iso(time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
    except (TypeError, ValueError, OverflowError):
        raise _SetAside("not an event: its time is not a date and time") from None


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")


def _now() -> datetime:
    return datetime.now(UTC)


def _preview(raw: bytes) -> str:
    """The start of a line, fit to be printed: no control characters, at most 60 characters."""
    text = "".join(char if char.isprintable() else "\ufffd" for char in raw[:240].decode("utf-8", "replace"))
    return text if len(text) <= 60 else text[:59] + "…"


def plain(value: Any) -> Any:
    """The value as strict JSON: NaN and infinities as text. Raises TypeError where it can't be that."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair can't be stored or shown
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        if not all(isinstance(key, str | int) for key in value):
            raise TypeError("a dict's keys must be text")
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if callable(getattr(value, "item", None)):  # a NumPy or torch scalar
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} is not text, a number, a list or a dict")


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
        raise _explained(error, path, "read") from error


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


def _explained(error: OSError, path: Path, verb: str) -> JournalError:
    """An operating system's error in a learner's words; ``errno`` is kept."""
    why, fix = MEANINGS.get(error.errno or 0, (error.strerror or str(error), ELSEWHERE))
    told = JournalError(f"The journal {path} can't be {verb}.", why=why, fix=fix)
    told.errno = error.errno
    return told
