"""Exact match says what it ignored, accepts several answers, and never comes alone."""

from __future__ import annotations

import json
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from lessonkit.errors import DataError
from lessonkit.evaluation import bootstrap_interval, exact_match, normalize_answer

SQUAD = {"ignore_case": True, "ignore_punctuation": True, "ignore_articles": True}


def test_exact_match_by_hand():
    scores = exact_match(["yes ", "no", "Maybe", "yes"], ["yes", "yes", "maybe", "\tyes"])
    assert scores.n == 4
    assert scores.right.tolist() == [True, False, False, True]
    assert scores.exact_match == 0.5
    assert scores.interval == bootstrap_interval([1, 0, 0, 1])
    assert (scores.baseline_answer, scores.baseline) == ("yes", 0.75)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=20))
def test_one_reference_each_agrees_with_scikit_learn(pairs):
    given_answers, wanted = (list(column) for column in zip(*pairs, strict=True))
    assert exact_match(given_answers, wanted).exact_match == pytest.approx(
        accuracy_score(wanted, given_answers)
    )


def test_any_accepted_answer_is_right():
    accepted = [["NYC", "New York"], ("1945", "in 1945"), "Paris"]
    assert exact_match(["New York", "in 1945", "Paris"], accepted).exact_match == 1
    assert exact_match(["York", "1945", "NYC"], accepted).right.tolist() == [False, True, False]


def test_nothing_but_white_space_around_is_ignored_unless_asked():
    assert normalize_answer("  The  cat, it's \n") == "The  cat, it's"
    assert normalize_answer("STRASSE", ignore_case=True) == normalize_answer("Straße", ignore_case=True)
    assert normalize_answer("Cat.", ignore_punctuation=True) == "Cat"
    assert normalize_answer("The cat  and a dog", ignore_articles=True) == "cat and dog"
    assert normalize_answer("theatre", ignore_articles=True) == "theatre"


def squad(text: str) -> str:
    """The four steps of SQuAD's scoring, one after another."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@given(st.text(alphabet="aAnN tThHeE.,'-\n2", max_size=30))
def test_all_three_together_are_squads(text):
    assert normalize_answer(text, **SQUAD) == squad(text)


@given(st.text(max_size=30), st.booleans(), st.booleans(), st.booleans())
def test_an_answer_equals_itself_whatever_is_ignored(text, case, punctuation, articles):
    scores = exact_match(
        [f" {text}\n"],
        [text],
        ignore_case=case,
        ignore_punctuation=punctuation,
        ignore_articles=articles,
    )
    assert scores.exact_match == 1


def test_baseline_takes_the_usual_answer_of_training():
    scores = exact_match(["b", "c"], [["b", "a"], "c"], train_answers=["a", ["a", "a", "b"], "c"])
    assert scores.baseline_answer == "a"
    assert scores.baseline == 0.5
    lowered = exact_match(["b"], ["NO"], train_answers=["yes", "No", "no"], ignore_case=True)
    assert (lowered.baseline_answer, lowered.baseline) == ("no", 1)


def test_a_text_votes_once_for_each_of_its_answers():
    scores = exact_match(["x"], ["x"], train_answers=[["No", "no", "NO"], "yes", "yes"], ignore_case=True)
    assert scores.baseline_answer == "yes"


def test_of_two_answers_equally_usual_the_first_is_the_baseline():
    assert exact_match(["x"] * 4, ["q", "p", "p", "q"]).baseline_answer == "q"


def test_line_says_n_interval_normalization_and_baseline():
    text = str(exact_match(["yes", "no"], ["Yes", "no"], ignore_case=True))
    assert text.startswith("exact match 1.000 (95 % interval 1.000 to 1.000, n = 2; stripped, ignore case)")
    assert text.endswith("always 'yes' 0.500")
    assert "ignore" not in str(exact_match(["yes"], ["Yes"]))


def test_scores_are_plain_data():
    plain = exact_match(["yes", "no"], ["Yes", "no"]).to_dict()
    assert json.loads(json.dumps(plain))["exact_match"] == 0.5


@pytest.mark.parametrize(
    ("predictions", "references", "train_answers"),
    [
        ([], [], None),
        (["a"], [], None),
        (["a", "b"], ["a"], None),
        ("yes", ["yes"], None),
        (["yes"], "yes", None),
        ([[12, 7]], ["yes"], None),
        ([None], ["yes"], None),
        ([1], ["1"], None),
        (["1"], [1], None),
        (["yes"], [None], None),
        (["yes"], [[]], None),
        (["yes"], [["yes", 3]], None),
        (None, ["yes"], None),
        (["yes"], 7, None),
        (["yes"], ["yes"], []),
        (["yes"], ["yes"], "yes"),
        (["yes"], ["yes"], [3]),
    ],
)
def test_answers_that_cannot_be_compared_say_what_to_do(predictions, references, train_answers):
    with pytest.raises(DataError) as caught:
        exact_match(predictions, references, train_answers=train_answers)
    assert caught.value.fix


def test_token_ids_get_the_line_that_mends_them():
    with pytest.raises(DataError, match="batch_decode"):
        exact_match([[12, 7]], ["yes"])
