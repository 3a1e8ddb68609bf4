"""A lesson starts by saying where it stands, and ends by recording what was really learned."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import lessonkit
from lessonkit import colab, curriculum
from lessonkit import lesson as module
from lessonkit.curriculum import load_curriculum
from lessonkit.errors import ExerciseError, LessonError, UnknownNameError
from lessonkit.exercises import TODO, Choice, Value, WrongAnswer
from lessonkit.hardware import GIB, Hardware
from lessonkit.lesson import Lesson, current, start
from lessonkit.progress.journal import Journal
from lessonkit.training import Run

NAME = "beginner/full-fine-tuning"
UNWRITTEN = "expert/adapters"


def hardware(scale: str) -> Hardware:
    reasons = dict.fromkeys(("device", "dtype", "scale", "threads", "attention"), "a reason")
    return Hardware(
        device="cpu",
        device_name="Some CPU",
        device_count=0,
        compute_capability=None,
        memory_total_bytes=8 * GIB,
        memory_free_bytes=5 * GIB,
        cpu_name="Some CPU",
        cpu_cores=2,
        cpu_features=(),
        ram_total_bytes=8 * GIB,
        dtype="float32",
        scale=scale,
        threads=2,
        attention="sdpa",
        reasons=reasons | {"scale": "because of the test"},
    )


@pytest.fixture(autouse=True)
def course(monkeypatch: pytest.MonkeyPatch):
    """The real course, with one lesson that is written and one that is not, whatever the state of the others."""
    real = load_curriculum(check_files=False)
    written = {NAME: True, UNWRITTEN: False}
    lessons = tuple(
        dataclasses.replace(each, written=written.get(each.id, each.written)) for each in real.lessons
    )
    course = dataclasses.replace(real, lessons=lessons)
    monkeypatch.setattr(module, "load_curriculum", lambda **_: course)
    monkeypatch.setattr(module, "detect_hardware", lambda: hardware("laptop"))
    return course


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch):
    """A function that starts the lesson at a scale."""

    def at(scale: str = "laptop") -> Lesson:
        monkeypatch.setattr(module, "detect_hardware", lambda: hardware(scale))
        return start(NAME)

    return at


def events(kind: str) -> list[dict]:
    return [event.data for event in Journal().read(kind).events]


def test_start_says_machine_scale_and_where_progress_is_kept(capsys):
    lesson = lessonkit.start(NAME)
    shown = capsys.readouterr().out
    assert "Some CPU, 2 cores, 8.0 GiB" in shown
    assert "laptop (because of the test)" in shown
    assert "journal.jsonl" in shown
    assert [line.split(":")[0] for line in shown.splitlines()] == ["Machine", "Numbers", "Scale", "Progress"]
    assert (lesson.name, lesson.scale, lesson.title) == (NAME, "laptop", "Full Fine-Tuning, Beginner")
    assert current() is lesson
    assert repr(lesson) == f"Lesson({NAME!r}, scale='laptop')"


def test_pefts_question_by_an_old_name_is_not_shown(begin):
    """One message alone: other deprecations are still told."""
    import warnings

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        begin()
        warnings.warn(
            "`is_gradient_checkpointing` is deprecated and will be removed in v6.",
            FutureWarning,
            stacklevel=1,
        )
        assert not told
        warnings.warn("`another` is deprecated", FutureWarning, stacklevel=1)
        assert len(told) == 1


def test_start_writes_nothing(begin, tmp_path: Path):
    begin()
    assert not (tmp_path / "progress").exists()
    assert not (tmp_path / "outputs").exists()


def test_progress_inside_the_project_or_home_is_told_shortly(monkeypatch, tmp_path: Path):
    home = tmp_path / "home"
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setattr(module, "project_root", lambda: home / "course")
    assert module._short(home / "course" / "progress" / "journal.jsonl") == "progress/journal.jsonl"
    assert module._short(home / "notes" / "journal.jsonl") == "~/notes/journal.jsonl"
    assert module._short(tmp_path / "else.jsonl") == str(tmp_path / "else.jsonl")


def test_damaged_journal_line_is_told_and_costs_nothing(begin, capsys, tmp_path: Path):
    Journal().append("note", text="kept")
    path = Journal().path
    path.write_bytes(path.read_bytes() + b"{half a li\n")
    begin()
    shown = capsys.readouterr().out
    assert "Note:" in shown
    assert "line 2" in shown
    assert events("note") == [{"text": "kept"}]


@pytest.mark.parametrize(
    "typed", ["beginner/full-fine-tunning", "full-fine-tuning/beginner", "Beginner/Full-Fine-Tuning"]
)
def test_misspelt_lesson_offers_the_nearest(typed: str):
    with pytest.raises(UnknownNameError) as caught:
        start(typed)
    assert NAME in caught.value.nearest
    assert current() is None


def test_lesson_by_its_last_part_offers_the_levels():
    with pytest.raises(UnknownNameError, match=NAME):
        start("full-fine-tuning")


def test_unwritten_lesson_says_so():
    with pytest.raises(LessonError, match="not written yet") as caught:
        start(UNWRITTEN)
    assert "lessonkit lessons" in caught.value.fix
    assert current() is None


def test_bad_scale_stops_the_start(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("LESSONKIT_SCALE", "larg")
    with pytest.raises(UnknownNameError):
        start("start-here" if load_curriculum(check_files=False).ready("start-here") else NAME)


@pytest.mark.parametrize(("scale", "value"), [("smoke", 1), ("laptop", 2), ("gpu", 3)])
def test_pick_takes_the_value_of_the_scale(begin, scale: str, value: int):
    assert begin(scale).pick(smoke=1, laptop=2, gpu=3) == value


def test_pick_wants_all_three(begin):
    with pytest.raises(TypeError, match="gpu"):
        begin().pick(smoke=1, laptop=2)


def test_folder_is_made_when_asked_for_and_stays(begin, tmp_path: Path):
    folder = begin().folder
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path)
    assert folder.name == "beginner-full-fine-tuning"
    (folder / "model").mkdir()
    assert (begin().folder / "model").is_dir()


def test_folder_that_cannot_be_made_is_told(begin, monkeypatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LESSONKIT_OUTPUTS", str(tmp_path / "file"))
    with pytest.raises(LessonError, match="cannot be made") as caught:
        begin().folder  # noqa: B018
    assert "LESSONKIT_OUTPUTS" in caught.value.fix


def test_folder_without_the_variable_is_the_projects(begin, monkeypatch, tmp_path: Path):
    monkeypatch.delenv("LESSONKIT_OUTPUTS")
    monkeypatch.setattr(module, "project_root", lambda: tmp_path / "course")
    assert begin().folder == tmp_path / "course" / "outputs" / "beginner-full-fine-tuning"


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
def test_record_keeps_a_real_run(begin, capsys, scale: str):
    lesson = begin(scale)
    lesson.runs += [Run(seconds=2.0, peak_bytes=300), Run(seconds=1.25, peak_bytes=500)]
    lesson.record(test_accuracy=0.96, macro_f1=0.9)
    (kept,) = events("run")
    assert kept == {
        "lesson": NAME,
        "scale": scale,
        "metrics": {"test_accuracy": 0.96, "macro_f1": 0.9},
        "seconds": 3.25,
        "peak_bytes": 500,
        "hardware": "Some CPU, 2 cores, 8.0 GiB",
    }
    assert "Recorded" in capsys.readouterr().out


def test_record_keeps_the_last_trainings_curves(begin):
    lesson = begin()
    lesson.runs += [Run(losses=[(step, 3.0 - number) for step in range(1, 201)]) for number in range(6)]
    lesson.runs.append(Run(losses=[(1, 0.5)]))  # a single point is no curve
    lesson.record(test_accuracy=0.96)
    curves = events("run")[0]["curves"]
    assert list(curves) == ["training 3", "training 4", "training 5", "training 6"]
    assert all(len(points) <= 60 for points in curves.values())
    assert curves["training 6"][-1] == [200, -2.0]


def test_record_at_smoke_scale_leaves_no_evidence(begin, capsys):
    lesson = begin("smoke")
    lesson.record(test_accuracy=0.5)
    assert not lesson.journal.path.exists()
    assert "Nothing is recorded" in capsys.readouterr().out


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_record_hands_its_result_to_the_command_line(begin, monkeypatch, tmp_path: Path, scale: str):
    result = tmp_path / "result.json"
    monkeypatch.setenv("LESSONKIT_RESULT", str(result))
    begin(scale).record(test_accuracy=0.96)
    told = json.loads(result.read_text(encoding="utf-8"))
    assert set(told) == {"lesson", "scale", "metrics", "seconds", "peak_bytes"}
    assert (told["lesson"], told["scale"], told["metrics"]) == (NAME, scale, {"test_accuracy": 0.96})


def test_record_takes_the_scalars_of_numpy_and_torch(begin):
    import numpy as np
    import torch

    begin().record(a=np.float32(0.5), b=torch.tensor(0.25), c=3)
    assert events("run")[0]["metrics"] == {"a": 0.5, "b": 0.25, "c": 3.0}


@pytest.mark.parametrize("value", ["high", None, [0.9], {"a": 1}])
def test_record_of_no_number_is_told_and_keeps_nothing(begin, value):
    lesson = begin()
    with pytest.raises(LessonError, match="metric accuracy is not a number"):
        lesson.record(accuracy=value)
    assert events("run") == []


def test_result_that_cannot_be_written_is_told(begin, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("LESSONKIT_RESULT", str(tmp_path / "no" / "such" / "folder.json"))
    with pytest.raises(LessonError, match="LESSONKIT_RESULT"):
        begin("smoke").record(accuracy=0.9)


def test_record_ticks_what_has_been_earned_once(begin, course, capsys):
    (item, *_) = [
        item
        for item in course.items_for(NAME)
        if item.evidence.lessons == (NAME,) and not item.evidence.exercises
    ]
    begin().record(test_accuracy=0.96)
    begin().record(test_accuracy=0.97)
    assert [data["item"] for data in events("tick")].count(item.id) == 1
    assert capsys.readouterr().out.count(f"Ticked: {item.text}") == 1


def test_measured_trainings_belong_to_the_lesson_under_way(begin):
    from lessonkit.training import measure

    lesson = begin()
    with measure() as measured:
        pass
    assert lesson.runs == [measured]
    assert begin().runs == []


def test_a_run_without_a_lesson_is_just_a_run():
    module.note_run(Run())
    assert current() is None


@pytest.fixture
def exercises(monkeypatch: pytest.MonkeyPatch):
    """Two exercises in place of the lesson's own."""
    wrong = (WrongAnswer("off by one", 4, "Count again."), WrongAnswer("doubled", 6, "Once is enough."))
    letters = (WrongAnswer("b", "b", "No."), WrongAnswer("c", "c", "No."))

    def load(lesson: str):
        assert lesson == NAME
        value = Value("count", 3, "There are three.", ("Look.",), wrong)
        choice = Choice("pick", "a", "A it is.", ("Look.",), letters, options={"a": "A", "b": "B", "c": "C"})
        return {"count": value, "pick": choice}

    monkeypatch.setattr("lessonkit.exercises.load_exercises", load)


