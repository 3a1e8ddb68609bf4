"""A version enters whole or not at all, is loaded only as it entered, and becomes champion only through the gate."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lessonkit.errors import LessonError, ModelError, TrainingError, UnknownNameError
from production import records, registry, registry_files
from production.commands import only_one
from production.registry import CHALLENGER, CHAMPION, WHAT, Registry
from production.registry_files import MANIFEST, refusals
from production.registry_gate import Judging
from production.settings import read


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    """Three runs, ``weak`` and ``good`` and ``same`` (as good), and held-out texts. Runs are copied, not trained again."""
    import torch

    folder = tmp_path_factory.mktemp("world")
    model = tiny.model()
    model.config.id2label, model.config.label2id = {0: "zero", 1: "one"}, {"zero": 0, "one": 1}
    batch = tiny.tokenizer(list(tiny.dataset["text"]), padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    labels = torch.tensor(list(tiny.dataset["label"]))
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.eval()
    for _ in range(40):
        torch.nn.functional.cross_entropy(model(**batch).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        logits = model(**batch).logits
        assert logits.argmax(-1).equal(labels)
        middle = (logits[labels == 1, 1] - logits[labels == 1, 0]).sort().values[5:7].mean()
    run_folder(folder, "good", model, tiny.tokenizer)
    run_folder(folder, "same", model, tiny.tokenizer)
    with torch.no_grad():
        model.classifier.bias[0] += middle  # half of class 1 is now missed
    run_folder(folder, "weak", model, tiny.tokenizer)
    rows = [("text", "label")] + 8 * [
        (text, ("zero", "one")[label])
        for text, label in zip(tiny.dataset["text"], labels.tolist(), strict=True)
    ]
    (folder / "held-out.csv").write_text("".join(f"{text},{label}\n" for text, label in rows))
    return folder


def run_folder(work: Path, name: str, model=None, tokenizer=None, **changes) -> Path:
    folder = work / "runs" / name
    (folder / "model").mkdir(parents=True, exist_ok=True)
    if model is not None:
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    record = {
        "run_id": name,
        "created": "2026-01-31T12:00:00.000+00:00",
        "data": {"name": "d.csv", "sha256": "ab" * 32},
        "code": {"version": "1", "sha256": "cd" * 32, "commit": None, "dirty": None},
        "seed": 0,
        "hardware": {},
        "versions": {},
        "settings": {},
        "metrics": {},
    }
    records.write_run(folder, record | changes)
    return folder


@pytest.fixture(scope="module")
def started(world, tmp_path_factory):
    """A registry with ``weak`` (1) and ``good`` (2), not judged; its folder is copied for each test."""
    work = tmp_path_factory.mktemp("started")
    made = Registry(work, rules(world))
    assert [made.register(world / "runs" / name).version for name in ("weak", "good")] == [1, 2]
    return work


def rules(world: Path) -> Judging:
    return Judging(data=str(world / "held-out.csv"), texts=0, max_length=32)


@pytest.fixture
def made(started, world, tmp_path) -> Registry:
    shutil.copytree(started, tmp_path / "work")
    return Registry(tmp_path / "work", rules(world))


def state(made: Registry) -> tuple:
    """All that must not change when something is refused."""
    entries = {number: dict(each.tags) for number, each in made.entries.all().items()}
    files = {
        each.relative_to(made.root).as_posix(): each.stat().st_size
        for each in made.root.rglob("*")
        if each.is_file() and not each.name.startswith(".")
    }
    return entries, made.entries.aliases(), made.entries.history(), files


def pass_without_asking(made: Registry, monkeypatch, passed: bool = True) -> None:
    """The gate's rules have tests of their own; here only what follows from its answer."""
    from lessonkit.evaluation import compare_classifiers
    from lessonkit.scoring import Gate

    compared = compare_classifiers([0] * 9 + [1], [0] * 9 + [1], [0] * 10)

    def judged(candidate, champion, rules, folder):
        folder.mkdir(parents=True)
        return Gate("better" if passed else "worse", passed, compared, ["said"])

    monkeypatch.setattr(registry, "judge", judged)


# ---- What comes in, and what is found again ----------------------------------------------------------------


def test_a_version_is_the_run_and_knows_where_it_is_from(made, world) -> None:
    found = made.resolve(CHALLENGER)
    assert (found.name, found.version, found.run_id, found.folder) == ("topics", 2, "good", made.root / "2")
    assert found.lineage["data_sha256"] == "ab" * 32
    assert found.record == records.read_run(world / "runs" / "good")
    for name, digest in found.sha256.items():
        assert found.record["files"][f"model/{name}"] == digest
        assert (found.folder / name).read_bytes() == (world / "runs" / "good" / "model" / name).read_bytes()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= found.sha256.keys()
    assert made.resolve("1").run_id == "weak"


