"""The focus timer as a panel of a notebook."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from lessonkit.progress.journal import Journal
from lessonkit.study.focus import (
    FOCUS_MINUTES,
    LONGEST_FOCUS,
    LONGEST_REST,
    REST_MINUTES,
    Focus,
    days,
    focus_log,
    keep_words,
    sentence,
    session_line,
    start_focus,
    stop_focus,
    words,
)
from lessonkit.study.panels import StudyPanel, as_html, countdown, shown
from lessonkit.study.times import clock_time, minutes_in_all, said, utc

if TYPE_CHECKING:
    from ipywidgets import Widget

__all__ = ["FocusPanel", "focus_panel"]

LINES = 4  # of today's sessions
TWICE = timedelta(seconds=1)  # a second click that soon was a double click, or waited behind a running cell


def focus_panel(journal: Journal | None = None, clock: Callable[[], datetime] = utc) -> FocusPanel:
    """The focus timer: 25 minutes of work, 5 of rest, or what you set; where widgets are not drawn, text.

    journal: where sessions are kept, by default yours. clock: gives the present moment, UTC.
    Make it a cell's last line to see it. Sessions survive a restarted kernel, and the panel shows those that
    were started elsewhere: in another notebook, or with ``lessonkit focus start``.
    """
    return FocusPanel(Journal() if journal is None else journal, clock)


class FocusPanel(StudyPanel):
    """The panel of ``focus_panel``. ``widget`` is its ipywidgets root, ``button`` starts and stops."""

    def __init__(self, journal: Journal, clock: Callable[[], datetime] = utc) -> None:
        super().__init__(journal, clock)
        self._log: list[Focus] = []
        self._phase = ""

    def text(self) -> str:
        """Where the timer stands, today's sessions, and the commands."""
        now = self._clock()
        log = focus_log(self.journal, now)
        latest = log[-1] if log else None
        lines = [sentence(latest, now), *_today(log, now)]
        if latest is not None and latest.phase(now) != "over":
            lines.append('Stop: lessonkit focus stop --done "what I did"')
        else:
            lines.append('Start: lessonkit focus start --about "what for"   (25 minutes, then 5 off)')
        return "\n".join(lines)

    def _build(self) -> Widget:
        from ipywidgets import HTML, BoundedIntText, Button, HBox, Layout, Text, VBox

        wide = {"layout": Layout(width="26em", max_width="100%"), "style": {"description_width": "6em"}}
        short = {"layout": Layout(width="9em"), "style": {"description_width": "4em"}}
        self._time, self._words, self._day = HTML(), HTML(), HTML()
        self.about = Text(description="What for", placeholder="LoRA, section 2", **wide)
        self.about.tooltip = "What this session is for, in a few words"
        self.minutes = BoundedIntText(FOCUS_MINUTES, 1, LONGEST_FOCUS, description="Minutes", **short)
        self.minutes.tooltip = "Minutes of focus, 1 to 180"
        self.rest = BoundedIntText(REST_MINUTES, 0, LONGEST_REST, description="Break", **short)
        self.rest.tooltip = "Minutes of break after it, 0 to 60"
        self.done = Text(description="What I did", placeholder="read it, ran it, one question left", **wide)
        self.done.tooltip = "What you did in this session; kept in your journal on this computer"
        self.button = Button(description="Start", tooltip="Start the focus timer", button_style="primary")
        self.keep = Button(description="Keep", tooltip="Keep what you did in your journal")
        self._on_click(self.button, self._start_or_stop)
        self._on_click(self.keep, self._keep)
        row = {"flex_flow": "row wrap", "align_items": "center"}  # a layout each: one is hidden at a time
        self._plan = HBox([self.about, self.minutes, self.rest], layout=Layout(**row))
        self._report = HBox([self.done, self.keep], layout=Layout(**row))
        parts = [self._time, self._words, self._plan, self._report, self.button, self._said, self._day]
        return VBox(parts, layout=Layout(max_width="60em"))

    @property
    def latest(self) -> Focus | None:
        """The latest session, as last read."""
        return self._log[-1] if self._log else None

    def _refresh(self, now: datetime) -> None:
        if self._changed():
            self._log = focus_log(self.journal, now)
        self._log[-1:] = [each.at(now) for each in self._log[-1:]]
        latest = self.latest
        phase = latest.phase(now) if latest is not None else "over"
        if phase != self._phase:
            self._say("")
            self._phase = phase
        going = latest is not None and phase != "over"
        self._time.value = countdown(latest.remaining(now), latest.share(now), phase) if going else ""
        self._words.value = f'<div role="status" aria-live="polite">{as_html(words(latest, now))}</div>'
        self._day.value = f'<div style="opacity:.85">{as_html(chr(10).join(_today(self._log, now)))}</div>'
        stop = phase == "focus"
        self.button.description = "Stop" if stop else "Start"
        self.button.tooltip = "Stop; the time so far counts" if stop else "Start the focus timer"
        self.button.button_style = "" if stop else "primary"
        to_tell = phase == "rest" or (phase == "over" and latest is not None and self._untold(latest, now))
        shown(self._plan, not stop)
        shown(self._report, stop or to_tell)
        shown(self.keep, to_tell)

    def _untold(self, latest: Focus, now: datetime) -> bool:
        return not latest.done and latest.seconds >= 60 and now - latest.started < timedelta(hours=6)

    def _start_or_stop(self, now: datetime) -> str:
        offered = self.button.description
        if self._clicked is not None and timedelta() <= now - self._clicked < TWICE:
            return ""
        self._clicked = now
        if offered == "Stop":
            return self._stop(now)
        self._keep(now)  # what was typed for the last one isn't lost
        begun = start_focus(self.journal, self.about.value, self.minutes.value, self.rest.value, now)
        self._phase = "focus"
        return f"Started. The timer ends by itself at {clock_time(begun.focus_end)}, whatever else runs."

    def _stop(self, now: datetime) -> str:
        stopped = stop_focus(self.journal, self.done.value, now)
        self._phase = "over"
        self.done.value = ""
        if stopped is None or stopped.ended is None:
            return "It had ended already, as planned; its time counts."
        return f"Stopped after {said(stopped.seconds)}. That time counts."

    def _keep(self, now: datetime) -> str:
        if not self.done.value.strip():
            return "Write a few words first; or leave it, the time counts without them."
        kept = keep_words(self.journal, self.done.value, now)
        if kept is None:
            return "There is no session of today to add this to. lessonkit note keeps it as a note."
        self.done.value = ""
        return "Kept."


def _today(log: list[Focus], now: datetime) -> list[str]:
    """Today's sum and latest sessions; empty where there are none yet."""
    today = days(log).get(f"{now.astimezone():%Y-%m-%d}", [])
    if not today:
        return []
    minutes = minutes_in_all(each.seconds for each in today)
    told = [session_line(each) for each in today[-LINES:]]
    return [f"Today: {said(60 * minutes)} in {len(today)} session{'s' * (len(today) > 1)}", *told]
