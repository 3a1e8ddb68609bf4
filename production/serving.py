"""Serve a classifier: ``python -m production.serving --model FOLDER --port N``, or ``--alias champion``.

``python -m production.serving reload --port N`` changes a running server to the model that its folder or alias names
now. The key stands in the environment variable SERVING_KEY.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer
import uvicorn

from lessonkit.errors import LessonError
from production.backends import Backend
from production.client import told
from production.commands import only_one, run
from production.gateway import Gateway, build_app
from production.processes import check_port
from production.requests_checks import Limits, RefusedError
from production.served_model import find_model
from production.settings import read, work_folder

__all__ = ["KEY_VARIABLE", "Serving"]

#: The environment variable with the key.
KEY_VARIABLE = "SERVING_KEY"


@dataclass(frozen=True)
class Serving:
    """Section [serving]. Seconds: batch_timeout, timeout (of a request), start_patience. max_open: requests waiting.

    max_batch_size: texts in a batch. max_length: tokens of a text that are read. threads: of torch, in the worker.
    log: a JSONL file for what was predicted, "" for none; keep_texts: with the texts.
    """

    port: int = 8000
    max_batch_size: int = 32
    batch_timeout: float = 0.01
    timeout: float = 10.0
    start_patience: float = 120.0
    max_length: int = 128
    threads: int = 1
    max_open: int = 256
    max_body: int = 100_000
    max_text: int = 20_000
    log: str = ""
    keep_texts: bool = False

    def __post_init__(self) -> None:
        if not 1024 <= self.port <= 65535:
            raise ValueError("port must lie between 1024 and 65535")
        if (
            min(
                self.max_batch_size,
                self.max_length,
                self.threads,
                self.max_open,
                self.max_body,
                self.max_text,
            )
            < 1
        ):
            raise ValueError("sizes and limits must be 1 or more")
        if self.max_batch_size > 1 and self.batch_timeout <= 0:
            raise ValueError(
                "batch_timeout must be above 0: at 0, LitServe's worker asks its queue without a pause"
            )
        if not self.batch_timeout < self.timeout:
            raise ValueError("batch_timeout must be below timeout")


def main(
    action: Annotated[str, typer.Argument(help="start or reload")] = "start",
    model: str = "",
    alias: str = "",
    adapters: str = "",
    work: str = "",
    port: Annotated[int | None, typer.Option()] = None,
    max_batch_size: Annotated[int | None, typer.Option()] = None,
    batch_timeout: Annotated[float | None, typer.Option()] = None,
    threads: Annotated[int | None, typer.Option()] = None,
    log: Annotated[str | None, typer.Option(help="a JSONL file for what was predicted")] = None,
    settings: str = "",
) -> None:
    """Start a server, or let a running one reload."""
    given = {
        "port": port,
        "max_batch_size": max_batch_size,
        "batch_timeout": batch_timeout,
        "threads": threads,
        "log": log,
    }
    found = read("serving", Serving, settings, **given)
    if action == "reload":
        typer.echo(f"version {ask_reload(found.port)} is in service")
    elif action == "start":
        serve(found, Path(work) if work else work_folder(settings), model, alias, adapters)
    else:
        raise LessonError(f"{action!r} is unknown.", fix="type start or reload")


def serve(found: Serving, work: Path, model: str, alias: str, adapters: str) -> None:
    """Serve until this process is ended. Port, key and model are checked first."""
    key = _key()
    folder = work / "serving" / str(found.port)
    with only_one(folder, "serving"):
        check_port(found.port)
        find_model(model, alias, work, adapters)
        names = ("max_batch_size", "batch_timeout", "max_length", "threads")
        options = {name: asdict(found)[name] for name in names}

        def make() -> Backend:
            return Backend(find_model(model, alias, work, adapters), options, folder, found.timeout)

        limits = Limits(found.max_body, found.max_text)
        gateway = Gateway(make, key, limits, found.max_open, found.start_patience)
        config = uvicorn.Config(
            build_app(gateway, found.log, found.keep_texts),
            host="127.0.0.1",
            port=found.port,
            log_level="warning",
            access_log=False,
        )

        async def whole() -> None:
            await gateway.reload()  # before the port is open: a model that can't be loaded is told here
            await uvicorn.Server(config).serve()

        try:
            asyncio.run(whole())
        except RefusedError as error:  # the first version did not start
            raise LessonError(str(error), fix=f"read the logs in {folder}") from None


def ask_reload(port: int) -> str:
    """Let the server on this port reload; gives the version that it serves then."""
    headers = {"Authorization": f"Bearer {_key()}"}
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/reload", headers=headers, timeout=600, trust_env=False)
    except httpx.HTTPError as error:
        raise LessonError(
            f"No server answers on port {port}: {error}.", fix="start it, or check --port"
        ) from None
    if answer.status_code != 200:
        raise LessonError(f"The server did not reload (status {answer.status_code}).", why=told(answer)[1])
    return answer.json()["version"]


def _key() -> str:
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < 16:
        raise LessonError(
            f"The environment variable {KEY_VARIABLE} holds no key of 16 or more characters.",
            fix='make one: python -c "import secrets; print(secrets.token_urlsafe(32))", and set the variable to it',
        )
    return key


if __name__ == "__main__":
    run(main)
