"""Instruction pairs: read, checked, masked. Personal data is found by pattern and check digit, and nothing else is."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from lessonkit.errors import DataError, UnknownNameError
from lessonkit.texts import check_pairs, find_personal, mask_personal

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
