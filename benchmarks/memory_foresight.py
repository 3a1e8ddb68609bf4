"""Predicted against measured peak of the live tensors of a training step, on the CPU.

The prediction runs on fake tensors; the measurement is what PyTorch's CPU allocator tells its profiler while a
real step runs, plus the bytes of the weights and the optimiser's states that were there before.

python benchmarks/memory_foresight.py
"""

from __future__ import annotations

import os
import statistics
import time
import warnings
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "6")

import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from saving import save
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig

import lessonkit
from lessonkit.memory import predict_memory

TARGETS = {"minilm": ["query", "value"], "smollm2": ["q_proj", "v_proj"]}
#: model, technique, batch, length, dtype, checkpointing, then what else is asked for
COMBINATIONS: list[tuple[str, str, int, int, str, bool, dict[str, Any]]] = [
    ("minilm", "full", 8, 64, "float32", False, {}),
    ("minilm", "full", 32, 128, "float32", False, {}),
    ("minilm", "full", 32, 128, "float32", True, {}),
    ("minilm", "full", 16, 64, "bfloat16", False, {"optimizer": "adamw_torch_fused"}),
    ("minilm", "full", 16, 96, "float32", False, {"mixed_precision": True}),
    ("minilm", "full", 32, 128, "float32", False, {"attention": "eager"}),
    ("minilm", "lora", 8, 64, "float32", False, {"r": 8}),
    ("minilm", "lora", 32, 128, "float32", False, {"r": 32}),
    ("minilm", "lora", 32, 128, "float32", True, {"r": 8}),
    ("minilm", "lora", 16, 256, "bfloat16", False, {"r": 8}),
    ("minilm", "qlora", 16, 128, "bfloat16", False, {"r": 8}),
    ("minilm", "qlora", 16, 128, "bfloat16", False, {"r": 8, "double_quantization": False}),
    ("minilm", "prompt", 16, 128, "float32", False, {"num_virtual_tokens": 20}),
    ("minilm", "prompt", 16, 128, "float32", True, {"num_virtual_tokens": 100}),
    ("minilm", "adapters", 16, 128, "float32", False, {"bottleneck": 48}),
    ("minilm", "adapters", 16, 128, "float32", False, {"bottleneck": 48, "placement": "houlsby"}),
    ("smollm2", "full", 2, 64, "float32", False, {}),
    ("smollm2", "full", 4, 256, "bfloat16", False, {}),
    ("smollm2", "full", 4, 256, "bfloat16", True, {"optimizer": "sgd"}),
    ("smollm2", "lora", 4, 64, "bfloat16", False, {"r": 8}),
    ("smollm2", "lora", 4, 256, "bfloat16", False, {"r": 32}),
    ("smollm2", "lora", 4, 256, "bfloat16", True, {"r": 32}),
    ("smollm2", "lora", 2, 128, "float32", False, {"r": 8, "mixed_precision": True}),
    ("smollm2", "qlora", 4, 128, "bfloat16", False, {"r": 8}),
    ("smollm2", "qlora", 4, 128, "bfloat16", False, {"r": 8, "double_quantization": False}),
    ("smollm2", "qlora", 4, 256, "bfloat16", True, {"r": 8}),
    ("smollm2", "prompt", 4, 128, "bfloat16", False, {"num_virtual_tokens": 50}),
    ("smollm2", "adapters", 4, 128, "bfloat16", False, {"bottleneck": 64}),
]


