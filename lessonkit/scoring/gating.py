"""May the new model replace the old one? Compared text by text, with an answer that may be "can't tell"."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lessonkit.errors import DataError
from lessonkit.evaluation import Comparison, bootstrap_interval, compare_classifiers
from lessonkit.scoring.running import Evaluation, read_evaluation

__all__ = ["Gate", "both_evaluations", "gate"]

WORSE_SLICE = 0.05  # how much accuracy any label may lose before it is told


@dataclass
class Gate:
    """verdict: "better", "worse" or "can't tell" of the candidate. passed: whether it may replace the champion.
    comparison: see ``compare_classifiers``. reasons: in words. slices: labels on which the candidate is surely worse.
    """

    verdict: str
    passed: bool
    comparison: Comparison
    reasons: list[str] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(
            [f"{'PASSED' if self.passed else 'NOT PASSED'}: the candidate is {self._said()}.", *self.reasons]
        )

    def _said(self) -> str:
        return "not told apart from the champion" if self.verdict == "can't tell" else self.verdict

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "verdict": self.verdict,
            "passed": self.passed,
            "reasons": self.reasons,
            "slices": self.slices,
            "comparison": self.comparison.to_dict(),
        }


def gate(
    candidate: Evaluation | str | Path,
    champion: Evaluation | str | Path,
    *,
    allow_equal: bool = False,
    margin: float = 0.0,
) -> Gate:
    """Compare two evaluations of the same texts by the paired bootstrap (see ``compare_classifiers``).

    allow_equal: pass where no difference can be told, provided that the candidate is surely no more than ``margin`` worse:
    the whole interval of the difference in accuracy lies above -margin. Without it, only "better" passes. A candidate that
    surely loses more than 5 points on any label never passes.
    Raises DataError if the two have not scored the same texts.
    """
    one, other = both_evaluations(candidate, champion)
    if not 0 <= margin < 1:
        raise DataError(f"margin is {margin}, not a share of the texts.", fix="pass margin=0.01, say")
    numbers = {name: place for place, name in enumerate(one.metrics["names"])}
    numbers |= {
        name: len(numbers) + place for place, name in enumerate(set(other.metrics["names"]) - set(numbers))
    }
    columns = (
        [numbers[each.label] for each in one.predictions],
        [numbers[each.prediction] for each in one.predictions],
        [numbers[each.prediction] for each in other.predictions],
    )
    comparison = compare_classifiers(*columns, names=("the candidate", "the champion"))
    lost = _lost_labels(one, other)
    reasons = [str(comparison)]
    low = comparison.interval[0]
    passed = comparison.verdict == "better"
    if comparison.verdict == "can't tell" and allow_equal:
        passed = low > -margin
        reasons.append(
            f"Equal would do: it is surely no more than {margin:.3f} worse."
            if passed
            else f"Equal would do, but it may be up to {-low:.3f} worse; the margin is {margin:.3f}. Score more texts."
        )
    if lost:
        passed = False
        reasons.append(f"It surely loses more than {WORSE_SLICE:.0%} of: {', '.join(lost)}.")
    return Gate(comparison.verdict, passed, comparison, reasons, lost)


def both_evaluations(
    candidate: Evaluation | str | Path, champion: Evaluation | str | Path
) -> tuple[Evaluation, Evaluation]:
    """Both as objects. Raises DataError if they have not scored the same texts, in the same order."""
    one, other = (
        each if isinstance(each, Evaluation) else read_evaluation(each) for each in (candidate, champion)
    )
    if one.metrics["data_sha256"] != other.metrics["data_sha256"]:
        raise DataError(
            "The two evaluations are not of the same texts.",
            why=f"{one.metrics['n']:,} and {other.metrics['n']:,} texts, with other fingerprints",
            fix="evaluate both models on the same file, with the same --limit",
        )
    return one, other


def _lost_labels(one: Evaluation, other: Evaluation) -> list[str]:
    """Labels of which more is surely lost than allowed: the bootstrap says so, and McNemar's test that it is no luck.

    The bootstrap alone would be sure after two texts, both lost.
    """
    from scipy.stats import binomtest

    lost = []
    for label in one.metrics["names"]:
        changes = [
            float(a.right) - float(b.right)
            for a, b in zip(one.predictions, other.predictions, strict=True)
            if a.label == label
        ]
        ups, downs = changes.count(1.0), changes.count(-1.0)
        if downs <= ups or binomtest(ups, ups + downs).pvalue >= 0.05:
            continue
        if bootstrap_interval(changes)[1] < -WORSE_SLICE:
            lost.append(f"{label} ({sum(changes) / len(changes):+.3f}, n = {len(changes):,})")
    return lost
