"""Every error says what to do next, and still is the built-in error that a programmer would catch."""

from __future__ import annotations

import pickle

import pytest

from lessonkit import errors
from lessonkit.errors import AssetError, CurriculumError, LessonkitError, UnknownNameError, nearest

BUILT_IN = {
    "AdapterError": ValueError,
    "AssetError": OSError,
    "CurriculumError": ValueError,
    "DataError": ValueError,
    "ExerciseError": RuntimeError,
    "HardwareError": RuntimeError,
    "JournalError": OSError,
    "LessonError": RuntimeError,
    "ModelError": OSError,
    "TrainingError": RuntimeError,
    "UnknownNameError": LookupError,
}


def test_every_error_is_a_lessonkit_error_and_a_built_in_one():
    found = {name for name in errors.__all__ if name.endswith("Error")} - {"LessonkitError"}
    assert found == set(BUILT_IN)
    for name, built_in in BUILT_IN.items():
        assert issubclass(getattr(errors, name), LessonkitError)
        assert issubclass(getattr(errors, name), built_in)


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"UnknownNameError", "CurriculumError"}))
def test_message_has_what_why_and_next_on_their_own_lines(name: str):
    error = getattr(errors, name)("It broke.", why="it was old", fix="type this")
    assert str(error).splitlines() == ["It broke.", "Why: it was old", "Next: type this"]
    assert (error.what, error.why, error.fix) == ("It broke.", "it was old", "type this")


def test_what_is_not_known_is_not_said():
    assert str(AssetError("It broke.")) == "It broke."


def test_curriculum_error_lists_all_problems():
    error = CurriculumError("Two things are wrong.", problems=["one", "two"], fix="mend both")
    assert error.problems == ["one", "two"]
    assert str(error).splitlines() == ["Two things are wrong.", "  - one", "  - two", "Next: mend both"]


def test_unknown_name_offers_the_nearest_and_lists_the_choices():
    error = UnknownNameError("dataset", "reuters-r9", ["reuters-r8", "bbc-news"])
    assert error.nearest == ["reuters-r8"]
    assert "There is no dataset called 'reuters-r9'." in str(error)
    assert "Did you mean 'reuters-r8'?" in str(error)
    assert error.fix == "use one of: bbc-news, reuters-r8"


def test_unknown_name_without_a_near_one_guesses_nothing():
    error = UnknownNameError("dataset", "zzzzz", ["reuters-r8"])
    assert error.nearest == []
    assert "Did you mean" not in str(error)


def test_unknown_name_says_so_if_there_is_nothing_to_choose():
    assert UnknownNameError("lesson", "any", []).fix == "use one of: none"


def test_own_fix_replaces_the_listing():
    assert UnknownNameError("scale", "big", ["laptop"], fix="unset it").fix == "unset it"


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("beginner/lroa", "beginner/lora"),
        ("Beginner/LoRA", "beginner/lora"),
        ("lora", "beginner/lora"),
        ("bbc", "BBC-news"),
    ],
)
def test_nearest_bears_slips_case_and_parts(typed: str, first: str):
    assert nearest(typed, ["beginner/lora", "expert/qlora", "BBC-news"])[0] == first


def test_nearest_of_nothing_is_nothing():
    assert nearest("", ["lora"]) == []
    assert nearest("lora", []) == []


def test_nearest_gives_at_most_count():
    assert len(nearest("aaa", ["aaa1", "aaa2", "aaa3"], count=2)) == 2
    assert len(nearest("a", ["xxaxx1", "xxaxx2", "xxaxx3"], count=2)) == 2


def test_an_error_in_a_worker_process_reaches_its_parent():
    # A process pool sends errors as bytes.
    for error in (AssetError("It broke.", why="old", fix="type"), UnknownNameError("lesson", "a", ["b"])):
        back = pickle.loads(pickle.dumps(error))
        assert str(back) == str(error)
        assert type(back) is type(error)
