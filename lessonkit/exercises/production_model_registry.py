"""Exercises of production/model-registry."""

from __future__ import annotations

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_order(), _rollback(), _differences()]


# ---- In which order --------------------------------------------------------------------------------------


def _order() -> Exercise:
    return Choice(
        name="order",
        reference="b",
        also_right=("B",),
        options={
            "a": "entry, copy under the final name",
            "b": "copy under a hidden name, rename, entry",
            "c": "copy under the final name, entry",
            "d": "entry, copy under a hidden name, rename",
        },
        because="Whatever is cut off, no entry is without its files, and no folder with a version's name holds half a "
        "model: a rename happens wholly or not at all. What can be left over is a hidden folder, or a whole version "
        "that isn't entered yet; the next start can tidy either.",
        hints=(
            "Pull the plug after each step, in your mind. What does a reader find?",
            "A reader starts at the entry, so all that it points to must be there before. And a copy takes seconds; a "
            "rename is one step.",
        ),
        wrong=(
            WrongAnswer(
                "entry-first",
                "a",
                "Killed after its first step, this leaves an entry that points to nothing: a server that asks for the "
                "version fails.",
            ),
            WrongAnswer(
                "no-rename",
                "c",
                "Killed in the middle of the copy, a folder with a version's name holds half a model. The next start "
                "can't tell it from a whole one by its name.",
            ),
            WrongAnswer(
                "entry-before-rename",
                "d",
                "The rename makes the copy whole, but the entry is there before it: killed in between, it points to "
                "nothing.",
            ),
        ),
    )


# ---- What differs ----------------------------------------------------------------------------------------


def _differences_reference(registered, found):
    names = sorted(registered.keys() | found.keys())
    return [name for name in names if registered.get(name) != found.get(name)]


def _changed_only(registered, found):
    return [name for name in sorted(registered.keys() & found.keys()) if registered[name] != found[name]]


def _registered_only(registered, found):
    return [name for name in sorted(registered) if registered[name] != found.get(name)]


def _found_only(registered, found):
    return [name for name in sorted(found) if found[name] != registered.get(name)]


def _hashes_only(registered, found):
    known = set(registered.values())
    return sorted(name for name, digest in found.items() if digest not in known)


REGISTERED = {"config.json": "aa", "model.safetensors": "bb", "tokenizer.json": "cc"}


def _differences() -> Exercise:
    return Function(
        name="differences",
        reference=_differences_reference,
        also_right=(
            lambda registered, found: sorted(
                {name for name, _ in set(registered.items()) ^ set(found.items())}
            ),
        ),
        because="A file that was added counts as much as one that was changed: a `modeling.py`, or weights in a second "
        "format which the library prefers, would be loaded as well.",
        cases=(
            (REGISTERED, dict(REGISTERED)),
            (REGISTERED, REGISTERED | {"model.safetensors": "bd"}),
            (REGISTERED, {"config.json": "aa", "model.safetensors": "bb"}),
            (REGISTERED, REGISTERED | {"modeling.py": "dd"}),
            (REGISTERED, {"config.json": "bb", "model.safetensors": "aa", "tokenizer.json": "cc"}),
            (REGISTERED, {"model.safetensors": "be", "weights.bin": "bb", "tokenizer.json": "cc"}),
        ),
        source="def differences(registered, found):\n"
        "    names = sorted(registered.keys() | found.keys())\n"
        "    return [name for name in names if registered.get(name) != found.get(name)]",
        hints=(
            "There are three ways to differ: changed, missing, added. Go over the names of both dictionaries.",
            "`registered.keys() | found.keys()` are all names; `.get(name)` gives None where a name isn't there.",
        ),
        wrong=(
            WrongAnswer(
                "in-both",
                _changed_only,
                "Yours compares the files that both have. One that is missing, or that was added, goes unseen.",
            ),
            WrongAnswer(
                "registered",
                _registered_only,
                "Yours goes over the registered names alone. A file that was added goes unseen, and may be loaded.",
            ),
            WrongAnswer(
                "found",
                _found_only,
                "Yours goes over the files that are there. One that is missing goes unseen.",
            ),
            WrongAnswer(
                "hashes",
                _hashes_only,
                "Yours asks whether a hash is known, under any name. Two files that changed places go unseen.",
            ),
        ),
    )


# ---- Back ------------------------------------------------------------------------------------------------


def _rollback() -> Exercise:
    return Value(
        name="rollback",
        reference=1,
        also_right=("1",),
        tolerance=0.5,
        because="The history is a stack. 1; 1, 2; 1, 2, 4; back: 1, 2; 1, 2, 5; back: 1, 2; back: 1. Version 4, which "
        "was taken out of service, is never gone back to.",
        hints=(
            "Write the history down, a number for each champion. A promotion appends; what does a rollback do?",
            "A rollback takes the last number away; who then stands last is champion. There are three rollbacks.",
        ),
        wrong=(
            WrongAnswer(
                "by-time",
                4,
                "4 was champion before 5 in time, but it had been taken out of service. A rollback takes its number off "
                "the history.",
            ),
            WrongAnswer(
                "one-too-few", 2, "That is the champion after the second rollback. There is a third."
            ),
            WrongAnswer(
                "flip",
                5,
                "A registry that only remembers *the one before* flips between two versions: the second rollback would "
                "undo the first. Here each goes one further back.",
            ),
        ),
    )
