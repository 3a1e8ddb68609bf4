"""Exercises of production/cost-and-latency."""

from __future__ import annotations

from typing import Any

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]

# Exercise 3: a machine that is always on, against a service that is paid by the request.
HOURLY, SERVICE = 0.10, 2.0


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_million(), _even(), _choose(), _cached()]


# ---- A million answers ------------------------------------------------------------------------------


def _million_reference(hourly, throughput, utilisation):
    return hourly * 1e6 / (throughput * utilisation) / 3600


def _by_seconds(hourly, throughput, utilisation):
    """The same by the price of a second."""
    return hourly / 3600 / throughput / utilisation * 1_000_000


def _million() -> Exercise:
    return Function(
        name="million",
        reference=_million_reference,
        also_right=(_by_seconds,),
        because="A paid hour yields 3,600 x throughput x utilisation answers. The hours that pass idle are paid as well, so "
        "they are in the price of each answer.",
        cases=((0.05, 100, 0.5), (1.0, 40, 1.0), (0.36, 250, 0.1), (4.0, 3000, 0.7)),
        source="def per_million(hourly, throughput, utilisation):\n"
        "    answers_an_hour = 3600 * throughput * utilisation\n"
        "    return hourly / answers_an_hour * 1_000_000",
        hints=(
            "How many answers does one paid hour yield, if the machine is asked for `utilisation` of what it could do?",
            "`3600 * throughput * utilisation`. One answer costs the hour's price divided by that.",
        ),
        wrong=(
            WrongAnswer(
                "always-busy",
                lambda hourly, throughput, utilisation: hourly / (3600 * throughput) * 1e6,
                "That's the price at full load, all day and night. Idle hours are paid, too: fewer answers share the price.",
            ),
            WrongAnswer(
                "turned",
                lambda hourly, throughput, utilisation: hourly * utilisation / (3600 * throughput) * 1e6,
                "A machine that idles more comes out cheaper in yours. The hour costs the same; there are fewer answers.",
            ),
            WrongAnswer(
                "an-hour-is-a-second",
                lambda hourly, throughput, utilisation: hourly / (throughput * utilisation) * 1e6,
                "The price is for an hour, the throughput for a second. An hour has 3,600 of them.",
            ),
            WrongAnswer(
                "one-answer",
                lambda hourly, throughput, utilisation: hourly / (3600 * throughput * utilisation),
                "That's the price of one answer. A million is asked for.",
            ),
        ),
    )


# ---- The cheapest that may be chosen ----------------------------------------------------------------


def _choose_reference(rows, p95, margin):
    good = [row for row in rows if row["p95"] <= p95 and row["low"] >= -margin]
    return min(good, key=lambda row: row["cost"])["name"] if good else None


def _by_sorting(rows, p95, margin):
    """The same, cheapest first."""
    for row in sorted(rows, key=lambda row: row["cost"]):
        if row["p95"] <= p95 and row["low"] + margin >= 0:
            return row["name"]
    return None


def _picked(rows: Any, good: Any, key: str = "cost") -> str | None:
    left = [row for row in rows if good(row)]
    return min(left, key=lambda row: row[key])["name"] if left else None


def _row(name: str, cost: float, p50: float, p95: float, change: float, low: float) -> dict:
    return {"name": name, "cost": cost, "p50": p50, "p95": p95, "change": change, "low": low}


