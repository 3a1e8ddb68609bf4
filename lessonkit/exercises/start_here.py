"""The one exercise of `start-here`: it shows how exercises work."""

from __future__ import annotations

from lessonkit.exercises import Choice, Exercise, WrongAnswer


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [
        Choice(
            name="what-it-starts-from",
            reference="b",
            also_right=("B", "(b)"),
            options={
                "a": "a model that knows nothing yet",
                "b": "a model that has been trained on other, general texts",
                "c": "a model that has been trained on your task already",
            },
            because="A pre-trained model knows language; fine-tuning teaches it your task.",
            hints=(
                "What could the `fine` in fine-tuning mean?",
                "It adapts something that is good at language already.",
            ),
            wrong=(
                WrongAnswer(
                    "from-scratch",
                    "a",
                    "That would be training from scratch, which takes far more text and time than you have.",
                ),
                WrongAnswer(
                    "already-done",
                    "c",
                    "Then nothing would be left to do. Fine-tuning is how it gets to know your task.",
                ),
            ),
        )
    ]
