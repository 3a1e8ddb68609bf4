"""The cheapest setting that meets a latency and a quality target: searched, then proven on fresh texts.

The command is ``python -m production.optimise measure | choose``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lessonkit.errors import DataError, LessonError
from lessonkit.evaluation import bootstrap_interval, bootstrap_ratio_interval
from production.cost import per_million
from production.measure import Bench, Measured
from production.optimise import Setting

__all__ = ["Found", "Proof", "Row", "Target", "front", "loss", "prove", "search"]


@dataclass(frozen=True)
class Target:
    """p95: seconds, at most, under load. margin: accuracy that may be lost against the reference, at most, with the whole
    95 % interval inside. users: of the closed loop. utilisation: the share of full load that is really asked for.
    """

    p95: float
    margin: float
    users: int = 8
    utilisation: float = 0.5

    def __post_init__(self) -> None:
        if not (self.p95 > 0 and 0 < self.margin < 1 and self.users >= 1 and 0 < self.utilisation <= 1):
            raise DataError(
                f"{self} can't be a target.",
                fix="p95 in seconds above 0, margin and utilisation as shares above 0, users from 1 on",
            )


@dataclass(frozen=True)
class Row:
    """A setting, measured and judged. accuracy: with its interval, n texts. change: accuracy minus the reference's on the
    same texts, with its paired interval. cost: of a million answers. refused: why it may not be chosen, "" if it may.
    round: the last in which it was measured.
    """

    setting: Setting
    measured: Measured
    accuracy: float
    interval: tuple[float, float]
    change: float
    change_interval: tuple[float, float]
    cost: float
    refused: str
    round: int = 1

    @property
    def n(self) -> int:
        """Texts that it answered."""
        return len(self.measured.answers)


@dataclass(frozen=True)
class Found:
    """rows: all settings, cheapest first. chosen: the cheapest that meets the target. runner_up: the next that does, of
    another kind or length if there is one (at another batch size only, it would answer the same). None where none does.
    """

    rows: list[Row]
    chosen: Row | None
    runner_up: Row | None

    def __str__(self) -> str:
        if self.chosen:
            return f"chosen: {self.chosen.setting}; runner-up: {self.runner_up.setting if self.runner_up else 'none'}"
        near = "; ".join(f"{each.setting}: {each.refused}" for each in self.rows[:2])
        return f"No setting meets the target. The cheapest, and what they lack: {near}"


def loss(
    right: Sequence[bool], reference: Sequence[bool], level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Accuracy minus the reference's on the same texts, each of shape (n,), and its interval.

    The paired bootstrap; its lower end is moved down to where it would be if the share of texts that are lost were at its
    exact upper limit (Clopper and Pearson 1934). With few lost texts the bootstrap alone is too sure: with none, it says
    that none ever will be.
    """
    from scipy.stats import beta

    one, other = np.asarray(right, dtype=bool), np.asarray(reference, dtype=bool)
    if one.shape != other.shape or one.ndim != 1 or not len(one):
        raise DataError(
            f"{one.shape} and {other.shape} are not the same texts.", fix="pass one value for each text"
        )
    n, lost, gained = len(one), int((other & ~one).sum()), int((one & ~other).sum())
    low, high = bootstrap_interval(one.astype(float) - other, level=level)
    worst = beta.ppf((1 + level) / 2, lost + 1, n - lost) if lost < n else 1.0
    return (gained - lost) / n, (min(low, gained / n - float(worst)), high)


