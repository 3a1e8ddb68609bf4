"""Not a benchmark: what the overview claims of each technique, and what the measured rows say of it.

Every verdict is computed: "holds", "holds with conditions" or "doesn't hold", with the numbers that decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import LlamaConfig

import lessonkit

CALLED = {"full": "full fine-tuning", "lora": "LoRA"}
MEASURED = {"core_seconds": "training time", "latency_milliseconds": "latency"}
HOLDS, CONDITIONS, NOT = "holds", "holds with conditions", "doesn't hold"
Rows = dict[str, dict[str, dict[str, Any]]]
#: LLaMA-65B's shape (Touvron et al. 2023, "LLaMA", table 2).
LLAMA_65B = {
    "hidden_size": 8192,
    "intermediate_size": 22016,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
}


def judge(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The claims, each with its verdict and why. rows: of ``techniques.json``."""
    by: Rows = {}
    for row in rows:
        if row["technique"]:
            by.setdefault(row["task"], {})[row["technique"]] = row
    found = []
    for technique, claim, check in CLAIMS:
        verdict, because = check(by)
        found.append({"technique": technique, "claim": claim, "verdict": verdict, "because": because})
    return found


def _both(by: Rows, test: Callable[[dict[str, dict[str, Any]]], tuple[bool, str]]) -> tuple[str, str]:
    """Holds on all tasks, on some, or on none; with each task's numbers."""
    told, results = [], []
    for task, rows in by.items():
        true, words = test(rows)
        results.append(true)
        told.append(f"{task}: {words}")
    verdict = HOLDS if all(results) else CONDITIONS if any(results) else NOT
    return verdict, "; ".join(told)


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _of_full(row: dict[str, Any]) -> str:
    low, high = row["of_full_interval"]
    return f"{_percent(row['of_full'])} ({_percent(low)} to {_percent(high)})"


def _highest(by: Rows) -> tuple[str, str]:
    """With conditions, if another's mean is higher, but by less than its interval."""
    told, ahead, proven = [], [], []
    for task, rows in by.items():
        best = max((row for name, row in rows.items() if name != "full"), key=lambda row: row["of_full"])
        ahead.append(best["of_full"] > 1)
        proven.append(best["of_full_interval"][0] > 1)
        told.append(f"{task}: next best, {best['name']}, at {_of_full(best)} of it")
    verdict = NOT if any(proven) else CONDITIONS if any(ahead) else HOLDS
    return verdict, "; ".join(told)


def _quality_at_least(technique: str, share: float) -> Callable[[Rows], tuple[str, str]]:
    def test(rows: dict[str, dict[str, Any]]) -> tuple[bool, str]:
        row = rows[technique]
        return row["of_full"] >= share, f"{_of_full(row)} of full fine-tuning"

    return lambda by: _both(by, test)


def _own_share_below(technique: str, share: float, least: float = 0.0) -> Callable[[Rows], tuple[str, str]]:
    def test(rows: dict[str, dict[str, Any]]) -> tuple[bool, str]:
        row = rows[technique]
        head = f", {_percent(row['share_of_parameters'], 2)} with the head" if row["head_parameters"] else ""
        return least <= row["own_share"] < share, f"{_percent(row['own_share'], 4)}{head}"

    return lambda by: _both(by, test)


def _faster(
    technique: str, than: str, sign: int = 1, what: str = "core_seconds"
) -> Callable[[Rows], tuple[str, str]]:
    """sign 1: less of ``what`` than the other; -1: more."""

    def test(rows: dict[str, dict[str, Any]]) -> tuple[bool, str]:
        ratio = rows[technique][what] / rows[than][what]
        return sign * (1 - ratio) > 0, f"{ratio:.2f} times {CALLED[than]}'s {MEASURED[what]}"

    return lambda by: _both(by, test)


def _less_memory(technique: str, than: str) -> Callable[[Rows], tuple[str, str]]:
    def test(rows: dict[str, dict[str, Any]]) -> tuple[bool, str]:
        ratio = rows[technique]["predicted_peak_bytes"] / rows[than]["predicted_peak_bytes"]
        return ratio < 1, f"a step's peak is {_percent(ratio, 0)} of {CALLED[than]}'s"

    return lambda by: _both(by, test)


def _half_the_weights(by: Rows) -> tuple[str, str]:
    def test(rows: dict[str, dict[str, Any]]) -> tuple[bool, str]:
        # LoRA here keeps float32; against 16 bits, as large models are loaded, its matrices would be half of that
        ratio = rows["qlora"]["base_matrix_bytes"] / (rows["lora"]["base_matrix_bytes"] / 2)
        return ratio < 0.5, f"matrices {_percent(ratio, 0)} of 16-bit ones"

    return _both(by, test)


def _lower_quality(technique: str) -> Callable[[Rows], tuple[str, str]]:
    def test(rows: dict[str, dict[str, Any]]) -> tuple[bool, str]:
        row = rows[technique]
        return row["of_full_interval"][1] < 1, f"{_of_full(row)} of full fine-tuning"

    return lambda by: _both(by, test)


def _close_to(technique: str, other: str, share: float) -> Callable[[Rows], tuple[str, str]]:
    def test(rows: dict[str, dict[str, Any]]) -> tuple[bool, str]:
        ratio = rows[technique]["of_full"] / rows[other]["of_full"]
        return ratio >= share, f"{_percent(ratio)} of {CALLED[other]}'s quality"

    return lambda by: _both(by, test)


def _consumer_65b(by: Rows) -> tuple[str, str]:
    plan = lessonkit.predict_memory(
        LlamaConfig(**LLAMA_65B),
        "qlora",
        r=64,
        target_modules="all-linear",
        batch_size=1,
        sequence_length=512,
        gradient_checkpointing=True,
        device="cuda",
    )
    gib = plan.peak_bytes / 2**30
    verdict = HOLDS if gib < 24 else CONDITIONS if gib < 48 else NOT
    return (
        verdict,
        f"a 65B step is predicted at {gib:.1f} GiB: it fits one GPU of 48 GB, no consumer GPU of 24 or 32 GB",
    )


CLAIMS: list[tuple[str, str, Callable[[Rows], tuple[str, str]]]] = [
    ("full", "Highest quality", _highest),
    ("full", "Slower training than LoRA", _faster("full", "lora", -1)),
    ("lora", "99 % of full fine-tuning's quality", _quality_at_least("lora", 0.99)),
    ("lora", "Trains under 1 % of the parameters", _own_share_below("lora", 0.01)),
    ("lora", "Low memory", _less_memory("lora", "full")),
    ("qlora", "Half of LoRA's memory for the base's weights, or less", _half_the_weights),
    ("qlora", "Minimal quality loss against LoRA (2 % at most)", _close_to("qlora", "lora", 0.98)),
    ("qlora", "Slower training than LoRA", _faster("qlora", "lora", -1)),
    ("qlora", "65B models on consumer GPUs", _consumer_65b),
    ("prompt", "Under 0.01 % of the parameters", _own_share_below("prompt", 0.0001)),
    ("prompt", "Faster training than LoRA", _faster("prompt", "lora")),
    ("prompt", "Lower quality than full fine-tuning", _lower_quality("prompt")),
    ("adapters", "1 to 5 % of the parameters", _own_share_below("adapters", 0.05, 0.01)),
    ("adapters", "Nearly full quality (98 % or more)", _quality_at_least("adapters", 0.98)),
    (
        "adapters",
        "Higher latency than the plain model",
        _faster("adapters", "full", -1, "latency_milliseconds"),
    ),
]
