"""Which model is in service: ``python -m production.registry register RUN | promote VERSION | rollback | show``.

MLflow's registry in ``WORK/mlflow.db`` holds versions, aliases and tags; the files of a version lie in
``WORK/registry/NAME/VERSION/``. An entry is made after its files, and never without: what an interruption leaves is a
hidden folder, which the next start deletes, or a whole version without its entry, which the next start enters.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from lessonkit.errors import LessonError, ModelError, UnknownNameError
from lessonkit.scoring import Gate
from production.commands import only_one, run
from production.records import MODEL, find_run, verify_run
from production.registry_entries import CHALLENGER, CHAMPION, Entries, told
from production.registry_files import (
    MANIFEST,
    PART,
    check_version,
    copy_version,
    lineage_of,
    no_room,
    refusals,
)
from production.registry_gate import BASELINE, Judging, judge
from production.settings import read, work_folder

__all__ = ["CHALLENGER", "CHAMPION", "Decision", "Registry", "Version"]

WHAT = "changing the registry"


@dataclass(frozen=True)
class Version:
    """A registered version whose files were checked. folder: what ``from_pretrained`` takes. sha256: file -> hex.

    lineage: run_id, data_name, data_sha256, code_sha256, and where known code_commit, code_dirty, seed. record: the
    run's ``run.json``. gate: the last decision, "passed", "refused" or "" (none). passed: whether one ever was.
    """

    name: str
    version: int
    folder: Path
    sha256: dict[str, str]
    run_id: str
    lineage: dict[str, str]
    record: dict[str, Any]
    gate: str
    passed: bool


@dataclass(frozen=True)
class Decision:
    """What the gate said of a version. champion: whom it was compared with (0: the baseline). file: the whole record."""

    version: int
    champion: int
    gate: Gate
    file: Path

    @property
    def passed(self) -> bool:
        """Whether the version is champion now."""
        return self.gate.passed

    def __str__(self) -> str:
        other = f"version {self.champion}" if self.champion else BASELINE
        end = "is champion now" if self.passed else "stays a challenger"
        return f"Version {self.version} against {other}:\n{self.gate}\nVersion {self.version} {end}."


class Registry:
    """All versions of one model in a work folder. rules: name, and how a challenger is judged; see ``Judging``."""

    def __init__(self, work: str | Path, rules: Judging | None = None) -> None:
        self.work = Path(work).resolve()
        self.rules = rules or Judging()
        self.name = self.rules.name
        self.root = self.work / "registry" / self.name
        self.entries = Entries(self.work, self.name)

    # ---- Into the registry -------------------------------------------------------------------------------

    def register(self, run_folder: str | Path) -> Version:
        """Copy a run's model into the registry as its next version, and make it the challenger.

        A run that is there already keeps its version. Raises ModelError for files that differ from the record, for
        pickles, for missing lineage and for a full disk; TrainingError for a folder without a record; LessonError
        while another process changes the registry. The registry is then as it was.
        """
        run_folder = Path(run_folder)
        with self._changing():
            record = verify_run(run_folder)
            wrong = refusals(run_folder / MODEL)
            if wrong:
                raise ModelError(
                    f"The run {run_folder.name} is not registered: {'; '.join(wrong)}.",
                    why="only safetensors, which hold nothing but numbers, and plain texts are let in",
                    fix="save it with model.save_pretrained(FOLDER), and write its record anew",
                )
            lineage, missing = lineage_of(record)
            if missing:
                raise ModelError(
                    f"The run {run_folder.name} is not registered: its record lacks {', '.join(missing)}.",
                    why="nobody could say later what this model was trained on",
                    fix="train it with a record: python -m production.tracking train",
                )
            for number, entry in self.entries.all().items():
                if entry.tags.get("run_id") == lineage["run_id"]:
                    return self._checked(number)
            part, manifest = copy_version(run_folder / MODEL, record, self.root)
            return self._checked(self._enter_new(part, lineage, manifest))

    def _enter_new(self, part: Path, lineage: dict[str, str], manifest: str) -> int:
        """Name the copied folder by the next free number, then make the entry; if that fails, neither is left."""
        folder = part
        try:
            number = max([0, *self.entries.all(), *self._numbers()]) + 1
            while True:
                folder = folder.rename(self.root / str(number))
                made = self.entries.add(folder, lineage, manifest)
                if made == number:
                    break
                number = made  # of versions deleted in MLflow, the numbers stay taken
            self.entries.point(CHALLENGER, number)
        except BaseException:
            if not (folder.name.isdigit() and self._known(int(folder.name))):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return number

    def _known(self, number: int) -> bool:
        with contextlib.suppress(Exception):
            return number in self.entries.all()
        return False

    # ---- Out of it ---------------------------------------------------------------------------------------

    def resolve(self, alias: str = CHAMPION) -> Version:
        """The version under an alias, or with a number, once its lineage and each file's sha256 were checked.

        A champion must have passed the gate. Raises ModelError with the reason, UnknownNameError for another alias.
        """
        with told():
            aliases = self.entries.aliases()
            if not alias.isdigit() and alias not in aliases:
                fix = "python -m production.registry promote VERSION" if alias == CHAMPION else ""
                raise UnknownNameError("alias", alias, aliases, fix=fix)
            found = self._checked(int(alias) if alias.isdigit() else aliases[alias])
        if alias == CHAMPION and not found.passed:
            raise ModelError(
                f"Version {found.version} is called {CHAMPION}, but never passed the gate.",
                why="the alias was set by hand",
                fix=f"python -m production.registry promote {found.version}, or: rollback",
            )
        return found

    def _checked(self, number: int) -> Version:
        entries = self.entries.all()
        if number not in entries:
            raise UnknownNameError("version", str(number), map(str, entries))
        entry, folder = entries[number], self.root / str(number)
        needed = ("run_id", "data_name", "data_sha256", "code_sha256", "manifest_sha256")
        missing = [name for name in needed if not entry.tags.get(name)]
        if missing:
            raise ModelError(
                f"Version {number} is refused: its entry lacks {', '.join(missing)}.",
                why="it was not made by `register`; what it was trained on, and its files' hashes, are unknown",
                fix="register the run that it is from: python -m production.registry register RUN_FOLDER",
            )
        manifest = check_version(folder, entry.tags["manifest_sha256"])
        lineage, _ = lineage_of(manifest["record"])
        other = [name for name, value in lineage.items() if entry.tags.get(name) != value]
        if other:
            raise ModelError(
                f"Version {number} is refused: its entry and its record differ in {', '.join(other)}.",
                fix=f"write the record's values ({folder / MANIFEST}) back into the entry's tags",
            )
        return Version(
            name=self.name,
            version=number,
            folder=folder,
            sha256=manifest["files"],
            run_id=lineage["run_id"],
            lineage=lineage,
            record=manifest["record"],
            gate=entry.tags.get("gate", ""),
            passed="passed_on" in entry.tags,
        )

    # ---- Who is champion ---------------------------------------------------------------------------------

    def promote(self, version: int | str) -> Decision:
        """Let the gate compare a version with the champion (the first: with a baseline); if it passes, it is champion.

        The decision is written to ``decisions/`` and into the version's tags either way. Raises what ``resolve`` and
        the evaluation raise; the champion then stays.
        """
        with self._changing():
            found = self._checked(int(version))
            number = self.entries.aliases().get(CHAMPION, 0)
            if number == found.version:
                raise LessonError(
                    f"Version {number} is champion already.", fix="see: production.registry show"
                )
            champion = self._checked(number) if number else None
            now = datetime.now(UTC)
            folder = self.root / "decisions" / f"{found.version}-{now:%Y%m%d-%H%M%S-%f}"
            decided = judge(found.folder, champion and champion.folder, self.rules, folder)
            record = decided.to_dict() | {
                "version": found.version,
                "champion": number or BASELINE,
                "date": now.isoformat(timespec="seconds"),
                "rules": vars(self.rules),
            }
            file = folder / "decision.json"
            file.write_text(json.dumps(record, indent=1), encoding="utf-8")
            decision = Decision(found.version, number, decided, file)
            self._keep(decision)
            return decision

    def _keep(self, decision: Decision) -> None:
        tags = {
            "gate": "passed" if decision.passed else "refused",
            "gate_against": str(decision.champion or BASELINE),
            "gate_reasons": "\n".join(decision.gate.reasons),
            "gate_file": decision.file.relative_to(self.root).as_posix(),
        }
        if decision.passed:
            tags["champion_before"] = str(decision.champion or "none")
            tags["passed_on"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.entries.tag(decision.version, tags)
        if not decision.passed:
            return
        self.entries.write_history([*self.entries.history(), decision.version])
        self.entries.point(CHAMPION, decision.version)  # from here on it serves
        if self.entries.aliases().get(CHALLENGER) == decision.version:
            self.entries.unpoint(CHALLENGER)

    def rollback(self) -> Version:
        """Make the champion before this one champion again; again, the one before that. Its files are checked first.

        Raises LessonError if there is none; ModelError if its files are damaged, and the champion stays.
        """
        with self._changing():
            history, champion = self.entries.history(), self.entries.aliases().get(CHAMPION)
            before = history[:-1] if history and history[-1] == champion else history
            if not before:
                raise LessonError(
                    f"There is no champion before version {champion}."
                    if champion
                    else "There is no champion.",
                    fix="promote another version: python -m production.registry promote VERSION",
                )
            found = self._checked(before[-1])
            self.entries.point(CHAMPION, found.version)
            self.entries.write_history(before)
            return found

    def show(self) -> str:
        """A line for each version, from the entries alone; no file is read."""
        with told():
            return self.entries.table()

    # ---- What an interruption left --------------------------------------------------------------------------

    def _numbers(self) -> list[int]:
        return sorted(int(each.name) for each in self.root.iterdir() if each.name.isdigit())

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time; what an earlier one left unfinished is tidied first."""
        with told():
            self.root.mkdir(parents=True, exist_ok=True)
            with only_one(self.root, WHAT):
                for part in self.root.glob(f"{PART}*"):
                    shutil.rmtree(part, ignore_errors=True)
                last = max(self.entries.all(), default=0)
                for number in self._numbers():
                    if number > last:
                        self._finish(self.root / str(number))
                yield

    def _finish(self, folder: Path) -> None:
        """A whole folder without its entry: enter it, or set it aside if its number is taken or it isn't whole."""
        try:
            manifest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
            lineage, missing = lineage_of(check_version(folder, manifest)["record"])
            if not missing and self.entries.add(folder, lineage, manifest) == int(folder.name):
                return
        except (OSError, ValueError) as error:
            if no_room(error):
                raise
        folder.rename(self.root / f"set-aside-{folder.name}-{datetime.now(UTC):%Y%m%d%H%M%S}")


