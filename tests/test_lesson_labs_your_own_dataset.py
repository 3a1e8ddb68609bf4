"""The lab runs to its end on tables that it has never seen, says plainly where it can't, and states true facts."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jupytext
import pandas
import pytest
from lesson_source import lesson_text

import lessonkit
from lessonkit.exercises import labs_your_own_dataset as facts
from lessonkit.texts import UnusableError
from lessonkit.texts.duplicates import duplicate_groups

LESSON = "labs/your-own-dataset"
SLOW = ("lessonkit.fit_panel(", "XLMRobertaConfig(")  # predictions of memory; tested elsewhere
CELLS = jupytext.reads(lesson_text(LESSON), fmt="py:percent").cells

# PEFT 0.21 asks transformers 5 by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def code_cells() -> list[str]:
    code = [cell.source for cell in CELLS if cell.cell_type == "code"]
    return [each for each in code if not any(slow in each for slow in SLOW)]


@pytest.fixture(scope="module")
def encoder(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without a head, as pre-trained encoders come."""
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("encoder")
    BertForSequenceClassification.from_pretrained(tiny.folder).bert.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def through(encoder, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], dict[str, Any]]:
    """Run all of the lesson's cells on a table, at smoke scale, with the tiny model; what a learner has then."""
    monkeypatch.setenv("LESSONKIT_SCALE", "smoke")

    def run(source: Any) -> dict[str, Any]:
        import matplotlib.pyplot as plt

        names: dict[str, Any] = {"__name__": "__main__", "given": source}
        for cell in code_cells():
            cell = re.sub(r"^SOURCE = .*", "SOURCE = given", cell, flags=re.MULTILINE)
            cell = re.sub(r"^MODEL = .*", f"MODEL = {str(encoder)!r}", cell, flags=re.MULTILINE)
            exec(compile(cell, "cell", "exec"), names)
            plt.close("all")
        return names

    return run


def texts_of(label: int, count: int, words: int = 9, alphabet: str = "abcdefghijklmnop") -> list[str]:
    draw = random.Random(label)
    own = ["".join(draw.choices(alphabet, k=6)) for _ in range(30)]
    return [" ".join(draw.choices(own, k=words)) + f" {number}" for number in range(count)]


def rows_of(labels: list[str], count: int, **how: Any) -> list[tuple[str, str]]:
    return [(text, label) for place, label in enumerate(labels) for text in texts_of(place, count, **how)]


def pasted(rows: list[tuple[str, str]], header: str = "text,label") -> str:
    return header + "\n" + "\n".join(f'"{text}",{label}' for text, label in rows)


def two_labels_of_twelve(folder: Path) -> Any:
    return pasted(rows_of(["yes", "no"], 12))


def fifty_labels(folder: Path) -> Any:
    path = folder / "many.tsv"
    rows = rows_of([f"label {each}" for each in range(50)], 12)
    path.write_text("utterance\tintent\n" + "\n".join("\t".join(row) for row in rows))
    return path


def a_workbook(folder: Path) -> Any:
    rows = [
        (place, "2024-05-01", label, text) for place, (text, label) in enumerate(rows_of(["a b", "c"], 15))
    ]
    pandas.DataFrame(rows, columns=["nr", "when", "which one", "what they wrote"]).to_excel(
        folder / "answers.xlsx", sheet_name="Table 1", index=False
    )
    return str(folder / "answers.xlsx")


def a_folder(folder: Path) -> Any:
    for text, label in rows_of(["praise", "complaint", "question"], 14):
        (folder / "letters" / label).mkdir(parents=True, exist_ok=True)
        (folder / "letters" / label / f"{text[-2:].strip()}.txt").write_text(text)
    return folder / "letters"


def cyrillic(folder: Path) -> Any:
    rows = rows_of(["спорт", "кухня"], 20, alphabet="абвгдежзиклмнопрст")
    (folder / "тексты.csv").write_bytes(pasted(rows, "текст,метка").encode("cp1251"))
    return folder / "тексты.csv"


def long_texts(folder: Path) -> Any:
    frame = pandas.DataFrame(rows_of(["one", "two", "three"], 16, words=700), columns=["body", "category"])
    frame.to_json(folder / "long.jsonl", orient="records", lines=True)
    return folder / "long.jsonl"


def rare_labels(folder: Path) -> Any:
    rows = [*rows_of(["often", "sometimes"], 30), ("all alone here", "once"), ("two of us", "twice")]
    return pasted([*rows, ("and another one of two", "twice"), *rows[:10]])


