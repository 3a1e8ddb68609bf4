"""What the study panels share: live widgets in a notebook, the same as text everywhere else."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lessonkit.errors import LessonkitError
from lessonkit.live import in_notebook
from lessonkit.study.ticking import follow, unfollow
from lessonkit.study.times import at_most, utc

if TYPE_CHECKING:
    from ipywidgets import HTML, Button, Widget

    from lessonkit.progress.journal import Journal

__all__ = ["StudyPanel", "as_html", "countdown", "shown"]

VIEW = "application/vnd.jupyter.widget-view+json"


class StudyPanel:
    """A panel on a session of the journal; make it a cell's last line to see it, ``print`` shows text.

    journal: where the sessions are. clock: gives the present moment, UTC.
    Subclasses write ``text``, ``_build`` and ``_refresh``.
    """

    def __init__(self, journal: Journal, clock: Callable[[], datetime] = utc) -> None:
        self.journal = journal
        self._clock = clock
        self._lock = threading.RLock()  # a tick and a click come from two threads
        self._seen: tuple = ()
        self._clicked: datetime | None = None

    def text(self) -> str:
        """All of it as plain text, with what to type next."""
        raise NotImplementedError

    def _build(self) -> Widget:
        """The widgets, without what changes."""
        raise NotImplementedError

    def _refresh(self, now: datetime) -> None:
        """Bring the widgets up to date."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **_kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": self.text()}
        if in_notebook():
            try:
                live = self.widget._repr_mimebundle_() or {}
            except ImportError:  # without ipywidgets the text has to do
                live = {}
            bundle |= {kind: view for kind, view in live.items() if kind == VIEW}
        return bundle

    @cached_property
    def widget(self) -> Widget:
        """The live panel, an ipywidgets box that keeps itself up to date. Raises ImportError without ipywidgets."""
        from ipywidgets import HTML

        self._said: HTML = HTML()
        root = self._build()
        self._refresh(self._clock())
        follow(self)
        return root

    def close(self) -> None:
        """Take the panel away; the session goes on."""
        unfollow(self)
        if "widget" in self.__dict__:
            with self._lock:
                self.widget.close()

    def tick(self) -> None:
        """Show the present moment, and what was done elsewhere."""
        with self._lock:
            try:
                self._refresh(self._clock())
            except LessonkitError as error:  # the journal can't be read just now
                self._say(str(error))

    def _on_click(self, button: Button, action: Callable[[datetime], str]) -> None:
        """Let a button do something; what it returns, and what went wrong, is shown."""
        button.on_click(lambda _button: self._do(action))

    def _do(self, action: Callable[[datetime], str]) -> None:
        with self._lock:
            now = self._clock()
            try:
                told = action(now)
                self._refresh(now)
            except LessonkitError as error:
                told = str(error)
            except Exception as error:  # nobody else would see it
                told = f"That did not work. {type(error).__name__}: {error}"
            self._say(told)

    def _say(self, text: str) -> None:
        self._said.value = f'<div role="status" aria-live="polite">{as_html(text)}</div>' if text else ""

    def _changed(self) -> bool:
        """Whether the journal's file is another one than when last asked."""
        try:
            found = self.journal.path.stat()
            seen: tuple = (found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError as error:
            seen = (type(error).__name__,)
        changed, self._seen = seen != self._seen, seen
        return changed


def countdown(seconds: float, share: float, name: str) -> str:
    """Time left and a bar, as HTML; in the page's own colours. Screen readers read it when asked, not each second."""
    left = at_most(seconds)
    minutes, rest = left.split(":")
    spoken = html.escape(f"{name}: {minutes} minutes {int(rest)} seconds left")
    return (
        f'<div><span role="timer" aria-live="off" aria-label="{spoken}" style="font-size:1.8em;'
        f'font-variant-numeric:tabular-nums;line-height:1.3">{left}</span> '
        f'<progress aria-hidden="true" value="{share:.4f}" max="1" style="width:14em;max-width:60%"></progress></div>'
    )


def as_html(text: str) -> str:
    """Text as HTML, line by line."""
    return "<br>".join(html.escape(line) for line in text.splitlines())


def shown(widget: Any, yes: bool) -> None:
    """Show a widget or hide it; what is hidden can't be reached by keyboard either."""
    widget.layout.display = None if yes else "none"
