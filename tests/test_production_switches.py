"""The switches' costs are predicted in the right order, measured in processes of their own, and a limit is a limit."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from lessonkit.errors import TrainingError
from production.room import forget_peak, holding, limited
from production.switches import Cost, Switches, choices, fitting, measure, predict, slowdown
from production.train import Training

CPU = torch.device("cpu")
LONG = Training(model="minilm", train_rows=64, batch_size=32, length=128)
TINY = Training(model="tiny", train_rows=64, batch_size=16, steps=4, learning_rate=0.01)
PLAIN, CHECKPOINTING, SMALL = Switches(), Switches(gradient_checkpointing=True), Switches(accumulate=4)


def cost(size: int, seconds: float | None = 1.0) -> Cost:
    return Cost(size, 10, seconds)


# ---- What they should cost


@pytest.fixture(scope="module")
def told() -> dict[Switches, Cost]:
    return {each: predict(LONG, each, plain_seconds=3.0) for each in (PLAIN, CHECKPOINTING, SMALL)}


def test_both_ways_of_keeping_less_save_bytes(told):
    assert told[CHECKPOINTING].bytes < told[PLAIN].bytes
    assert told[SMALL].bytes < told[PLAIN].bytes
    assert len({each.weights for each in told.values()}) == 1
    assert all(each.bytes > 4 * each.weights for each in told.values())  # gradients and AdamW's states, too


def test_only_the_second_forward_pass_takes_time(told):
    assert told[PLAIN].seconds == told[SMALL].seconds == 3.0
    assert told[CHECKPOINTING].seconds == pytest.approx(4.0)


def test_bf16_takes_this_machines_seconds_and_compilation_none_that_can_be_counted():
    assert predict(LONG, Switches(precision="bf16"), 2.0, bf16=0.5).seconds == pytest.approx(1.0)
    assert predict(LONG, Switches(compile=True), 2.0).seconds is None


def test_the_slowdown_is_a_ratio_of_seconds():
    assert 0 < slowdown(rows=64, width=32) < 10_000


# ---- Which ones to take


def test_all_combinations_are_there_once_and_divide_the_batch():
    found = choices(12)
    assert len(found) == len({*found}) == 2 * 2 * 3
    assert {each.accumulate for each in found} == {1, 2, 4}
    assert len(choices(12, compiled=True)) == 2 * len(found)


def test_the_fastest_that_fits_comes_first():
    costs = {PLAIN: cost(900, 3.0), CHECKPOINTING: cost(450, 4.0), SMALL: cost(520, 3.0)}
    assert fitting(costs, 900) == [PLAIN, SMALL, CHECKPOINTING]
    assert fitting(costs, 600) == [SMALL, CHECKPOINTING]
    assert fitting(costs, 450) == [CHECKPOINTING]


def test_where_nothing_fits_the_least_is_named():
    with pytest.raises(TrainingError, match="No switches") as caught:
        fitting({PLAIN: cost(9_000_000), CHECKPOINTING: cost(4_000_000)}, 1_000_000)
    assert "4 MB, with checkpointing" in caught.value.why


@pytest.mark.parametrize(
    ("switches", "said"),
    [(PLAIN, "none"), (Switches(True, "bf16", 4, True), "checkpointing + bf16 + 4 small batches + compile")],
)
def test_switches_say_what_they_are(switches: Switches, said: str):
    assert str(switches) == said
    assert len(switches.words()) == 6


# ---- What they do cost


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Switches, Cost]:
    folder = tmp_path_factory.mktemp("switches")
    return {
        each: measure(TINY, each, folder / str(number))
        for number, each in enumerate((PLAIN, CHECKPOINTING, SMALL))
    }


def test_checkpointing_trains_the_same_bit_for_bit(found):
    assert found[CHECKPOINTING].losses == found[PLAIN].losses
    assert len(found[PLAIN].losses) == TINY.steps


def test_small_batches_train_the_same_to_rounding(found):
    assert found[SMALL].losses == pytest.approx(found[PLAIN].losses, abs=1e-5)


def test_seconds_and_bytes_were_measured(found):
    for each in found.values():
        assert 0 < each.seconds <= each.first_seconds * 10
        assert each.bytes > each.weights > 0


def test_a_training_that_fails_says_why(tmp_path: Path):
    odd = dataclasses.replace(TINY, batch_size=15)
    with pytest.raises(TrainingError, match="2 small batches failed") as caught:
        measure(odd, Switches(accumulate=2), tmp_path / "odd")
    assert "15" in caught.value.why


# ---- A limit


def test_without_a_limit_nothing_changes():
    with limited(0, CPU):
        assert torch.ones(1000).sum() == 1000


def test_peak_and_holding_are_of_this_process():
    forget_peak(CPU)
    assert holding(CPU) > 10_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_a_limit_can_be_broken_and_is_lifted_afterwards():
    with pytest.raises(TrainingError, match="given 50 MB") as caught, limited(50_000_000, CPU):
        torch.ones(200_000_000)
    assert "plan --limit" in caught.value.fix
    assert torch.ones(50_000_000).numel() == 50_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_other_errors_pass_through_a_limit():
    with pytest.raises(RuntimeError, match="multiplied"), limited(10**9, CPU):
        torch.ones(2, 3) @ torch.ones(2, 3)
