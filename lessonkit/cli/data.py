"""Commands about what is kept: a page to show, another machine's journal, and all of it at once."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lessonkit.cli.app import Json, app, print_json, study

if TYPE_CHECKING:
    from lessonkit.progress import Reading

__all__ = ["data", "export", "merge"]

WORD = "delete"
SUFFIXES = {".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html", ".json": "json"}

data = typer.Typer(help="Show, export or delete all that is kept about you.", no_args_is_help=True)
app.add_typer(data, name="data")


def _events(count: int) -> str:
    return f"{count:,} event{'s' * (count != 1)}"


@app.command()
def merge(file: Annotated[Path, typer.Argument(help="A journal of yours from another machine.")]) -> None:
    """Add another machine's journal to this one's; as often as you like."""
    from lessonkit.errors import JournalError
    from lessonkit.progress import Journal

    report = Journal().merge(file)
    if report.problems and not report.added + report.already:
        why = "it is not a journal, or all of it is damaged"
        fix = "name a journal.jsonl; one in a zip must be unpacked first"
        raise JournalError(f"{file} holds no event that can be read.", why=why, fix=fix)
    typer.echo(f"{_events(report.added)} added; {report.already:,} already here.")
    for problem in report.problems:
        typer.echo(f"Note: {problem}", err=True)


@app.command()
def export(
    format: Annotated[str, typer.Option(help="markdown, html or json; left out, the file's name says.")] = "",
    output: Annotated[Path | None, typer.Option(help="Save it to this file; else it is printed.")] = None,
    with_notes: Annotated[
        bool, typer.Option("--with-notes", help="Your notes too; they are private.")
    ] = False,
    name: Annotated[str, typer.Option(help="Whose page it is, for its title.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Make a page to show: what you learned, when, and what your own runs measured."""
    from lessonkit.progress import fold
    from lessonkit.progress.keeping import write_new
    from lessonkit.progress.portfolio import export as make

    chosen = format or _format_of(output)
    curriculum, journal = study()
    text = make(fold(journal.read().events, curriculum), curriculum, chosen, with_notes=with_notes, name=name)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_new(output, lambda path: path.write_text(text, encoding="utf-8", newline="\n"), force=force)
    typer.echo(f"Saved as {chosen}: {output}" + ("" if with_notes else " (without your notes)"))


def _format_of(output: Path | None) -> str:
    """The format that a file's name asks for. Raises JournalError for one that can't be made."""
    from lessonkit.errors import JournalError

    suffix = output.suffix.lower() if output else ""
    if suffix in ("", ".txt"):
        return "markdown"
    if suffix not in SUFFIXES:
        fix = "name a file that ends in .html, .md or .json; a browser prints the HTML page as PDF"
        raise JournalError(f"A page can't be saved as {suffix}.", fix=fix)
    return SUFFIXES[suffix]


@data.command()
def show(
    everything: Annotated[
        bool, typer.Option("--all", help="Every event too, word for word: notes, answers, timers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what is kept: where, how much, since when; with --all, every word of it."""
    from lessonkit.hardware import format_bytes
    from lessonkit.progress.events import local_time
    from lessonkit.progress.keeping import what_is_kept

    curriculum, journal = study()
    kept = what_is_kept(journal, curriculum)
    if as_json:
        events = {"events": [asdict(each) for each in journal.read().events]} if everything else {}
        print_json(kept.to_dict() | events)
        return
    if everything:
        _show_events(journal.read())
    typer.echo(f"Journal: {kept.journal}")
    if not kept.exists:
        typer.echo("  nothing yet")
    elif kept.first:
        told = _events(sum(kept.kinds.values()))
        span = f"{local_time(kept.first)} to {local_time(kept.last)}"
        typer.echo(f"  {told}, {format_bytes(kept.bytes)}, {span}")
    for kind, count in kept.kinds.items():
        typer.echo(f"  {count:>8,}  {kind}")
    if kept.unreadable:
        typer.echo(f"  {kept.unreadable:>8,}  lines that can't be read (kept as they are)")
    for folder, size in kept.outputs:
        typer.echo(f"Saved by a lesson: {folder} ({format_bytes(size)})")
    if kept.exists and not everything:
        typer.echo("Every event, word for word: lessonkit data show --all    Your notes: lessonkit note")
    typer.echo("\nThat is all. It lies on this computer only; nothing is sent anywhere.")
    typer.echo("The fetched models and datasets are not personal: `lessonkit doctor` says where they lie.")
    typer.echo("Take it along: lessonkit data export my-data.zip    Delete it: lessonkit data delete")


def _show_events(reading: Reading) -> None:
    """Each event on a line, oldest first, then the lines that hold none."""
    from lessonkit.progress.events import local_time
    from lessonkit.progress.report import printable

    for event in reading.events:
        said = json.dumps(event.data, ensure_ascii=False)
        typer.echo(printable(f"{local_time(event.time)}  {event.kind:<8}  {said}"))
    for problem in reading.problems:
        typer.echo(f"Note: {problem}")
    typer.echo()


@data.command("export")
def export_data(
    file: Annotated[Path, typer.Argument(help="The zip file to make.")],
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Save all that is kept, notes included, as one zip file."""
    from lessonkit.progress.keeping import export_all

    curriculum, journal = study()
    export_all(journal, curriculum, file, force=force)
    typer.echo(f"Saved: {file} (journal, and a page to read with your notes).")


@data.command()
def delete(
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete all that is kept. It cannot be brought back."""
    from lessonkit.hardware import format_bytes
    from lessonkit.progress.keeping import delete_all, what_is_kept

    curriculum, journal = study()
    kept = what_is_kept(journal, curriculum)
    if not kept.exists and not kept.outputs:
        typer.echo("Nothing is kept, so there is nothing to delete.")
        return
    if not yes:
        count = _events(sum(kept.kinds.values()))
        typer.echo(f"This deletes {kept.journal} ({count}) and cannot be undone.")
        for folder, size in kept.outputs:
            typer.echo(f"Also {folder} ({format_bytes(size)}).")
        typer.echo("To keep a copy first: lessonkit data export my-data.zip")
        typed = typer.prompt(
            f"Type {WORD} to delete it, anything else to keep it", default="", show_default=False
        )
        if not sys.stdin.isatty():  # else the Return key has ended the line
            typer.echo()
        if typed.strip().lower() != WORD:
            typer.echo("Nothing was deleted.")
            return
    done = delete_all(journal, curriculum)
    for path in done.removed:
        typer.echo(f"Deleted: {path}")
    for path in done.left:
        typer.echo(f"Left alone: {path}")
    typer.echo("A notebook that is still open may write a new journal: close it, or restart its kernel.")
