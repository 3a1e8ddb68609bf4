"""The exercises of `start-here`: a letter, a number and a function, so one of each kind."""

from __future__ import annotations

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_start(), _bytes(), _size()]


def _start() -> Exercise:
    return Choice(
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


def _bytes() -> Exercise:
    return Value(
        name="bytes",
        reference=88,
        also_right=("88", 88.0),
        because="22 million times 4 bytes are 88 million bytes. In 16 bits it would be 44 MB, in 4 bits 11 MB: so a model "
        "comes to fit. In training, its weights are only a part of what must fit.",
        hints=(
            "A byte is 8 bits. How many bytes is a number of 32 bits?",
            "So many bytes, 22 million times. A million bytes are one MB.",
        ),
        wrong=(
            WrongAnswer("bits", 704, "You counted bits. 8 of them are one byte."),
            WrongAnswer("half", 44, "That is the size in 16 bits, in `bfloat16` for one. float32 has 32."),
            WrongAnswer(
                "one-byte",
                22,
                "That would be one byte a number. float32 takes 32 bits, and 8 bits are a byte.",
            ),
            WrongAnswer(
                "gigabytes",
                0.088,
                "Right, in gigabytes. Here megabytes are asked for: a thousand times as many.",
            ),
            WrongAnswer(
                "in-bytes", 88_000_000, "Right, in bytes. Here megabytes are asked for: a million bytes each."
            ),
        ),
        tolerance=0.01,
    )


def _size() -> Exercise:
    return Function(
        name="size",
        reference=_megabytes,
        also_right=(lambda parameters, bits: parameters * (bits / 8) * 1e-6,),
        cases=(
            (22_000_000, 32),
            (22_000_000, 16),
            (135_000_000, 16),
            (135_000_000, 4),
            (7_000_000_000, 4),
            (1, 8),
        ),
        source="def megabytes(parameters, bits):\n    return parameters * bits / 8 / 1_000_000",
        because="It is the first thing to ask of a model: does it fit? `lessonkit plan` asks it of a whole training.",
        hints=(
            "`return` gives the result back. What did you do with 22 million and 32 in the exercise before?",
            "Times the bits, over 8 bits a byte, over 1_000_000 bytes an MB.",
        ),
        wrong=(
            WrongAnswer(
                "bits",
                lambda parameters, bits: parameters * bits / 1_000_000,
                "You give megabits: a byte is 8 bits.",
            ),
            WrongAnswer(
                "in-bytes",
                lambda parameters, bits: parameters * bits / 8,
                "You give bytes: an MB is a million of them.",
            ),
            WrongAnswer(
                "mebibytes",
                lambda parameters, bits: parameters * bits / 8 / 2**20,
                "You divide by 2 ** 20. Those are MiB (mebibytes), as memory is often told; an MB is 1_000_000 bytes.",
            ),
            WrongAnswer(
                "always-32",
                lambda parameters, bits: parameters * 4 / 1_000_000,
                "You count 4 bytes a number, whatever `bits` says.",
            ),
            WrongAnswer(
                "whole",
                lambda parameters, bits: parameters * bits // 8 // 1_000_000,
                "You round down with `//`, so small models take nothing. Divide with `/`.",
            ),
        ),
    )


def _megabytes(parameters: int, bits: int) -> float:
    return parameters * bits / 8 / 1_000_000
