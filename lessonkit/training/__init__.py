"""Run a training and measure it: seconds, tokens, peak memory, with progress on screen, and see it through."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lessonkit.four_bits import keep_trainable
from lessonkit.hardware import format_bytes
from lessonkit.live import LiveLine
from lessonkit.training.checkpoints import Checkpoint, resume_point
from lessonkit.training.checks import check
from lessonkit.training.patching import as_callback, wrapped
from lessonkit.training.safety import SafetyNet
from lessonkit.training.survival import MemoryGuard
from lessonkit.training.watch import LossWatch

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["Run", "listeners", "measure", "run"]

SAMPLE_SECONDS = 0.05
CURVE_POINTS = 60  # of a loss curve that is kept

# Called with each finished Run; a lesson under way registers here to note what its trainings cost.
listeners: list[Callable[[Run], None]] = []


@dataclass
class Run:
    """What a training cost.

    seconds: wall clock. steps: optimiser steps. tokens: tokens seen in training, padding not counted.
    peak_bytes: on CUDA the peak of allocated GPU memory; elsewhere the peak resident memory of the
    whole process, sampled 20 times a second; peak_kind says which.
    loss: the mean training loss. losses: (step, loss) of the steps that were looked at (on a CPU all of
    them, after a resumption those since). history: what the Trainer logged, one dictionary an entry.
    """

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    peak_bytes: int = 0
    peak_kind: str = ""
    loss: float | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
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
        """Plain data for JSON, without the history and the single losses."""
        plain = {**asdict(self), "tokens_per_second": self.tokens_per_second}
        del plain["history"], plain["losses"]
        return plain

    def curve(self, most: int = CURVE_POINTS) -> list[list[float]]:
        """``[step, loss]`` pairs, at most ``most``: means over neighbouring steps, each at its last step."""
        size = -(-len(self.losses) // most) or 1
        groups = [self.losses[at : at + size] for at in range(0, len(self.losses), size)]
        return [[each[-1][0], round(sum(loss for _, loss in each) / len(each), 5)] for each in groups]


def run(trainer: Trainer, *, resume: bool = False) -> Run:
    """``trainer.train()``, measured, checked and guarded, with one live line in place of its own output.

    The trainer, its model and its log stay what ``trainer.train()`` leaves; its callbacks and methods are
    as before. The measurement is added to the lesson that is under way.

    What cannot work is found before anything is trained. When memory runs out, batches are taken in smaller
    pieces, and training goes on. When it is stopped, a checkpoint remains in ``output_dir``; so it does when it is
    killed: one is written from time to time, and what came after the last one is trained again.

    resume: go on from the newest complete checkpoint there, to the same weights (bit for bit on a CPU) as
    without the interruption; from the beginning if there is none. The Run then covers the whole training.
    Raises TrainingError, saying what to do, and KeyboardInterrupt when stopped.
    """
    remarks = check(trainer)
    keep_trainable(trainer.model)  # an evaluation after an epoch would else end the training of 4-bit layers
    found = resume_point(trainer) if resume else None
    line = LiveLine()
    for remark in remarks:
        line.note(f"Note: {remark}")
    if resume:
        line.note(_whence(trainer, found))
    if found is not None and found.finished:
        return _load_finished(trainer, found, line)
    try:
        return _train(trainer, found, line)
    except BaseException as error:
        line.close(_how_it_ended(trainer, error))
        raise


def _train(trainer: Trainer, found: Checkpoint | None, line: LiveLine) -> Run:
    import torch

    earlier = found.marker if found else {}
    seed = earlier.get("initial_seed", torch.initial_seed())
    if earlier:
        # The order of the rows follows from the seed; where the dice stood is in the checkpoint.
        torch.manual_seed(seed)
    begun = time.perf_counter()
    watch = LossWatch(trainer)
    guard = MemoryGuard(trainer, line.note, earlier.get("rows_at_a_time"))

    def so_far() -> dict[str, Any]:
        return {
            "initial_seed": seed,
            "rows_at_a_time": guard.rows,
            "seconds": earlier.get("seconds", 0.0) + time.perf_counter() - begun,
            "tokens": earlier.get("tokens", 0) + watch.tokens,
            "loss_sum": earlier.get("loss_sum", 0.0) + watch.loss_sum,
        }

    net = SafetyNet(trainer, line.note, so_far, watch.look, resumed=found is not None)
    with (
        measure(trainer.args.device.type) as measured,
        _own_callbacks(trainer, [watch, _Progress(line, watch), guard, net]),
        guard.watching(),
        watch.watching(),
        net.watching(),
        wrapped(trainer, "_issue_warnings_after_load", partial(_tied_are_there, trainer.model)),
    ):
        output = trainer.train(resume_from_checkpoint=str(found.folder) if found else None)
        net.finish()
        guard.keep_what_fitted()
        measured.steps = output.global_step
        measured.tokens = earlier.get("tokens", 0) + watch.tokens
        measured.losses = list(watch.losses)
    measured.seconds += earlier.get("seconds", 0.0)
    measured.loss = output.training_loss
    if "loss_sum" in earlier:
        measured.loss = so_far()["loss_sum"] / max(1, output.global_step)
    measured.history = list(trainer.state.log_history)
    if net.stop_requested:
        line.note("The training was at its end before it could be stopped.")
    line.close(str(measured), losses=watch.losses, steps=measured.steps)
    return measured


def _tied_are_there(model: Any, original: Callable[..., Any], loaded: Any) -> None:
    """The best checkpoint's tied weights are saved once: no cause to warn that their second name is missing."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    loaded.missing_keys[:] = [name for name in loaded.missing_keys if name not in tied]
    original(loaded)


