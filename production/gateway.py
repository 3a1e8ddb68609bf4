"""What clients talk to: it checks each request, hands it to the version in service, and changes versions under load.

Blue/green: a reload starts the new version beside the old one, waits until it is ready, turns new requests to it, and
lets the old one finish what it has. If the new one does not start, the old one stays.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from lessonkit.errors import LessonkitError
from production.backends import Backend, unavailable
from production.metrics import add_metrics
from production.requests_checks import Limits, RefusedError, check_key, read_request

__all__ = ["Gateway", "build_app"]


class Gateway:
    """make: a fresh, unstarted Backend for the model that is to be served now. max_open: requests at one time."""

    def __init__(
        self, make: Callable[[], Backend], key: str, limits: Limits, max_open: int, start_patience: float
    ) -> None:
        self.make, self.key, self.limits, self.max_open = make, key, limits, max_open
        self.start_patience = start_patience
        self.current: Backend | None = None
        self.draining: set[asyncio.Task] = set()
        self.reloading = asyncio.Lock()

    async def reload(self) -> str:
        """Change to the model that ``make`` names now; gives its version. The old version serves until it is ready."""
        if self.reloading.locked():
            raise RefusedError(409, "already_reloading", "A reload is under way; wait for it.")
        async with self.reloading:
            new = None
            try:
                new = await asyncio.to_thread(self.make)
                await new.start(self.start_patience)
            except LessonkitError as error:
                if new is not None:
                    await new.stop()
                stays = f"Version {self.current.served.version} stays. " if self.current else ""
                raise RefusedError(422, "reload_refused", f"{stays}{error}") from error
            old, self.current = self.current, new
            if old is not None:
                task = asyncio.create_task(old.drain(2 * old.timeout))
                self.draining.add(task)
                task.add_done_callback(self.draining.discard)
            return new.served.version

    async def watch(self) -> None:
        """Look at the version in service twice a second; one whose whole process has ended is started again."""
        while True:
            await asyncio.sleep(0.5)
            backend = self.current
            if backend is None:
                continue
            await backend.look()
            if backend.ended and backend is self.current:  # not one that a reload has just ended
                with contextlib.suppress(LessonkitError):  # its log says why; the next look tries again
                    await backend.start(self.start_patience)
                if backend is not self.current:  # a reload went past meanwhile
                    await backend.stop()

    async def close(self) -> None:
        """Stop all that was started."""
        for task in list(self.draining):
            await task
        if self.current is not None:
            await self.current.stop()


async def _body(request: Request, most: int) -> bytes:
    """At most ``most`` bytes and a piece: of a larger body the rest is thrown away, up to 20 times as much.

    Thrown away, not left unread: a connection that is closed on unread bytes may lose the answer on its way.
    """
    found, seen = bytearray(), 0
    async for piece in request.stream():
        seen += len(piece)
        if len(found) <= most:
            found += piece
        if seen > 20 * most:
            break
    return bytes(found)


def build_app(gateway: Gateway, log: str = "", keep_texts: bool = False) -> FastAPI:
    """The HTTP contract: POST /classify, POST /reload, GET /health, GET /ready, GET /metrics.

    ``reload`` the gateway once before. log, keep_texts: of ``production.metrics.add_metrics``.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watcher = asyncio.create_task(gateway.watch())
        yield
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        await gateway.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.exception_handler(RefusedError)
    async def refuse(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def no_route(_: Request, error: Exception) -> JSONResponse:
        known = "POST /classify, POST /reload, GET /health, GET /ready, GET /metrics"
        refused = RefusedError(error.status_code, "no_route", f"Here are only: {known}.")
        return JSONResponse(refused.body(), refused.status)

    @app.post("/classify")
    async def classify(request: Request) -> JSONResponse:
        check_key(request.headers.get("authorization"), gateway.key)
        body = await _body(request, gateway.limits.max_body)
        backend = gateway.current
        if backend is None:
            raise unavailable("not_ready", "No version is in service yet.")
        wanted = read_request(body, backend.served.adapters, gateway.limits)
        if backend.open >= gateway.max_open:
            raise unavailable("overloaded", f"{gateway.max_open} requests are waiting already.")
        answer = await backend.classify(wanted)
        request.state.seen = wanted.text, answer  # for the metrics
        return JSONResponse(answer)

    @app.post("/reload")
    async def reload(request: Request) -> dict[str, str]:
        check_key(request.headers.get("authorization"), gateway.key)
        return {"version": await gateway.reload()}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if gateway.current is None or not gateway.current.ready:
            raise unavailable("not_ready", "No worker is ready now.")
        return {"status": "ready", "version": gateway.current.served.version}

    add_metrics(app, log, keep_texts)
    return app
