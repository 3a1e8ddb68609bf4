"""A 4-bit model can be trained on a CPU also after it was evaluated."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

import lessonkit
from lessonkit.errors import ModelError, TrainingError
from lessonkit.four_bits import (
    keep_trainable,
    misread_layers,
    misreads,
    packed_layers,
    unfit_layers,
)
from lessonkit.training.checks import check

pytest.importorskip("bitsandbytes")
# PEFT asks transformers by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

IDS = torch.arange(1, 41).reshape(2, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small decoder on disk; wide enough for what bitsandbytes' own CPU layout asks of a layer."""
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("decoder")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def four_bits(load, folder):
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    base = load(folder, quantization_config=config, dtype=torch.bfloat16)
    torch.manual_seed(1)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(base, lora)


def gradient(model) -> torch.Tensor:
    model.train()
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.requires_grad])


def evaluate(model) -> None:
    model.eval()
    with torch.no_grad():
        model(input_ids=IDS)


def test_a_model_of_the_house_has_the_same_gradient_after_an_evaluation(folder):
    model = four_bits(lambda path, **more: lessonkit.load_model(path, AutoModelForCausalLM, **more), folder)
    before = gradient(model)
    evaluate(model)
    assert not list(packed_layers(model))
    assert torch.equal(gradient(model), before)
    assert before.norm() > 0


def test_the_switch_counts_the_layers_that_had_it_on(folder):
    model = four_bits(AutoModelForCausalLM.from_pretrained, folder)
    layers = [each for each in model.modules() if hasattr(each, "support_avx512bf16_for_cpu")]
    assert layers
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    assert keep_trainable(model) == len(layers)
    assert keep_trainable(model) == 0
    evaluate(model)
    assert not list(packed_layers(model))


@pytest.mark.parametrize("inputs", [16, 32, 40, 64, 72, 96, 100, 128, 192, 200, 224])
def test_weights_are_read_back_right_but_where_we_say_that_they_are_not(inputs):
    import bitsandbytes.functional

    weight = torch.randn(64, inputs, generator=torch.Generator().manual_seed(0))
    packed, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    found = bitsandbytes.functional.dequantize_4bit(packed, state)
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], -1).flatten().long()
    expected = (state.code[codes].reshape(-1, 64) * state.absmax[:, None]).reshape(weight.shape)
    assert torch.allclose(found, expected, atol=1e-6) != misreads(inputs)
    assert inputs % 64 or not misreads(inputs)


def test_layers_to_leave_out_are_those_of_an_odd_shape_and_the_head():
    config = LlamaConfig(vocab_size=128, hidden_size=128, intermediate_size=96, num_hidden_layers=1)
    assert unfit_layers(LlamaForCausalLM(config)) == ["lm_head", "model.layers.0.mlp.down_proj"]


@pytest.mark.parametrize("wrong", [False, True])
def test_a_model_that_this_cpu_would_misread_is_refused_with_the_layers_to_leave_out(
    wrong, monkeypatch, tmp_path
):
    config = LlamaConfig(vocab_size=100, hidden_size=128, intermediate_size=96, num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    monkeypatch.setattr("lessonkit.four_bits.misreads", lambda inputs: wrong and inputs == 96)

    def load(**more):
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **more)
        return lessonkit.load_model(tmp_path, AutoModelForCausalLM, quantization_config=config)

    if not wrong:
        assert misread_layers(load()) == []
        return
    with pytest.raises(ModelError, match=r"read 1 .*such as model\.layers\.0\.mlp\.down_proj") as refused:
        load()
    assert "unfit_layers(whole)" in refused.value.fix
    skipped = unfit_layers(lessonkit.load_model(tmp_path, AutoModelForCausalLM))
    assert misread_layers(load(llm_int8_skip_modules=skipped)) == []


def test_a_model_without_such_layers_is_left_alone(tiny):
    model = tiny.model()
    assert keep_trainable(model) == 0
    assert misread_layers(model) == []
    assert not list(packed_layers(model))


def test_a_model_that_was_repacked_is_not_trained_in_vain(folder, tmp_path):
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    model = four_bits(AutoModelForCausalLM.from_pretrained, folder)
    evaluate(model)
    if not list(packed_layers(model)):
        pytest.skip("this CPU has no AVX-512 bf16, so bitsandbytes repacks nothing")
    rows = Dataset.from_dict({"input_ids": IDS.tolist(), "labels": IDS.tolist()})
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(TrainingError, match="No gradient passes") as told:
        check(Trainer(model, args, train_dataset=rows))
    assert "load_model" in told.value.fix
