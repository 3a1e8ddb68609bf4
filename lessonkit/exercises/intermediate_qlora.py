"""The exercises of `intermediate/qlora`."""

from __future__ import annotations

from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Attempt, Bar, Choice, Exercise, Function, Value, WrongAnswer


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_quantize_block(), _equal_use(), _own_levels(), _bits(), _out_of_memory()]


# ---- One block --------------------------------------------------------------------------------------


def _nearest(values, levels):
    return (values.unsqueeze(-1) - levels).abs().argmin(dim=-1)


def _quantize_block_reference(block, levels):
    absmax = block.abs().max()
    return (block.div(absmax).unsqueeze(-1) - levels).abs().argmin(dim=-1), absmax


def _by_middles(block, levels):
    import torch

    absmax = float(block.abs().max())
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(block / absmax, middles).to(torch.uint8), absmax


def _with_lists(block, levels):
    absmax = max(abs(float(each)) for each in block)
    marks = [float(each) for each in levels]
    codes = [
        min(range(len(marks)), key=lambda code: abs(marks[code] - float(each) / absmax)) for each in block
    ]
    return codes, absmax


def _by_the_largest(block, levels):
    return _nearest(block / block.max(), levels), block.max()


def _rounded_down(block, levels):
    import torch

    absmax = block.abs().max()
    return (torch.searchsorted(levels, block / absmax, right=True) - 1).clamp(min=0), absmax


def _levels_themselves(block, levels):
    absmax = block.abs().max()
    return levels[_nearest(block / absmax, levels)], absmax


def _quantize_block() -> Exercise:
    import torch

    nf4 = torch.tensor(NF4)
    draw = torch.Generator().manual_seed(0)
    blocks = [
        torch.tensor([0.02, -0.05, 0.10, -0.08]),
        torch.tensor([0.03, 0.01, -0.30, 0.11, 0.0]),  # the largest by size is negative
        0.04 * torch.randn(64, generator=draw),
        3.0 * torch.randn(64, generator=draw),
    ]
    return Function(
        name="quantize-block",
        reference=_quantize_block_reference,
        also_right=(_by_middles, _with_lists),
        because="Codes are only meaningful together with absmax: `levels[codes] * absmax` gives the weights back, rounded.",
        cases=(*((block, nf4) for block in blocks), (blocks[2], torch.arange(-7, 8) / 7)),
        source="def quantize_block(block, levels):\n"
        "    absmax = block.abs().max()\n"
        "    distances = (block[:, None] / absmax - levels).abs()  # (weights, levels)\n"
        "    return distances.argmin(dim=1), absmax",
        hints=(
            "absmax is the largest of the sizes `block.abs()`; divide the block by it.",
            "`(block / absmax)[:, None] - levels` has the shape (weights, levels): each weight's way to each level.",
            "`.abs().argmin(dim=1)` of that is each weight's code. Return `codes, absmax`.",
        ),
        wrong=(
            WrongAnswer(
                "largest-not-absmax",
                _by_the_largest,
                "You divide by the largest weight. Where the one furthest from zero is negative, some quotients then lie "
                "below -1, where no level is. Look at sizes: `block.abs()`.",
            ),
            WrongAnswer(
                "not-scaled",
                lambda block, levels: (_nearest(block, levels), block.abs().max()),
                "The codes are those of the weights as they are. The levels run from -1 to 1, so divide the block by absmax "
                "before you compare.",
            ),
            WrongAnswer(
                "rounded-down",
                _rounded_down,
                "You take the level below each weight, not the nearest: errors then all point one way. Compare the "
                "distances to both neighbours.",
            ),
            WrongAnswer(
                "levels-not-codes",
                _levels_themselves,
                "Those are the levels themselves, 32 bits each. What is stored is their *number*, 0 to 15, which fits in "
                "four bits.",
            ),
        ),
    )


#: bitsandbytes' table; the tests compare.
NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]


def _equal_use() -> Exercise:
    return Choice(
        name="equal-use",
        reference="c",
        also_right=("(c)", "four times or more"),
        options={"a": "about as often", "b": "about twice", "c": "four times or more"},
        because="What is rounded are weights divided by the largest of their 64, which lies further out than NF4's last "
        "quantile; so they crowd around zero.",
        hints=(
            "The levels are quantiles of a normal distribution cut off at 1.85 standard deviations.",
            "How far out, in standard deviations, is the largest of 64 normal draws, typically? That one is divided by.",
            "It is about 2.6: so a level at 1 is met by few weights, and those around zero by many.",
        ),
        wrong=(
            WrongAnswer(
                "equal-by-design",
                "a",
                "That would be so if plain normal draws were rounded. But each block is first divided by its own largest "
                "weight: look at how few of 64 weights can come near 1 then.",
            ),
            WrongAnswer(
                "only-a-little",
                "b",
                "The direction is right. Think of the two levels at the ends: in a block of 64, little but the largest "
                "weight itself comes near them.",
            ),
        ),
    )


