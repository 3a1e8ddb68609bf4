"""Training several tasks: whose batch comes next, how losses are added, and whether gradients pull apart."""

from __future__ import annotations

import math
import random
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from lessonkit.errors import DataError
from production.multitask_model import MultiTask, pad

__all__ = [
    "FixedWeights",
    "History",
    "Rows",
    "Uncertainty",
    "cosines",
    "draw",
    "fit",
    "gradient",
    "predict",
    "shares",
]


@dataclass(frozen=True)
class Rows:
    """texts, their token numbers, and for each task the labels, shape (texts,)."""

    texts: list[str]
    ids: list[list[int]]
    labels: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, places: Sequence[int]) -> Rows:
        """Some of the rows."""
        places = list(places)
        labels = {name: each[places] for name, each in self.labels.items()}
        return Rows([self.texts[each] for each in places], [self.ids[each] for each in places], labels)

    def batch(self, device: Any = "cpu") -> dict[str, Any]:
        """All rows as the arguments of ``MultiTask.losses``."""
        ids, mask = pad(self.ids, device)
        labels = {name: each.to(device) for name, each in self.labels.items()}
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


# ---- Whose batch comes next -------------------------------------------------------------------------


def shares(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """The probability of each task: p_i proportional to n_i ** (1 / T).

    T = 1: by size. T = infinity (``math.inf``): all alike. Raises DataError for a T of 0 or less, or an empty task.
    (Arivazhagan et al. 2019; Raffel et al. 2020, section 3.5.2.)
    """
    if not temperature > 0:
        raise DataError(f"The temperature is {temperature}.", fix="take a number above 0, or math.inf")
    empty = [name for name, size in sizes.items() if size < 1]
    if empty or not sizes:
        raise DataError(f"No texts for: {', '.join(empty) or 'any task'}.", fix="leave such a task out")
    largest = max(sizes.values())  # so that no power is too large for a float
    powers = {name: (size / largest) ** (1 / temperature) for name, size in sizes.items()}
    return {name: each / sum(powers.values()) for name, each in powers.items()}


def draw(sizes: Mapping[str, int], steps: int, temperature: float, seed: int = 0) -> list[str]:
    """The task of each step, in random order; each has its share of the steps, rounded so that all are ``steps``.

    Drawing each step for itself gives the same shares in a long training, and may be far from them in a short one.
    """
    found = {name: share * steps for name, share in shares(sizes, temperature).items()}
    turns = {name: int(each) for name, each in found.items()}
    left = sorted(found, key=lambda name: turns[name] - found[name])  # the largest remainders come first
    for name in left[: steps - sum(turns.values())]:
        turns[name] += 1
    schedule = [name for name, count in turns.items() for _ in range(count)]
    random.Random(seed).shuffle(schedule)
    return schedule


def batches(rows: Rows, size: int, seed: int) -> Iterator[Rows]:
    """Batches without end, shuffled anew for each pass; the same for the same seed, whoever else trains."""
    order, places = random.Random(seed), []
    while True:
        while len(places) < min(size, len(rows)):
            places += order.sample(range(len(rows)), len(rows))
        yield rows.select(places[:size])
        places = places[size:]


# ---- How losses are added ---------------------------------------------------------------------------


class FixedWeights(nn.Module):
    """The sum of weight times loss; a task that is not named counts once."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.given = dict(weights or {})

    def forward(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """losses: scalars by task."""
        return sum(self.given.get(name, 1.0) * each for name, each in losses.items())

    def weights(self) -> dict[str, float]:
        """Those given."""
        return dict(self.given)


class Uncertainty(nn.Module):
    """Weights that are learned: one number s = log(variance) a task (Kendall, Gal and Cipolla 2018, equations 7 and 10).

    A number's squared error counts exp(-s) / 2 times, a cross-entropy exp(-s) times; s / 2 is added to either, so that
    no weight can shrink for nothing. At its best s, either counts 1 / (2 loss): its unit has fallen out.

    kinds: of the tasks, by name. first: losses to start at the best s for; without them s starts at 0, and a loss in
    the thousands takes long to get there (Adam remembers the first large gradients).
    """

    def __init__(self, kinds: Mapping[str, str], first: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.kinds, self.log_variance = dict(kinds), nn.ParameterDict()
        for name in kinds:
            start = math.log(2 * self._factor(name) * first[name]) if first else 0.0
            self.log_variance[name] = nn.Parameter(torch.tensor(start))

    def forward(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """losses: scalars by task."""
        return sum(
            self._factor(name) * torch.exp(-self.log_variance[name]) * each + self.log_variance[name] / 2
            for name, each in losses.items()
        )

    def _factor(self, name: str) -> float:
        return 0.5 if self.kinds[name] == "number" else 1.0

    def weights(self) -> dict[str, float]:
        """What each loss counts now."""
        return {
            name: self._factor(name) * float(torch.exp(-each.detach()))
            for name, each in self.log_variance.items()
        }


# ---- The loop ---------------------------------------------------------------------------------------


@dataclass
class History:
    """losses: by task, (step, loss) pairs. weights: by task, (step, weight). seconds: of the training."""

    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    weights: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int = 0


def fit(
    model: MultiTask,
    sources: Mapping[str, Rows],
    schedule: Sequence[str],
    *,
    learning_rate: float,
    batch_size: int = 16,
    weighting: nn.Module | None = None,
    weighting_rate: float = 0.1,
    warmup: float = 0.1,
    seed: int = 0,
    bf16: bool = False,
) -> History:
    """Train what the sources' tasks train (``MultiTask.trainable``), with AdamW; a tenth warms up, then down to 0.

    sources: rows by name. schedule: the source of each step. weighting: adds up the losses of a step.
    weighting_rate: the learning rate of its own parameters, which stays as it is.
    """
    if not schedule:
        raise DataError("The schedule is empty.", fix="draw at least one step")
    names = sorted({name for source in set(schedule) for name in sources[source].labels})
    weighting = (weighting or FixedWeights()).to(model.device)
    groups = [{"params": list(model.trainable(names).values()), "lr": learning_rate}]
    own = list(weighting.parameters())
    groups += [{"params": own, "lr": weighting_rate}] if own else []
    fused = model.device.type in ("cpu", "cuda")  # one pass over the memory for each tensor
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=fused)
    first = max(1, round(warmup * len(schedule)))
    streams = {name: batches(sources[name], batch_size, _seed(seed, name)) for name in set(schedule)}
    history, began = History(steps=len(schedule)), time.perf_counter()
    model.train()
    for step, source in enumerate(schedule):
        share = min((step + 1) / first, (len(schedule) - step) / max(1, len(schedule) - first))
        optimizer.param_groups[0]["lr"] = learning_rate * share
        batch = next(streams[source]).batch(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            losses = model.losses(**batch)
        weighting(losses).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # so that AdamW leaves alone what this batch did not use
        for name, loss in losses.items():
            history.losses.setdefault(name, []).append((step, loss.item()))
        for name, weight in weighting.weights().items():
            history.weights.setdefault(name, []).append((step, weight))
    history.seconds = time.perf_counter() - began
    model.eval()
    return history


def _seed(seed: int, name: str) -> int:
    return zlib.crc32(f"{seed} {name}".encode())


@torch.inference_mode()
def predict(model: MultiTask, rows: Rows, name: str, *, bf16: bool = False, size: int = 50) -> torch.Tensor:
    """The task's logits for all rows, (rows, outputs), on the CPU."""
    model.eval()
    found = []
    for start in range(0, len(rows), size):
        ids, mask = pad(rows.ids[start : start + size], model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            found.append(model(name, ids, mask).float().cpu())
    return torch.cat(found)


# ---- Do gradients pull apart? -----------------------------------------------------------------------


def gradient(model: MultiTask, rows: Rows, name: str) -> torch.Tensor:
    """The gradient of one task's loss on the encoder that all share, as one long vector, on the CPU.

    Heads are left out: no two tasks share one. Word vectors too: they only meet in common words.
    """
    batch = rows.batch(model.device)
    batch["labels"] = {name: batch["labels"][name]}
    if isinstance(model.encoder, PeftModel):
        raise DataError(
            "The encoder is frozen, so there is no shared gradient.", fix="ask before adapters are added"
        )
    shared = [each for path, each in model.encoder.named_parameters() if "embeddings" not in path]
    loss = model.losses(**batch)[name]
    found = torch.autograd.grad(loss, shared)
    return torch.cat([each.flatten() for each in found]).cpu()


def cosines(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of the angles between all pairs, (vectors, vectors): 1 the same way, 0 at right angles, -1 against each other."""
    together = torch.stack(list(vectors))
    products = torch.zeros(len(together), len(together), dtype=torch.float64)
    for part in together.split(2**20, dim=1):
        part = part.double()  # so that the errors of millions of rounded products don't add up
        products += part @ part.T
    lengths = products.diagonal().sqrt()
    return products / lengths / lengths[:, None]
