"""What the dashboard says, as pieces of HTML; and all of it at once, for where no widget is drawn."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lessonkit.progress.charts import line_chart
from lessonkit.progress.dashboard.links import link_to
from lessonkit.progress.events import local_time
from lessonkit.progress.pace import pace, streak
from lessonkit.progress.report import cell, notes_on
from lessonkit.progress.suggestions import NOT_WRITTEN
from lessonkit.progress.weeks import hidden_boxes, weeks

if TYPE_CHECKING:
    from lessonkit.curriculum import ChecklistItem, Lesson, Step
    from lessonkit.progress.records import Note, Progress, Run

__all__ = [
    "HINT",
    "all_runs",
    "grid",
    "head",
    "hidden",
    "item_label",
    "message",
    "next_step",
    "notes_about",
    "page",
]
__all__ += ["run_chart", "run_table", "steps", "written"]

HINT = "Tick a box when you have it: it is kept at once, and another click takes it back."
STILL = "A still picture: run this cell, and here are boxes to tick, a focus timer and a place for notes."
RUNS_SHOWN, RUNS_DRAWN = 10, 20
NOTES_SHOWN = 5
LONGEST_NOTE = 300  # characters of a note that are shown
MARKS = {"done": "✅", "open": "⬜", NOT_WRITTEN: "⬜"}


def head(progress: Progress) -> str:
    """The path with how much of it is done, the time spent against the plan, and the days."""
    path = progress.curriculum.path(progress.path)
    ticked, total = progress.done()
    title = html.escape(f"{path.title} ({path.weeks_text})")
    return (
        f"<h3>{path.emoji} {title}: {ticked} of {total} done</h3>"
        f'<progress value="{ticked}" max="{total}" aria-label="{ticked} of {total} boxes ticked"></progress>'
        f"<p>{html.escape(path.goal)}.</p>"
        f"<p>{html.escape(pace(progress, path.id).text)}<br>{html.escape(streak(progress).text)}</p>"
    )


def next_step(progress: Progress) -> str:
    """What to do next, with links that open it, or what to type where there are none."""
    curriculum, step = progress.curriculum, progress.next_step()
    if step.kind == "lesson":
        lessons = [curriculum.lesson(step.id)]
    elif step.kind == "item":
        needed = curriculum.item(step.id).evidence
        names = [name for name in needed.lessons if not progress.lesson_done(name)]
        names += [name.partition(":")[0] for name in needed.exercises if not progress.passed_at(name)]
        lessons = list(map(curriculum.lesson, dict.fromkeys(names)))
    else:
        lessons = []
    links = [_link(link, f"Open {lesson.title}") for lesson in lessons if (link := link_to(lesson))]
    lines = [f"<b>Next:</b> {html.escape(step.text)}"]
    lines += [f"<b>→ {' · '.join(links)}</b>"] if links else []
    lines += [f'<span class="lk-faint">{html.escape(step.command)}</span>'] if step.command else []
    return "".join(f"<p>{line}</p>" for line in lines)


def steps(progress: Progress, shown: Iterable[Step]) -> str:
    """A week's steps, each with whether its lessons are done."""
    lines = []
    for step in shown:
        lessons = [progress.curriculum.lesson(name) for name in step.lessons]
        done = all(progress.lesson_done(lesson.id) for lesson in lessons)
        mark, word = ("✓", "done") if done else ("·", "open")
        later = "" if all(lesson.written for lesson in lessons) else f" ({NOT_WRITTEN})"
        lines.append(
            f'<li><span role="img" aria-label="{word}">{mark}</span> {html.escape(step.text + later)}</li>'
        )
    return f'<ul class="lk-steps">{"".join(lines)}</ul>'


def item_label(progress: Progress, item: ChecklistItem) -> str:
    """The words beside an item's box: its text, and why it is ticked or can't be earned yet."""
    mark = progress.ticked.get(item.id)
    if mark:
        return f"{item.text} ({mark.why})" if mark.why else item.text
    return item.text if written(progress, item) else f"{item.text} ({NOT_WRITTEN})"


def written(progress: Progress, item: ChecklistItem) -> bool:
    """Whether all lessons that earn an item exist."""
    return all(progress.curriculum.lesson(name).written for name in item.evidence.lessons)


def hidden(progress: Progress) -> str:
    """What one-technique mode hides, and where the technique is if not on this path; else empty."""
    curriculum, only = progress.curriculum, progress.only
    if not only:
        return ""
    path, title = curriculum.path(progress.path), curriculum.technique(only).title
    count = hidden_boxes(curriculum, path, only)
    text = f"Showing {title} only; {count} other {'box is' if count == 1 else 'boxes are'} hidden."
    if not weeks(curriculum, path, only):
        others = [each.title for each in curriculum.paths if weeks(curriculum, each, only)]
        text = (
            f"{path.title} has nothing about {title}; {_and(others)} {'has' if len(others) == 1 else 'have'}."
        )
    return f"<p>{html.escape(text)}</p>"


def grid(progress: Progress, only: str = "") -> str:
    """The techniques by level, each cell with its state, and the last note on each technique."""
    curriculum = progress.curriculum
    names = ["Technique", *(level.title for level in curriculum.levels), "Notes"]
    lines = ["".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)]
    for technique, row in curriculum.grid_rows():
        if only in ("", technique.id):
            cells = [f'<th scope="row">{html.escape(technique.title)}</th>']
            cells += [f"<td>{_cell(progress, lesson)}</td>" for lesson in row]
            last = "".join(_short(note.text, 60) for note in notes_about(progress, technique.id)[-1:])
            cells.append(f'<td class="lk-text">{html.escape(last)}</td>')
            lines.append("".join(cells))
    table = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="lk-wide"><table>{table}</table></div><p class="lk-faint">N/A: there is no such lesson.</p>'


