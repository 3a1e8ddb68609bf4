"""NF4 as the lesson builds it is bitsandbytes', and what the lesson states as fact is computed here anew."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lesson_source import lesson_text, statement

import lessonkit
from lessonkit.exercises import intermediate_qlora as facts
from lessonkit.exercises import load_exercises

bnb = pytest.importorskip("bitsandbytes")
functional = pytest.importorskip("bitsandbytes.functional")

LESSON = "qlora/intermediate"


def run_statements(names: dict, *wanted: str) -> dict:
    for each in wanted:
        exec(statement(LESSON, each), names)
    return names


@pytest.fixture(scope="module")
def by_hand() -> SimpleNamespace:
    """The lesson's own levels, formats and functions."""
    from scipy.stats import norm

    names = {"torch": torch, "norm": norm}
    wanted = (
        "normal_levels",
        "NF4",
        "quantize",
        "dequantize",
        "pack",
        "positive",
        "FORMATS",
        "relative_error",
    )
    return SimpleNamespace(**run_statements(names, *wanted))


@pytest.fixture(scope="module")
def matrices() -> dict[str, torch.Tensor]:
    """Every linear matrix of seven of SmolLM2's layers, from below to above, as they are stored."""
    layers = lessonkit.load_model("smollm2", dtype="bfloat16").model.layers
    return {
        f"{number}.{name}": module.weight.detach()
        for number in (0, 5, 12, 17, 22, 25, 28)
        for name, module in layers[number].named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def table(kind: str) -> torch.Tensor:
    return functional.get_4bit_type(kind, device="cpu")


# ---- Parity with bitsandbytes -----------------------------------------------------------------------


def test_the_levels_are_bitsandbytes_to_the_last_bit(by_hand):
    assert torch.equal(by_hand.NF4, table("nf4"))
    assert torch.equal(by_hand.NF4, functional.create_normal_map().unique())
    assert torch.equal(torch.tensor(facts.NF4), table("nf4"))
    assert round(1 - (1 / 30 + 1 / 32) / 2, 7) == 0.9677083


def test_the_other_formats_are_bitsandbytes_tables(by_hand):
    assert torch.equal(by_hand.FORMATS["FP4"], table("fp4").unique())
    gaps = by_hand.FORMATS["INT4"].diff()  # bitsandbytes' own table of it can't be loaded
    assert float(gaps.max() - gaps.min()) < 1e-6
    assert [len(each) for each in by_hand.FORMATS.values()] == [16, 15, 15]


def assert_parity(by_hand, matrix: torch.Tensor) -> None:
    packed, state = functional.quantize_4bit(matrix, blocksize=64, quant_type="nf4")
    codes, absmax = by_hand.quantize(matrix, by_hand.NF4)
    assert torch.equal(by_hand.pack(codes), packed.flatten())
    assert torch.equal(absmax.flatten(), state.absmax)
    back = by_hand.dequantize(codes, absmax, by_hand.NF4).reshape(matrix.shape).to(matrix.dtype)
    assert torch.equal(back, functional.dequantize_4bit(packed, state))


def test_real_weights_give_the_same_bytes(by_hand, matrices):
    for matrix in list(matrices.values())[:21]:
        assert_parity(by_hand, matrix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-4, 0.05, 30.0])
def test_random_weights_give_the_same_bytes(by_hand, dtype, size):
    draw = torch.Generator().manual_seed(0)
    assert_parity(by_hand, (size * torch.randn(96, 256, generator=draw)).to(dtype))


def test_ties_take_the_lower_level_and_zeros_the_exact_zero(by_hand):
    corner = torch.zeros(2, 64)
    corner[0, 0], corner[0, 1:16] = 1.0, (by_hand.NF4[1:] + by_hand.NF4[:-1]) / 2
    assert_parity(by_hand, corner)
    codes, absmax = by_hand.quantize(corner, by_hand.NF4)
    assert codes[0, 1:16].tolist() == list(range(15))
    assert codes[1].unique().tolist() == [7]
    assert absmax.flatten().tolist() == [1.0, 0.0]


def test_double_quantisation_is_what_the_lesson_says(by_hand, matrices):
    """The mean is subtracted, and 256 scales share one of their own; the 8-bit codes are the nearest, nearly always."""
    levels = functional.create_dynamic_map()
    for matrix in list(matrices.values())[::12]:
        packed, state = functional.quantize_4bit(matrix, quant_type="nf4", compress_statistics=True)
        codes, absmax = by_hand.quantize(matrix, by_hand.NF4)
        assert torch.equal(by_hand.pack(codes), packed.flatten())
        scales = absmax.flatten()
        centred = scales - scales.mean()
        ours, of_scales = by_hand.quantize(
            torch.nn.functional.pad(centred, (0, -len(centred) % 256)), levels, block=256
        )
        assert state.offset == scales.mean()
        assert torch.equal(of_scales.flatten(), state.state2.absmax)
        assert (ours.flatten()[: len(centred)] == state.absmax).float().mean() > 0.99


