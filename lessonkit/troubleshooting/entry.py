"""One known error: the message that names it, what it means, and the cure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

__all__ = ["PAGE", "VERSIONS", "Entry", "anchor"]

PAGE = "lessons/troubleshooting.md"

#: What the messages were reproduced with. A test holds these against requirements.txt.
VERSIONS = {
    "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
    "datasets": "5.2.0",
    "numpy": "2.4.6",
    "peft": "0.21.2",
    "safetensors": "0.8.0",
    "scikit-learn": "1.9.1",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}


def anchor(title: str) -> str:
    """The anchor that a heading of a Markdown page gets."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


@dataclass(frozen=True)
class Entry:
    """A known error. Texts may hold Markdown code between backticks.

    title: plain words, the heading on the page. errors: the exception's class names, without modules;
    subclasses count too, and none means any or no exception at all. pattern: a regular expression that
    the message is searched with, and that no other entry's message fits. example: a message as seen.
    meaning: what the machine is saying. cause: why it mostly happens. cure: what to do, in steps.
    before, after: code that shows it and code that works, where it helps. packages: whose message it is;
    empty for Python's own. lesson: where the matter is taught, a name of the curriculum.
    general: a message so common that it says something only where the error ends in it, not among its causes.
    reproduced: whether a test provokes the very message; some need a GPU or a network.
    """

    title: str
    errors: tuple[str, ...]
    pattern: str
    example: str
    meaning: str
    cause: str
    cure: tuple[str, ...]
    before: str = ""
    after: str = ""
    packages: tuple[str, ...] = ()
    lesson: str = ""
    general: bool = False
    reproduced: bool = True
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", anchor(self.title))

    @cached_property
    def _search(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.DOTALL)

    def fits(self, message: str, kinds: tuple[str, ...] = ()) -> bool:
        """Whether this is the message; ``kinds`` are its exception's class names, empty if not known."""
        if kinds and self.errors and not set(kinds) & set(self.errors):
            return False
        return self._search.search(message) is not None

    @property
    def link(self) -> str:
        """Where the page tells it."""
        return f"{PAGE}#{self.id}"

    @property
    def seen_with(self) -> str:
        """The versions that the message was reproduced with, such as ``"torch 2.13.0"``."""
        return ", ".join(f"{name} {VERSIONS[name]}" for name in self.packages)
