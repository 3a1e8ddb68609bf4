"""`lessonkit plan`: what it takes, where it fits, what to change first; and what is mistyped is told."""

from __future__ import annotations

import inspect
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lessonkit import cli
from lessonkit.hardware import GIB, Hardware, format_bytes
from lessonkit.memory import Settings, load_config, plan, predict_memory
from lessonkit.memory.gpus import CONTEXT_BYTES, GPUS, advice, room_bytes
from lessonkit.memory.plan import make_report

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
#: PEFT names no target modules for it.
PHI = {
    "model_type": "phi3",
    "vocab_size": 300,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "max_position_embeddings": 1024,
}
LLAMA_3B = {
    **LLAMA,
    "vocab_size": 128256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}
#: The same size nearly everywhere: what was traced once in a process is remembered. Over 256, so that the last
#: advice, shorter rows, is there to be given.
SIZE = {"batch_size": 4, "sequence_length": 400}
TYPED_SIZE = ("--batch-size", 4, "--sequence-length", 400)


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Command:
    """``lessonkit plan ...`` in this process, through the entry point that the shell calls."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["lessonkit", "plan", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return Said(code, *capfd.readouterr())

    return call


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hardware]:
    """Makes the plan believe in a machine with so many free (CPU) or total (GPU) bytes."""

    def use(memory: int | None = 8 * GIB, device: str = "cpu") -> Hardware:
        hardware = Hardware(
            device=device,
            device_name="Some GPU",
            device_count=int(device == "cuda"),
            compute_capability=(8, 0) if device == "cuda" else None,
            memory_total_bytes=memory,
            memory_free_bytes=memory,
            cpu_name="Some CPU",
            cpu_cores=2,
            cpu_features=(),
            ram_total_bytes=memory if device == "cpu" else 8 * GIB,
            dtype="float32",
            scale="laptop",
            threads=1,
            attention="eager",
        )
        monkeypatch.setattr(plan, "detect_hardware", lambda: hardware)
        return hardware

    return use


def file_of(folder: Path, values: dict[str, Any] = LLAMA) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


# ---- What a program reads --------------------------------------------------------------------------------


def test_json_has_the_prediction_and_what_follows(ask, machine, tmp_path):
    machine()
    said = ask("--config", file_of(tmp_path), "--technique", "lora", *TYPED_SIZE, "--json")
    assert said.code == 0
    found = json.loads(said.out)
    predicted = predict_memory(load_config(tmp_path), "lora", device="cpu", **SIZE)
    assert found["peak_bytes"] == predicted.peak_bytes == sum(found["breakdown"].values())
    assert found["trainable_parameters"] == predicted.trainable_parameters
    assert found["total_parameters"] == predicted.total_parameters
    assert found["gpus"].keys() == GPUS.keys()
    assert found["machine"]["room_bytes"] == 8 * GIB
    assert found["machine"]["largest_batch"] > 4
    assert found["changes"] == []


#: Each at a value that is not its own by default.
OPTIONS: dict[str, dict[str, Any]] = {
    "qlora": {
        "r": 3,
        "target_modules": "q_proj,up_proj",
        "double_quantization": False,
        "prepare_for_kbit_training": True,
        "batch_size": 2,
        "gradient_accumulation_steps": 3,
        "sequence_length": 24,
        "target_length": 12,
        "padding": False,
        "dtype": "float32",
        "mixed_precision": True,
        "gradient_checkpointing": True,
        "optimizer": "adamw_torch_fused",
        "attention": "eager",
        "task": "sequence-classification",
        "num_labels": 5,
    },
    "prompt": {"num_virtual_tokens": 7},
    "adapters": {"bottleneck": 9, "placement": "houlsby"},
}


def test_each_setting_of_a_step_is_an_option():
    mine = {name for options in OPTIONS.values() for name in options}
    settings = {each.name for each in fields(Settings)} - {"technique", "device"}  # device: this machine's
    assert mine == settings
    assert inspect.signature(cli.plan).parameters.keys() == settings | {"config", "technique", "as_json"}


@pytest.mark.parametrize("technique", OPTIONS)
def test_each_option_reaches_the_prediction(ask, machine, tmp_path, technique):
    machine()
    options = {"sequence_length": 24, **OPTIONS[technique]}
    typed: list[object] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        typed += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", value]
    said = ask("--config", file_of(tmp_path), "--technique", technique, *typed, "--json")
    assert said.code == 0, said.err
    settings = json.loads(said.out)["settings"]
    defaults = {each.name: each.default for each in fields(Settings)}
    for name, value in options.items():
        assert settings[name] == (value.split(",") if name == "target_modules" else value)
        assert settings[name] != defaults[name]


@pytest.mark.parametrize("technique", ["lora", "no-such-technique"])
def test_a_plan_leaves_the_process_as_it_was(ask: Command, tmp_path: Path, technique: str):
    """It goes without the compiler and the garbage collector; whoever comes after it has both."""
    import gc

    import torch

    compiler = torch.compile
    ask("--config", file_of(tmp_path), "--technique", technique, *TYPED_SIZE)
    assert gc.isenabled()
    assert torch.compile is compiler


def test_what_a_real_process_prints_is_json_and_nothing_else(tmp_path):
    """Also where PEFT and bitsandbytes, loaded for it, have something to say."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lessonkit",
            "plan",
            "--config",
            str(file_of(tmp_path)),
            "--technique",
            "lora",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["settings"]["technique"] == "lora"
    assert done.stderr == ""


