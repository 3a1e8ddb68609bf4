"""One formula for three techniques, and the fusion's properties, computed anew with the lesson's own functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lesson_source import lesson_text, statement
from torch import nn
from torch.nn import functional

import lessonkit
from lessonkit.adapters import adapter_parameters, add_adapter, set_active
from lessonkit.exercises import expert_adapters as facts
from lessonkit.exercises import load_exercises

LESSON = "adapters/expert"
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
TASKS = ("wires", "articles", "posts")


@pytest.fixture(scope="module")
def names() -> dict:
    """The lesson's own functions and classes, with what they use."""
    found = {"np": np, "torch": torch, "nn": nn, "F": functional, "PREFIX": 3, "WIDTH": 6, "sets": TASKS}
    found |= {"adapter_parameters": adapter_parameters, "add_adapter": add_adapter, "set_active": set_active}
    for name in ("change", "in_two_parts", "Change", "insert", "averaged", "shuffle", "Fusion", "add_fusion"):
        exec(statement(LESSON, name), found)
    for name in ("drop", "all_tasks", "one_by_one"):
        exec(statement(LESSON, name), found)
    return found


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).detach().abs().max())


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(tiny, rows: int = 4) -> dict:
    some = tiny.tokenized()[:rows]
    return dict(
        tiny.tokenizer.pad({key: some[key] for key in ("input_ids", "attention_mask")}, return_tensors="pt")
    )


def shelf(tiny, spread: float = 0.2):
    """A tiny model with three random adapters, none of them active."""
    model = tiny.model().eval()
    for number, task in enumerate(TASKS):
        add_adapter(model, task, bottleneck=6)
        with torch.no_grad():
            for key, parameter in adapter_parameters(model, task).items():
                parameter.copy_(spread * drawn(*parameter.shape, seed=100 * number + len(key)))
    set_active(model, [], train=[])
    return model


def adapters_of(model, layer: int = 0) -> list[nn.Module]:
    stack = model.bert.encoder.layer[layer].output.dense.adapters
    return [stack[task] for task in TASKS]


# ---- One formula ------------------------------------------------------------------------------------


def test_the_formula_is_the_librarys_adapter_and_pefts_lora(tiny, names):
    from peft import LoraConfig, get_peft_model

    x = drawn(7, 32)
    adapter = adapters_of(shelf(tiny))[0]
    nn.init.zeros_(adapter.down.bias), nn.init.zeros_(adapter.up.bias)
    ours = x + names["change"](x, adapter.down.weight.T, adapter.up.weight.T, torch.relu)
    assert largest(ours, adapter(x)) < 1e-6
    assert largest(ours, x) > 0.1

    config = LoraConfig(r=4, lora_alpha=12, target_modules=["query"], init_lora_weights=False)
    lora = get_peft_model(tiny.model(), config).base_model.model.bert.encoder.layer[0].attention.self.query
    down, up = lora.lora_A["default"].weight.T, lora.lora_B["default"].weight.T
    ours = lora.base_layer(x) + names["change"](x, down, up, s=lora.scaling["default"])
    assert lora.scaling["default"] == 3
    assert largest(ours, lora(x)) < 1e-5


def test_a_prefix_is_a_gated_softmax_adapter(names):
    """He et al. 2022, section 3.1, against PyTorch's attention over prefix and text."""
    x, query, bias = drawn(5, 12), drawn(12, 4, seed=1), drawn(4, seed=2)
    k, v, p_k, p_v = (drawn(rows, 4, seed=seed) for seed, rows in enumerate((5, 5, 3, 3), 3))
    q = x @ query + bias
    attend = functional.scaled_dot_product_attention
    whole = attend(q[None], torch.cat([p_k, k])[None], torch.cat([p_v, v])[None])[0]
    down, b_down = query @ p_k.T / 2, bias @ p_k.T / 2
    lam = facts._gate_reference(x @ down + b_down, q @ k.T / 2)[:, None]
    added = names["change"](x, down, p_v, lambda z: z.softmax(-1), lam, b_down)
    assert largest((1 - lam) * attend(q[None], k[None], v[None])[0] + added, whole) < 1e-6
    assert 0 < float(lam.min()) < float(lam.max()) < 1


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_attention_in_two_parts_is_pefts_prefix_tuning(names, heads):
    """A whole tiny decoder, with causal mask, padding and shared keys."""
    from peft import PrefixTuningConfig, get_peft_model
    from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM
    from transformers.masking_utils import eager_mask

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    config = LlamaConfig(
        **sizes,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        initializer_range=0.2,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).eval()
    words = {"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    words["attention_mask"][1, 5:] = 0
    alone = model(**words).logits
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=names["PREFIX"])
    prefixed = get_peft_model(model, config).eval()
    real = words["attention_mask"].bool()
    library = prefixed(**words).logits[real]
    AttentionInterface.register("in_two_parts", names["in_two_parts"])
    AttentionMaskInterface.register("in_two_parts", eager_mask)
    model.set_attn_implementation("in_two_parts")
    assert largest(prefixed(**words).logits[real], library) < 1e-4
    assert largest(alone[real], library) > 0.1


