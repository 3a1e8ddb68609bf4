"""A learner's progress as a page to show: what was learned, when, and what their own runs measured.

Notes are private and left out unless asked for. Everything that came from the journal is escaped: a note or
a metric's name can be any text.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lessonkit.errors import UnknownNameError
from lessonkit.progress.charts import number
from lessonkit.progress.events import local_time, plain
from lessonkit.progress.evidence import exercise_names
from lessonkit.progress.pace import hours, streak
from lessonkit.progress.portfolio_html import page
from lessonkit.progress.records import Progress, Run
from lessonkit.progress.report import cell

if TYPE_CHECKING:
    from lessonkit.curriculum import Curriculum, Lesson

__all__ = ["FORMATS", "export", "facts"]

FORMATS = ("markdown", "html", "json")
BY_HAND = "ticked by hand"
COUNTS = ("n", "n_test", "test_n", "test_texts", "test_rows", "test_examples")  # metrics that say how many
CHARTED = 4  # metrics of a lesson whose way over the runs is drawn
BIDI = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])  # would turn the text around
MARKS = {"done": "✅", "open": "⬜", "not written yet": "⬜", "N/A": "N/A"}


def export(
    progress: Progress,
    curriculum: Curriculum,
    format: str = "markdown",
    *,
    with_notes: bool = False,
    name: str = "",
    now: datetime | None = None,
) -> str:
    """The portfolio as text. format: ``markdown``, ``html`` (one page that needs no other file) or ``json``.

    with_notes: the learner's notes too. name: whose it is. Raises UnknownNameError for another format.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    told = facts(progress, curriculum, with_notes=with_notes, name=name, now=now)
    if format == "json":
        return json.dumps(plain(told), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return page(told) if format == "html" else "\n".join(_markdown(told)) + "\n"


def facts(
    progress: Progress,
    curriculum: Curriculum,
    *,
    with_notes: bool = False,
    name: str = "",
    now: datetime | None = None,
) -> dict[str, Any]:
    """What the page says, as plain data; every text is free of control characters."""
    made = (now or datetime.now()).astimezone()
    days, seconds = streak(progress, now).days_in_all, sum(progress.work.values())
    spent = f"{hours(seconds / 60)} of recorded study" if seconds else ""
    spent += f" on {days} day{'s' * (days != 1)}" if seconds and days else ""
    told: dict[str, Any] = {
        "title": f"Fine-tuning portfolio: {name}" if name else "Fine-tuning portfolio",
        "date": made.date().isoformat(),
        "path": curriculum.path(progress.path).title,
        "study_seconds": round(seconds),
        "time": spent,
        "paths": [_path(progress, path.id) for path in curriculum.paths],
        "levels": [level.title for level in curriculum.levels],
        "grid": {
            technique.title: [cell(progress, lesson) for lesson in row]
            for technique, row in curriculum.grid_rows()
        },
        "results": [_results(progress, curriculum, lesson) for lesson in _lessons_run(progress, curriculum)],
        "exercises": list(_exercises(progress, curriculum)),
    }
    if with_notes:
        notes = progress.notes
        told["notes"] = [{"time": local_time(n.time), "about": n.about, "text": n.text} for n in notes]
    return _cleaned(told)


def _path(progress: Progress, path: str) -> dict[str, Any]:
    chosen = progress.curriculum.path(path)
    ticked, total = progress.done(path)
    marks = [(item, progress.ticked[item.id]) for item in chosen.checklist if item.id in progress.ticked]
    items = [
        {"text": item.text, "date": local_time(mark.time)[:10], "by": mark.by, "why": mark.why or BY_HAND}
        for item, mark in marks
    ]
    return {"title": chosen.title, "ticked": ticked, "total": total, "items": items}


def _lessons_run(progress: Progress, curriculum: Curriculum) -> list[str]:
    """Lessons with a run that counts: in the order of the course, those it doesn't know last."""
    order = [lesson.id for lesson in curriculum.lessons]
    return sorted(
        filter(progress.real_runs, progress.runs),
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )


def _results(progress: Progress, curriculum: Curriculum, lesson: str) -> dict[str, Any]:
    runs = progress.real_runs(lesson)
    last = runs[-1]
    row = {
        "date": local_time(last.time)[:10],
        "scale": last.scale,
        "hardware": last.hardware,
        "seconds": last.seconds,
        "peak_bytes": last.peak_bytes,
        "n": next((last.metrics[name] for name in COUNTS if name in last.metrics), None),
        "runs": len(runs),
    }
    return row | {
        "lesson": _title(curriculum, lesson),
        "circumstances": _circumstances(row),
        "metrics": {name: value for name, value in last.metrics.items() if name not in COUNTS},
        "curves": next((run.curves for run in reversed(runs) if run.curves), {}),
        "over_runs": _over_runs(runs),
    }


def _circumstances(row: dict[str, Any]) -> str:
    """Under which circumstances a result came about, in one line."""
    parts = [f"{row['date']}, {row['scale']} scale"]
    parts += [row["hardware"]] if row["hardware"] else []
    parts += [f"{row['seconds']:.0f} s of training"] if row["seconds"] else []
    parts += [f"peak {row['peak_bytes'] / 2**30:.2f} GiB"] if row["peak_bytes"] else []
    parts += [f"n = {number(row['n'])}"] if row["n"] is not None else []
    parts += [f"the last of {row['runs']} runs"] if row["runs"] > 1 else []
    return "; ".join(parts)


def _over_runs(runs: list[Run]) -> dict[str, list[tuple[int, float]]]:
    """(run, counted from 1; value) of those of the last run's scores that changed between runs."""
    over = {}
    for name in (name for name in runs[-1].metrics if name not in COUNTS):
        points = [(index, run.metrics[name]) for index, run in enumerate(runs, 1) if name in run.metrics]
        points = [point for point in points if math.isfinite(point[1])]
        if len({value for _, value in points}) >= 2:  # a baseline is the same each time: nothing to see
            over[name] = points
    return dict(list(over.items())[:CHARTED])


def _exercises(progress: Progress, curriculum: Curriculum) -> Iterator[dict[str, Any]]:
    for lesson, passed in sorted(progress.passed.items()):
        names = exercise_names(lesson)
        kept = [name for name in passed if name in names] if names else list(passed)
        if kept:
            title = _title(curriculum, lesson)
            yield {"lesson": title, "passed": len(kept), "total": len(names) or None, "names": sorted(kept)}


def _title(curriculum: Curriculum, lesson: str) -> str:
    titles: dict[str, Lesson] = {each.id: each for each in curriculum.lessons}
    return titles[lesson].title if lesson in titles else lesson


def _cleaned(value: Any) -> Any:
    """Without control characters and marks that turn text around; line breaks and tabs stay."""
    if isinstance(value, str):
        text = value.translate(BIDI)
        return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else " " for c in text)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(each) for each in value]
    return value


