"""A learner who does what `lessonkit next` says completes a path, and every item of it is ticked by evidence.

The learner's answers are the reference answers, given to the lesson's own checks; what the notebooks train is run by the
notebook tests, so that here a lesson's last cell alone keeps a result.
"""

from __future__ import annotations

import pytest

import lessonkit
from lessonkit.curriculum import Curriculum, load_curriculum
from lessonkit.exercises import load_exercises
from lessonkit.lesson import RESULT_VARIABLE
from lessonkit.progress import Journal, fold, tick
from lessonkit.progress.records import Progress

COURSE = load_curriculum(check_files=False)
MOST_STEPS = 60


def progress_of(journal: Journal) -> Progress:
    return fold(journal.read().events, COURSE)


def study(name: str, journal: Journal) -> None:
    """Do a lesson: answer its exercises and keep a result, or read it, if it is a guide."""
    if not COURSE.lesson(name).runnable:
        tick(journal, COURSE, name, "read")
        return
    lesson = lessonkit.start(name)
    for exercise in load_exercises(name).values():
        exercise.scale = lesson.scale
        answer = exercise.made(exercise.reference)
        outcome = lesson.exercise(exercise.name).check(answer)
        assert outcome.passed or lesson.scale == "smoke", f"{name}:{exercise.name}: {outcome.message}"
    lesson.record(seconds_of_the_walk=1.0)


def walk(path: str, journal: Journal) -> list[str]:
    """The lessons done until nothing is left to do."""
    done: list[str] = []
    while (step := progress_of(journal).next_step(path)).kind == "lesson" and len(done) < MOST_STEPS:
        assert step.id not in done, f"{step.id} is done, and is proposed again"
        study(step.id, journal)
        done.append(step.id)
    return done


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Journal:
    monkeypatch.setenv(RESULT_VARIABLE, str(tmp_path / "result.json"))  # and no clock runs
    return Journal()


def written(course: Curriculum, path: str) -> bool:
    return all(course.lesson(name).written for name in course.path(path).lesson_ids)


PATHS = [each.id for each in COURSE.paths if written(COURSE, each.id)]


@pytest.mark.parametrize("path", PATHS)
def test_who_follows_the_suggestions_completes_the_path_by_evidence(
    path: str, journal: Journal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("LESSONKIT_SCALE", "laptop")
    done = walk(path, journal)
    progress, told = progress_of(journal), capsys.readouterr().out
    assert set(COURSE.path(path).lesson_ids) <= {*done}
    items = [item.id for item in COURSE.path(path).checklist]
    assert {item: progress.ticked[item].by for item in items if item in progress.ticked} == dict.fromkeys(
        items, "evidence"
    )
    for item in COURSE.path(path).checklist:
        why = progress.ticked[item.id].why
        assert all(name in why for name in item.evidence.lessons)
        assert f"✅ Ticked: {item.text}" in told
    assert progress.next_step(path).kind == "finished"
    assert progress.done(path) == (len(items),) * 2


def test_every_path_is_walked():
    assert [each.id for each in COURSE.paths] == PATHS
    assert len(COURSE.path("production-ready").checklist) == 12


def test_at_smoke_scale_nothing_is_earned(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LESSONKIT_SCALE", "smoke")
    for name in ("introduction", "beginner/full-fine-tuning", "beginner/lora"):
        study(name, journal)
    assert progress_of(journal).done("quick-start").ticked == 0
