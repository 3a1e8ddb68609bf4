"""Stopped or killed at any step, a training goes on to the very weights it would have had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainer import (
    causal_rows,
    constant_rows,
    labelled_rows,
    make_trainer,
    pad,
    same,
    weights,
)
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from lessonkit.errors import TrainingError
from lessonkit.training import run, safety
from lessonkit.training.checkpoints import mark_begun, mark_complete, newest_checkpoint

ROOT = Path(__file__).resolve().parents[1]
OPTIONS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "dropout": 0.2,
    "optim": "adamw_torch",
    "learning_rate": 0.01,
    "lr_scheduler_type": "linear",
}
STEPS = 18  # 22 rows, 4 a step, the last step of an epoch has 2


class Stop(TrainerCallback):
    """Presses the stop button during a step."""

    def __init__(self, step: int, times: int = 1) -> None:
        self.step = step
        self.times = times

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


class Crash(TrainerCallback):
    """Ends the run after a step, with no time to clean up."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise RuntimeError("crashed")


@pytest.fixture
def at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Safety checkpoints are always due."""
    monkeypatch.setattr(safety, "SHARE_OF_TIME", 1e9)


@pytest.fixture
def never_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No safety checkpoint falls due, however slow the machine is."""
    for share in ("SHARE_OF_TIME", "FIRST_SHARE"):
        monkeypatch.setattr(safety, share, 1e-9)


def checkpoints(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.glob("checkpoint-*"))


def uninterrupted(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    trainer = make_trainer(folder, **options)
    run(trainer)
    return weights(trainer)


def stopped(folder: Path, step: int, **options: Any) -> Trainer:
    trainer = make_trainer(folder, callbacks=[Stop(step)], **options)
    with pytest.raises(KeyboardInterrupt, match=f"after step {step} of"):
        run(trainer)
    return trainer


# ---- The stop button --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"kind": "causal"}, [1, 2, 5, 6, 7, 11, 12, 13, 17]),
        ({"kind": "causal", "train_sampling_strategy": "group_by_length"}, [1, 6, 8, 12, 17]),
        ({"kind": "causal", "train_sampling_strategy": "sequential"}, [5, 6, 7]),
        ({"kind": "classifier"}, [1, 9, 12]),
        ({"kind": "lora"}, [2, 6, 11]),
        ({"kind": "classifier", "eval_strategy": "epoch", "eval_dataset": labelled_rows()}, [5, 6, 7, 12]),
        ({"kind": "causal", "data_seed": 11, "train_sampling_strategy": "group_by_length"}, [9]),
    ],
    ids=["random", "by-length", "sequential", "classifier", "lora", "evaluated", "data-seed"],
)
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path, options: dict, steps: list[int]):
    options = OPTIONS | options
    wanted = uninterrupted(tmp_path / "whole", **options)
    for step in steps:
        folder = tmp_path / f"stopped-{step}"
        stopped(folder, step, **options)
        assert checkpoints(folder) == [f"checkpoint-{step}"]
        resumed = make_trainer(folder, **options)
        torch.manual_seed(step)  # whatever the learner did meanwhile
        measured = run(resumed, resume=True)
        assert same(weights(resumed), wanted), f"stopped after step {step}"
        assert measured.steps == STEPS
        assert checkpoints(folder) == []


def test_going_on_in_the_same_kernel_with_the_same_trainer(tmp_path: Path):
    options = OPTIONS | {"kind": "lora"}
    wanted = uninterrupted(tmp_path / "whole", **options)
    trainer = stopped(tmp_path / "stopped", 8, **options)
    torch.rand(3)
    run(trainer, resume=True)
    assert same(weights(trainer), wanted)


def test_a_run_that_was_stopped_twice(tmp_path: Path):
    wanted = uninterrupted(tmp_path / "whole", **OPTIONS)
    folder = tmp_path / "stopped"
    stopped(folder, 4, **OPTIONS)
    again = make_trainer(folder, callbacks=[Stop(13)], **OPTIONS)
    with pytest.raises(KeyboardInterrupt, match="after step 13 of"):
        run(again, resume=True)
    last = make_trainer(folder, **OPTIONS)
    run(last, resume=True)
    assert same(weights(last), wanted)


