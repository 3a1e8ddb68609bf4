"""The exercises of `expert/qlora`."""

from __future__ import annotations

import functools
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Attempt, Bar, Choice, Exercise, Function, Value, WrongAnswer


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_most_harm(), _zero_point(), _better_start(), _better_than_trained(), _moments()]


# ---- Which matrices ---------------------------------------------------------------------------------


def _most_harm() -> Exercise:
    return Choice(
        name="most-harm",
        reference="c",
        also_right=("(c)", "down_proj"),
        options={"a": "query and key", "b": "v_proj", "c": "down_proj"},
        because="`down_proj` is large, and its output goes straight into the hidden state. Neither is enough alone: "
        "`gate_proj` and `up_proj` are as large, and `o_proj` writes there, too.",
        hints=(
            "The error of the weights is about the same in all kinds, relative to the weights. What else differs?",
            "Size: how many weights, so how much of the block's work, goes through each?",
            "And place: an error in a query or key passes through a softmax; an error in `down_proj` is added to the "
            "hidden state as it is.",
        ),
        wrong=(
            WrongAnswer(
                "where-to-look",
                "a",
                "Where attention looks is decided by a softmax over many products; small errors in them shift its weights a "
                "little. And query and key are few weights. Which kind writes straight into the hidden state?",
            ),
            WrongAnswer(
                "small-is-fragile",
                "b",
                "Few heads make the values for all queries, so each of its weights does count. But there are very "
                "few of them.",
            ),
        ),
    )


# ---- Whole numbers with a zero-point ----------------------------------------------------------------


def _int4_group_reference(group):
    low, high = group.min().clamp(max=0), group.max().clamp(min=0)
    scale = (high - low) / 15
    zero = (-low / scale).round()
    return ((group / scale).round() + zero).clamp(0, 15), scale, zero


def _as_integers(group):
    import torch

    low, high = min(float(group.min()), 0.0), max(float(group.max()), 0.0)
    scale = (high - low) / 15
    zero = round(-low / scale)
    codes = torch.clamp(torch.round(group / scale) + zero, 0, 15).to(torch.uint8)
    return codes, scale, zero


def _least_weight(group):
    low, high = group.min(), group.max()
    scale = (high - low) / 15
    return ((group - low) / scale).round().clamp(0, 15), scale, low


def _symmetric(group):
    scale = group.abs().max() / 7
    return ((group / scale).round() + 8).clamp(0, 15), scale, group.new_tensor(8.0)


def _zero_not_rounded(group):
    low, high = group.min().clamp(max=0), group.max().clamp(min=0)
    scale = (high - low) / 15
    return ((group - low) / scale).round().clamp(0, 15), scale, -low / scale


def _sixteen_steps(group):
    low, high = group.min().clamp(max=0), group.max().clamp(min=0)
    scale = (high - low) / 16
    zero = (-low / scale).round()
    return ((group / scale).round() + zero).clamp(0, 15), scale, zero


def _zero_point() -> Exercise:
    import torch

    draw = torch.Generator().manual_seed(0)
    groups = [
        torch.tensor([-0.3, 0.0, 0.4, 1.2]),
        torch.tensor([0.2, 0.35, 0.5, 0.9]),  # all positive: 0 is included all the same
        torch.tensor([-0.9, -0.52, -0.35, -0.2]),
        0.04 * torch.randn(64, generator=draw),
        0.04 * torch.randn(64, generator=draw) + 0.03,
    ]
    return Function(
        name="zero-point",
        reference=_int4_group_reference,
        also_right=(_as_integers,),
        because="`(codes - zero) * scale` gives the weights back. The zero-point is a whole number between 0 and 15, so it "
        "takes 4 bits, and a weight of 0 comes back as exactly 0.",
        cases=tuple((group,) for group in groups),
        relative=1e-5,
        source="def int4_group(group):\n"
        "    low, high = group.min().clamp(max=0), group.max().clamp(min=0)\n"
        "    scale = (high - low) / 15\n"
        "    zero = (-low / scale).round()\n"
        "    codes = ((group / scale).round() + zero).clamp(0, 15)\n"
        "    return codes, scale, zero",
        hints=(
            "`group.min().clamp(max=0)` is the least weight, or 0 where all are positive.",
            "Codes 0 to 15 have 15 steps between them; the zero-point is `(-low / scale).round()`.",
            "`codes = ((group / scale).round() + zero).clamp(0, 15)`; return `codes, scale, zero`.",
        ),
        wrong=(
            WrongAnswer(
                "least-weight",
                _least_weight,
                "You return the least weight in place of the zero-point. That is how Q4_1 stores a group, in 16 bits; "
                "a zero-point is the *code* that means 0, in 4 bits.",
            ),
            WrongAnswer(
                "symmetric",
                _symmetric,
                "That is the symmetric form, with the zero always at code 8. A group that lies to one side wastes codes "
                "then: use both ends, low and high.",
            ),
            WrongAnswer(
                "zero-not-rounded",
                _zero_not_rounded,
                "Your zero-point isn't a whole number, so it doesn't fit in 4 bits, and no code means exactly 0.",
            ),
            WrongAnswer(
                "sixteen-steps",
                _sixteen_steps,
                "16 codes have 15 steps between them, as 16 fence posts have 15 gaps. Divide by 15.",
            ),
        ),
    )


