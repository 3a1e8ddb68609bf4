"""Build a model without weights, put a fine-tuning technique on it, and turn it into fake tensors."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lessonkit.errors import ModelError, UnknownNameError
from lessonkit.memory.stand_ins import linear_4bit

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig

    from lessonkit.memory import Settings

__all__ = [
    "build",
    "check_reads_text",
    "device_of",
    "layers_of",
    "make_batch",
    "quiet",
    "spares_attention_probabilities",
    "stacks_of",
    "task_of",
    "telling_what_fails",
    "to_fake",
]

ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
LONGEST_REASON = 400  # characters of what a library says; transformers may list every model that it knows


def task_of(config: PretrainedConfig) -> str:
    """One of ``settings.TASKS``: what a model of this kind is fine-tuned for.

    Taken from the configuration's ``architectures``, or else from what transformers offers for its type.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as SEQ2SEQ,
    )

    named = " ".join(getattr(config, "architectures", None) or ())
    if getattr(config, "is_encoder_decoder", False) and config.model_type in SEQ2SEQ:
        return "sequence-classification" if "ForSequenceClassification" in named else "seq2seq-lm"
    if "ForCausalLM" in named or "LMHeadModel" in named:
        return "causal-lm"
    if named and config.model_type in MASKED:
        return "sequence-classification"
    decoder = config.model_type in CAUSAL and config.model_type not in MASKED
    return "causal-lm" if decoder else "sequence-classification"


def build(config: PretrainedConfig, settings: Settings, *, plain: bool = False) -> nn.Module:
    """The model on the meta device, in training mode, with the technique's parameters trainable.

    plain: leave the technique out. Raises ModelError if transformers cannot build it or the technique does not fit it.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
    )

    task = settings.task or task_of(config)
    factory = {
        "causal-lm": AutoModelForCausalLM,
        "seq2seq-lm": AutoModelForSeq2SeqLM,
        "sequence-classification": AutoModelForSequenceClassification,
    }[task]
    dtype = getattr(torch, settings.dtype)
    if task == "sequence-classification":
        config.num_labels = settings.num_labels
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = 0
    if spares_attention_probabilities(config, settings):
        for name in ATTENTION_DROPOUTS:
            if getattr(config, name, None):
                setattr(config, name, 0.0)
    with telling_what_fails(config, settings), quiet(), torch.device("meta"):
        chosen = {"attn_implementation": settings.attention} if settings.attention else {}
        model = factory.from_config(config, dtype=dtype, **chosen)
        check_reads_text(model)
        _keep_in_float32(model, dtype)
        if plain:
            return model
        if settings.technique == "qlora":
            _quantize(model, settings)
        model = _with_technique(model, task, settings)
    if settings.gradient_checkpointing:
        _checkpoint(model)
    model.train()
    model.config.use_cache = False
    return model


def device_of(settings: Settings) -> str:
    """``"cuda"`` or ``"cpu"``: what was asked for, or else what this machine has."""
    import torch

    return settings.device or ("cuda" if torch.cuda.is_available() else "cpu")


def spares_attention_probabilities(config: PretrainedConfig, settings: Settings) -> bool:
    """Whether a GPU's fused attention drops probabilities out without writing them down, as the CPU's must."""
    if device_of(settings) != "cuda" or settings.attention == "eager":
        return False
    return any(getattr(config, name, None) for name in ATTENTION_DROPOUTS)


def layers_of(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """The list of transformer layers and its name; None if there is no one such list."""
    from torch import nn

    count = model.config.num_hidden_layers
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and next(module.parameters(), None) is not None
    ]
    big = [each for each in found if sum(it.numel() for it in each[1][0].parameters()) > 0]
    return max(big, key=lambda each: sum(it.numel() for it in each[1].parameters()), default=None)


def stacks_of(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The lists of transformer layers: one, or the encoder's and the decoder's, in this order."""
    from torch import nn

    if not getattr(model.config, "is_encoder_decoder", False):
        found = layers_of(model)
        return [found] if found else []
    lists = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.ModuleList)]
    outer = [
        (name, each) for name, each in lists if not any(name.startswith(f"{other}.") for other, _ in lists)
    ]
    return [
        (name, each)
        for part in ("encoder", "decoder")
        for name, each in outer
        if part in name.split(".") and next(each.parameters(), None) is not None
    ]


def make_batch(task: str, settings: Settings) -> dict[str, Any]:
    """A batch as a collator makes it; call it where fake tensors are made."""
    import torch

    ids = torch.zeros(settings.batch_size, settings.sequence_length, dtype=torch.long)
    labels = torch.zeros_like(ids)
    if task == "sequence-classification":
        labels = torch.zeros(settings.batch_size, dtype=torch.long)
    elif task == "seq2seq-lm" and settings.target_length:
        labels = torch.zeros(settings.batch_size, settings.target_length, dtype=torch.long)
    batch = {"input_ids": ids, "labels": labels}
    return batch | ({"attention_mask": torch.ones_like(ids)} if settings.padding else {})


