"""What two runs' records have in common, and where they part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Comparison", "compare_runs"]

#: The parts of a record that can make a training come out otherwise.
CAUSES = ("data", "code", "seed", "hardware", "versions", "settings")
NAMES_OF_CODE = ("code.version", "code.commit", "code.dirty")
WEIGHTS = "model/model.safetensors"


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    one, other: their run ids. differences: ``{"settings.steps": (60, 80)}``, of all that was recorded beforehand.
    same_weights: whether the weights' sha256 is equal. same_losses: whether each step's loss is, to the last bit.
    first_difference: the first step whose losses differ, None if there is none. largest: the largest gap between two
    losses of one step. metrics: name -> both values. Code of the same sha256 is the same, in whatever commit it lies.
    """

    one: str
    other: str
    differences: dict[str, tuple[Any, Any]]
    same_weights: bool
    same_losses: bool
    first_difference: int | None
    largest: float
    metrics: dict[str, tuple[Any, Any]]

    @property
    def same(self) -> bool:
        """Bit for bit: weights and losses."""
        return self.same_weights and self.same_losses

    def __str__(self) -> str:
        lines = [f"{self.one} and {self.other}"]
        lines += [f"  {name}: {one!r} -> {other!r}" for name, (one, other) in self.differences.items()]
        lines += [] if self.differences else ["  recorded alike: " + ", ".join(CAUSES)]
        lines.append(f"  weights: {'equal, bit for bit' if self.same_weights else 'different'}")
        if self.same_losses:
            lines.append("  losses:  equal at each step, bit for bit")
        elif self.first_difference is None:
            lines.append("  losses:  of different lengths, equal as far as both go")
        else:
            lines.append(
                f"  losses:  differ from step {self.first_difference} on, by {self.largest:.1e} at most"
            )
        lines += [f"  {name}: {_told(one)} -> {_told(other)}" for name, (one, other) in self.metrics.items()]
        return "\n".join(lines)


def compare_runs(one: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison:
    """Compare two records, as ``records.read_run`` gives them."""
    flat = [_flat({name: record[name] for name in CAUSES}) for record in (one, other)]
    names = list(dict.fromkeys([*flat[0], *flat[1]]))
    if flat[0].get("code.sha256") is not None and flat[0]["code.sha256"] == flat[1].get("code.sha256"):
        names = [name for name in names if name not in NAMES_OF_CODE]  # the same text by another name
    losses = [dict(record.get("losses", [])) for record in (one, other)]
    gaps = {
        step: _gap(losses[0][step], losses[1][step])
        for step in losses[0]
        if step in losses[1] and losses[0][step] != losses[1][step]
    }
    weights = [record["files"].get(WEIGHTS) for record in (one, other)]
    return Comparison(
        one["run_id"],
        other["run_id"],
        {
            name: (flat[0].get(name), flat[1].get(name))
            for name in names
            if flat[0].get(name) != flat[1].get(name)
        },
        weights[0] is not None and weights[0] == weights[1],
        bool(losses[0]) and losses[0] == losses[1],
        min(gaps, default=None),
        max(gaps.values(), default=0.0),
        {
            name: (value, other["metrics"][name])
            for name, value in one["metrics"].items()
            if name in other["metrics"]
        },
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {
        key: each
        for inner, content in value.items()
        for key, each in _flat(content, f"{name}.{inner}" if name else inner).items()
    }


def _gap(one: float | None, other: float | None) -> float:
    """A loss that was not finite is recorded as None: infinitely far from any other."""
    return float("inf") if one is None or other is None else abs(one - other)


def _told(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
