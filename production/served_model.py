"""Which folder is served, under which version, with which adapters; refused before anything is started."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lessonkit.errors import ModelError
from production.records import file_hashes
from production.registry_files import PICKLED, weights_problem

__all__ = ["ServedModel", "find_model"]


@dataclass(frozen=True)
class ServedModel:
    """folder: what ``save_pretrained`` wrote. version: told in every answer. adapters: name -> PEFT folder."""

    folder: Path
    version: str
    adapters: dict[str, Path]


def find_model(
    model: str | Path = "", alias: str = "", work: str | Path = ".", adapters: str | Path = ""
) -> ServedModel:
    """The model in a folder, or the one that the registry in ``work`` holds under an alias.

    Raises ModelError where files are missing, where weights are pickled (unpickling runs whatever code they hold) or
    damaged, and where a file isn't what the run's ``run.json`` or the registry has a hash of.
    """
    if bool(model) == bool(alias):
        raise ModelError("Name one model.", fix="give either --model FOLDER or --alias champion")
    if alias:
        from production.registry import Registry

        found = Registry(work).resolve(alias)
        folder, version = Path(found.folder), str(found.version)
    else:
        folder = Path(model).expanduser().resolve()
        version = _version_of(folder)
    _check(folder, "config.json", "*.safetensors", "tokenizer*")
    _verify(folder)
    return ServedModel(folder, version, _adapters_in(adapters))


def _record_of(folder: Path) -> dict[str, Any]:
    """The ``run.json`` beside the model; empty where there is none."""
    try:
        found = json.loads((folder.parent / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _version_of(folder: Path) -> str:
    """A run's id where its ``run.json`` lies beside the model, else the folder's name."""
    return str(_record_of(folder).get("run_id", folder.name))


def _verify(folder: Path) -> None:
    """Compare each file with the hash that the run's record keeps, where there is such a record."""
    kept = _record_of(folder).get("files")
    if not isinstance(kept, dict) or not any(name.startswith(f"{folder.name}/") for name in kept):
        return
    found = file_hashes(folder.parent)
    wrong = [name for name in sorted({*kept, *found}) if kept.get(name) != found.get(name)]
    if wrong:
        raise ModelError(
            f"{folder} can't be served: {', '.join(wrong)} is not as the training left it.",
            why=f"SHA-256 differs from what {folder.parent / 'run.json'} holds",
            fix="bring the folder back from a backup, or train again",
        )


def _adapters_in(folder: str | Path) -> dict[str, Path]:
    if not folder:
        return {}
    folder = Path(folder).expanduser().resolve()
    found = {each.parent.name: each.parent for each in sorted(folder.glob("*/adapter_config.json"))}
    if not found:
        raise ModelError(
            f"There are no adapters in {folder}.",
            fix="it must hold a folder with adapter_config.json for each name",
        )
    for each in found.values():
        _check(each, "*.safetensors")
    return found


def _check(folder: Path, *patterns: str) -> None:
    if not folder.is_dir():
        raise ModelError(
            f"There is no folder {folder}.", fix="check the path; save_pretrained writes such a folder"
        )
    missing = [each for each in patterns if not any(folder.glob(each))]
    if not missing:
        for each in sorted(folder.glob("*.safetensors")):
            _check_weights(each)
        return
    pickled = [each.name for each in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pkl"))]
    raise ModelError(
        f"{folder} can't be served: it has no {', no '.join(missing)}.",
        why=f"{pickled[0]} is a pickle, which can run any code when it is loaded" if pickled else "",
        fix="save it by model.save_pretrained(folder) and tokenizer.save_pretrained(folder)",
    )


def _check_weights(file: Path) -> None:
    """Read the header only: a file of another kind, or one that was cut off, is refused."""
    with file.open("rb") as opened:
        pickled = opened.read(4).startswith(PICKLED)
    if pickled:
        why = "it is a pickle, whatever its name says, and a pickle can run any code when it is loaded"
    else:
        problem = weights_problem(file)
        if not problem:
            return
        why = f"it is no whole safetensors file: {problem}"
    raise ModelError(
        f"{file} can't be served.",
        why=why,
        fix="save it by model.save_pretrained(folder), which writes safetensors",
    )
