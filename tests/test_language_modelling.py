"""Perplexity agrees with transformers, torch and sums done by hand; padding and batch size don't change it."""

from __future__ import annotations

import json
import math
import weakref

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import (
    BatchEncoding,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from lessonkit.errors import DataError, LessonkitError, TrainingError
from lessonkit.evaluation import PerplexityScores, perplexity, unigram_perplexity

VOCABULARY, LIMIT = 40, 32


def llama() -> LlamaForCausalLM:
    """Rotary positions, as most of today's decoders have."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LIMIT,
            initializer_range=0.5,  # far from uniform, so that a wrong token shows
        )
    ).eval()


def gpt2() -> GPT2LMHeadModel:
    """Learned absolute positions, which padding on the left would shift; and dropout."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=LIMIT, initializer_range=0.5
        )
    ).eval()


@pytest.fixture(params=[llama, gpt2], ids=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    return request.param()


class Unigrams(torch.nn.Module):
    """The simplest model: each token has its own fixed probability, whatever came before."""

    def __init__(self, *shares: float) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(shares).log())

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*input_ids.shape, -1)


def drawn(count: int = 7, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [
        random.integers(0, VOCABULARY, length).tolist() for length in random.integers(2, LIMIT // 2, count)
    ]


def rows(texts: list[list[int]]) -> Dataset:
    return Dataset.from_dict({"input_ids": texts, "attention_mask": [[1] * len(text) for text in texts]})


def padded(texts: list[list[int]], side: str, pad: int = 3) -> BatchEncoding:
    """What a tokenizer returns; the labels carry -100 where there is padding."""
    width = max(map(len, texts))
    columns: dict[str, list] = {"input_ids": [], "attention_mask": [], "labels": []}
    for text in texts:
        extra = width - len(text)
        for name, value, filler in (
            ("input_ids", text, pad),
            ("attention_mask", [1] * len(text), 0),
            ("labels", text, -100),
        ):
            ends = [filler] * extra
            columns[name].append(value + ends if side == "right" else ends + value)
    return BatchEncoding(columns, tensor_type="pt")


# What the number is


def test_perplexity_by_hand():
    # Counted: all but the first of each text. Losses in bits: 1, 2 | 1, 1, 3, 3; 11 bits over 6 tokens.
    scores = perplexity(
        Unigrams(0.5, 0.25, 0.125, 0.125), [{"input_ids": t} for t in ([0, 0, 1], [3, 0, 0, 2, 3])]
    )
    assert scores.n == 2
    assert scores.tokens == 6
    assert scores.perplexity == pytest.approx(2 ** (11 / 6), rel=1e-6)
    assert scores.text_losses == pytest.approx([3 * math.log(2), 8 * math.log(2)])
    assert scores.text_tokens.tolist() == [2, 4]


def test_every_token_weighs_the_same():
    """A mean of the texts' or batches' means would give the short text's one token half of the weight."""
    long, short = [0] * 10, [1, 1]
    for batch_size in (1, 2):
        scores = perplexity(
            Unigrams(0.5, 0.125, 0.375), [{"input_ids": long}, {"input_ids": short}], batch_size=batch_size
        )
        assert scores.perplexity == pytest.approx(2 ** ((9 * 1 + 1 * 3) / 10), rel=1e-6)


def test_one_text_has_exp_of_the_loss_of_transformers(model):
    for text in drawn():
        ids = torch.tensor([text])
        with torch.no_grad():
            expected = math.exp(model(input_ids=ids, labels=ids).loss)
        assert perplexity(model, [{"input_ids": text}]).perplexity == pytest.approx(expected, rel=1e-5)


def test_ignored_labels_are_ignored_as_transformers_does(model):
    text = drawn()[0]
    labels = [-100] * (len(text) // 2) + text[len(text) // 2 :]
    ids, wanted = torch.tensor([text]), torch.tensor([labels])
    with torch.no_grad():
        expected = math.exp(model(input_ids=ids, labels=wanted).loss)
    scores = perplexity(model, [{"input_ids": text, "labels": labels}])
    assert scores.perplexity == pytest.approx(expected, rel=1e-5)
    assert scores.tokens == len(text) - len(text) // 2
    assert scores.perplexity != pytest.approx(perplexity(model, [{"input_ids": text}]).perplexity, rel=1e-3)


def test_losses_agree_with_torch(model):
    texts = drawn()
    scores = perplexity(model, rows(texts))
    for text, loss in zip(texts, scores.text_losses, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([text])).logits[0, :-1]
        assert loss == pytest.approx(
            cross_entropy(logits, torch.tensor(text[1:]), reduction="sum").item(), rel=1e-5
        )
    assert scores.perplexity == pytest.approx(math.exp(scores.text_losses.sum() / scores.text_tokens.sum()))


def test_half_precision_weights_are_summed_in_full():
    model = llama().to(torch.bfloat16)
    texts = drawn(5)
    total, tokens = 0.0, 0
    for text in texts:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([text])).logits[0, :-1].double()
        total += cross_entropy(logits, torch.tensor(text[1:]), reduction="sum").item()
        tokens += len(text) - 1
    assert perplexity(model, rows(texts), batch_size=1).perplexity == pytest.approx(
        math.exp(total / tokens), rel=1e-5
    )


# What must not change it


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100, None])
def test_batch_size_does_not_matter(model, batch_size):
    scores = perplexity(model, rows(drawn()), batch_size=batch_size)
    first = perplexity(model, rows(drawn()), batch_size=1)
    assert scores.text_losses == pytest.approx(first.text_losses, rel=1e-4)
    assert scores.tokens == first.tokens


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["batch", "batches", "loader", "no labels", "labels at the padding"])
def test_padding_and_kind_of_batch_do_not_matter(model, side, kind):
    texts = drawn()
    batch = padded(texts, side)
    if kind == "batches":
        data = [padded(texts[:3], side), padded(texts[3:], side, pad=0)]
    elif kind == "loader":
        data = DataLoader(texts, batch_size=3, collate_fn=lambda each: padded(each, side))
    else:
        data = batch
        if kind == "no labels":
            del batch["labels"]
        elif kind == "labels at the padding":
            batch["labels"] = batch["input_ids"].clone()
    scores, plain = perplexity(model, data), perplexity(model, rows(texts), batch_size=1)
    assert scores.text_losses == pytest.approx(plain.text_losses, rel=1e-4)
    assert scores.text_tokens.tolist() == plain.text_tokens.tolist()


