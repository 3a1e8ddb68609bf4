"""Who holds which bytes: one process, DDP (every process holds all), FSDP (every process holds its shard).

FSDP is PyTorch's second one, ``fully_shard``: each parameter becomes a DTensor, cut along its first dimension. A block
gathers its parameters when it computes, and lets go of them afterwards. Sources: Rajbhandari et al. 2020 (ZeRO),
section 5; Li et al. 2020 (PyTorch Distributed), section 3.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lessonkit.errors import TrainingError
from production.group import Group

__all__ = ["Held", "blocks", "distribute", "held", "predicted", "small_batch"]

FLOAT = 4  # bytes of a float32


@dataclass(frozen=True)
class Held:
    """Bytes that one process holds, without activations and buffers for communication."""

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All three."""
        return self.parameters + self.gradients + self.optimizer

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self) | {"total": self.total}


def blocks(model: nn.Module) -> list[nn.Module]:
    """The model's repeated layers: the list of modules with the most parameters."""
    lists = [each for each in model.modules() if isinstance(each, nn.ModuleList)]
    if not lists:
        raise TrainingError("The model has no list of layers to shard by.", fix="use --strategy ddp")
    return list(max(lists, key=lambda each: sum(weight.numel() for weight in each.parameters())))


def distribute(model: nn.Module, strategy: str, group: Group, precision: str) -> nn.Module:
    """The model as ``strategy`` ("single", "ddp" or "fsdp") holds it. Make the optimiser afterwards: of the shards.

    precision: "bf16" lets FSDP gather and compute in bfloat16 (half the bytes), while each shard stays float32;
    gradients are reduced in float32. Raises TrainingError for a strategy that the number of processes doesn't suit.
    """
    if strategy == "single":
        if group.world > 1:
            raise TrainingError(
                f"{group.world} processes were started, and the strategy is single.",
                why="each would train a model of its own, and write over the others' files",
                fix="choose --strategy ddp or fsdp, or start without torchrun",
            )
        return model
    if not group.launched:
        raise TrainingError(
            f"The strategy {strategy} needs a launcher.",
            fix="torchrun --nproc-per-node 2 -m production.train, or --strategy single",
        )
    if strategy == "ddp":
        own = [group.device.index] if group.device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel).parameters  # PyTorch 2.13 has renamed one
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        # Gradients as views of the buckets that are sent: otherwise each process holds them twice.
        return DistributedDataParallel(model, device_ids=own, gradient_as_bucket_view=True, **{sync: False})
    mesh = init_device_mesh(group.device.type, (group.world,))
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for each in [*blocks(model), model]:  # the model last: it takes what no block has taken
        fully_shard(each, mesh=mesh, mp_policy=policy, reshard_after_forward=True)  # the last one, too
        if group.backend == "gloo":
            each.set_force_sum_reduction_for_comms(True)  # gloo sums; the mean is then taken here
    return model


@contextlib.contextmanager
def small_batch(model: nn.Module, last: bool) -> Iterator[None]:
    """One forward and backward; gradients are exchanged only for the last small batch of a step.

    Until then FSDP keeps whole gradients: accumulation saves communication, and costs what sharding has saved.
    """
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    yield


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> Held:
    """Measured: the bytes of this process, between the backward pass and the next ``zero_grad``."""
    weights = list(model.parameters())
    states = (each for state in optimizer.state.values() for each in state.values())
    return Held(
        parameters=_bytes(weights),
        gradients=_bytes(each.grad for each in weights if each.grad is not None),
        optimizer=_bytes(each for each in states if isinstance(each, torch.Tensor)),
    )


def predicted(shapes: Iterable[tuple[int, ...]], strategy: str, world: int = 1, rank: int = 0) -> Held:
    """The same by arithmetic, for float32 weights that are all trained by AdamW.

    shapes: of the whole parameters. AdamW keeps two numbers for each weight, and a counter for each tensor.
    """
    shapes = [tuple(each) for each in shapes]
    cut = world if strategy == "fsdp" else 1
    numbers = sum(_part(each, cut, rank if cut > 1 else 0) for each in shapes)
    return Held(FLOAT * numbers, FLOAT * numbers, 2 * FLOAT * numbers + FLOAT * len(shapes))


def _part(shape: tuple[int, ...], world: int, rank: int) -> int:
    """Numbers of this rank's shard: rows are dealt as by ``torch.chunk``, so that the last ranks may get fewer."""
    rest = 1
    for each in shape[1:]:
        rest *= each
    rows = shape[0] if shape else 1
    each = -(-rows // world)
    return max(0, min(each, rows - rank * each)) * rest


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    local = (each.to_local() if isinstance(each, DTensor) else each for each in tensors)
    return sum(each.numel() * each.element_size() for each in local)
