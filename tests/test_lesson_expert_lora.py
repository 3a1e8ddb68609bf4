"""The lesson's own LoRA is PEFT's, and what it states of PEFT is so."""

from __future__ import annotations

import inspect
import math
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from lesson_source import lesson_text, statement
from torch import nn
from torch.nn import functional

import lessonkit
from lessonkit.exercises import expert_lora as facts
from lessonkit.exercises import load_exercises

LESSON = "lora/expert"
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def names() -> dict:
    """The lesson's functions that build, merge and serve LoRA."""
    import bitsandbytes
    from peft.tuners.lora import Linear

    found = {"bnb": bitsandbytes, "PeftLinear": Linear}
    found |= {"math": math, "torch": torch, "nn": nn, "F": functional, "deepcopy": deepcopy}
    for name in (
        "LoRALinear",
        "merge",
        "unmerge",
        "add_lora",
        "layers_of",
        "everything",
        "nf4",
        "loftq",
        "ManyLoRA",
        "gathered",
    ):
        exec(statement(LESSON, name), found)
    return found


class Net(nn.Module):
    """Two targets and a layer that is none, of unequal widths."""

    def __init__(self, bias: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.query = nn.Linear(12, 10, bias=bias)
        self.other = nn.Linear(10, 6)
        self.value = nn.Linear(6, 9, bias=bias)
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value(torch.tanh(self.other(self.query(x))))


def peft_model(base: nn.Module, names: tuple[str, ...] = ("default",), **options):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]} | options)
    model = get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model


def twins(names: dict, bias: bool, r: int, dtype: torch.dtype, dropout: float = 0.0):
    torch.manual_seed(r)
    base = Net(bias, dtype)
    library = peft_model(
        deepcopy(base), r=r, lora_alpha=2 * r + 1, lora_dropout=dropout, init_lora_weights=False
    )
    hand = names["add_lora"](deepcopy(base), ["query", "value"], r, 2 * r + 1, dropout)
    pairs = list(
        zip(
            names["layers_of"](hand, names["LoRALinear"]),
            names["layers_of"](library, names["PeftLinear"]),
            strict=True,
        )
    )
    assert len(pairs) == 2
    for ours, theirs in pairs:
        ours.A.data.copy_(theirs.lora_A["default"].weight)
        ours.B.data.copy_(theirs.lora_B["default"].weight)
    return hand, library, pairs


def close(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> None:
    bound = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=bound, atol=bound)


