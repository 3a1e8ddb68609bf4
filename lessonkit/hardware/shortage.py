"""Telling that memory ran out, and giving back what can be given back."""

from __future__ import annotations

import gc

from lessonkit.errors import LessonkitError

__all__ = ["is_out_of_memory", "release_memory"]

SIGNS = (  # as CUDA, MPS and the CPU's allocator on Linux, macOS and Windows say it
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cublas_status_alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on the CPU; any other RuntimeError is not."""
    import torch

    if isinstance(error, LessonkitError):  # ours, and already in plain words
        return False
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def release_memory() -> None:
    """Give back what nothing refers to any more, to the GPU as well."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
