"""Pictures of the lessons: each takes data and returns the matplotlib ``Axes``, to change at will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lessonkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

__all__ = ["bars", "confusion_matrix", "curves"]

# Okabe and Ito's colours: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":", "-.")


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


def _axes(width: float, height: float) -> Axes:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    figure.set_facecolor("white")  # readable under a dark theme too
    ax.set_facecolor("white")
    ax.grid(True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
