"""Monitoring: metrics that stay small, rules that Prometheus agrees with, drift whose false alarms are known."""

from __future__ import annotations

import asyncio
import json
import math
import random
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from scipy.stats import binomtest

from lessonkit.errors import DataError, LessonError
from production.drift import calibrate, detect, domain_classifier, label_distance
from production.gateway import Gateway, build_app
from production.metrics import MOST_LABELS, Metrics
from production.monitoring import PROGRAMS, Monitoring, Receiver, find_programs, start_stack
from production.prediction_log import PredictionLog, join_labels, read_log, safe_id, wilson
from production.processes import free_port
from production.promql import Store, evaluate, parse, read_duration
from production.requests_checks import Limits
from production.rules import ALERTS, read_rules, scaled, test_file
from production.settings import read
from production.watcher import Watcher

KEY, SECRET_TEXT = "a-key-only-for-these-tests", "nobody must read this in a metric"
INSTALLED = all(any(shutil.which(name) for name in names) for names in PROGRAMS.values())
needs_programs = pytest.mark.skipif(not INSTALLED, reason="Prometheus is not installed")
ANSWER = {"label": "grain", "score": 0.55, "scores": {}, "version": "2", "adapter": None, "tokens": 9}


# ---- Metrics ---------------------------------------------------------------------------------------------


class OneModel:
    """Stands where a Backend does."""

    open, ready = 0, True

    class served:  # noqa: N801
        adapters, version = (), "2"

    async def classify(self, request) -> dict:
        if request.text == "break":
            raise RuntimeError("broken")
        return dict(ANSWER)


def asked(app, *calls: tuple[dict, dict]) -> list[httpx.Response]:
    """Answers to POST /classify, and the page of metrics at the end."""

    async def all_of_them() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            found = [await http.post("/classify", json=body, headers=headers) for body, headers in calls]
            return [*found, await http.get("/metrics")]

    return asyncio.run(all_of_them())


@pytest.fixture
def app(tmp_path: Path):
    gateway = Gateway(OneModel, KEY, Limits(), 8, 1.0)
    gateway.current = OneModel()
    return build_app(gateway, str(tmp_path / "log.jsonl"))


def test_the_server_counts_what_it_was_asked(app, tmp_path: Path):
    good = {"Authorization": f"Bearer {KEY}"}
    calls = [
        ({"text": SECRET_TEXT}, {**good, "X-Request-Id": "mine-1"}),
        ({"text": SECRET_TEXT}, {**good, "X-Request-Id": "not safe\t" + "x" * 99}),
        ({"text": " "}, good),
        ({"text": "a"}, {}),
        ({"text": "break"}, good),
    ]
    *answers, page = asked(app, *calls)
    assert [each.status_code for each in answers] == [200, 200, 422, 401, 500]
    assert page.headers["content-type"].startswith("text/plain")
    for line in (
        'classifier_requests_total{status="200"} 2.0',
        'classifier_requests_total{status="422"} 1.0',
        'classifier_requests_total{status="401"} 1.0',
        'classifier_requests_total{status="500"} 1.0',
        'classifier_predictions_total{label="grain",version="2"} 2.0',
        'classifier_confidence_bucket{le="0.6",version="2"} 2.0',
        'classifier_confidence_bucket{le="0.5",version="2"} 0.0',
        "classifier_input_tokens_sum 18.0",
        f"classifier_input_characters_sum {2 * len(SECRET_TEXT)}.0",
        "classifier_latency_seconds_count 2.0",
    ):
        assert line in page.text.splitlines()
    assert "nobody" not in page.text
    assert KEY not in page.text
    rows = read_log(tmp_path / "log.jsonl")
    assert [each["id"] for each in rows] == [each.headers["x-request-id"] for each in answers[:2]]
    assert rows[0]["id"] == "mine-1"
    assert len(rows[1]["id"]) == 32
    assert {"text"} & set(rows[0]) == set()
    assert "nobody" not in (tmp_path / "log.jsonl").read_text()


def test_labels_are_bounded_whatever_a_server_says():
    metrics = Metrics()
    for number in range(3 * MOST_LABELS):
        metrics.answered(5, {**ANSWER, "label": f"topic {number}", "version": f"v{number}"})
        metrics.asked(200 + number, 0.1)
    found = metrics.text().decode()
    assert found.count("classifier_predictions_total{") <= MOST_LABELS + 1
    assert 'label="other"' in found
    assert 'status="other"' in found
    assert sum(line.startswith("classifier_requests_total{") for line in found.splitlines()) == 10


def test_only_a_plain_id_is_taken():
    assert safe_id("a-B_9") == "a-B_9"
    assert [safe_id(each) for each in ("", "a b", "a\nb", "x" * 65, "é")] == [""] * 5


