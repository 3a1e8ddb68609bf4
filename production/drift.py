"""Did the traffic change? Tests of a window against a reference, each with a threshold whose false alarms are counted.

A p-value assumes independent requests. Real traffic comes in bursts of one topic, so windows differ by more than it
allows for. The thresholds here come from windows of the reference itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lessonkit.errors import DataError

__all__ = [
    "STATISTICS",
    "Finding",
    "Threshold",
    "calibrate",
    "confidence_distance",
    "detect",
    "domain_classifier",
    "label_distance",
    "length_distance",
]

Rows = Sequence[Mapping[str, Any]]


def _ks(one: Sequence[float], two: Sequence[float]) -> float:
    from scipy.stats import ks_2samp

    return float(ks_2samp(one, two).statistic)


def length_distance(reference: Rows, window: Rows) -> float:
    """Kolmogorov-Smirnov's statistic of the texts' lengths in characters: the largest gap of the two cumulative shares."""
    return _ks([row["characters"] for row in reference], [row["characters"] for row in window])


def confidence_distance(reference: Rows, window: Rows) -> float:
    """The same of the confidence."""
    return _ks([row["confidence"] for row in reference], [row["confidence"] for row in window])


def label_distance(reference: Rows, window: Rows) -> float:
    """Jensen-Shannon distance (base 2, 0 to 1) of the shares of the predicted topics."""
    from scipy.spatial.distance import jensenshannon

    counts = [Counter(row["label"] for row in rows) for rows in (reference, window)]
    names = sorted(counts[0] | counts[1])
    shares = [[each[name] for name in names] for each in counts]
    return float(jensenshannon(*shares, base=2))


#: What can be computed from a prediction log without texts.
STATISTICS: dict[str, Callable[[Rows, Rows], float]] = {
    "input length": length_distance,
    "confidence": confidence_distance,
    "predicted topics": label_distance,
}


@dataclass(frozen=True)
class Threshold:
    """value: the statistic above which a window counts as drifted. false_alarms: share of ``windows`` fresh windows of

    the reference that lie above it, which is the rate to expect while nothing changes.
    """

    value: float
    false_alarms: float
    windows: int
    size: int


@dataclass(frozen=True)
class Finding:
    """One statistic of one window beside its threshold."""

    name: str
    value: float
    threshold: Threshold

    @property
    def drifted(self) -> bool:
        """Whether it lies above."""
        return self.value > self.threshold.value

    def __str__(self) -> str:
        said = "DRIFT" if self.drifted else "as before"
        rate = self.threshold.false_alarms
        return f"{self.name:<17}{self.value:.3f} (threshold {self.threshold.value:.3f}, false alarms {rate:.1%}): {said}"


def calibrate(
    reference: Rows,
    size: int,
    *,
    alarms: float = 0.01,
    windows: int = 200,
    block: int = 1,
    seed: int = 0,
    statistics: Mapping[str, Callable[[Rows, Rows], float]] = STATISTICS,
) -> dict[str, Threshold]:
    """A threshold for each statistic, for windows of ``size`` rows.

    The reference is cut into two halves in time. Windows are drawn from the later one, compared with the earlier one,
    and a threshold leaves a share ``alarms`` of them above it. As many fresh windows then count the false alarms.
    block: rows that are drawn together, in their order; several times as long as a burst (a block bootstrap). Raises
    DataError for a reference of less than four windows.
    """
    if len(reference) < 4 * size or size < 2:
        raise DataError(
            f"A reference of {len(reference):,} requests is too short for windows of {size:,}.",
            fix=f"collect at least {4 * size:,} requests of ordinary traffic, or use smaller windows",
        )
    half, draws = len(reference) // 2, np.random.default_rng(seed)
    earlier, later = reference[:half], reference[half:]

    def drawn() -> Rows:
        starts = draws.integers(0, len(later) - block + 1, -(-size // block))
        return [later[start + step] for start in starts for step in range(block)][:size]

    found = {}
    samples = {kind: [drawn() for _ in range(windows)] for kind in ("first", "fresh")}
    for name, statistic in statistics.items():
        values = {
            kind: np.array([statistic(earlier, each) for each in rows]) for kind, rows in samples.items()
        }
        value = float(np.quantile(values["first"], 1 - alarms, method="higher"))
        found[name] = Threshold(value, float((values["fresh"] > value).mean()), windows, size)
    return found


def detect(
    reference: Rows,
    window: Rows,
    thresholds: Mapping[str, Threshold],
    statistics: Mapping[str, Callable[[Rows, Rows], float]] = STATISTICS,
) -> list[Finding]:
    """Each statistic of the window against the earlier half of the reference, as ``calibrate`` took it."""
    sizes = {each.size for each in thresholds.values()}
    if sizes != {len(window)}:
        raise DataError(
            f"The window has {len(window):,} requests, and the thresholds are for {sorted(sizes)}.",
            why="smaller windows differ more by chance",
            fix="use a window of that size, or calibrate for this one",
        )
    earlier = reference[: len(reference) // 2]
    return [Finding(name, statistics[name](earlier, window), each) for name, each in thresholds.items()]


def domain_classifier(
    reference: Sequence[str], window: Sequence[str], *, seed: int = 0, permutations: int = 999
) -> tuple[float, float, list[str]]:
    """Can a small model tell which texts are from the window? (AUC, p-value, the words that tell most.)

    A logistic regression on TF-IDF learns on one half of the texts; the AUC is the other half's, where 0.5 is *can't
    tell*. The p-value is the share of shuffled answers on that half with an AUC as large (a classifier two-sample test:
    Lopez-Paz and Oquab, 2017). It needs texts: of a sample, kept for a short time.
    """
    from scipy.stats import rankdata
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline

    if min(len(reference), len(window)) < 20:
        raise DataError("A domain classifier needs 20 texts of each kind at least.", fix="collect more")
    texts, is_new = [*reference, *window], np.array([0] * len(reference) + [1] * len(window))
    learnt, held, told, truth = train_test_split(
        texts, is_new, test_size=0.5, random_state=seed, stratify=is_new
    )
    words = TfidfVectorizer(min_df=2, max_features=5000, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10, class_weight="balanced", max_iter=300))
    said = model.fit(learnt, told).predict_proba(held)[:, 1]
    ranks, draws = rankdata(said), np.random.default_rng(seed)

    def area(marks: np.ndarray) -> float:
        """The AUC, by the ranks of the new texts (Mann and Whitney's U)."""
        count = int(marks.sum())
        return float((ranks[marks == 1].sum() - count * (count + 1) / 2) / (count * (len(marks) - count)))

    auc = area(truth)
    chance = [area(draws.permutation(truth)) for _ in range(permutations)]
    p_value = (1 + sum(each >= auc for each in chance)) / (1 + permutations)
    names = model[0].get_feature_names_out()
    return auc, float(p_value), [str(names[each]) for each in np.argsort(-model[-1].coef_[0])[:8]]
