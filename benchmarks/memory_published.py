"""Predicted memory beside what others measured on a GPU: PEFT's published method comparison.

The measurements are facts from https://github.com/huggingface/peft (method_comparison/MetaMathQA/results): the
greatest memory that PyTorch reserved on an L40S while Llama-3.2-3B was trained for 5,000 steps of 4 texts of at most
768 tokens, in bfloat16, with AdamW. Runs differ by what PyTorch and transformers were at the time.

python benchmarks/memory_published.py
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from saving import save
from transformers import LlamaConfig

from lessonkit.memory import predict_memory

LLAMA_3_2_3B = {
    "vocab_size": 128256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "architectures": ["LlamaForCausalLM"],
}
#: name, technique, options, reserved bytes as published, file of the result
PUBLISHED: list[tuple[str, str, dict[str, Any], float, str]] = [
    (
        "LoRA, r=32, q_proj and v_proj",
        "lora",
        {"r": 32, "target_modules": "q_proj,v_proj"},
        22_273_851_392,
        "lora--llama-3.2-3B-rank32.json, 2025-06-19",
    ),
    (
        "LoRA, r=64, q_proj and v_proj",
        "lora",
        {"r": 64, "target_modules": "q_proj,v_proj"},
        22_540_189_696,
        "lora--llama-3.2-3B-rank64.json, 2025-06-19",
    ),
    (
        "LoRA, r=10, feed-forward layers",
        "lora",
        {"r": 10, "target_modules": "gate_proj,up_proj,down_proj"},
        24_712_839_168,
        "lora--llama-3.2-3B-rank10-target-mlp.json, 2025-10-23",
    ),
    (
        "Prompt tuning, 200 virtual tokens",
        "prompt",
        {"num_virtual_tokens": 200},
        24_379_392_000,
        "prompt_tuning--llama-3.2-3B-default.json, 2025-06-20",
    ),
    (
        "Full fine-tuning",
        "full",
        {},
        37_241_225_216,
        "full-finetuning--llama-3.2-3B-lr_0.00001.json, 2025-06-20",
    ),
    ("Full fine-tuning, a later run", "full", {}, 38.9e9, "as reported for a later version, to three digits"),
]


def main() -> None:
    """Predict each run, and save it beside what was published."""
    rows = []
    for name, technique, options, reserved, source in PUBLISHED:
        start = time.perf_counter()
        plan = predict_memory(
            LlamaConfig(**LLAMA_3_2_3B),
            technique,
            batch_size=4,
            sequence_length=768,
            dtype="bfloat16",
            device="cuda",
            **options,
        )
        rows.append(
            {
                "name": name,
                "predicted_bytes": plan.peak_bytes,
                "live_bytes": plan.live_bytes,
                "published_bytes": int(reserved),
                "error": round(plan.peak_bytes / reserved - 1, 4),
                "trainable_parameters": plan.trainable_parameters,
                "seconds": round(time.perf_counter() - start, 2),
                "source": source,
            }
        )
    errors = [abs(row["error"]) for row in rows]
    save("memory-published", rows, median_error=round(statistics.median(errors), 4), worst_error=max(errors))


if __name__ == "__main__":
    main()