# ---- The log and its labels ------------------------------------------------------------------------------


def test_labels_are_joined_by_id_and_version(tmp_path: Path):
    log = PredictionLog(tmp_path / "log.jsonl", texts=True)
    for number in range(10):
        log.add(str(number), "text", {**ANSWER, "version": "12"[number % 2]}, 0.1)
    rows = read_log(log.path)
    assert rows[0]["text"] == "text"
    now = rows[0]["time"]
    labels = [{"id": str(each), "label": "grain", "time": now + 60} for each in range(6)]
    labels += [{"id": "0", "label": "crude", "time": now + 90}, {"id": "nowhere", "label": "x", "time": now}]
    found = join_labels(rows, labels)
    assert (found["1"].right, found["1"].n, found["1"].of, found["1"].unknown) == (2, 3, 5, 1)
    assert found["2"].accuracy == 1
    assert found["2"].delay == pytest.approx(60, abs=1)
    assert "labels for 3 of 5" in str(found["1"])


def test_a_line_that_a_crash_cut_is_left_out(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"id": "1"}\n{"id": "2')
    assert read_log(path) == [{"id": "1"}]
    path.write_text('{"id"\n{"id": "2"}\n')
    with pytest.raises(DataError, match="Line 1"):
        read_log(path)
    with pytest.raises(DataError, match="--log"):
        read_log(tmp_path / "nowhere")


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (37, 50), (499, 500)])
def test_the_interval_is_wilsons(right: int, n: int):
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert wilson(0, 0) == (0, 1)


# ---- Drift -----------------------------------------------------------------------------------------------


def traffic(n: int, seed: int, low: float = 0.6, topics: str = "aaab") -> list[dict]:
    draws = np.random.default_rng(seed)
    return [
        {
            "characters": int(draws.gamma(3, 40)),
            "confidence": draws.uniform(low, 1),
            "label": draws.choice([*topics]),
        }
        for _ in range(n)
    ]


def test_nothing_new_raises_about_as_many_alarms_as_promised():
    found = calibrate(traffic(800, 0), 60, alarms=0.05, windows=300)
    assert set(found) == {"input length", "confidence", "predicted topics"}
    for each in found.values():
        assert each.false_alarms <= 0.12
    fresh = [detect(traffic(800, 0), traffic(60, 10 + each), found) for each in range(20)]
    assert sum(finding.drifted for each in fresh for finding in each) <= 12


def test_what_changed_is_named_and_the_rest_is_not():
    reference = traffic(800, 0)
    found = calibrate(reference, 60)
    changed = {
        each.name for each in detect(reference, traffic(60, 9, low=0.2, topics="abbb"), found) if each.drifted
    }
    assert changed == {"confidence", "predicted topics"}
    assert label_distance(reference, [{"label": "new"}]) == pytest.approx(1)


def test_windows_that_do_not_fit_are_refused():
    reference = traffic(200, 0)
    with pytest.raises(DataError, match="too short"):
        calibrate(reference, 60)
    with pytest.raises(DataError, match="thresholds are for"):
        detect(reference, traffic(30, 1), calibrate(reference, 40, windows=20))


def test_a_burst_widens_the_threshold_only_if_blocks_are_drawn():
    bursts = [row for topic in "abcdabcdabcdabcd" * 3 for row in [{"label": topic}] * 20]
    for row in bursts:
        row.update(characters=1, confidence=0.5)
    single, block = (calibrate(bursts, 40, block=each)["predicted topics"].value for each in (1, 20))
    assert block > 1.5 * single


def test_a_domain_classifier_tells_new_words_and_nothing_else():
    draws = random.Random(0)
    old = [" ".join(draws.choices(["net", "profit", "shares", "year"], k=8)) for _ in range(80)]
    same = [" ".join(draws.choices(["net", "profit", "shares", "year"], k=8)) for _ in range(60)]
    new = [" ".join(draws.choices(["wheat", "profit", "tonnes", "year"], k=8)) for _ in range(60)]
    assert domain_classifier(old, same)[1] > 0.01
    auc, p_value, words = domain_classifier(old, new)
    assert auc > 0.9
    assert p_value <= 0.01
    assert set(words[:2]) == {"wheat", "tonnes"}


# ---- Rules -----------------------------------------------------------------------------------------------


def test_the_rules_do_what_their_tests_say():
    assert test_file(ALERTS.with_name("alerts_test.yml")) == []


