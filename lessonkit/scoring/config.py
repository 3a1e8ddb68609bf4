"""What to evaluate: a model, a dataset, and how; from a TOML or YAML file, from options, or both."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lessonkit.errors import DataError, nearest

__all__ = ["EvaluationConfig", "read_config"]


@dataclass(frozen=True)
class EvaluationConfig:
    """One evaluation.

    model: a folder that ``save_pretrained`` wrote (a whole model, or a PEFT adapter), or a name that ``load_model`` takes.
    data: a file or folder of labelled texts, or the name of a dataset of this course. split: of such a dataset.
    text, label: the file's columns, found out if "". output: the folder to write to.
    base: the base model of a PEFT adapter, where it is not where the adapter says; "" otherwise.
    slices: columns of the file whose values are scored each on its own, besides label and length.
    batch_size: texts at a time. max_length: tokens kept of a text, 0 for the model's own limit. limit: texts scored, 0
    for all; the first ones are taken. seed: of the bootstrap.
    """

    model: str
    data: str
    split: str = "test"
    text: str = ""
    label: str = ""
    output: str = "outputs/evaluation"
    base: str = ""
    slices: tuple[str, ...] = ()
    batch_size: int = 32
    max_length: int = 0
    limit: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        for name in ("batch_size", "max_length", "limit", "seed"):
            value, least = getattr(self, name), 1 if name == "batch_size" else 0
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                problems.append(f"{name} is {value!r}, not a whole number of at least {least}")
        for name in ("model", "data"):
            if not str(getattr(self, name)).strip():
                problems.append(f"{name} is empty")
        if problems:
            raise DataError(
                "The evaluation can't be set up: " + "; ".join(problems) + ".",
                fix="mend that and start again",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"slices": list(self.slices)}


def read_config(path: str | Path = "", **options: Any) -> EvaluationConfig:
    """An EvaluationConfig from a ``.toml`` or ``.yaml`` file; options that are not None go before what the file says.

    Paths in the file count from its own folder. Raises DataError for a file that can't be read, and for unknown names, all
    at once, each with the nearest known one.
    """
    given: dict[str, Any] = {}
    if path:
        given = _read(Path(path).expanduser())
    given |= {name: value for name, value in options.items() if value is not None}
    known = [each.name for each in fields(EvaluationConfig)]
    unknown = [name for name in given if name not in known]
    if unknown:
        told = [
            f"{name!r}" + (f" (did you mean {guess[0]!r}?)" if (guess := nearest(name, known)) else "")
            for name in unknown
        ]
        raise DataError(
            f"Unknown in an evaluation's configuration: {', '.join(told)}.", fix=f"use: {', '.join(known)}"
        )
    missing = [name for name in ("model", "data") if not given.get(name)]
    if missing:
        raise DataError(
            f"An evaluation needs {' and '.join(missing)}.",
            fix="pass --model FOLDER --data FILE, or both in a --config file",
        )
    slices = given.get("slices", ())
    given["slices"] = tuple(
        each for each in (slices.split(",") if isinstance(slices, str) else slices) if each
    )
    return EvaluationConfig(**{name: str(v) if isinstance(v, Path) else v for name, v in given.items()})


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"The configuration {path.name} cannot be read.",
            why=" ".join(str(error).split())[:200],
            fix='write TOML, such as: model = "outputs/my-model"',
        ) from error
    if not isinstance(found, dict):
        raise DataError(
            f"The configuration {path.name} holds no settings.",
            fix='write lines such as: model = "outputs/my-model"',
        )
    for name in ("model", "data", "output", "base"):
        beside = path.parent / str(found.get(name) or "\0")
        if name in found and (name == "output" or _exists(beside)):
            found[name] = str(beside)
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def with_output(config: EvaluationConfig, output: str | Path) -> EvaluationConfig:
    """The same evaluation, written elsewhere."""
    return replace(config, output=str(output))
