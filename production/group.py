"""The processes of one training: who am I, how many are we, which device is mine.

A launcher (``torchrun``, ``accelerate launch``) starts the same program several times and tells each one its place by
environment variables: ``RANK`` of all, ``LOCAL_RANK`` on this machine, ``WORLD_SIZE``, ``MASTER_ADDR`` and
``MASTER_PORT`` to meet at. Without a launcher there is one process and nobody to meet.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from lessonkit.errors import TrainingError

__all__ = ["Group", "join", "leave", "loopback", "peak_bytes", "torchrun"]

#: Set to 1, each start of the workers meets in a store of its own. Else torchrun (PyTorch 2.13) keeps one store for all
#: restarts, with the addresses of the workers that died, and the new ones may try to reach those.
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


@dataclass(frozen=True)
class Group:
    """rank: this process among ``world`` ones. launched: by a launcher, so that collectives can be called."""

    rank: int
    world: int
    launched: bool
    device: torch.device
    backend: str

    def wait(self) -> None:
        """Until all processes are here."""
        if self.launched:
            dist.barrier()

    def total(self, value: float) -> float:
        """The sum of every process's value, known to all; an all-reduce of 8 bytes."""
        if not self.launched:
            return value
        mine = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(mine)
        return mine.item()

    def told(self, value: Any) -> Any:
        """What rank 0 has, known to all."""
        if not self.launched:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def collected(self, value: Any) -> list[Any]:
        """Every process's value, in the order of the ranks, known to all."""
        if not self.launched:
            return [value]
        found = [None] * self.world
        dist.all_gather_object(found, value)
        return found


@contextlib.contextmanager
def join(timeout: float = 600.0) -> Iterator[Group]:
    """Meet the other processes; part from them at the end.

    timeout: seconds that one collective may take before it fails, on a CPU (gloo) and on GPUs (nccl).
    Raises TrainingError where this machine has fewer GPUs than processes.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    device, backend = torch.device("cpu"), "gloo"
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise TrainingError(
                f"Process {local} of this machine has no GPU: there are {torch.cuda.device_count()}.",
                why="each process needs a GPU of its own; two on one slow each other down, and NCCL refuses it",
                fix=f"start with --nproc-per-node {torch.cuda.device_count()}, or hide the GPUs by "
                "CUDA_VISIBLE_DEVICES= to rehearse on the CPU",
            )
        device, backend = torch.device("cuda", local), "nccl"
        torch.cuda.set_device(device)
    if not _launched():
        yield Group(0, 1, False, device, "none")
        return
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and os.environ.get(OWN_STORE) != "1" and os.environ["RANK"] == "0":
        print(f"A restart may fail: start torchrun with {OWN_STORE}=1 (see production/group.py).", flush=True)
    options = {"device_id": device} if backend == "nccl" else {}
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout), **options)
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), True, device, backend)
        dist.barrier()  # rank 0 holds the store that the others still need to part
    finally:
        dist.destroy_process_group()


def leave() -> None:
    """End this process at once, if a launcher started it; the last line of a program whose work is done and written.

    Python's own end takes things down in no particular order. PyTorch's gloo threads (2.13) may then still hold tensors,
    and now and then a worker that has done all its work aborts ("terminate called without an active exception"), for
    which the launcher ends the others. https://github.com/pytorch/pytorch/pull/179291
    """
    if not _launched():
        return
    if os.environ["RANK"] == "0":
        time.sleep(0.5)  # it may hold the store that others part by, so it goes last
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _launched() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def torchrun(module: str, *words: str, processes: int = 2, options: tuple[str, ...] = ()) -> list[str]:
    """The command that starts ``module`` in so many processes of this machine, for ``production.processes.start``.

    options: torchrun's own. Without a rendezvous among them, this launcher meets nobody else (``--standalone``).
    """
    if not any(each.startswith("--rdzv") for each in options):
        options = ("--standalone", *options)
    launcher = ["python", "-m", "torch.distributed.run", "--local-addr", "127.0.0.1"]
    return [*launcher, "--nproc-per-node", str(processes), *options, "-m", module, *words]


def loopback(threads: int = 1) -> dict[str, str]:
    """Environment for a rehearsal on one machine, which also works without a network.

    threads: of each process. Processes together should not have more threads than there are cores: threads of torch
    wait by spinning, so two processes with all cores each may be many times slower than one.
    """
    lo = {"Linux": "lo", "Darwin": "lo0"}.get(platform.system())
    variables = {"OMP_NUM_THREADS": str(threads), OWN_STORE: "1"}
    return variables | ({"GLOO_SOCKET_IFNAME": lo} if lo else {})


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process held so far: on a GPU what torch allocated, else what was resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):  # resource.getrusage would also count what the starter held
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
