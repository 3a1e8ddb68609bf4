"""Plain ``datasets.DatasetDict`` objects from this project's assets."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lessonkit.assets import Asset, asset, assets, fetch
from lessonkit.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["load_dataset"]

HEADER_LINES = 3  # of Orange's .tab format: column names, their types, their roles


def load_dataset(name: str) -> DatasetDict:
    """A dataset with a ``train`` and a ``test`` split, by its asset's name.

    Classification data has the columns ``text`` (string) and ``label`` (``ClassLabel``, names sorted);
    the Reuters and 20 Newsgroups splits are the official ones. ``bbc-news`` has no official split: a
    fifth is held out by a hash of the text, so that equal articles never stand on both sides.
    ``grimm-tales`` has ``title``, ``text`` and ``topic``, split likewise by title.

    Raises UnknownNameError for an unknown name, DataError if a file is not what it should be.
    """
    names = [each.name for each in assets().values() if each.kind == "dataset"]
    if name not in names:
        raise UnknownNameError("dataset", name, names)
    wanted, folder = asset(name), fetch(name)
    if name == "bbc-news":
        return _bbc_news(folder)
    if name == "grimm-tales":
        return _grimm_tales(folder)
    return _labelled(wanted, folder)


def _labelled(wanted: Asset, folder: Path) -> DatasetDict:
    from datasets import DatasetDict

    splits = {}
    for split in ("train", "test"):
        rows = [(row["Category"], row["Text"]) for row in _read_tab(folder / f"{wanted.name}-{split}.tab")]
        splits[split] = rows
    names = sorted({label for label, _ in splits["train"]})
    return DatasetDict({split: _classification(rows, names) for split, rows in splits.items()})


def _bbc_news(folder: Path) -> DatasetDict:
    from datasets import DatasetDict

    with (folder / "texts.jsonl").open(encoding="utf-8") as lines:
        rows = [(row["label"], row["text"]) for row in map(json.loads, lines)]
    names = sorted({label for label, _ in rows})
    train = [row for row in rows if not _held_out(row[1])]
    test = [row for row in rows if _held_out(row[1])]
    return DatasetDict(train=_classification(train, names), test=_classification(test, names))


def _grimm_tales(folder: Path) -> DatasetDict:
    from datasets import Dataset, DatasetDict

    columns = {"title": "Title", "text": "Content", "topic": "ATU Topic"}
    rows = [{new: row[old] for new, old in columns.items()} for row in _read_tab(folder / "grimm-tales.tab")]
    train = [row for row in rows if not _held_out(row["title"])]
    test = [row for row in rows if _held_out(row["title"])]
    return DatasetDict(train=Dataset.from_list(train), test=Dataset.from_list(test))


def _classification(rows: list[tuple[str, str]], names: list[str]) -> Dataset:
    """(label name, text) rows -> a Dataset with ``text`` and ``label``."""
    from datasets import ClassLabel, Dataset, Features, Value

    number = {name: index for index, name in enumerate(names)}
    features = Features(text=Value("string"), label=ClassLabel(names=names))
    columns = {"text": [text for _, text in rows], "label": [number[label] for label, _ in rows]}
    return Dataset.from_dict(columns, features=features)


def _held_out(text: str) -> bool:
    """True for about a fifth of all texts, always the same ones."""
    return hashlib.sha256(text.encode("utf-8")).digest()[0] < 256 // 5


def _read_tab(path: Path) -> Iterator[dict[str, str]]:
    """Rows of an Orange .tab file as dictionaries."""
    csv.field_size_limit(2**27)  # a newsgroup post can be longer than csv's default limit
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter="\t")
        columns = next(reader, [])
        for _ in range(HEADER_LINES - 1):
            next(reader, None)
        for row in reader:
            if not any(row):
                continue
            if len(row) != len(columns):
                raise DataError(
                    f"{path.name} has a row of {len(row)} columns where {len(columns)} belong.",
                    why="the file is not the one that was tested",
                    fix=f"delete {path.parent} and run `lessonkit fetch`",
                )
            yield dict(zip(columns, row, strict=True))
