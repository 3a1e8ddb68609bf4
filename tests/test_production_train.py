"""One process, DDP and FSDP train the same; a killed worker goes on; who holds and sends what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lessonkit.errors import DataError, LessonError, TrainingError
from production import checkpoints, processes, settings
from production.batches import Rows, check_split, share, step_rows
from production.commands import only_one
from production.communication import sent_per_step
from production.group import Group, join, loopback, torchrun
from production.sharding import blocks, predicted
from production.tiny_model import TinyClassifier, tiny_rows
from production.train import Training, main, train
from production.training_parts import loss_sum

ALONE = Group(0, 1, False, torch.device("cpu"), "none")
ROOT = Path(__file__).parents[1]
STEPS, SAVE = 8, 3
TINY = {
    "model": "tiny",
    "train_rows": 64,
    "test_rows": 30,
    "batch_size": 16,
    "steps": STEPS,
    "learning_rate": 0.01,
    "save_every": SAVE,
    "timeout": 60.0,
}
SECONDS = 600


def words(**changes: object) -> list[str]:
    found = []
    for name, value in (TINY | changes).items():
        found += [f"--{name.replace('_', '-')}", str(value)]
    return found


def start(folder: Path, *options: str, processes_each: int = 2, log: str = "log", **changes: object):
    given = ("--folder", str(folder), *words(**changes))
    command = torchrun("production.train", *given, processes=processes_each, options=options)
    return processes.start(command, folder.with_suffix(f".{log}"), env=loopback(), folder=ROOT)


def finished(nodes: list[processes.Process], folder: Path) -> None:
    """Wait for the record of two launchers, then end them: one whose partner has left first may wait in vain."""
    until = time.monotonic() + SECONDS
    while (
        time.monotonic() < until
        and not (folder / "record.json").exists()
        and all(each.running for each in nodes)
    ):
        time.sleep(0.2)
    time.sleep(2)
    for each in nodes:
        each.stop()
    assert (folder / "record.json").exists(), nodes[0].tail(40)


def ended(started: list[processes.Process]) -> None:
    """Wait for all of them; none is left behind, whatever happens."""
    try:
        for each in started:
            assert each.wait(SECONDS) == 0, each.tail(40)
    finally:
        for each in started:
            each.stop()


def record(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def alone(folder: Path, **changes: object) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    return train(Training(**(TINY | changes)), folder, ALONE)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder each for one process, two launchers (ddp), fsdp, a killed worker, and accelerate; started together."""
    if sys.platform == "win32":
        pytest.skip("torchrun's own store needs libuv there")
    folder = tmp_path_factory.mktemp("runs")
    meet = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "rehearsal")
    meet += ("--rdzv-endpoint", f"127.0.0.1:{processes.free_port()}")
    nodes = [start(folder / "ddp", *meet, processes_each=1, log=f"log{n}", strategy="ddp") for n in (0, 1)]
    started = [
        start(folder / "fsdp", strategy="fsdp", accumulate=2),
        start(folder / "killed", "--max-restarts", "1", strategy="ddp", fail_at=SAVE + 1),
        accelerate(folder / "accelerate"),
    ]
    alone(folder / "single")
    finished(nodes, folder / "ddp")
    ended(started)
    return folder


def accelerate(folder: Path) -> processes.Process:
    given = {name: TINY[name] for name in ("model", "train_rows", "batch_size", "steps", "learning_rate")}
    launcher = ["python", "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--main_process_port", str(processes.free_port()), "-m", "production.train_accelerate"]
    launcher += ["--folder", str(folder)]
    for name, value in given.items():
        launcher += [f"--{name.replace('_', '-')}", str(value)]
    return processes.start(launcher, folder.with_suffix(".log"), env=loopback(), folder=ROOT)


# ---- Equal trainings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(runs: Path, strategy: str) -> None:
    one, two = record(runs / "single"), record(runs / strategy)
    assert two["world"] == 2
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert one["losses"][-1] < one["losses"][0]
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=1 / 29)
    first, second = weights(runs / "single"), weights(runs / strategy)
    assert first.keys() == second.keys()
    for name, each in first.items():
        torch.testing.assert_close(second[name], each, rtol=1e-3, atol=1e-4)


