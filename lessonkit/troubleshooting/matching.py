"""Find the known error that an exception or a pasted text shows."""

from __future__ import annotations

import re
from collections import Counter

from lessonkit.troubleshooting.entries import ENTRIES
from lessonkit.troubleshooting.entry import Entry
from lessonkit.troubleshooting.reading import Told, errors_in

__all__ = ["entries_of", "match", "nearest_entries"]

COMMON = 0.25  # a word that stands in more of the entries than this says nothing
LIKE_ENOUGH = 0.3
LONGEST = 20_000  # characters of a message that are searched


def match(source: BaseException | str) -> Entry | None:
    """The known error, or None.

    source: an exception, a message, or a traceback as text. The error itself is looked for first, then
    what led to it.
    """
    first, *causes = errors_in(source)
    return next(iter(entries_of(first)), None) or next(
        (entry for error in causes for entry in entries_of(error) if not entry.general), None
    )


def entries_of(error: Told) -> list[Entry]:
    """The entries that fit one error, its causes left aside; more than one would be a mistake of ours."""
    if not (error.kinds or error.message):
        return []
    message = error.message[:LONGEST]
    found = [entry for entry in ENTRIES if entry.fits(message, error.kinds)]
    if not found and len(error.kinds) == 1:  # from a text, which does not say what the class is derived from
        found = [entry for entry in ENTRIES if not entry.general and entry.fits(message)]
    return found


def nearest_entries(source: BaseException | str, count: int = 3) -> list[Entry]:
    """Entries whose example shares telling words with the error, most alike first; often none."""
    error = errors_in(source)[0]
    said = _words(error.first_line + " " + error.message[:2000])
    known = {entry.id: _words(f"{' '.join(entry.errors)} {entry.example} {entry.title}") for entry in ENTRIES}
    spread = Counter(word for words in known.values() for word in words)
    telling = {word for word in said if spread[word] <= COMMON * len(ENTRIES)}
    weights = {word: 1 / (1 + spread[word]) for word in telling}
    whole = sum(weights.values())

    def likeness(entry: Entry) -> float:
        shared = telling & known[entry.id]
        return sum(weights[word] for word in shared) / whole if whole and len(shared) > 1 else 0.0

    ranked = sorted(ENTRIES, key=likeness, reverse=True)
    return [entry for entry in ranked[:count] if likeness(entry) >= LIKE_ENOUGH]


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z_]{3,}", text.lower()) if word not in ("error", "the", "and")}