def test_a_run_keeps_its_version(made, world) -> None:
    before = state(made)
    assert made.register(world / "runs" / "weak").version == 1
    assert state(made) == before


def test_the_mlflow_run_is_linked(made, tmp_path) -> None:
    from production import trackers

    client = trackers.client(made.work)
    number = client.create_run(trackers.experiment(made.work), tags={"run_id": "linked"}).info.run_id
    folder = shutil.copytree(made.root / "2", tmp_path / "runs" / "linked" / "model")
    (folder / MANIFEST).unlink()
    found = made.register(run_folder(tmp_path, "linked"))
    assert made.entries.all()[found.version].run_id == number


def test_numbers_of_versions_deleted_in_mlflow_stay_taken(made, world) -> None:
    made.entries.client.delete_model_version("topics", "2")
    found = made.register(world / "runs" / "same")
    assert sorted(made.entries.all()) == [1, found.version]
    assert found.version > 2
    assert [each.name[:11] for each in made.root.glob("set-aside*")] == ["set-aside-2"]


def test_a_lost_database_is_entered_anew_from_the_folders(started, world, tmp_path) -> None:
    shutil.copytree(started / "registry", tmp_path / "registry")
    made = Registry(tmp_path, rules(world))
    assert made.register(world / "runs" / "weak").version == 1
    assert [made.resolve(each).run_id for each in ("1", "2")] == ["weak", "good"]
    with pytest.raises(UnknownNameError, match="champion"):  # who served is not known any more
        made.resolve()


def test_settings_are_read() -> None:
    assert read("registry", Judging).name == "topics"
    for wrong in ({"name": "a/b"}, {"texts": -1}, {"margin": 1.0}):
        with pytest.raises(ValueError, match=r"name|texts|margin"):
            Judging(**wrong)


# ---- What is refused ----------------------------------------------------------------------------------------


def changed_byte(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": [1.0]}))


def renamed(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))


def added(folder: Path) -> None:
    (folder / "modeling.py").write_text("print('run')")


def removed(folder: Path) -> None:
    (folder / "config.json").unlink()


def manifest_too(folder: Path) -> None:
    changed_byte(folder)
    found = json.loads((folder / MANIFEST).read_text())
    found["files"]["model.safetensors"] = records.file_sha256(folder / "model.safetensors")
    (folder / MANIFEST).write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed_byte, "model.safetensors was changed"),
        (pickled, "pytorch_model.bin is a pickle: loading it can run any code"),
        (renamed, "model.safetensors is a pickle"),
        (added, "modeling.py was added"),
        (removed, "config.json is missing"),
        (manifest_too, "version.json was changed"),
        (shutil.rmtree, "version.json can't be read"),
    ],
)
def test_what_differs_from_what_was_registered_is_not_loaded(made, change, told) -> None:
    change(made.root / "2")
    for action in (lambda: made.resolve(CHALLENGER), lambda: made.promote(2)):
        with pytest.raises(ModelError, match=told):
            action()
    assert made.resolve("1").version == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [(pickled, "is a pickle"), (renamed, "is a pickle"), (added, "has no place here")],
)
def test_a_run_with_such_files_is_not_registered(made, world, tmp_path, change, told) -> None:
    folder = shutil.copytree(world / "runs" / "same", tmp_path / "runs" / "same")
    change(folder / "model")
    before = state(made)
    with pytest.raises(ModelError, match="is not what its record says"):
        made.register(folder)
    with pytest.raises(ModelError, match=told):
        made.register(run_folder(tmp_path, "same"))  # the record now agrees with the files
    assert state(made) == before


