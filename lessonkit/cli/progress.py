"""Commands about what has been done: show it, tick it, note it, merge it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lessonkit.cli.app import Json, app, known, print_json, study

__all__ = ["merge", "next_", "note", "path", "progress", "tick", "untick"]


@app.command()
def progress(as_json: Json = False) -> None:
    """Show the path, what is ticked, the technique grid and the runs so far."""
    from lessonkit.progress import render_text, to_dict

    curriculum, journal = study()
    from lessonkit.progress import fold

    reading = journal.read()
    state = fold(reading.events, curriculum)
    if as_json:
        print_json(to_dict(state, curriculum))
        return
    typer.echo(render_text(state, curriculum))
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
    text: Annotated[str, typer.Argument(help="Your own words; they stay on this computer.")],
    about: Annotated[str, typer.Option(help="A lesson or item that it belongs to.")] = "",
) -> None:
    """Keep a note."""
    from lessonkit.errors import JournalError
    from lessonkit.progress import Journal

    if not text.strip():
        raise JournalError("The note is empty.", fix='lessonkit note "what I found out"')
    if about:
        known(about)
    Journal().append("note", text=text, about=about)
    typer.echo("Kept.")


@app.command()
def path(name: Annotated[str, typer.Argument(help="quick-start, deep-dive or production-ready.")]) -> None:
    """Choose a learning path."""
    from lessonkit.progress import choose_path

    curriculum, journal = study()
    choose_path(journal, curriculum, name)
    typer.echo(f"Your path: {curriculum.path(name).title}. What comes next: lessonkit next")


@app.command()
def merge(file: Annotated[Path, typer.Argument(help="A journal of yours from another machine.")]) -> None:
    """Add another machine's journal to this one's; as often as you like."""
    from lessonkit.progress import Journal

    report = Journal().merge(file)
    typer.echo(f"{report.added} events added, {report.already} were here already.")
    for problem in report.problems:
        typer.echo(f"Note: {problem}", err=True)
