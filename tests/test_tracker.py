"""Progress is a fold: the last word on an item wins, and only real evidence ticks by itself."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from lessonkit.curriculum import (
    ChecklistItem,
    Curriculum,
    Evidence,
    LearningPath,
    Lesson,
    Level,
    Resources,
    Span,
    Step,
    StudyTips,
    Technique,
    WeekBlock,
    load_curriculum,
)
from lessonkit.errors import JournalError, UnknownNameError
from lessonkit.progress import (
    Event,
    Journal,
    Progress,
    add_note,
    choose_path,
    evidence_ticks,
    evidence_why,
    fold,
    record_evidence,
    render_text,
    set_celebrate,
    set_only,
    tick,
    to_dict,
    untick,
)
from lessonkit.progress.evidence import exercise_names
from lessonkit.progress.suggestions import Suggestion


def lesson(
    name: str, *needs: str, written: bool = True, kind: str = "notebook", technique: str = "lora"
) -> Lesson:
    notebook = None if kind == "guide" else f"notebooks/{name}.ipynb"
    return Lesson(
        name,
        name.title(),
        kind,
        "beginner",
        f"lessons/{name}.py",
        30,
        written,
        "Why.",
        notebook,
        technique,
        needs,
    )


def learning_path(name: str, lessons: tuple[str, ...], *items: ChecklistItem) -> LearningPath:
    weeks = (WeekBlock("Week 1", 1, 1, (Step("Learn", lessons),)),)
    return LearningPath(name, name.title(), "🚀", "Learn.", Span(1, 2), Span(5, 10), weeks, items)


LESSONS = (
    lesson("welcome"),
    lesson("guide", kind="guide"),
    lesson("first", "welcome", "guide"),
    lesson("second", "first"),
    lesson("third", "second", written=False),
    lesson("fourth", "third", technique="qlora"),
)
QUICK = learning_path(
    "quick-start",
    ("welcome", "guide", "first", "second", "third"),
    ChecklistItem("understand", "Understand it", Evidence(("guide", "first"))),
    ChecklistItem("run-first", "Run the first", Evidence(("first",))),
    ChecklistItem("run-both", "Run both", Evidence(("first", "second"), ("first:predict",))),
    ChecklistItem("run-third", "Run the third", Evidence(("third",))),
)
DEEP = learning_path("deep-dive", ("fourth",), ChecklistItem("run-fourth", "Run it", Evidence(("fourth",))))
CURRICULUM = Curriculum(
    1,
    (Level("beginner", "Beginner", "."), Level("expert", "Expert", ".")),
    (
        Technique("lora", "LoRA", "LoRA", ".", "lessons/lora/guide.md", True),
        Technique("qlora", "QLoRA", "QLoRA", ".", "lessons/qlora/guide.md", False),
    ),
    {"lora": {"beginner": "first", "expert": "N/A"}, "qlora": {"beginner": "N/A", "expert": "fourth"}},
    LESSONS,
    (QUICK, DEEP),
    (),
    StudyTips((), ()),
    Resources((), (), ()),
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def state(journal: Journal) -> Progress:
    return fold(journal.read().events, CURRICULUM)


def add_run(journal: Journal, name: str, scale: str = "laptop", **data: object) -> Event:
    defaults = {"metrics": {"accuracy": 0.97}, "seconds": 60.0, "peak_bytes": 2**30}
    return journal.append("run", **({"lesson": name, "scale": scale} | defaults | data))


# ---- The fold --------------------------------------------------------------------------------------


def test_no_events_is_a_fresh_start() -> None:
    progress = fold([], CURRICULUM)
    assert progress.ticked == {}
    assert progress.path == "quick-start"
    assert progress.done() == (0, 4)
    assert progress.done("deep-dive") == (0, 1)
    with pytest.raises(UnknownNameError):
        progress.done("deep-drive")


def test_the_last_tick_wins_in_whatever_order_the_lines_lie(journal: Journal) -> None:
    tick(journal, CURRICULUM, "run-first", why="did it on paper")
    untick(journal, CURRICULUM, "run-first")
    tick(journal, CURRICULUM, "run-third")
    untick(journal, CURRICULUM, "run-third")
    tick(journal, CURRICULUM, "run-third", why="again")
    lines = journal.path.read_bytes().splitlines(keepends=True)
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        journal.path.write_bytes(b"".join(lines))
        progress = state(journal)
        assert set(progress.ticked) == {"run-third"}
        assert (progress.ticked["run-third"].by, progress.ticked["run-third"].why) == ("hand", "again")
        assert set(progress.unticked) == {"run-first"}


def test_runs_exercises_notes_and_path_are_kept(journal: Journal) -> None:
    add_run(journal, "first", "smoke")
    run = add_run(journal, "first", metrics={"accuracy": 0.9, "loss": float("nan"), "label": "earn"})
    passed = journal.append("exercise", lesson="first", exercise="predict", outcome="passed")
    journal.append("exercise", lesson="first", exercise="predict", outcome="passed")
    journal.append("exercise", lesson="first", exercise="write", outcome="failed")
    journal.append("note", text="rank 8 is enough", about="lora")
    choose_path(journal, CURRICULUM, "deep-dive")
    progress = state(journal)
    assert [kept.scale for kept in progress.runs["first"]] == ["smoke", "laptop"]
    (real,) = progress.real_runs("first")
    assert (real.time, real.metrics["accuracy"], real.seconds, real.peak_bytes) == (
        run.time,
        0.9,
        60.0,
        2**30,
    )
    assert real.metrics["loss"] != real.metrics["loss"]  # NaN came back as NaN
    assert "label" not in real.metrics
    assert progress.passed == {"first": {"predict": passed.time}}
    assert [note.text for note in progress.notes] == ["rank 8 is enough"]
    assert progress.path == "deep-dive"
    assert progress.failed == {"first": {"write": 1}}
    assert progress.others == []


def test_unknown_kinds_and_odd_data_are_kept_for_others(journal: Journal) -> None:
    odd = [
        journal.append("focus", minutes=25),
        journal.append("tick", item=5),
        journal.append("tick"),
        journal.append("run", lesson="first"),
        journal.append("note"),
        journal.append("path", path=None),
    ]
    progress = state(journal)
    assert progress.others == odd
    assert progress.path == "quick-start"
    journal.append("run", lesson="first", scale="gpu", metrics=[1], seconds=True, peak_bytes="inf")
    (run,) = state(journal).real_runs("first")
    assert (run.metrics, run.seconds, run.peak_bytes) == ({}, None, None)


def test_a_chosen_path_or_item_that_no_longer_exists_does_no_harm(journal: Journal) -> None:
    journal.append("path", path="gone")
    journal.append("tick", item="gone", by="hand")
    progress = state(journal)
    assert progress.path == "quick-start"
    assert "gone" in progress.ticked
    assert progress.done() == (0, 4)
    assert render_text(progress, CURRICULUM)


def test_failures_count_since_the_last_pass(journal: Journal) -> None:
    for outcome in ("failed", "failed", "error", "failed"):
        journal.append("exercise", lesson="first", exercise="predict", outcome=outcome)
    journal.append("exercise", lesson="first", exercise="write", outcome="failed")
    assert state(journal).failed == {"first": {"predict": 3, "write": 1}}
    journal.append("exercise", lesson="first", exercise="predict", outcome="passed")
    assert state(journal).failed == {"first": {"write": 1}}
    journal.append("exercise", lesson="first", exercise="predict", outcome="failed")
    assert state(journal).failed == {"first": {"write": 1, "predict": 1}}
    assert list(state(journal).passed["first"]) == ["predict"]  # once passed stays passed


def test_work_adds_up_per_lesson_and_nonsense_counts_nothing(journal: Journal) -> None:
    for seconds in (300, 120.5):
        journal.append("work", lesson="first", seconds=seconds)
    journal.append("work", lesson="second", seconds=60)
    nonsense = [
        journal.append("work", lesson="first", seconds=seconds)
        for seconds in (-5, 0, float("nan"), float("inf"), 1e12, True, "soon", None, [1])
    ]
    nonsense.append(journal.append("work", seconds=5))
    progress = state(journal)
    assert progress.work == {"first": 420.5, "second": 60}
    assert progress.others == nonsense


def test_curves_of_a_run_are_kept_as_far_as_they_are_sound(journal: Journal) -> None:
    good, short = [[1, 2.5], [2, 2.0]], [[1, 2.5]]
    odd = [[1, 2.5], ["x"], [2, float("nan")], 7, [3, 2.0, 1], [4, 1.5]]
    add_run(journal, "first", curves={"good": good, "short": short, "odd": odd, "none": None})
    add_run(journal, "first", curves=[1, 2])
    with_curves, without = state(journal).runs["first"]
    assert with_curves.curves == {"good": [(1, 2.5), (2, 2.0)], "odd": [(1, 2.5), (4, 1.5)]}
    assert without.curves == {}


def test_one_technique_and_celebrating_are_settings_whose_last_word_counts(journal: Journal) -> None:
    assert (state(journal).only, state(journal).celebrate) == ("", True)
    set_only(journal, CURRICULUM, "qlora")
    set_celebrate(journal, False)
    assert (state(journal).only, state(journal).celebrate) == ("qlora", False)
    journal.append("setting", name="celebrate", value="perhaps")
    journal.append("setting", name="volume", value=True)
    assert not state(journal).celebrate
    set_only(journal, CURRICULUM, "all")
    set_celebrate(journal, True)
    assert (state(journal).only, state(journal).celebrate) == ("", True)
    before = journal.path.read_bytes()
    with pytest.raises(UnknownNameError) as caught:
        set_only(journal, CURRICULUM, "qlorra")
    assert caught.value.nearest[0] == "qlora"
    assert journal.path.read_bytes() == before
    journal.append("only", technique="gone in a later version")
    assert state(journal).only == ""


# ---- Ticking by hand -------------------------------------------------------------------------------


def test_ticking_twice_writes_one_event_and_says_so(journal: Journal) -> None:
    first = tick(journal, CURRICULUM, "run-first")
    second = tick(journal, CURRICULUM, "run-first")
    assert (first.changed, second.changed) == (True, False)
    assert "already ticked" in second.message
    assert len(journal.read().events) == 1
    assert untick(journal, CURRICULUM, "run-first").changed
    again = untick(journal, CURRICULUM, "run-first")
    assert not again.changed
    assert "not ticked" in again.message
    assert len(journal.read().events) == 2


def test_an_unknown_item_is_told_with_the_nearest_and_writes_nothing(journal: Journal) -> None:
    for action in (tick, untick):
        with pytest.raises(UnknownNameError) as caught:
            action(journal, CURRICULUM, "run-frist")
        assert caught.value.nearest[0] == "run-first"
    with pytest.raises(UnknownNameError):
        choose_path(journal, CURRICULUM, "slow-start")
    assert not journal.path.exists()


def test_a_tick_reads_only_what_is_about_its_item(journal: Journal) -> None:
    tick(journal, CURRICULUM, "run-first")
    tick(journal, CURRICULUM, "run-both", why='says "run-first" in words')
    journal.append("note", text='"run-first" is done', about="run-first")
    untick(journal, CURRICULUM, "run-both")
    assert not tick(journal, CURRICULUM, "run-first").changed
    assert tick(journal, CURRICULUM, "run-both").changed


@pytest.mark.parametrize("text", ["two\nlines", "😀 done", "tab\t and \u2028", "x" * 100_000])
def test_a_note_is_kept_word_for_word(journal: Journal, text: str) -> None:
    add_note(journal, CURRICULUM, text, "lora")
    assert [(note.text, note.about) for note in state(journal).notes] == [(text, "lora")]


@pytest.mark.parametrize("text", ["", " \n\t", "x" * 1_000_000])
def test_a_note_that_is_empty_or_endless_is_refused(journal: Journal, text: str) -> None:
    with pytest.raises(JournalError) as caught:
        add_note(journal, CURRICULUM, text)
    assert len(str(caught.value)) < 400
    assert caught.value.fix
    assert not journal.path.exists()


def test_a_note_about_nothing_known_is_refused(journal: Journal) -> None:
    with pytest.raises(UnknownNameError) as caught:
        add_note(journal, CURRICULUM, "text", about="frist")
    assert caught.value.nearest[0] == "first"
    assert not journal.path.exists()


# ---- Evidence --------------------------------------------------------------------------------------


def test_a_smoke_run_is_no_evidence(journal: Journal) -> None:
    add_run(journal, "first", "smoke")
    assert list(evidence_ticks(state(journal), CURRICULUM)) == []
    assert state(journal).next_step().id == "welcome"


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
def test_a_run_earns_an_item_once(journal: Journal, scale: str) -> None:
    add_run(journal, "first", scale)
    assert list(evidence_ticks(state(journal), CURRICULUM)) == ["run-first"]
    (event,) = record_evidence(journal, CURRICULUM)
    assert event.data["by"] == "evidence"
    assert f"ran first ({scale}" in event.data["why"]
    assert record_evidence(journal, CURRICULUM) == []
    assert "by what you ran" in tick(journal, CURRICULUM, "run-first").message


def test_all_lessons_exercises_and_readings_are_asked_for(journal: Journal) -> None:
    add_run(journal, "first")
    add_run(journal, "second")
    assert set(evidence_ticks(state(journal), CURRICULUM)) == {"run-first"}
    journal.append("exercise", lesson="first", exercise="predict", outcome="passed")
    assert set(evidence_ticks(state(journal), CURRICULUM)) == {"run-first", "run-both"}
    assert "passed first:predict" in evidence_why(state(journal), CURRICULUM, "run-both")
    tick(journal, CURRICULUM, "guide")
    assert set(evidence_ticks(state(journal), CURRICULUM)) == {"run-first", "run-both", "understand"}
    assert "read guide" in evidence_why(state(journal), CURRICULUM, "understand")


def test_why_names_the_exercises_that_speak_for_it(journal: Journal) -> None:
    real = load_curriculum(check_files=False)
    item = "run-beginner-full-fine-tuning"
    add_run(journal, "beginner/full-fine-tuning")
    bare = evidence_why(fold(journal.read().events, real), real, item)
    assert bare.startswith("ran beginner/full-fine-tuning (laptop, 20")
    assert "exercises" not in bare
    names = exercise_names("beginner/full-fine-tuning")
    for name in (*names[:2], "one that is gone"):
        journal.append(
            "exercise", lesson="beginner/full-fine-tuning", exercise=name, outcome="passed", diagnosis=""
        )
    (event,) = (event for event in record_evidence(journal, real) if event.data["item"] == item)
    assert event.data["why"] == f"{bare}, 2 of {len(names)} exercises passed"


def test_what_says_understand_asks_for_exercises_and_what_says_run_does_not() -> None:
    for item in load_curriculum(check_files=False).items:
        words = item.text.split()
        written = [name for name in item.evidence.lessons if exercise_names(name)]
        if words[0] == "Understand" and written:
            assert item.evidence.exercises, item.id
        if words[0] == "Run":
            assert not item.evidence.exercises, item.id
        for name in item.evidence.exercises:
            lesson_id, _, exercise = name.partition(":")
            assert exercise in exercise_names(lesson_id), name


def test_a_notebook_ticked_by_hand_was_not_run(journal: Journal) -> None:
    tick(journal, CURRICULUM, "first")
    assert state(journal).lesson_done("first")
    assert list(evidence_ticks(state(journal), CURRICULUM)) == []


def test_an_untick_stands_until_there_is_new_evidence(journal: Journal) -> None:
    add_run(journal, "first")
    record_evidence(journal, CURRICULUM)
    untick(journal, CURRICULUM, "run-first")
    assert record_evidence(journal, CURRICULUM) == []
    add_run(journal, "second")  # says nothing about the first
    assert record_evidence(journal, CURRICULUM) == []
    add_run(journal, "first")
    assert [event.data["item"] for event in record_evidence(journal, CURRICULUM)] == ["run-first"]


# ---- What's next -----------------------------------------------------------------------------------


def test_next_goes_through_the_path_and_says_what_is_not_written(journal: Journal) -> None:
    seen = []
    for _ in range(4):
        step = state(journal).next_step()
        assert (step.kind, step.written, step.minutes) == ("lesson", True, 30)
        seen.append(step.id)
        if step.id == "guide":
            assert "lessonkit tick guide" in step.command
            tick(journal, CURRICULUM, "guide")
        else:
            assert f"lessonkit run {step.id}" in step.command
            add_run(journal, step.id)
    assert seen == ["welcome", "guide", "first", "second"]
    assert state(journal).next_step().id == "understand"
    record_evidence(journal, CURRICULUM)
    step = state(journal).next_step()
    assert (step.kind, step.id) == ("item", "run-both")  # its exercise is still to be passed
    tick(journal, CURRICULUM, "run-both")
    step = state(journal).next_step()
    assert (step.id, step.written) == ("run-third", False)
    assert "not written yet" in step.text
    tick(journal, CURRICULUM, "run-third")
    step = state(journal).next_step()
    assert step.kind == "finished"
    assert "complete" in step.text


def test_who_has_ticked_the_item_of_a_lesson_is_not_sent_to_it_again(journal: Journal) -> None:
    for name in ("welcome", "guide"):
        tick(journal, CURRICULUM, name)
    assert state(journal).next_step().id == "first"
    tick(journal, CURRICULUM, "understand")  # which asks for another lesson, too: says nothing about this one
    assert state(journal).next_step().id == "first"
    tick(journal, CURRICULUM, "run-first")
    assert state(journal).lesson_done("first")
    assert state(journal).next_step().id == "second"
    assert list(evidence_ticks(state(journal), CURRICULUM)) == []  # a word is no evidence for other items
    untick(journal, CURRICULUM, "run-first")
    assert state(journal).next_step().id == "first"


def test_a_lesson_waits_for_its_prerequisites(journal: Journal) -> None:
    tick(journal, CURRICULUM, "welcome")
    tick(journal, CURRICULUM, "guide")
    assert state(journal).next_step().id == "first"  # not second, which needs it


def test_who_has_done_a_lesson_is_not_sent_back_to_the_welcome(journal: Journal) -> None:
    add_run(journal, "first")
    assert state(journal).next_step().id == "second"


def test_a_prerequisite_that_is_not_written_blocks_nobody(journal: Journal) -> None:
    assert state(journal).next_step("deep-dive").id == "welcome"  # on which the missing one is built
    add_run(journal, "second")
    assert state(journal).next_step("deep-dive").id == "fourth"


@pytest.mark.parametrize(
    ("spent", "left"), [(0, 30), (7 * 60, 25), (16 * 60, 15), (28 * 60, 5), (300 * 60, 5)], ids=str
)
def test_a_lesson_begun_comes_first_with_the_minutes_left(journal: Journal, spent: int, left: int) -> None:
    journal.append("exercise", lesson="second", exercise="predict", outcome="failed")
    for _ in range(-(-spent // 3600)):
        journal.append("work", lesson="second", seconds=min(spent, 3600))
    step = state(journal).next_step()
    assert (step.kind, step.id, step.minutes) == ("lesson", "second", left)
    assert step.text.startswith(f"Resume here (about {left} minutes): Second")
    assert "lessonkit run second" in step.command
    add_run(journal, "second")
    assert state(journal).next_step().id != "second"


def test_of_several_begun_lessons_the_latest_is_resumed(journal: Journal) -> None:
    for name in ("second", "first", "no such lesson", "third"):  # the third is not written
        journal.append("work", lesson=name, seconds=60)
    assert state(journal).next_step().id == "first"
    tick(journal, CURRICULUM, "first")  # by hand: it is done, too
    assert state(journal).next_step().id == "second"


def test_one_technique_keeps_to_its_lessons_while_any_is_open(journal: Journal) -> None:
    journal.append("work", lesson="first", seconds=60)
    set_only(journal, CURRICULUM, "qlora")
    assert state(journal).next_step().id == "fourth"
    journal.append("work", lesson="fourth", seconds=60)
    assert state(journal).next_step().text.startswith("Resume here (about 30 minutes): Fourth")
    add_run(journal, "fourth")
    assert state(journal).next_step().id == "first"  # back on the path, where it was left


def test_an_item_leads_to_the_first_lesson_that_it_is_built_on(journal: Journal) -> None:
    """A path that begins where another one ends: there is always something to open, never only a box to tick."""
    both = ChecklistItem("run-both", "Run both", Evidence(("second", "first")))
    third = ChecklistItem("run-third", "Run the third", Evidence(("third",)))
    later = learning_path("later", (), third, both)
    course = replace(CURRICULUM, paths=(*CURRICULUM.paths, later))

    def step() -> Suggestion:
        return fold(journal.read().events, course).next_step("later")

    seen = []
    while (now := step()).text.startswith("Run both. First: "):
        seen.append(now.id)
        assert (now.kind, now.minutes) == ("lesson", 30)
        assert now.id in now.command
        tick(journal, course, now.id)
    assert seen == ["welcome", "guide", "first", "second"]
    assert (now.kind, now.command) == ("item", "when you have it: lessonkit tick run-both")
    tick(journal, course, "run-both")
    assert (step().id, step().written) == ("run-third", False)
    for name in seen:
        untick(journal, course, name)
    assert step().id == "welcome"  # what the unwritten one is built on can be done meanwhile
    assert "Run the third: its lesson is not written yet. Until then: Welcome" in step().text


@pytest.mark.parametrize("path", [each.id for each in load_curriculum(check_files=False).paths])
def test_every_path_begins_with_something_to_open(path: str) -> None:
    step = fold([], load_curriculum(check_files=False)).next_step(path)
    assert (step.kind, step.id) == ("lesson", "start-here")
    assert "00-start-here.ipynb" in step.command


def test_an_item_that_waits_for_an_exercise_says_which(journal: Journal) -> None:
    for name in ("welcome", "first", "second"):
        add_run(journal, name)
    record_evidence(journal, CURRICULUM)
    tick(journal, CURRICULUM, "understand")
    assert "the exercise first:predict is still open" in state(journal).next_step().text


# ---- Text and JSON ---------------------------------------------------------------------------------


def test_text_shows_boxes_grid_runs_and_next(journal: Journal) -> None:
    empty = render_text(state(journal), CURRICULUM)
    assert "[x]" not in empty
    assert "No runs yet" in empty
    assert "(run-third): not written yet" in empty
    add_run(journal, "first", metrics={"accuracy": 0.97214})
    record_evidence(journal, CURRICULUM)
    journal.append(
        "note", text="a note\nin two lines, long enough that the table cannot hold it", about="first"
    )
    text = render_text(state(journal), CURRICULUM)
    assert "  [x] Run the first (run-first): ran first (laptop" in text
    assert "  [ ] Run both (run-both)" in text
    assert "1 of 4 done" in text
    assert (
        text.index("Week 1") < text.index("Read: Guide") < text.index("Run both")
    )  # as the dashboard sorts them
    (row,) = (line for line in text.splitlines() if line.startswith("LoRA"))
    assert row.split()[1:3] == ["✅", "N/A"]
    assert "a note in two lines" in row
    assert "1.00 GiB" in text
    assert "accuracy 0.9721" in text
    assert "Next: Second (30 minutes)" in text


def test_one_technique_shows_only_its_own_and_says_how_to_see_all(journal: Journal) -> None:
    add_run(journal, "first")
    set_only(journal, CURRICULUM, "qlora")
    progress = state(journal)
    text = render_text(progress, CURRICULUM)
    assert "QLoRA" in text
    assert "Run the first" not in text
    assert "LoRA " not in text.replace("QLoRA", "")
    assert "No runs yet" in text
    assert "lessonkit progress --all" in text
    everything = render_text(progress, CURRICULUM, everything=True)
    assert "Run the first" in everything
    assert "--all" not in everything


def test_text_shows_the_guides_that_were_read(journal: Journal) -> None:
    assert "[ ] Read: Guide (guide)" in render_text(state(journal), CURRICULUM)
    tick(journal, CURRICULUM, "guide")
    assert "[x] Read: Guide (guide)" in render_text(state(journal), CURRICULUM)


def test_text_says_time_and_days(journal: Journal) -> None:
    journal.append("work", lesson="first", seconds=1500)
    text = render_text(state(journal), CURRICULUM)
    assert "Time: 25 minutes this week" in text
    assert "Days: 1 study day this week" in text


def test_json_is_strict_and_says_the_same(journal: Journal) -> None:
    add_run(journal, "first", metrics={"loss": float("inf")})
    record_evidence(journal, CURRICULUM)
    told = json.loads(json.dumps(to_dict(state(journal), CURRICULUM), allow_nan=False))
    assert told["path"] == "quick-start"
    assert [(path["id"], path["ticked"], path["total"]) for path in told["paths"]] == [
        ("quick-start", 1, 4),
        ("deep-dive", 0, 1),
    ]
    item = told["paths"][0]["items"][1]
    assert (item["id"], item["ticked"], item["by"]) == ("run-first", True, "evidence")
    assert told["grid"]["lora"] == {"beginner": "done", "expert": "N/A"}
    assert told["runs"][0]["metrics"] == {"loss": "inf"}
    assert told["next"]["id"] == "second"


def test_the_real_curriculum_renders_and_every_item_can_be_ticked(journal: Journal) -> None:
    real = load_curriculum(check_files=False)
    text = render_text(fold([], real), real)
    assert sum(text.count(mark) for mark in ("✅", "⬜")) >= 12
    for item in real.items:
        tick(journal, real, item.id)
    progress = fold(journal.read().events, real)
    for path in real.paths:
        assert progress.done(path.id) == (len(path.checklist),) * 2
    json.dumps(to_dict(progress, real), allow_nan=False)
    ids = [item.id for item in real.items] + [lesson.id for lesson in real.lessons]
    assert len(ids) == len(set(ids))  # items and lessons are ticked by the same command
