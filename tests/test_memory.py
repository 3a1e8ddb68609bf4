"""The predicted peak is the measured one, and follows what decides it."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from lessonkit import memory
from lessonkit.errors import HardwareError, LessonkitError, ModelError, UnknownNameError
from lessonkit.memory import TECHNIQUES, largest_batch, load_config, predict_memory

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
TARGETS = {"llama": "q_proj,v_proj", "bert": "query,value"}


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    memory._CACHE.clear()


def config(values: dict[str, Any], **changes: Any):
    from transformers import AutoConfig

    values = {**values, **changes}
    return AutoConfig.for_model(values.pop("model_type"), **values)


def file_of(folder: Path, values: dict[str, Any]) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return str(path)


def measured_peak(values: dict[str, Any], technique: str, options: dict[str, Any]) -> int:
    """Bytes of live tensors at the fullest moment of a real second step, as the allocator tells the profiler."""
    import torch
    from peft import LoraConfig, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from lessonkit.adapters import add_adapter

    causal = values is LLAMA
    factory = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    dtype = getattr(torch, options["dtype"])
    model = factory.from_config(config(values, pad_token_id=0), dtype=dtype)
    kind = "CAUSAL_LM" if causal else "SEQ_CLS"
    if technique == "lora":
        targets = TARGETS[values["model_type"]].split(",")
        model = get_peft_model(model, LoraConfig(task_type=kind, r=options["r"], target_modules=targets))
    elif technique == "prompt":
        model = get_peft_model(model, PromptTuningConfig(task_type=kind, num_virtual_tokens=20))
    elif technique == "adapters":
        add_adapter(model, "new", bottleneck=options["bottleneck"])
    if options["gradient_checkpointing"]:
        model.activation_checkpointing_enable()
    model.config.use_cache = False
    model.train()
    ids = torch.randint(1, 400, (options["batch_size"], options["sequence_length"]))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    labels = ids.clone() if causal else torch.zeros(len(ids), dtype=torch.long)
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


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("technique", ["full", "lora", "prompt", "adapters"])
@pytest.mark.parametrize("values", [LLAMA, BERT], ids=["llama", "bert"])
def test_prediction_is_what_a_real_step_takes(values, technique, checkpointing):
    options = {
        "batch_size": 6,
        "sequence_length": 40,
        "dtype": "float32",
        "r": 4,
        "bottleneck": 16,
        "gradient_checkpointing": checkpointing,
    }
    modules = TARGETS[values["model_type"]]
    plan = predict_memory(config(values), technique, target_modules=modules, device="cpu", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks for a deprecated property of transformers
        measured = measured_peak(values, technique, options)
    assert plan.live_bytes == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_depth_is_extrapolated_exactly(technique, checkpointing, monkeypatch):
    deep = config(LLAMA, num_hidden_layers=11)
    options = {
        "target_modules": TARGETS["llama"],
        "batch_size": 4,
        "sequence_length": 32,
        "dtype": "float32",
        "gradient_checkpointing": checkpointing,
    }
    quick = predict_memory(deep, technique, **options)
    memory._CACHE.clear()
    monkeypatch.setattr(memory, "TRACED_LAYERS", 99)
    whole = predict_memory(deep, technique, **options)
    assert quick.peak_bytes == pytest.approx(whole.peak_bytes, rel=1e-3)
    assert quick.total_parameters == whole.total_parameters
    assert quick.trainable_parameters == whole.trainable_parameters
    assert quick.optimizer_bytes == whole.optimizer_bytes


def test_an_encoders_depth_is_extrapolated_too(monkeypatch):
    deep = config(BERT, num_hidden_layers=12)
    quick = predict_memory(deep, "full", gradient_checkpointing=True, sequence_length=128, batch_size=8)
    memory._CACHE.clear()
    monkeypatch.setattr(memory, "TRACED_LAYERS", 99)
    whole = predict_memory(deep, "full", gradient_checkpointing=True, sequence_length=128, batch_size=8)
    assert quick.peak_bytes == pytest.approx(whole.peak_bytes, rel=1e-3)


def test_layers_that_do_not_repeat_are_traced_whole():
    from lessonkit.memory.configs import pattern_of
    from lessonkit.memory.settings import Settings

    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    gemma = {
        "model_type": "gemma3_text",
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    assert pattern_of(config(gemma, num_hidden_layers=12, layer_types=kinds * 2), Settings()) == (0, 6)
    uneven = [*kinds, *kinds[::-1]]
    assert pattern_of(config(gemma, num_hidden_layers=12, layer_types=uneven), Settings()) is None
    assert pattern_of(config(LLAMA, num_hidden_layers=12), Settings()) == (0, 1)


def test_parameters_are_those_of_the_model():
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plan = predict_memory(config(LLAMA), "lora", r=4, target_modules="q_proj,v_proj", sequence_length=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(
            AutoModelForCausalLM.from_config(config(LLAMA)),
            LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"]),
        )
    assert (plan.trainable_parameters, plan.total_parameters) == model.get_nb_trainable_parameters()


def test_breakdown_adds_up_and_is_what_it_says():
    plan = predict_memory(config(LLAMA), "full", dtype="float32", batch_size=2, sequence_length=16)
    assert sum(plan.breakdown.values()) == plan.peak_bytes
    assert plan.breakdown["weights"] >= 4 * plan.total_parameters
    assert plan.gradients_bytes == 4 * plan.trainable_parameters
    assert plan.optimizer_bytes == pytest.approx(8 * plan.trainable_parameters, rel=0.01)  # and step counters
    assert plan.breakdown["allocator"] == pytest.approx(memory.ALLOCATOR_SHARE * plan.live_bytes, abs=1)


def test_double_quantisation_saves_what_the_paper_says():
    """Dettmers et al. 2023, section 3: scales take 0.127 instead of 0.5 bits for each quantised parameter."""
    wide = {**LLAMA, "hidden_size": 256, "intermediate_size": 1024, "num_key_value_heads": 4}
    plans = [
        predict_memory(
            config(wide), "qlora", target_modules="q_proj", double_quantization=double, sequence_length=32
        )
        for double in (False, True)
    ]
    quantised = 3 * (4 * 256 * 256 + 3 * 256 * 1024)
    tables = 3 * 7 * (256 * 4 + 4)  # a table of 256 values and one offset for each of the 7 linear layers
    saved = plans[0].breakdown["weights"] - plans[1].breakdown["weights"] + tables
    assert 8 * saved / quantised == pytest.approx(0.5 - 0.127, abs=0.001)
    assert (
        plans[0].total_parameters
        == plans[1].total_parameters
        == predict_memory(config(wide), "lora", target_modules="q_proj", sequence_length=32).total_parameters
    )


def test_more_takes_more_and_less_takes_less():
    base = {"batch_size": 4, "sequence_length": 64, "dtype": "float32", "target_modules": "q_proj,v_proj"}

    def peak(technique: str = "lora", **changes: Any) -> int:
        return predict_memory(config(LLAMA), technique, **{**base, **changes}).peak_bytes

    assert peak(batch_size=8) > peak() > peak(batch_size=2)
    assert peak(sequence_length=128) > peak()
    assert peak(r=64) > peak(r=4)
    assert peak(target_modules="all-linear") > peak()
    assert peak(dtype="bfloat16") < peak()
    assert peak(gradient_checkpointing=True) < peak()
    assert peak("full") > peak() > peak("qlora")
    assert peak("qlora", prepare_for_kbit_training=True, dtype="bfloat16") > peak("qlora", dtype="bfloat16")
    assert peak("prompt", num_virtual_tokens=60) > peak("prompt", num_virtual_tokens=5)
    assert peak("adapters", bottleneck=32) > peak("adapters", bottleneck=4)
    assert peak("adapters", placement="houlsby") > peak("adapters")
    optimizers = {
        name: peak("full", optimizer=name, batch_size=1, sequence_length=8) for name in memory.OPTIMIZERS
    }
    assert (
        optimizers["adamw"] > optimizers["adamw_torch_fused"] > optimizers["adamw_8bit"] > optimizers["sgd"]
    )


def test_a_gpu_holds_no_attention_probabilities():
    """BERT drops some out, which only the CPU's kernel needs written down."""
    peaks = [
        predict_memory(config(BERT), "full", batch_size=16, sequence_length=128, device=device).peak_bytes
        for device in ("cpu", "cuda")
    ]
    assert peaks[0] > 1.2 * peaks[1]


