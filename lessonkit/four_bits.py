"""4-bit layers on a CPU: that they stay trainable, and that their weights are read back right.

On a CPU with AVX-512 bf16, bitsandbytes (0.50.2, ``nn.Linear4bit.forward``) repacks a layer's weights for speed in
the first evaluation without gradients. From then on no gradient passes through that layer, without any error, and an
adapter below it hardly trains. The layer's own switch keeps it from doing so.

On a CPU with AVX-512, bf16 or not, a layer whose rows are not whole blocks of 64 numbers is read back wrongly, without
any error: the kernel begins a new block with each row (``cdequantize_blockwise_cpu_nf4_fp32`` and its sisters).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

__all__ = ["keep_trainable", "misread_layers", "misreads_short_rows", "packed_layers", "unfit_layers"]

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
    """The names of the linear layers, 4-bit or not yet, that bitsandbytes' CPU kernels don't take in 4 bits.

    They take a multiple of 64 inputs and, to repack a layer, of 32 outputs. For ``llm_int8_skip_modules``.
    """
    from torch.nn import Linear

    return [
        name
        for name, each in model.named_modules()
        if isinstance(each, Linear) and (each.in_features % BLOCK or each.out_features % PACKED_ROWS)
    ]


def misread_layers(model: Any) -> list[str]:
    """The names of the 4-bit layers that lie on this CPU and are read back wrongly there."""
    found = [
        name
        for name, each in model.named_modules()
        if hasattr(each, SWITCH) and each.weight.device.type == "cpu" and each.in_features % BLOCK
    ]
    return found if found and misreads_short_rows() else []


@functools.cache
def misreads_short_rows() -> bool:
    """Whether bitsandbytes, on this CPU, gives numbers in short rows back otherwise than the same in one row."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    numbers = torch.linspace(-1, 8, 4 * BLOCK)
    rows, row = (
        dequantize_4bit(*quantize_4bit(numbers.reshape(shape), quant_type="nf4", blocksize=BLOCK))
        for shape in ((-1, BLOCK // 2), (1, -1))
    )
    return not torch.equal(rows.flatten(), row.flatten())
