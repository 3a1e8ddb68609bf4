"""What the lesson builds equals the libraries', and what it states as fact is computed here anew."""

from __future__ import annotations

import inspect
import warnings
from types import SimpleNamespace

import pytest
import torch
from lesson_source import lesson_text, statement

import lessonkit
from lessonkit.exercises import expert_qlora as facts
from lessonkit.exercises import load_exercises

bnb = pytest.importorskip("bitsandbytes")
functional = pytest.importorskip("bitsandbytes.functional")

LESSON = "qlora/expert"
FUNCTIONS = (
    "nf4",
    "fp4",
    "int4_grid",
    "to_grid",
    "int4",
    "q4_1",
    "POSITIVE",
    "TINY",
    "mxfp4",
    "SCHEMES",
    "awq",
    "gptq",
    "low_rank",
    "quick_low_rank",
    "loftq",
)


@pytest.fixture(scope="module")
def by_hand() -> SimpleNamespace:
    """The lesson's own formats and functions."""
    names = {
        "torch": torch,
        "device": "cpu",
        "quantize_4bit": functional.quantize_4bit,
        "dequantize_4bit": functional.dequantize_4bit,
    }
    for each in FUNCTIONS:
        exec(statement(LESSON, each), names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def matrix() -> torch.Tensor:
    """One of SmolLM2's matrices, as the lesson's file has it."""
    model = lessonkit.load_model("smollm2", num_hidden_layers=2)
    return model.model.layers[1].self_attn.q_proj.weight.detach()


@pytest.fixture(scope="module")
def stranger() -> torch.Tensor:
    """A matrix that never was rounded to 4 bits."""
    return lessonkit.load_model("minilm").encoder.layer[3].intermediate.dense.weight.detach()


def share(wrong: torch.Tensor, right: torch.Tensor) -> float:
    return float((wrong - right).square().sum() / right.square().sum())


# ---- Four-bit schemes -------------------------------------------------------------------------------


def test_the_bits_that_the_table_shows(by_hand):
    bits = {name: count for name, (count, _) in by_hand.SCHEMES.items()}
    assert bits["INT4, zero-point, groups of 64"] == 4.3125
    assert bits["MXFP4, blocks of 32"] == 4.25
    assert bits["Q4_1, groups of 32"] == 5
    assert bits["NF4, double quantisation"] == pytest.approx(4.127, abs=0.0005)


def test_our_smollm2_comes_from_q4_1_and_minilm_does_not(by_hand, matrix, stranger):
    assert share(by_hand.q4_1(matrix), matrix) < 1e-4
    assert share(by_hand.q4_1(stranger), stranger) > 0.005


def test_mxfp4_errs_more_than_nf4_on_both(by_hand, matrix, stranger):
    for each in (matrix, stranger):
        assert share(by_hand.mxfp4(each), each) > 1.3 * share(by_hand.nf4(each), each)


def test_int4_of_a_matrix_is_the_exercise_group_by_group(by_hand, matrix):
    exercise = load_exercises("expert/qlora")["zero-point"]
    groups = matrix.reshape(-1, 64)[:50]
    for group, row in zip(groups, by_hand.int4(groups).reshape(-1, 64), strict=True):
        codes, scale, zero = exercise.reference(group)
        assert 0 <= float(zero) <= 15
        assert codes.min() >= 0
        assert codes.max() <= 15
        assert torch.allclose((codes - zero) * scale, row, atol=0.002 * float(scale) * 15)


def test_zero_comes_back_as_zero(by_hand):
    group = torch.linspace(-0.3, 0.9, 64)
    group[5] = 0
    assert by_hand.int4(group)[5] == 0
    assert by_hand.mxfp4(torch.zeros(32)).abs().max() == 0


def test_mxfp4_has_a_power_of_two_as_its_scale_and_cuts_above_six(by_hand):
    block = torch.zeros(32)
    block[:4] = torch.tensor([7.9, 3.1, -0.26, 5.2])
    assert by_hand.mxfp4(block)[:4].tolist() == [6.0, 3.0, -0.5, 6.0]
    assert torch.equal(by_hand.mxfp4(block / 8), by_hand.mxfp4(block) / 8)
    assert by_hand.mxfp4(block, cut=False)[:4].tolist() == [8.0, 3.0, 0.0, 6.0]


def test_down_proj_can_be_spared():
    from transformers.quantizers.quantizers_utils import should_convert_module

    spared = ["down_proj", "lm_head"]  # the lesson's `llm_int8_skip_modules`
    assert not should_convert_module("model.layers.3.mlp.down_proj", spared)
    assert should_convert_module("model.layers.3.mlp.up_proj", spared)


# ---- Rounding that looks at data --------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven() -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (32, 128), and correlated inputs of uneven sizes, 512 rows."""
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(128, 128, generator=draw) * torch.exp(torch.randn(128, generator=draw))
    inputs = torch.randn(512, 128, generator=draw) @ mix
    return 0.05 * torch.randn(32, 128, generator=draw), inputs


def output_error(found: torch.Tensor, weights: torch.Tensor, inputs: torch.Tensor) -> float:
    return share(found @ inputs.T, weights @ inputs.T)


def test_both_have_smaller_errors_in_the_outputs(by_hand, uneven):
    weights, inputs = uneven
    nearest = output_error(by_hand.int4(weights), weights, inputs)
    assert output_error(by_hand.awq(weights, inputs), weights, inputs) < nearest
    assert output_error(by_hand.gptq(weights, inputs), weights, inputs) < 0.7 * nearest


def test_without_correlations_gptq_rounds_to_the_nearest(by_hand, uneven):
    weights, _ = uneven
    alike = torch.eye(128)
    assert torch.allclose(by_hand.gptq(weights, alike), by_hand.int4(weights), atol=1e-6)


def test_gptq_uses_only_sixteen_codes_in_a_group(by_hand, uneven):
    found = by_hand.gptq(*uneven)
    assert max(len(row.unique()) for row in found[:, :64]) <= 16


# ---- Starts -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loftq_utils():
    return pytest.importorskip("peft.utils.loftq_utils")


def test_loftq_by_hand_is_pefts(by_hand, loftq_utils, matrix):
    line = '"xpu" if is_xpu_available() else "cuda"'
    source = inspect.getsource(loftq_utils.loftq_init)
    assert source.count(line) == 1
    names = dict(vars(loftq_utils))
    exec(source.replace(line, "weight.device"), names)
    for rounds in (1, 3):
        ours = by_hand.loftq(matrix, 8, rounds)
        theirs = names["loftq_init"](matrix, num_bits=4, reduced_rank=8, num_iter=rounds)
        assert torch.equal(ours[0], theirs[0])
        product, other = ours[2] @ ours[1], theirs[2] @ theirs[1]
        assert (product - other).abs().max() < 1e-3 * product.abs().max()


def test_pefts_own_wants_a_gpu_and_knows_no_alpha(loftq_utils, matrix):
    assert "lora_alpha" not in inspect.signature(loftq_utils.loftq_init).parameters
    assert "scaling" not in inspect.getsource(loftq_utils)
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            loftq_utils.loftq_init(matrix, num_bits=4, reduced_rank=8)


def test_counted_twice_the_correction_is_worth_nothing(by_hand, matrix):
    error = matrix - by_hand.nf4(matrix)
    A, B = by_hand.low_rank(error, 8)  # noqa: N806
    assert (error - 2 * B @ A).norm() == pytest.approx(float(error.norm()), rel=1e-4)
    assert (error - B @ A).norm() < 0.99 * error.norm()
    assert (error - 4 * B @ A).norm() > 1.2 * error.norm()


def test_the_quick_svd_is_nearly_exact(by_hand, matrix):
    torch.manual_seed(0)
    error = matrix - by_hand.nf4(matrix)
    quick, exact = (
        (error - B @ A).norm() for A, B in (f(error, 8) for f in (by_hand.quick_low_rank, by_hand.low_rank))
    )
    assert exact <= quick * (1 + 1e-5)
    assert quick < 1.002 * exact


def test_a_better_start_knows_its_inputs():
    exercise = load_exercises("expert/qlora")["better-start"]
    exercise.seconds = 1000  # on a crowded machine
    held_out = exercise.held_out("laptop")
    loftq = facts._error_left(facts._plain_loftq, held_out)
    weighted = facts._error_left(facts._weighted, held_out)
    assert weighted < facts.REACH - 0.05 < facts.REACH + 0.05 < loftq < 1
    names = {"low_rank": facts._low_rank}
    exec(exercise.source, names)
    outcome = exercise.judge(names["start"])
    assert outcome.passed, outcome.message


# ---- Merging ----------------------------------------------------------------------------------------


class Small(torch.nn.Module):
    """One 4-bit layer, of real weights."""

    def __init__(self, matrix: torch.Tensor):
        super().__init__()
        out, into = matrix.shape
        self.layer = bnb.nn.Linear4bit(
            into, out, bias=False, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True
        )
        self.layer.load_state_dict({"weight": matrix})
        self.to("cpu")
        self.layer.support_avx512bf16_for_cpu = False
        self.is_loaded_in_4bit = True  # what PEFT asks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def adapted(matrix: torch.Tensor, size: float):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(Small(matrix), LoraConfig(r=8, lora_alpha=16, target_modules=["layer"]))
    layer = model.base_model.model.layer
    layer.lora_B["default"].weight.data = size * torch.randn_like(layer.lora_B["default"].weight)
    change = 2 * (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    return model, layer, change


def test_pefts_merger_is_nf4_of_the_sum(by_hand, matrix):
    model, _, change = adapted(matrix, size=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = model.merge_and_unload().layer.weight
    by_peft = functional.dequantize_4bit(merged.data, merged.quant_state)
    assert torch.allclose(by_peft, by_hand.nf4(by_hand.nf4(matrix) + change), atol=1e-6)


def test_a_small_change_does_not_arrive_in_the_codes_but_does_beside_the_original(by_hand, matrix):
    four_bit = by_hand.nf4(matrix)
    change = 1e-3 * matrix.std() * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0))

    def arrives(start):
        moved = by_hand.nf4(start + change) - four_bit
        return float((moved * change).sum() / change.square().sum())

    assert abs(arrives(four_bit)) < 0.3
    assert 0.5 < arrives(matrix) < 1.6


# ---- Optimisers -------------------------------------------------------------------------------------


def test_the_moments_take_the_bytes_that_the_exercise_says():
    pair = {"A": torch.nn.Parameter(torch.randn(8, 576)), "B": torch.nn.Parameter(torch.randn(192, 8))}
    optimizer = bnb.optim.AdamW8bit(pair.values(), lr=1e-3)
    for each in pair.values():
        each.grad = torch.randn_like(each)
    optimizer.step()
    names: dict = {"torch": torch}
    exec(statement(LESSON, "state_bytes"), names)
    counted = {name: names["state_bytes"](optimizer, each) for name, each in pair.items()}
    assert counted == load_exercises("expert/qlora")["moments"].reference
    assert counted["B"] > counted["A"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU pages")
def test_a_paged_optimiser_does_not_page_on_a_cpu():
    parameter = torch.nn.Parameter(torch.ones(8, 576))
    parameter.grad = torch.ones_like(parameter)
    with pytest.warns(UserWarning, match="not supported on CPU"):
        bnb.optim.PagedAdamW8bit([parameter]).step()


def test_only_large_moments_are_paged():
    assert "p.numel() < 1e5" in inspect.getsource(bnb.optim.optimizer.Optimizer8bit.get_state_buffer)


# ---- 65B --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planning() -> dict:
    from transformers import LlamaConfig

    names = {"LlamaConfig": LlamaConfig, "lessonkit": lessonkit}
    for each in ("LLAMA_65B", "plan", "ROWS"):
        exec(statement(LESSON, each), names)
    return names


def test_65b_on_48_gb(planning):
    from lessonkit.memory.gpus import CONTEXT_BYTES, GPUS

    room = GPUS["L40S (48 GB)"] * 2**30 - CONTEXT_BYTES
    plans = {name: planning["plan"](**more) for name, more in planning["ROWS"].items()}
    count = plans["r = 64, AdamW"].total_parameters - plans["r = 64, AdamW"].trainable_parameters
    assert count == pytest.approx(65.3e9, rel=0.002)
    assert 12 * count > 780e9
    fits = {name: plan.peak_bytes <= room for name, plan in plans.items()}
    assert fits == {
        "r = 64, AdamW": False,
        "r = 64, 8-bit AdamW": True,
        "the same, single quantisation": False,
        "the same, no checkpointing": False,
    }


def test_the_larger_model_is_smollm2_360m():
    from transformers import LlamaConfig

    assert "SmolLM2-360M-Instruct" in lesson_text(LESSON)
    names = {"LlamaConfig": LlamaConfig}
    exec(statement(LESSON, "larger"), names)
    plan = lessonkit.predict_memory(
        names["larger"], "lora", r=8, target_modules="all-linear", sequence_length=64
    )
    assert plan.total_parameters - plan.trainable_parameters == 361_821_120
