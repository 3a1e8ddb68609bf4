"""Documents from records alone: ``python -m production.documentation write | check``.

Numbers enter a document only through its template's fields, which are looked up in the records; a template with a number in
its own text is refused. ``check`` reads the finished files again: each number must stand in a record, at the precision at
which it is printed, and each file must be what the records say today. It can't see a true number in a wrong sentence: that
is what the templates' review is for.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lessonkit.errors import DataError, LessonError, UnknownNameError
from production.commands import run
from production.pipeline_state import Made, PipelineRun, every_run
from production.settings import work_folder

if TYPE_CHECKING:
    from production.pipeline_steps import Context

__all__ = ["check", "document", "fill", "numbers", "table", "unknown_numbers", "write_documents"]

FOLDER = "documents"
ABSENT = "not measured"
#: A number as people write it: 2,189 or 0.912 or -3 or 1e-05. "p95" and "sha256" are names: a letter stands before it.
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)


# ---- Filling templates -----------------------------------------------------------------------------------


class _Filler(string.Formatter):
    """``{train.metrics.eval_loss:.3f}`` walks through dictionaries and lists; None is told as not measured."""

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        value: Any = kwargs
        for part in field_name.split("."):
            try:
                value = value[int(part)] if isinstance(value, list | tuple) else value[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise DataError(
                    f"A document asks for {field_name}, and no record has it.",
                    why=f"{part!r} is not there",
                    fix="let the step record it, or mend the template in production/documents.py",
                ) from None
        return value, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return ABSENT
        return super().format_field(value, format_spec)


def fill(template: str, facts: Mapping[str, Any]) -> str:
    """The template with its fields looked up. DataError for a missing field, and for a number in its own text."""
    for literal, *_ in string.Formatter().parse(template):
        if found := numbers(literal):
            raise DataError(
                f"A template has the number {found[0]} in its own text: {literal.strip()[:80]!r}.",
                why="nobody would know where it comes from, and it would stay when the truth changes",
                fix="let a step record it, and write a field such as {deploy.p95_ms:.1f}",
            )
    return _Filler().vformat(template, (), facts)


def table(head: Mapping[str, str], rows: Iterable[Any], facts: Mapping[str, Any]) -> str:
    """A Markdown table. head: title -> template of the cell, in which ``each`` is the row."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [
            fill(cell, {**facts, "each": row}).replace("|", "\\|").replace("\n", " ")
            for cell in head.values()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- Checking --------------------------------------------------------------------------------------------


def numbers(text: str) -> list[str]:
    """The numbers in a text, as they are written."""
    return NUMBER.findall(text)


def _values(found: Any) -> Iterator[float | str]:
    """All numbers and texts in nested plain data, names included."""
    if isinstance(found, Mapping):
        for name, each in found.items():
            yield str(name)
            yield from _values(each)
    elif isinstance(found, list | tuple):
        for each in found:
            yield from _values(each)
    elif isinstance(found, str) or (isinstance(found, int | float) and not isinstance(found, bool)):
        yield found


def _stands(written: str, percent: bool, known: Iterable[float]) -> bool:
    """Whether one of the numbers, rounded as ``written`` is, reads like it."""
    plain = written.replace(",", "").lower()
    bare = plain.lstrip("+-")
    places = len(bare.partition("e")[0].partition(".")[2])
    kind = f".{places}e" if "e" in bare else f".{places}f"
    for value in known:
        for each in (value, 100 * value) if percent else (value,):
            same = float(format(abs(each), kind)) == float(bare)
            if same and (float(bare) == 0 or (each < 0) == (plain[0] == "-")):
                return True
    return False