def test_a_file_and_a_folder_are_the_same(ask, machine, tmp_path):
    machine()
    asked = [ask("--config", each, *TYPED_SIZE).out for each in (file_of(tmp_path), tmp_path)]
    assert asked[0] == asked[1] != ""


def test_an_assets_name_is_its_configuration(ask, machine, tmp_path, monkeypatch):
    from lessonkit import assets

    machine()
    file_of(tmp_path)
    monkeypatch.setattr(assets, "fetch", lambda name: {"smollm2": tmp_path}[name])
    named, pathed = (ask("--config", each, *TYPED_SIZE, "--json") for each in ("smollm2", tmp_path))
    assert named.out == pathed.out
    assert json.loads(named.out)["total_parameters"] > 0


# ---- What a person reads ---------------------------------------------------------------------------------


def test_the_text_tells_breakdown_gpus_and_batch(ask, machine, tmp_path):
    machine()
    said = ask("--config", file_of(tmp_path), *TYPED_SIZE)
    report = make_report(tmp_path, "full", **SIZE)
    for part, size in report.plan.breakdown.items():
        (line,) = (line for line in said.out.splitlines() if line.startswith(f"  {plan.WORDS[part]}"))
        assert format_bytes(size) in line
    assert format_bytes(report.plan.peak_bytes) in said.out
    assert f"{report.plan.trainable_parameters:,} of {report.plan.total_parameters:,}" in said.out
    places = [said.out.index(name) for name in GPUS]
    assert places == sorted(places)
    assert said.out.index("T4") < said.out.index("H100")
    assert f"largest batch of 400 tokens that fits: {report.largest_batch}\n" in said.out
    assert "change first" not in said.out


def test_the_text_names_what_was_asked(machine, tmp_path):
    machine()
    text = str(
        make_report(
            file_of(tmp_path), "lora", batch_size=3, sequence_length=32, mixed_precision=True,
            gradient_checkpointing=True, optimizer="sgd", dtype="float32",
        )
    )  # fmt: skip
    first = text.splitlines()[0]
    for told in ("lora", "3 x 32", "float32", "autocast", "gradient checkpointing", "sgd"):
        assert told in first


def test_gradients_that_come_after_the_peak_are_told(machine, tmp_path):
    machine()
    report = make_report(file_of(tmp_path), "full", **SIZE)
    late = report.plan.breakdown["gradients"] == 0
    assert late == (f"gradients take {format_bytes(report.plan.gradients_bytes)}" in str(report))
    assert late


def test_the_gpus_are_common_ones_from_small_to_large():
    assert list(GPUS.values()) == sorted(GPUS.values())
    assert any("T4" in name for name in GPUS)
    assert any("H100" in name for name in GPUS)
    for name, gibibytes in GPUS.items():
        sold = int(name.rsplit("(", 1)[1].split()[0])
        assert 0.9 * sold < gibibytes < sold


def test_a_gpu_fits_what_is_left_beside_cuda_itself(machine, tmp_path):
    machine()
    report = make_report(file_of(tmp_path), "full", **SIZE)
    for name, left in report.fits.items():
        assert left == int(GPUS[name] * GIB) - CONTEXT_BYTES - report.plan.peak_bytes
        assert report.to_dict()["gpus"][name] == {"fits": left >= 0, "free_bytes": left}


