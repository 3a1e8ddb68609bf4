"""Commands about data and models of your own: check texts, evaluate a saved model, compare two evaluations."""

from __future__ import annotations

from typing import Annotated

import typer

from lessonkit.cli.app import Json, app, print_json

__all__ = ["check", "evaluate", "gate"]


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="A file or folder of texts.")],
    text: Annotated[str | None, typer.Option(help="The column of the texts.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of the labels.")] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Questions and answers, for a model that writes; no labels.")
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="With --pairs: the column of the questions.")] = None,
    answer: Annotated[str | None, typer.Option(help="With --pairs: the column of the answers.")] = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a file of labelled texts or of pairs, where, and what cures it; the file stays as it is."""
    from lessonkit.texts import check_pairs, check_texts

    if pairs or prompt or answer:
        report = check_pairs(file, prompt=prompt, answer=answer)
    else:
        report = check_texts(file, text=text, label=label)
    if as_json:
        print_json(report.to_dict())
    else:
        typer.echo(str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: Annotated[
        str | None, typer.Option(help="The folder of a saved classifier or PEFT adapter.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A file of labelled texts, or a dataset of this course.")
    ] = None,
    config: Annotated[str, typer.Option(help="A .toml or .yaml file with these settings.")] = "",
    output: Annotated[str | None, typer.Option(help="The folder to write to.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a dataset of this course: test or train.")] = None,
    text: Annotated[str | None, typer.Option(help="The file's column of texts.")] = None,
    label: Annotated[str | None, typer.Option(help="The file's column of labels.")] = None,
    base: Annotated[str | None, typer.Option(help="A PEFT adapter's base model.")] = None,
    slices: Annotated[str | None, typer.Option(help="More columns to score by, with commas.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts at a time.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens kept of a text; 0: the model's limit.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Texts scored; 0: all.")] = None,
    as_json: Json = False,
) -> None:
    """Score a saved classifier: predictions, metrics with intervals, slices, and an HTML report with all errors."""
    from lessonkit.scoring import evaluate as run
    from lessonkit.scoring import read_config

    settings = read_config(
        config,
        model=model,
        data=data,
        output=output,
        split=split,
        text=text,
        label=label,
        base=base,
        slices=slices,
        batch_size=batch_size,
        max_length=max_length,
        limit=limit,
    )
    found = run(settings, tell=lambda line: typer.echo(line, err=True))
    if as_json:
        print_json(found.metrics | {"folder": str(found.folder)})
    else:
        typer.echo(str(found))


@app.command()
def gate(
    candidate: Annotated[str, typer.Argument(help="The folder of the new model's evaluation.")],
    champion: Annotated[str, typer.Argument(help="The folder of the present model's evaluation.")],
    allow_equal: Annotated[
        bool, typer.Option("--allow-equal", help="Pass also where no difference can be told.")
    ] = False,
    margin: Annotated[
        float, typer.Option(help="With --allow-equal: how much worse it may surely be at most.")
    ] = 0.01,
    as_json: Json = False,
) -> None:
    """Compare two evaluations of the same texts: better, worse, or can't tell. Exit status 1 if it isn't passed."""
    from lessonkit.scoring import gate as compare

    found = compare(candidate, champion, allow_equal=allow_equal, margin=margin)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found))
    if not found.passed:
        raise typer.Exit(1)
