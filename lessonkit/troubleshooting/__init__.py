"""Known errors of this stack: what they mean, and the cure. ``lessonkit explain`` and the page are made of them."""

from __future__ import annotations

from lessonkit.troubleshooting.entries import ENTRIES, TOPICS
from lessonkit.troubleshooting.entry import Entry
from lessonkit.troubleshooting.explaining import Explanation, explain
from lessonkit.troubleshooting.matching import match, nearest_entries

__all__ = ["ENTRIES", "TOPICS", "Entry", "Explanation", "explain", "match", "nearest_entries"]