# ---- Markdown -------------------------------------------------------------------------------------


def _markdown(told: dict[str, Any]) -> Iterator[str]:
    yield f"# {_inline(told['title'])}"
    yield ""
    yield _inline(". ".join(filter(None, [f"As of {told['date']}", f"Path: {told['path']}", told["time"]])))
    yield from _markdown_items(told)
    yield from ("", "## Techniques", "", f"| Technique | {' | '.join(told['levels'])} |")
    yield "|---|" + "---|" * len(told["levels"])
    for technique, cells in told["grid"].items():
        yield f"| {_inline(technique)} | {' | '.join(MARKS[each] for each in cells)} |"
    yield from _markdown_results(told)
    if told["exercises"]:
        yield from ("", "## Exercises passed", "")
        for row in told["exercises"]:
            of = f" of {row['total']}" if row["total"] else ""
            yield f"- {_inline(row['lesson'])}: {row['passed']}{of} ({_inline(', '.join(row['names']))})"
    if told.get("notes"):
        yield from ("", "## Notes")
        for note in told["notes"]:
            about = f" · {_inline(note['about'])}" if note["about"] else ""
            yield from ("", f"**{note['time']}**{about}", "", *_fenced(note["text"]))


def _markdown_items(told: dict[str, Any]) -> Iterator[str]:
    for path in told["paths"]:
        if path["items"]:
            yield from ("", f"## {_inline(path['title'])}: {path['ticked']} of {path['total']}", "")
            for item in path["items"]:
                why = f": {_inline(item['why'])}" if item["why"] else ""
                yield f"- ✅ {_inline(item['text'])} ({item['date']}){why}"


def _markdown_results(told: dict[str, Any]) -> Iterator[str]:
    if not told["results"]:
        return
    yield from ("", "## Results of my own runs")
    for row in told["results"]:
        yield from ("", f"### {_inline(row['lesson'])}", "", _inline(row["circumstances"]), "")
        yield from ("| measured | value |", "|---|---|")
        for name, value in row["metrics"].items():
            yield f"| {_inline(name.replace('_', ' '))} | {_inline(number(value))} |"


def _inline(text: str) -> str:
    """Any text as one line of Markdown that reads as it was written."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", " ".join(str(text).split()))


def _fenced(text: str) -> Iterator[str]:
    """Text of several lines, word for word: a fence longer than any run of backquotes in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (f"{fence}text", *text.split("\n"), fence)
