"""A journal's lines and the events in them: parsing, setting aside, ordering, and what may be kept.

Nothing here touches a file: text in, events and problems out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lessonkit.errors import JournalError

__all__ = ["SCHEMA", "Event", "Line", "Problem", "Reading", "Scan", "iso", "local_time", "plain"]

SCHEMA = 1
BOM = b"\xef\xbb\xbf"  # some Windows editors put it before the first line


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

    @property
    def rank(self) -> tuple[str, str]:
        """What orders events: their time, then their id."""
        return (self.time, self.id)

    @property
    def moment(self) -> str:
        """When it happened by the machine's own clock: what durations and days are counted with."""
        return self.clock or self.time

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


class _SetAside(Exception):  # noqa: N818 - not an error: it carries a line's verdict from parser to scan
    """A line that isn't an event of this version."""

    def __init__(self, reason: str, kind: str = "unreadable", id: str = "") -> None:
        super().__init__(reason)
        self.reason, self.kind, self.id = reason, kind, id


@dataclass(frozen=True, slots=True)
class Line:
    """A line worth keeping: an event, or one of a newer schema (event None)."""

    number: int
    id: str
    raw: bytes
    event: Event | None

    @property
    def rank(self) -> tuple[str, bytes]:
        """What orders lines: their time, then their bytes; a newer schema's time isn't known."""
        return (self.event.time if self.event else "", self.raw)


class Scan:
    """The lines of one file: what is kept, each event once, and the problems.

    kinds: look at the lines of these kinds only; none means all. holding: only at lines with this text.
    """

    def __init__(self, content: bytes, kinds: tuple[str, ...] = (), holding: str = "") -> None:
        self.lines: list[Line] = []
        self.problems: list[Problem] = []
        self._by_id: dict[str, list[Line]] = {}
        wanted = re.compile('"kind": *"({})"'.format("|".join(map(re.escape, kinds))).encode())
        lines = _lines_holding(content.removeprefix(BOM), holding.encode())
        for number, padded, ended in lines:
            raw = padded.strip()
            if raw and (not kinds or wanted.search(raw)):
                self._take(number, raw, ended=ended)

    def has(self, line: Line) -> bool:
        """Whether this very event is there; a different one with the same id doesn't count."""
        known = self._by_id.get(line.id, ())
        return any(line.raw == old.raw or (line.event and line.event == old.event) for old in known)

    def _take(self, number: int, raw: bytes, *, ended: bool) -> None:
        """Keep or tell one line. ended: whether a newline follows it."""
        try:
            event = _parse(raw)
            self._keep(Line(number, event.id, raw, event))
        except _SetAside as aside:
            if aside.kind == "newer":
                self._keep(Line(number, aside.id, raw, None))
            elif ended:
                self._tell(number, aside.reason, raw)
            else:
                reason = "cut short: the program or the machine stopped while writing it"
                self._tell(number, reason, raw, "torn")

    def _keep(self, line: Line) -> None:
        if self.has(line):
            return
        if line.id in self._by_id:
            reason = "has the id of another event; the later of them counts"
            self._tell(line.number, reason, line.raw, "conflict")
        if line.event is None:
            reason = "written by a newer lessonkit, kept as it is; update lessonkit to see it"
            self._tell(line.number, reason, line.raw, "newer")
        self._by_id.setdefault(line.id, []).append(line)
        self.lines.append(line)

    def _tell(self, number: int, reason: str, raw: bytes, kind: str = "unreadable") -> None:
        self.problems.append(Problem(number, reason, _preview(raw), kind))

    def reading(self, path: Path) -> Reading:
        """The events by (time, id); of two with one id the same one whatever the order of the lines."""
        late = [line for line in self.lines if line.event and line.event.clock]
        if late:
            reason = f"this machine's clock went backwards; {len(late)} event(s) keep the order they came in"
            self._tell(late[0].number, reason, late[0].raw, "clock")
        latest = [max(lines, key=lambda line: line.rank) for lines in self._by_id.values()]
        events = sorted((line.event for line in latest if line.event), key=lambda event: event.rank)
        return Reading(tuple(events), tuple(sorted(self.problems, key=lambda told: told.line_number)), path)


def _lines_holding(content: bytes, text: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Each line that holds the text: its number from 1, its bytes, and whether a newline follows it."""
    if not text:
        lines = content.split(b"\n")
        yield from ((number, raw, number < len(lines)) for number, raw in enumerate(lines, start=1))
        return
    number, start, found = 1, 0, content.find(text)
    while found >= 0:
        begin = content.rfind(b"\n", 0, found) + 1
        number += content.count(b"\n", start, begin)
        end = content.find(b"\n", found)
        start = end if end >= 0 else len(content)
        yield number, content[begin:start], end >= 0
        found = content.find(text, start)


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
        return iso(time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
    except (TypeError, ValueError, OverflowError):
        raise _SetAside("not an event: its time is not a date and time") from None


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


def iso(time: datetime) -> str:
    """A time as the journal writes it: ISO 8601 with microseconds."""
    return time.isoformat(timespec="microseconds")


def local_time(time: str) -> str:
    """A time of the journal as the learner's own clock shows it, to the minute."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # a year that the machine's calendar doesn't reach
        return time[:16].replace("T", " ")
