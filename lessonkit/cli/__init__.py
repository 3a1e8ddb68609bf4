"""The command line: ``lessonkit ...``; a module for each group of commands."""

from __future__ import annotations

import atexit
import gc
import os
import sys

import typer

from lessonkit.cli.app import app
from lessonkit.cli.data import export, merge
from lessonkit.cli.evaluate import check, evaluate, gate
from lessonkit.cli.explain import explain
from lessonkit.cli.lessons import lessons, run
from lessonkit.cli.machine import doctor, fetch, plan
from lessonkit.cli.progress import next_, note, path, progress, tick, untick
from lessonkit.cli.stuck import stuck
from lessonkit.cli.study import focus, only
from lessonkit.errors import LessonkitError

__all__ = [
    "app",
    "check",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "fetch",
    "focus",
    "gate",
    "lessons",
    "main",
    "merge",
    "next_",
    "note",
    "only",
    "path",
    "plan",
    "progress",
    "run",
    "stuck",
    "tick",
    "untick",
]


def main() -> None:
    """Run the command; an error that the reader can mend is told in a few lines, without a traceback."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")  # a Windows console may be set otherwise
    # else Python looks for garbage hundreds of times while torch is imported
    gc.set_threshold(100_000, 50, 1000)
    atexit.register(
        gc.freeze
    )  # else Python looks through all of torch once more on its way out: over a second
    try:
        app()
    except LessonkitError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


def _open_closed_streams() -> None:
    """Where a scheduler or ``<&-`` has closed a stream, read nothing from it and write nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we run
