"""What a million answers cost: a price book (prices are inputs, each with its day and source) and a ledger."""

from __future__ import annotations

import csv
import datetime as dt
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lessonkit.errors import DataError, UnknownNameError

__all__ = ["PRICES", "Entry", "Price", "find_price", "per_million", "read_prices", "write_ledger"]

#: Two examples, to be replaced.
PRICES = Path(__file__).with_name("prices.toml")
HOURS_A_YEAR = 8766  # of 365.25 days
OLD = 90  # days after which a price should be looked up anew


@dataclass(frozen=True)
class Price:
    """What one machine costs. currency: any name. date: the day on which you looked. source: where. example: invented.

    Rented: per_hour. Owned: purchase / years (spread over all hours, busy or not) and watts x per_kwh.
    """

    name: str
    currency: str
    date: dt.date
    source: str
    per_hour: float = 0.0
    purchase: float = 0.0
    years: float = 0.0
    watts: float = 0.0
    per_kwh: float = 0.0
    example: bool = False

    def __post_init__(self) -> None:
        amounts = ("per_hour", "purchase", "years", "watts", "per_kwh")
        wrong = [f"{name} is below 0" for name in amounts if getattr(self, name) < 0]
        wrong += ["source is empty: say where the price stands"] if not self.source.strip() else []
        if self.purchase and not self.years:
            wrong.append("purchase needs years, over which it is spread")
        if bool(self.watts) != bool(self.per_kwh):
            wrong.append("electricity needs both watts and per_kwh")
        if not (self.per_hour or self.purchase or self.watts):
            wrong.append("no price is given: per_hour, or purchase and years, or watts and per_kwh")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def hourly(self) -> float:
        """For one hour of the machine, in its currency."""
        owned = self.purchase / (self.years * HOURS_A_YEAR) if self.purchase else 0.0
        return self.per_hour + owned + self.watts / 1000 * self.per_kwh

    def notes(self, today: dt.date) -> list[str]:
        """What should be said beside every number that comes from this price."""
        said = ["an EXAMPLE: put your own price in its place"] if self.example else []
        age = (today - self.date).days
        if age > OLD:
            said.append(f"{age} days old: look it up anew")
        return said + ([f"dated in the future ({self.date})"] if age < 0 else [])


def read_prices(path: str | Path = PRICES) -> dict[str, Price]:
    """All ``[[price]]`` entries of a TOML file by name. DataError with all that is wrong in it."""
    path = Path(path)
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("price", [])
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"The price book {path} can't be read: {error}.", fix=f"start from a copy of {PRICES}"
        ) from None
    known = {each.name for each in fields(Price)}
    found, problems = {}, []
    for place, entry in enumerate(entries if isinstance(entries, list) else [], 1):
        name = entry.get("name", f"price {place}")
        wrong = [f"{each} is unknown" for each in entry if each not in known]
        wrong += [
            f"{each} is missing" for each in ("name", "currency", "date", "source") if each not in entry
        ]
        amounts = ("per_hour", "purchase", "years", "watts", "per_kwh")
        wrong += [f"{each} is no number" for each in amounts if not _number(entry.get(each, 0))]
        if not isinstance(entry.get("date", dt.date.min), dt.date):
            wrong.append("date is no date, such as 2026-01-31 without quotes")
        if name in found:
            wrong.append("the name stands there twice")
        if not wrong:
            try:
                found[name] = Price(**entry)
            except (ValueError, TypeError, AttributeError) as error:
                wrong.append(str(error))
        problems += [f"{name}: {each}" for each in wrong]
    if problems or not found:
        raise DataError(
            f"The price book {path} can't be used: {'; '.join(problems) or 'it has no [[price]]'}.",
            fix=f"mend it; an entry takes {', '.join(sorted(known))}",
        )
    return found


def find_price(name: str, path: str | Path = PRICES) -> Price:
    """One price by its name; UnknownNameError offers the nearest."""
    prices = read_prices(path)
    if name not in prices:
        raise UnknownNameError(
            "price", name, prices, fix=f"use one of {', '.join(prices)}, or add it to {path}"
        )
    return prices[name]


def per_million(hourly: float, throughput: float, utilisation: float) -> float:
    """The cost of a million answers.

    hourly: price of the machine for an hour. throughput: answers a second at full load. utilisation: above 0, at most 1;
    the share of that throughput which really is asked, on average over all hours that are paid.
    """
    if hourly < 0 or throughput <= 0 or not 0 < utilisation <= 1:
        raise DataError(
            f"No cost comes from {hourly} an hour, {throughput} answers a second, utilisation {utilisation}.",
            fix="the throughput must be above 0, the utilisation above 0 and at most 1",
        )
    return hourly / (3600 * throughput * utilisation) * 1e6


@dataclass(frozen=True)
class Entry:
    """A line of the ledger: what was measured, by which price, what it comes to."""

    setting: str
    answers_a_second: float
    p50_ms: float
    p95_ms: float
    accuracy: float
    texts: int
    utilisation: float
    hourly: float
    currency: str
    price: str
    price_date: dt.date
    price_source: str
    per_million: float
    measured: str  # day and time
    machine: str


def write_ledger(path: str | Path, entries: Iterable[Entry]) -> Path:
    """Append to a CSV file; its header is written once. DataError if the file has other columns."""
    path, names = Path(path), [each.name for each in fields(Entry)]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists() or not path.stat().st_size
    if not fresh:
        with path.open(encoding="utf-8", newline="") as file:
            if next(csv.reader(file), []) != names:
                raise DataError(f"{path} has other columns.", fix="move it away; a new one is begun")
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        if fresh:
            writer.writeheader()
        writer.writerows(asdict(each) for each in entries)
    return path


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
