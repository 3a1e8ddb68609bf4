"""Answers as plain data: read once, in full, so that nothing of a learner's object is asked again later.

``plain`` turns numbers, texts, lists, dictionaries, arrays and tensors into Python's own, and anything else
into an ``Other``. It runs inside the sandbox, for an answer's methods may raise, lie or never come back; what
it gives is safe to compare, to print and to keep.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections import deque
from collections.abc import KeysView, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Number
from typing import Any

__all__ = ["Grid", "Other", "alike", "as_text", "is_number", "plain", "type_name"]

MOST_ITEMS = 2_000_000  # in all; a longer answer is not read
DEEPEST = 40
TEXT = 80  # characters of a value shown in a message
ROUNDING = 1e-6  # a relative tolerance up to this is meant for float32; whole numbers need none


@dataclass(frozen=True, eq=False)
class Other:
    """Something that is not data: its type's name, what kind of surprise it is, and the object itself."""

    name: str
    note: str = ""
    value: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Grid:
    """An array or tensor of numbers, as a NumPy array that shares no memory with the answer."""

    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size along each axis."""
        return tuple(self.array.shape)


class _TooMuchError(Exception):
    """The answer holds more than is read, or is nested without end."""


def type_name(value: Any) -> str:
    """The name of the type, asked of Python rather than of the object."""
    name = type.__dict__["__name__"].__get__(type(value))
    return name if type(name) is str else "object"


def plain(value: Any) -> Any:
    """The value as plain data. Whatever the value's own methods raise is raised; run it in the sandbox."""
    try:
        return _plain(value, [MOST_ITEMS], 0)
    except _TooMuchError:
        return Other(type_name(value), "huge")