def main(
    action: Annotated[str, typer.Argument(help="register, promote, rollback or show")],
    what: Annotated[
        str, typer.Argument(help="register: a run's folder or id; promote, show: a version")
    ] = "",
    settings: Annotated[str, typer.Option(help="another settings.toml")] = "",
    work: Annotated[str, typer.Option(help="the work folder, instead of [work] folder")] = "",
) -> None:
    """Versions of a model: register a run, promote a version through the gate, go back, look."""
    needs = {"register": True, "promote": True, "rollback": False, "show": None}
    if action not in needs:
        raise UnknownNameError("action", action, needs)
    if needs[action] is not None and bool(what) != needs[action]:
        raise LessonError(
            f"`{action}` {'needs one word more' if needs[action] else 'takes no other word'}.",
            fix="type: register RUN_FOLDER, promote VERSION, rollback, or show",
        )
    folder = Path(work).expanduser() if work else work_folder(settings)
    registry = Registry(folder, read("registry", Judging, settings))
    if action == "register":
        place = Path(what) if os.sep in what or Path(what).is_dir() else find_run(folder, what)
        found = registry.register(place)
        typer.echo(f"Version {found.version} of {found.name}, from the run {found.run_id}: {CHALLENGER}")
    elif action == "promote":
        decision = registry.promote(_number(what))
        typer.echo(str(decision))
        if not decision.passed:
            raise typer.Exit(1)
    elif action == "rollback":
        typer.echo(f"Version {registry.rollback().version} is champion again.")
    elif what:
        found = registry.resolve(what)
        lines = {**found.lineage, **{f"sha256 {name}": each for name, each in found.sha256.items()}}
        typer.echo("\n".join(f"{name:<34}{value}" for name, value in lines.items()))
    else:
        typer.echo(registry.show())


def _number(word: str) -> int:
    if not word.isdigit():
        raise LessonError(f"{word!r} is no version.", fix="see which there are: production.registry show")
    return int(word)


if __name__ == "__main__":
    run(main)
