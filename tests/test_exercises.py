"""Exercises judge fairly: right answers pass however they are written, wrong ones are told why.

What an answer may do to the notebook is in test_exercise_safety.py.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections import UserDict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from lessonkit import exercises as package
from lessonkit.curriculum import load_curriculum
from lessonkit.errors import ExerciseError
from lessonkit.exercises import (
    RESERVED,
    TODO,
    Bar,
    Choice,
    Exercise,
    Function,
    Outcome,
    Value,
    WrongAnswer,
    load_exercises,
    share_right,
)
from lessonkit.exercises.plain import alike, plain
from lessonkit.exercises.showing import block, code, plain_text, rich_text
from lessonkit.lesson import Lesson


def value(**changes) -> Value:
    wrong = (
        WrongAnswer("percent", 90, "That is a percentage; a share is asked for."),
        WrongAnswer("error rate", 0.1, "That is the share of mistakes."),
    )
    hints = ("Count the right ones.", "Divide by n.", "9 / 10.")
    fields = {
        "name": "accuracy",
        "reference": 0.9,
        "because": "9 of 10 are right.",
        "hints": hints,
        "wrong": wrong,
    }
    return Value(**(fields | {"tolerance": 0.005} | changes))


def choice() -> Choice:
    wrong = (WrongAnswer("all layers", "b", "Then nothing would be frozen."), WrongAnswer("none", "c", "No."))
    options = {"a": "The head", "b": "All layers", "c": "Nothing"}
    return Choice("trains", "a", "Only the head is new.", ("Look.",), wrong, options=options)


def mean(numbers):
    return sum(numbers) / len(numbers)


def function(reference=mean, cases=(([1, 2, 3],), ([4.0],)), wrong=None, **changes) -> Function:
    named = wrong or (
        WrongAnswer("forgets to divide", sum, "Divide by how many there are."),
        WrongAnswer("takes the largest", max, "The largest isn't the mean."),
    )
    source = "def mean(numbers):\n    return sum(numbers) / len(numbers)"
    fields = {"name": "mean", "because": "Sum over count.", "hints": ("Sum.", "Divide."), "source": source}
    return Function(reference=reference, cases=cases, wrong=named, **(fields | changes))


LABELS = [0, 1, 1, 0, 1, 1, 0, 1, 1, 1]


def bar(**changes) -> Bar:
    fields = {
        "name": "beat-it",
        "reference": lambda labels: [*labels[:9], 0],
        "because": "It learned.",
        "hints": ("Train longer.",),
        "wrong": (
            WrongAnswer("the-labels", list, "Those are the labels.", when=lambda one: one.score == 1),
            WrongAnswer("always-1", lambda labels: [1] * len(labels), "That's the most frequent class."),
        ),
        "measure": share_right,
        "bar": {"laptop": 0.8, "gpu": 0.95},
        "held_out": lambda scale: LABELS,
        "measured_on": "10 texts",
    }
    return Bar(**(fields | changes))


def judged(exercise: Exercise, answer) -> tuple[str, str]:
    outcome = exercise.judge(answer)
    return outcome.status, outcome.diagnosis


class TestOutcomes:
    @pytest.mark.parametrize("make", [value, choice, function, bar])
    def test_untried_is_neither_right_nor_wrong(self, make):
        for untried in (TODO, None, ..., [TODO, 1], {"answer": TODO}):
            outcome = make().check(untried)
            assert outcome.status == "unattempted"
            assert not outcome.passed
            assert "Not tried yet" in outcome.message
            assert f'lesson.exercise("{make().name}").hint()' in outcome.message

    @pytest.mark.parametrize(
        ("make", "right"), [(value, 0.9), (choice, "a"), (function, mean), (bar, [*LABELS[:9], 0])]
    )
    def test_right_passes_and_says_why(self, make, right):
        outcome = make().check(right)
        assert outcome.passed
        assert (outcome.status, outcome.diagnosis) == ("passed", "")
        assert make().because in outcome.message

    @pytest.mark.parametrize("make", [value, choice, function, bar])
    def test_named_wrong_answers_get_their_own_diagnosis(self, make):
        for wrong in make().wrong:
            outcome = make().check(make().made(wrong.answer))
            assert (outcome.status, outcome.diagnosis) == ("failed", wrong.name)
            assert wrong.says in outcome.message

    @pytest.mark.parametrize(("make", "other"), [(value, 0.5), (function, min), (bar, [0] * 10)])
    def test_other_wrong_answers_fail_without_a_name(self, make, other):
        outcome = make().check(other)
        assert (outcome.status, outcome.diagnosis) == ("failed", "")
        assert "hint()" in outcome.message

    @pytest.mark.parametrize("make", [value, choice, function, bar])
    @pytest.mark.parametrize("answer", [object(), [], {}, "xyz", b"", range(3), Exception("x"), 1j, int])
    def test_other_kinds_of_things_are_no_answer(self, make, answer, capsys):
        assert make().check(answer).status in ("failed", "error")
        assert capsys.readouterr().out

    @pytest.mark.parametrize("make", [value, choice, function, bar])
    def test_outcome_is_shown_once(self, make, capsys):
        outcome = make().check(TODO)
        assert capsys.readouterr().out == f"{outcome}\n"

    def test_symbols_and_words_tell_the_outcomes_apart_not_only_colours(self):
        answers = {"passed": 0.9, "failed": 0.5, "error": "no", "unattempted": TODO}
        outcomes = {status: value().judge(answer) for status, answer in answers.items()}
        assert {status: outcome.status for status, outcome in outcomes.items()} == {
            each: each for each in answers
        }
        assert len({str(outcome)[0] for outcome in outcomes.values()}) == 4
        assert len({outcome.message.split("**")[1] for outcome in outcomes.values()}) == 4

    def test_a_cell_that_ends_in_check_shows_nothing_more(self):
        from IPython.core.formatters import DisplayFormatter

        assert DisplayFormatter().format(Outcome("passed", "Right.")) == ({}, {})

    def test_three_lines_are_enough_for_an_author(self):
        three = (
            Value("steps", 200, "Why.", tolerance=0.5),
            Choice("metric", "b", "Why.", options={"a": "accuracy", "b": "macro-F1"}),
            Function("double", lambda x: 2 * x, "Why.", cases=((2,), (0,), (-1.5,))),
        )
        for exercise, right, wrong in zip(three, (200, "b", lambda x: x + x), (100, "a", abs), strict=True):
            assert exercise.judge(right).passed
            assert judged(exercise, wrong) == ("failed", "")

    def test_wrong_answers_may_be_given_as_tuples(self):
        exercise = Value("steps", 200, "Why.", wrong=(("epochs", 3, "Those are the epochs."),))
        assert judged(exercise, 3) == ("failed", "epochs")


class TestCallback:
    def test_every_attempt_is_passed_on(self):
        seen = []
        exercise = value(on_outcome=lambda who, outcome: seen.append((who.name, outcome.status)))
        for answer in (TODO, 90, "ninety", 0.9):
            exercise.check(answer)
        assert seen == [("accuracy", "failed"), ("accuracy", "error"), ("accuracy", "passed")]

    def test_judging_passes_nothing_on(self):
        value(on_outcome=lambda *_: pytest.fail("recorded")).judge(0.9)

    def test_verdict_comes_before_its_record(self, capsys):
        seen = []
        value(on_outcome=lambda *_: seen.append(capsys.readouterr().out)).check(0.9)
        assert "Right." in seen[0]

    @pytest.mark.parametrize(
        "error", [OSError("disk full"), ExerciseError("No.", fix="free some"), KeyError("x")]
    )
    def test_a_record_that_fails_does_not_take_the_verdict_with_it(self, error, capsys):
        def record(*_):
            raise error

        assert value(on_outcome=record).check(0.9).passed
        assert "Not recorded in your journal" in capsys.readouterr().out

    def test_after_the_third_failure_in_a_row_help_is_offered(self):
        exercise = value()
        offered = [
            'lesson.stuck("accuracy")' in exercise.check(answer).message for answer in (90, "x", 0.1, 2, 90)
        ]
        assert offered == [False, False, True, False, False]
        assert 'lesson.stuck("accuracy")' in exercise.check(3).message.splitlines()[-1]

    def test_untried_checks_and_looking_count_for_nothing_and_a_pass_begins_anew(self):
        exercise = value()
        answers = (90, TODO, 90, 0.9, 90, 90)
        assert not any("stuck" in exercise.check(answer).message for answer in answers)
        for _ in range(5):
            exercise.judge(90)
        assert "stuck" in exercise.check(90).message


class TestHelp:
    def test_hints_come_step_by_step_and_lead_to_the_solution(self, capsys):
        exercise = value()
        shown = []
        for step in range(4):
            assert exercise.hints_given == step
            exercise.hint()
            shown.append(capsys.readouterr().out)
        assert exercise.hints_given == 3
        assert [text.count("Hint ") for text in shown] == [1, 2, 3, 3]
        assert shown[0] == "Hint 1 of 3: Count the right ones.\n"
        assert ["solution()" in text for text in shown] == [False, False, True, True]

    def test_hints_without_any_lead_to_the_solution_at_once(self, capsys):
        value(hints=()).hint()
        assert "solution()" in capsys.readouterr().out

    def test_hints_given_are_remembered_when_a_cell_makes_the_exercises_anew(self, monkeypatch):
        monkeypatch.setattr("lessonkit.exercises.base._counts", {})
        load_exercises("start-here")["what-it-starts-from"].hint()
        assert load_exercises("start-here")["what-it-starts-from"].hints_given == 1
        assert load_exercises("beginner/full-fine-tuning")["baseline"].hints_given == 0

    def test_nobody_else_sets_how_many_hints_were_given(self):
        with pytest.raises(AttributeError):
            value().hints_given = 2

    @pytest.mark.parametrize(
        ("make", "answer"),
        [(value, "0.9"), (choice, '`"a"`: The head'), (function, "return sum(numbers) / len(numbers)")],
    )
    def test_solution_shows_the_reference_and_why(self, make, answer, capsys):
        make().solution()
        shown = capsys.readouterr().out
        assert answer in shown
        assert make().because in shown
        assert make().spoken() in shown

    def test_a_functions_source_is_read_from_its_file_where_none_is_given(self, capsys):
        function(source="").solution()
        assert (
            "    def mean(numbers):\n        return sum(numbers) / len(numbers)\n" in capsys.readouterr().out
        )

    def test_help_is_no_attempt(self):
        exercise = value(on_outcome=lambda *_: pytest.fail("recorded"))
        exercise.hint()
        exercise.solution()


class TestShowing:
    def test_notebook_gets_escaped_html_and_plain_text(self, monkeypatch):
        shown = []
        monkeypatch.setattr("lessonkit.exercises.showing.in_notebook", lambda: True)
        monkeypatch.setattr("IPython.display.display", lambda content, raw: shown.append(content))
        value(because="a < b, **really** `x < y`\nand so on").check(0.9)
        (content,) = shown
        assert content["text/plain"] == "✅ Right. a < b, really `x < y`\nand so on"
        assert "✅ <strong>Right.</strong> a &lt; b, <strong>really</strong> <code" in content["text/html"]
        assert ">x &lt; y</code><br>and so on" in content["text/html"]

    @pytest.mark.parametrize("status", ["passed", "failed", "error", "unattempted", ""])
    def test_html_leaves_text_and_background_to_the_theme(self, status):
        html = rich_text(f"a `b` **c**\n{block('d')}", status)
        assert not re.search(r"(?<![-\w])(color|background(-color)?):", html)

    @given(some.text())
    def test_whatever_is_shown_is_escaped(self, text: str):
        tags = re.sub(
            r"</?(div|pre|code|strong|br)( [^<>]*)?>", "", rich_text(f"{text}\n{block(text)} {code(text)}")
        )
        assert "<" not in tags

    @given(some.text(alphabet="a`* \n", max_size=12))
    def test_code_is_shown_as_it_is_whatever_it_holds(self, text: str):
        wanted = " ".join(text.split())
        inside = re.findall(r"<code[^>]*>(.*?)</code>", rich_text(f"x {code(text)} y"))
        assert inside == ([wanted] if wanted else inside)

    def test_what_was_printed_is_set_apart(self):
        outcome = Outcome("passed", "**Right.**", printed="**a**\n```\n<b>")
        assert str(outcome) == "✅ Right.\nIt printed:\n    **a**\n    '''\n    <b>"
        assert re.search(r"<pre[^>]*>\*\*a\*\*\n'''\n&lt;b&gt;</pre>", rich_text(outcome.shown))

    def test_plain_text_keeps_asterisks_inside_code(self):
        assert plain_text("**Twice** is `x ** 2 ** 3`.") == "Twice is `x ** 2 ** 3`."

    def test_a_broken_screen_does_not_raise(self, monkeypatch):
        import io

        closed = io.StringIO()
        closed.close()
        monkeypatch.setattr("sys.stdout", closed)
        assert value().check(0.9).passed


class TestValue:
    @pytest.mark.parametrize(
        "answer", [0.9, 0.895, 0.905, "0.9", " 0.9 ", "90 %", "90%", Fraction(9, 10), Decimal("0.9")]
    )
    def test_close_enough_is_right_however_it_is_written(self, answer):
        assert value().judge(answer).passed

    def test_scalars_of_numpy_and_torch_count(self):
        import numpy as np
        import torch

        for right in (
            np.float32(0.9),
            np.array(0.9),
            np.array([0.9]),
            torch.tensor(0.9),
            torch.tensor([[0.9]]),
        ):
            assert value().judge(right).passed
        assert value().judge(torch.tensor(0.9, requires_grad=True)).passed
        assert value().judge(torch.tensor(0.9, dtype=torch.bfloat16)).passed
        assert value().judge(np.zeros(3)).status == "error"
        assert value().judge(torch.zeros(3)).status == "error"

    @pytest.mark.parametrize("answer", [0.8949, 0.9051, -0.9, 0, 10**300])
    def test_outside_the_tolerance_is_wrong(self, answer):
        assert value().judge(answer).status == "failed"

    def test_tolerance_may_be_a_share(self):
        exercise = value(reference=2000, tolerance=0, relative=0.01)
        assert [exercise.judge(each).passed for each in (1980, 2020, 1979, 2021)] == [
            True,
            True,
            False,
            False,
        ]

    @pytest.mark.parametrize("answer", [math.nan, math.inf, -math.inf, "nan"])
    def test_only_finite_numbers_count(self, answer):
        outcome = value().judge(answer)
        assert outcome.status == "error"
        assert "finite number" in outcome.message

    @pytest.mark.parametrize("answer", ["ninety", [0.9], {}, 0.9 + 1j, mean, 10**400])
    def test_what_is_no_number_is_told_by_its_type(self, answer):
        outcome = value().judge(answer)
        assert outcome.status == "error"
        assert type(answer).__name__ in outcome.message

    def test_true_is_no_number(self):
        import numpy as np
        import torch

        for answer in (True, np.bool_(True), torch.tensor(True)):
            outcome = value(reference=1).judge(answer)
            assert outcome.status == "error"
            assert "A number is wanted here, not `True`" in outcome.message

    def test_direction_is_told(self):
        assert "`0.95` is too large" in value().judge(0.95).message
        assert "`0.5` is too small" in value().judge(0.5).message

    def test_several_numbers_may_be_asked_for_in_any_container(self):
        import numpy as np
        import torch

        exercise = value(reference=[0.1, 0.2], wrong=(("swapped", (0.2, 0.1), "Swapped."),))
        for right in (
            [0.1, 0.2],
            (0.1, 0.2),
            np.array([0.1, 0.2]),
            torch.tensor([0.1, 0.2]),
            deque([0.1, 0.2]),
        ):
            assert exercise.judge(right).passed
        assert judged(exercise, np.array([0.2, 0.1])) == ("failed", "swapped")
        assert "Number 2 of 2: `0.3` is too large" in exercise.judge([0.1, 0.3]).message
        assert "2 numbers are wanted here, not 3 numbers" in exercise.judge([1, 2, 3]).message
        assert exercise.judge(0.1).status == "error"

    def test_what_knows_its_own_list_is_read_as_that_list(self):
        class Series:
            """A column of a table, which in some versions also says that it is a number, and then isn't."""

            def tolist(self):
                return [0.1, 0.2]

            def __float__(self):
                raise TypeError("cannot convert the series to float")

        assert value(reference=[0.1, 0.2], wrong=()).judge(Series()).passed

    def test_numbers_by_name_may_be_asked_for(self):
        exercise = value(reference={"first": 1, "last": 2}, wrong=())
        assert exercise.judge(UserDict(last=2, first="1.0", more=3)).passed
        assert "`last`: `1` is too small" in exercise.judge({"first": 1, "last": 1}).message
        assert "has no `last`" in exercise.judge({"first": 1}).message
        assert exercise.judge([1, 2]).status == "error"


