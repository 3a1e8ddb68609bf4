"""One base, several tasks: a head for each, and where wanted a LoRA adapter for each."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional

from lessonkit.errors import AdapterError, DataError, UnknownNameError

__all__ = ["NO_DROPOUT", "MultiTask", "Task", "encode", "lora_config", "pad", "quiet_peft"]

#: Without dropout the same batches give the same numbers, whoever else trains.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Task:
    """What a head answers. kind: ``classes`` (labels: their names, in the logits' order) or ``number``.

    mean, scale: of the training numbers, in ``unit``; the head predicts ``(number - mean) / scale``.
    """

    name: str
    kind: Literal["classes", "number"] = "classes"
    labels: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    unit: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.name in ("base", "default"):
            raise DataError(
                f"A task can't be called {self.name!r}.",
                why="its name becomes a folder and a part of parameters' names",
                fix="take small letters, digits, - and _, beginning with a letter; not base or default",
            )
        if self.kind == "classes" and len(self.labels) < 2:
            raise DataError(f"The task {self.name} has {len(self.labels)} labels.", fix="give it two or more")
        if self.kind == "number" and not self.scale > 0:
            raise DataError(
                f"The task {self.name} has the scale {self.scale}.",
                why="all its training numbers are equal, perhaps",
                fix="give it a standard deviation above 0",
            )

    @property
    def outputs(self) -> int:
        """Columns of its head."""
        return len(self.labels) if self.kind == "classes" else 1


def lora_config(rank: int = 8, targets: Sequence[str] = ("query", "value")) -> LoraConfig:
    """LoRA without a task type: the heads are ours. Hu et al. 2021."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets))


class MultiTask(nn.Module):
    """An encoder with heads. Tasks with an adapter switch it on; the others read the encoder as it is.

    encoder: of ``AutoModel``; with the first adapter it becomes PEFT's model around it, its weights frozen.
    length: tokens of a text that are read.
    """

    def __init__(self, encoder: nn.Module, tokenizer: Any, length: int = 32) -> None:
        super().__init__()
        self.encoder, self.tokenizer, self.length = encoder, tokenizer, length
        self.heads, self.tasks = nn.ModuleDict(), {}
        self._active: str | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.encoder.parameters()).device

    @property
    def adapted(self) -> list[str]:
        """The tasks with an adapter of their own."""
        return list(self.encoder.peft_config) if isinstance(self.encoder, PeftModel) else []

    def add_task(self, task: Task, lora: LoraConfig | None = None, seed: int = 0) -> None:
        """A new head; with ``lora``, a new adapter too, and from then on a frozen encoder."""
        if task.name in self.tasks:
            raise AdapterError(
                f"There is a task {task.name} already.", fix="choose another name, or delete its folder first"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(self._config.hidden_size, task.outputs)
            if lora is not None:
                self._add_adapter(task.name, lora)
        self.heads[task.name], self.tasks[task.name] = head.to(self.device), task

    def load_adapter(self, name: str, folder: str) -> None:
        """An adapter that PEFT saved, for a task whose head is there."""
        with quiet_peft():
            if isinstance(self.encoder, PeftModel):
                self.encoder.load_adapter(folder, adapter_name=name)
            else:
                self.encoder = PeftModel.from_pretrained(self.encoder, folder, adapter_name=name)
        self._active = None

    def _add_adapter(self, name: str, lora: LoraConfig) -> None:
        with quiet_peft():
            if isinstance(self.encoder, PeftModel):
                self.encoder.add_adapter(name, lora)
            else:
                self.encoder = get_peft_model(self.encoder, lora, adapter_name=name)
        self.encoder.to(self.device)
        self._active = None

    @property
    def _config(self) -> Any:
        return self.encoder.config

    def use(self, name: str) -> None:
        """Switch to a task: its adapter on, all others off. No weight is copied or changed."""
        if name not in self.tasks:
            raise UnknownNameError("task", name, self.tasks)
        if not isinstance(self.encoder, PeftModel) or self._active == name:
            return
        if name in self.adapted:
            self.encoder.base_model.enable_adapter_layers()
            self.encoder.set_adapter(name)
        else:
            self.encoder.base_model.disable_adapter_layers()
        self._active = name

    def vectors(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Means over each text's tokens, by the adapter that is on: (batch, hidden)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)

    def forward(self, name: str, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The task's logits, (batch, outputs)."""
        self.use(name)
        return self.heads[name](self.vectors(input_ids, attention_mask))

    def losses(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Each task's mean loss over the batch, from one pass through the encoder: nats, or squares of the unit.

        labels: by task, class numbers or numbers, shape (batch,). Tasks of one batch share their adapter, or have none.
        """
        first = next(iter(labels))
        self.use(first)
        if len(labels) > 1 and any(name in self.adapted for name in labels):
            raise AdapterError(
                f"One pass can't serve {', '.join(labels)}: each adapter needs a pass of its own.",
                fix="give each batch the labels of one task",
            )
        vectors = self.vectors(input_ids, attention_mask)
        found = {}
        for name, wanted in labels.items():
            task, logits = self.tasks[name], self.heads[name](vectors).float()
            if task.kind == "classes":
                found[name] = functional.cross_entropy(logits, wanted)
            else:
                target = (wanted.float() - task.mean) / task.scale
                found[name] = functional.mse_loss(logits[:, 0], target) * task.scale**2
        return found

    def trainable(self, names: Sequence[str]) -> dict[str, nn.Parameter]:
        """What these tasks train: their heads, and their adapters; without adapters, the encoder that they share."""
        heads = {
            f"heads.{name}.{part}": each
            for name in names
            for part, each in self.heads[name].named_parameters()
        }
        if not isinstance(self.encoder, PeftModel):
            return {f"encoder.{name}": each for name, each in self.encoder.named_parameters()} | heads
        mine = {
            f"encoder.{path}": each
            for path, each in self.encoder.named_parameters()
            if _adapter_of(path) in names
        }
        return mine | heads

    @torch.inference_mode()
    def answers(self, texts: Sequence[str], name: str) -> list[dict[str, Any]]:
        """For each text ``{"task", "label", "score"}``, or ``{"task", "value", "unit"}``."""
        if name not in self.tasks:
            raise UnknownNameError("task", name, self.tasks)
        if not texts or not all(isinstance(each, str) and each.strip() for each in texts):
            raise DataError("There is no text to answer about.", fix="pass texts that hold a word")
        task, ids = self.tasks[name], encode(self.tokenizer, texts, self.length)
        self.eval()
        logits = self(name, *pad(ids, self.device)).float().cpu()
        if task.kind == "number":
            values = logits[:, 0] * task.scale + task.mean
            return [{"task": name, "value": each, "unit": task.unit} for each in values.tolist()]
        best = logits.softmax(-1).max(-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"task": name, "label": task.labels[place], "score": score} for place, score in pairs]

    def answer(self, text: str, name: str) -> dict[str, Any]:
        """One text, any task."""
        return self.answers([text], name)[0]


def encode(tokenizer: Any, texts: Sequence[str], length: int) -> list[list[int]]:
    """Token numbers of each text, cut to ``length``."""
    return tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]


def pad(ids: Sequence[Sequence[int]], device: Any = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids and attention_mask, each (batch, longest)."""
    longest = max(len(each) for each in ids)
    rows = torch.tensor([[*each, *[0] * (longest - len(each))] for each in ids])
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids])
    return rows.to(device), mask.to(device)


def _adapter_of(path: str) -> str:
    """``...query.lora_A.topic.weight`` -> ``topic``; "" for a weight of the base."""
    parts = path.split(".")
    return parts[-2] if len(parts) > 2 and parts[-3].startswith("lora_") else ""


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Leave out a warning that a user of PEFT can do nothing about."""
    with warnings.catch_warnings():  # PEFT asks transformers by a name that it is about to drop
        warnings.simplefilter("ignore", FutureWarning)
        yield
