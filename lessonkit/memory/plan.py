"""`lessonkit plan`: what a training step will take, where it fits, and what to change first where it doesn't."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.hardware import GIB, Hardware, detect_hardware, format_bytes
from lessonkit.memory import MemoryPlan, largest_batch, load_config, predict_memory
from lessonkit.memory.gpus import CONTEXT_BYTES, GPUS, Change, advice, room_bytes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Report", "make_report"]

WORDS = {
    "weights": "weights",
    "gradients": "gradients (at that moment)",
    "optimizer": "optimiser states",
    "activations": "activations",
    "rest": "passing tensors, batch",
    "allocator": "allocator's overhead",
}


@dataclass(frozen=True)
class Report:
    """A plan and what follows from it.

    plan: on this machine's kind of device. fits: for each of GPUS, the bytes left free, CUDA's own context
    counted in; negative where they are missing. room_bytes: what this machine has; None if unknown.
    largest_batch: rows that fit here; None if the room is unknown. changes: what to change, in order, until it
    fits here; empty if it does.
    """

    plan: MemoryPlan
    hardware: Hardware
    fits: dict[str, int]
    room_bytes: int | None
    largest_batch: int | None
    changes: list[Change]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        machine = {
            "device": self.hardware.summary(),
            "room_bytes": self.room_bytes,
            "largest_batch": self.largest_batch,
        }
        changes = [
            {"option": each.option, "peak_bytes": each.plan.peak_bytes, "keeps_maths": each.keeps_maths}
            for each in self.changes
        ]
        return {
            **self.plan.to_dict(),
            "gpus": {name: {"fits": left >= 0, "free_bytes": left} for name, left in self.fits.items()},
            "machine": machine,
            "changes": changes,
        }

    def __str__(self) -> str:
        return "\n".join([*self._breakdown(), "", *self._gpus(), "", *self._machine()])

    def _breakdown(self) -> Iterator[str]:
        plan, asked = self.plan, self.plan.settings
        share = plan.trainable_parameters / plan.total_parameters
        yield (
            f"{asked.technique}, batch {asked.batch_size} x {asked.sequence_length} tokens, {asked.dtype}"
            + (" with bf16 autocast" if asked.mixed_precision else "")
            + (", gradient checkpointing" if asked.gradient_checkpointing else "")
            + f", optimiser {asked.optimizer}"
        )
        yield (
            f"{plan.trainable_parameters:,} of {plan.total_parameters:,} parameters are trained ({share:.2%})"
        )
        yield ""
        for name, size in plan.breakdown.items():
            bar = "█" * round(30 * size / plan.peak_bytes)
            yield f"  {WORDS[name]:<27}{format_bytes(size):>11}  {bar}"
        yield f"  {'peak':<27}{format_bytes(plan.peak_bytes):>11}  {_moment(plan.peak_phase)}"
        if not plan.breakdown["gradients"] and plan.gradients_bytes:
            yield f"  (gradients take {format_bytes(plan.gradients_bytes)} once complete, after that moment)"

    def _gpus(self) -> Iterator[str]:
        yield f"GPUs ({format_bytes(CONTEXT_BYTES)} for CUDA itself counted in)"
        if self.plan.settings.dtype == "bfloat16" or self.plan.settings.mixed_precision:
            yield "  (T4 and V100 multiply no bf16 matrices: use float16 and fp16=True there)"
        for name, left in self.fits.items():
            told = (
                f"fits, {format_bytes(left)} free" if left >= 0 else f"no, {format_bytes(-left)} too little"
            )
            yield f"  {name:<27}{told}"

    def _machine(self) -> Iterator[str]:
        yield f"This machine: {self.hardware.summary()}"
        if self.room_bytes is None:
            yield "  how much memory it has is unknown, so whether this fits is too"
            return
        fits = self.plan.peak_bytes <= self.room_bytes
        has = "are free" if self.hardware.device == "cpu" else "its GPU has"
        yield f"  {'fits' if fits else 'does not fit'} in the {format_bytes(self.room_bytes)} that {has}"
        length = self.plan.settings.sequence_length
        yield f"  largest batch of {length} tokens that fits: {self.largest_batch or 'none'}"
        if self.changes:
            yield "  change first, each on top of the ones before:"
        for each in self.changes:
            note = "the same training" if each.keeps_maths else "trains something else"
            yield f"    {each.option:<24} -> {format_bytes(each.plan.peak_bytes)} ({note})"
        if not fits and not self.changes:
            yield "  no change of the settings would make it fit: take a smaller model, or one of the GPUs above"
        elif not fits and self.changes[-1].plan.peak_bytes > self.room_bytes:
            yield "  and even so it does not fit: take a smaller model, or one of the GPUs above"


def make_report(source: PretrainedConfig | str | Path, technique: str, **options: Any) -> Report:
    """Predict, and compare with this machine and the common GPUs. Raises what ``predict_memory`` raises."""
    hardware = detect_hardware()
    config = load_config(source)
    options.setdefault("device", "cuda" if hardware.device == "cuda" else "cpu")
    plan = predict_memory(config, technique, **options)
    on_gpu = predict_memory(config, technique, **{**options, "device": "cuda"})
    fits = {
        name: int(gibibytes * GIB) - CONTEXT_BYTES - on_gpu.peak_bytes for name, gibibytes in GPUS.items()
    }
    room = room_bytes(hardware)
    rows, changes = None, []
    if room is not None:
        rows = largest_batch(config, room, technique, **options)
        if plan.peak_bytes > room:
            changes = list(advice(config, plan.settings, room))
    return Report(plan, hardware, fits, room, rows, changes)


def _moment(phase: str) -> str:
    return {
        "forward": "at the end of the forward pass",
        "backward-upper": "early in the backward pass",
        "backward-lower": "late in the backward pass",
        "step": "in the optimiser's step",
    }[phase]
