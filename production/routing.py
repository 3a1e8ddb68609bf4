"""What the router decides and remembers: arms, guardrails, rollback, and a log from which it resumes.

``production/router.py`` puts HTTP and a command around it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import Response
from fastapi.responses import JSONResponse

from production.ab import Guardrail, assign, point
from production.requests_checks import RefusedError

__all__ = ["Router", "Routing", "read_log"]

#: Requests whose outcome may still arrive.
REMEMBERED = 200_000
#: Requests of A with which B is compared, and the fewest that make a comparison.
WINDOW, FEWEST = 200, 20


@dataclass(frozen=True)
class Routing:
    """Section [router]. share: of users, that B gets. experiment: its name, which also salts the assignment.

    error_limit: share of B's requests that may fail, at least; twice A's share, where that is more. slow_factor: a
    request of B is slow if it takes so many times the p95 of A's last ones. slow_limit: share of B's that may be slow.
    level: probability of a rollback by mere luck, of each guardrail. timeout: seconds for a request.
    """

    port: int = 8080
    share: float = 0.5
    experiment: str = "first"
    error_limit: float = 0.02
    slow_factor: float = 2.0
    slow_limit: float = 0.2
    level: float = 0.005
    timeout: float = 10.0
    max_body: int = 100_000

    def __post_init__(self) -> None:
        if not 1024 <= self.port <= 65535:
            raise ValueError("port must lie between 1024 and 65535")
        if not 0 <= self.share <= 1:
            raise ValueError("share must lie between 0 and 1")
        if not (0 < self.error_limit < 0.5 and 0 < self.slow_limit < 1 and 0 < self.level < 1):
            raise ValueError("error_limit must lie between 0 and 0.5, slow_limit and level between 0 and 1")
        if min(self.slow_factor, self.timeout) <= 0 or not self.experiment:
            raise ValueError("slow_factor and timeout must be above 0, and the experiment needs a name")


def read_log(file: str | Path) -> list[dict[str, Any]]:
    """The log's lines, oldest first; a line torn by a crash is left out."""
    lines = []
    if Path(file).exists():
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


