"""An adapter on disk: a folder with `adapter.safetensors` and a readable `adapter_config.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.errors import ModelError

if TYPE_CHECKING:
    import torch

__all__ = ["CONFIG", "WEIGHTS", "read_adapter", "write_adapter"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter.safetensors"
FORMAT = 1


def write_adapter(folder: str | Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """Write both files, each renamed into place when it is whole; returns the folder.

    Raises ModelError if the folder holds another adapter or cannot be written.
    """
    from safetensors.torch import save

    target = Path(folder).expanduser()
    _check_free(target, config["name"])
    whole = {WEIGHTS: save(tensors, {"format": "pt"}), CONFIG: _to_json({"format": FORMAT} | config)}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, content in whole.items():
            unfinished = target / f"{name}.{os.getpid()}.tmp"
            try:
                unfinished.write_bytes(content)
                unfinished.replace(target / name)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(
            f"The adapter could not be saved in {target}.",
            why=str(error),
            fix="pass a folder that you may write to, on a disk with free space",
        ) from error
    return target


def read_adapter(folder: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """``(config, tensors)`` as `write_adapter` was given them; the tensors are on the CPU.

    Raises ModelError if a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    source = Path(folder).expanduser()
    missing = [name for name in (CONFIG, WEIGHTS) if not (source / name).is_file()]
    if missing:
        raise ModelError(
            f"{source} holds no adapter: {' and '.join(missing)} not found.",
            fix="pass the folder that save_adapter(model, folder, name) wrote",
        )
    damaged = f"The adapter in {source} could not be read."
    again = "save the adapter again, or copy the folder again from where it is whole"
    try:
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError) as error:
        raise ModelError(damaged, why=f"{CONFIG}: {error}", fix=again) from error
    if config.pop("format", None) != FORMAT:
        raise ModelError(
            damaged,
            why=f'{CONFIG} does not say "format": {FORMAT}, so another program or version wrote it',
            fix="load it with the program that saved it (PEFT's adapters: PeftModel.from_pretrained)",
        )
    try:
        return config, load((source / WEIGHTS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise ModelError(damaged, why=f"{WEIGHTS}: {error}", fix=again) from error


def _to_json(config: dict[str, Any]) -> bytes:
    return (json.dumps(config, indent=2) + "\n").encode()


def _check_free(folder: Path, name: str) -> None:
    """Raises ModelError rather than write over an adapter of another name, or of PEFT."""
    path = folder / CONFIG
    if not path.is_file():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError, AttributeError):
        return  # damaged: nothing to lose
    if there != name:
        raise ModelError(
            f"{folder} already holds {f'the adapter {there!r}' if there else 'an adapter of another program'}.",
            fix=f'give each adapter its own folder, such as save_adapter(model, "{folder}-{name}", "{name}")',
        )
