"""What this machine can do, and what follows from it: every choice comes with its reason."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from lessonkit.errors import HardwareError, UnknownNameError
from lessonkit.hardware import system
from lessonkit.hardware.devices import Gpu, Problem, cpu_features, device_facts
from lessonkit.hardware.system import GIB, format_bytes

__all__ = [
    "GIB",
    "SCALES",
    "Gpu",
    "Hardware",
    "Problem",
    "choose_scale",
    "choose_threads",
    "detect_hardware",
    "format_bytes",
    "versions",
]

SCALES = ("smoke", "laptop", "gpu")
#: A T4 has 14.6 GiB usable; below about that, the `gpu` scale's bigger models do not fit.
GPU_SCALE_MINIMUM_BYTES = 14 * GIB
REPORTED_PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate", "bitsandbytes", "numpy")


@dataclass(frozen=True)
class Hardware:
    """One machine as seen by PyTorch.

    device: ``"cuda"``, ``"mps"`` or ``"cpu"``, as ``torch.device`` takes it (an AMD GPU is ``"cuda"`` too).
    device_name: what the maker calls it.
    device_count: GPUs that PyTorch sees; 0 without one.
    compute_capability: CUDA's ``(major, minor)``; None elsewhere.
    memory_total_bytes, memory_free_bytes: of the device (of the machine on a CPU); None if unknown.
    cpu_name, cpu_cores: cores this process may use (affinity and container limits counted in).
    cpu_features: of ``amx_bf16``, ``avx512_bf16``, ``avx2``, those that PyTorch can use.
    ram_total_bytes: main memory that this process may use; None if unknown.
    dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``: what mixed precision should compute in.
    scale: ``"smoke"``, ``"laptop"`` or ``"gpu"``.
    threads: threads that torch should use for one training.
    attention: the ``attn_implementation`` to ask transformers for.
    reasons: for ``device``, ``dtype``, ``scale``, ``threads``, ``attention``: why it was chosen.
    gpus: all GPUs that PyTorch sees; the first is the one that is used, if any is.
    backend: what drives the device: ``"CUDA 13.0"``, ``"ROCm 6.4"`` (AMD), ``"MPS"``, or "" on a CPU.
    machine_cores: logical cores of the whole machine; None if unknown.
    problems: what keeps this machine from doing better, each with what to type.
    """

    device: str
    device_name: str
    device_count: int
    compute_capability: tuple[int, int] | None
    memory_total_bytes: int | None
    memory_free_bytes: int | None
    cpu_name: str
    cpu_cores: int
    cpu_features: tuple[str, ...]
    ram_total_bytes: int | None
    dtype: str
    scale: str
    threads: int
    attention: str
    reasons: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    backend: str = ""
    machine_cores: int | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def bf16(self) -> bool:
        """Whether ``TrainingArguments(bf16=...)`` should be True here."""
        return self.dtype == "bfloat16"

    @property
    def fp16(self) -> bool:
        """Whether ``TrainingArguments(fp16=...)`` should be True here."""
        return self.dtype == "float16"

    def summary(self) -> str:
        """One line for stamps and tables: the device, its memory, its cores."""
        if self.device == "cpu":
            feature = f", {self.cpu_features[0]}" if self.cpu_features else ""
            return f"{self.cpu_name}, {self.cpu_cores} cores{feature}, {format_bytes(self.ram_total_bytes)}"
        return f"{self.device_name}, {format_bytes(self.memory_total_bytes)}"

    def to_dict(self) -> dict:
        """Plain data, as ``lessonkit doctor --json`` prints it."""
        return {**asdict(self), "reasons": dict(self.reasons)}


def versions(packages: Iterable[str] = REPORTED_PACKAGES) -> dict[str, str]:
    """Versions that a measurement should carry, read without importing the packages."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError, KeyError):  # KeyError: half uninstalled
            found[name] = metadata.version(name) or "unknown"
    return found


