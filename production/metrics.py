"""What the server tells about itself at GET /metrics, in Prometheus' text format.

Every label has a bounded set of values: each new combination is a time series that somebody stores. No text, no key
and no id of a request is ever a label.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from production.prediction_log import PredictionLog, safe_id

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["CONFIDENCE", "MOST_LABELS", "STATUSES", "Metrics", "add_metrics"]

#: Upper bounds of the histograms' buckets. Seconds; a probability; tokens; characters.
LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
CONFIDENCE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
TOKENS = (8, 16, 24, 32, 48, 64, 96, 128, 256, 512)
CHARACTERS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 20_000)
#: Statuses that get a label of their own; any other is "other".
STATUSES = ("200", "400", "401", "404", "405", "413", "422", "500", "503")
#: At most so many topics, and so many versions, get a label of their own in one server's life.
MOST_LABELS = 50


class Metrics:
    """A registry of its own, so that two servers in one process (tests, say) don't share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("classifier_requests", "Requests to /classify.", ["status"], **own)
        self.latency = Histogram(
            "classifier_latency_seconds", "Seconds from request to answer.", buckets=LATENCY, **own
        )
        self.confidence = Histogram(
            "classifier_confidence",
            "Probability of the topic that was answered.",
            ["version"],
            buckets=CONFIDENCE,
            **own,
        )
        self.predictions = Counter("classifier_predictions", "Answers.", ["label", "version"], **own)
        self.tokens = Histogram("classifier_input_tokens", "Tokens read of a text.", buckets=TOKENS, **own)
        self.characters = Histogram(
            "classifier_input_characters", "Characters of a text.", buckets=CHARACTERS, **own
        )
        self._known: dict[str, set[str]] = {"label": set(), "version": set()}
        for status in STATUSES:  # a counter that starts at 0 loses no first increase
            self.requests.labels(status)

    def _bounded(self, kind: str, value: Any) -> str:
        """The value, or "other" once ``MOST_LABELS`` values of this kind have been seen."""
        known, value = self._known[kind], str(value)[:100]
        if value not in known:
            if len(known) >= MOST_LABELS:
                return "other"
            known.add(value)
        return value

    def asked(self, status: int, seconds: float) -> None:
        """Count one request, whatever became of it. Only answers (200) are timed: refusals are quick, and hide slow ones."""
        self.requests.labels(str(status) if str(status) in STATUSES else "other").inc()
        if status == 200:
            self.latency.observe(seconds)

    def answered(self, characters: int, answer: dict[str, Any]) -> None:
        """Count what was read and said. answer: as of POST /classify; "tokens" may be missing."""
        version = self._bounded("version", answer["version"])
        self.confidence.labels(version).observe(answer["score"])
        self.predictions.labels(self._bounded("label", answer["label"]), version).inc()
        self.characters.observe(characters)
        if answer.get("tokens") is not None:
            self.tokens.observe(answer["tokens"])

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)


class _Watch:
    """ASGI middleware: times POST /classify, counts how it ended, and sends each request's id back."""

    def __init__(self, app: Any, metrics: Metrics, log: PredictionLog | None) -> None:
        self.app, self.metrics, self.log = app, metrics, log

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/classify":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = safe_id(given) or uuid.uuid4().hex
        state, began, status = scope.setdefault("state", {}), time.perf_counter(), 500
        state.pop("seen", None)

        async def sending(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            self.metrics.asked(status, seconds)
            if status == 200 and "seen" in state:
                text, answer = state["seen"]
                self.metrics.answered(len(text), answer)
                if self.log is not None:
                    self.log.add(request_id, text, answer, seconds)


def add_metrics(app: FastAPI, log: str | Path = "", keep_texts: bool = False) -> Metrics:
    """Give ``app`` GET /metrics, and count its POST /classify from now on.

    The route leaves (text, answer) in ``request.state.seen``. log: a JSONL file for what was predicted, "" for none.
    /metrics takes no key, as Prometheus expects it; the server listens on loopback only.
    """
    from fastapi import Response

    disable_created_metrics()  # else each series has a second one, with the moment of its birth
    metrics = Metrics()
    kept = PredictionLog(log, keep_texts) if log else None
    app.add_middleware(_Watch, metrics=metrics, log=kept)

    @app.get("/metrics")
    async def page() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return metrics
