"""Times come from an injected clock here, so every figure is known beforehand."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonkit.errors import DataError
from lessonkit.evaluation import Latency, latency


class Work:
    """A function whose call takes its input's milliseconds on its own clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[float] = []

    def clock(self) -> float:
        return self.now

    def __call__(self, milliseconds: float) -> str:
        self.calls.append(milliseconds)
        self.now += milliseconds / 1000
        return "x" * int(milliseconds)


def timed(inputs: list[float], **arguments) -> Latency:
    work = Work()
    return latency(work, inputs, clock=work.clock, **{"warmup": 0, "repeats": 1} | arguments)


def test_latency_by_hand():
    scores = timed([10, 20, 30, 40])
    assert scores.n == 4
    assert scores.times == pytest.approx([10, 20, 30, 40])
    assert scores.p50 == pytest.approx(25)
    assert scores.mean == pytest.approx(25)
    assert scores.p95 == pytest.approx(38.5)  # 85 % of the way from 30 to 40, as numpy.quantile has it
    assert scores.items_per_second == pytest.approx(4 / 0.1)
    assert scores.tokens_per_second is None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(0, 5), st.integers(1, 3))
def test_figures_agree_with_numpy_and_hold_together(inputs, warmup, repeats):
    scores = timed(inputs, warmup=warmup, repeats=repeats)
    times = inputs * repeats
    assert scores.n == len(times)
    assert scores.p50 == pytest.approx(np.median(times))
    assert scores.p95 == pytest.approx(np.quantile(times, 0.95))
    assert scores.mean == pytest.approx(np.mean(times))
    low, high = scores.interval
    assert min(times) - 1e-6 <= low <= high <= max(times) + 1e-6
    assert scores.p50 <= scores.p95 + 1e-6


@pytest.mark.parametrize(("warmup", "first"), [(0, []), (2, [1000, 5]), (5, [1000, 5, 7, 1000, 5])])
def test_warm_up_is_called_and_not_timed(warmup, first):
    work = Work()
    scores = latency(work, [1000, 5, 7], warmup=warmup, repeats=2, clock=work.clock)
    assert work.calls == first + [1000, 5, 7] * 2
    assert scores.n == 6
    assert scores.warmup == warmup


def test_first_slow_call_leaves_no_trace_after_a_warm_up():
    work, slow = Work(), [900.0]
    scores = latency(lambda ms: work(ms + (slow.pop() if slow else 0)), [10], warmup=1, clock=work.clock)
    assert scores.times == pytest.approx([10] * 5)


@pytest.mark.parametrize(
    ("amounts", "items", "tokens"),
    [
        ({"items": 8}, 24 / 0.06, None),
        ({"tokens": 100}, 3 / 0.06, 300 / 0.06),
        ({"items": [1, 2, 3], "tokens": np.array([5, 6, 7])}, 6 / 0.06, 18 / 0.06),
        ({"tokens": lambda given, output: len(output)}, 3 / 0.06, 60 / 0.06),
        ({"tokens": lambda given, output: 0}, 3 / 0.06, 0),
    ],
)
def test_throughput_counts_what_a_call_handles(amounts, items, tokens):
    scores = timed([10, 20, 30], **amounts)
    assert scores.items_per_second == pytest.approx(items)
    assert scores.tokens_per_second == (None if tokens is None else pytest.approx(tokens))


def test_counting_is_not_timed():
    work = Work()

    def count(given: float, output: str) -> int:
        work.now += 60
        return 1

    assert latency(work, [10], tokens=count, clock=work.clock).p95 == pytest.approx(10)


def test_baseline_gives_a_ratio_of_medians():
    slow = timed([20, 40, 60] * 10)
    fast = timed([10, 20, 30] * 10, baseline=slow)
    assert fast.baseline_p50 == pytest.approx(40)
    assert fast.ratio == pytest.approx(0.5)
    low, high = fast.ratio_interval
    assert low <= 0.5 <= high
    assert (low, high) != (0.5, 0.5)
    assert "baseline 40 ms, 0.5 times its p50" in str(fast)


