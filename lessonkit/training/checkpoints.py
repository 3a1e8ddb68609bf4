"""Which checkpoints a training left, which of them are whole, and whether they belong to this training.

The checkpoints are the Trainer's own. A marker file beside its files says when it was complete, and of
which training it is; it is written last and renamed into place, so a checkpoint that a kill cut short has
none that says complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.errors import TrainingError

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = [
    "Checkpoint",
    "differences",
    "fingerprint",
    "mark_begun",
    "mark_complete",
    "newest_checkpoint",
    "remove_safety_checkpoints",
    "resume_point",
    "safety_checkpoints",
]

MARKER = "lessonkit.json"
STATE = "trainer_state.json"  # what the Trainer writes last
NEEDED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
NAME = re.compile(r"checkpoint-(\d+)")
ROWS_COMPARED = 64


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. marker: what this package noted beside it; empty if the Trainer made it alone."""

    folder: Path
    step: int
    max_steps: int
    written: float
    marker: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the training was at its end here."""
        return self.step >= self.max_steps


def resume_point(trainer: Trainer) -> Checkpoint | None:
    """The newest complete checkpoint in the Trainer's output_dir; None if there is none.

    Raises TrainingError if it belongs to a different training; says what differs.
    """
    found = newest_checkpoint(Path(trainer.args.output_dir))
    if found is None:
        return None
    different = differences(found, trainer)
    if different:
        raise TrainingError(
            f"{found.folder} is the checkpoint of a different training.",
            why="; ".join(different),
            fix="set these back as they were and run again; or start anew with lessonkit.run(trainer), best with "
            "another output_dir",
        )
    return found


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The complete checkpoint that was written last; half-written ones are passed over."""
    found = [read for each in _folders(folder) if (read := _read(each)) is not None]
    return max(found, key=lambda each: (each.written, each.step), default=None)


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (each for each in sorted(folder.iterdir()) if NAME.fullmatch(each.name) and each.is_dir())


def _read(folder: Path) -> Checkpoint | None:
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        step, max_steps = int(state["global_step"]), int(state["max_steps"])
        written = (folder / STATE).stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return None
    marker = _marker(folder)
    if marker is None:
        return Checkpoint(folder, step, max_steps, written, {}) if _looks_whole(folder) else None
    if not marker.get("complete") or _sizes(folder, marker.get("files", {})) != marker.get("files"):
        return None
    return Checkpoint(folder, step, max_steps, float(marker.get("written", written)), marker)


def _marker(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / MARKER).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return {}  # there, but unreadable: not complete


def _looks_whole(folder: Path) -> bool:
    """Without a marker: every file that going on needs is there and not cut short."""
    if not all(
        zipfile.is_zipfile(folder / name) for name in NEEDED
    ):  # torch saves zip files, their index last
        return False
    weights = list(folder.rglob("*.safetensors"))
    return bool(weights) and all(map(_safetensors_whole, weights))


