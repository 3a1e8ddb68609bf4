"""Serving: what is refused before the model, what the client does about a 503, and one real server under load."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import aiohttp
import httpx
import pytest

from lessonkit.errors import DataError, ModelError
from production.backends import Backend, unavailable
from production.client import AnswerError, Client, pause
from production.gateway import Gateway, build_app
from production.load_test import load, quantile
from production.processes import free_port, start
from production.records import file_hashes
from production.requests_checks import Limits, RefusedError, Request, check_key, read_request
from production.served_model import ServedModel, find_model
from production.serving import Serving

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
KEY = "a-key-only-for-these-tests"
LONGEST = 300  # seconds, for what takes 20 on a machine with nothing else to do

BAD = [
    (b"{", 400, "malformed_json"),
    (b"\xff", 400, "malformed_json"),
    (b"[" * 50_000, 400, "malformed_json"),
    (b"[]", 422, "wrong_type"),
    (b"{}", 422, "wrong_type"),
    (b'{"text": 3}', 422, "wrong_type"),
    (b'{"text": ["a"]}', 422, "wrong_type"),
    (b'{"text": "a", "adapter": 3}', 422, "wrong_type"),
    (b'{"text": "a", "adaptor": "x"}', 422, "unknown_field"),
    (b'{"text": "  "}', 422, "empty_text"),
    (b'{"text": "\\ud800"}', 422, "broken_text"),
    (b'{"text": "a", "adapter": "nwes"}', 404, "unknown_adapter"),
    (json.dumps({"text": "a" * 30_000}).encode(), 413, "text_too_long"),
    (json.dumps({"text": "a" * 1_000_000}).encode(), 413, "body_too_large"),
]


# ---- Without a server ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "status", "code"), BAD)
def test_a_bad_request_is_refused_with_its_reason(body: bytes, status: int, code: str):
    with pytest.raises(RefusedError) as refused:
        read_request(body, {"news"}, Limits())
    assert (refused.value.status, refused.value.code) == (status, code)
    assert len(refused.value.message) < 300


def test_a_good_request_passes_and_a_typo_gets_a_hint():
    assert read_request(b'{"text": "a", "adapter": "news"}', {"news"}, Limits()).adapter == "news"
    with pytest.raises(RefusedError, match="'news'"):
        read_request(b'{"text": "a", "adapter": "nwes"}', {"news"}, Limits())


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {KEY}", "Bearer wrong", "Bearer schlüssel"]
)
def test_a_missing_or_wrong_key_is_refused_and_not_repeated(header: str | None):
    with pytest.raises(RefusedError) as refused:
        check_key(header, KEY)
    assert refused.value.status == 401
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}
    assert KEY not in refused.value.message


def test_the_right_key_passes():
    check_key(f"bearer {KEY}", KEY)


def test_pauses_honour_the_server_and_grow_without_it():
    assert pause(1, "3", lambda: 0.0) == 3
    assert pause(1, "3", lambda: 1.0) == 3.75
    assert [pause(each, None, lambda: 0.0) for each in (1, 2, 3, 20)] == [0.1, 0.2, 0.4, 5.0]


def test_nobody_listening_is_told_at_the_deadline(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (pauses.append(seconds), sleep(seconds)))
    with Client(f"http://127.0.0.1:{free_port()}", KEY, deadline=0.5) as client:
        began = time.monotonic()
        with pytest.raises(AnswerError, match="no_answer"):
            client.classify("text")
        assert time.monotonic() - began < 30
        assert sum(pauses) < 0.5
        assert client.tries_again >= 1


def test_quantiles_are_values_that_were_seen():
    assert [quantile(range(1, 101), share) for share in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    assert quantile([7], 0.5) == 7


def test_a_load_is_bounded_and_counts_failures_by_kind():
    def ask(number: int) -> dict:
        if number % 4 == 0:
            raise AnswerError(503, "not_ready", "")
        return {"version": "1"}

    report = load(ask, 3, requests=20, seconds=30)
    assert (report.answered, report.failures, report.versions) == (15, {"503 not_ready": 5}, {"1": 15})
    with pytest.raises(DataError):
        load(ask, 0)


def test_an_open_loop_counts_the_wait():
    report = load(lambda _: time.sleep(0.05), 1, requests=10, rate=100, seconds=30)
    assert max(report.latencies) > 0.3  # ten were due within 0.1 s, one user took 0.5 s for them


class Model:
    """Stands in for a started Backend: answers, or says what a real one says when its worker is late."""

    def __init__(self, waiting: int = 0, late: bool = False) -> None:
        self.open, self.late, self.ready = waiting, late, True
        self.served = type("Served", (), {"adapters": {}, "version": "1"})

    async def classify(self, wanted: object) -> dict:
        if self.late:
            raise unavailable("timeout", "No answer within 10 s.")
        return {"label": "earn", "score": 0.9, "scores": {}, "version": "1", "adapter": None, "tokens": 3}


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        (None, 503, "not_ready"),
        (Model(late=True), 503, "timeout"),
        (Model(waiting=4), 503, "overloaded"),
        (Model(waiting=3), 200, ""),
    ],
)
def test_what_may_come_again_is_told_when(model: Model | None, status: int, code: str):
    gateway = Gateway(lambda: None, KEY, Limits(), max_open=4, start_patience=1)
    gateway.current = model

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(build_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return await http.post(
                "/classify", json={"text": "oil"}, headers={"Authorization": f"Bearer {KEY}"}
            )

    answer = asyncio.run(ask())
    assert answer.status_code == status
    if status == 503:
        assert answer.json()["error"]["code"] == code
        assert int(answer.headers["Retry-After"]) >= 1


def test_a_worker_that_is_late_is_a_503_and_not_a_hanging_request():
    """A real Backend, before a server that never answers."""

    async def ask() -> RefusedError:
        gone = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(-1)  # until the other side gives up
            writer.close()
            await writer.wait_closed()
            gone.set()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        backend = Backend(ServedModel(Path("."), "1", {}), {}, Path("."), timeout=0.3)
        backend.http = aiohttp.ClientSession(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=aiohttp.ClientTimeout(0.3)
        )
        backend.ready = True
        try:
            with pytest.raises(RefusedError) as refused:
                await backend.classify(Request("oil"))
            assert backend.open == 0
            return refused.value
        finally:
            await backend.http.close()
            await asyncio.wait_for(gone.wait(), LONGEST)
            server.close()

    refused = asyncio.run(ask())
    assert (refused.status, refused.code) == (503, "timeout")
    assert "Retry-After" in refused.headers


def test_a_folder_without_safe_weights_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickle"):
        find_model(tmp_path)
    with pytest.raises(ModelError, match="no folder"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="Name one model"):
        find_model()


def test_weights_that_are_not_those_of_the_training_are_refused(tmp_path: Path):
    import torch
    from safetensors.torch import save_file

    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (model / name).write_text("{}")
    weights = model / "model.safetensors"
    save_file({"weight": torch.ones(2)}, weights)
    record = {"run_id": "one", "files": file_hashes(tmp_path)}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert find_model(model).version == "one"

    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"model/model\.safetensors is not as"):
        find_model(model)
    weights.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="no whole safetensors file"):
        find_model(model)
    torch.save({"weight": torch.ones(2)}, weights)
    with pytest.raises(ModelError, match="is a pickle, whatever its name says"):
        find_model(model)
    weights.write_bytes(whole)
    (model / "extra.json").write_text("{}")
    with pytest.raises(ModelError, match=r"extra\.json"):
        find_model(model)


def test_a_batch_that_waits_for_nothing_is_refused():
    with pytest.raises(ValueError, match="without a pause"):
        Serving(batch_timeout=0.0)
    Serving(max_batch_size=1, batch_timeout=0.0)


# ---- With one server -------------------------------------------------------------------------------------


def save_model(folder: Path, adapters: Path | None = None) -> None:
    from peft import LoraConfig, get_peft_model
    from small_trainer import classifier
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: each for each, word in enumerate(["[PAD]", "[UNK]", "oil", "wheat", "rises"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    tokenizer.save_pretrained(folder)
    classifier().save_pretrained(folder)
    if adapters is not None:
        config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
        get_peft_model(classifier(), config).save_pretrained(adapters / "news")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """(url, folder, process): `model` is a link that a reload can turn to another version."""
    folder = tmp_path_factory.mktemp("serving")
    save_model(folder / "one", folder / "adapters")
    save_model(folder / "two")
    link, port = folder / "model", free_port()
    link.symlink_to(folder / "one", target_is_directory=True)
    settings = folder / "settings.toml"
    settings.write_text(f"[serving]\nmax_length = 16\nstart_patience = {LONGEST}\n")
    command = ["python", "-m", "production.serving", "--model", link, "--adapters", folder / "adapters"]
    command += ["--port", str(port), "--work", folder / "work", "--settings", settings]
    here = Path(__file__).parents[1]
    with start(command, folder / "server.log", env={"SERVING_KEY": KEY}, folder=here) as process:
        process.wait_for(f"http://127.0.0.1:{port}/ready", LONGEST)
        yield f"http://127.0.0.1:{port}", folder, process


@pytest.mark.parametrize(("body", "status", "code"), BAD)
def test_the_server_says_so_too_and_stays_up(server, body: bytes, status: int, code: str):
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{server[0]}/classify", content=body, headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert httpx.get(f"{server[0]}/ready", trust_env=False).status_code == 200


def test_unknown_paths_answer_in_the_same_form(server):
    assert httpx.get(f"{server[0]}/nowhere", trust_env=False).json()["error"]["code"] == "no_route"
    assert httpx.get(f"{server[0]}/classify", trust_env=False).status_code == 405


def test_rows_of_a_batch_get_their_own_adapter(server):
    with Client(server[0], KEY) as client:
        alone = {each: client.classify("oil rises", each)["scores"] for each in (None, "news")}
        assert alone[None] != alone["news"]

        def ask(number: int) -> dict:
            adapter = (None, "news")[number % 2]
            answer = client.classify("oil rises", adapter)
            assert answer["adapter"] == adapter
            assert answer["scores"] == pytest.approx(alone[adapter], abs=1e-5)
            return answer

        report = load(ask, 8, requests=80, seconds=30)
    assert report.failures == {}
    assert report.answered == 80


def under_load(server, act) -> tuple[dict, dict]:
    """(failures, versions) of a load that goes on while ``act`` runs, and for 20 more requests."""
    acted, enough, done = threading.Event(), threading.Event(), threading.Event()
    later = itertools.count(1)
    with Client(server[0], KEY, deadline=LONGEST) as client:

        def ask(_: int) -> dict:
            time.sleep(0.02)  # this computer starts a server meanwhile
            is_later = acted.is_set()
            try:
                return client.classify("wheat rises")
            finally:
                if is_later and next(later) == 20:
                    enough.set()

        found: list = []
        loader = threading.Thread(
            target=lambda: found.append(load(ask, 4, seconds=2 * LONGEST, requests=1_000_000, until=done))
        )
        loader.start()
        try:
            time.sleep(0.5)
            act()
            acted.set()
            assert enough.wait(LONGEST), "the server has stopped to answer"
        finally:
            done.set()
            loader.join()
    return found[0].failures, found[0].versions


def test_no_request_fails_across_a_reload(server):
    url, folder, _ = server

    def reload() -> None:
        (folder / "model").unlink()
        (folder / "model").symlink_to(folder / "two", target_is_directory=True)
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = httpx.post(f"{url}/reload", headers=headers, timeout=LONGEST, trust_env=False)
        assert answer.json() == {"version": "two"}

    failures, versions = under_load(server, reload)
    assert failures == {}
    assert set(versions) == {"one", "two"}


def workers(folder: Path) -> list[int]:
    """Process ids of the LitServe workers: children, by spawn, of a serving_api whose command names the folder."""
    import psutil

    found = set()
    for each in psutil.process_iter(["cmdline"]):
        words = each.info["cmdline"] or []
        if "production.serving_api" not in words or not any(str(folder) in word for word in words):
            continue
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            for child in each.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "spawn_main" in " ".join(child.cmdline()):
                        found.add(child.pid)
    return sorted(found)


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_no_request_fails_when_a_worker_is_killed(server):
    before = workers(server[1])
    assert before

    def kill() -> None:
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + LONGEST
        while not set(workers(server[1])) - set(before):
            assert time.monotonic() < end, "no new worker was started"
            time.sleep(0.2)

    failures, _ = under_load(server, kill)
    assert failures == {}
    assert workers(server[1])
    assert not set(before) & set(workers(server[1]))


def test_a_second_start_is_told_plainly(server):
    url, folder, _ = server
    command = [
        sys.executable,
        "-m",
        "production.serving",
        "--model",
        str(folder / "one"),
        "--port",
        url.rpartition(":")[2],
    ]
    done = subprocess.run(
        [*command, "--work", str(folder / "elsewhere")],
        capture_output=True,
        text=True,
        env=os.environ | {"SERVING_KEY": KEY},
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert done.returncode == 1
    assert "can't be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr
