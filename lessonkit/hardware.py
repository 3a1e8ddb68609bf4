"""What this machine can do, and what follows from it: every choice comes with its reason."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from lessonkit.errors import HardwareError, UnknownNameError

__all__ = ["GIB", "SCALES", "Hardware", "choose_scale", "detect_hardware", "format_bytes", "versions"]

GIB = 2**30
SCALES = ("smoke", "laptop", "gpu")
#: A T4 has 14.6 GiB usable; below about that, the `gpu` scale's bigger models do not fit.
GPU_SCALE_MINIMUM_BYTES = 14 * GIB
REPORTED_PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate", "bitsandbytes", "numpy")


@dataclass(frozen=True)
class Hardware:
    """One machine as seen by PyTorch.

    device: ``"cuda"``, ``"mps"`` or ``"cpu"``, as ``torch.device`` takes it.
    device_name: what the maker calls it.
    device_count: GPUs that PyTorch sees; 0 without one.
    compute_capability: CUDA's ``(major, minor)``; None elsewhere.
    memory_total_bytes, memory_free_bytes: of the device (of the machine on a CPU); None if unknown.
    cpu_name, cpu_cores: cores this process may use (affinity and container limits counted in).
    cpu_features: of ``amx_bf16``, ``avx512_bf16``, ``avx2``, those that the CPU has.
    ram_total_bytes: main memory that this process may use; None if unknown.
    dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``: what mixed precision should compute in.
    scale: ``"smoke"``, ``"laptop"`` or ``"gpu"``.
    threads: threads that torch should use for one training.
    attention: the ``attn_implementation`` to ask transformers for.
    reasons: for ``device``, ``dtype``, ``scale``, ``threads``, ``attention``: why it was chosen.
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


def format_bytes(count: int | None) -> str:
    """``1610612736`` -> ``'1.5 GiB'``; ``None`` -> ``'unknown'``."""
    if count is None:
        return "unknown"
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def versions() -> dict[str, str]:
    """Versions that a measurement should carry, read without importing the packages."""
    found = {"python": platform.python_version()}
    for name in REPORTED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def detect_hardware() -> Hardware:
    """Look at this machine once more (nothing is cached: free memory changes).

    Raises HardwareError if PyTorch is missing or broken, UnknownNameError for a bad LESSONKIT_SCALE.
    """
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries is missing or broken
        raise HardwareError(
            "PyTorch cannot be imported.",
            why=str(error),
            fix="run `python start.py`, which installs it, and use the `.venv` that it makes",
        ) from error
    cpu = {
        "cpu_name": _cpu_name(),
        "cpu_cores": _usable_cores(),
        "cpu_features": _cpu_features(torch),
        "ram_total_bytes": _ram_total(),
    }
    if torch.cuda.is_available():
        facts = _cuda_facts(torch)
    elif torch.backends.mps.is_available():
        facts = _mps_facts(torch, cpu["ram_total_bytes"])
    else:
        facts = _cpu_facts(torch, cpu)
    reasons = facts.pop("reasons")
    threads, reasons["threads"] = _choose_threads(cpu["cpu_cores"])
    scale, reasons["scale"] = choose_scale(facts["device"], facts["memory_total_bytes"])
    attention, reasons["attention"] = _choose_attention(facts["device"])
    return Hardware(**facts, **cpu, scale=scale, threads=threads, attention=attention, reasons=reasons)


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
    if device == "cuda" and (memory_total_bytes or 0) >= GPU_SCALE_MINIMUM_BYTES:
        return "gpu", f"a CUDA GPU with {format_bytes(memory_total_bytes)} holds the bigger models"
    if device == "cuda" and memory_total_bytes is None:
        return "laptop", "the GPU's memory is unknown, so the bigger models may not fit"
    if device == "cuda":
        return "laptop", f"the GPU's {format_bytes(memory_total_bytes)} are less than the bigger models need"
    if device == "mps":
        return "laptop", "an Apple GPU runs the laptop scale well; the bigger models are sized for CUDA"
    return "laptop", "no GPU: sizes are chosen to learn something real on two CPU cores"


