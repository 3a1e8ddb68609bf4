"""What a learner has done: the journal keeps it, the tracker says what it adds up to.

journal = Journal()
reading = journal.read()
progress = fold(reading.events, load_curriculum())
"""

from lessonkit.progress.journal import SCHEMA, Event, Journal, MergeReport, Problem, Reading, journal_path
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
    render_text,
    tick,
    to_dict,
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
