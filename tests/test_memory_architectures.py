"""Predictions hold for encoder-decoders, mixtures of experts and models that look at their numbers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from lessonkit import memory
from lessonkit.errors import ModelError
from lessonkit.memory import TECHNIQUES, predict_memory
from lessonkit.memory.configs import pattern_of
from lessonkit.memory.models import task_of
from lessonkit.memory.settings import Settings

T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 400,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
BART = {
    "model_type": "bart",
    "architectures": ["BartForConditionalGeneration"],
    "vocab_size": 400,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 128,
    "is_encoder_decoder": True,
    "dropout": 0.0,
}
DEBERTA = {
    "model_type": "deberta-v2",
    "vocab_size": 400,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MIXTRAL = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
}
ROWS, TOKENS, ANSWER = 6, 40, 24


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    memory._CACHE.clear()


def config(values: dict[str, Any], **changes: Any):
    from transformers import AutoConfig

    values = {**values, **changes}
    return AutoConfig.for_model(values.pop("model_type"), **values)


def measured_peak(
    values: dict[str, Any], factory: Any, labels: Any, lora: list[str], batch: Any = None
) -> int:
    """Bytes of live tensors at the fullest moment of a real second step in float32, as the profiler is told."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = factory.from_config(config(values), dtype=torch.float32)
    if lora:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(model, LoraConfig(r=4, target_modules=lora))
    model.config.use_cache = False
    model.train()
    ids = torch.randint(3, 390, (ROWS, TOKENS))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    trainable = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-6)

    def step() -> None:
        loss = model(**batch).loss
        loss.backward()
        del loss
        optimizer.step()
        optimizer.zero_grad()

    step()
    held = [*model.parameters(), *model.buffers(), *batch.values()]
    held += [value for state in optimizer.state.values() for value in state.values()]
    before = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in held}
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return sum(before.values()) + peak


@pytest.mark.parametrize("lora", [[], ["q", "v"]], ids=["full", "lora"])
def test_an_encoder_decoder_takes_what_is_predicted(lora):
    import torch
    from transformers import AutoModelForSeq2SeqLM

    options = {"batch_size": ROWS, "sequence_length": TOKENS, "target_length": ANSWER, "dtype": "float32"}
    technique = "lora" if lora else "full"
    plan = predict_memory(config(T5), technique, device="cpu", r=4, target_modules=lora, **options)
    labels = torch.randint(3, 390, (ROWS, ANSWER))
    assert plan.live_bytes == pytest.approx(measured_peak(T5, AutoModelForSeq2SeqLM, labels, lora), rel=0.02)


def test_a_model_that_looks_at_its_labels_takes_what_is_predicted():
    import torch
    from transformers import AutoModelForSequenceClassification

    plan = predict_memory(
        config(DEBERTA), "full", device="cpu", dtype="float32", batch_size=ROWS, sequence_length=TOKENS
    )
    labels = torch.zeros(ROWS, dtype=torch.long)
    measured = measured_peak(DEBERTA, AutoModelForSequenceClassification, labels, [])
    assert plan.live_bytes == pytest.approx(measured, rel=0.02)


def test_a_mixture_of_experts_takes_what_is_predicted():
    import torch
    from transformers import AutoModelForCausalLM

    plan = predict_memory(
        config(MIXTRAL), "full", device="cpu", dtype="float32", batch_size=ROWS, sequence_length=TOKENS
    )
    labels = torch.randint(3, 390, (ROWS, TOKENS))
    assert plan.live_bytes == pytest.approx(
        measured_peak(MIXTRAL, AutoModelForCausalLM, labels, []), rel=0.05
    )


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("values", [T5, BART], ids=["t5", "bart"])
def test_every_technique_fits_an_encoder_decoder(values, technique):
    modules = "q,v" if values is T5 else "q_proj,v_proj"
    plan = predict_memory(config(values), technique, target_modules=modules, sequence_length=32)
    assert 0 < plan.trainable_parameters <= plan.total_parameters
    assert task_of(config(values)) == "seq2seq-lm"
    if technique == "qlora":
        whole = predict_memory(config(values), "lora", target_modules=modules, sequence_length=32)
        assert plan.total_parameters == whole.total_parameters
        assert plan.breakdown["weights"] < whole.breakdown["weights"]


def test_an_encoder_decoder_can_classify():
    for values in (T5, BART):
        plan = predict_memory(config(values), "full", task="sequence-classification", sequence_length=32)
        assert plan.peak_bytes > 0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("technique", ["full", "lora"])
def test_an_encoder_decoders_depth_is_extrapolated(technique, checkpointing, monkeypatch):
    deep = config(T5, num_layers=10, num_decoder_layers=10)
    options = {"sequence_length": 32, "batch_size": 4, "gradient_checkpointing": checkpointing}
    options |= {"target_length": 12, "target_modules": "q,v"}
    quick = predict_memory(deep, technique, **options)
    memory._CACHE.clear()
    monkeypatch.setattr(memory, "TRACED_LAYERS", 99)
    whole = predict_memory(deep, technique, **options)
    assert quick.total_parameters == whole.total_parameters
    assert quick.peak_bytes == pytest.approx(whole.peak_bytes, rel=1e-2)


def test_a_first_layer_may_stand_alone():
    assert pattern_of(config(T5, num_layers=9, num_decoder_layers=9), Settings()) == (1, 1)
    assert pattern_of(config(T5, num_layers=9, num_decoder_layers=12), Settings()) is None
    assert pattern_of(config(BART, encoder_layers=9, decoder_layers=9), Settings()) == (0, 1)


def test_longer_answers_take_more():
    short, long = (
        predict_memory(config(T5), "full", sequence_length=64, target_length=tokens, batch_size=8)
        for tokens in (8, 64)
    )
    same = predict_memory(config(T5), "full", sequence_length=64, batch_size=8)
    assert short.peak_bytes < long.peak_bytes
    assert long.peak_bytes == same.peak_bytes


def test_t5_keeps_its_second_feed_forward_matrix_out_of_four_bits():
    from lessonkit.memory.models import build

    model = build(config(T5), Settings(technique="qlora", target_modules=("q", "v")))
    kinds = {type(each).__name__ for name, each in model.named_modules() if name.endswith(".wo")}
    assert kinds == {"Linear"}


@pytest.mark.parametrize("kind", ["vit", "wav2vec2"])
def test_a_model_that_reads_no_text_is_told(kind):
    from transformers import AutoConfig

    with pytest.raises(ModelError, match=r"not text|cannot be planned") as caught:
        predict_memory(AutoConfig.for_model(kind))
    assert len(str(caught.value)) < 1000
