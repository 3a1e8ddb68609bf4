"""Exercises of labs/your-own-dataset. None asks about the sample file: a learner may have put in another table already."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import (
    Attempt,
    Bar,
    Choice,
    Exercise,
    Function,
    Value,
    WrongAnswer,
    part,
    share_right,
)

__all__ = ["exercises"]


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_pairs(), _leaks(), _cant_tell(), _half(), _your_own()]


def _pairs() -> Exercise:
    return Value(
        name="pairs",
        reference=3.2,
        also_right=("3.2", 3.21),
        tolerance=0.05,
        because="One copy goes to the test with 1/5, the other stays with 4/5, and it may be either of the two: "
        "10 x 2 x 1/5 x 4/5 = 3.2. A third of the messages would be asked in the test and answered from memory.",
        hints=(
            "Take one pair. In which ways can its two copies be torn apart?",
            "The first copy in test and the second in train, or the other way round. How probable is each?",
            "1/5 x 4/5 each, so 2 x 1/5 x 4/5 for a pair, times ten pairs.",
        ),
        wrong=(
            WrongAnswer(
                "one-way-only",
                1.6,
                "That counts the pairs whose first copy goes to the test. The second may go there too while the first "
                "stays.",
            ),
            WrongAnswer(
                "test-share",
                2,
                "A fifth of ten is 2, if a pair were drawn as a whole. Here each copy is drawn on its own.",
            ),
            WrongAnswer(
                "at-least-one",
                3.6,
                "That counts the pairs with a copy in the test at all. Where both are there, none is left in train to "
                "remember.",
            ),
            WrongAnswer("both-in-test", 0.4, "That is how many pairs have both copies in the test."),
            WrongAnswer("one-pair", 0.32, "That is the probability for one pair. There are ten."),
        ),
    )


# ---- A check of a split -----------------------------------------------------------------------------


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _leaks_reference(train, test):
    seen = {" ".join(text.lower().split()) for text in train}
    return [text for text in test if " ".join(text.lower().split()) in seen]


def _leaks_loop(train, test):
    """The same step by step."""
    found, plain = [], [" ".join(each.casefold().split()) for each in train]
    for text in test:
        if " ".join(text.casefold().split()) in plain:
            found.append(text)
    return found


def _leaks() -> Exercise:
    return Function(
        name="leaks",
        reference=_leaks_reference,
        also_right=(_leaks_loop,),
        because="Both sides are brought to one form, then looked up in a set, which is fast for a million texts too.",
        cases=(
            (["Hello World", "bye"], ["hello  world", "good day"]),
            (["a b", "c"], ["c", " C ", "a  b", "d", "ab"]),
            (["Late again", "late again"], ["LATE AGAIN", "on time"]),
            ([], ["alone"]),
            (["one two"], ["one", "two one", "One Two", "one  two"]),
        ),
        source="def leaks(train, test):\n    seen = {' '.join(text.lower().split()) for text in train}\n"
        "    return [text for text in test if ' '.join(text.lower().split()) in seen]",
        hints=(
            "Bring each text to a form in which capitals and spaces don't matter. `text.lower()` does the first.",
            "`' '.join(text.split())` leaves one space between words, and none at the ends.",
            "Make a set of the train texts in that form, and keep each test text whose form is in it.",
        ),
        wrong=(
            WrongAnswer(
                "as-they-stand",
                lambda train, test: [text for text in test if text in train],
                "Texts are compared as they stand, so a capital or a second space hides a leak. Bring both sides to one "
                "form first.",
            ),
            WrongAnswer(
                "capitals-only",
                lambda train, test: [
                    text for text in test if text.lower() in {each.lower() for each in train}
                ],
                "Capitals don't hide a leak from you any more, spaces do: `' '.join(text.split())`.",
            ),
            WrongAnswer(
                "stripped-only",
                lambda train, test: [
                    text for text in test if text.lower().strip() in {each.lower().strip() for each in train}
                ],
                "`strip` takes the spaces at the ends; two spaces between words are still there. "
                "`' '.join(text.split())` takes both.",
            ),
            WrongAnswer(
                "spaces-only",
                lambda train, test: [
                    text
                    for text in test
                    if " ".join(text.split()) in {" ".join(each.split()) for each in train}
                ],
                "Spaces don't hide a leak from you any more, capitals do: `text.lower()`.",
            ),
            WrongAnswer(
                "no-spaces-at-all",
                lambda train, test: [
                    text
                    for text in test
                    if "".join(text.lower().split()) in {"".join(each.lower().split()) for each in train}
                ],
                "All spaces are taken out, so `ab` counts as `a b`. Only their *number* doesn't matter: join with one "
                "space.",
            ),
            WrongAnswer(
                "inside-another",
                lambda train, test: [
                    text for text in test if any(_plain(text) in _plain(each) for each in train)
                ],
                "A text that is a *part* of another one is found too: `in` between two texts looks for a piece. Compare "
                "whole texts, with `in` on a set or list.",
            ),
            WrongAnswer(
                "the-train-side",
                lambda train, test: [text for text in train if _plain(text) in set(map(_plain, test))],
                "These are the train texts that leaked. Asked for are the test texts: those are what the score is made "
                "of.",
            ),
            WrongAnswer(
                "their-plain-form",
                lambda train, test: [
                    _plain(text) for text in test if _plain(text) in set(map(_plain, train))
                ],
                "The right texts, but changed: return each as it stands in `test`, so that it can be found again.",
            ),
            WrongAnswer(
                "the-clean-ones",
                lambda train, test: [text for text in test if _plain(text) not in set(map(_plain, train))],
                "These are the test texts that are fine. The leaks are asked for.",
            ),
            WrongAnswer(
                "how-many",
                lambda train, test: len(_leaks_reference(train, test)),
                "That is how many there are. Return the texts themselves, so that one can look at them.",
            ),
        ),
    )


def _cant_tell() -> Exercise:
    return Choice(
        name="cant-tell",
        reference="c",
        also_right=("C", "(c)"),
        options={
            "a": "the fine-tuned model is better: 83 % against 71 %",
            "b": "both are equally good",
            "c": "this test can't tell them apart; more test texts are needed, and until then the cheaper one may do",
            "d": "nothing yet: train again with other seeds until the difference is clear",
        },
        because="Three texts of 24 are what chance does, too. Saying so is a result: it says what to collect next.",
        hints=(
            "Imagine 24 other test texts. Would you bet much on 83 % against 71 % again?",
            'Three texts make the difference. "Can\'t tell" says that chance alone may do that; not that there is none.',
        ),
        wrong=(
            WrongAnswer(
                "believes-the-number",
                "a",
                "Three texts make that difference. With 24 others it may be gone, or the other way round; that is what "
                '"can\'t tell" means.',
            ),
            WrongAnswer(
                "no-proof-is-proof",
                "b",
                "That a difference can't be shown doesn't show that there is none: 24 texts could hide a large one.",
            ),
            WrongAnswer(
                "until-it-fits",
                "d",
                "Who tries until the number pleases will find one, by chance. Decide on texts other than the test's, then "
                "test once.",
            ),
        ),
    )


# ---- Half of the texts ------------------------------------------------------------------------------

# The sample's training texts, parted 70 to 30; LEAD is of 24 to 27 texts, of which the majority label has 7 or so.
LEAD = 0.1
MORE_THAN_HALF = 1.7  # of what is checked on: all of the larger part are 7/3, half of it 3.5/3


def _field(answer: Any, name: str) -> Any:
    return part(
        answer, name, '{"half": half, "check": check, "predicted": predict(half_model, check).argmax(-1)}'
    )


def _column(answer: Any, part: str, name: str) -> list:
    try:
        found = list(_field(answer, part)[name])
    except (TypeError, KeyError, IndexError, ValueError):
        found = []
    if not found:
        what = f"`{part}` must be a dataset with the column `{name}`."
        raise ExerciseError(what, fix=f"pass `{part}` as the cell above made it")
    return found


def _lead(answer: Any, _held_out: Any) -> float:
    """Share of right answers beyond what the most frequent label gives."""
    _column(answer, "half", "text")
    _column(answer, "check", "text")
    labels = _column(answer, "check", "label")
    right = share_right(_field(answer, "predicted"), labels)
    return right - Counter(labels).most_common(1)[0][1] / len(labels)


def _seen(attempt: Attempt) -> bool:
    shared = set(_column(attempt.answer, "half", "text")) & set(_column(attempt.answer, "check", "text"))
    return bool(shared)


def _all_of_them(attempt: Attempt) -> bool:
    half, check = (_column(attempt.answer, part, "text") for part in ("half", "check"))
    return len(half) > MORE_THAN_HALF * len(check)


def _one_label(attempt: Attempt) -> bool:
    predicted, count = _field(attempt.answer, "predicted"), len(_column(attempt.answer, "check", "label"))
    kinds = set(_column(attempt.answer, "check", "label"))
    return any(share_right(predicted, [each] * count) == 1 for each in kinds)


def _made(trained: int = 28, mistakes: int = 3, *, shared: int = 0, one: bool = False) -> dict[str, Any]:
    """An answer as the notebook makes it: 24 texts of three labels to check on, so many mistakes on them."""
    check = {"text": [f"checked {each}" for each in range(24)], "label": [each % 3 for each in range(24)]}
    half = {"text": [*check["text"][:shared], *(f"learned {each}" for each in range(trained - shared))]}
    half["label"] = [0] * trained
    predicted = [(label + (place < mistakes)) % 3 for place, label in enumerate(check["label"])]
    return {"half": half, "check": check, "predicted": [0] * 24 if one else predicted}


def _as_arrays(_held_out: Any) -> dict[str, Any]:
    """The datasets and the array that the notebook has."""
    import numpy as np
    from datasets import Dataset

    made = _made()
    parts = {name: Dataset.from_dict(made[name]) for name in ("half", "check")}
    return parts | {"predicted": np.array(made["predicted"])}


def _half() -> Exercise:
    return Bar(
        name="half",
        reference=lambda _: _made(),
        also_right=(_as_arrays,),
        measure=_lead,
        bar=LEAD,
        score_name="lead over always giving the most frequent label",
        measured_on="the texts of `check`",
        because="A pre-trained model learns from few texts. Whether the other half adds much, the same training on all of "
        "them tells; compare the two on `check`, and mind how few texts that is.",
        hints=(
            "Copy the five lines above into the cell, then the dictionary behind `answer =`.",
            "If the lead is too small: look at the loss. Does it still fall at the end?",
            "Too few texts of your own? Set `SOURCE` back to the sample file for this exercise, and run all.",
        ),
        source="parts = lessonkit.split_texts(train_texts, test=0.3, seed=1)\n"
        "half = parts['train'].shuffle(seed=1)\n"
        "half = tokenized(half.select(range(len(half) // 2)))\n"
        "check = tokenized(parts['test'])\n"
        "half_model, run = train_model(half)\n"
        "answer = {'half': half, 'check': check, 'predicted': predict(half_model, check).argmax(-1)}",
        wrong=(
            WrongAnswer(
                "seen-before",
                lambda _: _made(shared=5),
                "Some texts of `check` are among those that the model was trained on, so it may know them by heart. Take "
                "`half` from `parts['train']`, and `check` from `parts['test']`.",
                when=_seen,
            ),
            WrongAnswer(
                "all-of-them",
                lambda _: _made(trained=56),
                "That is more than half. The question is what half of the texts would have done: "
                "`half.select(range(len(half) // 2))`.",
                when=_all_of_them,
            ),
            WrongAnswer(
                "one-label",
                lambda _: _made(one=True),
                "The model gives one label to every text, so it has not learned to tell them apart. Is it the trained "
                "model that predicts, and did its loss fall?",
                when=_one_label,
            ),
            WrongAnswer(
                "no-lead",
                lambda _: _made(mistakes=15),
                "It tells the labels apart hardly better than the most frequent one would. Look at the loss: did it fall? "
                "With very few texts half is too few: set `SOURCE` back to the sample file, and try there.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )


# ---- A table of the learner's own -------------------------------------------------------------------

FEWEST_TEXTS, FEWEST_OF_A_LABEL, GOOD = 24, 8, 0.9


def _report(answer: Any) -> Any:
    """The answer as a report; the table itself will do."""
    from lessonkit.texts import TextReport, check_texts

    if isinstance(answer, str | Path):
        answer = check_texts(answer)
    if not isinstance(answer, TextReport):
        what = f"A report is wanted here, not a {type(answer).__name__}."
        raise ExerciseError(what, fix='write `answer = lessonkit.check_texts("my-texts.csv")`')
    if answer.problem:
        raise ExerciseError(
            f"The table can't be read. {answer.problem.splitlines()[0]}", fix="mend that first"
        )
    return answer


def _share_good(answer: Any, _held_out: Any) -> float:
    """The share of rows that no finding with a cure names."""
    report = _report(answer)
    bad = {row for each in report.findings if each.level == "mend" and each.by_default for row in each.rows}
    return 1 - len(bad) / max(1, len(report.texts))


def _labels(attempt: Attempt) -> Counter[str]:
    from lessonkit.texts.findings import is_missing, plain_label

    return Counter(plain_label(each) for each in _report(attempt.answer).labels or [] if not is_missing(each))


def _is_sample(attempt: Attempt) -> bool:
    from lessonkit.samples import sample_file
    from lessonkit.texts import check_texts

    ours = set(check_texts(sample_file("support-messages.csv")).texts)
    theirs = _report(attempt.answer).texts
    return sum(each in ours for each in theirs) > len(theirs) / 2


def _table(rows: list[tuple[str, str]]) -> str:
    return "text,label\n" + "\n".join(f'"{text}",{label}' for text, label in rows)


def _moods(count: int = 26) -> list[tuple[str, str]]:
    """Rows of a made-up task: two moods in turn."""
    things = [
        "breakfast",
        "garden",
        "bicycle",
        "piano",
        "weather",
        "library",
        "kitten",
        "train",
        "homework",
        "soup",
        "holiday",
        "jacket",
        "cinema",
    ]
    bright = ["made me smile", "{} turned out lovely"]
    dark = ["{} let me down", "nobody can bear it: {}"]
    rows = []
    for number in range(count):
        thing = f"the {things[number // 2 % 13]} on day {number}"
        mood = "bad" if number % 2 else "good"
        frame = (dark if number % 2 else bright)[number // 2 % 2]
        rows.append((frame.format(thing) if "{}" in frame else f"{thing} {frame}", mood))
    return rows


def _checked(rows: list[tuple[str, str]]) -> Any:
    from lessonkit.texts import check_texts

    return check_texts(_table(rows))


def _sample_report(_held_out: Any) -> Any:
    from lessonkit.samples import sample_file
    from lessonkit.texts import check_texts

    return check_texts(sample_file("support-messages.csv"))


def _your_own() -> Exercise:
    return Bar(
        name="your-own",
        reference=lambda _: _checked(_moods()),
        also_right=(lambda _: _table(_moods(40)), lambda _: _checked([*_moods(30), ("", "good")])),
        measure=_share_good,
        bar=GOOD,
        score_name="share of good rows",
        measured_on="your table",
        because="That is a dataset. Put it into `SOURCE`, run all, and read what the model makes of it; two dozen texts are "
        "few, so don't be sad if the test can't tell much.",
        hints=(
            "Two moods will do: twelve sentences that praise something, twelve that complain.",
            'Begin with `answer = lessonkit.check_texts("""text,label`, then a line such as `"What a lovely day",good`; end '
            'with `""")`. Put texts that hold a comma into quotation marks.',
            "`print(answer)` shows the report: mend what is marked `✖` or `!`.",
        ),
        source='answer = lessonkit.check_texts("""text,label\n"What a lovely day",good\n"The soup was cold, again",bad\n'
        '...and so on, 24 lines or more...\n""")',
        wrong=(
            WrongAnswer(
                "the-sample",
                _sample_report,
                "That is the sample file. Write texts of your own, as few as 24: what a table costs and what it is worth "
                "one learns by making one.",
                when=_is_sample,
            ),
            WrongAnswer(
                "no-labels",
                lambda _: _checked([(text, "") for text, _ in _moods()]),
                'There are no labels in it. Each line needs one, behind a comma: `"What a lovely day",good`.',
                when=lambda attempt: not _labels(attempt),
            ),
            WrongAnswer(
                "one-label",
                lambda _: _checked([(text, "good") for text, _ in _moods()]),
                "All texts have the same label, so there is nothing to tell apart. Add texts that belong to another one.",
                when=lambda attempt: len(_labels(attempt)) == 1,
            ),
            WrongAnswer(
                "too-few",
                lambda _: _checked(_moods(16)),
                f"There are fewer than {FEWEST_TEXTS} texts. A quarter of them becomes the test: that many it takes for a "
                "test of six.",
                when=lambda attempt: len(_report(attempt.answer).texts) < FEWEST_TEXTS,
            ),
            WrongAnswer(
                "a-thin-label",
                lambda _: _checked([*_moods(), ("only once", "strange"), ("only twice", "strange")]),
                f"One label has fewer than {FEWEST_OF_A_LABEL} texts (`print(answer)` says which): write more of it, or "
                "leave it out. Is it perhaps a typo of another one?",
                when=lambda attempt: min(_labels(attempt).values()) < FEWEST_OF_A_LABEL,
            ),
            WrongAnswer(
                "copied",
                lambda _: _checked([*_moods(), *_moods()]),
                "Too many rows are empty, copies of each other, or hold what should be mended: `print(answer)` says which. "
                "A copy adds nothing to learn.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )
