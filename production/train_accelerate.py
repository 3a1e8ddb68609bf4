"""The same training through accelerate: what it takes off your hands, and what it doesn't.

It finds the device, wraps the model (DDP here, FSDP by ``accelerate config``), deals the batches out, and skips the
exchange of gradients while it accumulates. Checkpoints, resuming and the record remain yours.

    accelerate launch --multi_gpu --num_processes 2 -m production.train_accelerate --folder outputs/accelerate

``--multi_gpu`` means "start by torchrun", which works on a CPU, too: the script asks for the CPU where there is no GPU.
``--cpu --num_processes 2`` starts *one* process (accelerate 1.15 leaves several on a CPU to mpirun).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from production.batches import check_split, step_rows
from production.checkpoints import write_json
from production.commands import run
from production.settings import read
from production.train import Training
from production.training_parts import load_parts, loss_sum

__all__ = ["train"]


def train(settings: Training, folder: Path) -> dict:
    """The steps of ``production.train`` in the same order; losses of rank 0's record are those of the whole batch.

    Equal to them for rows with one answer each (classifiers): accelerate divides the gradient by the processes and
    small batches, not by the answers in them.
    """
    mixed = "bf16" if settings.precision == "bf16" else "no"
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=mixed,
        gradient_accumulation_steps=settings.accumulate,
    )
    check_split(settings.batch_size, accelerator.num_processes, settings.accumulate)
    parts = load_parts(settings.model, settings.train_rows, 0, settings.length, settings.seed)
    rows = [
        row
        for step in range(settings.steps)
        for row in step_rows(step, len(parts.train), settings.batch_size, settings.seed)
    ]
    names = list(parts.train.inputs)
    columns = [each[rows] for each in (*parts.train.inputs.values(), parts.train.labels)]
    size = settings.batch_size // (accelerator.num_processes * settings.accumulate)
    optimizer = torch.optim.AdamW(parts.model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    model, optimizer, loader = accelerator.prepare(
        parts.model, optimizer, DataLoader(TensorDataset(*columns), batch_size=size)
    )
    model.train()
    losses, own, step = [], 0.0, 0
    for *inputs, labels in loader:
        for each in optimizer.param_groups:
            each["lr"] = settings.learning_rate * (1 - step / settings.steps)
        with accelerator.accumulate(model):
            loss = loss_sum(model(**dict(zip(names, inputs, strict=True))), labels) / len(labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        own += loss.item() / settings.accumulate
        if accelerator.sync_gradients:
            mine = torch.tensor([own], device=accelerator.device)
            losses.append(accelerator.gather(mine).mean().item())
            own, step = 0.0, step + 1
    record = {"world": accelerator.num_processes, "losses": losses}
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "record.json", record)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return record


def main(
    folder: Annotated[Path, typer.Option(help="Where the record is written.")],
    model: str | None = None,
    train_rows: int | None = None,
    length: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
) -> None:
    """Train through accelerate, with the settings of production.train."""
    given = {
        "model": model,
        "train_rows": train_rows,
        "length": length,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "steps": steps,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    train(read("training", Training, **given), folder)


if __name__ == "__main__":
    run(main)