def _cuda_facts(torch) -> dict:
    capability = torch.cuda.get_device_capability(0)
    free, total = torch.cuda.mem_get_info(0)
    spoken = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= (8, 0):
        dtype, why = "bfloat16", f"{spoken} has bf16 matrix units"
    elif capability >= (7, 0):
        dtype, why = "float16", f"{spoken} has fp16 matrix units but none for bf16 (from 8.0 on)"
    else:
        dtype, why = "float32", f"{spoken} has no 16-bit matrix units (from 7.0 on)"
    count = torch.cuda.device_count()
    return {
        "device": "cuda",
        "device_name": torch.cuda.get_device_name(0),
        "device_count": count,
        "compute_capability": capability,
        "memory_total_bytes": total,
        "memory_free_bytes": free,
        "dtype": dtype,
        "reasons": {"device": f"PyTorch sees {count} CUDA GPU{'s' if count > 1 else ''}", "dtype": why},
    }


def _mps_facts(torch, ram_total: int | None) -> dict:
    limit = getattr(torch.mps, "recommended_max_memory", lambda: None)() or ram_total
    used = torch.mps.driver_allocated_memory()
    return {
        "device": "mps",
        "device_name": f"Apple GPU ({_cpu_name()})",
        "device_count": 1,
        "compute_capability": None,
        "memory_total_bytes": limit,
        "memory_free_bytes": None if limit is None else limit - used,
        "dtype": "float32",
        "reasons": {
            "device": "PyTorch sees an Apple GPU (MPS)",
            "dtype": "fp32 is the safe choice on MPS; set bf16=True yourself on an M2 or later and compare",
        },
    }


def _cpu_facts(torch, cpu: dict) -> dict:
    why_device = "no CUDA or Apple GPU is visible to PyTorch"
    if torch.version.cuda is None:
        why_device += "; this PyTorch is built without CUDA"
    for feature, spoken in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512")):
        if feature in cpu["cpu_features"]:
            dtype, why = "bfloat16", f"the CPU multiplies bf16 matrices in hardware ({spoken})"
            break
    else:
        dtype, why = "float32", "the CPU has no bf16 matrix instructions, so bf16 would only be emulated"
    return {
        "device": "cpu",
        "device_name": cpu["cpu_name"],
        "device_count": 0,
        "compute_capability": None,
        "memory_total_bytes": cpu["ram_total_bytes"],
        "memory_free_bytes": _ram_free(),
        "dtype": dtype,
        "reasons": {"device": why_device, "dtype": why},
    }


def _choose_attention(device: str) -> tuple[str, str]:
    if device == "cpu":
        return "eager", "short texts train faster on a CPU with plain attention than with the fused kernel"
    return "sdpa", "scaled_dot_product_attention picks the fastest kernel that PyTorch has here"


def _choose_threads(cores: int, environ: Mapping[str, str] = os.environ) -> tuple[int, str]:
    asked = environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked), f"OMP_NUM_THREADS={asked} asks for it"
    return cores, "one for each core that this process may use"


def _usable_cores() -> int:
    """Cores by affinity, capped by a container's CPU quota (cgroup v2)."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return max(1, cores)


def _ram_total() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    total = psutil.virtual_memory().total
    limit = _cgroup_number("memory.max")
    return total if limit is None else min(total, limit)


def _ram_free() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    free = psutil.virtual_memory().available
    limit, used = _cgroup_number("memory.max"), _cgroup_number("memory.current")
    return free if limit is None else min(free, max(0, limit - (used or 0)))


def _cgroup_number(name: str) -> int | None:
    """A container's limit or use (cgroup v2) in bytes; None where there is none."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it says "max", which is no limit
        return int(Path("/sys/fs/cgroup", name).read_text())
    return None


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    return platform.processor() or platform.machine() or "unknown CPU"


def _cpu_features(torch) -> tuple[str, ...]:
    """Of the features that decide the dtype, those present; most capable first."""
    read = getattr(torch.cpu, "get_capabilities", None)  # in recent PyTorch, on every system
    if read is not None:
        flags = {name for name, present in read().items() if present is True}
    else:
        try:
            flags = set(Path("/proc/cpuinfo").read_text().split())
        except OSError:
            flags = set()
    return tuple(name for name in ("amx_bf16", "avx512_bf16", "avx2") if name in flags)
