"""Out of memory in the middle of a training: the same batches in smaller pieces, and on it goes.

A batch that does not fit is taken through the model in pieces whose gradients add up to the gradient
of the whole batch. So the optimiser makes the same steps on the same rows, and only the memory of the
activations shrinks. Nothing is restarted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from lessonkit.errors import TrainingError
from lessonkit.hardware.shortage import is_out_of_memory, release_memory
from lessonkit.training.advice import does_not_fit
from lessonkit.training.batches import batch_rows, loss_adds_up, split_batch
from lessonkit.training.patching import wrapped

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

__all__ = ["MemoryGuard"]

FAILED = object()


class MemoryGuard:
    """Keeps one Trainer's run going when memory runs out, in training, evaluation or the optimiser.

    rows: how many rows go through the model at a time; None as long as whole batches fit.
    tell: shows the learner one line.
    """

    def __init__(self, trainer: Trainer, tell: Callable[[str], None], rows: int | None = None) -> None:
        self.trainer = trainer
        self.tell = tell
        self.rows = rows
        self._window: list[tuple[Any, Any]] = []  # micro-batches since the last optimiser step
        self._tried = 0  # rows that went through the model together when last tried
        self._weight = 1.0
        self._adds_up: bool | None = None
        self._asked = False
        self._optimizer = contextlib.ExitStack()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Guard the trainer inside the ``with``. Several processes or GPUs at once are left alone."""
        if self.trainer.args.world_size > 1 or self.trainer.args.n_gpu > 1:
            self.tell(
                "Note: several GPUs or processes train together: when memory runs out, batches are not made smaller. "
                "For one GPU alone, set CUDA_VISIBLE_DEVICES=0 before Python starts."
            )
            yield
            return
        with (
            wrapped(self.trainer, "training_step", self._training_step),
            wrapped(self.trainer, "compute_loss", self._compute_loss),
            wrapped(self.trainer, "evaluate", self._evaluate),
            wrapped(self.trainer.accelerator, "clip_grad_norm_", self._clip),
            self._optimizer,
        ):
            try:
                yield
            finally:
                self._window = []

    # ---- Events ---------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size <= 1 and args.n_gpu <= 1:
            self._optimizer.enter_context(wrapped(self.trainer.optimizer, "step", self._optimizer_step))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._window = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._window = []

    # ---- Forward and backward -------------------------------------------------------------------

    def _training_step(
        self, original: Callable[..., Any], model: Any, inputs: Any, num_items: Any = None
    ) -> torch.Tensor:
        if not self._asked:
            self._asked = True
            self._remark_on_means(model, inputs, num_items)
        self._window.append((inputs, num_items))
        loss = self._attempt(self._in_pieces, original, model, inputs, num_items)
        while loss is FAILED:
            # The half-done backward pass has left part of its sum in the gradients: begin the window anew.
            model.zero_grad(set_to_none=True)
            self._shrink()
            loss = self._attempt(self._replay, original, model)
        return loss

    def _replay(self, original: Callable[..., Any], model: Any) -> torch.Tensor:
        """All micro-batches since the last optimiser step; the loss of the last one."""
        return [self._in_pieces(original, model, *each) for each in self._window][-1]

    def _in_pieces(
        self, original: Callable[..., Any], model: Any, inputs: Any, num_items: Any
    ) -> torch.Tensor:
        total = batch_rows(inputs)
        if self.rows is None or total <= self.rows:
            self._tried = total
            return original(model, inputs, num_items)
        self._tried = self.rows
        pieces = split_batch(inputs, self.rows)
        losses = []
        for piece, weight in zip(pieces, self._weights(model, pieces, num_items), strict=True):
            if not weight:
                continue  # nothing to learn from: the mean over no label at all would be NaN
            self._weight = weight
            try:
                losses.append(original(model, piece, num_items))
            finally:
                self._weight = 1.0
        return sum(losses[1:], losses[0])

    def _compute_loss(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        loss = original(*args, **kwargs)
        if self._weight == 1.0:
            return loss
        return (loss[0] * self._weight, *loss[1:]) if isinstance(loss, tuple) else loss * self._weight

    def _weights(self, model: Any, pieces: list[dict[str, Any]], num_items: Any) -> list[float]:
        """What each piece's loss counts, so that the sum has the gradient of the whole batch.

        A loss that was divided by the number of items in all micro-batches adds up as it is. A mean is
        weighted by the number of labels it was taken over, or of rows where there are no labels.
        """
        if num_items is not None and self._loss_adds_up(model, pieces[0], num_items):
            return [1.0] * len(pieces)
        counts = [self._labels_in(piece) for piece in pieces]
        if not sum(counts):
            counts = [batch_rows(piece) for piece in pieces]
        return [count / sum(counts) for count in counts]

    def _labels_in(self, piece: dict[str, Any]) -> int:
        labels = piece.get("shift_labels", piece.get("labels"))
        if labels is None or labels.is_floating_point() or not labels.dim():
            return batch_rows(piece)
        if (
            labels.dim() > 1
            and "shift_labels" not in piece
            and getattr(self.trainer, "_loss_shifts_labels", False)
        ):
            labels = labels[..., 1:]
        return int((labels != -100).sum())

    def _loss_adds_up(self, model: Any, piece: dict[str, Any], num_items: Any) -> bool:
        if self._adds_up is None:
            self._adds_up = loss_adds_up(self.trainer, model, piece, num_items)
        return self._adds_up is not False  # unknown where nothing is labelled: ask again with another batch

    def _remark_on_means(self, model: Any, inputs: Any, num_items: Any) -> None:
        """Tell where the Trainer adds up means, so that gradients grow with the accumulation."""
        steps = self.trainer.args.gradient_accumulation_steps
        unset = getattr(self.trainer, "loss_is_scaled_for_ga", False) is None
        if steps == 1 or num_items is None or not unset or self.trainer.label_smoother is not None:
            return
        with contextlib.suppress(Exception):  # asked out of caution: no reason to end a training
            answer = self._attempt(loss_adds_up, self.trainer, model, split_batch(inputs, 2)[0], num_items)
            self._adds_up = answer if isinstance(answer, bool) else None
        if self._adds_up is False:
            self.tell(
                f"Note: {type(model).__name__} averages the loss of each small batch by itself, and the Trainer adds "
                f"the {steps} of a step up: gradients come out {steps} times as large as those of one big batch. "
                "trainer.loss_is_scaled_for_ga = False, before the run, makes it average them too."
            )

    def _clip(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        norm = self._attempt(original, *args, **kwargs)
        if norm is FAILED:
            import torch

            # With a GradScaler, accelerate has unscaled the gradients already, which may be done only once.
            scaled = getattr(self.trainer.accelerator, "scaler", None) is not None
            again = torch.nn.utils.clip_grad_norm_ if scaled else original
            norm = self._attempt(again, *args, **kwargs)
        if norm is FAILED:
            raise does_not_fit(self.trainer, self._window)
        return norm

    def _attempt(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The work's result, or FAILED when memory ran out, with what the work held given back."""
        try:
            return work(*args, **kwargs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release_memory()  # only here, outside the except block, has the traceback let go of its tensors
        return FAILED

    def _shrink(self) -> None:
        if self._tried <= 1:
            raise does_not_fit(self.trainer, self._window)
        before, self.rows = self._tried, self._tried // 2
        args = self.trainer.args
        self.tell(
            f"Out of memory at step {self.trainer.state.global_step + 1}: from here on {self.rows} "
            f"{'row' if self.rows == 1 else 'rows'} at a time instead of {before}, gradients accumulated; "
            f"the effective batch stays {args.per_device_train_batch_size * args.gradient_accumulation_steps}."
        )

    def keep_what_fitted(self) -> None:
        """Write the size that fitted into the Trainer's arguments, so that a later run starts there.

        The product of batch and accumulation stays; so the batch is the largest divisor that fits.
        """
        args, trainer = self.trainer.args, self.trainer
        if self.rows is None or self.rows >= args.per_device_train_batch_size:
            return
        if self._adds_up is False and trainer.label_smoother is None:
            # The Trainer would take this model's means for shares of a sum, and add them up.
            if args.gradient_accumulation_steps > 1 or not hasattr(trainer, "loss_is_scaled_for_ga"):
                return
            trainer.loss_is_scaled_for_ga = False
        before = args.per_device_train_batch_size
        fitted = max(size for size in range(1, self.rows + 1) if before % size == 0)
        args.per_device_train_batch_size = fitted
        args.gradient_accumulation_steps *= before // fitted
        trainer._train_batch_size = args.train_batch_size  # the Trainer copies it when it is made
        self.tell(
            f"The arguments now say what fitted: per_device_train_batch_size={fitted}, "
            f"gradient_accumulation_steps={args.gradient_accumulation_steps}."
        )

    # ---- Optimiser and evaluation ---------------------------------------------------------------

    def _optimizer_step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        optimizer = self.trainer.optimizer
        before = _OptimizerState(getattr(optimizer, "optimizer", optimizer))  # accelerate wraps it
        result = self._attempt(original, *args, **kwargs)
        if result is not FAILED:
            return result
        if before.untouched():
            before.restore()
            release_memory()
            self.tell("Out of memory in the optimiser: memory was released, and the step is tried again.")
            result = self._attempt(original, *args, **kwargs)
        if result is FAILED:
            raise TrainingError(
                f"Memory ran out in the optimiser at step {self.trainer.state.global_step + 1}.",
                why="it keeps numbers of its own for every trained weight (Adam: two), whatever the batch",
                fix="train fewer weights (LoRA), or use an optimiser that keeps less: optim='adafactor', or "
                "optim='adamw_bnb_8bit' on a GPU; a checkpoint, where there is one, is taken up by resume=True",
            )
        return result

    def _evaluate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arguments = self.trainer.args
        result = self._attempt(original, *args, **kwargs)
        while result is FAILED:
            if arguments.per_device_eval_batch_size <= 1:
                raise TrainingError(
                    "Memory ran out in the evaluation, even with one row at a time.",
                    why="predictions are kept on the device until all rows are done, unless told otherwise",
                    fix="set eval_accumulation_steps=1, give the Trainer a preprocess_logits_for_metrics that "
                    "keeps only the argmax, or evaluate on fewer or shorter texts",
                )
            arguments.per_device_eval_batch_size //= 2
            getattr(self.trainer, "_eval_dataloaders", {}).clear()  # kept by persistent workers
            self.tell(
                "Out of memory in the evaluation: evaluating again with "
                f"per_device_eval_batch_size={arguments.per_device_eval_batch_size}."
            )
            result = self._attempt(original, *args, **kwargs)
        return result


class _OptimizerState:
    """What an optimiser held before a step, to tell whether a step that failed has changed anything."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters = [each for group in optimizer.param_groups for each in group["params"]]
        self._names = {
            each: set(optimizer.state[each]) for each in self._parameters if each in optimizer.state
        }
        self._versions = [(each, each._version) for each in self._tensors()]

    def _tensors(self) -> Iterator[torch.Tensor]:
        import torch

        yield from self._parameters
        for state in self._optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))

    def untouched(self) -> bool:
        """Nothing that was there has changed, and no step was counted for what the step made anew.

        Fused kernels change the weights without a trace in ``_version``, but not before they have counted
        the step. Kernels outside torch leave no trace at all, so theirs never counts as untouched.
        """
        made = [state for each, state in self._optimizer.state.items() if each not in self._names]
        own = type(self._optimizer).__module__.startswith("torch.")
        counted = any(float(state.get("step", 0)) > 0 for state in made)
        return own and not counted and all(each._version == version for each, version in self._versions)

    def restore(self) -> None:
        """Drop state that the failed step had begun to make."""
        for parameter in self._parameters:
            kept = self._names.get(parameter)
            if kept is None:
                self._optimizer.state.pop(parameter, None)
            else:
                for name in set(self._optimizer.state[parameter]) - kept:
                    del self._optimizer.state[parameter][name]
