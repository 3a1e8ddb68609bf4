"""Exercises of production/capstone."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]

# Exercise 2: the section that is changed, the steps of the pipeline that read it, and all that depend on these.
CHANGED = "serving"
READ_IT = ("deploy", "monitor", "ab", "release")
ANEW = (*READ_IT, "costs", "document")
ALL = 10


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_anew(), _serving(), _stands(), _refused()]


# ---- 1: which steps are done anew -------------------------------------------------------------------------


def _anew_reference(needs, changed):
    """Changed steps and all that stand on them, in the order of ``needs``."""
    found = []
    for step, mine in needs.items():
        if step in changed or any(each in found for each in mine):
            found.append(step)
    return found


def _by_ancestors(needs, changed):
    def stands_on(step):
        return set(needs[step]).union(*(stands_on(each) for each in needs[step]))

    return [step for step in needs if {step, *stands_on(step)} & set(changed)]


def _only_changed(needs, changed):
    return [step for step in needs if step in changed]


def _only_direct(needs, changed):
    return [step for step, mine in needs.items() if step in changed or set(mine) & set(changed)]


def _all_after(needs, changed):
    names = list(needs)
    places = [names.index(each) for each in changed]
    return names[min(places) :] if places else []


def _without_changed(needs, changed):
    return [step for step in _anew_reference(needs, changed) if step not in changed]


CHAIN = {"data": [], "train": ["data"], "judge": ["train"], "serve": ["judge"]}
FORK = {
    "data": [],
    "train": ["data"],
    "card": ["data"],
    "judge": ["data", "train"],
    "serve": ["judge"],
    "report": ["card"],
}


def _anew() -> Exercise:
    return Function(
        name="anew",
        reference=_anew_reference,
        also_right=(_by_ancestors,),
        because="A step is stale if something of its own changed, or if a step that it needs is stale. In an order in which "
        "each step comes after those it needs, one pass is enough.",
        cases=(
            (CHAIN, ["data"]),
            (CHAIN, ["train"]),
            (CHAIN, []),
            (CHAIN, ["serve"]),
            (FORK, ["train"]),
            (FORK, ["card"]),
            (FORK, ["data"]),
            (FORK, ["judge", "card"]),
            ({"one": []}, ["one"]),
        ),
        source="def anew(needs, changed):\n"
        "    found = []\n"
        "    for step, mine in needs.items():\n"
        "        if step in changed or any(each in found for each in mine):\n"
        "            found.append(step)\n"
        "    return found",
        hints=(
            "Go through the steps in their order, and collect the stale ones in a list.",
            "A step joins the list if it is in `changed`, or if one of the steps it needs is in the list already.",
        ),
        wrong=(
            WrongAnswer(
                "only-changed",
                _only_changed,
                "A model judged on yesterday's data is stale as well, though nobody touched the judge.",
            ),
            WrongAnswer(
                "only-direct",
                _only_direct,
                "What needs a stale step is stale, and so is what needs *that*: go on to the end.",
            ),
            WrongAnswer(
                "all-after",
                _all_after,
                "A step that comes later but needs nothing stale can be kept: the order alone is no dependence.",
            ),
            WrongAnswer(
                "without-changed", _without_changed, "The changed steps themselves must be done, too."
            ),
        ),
    )


# ---- 2: a server's setting --------------------------------------------------------------------------------


def _serving() -> Exercise:
    return Value(
        name="serving",
        reference=len(ANEW),
        also_right=(str(len(ANEW)),),
        because=f"{', '.join(READ_IT)} read [{CHANGED}]; costs and document stand on them. Data, training, evaluation and "
        "registration know nothing of a server, so they are kept.",
        hints=(
            "Which steps does the table above say read `serving`?",
            "And which steps need one of those? Your function of exercise 1 answers it.",
        ),
        wrong=(
            WrongAnswer(
                "only-deploy",
                1,
                "The deployment is one of them. Who else starts a server, or tells what one did?",
            ),
            WrongAnswer(
                "only-readers",
                len(READ_IT),
                f"That many read [{CHANGED}]. The ledger and the documents stand on what these measure.",
            ),
            WrongAnswer("all", ALL, "The weights don't depend on how they are served: training is kept."),
        ),
    )


# ---- 4: after a refusal -----------------------------------------------------------------------------------


def _refused() -> Exercise:
    options = {
        "a": "run with --again until the gate says yes",
        "b": "give the alias champion to it by hand; nobody knows that it is worse",
        "c": "change what could make the model better, and run again",
        "d": "let the gate score only the first 50 texts, where it did well",
    }
    return Choice(
        name="refused",
        reference="c",
        also_right=("(c)", " C "),
        options=options,
        because="A gate is worth what its no is worth. A better model answers its question; the others change the question, "
        "or ask it until it says yes.",
        hints=(
            "What would the gate's promise be worth if that was usual?",
            "Which one could make the statement *it is better* true, or known?",
        ),
        wrong=(
            WrongAnswer(
                "until-yes",
                "a",
                "The same model and texts give the same no; and with chance in it, a yes by luck.",
            ),
            WrongAnswer(
                "by-hand",
                "b",
                "Nobody knows that it is better either, and a gate that one may go around is none.",
            ),
            WrongAnswer(
                "chosen-texts", "d", "Texts that are chosen by their result say nothing about other texts."
            ),
        ),
    )


# ---- 3: does a number stand in a record? ------------------------------------------------------------------


def _stands_reference(written, value):
    """Whether the value, rounded to as many decimals as are written, reads like it."""
    plain = written.replace(",", "")
    places = len(plain.partition(".")[2])
    return float(f"{value:.{places}f}") == float(plain)


def _by_decimal(written, value):
    plain = Decimal(written.replace(",", ""))
    return Decimal(value).quantize(plain, rounding=ROUND_HALF_EVEN) == plain


def _exactly(written, value):
    return float(written.replace(",", "")) == value


def _nearly(written, value):
    return abs(float(written.replace(",", "")) - value) <= 0.01


def _cut(written, value):
    return str(value).startswith(written.replace(",", ""))


def _relative(written, value):
    return abs(float(written.replace(",", "")) - value) <= 0.01 * abs(value)


def _stands() -> Exercise:
    return Function(
        name="stands",
        reference=_stands_reference,
        also_right=(_by_decimal,),
        because="Whoever prints 0.91 promises two decimals and no more: the record, rounded to two, must read the same.",
        cases=(
            ("0.91", 0.9144),
            ("0.914", 0.9144),
            ("0.92", 0.9168),
            ("0.91", 0.9168),
            ("0.915", 0.9144),
            ("2,189", 2189),
            ("2,189", 2190),
            ("12", 12.4),
            ("13", 12.4),
            ("0.9", 0.9168),
            ("-0.020", -0.0204),
            ("0.020", -0.0204),
            ("0.9144", 0.9144),
        ),
        source="def stands(written, value):\n"
        '    plain = written.replace(",", "")\n'
        '    places = len(plain.partition(".")[2])\n'
        '    return float(f"{value:.{places}f}") == float(plain)',
        hints=(
            "How many digits stand behind the point of `written`? A comma only separates thousands.",
            'Format the value with as many decimals, `f"{value:.{places}f}"`, and compare the two as floats.',
        ),
        wrong=(
            WrongAnswer(
                "exactly",
                _exactly,
                "0.9144 printed as 0.91 is honest. Compare at the precision that is printed.",
            ),
            WrongAnswer(
                "nearly",
                _nearly,
                "A fixed distance lets 0.915 pass for 0.9144, though three decimals are promised.",
            ),
            WrongAnswer("cut", _cut, "0.9168 is 0.92 in two decimals; cutting off gives 0.91."),
            WrongAnswer(
                "relative",
                _relative,
                "One per cent of 2,190 is more than 20: that would let 2,189 pass for it.",
            ),
        ),
    )
