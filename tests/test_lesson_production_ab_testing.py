"""The lesson's own code keeps what its prose says; its exercises count as the application does."""

from __future__ import annotations

import hashlib
import re
import shlex

import numpy as np
import pytest
from lesson_source import lesson_text, statement

from lessonkit.exercises import production_ab_testing as facts
from production import ab
from production.router import main

LESSON = "production/ab-testing"


def own(*names: str, **given) -> dict:
    """The lesson's own functions, as a learner has them, with the names that they use."""
    found = {"np": np, "ab": ab, "REPEATS": 3000, "SEED": 0, **given}
    for each in names:
        exec(statement(LESSON, each), found)
    return found


def test_half_the_difference_takes_the_users_of_the_exercise():
    for rate in (0.3, 0.5, 0.8):
        ratio = ab.sample_size(rate, rate + 0.04)[0] / ab.sample_size(rate, rate + 0.08)[0]
        assert abs(ratio - facts._quarter().reference) < facts._quarter().tolerance


@pytest.mark.parametrize("user", ["a", "user-7", "Ü"])
def test_the_exercise_assigns_as_the_router_does(user: str):
    names: dict = {"hashlib": hashlib}
    exec(facts._assigned().source, names)
    for share in (0.0, 0.1, 0.5, 1.0):
        assert names["assigned"](user, "one", share) == ab.assign(user, "one", share)


def test_the_exercise_counts_as_the_application_does():
    names: dict = {}
    exec(facts._outcomes().source, names)
    for (lines,) in facts._outcomes().cases:
        counted = ab.per_user([line | {"experiment": "one"} for line in lines])
        wanted = {arm: [value for each, value in counted if each == arm] for arm in "AB"}
        assert names["outcomes"](lines) == wanted


def test_its_simulated_rules_do_what_its_prose_says():
    planned = ab.sample_size(0.8, 0.88)[0]
    given = {"PLANNED": planned, "RATE": 0.8, "HOPED": 0.88}
    names = own("simulate", "looks", "four", "tau", "bounds", "crossed", "stopped_at", **given)
    none, real = names["crossed"](0.8), names["crossed"](0.88)
    alarms = {name: hit[:, -1].mean() for name, (_, hit) in none.items()}
    assert alarms["peeking at p"] > 0.15
    assert alarms["confidence sequence"] <= 0.05
    assert abs(alarms["four planned looks"] - 0.05) < 0.015
    at, hit = real["four planned looks"]
    assert hit[:, -1].mean() > 0.76
    assert names["stopped_at"](at, hit).mean() < planned
    at, hit = real["confidence sequence"]
    by_plan = hit[:, np.searchsorted(at, planned, side="right") - 1].mean()
    assert by_plan < 0.75 < hit[:, -1].mean()


def test_the_last_digit_is_caught_and_the_hash_is_not():
    names = own("ids")
    digits = sum(int(user) % 2 for user in names["ids"])
    assert len(set(names["ids"])) == 10_000
    assert not ab.ratio_check(10_000 - digits, digits).ok
    hashed = sum(ab.assign(user, "one") == "B" for user in names["ids"])
    assert ab.ratio_check(10_000 - hashed, hashed).ok


def test_its_commands_have_these_options():
    import inspect

    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(main).parameters}
    lines = re.findall(r"^# python -m production\.router (.*)$", lesson_text(LESSON), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        assert {each for each in shlex.split(line) if each.startswith("--")} <= known
