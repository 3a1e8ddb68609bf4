"""Tokens a second of the same training, three ways, and the share of this machine's matrix speed that is used.

(a) `Trainer` at its default arguments, (b) a plain fp32 PyTorch loop, (c) the lessons' arguments: `Trainer` with what
`lessonkit.training_arguments()` and `lessonkit.model_arguments()` suggest, and logits only where there are labels.
All three without `lessonkit.run`, whose guards and checkpoints are measured in `survival.py`.
Model, texts, labels, number of steps and batch size are the same. The ways alternate; every round has its own seed.

python benchmarks/speed.py [--rounds 5] [--only WORDS]    --only: measure the tasks with these words in their name
                                                          anew, and keep the other rows of the result
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from saving import RESULTS, save
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

import lessonkit

BATCH, EVAL_TEXTS = 8, 64


@dataclass
class Task:
    """One training to be timed.

    model(quick): the model, as the quick way or as the plain way loads it. collator: pads a batch in the plain way;
    quick_collator in the quick one. learning_rate: the same for all ways.
    """

    name: str
    train: Dataset
    test: Dataset
    model: Callable[[bool], torch.nn.Module]
    collator: Any
    quick_collator: Any
    learning_rate: float

    @property
    def tokens(self) -> int:
        """Tokens of one pass over the texts, padding not counted."""
        return sum(map(len, self.train["input_ids"]))


def lora_task(steps: int, max_length: int) -> Task:
    """SmolLM2 with LoRA learns to name an article's topic: labels on the answers only.

    steps: of 8 texts each.
    """
    data, tokenizer = lessonkit.load_dataset("reuters-r8"), lessonkit.load_tokenizer("smollm2")
    names = data["train"].features["label"].names

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        article = tokenizer(row["text"], truncation=True, max_length=max_length - 16)["input_ids"]
        before = tokenizer("<|im_start|>user\n")["input_ids"]
        asked = tokenizer("\nTopic?<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        answer = tokenizer(names[row["label"]] + "<|im_end|>")["input_ids"]
        prompt = before + article + asked
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    def model(quick: bool) -> torch.nn.Module:
        loading = lessonkit.model_arguments(frozen=True) if quick else {}
        base = lessonkit.load_model("smollm2", AutoModelForCausalLM, **loading)
        return get_peft_model(
            base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        )

    return Task(
        f"SmolLM2, LoRA, reuters-r8, at most {max_length} tokens",
        data["train"]
        .shuffle(seed=0)
        .select(range(BATCH * steps))
        .map(encode, remove_columns=["text", "label"]),
        data["test"].shuffle(seed=0).select(range(EVAL_TEXTS)).map(encode, remove_columns=["text", "label"]),
        model,
        DataCollatorForSeq2Seq(tokenizer, padding=True),
        lessonkit.CausalLMCollator(tokenizer),
        1e-3,
    )


def full_task(steps: int, max_length: int, dataset: str = "reuters-r8", learning_rate: float = 5e-5) -> Task:
    """MiniLM with all its weights learns to classify articles, or messages (``20newsgroups``)."""
    data, tokenizer = lessonkit.load_dataset(dataset), lessonkit.load_tokenizer("minilm")
    labels = data["train"].features["label"].num_classes

    def encode(rows: dict[str, Any]) -> dict[str, Any]:
        return tokenizer(rows["text"], truncation=True, max_length=max_length)

    def model(quick: bool) -> torch.nn.Module:
        loading = lessonkit.model_arguments() if quick else {}
        kind = AutoModelForSequenceClassification
        return lessonkit.load_model("minilm", kind, num_labels=labels, **loading)

    def some(split: str, count: int) -> Dataset:
        rows = data[split].shuffle(seed=0).select(range(count))
        return rows.map(encode, batched=True, remove_columns=["text"])

    collator = DataCollatorWithPadding(tokenizer)
    return Task(
        f"MiniLM, full fine-tuning, {dataset}, at most {max_length} tokens",
        some("train", BATCH * steps),
        some("test", EVAL_TEXTS),
        model,
        collator,
        collator,
        learning_rate,
    )


def default_trainer(task: Task, seed: int) -> tuple[float, torch.nn.Module]:
    """(a) Seconds of ``Trainer`` at its default arguments, and the trained model."""
    set_seed(seed)
    more = {"report_to": "none", "per_device_train_batch_size": BATCH}
    return _trainer(task, task.model(False), task.collator, seed, more)


def quick_trainer(task: Task, seed: int) -> tuple[float, torch.nn.Module]:
    """(c) Seconds with the lessons' arguments, and the trained model."""
    set_seed(seed)
    more = lessonkit.training_arguments() | {"per_device_train_batch_size": BATCH}
    return _trainer(task, task.model(True), task.quick_collator, seed, more)


