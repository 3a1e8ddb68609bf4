"""What a training step is: the options of a prediction, read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lessonkit.errors import HardwareError, ModelError, UnknownNameError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["OPTIMIZERS", "TECHNIQUES", "Settings", "check_length", "settings_from"]

TECHNIQUES = ("full", "lora", "qlora", "prompt", "adapters")
#: ``adamw`` is ``torch.optim.AdamW`` as it runs by itself: on a CPU one parameter after another, on a GPU all at
#: once ("foreach"), with a copy of the trained weights in passing. The others are, or begin, names of
#: ``TrainingArguments(optim=...)``; ``adamw_torch_fused`` is the Trainer's own choice.
OPTIMIZERS = ("adamw", "adamw_torch_fused", "adamw_8bit", "sgd")
DEVICES = ("cpu", "cuda")
DTYPES = ("bfloat16", "float16", "float32")
#: What a model is trained for; the empty one in ``Settings``: what its configuration says.
TASKS = ("causal-lm", "seq2seq-lm", "sequence-classification")
ATTENTIONS = ("", "sdpa", "eager")  # the empty one: what transformers takes by itself


@dataclass(frozen=True)
class Settings:
    """What a training step is, but for the model: the arguments of ``predict_memory``, which explains them."""

    technique: str = "full"
    r: int = 8
    target_modules: tuple[str, ...] = ()
    num_virtual_tokens: int = 20
    bottleneck: int = 64
    placement: str = "pfeiffer"
    double_quantization: bool = True
    prepare_for_kbit_training: bool = False
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    sequence_length: int = 512
    target_length: int = 0
    padding: bool = True
    device: str = ""
    dtype: str = "bfloat16"
    mixed_precision: bool = False
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    attention: str = ""
    task: str = ""
    num_labels: int = 2


def settings_from(technique: str, options: Mapping[str, Any]) -> Settings:
    """Settings from the options of ``predict_memory``.

    Raises UnknownNameError for a name that does not exist, HardwareError for a size that makes no sense.
    """
    return _checked(Settings(technique=technique, **_known(options)))


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    fields = Settings.__dataclass_fields__
    for name in options:
        if name not in fields:
            raise UnknownNameError("option", name, fields)
    values = dict(options)
    modules = values.get("target_modules")
    if isinstance(modules, str):
        values["target_modules"] = tuple(each.strip() for each in modules.split(",") if each.strip())
    elif isinstance(modules, Iterable):
        values["target_modules"] = tuple(modules)
    elif modules is None:
        values.pop("target_modules", None)
    return values


def _checked(settings: Settings) -> Settings:
    for kind, name, choices in (
        ("technique", settings.technique, TECHNIQUES),
        ("optimizer", settings.optimizer, OPTIMIZERS),
        ("dtype", settings.dtype, DTYPES),
        ("attention", settings.attention, ATTENTIONS),
        ("device", settings.device or "cpu", DEVICES),
        ("task", settings.task or "causal-lm", TASKS),
    ):
        if name not in choices:
            raise UnknownNameError(kind, str(name), choices)
    problems = [
        f"{name} is {getattr(settings, name)!r}"
        for name in (
            "batch_size",
            "gradient_accumulation_steps",
            "sequence_length",
            "r",
            "num_virtual_tokens",
            "bottleneck",
            "num_labels",
        )
        if not _positive(getattr(settings, name))
    ]
    if settings.target_length != 0 and not _positive(settings.target_length):
        problems.append(f"target_length is {settings.target_length!r}")
    if problems:
        raise HardwareError(
            f"A training step cannot have this size: {', '.join(problems)}.",
            why="each must be a whole number of at least 1",
            fix="for example --batch-size 4 --sequence-length 512",
        )
    return settings


def check_length(config: PretrainedConfig, settings: Settings) -> None:
    """Raises ModelError if the model has no positions for so many tokens."""
    limit = getattr(config, "max_position_embeddings", None)
    virtual = settings.num_virtual_tokens if settings.technique == "prompt" else 0
    longest = max(settings.sequence_length, settings.target_length)
    option = "--target-length" if settings.target_length > settings.sequence_length else "--sequence-length"
    if isinstance(limit, int) and longest + virtual > limit > 0:
        raise ModelError(
            f"{longest} tokens{f' and {virtual} virtual ones' if virtual else ''} are more than "
            f"the {limit} positions that this model has.",
            why="its configuration says max_position_embeddings",
            fix=f"{option} {max(1, limit - virtual)}, with truncation=True in the tokenizer",
        )


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
