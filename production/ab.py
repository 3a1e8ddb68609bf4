"""The statistics of an experiment with two arms, A (today's model) and B (the new one).

Sizes and power, who gets which arm, whether the arms have the users that they should have, a test at a fixed size, two
tests that may look early, and guardrails. Counts may be numbers or arrays: of users with a good outcome, and of users.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import chdtrc, lambertw, ndtr, ndtri

from lessonkit.errors import DataError

__all__ = [
    "Guardrail",
    "Ratio",
    "assign",
    "confidence_sequence",
    "group_bounds",
    "not_worse",
    "per_user",
    "point",
    "power",
    "ratio_check",
    "running_evidence",
    "sample_size",
    "tightest",
    "z_score",
    "z_test",
]

#: What a guardrail stakes on "this one is bad": shares of its money, each a game of its own.
STAKES = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])


# ---- How many users ---------------------------------------------------------------------------------


def sample_size(
    rate_a: float, rate_b: float, *, power: float = 0.8, alpha: float = 0.05, share: float = 0.5
) -> tuple[int, int]:
    """Users of A and of B for a two-sided test of two proportions (Fleiss, Tytun and Ury 1980, no continuity term).

    rate_a, rate_b: the outcome's true rates, if the difference that you don't want to miss is there. share: of B.
    """
    _shares(rate_a=rate_a, rate_b=rate_b, power=power, alpha=alpha, share=share)
    if rate_a == rate_b:
        raise DataError(
            "No size finds a difference of zero.", fix="name the smallest one that matters to you"
        )
    pooled = (1 - share) * rate_a + share * rate_b
    null = math.sqrt(pooled * (1 - pooled) * (1 / (1 - share) + 1 / share))
    other = math.sqrt(rate_a * (1 - rate_a) / (1 - share) + rate_b * (1 - rate_b) / share)
    total = ((ndtri(1 - alpha / 2) * null + ndtri(power) * other) / (rate_a - rate_b)) ** 2
    return math.ceil(total * (1 - share)), math.ceil(total * share)


def power(rate_a: float, rate_b: float, n_a: Any, n_b: Any, alpha: float = 0.05) -> Any:
    """How probably ``z_test`` finds this difference with so many users; with equal rates, its false alarms: alpha."""
    _shares(rate_a=rate_a, rate_b=rate_b, alpha=alpha)
    n_a, n_b = np.asarray(n_a, float), np.asarray(n_b, float)
    pooled = (n_a * rate_a + n_b * rate_b) / (n_a + n_b)
    null = np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b)) * ndtri(1 - alpha / 2)
    other = np.sqrt(rate_a * (1 - rate_a) / n_a + rate_b * (1 - rate_b) / n_b)
    return ndtr((rate_b - rate_a - null) / other) + ndtr((rate_a - rate_b - null) / other)


def _shares(**named: float) -> None:
    wrong = [f"{name} is {value}" for name, value in named.items() if not 0 < value < 1]
    if wrong:
        raise DataError(f"{', '.join(wrong)}.", fix="give shares above 0 and below 1, such as 0.05 for 5 %")


# ---- Who gets which ---------------------------------------------------------------------------------


def point(user: str, experiment: str) -> float:
    """Where a user stands between 0 and 1 in this experiment: always at the same place, in each one at another."""
    digest = hashlib.sha256(f"{experiment}:{user}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign(user: str, experiment: str, share: float = 0.5) -> str:
    """ "B" for this share of the users, else "A". With a larger share, whoever had B keeps it."""
    return "B" if point(user, experiment) < share else "A"


@dataclass(frozen=True)
class Ratio:
    """n_a, n_b: users seen. expected_b: how many of them B should have. p: of the chi-square test with one degree."""

    n_a: int
    n_b: int
    expected_b: float
    p: float
    level: float

    @property
    def ok(self) -> bool:
        """Whether the split may be luck. If not, the experiment has no result."""
        return self.p >= self.level

    def __str__(self) -> str:
        said = "as planned" if self.ok else "BROKEN: look for the cause, and don't read the result"
        return f"A {self.n_a:,}, B {self.n_b:,} (expected {self.expected_b:,.0f}), p = {self.p:.2g}: {said}"


def ratio_check(n_a: int, n_b: int, share: float = 0.5, level: float = 0.001) -> Ratio:
    """Sample-ratio mismatch (Fabijan et al. 2019). The strict level allows for a look at every experiment, every day."""
    _shares(share=share, level=level)
    n = n_a + n_b
    if not n:
        raise DataError("No users, so there is no ratio to check.", fix="check the log that you counted")
    square = (n_b - n * share) ** 2 / (n * share * (1 - share))
    return Ratio(n_a, n_b, n * share, float(chdtrc(1, square)), level)


def per_user(lines: Iterable[Mapping[str, Any]], experiment: str = "") -> list[tuple[str, float]]:
    """From a router's log: (arm, value) for each user whose outcome is known, in the order in which it became known.

    One outcome a user, the first. The arm is the one that the user was given at first, whoever answered in the end
    (intention to treat); what came after a change of arm is left out. experiment: only its lines; by default all.
    """
    arms: dict[str, str] = {}
    users: dict[str, str] = {}
    found: dict[str, tuple[str, float]] = {}
    for line in lines:
        if experiment and line.get("experiment") != experiment:
            continue
        if line["event"] == "request":
            if arms.setdefault(line["user"], line["arm"]) == line["arm"]:
                users[line["id"]] = line["user"]
        elif line["event"] == "outcome" and line["id"] in users:
            user = users[line["id"]]
            found.setdefault(user, (arms[user], line["value"]))
    return list(found.values())


# ---- One look, at the planned size ------------------------------------------------------------------


def z_score(good_a: Any, n_a: Any, good_b: Any, n_b: Any) -> Any:
    """B's rate minus A's, in standard errors under "no difference" (pooled); 0 where nothing varies yet."""
    good_a, n_a, good_b, n_b = (np.asarray(each, float) for each in (good_a, n_a, good_b, n_b))
    pooled = (good_a + good_b) / (n_a + n_b)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    return np.divide(good_b / n_b - good_a / n_a, error, out=np.zeros_like(error), where=error > 0)


def z_test(good_a: Any, n_a: Any, good_b: Any, n_b: Any) -> Any:
    """The two-sided p-value, for one look at a size that was fixed before. After each peek it means less."""
    return 2 * ndtr(-np.abs(z_score(good_a, n_a, good_b, n_b)))


# ---- Looks at any time ------------------------------------------------------------------------------


def tightest(rate: float, n_a: int, n_b: int, alpha: float = 0.05) -> float:
    """The ``tau`` with which ``confidence_sequence`` is narrowest at this size (Howard et al. 2021, section 3.5)."""
    _shares(rate=rate, alpha=alpha)
    ratio = -lambertw(-(alpha**2) / math.e, -1).real - 1
    return math.sqrt(ratio * rate * (1 - rate) * (1 / n_a + 1 / n_b))


def confidence_sequence(
    good_a: Any, n_a: Any, good_b: Any, n_b: Any, *, tau: float, alpha: float = 0.05
) -> tuple[Any, Any]:
    """(low, high) of B's rate minus A's: with 1 - alpha, the truth lies in the interval at all looks *together*.

    So one may look after each user and stop at will. The mixture of Robbins (1970) with a normal prior of deviation
    tau, as Johari et al. (2017) use it for two arms. It treats rates as normal: begin with some 50 users in each arm.
    """
    good_a, n_a, good_b, n_b = (np.asarray(each, float) for each in (good_a, n_a, good_b, n_b))
    smooth_a, smooth_b = (good_a + 1) / (n_a + 2), (good_b + 1) / (n_b + 2)
    variance = smooth_a * (1 - smooth_a) / n_a + smooth_b * (1 - smooth_b) / n_b
    ratio = (variance + tau**2) / variance
    radius = np.sqrt(variance * ratio / (ratio - 1) * (2 * math.log(1 / alpha) + np.log(ratio)))
    difference = good_b / n_b - good_a / n_a
    return difference - radius, difference + radius


def group_bounds(fractions: Sequence[float], alpha: float = 0.05) -> np.ndarray:
    """Bounds of |z| at a few planned looks, for a two-sided test that spends alpha as O'Brien and Fleming's would.

    fractions: of the full size at each look, rising to at most 1. Lan and DeMets (1983); the probabilities by the
    recursive integral of Armitage, McPherson and Rowe (1969).
    """
    times = np.asarray(fractions, float)
    if not len(times) or times[0] <= 0 or times[-1] > 1 or (np.diff(times) <= 0).any():
        raise DataError(
            f"{fractions} are no looks.", fix="give rising fractions, such as [0.25, 0.5, 0.75, 1]"
        )
    spent = 4 * ndtr(-ndtri(1 - alpha / 4) / np.sqrt(times))  # both sides together
    bounds: list[float] = []
    places, weights = np.zeros(1), np.ones(1)  # where the path may stand, and how probably: first at 0
    for step, budget in zip(np.diff(times, prepend=0), np.diff(spent, prepend=0), strict=True):
        edge = _edge(places, weights, math.sqrt(step), budget)
        grid = np.linspace(-edge, edge, 1001)
        density = (
            np.exp(-((grid[:, None] - places) ** 2) / (2 * step)) @ weights / math.sqrt(2 * math.pi * step)
        )
        width = np.full(len(grid), grid[1] - grid[0])
        width[[0, -1]] /= 2
        places, weights = grid, density * width
        bounds.append(edge)
    return np.array(bounds) / np.sqrt(times)


def _edge(places: np.ndarray, weights: np.ndarray, deviation: float, budget: float) -> float:
    """Where a path leaves the middle with the probability ``budget`` in its next step."""
    from scipy.optimize import brentq

    def beyond(edge: float) -> float:
        return float(weights @ (ndtr((places - edge) / deviation) + ndtr((-edge - places) / deviation)))

    return brentq(lambda edge: beyond(edge) - budget, 0.0, 40.0, xtol=1e-10)


# ---- Guardrails -------------------------------------------------------------------------------------


def running_evidence(bad: Any, allowed: Any) -> np.ndarray:
    """After each request, the evidence that more than ``allowed`` of them are bad. Shapes: (..., n).

    A bet against the guardrail: while at most ``allowed`` are bad, its money does not grow on average, so it reaches
    1 / level with a probability of at most level, ever (Ville 1939; Waudby-Smith and Ramdas 2024). No normal
    approximation, any number of looks. ``allowed`` may change by request, but only by what was known before it.
    """
    bad, allowed = np.asarray(bad, float)[..., None], np.asarray(allowed, float)[..., None]
    logs = np.cumsum(np.log1p(STAKES * (bad / allowed - 1)), axis=-2)
    return np.exp(np.minimum(logs, 700)).mean(-1)  # more than e ** 700 is no float


class Guardrail:
    """``running_evidence``, one request at a time. broken: whether 1 / level was ever reached; it stays so."""

    def __init__(self, name: str, level: float = 0.01) -> None:
        _shares(level=level)
        self.name, self.level, self.seen, self.bad, self.broken = name, level, 0, 0, False
        self._logs = np.zeros(len(STAKES))

    @property
    def evidence(self) -> float:
        """Times its stake: 1 at the start."""
        return float(np.exp(np.minimum(self._logs, 700)).mean())

    def add(self, bad: bool, allowed: float) -> bool:
        """Count one request; gives ``broken``. allowed: the share of bad ones that is still acceptable."""
        _shares(allowed=allowed)
        self.seen, self.bad = self.seen + 1, self.bad + bool(bad)
        self._logs += np.log1p(STAKES * (bool(bad) / allowed - 1))
        self.broken = self.broken or self.evidence >= 1 / self.level
        return self.broken


def not_worse(values_a: Any, values_b: Any, margin: float, alpha: float = 0.05) -> tuple[str, float, float]:
    """("held" | "broken" | "open", B's mean minus A's, its one-sided upper bound), one value for each user.

    Non-inferiority: held only if the whole bound lies below the margin; "not significant" would hold with ten users.
    Values: such as 1 for an error and else 0, or seconds. One look; normal approximation, so 30 users or more in each
    arm. With values of 0 and 1 only, one of each is added to both arms first (Agresti and Caffo 2000), for no failure in
    ten requests doesn't prove that there are none.
    """
    a, b = np.asarray(values_a, float), np.asarray(values_b, float)
    if min(len(a), len(b)) < 2:
        raise DataError("Too few values for a bound.", fix="wait for more users")
    change = float(b.mean() - a.mean())
    if np.isin(np.concatenate([a, b]), (0, 1)).all():
        a, b = np.append(a, (0, 1)), np.append(b, (0, 1))
    middle = float(b.mean() - a.mean())
    reach = float(ndtri(1 - alpha)) * math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    verdict = "held" if middle + reach < margin else "broken" if middle - reach > margin else "open"
    return verdict, change, middle + reach
