"""The first half of the pipeline: data, training, evaluation, registration. Each step is a function of the context.

A step reads the records of earlier steps and the settings, calls a module of this folder, and gives facts and files. What
it returns in ``stopped`` is a reason for which nobody may go on; an error is a step that could not be done.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lessonkit.assets import assets
from lessonkit.errors import DataError
from lessonkit.scoring import EvaluationConfig, labelled_texts, read_evaluation
from production.load_test import quantile
from production.pipeline_state import Made, PipelineRun
from production.pipeline_traffic import Servers
from production.recipe import data_facts, read_data, train
from production.records import MODEL, find_run, read_run, verify_run
from production.registry import BASELINE, Registry
from production.registry_gate import judge

__all__ = ["Context", "evaluate_model", "prepare_data", "register_model", "train_model"]

SHUFFLE = 0  # seed of their order
LEVEL = 0.95  # of all intervals that are recorded here


@dataclass(frozen=True)
class Context:
    """What steps get. sections: of the settings, by name; see production/pipeline.py."""

    run: PipelineRun
    sections: Mapping[str, Any]
    registry: Registry
    servers: Servers

    @property
    def work(self) -> Path:
        """The work folder."""
        return self.run.work

    @property
    def champion(self) -> int:
        """The version in service when this run began; 0 for none."""
        return self.run.state["facts"]["champion"]

    def facts(self, step: str) -> dict[str, Any]:
        """What an earlier step has recorded."""
        return self.run.facts(step)

    def fresh(self, name: str) -> Path:
        """An empty folder of this run; what an interrupted attempt left there is deleted."""
        folder = self.run.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def said(version: int) -> str:
    """How a champion is called."""
    return f"version {version}" if version else BASELINE


# ---- Data ------------------------------------------------------------------------------------------------


def prepare_data(context: Context) -> Made:
    """Read and describe the texts; keep those that traffic is rehearsed with. Stops for unknown labels and for a leak."""
    tracking, rules, wanted = (context.sections[name] for name in ("tracking", "registry", "pipeline"))
    data = read_data(tracking)
    held = labelled_texts(EvaluationConfig(model="none", data=rules.data, split=rules.split))
    judged = min(rules.texts or len(held.texts), len(held.texts))
    rows = list(zip(held.texts, held.labels, strict=True))
    learnt = {text for text, _ in data.parts["train"]}
    shared = sum(text in learnt for text in held.texts)
    leaks = shared / len(rows) > wanted.leak_limit
    rest = [row for row in rows[judged:] if leaks or row[0] not in learnt]
    needed = wanted.traffic + wanted.canary_requests + wanted.requests
    if len(rest) < needed and not leaks:
        raise DataError(
            f"Of {len(rows):,} held-out texts {len(rest):,} are left for the rehearsed users, who need {needed:,}.",
            why="each asks one text that neither the training nor the gate has seen, once: a text that is asked twice "
            "tells nothing new, and the experiment would be surer than it may be",
            fix="lower `texts` in [registry], or `traffic`, `canary_requests` or `requests` in [pipeline]",
        )
    random.Random(SHUFFLE).shuffle(rest)
    file = context.fresh("data") / "traffic.jsonl"
    file.write_text(
        "".join(json.dumps({"text": t, "label": name}) + "\n" for t, name in rest), encoding="utf-8"
    )
    facts = {
        "data": data_facts(tracking, data),
        "asset": _asset(rules.data),
        "held_out": {
            "name": rules.data,
            "split": rules.split,
            "sha256": held.digest,
            "texts": len(rows),
            "gate_texts": judged,
            "traffic_texts": len(rest),
        },
        "parts": {
            **{part: describe(each) for part, each in data.parts.items()},
            "gate": describe(rows[:judged]),
            "traffic": describe(rest),
        },
        "shared_texts": shared,
        "shared_share": shared / len(rows),
        "shared_limit": wanted.leak_limit,
    }
    unknown = sorted(set(held.labels) - set(data.names))
    stopped = ""
    if unknown:
        stopped = f"the held-out texts have labels that the training data lacks: {', '.join(unknown)}"
    elif leaks:
        stopped = (
            f"{shared} of {len(rows):,} held-out texts stand in the training data, too; the limit is a share of "
            f"{wanted.leak_limit}, for a score on texts that were learnt means little"
        )
    return Made(
        facts,
        (file,),
        f"{len(data.parts['train']):,} texts to train on, {shared} of them held out too",
        stopped,
    )


def describe(rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Of (text, label) rows: their number, each label's count, the share of the largest, lengths in characters."""
    counts = Counter(label for _, label in rows)
    lengths = [len(text) for text, _ in rows]
    return {
        "texts": len(rows),
        "labels": dict(counts.most_common()),
        "majority": max(counts.values()) / len(rows),
        "median_characters": quantile(lengths, 0.5),
        "p95_characters": quantile(lengths, 0.95),
        "empty": sum(not text.strip() for text, _ in rows),
    }


