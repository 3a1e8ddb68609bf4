"""What the lesson builds by hand is what production/ has; its exercises ask for what production/ does."""

from __future__ import annotations

import math
import re
from collections import deque

import numpy as np
import pytest
from lesson_source import lesson_text, statement

from lessonkit.exercises import production_cost_and_latency as facts
from production.caching import normalised
from production.cost import per_million, read_prices
from production.measure import closed_loop, quantile

LESSON = "production/cost-and-latency"


@pytest.mark.parametrize(("users", "batch_size", "requests"), [(8, 1, 50), (8, 8, 50), (3, 5, 20), (4, 2, 3)])
def test_the_loop_by_hand_is_productions(users: int, batch_size: int, requests: int) -> None:
    found: dict = {"deque": deque}
    exec(statement(LESSON, "loop_by_hand"), found)
    now = 0.0

    def classify(texts: list[str]) -> list[int]:
        nonlocal now
        now += 0.004 + 0.01 * len(texts)
        return [0] * len(texts)

    _, latencies, seconds = closed_loop(
        classify, ["x"] * requests, users=users, batch_size=batch_size, clock=lambda: now
    )
    by_hand, total = found["loop_by_hand"](lambda n: 0.004 + 0.01 * n, users, batch_size, requests)
    assert by_hand == pytest.approx(latencies)
    assert total == pytest.approx(seconds)


@pytest.mark.parametrize("utilisation", [0.1, 0.5, 1.0])
def test_the_exercises_cost_is_productions(utilisation: float) -> None:
    names: dict = {}
    exec(facts._million().source, names)
    assert names["per_million"](0.36, 40, utilisation) == pytest.approx(per_million(0.36, 40, utilisation))


def test_the_exercises_choice_is_the_searchs() -> None:
    """Allowed by p95 and by the lower end of the interval, then the least cost."""
    names: dict = {}
    exec(facts._choose().source, names)
    for rows, p95, margin in facts._choose().cases:
        assert names["cheapest"](rows, p95, margin) == facts._choose_reference(rows, p95, margin)


def test_even_costs_the_same_both_ways() -> None:
    told = lesson_text(LESSON).replace("\n# ", " ")
    assert f"takes {facts.SERVICE:g} for a million requests" in told
    assert f"costs {facts.HOURLY:.2f} an hour, always on" in told
    requests = facts._even().reference
    throughput = requests / 86400  # such a machine, asked so often
    assert per_million(facts.HOURLY, throughput, 1.0) == pytest.approx(facts.SERVICE)


def test_a_cache_leaves_the_tail_as_drawn() -> None:
    draws = np.random.default_rng(0)
    misses = draws.gamma(4, 10, 20_000)
    cached = np.where(draws.random(20_000) < 0.3, 0.01, misses)
    assert cached.mean() / misses.mean() == pytest.approx(0.7, abs=0.02)
    assert 0.6 < quantile(cached, 0.5) / quantile(misses, 0.5) < 0.9
    assert quantile(cached, 0.95) / quantile(misses, 0.95) > 0.9
    text = lesson_text(LESSON).replace("\n#   ", " ")
    for letter, said in facts._cached().options.items():
        assert f'`"{letter}"`: {said}' in text


def test_the_eager_key_mixes_up_and_the_normalised_does_not() -> None:
    found: dict = {"re": re, "normalised": normalised}
    exec(statement(LESSON, "eager"), found)
    one, other = "Loss of 1.5 mln", "Loss of 9.5  mln"
    assert found["eager"](one) == found["eager"](other)
    assert normalised(one) != normalised(other)


def test_its_price_is_in_the_book() -> None:
    (name,) = re.findall(r'read_prices\([^)]*\)\["([\w-]+)"\]', lesson_text(LESSON))
    assert read_prices()[name].example
    assert not math.isnan(read_prices()[name].hourly)
