"""Small files written for this course, to practise on; the texts have some of the dirt that real ones have.

| file | what is in it |
|---|---|
| ``support-messages.csv`` | messages to a shop's support desk, with their topic: four classes, about 30 each |
| ``orders.jsonl`` | orders in plain words, and the line that the kitchen's program wants: instruction pairs |
| ``pipeline.py``, ``pipeline.toml`` | from raw texts to a saved model with its card, resumable; what it shall do |
"""

from __future__ import annotations

from pathlib import Path

from lessonkit.errors import UnknownNameError

__all__ = ["sample_file", "sample_names"]

SUFFIXES = (".csv", ".jsonl", ".py", ".toml")
FOLDER = Path(__file__).resolve().parent


def sample_names() -> list[str]:
    """The files that lie ready."""
    return sorted(
        each.name for each in FOLDER.iterdir() if each.name != "__init__.py" and each.suffix in SUFFIXES
    )


def sample_file(name: str) -> Path:
    """Where a sample file lies; copy it before you change it. Raises UnknownNameError for one that isn't there."""
    if name not in sample_names():
        raise UnknownNameError("sample file", name, sample_names())
    return FOLDER / name
