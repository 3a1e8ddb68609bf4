"""One line of progress that is kept up to date: a bar in a notebook, text elsewhere."""

from __future__ import annotations

import html
import sys
import time

__all__ = ["LiveLine", "in_notebook"]

SECONDS_BETWEEN_UPDATES = 0.5
TEXT_SHARE = 0.1  # without a terminal, a new line of text for each tenth of the way


def in_notebook() -> bool:
    """Whether output goes to a Jupyter front end (or nbclient, which stands for one)."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"


class LiveLine:
    """``update(share, text)`` as often as you like, then ``close(text)`` once."""

    def __init__(self) -> None:
        self._notebook = in_notebook()
        self._handle = None
        self._shown_at = 0.0
        self._shown_share = -1.0

    def update(self, share: float, text: str, *, force: bool = False) -> None:
        """share: how much is done, 0 to 1."""
        now = time.monotonic()
        if self._notebook or sys.stderr.isatty():
            due = now - self._shown_at >= SECONDS_BETWEEN_UPDATES
        else:
            due = share - self._shown_share >= TEXT_SHARE
        if due or force:
            self._shown_at, self._shown_share = now, share
            self._show(share, text, end="\r")

    def close(self, text: str) -> None:
        """Replace the line with a last one, which stays."""
        self._show(None, text, end="\n")

    def _show(self, share: float | None, text: str, end: str) -> None:
        if not self._notebook:
            terminal = sys.stderr.isatty()
            print(
                f"{text:<78}" if terminal else text,
                end=end if terminal else "\n",
                file=sys.stderr,
                flush=True,
            )
            return
        from IPython.display import display

        bar = (
            "" if share is None else f'<progress value="{share:.4f}" max="1" style="width:16em"></progress> '
        )
        content = {"text/plain": text, "text/html": f"<div>{bar}{html.escape(text)}</div>"}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
