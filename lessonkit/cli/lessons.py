"""Commands about the lessons: which there are, and running one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lessonkit.cli.app import Json, app, print_json

__all__ = ["lessons", "run"]


@app.command()
def lessons(as_json: Json = False) -> None:
    """List the lessons in order: what is ready, and what is not written yet."""
    from lessonkit.curriculum import load_curriculum

    curriculum = load_curriculum()
    if as_json:
        fields = ("id", "title", "kind", "minutes", "status", "notebook", "source")
        print_json([{name: getattr(each, name) for name in fields} for each in curriculum.lessons])
        return
    width = max(len(each.id) for each in curriculum.lessons)
    for each in curriculum.lessons:
        typer.echo(f"{each.id:<{width}}  {each.minutes:>4} min  {each.status:<16}  {each.title}")
    ready = sum(each.written for each in curriculum.lessons)
    typer.echo(
        f"\n{ready} of {len(curriculum.lessons)} are ready. Run one: lessonkit run beginner/full-fine-tuning"
    )


@app.command()
def run(
    lesson: Annotated[str, typer.Argument(help="A name that `lessonkit lessons` lists.")],
    scale: Annotated[str, typer.Option(help="smoke, laptop or gpu; left out, the machine decides.")] = "",
    output: Annotated[Path | None, typer.Option(help="Save the executed notebook to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Run a lesson's notebook from top to bottom, without a browser, and print what it measured."""
    from lessonkit.errors import UnknownNameError
    from lessonkit.execution import run_lesson
    from lessonkit.hardware import SCALES, format_bytes

    if scale and scale not in SCALES:
        raise UnknownNameError("scale", scale, SCALES)
    result = run_lesson(lesson, scale=scale, output=output, tell=lambda text: typer.echo(text, err=True))
    if as_json:
        print_json(result)
        return
    typer.echo(f"\n{result['lesson']} at {result['scale']} scale")
    for name, value in result["metrics"].items():
        typer.echo(f"  {name:<28} {value:,.4f}".rstrip("0").rstrip("."))
    typer.echo(f"  {'seconds of training':<28} {result['seconds']:.1f}")
    typer.echo(f"  {'peak memory':<28} {format_bytes(result['peak_bytes'])}")
