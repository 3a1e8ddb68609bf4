"""What the commands share: errors told in a few lines, and no second start while the first still runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from filelock import FileLock, Timeout

from lessonkit.errors import LessonError, LessonkitError
from lessonkit.quiet import quiet_libraries

__all__ = ["only_one", "run"]


def run(main: Callable[..., None]) -> None:
    """Run a command; an error that its user can mend is told in a few lines, without a traceback. Exit code 1 then."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(main)
    quiet_libraries()
    try:
        app()
    except LessonkitError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


@contextlib.contextmanager
def only_one(folder: str | Path, what: str) -> Iterator[None]:
    """Hold ``folder`` for one process that does ``what``; the system lets go however that ends.

    Raises LessonError, naming the holder's process id, while another one has it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = what.replace(" ", "-")
    lock, holder = FileLock(folder / f".{name}.lock", timeout=0), folder / f".{name}.pid"
    try:
        lock.acquire()
    except Timeout:
        with contextlib.suppress(OSError):
            pid = holder.read_text(encoding="utf-8")
            raise LessonError(
                f"Another process ({pid}) is {what} in {folder} right now.",
                fix="wait until it has finished, or end it, then type the same command again",
            ) from None
        raise LessonError(
            f"Another process is {what} in {folder} right now.",
            fix="wait until it has finished, then type the same command again",
        ) from None
    try:
        holder.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