def judge(
    measured: Measured,
    reference: Measured,
    labels: Sequence[int],
    target: Target,
    hourly: float,
    last: int = 1,
    level: float = 0.95,
) -> Row:
    """One row from a measurement, the reference's answers to the same texts, and the true classes.

    level: of the interval of the change in accuracy, which decides.
    """
    n = min(len(measured.answers), len(reference.answers))
    true = np.asarray(labels[: len(measured.answers)])
    right = np.asarray(measured.answers) == true
    change, interval = loss(right[:n], np.asarray(reference.answers[:n]) == true[:n], level)
    why = []
    if measured.p95 > target.p95:
        why.append(f"p95 {1000 * measured.p95:.0f} ms, above {1000 * target.p95:.0f}")
    if interval[0] < -target.margin:
        why.append(f"may lose {-interval[0]:.3f}, above {target.margin:.3f}")
    cost = per_million(hourly, measured.throughput, target.utilisation)
    sure = bootstrap_interval(right.astype(float))
    return Row(
        measured.setting, measured, float(right.mean()), sure, change, interval, cost, "; ".join(why), last
    )


def search(
    bench: Bench,
    settings: Iterable[Setting],
    reference: Setting,
    texts: Sequence[str],
    labels: Sequence[int],
    target: Target,
    hourly: float,
    *,
    screening: int = 48,
    keep: int = 6,
    limit: float = math.inf,
    seed: int = 0,
) -> Found:
    """Measure all settings on the first ``screening`` texts, then ``keep`` hopeful ones on the others, too.

    Kept are the cheapest of each length, then the cheapest of all. Hopeful: its p95 is at most 1.3 times the target,
    and its loss of accuracy may lie within the margin. reference: what the others' answers are compared with; measured
    on all texts. hourly: the machine's price. limit: seconds for each setting of the first round.
    """
    every = [reference, *(each for each in dict.fromkeys(settings) if each != reference)]
    if not 0 < screening < len(texts) or len(texts) != len(labels):
        raise DataError(
            f"{len(texts)} texts with {len(labels)} labels can't be screened by {screening}.",
            fix="pass a label for each text, and screen by fewer than all",
        )
    first = bench.run_all(every, texts[:screening], seed=seed, users=target.users, limit=limit)
    if len(first[reference].answers) < screening:
        raise LessonError(
            f"The reference ({reference}) answers fewer than {screening} texts in {limit:g} s.",
            fix="raise limit, or take a quicker reference",
        )

    def judged(measured: dict[Setting, Measured], last: int) -> list[Row]:
        return [judge(each, measured[reference], labels, target, hourly, last) for each in measured.values()]

    rows = judged(first, 1)
    hopeful = [
        each
        for each in sorted(rows, key=lambda row: row.cost)
        if each.measured.p95 <= 1.3 * target.p95
        and each.change_interval[1] >= -target.margin
        and each.n == screening
    ]
    second = bench.run_all(
        dict.fromkeys([reference, *_kept(hopeful, keep)]),
        texts[screening:],
        rounds=2,
        seed=seed + 1,
        users=target.users,
    )
    whole = judged({each: first[each] + measured for each, measured in second.items()}, 2)
    dropped = [
        replace(each, refused="; ".join(filter(None, [each.refused, "left after the first round"])))
        for each in rows
        if each.setting not in second
    ]
    ranked = sorted([*whole, *dropped], key=lambda row: row.cost)
    good = [each for each in ranked if not each.refused]
    return Found(ranked, good[0] if good else None, _runner_up(good))


def _kept(hopeful: list[Row], keep: int) -> list[Setting]:
    """The cheapest of each length, for what one length loses the others may not; then the cheapest of all."""
    of_length: dict[int, Setting] = {}
    for each in hopeful:
        of_length.setdefault(each.setting.max_length, each.setting)
    return list(dict.fromkeys([*of_length.values(), *(each.setting for each in hopeful)]))[:keep]


