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
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Your own words; they stay on this computer. - reads a pipe; left out, your notes are shown."
        ),
    ] = None,
    about: Annotated[str, typer.Option(help="A lesson, technique or item that it belongs to.")] = "",
    as_json: Json = False,
) -> None:
    """Keep a note; or show those that you have kept."""
    from lessonkit.progress import add_note

    if not text:
        _show_notes(about, as_json)
        return
    curriculum, journal = study()
    said = _piped() if text == ["-"] else " ".join(text)
    event = add_note(journal, curriculum, said, about)
    if as_json:
        print_json(event.data | {"time": event.time})
    else:
        typer.echo("Kept. All of them: lessonkit note")


def _show_notes(about: str, as_json: bool) -> None:
    from dataclasses import asdict

    from lessonkit.progress import check_about, fold
    from lessonkit.progress.report import notes_on, notes_text

    curriculum, journal = study()
    check_about(curriculum, about)
    notes = notes_on(fold(journal.read("note").events, curriculum), about)
    if as_json:
        print_json([asdict(each) for each in notes])
        return
    on = f" --about {about}" if about else ""
    typer.echo(notes_text(notes) or f'No notes yet. Keep one: lessonkit note "what I found out"{on}')


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