def notes_about(progress: Progress, technique: str) -> list[Note]:
    """The notes on a technique or one of its lessons, oldest first; with an empty one, those on none of them."""
    if technique:
        return notes_on(progress, technique)
    curriculum = progress.curriculum
    names = {each.id for each in curriculum.techniques}
    names |= {lesson.id for lesson in curriculum.lessons if lesson.technique in names}
    return [note for note in progress.notes if note.about not in names]


def notes(progress: Progress, technique: str) -> str:
    """The latest notes on a technique, newest first."""
    found = notes_about(progress, technique)
    lines = [
        f'<li><span class="lk-faint">{local_time(note.time)}</span> {html.escape(_short(note.text, LONGEST_NOTE))}</li>'
        for note in reversed(found[-NOTES_SHOWN:])
    ]
    more = len(found) - NOTES_SHOWN
    command = f"lessonkit note --about {technique}" if technique else "lessonkit note"
    lines += [f"<li>and {more} older: <code>{command}</code> shows them</li>"] if more > 0 else []
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def all_runs(progress: Progress) -> list[Run]:
    """Every run, oldest first."""
    return sorted((run for runs in progress.runs.values() for run in runs), key=lambda run: run.time)


def run_table(runs: Sequence[Run]) -> str:
    """The latest runs, newest first."""
    if not runs:
        return "<p>No runs yet. Run a lesson to its end, and its results stand here.</p>"
    names = ("When", "Lesson", "Scale", "Training", "Peak memory", "Results")
    lines = ["".join(f'<th scope="col">{name}</th>' for name in names)]
    for run in reversed(runs[-RUNS_SHOWN:]):
        seconds = "" if run.seconds is None else f"{run.seconds:.0f} s"
        memory = "" if not run.peak_bytes else f"{run.peak_bytes / 2**30:.2f} GiB"
        results = ", ".join(f"{name} {value:.4g}" for name, value in run.metrics.items())
        cells = (local_time(run.time), run.lesson, run.scale, seconds, memory)
        line = "".join(f"<td>{html.escape(each)}</td>" for each in cells)
        lines.append(f'{line}<td class="lk-text">{html.escape(results)}</td>')
    table = "".join(f"<tr>{line}</tr>" for line in lines)
    told = f"The last {min(len(runs), RUNS_SHOWN)} of {len(runs)}"
    return f'<div class="lk-wide"><table aria-label="{told} runs">{table}</table></div>'


def run_chart(progress: Progress, lesson: str) -> str:
    """A lesson's scores over its runs, and the loss curves of its latest run."""
    runs = progress.runs.get(lesson, [])
    if not runs:
        return ""
    drawn = list(enumerate(runs, 1))[-RUNS_DRAWN:]
    names = dict.fromkeys(name for _, run in drawn for name, value in run.metrics.items() if 0 <= value <= 1)
    scores = {
        name: [(number, run.metrics[name]) for number, run in drawn if name in run.metrics] for name in names
    }
    charts = [
        line_chart("Scores, run by run", "run", scores, dots=True),
        line_chart("Loss of the latest run", "step", runs[-1].curves),
    ]
    if not any(charts):
        return "<p>Nothing to draw yet: scores are drawn from a lesson's second run on.</p>"
    return " ".join(charts)


def message(text: str, *, kind: str = "said") -> str:
    """A few lines that are read out when they change. kind: ``said``, ``cheer`` or ``trouble``."""
    if not text:
        return ""
    lines = "<br>".join(html.escape(line) for line in text.splitlines())
    style = {"cheer": "lk-said lk-cheer", "trouble": "lk-trouble"}.get(kind, "lk-said")
    role = "alert" if kind == "trouble" else "status"
    return f'<div class="{style}" role="{role}">{lines}</div>'


def page(progress: Progress) -> str:
    """The whole dashboard without any control: what a page shows that draws no widgets."""
    curriculum = progress.curriculum
    parts = [head(progress), f"<p><i>{STILL}</i></p>", next_step(progress), hidden(progress)]
    for week in weeks(curriculum, curriculum.path(progress.path), progress.only):
        boxes = [(guide.id, f"I have read: {guide.title}") for guide in week.guides]
        boxes += [(item.id, item_label(progress, item)) for item in week.items]
        lines = (
            f"<li>{'☑' if name in progress.ticked else '☐'} {html.escape(text)}</li>" for name, text in boxes
        )
        parts += [f"<h4>{html.escape(week.title)}</h4>", f"<ul>{''.join(lines)}</ul>"]
    runs = all_runs(progress)
    parts += ["<h4>Techniques</h4>", grid(progress, progress.only), "<h4>Runs so far</h4>", run_table(runs)]
    parts += [run_chart(progress, runs[-1].lesson)] if runs else []
    return "".join(parts)


def _cell(progress: Progress, lesson: Lesson | None) -> str:
    """A cell of the grid: mark and word, for where a font lacks such marks all of them look alike."""
    state = cell(progress, lesson)
    if state not in MARKS:
        return state
    mark = f'<span aria-hidden="true">{MARKS[state]}</span> {state}'
    link = link_to(lesson) if lesson else ""
    return f"{mark} · {_link(link, 'notebook')}" if link else mark


def _link(link: str, text: str) -> str:
    return f'<a href="{html.escape(link)}">{html.escape(text)}</a>'


def _short(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