def test_safetensors_are_known_by_their_bytes(tmp_path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    file = tmp_path / "model.safetensors"
    save_file({"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.int8)}, file, {"format": "pt"})
    assert refusals(tmp_path) == []
    whole = file.read_bytes()
    for wrong in (
        whole[:-1],
        whole + b"\0",
        b"\xff" * 8 + whole[8:],
        whole[:8] + b"[" + whole[9:],
        b"",
        whole[:5],
    ):
        file.write_bytes(wrong)
        assert "is no safetensors" in refusals(tmp_path)[0]
    file.unlink()
    assert refusals(tmp_path) == ["there is no .safetensors file"]
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\0")
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "old.pt").write_bytes(b"")
    assert len(refusals(tmp_path)) == 4


def test_without_lineage_neither_in_nor_out(made, world, tmp_path) -> None:
    folder = shutil.copytree(world / "runs" / "same", tmp_path / "runs" / "same")
    with pytest.raises(ModelError, match="its record lacks data_sha256, code_sha256"):
        made.register(run_folder(tmp_path, "same", data={"name": "d"}, code={}))
    (folder / "run.json").unlink()
    with pytest.raises(TrainingError, match="incomplete"):
        made.register(folder)
    made.entries.client.create_model_version("topics", (made.root / "2").as_uri())
    shutil.copytree(made.root / "2", made.root / "3")
    with pytest.raises(ModelError, match="its entry lacks run_id, data_name"):
        made.promote(3)
    made.entries.tag(2, {"data_sha256": "00"})
    with pytest.raises(ModelError, match="differ in data_sha256"):
        made.resolve("2")


def test_an_alias_set_by_hand_serves_nothing(made) -> None:
    made.entries.point(CHAMPION, 2)
    with pytest.raises(ModelError, match="never passed the gate"):
        made.resolve()
    with pytest.raises(UnknownNameError, match="challenger"):
        made.resolve("chalenger")
    with pytest.raises(UnknownNameError, match="version"):
        made.resolve("7")


# ---- The gate, and back --------------------------------------------------------------------------------------


def test_through_the_gate_only(made, world) -> None:
    with pytest.raises(UnknownNameError, match="promote"):
        made.resolve()
    first = made.promote(1)
    assert (first.passed, first.champion, made.resolve().version) == (True, 0, 1)
    better = made.promote(2)
    assert (better.passed, better.champion, better.gate.verdict) == (True, 1, "better")
    assert (made.resolve().version, made.entries.aliases()) == (2, {CHAMPION: 2})
    worse = made.promote(1)
    assert (worse.passed, worse.gate.verdict, made.resolve().version) == (False, "worse", 2)
    equal = made.promote(made.register(world / "runs" / "same").version)
    assert (equal.passed, equal.gate.verdict) == (False, "can't tell")
    kept = json.loads(equal.file.read_text())
    assert (kept["verdict"], kept["champion"], kept["rules"]["texts"]) == ("can't tell", 2, 0)
    assert (equal.file.parent / "candidate" / "predictions.jsonl").is_file()
    tags = made.entries.all()[3].tags
    assert (tags["gate"], tags["gate_against"]) == ("refused", "2")
    assert tags["gate_reasons"] in str(equal)
    with pytest.raises(LessonError, match="champion already"):
        made.promote(2)
    assert made.rollback().version == 1  # refused as a challenger of 2 since; it had passed before
    assert made.resolve().version == 1


def test_a_gate_that_cannot_judge_changes_nothing(made) -> None:
    other = Registry(made.work, Judging(data=str(made.work / "none.csv")))
    before = state(made)
    with pytest.raises(Exception, match=r"none\.csv"):
        other.promote(1)
    assert state(made) == before


def test_back_and_back_again(made, world, monkeypatch) -> None:
    pass_without_asking(made, monkeypatch)
    made.register(world / "runs" / "same")
    for each in (1, 2, 3):
        made.promote(each)
    assert made.entries.history() == [1, 2, 3]
    assert [made.rollback().version, made.rollback().version] == [2, 1]
    with pytest.raises(LessonError, match="no champion before version 1"):
        made.rollback()
    made.promote(3)
    made.promote(2)
    made.promote(3)
    assert made.entries.history() == [1, 3, 2, 3]
    assert [made.rollback().version for _ in range(3)] == [2, 3, 1]
    assert "champions so far, the last one serves: 1" in made.show()


def test_an_interrupted_change_of_champion_is_whole(made, monkeypatch) -> None:
    pass_without_asking(made, monkeypatch)
    made.promote(1)
    real = made.entries.point

    def killed(alias, number):
        raise KeyboardInterrupt

    monkeypatch.setattr(made.entries, "point", killed)
    with pytest.raises(KeyboardInterrupt):
        made.promote(2)
    with pytest.raises(LessonError, match="no champion before version 1"):
        made.rollback()
    monkeypatch.setattr(made.entries, "point", real)
    assert (made.resolve().version, made.entries.history()) == (1, [1])
    made.promote(2)
    monkeypatch.setattr(made.entries, "write_history", killed)
    with pytest.raises(TypeError):
        made.rollback()
    assert (made.resolve().version, made.entries.history()) == (1, [1])


def test_no_way_back_to_a_damaged_version(made, monkeypatch) -> None:
    pass_without_asking(made, monkeypatch)
    made.promote(1)
    made.promote(2)
    changed_byte(made.root / "1")
    with pytest.raises(ModelError, match="Version 1 can't be loaded"):
        made.rollback()
    assert (made.resolve().version, made.entries.history()) == (2, [1, 2])


# ---- Interrupted, full, twice --------------------------------------------------------------------------------


class Full:
    """A file on a disk with room for a few bytes."""

    def __init__(self, file, room: list[int]) -> None:
        self.file, self.room = file, room

    def write(self, block: bytes) -> int:
        self.room[0] -= len(block)
        if self.room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(block)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 5000, 60000])
