"""Split traffic between two servers: ``python -m production.router --a URL --b URL --port N --share 0.1``.

``python -m production.router share --share 0.5 --port N`` changes B's share while it runs. When B breaks a guardrail, the
router gives all traffic back to A by itself. The key of its own commands stands in the environment variable ROUTER_KEY.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from lessonkit.errors import LessonError
from production.commands import only_one, run
from production.processes import check_port
from production.requests_checks import RefusedError, check_key
from production.routing import Router, Routing
from production.settings import read, work_folder

__all__ = ["KEY_VARIABLE", "build_app"]

#: The environment variable with the key of /outcome, /share and /state.
KEY_VARIABLE = "ROUTER_KEY"


def build_app(router: Router, key: str) -> FastAPI:
    """POST /classify, as the servers' own, with the header X-User-Id; POST /outcome and /share, GET /state with the key."""

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        for each in router.http.values():
            await each.aclose()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(RefusedError)
    async def refuse(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/classify")
    async def classify(request: Request) -> Response:
        user = request.headers.get("x-user-id", "").strip()
        if not 0 < len(user) <= 200:
            raise RefusedError(400, "missing_user", "Send the header X-User-Id, of 200 characters at most.")
        passed = {
            each: request.headers[each]
            for each in ("authorization", "content-type")
            if each in request.headers
        }
        return await router.classify(user, await _body(request, router.rules.max_body), passed)

    @app.post("/outcome")
    async def outcome(request: Request) -> dict[str, str]:
        check_key(request.headers.get("authorization"), key)
        found = await _json(request, router.rules.max_body)
        value = found.get("value")
        if not isinstance(found.get("id"), str) or type(value) not in (int, float) or not 0 <= value <= 1:
            raise RefusedError(422, "wrong_type", 'Send {"id": "...", "value": 0 to 1}.')
        router.outcome(found["id"], value)
        return {"status": "kept"}

    @app.post("/share")
    async def share(request: Request) -> dict[str, Any]:
        check_key(request.headers.get("authorization"), key)
        found = await _json(request, router.rules.max_body)
        value = found.get("share")
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise RefusedError(422, "wrong_type", 'Send {"share": 0 to 1}.')
        router.set_share(float(value), found.get("again") is True)
        return router.state()

    @app.get("/state")
    async def state(request: Request) -> dict[str, Any]:
        check_key(request.headers.get("authorization"), key)
        return router.state()

    return app


async def _body(request: Request, most: int) -> bytes:
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > most:
            raise RefusedError(413, "body_too_large", f"The body may have {most:,} bytes at most.")
    return found


async def _json(request: Request, most: int) -> dict[str, Any]:
    try:
        found = json.loads(await _body(request, most))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RefusedError(400, "malformed_json", "The body must be a JSON object.")
    return found


def main(
    action: Annotated[str, typer.Argument(help="start or share")] = "start",
    a: Annotated[str, typer.Option(help="address of today's server")] = "",
    b: Annotated[str, typer.Option(help="address of the new one")] = "",
    port: Annotated[int | None, typer.Option()] = None,
    share: Annotated[float | None, typer.Option(help="of users, that B gets")] = None,
    experiment: Annotated[str | None, typer.Option()] = None,
    again: Annotated[bool, typer.Option(help="share: B may come back after a rollback")] = False,
    folder: str = "",
    settings: str = "",
) -> None:
    """Start a router, or change the share of a running one."""
    rules = read("router", Routing, settings, port=port, share=share, experiment=experiment)
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < 16:
        raise LessonError(
            f"The environment variable {KEY_VARIABLE} holds no key of 16 or more characters.",
            fix='make one: python -c "import secrets; print(secrets.token_urlsafe(32))", and set the variable to it',
        )
    if action == "share":
        typer.echo(json.dumps(_ask_share(rules, key, again)))
        return
    if action != "start":
        raise LessonError(f"{action!r} is unknown.", fix="type start or share")
    if not (a.startswith("http") and b.startswith("http")):
        raise LessonError(
            "The router needs two servers.", fix="add --a http://127.0.0.1:8001 --b http://127.0.0.1:8002"
        )
    place = Path(folder) if folder else work_folder(settings) / "router"
    with only_one(place, "routing"):
        check_port(rules.port)
        app = build_app(Router(a, b, rules, place), key)
        uvicorn.run(app, host="127.0.0.1", port=rules.port, log_level="warning", access_log=False)


def _ask_share(rules: Routing, key: str, again: bool) -> dict[str, Any]:
    try:
        answer = httpx.post(
            f"http://127.0.0.1:{rules.port}/share",
            json={"share": rules.share, "again": again},
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise LessonError(
            f"No router answers on port {rules.port}: {error}.", fix="start it, or check --port"
        ) from None
    if answer.status_code != 200:
        raise LessonError(f"The share was not changed (status {answer.status_code}).", why=answer.text[:500])
    return answer.json()


if __name__ == "__main__":
    run(main)
