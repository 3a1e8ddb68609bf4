"""From data to a release by one command: ``python -m production.pipeline run``; ``show`` tells how far it is.

A run's folder is ``WORK/pipeline/NUMBER/``. ``run`` goes on with the newest run until its release; after that, changed
settings begin another one. Exit code 1: it stopped, and says why; what is in service stays in service.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lessonkit.errors import LessonError, UnknownNameError
from production.commands import only_one, run
from production.documentation import document
from production.pipeline_service import compare_live, count_costs, deploy, monitor, release
from production.pipeline_state import PipelineRun, Step, newest, run_steps
from production.pipeline_steps import Context, evaluate_model, prepare_data, register_model, train_model
from production.pipeline_traffic import Servers
from production.recipe import Tracking
from production.registry import CHAMPION, Registry
from production.registry_gate import Judging
from production.routing import Routing
from production.serving import Serving
from production.settings import read, work_folder

__all__ = ["STEPS", "Outcome", "Pipeline", "read_sections", "run_pipeline", "show"]

WHAT = "running the pipeline"
#: What of a released run is done again within it: another price, or a document that was edited by hand, is no new model.
AFTER = {"release", "costs", "document"}


@dataclass(frozen=True)
class Pipeline:
    """Section [pipeline]. max_length: tokens of a text that are read, in training, by the gate and by the server alike.

    leak_limit: share of held-out texts that may stand in the training data. checked: answers of the server that are
    compared with the evaluation's. load: requests of the load test. traffic: requests of the rehearsal that is monitored,
    rate: so many a second. at_once: users at one time. p95_ms: of the load test, at most. rehearsal: alert windows are
    divided by it. windows: drawn for the drift thresholds. canary: share of the canary_requests first users that get the
    new version; share: of the requests users after them. margin: by how much the new version's share of wrong answers may
    lie above the champion's, at most. price, utilisation: see production/cost.py.
    """

    max_length: int = 40
    leak_limit: float = 0.05
    checked: int = 24
    load: int = 60
    traffic: int = 100
    rate: float = 15.0
    at_once: int = 4
    p95_ms: float = 1000.0
    rehearsal: float = 30.0
    windows: int = 100
    canary: float = 0.2
    canary_requests: int = 80
    share: float = 0.5
    requests: int = 240
    margin: float = 0.1
    price: str = "rented-2-cores"
    utilisation: float = 0.5

    def __post_init__(self) -> None:
        counts = ("max_length", "checked", "load", "at_once", "windows", "canary_requests")
        wrong = [f"{name} must be at least 1" for name in counts if getattr(self, name) < 1]
        wrong += ["traffic must be at least 8"] if self.traffic < 8 else []
        wrong += ["requests must be at least 20"] if self.requests < 20 else []
        shares = ("canary", "share", "margin", "utilisation")
        wrong += [
            f"{name} must lie above 0 and below 1" for name in shares if not 0 < getattr(self, name) < 1
        ]
        wrong += ["leak_limit must lie from 0 to 1"] if not 0 <= self.leak_limit <= 1 else []
        wrong += [
            f"{name} must be above 0" for name in ("rate", "p95_ms", "rehearsal") if getattr(self, name) <= 0
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


#: In this order. What a step needs, reads and runs decides when it is done anew.
STEPS = (
    Step("data", "read, check and describe the texts", prepare_data, (), ("tracking", "registry", "pipeline.data"),
         ("recipe", "pipeline_steps.py")),
    Step("train", "train one model, tracked", train_model, ("data",), ("tracking",), ("recipe", "pipeline_steps.py")),
    Step("evaluate", "compare it with the champion on held-out texts", evaluate_model, ("data", "train"), ("registry",),
         ("registry_gate", "records", "pipeline_steps.py")),
    Step("register", "enter it into the registry", register_model, ("train", "evaluate"), ("registry",),
         ("registry", "pipeline_steps.py")),
    Step("deploy", "serve it to nobody, and check its answers and its speed", deploy, ("data", "evaluate", "register"),
         ("serving", "pipeline.deploy"),
         ("serving", "serving_api", "load_test", "pipeline_traffic.py", "pipeline_service.py")),
    Step("monitor", "watch it under rehearsed traffic", monitor, ("data", "register", "deploy"),
         ("serving", "pipeline.monitor"),
         ("alerts.yml", "watcher", "monitoring", "drift", "serving", "serving_api", "pipeline_traffic.py",
          "pipeline_service.py")),
    Step("ab", "let a few users, then half of them, meet it", compare_live, ("data", "register", "deploy", "monitor"),
         ("serving", "router", "pipeline.ab"),
         ("router", "ab", "serving", "serving_api", "pipeline_traffic.py", "pipeline_service.py")),
    Step("release", "make it champion", release, ("register", "ab"), ("registry", "serving", "router"),
         ("registry", "pipeline_service.py")),
    Step("costs", "count what it all cost", count_costs,
         ("data", "train", "evaluate", "register", "deploy", "monitor", "ab", "release"), ("pipeline.costs",),
         ("prices.toml", "cost", "pipeline_service.py"), times=True),
    Step("document", "write its documentation from the records", document,
         ("data", "train", "evaluate", "register", "deploy", "monitor", "ab", "release", "costs"), (),
         ("documentation.py", "documents.py"), times=True),
)  # fmt: skip

#: Which settings of [pipeline] a step reads: another canary is no reason to train again.
PARTS = {
    "pipeline.data": ("leak_limit", "traffic", "canary_requests", "requests"),
    "pipeline.deploy": ("checked", "load", "traffic", "at_once", "p95_ms"),
    "pipeline.monitor": ("traffic", "rate", "at_once", "rehearsal", "windows"),
    "pipeline.ab": ("traffic", "at_once", "canary_requests", "share", "requests", "margin"),
    "pipeline.costs": ("price", "utilisation"),
}


def read_sections(settings: str | Path = "") -> dict[str, Any]:
    """All sections that the pipeline reads, as dataclasses; [pipeline]'s max_length and canary go before theirs."""
    found = read("pipeline", Pipeline, settings)
    kinds = {"tracking": Tracking, "registry": Judging, "serving": Serving, "router": Routing}
    sections = {name: read(name, kind, settings) for name, kind in kinds.items()}
    for name in ("tracking", "registry", "serving"):
        sections[name] = dataclasses.replace(sections[name], max_length=found.max_length)
    sections["router"] = dataclasses.replace(sections["router"], share=found.canary)
    if sections["registry"].name != Judging().name:
        raise LessonError(
            f"[registry] name is {sections['registry'].name!r}.",
            why=f"the server looks versions up under {Judging().name!r}",
            fix=f'write name = "{Judging().name}"',
        )
    parts = {part: {name: getattr(found, name) for name in names} for part, names in PARTS.items()}
    return {**sections, "pipeline": found, **parts}


