"""A page to show: it says what was done and measured, keeps notes private, and trusts no text."""

from __future__ import annotations

import html.parser
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonkit.curriculum import load_curriculum
from lessonkit.errors import UnknownNameError
from lessonkit.progress import Journal, Progress, add_note, fold, record_evidence, tick
from lessonkit.progress.charts import line_chart
from lessonkit.progress.portfolio import FORMATS, export

CURRICULUM = load_curriculum(check_files=False)
LESSON = "beginner/full-fine-tuning"
NOW = datetime(2090, 3, 12, 12, tzinfo=UTC)
HOSTILE = '</pre><script>alert("x")</script><img src=x onerror=alert(1)>`*_[a](http://x)|\n# not a title'


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def state(journal: Journal) -> Progress:
    return fold(journal.read().events, CURRICULUM)


def add_run(journal: Journal, lesson: str = LESSON, scale: str = "laptop", **changes: object) -> None:
    data = {
        "metrics": {"test_accuracy": 0.9512, "majority_baseline": 0.495, "test_texts": 2189},
        "seconds": 93.0,
        "peak_bytes": 3 * 2**29,
        "hardware": "Some CPU, 2 cores",
        "curves": {"training 1": [[step, 2.0 / step] for step in range(1, 20)]},
    }
    journal.append("run", lesson=lesson, scale=scale, **(data | changes))


def full(journal: Journal) -> Progress:
    add_run(journal, metrics={"test_accuracy": 0.91, "test_texts": 2189})
    add_run(journal)
    record_evidence(journal, CURRICULUM)
    tick(journal, CURRICULUM, "model-registry")
    journal.append("exercise", lesson=LESSON, exercise="baseline", outcome="passed")
    journal.append("work", lesson=LESSON, seconds=3600)
    add_note(journal, CURRICULUM, "my private thought", LESSON)
    return state(journal)


def test_the_grid_says_in_words_what_its_marks_mean(journal: Journal) -> None:
    """Where no font has emoji, all of them are the same empty frame."""
    text = Page(export(full(journal), CURRICULUM, "html")).text
    assert text.count("✅ done") == 1
    assert "⬜ open" in text


class Page(html.parser.HTMLParser):
    """What a browser would see: elements in their order, and whether they are properly closed."""

    VOID = ("meta", "br", "circle", "polyline", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_it_says_what_was_done_when_why_and_what_was_measured(journal: Journal, form: str) -> None:
    text = export(full(journal), CURRICULUM, form, name="A. Learner", now=NOW)
    text = Page(text).text if form == "html" else text.replace("\\", "")
    today = datetime.now().astimezone().date().isoformat()
    for told in (
        "A. Learner",
        "As of 2090-03-12",
        "Quick Start: 1 of 6",
        "Production Ready: 1 of 12",
        "ticked by hand",
        "1 hour of recorded study on 1 day",
        CURRICULUM.item("run-beginner-full-fine-tuning").text,
        f"ran {LESSON} (laptop, {today})",
        "Full Fine-Tuning, Beginner",
        "test accuracy",
        "0.9512",
        "n = 2,189",
        "Some CPU, 2 cores",
        "93 s of training",
        "peak 1.50 GiB",
        "laptop scale",
        "the last of 2 runs",
        "Exercises passed",
        "baseline",
    ):
        assert told in text, told
    assert "Deep Dive" not in text  # nothing of it is done
    for level in CURRICULUM.levels:
        assert level.title in text


@pytest.mark.parametrize("form", FORMATS)
def test_notes_are_left_out_unless_asked_for(journal: Journal, form: str) -> None:
    progress = full(journal)
    assert "my private thought" not in export(progress, CURRICULUM, form)
    assert "my private thought" in export(progress, CURRICULUM, form, with_notes=True)


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_done_yet_is_a_page_too(form: str) -> None:
    text = export(Progress(CURRICULUM), CURRICULUM, form)
    assert "Fine-tuning portfolio" in text
    assert "✅" not in text


def test_smoke_runs_are_no_results(journal: Journal) -> None:
    add_run(journal, scale="smoke")
    assert json.loads(export(state(journal), CURRICULUM, "json"))["results"] == []


def test_json_is_strict_and_complete(journal: Journal) -> None:
    add_run(journal, metrics={"loss": float("nan"), "n": 7})
    add_run(journal, lesson="gone")
    told = json.loads(export(full(journal), CURRICULUM, "json"), parse_constant=pytest.fail)
    results = {row["lesson"]: row for row in told["results"]}
    assert list(results) == ["Full Fine-Tuning, Beginner", "gone"]
    row = results["Full Fine-Tuning, Beginner"]
    assert (row["n"], row["runs"], row["scale"]) == (2189, 3, "laptop")
    assert row["metrics"] == {"test_accuracy": 0.9512, "majority_baseline": 0.495}
    assert row["over_runs"] == {"test_accuracy": [[2, 0.91], [3, 0.9512]]}
    assert told["study_seconds"] == 3600
    assert "notes" not in told


def test_the_page_draws_its_runs_and_needs_nothing_from_elsewhere(journal: Journal) -> None:
    text = export(full(journal), CURRICULUM, "html")
    page = Page(text)
    assert page.count("svg") == 2  # the loss of the last run, the accuracy over both
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert "Training loss by step" in labels[0]
    assert "0.91 to 0.9512" in labels[1]
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe", "object", "a"} == set()
    policy = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def hostile(journal: Journal) -> Progress:
    metrics = {HOSTILE: 1.0, "test_accuracy": 0.5}
    curves = {HOSTILE: [[1, 2.0], [2, 1.0]], "b": [[1, 2.0], [2, 1.0]]}
    for _ in range(2):
        add_run(journal, HOSTILE, metrics=metrics, hardware=HOSTILE, curves=curves)
    add_run(journal)
    tick(journal, CURRICULUM, "understand-metrics", why=HOSTILE)
    journal.append("exercise", lesson=HOSTILE, exercise=HOSTILE, outcome="passed")
    journal.append("note", text=HOSTILE, about=HOSTILE)
    return state(journal)


def test_hostile_text_stays_text_in_html(journal: Journal) -> None:
    text = export(hostile(journal), CURRICULUM, "html", with_notes=True, name=HOSTILE)
    page = Page(text)
    assert page.count("script") == page.count("img") == page.count("a") == 0
    assert page.text.count('<script>alert("x")</script>') >= 8
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("src", "href") for name in attributes)


