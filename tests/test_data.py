"""Datasets are plain `datasets` objects, of the sizes and splits that the lessons quote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from lessonkit import data as module
from lessonkit.assets import assets
from lessonkit.data import load_dataset
from lessonkit.errors import DataError, UnknownNameError

ROOT = Path(__file__).resolve().parents[1]
SIZES = {  # train, test, classes
    "reuters-r8": (5485, 2189, 8),
    "reuters-r52": (6532, 2568, 52),
    "20newsgroups": (11293, 7528, 20),
    "bbc-news": (1761, 464, 5),
}


@cache
def loaded(name: str):
    return load_dataset(name)


def test_every_dataset_of_the_table_is_tested_here():
    assert {one.name for one in assets().values() if one.kind == "dataset"} == {*SIZES, "grimm-tales"}


@pytest.mark.parametrize("name", SIZES)
def test_classification_data_has_its_sizes_and_features(name: str):
    from datasets import ClassLabel, DatasetDict, Value

    splits = loaded(name)
    train, test, classes = SIZES[name]
    assert isinstance(splits, DatasetDict)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": train, "test": test}
    for rows in splits.values():
        assert rows.column_names == ["text", "label"]
        assert rows.features["text"] == Value("string")
        assert isinstance(rows.features["label"], ClassLabel)
        names = rows.features["label"].names
        assert len(names) == classes
        assert names == sorted(names)
        assert set(rows["label"]) == set(range(classes))  # each class stands in both splits
        assert all(text.strip() for text in rows["text"])


@pytest.mark.parametrize("name", [*SIZES, "grimm-tales"])
def test_loading_twice_gives_the_same(name: str):
    again = load_dataset(name)
    for split, rows in loaded(name).items():
        assert again[split].to_dict() == rows.to_dict()


def test_most_of_the_r8_test_split_is_earnings():
    test = loaded("reuters-r8")["test"]
    (label, count), *_ = Counter(test["label"]).most_common()
    assert test.features["label"].names[label] == "earn"
    assert count / len(test) == pytest.approx(0.495, abs=0.0005)


def test_r8_is_labelled_as_it_reads():
    rows = loaded("reuters-r8")["train"]
    for word, topic in (("barrels", "crude"), ("shr", "earn"), ("merger", "acq")):
        labels = Counter(row["label"] for row in rows if word in row["text"].split())
        assert rows.features["label"].int2str(labels.most_common(1)[0][0]) == topic


def test_bbc_has_no_text_on_both_sides():
    splits = loaded("bbc-news")
    assert set(splits["train"]["text"]).isdisjoint(splits["test"]["text"])
    assert len(splits["train"]) + len(splits["test"]) == 2225


def test_grimm_tales_are_whole_and_their_splits_disjoint():
    splits = loaded("grimm-tales")
    assert len(splits["train"]) == 41
    assert len(splits["test"]) == 13
    for column in ("title", "text"):
        assert set(splits["train"][column]).isdisjoint(splits["test"][column])
    for rows in splits.values():
        assert rows.column_names == ["title", "text", "topic"]
        assert min(map(len, rows["text"])) > 500
    assert "Hansel and Gretel" in {*splits["train"]["title"], *splits["test"]["title"]}


def test_held_out_share_is_about_a_fifth_and_never_changes():
    held_out = [module._held_out(f"text {number}") for number in range(5000)]
    assert sum(held_out) / 5000 == pytest.approx(51 / 256, abs=0.02)
    assert held_out == [module._held_out(f"text {number}") for number in range(5000)]


@pytest.mark.parametrize(
    ("typed", "meant"), [("reuters-r9", "reuters-r8"), ("bbc", "bbc-news"), ("grimm", "grimm-tales")]
)
def test_unknown_dataset_offers_the_nearest(typed: str, meant: str):
    with pytest.raises(UnknownNameError) as caught:
        load_dataset(typed)
    assert meant in caught.value.nearest
    assert "minilm" not in str(caught.value)


def test_model_is_no_dataset():
    with pytest.raises(UnknownNameError, match="no dataset called 'minilm'"):
        load_dataset("minilm")


def write_tab(folder: Path, *rows: str) -> Path:
    path = folder / "sample.tab"
    path.write_text("\n".join(["Category\tText", "discrete\tstring", "class\tmeta", *rows]), encoding="utf-8")
    return path


def test_tab_rows_are_read_after_three_header_lines(tmp_path: Path):
    path = write_tab(tmp_path, "earn\tprofit rose", "", 'acq\t"one ""quoted"" text"', "")
    assert list(module._read_tab(path)) == [
        {"Category": "earn", "Text": "profit rose"},
        {"Category": "acq", "Text": 'one "quoted" text'},
    ]


def test_very_long_text_is_read_whole(tmp_path: Path):
    path = write_tab(tmp_path, "earn\t" + "word " * 50_000)
    assert len(next(module._read_tab(path))["Text"]) == 250_000


@pytest.mark.parametrize("row", ["earn", "earn\tone\ttwo"])
def test_ragged_row_is_told(tmp_path: Path, row: str):
    with pytest.raises(DataError, match=r"sample\.tab has a row of [13] columns where 2 belong") as caught:
        list(module._read_tab(write_tab(tmp_path, "acq\tfine", row)))
    assert "lessonkit fetch" in caught.value.fix


def test_line_separators_inside_a_text_do_not_break_it(tmp_path: Path):
    row = {"path": "a/1.txt", "label": "a", "text": "one\u2028two\u0085three"}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    splits = module._bbc_news(tmp_path)
    assert [*splits["train"]["text"], *splits["test"]["text"]] == ["one\u2028two\u0085three"]


OFFLINE = """
import sys
asked = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append((event, str(arguments[1:])))
        raise OSError("the network is blocked")
sys.addaudithook(watch)
import lessonkit
model = lessonkit.load_model("minilm")
tokenizer = lessonkit.load_tokenizer("smollm2")
text = tokenizer.decode(tokenizer.encode("Profits"))
rows = lessonkit.load_dataset("reuters-r8")
print(type(model).__name__, text, len(rows["test"]), asked)
"""


def test_models_and_data_load_with_the_network_blocked():
    environ = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        capture_output=True,
        text=True,
        env=environ | {"PYTHONPATH": path},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=3) == ["BertModel", "Profits", "2189", "[]\n"]  # nothing even tried
