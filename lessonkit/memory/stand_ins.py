"""Stand-ins that hold what the real thing holds: bitsandbytes' 4-bit layer and 8-bit optimiser."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["adamw_8bit", "linear_4bit"]

#: Blocks of 64 weights share one scale; with double quantisation 256 scales share one (Dettmers et al. 2023,
#: "QLoRA", section 3: 0.5 bits a parameter become 0.127).
BLOCK, SCALES_BLOCK = 64, 256


def linear_4bit() -> type[nn.Module]:
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


def adamw_8bit(parameters: list[torch.Tensor]) -> Any:
    """A stand-in that holds what bitsandbytes' AdamW8bit holds on a CPU, and computes nothing.

    Two states of one byte a value with a scale for each 256; tensors below 4,096 values keep 32-bit states
    (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", section 2).
    In passing, one tensor after another has both its states, its gradient and two stages of the root in float32
    (bitsandbytes 0.50); a GPU's kernel needs no such room.
    """
    import torch

    class AdamW8bit(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for each in group["params"]:
                    if each.grad is not None and each not in self.state:
                        self.state[each] = self._states(each)
                    if each.grad is not None and each.numel() >= 4096:
                        passing = [torch.empty_like(each, dtype=torch.float32) for _ in range(5)]
                        del passing

        def _states(self, parameter):
            count = parameter.numel()
            if count < 4096:
                return {name: torch.zeros(count, dtype=torch.float32) for name in ("state1", "state2")}
            states = {name: torch.zeros(count, dtype=torch.uint8) for name in ("state1", "state2")}
            return states | {name: torch.zeros(math.ceil(count / 256)) for name in ("absmax1", "absmax2")}

    return AdamW8bit(parameters, {})
