"""The beginner lesson's training (MiniLM, Reuters-R8, laptop scale) over several seeds.

python benchmarks/full_fine_tuning.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
from saving import save
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

import lessonkit
from lessonkit.hardware import Hardware

TRAIN_TEXTS, MAX_LENGTH, BATCH_SIZE, LEARNING_RATE = 3200, 40, 16, 2e-4


def arguments(hardware: Hardware, folder: str, seed: int) -> TrainingArguments:
    """The lesson's settings."""
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=64,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.1,
        bf16=hardware.bf16,
        use_cpu=hardware.device == "cpu",
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        seed=seed,
    )


def train_and_score(seed: int, hardware: Hardware) -> dict[str, float]:
    """One training with its own texts, order and head; scores on the whole test split."""
    data, tokenizer = lessonkit.load_dataset("reuters-r8"), lessonkit.load_tokenizer("minilm")
    names = data["train"].features["label"].names

    def tokenize(rows):
        return tokenizer(rows["text"], truncation=True, max_length=MAX_LENGTH)

    chosen = data["train"].shuffle(seed=seed).select(range(TRAIN_TEXTS)).map(tokenize, batched=True)
    test = data["test"].map(tokenize, batched=True)
    set_seed(seed)
    model = lessonkit.load_model(
        "minilm",
        AutoModelForSequenceClassification,
        num_labels=len(names),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=hardware.attention,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            arguments(hardware, folder, seed),
            train_dataset=chosen,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        run = lessonkit.run(trainer)
        logits = trainer.predict(test).predictions
    scores = lessonkit.classification_scores(test["label"], logits.argmax(-1), names)
    return {
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "seconds": run.seconds,
        "tokens_per_second": run.tokens_per_second,
        "peak_bytes": run.peak_bytes,
    }


def count_words_and_score(seed: int) -> dict[str, float]:
    """The lesson's second baseline, on the same texts as ``train_and_score``, uncut."""
    data = lessonkit.load_dataset("reuters-r8")
    names = data["train"].features["label"].names
    chosen = data["train"].shuffle(seed=seed).select(range(TRAIN_TEXTS))
    with lessonkit.measure() as run:
        counter = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100))
        counter.fit(chosen["text"], chosen["label"])
    scores = lessonkit.classification_scores(
        data["test"]["label"], counter.predict(data["test"]["text"]), names
    )
    return {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "seconds": run.seconds}


def summary(name: str, runs: list[dict[str, float]]) -> dict[str, float | str]:
    """Mean and range over the seeds, for each measured figure."""
    row: dict[str, float | str] = {"name": name}
    for key in runs[0]:
        values = [run[key] for run in runs]
        row |= {key: round(float(np.mean(values)), 4), f"{key}_spread": round(float(np.ptp(values)), 4)}
    return row


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = list(range(parser.parse_args().seeds))
    hardware = lessonkit.detect_hardware()
    runs = [train_and_score(seed, hardware) for seed in seeds]
    data = lessonkit.load_dataset("reuters-r8")
    baseline = lessonkit.majority_baseline(data["train"]["label"], data["test"]["label"])
    rows = [
        {"name": "Majority class", "accuracy": round(baseline, 4), "accuracy_spread": 0.0},
        summary(
            "Counting words (TF-IDF, logistic regression)", [count_words_and_score(seed) for seed in seeds]
        ),
        summary("Full fine-tuning, MiniLM", runs),
    ]
    save(
        "full-fine-tuning",
        rows,
        task="Reuters-R8",
        test_texts=len(data["test"]),
        train_texts=TRAIN_TEXTS,
        seeds=seeds,
    )


if __name__ == "__main__":
    main()
