"""The second half of the pipeline: deployment, monitoring, the A/B decision, the release, and what it all cost."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from lessonkit.errors import DataError, LessonError
from lessonkit.scoring import read_evaluation
from production.ab import not_worse, per_user, ratio_check
from production.cost import Entry, find_price, per_million, write_ledger
from production.drift import calibrate
from production.load_test import load
from production.monitoring import Receiver
from production.pipeline_state import Made, write
from production.pipeline_steps import LEVEL, Context, said
from production.pipeline_traffic import as_toml, ask_through, milliseconds, read_rows, send_outcomes
from production.prediction_log import join_labels, read_log
from production.registry import CHAMPION
from production.routing import Routing
from production.routing import read_log as read_routes
from production.rules import ALERTS, Rule, read_rules, scaled
from production.serving import Serving
from production.watcher import Watcher

__all__ = ["compare_live", "count_costs", "deploy", "monitor", "release"]

SCRAPE = 15.0  # seconds between two looks at /metrics, which alerts.yml is meant for
FEWEST = 8  # answers, for thresholds of four windows
RELEASES = "releases"  # beside the runs: with which settings each released version is served


def _rows(context: Context) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rehearsal's texts: those for monitoring, and those for the experiment."""
    rows = read_rows(context.run.folder / "data" / "traffic.jsonl")
    cut = context.sections["pipeline"].traffic
    return rows[:cut], rows[cut:]


def released_settings(context: Context, version: int) -> tuple[Serving, str]:
    """With which settings a version was released, and whose they are; this run's for one that was promoted by hand."""
    file = context.run.folder.parent / RELEASES / f"{version}.json"
    try:
        return Serving(**json.loads(file.read_text(encoding="utf-8"))["serving"]), "its release"
    except FileNotFoundError:
        return context.sections["serving"], "this run, for it was promoted by hand"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} can't be read: {error}.",
            why=f"it holds the settings with which version {version} is served",
            fix="bring it back from a backup; or delete it, and this run's settings are taken for that version",
        ) from None


def deploy(context: Context) -> Made:
    """Start a server of the new version, beside the champion's; ask it what the evaluation asked, and load it.

    Stops if one answer differs, if requests fail, or if it is slower than `p95_ms` allows. Nobody is sent to it yet.
    """
    wanted, settings = context.sections["pipeline"], context.sections["serving"]
    version = context.facts("register")["version"]
    context.servers.begin(version, settings)
    if context.champion:  # the experiment needs it: the two start side by side
        context.servers.get(context.champion, released_settings(context, context.champion)[0])
    server = context.servers.get(version, settings)
    known = read_evaluation(context.run.folder / "evaluation" / "candidate").predictions[: wanted.checked]
    with server.client(wanted.at_once) as client:
        with ThreadPoolExecutor(wanted.at_once) as pool:
            answers = list(pool.map(lambda each: client.classify(each.text), known))
        same = sum(each.prediction == answer["label"] for each, answer in zip(known, answers, strict=True))
        apart = max(
            abs(each.confidence - answer["score"]) for each, answer in zip(known, answers, strict=True)
        )
        texts = [each["text"] for each in _rows(context)[0]]
        report = load(
            lambda number: client.classify(texts[number % len(texts)]),
            wanted.at_once,
            requests=wanted.load,
            seconds=60,
        )
    facts = {
        "version": version,
        "settings": asdict(settings),
        "ready_seconds": round(server.ready, 1),
        "beside": f", starting together with that of version {context.champion}" if context.champion else "",
        "checked": len(known),
        "same": same,
        "largest_score_difference": apart,
        "requests": report.answered,
        "users": wanted.at_once,
        "failures": report.failures,
        "answers_a_second": round(report.throughput, 1),
        **milliseconds(report.latencies),
        "p95_limit_ms": wanted.p95_ms,
    }
    told = f"{same} of {len(known)} answers as evaluated; {report}"
    stopped = ""
    if same < len(known):
        stopped = (
            f"the server answers {len(known) - same} of {len(known)} texts otherwise than the evaluated model"
        )
    elif report.failures:
        stopped = f"requests failed under a light load: {report.failures}"
    elif facts["p95_ms"] > wanted.p95_ms:
        stopped = (
            f"one answer in twenty takes more than {facts['p95_ms']:.0f} ms; {wanted.p95_ms:.0f} are allowed"
        )
    return Made(facts, told=told, stopped=stopped)


