"""What the lesson builds by hand is what production/ has; its exercises ask for what production/ does."""

from __future__ import annotations

import math
import re

import pytest
import torch
from lesson_source import lesson_text, statement
from torch import nn

from lessonkit.exercises import production_multi_task as facts
from production.multitask import fresh
from production.multitask_model import Task
from production.multitask_training import FixedWeights, batches, draw, shares

LESSON = "production/multi-task"


def test_the_model_by_hand_is_productions(tiny) -> None:
    model = fresh(str(tiny.folder), 12)
    outputs = {"topic": 3, "section": 2}
    for name, count in outputs.items():
        model.add_task(Task(name, labels=tuple("abc"[:count])))
    found = {"torch": torch, "nn": nn}
    exec(statement(LESSON, "Shared"), found)
    by_hand = found["Shared"](model.encoder, outputs)
    by_hand.heads.load_state_dict(model.heads.state_dict())
    words = tiny.tokenizer(["word1 word2 word3", "word7"], padding=True, return_tensors="pt")
    given = words["input_ids"], words["attention_mask"]
    with torch.inference_mode():
        for name in outputs:
            assert torch.equal(by_hand.eval()(name, *given), model.eval()(name, *given))


def test_alone_is_a_part_of_together(tiny) -> None:
    """A task's batches are the same ones, in the same order, with and without the other task's turns."""
    schedule = draw({"topic": 60, "section": 20}, 20, math.inf)
    filtered = [each for each in schedule if each == "topic"]
    assert len(filtered) == 10
    assert "[each for each in schedule if each == name]" in lesson_text(LESSON)
    from production.multitask_training import Rows

    rows = Rows([str(each) for each in range(60)], [[each] for each in range(60)], {})
    one, other = (batches(rows, 16, seed=5) for _ in range(2))
    assert [next(one).texts for _ in range(5)] == [next(other).texts for _ in range(5)]


@pytest.mark.parametrize("temperature", [0.5, 1, 3, math.inf])
def test_the_exercises_shares_are_productions(temperature: float) -> None:
    sizes = {"topic": 960, "section": 96}
    names: dict = {}
    exec(facts._shares().source, names)
    assert names["shares"](sizes, temperature) == pytest.approx(shares(sizes, temperature))


def test_surgery_leaves_the_other_loss_alone() -> None:
    names: dict = {}
    exec(facts._surgery().source, names)
    mine, other = [1.0, -2.0, 0.5], [0.0, 3.0, 1.0]
    left = names["without_conflict"](mine, other)
    assert facts._dot(left, other) == pytest.approx(0)
    assert facts._dot(left, mine) > 0
    assert names["without_conflict"](mine, mine) == mine


def test_the_weight_follows_the_square_of_the_unit() -> None:
    told = re.sub(r"\n# ", " ", lesson_text(LESSON))
    assert f"{facts.WEIGHT} times the squared error in words²" in told
    assert "in *hundreds*" in told
    off = torch.tensor([30.0, -120.0])
    losses = (off**2).mean(), ((off / facts.TIMES) ** 2).mean()
    weights = facts.WEIGHT, facts._unit().reference
    sums = [
        float(FixedWeights({"words": weight})({"words": loss}))
        for weight, loss in zip(weights, losses, strict=True)
    ]
    assert sums[0] == pytest.approx(sums[1])


def test_replay_takes_turns() -> None:
    names = {"MORE_STEPS": 8, "FIRST": ("topic", "section")}
    text = lesson_text(LESSON)
    loop = re.search(r'plain = \["family"\].*?(?=\n\n)', text, re.DOTALL).group()
    exec(loop, names)
    mixed = names["mixed"]
    assert [each for each in mixed if each == "family"] == names["plain"]
    assert (mixed.count("topic"), mixed.count("section"), len(mixed)) == (2, 2, 12)
    assert mixed[:6] == ["family", "family", "topic", "family", "family", "section"]


def test_its_options_are_the_letters_of_the_exercise() -> None:
    told = re.sub(r"\n# ", " ", lesson_text(LESSON))
    part = told[told.index("**Exercise 4") :]
    for letter, said in facts._same_bits().options.items():
        assert f'`"{letter}"`' in part
        assert said.split(",")[0][:25] in part
