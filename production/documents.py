"""The five documents of a release, as templates: words are written here, each number and name comes from a record.

Model card: after Mitchell et al. 2019, "Model Cards for Model Reporting". Data card: after Gebru et al. 2021, "Datasheets
for Datasets".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lessonkit.errors import DataError
from production.documentation import fill, table

__all__ = ["NEEDED", "direct_needs", "make_documents"]

#: The steps whose records the documents are made of.
NEEDED = ("data", "train", "evaluate", "register", "deploy", "monitor", "ab", "release", "costs")
Records = Mapping[str, Mapping[str, Any]]


def make_documents(records: Records) -> dict[str, str]:
    """File name -> Markdown. DataError if a step has no record, or it lacks something."""
    missing = [name for name in NEEDED if name not in records]
    if missing:
        raise DataError(
            f"Without the records of {', '.join(missing)} there is nothing to document.",
            why="documents describe a release, and this run has not come so far",
            fix="see where it stands: python -m production.pipeline show",
        )
    facts = {name: record["facts"] for name, record in records.items()}
    return {
        "architecture.md": _architecture(records, facts),
        "model-card.md": _model_card(facts),
        "data-card.md": _data_card(facts),
        "runbook.md": _runbook(facts),
        "cost-ledger.md": _costs(facts),
    }


# ---- Architecture ----------------------------------------------------------------------------------------


def direct_needs(needs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Step -> the steps that it needs and no other of its needs already stands on: the arrows of the picture."""
    ancestors: dict[str, set[str]] = {}

    def all_of(step: str) -> set[str]:
        if step not in ancestors:
            mine = needs.get(step, ())
            ancestors[step] = set(mine).union(*(all_of(each) for each in mine))
        return ancestors[step]

    return {
        step: [each for each in mine if not any(each in all_of(other) for other in mine)]
        for step, mine in needs.items()
    }


def _architecture(records: Records, facts: Mapping[str, Any]) -> str:
    boxes = [
        fill('    {each.step}["{each.step}: {each.does}<br/>{each.seconds:.1f} s"]', {"each": record})
        for record in records.values()
    ]
    arrows = [
        f"    {need} --> {step}"
        for step, mine in direct_needs({name: record["needs"] for name, record in records.items()}).items()
        for need in mine
    ]
    rows = [
        {**record, "files": len(record["outputs"]), "on": ", ".join(record["inputs"])}
        for record in records.values()
    ]
    head = {
        "step": "{each.step}",
        "seconds": "{each.seconds:.1f}",
        "hashed inputs": "{each.on}",
        "ended": "{each.ended}",
    }
    return "\n".join(
        [
            fill("# Architecture\n\nHow version {register.version} of `{register.name}` was made.", facts),
            "Drawn from the records of the steps that ran, in the order in which they ended.\n",
            "```mermaid\nflowchart TB",
            *boxes,
            *arrows,
            "```\n",
            table(head, rows, facts),
            "\nIn service, users meet a router or one server alone; both listen on this computer only.\n",
            "```mermaid\nflowchart LR",
            fill(
                "    users --> router\n    router --> a\n    router --> b\n    b --> watch\n    registry --> b",
                facts,
            ),
            fill('    router["router, port {release.router_port}"]', facts),
            fill('    a["server A: champion before ({release.before_said})"]', facts),
            fill('    b["server B: version {release.champion}, port {release.serving_port}"]', facts),
            '    watch["Prometheus or the watcher"]\n    registry["registry: files, hashes, aliases"]',
            "```\n",
        ]
    )


# ---- Cards -----------------------------------------------------------------------------------------------

MODEL_CARD = """# Model card: {register.name}, version {register.version}

## What it is

A classifier of texts into topics, fine-tuned from `{train.settings.model}`. Run `{train.run_id}`, trained on
{train.created}; champion since {release.date}. It reads the first {deploy.settings.max_length} tokens of a text, and
ignores the rest. Its files take {register.bytes:,} bytes.

## What it is for

Sorting texts like those that it was trained on (see the data card), where a wrong topic costs little or a person looks.
**Not for** other languages, other kinds of texts, topics beyond the list below, or decisions about people. It always answers
with one of its topics, also where none fits.

## How well it does

On {evaluate.n:,} held-out texts of `{data.held_out.name}` ({data.held_out.split}): accuracy {evaluate.accuracy:.3f}
({evaluate.level:.0%} interval {evaluate.accuracy_interval.0:.3f} to {evaluate.accuracy_interval.1:.3f}); always the most
frequent topic: {evaluate.majority_accuracy:.3f}. Macro-F1 {evaluate.macro_f1:.3f} ({evaluate.macro_f1_interval.0:.3f} to
{evaluate.macro_f1_interval.1:.3f}). Calibration error {evaluate.calibration_error:.3f}: the mean distance of confidence from
accuracy.

Against {evaluate.gate.against_said} on the same texts: {evaluate.gate.verdict}, by {evaluate.gate.change:+.3f}
({evaluate.gate.interval.0:+.3f} to {evaluate.gate.interval.1:+.3f}). Served, on {monitor.labelled:,} rehearsed requests:
{monitor.accuracy:.3f} ({monitor.interval.0:.3f} to {monitor.interval.1:.3f}).
"""

