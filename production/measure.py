"""Speed, answers and memory of variants, each in a fresh process of its own: ``Bench``.

The load is a closed loop: so many users, each asks again when it has its answer. What a variant answers under load is
also what it is scored by. The process of one variant is variant_process.py.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path

from lessonkit.errors import DataError, LessonError
from production.load_test import quantile
from production.optimise import Setting, Variants
from production.processes import Process, free_port, start

__all__ = ["Bench", "Measured", "Memory", "closed_loop", "quantile"]

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 180.0  # seconds for a variant to load


@dataclass(frozen=True)
class Measured:
    """One setting under load. answers: classes of the first texts, in their order. latencies: seconds from a request to its
    answer. seconds: in all. users: that asked. hits: answers from the cache.
    """

    setting: Setting
    users: int
    answers: tuple[int, ...]
    latencies: tuple[float, ...]
    seconds: float
    hits: int = 0

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.answers) / self.seconds

    @property
    def p50(self) -> float:
        """Seconds within which half of the requests were answered."""
        return quantile(self.latencies, 0.5)

    @property
    def p95(self) -> float:
        """Seconds within which 95 % of the requests were answered."""
        return quantile(self.latencies, 0.95)

    def __add__(self, other: Measured) -> Measured:
        """Both measurements, one after the other."""
        if (self.setting, self.users) != (other.setting, other.users):
            raise DataError(
                "Two different settings can't be added up.", fix="add measurements of one setting"
            )
        return Measured(
            self.setting,
            self.users,
            self.answers + other.answers,
            self.latencies + other.latencies,
            self.seconds + other.seconds,
            self.hits + other.hits,
        )


@dataclass(frozen=True)
class Memory:
    """Bytes of RAM of one variant's process. libraries: before the model is read. peak: at the most, up to now."""

    libraries: int
    peak: int


def closed_loop(
    classify: Callable[[list[str]], Sequence[int]],
    texts: Sequence[str],
    *,
    users: int,
    batch_size: int,
    limit: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[int], list[float], float]:
    """Answers, latencies and seconds of a server that takes up to ``batch_size`` of the requests that wait, oldest first.

    Each of the users has one request in the queue or in work; answered, it asks the next text at once. After ``limit``
    seconds nobody asks any more. There is no network here, and no waiting for a batch to fill.
    """
    began = clock()
    following = min(users, len(texts))
    waiting = deque((place, began) for place in range(following))
    answers, latencies, done = [], [], began
    while waiting:
        batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
        answers += classify([texts[place] for place, _ in batch])
        done = clock()
        for _, asked in batch:
            latencies.append(done - asked)
            if following < len(texts) and done - began < limit:
                waiting.append((following, done))
                following += 1
    return answers, latencies, done - began


# ---- From outside: the bench ------------------------------------------------------------------------