def whole_numbers(folder: Path) -> Any:
    frame = pandas.DataFrame(rows_of(["0", "1"], 20), columns=["sentence", "label"]).astype({"label": float})
    frame.loc[3, "label"] = None
    frame.to_parquet(folder / "numbers.parquet")
    return folder / "numbers.parquet"


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (two_labels_of_twelve, 2),
        (fifty_labels, 50),
        (a_workbook, 2),
        (a_folder, 3),
        (cyrillic, 2),
        (long_texts, 3),
        (rare_labels, 2),
        (whole_numbers, 2),
    ],
)
def test_it_runs_to_its_end_on_tables_that_it_has_never_seen(make, labels, through, tmp_path: Path, capsys):
    names = through(make(tmp_path))
    assert len(names["names"]) == labels
    split = names["split"]
    for part in split.values():
        assert set(part["label"]) == set(range(labels))
    together = duplicate_groups([*split["train"]["text"], *split["test"]["text"]])
    train, test = together[: len(split["train"])], together[len(split["train"]) :]
    assert not set(train) & set(test)
    assert list(names["answers"])[1:] == ["counting", "frozen model", "fine-tuned"]
    for predicted in names["answers"].values():
        assert len(predicted) == len(names["test_texts"]) == names["scores"].n
    assert (names["again"] == names["answers"]["fine-tuned"]).all()
    assert list(names["reloaded"].config.id2label.values()) == names["names"]
    assert all(len(ids) <= names["LONGEST"] for ids in names["train_dataset"]["input_ids"])
    assert "Smoke scale: every line ran" in capsys.readouterr().out


def test_the_sample_runs_and_exercise_four_is_what_its_text_says(through):
    names = through(lessonkit.sample_file("support-messages.csv"))
    told = next(cell.source for cell in CELLS if "half_model, run = train_model(half)" in cell.source)
    exec(re.search(r"```python\n(.*?)```", told, re.DOTALL).group(1), names)
    answer = eval(re.search(r"`(\{.*?\})`", told).group(1), names)
    for part in ("half", "check"):
        assert not set(answer[part]["text"]) & set(names["test_texts"]["text"])
    exercise = names["lesson"].exercise("half")
    assert "Measured, not judged" in exercise.judge(answer).message
    exercise.scale = "laptop"
    assert exercise.judge(answer | {"predicted": answer["check"]["label"]}).passed


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (pasted(rows_of(["good"], 40)), "needs two to tell apart"),
        (pasted(rows_of(["a", "b"], 4)), "too few to train on"),
        (pasted([(text, text) for text, _ in rows_of(["a"], 40)]), "40 different labels"),
        ("nowhere.csv", "There is no nowhere.csv"),
        ("\n".join(text for text, _ in rows_of(["a"], 40)), "No column can be the label"),
        (pasted([(f"text {n}", str(n)) for n in range(3)] * 10), "No row is left"),
    ],
)
def test_what_cannot_be_trained_on_ends_in_a_plain_message(source, said, through):
    with pytest.raises(UnusableError, match=re.escape(said)) as raised:
        through(source)
    shown = raised.value._render_traceback_()
    assert said in "\n".join(shown)
    assert shown[-1].startswith("Next: ")


def test_a_learner_changes_one_line():
    text = "\n".join(cell.source for cell in CELLS if cell.cell_type == "code")
    assert len(re.findall(r"\bSOURCE\b", text)) == 2  # where it is set, and where it is read
    assert "check_texts(SOURCE, tokenizer=tokenizer)" in text
    assert "support-messages" not in text.split("SOURCE = ", 1)[1].split("\n", 1)[1]


# ---- What is said of the sample ------------------------------------------------------------------------


def test_the_sample_has_the_dirt_that_the_text_tells_of():
    report = lessonkit.check_texts(lessonkit.sample_file("support-messages.csv"))
    assert "'biling'" in report.finding("label typos").said
    found = {each.name for each in report.findings}
    assert found >= {"duplicates", "near-duplicates", "contradictions", "empty texts", "wrong encoding"}
    cured = report.cure("label typos", "rare labels", fewest=4)
    cured.check()
    assert cured.dataset.features["label"].names == ["account", "billing", "delivery", "technical"]
    counts = Counter(cured.dataset["label"])
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_a_third_of_the_pairs_is_torn_apart():
    draw = random.Random(0)
    torn = [(draw.random() < 0.2) != (draw.random() < 0.2) for _ in range(20_000)]
    (pairs,) = (each for each in facts.exercises() if each.name == "pairs")
    assert 10 * sum(torn) / len(torn) == pytest.approx(pairs.reference, abs=0.15)


def test_chance_alone_makes_the_difference_of_exercise_three():
    """20 and 17 right of 24: can't tell, however the texts that only one got right lie."""
    for both in range(13, 18):
        right = [1] * both + [1] * (20 - both) + [0] * 4
        other = [1] * both + [0] * (20 - both) + [1] * (17 - both) + [0] * (4 - (17 - both))
        assert (sum(right), sum(other), len(right), len(other)) == (20, 17, 24, 24)
        found = lessonkit.compare_classifiers([1] * 24, right, other)
        assert found.verdict == "can't tell"


def test_a_table_of_one_s_own_is_judged_at_every_scale_by_its_rows(capsys):
    (own,) = (each for each in facts.exercises() if each.name == "your-own")
    assert "No column holds texts" in own.judge("a,b\n1,2\n3,4").message
    assert "not a list" in own.judge([("What a day", "good")]).message


def test_the_broken_tables_of_section_eleven_are_each_told(capsys):
    (cell,) = (each for each in code_cells() if "broken = {" in each)
    exec(cell, {"lessonkit": lessonkit})
    told = capsys.readouterr().out
    for said in (
        "my-textz.csv cannot be used",
        "needs two to tell apart",
        "No column can be the label",
        "amounts, not classes",
        "too few to train on",
    ):
        assert said in told