MODEL_CARD_END = """
## What it was trained on, and how

{data.parts.train.texts:,} texts, {train.settings.steps:,} steps of {train.settings.batch_size} texts, learning rate
{train.settings.learning_rate}, seed {train.seed}, on {train.hardware.device_name}. Data sha256
`{data.data.sha256}`, code sha256 `{train.code.sha256}`. Again: `{release.commands.repeat}`, where RUN is the run above.

## What nobody has measured here

Fairness between groups of writers, texts written to fool it, and how it ages. The interval says how sure the test is about
texts like its own, and nothing about others.
"""


def _model_card(facts: Mapping[str, Any]) -> str:
    classes = [{"name": name, **each} for name, each in facts["evaluate"]["classes"].items()]
    head = {
        "topic": "{each.name}",
        "held-out texts": "{each.n:,}",
        "precision": "{each.precision:.3f}",
        "recall": "{each.recall:.3f}",
        "F1": "{each.f1:.3f}",
    }
    line = "- {each.slice} {each.value}: {each.accuracy:.3f} (n = {each.n:,}; the others {each.others:.3f})"
    weak = [fill(line, {"each": each}) for each in facts["evaluate"]["weak"]]
    live = facts["ab"]
    lines = [fill(MODEL_CARD, facts), table(head, classes, facts), "", "Surely weaker than the rest on:", ""]
    lines += weak or ["- no part that is large enough to be sure"]
    never = [each["name"] for each in classes if not each["f1"]]
    if never:
        lines += ["", f"**Never right**, neither when it names them nor when it should: {', '.join(never)}."]
    lines += [
        "",
        _experiment(facts)
        if "experiment" in live
        else "It was not compared with another model by live traffic.",
    ]
    return "\n".join([*lines, fill(MODEL_CARD_END, facts)])


def _experiment(facts: Mapping[str, Any]) -> str:
    return fill(
        "In an experiment with rehearsed users ({ab.experiment.users.A} of version {ab.champion}, "
        "{ab.experiment.users.B} of this one), its share of wrong answers minus the other's was "
        "{ab.experiment.change:+.3f}, at most {ab.experiment.bound:+.3f} ({ab.experiment.level:.0%}); the margin was "
        "{ab.experiment.margin}.",
        facts,
    )


DATA_CARD = """# Data card: {data.data.name}

**What**: {data.asset.title}. **From**: `{data.asset.source}`; first published: {data.asset.origin}. **Licence**:
{data.asset.licence}. sha256 of training and validation texts, in their order: `{data.data.sha256}`; of the held-out ones:
`{data.held_out.sha256}`.

## Parts

"""

DATA_CARD_END = """
{data.shared_texts:,} of {data.held_out.texts:,} held-out texts ({data.shared_share:.1%}) also stand, word for word, among
the training texts; the pipeline stops above {data.shared_limit:.1%}.

- *train* is what the weights were fitted to, *validation* what a training is watched by.
- *gate* decides whether a version may replace the champion: the first held-out texts, in the order of their file, so its
  mixture of topics may differ from that of the rest (see the table). Each question wears it out a little.
- *traffic* plays the users, in monitoring and in the experiment. These are no real users: nobody asks twice, nobody writes
  anything new, and all labels are known.

## What this card doesn't know

Who wrote the texts and whether they agreed, how the labels were given, and how many of them are wrong.
"""


def _data_card(facts: Mapping[str, Any]) -> str:
    parts = [{"part": name, **each} for name, each in facts["data"]["parts"].items()]
    head = {
        "part": "{each.part}",
        "texts": "{each.texts:,}",
        "largest topic": "{each.majority:.1%}",
        "median characters": "{each.median_characters:,}",
        "longest but one in twenty": "{each.p95_characters:,}",
        "empty": "{each.empty}",
    }
    counts = [
        {
            "label": label,
            **{name: each["labels"].get(label, 0) for name, each in facts["data"]["parts"].items()},
        }
        for label in facts["data"]["data"]["labels"]
    ]
    by_label = {"topic": "{each.label}"} | {name: f"{{each.{name}:,}}" for name in facts["data"]["parts"]}
    return "\n".join(
        [
            fill(DATA_CARD, facts) + table(head, parts, facts),
            "",
            table(by_label, counts, facts),
            fill(DATA_CARD_END, facts),
        ]
    )


