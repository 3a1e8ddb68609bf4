"""Who may become champion: both models answer the same held-out texts, and lessonkit's gate compares them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lessonkit.errors import DataError
from lessonkit.scoring import (
    Evaluation,
    EvaluationConfig,
    Gate,
    evaluate,
    evaluate_function,
    gate,
    labelled_texts,
)

__all__ = ["BASELINE", "Judging", "judge"]

#: What a first version is compared with.
BASELINE = "always the most frequent label"


@dataclass(frozen=True)
class Judging:
    """Section [registry]. name: of the registered model, a folder's name too. data, split: the held-out texts, a
    dataset of the course, or a file with texts and labels. texts: so many of them, 0 for all. max_length: tokens of
    a text that are read. allow_equal, margin: see ``lessonkit.gate``.
    """

    name: str = "topics"
    data: str = "reuters-r8"
    split: str = "test"
    texts: int = 600
    max_length: int = 40
    allow_equal: bool = False
    margin: float = 0.01

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"name is {self.name!r}: use letters, digits, - and _")
        if self.texts < 0 or self.max_length < 1:
            raise ValueError("texts can't be below 0, nor max_length below 1")
        if not 0 <= self.margin < 1:
            raise ValueError("margin must be a share of the texts, from 0 to 1")


def judge(candidate: Path, champion: Path | None, rules: Judging, folder: Path) -> Gate:
    """The gate's decision on two model folders; ``champion`` None: against the baseline. Evaluations go to ``folder``.

    Raises DataError or ModelError where one can't be evaluated; then there is no decision.
    """
    found = evaluate(_config(candidate, rules, folder / "candidate"))
    if champion is None:
        other = _baseline(found, rules, folder / "champion")
    else:
        other = evaluate(_config(champion, rules, folder / "champion"))
    return gate(
        found, other, allow_equal=rules.allow_equal, margin=rules.margin if rules.allow_equal else 0.0
    )


def _config(model: Path | str, rules: Judging, output: Path) -> EvaluationConfig:
    return EvaluationConfig(
        model=str(model),
        data=rules.data,
        split=rules.split,
        limit=rules.texts,
        max_length=rules.max_length,
        output=str(output),
    )


def _baseline(candidate: Evaluation, rules: Judging, output: Path) -> Evaluation:
    """The most frequent label of the held-out texts themselves: no constant answer scores higher on them."""
    config = _config(BASELINE, rules, output)
    labels = labelled_texts(config).labels
    names = candidate.metrics["names"]
    if not labels:
        raise DataError("There is no held-out text.", fix="check `data` in [registry]")
    best = Counter(str(each) for each in labels).most_common(1)[0][0]
    row = [float(name == best) for name in names]
    return evaluate_function(config, lambda texts: [row] * len(texts), names)
