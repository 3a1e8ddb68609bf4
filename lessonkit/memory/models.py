"""Build a model without weights, put a fine-tuning technique on it, and turn it into fake tensors."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lessonkit.errors import ModelError, UnknownNameError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig

    from lessonkit.memory import Settings

__all__ = [
    "adamw_8bit",
    "build",
    "device_of",
    "foreach_adamw",
    "layers_of",
    "make_batch",
    "quiet",
    "task_of",
    "telling_what_fails",
    "to_fake",
]

#: Blocks of 64 weights share one scale; with double quantisation 256 scales share one (Dettmers et al. 2023,
#: "QLoRA", section 3: 0.5 bits a parameter become 0.127).
BLOCK, SCALES_BLOCK = 64, 256


def task_of(config: PretrainedConfig) -> str:
    """``"causal-lm"`` or ``"sequence-classification"``: what a model of this kind is fine-tuned for.

    Taken from the configuration's ``architectures``, or else from what transformers offers for its type.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED,
    )

    named = " ".join(getattr(config, "architectures", None) or ())
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
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    task = settings.task or task_of(config)
    factory = {
        "causal-lm": AutoModelForCausalLM,
        "sequence-classification": AutoModelForSequenceClassification,
    }[task]
    dtype = getattr(torch, settings.dtype)
    if task == "sequence-classification":
        config.num_labels = settings.num_labels
        if config.pad_token_id is None:
            config.pad_token_id = 0
    if device_of(settings) == "cuda" and settings.attention != "eager":
        _without_attention_dropout(config)
    with telling_what_fails(config, settings), quiet(), torch.device("meta"):
        chosen = {"attn_implementation": settings.attention} if settings.attention else {}
        model = factory.from_config(config, dtype=dtype, **chosen)
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


def _without_attention_dropout(config: PretrainedConfig) -> None:
    """On the CPU dropout of attention probabilities needs them written out; a GPU's fused kernels do not."""
    for name in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"):
        if getattr(config, name, None):
            setattr(config, name, 0.0)


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


def make_batch(task: str, settings: Settings) -> dict[str, Any]:
    """A batch as a collator makes it; call it where fake tensors are made."""
    import torch

    ids = torch.zeros(settings.batch_size, settings.sequence_length, dtype=torch.long)
    labels = (
        torch.zeros_like(ids) if task == "causal-lm" else torch.zeros(settings.batch_size, dtype=torch.long)
    )
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

    kind = {"causal-lm": "CAUSAL_LM", "sequence-classification": "SEQ_CLS"}[task]
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

    found = layers_of(model)
    if found is None:
        raise ModelError(
            "It is not plain which layers of this model would be quantised.",
            why="no list of num_hidden_layers layers was found in it",
            fix="choose --technique lora, or another model",
        )
    kind = _linear4bit()
    for layer in found[1]:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear) or type(child).__name__ == "Conv1D":  # GPT-2's linear layer
                    setattr(parent, name, kind(child, settings.double_quantization))
    model.requires_grad_(False)
    if settings.prepare_for_kbit_training:
        for parameter in model.parameters():
            if parameter.is_floating_point() and getattr(parameter, "quantized", False) is False:
                parameter.data = parameter.data.to(torch.float32)


def _linear4bit() -> type[nn.Module]:
    """A linear layer that holds what ``bitsandbytes.nn.Linear4bit`` holds (made here: torch loads slowly)."""
    import torch
    from torch import nn

    class Multiply(torch.autograd.Function):
        """As bitsandbytes' MatMul4Bit: the weight is dequantised in passing, forward and backward."""

        @staticmethod
        def forward(ctx, x, packed, shape, bias):
            ctx.shape = shape
            weight = torch.empty(shape, dtype=x.dtype, device=x.device)
            return torch.nn.functional.linear(x, weight, bias)

        @staticmethod
        def backward(ctx, gradient):
            weight = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device)
            return gradient @ weight, None, None, None

    class Linear4bit(nn.Linear):
        def __init__(self, old: nn.Linear, double: bool) -> None:
            nn.Module.__init__(self)
            shape = tuple(old.weight.shape)
            self.shape = shape if isinstance(old, nn.Linear) else shape[::-1]  # Conv1D has (in, out)
            self.out_features, self.in_features = self.shape
            self.bias = old.bias
            count = old.weight.numel()
            blocks = math.ceil(count / BLOCK)
            self.weight = nn.Parameter(
                torch.empty(math.ceil(count / 2), 1, dtype=torch.uint8), requires_grad=False
            )
            scales = {"absmax": torch.empty(blocks, dtype=torch.uint8 if double else torch.float32)}
            scales["code"] = torch.empty(16)
            if double:
                scales["absmax_scales"] = torch.empty(math.ceil(blocks / SCALES_BLOCK))
                scales["absmax_code"], scales["offset"] = torch.empty(256), torch.empty(())
            for name, tensor in scales.items():
                self.register_buffer(name, tensor)
            self.compute_dtype = old.weight.dtype
            self.counted_parameters = count

        def forward(self, x):
            return Multiply.apply(x.to(self.compute_dtype), self.weight, self.shape, self.bias).to(x.dtype)

    return Linear4bit


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
        raise ModelError(
            f"A {getattr(config, 'model_type', 'model')!r} model cannot be planned with {settings.technique!r}.",
            why=f"{type(error).__name__}: {error}",
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


def foreach_adamw(parameters: list[torch.Tensor]) -> Any:
    """AdamW as it runs by itself on a GPU: the square roots of all second moments are there at once."""
    import torch

    class ForeachAdamW(torch.optim.AdamW):
        def step(self, closure=None):
            roots = [torch.empty_like(each) for group in self.param_groups for each in group["params"]]
            super().step(closure)
            del roots

    return ForeachAdamW(parameters, fused=True)


def adamw_8bit(parameters: list[torch.Tensor]) -> Any:
    """A stand-in that holds what bitsandbytes' AdamW8bit holds, and computes nothing.

    Two states of one byte a value with a scale for each 256; tensors below 4,096 values keep 32-bit states
    (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", section 2).
    """
    import torch

    class AdamW8bit(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for each in group["params"]:
                    if each.grad is not None and each not in self.state:
                        self.state[each] = self._states(each)

        def _states(self, parameter):
            count = parameter.numel()
            if count < 4096:
                return {name: torch.zeros(count, dtype=torch.float32) for name in ("state1", "state2")}
            states = {name: torch.zeros(count, dtype=torch.uint8) for name in ("state1", "state2")}
            return states | {name: torch.zeros(math.ceil(count / 256)) for name in ("absmax1", "absmax2")}

    return AdamW8bit(parameters, {})
