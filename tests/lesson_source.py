"""The lessons' own text, so that a test runs what a learner reads."""

from __future__ import annotations

import ast
from pathlib import Path

LESSONS = Path(__file__).resolve().parents[1] / "lessons"


def lesson_text(lesson: str) -> str:
    """The source of ``"lora/beginner"``: its room, a slash, its level."""
    return (LESSONS / f"{lesson}.py").read_text(encoding="utf-8")


def statement(lesson: str, name: str) -> str:
    """The lesson's own text of a top-level function or class, or of the first assignment to a name."""
    text = lesson_text(lesson)
    for node in ast.parse(text).body:
        targets = [getattr(target, "id", "") for target in getattr(node, "targets", [])]
        if getattr(node, "name", "") == name or name in targets:
            return ast.get_source_segment(text, node)
    raise AssertionError(f"{lesson} has no {name}")
