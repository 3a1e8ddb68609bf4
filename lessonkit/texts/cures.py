"""What a report's findings are cured with; each cure makes a new table and says what it changed."""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from lessonkit.errors import DataError
from lessonkit.texts.duplicates import duplicate_groups, same
from lessonkit.texts.findings import (
    CONTROL,
    FEW_OF_A_CLASS,
    is_missing,
    looks_double_encoded,
    plain_label,
    similar_labels,
)

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["CURES", "Cured", "Rows", "UnusableError", "no_rare_labels"]

UNSEEN = ("script", "style")
BREAKS = frozenset(
    {"p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th", "table", "ul", "ol"}
)


class UnusableError(DataError):
    """There is nothing to train on in a table. A notebook shows the message alone, since no line of code is wrong."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


@dataclass
class Rows:
    """The rows under way. texts, labels: (n,); labels is None without a label. lines: where each stood in the file.
    known: ``same`` of texts for which it was asked already.
    """

    texts: list[str]
    labels: list[str] | None
    lines: list[int]
    known: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def plain(self) -> list[str]:
        """(n,) ``same`` of each text."""
        known = self.known
        return [known[each] if each in known else known.setdefault(each, same(each)) for each in self.texts]

    def kept(self, keep: list[bool]) -> Rows:
        """Only the rows that ``keep`` marks."""

        def chosen(values: list) -> list:
            return [value for value, wanted in zip(values, keep, strict=True) if wanted]

        return Rows(
            chosen(self.texts),
            None if self.labels is None else chosen(self.labels),
            chosen(self.lines),
            self.known,
        )


@dataclass
class Cured:
    """dataset: columns ``text`` (string), ``label`` (ClassLabel, names sorted) where there are labels, and ``line``,
    where the row stood in the file. steps: what each cure did, in words. warning: what still stands in the way of
    training, "" if nothing does.
    """

    dataset: Dataset
    steps: list[str] = field(default_factory=list)
    warning: str = ""

    def check(self) -> None:
        """Stop here, in plain words, if something still stands in the way of training. Raises UnusableError."""
        if self.warning:
            what = f"This cannot be trained on. {self.warning.lstrip('✖ ')}"
            raise UnusableError(what, fix="mend your table, or pass another one; then run this again")

    def __str__(self) -> str:
        left = f"{len(self.dataset):,} rows are left."
        return "\n".join(filter(None, [*self.steps, left, self.warning]))


def _each_text(change: Callable[[str], str]) -> Callable[[Rows], Rows]:
    return lambda rows: Rows([change(each) for each in rows.texts], rows.labels, rows.lines, rows.known)


def _right_encoding(text: str) -> str:
    from ftfy import fix_encoding

    return fix_encoding(text) if looks_double_encoded(text) else text


class _Words(HTMLParser):
    """words: what a reader of the page sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in UNSEEN:
            self.hidden.append(tag)
        elif tag in BREAKS:
            self.words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if self.hidden and tag == self.hidden[-1]:
            self.hidden.pop()
        elif tag in BREAKS:
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)


def _words_of_html(text: str) -> str:
    if "<" not in text:
        return html.unescape(text)
    reader = _Words()
    reader.feed(text)
    reader.close()
    return re.sub(r" {2,}", " ", "".join(reader.words)).strip()


def _one_space(text: str) -> str:
    return re.sub(r"[ \t\u00a0]{2,}", " ", text).strip()


def _no_empty(rows: Rows) -> Rows:
    return rows.kept([not is_missing(each) for each in rows.texts])


def _no_missing_label(rows: Rows) -> Rows:
    return rows if rows.labels is None else rows.kept([not is_missing(each) for each in rows.labels])


def _usual_spelling(rows: Rows) -> Rows:
    if rows.labels is None:
        return rows
    counts = Counter(rows.labels)
    usual: dict[str, str] = {}
    for label, _ in counts.most_common():
        usual.setdefault(plain_label(label), " ".join(label.split()))
    labels = [usual[plain_label(each)] for each in rows.labels]
    return Rows(rows.texts, labels, rows.lines, rows.known)


def _no_typos(rows: Rows) -> Rows:
    if rows.labels is None:
        return rows
    names: dict[str, str] = {}
    for label, _ in Counter(rows.labels).most_common():
        names.setdefault(plain_label(label), label)
    meant = dict(similar_labels(dict(Counter(map(plain_label, rows.labels)))))
    labels = [names[meant[plain_label(each)]] if plain_label(each) in meant else each for each in rows.labels]
    return Rows(rows.texts, labels, rows.lines, rows.known)


def _no_contradictions(rows: Rows) -> Rows:
    if rows.labels is None:
        return rows
    keys = _keys(rows)
    of_text: dict[str, set[str]] = defaultdict(set)
    for key, label in zip(keys, rows.labels, strict=True):
        of_text[key].add(plain_label(label))
    return rows.kept([len(of_text[each]) == 1 for each in keys])


def _first_of_each(rows: Rows) -> Rows:
    seen: set[str] = set()
    return rows.kept([not (key in seen or seen.add(key)) for key in _keys(rows)])


def _keys(rows: Rows) -> list[str]:
    """What equal texts share; a text of signs alone is like itself only."""
    return [plain or text for plain, text in zip(rows.plain, rows.texts, strict=True)]


def _first_of_group(rows: Rows) -> Rows:
    seen: set[int] = set()
    return rows.kept(
        [not (each in seen or seen.add(each)) for each in duplicate_groups(rows.texts, plain=rows.plain)]
    )


def no_rare_labels(rows: Rows, fewest: int = FEW_OF_A_CLASS) -> Rows:
    """Without labels of fewer than ``fewest`` texts; nor, where two are wanted, those whose texts are all nearly one."""
    if rows.labels is None:
        return rows
    plain = [plain_label(each) for each in rows.labels]
    counts = Counter(plain)
    groups = Counter(
        label for label, _ in set(zip(plain, duplicate_groups(rows.texts, plain=rows.plain), strict=True))
    )
    return rows.kept([counts[each] >= fewest and groups[each] >= min(2, fewest) for each in plain])


#: By the finding's name, in the order in which they are applied: letters, then rows, then labels, then repeats.
CURES: dict[str, Callable[[Rows], Rows]] = {
    "wrong encoding": _each_text(_right_encoding),
    "HTML": _each_text(_words_of_html),
    "control characters": _each_text(lambda text: CONTROL.sub("", text)),
    "spaces": _each_text(_one_space),
    "empty texts": _no_empty,
    "missing labels": _no_missing_label,
    "label spelling": _usual_spelling,
    "label typos": _no_typos,
    "contradictions": _no_contradictions,
    "duplicates": _first_of_each,
    "near-duplicates": _first_of_group,
    "rare labels": no_rare_labels,
}
