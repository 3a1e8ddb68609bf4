"""What would make a training fit whose single row is too much for the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lessonkit.errors import TrainingError

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["does_not_fit"]


def _plan_command(trainer: Trainer, full: bool, length: int | None) -> str:
    """The `lessonkit plan` of this training at batch size 1."""
    args, model = trainer.args, trainer.model
    peft = next(iter(getattr(model, "peft_config", {}).values()), None)
    technique = "full"
    if hasattr(peft, "num_virtual_tokens"):
        technique = f"prompt --num-virtual-tokens {peft.num_virtual_tokens}"
    elif peft is None and not full:
        technique = "adapters"
    elif not full:
        technique = "qlora" if getattr(model, "is_loaded_in_4bit", False) else "lora"
        technique += f" --r {peft.r}" if getattr(peft, "r", None) else ""
        modules = getattr(peft, "target_modules", None)
        if modules and not isinstance(modules, str):
            technique += (
                f" --target-modules {','.join(sorted({name.rpartition('.')[2] for name in modules}))}"
            )
    dtypes = [each.dtype for each in model.parameters() if each.is_floating_point()]
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or "NAME"
    plan = f'lessonkit plan --config "{name}" --technique {technique} --batch-size 1'
    plan += f" --sequence-length {length}" if length else ""
    plan += f" --dtype {str(max(set(dtypes), key=dtypes.count)).removeprefix('torch.')}" if dtypes else ""
    plan += " --mixed-precision" if args.bf16 or args.fp16 else ""
    if any(getattr(args, each, False) for each in ("activation_checkpointing", "gradient_checkpointing")):
        plan += " --gradient-checkpointing"
    return plan


def does_not_fit(trainer: Trainer, window: list[tuple[Any, Any]]) -> TrainingError:
    """The error for a single row that is too much, with what would make it fit."""
    args, model = trainer.args, trainer.model
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    full = trained == sum(each.numel() for each in model.parameters())
    inputs = window[-1][0] if window else {}
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    length = ids.shape[-1] if ids is not None else None
    fixes = []
    if ids is not None and ids.shape[0] == 1 < args.per_device_train_batch_size:
        fixes.append(
            "fewer texts packed into a row: a smaller per_device_train_batch_size, gradient_accumulation_steps "
            "raised as much"
        )
    names = ("activation_checkpointing", "gradient_checkpointing")  # the newer name and the older one
    checkpointing = next(name for name in names if hasattr(args, name))
    if not getattr(args, checkpointing):
        fixes.append(f"{checkpointing}=True in TrainingArguments")
    if length is not None and length > 8:
        fixes.append(
            f"shorter texts: max_length={length // 2} where you tokenize (this one has {length} tokens)"
        )
    if full:
        fixes.append("LoRA instead of training every weight")
    fixes.append("a smaller model")
    plan = _plan_command(trainer, full, length)
    return TrainingError(
        f"Even one row at a time does not fit into memory (step {trainer.state.global_step + 1}).",
        why="the weights, their gradients, the optimiser and one row's activations need more than there is",
        fix=f"try, in this order: {'; '.join(fixes)}. See what would fit: `{plan}`",
    )