def _runner_up(good: list[Row]) -> Row | None:
    """The cheapest other one that reads another length, else of another kind, else any: not to fail with the first."""
    if len(good) < 2:
        return None
    first, rest = good[0].setting, good[1:]
    other_length = [each for each in rest if each.setting.max_length != first.max_length]
    return (other_length or [each for each in rest if each.setting.kind != first.kind] or rest)[0]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of the (cost, quality) points lie on the Pareto front: no other is as cheap and as good, and better in one."""
    return [
        place
        for place, (cost, quality) in enumerate(points)
        if not any(
            other_cost <= cost and other >= quality and (other_cost, other) != (cost, quality)
            for other_cost, other in points
        )
    ]


@dataclass(frozen=True)
class Proof:
    """The choice on fresh texts. chosen, runner_up: judged there. ratio: cost of the chosen divided by that of the
    runner-up, with its paired interval over ``blocks``. ahead: blocks in which the chosen was cheaper. slowest: the p95
    of each in its slowest block, seconds.
    """

    chosen: Row
    runner_up: Row
    ratio: float
    interval: tuple[float, float]
    ahead: int
    blocks: int
    slowest: tuple[float, float]

    @property
    def proven(self) -> Row | None:
        """The chosen if it meets both targets on the fresh texts, else the runner-up if that does, else None."""
        return next((each for each in (self.chosen, self.runner_up) if not each.refused), None)

    @property
    def cheaper(self) -> str:
        """What can be said of its cost against the runner-up: "cheaper", "dearer" or "can't tell"."""
        low, high = self.interval
        return "cheaper" if high < 1 else "dearer" if low > 1 else "can't tell"

    def __str__(self) -> str:
        low, high = self.interval
        said = [
            f"{each.setting}: {each.refused or 'meets both targets'}"
            for each in (self.chosen, self.runner_up)
        ]
        return (
            f"{'; '.join(said)} (n = {self.chosen.n:,} fresh texts). The first is {self.cheaper}: {self.ratio:.2f} times "
            f"the cost ({low:.2f} to {high:.2f}), ahead in {self.ahead} of {self.blocks} blocks. Proven: "
            f"{self.proven.setting if self.proven else 'none'}"
        )


def prove(
    bench: Bench,
    found: Found,
    reference: Setting,
    texts: Sequence[str],
    labels: Sequence[int],
    target: Target,
    hourly: float,
    *,
    blocks: int = 8,
    seed: int = 0,
) -> Proof:
    """Measure the chosen setting and the runner-up again, on texts that had no part in the choice.

    Both answer each block of texts, one right after the other, in random order: what slows the machine down for longer
    than a block slows both. Two settings have two chances to pass by luck, so the intervals of their change in accuracy are
    97.5 % ones (Bonferroni): together they hold with 95 %. Raises LessonError where the search chose nothing, or has no
    runner-up.
    """
    if not found.chosen or not found.runner_up:
        raise LessonError(
            "There is nothing to prove: two settings must meet the target.",
            why=str(found),
            fix="allow a longer p95 or a wider margin, or search more settings",
        )
    if blocks < 2 or len(texts) // blocks < target.users:
        raise DataError(
            f"{len(texts)} texts make no {blocks} blocks for {target.users} users.",
            why="with fewer texts than users in a block, nobody waits as they do under load",
            fix="at least 2 blocks, in each at least a text for each user",
        )
    pair, draw = [found.chosen.setting, found.runner_up.setting], random.Random(seed)
    parts: dict[Setting, list[Measured]] = {each: [] for each in [reference, *pair]}
    for place in range(blocks):
        some = texts[place * len(texts) // blocks : (place + 1) * len(texts) // blocks]
        for each in draw.sample(list(parts), len(parts)):
            parts[each].append(bench.run(each, some, users=target.users))
    whole = {}
    for setting, measured in parts.items():
        whole[setting] = measured[0]
        for each in measured[1:]:
            whole[setting] += each
    chosen, runner_up = (
        judge(whole[each], whole[reference], labels, target, hourly, 3, level=0.975) for each in pair
    )
    seconds = [[each.seconds for each in parts[setting]] for setting in pair]
    ahead = sum(one < other for one, other in zip(*seconds, strict=True))
    interval = bootstrap_ratio_interval(*seconds)
    slowest = tuple(max(each.p95 for each in parts[setting]) for setting in pair)
    return Proof(chosen, runner_up, sum(seconds[0]) / sum(seconds[1]), interval, ahead, blocks, slowest)