def test_on_a_gpu_adamw_holds_a_copy_of_the_trained_weights_in_passing():
    """Published with PEFT's comparison: 33 GB reserved on average for 25.7 GB of weights, gradients and states."""
    options = {"dtype": "float32", "batch_size": 1, "sequence_length": 8, "device": "cuda"}
    plain, fused = (
        predict_memory(config(LLAMA), "full", optimizer=name, **options).live_bytes
        for name in ("adamw", "adamw_torch_fused")
    )
    weights = 4 * predict_memory(config(LLAMA), "full", **options).total_parameters
    assert plain == pytest.approx(5 * weights, rel=0.02)  # weights, gradients, two moments, their roots
    assert fused < 4.3 * weights


@pytest.mark.parametrize("optimizer", memory.OPTIMIZERS)
def test_a_gpus_step_differs_in_the_update_alone(optimizer: str, monkeypatch: pytest.MonkeyPatch):
    """So one trace serves both devices; it is what a plan spends its time on."""
    traced, real = [], memory._trace
    monkeypatch.setattr(memory, "_CACHE", {})
    monkeypatch.setattr(memory, "_trace", lambda *told: traced.append(told) or real(*told))
    options = {"dtype": "float32", "batch_size": 2, "sequence_length": 64, "optimizer": optimizer}
    cpu, gpu = (predict_memory(config(LLAMA), "full", device=device, **options) for device in ("cpu", "cuda"))
    assert len(traced) == 1
    assert (cpu.gradients_bytes, cpu.optimizer_bytes) == (gpu.gradients_bytes, gpu.optimizer_bytes)
    trace = next(iter(memory._CACHE.values()))[0]
    for phase in ("forward", "backward-upper", "backward-lower"):
        assert trace.on_gpu(optimizer).peaks[phase] == trace.peaks[phase]
    there = sum(trace.on_gpu(optimizer).peaks["step"].values())
    assert there - sum(trace.complete.values()) == (cpu.gradients_bytes if optimizer == "adamw" else 0)


