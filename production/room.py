"""How much memory a training takes, and a training that gets no more than it is given.

On a GPU both are PyTorch's own counters. On a CPU the operating system keeps them for the process: what is resident,
the most that was, and on Linux a limit for private memory (``man 2 setrlimit``, RLIMIT_DATA). A limit lets a large
machine rehearse a small one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import psutil
import torch

from lessonkit.errors import HardwareError, TrainingError

__all__ = ["forget_peak", "holding", "limited"]

#: How PyTorch words it, by device.
FULL = ("can't allocate memory", "not enough memory", "CUDA out of memory")


def holding(device: torch.device) -> int:
    """Bytes that this process holds now: on a GPU what torch has allocated there, else what is resident."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def forget_peak(device: torch.device) -> None:
    """Let the peak count from here on, where the system can (GPUs, Linux): loading a model isn't training it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # man 5 proc: resets the peak of the resident set


@contextlib.contextmanager
def limited(room: int, device: torch.device) -> Iterator[None]:
    """Give what happens inside no more than ``room`` bytes beyond what is held already; 0: no limit.

    Raises TrainingError if that isn't enough, HardwareError where no limit can be set (a CPU without Linux).
    """
    if not room:
        yield
        return
    try:
        with _gpu_limit(room, device) if device.type == "cuda" else _process_limit(room):
            yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(each in str(error) for each in FULL):
            raise TrainingError(
                f"The training doesn't fit: it was given {room / 1e6:.0f} MB beyond the weights, and needs more.",
                why=(str(error).strip().splitlines() or ["a MemoryError"])[0][:160],
                fix="python -m production.switches plan --limit MB says which switches would fit",
            ) from None
        raise


@contextlib.contextmanager
def _gpu_limit(room: int, device: torch.device) -> Iterator[None]:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, (torch.cuda.memory_reserved(device) + room) / total), device
    )
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextlib.contextmanager
def _process_limit(room: int) -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        raise HardwareError(
            "This system can't limit the memory of one process on a CPU.",
            why="the limit that counts tensors (RLIMIT_DATA) is Linux's",
            fix="leave --room out; the plan and the measurements work everywhere",
        )
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_private_bytes() + room, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def _private_bytes() -> int:
    """What counts for RLIMIT_DATA: private writable memory, whether touched or not."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