def test_a_parallel_adapter_is_the_formula_by_hand(tiny, names):
    model = names["insert"](tiny.model(), "parallel", s=4.0).eval()
    layer, x = model.bert.encoder.layer[0], drawn(2, 5, 32)
    start = layer.output(layer.intermediate(x), x)
    nn.init.normal_(layer.change.up.weight, std=0.1)
    h = layer.output.dense(layer.intermediate(x))
    added = 4 * torch.relu(x @ layer.change.down.weight.T) @ layer.change.up.weight.T
    found = layer.output(layer.intermediate(x), x)
    assert largest(found, layer.output.LayerNorm(h + added + x)) < 1e-5
    assert largest(start, layer.output.LayerNorm(h + x)) < 1e-6
    assert largest(found, start) > 0.01


def test_the_sequential_one_is_lessonkits(tiny, names):
    ours, library = names["insert"](tiny.model(), "sequential").eval(), tiny.model().eval()
    add_adapter(library, "any", bottleneck=names["WIDTH"])
    for one, other in zip(ours.bert.encoder.layer, library.bert.encoder.layer, strict=True):
        nn.init.normal_(one.change.up.weight, std=3.0)
        other.output.dense.adapters["any"].load_state_dict(one.change.state_dict())
    inputs = batch(tiny)
    assert largest(ours(**inputs).logits, library(**inputs).logits) < 1e-6
    assert largest(ours(**inputs).logits, tiny.model().eval()(**inputs).logits) > 1e-4


@pytest.mark.parametrize("place", ["sequential", "parallel"])
def test_only_the_change_and_the_head_train(tiny, names, place):
    model = names["insert"](tiny.model(), place)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert all(".change." in name or name.startswith("classifier") for name in trained)
    assert len(trained) == 2 * 4 + 2


# ---- Averaging --------------------------------------------------------------------------------------


def test_the_average_is_the_mean_of_the_numbers_and_not_of_the_outputs(tiny, names):
    model = names["averaged"](shelf(tiny))
    stack, x = model.bert.encoder.layer[0].output.dense.adapters, drawn(6, 32)
    mean = torch.stack([each.down.weight for each in adapters_of(model)]).mean(0)
    assert largest(stack["average"].down.weight, mean) < 1e-7
    outputs = torch.stack([each(x) for each in adapters_of(model)]).mean(0)
    assert largest(stack["average"](x), outputs) > 0.1


def test_shuffled_units_compute_the_same_but_average_to_something_else(tiny, names):
    assert load_exercises("expert/adapters")["shuffled"].reference == "c"
    adapter, x = adapters_of(shelf(tiny))[0], drawn(6, 32)
    before, weights = adapter(x), {key: each.clone() for key, each in adapter.state_dict().items()}
    names["shuffle"](adapter)
    assert largest(adapter.down.weight, weights["down.weight"]) > 0.1
    assert largest(adapter(x), before) < 1e-5
    adapter.load_state_dict({key: (each + weights[key]) / 2 for key, each in adapter.state_dict().items()})
    assert largest(adapter(x), before) > 0.1


# ---- Fusion -----------------------------------------------------------------------------------------


@pytest.fixture
def fusion(tiny, names):
    """Random matrices over three random adapters of width 32."""
    found = names["Fusion"](adapters_of(shelf(tiny)), 32)
    for number, each in enumerate((found.query, found.key, found.value)):
        each.data = drawn(32, 32, seed=number) / 32**0.5
    return found


def test_the_layer_is_the_papers_formula_token_by_token(fusion):
    h = drawn(2, 5, 32, seed=9)
    found, values = fusion(h), torch.eye(32) + fusion.value
    for row in range(2):
        for token in range(5):
            z = torch.stack([adapter(h[row, token]) for adapter in fusion.adapters])
            wanted = facts._fuse_reference(h[row, token], z, fusion.query, fusion.key, values)
            assert largest(found[row, token], wanted) < 1e-4
    assert largest(fusion.weights.sum(-1), torch.ones(2, 5)) < 1e-6


def test_it_starts_as_the_mean_of_the_outputs(tiny, names):
    found, h = names["Fusion"](adapters_of(shelf(tiny)), 32), drawn(4, 32)
    assert largest(found(h), torch.stack([each(h) for each in found.adapters]).mean(0)) < 1e-6
    assert largest(found(h), h) > 0.01


def test_the_adapters_order_does_not_matter(fusion, names):
    h = drawn(4, 32)
    other = names["Fusion"]([fusion.adapters[number] for number in (2, 0, 1)], 32)
    other.query, other.key, other.value = fusion.query, fusion.key, fusion.value
    assert largest(fusion(h), other(h)) < 1e-5


def test_a_single_adapter_at_the_identity_is_that_adapter(fusion, names):
    """ "Check yourself": whatever Q and K."""
    h, alone = drawn(4, 32), names["Fusion"]([fusion.adapters[1]], 32)
    alone.query, alone.key = fusion.query, fusion.key
    assert largest(alone(h), fusion.adapters[1](h)) < 1e-6


