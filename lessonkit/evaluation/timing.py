"""Latency and throughput of anything that can be called: a model, a pipeline, a server's client."""

from __future__ import annotations

import inspect
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError
from lessonkit.evaluation.bootstrap import percentile_interval, resamples

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Latency", "latency"]

Amount = int | Sequence[int] | Callable[[Any, Any], int]


@dataclass(frozen=True)
class Latency:
    """How long calls took, one after another; all times in milliseconds.

    n: calls timed. warmup: calls before them that were not. p50: the median; interval: its 95 % bootstrap
    interval. p95: 95 of 100 calls took no longer; with fewer than 20 calls it says little more than the
    slowest one. mean: the mean.
    items_per_second, tokens_per_second: handled in a second of timed calls; tokens None if not counted.
    baseline_p50: the median of what it was compared with; ratio: p50 / baseline_p50, under 1 is faster;
    ratio_interval: its 95 % bootstrap interval. All three None without a baseline.
    times: (n,) each call's time, in the order of the calls.
    """

    n: int
    warmup: int
    p50: float
    interval: tuple[float, float]
    p95: float
    mean: float
    items_per_second: float
    tokens_per_second: float | None
    baseline_p50: float | None
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    times: np.ndarray = field(repr=False, compare=False)

    def __str__(self) -> str:
        low, high = map(_short, self.interval)
        tokens = "" if self.tokens_per_second is None else f", {_short(self.tokens_per_second)} tokens/s"
        text = (
            f"p50 {_short(self.p50)} ms (95 % interval {low} to {high}, n = {self.n:,} calls after "
            f"{self.warmup:,} to warm up), p95 {_short(self.p95)} ms, mean {_short(self.mean)} ms, "
            f"{_short(self.items_per_second)} items/s{tokens}"
        )
        if self.ratio is None:
            return text
        low, high = map(_short, self.ratio_interval)
        compared = f"{_short(self.ratio)} times its p50 (95 % interval {low} to {high})"
        return f"{text}; baseline {_short(self.baseline_p50)} ms, {compared}"

    def to_dict(self) -> dict:
        """Plain data for JSON, without the single times."""
        return {name: value for name, value in vars(self).items() if name != "times"}


def latency(
    function: Callable[[Any], Any],
    inputs: Iterable[Any],
    *,
    warmup: int = 3,
    repeats: int = 5,
    items: Amount = 1,
    tokens: Amount | None = None,
    baseline: Latency | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time ``function(input)`` for each of ``inputs``, ``repeats`` times over, one call at a time.

    warmup: calls made first and not timed: the first calls allocate memory and choose kernels.
    items, tokens: how many texts and tokens a call handles, for the throughput: a number for all calls, one
    number for each input, or a function of (input, output), which is called outside of the time.
    baseline: an earlier result to compare with.
    clock: returns seconds; called right before and right after each timed call.
    A GPU works on after a call has returned, so it is waited for before the clock is read.

    The interval says how far the median would move if these inputs were timed again on this machine in this
    state; it knows nothing of other inputs, a hotter machine or a busier one.
    Raises DataError for arguments that cannot be timed; what ``function`` raises goes through.
    """
    import numpy as np

    given = _check(function, inputs, warmup, repeats, baseline)
    for each in itertools.islice(itertools.cycle(given), warmup):
        function(each)
    seconds, item_count, token_count = [], 0, 0
    for _ in range(repeats):
        for number, each in enumerate(given):
            _synchronize()
            start = clock()
            output = function(each)
            _synchronize()
            seconds.append(clock() - start)
            item_count += _amount("items", items, number, each, output, len(given))
            token_count += (
                0 if tokens is None else _amount("tokens", tokens, number, each, output, len(given))
            )
    if sum(seconds) <= 0:
        raise DataError(
            f"All {len(seconds)} calls took no time that the clock can tell.",
            fix="do more in one call, such as a batch of inputs",
        )
    times = 1000 * np.array(seconds)
    p50, p95 = np.quantile(times, [0.5, 0.95])
    return Latency(
        n=len(times),
        warmup=warmup,
        p50=float(p50),
        interval=percentile_interval([np.median(times[drawn]) for drawn in resamples(len(times))]),
        p95=float(p95),
        mean=float(times.mean()),
        items_per_second=item_count / sum(seconds),
        tokens_per_second=None if tokens is None else token_count / sum(seconds),
        baseline_p50=None if baseline is None else baseline.p50,
        ratio=None if baseline is None else float(p50 / baseline.p50),
        ratio_interval=None if baseline is None else _ratio_interval(times, baseline.times),
        times=times,
    )


def _ratio_interval(times: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Interval of the ratio of two medians; the two were timed apart, so they are resampled apart."""
    import numpy as np

    pairs = zip(resamples(len(times), seed=0), resamples(len(others), seed=1), strict=True)
    return percentile_interval([np.median(times[one]) / np.median(others[other]) for one, other in pairs])


def _amount(what: str, amount: Amount, number: int, given: Any, output: Any, inputs: int) -> float:
    """How many items or tokens this call handled."""
    if callable(amount):
        found = amount(given, output)
    elif hasattr(amount, "__len__"):
        if len(amount) != inputs:
            raise DataError(
                f"{what} has {len(amount)} numbers for {inputs} inputs.",
                fix=f"pass one number for each input, or a function: {what}=lambda given, output: ...",
            )
        found = amount[number]
    else:
        found = amount
    try:
        if 0 <= float(found) < math.inf:
            return float(found)
    except (TypeError, ValueError):
        pass
    raise DataError(
        f"{what} is {found!r} for input {number}.",
        fix=f"pass how many {what} a call handles: a number, one for each input, or a function of both "
        "input and output",
    )


def _check(function: Any, inputs: Any, warmup: Any, repeats: Any, baseline: Any) -> list:
    if not callable(function):
        raise DataError(
            f"{type(function).__name__} cannot be called.",
            why="the function is timed, not what it returned",
            fix="pass a function of one input: latency(lambda batch: model(**batch), [batch])",
        )
    lazy = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(kind(function) for kind in lazy):
        raise DataError(
            "This function returns before its work is done.",
            why="it is an async or a generator function",
            fix="time a plain function around it: lambda given: list(function(given)), "
            "or lambda given: asyncio.run(function(given))",
        )
    for name, value, least in (("warmup", warmup, 0), ("repeats", repeats, 1)):
        if not isinstance(value, int) or value < least:
            raise DataError(f"{name} is {value!r}.", fix=f"use a whole number of at least {least}")
    if baseline is not None and not isinstance(baseline, Latency):
        raise DataError(
            f"baseline is {type(baseline).__name__}, not an earlier result.",
            fix="pass baseline=latency(other_function, inputs)",
        )
    if isinstance(inputs, str | bytes | Mapping):
        raise DataError(
            f"inputs is a single {type(inputs).__name__}, not a list of inputs.",
            why="its characters or keys would be timed one by one",
            fix="pass a list, even of one: inputs=[batch]",
        )
    try:
        given = list(inputs)
    except TypeError as error:
        raise DataError(
            f"inputs is {type(inputs).__name__}, not a list of inputs.", fix="pass a list, even of one"
        ) from error
    if not given:
        raise DataError("There are no inputs to time.", fix="pass at least one, and better 20 or more")
    return given


def _synchronize() -> None:
    """Wait for the GPUs in use. What is timed may not use torch at all, so it is not loaded for this."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "backends"):  # not loaded, or only half so far
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            if torch.cuda.memory_allocated(device):
                torch.cuda.synchronize(device)
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
