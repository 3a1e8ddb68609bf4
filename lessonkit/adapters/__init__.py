"""Bottleneck adapters on any plain transformers encoder or decoder.

An adapter is a small two-layer network with a residual, put behind the blocks of a frozen model; only it
learns (`lessonkit.adapters.layers` draws one). Two placements:

- ``"houlsby"``: behind the attention's and behind the feed-forward block's output projection, two per layer
  (Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", section 2.1).
- ``"pfeiffer"``: behind the feed-forward block's only, one per layer, so half the parameters
  (Pfeiffer et al. 2020, "MAD-X", and 2021, "AdapterFusion").

`lessonkit.adapters.places` draws where exactly: on the projection's output, before the base model's own
dropout and residual. Three simplifications against the papers: the norms of the base model stay frozen
(Houlsby et al. train them too); MAD-X's adapter reads the normed sum of block and residual, this one the
block's output; and base dropout comes after the adapter, not before.

    model = AutoModelForSequenceClassification.from_pretrained(...)
    add_adapter(model, "news", bottleneck=64)      # freezes the rest, but for the fresh head
    Trainer(model, ...).train()
    save_adapter(model, "outputs/news", "news")    # the adapter and the head, not the whole model

How it is built: each place's projection (a ``Linear`` or GPT-2's ``Conv1D``) gets a child module ``adapters``
and a forward hook. So the projection's type and every key of the base model in `state_dict()` stay, copies,
pickles and checkpoints work, and `print(model)` shows the adapters (GPT-2's ``Conv1D`` prints itself alone).
`model.save_pretrained` and the Trainer's checkpoints hold base model and adapters together; to load one,
add the adapters first, then `load_state_dict`; `trainer.train(resume_from_checkpoint=True)` does that.

Activation checkpointing works as it is, since transformers' default (``use_reentrant=False``) lets gradients
reach adapters above frozen embeddings. With ``use_reentrant=True``, call `model.enable_input_require_grads()`.
A model in 4 bits (bitsandbytes) works in a loop of one's own; the Trainer accepts only PEFT's layers on one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lessonkit.adapters.config import AdapterConfig, check_fit, check_name, make_config
from lessonkit.adapters.files import read_adapter, write_adapter
from lessonkit.adapters.places import check_module, find_places, head_modules
from lessonkit.errors import AdapterError, UnknownNameError
from lessonkit.hardware import versions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lessonkit.adapters.layers import AdapterStack

__all__ = [
    "AdapterConfig",
    "AdapterError",
    "ParameterCounts",
    "active_adapters",
    "adapter_parameters",
    "add_adapter",
    "count_parameters",
    "disable_adapters",
    "list_adapters",
    "load_adapter",
    "remove_adapter",
    "save_adapter",
    "set_active",
]

_OPTIONS = ("bottleneck", "placement", "nonlinearity", "dropout", "init", "layers")
_THAW = "_trainable_before_adapters"


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters. adapters: by name; head: of a fresh head; base: the rest; trainable: of all."""

    base: int
    head: int
    adapters: dict[str, int]
    trainable: int

    @property
    def total(self) -> int:
        """Everything in the model."""
        return self.base + self.head + sum(self.adapters.values())

    @property
    def trainable_share(self) -> float:
        """0 to 1."""
        return self.trainable / self.total