@needs_programs
def test_promtool_says_the_same():
    done = subprocess.run(
        ["promtool", "test", "rules", ALERTS.with_name("alerts_test.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_is_too_eager_fails_its_tests(tmp_path: Path):
    text = ALERTS.read_text().replace("> 0.05", "> 0.005").replace("for: 1m", "for: 0s")
    (tmp_path / "alerts.yml").write_text(text)
    shutil.copy(ALERTS.with_name("alerts_test.yml"), tmp_path)
    wrong = test_file(tmp_path / "alerts_test.yml")
    assert any("ManyErrors at 9m" in each for each in wrong)
    assert any("ServerDown at 5m45s" in each for each in wrong)


EXPRESSIONS = (
    "sum(rate(hits_total[1m]))",
    "sum(increase(hits_total[45s])) / 2",
    "sum by (kind) (rate(hits_total[2m]))",
    'sum(rate(hits_total{kind=~"a|b"}[1m])) / sum(rate(hits_total[1m]))',
    'sum(rate(hits_total{kind!="a"}[1m])) > 0.5 and sum(increase(hits_total[1m])) > 3',
    "histogram_quantile(0.9, sum by (le) (rate(wait_bucket[1m])))",
    "1 - 2 * sum(rate(hits_total[1m])) - 1",
)


def random_series(seed: int) -> list[dict]:
    draws, found = random.Random(seed), []
    for name in ('hits_total{kind="a"}', 'hits_total{kind="b"}', 'hits_total{kind="c"}'):
        values, total = [], draws.randint(0, 50)
        for _ in range(30):
            total = draws.randint(0, 3) if draws.random() < 0.08 else total + draws.randint(0, 9)
            values.append("_" if draws.random() < 0.1 else str(total))
        found.append({"series": name, "values": " ".join(values)})
    shares = [draws.randint(0, 5) for _ in range(4)]
    for bound, _ in zip(("0.1", "0.5", "2", "+Inf"), shares, strict=True):
        step = sum(shares[: ("0.1", "0.5", "2", "+Inf").index(bound) + 1])
        found.append({"series": f'wait_bucket{{le="{bound}"}}', "values": f"0+{step}x30"})
    return found


def rounded(value: float) -> float:
    """As Prometheus' round(value, 0.000001): sums may differ in their last bit, and promtool compares all bits."""
    return math.floor(value * 1e6 + 0.5) / 1e6


@needs_programs
def test_random_series_are_evaluated_as_prometheus_does(tmp_path: Path):
    import yaml

    from production.rules import _filled

    tests = []
    for seed in range(12):
        series = random_series(seed)
        store, _ = _filled(series, 15)
        asked = []
        for text in EXPRESSIONS:
            for now in (1, 21, 76, 202, 404):  # never an edge on a sample: 2.x counts it, 3.x does not
                found = evaluate(parse(text), store, now)
                samples = [
                    {"labels": "{" + ",".join(f'{k}="{v}"' for k, v in labels) + "}", "value": rounded(value)}
                    for labels, value in found.items()
                    if value == value  # promtool can't expect NaN: it is unlike itself
                ]
                if len(samples) == len(found):
                    asked.append(
                        {"expr": f"round({text}, 0.000001)", "eval_time": f"{now}s", "exp_samples": samples}
                    )
        tests.append({"interval": "15s", "input_series": series, "promql_expr_test": asked})
    path = tmp_path / "random.yml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert sum(len(each["exp_samples"]) for test in tests for each in test["promql_expr_test"]) > 150


@pytest.mark.parametrize(
    "text",
    [
        "rate(a)",
        "sum(a) by (b)",
        "avg(a)",
        "a[5m]]",
        "a offset 5m",
        "a ==",
        "topk(3, a)",
        "a or b",
        'a{b~"c"}',
        "(a",
    ],
)
def test_what_is_not_understood_is_refused(text: str):
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


def test_a_gap_starts_the_wait_anew_and_an_end_resolves():
    rules, store = read_rules(), Store()
    values = [1, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    states = []
    for step, value in enumerate(values):
        store.add("up", {"job": "classifier"}, 20 * step, value)
        firing, resolved = rules.step(store, 20 * step)
        states.append((len(firing), len(resolved)))
    assert states == [(0, 0)] * 7 + [(1, 0), (1, 0), (0, 1)]


def test_a_rehearsal_divides_windows_and_waits_and_nothing_else(tmp_path: Path):
    path = scaled(ALERTS, 15, tmp_path / "new" / "alerts.yml")
    text = path.read_text()
    assert "[20s]" in text
    assert "[5m]" not in text
    assert {each.alert: each.wait for each in read_rules(path).rules}["LowConfidence"] == 4
    assert "> 0.4" in text
    if INSTALLED:
        assert subprocess.run(["promtool", "check", "rules", path], capture_output=True).returncode == 0
    assert read_duration("1m30s") == 90


def test_bad_rule_files_are_told_plainly(tmp_path: Path):
    path = tmp_path / "rules.yml"
    for text, said in (
        ("groups: [", "no YAML"),
        ("", "no settings"),
        ("groups: []", "no rules"),
        ("groups: [{rules: [{alert: A}]}]", "no expr"),
        ("groups: [{rules: [{alert: A, expr: avg(b) > 1}]}]", "avg"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            read_rules(path)


# ---- Watching --------------------------------------------------------------------------------------------


class Page:
    """A server with a page of metrics that a test can change; ``text`` None answers 500."""

    def __init__(self) -> None:
        page, self.text = self, ""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if page.text is not None else 500)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write((page.text or "").encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_server_that_goes_and_comes_is_told_by_both(tmp_path: Path):
    rules = scaled(ALERTS, 60, tmp_path / "alerts.yml")
    senders = ["watcher", *(["alertmanager"] if INSTALLED else [])]
    with Page() as page, Receiver() as receiver, Watcher(page.url, receiver.url, rules, 0.25) as watcher:
        stack = start_stack(page.url, receiver.url, rules, tmp_path, scrape=0.25) if INSTALLED else None
        try:
            page.text = 'classifier_requests_total{status="200"} 5\n'
            time.sleep(1)
            if stack:
                end = time.monotonic() + 120  # Prometheus looks for its targets every 5 s
                while not stack.query("up") and time.monotonic() < end:
                    time.sleep(0.2)
                assert list(stack.query("up").values()) == [1.0]
                assert set(stack.query("up")) == set(watcher.query("up"))
            assert receiver.deliveries == []
            page.text = None
            for sender in senders:
                assert receiver.wait("ServerDown", "firing", sender, 120)
            page.text = ""
            for sender in senders:
                assert receiver.wait("ServerDown", "resolved", sender, 120)
        finally:
            if stack:
                stack.stop()
        assert watcher.problems == []
    if stack:
        assert not any(each.running for each in stack.processes)


def test_a_webhook_that_is_away_does_not_end_the_watch():
    with Page() as page:
        page.text = None
        watcher = Watcher(page.url, f"http://127.0.0.1:{free_port()}/", seconds=1)  # not started: by hand
        for now in (1000.0, 1100.0):
            watcher.scrape(now)
            watcher.step(now)
    assert "could not be delivered" in watcher.problems[0]


def test_a_webhook_takes_no_nonsense():
    with Receiver() as receiver:
        for body in (b"{", b"[]", b'{"alerts": 3}', b'{"alerts": [{}]}'):
            assert httpx.post(receiver.url, content=body, trust_env=False).status_code == 400
        assert receiver.deliveries == []


def test_programs_that_are_missing_are_told_with_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LessonError, match="apt install") as told:
        find_programs()
    assert "prometheus, promtool, alertmanager" in str(told.value)


@needs_programs
def test_a_port_that_is_taken_is_told_and_nothing_is_left_running(tmp_path: Path):
    with Page() as page, Receiver() as receiver:
        port = page.server.server_port
        with pytest.raises(LessonError, match=f"Port {port}"):
            start_stack(page.url, receiver.url, ALERTS, tmp_path, prometheus_port=port)
        with pytest.raises(LessonError, match=f"Port {port}"):
            Receiver(port)
        bad = tmp_path / "bad.yml"
        bad.write_text("groups: [{name: a, rules: [{alert: A, expr: 'sum(('}]}]")
        with pytest.raises(LessonError, match="refuses"):
            start_stack(page.url, receiver.url, bad, tmp_path)
    assert not (tmp_path / "prometheus.log").exists()


def test_the_command_says_what_is_missing_and_goes_on(tmp_path: Path):
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f"[work]\nfolder = '{tmp_path}'\n[monitoring]\ntarget = 'http://127.0.0.1:{free_port()}'\n"
    )
    command = [sys.executable, "-m", "production.monitoring", "--settings", settings, "--rehearsal", "60"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PATH": ""}, cwd=root) as process:
        try:
            seen = ""
            while "ServerDown" not in seen:
                line = process.stdout.readline()
                assert line, seen
                seen += line
        finally:
            process.terminate()
    assert "apt install" in seen
    assert "without Prometheus" in seen


def test_settings_are_checked():
    assert read("monitoring", Monitoring).scrape == 15
    with pytest.raises(DataError, match="above 0"):
        read("monitoring", Monitoring, rehearsal=0.0)
    with pytest.raises(DataError, match="http"):
        read("monitoring", Monitoring, target="127.0.0.1:8000")


def test_messages_are_alertmanagers_form():
    from production.rules import Alert
    from production.watcher import message

    alert = Alert(read_rules().rules[0], {"severity": "page"}, 1000.0)
    found = json.loads(json.dumps(message(alert, "firing", "watcher")))
    assert found["alerts"][0]["labels"] == {"alertname": "ServerDown", "severity": "page"}
    assert found["alerts"][0]["startsAt"].startswith("1970-01-01T00:16:40")
