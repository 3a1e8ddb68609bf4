"""The command that explains an error."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lessonkit.cli.app import Json, app, print_json

if TYPE_CHECKING:
    from lessonkit.troubleshooting.entry import Entry

__all__ = ["explain"]

MOST = 200_000  # characters; the last ones, for there the error stands


@app.command()
def explain(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="The message, or the name of an entry; left out or -, it is read from what you paste."
        ),
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the known errors.")] = False,
    as_json: Json = False,
) -> None:
    """Explain an error message: what it means, why it happens, what to do."""
    from lessonkit.errors import LessonkitError
    from lessonkit.troubleshooting.explaining import Explanation
    from lessonkit.troubleshooting.explaining import explain as explain_error

    if list_them:
        _list(as_json)
        return
    said = " ".join(text or [])
    if said in ("", "-"):
        said = _pasted()
    if not said.strip():
        raise LessonkitError(
            "There is no error message to explain.",
            fix='lessonkit explain "the last line of the error"; or lessonkit explain --list',
        )
    entry = _named(said.strip())
    explanation = Explanation(said.strip(), entry) if entry else explain_error(said[-MOST:])
    if as_json:
        print_json(explanation.to_dict())
        return
    typer.echo(str(explanation))


def _pasted() -> str:
    """What comes through a pipe, or what is pasted into the terminal."""
    if sys.stdin.isatty():
        end = "Ctrl-Z and Enter" if sys.platform == "win32" else "Ctrl-D"
        typer.echo(f"Paste the error, press Enter, then {end}:", err=True)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    return sys.stdin.read()


def _named(name: str) -> Entry | None:
    """The entry of that name; None for a message. Raises UnknownNameError for a mistyped name."""
    from lessonkit.errors import UnknownNameError, nearest
    from lessonkit.troubleshooting.entries import ENTRIES

    known = {entry.id: entry for entry in ENTRIES}
    if (
        re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)+", name)
        and name.lower() not in known
        and nearest(name, known)
    ):
        raise UnknownNameError("entry", name, known, fix="lessonkit explain --list shows all of them")
    return known.get(name.lower())


def _list(as_json: bool) -> None:
    from lessonkit.troubleshooting.entries import TOPICS

    if as_json:
        fields = ("id", "title", "errors", "example")
        known = [entry for entries in TOPICS.values() for entry in entries]
        print_json([{name: getattr(each, name) for name in fields} for each in known])
        return
    for topic, entries in TOPICS.items():
        typer.echo(f"\n{topic}")
        for entry in entries:
            first = (entry.example.strip() or "(no words at all)").splitlines()[0]
            typer.echo(f"  {entry.title}\n      {first[:90]}")
    typer.echo("\nOne of them in full: lessonkit explain labels-out-of-range (the title, with hyphens)")
