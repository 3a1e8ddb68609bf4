"""What an answer may not change: who prints where, the keyboard, random numbers, the folder, the settings.

``own_streams`` gives one thread a screen of its own and no keyboard, while every other thread's output goes
where it always went. ``restored`` puts back what an answer may have changed for the whole process.
"""

from __future__ import annotations

import builtins
import contextlib
import getpass
import io
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from lessonkit.errors import ExerciseError

__all__ = ["Printed", "own_streams", "restored", "same_chances"]

LINES, CHARACTERS = 20, 2_000  # of what an answer prints are shown

_screens: dict[int, Printed] = {}  # by thread
_installed = 0
_kept: dict[str, Any] = {}
_lock = threading.Lock()


class Printed(io.TextIOBase):
    """What one check's answers print: the first 20 lines or 2,000 characters are kept, the rest is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.characters = 0
        self.lines = 0

    encoding = "utf-8"  # type: ignore[assignment]

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Keep what still fits."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.characters += len(text)
        self.lines += text.count("\n")
        if len(self.text) < CHARACTERS and self.text.count("\n") < LINES:
            self.text += text[: CHARACTERS - len(self.text)]
        return len(text)

    def shown(self) -> str:
        """The beginning of what was printed, and how much was left out; empty if nothing was."""
        kept = "\n".join(self.text.split("\n")[:LINES])
        readable = "".join(each if each.isprintable() or each in "\n\t" else "�" for each in kept).rstrip()
        if self.characters == len(self.text) and not self.text[len(kept) :].strip():
            return readable
        left_out, lines = self.characters - len(kept), self.lines - kept.count("\n")
        return f"{readable}\n... {left_out:,} more characters, {lines:,} more lines"


class _ByThread:
    """Stands for ``sys.stdout`` or ``sys.stderr``: a guarded thread writes to its own screen, others as before."""

    def __init__(self, before: Any, instead: Callable[[Printed], Any] = lambda printed: printed) -> None:
        vars(self).update(_before=before if before is not None else io.StringIO(), _instead=instead)

    def _target(self) -> Any:
        printed = _screens.get(threading.get_ident())
        return self._before if printed is None else self._instead(printed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._target(), name, value)

    def __iter__(self) -> Any:
        return iter(self._target())


class _NoKeyboard(io.TextIOBase):
    """Stands for ``sys.stdin`` in a guarded thread: reading fails at once instead of waiting for ever."""

    def readable(self) -> bool:
        """It may be asked."""
        return True

    def read(self, size: int | None = -1) -> str:
        """Raise ExerciseError."""
        raise _no_typing()

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        """Raise ExerciseError."""
        raise _no_typing()


def _no_typing() -> ExerciseError:
    return ExerciseError(
        "Nobody can type anything while an answer is checked.",
        why="it asked for input(), or opened the debugger",
        fix="use what the function is given, and return the result",
    )


@contextlib.contextmanager
def own_streams(printed: Printed) -> Iterator[Callable[[], Callable[[], None]]]:
    """Inside the ``with``, a thread that calls the function given writes to ``printed``.

    The function returns another one, which ends that. Threads that don't call it notice nothing.
    """
    joined: list[int] = []

    def join() -> Callable[[], None]:
        ident = threading.get_ident()
        joined.append(ident)
        _screens[ident] = printed
        drop_displays = _hide_displays()

        def leave() -> None:
            _screens.pop(ident, None)
            drop_displays()

        return leave

    _install()
    try:
        yield join
    finally:
        for ident in joined:
            if _screens.get(ident) is printed:
                del _screens[ident]
        _uninstall()


def _install() -> None:
    global _installed
    with _lock:
        _installed += 1
        if _installed > 1:  # a check within a check
            return
        _kept.update(stdout=sys.stdout, stderr=sys.stderr, stdin=sys.stdin, input=builtins.input)
        _kept.update(getpass=getpass.getpass, breakpoint=sys.breakpointhook)
        sys.stdout, sys.stderr = _ByThread(sys.stdout), _ByThread(sys.stderr)
        sys.stdin = _ByThread(sys.stdin, lambda _printed: _NoKeyboard())
        builtins.input = _unless_guarded(builtins.input)
        getpass.getpass = _unless_guarded(getpass.getpass)
        sys.breakpointhook = _unless_guarded(sys.breakpointhook)
        shell = _shell()
        if shell is not None:  # exit() in a notebook ends the kernel; here it only ends the answer
            shell.ask_exit = _unless_guarded(shell.ask_exit, SystemExit)


def _uninstall() -> None:
    global _installed
    with _lock:
        _installed -= 1
        if _installed:
            return
        sys.stdout, sys.stderr, sys.stdin = _kept["stdout"], _kept["stderr"], _kept["stdin"]
        builtins.input, getpass.getpass = _kept["input"], _kept["getpass"]
        sys.breakpointhook = _kept["breakpoint"]
        shell = _shell()
        if shell is not None:
            vars(shell).pop("ask_exit", None)
        _kept.clear()


def _unless_guarded(before: Callable, error: Callable[[], BaseException] = _no_typing) -> Callable:
    def call(*args: Any, **settings: Any) -> Any:
        if threading.get_ident() in _screens:
            raise error()
        return before(*args, **settings)

    return call


def _shell() -> Any:
    """The IPython shell that runs this notebook, or None."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    shell = get_ipython()
    return shell if hasattr(shell, "ask_exit") else None


