"""What suits a machine is what its libraries take, and every choice says why."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from lessonkit.hardware import GIB, Hardware, detect_hardware
from lessonkit.training.arguments import Arguments, model_arguments, training_arguments


def machine(device: str, dtype: str, capability: tuple[int, int] | None = None) -> Hardware:
    return Hardware(
        device=device,
        device_name=f"some {device}",
        device_count=int(device == "cuda"),
        compute_capability=capability,
        memory_total_bytes=8 * GIB,
        memory_free_bytes=5 * GIB,
        cpu_name="some processor",
        cpu_cores=2,
        cpu_features=(),
        ram_total_bytes=8 * GIB,
        dtype=dtype,
        scale="laptop",
        threads=1,
        attention="eager" if device == "cpu" else "sdpa",
        reasons={
            name: f"the reason of {name}" for name in ("device", "dtype", "scale", "threads", "attention")
        },
    )


MACHINES = {
    "T4": machine("cuda", "float16", (7, 5)),
    "A100": machine("cuda", "bfloat16", (8, 0)),
    "H100": machine("cuda", "bfloat16", (9, 0)),
    "old GPU": machine("cuda", "float32", (6, 1)),
    "AMD GPU": machine("cuda", "bfloat16", None),
    "Apple": machine("mps", "float32"),
    "CPU": machine("cpu", "float32"),
    "CPU with bf16": machine("cpu", "bfloat16"),
}
EVERY = pytest.mark.parametrize("hardware", MACHINES.values(), ids=MACHINES)


@EVERY
def test_every_argument_is_one_of_transformers_and_has_a_reason(hardware):
    from transformers import TrainingArguments

    chosen = training_arguments(hardware)
    assert chosen.keys() <= {each.name for each in dataclasses.fields(TrainingArguments) if each.init}
    for arguments in (chosen, model_arguments(hardware), model_arguments(hardware, frozen=True)):
        assert arguments.reasons.keys() == arguments.keys()
        assert all(reason and reason != "yours" for reason in arguments.reasons.values())


@EVERY
def test_mixed_precision_is_what_the_hardware_has(hardware):
    chosen = training_arguments(hardware)
    assert chosen.get("bf16", False) == (hardware.dtype == "bfloat16")
    assert chosen.get("fp16", False) == (hardware.dtype == "float16")
    for name in ("bf16", "fp16"):
        assert "the reason of dtype" in chosen.reasons.get(name, "the reason of dtype")


@pytest.mark.parametrize(
    ("name", "tf32"),
    [
        *(("A100", True), ("H100", True)),
        *((name, False) for name in ("T4", "AMD GPU", "old GPU", "Apple", "CPU", "CPU with bf16")),
    ],
)
def test_tf32_is_asked_for_where_it_is_not_refused(name, tf32):
    assert training_arguments(MACHINES[name]).get("tf32", False) == tf32


@EVERY
def test_the_processor_is_asked_for_only_without_a_gpu(hardware):
    chosen = training_arguments(hardware)
    assert chosen.get("use_cpu", False) == (hardware.device == "cpu")
    assert chosen["dataloader_pin_memory"] == (hardware.device == "cuda")


@EVERY
@pytest.mark.parametrize("frozen", [False, True])
def test_weights_that_are_trained_are_in_float32(hardware, frozen):
    chosen = model_arguments(hardware, frozen=frozen)
    assert chosen["dtype"] == (hardware.dtype if frozen else "float32")
    assert chosen["attn_implementation"] == hardware.attention


def test_a_trained_head_in_float16_is_warned_of():
    """PEFT leaves a classification head in the model's dtype, and the gradient scaler refuses float16."""
    assert "classifier.float()" in model_arguments(MACHINES["T4"], frozen=True).reasons["dtype"]
    assert "classifier" not in model_arguments(MACHINES["T4"]).reasons["dtype"]
    assert "classifier" not in model_arguments(MACHINES["A100"], frozen=True).reasons["dtype"]


@pytest.mark.parametrize("name", ["CPU", "CPU with bf16"])
def test_a_model_learns_with_them(name, tiny, tmp_path):
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    hardware = MACHINES[name]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        disable_tqdm=True,
        **training_arguments(hardware),
    )
    assert arguments.bf16 == hardware.bf16
    model = AutoModelForSequenceClassification.from_pretrained(tiny.folder, **model_arguments(hardware))
    before = [each.detach().clone() for each in model.parameters()]
    trainer = Trainer(
        model,
        arguments,
        train_dataset=tiny.tokenized(),
        data_collator=DataCollatorWithPadding(tiny.tokenizer),
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_this_machine_takes_what_is_chosen_for_it(tmp_path):
    from transformers import TrainingArguments

    arguments = TrainingArguments(str(tmp_path), **training_arguments())
    assert arguments.bf16 == detect_hardware().bf16


def test_a_frozen_model_loads_in_what_the_machine_computes_in(tiny):
    import torch
    from transformers import AutoModelForSequenceClassification

    chosen = model_arguments(MACHINES["CPU with bf16"], frozen=True)
    assert AutoModelForSequenceClassification.from_pretrained(tiny.folder, **chosen).dtype == torch.bfloat16


CHANGES = {
    "new entry": lambda arguments: arguments.__setitem__("learning_rate", 1e-3),
    "other value": lambda arguments: arguments.__setitem__("optim", "sgd"),
    "update": lambda arguments: arguments.update(optim="adafactor"),
    "in place": lambda arguments: arguments.__ior__({"warmup_steps": 3}),
    "default": lambda arguments: arguments.setdefault("seed", 7),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_learner_changes_is_shown_as_theirs(change):
    arguments = training_arguments(MACHINES["CPU"])
    before = dict(arguments)
    change(arguments)
    for name, value in arguments.items():
        mine = before.get(name) != value
        assert (arguments.reasons[name] == "yours") == mine
        line = next(line for line in repr(arguments).splitlines() if line.startswith(f"{name}="))
        assert line.startswith(f"{name}={value!r} ")
        assert line.endswith("# yours") == mine
    assert repr(arguments).count("# yours") == arguments._repr_html_().count(">yours<") == 1


def test_what_the_learner_takes_out_is_gone():
    arguments = training_arguments(MACHINES["CPU"])
    del arguments["optim"]
    assert "optim" not in arguments.reasons
    assert "optim" not in repr(arguments) + arguments._repr_html_()


def test_signs_are_shown_and_not_obeyed():
    arguments = Arguments({"name": ("<b>&'\"", "<script>alert(1)</script>")})
    shown = arguments._repr_html_()
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert "&lt;b&gt;&amp;" in shown
    assert "<script>alert(1)</script>" in repr(arguments)
    assert repr(Arguments({})) == ""


def test_they_are_a_plain_dictionary_for_everything_else():
    arguments = training_arguments(MACHINES["A100"])
    plain = dict(arguments)
    assert type(plain) is dict
    assert plain == arguments
    assert (lambda **options: options)(**arguments) == plain
    for twin in (copy.copy(arguments), copy.deepcopy(arguments), pickle.loads(pickle.dumps(arguments))):
        assert (twin, repr(twin)) == (arguments, repr(arguments))


def test_two_answers_do_not_share_a_change():
    one, other = (training_arguments(MACHINES["CPU"]) for _ in range(2))
    one["optim"] = "sgd"
    assert other["optim"] != "sgd"
