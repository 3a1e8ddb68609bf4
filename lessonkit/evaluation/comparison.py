"""Is one model better than another? Compared text by text, on the same texts.

Two intervals that overlap do not settle it: both models find the same texts hard, and what they share falls
out when each text's two results are taken together (the paired bootstrap; Koehn 2004, "Statistical
Significance Tests for Machine Translation Evaluation").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lessonkit.errors import DataError
from lessonkit.evaluation.bootstrap import bootstrap_interval, bootstrap_ratio_interval
from lessonkit.evaluation.classification import class_numbers
from lessonkit.evaluation.language_modelling import PerplexityScores

__all__ = ["Comparison", "compare_classifiers", "compare_perplexities"]


@dataclass(frozen=True)
class Comparison:
    """Two models on the same texts.

    metric: what they are compared by. names: what they are called. values: each one's score.
    n: texts. change: accuracy of the first minus that of the second, or perplexity of the first divided by
    that of the second. interval: its 95 % paired bootstrap interval.
    verdict: what can be said of the first: "better", "worse" or "can't tell".
    only_first, only_second: texts that only the one got right; for perplexity, that it foresaw better.
    """

    metric: str
    names: tuple[str, str]
    values: tuple[float, float]
    n: int
    change: float
    interval: tuple[float, float]
    verdict: str
    only_first: int
    only_second: int

    def __str__(self) -> str:
        first, second = self.names
        how = "by" if self.metric == "accuracy" else "times"
        show = "{:+.3f}" if self.metric == "accuracy" else "{:.3f}"
        change, low, high = (show.format(value) for value in (self.change, *self.interval))
        ahead = {"can't tell": f"can't tell {first} from {second}"}
        said = ahead.get(self.verdict, f"{first} is {self.verdict} than {second}")
        digits = ".3f" if self.metric == "accuracy" else ",.2f"
        values = f"{self.metric} {self.values[0]:{digits}} and {self.values[1]:{digits}}"
        return (
            f"{said}: {values}, {how} {change} (95 % interval {low} to {high}, n = {self.n:,} texts; "
            f"ahead on {self.only_first:,} and on {self.only_second:,} of them)"
        )

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return dict(vars(self))


def compare_classifiers(
    labels: Sequence[int],
    first: Sequence[int],
    second: Sequence[int],
    *,
    names: tuple[str, str] = ("the first", "the second"),
) -> Comparison:
    """Compare the predictions of two classifiers, each of shape (n,), with the same labels, shape (n,).

    The first is called better or worse if the interval of the difference in accuracy leaves out 0 and
    McNemar's exact test agrees at 5 % (McNemar 1947; a coin toss for each text that only one got right).
    The test is there for a handful of such texts, on which the bootstrap alone is too sure.
    Raises DataError if the three differ in length, are empty, or hold anything but class numbers.
    """
    from scipy.stats import binomtest

    _check_names(names)
    true, one, other = (
        class_numbers(what, values)
        for what, values in (("labels", labels), ("first predictions", first), ("second predictions", second))
    )
    if not true.shape == one.shape == other.shape or true.ndim != 1 or not len(true):
        raise DataError(
            f"Labels have the shape {true.shape}, the predictions {one.shape} and {other.shape}.",
            why="both classifiers must have predicted one class number for each of the same texts",
            fix="predict the same split with both; if these are logits, take `logits.argmax(-1)` first",
        )
    right, other_right = one == true, other == true
    gained, lost = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    interval = bootstrap_interval(right.astype(float) - other_right)
    sure = gained + lost > 0 and binomtest(gained, gained + lost).pvalue < 0.05
    return Comparison(
        metric="accuracy",
        names=tuple(names),
        values=(float(right.mean()), float(other_right.mean())),
        n=len(true),
        change=float(right.mean() - other_right.mean()),
        interval=interval,
        verdict=_verdict(interval[0] > 0 and sure, interval[1] < 0 and sure),
        only_first=gained,
        only_second=lost,
    )


def compare_perplexities(first: PerplexityScores, second: PerplexityScores) -> Comparison:
    """Compare two models' ``perplexity`` on the same texts, such as before and after fine-tuning.

    The first is called better if the interval of the ratio of perplexities lies below 1; it resamples texts.
    Raises DataError if they were not scored on the same tokens, or on a single text.
    """
    for each in (first, second):
        if not isinstance(each, PerplexityScores):
            raise DataError(
                f"{type(each).__name__} is not a result of perplexity.",
                fix="pass compare_perplexities(perplexity(tuned, dataset), perplexity(base, dataset))",
            )
    if first.text_tokens.tolist() != second.text_tokens.tolist():
        raise DataError(
            f"The {first.name} and the {second.name} were scored on other tokens.",
            why="perplexities compare only on the same texts, cut into the same tokens",
            fix="score both on one dataset, with one tokenizer and the same labels",
        )
    if first.n < 2:
        raise DataError(
            "A single text cannot tell how texts differ.",
            fix="score more texts, or cut this one into several rows",
        )
    scored = first.text_tokens > 0
    gain = (first.text_losses - second.text_losses)[scored]
    low, high = (math.exp(each) for each in bootstrap_ratio_interval(gain, first.text_tokens[scored]))
    return Comparison(
        metric="perplexity",
        names=(f"the {first.name}", f"the {second.name}"),
        values=(first.perplexity, second.perplexity),
        n=first.n,
        change=math.exp(gain.sum() / first.tokens),
        interval=(low, high),
        verdict=_verdict(high < 1, low > 1),
        only_first=int((gain < 0).sum()),
        only_second=int((gain > 0).sum()),
    )


def _check_names(names: Sequence[str]) -> None:
    if not isinstance(names, tuple | list) or len(names) != 2:
        raise DataError(
            f"names is {names!r}.",
            fix='pass what to call the two, such as names=("LoRA", "full fine-tuning")',
        )


def _verdict(better: bool, worse: bool) -> str:
    return "better" if better else "worse" if worse else "can't tell"
