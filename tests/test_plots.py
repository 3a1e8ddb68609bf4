"""Pictures are plain matplotlib: they show the numbers they were given, and are the caller's to change."""

from __future__ import annotations

import numpy as np
import pytest

from lessonkit import plots
from lessonkit.errors import DataError


@pytest.fixture(autouse=True)
def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def drawn(ax) -> None:
    """Draw for real: layout and text problems show only then."""
    ax.figure.canvas.draw()


def test_curves_show_the_data_and_tell_lines_apart():
    series = {"train": ([0, 1, 2], [3.0, 2.0, 1.0]), "eval": ([0, 2], [3.5, 2.5])}
    ax = plots.curves(series, xlabel="step", ylabel="loss", title="A run")
    drawn(ax)
    assert [line.get_label() for line in ax.lines] == ["train", "eval"]
    for line, (x, y) in zip(ax.lines, series.values(), strict=True):
        assert list(line.get_xdata()) == x
        assert list(line.get_ydata()) == y
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("step", "loss", "A run")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["train", "eval"]
    looks = [(line.get_color(), line.get_linestyle()) for line in ax.lines]
    assert len(set(looks)) == 2
    assert len({style for _, style in looks}) == 2  # told apart without colours too


def test_many_curves_still_differ():
    ax = plots.curves({f"run {i}": ([0, 1], [i, i]) for i in range(12)}, xlabel="x", ylabel="y")
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 12


def test_one_curve_needs_no_legend():
    assert plots.curves({"loss": ([0, 1], [2, 1])}, xlabel="x", ylabel="y").get_legend() is None


def test_few_points_are_marked_and_many_are_not():
    few = plots.curves({"a": (range(5), range(5))}, xlabel="x", ylabel="y").lines[0]
    many = plots.curves({"a": (range(100), range(100))}, xlabel="x", ylabel="y").lines[0]
    assert few.get_marker() == "o"
    assert many.get_marker() == "None"


def test_confusion_matrix_writes_the_counts_and_colours_the_shares():
    counts = np.array([[8, 2, 0], [0, 1500, 500], [0, 0, 0]])
    ax = plots.confusion_matrix(counts, ["a", "b", "c"])
    drawn(ax)
    assert {text.get_text() for text in ax.texts} == {"8", "2", "1,500", "500"}
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.8, 0.2, 0], [0, 0.75, 0.25], [0, 0, 0]])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")


def test_confusion_matrix_puts_true_classes_in_rows():
    ax = plots.confusion_matrix(np.array([[0, 7], [0, 0]]), ["a", "b"])
    (text,) = ax.texts
    assert text.get_position() == (1, 0)  # x: predicted b, y: true a


def test_bars_are_labelled_with_their_values_first_on_top():
    ax = plots.bars({"full": 0.972, "LoRA": 0.969}, xlabel="accuracy", title="R8")
    drawn(ax)
    assert [text.get_text() for text in ax.texts] == ["0.972", "0.969"]
    assert [bar.get_width() for bar in ax.patches] == [0.972, 0.969]
    assert ax.yaxis_inverted()
    assert ax.get_xlabel() == "accuracy"


def test_bars_take_a_format():
    ax = plots.bars({"a": 1234.5}, xlabel="MB", fmt="{:,.0f} MB")
    assert ax.texts[0].get_text() == "1,234 MB"


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.curves({"a": ([0, 1], [1, 2])}, xlabel="x", ylabel="y", ax=ax),
        lambda ax: plots.confusion_matrix(np.eye(2, dtype=int), ["a", "b"], ax=ax),
        lambda ax: plots.bars({"a": 1.0}, xlabel="x", ax=ax),
    ],
)
def test_given_axes_are_drawn_on(pyplot, draw):
    figure, ax = pyplot.subplots()
    assert draw(ax) is ax
    assert pyplot.get_fignums() == [figure.number]


def test_own_figures_are_white_under_a_dark_theme(pyplot):
    with pyplot.style.context("dark_background"):
        ax = plots.bars({"a": 1.0}, xlabel="x")
    assert ax.figure.get_facecolor()[:3] == (1, 1, 1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.curves({}, xlabel="x", ylabel="y"),
        lambda: plots.curves({"a": ([0, 1], [1])}, xlabel="x", ylabel="y"),
        lambda: plots.confusion_matrix(np.eye(3), ["a", "b"]),
        lambda: plots.confusion_matrix(np.zeros((2, 3)), ["a", "b"]),
        lambda: plots.bars({}, xlabel="x"),
    ],
)
def test_nothing_to_draw_is_told_and_leaves_no_empty_figure(pyplot, draw):
    with pytest.raises(DataError):
        draw()
    assert pyplot.get_fignums() == []


def test_matrices_are_drawn_to_one_scale_with_their_signs():
    parts = {"W": np.eye(6), "B": np.zeros((6, 1)), "A": np.full((1, 4), -2.0)}
    ax = plots.matrices(parts, signs=("+", "×"), title="W + BA")
    drawn(ax)
    assert ax.get_aspect() == 1.0
    for image, each in zip(ax.images, parts.values(), strict=True):
        left, right, bottom, top = image.get_extent()
        assert (bottom - top, right - left) == pytest.approx(each.shape)  # one unit a number
        assert np.array_equal(image.get_array(), each)
        low, high = image.get_clim()
        assert low == -high < 0  # so that 0 is white
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["W", "+", "B", "×", "A"]
    assert ax.get_title() == "W + BA"


@pytest.mark.parametrize("parts", [{}, {"row": np.ones(3)}, {"empty": np.ones((0, 2))}])
def test_matrices_refuses_what_is_none(parts):
    with pytest.raises(DataError):
        plots.matrices(parts)
