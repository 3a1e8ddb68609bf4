"""The command line's app, and what its commands share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from lessonkit.curriculum import Curriculum
    from lessonkit.progress import Journal

__all__ = ["Json", "app", "print_json", "study"]

#: As `lessonkit --help` lists them: what a learner needs first stands first.
ORDER = (
    "next",
    "progress",
    "lessons",
    "run",
    "explain",
    "stuck",
    "focus",
    "only",
    "path",
    "tick",
    "untick",
    "note",
)
ORDER += ("check", "evaluate", "gate", "export", "data", "merge", "doctor", "fetch", "plan")


class _InOrder(TyperGroup):
    """The commands in the order of ``ORDER``; any other one after them."""

    def list_commands(self, ctx: Any) -> list[str]:
        known = super().list_commands(ctx)
        return sorted(known, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=_InOrder,
    help="Learn model fine-tuning by doing it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]


def print_json(value: Any) -> None:
    """Print a value as JSON that a person can read too."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def study() -> tuple[Curriculum, Journal]:
    """The curriculum and the journal."""
    from lessonkit.curriculum import load_curriculum
    from lessonkit.progress import Journal

    return load_curriculum(check_files=False), Journal()