def detect_hardware(environ: Mapping[str, str] = os.environ) -> Hardware:
    """Look at this machine once more (nothing is cached: free memory changes).

    Raises HardwareError if PyTorch is missing or broken, UnknownNameError for a bad LESSONKIT_SCALE.
    """
    torch = _import_torch()
    features, missed = cpu_features(torch, environ)
    cpu = {
        "cpu_name": system.cpu_name(),
        "cpu_cores": system.usable_cores(),
        "cpu_features": features,
        "ram_total_bytes": system.ram_total(),
    }
    facts = device_facts(torch, {**cpu, "missed": missed}, environ)
    reasons, problems = facts.pop("reasons"), facts.pop("problems", [])
    machine_cores = system.machine_cores()
    threads, reasons["threads"] = choose_threads(cpu["cpu_cores"], environ, machine_cores)
    scale, reasons["scale"] = choose_scale(facts["device"], facts["memory_total_bytes"], environ)
    attention, reasons["attention"] = _choose_attention(facts["device"])
    chosen = {"scale": scale, "threads": threads, "attention": attention, "machine_cores": machine_cores}
    return Hardware(**facts, **cpu, **chosen, reasons=reasons, problems=tuple(problems))


def _import_torch() -> Any:
    fix = "run `python start.py`, which installs it, and use the `.venv` that it makes"
    try:
        import torch
    except Exception as error:  # a broken installation raises whatever its broken part does
        raise HardwareError("PyTorch cannot be imported.", why=str(error), fix=fix) from error
    if not hasattr(torch, "cuda"):
        where = getattr(torch, "__file__", None) or "an empty folder"
        why = f"what is called torch here is not PyTorch, or only a part of it: {where}"
        raise HardwareError("PyTorch cannot be imported.", why=why, fix=fix)
    return torch


def choose_scale(
    device: str, memory_total_bytes: int | None, environ: Mapping[str, str] = os.environ
) -> tuple[str, str]:
    """The scale to run at and why: LESSONKIT_SCALE, or else what the device can hold."""
    asked = environ.get("LESSONKIT_SCALE", "").strip().lower()
    if asked:
        if asked not in SCALES:
            raise UnknownNameError(
                "scale", asked, SCALES, fix="set LESSONKIT_SCALE to smoke, laptop or gpu, or unset it"
            )
        return asked, f"LESSONKIT_SCALE={asked} asks for it"
    if device == "cuda" and memory_total_bytes is None:
        return "laptop", "the GPU's memory is unknown, so the bigger models may not fit"
    if device == "cuda" and memory_total_bytes >= GPU_SCALE_MINIMUM_BYTES:
        return "gpu", f"a GPU with {format_bytes(memory_total_bytes)} holds the bigger models"
    if device == "cuda":
        return "laptop", f"the GPU's {format_bytes(memory_total_bytes)} are less than the bigger models need"
    if device == "mps":
        return "laptop", "an Apple GPU runs the laptop scale well; the bigger models are sized for CUDA"
    return "laptop", "no GPU: sizes are chosen to learn something real on two CPU cores"


def choose_threads(
    cores: int, environ: Mapping[str, str] = os.environ, machine_cores: int | None = None
) -> tuple[int, str]:
    """How many threads one training should use, and why: OMP_NUM_THREADS, or else one for each core.

    cores: those that this process may use. machine_cores: those that the machine has, if known.
    """
    why = "one for each core that this process may use"
    if machine_cores is not None and machine_cores > cores:
        why += (
            f"; the machine has {machine_cores}, of which a container, a quota or an affinity allows {cores}"
        )
    text = environ.get("OMP_NUM_THREADS", "").strip()
    if not text:
        return cores, why
    # OpenMP takes a list, one number for each level of nesting; the first is the one for torch.
    if not re.fullmatch(r"[0-9]+(\s*,\s*[0-9]+)*", text) or int(text.split(",")[0]) < 1:
        return cores, f"{why}; OMP_NUM_THREADS={text} is passed over: it is not a number from 1 on"
    asked = int(text.split(",")[0])
    if asked > cores:
        return cores, f"{why}; OMP_NUM_THREADS={text} asks for more, which would wait for each other"
    return asked, f"OMP_NUM_THREADS={text} asks for it"


def _choose_attention(device: str) -> tuple[str, str]:
    if device == "cpu":
        return "eager", "short texts train faster on a CPU with plain attention than with the fused kernel"
    return "sdpa", "scaled_dot_product_attention picks the fastest kernel that PyTorch has here"
