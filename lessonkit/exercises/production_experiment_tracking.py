"""Exercises of production/experiment-tracking."""

from __future__ import annotations

import hashlib

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_runs(), _fingerprint(), _seed(), _missing()]


# ---- A fingerprint of the data ---------------------------------------------------------------------------


def _digest_of(rows):
    digest = hashlib.sha256()
    for text, label in rows:
        for field in (text, label):
            data = field.encode("utf-8")
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _neighbours(rows):
    """Data sets that are, and are not, the same as ``rows``: itself, reordered, one label changed, a border moved."""
    first_text, first_label = rows[0]
    moved = [(first_text[:-1], first_text[-1:] + first_label), *rows[1:]]
    return [list(rows), list(rows[::-1]), [(first_text, first_label + "x"), *rows[1:]], moved]


def _same_by(digest):
    """A function that says of pairs of data sets whether ``digest`` takes them for the same."""
    return lambda one, other: digest(one) == digest(other)


def _joined(rows):
    return "".join(text + label for text, label in rows)


def _sorted(rows):
    return sorted(rows)


def _texts_only(rows):
    return [text for text, _ in rows]


def _count_only(rows):
    return len(rows)


ROWS = [("oil prices rise", "crude"), ("bank lifts rates", "interest"), ("wheat tonnes", "grain")]


def _fingerprint() -> Exercise:
    return Function(
        name="fingerprint",
        reference=_same_by(_digest_of),
        also_right=(_same_by(lambda rows: repr([tuple(row) for row in rows])),),
        because="Order, labels and the borders between fields all count in a training. A hash of all rows in order, "
        "with borders that no text can imitate (lengths, JSON, `repr`), tells all of them apart.",
        cases=tuple((ROWS, each) for each in _neighbours(ROWS)),
        hints=(
            "Two data sets are the same if a training sees the same bytes in the same order.",
            "If you join fields, where one ends must stay visible: `('ab', 'c')` and `('a', 'bc')` are not the same.",
            "`json.dumps(rows)` keeps order, labels and borders; hash it, or just compare the two texts.",
        ),
        source="import hashlib\nimport json\n\n\n"
        "def same_data(one, other):\n"
        "    def digest(rows):\n"
        "        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()\n\n"
        "    return digest(one) == digest(other)",
        wrong=(
            WrongAnswer(
                "no-borders",
                _same_by(_joined),
                "Yours joins the fields without a border: a letter moved from text to label goes unseen. Look at "
                "how `json.dumps` keeps them apart.",
            ),
            WrongAnswer(
                "no-order",
                _same_by(_sorted),
                "Yours doesn't see another order. Batches are drawn by position: another order is another training.",
            ),
            WrongAnswer(
                "no-labels",
                _same_by(_texts_only),
                "Yours looks at the texts alone. A changed label changes the training just as much.",
            ),
            WrongAnswer(
                "count",
                _same_by(_count_only),
                "Yours counts the rows. Data is most often changed without changing its size.",
            ),
        ),
    )


# ---- What a seed decides ---------------------------------------------------------------------------------


def _seed() -> Exercise:
    return Choice(
        name="seed",
        reference="c",
        also_right=("C",),
        options={
            "a": "it is the same: the pretrained weights are",
            "b": "it is the same: the first batch holds the same texts",
            "c": "it differs: the new head's weights, the batch and the dropout all come from the seed",
            "d": "it differs by rounding alone",
        },
        because="`set_seed` stands before the model: its new head is drawn at random. The order of the texts and "
        "dropout follow from the seed as well. So the two runs part at the first step, by far more than rounding.",
        hints=(
            "The step-1 loss is computed before any update. What goes into it?",
            "Which weights aren't in the pretrained file? Who chose the first 16 texts?",
        ),
        wrong=(
            WrongAnswer("pretrained", "a", "The body is. The head isn't in that file: it is drawn anew."),
            WrongAnswer("same-batch", "b", "The order of the texts is shuffled by the seed, too."),
            WrongAnswer(
                "rounding", "d", "Rounding is what another thread count brings. A seed draws other numbers."
            ),
        ),
    )


# ---- What is not in the record ---------------------------------------------------------------------------


def _missing_reference(then, now):
    names = sorted(then.keys() | now.keys())
    return [name for name in names if then.get(name) != now.get(name)]


def _only_in_both(then, now):
    return [name for name in sorted(then.keys() & now.keys()) if then[name] != now[name]]


def _only_then(then, now):
    return [name for name in sorted(then) if then[name] != now.get(name)]


def _names_only(then, now):
    return sorted(then.keys() ^ now.keys())


def _missing() -> Exercise:
    return Function(
        name="changed",
        reference=_missing_reference,
        also_right=(
            lambda then, now: sorted(
                name
                for name in {*then, *now}
                if (name in then, then.get(name)) != (name in now, now.get(name))
            ),
        ),
        because="A library that was added or removed matters as much as one with another version: transformers, for "
        "instance, takes other paths when an optional library is there.",
        cases=(
            ({"torch": "2.13.0", "numpy": "2.4"}, {"torch": "2.13.0", "numpy": "2.4"}),
            ({"torch": "2.13.0", "numpy": "2.4"}, {"torch": "2.14.0", "numpy": "2.4"}),
            ({"torch": "2.13.0", "peft": "0.21"}, {"torch": "2.13.0"}),
            ({"torch": "2.13.0"}, {"torch": "2.13.0", "kernels": "0.5"}),
            ({"b": "1", "a": "1"}, {"a": "2", "c": "1", "b": "2"}),
        ),
        hints=(
            "Go over the names of both: `then.keys() | now.keys()`.",
            "`now.get(name)` gives None for a library that is gone, and None differs from any version.",
        ),
        source="def changed(then, now):\n    names = sorted(then.keys() | now.keys())\n"
        "    return [name for name in names if then.get(name) != now.get(name)]",
        wrong=(
            WrongAnswer(
                "in-both",
                _only_in_both,
                "Yours compares the libraries that both have. One that was added or removed goes unseen.",
            ),
            WrongAnswer(
                "then-only",
                _only_then,
                "Yours goes over the old record alone, so a library that was added goes unseen.",
            ),
            WrongAnswer(
                "names",
                _names_only,
                "Yours compares which libraries there are, not their versions. Most changes are other versions.",
            ),
        ),
    )


# ---- How many runs ---------------------------------------------------------------------------------------


def _runs() -> Exercise:
    return Value(
        name="runs",
        reference=2,
        also_right=("2",),
        tolerance=0.5,
        because="The callback ends its run in `on_train_end`. The evaluation after it finds no run open, and "
        "MLflow opens another: a configuration without its last score, and a score without a configuration.",
        hints=(
            "MLflow's callback opens a run when the training begins. When does it end it?",
            "`evaluate()` comes after the end, and logs its metrics all the same. Into which run?",
        ),
        wrong=(
            WrongAnswer(
                "one",
                1,
                "That would be so if the run stayed open for the evaluation. The callback ends it with the training.",
            ),
            WrongAnswer(
                "each-evaluation",
                3,
                "Evaluations during the training log into its run; only what comes after the end opens another.",
            ),
            WrongAnswer("none", 0, "`report_to` names MLflow, and that alone opens a run."),
        ),
    )
