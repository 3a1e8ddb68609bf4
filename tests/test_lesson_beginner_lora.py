"""What the lesson states as fact is computed here anew, and what it makes by hand is PEFT's, to the last digits."""

from __future__ import annotations

import re

import pytest
from lesson_source import lesson_text, statement

import lessonkit
from lessonkit.exercises import beginner_lora as facts

LESSON = "lora/beginner"

# PEFT 0.21 asks transformers 5 by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def own() -> dict:
    """The lesson's own functions, as a learner has them."""
    import hashlib

    import torch
    from peft import LoraConfig

    names = {
        "LoraConfig": LoraConfig,
        "RANK": facts.RANK,
        "hashlib": hashlib,
        "torch": torch,
        "lessonkit": lessonkit,
    }
    for each in ("lora_config", "fingerprint", "thin_matrices"):
        exec(statement(LESSON, each), names)
    return names


@pytest.fixture
def adapted(tiny, own: dict):
    """The tiny model with the lesson's adapters, whose B is no longer zero; in float64 but for the last case."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(tiny.model().eval(), own["lora_config"]())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def logits(model, tiny):
    import torch

    batch = tiny.tokenizer(
        tiny.dataset["text"][:6], padding=True, return_tensors="pt", return_token_type_ids=False
    )
    with torch.inference_mode():
        return model.eval()(**batch).logits.clone()


def trained(model) -> int:
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


# ---- Counting ---------------------------------------------------------------------------------------


def test_the_count_of_the_first_exercise_is_that_of_the_model(own: dict):
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(lessonkit.fetch("minilm"), num_labels=facts.TOPICS)
    counts = {}
    for r in (1, 2, facts.RANK):
        counts[r] = trained(
            get_peft_model(AutoModelForSequenceClassification.from_config(config), own["lora_config"](r))
        )
    assert counts[facts.RANK] == facts.TRAINED
    assert (config.num_hidden_layers, config.hidden_size) == (facts.LAYERS, facts.WIDTH)
    assert counts[1] <= facts.BUDGET["laptop"] < counts[2]  # "only r = 1 fits the budget"


def test_the_budget_on_a_gpu_is_for_rank_one_too():
    head = 8 * 768 + 8  # of BERT-base: 12 layers, 768 wide
    pair = 12 * 2 * 2 * 768
    assert head + pair <= facts.BUDGET["gpu"] < head + 2 * pair


def test_the_lesson_and_its_exercise_have_one_budget():
    told = statement(LESSON, "BUDGET").replace("_", "")
    for scale, budget in facts.BUDGET.items():
        assert re.search(rf"{scale}={budget}\b", told)


def test_both_datasets_fit_one_head():
    topics = [
        len(lessonkit.load_dataset(name)["train"].features["label"].names)
        for name in ("reuters-r8", "bbc-news")
    ]
    assert topics == [facts.TOPICS, 5]


def test_the_larger_model_fits_a_t4_with_lora_alone(own: dict):
    from transformers import BertConfig, LlamaConfig

    names = {**own, "bf16": False, "LlamaConfig": LlamaConfig, "BertConfig": BertConfig}
    for each in ("predicted", "smollm2", "step", "plans"):
        exec(statement(LESSON, each), names)
    t4 = 15 * 2**30
    peaks = {}
    for name, (config, options) in names["plans"].items():
        for technique in ("full", "lora"):
            plan = names["predicted"](config, technique, device="cuda", mixed_precision=False, **options)
            peaks[name, technique] = plan.peak_bytes
            counted = plan.total_parameters
        assert peaks[name, "lora"] < min(t4, peaks[name, "full"])
    assert peaks["BERT-base", "full"] < t4 < peaks["SmolLM2-1.7B", "full"]
    assert counted == pytest.approx(1.71e9, rel=0.01)


# ---- The start --------------------------------------------------------------------------------------


def test_a_fresh_adapter_changes_nothing_and_its_first_gradient_is_for_b_alone(tiny, own: dict):
    import torch
    from peft import get_peft_model

    before = logits(tiny.model(), tiny)
    model = get_peft_model(tiny.model(), own["lora_config"]())
    assert torch.equal(logits(model, tiny), before)

    batch = tiny.tokenizer(
        list(tiny.dataset["text"]), padding=True, return_tensors="pt", return_token_type_ids=False
    )
    model(**batch, labels=torch.tensor(list(tiny.dataset["label"]))).loss.backward()
    moving = {name for name, each in model.named_parameters() if each.grad is not None and each.grad.any()}
    assert {name for name in moving if "lora_A" in name} == set()
    assert len([name for name in moving if "lora_B" in name]) == 4  # 2 layers, query and value
    assert all(each.grad is None for each in model.parameters() if not each.requires_grad)


def test_the_lessons_formula_is_pefts_forward(adapted, own: dict):
    import torch

    query = adapted.base_model.model.bert.encoder.layer[0].attention.self.query.double()
    weight, lora_a, lora_b = own["thin_matrices"](adapted)
    x = torch.randn(5, weight.shape[1], dtype=torch.float64)
    by_hand = x @ weight.T + query.base_layer.bias + 2 * x @ lora_a.T @ lora_b.T  # alpha / r = 2
    torch.testing.assert_close(query(x), by_hand, rtol=1e-12, atol=1e-12)


def test_the_merge_by_hand_is_pefts(adapted, tiny, own: dict):
    import torch

    weight, lora_a, lora_b = (each.clone() for each in own["thin_matrices"](adapted))
    before = logits(adapted, tiny)
    plain = adapted.merge_and_unload()
    merged = plain.bert.encoder.layer[0].attention.self.query.weight
    by_hand = facts._merge_reference(weight, lora_a, lora_b, 2 * facts.RANK)
    torch.testing.assert_close(merged.detach(), by_hand, rtol=0, atol=1e-7)
    assert (by_hand - weight).abs().max() > 0.01  # there was something to merge
    torch.testing.assert_close(logits(plain, tiny), before, rtol=0, atol=1e-5)


# ---- The fingerprint and the swap -------------------------------------------------------------------


def test_the_fingerprint_sees_one_bit_of_the_base_and_nothing_of_an_adapter(adapted, tiny, own: dict):
    import torch

    fingerprint = own["fingerprint"]
    base = fingerprint(tiny.model())
    assert fingerprint(adapted) == base
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += 1
        assert fingerprint(adapted) == base
        own_head = adapted.base_model.model.classifier.original_module.bias
        number = adapted.base_model.model.bert.embeddings.LayerNorm.weight
        for parameter in (own_head, number):
            kept = parameter[0].clone()
            parameter[0] = torch.nextafter(kept, torch.tensor(9.0))
            assert fingerprint(adapted) != base
            parameter[0] = kept
    assert fingerprint(adapted) == base


def test_two_adapters_on_one_base_each_answer_as_they_did_alone(tiny, own: dict, tmp_path):
    import torch
    from peft import PeftModel, get_peft_model

    alone = {}
    for number, task in enumerate(("reuters", "bbc")):
        torch.manual_seed(number)
        model = get_peft_model(tiny.model(), own["lora_config"]())
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
        alone[task] = logits(model, tiny)
        model.save_pretrained(tmp_path / task)
    shared = PeftModel.from_pretrained(tiny.model(), tmp_path / "reuters", adapter_name="reuters")
    shared.load_adapter(tmp_path / "bbc", adapter_name="bbc")
    for task in ("bbc", "reuters", "reuters", "bbc"):
        shared.set_adapter(task, inference_mode=True)
        assert torch.equal(logits(shared, tiny), alone[task])
    assert not torch.allclose(alone["bbc"], alone["reuters"])
    assert own["fingerprint"](shared) == own["fingerprint"](tiny.model())
    assert trained(shared) == 0  # inference_mode


def test_every_head_on_a_base_has_its_shape(tiny, own: dict, tmp_path):
    from peft import PeftModel, get_peft_model
    from transformers import AutoModelForSequenceClassification

    get_peft_model(tiny.model(), own["lora_config"]()).save_pretrained(tmp_path)
    other = AutoModelForSequenceClassification.from_pretrained(
        tiny.folder, num_labels=5, ignore_mismatched_sizes=True
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(other, tmp_path)


def test_the_rate_is_25_times_full_fine_tunings():
    text = lesson_text(LESSON)
    assert "FULL_RATE = lesson.pick(smoke=2e-4, laptop=2e-4, gpu=5e-5)" in text
    assert "LORA_RATE = lesson.pick(smoke=5e-3, laptop=5e-3, gpu=5e-4)" in text
    assert pytest.approx(25) == 5e-3 / 2e-4
    assert "25 times higher" in text
