"""The dashboard shows what the journal says, writes what is ticked, and never the one for the other."""

from __future__ import annotations

import builtins
import dataclasses
import errno
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lessonkit import colab
from lessonkit.curriculum import Curriculum, load_curriculum
from lessonkit.errors import JournalError, UnknownNameError
from lessonkit.progress import Journal, fold, render_text, tick
from lessonkit.progress.dashboard import Dashboard, dashboard, links, pages, panel, style
from lessonkit.progress.tracker import add_note, choose_path, set_celebrate, set_only
from lessonkit.progress.weeks import hidden_boxes, weeks
from lessonkit.study.ticking import followed

VIEW = "application/vnd.jupyter.widget-view+json"
LORA, PROMPT = "run-beginner-lora", "run-beginner-prompt-tuning"
COMPARED = "compare-trade-offs"  # changes no cell of the grid
FIRST_LESSON = "beginner/full-fine-tuning"


@pytest.fixture(scope="module")
def course() -> Curriculum:
    """The real course, as if all of it were written."""
    real = load_curriculum(check_files=False)
    return dataclasses.replace(
        real, lessons=tuple(dataclasses.replace(each, written=True) for each in real.lessons)
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


@pytest.fixture
def board(journal: Journal, course: Curriculum) -> Iterator[Dashboard]:
    made = Dashboard(journal, course)
    assert made.widget
    yield made
    made.close()


def written(journal: Journal) -> list[tuple[str, dict]]:
    """The events so far, as (kind, data)."""
    return [(event.kind, event.data) for event in journal.read().events]


def said(board: Dashboard) -> str:
    return re.sub(r"<[^>]+>", "", board.controls.said.value.replace("<br>", "\n"))


def shown_boxes(board: Dashboard) -> list[str]:
    """The ids of the boxes that stand in the weeks now, in order."""
    names = {box: name for name, box in board.controls.boxes.items()}
    return [names[child] for child in board.controls.weeks.children if child in names]


def waiting(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def fail_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Journal, *_: Any, **__: Any) -> None:
        raise JournalError(
            "The journal can't be written.", why="the disk is full", fix="free some disk space"
        )

    monkeypatch.setattr(Journal, "append", full)


# ---- What is ticked is written, once ----------------------------------------------------------------


def test_a_ticked_box_is_one_event_and_unticked_another(board: Dashboard, journal: Journal):
    box = board.controls.boxes[LORA]
    box.value = True
    assert written(journal) == [("tick", {"item": LORA, "by": "hand", "why": ""})]
    box.value = False
    assert [kind for kind, _ in written(journal)] == ["tick", "untick"]
    assert box.value is False


def test_a_guide_can_be_ticked_as_read_and_earns_what_it_completes(
    board: Dashboard, journal: Journal, course
):
    evidence = course.item("understand-fine-tuning").evidence
    journal.append("run", lesson=FIRST_LESSON, scale="laptop", metrics={})
    for name in evidence.exercises:
        lesson, _, exercise = name.partition(":")
        journal.append("exercise", lesson=lesson, exercise=exercise, outcome="passed")
    board.controls.boxes["introduction"].value = True
    assert board.controls.boxes["understand-fine-tuning"].value is True
    ticks = [data for kind, data in written(journal) if kind == "tick"]
    assert [(data["item"], data["by"]) for data in ticks][:1] == [("introduction", "hand")]
    assert {data["by"] for data in ticks[1:]} == {"evidence"}


def test_what_is_written_elsewhere_shows_and_is_not_written_again(board: Dashboard, journal: Journal, course):
    tick(journal, course, LORA)
    choose_path(journal, course, "quick-start")
    set_only(journal, course, "lora")
    set_celebrate(journal, False)
    count = len(written(journal))
    board.tick()
    assert board.controls.boxes[LORA].value is True
    assert board.controls.only.value == "lora"
    assert board.controls.celebrate.value is False
    assert len(written(journal)) == count


def test_it_follows_by_itself(board: Dashboard, journal: Journal, course: Curriculum):
    assert followed(board)
    tick(Journal(journal.path), course, LORA)
    assert waiting(lambda: board.controls.boxes[LORA].value and "1 of 6" in said(board))


def test_choosing_a_path_is_kept_and_changes_the_boxes(
    board: Dashboard, journal: Journal, course: Curriculum
):
    board.controls.path.value = "deep-dive"
    assert written(journal) == [("path", {"path": "deep-dive"})]
    items = {item.id for item in course.path("deep-dive").checklist}
    assert items <= set(shown_boxes(board))
    assert LORA not in shown_boxes(board)
    assert "Deep Dive (4-6 weeks): 0 of 8 done" in board.controls.head.value


def test_clicks_from_several_threads_and_another_program_leave_boxes_and_journal_agreeing(
    board: Dashboard, journal: Journal, course: Curriculum
):
    """A front end's messages come in a thread of their own, beside the one that follows the journal."""
    names = [item.id for item in course.path("quick-start").checklist]

    def click(name: str) -> None:
        for number in range(7):
            board.controls.boxes[name].value = number % 2 == 0

    threads = [threading.Thread(target=click, args=(name,)) for name in names[:3]]
    for thread in threads:
        thread.start()
    tick(Journal(journal.path), course, names[4])
    for thread in threads:
        thread.join()
    board.tick()
    state = fold(journal.read().events, course)
    assert {name: board.controls.boxes[name].value for name in names} == {
        name: name in state.ticked for name in names
    }
    assert set(names[:3]) | {names[4]} <= state.ticked.keys()


# ---- What goes wrong is said ------------------------------------------------------------------------


def test_a_journal_that_cannot_be_written_gives_the_box_back(board: Dashboard, monkeypatch):
    fail_to_write(monkeypatch)
    board.controls.boxes[LORA].value = True
    assert board.controls.boxes[LORA].value is False
    assert "the disk is full" in said(board)
    assert "free some disk space" in said(board)
    board.controls.path.value = "deep-dive"
    assert board.controls.path.value == "quick-start"
    board.controls.celebrate.value = False
    assert board.controls.celebrate.value is True


def test_an_item_that_is_not_there_is_told(board: Dashboard, monkeypatch):
    def unknown(*_: Any) -> None:
        raise UnknownNameError("checklist item", LORA, ["other"])

    monkeypatch.setattr(panel, "tick", unknown)
    board.controls.boxes[LORA].value = True
    assert "There is no checklist item called" in said(board)
    assert board.controls.boxes[LORA].value is False


def test_a_mistake_of_ours_is_a_sentence_too(board: Dashboard, monkeypatch):
    monkeypatch.setattr(panel, "tick", lambda *_: 1 / 0)
    board.controls.boxes[LORA].value = True
    assert "a mistake of the dashboard: ZeroDivisionError" in said(board)
    assert board.controls.boxes[LORA].value is False


def test_a_journal_that_cannot_be_read_is_told_and_comes_back(tmp_path: Path, course, monkeypatch):
    path = tmp_path / "folder.jsonl"
    path.mkdir()
    board = Dashboard(Journal(path), course)
    monkeypatch.setattr(panel, "in_notebook", lambda: True)
    bundle = board._repr_mimebundle_()
    assert "it is a folder, where a file is needed" in bundle["text/plain"]
    assert "it is a folder, where a file is needed" in bundle["text/html"]
    assert "it is a folder, where a file is needed" in board.controls.warning.value
    board.controls.boxes[LORA].value = True
    assert board.controls.boxes[LORA].value is False
    path.rmdir()
    tick(board.journal, course, LORA)
    board.tick()
    assert board.controls.boxes[LORA].value is True
    assert board.controls.warning.value == ""
    board.close()


def test_lines_that_cannot_be_read_are_told_and_cost_nothing(board: Dashboard, journal: Journal, course):
    tick(journal, course, LORA)
    with journal.path.open("ab") as file:
        file.write(b'\xff\xfe garbage <b>\n{"id": "cut')
    board.tick()
    assert board.controls.boxes[LORA].value is True
    assert "line 2" in board.controls.warning.value
    assert "<b>" not in board.controls.warning.value


# ---- Notes ------------------------------------------------------------------------------------------


def test_a_note_is_kept_and_shown(board: Dashboard, journal: Journal):
    board.controls.about.value = "lora"
    board.controls.note.value = "rank 8 <script>\nis enough 🙂"
    board.controls.keep.click()
    assert written(journal) == [("note", {"text": "rank 8 <script>\nis enough 🙂", "about": "lora"})]
    assert board.controls.note.value == ""
    assert "rank 8 &lt;script&gt; is enough 🙂" in board.controls.notes.value
    assert "Kept, in your notes on LoRA." in said(board)


def test_a_note_on_nothing_in_particular_is_shown_too(board: Dashboard, journal: Journal, course: Curriculum):
    add_note(journal, course, "from the terminal")
    add_note(journal, course, "on LoRA", "beginner/lora")
    board.controls.about.value = ""
    board.controls.note.value = "from the dashboard"
    board.controls.keep.click()
    assert written(journal)[-1] == ("note", {"text": "from the dashboard", "about": ""})
    shown = board.controls.notes.value
    assert shown.index("from the dashboard") < shown.index("from the terminal")  # the newest first
    assert "on LoRA" not in shown
    board.controls.about.value = "lora"
    assert "on LoRA" in board.controls.notes.value


def test_older_notes_are_said_to_be_there_with_the_command_that_shows_them(
    board: Dashboard, journal: Journal, course: Curriculum
):
    for number in range(7):
        add_note(journal, course, f"note {number}", "lora")
    board.tick()
    board.controls.about.value = "lora"
    assert "note 6" in board.controls.notes.value
    assert "note 1" not in board.controls.notes.value
    assert "2 older: <code>lessonkit note --about lora</code>" in board.controls.notes.value


def test_what_is_being_typed_survives_a_refresh_and_a_failure(
    board: Dashboard, journal: Journal, course: Curriculum, monkeypatch
):
    board.controls.about.value = "qlora"
    board.controls.note.value = "half a thou"
    tick(journal, course, LORA)
    board.tick()
    assert board.controls.note.value == "half a thou"
    fail_to_write(monkeypatch)
    board.controls.keep.click()
    assert board.controls.note.value == "half a thou"
    assert board.controls.about.value == "qlora"
    assert "the disk is full" in said(board)


@pytest.mark.parametrize(("text", "says"), [(" \n", "empty"), ("x" * 1_000_000, "1,000,000 characters")])
def test_a_note_that_cannot_be_kept_is_told(board: Dashboard, journal: Journal, text: str, says: str):
    board.controls.note.value = text
    board.controls.keep.click()
    assert says in said(board)
    assert written(journal) == []
    assert board.controls.note.value == text


# ---- One technique, and celebrating -------------------------------------------------------------------


def test_one_technique_shows_only_that_and_the_rest_is_a_click_away(board: Dashboard, journal: Journal):
    everything = shown_boxes(board)
    board.controls.only.value = "lora"
    assert written(journal) == [("only", {"technique": "lora"})]
    assert shown_boxes(board) == [LORA, "compare-trade-offs"]
    assert f"{len(everything) - 2} other boxes are hidden" in board.controls.hidden.value
    assert board.controls.others.layout.display != "none"
    board.controls.others.value = True
    assert shown_boxes(board) == everything
    board.controls.others.value = False
    board.controls.only.value = ""
    assert shown_boxes(board) == everything
    assert board.controls.others.layout.display == "none"
    assert [kind for kind, _ in written(journal)] == ["only", "only"]  # looking at the rest is not kept


def test_a_technique_that_is_not_on_the_path_says_where_it_is(board: Dashboard):
    board.controls.only.value = "qlora"
    assert shown_boxes(board) == []
    assert (
        "Quick Start has nothing about QLoRA; Deep Dive and Production Ready have."
        in board.controls.hidden.value
    )


def test_a_completed_item_is_celebrated_wherever_it_was_ticked(board: Dashboard, journal: Journal, course):
    board.controls.boxes[LORA].value = True
    assert said(board) == "🎉 Done: Run beginner LoRA example. 1 of 6."
    tick(journal, course, PROMPT)
    board.tick()
    assert said(board) == "🎉 Done: Run beginner prompt tuning example. 2 of 6."


def test_a_completed_path_is_celebrated(board: Dashboard, course: Curriculum):
    for item in course.path("quick-start").checklist:
        board.controls.boxes[item.id].value = True
    assert "🏆 Quick Start is complete: all 6 boxes. You did that." in said(board)


def test_celebrating_can_be_turned_off(board: Dashboard, journal: Journal, course: Curriculum):
    board.controls.celebrate.value = False
    assert written(journal) == [("setting", {"name": "celebrate", "value": False})]
    for item in course.path("quick-start").checklist:
        board.controls.boxes[item.id].value = True
        assert "lk-cheer" not in board.controls.said.value
        assert "🎉" not in said(board)
    assert "Quick Start is complete: all 6 boxes." in said(board)
    assert "🏆" not in said(board)


def test_what_was_ticked_before_is_not_celebrated(journal: Journal, course: Curriculum):
    tick(journal, course, LORA)
    board = Dashboard(journal, course)
    assert board.widget
    assert said(board) == pages.HINT
    board.close()


def test_nothing_moves_for_those_who_asked_for_that():
    before, _, inside = style.STYLE.partition("@media (prefers-reduced-motion: no-preference)")
    assert inside
    assert not re.search(r"animation|transition|keyframes", before)


# ---- Runs -------------------------------------------------------------------------------------------


def run(journal: Journal, lesson: str = FIRST_LESSON, accuracy: float = 0.9, **more: Any) -> None:
    journal.append("run", lesson=lesson, scale="laptop", metrics={"accuracy": accuracy}, seconds=40, **more)


def test_runs_are_listed_and_drawn(board: Dashboard, journal: Journal):
    assert board.controls.lesson.layout.display == "none"
    assert "No runs yet" in board.controls.runs.value
    run(journal, accuracy=0.91)
    run(journal, accuracy=0.93, curves={"loop": [[1, 2.0], [2, 1.0]]})
    board.tick()
    assert board.controls.lesson.layout.display != "none"
    assert "accuracy 0.93" in board.controls.runs.value
    assert board.controls.chart.value.count("<svg") == 2
    assert (
        'role="img" aria-label="Scores, run by run: accuracy from 0.91 to 0.93"' in board.controls.chart.value
    )


def test_the_lesson_that_is_drawn_stays_when_another_one_runs(board: Dashboard, journal: Journal):
    run(journal)
    board.tick()
    run(journal, "beginner/lora")
    board.tick()
    assert board.controls.lesson.value == FIRST_LESSON
    assert [name for _, name in board.controls.lesson.options] == [FIRST_LESSON, "beginner/lora"]
    board.controls.lesson.value = "beginner/lora"
    assert "second run" in board.controls.chart.value
    assert [kind for kind, _ in written(journal)] == ["run", "run"]


def test_a_run_of_an_unknown_lesson_with_odd_numbers_is_shown(board: Dashboard, journal: Journal):
    run(journal, "gone/<b>", accuracy=float("nan"))
    run(journal, "gone/<b>", accuracy=float("inf"), curves={"x": [[1, float("nan")]]})
    board.tick()
    assert "gone/&lt;b&gt;" in board.controls.runs.value
    assert "<svg" not in board.controls.chart.value


# ---- What is shown where ----------------------------------------------------------------------------


def test_every_item_stands_in_one_week_of_its_path(course: Curriculum):
    for path in course.paths:
        found = [item.id for week in weeks(course, path) for item in week.items]
        assert sorted(found) == sorted(item.id for item in path.checklist)
        for week, block in zip(weeks(course, path), path.weeks, strict=True):
            assert (week.title, week.steps) == (block.title, block.steps)


def test_one_technique_leaves_a_part_of_each_path(course: Curriculum):
    for path in course.paths:
        for technique in course.techniques:
            left = weeks(course, path, technique.id)
            items = [item for week in left for item in week.items]
            assert all(
                any(course.lesson(name).technique == technique.id for name in item.evidence.lessons)
                for item in items
            )
            boxes = sum(len(week.items) + len(week.guides) for week in left)
            all_boxes = sum(len(week.items) + len(week.guides) for week in weeks(course, path))
            assert boxes + hidden_boxes(course, path, technique.id) == all_boxes


def test_text_is_what_the_command_line_prints(board: Dashboard, journal: Journal, course: Curriculum):
    tick(journal, course, LORA)
    assert repr(board) == render_text(fold(journal.read().events, course), course)
    assert "[x] Run beginner LoRA example" in repr(board)
    assert set(board._repr_mimebundle_()) == {"text/plain"}


def test_a_notebook_gets_controls_with_html_and_text_in_one_output(board: Dashboard, monkeypatch):
    monkeypatch.setattr(panel, "in_notebook", lambda: True)
    bundle = board._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", VIEW}
    assert bundle[VIEW]["model_id"] == board.widget.model_id
    assert bundle["text/plain"] == repr(board)


def test_colab_gets_the_controls_and_no_links_that_it_cannot_open(journal: Journal, course, monkeypatch):
    monkeypatch.setattr(panel, "in_notebook", lambda: True)
    monkeypatch.setattr(colab, "on_colab", lambda: True)
    board = Dashboard(journal, course)
    assert set(board._repr_mimebundle_()) == {"text/plain", VIEW}
    for place in (board.controls.next_step, board.controls.grid):
        assert place.value
        assert "<a " not in place.value
    assert "notebooks/00-start-here.ipynb" in board.controls.next_step.value
    board.close()


def test_without_ipywidgets_the_html_has_to_do(journal: Journal, course: Curriculum, monkeypatch):
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("ipywidgets"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(panel, "in_notebook", lambda: True)
    monkeypatch.setattr(builtins, "__import__", without)
    board = Dashboard(journal, course)
    assert set(board._repr_mimebundle_()) == {"text/plain", "text/html"}
    board.close()


def test_the_page_without_controls_says_all_of_it(journal: Journal, course: Curriculum):
    tick(journal, course, LORA)
    journal.append("note", text="<img src=x>", about="lora")
    run(journal)
    page = pages.page(fold(journal.read().events, course))
    assert "☑ Run beginner LoRA example" in page
    assert page.count("☐") == 6  # five items and one guide
    assert all(technique.title in page for technique in course.techniques)
    assert "&lt;img src=x&gt;" in page
    assert not re.search(r"<(script|style|img|input)|style=|on\w+=", page)  # what GitHub would take out


def test_every_control_can_be_told_by_its_words(board: Dashboard):
    made = board.controls
    for control in (made.path, made.only, made.about, made.lesson, made.keep, made.note, made.celebrate):
        assert control.description
    assert all(control.tooltip for control in (made.path, made.only, made.about, made.lesson, made.keep))
    assert all(box.description and not box.description_allow_html for box in made.boxes.values())


def test_what_did_not_change_is_not_drawn_again(board: Dashboard, journal: Journal, course: Curriculum):
    run(journal)
    board.tick()
    changed: list[str] = []
    for name in ("weeks", "grid", "runs", "chart", "path", "only", "note", "lesson"):
        control = getattr(board.controls, name)
        control.observe(lambda change, name=name: changed.append(name))
    tick(journal, course, COMPARED)
    board.tick()
    assert board.controls.boxes[COMPARED].value is True
    assert changed == []


def test_a_journal_that_did_not_change_is_not_read(board: Dashboard, journal: Journal, monkeypatch):
    run(journal)
    board.tick()
    reads: list[int] = []
    whole = Journal.read
    monkeypatch.setattr(Journal, "read", lambda self, *kinds: reads.append(1) or whole(self, *kinds))
    board.tick()
    assert reads == []
    run(journal)
    board.tick()
    assert reads


def test_links_lead_to_files_that_are_there(tmp_path: Path, course: Curriculum, monkeypatch):
    lesson = course.lesson(FIRST_LESSON)
    file = tmp_path / lesson.notebook
    here = tmp_path / "notebooks" / "with space"
    here.mkdir(parents=True)
    assert links.link_to(lesson, here) == ""
    file.parent.mkdir(parents=True)
    file.touch()
    assert links.link_to(lesson, here) == "../beginner/full-fine-tuning.ipynb"
    assert links.link_to(dataclasses.replace(lesson, written=False), here) == ""
    monkeypatch.setattr(colab, "on_colab", lambda: True)
    assert links.link_to(lesson, here) == ""


def test_the_next_step_links_to_its_notebook(
    tmp_path: Path, journal: Journal, course: Curriculum, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for lesson in course.lessons:
        file = tmp_path / (lesson.notebook or lesson.source)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    progress = fold((), course)
    step = course.lesson(progress.next_step().id)
    assert f'<a href="{step.notebook}">Open {step.title}</a>' in pages.next_step(progress)
    assert '</span> open · <a href="notebooks/beginner/lora.ipynb">' in pages.grid(progress)


def test_the_grid_says_in_words_what_its_marks_mean(journal: Journal, course: Curriculum):
    """Where no font has emoji, all of them are the same empty frame."""
    assert "</span> done" not in pages.grid(fold((), course))
    tick(journal, course, LORA)
    assert pages.grid(fold(journal.read().events, course)).count("</span> done") == 1


# ---- Its end ----------------------------------------------------------------------------------------


def test_closed_it_leaves_no_thread(journal: Journal, course: Curriculum):
    before = set(threading.enumerate())
    board = Dashboard(journal, course)
    assert board.widget
    assert followed(board)
    board.close()
    assert not followed(board)
    assert waiting(lambda: set(threading.enumerate()) <= before)


def test_closing_its_widget_ends_it_too(board: Dashboard):
    board.widget.close()
    assert not followed(board)


def test_shown_again_it_takes_the_place_of_the_one_before(journal: Journal, course: Curriculum):
    first = dashboard(journal, course)
    assert first.widget
    second = dashboard(journal, course)
    assert second.widget
    assert not followed(first)
    assert followed(second)
    second.close()


def test_by_default_it_shows_the_learners_own_journal(journal: Journal):
    board = dashboard()
    assert board.journal.path == Journal().path != journal.path
    assert board.curriculum == load_curriculum(check_files=False)
    board.close()


def test_a_full_disk_leaves_nothing_half_done(board: Dashboard, journal: Journal, monkeypatch):
    """The whole way down to the file, not only the journal's own error."""
    board.controls.boxes[LORA].value = True
    kept = journal.path.read_bytes()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lessonkit.progress.journal.os.write", full)
    board.controls.boxes[PROMPT].value = True
    monkeypatch.undo()
    assert board.controls.boxes[PROMPT].value is False
    assert "the disk is full" in said(board)
    assert journal.path.read_bytes() == kept
