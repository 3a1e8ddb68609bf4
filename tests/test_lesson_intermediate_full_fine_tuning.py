"""What the lesson states as fact is computed here anew: from the data, and from its own code."""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from lesson_source import statement
from small_trainer import VOCABULARY, causal_model

import lessonkit
from lessonkit.exercises import intermediate_full_fine_tuning as facts
from lessonkit.exercises import load_exercises

LESSON = "full-fine-tuning/intermediate"


def run_statements(names: dict, *wanted: str) -> None:
    for each in wanted:
        exec(statement(LESSON, each), names)


@pytest.fixture(scope="module")
def tokenizer():
    return lessonkit.load_tokenizer("smollm2")


@pytest.fixture
def chatting(tokenizer) -> dict:
    """The lesson's functions that make rows of text."""
    import re

    names = {"tokenizer": tokenizer, "re": re}
    run_statements(names, "passages", "chat", "row")
    return names


@pytest.fixture
def modelling() -> dict:
    """The lesson's functions that need a model, which is tiny here, and rows of unequal lengths."""
    import torch
    from torch.nn.functional import cross_entropy

    draw = random.Random(3)
    rows = []
    for length in (9, 16, 4, 12, 7):
        ids = [draw.randrange(1, VOCABULARY) for _ in range(length)]
        masked = draw.randrange(1, length - 1)
        rows.append({"input_ids": ids, "labels": [-100] * masked + ids[masked:]})
    names = {
        "torch": torch,
        "math": math,
        "cross_entropy": cross_entropy,
        "device": "cpu",
        "mixed_precision": nullcontext,
        "base": causal_model().eval(),
        "rows_here": rows,
    }
    run_statements(names, "perplexity_by_hand", "pack", "loss_of", "pack_counted")
    return names


# ---- Text -------------------------------------------------------------------------------------------


def test_passages_are_cut_from_the_text_and_long_enough(chatting: dict):
    tales = lessonkit.load_dataset("grimm-tales")
    assert not set(tales["train"]["title"]) & set(tales["test"]["title"])
    assert len(tales["train"]) == 41  # 36 to train on, "the last five" for validation
    for text in tales["test"]["text"]:
        whole = " ".join(text.split())
        for opening, rest in chatting["passages"](text):
            assert f"{opening} {rest}" in whole
            assert len(opening.split()) == 8
            assert 8 <= len(rest.split()) <= 36


def test_a_row_counts_the_answer_and_its_end_and_nothing_else(chatting: dict, tokenizer):
    made = chatting["row"]("Who was Rapunzel?", "A girl in a tower.")
    counted = [label for label in made["labels"] if label != -100]
    assert tokenizer.decode(counted) == "A girl in a tower.<|im_end|>"
    assert counted[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert made["input_ids"][-len(counted) :] == counted
    masked = tokenizer.decode(made["input_ids"][: -len(counted)])
    assert masked.endswith("<|im_start|>assistant\n")
    assert "Who was Rapunzel?" in masked


def test_the_mask_of_the_exercise_is_the_lessons_mask(chatting: dict, tokenizer):
    header = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    made = chatting["row"]("Who was Rapunzel?", "A girl in a tower.")
    found = facts._mask_reference(made["input_ids"], header, tokenizer.eos_token_id)
    assert found == made["labels"]


def test_the_usual_collator_counts_no_end_and_ours_does(chatting: dict, tokenizer):
    from transformers import DataCollatorForLanguageModeling

    ids, end = chatting["chat"]("Hello", "Good day."), tokenizer.eos_token_id
    naive = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": ids}] * 2)["labels"]
    careful = lessonkit.CausalLMCollator(tokenizer)([chatting["row"]("Hello", "Good day.")] * 2)["labels"]
    assert int((naive == end).sum()) == 0
    assert int((careful == end).sum()) == 2


# ---- Model ------------------------------------------------------------------------------------------


def test_perplexity_by_hand_is_the_librarys(modelling: dict):
    rows = modelling["rows_here"]
    by_hand = modelling["perplexity_by_hand"](modelling["base"], rows)
    library = lessonkit.perplexity(modelling["base"], rows, batch_size=2)
    assert by_hand == pytest.approx(library.perplexity, rel=1e-6)
    batches = list(zip(library.text_losses / library.text_tokens, library.text_tokens, strict=True))
    assert facts._perplexity_reference(batches) == pytest.approx(by_hand, rel=1e-6)
    plain_mean = math.exp(sum(loss for loss, _ in batches) / len(batches))
    assert plain_mean != pytest.approx(by_hand, rel=1e-3)  # the test would see the difference


def test_packing_is_the_librarys_and_keeps_texts_apart(modelling: dict):
    import torch
    from transformers import DataCollatorWithFlattening

    rows, model = modelling["rows_here"], modelling["base"]
    ours, theirs = modelling["pack"](rows), DataCollatorWithFlattening()(rows)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert torch.equal(values, theirs[name])
    with torch.inference_mode():
        logits = model(
            input_ids=ours["input_ids"], position_ids=ours["position_ids"], use_cache=False
        ).logits[0]
        single = torch.cat([model(torch.tensor([each["input_ids"]])).logits[0] for each in rows])
    torch.testing.assert_close(logits, single)


def test_packed_loss_is_that_of_the_single_texts_unless_a_condition_is_broken(modelling: dict):
    import torch

    rows, model, pack = modelling["rows_here"], modelling["base"], modelling["pack"]

    @torch.inference_mode()
    def loss_of(batch: dict, cache: bool = False) -> float:
        model.config.use_cache = cache
        return modelling["loss_of"](**batch)

    counted = [sum(label != -100 for label in each["labels"]) for each in rows]
    alone = sum(loss_of(pack([each])) * count for each, count in zip(rows, counted, strict=True)) / sum(
        counted
    )
    packed = pack(rows)
    right = loss_of(packed)
    assert right == pytest.approx(alone, rel=1e-5)
    with torch.inference_mode():
        saving = float(model(**modelling["pack_counted"](rows), use_cache=False).loss)
    assert saving == pytest.approx(right, rel=1e-6)
    assert loss_of(packed, cache=True) != pytest.approx(right, rel=1e-4)
    with_mask = packed | {"attention_mask": torch.ones_like(packed["input_ids"])}
    assert loss_of(with_mask) != pytest.approx(right, rel=1e-4)
    del packed["position_ids"]
    assert loss_of(packed) != pytest.approx(right, rel=1e-4)


def test_the_trainer_keeps_no_cache(tmp_path):
    from transformers import TrainingArguments

    assert TrainingArguments(str(tmp_path), use_cpu=True, report_to="none").use_cache is False


def test_trainer_decays_the_matrices_and_nothing_else(tmp_path):
    from transformers import Trainer, TrainingArguments

    from lessonkit.models import load_model

    model = load_model("smollm2")
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))
    parameters = dict(model.named_parameters())
    decayed = set(trainer.get_decay_parameter_names(model)) & set(parameters)
    assert decayed == {name for name, each in parameters.items() if each.ndim > 1}
    assert not [name for name in parameters if "bias" in name]  # "no biases"
    assert model.lm_head.weight is model.get_input_embeddings().weight  # "tied"