def _plain(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > DEEPEST:
        raise _TooMuchError
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if (grid := _grid(value)) is not None:
        return _shrunk(grid, left, depth)
    if _is_number_like(value) and not hasattr(type(value), "tolist"):  # some pandas give a Series a __float__
        return _number(value)
    if isinstance(value, Mapping):
        pairs = dict.items(value) if isinstance(value, dict) else value.items()
        return {_key(key, left, depth): _plain(each, left, depth + 1) for key, each in pairs}
    if isinstance(value, Set):
        items = [_key(each, left, depth) for each in value]
        return frozenset(items)
    if isinstance(value, list | tuple | range | deque | Sequence | KeysView | ValuesView):
        return _items(value, left, depth)
    if hasattr(type(value), "tolist"):  # a pandas Series, a column of datasets
        return _plain(value.tolist(), left, depth + 1)
    return _other(value)


def _items(value: Any, left: list[int], depth: int) -> list:
    if len(value) > left[0]:
        raise _TooMuchError
    if isinstance(value, list | tuple):  # not what a subclass says of itself
        value = list.__iter__(value) if isinstance(value, list) else tuple.__iter__(value)
    return [_plain(each, left, depth + 1) for each in value]


def _key(key: Any, left: list[int], depth: int) -> Any:
    found = _plain(key, left, depth + 1)
    if isinstance(found, list):
        return tuple(found)
    return found if not isinstance(found, dict | Grid) else Other(type_name(key))


def _grid(value: Any) -> Any:
    """The value as a NumPy array if it is an array or a tensor, else None."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.numel() > MOST_ITEMS:
            raise _TooMuchError
        value = value.detach().cpu()
        value = value.to_dense() if value.layout != torch.strided else value
        if value.dtype in (torch.bfloat16, torch.float16):
            value = value.float()
        return value.numpy().copy()
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        if value.size > MOST_ITEMS:
            raise _TooMuchError
        return numpy.array(value)
    return None


def _shrunk(array: Any, left: list[int], depth: int) -> Any:
    """A single number as Python's own, numbers as a Grid, anything else as lists."""
    left[0] -= array.size
    if left[0] < 0:
        raise _TooMuchError
    if array.dtype.kind not in "biufc":
        return _plain(array.tolist(), left, depth + 1)
    return array.item() if array.ndim == 0 else Grid(array)


def _is_number_like(value: Any) -> bool:
    return isinstance(value, Number | Decimal) or hasattr(type(value), "__float__")


def _number(value: Any) -> Any:
    """int, float or complex: a Fraction or a Decimal as the nearest float."""
    if isinstance(value, bool | int):
        return int.__add__(value, 0)
    if isinstance(value, complex):
        return complex.__add__(value, 0)
    return float.__add__(value if isinstance(value, float) else float(value), 0.0)


def _other(value: Any) -> Other:
    if inspect.isgenerator(value):
        return Other(type_name(value), "generator")
    if inspect.iscoroutine(value):
        value.close()  # or Python warns later that nobody waited for it
        return Other("coroutine", "coroutine")
    if hasattr(type(value), "__next__"):
        return Other(type_name(value), "iterator")
    return Other(type_name(value), "function" if inspect.isroutine(value) else "", value)


# ---- Comparing --------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """Whether plain data is a real number; True and False are not."""
    return type(value) in (int, float)


def alike(got: Any, want: Any, absolute: float = 0.0, relative: float = 0.0) -> bool:
    """Whether two pieces of plain data mean the same.

    Numbers may differ by ``absolute`` or by ``relative`` times the wanted one, whichever allows more. A list,
    a tuple, an array and a tensor of the same numbers are the same. NaN equals NaN. True is not 1. Where both
    are whole numbers, a ``relative`` that only makes up for float32's rounding doesn't count.
    """
    if isinstance(want, Grid) or isinstance(got, Grid):
        return _same_grid(got, want, absolute, relative)
    if is_number(got) and is_number(want):
        return _near(got, want, absolute, relative)
    if isinstance(got, complex) and isinstance(want, complex | int | float):
        return abs(got - want) <= max(absolute, relative * abs(want)) * (1 + 1e-9)
    if isinstance(got, dict) and isinstance(want, dict):
        same_keys = got.keys() == want.keys()
        return same_keys and all(alike(got[key], want[key], absolute, relative) for key in want)
    if isinstance(got, list) and isinstance(want, list):
        pairs = zip(got, want, strict=False)
        return len(got) == len(want) and all(alike(one, two, absolute, relative) for one, two in pairs)
    if isinstance(got, Other) and isinstance(want, Other):
        return got.value is not None and type(got.value) is type(want.value) and _equal(got.value, want.value)
    return type(got) is type(want) and bool(got == want)


def _near(got: float, want: float, absolute: float, relative: float) -> bool:
    if got == want or (got != got and want != want):
        return True
    if relative <= ROUNDING and type(got) is type(want) is int:
        relative = 0.0
    try:
        # A little more than the tolerance, for 0.905 - 0.9 is a little more than 0.005 to a computer.
        return abs(got - want) <= max(absolute, relative * abs(want)) * (1 + 1e-9) and math.isfinite(want)
    except OverflowError:  # an integer beyond what a float can hold
        return False


def _same_grid(got: Any, want: Any, absolute: float, relative: float) -> bool:
    import numpy as np

    one, two = _as_array(got), _as_array(want)
    if one is None or two is None or one.shape != two.shape:
        return False
    if (one.dtype.kind == "b") != (two.dtype.kind == "b"):
        return False
    if one.dtype.kind == "b":
        return bool((one == two).all())
    if relative <= ROUNDING and one.dtype.kind in "iu" and two.dtype.kind in "iu":
        relative = 0.0
    with np.errstate(all="ignore"):
        one, two = one.astype(np.result_type(one, float)), two.astype(np.result_type(two, float))
        allowed = np.maximum(absolute, relative * np.abs(two)) * (1 + 1e-9)
        near = (np.abs(one - two) <= allowed) & np.isfinite(two)
        return bool((near | (one == two) | (np.isnan(one) & np.isnan(two))).all())


def _as_array(value: Any) -> Any:
    """A Grid or a (nested) list of numbers as a NumPy array, else None."""
    import numpy as np

    if isinstance(value, Grid):
        return value.array
    if not isinstance(value, list):
        return None
    try:
        array = np.array([each.array if isinstance(each, Grid) else each for each in value])
    except (ValueError, TypeError, OverflowError):  # rows of different lengths, say
        return None
    return array if array.dtype.kind in "biufc" else None


def _equal(got: Any, want: Any) -> bool:
    try:
        return got is want or bool(got == want)
    except Exception:
        return False


# ---- Showing ----------------------------------------------------------------------------------------


def as_text(value: Any, exactly: bool = False) -> str:
    """Plain data on one short line; numbers to six digits, or ``exactly``."""
    text = _text(value, exactly, [400])
    return text if len(text) <= TEXT else text[: TEXT - 3] + "..."


def _text(value: Any, exactly: bool, left: list[int]) -> str:
    left[0] -= 1
    if left[0] < 0:
        return "..."
    if type(value) is float and not exactly:
        text = f"{value:.6g}"
        return text if any(mark in text for mark in ".en") else text + ".0"
    if type(value) is int:
        return str(value) if abs(value) < 10**60 else "a very large integer"
    if isinstance(value, Other):
        return {"huge": f"a huge {value.name}"}.get(value.note, f"a {value.name}")
    if isinstance(value, Grid):
        if value.array.size > TEXT:
            return f"an array or tensor of shape {value.shape}"
        return _text(value.array.tolist(), exactly, left)
    if isinstance(value, dict):
        inside = (
            f"{_text(key, exactly, left)}: {_text(each, exactly, left)}"
            for key, each in _first(value.items())
        )
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list | tuple | frozenset):
        inside = ", ".join(_text(each, exactly, left) for each in _first(value))
        return {list: f"[{inside}]", tuple: f"({inside})"}.get(type(value), "{" + inside + "}")
    if isinstance(value, str | bytes):
        return repr(value[: TEXT + 1])
    return repr(value)


def _first(items: Any) -> list:
    found = []
    for each in items:
        found.append(each)
        if len(found) > TEXT:
            break
    return found
