"""Run one training step on fake tensors and note how many bytes are alive, and what for.

Fake tensors (``torch._subclasses.FakeTensorMode``) have a shape, a dtype and a device, and no
numbers: a step of a 70-billion-parameter model runs through them in seconds on a laptop, and every
tensor that a real step would make is made, held and let go in the same order.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lessonkit.memory.numberless import without_numbers

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["CATEGORIES", "PHASES", "Trace", "live_bytes", "trace_step"]

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "rest")
#: When a peak can be: the forward pass, the backward pass through the upper and through the lower half
#: of the layers, the optimiser's step. Between its ends each is a straight line in the number of
#: layers and in the batch size, which is what makes extrapolation exact.
PHASES = ("forward", "backward-upper", "backward-lower", "step")


@dataclass(frozen=True)
class Trace:
    """What a step held: bytes by category at the fullest moment of each phase.

    peaks: ``{phase: {category: bytes}}``. complete: the bytes after the backward pass, when gradients and
    optimiser states are all there, by category.
    """

    peaks: dict[str, dict[str, float]]
    complete: dict[str, float]

    def combine(self, other: Trace, weight: float) -> Trace:
        """The point ``weight`` of the way from this trace to the other; beyond 1 it extrapolates."""

        def between(mine: dict, theirs: dict) -> dict:
            return {key: mine[key] + weight * (theirs[key] - mine[key]) for key in mine}

        peaks = {phase: between(self.peaks[phase], other.peaks[phase]) for phase in PHASES}
        return Trace(peaks, between(self.complete, other.complete))

    def on_gpu(self, optimizer: str) -> Trace:
        """The same step where the optimiser's update is a GPU's: fused kernels need no room in passing.

        AdamW as it runs by itself there ("foreach") has the square roots of all second moments at once, as many
        bytes as the gradients.
        """
        passing = self.complete["gradients"] if optimizer == "adamw" else 0
        step = self.complete | {"rest": self.complete["rest"] + passing}
        return Trace(self.peaks | {"step": step}, self.complete)


def live_bytes(category: Callable[[], str] = lambda: "rest") -> Any:
    """A ``TorchDispatchMode`` that counts the storages alive among the tensors made inside it.

    It has ``live`` (bytes by category), ``total``, ``peak`` (the highest total so far) and
    ``at_peak`` (``live`` at that moment). Each storage counts once, however many views share it, from
    the operation that makes it until nothing refers to it. Works on real and on fake tensors.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class LiveBytes(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.live = dict.fromkeys(CATEGORIES, 0)
            self.total = self.peak = 0
            self.at_peak = dict(self.live)
            self._known: dict[int, list] = {}  # address -> [bytes, category, weak reference]

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = without_numbers(func, args, kwargs or {})
            for each in made if isinstance(made, (tuple, list)) else (made,):
                if hasattr(each, "untyped_storage"):
                    self.count(each, category())
            return made

        def count(self, tensor: torch.Tensor, name: str, *, move: bool = False) -> None:
            """Count a tensor's storage, once; ``move`` puts a known one under another category."""
            storage = tensor.untyped_storage()
            address = storage._cdata
            known = self._known.get(address)
            if known is not None:
                if move:
                    self.live[known[1]] -= known[0]
                    self.live[name] += known[0]
                    known[1] = name
                return
            size = storage.nbytes()
            self._known[address] = [size, name, weakref.ref(storage, lambda _: self._freed(address))]
            self.live[name] += size
            self.total += size
            if self.total > self.peak:
                self.peak, self.at_peak = self.total, dict(self.live)

        def _freed(self, address: int) -> None:
            size, name, _ = self._known.pop(address)
            self.live[name] -= size
            self.total -= size

        def start_phase(self) -> None:
            """Forget the peak so far."""
            self.peak, self.at_peak = self.total, dict(self.live)

    return LiveBytes()


def trace_step(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    make_optimizer: Callable[[list[torch.Tensor]], Any],
    *,
    mixed_precision: torch.dtype | None = None,
    middle: nn.Module | None = None,
    accumulated: bool = False,
) -> Trace:
    """The bytes of one training step after the first (the optimiser's states exist already).

    model, batch: fake or real. make_optimizer: takes the trainable parameters, returns an optimiser.
    mixed_precision: the dtype of ``torch.autocast``; None for none.
    middle: the layer whose backward pass divides the upper half of the layers from the lower.
    accumulated: the gradients of an earlier micro-batch are there, and this one's are added to them.
    """
    stage = _Stage()
    live = live_bytes(stage.category)
    trainable = [each for each in model.parameters() if each.requires_grad]
    for tensor in (*model.parameters(), *model.buffers()):
        live.count(tensor, "weights")
    for tensor in batch.values():
        live.count(tensor, "rest")
    peaks: dict[str, dict[str, float]] = {}

    def close(phase: str) -> None:
        peaks[phase] = dict(live.at_peak)
        live.start_phase()

    with live, _gradients_named(live, trainable), _at_backward_of(middle, lambda: close("backward-upper")):
        stage.now = "optimizer"
        optimizer = make_optimizer(trainable)
        _fill_states(optimizer, trainable)
        _name_states(live, optimizer)
        if accumulated:
            _fill_gradients(live, trainable)
        live.start_phase()
        stage.now = "forward"
        with _autocast(mixed_precision):
            loss = model(**batch).loss
        close("forward")
        stage.now = "backward"
        loss.backward()
        del loss
        close("backward-lower")
        peaks.setdefault("backward-upper", peaks["backward-lower"])
        stage.now = "optimizer"
        complete = dict(live.live)
        optimizer.step()
        close("step")
    return Trace(peaks, complete)


class _Stage:
    """Where the step is, and so what a new tensor is for."""

    def __init__(self) -> None:
        import torch

        self.now = "forward"
        self._grad_enabled = torch.is_grad_enabled

    def category(self) -> str:
        # In the backward pass, only a recomputed forward (gradient checkpointing) has gradients on.
        recomputed = self.now == "backward" and self._grad_enabled()
        return "activations" if self.now == "forward" or recomputed else "rest"


def _fill_states(optimizer: Any, trainable: list[torch.Tensor]) -> None:
    """One step on empty gradients, after which the states are there."""
    import torch

    for each in trainable:
        each.grad = torch.zeros_like(each)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _fill_gradients(live: Any, trainable: list[torch.Tensor]) -> None:
    import torch

    for each in trainable:
        each.grad = torch.zeros_like(each)
        live.count(each.grad, "gradients", move=True)


def _name_states(live: Any, optimizer: Any) -> None:
    import torch

    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                live.count(value, "optimizer", move=True)


@contextlib.contextmanager
def _gradients_named(live: Any, trainable: list[torch.Tensor]) -> Iterator[None]:
    """Put each parameter's gradient under ``gradients`` as soon as it is there."""
    hooks = [
        each.register_post_accumulate_grad_hook(lambda it: live.count(it.grad, "gradients", move=True))
        for each in trainable
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _at_backward_of(module: nn.Module | None, tell: Callable[[], None]) -> Iterator[None]:
    """Call ``tell`` once, when the gradient of the module's output has been computed."""
    if module is None:
        yield
        return
    told: list[bool] = []

    def watch(_module: Any, _args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad and not told:
            hidden.register_hook(once)

    def once(_gradient: torch.Tensor) -> None:
        if not told:
            told.append(True)
            tell()

    handle = module.register_forward_hook(watch)
    try:
        yield
    finally:
        handle.remove()


def _autocast(dtype: torch.dtype | None) -> Any:
    import torch

    return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype)
