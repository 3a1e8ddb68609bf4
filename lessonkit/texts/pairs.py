"""Instruction pairs of your own: read, checked for quality, masked; what comes next is the chat template."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError, LessonkitError, UnknownNameError
from lessonkit.texts.cures import UnusableError
from lessonkit.texts.duplicates import duplicate_groups, same
from lessonkit.texts.files import Table, read_table
from lessonkit.texts.findings import CONTROL, Finding, is_missing, looks_double_encoded
from lessonkit.texts.personal import find_personal, mask_personal

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["PairReport", "check_pairs"]

PROMPTS = ("prompt", "instruction", "question", "input", "user", "query", "request")
ANSWERS = ("response", "completion", "answer", "output", "assistant", "reply", "target")
PLACEHOLDER = re.compile(
    r"\b(lorem ipsum|todo|tbd|fixme|xxx+|as an ai language model|insert \w+ here)\b", re.IGNORECASE
)
REPEATED = 0.5  # share of a text's words that are one word


@dataclass
class PairReport:
    """What ``check_pairs`` found: like ``TextReport``, for pairs.

    prompts, answers: (n,) as they were read. lines: where each stood. findings: see ``Finding``.
    """

    source: str
    problem: str = ""
    table: Table | None = field(default=None, repr=False)
    prompts: list[str] = field(default_factory=list, repr=False)
    answers: list[str] = field(default_factory=list, repr=False)
    lines: list[int] = field(default_factory=list, repr=False)
    columns: tuple[str, str] = ("", "")
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is something to train on."""
        return not self.problem and not any(each.level == "stop" for each in self.findings)

    def finding(self, name: str) -> Finding | None:
        """The finding of that name, or None."""
        return next((each for each in self.findings if each.name == name), None)

    def examples(self, name: str, most: int = 5) -> list[tuple[int, str, str]]:
        """(line, prompt, answer) of pairs that a finding is about. Raises UnknownNameError for one that wasn't found."""
        found = self.finding(name)
        if found is None:
            raise UnknownNameError("finding", name, [each.name for each in self.findings])
        return [(self.lines[each], self.prompts[each], self.answers[each]) for each in found.rows[:most]]

    def check(self) -> None:
        """Raises UnusableError, with the reason, where there is nothing to train on."""
        if not self.ok:
            stops = [each.said for each in self.findings if each.level == "stop"]
            raise UnusableError(
                f"{self.source} can't be trained on.",
                why="; ".join(stops) or " ".join(self.problem.split()),
                fix="mend that, or name another file; print(report) tells all",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "source": self.source,
            "ok": self.ok,
            "problem": self.problem,
            "rows": len(self.lines),
            "columns": {"prompt": self.columns[0], "answer": self.columns[1]} if self.lines else None,
            "notes": [] if self.table is None else self.table.notes,
            "set_aside": [] if self.table is None else [vars(each) for each in self.table.set_aside],
            "findings": [
                {
                    "name": each.name,
                    "level": each.level,
                    "said": each.said,
                    "cure": each.cure,
                    "lines": [self.lines[row] for row in each.rows],
                }
                for each in self.findings
            ],
        }

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def __str__(self) -> str:
        if self.table is None:
            return "\n".join([f"{self.source} cannot be used.", *self.problem.splitlines()])
        said = [
            f"{self.source}: {len(self.lines):,} pairs; {self.columns[0]!r} is asked, {self.columns[1]!r} is the answer."
        ]
        said += [f"· {note}" for note in self.table.notes]
        if self.table.set_aside:
            first = self.table.set_aside[0]
            said.append(
                f"! {len(self.table.set_aside):,} rows were set aside. line {first.line}: {first.why}"
            )
        said += self.problem.splitlines()
        for each in self.findings:
            sign = {"stop": "✖", "mend": "!", "note": "·"}[each.level]
            cure = f" Cure{'' if each.by_default else ', if asked for'}: {each.cure}." if each.cure else ""
            lines = ", ".join(str(self.lines[row]) for row in each.rows[:5]) + (
                ", ..." if len(each.rows) > 5 else ""
            )
            said.append(f"{sign} {each.name}: {each.said}{cure}" + (f" (line {lines})" if each.rows else ""))
        return "\n".join(said if self.findings or self.problem else [*said, "Nothing was found to be wrong."])

    def cure(self, *also: str, but: tuple[str, ...] | str = ()) -> tuple[Dataset, list[str]]:
        """The pairs mended, as a dataset with the columns ``prompt``, ``answer`` and ``line``; and what was done, in words.

        Raises UnknownNameError for a cure that does not exist, DataError where nothing is left.
        """
        from datasets import Dataset

        if self.problem:
            raise DataError(
                f"{self.source} gave no pairs.", why=self.problem, fix="mend that, then check it again"
            )
        without = {but} if isinstance(but, str) else set(but)
        for name in (*also, *without):
            if name not in CURES:
                raise UnknownNameError("cure", name, CURES)
        wanted = (
            {each.name for each in self.findings if each.cure and each.by_default} | set(also)
        ) - without
        rows, steps = list(zip(self.prompts, self.answers, self.lines, strict=True)), []
        for name, cure in CURES.items():
            if name in wanted:
                before, rows = rows, cure(rows)
                gone, changed = len(before) - len(rows), len(set(rows) - set(before))
                steps.append(
                    f"{name}: {gone:,} pairs left out" if gone else f"{name}: {changed:,} pairs mended"
                )
        if not rows:
            raise DataError("No pair is left after the cures.", fix="look at the report: print(report)")
        names = ("prompt", "answer", "line")
        return Dataset.from_dict(
            {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
        ), steps


def check_pairs(
    source: str | Path, *, prompt: str | None = None, answer: str | None = None, **reading: Any
) -> PairReport:
    """Read pairs of an instruction and its answer, and report on them; what is wrong with the data is told, never raised.

    prompt, answer: the columns, if you know them; by default found by the names that such files use, chat records
    (``messages``, a list of ``role`` and ``content``) included. An ``input`` beside an ``instruction`` (Alpaca's form)
    is put behind it. Two columns of words with other names are taken in their order. reading: see ``read_table``.
    """
    name = "pasted text" if isinstance(source, str) and "\n" in source else Path(str(source)).name
    try:
        table = read_table(source, **reading)
        if "messages" in table.frame.columns and prompt is None and answer is None:
            _unfold_messages(table)
        if prompt is None:
            _join_input(table)
        columns = _columns(table, prompt, answer)
    except LessonkitError as error:
        return PairReport(name, problem=str(error))
    report = PairReport(
        name, "", table, *(table.frame[each].tolist() for each in columns), list(table.lines), columns
    )
    report.findings = _findings(report.prompts, report.answers)
    return report


def _columns(table: Table, prompt: str | None, answer: str | None) -> tuple[str, str]:
    """The columns of questions and answers. Raises DataError, UnknownNameError."""
    names = [str(each) for each in table.frame.columns]
    known = {each.casefold().strip() for each in names}
    unnamed = prompt is None and answer is None and not known & {*PROMPTS, *ANSWERS}
    if unnamed and len(names) == 2 and all(_has_letters(table.frame[each]) for each in names):
        table.notes.append(f"No column has a usual name: the first, {names[0]!r}, was taken as the question.")
        return names[0], names[1]
    found = _column(table, prompt, PROMPTS, "prompt"), _column(table, answer, ANSWERS, "answer")
    if found[0] == found[1]:
        raise DataError(
            f"The column {found[0]!r} can't be question and answer.",
            fix="name both: prompt='...', answer='...'",
        )
    return found


def _has_letters(column: Any) -> bool:
    return any(map(str.isalpha, "".join(column)))


def _join_input(table: Table) -> None:
    """Alpaca's form: the instruction, and in a second column what it is about."""
    names = {str(each).casefold().strip(): str(each) for each in table.frame.columns}
    if not {"instruction", "input"} <= names.keys() or "prompt" in names:
        return
    task, about = table.frame[names["instruction"]], table.frame[names["input"]]
    joined = [f"{one}\n{two}".strip() for one, two in zip(task, about, strict=True)]
    table.frame = table.frame.assign(**{names["instruction"]: joined}).drop(columns=names["input"])
    table.notes.append(f"{names['input']!r} was put behind {names['instruction']!r}, on a line of its own.")


def _column(table: Table, given: str | None, known: tuple[str, ...], what: str) -> str:
    names = {str(each).casefold().strip(): str(each) for each in table.frame.columns}
    if given is not None:
        if given not in names.values():
            raise UnknownNameError("column", given, names.values())
        return given
    for each in known:
        if each in names:
            return names[each]
    raise DataError(
        f"No column can be the {what}.",
        why=f"the columns are {', '.join(names.values())}",
        fix=f"name it: {what}='...'; usual names are {', '.join(known[:4])}",
    )


def _unfold_messages(table: Table) -> None:
    """Chat records of one question and one answer become two columns; others are set aside."""
    import json

    from lessonkit.texts.delimited import SetAside

    prompts, answers, keep = [], [], []
    for place, (cell, line) in enumerate(zip(table.frame["messages"], table.lines, strict=True)):
        try:
            turns = [(each["role"], each["content"]) for each in json.loads(cell)]
        except (ValueError, TypeError, KeyError):
            table.set_aside.append(SetAside(line, "its messages are no list of role and content", cell[:60]))
            continue
        roles = [role for role, _ in turns if role != "system"]
        if roles != ["user", "assistant"]:
            table.set_aside.append(
                SetAside(
                    line, f"its turns are {', '.join(roles)}, not one question and one answer", cell[:60]
                )
            )
            continue
        prompts.append(next(str(text) for role, text in turns if role == "user"))
        answers.append(next(str(text) for role, text in turns if role == "assistant"))
        keep.append(place)
    table.frame = table.frame.iloc[keep].drop(columns="messages").assign(prompt=prompts, answer=answers)
    table.lines = [table.lines[each] for each in keep]
    if not keep:
        raise DataError(
            "No record holds one question and one answer.",
            fix='write {"prompt": "...", "answer": "..."} lines',
        )


# ---- Checks and cures -------------------------------------------------------------------------------

Row = tuple[str, str, int]


def _repeats_itself(text: str) -> bool:
    words = text.casefold().split()
    return len(words) >= 8 and Counter(words).most_common(1)[0][1] > REPEATED * len(words)


def _clean(text: str) -> str:
    from ftfy import fix_encoding

    text = fix_encoding(text) if looks_double_encoded(text) else text
    return CONTROL.sub("", text).strip()


def _findings(prompts: list[str], answers: list[str]) -> list[Finding]:
    pairs = list(zip(prompts, answers, strict=True))

    def rows(test: Any) -> tuple[int, ...]:
        return tuple(place for place, (prompt, answer) in enumerate(pairs) if test(prompt, answer))

    first: dict[tuple[str, str], int] = {}
    again = tuple(
        place for place, (p, a) in enumerate(pairs) if first.setdefault((same(p), same(a)), place) != place
    )
    of_prompt: dict[str, set[str]] = defaultdict(set)
    for p, a in pairs:
        of_prompt[same(p)].add(same(a))
    groups = Counter(duplicate_groups(prompts))
    near = sum(count for count in groups.values() if count > 1)
    checks = [
        (
            "empty",
            rows(lambda p, a: is_missing(p) or is_missing(a)),
            "{n} pairs lack the question or the answer.",
            True,
        ),
        (
            "letters",
            rows(lambda p, a: _clean(p) != p or _clean(a) != a),
            "{n} pairs hold wrongly decoded or invisible letters, or spaces at an end.",
            True,
        ),
        (
            "personal data",
            rows(lambda p, a: find_personal(p) or find_personal(a)),
            "{n} pairs hold what looks like an address, a number or a handle of a person.",
            True,
        ),
        (
            "placeholders",
            rows(lambda p, a: PLACEHOLDER.search(a)),
            "{n} answers hold words such as TODO or a chatbot's excuse.",
            True,
        ),
        (
            "echoes",
            rows(lambda p, a: same(p) == same(a) and bool(same(a))),
            "{n} answers repeat their question.",
            True,
        ),
        (
            "loops",
            rows(lambda p, a: _repeats_itself(a)),
            "{n} answers are mostly one word, again and again.",
            True,
        ),
        ("duplicates", again, "{n} pairs stand there before.", True),
        (
            "two answers",
            rows(lambda p, a: len(of_prompt[same(p)]) > 1),
            "{n} pairs share a question and differ in the answer; fine where both are right.",
            False,
        ),
    ]
    found = [
        Finding(name, "mend", said.format(n=len(places)), places, CURE_WORDS[name], default)
        for name, places, said, default in checks
        if places
    ]
    if len(pairs) < 12:
        found.insert(
            0,
            Finding(
                "too few pairs",
                "stop",
                f"There are {len(pairs)} pairs; a few dozen are needed to train and to test.",
            ),
        )
    if near:
        found.append(
            Finding(
                "near-duplicates",
                "note",
                f"{near:,} questions are nearly the same as another one; split_texts(..., text='prompt') parts none.",
            )
        )
    return found


def _keep(test: Any) -> Any:
    return lambda rows: [row for row in rows if not test(row[0], row[1])]


def _masked(rows: list[Row]) -> list[Row]:
    return [(mask_personal(p)[0], mask_personal(a)[0], line) for p, a, line in rows]


def _once(rows: list[Row]) -> list[Row]:
    seen: set[tuple[str, str]] = set()
    return [row for row in rows if not ((key := (same(row[0]), same(row[1]))) in seen or seen.add(key))]


def _first_answer(rows: list[Row]) -> list[Row]:
    seen: set[str] = set()
    return [row for row in rows if not ((key := same(row[0])) in seen or seen.add(key))]


CURES: dict[str, Any] = {
    "letters": lambda rows: [(_clean(p), _clean(a), line) for p, a, line in rows],
    "personal data": _masked,
    "empty": _keep(lambda p, a: is_missing(p) or is_missing(a)),
    "placeholders": _keep(lambda p, a: PLACEHOLDER.search(a)),
    "echoes": _keep(lambda p, a: same(p) == same(a)),
    "loops": _keep(lambda p, a: _repeats_itself(a)),
    "duplicates": _once,
    "two answers": _first_answer,
}
CURE_WORDS = {
    "letters": "mends them",
    "personal data": "puts words such as [email] in their place",
    "empty": "drops them",
    "placeholders": "drops them",
    "echoes": "drops them",
    "loops": "drops them",
    "duplicates": "keeps the first",
    "two answers": "keeps the first answer",
}
