"""What ``python -m production.optimise`` does: measure all variants, or choose the cheapest setting."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lessonkit.errors import DataError, LessonError, UnknownNameError
from production.cheapest import Row, Target, judge, prove, search
from production.commands import only_one
from production.cost import PRICES, Entry, find_price, write_ledger
from production.measure import Bench
from production.optimise import KINDS, Setting, make
from production.settings import read, work_folder

__all__ = ["Cost", "command", "entries", "held_out"]

LIMIT = 15.0  # seconds for a setting in a first look; the slowest ones would take minutes


@dataclass(frozen=True)
class Cost:
    """Section [cost]. model: a folder; "" for the newest run of ``production.tracking``. data: a dataset of the course with
    a test part, or a CSV file with text and label; what the model was not trained on.

    texts, fresh: so many to choose by, and to prove by. kinds, lengths, batches: what is tried; the first kind that can be
    made, at the first length, is the reference. users: of the closed loop. p95_ms: at most, under load. margin: accuracy
    that may be lost. price: a name in the price book. utilisation: share of full load that is asked on average. threads:
    0 for as many as suit this machine.
    """

    model: str = ""
    data: str = "reuters-r8"
    texts: int = 400
    fresh: int = 800
    kinds: tuple[str, ...] = ("merged", "unmerged", "bf16", "nf4", "compiled", "onnx", "int8")
    lengths: tuple[int, ...] = (48, 32, 16)
    batches: tuple[int, ...] = (1, 8)
    users: int = 8
    p95_ms: float = 200.0
    margin: float = 0.03
    price: str = "rented-2-cores"
    prices: str = str(PRICES)
    utilisation: float = 0.5
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        lists = {"kinds": self.kinds, "lengths": self.lengths, "batches": self.batches}
        wrong = [f"{name} is empty" for name, values in lists.items() if not values]
        counts = {"texts": self.texts, "fresh": self.fresh, "users": self.users}
        wrong += [f"{name} must be at least 1" for name, value in counts.items() if value < 1]
        wrong += [f"{each} is no kind of variant" for each in self.kinds if each not in KINDS]
        wrong += ["lengths and batches start at 1"] if min((*self.lengths, *self.batches, 1)) < 1 else []
        wrong += ["p95_ms must be above 0"] if not self.p95_ms > 0 else []
        wrong += [
            f"{name} must lie between 0 and 1"
            for name, value in {"margin": self.margin, "utilisation": self.utilisation}.items()
            if not 0 < value <= 1
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


def held_out(data: str, names: list[str], count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Texts and class numbers, drawn by the seed from a dataset's test part or from a CSV file. DataError if too few."""
    if data.endswith(".csv"):
        import csv

        with open(data, encoding="utf-8", newline="") as file:
            rows = [(each["text"], each["label"]) for each in csv.DictReader(file)]
        import random

        random.Random(seed).shuffle(rows)
    else:
        import lessonkit

        test = lessonkit.load_dataset(data)["test"]
        said = test.features["label"].names
        rows = [
            (row["text"], said[row["label"]])
            for row in test.shuffle(seed=seed).select(range(min(count, len(test))))
        ]
    unknown = sorted({label for _, label in rows} - set(names))
    if len(rows) < count or unknown:
        raise DataError(
            f"{data} has {len(rows):,} texts (wanted: {count:,})"
            + (f" and labels that the model doesn't know: {', '.join(unknown[:3])}." if unknown else "."),
            fix="name other data, or lower texts and fresh in [cost]",
        )
    return [text for text, _ in rows[:count]], [names.index(label) for _, label in rows[:count]]


def entries(rows: Iterable[Row], target: Target, price: object, machine: str, when: str) -> list[Entry]:
    """Lines for the ledger."""
    return [
        Entry(
            str(row.setting),
            round(row.measured.throughput, 2),
            round(1000 * row.measured.p50, 2),
            round(1000 * row.measured.p95, 2),
            round(row.accuracy, 4),
            row.n,
            target.utilisation,
            round(price.hourly, 6),
            price.currency,
            price.name,
            price.date,
            price.source,
            round(row.cost, 4),
            when,
            machine,
        )
        for row in rows
    ]


