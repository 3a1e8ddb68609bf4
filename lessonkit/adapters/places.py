"""Where in a transformers model an adapter goes: behind a block's output projection, before the residual.

A layer has two blocks, attention and feed-forward. The last thing each computes is a projection back to
the hidden size; the adapter changes that projection's output. With the numbers of MiniLM, hidden size 384::

    BERT and its kin (norm last)                    Llama and its kin (norm first)

    x (batch, sequence, 384) ---------.             x (batch, sequence, 384) ---------.
    self-attention                    |             RMSNorm                           |
    output.dense                      |             self-attention                    |
    [houlsby: adapter]                |             o_proj                            |
    dropout                           |             [houlsby: adapter]                |
    + <-------------------------------'             + <-------------------------------'
    LayerNorm ------------------------.             RMSNorm --------------------------.
    intermediate.dense, GELU          |             gate_proj, up_proj, SiLU          |
    output.dense                      |             down_proj                         |
    [houlsby, pfeiffer: adapter]      |             [houlsby, pfeiffer: adapter]      |
    dropout                           |             + <-------------------------------'
    + <-------------------------------'
    LayerNorm
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lessonkit.errors import AdapterError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KINDS", "Place", "check_model", "check_module", "find_places", "head_modules"]

KINDS = ("attention", "feed_forward")

#: Paths inside a layer: output projection of the attention, and of the feed-forward block.
LAYOUTS = (
    ("attention.output.dense", "output.dense"),  # BERT, RoBERTa, ELECTRA, DeBERTa, CamemBERT, XLM-R
    ("attention.attn.o", "output.dense"),  # MPNet
    ("attention.out_lin", "ffn.lin2"),  # DistilBERT
    ("attention.dense", "ffn_output"),  # ALBERT
    ("attn.Wo", "mlp.Wo"),  # ModernBERT
    ("attn.c_proj", "mlp.c_proj"),  # GPT-2, GPT-BigCode
    ("attn.attention.out_proj", "mlp.c_proj"),  # GPT-Neo
    ("attn.out_proj", "mlp.fc_out"),  # GPT-J, CodeGen
    ("self_attn.out_proj", "fc2"),  # OPT, BART, Whisper, XGLM
    ("self_attn.o_proj", "mlp.down_proj"),  # Llama, SmolLM, Mistral, Qwen, Gemma, Phi-3, OLMo
    ("self_attn.o_proj", "mlp.c_proj"),  # StarCoder 2
    ("self_attn.dense", "mlp.fc2"),  # Phi
    ("attention.dense", "mlp.dense_4h_to_h"),  # GPT-NeoX, Pythia
    ("self_attention.dense", "mlp.dense_4h_to_h"),  # BLOOM, Falcon
    ("layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"),  # T5 encoder
    ("layer.0.SelfAttention.o", "layer.2.DenseReluDense.wo"),  # T5 decoder
    (
        "self_attn.o_proj",
        "mlp",
    ),  # mixtures of experts, whose block adds up many projections: Mixtral, Qwen MoE
)
ATTENTION_NAMES = ("attn", "attention")
FEED_FORWARD_NAMES = ("mlp", "ffn", "ff", "feed_forward", "feedforward")
#: Models whose head is made afresh for a task and so has to be trained.
HEADED = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering")


@dataclass(frozen=True)
class Place:
    """One spot for an adapter.

    layer: 0 for the first; an encoder-decoder counts the encoder's layers first, then the decoder's.
    kind: ``"attention"`` or ``"feed_forward"``.
    path: of the module whose output is adapted, inside the model.
    hidden_size: width of that output.
    reason: how it was found.
    """

    layer: int
    kind: str
    path: str
    hidden_size: int
    reason: str

    @property
    def key(self) -> str:
        """A name that does not depend on what the model is wrapped in: ``"layers.3.feed_forward"``."""
        return f"layers.{self.layer}.{self.kind}"


def find_places(model: nn.Module) -> list[Place]:
    """Both places of each layer, in order.

    Known layouts are tried first; failing that, the last projection to the hidden size inside each layer's
    attention and feed-forward blocks is taken, and `Place.reason` says so.
    Cross-attention gets none. A layer that is used repeatedly (ALBERT) is one layer with one pair of places.
    Raises AdapterError if there are none, if some layers have none, or if hidden sizes differ.
    """
    check_model(model)
    layers = list(_known_layers(model)) or list(_guessed_layers(model))
    if not layers:
        raise AdapterError(
            f"No place for an adapter was found in {type(model).__name__}.",
            why="none of its layers has an attention and a feed-forward block that end in a linear projection",
            fix="use a transformer such as BERT, ModernBERT, GPT-2, Llama, Qwen, Gemma or T5",
        )
    _check_complete(model, [path for path, *_ in layers])
    places = [
        Place(number, kind, f"{path}.{inner}".lstrip("."), width, reason)
        for number, (path, inners, width, reason) in enumerate(layers)
        for kind, inner in zip(KINDS, inners, strict=True)
    ]
    widths = sorted({place.hidden_size for place in places})
    if len(widths) > 1:
        raise AdapterError(
            f"{type(model).__name__} has layers of several hidden sizes: {', '.join(map(str, widths))}.",
            why="it joins several models, such as one for images and one for text",
            fix="pass the part that is to be adapted, such as model.model.language_model",
        )
    return places


def head_modules(model: nn.Module) -> dict[str, nn.Module]:
    """What a classification or question-answering model has on top of its base model; else nothing.

    The head of a language model counts as part of the base model: it was trained with it.
    """
    base = getattr(model, "base_model", model)
    if base is model or not any(kind in type(model).__name__ for kind in HEADED):
        return {}
    children = model.named_children()
    return {
        name: child for name, child in children if child is not base and any(True for _ in child.parameters())
    }


def check_model(model: object) -> None:
    """Raises AdapterError unless ``model`` is a plain transformers model, neither wrapped nor compiled."""
    check_module(model)
    kind = type(model).__name__
    if hasattr(model, "_orig_mod"):
        raise AdapterError(
            "This model went through torch.compile.",
            why="what was compiled does not see adapters that come later",
            fix="add or load the adapter first, then call torch.compile(model)",
        )
    if any(type(each).__module__.startswith("peft.") for each in model.modules()):
        raise AdapterError(
            f"{kind} already carries PEFT layers.",
            why="two techniques in one model would each freeze what the other trains",
            fix="start from a fresh model, or take the base model back: model = model.unload()",
        )
    config = getattr(model, "config", None)
    if not hasattr(config, "model_type"):
        raise _not_a_model(model)
    if getattr(config, "slow_but_exact", False) and getattr(config, "pretraining_tp", 1) > 1:
        raise AdapterError(  # it multiplies with slices of the weights, around the projection module
            f"{kind} is set up with slow_but_exact=True, which goes around its projections.",
            fix="load it with slow_but_exact=False",
        )


def check_module(model: object) -> None:
    """Raises AdapterError unless ``model`` is a module at all."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise _not_a_model(model)


