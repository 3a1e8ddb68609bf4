"""Logits only where there are labels: fewer of them, and the same training."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_trainer import VOCABULARY, causal_model, close, lora_model, make_trainer, weights

from lessonkit.errors import DataError
from lessonkit.training.collators import CausalLMCollator

ROWS = 12


def make_tokenizer(side: str = "right", pad_token: str | None = "w0"):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w1"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pad_token, unk_token="w1", padding_side=side
    )


def texts(labels: str = "answers") -> list[dict]:
    """Rows of 4 to 12 tokens, the last one to three of them the answer."""
    draw, rows = random.Random(0), []
    for _ in range(ROWS):
        ids = [draw.randrange(1, VOCABULARY) for _ in range(draw.randint(4, 12))]
        answer = draw.randint(1, 3) if labels == "answers" else len(ids)
        rows.append({"input_ids": ids, "labels": [-100] * (len(ids) - answer) + ids[len(ids) - answer :]})
    return rows


def plain(tokenizer):
    from transformers import DataCollatorForSeq2Seq

    return DataCollatorForSeq2Seq(tokenizer, padding=True)


def loss_and_gradients(model, batch: dict, **more) -> tuple[torch.Tensor, dict]:
    model.zero_grad()
    loss = model(**batch, **more).loss
    loss.backward()
    return loss.detach(), {
        name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad
    }


def assert_same_training(model, rows: list[dict], tokenizer, **more) -> None:
    ours = loss_and_gradients(model, CausalLMCollator(tokenizer)(rows), **more)
    theirs = loss_and_gradients(model, dict(plain(tokenizer)(rows)), **more)
    assert theirs[0] > 0.1
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"num_items_in_batch": torch.tensor(100)}], ids=["mean", "counted"])
@pytest.mark.parametrize("labels", ["answers", "everything"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("make_model", [causal_model, lora_model], ids=["full", "lora"])
def test_loss_and_gradients_are_those_of_plain_padding(make_model, side, labels, more):
    model = make_model()
    assert_same_training(model, texts(labels), make_tokenizer(side), **more)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, VOCABULARY - 1), st.booleans()), min_size=2, max_size=12),
        min_size=1,
        max_size=5,
    ).filter(lambda rows: any(learned for row in rows for _, learned in row[1:])),
    st.sampled_from(["left", "right"]),
)
@settings(max_examples=25, deadline=None)
def test_it_holds_for_labels_anywhere(drawn, side):
    rows = [
        {"input_ids": [token for token, _ in row], "labels": [token if on else -100 for token, on in row]}
        for row in drawn
    ]
    assert_same_training(causal_model(), rows, make_tokenizer(side))


@pytest.mark.parametrize("labels", ["answers", "everything"])
def test_the_vocabularys_matrix_meets_only_the_columns_before_a_label(labels):
    model, seen = causal_model(), []
    model.lm_head.register_forward_hook(lambda _, given, made: seen.append((given[0].shape, made.shape)))
    batch = CausalLMCollator(make_tokenizer("left"))(texts(labels))
    model(**batch)
    columns, length = len(batch["logits_to_keep"]), batch["input_ids"].shape[1]
    assert seen == [((ROWS, columns, 16), (ROWS, columns, VOCABULARY))]
    assert columns == (3 if labels == "answers" else length - 1)
    assert batch["shift_labels"].shape == (ROWS, columns)
    assert batch["labels"].shape == batch["attention_mask"].shape == (ROWS, length)


def test_rows_without_labels_learn_all_their_tokens_but_no_padding():
    rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9, 0, 0, 0], "attention_mask": [1, 1, 0, 0, 0]}]
    batch = CausalLMCollator(make_tokenizer())([*rows, {"input_ids": [4, 3], "labels": None}])
    assert batch["labels"].tolist() == [[5, 6, 7, -100, -100], [8, 9, *[-100] * 3], [4, 3, *[-100] * 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert batch["logits_to_keep"].tolist() == [0, 1]


def test_switched_off_it_is_plain_padding():
    tokenizer = make_tokenizer()
    batch = CausalLMCollator(tokenizer, labelled_logits_only=False)(texts())
    other = plain(tokenizer)(texts())
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_rows_are_left_as_they_were_and_may_be_tensors():
    from datasets import Dataset

    rows = texts()
    batch = CausalLMCollator(make_tokenizer())(rows)
    assert rows == texts()
    formatted = list(Dataset.from_list(rows).with_format("torch"))
    again = CausalLMCollator(make_tokenizer())(formatted)
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def trained(folder, collator, kind: str = "causal", **changes) -> dict:
    from datasets import Dataset

    # a column that no model takes: the Trainer removes it before the collator sees it
    dataset = Dataset.from_list([{**row, "source": "a tale"} for row in texts()])
    options = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 0.05, **changes}
    trainer = make_trainer(folder, kind, train_dataset=dataset, data_collator=collator, **options)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert trainer.state.global_step == 3
    assert not close(before, after)
    return after


@pytest.mark.parametrize(("kind", "side"), [("causal", "right"), ("causal", "left"), ("lora", "right")])
@pytest.mark.parametrize(
    "changes",
    [{}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, {"bf16": True}],
    ids=["plain", "accumulation", "bf16"],
)
def test_the_trainer_ends_with_the_same_weights(tmp_path, kind, side, changes):
    tokenizer = make_tokenizer(side)
    ours = trained(tmp_path, CausalLMCollator(tokenizer), kind, **changes)
    theirs = trained(tmp_path, plain(tokenizer), kind, **changes)
    if changes.get("bf16"):  # a matrix of another shape is added up in another order
        assert all(torch.allclose(ours[name], theirs[name], rtol=0.05, atol=2e-3) for name in ours)
    else:
        assert close(ours, theirs)


def evaluated(folder, collator, **changes) -> tuple[dict, list]:
    from datasets import Dataset

    predictions: list = []

    def compute_metrics(seen) -> dict:
        predictions.append(seen)
        return {"seen": len(seen.predictions)}

    trainer = make_trainer(
        folder,
        eval_dataset=Dataset.from_list(texts()),
        data_collator=collator,
        compute_metrics=None if changes.get("prediction_loss_only") else compute_metrics,
        per_device_eval_batch_size=5,
        **changes,
    )
    return trainer.evaluate(), predictions


@pytest.mark.parametrize("changes", [{}, {"prediction_loss_only": True}, {"label_names": ["shift_labels"]}])
def test_an_evaluations_loss_is_the_same(tmp_path, changes):
    tokenizer = make_tokenizer()
    theirs = evaluated(tmp_path, plain(tokenizer))[0]["eval_loss"]
    ours = evaluated(tmp_path, CausalLMCollator(tokenizer), **changes)[0]["eval_loss"]
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_metrics_see_each_logit_beside_the_label_it_predicts(tmp_path):
    """With ``label_names=["shift_labels"]``; batches of unequal K are padded alike by the Trainer."""
    import numpy as np

    tokenizer = make_tokenizer()
    (ours,) = evaluated(tmp_path, CausalLMCollator(tokenizer), label_names=["shift_labels"])[1]
    (theirs,) = evaluated(tmp_path, plain(tokenizer))[1]
    assert ours.predictions.shape[:2] == ours.label_ids.shape
    shifted = theirs.label_ids[:, 1:]
    expected = theirs.predictions[:, :-1][shifted != -100]
    learned = ours.label_ids != -100
    assert learned.sum() == (shifted != -100).sum() > 0
    np.testing.assert_array_equal(ours.label_ids[learned], shifted[shifted != -100])
    np.testing.assert_allclose(ours.predictions[learned], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"label_smoothing_factor": 0.1}, {"kind": "prompt"}], ids=["smoothing", "prompt"]
)
def test_what_counts_the_columns_itself_works_when_it_is_switched_off(tmp_path, changes):
    tokenizer = make_tokenizer()
    switched = CausalLMCollator(tokenizer, labelled_logits_only=False)
    if changes.get("kind") == "prompt":
        changes = {"model": prompt_model()}
    ours = trained(tmp_path, switched, **changes)
    if "model" in changes:
        changes = {"model": prompt_model()}
    assert close(ours, trained(tmp_path, plain(tokenizer), **changes))


def prompt_model():
    from peft import PromptTuningConfig, get_peft_model

    base = causal_model()
    base.config.max_position_embeddings = 32
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))


NOTHING_TO_LEARN = [{"input_ids": [5, 6], "labels": [-100, -100]}]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "once upon a time"}], "only text"),
        ([{}], "only nothing"),
        (["once upon a time"], "it is a str"),
        ([[5, 6, 7]], "it is a list"),
        ([], "no rows"),
        ([{"input_ids": [5, 6, 7], "labels": [5, 6]}], "3 input_ids and 2 labels"),
        ([{"input_ids": [5, 6, 7], "attention_mask": [1, 1]}], "3 input_ids and 2 attention_mask"),
        ([{"input_ids": [5, 6, 7], "labels": 1}], "no list of whole numbers"),
        ([{"input_ids": [5, 6, 7], "labels": [0.5, 0.5, 1.0]}], "no list of whole numbers"),
        ([{"input_ids": "once upon"}], "no list of whole numbers"),
        ([{"input_ids": None}], "no list of whole numbers"),
        ([{"input_ids": [[5, 6], [7, 8]]}], "no list of whole numbers"),
        ([{"input_ids": ["w5", "w6"]}], "no list of whole numbers"),
        (NOTHING_TO_LEARN, "has a label to learn from"),
        ([{"input_ids": [5, 6], "labels": [5, -100]}], "has a label to learn from"),
        ([{"input_ids": [5]}], "has a label to learn from"),
        ([{"input_ids": []}], "has a label to learn from"),
    ],
)
def test_what_cannot_be_learned_from_is_told(rows, says):
    with pytest.raises(DataError, match=says) as caught:
        CausalLMCollator(make_tokenizer())(rows)
    assert "Next: " in str(caught.value)


def test_one_good_row_does_not_hide_a_bad_one():
    with pytest.raises(DataError, match="2 input_ids and 1 labels"):
        CausalLMCollator(make_tokenizer())([*texts(), {"input_ids": [5, 6], "labels": [5]}])


def test_one_labelled_row_is_enough_for_a_batch():
    assert_same_training(causal_model(), [*NOTHING_TO_LEARN, *texts()], make_tokenizer())


def test_a_tokenizer_that_cannot_pad_is_told():
    with pytest.raises(DataError, match=r"tokenizer\.pad_token = tokenizer\.eos_token"):
        CausalLMCollator(make_tokenizer(pad_token=None))
