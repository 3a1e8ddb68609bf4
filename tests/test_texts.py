"""Files of a learner's own: read whatever they are, told what is wrong with them, and never touched."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path

import pandas
import pytest

from lessonkit.errors import DataError, UnknownNameError
from lessonkit.texts import UnusableError, check_texts, read_table

WORDS = (
    "film food match goal sauce actor plot team salt the was great poor really onion ball screen oven".split()  # noqa: SIM905
)
LABELS = ("cooking", "movies", "sport")


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label) rows; the texts are all different."""
    draw = random.Random(seed)
    return [
        (f"{' '.join(draw.choices(WORDS, k=draw.randint(8, 25)))} {number}", LABELS[number % 3])
        for number in range(count)
    ]


ROWS = sentences(60)


def as_csv(rows: list[tuple[str, ...]], header: str = "text,label", delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return (header + "\n" if header else "") + out.getvalue()


@pytest.fixture
def write(tmp_path: Path):
    def written(name: str, data: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return written


def excel(path: Path, **sheets: list[tuple]) -> Path:
    with pandas.ExcelWriter(path) as book:
        for name, rows in sheets.items():
            pandas.DataFrame(rows[1:], columns=rows[0]).to_excel(book, sheet_name=name, index=False)
    return path


# ---- What is whole is read alike, whatever it is written in ---------------------------------------------


def formats(write, tmp_path: Path) -> dict[str, Path | str]:
    text = as_csv(ROWS)
    records = [{"text": a, "label": b} for a, b in ROWS]
    pandas.DataFrame(records).to_parquet(tmp_path / "a.parquet")
    for number, (words, label) in enumerate(ROWS):
        (tmp_path / "folder" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / label / f"{number:02}.txt").write_text(words)
    return {
        "csv": write("a.csv", text),
        "no name tells": write("a.dat", text),
        "tsv": write("a.tsv", as_csv(ROWS, "text\tlabel", "\t")),
        "semicolons": write("semi.csv", as_csv(ROWS, "text;label", ";")),
        "bars": write("bars.txt", as_csv(ROWS, "text|label", "|")),
        "no header": write("none.csv", as_csv(ROWS, "")),
        "old line ends": write("cr.csv", text.replace("\n", "\r")),
        "windows line ends": write("crlf.csv", text.replace("\n", "\r\n")),
        "marked utf-8": write("bom.csv", text.encode("utf-8-sig")),
        "utf-16": write("u16.csv", text.encode("utf-16")),
        "utf-16 without a mark": write("u16le.csv", text.encode("utf-16-le")),
        "json lines": write("a.jsonl", "\n".join(map(json.dumps, records))),
        "json list": write("a.json", json.dumps(records)),
        "json with a list inside": write("b.json", json.dumps({"version": 1, "data": records})),
        "json of columns": write(
            "c.json", json.dumps({"text": [a for a, _ in ROWS], "label": [b for _, b in ROWS]})
        ),
        "parquet": tmp_path / "a.parquet",
        "excel": excel(tmp_path / "a.xlsx", first=[("text", "label"), *ROWS]),
        "folder": tmp_path / "folder",
        "pasted": text,
    }


def test_every_format_gives_the_same_rows(write, tmp_path: Path):
    for name, source in formats(write, tmp_path).items():
        report = check_texts(source)
        assert report.ok, f"{name}: {report}"
        assert sorted(zip(report.texts, report.labels, strict=True)) == sorted(ROWS), name
        assert str(report).endswith("Nothing was found to be wrong."), f"{name}: {report}"


# ---- What cannot be used is said plainly, by a report, and without an exception ---------------------------


def broken(write, tmp_path: Path) -> dict[str, tuple[object, str]]:
    """(source, what the report must say)."""
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("a.csv", "x")
    with zipfile.ZipFile(tmp_path / "letter.docx", "w") as archive:
        archive.writestr("word/document.xml", "x")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "holds a table").mkdir()
    write("holds a table/texts.csv", as_csv(ROWS))
    os.mkfifo(tmp_path / "pipe") if hasattr(os, "mkfifo") else (tmp_path / "pipe").touch()
    numbers = [(str(a), str(a / 7)) for a in range(60)]
    decimals = [(words, f"{number / 7:.3f}") for number, (words, _) in enumerate(ROWS)]
    return {
        "no such file": (tmp_path / "textss.csv", "There is no textss.csv"),
        "an empty name": ("  ", "name is empty"),
        "no name": (None, "not NoneType"),
        "an address": ("https://example.org/a.csv", "nothing is downloaded"),
        "a name too long": ("a" * 5000, "no file's name"),
        "no bytes": (write("empty.csv", b""), "is empty"),
        "only line ends": (write("blank.csv", "\n\n  \n"), "nothing in it"),
        "a header alone": (write("header.csv", "text,label\n"), "no rows"),
        "random bytes": (write("noise.csv", random.Random(0).randbytes(4000)), "not text"),
        "a pdf": (write("a.pdf", b"%PDF-1.7 ..."), "PDF"),
        "an old workbook": (write("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1"), "old Office"),
        "gzip": (write("a.csv.gz", b"\x1f\x8b\x08\x00"), "unpack"),
        "a picture": (write("a.png", b"\x89PNG\r\n\x1a\n"), "picture"),
        "a pickle": (write("a.pkl", pickle.dumps(ROWS, protocol=4)), "can run code"),
        "a database": (write("a.db", b"SQLite format 3\x00"), "export the table"),
        "a web page": (write("page.csv", "<!DOCTYPE html>\n<html><body>texts</body></html>"), "web page"),
        "an archive": (tmp_path / "archive.zip", "zip archive"),
        "a letter": (tmp_path / "letter.docx", "Word document"),
        "a broken workbook": (write("broken.xlsx", b"PK\x03\x04 and no more"), "begins like a workbook"),
        "an empty workbook": (excel(tmp_path / "e.xlsx", only=[("text", "label")]), "no rows on any sheet"),
        "a broken parquet": (write("broken.parquet", b"PAR1 and no more"), "begins like Parquet"),
        "an empty folder": (tmp_path / "nothing", "no .txt file"),
        "a folder with a table": (tmp_path / "holds a table", "'texts.csv'"),
        "neither file nor folder": (
            tmp_path / "pipe",
            "neither a file nor a folder" if hasattr(os, "mkfifo") else "empty",
        ),
        "numbers only": (write("numbers.csv", as_csv(numbers, "a,b")), "No column holds texts"),
        "ragged throughout": (
            write("rag.csv", "text,label\n" + "\n".join("x," * (n % 7) + "y" for n in range(60))),
            "differ",
        ),
        "one class": (write("one.csv", as_csv([(a, "same") for a, _ in ROWS])), "needs two to tell apart"),
        "amounts": (write("amounts.csv", as_csv(decimals, "text,score")), "amounts, not classes"),
        "a label for each text": (
            write("ids.csv", as_csv([(a, f"id{n}") for n, (a, _) in enumerate(ROWS)])),
            "60 different labels",
        ),
        "texts alone": (write("alone.txt", "\n".join(a for a, _ in ROWS)), "No column can be the label"),
        "too few": (write("few.csv", as_csv(ROWS[:3])), "too few to train on"),
        "all empty": (write("hollow.csv", as_csv([("", b) for _, b in ROWS])), "60 texts are empty"),
        "deeply nested json": (write("deep.json", "[" * 100_000), "too few"),
    }


def test_what_is_broken_is_reported_and_left_as_it_is(write, tmp_path: Path):
    cases = broken(write, tmp_path)
    assert len(cases) >= 25

    def prints() -> dict[Path, str]:
        files = (each for each in sorted(tmp_path.rglob("*")) if each.is_file())
        return {each: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}

    before = prints()
    for name, (source, said) in cases.items():
        report = check_texts(source)
        assert not report.ok, name
        assert said in str(report), f"{name}: {report}"
        assert "Traceback" not in str(report)
        json.dumps(report.to_dict())
    assert prints() == before


def test_what_gave_no_texts_has_none(tmp_path: Path):
    report = check_texts(tmp_path / "missing.csv")
    for use in (lambda: report.texts, report.cure, lambda: report.labels):
        with pytest.raises(DataError, match="gave no texts"):
            use()


# ---- What can be mended is found, with its lines, and mended ---------------------------------------------


def dirty(name: str) -> tuple[str, str, list[tuple[str, str]]]:
    """(file, the finding's name, the rows that remain) for one kind of dirt in otherwise clean rows."""
    (text, label), rest = ROWS[0], ROWS[1:]
    upper = "text,label\n"
    cases = {
        "html": (
            as_csv([(f"<p>{text} &amp; more</p>", label), *rest]),
            "HTML",
            [(f"{text} & more", label), *rest],
        ),
        "mojibake": (
            as_csv([(f"cafÃ© {text}", label), *rest]),
            "wrong encoding",
            [(f"café {text}", label), *rest],
        ),
        "controls": (
            as_csv([(f"a\u200b{text}\x07", label), *rest]),
            "control characters",
            [(f"a{text}", label), *rest],
        ),
        "spaces": (as_csv([(f"  {text}    end ", label), *rest]), "spaces", [(f"{text} end", label), *rest]),
        "empty": (as_csv([("", label), *rest]), "empty texts", rest),
        "null": (as_csv([("NULL", label), *rest]), "empty texts", rest),
        "no label": (as_csv([(text, "NaN"), *rest]), "missing labels", rest),
        "twice": (as_csv([*ROWS, (text.upper() + "!", label)]), "duplicates", ROWS),
        "contradiction": (as_csv([*ROWS, (text, "sport")]), "contradictions", rest),
        "label case": (as_csv([(text, f" {label.upper()} "), *rest]), "label spelling", ROWS),
        "whole numbers": (
            upper
            + "".join(f"{a},{LABELS.index(b)}{'.0' if n == 0 else ''}\n" for n, (a, b) in enumerate(ROWS)),
            "label spelling",
            [(a, str(LABELS.index(b))) for a, b in ROWS],
        ),
    }
    return cases[name]


@pytest.mark.parametrize(
    "name",
    [
        "html",
        "mojibake",
        "controls",
        "spaces",
        "empty",
        "null",
        "no label",
        "twice",
        "contradiction",
        "label case",
        "whole numbers",
    ],
)
def test_dirt_is_found_and_cured(name: str, write):
    text, finding, wanted = dirty(name)
    report = check_texts(write("a.csv", text))
    found = report.finding(finding)
    assert found is not None, str(report)
    assert found.cure
    assert report.ok
    cured = report.cure()
    names = cured.dataset.features["label"].names
    rows = [(row["text"], names[row["label"]]) for row in cured.dataset]
    assert rows == wanted
    left = report.cure(but=finding)
    assert [row["text"] for row in left.dataset] != [a for a, _ in wanted] or left.dataset.features[
        "label"
    ].names != names


def test_curing_twice_is_curing_once(write):
    dirt = (
        [("<b>bold</b> " + a, b) for a, b in ROWS[:5]]
        + [(a + "  ", b.upper()) for a, b in ROWS[5:12]]
        + ROWS[10:]
    )
    once = check_texts(write("a.csv", as_csv(dirt))).cure()
    names = once.dataset.features["label"].names
    again = check_texts(write("b.csv", as_csv([(row["text"], names[row["label"]]) for row in once.dataset])))
    assert again.cure().dataset["text"] == once.dataset["text"]
    assert not [each for each in again.findings if each.cure and each.by_default]


def test_findings_name_the_lines_of_the_file(write):
    report = check_texts(write("a.csv", as_csv([*ROWS[:5], ("", "sport"), *ROWS[5:]])))
    assert report.examples("empty texts") == [(7, "", "sport")]
    assert "(line 7)" in str(report)
    with pytest.raises(UnknownNameError):
        report.examples("emty texts")


def test_what_is_only_suggested_is_done_when_asked(write):
    rows = [*ROWS, ("one more about salt", "cookng"), ("one of a kind", "chess")]
    report = check_texts(write("a.csv", as_csv(rows)))
    assert "'cookng' (1) for 'cooking'" in report.finding("label typos").said
    plain = report.cure().dataset.features["label"].names
    assert plain == ["chess", "cookng", *LABELS[:0], "cooking", "movies", "sport"] or set(plain) == {
        *LABELS,
        "cookng",
        "chess",
    }
    asked = report.cure("label typos", "rare labels").dataset
    assert asked.features["label"].names == list(LABELS)
    assert len(asked) == len(ROWS) + 1
    with pytest.raises(UnknownNameError, match="label typos"):
        report.cure("label tipos")


def test_classes_that_differ_by_a_number_are_no_typos(write):
    rows = [(a, f"level {n % 2 + 1}") for n, (a, _) in enumerate(ROWS)] + [("rare one", "level 3")]
    assert check_texts(write("a.csv", as_csv(rows))).finding("label typos") is None


def test_too_little_left_after_the_cures_is_said(write):
    report = check_texts(write("a.csv", as_csv([ROWS[0], ROWS[1]] * 10)))
    assert "too few to train on" in report.cure().warning


def test_imbalance_and_answers_in_the_question_are_noted(write):
    skewed = [(a, "sport" if n % 12 else "movies") for n, (a, _) in enumerate(sentences(120))]
    assert "macro-F1" in check_texts(write("a.csv", as_csv(skewed))).finding("imbalance").said
    telling = [(f"{a} {b}", b) for a, b in ROWS]
    assert check_texts(write("b.csv", as_csv(telling))).finding("label in the text") is not None
    assert check_texts(write("c.csv", as_csv(ROWS))).finding("label in the text") is None


class Counter:
    """A tokenizer that counts words."""

    model_max_length = 12

    def __call__(self, texts, verbose=True):
        return {"input_ids": [[0] * len(each.split()) for each in texts]}


def test_texts_longer_than_the_model_are_counted(write):
    report = check_texts(write("a.csv", as_csv(ROWS)), tokenizer=Counter())
    long = [number for number, (a, _) in enumerate(ROWS) if len(a.split()) > 12]
    assert report.finding("too long").rows == tuple(long)


# ---- Reading --------------------------------------------------------------------------------------------


def test_windows_text_is_read_as_such_and_told(write):
    rows = [(f"Müller aß süße Crêpes – für 5 € {a}", b) for a, b in ROWS]
    report = check_texts(write("a.csv", as_csv(rows).encode("cp1252")))
    assert list(zip(report.texts, report.labels, strict=True)) == rows
    assert "cp1252" in str(report)
    assert check_texts(write("b.csv", as_csv(rows).encode("cp1252")), encoding="utf-8").problem.startswith(
        "b.csv"
    )


def test_a_few_wrong_bytes_cost_no_row(write):
    data = as_csv([(f"é à ü {a}", b) for a, b in ROWS]).encode()
    report = check_texts(write("a.csv", data.replace(b"\xc3\xa0", b"\xff", 1)))
    assert len(report.texts) == len(ROWS)
    assert report.finding("lost letters").rows == (0,)
    assert "line" in str(report)


def test_an_unclosed_quotation_mark_swallows_nothing(write):
    rows = "\n".join(f"{a},{b}" for a, b in ROWS)
    report = check_texts(write("a.csv", f'text,label\n"never closed,sport\n{rows}'))
    assert len(report.texts) == len(ROWS) + 1
    assert "never closed" in str(report)


def test_quoted_line_breaks_and_separators_stay_in_the_text(write):
    rows = [("first line\nsecond, line; with | all", "sport"), *ROWS]
    report = check_texts(write("a.csv", as_csv(rows)))
    assert report.texts[0] == "first line\nsecond, line; with | all"
    assert report.table.lines[1] == 4


def test_commas_without_quotation_marks_are_mended_where_the_label_is_known(write):
    lines = "\n".join(f"{a},{b}" for a, b in ROWS)
    report = check_texts(
        write("a.csv", f"text,label\n{lines}\nwell, this, too,sport\nno, label, known,nowhere\nalone")
    )
    assert report.texts[-1] == "well, this, too"
    assert [(each.line, each.why[:15]) for each in report.table.set_aside] == [
        (63, "it has 4 fields"),
        (64, "it has 1 field "),
    ]


def test_broken_json_lines_are_set_aside(write):
    lines = [json.dumps({"text": a, "label": b}) for a, b in ROWS]
    report = check_texts(write("a.jsonl", "\n".join([*lines[:9], "{broken", *lines[9:], "[1, 2]", "3"])))
    assert len(report.texts) == len(ROWS)
    assert [each.line for each in report.table.set_aside] == [10, 62, 63]


def test_equal_column_names_are_told_apart_and_spare_ones_ignored(write):
    rows = [(str(n), a, b, "x") for n, (a, b) in enumerate(ROWS)]
    report = check_texts(write("a.csv", as_csv(rows, "id,text,label,label")))
    assert report.labels == [b for _, b in ROWS]
    assert "label (2)" in str(report)


def test_columns_are_found_by_what_stands_in_them(write):
    rows = [(str(n), "2024-01-01", b, a) for n, (a, b) in enumerate(ROWS)]
    report = check_texts(write("a.csv", as_csv(rows, "nr,when,which,what")))
    assert (report.columns.text, report.columns.label) == ("what", "which")
    named = check_texts(write("b.csv", as_csv(rows, "nr,when,which,what")), text="what", label="when")
    assert named.finding("one class") is not None
    for wrong in ({"text": "waht"}, {"label": "whichh"}, {"text": "what", "label": "what"}):
        assert check_texts(write("b.csv", as_csv(rows, "nr,when,which,what")), **wrong).problem


def test_of_several_sheets_the_first_full_one_is_read_and_another_can_be_named(tmp_path: Path):
    path = excel(
        tmp_path / "a.xlsx",
        notes=[("nothing",)],
        one=[("text", "label"), *ROWS],
        two=[("text", "label"), *ROWS[:20]],
    )
    assert len(check_texts(path).texts) == 60
    assert "'two'" in str(check_texts(path))
    assert len(check_texts(path, sheet="two").texts) == 20
    assert "no sheet 'three'" in str(check_texts(path, sheet="three"))


def test_a_large_file_is_read_to_a_limit_that_is_told(write, monkeypatch):
    monkeypatch.setattr("lessonkit.texts.files.MOST_BYTES", 3000)
    report = check_texts(write("a.csv", as_csv(ROWS)))
    assert 10 < len(report.texts) < 60
    assert report.texts == [a for a, _ in ROWS[: len(report.texts)]]  # no half row at the end
    assert "were read" in str(report)
    assert len(read_table(as_csv(ROWS), max_rows=7).frame) == 7


@pytest.mark.parametrize("seed", range(30))
def test_no_bytes_break_it(seed: int, write):
    """A clean file with random damage: a report, or a row set aside, and never an exception of another kind."""
    draw = random.Random(seed)
    data = bytearray(as_csv(ROWS).encode())
    for _ in range(draw.choice([1, 5, 50, 400])):
        at = draw.randrange(len(data))
        action = draw.randrange(3)
        if action == 0:
            data[at] = draw.randrange(256)
        elif action == 1:
            del data[at : at + draw.randrange(20)]
        else:
            data[at:at] = draw.choice([b'"', b",", b"\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"<p>"])
    report = check_texts(write("a.csv", bytes(data)))
    assert str(report)
    if report.ok:
        assert len(report.cure().dataset) <= len(report.texts)


# ---- What has no texts to train on, and what is large ---------------------------------------------------


def test_what_cannot_be_trained_on_is_said_without_a_traceback(write):
    from IPython.core.interactiveshell import InteractiveShell

    cured = check_texts(write("a.csv", as_csv([(a, "same") for a, _ in ROWS]))).cure()
    with pytest.raises(UnusableError, match="needs two to tell apart") as raised:
        cured.check()
    shown = raised.value._render_traceback_()  # what IPython shows in its own traceback's place
    assert shown == str(raised.value).splitlines()
    assert hasattr(InteractiveShell, "showtraceback")
    assert "Traceback" not in "".join(shown)
    check_texts(write("b.csv", as_csv(ROWS))).cure().check()


def test_how_many_texts_a_label_needs_can_be_said(write):
    rare = [(f"{words} of its own", label) for words, label in sentences(8, seed=3)]
    rows = [
        *ROWS,
        *[(a, "five") for a, _ in rare[:5]],
        (f"{ROWS[0][0]} and", "near"),
        (ROWS[0][0] + " an", "near"),
    ]
    report = check_texts(write("a.csv", as_csv(rows)))
    names = {
        fewest: report.cure("rare labels", fewest=fewest).dataset.features["label"].names
        for fewest in (1, 2, 5, 8)
    }
    assert names[1] == [*LABELS[:1], "five", *LABELS[1:2], "near", *LABELS[2:]]
    assert names[2] == names[5] == [*LABELS[:1], "five", *LABELS[1:]]  # two that are nearly one count as one
    assert names[8] == list(LABELS)


def test_a_line_of_json_may_hold_what_other_programs_take_for_a_line_break(write):
    rows = [(f"{a}\u2028and\x85more\x0c", b) for a, b in ROWS]
    lines = [json.dumps({"text": a, "label": b}, ensure_ascii=False) for a, b in rows]
    for end in ("\n", "\r\n", "\r"):
        report = check_texts(write("a.jsonl", end.join(lines)))
        assert report.texts == [a for a, _ in rows]
        assert report.table.lines == list(range(1, 61))


def test_each_text_is_brought_to_its_plain_form_once(write, monkeypatch):
    from lessonkit.texts import cures, duplicates, findings

    asked: list[str] = []

    def counted(text: str) -> str:
        asked.append(text)
        return duplicates.same(text)

    for module in (cures, findings):
        monkeypatch.setattr(module, "same", counted)
    report = check_texts(write("a.csv", as_csv([*ROWS, *ROWS[:9]])))
    assert len(asked) == len(ROWS) + 9
    report.cure("near-duplicates", "rare labels")
    assert len(asked) <= 2 * len(ROWS) + 9


def test_twenty_thousand_labels_are_not_compared_each_with_each(write, monkeypatch):
    from rapidfuzz import fuzz

    from lessonkit.texts.findings import similar_labels

    compared: list[str] = []

    def ratio(one: str, other: str) -> float:
        compared.append(one)
        return 0.0

    monkeypatch.setattr(fuzz, "ratio", ratio)
    counts = {f"label {number}": 1 for number in range(20_000)} | {"usual": 100, "other": 90}
    assert list(similar_labels(counts)) == []
    assert len(compared) == 2 * 20_000
