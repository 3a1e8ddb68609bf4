"""Exercises of labs/evaluation-pipeline."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Attempt, Bar, Exercise, Function, Value, WrongAnswer, part
from lessonkit.exercises.plain import Grid, plain

__all__ = ["exercises"]

# The two models of exercise 2, and the lucky candidates of exercise 4; the lesson and its test count with them too.
BOTH, ONLY_FIRST, ONLY_SECOND, NEITHER = 880, 5, 35, 80
TRIES, LUCK = 20, 0.025


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_slice(), _differ(), _paired(), _twenty()]


# ---- A weak slice -----------------------------------------------------------------------------------

WEAKER = 0.10  # how far below the others a slice must be
LEAST, MOST, LABELS = 0.05, 0.25, 3  # of the texts; of its labels
FORM = (
    'answer = {"inside": ["oil" in each.text for each in champion_scores.predictions], '
    '"predictions": champion_scores.predictions}'
)


def _texts(answer: Any) -> list[tuple[str, bool]]:
    """(label, right) of each prediction."""
    found = part(answer, "predictions", FORM)
    try:
        return [(str(each.label), bool(each.right)) for each in found]
    except (TypeError, AttributeError):
        raise ExerciseError(
            "`predictions` must be those of an evaluation.", fix="pass `champion_scores.predictions`"
        ) from None


def _inside(answer: Any) -> list[bool]:
    texts, found = _texts(answer), plain(part(answer, "inside", FORM))
    if isinstance(found, Grid):
        found = found.array.ravel().tolist()
    if not isinstance(found, list) or not all(each is True or each is False for each in found):
        raise ExerciseError(
            "`inside` must be a list with True or False for each prediction.", fix=f"write `{FORM}`"
        )
    if len(found) != len(texts):
        raise ExerciseError(f"`inside` has {len(found):,} entries, and there are {len(texts):,} predictions.")
    return found


def _parts(answer: Any) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """The texts inside, and all others."""
    pairs = list(zip(_texts(answer), _inside(answer), strict=True))
    return [each for each, chosen in pairs if chosen], [each for each, chosen in pairs if not chosen]


def _share(texts: list[tuple[str, bool]]) -> float:
    return sum(right for _, right in texts) / len(texts) if texts else math.nan


def _gap(answer: Any, _held_out: Any) -> float:
    inside, others = _parts(answer)
    if not inside or not others:
        which = "no text" if not inside else "every text"
        raise ExerciseError(f"The slice holds {which}, so there is nothing to compare.")
    return _share(others) - _share(inside)


def _share_inside(attempt: Attempt) -> float:
    inside, others = _parts(attempt.answer)
    return len(inside) / (len(inside) + len(others))


def _by_mistakes(attempt: Attempt) -> bool:
    inside, _ = _parts(attempt.answer)
    return len(inside) > 1 and not any(right for _, right in inside)


def _few_labels(attempt: Attempt) -> bool:
    return len({label for label, _ in _parts(attempt.answer)[0]}) < LABELS


def _made(inside: range, wrong: range, every: int = 1, number: int = 200) -> dict[str, Any]:
    """An answer over so many predictions of four labels; ``wrong`` ones err, each ``every``-th in ``inside`` is chosen."""
    predictions = [SimpleNamespace(label="abcd"[each % 4], right=each not in wrong) for each in range(number)]
    chosen = [each in inside and each % every == 0 for each in range(number)]
    return {"inside": chosen, "predictions": predictions}


def _as_array(_held_out: Any) -> dict[str, Any]:
    import numpy as np

    made = _made(range(40), range(12))
    return made | {"inside": np.array(made["inside"])}


def _slice() -> Exercise:
    return Bar(
        name="slice",
        reference=lambda _: _made(range(40), range(12)),
        also_right=(_as_array,),
        measure=_gap,
        bar=WEAKER,
        score_name="gap to the others",
        measured_on="the predictions that you passed",
        because="A program can check this condition on tomorrow's texts as well, before anybody knows their label: such a "
        "slice can be handed to a person, or be what the next training texts are collected for.",
        hints=(
            "What might make a wire hard? Words that several topics share (`bank`, `tonnes`), its length (`each.tokens`), "
            "or that the model itself is unsure (`each.confidence`).",
            "Try several: `inside = ['bank' in each.text for each in champion_scores.predictions]`, then `sum(inside)` and "
            "the share of `each.right` in it.",
            "The model's own doubt nearly always finds a weak slice: `each.confidence < 0.7`. Move the number until the "
            "slice holds 5 to 25 % of the texts.",
        ),
        source="doubts = sorted(each.confidence for each in champion_scores.predictions)\n"
        "limit = doubts[len(doubts) // 6]  # the least sure sixth\n"
        "inside = [each.confidence < limit for each in champion_scores.predictions]\n"
        'answer = {"inside": inside, "predictions": champion_scores.predictions}',
        wrong=(
            WrongAnswer(
                "the-mistakes",
                lambda _: _made(range(20), range(20)),
                "Every text in it is wrong: the slice was made of the mistakes. That needs the labels, and says nothing of "
                "tomorrow's texts. Choose by what is known beforehand: text, tokens, confidence, columns.",
                when=_by_mistakes,
            ),
            WrongAnswer(
                "too-few",
                lambda _: _made(range(6), range(3)),
                f"The slice holds less than {LEAST:.0%} of the texts; with so few, luck alone makes it look weak.",
                when=lambda attempt: _share_inside(attempt) < LEAST,
            ),
            WrongAnswer(
                "too-many",
                lambda _: _made(range(120), range(60)),
                f"The slice holds more than {MOST:.0%} of the texts. Narrow it down: where exactly is the model weak?",
                when=lambda attempt: _share_inside(attempt) > MOST,
            ),
            WrongAnswer(
                "one-label",
                lambda _: _made(range(80), range(0, 80, 8), every=4),
                f"It has texts of fewer than {LABELS} labels, so it is a topic by another name, and the tool shows topics "
                "already. Find something that cuts across them.",
                when=_few_labels,
            ),
            WrongAnswer(
                "not-weak",
                lambda _: _made(range(40), range(0)),
                "In this slice the model is about as good as elsewhere, or better. Look at the errors in section 5: what "
                "do their texts have in common?",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )


# ---- Two models -------------------------------------------------------------------------------------


def _differ() -> Exercise:
    first, second = BOTH + ONLY_FIRST, BOTH + ONLY_SECOND
    return Value(
        name="differ",
        reference=ONLY_FIRST + ONLY_SECOND,
        also_right=("40",),
        tolerance=0.5,
        because=f"{first} - {BOTH} = {ONLY_FIRST} texts only the first has right, {second} - {BOTH} = {ONLY_SECOND} the "
        f"second alone. On the other 960 they agree: {BOTH} right, {NEITHER} wrong. Those say nothing of which is better.",
        hints=(
            f"The first has {first} right, and {BOTH} of these are right in both. How many are its own?",
            "The same for the second; then add the two.",
        ),
        wrong=(
            WrongAnswer(
                "net",
                second - first,
                "That is by how many the second leads. It gains more than that, and loses some: count both.",
            ),
            WrongAnswer(
                "gained", ONLY_SECOND, "That's where only the second is right. The first has some of its own."
            ),
            WrongAnswer(
                "lost", ONLY_FIRST, "That's where only the first is right. The second has some of its own."
            ),
            WrongAnswer(
                "neither",
                NEITHER,
                "That's where both are wrong. Asked for are the texts with exactly one right.",
            ),
            WrongAnswer(
                "all-mistakes",
                2000 - first - second,
                "That adds up the mistakes of both, and counts the texts on which both err twice. Leave those out.",
            ),
            WrongAnswer(
                "not-both", 1000 - BOTH, "That's where not both are right; on some of these, neither is."
            ),
        ),
    )


def _right(row: dict) -> bool:
    return row["prediction"] == row["label"]


def _counted(pairs: Any) -> tuple[int, int]:
    pairs = [(_right(one), _right(other)) for one, other in pairs]
    return sum(one and not other for one, other in pairs), sum(other and not one for one, other in pairs)


def _checked_pairs(candidate: list[dict], champion: list[dict]) -> list[tuple[dict, dict]]:
    others = {row["line"]: row for row in champion}
    if {row["line"]: row["text"] for row in candidate} != {line: row["text"] for line, row in others.items()}:
        raise ValueError("not the same texts")
    return [(row, others[row["line"]]) for row in candidate]


def _paired_reference(candidate, champion):
    return _counted(_checked_pairs(candidate, champion))


def _paired_sorted(candidate, champion):
    """The same by sorting."""
    one, other = (sorted(each, key=lambda row: row["line"]) for each in (candidate, champion))
    if [(row["line"], row["text"]) for row in one] != [(row["line"], row["text"]) for row in other]:
        raise ValueError("not the same texts")
    return list(_counted(zip(one, other, strict=True)))


def _unchecked(candidate, champion):
    others = {row["line"]: row for row in champion}
    return _counted((row, others[row["line"]]) for row in candidate if row["line"] in others)


def _lines_only(candidate, champion):
    others = {row["line"]: row for row in champion}
    if {row["line"] for row in candidate} != set(others):
        raise ValueError("not the same lines")
    return _counted((row, others[row["line"]]) for row in candidate)


def _by_text(candidate, champion):
    mine, others = ({row["text"]: row for row in each} for each in (candidate, champion))
    if set(mine) != set(others):
        raise ValueError("not the same texts")
    return _counted((mine[text], others[text]) for text in mine)


def _by_place(candidate, champion):
    if sorted((row["line"], row["text"]) for row in candidate) != sorted(
        (row["line"], row["text"]) for row in champion
    ):
        raise ValueError("not the same texts")
    return _counted(zip(candidate, champion, strict=True))


def _rows(said: str, lines: tuple[int, ...] = (2, 3, 4, 5, 6)) -> list[dict]:
    """Rows of a predictions file whose true labels are all "a"; lines 3 and 6 hold the same text."""
    texts = {2: "oil rises", 3: "no change", 4: "wheat", 5: "bank", 6: "no change", 7: "ships"}
    return [
        {"line": line, "text": texts[line], "label": "a", "prediction": each}
        for line, each in zip(lines, said, strict=True)
    ]


def _paired() -> Exercise:
    changed = _rows("aabab")
    changed[2] = changed[2] | {"text": "wheat, corrected"}
    return Function(
        name="paired",
        reference=_paired_reference,
        also_right=(_paired_sorted,),
        because="Each row finds its partner by its line, whatever the order; different texts are refused before anything is "
        "counted. These two numbers are all that the gate needs.",
        cases=(
            (_rows("aabab"), _rows("abbba")),
            (_rows("aabab"), _rows("aabbb", (6, 4, 2, 5, 3))),
            (_rows("aaaab"), _rows("bbaaa", (3, 2, 5, 4, 6))),
            (_rows("aabab"), changed),
            (_rows("aabab"), _rows("abbb", (2, 3, 4, 5))),
            (_rows("aaba", (2, 3, 4, 5)), _rows("abbba")),
            (_rows("aabab"), _rows("abbba", (2, 3, 4, 5, 7))),
        ),
        source="def paired(candidate, champion):\n"
        '    others = {row["line"]: row for row in champion}\n'
        '    texts = {row["line"]: row["text"] for row in candidate}\n'
        '    if texts != {line: row["text"] for line, row in others.items()}:\n'
        '        raise ValueError("not the same texts")\n'
        "    gained = lost = 0\n"
        "    for row in candidate:\n"
        '        other = others[row["line"]]\n'
        '        right, other_right = row["prediction"] == row["label"], other["prediction"] == other["label"]\n'
        "        gained += right and not other_right\n"
        "        lost += other_right and not right\n"
        "    return gained, lost",
        hints=(
            'Make a dictionary of one side: `others = {row["line"]: row for row in champion}`.',
            'Before counting, compare `{row["line"]: row["text"] for row in ...}` of both sides; unequal: `raise '
            'ValueError("not the same texts")`.',
            "Then, for each row of the candidate and its partner: right alone counts for the first number, wrong alone for "
            "the second.",
        ),
        wrong=(
            WrongAnswer(
                "by-place",
                _by_place,
                "The first row is compared with the first, the second with the second: that holds only if both files have "
                "one order. Find each row's partner by its `line`.",
            ),
            WrongAnswer(
                "zip",
                lambda candidate, champion: _counted(zip(candidate, champion, strict=False)),
                "`zip` takes rows as they come, in whatever order, and stops at the shorter list without a word. Match by "
                "`line`, and raise a `ValueError` where lines or texts differ.",
            ),
            WrongAnswer(
                "unchecked",
                _unchecked,
                "Where one side lacks lines or has other texts, you count what is left, as if it were the same test. Raise "
                "a `ValueError`.",
            ),
            WrongAnswer(
                "lines-only",
                _lines_only,
                "The lines agree, but in one case the *text* in a line is another one (somebody mended the file). Compare "
                "the texts as well.",
            ),
            WrongAnswer(
                "by-text",
                _by_text,
                "A text that stands in the file twice is counted once: a dictionary keeps one row for each text. Use `line` "
                "as the key.",
            ),
            WrongAnswer(
                "exchanged",
                lambda candidate, champion: _paired_reference(candidate, champion)[::-1],
                "The two numbers are exchanged: first the texts on which only the candidate is right.",
            ),
            WrongAnswer(
                "all-right",
                lambda candidate, champion: tuple(
                    sum(map(_right, each)) for each in zip(*_checked_pairs(candidate, champion), strict=True)
                ),
                "These are all texts that each has right. What both have right says nothing of who is better: count "
                "where *only* one is.",
            ),
        ),
    )


# ---- Asked too often --------------------------------------------------------------------------------


def _twenty() -> Exercise:
    return Value(
        name="twenty",
        reference=1 - (1 - LUCK) ** TRIES,
        also_right=(0.4, "40 %"),
        tolerance=0.006,
        because=f"All {TRIES} fail with {1 - LUCK} ** {TRIES} = {(1 - LUCK) ** TRIES:.2f}, so at least one passes with "
        f"{1 - (1 - LUCK) ** TRIES:.2f}. The winner of many tries is partly the luckiest one.",
        hints=(
            "Ask the other way round: how probable is it that *none* passes?",
            f"One fails with {1 - LUCK}. All {TRIES} fail with {1 - LUCK} x {1 - LUCK} x ..., {TRIES} times.",
        ),
        wrong=(
            WrongAnswer("one", LUCK, "That is the luck of one candidate. Twenty of them try."),
            WrongAnswer(
                "sum",
                TRIES * LUCK,
                "That is how many pass on average. Sometimes two pass at once, so the probability of *at least one* is "
                "lower.",
            ),
            WrongAnswer("none", (1 - LUCK) ** TRIES, "That is the probability that none passes."),
            WrongAnswer("all", LUCK**TRIES, "That is the probability that all of them pass."),
            WrongAnswer(
                "two-sided",
                1 - 0.95**TRIES,
                'You took 5 %, which is "better" and "worse" together. Only "better" passes: 2.5 %.',
            ),
        ),
    )
