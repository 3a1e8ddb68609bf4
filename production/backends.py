"""One running version of the model: its process, whether it is ready, and how many answers it still owes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from production.processes import Process, free_port, start
from production.requests_checks import RefusedError, Request
from production.served_model import ServedModel

__all__ = ["Backend"]

#: Seconds after which a refused client may come again.
RETRY_AFTER = "1"


def unavailable(code: str, message: str) -> RefusedError:
    """503 with Retry-After: nothing is wrong with the request, it may come again."""
    return RefusedError(503, code, message, Retry_After=RETRY_AFTER)


class Backend:
    """A LitServe server for one version; see ``start``."""

    def __init__(self, served: ServedModel, options: dict[str, Any], folder: Path, timeout: float) -> None:
        self.served, self.options, self.folder, self.timeout = served, options, folder, timeout
        self.open, self.ready = 0, False  # requests in flight; whether a worker can answer
        self.process: Process | None = None
        self.http: aiohttp.ClientSession | None = None

    async def start(self, patience: float) -> None:
        """Start it and wait until it is ready. LessonError, with its last words, if it isn't within ``patience`` s."""
        await self.stop()
        port = free_port()
        words = [
            "python",
            "-m",
            "production.serving_api",
            "--model",
            str(self.served.folder),
            "--port",
            str(port),
        ]
        words += ["--version", self.served.version, "--timeout", str(self.timeout)]
        words += ["--adapters", json.dumps({name: str(each) for name, each in self.served.adapters.items()})]
        for name, value in self.options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        log = self.folder / f"model-{self.served.version}-{port}.log"
        self.process = await asyncio.to_thread(start, words, log, name=f"version {self.served.version}")
        await asyncio.to_thread(self.process.wait_for, f"http://127.0.0.1:{port}/health", patience)
        self.http = aiohttp.ClientSession(
            f"http://127.0.0.1:{port}",
            timeout=aiohttp.ClientTimeout(self.timeout),
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
        )
        self.ready = True

    async def classify(self, request: Request) -> dict[str, Any]:
        """Its answer; a lost worker, a lost process and a late answer are RefusedError 503: ask again."""
        if not self.ready or self.http is None:
            raise unavailable("not_ready", "No worker is ready now.")
        self.open += 1
        try:
            wanted = {"text": request.text, "adapter": request.adapter}
            async with self.http.post("/classify", json=wanted) as answer:
                if answer.status == 200:
                    return await answer.json()
        except TimeoutError:
            raise unavailable("timeout", f"No answer within {self.timeout:g} s.") from None
        except (aiohttp.ClientError, RuntimeError):  # RuntimeError: closed meanwhile, by a reload
            self.ready = False
            raise unavailable("worker_lost", "The server of this model was lost.") from None
        finally:
            self.open -= 1
        raise unavailable("worker_lost", "The worker was lost while it had this request.")

    async def look(self) -> None:
        """Bring ``ready`` up to date: LitServe's /health is 503 while it restarts a worker."""
        if self.http is None:
            return
        try:
            async with self.http.get("/health", timeout=aiohttp.ClientTimeout(5)) as answer:
                self.ready = answer.status == 200
        except (
            TimeoutError,
            aiohttp.ClientError,
            RuntimeError,
        ):  # RuntimeError: closed meanwhile, by a reload
            self.ready = False

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self.process is not None and not self.process.running

    async def drain(self, patience: float) -> None:
        """Wait until it owes no answer, at most ``patience`` seconds, and stop it."""
        end = asyncio.get_running_loop().time() + patience
        while self.open and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await self.stop()

    async def stop(self) -> None:
        """End its process and all workers."""
        self.ready = False
        if self.http is not None:
            await self.http.close()
            self.http = None
        if self.process is not None:
            await asyncio.to_thread(self.process.stop)
            self.process = None
