"""Exercises of production/ab-testing."""

from __future__ import annotations

import hashlib
from typing import Any

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_quarter(), _assigned(), _peek(), _outcomes()]


# ---- How many users ---------------------------------------------------------------------------------


def _quarter() -> Exercise:
    return Value(
        name="quarter",
        reference=4,
        also_right=("4", 4.4),
        tolerance=0.5,
        because="The standard error falls with the square root of the users. To see half as much, it must be half as large, "
        "which takes about four times the users (4.4 in the table, for rates near 0.84 vary more than those near 0.88). So "
        "the smallest difference that matters is the most expensive number of a plan.",
        hints=(
            "A difference is found when it is some 2.8 standard errors large. What must the standard error become?",
            "The standard error is proportional to 1 / sqrt(n). For half of it, how much larger must n be?",
        ),
        wrong=(
            WrongAnswer(
                "double",
                2,
                "With twice the users the standard error falls to 0.71 of what it was, not to half: it goes by the root.",
            ),
            WrongAnswer(
                "root",
                2**0.5,
                "You took the root. It's the other way round: the standard error is the root, the users are the square.",
            ),
            WrongAnswer("half", 0.5, "A smaller difference needs more users, not fewer."),
            WrongAnswer(
                "eight", 8, "That would be the cube. The standard error goes by the square root of n."
            ),
        ),
    )


# ---- Who gets which ---------------------------------------------------------------------------------


