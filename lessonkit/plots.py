"""Pictures of the lessons: each takes data and returns the matplotlib ``Axes``, to change at will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lessonkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

__all__ = [
    "bars",
    "confusion_matrix",
    "curves",
    "flow",
    "heat_map",
    "histogram",
    "matrices",
    "parallel_coordinates",
    "stacked_bars",
    "tokens",
]

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


def matrices(
    parts: Mapping[str, np.ndarray], *, signs: Sequence[str] = (), title: str = "", ax: Axes | None = None
) -> Axes:
    """Matrices side by side, all to one scale: ``{name: numbers of shape (rows, columns)}``.

    Red is above 0, blue below, white is 0; the darkest colour is each matrix's own 99th percentile of sizes.
    signs: what stands between each matrix and the next, such as ``"+"``. A name may have several lines.
    """
    import numpy as np

    arrays = {name: np.asarray(each, dtype=float) for name, each in parts.items()}
    if not arrays:
        raise DataError("There is no matrix to draw.", fix="pass at least one {name: matrix}")
    for name, each in arrays.items():
        if each.ndim != 2 or not each.size:
            raise DataError(f"{name!r} has the shape {each.shape}: a matrix has rows and columns.")
    ax = ax or _axes(7.5, 3.4)
    tallest, left = max(len(each) for each in arrays.values()), 0.0
    gap = 0.32 * max(tallest, max(each.shape[1] for each in arrays.values()))
    for index, (name, each) in enumerate(arrays.items()):
        rows, columns = each.shape
        top = (tallest - rows) / 2
        most = float(np.quantile(np.abs(each), 0.99)) or 1.0
        edges = (left, left + columns, top + rows, top)
        ax.imshow(each, cmap="RdBu_r", vmin=-most, vmax=most, extent=edges)
        frame = {"color": "black", "linewidth": 0.8}
        ax.plot(
            [edges[0], edges[1], edges[1], edges[0], edges[0]], [top, top, edges[2], edges[2], top], **frame
        )
        below = {"xytext": (0, -4), "textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 9}
        ax.annotate(name, (left + columns / 2, edges[2]), **below)
        if index < min(len(signs), len(arrays) - 1):
            ax.text(
                left + columns + gap / 2, tallest / 2, signs[index], ha="center", va="center", fontsize=13
            )
        left += columns + gap
    ax.set(
        xlim=(-gap / 2, left - gap / 2), ylim=(1.15 * tallest, -0.02 * tallest), title=title, aspect="equal"
    )
    ax.set_axis_off()
    return ax


def flow(
    columns: Mapping[str, Sequence[tuple[str, str] | tuple[str, str, float]]],
    *,
    around: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Columns of boxes joined by arrows, read downwards: ``{column: [(text, kind), ...]}``, one colour a kind.

    A box may have a third entry, its width from 0 to 1. around: for a column, (from, to) pairs of box numbers: an
    arrow beside the boxes, from the output of one to another, as a residual connection goes.
    """
    boxes = [each for column in columns.values() for each in column]
    if not boxes:
        raise DataError("There is no box to draw.", fix="pass at least one {column: [(text, kind)]}")
    kinds = list(dict.fromkeys(kind for _, kind, *_ in boxes))
    most = max(len(column) for column in columns.values())
    ax = ax or _axes(3.3 * len(columns), 0.9 + 0.52 * most)
    for number, (name, column) in enumerate(columns.items()):
        x = 1.3 * number
        ax.text(x, 0.75, name, ha="center", va="center", weight="bold", fontsize=10)
        for place, (text, kind, *width) in enumerate(column):
            _box(ax, x, -place, text, kinds.index(kind), *width)
            if place + 1 < len(column):
                _arrow(ax, (x, -place - 0.32), (x, -place - 0.68))
        for start, end in (around or {}).get(name, ()):
            ax.plot([x, x + 0.56, x + 0.56], [-start - 0.5, -start - 0.5, -end], color="#444444", linewidth=1)
            _arrow(ax, (x + 0.56, -end), (x + 0.45 * _width(column[end]), -end))
    for index, kind in enumerate(kinds):
        ax.bar(
            0,
            0,
            label=kind,
            alpha=0.45,
            color=COLOURS[index % len(COLOURS)],
            hatch=HATCHES[index % len(HATCHES)],
        )
    ax.legend(ncols=len(kinds), frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, 0.02))
    ax.set(title=title, xlim=(-0.62, 1.3 * len(columns) - 0.62), ylim=(-most + 0.4, 1.1))
    ax.set_axis_off()
    return ax


