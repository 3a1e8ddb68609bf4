"""Exercises of labs/custom-dataset. None asks about the sample file: a learner may have put in another one already."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Attempt, Bar, Choice, Exercise, Function, Value, WrongAnswer, part

__all__ = ["exercises"]


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_patterns(), _rename(), _tampered(), _cut_off(), _few_pairs()]


def _patterns() -> Exercise:
    return Value(
        name="patterns",
        reference=2,
        also_right=("2", 2.0),
        because="The number in digits and the address with an @ have a pattern. Digits in words, `at` and `dot`, a street "
        "and an illness are plain words, like any others.",
        hints=(
            "It knows no language, only characters: digits, `@`, dots, `+`.",
            "Go through the six: which of them have digits in a row, or an `@`?",
            "One telephone number, one e-mail address. `12` is too short to be either.",
        ),
        wrong=(
            WrongAnswer(
                "spelled-out",
                4,
                "You counted those in words too. A pattern looks for digits and for `@`; `oh three oh` and `at` are words "
                "like others.",
            ),
            WrongAnswer(
                "house-number",
                3,
                "Which one is the third? `12 Mill Lane` has digits, but so has `12 pizzas`: no pattern tells them apart. "
                "Health has none at all.",
            ),
            WrongAnswer(
                "all",
                6,
                "You would find all six, as you know what they mean. A search for patterns knows characters only.",
            ),
            WrongAnswer(
                "one",
                1,
                "Two have a pattern: one has an `@`, the other many digits behind a `+`.",
            ),
        ),
    )


# ---- Another name, in both texts ---------------------------------------------------------------------


def _rename_reference(prompt, answer, old, new):
    pattern = re.compile(rf"\b{re.escape(old)}\b", re.IGNORECASE)
    return pattern.sub(new, prompt), pattern.sub(new, answer)


def _rename_by_pieces(prompt, answer, old, new):
    """The same without a pattern of the name: words and what stands between them."""

    def change(text):
        pieces = re.split(r"(\W+)", text)
        return "".join(new if each.lower() == old.lower() else each for each in pieces)

    return [change(prompt), change(answer)]


def _with_pattern(pattern: str, flags: int = 0) -> Any:
    def change(prompt, answer, old, new):
        found = re.compile(pattern.format(re.escape(old)), flags)
        return found.sub(new, prompt), found.sub(new, answer)

    return change


def _question_only(prompt, answer, old, new):
    return _rename_reference(prompt, answer, old, new)[0], answer


def _answer_only(prompt, answer, old, new):
    return prompt, _rename_reference(prompt, answer, old, new)[1]


def _once_each(prompt, answer, old, new):
    pattern = re.compile(rf"\b{re.escape(old)}\b", re.IGNORECASE)
    return pattern.sub(new, prompt, count=1), pattern.sub(new, answer, count=1)


def _lowered(prompt, answer, old, new):
    changed = _rename_reference(prompt.lower(), answer.lower(), old, new)
    return changed[0], changed[1]


def _rename() -> Exercise:
    return Function(
        name="rename",
        reference=_rename_reference,
        also_right=(_rename_by_pieces,),
        because="`\\b` is the border of a word, so `Adam` and `salad at` stay; the same name stands in question and answer "
        "afterwards, and what the model learns stays true: copy the name.",
        cases=(
            ("Two soups for Ada at noon", "dish=soup; name=Ada", "Ada", "Kim"),
            ("hey 1 salad at 7 pm - ada", "dish=salad; name=Ada", "Ada", "Noa"),
            ("Adam says: a curry for Ada, not for Adam", "dish=curry; name=Ada", "Ada", "Lou"),
            ("For Ada. Ada collects it, says ADA.", "name=Ada; note=call Ada", "Ada", "Kim"),
            ("One pizza for Ben", "dish=pizza; name=Ben", "Ada", "Kim"),
        ),
        source="import re\n\n"
        "def rename(prompt, answer, old, new):\n"
        '    pattern = re.compile(rf"\\b{re.escape(old)}\\b", re.IGNORECASE)\n'
        "    return pattern.sub(new, prompt), pattern.sub(new, answer)",
        hints=(
            "`prompt.replace(old, new)` is a start; but it changes `Adam` too, and leaves `ada`.",
            'In a regular expression `\\b` is the border of a word: `re.sub(rf"\\b{old}\\b", new, prompt)`.',
            "`flags=re.IGNORECASE` finds `ada` as well. The same for `answer`; return both.",
        ),
        wrong=(
            WrongAnswer(
                "replace",
                lambda prompt, answer, old, new: (prompt.replace(old, new), answer.replace(old, new)),
                "`replace` finds the letters anywhere: `Adam` becomes `Kimm`. And `ada`, as chats write it, stays. Look for "
                "whole words (`\\b`), in any capitals.",
            ),
            WrongAnswer(
                "any-capitals-anywhere",
                _with_pattern("{}", re.IGNORECASE),
                "Parts of other words are changed too: `Adam`. `\\b` before and after the name asks for a whole word.",
            ),
            WrongAnswer(
                "capitals-only",
                _with_pattern(r"\b{}\b"),
                "Whole words, but only as `old` is written: `- ada` in a chat stays, and with it the person's name. Add "
                "`re.IGNORECASE`.",
            ),
            WrongAnswer(
                "question-only",
                _question_only,
                "The answer keeps the old name: the model would learn to write a name that isn't in the question, and you "
                "would keep the person's.",
            ),
            WrongAnswer(
                "answer-only",
                _answer_only,
                "The question keeps the old name. That is the text which holds it in the first place.",
            ),
            WrongAnswer(
                "once",
                _once_each,
                "Only the first place is changed; the name may stand there several times. Leave `count` out.",
            ),
            WrongAnswer(
                "all-small",
                _lowered,
                "Everything is in small letters now. Only the name may change; `re.IGNORECASE` compares without capitals "
                "and leaves the text alone.",
            ),
        ),
    )


# ---- Who notices, what is left --------------------------------------------------------------------


def _tampered() -> Exercise:
    return Choice(
        name="tampered",
        reference="b",
        also_right=("B", "(b)"),
        options={
            "a": "`load_dataset`, by the counts",
            "b": "the hash in the card, if you compare it",
            "c": "both",
            "d": "nobody",
        },
        because="The number of rows is still right, so the library is content. One other byte makes another hash; but "
        "somebody must compare it.",
        hints=(
            "What does the card's YAML say about `test.jsonl`, and what of that does a mended answer change?",
            "Counts: as before. The bytes: not as before.",
        ),
        wrong=(
            WrongAnswer(
                "counts",
                "a",
                "The counts are of rows, and there are as many as before. The next cell shows what makes the library "
                "complain.",
            ),
            WrongAnswer(
                "both",
                "c",
                "The hash, yes. But the library compares the number of rows, and that is as before.",
            ),
            WrongAnswer(
                "nobody",
                "d",
                "The library doesn't, that's right. But the card holds a hash of the file, and the smallest change makes "
                "another one of it.",
            ),
        ),
    )


MASKED, ANSWERED, KEPT = 40, 31, 64


def _cut_off() -> Exercise:
    return Value(
        name="cut-off",
        reference=KEPT - MASKED,
        also_right=("24", 24.0),
        because="The cut takes the last 7 tokens, which were to be trained: 64 - 40 = 24 are left. The end mark is gone, so "
        "this row teaches to break off in the middle, and not to stop.",
        hints=(
            "How long is the row before the cut: 40 masked, then 30 and 1?",
            "Which end is cut off? The prompt stands in front.",
            "64 places, of which the first 40 are masked.",
        ),
        wrong=(
            WrongAnswer(
                "nothing-lost",
                ANSWERED,
                "That is all of them. But the row has 71 tokens, and 64 are left: the last 7 go, and these were trained.",
            ),
            WrongAnswer(
                "without-the-end",
                ANSWERED - 1,
                "That takes the end mark off alone. The row is 71 tokens long, so 7 go.",
            ),
            WrongAnswer(
                "all-places",
                KEPT,
                "That is how many tokens are left. The first 40 of them are masked.",
            ),
            WrongAnswer(
                "what-is-lost",
                MASKED + ANSWERED - KEPT,
                "So many are cut off. Asked is how many trained ones are left.",
            ),
            WrongAnswer(
                "forgot-the-end",
                KEPT - MASKED - 1,
                "One too few. The end mark is among the tokens that are cut off, so it takes none of the 24 places.",
            ),
        ),
    )


# ---- Few pairs --------------------------------------------------------------------------------------

MOST_PAIRS = 60
GOOD = 0.70


def _field(answer: Any, name: str) -> Any:
    return part(answer, name, '{"few": few, "check": check, "written": written}')


def _column(answer: Any, which: str, name: str) -> list:
    try:
        found = list(_field(answer, which)[name])
    except (TypeError, KeyError, IndexError, ValueError):
        found = []
    if not found:
        what = f"`{which}` must be a dataset with the column `{name}`."
        raise ExerciseError(what, fix=f"pass `{which}` as the cell above made it")
    return found


def _fields(answer: str) -> dict[str, str]:
    parts = [each.partition("=") for each in answer.split(";")]
    return {name.strip(): value.strip() for name, sign, value in parts if sign}


def _partial(reply: str, reference: str) -> float:
    """As the notebook scores: the share of right fields; F1 of shared words where the reference has none."""
    wanted = _fields(reference)
    if wanted:
        given = _fields(reply)
        return sum(given.get(name) == value for name, value in wanted.items()) / len(wanted)
    mine, words = reply.split(), reference.split()
    return 2 * sum((Counter(mine) & Counter(words)).values()) / max(len(mine) + len(words), 1)


def _written(answer: Any) -> list[str]:
    found, wanted = _field(answer, "written"), _column(answer, "check", "answer")
    if isinstance(found, str) or not all(isinstance(each, str) for each in found):
        raise ExerciseError(
            "`written` must be a list of answers as text.", fix="pass what `answers(...)` gave"
        )
    if len(found) != len(wanted):
        raise ExerciseError(
            f"There are {len(found)} answers and {len(wanted)} pairs to check.",
            fix='write one for each: answers(mine, [chat(each) for each in check["prompt"]])',
        )
    return list(found)


def _score(answer: Any, _held_out: Any) -> float:
    _column(answer, "few", "prompt")
    wanted = _column(answer, "check", "answer")
    scores = [_partial(*both) for both in zip(_written(answer), wanted, strict=True)]
    return sum(scores) / len(scores)


def _too_many(attempt: Attempt) -> bool:
    return len(_column(attempt.answer, "few", "prompt")) > MOST_PAIRS


def _seen(attempt: Attempt) -> bool:
    few, check = (_column(attempt.answer, which, "prompt") for which in ("few", "check"))
    return bool(set(few) & set(check))


def _all_alike(attempt: Attempt) -> bool:
    return not attempt.reached and len(set(_written(attempt.answer))) == 1


def _few_tested(attempt: Attempt) -> bool:
    return len(_column(attempt.answer, "check", "answer")) < 16


def _made(
    pairs: int = 60, checked: int = 24, *, slips: int = 1, alike: bool = False, seen: bool = False
) -> dict[str, Any]:
    """An answer as the notebook makes it; so many of five fields of each line are wrong."""
    check = [
        {"dish": "soup", "count": str(n), "size": "small", "name": f"N{n}", "time": "12:00"}
        for n in range(checked)
    ]
    said = [
        {name: value if place >= slips else "?" for place, (name, value) in enumerate(each.items())}
        for each in check
    ]
    lines = ["; ".join(f"{name}={value}" for name, value in each.items()) for each in (*check, *said)]
    written = ["dish"] * checked if alike else lines[checked:]
    return {
        "few": {"prompt": [f"learned {n}" for n in range(pairs)]},
        "check": {
            "prompt": [f"{'learned' if seen else 'held out'} {n}" for n in range(checked)],
            "answer": lines[:checked],
        },
        "written": written,
    }


def _as_datasets(_held_out: Any) -> dict[str, Any]:
    from datasets import Dataset

    made = _made(40, 30, slips=0)
    return made | {name: Dataset.from_dict(made[name]) for name in ("few", "check")}


def _few_pairs() -> Exercise:
    return Bar(
        name="few-pairs",
        reference=lambda _: _made(),
        also_right=(_as_datasets,),
        measure=_score,
        bar=GOOD,
        score_name="field-wise score",
        measured_on="the pairs of `check`",
        because="A small set, read several times, teaches the form and the copying. What it can't hold is variety: look at "
        "which fields are still wrong.",
        hints=(
            "Ten steps read 40 pairs, at laptop scale: not even all of them once. How far does the loss fall?",
            "Does it still fall at the end? More steps, or a higher rate such as 2e-3, get further.",
            "Try 30 steps at 2e-3.",
        ),
        source='few = split["train"].select(range(60))\n'
        'mine, run = train("LoRA", rows_of(few), steps=30, learning_rate=2e-3)\n'
        'check = split["validation"].select(range(24))\n'
        'written = answers(mine, [chat(each) for each in check["prompt"]])\n'
        'answer = {"few": few, "check": check, "written": written}',
        wrong=(
            WrongAnswer(
                "seen-before",
                lambda _: _made(seen=True),
                "Some questions of `check` are among those that the model was trained on. Take `few` from "
                '`split["train"]`, and `check` from `split["validation"]`.',
                when=_seen,
            ),
            WrongAnswer(
                "too-many",
                lambda _: _made(pairs=200),
                "That is more than 60 pairs. The question is how far few of them go: "
                '`split["train"].select(range(60))`.',
                when=_too_many,
            ),
            WrongAnswer(
                "few-tested",
                lambda _: _made(checked=6),
                "So few answers tell nothing; check at least 16.",
                when=_few_tested,
            ),
            WrongAnswer(
                "all-alike",
                lambda _: _made(alike=True),
                "All answers are the same. Was it trained for long enough, and is it the trained model, `mine`, that "
                "writes?",
                when=_all_alike,
            ),
            WrongAnswer(
                "below",
                lambda _: _made(slips=3),
                "Too many fields are still wrong. Did the loss still fall at the end? Then more steps or a higher rate get "
                "further.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )
