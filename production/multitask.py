"""Several tasks on one base: ``python -m production.multitask train | add TASK | ask TASK TEXT | list``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

import lessonkit
from lessonkit.errors import DataError, LessonError, UnknownNameError
from lessonkit.hardware import detect_hardware
from production.commands import only_one, run
from production.multitask_files import load_system, save_system, save_task
from production.multitask_model import NO_DROPOUT, MultiTask, Task, encode, lora_config
from production.multitask_training import Rows, draw, fit, predict
from production.settings import read, work_folder

__all__ = ["KNOWN", "Data", "Settings", "accuracy", "add", "fresh", "read_task", "train", "with_words"]

#: Where a task's texts and labels come from.
KNOWN = {
    "topic": "reuters-r8",  # what a Reuters wire is about, 8 topics
    "section": "bbc-news",  # in which of 5 sections the BBC ran an article
    "family": "20newsgroups",  # the first part of a newsgroup's name: comp, rec, sci, talk, soc, alt, misc
}
ACTIONS = {"train": 0, "add": 1, "ask": 2, "list": 0}  # the actions, and how many words each takes


@dataclass(frozen=True)
class Settings:
    """Section [multitask]. model: an asset of the course, a folder, or a name on the Hub.

    route: ``adapters`` (a frozen base, LoRA and a head a task) or ``shared`` (one encoder trained on all, a head a
    task). tasks: to begin with. train_texts, test_texts: of each task, at most. length: tokens of a text that are read.
    steps: of each task (``shared``: together so many). temperature: of the sampling (``shared``). learning_rate: of the
    shared encoder. adapter_rate: of adapters. rank: of LoRA.
    """

    model: str = "minilm"
    route: Literal["adapters", "shared"] = "adapters"
    tasks: tuple[str, ...] = ("topic", "section")
    train_texts: int = 960
    test_texts: int = 300
    length: int = 32
    steps: int = 40
    batch_size: int = 16
    temperature: float = 2.0
    learning_rate: float = 2e-4
    adapter_rate: float = 5e-3
    rank: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("train_texts", "test_texts", "length", "steps", "batch_size", "rank")
        wrong = [f"{name} must be at least 1" for name in counts if getattr(self, name) < 1]
        rates = ("temperature", "learning_rate", "adapter_rate")
        wrong += [f"{name} must be above 0" for name in rates if not getattr(self, name) > 0]
        wrong += [] if self.tasks else ["tasks names no task"]
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True)
class Data:
    """One task's rows; the test's are from the dataset's test part."""

    task: Task
    train: Rows
    test: Rows


def read_task(name: str, tokenizer: Any, train: int, test: int, length: int, seed: int = 0) -> Data:
    """train, test: so many texts at most, drawn by the seed. UnknownNameError for a task that is not in ``KNOWN``."""
    if name not in KNOWN:
        raise UnknownNameError("task", name, KNOWN)
    data = lessonkit.load_dataset(KNOWN[name])
    names = data["train"].features["label"].names
    if name == "family":
        names = [each.partition(".")[0] for each in names]
    labels = tuple(sorted(set(names)))
    parts = {}
    for part, count in (("train", train), ("test", test)):
        rows = data[part].shuffle(seed=seed)
        rows = rows.select(range(min(count, len(rows))))
        numbers = torch.tensor([labels.index(names[each]) for each in rows["label"]])
        texts = list(rows["text"])
        parts[part] = Rows(texts, encode(tokenizer, texts, length), {name: numbers})
    return Data(Task(name, labels=labels), parts["train"], parts["test"])


def with_words(data: Data, most: int = 300) -> tuple[Data, Task]:
    """The same rows with a second label, derived from them: how many words the *whole* text has, counted up to ``most``.

    Of a text that was cut the model doesn't see that; of a text shorter than ``length`` tokens it does. Without a limit
    the squares of a few very long texts would drown all others.
    """
    made = []
    for rows in (data.train, data.test):
        words = torch.tensor([float(min(len(each.split()), most)) for each in rows.texts])
        made.append(Rows(rows.texts, rows.ids, rows.labels | {"words": words}))
    words = made[0].labels["words"]
    task = Task("words", "number", mean=float(words.mean()), scale=float(words.std()), unit="words")
    return Data(data.task, *made), task


def fresh(model: str, length: int = 32, device: str = "cpu") -> MultiTask:
    """The base as it is, without any task. No dropout: then the same batches give the same numbers."""
    encoder = lessonkit.load_model(model, add_pooling_layer=False, **NO_DROPOUT)
    return MultiTask(encoder, lessonkit.load_tokenizer(model), length).to(device)


def accuracy(model: MultiTask, rows: Rows, name: str, bf16: bool = False) -> float:
    """The share of rows whose most probable class is the label."""
    return float((predict(model, rows, name, bf16=bf16).argmax(-1) == rows.labels[name]).float().mean())


# ---- The two commands -------------------------------------------------------------------------------