class TestChoice:
    @pytest.mark.parametrize(
        "answer", ["a", "A", " a ", "(a)", "a)", "a.", "'a'", '"A"', "(A). ", "The head", "the head.", "`a`"]
    )
    def test_letter_may_be_written_many_ways(self, answer):
        assert choice().judge(answer).passed

    @pytest.mark.parametrize("answer", ["d", "", "ab", "the tail", 1, ["a"], {"a"}, b"a"])
    def test_what_is_no_letter_of_it_is_told_the_letters(self, answer):
        outcome = choice().judge(answer)
        assert outcome.status == "error"
        assert '`"a"`, `"b"`, `"c"`' in outcome.message


class TestFunction:
    def test_stub_is_untried(self):
        def not_written(numbers):
            raise NotImplementedError

        for stub in (lambda numbers: TODO, lambda numbers: ..., not_written):
            assert function().judge(stub).status == "unattempted"

    def test_missing_return_is_told(self):
        def answer(numbers):
            sum(numbers) / len(numbers)

        outcome = function().judge(answer)
        assert outcome.status == "failed"
        assert "returns None: is a `return` missing?" in outcome.message

    def test_raising_is_told_with_the_case_and_the_learners_line(self):
        def answer(numbers):
            index = 1
            return numbers[index]

        outcome = function(cases=(([4, 4],), ([4.0],))).judge(answer)
        assert (outcome.status, outcome.diagnosis) == ("failed", "raises")
        line = answer.__code__.co_firstlineno + 2
        wanted = f"`answer([4.0])` raises `IndexError: list index out of range`, in line {line}: `return numbers[index]`"
        assert wanted in outcome.message

    def test_the_line_is_the_learners_also_where_a_library_raised(self):
        def answer(numbers):
            return json.loads(numbers)

        line = answer.__code__.co_firstlineno + 1
        assert f"in line {line}: `return json.loads(numbers)`" in function().judge(answer).message

    def test_wrong_number_of_arguments_is_told(self):
        outcome = function().judge(lambda: 2)
        assert outcome.diagnosis == "raises"
        assert "TypeError" in outcome.message

    def test_wrong_result_is_told_with_what_was_wanted(self):
        assert (
            "`your_function([1, 2, 3])` returns `7`, not `2.0`."
            in function().judge(lambda numbers: 7).message
        )

    @pytest.mark.parametrize(
        ("result", "told"),
        [
            ("2.0", "which is text; the number `2.0` is wanted"),
            (True, "`True`, but a number is wanted"),
            ((each for each in "abc"), "a generator: it has a `yield`"),
            (iter([2.0]), "wrap it in `list(...)`"),
            (mean, "a function: are the brackets"),
            ([2.0], "`[2.0]`, not `2.0`"),
            (object(), "`a object`, not `2.0`"),
            (2.0000001e9, "`2e+09`, not `2.0`"),
        ],
    )
    def test_wrong_type_is_told(self, result, told):
        outcome = function().judge(lambda numbers: result)
        assert outcome.status == "failed"
        assert told in outcome.message

    def test_a_coroutine_is_told_and_nobody_waits_for_it(self):
        async def answer(numbers):
            return mean(numbers)

        assert "write `def` without `async`" in function().judge(answer).message

    def test_a_small_difference_is_shown_in_all_digits(self):
        message = function(tolerance=0, relative=0).judge(lambda numbers: mean(numbers) + 1e-12).message
        assert "returns `2.000000000001`, not `2.0`" in message

    def test_large_arrays_are_told_by_their_shape(self):
        import torch

        exercise = function(lambda x: x, cases=((torch.zeros(20, 30),),))
        assert "`an array or tensor of shape (20, 30)`" in exercise.judge(lambda x: x + 1).message

    def test_long_cases_are_shortened(self):
        exercise = function(cases=(([1] * 500,),))
        assert len(exercise.judge(lambda numbers: 0).message) < 300

    def test_changing_the_input_does_not_spoil_the_check_and_is_told(self):
        def answer(numbers):
            total = 0
            count = len(numbers)
            while numbers:
                total += numbers.pop()
            return total / count

        for _ in range(2):
            exercise = function()
            assert exercise.judge(answer).passed
            assert "also changes what it is given" in exercise.judge(answer).message
            assert exercise.cases == (([1, 2, 3],), ([4.0],))
            assert "changes" not in exercise.judge(mean).message

    def test_where_purity_is_asked_for_changing_the_input_fails_with_its_own_diagnosis(self):
        def answer(numbers):
            numbers.sort(reverse=True)
            return mean(numbers)

        exercise = function(pure=True)
        assert judged(exercise, answer) == ("failed", "changes-its-input")
        assert "`answer([1, 2, 3])` changes what it is given" in exercise.judge(answer).message
        assert exercise.judge(mean).passed
        assert judged(exercise, lambda numbers: numbers.append(1)) == ("failed", "")

    def test_a_change_may_be_what_is_looked_at(self):
        def freeze(rows):
            for row in rows[:-1]:
                row["trained"] = False

        rows = [{"trained": True} for _ in range(3)]
        exercise = function(
            freeze, cases=((rows,),), wrong=(), look=lambda result, rows: [each["trained"] for each in rows]
        )
        outcome = exercise.judge(freeze)
        assert outcome.passed
        assert "changes" not in outcome.message
        message = exercise.judge(lambda rows: None).message
        assert "`[True, True, True]`, not `[False, False, True]`" in message

    def test_being_right_once_is_not_enough(self):
        assert function().judge(lambda numbers: 2.0).status == "failed"

    def test_named_wrong_answer_may_raise(self):
        wrong = (
            WrongAnswer("indexes", lambda numbers: numbers[2], "Not every list has three."),
            WrongAnswer("forgets to divide", sum, "Divide."),
        )
        exercise = function(wrong=wrong)
        assert judged(exercise, lambda numbers: numbers[2]) == ("failed", "indexes")
        assert judged(exercise, sum) == ("failed", "forgets to divide")

    def test_error_may_be_the_right_answer(self):
        class OwnError(ValueError):
            pass

        def reference(r, kind=ValueError):
            if r <= 0:
                raise kind("r must be positive")
            return r

        exercise = function(reference, cases=((1,), (0,)))
        assert exercise.judge(reference).passed
        assert exercise.judge(lambda r: reference(r, OwnError)).passed
        assert "should raise `ValueError`" in exercise.judge(lambda r: r).message
        assert "It should raise `ValueError`" in exercise.judge(lambda r: reference(r, KeyError)).message

    def test_numbers_are_compared_within_the_tolerance_at_any_depth(self):
        exercise = function(lambda: {"a": [0.3, (1, 2)]}, cases=((),))
        assert exercise.judge(lambda: {"a": [0.1 + 0.2, (1, 2)]}).passed
        assert not exercise.judge(lambda: {"a": [0.31, (1, 2)]}).passed
        assert not exercise.judge(lambda: {"b": [0.3, (1, 2)]}).passed
        assert not exercise.judge(lambda: {"a": [0.3, (1, 2, 3)]}).passed

    def test_float32_is_exact_enough(self):
        import torch

        exercise = function(lambda x: x / 3, cases=((0.7,), (1e8,)))
        assert exercise.judge(lambda x: torch.tensor(x) / 3).passed

    def test_whole_numbers_are_exact_however_large(self):
        """Ten parameters too many of 22 million are a mistake, not a rounding."""
        import numpy as np

        exercise = function(lambda count: count, cases=((22_713_216,), ([22_713_216, 4],)))
        assert exercise.judge(lambda count: np.array(count)).passed
        wrong = (
            lambda count: np.array(count) + 10,
            lambda count: [22_713_226, 4] if count == [22_713_216, 4] else count,
        )
        assert not any(exercise.judge(answer).passed for answer in wrong)
        roughly = function(lambda count: count, cases=((22_713_216,),), relative=0.01)
        assert roughly.judge(lambda count: count + 10).passed

    def test_nan_equals_only_nan(self):
        exercise = function(lambda: math.nan, cases=((),))
        assert exercise.judge(lambda: math.nan).passed
        assert exercise.judge(lambda: 0.0).status == "failed"
        assert function().judge(lambda numbers: math.nan).status == "failed"

    def test_arrays_and_tensors_are_compared_by_their_numbers(self):
        import numpy as np
        import torch

        exercise = function(lambda: torch.eye(2), cases=((),))
        for right in (
            torch.eye(2, requires_grad=True) + 1e-12,
            np.eye(2),
            [[1, 0], [0, 1]],
            ((1.0, 0), (0, 1)),
            torch.eye(2, dtype=torch.bfloat16),
            torch.eye(2).to_sparse(),
            [torch.tensor([1.0, 0.0]), np.array([0, 1])],
        ):
            assert exercise.judge(lambda right=right: right).passed
        assert exercise.judge(lambda: torch.ones(2, 2)).status == "failed"
        assert "the shape `(3, 3)`, not `(2, 2)`" in exercise.judge(lambda: torch.eye(3)).message
        assert exercise.judge(lambda: 1.0).status == "failed"

    def test_tensors_as_input_are_not_shared(self):
        import torch

        exercise = function(lambda x: x + 1, cases=((torch.zeros(2),),))
        assert exercise.judge(lambda x: x.add_(1)).passed
        assert exercise.judge(lambda x: x.add_(1)).passed

    def test_chance_is_the_same_for_everybody(self):
        import random

        import numpy as np
        import torch

        def draw():
            return [random.random(), np.random.random(), torch.rand(2)]

        exercise, told = function(draw, cases=((), ())), set()
        assert exercise.judge(lambda: draw()).passed
        for seed in range(3):
            random.seed(seed)
            torch.manual_seed(seed)
            told.add(exercise.judge(lambda: [*draw(), 0]).message)
        assert len(told) == 1

    def test_the_callers_no_grad_holds_for_the_answer(self):
        import torch

        exercise = function(lambda: False, cases=((),))
        with torch.no_grad():
            assert exercise.judge(torch.is_grad_enabled).passed
        assert not exercise.judge(torch.is_grad_enabled).passed

    def test_what_is_no_function_is_told(self):
        outcome = function().judge(2.0)
        assert outcome.status == "error"
        assert "A function is wanted here" in outcome.message
        assert "float" in outcome.message


