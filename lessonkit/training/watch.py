"""The losses of a training as they come: kept for a curve, and stopped at the first that is no number.

On the CPU each loss and each gradient norm is looked at before the optimiser uses it. A GPU works behind
Python's back, and looking would make Python wait: there they are looked at for the first steps, then every
tenth step, and always before a checkpoint is written.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lessonkit.errors import TrainingError
from lessonkit.training.patching import wrapped

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

__all__ = ["LossWatch"]

FIRST_STEPS = 3
EVERY = 10
SKIPS = 20  # of a GradScaler in a row: by then it has halved its scale a million times
SCALER_PATIENCE = 3  # a GradScaler skips a step with infinite gradients; that many in a row are not normal
LARGE_LEARNING_RATE = 1e-2


class LossWatch:
    """Watches one run of one Trainer, and counts its tokens.

    losses: (step, loss) of the steps looked at so far. tokens: of all batches trained on, padding not counted.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.losses: list[tuple[int, float]] = []
        self.loss_sum = 0.0
        self._pending: list[tuple[int, torch.Tensor]] = []  # on the device, not looked at yet
        self._norms: list[torch.Tensor] = []
        self._step_loss: Any = None
        self._inputs: Any = None
        self._bad_in_a_row = 0
        self._skipped = 0
        self._tokens: dict[torch.device, Any] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside the ``with``. Raises TrainingError there when a loss or gradient is not finite."""
        with (
            wrapped(self.trainer, "training_step", self._training_step),
            wrapped(self.trainer.accelerator, "clip_grad_norm_", self._clip),
        ):
            try:
                yield
            finally:
                self._inputs = None

    @property
    def tokens(self) -> int:
        return sum(int(count) for count in self._tokens.values())

    # ---- Events ---------------------------------------------------------------------------------------

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_loss = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._inputs = None
        skipped = self._scaled() and getattr(self.trainer.accelerator, "optimizer_step_was_skipped", False)
        self._skipped = self._skipped + 1 if skipped else 0
        if self._skipped >= SKIPS:
            self._fail("gradient", state.global_step, math.inf)
        if self._step_loss is not None:
            self._pending.append((state.global_step, self._step_loss))
        now = state.global_step <= FIRST_STEPS or state.global_step % EVERY == 0
        if now or state.global_step >= state.max_steps or self._at_once():
            self.look()

    def _training_step(self, original: Callable[..., Any], model: Any, inputs: Any, *args: Any) -> Any:
        loss = original(model, inputs, *args)
        self._count(inputs)
        self._inputs = inputs
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        if self._at_once() and not self._scaled() and not math.isfinite(loss):
            self._fail("loss", self.trainer.state.global_step + 1, float(loss))
        return loss

    def _clip(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        norm = original(*args, **kwargs)
        if norm is not None and not self._scaled():  # a GradScaler looks for infinite gradients by itself
            if self._at_once() and not math.isfinite(norm):
                self._fail("gradient", self.trainer.state.global_step + 1, float(norm))
            self._norms.append(norm.detach() if hasattr(norm, "detach") else norm)
        return norm

    def _count(self, inputs: Any) -> None:
        if not isinstance(inputs, Mapping):
            return
        mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
        if mask is not None and mask.dim() == 2:
            self._tokens[mask.device] = (
                self._tokens.get(mask.device, 0) + mask.sum()
            )  # no waiting for the GPU
        elif ids is not None:
            self._tokens[ids.device] = self._tokens.get(ids.device, 0) + ids.numel()

    # ---- Looking ------------------------------------------------------------------------------------

    def look(self) -> None:
        """Fetch what is pending from the device. Raises TrainingError if anything in it is not finite."""
        import torch

        pending, self._pending = self._pending, []
        norms, self._norms = self._norms, []
        values = torch.stack([loss.detach().float() for _, loss in pending]).tolist() if pending else []
        for (step, _), value in zip(pending, values, strict=True):
            if math.isfinite(value):
                self.losses.append((step, value))
                self.loss_sum += value
                self._bad_in_a_row = 0
                continue
            self._bad_in_a_row += 1
            if not self._scaled() or self._bad_in_a_row >= SCALER_PATIENCE:
                self._fail("loss", step, value)
        for norm in norms:
            if not math.isfinite(norm):
                self._fail("gradient", self.trainer.state.global_step, float(norm))

    def _at_once(self) -> bool:
        return self.trainer.args.device.type == "cpu"

    def _scaled(self) -> bool:
        return getattr(self.trainer.accelerator, "scaler", None) is not None

    def _fail(self, what: str, step: int, value: float) -> None:
        self.trainer.model.zero_grad(set_to_none=True)
        why, fix = self._cause(what)
        shown = "not a number (NaN)" if math.isnan(value) else "infinite"
        raise TrainingError(
            f"At step {step:,} the {what} is {shown}; training was stopped.", why=why, fix=fix
        )

    def _cause(self, what: str) -> tuple[str, str]:
        """The likeliest cause that can be seen, and what to do about it; the surest ones first."""
        args, model = self.trainer.args, self.trainer.model
        again = "load the model again"
        if what == "loss" and self._no_labels():
            return (
                "every label of this batch is -100, so the loss is a mean over nothing",
                "drop rows without labels, or truncate less: answers cut off leave only masked labels",
            )
        half = next(
            (name for name, each in model.named_parameters() if each.requires_grad and _half(each)), None
        )
        if half is not None:
            return (
                f"{half} is trained as float16, whose largest number is 65,504",
                f"{again} with dtype=torch.float32, and set bf16=True or fp16=True in TrainingArguments",
            )
        rate = args.learning_rate
        spoiled = next((name for name, each in model.named_parameters() if not _finite(each)), None)
        if spoiled is not None:
            large = f"; the learning rate {rate:g} may be too high" if self.losses else ""
            return (
                f"the weight {spoiled} is itself no longer a number{large}",
                f"{again} (or from_pretrained the last checkpoint), and lower learning_rate, say to {rate / 10:g}",
            )
        if rate > LARGE_LEARNING_RATE:
            return (
                f"the learning rate {rate:g} is high",
                f"{again}, and lower learning_rate, say to {rate / 10:g}",
            )
        bad = self._bad_input()
        if bad is not None:
            return (
                f"the batch's {bad} holds a value that is not finite",
                "look for it in the data and mend or drop it",
            )
        if args.fp16:
            return (
                "fp16 overflows above 65,504",
                "use bf16=True where the machine has it, or train in float32",
            )
        return (
            "the weights and this batch are finite, so the computation itself overflows or divides by zero",
            f"lower learning_rate, say to {rate / 10:g}; if you wrote the loss yourself, look there for a "
            "logarithm or a division",
        )

    def _no_labels(self) -> bool:
        labels = self._inputs.get("labels") if isinstance(self._inputs, Mapping) else None
        if labels is None or labels.is_floating_point():
            return False
        if labels.dim() > 1 and getattr(self.trainer, "_loss_shifts_labels", False):
            labels = labels[..., 1:]
        return bool((labels == -100).all())

    def _bad_input(self) -> str | None:
        import torch

        values = self._inputs.items() if isinstance(self._inputs, Mapping) else ()
        tensors = ((name, each) for name, each in values if isinstance(each, torch.Tensor))
        return next((name for name, each in tensors if each.is_floating_point() and not _finite(each)), None)


def _half(tensor: torch.Tensor) -> bool:
    import torch

    return tensor.dtype == torch.float16


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.detach().isfinite().all())
