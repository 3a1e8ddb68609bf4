"""Progress that is kept up to date in place: a bar and a loss curve in a notebook, text elsewhere."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Sequence

__all__ = ["LiveLine", "in_notebook", "loss_curve"]

SECONDS_BETWEEN_UPDATES = 0.5
TEXT_SHARE = 0.1  # without a terminal, a new line of text for each tenth of the way
CURVE_POINTS = 120
WIDTH, HEIGHT = 360, 90  # of the curve, in pixels; its frame is the same


def in_notebook() -> bool:
    """Whether output goes to a Jupyter front end (or nbclient, which stands for one)."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return any(
        each.__name__ == "ZMQInteractiveShell" for each in type(shell).__mro__
    )  # Colab's is made from it


class LiveLine:
    """``update(share, text)`` and ``note(text)`` as often as you like, then ``close(text)`` once.

    In a notebook all of it is one output that is drawn anew in place, with the text as its plain form.
    """

    def __init__(self) -> None:
        self._notebook = in_notebook()
        self._handle = None
        self._shown_at = 0.0
        self._shown_share = -1.0
        self._notes: list[str] = []
        self._line: tuple[float | None, str] = (None, "")
        self._curve = ""

    @property
    def due(self) -> bool:
        """Whether an update would be shown now in a notebook; spares drawing what nobody sees."""
        return self._notebook and time.monotonic() - self._shown_at >= SECONDS_BETWEEN_UPDATES

    def update(
        self,
        share: float,
        text: str,
        *,
        force: bool = False,
        losses: Sequence[tuple[int, float]] = (),
        steps: int = 0,
    ) -> None:
        """share: how much is done, 0 to 1. losses: (step, loss) for the curve; steps: of the whole training."""
        now = time.monotonic()
        if self._notebook or sys.stderr.isatty():
            due = now - self._shown_at >= SECONDS_BETWEEN_UPDATES
        else:
            due = share - self._shown_share >= TEXT_SHARE
        if due or force:
            self._shown_at, self._shown_share = now, share
            self._show(share, text, end="\r", losses=losses, steps=steps)

    def note(self, text: str) -> None:
        """A line of its own, which stays."""
        self._notes.append(text)
        if self._notebook:
            self._display(*self._line)
        else:
            self._print(text, end="\n")

    def close(self, text: str, *, losses: Sequence[tuple[int, float]] = (), steps: int = 0) -> None:
        """Replace the line with a last one, which stays."""
        self._show(None, text, end="\n", losses=losses, steps=steps)

    def _show(
        self, share: float | None, text: str, end: str, losses: Sequence[tuple[int, float]], steps: int
    ) -> None:
        if not self._notebook:
            self._print(text, end)
            return
        if losses:
            self._curve = loss_curve(losses, steps)
        self._line = (share, text)
        self._display(share, text)

    def _print(self, text: str, end: str) -> None:
        terminal = sys.stderr.isatty()
        print(
            f"{text:<78}" if terminal else text,
            end=end if terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def _display(self, share: float | None, text: str) -> None:
        from IPython.display import display

        bar = (
            "" if share is None else f'<progress value="{share:.4f}" max="1" style="width:16em"></progress> '
        )
        lines = [f"<div>{html.escape(note)}</div>" for note in self._notes]
        lines += [f"<div>{bar}{html.escape(text)}</div>"] if text else []
        content = {
            "text/plain": "\n".join([*self._notes, *filter(None, [text])]),
            "text/html": "".join(lines) + self._curve,
        }
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def loss_curve(losses: Sequence[tuple[int, float]], steps: int = 0) -> str:
    """An SVG of the loss by step; ``steps`` is the right end, if more than were done.

    Many steps are averaged down to at most 120 points. Empty for fewer than two points.
    """
    points = _binned(losses)
    if len(points) < 2:
        return ""
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    first, end = points[0][0], max(steps, points[-1][0])

    def place(step: float, loss: float) -> str:
        across = 4 + (WIDTH - 8) * (step - first) / max(1e-9, end - first)
        down = 14 + (HEIGHT - 30) * (high - loss) / max(1e-12, high - low)
        return f"{across:.1f},{down:.1f}"

    line = " ".join(place(*point) for point in points)
    said = f"Training loss from {points[0][1]:.3f} to {points[-1][1]:.3f}, by step"
    label = 'font-size="10" font-family="sans-serif" fill="currentColor"'
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">'
        f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="1.5"/>'
        f'<text x="4" y="10" {label}>loss {high:.3f}</text>'
        f'<text x="4" y="{HEIGHT - 2}" {label}>{low:.3f}</text>'
        f'<text x="{WIDTH - 4}" y="{HEIGHT - 2}" text-anchor="end" {label}>step {end:,.0f}</text></svg>'
    )


def _binned(losses: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    size = -(-len(losses) // CURVE_POINTS) or 1
    groups = [losses[at : at + size] for at in range(0, len(losses), size)]
    return [
        (sum(step for step, _ in each) / len(each), sum(loss for _, loss in each) / len(each))
        for each in groups
    ]