# ---- Levels of one's own ----------------------------------------------------------------------------

#: k-means on the first seven matrices, from NF4: 0.943 after one round, 0.937 after five (tests compute one anew).
REACH = 0.96
FORM = "`answer = mine`, 16 numbers between -1 and 1"


def _held_out(scale: str) -> list[Any]:
    """Blocks of 64 weights, of matrices from the upper third of SmolLM2; read from its file, which takes no model."""
    from safetensors import safe_open

    from lessonkit.assets import fetch

    places = [
        f"model.layers.{number}.{part}.weight"
        for number in (22, 25, 28)
        for part in ("self_attn.q_proj", "mlp.down_proj")
    ]
    with safe_open(fetch("smollm2") / "model.safetensors", framework="pt") as file:
        return [file.get_tensor(place).float().reshape(-1, 64) for place in places]


def _squared_error(levels: Any, matrices: list[Any]) -> float:
    import torch

    middles, total = (levels[1:] + levels[:-1]) / 2, 0.0
    for blocks in matrices:
        absmax = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-38)
        back = levels[torch.bucketize(blocks / absmax, middles)] * absmax
        total += float((back - blocks).square().sum())
    return total


def _levels(answer: Any) -> Any:
    """The answer as 16 sorted float32 numbers."""
    import torch

    try:
        levels = torch.as_tensor(answer, dtype=torch.float32).detach().cpu().flatten()
    except (TypeError, ValueError, RuntimeError):
        raise ExerciseError("The answer must be the levels, a tensor or a list.", fix=FORM) from None
    if len(levels) > 16:
        raise ExerciseError(
            f"{len(levels)} levels don't fit in four bits, which have 16 codes.", fix=f"pass {FORM}"
        )
    if len(levels) < 2 or not bool(levels.isfinite().all()):
        raise ExerciseError("The levels must be finite numbers, two of them at least.", fix=f"pass {FORM}")
    return levels.sort().values


def _error_beside_nf4(answer: Any, matrices: list[Any]) -> float:
    import torch

    return _squared_error(_levels(answer), matrices) / _squared_error(torch.tensor(NF4), matrices)


def _improved(levels: Any, matrices: list[Any], rounds: int) -> Any:
    """k-means: each level moves to the mean of the scaled weights that were rounded to it."""
    import torch

    blocks = torch.cat(matrices)
    scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-38)).flatten()
    for _ in range(rounds):
        nearest = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)
        sums = torch.zeros(len(levels)).scatter_add(0, nearest, scaled)
        levels = sums / torch.bincount(nearest, minlength=len(levels)).clamp(min=1)
    return levels


def _reference_levels(matrices: list[Any]) -> Any:
    import torch

    return _improved(torch.tensor(NF4), matrices[:1], 2)


def _equally_used(matrices: list[Any]) -> Any:
    import torch

    blocks = matrices[0]
    scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True)).flatten()
    return torch.quantile(scaled, (torch.arange(16) + 0.5) / 16)


def _stops_short(attempt: Attempt) -> bool:
    return float(_levels(attempt.answer).abs().max()) < 0.85


def _like_nf4(attempt: Attempt) -> bool:
    return abs(attempt.score - 1) < 0.002


def _evenly_spaced(attempt: Attempt) -> bool:
    gaps = _levels(attempt.answer).diff()
    return float(gaps.max() - gaps.min()) < 0.01 * float(gaps.max())


