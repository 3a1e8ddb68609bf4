"""Which common GPUs a training step fits, and what to change first if it doesn't fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from lessonkit.errors import LessonkitError
from lessonkit.hardware import GIB
from lessonkit.memory import Settings, largest_batch, predict_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lessonkit.hardware import Hardware
    from lessonkit.memory import MemoryPlan

__all__ = ["GPUS", "Change", "advice", "room_bytes"]

#: GiB that PyTorch reports as the total capacity of each (in its out-of-memory messages), smallest first.
GPUS = {
    "RTX 3060 (12 GB)": 11.76,
    "T4 (16 GB)": 14.56,
    "V100 (16 GB)": 15.77,
    "A10G, L4 (24 GB)": 21.99,
    "RTX 3090, 4090 (24 GB)": 23.52,
    "A100 (40 GB)": 39.39,
    "L40S (48 GB)": 44.40,
    "A100, H100 (80 GB)": 79.10,
}
#: CUDA itself and its kernels, before the first tensor.
CONTEXT_BYTES = GIB // 2


@dataclass(frozen=True)
class Change:
    """One change of the settings. option: what to add to `lessonkit plan`; keeps_maths: nothing else is learned."""

    option: str
    keeps_maths: bool
    plan: MemoryPlan


def room_bytes(hardware: Hardware) -> int | None:
    """The bytes that a training may take on this machine: free main memory, or a GPU's total less CUDA's own."""
    if hardware.device == "cpu":
        return hardware.memory_free_bytes
    total = hardware.memory_total_bytes
    if total is None or hardware.device != "cuda":
        return total
    return total - CONTEXT_BYTES


def advice(config: PretrainedConfig, settings: Settings, limit_bytes: int) -> Iterator[Change]:
    """Changes to make one after the other, each on top of the ones before, until the step fits; then it ends.

    First those that change no result, then those that train something smaller. What saves nothing is left out.
    """
    smallest = _predict(config, settings).peak_bytes
    options = {name: value for name, value in asdict(settings).items() if name != "technique"}
    rows = _divisor(settings.batch_size, largest_batch(config, limit_bytes, settings.technique, **options))
    if rows < settings.batch_size:  # the rest will be accumulated, and so gradients be there all the time
        options["gradient_accumulation_steps"] = max(2, settings.gradient_accumulation_steps)
        rows = _divisor(
            settings.batch_size, largest_batch(config, limit_bytes, settings.technique, **options)
        )
    for changes, option, keeps in _possible(settings, rows):
        found = _attempt(config, replace(settings, **changes), option, keeps)
        if found is None or found.plan.peak_bytes > 0.99 * smallest:
            continue
        settings, smallest = found.plan.settings, found.plan.peak_bytes
        yield found
        if smallest <= limit_bytes:
            return


def _attempt(config: PretrainedConfig, settings: Settings, option: str, keeps: bool) -> Change | None:
    """The change, on all linear layers where PEFT chooses none for such a model; None if the model does not allow it."""
    everywhere = replace(settings, target_modules=("all-linear",))
    for changed, told in ((settings, option), (everywhere, f"{option} --target-modules all-linear")):
        with contextlib.suppress(LessonkitError):
            return Change(told, keeps, _predict(config, changed))
    return None


def _predict(config: PretrainedConfig, settings: Settings) -> MemoryPlan:
    options = {name: value for name, value in asdict(settings).items() if name != "technique"}
    return predict_memory(config, settings.technique, **options)


def _divisor(count: int, most: int) -> int:
    """The greatest divisor of ``count`` up to ``most``, at least 1: so many rows at a time leave none over."""
    return max(each for each in range(1, count + 1) if count % each == 0 and each <= max(1, most))


def _possible(settings: Settings, rows: int) -> Iterator[tuple[dict, str, bool]]:
    if rows < settings.batch_size:
        steps = settings.gradient_accumulation_steps * settings.batch_size // rows
        option = f"--batch-size {rows} --gradient-accumulation-steps {steps}"
        yield {"batch_size": rows, "gradient_accumulation_steps": steps}, option, True
    if not settings.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, "--gradient-checkpointing", True
    if settings.technique == "full" and settings.optimizer.startswith("adamw"):
        yield {"optimizer": "adamw_8bit"}, "--optimizer adamw_8bit", False
    if settings.technique == "full":
        yield {"technique": "lora"}, "--technique lora", False
    if settings.technique in ("full", "lora"):
        yield {"technique": "qlora"}, "--technique qlora", False
    if settings.sequence_length > 256:
        yield {"sequence_length": 256}, "--sequence-length 256", False