def add_adapter(
    model: nn.Module,
    name: str,
    bottleneck: int | None = None,
    placement: str = "pfeiffer",
    *,
    reduction_factor: float | None = None,
    nonlinearity: str = "relu",
    dropout: float = 0.0,
    init: str = "identity",
    layers: Iterable[int] | None = None,
    train_head: bool = True,
    dtype: torch.dtype | None = None,
) -> AdapterConfig:
    """Put a new adapter into ``model``, make it the only active one, and freeze all the rest.

    bottleneck: m, from 1 to the hidden size d; 64 if neither this nor ``reduction_factor`` is given.
    placement: ``"pfeiffer"``, one adapter per layer, or ``"houlsby"``, two. Each has 2 d m + m + d parameters.
    reduction_factor: d / m, instead of ``bottleneck``.
    nonlinearity: ``"relu"``, ``"gelu"``, ``"silu"``, ``"leaky_relu"`` or ``"tanh"``.
    dropout: probability, on what the adapter adds.
    init: ``"identity"``, so that the outputs are exactly the base model's until the first step, or
        ``"near-identity"``, the paper's small random weights.
    layers: numbers of the layers that get one, from 0; None for all. An encoder-decoder counts its encoder's
        first. ALBERT repeats one layer, and so its adapter.
    train_head: whether the head of a classification model stays trainable (it was made afresh).
    dtype: of the stored weights; None for float32 also where the base model has bfloat16. Arithmetic is
        done in the dtype of the hidden states. The device is the projection's, also ``meta``.
    Raises AdapterError, UnknownNameError for an unknown placement, non-linearity or init.
    """
    from lessonkit.adapters.layers import AdapterStack, insert

    places = find_places(model)
    check_name(name, list_adapters(model), dir(AdapterStack(None)))
    config = make_config(
        name,
        places,
        model.config.model_type,
        placement=placement,
        bottleneck=bottleneck,
        reduction_factor=reduction_factor,
        nonlinearity=nonlinearity,
        dropout=dropout,
        init=init,
        layers=layers,
    )
    if not _stacks(model):  # given back by `remove_adapter`
        setattr(model, _THAW, tuple(key for key, each in model.named_parameters() if each.requires_grad))
    model.requires_grad_(False)
    for place in config.places(places):
        insert(model.get_submodule(place.path), place, config, dtype)
    if train_head:
        for head in head_modules(model).values():
            head.requires_grad_(True)
    set_active(model, name)
    return config


def set_active(
    model: nn.Module, names: str | Iterable[str], *, train: str | Iterable[str] | None = None
) -> None:
    """Switch: the named adapters work, all others rest.

    names: one name, or several to stack (MAD-X: a language adapter below a task adapter): at each place the
        second gets what the first puts out. An empty list gives the base model.
    train: which of all adapters are trainable from now on; None for the active ones. A stack whose lower
        part stays as it is: ``set_active(model, ["german", "news"], train="news")``.
    Raises UnknownNameError for a name that the model has no adapter of, AdapterError for one named twice.
    """
    known = list_adapters(model)
    order = _names(names, known)
    trained = order if train is None else _names(train, known)
    for stack in _stacks(model).values():
        stack.active = order
        for name, adapter in stack.items():
            adapter.requires_grad_(name in trained)


def active_adapters(model: nn.Module) -> tuple[str, ...]:
    """Names of the active adapters, in the order of application."""
    return next((stack.active for stack in _stacks(model).values()), ())