def test_outcomes_go_to_the_journal_but_for_the_untried(begin, exercises):
    lesson = begin()
    for answer in (TODO, 4, "three", 3):
        lesson.exercise("count").check(answer)
    assert events("exercise") == [
        {"lesson": NAME, "exercise": "count", "outcome": "failed", "diagnosis": "off by one"},
        {"lesson": NAME, "exercise": "count", "outcome": "error", "diagnosis": ""},
        {"lesson": NAME, "exercise": "count", "outcome": "passed", "diagnosis": ""},
    ]


def test_an_exercise_remembers_its_hints_within_a_lesson(begin, exercises):
    lesson = begin()
    assert lesson.exercise("count") is lesson.exercise("count")


def test_misspelt_exercise_offers_the_nearest(begin, exercises):
    with pytest.raises(UnknownNameError) as caught:
        begin().exercise("cuont")
    assert caught.value.nearest == ["count"]


def test_lesson_without_exercises_says_so(begin, monkeypatch):
    lesson = begin()
    lesson.name = "no/such-lesson"
    with pytest.raises(ExerciseError, match="no exercises yet"):
        lesson.exercise("any")


def test_verdict_is_shown_even_if_the_journal_cannot_be_written(begin, exercises, capsys, tmp_path: Path):
    (tmp_path / "progress").write_text("a file in place of the folder")
    lesson = Lesson(NAME, "Title", hardware("laptop"), Journal())
    assert lesson.exercise("count").check(3).passed
    shown = capsys.readouterr().out
    assert "Right. There are three." in shown
    assert "Not recorded in your journal" in shown


