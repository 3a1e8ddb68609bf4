"""The exercises ask for what production/ does, and the lesson names the numbers that they count with."""

from __future__ import annotations

import pytest
from lesson_source import lesson_text

from lessonkit.exercises import production_distributed_training as facts
from production.batches import share
from production.communication import sent_per_step
from production.sharding import predicted

LESSON = "production/distributed-training"


@pytest.mark.parametrize(("rank", "world", "accumulate"), [(0, 1, 1), (1, 2, 1), (1, 2, 3), (2, 4, 3)])
def test_the_exercise_deals_as_production_does(rank: int, world: int, accumulate: int) -> None:
    rows = [7, 3, 9, 1, 4, 8, 2, 6, 5, 0, 11, 10]
    names: dict = {}
    exec(facts._mine().source, names)
    assert names["mine"](rows, rank, world, accumulate) == share(rows, rank, world, accumulate)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (8, 4)])
def test_the_exercise_counts_as_production_does(strategy: str, world: int, accumulate: int) -> None:
    names: dict = {}
    exec(facts._sent().source, names)
    told = sent_per_step(1000, world, strategy, accumulate=accumulate)
    assert names["sent"](1000, world, strategy, accumulate) == pytest.approx(told)


def test_the_bytes_asked_for_are_those_predicted() -> None:
    words = {3: "3 billion weights", 8: "over 8 processes"}
    text = lesson_text(LESSON).replace("\n# ", " ")
    assert all(words[each] in text for each in (facts.BILLIONS, facts.PROCESSES))
    found = predicted([(1000 * facts.BILLIONS, 1000)], "fsdp", facts.PROCESSES)
    assert found.total / 1e6 == pytest.approx(facts._held().reference, rel=1e-3)


def test_no_pipes_or_processes_are_left_open() -> None:
    """Each process of the lesson is started in a ``with``, or stopped in a ``finally``."""
    starts = [
        line for line in lesson_text(LESSON).splitlines() if "start(" in line and "lessonkit" not in line
    ]
    assert starts
    assert all(line.lstrip().startswith("with start(") or "nodes = [start(" in line for line in starts)