def _safetensors_whole(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True  # opening compares the header with the file's length
    except (OSError, SafetensorError):
        return False


def _sizes(folder: Path, names: Any) -> dict[str, int]:
    sizes = {}
    for name in names:
        with contextlib.suppress(OSError):
            sizes[name] = (folder / name).stat().st_size
    return sizes


# ---- Of which training ------------------------------------------------------------------------------


def fingerprint(trainer: Trainer) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on from, by the name a learner knows it under."""
    args, model, dataset = trainer.args, trainer.model, trainer.train_dataset
    parameters = [(each.numel(), each.requires_grad) for each in model.parameters()]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    devices = max(1, args.world_size) * max(1, args.n_gpu)
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * devices
    return {
        "model": type(base).__name__,
        "parameters": sum(size for size, _ in parameters),
        "trained parameters": sum(size for size, trained in parameters if trained),
        "rows": len(dataset) if hasattr(dataset, "__len__") else None,
        "data": _data_digest(dataset),
        "effective batch": per_step,
        "num_train_epochs": float(args.num_train_epochs),
        "max_steps": args.max_steps,
        "learning_rate": float(args.learning_rate),
        "lr_scheduler_type": _plain(args.lr_scheduler_type),
        "optim": _plain(args.optim),
        "train_sampling_strategy": _plain(getattr(args, "train_sampling_strategy", None)),
        "seed": args.seed,
        "data_seed": args.data_seed,
    }


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _data_digest(dataset: Any) -> str | None:
    """A digest of rows spread over a ``datasets.Dataset``; None for other data, whose rows may be random.

    Not the dataset's own fingerprint: that one changes between processes where a ``map`` function cannot
    be hashed, although the rows are the same.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset) or not len(dataset):
        return None
    step = max(1, len(dataset) // ROWS_COMPARED)
    rows = dataset.with_format("arrow")[list(range(0, len(dataset), step))[:ROWS_COMPARED]]
    text = repr(sorted(rows.to_pydict().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(found: Checkpoint, trainer: Trainer) -> list[str]:
    """What this training and the checkpoint's disagree on, in words; empty if they may be one training."""
    if not found.marker:
        return _unmarked_differences(found, trainer)
    now, then = fingerprint(trainer), found.marker.get("fingerprint", {})
    names = [name for name in now if name in then and now[name] != then[name]]
    if "data" in names and "rows" in names:
        names.remove("data")  # said once is enough
    return [
        "the rows of train_dataset are others"
        if name == "data"
        else f"{name} was {_shown(then[name])} and is {_shown(now[name])}"
        for name in names
    ]


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def _unmarked_differences(found: Checkpoint, trainer: Trainer) -> list[str]:
    """For a checkpoint that the Trainer made alone: the shapes of the weights, and the steps if they are set."""
    wanted = trainer.args.max_steps
    different = []
    if wanted > 0 and found.max_steps != wanted:
        different.append(f"max_steps was {found.max_steps} and is {wanted}")
    weights = found.folder / "model.safetensors"
    if weights.is_file():
        from safetensors import safe_open

        own = {name: list(value.shape) for name, value in trainer.model.state_dict().items()}
        with safe_open(weights, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        unlike = [name for name, shape in shapes.items() if own.get(name) != shape]
        if unlike:
            different.append(
                f"its weight {unlike[0]} has the shape {shapes[unlike[0]]}, not {own.get(unlike[0])}"
            )
    return different


# ---- Markers ----------------------------------------------------------------------------------------


def mark_begun(folder: Path, *, safety: bool) -> None:
    """Note that a checkpoint is about to be written here; until ``mark_complete`` it counts as half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, {"complete": False, "safety": safety})


def mark_complete(folder: Path, *, safety: bool, **about: Any) -> None:
    """Note that all files are there, with their sizes. safety: the learner did not ask for it."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(MARKER)
    }
    _write(folder, {"complete": True, "safety": safety, "written": time.time(), "files": files, **about})


def _write(folder: Path, marker: dict[str, Any]) -> None:
    beside = folder / f"{MARKER}.{os.getpid()}"
    beside.write_text(json.dumps(marker, indent=1), encoding="utf-8")
    os.replace(beside, folder / MARKER)


def safety_checkpoints(folder: Path) -> list[Path]:
    """Those that this package wrote unasked, complete or not."""
    return [each for each in _folders(folder) if (_marker(each) or {}).get("safety")]


def remove_safety_checkpoints(folder: Path, *, keep: Path | None = None) -> None:
    """Delete them all, except one. What cannot be deleted stays: it is in no one's way."""
    for each in safety_checkpoints(folder):
        if each != keep:
            # First the marker's word, so that a deletion cut short leaves no checkpoint that looks complete.
            with contextlib.suppress(OSError):
                _write(each, {"complete": False, "safety": True})
            shutil.rmtree(each, ignore_errors=True)
