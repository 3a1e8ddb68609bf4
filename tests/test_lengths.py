"""Batches in parts of like length: less padding, the same rows, the same training."""

from __future__ import annotations

import dataclasses

import pytest
from datasets import Dataset, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_arguments import MACHINES
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

import lessonkit
from lessonkit.errors import DataError
from lessonkit.training import lengths
from lessonkit.training.arguments import training_arguments
from lessonkit.training.lengths import like_length_batches

CPU = MACHINES["CPU"]
WHOLE = {"per_device_train_batch_size": 8, "train_sampling_strategy": "random"}


def texts(lengths: list[int]) -> Dataset:
    return Dataset.from_dict({"input_ids": [[1] * each for each in lengths], "row": range(len(lengths))})


def places(dataset: Dataset, size: int) -> int:
    """Tokens and padding that batches of this size hold."""
    lengths = [len(row) for row in dataset["input_ids"]]
    parts = [lengths[first : first + size] for first in range(0, len(lengths), size)]
    return sum(max(part) * len(part) for part in parts)


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=12, max_size=60),
    batch_size=st.sampled_from([1, 2, 6, 8, 12]),
    seed=st.integers(0, 3),
)
def test_every_row_is_there_once_and_no_batch_is_larger_than_asked(lengths, batch_size, seed):
    dataset, arguments = like_length_batches(texts(lengths), batch_size, seed=seed, hardware=CPU)
    assert sorted(dataset["row"]) == list(range(len(lengths)))
    accumulated = arguments.get("gradient_accumulation_steps", 1)
    assert arguments["per_device_train_batch_size"] * accumulated == batch_size
    assert set(arguments.reasons) == set(arguments)


def test_uneven_texts_are_cut_into_parts_and_hold_less_padding():
    lengths = [20, 400, 30, 380, 25, 390, 22, 370] * 4
    dataset, arguments = like_length_batches(texts(lengths), 8, hardware=CPU)
    assert arguments["train_sampling_strategy"] == "sequential"
    assert places(dataset, arguments["per_device_train_batch_size"]) < 0.75 * places(texts(lengths), 8)


@pytest.mark.parametrize("lengths", [[50] * 32, [49, 50, 51, 50] * 8], ids=["equal", "nearly equal"])
def test_texts_of_one_length_stay_in_whole_batches(lengths):
    dataset, arguments = like_length_batches(texts(lengths), 8, hardware=CPU)
    assert arguments == WHOLE
    assert dataset["row"] == list(range(32))


@pytest.mark.parametrize("name", ["T4", "H100", "Apple"])
def test_a_gpu_keeps_whole_batches(name):
    _, arguments = like_length_batches(texts([1, 900] * 16), 8, hardware=MACHINES[name])
    assert arguments == WHOLE


def test_batches_are_random_samples_and_another_seed_gives_others():
    lengths = list(range(1, 401))
    one, _ = like_length_batches(texts(lengths), 8, seed=1, hardware=CPU)
    two, _ = like_length_batches(texts(lengths), 8, seed=2, hardware=CPU)
    again, _ = like_length_batches(texts(lengths), 8, seed=1, hardware=CPU)
    assert one["row"] == again["row"] != two["row"]
    means = [sum(one["row"][first : first + 8]) / 8 for first in range(0, 400, 8)]
    assert min(means) < 150 < 250 < max(means)  # no batch is all short or all long: they scatter round 200
    assert not any(each < 40 or each > 360 for each in means)


@pytest.fixture
def encoded(tiny):
    tokens = tiny.tokenizer([f"word1 {'word2 ' * (index * 7 % 27)}" for index in range(24)])["input_ids"]
    return Dataset.from_dict({"input_ids": tokens, "label": [index % 2 for index in range(24)]})


def test_the_training_ends_as_with_whole_batches(tiny, encoded, tmp_path, monkeypatch):
    """The same gradient: sums of micro-batches instead of one batch, equal to rounding."""
    monkeypatch.setattr(lengths, "PLACES_PER_START", 1)  # these texts are short
    dataset, arguments = like_length_batches(encoded, 8, hardware=CPU)
    assert arguments["gradient_accumulation_steps"] > 1
    ends = []
    for more in (arguments, {"per_device_train_batch_size": 8, "train_sampling_strategy": "sequential"}):
        set_seed(0)
        model = tiny.model()
        for module in model.modules():
            if hasattr(module, "p"):
                module.p = 0.0  # dropout draws anew for each micro-batch
        args = TrainingArguments(
            output_dir=str(tmp_path),
            learning_rate=2.0,
            optim="sgd",
            num_train_epochs=2,
            save_strategy="no",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **more,
        )
        trainer = Trainer(
            model, args, train_dataset=dataset, data_collator=DataCollatorWithPadding(tiny.tokenizer)
        )
        trainer.loss_is_scaled_for_ga = False
        assert trainer.train().global_step == 6
        ends.append(model.state_dict())
    one, two = ends
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in one)
    before = tiny.model().state_dict()
    assert any((one[name] - before[name]).abs().max() > 1e-3 for name in one)


def test_both_sets_of_arguments_go_together():
    _, batches = like_length_batches(texts([10, 300] * 8), 8, hardware=CPU)
    names = {each.name for each in dataclasses.fields(TrainingArguments)}
    together = training_arguments(CPU) | batches
    assert together.keys() <= names
    assert together["train_sampling_strategy"] == "sequential"
    assert lessonkit.like_length_batches is like_length_batches


@pytest.mark.parametrize(
    ("dataset", "batch_size", "said"),
    [
        (texts([3] * 16), 0, "batch_size is 0"),
        (texts([3] * 16), 2.0, "batch_size is 2.0"),
        (texts([3] * 16), True, "batch_size is True"),
        (texts([3] * 4), 8, "not one batch of 8"),
        (Dataset.from_dict({"text": ["a"] * 9}), 8, "not tokenized"),
        ([{"input_ids": [1]}] * 9, 8, "another order in this list"),
        (IterableDataset.from_generator(lambda: iter([{"input_ids": [1]}])), 8, "IterableDataset"),
    ],
)
def test_what_cannot_be_ordered_is_told(dataset, batch_size, said):
    with pytest.raises(DataError, match=said) as told:
        like_length_batches(dataset, batch_size)
    assert "like_length_batches" in told.value.fix or "batch_size" in told.value.fix
