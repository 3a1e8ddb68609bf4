"""Operations that fake tensors cannot do by themselves: where the result's shape depends on numbers, or is not told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["without_numbers"]


def without_numbers(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The operation's result; on fake tensors the largest that it could have.

    ``nonzero`` finds every place (DeBERTa looks for rows that have a label so), a mask takes every row, and
    ``unique_consecutive`` finds one value (BART compares the rows' ends so). Mixtures of experts multiply in groups,
    whose shape PyTorch tells for bfloat16 alone.
    """
    answer = _known().get(operation)
    if answer is None or not _is_fake(args[0]):
        return operation(*args, **kwargs)
    return answer(*args, **kwargs)


@functools.cache
def _known() -> Mapping[Any, Callable[..., Any]]:
    """What is answered here; made once, since every operation of a step is looked up in it."""
    import torch

    aten = torch.ops.aten
    return {
        aten.nonzero.default: _nonzero,
        aten.index.Tensor: _index,
        aten.unique_consecutive.default: _unique_consecutive,
        aten._grouped_mm.default: _grouped_mm,
    }


def _is_fake(tensor: Any) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def _nonzero(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.new_empty((tensor.numel(), tensor.dim()), dtype=torch.long)


def _index(tensor: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    import torch

    chosen: list[torch.Tensor | None] = []
    for each in indices:
        if each is not None and each.dtype == torch.bool:
            chosen += [each.new_empty(each.numel(), dtype=torch.long) for _ in range(each.dim())]
        else:
            chosen.append(each)
    return torch.ops.aten.index.Tensor(tensor, chosen)


def _unique_consecutive(
    tensor: torch.Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    none = tensor.new_empty(0, dtype=torch.long)
    return tensor.new_empty(1), none, none


def _grouped_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Rows in groups: (rows, in) x (groups, in, out), and the products of its backward pass."""
    shape = (*a.shape[:-1], b.shape[-1])
    if a.dim() == b.dim() == 2:  # each group's rows summed up: the gradient of the groups' matrices
        shape = (offs.numel(), *shape)
    elif a.dim() == 3 and b.dim() == 2:
        shape = shape[1:]
    return a.new_empty(shape, dtype=out_dtype or a.dtype)
