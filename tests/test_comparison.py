"""A verdict only where the texts support one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lessonkit.errors import DataError
from lessonkit.evaluation import (
    bootstrap_interval,
    classification_scores,
    compare_classifiers,
    compare_perplexities,
    unigram_perplexity,
)


def predictions(both: int, first: int, second: int, neither: int) -> tuple[list[int], list[int], list[int]]:
    """Labels and two predictions, by how many texts both, only one or none of them got right."""
    n = both + first + second + neither
    labels = [0] * n
    return (
        labels,
        [0] * (both + first) + [1] * (second + neither),
        [0] * both + [1] * first + [0] * second + [1] * neither,
    )


def test_comparison_by_hand():
    found = compare_classifiers(*predictions(60, 20, 5, 15), names=("LoRA", "zero-shot"))
    assert found.n == 100
    assert found.values == (0.8, 0.65)
    assert found.change == pytest.approx(0.15)
    assert (found.only_first, found.only_second) == (20, 5)
    # The variance of a text's difference is (20 + 5) / 100 - 0.15 ** 2.
    spread = 1.96 * math.sqrt((0.25 - 0.15**2) / 100)
    assert found.interval == pytest.approx((0.15 - spread, 0.15 + spread), abs=0.02)
    assert found.verdict == "better"
    assert str(found).startswith("LoRA is better than zero-shot: accuracy 0.800 and 0.650, by +0.150 ")


@settings(max_examples=25, deadline=None)
@given(*[st.integers(0, 40) for _ in range(4)])
def test_swapping_the_two_swaps_the_verdict(both, first, second, neither):
    if not both + first + second + neither:
        return
    labels, one, other = predictions(both, first, second, neither)
    found, swapped = compare_classifiers(labels, one, other), compare_classifiers(labels, other, one)
    opposite = {"better": "worse", "worse": "better", "can't tell": "can't tell"}
    assert swapped.change == pytest.approx(-found.change)
    low, high = found.interval
    assert low <= found.change + 1e-12
    assert high >= found.change - 1e-12
    if abs(low) > 0.02 and abs(high) > 0.02:  # the draws differ, so at the very edge the two may not mirror
        assert swapped.verdict == opposite[found.verdict]


def test_pairing_tells_what_two_overlapping_intervals_do_not():
    labels, one, other = predictions(600, 40, 10, 350)
    first, second = (classification_scores(labels, each, ("right", "wrong")) for each in (one, other))
    assert first.interval[0] < second.interval[1]
    assert compare_classifiers(labels, one, other).verdict == "better"
    assert compare_classifiers(labels, other, one).verdict == "worse"


@pytest.mark.parametrize("texts", [1, 3, 5])
def test_a_handful_of_texts_decides_nothing(texts):
    """All resamples agree here, so the bootstrap alone would be sure."""
    found = compare_classifiers(*predictions(0, texts, 0, 0))
    assert found.interval == (1, 1)
    assert found.verdict == "can't tell"
    assert compare_classifiers(*predictions(0, 6, 0, 0)).verdict == "better"  # 2 * 0.5 ** 6 = 0.031


def test_the_same_predictions_cannot_be_told_apart():
    found = compare_classifiers(*predictions(7, 0, 0, 3), names=("A", "B"))
    assert found.verdict == "can't tell"
    assert found.interval == (0, 0)
    assert str(found).startswith("can't tell A from B: ")


def test_equally_good_classifiers_are_seldom_told_apart():
    draws, wrong = np.random.default_rng(0), 0
    for _ in range(100):
        labels = np.zeros(150, int)
        one, other = draws.random((2, 150)) < 0.3
        wrong += compare_classifiers(labels, one, other).verdict != "can't tell"
    assert wrong <= 10  # 5 of 100 expected; more than 10 of them once in a hundred times


def test_interval_is_that_of_the_paired_differences():
    draws = np.random.default_rng(1)
    labels, one, other = draws.integers(0, 3, (3, 200))
    found = compare_classifiers(labels, one, other)
    differences = (one == labels).astype(int) - (other == labels)
    assert found.interval == bootstrap_interval(differences)
    expected = stats.bootstrap(
        ((one == labels).astype(float), (other == labels).astype(float)),
        lambda first, second: first.mean() - second.mean(),
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = found.interval[1] - found.interval[0]
    assert found.interval == pytest.approx(tuple(expected), abs=0.1 * width)


def unigrams(train: list[list[int]], texts: list[list[int]], name: str):
    rows = [[{"input_ids": text} for text in each] for each in (train, texts)]
    return replace(unigram_perplexity(*rows, vocabulary_size=4), name=name)


TEXTS = [[0, 1, 1, 2], [0, 1, 2], [3, 1, 1, 1, 2], [0, 2, 2, 1]] * 3


def test_perplexities_compare_text_by_text():
    tuned, base = (
        unigrams([[0, 1, 1, 2, 1, 2, 2]], TEXTS, "tuned model"),
        unigrams([[0, 3, 3, 0]], TEXTS, "base model"),
    )
    found = compare_perplexities(tuned, base)
    assert found.change == pytest.approx(tuned.perplexity / base.perplexity)
    assert found.interval[0] <= found.change <= found.interval[1] < 1
    assert found.verdict == "better"
    assert (found.n, found.only_first, found.only_second) == (12, 12, 0)
    assert compare_perplexities(base, tuned).verdict == "worse"
    assert compare_perplexities(base, base).verdict == "can't tell"
    assert str(found).startswith("the tuned model is better than the base model: perplexity ")


def test_comparison_is_plain_data():
    found = compare_classifiers(*predictions(5, 3, 1, 2))
    assert json.loads(json.dumps(found.to_dict()))["verdict"] == "can't tell"


SCORES = unigrams(TEXTS, TEXTS, "model")


@pytest.mark.parametrize(
    "call",
    [
        lambda: compare_classifiers([], [], []),
        lambda: compare_classifiers([0, 1], [0, 1], [0]),
        lambda: compare_classifiers([0, 1], [0], [0]),
        lambda: compare_classifiers([0, 1], [0, 1], [[0.1, 0.9], [0.9, 0.1]]),
        lambda: compare_classifiers([0, 1], np.zeros((2, 3)), np.zeros((2, 3))),
        lambda: compare_classifiers(["a"], [0], [0]),
        lambda: compare_classifiers([0], [0], [None]),
        lambda: compare_classifiers([0], [0], [0], names=("only one",)),
        lambda: compare_classifiers([0], [0], [0], names="AB"),
        lambda: compare_classifiers([0], [0], [0], names=2),
        lambda: compare_perplexities(12.0, 13.0),
        lambda: compare_perplexities(SCORES, unigrams(TEXTS, TEXTS[1:], "model")),
        lambda: compare_perplexities(*[unigrams(TEXTS, TEXTS[:1], "model")] * 2),
    ],
)
def test_what_cannot_be_compared_says_what_to_do(call):
    with pytest.raises(DataError) as caught:
        call()
    assert caught.value.fix