# ---- A start that knows its inputs ------------------------------------------------------------------

#: Mean over the matrices below: LoftQ's start, undivided or not, stays above; weighing the columns goes well below (tests
#: measure both).
REACH = 0.8
RANK, SCALING, WINDOW = 8, 2.0, 64
PLACES = tuple(
    f"layers.{number}.{part}"
    for number in (1, 3)
    for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
)
FORM = "return A of shape (r, in) and B of shape (out, r)"


@functools.cache  # an answer gets copies
def _held_out(scale: str) -> list[Any]:
    """For matrices of SmolLM2's lower blocks: W, NF4's Ŵ, inputs to learn from, and inputs to measure on."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from lessonkit.data import load_dataset
    from lessonkit.models import load_model, load_tokenizer

    model = load_model("smollm2", num_hidden_layers=4).model
    tokenizer, texts = load_tokenizer("smollm2"), load_dataset("grimm-tales")["train"]["text"]
    seen = [tokenizer(text, verbose=False)["input_ids"][: 4 * WINDOW] for text in (*texts[:5], *texts[-2:])]
    layers, entering = {place: model.get_submodule(place) for place in PLACES}, {}
    for place, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, given, place=place: entering.update({place: given[0]}))
    with torch.no_grad():
        model(input_ids=torch.tensor(seen).reshape(-1, WINDOW), use_cache=False)
    cut = 5 * 4  # rows of the first five tales
    found = []
    for place, layer in layers.items():
        weight = layer.weight.detach()
        rounded = dequantize_4bit(*quantize_4bit(weight, quant_type="nf4", compress_statistics=True))
        found.append(
            (weight, rounded, entering[place][:cut].flatten(0, 1), entering[place][cut:].flatten(0, 1))
        )
    return found


def _error_left(answer: Any, held_out: list[Any]) -> float:
    """The mean, over the matrices, of the outputs' squared error relative to that with B = 0."""
    import torch

    if not callable(answer):
        raise ExerciseError(
            "The answer must be the function itself.", fix="`.check(start)`, without brackets"
        )
    shares = []
    for weight, rounded, inputs, unseen in held_out:
        try:
            down, up = (
                torch.as_tensor(each)
                for each in answer(weight.clone(), rounded.clone(), inputs.clone(), RANK, SCALING)
            )
        except (TypeError, ValueError):
            raise ExerciseError("The function must return two tensors.", fix=FORM) from None
        if tuple(down.shape) != (RANK, weight.shape[1]) or tuple(up.shape) != (weight.shape[0], RANK):
            shapes = f"A {tuple(down.shape)} and B {tuple(up.shape)}"
            raise ExerciseError(
                f"For r = {RANK} and W of shape {tuple(weight.shape)}, these can't be {shapes}.", fix=FORM
            )
        error = weight - rounded
        with torch.no_grad():
            left = (error - SCALING * (up.float() @ down.float())) @ unseen.T
            shares.append(float(left.square().sum() / (error @ unseen.T).square().sum()))
    return sum(shares) / len(shares)


def _low_rank(error, r):
    import torch

    left, values, right = torch.linalg.svd(error, full_matrices=False)
    root = values[:r].sqrt()
    return root[:, None] * right[:r], left[:, :r] * root


def _weighted(weight, rounded, inputs, r, s):
    size = inputs.square().mean(dim=0).sqrt().clamp(min=1e-6)
    down, up = _low_rank((weight - rounded) * size, r)
    return down / size, up / s


def _weighted_by_means(weight, rounded, inputs, r, s):
    size = inputs.abs().mean(dim=0).clamp(min=1e-6)
    down, up = _low_rank((weight - rounded) * size / s, r)
    return down / size, up


def _plain_loftq(weight, rounded, inputs, r, s):
    down, up = _low_rank(weight - rounded, r)
    return down, up / s


def _undivided(weight, rounded, inputs, r, s):
    size = inputs.square().mean(dim=0).sqrt().clamp(min=1e-6)
    down, up = _low_rank((weight - rounded) * size, r)
    return down / size, up


def _weights_left_in(weight, rounded, inputs, r, s):
    size = inputs.square().mean(dim=0).sqrt().clamp(min=1e-6)
    down, up = _low_rank((weight - rounded) * size, r)
    return down, up / s


def _no_start(weight, rounded, inputs, r, s):
    import torch

    return torch.zeros(r, weight.shape[1]), torch.zeros(weight.shape[0], r)


def _product(attempt: Attempt) -> tuple[Any, Any]:
    """s B A of the attempt for the first matrix, and its error W - Ŵ."""
    weight, rounded, inputs, _ = attempt.held_out[0]
    down, up = attempt.answer(weight.clone(), rounded.clone(), inputs.clone(), RANK, SCALING)
    return SCALING * (up.float() @ down.float()).detach(), weight - rounded


