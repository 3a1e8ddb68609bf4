"""What can be wrong with texts and labels: each check looks at one thing and says what, where and what cures it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lessonkit.texts.duplicates import MOST_COMPARED, duplicate_groups, same

__all__ = [
    "NULL_WORDS",
    "Checked",
    "Finding",
    "find_all",
    "is_missing",
    "looks_double_encoded",
    "plain_label",
]

#: What programs write for a missing value.
NULL_WORDS = frozenset({"na", "n/a", "nan", "null", "none", "nil", "#n/a", "<na>", "-", "?"})
LONGEST_NULL = max(map(len, NULL_WORDS))
TAG = re.compile(
    r"</?(?:p|br|div|span|a|b|i|em|strong|ul|ol|li|h[1-6]|table|t[rdh]|img|script|style|html|body)\b[^>]*>",
    re.I,
)
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d{2,5}|#x[0-9a-f]{2,4});", re.I)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u2060\ufeff]")
MOJIBAKE = re.compile(r"[ÃÂ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€[\x80-\xbf™œ\x9d“”˜¦]")
FEW_ROWS, VERY_FEW_ROWS = 40, 12
FEW_OF_A_CLASS = 8
IMBALANCE = 5.0  # largest class over the smallest
MANY_CLASSES = 100
SHORT_WORDS = 2
SIMILAR_LABELS = 85  # of 100, rapidfuzz's ratio
SHARE_TOLD = 0.9


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    name: of the check, and of its cure if it has one. level: "stop" (no training makes sense before this is mended),
    "mend" or "note". said: in words, with numbers. rows: places in the table, from 0. cure: what ``cure`` does about
    it, "" if only you can. by_default: whether ``cure()`` does it unasked.
    """

    name: str
    level: str
    said: str
    rows: tuple[int, ...] = ()
    cure: str = ""
    by_default: bool = True


@dataclass
class Checked:
    """texts, labels: (n,) strings; labels is None where there is none. tokens: (n,) token counts, None without a tokenizer.
    limit: the most tokens the model takes. groups: near-duplicates, (n,), see ``duplicate_groups``. plain: (n,) ``same``
    of each text; both are computed if not given. missing: (n,) which texts are, see ``is_missing``; computed.
    """

    texts: Sequence[str]
    labels: Sequence[str] | None
    tokens: Sequence[int] | None = None
    limit: int | None = None
    groups: list[int] = field(default_factory=list)
    plain: Sequence[str] = field(default_factory=list, repr=False)
    missing: list[bool] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.missing = [is_missing(each) for each in self.texts]
        self.plain = self.plain or [same(each) for each in self.texts]
        if not self.groups:
            filled = [
                "" if missing else plain for missing, plain in zip(self.missing, self.plain, strict=True)
            ]
            self.groups = duplicate_groups(self.texts, plain=filled)


def find_all(checked: Checked) -> list[Finding]:
    """All findings: what stops first, then what can be mended, then notes."""
    found = [each for check in CHECKS for each in check(checked)]
    return sorted(found, key=lambda each: ("stop", "mend", "note").index(each.level))


@lru_cache(maxsize=10_000)
def plain_label(label: str) -> str:
    """What two spellings of one label share: no case, no spaces at the ends, one space or sign between words."""
    label = " ".join(label.split()).casefold()
    if re.fullmatch(r"[+-]?\d+\.0+", label):  # 1 and 1.0
        label = label.split(".")[0]
    return re.sub(r"[\s_\-/,]+|\.(?!\d)", " ", label).strip() or label


def looks_double_encoded(text: str) -> bool:
    """UTF-8 that was read as Windows text, such as Ã© for é."""
    return not text.isascii() and bool(MOJIBAKE.search(text))


def _rows(values: Sequence[str], test: Callable[[str], Any]) -> tuple[int, ...]:
    return tuple(place for place, value in enumerate(values) if test(value))


def is_missing(value: str) -> bool:
    """Nothing but spaces, or a word such as NULL."""
    word = value.strip()
    return not word or (len(word) <= LONGEST_NULL and word.casefold() in NULL_WORDS)


def _count(rows: Sequence[int], one: str, many: str) -> str:
    return f"{len(rows):,} {one if len(rows) == 1 else many}"


def _amount(c: Checked) -> Iterator[Finding]:
    n = len(c.texts)
    if n < VERY_FEW_ROWS:
        yield Finding(
            "too few rows",
            "stop",
            f"There are {n} rows: too few to train on and to test with. A few dozen will do.",
        )
    elif n < FEW_ROWS:
        said = f"There are only {n} rows. A model may learn something; a test on a fifth of them hardly tells how much."
        yield Finding("few rows", "note", said)


def _empty(c: Checked) -> Iterator[Finding]:
    rows = tuple(place for place, missing in enumerate(c.missing) if missing)
    if rows:
        level = "stop" if len(rows) == len(c.texts) else "mend"
        yield Finding(
            "empty texts",
            level,
            f"{_count(rows, 'text is', 'texts are')} empty, or a word such as NULL.",
            rows,
            "drops them",
        )
    if c.labels is not None:
        rows = _rows(c.labels, is_missing)
        if rows:
            yield Finding(
                "missing labels",
                "mend",
                f"{_count(rows, 'row has', 'rows have')} no label.",
                rows,
                "drops them",
            )