def monitor(context: Context) -> Made:
    """Watch the server under rehearsed traffic, by the alert rules; measure its accuracy and the drift thresholds.

    Stops if an alert fires.
    """
    wanted, version = context.sections["pipeline"], context.facts("register")["version"]
    server_settings, folder = context.sections["serving"], context.fresh("monitoring")
    server = context.servers.get(version, server_settings)
    rules = scaled(ALERTS, wanted.rehearsal, folder / "alerts.yml")
    rows, labels, every = _rows(context)[0], [], SCRAPE / wanted.rehearsal

    def ask(number: int) -> dict[str, Any]:
        answer = client.classify(rows[number]["text"])
        labels.append({"id": answer["id"], "label": rows[number]["label"], "time": time.time()})
        return answer

    with (
        server.client(wanted.at_once) as client,
        Receiver() as receiver,
        Watcher(server.url, receiver.url, rules, every) as watcher,
    ):
        report = load(ask, wanted.at_once, requests=len(rows), rate=wanted.rate, seconds=120)
        time.sleep(2 * every)  # the last requests are looked at, too
        fired = sorted({each.alert for each in receiver.deliveries if each.status == "firing"})
        seen = sum(dict(watcher.query("sum(classifier_requests_total)")).values())
    if report.failures or report.answered < FEWEST or watcher.problems or seen < report.answered:
        facts = {"requests": report.answered, "failures": report.failures, "fired": fired, "watched": seen}
        why = f"{report.answered} of {len(rows)} requests were answered, {seen:.0f} seen by the watcher"
        return Made(facts, stopped=f"{why}; failures: {report.failures}; {'; '.join(watcher.problems)}")
    ours = {each["id"] for each in labels}
    reference = [row for row in read_log(server.log) if row["id"] in ours]
    live = join_labels(reference, labels)[str(version)]
    thresholds = calibrate(reference, max(2, len(reference) // 4), windows=wanted.windows)
    file = folder / "reference.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in reference), encoding="utf-8")
    facts = {
        "alerts": [
            {
                "alert": each.alert,
                "expr": each.expr,
                "wait": each.wait,
                "rehearsed": _rehearsed(each, report.seconds * wanted.rehearsal, server_settings.max_length),
                **each.labels,
                **each.annotations,
            }
            for each in read_rules(ALERTS).rules
        ],
        "rehearsal": wanted.rehearsal,
        "requests": report.answered,
        "failures": report.failures,
        "fired": fired,
        **milliseconds(report.latencies),
        "accuracy": live.accuracy,
        "interval": list(live.interval),
        "level": LEVEL,
        "labelled": live.n,
        "drift": {name: asdict(each) for name, each in thresholds.items()},
    }
    told = f"{report.answered} requests, {live.accuracy:.3f} right, alerts: {', '.join(fired) or 'none'}"
    return Made(
        facts, (file,), told, f"alerts fired under ordinary traffic: {', '.join(fired)}" if fired else ""
    )


def _rehearsed(rule: Rule, seconds: float, max_length: int) -> str:
    """Whether the rule could have fired in a rehearsal of so many seconds, windows and waiting times taken as they are."""
    if rule.wait >= seconds:
        return f"no: it waits {rule.wait:.0f} s, and the rehearsal stood for {seconds:.0f} s"
    bound = re.search(r'classifier_input_tokens_bucket\{le="(\d+)"\}', rule.expr)
    if bound and int(bound[1]) >= max_length:
        return f"no: texts are cut at {max_length} tokens"
    return "yes"


# ---- The A/B decision ------------------------------------------------------------------------------------


def compare_live(context: Context) -> Made:
    """A small canary, then an even split, before the champion's server and the new one. Stops unless B may replace A."""
    wanted, version = context.sections["pipeline"], context.facts("register")["version"]
    facts: dict[str, Any] = {"champion": context.champion, "version": version}
    if not context.champion:
        return Made(facts | {"decision": "no champion to compare with"}, told="no champion to compare with")
    settings, whose = released_settings(context, context.champion)
    a = context.servers.get(context.champion, settings)
    b = context.servers.get(version, context.sections["serving"])
    rules: Routing = context.sections["router"]
    rules = replace(rules, experiment=f"{rules.experiment}-{version}")  # each version meets other users first
    folder, rows, asked = context.fresh("router"), _rows(context)[1], []
    router, url = context.servers.route(a, b, rules, folder)
    key = {"Authorization": f"Bearer {context.servers.router_key}"}
    with router, httpx.Client(base_url=url, headers=key, timeout=30, trust_env=False) as http:
        stages = (("canary", wanted.canary_requests, rules.share), ("user", wanted.requests, wanted.share))
        for name, count, share in stages:
            if http.get("/state").json()["rolled_back"]:
                break
            if share != rules.share:
                http.post("/share", json={"share": share})  # refused, and so without effect, after a rollback
            users = [f"{name}-{number}" for number in range(count)]
            asked += ask_through(url, b.key, users, rows[len(asked) :], wanted.at_once)
        send_outcomes(url, context.servers.router_key, asked)
        state = http.get("/state").json()
    lines = read_routes(folder / "router.jsonl")
    facts |= {
        "champion_settings_of": whose,
        "canary_share": rules.share,
        "share": wanted.share,
        "answered": sum(each.status == 200 for each in asked),
        "asked": len(asked),
        "rolled_back": state["rolled_back"],
        "guardrails": {
            name: {**each, "evidence": round(each["evidence"], 1)}
            for name, each in state["guardrails"].items()
        },
        "arms": {arm: _arm(lines, arm) for arm in "AB"},
    }
    if state["rolled_back"]:
        stopped = (
            f"the canary was rolled back ({state['rolled_back']}); {said(context.champion)} keeps all users"
        )
    else:
        facts["experiment"], stopped = _judged(lines, wanted.share, wanted.margin)
    facts["decision"] = "stay" if stopped else "release"
    told = f"{facts['arms']['A']['requests']} requests to A, {facts['arms']['B']['requests']} to B: {facts['decision']}"
    return Made(facts, (folder / "router.jsonl",), told, stopped)


def _arm(lines: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    mine = [line for line in lines if line["event"] == "request" and line["arm"] == arm]
    seconds = [line["seconds"] for line in mine if not line["failed"]]
    return {
        "requests": len(mine),
        "failed": sum(line["failed"] for line in mine),
        "median_ms": round(1000 * statistics.median(seconds), 1) if seconds else None,
    }


def _judged(lines: Sequence[dict[str, Any]], share: float, margin: float) -> tuple[dict[str, Any], str]:
    """The experiment's numbers, of the even split only, and why B may not replace A ("" if it may)."""
    second = [
        line
        for line in lines
        if line["event"] == "outcome" or (line["event"] == "request" and line["share"] == share)
    ]
    wrong = {arm: [1 - value for name, value in per_user(second) if name == arm] for arm in "AB"}
    ratio = ratio_check(len(wrong["A"]), len(wrong["B"]), share)
    verdict, change, bound = not_worse(wrong["A"], wrong["B"], margin)
    facts = {
        "users": {arm: len(each) for arm, each in wrong.items()},
        "expected_b": ratio.expected_b,
        "ratio_p": ratio.p,
        "wrong": {arm: statistics.fmean(each) for arm, each in wrong.items()},
        "change": change,
        "bound": bound,
        "margin": margin,
        "level": LEVEL,
        "verdict": verdict,
    }
    if not ratio.ok:
        return facts, f"the split of users is broken, so the experiment has no result: {ratio}"
    told = f"B is wrong {change:+.3f} more often than A, at most {bound:+.3f}; the margin is {margin}"
    if verdict == "broken":
        return facts, f"B is worse: {told}"
    if verdict == "open":
        return (
            facts,
            f"can't tell: {told}. Plan the next model's experiment larger (production.ab.sample_size), "
            "for asking on until the answer pleases is another test",
        )
    return facts, ""


# ---- Release and costs -----------------------------------------------------------------------------------


def release(context: Context) -> Made:
    """Make the version champion, through the registry's own gate; keep the settings that it is served with."""
    registry, version = context.registry, context.facts("register")["version"]
    context.servers.stop()  # the gate computes, too
    before = registry.entries.aliases().get(CHAMPION, 0)
    if before not in (context.champion, version):
        raise LessonError(
            f"Version {before} became champion while version {version} was compared with {said(context.champion)}.",
            why="nobody knows how the two compare",
            fix="begin another run: python -m production.pipeline run --new",
        )
    serving, router = context.sections["serving"], context.sections["router"]
    file = context.run.folder.parent / RELEASES / f"{version}.json"
    file.parent.mkdir(exist_ok=True)
    write(file, {"version": version, "run": context.run.folder.name, "serving": asdict(serving)})
    settings = file.with_suffix(".toml")
    settings.write_text("\n".join([as_toml("serving", serving), as_toml("router", router)]), encoding="utf-8")
    if before != version:  # else an earlier attempt was interrupted after this
        decision = registry.promote(version)
        if not decision.passed:
            file.unlink()
            settings.unlink()
            stopped = f"the registry's gate refuses version {version}: {' '.join(decision.gate.reasons)}"
            return Made({"champion": before, "refused": version}, told="refused", stopped=stopped)
    facts = {
        "champion": version,
        "before": context.champion,
        "before_said": said(context.champion) if context.champion else "none",
        "champions": registry.entries.history(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "serving_port": serving.port,
        "router_port": router.port,
        "commands": _commands(serving.port, router.port, version, context.champion),
    }
    return Made(facts, (file, settings), f"version {version} is champion")


def _commands(serving: int, router: int, version: int, before: int) -> dict[str, str]:
    """What an operator types. The variable WORK holds the work folder, so that no machine's paths stand in documents."""
    work, server = '--work "$WORK"', f"http://127.0.0.1:{serving}"
    serve = f'python -m production.serving --alias champion {work} --log "$WORK/predictions.jsonl" --settings'
    return {
        "make_keys": "(umask 077; for each in serving router; do python -c 'import secrets; "
        'print(secrets.token_urlsafe(32))\' > "$WORK/$each.key"; done)',
        "keys": 'export SERVING_KEY="$(cat "$WORK/serving.key")" ROUTER_KEY="$(cat "$WORK/router.key")"',
        "serve": f'{serve} "$WORK/pipeline/{RELEASES}/{version}.toml"',
        "serve_before": f'{serve} "$WORK/pipeline/{RELEASES}/{before}.toml"' if before else "",
        "ready": f"curl {server}/ready",
        "load": f"python -m production.load_test --url {server}",
        "watch": f"python -m production.monitoring --target {server}",
        "versions": f"python -m production.registry show {work}",
        "back": f"python -m production.registry rollback {work}",
        "share": f"python -m production.router share --share 0 --port {router}",
        "repeat": f"python -m production.tracking repeat RUN {work}",
        "next": f"python -m production.pipeline run {work}",
    }


def count_costs(context: Context) -> Made:
    """Seconds of each step by the price of this machine, and what a million answers cost; as a ledger, too."""
    wanted, deployed, evaluated = (
        context.sections["pipeline"],
        context.facts("deploy"),
        context.facts("evaluate"),
    )
    price, now = find_price(wanted.price), datetime.now(UTC)
    steps = []
    for name, record in context.run.records().items():
        if name in ("costs", "document"):
            continue
        begun = context.run.state["steps"][name]["begun"]
        cost = record["seconds"] / 3600 * price.hourly
        steps.append({"step": name, "seconds": record["seconds"], "begun": begun, "cost": round(cost, 6)})
    hardware = context.facts("train")["hardware"]
    million = round(per_million(price.hourly, deployed["answers_a_second"], wanted.utilisation), 4)
    ledger = context.run.folder / "costs.csv"
    ledger.unlink(missing_ok=True)
    entry = Entry(
        setting=f"version {deployed['version']}, HTTP, batches up to {deployed['settings']['max_batch_size']}",
        answers_a_second=deployed["answers_a_second"],
        p50_ms=deployed["p50_ms"],
        p95_ms=deployed["p95_ms"],
        accuracy=evaluated["accuracy"],
        texts=evaluated["n"],
        utilisation=wanted.utilisation,
        hourly=price.hourly,
        currency=price.currency,
        price=price.name,
        price_date=price.date,
        price_source=price.source,
        per_million=million,
        measured=now.isoformat(timespec="seconds"),
        machine=f"{hardware['cpu']}, {hardware['cores']} cores",
    )
    write_ledger(ledger, [entry])
    facts = {
        "price": {**asdict(price), "date": price.date.isoformat(), "hourly": price.hourly},
        "notes": price.notes(now.date()),
        "steps": steps,
        "seconds": round(sum(each["seconds"] for each in steps), 2),
        "cost": round(sum(each["cost"] for each in steps), 6),
        "again": sum(each["begun"] - 1 for each in steps),
        "utilisation": wanted.utilisation,
        "per_million": million,
        "answers_a_second": deployed["answers_a_second"],
        "machine": entry.machine,
        "measured": entry.measured,
    }
    return Made(facts, (ledger,), f"{facts['seconds']:.0f} s of steps, {facts['cost']:.4f} {price.currency}")
