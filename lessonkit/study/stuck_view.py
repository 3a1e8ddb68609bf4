"""The stuck timer as a panel of a notebook: what was tried, the hints, then the worked answer or a break."""

from __future__ import annotations

import html
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from lessonkit.exercises.showing import block, plain_text, rich_text
from lessonkit.study.panels import StudyPanel, as_html, countdown, shown
from lessonkit.study.stuck import (
    LEFT_AFTER,
    STUCK_MINUTES,
    Stuck,
    comfort,
    end_stuck,
    headline,
    log_text,
    start_stuck,
    stuck_log,
    take_hint,
    tell_tried,
)
from lessonkit.study.times import StudyError, at_most, utc

if TYPE_CHECKING:
    from ipywidgets import Button, Widget

    from lessonkit.exercises import Exercise
    from lessonkit.progress.journal import Journal

__all__ = ["StuckPanel", "stuck_panel"]

QUESTION = "What have you tried so far? A few words are enough."


def stuck_panel(
    journal: Journal,
    lesson: str = "",
    exercise: Exercise | None = None,
    tried: str = "",
    clock: Callable[[], datetime] = utc,
) -> StuckPanel:
    """Start the 15 minutes, or go on with those that run, and show them; where widgets are not drawn, text.

    exercise: on which one; None for anything else. tried: what was tried so far; the next hint comes at once.
    clock: gives the present moment, UTC. Raises JournalError where the journal can't be written.
    """
    return StuckPanel(journal, lesson, exercise, tried, clock)


