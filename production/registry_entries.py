"""What MLflow keeps of a model's versions: entries, aliases, tags; in ``WORK/mlflow.db``, beside the runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lessonkit.errors import LessonkitError, ModelError
from production import trackers
from production.registry_files import no_room

__all__ = ["CHALLENGER", "CHAMPION", "Entries", "told"]

CHAMPION, CHALLENGER = "champion", "challenger"
#: The registered model's tag with the versions that were champion, oldest first, as JSON; rollback goes back in it.
HISTORY = "champions"


class Entries:
    """One registered model of MLflow, made when it is first asked for. Numbers are ints here, texts in MLflow."""

    def __init__(self, work: Path, name: str) -> None:
        self.work, self.name = work, name
        self._mlflow: Any = None

    @property
    def client(self) -> Any:
        """The ``MlflowClient``; its registry is the same file as its runs."""
        if self._mlflow is None:
            uri = trackers.client(self.work).tracking_uri
            from mlflow import MlflowClient

            self._mlflow = MlflowClient(tracking_uri=uri, registry_uri=uri)
            with contextlib.suppress(Exception):
                self._mlflow.get_registered_model(self.name)
                return self._mlflow
            self._mlflow.create_registered_model(self.name)
        return self._mlflow

    def all(self) -> dict[int, Any]:
        """Number -> MLflow's ModelVersion, in the order of the numbers."""
        found, token = {}, None
        while True:
            page = self.client.search_model_versions(f"name='{self.name}'", page_token=token)
            found |= {int(each.version): each for each in page}
            token = page.token
            if not token:
                return dict(sorted(found.items()))

    def add(self, folder: Path, lineage: Mapping[str, str], manifest_sha256: str) -> int:
        """Enter a folder, whose name is its number, and give that number.

        MLflow counts by itself. Where it comes to another number (versions were deleted there, whose numbers stay
        taken), the entry is taken back, and the number that would do is given.
        """
        experiment = trackers.experiment(self.work)
        runs = self.client.search_runs([experiment], f"tags.run_id = '{lineage['run_id']}'", max_results=1)
        made = self.client.create_model_version(
            self.name,
            source=folder.as_uri(),
            run_id=runs[0].info.run_id if runs else None,
            tags={**lineage, "manifest_sha256": manifest_sha256},
        )
        number = int(made.version)
        if number == int(folder.name):
            return number
        self.client.delete_model_version(self.name, made.version)
        return number + 1

    def tag(self, number: int, tags: Mapping[str, str]) -> None:
        """Write tags of a version."""
        for name, value in tags.items():
            self.client.set_model_version_tag(self.name, str(number), name, value)

    def aliases(self) -> dict[str, int]:
        """Alias -> number."""
        found = self.client.get_registered_model(self.name).aliases
        return {name: int(number) for name, number in found.items()}

    def point(self, alias: str, number: int) -> None:
        """Let an alias name another version: one transaction of the database."""
        self.client.set_registered_model_alias(self.name, alias, str(number))

    def unpoint(self, alias: str) -> None:
        """Take an alias away."""
        self.client.delete_registered_model_alias(self.name, alias)

    def history(self) -> list[int]:
        """The champions that can be gone back to, oldest first; the last is the present one.

        The alias decides: where a change was interrupted before it, what the list says beyond is dropped.
        """
        model = self.client.get_registered_model(self.name)
        found, champion = json.loads(model.tags.get(HISTORY, "[]")), int(model.aliases.get(CHAMPION, 0))
        if champion in found:
            return found[: len(found) - found[::-1].index(champion)]
        return found

    def write_history(self, numbers: list[int]) -> None:
        """Replace the list."""
        self.client.set_registered_model_tag(self.name, HISTORY, json.dumps(numbers))

    def table(self) -> str:
        """A line for each version, and the history."""
        aliases = self.aliases()
        lines = [f"{'version':<9}{'alias':<12}{'gate':<9}{'run':<22}{'data':<12}{'sha256 of it':<14}code"]
        for number, entry in self.all().items():
            tags = entry.tags
            names = ",".join(name for name, each in aliases.items() if each == number)
            dirty = "+changes" if tags.get("code_dirty") == "True" else ""
            lines.append(
                f"{number:<9}{names:<12}{tags.get('gate', '-'):<9}{tags.get('run_id', 'UNKNOWN'):<22}"
                f"{tags.get('data_name', 'UNKNOWN'):<12}{tags.get('data_sha256', 'UNKNOWN')[:12]:<14}"
                f"{tags.get('code_commit', '-')[:8]}{dirty}"
            )
        serving = " -> ".join(map(str, self.history())) or "none"
        return "\n".join([*lines, f"champions so far, the last one serves: {serving}"])


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Failures of the disk and of MLflow in a few lines, as ModelError."""
    try:
        yield
    except LessonkitError:
        raise
    except Exception as error:
        full = no_room(error)
        ours = isinstance(error, OSError) or type(error).__module__.startswith(("mlflow", "sqlalchemy"))
        if not (full or ours):
            raise
        raise ModelError(
            f"The registry can't be used: {'there is no room left on the disk' if full else error}.",
            why="nothing was entered; versions and aliases are as they were",
            fix=f"{'make room' if full else 'mend that'}, then type the same command again",
        ) from error
