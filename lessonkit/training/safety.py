"""A training that is stopped or killed loses little: checkpoints by time, and an orderly stop.

Safety checkpoints cost about one fiftieth of the time. They are the Trainer's own, in its output_dir, and
are deleted when the training ends well; what the learner's ``save_strategy`` asks for stays.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.quiet import quiet_transformers
from lessonkit.training.checkpoints import (
    fingerprint,
    mark_begun,
    mark_complete,
    remove_safety_checkpoints,
    safety_checkpoints,
)
from lessonkit.training.patching import replaced, wrapped

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["SafetyNet"]

SHARE_OF_TIME = 0.02
FIRST_SHARE = 0.1  # until one was written, there is nothing to go on from: the first comes sooner
BYTES_PER_SECOND = 200e6  # a slow disk, for the guess before the first checkpoint
LEAST_SECONDS = 0.005


class SafetyNet:
    """Checkpoints and the stop button, for one run of one Trainer.

    tell: shows the learner one line. about: what to note beside each checkpoint, asked when it is written.
    healthy: raises if the model must not be saved as it is now. resumed: callbacks that count get the state
    they had at the checkpoint.
    """

    def __init__(
        self,
        trainer: Trainer,
        tell: Callable[[str], None],
        about: Callable[[], dict[str, Any]],
        healthy: Callable[[], None],
        *,
        resumed: bool = False,
    ) -> None:
        self.trainer = trainer
        self.tell = tell
        self.about = about
        self.healthy = healthy
        self.resumed = resumed
        self.stop_requested = False
        self._fingerprint = fingerprint(trainer)
        self._mine = False  # the save under way was asked for here alone
        self._epoch_ended = False
        self._given_up = False
        self._saved: Path | None = None
        self._saved_step = -1
        self._since = time.monotonic()
        self._seconds = LEAST_SECONDS

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Guard the trainer inside the ``with``: epochs have an order of their own, saves are marked."""
        trainer = self.trainer
        seed = trainer.args.data_seed
        if seed is None:
            import torch

            seed = torch.initial_seed()

        def sampler(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return _in_order_of_epoch(original(*args, **kwargs), seed)

        with (
            wrapped(trainer, "_save_checkpoint", self._save),
            wrapped(trainer, "_get_train_sampler", sampler),
            self._stop_button(),
        ):
            yield

    def finish(self) -> None:
        """The training ended well: delete what was kept for safety."""
        if self.trainer.args.should_save:
            remove_safety_checkpoints(Path(self.trainer.args.output_dir))

    # ---- When to save -----------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since = time.monotonic()
        self._seconds = LEAST_SECONDS + _checkpoint_bytes(self.trainer.model) / BYTES_PER_SECOND
        if self.resumed and not args.restore_callback_states_from_checkpoint:
            _restore_callbacks(self.trainer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._mine = self._epoch_ended = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # At the end of an epoch there is evaluation still to come, which draws from the same dice: save after it.
        if state.global_step < state.max_steps and not float(state.epoch).is_integer():
            self._ask(args, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps or control.should_training_stop:
            return
        self._epoch_ended = True
        if self._saved_step != state.global_step:
            self._ask(args, control)
        elif control.should_evaluate:
            control.should_save = (
                True  # the learner's checkpoint of this step, with the dice after evaluation
            )
            self._mine = False
        elif self.stop_requested:
            self._stop(state)

    def _ask(self, args: Any, control: Any) -> None:
        share = max(FIRST_SHARE, SHARE_OF_TIME) if self._saved is None else SHARE_OF_TIME
        due = time.monotonic() - self._since > self._seconds / share and not self._given_up
        if (self.stop_requested or due) and args.should_save and not control.should_save:
            folder = self._folder()
            if folder.exists() and folder not in safety_checkpoints(folder.parent):
                return  # the learner's, of an earlier run: left alone
            # With "best", the Trainer decides anew after an evaluation; what it keeps then is the learner's.
            self._mine = not (args.save_strategy == "best" and control.should_evaluate)
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        between = float(state.epoch).is_integer() and not self._epoch_ended
        if self.stop_requested and not between and state.global_step < state.max_steps:
            self._stop(state)

    def _stop(self, state: Any) -> None:
        where = f"after step {state.global_step:,} of {state.max_steps:,}"
        if self._saved is None or self._saved_step != state.global_step:
            raise KeyboardInterrupt(f"Training stopped {where}; its checkpoint could not be written.")
        raise KeyboardInterrupt(
            f"Training stopped {where}, as asked. A checkpoint is in {self._saved}; "
            "lessonkit.run(trainer, resume=True) goes on from there."
        )

    # ---- Saving -----------------------------------------------------------------------------------

    def _folder(self) -> Path:
        return Path(self.trainer.args.output_dir) / f"checkpoint-{self.trainer.state.global_step}"

    def _save(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        if not self.trainer.args.should_save:
            return original(*args, **kwargs)
        self.healthy()
        folder, mine, start = self._folder(), self._mine, time.monotonic()
        options = self.trainer.args
        changed: dict[str, Any] = {"save_total_limit": None}  # it would count the safety checkpoints
        if mine:
            changed |= {"save_only_model": False, "push_to_hub": False}
        try:
            mark_begun(folder, safety=mine)
            with replaced(options, **changed), quiet_transformers():
                original(*args, **kwargs)
            mark_complete(folder, safety=mine, fingerprint=self._fingerprint, **self.about())
        except Exception as error:
            if not mine:
                raise
            # Whatever stands in the way of a checkpoint that nobody asked for must not end the training.
            self._give_up(folder, error)
            return None
        self._seconds, self._since = time.monotonic() - start, time.monotonic()
        self._saved, self._saved_step = folder, self.trainer.state.global_step
        remove_safety_checkpoints(folder.parent, keep=folder)
        if options.save_total_limit and not mine:
            from transformers.trainer_utils import rotate_checkpoints

            best = self.trainer.state.best_model_checkpoint
            rotate_checkpoints(str(folder.parent), options.save_total_limit, best, use_mtime=True)
        return None

    def _give_up(self, folder: Path, error: Exception) -> None:
        self._given_up = True
        shutil.rmtree(folder, ignore_errors=True)
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        self.tell(
            f"No safety checkpoint could be written ({reason[0]}); training goes on, but could not be resumed."
        )

    # ---- The stop button ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _stop_button(self) -> Iterator[None]:
        """SIGINT (the stop button, Ctrl-C) asks for a stop after the step; a second one stops at once."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            yield  # only the main thread may set a handler, and one that was not set from Python cannot be put back
            return
        before = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt(
                "Training stopped at once. lessonkit.run(trainer, resume=True) goes on from the last checkpoint, "
                "if there is one."
            )
        self.stop_requested = True
        with contextlib.suppress(RuntimeError):  # the signal may come in the middle of another line's writing
            self.tell("Stopping after this step, with a checkpoint; stop once more to stop at once.")


def _checkpoint_bytes(model: Any) -> int:
    """About what a checkpoint holds: the weights it saves, and Adam's two numbers for each trained one."""
    parameters = list(model.parameters())
    trained = sum(each.numel() * each.element_size() for each in parameters if each.requires_grad)
    adapter = hasattr(model, "peft_config")
    saved = trained if adapter else sum(each.numel() * each.element_size() for each in parameters)
    return saved + 2 * trained


def _restore_callbacks(trainer: Trainer) -> None:
    """Give callbacks that count (early stopping, say) the state they had at the checkpoint."""
    from transformers.trainer_callback import ExportableState

    for callback in trainer.callback_handler.callbacks:
        kept = trainer.state.stateful_callbacks.get(type(callback).__name__)
        if isinstance(callback, ExportableState) and isinstance(kept, dict):
            vars(callback).update(kept.get("attributes", {}))


def _in_order_of_epoch(sampler: Any, seed: int) -> Any:
    """Length-grouped batches in an order that depends on the seed and the epoch alone.

    The sampler of transformers draws from the global dice, which stand elsewhere when an epoch is resumed
    in its middle. (Random order is seeded by epoch already.)
    """
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    if type(sampler) is not LengthGroupedSampler or sampler.generator is not None:
        return sampler

    class SeededLengthGroupedSampler(LengthGroupedSampler):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[int]:
            self.generator = torch.Generator().manual_seed((seed + self.epoch) % 2**63)
            return super().__iter__()

    return SeededLengthGroupedSampler(sampler.batch_size, lengths=sampler.lengths)
