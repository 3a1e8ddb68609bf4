"""Adapters start as the identity, learn alone, and leave the model as they found it."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lessonkit import adapters
from lessonkit.adapters import (
    active_adapters,
    adapter_parameters,
    add_adapter,
    count_parameters,
    disable_adapters,
    list_adapters,
    load_adapter,
    remove_adapter,
    save_adapter,
    set_active,
)
from lessonkit.adapters.places import find_places
from lessonkit.errors import LessonkitError, ModelError, UnknownNameError

HIDDEN, LAYERS, VOCABULARY = 16, 2, 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 1}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
T5_SIZES = {
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": LAYERS,
    "num_heads": 2,
    "vocab_size": VOCABULARY,
}
CLASSIFY, GENERATE = "ForSequenceClassification", "ForCausalLM"


@dataclass(frozen=True)
class Family:
    """A tiny model: its classes' prefix and task, its sizes, and where the two projections of layer 0 are."""

    prefix: str
    task: str
    attention: str
    feed_forward: str
    sizes: dict[str, Any] = field(default_factory=lambda: SIZES)
    layers: int = LAYERS

    def model(self) -> transformers.PreTrainedModel:
        """The same weights each time, in eval mode."""
        kind = "Gemma3Text" if self.prefix == "Gemma3" else self.prefix
        config = getattr(transformers, f"{kind}Config")(**self.sizes, attn_implementation="eager")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(transformers, self.prefix + self.task)(config)
            for parameter in model.parameters():  # biases that start at zero would hide mistakes
                parameter.data += 0.05 * torch.randn_like(parameter)
        return model.eval()


BERT_OUTPUTS = ("attention.output.dense", "output.dense")
LLAMA_OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")


def inside(layer: str, attention: str, feed_forward: str) -> tuple[str, str]:
    return f"{layer}.{attention}", f"{layer}.{feed_forward}"