def test_hostile_text_stays_text_in_markdown(journal: Journal) -> None:
    """Rendered by a real Markdown reader, it is neither markup nor a link nor a title."""
    markdown_it = pytest.importorskip("markdown_it")
    text = export(hostile(journal), CURRICULUM, "markdown", with_notes=True, name=HOSTILE)
    rendered = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    for markup in ("<script", "<img", "<a ", "<h1>not", "<h1># not", "<em>"):
        assert markup not in rendered
    assert rendered.count("<h1>") == 1
    assert rendered.count("&lt;script&gt;") >= 8
    assert f'<code class="language-text">{HOSTILE[:6].replace("<", "&lt;").replace(">", "&gt;")}' in rendered


@pytest.mark.parametrize(
    "text", ["```\nfenced\n```", "`````", "    indented\n\ttab", "1. one\n- two\n> three"]
)
def test_a_note_is_word_for_word_in_markdown(journal: Journal, text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    add_note(journal, CURRICULUM, text)
    exported = export(state(journal), CURRICULUM, "markdown", with_notes=True)
    tokens = markdown_it.MarkdownIt("commonmark").parse(exported)
    assert [token.content for token in tokens if token.type == "fence"] == [text + "\n"]


def test_marks_that_turn_text_around_and_control_characters_are_left_out(journal: Journal) -> None:
    add_note(journal, CURRICULUM, "a\u202eb\x00c\x1b[31md\u2066e 👩‍🔬\n\tf")
    told = json.loads(export(state(journal), CURRICULUM, "json", with_notes=True))
    assert told["notes"][0]["text"] == "ab c [31mde 👩‍🔬\n\tf"


def test_an_unknown_format_is_told() -> None:
    with pytest.raises(UnknownNameError) as caught:
        export(Progress(CURRICULUM), CURRICULUM, "htlm")
    assert caught.value.nearest == ["html"]


# ---- Charts -----------------------------------------------------------------------------------------

values = st.floats() | st.integers(-(10**18), 10**18)


@settings(deadline=None, max_examples=80)
@given(st.dictionaries(st.text(max_size=8), st.lists(st.tuples(values, values), max_size=20), max_size=6))
def test_a_chart_stays_inside_its_frame_whatever_the_numbers(series: dict) -> None:
    drawn = line_chart("title", "step", series)
    finite = [
        [p for p in points if all(map(math.isfinite, map(float, p)))] for points in list(series.values())[:4]
    ]
    if not any(len(points) >= 2 for points in finite):
        assert drawn == ""
        return
    page = Page(drawn)
    width, height = (float(page.tags[0][1][name]) for name in ("width", "height"))
    for tag, attributes in page.tags:
        if tag == "polyline":
            for point in attributes["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height


def test_what_rises_goes_up_and_to_the_right() -> None:
    page = Page(line_chart("score", "run", {"a": [(1, 0.5), (2, 0.7)]}, dots=True))
    (line,) = (attributes["points"] for tag, attributes in page.tags if tag == "polyline")
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.split())
    assert x1 < x2
    assert y1 > y2
    assert page.count("circle") == 2
    assert "0.7" in page.text
