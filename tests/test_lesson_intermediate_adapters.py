"""What the lesson on adapters states as fact is computed anew, and its hand-made module is `lessonkit.adapters`'s."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from lesson_source import lesson_text, statement

import lessonkit
from lessonkit.exercises import intermediate_adapters as facts
from lessonkit.exercises import load_exercises

LESSON = "adapters/intermediate"
PLACEMENTS = ("pfeiffer", "houlsby")


@pytest.fixture
def lesson_names(tiny) -> dict:
    """The lesson's own `Adapter`, `insert`, `switch`, ... with what they use."""
    import hashlib

    import torch
    from torch import nn

    from lessonkit.adapters import adapter_parameters, add_adapter, set_active

    names = {
        "hashlib": hashlib,
        "torch": torch,
        "nn": nn,
        "np": np,
        "adapter_parameters": adapter_parameters,
        "add_adapter": add_adapter,
        "set_active": set_active,
        "heads": {},
    }
    for name in ("Adapter", "insert", "my_parameters", "largest", "base_digest", "switch"):
        exec(statement(LESSON, name), names)
    return names


def batch(tiny) -> dict:
    import torch

    rows = tiny.tokenized()[:4]
    padded = tiny.tokenizer.pad(
        {key: rows[key] for key in ("input_ids", "attention_mask")}, return_tensors="pt"
    )
    return {**padded, "labels": torch.tensor(rows["label"])}


def pair(tiny, names: dict, placement: str, bottleneck: int = 6):
    """The hand-made model, the library's with the same weights, and both lists of parameters."""
    import torch

    torch.manual_seed(0)
    by_hand = names["insert"](tiny.model(), bottleneck, placement, std=1.0).eval()
    library = tiny.model().eval()
    names["add_adapter"](library, "topics", bottleneck=bottleneck, placement=placement)
    mine = names["my_parameters"](by_hand)
    theirs = list(names["adapter_parameters"](library, "topics").values())
    with torch.no_grad():
        for parameter, other in zip(theirs, mine, strict=True):
            parameter.copy_(other)
    return by_hand, library, mine, theirs


# ---- Parity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_hand_made_adapters_are_the_librarys_forward_and_backward(tiny, lesson_names, placement):
    by_hand, library, mine, theirs = pair(tiny, lesson_names, placement)
    inputs = batch(tiny)
    one, other, base = by_hand(**inputs), library(**inputs), tiny.model().eval()(**inputs)
    one.loss.backward()
    other.loss.backward()
    assert lesson_names["largest"]([one.logits], [other.logits]) < 1e-6
    assert lesson_names["largest"]([one.logits], [base.logits]) > 1e-4  # the adapters do something
    assert lesson_names["largest"]([p.grad for p in mine], [p.grad for p in theirs]) < 1e-6
    assert max(float(p.grad.abs().max()) for p in mine) > 1e-5  # ten times what may differ
    assert lesson_names["largest"]([by_hand.classifier.weight.grad], [library.classifier.weight.grad]) < 1e-6


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_both_train_the_same_parameters(tiny, lesson_names, placement):
    by_hand, library, mine, _ = pair(tiny, lesson_names, placement)
    counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (by_hand, library)]
    head = sum(p.numel() for p in library.classifier.parameters())
    assert counts[0] == counts[1] == sum(p.numel() for p in mine) + head
    assert len(mine) == 4 * 2 * (1 + (placement == "houlsby"))


def test_the_head_reads_the_mean_of_the_real_tokens(tiny, lesson_names):
    import torch
    from transformers import BertForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutput

    names = {**lesson_names, "BertForSequenceClassification": BertForSequenceClassification}
    names["SequenceClassifierOutput"] = SequenceClassifierOutput
    exec(statement(LESSON, "MeanForSequenceClassification"), names)
    model = names["MeanForSequenceClassification"].from_pretrained(tiny.folder).eval()
    inputs = batch(tiny)
    logits = model(**inputs).logits
    for row, wanted in enumerate(logits):  # each text alone, without padding
        length = int(inputs["attention_mask"][row].sum())
        states = model.bert(inputs["input_ids"][row : row + 1, :length]).last_hidden_state
        torch.testing.assert_close(model.classifier(states[0].mean(0)), wanted, atol=1e-5, rtol=1e-4)
    loss = torch.nn.functional.cross_entropy(logits, inputs["labels"])
    assert float(model(**inputs).loss.detach()) == pytest.approx(float(loss.detach()))


# ---- The start --------------------------------------------------------------------------------------


def gradients_reach(tiny, names: dict, zeroed: tuple[str, ...]) -> set[str]:
    model = names["insert"](tiny.model(), 6, "pfeiffer", std=0.1).eval()
    mine = [each for each in model.modules() if isinstance(each, names["Adapter"])]
    for adapter in mine:
        for name in zeroed:
            names["nn"].init.zeros_(getattr(adapter, name).weight)
    model(**batch(tiny)).loss.backward()
    return {part for part in ("down", "up") for each in mine if (getattr(each, part).weight.grad != 0).any()}


def test_which_starts_can_learn(tiny, lesson_names):
    assert gradients_reach(tiny, lesson_names, ()) == {"down", "up"}
    assert gradients_reach(tiny, lesson_names, ("up",)) == {"up"}
    assert gradients_reach(tiny, lesson_names, ("down",)) == set()
    assert gradients_reach(tiny, lesson_names, ("up", "down")) == set()
    assert load_exercises("intermediate/adapters")["first-gradient"].reference == "b"


