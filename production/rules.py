"""Alert rules without Prometheus: reads the same ``alerts.yml``, and evaluates the part of PromQL that it uses.

``python -m production.rules test production/alerts_test.yml`` runs the tests that ``promtool test rules`` runs. An
expression with anything that is not understood here is refused, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from lessonkit.errors import DataError, LessonError
from production.commands import run
from production.promql import Store, evaluate, milliseconds, parse, read_duration

__all__ = ["ALERTS", "Alert", "Rule", "Rules", "read_rules", "scaled", "test_file"]

#: The rules that come with the application.
ALERTS = Path(__file__).with_name("alerts.yml")


@dataclass(frozen=True)
class Rule:
    """alert: its name. wait: seconds that ``expr`` must hold without a gap before it fires (``for`` in the file)."""

    alert: str
    expr: str
    wait: float
    labels: dict[str, str]
    annotations: dict[str, str]


@dataclass
class Alert:
    """One rule that holds for one set of labels, since ``since`` (seconds); ``firing`` once it has held long enough."""

    rule: Rule
    labels: dict[str, str]
    since: float
    value: float = math.nan
    firing: bool = False


@dataclass
class Rules:
    """Rules and what they have found so far."""

    rules: list[Rule]
    active: dict[tuple, Alert] = field(default_factory=dict)

    def step(self, store: Store, now: float) -> tuple[list[Alert], list[Alert]]:
        """Evaluate all rules at ``now`` (seconds). Gives (firing, just resolved) alerts."""
        resolved = []
        for rule in self.rules:
            found = evaluate(parse(rule.expr), store, now)
            if not isinstance(found, dict):
                raise DataError(f"{rule.alert}: {rule.expr} gives one number, an alert needs series.")
            for labels, value in found.items():
                key = (rule.alert, labels)
                alert = self.active.setdefault(key, Alert(rule, {**dict(labels), **rule.labels}, now))
                alert.value, alert.firing = value, alert.firing or now - alert.since >= rule.wait
            for key in [each for each in self.active if each[0] == rule.alert and each[1] not in found]:
                alert = self.active.pop(key)
                if alert.firing:
                    resolved.append(alert)
        return [each for each in self.active.values() if each.firing], resolved


def _yaml(path: str | Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.", fix="check the path") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path} is no YAML: {error}.", fix="mend that line") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no settings.", fix=f"start from a copy of {ALERTS}")
    return found


def read_rules(path: str | Path = ALERTS) -> Rules:
    """The rules of all groups. DataError names the rule that can't be read, and why."""
    rules = []
    for group in _yaml(path).get("groups", []):
        for each in group.get("rules", []):
            if "alert" not in each or "expr" not in each:
                raise DataError(f"A rule in {path} has no alert or no expr.", fix="give it both")
            try:
                parse(each["expr"])
                wait = read_duration(str(each.get("for", "0s")))
            except ValueError as error:
                raise DataError(
                    f"{each['alert']} can't be read: {error}.",
                    why="only a part of PromQL is understood without Prometheus",
                    fix="write it by rate, increase, sum, histogram_quantile, a comparison and `and`",
                ) from None
            labels, notes = each.get("labels", {}), each.get("annotations", {})
            rules.append(Rule(each["alert"], each["expr"].strip(), wait, dict(labels), dict(notes)))
    if not rules:
        raise DataError(f"{path} holds no rules.", fix=f"start from a copy of {ALERTS}")
    return Rules(rules)


def scaled(path: str | Path, factor: float, target: str | Path) -> Path:
    """A copy of a rule file for a rehearsal: each window and each ``for`` divided by ``factor``; nothing else changes."""
    if factor <= 0:
        raise DataError("The factor must be above 0.", fix="15 makes 15 s of a rehearsal stand for 225 s")
    import yaml

    found = _yaml(path)

    def shorter(text: str) -> str:
        return milliseconds(read_duration(text) / factor)

    for group in found.get("groups", []):
        for each in group.get("rules", []):
            each["expr"] = re.sub(r"\[([^\]]+)\]", lambda match: f"[{shorter(match[1])}]", each["expr"])
            if "for" in each:
                each["for"] = shorter(str(each["for"]))
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump(found, sort_keys=False, width=1000), encoding="utf-8")
    return target