def to_fake(model: nn.Module) -> nn.Module:
    """Replace every meta parameter and buffer by a fake one on the CPU; shared ones stay shared."""
    import torch
    from torch import nn

    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
            made[id(tensor)] = empty
        return made[id(tensor)]

    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    store[name] = fake(tensor)
    return model


def _with_technique(model: nn.Module, task: str, settings: Settings) -> nn.Module:
    technique = settings.technique
    if technique == "full":
        return model
    if technique == "adapters":
        from lessonkit.adapters import add_adapter

        add_adapter(model, "plan", bottleneck=settings.bottleneck, placement=settings.placement)
        return model
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    kind = {"causal-lm": "CAUSAL_LM", "seq2seq-lm": "SEQ_2_SEQ_LM", "sequence-classification": "SEQ_CLS"}[
        task
    ]
    if technique == "prompt":
        return get_peft_model(
            model, PromptTuningConfig(task_type=kind, num_virtual_tokens=settings.num_virtual_tokens)
        )
    targets: Any = list(settings.target_modules) or None
    if targets == ["all-linear"]:
        targets = "all-linear"
    names = _linear_names(model)
    for target in targets if isinstance(targets, list) else ():
        if target.rsplit(".", 1)[-1] not in names:
            raise UnknownNameError("target module", target, names)
    try:
        return get_peft_model(model, LoraConfig(task_type=kind, r=settings.r, target_modules=targets))
    except ValueError as error:
        raise ModelError(
            f"PEFT has no target modules of its own choice for a {model.config.model_type!r} model.",
            why=str(error),
            fix=f"name them with --target-modules; its linear layers: {', '.join(sorted(names))}",
        ) from error


def _linear_names(model: nn.Module) -> set[str]:
    """The last parts of the names of the layers that LoRA can sit on."""
    from torch import nn

    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ in ("Conv1D", "Embedding")
    }


def _quantize(model: nn.Module, settings: Settings) -> None:
    """Put 4-bit stand-ins in place of the linear layers inside the transformer layers.

    What bitsandbytes leaves alone stays: embeddings, norms, the language-model or classification head.
    """
    import torch
    from torch import nn

    stacks = stacks_of(model)
    if not stacks:
        raise ModelError(
            "It is not plain which layers of this model would be quantised.",
            why="no list of num_hidden_layers layers was found in it",
            fix="choose --technique lora, or another model",
        )
    kind, kept = linear_4bit(), set(model._keep_in_fp32_modules or ())
    for parent in [each for _, layers in stacks for each in layers.modules()]:
        for name, child in list(parent.named_children()):
            linear = isinstance(child, nn.Linear) or type(child).__name__ == "Conv1D"  # GPT-2's linear layer
            if linear and name not in kept:
                setattr(parent, name, kind(child, settings.double_quantization))
    model.requires_grad_(False)
    if settings.prepare_for_kbit_training:
        for parameter in model.parameters():
            if parameter.is_floating_point() and getattr(parameter, "quantized", False) is False:
                parameter.data = parameter.data.to(torch.float32)


def _keep_in_float32(model: nn.Module, dtype: torch.dtype) -> None:
    """What ``from_pretrained`` leaves in float32 whatever was asked for: T5's ``wo`` in float16, say."""
    import torch

    names = set(model._keep_in_fp32_modules_strict or ()) if dtype != torch.float32 else set()
    names |= set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    for name, parameter in model.named_parameters():
        if names and names & set(name.split(".")):
            parameter.data = parameter.data.to(torch.float32)


def check_reads_text(model: nn.Module) -> None:
    """Raises ModelError unless the model takes token ids."""
    takes = model.main_input_name
    if takes != "input_ids":
        raise ModelError(
            f"A {model.config.model_type!r} model takes {takes}, not text.",
            why="a training step is foreseen on rows of token ids",
            fix="give the configuration of a language model, such as bert, gpt2, llama or t5",
        )


def _checkpoint(model: nn.Module) -> None:
    """Gradient checkpointing as ``Trainer`` turns it on; random states are not kept (there is no dropout to redo)."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "preserve_rng_state": False})


@contextlib.contextmanager
def telling_what_fails(config: PretrainedConfig, settings: Settings) -> Iterator[None]:
    """Turn whatever transformers or PEFT raises inside into a ModelError."""
    from lessonkit.errors import LessonkitError

    try:
        yield
    except LessonkitError:
        raise
    except Exception as error:  # whatever transformers or PEFT finds wrong with it
        said = " ".join(str(error).split())
        reason = said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]}..."
        raise ModelError(
            f"A {getattr(config, 'model_type', 'model')!r} model cannot be planned with {settings.technique!r}.",
            why=f"{type(error).__name__}: {reason}",
            fix="try --technique full, which tells whether the configuration itself is whole; look at the values "
            "that the reason names",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' warnings: weights are never there, so what is said of their start is noise."""
    traces = logging.getLogger("torch._subclasses.fake_tensor")  # tells in full what an error says anyway
    level = traces.level
    traces.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        traces.setLevel(level)
