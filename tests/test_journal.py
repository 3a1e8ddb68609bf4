"""The journal loses nothing: not to crashes, neighbours, full disks, or merging in any order."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonkit.errors import JournalError, LessonkitError
from lessonkit.progress import journal as module
from lessonkit.progress.events import SCHEMA, Event
from lessonkit.progress.journal import Journal, journal_path

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 600  # seconds, for what takes ten on a machine with nothing else to do
WRITER = """
import sys
from lessonkit.progress.journal import Journal
journal = Journal(sys.argv[1])
for number in range(int(sys.argv[2])):
    print(journal.append("note", text=sys.argv[3], number=number).id, flush=True)
"""
# Forks a writer, kills it at a random moment, and again; prints which events had been acknowledged. On a busy machine
# a victim may not have begun within any fixed time, so most of them are first heard of.
KILLER = """
import json, os, random, signal, sys, time
from lessonkit.progress.journal import Journal
import filelock

journal, kills, acknowledged, killed = Journal(sys.argv[1]), int(sys.argv[2]), [], 0
chance = random.Random(0)
acknowledged.append(journal.append("note").id)
for victim in range(kills):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        whole = os.write
        if victim % 2:  # a slow disk, which takes a line in pieces: the kill may come between two
            os.write = lambda descriptor, content: time.sleep(0.0003) or whole(descriptor, content[:200])
        while True:
            event = journal.append("note", text="x" * chance.choice((10, 500, 5_000)))
            whole(writing, event.id.encode() + b"\\n")
    os.close(writing)
    said = os.read(reading, 33) if victim % 4 else b""  # most are killed at work, some before their first event
    time.sleep(chance.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    killed += os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    while piece := os.read(reading, 65536):
        said += piece
    os.close(reading)
    acknowledged += said.decode().splitlines()
print(json.dumps({"killed": killed, "acknowledged": acknowledged}))
"""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "progress" / "journal.jsonl")


def make_event(number: int, kind: str = "note", **fields: object) -> Event:
    time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=number)
    data = {"id": f"{number:032x}", "time": time.isoformat(timespec="microseconds"), "schema": SCHEMA}
    return Event(**(data | {"kind": kind, "data": {"number": number}} | fields))  # type: ignore[arg-type]


def newer_line(number: int) -> str:
    return json.dumps({"id": f"newer{number}", "schema": SCHEMA + 1, "when": "a new field", "n": number})


def start_writer(path: Path, count: int, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(count), text],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def lines_of(journal: Journal) -> list[bytes]:
    return journal.path.read_bytes().splitlines()


# ---- Writing and reading ---------------------------------------------------------------------------


def test_no_journal_yet_is_an_empty_reading_and_makes_no_file(journal: Journal) -> None:
    reading = journal.read()
    assert (reading.events, reading.problems, reading.path) == ((), (), journal.path)
    assert not journal.path.parent.exists()


def test_what_is_appended_is_read_back_equal(journal: Journal) -> None:
    data = {
        "text": 'tab\t newline\n emoji 😀 \u2028 quote "',
        "list": [1, 2.5, None, True],
        "kind": "x",
        "self": 1,
    }
    first = journal.append("note", **data)
    second = journal.append("some-future-kind", deep={"a": {"b": []}})
    assert journal.read().events == (first, second)
    assert first.data == data
    assert len(lines_of(journal)) == 2
    assert first.schema == SCHEMA
    assert uuid.UUID(hex=first.id).version == 4
    assert datetime.fromisoformat(first.time).utcoffset() == timedelta(0)


def test_a_megabyte_of_note_is_kept(journal: Journal) -> None:
    journal.append("note", text="long " * 200_000)
    journal.append("note", text="short")
    assert [len(event.data["text"]) for event in journal.read().events] == [1_000_000, 5]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4), st.text(min_size=1))
def test_an_event_survives_its_line(data: dict[str, object], kind: str) -> None:
    event = make_event(1, kind, data=data)
    line = event.to_line()
    assert "\n" not in line
    assert Event.from_line(line) == Event.from_line(line.encode()) == event


def test_numbers_that_json_lacks_and_numpy_scalars_are_kept(journal: Journal) -> None:
    class Scalar:
        def item(self) -> float:
            return 0.5

    journal.append("run", loss=float("nan"), best=float("-inf"), score=Scalar(), labels={0: "earn"})
    journal.append("note", text="half a pair: \ud800")
    run, note = journal.read().events
    assert run.data == {"loss": "nan", "best": "-inf", "score": 0.5, "labels": {"0": "earn"}}
    assert str(float(run.data["loss"])) == "nan"
    assert note.data["text"] == "half a pair: ?"


circular: list[object] = []
circular.append(circular)


class Several:
    """A tensor of several numbers, as one asks it for a single one."""

    def item(self) -> float:
        raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", {None: 1}, circular, 10**5000, Several()],
    ids=lambda value: type(value).__name__,
)
def test_data_that_is_not_json_is_refused_before_anything_is_written(journal: Journal, value: object) -> None:
    with pytest.raises(JournalError, match="can't be kept as JSON"):
        journal.append("note", value=value)
    assert not journal.path.exists()


def test_an_empty_kind_is_refused(journal: Journal) -> None:
    with pytest.raises(JournalError, match="kind"):
        journal.append("")


def test_existing_bytes_are_never_rewritten(journal: Journal) -> None:
    journal.append("note", text="first")
    with journal.path.open("ab") as file:
        file.write(b"garbage \xff\n" + newer_line(1).encode() + b"\n{torn")
    before = journal.path.read_bytes()
    journal.append("tick", item="a")
    assert journal.path.read_bytes().startswith(before)


# ---- Damage ----------------------------------------------------------------------------------------


def test_a_torn_last_line_is_told_and_costs_nothing_else(journal: Journal) -> None:
    first = journal.append("note", text="first")
    whole = make_event(5).to_line()
    with journal.path.open("a") as file:
        file.write(whole[:40])
    reading = journal.read()
    assert reading.events == (first,)
    assert [(problem.line_number, problem.kind) for problem in reading.problems] == [(2, "torn")]
    second = journal.append("note", text="second")
    reading = journal.read()
    assert reading.events == (first, second)
    assert [problem.line_number for problem in reading.problems] == [2]


def test_a_whole_last_line_without_newline_counts(journal: Journal) -> None:
    journal.path.parent.mkdir()
    journal.path.write_text(make_event(1).to_line())
    second = journal.append("note")
    assert journal.read().events == (make_event(1), second)
    assert journal.read().problems == ()


DAMAGE = {
    "not utf-8": b"\xff\xfe\x00garbage\x1b[31m",
    "zeros": b"\x00" * 300,
    "not json": b"hello",
    "a list": b"[1, 2]",
    "endless nesting": b"[" * 100_000,
    "a number too long": b"9" * 10_000,
    "no id": b'{"time": "2026-01-01T00:00:00+00:00", "schema": 1, "kind": "tick", "data": {}}',
    "no schema": b'{"id": "a", "time": "2026-01-01T00:00:00+00:00", "kind": "tick", "data": {}}',
    "true as schema": b'{"id": "a", "time": "2026-01-01T00:00:00Z", "schema": true, "kind": "x", "data": {}}',
    "no data": b'{"id": "a", "time": "2026-01-01T00:00:00+00:00", "schema": 1, "kind": "tick"}',
    "no kind": b'{"id": "a", "time": "2026-01-01T00:00:00+00:00", "schema": 1, "data": {}}',
    "no such day": b'{"id": "a", "time": "2026-02-30T00:00:00+00:00", "schema": 1, "kind": "x", "data": {}}',
    "time is a number": b'{"id": "a", "time": 5, "schema": 1, "kind": "tick", "data": {}}',
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_line_in_the_middle_costs_no_other_line(journal: Journal, damage: bytes) -> None:
    first = journal.append("note", text="first")
    with journal.path.open("ab") as file:
        file.write(damage + b"\n")
    last = journal.append("note", text="last")
    reading = journal.read()
    assert reading.events == (first, last)
    (problem,) = reading.problems
    assert problem.line_number == 2
    assert problem.reason
    assert str(problem).isprintable()
    assert len(problem.preview) <= 60


def test_a_newer_schema_is_set_aside_told_and_kept(journal: Journal) -> None:
    first = journal.append("note")
    with journal.path.open("a") as file:
        file.write(newer_line(1) + "\n" + newer_line(1) + "\n")
    reading = journal.read()
    assert reading.events == (first,)
    (problem,) = reading.problems
    assert problem.kind == "newer"
    assert "newer lessonkit" in problem.reason
    with pytest.raises(JournalError, match="newer"):
        Event.from_line(newer_line(1))


def test_an_older_schema_is_read(journal: Journal) -> None:
    journal.path.parent.mkdir()
    journal.path.write_text(make_event(1, schema=0).to_line() + "\n")
    assert journal.read().events == (make_event(1, schema=0),)


def test_windows_editors_do_no_harm(journal: Journal) -> None:
    journal.path.parent.mkdir()
    lines = [make_event(number).to_line() for number in (1, 2)]
    journal.path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", ""]).encode())
    assert journal.read().events == (make_event(1), make_event(2))
    assert journal.read().problems == ()


def test_order_is_by_time_then_id_and_a_repeated_id_counts_once(journal: Journal) -> None:
    journal.path.parent.mkdir()
    same_time = [make_event(7, id=name) for name in ("b", "a")]
    events = [make_event(9), *same_time, make_event(3), make_event(9)]
    journal.path.write_text("".join(event.to_line() + "\n" for event in events))
    reading = journal.read()
    assert [event.id for event in reading.events] == [make_event(3).id, "a", "b", make_event(9).id]
    assert reading.problems == ()


def test_times_in_other_notations_are_ordered_as_moments(journal: Journal) -> None:
    journal.path.parent.mkdir()
    times = {"a": "2026-01-01T12:00:00+02:00", "b": "2026-01-01T10:30:00Z", "c": "2026-01-01T11:00:00"}
    journal.path.write_text("".join(make_event(1, id=i, time=t).to_line() + "\n" for i, t in times.items()))
    assert [event.id for event in journal.read().events] == ["a", "b", "c"]
    assert journal.read().events[0].time == "2026-01-01T10:00:00.000000+00:00"


def test_a_clock_put_back_keeps_the_order_and_is_told(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = journal.append("tick", item="a")
    monkeypatch.setattr(module, "_now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
    late = [journal.append("untick", item="a"), Journal(journal.path).append("tick", item="b")]
    reading = journal.read()
    assert reading.events == (before, *late)
    assert late[0].clock.startswith("2001-01-01")
    assert [problem.kind for problem in reading.problems] == ["clock"]


def test_a_line_merged_from_the_future_is_found_wherever_it_lies(journal: Journal) -> None:
    """What is appended sorts last, though neither the last nor the first line is the latest."""
    journal.path.parent.mkdir()
    lines = [make_event(number).to_line() for number in range(50)]
    ahead = make_event(99, time="2090-01-01T00:00:00.000000+00:00").to_line()
    journal.path.write_text("\n".join([*lines[:25], ahead, *lines[25:]]) + "\n")
    last = journal.append("note", text="now")
    assert last.time > "2090"
    assert journal.read().events[-1] == last


@pytest.mark.parametrize(
    "bad",
    [
        '{"time": "9999-99-99T99:99:99.999999+00:00", "schema": 1}',
        '{"time": "zzzz", "schema": 1}',
        '"time": "',
    ],
)
def test_a_time_that_cannot_be_doesnt_hide_the_latest(journal: Journal, bad: str) -> None:
    journal.path.parent.mkdir()
    ahead = make_event(99, time="2090-01-01T00:00:00.000000+00:00")
    journal.path.write_text(f"{ahead.to_line()}\n{bad}\n")
    if "9999" in bad:  # in the form of a time: by the clock, then, as with no time at all
        assert journal.append("note").time < "2090"
    else:
        assert journal.append("note").time > "2090"


@pytest.mark.parametrize("schema", [0, SCHEMA])
def test_a_line_in_another_form_is_not_overlooked(journal: Journal, schema: int) -> None:
    """A journal that another program has written anew, or an older schema: an untick still comes after its tick."""
    journal.path.parent.mkdir()
    fields = {
        "id": "a",
        "time": "2090-01-01T00:00:00Z",
        "schema": schema,
        "kind": "tick",
        "data": {"item": "a"},
    }
    own = make_event(1).to_line()
    journal.path.write_text(
        f"{own}\n{json.dumps(fields, separators=(',', ':'))}\n{own[:40]}\n", encoding="utf-8"
    )
    untick = journal.append("untick", item="a")
    assert untick.time > "2090"
    assert journal.read().events[-1] == untick


def test_reading_what_holds_a_text_passes_over_the_rest(journal: Journal) -> None:
    journal.path.parent.mkdir()
    wanted = [make_event(number, "tick", data={"item": "a"}) for number in (2, 5)]
    lines = [make_event(1).to_line(), wanted[0].to_line(), "garbage", "", make_event(4).to_line()]
    journal.path.write_text("\n".join([*lines, wanted[1].to_line(), '{"item": "a"']))
    reading = journal.read("tick", holding='"a"')
    assert reading.events == tuple(wanted)
    assert [(problem.line_number, problem.kind) for problem in journal.read(holding='"a"').problems] == [
        (7, "torn")
    ]
    assert journal.read(holding="garbage").problems[0].line_number == 3
    assert journal.read(holding="nowhere").events == ()


def test_reading_some_kinds_passes_over_the_others(journal: Journal) -> None:
    wanted = [journal.append("tick", item="a"), journal.append("untick", item="a")]
    journal.append("note", text='"kind": "tick"')
    journal.append("ticket")
    assert journal.read("tick", "untick").events == tuple(wanted)


# ---- Crashes and neighbours ------------------------------------------------------------------------


def test_two_processes_at_once_lose_and_double_nothing(journal: Journal) -> None:
    writers = [start_writer(journal.path, 1_000, text) for text in ("one", "two")]
    acknowledged = [line for writer in writers for line in writer.communicate(timeout=LONGEST)[0].split()]
    assert [writer.returncode for writer in writers] == [0, 0]
    reading = journal.read()
    assert len(reading.events) == len(set(acknowledged)) == 2_000
    assert {event.id for event in reading.events} == set(acknowledged)
    assert reading.problems == ()
    for text in ("one", "two"):  # the order in which each wrote is the order of its times
        numbers = [event.data["number"] for event in reading.events if event.data["text"] == text]
        assert numbers == list(range(1_000))


def test_threads_at_once_lose_and_double_nothing(journal: Journal) -> None:
    threads = [threading.Thread(target=lambda: [journal.append("note") for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.read().events) == 100


def test_a_killed_writer_loses_nothing_that_was_acknowledged(journal: Journal) -> None:
    chance = random.Random(0)
    acknowledged: list[str] = []
    for _ in range(3):
        writer = start_writer(journal.path, 100_000, "x" * 5_000)
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 40)):
            acknowledged.append(writer.stdout.readline().strip())
        writer.kill()
        acknowledged += [line for line in writer.communicate()[0].split("\n")[:-1] if line]
        after = journal.append("note", text="the lock of the dead is free")
        acknowledged.append(after.id)
    ids = [event.id for event in journal.read().events]
    assert len(ids) == len(set(ids))
    assert set(acknowledged) <= set(ids)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_two_hundred_kills_at_random_moments_cost_no_acknowledged_event(journal: Journal) -> None:
    """Each victim is a fork that appends as fast as it can, until SIGKILL hits it wherever it is."""
    kills = 200
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(journal.path), str(kills)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["killed"] == kills
    reading = journal.read()
    ids = [event.id for event in reading.events]
    assert len(ids) == len(set(ids))
    assert set(told["acknowledged"]) <= set(ids)
    assert len(told["acknowledged"]) > kills // 2  # they were at work
    assert len(ids) - len(told["acknowledged"]) <= kills  # at most the one that was being acknowledged
    assert {problem.kind for problem in reading.problems} <= {"torn", "unreadable"}
    assert 0 < len(reading.problems) <= kills  # some kills did hit the middle of a line
    assert journal.append("note", text="and on it goes") in journal.read().events


def test_another_process_holding_the_lock_is_told(journal: Journal) -> None:
    from filelock import FileLock

    first = journal.append("note")
    with FileLock(f"{journal.path}.lock"), pytest.raises(JournalError, match="another process holds it"):
        Journal(journal.path, lock_seconds=0.05).append("note")
    assert journal.read().events == (first,)
    journal.append("note")
    assert len(journal.read().events) == 2


def break_write(monkeypatch: pytest.MonkeyPatch, code: int, keep: int) -> None:
    """Make os.write store ``keep`` bytes of a journal line, then fail."""
    real = os.write

    def failing(descriptor: int, content: bytes) -> int:
        real(descriptor, content[:keep])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.os, "write", failing)


@pytest.mark.parametrize(
    ("code", "meaning"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "reports an error")]
)
def test_a_failed_write_is_taken_back_and_told(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, code: int, meaning: str
) -> None:
    journal.append("note", text="first")
    before = journal.path.read_bytes()
    with monkeypatch.context() as patch:
        break_write(patch, code, keep=30)
        with pytest.raises(JournalError, match=meaning) as caught:
            journal.append("note", text="second")
    assert caught.value.errno == code
    assert caught.value.fix
    assert journal.path.read_bytes() == before
    journal.append("note", text="third")
    assert [event.data["text"] for event in journal.read().events] == ["first", "third"]
    assert journal.read().problems == ()


def test_a_failed_write_that_cannot_be_taken_back_costs_no_line(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, "no")

    journal.append("note", text="first")
    with monkeypatch.context() as patch:
        break_write(patch, errno.ENOSPC, keep=30)
        patch.setattr(module.os, "ftruncate", refuse)
        with pytest.raises(JournalError, match="disk is full"):
            journal.append("note", text="second")
    assert [problem.kind for problem in journal.read().problems] == ["torn"]
    journal.append("note", text="third")
    assert [event.data["text"] for event in journal.read().events] == ["first", "third"]


def test_a_write_in_pieces_is_one_event(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(module.os, "write", lambda descriptor, content: real(descriptor, content[:50]))
    event = journal.append("note", text="x" * 500)
    assert journal.read().events == (event,)


def test_a_line_that_cannot_be_flushed_is_not_acknowledged(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no")

    monkeypatch.setattr(module.os, "fsync", refuse)
    with pytest.raises(JournalError, match="disk is full"):
        journal.append("note")
    assert journal.read().events == ()


# ---- Places ----------------------------------------------------------------------------------------


def test_a_folder_where_a_file_is_meant_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "journal.jsonl"
    folder.mkdir()
    for action in (lambda: Journal(folder).append("note"), lambda: Journal(folder).read()):
        with pytest.raises(JournalError, match="it is a folder") as caught:
            action()
        assert caught.value.fix
        assert caught.value.errno == errno.EISDIR
    assert isinstance(caught.value, LessonkitError | OSError)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("below", ["journal.jsonl", "deeper/journal.jsonl"])
def test_a_parent_that_is_a_file_is_told(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(JournalError, match="is a file, where a folder is needed"):
        Journal(tmp_path / "file" / below).append("note")
    with pytest.raises(JournalError, match="is a file, where a folder is needed"):
        Journal(tmp_path / "file" / below).read()
    assert (tmp_path / "file").read_text() == "mine"


FULL = """
import resource, signal, sys
from lessonkit.progress.journal import Journal
journal = Journal(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk: the write itself fails
room = journal.path.stat().st_size + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    journal.append("note", text="too long for the room that is left " * 100)
except OSError as error:
    print(type(error).__name__, error.errno, str(error).splitlines()[1])
print(len(journal.read().events), len(journal.read().problems))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on a file's size")
@pytest.mark.parametrize("room", [0, 1, 100, 1000])
def test_a_file_that_cannot_grow_takes_a_part_and_gives_it_back(journal: Journal, room: int) -> None:
    """A real operating system's refusal in the middle of a line, not a simulated one."""
    first = journal.append("note", text="first")
    before = journal.path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(journal.path), str(room)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    said, counts = done.stdout.splitlines()
    assert said.startswith(f"JournalError {errno.EFBIG} Why: ")
    assert counts == "1 0"
    assert journal.path.read_bytes() == before
    second = journal.append("note", text="there is room again")
    assert journal.read().events == (first, second)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    journal = Journal(tmp_path / "journal.jsonl")
    descriptor = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            module._write_durably(descriptor, journal.path, [b"{}"])
    finally:
        os.close(descriptor)
    told = module._explained(caught.value, journal.path, "written")
    assert "the disk is full" in told.why
    assert "free some disk space" in told.fix


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may write anywhere"
)
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(JournalError, match="may not read or write"):
            Journal(tmp_path / "journal.jsonl").append("note")
    finally:
        tmp_path.chmod(0o700)


def test_a_refused_open_is_told(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append("note")
    real = os.open

    def refuse(path: object, flags: int, *rest: int) -> int:
        if str(path) == str(journal.path):
            raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(JournalError, match="read-only"):
        journal.append("note")


def test_where_the_journal_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert journal_path({"LESSONKIT_PROGRESS": str(tmp_path)}) == tmp_path / "journal.jsonl"
    assert journal_path({"LESSONKIT_PROGRESS": str(tmp_path / "my.jsonl")}) == tmp_path / "my.jsonl"
    monkeypatch.setenv("LESSONKIT_PROGRESS", str(tmp_path / "there"))
    assert journal_path() == Journal().path == tmp_path / "there" / "journal.jsonl"
    checkout = tmp_path / "checkout"
    package = checkout / "lessonkit" / "progress" / "journal.py"
    package.parent.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package))
    elsewhere = journal_path({"LESSONKIT_PROGRESS": ""})
    assert not elsewhere.is_relative_to(checkout)
    assert "lessonkit" in elsewhere.parts
    (checkout / "start.py").touch()
    assert journal_path({}) == checkout / "progress" / "journal.jsonl"