def test_large_scores_choose_one_adapter(fusion):
    h = drawn(4, 32)
    fusion.key.data *= 1e4
    fusion.value.data.zero_()
    found, z = fusion(h), torch.stack([each(h) for each in fusion.adapters])
    assert float(fusion.weights.detach().max(-1).values.min()) > 0.999
    assert largest(found, z[fusion.weights.argmax(-1), torch.arange(4)]) < 1e-3


def test_fusion_trains_and_its_adapters_do_not(tiny, names):
    model = names["add_fusion"](shelf(tiny))
    trained = {name for name, each in model.named_parameters() if each.requires_grad and "fusion" in name}
    assert len(trained) == 2 * 3
    model.classifier.requires_grad_(True)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(3):
        model(**batch(tiny), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert trained <= moved
    assert moved <= trained | {"classifier.weight", "classifier.bias"}


def test_weight_decay_pulls_the_values_to_the_identity(fusion):
    before = float(fusion.value.detach().norm())
    optimizer = torch.optim.AdamW([fusion.value], lr=0.1, weight_decay=0.5)
    fusion.value.grad = torch.zeros_like(fusion.value)
    optimizer.step()
    assert float(fusion.value.detach().norm()) == pytest.approx(0.95 * before, rel=1e-4)


# ---- AdapterDrop ------------------------------------------------------------------------------------


def test_a_dropped_adapter_rests_and_nothing_below_needs_a_gradient(tiny, names):
    model, inputs = shelf(tiny, spread=1.0), batch(tiny)
    base = tiny.model().eval()(**inputs).logits
    found = {}
    for n in (0, 1, 2):
        names["drop"](model, n, "posts")
        found[n] = model(**inputs, output_hidden_states=True)
    assert largest(found[2].logits, base) < 1e-6
    assert largest(found[0].logits, found[1].logits) > 1e-5
    for parameter in adapter_parameters(model, "posts").values():
        parameter.requires_grad_(True)
    names["drop"](model, 1, "posts")
    states = model(**inputs, output_hidden_states=True).hidden_states
    assert [each.requires_grad for each in states] == [False, False, True]


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_sharing_the_lower_layers_changes_no_answer(tiny, names, n, attention):
    from transformers import BertForSequenceClassification
    from transformers.modeling_outputs import SequenceClassifierOutput

    own = {**names, "BertForSequenceClassification": BertForSequenceClassification}
    own["SequenceClassifierOutput"] = SequenceClassifierOutput
    exec(statement(LESSON, "MeanForSequenceClassification"), own)
    model = (
        own["MeanForSequenceClassification"]
        .from_pretrained(tiny.folder, attn_implementation=attention)
        .eval()
    )
    for number, task in enumerate(TASKS):
        add_adapter(model, task, bottleneck=6)
        for parameter in adapter_parameters(model, task).values():
            parameter.data = drawn(*parameter.shape, seed=number)
    inputs = batch(tiny)
    inputs["attention_mask"][0, 3:] = 0
    shared, apart = names["all_tasks"](model, inputs, n), names["one_by_one"](model, inputs, n)
    for task in TASKS:
        assert largest(shared[task], apart[task]) < 1e-5
    assert (largest(shared["wires"], shared["posts"]) > 1e-5) == (n < 2)


# ---- What the exercises state -----------------------------------------------------------------------


def test_the_share_that_is_left():
    layers, dropped, tasks = 6, 4, 3
    passes = dropped + tasks * (layers - dropped)
    assert load_exercises("expert/adapters")["shared"].reference == passes / (tasks * layers)


def test_a_gate_without_logsumexp_overflows():
    prefix, text = torch.tensor([300.0, 299.0]), torch.tensor([301.0])
    assert torch.isnan(facts._gate_overflows(prefix, text))
    assert float(facts._gate_reference(prefix, text)) == pytest.approx(0.3348, abs=1e-4)


def test_the_validation_texts_of_the_exercise_are_the_lessons():
    text = lesson_text(LESSON)
    sizes = {
        "TRAIN_TEXTS": (facts.SMOKE_TRAIN, facts.TRAIN),
        "VALIDATION_TEXTS": (facts.SMOKE_VALIDATION, facts.VALIDATION),
    }
    for name, (smoke, laptop) in sizes.items():
        assert f"{name} = lesson.pick(smoke={smoke}, laptop={laptop}, gpu={laptop})" in text
    counts = [
        lessonkit.load_dataset(name)["train"].features["label"].num_classes
        for name in ("reuters-r8", "bbc-news")
    ]
    assert sum(counts) == facts.OFFSET
    rows = lessonkit.load_dataset("20newsgroups")["train"].shuffle(seed=0)
    first = facts.TRAIN
    wanted = rows.select(range(first, first + facts.VALIDATION))["label"]
    assert facts._validation("laptop").labels == [facts.OFFSET + each for each in wanted]
    assert f"**{facts.REACH} on the validation texts**" in text
    rest = range(first + facts.VALIDATION, first + facts.VALIDATION + 3000)  # the worked answer's own texts
    assert len(rows) > rest.stop