# ---- Parity with PEFT -------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("r", [1, 4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_layer_is_pefts(names, bias, r, dtype, dropout):
    hand, library, pairs = twins(names, bias, r, dtype, dropout)
    given = torch.randn(5, 3, 12).to(dtype)
    first, second = given.clone().requires_grad_(), given.clone().requires_grad_()
    torch.manual_seed(0)
    ours = hand(first)
    torch.manual_seed(0)
    theirs = library(second)
    assert ours.dtype == theirs.dtype == dtype
    close(ours, theirs, dtype)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    close(first.grad, second.grad, dtype)
    for one, other in pairs:
        for mine, its in ((one.A, other.lora_A["default"].weight), (one.B, other.lora_B["default"].weight)):
            assert mine.grad.abs().max() > 0
            close(mine.grad, its.grad, dtype)
        assert one.base.weight.grad is None
    assert sum(p.requires_grad for p in hand.parameters()) == 4


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("r", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_merging_and_unmerging_are_pefts(names, bias, r, dtype):
    hand, library, pairs = twins(names, bias, r, dtype)
    given = torch.randn(5, 12).to(dtype)
    for model in (hand, library):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            model(given).square().mean().backward()
            optimizer.step()
    apart = hand(given).detach()
    for ours, theirs in pairs:
        before = ours.base.weight.clone()
        close(ours.A, theirs.lora_A["default"].weight, dtype)
        close(ours.B, theirs.lora_B["default"].weight, dtype)
        for _ in range(2):  # merging twice is merging once
            names["merge"](ours)
        theirs.merge()
        assert (ours.base.weight - before).abs().max() > 0.01
        close(ours.base.weight, theirs.base_layer.weight, dtype)
    close(hand(given), library(given), dtype)
    rounding = 1e-6 if dtype == torch.float32 else 5e-2  # merging rounds W
    torch.testing.assert_close(hand(given).detach(), apart, rtol=rounding, atol=rounding)
    for ours, theirs in pairs:
        for _ in range(2):
            names["unmerge"](ours)
        theirs.unmerge()
        close(ours.base.weight, theirs.base_layer.weight, dtype)
    torch.testing.assert_close(hand(given).detach(), apart, rtol=rounding, atol=rounding)


def test_the_comparison_that_the_lesson_prints_sees_a_difference(names, tiny):
    rows = tiny.tokenized().select(range(4))
    from transformers import DataCollatorWithPadding

    batch = DataCollatorWithPadding(tiny.tokenizer)([rows[number] for number in range(4)])

    def seen(scale: float) -> dict:
        model = names["add_lora"](tiny.model().eval(), ["query", "value"], 4, 8)
        torch.manual_seed(0)
        layers = names["layers_of"](model, names["LoRALinear"])
        for layer in layers:
            nn.init.normal_(layer.A)
            nn.init.normal_(layer.B, std=0.1)
            layer.scaling *= scale
        return names["everything"](
            model,
            [(each.A, each.B, each.base.weight, partial(names["merge"], each)) for each in layers],
            batch,
        )

    first, same, other = seen(1.0), seen(1.0), seen(1.01)
    assert list(first) == list(same)
    for what, numbers in first.items():
        assert torch.equal(numbers, same[what]), what
        assert not torch.equal(numbers, other[what]), what


def test_a_fresh_adapter_changes_nothing(names, tiny):
    ids = torch.arange(10, 20)[None]
    plain = tiny.model().eval()
    adapted = names["add_lora"](tiny.model().eval(), ["query", "value"], 4, 8)
    assert torch.equal(plain(ids).logits, adapted(ids).logits)
    theirs = peft_model(tiny.model())
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (adapted, theirs)]
    assert counts[0] == counts[1] > 0


# ---- Beginnings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("alpha", [4, 8])
def test_the_start_adds_up_to_the_weight(names, start, alpha):
    base = Net(True)
    weights = [base.query.weight.clone(), base.value.weight.clone()]
    layers = names["layers_of"](
        peft_model(base, init_lora_weights=start, lora_alpha=alpha), names["PeftLinear"]
    )
    for layer, weight in zip(layers, weights, strict=True):
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        scaled = layer.scaling["default"] * product
        torch.testing.assert_close(layer.base_layer.weight + scaled, weight, atol=1e-6, rtol=1e-5)
        assert scaled.norm() > 0.1 * weight.norm()