def test_small_batches_train_as_large_ones(tmp_path: Path) -> None:
    whole, parts = alone(tmp_path / "a"), alone(tmp_path / "b", accumulate=4)
    assert parts["losses"] == pytest.approx(whole["losses"], rel=1e-4)


@pytest.mark.parametrize("switch", [{"gradient_checkpointing": True}, {"precision": "bf16"}])
def test_switches_train_nearly_the_same(tmp_path: Path, switch: dict) -> None:
    plain, other = alone(tmp_path / "a"), alone(tmp_path / "b", **switch)
    assert other["losses"] == pytest.approx(plain["losses"], rel=0.1 if "precision" in switch else 1e-5)


def test_a_decoder_counts_all_but_the_first_token() -> None:
    block = torch.arange(12).view(2, 6)
    rows = Rows({"input_ids": block}, block)
    assert rows.targets([0, 1]) == 10
    logits = torch.randn(2, 6, 12)
    parts = sum(loss_sum(logits[[each]], block[[each]]) for each in (0, 1))
    torch.testing.assert_close(loss_sum(logits, block), parts)


# ---- Bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp"])
def test_bytes_held_are_those_predicted(runs: Path, strategy: str) -> None:
    found = record(runs / strategy)
    for each in found["ranks"]:
        assert each["held"] == each["predicted"]
        assert each["peak_bytes"] > each["held"]["total"]


def test_shards_add_up() -> None:
    shapes = [tuple(each.shape) for each in TinyClassifier().parameters()]
    whole = predicted(shapes, "single")
    assert predicted(shapes, "ddp", 3, 1) == whole
    for world in (2, 3, 7):
        parts = [predicted(shapes, "fsdp", world, rank) for rank in range(world)]
        assert sum(each.parameters for each in parts) == whole.parameters
        assert sum(each.gradients for each in parts) == whole.gradients


@pytest.mark.parametrize(
    ("world", "strategy", "accumulate", "sent"),
    [(1, "ddp", 1, 0), (2, "ddp", 1, 4000), (4, "ddp", 8, 6000), (2, "fsdp", 1, 6000), (2, "fsdp", 4, 18000)],
)
def test_bytes_sent(world: int, strategy: str, accumulate: int, sent: float) -> None:
    assert sent_per_step(1000, world, strategy, accumulate=accumulate) == sent


def test_blocks_are_the_repeated_layers() -> None:
    assert len(blocks(TinyClassifier(layers=3))) == 3
    with pytest.raises(TrainingError, match="no list of layers"):
        blocks(torch.nn.Linear(2, 2))


# ---- Batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (2, 3), (4, 3), (3, 4)])
def test_each_row_has_one_place(world: int, accumulate: int) -> None:
    rows = step_rows(5, 50, 12, seed=1)
    dealt = [row for rank in range(world) for small in share(rows, rank, world, accumulate) for row in small]
    assert sorted(dealt) == sorted(rows)
    assert {len(small) for rank in range(world) for small in share(rows, rank, world, accumulate)} == {
        12 // world // accumulate
    }


def test_an_epoch_takes_each_row_once() -> None:
    epochs = [[row for step in range(4 * e, 4 * e + 4) for row in step_rows(step, 50, 12, 0)] for e in (0, 1)]
    assert all(len(set(each)) == 48 for each in epochs)
    assert epochs[0] != epochs[1]


def test_an_uneven_split_is_refused() -> None:
    check_split(16, 2, 4)
    with pytest.raises(TrainingError, match="such as 15"):
        check_split(16, 3, 1)


# ---- Stops and restarts ------------------------------------------------------------------------------


def test_a_killed_worker_goes_on_to_the_same_end(runs: Path) -> None:
    found, unharmed = record(runs / "killed"), record(runs / "ddp")
    killed = (runs / "killed" / f"failed-at-{SAVE + 1}").read_text()
    assert int(killed) not in [each["pid"] for each in found["ranks"]]
    assert found["restored_from"] == SAVE
    assert found["losses"] == unharmed["losses"]
    assert found["weights_sha256"] == unharmed["weights_sha256"]