@contextlib.contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Within ``with disable_adapters(model):`` it computes what the base model computes (a trained head stays)."""
    before = {key: stack.active for key, stack in _stacks(model).items()}
    for stack in _stacks(model).values():
        stack.active = ()
    try:
        yield
    finally:
        for key, stack in _stacks(model).items():
            stack.active = before.get(key, stack.active)


def remove_adapter(model: nn.Module, name: str) -> None:
    """Take an adapter out. After the last, the model is as before: same keys, outputs, trainable parameters.

    A head that was trained keeps what it learned. Raises UnknownNameError.
    """
    _names(name, list_adapters(model))
    for projection in list(model.modules()):
        stack = getattr(projection, "adapters", None)
        if not _is_stack(stack):
            continue
        if name in stack:
            del stack[name], stack.configs[name]
        stack.active = tuple(each for each in stack.active if each != name)
        if not stack:
            stack.detach(projection)
    if not _stacks(model) and hasattr(model, _THAW):
        parameters = dict(model.named_parameters())
        for key in getattr(model, _THAW):
            parameters[key].requires_grad_(True)
        delattr(model, _THAW)


def list_adapters(model: nn.Module) -> dict[str, AdapterConfig]:
    """Name to configuration, for each adapter in the model, oldest first."""
    return {name: config for stack in _stacks(model).values() for name, config in stack.configs.items()}


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """An adapter's own parameters by a name that does not depend on the model around it.

    For example ``"layers.0.feed_forward.down.weight"``, of shape (bottleneck, hidden size).
    Raises UnknownNameError.
    """
    _names(name, list_adapters(model))
    return {
        f"{key}.{inner}": parameter
        for key, stack in _stacks(model).items()
        if name in stack
        for inner, parameter in stack[name].named_parameters()
    }


def count_parameters(model: nn.Module) -> ParameterCounts:
    """How many parameters the base model, the head and each adapter have, and how many are trainable.

    Weights in 4 bits are packed by two, and count as they are stored.
    """
    adapters = {
        name: sum(each.numel() for each in adapter_parameters(model, name).values())
        for name in list_adapters(model)
    }
    head = sum(each.numel() for part in head_modules(model).values() for each in part.parameters())
    everything = list(model.parameters())
    total = sum(each.numel() for each in everything)
    return ParameterCounts(
        base=total - head - sum(adapters.values()),
        head=head,
        adapters=adapters,
        trainable=sum(each.numel() for each in everything if each.requires_grad),
    )


def save_adapter(model: nn.Module, folder: str | Path, name: str, *, head: bool = True) -> Path:
    """Write one adapter, and the classification head if there is one, to ``folder``; returns the folder.

    head: whether to write the head too; without it the adapter gives its features and no classes.
    Raises UnknownNameError, AdapterError on the meta device, ModelError if the folder cannot be written.
    """
    tensors = dict(adapter_parameters(model, name))
    heads = head_modules(model) if head else {}
    tensors |= _head_tensors(heads)
    if any(each.is_meta for each in tensors.values()):
        raise AdapterError(
            "A model on the meta device has no weights to save.",
            fix="load the model with from_pretrained, outside of torch.device('meta')",
        )
    config = asdict(list_adapters(model)[name])
    about = {"head": sorted(heads), "base_model": getattr(model, "name_or_path", ""), "versions": versions()}
    whole = {key: each.detach().cpu().contiguous() for key, each in tensors.items()}
    return write_adapter(folder, config | about, whole)


def load_adapter(
    model: nn.Module, folder: str | Path, name: str | None = None, *, head: bool = True
) -> AdapterConfig:
    """Put a saved adapter into ``model``; like a new one it is active, trainable, and the rest is frozen.

    name: None for the one it was saved under.
    head: whether a saved head goes into the model too.
    Raises ModelError for missing or damaged files, AdapterError with all that differs if it does not fit.
    """
    import torch

    settings, tensors = read_adapter(folder)
    places = find_places(model)
    fits = check_fit(settings, places, model.config.model_type)
    saved_head = {key: each for key, each in tensors.items() if key.startswith("head.")}
    weights = {key: each for key, each in tensors.items() if key not in saved_head}
    _check_shapes(
        weights, fits.shapes(places), "save the adapter again: the file does not match its settings"
    )
    own_head = _head_tensors(head_modules(model)) if head and saved_head else {}
    if head and saved_head:
        shapes = {key: tuple(each.shape) for key, each in own_head.items()}
        _check_shapes(
            saved_head, shapes, "load the model with the same class and num_labels, or pass head=False"
        )
    options = {key: value for key, value in asdict(fits).items() if key in _OPTIONS}
    config = add_adapter(model, fits.name if name is None else name, **options)
    with torch.no_grad():
        for key, parameter in (adapter_parameters(model, config.name) | own_head).items():
            parameter.copy_(tensors[key])
    return config


def _stacks(model: nn.Module) -> dict[str, AdapterStack]:
    """The stacks in the model, by their place's key."""
    check_module(model)
    return {module.place.key: module for module in model.modules() if _is_stack(module)}


def _is_stack(module: object) -> bool:
    from lessonkit.adapters.layers import AdapterStack

    return isinstance(module, AdapterStack)


def _names(names: str | Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """A tuple of known names, each once."""
    order = (names,) if isinstance(names, str) else tuple(names)
    for name in order:
        if name not in known:
            fix = "" if known else 'the model has no adapter yet: add_adapter(model, "news")'
            raise UnknownNameError("adapter", str(name), known, fix=fix)
    if len(set(order)) < len(order):
        raise AdapterError(f"An adapter is named twice: {', '.join(order)}.", fix="name each of them once")
    return order


def _head_tensors(heads: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    return {
        f"head.{name}.{key}": parameter
        for name, each in heads.items()
        for key, parameter in each.named_parameters()
    }


def _check_shapes(saved: dict[str, torch.Tensor], wanted: dict[str, tuple[int, ...]], fix: str) -> None:
    """Raises AdapterError with the first few names or shapes that differ."""
    there = {key: tuple(each.shape) for key, each in saved.items()}
    differences = [
        f"{key} is {there.get(key, 'missing')} there and {wanted.get(key, 'missing')} here"
        for key in sorted(there.keys() | wanted.keys())
        if there.get(key) != wanted.get(key)
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise AdapterError(
            "The saved adapter does not fit this model.", why="; ".join(differences[:3]) + more, fix=fix
        )
