"""Exercises judge fairly: right answers pass, wrong ones are told why, and nothing a learner passes in raises."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest

from lessonkit import exercises as package
from lessonkit.curriculum import load_curriculum
from lessonkit.errors import ExerciseError
from lessonkit.exercises import TODO, Choice, Exercise, Function, Outcome, Value, WrongAnswer, load_exercises


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


def judged(exercise: Exercise, answer) -> tuple[str, str]:
    outcome = exercise.judge(answer)
    return outcome.status, outcome.diagnosis


class Hostile:
    """An answer that fails at everything it is asked."""

    def __float__(self):
        raise ZeroDivisionError("no number")

    def __eq__(self, other):
        raise ZeroDivisionError("no comparison")

    __hash__ = None

    def __call__(self, *_):
        raise ZeroDivisionError("no call")

    def __repr__(self):
        raise ZeroDivisionError("no text")


class TestOutcomes:
    @pytest.mark.parametrize("make", [value, choice, function])
    def test_untried_is_neither_right_nor_wrong(self, make):
        for untried in (TODO, None):
            outcome = make().check(untried)
            assert outcome.status == "unattempted"
            assert not outcome.passed
            assert f'lesson.exercise("{make().name}").hint()' in outcome.message

    @pytest.mark.parametrize(("make", "right"), [(value, 0.9), (choice, "a"), (function, mean)])
    def test_right_passes_and_says_why(self, make, right):
        outcome = make().check(right)
        assert outcome.passed
        assert (outcome.status, outcome.diagnosis) == ("passed", "")
        assert make().because in outcome.message

    @pytest.mark.parametrize("make", [value, choice, function])
    def test_named_wrong_answers_get_their_own_diagnosis(self, make):
        for wrong in make().wrong:
            outcome = make().check(wrong.answer)
            assert (outcome.status, outcome.diagnosis) == ("failed", wrong.name)
            assert wrong.says in outcome.message

    @pytest.mark.parametrize(("make", "other"), [(value, 0.5), (function, min)])
    def test_other_wrong_answers_fail_without_a_name(self, make, other):
        outcome = make().check(other)
        assert (outcome.status, outcome.diagnosis) == ("failed", "")
        assert "hint()" in outcome.message

    @pytest.mark.parametrize("make", [value, choice, function])
    @pytest.mark.parametrize(
        "answer", [object(), [], {}, "xyz", Hostile(), b"", Hostile, range(3), Exception("x")]
    )
    def test_nothing_raises(self, make, answer, capsys):
        assert make().check(answer).status in ("failed", "error")
        assert capsys.readouterr().out

    @pytest.mark.parametrize("make", [value, choice, function])
    def test_outcome_is_shown_once(self, make, capsys):
        outcome = make().check(TODO)
        assert capsys.readouterr().out == f"{outcome}\n"

    def test_marks_tell_the_outcomes_apart(self):
        marks = {str(Outcome(status, "text"))[0] for status in ("passed", "failed", "error", "unattempted")}
        assert len(marks) == 4

    def test_a_cell_that_ends_in_check_shows_nothing_more(self):
        from IPython.core.formatters import DisplayFormatter

        assert DisplayFormatter().format(Outcome("passed", "Right.")) == ({}, {})

    def test_notebook_shows_escaped_html_and_plain_text(self, monkeypatch):
        from lessonkit.exercises import engine

        shown = []
        monkeypatch.setattr(engine, "in_notebook", lambda: True)
        monkeypatch.setattr("IPython.display.display", lambda content, raw: shown.append(content))
        value(because="a < b\nand so on").check(0.9)
        (content,) = shown
        assert content["text/plain"].endswith("a < b\nand so on")
        assert "a &lt; b<br>and so on" in content["text/html"]


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


class TestHelp:
    def test_hints_come_step_by_step_and_lead_to_the_solution(self, capsys):
        exercise = value()
        shown = []
        for _ in range(4):
            exercise.hint()
            shown.append(capsys.readouterr().out)
        assert [text.count("Hint ") for text in shown] == [1, 2, 3, 3]
        assert shown[0] == "Hint 1 of 3: Count the right ones.\n"
        assert ["solution()" in text for text in shown] == [False, False, True, True]

    @pytest.mark.parametrize(
        ("make", "answer"),
        [(value, "0.9"), (choice, '"a": The head'), (function, "return sum(numbers) / len(numbers)")],
    )
    def test_solution_shows_the_reference_and_why(self, make, answer, capsys):
        make().solution()
        shown = capsys.readouterr().out
        assert answer in shown
        assert make().because in shown

    def test_help_is_no_attempt(self):
        exercise = value(on_outcome=lambda *_: pytest.fail("recorded"))
        exercise.hint()
        exercise.solution()


class TestValue:
    @pytest.mark.parametrize("answer", [0.9, 0.895, 0.905, "0.9"])
    def test_close_enough_is_right(self, answer):
        assert value().judge(answer).passed

    @pytest.mark.parametrize("answer", [0.8949, 0.9051, -0.9, 0, True, 10**300])
    def test_outside_the_tolerance_is_wrong(self, answer):
        assert value().judge(answer).status == "failed"

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

    def test_direction_is_told(self):
        assert "0.95 is too large" in value().judge(0.95).message
        assert "0.5 is too small" in value().judge(0.5).message

    def test_scalars_of_numpy_and_torch_count(self):
        import numpy as np
        import torch

        assert value().judge(np.float32(0.9)).passed
        assert value().judge(torch.tensor(0.9)).passed
        assert value().judge(torch.tensor(0.9, requires_grad=True)).passed
        assert value().judge(np.zeros(3)).status == "error"
        assert value().judge(torch.zeros(3)).status == "error"


class TestChoice:
    @pytest.mark.parametrize("answer", ["a", "A", " a ", "(a)", "a)", "a.", "'a'", '"A"', "(A). "])
    def test_letter_may_be_written_many_ways(self, answer):
        assert choice().judge(answer).passed

    @pytest.mark.parametrize("answer", ["d", "", "ab", "The head", 1, ["a"], {"a"}, b"a"])
    def test_what_is_no_letter_of_it_is_told_the_letters(self, answer):
        outcome = choice().judge(answer)
        assert outcome.status == "error"
        assert '"a", "b", "c"' in outcome.message


class TestFunction:
    def test_stub_that_returns_todo_is_untried(self):
        assert function().judge(lambda numbers: TODO).status == "unattempted"

    def test_missing_return_is_told(self):
        def answer(numbers):
            sum(numbers) / len(numbers)

        outcome = function().judge(answer)
        assert outcome.status == "failed"
        assert "returns None: is a `return` missing?" in outcome.message

    def test_raising_is_told_with_the_case(self):
        def answer(numbers):
            return numbers[1]

        outcome = function(cases=(([4, 4],), ([4.0],))).judge(answer)
        assert (outcome.status, outcome.diagnosis) == ("failed", "raises")
        assert "([4.0],), it raises IndexError" in outcome.message

    def test_wrong_number_of_arguments_is_told(self):
        outcome = function().judge(lambda: 2)
        assert outcome.diagnosis == "raises"
        assert "TypeError" in outcome.message

    def test_wrong_result_is_told_with_what_was_wanted(self):
        message = function().judge(lambda numbers: 7).message
        assert "Called with ([1, 2, 3],), it returns 7, not 2.0." in message

    def test_wrong_type_is_a_wrong_answer(self):
        for result in ("2.0", [2.0], {"mean": 2.0}, object()):
            assert function().judge(lambda numbers, result=result: result).status == "failed"

    def test_long_cases_are_shortened(self):
        exercise = function(cases=(([1] * 500,),))
        assert len(exercise.judge(lambda numbers: 0).message) < 300

    def test_changing_the_input_does_not_spoil_the_check(self):
        def answer(numbers):
            total = 0
            count = len(numbers)
            while numbers:
                total += numbers.pop()
            return total / count

        exercise = function()
        assert exercise.judge(answer).passed
        assert exercise.judge(answer).passed
        assert exercise.cases == (([1, 2, 3],), ([4.0],))

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
        def reference(r):
            if r <= 0:
                raise ValueError("r must be positive")
            return r

        exercise = function(reference, cases=((1,), (0,)))
        assert exercise.judge(reference).passed
        assert "should raise ValueError" in exercise.judge(lambda r: r).message

    def test_numbers_are_compared_within_the_tolerance_at_any_depth(self):
        exercise = function(lambda: {"a": [0.3, (1, 2)]}, cases=((),))
        assert exercise.judge(lambda: {"a": [0.1 + 0.2, (1, 2)]}).passed
        assert not exercise.judge(lambda: {"a": [0.31, (1, 2)]}).passed
        assert not exercise.judge(lambda: {"b": [0.3, (1, 2)]}).passed
        assert not exercise.judge(lambda: {"a": [0.3, (1, 2, 3)]}).passed

    def test_nan_equals_only_nan(self):
        exercise = function(lambda: math.nan, cases=((),))
        assert exercise.judge(lambda: math.nan).passed
        assert exercise.judge(lambda: 0.0).status == "failed"
        assert function().judge(lambda numbers: math.nan).status == "failed"

    def test_arrays_and_tensors_are_compared_by_their_numbers(self):
        import numpy as np
        import torch

        exercise = function(lambda: torch.eye(2), cases=((),))
        assert exercise.judge(lambda: torch.eye(2, requires_grad=True) + 1e-12).passed
        assert exercise.judge(lambda: np.eye(2)).passed
        assert exercise.judge(lambda: torch.ones(2, 2)).status == "failed"
        assert exercise.judge(lambda: torch.eye(3)).status == "failed"
        assert exercise.judge(lambda: 1.0).status == "failed"

    def test_tensors_as_input_are_not_shared(self):
        import torch

        exercise = function(lambda x: x + 1, cases=((torch.zeros(2),),))
        assert exercise.judge(lambda x: x.add_(1)).passed
        assert exercise.judge(lambda x: x.add_(1)).passed

    def test_what_is_no_function_is_told(self):
        outcome = function().judge(2.0)
        assert outcome.status == "error"
        assert "A function is wanted here, not a float." in outcome.message


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
        modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "engine"}
        assert modules <= set(LESSONS.values())

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

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_stub_counts_as_untried(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        assert exercise.judge(TODO).status == "unattempted"
        if isinstance(exercise, Function):
            assert exercise.judge(lambda *_: TODO).status == "unattempted"

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_reference_passes_and_says_why(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        outcome = exercise.judge(exercise.reference)
        assert outcome.passed, outcome
        assert exercise.because
        assert exercise.because in outcome.message

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_each_wrong_answer_fails_with_its_own_diagnosis(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        names = [wrong.name for wrong in exercise.wrong]
        assert len(names) >= 2
        assert len(set(names)) == len(names)
        assert "raises" not in names  # what the engine itself says
        for wrong in exercise.wrong:
            outcome = exercise.judge(wrong.answer)
            assert (outcome.status, outcome.diagnosis) == ("failed", wrong.name), outcome
            assert wrong.says
            assert wrong.says in outcome.message

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_help_is_there(self, lesson: str, name: str, capsys):
        exercise = load_exercises(lesson)[name]
        assert exercise.hints
        assert all(exercise.hints)
        exercise.solution()
        assert exercise.because in capsys.readouterr().out

    @pytest.mark.parametrize(("lesson", "name"), ALL)
    def test_shown_solution_of_a_function_is_a_right_answer(self, lesson: str, name: str):
        exercise = load_exercises(lesson)[name]
        if not isinstance(exercise, Function):
            pytest.skip("only functions are shown as source")
        names = dict(vars(importlib.import_module(f"lessonkit.exercises.{LESSONS[lesson]}")))
        before = dict(names)
        exec(exercise.source, names)
        made = [each for key, each in names.items() if callable(each) and before.get(key) is not each]
        assert any(exercise.judge(each).passed for each in made)