@contextlib.contextmanager
def _own_callbacks(trainer: Trainer, parts: list[Any]) -> Iterator[None]:
    """Ours in place of those that print; afterwards the trainer has its own again, in their order."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    callbacks = trainer.callback_handler.callbacks
    before = list(callbacks)
    callbacks[:] = [
        each
        for each in before
        if not isinstance(each, (PrinterCallback, ProgressCallback))
        and type(each).__name__ != "NotebookProgressCallback"
    ]
    for part in parts:
        trainer.add_callback(as_callback(part))
    try:
        yield
    except BaseException:
        trainer.is_in_train = False
        if trainer.neftune_noise_alpha is not None and hasattr(trainer, "neftune_hook_handle"):
            trainer.neftune_hook_handle.remove()
        raise
    finally:
        trainer.callback_handler.callbacks[:] = before


def _whence(trainer: Trainer, found: Checkpoint | None) -> str:
    if found is None:
        return f"No complete checkpoint in {trainer.args.output_dir}: training starts from the beginning."
    if found.finished:
        return f"This training was finished (step {found.step:,}): its weights are loaded, nothing is left to train."
    return f"Going on after step {found.step:,} of {found.max_steps:,} ({found.folder.name})."


def _load_finished(trainer: Trainer, found: Checkpoint, line: LiveLine) -> Run:
    from transformers import TrainerState

    trainer._load_from_checkpoint(str(found.folder))
    trainer.state = TrainerState.load_from_json(str(found.folder / "trainer_state.json"))
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
        trainer._load_best_model()  # as the run itself ended
    marker = found.marker
    loss = marker["loss_sum"] / max(1, found.step) if "loss_sum" in marker else None
    done = Run(
        seconds=marker.get("seconds", 0.0),
        steps=found.step,
        tokens=marker.get("tokens", 0),
        loss=loss,
        history=list(trainer.state.log_history),
        peak_kind="not measured again",
    )
    line.close(str(done))
    return done


def _how_it_ended(trainer: Trainer, error: BaseException) -> str:
    state, reason = trainer.state, str(error).strip().splitlines()[:1]
    stopped = f"Stopped after step {state.global_step:,} of {state.max_steps:,}"
    if not state.max_steps:
        stopped = "Stopped before the first step"
    if isinstance(error, KeyboardInterrupt) or not reason:
        return f"{stopped}."
    return f"{stopped}: {reason[0]}"


@contextlib.contextmanager
def measure(device: str | None = None) -> Iterator[Run]:
    """Measure the seconds and the peak memory of what happens inside the ``with``.

    device: where it happens, ``"cpu"`` or ``"cuda"``; left out, a CUDA GPU if there is one.
    Yields the Run, whose figures are final when the block is left. Set ``steps`` and ``tokens``
    yourself where you have counted them.
    """
    measured = Run()
    with _peak_memory(measured, device):
        start = time.perf_counter()
        try:
            yield measured
        finally:
            _synchronize()
            measured.seconds = time.perf_counter() - start
    for listener in listeners:
        listener(measured)


@contextlib.contextmanager
def _peak_memory(measured: Run, device: str | None) -> Iterator[None]:
    import torch

    if device in (None, "cuda") and torch.cuda.is_available():
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


class _Progress:
    """Keeps the live line up to date: the step, the loss, the time left."""

    def __init__(self, line: LiveLine, watch: LossWatch) -> None:
        self.line = line
        self.watch = watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start, self.first = time.perf_counter(), state.global_step
        share = state.global_step / max(1, state.max_steps)
        self.line.update(share, f"step {state.global_step:,} of {state.max_steps:,}", force=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.line.due:
            self.watch.look()  # on a GPU this waits for it, twice a second
        each = (time.perf_counter() - self.start) / max(1, state.global_step - self.first)
        left = each * (state.max_steps - state.global_step)
        loss = f", loss {self.watch.losses[-1][1]:.3f}" if self.watch.losses else ""
        self.line.update(
            state.global_step / max(1, state.max_steps),
            f"step {state.global_step:,} of {state.max_steps:,}{loss}, {left:.0f} s left",
            losses=self.watch.losses if self.line.due else (),
            steps=state.max_steps,
        )
