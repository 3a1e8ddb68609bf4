"""The portfolio as one HTML page: no other file, no script, dark and light, and fit to be printed."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from lessonkit.progress.charts import line_chart, number

__all__ = ["page"]

# Nothing is fetched and no script runs, whatever a note or a metric's name holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --text: #1c1c1e; --back: #ffffff; --soft: #5c5c66; --rule: #d5d5dd; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ececf1; --back: #17171a; --soft: #a9a9b6; --rule: #3a3a44; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2rem; border-bottom: 1px solid var(--rule); }
.soft { color: var(--soft); }
table { border-collapse: collapse; margin: 0.5rem 0 1rem; }
th, td { border-bottom: 1px solid var(--rule); padding: 0.25rem 0.9rem 0.25rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
ul.items { list-style: none; padding-left: 0; } ul.items li { margin: 0.4rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--rule); padding-left: 0.8rem; }
p, li, td, th { overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; margin-right: 0.5rem; }
section.result, .notes article { break-inside: avoid; }
@media print {
  :root { --text: #000000; --back: #ffffff; --soft: #444444; --rule: #bbbbbb; color-scheme: light; }
  body { font-size: 11pt; margin: 0; max-width: none; }
}
"""
MARKS = {
    "done": ("✅", "done"),
    "open": ("⬜", "open"),
    "not written yet": ("⬜", "open"),
    "N/A": ("N/A", ""),
}


def page(told: dict[str, Any]) -> str:
    """The page. told: what ``portfolio.facts`` returns."""
    body = "\n".join(_body(told))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_safe(told['title'])}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _body(told: dict[str, Any]) -> Iterator[str]:
    yield f"<h1>{_safe(told['title'])}</h1>"
    line = ". ".join(filter(None, [f"As of {told['date']}", f"Path: {told['path']}", told["time"]]))
    yield f'<p class="soft">{_safe(line)}</p>'
    for path in told["paths"]:
        if path["items"]:
            yield f"<h2>{_safe(path['title'])}: {path['ticked']} of {path['total']}</h2>"
            yield f'<ul class="items">{"".join(map(_item, path["items"]))}</ul>'
    yield from _grid(told)
    if told["results"]:
        yield "<h2>Results of my own runs</h2>"
        yield from map(_result, told["results"])
    if told["exercises"]:
        yield f"<h2>Exercises passed</h2><ul>{''.join(map(_exercise, told['exercises']))}</ul>"
    if told.get("notes"):
        yield f'<h2>Notes</h2><div class="notes">{"".join(map(_note, told["notes"]))}</div>'


def _item(item: dict[str, Any]) -> str:
    why = f'<br><span class="soft">{_safe(item["why"])}</span>' if item["why"] else ""
    return f'<li>✅ {_safe(item["text"])} <span class="soft">({_safe(item["date"])})</span>{why}</li>'


def _grid(told: dict[str, Any]) -> Iterator[str]:
    yield "<h2>Techniques</h2><table><thead><tr>"
    yield "".join(f'<th scope="col">{_safe(title)}</th>' for title in ("Technique", *told["levels"]))
    yield "</tr></thead><tbody>"
    for technique, cells in told["grid"].items():
        row = "".join(_cell(*MARKS[each]) for each in cells)
        yield f'<tr><th scope="row">{_safe(technique)}</th>{row}</tr>'
    yield "</tbody></table>"


def _cell(mark: str, said: str) -> str:
    """Mark and word, for where a font lacks such marks all of them look alike."""
    return f'<td><span aria-hidden="true">{mark}</span> {said}</td>' if said else f"<td>{mark}</td>"


def _result(row: dict[str, Any]) -> str:
    cells = "".join(
        f'<tr><th scope="row">{_safe(name.replace("_", " "))}</th><td class="number">{_safe(number(value))}</td></tr>'
        for name, value in row["metrics"].items()
    )
    charts = [line_chart("Training loss by step", "step", row["curves"])] if row["curves"] else []
    charts += [
        line_chart(f"{name.replace('_', ' ')}, run by run", "run", {name: points}, dots=True)
        for name, points in row["over_runs"].items()
    ]
    return (
        f'<section class="result"><h3>{_safe(row["lesson"])}</h3>'
        f'<p class="soft">{_safe(row["circumstances"])}</p><table><tbody>{cells}</tbody></table>'
        f"{''.join(charts)}</section>"
    )


def _exercise(row: dict[str, Any]) -> str:
    of = f" of {row['total']}" if row["total"] else ""
    names = _safe(", ".join(row["names"]))
    return f'<li>{_safe(row["lesson"])}: {row["passed"]}{of} <span class="soft">({names})</span></li>'


def _note(note: dict[str, Any]) -> str:
    about = f" · {_safe(note['about'])}" if note["about"] else ""
    return (
        f'<article><p class="soft">{_safe(note["time"])}{about}</p><pre>{_safe(note["text"])}</pre></article>'
    )


def _safe(text: object) -> str:
    return html.escape(str(text))