# ---- promtool's tests ------------------------------------------------------------------------------------


def _values(text: str) -> Iterable[float | None]:
    """``1 2 _ 5x2 0+10x3``: promtool's notation, one value a step; None where there is no sample."""
    for word in str(text).split():
        found = re.fullmatch(r"(-?[\d.]+)(?:([+-][\d.]+))?(?:x(\d+))?", word)
        missing = re.fullmatch(r"_(?:x(\d+))?", word)
        if missing:
            yield from [None] * int(missing[1] or 1)
        elif found:
            first, step, count = float(found[1]), float(found[2] or 0), int(found[3] or 0)
            yield from (first + step * each for each in range(count + 1))
        else:
            raise DataError(f"{word!r} is no series of values.", fix="write such as 0+10x60, 1x5 or 1 2 3")


def _filled(series: Iterable[Mapping[str, str]], step: float) -> tuple[Store, int]:
    store, longest = Store(), 0
    for each in series:
        selector = parse(each["series"])
        labels = {name: value for name, _, value in selector.matchers}
        values = list(_values(each["values"]))
        longest = max(longest, len(values))
        for number, value in enumerate(values):
            if value is not None:
                store.add(selector.name, labels, number * step, value)
    return store, longest


def test_file(path: str | Path) -> list[str]:
    """Run a file of tests for ``promtool test rules``; what failed, in sentences. [] is a pass."""
    found, wrong = _yaml(path), []
    files = [Path(path).parent / each for each in found["rule_files"]]
    every = read_duration(str(found.get("evaluation_interval", "1m")))
    for test in found["tests"]:
        store, _ = _filled(test["input_series"], read_duration(str(test["interval"])))
        rules = Rules([rule for file in files for rule in read_rules(file).rules])
        asked = [(read_duration(str(each["eval_time"])), each) for each in test["alert_rule_test"]]
        firing: dict[float, list[Alert]] = {}
        for number in range(int(max(time for time, _ in asked) / every) + 1):
            now = number * every
            firing[now] = [Alert(**vars(each)) for each in rules.step(store, now)[0]]
        for time, each in asked:
            at = firing[time // every * every]
            got = [_plain(a.labels, a.rule.annotations) for a in at if a.rule.alert == each["alertname"]]
            wanted = [_plain(a["exp_labels"], a["exp_annotations"]) for a in each.get("exp_alerts", [])]
            if sorted(got) != sorted(wanted):
                where = f"{test.get('name', 'a test')}: {each['alertname']} at {each['eval_time']}"
                wrong.append(f"{where}: expected {wanted or 'nothing'}, got {got or 'nothing'}")
    return wrong


test_file.__test__ = False  # a function of ours, not a test of pytest's


def _plain(*parts: Mapping[str, str]) -> list[tuple[str, str]]:
    return [pair for part in parts for pair in sorted((key, str(value)) for key, value in part.items())]


def main(
    action: Annotated[str, typer.Argument(help="check or test")] = "check",
    file: Annotated[str, typer.Argument()] = "",
) -> None:
    """Check a file of rules, or run a file of tests."""
    if action == "check":
        rules = read_rules(file or ALERTS)
        typer.echo(f"{len(rules.rules)} rules: {', '.join(each.alert for each in rules.rules)}")
    elif action == "test":
        wrong = test_file(file or ALERTS.with_name("alerts_test.yml"))
        if wrong:
            raise LessonError("The rules don't do what the tests say.", why="\n".join(wrong))
        typer.echo("all tests passed")
    else:
        raise LessonError(f"{action!r} is unknown.", fix="type check or test")


if __name__ == "__main__":
    run(main)