def test_a_full_disk_leaves_the_registry_as_it_was(made, world, monkeypatch, room) -> None:
    before, left, real = state(made), [room], Path.open

    def opened(self, mode="r", *args, **options):
        file = real(self, mode, *args, **options)
        return Full(file, left) if mode == "wb" and made.root in self.parents else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ModelError, match="no room left") as caught:
        made.register(world / "runs" / "same")
    assert "make room" in caught.value.fix
    monkeypatch.undo()
    assert state(made) == before
    assert list(made.root.glob(".part-*")) == []
    assert made.register(world / "runs" / "same").version == 3


@pytest.mark.skipif(os.name == "nt", reason="no such limit there")
def test_a_real_limit_of_the_system(made, world) -> None:
    before = state(made)
    script = (
        "import resource, sys; from production.registry import Registry, Judging\n"
        "from lessonkit.errors import ModelError\n"
        "made = Registry(sys.argv[1]); made.show()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "try: made.register(sys.argv[2])\n"
        "except ModelError as error: print(error)\n"
    )
    words = [sys.executable, "-c", script, str(made.work), str(world / "runs" / "same")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert "no room left on the disk" in done.stdout, done.stderr
    assert state(made) == before


def test_a_database_that_fails_leaves_no_folder(made, world, monkeypatch) -> None:
    before = state(made)

    def failing(*_, **__):
        from mlflow.exceptions import MlflowException

        raise MlflowException("(sqlite3.OperationalError) database or disk is full")

    monkeypatch.setattr(made.entries.client, "create_model_version", failing)
    with pytest.raises(ModelError, match="no room left"):
        made.register(world / "runs" / "same")
    monkeypatch.undo()
    assert state(made) == before


def test_the_next_start_ends_what_was_interrupted(made, world, monkeypatch) -> None:
    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(registry_files.os, "fsync", killed)
        patch.setattr(registry_files.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            made.register(world / "runs" / "same")
    assert len(list(made.root.glob(".part-*"))) == 1
    with monkeypatch.context() as patch:  # killed after the rename, before the entry
        patch.setattr(made.entries, "add", killed)
        patch.setattr(registry.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            made.register(world / "runs" / "same")
    assert (made.root / "3").is_dir()
    assert sorted(made.entries.all()) == [1, 2]
    assert made.register(world / "runs" / "same").version == 3
    assert list(made.root.glob(".part-*")) == []
    assert made.resolve("3").run_id == "same"


def test_a_second_start_is_told(made, world) -> None:
    before = state(made)
    with only_one(made.root, WHAT):
        for action in (
            lambda: made.register(world / "runs" / "same"),
            lambda: made.promote(1),
            made.rollback,
        ):
            with pytest.raises(LessonError, match=f"Another process .* is {WHAT}"):
                action()
        assert made.resolve(CHALLENGER).version == 2  # reading goes on
    assert state(made) == before


# ---- The command ---------------------------------------------------------------------------------------------


def test_the_command(made, world, monkeypatch, capsys) -> None:
    pass_without_asking(made, monkeypatch)
    options = {"work": str(made.work)}
    registry.main("register", str(world / "runs" / "same"), **options)
    registry.main("promote", "3", **options)
    registry.main("promote", "2", **options)
    registry.main("rollback", **options)
    registry.main("show", **options)
    registry.main("show", "champion", **options)
    said = capsys.readouterr().out
    assert "Version 3 of topics, from the run same: challenger" in said
    assert "Version 3 is champion again." in said
    assert "3        champion" in said
    assert "sha256 model.safetensors" in said
    pass_without_asking(made, monkeypatch, passed=False)
    with pytest.raises(typer.Exit) as caught:
        registry.main("promote", "2", **options)
    assert caught.value.exit_code == 1
    for wrong in (
        ("promot", ""),
        ("promote", ""),
        ("promote", "two"),
        ("rollback", "1"),
        ("register", "nothing"),
    ):
        with pytest.raises((LessonError, UnknownNameError)):
            registry.main(*wrong, **options)
