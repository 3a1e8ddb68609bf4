"""What cannot work is said before training, all of it at once; what goes wrong in it, at the step it does."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_trainer import (
    LENGTH,
    VOCABULARY,
    causal_model,
    causal_rows,
    classifier,
    make_trainer,
    pad,
    same,
    weights,
)
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    RobertaConfig,
    Trainer,
    TrainerCallback,
)
from transformers import RobertaForSequenceClassification as Roberta

from lessonkit.errors import DataError, LessonkitError, TrainingError
from lessonkit.training import run, safety
from lessonkit.training.checks import check, problems_of
from lessonkit.training.dataset_checks import scan


def picky(rows: list[dict]) -> dict:
    raise DataError("These rows will not do.", fix="take others")


def with_labels(values: list, kind: str = "") -> Dataset:
    rows = causal_rows(len(values)).remove_columns("labels").add_column("labels", values)
    return rows.cast_column("labels", Value(kind)) if kind else rows


def tokenizer(**tokens: str) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {f"word{number}": number for number in range(VOCABULARY)} | {"[PAD]": 0}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words)), **tokens)


def spoil(model: torch.nn.Module, value: float = math.nan) -> torch.nn.Module:
    next(model.parameters()).data[0, 0] = value
    return model


def frozen(model: torch.nn.Module) -> torch.nn.Module:
    return model.requires_grad_(False)


def unpadded(model: Any) -> Any:
    model.config.pad_token_id = None
    return model


def long_rows() -> Dataset:
    ids = [[1] * 5, [1] * (LENGTH + 1)] * 2
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def changed(trainer: Trainer, **values: Any) -> Trainer:
    for name, value in values.items():
        setattr(trainer.args, name, value)
    return trainer


def case(name: str, said: str, fix: str, make: Any) -> Any:
    return pytest.param(make, said, fix, id=name)


TEXTS = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
BAD_INPUTS = [
    case("no data", "no training data", "train_dataset", lambda at: make_trainer(at, train_dataset=None)),
    case(
        "no rows",
        "no training data",
        "train_dataset",
        lambda at: make_trainer(at, train_dataset=causal_rows(0)),
    ),
    case(
        "no rows in a list",
        "no training data",
        "train_dataset",
        lambda at: make_trainer(at, train_dataset=[]),
    ),
    case(
        "frozen",
        "Nothing would be trained",
        "requires_grad",
        lambda at: make_trainer(at, model=frozen(causal_model())),
    ),
    case(
        "label too large",
        "The label 3 in 'labels' does not exist",
        "num_labels=4",
        lambda at: make_trainer(at, "classifier", train_dataset=with_labels([0, 1, 3])),
    ),
    case(
        "label below zero",
        "The label -1",
        "from 0",
        lambda at: make_trainer(at, "classifier", train_dataset=with_labels([0, -1, 2])),
    ),
    case(
        "label too large in a list of rows",
        "The label 3",
        "num_labels=4",
        lambda at: make_trainer(at, "classifier", train_dataset=list(with_labels([0, 3]))),
    ),
    case(
        "decimal labels",
        "are decimals",
        "int64",
        lambda at: make_trainer(at, "classifier", train_dataset=with_labels([0.0, 1.0])),
    ),
    case(
        "text labels",
        "are texts",
        "class_encode_column",
        lambda at: make_trainer(at, "classifier", train_dataset=with_labels(["a", "b"])),
    ),
    case(
        "whole numbers for regression",
        "whole numbers",
        "float",
        lambda at: make_trainer(at, "classifier", model=with_outputs(1), train_dataset=with_labels([0, 1])),
    ),
    case(
        "several labels as whole numbers",
        "no such labels",
        "decimals",
        lambda at: make_trainer(at, "classifier", train_dataset=with_labels([[0, 1, 1], [1, 0, 0]])),
    ),
    case(
        "token label beyond the vocabulary",
        f"The label {VOCABULARY}",
        "tokenizer",
        lambda at: make_trainer(at, train_dataset=replaced_entry("labels", VOCABULARY)),
    ),
    case(
        "token beyond the vocabulary",
        f"token id {VOCABULARY} is not",
        "resize_token_embeddings",
        lambda at: make_trainer(at, train_dataset=replaced_entry("input_ids", VOCABULARY)),
    ),
    case(
        "token below zero",
        "token id -3 is not",
        "tokenizer",
        lambda at: make_trainer(at, train_dataset=replaced_entry("input_ids", -3)),
    ),
    case(
        "too long",
        f"{LENGTH + 1} tokens",
        f"max_length={LENGTH}",
        lambda at: make_trainer(at, train_dataset=long_rows()),
    ),
    case(
        "no labels",
        "have no labels",
        "mlm=False",
        lambda at: make_trainer(
            at,
            train_dataset=causal_rows().remove_columns("labels"),
            data_collator=lambda rows: {"input_ids": torch.tensor([row["input_ids"][:3] for row in rows])},
        ),
    ),
    case(
        "all labels ignored",
        "anything to learn from",
        "max_length",
        lambda at: make_trainer(
            at, train_dataset=causal_rows().map(lambda row: {"labels": [-100] * len(row["labels"])})
        ),
    ),
    case(
        "only the first token labelled",
        "anything to learn from",
        "max_length",
        lambda at: make_trainer(
            at,
            train_dataset=causal_rows().map(lambda row: {"labels": [1] + [-100] * (len(row["labels"]) - 1)}),
        ),
    ),
    case(
        "not tokenized",
        "no column that the model takes",
        "row['text']",
        lambda at: make_trainer(at, train_dataset=TEXTS),
    ),
    case(
        "no padding token",
        "no padding token",
        "pad_token = tokenizer.eos_token",
        lambda at: make_trainer(
            at,
            "classifier",
            data_collator=DataCollatorWithPadding(tokenizer()),
        ),
    ),
    case(
        "model without padding token",
        "does not know its padding token",
        "config.pad_token_id",
        lambda at: make_trainer(at, "classifier", model=unpadded(classifier())),
    ),
    case(
        "not padded",
        "does not fill them up|do not fill them up",
        "DataCollatorWithPadding",
        lambda at: make_trainer(at, "classifier", data_collator=None),
    ),
    case(
        "collator fails",
        "collator fails on the first rows",
        "data_collator",
        lambda at: make_trainer(at, data_collator=lambda rows: rows[0]["nothing"]),
    ),
    case(
        "collator knows what to do",
        "These rows will not do",
        "take others",
        lambda at: make_trainer(at, data_collator=picky),
    ),
    case(
        "labels of another length",
        r"The labels have the shape \(4,\)",
        "each token",
        lambda at: make_trainer(at, data_collator=lambda rows: pad(rows) | {"labels": torch.zeros(4).long()}),
    ),
    case("no epochs", "not one step", "num_train_epochs", lambda at: make_trainer(at, num_train_epochs=0)),
    case("no steps", "not one step", "max_steps", lambda at: make_trainer(at, max_steps=0)),
    case("rate of zero", "learning_rate=0", "2e-5", lambda at: make_trainer(at, learning_rate=0.0)),
    case("rate below zero", "learning_rate=-1", "2e-5", lambda at: make_trainer(at, learning_rate=-1.0)),
    case(
        "rate that is no number",
        "learning_rate=nan",
        "2e-5",
        lambda at: make_trainer(at, learning_rate=math.nan),
    ),
    case(
        "batch of nothing",
        "per_device_train_batch_size=0",
        "or more",
        lambda at: changed(make_trainer(at), per_device_train_batch_size=0),
    ),
    case(
        "no full batch",
        "not one full batch",
        "drop_last=False",
        lambda at: make_trainer(at, train_dataset=causal_rows(3), dataloader_drop_last=True),
    ),
    case(
        "spoiled weights",
        "not all numbers",
        "load the model again",
        lambda at: make_trainer(at, model=spoil(causal_model())),
    ),
    case(
        "infinite weights",
        "not all numbers",
        "load the model again",
        lambda at: make_trainer(at, model=spoil(causal_model(), math.inf)),
    ),
    case(
        "fp16 twice",
        "cannot train weights that are float16",
        "torch.float32",
        lambda at: changed(make_trainer(at, model=causal_model().half()), fp16=True),
    ),
    case(
        "no place to write",
        "Nothing can be written",
        "output_dir",
        lambda at: changed(make_trainer(at), output_dir=a_file(at)),
    ),
]


def with_outputs(count: int) -> Any:
    model = classifier()
    model.config.num_labels = model.num_labels = count
    model.classifier = torch.nn.Linear(16, count)
    return model


def replaced_entry(column: str, value: int) -> Dataset:
    texts = causal_rows()[:]
    texts[column] = [list(row) for row in texts[column]]
    texts[column][7][2] = value
    return Dataset.from_dict(texts)


def a_file(folder: Path) -> str:
    path = folder / "file"
    path.write_text("")
    return str(path / "inside")


@pytest.mark.parametrize(("make", "said", "fix"), BAD_INPUTS)
def test_what_cannot_work_is_said_before_training(tmp_path: Path, make: Any, said: str, fix: str):
    trainer = make(tmp_path)
    with pytest.raises(LessonkitError, match=said) as caught:
        run(trainer)
    assert fix in caught.value.fix
    assert caught.value.why
    assert trainer.state.global_step == 0


def test_all_problems_are_told_at_once(tmp_path: Path):
    trainer = make_trainer(
        tmp_path, model=frozen(causal_model()), train_dataset=long_rows(), learning_rate=0.0
    )
    with pytest.raises(TrainingError, match="3 reasons") as caught:
        run(trainer)
    for said in ("learning_rate", "Nothing would be trained", "tokens"):
        assert said in str(caught.value)
    assert "(3)" in caught.value.fix


@pytest.mark.parametrize("kind", ["causal", "classifier", "lora"])
def test_good_trainings_pass_and_the_dice_stay(tmp_path: Path, kind: str):
    trainer = make_trainer(tmp_path, kind)
    random.seed(1)
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    assert check(trainer) == []
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize(
    "values",
    [[0, 1, 2], [-100, 1, 2], [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]],
    ids=["classes", "some-ignored", "several-labels"],
)
def test_labels_that_work_pass(tmp_path: Path, values: list):
    trainer = make_trainer(
        tmp_path,
        "classifier",
        train_dataset=with_labels(values),
        data_collator=lambda rows: (
            pad([row | {"labels": 0} for row in rows])
            | {"labels": torch.tensor([row["labels"] for row in rows])}
        ),
    )
    assert problems_of(trainer)[0] == []
    assert run(trainer).steps == 1


def test_rows_with_nothing_to_learn_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    rows = causal_rows().map(
        lambda row, index: {"labels": [-100] * 5} if index < 3 else {}, with_indices=True
    )
    rows = rows.map(lambda row: {"input_ids": (row["input_ids"] * 2)[: len(row["labels"])]})
    run(make_trainer(tmp_path, train_dataset=rows))
    assert "3 of 22 rows have nothing to learn from" in capfd.readouterr().err


def test_roberta_has_two_positions_less(tmp_path: Path):
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH + 2,
        num_labels=3,
    )
    rows = Dataset.from_dict({"input_ids": [[5] * (LENGTH + 1)] * 2, "labels": [0, 1]})
    with pytest.raises(TrainingError, match=f"the model takes {LENGTH}"):
        run(make_trainer(tmp_path, "classifier", model=Roberta(config), train_dataset=rows))
    assert (
        run(make_trainer(tmp_path, "classifier", model=Roberta(config), train_dataset=shorter(rows))).steps
        == 1
    )


def shorter(rows: Dataset) -> Dataset:
    return rows.map(lambda row: {"input_ids": row["input_ids"][:LENGTH]})


def test_soft_prompts_take_up_room(tmp_path: Path):
    from peft import PromptTuningConfig, get_peft_model

    base = causal_model()
    with pytest.warns(FutureWarning, match="checkpointing"):
        model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6))
    with pytest.raises(TrainingError, match=f"the model takes {LENGTH - 6}"):
        run(make_trainer(tmp_path, model=model))


def test_a_stream_is_not_consumed(tmp_path: Path):
    taken = []

    def rows() -> Any:
        for row in causal_rows():
            taken.append(row)
            yield row

    from datasets import IterableDataset

    trainer = make_trainer(tmp_path, train_dataset=IterableDataset.from_generator(rows), max_steps=2)
    assert check(trainer) == []
    assert taken == []


def test_only_the_first_rows_of_slow_data_are_looked_at(tmp_path: Path):
    class Slow(torch.utils.data.Dataset):
        asked = 0

        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> dict:
            self.asked += 1
            return {"input_ids": [1, 2, 3], "labels": [1, 2, 3]}

    slow = Slow()
    assert check(make_trainer(tmp_path, train_dataset=slow)) == []
    assert 0 < slow.asked < 1000


def test_thousands_of_rows_are_read_fast():
    ids = [[7] * 200] * 5000
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    scan(rows.select(range(10)), ["input_ids"])
    start = time.perf_counter()
    columns = scan(rows, ["input_ids", "labels"])
    assert time.perf_counter() - start < 2  # 0.05 s on an idle core
    assert columns["input_ids"].rows == 5000


@given(
    st.lists(st.lists(st.sampled_from([-100, 0, 1, 7, 50]), max_size=5), min_size=1, max_size=8),
    st.booleans(),
)
@example([[]], True)
@settings(deadline=None, max_examples=60)
def test_columns_are_read_as_they_are(rows: list[list[int]], arrow: bool):
    data: Any = [{"labels": row} for row in rows]
    if arrow:
        data = Dataset.from_dict({"labels": rows})
        data = data.select([*range(len(rows))])
    column = scan(data, ["labels"])["labels"]
    values = [value for row in rows for value in row if value != -100]
    assert column.rows == len(rows)
    assert column.longest == max(map(len, rows))
    assert column.shortest == min(map(len, rows))
    assert (column.least, column.most) == ((min(values), max(values)) if values else (None, None))
    assert column.ignored == sum(all(value == -100 for value in row) for row in rows)
    assert column.ignored_shifted == sum(all(value == -100 for value in row[1:]) for row in rows)


def test_selected_rows_are_those_that_are_read():
    rows = Dataset.from_dict({"labels": [1, 99, 2]}).select([2, 0])
    column = scan(rows, ["labels"])["labels"]
    assert (column.least, column.most, column.rows) == (1, 2, 2)


# ---- While it trains ----------------------------------------------------------------------------------


class AtStep(TrainerCallback):
    """Does something to the model at the beginning of a step, counted from 1."""

    def __init__(self, step: int, do: Any) -> None:
        self.step = step
        self.do = do

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            self.do(model)


def failing(trainer: Trainer) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        run(trainer)
    return caught.value


def test_a_spoiled_weight_is_named_at_its_step(tmp_path: Path):
    error = failing(make_trainer(tmp_path, callbacks=[AtStep(4, spoil)]))
    assert "step 4" in error.what
    assert "NaN" in error.what
    assert "embed_tokens" in error.why


def test_an_infinite_loss_leaves_the_weights_alone(tmp_path: Path):
    def infinite(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs.logits.sum() * (math.inf if trainer.state.global_step == 2 else 1e-3)

    trainer = make_trainer(tmp_path, compute_loss_func=infinite)
    before: dict[int, Any] = {}
    trainer.add_callback(AtStep(3, lambda model: before.update({3: weights(trainer)})))
    error = failing(trainer)
    assert "step 3" in error.what
    assert "infinite" in error.what
    assert same(weights(trainer), before[3])
    assert all(each.grad is None for each in trainer.model.parameters())


def test_an_infinite_gradient_is_found_before_the_weights_change(tmp_path: Path):
    trainer = make_trainer(tmp_path)
    before: dict[int, Any] = {}

    def spoil_gradient(model: Any) -> None:
        before[3] = weights(trainer)
        handle = model.lm_head.weight.register_hook(lambda gradient: gradient * math.inf)
        trainer.add_callback(AtStep(4, lambda model: handle.remove()))

    trainer.add_callback(AtStep(3, spoil_gradient))
    error = failing(trainer)
    assert "gradient" in error.what
    assert "step 3" in error.what
    assert same(weights(trainer), before[3])


def test_a_high_learning_rate_is_named(tmp_path: Path):
    error = failing(make_trainer(tmp_path, learning_rate=1e38, num_train_epochs=3, max_grad_norm=0.0))
    assert "1e+38" in error.why
    assert "lower learning_rate" in error.fix


def test_a_batch_without_labels_is_named(tmp_path: Path):
    values = [0] * 8 + [-100] * 4 + [0] * 4
    rows = with_labels(values)
    error = failing(
        make_trainer(tmp_path, "classifier", train_dataset=rows, train_sampling_strategy="sequential")
    )
    assert "step 3" in error.what
    assert "-100" in error.why


def test_an_infinite_input_is_named(tmp_path: Path):
    def embedded(rows: list[dict]) -> dict:
        batch = pad(rows)
        values = torch.zeros(*batch["input_ids"].shape, 16)
        values[0, 0, 0] = math.inf if trainer.state.global_step or trainer.is_in_train else 0.0
        return {"inputs_embeds": values, "labels": batch["labels"]}

    trainer = make_trainer(tmp_path, data_collator=embedded, learning_rate=1e-3)
    error = failing(trainer)
    assert "inputs_embeds" in error.why


@pytest.mark.parametrize("at_once", [True, False], ids=["cpu", "gpu"])
def test_a_checkpoint_from_before_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool):
    from safetensors.torch import load_file

    from lessonkit.training.watch import LossWatch

    monkeypatch.setattr(LossWatch, "_at_once", lambda self: at_once)
    monkeypatch.setattr(safety, "SHARE_OF_TIME", 1e9)
    failing(make_trainer(tmp_path, callbacks=[AtStep(5, spoil)]))
    assert [each.name for each in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    stored = load_file(tmp_path / "checkpoint-4/model.safetensors")
    assert all(each.isfinite().all() for each in stored.values())


def test_on_a_gpu_it_is_not_looked_at_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Looking makes Python wait for a GPU; but nothing is missed, and no checkpoint holds NaN."""
    from lessonkit.training.watch import LossWatch

    monkeypatch.setattr(LossWatch, "_at_once", lambda self: False)
    for share in ("SHARE_OF_TIME", "FIRST_SHARE"):
        monkeypatch.setattr(safety, share, 1e-9)
    trainer = make_trainer(tmp_path, callbacks=[AtStep(5, spoil)], num_train_epochs=3)
    error = failing(trainer)
    assert "step 5" in error.what
    assert trainer.state.global_step == 10


