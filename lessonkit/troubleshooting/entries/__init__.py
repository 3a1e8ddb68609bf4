"""The known errors, by topic."""

from __future__ import annotations

from lessonkit.troubleshooting.entries import (
    adapting,
    data,
    gradients,
    loading,
    metrics,
    python,
    silent,
    tensors,
    tokens,
    trainer,
)
from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES", "TOPICS"]

#: In the order in which a learner meets them.
TOPICS: dict[str, tuple[Entry, ...]] = {
    "Python, notebooks and files": python.ENTRIES,
    "Datasets": data.ENTRIES,
    "Tokenizers and batches": tokens.ENTRIES,
    "Models and their files": loading.ENTRIES,
    "Tensors, devices and memory": tensors.ENTRIES,
    "Gradients": gradients.ENTRIES,
    "Trainer": trainer.ENTRIES,
    "Metrics": metrics.ENTRIES,
    "Adapters and quantised models": adapting.ENTRIES,
    "Trouble without an error": silent.ENTRIES,
}
ENTRIES: tuple[Entry, ...] = tuple(entry for entries in TOPICS.values() for entry in entries)
