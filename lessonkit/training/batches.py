"""Collated batches: how many rows they have, how to take them apart, and how their losses add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lessonkit.errors import TrainingError

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["batch_rows", "loss_adds_up", "split_batch"]

ROWS_FIRST = ("input_ids", "inputs_embeds", "pixel_values", "input_features", "input_values", "labels")
FOR_ALL_ROWS = frozenset({"logits_to_keep", "cache_position"})  # positions in the text, not rows


def batch_rows(inputs: Any) -> int:
    """How many rows a collated batch has; 0 where that cannot be seen."""
    import torch

    if not isinstance(inputs, Mapping):
        return 0
    known = [inputs[name] for name in ROWS_FIRST if name in inputs]
    for value in [*known, *inputs.values()]:
        if isinstance(value, torch.Tensor) and value.dim():
            return value.shape[0]
    return 0


def split_batch(inputs: Mapping[str, Any], rows: int) -> list[dict[str, Any]]:
    """Cut a batch into pieces of at most ``rows`` rows.

    Tensors and lists with one entry a row are cut. What holds for all rows goes into each piece: single
    numbers, tensors whose first dimension is 1, and positions such as ``logits_to_keep``.
    Raises TrainingError if an entry is of neither kind, as where rows were packed into one.
    """
    import torch

    total = batch_rows(inputs)
    cut, whole = {}, {}
    for name, value in inputs.items():
        length = _entries(value)
        if name in FOR_ALL_ROWS or length is None or (length == 1 and total > 1):
            whole[name] = value
        elif length == total:
            cut[name] = value
        else:
            kind = (
                f"of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"of length {length}"
            )
            raise TrainingError(
                "Memory ran out, and this batch cannot be taken apart.",
                why=f"it has {total} rows, but {name!r} is {kind}: which part belongs to which row is unknown",
                fix="halve per_device_train_batch_size and double gradient_accumulation_steps, then run again",
            )
    starts = range(0, total, rows)
    return [{**whole, **{name: value[at : at + rows] for name, value in cut.items()}} for at in starts]


def _entries(value: Any) -> int | None:
    import torch

    if isinstance(value, torch.Tensor):
        return value.shape[0] if value.dim() else None
    return len(value) if isinstance(value, (list, tuple)) else None


def loss_adds_up(trainer: Trainer, model: Any, inputs: Mapping[str, Any], num_items: Any) -> bool | None:
    """Whether the loss is a sum divided by ``num_items_in_batch``; None where this batch cannot tell.

    Asked of the model itself, for some take the argument and average over their batch all the same (BERT
    with a classification head, in transformers 5.23). Twice the number must give half the loss.
    """
    import torch

    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    losses = []
    for factor in (1, 2):
        with torch.random.fork_rng(devices), torch.no_grad(), trainer.compute_loss_context_manager():
            prepared = trainer._prepare_inputs(dict(inputs))
            losses.append(float(trainer.compute_loss(model, prepared, num_items_in_batch=factor * num_items)))
    return losses[1] / losses[0] < 0.75 if losses[0] > 0 else None