def test_a_relative_place_is_the_same_for_every_notebook_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    for folder in (tmp_path, Path(__file__).parent):
        monkeypatch.chdir(folder)
        found.add(journal_path({"LESSONKIT_PROGRESS": "mine"}))
    assert found == {Path(module.__file__).parents[2] / "mine" / "journal.jsonl"}


# ---- Merging ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("other", "why"), [("x" * 300, "too long"), ("~nobody-of-this-name/x", "home")])
def test_a_place_that_cannot_be_looked_at_is_told(journal: Journal, other: str, why: str) -> None:
    with pytest.raises(JournalError, match="can't be read") as caught:
        journal.merge(other)
    assert why in caught.value.why
    assert caught.value.fix
    assert "LESSONKIT_PROGRESS" not in caught.value.fix  # that is not the journal in question


def test_merge_keeps_lines_byte_for_byte_and_reports(tmp_path: Path) -> None:
    mine, theirs = Journal(tmp_path / "mine.jsonl"), Journal(tmp_path / "theirs" / "journal.jsonl")
    shared = mine.append("note", text="shared")
    odd = b'{"schema":1,"id":"odd","time":"2026-01-01T00:00:00Z","kind":"note","data":{},"extra":[1]}'
    lines = [
        shared.to_line().encode(),
        odd,
        b"garbage",
        newer_line(1).encode(),
        make_event(3).to_line().encode(),
    ]
    theirs.path.parent.mkdir()
    theirs.path.write_bytes(b"\n".join(lines) + b"\n{torn")
    report = mine.merge(theirs.path)
    assert (report.added, report.already) == (3, 1)
    assert [problem.line_number for problem in report.problems] == [3, 6]
    assert set(lines_of(mine)) == {lines[0], odd, lines[3], lines[4]}
    again = mine.merge(theirs.path.parent)  # its folder will do
    assert (again.added, again.already) == (0, 4)
    assert theirs.path.read_bytes() == b"\n".join(lines) + b"\n{torn"


