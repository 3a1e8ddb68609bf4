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


BOXES = {
    "one": [("in", "frozen"), ("down", "trained", 0.3), ("out", "frozen")],
    "two": [("in", "frozen")],
}


class TestFlow:
    def test_each_box_stands_in_its_column_in_order_with_its_width(self):
        ax = plots.flow(BOXES, around={"one": [(0, 2)]})
        drawn(ax)
        placed = {
            text.get_text(): text.get_position() for text in ax.texts if text.get_text() in ("down", "out")
        }
        assert placed["down"][0] == placed["out"][0]
        assert placed["down"][1] > placed["out"][1]
        outlines = [patch for patch in ax.patches if not patch.get_fill()]
        assert len(outlines) == 4
        assert min(patch.get_width() for patch in outlines) == pytest.approx(0.27)

    def test_kinds_are_told_apart_and_the_way_around_is_drawn(self):
        ax = plots.flow(BOXES, around={"one": [(0, 2)]})
        drawn(ax)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["frozen", "trained"]
        assert len({patch.get_hatch() for patch in ax.patches if patch.get_fill()}) == 2
        assert len(ax.lines) == 1
        assert len(plots.flow(BOXES).lines) == 0

    def test_nothing_to_draw_is_told(self):
        with pytest.raises(DataError, match="no box"):
            plots.flow({"one": []})


class TestHeatMap:
    def test_each_number_stands_in_its_cell_and_a_missing_one_stays_empty(self):
        ax = plots.heat_map(
            [[1.0, 2.0, float("nan")], [4.0, 5.0, 6.0]], ["a", "b"], ["x", "y", "z"], fmt="{:g}"
        )
        drawn(ax)
        placed = {text.get_text(): text.get_position() for text in ax.texts}
        assert placed == {"1": (0, 0), "2": (1, 0), "4": (0, 1), "5": (1, 1), "6": (2, 1)}
        assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]

    def test_two_tables_can_share_one_scale(self):
        ax = plots.heat_map([[1.0]], ["a"], ["x"], limits=(0, 4))
        assert ax.images[0].get_clim() == (0, 4)

    def test_a_table_of_another_shape_is_told(self):
        with pytest.raises(DataError, match="2 rows and 1 columns"):
            plots.heat_map([[1.0, 2.0]], ["a", "b"], ["x"])


def test_tokens_stand_in_lines_one_box_each():
    pieces = ["<start>", "user", "\n", *[f" word{number}" for number in range(20)], "$5", "<end>"]
    groups = ["masked"] * 3 + ["counted"] * 22
    ax = plots.tokens(pieces, groups, characters=40, title="A row")
    drawn(ax)
    shown = [text.get_text() for text in ax.texts]
    assert shown[:3] == ["<start>", "user", "\\n"]
    assert len(shown) == len(ax.patches) == len(pieces)
    lines = {round(text.get_position()[1]) for text in ax.texts}
    assert lines == set(range(len(lines)))
    assert len(lines) >= 5  # the line break ends one, 20 words fill several
    assert max(patch.get_x() + patch.get_width() for patch in ax.patches) <= 40
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["masked", "counted"]
    first, last = ax.patches[0], ax.patches[-1]
    assert first.get_facecolor() != last.get_facecolor()
    assert first.get_hatch() != last.get_hatch()  # told apart without colours too


@pytest.mark.parametrize(("pieces", "groups"), [([], []), (["a", "b"], ["x"])])
def test_tokens_need_a_group_each(pieces, groups):
    with pytest.raises(DataError):
        plots.tokens(pieces, groups)


class TestHistogram:
    def test_a_density_has_the_area_that_lies_within_the_limits(self):
        values = [*[0.0] * 6, *[1.0] * 2, *[9.0] * 2]
        ax = plots.histogram(values, limits=(-1, 2), bins=30)
        drawn(ax)
        bars, edges, _ = ax.patches[0].get_data()
        assert sum(bars) * (edges[1] - edges[0]) == pytest.approx(0.8)  # the two beyond count, unseen
        assert ax.get_xlim() == (-1, 2)

    def test_rulers_stand_below_it_each_with_its_name(self):
        rulers = {"even": [-1.0, 0.0, 1.0], "one": [0.5]}
        ax = plots.histogram([-1.0, 0.0, 1.0], rulers=rulers, curve=("flat", [-1, 1], [0.5, 0.5]))
        drawn(ax)
        assert [text.get_text() for text in ax.texts] == ["even", "one"]
        marks = [[segment[0][0] for segment in each.get_segments()] for each in ax.collections]
        assert marks == list(rulers.values())
        assert all(segment[1][1] < 0 for each in ax.collections for segment in each.get_segments())
        assert min(ax.get_yticks()) >= 0
        assert ax.get_legend().get_texts()[0].get_text() == "flat"

    @pytest.mark.parametrize(("values", "limits"), [([], None), ([2.0, 2.0], None), ([1.0, 2.0], (3, 3))])
    def test_nothing_to_draw_is_told(self, values, limits):
        with pytest.raises(DataError):
            plots.histogram(values, limits=limits)


TRIALS = {
    "rate": [1e-4, 1e-3, 1e-2, 1e-2],
    "rank": [1, 8, 4, 2],
    "targets": ["some", "all", "some", "all"],
}


def test_parallel_coordinates_lead_each_trial_through_its_settings_to_its_value():
    values = [0.2, 0.4, 0.3, np.nan]
    ax = plots.parallel_coordinates(TRIALS, values, label="accuracy", logarithmic=["rate"], chosen=1)
    drawn(ax)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["rate", "rank", "targets", "accuracy"]
    lines = {tuple(np.round(line.get_ydata(), 4)): line for line in ax.lines if len(line.get_xdata()) == 4}
    assert len(lines) == 4
    best = lines[0.5, 1.0, 0.75, 1.0]
    assert best.get_linewidth() == max(line.get_linewidth() for line in lines.values())
    assert (0.0, 0.0, 0.25, 0.0) in lines
    (pruned,) = (line for heights, line in lines.items() if np.isnan(heights[-1]))
    assert pruned.get_linestyle() == "--"
    colours = {str(line.get_color()) for line in lines.values()}
    assert len(colours) == 4
    texts = [text.get_text() for text in ax.texts]
    assert {"0.0001", "0.001", "0.01", "some", "all", "0.2", "0.4"} <= set(texts)


def test_parallel_coordinates_draw_the_best_trial_last_and_one_value_in_the_middle():
    ax = plots.parallel_coordinates({"same": [3, 3], "other": [1, 2]}, [0.9, 0.1], label="score")
    drawn(ax)
    lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert list(lines[-1].get_ydata()) == [0.5, 0.0, 1.0]


@pytest.mark.parametrize(
    ("columns", "values", "logarithmic"),
    [
        ({}, [0.1], ()),
        ({"rate": [0.1, 0.2]}, [0.1], ()),
        ({"rate": [0.1, 0.2]}, [np.nan, np.nan], ()),
        ({"rate": [0.0, 0.2]}, [0.1, 0.2], ("rate",)),
    ],
)
def test_parallel_coordinates_refuse_what_cannot_be_drawn(pyplot, columns, values, logarithmic):
    with pytest.raises(DataError):
        plots.parallel_coordinates(columns, values, label="score", logarithmic=logarithmic)
    assert pyplot.get_fignums() == []
