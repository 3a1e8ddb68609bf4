"""All that is kept can be seen, taken along and deleted; and nothing else is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lessonkit.curriculum import load_curriculum
from lessonkit.errors import JournalError
from lessonkit.progress import Journal, add_note, tick
from lessonkit.progress.keeping import delete_all, export_all, outputs_folder, what_is_kept, write_new

ROOT = Path(__file__).resolve().parents[1]
CURRICULUM = load_curriculum(check_files=False)
links = pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal with three events and an unreadable line."""
    journal = Journal(tmp_path / "progress" / "journal.jsonl")
    tick(journal, CURRICULUM, "model-registry")
    add_note(journal, CURRICULUM, "mine alone")
    add_note(journal, CURRICULUM, "and this")
    with journal.path.open("a") as file:
        file.write("garbage\n")
    return journal


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A lesson's saved model, and somebody else's file beside it."""
    folder = tmp_path / "outputs"
    (folder / "beginner-lora" / "deep").mkdir(parents=True)
    (folder / "beginner-lora" / "deep" / "model.bin").write_bytes(b"x" * 1000)
    (folder / "thesis.txt").write_text("not ours")
    return folder


def test_what_is_kept_is_counted(journal: Journal, outputs: Path) -> None:
    kept = what_is_kept(journal, CURRICULUM)
    assert kept.exists
    assert kept.bytes == journal.path.stat().st_size
    assert kept.kinds == {"note": 2, "tick": 1}
    assert list(kept.kinds) == ["note", "tick"]
    events = journal.read().events
    assert (kept.first, kept.last) == (events[0].time, events[-1].time)
    assert kept.unreadable == 1
    assert kept.outputs == ((outputs / "beginner-lora", 1000),)
    told = json.loads(json.dumps(kept.to_dict()))
    assert told["journal"] == str(journal.path)
    assert told["outputs"] == {str(outputs / "beginner-lora"): 1000}


def test_nothing_kept_is_nothing_and_makes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "progress" / "journal.jsonl")
    kept = what_is_kept(journal, CURRICULUM)
    assert (kept.exists, kept.bytes, kept.kinds, kept.first, kept.outputs) == (False, 0, {}, "", ())
    assert delete_all(journal, CURRICULUM).removed == ()
    assert list(tmp_path.iterdir()) == []


def test_an_outputs_folder_that_cannot_be_looked_at_holds_nothing(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESSONKIT_OUTPUTS", str(tmp_path / ("x" * 300)))
    assert what_is_kept(journal, CURRICULUM).outputs == ()
    assert set(delete_all(journal, CURRICULUM).removed) == {str(journal.path), str(journal.lock_path)}


def test_the_outputs_folder_is_the_one_that_lessons_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(outputs_folder()) == os.environ["LESSONKIT_OUTPUTS"]
    monkeypatch.setenv("LESSONKIT_OUTPUTS", "mine")
    assert outputs_folder() == ROOT / "mine"  # wherever the notebook lies
    monkeypatch.delenv("LESSONKIT_OUTPUTS")
    assert outputs_folder() == ROOT / "outputs"


# ---- Export -----------------------------------------------------------------------------------------


def test_the_zip_holds_all_of_it_and_can_be_merged_elsewhere(journal: Journal, tmp_path: Path) -> None:
    file = export_all(journal, CURRICULUM, tmp_path / "new folder" / "mine.zip")
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {"README.txt", "journal.jsonl", "portfolio.md", "portfolio.html"}
        assert archive.read("journal.jsonl") == journal.path.read_bytes()
        assert "mine alone" in archive.read("portfolio.md").decode()
        assert "mine alone" in archive.read("portfolio.html").decode()
        archive.extractall(tmp_path / "elsewhere")
    other = Journal(tmp_path / "other.jsonl")
    assert other.merge(tmp_path / "elsewhere" / "journal.jsonl").added == 3
    assert [path.name for path in file.parent.iterdir()] == ["mine.zip"]


def test_a_journal_older_than_zip_files_is_exported(journal: Journal, tmp_path: Path) -> None:
    os.utime(journal.path, (0, 0))  # as some mounted drives say
    with zipfile.ZipFile(export_all(journal, CURRICULUM, tmp_path / "mine.zip")) as archive:
        assert archive.read("journal.jsonl") == journal.path.read_bytes()


def test_a_file_that_is_there_is_left_alone_unless_forced(journal: Journal, tmp_path: Path) -> None:
    file = tmp_path / "mine.zip"
    file.write_text("precious")
    with pytest.raises(JournalError, match="is there already") as caught:
        export_all(journal, CURRICULUM, file)
    assert "--force" in caught.value.fix
    assert file.read_text() == "precious"
    export_all(journal, CURRICULUM, file, force=True)
    assert zipfile.is_zipfile(file)


def test_a_failed_export_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(JournalError, match="can't be written") as caught:
        write_new(file, fail, force=True)
    assert "No space left" in caught.value.why
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_folder_or_a_place_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place, told in ((tmp_path, "is a folder"), (tmp_path / "file" / "page.html", "can't be written")):
        with pytest.raises(JournalError, match=told):
            write_new(place, lambda path: path.write_text("x"), force=True)
    with pytest.raises(JournalError, match="can't be written"):
        write_new(tmp_path / ("x" * 300), lambda path: path.write_text("x"))
    assert (tmp_path / "file").read_text() == "mine"


# ---- Delete -----------------------------------------------------------------------------------------


def test_delete_removes_all_of_it_and_nothing_else(journal: Journal, outputs: Path) -> None:
    (journal.path.parent / "README.md").write_text("stays")
    done = delete_all(journal, CURRICULUM)
    assert set(done.removed) == {str(journal.path), str(journal.lock_path), str(outputs / "beginner-lora")}
    assert done.left == ()
    assert [path.name for path in journal.path.parent.iterdir()] == ["README.md"]
    assert [path.name for path in outputs.iterdir()] == ["thesis.txt"]
    event = journal.append("note", text="a new beginning")
    assert journal.read().events == (event,)


def test_only_what_runs_has_outputs_of_its_own(outputs: Path, journal: Journal) -> None:
    """A folder named like a guide holds something else: in ``lessons``, the guide itself."""
    guide = next(lesson for lesson in CURRICULUM.lessons if not lesson.runnable)
    (outputs / guide.id).mkdir()
    assert what_is_kept(journal, CURRICULUM).outputs == ((outputs / "beginner-lora", 1000),)
    delete_all(journal, CURRICULUM)
    assert (outputs / guide.id).exists()


def test_an_empty_outputs_folder_goes_too(journal: Journal, outputs: Path) -> None:
    (outputs / "thesis.txt").unlink()
    delete_all(journal, CURRICULUM)
    assert not outputs.exists()


@links
def test_no_link_is_followed(journal: Journal, outputs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "photos").mkdir(parents=True)
    (elsewhere / "photos" / "cat.png").write_text("cat")
    (outputs / "beginner-lora" / "link").symlink_to(elsewhere)
    (outputs / "expert-lora").symlink_to(elsewhere)
    moved = elsewhere / "journal.jsonl"
    journal.path.rename(moved)
    journal.path.symlink_to(moved)
    done = delete_all(journal, CURRICULUM)
    assert (elsewhere / "photos" / "cat.png").read_text() == "cat"
    assert moved.exists()
    assert not any(os.path.lexists(path) for path in (journal.path, *done.removed))
    assert [path.name for path in elsewhere.iterdir()].count("journal.jsonl.lock") == 0
    assert not os.path.lexists(outputs / "expert-lora")
    assert len(done.left) == 2
    assert all(str(elsewhere) in text for text in done.left)


@links
def test_an_outputs_folder_that_is_a_link_is_left_and_told(
    journal: Journal, tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(outputs)
    monkeypatch.setenv("LESSONKIT_OUTPUTS", str(tmp_path / "link"))
    done = delete_all(journal, CURRICULUM)
    assert (outputs / "beginner-lora" / "deep" / "model.bin").exists()
    assert any(str(outputs) in text for text in done.left)


def test_while_another_process_writes_nothing_is_deleted(journal: Journal, outputs: Path) -> None:
    from filelock import FileLock

    before = journal.path.read_bytes()
    journal.lock_seconds = 0.05
    with FileLock(journal.lock_path), pytest.raises(JournalError, match="another process holds it"):
        delete_all(journal, CURRICULUM)
    assert journal.path.read_bytes() == before
    assert (outputs / "beginner-lora" / "deep" / "model.bin").exists()


def test_a_folder_in_the_journals_place_is_told_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "progress" / "journal.jsonl"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(JournalError, match="it is a folder"):
        delete_all(Journal(folder), CURRICULUM)
    assert (folder / "inside").exists()


WRITER = """
import sys
from lessonkit.progress.journal import Journal
journal = Journal(sys.argv[1])
print("ready", flush=True)
for number in range(400):
    print(journal.append("note", text=str(number)).id, flush=True)
"""


def test_deleting_while_somebody_writes_leaves_a_sound_journal(journal: Journal) -> None:
    """Every event is either gone with the journal or whole in the new one."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(journal.path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert writer.stdout is not None
    written = [writer.stdout.readline() for _ in range(20)]
    delete_all(journal, CURRICULUM)
    written += writer.communicate(timeout=60)[0].splitlines()
    assert writer.returncode == 0
    reading = journal.read()
    assert reading.problems == ()
    assert 0 < len(reading.events) <= 400
    numbers = [int(event.data["text"]) for event in reading.events]
    assert numbers == list(range(400 - len(numbers), 400))
