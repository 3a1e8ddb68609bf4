"""Which column holds the texts, and which the labels; by name where names tell, else by what stands in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lessonkit.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    import pandas

__all__ = ["Columns", "choose_columns"]

#: In the order in which they are preferred.
TEXT_NAMES = (  # noqa: SIM905
    "text sentence review content body message comment tweet post email document utterance question "
    "description abstract article news headline title input prompt"
).split()
LABEL_NAMES = (  # noqa: SIM905
    "label labels class category target sentiment topic intent genre tag group type rating stars score "
    "y output"
).split()
MOST_LABELS = 100  # more different values than this are hardly classes
SHORT_LABEL = 40  # characters, on average
MOST_COUNTED = 5_000  # rows in which words are counted, evenly drawn


@dataclass(frozen=True)
class Columns:
    """text, label: names of columns; label is None where no column can be it. why: how they were chosen."""

    text: str
    label: str | None
    why: str


def choose_columns(frame: pandas.DataFrame, text: str | None = None, label: str | None = None) -> Columns:
    """Choose among a table's columns of strings; what is given is taken.

    Raises UnknownNameError for a column that isn't there, DataError where no column holds texts.
    """
    for given in (text, label):
        if given is not None and given not in frame.columns:
            raise UnknownNameError("column", str(given), [str(each) for each in frame.columns])
    if text is not None and text == label:
        raise DataError(f"{text!r} is named as text and as label.", fix="name two different columns")
    rest = [each for each in frame.columns if each not in (text, label)]
    why = []
    if text is None:
        text, reason = _text(frame, rest)
        why.append(f"{text!r} is the text ({reason})")
        rest = [each for each in rest if each != text]
    if label is None:
        label, reason = _label(frame, rest)
        why.append(f"{label!r} is the label ({reason})" if label else f"no label ({reason})")
    return Columns(text, label, "; ".join(why) or "as you named them")


def _by_name(columns: list[str], names: list[str]) -> str | None:
    plain = {str(each).casefold().strip().replace("_", " ").replace("-", " "): each for each in columns}
    for name in names:
        if name in plain:
            return plain[name]
    for name in names:  # 'review text', 'news category'
        for words, column in plain.items():
            if name in words.split():
                return column
    return None


def _text(frame: pandas.DataFrame, columns: list[str]) -> tuple[str, str]:
    some = frame.iloc[:: max(1, len(frame) // MOST_COUNTED)]
    words = {each: some[each].map(lambda cell: len(cell.split())).mean() for each in columns}
    if not words:
        raise DataError("There is no column for the texts.", fix="name it: text='...'")
    longest = max(words, key=lambda each: words[each])
    named = _by_name(columns, TEXT_NAMES)
    # an empty column of that name is the text too: that it is empty, the checks tell
    if named is not None and (not words[named] or words[named] >= min(3.0, 0.5 * words[longest])):
        return named, "its name says so"
    if not words[longest] or frame[longest].map(_is_number).mean() > 0.9:
        raise DataError(
            "No column holds texts.",
            why=f"the columns are {', '.join(map(str, columns))[:200]}, and hold numbers or nothing",
            fix="pass the column that does: text='...'",
        )
    return longest, "its cells are the longest"


def _label(frame: pandas.DataFrame, columns: list[str]) -> tuple[str | None, str]:
    usable = [each for each in columns if _could_be_label(frame[each])]
    named = _by_name(columns, LABEL_NAMES)
    if named is not None and (named in usable or len(columns) == 1 or not usable):
        return named, "its name says so"
    if not usable:
        return (
            None,
            "no other column repeats its values as labels do" if columns else "there is no other column",
        )
    several = [each for each in usable if frame[each].nunique() > 1] or usable
    fewest = min(several, key=lambda each: frame[each].nunique())
    return fewest, "its values repeat"


def _could_be_label(column: pandas.Series) -> bool:
    filled = column[column.str.strip() != ""]
    different = filled.nunique()
    return (
        1 <= different <= min(MOST_LABELS, max(2, len(filled) // 2))
        and filled.str.len().mean() <= SHORT_LABEL
        and not (different == 1 and len(column) > 1 and filled.iloc[0].isdigit())
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell or "0")
    except ValueError:
        return False
    return True
