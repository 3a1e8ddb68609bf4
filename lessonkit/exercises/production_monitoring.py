"""Exercises of production/monitoring."""

from __future__ import annotations

import itertools

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]

# Exercise 2: seconds of the window and of `for`; the share after the change, and the one that the rule wants.
WINDOW, WAIT, AFTER, BOUND = 300, 60, 0.8, 0.4
# Exercise 3: statistics, windows a day, false alarms of each.
STATISTICS, WINDOWS, RATE = 3, 24 * 4, 0.01


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_increase(), _when(), _alarms(), _rollback()]


def _increase_reference(samples):
    """What the counter grew by, resets to 0 included."""
    grown = 0
    for before, after in itertools.pairwise(samples):
        grown += after - before if after >= before else after
    return grown


def _by_correction(samples):
    if len(samples) < 2:
        return 0
    grown = samples[-1] - samples[0]
    for before, after in itertools.pairwise(samples):
        if after < before:
            grown += before
    return grown


def _last_minus_first(samples):
    return samples[-1] - samples[0] if samples else 0


def _only_rises(samples):
    return sum(max(0, after - before) for before, after in itertools.pairwise(samples))


def _absolute(samples):
    return sum(abs(after - before) for before, after in itertools.pairwise(samples))


def _from_zero(samples):
    return _increase_reference([0, *samples])


def _increase() -> Exercise:
    return Function(
        name="increase",
        reference=_increase_reference,
        also_right=(_by_correction,),
        because="After a reset the counter began at 0, so its whole new value is growth. What it grew by between the "
        "last sample and the restart is lost, to Prometheus as well.",
        cases=(
            ([3, 5, 9],),
            ([10, 20, 4, 6],),
            ([5, 0, 0, 7],),
            ([8, 2, 1],),
            ([4, 4],),
            ([7],),
            ([],),
            ([0.0, 1.5, 0.5],),
        ),
        source="def increase(samples):\n"
        "    grown = 0\n"
        "    for before, after in zip(samples, samples[1:]):\n"
        "        grown += after - before if after >= before else after\n"
        "    return grown",
        hints=(
            "Go through neighbouring samples: `for before, after in zip(samples, samples[1:])`.",
            "Where `after >= before`, add their difference. Else the counter began at 0 in between: add `after`.",
        ),
        wrong=(
            WrongAnswer(
                "last-minus-first", _last_minus_first, "A reset in between makes this too small, or negative."
            ),
            WrongAnswer(
                "only-rises",
                _only_rises,
                "After a reset the counter has grown from 0 to its new value; that part is missing here.",
            ),
            WrongAnswer("absolute", _absolute, "A fall isn't growth: 95 to 10 is a growth by 10, not by 85."),
            WrongAnswer(
                "from-zero",
                _from_zero,
                "The first sample is no growth: the counter may have stood there for weeks.",
            ),
        ),
    )


def _when() -> Exercise:
    reach = WINDOW * BOUND / AFTER
    return Value(
        name="when",
        reference=reach + WAIT,
        also_right=("210",),
        tolerance=20,  # a scrape more or less is 15 s
        because=f"The window holds {WINDOW} s. After t seconds, {AFTER:.0%} of a part t / {WINDOW} are low; the share "
        f"passes {BOUND} at t = {reach:.0f} s. Then `for` waits {WAIT} s more. A scrape and an evaluation may add some.",
        hints=(
            f"After t seconds, which part of the window's {WINDOW} s is new? Of that part, {AFTER:.0%} are low.",
            f"Solve {AFTER} x t / {WINDOW} = {BOUND}. And the rule must hold for a while before it fires.",
        ),
        wrong=(
            WrongAnswer(
                "no-for", reach, "From then on the share is above the bound; `for` is still to be waited."
            ),
            WrongAnswer(
                "whole-window",
                WINDOW + WAIT,
                "The window needn't be full of new requests: the share passes the bound earlier.",
            ),
            WrongAnswer(
                "only-for",
                WAIT,
                "The window still holds minutes of good answers, so the share rises slowly.",
            ),
            WrongAnswer(
                "bound-of-window",
                WINDOW * BOUND + WAIT,
                "That would be so if all new answers had a low confidence. 80 % have.",
            ),
        ),
    )


def _alarms() -> Exercise:
    return Value(
        name="alarms",
        reference=STATISTICS * WINDOWS * RATE,
        also_right=("2.88",),
        tolerance=0.05,
        because=f"{WINDOWS} windows a day, {STATISTICS} statistics, {RATE:.0%} each: expectations add up, even if the "
        "statistics depend on each other. Nearly three a day: soon nobody looks any more.",
        hints=(
            "How many windows of 15 minutes has a day?",
            "Each window is asked three times, and each time a false alarm has the chance 0.01. Expectations add up.",
        ),
        wrong=(
            WrongAnswer(
                "one-statistic", WINDOWS * RATE, "That's for one statistic. Each window is tested by three."
            ),
            WrongAnswer("one-window", STATISTICS * RATE, "That's in one window. A day has many."),
            WrongAnswer(
                "hourly", STATISTICS * 24 * RATE, "That's one window an hour; it is one in 15 minutes."
            ),
        ),
    )


def _rollback() -> Exercise:
    options = {
        "a": "Always: an alert has fired",
        "b": "If the drift tests say that the inputs changed",
        "c": "If the version before does better on the new inputs, by labels where there are some",
        "d": "Never: the inputs changed, and no version can help that",
    }
    return Choice(
        name="rollback",
        reference="c",
        also_right=("C", "(c)"),
        options=options,
        because="A rollback brings another model, not another world. It helps if the version before is better at what comes "
        "in now; labels say so, confidence only hints at it.",
        hints=(
            "What does a rollback change, and what does it not?",
            "Suppose the version before is worse on the new wires, too. What would the rollback be good for?",
        ),
        wrong=(
            WrongAnswer(
                "always",
                "a",
                "The alert may be about a full disk, or about inputs that the version before handles even worse.",
            ),
            WrongAnswer(
                "drift", "b", "Changed inputs stay changed after a rollback. Who does better on them?"
            ),
            WrongAnswer(
                "never", "d", "Another version may know these inputs: v1 has learnt from all topics."
            ),
        ),
    )
