"""Variants answer as their model does, the closed loop keeps Little's law, and the cheapest is found by the rules."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from lessonkit.errors import DataError, LessonError, ModelError, UnknownNameError
from production import optimise
from production.caching import Cache, normalised
from production.cheapest import Found, Target, front, judge, loss, prove, search
from production.cost import Entry, Price, find_price, per_million, read_prices, write_ledger
from production.measure import Bench, Measured, closed_loop, quantile
from production.optimise import Setting, Variants, load, make
from production.optimise_command import Cost, entries, held_out
from production.settings import read

# ---- Variants ---------------------------------------------------------------------------------------

KINDS = ["unmerged", "bf16", "nf4", "onnx", "int8"]


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    """A LoRA adapter whose B is not zero, with the config of its base and the tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = tiny.model()
    folder = tmp_path_factory.mktemp("adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(1)
        model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=3)
            elif "modules_to_save" in name and weight.ndim == 2:
                torch.nn.init.normal_(weight, std=1)  # a fresh head's logits are all alike
        model.save_pretrained(folder)
    base.config.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def variants(adapter, tmp_path_factory) -> Variants:
    return make(adapter, tmp_path_factory.mktemp("variants") / "made", KINDS)


@pytest.fixture(scope="module")
def bench(variants, tmp_path_factory):
    with Bench(variants, 1, tmp_path_factory.mktemp("logs"), ["onnx", "int8"]) as made:
        yield made


@pytest.fixture(scope="module")
def texts(tiny) -> list[str]:
    return list(tiny.dataset["text"])


def test_variants_give_what_their_model_gives(variants, texts) -> None:
    assert (sorted(variants.files), variants.left_out) == (sorted([*KINDS, "merged"]), {})
    logits = {kind: load(variants, kind, 1)(texts, 16) for kind in variants.files}
    assert logits["merged"].shape == (24, 2)
    spread = np.ptp(logits["merged"], axis=0).max()
    assert spread > 0.1
    for kind, share in {"unmerged": 1e-4, "onnx": 1e-4, "bf16": 0.1, "int8": 0.2, "nf4": 0.5}.items():
        assert np.abs(logits[kind] - logits["merged"]).max() < share * spread, kind
        if kind not in ("unmerged", "onnx"):
            assert not np.array_equal(logits[kind], logits["merged"]), kind