FAMILIES = {
    "bert": Family("Bert", CLASSIFY, *inside("bert.encoder.layer.0", *BERT_OUTPUTS)),
    "roberta": Family("Roberta", CLASSIFY, *inside("roberta.encoder.layer.0", *BERT_OUTPUTS)),
    "electra": Family(
        "Electra",
        CLASSIFY,
        *inside("electra.encoder.layer.0", *BERT_OUTPUTS),
        SIZES | {"embedding_size": 8},
    ),
    "deberta-v2": Family("DebertaV2", CLASSIFY, *inside("deberta.encoder.layer.0", *BERT_OUTPUTS)),
    "distilbert": Family(
        "DistilBert",
        CLASSIFY,
        *inside("distilbert.transformer.layer.0", "attention.out_lin", "ffn.lin2"),
        {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 32, "vocab_size": VOCABULARY},
    ),
    "albert": Family(
        "Albert",
        CLASSIFY,
        *inside("albert.encoder.albert_layer_groups.0.albert_layers.0", "attention.dense", "ffn_output"),
        SIZES | {"embedding_size": 8},
        layers=1,
    ),
    "mpnet": Family("MPNet", CLASSIFY, *inside("mpnet.encoder.layer.0", "attention.attn.o", "output.dense")),
    "modernbert": Family(
        "ModernBert",
        CLASSIFY,
        *inside("model.layers.0", "attn.Wo", "mlp.Wo"),
        SIZES | {"attention_bias": True, "mlp_bias": True, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "gpt2": Family("GPT2", "LMHeadModel", *inside("transformer.h.0", "attn.c_proj", "mlp.c_proj")),
    "opt": Family(
        "OPT",
        GENERATE,
        *inside("model.decoder.layers.0", "self_attn.out_proj", "fc2"),
        SIZES | {"ffn_dim": 32, "word_embed_proj_dim": HIDDEN},
    ),
    "llama": Family(
        "Llama",
        GENERATE,
        *inside("model.layers.0", *LLAMA_OUTPUTS),
        GROUPED | {"attention_bias": True, "mlp_bias": True},
    ),
    "mistral": Family("Mistral", GENERATE, *inside("model.layers.0", *LLAMA_OUTPUTS), GROUPED),
    "qwen2": Family("Qwen2", GENERATE, *inside("model.layers.0", *LLAMA_OUTPUTS), GROUPED),
    "qwen3": Family("Qwen3", GENERATE, *inside("model.layers.0", *LLAMA_OUTPUTS), GROUPED | {"head_dim": 8}),
    "gemma2": Family(
        "Gemma2", GENERATE, *inside("model.layers.0", *LLAMA_OUTPUTS), GROUPED | {"head_dim": 8}
    ),
    "gemma3": Family(
        "Gemma3", GENERATE, *inside("model.layers.0", *LLAMA_OUTPUTS), GROUPED | {"head_dim": 8}
    ),
    "phi3": Family("Phi3", GENERATE, *inside("model.layers.0", *LLAMA_OUTPUTS), GROUPED),
    "gpt-neox": Family(
        "GPTNeoX", GENERATE, *inside("gpt_neox.layers.0", "attention.dense", "mlp.dense_4h_to_h")
    ),
    "bloom": Family(
        "Bloom", GENERATE, *inside("transformer.h.0", "self_attention.dense", "mlp.dense_4h_to_h"), SIZES
    ),
    "falcon": Family(
        "Falcon",
        GENERATE,
        *inside("transformer.h.0", "self_attention.dense", "mlp.dense_4h_to_h"),
        SIZES | {"bias": True},
    ),
    "mixtral": Family(
        "Mixtral", GENERATE, *inside("model.layers.0", "self_attn.o_proj", "mlp"), GROUPED | EXPERTS
    ),
    "gpt-oss": Family(
        "GptOss",
        GENERATE,
        *inside("model.layers.0", "self_attn.o_proj", "mlp"),
        GROUPED | EXPERTS | {"head_dim": 8},
    ),
    "t5": Family(
        "T5",
        CLASSIFY,
        *inside("transformer.encoder.block.0", "layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"),
        T5_SIZES | {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0},
        layers=2 * LAYERS,
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
both_placements = pytest.mark.parametrize("placement", ["pfeiffer", "houlsby"])


def inputs() -> dict[str, torch.Tensor]:
    tokens = torch.tensor([[5, 6, 7, 8, 9, 2], [10, 11, 12, 13, 14, 2]])  # T5 wants one end token a row
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def logits(model: nn.Module, **changes: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**(inputs() | changes)).logits


def loss(model: nn.Module) -> torch.Tensor:
    batch = inputs()
    classes = "Classification" in type(model).__name__
    return model(**batch, labels=torch.tensor([0, 1]) if classes else batch["input_ids"]).loss


def train(model: nn.Module, steps: int = 3, lr: float = 0.05) -> None:
    """A few steps, without dropout, on whatever is trainable."""
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


def scramble(model: nn.Module, name: str, seed: int = 1) -> None:
    """Give an adapter weights as if it had learned something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(model, name).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


def bert() -> transformers.PreTrainedModel:
    return FAMILIES["bert"].model()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: each.clone() for key, each in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# where they go


@both_placements
@every_family
def test_a_new_adapter_changes_nothing_at_all(family: Family, placement: str):
    model = family.model()
    before = logits(model)
    add_adapter(model, "news", 4, placement)
    assert torch.equal(logits(model), before)


@both_placements
@every_family
def test_parameter_count_is_the_formula(family: Family, placement: str):
    model = family.model()
    before = sum(each.numel() for each in model.parameters())
    add_adapter(model, "news", 4, placement)
    places = family.layers * (2 if placement == "houlsby" else 1)
    counts = count_parameters(model)
    assert counts.adapters == {"news": places * (2 * HIDDEN * 4 + 4 + HIDDEN)}
    assert counts.total == before + counts.adapters["news"]
    assert counts.trainable == counts.adapters["news"] + counts.head
    assert (counts.head > 0) == (family.task == CLASSIFY)


@pytest.mark.parametrize("kind", ["attention", "feed_forward"])
@every_family
def test_the_adapter_is_on_the_projections_output(family: Family, kind: str):
    """One that adds a constant equals a base model whose projection adds that constant."""
    shift = torch.linspace(-1, 1, HIDDEN)
    plain, model = family.model(), family.model()
    add_adapter(model, "news", 4, "houlsby", layers=[0])
    with torch.no_grad():
        adapter_parameters(model, "news")[f"layers.0.{kind}.up.bias"].copy_(shift)

    def add_constant(_: nn.Module, __: tuple, output: Any) -> Any:
        return (output[0] + shift, *output[1:]) if isinstance(output, tuple) else output + shift

    plain.get_submodule(getattr(family, kind)).register_forward_hook(add_constant)
    assert torch.allclose(logits(model), logits(plain), atol=1e-6)
    assert not torch.allclose(logits(model), logits(family.model()), atol=1e-4)


def test_projections_are_a_fact_of_the_weights_too():
    """The test above trusts hooks; here the base model's own bias is shifted."""
    shift = torch.linspace(-1, 1, HIDDEN)
    plain, model = bert(), bert()
    add_adapter(model, "news", 4)
    with torch.no_grad():
        for layer in range(LAYERS):
            adapter_parameters(model, "news")[f"layers.{layer}.feed_forward.up.bias"].copy_(shift)
            plain.bert.encoder.layer[layer].output.dense.bias += shift
    assert torch.allclose(logits(model), logits(plain), atol=1e-6)


def test_unknown_layouts_are_guessed_from_their_structure_and_say_so():
    config = transformers.ViTConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
    )
    places = find_places(transformers.ViTModel(config))
    assert len(places) == 2 * LAYERS
    assert all(place.reason.startswith("guess") for place in places)
    assert all(not place.reason.startswith("guess") for place in find_places(bert()))


def test_only_the_chosen_layers_get_one():
    model = bert()
    config = add_adapter(model, "top", 4, "houlsby", layers=[1])
    assert config.layers == (1,)
    assert {key.split(".")[1] for key in adapter_parameters(model, "top")} == {"1"}


def test_the_learner_sees_them_in_the_printed_model():
    model = bert()
    add_adapter(model, "news", 4)
    assert "(news): Adapter" in repr(model)
    assert "active: news" in repr(model)


@settings(max_examples=20, deadline=None)
@given(
    bottleneck=st.integers(1, HIDDEN),
    placement=st.sampled_from(["pfeiffer", "houlsby"]),
    layers=st.sets(st.integers(0, LAYERS - 1), min_size=1),
    nonlinearity=st.sampled_from(["relu", "gelu", "silu", "leaky_relu", "tanh"]),
    dropout=st.floats(0, 0.9),
)
def test_any_options_start_exact_and_come_out_again(bottleneck, placement, layers, nonlinearity, dropout):
    model = bert()
    before, printed, outputs = weights(model), repr(model), logits(model)
    options = {"nonlinearity": nonlinearity, "dropout": dropout, "layers": layers}
    add_adapter(model, "news", bottleneck, placement, **options)
    assert torch.equal(logits(model), outputs)
    places = len(layers) * (2 if placement == "houlsby" else 1)
    per_place = 2 * HIDDEN * bottleneck + bottleneck + HIDDEN
    assert count_parameters(model).adapters["news"] == places * per_place
    remove_adapter(model, "news")
    assert same(weights(model), before)
    assert repr(model) == printed


def test_reduction_factor_divides_the_hidden_size():
    assert add_adapter(bert(), "news", reduction_factor=4).bottleneck == HIDDEN // 4


def test_the_papers_start_is_near_the_base_model_but_not_on_it():
    model = bert()
    before = logits(model)
    add_adapter(model, "news", 4, init="near-identity")
    assert not torch.equal(logits(model), before)
    assert torch.allclose(logits(model), before, atol=0.01)
    largest = max(each.abs().max() for each in adapter_parameters(model, "news").values())
    assert 0 < largest <= 0.02


# training


@both_placements
@every_family
def test_only_adapter_and_fresh_head_learn(family: Family, placement: str):
    model = family.model()
    before = weights(model)
    base = {key for key, _ in model.base_model.named_parameters(prefix=model.base_model_prefix)}
    add_adapter(
        model, "news", 4, placement, nonlinearity="gelu"
    )  # in a model this small, ReLUs may all be shut
    train(model)
    after = weights(model)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not changed & base  # the frozen weights have not moved by a bit
    assert bool(changed) == (family.task == CLASSIFY)
    assert all((each.grad is not None) == each.requires_grad for each in model.parameters())
    ups = [each for key, each in adapter_parameters(model, "news").items() if key.endswith("up.weight")]
    assert all(each.abs().sum() > 0 for each in ups)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_lowers_the_loss(family: str):
    model = FAMILIES[family].model()
    add_adapter(model, "news", 8)
    before = loss(model).item()
    train(model, steps=20, lr=0.5)
    assert loss(model).item() < before - 0.2


def test_the_head_stays_frozen_when_asked():
    model = bert()
    add_adapter(model, "news", 4, train_head=False)
    assert not any(each.requires_grad for each in model.classifier.parameters())


def test_dropout_works_in_training_only():
    model = bert()
    add_adapter(model, "news", 8, dropout=0.5)
    scramble(model, "news")
    assert torch.equal(logits(model), logits(model))
    for part in model.modules():
        part.train(type(part).__name__ == "Adapter" or (isinstance(part, nn.Dropout) and part.p == 0.5))
    assert not torch.equal(logits(model), logits(model))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_activation_checkpointing_gives_the_same_gradients(family: str, reentrant: bool):
    found = []
    for checkpointing in (False, True):
        model = FAMILIES[family].model()
        add_adapter(model, "news", 4, "houlsby")
        scramble(model, "news")
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            if reentrant:
                model.enable_input_require_grads()
        for part in model.modules():  # checkpointing needs training mode; dropout would differ
            part.train(not isinstance(part, nn.Dropout))
            if hasattr(part, "dropout_prob"):
                part.dropout_prob = 0.0
        model.config.use_cache = False
        torch.manual_seed(0)
        loss(model).backward()
        found.append({key: each.grad for key, each in adapter_parameters(model, "news").items()})
    assert all(torch.allclose(found[0][key], found[1][key], atol=1e-6) for key in found[0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer_trains_saves_and_resumes(tiny, tmp_path: Path, checkpointing: bool):
    def make_trainer() -> transformers.Trainer:
        torch.manual_seed(1)  # of the adapter's own start
        model = tiny.model()
        add_adapter(model, "news", 4, "houlsby")
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            activation_checkpointing=checkpointing,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            logging_strategy="no",
        )
        collator = transformers.DataCollatorWithPadding(tiny.tokenizer)
        return transformers.Trainer(model, arguments, collator, tiny.tokenized())

    whole = make_trainer()
    base = weights(tiny.model().bert)
    whole.train()
    resumed = make_trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert same(weights(whole.model), weights(resumed.model))
    assert same({key: each for key, each in weights(whole.model.bert).items() if key in base}, base)
    learned = adapter_parameters(whole.model, "news")
    assert all(each.abs().sum() > 0 for each in learned.values())


# precision and devices


@both_placements
@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "llama", "t5", "falcon", "mixtral"])
def test_a_bfloat16_model_keeps_its_dtype_and_trains(family: str, placement: str):
    model = FAMILIES[family].model().to(torch.bfloat16)
    before = logits(model)
    add_adapter(model, "news", 4, placement)
    assert torch.equal(logits(model), before)
    assert logits(model).dtype == before.dtype
    assert {each.dtype for each in adapter_parameters(model, "news").values()} == {torch.float32}
    train(model)
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("own", [None, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_autocast_and_mixed_dtypes_do_not_crash(family: str, base: torch.dtype, own: torch.dtype | None):
    model = FAMILIES[family].model().to(base)
    before = logits(model)
    add_adapter(model, "news", 4, "houlsby", dtype=own)
    with torch.autocast("cpu", torch.bfloat16):
        with disable_adapters(model):
            plain = logits(model)
        assert torch.equal(logits(model), plain)
        loss(model).backward()
    assert all(each.grad.isfinite().all() for each in adapter_parameters(model, "news").values())
    assert torch.equal(logits(model), before)


def test_weights_that_are_cast_later_still_work():
    model = bert()
    add_adapter(model, "news", 4)
    scramble(model, "news")
    expected = logits(model)
    assert torch.allclose(logits(model.to(torch.bfloat16)).float(), expected, atol=0.1)


@both_placements
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("init", ["identity", "near-identity"])
def test_a_model_without_weights_can_be_planned(family: str, placement: str, init: str):
    whole = FAMILIES[family].model()
    with torch.device("meta"):
        model = type(whole)(whole.config)
        add_adapter(model, "news", 4, placement, init=init)
    add_adapter(whole, "news", 4, placement, init=init)
    assert all(each.is_meta for each in model.parameters())
    assert count_parameters(model) == count_parameters(whole)
    batch = {key: each.to("meta") for key, each in inputs().items()}
    if family == "bert":
        del batch["attention_mask"]  # transformers looks whether an encoder's mask is all ones
    model(**batch, use_cache=False).logits.sum().backward()
    assert all(each.grad.is_meta for each in adapter_parameters(model, "news").values())


def test_a_training_step_runs_on_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    config = FAMILIES["llama"].model().config
    with FakeTensorMode():
        model = transformers.LlamaForCausalLM(config)
        add_adapter(model, "news", 4, "houlsby")
        tokens = torch.zeros(2, 6, dtype=torch.long)
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    shapes = {key: tuple(each.grad.shape) for key, each in adapter_parameters(model, "news").items()}
    assert shapes["layers.1.attention.down.weight"] == (4, HIDDEN)


# several adapters


def test_two_adapters_switched_give_each_its_own_outputs():
    outputs = {}
    for name, seed in (("a", 1), ("b", 2)):
        alone = bert()
        add_adapter(alone, name, 4)
        scramble(alone, name, seed)
        outputs[name] = logits(alone)
    model = bert()
    for name, seed in (("a", 1), ("b", 2)):
        add_adapter(model, name, 4)
        scramble(model, name, seed)
    for name in ("a", "b", "a"):
        set_active(model, name)
        assert active_adapters(model) == (name,)
        assert torch.equal(logits(model), outputs[name])
    set_active(model, [])
    assert torch.equal(logits(model), logits(bert()))


def test_stacking_is_one_after_the_other():
    model = bert()
    for name, bottleneck, placement in (("a", 4, "houlsby"), ("b", 2, "pfeiffer")):
        add_adapter(model, name, bottleneck, placement)
        scramble(model, name, bottleneck)
    by_hand = bert()
    for layer in range(LAYERS):
        there, here = by_hand.bert.encoder.layer[layer], model.bert.encoder.layer[layer]
        attention, feed_forward = here.attention.output.dense.adapters, here.output.dense.adapters
        there.attention.output.dense = nn.Sequential(there.attention.output.dense, attention["a"])
        there.output.dense = nn.Sequential(there.output.dense, feed_forward["a"], feed_forward["b"])
    set_active(model, ["a", "b"])
    stacked = logits(model)
    assert torch.allclose(stacked, logits(by_hand), atol=1e-6)
    set_active(model, ["b", "a"])
    assert not torch.allclose(stacked, logits(model), atol=1e-4)


def test_the_lower_part_of_a_stack_can_stay_as_it_is():
    model = bert()
    for name in ("german", "news"):
        add_adapter(model, name, 4)
        scramble(model, name)
    set_active(model, ["german", "news"], train="news")
    before = {key: each.clone() for key, each in adapter_parameters(model, "german").items()}
    train(model)
    assert same({key: each.detach() for key, each in adapter_parameters(model, "german").items()}, before)
    assert all(each.grad is not None for each in adapter_parameters(model, "news").values())


def test_active_adapters_are_the_trainable_ones():
    model = bert()
    add_adapter(model, "a", 4)
    add_adapter(model, "b", 4)
    for name, other in (("a", "b"), ("b", "a")):
        set_active(model, name)
        assert all(each.requires_grad for each in adapter_parameters(model, name).values())
        assert not any(each.requires_grad for each in adapter_parameters(model, other).values())


def test_disabling_is_over_after_the_block_even_after_an_error():
    model = bert()
    add_adapter(model, "news", 4)
    scramble(model, "news")
    adapted = logits(model)

    with pytest.raises(KeyError), disable_adapters(model):  # noqa: PT012
        assert torch.equal(logits(model), logits(bert()))
        raise KeyError
    assert torch.equal(logits(model), adapted)


@every_family
def test_removing_restores_everything(family: Family):
    model = family.model()
    before, printed, outputs = weights(model), repr(model), logits(model)
    trainable = [each.requires_grad for each in model.parameters()]
    attributes = [set(vars(each)) for each in model.modules()]
    for name, placement in (("a", "pfeiffer"), ("b", "houlsby")):
        add_adapter(model, name, 4, placement)
        scramble(model, name)
    remove_adapter(model, "b")
    assert list(list_adapters(model)) == ["a"]
    assert active_adapters(model) == ()
    remove_adapter(model, "a")
    assert list_adapters(model) == {}
    assert same(weights(model), before)
    assert torch.equal(logits(model), outputs)
    assert repr(model) == printed
    assert [each.requires_grad for each in model.parameters()] == trainable
    assert [set(vars(each)) for each in model.modules()] == attributes


# copies and files


def prepared(**options: Any) -> transformers.PreTrainedModel:
    """A BERT with a trained adapter and head."""
    model = bert()
    add_adapter(model, "news", 4, "houlsby", nonlinearity="gelu", **options)
    scramble(model, "news")
    train(model)
    return model


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_adapters_of_their_own(clone: Callable):
    model = prepared()
    expected = logits(model)
    other = clone(model)
    assert torch.equal(logits(other), expected)
    scramble(other, "news", seed=5)
    assert not torch.equal(logits(other), expected)
    remove_adapter(other, "news")
    assert repr(other) == repr(bert())
    assert torch.equal(logits(model), expected)


def test_a_pickle_opens_in_a_process_that_knows_nothing_yet(tmp_path: Path):
    model = prepared()
    adapter = model.bert.encoder.layer[0].output.dense.adapters["news"]
    torch.save(adapter, tmp_path / "adapter.pt")
    script = (
        "import sys, torch\n"
        "adapter = torch.load(sys.argv[1], weights_only=False)\n"
        f"print(adapter(torch.ones({HIDDEN})).tolist())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "adapter.pt")]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120, check=True)
    assert torch.allclose(torch.tensor(json.loads(done.stdout)), adapter(torch.ones(HIDDEN)), atol=1e-6)


def test_state_dict_round_trip_keeps_the_base_models_keys():
    model = prepared()
    assert bert().state_dict().keys() < model.state_dict().keys()
    other = bert()
    add_adapter(other, "news", 4, "houlsby", nonlinearity="gelu")
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "t5", "mixtral"])
def test_save_pretrained_keeps_a_base_model_that_loads(family: str, tmp_path: Path):
    model = FAMILIES[family].model()
    before = logits(model)
    add_adapter(model, "news", 4, "houlsby")
    scramble(model, "news")
    model.save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(logits(plain), before)
    assert list_adapters(plain) == {}


def test_saved_and_loaded_gives_the_same_outputs(tmp_path: Path):
    model = prepared(layers=[1], dropout=0.1)
    folder = save_adapter(model, tmp_path / "news", "news")
    other = bert()
    config = load_adapter(other, folder)
    assert config == list_adapters(model)["news"]
    assert torch.equal(logits(other), logits(model))
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.safetensors", "adapter_config.json"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000


@pytest.mark.parametrize("family", ["albert", "gpt2", "llama", "t5", "mixtral"])
def test_every_kind_of_model_saves_and_loads(family: str, tmp_path: Path):
    model = FAMILIES[family].model()
    add_adapter(model, "news", 4, "houlsby")
    scramble(model, "news")
    other = FAMILIES[family].model()
    load_adapter(other, save_adapter(model, tmp_path, "news"), "renamed")
    assert list(list_adapters(other)) == ["renamed"]
    assert torch.equal(logits(other), logits(model))


def test_a_loaded_adapter_trains_on(tmp_path: Path):
    model = bert()
    load_adapter(model, save_adapter(prepared(), tmp_path, "news"))
    before = loss(model).item()
    train(model)
    assert loss(model).item() < before


def test_an_adapter_moves_between_a_classifier_and_the_bare_encoder(tmp_path: Path):
    model = prepared()
    save_adapter(model, tmp_path, "news")
    encoder = copy.deepcopy(bert().bert)
    load_adapter(encoder, tmp_path, head=False)
    states = [each(**inputs()).last_hidden_state for each in (encoder, model.bert)]
    assert torch.equal(*states)


def test_settings_on_disk_are_readable_and_carry_versions(tmp_path: Path):
    save_adapter(prepared(), tmp_path, "news")
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["placement"] == "houlsby"
    assert (saved["bottleneck"], saved["hidden_size"], saved["num_layers"]) == (4, HIDDEN, LAYERS)
    assert (saved["model_type"], saved["head"]) == ("bert", ["classifier"])
    assert saved["versions"]["torch"]


def test_saving_again_replaces_the_same_adapter(tmp_path: Path):
    model = prepared()
    save_adapter(model, tmp_path, "news")
    train(model)
    save_adapter(model, tmp_path, "news")
    other = bert()
    load_adapter(other, tmp_path)
    assert torch.equal(logits(other), logits(model))


# generation and compilation


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "falcon", "gemma2"])
def test_generation_with_a_cache_is_the_one_without(family: str):
    model = FAMILIES[family].model()
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(**inputs(), **options)
    add_adapter(model, "news", 4, "houlsby")
    assert torch.equal(model.generate(**inputs(), **options), plain)
    scramble(model, "news")
    adapted = model.generate(**inputs(), **options, use_cache=True)
    assert torch.equal(adapted, model.generate(**inputs(), **options, use_cache=False))
    assert not torch.equal(adapted, plain)


def test_a_compiled_model_follows_the_switch():
    model = prepared()
    adapted = logits(model)
    with disable_adapters(model):
        plain = logits(model)
    compiled = torch.compile(model, backend="eager")
    assert torch.allclose(logits(compiled), adapted, atol=1e-6)
    set_active(compiled, [])
    assert torch.allclose(logits(compiled), plain, atol=1e-6)


# what goes wrong


def with_lora() -> nn.Module:
    import peft

    with warnings.catch_warnings():  # peft's own, of names that transformers is about to drop
        warnings.simplefilter("ignore")
        return peft.get_peft_model(bert(), peft.LoraConfig(target_modules=["query"]))


def slow_bloom() -> nn.Module:
    model = FAMILIES["bloom"].model()
    model.config.slow_but_exact, model.config.pretraining_tp = True, 2
    return model


def two_sizes() -> nn.Module:
    model = bert()
    model.second = transformers.BertModel(transformers.BertConfig(**(SIZES | {"hidden_size": 8})))
    return model


def half_a_transformer() -> nn.Module:
    model = bert()
    model.bert.encoder.layer[1] = nn.Identity()
    return model


def no_transformer() -> nn.Module:
    return transformers.ResNetModel(transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))


