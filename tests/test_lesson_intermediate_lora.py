"""What the lesson states as fact is computed here anew, and what it makes by hand is PEFT's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from lesson_source import statement

import lessonkit
from lessonkit.exercises import intermediate_lora as facts
from lessonkit.exercises import load_exercises

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
LESSON = "lora/intermediate"


def lesson_code(names: dict, *wanted: str) -> dict:
    """The lesson's own statements, executed with these names."""
    for name in wanted:
        exec(statement(LESSON, name), names)
    return names


def adapted(tiny, dtype=None, **options):
    """The tiny model with LoRA whose A and B are far from zero, in eval mode."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
    base = tiny.model() if dtype is None else tiny.model().to(dtype)
    model = get_peft_model(base, LoraConfig(**settings | options)).eval()
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


# ---- The change that full fine-tuning makes ---------------------------------------------------------


@pytest.fixture
def tuned(tiny) -> dict:
    """The lesson's names after section 2: a model whose every number has moved."""
    import torch

    torch.manual_seed(0)
    full, start = tiny.model(), tiny.model()
    for parameter in full.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    names = {"torch": torch, "full": full, "before": start.state_dict(), "fresh_model": tiny.model}
    names["accuracy"] = lambda model: {name: value.clone() for name, value in model.state_dict().items()}
    return lesson_code(names, "after", "linear", "delta", "parts", "cut", "cut_to")


def test_cutting_nothing_gives_the_tuned_model_and_cutting_all_the_old_one_with_the_new_head(tuned):
    import torch

    whole = tuned["cut_to"](10_000, True)
    for name, value in tuned["after"].items():
        torch.testing.assert_close(whole[name], value, atol=1e-5, rtol=0)
    nothing = tuned["cut_to"](0, False)
    for name, value in nothing.items():
        source = tuned["after"] if name.startswith("classifier") else tuned["before"]
        assert torch.equal(value, source[name]), name


def test_a_cut_has_the_rank_that_was_asked_for_and_is_the_exercises(tuned):
    import torch

    cut = tuned["cut_to"](3, True)
    for name in tuned["linear"]:
        change = cut[name] - tuned["before"][name]
        assert int(torch.linalg.matrix_rank(change.double(), rtol=1e-4)) == 3
        torch.testing.assert_close(
            change, facts._truncate_reference(tuned["delta"][name], 3), atol=1e-5, rtol=0
        )


def test_no_other_matrix_of_that_rank_is_nearer():
    import torch

    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn((8, 6), generator=draw)
    best = (matrix - facts._truncate_reference(matrix, 2)).norm()
    assert best == pytest.approx(torch.linalg.svdvals(matrix)[2:].norm().item(), rel=1e-5)
    for _ in range(200):
        other = torch.randn((8, 2), generator=draw) @ torch.randn((2, 6), generator=draw)
        assert (matrix - other).norm() > best