def test_an_interrupted_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = alone(tmp_path / "whole")
    calls = []

    def stop(_settings: Training, _folder: Path, step: int, _group: Group) -> None:
        calls.append(step)
        if step == SAVE + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("production.train._fail_once", stop)
        with pytest.raises(KeyboardInterrupt):
            alone(tmp_path / "parts")
    resumed = alone(tmp_path / "parts")
    assert calls == list(range(SAVE + 2))
    assert resumed["restored_from"] == SAVE
    assert resumed["losses"] == whole["losses"]
    assert resumed["weights_sha256"] == whole["weights_sha256"]


def test_two_processes_checkpoint_and_one_goes_on(runs: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs / "fsdp", tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / f"step-{STEPS:06d}")
    found = alone(tmp_path / "moved", strategy="single")
    assert found["restored_from"] == STEPS // SAVE * SAVE
    assert found["losses"] == pytest.approx(record(runs / "single")["losses"], rel=1e-4)


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    (tmp_path / "step-000003.partial").mkdir()
    assert checkpoints.latest(tmp_path) is None
    (tmp_path / "step-000002").mkdir()
    assert checkpoints.latest(tmp_path).name == "step-000002"


def test_few_checkpoints_are_kept_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    alone(tmp_path, save_every=1)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [each.name for each in kept] == [f"step-{STEPS - 1:06d}", f"step-{STEPS:06d}"]
    (kept[-1] / ".metadata").write_bytes(b"")
    with pytest.raises(TrainingError, match=f"step-{STEPS:06d} can't be loaded"):
        alone(tmp_path)


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    alone(tmp_path)
    with pytest.raises(TrainingError, match="other settings: learning_rate"):
        alone(tmp_path, learning_rate=0.02)


def test_a_second_start_is_refused(tmp_path: Path) -> None:
    with (
        only_one(tmp_path, "training"),
        pytest.raises(LessonError, match=f"Another process \\({os.getpid()}\\) is training"),
    ):
        main(folder=tmp_path, model="tiny")


# ---- Launchers ---------------------------------------------------------------------------------------


def test_two_launchers_meet(runs: Path) -> None:
    found = record(runs / "ddp")
    assert (found["world"], found["backend"]) == (2, "gloo")
    assert [each["rank"] for each in found["ranks"]] == [0, 1]


def test_accelerate_launch_trains_the_same(runs: Path) -> None:
    found = record(runs / "accelerate")
    assert found["world"] == 2
    assert found["losses"] == pytest.approx(record(runs / "single")["losses"], rel=1e-4)


def test_restarts_without_a_store_of_their_own_are_told(monkeypatch, capsys) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        "torch.distributed.init_process_group", lambda *_, **__: (_ for _ in ()).throw(KeyError)
    )
    with pytest.raises(KeyError), join():
        pass
    assert "A restart may fail" in capsys.readouterr().out
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with pytest.raises(KeyError), join():
        pass
    assert not capsys.readouterr().out


def test_strategies_need_their_processes(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="needs a launcher"):
        alone(tmp_path, strategy="ddp")


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"precision": "fp8"}, {"batch_size": 100, "train_rows": 10}])
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(DataError):
        settings.read("training", Training, **wrong)


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LessonError, match="can't be started"):
        processes.start([tmp_path / "torchrun"], tmp_path / "log")


def test_tiny_rows_can_be_learned() -> None:
    rows = tiny_rows(40)
    assert len(rows) == 40
    assert set(rows.labels.tolist()) == {0, 1, 2, 3}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_on_gpus(tmp_path: Path, strategy: str) -> None:
    ended([start(tmp_path / "run", strategy=strategy, processes_each=torch.cuda.device_count())])
    found = record(tmp_path / "run")
    assert (found["backend"], found["device"]) == ("nccl", "cuda")
    assert found["losses"][-1] < found["losses"][0]


@pytest.mark.parametrize(
    ("place", "said"), [({"RANK": "1", "WORLD_SIZE": "2"}, ["done"]), ({}, ["done", "late"])]
)
def test_only_a_launched_worker_leaves_without_pythons_own_end(place: dict[str, str], said: list[str]):
    script = "import atexit; atexit.register(print, 'late'); print('done'); from production.group import leave; leave()"
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=alone | place,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == said
