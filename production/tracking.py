"""Keep track of trainings: ``python -m production.tracking train | repeat RUN_ID | list | compare A B``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lessonkit.errors import DataError, LessonError, TrainingError, UnknownNameError
from production.commands import run
from production.comparing import Comparison, compare_runs
from production.recipe import Tracking, data_facts, read_data, train
from production.records import find_run, incomplete_runs, list_runs, read_run
from production.settings import read, work_folder

__all__ = ["Repetition", "repeat", "table"]

NUMBER_OF_RUNS = {"train": 0, "repeat": 1, "list": 0, "compare": 2}


@dataclass(frozen=True)
class Repetition:
    """folder: of the new run. comparison: the old record beside the new one; ``comparison.same`` is the verdict."""

    folder: Path
    comparison: Comparison

    def __str__(self) -> str:
        verdict = "Repeated, bit for bit." if self.comparison.same else "NOT the same training."
        return f"{self.comparison}\n{verdict}"


def repeat(work: str | Path, run_id: str) -> Repetition:
    """Train again from nothing but a run's record, and compare.

    Raises UnknownNameError or TrainingError if there is no such complete run, and DataError if the data has changed
    since, or the record names settings that this code does not have.
    """
    record = read_run(find_run(work, run_id))
    try:
        settings = Tracking(**record["settings"], seed=record["seed"])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The settings of the run {run_id} don't fit this code: {error}.",
            why=f"it was made by version {record['code'].get('version')}",
            fix=f"check out that code first (commit {record['code'].get('commit')})",
        ) from None
    _same_data(record, settings)
    folder = train(work, settings, repeats=run_id)
    return Repetition(folder, compare_runs(record, read_run(folder)))


def _same_data(record: dict[str, Any], settings: Tracking) -> None:
    then, now = record["data"], data_facts(settings, read_data(settings))
    changed = [
        f"{part}: sha256 {digest[:12]} then, {now['parts'].get(part, 'none')[:12]} now"
        for part, digest in then.get("parts", {}).items()
        if now["parts"].get(part) != digest
    ]
    if changed or then["sha256"] != now["sha256"]:
        raise DataError(
            f"The data {then['name']} is not what the run {record['run_id']} was trained on "
            f"({'; '.join(changed) or 'another sha256'}).",
            why="a training on other data is a new run, not a repetition",
            fix="bring the old data back, or train a new run: python -m production.tracking train",
        )


def table(work: str | Path) -> str:
    """All runs, oldest first, a line each; below them the folders that are no runs."""
    lines = [f"{'run':<22}{'kind':<8}{'rate':>8}{'seed':>5}{'threads':>8}{'accuracy':>10}{'loss':>8}"]
    for record in list_runs(work):
        settings, metrics = record["settings"], record["metrics"]
        lines.append(
            f"{record['run_id']:<22}{record.get('kind', ''):<8}{_number(settings.get('learning_rate'), '8.0e')}"
            f"{record['seed']:>5}{settings.get('threads', ''):>8}"
            f"{_number(metrics.get('eval_accuracy'), '10.3f')}{_number(metrics.get('eval_loss'), '8.3f')}"
        )
    lines += [f"{name:<22}incomplete: no run.json" for name in incomplete_runs(work)]
    return "\n".join(lines) if len(lines) > 1 else f"No runs in {work} yet."


def _number(value: float | None, how: str) -> str:
    return f"{'-':>{how.split('.')[0]}}" if value is None else format(value, how)


def main(
    action: Annotated[str, typer.Argument(help="train, repeat, list or compare")],
    runs: Annotated[list[str] | None, typer.Argument(help="repeat: one run id; compare: two")] = None,
    settings: Annotated[str, typer.Option(help="another settings.toml")] = "",
    work: Annotated[str, typer.Option(help="the work folder, instead of [work] folder")] = "",
    learning_rate: Annotated[float | None, typer.Option(help="train: instead of the settings'")] = None,
    seed: Annotated[int | None, typer.Option(help="train: instead of the settings'")] = None,
    threads: Annotated[int | None, typer.Option(help="train: instead of the settings'")] = None,
    steps: Annotated[int | None, typer.Option(help="train: instead of the settings'")] = None,
) -> None:
    """Keep track of trainings, and repeat one from its record."""
    given = runs or []
    if action not in NUMBER_OF_RUNS:
        raise UnknownNameError("action", action, NUMBER_OF_RUNS)
    if len(given) != NUMBER_OF_RUNS[action]:
        raise LessonError(
            f"`{action}` takes {NUMBER_OF_RUNS[action]} run ids, not {len(given)}.",
            fix="see which there are: python -m production.tracking list",
        )
    folder = Path(work).expanduser() if work else work_folder(settings)
    if action == "train":
        options = {"learning_rate": learning_rate, "seed": seed, "threads": threads, "steps": steps}
        made = train(folder, read("tracking", Tracking, settings, **options))
        typer.echo(f"{made}\n{read_run(made)['metrics']}")
    elif action == "repeat":
        made = repeat(folder, given[0])
        typer.echo(str(made))
        if not made.comparison.same:
            raise TrainingError(
                f"The run {given[0]} was not repeated bit for bit.",
                why="what was recorded and now differs stands above; if nothing does, something is not recorded",
                fix="repeat it with the recorded versions, on the recorded kind of CPU",
            )
    elif action == "list":
        typer.echo(table(folder))
    else:
        one, other = (read_run(find_run(folder, each)) for each in given)
        typer.echo(str(compare_runs(one, other)))


if __name__ == "__main__":
    run(main)