@pytest.fixture
def production_lesson(course, monkeypatch: pytest.MonkeyPatch) -> str:
    """A lesson of the production part, which is written."""
    name = "production/serving"
    lessons = [dataclasses.replace(each, written=each.written or each.id == name) for each in course.lessons]
    changed = dataclasses.replace(course, lessons=tuple(lessons))
    monkeypatch.setattr(module, "load_curriculum", lambda **_: changed)
    return name


def test_a_production_lesson_says_what_to_type_where_its_packages_are_missing(production_lesson, monkeypatch):
    monkeypatch.setattr(colab, "missing_requirements", lambda extras: [f"from {each}" for each in extras])
    with pytest.raises(LessonError, match="from production") as caught:
        start(production_lesson)
    assert "python start.py --production" in caught.value.fix
    start(NAME)  # the others don't need them


def test_a_production_lesson_starts_where_they_are(production_lesson, monkeypatch):
    monkeypatch.setattr(colab, "missing_requirements", lambda extras: [])
    assert start(production_lesson).name == production_lesson


def test_on_colab_the_production_packages_come_with_their_lessons_alone(production_lesson, monkeypatch):
    asked = []
    monkeypatch.setattr(colab, "on_colab", lambda: True)
    monkeypatch.setattr(colab, "install_missing", asked.append)
    start(NAME)
    start(production_lesson)
    assert ["production" in extras for extras in asked] == [False, True]


def test_on_colab_the_missing_is_installed_first(begin, monkeypatch):
    done = []
    monkeypatch.setattr(colab, "on_colab", lambda: True)
    monkeypatch.setattr(colab, "install_missing", lambda extras: done.append("installed"))
    monkeypatch.setattr(module, "detect_hardware", lambda: done.append("looked") or hardware("gpu"))
    start(NAME)
    assert done == ["installed", "looked"]


def test_project_root_is_this_checkout():
    assert curriculum.project_root() == Path(__file__).resolve().parents[1]
