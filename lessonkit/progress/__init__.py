"""What a learner has done: the journal keeps it, the tracker says what it adds up to, the report shows it.

journal = Journal()
reading = journal.read()
progress = fold(reading.events, load_curriculum())
"""

from lessonkit.progress.events import SCHEMA, Event, Problem, Reading
from lessonkit.progress.evidence import evidence_ticks, evidence_why, record_evidence
from lessonkit.progress.folding import fold
from lessonkit.progress.journal import Journal, MergeReport, journal_path
from lessonkit.progress.records import Done, Note, Progress, Run, Tick, Work
from lessonkit.progress.report import render_text, to_dict
from lessonkit.progress.suggestions import Suggestion
from lessonkit.progress.tracker import (
    TickOutcome,
    add_note,
    check_about,
    choose_path,
    set_celebrate,
    set_only,
    tick,
    untick,
)

__all__ = [
    "SCHEMA",
    "Done",
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
    "Work",
    "add_note",
    "check_about",
    "choose_path",
    "evidence_ticks",
    "evidence_why",
    "fold",
    "journal_path",
    "record_evidence",
    "render_text",
    "set_celebrate",
    "set_only",
    "tick",
    "to_dict",
    "untick",
]