# ---- Runs ------------------------------------------------------------------------------------------------


def _begin(work: Path, champion: int) -> PipelineRun:
    last = newest(work)
    number = int(last.folder.name) + 1 if last else 1
    return PipelineRun.begin(work / "pipeline" / str(number), work, champion=champion)


def _chosen(work: Path, sections: dict[str, Any], champion: int, new: bool) -> PipelineRun:
    """The run to go on with, or a new one: a run ends with its release, and what follows that can be done again.

    LessonError if another version became champion meanwhile.
    """
    found = newest(work)
    if found is None or new:
        return _begin(work, champion)
    before, registered = found.state["facts"]["champion"], found.record("register")
    ours = registered["facts"]["version"] if registered else None
    if found.status("release") == "done" or (champion not in (before, 0) and champion == ours):
        return found if stale_steps(found, sections) <= AFTER else _begin(work, champion)
    if champion not in (before, ours):
        raise LessonError(
            f"Version {champion} became champion since the run {found.folder.name} began.",
            why=f"that run compares its model with version {before}",
            fix="begin another run: python -m production.pipeline run --new",
        )
    return found


def stale_steps(found: PipelineRun, sections: dict[str, Any]) -> set[str]:
    """The steps whose records are missing, or don't hold any more."""
    return {step.name for step in STEPS if found.reason(step, found.inputs(step, sections))}