class TestBar:
    def test_the_bar_is_the_scales_own(self):
        nine_of_ten = [*LABELS[:9], 0]
        assert bar().judge(nine_of_ten).passed
        failed = bar(scale="gpu").judge(nine_of_ten)
        assert judged(bar(scale="gpu"), nine_of_ten) == ("failed", "")
        assert "Accuracy `0.900` on 10 texts; the bar is 0.95" in failed.message

    def test_the_scale_is_the_lessons(self):
        for scale in ("smoke", "laptop", "gpu"):
            lesson = Lesson("beginner/full-fine-tuning", "Title", SimpleNamespace(scale=scale), journal=None)
            assert lesson.exercise("more-texts").scale == scale

    def test_one_bar_may_hold_for_all_scales(self):
        assert bar(bar=0.9, scale="gpu").judge([*LABELS[:9], 0]).passed

    def test_smoke_scale_measures_and_judges_nothing(self):
        for answer in ([*LABELS[:9], 0], [0] * 10):
            outcome = bar(scale="smoke").judge(answer)
            assert outcome.status == "unattempted"
            assert "Measured" in outcome.message
            assert "proves nothing" in outcome.message
        assert "`0.300`" in outcome.message

    def test_lower_may_be_better(self):
        exercise = bar(
            measure=lambda answer, _: answer, wrong=(), higher_is_better=False, score_name="loss", bar=0.5
        )
        assert [exercise.judge(loss).passed for loss in (0.4, 0.5, 0.51)] == [True, True, False]

    def test_a_score_that_is_no_number_has_its_own_diagnosis(self):
        exercise = bar(measure=lambda answer, _: math.nan, wrong=())
        assert judged(exercise, [1]) == ("failed", "not-a-number")

    def test_a_model_that_saw_the_held_out_data_does_not_pass(self):
        assert judged(bar(), list(LABELS)) == ("failed", "the-labels")

    def test_a_score_just_below_the_bar_does_not_read_as_if_it_reached_it(self):
        exercise = bar(measure=lambda answer, _: answer, wrong=(), bar=0.9)
        assert "`0.89996`" in exercise.judge(0.89996).message

    @pytest.mark.parametrize("answer", [[1, 0], "text", 3, [[1]], {"a": 1}, ["earn"] * 10])
    def test_what_cannot_be_measured_is_told(self, answer):
        outcome = bar().judge(answer)
        assert outcome.status == "error"
        assert "raises" not in outcome.message

    def test_a_measure_that_fails_is_told(self):
        outcome = bar(measure=lambda answer, _: 1 / 0).judge([1])
        assert outcome.status == "error"
        assert "ZeroDivisionError" in outcome.message

    def test_predictions_may_come_as_scores_of_each_class(self):
        import numpy as np
        import torch

        scores = torch.nn.functional.one_hot(torch.tensor(LABELS), 2).float()
        assert share_right(scores, LABELS) == share_right(scores.numpy(), LABELS) == 1
        assert share_right(np.array(LABELS), LABELS) == share_right(tuple(LABELS), LABELS) == 1
        assert math.isnan(share_right(scores * math.nan, LABELS))


