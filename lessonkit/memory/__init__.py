"""Predict the peak memory of a training step before a weight is downloaded and without a GPU."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.memory.configs import load_config, pattern_of, with_depth
from lessonkit.memory.settings import OPTIMIZERS, TECHNIQUES, Settings, check_length, settings_from

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lessonkit.memory.trace import Trace

__all__ = [
    "OPTIMIZERS",
    "TECHNIQUES",
    "MemoryPlan",
    "Settings",
    "largest_batch",
    "load_config",
    "predict_memory",
]

#: A model of more layers than this is traced at two smaller depths, from which its own is extrapolated.
TRACED_LAYERS, FEWEST_LAYERS = 8, 2
#: Rows of a second prediction at most, whatever room there is: no tensor's size shall be beyond a 64-bit number.
MOST_EXPECTED = 2**20
#: What PyTorch's allocator reserves beyond the tensors alive: blocks are rounded up, and gaps between them stay.
#: Six published GPU runs (results/memory-published.json) reserved 0.1 to 7.5 % more than the tensors predicted here;
#: 2.5 % is about their middle.
ALLOCATOR_SHARE = 0.025


@dataclass(frozen=True)
class MemoryPlan:
    """The predicted peak of a training step.

    peak_bytes: what the device must have room for. breakdown: the same by ``weights``, ``gradients``,
    ``optimizer``, ``activations`` (made by the forward pass) and ``rest`` (made in passing by the backward
    pass and the optimiser, and the batch), all as they are at the fullest moment, and ``allocator``.
    peak_phase: when it is: ``forward``, ``backward-upper``, ``backward-lower`` or ``step``.
    gradients_bytes, optimizer_bytes: what they take once complete; at the peak some may not be there yet.
    trainable_parameters, total_parameters: counts; a 4-bit weight counts as one parameter.
    settings: what was asked for.
    """

    peak_bytes: int
    breakdown: Mapping[str, int]
    peak_phase: str
    gradients_bytes: int
    optimizer_bytes: int
    trainable_parameters: int
    total_parameters: int
    settings: Settings

    @property
    def live_bytes(self) -> int:
        """Bytes of all tensors alive at the peak: peak_bytes without the allocator's share."""
        return self.peak_bytes - self.breakdown["allocator"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "live_bytes": self.live_bytes}


def predict_memory(
    config: PretrainedConfig | str | Path, technique: str = "full", **options: Any
) -> MemoryPlan:
    """The peak memory of one training step, found by running it on fake tensors.

    config: a transformers configuration, the path of a ``config.json`` or its folder, or an asset's name.
    technique: ``full``, ``lora``, ``qlora`` (NF4), ``prompt`` (prompt tuning) or ``adapters`` (bottleneck).
    options: any field of ``Settings``:
      r, target_modules: of ``LoraConfig``, for lora and qlora; no modules means PEFT's own choice.
      double_quantization, prepare_for_kbit_training: for qlora; the latter is PEFT's
      ``prepare_model_for_kbit_training(use_gradient_checkpointing=False)``, which turns what is not quantised to
      float32 (its default also needs gradient_checkpointing=True here).
      num_virtual_tokens: for prompt. bottleneck, placement: for adapters.
      batch_size, sequence_length: rows and tokens of one micro-batch on the device. target_length: an
      encoder-decoder's answers in tokens; 0 if as long as the input.
      gradient_accumulation_steps: micro-batches to an optimiser's step. From the second on, all gradients are there
      during the forward and the backward pass, so that any number above 1 costs the same.
      padding: rows differ in length, so that attention has a mask to hold; False if they are equal or packed.
      device: ``cpu`` or ``cuda``; left out, this machine's. A GPU's fused attention holds no attention
      probabilities even where the model drops some out; the CPU's does.
      dtype: of the weights. mixed_precision: the pass runs under bf16 autocast, as ``TrainingArguments(bf16=True)``;
      traced with the CPU's autocast (a GPU's keeps norms and softmax in float32, so there it is somewhat low).
      gradient_checkpointing, optimizer: one of OPTIMIZERS. attention: ``sdpa``, ``eager``, or what transformers
      takes by itself.
      task, num_labels: ``causal-lm``, ``seq2seq-lm`` (an encoder-decoder's) or ``sequence-classification``; left
      out, the configuration decides.
    Raises UnknownNameError for a technique, optimiser, dtype or module that does not exist, HardwareError for a
    size that makes no sense, ModelError for a configuration that cannot be read or built.
    """
    settings = settings_from(technique, options)
    config = load_config(config)
    check_length(config, settings)
    return _plan(config, settings)


