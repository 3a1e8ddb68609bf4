"""What the comparison of techniques states and computes by hand is counted anew, on small models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lesson_source import lesson_text, statement

import lessonkit
from lessonkit.exercises import labs_compare_techniques as facts

LESSON = "labs/compare-techniques"
ROOT = Path(__file__).resolve().parent.parent


def test_the_lessons_way_to_count_tells_trained_from_frozen_and_the_head(tiny):
    names: dict = {}
    exec(statement(LESSON, "numbers"), names)
    model = tiny.model()
    everything = sum(each.numel() for each in model.parameters())
    head = sum(each.numel() for each in model.classifier.parameters())
    assert names["numbers"](model) == (everything, everything, head)
    model.bert.requires_grad_(False)
    assert names["numbers"](model) == (everything, head, head)


# ---- The share of full fine-tuning ------------------------------------------------------------------


def shares(ours: np.ndarray, full: np.ndarray) -> tuple[float, float, float]:
    """By the lesson's function; right answers of shape (seeds, texts)."""
    names = {
        "np": np,
        "SEEDS": range(len(ours)),
        "labels": ours[0],
        "right": {("LoRA", seed): row for seed, row in enumerate(ours)}
        | {("full fine-tuning", seed): row for seed, row in enumerate(full)},
    }
    exec(statement(LESSON, "share_of_full"), names)
    return names["share_of_full"]("LoRA")


def test_equal_answers_have_a_share_of_one_and_no_doubt():
    right = np.random.default_rng(0).random((3, 200)) < 0.8
    assert shares(right, right) == (1.0, 1.0, 1.0)


def test_the_interval_holds_the_share_and_narrows_with_more_texts():
    random, widths = np.random.default_rng(0), []
    for texts in (100, 3000):
        full = random.random((3, texts)) < 0.9
        ours = full & (random.random((3, texts)) < 0.95)
        share, low, high = shares(ours, full)
        assert low < share < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_seeds_that_differ_widen_the_interval():
    even = np.ones((3, 1000), dtype=bool)
    even[:, ::10] = False
    uneven = even.copy()
    uneven[0, ::3] = False
    steady, shaken = (shares(each, np.ones((3, 1000), dtype=bool)) for each in (even, uneven))
    assert shaken[2] - shaken[1] > 2 * (steady[2] - steady[1])


# ---- Exercises --------------------------------------------------------------------------------------


def test_the_soft_prompt_takes_as_much_memory_as_lora():
    """The first exercise's answer, by the prediction that the lesson prints."""
    config = small_config()
    options = {
        "batch_size": 8,
        "sequence_length": 24,
        "dtype": "float32",
        "task": "sequence-classification",
        "num_labels": 8,
        "device": "cpu",
    }
    lora = lessonkit.predict_memory(
        config, "lora", r=8, target_modules=["query", "key", "value", "attention.output.dense"], **options
    )
    prompt = lessonkit.predict_memory(config, "prompt", num_virtual_tokens=20, **options)
    assert prompt.trainable_parameters < lora.trainable_parameters
    assert prompt.peak_bytes > 0.95 * lora.peak_bytes
    assert facts._memory().reference == "c"


def small_config():
    from transformers import AutoConfig

    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return AutoConfig.from_pretrained(lessonkit.fetch("minilm"), num_labels=8, **no_dropout)


def test_the_front_is_what_nothing_beats():
    random = np.random.default_rng(0)
    for _ in range(50):
        points = {
            str(name): tuple(row) for name, row in enumerate(random.integers(0, 6, size=(7, 2)).tolist())
        }
        front = facts._front_reference(points)
        costs = [points[name][0] for name in front]
        assert costs == sorted(costs)
        for name, (cost, quality) in points.items():
            beaten = any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points.values())
            assert (name in front) != beaten


def test_the_validation_texts_of_the_exercise_are_the_lessons():
    text = lesson_text(LESSON)
    sizes = f"smoke={facts.SMOKE_VALIDATION}, laptop={facts.VALIDATION}, gpu={facts.GPU_VALIDATION}"
    assert f"VALIDATION_TEXTS = lesson.pick({sizes})" in text
    assert "validation = shuffled.select(range(VALIDATION_TEXTS))" in text
    assert 'data["train"].shuffle(seed=1234)' in text
    assert f"**{facts.REACH} on the validation texts**" in text
    told = " ".join(text.replace("\n# ", " ").split())
    assert f"**at most {100 * facts.SHARE:g} % of the model's numbers**" in told


def test_a_rank_of_one_on_value_keeps_to_the_share_and_the_start_does_not():
    """LoRA on MiniLM's query and value, or value alone, and the head; a soft prompt, as long as the lesson's or half."""
    total, head = 22_713_216 + 3_080, 8 * 385
    lora = {(r, modules): 6 * modules * 2 * 384 * r for r in (1, 8) for modules in (1, 2)}
    prompt = {tokens: 384 * tokens for tokens in (10, 20)}

    def share(own: int) -> float:
        return (own + head) / (total + own + head)

    assert share(lora[1, 1]) < facts.SHARE < share(lora[1, 2]) < share(lora[8, 2])
    assert share(prompt[10]) < facts.SHARE < share(prompt[20])


# ---- Fairness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["smoke", "laptop", "gpu"])
def test_each_technique_gets_equally_many_rates(scale: str):
    names = {"lesson": SimpleNamespace(pick=lambda **sizes: sizes[scale])}
    exec(statement(LESSON, "RATES"), names)
    rates = names["RATES"]
    assert len({len(each) for each in rates.values()}) == 1
    assert all(list(each) == sorted(each) for each in rates.values())
    assert set(rates) == {"full fine-tuning", "LoRA", "QLoRA", "prompt tuning", "adapters"}


def test_the_laptops_rates_are_the_best_that_the_course_measured():
    measured = json.loads((ROOT / "results" / "techniques.json").read_text(encoding="utf-8"))["rows"]
    rates = {
        row["technique"]: row["rate"] for row in measured if row["task"] == "encoder" and row["technique"]
    }
    names = {"lesson": SimpleNamespace(pick=lambda **sizes: sizes["laptop"])}
    exec(statement(LESSON, "RATES"), names)
    assert [each for (each,) in names["RATES"].values()] == [
        rates[kind] for kind in ("full", "lora", "qlora", "prompt", "adapters")
    ]
    assert 20 * rates["full"] == pytest.approx(rates["lora"])  # as the lesson says
    assert 1000 * rates["full"] == pytest.approx(rates["prompt"])
