"""Runs are recorded whole or not at all, repeated bit for bit, and told apart by what was recorded."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lessonkit.errors import DataError, LessonError, ModelError, TrainingError, UnknownNameError
from production import recipe, records, tracking
from production.commands import only_one
from production.comparing import compare_runs
from production.recipe import Tracking


def record(**changes) -> dict:
    """A record without a training."""
    return {
        "run_id": "one",
        "created": "2026-01-31T12:00:00.000+00:00",
        "kind": "train",
        "repeats": "",
        "data": {"name": "d", "sha256": "0"},
        "code": {"version": "1"},
        "seed": 0,
        "hardware": {},
        "versions": {"torch": "2"},
        "settings": {"steps": 2, "learning_rate": 1e-3, "threads": 1},
        "metrics": {"eval_loss": 0.5},
        "losses": [[1, 2.0], [2, 1.5]],
    } | changes


def run_folder(work: Path, name: str = "one", **changes) -> Path:
    folder = work / "runs" / name
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"weights of " + name.encode())
    records.write_run(folder, record(run_id=name, **changes))
    return folder


# ---- The record ------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, losses=[[1, 0.1 + 0.2], [2, float("nan")]])
    found = records.verify_run(folder)
    assert found["losses"] == [[1, 0.1 + 0.2], [2, None]]
    assert list(found["files"]) == ["model/model.safetensors"]
    assert [each.name for each in folder.iterdir() if each.name.startswith(".")] == []


def test_a_full_disk_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        run_folder(tmp_path)
    assert [each.name for each in (tmp_path / "runs" / "one").iterdir()] == ["model"]
    assert records.list_runs(tmp_path) == []
    assert records.incomplete_runs(tmp_path) == ["one"]


def test_a_run_that_is_not_there_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="train one first"):
        records.find_run(tmp_path, "anything")
    run_folder(tmp_path, "20260131-120000-3fa9")
    with pytest.raises(UnknownNameError, match="20260131-120000-3fa9"):
        records.find_run(tmp_path, "20260131-120000-3fa8")
    with pytest.raises(UnknownNameError):
        records.find_run(tmp_path, "../runs/20260131-120000-3fa9")


def test_an_interrupted_run_is_no_run(tmp_path: Path) -> None:
    (run_folder(tmp_path) / records.RUN_FILE).unlink()
    with pytest.raises(TrainingError, match="incomplete"):
        records.find_run(tmp_path, "one")
    assert "incomplete" in tracking.table(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"run_id": "one", "cre', "can't be read"),
        ("[1, 2]", "no JSON object"),
        ('{"run_id": "one"}', "created is missing; data is missing"),
        (json.dumps(record(seed=True, files={})), "seed is True"),
    ],
)
def test_a_damaged_record_is_told_and_not_skipped(tmp_path: Path, text: str, told: str) -> None:
    (run_folder(tmp_path) / records.RUN_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match=told):
        records.list_runs(tmp_path)


def test_changed_files_are_all_named(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (folder / "evaluation.json").write_text("{}")  # others may add to the folder, not to the model
    records.verify_run(folder)
    (folder / "model" / "model.safetensors").write_bytes(b"other")
    (folder / "model" / "more.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model.safetensors was changed; model/more.bin was added"):
        records.verify_run(folder)
    (folder / "model" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is missing"):
        records.verify_run(folder)


def test_order_and_borders_of_rows_count() -> None:
    rows = [("a", "b"), ("c", "d")]
    others = [rows[::-1], [("a", "bc"), ("", "d")], [("ab", ""), ("c", "d")], rows[:1]]
    assert len({records.rows_sha256(each) for each in [rows, *others]}) == 5


def test_code_is_named_by_its_text(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_bytes(b"x = 1\n")
    one = records.code_state([file], "1")
    assert (one["commit"], one["dirty"]) == (None, None)
    file.write_bytes(b"x = 1\r\n")
    assert records.code_state([file], "1") == one
    file.write_bytes(b"x = 2\n")
    assert records.code_state([file], "1")["sha256"] != one["sha256"]


# ---- Two records -----------------------------------------------------------------------------------------


def test_what_differs_is_named() -> None:
    one = record(files={"model/model.safetensors": "a"})
    other = record(run_id="two", seed=1, files={"model/model.safetensors": "b"}, losses=[[1, 2.0], [2, 1.25]])
    found = compare_runs(one, other)
    assert found.differences == {"seed": (0, 1)}
    assert (found.same, found.first_difference, found.largest) == (False, 2, 0.25)
    assert compare_runs(one, one | {"run_id": "two"}).same


def test_the_same_code_under_another_commit_is_the_same() -> None:
    one = record(files={}, code={"sha256": "1", "commit": "a", "dirty": False})
    assert compare_runs(one, one | {"code": {"sha256": "1", "commit": "b", "dirty": True}}).differences == {}
    found = compare_runs(one, one | {"code": {"sha256": "2", "commit": "b", "dirty": False}})
    assert list(found.differences) == ["code.sha256", "code.commit"]


def test_no_weights_and_no_losses_are_not_equal_ones() -> None:
    empty = record(files={}, losses=[])
    found = compare_runs(empty, empty)
    assert (found.same_weights, found.same_losses, found.same) == (False, False, False)


def test_a_lost_loss_differs_from_any_number() -> None:
    one, other = record(files={}), record(files={}, losses=[[1, 2.0], [2, None]])
    assert compare_runs(one, other).largest == float("inf")


# ---- Trainings -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(tiny, tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    file = tmp_path_factory.mktemp("data") / "texts.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label"])
        writer.writerows(
            [text, "ab"[label]]
            for text, label in zip(tiny.dataset["text"], tiny.dataset["label"], strict=True)
        )
    return Tracking(
        model=str(tiny.folder),
        data=str(file),
        train_texts=16,
        validation_texts=8,
        steps=3,
        batch_size=4,
        eval_every=2,
        learning_rate=1e-2,
        threads=1,
    )


@pytest.fixture(scope="module")
def work(settings: Tracking, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings: with the settings' rate, and with one at which nothing is learned."""
    folder = tmp_path_factory.mktemp("work")
    recipe.train(folder, settings)
    recipe.train(folder, replace(settings, learning_rate=1e-9))
    return folder


