"""Run a training and measure it: seconds, tokens, peak memory, with progress on screen."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lessonkit.errors import TrainingError
from lessonkit.hardware import format_bytes
from lessonkit.live import LiveLine

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

__all__ = ["Run", "measure", "run"]

SAMPLE_SECONDS = 0.05


@dataclass
class Run:
    """What a training cost.

    seconds: wall clock. steps: optimiser steps. tokens: tokens seen in training, padding not counted.
    peak_bytes: on CUDA the peak of allocated GPU memory; elsewhere the peak resident memory of the
    whole process, sampled 20 times a second; peak_kind says which.
    loss: the mean training loss. history: what the Trainer logged, one dictionary an entry.
    """

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    peak_bytes: int = 0
    peak_kind: str = ""
    loss: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Tokens that were trained on, each second; 0 where tokens were not counted."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        parts = [f"{self.steps:,} steps"] if self.steps else []
        parts.append(f"{self.seconds:.1f} s")
        if self.tokens:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        parts.append(f"peak {format_bytes(self.peak_bytes)} ({self.peak_kind})")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the history."""
        plain = {**asdict(self), "tokens_per_second": self.tokens_per_second}
        del plain["history"]
        return plain


def run(trainer: Trainer) -> Run:
    """``trainer.train()``, measured, with one live line in place of the Trainer's own output.

    The trainer, its model and its log stay what ``trainer.train()`` leaves. The measurement is added
    to the lesson that is under way. Raises TrainingError before anything is trained if no parameter
    is trainable or there is no training data.
    """
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    _check(trainer)
    callbacks = trainer.callback_handler.callbacks
    replaced = [each for each in callbacks if isinstance(each, (PrinterCallback, ProgressCallback))]
    replaced += [each for each in callbacks if type(each).__name__ == "NotebookProgressCallback"]
    for each in replaced:
        trainer.remove_callback(each)
    live = _live_callback()
    trainer.add_callback(live)
    try:
        with measure() as measured, _token_counter(trainer.model) as counted:
            output = trainer.train()
            measured.steps = output.global_step
            measured.tokens = int(counted())
    finally:
        trainer.remove_callback(live)
        for each in replaced:
            trainer.add_callback(each)
    measured.loss = output.training_loss
    measured.history = list(trainer.state.log_history)
    live.line.close(str(measured))
    return measured


@contextlib.contextmanager
def measure() -> Iterator[Run]:
    """Measure the seconds and the peak memory of what happens inside the ``with``.

    Yields the Run, whose figures are final when the block is left. Set ``steps`` and ``tokens``
    yourself where you have counted them.
    """
    measured = Run()
    with _peak_memory(measured):
        start = time.perf_counter()
        try:
            yield measured
        finally:
            _synchronize()
            measured.seconds = time.perf_counter() - start
    from lessonkit import lesson

    lesson.note_run(measured)


def _check(trainer: Trainer) -> None:
    if not any(parameter.requires_grad for parameter in trainer.model.parameters()):
        raise TrainingError(
            "Nothing would be trained.",
            why="every parameter of the model is frozen (requires_grad is False)",
            fix="set requires_grad = True on the parameters to train, or add an adapter",
        )
    dataset = trainer.train_dataset
    if dataset is None or (hasattr(dataset, "__len__") and len(dataset) == 0):
        raise TrainingError(
            "There is no training data.",
            why="the Trainer's train_dataset is missing or empty",
            fix="pass train_dataset=... with at least one example",
        )


@contextlib.contextmanager
def _token_counter(model: torch.nn.Module) -> Iterator[Any]:
    """Count unpadded tokens of the forward passes in training mode; yields a function that tells."""
    totals: dict[torch.device, Any] = {}  # a model spread over several GPUs runs on each of them

    def count(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if not module.training:
            return
        mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids")
        if mask is not None and mask.dim() == 2:
            totals[mask.device] = totals.get(mask.device, 0) + mask.detach().sum()  # no waiting for the GPU
        elif ids is not None:
            totals[ids.device] = totals.get(ids.device, 0) + ids.numel()

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield lambda: sum(int(total) for total in totals.values())
    finally:
        handle.remove()


@contextlib.contextmanager
def _peak_memory(measured: Run) -> Iterator[None]:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        measured.peak_kind = "GPU memory allocated"
        try:
            yield
        finally:
            measured.peak_bytes = torch.cuda.max_memory_allocated()
        return
    import psutil

    process, stop = psutil.Process(), threading.Event()
    measured.peak_kind = "memory of the whole process"

    def sample() -> None:
        while True:
            measured.peak_bytes = max(measured.peak_bytes, process.memory_info().rss)
            if stop.wait(SAMPLE_SECONDS):
                return

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield
    finally:
        stop.set()
        sampler.join()


def _synchronize() -> None:
    """Wait for the GPU, so that a stopwatch is stopped when the work is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def _live_callback() -> Any:
    """A TrainerCallback that keeps one line up to date (made here: transformers loads slowly)."""
    from transformers import TrainerCallback

    class LiveCallback(TrainerCallback):
        def __init__(self) -> None:
            self.line = LiveLine()
            self.loss = ""

        def on_train_begin(self, args, state, control, **kwargs) -> None:
            self.start = time.perf_counter()
            self.line.update(0.0, f"step 0 of {state.max_steps:,}", force=True)

        def on_step_end(self, args, state, control, **kwargs) -> None:
            seconds = time.perf_counter() - self.start
            left = seconds / state.global_step * (state.max_steps - state.global_step)
            text = f"step {state.global_step:,} of {state.max_steps:,}{self.loss}, {left:.0f} s left"
            self.line.update(state.global_step / max(1, state.max_steps), text)

        def on_log(self, args, state, control, logs=None, **kwargs) -> None:
            if logs and "loss" in logs:
                self.loss = f", loss {float(logs['loss']):.3f}"

    return LiveCallback()