def _choose() -> Exercise:
    rows = [
        _row("today", 9.0, 0.08, 0.10, 0.0, -0.005),
        _row("int8", 5.0, 0.04, 0.06, -0.004, -0.018),
        _row("short", 3.0, 0.02, 0.03, -0.015, -0.041),
        _row("large batch", 4.0, 0.05, 0.30, 0.0, -0.005),
        _row("always the same class", 0.1, 0.001, 0.001, -0.4, -0.45),
    ]
    return Function(
        name="choose",
        reference=_choose_reference,
        also_right=(_by_sorting,),
        because="First what is allowed, by the tail and by the worse end of the interval; then the cheapest of those. And "
        "where nothing is allowed, the answer is None, not the least bad one.",
        cases=(
            (rows, 0.2, 0.03),
            (rows, 0.2, 0.05),
            (rows, 0.5, 0.03),
            (rows, 0.01, 0.03),
            (rows[::-1], 0.08, 0.02),
            ([_row("edge", 1.0, 0.1, 0.2, 0.0, -0.03)], 0.2, 0.03),
            ([], 1.0, 0.1),
        ),
        source="def cheapest(rows, p95, margin):\n"
        '    good = [row for row in rows if row["p95"] <= p95 and row["low"] >= -margin]\n'
        '    return min(good, key=lambda row: row["cost"])["name"] if good else None',
        hints=(
            "Two steps: a list of the rows that are allowed, then the one of them with the least cost.",
            '`low` is the worse end of the interval of the change in accuracy: allowed is `row["low"] >= -margin`.',
            '`min(good, key=lambda row: row["cost"])` raises an error for an empty list: give None there.',
        ),
        wrong=(
            WrongAnswer(
                "by-the-change",
                lambda rows, p95, margin: _picked(
                    rows, lambda row: row["p95"] <= p95 and row["change"] >= -margin
                ),
                "You look at the change that was measured. The true one may be worse: the whole interval must lie within "
                "the margin, so compare its lower end, `low`.",
            ),
            WrongAnswer(
                "by-the-median",
                lambda rows, p95, margin: _picked(
                    rows, lambda row: row["p50"] <= p95 and row["low"] >= -margin
                ),
                "You compare p50 with the target. Half of the requests are slower than that; the target is for p95.",
            ),
            WrongAnswer(
                "quickest",
                lambda rows, p95, margin: _picked(
                    rows, lambda row: row["p95"] <= p95 and row["low"] >= -margin, "p95"
                ),
                "You take the quickest of those that are allowed. Once the target is met, being quicker brings nothing: "
                "take the cheapest.",
            ),
            WrongAnswer(
                "no-quality",
                lambda rows, p95, margin: _picked(rows, lambda row: row["p95"] <= p95),
                "You never look at the quality: a model that always says the same class would win.",
            ),
            WrongAnswer(
                "least-bad",
                lambda rows, p95, margin: (
                    _choose_reference(rows, p95, margin)
                    or _picked(rows, lambda row: row["low"] >= -margin)
                    or _picked(rows, lambda row: True)
                ),
                "Where nothing meets both targets you give something all the same. Then somebody relies on a promise that "
                "nobody measured: give None.",
            ),
        ),
    )


# ---- By the hour or by the request ------------------------------------------------------------------


def _even() -> Exercise:
    requests = HOURLY * 24 / SERVICE * 1e6
    return Value(
        name="even",
        reference=requests,
        also_right=("1200000",),
        tolerance=1.0,
        because=f"A day of the machine costs 24 x {HOURLY:.2f} = {HOURLY * 24:.2f}; for that, the service answers "
        f"{HOURLY * 24 / SERVICE:g} million requests. Below, paying by the request is cheaper, "
        "if nobody else uses the machine.",
        hints=(
            "What does a whole day of the machine cost, asked or not?",
            "For how many requests would the service take the same?",
        ),
        wrong=(
            WrongAnswer("an-hour", HOURLY / SERVICE * 1e6, "That's for an hour. Asked for is a day of 24."),
            WrongAnswer(
                "in-millions", HOURLY * 24 / SERVICE, "That's in millions. Give the number of requests."
            ),
            WrongAnswer(
                "upside-down",
                SERVICE / (HOURLY * 24) * 1e6,
                "Turn the fraction over: the day's price divided by the price of a request.",
            ),
            WrongAnswer(
                "a-working-day",
                HOURLY * 8 / SERVICE * 1e6,
                "The machine is always on: the nights are paid, too.",
            ),
        ),
    )


# ---- What a cache does to the tail ------------------------------------------------------------------


def _cached() -> Exercise:
    return Choice(
        name="cached",
        reference="b",
        also_right=("B",),
        because="The slowest 5 % of all requests are misses, and each miss takes as long as before. The mean and the cost "
        "fall by the share of hits; a promise about p95 is not kept by a cache.",
        options={
            "a": "p50 and p95 both fall by about 30 %",
            "b": "the mean falls by about 30 %, p50 falls as well, p95 hardly at all",
            "c": "p95 falls to nearly nothing, p50 stays",
            "d": "nothing falls, for each miss now needs a look into the cache as well",
        },
        hints=(
            "Sort all requests by their time. Where do the hits stand, where the misses?",
            "The slowest 5 % stand at the far end: hits or misses?",
        ),
        wrong=(
            WrongAnswer(
                "all-alike",
                "a",
                "That would be so if every request became 30 % quicker. Instead 30 % become free, and the others stay.",
            ),
            WrongAnswer(
                "tail-first", "c", "The hits stand at the quick end. At the slow end there are only misses."
            ),
            WrongAnswer(
                "only-overhead",
                "d",
                "A look into a dictionary takes microseconds, the model milliseconds; and a hit skips the model.",
            ),
        ),
    )
