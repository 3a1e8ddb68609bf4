"""Find the errors in an exception or in a pasted text: for each its class names and its message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Told", "errors_in", "told"]

COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
#: "ValueError: text" or "torch.OutOfMemoryError: text" at the end of a traceback; pytest puts an E before it.
LAST_LINE = re.compile(
    r"^(?:E\s)?\s*((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Warning|Invalid|Interrupt|Exit|Iteration))"
    r"(?::[ \t]*(.*)|[ \t]*)$"
)
#: What may stand between an error and the next one.
BETWEEN = re.compile(
    r"^(?:Traceback \(most recent call last\)|During handling of the above|The above exception was|-{20,}"
    r"|\s*\+-|.*Traceback \(most recent call last\)$)"
)
CHAIN = 8  # causes that are looked at


@dataclass(frozen=True)
class Told:
    """kinds: the exception's class names, its own first; empty where the text names none. message: its words."""

    kinds: tuple[str, ...]
    message: str

    @property
    def first_line(self) -> str:
        """As the last line of a traceback begins, cut to a line's length."""
        words = self.message.strip().splitlines()
        line = ": ".join(
            filter(None, [self.kinds[0] if self.kinds else "", words[0].strip() if words else ""])
        )
        return line if len(line) <= 200 else line[:197] + "..."


def told(error: BaseException) -> Told:
    """An exception's class names (those of its base classes too) and message."""
    kinds = tuple(each.__name__ for each in type(error).__mro__ if each is not object)
    try:
        message = str(error)
    except Exception:  # a class of someone else's may fail at that
        message = ""
    return Told(kinds, COLOURS.sub("", message))


def errors_in(source: BaseException | str) -> list[Told]:
    """The error itself first, then what led to it.

    source: an exception, with its causes; or a text: a message, its last lines or a whole traceback, from
    a terminal or a notebook, in colour or not.
    """
    if isinstance(source, BaseException):
        return [told(each) for each in _chain(source)]
    lines = COLOURS.sub("", source).replace("\r\n", "\n").splitlines()
    found = list(_in_lines(lines))
    return found[::-1] if found else [Told((), "\n".join(lines).strip())]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[int] = []
    each: BaseException | None = error
    while each is not None and id(each) not in seen and len(seen) < CHAIN:
        seen.append(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _in_lines(lines: list[str]) -> Iterator[Told]:
    kind, message = "", []
    for line in lines:
        start = LAST_LINE.match(line)
        if (start or BETWEEN.match(line)) and kind:
            yield Told((kind,), "\n".join(message).strip())
            kind = ""
        if start:
            kind, message = start.group(1).rpartition(".")[2], [start.group(2) or ""]
        elif kind:
            message.append(line)
    if kind:
        yield Told((kind,), "\n".join(message).strip())
