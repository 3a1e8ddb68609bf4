"""What a request must be before it may reach the model: a key, a size, JSON, the right types.

All of it is checked before the queue. Inside LitServe it would be too late: an HTTPException that ``decode_request``
raises in a batch is answered to *every* request of that batch.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lessonkit.errors import nearest

__all__ = ["Limits", "RefusedError", "Request", "check_key", "read_request"]


@dataclass(frozen=True)
class Limits:
    """max_body: bytes of a request's body. max_text: characters of a text."""

    max_body: int = 100_000
    max_text: int = 20_000


@dataclass(frozen=True)
class Request:
    """One text to classify; adapter None is the model itself."""

    text: str
    adapter: str | None = None


class RefusedError(Exception):
    """A request that is not served: status (HTTP), code (a word for programs), message (for people), headers."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> dict[str, dict[str, str]]:
        """The answer's JSON."""
        return {"error": {"code": self.code, "message": self.message}}


def check_key(header: str | None, key: str) -> None:
    """Refuse with 401 unless ``header`` is "Bearer KEY"; takes the same time however much of the key is right."""
    kind, _, given = (header or "").partition(" ")
    if kind.lower() != "bearer" or not given:
        raise RefusedError(
            401, "missing_key", "Send the header Authorization: Bearer KEY.", WWW_Authenticate="Bearer"
        )
    if not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise RefusedError(401, "wrong_key", "This key is not known here.", WWW_Authenticate="Bearer")


def read_request(body: bytes, adapters: Collection[str], limits: Limits) -> Request:
    """The request in a body. RefusedError with 400, 404, 413 or 422, each saying what is wrong."""
    if len(body) > limits.max_body:
        raise RefusedError(413, "body_too_large", f"The body may have {limits.max_body:,} bytes at most.")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "malformed_json", f"The body is no JSON: {str(error)[:100]}.") from None
    if not isinstance(found, dict):
        raise RefusedError(422, "wrong_type", 'The body must be an object such as {"text": "..."}.')
    unknown = sorted(set(found) - {"text", "adapter"})
    if unknown:
        raise RefusedError(422, "unknown_field", f"{unknown[0][:50]!r} is unknown; known: text, adapter.")
    text, adapter = found.get("text"), found.get("adapter")
    _check_text(text, limits)
    if adapter is not None and not isinstance(adapter, str):
        raise RefusedError(422, "wrong_type", "adapter must be a string or null.")
    if adapter is not None and adapter not in adapters:
        guess = nearest(adapter[:50], list(adapters), 1)
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        raise RefusedError(404, "unknown_adapter", f"There is no adapter {adapter[:50]!r} here.{hint}")
    return Request(text, adapter)


def _check_text(text: Any, limits: Limits) -> None:
    if not isinstance(text, str):
        raise RefusedError(422, "wrong_type", "text is missing, or is not a string.")
    if not text.strip():
        raise RefusedError(422, "empty_text", "text is empty, so there is nothing to classify.")
    if len(text) > limits.max_text:
        raise RefusedError(413, "text_too_long", f"text may have {limits.max_text:,} characters at most.")
    try:
        text.encode()
    except UnicodeEncodeError:  # "\ud800": JSON may spell it, a tokenizer can't read it
        raise RefusedError(422, "broken_text", "text holds half of a surrogate pair.") from None
