"""No answer hurts the notebook: whatever it does, ``check`` says so in words, comes back, and changes nothing."""

from __future__ import annotations

import _thread
import builtins
import contextlib
import gc
import io
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lessonkit.curriculum import load_curriculum
from lessonkit.errors import ExerciseError
from lessonkit.exercises import Exercise, Function, Value, functions, load_exercises, sandbox
from lessonkit.exercises.surroundings import CHARACTERS, LINES, Printed

SHORT = 0.25  # seconds that an answer may take here


def mean(numbers):
    return sum(numbers) / len(numbers)


def function(**changes) -> Function:
    fields = {"cases": (([1, 2, 3],), ([4.0],)), "seconds": SHORT}
    return Function("mean", mean, "Sum over count.", **(fields | changes))


def value() -> Value:
    return Value("share", 0.5, "Half of them.", seconds=SHORT)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Screen, keyboard, folder, environment, chance and threads are after a check what they were before."""
    import numpy as np
    import torch

    def state():
        return {
            "streams": (sys.stdout, sys.stderr, sys.stdin, builtins.input, sys.breakpointhook),
            "folder": os.getcwd(),
            "environment": {
                name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"
            },
            "chance": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
            "settings": (sys.getrecursionlimit(), torch.get_default_dtype(), torch.is_grad_enabled()),
        }

    before = state()
    yield
    assert state() == before
    until = time.monotonic() + 10
    while any(each.name == "lessonkit-check" for each in threading.enumerate()):
        assert time.monotonic() < until, "a thread has not ended"
        time.sleep(0.02)


# ---- Answers that never come back -------------------------------------------------------------------


def loops(numbers):
    while True:
        pass


def swallows(numbers):
    while True:
        try:  # noqa: SIM105
            mean(numbers)
        except:  # noqa: E722
            pass


def sleeps_and_swallows(numbers):
    while True:
        try:
            while True:
                try:  # noqa: SIM105
                    time.sleep(0.02)
                except:  # noqa: E722
                    pass
        except:  # noqa: E722
            pass


def never_finishes(numbers):
    try:
        loops(numbers)
    finally:
        loops(numbers)


@pytest.mark.parametrize("answer", [loops, swallows, sleeps_and_swallows, never_finishes])
def test_what_never_comes_back_is_stopped_and_the_case_and_line_are_named(answer):
    outcome = function().check(answer)
    assert (outcome.status, outcome.diagnosis) == ("failed", "too-slow")
    assert f"`{answer.__name__}([1, 2, 3])` had not come back after 0." in outcome.message
    assert ", in line " in outcome.message
    assert "It has been stopped." in outcome.message


def test_what_cannot_be_stopped_is_told_with_what_to_do(monkeypatch):
    monkeypatch.setattr(sandbox, "GENTLY", 0.05)
    monkeypatch.setattr(sandbox, "FIRMLY", 0.05)
    outcome = function().check(lambda numbers: time.sleep(1))
    assert outcome.diagnosis == "too-slow"
    assert "could not be stopped" in outcome.message
    assert "Kernel, Restart" in outcome.message


def test_only_one_case_is_waited_for():
    begun = []

    def answer(numbers):
        begun.append(numbers)
        loops(numbers)

    function().check(answer)
    assert len(begun) == 1


def test_many_slow_cases_are_too_slow_together():
    def answer(numbers):
        time.sleep(0.15)
        return mean(numbers)

    outcome = function(cases=(([1],),) * 50).check(answer)
    assert outcome.diagnosis == "too-slow"


def test_a_slow_reference_is_not_the_learners_fault():
    def reference(numbers):
        time.sleep(0.3)
        return mean(numbers)

    exercise = Function("mean", reference, "Why.", cases=(([1, 2],),), seconds=SHORT)
    assert exercise.check(mean).passed


def test_memory_that_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr(functions, "MEMORY", 2**28)

    def answer(numbers):
        kept = []
        while True:
            kept.append(bytearray(2**22))
            time.sleep(0.001)

    outcome = function(seconds=20).check(answer)
    assert outcome.diagnosis == "too-much-memory"
    assert "0.25 GiB" in outcome.message


# The stop may fall into the sampling of memory, whose open file is then left to Python's own tidying.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stop_button_ends_the_check_and_the_answer():
    ended = threading.Event()

    def press():  # again, should the first one fall into a finaliser, where Python drops it
        for _ in range(3):
            _thread.interrupt_main()
            if ended.wait(5):
                return

    timer = threading.Timer(0.3, press)
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        function(seconds=60).check(loops)
    ended.set()
    assert time.monotonic() - started < 20
    timer.join()


# ---- Answers that raise ------------------------------------------------------------------------------


def recurses(numbers):
    return recurses(numbers)


def exhausts(numbers):
    raise MemoryError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("by zero"), "`ZeroDivisionError: by zero`"),
        (SystemExit(3), "not with `exit()`"),
        (KeyboardInterrupt(), "`KeyboardInterrupt`"),
        (GeneratorExit(), "`GeneratorExit`"),
        (StopIteration(7), "`StopIteration: 7`"),
        (BaseExceptionGroup("several", [KeyboardInterrupt()]), "several"),
        (ValueError("x" * 100_000), "`ValueError: xxx"),
    ],
)
def test_whatever_is_raised_is_told(error, told):
    def answer(numbers):
        raise error

    outcome = function().check(answer)
    assert (outcome.status, outcome.diagnosis) == ("failed", "raises")
    assert told in outcome.message
    assert "`raise error`" in outcome.message
    assert len(outcome.message) < 1_000


@pytest.mark.parametrize(
    ("answer", "told"), [(recurses, "calls itself without end"), (exhausts, "not enough memory")]
)
def test_common_errors_are_put_into_words(answer, told):
    outcome = function().check(answer)
    assert outcome.diagnosis == "raises"
    assert told in outcome.message


def test_an_error_that_cannot_even_be_shown_is_told():
    class UnspeakableError(Exception):
        def __str__(self):
            raise self

    def answer(numbers):
        raise UnspeakableError

    assert "UnspeakableError" in function().check(answer).message


def test_errors_do_not_keep_the_answers_data_alive():
    class Big:
        alive = 0

        def __init__(self):
            Big.alive += 1

        def __del__(self):
            Big.alive -= 1

    def answer(numbers):
        big = Big()
        raise ValueError(str(big is None))

    kept = function().check(answer)
    gc.collect()
    assert kept.diagnosis == "raises"
    assert Big.alive == 0


# ---- Answers that print, ask and display -------------------------------------------------------------


def test_printing_is_shown_in_short(capsys):
    def answer(numbers):
        print("first")
        for _ in range(500):
            print("x" * 1_999)
        print("also here", file=sys.stderr)
        return mean(numbers)

    outcome = function(seconds=30).check(answer)
    shown = capsys.readouterr()
    assert outcome.passed
    assert "It printed:\n    first\n    xxx" in shown.out
    assert "... 1,998,0" in shown.out
    assert "more characters" in shown.out
    assert len(shown.out) < CHARACTERS + 500
    assert shown.err == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("one\n", "one"),
        ("\x1b[31mred\x1b[0m\n\n\n", "�[31mred�[0m"),
        ("1\n" * LINES, "\n".join("1" * LINES)),
        ("1\n" * (LINES + 2), "\n".join("1" * LINES) + "\n... 5 more characters, 3 more lines"),
    ],
)
def test_what_was_printed_is_cut_to_what_can_be_read(text, shown):
    printed = Printed()
    printed.write(text)
    assert printed.shown() == shown


def test_others_go_on_printing_where_they_did(capsys):
    stop = threading.Event()

    def others():
        while not stop.wait(0.01):
            print("another thread")

    thread = threading.Thread(target=others)
    thread.start()

    def answer(numbers):
        print("the answer")
        time.sleep(0.1)
        return mean(numbers)

    outcome = function(seconds=10).check(answer)
    stop.set()
    thread.join()
    assert outcome.printed == "the answer\nthe answer"
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("another thread") >= 5
    assert lines.count("    the answer") == 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda: input("Name? "),
        lambda: sys.stdin.readline(),
        lambda: next(iter(sys.stdin)),
        lambda: breakpoint(),
    ],
)
def test_asking_for_input_fails_at_once_with_the_reason(ask):
    outcome = function(seconds=20).check(lambda numbers: ask())
    assert outcome.diagnosis == "raises"
    assert "Nobody can type" in outcome.message


@pytest.mark.parametrize(
    "change",
    [
        lambda: setattr(sys, "stdout", io.StringIO()),
        lambda: sys.stdout.close(),
        lambda: setattr(sys, "stderr", None),
        lambda: setattr(builtins, "input", None),
        lambda: os.chdir("/"),
        lambda: os.environ.update(LESSONKIT_SCALE="gpu"),
        lambda: os.environ.clear(),
        lambda: random.seed(3),
        lambda: __import__("torch").manual_seed(3),
        lambda: __import__("torch").set_grad_enabled(False),
        lambda: __import__("torch").set_default_dtype(__import__("torch").float64),
        lambda: sys.setrecursionlimit(3_000),
    ],
)
def test_what_an_answer_changes_for_everybody_is_put_back(change, capsys):
    def answer(numbers):
        change()
        return mean(numbers)

    assert function().check(answer).passed
    assert "Right." in capsys.readouterr().out  # and see nothing_is_left_behind


def test_a_folder_that_the_answer_deletes_is_survived(tmp_path: Path):
    def answer(numbers):
        (tmp_path / "gone").mkdir(exist_ok=True)
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        return mean(numbers)

    assert function().check(answer).passed


def test_a_check_within_an_answer_works():
    def answer(numbers):
        assert value().check(0.5).passed
        return mean(numbers)

    assert function(seconds=20).check(answer).passed


# ---- Answers that are not what they seem -------------------------------------------------------------


class Hostile:
    """Fails at everything it is asked."""

    def _fails(self, *_, **__):
        raise ZeroDivisionError("no")

    __float__ = __eq__ = __call__ = __repr__ = __str__ = __len__ = __iter__ = __bool__ = __index__ = _fails
    __getitem__ = __contains__ = __getattr__ = __instancecheck__ = tolist = _fails
    __hash__ = None  # type: ignore[assignment]

    @property
    def __class__(self):
        raise ZeroDivisionError("no class")


class Endless:
    """Never comes back from anything."""

    def _waits(self, *_):
        loops([])

    __float__ = __eq__ = __call__ = __repr__ = __len__ = __iter__ = __bool__ = tolist = _waits
    __hash__ = None  # type: ignore[assignment]


class Meta(type):
    """A type that lies about its name."""

    @property
    def __name__(cls):
        raise ZeroDivisionError("no name")


class Nameless(metaclass=Meta):
    """Of that type."""


class LyingList(list):
    """Claims to be short, and to equal all."""

    def __len__(self):
        return 1

    def __eq__(self, other):
        return True

    def __iter__(self):
        return iter([2.0])


class LyingFloat(float):
    """Equals everything, at no distance."""

    def __eq__(self, other):
        return True

    def __sub__(self, other):
        return 0.0

    __hash__ = float.__hash__

    def __float__(self):
        return 0.5


def itself() -> list:
    around: list = []
    around.append(around)
    return around


def endless_numbers():
    while True:
        yield 1.0


def huge():
    import numpy as np

    return np.broadcast_to(np.float64(2.0), (10**9,))


def huge_tensor():
    import torch

    return torch.zeros(1).expand(10**9)


UNUSUAL = [
    Hostile,
    Endless,
    Nameless,
    lambda: LyingList([1, 2, 3]),
    lambda: LyingFloat(7),
    lambda: type(
        "LyingText", (str,), {"strip": lambda self, *_: "a", "__eq__": lambda *_: True, "__hash__": None}
    )("?"),
    itself,
    endless_numbers,
    huge,
    huge_tensor,
    lambda: range(10**12),
    lambda: {"a": itself()},
    lambda: [[[[]] * 10] * 10] * 10**5,
    lambda: "x" * 10**7,
    lambda: open(os.devnull),  # noqa: SIM115
    lambda: Hostile,
    lambda: sys,
    lambda: threading.Lock(),
    lambda: 10**5000,
    lambda: -0.0,
    lambda: memoryview(b"abc"),
    lambda: contextlib.nullcontext(),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("make", UNUSUAL, ids=range(len(UNUSUAL)))
@pytest.mark.parametrize("kind", [value, function])
def test_unusual_things_are_told_apart_from_right_answers(make, kind, capsys):
    thing = make()
    answers = [thing, (lambda numbers: thing)] if kind is function else [thing]
    for answer in answers:
        outcome = kind().check(answer)
        assert outcome.status in ("failed", "error")
        assert 10 < len(capsys.readouterr().out) < 2_000


def test_an_answer_cannot_reach_the_cases_that_come_after():
    def answer(numbers):
        result = mean(numbers)
        numbers.clear()
        numbers.extend([0] * 5)
        return result

    exercise = function()
    for _ in range(2):
        assert exercise.check(answer).passed
    assert exercise.check(mean).passed


def test_an_answer_that_gives_back_the_same_list_each_time_is_judged_as_it_was():
    kept = []

    def answer(numbers):
        kept.append(len(numbers))
        return kept

    exercise = Function("lengths", lambda numbers: [len(numbers)], "Why.", cases=(([1, 2],), ([3],)))
    outcome = exercise.check(answer)
    assert "returns `[2, 1]`, not `[1]`" in outcome.message


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_an_answer_that_reuses_its_array_is_right(library):
    zeros = __import__(library).zeros
    kept = zeros(1)

    def answer(numbers):
        kept[0] = len(numbers)
        return kept

    exercise = Function("lengths", lambda numbers: zeros(1) + len(numbers), "Why.", cases=(([1, 2],), ([3],)))
    assert exercise.check(answer).passed


def test_a_hundred_checks_leave_no_threads_behind():
    before = threading.active_count()
    for _ in range(100):
        function().judge(mean)
    assert threading.active_count() == before


# ---- Every exercise of every lesson ------------------------------------------------------------------


def every() -> list[tuple[str, str]]:
    """Each exercise that there is; that every written lesson has some is test_exercises.py's business."""
    found = []
    for lesson in load_curriculum(check_files=False).lessons:
        with contextlib.suppress(ExerciseError):
            found += [(lesson.id, name) for name in load_exercises(lesson.id)]
    return found