def _asset(name: str) -> dict[str, str]:
    known = assets().get(name)
    if known is None:
        return {
            "title": Path(name).name,
            "source": "a file of yours",
            "licence": "not recorded",
            "origin": "not recorded",
        }
    return {"title": known.title, "source": known.source, "licence": known.licence, "origin": known.origin}


# ---- Training, evaluation, registration ----------------------------------------------------------------------


def train_model(context: Context) -> Made:
    """One tracked training; see production/recipe.py."""
    folder = train(context.work, context.sections["tracking"])
    record = read_run(folder)
    names = ("run_id", "created", "seed", "settings", "metrics", "seconds", "hardware", "versions", "code")
    facts = {name: record[name] for name in names}
    accuracy = record["metrics"]["eval_accuracy"]
    if record["data"]["sha256"] != context.facts("data")["data"]["sha256"]:
        return Made(
            facts, (folder,), stopped="the training data changed after the data step had read it; run again"
        )
    return Made(facts, (folder,), f"run {folder.name}: {accuracy:.3f} of the validation texts are right")


def evaluate_model(context: Context) -> Made:
    """Let the gate compare the new model with the champion, on held-out texts. Stops if it refuses."""
    run = find_run(context.work, context.facts("train")["run_id"])
    verify_run(run)
    champion = context.registry.resolve(str(context.champion)).folder if context.champion else None
    folder = context.fresh("evaluation")
    found = judge(run / MODEL, champion, context.registry.rules, folder)
    metrics = read_evaluation(folder / "candidate").metrics
    compared = found.comparison
    names = (
        "n",
        "accuracy",
        "accuracy_interval",
        "macro_f1",
        "macro_f1_interval",
        "majority_accuracy",
        "classes",
    )
    facts = {
        **{name: metrics[name] for name in names},
        "level": LEVEL,
        "calibration_error": metrics["calibration"]["error"],
        "weak": [
            {name: each[name] for name in ("slice", "value", "n", "accuracy", "others")}
            for each in metrics["slices"]
            if each["sure"] and each["accuracy"] < each["others"]
        ][:3],
        "gate": {
            "against": context.champion,
            "against_said": said(context.champion),
            "verdict": found.verdict,
            "passed": found.passed,
            "reasons": found.reasons,
            "values": list(compared.values),
            "change": compared.change,
            "interval": list(compared.interval),
        },
    }
    told = f"{metrics['accuracy']:.3f} of {metrics['n']:,}; against {said(context.champion)}: {found.verdict}"
    stopped = ""
    if not found.passed:
        stopped = f"the gate refuses this model against {said(context.champion)}: " + " ".join(found.reasons)
    return Made(facts, (folder,), told, stopped)


def register_model(context: Context) -> Made:
    """Into the registry, as the challenger."""
    run = find_run(context.work, context.facts("train")["run_id"])
    found = context.registry.register(run)
    facts = {
        "name": found.name,
        "version": found.version,
        "run_id": found.run_id,
        "lineage": found.lineage,
        "sha256": found.sha256,
        "bytes": sum(each.stat().st_size for each in found.folder.rglob("*") if each.is_file()),
    }
    return Made(facts, (found.folder,), f"version {found.version} of {found.name}")
