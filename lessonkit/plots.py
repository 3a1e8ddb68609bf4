"""Pictures of the lessons: each takes data and returns the matplotlib ``Axes``, to change at will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lessonkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

__all__ = ["bars", "confusion_matrix", "curves", "stacked_bars"]

# Okabe and Ito's colours: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":", "-.")
HATCHES = ("", "//", "..", "\\\\", "xx", "--")  # told apart without colours too


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Lines over a common axis: ``{name: (x values, y values)}``, both of one length."""
    if not series:
        raise DataError("There is no curve to draw.", fix="pass at least one {name: (x, y)}")
    for name, (x, y) in series.items():
        if len(x) != len(y):
            raise DataError(f"The curve {name!r} has {len(x)} x values and {len(y)} y values.")
    ax = ax or _axes(6.5, 3.4)
    for index, (name, (x, y)) in enumerate(series.items()):
        marker = "o" if len(x) < 25 else None
        ax.plot(
            x,
            y,
            label=name,
            color=COLOURS[index % len(COLOURS)],
            linestyle=STYLES[index % len(STYLES)],
            marker=marker,
            markersize=4,
            linewidth=2,
        )
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(series) > 1:
        ax.legend(frameon=False)
    return ax


def confusion_matrix(counts: np.ndarray, names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Counts of shape (classes, classes), row true and column predicted, coloured by the row's share."""
    import numpy as np

    matrix = np.asarray(counts)
    if matrix.shape != (len(names), len(names)):
        raise DataError(f"A confusion matrix for {len(names)} names cannot have the shape {matrix.shape}.")
    ax = ax or _axes(1.6 + 0.6 * len(names), 1.2 + 0.5 * len(names))
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(matrix > 0):
        colour = "white" if share[row, column] > 0.5 else "black"
        ax.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", color=colour, fontsize=9)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="predicted", ylabel="true")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def bars(
    values: Mapping[str, float], *, xlabel: str, title: str = "", fmt: str = "{:.3f}", ax: Axes | None = None
) -> Axes:
    """Horizontal bars, one a name, first on top, each labelled with its value."""
    if not values:
        raise DataError("There is no bar to draw.", fix="pass at least one {name: value}")
    ax = ax or _axes(6.5, 0.8 + 0.3 * len(values))
    drawn = ax.barh(list(values), list(values.values()), color=COLOURS[0])
    ax.bar_label(drawn, labels=[fmt.format(value) for value in values.values()], padding=4, fontsize=9)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set(xlabel=xlabel, title=title)
    ax.grid(False)
    return ax


def stacked_bars(
    parts: Mapping[str, Mapping[str, float]],
    *,
    xlabel: str,
    title: str = "",
    chosen: str = "",
    ends: Mapping[str, str] | None = None,
    limit: tuple[str, float] | None = None,
    marks: Mapping[str, float] | None = None,
    fmt: str = "{:.1f}",
    ax: Axes | None = None,
) -> Axes:
    """Horizontal bars made of parts, ``{bar: {part: value}}``, first on top; values of 0 or more, in one unit.

    chosen: the bar to set off from the others. ends: a text at a bar's end, in place of its sum; a bar without
    parts shows that alone. limit: (text, x) of a strong vertical line; where it lies far beyond the bars, an arrow
    tells of it. marks: {text: x} of thin vertical lines; those beyond the axis are left out.
    """
    if not parts:
        raise DataError("There is no bar to draw.", fix="pass at least one {name: {part: value}}")
    if any(value < 0 for each in parts.values() for value in each.values()):
        raise DataError("A part of a bar is negative.", fix="pass values of 0 or more")
    ax = ax or _axes(7.5, 1.8 + 0.36 * len(parts))
    sums = {name: sum(each.values()) for name, each in parts.items()}
    right = _right_end(max(sums.values()), limit)
    ends = {**{name: fmt.format(value) for name, value in sums.items()}, **(ends or {})}
    names = list(dict.fromkeys(part for each in parts.values() for part in each))
    for place, (bar, each) in enumerate(parts.items()):
        _stack(ax, place, each, names, fmt, smallest=0.06 * right, chosen=bar == chosen)
        weight = "bold" if bar == chosen else "normal"
        at = sums[bar] + 0.01 * right
        ax.text(at, place, ends[bar], va="center", fontsize=9, weight=weight, bbox=_behind_text(), zorder=5)
    ax.set_yticks(range(len(parts)), [f"▶ {bar}" if bar == chosen else bar for bar in parts])
    for text, bar in zip(ax.get_yticklabels(), parts, strict=True):
        text.set_weight("bold" if bar == chosen else "normal")
    ax.set(xlabel=xlabel, xlim=(0, right), ylim=(len(parts) - 0.4, -0.6))
    rows = _vertical_lines(ax, right, limit, marks or {})
    ax.set_title(title, fontsize=10, pad=6 + 13 * rows)
    ax.grid(False)
    if names:
        handles, labels = ax.get_legend_handles_labels()
        first = dict(reversed(list(zip(labels, handles, strict=True))))
        ax.legend(
            [first[name] for name in names],
            names,
            ncols=min(3, len(names)),
            frameon=False,
            fontsize=9,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.24),
        )
    return ax


