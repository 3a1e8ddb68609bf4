"""Processes that end with the one that started them: at ``stop()``, at the end of a ``with``, or when that one dies.

Each process runs under a small keeper (this module as a program), whose standard input is a pipe from its starter. The
system closes the pipe when the starter ends, however it ends: a notebook's kernel that is killed takes its servers with
it. The keeper then ends the whole process group, gently first.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from lessonkit.errors import LessonError

__all__ = ["Process", "check_port", "free_port", "start"]

#: Seconds between the gentle signal and the one that can't be refused.
PATIENCE = 10.0


class Process:
    """A running process with its log; see ``start``.

    pid: of the process itself (not of its keeper). log: the file with all that it prints.
    """

    def __init__(self, keeper: subprocess.Popen, pid: int, name: str, log: Path) -> None:
        self.pid, self.name, self.log = pid, name, log
        self._keeper = keeper

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._keeper.poll() is None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, at most ``timeout`` seconds, and give its exit code (negative: the signal that ended it).

        Raises subprocess.TimeoutExpired if it still runs then.
        """
        code = self._keeper.wait(timeout)
        if self._keeper.stdin and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
        return 128 - code if code > 128 else code

    def stop(self) -> int:
        """End it, gently first, with all that it has started; gives its exit code. Does nothing if it has ended."""
        if self._keeper.stdin and not self._keeper.stdin.closed:
            with contextlib.suppress(OSError):
                self._keeper.stdin.close()
        try:
            return self.wait(PATIENCE + 10)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            return self.wait()

    def tail(self, lines: int = 20) -> str:
        """The last lines that it printed."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def wait_for(self, url: str, timeout: float = 120.0) -> float:
        """Wait until ``url`` answers 200; gives the seconds that took. LessonError if it ends first, or is too late."""
        began = time.monotonic()
        while self.running:
            with (
                contextlib.suppress(OSError, urllib.error.URLError),
                urllib.request.urlopen(url, timeout=5) as answer,
            ):
                if answer.status == 200:
                    return time.monotonic() - began
            if time.monotonic() - began > timeout:
                raise LessonError(
                    f"{self.name} did not answer at {url} within {timeout:.0f} s.",
                    why=f"its last words: {self.tail(5)}",
                    fix=f"read {self.log}",
                )
            time.sleep(0.1)
        raise LessonError(
            f"{self.name} ended (exit code {self.wait()}) before it answered.",
            why=f"its last words: {self.tail(5)}",
            fix=f"read {self.log}",
        )


def start(
    command: Sequence[str | Path],
    log: str | Path,
    *,
    name: str = "",
    env: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
) -> Process:
    """Start a program that ends with this process at the latest.

    command: the program and its arguments; a first word "python" is this Python. log: the file for its output, made
    anew. env: variables on top of this process's. folder: where it runs. Raises LessonError for a program that is not
    there.
    """
    words = [str(each) for each in command]
    words[0] = sys.executable if words[0] == "python" else words[0]
    name, log = name or Path(words[0]).name, Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        keeper = subprocess.Popen(
            [sys.executable, __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=out,
            env={**os.environ, **(env or {}), "PYTHONUNBUFFERED": "1"},
            cwd=folder,
            start_new_session=True,
        )
    with keeper.stdout:
        first = keeper.stdout.readline().decode()
    if not first.startswith("started "):
        keeper.stdin.close()
        keeper.wait()
        raise LessonError(
            f"{words[0]} can't be started.",
            why=log.read_text(encoding="utf-8", errors="replace").strip(),
            fix="check that it is installed and on the PATH",
        )
    process = Process(keeper, int(first.split()[1]), name, log)
    atexit.register(process.stop)
    return process


def free_port() -> int:
    """A port of this computer that nothing listens on right now.

    A server listens on it only when its libraries are loaded, seconds later. So it is none of those that the system
    itself gives to connections and kernels meanwhile (from 32768 on Linux, from 49152 elsewhere).
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise LessonError(
        "No free port was found.",
        why="200 ports between 20000 and 32000 were tried",
        fix="end servers that you don't need",
    )


def check_port(port: int, host: str = "127.0.0.1") -> None:
    """Raise LessonError if something listens on the port already."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LessonError(
                f"Port {port} on {host} can't be used: {error.strerror}.",
                why="another program, perhaps an earlier start of this one, listens there",
                fix=f"end that program, or choose another port, such as {free_port()}",
            ) from None


def _keep(words: list[str]) -> int:
    """The keeper's whole life: start the program, end it when standard input closes, pass on its exit code."""
    windows = os.name == "nt"
    group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if windows else {"process_group": 0}
    try:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=sys.stderr, **group)
    except OSError as error:
        print(error.strerror or error, file=sys.stderr, flush=True)
        return 127
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a keeper that went first would leave the program behind
    print("started", child.pid, flush=True)
    threading.Thread(target=_end_on_close, args=(child,), daemon=True).start()
    code = child.wait()
    _signal(child, "SIGKILL")  # whatever it has left behind
    return 128 - code if code < 0 else code


def _end_on_close(child: subprocess.Popen) -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock a thread may not hold when Python ends
        pass
    _signal(child, "SIGTERM")
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        _signal(child, "SIGKILL")


def _signal(child: subprocess.Popen, name: str) -> None:
    with contextlib.suppress(OSError):
        if os.name == "nt":
            child.terminate()
        else:
            os.killpg(child.pid, getattr(signal, name))


if __name__ == "__main__":
    sys.exit(_keep(sys.argv[1:]))
