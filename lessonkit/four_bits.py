"""4-bit layers on a CPU: that they stay trainable, and that their weights are read back right.

On a CPU with AVX-512 bf16, bitsandbytes (0.50.2, ``nn.Linear4bit.forward``) repacks a layer's weights for speed in
the first evaluation without gradients. From then on no gradient passes through that layer, without any error, and an
adapter below it hardly trains. The layer's own switch keeps it from doing so.

On a CPU with AVX-512, some layers whose rows are not whole blocks of 64 numbers are read back wrongly, without any
error: with 32 or 96 inputs the kernel (``cdequantize_blockwise_cpu_nf4_fp32`` and its sisters) takes the scales as if
each row had ``inputs // 64`` of them. Which ones, is tried: other CPUs and other versions read other layers right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

__all__ = ["keep_trainable", "misread_layers", "misreads", "packed_layers", "unfit_layers"]

SWITCH = "support_avx512bf16_for_cpu"
BLOCK = 64  # numbers that share a scale
PACKED_ROWS = 32  # the repacked layout takes so many rows together, and stops at other numbers of them


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


def unfit_layers(model: Any) -> list[str]:
    """For ``llm_int8_skip_modules``: the linear layers that bitsandbytes' CPU kernels don't take, and the head.

    model: as it is, or in 4 bits already. The kernels take a multiple of 64 inputs and, to repack a layer, of 32
    outputs. The head, because a list that is given replaces transformers' own, which is the head alone.
    """
    from torch.nn import Linear
    from transformers.quantizers.base import get_keys_to_not_convert

    unfit = {
        name
        for name, each in model.named_modules()
        if isinstance(each, Linear) and (each.in_features % BLOCK or each.out_features % PACKED_ROWS)
    }
    return sorted(unfit | set(get_keys_to_not_convert(model)))


def misread_layers(model: Any) -> list[str]:
    """The names of the 4-bit layers that lie on this CPU and are read back wrongly there."""
    return [
        name
        for name, each in model.named_modules()
        if hasattr(each, SWITCH) and each.weight.device.type == "cpu" and misreads(each.in_features)
    ]


@functools.cache
def misreads(inputs: int) -> bool:
    """Whether bitsandbytes, on this CPU, reads a layer with so many inputs otherwise than the same numbers in one row."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    numbers = torch.linspace(-1, 8, BLOCK * inputs)
    rows, row = (
        dequantize_4bit(*quantize_4bit(numbers.reshape(shape), quant_type="nf4", blocksize=BLOCK))
        for shape in ((BLOCK, inputs), (1, -1))
    )
    return not torch.equal(rows.flatten(), row.flatten())
