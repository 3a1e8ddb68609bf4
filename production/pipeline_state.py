"""Steps with a state file, so that an interrupted run goes on where it stopped.

A run is a folder with ``state.json`` and ``records/STEP.json``. A record holds the hashes of all that went into its step
(settings and the files that they name, code, the results of earlier steps) and of all files that came out. A step is kept
while these agree; else it, and what depends on it, is done anew. A record is written last and in one move, so a step
without one did not end.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lessonkit.errors import DataError, LessonError
from production.pipeline_hashes import code_digest, digest, named_files
from production.records import file_sha256

__all__ = ["Made", "PipelineRun", "Step", "every_run", "newest", "run_steps", "write"]

STATE, RECORDS = "state.json", "records"
#: What a record must have.
KEYS = (
    "step",
    "does",
    "needs",
    "started",
    "ended",
    "seconds",
    "inputs",
    "outputs",
    "facts",
    "stopped",
    "result",
    "seal",
)


@dataclass(frozen=True)
class Made:
    """What a step leaves. facts: plain data for its record. files: files or folders below the work folder.

    told: one line for people. stopped: why the pipeline must not go on, "" if it may.
    """

    facts: dict[str, Any]
    files: tuple[Path, ...] = ()
    told: str = ""
    stopped: str = ""


@dataclass(frozen=True)
class Step:
    """name: also of its record. does: for people. act: gets the context that ``run_steps`` was given.

    needs: earlier steps whose results it uses. reads: sections of the settings. modules: whose code is an input; see
    ``code_digest``. times: whether it uses the seconds of earlier steps, too.
    """

    name: str
    does: str
    act: Callable[[Any], Made]
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    times: bool = False


# ---- One run ---------------------------------------------------------------------------------------------


class PipelineRun:
    """The folder of one run. work: the work folder, from which the paths of outputs count."""

    def __init__(self, folder: str | Path, work: str | Path) -> None:
        self.folder, self.work = Path(folder), Path(work).resolve()
        try:
            self.state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.folder / STATE} can't be read: {error}.",
                why="it is written in one move, so it was changed or lost after that",
                fix="bring it back from a backup, or begin anew: python -m production.pipeline run --new",
            ) from None

    @classmethod
    def begin(cls, folder: str | Path, work: str | Path, **facts: Any) -> PipelineRun:
        """Make a new run's folder, in one move. facts: what holds for the whole run."""
        folder = Path(folder)
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        (part / RECORDS).mkdir(parents=True)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write(part / STATE, {"run": folder.name, "created": created, "facts": facts, "steps": {}})
        part.rename(folder)
        return cls(folder, work)

    def mark(self, step: str, status: str, told: str = "") -> None:
        """Write a step's status ("running", "done", "stopped" or "failed") and how often it was begun."""
        before = self.state["steps"].get(step, {})
        begun = before.get("begun", 0) + (status == "running")
        self.state["steps"][step] = {"status": status, "begun": begun, "told": told}
        write(self.folder / STATE, self.state)

    def status(self, step: str) -> str:
        """As marked; "waiting" before that."""
        return self.state["steps"].get(step, {}).get("status", "waiting")

    def record(self, step: str) -> dict[str, Any] | None:
        """A step's record; None if it has none. DataError for one that was damaged or edited by hand."""
        file = self.folder / RECORDS / f"{step}.json"
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            missing = [name for name in KEYS if name not in found]
            if missing or found["seal"] != _seal(found):
                raise ValueError(f"it lacks {', '.join(missing)}" if missing else "its hash is another one")
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"The record {file} can't be trusted: {error}.",
                why="it was changed after it was written",
                fix=f"delete it: the next `run` does the step {step} anew (after a release, in a new run)",
            ) from None
        return found

    def records(self) -> dict[str, dict[str, Any]]:
        """All records by step, in the order in which the steps ended."""
        names = [each.stem for each in (self.folder / RECORDS).glob("*.json")]
        found = {name: self.record(name) for name in names}
        return dict(sorted(found.items(), key=lambda item: item[1]["ended"]))

    def facts(self, step: str) -> dict[str, Any]:
        """A step's facts. LessonError if it has no record."""
        found = self.record(step)
        if found is None:
            raise LessonError(
                f"The step {step} has no record yet.",
                fix="run the pipeline: python -m production.pipeline run",
            )
        return found["facts"]

    def inputs(self, step: Step, sections: Mapping[str, Any]) -> dict[str, str]:
        """Name -> sha256 of all that the step depends on."""
        found = {"code": code_digest(step.modules), "run": digest(self.state["facts"])}
        for name in step.reads:
            section = sections[name]
            plain = asdict(section) if is_dataclass(section) else section
            found[f"settings.{name}"] = digest([plain, named_files(plain)])
        for name in step.needs:
            record = self.record(name)
            found[f"step.{name}"] = record["result"] if record else "missing"
            if step.times:
                found[f"time.{name}"] = digest([record["seconds"], record["ended"]]) if record else "missing"
        return found

    def reason(self, step: Step, inputs: Mapping[str, str]) -> str:
        """Why the step must be done; "" if its record still holds."""
        record = self.record(step.name)
        if record is None:
            return "it was interrupted" if self.status(step.name) in ("running", "failed") else "it is new"
        names = {**record["inputs"], **inputs}
        changed = [name for name in names if record["inputs"].get(name) != inputs.get(name)]
        if changed:
            return f"{', '.join(changed)} changed"
        for name, sha256 in record["outputs"].items():
            file = self.work / name
            if not file.is_file():
                return f"{name} is missing"
            if file_sha256(file) != sha256:
                return f"{name} was changed"
        return ""

    def keep(self, step: Step, inputs: Mapping[str, str], made: Made, started: str, seconds: float) -> None:
        """Write the step's record, and its status after it."""
        record = {
            "step": step.name,
            "does": step.does,
            "needs": list(step.needs),
            "started": started,
            "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "seconds": round(seconds, 2),
            "inputs": dict(inputs),
            "outputs": self._outputs(made.files),
            "facts": json.loads(json.dumps(made.facts, default=str)),  # as it will be read
            "stopped": made.stopped,
        }
        record["result"] = _result(record)
        write(self.folder / RECORDS / f"{step.name}.json", record | {"seal": _seal(record)})
        self.mark(step.name, "stopped" if made.stopped else "done", made.stopped or made.told)

    def forget(self, step: str) -> None:
        """Delete a record that does not hold any more, before its step is done anew."""
        (self.folder / RECORDS / f"{step}.json").unlink(missing_ok=True)

    def _outputs(self, files: Iterable[Path]) -> dict[str, str]:
        found = {}
        for each in files:
            inside = sorted(each.rglob("*")) if each.is_dir() else [each]
            for file in inside:
                if file.is_file():
                    found[file.resolve().relative_to(self.work).as_posix()] = file_sha256(file)
        return found