def _encoding(c: Checked) -> Iterator[Finding]:
    rows = _rows(c.texts, looks_double_encoded)
    if rows:
        said = f"{_count(rows, 'text was', 'texts were')} decoded wrongly once, as in 'cafÃ©' for 'café'."
        yield Finding("wrong encoding", "mend", said, rows, "turns them back (ftfy)")
    rows = _rows(c.texts, lambda text: "\ufffd" in text)
    if rows:
        said = f"{_count(rows, 'text holds', 'texts hold')} \ufffd, where letters were lost before or while it was read."
        yield Finding("lost letters", "note", said, rows)
    rows = _rows(c.texts, lambda text: not text.isprintable() and CONTROL.search(text))
    if rows:
        said = (
            f"{_count(rows, 'text holds', 'texts hold')} invisible characters (controls, zero-width spaces)."
        )
        yield Finding("control characters", "mend", said, rows, "takes them out")


def _markup(c: Checked) -> Iterator[Finding]:
    rows = _rows(
        c.texts, lambda text: ("<" in text and TAG.search(text)) or ("&" in text and ENTITY.search(text))
    )
    if rows:
        yield Finding(
            "HTML",
            "mend",
            f"{_count(rows, 'text holds', 'texts hold')} HTML tags or entities.",
            rows,
            "keeps the words only",
        )


def _spaces(c: Checked) -> Iterator[Finding]:
    rows = _rows(c.texts, lambda text: text != text.strip() or "   " in text)
    if rows:
        said = f"{_count(rows, 'text has', 'texts have')} needless spaces at the ends or within."
        yield Finding("spaces", "mend", said, rows, "takes them out")


def _repeats(c: Checked) -> Iterator[Finding]:
    labels = c.labels if c.labels is not None else [""] * len(c.texts)
    by_text: dict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(c.texts):
        if not c.missing[place]:
            by_text[c.plain[place] or text].append(place)
    several = [rows for rows in by_text.values() if len(rows) > 1]
    torn, again = [], []
    for rows in several:
        if len({plain_label(labels[each]) for each in rows if not is_missing(labels[each])}) > 1:
            torn.append(rows)
        else:
            again += rows[1:]
    if again:
        said = f"{_count(again, 'text stands', 'texts stand')} there before, but for case, signs and spaces."
        yield Finding("duplicates", "mend", said, tuple(sorted(again)), "keeps the first of each")
    if torn:
        rows = tuple(sorted(each for rows in torn for each in rows))
        said = f"{_count(torn, 'text has', 'texts have')} two different labels ({len(rows)} rows): one of them is wrong."
        yield Finding("contradictions", "mend", said, rows, "drops all of them")
    exact = {each for rows in several for each in rows[1:]}
    sizes = Counter(c.groups)
    near = [each for each in range(len(c.texts)) if sizes[c.groups[each]] > 1 and each not in exact]
    sizes = Counter(c.groups[each] for each in near)
    near = [each for each in near if sizes[c.groups[each]] > 1]
    groups = {c.groups[each] for each in near}
    if near:
        said = (
            f"{len(near):,} texts are nearly the same as another one (80 % of their pieces), in {len(groups):,} groups. "
            "Drawn at random, some would stand in train and test, and the score would flatter."
        )
        yield Finding(
            "near-duplicates",
            "note",
            said,
            tuple(near),
            "keeps the first of each group; split_texts keeps a group on one side anyway",
            False,
        )
    if len(c.texts) > MOST_COMPARED:
        said = f"There are more than {MOST_COMPARED:,} texts, so only equal ones were looked for, not nearly equal ones."
        yield Finding("near-duplicates not looked for", "note", said)


def _spelling(c: Checked) -> Iterator[Finding]:
    if c.labels is None:
        return
    counts = Counter(each for each in c.labels if not is_missing(each))
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        spellings[plain_label(label)].append(label)
    several = {plain: each for plain, each in spellings.items() if len(each) > 1}
    if several:
        usual = {max(each, key=lambda label: counts[label]) for each in several.values()}
        odd = {label for each in several.values() for label in each} - usual
        rows = _rows(c.labels, lambda label: label in odd)
        some = "; ".join(", ".join(map(repr, each)) for each in list(several.values())[:3])
        said = f"{_count(tuple(several), 'label is', 'labels are')} spelt in several ways: {some}."
        yield Finding("label spelling", "mend", said, rows, "takes the most frequent spelling")
    total = {plain: sum(counts[label] for label in each) for plain, each in spellings.items()}
    likely = list(similar_labels(total))
    if likely:
        some = "; ".join(
            f"{odd!r} ({total[odd]}) for {usual!r} ({total[usual]})" for odd, usual in likely[:3]
        )
        odd = {each for each, _ in likely}
        rows = _rows(c.labels, lambda label: plain_label(label) in odd)
        yield Finding(
            "label typos",
            "mend",
            f"Perhaps misspelt: {some}.",
            rows,
            "takes the frequent one; look before you ask for it",
            False,
        )


