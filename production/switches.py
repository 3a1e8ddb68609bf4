"""What each switch of the training script should cost in bytes and seconds, and what it does cost.

    python -m production.switches plan --limit 700        which settings fit into 700 MB, the fastest first
    python -m production.switches measure                 trains a few steps with each, and compares

The limit counts what a training holds for its tensors: weights, gradients, AdamW's states, activations.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lessonkit.errors import TrainingError
from production.commands import only_one, run
from production.processes import start
from production.settings import read, work_folder
from production.sharding import FLOAT
from production.train import Training

__all__ = ["Cost", "Switches", "choices", "fitting", "measure", "predict", "slowdown"]

#: A training step is a forward pass and a backward pass of twice its products; checkpointing repeats the forward pass.
FORWARD, BACKWARD = 1, 2
#: Lets the C library (glibc) give memory back as soon as it is freed. By default it keeps some for the next one who
#: asks, which is faster, and hides what tensors take: then the process shows hundreds of MB more.
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


@dataclass(frozen=True)
class Switches:
    """Four fields of ``Training`` that change what a step costs, and not (but for bf16) what it computes."""

    gradient_checkpointing: bool = False
    precision: str = "fp32"
    accumulate: int = 1
    compile: bool = False

    def __str__(self) -> str:
        parts = ["checkpointing"] if self.gradient_checkpointing else []
        parts += ["bf16"] if self.precision == "bf16" else []
        parts += [f"{self.accumulate} small batches"] if self.accumulate > 1 else []
        parts += ["compile"] if self.compile else []
        return " + ".join(parts) or "none"

    def words(self) -> list[str]:
        """As ``python -m production.train`` takes them."""
        words = ["--precision", self.precision, "--accumulate", str(self.accumulate)]
        words += [
            "--gradient-checkpointing" if self.gradient_checkpointing else "--no-gradient-checkpointing"
        ]
        return [*words, "--compile" if self.compile else "--no-compile"]


@dataclass(frozen=True)
class Cost:
    """bytes: of all tensors at the fullest moment of a step. seconds: of a step, None if unknown. phase: the fullest.

    weights: bytes of them. losses: of each step, first_seconds: of the first one; both measured only.
    """

    bytes: int
    weights: int
    seconds: float | None = None
    phase: str = ""
    losses: tuple[float, ...] = ()
    first_seconds: float | None = None


def predict(training: Training, switches: Switches, plain_seconds: float = 1.0, bf16: float = 1.0) -> Cost:
    """The cost of a step with these switches, without training: bytes by a step on fake tensors, seconds by counting.

    plain_seconds: of a step with no switch. bf16: ``slowdown()`` of this machine. Compilation's seconds can't be
    counted: None. Raises ModelError for a model whose configuration can't be read.
    """
    import lessonkit

    plan = lessonkit.predict_memory(
        _config(training.model),
        "full",
        batch_size=training.batch_size // switches.accumulate,
        sequence_length=training.length,
        gradient_accumulation_steps=switches.accumulate,
        mixed_precision=switches.precision == "bf16",
        gradient_checkpointing=switches.gradient_checkpointing,
        dtype="float32",
        optimizer="adamw",
        padding=training.model != "smollm2",  # its rows are cut to one length
    )
    passes = (FORWARD * (2 if switches.gradient_checkpointing else 1) + BACKWARD) / (FORWARD + BACKWARD)
    seconds = None if switches.compile else plain_seconds * passes
    if seconds is not None and switches.precision == "bf16":
        seconds *= bf16
    return Cost(plan.live_bytes, FLOAT * plan.total_parameters, seconds, plan.peak_phase)


def _config(name: str) -> Any:
    """As ``production.training_parts`` makes the model: no dropout, a label for each topic."""
    from lessonkit.memory import load_config

    config = copy.deepcopy(load_config(name))
    for each in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(config, each):
            setattr(config, each, 0.0)
    if name != "smollm2":
        config.architectures, config.num_labels = ["ForSequenceClassification"], 8
    return config


def slowdown(rows: int = 1024, width: int = 384, device: str = "cpu") -> float:
    """Seconds of a matrix product in bf16 autocast, casts included, over float32's: below 1 where bf16 is faster.

    rows, width: of the product (rows, width) x (width, 4 width). Best of three, so that a busy moment doesn't count.
    """
    import torch

    left, right = torch.randn(rows, width, device=device), torch.randn(width, 4 * width, device=device)

    def seconds(on: bool) -> float:
        found = []
        for _ in range(3):
            began = time.perf_counter()
            with torch.autocast(device, torch.bfloat16, enabled=on):
                (left @ right).sum().item()  # .item() waits for a GPU
            found.append(time.perf_counter() - began)
        return min(found)

    seconds(False)  # the first call of all makes threads and buffers
    return seconds(True) / seconds(False)


def choices(batch_size: int, compiled: bool = False) -> list[Switches]:
    """All combinations: checkpointing, precision, small batches (halves, quarters... as the batch divides), compile."""
    small = [each for each in (1, 2, 4, 8, 16) if batch_size % each == 0]
    options = itertools.product(
        (False, True), ("fp32", "bf16"), small, (False, True) if compiled else (False,)
    )
    return [Switches(*each) for each in options]


def fitting(costs: dict[Switches, Cost], limit: int) -> list[Switches]:
    """Those within ``limit`` bytes, the fastest first; among equally fast ones the one with fewest small batches.

    Of equal speed and parts, the one with more room to spare. Raises TrainingError, naming the smallest, if none fits.
    """
    fit = [each for each, cost in costs.items() if cost.bytes <= limit]
    if not fit:
        least = min(costs, key=lambda each: costs[each].bytes)
        raise TrainingError(
            f"No switches make this training fit into {limit / 1e6:.0f} MB.",
            why=f"the least is {costs[least].bytes / 1e6:.0f} MB, with {least}: weights, gradients and states remain",
            fix="a shorter length, LoRA, or FSDP over several devices",
        )
    never = float("inf")
    return sorted(
        fit,
        key=lambda each: (
            round(never if costs[each].seconds is None else costs[each].seconds, 6),
            each.accumulate,
            costs[each].bytes,
        ),
    )


def measure(
    training: Training,
    switches: Switches,
    folder: str | Path,
    room: int = 0,
    env: dict[str, str] | None = None,
) -> Cost:
    """Train ``training.steps`` steps with these switches in a process of its own: what it took.

    room: bytes beyond the weights that it may take; 0: no limit. env: for the process, on top of GIVING_BACK.
    Raises TrainingError with the process's last words if it fails. The seconds are the median over the steps; the
    first one, which makes AdamW's states and compiles, stands apart.
    """
    folder = Path(folder)
    given = {**asdict(training), **asdict(switches), "strategy": "single", "save_every": 0}
    names = ("model", "train_rows", "length", "batch_size", "steps", "learning_rate", "seed")
    words = [word for name in names for word in (f"--{name.replace('_', '-')}", str(given[name]))]
    words += ["--strategy", "single", "--save-every", "0", "--room", str(room), *switches.words()]
    command = ["python", "-m", "production.train", "--folder", str(folder), *words]
    here = Path(__file__).resolve().parents[1]
    paths = {"PYTHONPATH": str(here), "TOKENIZERS_PARALLELISM": "false"}
    with start(
        command, folder.with_suffix(".log"), env={**paths, **GIVING_BACK, **(env or {})}, folder=here
    ) as process:
        if process.wait(1800):
            raise TrainingError(f"A training with the switches {switches} failed.", why=process.tail(6))
    return _measured(json.loads((folder / "record.json").read_text(encoding="utf-8")))


def _measured(record: dict[str, Any]) -> Cost:
    own = record["ranks"][0]
    seconds = sorted(record["seconds"][1:] or record["seconds"])
    return Cost(
        bytes=own["peak_bytes"] - own["start_bytes"] + own["held"]["parameters"],
        weights=own["held"]["parameters"],
        seconds=seconds[len(seconds) // 2],
        losses=tuple(record["losses"]),
        first_seconds=record["seconds"][0],
    )


def main(
    action: Annotated[str, typer.Argument(help="plan or measure")] = "plan",
    limit: Annotated[float, typer.Option(help="plan: MB for all tensors.")] = 0.0,
    folder: Annotated[Path | None, typer.Option(help="measure: where the runs are kept.")] = None,
    steps: Annotated[int, typer.Option(help="measure: of each run.")] = 4,
    settings: Annotated[Path | None, typer.Option(help="Another settings file.")] = None,
) -> None:
    """Tell what the switches of [training] should cost, or measure it."""
    file = settings or ""
    training = replace(read("training", Training, file), steps=steps)
    if action == "plan":
        import torch

        bf16 = slowdown(device="cuda" if torch.cuda.is_available() else "cpu")
        costs = {each: predict(training, each, bf16=bf16) for each in choices(training.batch_size)}
        shown = (
            fitting(costs, int(limit * 1e6))
            if limit
            else fitting(costs, max(c.bytes for c in costs.values()))
        )
        typer.echo(
            f"{training.model}, batch {training.batch_size} x {training.length} tokens; seconds: no switch = 1"
        )
        for each in shown:
            typer.echo(f"{costs[each].bytes / 1e6:8.0f} MB  {costs[each].seconds:6.2f} s  {each}")
    elif action == "measure":
        where = (folder or work_folder(file) / "switches").resolve()
        with only_one(where, "measuring"):
            for number, each in enumerate((Switches(), Switches(True), Switches(accumulate=4))):
                told, cost = predict(training, each), measure(training, each, where / str(number))
                typer.echo(
                    f"{each!s:20} {told.bytes / 1e6:6.0f} MB told, {cost.bytes / 1e6:6.0f} MB; {cost.seconds:.2f} s"
                )
    else:
        raise TrainingError(f"{action!r} is unknown.", fix="type plan or measure")


if __name__ == "__main__":
    run(main)