def test_the_change_grows_with_the_square_of_the_start(lesson_names):
    torch = lesson_names["torch"]
    h, changes = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0)), []
    for std in (1e-3, 1e-2):
        torch.manual_seed(0)
        adapter = lesson_names["Adapter"](64, 32, std)
        changes.append(float((adapter(h) - h).detach().norm()))
    assert changes[1] / changes[0] == pytest.approx(100, rel=0.01)


# ---- Counts -----------------------------------------------------------------------------------------


def test_the_counts_that_lesson_and_exercises_name(lesson_names):
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(lessonkit.fetch("minilm"), num_labels=8)
    assert (config.num_hidden_layers, config.hidden_size) == (facts.LAYERS, facts.HIDDEN)
    assert config.intermediate_size == 1536  # in the picture
    counted = {}
    for placement, bottleneck in (("pfeiffer", 64), ("houlsby", 64), ("houlsby", 16)):
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
            lesson_names["insert"](model, bottleneck, placement)
        counted[placement, bottleneck] = sum(p.numel() for p in lesson_names["my_parameters"](model))
    assert counted == {
        ("pfeiffer", 64): 6 * 49_600,
        ("houlsby", 64): 12 * 49_600,
        ("houlsby", 16): load_exercises("intermediate/adapters")["count"].reference,
    }
    assert "49,600" in lesson_text(LESSON)


def test_the_formula_of_the_slider(lesson_names):
    from types import SimpleNamespace

    names = {
        "sizes": {"pfeiffer": 1, "houlsby": 2},
        "config": SimpleNamespace(hidden_size=384, num_hidden_layers=6),
    }
    exec(statement(LESSON, "adapter_numbers"), names)
    assert names["adapter_numbers"](64, "pfeiffer") == 297_600
    assert names["adapter_numbers"](16, "houlsby") == facts._numbers(12, 16)


def test_a_width_that_the_exercise_can_be_done_with():
    """Width 8 keeps to the share in MiniLM, 64 does not; BERT-base can take 12."""
    total, head = 22_713_216, 5 * 385
    shares = {m: (facts._numbers(6, m) + head) / (total + head + facts._numbers(6, m)) for m in (8, 64)}
    assert shares[8] < facts.SHARE < shares[64]
    bert, adapters = 109_482_240, 12 * (2 * 768 * 12 + 12 + 768)
    assert (adapters + 5 * 769) / (bert + adapters + 5 * 769) < facts.SHARE


# ---- The shelf --------------------------------------------------------------------------------------


def test_a_switch_takes_adapter_and_head_and_leaves_the_base(tiny, lesson_names):
    torch, names = lesson_names["torch"], lesson_names
    model, inputs = tiny.model().eval(), batch(tiny)
    inputs.pop("labels")
    untouched, alone = names["base_digest"](model), {}
    for name, classes in (("one", 2), ("other", 5)):
        model.classifier = torch.nn.Linear(32, classes)
        names["add_adapter"](model, name, bottleneck=4)
        with torch.no_grad():
            for parameter in names["adapter_parameters"](model, name).values():
                parameter.normal_()
        names["heads"][name] = model.classifier
        alone[name] = model(**inputs).logits.detach()
    for name in ("one", "other", "one"):
        names["switch"](model, name)
        assert torch.equal(model(**inputs).logits, alone[name])
        assert model.classifier is names["heads"][name]
    assert not any(p.requires_grad for key, p in model.named_parameters() if ".adapters." in key)
    assert names["base_digest"](model) == untouched
    model.bert.encoder.layer[0].output.dense.weight.data[0, 0] += 1
    assert names["base_digest"](model) != untouched  # it would be seen


def test_the_stack_exercise_is_what_set_active_does(tiny, lesson_names):
    """Two adapters at one place of a real model, against the reference in NumPy."""
    torch, names = lesson_names["torch"], lesson_names
    model = tiny.model().eval()
    for name in ("low", "high"):
        names["add_adapter"](model, name, bottleneck=4)
        with torch.no_grad():
            for key, parameter in names["adapter_parameters"](model, name).items():
                parameter.zero_() if key.endswith("bias") else parameter.normal_()
    names["set_active"](model, ["low", "high"])
    stack = model.bert.encoder.layer[0].output.dense.adapters
    h = torch.randn(32, generator=torch.Generator().manual_seed(0))
    pairs = [
        tuple(getattr(stack[name], part).weight.detach().numpy().astype(float) for part in ("down", "up"))
        for name in ("low", "high")
    ]
    wanted = facts._stacked_reference(h.numpy().astype(float), copy.deepcopy(pairs))
    assert stack(h).detach().numpy() == pytest.approx(wanted, abs=1e-3)
    assert facts._stacked_reference(h.numpy(), pairs[::-1]) != pytest.approx(wanted, abs=1e-3)


def test_the_validation_texts_of_the_exercise_are_the_lessons():
    rows = lessonkit.load_dataset("bbc-news")["train"].shuffle(seed=0)
    names = {"lessonkit": lessonkit, "TEXTS": {"bbc-news": 8}, "TEST": 8, "tokenize": lambda rows: {}}
    names["VALIDATION"] = facts.BBC_VALIDATION
    exec(statement(LESSON, "prepare"), names)
    splits = names["prepare"]("bbc-news")
    assert list(splits["validation"]["label"]) == facts._validation("laptop").labels
    assert f"laptop={facts.BBC_VALIDATION}" in lesson_text(LESSON)
    assert len(rows) - facts.BBC_VALIDATION >= 1300  # room to train on other texts
    assert not {*splits["train"]["text"]} & {*splits["validation"]["text"]}
    assert f"**{facts.REACH} on the validation texts**" in lesson_text(LESSON)