def real_model(name: str, technique: str, dtype: str, checkpointing: bool, options: dict[str, Any]) -> Any:
    """The asset itself, prepared as a learner would prepare it."""
    factory = AutoModelForSequenceClassification if name == "minilm" else AutoModelForCausalLM
    keywords: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if "attention" in options:
        keywords["attn_implementation"] = options["attention"]
    if technique == "qlora":
        keywords["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=options.get("double_quantization", True),
            bnb_4bit_compute_dtype=getattr(torch, dtype),
            llm_int8_skip_modules=["classifier", "pooler", "lm_head"],
        )
    model = lessonkit.load_model(name, factory, **keywords)
    kind = "SEQ_CLS" if name == "minilm" else "CAUSAL_LM"
    if technique in ("lora", "qlora"):
        model = get_peft_model(
            model, LoraConfig(task_type=kind, r=options["r"], target_modules=TARGETS[name])
        )
    elif technique == "prompt":
        model = get_peft_model(
            model, PromptTuningConfig(task_type=kind, num_virtual_tokens=options["num_virtual_tokens"])
        )
    elif technique == "adapters":
        lessonkit.adapters.add_adapter(
            model, "new", bottleneck=options["bottleneck"], placement=options.get("placement", "pfeiffer")
        )
    if checkpointing:
        model.activation_checkpointing_enable()
    model.config.use_cache = False
    return model.train()


def measured_peak(model: Any, batch: dict[str, torch.Tensor], options: dict[str, Any]) -> int:
    """Bytes at the fullest moment of the second training step."""
    trainable = [each for each in model.parameters() if each.requires_grad]
    kind = options.get("optimizer", "adamw")
    optimizer = (
        torch.optim.SGD(trainable, lr=1e-6)
        if kind == "sgd"
        else torch.optim.AdamW(trainable, lr=1e-6, fused=kind == "adamw_torch_fused")
    )

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.get("mixed_precision", False)):
            loss = model(**batch).loss
        loss.backward()
        del loss
        optimizer.step()
        optimizer.zero_grad()

    step()
    held = [*model.parameters(), *model.buffers(), *batch.values()]
    held += [value for state in optimizer.state.values() for value in state.values()]
    held += [
        value
        for module in model.modules()
        for state in [getattr(getattr(module, "weight", None), "quant_state", None)]
        if state is not None
        for value in quantization_tensors(state)
    ]
    storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in held}
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return sum(storages.values()) + peak


def quantization_tensors(state: Any) -> list[torch.Tensor]:
    """The scales that bitsandbytes keeps beside a 4-bit weight."""
    found = [state.absmax, state.code]
    if state.nested:
        found += [state.offset, state.state2.absmax, state.state2.code]
    return found


def main() -> None:
    """Predict and measure each combination, and save both."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    rows = []
    for name, technique, batch_size, length, dtype, checkpointing, options in COMBINATIONS:
        start = time.perf_counter()
        predicted = predict_memory(
            name,
            technique,
            batch_size=batch_size,
            sequence_length=length,
            dtype=dtype,
            gradient_checkpointing=checkpointing,
            target_modules=TARGETS[name],
            **options,
        )
        seconds = time.perf_counter() - start
        torch.manual_seed(0)
        model = real_model(name, technique, dtype, checkpointing, options)
        ids = torch.randint(1000, 20000, (batch_size, length))
        labels = ids.clone() if name == "smollm2" else torch.zeros(batch_size, dtype=torch.long)
        mask = torch.ones_like(ids)
        mask[0, length // 2 :] = 0  # a shorter text, as in every padded batch
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        measured = measured_peak(model, batch, options)
        rows.append(
            {
                "name": f"{name}, {technique}, {batch_size} x {length}, {dtype}"
                + (", checkpointing" if checkpointing else "")
                + "".join(f", {key}={value}" for key, value in options.items()),
                "predicted_bytes": predicted.live_bytes,
                "measured_bytes": measured,
                "error": round(predicted.live_bytes / measured - 1, 4),
                "seconds": round(seconds, 2),
            }
        )
        print(rows[-1], flush=True)
    errors = [abs(row["error"]) for row in rows]
    save(
        "memory-foresight",
        rows,
        median_error=round(statistics.median(errors), 4),
        worst_error=max(errors),
        slowest_prediction_seconds=max(row["seconds"] for row in rows),
    )


if __name__ == "__main__":
    main()