def test_kind_of_row_does_not_matter():
    texts = drawn()
    wanted = perplexity(llama(), rows(texts)).text_losses
    for data in (
        rows(texts).with_format("torch"),
        rows(texts).with_format("numpy"),
        [{"input_ids": tuple(text), "labels": None} for text in texts],
        ({"input_ids": np.array(text), "text": "not looked at"} for text in texts),
        BatchEncoding({"input_ids": texts}),  # as tokenizer(texts) returns it
    ):
        assert perplexity(llama(), data).text_losses.tolist() == wanted.tolist()


def test_model_is_scored_in_eval_mode_and_left_as_it_was():
    model = gpt2().train()  # has dropout
    model.transformer.h[0].eval()  # as a frozen part may be
    before = [module.training for module in model.modules()]
    scores = perplexity(model, rows(drawn()))
    assert [module.training for module in model.modules()] == before
    assert scores.text_losses.tolist() == perplexity(gpt2().eval(), rows(drawn())).text_losses.tolist()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_put_back_after_an_error_too():
    model = llama().train()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(TrainingError):
        perplexity(model, rows(drawn()))
    assert all(module.training for module in model.modules())


def test_no_graph_is_built():
    seen = []

    class Watched(Unigrams):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_grad_enabled())
            return super().forward(input_ids)

    perplexity(Watched(0.5, 0.5), [{"input_ids": [0, 1]}])
    assert seen == [False]
    assert torch.is_grad_enabled()


# Memory


def test_only_one_batch_of_logits_exists_at_a_time():
    alive: list[weakref.ref] = []

    class Watched(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            assert not [each for each in alive if each() is not None]
            logits = torch.zeros(*input_ids.shape, VOCABULARY)
            alive.append(weakref.ref(logits))
            return logits

    perplexity(Watched(), rows(drawn(9)), batch_size=2)
    assert len(alive) == 5


def test_logits_are_asked_for_only_where_labels_begin():
    model, seen = llama(), []
    model.register_forward_hook(lambda module, args, output: seen.append(output.logits.shape[1]))
    text = drawn(1)[0]
    perplexity(model, [{"input_ids": text, "labels": [-100] * (len(text) - 2) + text[-2:]}])
    assert seen == [3]  # two answer tokens, foreseen one place before, and the last place


class Copying(torch.nn.Module):
    """Thinks that the last token comes once more with probability 3/4, and gives all logits, asked or not."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.nn.functional.one_hot(input_ids, 2) == 1, 0.75, 0.25).log()


def test_model_that_gives_all_logits_is_read_at_the_right_places():
    answer = {"input_ids": [0, 1, 0, 1, 1, 0], "labels": [-100, -100, -100, -100, 1, 0]}
    scores = perplexity(Copying(), [answer, {"input_ids": [0, 1, 1], "labels": [-100, -100, 1]}])
    assert scores.text_losses == pytest.approx([-math.log(0.75 * 0.25), -math.log(0.75)])


class Narrow(Unigrams):
    """Too little memory for more than ``room`` texts at a time."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__(0.25, 0.75)
        self.room, self.error, self.seen = room, error, []

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if len(input_ids) > self.room:
            raise self.error
        self.seen.append(len(input_ids))
        return super().forward(input_ids)


TOO_LITTLE = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
)