BAD_MODELS = {
    "not a module": (lambda: "bert", "not a transformers model"),
    "no transformer": (lambda: nn.Linear(4, 4), "not a transformers model"),
    "a wrapper": (lambda: nn.DataParallel(bert()), "pass its .module"),
    "compiled": (lambda: torch.compile(bert(), backend="eager"), "torch.compile"),
    "PEFT": (with_lora, "PEFT"),
    "base model inside PEFT": (lambda: with_lora().base_model.model, "PEFT"),
    "no places": (no_transformer, "No place"),
    "layers without places": (half_a_transformer, "1 layers"),
    "several hidden sizes": (two_sizes, "8, 16"),
    "projections passed by": (slow_bloom, "slow_but_exact"),
}


@pytest.mark.parametrize(("make", "says"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_models_that_cannot_have_one(make: Callable, says: str):
    with pytest.raises(LessonkitError, match=says) as caught:
        add_adapter(make(), "news", 4)
    assert caught.value.fix


BAD_OPTIONS = {
    "unknown placement": ({"placement": "houlsbi"}, "houlsby"),
    "unknown non-linearity": ({"nonlinearity": "rellu"}, "relu"),
    "unknown init": ({"init": "zeros"}, "identity"),
    "placement of another type": ({"placement": ["houlsby"]}, "placement"),
    "bottleneck 0": ({"bottleneck": 0}, "1 to 16"),
    "bottleneck wider than the model": ({"bottleneck": 17}, "hidden size, 16"),
    "default wider than the model": ({"bottleneck": None}, "64"),
    "bottleneck a float": ({"bottleneck": 4.0}, "whole number"),
    "reduction besides bottleneck": ({"reduction_factor": 4}, "one of them"),
    "reduction below 1": ({"bottleneck": None, "reduction_factor": 0.5}, "divided"),
    "reduction too large": ({"bottleneck": None, "reduction_factor": 17}, "divided"),
    "dropout 1": ({"dropout": 1.0}, "probability"),
    "dropout a text": ({"dropout": "0.1"}, "probability"),
    "no such layer": ({"layers": [0, 2]}, "numbered 0 to 1"),
    "negative layer": ({"layers": [-1]}, "numbered 0 to 1"),
    "one number for layers": ({"layers": 5}, "no layer 5"),
    "no layers": ({"layers": []}, "empty"),
    "name with a dot": ({"name": "my.news"}, "dot"),
    "empty name": ({"name": ""}, "letters"),
    "name with a slash": ({"name": "../news"}, "letters"),
    "name not a text": ({"name": 3}, "letters"),
    "name of an attribute": ({"name": "keys"}, "keys_adapter"),
    "name of an own attribute": ({"name": "active"}, "active_adapter"),
    "name twice": ({"name": "there"}, "remove_adapter"),
}


@pytest.mark.parametrize(("options", "says"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_cannot_be(options: dict, says: str):
    model = bert()
    add_adapter(model, "there", 4, train_head=False)
    before, flags = repr(model), [each.requires_grad for each in model.parameters()]
    with pytest.raises(LessonkitError, match=says) as caught:
        add_adapter(model, **({"name": "news", "bottleneck": 4} | options))
    assert caught.value.fix
    assert repr(model) == before
    assert [each.requires_grad for each in model.parameters()] == flags


def test_unknown_placement_is_an_unknown_name():
    with pytest.raises(UnknownNameError) as caught:
        add_adapter(bert(), "news", 4, "houlsbi")
    assert caught.value.nearest == ["houlsby"]


@pytest.mark.parametrize(
    "use",
    [
        lambda model, _: set_active(model, "new"),
        lambda model, _: set_active(model, ["news", "sports"]),
        lambda model, _: set_active(model, "news", train="sports"),
        lambda model, _: remove_adapter(model, "sports"),
        lambda model, _: adapter_parameters(model, "sports"),
        lambda model, folder: save_adapter(model, folder, "sports"),
    ],
)
def test_unknown_adapters_are_named_with_those_there_are(use: Callable, tmp_path: Path):
    model = bert()
    add_adapter(model, "news", 4)
    with pytest.raises(UnknownNameError, match="news"):
        use(model, tmp_path)
    assert active_adapters(model) == ("news",)


def test_switching_without_any_adapter_says_how_to_add_one():
    with pytest.raises(UnknownNameError, match="add_adapter"):
        set_active(bert(), "news")


def test_stacking_one_on_itself_is_refused():
    model = bert()
    add_adapter(model, "news", 4)
    with pytest.raises(LessonkitError, match="twice"):
        set_active(model, ["news", "news"])


@pytest.mark.parametrize("use", [list_adapters, count_parameters, active_adapters])
def test_questions_to_something_else_than_a_model(use: Callable):
    with pytest.raises(LessonkitError, match="not a transformers model"):
        use("bert")


def damage(name: str, content: bytes | None) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    return apply


def change(**settings: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        saved = json.loads(path.read_text()) | settings
        path.write_text(json.dumps({key: each for key, each in saved.items() if each is not None}))

    return apply


def cut(folder: Path) -> None:
    path = folder / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "no weights": (damage("adapter.safetensors", None), "adapter.safetensors not found"),
    "no settings": (damage("adapter_config.json", None), "adapter_config.json not found"),
    "weights cut short": (cut, "could not be read"),
    "weights no safetensors": (damage("adapter.safetensors", b"<html>"), "could not be read"),
    "weights empty": (damage("adapter.safetensors", b""), "could not be read"),
    "settings no JSON": (damage("adapter_config.json", b"{"), "could not be read"),
    "settings no text": (damage("adapter_config.json", b"\xff\xfe\x00"), "could not be read"),
    "settings a list": (damage("adapter_config.json", b"[]"), "could not be read"),
    "settings of another program": (
        damage("adapter_config.json", b'{"peft_type": "LORA"}'),
        "another program",
    ),
    "settings not whole": (change(bottleneck=None), "lack bottleneck"),
    "another bottleneck": (change(bottleneck=5), "does not match its settings"),
    "another placement": (change(placement="pfeiffer"), "does not match its settings"),
    "unknown placement": (change(placement="mine"), "no placement"),
    "bottleneck a text": (change(bottleneck="wide"), "whole number"),
    "an illegal name": (change(name="a.b"), "cannot be"),
}


@pytest.mark.parametrize(("spoil", "says"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_told_and_leave_the_model_alone(spoil: Callable, says: str, tmp_path: Path):
    save_adapter(prepared(), tmp_path, "news")
    spoil(tmp_path)
    model = bert()
    with pytest.raises(LessonkitError, match=says) as caught:
        load_adapter(model, tmp_path)
    assert caught.value.fix
    assert list_adapters(model) == {}
    assert all(each.requires_grad for each in model.parameters())


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(ModelError, match="holds no adapter"):
        load_adapter(bert(), tmp_path / "nowhere")


def test_an_adapter_of_another_model_says_all_that_differs(tmp_path: Path):
    save_adapter(prepared(), tmp_path, "news")
    sizes = SIZES | {"hidden_size": 8, "num_hidden_layers": 3}
    other = transformers.RobertaModel(transformers.RobertaConfig(**sizes))
    with pytest.raises(LessonkitError) as caught:
        load_adapter(other, tmp_path)
    for difference in ("bert there and roberta here", "16 there and 8 here", "2 there and 3 here"):
        assert difference in str(caught.value)


def test_a_head_of_another_size_says_so(tmp_path: Path):
    save_adapter(prepared(), tmp_path, "news")
    config = bert().config
    config.num_labels = 5
    other = transformers.BertForSequenceClassification(config)
    with pytest.raises(LessonkitError, match="num_labels"):
        load_adapter(other, tmp_path)
    load_adapter(other, tmp_path, head=False)


def test_loading_a_second_one_of_the_same_name(tmp_path: Path):
    model = prepared()
    save_adapter(model, tmp_path, "news")
    with pytest.raises(LessonkitError, match="already has"):
        load_adapter(model, tmp_path)
    load_adapter(model, tmp_path, "again")
    assert set(list_adapters(model)) == {"news", "again"}


def test_saving_over_another_adapter_is_refused(tmp_path: Path):
    model = prepared()
    add_adapter(model, "sports", 4)
    save_adapter(model, tmp_path, "news")
    with pytest.raises(ModelError, match="already holds the adapter 'news'"):
        save_adapter(model, tmp_path, "sports")


def test_saving_where_a_file_is_in_the_way(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="could not be saved"):
        save_adapter(prepared(), tmp_path / "file", "news")


def test_saving_a_model_without_weights():
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig(**SIZES))
    add_adapter(model, "news", 4)
    with pytest.raises(adapters.AdapterError, match="meta device"):
        save_adapter(model, "anywhere", "news")
