"""Exercises of production/distributed-training."""

from __future__ import annotations

from lessonkit.exercises import Choice, Exercise, Function, Value, WrongAnswer

__all__ = ["exercises"]

# Exercise 1: billions of weights, processes, bytes a weight of AdamW in float32.
BILLIONS, PROCESSES, EACH = 3, 8, 16


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_mine(), _held(), _sent(), _which()]


# ---- Which rows are mine ----------------------------------------------------------------------------


def _mine_reference(rows, rank, world, accumulate):
    if len(rows) % (world * accumulate):
        raise ValueError("the batch can't be split evenly")
    own = rows[rank::world]
    size = len(own) // accumulate
    return [own[start : start + size] for start in range(0, len(own), size)]


def _mine_by_index(rows, rank, world, accumulate):
    """The same, row by row."""
    if len(rows) % (world * accumulate) != 0:
        raise ValueError("uneven")
    size = len(rows) // (world * accumulate)
    return [
        [rows[(small * size + place) * world + rank] for place in range(size)] for small in range(accumulate)
    ]


def _unchecked(rows, rank, world, accumulate):
    own = rows[rank::world]
    size = max(1, len(own) // accumulate)
    return [own[number * size : (number + 1) * size] for number in range(accumulate)]


def _all_rows(rows, rank, world, accumulate):
    if len(rows) % (world * accumulate):
        raise ValueError("uneven")
    size = len(rows) // accumulate
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _flat(rows, rank, world, accumulate):
    if len(rows) % (world * accumulate):
        raise ValueError("uneven")
    return rows[rank::world]


def _mine() -> Exercise:
    eight = list(range(10, 18))
    return Function(
        name="mine",
        reference=_mine_reference,
        also_right=(_mine_by_index,),
        because="Each row is in one small batch of one process, and all small batches are of one size. So the sum over "
        "all of them is the sum over the batch, however it was split.",
        cases=(
            (eight, 0, 2, 1),
            (eight, 1, 2, 1),
            (eight, 1, 2, 2),
            (eight, 0, 1, 4),
            (eight, 3, 4, 2),
            ([7, 3, 9], 0, 2, 1),
            (eight, 0, 2, 3),
        ),
        source="def mine(rows, rank, world, accumulate):\n"
        "    if len(rows) % (world * accumulate):\n"
        '        raise ValueError("the batch can\'t be split evenly")\n'
        "    own = rows[rank::world]\n"
        "    size = len(own) // accumulate\n"
        "    return [own[start : start + size] for start in range(0, len(own), size)]",
        hints=(
            "Every `world`-th row, from `rank` on, is yours: `rows[rank::world]`.",
            "Cut these into `accumulate` pieces of `len(own) // accumulate` rows.",
            "Before that: `if len(rows) % (world * accumulate): raise ValueError(...)`.",
        ),
        wrong=(
            WrongAnswer(
                "unchecked",
                _unchecked,
                "Rows that can't be split evenly get lost, or count for more than others, and nobody is told. Raise a "
                "`ValueError`.",
            ),
            WrongAnswer(
                "all-rows",
                _all_rows,
                "These are small batches of *all* rows: each process would learn the same. Take every `world`-th row only.",
            ),
            WrongAnswer(
                "flat", _flat, "These are the right rows, but in one list. Give a list of `accumulate` lists."
            ),
        ),
    )


# ---- Who holds what ---------------------------------------------------------------------------------


def _held() -> Exercise:
    whole = EACH * BILLIONS
    return Value(
        name="held",
        reference=whole / PROCESSES,
        also_right=("6",),
        tolerance=0.05,
        because=f"4 bytes each for the weight and its gradient, 8 for AdamW's two states: {EACH} bytes x {BILLIONS} "
        f"billion = {whole} GB, of which each process holds 1/{PROCESSES}: {whole / PROCESSES:g} GB. What it gathers for a "
        "moment, and activations, come on top.",
        hints=(
            "How many bytes belong to one weight: itself, its gradient, AdamW's two states, in float32?",
            f"{EACH} bytes a weight make {whole} GB in one process. FSDP cuts all three.",
        ),
        wrong=(
            WrongAnswer(
                "ddp", whole, "That's what each process holds under DDP: a whole copy. FSDP cuts it."
            ),
            WrongAnswer(
                "weights-only",
                4 * BILLIONS / PROCESSES,
                "That's the weights alone. Gradients and AdamW's states are cut, and held, as well.",
            ),
            WrongAnswer(
                "states-only",
                4 * BILLIONS + 12 * BILLIONS / PROCESSES,
                "You left the weights whole. That's another method (ZeRO stage 2); `fully_shard` cuts them too.",
            ),
            WrongAnswer(
                "one-state",
                12 * BILLIONS / PROCESSES,
                "AdamW keeps two numbers for each weight: the mean of the gradient and of its square.",
            ),
        ),
    )


# ---- What is sent -----------------------------------------------------------------------------------


def _sent_reference(parameters, world, strategy, accumulate):
    part = (world - 1) / world
    if strategy == "ddp":
        return 2 * part * 4 * parameters
    return part * 4 * parameters * (2 * accumulate + 1)


def _sent_by_calls(parameters, world, strategy, accumulate):
    """The same, call by call."""
    once = 4 * parameters * (world - 1) / world
    calls = {"ddp": ["reduce-scatter", "all-gather"], "fsdp": ["all-gather"] * 2 * accumulate + ["scatter"]}
    return once * len(calls[strategy])


def _sent() -> Exercise:
    return Function(
        name="sent",
        reference=_sent_reference,
        also_right=(_sent_by_calls,),
        relative=1e-6,
        because="Each collective sends (N - 1) / N of the bytes. DDP needs two for the gradients, however many small "
        "batches; FSDP one for the gradients, and two for the weights in *each* small batch.",
        cases=(
            (1000, 2, "ddp", 1),
            (1000, 2, "fsdp", 1),
            (1000, 8, "ddp", 4),
            (1000, 8, "fsdp", 4),
            (1000, 1, "ddp", 1),
            (1000, 1, "fsdp", 2),
        ),
        source="def sent(parameters, world, strategy, accumulate):\n"
        "    once = (world - 1) / world * 4 * parameters\n"
        '    return once * (2 if strategy == "ddp" else 2 * accumulate + 1)',
        hints=(
            "One all-gather, or one reduce-scatter, of G bytes sends `(world - 1) / world * G` from each process.",
            "DDP: an all-reduce of the gradients is one of each. It waits for the last small batch.",
            "FSDP: weights are gathered before each forward and each backward; gradients are scattered once.",
        ),
        wrong=(
            WrongAnswer(
                "gathered-once",
                lambda parameters, world, strategy, accumulate: (
                    (world - 1) / world * 4 * parameters * (2 if strategy == "ddp" else 3)
                ),
                "With accumulation FSDP gathers the weights again for every small batch, forward and backward.",
            ),
            WrongAnswer(
                "every-small-batch",
                lambda parameters, world, strategy, accumulate: (
                    (world - 1) / world * 4 * parameters * accumulate * (2 if strategy == "ddp" else 3)
                ),
                "Gradients are exchanged once, after the last small batch (`no_sync`); only FSDP's gathers repeat.",
            ),
            WrongAnswer(
                "everything",
                lambda parameters, world, strategy, accumulate: (
                    4.0 * parameters * (2 if strategy == "ddp" else 2 * accumulate + 1)
                ),
                "A process doesn't send its own part to itself: multiply by (N - 1) / N. One process sends nothing.",
            ),
            WrongAnswer(
                "numbers",
                lambda parameters, world, strategy, accumulate: (
                    _sent_reference(parameters, world, strategy, accumulate) / 4
                ),
                "That counts numbers. A float32 has 4 bytes.",
            ),
        ),
    )


# ---- Which one --------------------------------------------------------------------------------------


def _which() -> Exercise:
    return Choice(
        name="which",
        reference="b",
        also_right=("B",),
        options={
            "a": "DDP, it sends the least",
            "b": "FSDP within the machine",
            "c": "A pipeline over all eight GPUs",
            "d": "One GPU with a batch of 1",
        },
        because="7 billion weights x 16 bytes = 112 GB: no single GPU of 80 GB holds a copy, which rules out DDP and one "
        "GPU. Cut in eight it is 14 GB each, and GPUs of one machine are joined by fast links, which FSDP needs.",
        hints=(
            "How many GB are 7 billion weights with gradients and AdamW's states in float32?",
            "What doesn't fit can't be copied to every GPU. Which of the rest changes nothing in the model's code?",
        ),
        wrong=(
            WrongAnswer(
                "ddp", "a", "DDP holds a whole copy in each GPU: 112 GB of weights, gradients and states."
            ),
            WrongAnswer(
                "pipeline",
                "c",
                "It would fit, but the model must be cut into stages by hand, and stages wait for each other. Try it where "
                "links are too slow for FSDP.",
            ),
            WrongAnswer(
                "small-batch", "d", "A smaller batch saves activations. The 112 GB don't depend on the batch."
            ),
        ),
    )