class TestPlainData:
    @given(
        some.recursive(
            some.none() | some.booleans() | some.integers() | some.floats() | some.text(), some.lists
        )
    )
    def test_data_equals_itself_and_tuples_equal_lists(self, data):
        def as_tuples(each):
            return tuple(as_tuples(one) for one in each) if isinstance(each, list) else each

        assert alike(plain(data), plain(data))
        assert alike(plain(as_tuples(data)), plain(data))
        assert not alike(plain([data]), plain(data))

    @given(some.floats(-1e6, 1e6), some.floats(0, 10), some.floats(-2, 2))
    def test_tolerance_counts_for_arrays_as_for_numbers(self, number, tolerance, share):
        import numpy as np

        other = number + share * tolerance
        single = alike(other, number, tolerance)
        assert single == alike(plain(np.array([other, 1.0])), [number, 1.0], tolerance)
        assert single == alike([other], plain(np.array([number])), tolerance)

    def test_sets_text_and_bytes_are_themselves(self):
        assert alike(plain({1, "a"}), plain({"a", 1}))
        assert not alike(plain({1, 2}), plain([1, 2]))
        assert not alike(plain("a"), plain(b"a"))
        assert not alike(plain(True), plain(1))


FOLDER = Path(package.__file__).parent
LESSONS = {
    lesson.id: lesson.id.replace("/", "_").replace("-", "_")
    for lesson in load_curriculum(check_files=False).lessons
}
WITH_EXERCISES = [name for name, module in LESSONS.items() if (FOLDER / f"{module}.py").is_file()]
ALL = [
    pytest.param(lesson, name, id=f"{lesson}:{name}")
    for lesson in WITH_EXERCISES
    for name in load_exercises(lesson)
]


