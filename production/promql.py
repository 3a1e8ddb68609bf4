"""A part of PromQL: selectors, rate, increase, sum, histogram_quantile, arithmetic, comparison, ``and``.

After Prometheus 2.42 (``promql/functions.go``: extrapolatedRate, bucketQuantile; 3.0 leaves the oldest edge of a range
out). A vector is a dictionary from labels
(a sorted tuple of pairs, without the name) to a number; a comparison keeps what it holds for, as in PromQL.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Selector", "Store", "evaluate", "milliseconds", "parse", "read_duration"]

LOOKBACK = 300.0  # seconds: how old a sample may be that a selector without a range gives
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
Labels = tuple[tuple[str, str], ...]
Vector = dict[Labels, float]

_TOKEN = re.compile(
    r'\s*(?:(?P<number>\d+\.?\d*(?:e-?\d+)?)(?![\w.])|(?P<name>[a-zA-Z_:][\w:]*)|(?P<text>"[^"\\]*")'
    r"|(?P<range>\[[^\]]+\])|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/(){},=<>]))"
)
_COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_SUM, _PRODUCT = {"+": operator.add, "-": operator.sub}, {"*": operator.mul, "/": None}


def read_duration(text: str) -> float:
    """Seconds of ``5m``, ``1m30s``, ``500ms``. ValueError for anything else."""
    parts = re.findall(r"(\d+)(ms|s|m|h|d)", text)
    if "".join(a + b for a, b in parts) != text or not text:
        raise ValueError(f"{text!r} is no duration such as 5m or 500ms")
    return sum(int(count) * UNITS[unit] for count, unit in parts)


def milliseconds(seconds: float) -> str:
    """A duration as PromQL wants it: whole seconds, else milliseconds."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{max(1, round(1000 * seconds))}ms"


class Store:
    """Samples in memory: (name, labels) -> times and values, in order."""

    def __init__(self) -> None:
        self.series: dict[str, dict[Labels, tuple[list[float], list[float]]]] = defaultdict(dict)

    def add(self, name: str, labels: Mapping[str, str], time: float, value: float) -> None:
        """One sample; ``time`` in seconds, later than the last one of its series."""
        times, values = self.series[name].setdefault(tuple(sorted(labels.items())), ([], []))
        times.append(time)
        values.append(value)

    def end(self, before: float, seen: set[tuple[str, Labels]], time: float) -> None:
        """Mark series that were there at ``before`` and are not in ``seen`` as ended (Prometheus: stale)."""
        for name, found in self.series.items():
            for labels, (times, values) in found.items():
                if times[-1] == before and (name, labels) not in seen and not math.isnan(values[-1]):
                    times.append(time)
                    values.append(math.nan)


@dataclass(frozen=True)
class Selector:
    """``name{label="value"}[range]``; matchers: (label, sign, value). seconds 0: without a range."""

    name: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    seconds: float = 0.0

    def fits(self, labels: Labels) -> bool:
        """Whether a series' labels pass every matcher; a label that is missing counts as ""."""
        given = dict(labels)
        for name, sign, wanted in self.matchers:
            found = given.get(name, "")
            same = bool(re.fullmatch(wanted, found)) if "~" in sign else found == wanted
            if same == sign.startswith("!"):
                return False
        return True


@dataclass(frozen=True)
class Call:
    """A function or an operator with what it is applied to; by: the labels that ``sum`` keeps."""

    name: str
    parts: tuple
    by: tuple[str, ...] = ()