def largest_batch(
    config: PretrainedConfig | str | Path, limit_bytes: int, technique: str = "full", **options: Any
) -> int:
    """The most rows of ``sequence_length`` tokens whose predicted peak stays within ``limit_bytes``; 0 if none does.

    Each phase's peak is a straight line in the batch size, or a few of them joined, steeper and steeper: two
    predictions give it, the second one where the first lets expect the most, and further ones where there is a bend
    (then it may be a row or two less than the most).
    """
    settings = settings_from(technique, options)
    config = load_config(config)
    check_length(config, settings)
    room = limit_bytes / (1 + ALLOCATOR_SHARE)

    def within(few: int, many: int) -> int:
        return _rows_within(config, settings, few, many, room)

    def fits(rows: int) -> bool:
        return rows == 0 or _plan(config, replace(settings, batch_size=rows)).live_bytes <= room

    few = settings.batch_size
    expected = _rows_expected(_traced(config, settings)[0], few, room)
    many = max(few + 1, min(expected, MOST_EXPECTED))
    rows = within(few, many)
    if rows in (0, many):
        return rows
    if few <= rows < many:
        most, too_many = rows, many
    elif fits(rows):  # outside of the two, the line runs below the bends: no more than this can fit
        return rows
    else:
        most, too_many = (many if rows > many else int(fits(1))), rows
    for _ in range(3):  # between the two the line runs above the bends: what it promises fits
        if not most or too_many - most <= 1:
            break
        most = max(most, min(within(most, too_many), too_many - 1))
    return most


def _rows_expected(trace: Trace, rows: int, room: float) -> int:
    """About how many rows fit into ``room`` bytes, if activations and what is made in passing grow with the rows."""
    found = []
    for held in trace.peaks.values():
        growing = held["activations"] + held["rest"]
        if growing > 0:
            found.append(int(rows * (room - sum(held.values()) + growing) / growing))
    return min(found, default=rows)


def _rows_within(config: PretrainedConfig, settings: Settings, few: int, many: int, room: float) -> int:
    """The most rows whose peak is within ``room`` bytes, by the lines through two batch sizes; 0 if none is."""
    first, second = (_traced(config, replace(settings, batch_size=rows))[0] for rows in (few, many))
    fits = []
    for phase, held in first.peaks.items():
        each = (sum(second.peaks[phase].values()) - sum(held.values())) / (
            many - few
        )  # bytes a further row takes
        empty = sum(held.values()) - few * each
        if empty + each > room:
            return 0
        if each > 0:
            fits.append(int((room - empty) / each))
    return min(fits)


def _plan(config: PretrainedConfig, settings: Settings) -> MemoryPlan:
    trace, counts = _traced(config, settings)
    totals = {phase: sum(held.values()) for phase, held in trace.peaks.items()}
    phase = max(totals, key=totals.get)
    breakdown = {name: round(size) for name, size in trace.peaks[phase].items()}
    breakdown["allocator"] = round(ALLOCATOR_SHARE * sum(breakdown.values()))
    return MemoryPlan(
        peak_bytes=sum(breakdown.values()),
        breakdown=breakdown,
        peak_phase=phase,
        gradients_bytes=round(trace.complete["gradients"]),
        optimizer_bytes=round(trace.complete["optimizer"]),
        trainable_parameters=round(counts[0]),
        total_parameters=round(counts[1]),
        settings=settings,
    )


