"""A client that asks again when the server says *not now*: 503, or no server; never longer than its deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import httpx

from lessonkit.errors import LessonError

__all__ = ["AnswerError", "Client", "pause", "told"]


class AnswerError(LessonError):
    """The server refused. status: HTTP's, 0 where nobody answered. code: the server's word for it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status or 'No answer'} ({code}): {message}")
        self.status, self.code = status, code


def pause(tries: int, retry_after: str | None, draw: Callable[[], float] = random.random) -> float:
    """Seconds until the next try: what the server asked for, else 0.1, 0.2, 0.4 ... up to 5; plus up to a quarter.

    tries: how many have failed. The random part keeps many clients from coming back at one moment.
    """
    try:
        least = max(0.0, float(retry_after or ""))
    except ValueError:  # absent, or a date, which this server doesn't send
        least = min(5.0, 0.1 * 2 ** (tries - 1))
    return least * (1 + draw() / 4)


class Client:
    """Asks one server. deadline: seconds for one call, all tries and pauses included; safe to share by threads."""

    def __init__(self, url: str, key: str, *, deadline: float = 30.0, connections: int = 64) -> None:
        self.deadline, self.tries_again = deadline, 0
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def classify(self, text: str, adapter: str | None = None) -> dict[str, Any]:
        """{"label", "score", "scores", "version", "adapter", "tokens", "id"}; the id is the prediction log's.

        AnswerError for a 4xx at once, for 503 at the deadline.

        Asking twice does no harm here: classifying changes nothing on the server.
        """
        end, tries = time.monotonic() + self.deadline, 0
        while True:
            tries += 1
            left = max(0.001, end - time.monotonic())
            retry_after = None
            try:
                answer = self._http.post("/classify", json={"text": text, "adapter": adapter}, timeout=left)
            except httpx.TransportError as error:
                failed = AnswerError(0, "no_answer", str(error) or type(error).__name__)
            else:
                if answer.status_code == 200:
                    return {**answer.json(), "id": answer.headers.get("x-request-id", "")}
                failed = AnswerError(answer.status_code, *told(answer))
                if answer.status_code != 503:
                    raise failed
                retry_after = answer.headers.get("retry-after")
            wait = pause(tries, retry_after)
            if time.monotonic() + wait >= end:
                raise failed
            self.tries_again += 1
            time.sleep(wait)


def told(answer: httpx.Response) -> tuple[str, str]:
    """(code, message) of a refusal."""
    try:
        error = answer.json()["error"]
        return str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "unknown", answer.text[:200]