def test_merging_with_itself_or_nothing_changes_nothing(journal: Journal, tmp_path: Path) -> None:
    journal.append("note")
    before = journal.path.read_bytes()
    assert journal.merge(journal.path).added == 0
    with pytest.raises(JournalError, match="no such file"):
        journal.merge(tmp_path / "missing.jsonl")
    with pytest.raises(JournalError, match="no such file"):
        journal.merge(tmp_path)
    assert journal.path.read_bytes() == before


def test_a_merge_is_all_or_nothing(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(make_event(number).to_line() + "\n" for number in range(5)))
    journal.append("note")
    before = journal.path.read_bytes()
    with monkeypatch.context() as patch:
        break_write(patch, errno.ENOSPC, keep=300)
        with pytest.raises(JournalError, match="disk is full"):
            journal.merge(other)
    assert journal.path.read_bytes() == before
    assert journal.merge(other).added == 5


def test_what_follows_a_merge_sorts_after_it(journal: Journal, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"  # from a machine whose clock is far ahead
    ahead = make_event(1, "tick", time="2090-01-01T00:00:00.000000+00:00", data={"item": "a"})
    other.write_text(ahead.to_line() + "\n" + make_event(2).to_line() + "\n")
    journal.append("note")
    journal.merge(other)
    last = journal.append("untick", item="a")
    assert journal.read().events[-1] == last


# A small pool of lines, so that journals overlap: events, one id with two contents, newer schemas, garbage.
POOL = [
    *(make_event(number).to_line() for number in range(6)),
    make_event(2, data={"edited": "by hand"}).to_line(),
    *(newer_line(number) for number in range(2)),
    json.dumps({"id": f"{1:032x}", "schema": SCHEMA + 1}),
    "garbage",
    '{"torn',
]
journals = st.lists(st.sampled_from(POOL), max_size=12)


def merged(folder: Path, *contents: list[str]) -> tuple[tuple[Event, ...], set[str]]:
    """What is read, and which kept lines lie there, after merging all into the first."""
    files = [folder / f"{uuid.uuid4().hex}.jsonl" for _ in contents]
    for file, lines in zip(files, contents, strict=True):
        file.write_text("\n".join(lines))  # no newline at the end
    target = Journal(files[0])
    for file in files[1:]:
        target.merge(file)
    kept = {line for line in files[0].read_text().splitlines() if line not in ("garbage", '{"torn', "")}
    return target.read().events, kept


@settings(deadline=None, max_examples=60)
@given(one=journals, two=journals, three=journals)
def test_merge_is_a_union_in_any_order_any_number_of_times(
    tmp_path_factory: pytest.TempPathFactory, one: list[str], two: list[str], three: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    expected = merged(folder, one, two, three)
    assert merged(folder, three, two, one) == expected
    assert merged(folder, two, one, one, three, two) == expected
    assert merged(folder, one + two + three) == expected


# ---- Speed and imports -----------------------------------------------------------------------------


def test_ten_thousand_events_are_read_quickly(journal: Journal) -> None:
    import time

    journal.path.parent.mkdir()
    data = {"lesson": "beginner/lora", "scale": "laptop", "metrics": {"accuracy": 0.9}, "seconds": 55.0}
    lines = (make_event(number, "run", data=data).to_line() + "\n" for number in range(10_000))
    journal.path.write_text("".join(lines))
    seconds = []
    for _ in range(3):
        start = (
            time.process_time()
        )  # not the clock on the wall: other programs may have the processor meanwhile
        assert len(journal.read().events) == 10_000
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.0  # about 0.1 s; the limit allows for a slow machine


def test_importing_the_journal_loads_nothing_heavy() -> None:
    code = (
        "import sys, lessonkit.progress.journal\n"
        "heavy = {'torch', 'transformers', 'ipywidgets', 'numpy', 'yaml', 'filelock'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
