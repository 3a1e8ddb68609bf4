"""Scores agree with scikit-learn and with sums done by hand, and never come alone."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from lessonkit.errors import DataError, LessonkitError
from lessonkit.evaluation import bootstrap_interval, classification_scores, majority_baseline

NAMES = ("acq", "earn", "trade")
LABELS = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 0, 2]


def test_scores_by_hand():
    scores = classification_scores(LABELS, PREDICTIONS, NAMES)
    assert scores.n == 6
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]  # row: true, column: predicted
    # F1 = 2 TP / (2 TP + FP + FN): acq 4 / (4 + 1 + 1), earn 2 / (2 + 1 + 1), trade 2 / 2
    assert scores.macro_f1 == pytest.approx((4 / 6 + 2 / 4 + 1) / 3)
    assert scores.baseline == pytest.approx(3 / 6)
    assert scores.interval[0] <= scores.accuracy <= scores.interval[1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_scores_agree_with_scikit_learn(pairs):
    labels, predictions = (list(column) for column in zip(*pairs, strict=True))
    scores = classification_scores(labels, predictions, NAMES)
    classes = list(range(3))
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(labels, predictions))
    expected = metrics.f1_score(labels, predictions, labels=classes, average="macro", zero_division=0)
    assert scores.macro_f1 == pytest.approx(expected)
    np.testing.assert_array_equal(
        scores.confusion, metrics.confusion_matrix(labels, predictions, labels=classes)
    )
    assert scores.confusion.sum() == scores.n
    assert np.trace(scores.confusion) == round(scores.accuracy * scores.n)
    assert 0 <= scores.interval[0] <= scores.accuracy <= scores.interval[1] <= 1


def test_class_without_texts_counts_as_zero_without_a_warning():
    scores = classification_scores([0, 0], [0, 0], NAMES)
    assert scores.accuracy == 1
    assert scores.macro_f1 == pytest.approx(1 / 3)
    assert scores.confusion.shape == (3, 3)


def test_baseline_takes_the_majority_of_the_training_labels():
    assert classification_scores([0, 0, 1], [0, 0, 1], NAMES, majority_label=1).baseline == pytest.approx(
        1 / 3
    )
    assert majority_baseline([1, 1, 0], [0, 0, 1, 0]) == pytest.approx(1 / 4)
    assert majority_baseline([2], [0, 1]) == 0


def test_lists_arrays_and_tensors_score_alike():
    import torch

    first = classification_scores(LABELS, PREDICTIONS, NAMES)
    for kind in (np.array, torch.tensor, tuple):
        again = classification_scores(kind(LABELS), kind(PREDICTIONS), NAMES)
        assert again.to_dict() == first.to_dict()


def test_scores_always_speak_of_n_and_baseline():
    text = str(classification_scores(LABELS, PREDICTIONS, NAMES))
    assert "n = 6" in text
    assert "0.667" in text
    assert "majority class 0.500" in text
    assert "95 % interval" in text


def test_scores_are_plain_data():
    plain = classification_scores(LABELS, PREDICTIONS, NAMES).to_dict()
    assert json.loads(json.dumps(plain))["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("labels", "predictions", "names"),
    [
        ([], [], NAMES),
        ([0, 1], [0], NAMES),
        ([0, 1], [[0.1, 0.9], [0.8, 0.2]], NAMES),
        ([[0], [1]], [[0], [1]], NAMES),
        ([0, 3], [0, 0], NAMES),
        ([0, 0], [0, 3], NAMES),
        ([-1, 0], [0, 0], NAMES),
        ([0, -100], [0, 0], NAMES),
        ([0, 0], [0, 0], ()),
        (["acq", "earn"], [0, 1], NAMES),
        (["0", "1"], [0, 1], NAMES),
        ([0, 1], [0.2, 0.7], NAMES),
        ([0, 1], [math.nan, 1], NAMES),
        ([0, 1], [math.inf, 1], NAMES),
        ([0, 1], [0, None], NAMES),
        ([0, 1], [0, [1, 2]], NAMES),
        ([0, 1], [0, 1j], NAMES),
    ],
)
def test_bad_input_is_told_before_it_is_scored(labels, predictions, names):
    with pytest.raises(DataError) as caught:
        classification_scores(labels, predictions, names)
    assert caught.value.fix


def test_logits_get_the_line_that_mends_them():
    with pytest.raises(DataError, match="argmax"):
        classification_scores([0, 1], np.zeros((2, 3)), NAMES)


@pytest.mark.parametrize(("train", "test"), [([], [0]), ([0], [])])
def test_baseline_of_nothing_is_an_error(train, test):
    with pytest.raises(DataError):
        majority_baseline(train, test)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_interval_holds_the_mean(values):
    low, high = bootstrap_interval(values)
    assert low <= np.mean(values) + 1e-12
    assert high >= np.mean(values) - 1e-12


def test_interval_is_the_same_each_time_and_differs_by_seed():
    values = np.random.default_rng(1).random(50)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_interval_shrinks_with_n():
    widths = []
    for n in (20, 200, 2000):
        low, high = bootstrap_interval([1, 0] * (n // 2))
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    # A share of one half varies by 1.96 * sqrt(0.25 / n) to each side.
    assert widths[-1] == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 2000), rel=0.1)


def test_interval_widens_with_its_level():
    values = [1, 0] * 50
    narrow, wide = bootstrap_interval(values, level=0.5), bootstrap_interval(values, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_values_that_never_vary_have_no_width():
    assert bootstrap_interval([1] * 10) == (1, 1)


@pytest.mark.parametrize("values", [[], [[1, 0], [0, 1]], 3, ["a"], [1, None], [math.nan, 1], [math.inf]])
def test_interval_of_nonsense_is_an_error(values):
    with pytest.raises(LessonkitError):
        bootstrap_interval(values)


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
def test_level_is_a_share(level):
    with pytest.raises(DataError, match="level"):
        bootstrap_interval([0, 1], level=level)
