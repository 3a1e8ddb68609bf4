"""One training of a topic classifier, from its settings alone, so that it can be made again."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import lessonkit
from lessonkit import data as course_data
from lessonkit import models as course_models
from lessonkit.errors import DataError, LessonkitError, TrainingError
from lessonkit.quiet import quiet_transformers
from lessonkit.training import arguments as course_arguments
from production import records
from production.commands import only_one
from production.trackers import tracked

__all__ = ["Data", "Tracking", "data_facts", "read_data", "train"]

DATA_SEED = 0  # which texts are drawn; apart from `seed`, so that another seed trains on the same ones
PARTS = ("train", "validation")


@dataclass(frozen=True)
class Tracking:
    """Section [tracking]. model: an asset of the course, a folder, or a name on the Hub.

    data: a dataset of the course, or a CSV file with the columns text and label. train_texts, validation_texts: so
    many, in this order. max_length: tokens of a text that are read. warmup: share of the steps. threads: of torch, 0
    for as many as suit this machine. eval_every: steps between evaluations. full_determinism: refuse operations
    without a deterministic form (for GPUs; slower).
    """

    model: str = "minilm"
    data: str = "reuters-r8"
    train_texts: int = 640
    validation_texts: int = 200
    max_length: int = 40
    steps: int = 60
    batch_size: int = 16
    learning_rate: float = 2e-4
    warmup: float = 0.1
    seed: int = 0
    threads: int = 0
    eval_every: int = 20
    precision: Literal["float32", "bfloat16"] = "float32"
    full_determinism: bool = False

    def __post_init__(self) -> None:
        counts = ("train_texts", "validation_texts", "max_length", "steps", "batch_size", "eval_every")
        wrong = [f"{name} must be at least 1" for name in counts if getattr(self, name) < 1]
        wrong += ["learning_rate must be above 0"] if self.learning_rate <= 0 else []
        wrong += ["warmup must lie from 0 to 1"] if not 0 <= self.warmup < 1 else []
        wrong += ["threads must be at least 0"] if self.threads < 0 else []
        if not 0 <= self.seed < 2**32:
            wrong.append("seed must lie between 0 and 2**32 - 1")
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True)
class Data:
    """parts: (text, label name) rows of ``train`` and ``validation``. names: of all labels, sorted, drawn or not."""

    parts: dict[str, list[tuple[str, str]]]
    names: list[str]


def read_data(settings: Tracking) -> Data:
    """The texts that the settings ask for. DataError if there are too few of them.

    The test part stays untouched: who chooses among runs by it has no test any more.
    """
    wanted = settings.train_texts + settings.validation_texts
    if settings.data.endswith(".csv"):
        rows = records.read_rows(Path(settings.data))
        names = sorted({label for _, label in rows})
    else:
        split = lessonkit.load_dataset(settings.data)["train"]
        names = split.features["label"].names
        split = split.shuffle(seed=DATA_SEED).select(range(min(wanted, len(split))))
        rows = [(row["text"], names[row["label"]]) for row in split]
    if len(rows) < wanted:
        raise DataError(
            f"{settings.data} has {len(rows):,} texts, {wanted:,} are asked for.",
            fix="lower train_texts or validation_texts in [tracking]",
        )
    cut = settings.train_texts
    return Data({"train": rows[:cut], "validation": rows[cut:wanted]}, names)


def data_facts(settings: Tracking, data: Data) -> dict[str, Any]:
    """What the record says of the data: its name, sha256 (of all rows, of each part), numbers of texts, labels."""
    parts = data.parts
    return {
        "name": settings.data,
        "sha256": records.rows_sha256(row for part in PARTS for row in parts[part]),
        "parts": {part: records.rows_sha256(parts[part]) for part in PARTS},
        **{f"{part}_texts": len(parts[part]) for part in PARTS},
        "labels": data.names,
    }


def train(work: str | Path, settings: Tracking, *, repeats: str = "") -> Path:
    """Train once; W&B and MLflow log it; gives the folder ``WORK/runs/RUN_ID`` with ``model/`` and ``run.json``.

    repeats: the id of the run that this one repeats. Raises LessonError while another training runs in ``work``,
    DataError for data that does not fit, TrainingError where the run can't be kept (a full disk, say).
    """
    work = Path(work).resolve()
    with only_one(work, "training"):
        data = read_data(settings)
        run_id = records.new_run_id()
        folder = work / "runs" / run_id
        with _told(folder):
            folder.mkdir(parents=True)
            with _threads(settings.threads) as threads:
                settings = dataclasses.replace(settings, threads=threads)
                record = _facts(run_id, settings, data, repeats)
                with tracked(work, run_id, record) as keep:
                    found = _train(folder, settings, data)
                    keep(records.write_run(folder, {**record, **found}))
    return folder


def _facts(run_id: str, settings: Tracking, data: Data, repeats: str) -> dict[str, Any]:
    """All that is known before the training. The seed stands beside the other settings."""
    modules = (records, course_arguments, course_data, course_models)
    files = [Path(each.__file__) for each in modules] + [Path(__file__)]
    machine = lessonkit.detect_hardware()
    plain = asdict(settings)
    return {
        "run_id": run_id,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "kind": "repeat" if repeats else "train",
        "repeats": repeats,
        "data": data_facts(settings, data),
        "code": records.code_state(files, lessonkit.__version__),
        "seed": plain.pop("seed"),
        "hardware": {
            "device": machine.device,
            "device_name": machine.device_name,
            "cpu": machine.cpu_name,
            "cpu_features": list(machine.cpu_features),
            "cores": machine.cpu_cores,
            "attention": machine.attention,
        },
        "versions": records.versions(),
        "settings": plain,
    }


def _train(folder: Path, settings: Tracking, data: Data) -> dict[str, Any]:
    """The training itself, with a plain Trainer. Gives the metrics and each step's loss."""
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    tokenizer = lessonkit.load_tokenizer(settings.model)
    names, number = data.names, {name: each for each, name in enumerate(data.names)}
    datasets = {
        part: _encoded(tokenizer, rows, number, settings.max_length) for part, rows in data.parts.items()
    }
    set_seed(settings.seed)  # before the model: its fresh head is drawn, too
    model = lessonkit.load_model(
        settings.model,
        AutoModelForSequenceClassification,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id=number,
        attn_implementation=lessonkit.detect_hardware().attention,
    )
    machine = dict(lessonkit.training_arguments())
    for name in (
        "bf16",
        "fp16",
        "tf32",
    ):  # the precision is a setting here: a repetition elsewhere needs the same
        machine.pop(name, None)
    machine |= {"train_sampling_strategy": "random", "report_to": ["wandb", "mlflow"]}
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        run_name=folder.name,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=32,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=settings.eval_every,
        save_strategy="no",
        bf16=settings.precision == "bfloat16",
        seed=settings.seed,
        full_determinism=settings.full_determinism,
        disable_tqdm=True,
        **machine,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=datasets["train"],
        eval_dataset=datasets["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_accuracy,
    )
    trainer.remove_callback(PrinterCallback)  # the trackers keep these lines
    with lessonkit.measure(lessonkit.detect_hardware().device) as measured:
        done = trainer.train()
        scores = trainer.evaluate()
        log = trainer.state.log_history
        measured.steps, measured.loss = done.global_step, done.training_loss
        measured.losses = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
        measured.history = list(log)
    with quiet_transformers():
        trainer.model.save_pretrained(folder / records.MODEL)
        tokenizer.save_pretrained(folder / records.MODEL)
    with contextlib.suppress(OSError):
        (folder / "trainer").rmdir()  # it holds nothing: no checkpoints were asked for
    labels = [label for _, label in data.parts["validation"]]
    return {
        "metrics": {
            "eval_loss": scores["eval_loss"],
            "eval_accuracy": scores["eval_accuracy"],
            "majority_accuracy": max(labels.count(name) for name in names) / len(labels),
            "train_loss": done.training_loss,
        },
        "losses": [list(pair) for pair in measured.losses],
        "seconds": round(measured.seconds, 2),
    }


