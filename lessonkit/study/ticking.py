"""Panels that keep up with the clock and the journal, while no cell runs and while one does.

One thread for all of them ticks once a second. What it changes in a widget goes straight to the front end, so
a countdown goes on during a training. A click is another matter: a kernel takes it up when the cell that runs
has ended.
"""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = ["MOST_PANELS", "Ticking", "follow", "followed", "unfollow"]

SECONDS = 1.0
MOST_PANELS = 6  # a cell that is run again makes another panel; the oldest no longer move

_lock = threading.Lock()
_panels: list[Ticking] = []
_wake = threading.Event()
_thread: threading.Thread | None = None


class Ticking(Protocol):
    """What has a ``tick``."""

    def tick(self) -> None:
        """Show the present moment."""


def follow(panel: Ticking) -> None:
    """Tick a panel once a second until ``unfollow``, or until it raises: nobody can see it any more."""
    global _thread
    with _lock:
        if panel not in _panels:
            _panels.append(panel)
        del _panels[:-MOST_PANELS]
        if _thread is None or not _thread.is_alive():
            _wake.clear()
            _thread = threading.Thread(target=_run, name="lessonkit-study", daemon=True)
            _thread.start()


def unfollow(panel: Ticking) -> None:
    """Leave a panel as it is; the thread ends with the last one."""
    with _lock:
        if panel in _panels:
            _panels.remove(panel)
        if not _panels:
            _wake.set()


def followed(panel: Ticking) -> bool:
    """Whether a panel is ticked."""
    with _lock:
        return panel in _panels


def _run() -> None:
    global _thread
    while True:
        _wake.wait(SECONDS)
        with _lock:
            panels = list(_panels)
            if not panels:
                _thread = None  # under the lock: who comes next starts a new one
                return
            _wake.clear()
        for panel in panels:
            try:
                panel.tick()
            except Exception:  # its widgets are closed, or the kernel is shutting down
                unfollow(panel)
