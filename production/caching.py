"""Not computing at all: answers of texts that came before, kept by their normalised text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from lessonkit.errors import DataError

__all__ = ["Cache", "normalised"]


def normalised(text: str) -> str:
    """The key of a text: lower case, one space between words. Right for a model whose tokenizer does the same."""
    return " ".join(text.lower().split())


class Cache:
    """Answers by normalised text; of ``size`` answers, the one unused for longest gives way (LRU).

    It belongs to one model in one version: make a new one when the model changes. hits, misses: counted.
    """

    def __init__(self, size: int, key: Callable[[str], str] = normalised) -> None:
        if size < 1:
            raise DataError(f"A cache of {size} answers keeps none.", fix="pass a size of at least 1")
        self.size, self.key, self.hits, self.misses = size, key, 0, 0
        self._kept: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def answer(self, texts: Sequence[str], compute: Callable[[list[str]], Sequence[int]]) -> list[int]:
        """The classes of the texts; ``compute`` is asked once, for those that are not kept, each once."""
        keys = [self.key(text) for text in texts]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        new: dict[str, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if key not in found:
                new.setdefault(key, text)
        self.misses += len(new)
        self.hits += len(keys) - len(new)
        if new:
            found |= zip(new, map(int, compute(list(new.values()))), strict=True)
        for key in keys:
            self._kept[key] = found[key]
            self._kept.move_to_end(key)
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)
        return [found[key] for key in keys]
