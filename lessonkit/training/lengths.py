"""The batches of a training cut into parts of like length: less padding, and the same gradient.

``train_sampling_strategy="group_by_length"`` makes whole batches of like length. That saves most, but a batch no
longer is a random sample, and where length tells something of the label (newswires on earnings are short) the
loss falls more slowly: `benchmarks/speed.py` shows how much. Here every batch is as random as ever; only inside it
are the rows sorted and cut into micro-batches, whose gradients the Trainer adds up:

    batch of 8, lengths   90 12 25 240 31 14 200 22     8 x 240 = 1,920 places for 634 tokens
    cut into 4 of 2       12 14 | 22 25 | 31 90 | 200 240     28 + 50 + 180 + 480 = 738 places
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError
from lessonkit.hardware import Hardware, detect_hardware
from lessonkit.training.arguments import Arguments

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["like_length_batches"]

# What starting a micro-batch costs on a CPU, in places (tokens and padding) that could be computed instead.
PLACES_PER_START = 100
CALL = "train_dataset, batches = lessonkit.like_length_batches(train_dataset, batch_size=8)"


def like_length_batches(
    dataset: Dataset, batch_size: int, *, seed: int = 0, hardware: Hardware | None = None
) -> tuple[Dataset, Arguments]:
    """The dataset in a random order that is sorted inside each batch, and the arguments that go with it.

    dataset: tokenized (a column ``input_ids``) and not padded; the same rows come back in another order, the same one in
    each epoch. batch_size: rows of one optimizer step. On a GPU, which computes all places of a batch at once, batches
    stay whole and random.

    ``TrainingArguments(output_dir=..., **(lessonkit.training_arguments() | batches))`` takes the second.
    A model that averages its loss over each micro-batch by itself (BERT's classifiers) needs
    ``trainer.loss_is_scaled_for_ga = False`` besides, as with any accumulation; `lessonkit.run` says so.

    Raises:
        DataError: it is no such dataset, or has fewer rows than a batch.
    """
    _check(dataset, batch_size)
    machine = hardware or detect_hardware()
    if machine.device != "cpu":
        return dataset, _arguments(batch_size, batch_size)
    lengths = [len(row) for row in dataset["input_ids"]]
    order = _order(lengths, batch_size, seed)
    sizes = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    best = min(sizes, key=lambda size: _cost([lengths[row] for row in order], size))
    if best == batch_size:
        return dataset, _arguments(batch_size, batch_size)
    return dataset.select(order), _arguments(batch_size, best)


def _order(lengths: Sequence[int], batch_size: int, seed: int) -> list[int]:
    rows = list(range(len(lengths)))
    random.Random(seed).shuffle(rows)
    batches = (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))
    return [row for batch in batches for row in sorted(batch, key=lambda row: lengths[row])]


def _cost(lengths: Sequence[int], size: int) -> int:
    """Places that are computed with micro-batches of this size, and what their starts cost."""
    parts = [lengths[first : first + size] for first in range(0, len(lengths), size)]
    return sum(max(part) * len(part) + PLACES_PER_START for part in parts)


def _arguments(batch_size: int, size: int) -> Arguments:
    if size == batch_size:
        whole = "whole batches are the quickest here"
        return Arguments(
            {
                "per_device_train_batch_size": (size, whole),
                "train_sampling_strategy": ("random", "batches are random samples"),
            }
        )
    cut = batch_size // size
    return Arguments(
        {
            "per_device_train_batch_size": (size, "rows of like length share a micro-batch: less padding"),
            "gradient_accumulation_steps": (
                cut,
                f"{cut} micro-batches of {size} add up to the batch of {batch_size}",
            ),
            "train_sampling_strategy": ("sequential", "the rows lie in a random order already"),
        }
    )


def _check(dataset: Any, batch_size: Any) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"batch_size is {batch_size!r}.", why="it counts the rows of a batch", fix=CALL)
    names = getattr(dataset, "column_names", None)
    if not hasattr(dataset, "select") or not isinstance(names, list):
        what = f"Rows can't be put in another order in this {type(dataset).__name__}."
        raise DataError(what, why="a datasets.Dataset is needed, whole and with one split", fix=CALL)
    if "input_ids" not in names:
        why = f"its columns are {', '.join(names) or 'none'}; lengths are counted in input_ids"
        fix = "dataset.map(lambda row: tokenizer(row['text'], truncation=True)), then: " + CALL
        raise DataError("The dataset is not tokenized yet.", why=why, fix=fix)
    if len(dataset) < batch_size:
        what = f"The dataset has {len(dataset)} rows: not one batch of {batch_size}."
        raise DataError(what, fix="choose a smaller batch_size, or add texts")
