"""What the lesson states as fact is computed here anew: from the data, and from its own code."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lesson_source import lesson_text, statement

import lessonkit
from lessonkit.exercises import beginner_full_fine_tuning as facts
from lessonkit.exercises import load_exercises

LESSON = "full-fine-tuning/beginner"


@pytest.fixture(scope="module")
def reuters():
    return lessonkit.load_dataset("reuters-r8")


# ---- The data ---------------------------------------------------------------------------------------


def test_the_counts_that_the_baseline_exercise_uses(reuters):
    counts = {}
    for split in ("train", "test"):
        names = reuters[split].features["label"].names
        counts[split] = Counter(names[label] for label in reuters[split]["label"])
    assert (counts["test"]["earn"], counts["test"].total()) == (facts.EARN_TEST, facts.TEST_TEXTS)
    assert (counts["train"]["earn"], counts["train"].total()) == (facts.EARN_TRAIN, facts.TRAIN_TEXTS)
    assert counts["train"].most_common(1)[0][0] == "earn"
    assert len(names) == 8


def test_the_baseline_exercise_agrees_with_the_library(reuters):
    baseline = lessonkit.majority_baseline(reuters["train"]["label"], reuters["test"]["label"])
    assert load_exercises("beginner/full-fine-tuning")["baseline"].reference == pytest.approx(baseline)


def test_the_share_of_long_texts(reuters):
    texts = list(reuters["train"]["text"])
    ids = lessonkit.load_tokenizer("minilm")(texts, verbose=False)["input_ids"]
    assert sum(len(each) > 40 for each in ids) == facts.LONG_TRAIN
    assert sum(len(each.split()) > 40 for each in texts) == facts.LONG_WORDS


def test_the_parameter_counts_that_the_lesson_names():
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

    minilm = AutoConfig.from_pretrained(lessonkit.fetch("minilm"), num_labels=8)
    base = BertConfig(vocab_size=30522, num_labels=8)  # the defaults are BERT-base's
    with torch.device("meta"):
        models = [AutoModelForSequenceClassification.from_config(config) for config in (minilm, base)]
    small, large = (sum(p.numel() for p in model.parameters()) for model in models)
    told = lesson_text(LESSON)
    assert f'"MiniLM": {small:_}' in told
    assert f'"BERT-base": {large:_}' in told
    embeddings = sum(p.numel() for p in models[0].bert.embeddings.parameters())
    assert 0.45 < embeddings / small < 0.55  # "half of MiniLM's parameters"


# ---- The loop ---------------------------------------------------------------------------------------


@pytest.fixture
def lesson_names(tiny, tmp_path: Path) -> dict:
    """The names that the lesson has defined by the time it trains, at a size for tests."""
    import torch
    from torch.utils.data import DataLoader
    from transformers import (
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        get_linear_schedule_with_warmup,
    )

    return {
        "np": np,
        "torch": torch,
        "DataLoader": DataLoader,
        "Trainer": Trainer,
        "TrainingArguments": TrainingArguments,
        "get_linear_schedule_with_warmup": get_linear_schedule_with_warmup,
        "collator": DataCollatorWithPadding(tiny.tokenizer),
        "lesson": SimpleNamespace(folder=tmp_path),
        "device": "cpu",
        "bf16": False,
        "BATCH_SIZE": 5,  # of 24 rows, so that the last batch is a smaller one
        "EPOCHS": 2,
        "LEARNING_RATE": 5e-3,
        "SEED": 0,
        "train_dataset": tiny.tokenized(),
    }


def fresh_model(tiny):
    """Without dropout, as in the lesson; the large head makes gradients long enough to be clipped."""
    model = tiny.model()
    for module in model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.0
    model.classifier.weight.data *= 50
    return model


def test_the_loop_written_by_hand_is_the_trainers(tiny, lesson_names: dict):
    import torch

    for name in ("batches", "train_by_hand", "arguments"):
        exec(statement(LESSON, name), lesson_names)
    before, by_hand = fresh_model(tiny), fresh_model(tiny)
    dataset, rate = lesson_names["train_dataset"], lesson_names["LEARNING_RATE"]
    hand_losses = lesson_names["train_by_hand"](by_hand, dataset, lesson_names["EPOCHS"], rate)

    seen = []  # the Trainer rounds the losses that it logs

    class Watching(lesson_names["Trainer"]):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            seen.append(loss.item() if torch.is_tensor(loss) else loss[0].item())
            return loss

    lesson_names["Trainer"] = Watching
    lesson_names["by_trainer"] = fresh_model(tiny)
    exec(statement(LESSON, "trainer"), lesson_names)
    run = lessonkit.run(lesson_names["trainer"])
    logged = [entry["loss"] for entry in run.history if "loss" in entry]

    assert len(hand_losses) == len(seen) == len(logged) == 10
    assert hand_losses == pytest.approx(seen, abs=1e-5)
    assert hand_losses == pytest.approx(logged, abs=1e-3)
    hand, trainers, start = (
        torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        for model in (by_hand, lesson_names["by_trainer"], before)
    )
    torch.testing.assert_close(hand, trainers, atol=1e-5, rtol=0)
    assert (hand - start).abs().max() > 1e-3  # both have trained: neither stood still


def test_the_recall_reference_is_scikit_learns():
    from sklearn.metrics import recall_score

    draws = np.random.default_rng(0)
    for _ in range(50):
        topics = int(draws.integers(2, 6))
        matrix = draws.integers(0, 5, (topics, topics)) * draws.integers(0, 2, (topics, topics))
        true = np.repeat(np.arange(topics), matrix.sum(axis=1))
        predicted = np.concatenate([np.repeat(np.arange(topics), row) for row in matrix])
        if not len(true):
            continue
        wanted = recall_score(true, predicted, labels=list(range(topics)), average=None, zero_division=0)
        found = [facts._recall_reference(matrix.tolist(), topic) for topic in range(topics)]
        assert found == pytest.approx(wanted.tolist())
