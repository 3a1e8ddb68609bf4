"""What processes send each other in a step: by arithmetic, and with a clock.

    torchrun --nproc-per-node 2 -m production.communication --output outputs/communication.json

A ring all-reduce of G bytes among N processes sends 2 (N - 1) / N G bytes from each of them: a reduce-scatter and an
all-gather, (N - 1) / N G each (Patarasuk and Yuan 2009). It hardly grows with N; what grows is the number of steps of
the ring, 2 (N - 1), each with its latency.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer

from lessonkit.errors import TrainingError
from production.checkpoints import write_json
from production.commands import run
from production.group import Group, join, leave

__all__ = ["measure", "sent_per_step"]

#: Float32 numbers of each message that is timed: 4 KiB to 64 MiB.
SIZES = tuple(2**power for power in (10, 14, 18, 20, 22, 24))


def sent_per_step(
    parameters: int,
    world: int,
    strategy: str,
    *,
    bytes_each: int = 4,
    gradient_bytes: int = 4,
    accumulate: int = 1,
) -> float:
    """Bytes that each process sends for one update of the weights.

    parameters: numbers that are trained. bytes_each: of a gathered weight (2 for bfloat16). accumulate: small
    batches; FSDP gathers the weights for each of them twice (forward and backward), gradients go once, at the end.
    """
    part = (world - 1) / world
    if strategy == "single" or world == 1:
        return 0.0
    if strategy == "ddp":
        return 2 * part * parameters * gradient_bytes
    if strategy == "fsdp":
        return part * parameters * (2 * accumulate * bytes_each + gradient_bytes)
    raise ValueError(f"unknown strategy: {strategy}")


def measure(group: Group, repeats: int = 5, sizes: tuple[int, ...] = SIZES) -> list[dict[str, float]]:
    """Median seconds of an all-reduce, an all-gather and a reduce-scatter for each message size, of the slowest rank."""
    found = []
    for numbers in sizes:
        whole = torch.ones(numbers, device=group.device)
        part = torch.ones(numbers // group.world, device=group.device)
        calls = {
            "all_reduce": lambda whole=whole: dist.all_reduce(whole),
            "all_gather": lambda whole=whole, part=part: dist.all_gather_into_tensor(
                whole[: part.numel() * group.world], part
            ),
            "reduce_scatter": lambda whole=whole, part=part: dist.reduce_scatter_tensor(
                part, whole[: part.numel() * group.world]
            ),
        }
        row = {"bytes": 4 * numbers}
        for name, call in calls.items():
            call()  # the first one connects
            row[name] = max(group.collected(_median(call, group, repeats)))
        found.append(row)
    return found


def _median(call, group: Group, repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        group.wait()
        began = time.perf_counter()
        call()
        if group.device.type == "cuda":
            torch.cuda.synchronize(group.device)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[repeats // 2]


def main(
    output: Annotated[Path, typer.Option(help="The JSON file to write.")] = Path("communication.json"),
    repeats: int = 5,
    largest: Annotated[int, typer.Option(help="Bytes of the largest message.")] = 2**26,
) -> None:
    """Time collective calls of several sizes between the processes that torchrun has started."""
    with join() as group:
        if group.world < 2:
            raise TrainingError(
                "One process has nobody to send to.",
                fix="torchrun --nproc-per-node 2 -m production.communication",
            )
        rows = measure(group, repeats, tuple(each for each in SIZES if 4 * each <= largest))
        if group.rank == 0:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, {"world": group.world, "backend": group.backend, "rows": rows})
    leave()


if __name__ == "__main__":
    run(main)
