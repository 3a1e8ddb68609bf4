"""Scores agree with scikit-learn and with sums done by hand, and never come alone."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from lessonkit import evaluation
from lessonkit.errors import DataError, LessonkitError
from lessonkit.evaluation import (
    bootstrap_interval,
    bootstrap_ratio_interval,
    classification_scores,
    majority_baseline,
)

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


def test_line_of_scores_stays_as_lessons_print_it():
    """Built notebooks hold this line, and rebuild byte for byte."""
    assert str(classification_scores(LABELS, PREDICTIONS, NAMES)) == (
        "accuracy 0.667 (95 % interval 0.333 to 1.000, n = 6), macro-F1 0.722; majority class 0.500"
    )


def test_details_give_each_score_its_interval_and_baseline():
    first, second = classification_scores(LABELS, PREDICTIONS, NAMES).details().splitlines()
    assert first == "accuracy 0.667 (95 % interval 0.333 to 1.000, n = 6); majority class 0.500"
    assert second.startswith("macro-F1 0.722 (95 % interval ")
    assert second.endswith(", n = 6); majority class 0.222")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(0, 2))
def test_baseline_of_macro_f1_is_the_majority_classes(labels, majority):
    scores = classification_scores(labels, labels, NAMES, majority_label=majority)
    always = [majority] * len(labels)
    expected = metrics.f1_score(labels, always, labels=[0, 1, 2], average="macro", zero_division=0)
    assert scores.macro_f1_baseline == pytest.approx(expected)
    assert scores.baseline == pytest.approx(metrics.accuracy_score(labels, always))


def test_interval_of_macro_f1_agrees_with_resampling_each_class_for_scikit_learn():
    draws = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    predictions = np.where(draws.random(100) < 0.7, labels, 0)  # class 0 is predicted too often
    classes = [np.flatnonzero(labels == each) for each in range(3)]
    resampled = []
    for _ in range(400):
        drawn = np.concatenate([draws.choice(each, len(each)) for each in classes])
        resampled.append(metrics.f1_score(labels[drawn], predictions[drawn], average="macro"))
    scores = classification_scores(labels, predictions, NAMES)
    low, high = scores.macro_f1_interval
    assert (low, high) == pytest.approx(
        tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.15 * (high - low)
    )
    assert low < scores.macro_f1 < high


def test_rare_classes_do_not_pull_the_interval_below_the_score():
    labels = [0] * 100 + list(range(1, 30))  # 29 classes of one text each, all right
    scores = classification_scores(labels, labels, [str(each) for each in range(30)])
    assert scores.macro_f1_interval == (1, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_interval_of_macro_f1_stays_a_share(labels):
    low, high = classification_scores(labels, labels[::-1], NAMES).macro_f1_interval
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize("majority", [3, -1, "earn", 0.5])
def test_majority_label_must_be_a_class(majority):
    with pytest.raises(DataError, match="majority_label"):
        classification_scores(LABELS, PREDICTIONS, NAMES, majority_label=majority)


def test_tensor_with_a_graph_is_scored_too():
    import torch

    labels = torch.tensor([0.0, 1.0], requires_grad=True)
    assert classification_scores(labels, [0, 1], NAMES).accuracy == 1


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


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(2).exponential(size=200)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.1 * (high - low))


def test_interval_of_a_ratio_agrees_with_scipy():
    draws = np.random.default_rng(3)
    below = draws.integers(5, 50, 100)
    above = below * draws.exponential(size=100)
    theirs = stats.bootstrap(
        (above, below),
        lambda one, other: one.sum() / other.sum(),
        paired=True,
        vectorized=False,
        n_resamples=3000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    low, high = bootstrap_ratio_interval(above, below)
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.1 * (high - low))
    assert low < above.sum() / below.sum() < high


def test_ratio_that_is_the_same_for_all_has_no_width():
    below = np.array([1, 2, 30])
    assert bootstrap_ratio_interval(3 * below, below) == pytest.approx((3, 3))


def test_ratio_to_ones_is_the_mean():
    values = np.random.default_rng(4).random(30)
    assert bootstrap_ratio_interval(values, np.ones(30)) == pytest.approx(bootstrap_interval(values))


@pytest.mark.parametrize(
    ("above", "below"), [([], []), ([1], [0]), ([1, 2], [1]), ([1], [-1]), ([1], ["a"]), ([math.nan], [1])]
)
def test_ratio_of_nonsense_is_an_error(above, below):
    with pytest.raises(DataError) as caught:
        bootstrap_ratio_interval(above, below)
    assert caught.value.fix


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


def test_all_scores_are_found_in_one_place():
    assert list(evaluation.__all__) == sorted(evaluation.__all__)
    for name in evaluation.__all__:
        assert getattr(evaluation, name).__doc__
