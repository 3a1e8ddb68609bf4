"""Weights & Biases (offline) and MLflow (SQLite) for one run, and what they kept of it.

Both are opened here, before the Trainer, whose callbacks then log into these runs. Left to themselves, MLflow's
callback ends its run with the training, and an ``evaluate()`` after it opens a second one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lessonkit.errors import TrainingError
from lessonkit.execution import environment
from production.records import find_run

__all__ = [
    "best_run",
    "client",
    "experiment",
    "history",
    "offline_folder",
    "offline_records",
    "quiet",
    "tracked",
]

EXPERIMENT = "production"
#: Set unless you have set them: nothing is sent, and nothing printed that only tells of progress. Statistics of the
#: machine are among them because collecting these also asks a cloud's metadata address.
VARIABLES = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_X_DISABLE_STATS": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_X_DISABLE_MACHINE_INFO": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def quiet() -> None:
    """Set the variables above, and silence two loggers. Before the first import of either library."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    # Without a name, W&B looks for the notebook at the Jupyter server, and complains if it finds none.
    os.environ.setdefault("WANDB_NOTEBOOK_NAME", __file__)
    import mlflow  # noqa: F401 - its loggers get their levels when it is imported

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _uri(work: str | Path) -> str:
    return f"sqlite:///{(Path(work).resolve() / 'mlflow.db').as_posix()}"


def client(work: str | Path) -> Any:
    """An ``MlflowClient`` on ``WORK/mlflow.db``; the file is made when it is first asked something."""
    quiet()
    from mlflow import MlflowClient

    Path(work).mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # SQLAlchemy's, about MLflow's own tables
        warnings.simplefilter("ignore", DeprecationWarning)
        return MlflowClient(tracking_uri=_uri(work))


def experiment(work: str | Path) -> str:
    """The id of MLflow's experiment, which is made if it is not there; its artifacts go to ``WORK/artifacts``."""
    mlflow = client(work)
    found = mlflow.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    return mlflow.create_experiment(EXPERIMENT, (Path(work).resolve() / "artifacts").as_uri())


@contextlib.contextmanager
def tracked(work: Path, run_id: str, facts: Mapping[str, Any]) -> Iterator[Callable[[Path], None]]:
    """Open one run in both trackers, named ``run_id``, with ``facts`` (nested plain data) as its configuration.

    Yields a function that adds a file to both as an artifact. Left by an exception, both runs are marked as failed.
    """
    quiet()
    import mlflow
    import wandb

    work = Path(work).resolve()
    number = experiment(work)
    before = os.environ.get("MLFLOW_TRACKING_URI")
    status = "FAILED"
    mlflow.set_tracking_uri(_uri(work))
    caches = {f"WANDB_{name}_DIR": str(work / "wandb-cache") for name in ("CACHE", "CONFIG", "DATA")}
    try:
        with environment(caches):
            tags = {"run_id": run_id, **_texts(facts)}
            mlflow.start_run(experiment_id=number, run_name=run_id, tags=tags)
            run = wandb.init(project=EXPERIMENT, id=run_id, name=run_id, dir=work, config=dict(facts))

            def keep(file: Path) -> None:
                mlflow.log_artifact(str(file))
                artifact = wandb.Artifact(f"record-{run_id}", type="record")
                artifact.add_file(str(file))
                run.log_artifact(artifact)

            yield keep
            mlflow.flush_async_logging()
            status = "FINISHED"
    finally:
        with environment(caches):
            mlflow.end_run(status)
            wandb.finish(exit_code=0 if status == "FINISHED" else 1)
            wandb.teardown()  # its service process ends with the run, not with this kernel
        mlflow.set_tracking_uri(before)


def _texts(facts: Mapping[str, Any], name: str = "") -> dict[str, str]:
    """``{"data.sha256": "..."}``: MLflow's tags are a flat list of texts, at most 8,000 characters each."""
    found: dict[str, str] = {}
    for key, value in facts.items():
        path = f"{name}.{key}" if name else key
        if isinstance(value, Mapping):
            found |= _texts(value, path)
        else:
            found[path] = str(value)[:8000]
    return found


# ---- Reading back ----------------------------------------------------------------------------------------


def best_run(work: str | Path, metric: str = "eval_loss", *, highest: bool = False) -> str:
    """The id of the finished training (no repetition) with the lowest or highest metric, asked of MLflow.

    Raises TrainingError if it knows of none; find_run's errors if its folder is gone or incomplete.
    """
    found = client(work).search_runs(
        [experiment(work)],
        "attributes.status = 'FINISHED' and tags.kind = 'train'",
        order_by=[f"metrics.{metric} {'DESC' if highest else 'ASC'}"],
        max_results=1,
    )
    if not found or metric not in found[0].data.metrics:
        raise TrainingError(
            f"No finished training in {work} has the metric {metric}.",
            fix="train one: python -m production.tracking train",
        )
    run_id = found[0].data.tags["run_id"]
    find_run(work, run_id)
    return run_id


def history(work: str | Path, run_id: str, metric: str = "loss") -> tuple[list[int], list[float]]:
    """Steps and values of one metric, as MLflow kept them. Raises TrainingError if it has none."""
    mlflow = client(work)
    found = mlflow.search_runs([experiment(work)], f"tags.run_id = '{run_id}'", max_results=1)
    points = mlflow.get_metric_history(found[0].info.run_id, metric) if found else []
    if not points:
        raise TrainingError(
            f"MLflow has no {metric} of the run {run_id}.", fix="see: python -m production.tracking list"
        )
    points = sorted(points, key=lambda each: (each.step, each.timestamp))
    return [each.step for each in points], [each.value for each in points]


def offline_folder(work: str | Path, run_id: str) -> Path:
    """Where W&B keeps a run until ``wandb sync FOLDER`` uploads it. Raises TrainingError if there is none."""
    found = sorted((Path(work) / "wandb").glob(f"offline-run-*-{run_id}"))
    if not found:
        raise TrainingError(
            f"W&B has no offline folder of the run {run_id}.",
            why="WANDB_MODE was not offline when it was trained, or `wandb clean` has deleted it",
            fix="see `python -m production.tracking list`",
        )
    return found[-1]


def offline_records(work: str | Path, run_id: str) -> dict[str, int]:
    """How many records of each kind (config, history, ...) W&B's own reader finds in the offline file of a run.

    The reader is ``wandb leet inspect --json``, a program of W&B; TrainingError tells what it said if it fails.
    """
    quiet()
    folder = offline_folder(work, run_id)
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"WANDB_DIR": str(work), "WANDB_MODE": "offline"},
    )
    try:
        kinds = [json.loads(line)["type"] for line in done.stdout.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError):
        kinds = []
    if done.returncode or not kinds:
        raise TrainingError(
            f"The offline file in {folder} can't be read by `wandb leet inspect`.",
            why=(done.stderr or done.stdout).strip()[-300:],
            fix=f"upload it and look there: wandb sync {folder}",
        )
    return dict(Counter(kinds).most_common())
