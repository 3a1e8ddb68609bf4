"""The study clock: how long a person worked in a notebook, told by when its cells were run.

Up to 15 minutes between two signs of life (a cell begins or ends) count as study, reading included. What is
longer counts as a break, but for its first 5 minutes. At most one event is written every 5 minutes, and one
at the end of the kernel. Two notebooks used side by side each count their own.

Only a person's time is counted: a front end in which somebody sits can answer ``input()``, and says so with
each cell that it sends; nbclient, nbval and the like cannot. So neither ``lessonkit run`` nor the build of
the notebooks nor a test of them writes anything.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from typing import Any

from lessonkit.errors import JournalError
from lessonkit.progress.journal import Journal

__all__ = ["StudyClock", "attended", "start_clock"]

LONGEST_GAP = 15 * 60  # seconds that still count as study
BREAK_COUNTS = 5 * 60  # seconds of a longer gap that count
WRITE_EVERY = 5 * 60
LEAST_WORTH_WRITING = 30


class StudyClock:
    """Counts the seconds of study of one lesson. ``beat()`` at each sign of life, ``flush()`` at the end.

    now: a clock in seconds that is never put back. tell: says once that the journal can't be written.
    """

    def __init__(
        self,
        journal: Journal,
        lesson: str,
        *,
        now: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.journal, self.lesson = journal, lesson
        self._now, self._tell = now, tell
        self._last_beat = self._last_write = now()
        self._seconds = 0.0
        self._told = False
        self._process = os.getpid()

    def beat(self) -> None:
        """Count the time since the last sign of life, and write what has come together from time to time."""
        now = self._now()
        gap = max(0.0, now - self._last_beat)
        self._last_beat = now
        self._seconds += gap if gap <= LONGEST_GAP else BREAK_COUNTS
        if now - self._last_write >= WRITE_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what has been counted since the last event, if it is half a minute or more."""
        if self._seconds < LEAST_WORTH_WRITING or os.getpid() != self._process:  # a fork has no lesson
            return
        self._last_write = self._now()
        try:
            self.journal.append("work", lesson=self.lesson, seconds=round(self._seconds))
        except JournalError as error:  # kept, and tried again with the next event
            if not self._told:
                self._told = True
                self._tell(f"Note: your study time is not being kept. {error}")
            return
        self._seconds = 0.0


def attended(shell: Any) -> bool:
    """Whether a person sits at the front end that sent this cell: one that can answer ``input()``."""
    kernel = getattr(shell, "kernel", None)
    try:
        return bool(kernel.get_parent("shell")["content"].get("allow_stdin"))  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError):
        return False


_clock: StudyClock | None = None
_hooked: Any = None


def start_clock(journal: Journal, lesson: str) -> StudyClock | None:
    """Begin to count for a lesson in this kernel, in place of the lesson before; None outside a kernel."""
    global _clock, _hooked
    shell = _shell()
    if shell is None or not attended(shell):
        return None
    if _clock is not None:
        if (_clock.lesson, _clock.journal.path) == (lesson, journal.path):
            return _clock  # the first cell was run once more
        _clock.flush()
    _clock = StudyClock(journal, lesson)
    if _hooked is not shell:
        shell.events.register("pre_run_cell", _beat)
        shell.events.register("post_run_cell", _beat)
        atexit.register(_flush)
        _hooked = shell
    return _clock


def _beat(*_: Any) -> None:
    if _clock is not None:
        _clock.beat()


def _flush() -> None:
    if _clock is not None:
        _clock.beat()
        _clock.flush()


def _shell() -> Any:
    """IPython's shell in this kernel, or None; IPython is not loaded for it."""
    import sys

    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module else None
    return shell if getattr(shell, "kernel", None) is not None else None
