"""What the columns of a training set hold: ranges, lengths and kinds, read fast and without consuming it.

A ``datasets.Dataset`` is read through Arrow, a few thousand rows at a time. Of other data that can be
indexed, the first few hundred rows are looked at; a stream is not touched.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["Column", "column_names", "scan"]

ROWS_AT_A_TIME = 5000
FIRST_ROWS = 300
SECONDS = 2.0  # of a very large dataset, what can be read in that time
IGNORED = -100


@dataclass
class Column:
    """One column, as far as it was read.

    kind: ``"integer"``, ``"decimal"``, ``"text"`` or ``"other"``. nested: a list in each row.
    least, most: of its numbers, -100 left aside. longest: entries in the longest row, where nested.
    rows: how many were read. ignored: rows in which every entry is -100; ignored_shifted: not counting the
    first entry, which a causal model never has to predict.
    """

    name: str
    kind: str = "other"
    nested: bool = False
    least: float | None = None
    most: float | None = None
    longest: int = 0
    shortest: int | None = None
    rows: int = 0
    ignored: int = 0
    ignored_shifted: int = 0

    def add(self, values: np.ndarray, lengths: np.ndarray | None) -> None:
        """Take in some rows: their numbers one after another, and how many of them each row has."""
        import numpy as np

        counted = values != IGNORED
        if counted.any():
            kept = values[counted]
            self.least = min(kept.min().item(), self.least if self.least is not None else np.inf)
            self.most = max(kept.max().item(), self.most if self.most is not None else -np.inf)
        if lengths is None:
            self.rows += len(values)
            self.ignored += int((~counted).sum())
            self.ignored_shifted = self.ignored
            return
        self.nested = True
        self.rows += len(lengths)
        if not len(lengths):
            return
        self.longest = max(self.longest, int(lengths.max()))
        self.shortest = min(int(lengths.min()), self.longest if self.shortest is None else self.shortest)
        ends = np.cumsum(lengths)
        before = np.concatenate([[0], np.cumsum(counted)])
        used = before[ends] - before[ends - lengths]
        self.ignored += int((used == 0).sum())
        first = np.minimum(ends - lengths, len(values) - 1)
        on_first = counted[first] & (lengths > 0) if len(values) else np.zeros(len(lengths), bool)
        self.ignored_shifted += int((used - on_first == 0).sum())


def column_names(dataset: Any) -> list[str] | None:
    """The columns of a dataset, from its first row if need be; None where that cannot be known."""
    names = getattr(dataset, "column_names", None)
    if names is not None:
        return list(names)
    if _is_stream(dataset):
        return None
    row = dataset[0]
    return [str(name) for name in row] if isinstance(row, Mapping) else None


def scan(dataset: Any, names: Iterable[str]) -> dict[str, Column]:
    """The columns called ``names``, those that there are."""
    from datasets import Dataset

    if isinstance(dataset, Dataset):
        return _scan_arrow(dataset, [name for name in dataset.column_names if name in set(names)])
    return {} if _is_stream(dataset) else _scan_rows(dataset, set(names))


def _is_stream(dataset: Any) -> bool:
    import torch

    return isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__getitem__")


def _scan_arrow(dataset: Any, names: list[str]) -> dict[str, Column]:
    columns = {name: Column(name) for name in names}
    if not names:
        return columns
    rows = dataset.select_columns(names).with_format("arrow")
    end = time.monotonic() + SECONDS
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        table = rows[start : start + ROWS_AT_A_TIME]
        for name in names:
            for chunk in table.column(name).chunks:
                _add_chunk(columns[name], chunk)
        if time.monotonic() > end:
            break
    return columns


def _add_chunk(column: Column, chunk: pa.Array) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = None
    if _is_list(chunk.type):
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False).astype("int64")
        chunk = chunk.flatten()
        column.nested = True
    if pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
        column.kind = "text"
        return
    if pa.types.is_boolean(chunk.type) or pa.types.is_null(chunk.type):  # null: nothing but empty lists
        chunk = chunk.cast(pa.int8())
    if not (pa.types.is_integer(chunk.type) or pa.types.is_floating(chunk.type)):
        return
    column.kind = "integer" if pa.types.is_integer(chunk.type) else "decimal"
    if chunk.null_count and lengths is None:
        chunk = chunk.drop_null()
    column.add(chunk.to_numpy(zero_copy_only=False), lengths)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _scan_rows(dataset: Any, names: set[str]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    end = time.monotonic() + SECONDS / 4
    for index in range(min(FIRST_ROWS, len(dataset) if hasattr(dataset, "__len__") else 1)):
        row = dataset[index]
        if not isinstance(row, Mapping) or time.monotonic() > end:
            break
        for name in names & set(row):
            _add_value(columns.setdefault(name, Column(name)), row[name])
    return columns


def _add_value(column: Column, value: Any) -> None:
    import numpy as np

    try:
        values = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return
    kinds = {"i": "integer", "u": "integer", "b": "integer", "f": "decimal", "U": "text"}
    column.kind = kinds.get(values.dtype.kind, "other")
    if values.dtype.kind not in "iufb" or values.ndim > 1:
        column.nested = column.nested or values.ndim > 0
        return
    numbers = values.astype("int64") if values.dtype.kind == "b" else values
    column.add(numbers.reshape(-1), np.array([numbers.size]) if values.ndim else None)