def unknown_numbers(text: str, records: Mapping[str, Any]) -> list[str]:
    """The numbers of a text that stand in no record. Whole texts of the records (ids, hashes, commands) may be quoted."""
    values = list(_values(records))
    known = {float(each) for each in values if not isinstance(each, str) and math.isfinite(each)}
    quoted = {each.strip() for each in values if isinstance(each, str) and re.search(r"\d", each)}
    quoted |= {each.replace("|", "\\|").replace("\n", " ") for each in quoted}
    for each in sorted(quoted, key=len, reverse=True):
        if each in text:
            text = re.sub(rf"(?<![\w.]){re.escape(each)}(?!\w|\.\d)", " ", text)
    found = []
    for match in NUMBER.finditer(text):
        percent = bool(re.match(r"\s?%", text[match.end() :]))
        if not _stands(match[0], percent, known):
            found.append(match[0])
    return found


def check(run: PipelineRun) -> list[str]:
    """What is wrong with the documents of a run, in sentences; [] if nothing is."""
    from production.documents import make_documents

    records, wrong = _records(run), []
    for name, text in make_documents(records).items():
        file = run.folder / FOLDER / name
        if not file.is_file():
            wrong.append(f"{name} is missing")
            continue
        there = file.read_text(encoding="utf-8")
        wrong += [
            f"{name}: the number {each} stands in no record" for each in unknown_numbers(there, records)
        ]
        changed = [line for line in there.splitlines() if line not in text.splitlines()]
        if there != text:
            first = repr(changed[0]) if changed else "one is missing, or stands elsewhere"
            wrong.append(f"{name} is not what the records say; the first such line: {first}")
    return wrong


# ---- Writing ---------------------------------------------------------------------------------------------


def _records(run: PipelineRun) -> dict[str, dict[str, Any]]:
    """Without that of the documents themselves. DataError if they are not all of one model, or one says stop."""
    records = {name: record for name, record in run.records().items() if name != "document"}
    for name, record in records.items():
        stands_on = [need for need in record["needs"] if need in records]
        stale = [
            need for need in stands_on if record["inputs"].get(f"step.{need}") != records[need]["result"]
        ]
        if stale or record["stopped"]:
            raise DataError(
                f"The records of the run {run.folder.name} don't belong together: {name} "
                + (f"was done before {', '.join(stale)} was done anew." if stale else "has stopped."),
                why="documents describe one release, from its data to its costs",
                fix="see where it stands: python -m production.pipeline show",
            )
    return records


def write_documents(run: PipelineRun) -> list[Path]:
    """Write all documents of a run. DataError if a record lacks what they need, or a number stands in no record."""
    from production.documents import make_documents

    records, folder, files = _records(run), run.folder / FOLDER, []
    made = make_documents(records)
    invented = {name: found for name, text in made.items() if (found := unknown_numbers(text, records))}
    if invented:
        raise DataError(
            f"Numbers that stand in no record: {invented}.",
            fix="print them as the record has them, or let a step record them",
        )
    folder.mkdir(exist_ok=True)
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
        files.append(folder / name)
    return files


def document(context: Context) -> Made:
    """The pipeline's last step: all documents, checked."""
    files = write_documents(context.run)
    count = sum(len(numbers(each.read_text(encoding="utf-8"))) for each in files)
    return Made(
        {"files": [each.name for each in files], "numbers": count}, tuple(files), f"{len(files)} documents"
    )


def main(
    action: Annotated[str, typer.Argument(help="write or check")] = "check",
    settings: Annotated[str, typer.Option(help="another settings.toml")] = "",
    work: Annotated[str, typer.Option(help="the work folder, instead of [work] folder")] = "",
) -> None:
    """Write or check the documents of the newest complete run."""
    folder = Path(work).expanduser() if work else work_folder(settings)
    found = next((each for each in every_run(folder) if each.status("document") == "done"), None)
    if found is None:
        raise LessonError(
            f"No run in {folder} has been documented yet.", fix="begin one: python -m production.pipeline run"
        )
    if action == "write":
        typer.echo("\n".join(str(each) for each in write_documents(found)))
    elif action == "check":
        wrong = check(found)
        if wrong:
            raise LessonError(
                "The documents and the records disagree.", why="\n".join(wrong), fix="write them anew"
            )
        typer.echo("each number stands in a record, and each document is what the records say")
    else:
        raise UnknownNameError("action", action, ("write", "check"))


if __name__ == "__main__":
    run(main)
