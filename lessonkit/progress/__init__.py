"""What a learner has done: the journal keeps it, the tracker says what it adds up to, the report shows it.

journal = Journal()
reading = journal.read()
progress = fold(reading.events, load_curriculum())
"""

from lessonkit.progress.events import SCHEMA, Event, Problem, Reading
from lessonkit.progress.journal import Journal, MergeReport, journal_path
from lessonkit.progress.report import render_text, to_dict
from lessonkit.progress.tracker import (
    Note,
    Progress,
    Run,
    Suggestion,
    Tick,
    TickOutcome,
    choose_path,
    evidence_ticks,
    evidence_why,
    fold,
    record_evidence,
    tick,
    untick,
)

__all__ = [
    "SCHEMA",
    "Event",
    "Journal",
    "MergeReport",
    "Note",
    "Problem",
    "Progress",
    "Reading",
    "Run",
    "Suggestion",
    "Tick",
    "TickOutcome",
    "choose_path",
    "evidence_ticks",
    "evidence_why",
    "fold",
    "journal_path",
    "record_evidence",
    "render_text",
    "tick",
    "to_dict",
    "untick",
]
