"""Not a benchmark: the two tasks of `techniques.py`, and each technique's model, as the lessons set them up.

A decoder learns to continue tales, an encoder to sort news. All techniques of a task get the same texts, steps and batches;
what each gets of its own is its learning rate, chosen by the same search.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

import lessonkit
from lessonkit.adapters import add_adapter, save_adapter
from lessonkit.hardware import Hardware

TECHNIQUES = ("full", "lora", "qlora", "prompt", "adapters")
RANK, VIRTUAL_TOKENS = 8, 20
CLASSES, TALES = "reuters-r8", "grimm-tales"


@dataclass(frozen=True)
class Task:
    """One task and its budget.

    model: the asset. rates: learning rates to begin the search with, by technique. texts: training rows of a run.
    validation_texts: rows of the training split kept apart, on which rates are chosen, never on the test split.
    test_texts: rows of the test split that are scored. length: tokens of a row. batch, epochs: of a run.
    targets: LoRA's modules. bottleneck: adapters' size.
    """

    name: str
    model: str
    rates: dict[str, tuple[float, ...]]
    texts: int
    validation_texts: int
    test_texts: int
    length: int
    batch: int
    epochs: int
    targets: Any
    bottleneck: int


TASKS = {
    "encoder": Task(
        name="MiniLM on Reuters-R8",
        model="minilm",
        rates={
            "full": (1e-4, 2e-4, 5e-4),
            "lora": (2e-3, 5e-3, 1e-2),
            "qlora": (2e-3, 5e-3, 1e-2),
            "prompt": (2e-2, 5e-2, 1e-1),
            "adapters": (2e-3, 5e-3, 1e-2),
        },
        texts=1280,
        validation_texts=242,
        test_texts=2189,
        length=40,
        batch=8,
        epochs=1,
        targets=["query", "key", "value", "attention.output.dense"],
        bottleneck=48,
    ),
    "decoder": Task(
        name="SmolLM2-135M on Grimm's tales",
        model="smollm2",
        rates={
            "full": (1e-4, 2e-4, 5e-4),
            "lora": (1e-3, 2e-3, 5e-3),
            "qlora": (1e-3, 2e-3, 5e-3),
            "prompt": (2e-2, 5e-2, 1e-1),
            "adapters": (1e-3, 2e-3, 5e-3),
        },
        texts=80,
        validation_texts=24,
        test_texts=48,
        length=48,
        batch=4,
        epochs=1,
        targets="all-linear",
        bottleneck=64,
    ),
}


# ---- Texts ------------------------------------------------------------------------------------------


def texts(task: Task, seed: int) -> tuple[Any, Any, Any]:
    """(train, validation, test) rows as token ids; validation rows are a part of the training split, kept apart."""
    tokenizer = lessonkit.load_tokenizer(task.model)
    if task.model == "minilm":
        data = lessonkit.load_dataset(CLASSES)
        held = data["train"].shuffle(seed=1234)  # the same validation texts for every seed
        validation = held.select(range(task.validation_texts))
        train = held.select(range(task.validation_texts, len(held)))
        test = data["test"].select(range(task.test_texts))
        chosen = (train.shuffle(seed=seed).select(range(task.texts)), validation, test)

        def tokenize(batch: dict) -> dict:
            return tokenizer(batch["text"], truncation=True, max_length=task.length)

        return tuple(each.map(tokenize, batched=True, remove_columns=["text"]) for each in chosen)
    held, test = (_passages(split, tokenizer, task.length).shuffle(seed=1234) for split in ("train", "test"))
    validation, train = (
        held.select(range(task.validation_texts)),
        held.select(range(task.validation_texts, len(held))),
    )
    return train.shuffle(seed=seed).select(range(task.texts)), validation, test.select(range(task.test_texts))


def _passages(split: str, tokenizer: Any, length: int) -> Any:
    """All tales of a split cut into rows of ``length`` tokens; a tale's last, shorter piece is left out."""
    from datasets import Dataset

    found = []
    for tale in lessonkit.load_dataset(TALES)[split]["text"]:
        ids = tokenizer(tale, verbose=False)["input_ids"]
        found += [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]
    return Dataset.from_dict({"input_ids": found})


# ---- Models -----------------------------------------------------------------------------------------


def build(task: Task, technique: str, seed: int, hardware: Hardware) -> nn.Module:
    """The model, ready to train: what the technique trains, and an encoder's head, has gradients; the rest has none."""
    set_seed(seed)
    options: dict[str, Any] = {"attn_implementation": hardware.attention}
    if technique == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if hardware.bf16 else torch.float32,
            llm_int8_skip_modules=["classifier", "pooler"] if task.model == "minilm" else ["lm_head"],
        )
    if task.model == "minilm":
        names = lessonkit.load_dataset(CLASSES)["train"].features["label"].names
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        options |= {"num_labels": len(names)} | no_dropout
        model = lessonkit.load_model(task.model, AutoModelForSequenceClassification, **options)
    else:
        model = lessonkit.load_model(task.model, AutoModelForCausalLM, **options)
    kind = "SEQ_CLS" if task.model == "minilm" else "CAUSAL_LM"
    if technique in ("lora", "qlora"):
        config = LoraConfig(task_type=kind, r=RANK, lora_alpha=2 * RANK, target_modules=task.targets)
        return get_peft_model(model, config)
    if technique == "prompt":
        return get_peft_model(model, PromptTuningConfig(task_type=kind, num_virtual_tokens=VIRTUAL_TOKENS))
    if technique == "adapters":
        add_adapter(model, "task", bottleneck=task.bottleneck)
    return model