def tokens(
    pieces: Sequence[str],
    groups: Sequence[str],
    *,
    characters: int = 100,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A text's tokens as boxes, read line by line, one colour and hatch for each group, such as masked and counted.

    pieces: the tokens as text; a line break is shown as ``\\n``, and ends the line. groups: one name a token.
    characters: of a line.
    """
    if not pieces or len(pieces) != len(groups):
        raise DataError(
            f"There are {len(pieces)} tokens and {len(groups)} groups.", fix="give each token one"
        )
    from matplotlib.patches import Rectangle

    names, places, line, left = list(dict.fromkeys(groups)), [], 0, 0.0
    for piece in pieces:
        shown = piece.replace("\n", "\\n")
        width = len(shown) + 1.2
        if left + width > characters and left:
            line, left = line + 1, 0.0
        places.append((left, line, width, shown))
        line, left = (line + 1, 0.0) if "\n" in piece else (line, left + width)
    lines = places[-1][1] + 1
    ax = ax or _axes(0.095 * characters, 0.7 + 0.3 * lines)
    for (x, y, width, shown), group in zip(places, groups, strict=True):
        index = names.index(group)
        colour = COLOURS[index % len(COLOURS)]
        box = Rectangle((x, y - 0.42), width - 0.25, 0.84, edgecolor=colour, linewidth=1, label=group)
        box.set(facecolor=(*_rgb(colour), 0.25), hatch=(2 * HATCHES[index % len(HATCHES)]) or None)
        ax.add_patch(box)
        ax.text(
            x + width / 2 - 0.12,
            y,
            shown.replace("$", r"\$"),
            ha="center",
            va="center",
            fontsize=8.5,
            family="monospace",
            bbox=_behind_text(),
        )
    handles, labels = ax.get_legend_handles_labels()
    first = dict(reversed(list(zip(labels, handles, strict=True))))
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0)}
    ax.legend([first[name] for name in names], names, ncols=len(names), frameon=False, fontsize=9, **place)
    ax.set(title=title, xlim=(-0.5, characters), ylim=(lines - 0.4, -0.6))
    ax.set_axis_off()
    return ax


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    fmt: str = "{:.3f}",
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A table of numbers, shape (rows, columns), coloured by value; a NaN's cell stays grey and empty.

    limits: the values of the palest and the darkest colour, so that two tables can share one scale; left out, the
    smallest and the largest value.
    """
    import numpy as np

    table = np.asarray(values, dtype=float)
    if table.shape != (len(rows), len(columns)) or not table.size:
        what = f"A table of {len(rows)} rows and {len(columns)} columns cannot have the shape {table.shape}."
        raise DataError(what)
    known = table[np.isfinite(table)]
    low, high = limits or ((known.min(), known.max()) if known.size else (0.0, 1.0))
    ax = ax or _axes(2.0 + 0.95 * len(columns), 1.2 + 0.5 * len(rows))
    ax.set_facecolor("#eeeeee")
    ax.imshow(table, cmap="Blues", vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "white" if value - low > 0.55 * (high - low) else "black"
            text = {"ha": "center", "va": "center", "color": colour, "fontsize": 9}
            ax.text(column, row, fmt.format(value), **text)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def parallel_coordinates(
    columns: Mapping[str, Sequence[float | str]],
    values: Sequence[float],
    *,
    label: str,
    logarithmic: Sequence[str] = (),
    chosen: int | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """One line a trial, through its settings and on to its value: ``{setting: one entry a trial}``.

    values: a number a trial, which also colours its line; a NaN's line is grey, thin, and ends at the last setting.
    label: what the values are. A setting's entries are numbers or texts; texts stand in order of appearance.
    logarithmic: the settings to draw so. chosen: the number of the trial whose line is set off.
    """
    import numpy as np

    scores = np.asarray(values, dtype=float)
    if not columns or not np.isfinite(scores).any():
        raise DataError(
            "There is no trial with a value to draw.", fix="pass {setting: entries} and their values"
        )
    for name, entries in columns.items():
        if len(entries) != len(scores):
            raise DataError(f"{name!r} has {len(entries)} entries, and there are {len(scores)} values.")
    axes = [_upright(name, entries, name in logarithmic) for name, entries in columns.items()]
    axes.append(_upright(label, scores.tolist(), False))
    heights = np.array([each for each, _ in axes])  # (axes, trials), 0 at the bottom and 1 at the top
    import matplotlib.pyplot as plt

    ax = ax or _axes(1.6 * len(axes) + 0.6, 3.6)
    order = sorted(
        range(len(scores)), key=lambda each: (np.isfinite(scores[each]), scores[each])
    )  # best on top
    for each in order:
        if np.isfinite(scores[each]):
            look = {"color": plt.get_cmap("viridis_r")(0.9 * heights[-1, each]), "linewidth": 1.8}
        else:
            look = {"color": "#999999", "linewidth": 0.8, "linestyle": "--"}
        if each == chosen:
            look |= {"linewidth": 4, "zorder": 3}
        ax.plot(range(len(axes)), heights[:, each], **look)
    for place, (_, ticks) in enumerate(axes):
        ax.axvline(place, color="#444444", linewidth=1, zorder=1)
        for height, text in ticks:
            at = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8, "zorder": 5}
            ax.annotate(text, (place, height), bbox=_behind_text(), **at)
    ax.set_xticks(range(len(axes)), [*columns, label])
    ax.set_yticks([])
    ax.set(title=title, xlim=(-0.15, len(axes) - 0.45), ylim=(-0.06, 1.06))
    ax.tick_params(axis="x", length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def _upright(
    name: str, entries: Sequence[float | str], logarithmic: bool
) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights from 0 to 1, one an entry, and (height, text) of the ticks of such an axis."""
    import numpy as np

    if any(isinstance(each, str) for each in entries):
        kinds = list(dict.fromkeys(str(each) for each in entries))
        places = {kind: (place + 0.5) / len(kinds) for place, kind in enumerate(kinds)}
        return [places[str(each)] for each in entries], [(height, kind) for kind, height in places.items()]
    numbers = np.asarray(entries, dtype=float)
    known = numbers[np.isfinite(numbers)]
    if logarithmic and (known <= 0).any():
        raise DataError(f"{name!r} has a number of 0 or less, which has no place on a logarithmic axis.")
    scaled = np.log(numbers) if logarithmic else numbers
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    if low == high:
        return np.where(np.isfinite(scaled), 0.5, np.nan).tolist(), [(0.5, f"{known[0]:.3g}")]
    ticks = []
    for height in (0.0, 0.5, 1.0):
        at = low + height * (high - low)
        ticks.append((height, f"{np.exp(at) if logarithmic else at:.2g}"))
    return ((scaled - low) / (high - low)).tolist(), ticks


def histogram(
    values: Sequence[float],
    *,
    rulers: Mapping[str, Sequence[float]] | None = None,
    curve: tuple[str, Sequence[float], Sequence[float]] | None = None,
    limits: tuple[float, float] | None = None,
    bins: int = 100,
    xlabel: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """How often values occur, as a density; NumPy arrays and tensors will do.

    rulers: ``{name: positions}``, each a row of marks below the histogram, with its name. curve: (name, x, y) of a line
    to compare with. limits: of the x axis; values beyond are left out of the picture, not of the density.
    """
    import numpy as np

    numbers = np.asarray(values, dtype=float).ravel()
    if not numbers.size:
        raise DataError("There is nothing to count in the histogram.", fix="pass at least one value")
    low, high = limits or (float(numbers.min()), float(numbers.max()))
    if not low < high:
        raise DataError(f"A histogram from {low:g} to {high:g} has no width.", fix="pass limits=(low, high)")
    counts, edges = np.histogram(numbers, bins=bins, range=(low, high))
    density = counts / (numbers.size * (edges[1] - edges[0]))
    ax = ax or _axes(7.5, 2.8 + 0.35 * len(rulers or {}))
    ax.stairs(density, edges, fill=True, color=COLOURS[0], alpha=0.45)
    if curve is not None:
        name, x, y = curve
        ax.plot(np.asarray(x), np.asarray(y), color="black", linewidth=1.5, label=name)
        ax.legend(frameon=False)
    top = float(density.max()) or 1.0
    for row, (name, positions) in enumerate((rulers or {}).items()):
        y, colour = -0.22 * top * (row + 1), COLOURS[(row + 1) % len(COLOURS)]
        ax.vlines(
            np.asarray(positions, dtype=float), y - 0.03 * top, y + 0.05 * top, color=colour, linewidth=2
        )
        ax.text(0.5 * (low + high), y + 0.06 * top, name, ha="center", va="bottom", fontsize=9, color=colour)
    ax.set(xlabel=xlabel, ylabel="density", title=title, xlim=(low, high))
    ax.set_yticks([each for each in ax.get_yticks() if 0 <= each <= 1.1 * top])
    return ax


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def _box(ax: Axes, x: float, y: float, text: str, kind: int, width: float = 1.0) -> None:
    from matplotlib.patches import Rectangle

    size = {"xy": (x - 0.45 * width, y - 0.32), "width": 0.9 * width, "height": 0.64}
    colour = COLOURS[kind % len(COLOURS)]
    ax.add_patch(
        Rectangle(**size, facecolor=colour, alpha=0.25, hatch=HATCHES[kind % len(HATCHES)], edgecolor=colour)
    )
    ax.add_patch(Rectangle(**size, fill=False, edgecolor="#333333"))
    ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=_behind_text())


def _width(box: tuple) -> float:
    return box[2] if len(box) > 2 else 1.0


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": "#444444", "shrinkA": 0, "shrinkB": 0}
    )


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
