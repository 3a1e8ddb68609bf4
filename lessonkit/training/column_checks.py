"""What the columns of a training set have that the model cannot use: ids, labels and lengths beyond it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lessonkit.training.dataset_checks import Column

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["LABELS", "VOCABULARY_TASKS", "Problem", "base_model", "column_problems", "remarks_on"]

LABELS = ("labels", "label", "label_ids")
VOCABULARY_TASKS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")


@dataclass(frozen=True)
class Problem:
    """Why a training cannot work: what is wrong, why that matters, what to change."""

    what: str
    why: str
    fix: str


def column_problems(
    trainer: Trainer, names: list[str] | None, columns: Mapping[str, Column]
) -> Iterator[Problem]:
    """names: the dataset's columns, None if they cannot be known. columns: those that were read."""
    yield from _taken_columns(trainer, names)
    yield from _token_ids(trainer, columns)
    yield from _labels(trainer, columns)


def base_model(model: Any) -> Any:
    """The model under PEFT's adapters, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _taken_columns(trainer: Trainer, names: list[str] | None) -> Iterator[Problem]:
    """The model takes some input from the columns that remain."""
    base = base_model(trainer.model)
    if names is None or not trainer.args.remove_unused_columns or not hasattr(base, "main_input_name"):
        return
    taken = [*inspect.signature(base.forward).parameters, *LABELS, *trainer.label_names]
    left = [name for name in names if name in taken]
    if all(name in (*LABELS, *trainer.label_names) for name in left):
        text = next((name for name in ("text", "sentence", "prompt", "content") if name in names), None)
        fix = (
            f"tokenize first: dataset.map(lambda row: tokenizer(row[{text or 'text'!r}], truncation=True)); if your "
            "data collator does that, set remove_unused_columns=False in TrainingArguments"
        )
        why = f"its columns are {', '.join(names)}; {type(base).__name__} takes {base.main_input_name}, among others"
        yield Problem("The dataset has no column that the model takes.", why, fix)


def _token_ids(trainer: Trainer, columns: Mapping[str, Column]) -> Iterator[Problem]:
    ids = columns.get("input_ids")
    if ids is None or ids.kind != "integer":
        return
    model, limit = trainer.model, _length_limit(trainer.model)
    if limit is not None and ids.longest > limit:
        yield Problem(
            f"The longest text has {ids.longest:,} tokens, and the model takes {limit:,}.",
            "it has learned no position beyond that",
            f"cut where you tokenize: tokenizer(..., truncation=True, max_length={limit})",
        )
    with contextlib.suppress(NotImplementedError, AttributeError):
        size = model.get_input_embeddings().weight.shape[0]
        if ids.most is not None and (ids.most >= size or ids.least < 0):
            bad = int(ids.most if ids.most >= size else ids.least)
            yield Problem(
                f"The token id {bad:,} is not in the model's vocabulary of {size:,}.",
                "the texts were tokenized with another model's tokenizer, or tokens were added to it",
                "use this model's own tokenizer; for added tokens, model.resize_token_embeddings(len(tokenizer))",
            )


def _length_limit(model: Any) -> int | None:
    """Tokens the model has positions for, less those that soft prompts take up; None if there is no limit."""
    import torch

    config = getattr(base_model(model), "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1 or getattr(config, "position_biased_input", True) is False:
        return None
    for name, module in model.named_modules():
        table = isinstance(module, torch.nn.Embedding) and name.endswith("position_embeddings")
        if table and module.padding_idx is not None:  # RoBERTa counts positions from there
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)
    adapter = getattr(model, "active_peft_config", None)
    return limit - (getattr(adapter, "num_virtual_tokens", None) or 0)


def _labels(trainer: Trainer, columns: Mapping[str, Column]) -> Iterator[Problem]:
    name = next((each for each in LABELS if each in columns), None)
    if name is None:
        return
    column, base = columns[name], base_model(trainer.model)
    if column.kind == "text" and hasattr(base, "config"):
        fix = f"number the classes: dataset.class_encode_column({name!r})"
        yield Problem(f"The labels in {name!r} are texts.", "a model predicts class numbers", fix)
    elif column.kind == "integer" and 0 < column.rows == _ignored(trainer, column):
        yield _all_ignored(name)
    elif "ForSequenceClassification" in type(base).__name__:
        yield from _class_labels(name, column, base.config)
    elif "ForTokenClassification" in type(base).__name__:
        yield from _label_range(name, column, base.config.num_labels, "the model has num_labels")
    elif any(task in type(base).__name__ for task in VOCABULARY_TASKS):
        size = getattr(base.config.get_text_config(), "vocab_size", None)
        output = base.get_output_embeddings()
        size = output.weight.shape[0] if output is not None else size
        if size:
            yield from _label_range(name, column, size, "the model's vocabulary has")


def _shifts(trainer: Trainer) -> bool:
    return bool(getattr(trainer, "_loss_shifts_labels", False))


def _ignored(trainer: Trainer, column: Column) -> int:
    return column.ignored_shifted if column.nested and _shifts(trainer) else column.ignored


def _all_ignored(name: str) -> Problem:
    return Problem(
        "No row has anything to learn from.",
        f"every entry of {name!r} is -100, which the loss leaves out",
        "keep the answer's tokens in the labels; if they were cut off, raise max_length or shorten the prompt",
    )


def _class_labels(name: str, column: Column, config: Any) -> Iterator[Problem]:
    count, kind = config.num_labels, config.problem_type
    if count == 1 and kind in (None, "regression"):
        if column.kind == "integer":
            fix = f"for classes, load the model with num_labels=...; for numbers, cast {name!r} to float"
            why = "num_labels=1 means that a decimal number is predicted, and the loss needs decimals"
            yield Problem("The labels are whole numbers, and the model has one output.", why, fix)
    elif column.nested or kind == "multi_label_classification":
        if column.kind != "decimal" or {column.longest, column.shortest} != {count}:
            fix = f"give each row {count} decimals of 0.0 or 1.0, with config.problem_type='multi_label_classification'"
            why = "several labels in a row mean that each class is right or wrong for itself"
            yield Problem(f"The lists in {name!r} are no such labels.", why, fix)
    elif column.kind == "decimal":
        fix = f"cast them: dataset.cast_column({name!r}, Value('int64')); to predict a number, load with num_labels=1"
        yield Problem(
            f"The labels in {name!r} are decimals.", f"{count} classes are numbered 0 to {count - 1}", fix
        )
    else:
        yield from _label_range(name, column, count, "the model has num_labels")


def _label_range(name: str, column: Column, count: int, whose: str) -> Iterator[Problem]:
    if column.kind != "integer" or column.least is None or (column.least >= 0 and column.most < count):
        return
    bad = int(column.most if column.most >= count else column.least)
    if "num_labels" in whose:
        fix = f"load the model with num_labels={int(column.most) + 1}" if bad >= count else ""
        fix = f"{fix or 'number the classes from 0'}; or look for the wrong label"
    else:
        fix = "make the labels from this model's own tokenizer; -100 marks what is not learned"
    what = f"The label {bad:,} in {name!r} does not exist: {whose} {count:,}."
    yield Problem(what, f"labels are numbered 0 to {count - 1:,}", fix)


def remarks_on(trainer: Trainer, columns: Mapping[str, Column]) -> list[str]:
    """What is odd about the columns, but no hindrance."""
    column = next((columns[name] for name in LABELS if name in columns), None)
    if column is None or column.kind != "integer":
        return []
    ignored = _ignored(trainer, column)
    if not 0 < ignored < column.rows:
        return []
    return [f"{ignored:,} of {column.rows:,} rows have nothing to learn from: all their labels are -100."]