def test_on_a_gpu_an_encoder_is_predicted_with_fused_attention(machine, tmp_path):
    """Its CPU kernel writes the probabilities down to drop some out; the GPUs' table must not count them."""
    machine()
    options = {"batch_size": 4, "sequence_length": 400}
    report = make_report(file_of(tmp_path, BERT), "full", **options)
    on_gpu = predict_memory(load_config(tmp_path), "full", device="cuda", **options)
    assert report.plan.peak_bytes > 1.2 * on_gpu.peak_bytes
    assert report.fits["T4 (16 GB)"] == int(GPUS["T4 (16 GB)"] * GIB) - CONTEXT_BYTES - on_gpu.peak_bytes
    machine(16 * GIB, "cuda")
    assert make_report(tmp_path, "full", **options).plan.peak_bytes == on_gpu.peak_bytes


@pytest.mark.parametrize(
    ("device", "memory", "room"),
    [
        ("cpu", 5 * GIB, 5 * GIB),
        ("cuda", 16 * GIB, 16 * GIB - CONTEXT_BYTES),
        ("mps", 8 * GIB, 8 * GIB),
        ("cpu", None, None),
        ("cuda", None, None),
    ],
)
def test_the_room_is_what_a_training_may_take(machine, device, memory, room):
    assert room_bytes(machine(memory, device)) == room


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_unknown_memory_is_told_and_not_guessed(machine, tmp_path, device):
    machine(None, device)
    report = make_report(file_of(tmp_path), "full", **SIZE)
    assert (report.room_bytes, report.largest_batch, report.changes) == (None, None, [])
    assert "unknown, so whether this fits is too" in str(report)
    assert "largest batch" not in str(report)
    assert json.loads(json.dumps(report.to_dict()))["machine"]["room_bytes"] is None


def test_the_largest_batch_fits_and_a_bigger_one_does_not(machine, tmp_path):
    options = {"sequence_length": 400}
    path = file_of(tmp_path)
    machine(predict_memory(path, "full", batch_size=10, device="cpu", **options).peak_bytes)
    report = make_report(path, "full", batch_size=4, **options)
    assert report.largest_batch in (9, 10)  # bytes are rounded
    bigger = predict_memory(path, "full", batch_size=report.largest_batch + 2, device="cpu", **options)
    assert bigger.peak_bytes > report.room_bytes


# ---- What to change first --------------------------------------------------------------------------------


def test_what_fits_needs_no_change(machine, tmp_path):
    path = file_of(tmp_path)
    peak = predict_memory(path, "full", device="cpu", **SIZE).peak_bytes
    machine(peak)
    report = make_report(path, "full", **SIZE)
    assert report.changes == []
    assert "  fits in the" in str(report)
    machine(peak - 1)
    report = make_report(path, "full", **SIZE)
    assert report.changes
    assert "  does not fit in the" in str(report)


@pytest.mark.parametrize(
    ("values", "technique"),
    [(LLAMA, "full"), (LLAMA, "lora"), (LLAMA, "prompt"), (BERT, "adapters"), (BERT, "full"), (PHI, "full")],
    ids=lambda each: each if isinstance(each, str) else each["model_type"],
)
def test_each_change_saves_on_top_of_the_ones_before(tmp_path, values, technique):
    config = load_config(file_of(tmp_path, values))
    start = predict_memory(config, technique, device="cpu", **SIZE)
    changes = list(advice(config, start.settings, limit_bytes=0))  # nothing is enough: all of them
    peaks = [start.peak_bytes, *(each.plan.peak_bytes for each in changes)]
    assert peaks == sorted(set(peaks), reverse=True)
    assert [each.keeps_maths for each in changes] == sorted(
        (each.keeps_maths for each in changes), reverse=True
    )
    assert "--batch-size 1" in changes[0].option
    for one, other in itertools.pairwise(changes):
        assert one.plan.settings.batch_size == other.plan.settings.batch_size == 1
        assert not one.plan.settings.gradient_checkpointing or other.plan.settings.gradient_checkpointing
    for limit in peaks[1:]:  # it ends with the first that fits
        enough = list(advice(config, start.settings, limit))
        assert [each.plan.peak_bytes for each in enough] == peaks[1 : peaks.index(limit) + 1]


def test_changes_typed_in_give_what_they_promised(ask, machine, tmp_path):
    machine(1000)
    changes = make_report(file_of(tmp_path), "full", **SIZE).changes
    typed = [word for each in changes for word in each.option.split(" (")[0].split()]
    assert {"--batch-size", "--gradient-checkpointing", "--technique"} <= set(typed)
    said = ask("--config", tmp_path, *TYPED_SIZE, *typed, "--json")
    assert json.loads(said.out)["peak_bytes"] == changes[-1].plan.peak_bytes


def test_a_model_whose_modules_peft_does_not_know_is_advised_too(ask, machine, tmp_path):
    machine(1000)
    said = ask("--config", file_of(tmp_path, PHI), *TYPED_SIZE)
    assert said.code == 0, said.err
    assert "--technique lora --target-modules all-linear" in said.out


