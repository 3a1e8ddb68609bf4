"""Running a learner's code so that it can't hurt the notebook.

The code runs in a thread of its own with a time limit, a limit for memory, a screen of its own and no keyboard.
A thread shares the learner's objects as they are, needs no pickling, and works alike in a Jupyter kernel on
Linux, macOS and Windows. When time is up, an exception is raised inside of it, again and again, until it ends.
What a thread can't be saved from: a single call into C that neither returns nor lets other threads run
(``10 ** 10 ** 10``), ``os._exit`` and a crash of the interpreter itself.
"""

from __future__ import annotations

import contextvars
import ctypes
import functools
import linecache
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType, FunctionType, MethodType, TracebackType
from typing import Any

from lessonkit.exercises.plain import type_name
from lessonkit.exercises.surroundings import Printed, own_streams, restored, same_chances

__all__ = ["GIB", "Place", "Ran", "Trouble", "code_of", "guarded"]

GIB = 2**30
TICK = 0.05  # seconds between two looks at the thread
GENTLY, FIRMLY = 0.6, 0.6  # seconds that are spent on ending a thread, first in one way, then in the other
STACK = 16 * 2**20  # bytes; some systems give threads too little for Python's own recursion limit

_raise_in = ctypes.PYFUNCTYPE(None, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


@dataclass(frozen=True)
class Place:
    """A line of the learner's code. number: from 1, in its cell or file. source: the line, where it is known."""

    number: int
    source: str = ""
    function: str = ""


@dataclass(frozen=True)
class Trouble:
    """An exception that the code raised: its type, its text and the learner's line that it came from."""

    kind: type[BaseException]
    text: str
    place: Place | None = None

    @property
    def name(self) -> str:
        """The type's name."""
        return self.kind.__name__


@dataclass
class Ran:
    """How it went.

    value: what the code returned. trouble: what it raised. stopped: ``""``, ``"time"`` or ``"memory"``.
    place: where it was when it was stopped. ended: False if it could not be stopped and goes on by itself.
    seconds: until it came back or its time was up.
    """

    value: Any = None
    trouble: Trouble | None = None
    stopped: str = ""
    place: Place | None = None
    ended: bool = True
    seconds: float = 0.0


@dataclass
class _Job:
    """What the two threads know of each other."""

    work: Callable[[], Any]
    codes: frozenset[CodeType]
    ran: Ran
    left: threading.Event = field(default_factory=threading.Event)
    leaving: bool = False
    disarm: Callable[[], Any] = lambda: None


class _Stop(SystemExit):
    """Raised inside a thread whose time is up; not an Exception, so that ``except Exception`` lets it pass."""


def guarded(
    work: Callable[[], Any],
    *,
    seconds: float,
    printed: Printed | None = None,
    code: CodeType | None = None,
    memory: float | None = 2 * GIB,
) -> Ran:
    """Run ``work()`` in a thread, at most so long.

    printed: takes what it prints. code: the learner's function, to name the line where something happened.
    memory: bytes that the process may grow by before the work is stopped; None for no limit.
    Raises nothing that the work raises; only KeyboardInterrupt, when the learner presses Stop.
    """
    job = _Job(work, frozenset([code] if code else []), Ran())
    started = time.monotonic()
    with restored(), own_streams(printed or Printed()) as join:
        thread = _start(job, join)
        try:
            job.ran.stopped = _wait(job, started + seconds, memory)
            job.ran.seconds = time.monotonic() - started
            if job.ran.stopped:
                job.ran.place = _now_at(thread, job.codes)
                job.ran.ended = _end(thread, job)
        except BaseException:  # Stop was pressed, here or while the thread was being ended
            _end(thread, job)
            raise
    ran = job.ran
    return replace(ran, value=None, trouble=None) if ran.stopped else ran


def _start(job: _Job, join: Callable[[], Callable[[], None]]) -> threading.Thread:
    context, grad = contextvars.copy_context(), _grad_mode()
    before = _set_stack(STACK)
    try:
        thread = threading.Thread(
            target=_main, args=(job, join, context, grad), name="lessonkit-check", daemon=True
        )
        thread.start()
    finally:
        _set_stack(before)
    return thread


def _main(job: _Job, join: Callable, context: contextvars.Context, grad: Callable[[], None]) -> None:
    """The thread. Two layers, for while the first one clears up, one more exception may be on its way."""
    leave = join()
    try:
        try:
            grad()
            same_chances()
            value = context.run(job.work)
            job.leaving = True
            job.ran.value = value
        except BaseException as error:
            job.leaving = True
            job.disarm()
            job.ran.trouble = _trouble(error, job.codes)
    except BaseException:
        job.disarm()
    try:
        leave()
    except BaseException:
        leave()
    job.left.set()


def _grad_mode() -> Callable[[], None]:
    """Sets a new thread to the caller's ``no_grad`` or ``inference_mode``; each thread has its own."""
    torch = sys.modules.get("torch")
    if not hasattr(torch, "is_grad_enabled"):
        return lambda: None
    enabled = torch.is_grad_enabled()
    return lambda: torch.set_grad_enabled(enabled)


def _set_stack(size: int) -> int:
    try:
        return threading.stack_size(size)
    except (ValueError, RuntimeError):  # a system that takes no wishes
        return 0


# ---- Waiting and stopping ---------------------------------------------------------------------------


def _wait(job: _Job, until: float, memory: float | None) -> str:
    """ "" if the thread ended by itself, else why it must be stopped."""
    used = _memory_meter() if memory is not None else None
    allowed = (used() + memory) if used is not None and memory is not None else float("inf")
    while not job.left.wait(max(0.0, min(TICK, until - time.monotonic()))):
        if used is not None and used() > allowed:
            return "memory"
        if time.monotonic() >= until:
            return "time"
    return ""


def _memory_meter() -> Callable[[], int] | None:
    try:
        import psutil
    except ImportError:
        return None
    process = psutil.Process()

    def used() -> int:
        try:
            return process.memory_info().rss
        except psutil.Error:
            return 0

    return used


def _end(thread: threading.Thread, job: _Job) -> bool:
    """Raise an exception in the thread until it has ended; whether it has.

    Gently at first: one at a time, so that what it holds is released in order. A loop with a bare
    ``except: pass`` swallows those, so then firmly: each exception that is raised has the next one follow.
    """
    ident = thread.ident
    if ident is None:
        return True
    _insist(thread, job, _Stop, GENTLY)
    if not job.left.is_set():
        firm, job.disarm = _relentless(ident)
        _insist(thread, job, firm, FIRMLY)
    return job.left.is_set() or not thread.is_alive()


def _insist(thread: threading.Thread, job: _Job, stop: type[BaseException], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and thread.is_alive() and not job.left.is_set():
        if not job.leaving:
            _raise_in(thread.ident, stop)
        job.left.wait(TICK / 2)


def _relentless(ident: int) -> tuple[type[BaseException], Callable[[], Any]]:
    """An exception that calls for its successor when it is raised, and a function that ends the line.

    Both are made of calls into C, in which no further exception can be raised.
    """
    stop = type("_Stop", (_Stop,), {})
    again = functools.partial(_raise_in, ident, stop)
    stop.__init__ = staticmethod(again)  # type: ignore[method-assign]
    return stop, functools.partial(setattr, stop, "__init__", SystemExit.__init__)


# ---- Whose line it was ------------------------------------------------------------------------------


def code_of(function: Any) -> CodeType | None:
    """The code of a function, a method, a partial or a callable object; None if it isn't Python."""
    for _ in range(10):
        if type(function) is functools.partial:
            function = function.func
        elif type(function) is MethodType:
            function = function.__func__
        else:
            break
    if type(function) is FunctionType:
        return function.__code__
    called = type.__dict__["__dict__"].__get__(type(function)).get("__call__")
    return called.__code__ if type(called) is FunctionType else None


def _trouble(error: BaseException, codes: frozenset[CodeType]) -> Trouble:
    try:
        text = str(error)[:600]
    except BaseException:
        text = "(its text can't be shown)"
    kind = type(error)
    if type_name(error) == "object":
        kind = Exception
    return Trouble(kind, text, _raised_at(error.__traceback__, codes))


def _raised_at(trace: TracebackType | None, codes: frozenset[CodeType]) -> Place | None:
    """The innermost line of the learner's file in the traceback."""
    files, found = {code.co_filename for code in codes}, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in files:
            found = _place(trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next
    return found


def _now_at(thread: threading.Thread, codes: frozenset[CodeType]) -> Place | None:
    """The innermost line of the learner's file that the thread is in now."""
    files = {code.co_filename for code in codes}
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_filename in files:
            return _place(frame, frame.f_lineno)
        frame = frame.f_back
    return None


def _place(frame: FrameType, number: int | None) -> Place:
    number = number or 0
    source = linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip()
    return Place(number, source[:120], frame.f_code.co_name)
