"""Trainers small enough to be run dozens of times: two layers, a few rows, milliseconds a step."""

from __future__ import annotations

import gc
import random
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

# accelerate collects garbage before each training; without the libraries' own objects that takes no time.
gc.collect()
gc.freeze()

ROWS = 22
VOCABULARY = 60
LENGTH = 16


def causal_model(dropout: float = 0.0) -> LlamaForCausalLM:
    """Its loss is divided by the number of items of all small batches of a step."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            attention_dropout=dropout,
            pad_token_id=0,
        )
    )


def classifier(dropout: float = 0.0) -> BertForSequenceClassification:
    """Its loss is the mean over each small batch."""
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=3,
        )
    )


def lora_model(dropout: float = 0.0) -> Any:
    from peft import LoraConfig, get_peft_model

    base = causal_model(dropout)
    torch.manual_seed(1)
    with warnings.catch_warnings():  # PEFT asks transformers by a name that it is about to drop
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(
            base, LoraConfig(r=4, lora_dropout=dropout, target_modules=["q_proj", "v_proj"])
        )


def causal_rows(count: int = ROWS) -> Dataset:
    draw = random.Random(0)
    texts = [[draw.randrange(1, VOCABULARY) for _ in range(draw.randint(3, 12))] for _ in range(count)]
    return Dataset.from_dict({"input_ids": texts, "labels": texts})


def constant_rows(token: int, count: int = ROWS) -> Dataset:
    """Rows of one token again and again: who learns one token's rows unlearns another's."""
    texts = [[token] * 6 for _ in range(count)]
    return Dataset.from_dict({"input_ids": texts, "labels": texts})


def labelled_rows(count: int = ROWS) -> Dataset:
    rows = causal_rows(count)
    return rows.remove_columns("labels").add_column("labels", [number % 3 for number in range(count)])


def pad(rows: list[dict]) -> dict[str, torch.Tensor]:
    """A collator that needs no tokenizer."""
    longest = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, value: int) -> torch.Tensor:
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    ids = filled("input_ids", 0)
    nested = isinstance(rows[0]["labels"], list)
    labels = filled("labels", -100) if nested else torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


MODELS = {"causal": causal_model, "classifier": classifier, "lora": lora_model}


def make_trainer(folder: Path | str, kind: str = "causal", dropout: float = 0.0, **changes: Any) -> Trainer:
    """kind: a key of MODELS. changes: arguments of TrainingArguments, or parts of the Trainer."""
    quiet()
    parts = {
        "model": MODELS[kind](dropout),
        "train_dataset": labelled_rows() if kind == "classifier" else causal_rows(),
        "data_collator": pad,
    }
    names = (*parts, "eval_dataset", "callbacks", "compute_loss_func", "compute_metrics", "processing_class")
    parts |= {name: changes.pop(name) for name in names if name in changes}
    options = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 3,
    } | changes
    kind_of_trainer = options.pop("trainer_class", Trainer)
    return kind_of_trainer(args=TrainingArguments(output_dir=str(folder), **options), **parts)


def quiet() -> None:
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    disable_progress_bars()


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        name: each.detach().clone() for name, each in trainer.model.named_parameters() if each.requires_grad
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """To rounding."""
    return all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)
