"""The lesson's exercises ask for what production/ does, and what it writes by hand is right."""

from __future__ import annotations

from lesson_source import lesson_text, statement

from lessonkit.exercises import production_experiment_tracking as facts
from production import trackers
from production.comparing import CAUSES, compare_runs
from production.records import rows_sha256

LESSON = "production/experiment-tracking"
EXERCISES = {each.name: each for each in facts.exercises()}


def test_the_exercise_takes_the_same_data_for_the_same_as_production() -> None:
    same = EXERCISES["fingerprint"].reference
    verdicts = [same(one, other) for one, other in EXERCISES["fingerprint"].cases]
    assert verdicts == [
        rows_sha256(one) == rows_sha256(other) for one, other in EXERCISES["fingerprint"].cases
    ]
    assert set(verdicts) == {True, False}


def test_the_exercise_names_the_versions_that_a_comparison_names() -> None:
    for then, now in EXERCISES["changed"].cases:
        records = [
            {"run_id": "", "files": {}, "metrics": {}} | {key: {} for key in CAUSES} | {"versions": each}
            for each in (then, now)
        ]
        found = [f"versions.{name}" for name in EXERCISES["changed"].reference(then, now)]
        assert sorted(compare_runs(*records).differences) == found


def test_the_curve_is_a_mean_of_the_last_steps() -> None:
    found: dict = {}
    exec(statement(LESSON, "smooth"), found)
    assert found["smooth"]([4.0, 2.0, 0.0], width=2) == [4.0, 3.0, 1.0]


def test_the_lesson_sends_nothing() -> None:
    text = lesson_text(LESSON)
    assert text.index("trackers.quiet()") < text.index("import wandb")
    assert trackers.VARIABLES["WANDB_MODE"] == "offline"