# ---- Runbook and costs -----------------------------------------------------------------------------------

RUNBOOK = """# Runbook: {register.name}, version {release.champion}

For whoever is called at night. `WORK` is the work folder, that in which `pipeline/` and `registry/` lie. First, in the
project's folder and in each terminal: `export WORK=...`, and the keys, which lie in files that only you can read:

```
{release.commands.keys}
```

Are there none yet, make them once:

```
{release.commands.make_keys}
```

## Start and check

In a terminal of its own, for it runs until Ctrl+C:

```
{release.commands.serve}
```

In another one; the last command watches, and runs until Ctrl+C, too:

```
{release.commands.ready}
{release.commands.watch}
```

The server listens on port {release.serving_port} of this computer, a router on {release.router_port}. When it was checked
last, it was ready after {deploy.ready_seconds:.1f} s{deploy.beside}, and with {deploy.users} users at a time, who
asked the rehearsal's texts, gave {deploy.answers_a_second:.1f} answers a second: half of them within
{deploy.p50_ms:.1f} ms, all but one in twenty within {deploy.p95_ms:.1f} ms. Is it slower now? This asks as many at a
time, one short sentence again and again, so it should be quicker than that:

```
{release.commands.load} --concurrency {deploy.users}
```

## Back to the version before

"""

RUNBOOK_BACK = """\
Before this one, {release.before_said} was champion. If users meet the new one through a router, first take it away from
them:

```
{release.commands.share}
```

Then give the alias back, and look at who has it:

```
{release.commands.back}
{release.commands.versions}
```

End the server by Ctrl+C, and start it again with the settings with which that version was released. (A reload alone would
bring the version back, and keep this one's settings.)

```
{release.commands.serve_before}
```

## Alerts

"""

RUNBOOK_FIRST = """\
There is none: this is the first that was released. End the server, or train another one:

```
{release.commands.next}
```

## Alerts

"""

RUNBOOK_END = """
In the rehearsal {monitor.requests:,} requests went through; alerts that fired: {fired}. Windows and waiting times were then
{monitor.rehearsal:.0f} times as short as above. *Rehearsed* says whether the alert could have fired there.

## Has the traffic changed?

Compare windows of {window} requests with `monitoring/reference.jsonl` of this run (`production.drift.detect`). While nothing
changes, each threshold is exceeded by about the share of windows that stands beside it.

"""


def _runbook(facts: Mapping[str, Any]) -> str:
    head = {
        "alert": "{each.alert} ({each.severity})",
        "when": "`{each.expr}` for {each.wait:.0f} s",
        "what it means": "{each.summary}",
        "what to do": "{each.action}",
        "rehearsed": "{each.rehearsed}",
    }
    monitor = facts["monitor"]
    thresholds = [{"name": name, **each} for name, each in monitor["drift"].items()]
    drift = {"of": "{each.name}", "threshold": "{each.value:.3f}", "false alarms": "{each.false_alarms:.1%}"}
    more = {"fired": ", ".join(monitor["fired"]) or "none", "window": thresholds[0]["size"]}
    return "\n".join(
        [
            fill(RUNBOOK, facts)
            + fill(RUNBOOK_BACK if facts["release"]["before"] else RUNBOOK_FIRST, facts)
            + table(head, monitor["alerts"], facts),
            fill(RUNBOOK_END, {**facts, **more}) + table(drift, thresholds, facts),
            "",
        ]
    )


COSTS = """# Cost ledger

Price: {costs.price.hourly:.4f} {costs.price.currency} an hour (`{costs.price.name}`, {costs.price.date};
{costs.price.source}).
{notes}

"""

COSTS_END = """
All steps: {costs.seconds:.0f} s, {costs.cost:.4f} {costs.price.currency}. Attempts that were interrupted or made anew
are not in these seconds; there were {costs.again}.

**A million answers**: {costs.per_million:.4f} {costs.price.currency}, at {costs.answers_a_second:.1f} answers a second
with {deploy.users} users at a time, of which {costs.utilisation:.0%} are asked on average. Measured on {costs.machine},
{costs.measured}. It is the price of this machine's time, and no more: not of disks, network, people, or a second server
that waits for the first one to fail.
"""


def _costs(facts: Mapping[str, Any]) -> str:
    head = {
        "step": "{each.step}",
        "seconds": "{each.seconds:.1f}",
        "begun": "{each.begun}",
        "cost": "{each.cost:.6f}",
    }
    notes = "; ".join(facts["costs"]["notes"])
    more = {"notes": f"**Mind**: {notes}." if notes else ""}
    return "\n".join(
        [fill(COSTS, {**facts, **more}) + table(head, facts["costs"]["steps"], facts), fill(COSTS_END, facts)]
    )
