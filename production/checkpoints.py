"""Checkpoints of a training that may be killed at any moment, written by all its processes together.

Each process writes its shard (``torch.distributed.checkpoint``) into a folder named ``step-000010.partial``. Only when
all are done does rank 0 rename it: a folder without ``.partial`` is whole. The files don't depend on the number of
processes or on the strategy; a run that was saved by two may go on with one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from lessonkit.errors import TrainingError
from production.group import Group

__all__ = ["full_weights", "latest", "restore", "save", "write_json"]

KEPT = 2


def save(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict, group: Group
) -> Path:
    """Write the state after so many steps. progress: what else is needed to go on, as JSON. All processes call it."""
    whole = folder / f"step-{step:06d}"
    partial = whole.with_suffix(".partial")
    if group.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed while it saved
        partial.mkdir(parents=True)
    group.wait()
    weights, states = get_state_dict(model, optimizer)
    with _quiet():
        dcp.save(
            {"model": weights, "optimizer": states}, checkpoint_id=str(partial), no_dist=not group.launched
        )
    if group.rank == 0:
        write_json(partial / "progress.json", progress | {"step": step})
        if whole.exists():
            shutil.rmtree(whole)
        os.replace(partial, whole)
        for old in _whole(folder)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    group.wait()
    return whole


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one."""
    return (_whole(folder) or [None])[-1]


def restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group
) -> dict[str, Any] | None:
    """Load the newest whole checkpoint into model and optimiser; its progress, or None where there is none.

    Rank 0 chooses and tells the others: two machines could see different folders for a moment.
    Raises TrainingError for one that is damaged, or of another model.
    """
    newest = group.told(str(found) if group.rank == 0 and (found := latest(folder)) else None)
    if newest is None:
        return None
    weights, states = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": states}
    try:
        with _quiet():
            dcp.load(state, checkpoint_id=newest, no_dist=not group.launched)
        told = json.loads((Path(newest) / "progress.json").read_text("utf-8")) if group.rank == 0 else None
    except (CheckpointException, OSError, ValueError, RuntimeError, EOFError) as error:
        raise TrainingError(
            f"The checkpoint {newest} can't be loaded.",
            why=(str(error).strip().splitlines() or [type(error).__name__])[-1],
            fix="remove that folder; the run then goes on from the one before it, or from the start",
        ) from error
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return group.told(told)


def full_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Whole weights by their plain names, on the CPU of rank 0; elsewhere empty. All processes call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


def write_json(file: Path, content: Any) -> None:
    """Write it so that the file is never half there."""
    new = file.with_suffix(file.suffix + ".new")
    with new.open("w", encoding="utf-8") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    os.replace(new, file)


def _whole(folder: Path) -> list[Path]:
    return sorted(each for each in folder.glob("step-*") if each.is_dir() and not each.suffix)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch warns whenever one process saves alone, even if told so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
