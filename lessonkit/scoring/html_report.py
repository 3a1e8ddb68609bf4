"""The evaluation as one HTML page: scores, slices, classes, confusion, calibration, and a browser of all errors.

The page itself is ``report.html.jinja``; Jinja escapes all that is put into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from lessonkit.scoring.predicting import Prediction

__all__ = ["report_page"]

MOST_ERRORS = 500
LONGEST_TEXT = 1500

# The script only hides rows; it reads nothing and sends nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def report_page(predictions: Sequence[Prediction], found: dict[str, Any]) -> str:
    """The page. found: what ``metrics.json`` holds. It needs no other file and no network."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("lessonkit.scoring").joinpath("report.html.jinja").read_text(encoding="utf-8")
    wrong = sorted((each for each in predictions if not each.right), key=lambda each: -each.confidence)
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(source)
    return template.render(
        m=found,
        f=lambda value: f"{value:.3f}",
        errors=wrong[:MOST_ERRORS],
        more=len(wrong) if len(wrong) > MOST_ERRORS else 0,
        longest=LONGEST_TEXT,
        policy=POLICY,
    )