def test_the_pissa_of_the_exercise_is_pefts(names):
    base = Net(True)
    weight = base.query.weight.detach().clone()
    layer = names["layers_of"](peft_model(base, init_lora_weights="pissa"), names["PeftLinear"])[0]
    rest, a, b = facts._pissa_reference(weight, 4, 2.0)
    torch.testing.assert_close(rest, layer.base_layer.weight.detach(), atol=1e-5, rtol=1e-4)
    theirs = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    torch.testing.assert_close(b @ a, theirs[1] @ theirs[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.abs(), theirs[0].abs(), atol=1e-4, rtol=1e-3)


def error(weight, rest, a, b, s) -> float:
    return ((weight - rest - s * b @ a).norm() / weight.norm()).item()


@pytest.mark.parametrize("r", [1, 8, 32])
def test_loftq_is_nearer_than_nf4_and_not_if_twice_added(names, r):
    torch.manual_seed(r)
    weight = torch.randn(64, 128) / 8
    alone = ((weight - names["nf4"](weight)).norm() / weight.norm()).item()
    once = error(weight, *names["loftq"](weight, r, 2.0), 2.0)
    rounds = error(weight, *names["loftq"](weight, r, 2.0, rounds=5), 2.0)
    assert rounds < once < alone
    undivided = names["loftq"](weight, r, 1.0)
    assert error(weight, *undivided, 2.0) == pytest.approx(alone, rel=1e-4)
    assert error(weight, *undivided, 4.0) > alone


def test_pefts_loftq_does_not_divide_by_the_scaling(names, monkeypatch):
    """PEFT computes on "cuda" whatever the machine; its own source, with that word replaced, runs here."""
    from peft.tuners.lora import layer as module
    from peft.utils import loftq_utils

    source = inspect.getsource(loftq_utils.loftq_init)
    assert '"cuda"' in source
    scope = dict(vars(loftq_utils))
    exec(source[source.index("@torch") :].replace('"cuda"', '"cpu"'), scope)
    monkeypatch.setattr(module, "loftq_init", scope["loftq_init"])
    errors = {}
    for alpha in (4, 8):
        torch.manual_seed(0)
        base = Net(True)
        base.query = nn.Linear(64, 64)
        weight = base.query.weight.detach().clone()
        model = peft_model(
            base,
            lora_alpha=alpha,
            target_modules=["query"],
            init_lora_weights="loftq",
            loftq_config={"loftq_bits": 4, "loftq_iter": 1},
        )
        found = names["layers_of"](model, names["PeftLinear"])[0]
        a, b = found.lora_A["default"].weight, found.lora_B["default"].weight
        errors[alpha] = error(weight, found.base_layer.weight, a, b, found.scaling["default"])
    alone = ((weight - names["nf4"](weight)).norm() / weight.norm()).item()
    assert errors[4] < 0.98 * alone  # lora_alpha = r
    assert errors[8] == pytest.approx(alone, rel=1e-3)  # lora_alpha = 2 r


def test_the_parameter_groups_of_lora_plus(tiny):
    from peft.optimizers import create_loraplus_optimizer

    model = peft_model(tiny.model())
    model.base_model.model.classifier.requires_grad_(True)
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=0.001, loraplus_lr_ratio=4)
    named = {parameter: name for name, parameter in model.named_parameters()}
    rates = {named[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert set(rates) == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, rate in rates.items():
        larger = "lora_B" in name or name.endswith("classifier.bias")
        assert rate == pytest.approx(0.004 if larger else 0.001), name


# ---- Merging ----------------------------------------------------------------------------------------

TASKS = ("one task", "two task", "six task")


@pytest.fixture
def merged(names):
    torch.manual_seed(0)
    model = peft_model(Net(True), TASKS, init_lora_weights=False)
    for way in ("cat", "linear"):
        model.add_weighted_adapter(list(TASKS), [1.0, 1.0, 1.0], way, combination_type=way)
    return names["layers_of"](model, names["PeftLinear"])


def test_cat_is_the_sum_of_the_products_and_linear_is_not(merged):
    for layer in merged:
        parts = [(layer.lora_B[task].weight, layer.lora_A[task].weight) for task in TASKS]
        wanted = 2 * sum(b @ a for b, a in parts)
        crossed = 2 * sum(b for b, _ in parts) @ sum(a for _, a in parts)
        torch.testing.assert_close(layer.get_delta_weight("cat"), wanted)
        torch.testing.assert_close(layer.get_delta_weight("linear"), crossed)
        assert (crossed - wanted).norm() > 0.5 * wanted.norm()
        assert layer.r["cat"] == 3 * layer.r["linear"] == 12


def test_two_heads_cannot_be_merged(tiny):
    model = peft_model(tiny.model(), ("one", "two"), task_type="SEQ_CLS")
    with pytest.raises(ValueError, match="modules_to_save"):
        model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "both", combination_type="cat")


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights")
def test_a_second_pissa_adapter_spoils_the_first_and_the_conversion_cures(tiny, tmp_path):
    from peft import PeftModel

    ids = torch.arange(10, 20)[None]
    model = peft_model(tiny.model(), init_lora_weights="pissa").eval()
    model.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 0.05
    model.save_pretrained(tmp_path / "pissa")
    model.save_pretrained(
        tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    wanted = model(ids).logits
    for kind, spoilt in (("pissa", True), ("plain", False)):
        loaded = PeftModel.from_pretrained(tiny.model(), tmp_path / kind).eval()
        torch.testing.assert_close(loaded(ids).logits, wanted, atol=1e-5, rtol=1e-4)
        loaded.load_adapter(tmp_path / kind, "second")
        assert (not torch.allclose(loaded.eval()(ids).logits, wanted, atol=1e-5)) == spoilt
        assert loaded.peft_config["default"].r == (4 if spoilt else 8)


def test_a_bf16_training_leaves_autocast_around_forward_until_unwrapped(tiny, tmp_path):
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    model = peft_model(tiny.model())
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, bf16=True, use_cpu=True, report_to="none", save_strategy="no"
    )
    collator = DataCollatorWithPadding(tiny.tokenizer)
    trainer = Trainer(model, arguments, train_dataset=tiny.tokenized(), data_collator=collator)
    lessonkit.run(trainer)
    ids = torch.arange(10, 20)[None]
    exact = model.eval().base_model.model(ids).logits
    assert not torch.equal(model(input_ids=ids).logits, exact)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    assert torch.equal(model(input_ids=ids).logits, exact)


# ---- Serving ----------------------------------------------------------------------------------------


def test_one_batch_with_several_adapters_is_each_row_alone(names, tiny):
    torch.manual_seed(0)
    model = peft_model(tiny.model(), TASKS, init_lora_weights=False).eval()
    ids = torch.randint(5, 90, (6, 9))
    which = torch.tensor([2, 0, 0, 1, 2, 1])
    wanted = [TASKS[number] for number in which]
    with torch.inference_mode():
        mixed = model(input_ids=ids, adapter_names=wanted).logits
        alone = []
        for number, task in enumerate(wanted):
            model.set_adapter(task)
            alone.append(model(input_ids=ids[number : number + 1]).logits)
        hand = names["gathered"](model, list(TASKS), {"now": which})(input_ids=ids).logits
        other = names["gathered"](model, list(TASKS), {"now": which.flip(0)})(input_ids=ids).logits
    torch.testing.assert_close(mixed, torch.cat(alone), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hand, mixed, atol=1e-5, rtol=1e-4)
    assert (other - hand).abs().max() > 1e-3


def test_the_exercise_on_many_adapters_is_what_the_lesson_serves(names):
    for x, a, b, which, scaling in facts._many_cases():
        served = names["ManyLoRA"].__new__(names["ManyLoRA"])
        nn.Module.__init__(served)
        served.base, served.rows = nn.Linear(x.shape[1], b.shape[1], dtype=x.dtype), {"now": which}
        served.A, served.B = scaling * a, b
        added = (served(x[:, None]) - served.base(x[:, None]))[:, 0]
        torch.testing.assert_close(added, facts._many_reference(x, a, b, which, scaling))


# ---- The data ---------------------------------------------------------------------------------------


def test_the_exercise_judges_on_the_lessons_validation_texts():
    text = lesson_text(LESSON)
    assert "TRAIN_TEXTS = lesson.pick(smoke=48, laptop=320, gpu=1600)" in text
    assert "VALIDATION_TEXTS = lesson.pick(smoke=16, laptop=200, gpu=160)" in text
    for scale, count in (("smoke", 16), ("laptop", 200), ("gpu", 160)):
        labels = facts._validation(scale).labels
        assert {task: len(each) for task, each in labels.items()} == dict.fromkeys(facts.TASKS, count)
    assert np.min(labels["articles"]) >= 8
    assert np.max(labels["posts"]) == 32


def test_the_exercise_states_its_bar():
    exercise = load_exercises("expert/lora")["merge"]
    assert f"accuracy of **{exercise.bar['laptop']}** over" in lesson_text(LESSON)
