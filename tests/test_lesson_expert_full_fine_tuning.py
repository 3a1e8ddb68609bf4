"""What `expert/full-fine-tuning` states as fact is computed anew, and its own code is tried on small models."""

from __future__ import annotations

import pytest
from lesson_source import statement

import lessonkit
from lessonkit.exercises import expert_full_fine_tuning as facts
from lessonkit.exercises import load_exercises

LESSON = "full-fine-tuning/expert"


def small_decoder(vocab_size: int = 100):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": vocab_size}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads))


def test_the_parameters_that_the_bill_counts():
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(lessonkit.fetch("smollm2")))
    assert sum(weight.numel() for weight in model.parameters()) == facts.PARAMETERS
    told = load_exercises("expert/full-fine-tuning")["bill"].reference
    plan = lessonkit.predict_memory(model.config, "full", dtype="float32", sequence_length=32)
    kept = plan.breakdown["weights"] + plan.gradients_bytes + plan.optimizer_bytes
    assert told == pytest.approx(kept / 2**30, rel=1e-3)


def test_a_thousand_small_steps_leave_a_bfloat16_weight_where_it_is():
    import torch

    weight = torch.tensor(0.1, dtype=torch.bfloat16)
    for _ in range(1000):
        weight += 1e-5
    assert weight.item() == facts.TENTH_IN_BFLOAT16
    neighbour = torch.nextafter(weight, torch.tensor(1.0, dtype=torch.bfloat16))
    assert (neighbour - weight).item() == 2**-11


@pytest.fixture
def names():
    import torch

    model = small_decoder()
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return {
        "torch": torch,
        "model": model,
        "device": "cpu",
        "bf16": False,
        "base": start,
        "tuned": {name: weight + 0.5 for name, weight in start.items()},
        "LEARNING_RATE": 1e-3,
    }


def test_checkpointing_and_accumulation_change_no_gradient(names: dict):
    import torch

    for name in ("set_checkpointing", "gradients"):
        exec(statement(LESSON, name), names)
    names["model"].train()
    batch = torch.randint(0, 100, (4, 12), generator=torch.Generator().manual_seed(0))
    whole = names["gradients"]([batch])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(names["gradients"]([batch], True), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(names["gradients"](list(batch.chunk(2))), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["adamw_torch_fused", "adamw_8bit"])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_peak_that_the_lesson_measures_is_the_one_that_is_predicted(names: dict, parts: int, kind: str):
    import time

    import torch

    names |= {"time": time, "AdamW8bit": pytest.importorskip("bitsandbytes").optim.AdamW8bit}
    for name in ("now", "step", "measured_peak", "make_adamw"):
        exec(statement(LESSON, name), names)
    model = names["model"] = small_decoder(vocab_size=2000).train()
    model.config.use_cache = False
    optimizer = names["make_adamw"](kind, model.parameters(), rate=0.0)
    batch = torch.randint(0, 2000, (8, 64))
    names["step"](model, optimizer, [batch])  # makes the optimiser's states
    before = [weight.clone() for weight in model.parameters()]
    measured = names["measured_peak"](optimizer, list(batch.chunk(parts)))
    sizes = {"batch_size": 8 // parts, "gradient_accumulation_steps": parts, "sequence_length": 64}
    sizes |= {"padding": False, "dtype": "float32"}
    plan = lessonkit.predict_memory(model.config, "full", optimizer=kind, **sizes)
    assert measured == pytest.approx(plan.live_bytes, rel=0.05)
    # a learning rate of 0 leaves the weights alone, so the switches can be tried on the base model
    assert all(torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))


def test_the_update_of_8_bit_adamw_on_a_cpu_unpacks_the_largest_tensor(names: dict):
    """Few tokens and a large table: the fullest moment is in the update, as in the lesson's last row."""
    import time

    import torch

    names |= {"time": time, "AdamW8bit": pytest.importorskip("bitsandbytes").optim.AdamW8bit}
    for name in ("now", "step", "measured_peak", "make_adamw"):
        exec(statement(LESSON, name), names)
    model = names["model"] = small_decoder(vocab_size=20_000).train()
    model.config.use_cache = False
    optimizer = names["make_adamw"]("adamw_8bit", model.parameters(), rate=0.0)
    batch = torch.randint(0, 20_000, (1, 4))
    names["step"](model, optimizer, [batch])
    measured = names["measured_peak"](optimizer, [batch])
    sizes = {"optimizer": "adamw_8bit", "batch_size": 1, "sequence_length": 4, "padding": False}
    plan, on_gpu = (
        lessonkit.predict_memory(model.config, "full", dtype="float32", device=device, **sizes)
        for device in ("cpu", "cuda")
    )
    assert plan.peak_phase == "step"
    assert measured == pytest.approx(plan.live_bytes, rel=0.05)
    assert on_gpu.live_bytes < 0.8 * plan.live_bytes


def test_layer_wise_groups_hold_each_weight_once_and_fall_from_top_to_bottom(names: dict):
    exec(statement(LESSON, "groups"), names)
    found = names["groups"](0.5)
    held = [id(weight) for group in found for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in names["model"].parameters())
    rates = [group["lr"] for group in found]
    assert rates == sorted(rates, reverse=True)
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4])  # norm, upper layer, lower layer, embeddings


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 2.0])
def test_the_dial_sets_every_weight(names: dict, alpha: float):
    exec(statement(LESSON, "set_dial"), names)
    names["set_dial"](alpha)
    for name, weight in names["model"].named_parameters():
        assert (weight - names["base"][name]).mean().item() == pytest.approx(0.5 * alpha, abs=1e-5)


def test_shuffled_units_compute_the_same_function(names: dict):
    import re

    import torch
    from lesson_source import lesson_text

    text = lesson_text(LESSON)
    cell = re.search(r"^shuffled = .*?(?=\n\nwith torch)", text, re.DOTALL | re.MULTILINE).group()
    names |= {"SEED": 0, "tuned": {k: v.detach().clone() for k, v in names["model"].named_parameters()}}
    exec(cell, names)
    model = names["model"].eval()
    ids = torch.randint(0, 100, (2, 9))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for name, weight in model.named_parameters():
            weight.copy_(names["shuffled"][name])
        torch.testing.assert_close(model(input_ids=ids).logits, before, atol=1e-5, rtol=0)
    moved = [
        name for name in names["tuned"] if not torch.equal(names["tuned"][name], names["shuffled"][name])
    ]
    assert len(moved) == 3 * model.config.num_hidden_layers