def test_the_unmerged_one_is_the_adapter_and_not_the_base(variants, tiny, texts) -> None:
    import torch

    batch = tiny.tokenizer(texts[:4], padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        base = tiny.model().eval()(**batch).logits.numpy()
    assert np.abs(load(variants, "unmerged", 1)(texts[:4], 16) - base).max() > 0.01


def test_an_onnx_graph_takes_any_shape(variants, texts) -> None:
    onnx, merged = load(variants, "onnx", 1), load(variants, "merged", 1)
    for count, length in ((1, 3), (1, 12), (5, 7), (24, 32)):
        assert np.allclose(onnx(texts[:count], length), merged(texts[:count], length), atol=1e-5)


def test_sizes_on_disk(variants) -> None:
    sizes = {kind: variants.bytes_of(kind) for kind in variants.files}
    assert sizes["bf16"] < 0.6 * sizes["merged"] < sizes["merged"] < sizes["unmerged"]
    assert sizes["int8"] < sizes["onnx"]


def test_variants_are_made_once_and_those_of_other_weights_are_not_kept(adapter, tmp_path) -> None:
    first = make(adapter, tmp_path / "made", ["merged"])
    before = (first.files["merged"] / "model.safetensors").stat().st_mtime_ns
    assert (
        make(adapter, tmp_path / "made", ["merged"]).files["merged"] / "model.safetensors"
    ).stat().st_mtime_ns == before
    other = shutil.copytree(first.files["merged"], tmp_path / "other")
    (tmp_path / "made" / "int8").mkdir()
    again = make(other, tmp_path / "made", ["unmerged", "merged"])
    assert "no adapter" in again.left_out["unmerged"]
    assert not (tmp_path / "made" / "int8").exists()
    assert json.loads((tmp_path / "made" / "variants.json").read_text())["source"] == str(other)


def test_what_is_missing_is_told_and_left_out(variants, adapter, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(optimise.shutil, "which", lambda name: None)
    monkeypatch.setattr(optimise.importlib.util, "find_spec", lambda name: None)
    made = make(adapter, variants.folder, ["merged", "compiled", "int8"])
    assert list(made.files) == ["merged"]
    assert "C++ compiler" in made.left_out["compiled"]
    assert "python start.py --production" in made.left_out["int8"]
    with pytest.raises(ModelError, match="C\\+\\+ compiler"):
        load(made, "compiled", 1)
    with pytest.raises(ModelError, match="no saved classifier"):
        make(tmp_path, tmp_path / "made")
    with pytest.raises(UnknownNameError, match="int8"):
        make(adapter, tmp_path / "made", ["int9"])


# ---- The cache --------------------------------------------------------------------------------------


def test_the_cache_asks_once_and_forgets_the_longest_unused() -> None:
    asked = []

    def compute(texts: list[str]) -> list[int]:
        asked.append(texts)
        return [len(text) for text in texts]

    cache = Cache(2)
    assert cache.answer(["aa", "b", "AA "], compute) == [2, 1, 2]
    assert asked == [["aa", "b"]]
    assert (cache.hits, cache.misses) == (1, 2)
    assert cache.answer(["aa"], compute) == [2]
    assert cache.answer(["ccc"], compute) == [3]  # b goes: aa was used since
    assert cache.answer(["aa", "b"], compute) == [2, 1]
    assert asked[1:] == [["ccc"], ["b"]]
    with pytest.raises(DataError, match="keeps none"):
        Cache(0)


@given(some.lists(some.sampled_from("abcdef"), max_size=60), some.integers(1, 4), some.integers(1, 7))
def test_the_cache_never_changes_an_answer_nor_grows(texts: list[str], size: int, step: int) -> None:
    cache = Cache(size)
    for place in range(0, len(texts), step):
        batch = texts[place : place + step]
        assert cache.answer(batch, lambda new: [ord(each) for each in new]) == [ord(each) for each in batch]
        assert len(cache) <= size
    assert cache.hits + cache.misses == len(texts)


def test_the_key() -> None:
    assert normalised("  Oil\tRISES\n again ") == "oil rises again"
    assert normalised("oil rises 5") != normalised("oil rises 6")


# ---- The loop ---------------------------------------------------------------------------------------


class Clock:
    """Time that passes only while a batch is computed: a second, and a tenth for each text."""

    def __init__(self) -> None:
        self.now, self.sizes = 0.0, []

    def __call__(self) -> float:
        return self.now

    def classify(self, texts: list[str]) -> list[int]:
        self.now += 1 + 0.1 * len(texts)
        self.sizes.append(len(texts))
        return [int(text) for text in texts]


def test_the_closed_loop_by_hand() -> None:
    clock = Clock()
    texts = [str(each) for each in range(6)]
    answers, latencies, seconds = closed_loop(clock.classify, texts, users=4, batch_size=2, clock=clock)
    assert answers == list(range(6))
    assert clock.sizes == [2, 2, 2]
    assert latencies == pytest.approx([1.2, 1.2, 2.4, 2.4, 2.4, 2.4])
    assert seconds == pytest.approx(3.6)


@given(some.integers(1, 9), some.integers(1, 9))
def test_users_are_throughput_times_latency(users: int, batch_size: int) -> None:
    """Little's law, once the loop has run in."""
    clock = Clock()
    texts = ["1"] * 2000
    _, latencies, seconds = closed_loop(
        clock.classify, texts, users=users, batch_size=batch_size, clock=clock
    )
    assert len(texts) / seconds * np.mean(latencies) == pytest.approx(users, rel=0.02)
    assert max(clock.sizes) == min(users, batch_size)


def test_the_loop_stops_asking_at_the_limit() -> None:
    clock = Clock()
    answers, latencies, _ = closed_loop(
        clock.classify, ["1"] * 100, users=2, batch_size=1, limit=5, clock=clock
    )
    assert len(answers) == len(latencies) == 6  # the one in work and the one that waited are still answered


def test_quantiles_are_nearest_ranks() -> None:
    assert [quantile([4, 1, 3, 2], share) for share in (0, 0.25, 0.5, 0.95, 1)] == [1, 1, 2, 4, 4]
    assert quantile(range(1, 101), 0.95) == 95
    assert math.isnan(quantile([], 0.5))


# ---- The bench --------------------------------------------------------------------------------------


def test_a_fresh_process_measures_and_answers_the_same(bench, variants, texts) -> None:
    assert bench.kinds == ["onnx", "int8"]
    setting = Setting("onnx", 16, 4)
    found = bench.run(setting, texts, users=4)
    assert list(found.answers) == load(variants, "onnx", 1)(texts, 16).argmax(-1).tolist()
    assert len(found.latencies) == 24
    assert 0 < found.p50 <= found.p95 < 5
    assert found.throughput == pytest.approx(24 / found.seconds)
    twice = bench.run(Setting("onnx", 16, 4, cache=100), texts * 2, users=4)
    assert (twice.hits, twice.answers) == (24, found.answers * 2)
    memory = bench.memory("onnx")
    assert 10e6 < memory.libraries < memory.peak < 1e9


def test_the_onnx_process_has_no_pytorch(bench) -> None:
    import psutil

    process, _ = bench._workers["onnx"]
    paths = [each.path for each in psutil.Process(process.pid).memory_maps()]
    assert any("onnxruntime" in path for path in paths)
    assert not any("libtorch" in path for path in paths)


def test_all_settings_in_rounds_answer_all_texts_in_order(bench, texts) -> None:
    settings = [Setting("onnx", 16, 1), Setting("int8", 16, 4)]
    whole = bench.run_all(settings, texts, rounds=3, users=2)
    assert list(whole) == settings
    for each in settings:
        assert len(whole[each].answers) == 24
    assert whole[settings[0]].answers == bench.run(settings[0], texts, users=2).answers


def test_a_failing_request_is_told_and_the_process_goes_on(bench, texts) -> None:
    with pytest.raises(LessonError, match="onnx failed"):
        bench._ask("onnx", {"do": "logits", "texts": texts[:2], "max_length": -1})
    assert len(bench.logits("onnx", texts[:2], 8)) == 2
    with pytest.raises(LessonError, match="merged can't be measured"):
        bench.run(Setting("merged", 8), texts)
    with pytest.raises(DataError, match="nothing to measure"):
        bench.run(Setting("onnx", 8), [])


def test_a_variant_that_cannot_be_loaded_is_left_out(tmp_path, variants) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no graph")
    files = {"merged": variants.files["merged"], "onnx": broken}
    with Bench(Variants(tmp_path, files, {}), 1, tmp_path, ["onnx"]) as made:
        assert made.kinds == []
        assert "onnx" in made.left_out


# ---- Prices -----------------------------------------------------------------------------------------

DAY = dt.date(2026, 3, 1)


@given(some.floats(0.001, 100), some.floats(0.1, 1e5), some.floats(0.01, 1))
def test_a_million_costs_the_hours_it_takes(hourly: float, throughput: float, utilisation: float) -> None:
    hours = 1e6 / (throughput * utilisation) / 3600
    assert per_million(hourly, throughput, utilisation) == pytest.approx(hours * hourly)


def test_no_cost_from_nothing() -> None:
    for wrong in ((1, 0, 0.5), (1, 5, 0), (1, 5, 1.2), (-1, 5, 0.5)):
        with pytest.raises(DataError, match="No cost"):
            per_million(*wrong)


def test_an_owned_machine_by_hand() -> None:
    price = Price("mine", "EUR", DAY, "bill", purchase=8766.0, years=2, watts=500, per_kwh=0.4)
    assert price.hourly == pytest.approx(0.5 + 0.2)


def test_the_examples_are_marked_and_age_is_told() -> None:
    for each in read_prices().values():
        assert each.example
        assert "EXAMPLE" in each.source
        assert any("EXAMPLE" in note for note in each.notes(each.date))
    price = Price("real", "EUR", DAY, "invoice", per_hour=1)
    assert price.notes(DAY) == []
    assert "91 days old" in price.notes(DAY + dt.timedelta(91))[0]
    assert "future" in price.notes(DAY - dt.timedelta(1))[0]


def test_a_broken_price_book_is_told_whole(tmp_path) -> None:
    book = tmp_path / "prices.toml"
    book.write_text(
        '[[price]]\nname = "a"\ncurrency = "EUR"\nper_hour = "5"\ndate = "today"\nsource = "x"\n'
        '[[price]]\nname = "b"\ncurrency = "EUR"\ndate = 2026-01-01\nsource = " "\nwatts = 3.0\nhourly = 1\n'
        '[[price]]\nname = "c"\ncurrency = "EUR"\ndate = 2026-01-01\nsource = " "\nwatts = 3.0\n'
    )
    with pytest.raises(DataError) as caught:
        read_prices(book)
    for said in (
        "a: per_hour is no number",
        "a: date is no date",
        "b: hourly is unknown",
        "c: source is empty",
        "watts and",
    ):
        assert said in str(caught.value)
    for text, said in (("", "no [[price]]"), ("[[price", "can't be read")):
        book.write_text(text)
        with pytest.raises(DataError, match=said.replace("[", "\\[")):
            read_prices(book)
    with pytest.raises(UnknownNameError, match="rented-2-cores"):
        find_price("rented-2-core")


def test_the_ledger_grows_and_keeps_its_columns(tmp_path) -> None:
    entry = Entry("s", 1, 2, 3, 0.9, 10, 0.5, 0.1, "EUR", "p", DAY, "here, there", 4, "now", "m")
    path = write_ledger(tmp_path / "new" / "ledger.csv", [entry])
    write_ledger(path, [entry])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["price_source"] for row in rows] == ["here, there"] * 2
    assert rows[0]["price_date"] == "2026-03-01"
    path.write_text("other,columns\n")
    with pytest.raises(DataError, match="other columns"):
        write_ledger(path, [entry])


# ---- Choosing ---------------------------------------------------------------------------------------

LABELS = [0, 1] * 150
TARGET = Target(p95=0.05, margin=0.05, users=2, utilisation=0.5)


class Pretended:
    """A bench with known speeds and mistakes: kind -> (seconds for a text, every how manieth answer is wrong)."""

    def __init__(self, **kinds: tuple[float, int]) -> None:
        self.kinds_, self.asked = kinds, []

    def run(self, setting: Setting, texts: list[str], *, users: int = 2, limit: float = math.inf) -> Measured:
        seconds, wrong = self.kinds_[setting.kind]
        self.asked.append((setting, len(texts)))
        count = min(len(texts), max(1, int(limit / seconds))) if limit < math.inf else len(texts)
        answers = [(LABELS[int(text)] + (wrong > 0 and int(text) % wrong == 0)) % 2 for text in texts[:count]]
        return Measured(setting, users, tuple(answers), (users * seconds,) * count, seconds * count)

    run_all = Bench.run_all


TEXTS = [str(each) for each in range(300)]
GRID = [Setting(kind, 8) for kind in ("unmerged", "onnx", "int8", "nf4", "bf16")]
REFERENCE = Setting("merged", 8)


def found_by(bench: Pretended, target: Target = TARGET, keep: int = 4) -> Found:
    return search(bench, GRID, REFERENCE, TEXTS, LABELS, target, 0.36, screening=60, keep=keep, limit=1)


def pretended() -> Pretended:
    """nf4 is the quickest and wrong too often, int8 is next, bf16 misses the latency."""
    return Pretended(
        merged=(0.010, 30),
        unmerged=(0.012, 30),
        onnx=(0.006, 30),
        int8=(0.005, 25),
        nf4=(0.004, 5),
        bf16=(0.1, 30),
    )


def test_the_cheapest_that_may_be_chosen_is_chosen() -> None:
    found = found_by(pretended())
    assert (found.chosen.setting.kind, found.runner_up.setting.kind) == ("int8", "onnx")
    assert [row.cost for row in found.rows] == sorted(row.cost for row in found.rows)
    said = {row.setting.kind: row.refused for row in found.rows}
    assert "may lose" in said["nf4"]
    assert "p95 200 ms, above 50" in said["bf16"]
    assert found.chosen.n == 300
    assert found.chosen.cost == pytest.approx(per_million(0.36, 200, 0.5))


def test_slow_ones_are_left_after_the_first_round() -> None:
    bench = pretended()
    found_by(bench)
    assert sum(count for setting, count in bench.asked if setting.kind == "bf16") == 60
    assert sum(count for setting, count in bench.asked if setting.kind == "int8") == 300


def test_where_none_meets_the_target_the_nearest_are_told() -> None:
    found = found_by(pretended(), Target(p95=0.001, margin=0.05, users=2))
    assert found.chosen is None
    assert "No setting meets the target" in str(found)
    assert "above 1" in str(found)
    with pytest.raises(LessonError, match="longer p95"):
        prove(pretended(), found, REFERENCE, TEXTS, LABELS, TARGET, 0.36)


def test_the_choice_is_proven_on_other_texts() -> None:
    bench = pretended()
    found = found_by(bench)
    proof = prove(bench, found, REFERENCE, TEXTS, LABELS, TARGET, 0.36, blocks=6)
    assert proof.proven is proof.chosen
    assert proof.slowest == (0.01, 0.012)
    assert proof.cheaper == "cheaper"
    assert (proof.ratio, proof.ahead, proof.blocks) == (pytest.approx(5 / 6), 6, 6)
    assert str(proof).count("meets both targets") == 2
    with pytest.raises(DataError, match="no 200 blocks for 2 users"):
        prove(bench, found, REFERENCE, TEXTS, LABELS, TARGET, 0.36, blocks=200)
    same = Pretended(**{**bench.kinds_, "int8": (0.006, 4)})
    proof = prove(same, found, REFERENCE, TEXTS, LABELS, TARGET, 0.36, blocks=6)
    assert proof.proven is proof.runner_up
    assert "may lose" in str(proof)
    assert "Proven: onnx" in str(proof)
    assert proof.cheaper == "can't tell"


def test_a_reference_that_was_cut_is_refused() -> None:
    slow = Pretended(**{**pretended().kinds_, "merged": (0.5, 30)})
    with pytest.raises(LessonError, match="quicker reference"):
        found_by(slow)


def test_no_lost_text_is_no_proof_that_none_will_be() -> None:
    change, (low, high) = loss([True] * 100, [True] * 100)
    assert (change, high) == (0, 0)
    assert low == pytest.approx(-(1 - 0.025 ** (1 / 100)))
    assert loss([True] * 10, [False] * 10)[0] == 1
    assert loss([False] * 10, [True] * 10)[1][0] == pytest.approx(-1)
    with pytest.raises(DataError, match="same texts"):
        loss([True], [True, False])
    assert loss([True] * 100, [True] * 100, 0.975)[1][0] < low


def test_the_runner_up_answers_otherwise_where_one_does() -> None:
    bench = Pretended(merged=(0.010, 30), int8=(0.005, 25), onnx=(0.007, 30))
    same, other = [Setting("int8", 8, size) for size in (1, 2)], Setting("onnx", 8)
    options = {"screening": 60, "limit": 1}
    found = search(bench, [*same, other], REFERENCE, TEXTS, LABELS, TARGET, 0.36, **options)
    assert found.runner_up.setting == other
    found = search(bench, same, REFERENCE, TEXTS, LABELS, Target(0.015, 0.05, 2), 0.36, **options)
    assert {found.chosen.setting, found.runner_up.setting} == set(same)


def test_a_length_is_not_left_out_because_a_shorter_one_is_cheaper() -> None:
    bench = Pretended(merged=(0.010, 30), int8=(0.005, 25), onnx=(0.0055, 30))
    settings = [Setting("int8", 8), Setting("onnx", 8), Setting("onnx", 16)]
    found = search(bench, settings, REFERENCE, TEXTS, LABELS, TARGET, 0.36, screening=60, keep=2, limit=1)
    assert {row.setting.max_length for row in found.rows if row.round == 2} >= {8, 16}


def test_the_runner_up_reads_another_length_before_it_is_of_another_kind() -> None:
    bench = Pretended(merged=(0.010, 30), int8=(0.005, 25), onnx=(0.0055, 30))
    settings = [Setting("int8", 8), Setting("onnx", 8), Setting("int8", 16)]
    found = search(bench, settings, REFERENCE, TEXTS, LABELS, TARGET, 0.36, screening=60, limit=1)
    assert found.chosen.setting.max_length != found.runner_up.setting.max_length


@pytest.mark.parametrize("changed", [0.01, 0.05])
def test_the_true_loss_is_rarely_below_the_interval(changed: float) -> None:
    draws, covered = np.random.default_rng(0), 0
    for _ in range(40):
        reference = draws.random(200) < 0.9
        one = np.where(draws.random(200) < changed, ~reference, reference)
        expected = changed * (0.1 - 0.9)
        covered += loss(one, reference)[1][0] <= expected
    assert covered >= 37


def test_the_front() -> None:
    points = [(1, 0.8), (2, 0.9), (3, 0.9), (2.5, 0.85), (4, 0.95), (1, 0.8)]
    assert front(points) == [0, 1, 4, 5]


def test_judging_cuts_to_the_texts_that_both_answered() -> None:
    measured = Measured(GRID[0], 2, (0, 1, 0), (0.01,) * 3, 0.03)
    reference = Measured(REFERENCE, 2, (0, 0), (0.01,) * 2, 0.02)
    row = judge(measured, reference, LABELS, TARGET, 1.0)
    assert (row.accuracy, row.change, row.n) == (1.0, 0.5, 3)


# ---- The command ------------------------------------------------------------------------------------


def test_the_section_is_read_and_refused() -> None:
    assert read("cost", Cost).kinds
    for given_, said in (
        ({"p95_ms": 0.0}, "p95_ms must"),
        ({"margin": 2.0}, "margin must"),
        ({"kinds": ()}, "kinds is empty"),
    ):
        with pytest.raises(DataError, match=said):
            read("cost", Cost, **given_)
    with pytest.raises(DataError, match="no kind of variant"):
        read("cost", Cost, kinds=("int9",))


def test_held_out_texts_from_a_file(tmp_path) -> None:
    path = tmp_path / "held.csv"
    path.write_text("text,label\none,a\ntwo,b\nthree,a\n")
    texts, labels = held_out(str(path), ["a", "b"], 3)
    assert sorted(zip(texts, labels, strict=True)) == [("one", 0), ("three", 0), ("two", 1)]
    with pytest.raises(DataError, match="wanted: 4"):
        held_out(str(path), ["a", "b"], 4)
    with pytest.raises(DataError, match="doesn't know: b"):
        held_out(str(path), ["a"], 2)


def test_ledger_lines_say_where_the_price_is_from() -> None:
    row = found_by(pretended()).chosen
    price = Price("real", "EUR", DAY, "invoice", per_hour=0.36)
    (line,) = entries([row], TARGET, price, "a machine", "now")
    assert (line.price_source, line.price_date, line.hourly) == ("invoice", DAY, 0.36)
    assert line.per_million == pytest.approx(row.cost, abs=1e-4)


@pytest.mark.parametrize("action", ["measure", "choose"])
def test_the_command(action, adapter, variants, texts, tmp_path, capsys, monkeypatch) -> None:
    from production import optimise_command

    data, settings = tmp_path / "held.csv", tmp_path / "settings.toml"
    with data.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, f"LABEL_{place % 2}"] for place, text in enumerate(texts * 2))
    settings.write_text(
        f'[work]\nfolder = "{tmp_path.as_posix()}"\n[cost]\nmodel = "{adapter.as_posix()}"\ndata = "{data.as_posix()}"\n'
        'texts = 24\nfresh = 24\nkinds = ["onnx", "int8"]\nlengths = [8]\nbatches = [1, 4]\nusers = 2\nmargin = 0.9\n'
        "p95_ms = 5000.0\nthreads = 1\n"
    )
    monkeypatch.setattr(optimise_command, "make", lambda *_: variants)
    optimise_command.command(action, settings=str(settings))
    told = capsys.readouterr().out
    assert "EXAMPLE" in told
    assert ("MiB RAM" in told) == (action == "measure")
    assert ("meets both targets" in told) == (action == "choose")
    with (tmp_path / "cost" / "ledger.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == (2 if action == "measure" else 6)


def test_without_a_run_the_command_says_what_to_train(tmp_path) -> None:
    from production.optimise_command import _model

    with pytest.raises(DataError, match=r"production\.tracking train"):
        _model("", tmp_path)
    run = tmp_path / "runs" / "one"
    (run / "model").mkdir(parents=True)
    with pytest.raises(DataError, match="no finished run"):
        _model("", tmp_path)
    (run / "run.json").write_text("{}")
    assert _model("", tmp_path) == run / "model"
    assert _model("here", tmp_path) == Path("here")