def test_early_stopping_does_what_the_exercise_says():
    from transformers import EarlyStoppingCallback, TrainerControl

    stop, control = EarlyStoppingCallback(early_stopping_patience=2), TrainerControl()
    arguments = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False)
    losses, best = (3.60, 3.20, 3.10, 3.15, 3.12, 3.05), None
    number = 0
    while not control.should_training_stop:
        loss, number = losses[number], number + 1
        stop.on_evaluate(arguments, SimpleNamespace(best_metric=best), control, metrics={"eval_loss": loss})
        best = loss if best is None else min(best, loss)
    wanted = load_exercises("intermediate/full-fine-tuning")["patience"].reference
    assert {"stops after": number, "loads": losses.index(best) + 1} == wanted


def test_the_larger_model_fits_a_t4():
    names: dict = {"lessonkit": lessonkit}
    from transformers import LlamaConfig

    names["LlamaConfig"] = LlamaConfig
    run_statements(names, "larger", "plan")
    assert names["plan"].total_parameters == 361_821_120  # SmolLM2-360M's model card: 362 M
    assert names["plan"].peak_bytes < 15 * 2**30


def test_rehearsal_asks_other_questions_than_the_held_out_ones():
    names: dict = {}
    run_statements(names, "SUBJECTS", "FORMS", "questions", "OTHERS", "asked")
    held_out, asked = set(names["questions"]), set(names["asked"])
    assert len(held_out) == 28
    assert len(asked) == 40  # a quarter of the 160 rows at GPU scale
    assert not held_out & asked
    assert not set(names["SUBJECTS"]) & set(names["OTHERS"])


def test_the_exercise_states_its_bar():
    from lesson_source import lesson_text

    exercise = load_exercises("intermediate/full-fine-tuning")["move-less"]
    assert f"at most **{exercise.bar} times**" in lesson_text(LESSON)
    assert "LEARNING_RATE / 8" in exercise.source


@pytest.mark.parametrize(("tales", "own"), [(0.38, 3.04), (0.6, 1.3)], ids=["the rate as before", "smaller"])
def test_the_exercise_tells_a_good_comparison_from_a_swapped_one(tales: float, own: float):
    exercise = load_exercises("intermediate/full-fine-tuning")["move-less"]
    assert exercise.judge(facts._made(tales, own)).passed == (own <= exercise.bar)
    swapped = exercise.judge(facts._made(1 / tales, 1 / own))
    assert swapped.diagnosis == "compared-the-wrong-way-round"
