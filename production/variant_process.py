"""The process that a bench starts for one variant: it loads it, runs it under load, and tells its own memory."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from multiprocessing.connection import Listener
from pathlib import Path

from lessonkit.errors import LessonkitError
from production.caching import Cache
from production.measure import closed_loop
from production.optimise import Setting, Variants, load


def _serve(port: int, key: bytes) -> None:
    with Listener(("127.0.0.1", port), authkey=key) as listener, listener.accept() as connection:
        worker = _Worker()
        with contextlib.suppress(EOFError):
            while True:
                words = json.loads(connection.recv_bytes())
                try:
                    found = getattr(worker, words.pop("do"))(**words)
                except Exception as error:  # told to the bench, which goes on without this kind
                    import traceback

                    traceback.print_exc()
                    said = (
                        error.what
                        if isinstance(error, LessonkitError)
                        else f"{type(error).__name__}: {error}"
                    )
                    found = {"failed": said}
                connection.send_bytes(json.dumps(found).encode())


class _Worker:
    def load(self, kind: str, threads: int, folder: str, files: dict[str, str]) -> dict:
        import tokenizers  # noqa: F401 - every variant needs it

        if files[kind].endswith(".onnx"):
            import onnxruntime  # noqa: F401
        else:
            import transformers.models.auto.modeling_auto  # noqa: F401 - brings torch
        self.libraries = _bytes()[0]
        variants = Variants(Path(folder), {name: Path(path) for name, path in files.items()}, {})
        self.classifier = load(variants, kind, threads)
        self.classifier(["a first text", "and another one"], 8)
        self.classifier(["a single text"], 8)
        return {}

    def run(self, texts: list[str], setting: dict, users: int, limit: float | None, warm: int) -> dict:
        each = Setting(**setting)

        def computed(some: list[str]) -> list[int]:
            return self.classifier(some, each.max_length).argmax(-1).tolist()

        for place in range(warm):
            some = [texts[(place * each.batch_size + one) % len(texts)] for one in range(each.batch_size)]
            computed(some)
        cache = Cache(each.cache) if each.cache else None  # an empty one is false
        answers, latencies, seconds = closed_loop(
            computed if cache is None else (lambda some: cache.answer(some, computed)),
            texts,
            users=users,
            batch_size=each.batch_size,
            limit=math.inf if limit is None else limit,
        )
        hits = 0 if cache is None else cache.hits
        return {"answers": answers, "latencies": latencies, "seconds": seconds, "hits": hits}

    def logits(self, texts: list[str], max_length: int) -> dict:
        return {"logits": self.classifier(texts, max_length).tolist()}

    def memory(self) -> dict:
        return {"libraries": self.libraries, "peak": _bytes()[1]}


def _bytes() -> tuple[int, int]:
    """Resident bytes of this process now, and at the most so far."""
    import psutil

    found = psutil.Process().memory_info()
    if sys.platform == "win32":
        return found.rss, found.peak_wset
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):  # getrusage would also count what the starter held before exec
                return found.rss, int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found.rss, peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    _serve(int(sys.argv[1]), os.environ["MEASURE_KEY"].encode())
