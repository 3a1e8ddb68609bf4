"""Keyword arguments for ``TrainingArguments`` and ``from_pretrained`` that suit this machine, each with its reason."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from lessonkit.hardware import Hardware, detect_hardware

__all__ = ["Arguments", "model_arguments", "training_arguments"]

YOURS = "yours"


class Arguments(dict):
    """Plain keyword arguments, with ``reasons``: for each, why it has this value; ``yours`` where you changed it.

    ``TrainingArguments(output_dir=..., **arguments)`` takes them. Change one like any dictionary's entry, or
    write it out instead: nothing else depends on it.
    """

    def __init__(self, chosen: Mapping[str, tuple[Any, str]]) -> None:
        super().__init__({name: value for name, (value, _) in chosen.items()})
        self._chosen = dict(chosen)

    @property
    def reasons(self) -> dict[str, str]:
        """The reason of each argument."""
        return {name: self._reason(name, value) for name, value in self.items()}

    def _reason(self, name: str, value: Any) -> str:
        chosen, reason = self._chosen.get(name, (None, YOURS))
        return reason if chosen == value else YOURS

    def __repr__(self) -> str:
        width = max((len(f"{name}={value!r}") for name, value in self.items()), default=0)
        return "\n".join(
            f"{f'{name}={value!r}':<{width}}  # {self._reason(name, value)}" for name, value in self.items()
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'><code>{html.escape(f'{name}={value!r}')}</code></td>"
            f"<td style='text-align:left'>{html.escape(self._reason(name, value))}</td></tr>"
            for name, value in self.items()
        )
        return f"<table><tr><th>argument</th><th>why</th></tr>{rows}</table>"


def training_arguments(hardware: Hardware | None = None) -> Arguments:
    """What to pass to ``TrainingArguments`` besides what the lesson is about: learning rate, epochs, batch size.

    Batches of like length are no random samples any more: where a text's length tells its label, the loss falls more
    slowly (`benchmarks/speed.py` shows it on Reuters-R8). ``like_length_batches`` spares padding without that.
    hardware: as ``detect_hardware()`` gives it; left out, this machine.
    """
    machine = hardware or detect_hardware()
    on_cpu = machine.device == "cpu"
    chosen: dict[str, tuple[Any, str]] = {}
    if on_cpu:
        chosen["use_cpu"] = (True, "there is no GPU; said outright, or bf16=True would be refused")
    if machine.bf16:
        chosen["bf16"] = (True, f"matrices are multiplied in bf16: {machine.reasons['dtype']}")
    elif machine.fp16:
        chosen["fp16"] = (True, f"matrices are multiplied in fp16: {machine.reasons['dtype']}")
    capability = machine.compute_capability
    if capability and capability >= (8, 0):
        chosen["tf32"] = (True, "what stays in fp32 may use the tensor cores")
    chosen["train_sampling_strategy"] = (
        "group_by_length",
        "texts of like length share a batch: less padding; 'random' where length tells the label",
    )
    chosen["optim"] = ("adamw_torch_fused", "one kernel updates a whole tensor: one pass over the memory")
    chosen["dataloader_pin_memory"] = (
        machine.device == "cuda",
        "pinned memory speeds up copies to a GPU"
        if machine.device == "cuda"
        else "pinned memory serves CUDA GPUs only",
    )
    chosen["dataloader_num_workers"] = (
        0,
        "the texts are tokenized already; a worker process would only cost its start",
    )
    chosen["report_to"] = ("none", "nothing leaves this machine")
    return Arguments(chosen)


def model_arguments(hardware: Hardware | None = None, *, frozen: bool = False) -> Arguments:
    """What to pass to ``from_pretrained``.

    frozen: the base model's weights stay as they are (LoRA, adapters, prompt tuning). PEFT trains in float32 what it
    adds itself, but a classification head in the model's dtype: ``model.classifier.float()`` (``model.score`` in a
    decoder) before ``get_peft_model`` keeps its small updates in bfloat16, and in float16, which the Trainer's
    gradient scaler refuses to train ("Attempting to unscale FP16 gradients"), is a must.
    """
    machine = hardware or detect_hardware()
    if frozen and machine.dtype != "float32":
        why = "weights that do not change need no fp32 copy, and no cast at each step"
        if machine.dtype == "float16":
            why += "; a head that is trained does: model.classifier.float() before get_peft_model"
        dtype = (machine.dtype, why)
    elif machine.dtype == "float32":
        dtype = ("float32", machine.reasons["dtype"])
    else:
        dtype = (
            "float32",
            "small updates would be lost in 16 bits; mixed precision casts for the matrix work",
        )
    return Arguments(
        {
            "dtype": dtype,
            "attn_implementation": (machine.attention, machine.reasons["attention"]),
        }
    )
