"""What is trained: a model and its rows, by the model's name.

``minilm`` learns the topics of Reuters wires, ``smollm2`` their words, ``tiny`` (random weights) is for rehearsals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lessonkit.errors import TrainingError
from production.batches import Rows

__all__ = ["Parts", "load_parts", "loss_sum", "prepare", "write_model"]


@dataclass(frozen=True)
class Parts:
    """model: on the CPU, in float32. test: held out, empty for a decoder. extras: saved beside the weights."""

    model: nn.Module
    train: Rows
    test: Rows | None
    extras: tuple[Any, ...] = ()


def load_parts(name: str, train_rows: int, test_rows: int, length: int, seed: int) -> Parts:
    """length: tokens of a row. Every process gets the same weights and rows: they depend on the arguments alone."""
    if name == "tiny":
        from production.tiny_model import TinyClassifier, tiny_rows

        return Parts(TinyClassifier(seed), tiny_rows(train_rows, seed), tiny_rows(test_rows, seed + 1))
    import lessonkit

    data = lessonkit.load_dataset("reuters-r8")
    tokenizer = lessonkit.load_tokenizer(name)
    if name == "smollm2":
        model = lessonkit.load_model(name, use_cache=False)
        return Parts(model, _blocks(data["train"]["text"], tokenizer, train_rows, length), None, (tokenizer,))
    from transformers import AutoModelForSequenceClassification

    names = data["train"].features["label"].names
    torch.manual_seed(seed)  # of the new head
    # No dropout: each process would draw its own, and two could not be compared with one.
    model = lessonkit.load_model(
        name,
        AutoModelForSequenceClassification,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={each: number for number, each in enumerate(names)},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    some = {"train": train_rows, "test": test_rows}
    made = {}
    for split, count in some.items():
        rows = data[split].shuffle(seed=seed)
        rows = rows.select(range(min(count, len(rows))))
        made[split] = _texts(rows["text"], rows["label"], tokenizer, length)
    return Parts(model, made["train"], made["test"], (tokenizer,))


def _texts(texts: list[str], labels: list[int], tokenizer: Any, length: int) -> Rows:
    if not len(texts):
        return Rows({}, torch.zeros(0, dtype=torch.long))
    cut = {"truncation": True, "max_length": length, "padding": "max_length", "return_tensors": "pt"}
    found = tokenizer(list(texts), **cut)
    return Rows(
        {name: found[name] for name in ("input_ids", "attention_mask")},
        torch.tensor(list(labels)),
    )


def _blocks(texts: list[str], tokenizer: Any, rows: int, length: int) -> Rows:
    """All texts in a row, cut into pieces of one length: no padding."""
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= rows * length:
            break
    rows = min(rows, len(ids) // length)
    block = torch.tensor(ids[: rows * length]).view(rows, length)
    return Rows({"input_ids": block}, block)


def prepare(model: nn.Module, checkpointing: bool, compiled: bool) -> None:
    """Switches that change the model in place, before it is distributed."""
    from production.sharding import blocks

    if checkpointing:
        if hasattr(model, "activation_checkpointing_enable"):
            model.config.use_cache = False  # keys and values that nobody reads
            model.activation_checkpointing_enable({"use_reentrant": False})
        else:
            model.checkpointing = True
    if compiled:
        import shutil

        if not torch.cuda.is_available() and not any(map(shutil.which, ("g++", "clang++", "cl", "c++"))):
            raise TrainingError(
                "--compile needs a C++ compiler, and there is none.",
                fix="install one (Debian: apt install g++), or leave --compile out",
            )
        for each in blocks(model):  # layer by layer: they are alike, so only the first takes long
            each.compile()


def loss_sum(output: Any, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy, summed over the answers: sums of parts add up to the whole, means don't."""
    logits = (output if isinstance(output, torch.Tensor) else output.logits).float()
    if labels.dim() > 1:  # a decoder: each token predicts the next
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)


def write_model(folder: Path, weights: dict[str, torch.Tensor], config: Any, extras: tuple[Any, ...]) -> None:
    """As ``save_pretrained`` would: safetensors, and for a model of transformers its config and tokenizer.

    config: the model's, taken before it was sharded; None for the tiny model.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if config is not None and getattr(config, "tie_word_embeddings", False):
        weights = {name: each for name, each in weights.items() if name != "lm_head.weight"}
    save_file(
        {name: each.contiguous().clone() for name, each in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    for each in (*((config,) if config is not None else ()), *extras):
        each.save_pretrained(folder)
