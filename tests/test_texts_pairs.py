"""Instruction pairs: read, checked, masked. Personal data is found by pattern and check digit, and nothing else is."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lessonkit.cli import app
from lessonkit.errors import DataError, UnknownNameError
from lessonkit.samples import sample_file
from lessonkit.texts import UnusableError, check_pairs, find_personal, mask_personal
from lessonkit.texts.pairs import CURES

PAIRS = [
    (f"How many legs have {n} cats and a dog?", f"They have {4 * n + 4} legs in all.") for n in range(1, 31)
]


def as_lines(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in pairs) + "\n"


# ---- Personal data --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "write to jo.do+news@mail.example.org today"),
        ("link", "see https://example.org/a?b=c for more"),
        ("iban", "pay to DE89 3704 0044 0532 0130 00 please"),
        ("iban", "pay to GB82WEST12345698765432 please"),
        ("card", "card 4111 1111 1111 1111 was charged"),
        ("card", "card 5500-0000-0000-0004 was charged"),
        ("ip", "came from 192.0.2.44 at night"),
        ("phone", "call +44 20 7946 0958 now"),
        ("phone", "call (030) 123 456 78 now"),
        ("phone", "call 0170/1234567 now"),
        ("social security number", "his is 123-45-6789 he says"),
        ("handle", "thanks @some_body for that"),
    ],
)
def test_each_kind_is_found_and_masked(kind: str, text: str):
    found = find_personal(text)
    assert [each.kind for each in found] == [kind]
    masked, counts = mask_personal(text)
    assert counts == {kind: 1}
    assert f"[{kind}]" in masked
    assert found[0].found not in masked
    assert mask_personal(masked) == (masked, {})  # masking twice is masking once
    assert text[: found[0].start] == masked[: found[0].start]


@pytest.mark.parametrize(
    "text",
    [
        "on 2024-05-17 at 10:30",
        "on 17.05.2024",
        "it costs 12,345.67 or 1 000 000",
        "order 4111 1111 1111 1112 is no card, its check digit is wrong",
        "DE89 3704 0044 0532 0130 01 is no IBAN, nor is it a number to call: 12345",
        "version 1.2.3.400 and 3.14159",
        "a@b is no address, nor is user @ home",
        "chapters 1-2-3, pages 12-15",
    ],
)
def test_what_only_looks_alike_is_left(text: str):
    assert [each for each in find_personal(text) if each.kind not in ("phone",)] == []
    if "DE89" not in text and "4111" not in text:
        assert mask_personal(text)[0] == text


def test_places_do_not_overlap_and_say_what_stands_there():
    draw = random.Random(0)
    parts = [
        "jo@example.org",
        "4111 1111 1111 1111",
        "+44 20 7946 0958",
        "plain words",
        "https://example.org/x",
        "@jo",
    ]
    for _ in range(50):
        text = " and ".join(draw.choices(parts, k=6))
        found = find_personal(text)
        assert all(text[each.start : each.end] == each.found for each in found)
        assert all(a.end <= b.start for a, b in itertools.pairwise(found))


# ---- Pairs ----------------------------------------------------------------------------------------------


def test_pairs_are_read_from_many_shapes(tmp_path: Path):
    chats = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": p},
                {"role": "assistant", "content": a},
            ]
        }
        for p, a in PAIRS
    ]
    shapes = {
        "a.jsonl": as_lines(PAIRS),
        "b.json": json.dumps([{"instruction": p, "output": a} for p, a in PAIRS]),
        "c.csv": "Question,Answer\n" + "\n".join(f'"{p}","{a}"' for p, a in PAIRS),
        "d.jsonl": "\n".join(map(json.dumps, chats)),
    }
    for name, text in shapes.items():
        (tmp_path / name).write_text(text)
        report = check_pairs(tmp_path / name)
        assert report.ok, f"{name}: {report}"
        assert list(zip(report.prompts, report.answers, strict=True)) == PAIRS, name


@pytest.mark.parametrize(
    ("name", "pair", "cured"),
    [
        ("empty", ("What?", ""), None),
        ("letters", ("cafÃ© or tea?", "tea\u200b "), ("café or tea?", "tea")),
        ("personal data", ("Who is it?", "ask jo@example.org"), ("Who is it?", "ask [email]")),
        ("placeholders", ("Why?", "TODO write this"), None),
        ("echoes", ("Say it again!", "say it again"), None),
        ("loops", ("Sing!", "la la la la la la la la ha"), None),
        ("duplicates", (PAIRS[3][0].upper(), PAIRS[3][1]), None),
    ],
)
def test_dirt_is_found_and_cured(name: str, pair: tuple[str, str], cured: tuple[str, str] | None):
    report = check_pairs(as_lines([*PAIRS, pair]))
    found = report.finding(name)
    assert found is not None, str(report)
    assert found.rows == (len(PAIRS),)
    assert f"line {len(PAIRS) + 1}" in str(report)
    dataset, steps = report.cure()
    rows = list(zip(dataset["prompt"], dataset["answer"], strict=True))
    assert rows == [*PAIRS, *([cured] if cured else [])]
    assert len(steps) == 1
    kept, _ = report.cure(but=name)
    assert (kept["prompt"][-1], kept["answer"][-1]) == pair


def test_clean_pairs_have_no_findings_that_need_a_cure():
    report = check_pairs(as_lines(PAIRS))
    assert [each for each in report.findings if each.level != "note"] == []


def test_two_answers_to_one_question_are_only_suggested():
    report = check_pairs(as_lines([*PAIRS, (PAIRS[0][0], "Another answer.")]))
    assert report.finding("two answers").rows == (0, len(PAIRS))
    assert len(report.cure()[0]) == len(PAIRS) + 1
    assert len(report.cure("two answers")[0]) == len(PAIRS)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing.jsonl", "There is no missing.jsonl"),
        ("a,b\n1,2\n", "No column can be the prompt"),
        (as_lines(PAIRS[:2]), "a few dozen"),
        ('{"messages": [{"role": "user", "content": "hi"}]}\n', "No record holds"),
    ],
)
def test_what_is_no_set_of_pairs_is_told(source: str, said: str):
    report = check_pairs(source)
    assert not report.ok
    assert said in str(report)


def test_wrong_names_are_told():
    report = check_pairs(as_lines(PAIRS))
    with pytest.raises(UnknownNameError, match="personal data"):
        report.cure("personal dat")
    assert "no column called 'promt'" in str(check_pairs(as_lines(PAIRS), prompt="promt"))
    with pytest.raises(DataError, match="No pair is left"):
        check_pairs(as_lines([("x", " ")] * 20)).cure()


# ---- What other files look like, and what a report gives ------------------------------------------------


def test_two_columns_with_other_names_are_taken_in_their_order_and_that_is_told():
    report = check_pairs("wish,line\n" + "\n".join(f'"{p}","{a}"' for p, a in PAIRS))
    assert report.ok
    assert list(zip(report.prompts, report.answers, strict=True)) == PAIRS
    assert "'wish', was taken as the question" in str(report)
    swapped = check_pairs(
        "wish,line\n" + "\n".join(f'"{p}","{a}"' for p, a in PAIRS), prompt="line", answer="wish"
    )
    assert (swapped.prompts[0], swapped.answers[0]) == PAIRS[0][::-1]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("id,wish,line\n" + "1,a b,c d\n" * 20, "No column can be the prompt"),  # which two of three?
        ("wish,number\n" + "a b,1\n" * 20, "No column can be the prompt"),
        ("question,line\n" + "a b,c d\n" * 20, "No column can be the answer"),
    ],
)
def test_columns_are_not_guessed_where_a_guess_could_be_wrong(source: str, said: str):
    assert said in str(check_pairs(source))


def test_one_column_is_not_question_and_answer():
    report = check_pairs(as_lines(PAIRS), prompt="prompt", answer="prompt")
    assert "can't be question and answer" in str(report)


def test_an_input_stays_with_its_instruction():
    rows = [{"instruction": "Translate.", "input": f"word {n}", "output": f"Wort {n}"} for n in range(20)]
    rows.append({"instruction": "Say hello.", "input": "", "output": "Hello."})
    report = check_pairs("\n".join(map(json.dumps, rows)))
    assert report.prompts[0] == "Translate.\nword 0"
    assert report.prompts[-1] == "Say hello."
    assert report.finding("two answers") is None
    assert "'input' was put behind 'instruction'" in str(report)
    assert (
        check_pairs("\n".join(map(json.dumps, rows)), prompt="input", answer="output").prompts[0] == "word 0"
    )


def test_examples_stand_with_their_lines():
    report = check_pairs(as_lines([*PAIRS, ("Why?", "TODO"), ("Who?", "tbd")]))
    assert report.examples("placeholders", most=1) == [(len(PAIRS) + 1, "Why?", "TODO")]
    with pytest.raises(UnknownNameError, match="placeholders"):
        report.examples("loops")


def test_what_is_no_training_set_stops_with_its_reason():
    check_pairs(as_lines(PAIRS)).check()
    for source, said in (
        (as_lines(PAIRS[:2]), "a few dozen"),
        ("missing.jsonl", "There is no missing.jsonl"),
    ):
        with pytest.raises(UnusableError, match=said):
            check_pairs(source).check()


def test_the_command_checks_pairs(tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text(as_lines([*PAIRS, ("Why?", "TODO")]))
    run = CliRunner().invoke
    told = run(app, ["check", str(tmp_path / "pairs.jsonl"), "--pairs"])
    assert (told.exit_code, "placeholders: 1 answers" in told.output) == (0, True)
    plain = json.loads(run(app, ["check", str(tmp_path / "pairs.jsonl"), "--pairs", "--json"]).stdout)
    assert (plain["ok"], plain["rows"], plain["columns"]["prompt"]) == (True, len(PAIRS) + 1, "prompt")
    assert plain["findings"][0]["lines"] == [len(PAIRS) + 1]
    wrong = run(app, ["check", str(tmp_path / "pairs.jsonl"), "--prompt", "promt"])
    assert (wrong.exit_code, "no column called 'promt'" in wrong.output) == (1, True)


def test_the_sample_has_dirt_of_every_kind_and_is_cured_of_it():
    report = check_pairs(sample_file("orders.jsonl"))
    assert {each.name for each in report.findings} == {*CURES, "near-duplicates"}
    assert len(report.table.set_aside) == 1
    cured, _ = report.cure("two answers")
    again = check_pairs(as_lines(list(zip(cured["prompt"], cured["answer"], strict=True))))
    assert {each.name for each in again.findings} <= {"near-duplicates"}
    assert len(cured) > 400
