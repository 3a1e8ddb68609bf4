"""The exercises ask for what the pipeline does, and the lesson's numbers are the pipeline's own."""

from __future__ import annotations

import tomllib

import pytest
from lesson_source import lesson_text, statement

from lessonkit.exercises import load_exercises
from lessonkit.exercises import production_capstone as facts
from production.documentation import unknown_numbers
from production.pipeline import STEPS, Pipeline
from production.recipe import Tracking
from production.registry_gate import Judging
from production.serving import Serving

LESSON = "production/capstone"


def told() -> str:
    return " ".join(lesson_text(LESSON).replace("\n# ", " ").split())


def test_the_steps_that_a_servers_setting_reaches_are_the_pipelines() -> None:
    needs = {step.name: list(step.needs) for step in STEPS}
    readers = [step.name for step in STEPS if facts.CHANGED in step.reads]
    assert readers == list(facts.READ_IT)
    assert facts._anew_reference(needs, readers) == list(facts.ANEW)
    assert facts._by_ancestors(needs, readers) == list(facts.ANEW)
    assert len(STEPS) == facts.ALL
    assert "How many of the ten steps will it do?" in told()


def test_the_solutions_do_what_the_references_do() -> None:
    for exercise, reference in (
        (facts._anew(), facts._anew_reference),
        (facts._stands(), facts._stands_reference),
    ):
        names: dict = {}
        exec(exercise.source, names)
        for case in exercise.cases:
            assert names[exercise.name](*case) == reference(*case)
    assert list(load_exercises(LESSON)) == ["anew", "serving", "stands", "refused"]


@pytest.mark.parametrize("case", facts._stands().cases)
def test_the_exercise_judges_as_the_documents_are_judged(case: tuple) -> None:
    written, value = case
    assert facts._stands_reference(written, value) == (unknown_numbers(written, {"a": {"b": value}}) == [])


def test_the_options_are_asked_as_they_stand() -> None:
    for letter, option in facts._refused().options.items():
        assert f"**{letter}** {option}" in told()


@pytest.mark.parametrize("recipe", ["first", "better"])
def test_the_settings_file_is_what_the_sections_take(tmp_path, recipe: str) -> None:
    names = {
        "RECIPES": {"first": (48, 2, 4e-4), "better": (64, 2, 4e-4)},
        "SETTINGS": tmp_path / "settings.toml",
        **{"MODEL": "minilm", "GATE_TEXTS": 32, "CANARY_USERS": 12, "USERS": 24, "REHEARSED": 24},
    }
    exec(statement(LESSON, "settle"), names)
    names["settle"](recipe, 0.5)
    found = tomllib.loads(names["SETTINGS"].read_text())
    kinds = {"tracking": Tracking, "registry": Judging, "serving": Serving, "pipeline": Pipeline}
    assert {name: kinds[name](**section) for name, section in found.items()}.keys() == kinds.keys()