def _encoded(tokenizer: Any, rows: list[tuple[str, str]], number: dict[str, int], max_length: int) -> Any:
    from datasets import Dataset

    encoded = tokenizer([text for text, _ in rows], truncation=True, max_length=max_length)
    columns = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    return Dataset.from_dict(columns | {"labels": [number[label] for _, label in rows]})


def _accuracy(answers: Any) -> dict[str, float]:
    return {"accuracy": float((answers.predictions.argmax(-1) == answers.label_ids).mean())}


@contextlib.contextmanager
def _threads(wanted: int) -> Iterator[int]:
    """So many threads inside the ``with``: sums are split among them, so another number rounds otherwise."""
    import torch

    before = torch.get_num_threads()
    count = wanted or lessonkit.detect_hardware().threads
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What keeps a run from being kept, in a few lines; the folder stays without a record, and is no run."""
    from safetensors import SafetensorError

    try:
        yield
    except LessonkitError:
        raise
    except (OSError, SafetensorError) as error:
        if (folder / records.RUN_FILE).exists():  # the run is whole; a tracker failed after it
            raise
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        raise TrainingError(
            f"The run {folder.name} can't be kept: {'the disk is full' if full else error}.",
            why="the record is written last, so this folder has none and is not taken for a run",
            fix=f"{'make room' if full else 'mend that'}, delete {folder}, and train again",
        ) from error
