"""Commands about what has been done: show it, tick it, note it, choose what comes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lessonkit.cli.app import Json, app, print_json, study

__all__ = ["next_", "note", "path", "progress", "tick", "untick"]


@app.command()
def progress(
    everything: Annotated[
        bool, typer.Option("--all", help="All techniques, also while you look at one only.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the path, what is ticked, the technique grid, your time and the runs so far."""
    from lessonkit.progress import fold, render_text, to_dict

    curriculum, journal = study()
    reading = journal.read()
    state = fold(reading.events, curriculum)
    if as_json:
        print_json(to_dict(state, curriculum))
        return
    typer.echo(render_text(state, curriculum, everything=everything))
    for problem in reading.problems:
        typer.echo(f"Note: {problem}", err=True)


@app.command("next")
def next_(as_json: Json = False) -> None:
    """Say what to do next."""
    from dataclasses import asdict

    from lessonkit.progress import fold

    curriculum, journal = study()
    step = fold(journal.read().events, curriculum).next_step()
    if as_json:
        print_json(asdict(step))
        return
    typer.echo(step.text)
    if step.command:
        typer.echo(f"  {step.command}")


@app.command()
def tick(
    item: Annotated[str, typer.Argument(help="A checklist item, or a guide that you have read.")],
) -> None:
    """Tick a checklist item, or a guide as read."""
    from lessonkit.progress import record_evidence
    from lessonkit.progress import tick as tick_item

    curriculum, journal = study()
    typer.echo(tick_item(journal, curriculum, item).message)
    for event in record_evidence(journal, curriculum):
        typer.echo(f"Ticked {event.data['item']}: {event.data['why']}")


@app.command()
def untick(item: Annotated[str, typer.Argument(help="A checklist item.")]) -> None:
    """Take a tick back."""
    from lessonkit.progress import untick as untick_item

    curriculum, journal = study()
    typer.echo(untick_item(journal, curriculum, item).message)


@app.command()
def note(
    text: Annotated[str, typer.Argument(help="Your own words; they stay on this computer. - reads a pipe.")],
    about: Annotated[str, typer.Option(help="A lesson, technique or item that it belongs to.")] = "",
) -> None:
    """Keep a note."""
    from lessonkit.progress import add_note

    curriculum, journal = study()
    text = _piped() if text == "-" else text
    add_note(journal, curriculum, text, about)
    typer.echo("Kept.")


def _piped() -> str:
    """What comes through the pipe; it is kept as it was meant, or not at all."""
    from lessonkit.errors import JournalError

    try:
        text = sys.stdin.read().strip()
        text.encode("utf-8")  # some settings let other bytes through, each as half a character
        return text
    except UnicodeError as error:
        fix = "save the text as UTF-8, then try again"
        raise JournalError("The note was not kept: it is not UTF-8 text.", why=str(error), fix=fix) from None


@app.command()
def path(
    name: Annotated[
        str,
        typer.Argument(help="quick-start, deep-dive or production-ready; left out, it says which is chosen."),
    ] = "",
) -> None:
    """Choose a learning path."""
    from lessonkit.progress import choose_path, fold

    curriculum, journal = study()
    if not name:
        chosen = curriculum.path(fold(journal.read("path").events, curriculum).path)
        names = ", ".join(each.id for each in curriculum.paths)
        typer.echo(f"Your path: {chosen.title}. Another one: lessonkit path NAME (one of {names})")
        return
    choose_path(journal, curriculum, name)
    typer.echo(f"Your path: {curriculum.path(name).title}. What comes next: lessonkit next")