def train(settings: Settings, folder: str | Path) -> dict[str, float]:
    """Train the first tasks and save the system; gives each task's test accuracy."""
    folder, machine = Path(folder), detect_hardware()
    if folder.exists() and any(each for each in folder.iterdir() if not each.name.startswith(".")):
        raise DataError(
            f"{folder} holds a system already.",
            fix="add a task to it: python -m production.multitask add NAME; or name another --folder",
        )
    for name in settings.tasks:
        if name not in KNOWN:
            raise UnknownNameError("task", name, KNOWN)
    model = fresh(settings.model, settings.length, machine.device)
    data = {name: _read(name, model, settings) for name in settings.tasks}
    if settings.route == "adapters":
        for each in data.values():
            _fit_adapter(model, each, settings, machine.bf16)
    else:
        for each in data.values():
            model.add_task(each.task, seed=settings.seed)
        sources = {name: each.train for name, each in data.items()}
        sizes = {name: len(each) for name, each in sources.items()}
        schedule = draw(sizes, settings.steps * len(data), settings.temperature, settings.seed)
        fit(
            model, sources, schedule, learning_rate=settings.learning_rate,
            batch_size=settings.batch_size, seed=settings.seed, bf16=machine.bf16,
        )  # fmt: skip
    found = {name: accuracy(model, each.test, name, machine.bf16) for name, each in data.items()}
    save_system(model, folder)
    return found


def add(name: str, settings: Settings, folder: str | Path) -> dict[str, float]:
    """Add a task to a saved system: a new adapter and a new head; base and other tasks are not touched.

    Gives its test accuracy, the seconds of its training, and the bytes that it adds.
    """
    machine = detect_hardware()
    if name not in KNOWN:
        raise UnknownNameError("task", name, KNOWN)
    model = load_system(folder).to(machine.device)
    data = _read(name, model, settings)
    began = time.perf_counter()
    _fit_adapter(model, data, settings, machine.bf16)
    seconds = time.perf_counter() - began
    made = save_task(model, name, folder)
    return {
        "accuracy": accuracy(model, data.test, name, machine.bf16),
        "seconds": seconds,
        "bytes": sum(each.stat().st_size for each in made.iterdir()),
    }


def _read(name: str, model: MultiTask, settings: Settings) -> Data:
    counts = settings.train_texts, settings.test_texts
    return read_task(name, model.tokenizer, *counts, model.length, settings.seed)


def _fit_adapter(model: MultiTask, data: Data, settings: Settings, bf16: bool) -> None:
    name = data.task.name
    model.add_task(data.task, lora_config(settings.rank), settings.seed)
    fit(
        model, {name: data.train}, [name] * settings.steps, learning_rate=settings.adapter_rate,
        batch_size=settings.batch_size, seed=settings.seed, bf16=bf16,
    )  # fmt: skip


def _table(folder: Path) -> str:
    model = load_system(folder)
    lines = [f"{'task':<12}{'kind':<10}{'adapter':<9}labels"]
    for name, task in model.tasks.items():
        adapter = "own" if name in model.adapted else "none"
        lines.append(f"{name:<12}{task.kind:<10}{adapter:<9}{', '.join(task.labels) or task.unit}")
    return "\n".join(lines)


def _checked(action: str, words: Sequence[str]) -> None:
    if action not in ACTIONS:
        raise UnknownNameError("action", action, ACTIONS)
    if len(words) != ACTIONS[action]:
        raise LessonError(
            f"`{action}` takes {ACTIONS[action]} words after it, not {len(words)}.",
            fix='such as: train; add family; ask topic "oil rises again"; list (a text stands in quotes)',
        )


def main(
    action: Annotated[str, typer.Argument(help="train, add TASK, ask TASK TEXT, or list")],
    words: Annotated[list[str] | None, typer.Argument(help="add: a task; ask: a task and a text")] = None,
    settings: Annotated[str, typer.Option(help="another settings.toml")] = "",
    folder: Annotated[str, typer.Option(help="of the system; by default multitask/ in the work folder")] = "",
    route: Annotated[str | None, typer.Option(help="train: adapters or shared")] = None,
    temperature: Annotated[float | None, typer.Option(help="train --route shared: of the sampling")] = None,
    steps: Annotated[int | None, typer.Option(help="of each task")] = None,
) -> None:
    """Train several tasks on one base, add one, and ask any of them."""
    given = list(words or [])
    _checked(action, given)
    place = Path(folder).expanduser() if folder else work_folder(settings) / "multitask"
    if action == "list":
        typer.echo(_table(place))
    elif action == "ask":
        typer.echo(str(load_system(place).answer(given[1], given[0])))
    else:
        wanted = read("multitask", Settings, settings, route=route, temperature=temperature, steps=steps)
        with only_one(place.parent, f"training tasks for {place.name}"):
            found = train(wanted, place) if action == "train" else add(given[0], wanted, place)
        told = (f"{name} {value:,.3f}".removesuffix(".000") for name, value in found.items())
        typer.echo(f"{', '.join(told)}; in {place}")


if __name__ == "__main__":
    run(main)
