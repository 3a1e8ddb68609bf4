"""Watch a server: ``python -m production.monitoring --target http://127.0.0.1:8000``.

Starts Prometheus and Alertmanager on the loopback interface, with the rules of ``alerts.yml``, and a webhook that
prints each alert. Where they aren't installed, that is told, and ``production/watcher.py`` evaluates the same rules.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer

from lessonkit.errors import LessonError
from production.commands import only_one, run
from production.processes import Process, check_port, free_port, start
from production.rules import ALERTS, scaled
from production.settings import read, work_folder
from production.watcher import Watcher

__all__ = ["Monitoring", "Receiver", "Stack", "find_programs", "start_stack"]

#: Program -> the names under which systems install it.
PROGRAMS = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),
}
INSTALL = "sudo apt install --no-install-recommends prometheus prometheus-alertmanager"


@dataclass(frozen=True)
class Monitoring:
    """Section [monitoring]. target: the server's address. scrape: seconds between two looks at its /metrics.

    rehearsal: windows and waiting times of the rules are divided by it, and ``scrape`` as well. Ports: 0 is a free one.
    """

    target: str = "http://127.0.0.1:8000"
    scrape: float = 15.0
    rehearsal: float = 1.0
    prometheus_port: int = 0
    alertmanager_port: int = 0
    webhook_port: int = 0

    def __post_init__(self) -> None:
        if min(self.scrape, self.rehearsal) <= 0:
            raise ValueError("scrape and rehearsal must be above 0")
        if not self.target.startswith("http://"):
            raise ValueError("target must begin with http://")


@dataclass(frozen=True)
class Delivery:
    """One alert that arrived. time: seconds since 1970. status: firing or resolved. sender: who sent it."""

    time: float
    alert: str
    status: str
    sender: str
    summary: str


class Receiver:
    """A webhook on this computer; ``deliveries`` holds what came. At work this is a pager, a chat or a ticket system."""

    def __init__(self, port: int = 0, told: Callable[[Delivery], None] | None = None) -> None:
        self.deliveries: list[Delivery] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                try:
                    found = json.loads(self.rfile.read(min(size, 1_000_000)))
                    new = [_delivery(found, each) for each in found["alerts"]]
                except (ValueError, KeyError, TypeError, AttributeError):
                    self.send_error(400)
                    return
                receiver.deliveries += new
                for each in new if told else ():
                    told(each)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        if port:
            check_port(port)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close its port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(
        self, alert: str, status: str, sender: str, timeout: float, since: float = 0.0
    ) -> Delivery | None:
        """The first such delivery after ``since``, once it is there; None if it isn't within ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while True:
            for each in self.deliveries:
                if each.time >= since and (each.alert, each.status, each.sender) == (alert, status, sender):
                    return each
            if time.monotonic() > end:
                return None
            time.sleep(0.1)


def _delivery(found: dict, alert: dict) -> Delivery:
    summary = str(alert.get("annotations", {}).get("summary", ""))
    return Delivery(
        time.time(), str(alert["labels"]["alertname"]), str(alert["status"]), str(found["receiver"]), summary
    )


# ---- Prometheus and Alertmanager -------------------------------------------------------------------------


def find_programs() -> dict[str, str]:
    """Name -> path of prometheus, promtool and alertmanager. LessonError, with the command to type, if one is missing."""
    found = {}
    for program, names in PROGRAMS.items():
        paths = [path for name in names if (path := shutil.which(name))]
        if paths:
            found[program] = paths[0]
    missing = [each for each in PROGRAMS if each not in found]
    if missing:
        raise LessonError(
            f"Not installed on this computer: {', '.join(missing)}.",
            why="they are programs of the operating system, no Python packages",
            fix=f"on Debian or Ubuntu type: {INSTALL}; else see https://prometheus.io/download. Nothing is lost "
            "without them: production/watcher.py evaluates the same rules",
        )
    return found


@dataclass
class Stack:
    """Both programs, running. url, alertmanager_url: their pages, for a browser on this computer."""

    url: str
    alertmanager_url: str
    processes: list[Process]

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End both."""
        for each in self.processes:
            each.stop()

    def query(self, text: str, now: float | None = None) -> dict[tuple, float]:
        """An expression's value by Prometheus: labels -> number, in the form of ``production.promql``."""
        given = {"query": text} if now is None else {"query": text, "time": f"{now:.3f}"}
        found = _json(f"{self.url}/api/v1/query?{urllib.parse.urlencode(given)}")["data"]["result"]
        return {
            tuple(sorted((k, v) for k, v in each["metric"].items() if k != "__name__")): float(
                each["value"][1]
            )
            for each in found
        }


