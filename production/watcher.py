"""Where Prometheus isn't installed: reads /metrics, evaluates the same rules, and delivers to the same webhook.

One server, one process, nothing kept on disk: enough for a rehearsal on a laptop, and no more.
"""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from production.promql import Store, evaluate, parse
from production.rules import ALERTS, Alert, read_rules

__all__ = ["Watcher", "message"]

_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: no proxy


def message(alert: Alert, status: str, sender: str) -> dict:
    """What Alertmanager's webhook would send (version 4), with one alert in it. status: "firing" or "resolved"."""
    labels = {"alertname": alert.rule.alert, **alert.labels}
    began = datetime.fromtimestamp(alert.since, UTC).isoformat()
    one = {"status": status, "labels": labels, "annotations": alert.rule.annotations, "startsAt": began}
    return {"version": "4", "receiver": sender, "status": status, "alerts": [one]}


class Watcher:
    """Scrapes ``url``/metrics every ``seconds`` in a thread of its own, from ``start`` (or a ``with``) until ``stop``.

    webhook: where alerts are sent, once when they fire and once when they are resolved. problems: what went wrong in
    sending, newest last.
    """

    def __init__(
        self,
        url: str,
        webhook: str,
        rules: str | Path = ALERTS,
        seconds: float = 15.0,
        job: str = "classifier",
    ) -> None:
        self.url, self.webhook, self.seconds, self.job = url, webhook, seconds, job
        self.rules, self.store, self.problems = read_rules(rules), Store(), []
        self._sent: set[tuple] = set()
        self._last, self._ended = 0.0, threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End its thread."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def query(self, text: str, now: float | None = None) -> dict | float:
        """An expression's value on what was scraped so far; at ``now`` (seconds since 1970), by default at this moment."""
        with self._lock:
            return evaluate(parse(text), self.store, time.time() if now is None else now)

    def scrape(self, now: float) -> None:
        """Read the page once, as of ``now``. A page that can't be read is ``up`` 0, and ends all other series."""
        from prometheus_client.parser import text_string_to_metric_families

        try:
            with _LOCAL.open(f"{self.url}/metrics", timeout=max(1.0, self.seconds)) as answer:
                page = answer.read(10_000_000).decode()
            samples = [each for family in text_string_to_metric_families(page) for each in family.samples]
            up = 1.0
        except (OSError, ValueError):
            samples, up = [], 0.0
        where = {"job": self.job, "instance": self.url.removeprefix("http://")}
        with self._lock:
            seen = set()
            for name, labels, value in [("up", {}, up), *((s.name, s.labels, s.value) for s in samples)]:
                labels = {**labels, **where}
                self.store.add(name, labels, now, math.nan if value is None else value)
                seen.add((name, tuple(sorted(labels.items()))))
            self.store.end(self._last, seen, now)
            self._last = now

    def step(self, now: float) -> None:
        """Evaluate all rules, and send what is new."""
        with self._lock:
            firing, resolved = self.rules.step(self.store, now)
        keys = {(each.rule.alert, tuple(sorted(each.labels.items()))): each for each in firing}
        for key in sorted(set(keys) - self._sent):
            self._send(keys[key], "firing")
        for each in resolved:
            self._send(each, "resolved")
        self._sent = set(keys)

    def _watch(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due + self.seconds, time.monotonic())
            now = time.time()
            self.scrape(now)
            self.step(now)

    def _send(self, alert: Alert, status: str) -> None:
        body = json.dumps(message(alert, status, "watcher")).encode()
        request = urllib.request.Request(self.webhook, body, {"Content-Type": "application/json"})
        try:
            with _LOCAL.open(request, timeout=5):
                pass
        except OSError as error:  # the watch goes on: one webhook that is away must not end it
            self.problems.append(f"{alert.rule.alert} could not be delivered: {error}")