Node = Selector | Call | float


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens, place = [], 0
        text = text.strip()
        while place < len(text):
            found = _TOKEN.match(text, place)
            if not found:
                raise ValueError(f"{text[place : place + 20]!r} is not understood")
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            place = found.end()
            while place < len(text) and text[place].isspace():
                place += 1
        self.tokens.append(("end", "the end"))

    def peek(self) -> str:
        return self.tokens[0][1] if self.tokens[0][0] != "text" else ""

    def take(self, wanted: str = "", kind: str = "") -> str:
        found_kind, found = self.tokens[0]
        if (wanted and found != wanted) or (kind and found_kind != kind):
            raise ValueError(f"{found!r} stands where {wanted or 'a ' + kind} should")
        if found_kind != "end":
            self.tokens.pop(0)
        return found

    def whole(self) -> Node:
        found = self.joined()
        self.take("the end")
        return found

    def joined(self) -> Node:
        found = self.compared()
        while self.peek() == "and":
            self.take()
            found = Call("and", (found, self.compared()))
        return found

    def compared(self) -> Node:
        found = self.chain(_SUM, lambda: self.chain(_PRODUCT, self.one))
        if self.peek() in _COMPARE:
            sign = self.take()
            found = Call(sign, (found, self.chain(_SUM, lambda: self.chain(_PRODUCT, self.one))))
            if self.peek() in _COMPARE:
                raise ValueError("a comparison of a comparison is not understood")
        return found

    def chain(self, signs: Mapping, inner: Callable[[], Node]) -> Node:
        found = inner()
        while self.peek() in signs:
            found = Call(self.take(), (found, inner()))
        return found

    def one(self) -> Node:
        kind, word = self.tokens[0]
        if word == "(":
            self.take()
            found = self.joined()
            self.take(")")
            return found
        if kind == "number":
            return float(self.take())
        name = self.take(kind="name")
        if name in ("rate", "increase"):
            self.take("(")
            inner = self.one()
            self.take(")")
            if not isinstance(inner, Selector) or not inner.seconds:
                raise ValueError(f"{name} needs a range, such as [5m]")
            return Call(name, (inner,))
        if name == "sum":
            return self.summed()
        if name == "histogram_quantile":
            self.take("(")
            share = float(self.take(kind="number"))
            self.take(",")
            inner = self.joined()
            self.take(")")
            return Call(name, (share, inner))
        if self.peek() == "(":
            raise ValueError(f"the function {name} is not understood")
        return self.selector(name)

    def summed(self) -> Call:
        by: tuple[str, ...] = ()
        if self.peek() == "by":
            self.take()
            self.take("(")
            names = [self.take(kind="name")]
            while self.peek() == ",":
                self.take()
                names.append(self.take(kind="name"))
            self.take(")")
            by = tuple(sorted(names))
        self.take("(")
        inner = self.joined()
        self.take(")")
        if self.peek() in ("by", "without"):
            raise ValueError("write `sum by (...) (...)`, with the labels in front")
        return Call("sum", (inner,), by)

    def selector(self, name: str) -> Selector:
        matchers = []
        if self.peek() == "{":
            self.take()
            while self.peek() != "}":
                label, sign = self.take(kind="name"), self.take(kind="sign")
                if sign not in ("=", "!=", "=~", "!~"):
                    raise ValueError(f"{sign!r} can't match a label")
                matchers.append((label, sign, self.take(kind="text")[1:-1]))
                if self.peek() == ",":
                    self.take()
            self.take("}")
        seconds = read_duration(self.take()[1:-1]) if self.tokens[0][0] == "range" else 0.0
        if self.peek() in ("offset", "bool", "on", "ignoring", "or", "unless"):
            raise ValueError(f"{self.peek()!r} is not understood")
        return Selector(name, tuple(matchers), seconds)


def parse(text: str) -> Node:
    """The expression as a tree. ValueError says what is not understood."""
    return _Parser(text).whole()


def evaluate(node: Node, store: Store, now: float) -> Vector | float:
    """The value at ``now`` (seconds)."""
    if isinstance(node, float):
        return node
    if isinstance(node, Selector):
        if node.seconds:
            raise ValueError("a range such as [5m] needs rate or increase around it")
        return _instant(node, store, now)
    if node.name in ("rate", "increase"):
        return _rated(node.parts[0], store, now, node.name == "rate")
    if node.name == "histogram_quantile":
        return _quantiles(node.parts[0], evaluate(node.parts[1], store, now))
    parts = [evaluate(each, store, now) for each in node.parts]
    if node.name == "sum":
        sums: Vector = {}
        for labels, value in parts[0].items():
            key = tuple(pair for pair in labels if pair[0] in node.by)
            sums[key] = sums.get(key, 0.0) + value
        return sums
    if node.name == "and":
        return {labels: value for labels, value in parts[0].items() if labels in parts[1]}
    return _combined(node.name, *parts)


