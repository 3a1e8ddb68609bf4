"""Any file or folder of texts as rows of strings: CSV, TSV, JSON lines, Parquet, Excel, .txt files, or pasted text.

What a file is, its content says, not its name. No file is changed. Reading stops at a limit, and says so.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError, nearest
from lessonkit.texts.decoding import decode
from lessonkit.texts.delimited import Rows, SetAside, parse_delimited, unique_names

if TYPE_CHECKING:
    import pandas

__all__ = ["MOST_BYTES", "MOST_ROWS", "Table", "read_table"]

MOST_BYTES = 64 * 2**20  # of a text file; what lies beyond is not read
MOST_ROWS = 50_000
FORMATS = "CSV, TSV, JSONL, Parquet, Excel (.xlsx), or a folder of .txt files"

NOT_A_TABLE = (  # (how the file begins, what it is, what to do)
    (b"%PDF", "a PDF document", "copy its text into a .csv or .txt file"),
    (
        b"\xd0\xcf\x11\xe0",
        "an old Office file (.xls, .doc) or one with a password",
        "save it as .xlsx without a password",
    ),
    (b"\x1f\x8b", "packed with gzip", "unpack it first"),
    (b"BZh", "packed with bzip2", "unpack it first"),
    (b"\xfd7zXZ", "packed with xz", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\x89PNG", "a picture", "texts are needed, not pictures of them"),
    (b"\xff\xd8\xff", "a picture", "texts are needed, not pictures of them"),
    (b"GIF8", "a picture", "texts are needed, not pictures of them"),
    (b"SQLite format 3", "a database (SQLite)", "export the table as CSV"),
    (
        b"\x80\x04\x95",
        "a Python pickle, which can run code when it is opened",
        "save the data as CSV or Parquet",
    ),
    (
        b"\x80\x05\x95",
        "a Python pickle, which can run code when it is opened",
        "save the data as CSV or Parquet",
    ),
    (b"{\\rtf", "a rich text document", "save it as plain text"),
)


@dataclass
class Table:
    """What was read.

    frame: a pandas DataFrame, all its cells strings, a missing one "". lines: for each row where it stands in the
    file, from 1 (for a folder: its place among the files). source: the file's name. kind: what it was read as.
    notes: what was decided while reading. set_aside: rows that could not be used.
    """

    frame: pandas.DataFrame
    lines: list[int]
    source: str
    kind: str
    notes: list[str] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)


def read_table(
    source: str | Path,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    sheet: str | None = None,
    max_rows: int = MOST_ROWS,
) -> Table:
    """Read a file, a folder, or text pasted between triple quotation marks (anything with a line break).

    encoding, delimiter, header, sheet: as you know them; left out, they are found out and told in ``notes``.
    max_rows: how many rows to read at the most.
    Raises DataError for what is no table of texts, saying what it is and what to do.
    """
    if isinstance(source, str) and "\n" in source:
        rows = _delimited_or_json(source, "pasted text", delimiter, header, max_rows)
        return _table(rows[0], "pasted text", rows[1])
    path = _existing(source)
    if path.is_dir():
        return _folder(path, encoding, max_rows)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES)
            more = bool(file.read(1))
    except OSError as error:
        raise DataError(
            f"{path.name} cannot be read.",
            why=error.strerror or str(error),
            fix="check that you may open it, and that no other program holds it",
        ) from error
    if not data:
        raise DataError(
            f"{path.name} is empty: it has no byte.", fix="save the file again, with your texts in it"
        )
    return _file(path, data, more, encoding, delimiter, header, sheet, max_rows)


def _file(
    path: Path,
    data: bytes,
    more: bool,
    encoding: str | None,
    delimiter: str | None,
    header: bool | None,
    sheet: str | None,
    max_rows: int,
) -> Table:
    if data.startswith(b"PAR1"):
        return _parquet(path, max_rows)
    if data.startswith(b"PK"):
        return _excel(path, data, more, sheet, max_rows)
    for start, what, cure in NOT_A_TABLE:
        if data.startswith(start):
            raise DataError(f"{path.name} is {what}.", why=f"this reads {FORMATS}", fix=cure)
    try:
        text, notes = decode(data, encoding)
    except DataError as error:
        if more and encoding is None:
            raise
        raise DataError(f"{path.name}: {error.what}", why=error.why, fix=error.fix) from error
    if more:
        text = text[: text.rfind("\n") + 1] or text
        size = path.stat().st_size / 2**20
        notes.append(
            f"The file has {size:,.0f} MiB; its first {MOST_BYTES / 2**20:.0f} were read, which is plenty to learn from."
        )
    if re.match(r"\s*(<!doctype html|<html)", text[:500], re.IGNORECASE):
        raise DataError(
            f"{path.name} is a web page.",
            why=f"this reads {FORMATS}",
            fix="copy its texts out, or download the data itself instead of the page that shows it",
        )
    rows, kind = _delimited_or_json(text, path.name, delimiter, header, max_rows)
    rows.notes[:0] = notes
    return _table(rows, path.name, kind)


def _existing(source: str | Path) -> Path:
    if not isinstance(source, str | Path):
        raise DataError(
            f"A file's name is needed, not {type(source).__name__}.", fix='pass "my-texts.csv", say'
        )
    if re.match(r"[a-z]+://", str(source)):
        raise DataError(
            f"{source} is an address.",
            why="nothing is downloaded here",
            fix="save the file, then pass its name",
        )
    if not str(source).strip():
        raise DataError("The file's name is empty.", fix='pass "my-texts.csv", say')
    path = Path(source).expanduser()
    try:
        there = path.exists()
    except OSError as error:  # a name that is too long, say
        raise DataError(
            "That is no file's name.", why=error.strerror or str(error), fix="check the name"
        ) from error
    if not there:
        folder = path.parent
        beside = sorted(each.name for each in folder.iterdir())[:2000] if folder.is_dir() else []
        close = nearest(path.name, beside)
        where = (
            f"in the folder {folder.resolve().name or folder}" if beside else f"{folder} is not there either"
        )
        raise DataError(
            f"There is no {path.name} {where}." if beside else f"There is no {path.name}; {where}.",
            why=f"Did you mean {' or '.join(map(repr, close))}?" if close else "",
            fix="check the name, or pass the whole path; in JupyterLab: right click on the file, Copy Path",
        )
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path.name} is neither a file nor a folder.", fix="pass a file with your texts")
    return path


def _delimited_or_json(
    text: str, name: str, delimiter: str | None, header: bool | None, most: int
) -> tuple[Rows, str]:
    """Rows, and what they were read as."""
    if delimiter is None and text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
        found = _json(text, most)
        if found is not None:
            return found
    try:
        rows = parse_delimited(text.lstrip("\ufeff"), delimiter=delimiter, header=header, most=most)
    except DataError as error:
        raise DataError(f"{name}: {error.what}", why=error.why, fix=error.fix) from error
    return rows, "delimited text" if len(rows.names) > 1 else "one text a line"


# ---- JSON -------------------------------------------------------------------------------------------


def _json(text: str, most: int) -> tuple[Rows, str] | None:
    """One JSON value for all, or one a line; None where it is neither."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return _json_lines(text, most)
    if isinstance(whole, dict):
        lists = {name: value for name, value in whole.items() if isinstance(value, list)}
        if lists and len(lists) == len(whole) and len({len(each) for each in lists.values()}) == 1:
            names = list(lists)
            if not (len(names) == 1 and all(isinstance(each, dict) for each in lists[names[0]])):
                whole = [dict(zip(names, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        if isinstance(whole, dict):  # {"data": [...]} and the like; else one record alone
            whole = max(lists.values(), key=len) if lists and "messages" not in lists else [whole]
    if not isinstance(whole, list):
        return None
    return _from_records([(each, place) for place, each in enumerate(whole[:most], 1)], [], "JSON")


def _json_lines(text: str, most: int) -> tuple[Rows, str] | None:
    records, aside = [], []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):  # no others: a text may hold U+2028
        if not line.strip():
            continue
        try:
            records.append((json.loads(line), number))
        except (ValueError, RecursionError) as error:
            aside.append(SetAside(number, f"it is not JSON ({str(error).split(':')[0]})", line[:60]))
        if len(records) >= most:
            break
    if len(records) <= len(aside):
        return None
    return _from_records(records, aside, "JSON lines")


def _from_records(records: list[tuple[Any, int]], aside: list[SetAside], kind: str) -> tuple[Rows, str]:
    names = list(dict.fromkeys(name for each, _ in records if isinstance(each, dict) for name in each)) or [
        "text"
    ]
    rows, lines, nested = [], [], set()
    for each, line in records:
        if isinstance(each, str) and names == ["text"]:
            each = {"text": each}
        if not isinstance(each, dict):
            aside.append(SetAside(line, f"it is a {type(each).__name__}, not a record", str(each)[:60]))
            continue
        nested |= {name for name, value in each.items() if isinstance(value, dict | list)}
        rows.append([_cell(each.get(name)) for name in names])
        lines.append(line)
    if not rows:
        raise DataError(
            "It is JSON, but holds no records.",
            fix='write one record a line: {"text": "...", "label": "..."}',
        )
    notes = [f"The field {name!r} holds lists or records; they were kept as JSON." for name in sorted(nested)]
    own: list[str] = []
    return Rows(
        unique_names(names, own), rows, lines, notes + own, sorted(aside, key=lambda each: each.line)
    ), kind


def _cell(value: Any) -> str:
    """A value as text; what is missing is empty."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with a gap comes as floats
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


# ---- Parquet, Excel, folders ------------------------------------------------------------------------


def _parquet(path: Path, most: int) -> Table:
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        total, names, rows = file.metadata.num_rows, file.schema_arrow.names, []
        for batch in file.iter_batches(batch_size=10_000):
            rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
            if len(rows) >= most:
                break
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path.name} begins like Parquet, but cannot be read.",
            why=str(error).splitlines()[0][:200],
            fix="copy or write the file again; a broken download ends too early",
        ) from error
    return _table(_from_cells(names, rows[:most], total, path.name), path.name, "Parquet")


def _excel(path: Path, data: bytes, more: bool, sheet: str | None, most: int) -> Table:
    import zipfile

    import openpyxl

    if more:
        raise DataError(
            f"{path.name} is larger than {MOST_BYTES // 2**20} MiB.",
            why="a workbook is read as a whole",
            fix="save the sheet as CSV (in a spreadsheet program: Save as, CSV UTF-8)",
        )
    try:
        inside = set(zipfile.ZipFile(io.BytesIO(data)).namelist())
        if "xl/workbook.xml" not in inside:
            what = "a Word document" if "word/document.xml" in inside else "a zip archive"
            raise DataError(
                f"{path.name} is {what}.",
                why=f"this reads {FORMATS}",
                fix="save its texts as CSV" if "Word" in what else "unpack it, then pass the file or folder",
            )
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        sheets = {each: _filled(book[each].iter_rows(values_only=True), most + 1) for each in book.sheetnames}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path.name} begins like a workbook, but cannot be read.",
            why=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            fix="open it in a spreadsheet program and save it again, as .xlsx or CSV",
        ) from error
    return _table(_sheet(path.name, sheets, sheet), path.name, "Excel")


def _filled(rows: Iterable[tuple], most: int) -> list[list[str]]:
    found = []
    for row in rows:
        cells = [_cell(value) for value in row]
        if any(cell.strip() for cell in cells):
            found.append(cells)
        if len(found) >= most:
            break
    return found


def _sheet(name: str, sheets: dict[str, list[list[str]]], wanted: str | None) -> Rows:
    if wanted is not None and wanted not in sheets:
        raise DataError(f"{name} has no sheet {wanted!r}.", fix=f"use one of: {', '.join(sheets)}")
    full = [each for each, rows in sheets.items() if len(rows) > 1]
    if wanted is None and not full:
        raise DataError(
            f"{name} has no rows on any sheet.", fix="fill in a first row of names, and texts below it"
        )
    chosen = wanted or full[0]
    rows = sheets[chosen]
    width = max((len(row) for row in rows), default=0)
    while width and not any(len(row) >= width and row[width - 1].strip() for row in rows):
        width -= 1  # columns that are only formatted
    rows = [[*row, *[""] * (width - len(row))][:width] for row in rows]
    out = io.StringIO()
    import csv

    csv.writer(out).writerows(rows)
    found = parse_delimited(out.getvalue(), delimiter=",")
    if len(full) > 1 and wanted is None:
        others = ", ".join(repr(each) for each in full[1:])
        found.notes.insert(0, f"Read the sheet {chosen!r}; there are also {others} (sheet=...).")
    return found


def _folder(path: Path, encoding: str | None, most: int) -> Table:
    """.txt files; those in subfolders take the subfolder's name as their label."""
    files = sorted(each for each in path.rglob("*.txt") if each.is_file() and not _hidden(each, path))
    if not files:
        beside = sorted(each.name for each in path.iterdir() if not each.name.startswith("."))
        tables = [
            each for each in beside if each.lower().endswith((".csv", ".tsv", ".jsonl", ".parquet", ".xlsx"))
        ]
        fix = (
            f"pass the file itself, {tables[0]!r}, say"
            if tables
            else "put .txt files into it, a subfolder for each label"
        )
        raise DataError(f"The folder {path.name} holds no .txt file.", fix=fix)
    notes, aside, rows, lines = [], [], [], []
    labelled = any(each.parent != path for each in files)
    for place, each in enumerate(files[:most], 1):
        try:
            text, own = decode(each.read_bytes()[:MOST_BYTES], encoding)
        except (OSError, DataError) as error:
            why = error.what if isinstance(error, DataError) else error.strerror or str(error)
            aside.append(SetAside(place, f"{each.relative_to(path)}: {why}", ""))
            continue
        notes += [f"{each.relative_to(path)}: {note}" for note in own][: max(0, 5 - len(notes))]
        label = each.parent.name if each.parent != path else ""
        rows.append([text.strip(), label] if labelled else [text.strip()])
        lines.append(place)
    if not rows:
        raise DataError(
            f"No .txt file of {path.name} could be read.", why=aside[0].why, fix="look at one of them"
        )
    if len(files) > most:
        notes.append(f"Of {len(files):,} files the first {most:,} were read.")
    if labelled:
        notes.insert(0, "Each subfolder's name is the label of the texts in it.")
    names = ["text", "label"] if labelled else ["text"]
    return _table(Rows(names, rows, lines, notes, aside), path.name, "a folder of .txt files")


def _hidden(file: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(below).parts)


def _from_cells(names: Iterable[str], rows: list[tuple], total: int, source: str) -> Rows:
    notes: list[str] = []
    names = unique_names(list(names), notes)
    if not rows or not names:
        raise DataError(f"{source} has no rows.", fix="look at what wrote it")
    if total > len(rows):
        notes.append(f"Of {total:,} rows the first {len(rows):,} were read.")
    return Rows(
        names, [[_cell(value) for value in row] for row in rows], list(range(1, len(rows) + 1)), notes
    )


def _table(rows: Rows, source: str, kind: str) -> Table:
    import pandas

    if len(rows.rows) >= MOST_ROWS:
        rows.notes.append(f"Reading stopped after {len(rows.rows):,} rows (max_rows).")
    frame = pandas.DataFrame(rows.rows, columns=rows.names, dtype=object)
    return Table(frame, rows.lines, source, kind, rows.notes, rows.set_aside)
