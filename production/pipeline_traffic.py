"""The servers of one pipeline command, and the rehearsed traffic that is sent to them.

Rehearsed: held-out texts that neither the training nor the gate has seen, each asked once. Real users are not in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from production.client import Client
from production.load_test import quantile
from production.processes import Process, free_port, start
from production.routing import Routing
from production.serving import KEY_VARIABLE, Serving

__all__ = ["Asked", "Servers", "as_toml", "ask_through", "milliseconds", "read_rows", "send_outcomes"]

ROOT = Path(__file__).resolve().parents[1]
ROUTER_KEY = "ROUTER_KEY"


def as_toml(section: str, settings: Any) -> str:
    """A dataclass of numbers, texts and truth values as one section of a settings file."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in asdict(settings).items()]
    return "\n".join([f"[{section}]", *lines, ""])


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """{"p50_ms", "p95_ms"} of times in seconds, by nearest rank; to a tenth."""
    return {f"p{share}_ms": round(1000 * quantile(seconds, share / 100), 1) for share in (50, 95)}


def read_rows(file: Path) -> list[dict[str, str]]:
    """The lines of the pipeline's ``traffic.jsonl``: {"text", "label"}."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@dataclass
class Served:
    """A server. version: of the registry. ready: seconds until it was, None before. log: its prediction log."""

    version: int
    url: str
    key: str = field(repr=False)
    log: Path
    process: Process
    patience: float
    begun: float = field(default_factory=time.monotonic)
    ready: float | None = None

    def client(self, connections: int = 8) -> Client:
        """A client of it; close it."""
        return Client(self.url, self.key, deadline=60.0, connections=connections)


class Servers:
    """Each version's server, started when it is first asked for; all end with this command at the latest.

    So a step that is resumed starts what it needs, and needs nothing that an earlier command left running.
    """

    def __init__(self, work: Path, folder: Path) -> None:
        self.work, self.folder, self.key = work, folder, secrets.token_urlsafe(32)
        self.router_key = secrets.token_urlsafe(32)
        self._served: dict[int, Served] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all of them."""
        for each in self._served.values():
            each.process.stop()
        self._served.clear()

    def _environment(self) -> dict[str, str]:
        return {
            KEY_VARIABLE: self.key,
            ROUTER_KEY: self.router_key,
            "PYTHONPATH": str(ROOT),
            "TOKENIZERS_PARALLELISM": "false",
        }

    def get(self, version: int, settings: Serving) -> Served:
        """The server of a version, ready. LessonError with its last words if it does not become ready."""
        found = self.begin(version, settings)
        if found.ready is None:
            try:
                found.process.wait_for(f"{found.url}/ready", found.patience)
            except BaseException:
                found.process.stop()
                raise
            found.ready = time.monotonic() - found.begun
        return found

    def begin(self, version: int, settings: Serving) -> Served:
        """Start the server of a version, if it doesn't run yet, and don't wait for it."""
        if version in self._served and self._served[version].process.running:
            return self._served[version]
        self.folder.mkdir(parents=True, exist_ok=True)
        port, log = free_port(), self.folder / f"predictions-{version}.jsonl"
        log.unlink(missing_ok=True)
        file = self.folder / f"server-{version}.toml"
        file.write_text(
            as_toml("serving", dataclasses.replace(settings, port=port, log=str(log))), encoding="utf-8"
        )
        words = ["python", "-m", "production.serving", "--alias", str(version), "--work", self.work]
        process = start(
            [*words, "--settings", file],
            self.folder / f"server-{version}.log",
            name=f"the server of version {version}",
            env=self._environment(),
        )
        url, patience = f"http://127.0.0.1:{port}", settings.start_patience + 30
        self._served[version] = Served(version, url, self.key, log, process, patience)
        return self._served[version]

    def route(self, a: Served, b: Served, rules: Routing, folder: Path) -> tuple[Process, str]:
        """A router before two of them, ready, and its address; stop it. folder: its log's, which must be empty."""
        port, file = free_port(), folder / "router.toml"
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(as_toml("router", dataclasses.replace(rules, port=port)), encoding="utf-8")
        words = ["python", "-m", "production.router", "--a", a.url, "--b", b.url, "--folder", folder]
        process = start(
            [*words, "--settings", file], folder / "router.log", name="the router", env=self._environment()
        )
        url = f"http://127.0.0.1:{port}"
        try:
            process.wait_for(f"{url}/health", 60)
        except BaseException:
            process.stop()
            raise
        return process, url


# ---- Through the router ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """One user's request. id: the router's. right: whether the label was the true one; False without an answer."""

    user: str
    status: int
    id: str
    right: bool


def ask_through(
    url: str, key: str, users: Iterable[str], rows: Sequence[Mapping[str, str]], at_once: int
) -> list[Asked]:
    """Each user asks one text, ``at_once`` of them at a time; with fewer rows than users, the last ones ask nothing."""
    pairs = list(zip(users, rows, strict=False))

    def ask(pair: tuple[str, Mapping[str, str]]) -> Asked:
        user, row = pair
        headers = {"X-User-Id": user, "Authorization": f"Bearer {key}"}
        answer = http.post("/classify", json={"text": row["text"]}, headers=headers)
        label = None
        with contextlib.suppress(ValueError, AttributeError):
            label = answer.json().get("label")
        return Asked(user, answer.status_code, answer.headers.get("x-request-id", ""), label == row["label"])

    with (
        httpx.Client(base_url=url, timeout=60, trust_env=False) as http,
        ThreadPoolExecutor(at_once) as pool,
    ):
        return list(pool.map(ask, pairs))


def send_outcomes(url: str, key: str, asked: Iterable[Asked]) -> None:
    """Tell the router which answers were right, in the order in which they were asked."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as http:
        for each in asked:
            if each.id:
                http.post("/outcome", json={"id": each.id, "value": int(each.right)}).raise_for_status()
