"""Texts that are the same, or nearly: groups that must stand on one side of a split.

Two texts count as near-duplicates if the sets of their five-letter pieces overlap to 80 % (the Jaccard index; pieces as
in Broder 1997, "On the resemblance and containment of documents"). Not every pair is compared: two sets that overlap so
far share one of their rarest pieces (the prefix filter of Chaudhuri, Ganti and Kaushik 2006, "A Primitive Operator for
Similarity Joins in Data Cleaning"), so only pairs that do are. No pair is missed by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_matrix

__all__ = ["MOST_COMPARED", "NEAR", "duplicate_groups", "same"]

NEAR = 0.8
MOST_COMPARED = (
    8_000  # texts; among more, only those that are the same but for case, signs and spaces are found
)
LONGEST = 4_000  # characters compared of each text
PIECE = 5  # characters
BLOCK = 500
PAIRS_AT_A_TIME = 20_000

SIGNS = str.maketrans({chr(code): " " for code in range(128) if not chr(code).isalnum()})
WORDS = re.compile(r"[^\W_]+")


def same(text: str) -> str:
    """What two texts must share to be the same: letters and digits, without case, signs and spaces."""
    if text.isascii():  # the same by the faster way
        return " ".join(text.lower().translate(SIGNS).split())
    return " ".join(WORDS.findall(text.casefold()))


def duplicate_groups(
    texts: Sequence[str], near: float = NEAR, *, plain: Sequence[str] | None = None
) -> list[int]:
    """For each text the number of its group: (n,) whole numbers; texts in one group are duplicates or nearly.

    Groups are the connected parts: if a is nearly b and b nearly c, all three are one group. Empty texts are groups of
    their own. plain: ``same`` of each text, where it is known already.
    """
    import numpy as np

    plain = [same(each) for each in texts] if plain is None else plain
    first: dict[str, int] = {}
    groups = [first.setdefault(each, place) if each else place for place, each in enumerate(plain)]
    distinct = list(first.values())
    if 1 < len(distinct) <= MOST_COMPARED:
        joined = _near_groups([plain[each] for each in distinct], near)
        leader: dict[int, int] = {}
        of_place = {
            place: leader.setdefault(int(group), place) for place, group in zip(distinct, joined, strict=True)
        }
        groups = [of_place.get(each, each) for each in groups]
    return np.unique(groups, return_inverse=True)[1].tolist() if groups else []


def _near_groups(texts: list[str], near: float) -> np.ndarray:
    """The number of each text's group, shape (n,); the texts are all different, and not empty."""
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pieces = _pieces(texts)
    sizes = np.diff(pieces.indptr)
    groups, edges = np.arange(len(texts)), np.zeros((2, 0), dtype=np.int64)
    for left, right in _candidates(pieces, sizes, near):
        while len(left):
            apart = groups[left] != groups[right]  # two texts of one group need no comparison any more
            left, right = left[apart], right[apart]
            a, b = left[:PAIRS_AT_A_TIME], right[:PAIRS_AT_A_TIME]
            shared = np.asarray(pieces[a].multiply(pieces[b]).sum(axis=1)).ravel()
            close = shared >= near * (sizes[a] + sizes[b] - shared)
            if close.any():
                edges = np.concatenate([edges, [a[close], b[close]]], axis=1)
                graph = coo_matrix((np.ones(edges.shape[1]), edges), shape=(len(texts), len(texts)))
                groups = connected_components(graph, directed=False)[1]
            left, right = left[PAIRS_AT_A_TIME:], right[PAIRS_AT_A_TIME:]
    return groups


def _pieces(texts: list[str]) -> csr_matrix:
    """Which pieces each text has: (texts, pieces) of ones, the pieces in each row from the rarest to the most frequent."""
    import numpy as np
    from scipy.sparse import csr_matrix

    codes = [
        np.frombuffer(each[:LONGEST].ljust(PIECE).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        for each in texts
    ]
    alphabet = np.unique(np.concatenate([np.unique(each) for each in codes]))
    base = np.uint64(len(alphabet))  # up to 6,208 different characters no two pieces have one number
    rows = []
    for each in codes:
        numbers = np.searchsorted(alphabet, each).astype(np.uint64)
        pieces = np.zeros(len(numbers) - PIECE + 1, dtype=np.uint64)
        for place in range(PIECE):
            pieces = pieces * base + numbers[place : len(numbers) - PIECE + 1 + place]
        rows.append(np.unique(pieces))
    ends = np.cumsum([0, *map(len, rows)])
    _, columns, counts = np.unique(np.concatenate(rows), return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int32)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts), dtype=np.int32)
    found = csr_matrix(
        (np.ones(len(columns), dtype=np.int32), rank[columns], ends), shape=(len(texts), len(counts))
    )
    found.sort_indices()
    return found


def _candidates(
    pieces: csr_matrix, sizes: np.ndarray, near: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (a, b), a < b, that may be near: they share a piece among their rarest, and are of like size.

    Some hundred texts at a time, each with all that follow; those that share most come first.
    """
    import numpy as np
    from scipy.sparse import csr_matrix

    kept = sizes - np.ceil(near * sizes - 1e-9).astype(np.int64) + 1
    ends = np.concatenate([[0], np.cumsum(kept)])
    places = np.repeat(pieces.indptr[:-1] - ends[:-1], kept) + np.arange(ends[-1])
    columns = pieces.indices[places]
    rarest = csr_matrix((np.ones(len(columns), dtype=np.int32), columns, ends), shape=pieces.shape)
    for start in range(0, len(sizes), BLOCK):
        pairs = (rarest[start : start + BLOCK] @ rarest[start:].T).tocoo()
        a, b = pairs.row.astype(np.int64) + start, pairs.col.astype(np.int64) + start
        alike = np.minimum(sizes[a], sizes[b]) >= near * np.maximum(sizes[a], sizes[b]) - 1e-9
        wanted = (a < b) & alike
        order = np.argsort(-pairs.data[wanted], kind="stable")
        yield a[wanted][order], b[wanted][order]
