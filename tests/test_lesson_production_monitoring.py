"""The exercises on monitoring ask for what production/ does, and their numbers are the rules' own."""

from __future__ import annotations

import random
import re

import pytest
from lesson_source import lesson_text

from lessonkit.exercises import production_monitoring as facts
from production.promql import Store, evaluate, parse
from production.rules import Rules, read_rules

LESSON = "production/monitoring"


def told() -> str:
    return re.sub(r"\n# ", " ", lesson_text(LESSON))


@pytest.mark.parametrize("seed", range(5))
def test_increase_by_hand_is_the_evaluators(seed: int) -> None:
    draws, values = random.Random(seed), [0]
    for _ in range(20):
        values.append(draws.randint(0, 3) if draws.random() < 0.2 else values[-1] + draws.randint(0, 9))
    store = Store()
    for number, value in enumerate(values):
        store.add("hits_total", {}, 15 * number, value)
    last = 15 * (len(values) - 1)
    found = evaluate(parse(f"increase(hits_total[{last}s])"), store, last)[()]
    assert found == pytest.approx(
        facts._increase_reference(values)
    )  # samples at both ends: nothing to extrapolate


def test_the_alert_fires_when_the_exercise_says() -> None:
    rules = Rules([each for each in read_rules().rules if each.alert == "LowConfidence"])
    (rule,) = rules.rules
    assert rule.wait == facts.WAIT
    assert f"[{facts.WINDOW // 60}m]" in rule.expr
    assert f"> {facts.BOUND} and" in rule.expr
    store, change, low = Store(), 900, 0.0
    for now in range(0, 1800, 5):  # five answers a second
        low += 25 * facts.AFTER if now > change else 0
        store.add("classifier_confidence_bucket", {"le": "0.6", "version": "2"}, now, low)
        store.add("classifier_confidence_count", {"version": "2"}, now, 5.0 * now)
        if rules.step(store, now)[0]:
            break
    exercise = facts._when()
    assert now - change == pytest.approx(exercise.reference, abs=exercise.tolerance)


def test_the_numbers_of_the_exercises_stand_in_the_lesson() -> None:
    text = told()
    assert f"the window is {facts.WINDOW // 60} minutes and `for` is {facts.WAIT // 60} minute" in text
    assert f"{facts.AFTER * 100:.0f} % have. The rule wants a share above {facts.BOUND}" in text
    assert "Three statistics, each with a false alarm rate of 1 % a window; a window every 15 minutes" in text
    from production.drift import STATISTICS

    assert len(STATISTICS) == facts.STATISTICS


def test_its_options_are_the_letters_of_the_exercise() -> None:
    part = told()
    part = part[part.index("**Exercise 4") :]
    for letter, said in facts._rollback().options.items():
        assert f"**{letter}**: {said[0].lower()}{said[1:].split(':')[0].split(',')[0]}" in part
