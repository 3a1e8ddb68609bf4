"""What the lesson tells of files, order and history is what the registry does."""

from __future__ import annotations

import re
from pathlib import Path

from lesson_source import lesson_text, statement

from lessonkit.exercises import load_exercises
from lessonkit.exercises import production_model_registry as facts

LESSON = "production/model-registry"


def test_the_exercises_story_is_the_one_that_is_told() -> None:
    told = " ".join(lesson_text(LESSON).replace("\n# ", " ").split())
    story = re.search(r"in this order: (.*?)\. Which version", told).group(1)
    history: list[int] = []
    for step in story.split(", "):
        number = re.search(r"\d+", step)
        history = [*history, int(number.group())] if number else history[:-1]
    assert history == [facts._rollback().reference]


def test_the_order_is_asked_with_the_exercises_options() -> None:
    text = lesson_text(LESSON)
    for letter, option in facts._order().options.items():
        assert f'# - `"{letter}"` {option}\n' in text


def test_the_solution_finds_all_differences() -> None:
    names: dict = {}
    exec(facts._differences().source, names)
    for case in facts._differences().cases:
        assert names["differences"](*case) == facts._differences_reference(*case)
    assert load_exercises(LESSON).keys() == {"order", "differences", "rollback"}


def test_a_turned_bit_turns_back(tmp_path: Path) -> None:
    file, names = tmp_path / "weights", {}
    file.write_bytes(b"abc")
    exec(statement(LESSON, "turn_a_bit"), names)
    names["turn_a_bit"](file)
    assert file.read_bytes() == b"abb"
    names["turn_a_bit"](file)
    assert file.read_bytes() == b"abc"
