"""What a learner does to the progress: tick, untick, note, choose; each is one event in the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lessonkit.errors import JournalError, UnknownNameError
from lessonkit.progress.events import Event, local_time
from lessonkit.progress.folding import fold
from lessonkit.progress.journal import Journal
from lessonkit.progress.records import Progress

if TYPE_CHECKING:
    from lessonkit.curriculum import Curriculum

__all__ = [
    "Progress",
    "TickOutcome",
    "add_note",
    "check_about",
    "choose_path",
    "fold",
    "set_celebrate",
    "set_only",
    "tick",
    "untick",
]

LONGEST_NOTE = 100_000  # characters: some forty pages
ALL = ("", "all")  # what switches one-technique mode off


@dataclass(frozen=True)
class TickOutcome:
    """changed: whether an event was written; message: a sentence for the learner."""

    item: str
    changed: bool
    message: str
    event: Event | None = None


def tick(journal: Journal, curriculum: Curriculum, item: str, why: str = "") -> TickOutcome:
    """Tick a checklist item, or a lesson as done, by hand; ticking twice writes nothing.

    Raises:
        UnknownNameError: there is no such item or lesson.
    """
    title = _title(curriculum, item)
    before = _ticks_of(journal, curriculum, item).ticked.get(item)
    if before is not None:
        how = "by hand" if before.by == "hand" else "by what you ran"
        message = f"{title!r} is already ticked ({how}, {local_time(before.time)})."
        return TickOutcome(item, False, message)
    event = journal.append("tick", item=item, by="hand", why=why)
    return TickOutcome(item, True, f"Ticked: {title!r}.", event)


def untick(journal: Journal, curriculum: Curriculum, item: str, why: str = "") -> TickOutcome:
    """Take a tick back; what isn't ticked stays so and writes nothing.

    Raises:
        UnknownNameError: there is no such item or lesson.
    """
    title = _title(curriculum, item)
    if item not in _ticks_of(journal, curriculum, item).ticked:
        return TickOutcome(item, False, f"{title!r} is not ticked.")
    event = journal.append("untick", item=item, by="hand", why=why)
    return TickOutcome(item, True, f"Unticked: {title!r}.", event)


def add_note(journal: Journal, curriculum: Curriculum, text: str, about: str = "") -> Event:
    """Keep a note of at most 100,000 characters; about: the id of an item, lesson or technique, or empty.

    Raises:
        JournalError: it is empty or too long. UnknownNameError: there is nothing of that name.
    """
    if not text.strip():
        raise JournalError("The note is empty.", fix='lessonkit note "what I found out"')
    if len(text) > LONGEST_NOTE:
        raise JournalError(
            f"The note has {len(text):,} characters; {LONGEST_NOTE:,} are the limit. It was not kept.",
            why="every command reads the whole journal",
            fix="save the text as a file of its own, and note where it lies",
        )
    check_about(curriculum, about)
    return journal.append("note", text=text, about=about)


def check_about(curriculum: Curriculum, about: str) -> None:
    """Raise UnknownNameError where there is no lesson, technique or item of that name; none at all is fine."""
    everything = (*curriculum.techniques, *curriculum.lessons, *curriculum.items)
    names = [each.id for each in everything]
    if about and about not in names:
        techniques = ", ".join(each.id for each in curriculum.techniques)
        fix = f"a technique ({techniques}), or a name from `lessonkit lessons` or `lessonkit progress`"
        raise UnknownNameError("lesson, technique or item", about, names, fix=fix)


def choose_path(journal: Journal, curriculum: Curriculum, path: str) -> Event:
    """Make a path the chosen one. Raises UnknownNameError."""
    return journal.append("path", path=curriculum.path(path).id)


def set_only(journal: Journal, curriculum: Curriculum, technique: str) -> Event:
    """Show one technique only; ``""`` or ``"all"`` shows all again. Raises UnknownNameError."""
    chosen = "" if technique in ALL else curriculum.technique(technique).id
    return journal.append("only", technique=chosen)


def set_celebrate(journal: Journal, on: bool) -> Event:
    """Whether a completed item or path is celebrated."""
    return journal.append("setting", name="celebrate", value=bool(on))


def _ticks_of(journal: Journal, curriculum: Curriculum, item: str) -> Progress:
    """What the ticks and unticks of one item add up to, without reading the rest of the journal."""
    return fold(journal.read("tick", "untick", holding=json.dumps(item)).events, curriculum)


def _title(curriculum: Curriculum, name: str) -> str:
    """The text of an item, or the title of a lesson."""
    titles = {lesson.id: lesson.title for lesson in curriculum.lessons}
    titles |= {item.id: item.text for item in curriculum.items}
    if name not in titles:
        fix = "lessonkit progress shows the items of your path"
        raise UnknownNameError("checklist item", name, titles, fix=fix)
    return titles[name]
