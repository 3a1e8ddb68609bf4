"""Trainings that are disturbed: memory that runs out at every step, and processes killed at random steps.

Each disturbed training must end with the same optimiser steps and the same weights as an undisturbed one:
bit for bit after a kill, to rounding after a lack of memory (sums in another order).
Linux and macOS (the killed trainings are forked children).

    python benchmarks/survival.py            SmolLM2 with LoRA and MiniLM, in full
    python benchmarks/survival.py --quick    few steps, 3 kills: does the program run
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = (
    "1"  # read when torch is imported: a forked child hangs if its parent had a thread pool
)

import torch
from saving import save

import lessonkit
from lessonkit.training import safety
from lessonkit.training.checkpoints import newest_checkpoint

BATCH, KILLS, SEED = 8, 10, 7  # kills of each model: 20 in all
MODELS = {"minilm full": "minilm", "smollm2 lora": "smollm2"}
STEPS = {"minilm full": 12, "smollm2 lora": 6}
TOKENS = {"minilm full": 64, "smollm2 lora": 32}


def make_trainer(name: str, folder: Path, steps: int, dropout: float = 0.1) -> Any:
    """The training that is disturbed, made anew as a re-run notebook would."""
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorForLanguageModeling,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(SEED)
    tokenizer = lessonkit.load_tokenizer(MODELS[name])
    rows = lessonkit.load_dataset("reuters-r8")["train"].select(range(BATCH * 16))
    rows = rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=TOKENS[name]))
    if name == "minilm full":
        model = lessonkit.load_model(
            "minilm",
            AutoModelForSequenceClassification,
            num_labels=8,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        collate: Any = DataCollatorWithPadding(tokenizer)
    else:
        from peft import LoraConfig, get_peft_model

        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        rows = rows.remove_columns([each for each in rows.column_names if each.startswith("label")])
        model = get_peft_model(lessonkit.load_model("smollm2"), LoraConfig(r=8, lora_dropout=dropout))
        collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        max_steps=steps,
        learning_rate=1e-4,
        logging_steps=steps,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        seed=SEED,
    )
    return Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)


def trained_weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {
        name: each.detach().cpu().clone()
        for name, each in trainer.model.named_parameters()
        if each.requires_grad
    }


def out_of_memory_at(trainer: Any, step: int) -> None:
    def fail(module: Any, args: tuple, kwargs: dict) -> None:
        if torch.is_grad_enabled() and trainer.state.global_step == step and not fail.done:
            fail.done = True
            raise torch.OutOfMemoryError("out of memory, injected")

    fail.done = False
    trainer.model.register_forward_pre_hook(fail, with_kwargs=True)


def memory(name: str, steps: int) -> dict[str, Any]:
    """One training for each step at which memory runs out."""
    with tempfile.TemporaryDirectory() as folder:
        whole = make_trainer(name, Path(folder), steps, dropout=0.0)
        lessonkit.run(whole)
        wanted, same_steps, furthest = trained_weights(whole), 0, 0.0
        for step in range(steps):
            trainer = make_trainer(name, Path(folder), steps, dropout=0.0)
            out_of_memory_at(trainer, step)
            measured = lessonkit.run(trainer)
            effective = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
            same_steps += measured.steps == steps and effective == BATCH
            moved = trained_weights(trainer)
            furthest = max(furthest, *(float((moved[key] - wanted[key]).abs().max()) for key in wanted))
    return {
        "name": f"{name}: out of memory at each step",
        "runs": steps,
        "survived": same_steps,
        "largest_weight_difference": furthest,
    }


def killed_at(trainer: Any, step: int, delay: float) -> None:
    """Kill this process so many seconds after that many steps, wherever it then is."""
    from transformers import TrainerCallback

    class Killer(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    trainer.add_callback(Killer())


def in_child(work: Callable[[], None]) -> int:
    """Fork and work; the signal that ended the child, or 0. Raises if the work itself failed."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a training failed by itself")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def kills(name: str, steps: int, count: int) -> dict[str, Any]:
    """Trainings killed at a random step each, after the first and before the last, and resumed."""
    draw = random.Random(SEED)

    def train(folder: Path, resume: bool, kill: tuple[int, float] | None = None) -> Callable[[], None]:
        def work() -> None:
            safety.SHARE_OF_TIME = 1e9  # a checkpoint after every step: there is always one to go on from
            trainer = make_trainer(name, folder, steps)
            if kill:
                killed_at(trainer, *kill)
            measured = lessonkit.run(trainer, resume=resume)
            torch.save(trained_weights(trainer), folder / "weights.pt")
            (folder / "seconds").write_text(str(measured.seconds))

        return work

    with tempfile.TemporaryDirectory() as base:
        whole = Path(base) / "whole"
        in_child(train(whole, False))
        each = float((whole / "seconds").read_text()) / steps
        wanted = torch.load(whole / "weights.pt")
        resumed = exact = from_checkpoint = 0
        for number in range(count):
            folder = Path(base) / str(number)
            kill = (draw.randrange(1, steps - 1), draw.uniform(0, each))
            assert in_child(train(folder, False, kill)) == signal.SIGKILL, "it was at its end before the kill"
            from_checkpoint += newest_checkpoint(folder) is not None
            in_child(train(folder, True))
            weights = torch.load(folder / "weights.pt")
            resumed += 1
            exact += all(torch.equal(weights[key], wanted[key]) for key in wanted)
            shutil.rmtree(folder)
    return {
        "name": f"{name}: killed",
        "runs": count,
        "survived": resumed,
        "same_weights": exact,
        "from_checkpoint": from_checkpoint,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    steps = dict.fromkeys(MODELS, 4) if quick else STEPS
    count = 3 if quick else KILLS
    rows = []
    for name in MODELS:
        rows.append(kills(name, steps[name], count))  # first: forks want a process that has run no thread yet
    for name in MODELS:
        rows.append(memory(name, steps[name]))
    if quick:
        print(*rows, sep="\n")
    else:
        save("survival", rows, steps=STEPS, batch=BATCH)


if __name__ == "__main__":
    main()