def test_equal_times_cannot_be_told_apart():
    times = (10 + np.random.default_rng(0).random(100)).tolist()
    low, high = timed(times, baseline=timed(times[::-1])).ratio_interval
    assert low < 1 < high


def test_interval_of_the_median_shrinks_with_n():
    times = np.random.default_rng(0).random(1000) + 1
    few, many = timed(times[:20].tolist()).interval, timed(times.tolist()).interval
    assert many[1] - many[0] < (few[1] - few[0]) / 2


def test_real_clock_times_real_work():
    import time

    scores = latency(lambda seconds: time.sleep(seconds), [0.002], repeats=3)
    assert scores.p50 >= 1.9


def test_waits_for_the_gpu_before_each_reading(monkeypatch):
    work, events = Work(), []
    monkeypatch.setattr("lessonkit.evaluation.timing._synchronize", lambda: events.append("wait"))

    def clock() -> float:
        events.append("clock")
        return work.clock()

    def call(given: float) -> None:
        events.append("call")
        work(given)

    latency(call, [10], warmup=1, repeats=1, clock=clock)
    assert events == ["call", "wait", "clock", "call", "wait", "clock"]


class FakeCuda:
    """Two GPUs, of which the second one holds tensors."""

    def __init__(self) -> None:
        self.waited: list[int] = []

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def device_count(self) -> int:
        return 2

    def memory_allocated(self, device: int) -> int:
        return device * 1024

    def synchronize(self, device: int) -> None:
        self.waited.append(device)


def test_waits_for_the_gpu_that_is_used_whichever_it_is(monkeypatch):
    import torch

    cuda = FakeCuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    timed([10])
    assert cuda.waited == [1, 1]


def test_torch_is_not_needed(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert timed([10]).n == 1
    assert "torch" not in sys.modules


def test_one_line_says_it_all():
    text = str(timed([10, 20, 30], warmup=2, tokens=1000))
    assert "\n" not in text
    for part in ("p50 20 ms", "95 % interval", "n = 3 calls after 2 to warm up", "p95 29 ms", "mean 20 ms"):
        assert part in text
    assert "50 items/s, 50,000 tokens/s" in text


def test_figures_are_plain_data():
    plain = timed([10, 20], baseline=timed([5]), tokens=3).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["ratio"] == pytest.approx(3)
    assert "times" not in plain


def test_what_the_function_raises_goes_through():
    with pytest.raises(ZeroDivisionError):
        latency(lambda given: 1 / given, [0])


async def answer(given: int) -> int:
    return given


def stream(given: int):
    yield given


@pytest.mark.parametrize(
    "call",
    [
        lambda: latency(None, [1]),
        lambda: latency("model", [1]),
        lambda: latency(answer, [1]),
        lambda: latency(stream, [1]),
        lambda: latency(len, []),
        lambda: latency(len, None),
        lambda: latency(len, 3),
        lambda: latency(len, "a text"),
        lambda: latency(len, {"input_ids": [1]}),
        lambda: latency(len, ["a"], warmup=-1),
        lambda: latency(len, ["a"], warmup=0.5),
        lambda: latency(len, ["a"], repeats=0),
        lambda: latency(len, ["a"], repeats="3"),
        lambda: latency(len, ["a"], items=-1),
        lambda: latency(len, ["a"], items=None),
        lambda: latency(len, ["a"], tokens=[1, 2]),
        lambda: latency(len, ["a"], tokens="many"),
        lambda: latency(len, ["a"], tokens=math.nan),
        lambda: latency(len, ["a"], tokens=lambda given, output: None),
        lambda: latency(len, ["a"], baseline=12.5),
        lambda: latency(len, ["a"], clock=lambda: 0.0),
    ],
)
def test_what_cannot_be_timed_says_what_to_do(call):
    with pytest.raises(DataError) as caught:
        call()
    assert caught.value.fix