def _own_levels() -> Exercise:
    return Bar(
        name="own-levels",
        reference=_reference_levels,
        also_right=(lambda matrices: _reference_levels(matrices).tolist(),),
        measure=_error_beside_nf4,
        bar=REACH,
        held_out=_held_out,
        higher_is_better=False,
        score_name="squared error relative to NF4's",
        measured_on="six other matrices",
        because="Levels fitted to real blocks beat the ones derived from the normal distribution. (Whether perplexity "
        "agrees is another measurement: `rounded(mine, 'my levels')` makes it.)",
        hints=(
            "Which single number is nearest, in squares, to all the weights that are rounded to level 3? Their mean.",
            "So: round all to the levels (`torch.bucketize` with the middles, as in `quantize`), then move each level to "
            "the mean of its weights. Then again, for the middles have moved too. This is k-means.",
            "`nearest = torch.bucketize(scaled, (mine[1:] + mine[:-1]) / 2)`, then "
            "`mine = torch.stack([scaled[nearest == code].mean() for code in range(16)])`, a few times over.",
        ),
        source="blocks = torch.cat([matrices[name].float().reshape(-1, 64) for name in list(matrices)[:7]])\n"
        "scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-38)).flatten()\n"
        "mine = NF4.clone()\n"
        "for _ in range(5):\n"
        "    nearest = torch.bucketize(scaled, (mine[1:] + mine[:-1]) / 2)\n"
        "    mine = torch.stack([scaled[nearest == code].mean() for code in range(16)])\n"
        "answer = mine",
        wrong=(
            WrongAnswer(
                "nf4-itself",
                lambda matrices: NF4,
                "That is NF4, or as good as. Move each level to where its own weights are: to the mean of what was "
                "rounded to it.",
                when=_like_nf4,
            ),
            WrongAnswer(
                "evenly-spaced",
                lambda matrices: [-1 + 2 * code / 15 for code in range(16)],
                "Evenly spaced levels spend as many codes near ±1, where few weights are, as around zero. Look at the "
                "histogram again.",
                when=_evenly_spaced,
            ),
            WrongAnswer(
                "equally-used",
                _equally_used,
                "Your outermost levels lie far inside ±1. Each block's largest weight is exactly at 1 or -1 and pays for "
                "that with a large error, which counts squared. Equal use isn't least error.",
                when=_stops_short,
            ),
        ),
    )


# ---- Arithmetic and decisions -----------------------------------------------------------------------


def _bits() -> Exercise:
    single, double = 4 + 32 / 128, 4 + 8 / 128 + 32 / (128 * 256)
    return Value(
        name="bits",
        reference={"single": single, "double": double},
        also_right=({"single": 4.25, "double": 4.064}, {"single": "4.25", "double": 4.0635}),
        tolerance=0.0006,
        because="Twice the block, half the scales: 4 + 32/128, and 4 + 8/128 + 32/(128 * 256).",
        hints=(
            "One scale is shared by 128 weights in place of 64; each weight still has its own code of 4 bits.",
            "Without double quantisation: 4 + 32/128.",
            "With it, a scale takes 8 bits, and 256 scales (of 128 weights each) share one of 32 bits.",
        ),
        wrong=(
            WrongAnswer(
                "blocks-of-64",
                {"single": 4.5, "double": 4 + 8 / 64 + 32 / (64 * 256)},
                "Those are the numbers for blocks of 64. In a block of 128, twice as many weights share a scale.",
            ),
            WrongAnswer(
                "only-the-overhead",
                {"single": single - 4, "double": double - 4},
                "That is what the scales take. The codes come on top: 4 bits for each weight.",
            ),
            WrongAnswer(
                "second-scale-forgotten",
                {"single": single, "double": 4 + 32 / 128 + 8 / 128},
                "The 8-bit scales *replace* the 32-bit ones; only one 32-bit number is left for 256 of them.",
            ),
        ),
    )


def _out_of_memory() -> Exercise:
    return Choice(
        name="out-of-memory",
        reference="b",
        also_right=(" b ", "gradient checkpointing"),
        options={
            "a": "QLoRA",
            "b": "gradient checkpointing",
            "c": "rank 4 in place of 16",
            "d": "an 8-bit optimiser",
        },
        because="8 x 2,048 tokens of activations fill this memory, ten times the weights; only checkpointing touches them.",
        hints=(
            "Which part is largest here: weights, activations, or optimiser states?",
            "In the last picture, activations grew with batch times length, and that was *with* checkpointing.",
            "7 billion weights in bfloat16 are 13 GiB. Not even their vanishing would bring this under 80 GB.",
        ),
        wrong=(
            WrongAnswer(
                "weights",
                "a",
                "QLoRA saves about 9 GiB, all of it weights. Look at what a row of 2,048 tokens keeps for the backward "
                "pass, times 8.",
            ),
            WrongAnswer(
                "rank",
                "c",
                "At rank 16, adapter and optimiser together are below 1 GiB already. Little is to be had there.",
            ),
            WrongAnswer(
                "optimiser",
                "d",
                "LoRA's optimiser keeps states for its few trained parameters only: a fraction of a GiB. Look for "
                "something larger.",
            ),
        ),
    )
