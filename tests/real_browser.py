"""A real JupyterLab on this computer and a real browser that looks at it, for tests/test_browser.py."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["Lab", "NoBrowserError", "chromium_like", "launched", "serving"]

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = "LESSONKIT_BROWSER"  # a browser's program; where it is set, a browser that fails fails the tests
PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
)
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
BELOW_PROGRAM_FILES = ("Google/Chrome/Application/chrome.exe", "Microsoft/Edge/Application/msedge.exe")
LONGEST_START = 120  # seconds, on a slow machine with other tests beside it


class NoBrowserError(Exception):
    """There is no browser to test with, and what to do about it."""


def chromium_like() -> str:
    """The program of a browser that can be driven. Raises NoBrowserError."""
    folders = [os.environ.get(name) for name in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
    below = [Path(folder, each) for folder in filter(None, folders) for each in BELOW_PROGRAM_FILES]
    found = [os.environ.get(REQUIRED), *map(shutil.which, PROGRAMS)]
    found += [str(path) for path in (*map(Path, APPLICATIONS), *below) if path.is_file()]
    program = next(filter(None, found), None)
    if program is None:
        raise NoBrowserError(
            "no Chrome, Chromium or Edge was found: install one (on Debian: apt-get install chromium), "
            f"or let {REQUIRED} name its program"
        )
    return program


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window. Raises NoBrowserError where there is none or it doesn't start."""
    from playwright.sync_api import Error, sync_playwright

    program = chromium_like()
    # In a container /dev/shm is too small for a browser.
    with sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(
                executable_path=program, args=["--disable-dev-shm-usage"], timeout=1000 * LONGEST_START
            )
        except Error as error:
            raise NoBrowserError(f"{program} does not start: {str(error).splitlines()[0]}") from error
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Lab:
    """A JupyterLab server. root: its folder. settings: of its user. progress: the learner's journal folder."""

    url: str
    token: str
    root: Path
    settings: Path
    progress: Path

    def page(self, notebook: str) -> str:
        """The address that opens a notebook of its folder."""
        return f"{self.url}/lab/tree/{notebook}?token={self.token}"

    def set(self, extension: str, plugin: str, **values: object) -> None:
        """Change one of JupyterLab's settings, for the next time a page is loaded."""
        file = self.settings / "@jupyterlab" / extension / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")


@contextlib.contextmanager
def serving(root: Path, home: Path) -> Iterator[Lab]:
    """A server on this computer only, for the files below ``root``; its own files go to ``home``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lab = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(16), root, home / "settings", home / "progress")
    lab.set("apputils-extension", "notification", fetchNews="false", checkForUpdates=False)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}", "--expose-app-in-browser"]
    command += ["--log-level=ERROR", "--ServerApp.answer_yes=True", "--LabApp.extension_manager=readonly"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    log = home / "server.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            env=_environment(lab, home),
            cwd=root,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
        try:
            _wait(lab, process, log)
            yield lab
        finally:
            process.terminate()  # it ends its kernels first
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(lab: Lab, home: Path) -> dict[str, str]:
    """The caller's own, with a home for everything that JupyterLab, IPython and lessonkit keep."""
    kept = {
        name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    kept |= {
        "JUPYTERLAB_SETTINGS_DIR": str(lab.settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    kept |= {"LESSONKIT_PROGRESS": str(lab.progress), "LESSONKIT_OUTPUTS": str(home / "outputs")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | kept | {"JUPYTER_TOKEN": lab.token, "PYTHONPATH": path, "LESSONKIT_SCALE": "smoke"}


def _wait(lab: Lab, process: subprocess.Popen, log: Path) -> None:
    request = urllib.request.Request(f"{lab.url}/api/status", headers={"Authorization": f"token {lab.token}"})
    end = time.monotonic() + LONGEST_START
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")