class StuckPanel(StudyPanel):
    """The panel of ``stuck_panel``. ``widget`` is its ipywidgets root; its methods do the same without one."""

    def __init__(
        self,
        journal: Journal,
        lesson: str = "",
        exercise: Exercise | None = None,
        tried: str = "",
        clock: Callable[[], datetime] = utc,
    ) -> None:
        super().__init__(journal, clock)
        self.exercise = exercise
        now = clock()
        name = exercise.name if exercise is not None else ""
        self.stuck: Stuck = start_stuck(journal, lesson, name, tried, now)
        if tried.strip() and self._next_number() <= len(self._all_hints()):
            self._hint(now)

    def text(self) -> str:
        """Where the timer stands, the hints so far, and what to type next."""
        self._read(now := self._clock())
        lines = [headline(self.stuck, now), *map(plain_text, self._shown())]
        if self.stuck.ended is None:
            lines.append(self._call('tried="what I tried"', "", "keeps it, and gives the next hint"))
            if self.exercise is not None:
                lines.append(self._call("", ".hint()", "the next hint, when it is open"))
                lines.append(self._call("", ".solution()", "the worked answer"))
            lines.append(self._call("", '.end("solved")', 'ends this; or .end("break")'))
        return "\n".join(lines)

    def hint(self) -> None:
        """Print the next hint. Raises StudyError where it isn't open yet, or there is none."""
        print(self._hint(self._clock()))

    def solution(self) -> None:
        """Print the worked answer, and end. Raises StudyError where there is no exercise."""
        print(self._solution(self._clock()))

    def end(self, how: str = "stopped") -> None:
        """End: ``"solved"``, ``"break"`` or ``"stopped"``. Raises StudyError for another word."""
        print(self._end(self._clock(), how))

    def _build(self) -> Widget:
        from ipywidgets import HTML, Button, HBox, Layout, Textarea, VBox

        self._time, self._words, self._hints = HTML(), HTML(), HTML()
        self.tried = Textarea(
            description="I tried",
            placeholder="what you did, what you expected, what came instead",
            rows=3,
            layout=Layout(width="40em", max_width="100%"),
            style={"description_width": "5em"},
        )
        self.tried.tooltip = "What you tried; kept in your journal on this computer"

        def button(words: str, tip: str, action: Callable[[datetime], str]) -> Button:
            made = Button(description=words, tooltip=tip, layout=Layout(width="auto"))
            self._on_click(made, action)
            return made

        self.keep_button = button("Keep what I tried", "Keep it; the next hint opens", self._keep)
        self.hint_button = button("Next hint", "Show one more hint", lambda now: self._hint(now)[:0])
        self.solution_button = button(
            "Show the worked answer", "A right answer, and why", lambda now: self._solution(now)[:0]
        )
        self.break_button = button(
            "Take a break", "End with a break of 5 to 10 minutes", lambda now: self._end(now, "break")
        )
        self.end_button = button("I have it", "End: solved", lambda now: self._end(now, "solved"))
        row = {"flex_flow": "row wrap", "align_items": "flex-end"}
        self._ask = HBox([self.tried, self.keep_button], layout=Layout(**row))
        offers = [self.hint_button, self.solution_button, self.break_button, self.end_button]
        self._offers = HBox(offers, layout=Layout(**row))
        parts = [self._time, self._words, self._ask, self._hints, self._offers, self._said]
        return VBox(parts, layout=Layout(max_width="60em"))

    def _refresh(self, now: datetime) -> None:
        if self._changed() or now - self.stuck.last_sign > LEFT_AFTER:
            self._read(now)
        stuck, open_ = self.stuck, self.stuck.ended is None
        left, wait = stuck.remaining(now), stuck.hint_wait(now)
        counting = open_ and left > 0
        self._time.value = countdown(left, 1 - left / (60 * STUCK_MINUTES), "stuck timer") if counting else ""
        told = f"{comfort(stuck)} {QUESTION}" if counting else headline(stuck, now)
        self._words.value = f'<div role="status" aria-live="polite">{as_html(told)}</div>'
        more = self._next_number() <= len(self._all_hints())
        self.hint_button.disabled = bool(wait)
        self.hint_button.description = f"Next hint in {at_most(wait)}" if wait else "Next hint"
        shown(self.hint_button, more)
        shown(self.solution_button, self.exercise is not None and not (left and more))
        for part in (self._ask, self._offers):
            shown(part, open_)
        log = "" if open_ else f'<pre style="white-space:pre-wrap">{html.escape(log_text(stuck))}</pre>'
        self._hints.value = "".join([*map(rich_text, self._shown()), log])

    def _read(self, now: datetime) -> None:
        """Take this session from the journal: its exercise may have been passed in another cell."""
        same = [each for each in stuck_log(self.journal, now) if each.session == self.stuck.session]
        self.stuck = same[0] if same else self.stuck

    def _keep(self, now: datetime) -> str:
        self._running(now)
        self.stuck = tell_tried(self.journal, self.tried.value, now)
        self.tried.value = ""
        more = self._next_number() <= len(self._all_hints())
        return "Kept. The next hint is open." if more else "Kept."

    def _hint(self, now: datetime) -> str:
        self._running(now)
        hints = self._all_hints()
        hint = take_hint(self.journal, hints, self._given(), now)
        self._read(now)
        return plain_text(f"Hint {hint.number} of {len(hints)}: {hint.text}")

    def _solution(self, now: datetime) -> str:
        if self.exercise is None:
            fix = "lessonkit explain, for an error message"
            raise StudyError("There is no worked answer for this.", fix=fix)
        self._end(now, "solution")
        return plain_text(self._shown()[-1])

    def _end(self, now: datetime, how: str) -> str:
        self._running(now)
        end_stuck(self.journal, how, now)
        self._read(now)
        if how == "break":
            return "Good choice. Five to ten minutes, away from the screen. What you tried is kept."
        return "Well done. What you tried is kept: lessonkit stuck log" if how == "solved" else "Kept."

    def _running(self, now: datetime) -> None:
        """Raise StudyError where the session has ended: another one may be open, which isn't this panel's."""
        self._read(now)
        if self.stuck.ended is not None:
            raise StudyError("This stuck timer has ended already.", fix="run the cell again for a new one")

    def _all_hints(self) -> tuple[str, ...]:
        return self.exercise.hints if self.exercise is not None else ()

    def _given(self) -> int:
        """Hints that the exercise has shown by itself."""
        return self.exercise.hints_given if self.exercise is not None else 0

    def _next_number(self) -> int:
        return max([self._given(), *(each.number for each in self.stuck.hints)]) + 1

    def _shown(self) -> list[str]:
        """The hints so far, and the worked answer once it was asked for, as exercises write them."""
        hints = self._all_hints()
        so_far = enumerate(hints[: self._next_number() - 1], 1)
        lines = [f"**Hint {number} of {len(hints)}:** {hint}" for number, hint in so_far]
        if self.exercise is not None and self.stuck.how == "solution":
            lines.append(f"**A right answer:**\n{block(self.exercise.spoken())}\n{self.exercise.because}")
        return lines

    def _call(self, argument: str, method: str, does: str) -> str:
        given = [f'"{self.exercise.name}"'] if self.exercise is not None else []
        given += [argument] if argument else []
        return f"  lesson.stuck({', '.join(given)}){method}   # {does}"
