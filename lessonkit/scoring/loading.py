"""Any saved classifier with its tokenizer and label names, and any labelled texts, matched to these names."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.assets import assets
from lessonkit.data import load_dataset
from lessonkit.errors import DataError, ModelError
from lessonkit.models import load_model, load_tokenizer, model_source
from lessonkit.texts import check_texts
from lessonkit.texts.findings import plain_label

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lessonkit.scoring.config import EvaluationConfig

__all__ = ["LabelledTexts", "ScoredModel", "labelled_texts", "load_scored_model"]

ADAPTER = "adapter_config.json"
LABEL_FILE = "label_names.json"  # beside an adapter, which keeps no label names itself


@dataclass
class ScoredModel:
    """model, tokenizer: plain transformers or PEFT objects, in eval mode on this machine's device. names: the labels, in
    the order of their numbers; empty where the model keeps none. notes: what was decided while loading.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    names: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass
class LabelledTexts:
    """texts: (n,). labels: (n,) their names. columns: other columns by name, each (n,). lines: where each stood.
    digest: sha256 of texts and labels, in order; two evaluations compare only if theirs are equal.
    """

    texts: list[str]
    labels: list[str]
    columns: dict[str, list[str]]
    lines: list[int]
    notes: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        rows = json.dumps([self.texts, self.labels], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(rows.encode("utf-8", errors="surrogatepass")).hexdigest()


def load_scored_model(source: str | Path, *, base: str = "", device: str = "") -> ScoredModel:
    """A sequence classifier from a folder that ``save_pretrained`` wrote, whole or as a PEFT adapter, or by name.

    base: where an adapter's base model lies, if not where the adapter says. device: left out, this machine's.
    Raises ModelError for what isn't a saved classifier, saying what it is.
    """
    from transformers import AutoModelForSequenceClassification

    from lessonkit.hardware import detect_hardware

    notes: list[str] = []
    folder = Path(model_source(source))
    if (folder / ADAPTER).is_file():
        model, names = _adapter(folder, base, notes)
    else:
        _check_head(folder)
        model = load_model(source, AutoModelForSequenceClassification)
        names = _names(model.config.id2label)
    tokenizer = _tokenizer(folder, model, notes)
    model.to(device or detect_hardware().device).eval()
    return ScoredModel(model, tokenizer, names, notes)


def _check_head(folder: Path) -> None:
    """A model without a trained classification head would be given a random one, and score as such."""
    if not folder.is_dir():
        return  # from the Hub
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder.name} holds no model.",
            why=f"its config.json cannot be read: {error}",
            fix="pass a folder that model.save_pretrained(folder) wrote",
        ) from error
    kinds = config.get("architectures") or []
    if not any(each.endswith("ForSequenceClassification") for each in kinds):
        raise ModelError(
            f"{folder.name} is no classifier but {', '.join(kinds) or 'a model of unknown kind'}.",
            why="its classification head would be random numbers",
            fix="pass the folder of a fine-tuned classifier; for a language model, use lessonkit.perplexity",
        )


def _adapter(folder: Path, base: str, notes: list[str]) -> tuple[Any, list[str]]:
    from peft import PeftConfig, PeftModel
    from safetensors import SafetensorError, safe_open
    from transformers import AutoModelForSequenceClassification

    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = folder / "adapter_model.safetensors"
        with safe_open(weights, framework="pt") as file:
            heads = {name: file.get_slice(name).get_shape() for name in file.keys() if _is_head(name)}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"The adapter in {folder.name} cannot be read.",
            why=str(error).splitlines()[0][:200],
            fix="save it again: model.save_pretrained(folder)",
        ) from error
    if not heads:
        raise ModelError(
            f"The adapter in {folder.name} holds no classification head.",
            why="the base model's head would be random numbers",
            fix='train it with task_type="SEQ_CLS", which saves the head too',
        )
    names = _kept_names(folder)
    count = len(names) or list(heads.values())[-1][0]
    source = base or config.base_model_name_or_path
    model = load_model(source, AutoModelForSequenceClassification, num_labels=count)
    if not base:
        notes.append(f"The adapter's base model is {Path(str(source)).name}.")
    try:
        with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5 by an old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            return PeftModel.from_pretrained(model, str(folder)), names
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"The adapter in {folder.name} does not fit the base model {Path(str(source)).name}.",
            why=str(error).splitlines()[0][:200],
            fix="pass the base model that it was trained on: --base FOLDER",
        ) from error


def _is_head(name: str) -> bool:
    return name.endswith("weight") and any(
        part in name.split(".") for part in ("classifier", "score", "out_proj")
    )