def ids(work: Path) -> list[str]:
    return [each["run_id"] for each in records.list_runs(work) if each["kind"] == "train"]


def test_a_run_folder_holds_a_model_and_its_record(work: Path, settings: Tracking) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = records.find_run(work, ids(work)[0])
    found = records.verify_run(folder)
    assert found["data"]["train_texts"] == 16
    assert found["data"]["labels"] == ["a", "b"]
    assert [step for step, _ in found["losses"]] == [1, 2, 3]
    assert Tracking(**found["settings"], seed=found["seed"]) == settings
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert model.config.id2label == {0: "a", 1: "b"}
    assert AutoTokenizer.from_pretrained(folder / "model")("word1")["input_ids"]


def test_mlflow_has_one_run_for_each_with_its_evaluation(work: Path) -> None:
    from production.trackers import client, experiment, history

    found = client(work).search_runs([experiment(work)], "tags.kind = 'train'")
    assert sorted(each.data.tags["run_id"] for each in found) == ids(work)
    for each in found:
        kept = records.read_run(work / "runs" / each.data.tags["run_id"])
        assert each.info.status == "FINISHED"
        assert each.data.metrics["eval_loss"] == kept["metrics"]["eval_loss"]
        assert each.data.tags["data.sha256"] == kept["data"]["sha256"]
        assert history(work, kept["run_id"]) == tuple(map(list, zip(*kept["losses"], strict=True)))
    assert len(list((work / "artifacts").rglob(records.RUN_FILE))) >= 2


