"""A bounded load test over loopback: ``python -m production.load_test --url http://127.0.0.1:8000 --concurrency 32``.

Closed loop: so many users, each asks again when it has its answer; a slow server is asked less. Open loop
(``--rate``): requests come when they come, as from the world; time spent waiting for a free user counts, so that
overload shows.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import typer

from lessonkit.errors import DataError, LessonError
from production.client import AnswerError, Client
from production.commands import run

__all__ = ["Report", "load", "quantile"]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values don't exceed (nearest rank); nan for none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked) - 1e-9) - 1)] if ranked else math.nan


@dataclass(frozen=True)
class Report:
    """answered: requests. seconds: wall time. latencies: seconds, of answered ones. failures: kind -> count.

    versions: version -> answers.
    """

    answered: int
    seconds: float
    latencies: tuple[float, ...]
    failures: dict[str, int]
    versions: dict[str, int]

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        p50, p95, p99 = (1000 * quantile(self.latencies, each) for each in (0.5, 0.95, 0.99))
        failed = ", ".join(f"{kind} {count}" for kind, count in sorted(self.failures.items())) or "none"
        return (
            f"{self.throughput:.1f} answers/s ({self.answered:,} in {self.seconds:.1f} s), "
            f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms, failures: {failed}"
        )


def load(
    ask: Callable[[int], Any],
    concurrency: int,
    *,
    seconds: float = 5.0,
    requests: int = 10_000,
    rate: float | None = None,
    until: threading.Event | None = None,
) -> Report:
    """Ask until ``seconds`` have passed or ``requests`` were sent; what was sent is waited for.

    ask: called with the request's number, from ``concurrency`` threads; its answer may hold a "version". rate:
    requests a second, else a closed loop. until: set, it ends the load early. Raises DataError for sizes below 1.
    """
    if concurrency < 1 or requests < 1 or seconds <= 0 or (rate is not None and rate <= 0):
        raise DataError("Concurrency, requests, seconds and rate must be above 0.", fix="choose larger ones")
    numbers, lock = itertools.count(), threading.Lock()
    latencies: list[float] = []
    failures: Counter = Counter()
    versions: Counter = Counter()
    began = time.monotonic()

    def user() -> None:
        while True:
            with lock:
                number = next(numbers)
            due = time.monotonic() if rate is None else began + number / rate
            if until is not None and until.is_set():
                return
            if number >= requests or max(due, time.monotonic()) - began >= seconds:
                return
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                answer = ask(number)
            except AnswerError as error:
                kind = f"{error.status} {error.code}"
            except Exception as error:
                kind = type(error).__name__
            else:
                kind = ""
            with lock:
                if kind:
                    failures[kind] += 1
                else:
                    latencies.append(time.monotonic() - due)
                    versions[str(answer["version"]) if isinstance(answer, dict) else ""] += 1

    users = [threading.Thread(target=user, daemon=True) for _ in range(concurrency)]
    for each in users:
        each.start()
    for each in users:
        each.join()
    taken = time.monotonic() - began
    return Report(len(latencies), taken, tuple(latencies), dict(failures), dict(versions))


def main(
    url: str = "http://127.0.0.1:8000",
    concurrency: int = 32,
    seconds: float = 10.0,
    requests: int = 10_000,
    rate: Annotated[float | None, typer.Option()] = None,
    text: str = "oil prices rose after the meeting",
) -> None:
    """Load a server on this computer; the key comes from SERVING_KEY."""
    if httpx.URL(url).host not in ("127.0.0.1", "localhost", "::1"):
        raise LessonError(
            f"{url} is not this computer.",
            why="a load test of somebody's server is an attack",
            fix="use 127.0.0.1",
        )
    with Client(url, os.environ.get("SERVING_KEY", ""), connections=concurrency) as client:
        report = load(
            lambda _: client.classify(text), concurrency, seconds=seconds, requests=requests, rate=rate
        )
        typer.echo(f"{report}\nversions: {report.versions}; asked again: {client.tries_again}")


if __name__ == "__main__":
    run(main)
