"""A bf16 training step of MiniLM on the CPU with plain and with fused attention, by text length.

python benchmarks/attention_on_cpu.py
"""

from __future__ import annotations

import statistics
import time

import torch
from saving import save
from transformers import AutoModelForSequenceClassification

import lessonkit

TOKENS, STEPS, ROUNDS = 768, 8, 5


def step_seconds(model: torch.nn.Module, length: int) -> float:
    """Seconds a forward and backward pass over TOKENS tokens takes, in texts of ``length``."""
    texts = TOKENS // length
    ids = torch.randint(1000, 30000, (texts, length))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.randint(0, 8, (texts,)),
    }
    start = time.perf_counter()
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=lessonkit.detect_hardware().bf16):
            model(**batch).loss.backward()
        model.zero_grad()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    """Measure both, alternating, and save the medians."""
    models = {
        name: lessonkit.load_model(
            "minilm",
            AutoModelForSequenceClassification,
            num_labels=8,
            attn_implementation=name,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ).train()
        for name in ("eager", "sdpa")
    }
    rows = []
    for length in (48, 128, 256):
        for model in models.values():
            step_seconds(model, length)
        timed = {name: [] for name in models}
        for _ in range(ROUNDS):
            for name, model in models.items():
                timed[name].append(step_seconds(model, length))
        medians = {f"{name}_milliseconds": round(1000 * statistics.median(timed[name]), 1) for name in models}
        rows.append({"name": f"{TOKENS // length} texts of {length} tokens", **medians})
    save("attention-on-cpu", rows, model="MiniLM", rounds=ROUNDS, tokens_per_step=TOKENS)


if __name__ == "__main__":
    main()