def _trainer(task: Task, model: Any, collator: Any, seed: int, more: dict) -> tuple[float, Any]:
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            learning_rate=task.learning_rate,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=seed,
            **more,
        )
        trainer = Trainer(model, arguments, train_dataset=task.train, data_collator=collator)
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start, model


def plain_loop(task: Task, seed: int) -> tuple[float, torch.nn.Module]:
    """(b) Seconds of an fp32 PyTorch loop, and the trained model."""
    set_seed(seed)
    model = task.model(False).train()
    loader = DataLoader(task.train, batch_size=BATCH, shuffle=True, collate_fn=task.collator)
    optimizer = torch.optim.AdamW(
        [each for each in model.parameters() if each.requires_grad], lr=task.learning_rate
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(loader))
    start = time.perf_counter()
    for batch in loader:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return time.perf_counter() - start, model


@torch.no_grad()
def held_out_loss(task: Task, model: torch.nn.Module) -> float:
    """Mean loss of the test texts, in the quick way's precision for all."""
    model.eval()
    rows = sorted(task.test, key=lambda row: len(row["input_ids"]))
    total = 0.0
    for first in range(0, len(rows), 32):
        chunk = rows[first : first + 32]
        with torch.autocast("cpu", torch.bfloat16, enabled=lessonkit.detect_hardware().bf16):
            total += float(model(**task.quick_collator(chunk)).loss) * len(chunk)
    return total / len(rows)


def matrix_peak(dtype: torch.dtype, size: int = 2048, repeats: int = 8) -> float:
    """Multiplications and additions a second that this machine reaches with large matrices."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def operations(task: Task) -> int:
    """Floating-point operations of one quick pass: forward and backward, texts of like length in a batch."""
    rows = sorted(task.train, key=lambda row: len(row["input_ids"]))
    model, total = task.model(True).train(), 0
    for first in range(0, len(rows), BATCH):
        with FlopCounterMode(display=False) as counted:
            model(**task.quick_collator(rows[first : first + BATCH])).loss.backward()
        total += counted.get_total_flops()
    return total


WAYS = {"default_trainer": default_trainer, "plain_loop": plain_loop, "lessonkit": quick_trainer}


def measure(task: Task, rounds: int) -> dict[str, Any]:
    """Median tokens a second and held-out loss of each way, ratios to the first one, share of the matrix peak."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    losses: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(rounds):
        for way, train in WAYS.items():
            spent, model = train(task, seed)
            seconds[way].append(spent)
            losses[way].append(held_out_loss(task, model))
            print(f"{task.name}, round {seed}, {way}: {spent:.1f} s, loss {losses[way][-1]:.4f}", flush=True)
    row: dict[str, Any] = {"name": task.name, "steps": len(task.train) // BATCH, "tokens": task.tokens}
    for way in WAYS:
        row[f"{way}_tokens_per_second"] = round(task.tokens / statistics.median(seconds[way]), 1)
        row[f"{way}_loss"] = round(statistics.mean(losses[way]), 4)
        row[f"{way}_loss_deviation"] = round(statistics.stdev(losses[way]), 4) if rounds > 1 else 0.0
    for way in ("default_trainer", "plain_loop"):
        ratios = [slow / quick for slow, quick in zip(seconds[way], seconds["lessonkit"], strict=True)]
        row[f"times_{way}"] = round(statistics.median(ratios), 2)
    dtype = torch.bfloat16 if lessonkit.detect_hardware().bf16 else torch.float32
    peak = matrix_peak(dtype)
    row["matrix_peak_gflops"] = round(peak / 1e9)
    row["share_of_peak"] = round(operations(task) / statistics.median(seconds["lessonkit"]) / peak, 3)
    return row


def measure_all(result: str, *tasks: Task) -> None:
    """Measure the trainings, as often as the command line says, and save them as ``results/<result>.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    old = RESULTS / f"{result}.json"
    rows = {row["name"]: row for row in json.loads(old.read_text("utf-8"))["rows"]} if asked.only else {}
    for task in tasks:
        if asked.only in task.name:
            rows[task.name] = measure(task, asked.rounds)
    save(result, [rows[task.name] for task in tasks], rounds=asked.rounds, batch_size=BATCH)


if __name__ == "__main__":
    measure_all(
        "speed",
        lora_task(12, 160),
        full_task(20, 384, "20newsgroups", 2e-4),
        full_task(24, 256),
    )