def test_energy_and_the_rank_that_keeps_a_share_of_it():
    import torch

    names = lesson_code({"torch": torch}, "energy", "rank_for")
    values = torch.tensor([3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14
    assert names["energy"](values, 1) == pytest.approx(9 / 14)
    assert names["energy"](values, 3) == pytest.approx(1)
    assert [names["rank_for"](values, share) for share in (0.5, 0.7, 0.92, 0.95)] == [1, 2, 2, 3]


def test_all_linear_means_the_matrices_that_are_cut(tuned, tiny):
    model = adapted(tiny, target_modules="all-linear")
    found = {
        name.removeprefix("base_model.model.") + ".weight"
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert found == set(tuned["linear"])
    assert not any("classifier" in name for name in found)


# ---- Alpha, rsLoRA, DoRA ----------------------------------------------------------------------------


def logits(model, tiny):
    import torch

    batch = tiny.tokenizer(tiny.dataset["text"][:8], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        return model(**batch).logits


def test_rslora_at_alpha_8_is_lora_at_alpha_64_at_rank_64(tiny):
    import torch

    options = {"r": 64, "target_modules": ["query", "value"]}
    rank_stable = logits(adapted(tiny, lora_alpha=8, use_rslora=True, **options), tiny)
    plain = logits(adapted(tiny, lora_alpha=64, **options), tiny)
    same_alpha = logits(adapted(tiny, lora_alpha=8, **options), tiny)
    assert torch.equal(rank_stable, plain)
    assert not torch.allclose(plain, same_alpha, atol=1e-3)


def test_four_times_alpha_at_a_quarter_of_the_rate_makes_the_same_first_change(tiny):
    import torch

    changes = []
    for alpha, rate in ((8, 4e-3), (32, 1e-3), (32, 4e-3)):
        model = adapted(tiny, lora_alpha=alpha)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.zero_()
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=rate, eps=1e-20, weight_decay=0
        )
        batch = tiny.tokenizer(tiny.dataset["text"][:8], padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        model(**batch, labels=torch.tensor(tiny.dataset["label"][:8])).loss.backward()
        optimizer.step()
        layer = model.base_model.model.bert.encoder.layer[0].attention.self.value
        changes.append(layer.get_delta_weight("default").detach())
    torch.testing.assert_close(changes[0], changes[1], atol=1e-7, rtol=1e-3)
    torch.testing.assert_close(4 * changes[0], changes[2], atol=1e-7, rtol=1e-3)


def test_the_doras_formula_is_pefts_merge(tiny):
    import torch

    dora = adapted(tiny, use_dora=True)
    names = lesson_code({"torch": torch, "dora": dora}, "layer")
    names["layer"].lora_magnitude_vector["default"].weight.data *= 1.3
    names = lesson_code(names, "direction", "m", "by_hand")
    start = names["layer"].weight.clone()
    names["layer"].merge()
    torch.testing.assert_close(names["by_hand"], names["layer"].weight, atol=1e-6, rtol=1e-5)
    assert (names["by_hand"] - start).abs().max() > 0.01


def test_the_length_of_the_change_is_that_of_all_matrices_together(tiny):
    import torch

    model = adapted(tiny)
    names = lesson_code({"torch": torch}, "length_of_change")
    change = weight = 0.0
    for layer in model.base_model.model.bert.encoder.layer:
        for module in (layer.attention.self.query, layer.attention.self.value):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            change += ((8 / 4) * b @ a).detach().square().sum().item()
            weight += module.base_layer.weight.detach().square().sum().item()
    with torch.no_grad():
        found = names["length_of_change"](model)
    assert found == pytest.approx(math.sqrt(change / weight), rel=1e-5)


# ---- Merging ----------------------------------------------------------------------------------------


@pytest.fixture
def merging() -> dict:
    import torch

    return lesson_code({"torch": torch, "low": torch.bfloat16}, "survives", "merges")


def test_the_lessons_merges_are_pefts(tiny, merging):
    import torch

    path = "bert.encoder.layer.0.attention.self.query"
    reference = adapted(tiny).get_submodule(f"base_model.model.{path}")
    weight, change = reference.weight.detach().clone(), reference.get_delta_weight("default").detach()
    in_bf16 = adapted(tiny, torch.bfloat16).merge_and_unload()
    cast = adapted(tiny).merge_and_unload(safe_merge=True).to(torch.bfloat16)
    for name, merged in (("merged in bf16", in_bf16), ("merged in float32, then cast", cast)):
        found = merged.get_submodule(path).weight
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, merging["merges"][name](weight, change)), name
    safe = adapted(tiny, torch.bfloat16).merge_and_unload(safe_merge=True).get_submodule(path).weight
    assert torch.equal(safe, weight.bfloat16() + change.bfloat16())  # which rounds the change first
    assert not torch.equal(safe, in_bf16.get_submodule(path).weight)


def test_a_small_change_dies_on_bf16_weights_and_lives_on_average_if_cast_afterwards(merging):
    import torch

    draw = torch.Generator().manual_seed(0)
    weight = 0.05 * torch.randn((400, 400), generator=draw)
    change = 1e-5 * torch.randn((400, 400), generator=draw)
    in_bf16, cast = (
        merging["survives"](weight, change, merging["merges"][name])
        for name in ("merged in bf16", "merged in float32, then cast")
    )
    assert in_bf16 < 0.5
    assert cast == pytest.approx(1, abs=0.1)
    on_the_grid = weight.bfloat16().float()  # a base that was published in bf16
    again = merging["survives"](on_the_grid, change, merging["merges"]["merged in float32, then cast"])
    assert again == pytest.approx(in_bf16, abs=1e-6)


def test_the_largest_change_that_bf16_loses():
    import torch

    weight = torch.tensor(facts.WEIGHT, dtype=torch.bfloat16).float()
    assert (weight + facts.LOST).bfloat16() == weight
    assert (weight + 1.001 * facts.LOST).bfloat16() > weight
    assert load_exercises("intermediate/lora")["lost"].reference == facts.LOST


# ---- The shelf, and the data ------------------------------------------------------------------------


def test_a_new_adapter_is_not_trained_until_it_is_set(tiny):
    from peft import LoraConfig

    trainable = lesson_code({}, "trainable")["trainable"]
    model = adapted(tiny)
    model.add_adapter("second", LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["key"]))
    assert trainable(model) == ["default"]
    model.set_adapter("second")
    assert trainable(model) == ["second"]
    model.set_adapter("default", inference_mode=True)
    assert trainable(model) == []


def test_the_exercise_knows_the_grids_largest_adapter_from_smaller_ones(tiny):
    for options, smaller in (
        ({"r": 64, "target_modules": "all-linear"}, False),
        ({"r": 64}, True),
        ({"r": 16, "target_modules": "all-linear"}, True),
    ):
        assert facts._is_smaller({"model": adapted(tiny, **options)}) is smaller


def test_training_starts_from_the_fitted_head_although_few_texts_may_lack_a_class():
    import torch
    from sklearn.linear_model import LogisticRegression

    read = np.random.default_rng(0).normal(size=(40, 6))
    head = LogisticRegression().fit(read, np.resize([0, 2, 3], 40))
    model = SimpleNamespace(classifier=torch.nn.Linear(6, 5))
    names = {"torch": torch, "heads": {1: head}, "base_model": lambda seed: model, "SEED": 0}
    started = lesson_code(names, "fresh_model")["fresh_model"]()
    scores = started.classifier(torch.tensor(read, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(scores[:, head.classes_], head.decision_function(read), atol=1e-4)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "gpu"])
def test_the_exercise_reads_the_lessons_validation_texts(scale):
    data = lessonkit.load_dataset("20newsgroups")
    names = {"lesson": SimpleNamespace(pick=lambda **sizes: sizes[scale])}
    names["shuffled"] = data["train"].shuffle(seed=0)
    lesson_code(names, "TRAIN_TEXTS", "VALIDATION_TEXTS", "last")
    rows = names["shuffled"].select(names["last"])
    assert list(rows["label"]) == facts._validation(scale).labels
    assert min(names["last"]) >= names["TRAIN_TEXTS"]  # none of them is trained on
    assert len(data["train"].features["label"].names) == facts.GROUPS
    assert len(data["train"]) == 11_293
    assert len(data["test"]) == 7_528


def test_two_single_runs_differ_by_more_than_the_band_about_once_in_twenty():
    draws = np.random.default_rng(0).normal(size=(2, 200_000))
    assert (abs(draws[0] - draws[1]) > 2 * 2**0.5).mean() == pytest.approx(0.05, abs=0.01)