def test_the_best_is_asked_of_the_tracker(work: Path) -> None:
    from production.trackers import best_run

    losses = {each["run_id"]: each["metrics"]["eval_loss"] for each in records.list_runs(work)}
    assert best_run(work) == min(ids(work), key=losses.__getitem__)
    assert best_run(work, highest=True) == max(ids(work), key=losses.__getitem__)
    with pytest.raises(TrainingError, match="nonsense"):
        best_run(work, "nonsense")


def test_weights_and_biases_kept_it_offline(work: Path) -> None:
    from production.trackers import offline_folder, offline_records

    found = offline_records(work, ids(work)[0])
    assert found.get("history", 0) >= 3
    with pytest.raises(TrainingError, match="no offline folder"):
        offline_folder(work, "other")


def test_a_run_is_repeated_bit_for_bit(work: Path) -> None:
    first = ids(work)[0]
    made = tracking.repeat(work, first)
    assert made.comparison.same
    assert made.comparison.differences == {}
    assert records.read_run(made.folder)["repeats"] == first
    assert "bit for bit" in str(made)


def test_another_seed_is_another_training(work: Path, settings: Tracking) -> None:
    made = recipe.train(work, replace(settings, seed=1))
    found = compare_runs(records.read_run(work / "runs" / ids(work)[0]), records.read_run(made))
    assert found.differences == {"seed": (0, 1)}
    assert not found.same_weights
    assert not found.same_losses


def test_changed_data_is_no_repetition(work: Path, settings: Tracking) -> None:
    file = Path(settings.data)
    before, count = file.read_text(encoding="utf-8"), len(ids(work))
    lines = before.splitlines()
    lines[-1] = lines[-1] + "x"  # the last label of the validation part
    try:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"validation: sha256 \w{12} then") as told:
            tracking.repeat(work, ids(work)[0])
    finally:
        file.write_text(before, encoding="utf-8")
    assert "train:" not in str(told.value)
    assert len(ids(work)) == count


def test_unknown_settings_are_told(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "runs" / ids(work)[0], tmp_path / "runs" / "old")
    file = tmp_path / "runs" / "old" / records.RUN_FILE
    kept = json.loads(file.read_text(encoding="utf-8"))
    kept["settings"]["gone"] = 1
    file.write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(DataError, match="don't fit this code"):
        tracking.repeat(tmp_path, "old")


def test_one_training_at_a_time(tmp_path: Path, settings: Tracking) -> None:
    with only_one(tmp_path, "training"), pytest.raises(LessonError, match="Another process"):
        recipe.train(tmp_path, settings)
    assert not (tmp_path / "runs").exists()


def test_a_training_that_cannot_be_kept(
    work: Path, tmp_path: Path, settings: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    from production.trackers import client, experiment

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shutil.copy(work / "mlflow.db", tmp_path)  # its tables take seconds to make
    monkeypatch.setattr(recipe.records, "write_run", full)
    with pytest.raises(TrainingError, match="disk is full"):
        recipe.train(tmp_path, settings)
    assert len(records.incomplete_runs(tmp_path)) == 1
    newest = client(tmp_path).search_runs([experiment(tmp_path)], max_results=1)
    assert [each.info.status for each in newest] == ["FAILED"]


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"threads": -1}, {"seed": -1}]
)
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Tracking(**changes)


def test_too_few_texts(settings: Tracking) -> None:
    with pytest.raises(DataError, match="24 texts, 116 are asked for"):
        recipe.read_data(replace(settings, train_texts=108))


# ---- Commands --------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_take(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="repeat"):
        tracking.main("repaet", work=str(tmp_path))
    with pytest.raises(LessonError, match="takes 2 run ids, not 1"):
        tracking.main("compare", ["one"], work=str(tmp_path))


def test_list_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracking.main("list", work=str(tmp_path))
    assert "No runs" in capsys.readouterr().out
    run_folder(tmp_path)
    run_folder(tmp_path, "two", created="2026-01-31T13:00:00.000+00:00", seed=5)
    tracking.main("list", work=str(tmp_path))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "one", "two"]
    tracking.main("compare", ["one", "two"], work=str(tmp_path))
    assert "seed: 0 -> 5" in capsys.readouterr().out
