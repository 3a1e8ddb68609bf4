"""What the lesson states as fact is computed here anew; what it makes by hand equals PEFT; its training trains."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lesson_source import statement

import lessonkit
from lessonkit.exercises import beginner_prompt_tuning as facts
from lessonkit.exercises import load_exercises

LESSON = "prompt-tuning/beginner"

# PEFT 0.21 asks transformers 5 by an old name; lessonkit.start keeps that from learners
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def tokenizer():
    return lessonkit.load_tokenizer("smollm2")


@pytest.fixture(scope="module")
def news():
    return lessonkit.load_dataset("bbc-news")


@pytest.fixture
def lesson_names(tokenizer, news, tmp_path: Path) -> dict:
    """The names that the lesson has defined by its section 4, around a model of two small layers."""
    from peft import PromptTuningConfig, get_peft_model
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    set_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.5,  # logits large enough to differ by the prompt
    }
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    found = {
        "torch": torch,
        "set_seed": set_seed,
        "PromptTuningConfig": PromptTuningConfig,
        "get_peft_model": get_peft_model,
        "Trainer": Trainer,
        "TrainerCallback": TrainerCallback,
        "TrainingArguments": TrainingArguments,
        "lessonkit": lessonkit,
        "lesson": SimpleNamespace(folder=tmp_path, hardware=SimpleNamespace(fp16=False, device="cpu")),
        "data": news,
        "names": news["train"].features["label"].names,
        "tokenizer": tokenizer,
        "base": base,
        "TEXT_TOKENS": 6,
        "BATCH_SIZE": 4,
        "STEPS": 5,
        "SEED": 0,
    }
    for name in (
        *("ending", "topic_tokens", "prepare", "some", "LAST", "table", "question", "question_ids"),
        *("put_in_front", "scores", "with_soft_prompt", "prompt_of"),
        *("collate", "next_word_loss", "Travel", "train", "distances", "all_cosines"),
    ):
        exec(statement(LESSON, name), found)
    return found


# ---- The data, and the numbers in prose and exercises -----------------------------------------------


def test_every_article_is_longer_than_what_is_read(tokenizer, news):
    texts = [text[:500] for split in ("train", "test") for text in news[split]["text"]]
    assert min(len(ids) for ids in tokenizer(texts)["input_ids"]) > 40  # TEXT_TOKENS at GPU scale


def test_each_topic_is_one_token_and_no_two_are_the_same(tokenizer, news):
    names = news["train"].features["label"].names
    ids = [tokenizer(" " + name)["input_ids"] for name in names]
    assert [len(each) for each in ids] == [1] * 5
    assert len({each[0] for each in ids}) == 5
    found = {"torch": torch, "tokenizer": tokenizer, "names": names}
    exec(statement(LESSON, "topic_tokens"), found)
    assert found["topic_tokens"].tolist() == [each[0] for each in ids]
    counts = Counter(news["train"]["label"])
    assert max(counts.values()) / counts.total() < 0.25  # so that "guessing would give 0.20" is about right


def test_the_sizes_that_the_exercises_use(tokenizer):
    from transformers import AutoConfig, AutoModelForCausalLM

    names = {"tokenizer": tokenizer}
    exec(statement(LESSON, "question"), names)
    exec(statement(LESSON, "question_ids"), names)
    config = AutoConfig.from_pretrained(lessonkit.fetch("smollm2"))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert len(names["question_ids"]) == facts.QUESTION_TOKENS
    assert model.get_input_embeddings().weight.shape == (facts.VOCABULARY, facts.HIDDEN)
    assert sum(p.numel() for p in model.parameters()) == facts.PARAMETERS
    assert facts.QUESTION_TOKENS * facts.HIDDEN / facts.PARAMETERS < 1e-4  # "under a hundredth of a per cent"


def test_the_size_of_word_vectors_that_an_exercise_tells():
    table = lessonkit.load_model("smollm2").get_input_embeddings().weight.detach()
    assert float(table.std()) == pytest.approx(0.14, abs=0.005)


def test_the_bigger_model_is_smollm2_1_7b_and_fits_a_t4(tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    names = {"LlamaConfig": LlamaConfig, "lessonkit": lessonkit, "question_ids": [0] * facts.QUESTION_TOKENS}
    exec(statement(LESSON, "config"), names)
    with torch.device("meta"):
        model = LlamaForCausalLM(names["config"])
    assert sum(p.numel() for p in model.parameters()) == 1_711_376_384  # as its model card's safetensors say
    exec(statement(LESSON, "plan"), names)
    assert names["plan"].peak_bytes < 15 * 2**30
    assert names["plan"].breakdown["activations"] > 100 * names["plan"].gradients_bytes


# ---- Made by hand, and by PEFT ----------------------------------------------------------------------


def test_the_soft_prompt_starts_as_the_written_one_and_equals_peft_when_it_has_moved(lesson_names: dict):
    names, last = lesson_names, lesson_names["LAST"]
    model = names["with_soft_prompt"]()
    ids = torch.randint(0, 1000, (3, 7))

    def both(prompt):
        with torch.inference_mode():
            by_hand = names["base"](
                inputs_embeds=names["put_in_front"](prompt, ids), logits_to_keep=last
            ).logits
            return model(input_ids=ids, logits_to_keep=last).logits, by_hand

    start = names["table"][names["question_ids"]]
    by_peft, by_hand = both(start)
    assert torch.equal(names["prompt_of"](model), start)
    assert torch.equal(by_peft, by_hand)

    with torch.no_grad():
        names["prompt_of"](model).add_(torch.randn(start.shape))
    moved_by_peft, moved_by_hand = both(names["prompt_of"](model).detach())
    assert torch.equal(moved_by_peft, moved_by_hand)
    assert (moved_by_peft - by_peft).abs().max() > 0.1


def test_scores_are_the_models_own_log_probabilities(lesson_names: dict):
    names = lesson_names
    rows = names["some"]("train", 0, 5)
    prompt = names["table"][names["question_ids"]]
    found = names["scores"](prompt, rows)
    for row, scored in zip(rows, found, strict=True):
        ids = torch.tensor([names["question_ids"] + row["input_ids"]])  # the words themselves, read as text
        with torch.no_grad():
            wanted = names["base"](input_ids=ids).logits[0, -1].log_softmax(-1)[names["topic_tokens"]]
        torch.testing.assert_close(scored, wanted, atol=1e-4, rtol=1e-4)
    empty = names["scores"](names["table"][:0], rows)  # no prompt at all
    assert empty.shape == found.shape
    assert not torch.allclose(empty, found)


def test_the_loss_is_transformers_own_with_the_answer_alone_labelled(lesson_names: dict):
    names = lesson_names
    model = names["with_soft_prompt"]()
    rows = names["some"]("train", 0, 4)
    batch = names["collate"]([rows[number] for number in range(4)])
    answers = batch.pop("labels")
    with torch.no_grad():
        ours = names["next_word_loss"](model(**batch), answers)
        ids = torch.cat([batch["input_ids"], answers[:, None]], dim=1)
        labels = torch.full_like(ids, -100)
        labels[:, -1] = answers
        theirs = model(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


# ---- The training -----------------------------------------------------------------------------------


def test_training_moves_the_prompt_alone_and_no_farther_than_the_exercise_says(lesson_names: dict):
    names = lesson_names
    before = {name: weight.clone() for name, weight in names["base"].state_dict().items()}
    rows = names["some"]("train", 0, 16)
    model = names["with_soft_prompt"]()
    path, run = names["train"](model, rows, 2e-2)
    assert len(path) == names["STEPS"] + 1
    assert run.steps == names["STEPS"]
    assert torch.equal(path[0], names["table"][names["question_ids"]])
    assert torch.equal(path[-1], names["prompt_of"](model).detach())
    farthest = (path[-1] - path[0]).abs().max().item()
    assert 2e-2 < farthest <= names["STEPS"] * 2e-2 * 1.01
    assert all(torch.equal(weight, before[name]) for name, weight in names["base"].state_dict().items())
    lengths = names["distances"](path)
    assert lengths[0] == 0
    assert lengths[-1] > 0

    again, _ = names["train"](names["with_soft_prompt"](), rows, 2e-2)
    assert torch.equal(again[-1], path[-1])  # the same seed, the same prompt
    slow, _ = names["train"](names["with_soft_prompt"](), rows, 2e-4)
    assert names["distances"](slow)[-1] < 0.05 * lengths[-1]


# ---- Cosines ----------------------------------------------------------------------------------------


def test_the_cosine_reference_and_the_lessons_own_are_torchs(lesson_names: dict):
    table = lesson_names["table"][:50].double()
    vector = torch.randn(32, dtype=torch.float64)
    wanted = torch.nn.functional.cosine_similarity(vector, table, dim=-1)
    assert facts._cosines_reference(vector.tolist(), table.tolist()) == pytest.approx(wanted.tolist())
    ours = lesson_names["all_cosines"](vector.float()[None])[0, :50]
    torch.testing.assert_close(ours.double(), wanted, atol=1e-5, rtol=1e-4)


# ---- The experiment ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "count"), [("smoke", 8), ("laptop", 120), ("gpu", 400)])
def test_the_experiment_is_judged_on_the_lessons_validation_texts(lesson_names: dict, scale: str, count: int):
    picks = statement(LESSON, "VALIDATION_TEXTS")
    lesson = SimpleNamespace(pick=lambda **each: each[scale])
    names = {"lesson": lesson}
    exec(picks, names)
    assert names["VALIDATION_TEXTS"] == count
    texts = lesson_names["data"]["train"].shuffle(seed=0).select(range(count))
    bar = load_exercises("beginner/prompt-tuning")["five-tokens"]
    assert bar.held_out(scale).labels == texts["label"]
    if scale == "smoke":
        assert lesson_names["some"]("train", 0, count)["label"] == texts["label"]


def test_the_shown_start_of_the_experiment_has_at_most_five_tokens(tokenizer):
    assert len(tokenizer("Topic of this news?")["input_ids"]) <= facts.MOST_TOKENS
