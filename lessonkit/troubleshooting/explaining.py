"""Say what an error means and what to do: as text for a terminal, as HTML for a notebook."""

from __future__ import annotations

import html
import re
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

from lessonkit.errors import LessonkitError
from lessonkit.troubleshooting.entry import PAGE, Entry
from lessonkit.troubleshooting.matching import match, nearest_entries
from lessonkit.troubleshooting.reading import errors_in

__all__ = ["Explanation", "explain"]

WIDTH = 96
NEXT_STEPS = (
    "Read the last line once more, slowly: it names what was wrong. The lines above it say where; the one in your "
    "own code matters most.",
    "Print the types, shapes and first values of what that line of yours works with.",
    "Restart the kernel and run the cells from the top: many odd errors end there.",
    "Make it smaller until it works (two rows, one step), then add back until it breaks.",
    "Give it 15 minutes, with a clock: `lessonkit stuck`. Then a break; that is part of the method.",
)


@dataclass(frozen=True)
class Explanation:
    """What is known about an error.

    said: the error's first line. entry: the known error, or None. perhaps: known errors that are alike.
    own_words: set where the error says itself what to do.
    """

    said: str
    entry: Entry | None = None
    perhaps: tuple[Entry, ...] = ()
    own_words: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For a program to read."""
        entry = self.entry
        return {
            "said": self.said,
            "known": entry is not None,
            "id": entry.id if entry else "",
            "title": entry.title if entry else "",
            "meaning": entry.meaning if entry else "",
            "cause": entry.cause if entry else "",
            "cure": list(entry.cure) if entry else [],
            "before": entry.before if entry else "",
            "after": entry.after if entry else "",
            "seen_with": entry.seen_with if entry else "",
            "link": entry.link if entry else "",
            "perhaps": [each.id for each in self.perhaps],
            "next_steps": [] if entry else list(NEXT_STEPS),
            "own_words": self.own_words,
        }

    def __str__(self) -> str:
        if self.own_words:
            return (
                f"{self.own_words}\n\nThis error comes from lessonkit itself; its last line says what to do."
            )
        return "\n".join(_known(self) if self.entry else _unknown(self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if self.own_words:
            return f"<div style='white-space: pre-wrap'>{html.escape(str(self))}</div>"
        parts = _known_html(self) if self.entry else _unknown_html(self)
        return f'<div role="note" style="{FRAME}">{"".join(parts)}</div>'


def explain(error: BaseException | str | None = None) -> Explanation:
    """What an error means and how to mend it.

    error: an exception, a message or a pasted traceback; left out, the last one that this Python showed.
    """
    if error is None:
        error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        if error is None:
            raise LessonkitError(
                "There is no error to explain: none was shown since this Python started.",
                fix='after a cell has failed, lessonkit.explain(); or lessonkit.explain("the text of the message")',
            )
    if isinstance(error, LessonkitError):
        return Explanation(type(error).__name__, own_words=str(error))
    first = errors_in(error)[0]
    said, entry = first.first_line, match(error)
    if entry is None and "\nNext: " in first.message:  # one of lessonkit's, pasted
        return Explanation(said, own_words=first.message)
    return Explanation(said, entry, () if entry else tuple(nearest_entries(error)))


def _lesson(entry: Entry) -> str:
    """The title of the lesson that teaches it; empty until that is written."""
    from lessonkit.curriculum import load_curriculum

    lesson = load_curriculum(check_files=False).lesson(entry.lesson) if entry.lesson else None
    return f"{lesson.title} ({lesson.id})" if lesson and lesson.written else ""


# ---- Text ------------------------------------------------------------------------------------------


def _known(explanation: Explanation) -> list[str]:
    entry = explanation.entry
    lines = [entry.title, *_wrapped(explanation.said, "  "), ""]
    lines += [
        *_wrapped(f"What it means: {entry.meaning}"),
        "",
        *_wrapped(f"Why it happens: {entry.cause}"),
        "",
    ]
    lines += ["What to do:", *_steps(entry.cure)]
    for name, code in (("Before", entry.before), ("After", entry.after)):
        if code:
            lines += ["", f"{name}:", textwrap.indent(code.strip("\n"), "    ")]
    lines += ["", f"Also in {entry.link}" + (f" (seen with {entry.seen_with})" if entry.packages else "")]
    lesson = _lesson(entry)
    return [*lines, f"Taught in the lesson {lesson}"] if lesson else lines


def _unknown(explanation: Explanation) -> list[str]:
    lines = ["This error is not among the known ones.", *_wrapped(explanation.said, "  ")]
    if explanation.perhaps:
        lines += ["", "Perhaps one of these is close:"]
        lines += [f"  {each.title}: lessonkit explain {each.id}" for each in explanation.perhaps]
    return [*lines, "", "What helps with any error:", *_steps(NEXT_STEPS), "", f"The known ones: {PAGE}"]


def _steps(steps: tuple[str, ...]) -> list[str]:
    lines = []
    for number, step in enumerate(steps, 1):
        lines += textwrap.wrap(step, WIDTH, initial_indent=f"  {number}. ", subsequent_indent="     ")
    return lines


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


# ---- HTML: colours are those of the page around it -----------------------------------------------------

FRAME = "border-left: 4px solid currentColor; padding: 0.2em 1em; max-width: 52em; color: inherit"
CODE = "background: transparent; color: inherit; border: 1px solid; padding: 0.5em; overflow-x: auto"


def _rich(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _list(steps: tuple[str, ...]) -> str:
    return "<ol>" + "".join(f"<li>{_rich(step)}</li>" for step in steps) + "</ol>"


def _known_html(explanation: Explanation) -> list[str]:
    entry = explanation.entry
    parts = [
        f"<p><strong>{_rich(entry.title)}</strong><br><code>{html.escape(explanation.said)}</code></p>",
        f"<p><em>What it means.</em> {_rich(entry.meaning)}</p>",
        f"<p><em>Why it happens.</em> {_rich(entry.cause)}</p>",
        f"<p><em>What to do.</em></p>{_list(entry.cure)}",
    ]
    for name, code in (("Before", entry.before), ("After", entry.after)):
        if code:
            parts.append(f'<p><em>{name}</em></p><pre style="{CODE}">{html.escape(code.strip())}</pre>')
    lesson = _lesson(entry)
    taught = f" Taught in the lesson {html.escape(lesson)}." if lesson else ""
    return [*parts, f"<p><small>Also in {entry.link}.{taught}</small></p>"]


def _unknown_html(explanation: Explanation) -> list[str]:
    parts = [
        "<p><strong>This error is not among the known ones.</strong><br>"
        f"<code>{html.escape(explanation.said)}</code></p>"
    ]
    if explanation.perhaps:
        close = "".join(f"<li>{_rich(each.title)}: {each.link}</li>" for each in explanation.perhaps)
        parts.append(f"<p>Perhaps one of these is close:</p><ul>{close}</ul>")
    return [
        *parts,
        f"<p>What helps with any error:</p>{_list(NEXT_STEPS)}<p><small>The known ones: {PAGE}</small></p>",
    ]