def trainer(
    task: Task, technique: str, rate: float, seed: int, hardware: Hardware, rows: Any, folder: str
) -> Trainer:
    """A Trainer with the task's budget."""
    tokenizer = lessonkit.load_tokenizer(task.model)
    if task.model == "minilm":
        collator: Any = DataCollatorWithPadding(tokenizer)
    else:
        collator = lessonkit.CausalLMCollator(tokenizer, labelled_logits_only=technique != "prompt")
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=task.epochs,
        per_device_train_batch_size=task.batch,
        per_device_eval_batch_size=64,
        learning_rate=rate,
        warmup_steps=0.1,
        bf16=hardware.bf16,
        fp16=hardware.fp16,
        use_cpu=hardware.device == "cpu",
        save_strategy="no",
        report_to="none",
        seed=seed,
    )
    return Trainer(
        build(task, technique, seed, hardware), arguments, train_dataset=rows, data_collator=collator
    )


# ---- What is measured -------------------------------------------------------------------------------


def measure(task: Task, technique: str, rate: float, seed: int) -> dict[str, Any]:
    """Train once and score. Everything a row of the result needs; ``scores`` has one number a test text."""
    hardware = lessonkit.detect_hardware()
    train, validation, test = texts(task, seed)
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(task, technique, rate, seed, hardware, train, folder)
        before = time.process_time()
        run = lessonkit.run(made)
        found = {
            "technique": technique,
            "rate": rate,
            "seed": seed,
            # of all cores together, so that what else the machine does counts little
            "core_seconds": time.process_time() - before,
            "peak_bytes": run.peak_bytes,
        }
        found["validation"] = _scores(task, made, validation)["quality"]
        found |= _scores(task, made, test)
        model = made.model.eval()
        trained = [each for each in model.parameters() if each.requires_grad]
        count = sum(each.numel() for each in trained)
        head = sum(
            each.numel() for name, each in model.named_parameters() if each.requires_grad and _of_head(name)
        )
        saved = Path(folder) / "saved"
        if technique == "adapters":
            save_adapter(model, saved, "task")
        else:
            model.save_pretrained(saved)
        return found | {
            "trained_parameters": count,
            "head_parameters": head,
            "saved_bytes": sum(each.stat().st_size for each in saved.rglob("*.safetensors")),
            "base_matrix_bytes": _matrix_bytes(model),
            "threads": torch.get_num_threads(),
        }


def latencies(task: Task, repeats: int = 40) -> dict[str, float]:
    """Median milliseconds of a forward pass over one text, by technique, in turns; no number of it depends on training."""
    hardware = lessonkit.detect_hardware()
    models = {technique: build(task, technique, 0, hardware).eval() for technique in TECHNIQUES}
    ids = texts(task, 0)[1][0]["input_ids"]
    batch = {"input_ids": torch.tensor([ids], device=next(models["full"].parameters()).device)}
    with torch.inference_mode():
        timed = lessonkit.latency(
            lambda technique: models[technique](**batch), TECHNIQUES, warmup=10, repeats=repeats
        )
    by_round = timed.times.reshape(repeats, len(TECHNIQUES))
    return dict(zip(TECHNIQUES, np.median(by_round, axis=0).tolist(), strict=True))


def _scores(task: Task, made: Trainer, evaluation: Any) -> dict[str, Any]:
    """Accuracy and macro-F1, or perplexity; and for each text 1 for right or 0, or its loss and its tokens."""
    if task.model == "minilm":
        names = lessonkit.load_dataset(CLASSES)["train"].features["label"].names
        predicted = made.predict(evaluation).predictions.argmax(-1)
        scored = lessonkit.classification_scores(evaluation["label"], predicted, names)
        right = [int(a == b) for a, b in zip(predicted, evaluation["label"], strict=True)]
        return {"quality": scored.accuracy, "macro_f1": scored.macro_f1, "n": scored.n, "scores": right}
    scored = lessonkit.perplexity(made.model, evaluation, batch_size=8)
    losses = [round(each, 4) for each in scored.text_losses.tolist()]
    return {"quality": scored.perplexity, "n": scored.n, "scores": losses, "tokens": int(scored.tokens)}


def _of_head(name: str) -> bool:
    return "classifier" in name or "pooler" in name


def _matrix_bytes(model: nn.Module) -> int:
    """What the base model's matrices inside its blocks take, scales of quantised ones included, adapters left out."""
    total = 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        inside = any(part in name for part in (".layer.", ".layers."))
        if not inside or weight is None or weight.ndim != 2 or "lora_" in name or "adapters" in name:
            continue
        total += weight.nbytes
        state = getattr(weight, "quant_state", None)
        if state is not None:
            scales = [state.absmax, getattr(state.state2, "absmax", None) if state.nested else None]
            total += sum(each.nbytes for each in scales if each is not None)
    return total
