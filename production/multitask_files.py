"""A system of tasks as a folder of safetensors, and back.

    FOLDER/base/            the encoder and its tokenizer, as ``save_pretrained`` writes them
    FOLDER/tasks/NAME/      task.json and head.safetensors; with an adapter, PEFT's two files as well

A new task is a new folder under ``tasks``: nothing that was there is written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import lessonkit
from lessonkit.errors import DataError, ModelError, UnknownNameError
from lessonkit.quiet import quiet_transformers
from production.multitask_model import NO_DROPOUT, MultiTask, Task

__all__ = ["load_system", "save_system", "save_task", "sha256"]


def sha256(folder: str | Path) -> str:
    """Of all weights in a folder; a name of the very base that an adapter was trained on."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def save_system(model: MultiTask, folder: str | Path) -> Path:
    """Write base and tasks; they appear whole, or not at all. DataError if something is there already."""
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise DataError(
            f"{folder} is not empty.",
            why="a base that is written anew would break the adapters in it",
            fix="name another folder, or add a task to this one: python -m production.multitask add NAME",
        )
    half = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(half, ignore_errors=True)
    adapted = isinstance(model.encoder, PeftModel)
    encoder = model.encoder.get_base_model() if adapted else model.encoder
    weights = {_plain(name): each for name, each in encoder.state_dict().items() if "lora_" not in name}
    with quiet_transformers():
        encoder.save_pretrained(half / "base", state_dict=weights)
    model.tokenizer.save_pretrained(half / "base")
    for name in model.tasks:
        save_task(model, name, half)
    if folder.exists():
        folder.rmdir()  # it is empty
    os.replace(half, folder)
    return folder


def _plain(name: str) -> str:
    return name.replace(".base_layer.", ".")


def save_task(model: MultiTask, name: str, folder: str | Path) -> Path:
    """Add one task's files to a saved system; they appear whole, or not at all."""
    if name not in model.tasks:
        raise UnknownNameError("task", name, model.tasks)
    target = Path(folder) / "tasks" / name
    if target.exists():
        raise DataError(
            f"{target} is there already.", fix="choose another name for the task, or another folder"
        )
    half = target.with_name(f".{name}.{os.getpid()}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    told = asdict(model.tasks[name]) | {"length": model.length, "base_sha256": sha256(Path(folder) / "base")}
    (half / "task.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    head = {part: each.detach().cpu().contiguous() for part, each in model.heads[name].state_dict().items()}
    save_file(head, half / "head.safetensors")
    if name in model.adapted:
        adapter = get_peft_model_state_dict(model.encoder, adapter_name=name)
        save_file(
            {part: each.detach().cpu().contiguous() for part, each in adapter.items()},
            half / "adapter_model.safetensors",
        )
        config = model.encoder.peft_config[name]
        config.base_model_name_or_path = "base"
        config.save_pretrained(half)
    os.replace(half, target)
    return target


def load_system(folder: str | Path) -> MultiTask:
    """The system that ``save_system`` wrote, on the CPU, ready to answer. ModelError if files are missing or don't fit."""
    folder = Path(folder)
    found = sorted(folder.glob("tasks/[!.]*/task.json"))
    if not found or not (folder / "base").is_dir():
        raise ModelError(
            f"{folder} holds no system of tasks.",
            why="base/ or tasks/NAME/task.json is missing",
            fix="train one: python -m production.multitask train",
        )
    encoder = lessonkit.load_model(folder / "base", add_pooling_layer=False, **NO_DROPOUT)
    told = [json.loads(each.read_text(encoding="utf-8")) for each in found]
    model = MultiTask(encoder, lessonkit.load_tokenizer(folder / "base"), told[0]["length"])
    base = sha256(folder / "base")
    for place, facts in zip(found, told, strict=True):
        if facts.pop("base_sha256") != base:
            raise ModelError(
                f"The task {facts['name']} was trained on another base than {folder / 'base'}.",
                why="the base's weights have changed since; it would load, and give answers that nobody has tested",
                fix="bring that base back, or train the task anew on this one",
            )
        facts.pop("length")
        _load_task(model, Task(**facts | {"labels": tuple(facts["labels"])}), place.parent)
    return model.eval()


def _load_task(model: MultiTask, task: Task, folder: Path) -> None:
    model.add_task(task)
    model.heads[task.name].load_state_dict(load_file(folder / "head.safetensors"))
    if not (folder / "adapter_config.json").exists():
        return
    model.load_adapter(task.name, str(folder))