def start_stack(
    target: str,
    webhook: str,
    rules: str | Path,
    folder: str | Path,
    *,
    scrape: float = 15.0,
    prometheus_port: int = 0,
    alertmanager_port: int = 0,
) -> Stack:
    """Start both, wait until they are ready. target: http://HOST:PORT of the server. folder: for what they write.

    What an earlier start left in ``folder`` is removed first. LessonError for programs or ports that are not there.
    """
    programs, folder = find_programs(), Path(folder).resolve()
    for port in filter(None, (prometheus_port, alertmanager_port)):
        check_port(port)
    ours, theirs = prometheus_port or free_port(), alertmanager_port or free_port()
    for each in ("prometheus-data", "alertmanager-data"):
        shutil.rmtree(folder / each, ignore_errors=True)
    config = _write_configs(folder, target, webhook, Path(rules).resolve(), scrape, theirs)
    checked = subprocess.run(
        [programs["promtool"], "check", "config", config], capture_output=True, text=True
    )
    if checked.returncode:
        raise LessonError("Prometheus refuses its settings or the rules.", why=checked.stderr.strip()[-1000:])
    local, stack = (
        "--web.listen-address=127.0.0.1",
        Stack(f"http://127.0.0.1:{ours}", f"http://127.0.0.1:{theirs}", []),
    )
    commands = {
        "alertmanager": [
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager-data'}",
            f"{local}:{theirs}",
            "--cluster.listen-address=",  # else it listens to the whole network for others of its kind
        ],
        "prometheus": [
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'prometheus-data'}",
            f"{local}:{ours}",
        ],
    }
    with contextlib.ExitStack() as undo:
        undo.callback(stack.stop)
        for name, words in commands.items():
            process = start([programs[name], *words], folder / f"{name}.log", name=name, folder=folder)
            stack.processes.append(process)
            process.wait_for(f"http://127.0.0.1:{ours if name == 'prometheus' else theirs}/-/ready", 60)
        undo.pop_all()
    return stack


def _write_configs(folder: Path, target: str, webhook: str, rules: Path, scrape: float, port: int) -> Path:
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    every = f"{round(1000 * scrape)}ms"
    prometheus = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(rules)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]},
        "scrape_configs": [
            {
                "job_name": "classifier",
                "static_configs": [{"targets": [target.removeprefix("http://").rstrip("/")]}],
            }
        ],
    }
    alertmanager = {
        # One message for alerts that begin together; at work group_wait is about 30s, group_interval 5m.
        "route": {
            "receiver": "alertmanager",
            "group_by": ["alertname"],
            "group_wait": every,
            "group_interval": every,
            "repeat_interval": "4h",
        },
        "receivers": [{"name": "alertmanager", "webhook_configs": [{"url": webhook, "send_resolved": True}]}],
    }
    for name, found in {"prometheus.yml": prometheus, "alertmanager.yml": alertmanager}.items():
        (folder / name).write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    return folder / "prometheus.yml"


def _json(url: str) -> dict[str, Any]:
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with local.open(url, timeout=10) as answer:
        return json.load(answer)


def main(
    target: Annotated[str | None, typer.Option()] = None,
    scrape: Annotated[float | None, typer.Option()] = None,
    rehearsal: Annotated[float | None, typer.Option()] = None,
    prometheus_port: Annotated[int | None, typer.Option()] = None,
    alertmanager_port: Annotated[int | None, typer.Option()] = None,
    webhook_port: Annotated[int | None, typer.Option()] = None,
    settings: str = "",
) -> None:
    """Watch a server until Ctrl+C."""
    given = {name: value for name, value in locals().items() if name != "settings"}
    found = read("monitoring", Monitoring, settings, **given)
    folder = work_folder(settings) / "monitoring"

    def told(each: Delivery) -> None:
        typer.echo(
            f"{time.strftime('%H:%M:%S')} {each.status}: {each.alert}: {each.summary} (by {each.sender})"
        )

    every = found.scrape / found.rehearsal
    with only_one(folder, "monitoring"), Receiver(found.webhook_port, told) as receiver:
        rules = scaled(ALERTS, found.rehearsal, folder / "alerts.yml")
        ports = {"prometheus_port": found.prometheus_port, "alertmanager_port": found.alertmanager_port}
        try:
            find_programs()
        except LessonError as error:
            typer.echo(f"{error}\n")
            watched = Watcher(found.target, receiver.url, rules, every)
            typer.echo(f"watching {found.target} without Prometheus; Ctrl+C ends it")
        else:
            watched = start_stack(found.target, receiver.url, rules, folder, scrape=every, **ports)
            typer.echo(
                f"Prometheus: {watched.url}  Alertmanager: {watched.alertmanager_url}; Ctrl+C ends both"
            )
        with watched, contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    run(main)
