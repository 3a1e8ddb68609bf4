"""Out of memory at any moment: the same steps, the same rows, the same weights, only in smaller pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_trainer import causal_rows, close, labelled_rows, make_trainer, pad, weights
from transformers import Trainer, TrainerCallback

from lessonkit.errors import TrainingError
from lessonkit.hardware.shortage import is_out_of_memory
from lessonkit.training import run
from lessonkit.training.batches import batch_rows, split_batch

STEPS = 6  # 22 rows, 4 a step: the last step has 2


class Shortage:
    """Makes memory run out: when ``when(call, rows)`` says so, in the forward or in the backward pass.

    call counts the model's forward passes in training, from 0.
    """

    def __init__(self, model: Any, when: Callable[[int, int], bool], where: str = "forward") -> None:
        self.calls = self.failures = 0
        self.when = when
        self.where = where
        self.fail_now = False
        model.register_forward_pre_hook(self._forward, with_kwargs=True)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        layers = base.model.layers if hasattr(base, "model") else base.bert.encoder.layer
        layers[0].register_forward_hook(self._inner)

    def _fail(self, *_: Any) -> None:
        self.failures += 1
        self.fail_now = False
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def _forward(self, module: Any, args: tuple, kwargs: dict) -> None:
        if not module.training or not torch.is_grad_enabled():
            return
        due = self.when(self.calls, kwargs["input_ids"].shape[0])
        self.calls += 1
        if due and self.where == "forward":
            self._fail()
        self.fail_now = due

    def _inner(self, module: Any, args: tuple, output: Any) -> None:
        if self.fail_now:  # the layers above have their gradients by then
            hidden = output[0] if isinstance(output, tuple) else output
            hidden.register_hook(self._fail)


def trained(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    trainer = make_trainer(folder, **options)
    run(trainer)
    return weights(trainer)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("causal", {}),
        ("causal", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
        ("classifier", {}),
        ("lora", {"train_sampling_strategy": "group_by_length"}),
    ],
    ids=["causal", "accumulated", "mean-loss", "lora"],
)
def test_memory_may_run_out_at_any_moment(tmp_path: Path, where: str, kind: str, options: dict):
    undisturbed = trained(tmp_path, kind=kind, **options)
    passes = STEPS * options.get("gradient_accumulation_steps", 1) - (1 if "gradient" in str(options) else 0)
    for moment in range(passes):
        trainer = make_trainer(tmp_path, kind=kind, **options)
        shortage = Shortage(trainer.model, lambda call, rows, moment=moment: call == moment, where)
        measured = run(trainer)
        assert shortage.failures == 1
        assert measured.steps == trainer.state.global_step == STEPS
        assert close(weights(trainer), undisturbed), f"forward pass {moment}"


def test_a_classifiers_accumulated_steps_are_as_the_trainer_makes_them(tmp_path: Path):
    options = {"kind": "classifier", "gradient_accumulation_steps": 2}
    undisturbed = trained(tmp_path, **options)
    trainer = make_trainer(tmp_path, **options)
    Shortage(trainer.model, lambda call, rows: rows > 1, "backward")
    run(trainer)
    assert close(weights(trainer), undisturbed)
    # What the Trainer makes of means differs with the accumulation, so the arguments are left alone.
    assert (trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps) == (4, 2)


@pytest.mark.parametrize("kind", ["causal", "classifier"])
@pytest.mark.parametrize("fits", [1, 2, 3])
def test_lasting_shortage_settles_at_what_fits(tmp_path: Path, kind: str, fits: int):
    undisturbed = trained(tmp_path, kind=kind)
    trainer = make_trainer(tmp_path, kind=kind)
    shortage = Shortage(trainer.model, lambda call, rows: rows > fits)
    run(trainer)
    assert close(weights(trainer), undisturbed)
    assert shortage.failures == (2 if fits == 1 else 1)  # later batches start at the smaller size
    batch, steps = trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps
    assert (batch, steps) == ((1, 4) if fits == 1 else (2, 2))


@pytest.mark.parametrize("kind", ["causal", "classifier"])
def test_a_later_run_starts_where_this_one_fitted(tmp_path: Path, kind: str):
    undisturbed = make_trainer(tmp_path, kind=kind)
    run(undisturbed)
    run(undisturbed)
    trainer = make_trainer(tmp_path, kind=kind)
    shortage = Shortage(trainer.model, lambda call, rows: rows > 2)
    run(trainer)
    failures = shortage.failures
    measured = run(trainer)
    assert shortage.failures == failures
    assert measured.steps == STEPS
    assert close(weights(trainer), weights(undisturbed))


def test_effective_batch_stays_where_the_batch_has_no_half(tmp_path: Path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=5)
    Shortage(trainer.model, lambda call, rows: rows > 2)
    run(trainer)
    assert (trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps) == (1, 5)


def test_the_learner_is_told_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    trainer = make_trainer(tmp_path)
    Shortage(trainer.model, lambda call, rows: call == 2)
    run(trainer)
    told = [line for line in capfd.readouterr().err.splitlines() if "Out of memory" in line]
    assert len(told) == 1
    assert "step 3" in told[0]
    assert "2 rows at a time" in told[0]
    assert "effective batch stays 4" in told[0]


def test_tokens_are_counted_once(tmp_path: Path):
    trainer = make_trainer(tmp_path)
    Shortage(trainer.model, lambda call, rows: rows > 1, "backward")
    assert run(trainer).tokens == sum(map(len, causal_rows()["input_ids"]))


def test_logged_losses_are_those_of_the_whole_batches(tmp_path: Path):
    def losses(shortage: bool) -> list[float]:
        trainer = make_trainer(tmp_path, gradient_accumulation_steps=2, per_device_train_batch_size=2)
        if shortage:
            Shortage(trainer.model, lambda call, rows: call == 3)
        return [entry["loss"] for entry in run(trainer).history if "loss" in entry]

    assert losses(True) == pytest.approx(losses(False), rel=1e-4)


def test_a_mean_over_tokens_is_weighted_by_tokens(tmp_path: Path):
    def mean_over_tokens(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())

    undisturbed = trained(tmp_path, compute_loss_func=mean_over_tokens)
    trainer = make_trainer(tmp_path, compute_loss_func=mean_over_tokens)
    trainer._loss_shifts_labels = False  # as for a model that does not shift
    Shortage(trainer.model, lambda call, rows: rows > 1)
    run(trainer)
    assert close(weights(trainer), undisturbed)


def test_logits_only_where_there_are_labels(tmp_path: Path):
    """Which columns are kept is the same for all rows of a batch, so each piece gets all of them."""

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = pad(rows)
        batch["labels"][:, :3] = -100
        following = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
        columns = (following != -100).any(0).nonzero().squeeze(1)
        return batch | {"logits_to_keep": columns, "shift_labels": following[:, columns]}

    undisturbed = trained(tmp_path, data_collator=collate)
    trainer = make_trainer(tmp_path, data_collator=collate)
    shortage = Shortage(trainer.model, lambda call, rows: rows > 1, "backward")
    run(trainer)
    assert shortage.failures == 2
    assert close(weights(trainer), undisturbed)


# ---- The optimiser ------------------------------------------------------------------------------------


def failing_optimizer(method: str, moments: set[int]) -> type:
    """An AdamW that runs out of memory before or after it has changed the weights."""

    class Failing(torch.optim.AdamW):
        calls = 0

        def step(self, closure: Any = None) -> None:
            number, self.calls = self.calls, self.calls + 1
            if number in moments and method == "half-made state":
                parameter = self.param_groups[0]["params"][0]
                self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
            if number not in moments or method == "after":
                super().step(closure)
            if number in moments:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    Failing.__module__ = "torch.optim.testing"
    return Failing


@pytest.mark.parametrize("method", ["before", "half-made state"])
def test_the_optimiser_gets_a_second_try_if_nothing_was_changed(tmp_path: Path, method: str):
    def train(moments: set[int]) -> dict[str, torch.Tensor]:
        trainer = make_trainer(tmp_path)
        trainer.optimizer = failing_optimizer(method, moments)(trainer.model.parameters(), lr=0.01)
        assert run(trainer).steps == STEPS
        return weights(trainer)

    undisturbed = train(set())
    for moment in range(STEPS) if method == "before" else [0]:
        assert close(train({moment}), undisturbed)


@pytest.mark.parametrize(("method", "moments"), [("after", {2}), ("before", {2, 3})])
def test_the_optimiser_does_not_step_twice(tmp_path: Path, method: str, moments: set[int]):
    trainer = make_trainer(tmp_path)
    trainer.optimizer = failing_optimizer(method, moments)(trainer.model.parameters(), lr=0.01)
    with pytest.raises(TrainingError, match="in the optimiser at step 3") as caught:
        run(trainer)
    assert "LoRA" in caught.value.fix


def test_an_optimiser_of_unknown_make_is_not_trusted(tmp_path: Path):
    trainer = make_trainer(tmp_path)
    kind = failing_optimizer("before", {1})
    kind.__module__ = "somewhere.else"
    trainer.optimizer = kind(trainer.model.parameters(), lr=0.01)
    with pytest.raises(TrainingError, match="in the optimiser"):
        run(trainer)


@pytest.mark.parametrize("fused", [False, True])
def test_a_real_step_leaves_a_trace(fused: bool):
    from lessonkit.training.survival import _OptimizerState

    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], fused=fused)
    weight.grad = torch.ones(4)
    before = _OptimizerState(optimizer)
    assert before.untouched()
    optimizer.step()
    assert not before.untouched()


# ---- Evaluation, and what does not fit ------------------------------------------------------------------


def test_evaluation_is_done_again_in_smaller_batches(tmp_path: Path):
    def losses(fits: int) -> tuple[list[float], Trainer]:
        rows = labelled_rows()
        trainer = make_trainer(
            tmp_path, "classifier", eval_dataset=rows, eval_strategy="epoch", per_device_eval_batch_size=16
        )

        def shortage(module: Any, args: tuple, kwargs: dict) -> None:
            if not module.training and kwargs["input_ids"].shape[0] > fits:
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")

        trainer.model.register_forward_pre_hook(shortage, with_kwargs=True)
        return [entry["eval_loss"] for entry in run(trainer).history if "eval_loss" in entry], trainer

    undisturbed, _ = losses(16)
    evaluated, trainer = losses(5)
    assert evaluated == pytest.approx(undisturbed, rel=1e-4)
    assert trainer.args.per_device_eval_batch_size == 4
    with pytest.raises(TrainingError, match="evaluation, even with one row") as caught:
        losses(0)
    assert "eval_accumulation_steps" in caught.value.fix


@pytest.mark.parametrize("kind", ["causal", "lora"])
def test_when_one_row_does_not_fit_the_error_says_what_would(tmp_path: Path, kind: str):
    trainer = make_trainer(tmp_path, kind)
    Shortage(trainer.model, lambda call, rows: True)
    with pytest.raises(TrainingError, match="one row at a time does not fit") as caught:
        run(trainer)
    fix = caught.value.fix
    assert "activation_checkpointing=True" in fix
    assert "max_length=" in fix
    assert ("LoRA" in fix) == (kind == "causal")
    assert "lessonkit plan --config" in fix
    assert ("--technique lora --r" in fix and "--target-modules" in fix) == (kind == "lora")
    assert trainer.args.per_device_train_batch_size == 4


def test_other_errors_pass_unchanged(tmp_path: Path):
    trainer = make_trainer(tmp_path)
    mine = RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def fail(*_: Any) -> None:
        raise mine

    trainer.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError) as caught:
        run(trainer)
    assert caught.value is mine


def test_afterwards_the_trainer_is_a_plain_one(tmp_path: Path):
    def state(trainer: Trainer) -> tuple:
        return (
            {name for name in vars(trainer) if callable(vars(trainer)[name])},
            set(vars(trainer.accelerator)),
            list(map(type, trainer.callback_handler.callbacks)),
        )

    class Fails(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise ValueError("mine")

    for callbacks in ([], [Fails()]):
        plain = make_trainer(tmp_path, callbacks=callbacks)
        trainer = make_trainer(tmp_path, callbacks=callbacks)
        for each, train in ((plain, Trainer.train), (trainer, run)):
            if callbacks:
                with pytest.raises(ValueError, match="mine"):
                    train(each)
            else:
                train(each)
        assert state(trainer) == state(plain)
        assert "call" not in repr(trainer.optimizer.step)
        assert not trainer.is_in_train


# ---- Batches ------------------------------------------------------------------------------------------


@given(rows=st.integers(1, 9), at_a_time=st.integers(1, 9))
@settings(deadline=None)
def test_pieces_put_together_are_the_batch(rows: int, at_a_time: int):
    batch = {
        "input_ids": torch.arange(rows * 3).view(rows, 3),
        "labels": torch.arange(rows),
        "names": [f"row {number}" for number in range(rows)],
        "weight": torch.tensor(2.0),
        "flag": True,
        "position_ids": torch.arange(3).view(1, 3),
        "logits_to_keep": torch.arange(rows),
    }
    pieces = split_batch(batch, at_a_time)
    assert [batch_rows(piece) for piece in pieces][:-1] == [at_a_time] * (len(pieces) - 1)
    assert torch.equal(torch.cat([piece["input_ids"] for piece in pieces]), batch["input_ids"])
    assert torch.equal(torch.cat([piece["labels"] for piece in pieces]), batch["labels"])
    assert [name for piece in pieces for name in piece["names"]] == batch["names"]
    for piece in pieces:
        assert piece["weight"] is batch["weight"]
        assert piece["logits_to_keep"] is batch["logits_to_keep"]
        assert piece["position_ids"].shape == (1, 3)


def test_what_cannot_be_taken_apart_is_said_plainly(tmp_path: Path):
    def with_odd_entry(rows: list[dict]) -> dict:
        return pad(rows) | {"offsets": torch.arange(len(rows) + 1)}

    batch = with_odd_entry(list(causal_rows(4)))
    with pytest.raises(TrainingError, match="cannot be taken apart") as caught:
        split_batch(batch, 2)
    assert "offsets" in caught.value.why
    assert "gradient_accumulation_steps" in caught.value.fix


def messages() -> Iterator[Any]:
    yield torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    yield MemoryError()
    yield RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory: you tried"
    )
    yield RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes. Error code 12"
    )
    yield RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 GB)")
    yield RuntimeError("CUDA error: out of memory")


@pytest.mark.parametrize("error", list(messages()), ids=lambda error: str(error)[:30] or "MemoryError")
def test_every_devices_shortage_is_recognised(error: Exception):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory"),
        RuntimeError("expected scalar type Half but found Float"),
        TrainingError("Memory ran out: out of memory."),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_other_errors_are_no_shortage(error: BaseException):
    assert not is_out_of_memory(error)


def test_a_real_shortage_of_the_cpu_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
