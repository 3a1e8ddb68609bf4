"""Small line charts as SVG text: no library, no colours of the page assumed, readable in print."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

__all__ = ["line_chart", "number"]

WIDTH, HEIGHT = 420, 180
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 34  # margins, in pixels; the labels stand in them
LEGEND, LONGEST_NAME = 140, 18  # pixels beside the lines for their names, and the letters that fit in
COLOURS = ("#1f77b4", "#d95f02", "#2a9d5c", "#a05195")  # each readable on white and on near-black
DASHES = ("none", "6 3", "2 3", "8 3 2 3")  # told apart without colour too
Points = Sequence[tuple[float, float]]


def line_chart(title: str, x_label: str, series: Mapping[str, Points], *, dots: bool = False) -> str:
    """The points of up to four named series as an SVG element; empty where there are no two finite points.

    dots: mark each point, for few points that are measurements of their own.
    """
    drawn = {name: _finite(points) for name, points in list(series.items())[: len(COLOURS)]}
    drawn = {name: points for name, points in drawn.items() if len(points) >= 2}
    if not drawn:
        return ""
    everything = [point for points in drawn.values() for point in points]
    across, down = _Scale(x for x, _ in everything), _Scale(y for _, y in everything)
    parts = [_frame(title, x_label, across, down)]
    for index, (name, points) in enumerate(drawn.items()):
        parts.append(_line(points, across, down, index, dots))
        if len(drawn) > 1:
            parts.append(_legend(name, index))
    width = WIDTH + (LEGEND if len(drawn) > 1 else 0)
    said = html.escape(f"{title}: {_spoken(drawn)}")
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" role="img" '
        f'aria-label="{said}" xmlns="http://www.w3.org/2000/svg">' + "".join(parts) + "</svg>"
    )


class _Scale:
    """From the least to the greatest value; a single value lies in the middle."""

    def __init__(self, values: object) -> None:
        kept = list(values)  # type: ignore[call-overload]
        self.low, self.high = min(kept), max(kept)

    def share(self, value: float) -> float:
        """0 at the least, 1 at the greatest."""
        half = self.high / 2 - self.low / 2  # halves, since the difference of huge numbers overflows
        return (value / 2 - self.low / 2) / half if half else 0.5


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _place(x: float, y: float, across: _Scale, down: _Scale) -> tuple[float, float]:
    right = LEFT + (WIDTH - LEFT - RIGHT) * across.share(x)
    low = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * down.share(y)
    return round(right, 1), round(low, 1)


def _line(points: Points, across: _Scale, down: _Scale, index: int, dots: bool) -> str:
    placed = [_place(x, y, across, down) for x, y in points]
    colour = COLOURS[index]
    path = " ".join(f"{x},{y}" for x, y in placed)
    line = (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" '
        f'stroke-dasharray="{DASHES[index]}"/>'
    )
    marks = (f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in placed) if dots else ()
    return line + "".join(marks)


def _frame(title: str, x_label: str, across: _Scale, down: _Scale) -> str:
    low, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    texts = [
        _text(LEFT, 14, title, "start", weight="bold"),
        _text(LEFT - 6, TOP + 8, number(down.high), "end"),
        _text(LEFT - 6, low, number(down.low), "end"),
        _text(LEFT, low + 14, number(across.low), "start"),
        _text(right, low + 14, number(across.high), "end"),
        _text((LEFT + right) / 2, low + 26, x_label, "middle"),
    ]
    axes = f'<path d="M{LEFT} {TOP}V{low}H{right}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>'
    return axes + "".join(texts)


def _legend(name: str, index: int) -> str:
    """A piece of the line, and its name in the page's own colour: small coloured letters are hard to read."""
    y, x = TOP + 16 * (index + 0.5), WIDTH
    sample = (
        f'<path d="M{x} {y:g}h22" fill="none" stroke="{COLOURS[index]}" stroke-width="1.8" '
        f'stroke-dasharray="{DASHES[index]}"/>'
    )
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return sample + _text(x + 27, y + 4, short, "start")


def _text(x: float, y: float, text: str, anchor: str, weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor"'
    return f'<text {place} font-size="11" font-family="sans-serif"{bold}>{html.escape(text)}</text>'


def _spoken(series: Mapping[str, Points]) -> str:
    """The chart for who can't see it."""
    return "; ".join(
        f"{name} from {number(points[0][1])} to {number(points[-1][1])}" for name, points in series.items()
    )


def number(value: float) -> str:
    """A number as short as it can be said: whole ones with commas, others to four figures."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"