def _not_a_model(model: object) -> AdapterError:
    inner = ": this is a wrapper, so pass its .module" if hasattr(model, "module") else ""
    return AdapterError(
        f"{type(model).__name__} is not a transformers model{inner}.",
        fix="pass what load_model(...) or AutoModelFor....from_pretrained(...) returned",
    )


def _known_layers(model: nn.Module) -> Iterator[tuple[str, tuple[str, str], int, str]]:
    """(path of the layer, paths inside it, hidden size, reason) for each layer that fits a layout."""
    for path, module in model.named_modules():
        for inners in LAYOUTS:
            attention, feed_forward = (_submodule(module, inner) for inner in inners)
            width = _width(attention)
            if width and (_width(feed_forward) == width or hasattr(feed_forward, "experts")):
                yield path, inners, width, f"known layout: {' and '.join(inners)}"
                break


def _guessed_layers(model: nn.Module) -> Iterator[tuple[str, tuple[str, str], int, str]]:
    """The same from structure alone: in each layer, the last projection to the hidden size per block."""
    from torch import nn

    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    width, count = getattr(config, "hidden_size", None), getattr(config, "num_hidden_layers", None)
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) != count:
            continue
        for index, layer in enumerate(module):
            attention = _last_projection(layer, ATTENTION_NAMES, width)
            feed_forward = _last_projection(layer, FEED_FORWARD_NAMES, width)
            if attention and feed_forward:
                reason = f"guess: last projections to {width} in the blocks, {attention} and {feed_forward}"
                yield f"{path}.{index}", (attention, feed_forward), width, reason


def _last_projection(layer: nn.Module, block_names: tuple[str, ...], width: int | None) -> str | None:
    """Path of the last projection to ``width`` inside the child whose name ends like one of these."""
    found = None
    for name, block in layer.named_children():
        if name.lower().endswith(block_names):
            inside = [
                f"{name}.{path}".rstrip(".") for path, each in block.named_modules() if _width(each) == width
            ]
            found = inside[-1] if inside and found is None else found
    return found


def _check_complete(model: nn.Module, paths: list[str]) -> None:
    """Raises AdapterError if a list of layers has some with places and some without."""
    from torch import nn

    parents = dict.fromkeys(path.rpartition(".")[0] for path in paths)
    lists = {parent: model.get_submodule(parent) for parent in parents}
    all_paths = {
        f"{parent}.{name}".lstrip(".")
        for parent, module in lists.items()
        if isinstance(module, nn.ModuleList)
        for name, _ in module.named_children()
    }
    missing = sorted(all_paths - set(paths))
    if missing:
        raise AdapterError(
            f"{len(missing)} layers of {type(model).__name__} have no place for an adapter: {missing[0]} is one.",
            why="not every layer of this model has an attention and a feed-forward block of a known kind",
            fix="use a model whose layers are all alike, such as BERT, Llama or Qwen",
        )


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _width(module: nn.Module | None) -> int | None:
    """Width of a projection's output; None for anything else."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.out_features
    return module.nf if isinstance(module, Conv1D) else None
