"""Comma, tab, semicolon or bar: rows out of delimited text, with or without a header, whole or ragged."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field

from lessonkit.errors import DataError

__all__ = ["KNOWN_NAMES", "Rows", "SetAside", "parse_delimited", "unique_names"]

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
SAMPLE_ROWS = 200
LONGEST_NAME = 40  # characters; a longer cell in the first line is a text, not a column's name
SWALLOWED_LINES = 50  # a field of more lines than this was opened by a stray quotation mark

#: Column names that people give to texts, labels and numbers, in lower case.
KNOWN_NAMES = frozenset(
    "text sentence review content body message comment description tweet document headline title "  # noqa: SIM905
    "question utterance abstract post email label category class target sentiment topic intent rating stars y "
    "tag genre id index date author source url name language lang prompt completion response answer "
    "instruction output input context split".split()
)


@dataclass
class SetAside:
    """A row that could not be used. line: where it stands, from 1. why: in words. start: how it begins."""

    line: int
    why: str
    start: str


@dataclass
class Rows:
    """names: the columns'. rows: lists of that many strings. lines: where each row begins in the file, from 1."""

    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    notes: list[str] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)


def parse_delimited(
    text: str, *, delimiter: str | None = None, header: bool | None = None, most: int = 2**63
) -> Rows:
    """Rows out of delimited text.

    delimiter: left out, the one that cuts most rows into the same number of fields; where none does, each line is
    one text. header: whether the first line names the columns; left out, judged by what stands below it.
    most: rows to read. Raises DataError if nothing stands there, or hardly a row has the same number of fields.
    """
    csv.field_size_limit(2**31 - 1)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    if not text.strip():
        raise DataError("There is nothing in it.", fix="look at the file: was it saved?")
    notes: list[str] = []
    chosen = delimiter or _delimiter(text)
    if chosen is None:
        records = [([line], number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    else:
        records, notes = _records(text, chosen)
    records = records[: most + 1]
    width = Counter(len(fields) for fields, _ in records).most_common(1)[0][0]
    if chosen and len(records[0][0]) > 1 and len(records[0][0]) != width and _named([records[0][0]]):
        width = len(records[0][0])
    first = records[0][0]
    has_header = (
        header if header is not None else _is_header(first, [fields for fields, _ in records[1:] if fields])
    )
    if has_header:
        names, records = [*first, *[""] * (width - len(first))][: max(width, len(first))], records[1:]
        width = len(names)
    else:
        names = [""] * width
        notes.append(
            "Its first line looks like data, not like names, so the columns are called column 1, 2, ..."
        )
    records = records[:most]
    if not records:
        raise DataError(
            "It has a first line, and no rows.",
            why=f"that line was read as the columns' names: {', '.join(first)[:100]}",
            fix="add rows; or, if that line is data, pass header=False",
        )
    rows, lines, aside = _fitted(records, width, chosen, notes)
    if len(rows) < len(records) / 2:
        counts = Counter(len(fields) for fields, _ in records)
        told = ", ".join(f"{count} rows of {fields}" for fields, count in counts.most_common(4))
        raise DataError(
            f"Its rows differ in their number of fields: {told}.",
            why=f"it was read with {DELIMITERS.get(chosen or '', repr(chosen))} between {width} columns",
            fix='put texts that hold the separator in quotation marks ("like, this"), or pass another delimiter',
        )
    return Rows(unique_names(names, notes), rows, lines, notes, aside)


def unique_names(names: list[str], notes: list[str]) -> list[str]:
    """Every column gets a name of its own; what had to be changed is noted."""
    seen: Counter[str] = Counter()
    found = []
    for number, given in enumerate(names, 1):
        name = " ".join(str(given).split()) or f"column {number}"
        seen[name] += 1
        if seen[name] > 1:
            notes.append(
                f"Two columns are called {name!r}; the later one is now {f'{name} ({seen[name]})'!r}."
            )
            name = f"{name} ({seen[name]})"
        found.append(name)
    return found


def _delimiter(text: str) -> str | None:
    """The one that most rows agree on, or None where no row is cut."""
    best, found = 0.0, None
    head = "\n".join(text.split("\n")[: 3 * SAMPLE_ROWS])
    for each in DELIMITERS:
        counts = Counter(len(fields) for fields, _ in _records(head, each)[0][:SAMPLE_ROWS])
        width, often = counts.most_common(1)[0]
        if width == 1:  # a text column full of commas may hide that most rows have two fields or more
            continue
        agreement = often / counts.total()
        score = agreement * (1 + 0.05 * min(width, 4)) + (0.2 if _named(_first(head, each)) else 0)
        if agreement >= 0.5 and score > best:
            best, found = score, each
    return found or _by_header(head)


def _by_header(head: str) -> str | None:
    """Where rows disagree, a first line of known names still tells."""
    return next((each for each in DELIMITERS if _named(_first(head, each))), None)


def _first(text: str, delimiter: str) -> list[list[str]]:
    first = next((line for line in text.split("\n") if line.strip()), "")
    return [next(csv.reader([first], delimiter=delimiter), [])]


def _named(rows: list[list[str]]) -> bool:
    """The first row holds two cells or more, and a name that people give to columns."""
    return bool(rows) and len(rows[0]) > 1 and any(cell.strip().casefold() in KNOWN_NAMES for cell in rows[0])


def _records(text: str, delimiter: str) -> tuple[list[tuple[list[str], int]], list[str]]:
    """(fields, first line) of each record that isn't blank. A stray quotation mark costs no rows: marks are then plain."""
    records = _read(text, delimiter, csv.QUOTE_MINIMAL)
    swallowed = [
        line for fields, line in records if any(each.count("\n") > SWALLOWED_LINES for each in fields)
    ]
    if not swallowed:
        return records, []
    note = f'A quotation mark in or after line {swallowed[0]} is never closed; all " were taken as plain characters.'
    return _read(text, delimiter, csv.QUOTE_NONE), [note]


def _read(text: str, delimiter: str, quoting: int) -> list[tuple[list[str], int]]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, skipinitialspace=True
    )
    records, line = [], 1
    for fields in reader:
        if any(cell.strip() for cell in fields):
            records.append((fields, line))
        line = reader.line_num + 1
    return records


def _is_header(first: list[str], below: list[list[str]]) -> bool:
    cells = [cell.strip() for cell in first]
    if any(cell.casefold() in KNOWN_NAMES for cell in cells):
        return True
    if not below or any(not cell or len(cell) > LONGEST_NAME or _is_number(cell) for cell in cells):
        return False
    if len(set(cells)) < len(cells) or any(len(cell.split()) > 4 for cell in cells):
        return False
    for place, cell in enumerate(cells):
        column = [row[place].strip() for row in below if len(row) > place]
        if cell in column:  # a label that other rows have too
            return False
    # Names are short beside the texts below them; a column of repeated labels alone tells nothing.
    longest = max((sum(map(len, row)) / max(len(row), 1) for row in below), default=0)
    return longest > 2 * max(len(cell) for cell in cells) or any(
        all(_is_number(row[place]) for row in below if len(row) > place) for place in range(len(cells))
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _fitted(
    records: list[tuple[list[str], int]], width: int, delimiter: str | None, notes: list[str]
) -> tuple[list[list[str]], list[int], list[SetAside]]:
    """Rows of the right width; those that can be mended without a guess are, the others are set aside."""
    rows, lines, aside, joined = [], [], [], []
    ends = _label_ends(records, width)
    for fields, line in records:
        if len(fields) > width and not any(cell.strip() for cell in fields[width:]):
            fields = fields[:width]  # empty fields at the end, as spreadsheets leave them
        if len(fields) > width == 2 and delimiter and (whole := _joined(fields, delimiter, ends)):
            fields = whole
            joined.append(line)
        if len(fields) == width:
            rows.append(fields)
            lines.append(line)
        else:
            why = f"it has {len(fields)} field{'s' * (len(fields) != 1)} where {width} belong"
            aside.append(SetAside(line, why, (delimiter or "").join(fields)[:60]))
    if joined:
        told = ", ".join(map(str, joined[:5])) + (", ..." if len(joined) > 5 else "")
        notes.append(
            f"{len(joined)} text{'s hold' if len(joined) > 1 else ' holds'} {DELIMITERS.get(delimiter or '', 'separators')} "
            f"without quotation marks, and was put together again, the label being known from other rows: line {told}."
        )
    return rows, lines, aside


def _label_ends(records: list[tuple[list[str], int]], width: int) -> tuple[set[str], set[str]]:
    """The values in the first and in the last column that stand in several rows, as labels do."""
    whole = [fields for fields, _ in records if len(fields) == width]
    counts = (Counter(fields[place].strip() for fields in whole) for place in (0, -1))
    first, last = ({value for value, often in each.items() if often > 1 and value} for each in counts)
    return first, last


def _joined(fields: list[str], delimiter: str, ends: tuple[set[str], set[str]]) -> list[str] | None:
    first, last = fields[0].strip() in ends[0], fields[-1].strip() in ends[1]
    if first == last:  # no end is a known label, or both are: no telling
        return None
    space = " " if delimiter in ",;" else ""
    if first:
        return [fields[0], (delimiter + space).join(each.strip() for each in fields[1:])]
    return [(delimiter + space).join(each.strip() for each in fields[:-1]), fields[-1]]