@pytest.mark.parametrize("error", TOO_LITTLE, ids=["gpu", "cpu"])
def test_too_little_memory_halves_the_batch_and_keeps_the_score(error):
    data = [{"input_ids": [0, 1] * length} for length in range(1, 12)]
    narrow = Narrow(2, error)
    scores = perplexity(narrow, data)
    assert max(narrow.seen) == 2
    assert sum(narrow.seen) == len(data)
    assert scores.text_losses == pytest.approx(perplexity(Unigrams(0.25, 0.75), data).text_losses)


@pytest.mark.parametrize("error", TOO_LITTLE, ids=["gpu", "cpu"])
def test_too_little_memory_for_one_text_is_said(error):
    with pytest.raises(TrainingError, match="Memory runs out"):
        perplexity(Narrow(0, error), [{"input_ids": [0, 1]}])


def test_other_errors_of_the_model_go_through():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        perplexity(Narrow(0, RuntimeError("mat1 and mat2 shapes")), [{"input_ids": [0, 1]}])


# What stands beside it


def test_texts_that_count_nothing_are_skipped_and_told():
    texts = [[1, 2, 3], [5], [], [4, 5, 6]]
    data = [{"input_ids": text, "labels": text} for text in texts]
    data.append({"input_ids": [7, 8], "labels": [7, -100]})  # what is left has nothing before it
    scores = perplexity(llama(), data)
    assert (scores.n, scores.skipped, scores.tokens) == (2, 3, 4)
    assert scores.text_tokens.tolist() == [2, 0, 0, 2, 0]
    assert scores.text_losses[[1, 2, 4]].tolist() == [0, 0, 0]
    assert "3 without counted tokens left out" in str(scores)
    assert scores.perplexity == perplexity(llama(), [data[0], data[3]]).perplexity


def test_uniform_model_is_the_baseline_left_to_itself():
    scores = perplexity(Unigrams(*[1 / 7] * 7), [{"input_ids": [0, 5, 6]}, {"input_ids": [1, 2]}])
    assert scores.perplexity == pytest.approx(7)
    assert scores.interval == pytest.approx((7, 7))
    assert scores.baseline == scores.vocabulary_size == 7
    assert "uniform model 7.00" in str(scores)


def test_unigram_model_by_hand():
    # Counted in training: 1, 1, 2. With one added to each of 4 counts: shares 1/7, 3/7, 2/7, 1/7.
    scores = unigram_perplexity(
        [{"input_ids": [0, 1, 1]}, {"input_ids": [3, 2]}], [{"input_ids": [0, 1, 3, 2]}], vocabulary_size=4
    )
    assert scores.perplexity == pytest.approx((7 / 3 * 7 * 7 / 2) ** (1 / 3))
    assert scores.baseline == 4
    assert scores.name == "unigram model"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=9), min_size=2, max_size=9))
def test_unigram_model_is_no_worse_than_uniform_on_its_own_texts(texts):
    data = [{"input_ids": text} for text in texts]
    scores = unigram_perplexity(data, data, vocabulary_size=6)
    assert 1 <= scores.perplexity <= 6 + 1e-9
    low, high = scores.interval
    assert low - 1e-9 <= scores.perplexity <= high + 1e-9


def test_earlier_result_is_the_baseline_of_a_later_one():
    data = rows(drawn())
    unigram = unigram_perplexity(rows(drawn(20, seed=1)), data, vocabulary_size=VOCABULARY)
    base = perplexity(gpt2(), data, baseline=unigram, name="base model")
    tuned = perplexity(llama(), data, baseline=base, name="tuned model")
    assert (base.baseline, base.baseline_name) == (unigram.perplexity, "unigram model")
    assert (tuned.baseline, tuned.baseline_name) == (base.perplexity, "base model")