def command(
    action: Annotated[str, typer.Argument(help="measure or choose")],
    model: Annotated[str | None, typer.Option(help="A folder with the classifier: adapter or whole")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where variants and the ledger go")] = None,
    p95_ms: Annotated[float | None, typer.Option(help="p95 under load, at most, in milliseconds")] = None,
    margin: Annotated[float | None, typer.Option(help="Accuracy that may be lost, at most")] = None,
    price: Annotated[str | None, typer.Option(help="Name of a price in the price book")] = None,
    prices: Annotated[str | None, typer.Option(help="The price book, a TOML file")] = None,
    settings: Annotated[str, typer.Option(help="Another settings file")] = "",
) -> None:
    """Measure what each variant of a classifier costs, or choose the cheapest setting that meets a target."""
    if action not in ("measure", "choose"):
        raise UnknownNameError("action", action, ["measure", "choose"])
    given = read(
        "cost", Cost, settings, model=model, p95_ms=p95_ms, margin=margin, price=price, prices=prices
    )
    work = work_folder(settings)
    folder = folder or work / "cost"
    with only_one(folder, "measuring"):
        _measured(action, given, folder, _model(given.model, work))


def _model(named: str, work: Path) -> Path:
    if named:
        return Path(named)
    runs = [each for each in (work / "runs").glob("*/model") if (each.parent / "run.json").exists()]
    if not runs:
        raise DataError(
            f"{work} has no finished run to take the model from.",
            fix="train one: python -m production.tracking train; or name a folder: --model FOLDER",
        )
    return max(runs, key=lambda each: each.stat().st_mtime)


def _measured(action: str, given: Cost, folder: Path, model: Path) -> None:
    from lessonkit.hardware import detect_hardware

    machine, price = detect_hardware(), find_price(given.price, given.prices)
    variants = make(model, folder / "variants", given.kinds)
    names = _names(variants.files["merged"])
    texts, labels = held_out(given.data, names, given.texts + given.fresh, given.seed)
    target = Target(given.p95_ms / 1000, given.margin, given.users, given.utilisation)
    cut, when = given.texts, dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    ledger = folder / "ledger.csv"

    def keep(rows: list[Row]) -> None:
        for row in rows:
            typer.echo(_said(row, price.currency) + (f"; refused: {row.refused}" if row.refused else ""))
        write_ledger(ledger, entries(rows, target, price, machine.summary(), when))

    with Bench(variants, given.threads or machine.threads, folder / "logs", given.kinds) as bench:
        for kind, why in bench.left_out.items():
            typer.echo(f"left out: {kind}: {why}")
        if not bench.kinds:
            raise LessonError("No variant can be measured here.", fix='add "merged" to kinds in [cost]')
        reference = Setting(bench.kinds[0], given.lengths[0])
        typer.echo(f"reference: {reference}")
        if action == "measure":
            settings = [Setting(kind, given.lengths[0]) for kind in bench.kinds]
            options = {"seed": given.seed, "users": given.users, "limit": LIMIT}
            measured = bench.run_all(settings, texts[:cut], rounds=2, **options)
            keep(
                [judge(each, measured[reference], labels, target, price.hourly) for each in measured.values()]
            )
            for kind in bench.kinds:
                peak, size = bench.memory(kind).peak / 2**20, variants.bytes_of(kind) / 2**20
                typer.echo(f"{kind}: {peak:,.0f} MiB RAM at the most, {size:,.1f} MiB on disk")
        else:
            grid = [Setting(*each) for each in itertools.product(bench.kinds, given.lengths, given.batches)]
            found = search(
                bench,
                grid,
                reference,
                texts[:cut],
                labels[:cut],
                target,
                price.hourly,
                screening=max(given.users, cut // 6),
                limit=LIMIT,
                seed=given.seed,
            )
            keep(found.rows)
            typer.echo(str(found))
            proof = prove(bench, found, reference, texts[cut:], labels[cut:], target, price.hourly)
            keep([proof.chosen, proof.runner_up])
            typer.echo(str(proof))
    for note in price.notes(dt.date.today()):
        typer.echo(f"price {price.name}: {note}")
    typer.echo(f"ledger: {ledger}")


def _said(row: Row, currency: str) -> str:
    low, high = row.interval
    return (
        f"{row.setting}: accuracy {row.accuracy:.3f} ({low:.3f} to {high:.3f}, n = {row.n:,}), p50 "
        f"{1000 * row.measured.p50:.0f} ms, p95 {1000 * row.measured.p95:.0f} ms, {row.measured.throughput:.0f}/s, "
        f"{row.cost:.2f} {currency} a million"
    )


def _names(folder: Path) -> list[str]:
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(folder).id2label
    return [found[place] for place in range(len(found))]