def _combined(sign: str, one: Vector | float, two: Vector | float) -> Vector | float:
    """Arithmetic, or a comparison that keeps the left value; two vectors meet where all labels are equal."""
    if isinstance(one, float) and isinstance(two, float):
        if sign in _COMPARE:
            raise ValueError("a comparison of two numbers is not understood")
        return _calculated(sign, one, two)
    if isinstance(one, float):
        pairs = {labels: (one, value) for labels, value in two.items()}
        kept = {labels: pair[1] for labels, pair in pairs.items()}
    elif isinstance(two, float):
        pairs = {labels: (value, two) for labels, value in one.items()}
        kept = one
    else:
        pairs = {labels: (value, two[labels]) for labels, value in one.items() if labels in two}
        kept = one
    if sign in _COMPARE:
        return {labels: kept[labels] for labels, pair in pairs.items() if _COMPARE[sign](*pair)}
    return {labels: _calculated(sign, *pair) for labels, pair in pairs.items()}


def _calculated(sign: str, one: float, two: float) -> float:
    if sign != "/":
        return {**_SUM, **_PRODUCT}[sign](one, two)
    if two:
        return one / two
    return math.nan if one == 0 or math.isnan(one) else math.copysign(math.inf, one)


def _instant(node: Selector, store: Store, now: float) -> Vector:
    found = {}
    for labels, (times, values) in store.series.get(node.name, {}).items():
        last = bisect_right(times, now) - 1
        if last >= 0 and now - times[last] < LOOKBACK and not math.isnan(values[last]) and node.fits(labels):
            found[labels] = values[last]
    return found


def _rated(node: Selector, store: Store, now: float, per_second: bool) -> Vector:
    """Prometheus' extrapolatedRate for counters, on the samples from now - range to now, both ends included."""
    found = {}
    for labels, (times, values) in store.series.get(node.name, {}).items():
        if not node.fits(labels):
            continue
        first, last = bisect_left(times, now - node.seconds), bisect_right(times, now)
        pairs = zip(times[first:last], values[first:last], strict=True)
        points = [each for each in pairs if not math.isnan(each[1])]
        if len(points) < 2:
            continue
        (began, start), (ended, end) = points[0], points[-1]
        grown = end - start
        for (_, before), (_, after) in itertools.pairwise(points):
            if after < before:  # the counter was reset: its server was started again
                grown += before
        length = ended - began
        to_start, to_end = began - (now - node.seconds), now - ended
        step = length / (len(points) - 1)
        if grown > 0 and start >= 0:  # a counter is not below 0 anywhere
            to_start = min(to_start, length * start / grown)
        whole = length
        for gap in (to_start, to_end):
            whole += gap if gap < 1.1 * step else step / 2
        factor = whole / length
        found[labels] = grown * (factor / node.seconds if per_second else factor)
    return found


def _quantiles(share: float, buckets: Vector) -> Vector:
    """Prometheus' bucketQuantile: the bucket in which the quantile lies, and a straight line within it."""
    groups: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, count in buckets.items():
        bound = dict(labels).get("le")
        if bound is not None:
            rest = tuple(pair for pair in labels if pair[0] != "le")
            groups[rest].append((float(bound.replace("Inf", "inf")), count))
    return {labels: _quantile(share, sorted(each)) for labels, each in groups.items()}


def _quantile(share: float, buckets: list[tuple[float, float]]) -> float:
    if not 0 <= share <= 1 or len(buckets) < 2 or buckets[-1][0] != math.inf or buckets[-1][1] == 0:
        return math.nan
    counts = itertools.accumulate(
        (count for _, count in buckets), max
    )  # rates of buckets may cross by rounding
    buckets = [(bound, count) for (bound, _), count in zip(buckets, counts, strict=True)]
    rank = share * buckets[-1][1]
    place = next(each for each, (_, count) in enumerate(buckets) if count >= rank)
    if place == len(buckets) - 1:
        return buckets[-2][0]
    if place == 0 and buckets[0][0] <= 0:
        return buckets[0][0]
    low, before = (0.0, 0.0) if place == 0 else buckets[place - 1]
    high, count = buckets[place]
    return low + (high - low) * (rank - before) / (count - before) if count > before else high
