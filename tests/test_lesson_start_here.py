"""The first page says of other lessons what the course says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lessonkit.curriculum import load_curriculum

ROOT = Path(__file__).resolve().parents[1]
COURSE = load_curriculum(check_files=False)
# "[full fine-tuning, beginner](beginner/full-fine-tuning.ipynb): 85 minutes"
MINUTES = re.compile(r"\((?:notebooks/)?([\w/-]+)\.ipynb\)[:,]? (\d+) minutes")


@pytest.mark.parametrize("page", ["lessons/00-start-here.py", "lessons/README.md", "lessons/study-tips.md"])
def test_minutes_beside_a_link_are_those_of_the_course(page: str):
    text = (ROOT / page).read_text(encoding="utf-8").replace("\n# ", "\n")
    for lesson, minutes in MINUTES.findall(text):
        assert COURSE.lesson(lesson).minutes == int(minutes), lesson


def test_its_own_minutes_are_those_of_the_course():
    text = (ROOT / COURSE.lesson("start-here").source).read_text(encoding="utf-8")
    assert f"**{COURSE.lesson('start-here').minutes} minutes**" in text


def test_commands_that_it_names_are_there():
    from lessonkit.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    for page in ("lessons/00-start-here.py", "lessons/study-tips.md", "progress/README.md"):
        named = set(re.findall(r"`lessonkit ([a-z]+)", (ROOT / page).read_text(encoding="utf-8")))
        assert named
        assert named <= known
