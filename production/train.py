"""Train with one process or several: ``python -m production.train``, or the same under ``torchrun``.

    python -m production.train --folder outputs/one
    torchrun --nproc-per-node 2 -m production.train --strategy fsdp --folder outputs/two

Type the same command again, and it goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import nn

from lessonkit.errors import TrainingError
from production import checkpoints
from production.batches import check_split, share, step_rows
from production.commands import only_one, run
from production.group import Group, join, leave, peak_bytes
from production.room import forget_peak, holding, limited
from production.settings import read, work_folder
from production.sharding import distribute, held, predicted, small_batch
from production.training_parts import Parts, load_parts, loss_sum, prepare, write_model

__all__ = ["Training", "train"]

#: Settings that don't change which result a run is after (but rounding): a run may go on with other ones.
FREE = (
    "strategy",
    "gradient_checkpointing",
    "accumulate",
    "compile",
    "save_every",
    "fail_at",
    "timeout",
    "room",
)


@dataclass(frozen=True)
class Training:
    """``[training]``. batch_size: effective, of all processes and small batches together. length: tokens of a row."""

    model: str = "minilm"  # or "smollm2", "tiny", or a name of the Hub
    strategy: Literal["auto", "single", "ddp", "fsdp"] = "auto"
    train_rows: int = 480
    test_rows: int = 0
    length: int = 64
    batch_size: int = 16
    accumulate: int = 1  # small batches before each update
    steps: int = 20
    learning_rate: float = 1e-4  # falls to 0 in a line
    weight_decay: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    save_every: int = 10  # steps; 0: never
    fail_at: int = -1  # rehearsal: before this step, once, the last process kills itself
    seed: int = 0
    room: int = 0  # bytes beyond what is held before the first step; 0: no limit. Rehearses a smaller machine
    timeout: float = 600.0  # seconds that processes wait for each other

    def __post_init__(self) -> None:
        for name in ("train_rows", "length", "batch_size", "accumulate", "steps", "learning_rate", "timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, not above 0")
        if self.batch_size > self.train_rows:
            raise ValueError(
                f"batch_size is {self.batch_size}, more than the {self.train_rows} rows (train_rows)"
            )
        if min(self.save_every, self.test_rows, self.room) < 0:
            raise ValueError("save_every, test_rows and room can't be below 0")


@dataclass
class _Run:
    """What a training goes on with, beside weights and optimiser."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    step: int = 0
    restored_from: int | None = None