def test_the_message_says_where_it_stands_and_what_to_type(tmp_path: Path):
    trainer = make_trainer(tmp_path, callbacks=[Stop(3)], **OPTIONS)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(trainer)
    message = str(caught.value)
    assert "after step 3 of 18" in message
    assert str(tmp_path / "checkpoint-3") in message
    assert "lessonkit.run(trainer, resume=True)" in message


def test_a_second_press_stops_at_once(tmp_path: Path, never_by_the_clock: None):
    trainer = make_trainer(tmp_path, callbacks=[Stop(3, times=2)], **OPTIONS)
    with pytest.raises(KeyboardInterrupt, match="at once"):
        run(trainer)
    assert trainer.state.global_step == 2
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("stop", [None, 3])
def test_the_handler_is_put_back(tmp_path: Path, stop: int | None):
    def mine(number: int, frame: Any) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGINT, mine)
    try:
        if stop:
            stopped(tmp_path, stop, **OPTIONS)
        else:
            run(make_trainer(tmp_path, **OPTIONS))
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_it_trains_all_the_same(tmp_path: Path):
    trainer = make_trainer(tmp_path)
    thread = threading.Thread(target=run, args=(trainer,))
    thread.start()
    thread.join()
    assert trainer.state.global_step == trainer.state.max_steps