class TestLessons:
    def test_every_module_belongs_to_a_lesson(self):
        engine = {
            "bar",
            "base",
            "functions",
            "kinds",
            "loading",
            "plain",
            "sandbox",
            "showing",
            "surroundings",
        }
        assert {path.stem for path in FOLDER.glob("*.py")} - engine - {"__init__"} <= set(LESSONS.values())

    def test_every_written_lesson_has_exercises_and_each_is_asked_in_its_source(self):
        for lesson in load_curriculum(check_files=False).lessons:
            if lesson.written and lesson.notebook:
                source = (FOLDER.parents[1] / lesson.source).read_text(encoding="utf-8")
                asked = re.findall(r'lesson\.exercise\("([\w-]+)"\)\.check\(', source)
                assert asked == list(load_exercises(lesson.id))  # also: no name twice

    def test_lesson_without_exercises_says_so(self):
        with pytest.raises(ExerciseError, match="no exercises yet"):
            load_exercises("no/such-lesson")

    def test_broken_module_is_not_taken_for_a_missing_one(self, tmp_path, monkeypatch):
        (tmp_path / "beginner_broken.py").write_text("import no_such_package_at_all\n")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        importlib.invalidate_caches()
        with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
            load_exercises("beginner/broken")

    @pytest.mark.parametrize("lesson", WITH_EXERCISES)
    def test_exercises_are_fresh_each_time(self, lesson: str):
        first, second = load_exercises(lesson), load_exercises(lesson)
        assert list(first) == list(second)
        assert first
        assert all(first[name] is not second[name] for name in first)

    @pytest.mark.parametrize("lesson", WITH_EXERCISES)
    def test_evidence_names_exercises_that_exist(self, lesson: str):
        wanted = {
            name for item in load_curriculum(check_files=False).items for name in item.evidence.exercises
        }
        here = {name.partition(":")[2] for name in wanted if name.partition(":")[0] == lesson}
        assert here <= set(load_exercises(lesson))

    def test_no_lesson_gives_a_name_twice(self):
        for lesson in WITH_EXERCISES:
            made = importlib.import_module(f"lessonkit.exercises.{LESSONS[lesson]}").exercises()
            assert len({each.name for each in made}) == len(made) == len(load_exercises(lesson))

    @pytest.mark.parametrize("lesson", ["base", "plain", "a.b", "../x", "", "no/such-lesson"])
    def test_a_name_that_is_no_lesson_has_none(self, lesson: str):
        """A journal may name anything."""
        with pytest.raises(ExerciseError, match="no exercises yet"):
            load_exercises(lesson)

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_stub_counts_as_untried(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        assert exercise.judge(TODO).status == "unattempted"
        if isinstance(exercise, Function):
            assert exercise.judge(lambda *_: TODO).status == "unattempted"

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_reference_passes_and_says_why(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        outcome = exercise.judge(exercise.made(exercise.reference))
        assert outcome.passed, outcome
        assert exercise.because
        assert exercise.because in outcome.message
        assert "changes" not in outcome.message

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_a_right_answer_written_in_another_way_is_accepted(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        assert exercise.also_right
        for other in exercise.also_right:
            assert other is not exercise.reference
            outcome = exercise.judge(exercise.made(other))
            assert outcome.passed, outcome

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_each_wrong_answer_fails_with_its_own_diagnosis(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        names = [wrong.name for wrong in exercise.wrong]
        assert len(names) >= 2
        assert len(set(names)) == len(names)
        assert not set(names) & set(RESERVED)  # what the engine itself says
        for wrong in exercise.wrong:
            outcome = exercise.judge(exercise.made(wrong.answer))
            assert (outcome.status, outcome.diagnosis) == ("failed", wrong.name), outcome
            assert wrong.says
            assert wrong.says in outcome.message

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_every_wrong_option_has_its_reason(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        if not isinstance(exercise, Choice):
            pytest.skip("only a choice has options")
        assert {wrong.answer for wrong in exercise.wrong} == set(exercise.options) - {exercise.reference}

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_smoke_scale_fails_nobody_for_a_score(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        if not isinstance(exercise, Bar):
            pytest.skip("only a bar depends on the scale")
        exercise.scale = "smoke"
        for example in (exercise.reference, *(wrong.answer for wrong in exercise.wrong)):
            assert exercise.judge(exercise.made(example)).status == "unattempted"

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_help_is_there(self, lesson: str, name: str, capsys):
        exercise = load_exercises(lesson)[name]
        assert exercise.hints
        assert all(exercise.hints)
        exercise.solution()
        shown = capsys.readouterr().out
        assert plain_text(exercise.because) in shown
        assert len(shown) > len(exercise.because) + 20  # there is more than the reason

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_shown_solution_of_a_function_is_a_right_answer(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        if not isinstance(exercise, Function):
            pytest.skip("only functions are shown as source that can be run alone")
        names = dict(vars(importlib.import_module(f"lessonkit.exercises.{LESSONS[lesson]}")))
        before = dict(names)
        exec(exercise.source, names)
        made = [each for key, each in names.items() if callable(each) and before.get(key) is not each]
        assert any(exercise.judge(each).passed for each in made)