def _is_like(example: Any) -> Any:
    def like(attempt: Attempt) -> bool:
        weight, rounded, inputs, _ = attempt.held_out[0]
        down, up = example(weight, rounded, inputs, RANK, SCALING)
        wanted, (got, _) = SCALING * (up @ down), _product(attempt)
        return float((got - wanted).norm()) <= 0.2 * float(wanted.norm())

    return like


def _better_start() -> Exercise:
    return Bar(
        name="better-start",
        reference=lambda held_out: _weighted,
        also_right=(lambda held_out: _weighted_by_means,),
        measure=_error_left,
        bar=REACH,
        held_out=_held_out,
        higher_is_better=False,
        score_name="error of the outputs, as a share of that with B = 0,",
        measured_on="unseen inputs",
        because="An error in a column with large inputs counts more. Multiply the columns by the size of their inputs, "
        "approximate, and divide A's columns again: the product is small where nobody looks.",
        hints=(
            "An error in column i of W is multiplied by input i. So a column with large inputs deserves more of the rank.",
            "`size = X.square().mean(dim=0).sqrt()` is each column's. Approximate `(W - W_hat) * size`; which of A and B "
            "must then lose the size again?",
            "`A, B = low_rank((W - W_hat) * size, r)`, then `return A / size, B / s`.",
        ),
        source="def start(W, W_hat, X, r, s):\n"
        "    size = X.square().mean(dim=0).sqrt().clamp(min=1e-6)\n"
        "    A, B = low_rank((W - W_hat) * size, r)\n"
        "    return A / size, B / s",
        wrong=(
            WrongAnswer(
                "nothing",
                lambda held_out: _no_start,
                "Your product B A is zero: that is where QLoRA starts anyway.",
                when=lambda attempt: float(_product(attempt)[0].norm()) == 0,
            ),
            WrongAnswer(
                "all-columns-alike",
                lambda held_out: _plain_loftq,
                "That is LoftQ's start: the best approximation of W - Ŵ, all columns alike. But their inputs differ in "
                "size, many times over: X tells by how much.",
                when=_is_like(_plain_loftq),
            ),
            WrongAnswer(
                "scaling-forgotten",
                lambda held_out: _undivided,
                "The layer multiplies B A by s, so your correction counts s times. Divide B by s.",
                when=_is_like(_undivided),
            ),
            WrongAnswer(
                "weights-left-in",
                lambda held_out: _weights_left_in,
                "You approximate the weighted error, and the weights are still in A: divide its columns by them.",
                when=_is_like(_weights_left_in),
            ),
        ),
    )


# ---- Merging, and moments ---------------------------------------------------------------------------


def _better_than_trained() -> Exercise:
    return Choice(
        name="better-than-trained",
        reference="c",
        also_right=("(c)", " c "),
        options={"a": "none", "b": "into Ŵ, in 16 bits", "c": "into the original W, in 16 bits"},
        because="W has no rounding error. Most of what the adapter learned is about tales, not about Ŵ's errors, so it "
        "serves beside W, too.",
        hints=(
            "How large is the hole that rounding digs, and did training close it?",
            "What the adapter learned: is it about the tales, or about the errors of Ŵ?",
            "The second merger only rounds the trained model to 16 bits: how could it get better? The third takes the hole "
            "away.",
        ),
        wrong=(
            WrongAnswer(
                "fits-only-its-base",
                "a",
                "Some of the adapter does make up for Ŵ's errors, and that is wasted beside W. But compare: how much did "
                "rounding cost, and how much of that was left after training?",
            ),
            WrongAnswer(
                "finer-is-better",
                "b",
                "Ŵ + Δ in 16 bits is the trained model, up to a small rounding. It keeps every error of Ŵ.",
            ),
        ),
    )


def _moments() -> Exercise:
    a, b = 2 * (8 * 576 + 4 * (8 * 576) // 256), 2 * 4 * 192 * 8
    return Value(
        name="moments",
        reference={"A": a, "B": b},
        also_right=({"A": float(a), "B": str(b)},),
        tolerance=0.5,
        because="A has 4,608 values: 2 moments x (4,608 bytes + 18 scales of 4 bytes). B has 1,536, fewer than 4,096: 2 "
        "moments x 1,536 x 4 bytes.",
        hints=(
            "A is (8, 576), B is (192, 8). Which of them has at least 4,096 values?",
            "A: one byte a value, and a scale of 4 bytes for every 256 values; all that for two moments.",
            "B stays in 32 bits: 4 bytes a value, two moments, no scales.",
        ),
        wrong=(
            WrongAnswer(
                "both-in-8-bits",
                {"A": a, "B": 2 * (192 * 8 + 4 * 6)},
                "B has 192 x 8 = 1,536 values, fewer than 4,096: it stays in 32 bits.",
            ),
            WrongAnswer(
                "one-moment",
                {"A": a // 2, "B": b // 2},
                "AdamW keeps two moments, of the gradient and of its square.",
            ),
            WrongAnswer(
                "scales-forgotten",
                {"A": 2 * 8 * 576, "B": b},
                "The codes of A are right. Each 256 of them share a scale of 4 bytes, in either moment.",
            ),
        ),
    )
