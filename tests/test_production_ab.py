"""A/B tests: designs hold on simulated truth, arms are stable, and the router gives B's traffic back when it must."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from scipy.stats import binomtest

from lessonkit.errors import DataError
from production.ab import (
    Guardrail,
    assign,
    confidence_sequence,
    group_bounds,
    not_worse,
    per_user,
    power,
    ratio_check,
    running_evidence,
    sample_size,
    tightest,
    z_score,
    z_test,
)
from production.processes import free_port, start
from production.router import build_app
from production.routing import Router, Routing, read_log

ROOT = Path(__file__).resolve().parents[1]
KEY = "a-key-only-for-these-tests"
REPEATS = 6000


def traffic(rate_a: float, rate_b: float, sizes: list, seed: int = 0):
    """(good_a, n_a, good_b, n_b): for each repetition and look, growing sizes of both arms."""
    draws, steps = np.random.default_rng(seed), np.diff(sizes, prepend=0)
    shape = (REPEATS, len(sizes))
    good = [draws.binomial(steps, rate, shape).cumsum(1) for rate in (rate_a, rate_b)]
    return good[0], np.array(sizes), good[1], np.array(sizes)


def holds(times: int, share: float) -> bool:
    return binomtest(int(times), REPEATS, share).pvalue > 1e-4


# ---- Sizes and power -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate_a", "rate_b", "share"), [(0.8, 0.84, 0.5), (0.3, 0.24, 0.2), (0.9, 0.93, 0.7)]
)
def test_the_planned_size_has_the_planned_power(rate_a: float, rate_b: float, share: float):
    n_a, n_b = sample_size(rate_a, rate_b, share=share)
    assert power(rate_a, rate_b, n_a, n_b) == pytest.approx(0.8, abs=0.002)
    assert n_b / (n_a + n_b) == pytest.approx(share, abs=0.001)
    draws = np.random.default_rng(1)
    p = z_test(draws.binomial(n_a, rate_a, REPEATS), n_a, draws.binomial(n_b, rate_b, REPEATS), n_b)
    assert abs((p < 0.05).mean() - 0.8) < 0.02


def test_a_textbook_size():
    assert sample_size(0.5, 0.6) == (388, 388)  # Fleiss' formula without continuity term


def test_senseless_sizes_are_refused():
    with pytest.raises(DataError, match="difference of zero"):
        sample_size(0.5, 0.5)
    with pytest.raises(DataError, match="share is 1"):
        sample_size(0.5, 0.6, share=1)


# ---- Tests -----------------------------------------------------------------------------------------------


def test_false_alarms_at_one_look_are_as_designed_and_more_with_peeking():
    z = np.abs(z_score(*traffic(0.8, 0.8, list(range(100, 2001, 100)))))
    assert holds((z[:, -1] > 1.96).sum(), 0.05)
    assert (z > 1.96).any(1).mean() > 0.15


def test_the_confidence_sequence_holds_at_all_looks_together():
    for truth in (0.0, 0.05):
        looks = traffic(0.8, 0.8 + truth, list(range(50, 3001, 10)), seed=3)
        low, high = confidence_sequence(*looks, tau=tightest(0.8, 1500, 1500))
        missed = ((low > truth) | (high < truth)).any(1)
        assert missed.mean() <= 0.05


def test_the_confidence_sequence_is_narrowest_where_it_was_tuned():
    n, widths = 1000, []
    for factor in (0.7, 1, 1.4):
        low, high = confidence_sequence(800, n, 800, n, tau=factor * tightest(0.8, n, n))
        widths.append(high - low)
    assert widths[1] < min(widths[0], widths[2])


def test_the_bounds_are_the_published_ones():
    wanted = [4.877, 3.357, 2.680, 2.290, 2.031]  # Lan and DeMets, five equal looks, two-sided 5 %
    assert group_bounds([0.2, 0.4, 0.6, 0.8, 1]) == pytest.approx(wanted, abs=0.002)
    assert group_bounds([1.0]) == pytest.approx([1.95996], abs=1e-4)
    with pytest.raises(DataError):
        group_bounds([0.5, 0.4])


def test_planned_looks_keep_the_false_alarms():
    z = np.abs(z_score(*traffic(0.7, 0.7, [300, 600, 900, 1200], seed=4)))
    assert holds((z > group_bounds([0.25, 0.5, 0.75, 1])).any(1).sum(), 0.05)


# ---- Arms ------------------------------------------------------------------------------------------------


def test_arms_are_stable_even_and_independent():
    users = [f"user-{each}" for each in range(20_000)]
    one = np.array([assign(each, "one") == "B" for each in users])
    two = np.array([assign(each, "two") == "B" for each in users])
    assert one.tolist() == [assign(each, "one") == "B" for each in users]
    assert ratio_check(int((~one).sum()), int(one.sum())).ok
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


def test_who_has_b_keeps_it_when_its_share_grows():
    users = [str(each) for each in range(2000)]
    few = {each for each in users if assign(each, "x", 0.1) == "B"}
    assert few < {each for each in users if assign(each, "x", 0.3) == "B"}
    assert {assign(each, "x", 0) for each in users} == {"A"}


def test_the_ratio_check_knows_luck_from_a_fault():
    assert ratio_check(5000, 5100).ok
    broken = ratio_check(5000, 5400)
    assert not broken.ok
    assert "BROKEN" in str(broken)
    assert ratio_check(9000, 1000, share=0.1).p == pytest.approx(1)
    with pytest.raises(DataError):
        ratio_check(0, 0)


def test_one_outcome_for_each_user_and_its_first_arm():
    def request(number: str, user: str, arm: str) -> dict:
        return {"event": "request", "experiment": "e", "id": number, "user": user, "arm": arm}

    def outcome(number: str, value: float) -> dict:
        return {"event": "outcome", "experiment": "e", "id": number, "value": value}

    lines = [request("1", "u", "A"), request("2", "v", "B"), request("3", "u", "A"), request("4", "u", "B")]
    lines += [outcome("4", 0), outcome("3", 1), outcome("1", 0), outcome("2", 1), outcome("9", 1)]
    assert per_user(lines) == [("A", 1), ("B", 1)]
    assert per_user(lines, "another") == []


# ---- Guardrails ------------------------------------------------------------------------------------------


def test_a_guardrail_is_rarely_broken_by_luck_and_soon_by_a_fault():
    draws = np.random.default_rng(0)
    luck = running_evidence(draws.random((2000, 1000)) < 0.05, 0.05).max(1) >= 100
    assert luck.mean() < 0.015
    fault = running_evidence(draws.random((500, 200)) < 0.4, 0.05) >= 100
    assert fault.any(1).all()
    assert np.median(fault.argmax(1)) < 20
    assert np.isfinite(running_evidence(np.ones(2000), 0.02)).all()


def test_the_running_guardrail_is_the_formula():
    bad = np.random.default_rng(0).random(60) < 0.3
    allowed = np.linspace(0.05, 0.2, 60)
    rail, wanted = Guardrail("errors"), running_evidence(bad, allowed)
    for each, share, evidence in zip(bad, allowed, wanted, strict=True):
        rail.add(each, share)
        assert rail.evidence == pytest.approx(evidence)
    assert rail.broken == (wanted >= 100).any()
    assert (rail.seen, rail.bad) == (60, bad.sum())


def test_not_worse_needs_the_whole_bound():
    draws = np.random.default_rng(0)
    a, b = draws.random(4000) < 0.05, draws.random(4000) < 0.05
    assert not_worse(a, b, 0.02)[0] == "held"
    assert not_worse(a[:60], b[:60], 0.02)[0] == "open"
    assert not_worse(a, draws.random(4000) < 0.15, 0.02)[0] == "broken"
    assert not_worse(np.zeros(20), np.zeros(20), 0.02)[0] == "open"  # none failed, and nothing is proven
    assert not_worse([0.1, 0.11] * 40, [0.1, 0.12] * 40, 0.05)[0] == "held"  # seconds


def test_a_held_guardrail_is_wrong_as_rarely_as_designed():
    draws = np.random.default_rng(5)
    bad = [
        not_worse(draws.random(500) < 0.05, draws.random(500) < 0.08, 0.03)[0] == "held" for _ in range(3000)
    ]
    assert np.mean(bad) < 0.065


# ---- The router, without a network -----------------------------------------------------------------------


class Servers(httpx.AsyncBaseTransport):
    """Both servers: B can be slow, broken or gone."""

    def __init__(self) -> None:
        self.b, self.slow, self.seen = 200, 0.0, []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        arm = request.url.host
        self.seen.append((arm, request.headers.get("authorization")))
        await request.aread()
        await asyncio.sleep(0.002 + (self.slow if arm == "b" else 0))
        if arm == "b" and self.b == 0:
            raise httpx.ConnectError("refused")
        status = self.b if arm == "b" else 200
        return httpx.Response(status, json={"label": "earn", "version": f"version-{arm}"})


def routed(tmp_path: Path, play, servers: Servers | None = None, **rules):
    """Run ``play(client, router, servers)`` against a router in this process."""

    async def whole():
        network = servers or Servers()
        router = Router("http://a", "http://b", Routing(**rules), tmp_path, network)
        transport = httpx.ASGITransport(build_app(router, KEY))
        async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
            found = await play(client, router, network)
        for each in router.http.values():
            await each.aclose()
        return found

    return asyncio.run(whole())


async def ask(client: httpx.AsyncClient, user: str, text: str = "a secret text") -> httpx.Response:
    headers = {"X-User-Id": user, "Authorization": "Bearer for-the-servers"}
    return await client.post("/classify", json={"text": text}, headers=headers)


def own(client: httpx.AsyncClient, path: str, **body):
    return client.post(path, json=body, headers={"Authorization": f"Bearer {KEY}"})


def test_users_keep_their_arm_and_the_log_keeps_no_texts(tmp_path: Path):
    async def play(client, router, servers):
        for each in [*range(40), *range(40)]:
            answer = await ask(client, f"user-{each}")
            assert answer.json()["version"] == f"version-{assign(f'user-{each}', 'first').lower()}"
        assert (await own(client, "/outcome", id=answer.headers["x-request-id"], value=1)).status_code == 200
        assert {key for _, key in servers.seen} == {"Bearer for-the-servers"}

    routed(tmp_path, play)
    lines = read_log(tmp_path / "router.jsonl")
    requests = [each for each in lines if each["event"] == "request"]
    assert len(requests) == 80
    assert len({each["user"] for each in requests}) == 40
    assert {each["version"] for each in requests if each["arm"] == "B"} == {"version-b"}
    text = (tmp_path / "router.jsonl").read_text()
    assert "secret" not in text
    assert "user-1" not in text
    assert len(per_user(lines)) == 1


@pytest.mark.parametrize(("b", "why"), [(0, "errors"), (500, "errors"), (200, "latency")])
def test_a_bad_canary_is_rolled_back_without_a_failed_user(tmp_path: Path, b: int, why: str):
    async def play(client, router, servers):
        for each in range(60):
            await ask(client, f"early-{each}")
        assert not router.rolled_back
        servers.b, servers.slow = b, 0.05 if b == 200 else 0.0
        for each in range(80):
            assert (await ask(client, f"user-{each}")).status_code == 200
        assert router.rolled_back == why
        assert router.share == 0
        assert (await own(client, "/share", share=0.5)).status_code == 409
        assert (await own(client, "/share", share=0.5, again=True)).json()["share"] == 0.5
        assert not router.rolled_back

    routed(tmp_path, play, share=0.3, slow_factor=4.0)
    backs = [each for each in read_log(tmp_path / "router.jsonl") if each["event"] == "rollback"]
    assert [each["why"] for each in backs] == [why]


def test_a_slow_hour_of_both_is_not_b_s_fault(tmp_path: Path):
    async def play(client, router, servers):
        for each in range(120):
            await ask(client, f"user-{each}")
        return router.rolled_back

    assert routed(tmp_path, play, slow_factor=6.0) == ""


def test_a_rollback_and_open_outcomes_outlive_a_restart(tmp_path: Path):
    async def play(client, router, servers):
        servers.b = 0
        found = [await ask(client, f"user-{each}") for each in range(40)]
        return [each.headers["x-request-id"] for each in found]

    waiting = routed(tmp_path, play)
    with (tmp_path / "router.jsonl").open("a") as file:
        file.write('{"event": "requ')  # a crash in the middle of a line

    async def later(client, router, servers):
        assert (router.rolled_back, router.share) == ("errors", 0)
        assert (await own(client, "/outcome", id=waiting[0], value=0)).status_code == 200
        assert (await own(client, "/outcome", id=waiting[0], value=1)).status_code == 409
        assert (await own(client, "/outcome", id="unknown", value=1)).status_code == 404
        await own(client, "/share", share=0.2, again=True)

    routed(tmp_path, later)

    async def last(client, router, servers):
        return router.rolled_back, router.share

    assert routed(tmp_path, last, share=0.2) == ("", 0.2)
    assert routed(tmp_path, last, experiment="another") == ("", 0.5)


def test_what_is_wrong_is_refused(tmp_path: Path):
    async def play(client, router, servers):
        assert (await client.post("/classify", json={"text": "a"})).json()["error"]["code"] == "missing_user"
        for path in ("/outcome", "/share"):
            assert (await client.post(path, json={})).status_code == 401
            assert (await own(client, path, share="much", value="good", id=3)).status_code == 422
            headers = {"Authorization": f"Bearer {KEY}"}
            assert (await client.post(path, content=b"{", headers=headers)).status_code == 400
        assert (await ask(client, "user", "a" * 200_000)).status_code == 413
        assert (await client.get("/state")).status_code == 401

    routed(tmp_path, play)
    for wrong in ({"share": 1.5}, {"port": 80}, {"error_limit": 0.0}, {"timeout": 0.0}):
        with pytest.raises(ValueError, match="must"):
            Routing(**wrong)


# ---- The command -----------------------------------------------------------------------------------------


class Stub(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"label": "earn", "version": str(self.server.server_port)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_the_command_routes_and_its_share_is_changed_while_it_runs(tmp_path: Path):
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Stub) for _ in "ab"]
    threads = [threading.Thread(target=each.serve_forever, args=(0.05,)) for each in servers]
    for each in threads:
        each.start()
    a, b = (each.server_port for each in servers)
    port, env = free_port(), {"ROUTER_KEY": KEY, "PYTHONPATH": str(ROOT)}
    url = f"http://127.0.0.1:{port}"
    command = ["python", "-m", "production.router", "--port", str(port)]
    addresses = ["--a", f"http://127.0.0.1:{a}", "--b", f"http://127.0.0.1:{b}"]
    try:
        with start([*command, *addresses, "--folder", tmp_path], tmp_path / "log", env=env) as process:
            process.wait_for(f"{url}/health", 300)
            with httpx.Client(base_url=url, trust_env=False) as client:

                def versions() -> set[str]:
                    return {
                        client.post("/classify", json={"text": "a"}, headers={"X-User-Id": str(each)}).json()[
                            "version"
                        ]
                        for each in range(20)
                    }

                assert versions() == {str(a), str(b)}
                change = ["python", "-m", "production.router", "share", "--share", "0", "--port", str(port)]
                with start(change, tmp_path / "change", env=env) as other:
                    assert other.wait(300) == 0
                    assert json.loads(other.tail())["share"] == 0
                assert versions() == {str(a)}
    finally:
        for each, thread in zip(servers, threads, strict=True):
            each.shutdown()
            each.server_close()
            thread.join()