class Router:
    """Both servers, B's share, the guardrails and the log ``folder/router.jsonl``, from which it also resumes.

    transport: for tests, what stands in for the network.
    """

    def __init__(
        self,
        a: str,
        b: str,
        rules: Routing,
        folder: str | Path,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.rules, self.share, self.rolled_back = rules, rules.share, ""
        self.guardrails = {each: Guardrail(each, rules.level) for each in ("errors", "latency")}
        self.counts = {"A": 0, "B": 0}
        self.seconds_a: deque[float] = deque(maxlen=WINDOW)
        self.failed_a: deque[bool] = deque(maxlen=WINDOW)
        self.waiting: OrderedDict[str, bool] = OrderedDict()  # request -> whether its outcome is known
        self.http = {
            arm: httpx.AsyncClient(base_url=url, timeout=rules.timeout, transport=transport, trust_env=False)
            for arm, url in {"A": a, "B": b}.items()
        }
        self.file = Path(folder) / "router.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._resume()
        self.log("share", share=self.share, why="start" if not self.rolled_back else "start after a rollback")

    def _resume(self) -> None:
        """A rollback outlives a restart with the same command; so do requests whose outcome is still open."""
        if self.file.exists() and not self.file.read_bytes().endswith(b"\n"):
            with self.file.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in read_log(self.file):
            if line["event"] == "request":
                self._remember(line["id"])
            elif line["event"] == "outcome":
                self.waiting[line["id"]] = True
            elif line["experiment"] == self.rules.experiment:
                self.rolled_back = line["why"] if line["event"] == "rollback" else self.rolled_back
                if line["why"] == "again":
                    self.rolled_back = ""
        if self.rolled_back:
            self.share = 0.0

    def _remember(self, request: str) -> None:
        self.waiting[request] = False
        if len(self.waiting) > REMEMBERED:
            self.waiting.popitem(last=False)

    def log(self, event: str, **facts: Any) -> None:
        """One line, without texts and without the user's own id."""
        line = {"event": event, "time": round(time.time(), 3), "experiment": self.rules.experiment, **facts}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    async def classify(self, user: str, body: bytes, headers: dict[str, str]) -> Response:
        """Ask the user's arm. Where B fails, A answers: a canary costs its users time, not answers."""
        arm, request = assign(user, self.rules.experiment, self.share), secrets.token_hex(8)
        began = time.perf_counter()
        answer = await self._ask(arm, body, headers)
        seconds, failed = time.perf_counter() - began, answer is None or answer.status_code >= 500
        by = arm
        share = self.share
        self._watch(arm, failed, seconds)
        if failed and arm == "B":
            by, answer = "A", await self._ask("A", body, headers)
        status = 503 if answer is None else answer.status_code
        self.log(
            "request",
            id=request,
            user=f"{int(point(user, 'pseudonym ' + self.rules.experiment) * 2**53):014x}",
            arm=arm,
            share=share,
            answered_by=by,
            failed=failed,
            status=status,
            seconds=round(seconds, 4),
            version=_version(answer),
        )
        self._remember(request)
        if answer is None:
            refused = RefusedError(503, "server_lost", "The server did not answer.", Retry_After="1")
            return JSONResponse(refused.body(), 503, {**refused.headers, "X-Request-Id": request})
        kept = {
            each: answer.headers[each] for each in ("content-type", "retry-after") if each in answer.headers
        }
        return Response(answer.content, status, {**kept, "X-Request-Id": request})

    async def _ask(self, arm: str, body: bytes, headers: dict[str, str]) -> httpx.Response | None:
        try:
            return await self.http[arm].post("/classify", content=body, headers=headers)
        except (httpx.HTTPError, RuntimeError):  # RuntimeError: closed, as this server ends
            return None

    def _watch(self, arm: str, failed: bool, seconds: float) -> None:
        """Count a request, with what was known of A before it. A failed one has no time to compare."""
        self.counts[arm] += 1
        if arm == "A":
            self.failed_a.append(failed)
            if not failed:
                self.seconds_a.append(seconds)
            return
        rules = self.rules
        usual = sum(self.failed_a) / len(self.failed_a) if len(self.failed_a) >= FEWEST else 0.0
        self.guardrails["errors"].add(failed, min(0.5, max(rules.error_limit, 2 * usual)))
        if not failed and len(self.seconds_a) >= FEWEST:
            p95 = sorted(self.seconds_a)[int(0.95 * len(self.seconds_a))]
            self.guardrails["latency"].add(seconds > rules.slow_factor * p95, rules.slow_limit)
        for each in self.guardrails.values():
            if each.broken and not self.rolled_back:
                self.rolled_back, self.share = each.name, 0.0
                self.log(
                    "rollback", why=each.name, bad=each.bad, of=each.seen, evidence=round(each.evidence, 1)
                )

    def set_share(self, share: float, again: bool = False) -> None:
        """Change B's share. After a rollback, only with ``again``: somebody has found the cause; counting starts anew."""
        if self.rolled_back and share > 0 and not again:
            raise RefusedError(
                409,
                "rolled_back",
                f"B was rolled back ({self.rolled_back}). When that is mended, add --again.",
            )
        if again:
            self.rolled_back = ""
            self.guardrails = {each: Guardrail(each, self.rules.level) for each in self.guardrails}
        self.share = share
        self.log("share", share=share, why="again" if again else "command")

    def outcome(self, request: str, value: float) -> None:
        """Keep what became known of a request: 1 for a good outcome, 0 for a bad one."""
        if request not in self.waiting:
            raise RefusedError(404, "unknown_request", "No request with this id is waiting for its outcome.")
        if self.waiting[request]:
            raise RefusedError(409, "known_already", "This request has its outcome; the first one counts.")
        self.waiting[request] = True
        self.log("outcome", id=request, value=value)

    def state(self) -> dict[str, Any]:
        """What it does right now."""
        rails = {
            each.name: {"bad": each.bad, "of": each.seen, "evidence": each.evidence}
            for each in self.guardrails.values()
        }
        return {
            "share": self.share,
            "rolled_back": self.rolled_back,
            "requests": self.counts,
            "guardrails": rails,
        }


def _version(answer: httpx.Response | None) -> str | None:
    try:
        return answer.json().get("version") if answer is not None else None
    except (ValueError, AttributeError):
        return None
