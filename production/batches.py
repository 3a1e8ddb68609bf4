"""Which rows a step learns from, and which of them are whose.

``batch_size`` always means the *effective* batch: all rows between two updates of the weights, in all processes and
small batches together. So a training has the same steps with one process as with eight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lessonkit.errors import TrainingError

__all__ = ["Rows", "check_split", "share", "step_rows"]


@dataclass(frozen=True)
class Rows:
    """inputs: what the model takes by name, each (rows, length). labels: (rows,), or (rows, length) for a decoder."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: list[int], device: torch.device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The rows with these numbers, on the device."""
        return {name: each[chosen].to(device) for name, each in self.inputs.items()}, self.labels[chosen].to(
            device
        )

    def targets(self, chosen: list[int]) -> int:
        """How many answers these rows ask for: one a row, or, of a decoder, each token after the first."""
        labels = self.labels[chosen]
        return int((labels[:, 1:] if labels.dim() > 1 else labels).ne(-100).sum())


def check_split(batch_size: int, world: int, accumulate: int) -> None:
    """Raise TrainingError where the effective batch can't be split evenly."""
    if batch_size % (world * accumulate):
        step = world * accumulate
        raise TrainingError(
            f"A batch of {batch_size} rows can't be split over {world} processes with {accumulate} small batches each.",
            why="uneven parts would count some rows more than others",
            fix=f"choose a batch size that {step} divides, such as {max(1, batch_size // step) * step}",
        )


def step_rows(step: int, rows: int, batch_size: int, seed: int) -> list[int]:
    """The row numbers of a step (from 0). Every epoch has its own order; each process computes the same one.

    It needs no state: a resumed run finds its place from the number of the step. What is left over at an epoch's end
    is dropped.
    """
    epoch, place = divmod(step, rows // batch_size)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    return order[place * batch_size : (place + 1) * batch_size].tolist()


def share(chosen: list[int], rank: int, world: int, accumulate: int) -> list[list[int]]:
    """This process's part of a step, as ``accumulate`` small batches."""
    mine = chosen[rank::world]
    size = len(mine) // accumulate
    return [mine[start * size : (start + 1) * size] for start in range(accumulate)]