def test_where_nothing_helps_it_is_said(machine, tmp_path):
    machine(1000)
    report = make_report(file_of(tmp_path), "full", **SIZE)
    assert report.largest_batch == 0
    assert report.changes[-1].plan.peak_bytes > 1000
    assert "largest batch of 400 tokens that fits: none" in str(report)
    assert "even so it does not fit" in str(report)
    enough = report.changes[-1].plan.peak_bytes
    machine(enough)
    assert "even so" not in str(make_report(tmp_path, "full", **SIZE))


def test_where_nothing_can_be_changed_it_is_said(machine, tmp_path):
    machine(1000)
    options = {"batch_size": 1, "sequence_length": 16, "gradient_checkpointing": True}
    report = make_report(file_of(tmp_path), "qlora", **options)
    assert report.changes == []
    assert "no change of the settings would make it fit" in str(report)


# ---- Published figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("technique", "published", "within"), [("lora", 22.3e9, 0.05), ("full", 38.9e9, 0.06)]
)
def test_published_measurements_are_met(ask, machine, tmp_path, technique, published, within):
    """PEFT's method comparison, Llama-3.2-3B in bfloat16 on rows of 4 x 768: the most memory reserved on the GPU."""
    machine(80 * GIB, "cuda")
    said = ask(
        *("--config", file_of(tmp_path, LLAMA_3B), "--technique", technique, "--r", 32),
        *("--target-modules", "q_proj,v_proj", "--batch-size", 4, "--sequence-length", 768),
        *("--dtype", "bfloat16", "--optimizer", "adamw_torch_fused", "--json"),
    )
    found = json.loads(said.out)
    assert found["peak_bytes"] == pytest.approx(published, rel=within)
    if technique == "lora":
        assert (found["trainable_parameters"], found["total_parameters"]) == (9_175_040, 3_221_924_864)


# ---- What is mistyped ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--technique", "lore"], "'lora'"),
        (["--technique", "prefix"], "prompt"),
        (["--technique", "lora", "--target-modules", "q_porj"], "'q_proj'"),
        (["--technique", "lora", "--target-modules", "q_proj,value"], "v_proj"),
        (["--technique", "adapters", "--placement", "pfeifer"], "'pfeiffer'"),
        (["--technique", "adapters", "--bottleneck", "0"], "bottleneck is 0"),
        (["--technique", "prompt", "--num-virtual-tokens", "-1"], "num_virtual_tokens is -1"),
        (["--technique", "lora", "--r", "0"], "r is 0"),
        (["--optimizer", "adamw_8bits"], "'adamw_8bit'"),
        (["--dtype", "bfloat"], "'bfloat16'"),
        (["--attention", "sdp"], "'sdpa'"),
        (["--task", "causal_lm"], "'causal-lm'"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--sequence-length", "4096"], "--sequence-length 1024"),
        (["--target-length", "-3"], "target_length is -3"),
        (["--target-length", "4096"], "--target-length 1024"),
        (["--task", "sequence-classification", "--num-labels", "0"], "num_labels is 0"),
    ],
)
def test_what_is_mistyped_is_told(ask, machine, tmp_path, typed, told):
    machine()
    refused(ask("--config", file_of(tmp_path), *typed), told)


def refused(said: Said, told: str) -> None:
    """Exit code 1, nothing on stdout, ``told`` and what to do on stderr, in a few lines without a traceback."""
    assert said.code == 1
    assert said.out == ""
    assert told in said.err
    assert "Next: " in said.err
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= 6


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize(
    ("name", "told"),
    [("smolm2", "'smollm2'"), ("minilmm", "'minilm'"), ("nothing.json", "nothing.json"), ("a/b", "b")],
)
def test_a_configuration_that_is_not_there_is_told(ask, machine, name, told, as_json):
    machine()
    refused(ask("--config", name, *as_json), told)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"model_type": "lama"}', '{"model_type": "llama", "num_hidden_layers": 0}']
)
def test_a_file_that_is_no_configuration_is_told(ask, machine, tmp_path, text):
    machine()
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    refused(ask("--config", tmp_path), "config.json")


def test_a_dataset_has_no_model_to_plan(ask, machine, tmp_path, monkeypatch):
    from lessonkit import assets

    machine()
    monkeypatch.setattr(assets, "fetch", lambda name: tmp_path)
    refused(ask("--config", "bbc-news"), "config.json")


def test_without_a_configuration_the_usage_is_shown(ask):
    said = ask("--technique", "lora")
    assert said.code == 2
    assert "--config" in said.err