def test_a_stop_at_the_last_step_comes_too_late(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    trainer = make_trainer(tmp_path, callbacks=[Stop(STEPS)], **OPTIONS)
    assert run(trainer).steps == STEPS
    assert "at its end" in capfd.readouterr().err


def test_the_live_line_says_where_it_was_stopped(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    stopped(tmp_path, 3, **OPTIONS)
    assert "Stopped after step 3 of 18." in capfd.readouterr().err.splitlines()


def test_measured_is_the_whole_training(tmp_path: Path):
    whole = run(make_trainer(tmp_path / "whole", **OPTIONS))
    stopped(tmp_path / "stopped", 8, **OPTIONS)
    resumed = run(make_trainer(tmp_path / "stopped", **OPTIONS), resume=True)
    assert resumed.tokens == whole.tokens
    assert resumed.loss == pytest.approx(whole.loss, rel=1e-4)
    losses = [[entry["loss"] for entry in each.history if "loss" in entry] for each in (whole, resumed)]
    assert losses[0] == losses[1]


def test_early_stopping_goes_on_counting(tmp_path: Path):
    options = OPTIONS | {
        "kind": "classifier",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "learning_rate": 1e-12,
        "metric_for_best_model": "eval_count",
        "greater_is_better": True,
        "eval_dataset": labelled_rows(6),
        "compute_metrics": lambda predicted: {"count": 1.0},  # never better than the first time
    }

    def counting(folder: Path, *callbacks: TrainerCallback) -> Trainer:
        return make_trainer(folder, callbacks=[EarlyStoppingCallback(4), *callbacks], **options)

    whole = counting(tmp_path / "whole")
    run(whole)
    assert 0 < whole.state.global_step < STEPS
    with pytest.raises(KeyboardInterrupt):
        run(counting(tmp_path / "stopped", Stop(5)))
    resumed = counting(tmp_path / "stopped")
    run(resumed, resume=True)
    assert resumed.state.global_step == whole.state.global_step


# ---- Killed ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed trainings are forked children")
def test_killed_processes_are_resumed(tmp_path: Path):
    kills = [
        "causal::step",
        "causal:4:step",
        "causal:13:step",
        "causal:7:saving",
        "lora::step",
        "lora:8:step",
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, ROOT / "tests/killed_trainings.py", tmp_path, *kills],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout.splitlines()[-1])
    wanted = {each["kind"]: each for each in reports if not each["signal"]}
    for report, left in zip(
        reports, [[], ["checkpoint-3"], ["checkpoint-12"], None, [], ["checkpoint-7"]], strict=True
    ):
        same_as = wanted[report["kind"]]
        assert report["signal"] in (0, signal.SIGKILL)
        assert report["digest"] == same_as["digest"], report
        assert (report["steps"], report["tokens"]) == (same_as["steps"], same_as["tokens"])
        assert report["remains"] == []
        if left is None:  # the half-written one, and the one before it
            assert report["left"] == ["checkpoint-6", "checkpoint-7"]
        else:
            assert report["left"] == left


# ---- Safety checkpoints -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_each_step")
class TestSafety:
    def test_one_at_a_time_and_none_in_the_end(self, tmp_path: Path):
        seen = []

        class Look(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs) -> None:
                seen.append(checkpoints(tmp_path))

        run(make_trainer(tmp_path, callbacks=[Look()], **OPTIONS))
        assert seen == [[], *([f"checkpoint-{step}"] for step in range(1, STEPS))]
        assert checkpoints(tmp_path) == []

    def test_they_change_nothing(self, tmp_path: Path):
        with_safety = uninterrupted(tmp_path / "one", **OPTIONS)
        plain = make_trainer(tmp_path / "two", **OPTIONS)
        plain.train()
        assert same(with_safety, weights(plain))

    @pytest.mark.parametrize(
        ("options", "kept"),
        [
            ({"save_strategy": "steps", "save_steps": 4}, [4, 8, 12, 16, 18]),
            ({"save_strategy": "steps", "save_steps": 4, "save_total_limit": 2}, [16, 18]),
            ({"save_strategy": "epoch"}, [6, 12, 18]),
            ({"save_strategy": "epoch", "save_total_limit": 1}, [18]),
            ({"save_strategy": "no"}, []),
        ],
        ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
    )
    def test_the_learners_own_stay(self, tmp_path: Path, options: dict, kept: list[int]):
        run(make_trainer(tmp_path, **OPTIONS | options))
        assert checkpoints(tmp_path) == sorted(f"checkpoint-{step}" for step in kept)

    def test_the_best_stays(self, tmp_path: Path):
        options = {
            "kind": "classifier",
            "eval_strategy": "steps",
            "eval_steps": 3,
            "save_strategy": "best",
            "metric_for_best_model": "loss",
            "eval_dataset": labelled_rows(6),
        }
        trainer = make_trainer(tmp_path, **OPTIONS | options)
        run(trainer)
        left = {int(name.split("-")[1]) for name in checkpoints(tmp_path)}
        assert trainer.state.best_global_step in left
        assert all(step % 3 == 0 for step in left)

    @pytest.mark.parametrize("step", [3, 6, 7, 12, 16])
    def test_after_a_crash_beside_the_learners_own(self, tmp_path: Path, step: int):
        options = OPTIONS | {
            "kind": "classifier",
            "save_strategy": "steps",
            "save_steps": 6,
            "eval_strategy": "epoch",
            "eval_dataset": labelled_rows(6),
        }
        wanted = uninterrupted(tmp_path / "whole", **options)
        with pytest.raises(RuntimeError, match="crashed"):
            run(make_trainer(tmp_path / "crashed", callbacks=[Crash(step)], **options))
        resumed = make_trainer(tmp_path / "crashed", **options)
        run(resumed, resume=True)
        assert same(weights(resumed), wanted)
        assert checkpoints(tmp_path / "crashed") == checkpoints(tmp_path / "whole")

    def test_an_earlier_runs_checkpoints_are_not_overwritten(self, tmp_path: Path):
        earlier = tmp_path / "checkpoint-3"
        earlier.mkdir()
        (earlier / "mine.txt").write_text("kept")
        run(make_trainer(tmp_path, **OPTIONS))
        assert (earlier / "mine.txt").read_text() == "kept"

    def test_when_none_can_be_written_training_goes_on(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        trainer = make_trainer(tmp_path, **OPTIONS)

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        trainer._save_optimizer_and_scheduler = full
        assert run(trainer).steps == STEPS
        told = [line for line in capfd.readouterr().err.splitlines() if "No space left" in line]
        assert len(told) == 1
        assert checkpoints(tmp_path) == []

    def test_size_of_the_pieces_goes_on(self, tmp_path: Path):
        def trainer(folder: str, *callbacks: TrainerCallback) -> tuple[Trainer, list[int]]:
            made = make_trainer(tmp_path / folder, callbacks=list(callbacks), **OPTIONS)
            failures: list[int] = []

            def shortage(module: Any, args: tuple, kwargs: dict) -> None:
                if kwargs["input_ids"].shape[0] > 1 and torch.is_grad_enabled():
                    failures.append(1)
                    raise torch.OutOfMemoryError("CUDA out of memory.")

            made.model.register_forward_pre_hook(shortage, with_kwargs=True)
            return made, failures

        whole, _ = trainer("whole")
        run(whole)
        with pytest.raises(RuntimeError, match="crashed"):
            run(trainer("crashed", Crash(8))[0])
        resumed, failures = trainer("crashed")
        run(resumed, resume=True)
        assert failures == []
        assert same(weights(resumed), weights(whole))


def test_they_are_written_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each waits until fifty times what the last one cost has passed."""
    now = [0.0]
    monkeypatch.setattr(safety.time, "monotonic", lambda: now[0])
    saved = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            now[0] += 10.0

        def on_save(self, args, state, control, **kwargs) -> None:
            saved.append(state.global_step)

    trainer = make_trainer(tmp_path, callbacks=[Clock()], **OPTIONS)
    original = trainer._save_optimizer_and_scheduler

    def slow(folder: str) -> None:
        now[0] += 1.0
        original(folder)

    trainer._save_optimizer_and_scheduler = slow
    run(trainer)
    assert saved == [1, 7, 13]  # a second each, so at least 50 s apart


# ---- Which checkpoint ---------------------------------------------------------------------------------------


def test_without_a_checkpoint_it_starts_from_the_beginning(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    wanted = uninterrupted(tmp_path / "whole", **OPTIONS)
    trainer = make_trainer(tmp_path / "none", **OPTIONS)
    run(trainer, resume=True)
    assert same(weights(trainer), wanted)
    assert "starts from the beginning" in capfd.readouterr().err


def test_where_it_goes_on_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    stopped(tmp_path, 5, **OPTIONS)
    capfd.readouterr()
    run(make_trainer(tmp_path, **OPTIONS), resume=True)
    shown = capfd.readouterr().err
    assert "Going on after step 5 of 18 (checkpoint-5)." in shown
    assert "step 5 of 18" in shown.splitlines()[1]


def test_a_finished_training_is_loaded_not_trained(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    options = OPTIONS | {"save_strategy": "epoch"}
    wanted = uninterrupted(tmp_path, **options)
    again = make_trainer(tmp_path, **options)
    measured = run(again, resume=True)
    assert same(weights(again), wanted)
    assert measured.steps == STEPS
    assert "was finished" in capfd.readouterr().err


def test_a_finished_training_that_kept_the_best_is_loaded_at_its_best(tmp_path: Path):
    """What is trained on makes what is evaluated ever less likely: the best weights are not the last ones."""
    options = OPTIONS | {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "dropout": 0.0,
    }
    flat = {"train_dataset": constant_rows(1), "eval_dataset": constant_rows(2)}
    first = make_trainer(tmp_path, **flat, **options)
    run(first)
    assert first.state.best_global_step < STEPS
    again = make_trainer(tmp_path, **flat, **options)
    run(again, resume=True)
    assert same(weights(again), weights(first))


def test_the_trainers_own_checkpoint_will_do(tmp_path: Path):
    options = OPTIONS | {"save_strategy": "steps", "save_steps": 8}
    wanted = uninterrupted(tmp_path / "whole", **options)
    plain = make_trainer(tmp_path / "plain", callbacks=[Crash(10)], **options)
    with pytest.raises(RuntimeError, match="crashed"):
        plain.train()
    resumed = make_trainer(tmp_path / "plain", **options)
    run(resumed, resume=True)
    assert same(weights(resumed), wanted)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "trainer_state.json").unlink(),
        lambda folder: (folder / "optimizer.pt").unlink(),
        lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 8'),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
        lambda folder: (folder / "optimizer.pt").write_bytes((folder / "optimizer.pt").read_bytes()[:500]),
    ],
    ids=["no-state", "no-optimizer", "torn-state", "torn-weights", "torn-optimizer"],
)
@pytest.mark.parametrize("marked", [True, False])
def test_half_written_checkpoints_are_passed_over(tmp_path: Path, spoil: Any, marked: bool):
    run(make_trainer(tmp_path, **OPTIONS | {"save_strategy": "steps", "save_steps": 8}))
    newest = tmp_path / "checkpoint-16"
    shutil.rmtree(tmp_path / "checkpoint-18")
    if not marked:
        (newest / "lessonkit.json").unlink()
    assert newest_checkpoint(tmp_path).step == 16
    spoil(newest)
    assert newest_checkpoint(tmp_path).step == 8


def test_a_marker_that_never_said_complete_is_believed(tmp_path: Path):
    run(make_trainer(tmp_path, **OPTIONS | {"save_strategy": "steps", "save_steps": 9}))
    mark_begun(tmp_path / "checkpoint-18", safety=True)
    assert newest_checkpoint(tmp_path).step == 9
    mark_complete(tmp_path / "checkpoint-18", safety=True)
    assert newest_checkpoint(tmp_path).step == 18
    (tmp_path / "checkpoint-18/lessonkit.json").write_text("{")
    assert newest_checkpoint(tmp_path).step == 9


def test_no_folder_no_checkpoint(tmp_path: Path):
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.02}, "learning_rate was 0.01 and is 0.02"),
        ({"num_train_epochs": 4}, "num_train_epochs was 3.0 and is 4.0"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"per_device_train_batch_size": 4}, "effective batch was 4 and is 8"),
        ({"kind": "lora"}, "trained parameters was"),
        ({"train_dataset": causal_rows(20)}, "rows was 22 and is 20"),
        ({"train_dataset": causal_rows().shuffle(seed=1)}, "the rows of train_dataset are others"),
        ({"optim": "sgd"}, "optim was adamw_torch and is sgd"),
        ({"max_steps": 12}, "max_steps was -1 and is 12"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_different_trainings_checkpoint_is_refused(tmp_path: Path, changes: dict, named: str):
    stopped(tmp_path, 4, **OPTIONS)
    with pytest.raises(TrainingError, match="different training") as caught:
        run(make_trainer(tmp_path, **OPTIONS | changes), resume=True)
    assert named in caught.value.why
    assert "lessonkit.run(trainer)" in caught.value.fix


def test_the_same_step_in_other_pieces_is_the_same_training(tmp_path: Path):
    stopped(tmp_path, 4, **OPTIONS)
    other = OPTIONS | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    assert run(make_trainer(tmp_path, **other), resume=True).steps == STEPS


def test_another_models_plain_checkpoint_is_refused(tmp_path: Path):
    make_trainer(tmp_path, "classifier", save_strategy="epoch").train()
    with pytest.raises(TrainingError, match="different training") as caught:
        run(make_trainer(tmp_path), resume=True)
    assert "shape" in caught.value.why


def test_rows_without_arrow_may_be_resumed_too(tmp_path: Path):
    rows = list(causal_rows())
    options = OPTIONS | {"train_dataset": rows, "data_collator": pad}
    wanted = uninterrupted(tmp_path / "whole", **options)
    stopped(tmp_path / "stopped", 8, **options)
    resumed = make_trainer(tmp_path / "stopped", **options)
    run(resumed, resume=True)
    assert same(weights(resumed), wanted)