def _hide_displays() -> Callable[[], None]:
    """No pictures and tables from this thread: a function is called once for each case."""
    publisher = getattr(_shell(), "display_pub", None)
    if not hasattr(publisher, "register_hook"):
        return lambda: None

    def drop(_message: Any) -> None:
        return None

    publisher.register_hook(drop)
    return lambda: publisher.unregister_hook(drop)


# ---- What belongs to the whole process --------------------------------------------------------------


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Put back the random numbers, the folder, the environment and Python's recursion limit.

    So a checked notebook gives the same numbers as one whose exercises are untried.
    """
    environment, folder, depth = dict(os.environ), _folder(), sys.getrecursionlimit()
    give_back = _random_states()
    try:
        yield
    finally:
        give_back()
        if sys.getrecursionlimit() != depth:
            sys.setrecursionlimit(depth)
        if dict(os.environ) != environment:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
        if folder and _folder() != folder:
            with contextlib.suppress(OSError):
                os.chdir(folder)


def same_chances() -> None:
    """Seed every generator alike, so that a verdict doesn't hang on chance."""
    random.seed(0)
    numpy, torch = _loaded("numpy"), _loaded("torch")
    if numpy is not None:
        numpy.random.seed(0)
    if torch is not None:
        torch.default_generator.manual_seed(0)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)


def _random_states() -> Callable[[], None]:
    """A function that sets every generator back to where it stands now."""
    back: list[Callable[[], Any]] = []
    state = random.getstate()
    back.append(lambda: random.setstate(state))
    numpy, torch = _loaded("numpy"), _loaded("torch")
    if numpy is not None:
        numbers = numpy.random.get_state()
        back.append(lambda: numpy.random.set_state(numbers))
    if torch is not None:
        tensor, dtype = torch.get_rng_state(), torch.get_default_dtype()
        back += [lambda: torch.set_rng_state(tensor), lambda: torch.set_default_dtype(dtype)]
        if torch.cuda.is_initialized():
            on_gpus = torch.cuda.get_rng_state_all()
            back.append(lambda: torch.cuda.set_rng_state_all(on_gpus))

    def give_back() -> None:
        for each in back:
            each()

    return give_back


def _loaded(name: str) -> Any:
    """A module that has been imported to its end, else None."""
    module = sys.modules.get(name)
    wanted = {"numpy": "random", "torch": "default_generator"}[name]
    return module if hasattr(module, wanted) else None


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been deleted
        return ""