def fails(*_):
    raise ZeroDivisionError


def prints_a_megabyte(*_):
    print("x" * 2**20)


def changes(*given):
    for each in given:
        with contextlib.suppress(Exception):
            each[...] = 0


HOSTILE = [
    Hostile(),
    Endless(),
    LyingList([1]),
    huge(),
    itself(),
    object(),
    b"",
    "",
    1j,
    [],
    {},
    {"predicted": Hostile(), "trained_on": Endless()},
    loops,
    swallows,
    fails,
    prints_a_megabyte,
    changes,
    recurses,
    sys.exit,
    input,
]


@pytest.mark.parametrize(("lesson", "name"), every())
def test_hostile_answers_hurt_no_lesson(lesson: str, name: str, capsys):
    exercise: Exercise = load_exercises(lesson)[name]
    exercise.seconds = max(SHORT, exercise.seconds / 30)
    for answer in HOSTILE:
        assert exercise.check(answer).status in ("failed", "error")
        assert 10 < len(capsys.readouterr().out) < 4_000
    exercise.seconds = 120
    import torch

    with torch.random.fork_rng():  # the reference may be a model with random weights: not the check's doing
        right = exercise.made(exercise.reference)
    assert exercise.check(right).passed


# ---- In a real kernel --------------------------------------------------------------------------------