def test_a_scalers_skipped_steps_are_no_errors(tmp_path: Path):
    """With fp16, a gradient that overflows is skipped by design; many in a row are told."""
    from lessonkit.training.watch import LossWatch

    class Scaled(LossWatch):
        def _scaled(self) -> bool:
            return True

    trainer = make_trainer(tmp_path)
    watch = Scaled(trainer)

    def feed(values: list[float]) -> None:
        for step, value in enumerate(values, 1):
            watch._pending.append((step, torch.tensor(value)))
            watch.look()

    feed([1.0, math.inf, math.nan, 1.0, math.inf, 1.0])
    assert [loss for _, loss in watch.losses] == [1.0, 1.0, 1.0]
    with pytest.raises(TrainingError, match="loss"):
        feed([math.inf] * 3)


def test_accumulated_means_are_remarked_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    run(make_trainer(tmp_path, "classifier", gradient_accumulation_steps=2))
    assert "gradients come out 2 times as large" in capfd.readouterr().err
    trainer = make_trainer(tmp_path, "classifier", gradient_accumulation_steps=2)
    trainer.loss_is_scaled_for_ga = False
    run(trainer)
    run(make_trainer(tmp_path, "causal", gradient_accumulation_steps=2))
    assert "times as large" not in capfd.readouterr().err
