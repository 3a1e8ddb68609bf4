"""4-bit layers that stay trainable on a CPU.

On a CPU with AVX-512 bf16, bitsandbytes (0.50.2, ``nn.Linear4bit.forward``) repacks a layer's weights for speed in
the first evaluation without gradients. From then on no gradient passes through that layer, without any error, and an
adapter below it hardly trains. The layer's own switch keeps it from doing so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["keep_trainable", "packed_layers"]

SWITCH = "support_avx512bf16_for_cpu"


def keep_trainable(model: Any) -> int:
    """Switch the repacking off in every 4-bit layer of the model; how many layers had it on."""
    layers = [each for each in model.modules() if getattr(each, SWITCH, False)]
    for layer in layers:
        setattr(layer, SWITCH, False)
    return len(layers)


def packed_layers(model: Any) -> Iterator[str]:
    """The names of the layers that were repacked already: no gradient passes through these."""
    for name, each in model.named_modules():
        weight = getattr(each, "weight", None)
        if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
            yield name