@dataclass(frozen=True)
class Outcome:
    """run: its folder and state. stopped: "" for a complete run, else the step and the reason. champion: in service now."""

    run: PipelineRun
    stopped: str
    champion: int


def run_pipeline(
    work: str | Path, settings: str | Path = "", *, new: bool = False, again: bool = False, tell: Any = print
) -> Outcome:
    """Go on with the newest run, or begin one. new: begin one in any case. again: repeat a step that stopped.

    Raises LessonError while another command runs the pipeline in ``work``, and what the steps raise.
    """
    work, sections = Path(work).resolve(), read_sections(settings)
    root = work / "pipeline"
    with only_one(root, WHAT):
        registry = Registry(work, sections["registry"])
        champion = registry.entries.aliases().get(CHAMPION, 0)
        found = _chosen(work, sections, champion, new)
        tell(f"run {found.folder.name}, champion so far: {found.state['facts']['champion'] or 'none'}")
        with Servers(work, root / "servers") as servers:
            context = Context(found, sections, registry, servers)
            stopped = run_steps(found, STEPS, sections, context, tell, again=again)
        return Outcome(found, stopped, registry.entries.aliases().get(CHAMPION, 0))


def show(work: str | Path, settings: str | Path = "") -> str:
    """A line for each step of the newest run: its status, seconds, starts, and what a `run` would do with it now."""
    found = newest(work)
    if found is None:
        return f"No run in {work} yet. Begin one: python -m production.pipeline run"
    sections = read_sections(settings)
    facts = found.state["facts"]
    lines = [f"run {found.folder.name}, champion when it began: {facts['champion'] or 'none'}"]
    ended = found.status("release") == "done" and not stale_steps(found, sections) <= AFTER
    lines.append(f"{'step':<10}{'status':<9}{'seconds':>8}{'begun':>7}  now")
    ahead = ""
    for step in STEPS:
        state, record = found.state["steps"].get(step.name, {}), found.record(step.name)
        why = found.reason(step, found.inputs(step, sections))
        now = why if record is None or why else "stays stopped" if record["stopped"] else "kept"
        if ahead:
            now = f"waits for {ahead}"
        elif why or (record and record["stopped"]):
            ahead = step.name
        seconds = f"{record['seconds']:.1f}" if record else "-"
        lines.append(
            f"{step.name:<10}{found.status(step.name):<9}{seconds:>8}{state.get('begun', 0):>7}  {now}"
        )
        if record and record["stopped"]:
            lines.append(f"          {record['stopped']}")
    if ended:
        lines.append("It has ended with its release: a `run` begins another one.")
    return "\n".join(lines)


def main(
    action: Annotated[str, typer.Argument(help="run or show")] = "show",
    settings: Annotated[str, typer.Option(help="another settings.toml")] = "",
    work: Annotated[str, typer.Option(help="the work folder, instead of [work] folder")] = "",
    new: Annotated[
        bool, typer.Option("--new", help="run: begin a new run, whatever became of the last")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="run: repeat the step that stopped")] = False,
) -> None:
    """Run all steps from data to release, or show how far they are."""
    folder = Path(work).expanduser() if work else work_folder(settings)
    if action == "show":
        typer.echo(show(folder, settings))
    elif action == "run":
        outcome = run_pipeline(folder, settings, new=new, again=again, tell=typer.echo)
        if outcome.stopped:
            stays = (
                f"version {outcome.champion} stays champion" if outcome.champion else "there is no champion"
            )
            typer.echo(f"STOPPED at {outcome.stopped}\n{stays}")
            raise typer.Exit(1)
        typer.echo(f"complete; its documentation: {outcome.run.folder / 'documents'}")
        if outcome.champion != (version := outcome.run.facts("release")["champion"]):
            typer.echo(f"its version {version} is champion no more: version {outcome.champion} is")
    else:
        raise UnknownNameError("action", action, ("run", "show"))


if __name__ == "__main__":
    run(main)