def _kept_names(folder: Path) -> list[str]:
    try:
        found = json.loads((folder / LABEL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(each) for each in found] if isinstance(found, list) else []


def _names(id2label: Mapping[int, str] | None) -> list[str]:
    """The labels' names in order; none where transformers has made up LABEL_0, LABEL_1, ..."""
    names = [str(name) for _, name in sorted((id2label or {}).items(), key=lambda item: int(item[0]))]
    return [] if all(name == f"LABEL_{place}" for place, name in enumerate(names)) else names


def _tokenizer(folder: Path, model: Any, notes: list[str]) -> Any:
    try:
        return load_tokenizer(folder)
    except ModelError:
        inner = getattr(model, "peft_config", None)
        base = next(iter(inner.values())).base_model_name_or_path if inner else ""
        if not base:
            raise
        notes.append("The tokenizer is the base model's.")
        return load_tokenizer(base)


# ---- The texts --------------------------------------------------------------------------------------


def labelled_texts(config: EvaluationConfig) -> LabelledTexts:
    """The texts to score. Of a file, rows without a text or a label are left out, and told; nothing else is changed.

    Raises DataError where there are none, with the report on the file as its reason.
    """
    known = [each.name for each in assets().values() if each.kind == "dataset"]
    found = _of_course(config) if config.data in known else _of_file(config)
    if config.limit:
        found.texts, found.labels, found.lines = (
            each[: config.limit] for each in (found.texts, found.labels, found.lines)
        )
        found.columns = {name: values[: config.limit] for name, values in found.columns.items()}
    for name in config.slices:
        if name not in found.columns:
            raise DataError(
                f"There is no column {name!r} to slice by.",
                fix=f"use one of: {', '.join(found.columns) or 'none; the data has only texts and labels'}",
            )
    return found


def _of_course(config: EvaluationConfig) -> LabelledTexts:
    data = load_dataset(config.data)
    if config.split not in data:
        raise DataError(f"{config.data} has no split {config.split!r}.", fix=f"use one of: {', '.join(data)}")
    rows = data[config.split]
    if "label" not in rows.column_names:
        raise DataError(
            f"{config.data} has no labels.", fix="use a dataset for classification: `lessonkit fetch --list`"
        )
    names = rows.features["label"].names
    return LabelledTexts(
        list(rows["text"]), [names[each] for each in rows["label"]], {}, list(range(1, len(rows) + 1))
    )


def _of_file(config: EvaluationConfig) -> LabelledTexts:
    report = check_texts(config.data, text=config.text or None, label=config.label or None)
    if report.problem or report.columns is None or report.table is None or report.columns.label is None:
        raise DataError(
            f"{report.source} holds no labelled texts.",
            why=report.problem or "no column can be the label",
            fix="name the columns: --text COLUMN --label COLUMN",
        )
    empty = {
        row
        for name in ("empty texts", "missing labels")
        if (each := report.finding(name))
        for row in each.rows
    }
    keep = [row for row in range(len(report.texts)) if row not in empty]
    if not keep:
        raise DataError(
            f"{report.source} has no row with a text and a label.",
            fix="look at: print(lessonkit.check_texts(...))",
        )
    notes = [f"{len(empty):,} rows without a text or a label were left out."] if empty else []
    aside = report.table.set_aside
    notes += (
        [f"{len(aside):,} rows could not be read: {aside[0].why} (line {aside[0].line})."] if aside else []
    )
    frame = report.table.frame.iloc[keep]
    rest = [name for name in frame.columns if name not in (report.columns.text, report.columns.label)]
    return LabelledTexts(
        frame[report.columns.text].tolist(),
        frame[report.columns.label].tolist(),
        {str(name): frame[name].tolist() for name in rest},
        [report.table.lines[each] for each in keep],
        notes,
    )


def numbered(labels: Sequence[str], names: Sequence[str], notes: list[str]) -> tuple[list[int], list[str]]:
    """The labels as numbers among ``names``, which are the model's, or, where it keeps none, the data's own, sorted.

    Case, spaces and signs don't count. Raises DataError for labels that the model does not know.
    """
    if not names:
        names = sorted(set(labels))
        notes.append(
            f"The model keeps no label names; taken as {', '.join(names)}, sorted as its training had them, it is hoped."
        )
    places = {plain_label(name): place for place, name in enumerate(names)}
    unknown = sorted({each for each in labels if plain_label(each) not in places})
    if unknown:
        raise DataError(
            f"The model does not know the label{'s' * (len(unknown) > 1)} {', '.join(map(repr, unknown[:5]))}.",
            why=f"it tells apart: {', '.join(map(repr, names))}",
            fix="take these rows out, or name the right column: --label COLUMN",
        )
    return [places[plain_label(each)] for each in labels], list(names)