def similar_labels(counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    """(rare, frequent) pairs of labels that differ in a letter or two; digits are never typos."""
    from rapidfuzz import fuzz

    frequent = {each: many for each, many in counts.items() if many >= 5}
    for odd, few in counts.items():
        if few > 5 or len(odd) <= 3:
            continue
        best = [
            (fuzz.ratio(odd, each), each)
            for each, many in frequent.items()
            if each != odd and many >= 5 * few
        ]
        best = [
            (ratio, each)
            for ratio, each in best
            if ratio >= SIMILAR_LABELS and re.sub(r"\D", "", odd) == re.sub(r"\D", "", each)
        ]
        if best:
            yield odd, max(best)[1]


def _classes(c: Checked) -> Iterator[Finding]:
    if c.labels is None:
        yield Finding(
            "no labels",
            "stop",
            "No column can be the label, so there is nothing to learn to tell apart. Name it: label='...'.",
        )
        return
    counts = Counter(plain_label(each) for each in c.labels if not is_missing(each))
    numbers = sum(bool(re.fullmatch(r"[+-]?\d+\.\d*[1-9]\d*", each)) for each in counts)
    if len(counts) < 2:
        only = f", {next(iter(counts))!r}" if counts else ""
        yield Finding(
            "one class", "stop", f"There is {len(counts)} label{only}: a classifier needs two to tell apart."
        )
    elif numbers > len(counts) / 2 and len(counts) > 10:
        said = f"The {len(counts)} labels are decimal numbers: amounts, not classes. Make classes of them: low, high."
        yield Finding("amounts as labels", "stop", said)
    elif len(counts) > MANY_CLASSES or len(counts) > max(len(c.texts) / 2, 2):
        said = f"{len(counts):,} different labels for {len(c.texts):,} texts: the right column? Name another: label='...'."
        yield Finding("too many classes", "stop", said)
    else:
        yield from _balance(c, counts)


def _balance(c: Checked, counts: Counter[str]) -> Iterator[Finding]:
    rare = [each for each, count in counts.items() if count < FEW_OF_A_CLASS]
    if rare:
        few = FEW_OF_A_CLASS
        rows = _rows(c.labels or [], lambda label: plain_label(label) in rare)
        some = ", ".join(f"{each!r} ({counts[each]})" for each in rare[:5])
        said = f"{_count(rare, 'label has', 'labels have')} fewer than {few} texts: {some}. Collect more, or drop them."
        yield Finding("rare labels", "mend", said, rows, f"drops labels of fewer than {few} texts", False)
    (most, high), (least, low) = counts.most_common()[0], counts.most_common()[-1]
    if high >= IMBALANCE * low:
        said = (
            f"{most!r} is {high / low:.0f} times as frequent as {least!r}; always answering {most!r} is right "
            f"for {high / counts.total():.0%} of the rows. Judge by macro-F1, beside that baseline."
        )
        yield Finding("imbalance", "note", said)
    names = [each for each in counts if len(each) > 3 and not each.isdigit()]
    words = {each: re.compile(rf"\b{re.escape(each)}\b") for each in names}
    told = []
    for place, (text, label) in enumerate(zip(c.texts, c.labels or [], strict=True)):
        word = words.get(plain_label(label))
        if word and plain_label(label) in (folded := text.casefold()) and word.search(folded):
            told.append(place)
    among = sum(plain_label(each) in words for each in c.labels or [])
    if among and len(told) > SHARE_TOLD * among:
        said = f"{len(told):,} texts hold their own label as a word: is the answer written in the question?"
        yield Finding("label in the text", "note", said, tuple(told))


def _length(c: Checked) -> Iterator[Finding]:
    short = _rows(c.texts, lambda text: len(text.split(maxsplit=SHORT_WORDS)) < SHORT_WORDS)
    rows = tuple(each for each in short if not c.missing[each])
    if rows and len(rows) < len(c.texts):
        yield Finding(
            "very short texts", "note", f"{_count(rows, 'text has', 'texts have')} a single word.", rows
        )
    if c.tokens is None or c.limit is None:
        return
    rows = tuple(place for place, count in enumerate(c.tokens) if count > c.limit)
    if rows:
        share = len(rows) / len(c.texts)
        said = (
            f"{_count(rows, 'text is', 'texts are')} longer than the model's {c.limit} tokens ({share:.0%}); "
            "what lies beyond is cut off. Put what matters first, or cut them into pieces yourself."
        )
        yield Finding("too long", "note", said, rows)


CHECKS: tuple[Callable[[Checked], Iterator[Finding]], ...] = (
    _amount,
    _classes,
    _empty,
    _encoding,
    _markup,
    _spaces,
    _repeats,
    _spelling,
    _length,
)