@pytest.mark.parametrize("length", [3, 30])
def test_interval_resamples_texts_and_not_tokens(length):
    """Longer texts of the same two kinds say no more about how texts differ."""
    data = [{"input_ids": [token] * length} for token in (0, 1) * 10]
    low, high = perplexity(Unigrams(0.5, 0.125, 0.375), data).interval
    # The share of texts of 3 bits varies by 1.96 * sqrt(0.25 / 20); the mean is 1 + 2 * share bits.
    spread = 1.96 * math.sqrt(0.25 / 20) * 2
    assert math.log2(low) == pytest.approx(2 - spread, abs=0.12)
    assert math.log2(high) == pytest.approx(2 + spread, abs=0.12)


def test_single_text_has_no_interval():
    scores = perplexity(llama(), [{"input_ids": drawn()[0]}])
    assert scores.interval is None
    assert "no interval" in str(scores)
    assert "n = 1 text," in str(scores)


class Bytes:
    """A tokenizer whose tokens are bytes; 0 is special."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        assert skip_special_tokens
        return bytes(token for token in ids if token).decode("utf-8")


def test_bits_per_byte_of_the_uniform_model_over_bytes_is_eight():
    data = [{"input_ids": [0, *"Straße".encode()]}, {"input_ids": [0, *b"abc"]}]
    model = Unigrams(*[1 / 256] * 256)
    scores = perplexity(model, data, tokenizer=Bytes())
    assert scores.bits_per_byte == pytest.approx(8)
    assert "8.000 bits per byte" in str(scores)
    assert perplexity(model, data).bits_per_byte is None
    unigram = unigram_perplexity(data, data, vocabulary_size=256, tokenizer=Bytes())
    assert unigram.bits_per_byte == pytest.approx(math.log2(unigram.perplexity))


def test_end_of_text_adds_bits_and_no_bytes():
    scores = perplexity(Unigrams(*[1 / 256] * 256), [{"input_ids": [0, *b"abcd", 0]}], tokenizer=Bytes())
    assert scores.bits_per_byte == pytest.approx(8 * 5 / 4)


def test_one_line_says_it_all():
    text = str(perplexity(llama(), rows(drawn()), name="base model"))
    assert "\n" not in text
    assert text.startswith("perplexity of the base model ")
    for part in ("95 % interval", "n = 7 texts", " tokens)", "uniform model 40.00"):
        assert part in text


def test_scores_are_plain_data():
    plain = perplexity(llama(), rows(drawn())).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["n"] == 7
    assert "text_losses" not in plain


# PEFT

# PEFT asks transformers a question under its old name.
peft_asks = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@peft_asks
def test_fresh_lora_changes_nothing():
    from peft import LoraConfig, get_peft_model

    data = rows(drawn())
    tuned = get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert perplexity(tuned, data).text_losses == pytest.approx(
        perplexity(llama(), data).text_losses, rel=1e-5
    )


def soft_prompt(virtual: int) -> torch.nn.Module:
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(1)
    return get_peft_model(
        llama(), PromptTuningConfig(num_virtual_tokens=virtual, task_type="CAUSAL_LM")
    ).eval()


@peft_asks
def test_soft_prompt_is_read_and_not_counted():
    model, text = soft_prompt(4), drawn()[0]
    labels = [-100, *text[1:]]
    with torch.no_grad():
        expected = math.exp(model(input_ids=torch.tensor([text]), labels=torch.tensor([labels])).loss)
    scores = perplexity(model, [{"input_ids": text}])
    assert scores.perplexity == pytest.approx(expected, rel=1e-5)
    assert scores.tokens == len(text) - 1  # as for the base model, so that the two compare
    several = perplexity(model, rows(drawn()))
    assert several.text_losses[0] == pytest.approx(scores.text_losses[0], rel=1e-4)


@peft_asks
def test_soft_prompt_takes_from_the_limit():
    text = [1] * (LIMIT - 3)
    assert perplexity(soft_prompt(3), [{"input_ids": text}]).tokens == LIMIT - 4
    with pytest.raises(DataError, match=rf"max_length={LIMIT - 4}\b"):
        perplexity(soft_prompt(4), [{"input_ids": text}])


# What is told


def test_text_beyond_the_limit_says_how_to_truncate(model):
    assert perplexity(model, [{"input_ids": [1] * LIMIT}]).tokens == LIMIT - 1
    with pytest.raises(DataError, match=rf"max_length={LIMIT}\b") as caught:
        perplexity(model, [{"input_ids": [1, 2]}, {"input_ids": [1] * (LIMIT + 1)}])
    assert "Text 1 has 33 tokens" in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_said_plainly(value):
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[3] = value
    with pytest.raises(TrainingError, match="NaN"):
        perplexity(model, rows(drawn()))


def test_token_held_impossible_is_said_plainly():
    with pytest.raises(TrainingError, match="no probability at all"):
        perplexity(Unigrams(1.0, 0.0), [{"input_ids": [0, 1]}])


def masked_lm() -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )


ROW = {"input_ids": [1, 2, 3]}
BAD_DATASETS = {
    "nothing": [],
    "none": None,
    "a number": 3,
    "raw text": ["Once upon a time"],
    "one string": "Once upon a time",
    "not tokenized": Dataset.from_dict({"text": ["Once upon a time"]}),
    "all splits": DatasetDict(test=rows(drawn())),
    "mapping of nothing": {},
    "fractions": [{"input_ids": [0.5, 1.5]}],
    "words": [{"input_ids": ["once", "upon"]}],
    "ids as text": [{"input_ids": "once"}],
    "a single id": [{"input_ids": 3}],
    "too deep": [{"input_ids": [[[1, 2]]]}],
    "ragged": [{"input_ids": [1, [2, 3]]}],
    "id too large": [{"input_ids": [1, VOCABULARY]}],
    "label too large": [{**ROW, "labels": [-100, 1, VOCABULARY]}],
    "negative id": [{"input_ids": [1, -1]}],
    "negative label": [{**ROW, "labels": [1, -1, 2]}],
    "class label": [{**ROW, "labels": 1}],
    "batch of class labels": [{"input_ids": [[1, 2], [3, 4]], "labels": [0, 1]}],
    "class labels as one number": [{"input_ids": [[1, 2], [3, 4]], "labels": 0}],
    "too few labels": [{**ROW, "labels": [1, 2]}],
    "too few rows of labels": [{"input_ids": [[1, 2], [3, 4]], "labels": [[1, 2]]}],
    "short mask": [{**ROW, "attention_mask": [1]}],
    "mask with a hole": [{**ROW, "attention_mask": [1, 0, 1]}],
    "all ignored": [{**ROW, "labels": [-100] * 3}],
    "all of one token": [{"input_ids": [1]}, {"input_ids": [2]}],
    "all padding": [{**ROW, "attention_mask": [0, 0, 0]}],
    "packed": [{**ROW, "position_ids": [0, 0, 1]}],
}


@pytest.mark.parametrize("name", BAD_DATASETS)
def test_dataset_that_cannot_be_scored_says_what_to_do(name):
    with pytest.raises(DataError) as caught:
        perplexity(llama(), BAD_DATASETS[name])
    assert caught.value.fix


class Classifier(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(input_ids), 2)


def other_baseline() -> PerplexityScores:
    return unigram_perplexity([ROW], [ROW, ROW], vocabulary_size=VOCABULARY)


BAD_CALLS = {
    "model's name": lambda: perplexity("smollm2", [ROW]),
    "tokenizer as model": lambda: perplexity(Bytes(), [ROW]),
    "encoder": lambda: perplexity(masked_lm(), [ROW]),
    "classifier": lambda: perplexity(Classifier(), [ROW]),
    "label beyond a plain module's logits": lambda: perplexity(Unigrams(0.5, 0.5), [ROW]),
    "no batch": lambda: perplexity(llama(), [ROW], batch_size=0),
    "half a batch": lambda: perplexity(llama(), [ROW], batch_size=1.5),
    "baseline as number": lambda: perplexity(llama(), [ROW], baseline=12.5),
    "baseline of other texts": lambda: perplexity(llama(), [ROW], baseline=other_baseline()),
    "no bytes": lambda: perplexity(Unigrams(0.5, 0.5), [{"input_ids": [0, 0]}], tokenizer=Bytes()),
    "no vocabulary": lambda: unigram_perplexity([ROW], [ROW], vocabulary_size=0),
    "tokenizer as vocabulary": lambda: unigram_perplexity([ROW], [ROW], vocabulary_size=Bytes()),
    "vocabulary too small": lambda: unigram_perplexity([ROW], [ROW], vocabulary_size=3),
    "nothing to count from": lambda: unigram_perplexity([], [ROW], vocabulary_size=4),
    "nothing to count": lambda: unigram_perplexity([ROW], [{"input_ids": [1]}], vocabulary_size=4),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_argument_says_what_to_do(name):
    with pytest.raises(LessonkitError) as caught:
        BAD_CALLS[name]()
    assert caught.value.fix
