"""A program that trains in child processes and has them killed; prints what remained, as JSON.

The children are forked, so that torch is imported once. Called with a folder and the kills, each
``KIND:STEP:MOMENT``: the child kills itself at that optimiser step, in the middle of it, or while it writes
a checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

from small_trainer import make_trainer, weights
from transformers import TrainerCallback

from lessonkit.training import run, safety

OPTIONS = {
    "num_train_epochs": 3,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 2,
    "dropout": 0.2,
    "optim": "adamw_torch",
    "learning_rate": 0.01,
    "lr_scheduler_type": "linear",
}


class Kill(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_substep_end(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class KillWhileSaving(Kill):
    """Kills between the optimiser's file and the Trainer's state."""

    def attach(self, trainer) -> None:
        original = trainer._save_rng_state

        def save(folder: str) -> None:
            if trainer.state.global_step >= self.step:
                os.kill(os.getpid(), signal.SIGKILL)
            original(folder)

        trainer._save_rng_state = save

    def on_substep_end(self, args, state, control, **kwargs) -> None:
        pass


def train(kind: str, folder: Path, step: int | None, moment: str, resume: bool) -> None:
    """One training, as in a fresh process; writes a digest of its weights when it comes to its end."""
    killer = None if step is None else {"step": Kill, "saving": KillWhileSaving}[moment](step)
    trainer = make_trainer(folder, kind, callbacks=[killer] if killer else [], **OPTIONS)
    if moment == "saving" and killer:
        killer.attach(trainer)
    measured = run(trainer, resume=resume)
    digest = hashlib.sha256()
    for name, each in sorted(weights(trainer).items()):
        digest.update(name.encode() + each.numpy().tobytes())
    done = {"digest": digest.hexdigest(), "steps": measured.steps, "tokens": measured.tokens}
    (folder / "done.json").write_text(json.dumps(done))


def in_child(*arguments) -> int:
    """The signal that ended the child, or 0."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            safety.SHARE_OF_TIME = 1e9  # a safety checkpoint at each step
            train(*arguments)
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"{arguments} failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main() -> None:
    base, reports = Path(sys.argv[1]), []
    for number, kill in enumerate(sys.argv[2:]):
        kind, step, moment = kill.split(":")
        folder = base / str(number)
        signalled = in_child(kind, folder, int(step) if step else None, moment, False)
        left = sorted(each.name for each in folder.glob("checkpoint-*"))
        if signalled:
            in_child(kind, folder, None, moment, True)
        done = json.loads((folder / "done.json").read_text())
        remains = sorted(each.name for each in folder.glob("checkpoint-*"))
        reports.append(done | {"kind": kind, "signal": signalled, "left": left, "remains": remains})
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
