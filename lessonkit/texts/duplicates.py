"""Texts that are the same, or nearly: groups that must stand on one side of a split.

Two texts count as near-duplicates if the sets of their five-letter pieces overlap to 80 % (the Jaccard index; pieces as
in Broder 1997, "On the resemblance and containment of documents"). scikit-learn counts the pieces, scipy the overlaps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["MOST_COMPARED", "NEAR", "duplicate_groups", "same"]

NEAR = 0.8
MOST_COMPARED = (
    8_000  # texts; among more, only those that are the same but for case, signs and spaces are found
)
LONGEST = 4_000  # characters compared of each text
BLOCK = 500


def same(text: str) -> str:
    """What two texts must share to be the same: letters and digits, without case, signs and spaces."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def duplicate_groups(texts: Sequence[str], near: float = NEAR) -> list[int]:
    """For each text the number of its group: (n,) whole numbers; texts in one group are duplicates or nearly.

    Groups are the connected parts: if a is nearly b and b nearly c, all three are one group. Empty texts are groups of
    their own.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    plain = [same(each) for each in texts]
    first: dict[str, int] = {}
    pairs = [(first.setdefault(each, place), place) for place, each in enumerate(plain) if each]
    distinct = list(first.values())
    if 1 < len(distinct) <= MOST_COMPARED:
        pairs += [
            (distinct[a], distinct[b]) for a, b in _near_pairs([plain[each] for each in distinct], near)
        ]
    if not pairs:
        return list(range(len(texts)))
    left, right = zip(*pairs, strict=True)
    graph = coo_matrix(([1] * len(pairs), (left, right)), shape=(len(texts), len(texts)))
    return connected_components(graph, directed=False)[1].tolist()


def _near_pairs(texts: list[str], near: float) -> list[tuple[int, int]]:
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        analyzer="char", ngram_range=(5, 5), binary=True, lowercase=False, dtype=np.int32
    )
    padded = [each[:LONGEST].ljust(5) for each in texts]
    pieces = counter.fit_transform(padded).tocsr()
    sizes = np.asarray(pieces.sum(axis=1)).ravel()
    order = np.argsort(
        sizes, kind="stable"
    )  # J >= near needs sizes within a factor of near: compare neighbours only
    pieces, sizes = pieces[order], sizes[order]
    found = []
    for start in range(0, len(texts), BLOCK):
        stop = min(start + BLOCK, len(texts))
        end = int(np.searchsorted(sizes, sizes[stop - 1] / near, side="right"))
        shared = (pieces[start:stop] @ pieces[start:end].T).tocoo()
        rows, columns = shared.row + start, shared.col + start
        union = sizes[rows] + sizes[columns] - shared.data
        close = (rows < columns) & (shared.data >= near * union)
        found += [(int(order[a]), int(order[b])) for a, b in zip(rows[close], columns[close], strict=True)]
    return found
