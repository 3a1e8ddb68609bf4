"""What would go wrong in a training, found before it starts; all of it at once, each with its remedy."""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.errors import LessonkitError, TrainingError
from lessonkit.four_bits import packed_layers
from lessonkit.training.column_checks import (
    LABELS,
    VOCABULARY_TASKS,
    Problem,
    base_model,
    column_problems,
    remarks_on,
)
from lessonkit.training.dataset_checks import column_names, scan

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

__all__ = ["check", "problems_of"]

ROWS_COLLATED = 8


def check(trainer: Trainer) -> list[str]:
    """Look over a Trainer before it trains; returns remarks on what is odd but no hindrance.

    The data is read but not changed, a stream is not touched, and the dice stay as they are.
    Raises TrainingError with every problem found.
    """
    problems, remarks = problems_of(trainer)
    if len(problems) == 1:
        raise TrainingError(problems[0].what, why=problems[0].why, fix=problems[0].fix)
    if problems:
        listed = [f"\n  {number}. {each.what}" for number, each in enumerate(problems, 1)]
        raise TrainingError(
            f"This training cannot work, for {len(problems)} reasons:{''.join(listed)}",
            why="; ".join(f"({number}) {each.why}" for number, each in enumerate(problems, 1)),
            fix="; ".join(f"({number}) {each.fix}" for number, each in enumerate(problems, 1)),
        )
    return remarks


def problems_of(trainer: Trainer) -> tuple[list[Problem], list[str]]:
    """All problems, and remarks."""
    found = [*_settings(trainer.args), *_output_dir(Path(trainer.args.output_dir)), *_weights(trainer)]
    dataset = trainer.train_dataset
    if dataset is None or (hasattr(dataset, "__len__") and len(dataset) == 0):
        why, fix = (
            "the Trainer's train_dataset is missing or empty",
            "pass train_dataset=... with at least one example",
        )
        return [*found, Problem("There is no training data.", why, fix)], []
    found += _enough_rows(trainer)
    with _same_dice():
        names = column_names(dataset)
        columns = scan(dataset, {"input_ids", *LABELS})
        in_columns = list(column_problems(trainer, names, columns))
        found += in_columns
        if names is not None and not in_columns:
            found += _first_batch(trainer)
    return found, remarks_on(trainer, columns)


# ---- Arguments and model ----------------------------------------------------------------------------


def _settings(args: Any) -> Iterator[Problem]:
    rate = args.learning_rate
    if not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate <= 0:
        why = "each step moves the weights by a multiple of it"
        yield Problem(
            f"learning_rate={rate!r} trains nothing.", why, "set a small positive number, such as 2e-5"
        )
    if args.max_steps == 0 or (args.max_steps < 0 and args.num_train_epochs <= 0):
        yield Problem(
            f"There is not one step to train: max_steps={args.max_steps}, num_train_epochs={args.num_train_epochs:g}.",
            "max_steps counts if it is above 0, else num_train_epochs",
            "set num_train_epochs=1 or more (and leave max_steps at -1), or max_steps above 0",
        )
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            yield Problem(
                f"{name}={getattr(args, name)}.", "a step needs at least one row", f"set {name}=1 or more"
            )


def _output_dir(folder: Path) -> Iterator[Problem]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        fix = "set output_dir in TrainingArguments to a folder of yours"
        yield Problem(f"Nothing can be written to output_dir={str(folder)!r}.", str(error), fix)


def _weights(trainer: Trainer) -> Iterator[Problem]:
    import torch

    named = list(trainer.model.named_parameters())
    trained = [(name, each) for name, each in named if each.requires_grad]
    if not trained:
        why = "every parameter of the model is frozen (requires_grad is False)"
        fix = "set requires_grad = True on the parameters to train, or add an adapter"
        yield Problem("Nothing would be trained.", why, fix)
    empty = next((name for name, each in named if each.is_meta), None)
    if empty:
        why = f"{empty} is on the meta device: a shape without numbers"
        yield Problem("The model's weights were never loaded.", why, "load the model with from_pretrained")
        return
    packed = next(packed_layers(trainer.model), None)
    if packed:
        why = f"bitsandbytes repacked {packed} for a CPU when the model was used without gradients"
        fix = "load the model anew with lessonkit.load_model, which keeps 4-bit layers from that, then make the Trainer"
        yield Problem("No gradient passes through the 4-bit layers any more.", why, fix)
    half = next((name for name, each in trained if each.dtype == torch.float16), None)
    if half and trainer.args.fp16:
        why = f"{half} is float16; fp16=True keeps the trained weights in float32 and computes in float16"
        fix = "load the model with dtype=torch.float32, or set bf16=True instead of fp16=True"
        yield Problem("fp16=True cannot train weights that are float16 themselves.", why, fix)
    spoiled = next((name for name, each in named if not _finite(each)), None)
    if spoiled:
        why = f"{spoiled} holds NaN or infinity, from a training that went wrong, say"
        yield Problem(
            "The model's weights are not all numbers.", why, "load the model again, then make the Trainer"
        )


def _finite(parameter: torch.Tensor) -> bool:
    if not parameter.is_floating_point() or not parameter.numel():
        return True
    # min and max carry NaN and infinity, without a copy of the weights
    return all(math.isfinite(each) for each in parameter.detach().aminmax())