_CACHE: dict[tuple[str, Settings], tuple[Trace, tuple[float, float]]] = {}
_PATTERNS: dict[str, tuple[int, int] | None] = {}


def _traced(config: PretrainedConfig, settings: Settings) -> tuple[Trace, tuple[float, float]]:
    """As ``_trace``; what was traced once in this process is remembered.

    A GPU's step differs from the CPU's in the optimiser's update alone, unless a fused attention spares it the
    probabilities that dropout would need.
    """
    from lessonkit.memory.models import device_of, spares_attention_probabilities

    device = "cuda" if spares_attention_probabilities(config, settings) else "cpu"
    key = (config.to_json_string(use_diff=False), replace(settings, device=device))
    if key not in _CACHE:
        _CACHE[key] = _trace(config, key[1])
    trace, counts = _CACHE[key]
    return (trace.on_gpu(settings.optimizer) if device_of(settings) == "cuda" else trace), counts


def _trace(config: PretrainedConfig, settings: Settings) -> tuple[Trace, tuple[float, float]]:
    """The step's trace and (trainable, total) parameters, at the configuration's depth.

    The layers of a transformer are alike, or repeat with a short period, so each phase's peak is a straight line
    in their number: a deep model is traced at two small depths, and its own is extrapolated. One whose layers do
    not repeat is traced whole.
    """
    depth = config.num_hidden_layers
    key = config.to_json_string(use_diff=False)
    if depth > TRACED_LAYERS and key not in _PATTERNS:
        _PATTERNS[key] = pattern_of(config, settings)
    pattern = _PATTERNS.get(key) if depth > TRACED_LAYERS else None
    if pattern is None:
        return _trace_whole(config, settings)
    alone, period = pattern
    low = alone + (depth - alone) % period + period * math.ceil(FEWEST_LAYERS / period)
    high = low + period * math.ceil(2 / period)
    (shallow, few), (deeper, more) = (
        _trace_whole(with_depth(config, each), settings) for each in (low, high)
    )
    weight = (depth - low) / (high - low)
    counts = tuple(small + weight * (large - small) for small, large in zip(few, more, strict=True))
    return shallow.combine(deeper, weight), counts


def _trace_whole(config: PretrainedConfig, settings: Settings) -> tuple[Trace, tuple[int, int]]:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from lessonkit.memory import models as memory_models
    from lessonkit.memory.trace import trace_step

    config = copy.deepcopy(config)
    model = memory_models.build(config, settings)
    counts = _count(model)
    task = settings.task or memory_models.task_of(config)
    told = memory_models.telling_what_fails(config, settings)
    with told, memory_models.quiet(), FakeTensorMode(allow_non_fake_inputs=True):
        memory_models.to_fake(model)
        stacks = [layers for _, layers in memory_models.stacks_of(model)]
        middle = None
        if len(stacks) == 1:
            middle = stacks[0][(len(stacks[0]) - 1) // 2]
        elif stacks:  # the backward pass goes through the decoder, then through the encoder
            middle = stacks[0][-1]
        trace = trace_step(
            model,
            memory_models.make_batch(task, settings),
            lambda parameters: _optimizer(settings, parameters),
            mixed_precision=torch.bfloat16 if settings.mixed_precision else None,
            middle=middle,
            accumulated=settings.gradient_accumulation_steps > 1,
        )
    return trace, counts


def _count(model: Any) -> tuple[int, int]:
    trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
    packed = {id(m.weight): m.counted_parameters for m in model.modules() if hasattr(m, "counted_parameters")}
    return trainable, sum(packed.get(id(each), each.numel()) for each in model.parameters())


def _optimizer(settings: Settings, parameters: list[Any]) -> Any:
    """As it runs on a CPU."""
    import torch

    from lessonkit.memory.stand_ins import adamw_8bit

    name = settings.optimizer
    if name == "adamw_8bit":
        return adamw_8bit(parameters)
    if name == "sgd":
        return torch.optim.SGD(parameters, foreach=False)
    return torch.optim.AdamW(parameters, fused=name == "adamw_torch_fused", foreach=False)