def _right_end(widest: float, limit: tuple[str, float] | None) -> float:
    """Room for the texts at the bars' ends, and for the limit unless the bars would become slivers."""
    right = 1.4 * widest or 1.0
    if limit is not None and limit[1] <= 4 * widest:
        right = max(right, 1.08 * limit[1])
    return right


def _stack(
    ax: Axes,
    place: int,
    parts: Mapping[str, float],
    names: Sequence[str],
    fmt: str,
    *,
    smallest: float,
    chosen: bool,
) -> None:
    """One bar: its parts from the left, each labelled where it is at least ``smallest`` wide."""
    left, height = 0.0, 0.78 if chosen else 0.5
    for name, value in parts.items():
        index = names.index(name)
        look = {"color": COLOURS[index % len(COLOURS)], "hatch": HATCHES[index % len(HATCHES)]}
        ax.barh(place, value, left=left, height=height, edgecolor="white", linewidth=0.6, label=name, **look)
        if value >= smallest:
            middle = left + value / 2
            ax.text(
                middle, place, fmt.format(value), ha="center", va="center", fontsize=8, bbox=_behind_text()
            )
        left += value
    if chosen:
        ax.barh(place, left, height=height, fill=False, edgecolor="black", linewidth=2)


def _behind_text() -> dict:
    return {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2}


def _vertical_lines(
    ax: Axes, right: float, limit: tuple[str, float] | None, marks: Mapping[str, float]
) -> int:
    """Draw them with their texts above the bars; returns how many rows of text that took."""
    across = ax.get_xaxis_transform()

    def write(x: float, row: int, text: str, **look: object) -> None:
        side = "left" if x < 0.15 * right else "right" if x > 0.85 * right else "center"
        place = {"xy": (x, 1), "xycoords": across, "xytext": (0, 2 + 13 * row), "textcoords": "offset points"}
        ax.annotate(text, ha=side, va="bottom", fontsize=9, annotation_clip=False, **place, **look)

    seen = {text: x for text, x in marks.items() if 0 < x <= right}
    if limit is not None and limit[1] <= right:
        ax.axvline(limit[1], color="black", linewidth=2.5, zorder=4)
        write(limit[1], 0, limit[0], weight="bold")
    elif limit is not None:
        write(right, 0, f"{limit[0]}, far to the right →", weight="bold")
    for text, x in seen.items():
        ax.axvline(x, color="#555555", linewidth=1, linestyle="--", zorder=1)
        write(x, 1 if limit else 0, text, color="#333333")
    return bool(limit) + bool(seen)


def _axes(width: float, height: float) -> Axes:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    figure.set_facecolor("white")  # readable under a dark theme too
    ax.set_facecolor("white")
    ax.grid(True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
