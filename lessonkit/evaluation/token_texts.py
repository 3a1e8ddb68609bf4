"""Tokenised texts as a language model's scores need them: without padding, each with its labels.

Rows of a dataset, batches of a DataLoader and what a tokenizer returns all come out the same, so that
neither padding nor batch size can change a score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["IGNORED", "TokenText", "read_texts"]

IGNORED = -100  # the label that transformers and torch leave out of the loss
PACKED = ("position_ids", "cu_seq_lens_q", "cu_seqlens")
TOKENIZE = 'dataset.map(lambda row: tokenizer(row["text"], truncation=True, max_length=512))'


@dataclass(frozen=True)
class TokenText:
    """One text. ids: (tokens,) token ids. labels: (tokens,) the same, or -100 where nothing is counted."""

    ids: np.ndarray
    labels: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """Places whose next token is counted: (counted,), each from 0 to tokens - 2."""
        return (self.labels[1:] != IGNORED).nonzero()[0]

    @property
    def targets(self) -> np.ndarray:
        """The tokens that are counted, (counted,): the labels one place after ``places``."""
        return self.labels[self.places + 1]


def read_texts(dataset: Any) -> tuple[list[TokenText], int]:
    """All texts, and how many of them came together: the largest batch, or 1 for a dataset of rows.

    dataset: rows or batches, each a mapping with ``input_ids`` and, where they exist, ``attention_mask``
    and ``labels``; or one such batch. Left out labels are the input ids.
    Raises DataError for anything else.
    """
    if isinstance(dataset, Mapping) and "input_ids" in dataset:
        dataset = [dataset]
    if isinstance(dataset, Mapping):
        splits = ", ".join(repr(name) for name in dataset)
        raise DataError(
            f"A mapping with {splits or 'nothing'} in it holds no input_ids.",
            fix='pass one split, such as data["test"], after it was tokenized',
        )
    try:
        items = iter(dataset)
    except TypeError as error:
        raise DataError(
            f"{type(dataset).__name__} is not a dataset of tokenized texts.", fix=f"pass {TOKENIZE}"
        ) from error
    texts, together = [], 1
    for item in items:
        found = list(_item_texts(item, len(texts)))
        together = max(together, len(found))
        texts += found
    if not texts:
        raise DataError("There are no texts to score.", fix="look at the dataset: is the split empty?")
    return texts, together


def _item_texts(item: Any, first: int) -> Iterator[TokenText]:
    """The texts of one row or one batch; ``first`` is the number of its first text."""
    if not isinstance(item, Mapping) or "input_ids" not in item:
        what = f"columns {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
        raise DataError(
            f"Text {first} has no input_ids ({what}).",
            why="a language model reads token ids, not text",
            fix=f"tokenize first: {TOKENIZE}",
        )
    packed = [name for name in PACKED if name in item]
    if packed:
        raise DataError(
            f"Text {first} brings its own {packed[0]}, as packed texts do.",
            why="texts that share a row can't be told apart here, nor resampled",
            fix="pass the texts one a row, without packing",
        )
    ids = _plain(item["input_ids"])
    batch = isinstance(ids, list | tuple) and len(ids) > 0 and isinstance(_plain(ids[0]), list | tuple)
    columns = [ids if batch else [ids]]
    for name in ("attention_mask", "labels"):
        values = _plain(item.get(name))
        columns.append([None] * len(columns[0]) if values is None else values if batch else [values])
    if not all(isinstance(each, list | tuple) and len(each) == len(columns[0]) for each in columns):
        raise DataError(
            f"In the batch that begins with text {first}, the columns have different numbers of rows.",
            fix="look at its input_ids, attention_mask and labels: each needs one row a text, one number a token",
        )
    for number, (row, mask, labels) in enumerate(zip(*columns, strict=True), first):
        yield _text(number, row, mask, labels)


def _text(number: int, ids: Any, mask: Any, labels: Any) -> TokenText:
    """One text with its padding taken off."""
    import numpy as np

    tokens = _whole("input_ids", number, ids)
    kept = np.ones(len(tokens), bool) if mask is None else _whole("attention_mask", number, mask) != 0
    wanted = tokens if labels is None else _whole("labels", number, labels)
    if not len(tokens) == len(kept) == len(wanted):
        raise DataError(
            f"Text {number} has {len(tokens)} input_ids, {len(kept)} attention_mask and {len(wanted)} labels.",
            why="there must be one of each for each token",
            fix="pad and truncate all of them alike, or leave the labels out",
        )
    where = kept.nonzero()[0]
    if len(where) and where[-1] - where[0] >= len(where):
        raise DataError(
            f"The attention_mask of text {number} has a 0 between its 1s.",
            why="padding stands before or after a text, not inside",
            fix="use the attention_mask that the tokenizer returns",
        )
    return TokenText(tokens[kept], wanted[kept])


def _whole(name: str, number: int, values: Any) -> np.ndarray:
    import numpy as np

    try:
        found = np.asarray(_plain(values))
    except ValueError:  # rows of different lengths
        found = np.asarray(values, dtype=object)
    if found.ndim == 1 and (not len(found) or found.dtype.kind in "iub"):
        return found.astype(np.int64)
    raise DataError(
        f"The {name} of text {number} are not a row of whole numbers.",
        fix="pass what the tokenizer returns: a list of numbers for each text",
    )


def _plain(values: Any) -> Any:
    """Lists in place of tensors and arrays."""
    return values.tolist() if hasattr(values, "tolist") else values
