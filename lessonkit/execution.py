"""Run a notebook without a browser: a fresh kernel, each cell in turn, with progress told as it goes."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.curriculum import Lesson, load_curriculum, project_root
from lessonkit.errors import LessonError
from lessonkit.lesson import RESULT_VARIABLE

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["environment", "execute", "notebook_of", "run_lesson"]

CELL_TIMEOUT_SECONDS = 3600
Tell = Callable[[str], None]


def notebook_of(name: str) -> tuple[Lesson, Path]:
    """A lesson of the curriculum and its built notebook.

    Raises UnknownNameError for a misspelt name, LessonError if there is nothing to run.
    """
    lesson = load_curriculum(check_files=False).lesson(name)
    if not lesson.written:
        raise LessonError(
            f"{lesson.title} ({name}) is not written yet.", fix="see `lessonkit lessons` for what is"
        )
    if not lesson.notebook:
        raise LessonError(f"{lesson.title} is a text to read: {lesson.source}", fix=f"open {lesson.source}")
    root = project_root()
    if root is None:
        raise LessonError(
            "There are no notebooks here.",
            why="lessonkit is installed without the project's folder",
            fix="get the whole project, and run `python start.py` in its folder",
        )
    path = root / lesson.notebook
    if not path.exists():
        raise LessonError(
            f"The notebook {lesson.notebook} is missing.",
            fix=f"`git checkout {lesson.notebook}` brings it back",
        )
    return lesson, path


def run_lesson(
    name: str, *, scale: str = "", output: Path | None = None, tell: Tell = print
) -> dict[str, Any]:
    """Run a lesson's notebook from top to bottom and return what it recorded.

    scale: ``"smoke"``, ``"laptop"``, ``"gpu"``, or empty for the machine's own choice.
    output: where to save the executed notebook.
    Returns ``{"lesson", "scale", "metrics", "seconds", "peak_bytes"}``; seconds and peak_bytes are
    those of the trainings. Raises LessonError if a cell fails.
    """
    import nbformat

    lesson, path = notebook_of(name)
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        variables = {RESULT_VARIABLE: str(result), "TOKENIZERS_PARALLELISM": "false"}
        if scale:
            variables["LESSONKIT_SCALE"] = scale
        try:
            with environment(variables):
                execute(notebook, path.parent, tell=tell)
        except LessonError:
            if output is not None:
                _save(notebook, output)
                tell(f"The notebook, as far as it came, is in {output}")
            raise
        if output is not None:
            _save(notebook, output)
        if result.exists():
            return json.loads(result.read_text(encoding="utf-8"))
    return {"lesson": lesson.id, "scale": scale, "metrics": {}, "seconds": 0.0, "peak_bytes": 0}


def execute(notebook: NotebookNode, folder: Path, *, tell: Tell = lambda text: None) -> NotebookNode:
    """Run all cells of ``notebook`` in place, in a fresh kernel of this Python started in ``folder``.

    tell: called with a line for each section reached and each line of live progress.
    Raises LessonError, naming the cell, if one fails or the kernel dies.
    """
    try:
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ImportError as error:
        fix = "run `python start.py`, or `pip install nbclient ipykernel`"
        raise LessonError("Notebooks cannot be run: nbclient is missing.", why=str(error), fix=fix) from error
    client = _client_class()(
        notebook,
        kernel_name="python3",
        timeout=CELL_TIMEOUT_SECONDS,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors only: its notes are not the reader's
        resources={"metadata": {"path": str(folder)}},
    )
    client.tell = tell
    try:
        client.execute()
    except CellExecutionError as error:
        cell = client.now
        raise LessonError(
            f"A cell of the section “{client.section}” failed: {error.ename}: {_plain(error.evalue)}",
            why="the cell begins with: " + (cell.source.splitlines() or [""])[0],
            fix=_way_out(f"{error.ename}: {_plain(error.evalue)}"),
        ) from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise LessonError(
            f"The kernel stopped in the section “{client.section}”.",
            why=_plain(str(error)).splitlines()[0] if str(error) else type(error).__name__,
            fix="close other programs (memory may have run out) and run it again",
        ) from error
    return notebook


def _way_out(message: str) -> str:
    """What to type after a failed cell; for a known error, what explains it."""
    from lessonkit.troubleshooting import match

    entry = match(message)
    known = f"`lessonkit explain {entry.id}` says what it means; " if entry else ""
    return f"{known}open the notebook and run it there to look around; `lessonkit doctor` shows the machine"


def _client_class() -> type:
    from nbclient import NotebookClient

    class TellingClient(NotebookClient):
        """A NotebookClient that tells where it is."""

        tell: Tell
        section = "Top"
        now: Any = None

        def reset_execution_trackers(self) -> None:
            super().reset_execution_trackers()
            # What a slider's function prints is noted here by nbclient, also where it stores no widget's state.
            self.widget_state = collections.defaultdict(dict)

        def set_widgets_metadata(self) -> None:
            """Widgets' state isn't stored: GitHub refuses notebooks whose widgets it finds broken."""

        async def async_execute_cell(self, cell: Any, cell_index: int, **kwargs: Any) -> Any:
            if cell.cell_type == "markdown":
                headings = re.findall(r"^#{1,2} +(.+)$", cell.source, flags=re.MULTILINE)
                if headings:
                    self.section = headings[-1].strip()
                    self.tell(f"[{cell_index + 1}/{len(self.nb.cells)}] {self.section}")
            self.now = cell
            return await super().async_execute_cell(cell, cell_index, **kwargs)

        def process_message(self, msg: dict, cell: Any, cell_index: int) -> Any:
            content = msg["content"]
            if msg["msg_type"] == "update_display_data":
                for line in content["data"].get("text/plain", "").splitlines()[-1:]:
                    self.tell("    " + line)
            elif msg["msg_type"] == "stream" and content["name"] == "stdout":
                for line in content["text"].splitlines():
                    if line.strip():
                        self.tell("    " + line.rstrip())
            return super().process_message(msg, cell, cell_index)

    return TellingClient


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which the kernel inherits, and put back what was there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _save(notebook: NotebookNode, path: Path) -> None:
    import nbformat

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
    except OSError as error:
        raise LessonError(
            f"The executed notebook could not be saved to {path}.",
            why=str(error),
            fix="give --output a file in a folder of yours",
        ) from error


def _plain(text: str) -> str:
    """Without the terminal's colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