def _enough_rows(trainer: Trainer) -> Iterator[Problem]:
    args, dataset = trainer.args, trainer.train_dataset
    if (
        args.dataloader_drop_last
        and hasattr(dataset, "__len__")
        and len(dataset) < args.per_device_train_batch_size
    ):
        why = f"{len(dataset)} rows are less than one batch of {args.per_device_train_batch_size}, and those are dropped"
        yield Problem(
            "There is not one full batch.", why, "set dataloader_drop_last=False, or a smaller batch"
        )


# ---- The first rows, put together ---------------------------------------------------------------------


def _first_batch(trainer: Trainer) -> Iterator[Problem]:
    """Collate the first rows as the Trainer would; what comes out has inputs and labels."""
    from datasets import Dataset

    dataset, collate = trainer.train_dataset, trainer.data_collator
    if isinstance(dataset, Dataset):
        dataset = trainer._remove_unused_columns(dataset)
    elif hasattr(dataset, "__len__"):
        collate = trainer._get_collator_with_removed_columns(collate)
    else:
        return
    rows = min(len(dataset), ROWS_COLLATED, trainer.args.per_device_train_batch_size)
    try:
        batch = collate([dataset[index] for index in range(rows)])
    except Exception as error:  # a learner's own collator may raise anything
        yield _collator_problem(error)
        return
    if isinstance(batch, Mapping):
        yield from _batch_problems(trainer, batch)


def _collator_problem(error: Exception) -> Problem:
    if isinstance(error, LessonkitError):  # it knows better what to do
        return Problem(
            error.what, error.why or "the data collator cannot put the first rows together", error.fix
        )
    message = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    if "padding token" in message:
        return Problem(
            "The tokenizer has no padding token.",
            "texts of different lengths are filled up to one length with it",
            "tokenizer.pad_token = tokenizer.eos_token, before the Trainer is made",
        )
    ragged = (
        "Unable to create tensor",
        "expected sequence of length",
        "stack expects each tensor",
        "inhomogeneous",
    )
    if any(sign in message for sign in ragged):
        return Problem(
            "The rows have different lengths, and the data collator does not fill them up.",
            message,
            "pass data_collator=DataCollatorWithPadding(tokenizer) to the Trainer, or the one for your task",
        )
    return Problem(
        "The data collator fails on the first rows.", f"{type(error).__name__}: {message}", _COLLATOR_FIX
    )


_COLLATOR_FIX = "try it alone until it works: trainer.data_collator([trainer.train_dataset[0]])"


def _batch_problems(trainer: Trainer, batch: Mapping[str, Any]) -> Iterator[Problem]:
    from transformers import PreTrainedModel, Trainer

    base = base_model(trainer.model)
    if not isinstance(base, PreTrainedModel):
        return
    main = base.main_input_name
    if main not in batch and "inputs_embeds" not in batch:
        why = f"it has {', '.join(batch) or 'nothing'}; the model takes {main}"
        yield Problem("A batch has no inputs.", why, f"let the dataset and its collator deliver {main}")
    own_loss = trainer.compute_loss_func is not None or type(trainer).compute_loss is not Trainer.compute_loss
    names = trainer.label_names
    if names and not own_loss and not trainer.can_return_loss and not any(name in batch for name in names):
        yield Problem(
            "The batches have no labels, so there is no loss.",
            f"they have {', '.join(batch)}; {type(base).__name__} needs {' and '.join(names)}",
            "add a column 'labels'; for language modelling, "
            "DataCollatorForLanguageModeling(tokenizer, mlm=False) makes it from input_ids",
        )
    yield from _same_shape(base, batch)
    padded = getattr(base.config, "pad_token_id", None) is not None or _pads(trainer)
    several = trainer.args.per_device_train_batch_size > 1
    if "ForSequenceClassification" in type(base).__name__ and not padded and several:
        yield Problem(
            "The model does not know its padding token.",
            "it classifies by a row's last token, and cannot find it among padding",
            "model.config.pad_token_id = tokenizer.pad_token_id",
        )


def _pads(trainer: Trainer) -> bool:
    """Whether the Trainer will tell the model about the padding token, as it does when training starts."""
    return getattr(trainer.processing_class, "pad_token_id", None) is not None


def _same_shape(base: Any, batch: Mapping[str, Any]) -> Iterator[Problem]:
    ids, labels = batch.get("input_ids"), batch.get("labels")
    name = type(base).__name__
    per_token = any(task in name for task in (*VOCABULARY_TASKS[:3], "ForTokenClassification"))
    if ids is None or labels is None or not per_token or "logits_to_keep" in batch:
        return
    if tuple(labels.shape) != tuple(ids.shape):
        yield Problem(
            f"The labels have the shape {tuple(labels.shape)}, the input_ids {tuple(ids.shape)}.",
            f"{name} needs a label for each token",
            "give each token its label, -100 where nothing is to be learned, and use a collator that fills up both "
            "(DataCollatorForTokenClassification, DataCollatorForSeq2Seq)",
        )


@contextlib.contextmanager
def _same_dice() -> Iterator[None]:
    """Whatever draws random numbers inside, those after it are the same."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
