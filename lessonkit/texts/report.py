"""The report on a file of texts: what was read, what is wrong, where, and the cures. It never raises for bad data."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.errors import LessonkitError, UnknownNameError
from lessonkit.texts.columns import Columns, choose_columns
from lessonkit.texts.cures import CURES, Cured, Rows, UnusableError, no_rare_labels
from lessonkit.texts.files import Table, read_table
from lessonkit.texts.findings import FEW_OF_A_CLASS, Checked, Finding, find_all, plain_label

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TextReport", "check_texts"]

SIGNS = {"stop": "✖", "mend": "!", "note": "·"}
ROWS_TOLD = 5
MOST_TOKENIZED = 5_000  # texts; of more, every n-th is counted
NO_LIMIT = 10**6  # a tokenizer without a limit names a huge one


@dataclass
class TextReport:
    """What ``check_texts`` found.

    table: what was read; None where nothing could be. columns: which are text and label. findings: see ``Finding``.
    problem: why nothing could be read or no column be found, in words; "" where all went well.
    tokens: (n,) token counts, None without a tokenizer; NaN where they were not counted. limit: the model's, in tokens.
    """

    source: str
    table: Table | None = None
    columns: Columns | None = None
    findings: list[Finding] = field(default_factory=list)
    problem: str = ""
    limit: int | None = None
    tokens: list[int] | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether there is something to train on: nothing stands in the way."""
        return not self.problem and not any(each.level == "stop" for each in self.findings)

    @property
    def texts(self) -> list[str]:
        """(n,) the texts as they were read."""
        table, columns = self._read()
        return table.frame[columns.text].tolist()

    @property
    def labels(self) -> list[str] | None:
        """(n,) the labels as they were read; None without a label column."""
        table, columns = self._read()
        return None if columns.label is None else table.frame[columns.label].tolist()

    def finding(self, name: str) -> Finding | None:
        """The finding of that name, or None."""
        return next((each for each in self.findings if each.name == name), None)

    def examples(self, name: str, most: int = ROWS_TOLD) -> list[tuple[int, str, str]]:
        """(line, text, label) of rows that a finding is about. Raises UnknownNameError for one that wasn't found."""
        found = self.finding(name)
        if found is None:
            raise UnknownNameError("finding", name, [each.name for each in self.findings])
        table, _ = self._read()
        labels = self.labels or [""] * len(table.lines)
        return [(table.lines[each], self.texts[each], labels[each]) for each in found.rows[:most]]

    def cure(self, *also: str, but: Sequence[str] = (), fewest: int = FEW_OF_A_CLASS) -> Cured:
        """Mend what can be mended: all findings that are cured by default, those named in ``also``, none named in ``but``.

        fewest: texts that a label must have to be kept, where ``"rare labels"`` is named.
        Raises UnknownNameError for a cure that does not exist, UnusableError where nothing was read or is left.
        """
        for name in (*also, *([but] if isinstance(but, str) else but)):
            if name not in CURES:
                raise UnknownNameError("cure", name, CURES)
        self._read()
        wanted = {each.name for each in self.findings if each.cure and each.by_default} | set(also)
        wanted -= {but} if isinstance(but, str) else set(but)
        assert self.table is not None
        rows = Rows(self.texts, self.labels, list(self.table.lines))
        steps = []
        for name, cure in CURES.items():
            if name in wanted:
                before = rows
                rows = no_rare_labels(rows, fewest) if name == "rare labels" else cure(rows)
                steps.append(_step(name, before, rows))
        if not rows.texts:
            why = next((each.said for each in self.findings if each.level == "stop"), "")
            raise UnusableError(
                "No row is left after the cures.", why=why, fix="look at the report: print(report)"
            )
        left = find_all(Checked(rows.texts, rows.labels, plain=rows.plain))
        warning = next((f"✖ {each.said}" for each in left if each.level == "stop"), "")
        return Cured(_dataset(rows), [each for each in steps if each], warning)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        table, columns = self.table, self.columns
        lines = [] if table is None else table.lines
        return {
            "source": self.source,
            "ok": self.ok,
            "problem": self.problem,
            "rows": len(lines),
            "read_as": "" if table is None else table.kind,
            "columns": None if columns is None else {"text": columns.text, "label": columns.label},
            "notes": [] if table is None else table.notes,
            "set_aside": [] if table is None else [vars(each) for each in table.set_aside],
            "findings": [
                {
                    "name": each.name,
                    "level": each.level,
                    "said": each.said,
                    "cure": each.cure,
                    "lines": [lines[row] for row in each.rows],
                }
                for each in self.findings
            ],
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def _lines(self) -> list[str]:
        if self.table is None:
            return [f"{self.source} cannot be used.", *self.problem.splitlines()]
        rows = len(self.table.frame)
        said = [
            f"{self.source}: {rows:,} rows, read as {self.table.kind}. {_sentence(self.columns)}".rstrip()
        ]
        said += [f"· {each}" for each in self.table.notes]
        aside = self.table.set_aside
        if aside:
            told = "; ".join(f"line {each.line}: {each.why}" for each in aside[:3])
            said.append(f"! {len(aside):,} rows were set aside. {told}{'; ...' if len(aside) > 3 else ''}")
        if self.problem:
            return said + self.problem.splitlines()
        labels = self.labels
        if labels is not None:
            said.append("  " + _told_classes(labels))
        for each in self.findings:
            cure = f" Cure{'' if each.by_default else ', if asked for'}: {each.cure}." if each.cure else ""
            said.append(f"{SIGNS[each.level]} {each.name}: {each.said}{cure}{self._where(each)}")
        if not self.findings:
            said.append("Nothing was found to be wrong.")
        elif not self.ok:
            said.append("Before you train, mend what is marked ✖.")
        return said

    def _where(self, finding: Finding) -> str:
        if not finding.rows or self.table is None or len(finding.rows) == len(self.table.lines):
            return ""
        lines = [str(self.table.lines[each]) for each in finding.rows[:ROWS_TOLD]]
        return f" (line {', '.join(lines)}{', ...' if len(finding.rows) > ROWS_TOLD else ''})"

    def _read(self) -> tuple[Table, Columns]:
        if self.table is None or self.columns is None:
            raise UnusableError(
                f"{self.source} gave no texts.", why=self.problem, fix="mend that, then check it again"
            )
        return self.table, self.columns


def check_texts(
    source: str | Path,
    *,
    text: str | None = None,
    label: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **reading: Any,
) -> TextReport:
    """Read a file, a folder or pasted text, and report on it; what is wrong with the data is told, never raised.

    text, label: the columns, if you know them. tokenizer: the model's, to count tokens against its limit.
    reading: ``encoding``, ``delimiter``, ``header``, ``sheet``, ``max_rows``, see ``read_table``.
    """
    name = (
        "pasted text" if isinstance(source, str) and "\n" in source else Path(str(source)).name or str(source)
    )
    try:
        table = read_table(source, **reading)
    except LessonkitError as error:
        return TextReport(name, problem=str(error))
    try:
        columns = choose_columns(table.frame, text, label)
    except LessonkitError as error:
        return TextReport(table.source, table, problem=str(error))
    report = TextReport(table.source, table, columns)
    limit = getattr(tokenizer, "model_max_length", None)
    report.limit = int(limit) if limit and limit < NO_LIMIT else None
    report.tokens = _count_tokens(report.texts, tokenizer) if tokenizer is not None else None
    report.findings = find_all(Checked(report.texts, report.labels, report.tokens, report.limit))
    return report


def _count_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = []
        for start in range(0, len(texts), 1000):
            batch = [each if isinstance(each, str) else str(each) for each in texts[start : start + 1000]]
            counts += [len(each) for each in tokenizer(batch, verbose=False)["input_ids"]]
    return counts


def _sentence(columns: Columns | None) -> str:
    if columns is None:
        return ""
    return columns.why[0].upper() + columns.why[1:] + "." if columns.why else ""


def _told_classes(labels: Sequence[str], most: int = 8) -> str:
    shown: dict[str, str] = {}
    for label, _ in Counter(labels).most_common():
        shown.setdefault(plain_label(label), " ".join(label.split()) or "(none)")
    counts = Counter(map(plain_label, labels))
    told = ", ".join(f"{shown[plain]!r} {count:,}" for plain, count in counts.most_common(most))
    more = f", and {len(counts) - most:,} more" if len(counts) > most else ""
    return f"{len(counts):,} label{'s' * (len(counts) != 1)}: {told}{more}"


def _step(name: str, before: Rows, after: Rows) -> str:
    if len(after.texts) < len(before.texts):
        gone = len(before.texts) - len(after.texts)
        return f"{name}: {gone:,} row{'s' * (gone != 1)} left out"
    changed = sum(old != new for old, new in zip(before.texts, after.texts, strict=True))
    if changed:
        return f"{name}: {changed:,} text{'s' * (changed != 1)} mended"
    relabelled = sum(old != new for old, new in zip(before.labels or [], after.labels or [], strict=True))
    return f"{name}: {relabelled:,} label{'s' * (relabelled != 1)} mended" if relabelled else ""


def _dataset(rows: Rows) -> Any:
    from datasets import ClassLabel, Dataset, Features, Value

    columns: dict[str, list] = {"text": rows.texts, "line": rows.lines}
    features = {"text": Value("string"), "line": Value("int64")}
    if rows.labels is not None:
        names = sorted({" ".join(each.split()) for each in rows.labels})
        columns["label"] = [names.index(" ".join(each.split())) for each in rows.labels]
        features["label"] = ClassLabel(names=names)
    return Dataset.from_dict(columns, features=Features(features))