def test_the_bits_that_the_lesson_counts():
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, module in list(parent.named_children()):
                if isinstance(module, torch.nn.Linear):
                    four = bnb.nn.Linear4bit(
                        module.in_features, module.out_features, bias=False, quant_type="nf4"
                    )
                    four.load_state_dict(module.state_dict())
                    setattr(parent, name, four.to("cpu"))
    held, count = run_statements({"bnb": bnb}, "four_bit_bytes")["four_bit_bytes"](model)
    bits = {name: 8 * size / count for name, size in held.items()}
    assert count == 4 * 512 * 512 + 3 * 512 * 1024
    assert (bits["codes"], bits["scales"]) == (4, 8 / 64)
    assert bits["scales of scales"] == 32 / (64 * 256)
    assert held["lookup tables"] == 7 * 4 * (16 + 256 + 1)
    default = BitsAndBytesConfig(load_in_4bit=True)
    told = (default.bnb_4bit_quant_type, default.bnb_4bit_use_double_quant, default.bnb_4bit_compute_dtype)
    assert told == ("fp4", False, torch.float32)  # "None of the three settings below is the default"


# ---- What is said of real weights -------------------------------------------------------------------


def test_levels_are_not_used_equally_often(by_hand, matrices):
    codes = torch.cat([by_hand.quantize(each, by_hand.NF4)[0].flatten() for each in matrices.values()])
    counts = torch.bincount(codes.int(), minlength=16)
    assert counts.max() > 4 * counts.min()
    assert load_exercises("intermediate/qlora")["equal-use"].reference == "c"
    draws = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
    assert float(draws.abs().amax(1).mean()) == pytest.approx(2.6, abs=0.05)  # and not 1.85


def test_nf4_errs_least_and_ever_more_so_in_larger_blocks(by_hand, matrices):
    matrix = next(each for name, each in matrices.items() if "up_proj" in name)
    error = {
        (kind, block): by_hand.relative_error(matrix, levels, block)
        for kind, levels in by_hand.FORMATS.items()
        for block in (64, 1024)
    }
    for block in (64, 1024):
        assert error["NF4", block] < error["INT4", block] < error["FP4", block]
    grown = {kind: error[kind, 1024] / error[kind, 64] for kind in by_hand.FORMATS}
    assert 1 < grown["NF4"] < grown["FP4"] < grown["INT4"]


def test_our_smollm2_was_rounded_before(matrices):
    matrix = matrices["12.mlp.gate_proj"]
    assert max(len(block.unique()) for block in matrix.reshape(-1, 32)[:500]) <= 16  # "GGUF's Q4_1"


def test_the_worked_answer_to_own_levels_passes(by_hand, matrices):
    exercise = load_exercises("intermediate/qlora")["own-levels"]
    lower = {name: each for name, each in matrices.items() if name.startswith("0.")}
    names = {"torch": torch, "NF4": by_hand.NF4, "matrices": lower}
    exec(exercise.source, names)
    outcome = exercise.judge(names["answer"])
    assert outcome.passed, outcome.message
    assert exercise.judge(by_hand.NF4).diagnosis == "nf4-itself"


# ---- What is planned --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planning() -> dict:
    from transformers import LlamaConfig

    return run_statements({"LlamaConfig": LlamaConfig, "lessonkit": lessonkit}, "SHAPES", "PLANNED", "plan")


def test_the_models_have_the_size_they_are_called_by(planning):
    counts = {name: planning["plan"](name, "qlora").total_parameters for name in planning["SHAPES"]}
    assert 6.5e9 < counts["7B"] < 7.2e9
    assert 68e9 < counts["70B"] < 70e9


def test_what_fits_where(planning):
    from lessonkit.memory.gpus import CONTEXT_BYTES, GPUS

    def fits(shape, technique, gpu, **more):
        return planning["plan"](shape, technique, **more).peak_bytes + CONTEXT_BYTES <= GPUS[gpu] * 2**30

    assert fits("7B", "qlora", "RTX 3060 (12 GB)")
    assert fits("7B", "lora", "T4 (16 GB)")
    assert not fits("70B", "lora", "A100, H100 (80 GB)")
    assert fits("70B", "qlora", "L40S (48 GB)")
    assert not fits("70B", "qlora", "A100 (40 GB)")


def test_only_checkpointing_cures_the_crowded_gpu(planning):
    crowded = {"technique": "lora", "batch_size": 8, "length": 2048, "gradient_checkpointing": False}
    changes = eval(statement(LESSON, "changes").split("=", 1)[1])
    peaks = {
        name: planning["plan"]("7B", **crowded | change).peak_bytes / 2**30
        for name, change in changes.items()
    }
    assert [name[0] for name, peak in peaks.items() if peak < 79] == ["b"]
    assert peaks["as it is"] - peaks["a: QLoRA"] == pytest.approx(9, abs=1)
    reference = load_exercises("intermediate/qlora")["out-of-memory"].reference
    assert reference == "b"


def test_the_larger_model_is_smollm2_1_7b():
    from transformers import LlamaConfig

    assert "SmolLM2-1.7B-Instruct" in lesson_text(LESSON)
    larger = run_statements({"LlamaConfig": LlamaConfig}, "larger")["larger"]
    plan = lessonkit.predict_memory(larger, "lora", r=8, target_modules="all-linear", sequence_length=128)
    assert plan.total_parameters - plan.trainable_parameters == 1_711_376_384
