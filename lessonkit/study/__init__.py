"""Study aids: a focus timer, a timer for being stuck, and one technique at a time.

What they know is a fold of the journal's events, so a restarted kernel, another notebook and the command
line all see the same session.
"""

from __future__ import annotations

from lessonkit.study.focus import Focus, current_focus, focus_log, start_focus, stop_focus
from lessonkit.study.stuck import Stuck, current_stuck, end_stuck, start_stuck, stuck_log, tell_tried
from lessonkit.study.times import StudyError

__all__ = [
    "Focus",
    "Stuck",
    "StudyError",
    "current_focus",
    "current_stuck",
    "end_stuck",
    "focus_log",
    "start_focus",
    "start_stuck",
    "stop_focus",
    "stuck_log",
    "tell_tried",
]