class Bench:
    """All variants, each loaded in its own process, ready to be measured in any order; stop it, or use ``with``.

    variants: from ``optimise.make``. threads: for each variant, which work one at a time. log: a folder for what they
    print. left_out: kind -> why it could not be started, besides what ``make`` left out.
    """

    def __init__(self, variants: Variants, threads: int, log: str | Path, kinds: Iterable[str] = ()) -> None:
        self.variants, self.threads = variants, threads
        self.left_out = dict(variants.left_out)
        self._workers: dict[str, tuple[Process, Connection]] = {}
        kinds = [each for each in (kinds or variants.files) if each in variants.files]
        started = {}
        try:
            for kind in kinds:
                port, key = free_port(), os.urandom(16).hex()
                path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
                env = {"MEASURE_KEY": key, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
                env |= {"TOKENIZERS_PARALLELISM": "false"}
                words = ["python", "-W", "ignore", "-m", "production.variant_process", str(port)]
                started[kind] = start(words, Path(log) / f"{kind}.log", name=kind, env=env), port, key
            words = {"do": "load", "threads": threads, **_plain(variants)}
            for kind, (process, port, key) in started.items():
                with self._leaving_out(kind, process):
                    self._workers[kind] = process, _connected(process, port, key.encode())
                    self._begin(kind, words | {"kind": kind})
            for kind, (process, _) in list(self._workers.items()):  # they load side by side
                with self._leaving_out(kind, process):
                    self._end(kind)
        except BaseException:
            for process, _, _ in started.values():
                process.stop()
            raise

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def kinds(self) -> list[str]:
        """The kinds that are ready."""
        return list(self._workers)

    def stop(self) -> None:
        """End all processes."""
        for kind, (process, _) in list(self._workers.items()):
            self._drop(kind, process)

    def run(
        self,
        setting: Setting,
        texts: Sequence[str],
        *,
        users: int = 8,
        limit: float = math.inf,
        warm_up: int = 2,
    ) -> Measured:
        """One setting under a closed loop over the texts. warm_up: batches before the clock starts, of the first texts.

        A cache starts empty, also after the warm-up. limit: seconds after which no text is asked any more.
        """
        if not texts or users < 1:
            raise DataError("Without texts or users there is nothing to measure.", fix="pass both")
        given = {
            "texts": list(texts),
            "users": users,
            "limit": None if math.isinf(limit) else limit,
            "warm": warm_up,
        }
        found = self._ask(setting.kind, {"do": "run", **given, "setting": vars(setting)})
        return Measured(
            setting,
            users,
            tuple(found["answers"]),
            tuple(found["latencies"]),
            found["seconds"],
            found["hits"],
        )

    def run_all(
        self,
        settings: Iterable[Setting],
        texts: Sequence[str],
        *,
        rounds: int = 1,
        seed: int = 0,
        **options: float,
    ) -> dict[Setting, Measured]:
        """Each setting over the texts, in ``rounds`` parts; each part in another random order.

        So a machine that grows hotter or busier meanwhile is unjust to none of them. options: as of ``run``; a setting that
        its ``limit`` has cut gets no further part.
        """
        settings, draw, found, cut = list(settings), random.Random(seed), {}, set()
        for part in range(rounds):
            some = list(texts[part * len(texts) // rounds : (part + 1) * len(texts) // rounds])
            for each in draw.sample(settings, len(settings)):
                if each in cut:
                    continue
                measured = self.run(each, some, **options)
                found[each] = found[each] + measured if each in found else measured
                if len(measured.answers) < len(some):
                    cut.add(each)
        return {each: found[each] for each in settings}

    def logits(self, kind: str, texts: Sequence[str], max_length: int) -> list[list[float]]:
        """What one batch of these texts gives, shape (texts, classes)."""
        return self._ask(kind, {"do": "logits", "texts": list(texts), "max_length": max_length})["logits"]

    def memory(self, kind: str) -> Memory:
        """Of this kind's process, after all that it was asked so far."""
        return Memory(**self._ask(kind, {"do": "memory"}))

    def _ask(self, kind: str, words: dict) -> dict:
        if kind not in self._workers:
            raise LessonError(
                f"{kind} can't be measured here.",
                why=self.left_out.get(kind, "it was not asked for"),
                fix="leave it out",
            )
        self._begin(kind, words)
        return self._end(kind)

    def _begin(self, kind: str, words: dict) -> None:
        with contextlib.suppress(OSError):  # a process that is gone is told by _end
            self._workers[kind][1].send_bytes(json.dumps(words).encode())

    def _end(self, kind: str) -> dict:
        process, connection = self._workers[kind]
        try:
            while not connection.poll(0.5):
                if not process.running:
                    raise EOFError
            found = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            raise LessonError(
                f"The process of {kind} has ended.", why=process.tail(3), fix=f"read {process.log}"
            ) from None
        if "failed" in found:
            raise LessonError(f"{kind} failed.", why=found["failed"], fix=f"read {process.log}")
        return found

    @contextlib.contextmanager
    def _leaving_out(self, kind: str, process: Process) -> Iterator[None]:
        try:
            yield
        except LessonError as error:
            self.left_out[kind] = (error.why or error.what).strip().splitlines()[-1]
            self._drop(kind, process)

    def _drop(self, kind: str, process: Process) -> None:
        worker = self._workers.pop(kind, None)
        if worker:
            worker[1].close()
        process.stop()


def _plain(variants: Variants) -> dict:
    files = {kind: str(path) for kind, path in variants.files.items()}
    return {"folder": str(variants.folder), "files": files}


def _connected(process: Process, port: int, key: bytes) -> Connection:
    until = time.monotonic() + PATIENCE
    while process.running and time.monotonic() < until:
        with contextlib.suppress(ConnectionError):
            return Client(("127.0.0.1", port), authkey=key)
        time.sleep(0.05)
    raise LessonError(f"{process.name} did not start.", why=process.tail(3), fix=f"read {process.log}")
