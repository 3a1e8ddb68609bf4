"""Exercises of production/serving."""

from __future__ import annotations

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]

# Exercise 1: a closed loop, so many users, so many answers a second.
USERS, ANSWERS = 32, 80


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_waiting(), _before(), _pause(), _order()]


def _waiting() -> Exercise:
    return Value(
        name="waiting",
        reference=USERS / ANSWERS,
        also_right=("0.4",),
        tolerance=0.005,
        because=f"Little's law: requests inside = rate x time inside. {USERS} are always inside, {ANSWERS} leave each "
        f"second, so each stays {USERS} / {ANSWERS} = {USERS / ANSWERS} s.",
        hints=(
            "In a closed loop, how many requests are inside the server at any moment?",
            "Requests inside = answers a second x seconds that each is inside. Solve for the last.",
        ),
        wrong=(
            WrongAnswer(
                "upside-down", ANSWERS / USERS, "That's answers a second *for each user*. Turn it over."
            ),
            WrongAnswer(
                "one-at-a-time",
                1 / ANSWERS,
                f"That would be so if one request were inside at a time. {USERS} are, and they wait for each other.",
            ),
            WrongAnswer(
                "milliseconds", 1000 * USERS / ANSWERS, "That's in milliseconds; asked for are seconds."
            ),
        ),
    )


def _before() -> Exercise:
    options = {
        "a": "Its sender gets the 422, the other 31 their answers",
        "b": "All 32 senders get the 422",
        "c": "The worker process ends",
    }
    return Choice(
        name="before",
        reference="b",
        also_right=("B", "all 32 senders get the 422"),
        options=options,
        because="LitServe runs all hooks of a batch in one `try`; an HTTPException in it is put as the answer of "
        "every request of the batch. So one bad text would fail 31 good ones: check before the queue.",
        hints=(
            "The batch is one list, and one `try` stands around all of its hooks.",
            "Section 4 has LitServe's loop: which `uids` does its `except HTTPException` go through?",
        ),
        wrong=(
            WrongAnswer("only-its-own", "a", "So it should be; but one `except` answers the whole batch."),
            WrongAnswer(
                "worker-ends", "c", "The loop catches the exception; the worker goes on with the next batch."
            ),
        ),
    )


def _pause_reference(tries, retry_after):
    """Retry-After in seconds if it is a number that is not negative, else 0.1 doubled for each failure, at most 5."""
    try:
        seconds = float(retry_after)
        if seconds >= 0:
            return seconds
    except (TypeError, ValueError):
        pass
    return min(5.0, 0.1 * 2 ** (tries - 1))


def _by_digits(tries, retry_after):
    if retry_after is not None and retry_after.strip().isdigit():
        return float(retry_after)
    return min(5.0, 0.1 * 2 ** (tries - 1))


def _ignores(tries, retry_after):
    return min(5.0, 0.1 * 2 ** (tries - 1))


def _no_cap(tries, retry_after):
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.1 * 2 ** (tries - 1)


def _one_late(tries, retry_after):
    return float(retry_after) if retry_after and retry_after.isdigit() else min(5.0, 0.1 * 2**tries)


def _trusts(tries, retry_after):
    return float(retry_after) if retry_after else min(5.0, 0.1 * 2 ** (tries - 1))


def _pause() -> Exercise:
    return Function(
        name="pause",
        reference=_pause_reference,
        also_right=(_by_digits,),
        because="The server knows best when it is back; without its word, doubling spares a server that struggles, "
        "and the limit keeps a client from sleeping for an hour. The real client adds some luck, so that not all "
        "come at once.",
        cases=(
            (1, None),
            (2, None),
            (4, None),
            (12, None),
            (1, "3"),
            (5, "0"),
            (3, "Wed, 21 Oct 2026 07:28:00 GMT"),
            (2, ""),
        ),
        source="def pause(tries, retry_after):\n"
        "    try:\n"
        "        seconds = float(retry_after)\n"
        "        if seconds >= 0:\n"
        "            return seconds\n"
        "    except (TypeError, ValueError):\n"
        "        pass\n"
        "    return min(5.0, 0.1 * 2 ** (tries - 1))",
        hints=(
            "Try `float(retry_after)` first; `None` raises a TypeError, a date a ValueError.",
            "Without a number: 0.1 after the first failure, doubled by each further one, `min(5.0, ...)`.",
        ),
        wrong=(
            WrongAnswer(
                "ignores", _ignores, "The server's Retry-After is ignored: it said when it will be back."
            ),
            WrongAnswer(
                "no-cap", _no_cap, "After twelve failures this sleeps for minutes. Limit it to 5 seconds."
            ),
            WrongAnswer("one-late", _one_late, "After the *first* failure it must be 0.1, not 0.2 seconds."),
            WrongAnswer(
                "trusts", _trusts, "Retry-After may be a date, by the standard; then this raises. Fall back."
            ),
        ),
    )


def _order() -> Exercise:
    options = {
        "a": "stop the old, start the new, turn requests to it",
        "b": "start the new, turn requests to it, wait until it is ready, stop the old",
        "c": "start the new, wait until it is ready, turn requests to it, stop the old",
        "d": "start the new, wait until it is ready, turn requests to it, drain the old, stop the old",
    }
    return Choice(
        name="order",
        reference="d",
        also_right=("D", "(d)"),
        options=options,
        because="At each moment some version is ready, and none is stopped while it owes an answer.",
        hints=(
            "Which request is where at each step?",
            "What of the requests that the old one has already taken?",
        ),
        wrong=(
            WrongAnswer("stop-first", "a", "Between the two nobody answers, for as long as loading takes."),
            WrongAnswer("too-early", "b", "Requests go to a version that is still loading."),
            WrongAnswer(
                "no-drain", "c", "The old one still has requests in hand when it is stopped; those fail."
            ),
        ),
    )
