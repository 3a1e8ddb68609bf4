"""A model's configuration: read from a file, and the same architecture with fewer layers."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lessonkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lessonkit.memory.settings import Settings

__all__ = ["load_config", "pattern_of", "with_depth"]

LONGEST_PERIOD, MOST_ALONE = 8, 3


def load_config(source: PretrainedConfig | str | Path) -> PretrainedConfig:
    """A transformers configuration from itself, a ``config.json`` or its folder, or an asset's name.

    Raises ModelError if the file is missing, is no JSON, or names no ``model_type`` that transformers knows;
    UnknownNameError for a name that is neither an asset's nor a path.
    """
    from transformers import PretrainedConfig

    if isinstance(source, PretrainedConfig):
        return copy.deepcopy(source)
    path = Path(source)
    if path.is_dir():
        path = path / "config.json"
    if not path.exists() and path.suffix != ".json" and len(path.parts) == 1:
        from lessonkit.assets import asset, fetch

        asset(str(source))  # tells what names there are
        path = fetch(str(source)) / "config.json"
    return copy.deepcopy(_read_config(path, _modified(path)))


def _modified(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


@functools.lru_cache(maxsize=16)
def _read_config(path: Path, _modified_at: float) -> PretrainedConfig:
    from transformers import AutoConfig

    fix = "give the config.json of a transformers model, its folder, or the name of an asset (lessonkit fetch --list)"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = values.pop("model_type", None) if isinstance(values, dict) else None
        if not isinstance(kind, str):
            raise ValueError("it names no model_type")
        config = AutoConfig.for_model(kind, **values)
        if not hasattr(config, "num_hidden_layers"):  # of text and images: the language model in it
            config = config.get_text_config()
        depth = int(config.num_hidden_layers)
    except Exception as error:  # not there, not JSON, or whatever the model's own configuration refuses
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"The configuration {path} cannot be used.", why=why, fix=fix) from error
    if depth < 1:
        raise ModelError(
            f"The configuration {path} has {depth} layers.", fix="num_hidden_layers must be 1 or more"
        )
    return config


def pattern_of(config: PretrainedConfig, settings: Settings) -> tuple[int, int] | None:
    """How many layers stand alone at the beginning, and after how many the others repeat; None if they do not.

    ``(0, 1)`` if all are alike. Layers are alike whose parameters have the same shapes; one may stand alone (T5's
    first has the position biases) or a few (the dense ones of a mixture of experts). An encoder and a decoder are
    looked at together, and need the same number of layers. The whole model is built for this on the meta device,
    which costs no memory.
    """
    from lessonkit.memory.models import build, stacks_of

    stacks = [layers for _, layers in stacks_of(build(copy.deepcopy(config), settings, plain=True))]
    if not stacks or len({len(layers) for layers in stacks}) > 1:
        return None
    kinds = getattr(config, "layer_types", None) or [None] * len(stacks[0])
    shapes = [
        (kind, [[(name, each.shape) for name, each in layer.named_parameters()] for layer in at_this_depth])
        for kind, *at_this_depth in zip(kinds, *stacks, strict=True)
    ]
    for alone in range(MOST_ALONE + 1):
        for period in range(1, min(LONGEST_PERIOD, (len(shapes) - alone) // 2) + 1):
            if shapes[alone + period :] == shapes[alone:-period]:
                return alone, period
    return None


def with_depth(config: PretrainedConfig, count: int) -> PretrainedConfig:
    """The same architecture with fewer layers."""
    shallow = copy.deepcopy(config)
    depth = config.num_hidden_layers
    for name in ("num_decoder_layers", "decoder_layers"):  # num_hidden_layers stands for the encoder's alone
        if getattr(config, name, None) == depth:
            setattr(shallow, name, count)
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == depth:  # layer_types and the like: one entry a layer
            setattr(shallow, name, value[:count])
    shallow.num_hidden_layers = count
    return shallow