def test_gpt2s_linear_layers_are_quantised_too():
    gpt2 = {
        "model_type": "gpt2",
        "vocab_size": 100,
        "n_embd": 128,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
    }
    lora, qlora = (
        predict_memory(config(gpt2), technique, target_modules="c_attn", sequence_length=32)
        for technique in ("lora", "qlora")
    )
    quantised = 2 * 12 * 128 * 128
    saved = lora.breakdown["weights"] - qlora.breakdown["weights"]
    assert saved == pytest.approx(2 * quantised - (0.5 + 0.127 / 8) * quantised, rel=0.05)
    assert lora.total_parameters == qlora.total_parameters


def test_largest_batch_beyond_a_bend():
    """At small batches the gradients of the embedding decide, at large ones the logits: the peak bends upwards."""
    wide = config(LLAMA, vocab_size=50_000, num_hidden_layers=2)
    options = {"sequence_length": 64, "dtype": "float32", "batch_size": 1}
    start = predict_memory(wide, "full", **options).peak_bytes
    for limit in (2 * start, 16 * start):
        rows = largest_batch(wide, limit, "full", **options)
        assert predict_memory(wide, "full", **{**options, "batch_size": rows}).peak_bytes <= limit
        more = {**options, "batch_size": rows + max(2, rows // 10)}
        assert predict_memory(wide, "full", **more).peak_bytes > limit


@pytest.mark.parametrize("technique", ["full", "lora"])
def test_largest_batch_is_the_last_that_fits(technique):
    options = {"sequence_length": 32, "target_modules": "q_proj"}
    limit = predict_memory(config(LLAMA), technique, batch_size=37, **options).peak_bytes
    rows = largest_batch(config(LLAMA), limit, technique, batch_size=3, **options)
    assert rows in (37, 36)  # bytes are rounded
    assert predict_memory(config(LLAMA), technique, batch_size=rows + 2, **options).peak_bytes > limit
    assert largest_batch(config(LLAMA), 1000, technique, **options) == 0


def test_the_same_from_a_file_a_folder_and_an_object(tmp_path):
    path = file_of(tmp_path, LLAMA)
    peaks = {
        predict_memory(source, sequence_length=64).peak_bytes
        for source in (path, str(tmp_path), config(LLAMA))
    }
    assert len(peaks) == 1


def test_a_changed_file_is_read_anew(tmp_path):
    import os

    first = predict_memory(file_of(tmp_path, LLAMA), sequence_length=64).total_parameters
    path = file_of(tmp_path, {**LLAMA, "vocab_size": 900})
    os.utime(path, (1, 1))
    assert predict_memory(path, sequence_length=64).total_parameters > first


def test_the_configuration_given_is_not_changed():
    given = config(BERT)
    before = given.to_json_string(use_diff=False)
    predict_memory(given, "full", num_labels=7, device="cuda", sequence_length=64)
    assert given.to_json_string(use_diff=False) == before


def test_nothing_of_the_model_is_allocated(tmp_path):
    """A model of 70 billion parameters is planned in a process that never holds 3 GB."""
    big = {
        **LLAMA,
        "vocab_size": 128256,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    }
    script = """
import json, resource, sys
from lessonkit.memory import predict_memory
plan = predict_memory(sys.argv[1], "qlora", r=16, target_modules="q_proj,v_proj", gradient_checkpointing=True)
print(json.dumps([plan.total_parameters, plan.peak_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", script, file_of(tmp_path, big)], capture_output=True, text=True, check=True
    )
    parameters, peak, resident = json.loads(done.stdout.splitlines()[-1])
    assert 70e9 < parameters < 72e9
    assert 36e9 < peak < 60e9
    assert resident * (1 if sys.platform == "darwin" else 1024) < 3e9


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"technique": "lore"}, UnknownNameError, "lora"),
        ({"optimizer": "adam"}, UnknownNameError, "adamw"),
        ({"dtype": "bf16"}, UnknownNameError, "bfloat16"),
        ({"dtype": "int4"}, UnknownNameError, "float16"),
        ({"attention": "flash"}, UnknownNameError, "sdpa"),
        ({"task": "translation"}, UnknownNameError, "causal-lm"),
        ({"device": "gpu"}, UnknownNameError, "cuda"),
        ({"rank": 8}, UnknownNameError, "r"),
        ({"sequence_length": 129}, ModelError, "--sequence-length 128"),
        ({"technique": "prompt", "sequence_length": 120}, ModelError, "--sequence-length 108"),
        ({"batch_size": 0}, HardwareError, "at least 1"),
        ({"sequence_length": -5}, HardwareError, "sequence_length is -5"),
        ({"technique": "lora", "r": 2.5}, HardwareError, "whole number"),
        ({"batch_size": True}, HardwareError, "whole number"),
        ({"technique": "lora", "target_modules": "query"}, UnknownNameError, "q_proj"),
        ({"technique": "adapters", "placement": "nowhere"}, LessonkitError, "pfeiffer"),
        ({"technique": "adapters", "bottleneck": 0}, HardwareError, "bottleneck is 0"),
        ({"technique": "prompt", "num_virtual_tokens": 0}, HardwareError, "num_virtual_tokens is 0"),
    ],
)
def test_what_makes_no_sense_is_told(options, kind, says):
    with pytest.raises(kind) as caught:
        predict_memory(config(LLAMA), **{"sequence_length": 64, **options})
    assert says in str(caught.value)
    assert "Next:" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"model_type": "lama"}',
        '{"model_type": 3}',
        '{"model_type": "llama", "hidden_size": "x"}',
    ],
)
def test_a_configuration_that_is_none_is_told(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LessonkitError, match="Next:"):
        predict_memory(str(path))


def test_heads_that_do_not_divide_are_told(tmp_path):
    with pytest.raises(ModelError, match="heads"):
        predict_memory(file_of(tmp_path, {**LLAMA, "num_attention_heads": 5}), sequence_length=32)


def test_a_missing_file_and_an_unknown_name_are_told(tmp_path):
    with pytest.raises(ModelError, match="cannot be used"):
        load_config(tmp_path / "config.json")
    with pytest.raises(UnknownNameError, match="smollm2"):
        load_config("smolm2")


def test_no_target_modules_for_a_model_that_peft_does_not_know():
    unknown = {
        "model_type": "phi3",
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    }
    with pytest.raises(ModelError, match="qkv_proj"):
        predict_memory(config(unknown), "lora", sequence_length=32)
    assert (
        predict_memory(
            config(unknown), "lora", target_modules="qkv_proj", sequence_length=32
        ).trainable_parameters
        > 0
    )


@pytest.mark.gpu
@pytest.mark.parametrize("technique", ["full", "lora"])
def test_on_a_gpu_the_prediction_is_what_was_allocated(technique):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    big = config(LLAMA, hidden_size=512, intermediate_size=1408, num_attention_heads=8, num_hidden_layers=4)
    options = {"batch_size": 8, "sequence_length": 128, "target_modules": "q_proj,v_proj", "device": "cuda"}
    plan = predict_memory(big, technique, optimizer="adamw_torch_fused", **options)
    model = AutoModelForCausalLM.from_config(big, dtype=torch.bfloat16).cuda().train()
    if technique == "lora":
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    model.config.use_cache = False
    ids = torch.randint(1, 400, (8, 128), device="cuda")
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], fused=True)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert plan.live_bytes == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)


def test_accumulated_gradients_are_there_all_the_time():
    """While a micro-batch runs, the gradients of those before it are held; the third costs no more than the second."""
    from transformers import LlamaConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 500}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    step = {"batch_size": 4, "sequence_length": 64, "dtype": "float32", "device": "cpu"}
    one, two, three = (
        predict_memory(config, "full", gradient_accumulation_steps=count, **step) for count in (1, 2, 3)
    )
    assert two.live_bytes == three.live_bytes
    assert two.breakdown["gradients"] == one.gradients_bytes == 4 * one.trainable_parameters
    assert one.live_bytes < two.live_bytes <= one.live_bytes + 2 * one.gradients_bytes
