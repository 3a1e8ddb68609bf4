"""The exercises ask for what production/ does, and the lesson names the numbers that they count with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from lesson_source import lesson_text

from lessonkit.errors import LessonError
from lessonkit.exercises import production_serving as facts
from production.client import pause
from production.gateway import Gateway
from production.requests_checks import Limits, RefusedError
from production.served_model import ServedModel

LESSON = "production/serving"


def test_the_exercise_waits_as_the_client_does() -> None:
    exercise = facts._pause()
    names: dict = {}
    exec(exercise.source, names)
    for tries, retry_after in exercise.cases:
        assert names["pause"](tries, retry_after) == pytest.approx(pause(tries, retry_after, lambda: 0.0))


def test_the_lesson_gives_the_numbers_that_are_asked_for() -> None:
    text = lesson_text(LESSON).replace("\n# ", " ")
    assert f"{facts.USERS} users" in text
    assert f"gives {facts.ANSWERS} answers a second" in text


def test_all_that_is_started_is_stopped() -> None:
    text = lesson_text(LESSON)
    assert all(f"{name}.stop()" in text for name in ("process", "generator"))
    assert "with single," in text


class Version:
    """Stands in for a Backend: keeps what happens to it."""

    timeout, gateway = 1.0, None

    def __init__(self, name: str, seen: list[str], works: bool = True) -> None:
        self.served, self.seen, self.works = ServedModel(Path(name), name, {}), seen, works

    async def start(self, patience: float) -> None:
        if not self.works:
            raise LessonError("It did not start.")
        self.seen.append(f"{self.served.version} is ready")

    async def drain(self, patience: float) -> None:
        self.seen.append(f"{self.served.version} drains, {self.gateway.current.served.version} serves")

    async def stop(self) -> None:
        self.seen.append(f"{self.served.version} is stopped")


def test_a_reload_goes_in_the_order_that_the_exercise_calls_right() -> None:
    seen: list[str] = []
    made = [Version("one", seen), Version("two", seen), Version("three", seen, works=False)]
    versions = iter(made)

    async def whole() -> None:
        gateway = Gateway(lambda: next(versions), "key", Limits(), 10, 1.0)
        made[0].gateway = gateway
        await gateway.reload()
        assert await gateway.reload() == "two"
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="Version two stays"):
            await gateway.reload()
        assert gateway.current.served.version == "two"

    asyncio.run(whole())
    assert seen == ["one is ready", "two is ready", "one drains, two serves", "three is stopped"]
    assert facts._order().reference == "d"