def train(settings: Training, folder: Path, group: Group) -> dict[str, Any]:
    """Train to the last step and write ``record.json`` and ``model/`` into ``folder``; gives the record on rank 0.

    Goes on from the newest checkpoint of the folder. Raises TrainingError for a folder with another run.
    """
    strategy = settings.strategy
    if strategy == "auto":
        strategy = "ddp" if group.world > 1 else "single"
    check_split(settings.batch_size, group.world, settings.accumulate)
    _same_run(settings, folder, group)
    parts = load_parts(
        settings.model, settings.train_rows, settings.test_rows, settings.length, settings.seed
    )
    if len(parts.train) < settings.batch_size:
        raise TrainingError(
            f"There are only {len(parts.train)} rows, fewer than a batch.", fix="lower batch_size"
        )
    shapes = [tuple(each.shape) for each in parts.model.parameters()]
    config = getattr(parts.model, "config", None)
    if config is not None:
        config.architectures = [type(parts.model).__name__]  # FSDP renames the class
    parts.model.to(group.device).train()
    prepare(parts.model, settings.gradient_checkpointing, settings.compile)
    model = distribute(parts.model, strategy, group, settings.precision)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    state = _Run()
    if found := checkpoints.restore(folder / "checkpoints", model, optimizer, group):
        state = _Run(found["losses"], found["seconds"], found["step"], found["step"])
    forget_peak(group.device)
    start_bytes = holding(group.device)
    with limited(settings.room, group.device):
        bytes_held = _steps(settings, strategy, folder, group, model, optimizer, parts, state)
    most = peak_bytes(group.device)
    score = _accuracy(model, parts, settings, strategy, group)
    expected = predicted(shapes, strategy, group.world, group.rank)
    ranks = group.collected(
        {
            "rank": group.rank,
            "pid": os.getpid(),
            "held": bytes_held,
            "predicted": expected.to_dict(),
            "start_bytes": start_bytes,
            "peak_bytes": most,
        }
    )
    weights = checkpoints.full_weights(model)
    if group.rank:
        return {}
    write_model(folder / "model", weights, config, parts.extras)
    record = {
        "settings": asdict(settings) | {"strategy": strategy},
        "world": group.world,
        "backend": group.backend,
        "device": group.device.type,
        "threads": torch.get_num_threads(),
        "parameters": sum(math.prod(each) for each in shapes),
        "losses": state.losses,
        "seconds": state.seconds,
        "seconds_per_step": sorted(state.seconds)[len(state.seconds) // 2],
        "restored_from": state.restored_from,
        "accuracy": score,
        "ranks": ranks,
        "weights_sha256": _hash(weights),
        "versions": {"torch": torch.__version__},
    }
    checkpoints.write_json(folder / "record.json", record)
    return record


def _steps(
    settings: Training,
    strategy: str,
    folder: Path,
    group: Group,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Parts,
    state: _Run,
) -> dict[str, int] | None:
    """From ``state.step`` to the last step. Gives the bytes held, or None if no step was left to measure at."""
    measured = None
    while state.step < settings.steps:
        began = time.perf_counter()
        _fail_once(settings, folder, state.step, group)
        rows = step_rows(state.step, len(parts.train), settings.batch_size, settings.seed)
        for each in optimizer.param_groups:
            each["lr"] = settings.learning_rate * (1 - state.step / settings.steps)
        # Each process averages over its own rows, then DDP and FSDP take the mean over the processes. To weigh each
        # answer of the whole batch equally, sums are divided by all answers, and the processes' mean is undone.
        answers = parts.train.targets(rows)
        own = 0.0
        small = share(rows, group.rank, group.world, settings.accumulate)
        for number, chosen in enumerate(small):
            inputs, labels = parts.train.take(chosen, group.device)
            with small_batch(model, last=number == len(small) - 1):
                with _computing(settings, strategy, group):
                    output = model(**inputs)
                loss = loss_sum(output, labels)
                (loss * (group.world / answers)).backward()
            own += loss.item()
        optimizer.step()
        if measured is None:
            measured = held(model, optimizer).to_dict()
        optimizer.zero_grad(set_to_none=True)
        state.losses.append(group.total(own) / answers)
        state.seconds.append(time.perf_counter() - began)
        state.step += 1
        if group.rank == 0:
            print(f"step {state.step}/{settings.steps} loss {state.losses[-1]:.4f}", flush=True)
        if settings.save_every and (state.step % settings.save_every == 0 or state.step == settings.steps):
            progress = {"losses": state.losses, "seconds": state.seconds}
            checkpoints.save(folder / "checkpoints", state.step, model, optimizer, progress, group)
    return measured


@torch.no_grad()
def _accuracy(
    model: nn.Module, parts: Parts, settings: Training, strategy: str, group: Group
) -> dict[str, float] | None:
    """On the held-out rows: of the model, and of always giving the most frequent label of the training rows."""
    if parts.test is None or not len(parts.test):
        return None
    model.eval()
    size = max(1, settings.batch_size // (group.world * settings.accumulate))
    right = 0
    # FSDP's forward is a meeting: each process must come as often as the others, if with no rows of its own.
    for start in range(0, len(parts.test), size * group.world):
        chosen = list(range(start, min(start + size * group.world, len(parts.test))))[
            group.rank :: group.world
        ]
        inputs, labels = parts.test.take(chosen or [0], group.device)
        with _computing(settings, strategy, group):
            output = model(**inputs)
        logits = output if isinstance(output, torch.Tensor) else output.logits
        right += int((logits.argmax(-1) == labels).sum()) if chosen else 0
    model.train()
    common = parts.train.labels.mode().values
    return {
        "model": group.total(right) / len(parts.test),
        "majority": float((parts.test.labels == common).float().mean()),
        "n": len(parts.test),
    }


def _computing(settings: Training, strategy: str, group: Group) -> contextlib.AbstractContextManager:
    if settings.precision == "bf16" and strategy != "fsdp":  # FSDP's own policy casts already
        return torch.autocast(group.device.type, torch.bfloat16)
    return contextlib.nullcontext()


def _same_run(settings: Training, folder: Path, group: Group) -> None:
    """Keep the settings beside the checkpoints; refuse to go on with others."""
    file = folder / "settings.json"
    mine = {name: value for name, value in asdict(settings).items() if name not in FREE}
    others = None
    if group.rank == 0 and file.is_file():
        others = json.loads(file.read_text(encoding="utf-8"))
    elif group.rank == 0:
        checkpoints.write_json(file, mine)
    others = group.told(others)
    if others is not None and others != mine:
        changed = ", ".join(name for name in mine if mine[name] != others.get(name))
        raise TrainingError(
            f"{folder} holds a run with other settings: {changed}.",
            fix="choose another --folder, or remove that one to start anew",
        )


def _fail_once(settings: Training, folder: Path, step: int, group: Group) -> None:
    if step != settings.fail_at or group.rank != group.world - 1:
        return
    with contextlib.suppress(FileExistsError), (folder / f"failed-at-{step}").open("x") as mark:
        mark.write(str(os.getpid()))
        mark.flush()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def _hash(weights: dict[str, torch.Tensor]) -> str:
    """sha256 over all names and bytes."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def main(
    folder: Annotated[Path | None, typer.Option(help="Where the run is kept.")] = None,
    settings: Annotated[Path | None, typer.Option(help="Another settings file.")] = None,
    model: str | None = None,
    strategy: Annotated[str | None, typer.Option(help="auto, single, ddp or fsdp.")] = None,
    train_rows: int | None = None,
    test_rows: int | None = None,
    length: int | None = None,
    batch_size: Annotated[int | None, typer.Option(help="Effective: of all processes together.")] = None,
    accumulate: int | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing/--no-gradient-checkpointing")
    ] = None,
    compile_layers: Annotated[bool | None, typer.Option("--compile/--no-compile")] = None,
    save_every: int | None = None,
    fail_at: Annotated[int | None, typer.Option(help="Rehearsal: die before this step, once.")] = None,
    seed: int | None = None,
    room: Annotated[int | None, typer.Option(help="Bytes for all but the weights; 0: no limit.")] = None,
    timeout: float | None = None,
) -> None:
    """Train a model with one process or several; go on where it was, if it was interrupted."""
    file = settings or ""
    chosen = read(
        "training",
        Training,
        file,
        model=model,
        strategy=strategy,
        train_rows=train_rows,
        test_rows=test_rows,
        length=length,
        batch_size=batch_size,
        accumulate=accumulate,
        steps=steps,
        learning_rate=learning_rate,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        compile=compile_layers,
        save_every=save_every,
        fail_at=fail_at,
        seed=seed,
        room=room,
        timeout=timeout,
    )
    where = (folder or work_folder(file) / "training").resolve()
    first = os.environ.get("RANK", "0") == "0"
    # Before the processes meet, so that a second start is refused at once and not after a timeout.
    with only_one(where, "training") if first else contextlib.nullcontext(), join(chosen.timeout) as group:
        record = train(chosen, where, group)
        if group.rank == 0:
            print(f"{record['settings']['strategy']} x {group.world}: {where / 'record.json'}", flush=True)
    leave()


if __name__ == "__main__":
    run(main)