def test_in_a_real_kernel_exit_is_survived_and_the_stop_button_stops():
    from jupyter_client.manager import KernelManager

    root = str(Path(__file__).resolve().parents[1])
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel(env=os.environ | {"PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}, stderr=-3)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        make = "from lessonkit.exercises import Function\nf = Function('f', abs, 'Why.', cases=((1,),), seconds=60)"
        assert run_cell(client, make) == []
        told = {
            "exit()": "SystemExit",
            "input('?')": "Nobody can type",
            "display('a picture')": "returns None",
        }
        for answer, words in told.items():
            shown = run_cell(client, f"def answer(x):\n    {answer}\nf.check(answer)")
            assert [kind for kind, _ in shown] == ["display_data"]
            assert words in shown[0][1]["data"]["text/html"]
        stopped = run_cell(
            client, "print('now', flush=True)\nf.check(lambda x: [0 for _ in iter(int, 1)])", manager
        )
        assert [content.get("ename") for kind, content in stopped if kind == "error"] == ["KeyboardInterrupt"]
        (again,) = run_cell(client, "f.check(abs)")
        assert "Right." in again[1]["data"]["text/plain"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run_cell(client, code: str, manager=None) -> list[tuple[str, dict]]:
    """What a cell showed; with a manager, it is interrupted once it has printed something."""
    shown, asked = [], client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            return shown
        if kind in ("display_data", "execute_result", "error", "stream"):
            shown.append((kind, content))
        if kind == "stream" and manager is not None:
            time.sleep(0.3)
            manager.interrupt_kernel()