def _point(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _assigned_reference(user, experiment, share):
    return "B" if _point(f"{experiment}:{user}") < share else "A"


def _by_hex(user, experiment, share):
    """The same from the hexadecimal digest."""
    place = int(hashlib.sha256(f"{experiment}:{user}".encode()).hexdigest()[:16], 16)
    return "B" if place / 2**64 < share else "A"


def _assigned() -> Exercise:
    users = ["anna", "user-1", "user-2", "user-3", "4711", "ümit"]
    cases = [(user, name, share) for user in users for name in ("one", "two") for share in (0.5, 0.1)]
    return Function(
        name="assigned",
        reference=_assigned_reference,
        also_right=(_by_hex,),
        because="The same user stands at the same place after every restart, on every server, without a table. The "
        "experiment's name moves everybody to a new place, and with a growing share nobody who has B loses it.",
        cases=(*cases, ("anna", "one", 0.0), ("anna", "one", 1.0)),
        source="import hashlib\n\n\n"
        "def assigned(user, experiment, share):\n"
        '    digest = hashlib.sha256(f"{experiment}:{user}".encode()).digest()\n'
        '    place = int.from_bytes(digest[:8], "big") / 2**64\n'
        '    return "B" if place < share else "A"',
        hints=(
            '`hashlib.sha256(f"{experiment}:{user}".encode()).digest()` gives 32 bytes.',
            '`int.from_bytes(digest[:8], "big") / 2**64` is a number from 0 to below 1.',
            'Below `share` it is "B", else "A".',
        ),
        wrong=(
            WrongAnswer(
                "no-experiment",
                lambda user, experiment, share: "B" if _point(user) < share else "A",
                "The experiment's name is not in what you hash, so the same users get B in every experiment, and what one "
                "experiment did to them shows up in the next.",
            ),
            WrongAnswer(
                "half",
                lambda user, experiment, share: "B" if _point(f"{experiment}:{user}") < 0.5 else "A",
                "You split in halves, whatever `share` says.",
            ),
            WrongAnswer(
                "exchanged",
                lambda user, experiment, share: "A" if _point(f"{experiment}:{user}") < share else "B",
                "A and B are exchanged: `share` is B's.",
            ),
            WrongAnswer(
                "last-bit",
                lambda user, experiment, share: (
                    "B" if hashlib.sha256(f"{experiment}:{user}".encode()).digest()[0] % 2 else "A"
                ),
                "Even or odd makes halves only. Turn the hash into a number from 0 to 1, and compare it with `share`.",
            ),
            WrongAnswer(
                "user-first",
                lambda user, experiment, share: "B" if _point(f"{user}:{experiment}") < share else "A",
                "That works as well, but it is another assignment than the router's: put the experiment first.",
            ),
        ),
    )


# ---- A dashboard on day 3 ---------------------------------------------------------------------------


def _peek() -> Exercise:
    return Choice(
        name="peek",
        reference="c",
        also_right=("C",),
        because="A fixed-horizon p-value means what it says at the planned size only. Whoever looks daily and stops at the "
        "first p below 0.05 has many chances to be wrong. Either wait, or plan with an interval for all looks.",
        options={
            "a": "stop: 0.03 is below 0.05, so B is better",
            "b": "stop, and multiply p by 3 for the three looks",
            "c": "go on to the planned size, unless a guardrail breaks",
            "d": "go on, and stop as soon as p is below 0.05 again",
        },
        hints=(
            "What was the 5 % promised for: one look, or the smallest of fourteen?",
            "Would the experiment also have been stopped on day 1 or 2, had p been below 0.05 then?",
        ),
        wrong=(
            WrongAnswer(
                "below",
                "a",
                "It would have been stopped on day 1 or 2 as well. The figure above shows how often such a rule cries wolf "
                "where there is no difference.",
            ),
            WrongAnswer(
                "multiplied",
                "b",
                "Three times 0.03 is not below 0.05, so by your own rule nothing is shown. And a correction invented after "
                "the look isn't the plan.",
            ),
            WrongAnswer("again", "d", "That is peeking, only slower."),
        ),
    )


# ---- From the log to one value a user ---------------------------------------------------------------


def _requests(lines: Any) -> dict[str, tuple[str, str]]:
    return {line["id"]: (line["user"], line["arm"]) for line in lines if line["event"] == "request"}


def _outcomes_reference(lines):
    asked, found, seen = _requests(lines), {"A": [], "B": []}, set()
    for line in lines:
        if line["event"] == "outcome":
            user, arm = asked[line["id"]]
            if user not in seen:
                seen.add(user)
                found[arm].append(line["value"])
    return found


def _by_users(lines):
    """The same by a dictionary of users, which keeps the order."""
    asked, known = _requests(lines), {}
    for line in lines:
        if line["event"] == "outcome":
            user, arm = asked[line["id"]]
            known.setdefault(user, (arm, line["value"]))
    return {each: [value for arm, value in known.values() if arm == each] for each in "AB"}


def _each_request(lines):
    asked, found = _requests(lines), {"A": [], "B": []}
    for line in lines:
        if line["event"] == "outcome":
            found[asked[line["id"]][1]].append(line["value"])
    return found


def _last(lines):
    asked, known = _requests(lines), {}
    for line in lines:
        if line["event"] == "outcome":
            user, arm = asked[line["id"]]
            known[user] = (arm, line["value"])
    return {each: [value for arm, value in known.values() if arm == each] for each in "AB"}


def _unknown_as_bad(lines):
    found = _outcomes_reference(lines)
    known = {_requests(lines)[line["id"]][0] for line in lines if line["event"] == "outcome"}
    seen = set(known)
    for user, arm in _requests(lines).values():
        if user not in seen:
            seen.add(user)
            found[arm].append(0)
    return found


def _who_answered(lines):
    by = {line["id"]: line["answered_by"] for line in lines if line["event"] == "request"}
    changed = [line | {"arm": by[line["id"]]} if line["event"] == "request" else line for line in lines]
    return _outcomes_reference(changed)


def _log(*words: str) -> list[dict]:
    """ "a1>A" asks: user a, request a1, arm A ("a1>B/A": answered by A). "a1=1" is its outcome."""
    lines: list[dict] = []
    for word in words:
        if ">" in word:
            number, arm = word.split(">")
            facts = {"user": number[0], "arm": arm[0], "answered_by": arm[-1]}
            lines.append({"event": "request", "id": number, **facts})
        else:
            number, value = word.split("=")
            lines.append({"event": "outcome", "id": number, "value": int(value)})
    return [{"event": "share", "share": 0.5}, *lines]


def _outcomes() -> Exercise:
    return Function(
        name="outcomes",
        reference=_outcomes_reference,
        also_right=(_by_users,),
        because="Users were assigned, so users are counted: each once, in the arm that they were given, whoever answered in "
        "the end. An outcome that isn't known yet is not a bad one.",
        cases=(
            (_log("a1>A", "b1>B", "a1=1", "b1=0"),),
            (_log("a1>A", "a2>A", "b1>B", "a1=1", "a2=0", "b1=1"),),
            (_log("a1>A", "a2>A", "b1>B", "a2=0", "a1=1", "b1=1"),),
            (_log("a1>A", "b1>B", "c1>B", "b1=1"),),
            (_log("a1>A", "b1>B/A", "c1>B", "b1=0", "c1=1", "a1=1"),),
            (_log("a1>A"),),
        ),
        source="def outcomes(lines):\n"
        '    asked = {line["id"]: line for line in lines if line["event"] == "request"}\n'
        '    found, seen = {"A": [], "B": []}, set()\n'
        "    for line in lines:\n"
        '        if line["event"] == "outcome":\n'
        '            request = asked[line["id"]]\n'
        '            if request["user"] not in seen:\n'
        '                seen.add(request["user"])\n'
        '                found[request["arm"]].append(line["value"])\n'
        "    return found",
        hints=(
            'First a dictionary of the requests: `{line["id"]: line for line in lines if line["event"] == "request"}`.',
            "Then go through the outcomes in their order; a set of users tells whose outcome you have already.",
            'The arm is `request["arm"]`, not `request["answered_by"]`.',
        ),
        wrong=(
            WrongAnswer(
                "each-request",
                _each_request,
                "You count requests. One user's requests resemble each other, so they are not so many independent values, "
                "and the test is too sure. One value for each user: the first.",
            ),
            WrongAnswer(
                "last", _last, "You keep each user's last outcome; asked for is the first that became known."
            ),
            WrongAnswer(
                "unknown-as-bad",
                _unknown_as_bad,
                "Users without an outcome count as bad ones in yours. Their label has not arrived yet: leave them out.",
            ),
            WrongAnswer(
                "who-answered",
                _who_answered,
                "You sort by who answered. Where B fails, A answers, so B would keep its good hours only. Take `arm`, which "
                "was drawn by lot.",
            ),
        ),
    )
