"""Near-duplicates are found, and no split of texts has one text, or nearly, on both sides."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonkit.errors import DataError
from lessonkit.texts import split_texts
from lessonkit.texts.duplicates import duplicate_groups, same

DRAW = random.Random(1)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def text(words: int = 30) -> str:
    return " ".join("".join(DRAW.choices(LETTERS, k=6)) for _ in range(words))


def dataset(labels: list[int], texts: list[str] | None = None) -> Dataset:
    features = Features(text=Value("string"), label=ClassLabel(num_classes=max(labels) + 1))
    return Dataset.from_dict({"text": texts or [text() for _ in labels], "label": labels}, features=features)


def jaccard(a: str, b: str) -> float:
    one, other = ({each[at : at + 5] for at in range(len(each) - 4)} for each in (same(a), same(b)))
    return len(one & other) / len(one | other)


def test_groups_are_what_the_jaccard_index_says():
    base = [text(12) for _ in range(20)]
    texts = [
        *base,
        *(
            each[: int(len(each) * share)]
            for each, share in zip(base, [0.95, 0.85, 0.7, 0.5] * 5, strict=True)
        ),
    ]
    groups = duplicate_groups(texts)
    for number, each in enumerate(base):
        other = number + len(base)
        assert (groups[number] == groups[other]) == (jaccard(each, texts[other]) >= 0.8)
    assert len({groups[number] for number in range(len(base))}) == len(base)


def test_case_signs_and_spaces_make_no_other_text():
    assert len(set(duplicate_groups(["Hello, World!", "hello world", " HELLO -- WORLD "]))) == 1
    assert len(set(duplicate_groups(["", "", "  "]))) == 3  # nothing is like nothing
    assert duplicate_groups([]) == []


def test_chains_are_one_group():
    words = text(40).split()
    chain = [" ".join(words[start : start + 30]) for start in range(0, 8, 2)]
    assert jaccard(chain[0], chain[1]) >= 0.8 > jaccard(chain[0], chain[3])
    assert len(set(duplicate_groups(chain))) == 1


def test_no_near_duplicate_stands_on_both_sides():
    base = [text() for _ in range(60)]
    texts = base + [f"{each} indeed" for each in base[:30]] + base[:10]
    labels = (
        [number % 3 for number in range(60)]
        + [number % 3 for number in range(30)]
        + [number % 3 for number in range(10)]
    )
    for seed in range(5):
        parts = split_texts(dataset(labels, texts), test=0.2, validation=0.1, seed=seed)
        groups = dict(zip(texts, duplicate_groups(texts), strict=True))
        sides = [{groups[each] for each in part["text"]} for part in parts.values()]
        assert not set.union(*(a & b for a, b in itertools.combinations(sides, 2)))
        assert sum(len(part) for part in parts.values()) == len(texts)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(6, 60), min_size=2, max_size=5),
    test=st.sampled_from([0.1, 0.2, 0.3, 0.5]),
    seed=st.integers(0, 5),
)
def test_shares_and_classes_are_kept(sizes: list[int], test: float, seed: int):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    parts = split_texts(dataset(labels), test=test, seed=seed)
    assert abs(len(parts["test"]) - test * len(labels)) <= max(2 * len(sizes), 0.1 * len(labels))
    counts = {name: Counter(part["label"]) for name, part in parts.items()}
    for label in range(len(sizes)):
        assert counts["train"][label]
        assert counts["test"][label] or sizes[label] * test < 1
    again = split_texts(dataset(labels, None), test=test, seed=seed)
    assert {name: len(part) for name, part in again.items()} == {
        name: len(part) for name, part in parts.items()
    }


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    rows = dataset([number % 3 for number in range(90)])
    first, again, other = (split_texts(rows, seed=seed)["test"]["text"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        ([0, 1] * 20, {"test": 0.0}, "Nothing would be left"),
        ([0, 1] * 20, {"test": 1.5}, "no share"),
        ([0, 1] * 20, {"test": 0.6, "validation": 0.5}, "Nothing would be left"),
        ([0, 1] * 20, {"text": "words"}, "no column 'words'"),
        ([0, 1], {}, "2 different texts"),
        ([0] * 20 + [1], {}, "a single text"),
    ],
)
def test_what_cannot_be_split_is_told(labels, options, said):
    with pytest.raises(DataError, match=said):
        split_texts(dataset(labels), **options)


def test_texts_without_labels_are_split_too():
    rows = dataset([0, 1] * 30).remove_columns("label")
    assert len(split_texts(rows, test=0.2)["test"]) == 12


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_the_fast_way_to_a_plain_form_is_the_plain_way(text: str):
    assert same(text) == re.sub(r"[\W_]+", " ", text.casefold()).strip()


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab ", min_size=1, max_size=24), max_size=14),
    near=st.sampled_from([0.3, 0.5, 0.8, 0.9, 1.0]),
)
def test_no_near_pair_is_missed_and_none_is_made_up(texts: list[str], near: float):
    """Against all pairs, compared one by one; few letters, so that many lie near the threshold."""
    plain = [same(each) for each in texts]
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    def pieces(each: str) -> set[str]:
        each = each.ljust(5)
        return {each[at : at + 5] for at in range(len(each) - 4)}

    for a, b in itertools.combinations(range(len(texts)), 2):
        one, other = pieces(plain[a]), pieces(plain[b])
        if plain[a] and plain[b] and len(one & other) >= near * len(one | other):
            parent[root(b)] = root(a)
    wanted = [root(place) for place in range(len(texts))]
    found = duplicate_groups(texts, near)
    assert [found.index(each) for each in found] == [wanted.index(each) for each in wanted]


def test_many_texts_of_one_pattern_are_one_group_and_soon_found():
    pattern = text(60)
    texts = [f"{pattern} {number}" for number in range(3000)]
    assert len(set(duplicate_groups([*texts, text(60)]))) == 2


def test_letters_of_any_script_and_length_are_compared():
    many = "".join(chr(0x4E00 + number) for number in range(40))
    texts = [many, many + "x", many[::-1], "é", "\ud800 alone", "a" * 9000, "a" * 9001, "😀", "😀"]
    groups = duplicate_groups(texts)
    assert groups[0] == groups[1]
    assert groups[5] == groups[6]  # as far as they are read
    assert len(set(groups)) == 7  # signs alone are like nothing