def every_run(work: str | Path) -> list[PipelineRun]:
    """The runs in ``WORK/pipeline``, the newest, whose number is the highest, first."""
    folders = [each for each in (Path(work) / "pipeline").glob("*") if each.name.isdigit()]
    return [PipelineRun(each, work) for each in sorted(folders, key=lambda each: -int(each.name))]


def newest(work: str | Path) -> PipelineRun | None:
    """The run with the highest number; None if there is none yet."""
    folders = [each for each in (Path(work) / "pipeline").glob("*") if each.name.isdigit()]
    return PipelineRun(max(folders, key=lambda each: int(each.name)), work) if folders else None


def _result(record: Mapping[str, Any]) -> str:
    """sha256 of what later steps may depend on: not of times, so a repetition with the same result changes nothing."""
    return digest([record["outputs"], record["facts"], record["stopped"]])


def _seal(record: Mapping[str, Any]) -> str:
    """sha256 of all else in a record."""
    return digest({name: value for name, value in record.items() if name != "seal"})


def write(file: Path, value: Any) -> None:
    """JSON, whole or not at all: into a file beside it, to the disk, then renamed."""
    part = file.with_name(f".{file.name}.part")
    with part.open("w", encoding="utf-8") as opened:
        json.dump(value, opened, indent=1)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(part, file)


# ---- All steps -------------------------------------------------------------------------------------------


def run_steps(
    run: PipelineRun,
    steps: Sequence[Step],
    sections: Mapping[str, Any],
    context: Any,
    tell: Callable[[str], None] = print,
    *,
    again: bool = False,
) -> str:
    """Do what isn't done, in this order. Gives "" at the end, else the step that stopped and why.

    A step that stopped is not done anew while nothing that it depends on has changed: asking a gate until it says yes
    would be another gate. again: do it nevertheless. Errors are raised, with the step marked as failed.
    """
    width = max(len(each.name) for each in steps)
    for step in steps:
        inputs = run.inputs(step, sections)
        why, record = run.reason(step, inputs), run.record(step.name)
        if record is not None and record["stopped"] and again:
            why, again = why or "asked for again", False
        if not why:
            if record["stopped"]:
                if run.status(step.name) != "stopped":  # it was ended after the record, before the state
                    run.mark(step.name, "stopped", record["stopped"])
                tell(f"{step.name:<{width}}  stopped before, and nothing has changed since")
                return f"{step.name}: {record['stopped']}"
            if run.status(step.name) != "done":
                run.mark(step.name, "done")
            tell(f"{step.name:<{width}}  kept")
            continue
        tell(f"{step.name:<{width}}  starts: {why}")
        run.mark(step.name, "running")
        run.forget(step.name)
        started, began = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
        try:
            made = step.act(context)
        except BaseException as error:
            run.mark(step.name, "failed", f"{type(error).__name__}: {error}"[:500])
            raise
        run.keep(step, inputs, made, started, time.monotonic() - began)
        tell(f"{step.name:<{width}}  {time.monotonic() - began:6.1f} s  {made.told}")
        if made.stopped:
            return f"{step.name}: {made.stopped}"
    return ""
