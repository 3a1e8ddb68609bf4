# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # QLoRA, expert
#
# You will be able to say where a 4-bit model loses, choose a scheme and a start for its adapter, and merge the adapter
# into the right weights.
#
# **120 minutes**, five focus sessions (about 3 minutes are training, on 2 CPU cores) · **expert** · before this:
# [QLoRA, intermediate](../intermediate/qlora.ipynb) and [LoRA, intermediate](../intermediate/lora.ipynb); in the
# course's order, [LoRA, expert](lora.ipynb) · background: [the guide to QLoRA](../../lessons/qlora/guide.md) · next:
# [adapters, expert](adapters.ipynb)
#
# You will
#
# - follow the rounding error from layer to layer, and find the matrices that matter most;
# - lay six 4-bit schemes beside each other, and build two that look at data;
# - merge one adapter into five kinds of weights, and measure what each merger loses.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("expert/qlora")

# %%
MODEL = lesson.pick(smoke="smollm2", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-360M-Instruct")
WINDOW = lesson.pick(smoke=16, laptop=64, gpu=128)  # tokens of a passage
TRAIN_PASSAGES = lesson.pick(smoke=8, laptop=80, gpu=800)
CALIBRATION_PASSAGES = lesson.pick(smoke=4, laptop=32, gpu=64)  # of the training ones, for sections 3 to 5
VALIDATION_PASSAGES = lesson.pick(smoke=3, laptop=16, gpu=80)  # for choices
TEST_PASSAGES = lesson.pick(smoke=3, laptop=32, gpu=160)  # for adapters and mergers
ALONE = lesson.pick(smoke=15, laptop=6, gpu=1)  # every so many layers, one is rounded alone
STEPS = lesson.pick(smoke=2, laptop=20, gpu=100)
BATCH_SIZE = lesson.pick(smoke=2, laptop=4, gpu=8)
LEARNING_RATE = lesson.pick(smoke=1e-3, laptop=1e-3, gpu=5e-4)
RANK, ALPHA, SEED = 8, 16, 0

# %% [markdown]
# ## 1. The hole, and two baselines
#
# As in the intermediate lesson: SmolLM2, Grimm's tales, NF4 with double quantisation for every linear layer in the
# transformer blocks. Whole tales are held out. One unquantised model serves as a stage: `put` lays any weights into
# it. What we read from outputs is laptop scale's.

# %%
import random

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from datasets import Dataset
from transformers import AutoModelForCausalLM

device, bf16, fp16 = lesson.hardware.device, lesson.hardware.bf16, lesson.hardware.fp16
DTYPE = getattr(torch, lesson.hardware.dtype)  # what is computed in
HALF = torch.float16 if fp16 else torch.bfloat16  # what 16-bit weights are kept in


def load_base(quantization=None):
    model = lessonkit.load_model(
        MODEL,
        AutoModelForCausalLM,
        dtype=DTYPE,
        quantization_config=quantization,
        attn_implementation=lesson.hardware.attention,
    )
    return model if quantization else model.to(device)


base = load_base().eval()

# %%
head = base.get_output_embeddings()
linear = {
    name: layer
    for name, layer in base.named_modules()
    if isinstance(layer, torch.nn.Linear) and layer is not head
}
original = {name: layer.weight.detach().to(HALF) for name, layer in linear.items()}


def nf4(matrix, double=True):
    """A matrix as NF4 gives it back; with double quantisation, as QLoRA stores it."""
    return dequantize_4bit(*quantize_4bit(matrix, quant_type="nf4", compress_statistics=double))


def put(weight_of, names=linear):
    for name in names:
        linear[name].weight.data.copy_(weight_of(name))


rounded = {name: nf4(matrix) for name, matrix in original.items()}
print(f"{len(linear)} matrices, {sum(each.numel() for each in original.values()):,} weights")

# %%
tokenizer = lessonkit.load_tokenizer(MODEL)
tales = lessonkit.load_dataset("grimm-tales")


def passages(texts, count):
    found = []
    for text in texts:
        ids = tokenizer(text, verbose=False)["input_ids"]
        found += [ids[at : at + WINDOW] for at in range(0, len(ids) - WINDOW + 1, WINDOW)]
    random.Random(SEED).shuffle(found)
    return Dataset.from_dict({"input_ids": found[:count], "labels": found[:count]})


def measure(model, dataset, name):
    with torch.autocast(device, DTYPE, enabled=bf16 or fp16):
        return lessonkit.perplexity(model, dataset, batch_size=20, name=name)


# %%
train_texts = tales["train"]["text"]
train_dataset = passages(train_texts[:-8], TRAIN_PASSAGES)
validation = passages(train_texts[-8:], VALIDATION_PASSAGES)  # eight tales that are not trained on
test_dataset = passages(tales["test"]["text"], TEST_PASSAGES)
calibration = torch.tensor(train_dataset["input_ids"][:CALIBRATION_PASSAGES], device=device)

before = {"base in 16 bits": measure(base, test_dataset, "base in 16 bits")}
put(rounded.get)
before["base in NF4"] = measure(base, test_dataset, "base in NF4")
print(before["base in 16 bits"], "\n")
print(lessonkit.compare_perplexities(before["base in NF4"], before["base in 16 bits"]))

# %% [markdown]
# That is the hole which rounding digs, and both baselines. Where does it come from?
#
# ## 2. The error on its way up
#
# A block adds to each token's hidden state. In 4 bits it adds something slightly wrong, computed from something
# already wrong. Does the error pile up? Relative error: length of the difference, divided by the right state's length.


# %%
@torch.no_grad()
def hidden_states():
    rows = torch.tensor(validation["input_ids"][:12], device=device)
    found = base(input_ids=rows, output_hidden_states=True, use_cache=False).hidden_states
    return torch.stack(found).float().cpu()  # (layers + 1, rows, tokens, hidden)


four_bit = hidden_states()
put(original.get)
right = hidden_states()
off = (four_bit - right).norm(dim=-1) / right.norm(dim=-1)
depth = range(len(right))
ax = lessonkit.plots.curves(
    {
        "tokens after the first": (depth, off[:, :, 1:].mean(dim=(1, 2))),
        "first token of a passage": (depth, off[:, :, 0].mean(dim=1)),
    },
    xlabel="after so many blocks",
    ylabel="relative error",
    title="What NF4 does to the hidden states",
)

# %%
length = right.norm(dim=-1)
for at in (0, len(right) // 2, len(right) - 2):
    print(
        f"after {at:>2} blocks, length: first token {length[at, :, 0].mean():>8.1f}, others {length[at, :, 1:].mean():>6.1f}"
    )

# %% [markdown]
# Nearly half of the later tokens' error is there after two blocks; then it grows slowly, for the states grow, too. The
# first token's is over a hundred times as long halfway up, so its relative error is small there. (Why the hump? Print
# `length[9:13, :, 0].mean(1)`.) The last point is after the final normalisation.
#
# **Exercise 1, predict.** We now round one kind of matrix at a time, in all blocks. Which does most harm? `"a"` query
# and key, which decide where attention looks; `"b"` `v_proj`, a small one; `"c"` `down_proj`, a large one.

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("most-harm").check(answer)

# %%
as_it_is = measure(base, validation, "base as it is")


def harm(names):
    """By how many per cent perplexity rises when only these matrices are in NF4."""
    put(rounded.get, names)
    scores = measure(base, validation, "partly rounded")
    put(original.get, names)
    found = lessonkit.compare_perplexities(scores, as_it_is)
    return [100 * (each - 1) for each in (found.change, *found.interval)]


KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
by_kind = {kind: harm([name for name in linear if kind in name]) for kind in KINDS}
for kind, (change, low, high) in by_kind.items():
    share = sum(original[name].numel() for name in linear if kind in name)
    share /= sum(each.numel() for each in original.values())
    print(f"{kind:<10}{share:>6.1%} of the weights: {change:+5.1f} % ({low:+.1f} to {high:+.1f})")

# %% [markdown]
# `down_proj`, by far: a quarter of the weights, about half of the seven rises together. Its output goes straight into
# the hidden state; but so does `o_proj`'s. (`llm_int8_skip_modules=["down_proj", "lm_head"]` spares it, in 4 bits
# too.) And one block at a time:

# %%
blocks = sorted({int(name.split(".")[2]) for name in linear})
some = sorted({*blocks[::ALONE], blocks[-1]})
by_block = {at: harm([name for name in linear if f".{at}." in name]) for at in some}


def squared_error(names, weight_of):
    wrong = sum((weight_of(name).float() - original[name].float()).square().sum() for name in names)
    return float(wrong / sum(original[name].float().square().sum() for name in names))


in_weights = {
    at: 100 * squared_error([name for name in linear if f".{at}." in name], rounded.get) for at in some
}
ax = lessonkit.plots.curves(
    {
        "perplexity, rise in %": (some, [by_block[at][0] for at in some]),
        "weights, relative squared error in %": (some, list(in_weights.values())),
    },
    xlabel="the only block in NF4",
    ylabel="%",
    title="Equal errors in the weights, unequal harm",
)
# %%
n = len(validation)
for at in some:
    print(
        f"block {at:>2}: {by_block[at][0]:+.1f} % ({by_block[at][1]:+.1f} to {by_block[at][2]:+.1f}, n = {n})"
    )

# %% [markdown]
# Some blocks can't be told from harmless, others can, the last among them. Block 0, after which hidden states were off
# by about a tenth, does no harm that so few passages could show.
#
# *Here ends the first focus session.*
#
# ## 3. Other ways to spend four bits
#
# GPTQ and AWQ files keep whole numbers, 0 to 15, and for each group of weights a 16-bit **scale** and a 4-bit
# **zero-point**, the code that means 0. So a group may lie unevenly around zero.
#
# **Exercise 2, write code.** For one group, a tensor: *low* and *high* are its least and largest weight, stretched to
# include 0. Scale: (high - low) / 15. Zero-point: -low / scale, rounded. Codes: weight / scale, rounded, plus
# zero-point, kept within 0 and 15. Return codes, scale, zero-point.


# %%
def int4_group(group):
    return TODO


lesson.exercise("zero-point").check(int4_group)

# %% [markdown]
# The same for all groups of a matrix, and two rivals. **MXFP4**, which recent GPUs multiply in hardware: 32 weights
# share a power of two, in 8 bits; each is a tiny float (sign, 2 exponent bits, 1 of mantissa). **Q4_1**, from GGUF
# files: groups of 32, with scale and *least weight* in 16 bits.


# %%
def int4_grid(groups):
    """Scale and zero-point for each row."""
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=1e-6).half().float()
    return scale, (-low / scale).round()


def to_grid(weights, scale, zero):
    return (((weights / scale).round() + zero).clamp(0, 15) - zero) * scale


def int4(matrix, group=64):
    groups = matrix.float().reshape(-1, group)
    return to_grid(groups, *int4_grid(groups)).reshape(matrix.shape)


def q4_1(matrix):
    groups = matrix.float().reshape(-1, 32)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=1e-6)
    return (((groups - low) / scale).round() * scale + low).reshape(matrix.shape)


# %%
POSITIVE = [0.5, 1, 1.5, 2, 3, 4, 6]
TINY = torch.tensor([*(-each for each in POSITIVE[::-1]), 0, *POSITIVE], device=device)  # 0 has two codes


def mxfp4(matrix, cut=True):
    blocks = matrix.float().reshape(-1, 32)
    largest = blocks.abs().amax(1, keepdim=True).clamp(min=2.0**-100)
    scale = torch.exp2(largest.log2().floor() - 2)  # the largest lies between 4 and 8 scales; above 6 is cut
    if not cut:
        scale = torch.where(largest > 6 * scale, 2 * scale, scale)
    codes = torch.bucketize((blocks / scale).contiguous(), (TINY[1:] + TINY[:-1]) / 2)
    return (TINY[codes] * scale).reshape(matrix.shape)


# %%
def fp4(matrix):
    return dequantize_4bit(*quantize_4bit(matrix, quant_type="fp4", compress_statistics=True))


SCHEMES = {  # bits per weight, and the function
    "NF4, double quantisation": (4 + 8 / 64 + 32 / (64 * 256), nf4),
    "FP4, double quantisation": (4 + 8 / 64 + 32 / (64 * 256), fp4),
    "INT4, zero-point, groups of 64": (4 + (16 + 4) / 64, int4),
    "MXFP4, blocks of 32": (4 + 8 / 32, mxfp4),
    "MXFP4, nothing cut": (4 + 8 / 32, lambda matrix: mxfp4(matrix, cut=False)),
    "Q4_1, groups of 32": (4 + (16 + 16) / 32, q4_1),
}

# %%
stranger = lessonkit.load_model("minilm").encoder.layer[3].intermediate.dense.weight.detach().to(device)
print(f"{'':<32}{'bits':>6}{'error':>8}{'MiniLM':>8}{'perplexity':>12}")
tried = {}
for name, (bits, scheme) in SCHEMES.items():
    put(lambda each, scheme=scheme: scheme(original[each]))
    tried[name] = measure(base, validation, name)
    mine = squared_error(linear, lambda each: linear[each].weight.detach())
    other = float((scheme(stranger) - stranger).square().sum() / stranger.square().sum())
    print(f"{name:<32}{bits:>6.3f}{mine:>8.2%}{other:>8.2%}{tried[name].perplexity:>12.2f}")
put(original.get)
print(f"\n{as_it_is}\n")
for name in list(tried)[1:]:
    print(lessonkit.compare_perplexities(tried[name], tried["NF4, double quantisation"]), "\n")

# %% [markdown]
# - **Q4_1 loses nothing, and that is a trap.** Our SmolLM2 comes from a Q4_1 file, so its weights lie on that very
#   grid; MiniLM's don't.
# - **Squared errors mislead.** MXFP4's is smaller than FP4's, its perplexity far worse. Its usual scale cuts a block's
#   largest weights by up to a quarter. With nothing cut, the squared error *grows* a little, and perplexity falls from
#   68 to 58: still worse than NF4 and FP4, which keep each block's largest weight almost exactly.
# - So few passages can't tell FP4 or INT4 from NF4; for FP4, the intermediate lesson's 80 could.
#
# ### Rounding that looks at data
#
# With Ŵ for the rounded W, the error of the *outputs*, (W - Ŵ) x, should be small, and some inputs are far larger than
# others. Two answers:
#
# - [AWQ](https://arxiv.org/abs/2306.00978) multiplies columns with large inputs before rounding, and divides after.
# - [GPTQ](https://arxiv.org/abs/2210.17323) rounds column by column; those still to come make up for the error so far.


# %%
def awq(W, X, group=64):
    """The best of 11 strengths of scaling, by the error of the outputs on X (tokens, in)."""
    size, best = X.abs().mean(dim=0).clamp(min=1e-6), None
    for strength in range(11):
        factor = size ** (strength / 10)
        factor = factor / (factor.max() * factor.min()).sqrt()
        found = int4(W * factor, group) / factor
        error = ((found - W) @ X.T).square().sum()
        if best is None or error < best[0]:
            best = error, found
    return best[1]


def gptq(W, X, group=64, damping=0.01):
    W, rounded_columns = W.float().clone(), torch.empty_like(W, dtype=torch.float32)
    H = X.T @ X  # how the errors of two columns add up in the outputs
    H += damping * H.diagonal().mean() * torch.eye(len(H), device=H.device)
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    for at in range(W.shape[1]):
        if at % group == 0:
            scale, zero = int4_grid(W[:, at : at + group])
        rounded_columns[:, at] = to_grid(W[:, at : at + 1], scale, zero)[:, 0]
        error = (W[:, at] - rounded_columns[:, at]) / U[at, at]
        W[:, at + 1 :] -= torch.outer(error, U[at, at + 1 :])
    return rounded_columns


# %%
@torch.no_grad()
def visit(names, ids, work):
    """Run the stage on ids; on the way, work(name, inputs) may set a layer's weights before they are used."""

    def enter(name):
        return lambda layer, given: work(name, given[0].float().flatten(0, 1))  # (tokens, in)

    hooks = [linear[name].register_forward_pre_hook(enter(name)) for name in names]
    base.model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()


# %%
middle = blocks[len(blocks) // 2]
shown = [name for name in linear if f".{middle}." in name and ("q_proj" in name or "down_proj" in name)]
inputs, unseen = {}, {}
visit(shown, calibration, inputs.__setitem__)
visit(shown, torch.tensor(validation["input_ids"], device=device), unseen.__setitem__)
for name in shown:
    W, X = original[name].float(), unseen[name]
    found = {"nearest": int4(W), "AWQ": awq(W, inputs[name]), "GPTQ": gptq(W, inputs[name])}
    for how, each in found.items():
        wrong = ((each - W) @ X.T).square().sum() / (W @ X.T).square().sum()
        print(
            f"{name[13:]:<22}{how:<9}weights {float((each - W).square().sum() / W.square().sum()):.2%}, outputs {wrong:.2%}"
        )

# %% [markdown]
# Both make the *weights* worse and the outputs, on unseen passages, better: by far in `q_proj`, a little in
# `down_proj`.
#
# *Here ends the second focus session.*
#
# ## 4. A better start than B = 0?
#
# QLoRA begins in the hole. [LoftQ](https://arxiv.org/abs/2310.08659) begins with the best rank-r approximation of W -
# Ŵ, then rounds W - B A anew, and so on, in turns. By hand, and is it PEFT's?


# %%
def low_rank(R, r):
    """The best A (r, in) and B (out, r) for R: their product keeps its r largest singular values."""
    U, S, Vh = torch.linalg.svd(R, full_matrices=False)
    root = S[:r].sqrt()
    return root[:, None] * Vh[:r], U[:, :r] * root


def loftq(W, r, rounds):
    change = 0
    for _ in range(rounds):
        W_hat = nf4(W - change, double=False)
        A, B = low_rank(W - W_hat, r)
        change = B @ A
    return W_hat, A, B


# %% tags=["nbval-check-output"]
import inspect

from peft.utils import loftq_utils

source = inspect.getsource(loftq_utils.loftq_init)
by_peft = dict(vars(loftq_utils))  # its own text, but for the one line that insists on a GPU
exec(source.replace('"xpu" if is_xpu_available() else "cuda"', "weight.device"), by_peft)
W = original[shown[0]].float()
for rounds in (1, 3):
    W_hat, A, B = loftq(W, RANK, rounds)
    theirs, A_peft, B_peft = by_peft["loftq_init"](W, num_bits=4, reduced_rank=RANK, num_iter=rounds)
    far = float((B @ A - B_peft @ A_peft).abs().max() / (B @ A).abs().max())
    print(
        f"{rounds} rounds: the same codes {torch.equal(W_hat, theirs)}, B A apart by less than 0.1 %: {far < 0.001}"
    )
print(inspect.signature(loftq_utils.loftq_init))

# %% [markdown]
# The same. PEFT 0.21's runs on CUDA or XPU only, and knows no `lora_alpha`: at our alpha = 2 r, the correction would
# count twice ([LoRA, expert](lora.ipynb)). So divide by the scaling *s*, as below. How much can rank 8 mend?

# %%
s = ALPHA / RANK


def shares(matrix):
    """Of the squared size, the part that the best matrix of each rank holds."""
    squares = torch.linalg.svdvals(matrix).square().cpu()
    return range(1, len(squares) + 1), (squares.cumsum(0) / squares.sum()).tolist()


ax = lessonkit.plots.curves(
    {
        "W": shares(W),
        "W - Ŵ": shares(W - nf4(W, double=False)),
        "random numbers": shares(torch.randn(W.shape, generator=torch.Generator().manual_seed(SEED))),
    },
    xlabel="rank",
    ylabel="share of the squares",
    title="What a matrix of each rank could hold",
)
# %%
for rounds in (1, 5):
    W_hat, A, B = loftq(W, RANK, rounds)
    left = (W - W_hat - B @ A).norm() / (W - nf4(W, double=False)).norm()
    print(f"rank {RANK}, {rounds} rounds: {left:.1%} of the error is left")

# %% [markdown]
# What rounding leaves has less structure than W: eight directions hold little of it. More rounds help a little.
#
# **Exercise 3, run an experiment.** Outputs matter, not weights. Write `start(W, W_hat, X, r, s)`, which returns A
# (r, in) and B (out, r), so that (Ŵ + s B A) x comes near W x; X are calibration inputs (tokens, in). It is tried on
# SmolLM2's matrices, on unseen inputs. The bar: **at most 0.8** of the outputs' squared error with B = 0. Begin with
# LoftQ's `A, B = low_rank(W - W_hat, r)`, divide B by s, and think of AWQ: which columns must be right?

# %%


answer = TODO  # a function: `answer = start`
lesson.exercise("better-start").check(answer)

# %% [markdown]
# One answer, from [QERA](https://arxiv.org/abs/2410.06040): weigh each column by the size of its inputs, approximate,
# unweigh. For the whole model, with a fast SVD:


# %%
def quick_low_rank(R, r):
    U, S, V = torch.svd_lowrank(R, q=r + 24, niter=4)
    root = S[:r].sqrt()
    return root[:, None] * V[:, :r].T, U[:, :r] * root


put(original.get)
size = {}
visit(linear, calibration, lambda name, X: size.update({name: X.square().mean(0).sqrt().clamp(min=1e-6)}))
torch.manual_seed(SEED)
starts = {"B = 0": {}, "LoftQ": {}, "weighted": {}}
for name, matrix in original.items():
    error = matrix.float() - rounded[name].float()
    A, B = quick_low_rank(error, RANK)
    starts["LoftQ"][name] = A, B / s
    A, B = quick_low_rank(error * size[name], RANK)
    starts["weighted"][name] = A / size[name], B / s

# %% [markdown]
# (One round, so all share the plain NF4 codes.) Now the real 4-bit model, and the same training from each start.

# %%
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, Trainer, TrainingArguments, set_seed

quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=DTYPE,
)
quantized = load_base(quantization)
collator = lessonkit.CausalLMCollator(tokenizer)
config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear")


# %%
def attach(adapter):
    """The 4-bit model with an adapter {name: (A, B)}; an empty one leaves PEFT's own start, B = 0."""
    set_seed(SEED)
    model = get_peft_model(quantized, config)
    for name, (A, B) in adapter.items():
        layer = model.get_submodule(f"base_model.model.{name}")
        layer.lora_A["default"].weight.data.copy_(A)
        layer.lora_B["default"].weight.data.copy_(B)
    return model


def adapter_of(model):
    layers = {name: model.get_submodule(f"base_model.model.{name}") for name in linear}
    return {
        name: tuple(part["default"].weight.detach().clone() for part in (each.lora_A, each.lora_B))
        for name, each in layers.items()
    }


# %%
def trainer_for(model):
    arguments = TrainingArguments(
        output_dir=str(lesson.folder / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.1,
        bf16=bf16,
        fp16=fp16,
        use_cpu=device == "cpu",
        save_strategy="no",
        report_to="none",
        seed=SEED,
    )
    return Trainer(model, arguments, train_dataset=train_dataset, data_collator=collator)


# %%
untrained, trained, adapters = {}, {}, {}
for name, adapter in starts.items():
    model = attach(adapter)
    untrained[name] = (
        before["base in NF4"] if name == "B = 0" else measure(model, test_dataset, f"start {name}")
    )
    run = lessonkit.run(trainer_for(model))
    trained[name] = measure(model, test_dataset, f"trained from {name}")
    adapters[name] = adapter_of(model)
    quantized = model.unload()  # the 4-bit base again

# %%
print(
    f"{'start':<10}{'untrained':>11}{'trained':>9}   (16 bits, untrained: {before['base in 16 bits'].perplexity:.2f})"
)
for name in starts:
    print(f"{name:<10}{untrained[name].perplexity:>11.2f}{trained[name].perplexity:>9.2f}")
print()
print(lessonkit.compare_perplexities(trained["B = 0"], before["base in NF4"]), "\n")
for name in ("LoftQ", "weighted"):
    print(lessonkit.compare_perplexities(untrained[name], untrained["B = 0"]))
    print(lessonkit.compare_perplexities(trained[name], trained["B = 0"]), "\n")

# %% [markdown]
# LoftQ's start can't be told from B = 0, before or after training. (Its paper's gains are largest at 2 bits.) The
# weighted one closes more than half of the hole before the first step, and is ahead after the last (not only for the
# hole: see section 8). Each start was trained once; intervals know of texts only.
#
# *Here ends the third focus session.*
#
# ## 5. Merging: into which weights?
#
# We take the adapter from B = 0, with Δ = s B A, and merge it
#
# 1. into the 4-bit weights: Ŵ + Δ, rounded to NF4 again (`merge_and_unload` on the 4-bit model);
# 2. into Ŵ, kept in 16 bits: what was trained, about four times the size;
# 3. into the original W, in 16 bits: a base that the adapter never met;
# 4. as 3, then rounded: to NF4, and by GPTQ.
#
# **Exercise 4, predict.** Which foresees the test tales *better* than the trained model, adapter beside Ŵ? `"a"` none,
# for the adapter fits Ŵ alone; `"b"` the second, for 16 bits are finer; `"c"` the third.

# %%
answer = TODO
lesson.exercise("better-than-trained").check(answer)


# %%
def change_of(adapter, name):
    A, B = adapter[name]
    return s * (B @ A)


change = {name: change_of(adapters["B = 0"], name) for name in linear}  # Δ, in float32
in_original = {name: (original[name].float() + each).to(HALF) for name, each in change.items()}
mergers = {
    "into Ŵ, 16 bits": lambda name: (rounded[name].float() + change[name]).to(HALF),
    "into W, 16 bits": in_original.get,
    "into W, then NF4": lambda name: nf4(in_original[name]),
}
merged = {}
for name, weight_of in mergers.items():
    put(weight_of)
    merged[name] = measure(base, test_dataset, f"merged {name}")

# %%
import warnings

model = attach(adapters["B = 0"])
codes = {
    name: model.get_submodule(f"base_model.model.{name}.base_layer").weight.data.clone() for name in linear
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PEFT warns of rounding errors: our topic
    merged_4bit = model.merge_and_unload()
merged["into the 4-bit weights"] = measure(merged_4bit, test_dataset, "merged into the 4-bit weights")

# %%
put(in_original.get)


def round_on_the_way(name, X):
    linear[name].weight.data.copy_(gptq(in_original[name], X))  # the layers above see inputs as they will be


visit(linear, calibration, round_on_the_way)
merged["into W, then GPTQ"] = measure(base, test_dataset, "merged into W, then GPTQ")

# %%
nf4_bits = SCHEMES["NF4, double quantisation"][0]
BITS = {"into Ŵ, 16 bits": 16, "into W, 16 bits": 16, "into W, then GPTQ": 4 + 20 / 64}
beside = trained["B = 0"]
bars = {f"adapter beside Ŵ ({nf4_bits:.2f} bits)": beside.perplexity}
for name, scores in sorted(merged.items(), key=lambda item: item[1].perplexity):
    bars[f"{name} ({BITS.get(name, nf4_bits):.2f} bits)"] = scores.perplexity
ax = lessonkit.plots.bars(
    bars,
    xlabel="perplexity on test tales",
    fmt="{:.2f}",
    title="One adapter, merged into five kinds of weights",
)
# %%
for scores in merged.values():
    print(lessonkit.compare_perplexities(scores, beside), "\n")
print(lessonkit.compare_perplexities(merged["into W, then NF4"], merged["into the 4-bit weights"]))

# %% [markdown]
# - **Into the 4-bit weights: the training is gone.** It is about as bad as NF4 before training.
# - Into Ŵ in 16 bits: the trained model, nearly; rounding to 16 bits costs a little of Δ.
# - Into W in 16 bits: *better* than what was trained. The hole is gone, and what was learned fits W, too.
# - W + Δ in NF4 is as small as the first, and only a little worse than the trained model; with GPTQ (on training
#   passages), no difference can be told. So keep the original weights, and quantise last.
#
# ### Why merging into the codes loses
#
# Ŵ lies exactly *on* the levels. To reach the next one, a change must be larger than half the gap between them:

# %%
from bitsandbytes.functional import get_4bit_type

name = shown[0]
absmax = rounded[name].float().reshape(-1, 64).abs().amax(dim=1, keepdim=True)
relative = (change[name].reshape(-1, 64) / absmax).flatten().cpu()
gaps = get_4bit_type("nf4", device="cpu").diff()
ax = lessonkit.plots.histogram(
    relative,
    rulers={
        "half of NF4's narrowest gap": [-gaps.min() / 2, gaps.min() / 2],
        "half of its widest gap": [-gaps.max() / 2, gaps.max() / 2],
    },
    limits=(-0.2, 0.2),
    xlabel="trained change of a weight / absmax of its block",
    title=name,
)

# %%
other_codes = all_codes = 0
arrives, whole = {"Ŵ + Δ": 0.0, "W + Δ": 0.0}, 0.0
for name, D in change.items():
    flips = codes[name] ^ merged_4bit.get_submodule(name).weight.data  # two codes a byte
    other_codes += int(((flips & 15) > 0).sum() + ((flips >> 4) > 0).sum())
    all_codes += 2 * flips.numel()
    whole += float(D.square().sum())
    for sum_of, origin in (("Ŵ + Δ", rounded[name].float()), ("W + Δ", original[name].float())):
        moved = nf4(origin + D) - rounded[name].float()  # how far the stored weights really move
        arrives[sum_of] += float((moved * D).sum())
print(f"codes that the merger changed: {other_codes / all_codes:.2%}")
for sum_of, along in arrives.items():
    print(f"NF4 of {sum_of}: {along / whole:.0%} of the change arrives")

# %% [markdown]
# The changes lie far within half a gap, so codes are rounded back to where they came from. What little arrives may
# come by the scales, computed anew. (So few steps make a small Δ; a larger one moves more codes, so loses less.) W
# lies between the levels. There a small Δ tips a few weights over the middle, the more the larger it is: on average
# nearly all of Δ arrives.
#
# How does each model go on with a test tale?

# %%
tale = tokenizer(tales["test"]["text"][0], return_tensors="pt")["input_ids"][:, :40].to(device)


def goes_on(model, name):
    with torch.no_grad(), torch.autocast(device, DTYPE, enabled=bf16 or fp16):
        out = model.generate(
            input_ids=tale,
            attention_mask=torch.ones_like(tale),
            max_new_tokens=lesson.pick(smoke=3, laptop=25, gpu=40),
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    print(f"{name}: {tokenizer.decode(out[0, tale.shape[1] :])!r}\n")


print(tokenizer.decode(tale[0]), "...\n")
goes_on(merged_4bit, "into the 4-bit weights")
goes_on(base, "into W, then GPTQ")  # the stage still holds it
for name, weight_of in {"into W, 16 bits": in_original.get, "untrained": original.get}.items():
    put(weight_of)
    goes_on(base, name)

# %% [markdown]
# All are poor; most repeat themselves.
#
# *Here ends the fourth focus session.*
#
# ## 6. Optimisers in 8 bits, and paged ones
#
# bitsandbytes' `AdamW8bit` keeps each moment in one byte a value, with one 32-bit scale for 256 of them; tensors with
# fewer than 4,096 values stay in 32 bits.
#
# **Exercise 5, predict.** SmolLM2's `k_proj` maps 576 numbers to 192. With r = 8, how many **bytes** are AdamW8bit's
# moments and scales for A and for B? `{"A": ..., "B": ...}`

# %%
answer = TODO
lesson.exercise("moments").check(answer)

# %% tags=["nbval-check-output"]
from bitsandbytes.optim import AdamW, AdamW8bit, PagedAdamW8bit

torch.manual_seed(SEED)
pair = {"A": torch.randn(8, 576, device=device), "B": torch.randn(192, 8, device=device)}
pair = {name: torch.nn.Parameter(values) for name, values in pair.items()}
optimizer = AdamW8bit(pair.values(), lr=1e-3)


def state_bytes(optimizer, parameter):
    """Without the two tables of 256 levels, which all share."""
    state = optimizer.state[parameter].items()
    return sum(each.nbytes for name, each in state if torch.is_tensor(each) and "qmap" not in name)


gradient = {name: torch.randn_like(each) for name, each in pair.items()}
for name, each in pair.items():
    each.grad = gradient[name]
optimizer.step()
for name, each in pair.items():
    kind, size = optimizer.state[each]["state1"].dtype, state_bytes(optimizer, each)
    print(f"{name}: {each.numel():,} values, moments of {kind}, {size:,} bytes")

# %% [markdown]
# The smaller matrix costs more. By hand, the first moment after one step is 0.1 times the gradient: divided by its
# block's absmax, it takes the nearest of 256 levels.

# %% tags=["nbval-check-output"]
state = optimizer.state[pair["A"]]
moments = (0.1 * gradient["A"]).reshape(-1, 256)
absmax = moments.abs().amax(dim=1, keepdim=True)
levels = state["qmap1"]
by_hand = torch.bucketize(moments / absmax, (levels[1:] + levels[:-1]) / 2)
same = (by_hand.flatten() == state["state1"].flatten()).float().mean()
scales = torch.allclose(absmax.flatten(), state["absmax1"])
print(f"the same scales: {scales}, and over 99 % of the codes: {bool(same > 0.99)}")

# %%
model = attach({})
parameters = [each for each in model.parameters() if each.requires_grad]
for kind in (AdamW, AdamW8bit):
    optimizer = kind(parameters, lr=0.0)
    for each in parameters:
        each.grad = torch.zeros_like(each)
    optimizer.step()
    held = sum(state_bytes(optimizer, each) for each in parameters)
    count = sum(each.numel() for each in parameters)
    print(f"{kind.__name__:<10}{held / 2**20:>6.1f} MiB of moments for {count:,} parameters")
quantized = model.unload()

# %% [markdown]
# More than a quarter of AdamW's, for small matrices stay in 32 bits. A **paged** optimiser keeps moments (of 100,000
# values or more) where CUDA may move them to the computer's memory when the GPU is full. On a CPU:

# %%
parameter = torch.nn.Parameter(torch.ones(512, 512, device=device))
parameter.grad = torch.ones_like(parameter)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    PagedAdamW8bit([parameter]).step()
print(*{str(each.message) for each in told} or ["no warning: this machine pages"])

# %% [markdown]
# ## 7. 65B on one GPU: the claim, checked
#
# [The paper](https://arxiv.org/abs/2305.14314): QLoRA finetunes 65B on one GPU of 48 GB, where 16 bits need "more than
# 780 GB". A model of that shape, predicted:

# %%
from transformers import LlamaConfig

from lessonkit.memory.gpus import CONTEXT_BYTES, GPUS

LLAMA_65B = LlamaConfig(
    hidden_size=8192, intermediate_size=22016, num_hidden_layers=80, num_attention_heads=64
)


def plan(technique="qlora", **more):
    options = {"batch_size": 1, "sequence_length": 512, "device": "cuda", "gradient_checkpointing": True}
    if technique == "qlora":
        options |= {"r": 64, "target_modules": "all-linear"}
    return lessonkit.predict_memory(LLAMA_65B, technique, **options | more)


ROWS = {
    "r = 64, AdamW": {},
    "r = 64, 8-bit AdamW": {"optimizer": "adamw_8bit"},
    "the same, single quantisation": {"optimizer": "adamw_8bit", "double_quantization": False},
    "the same, no checkpointing": {"optimizer": "adamw_8bit", "gradient_checkpointing": False},
}
# %%
card = GPUS["L40S (48 GB)"]
room = card - CONTEXT_BYTES / 2**30
plans = {name: plan(**more) for name, more in list(ROWS.items())[: lesson.pick(smoke=1, laptop=4, gpu=4)]}
bars = {}
for name, each in plans.items():
    parts = each.breakdown
    rest = sum(parts.values()) - parts["weights"] - parts["optimizer"]
    row = {"weights": parts["weights"], "optimiser": parts["optimizer"], "all else": rest}
    bars[name] = {part: size / 2**30 for part, size in row.items()}
ax = lessonkit.plots.stacked_bars(
    bars, xlabel="GiB", limit=("48 GB card", room), title="LLaMA-65B, one text of 512 tokens"
)

# %%
first = plans["r = 64, AdamW"]
count = first.total_parameters - first.trainable_parameters
print(
    f"16 bits, all trained: {count / 1e9:.1f} billion x (2 + 2 + 8) bytes = {12 * count / 1e9:.0f} GB without activations"
)
for name, each in plans.items():
    peak, moments = each.peak_bytes / 2**30, each.optimizer_bytes / 2**30
    print(f"{name:<30}peak {peak:5.1f} GiB, to spare {room - peak:+5.1f}; moments {moments:.1f}")

# %% [markdown]
# By this prediction the claim holds, with conditions: checkpointing; double quantisation, by a hair; and at the
# paper's r = 64, AdamW in 32 bits is a few GiB too much. 8-bit moments cure that, or paging, which at best takes the
# moments off the first row's peak. 16-bit weights and gradients with 32-bit moments exceed 780 GB.
#
# Our assumptions: adapters in float32, an L40S, one text of 512 tokens.
#
# ## 8. What goes wrong
#
# **PEFT's LoftQ, without a GPU:**

# %%
try:
    loftq_utils.loftq_init(original[shown[0]].float().cpu(), num_bits=4, reduced_rank=RANK)
    print("it ran: this machine has a GPU")
except (AssertionError, RuntimeError) as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# The cure: section 4's few lines. **LoftQ with the scaling forgotten**:

# %% tags=["nbval-check-output"]
W, W_hat = original[shown[0]].float(), rounded[shown[0]].float()
A, B = low_rank(W - W_hat, RANK)
for scaling in (1, 2, 4):
    left = (W - W_hat - scaling * B @ A).norm() / (W - W_hat).norm()
    print(f"s = {scaling}: {left:.1f} of the error is left")

# %% [markdown]
# At s = 2 nothing is gained. **A start forgotten in the merger.** The weighted adapter began as part
# of W - Ŵ. Merged into W, which has no such error, that part *is* one:


# %%
def learned(name):
    return change_of(adapters["weighted"], name) - change_of(starts["weighted"], name)


put(lambda name: original[name].float() + change_of(adapters["weighted"], name))
wrong = measure(base, test_dataset, "whole weighted adapter in W")
put(lambda name: original[name].float() + learned(name))
cured = measure(base, test_dataset, "adapter without its start in W")
print(lessonkit.compare_perplexities(wrong, cured))

# %% [markdown]
# The cure: merge only what was learned, the adapter less its start. (For PiSSA and OLoRA, PEFT's
# `path_initial_model_for_weight_conversion` does that.) Compare section 5's merger into W: the same W, yet this start
# seems to have learned *more* than B = 0. Its A has columns of other sizes, so one learning rate isn't the same for
# both; a fair contest would tune each.
#
# More: [troubleshooting](../../lessons/troubleshooting.md#adapters-and-quantised-models).
#
# ## 9. On a bigger machine
#
# With a GPU of 14 GiB or more, this notebook takes SmolLM2-360M-Instruct, in 16 bits from its makers (so Q4_1 has no
# home advantage). The predicted peak of a training step, in a T4's float16:

# %%
larger = LlamaConfig(
    vocab_size=49152,
    hidden_size=960,
    intermediate_size=2560,
    num_hidden_layers=32,
    num_attention_heads=15,
    num_key_value_heads=5,
    tie_word_embeddings=True,
)
step = lessonkit.predict_memory(
    larger,
    "qlora",
    r=8,
    target_modules="all-linear",
    batch_size=8,
    sequence_length=128,
    dtype="float16",
    device="cuda",
)
print(f"{step.peak_bytes / 2**30:.1f} GiB of a T4's {GPUS['T4 (16 GB)']}")

# %% [markdown]
# The stage and copies of the weights come on top.
#
# ## 10. The end
#
# 1. Errors in weights are alike everywhere; harm isn't. Measure outputs or perplexity, on data.
# 2. Judge no scheme by weights that have been through it, nor by squared errors.
# 3. A start weighted by the inputs closed much of the hole; LoftQ's, at 4 bits and a low rank, little.
# 4. Merge into the original weights, and quantise last. Merging into 4-bit codes can lose everything.
# 5. 65B should fit 48 GB, with checkpointing, double quantisation, and small or paged moments.
#
# The next cell keeps your result; at laptop or GPU scale it counts towards *All Expert Examples*.

# %%
lesson.record(
    base_perplexity=before["base in 16 bits"].perplexity,
    base_nf4_perplexity=before["base in NF4"].perplexity,
    trained_perplexity=beside.perplexity,
    merged_4bit_perplexity=merged["into the 4-bit weights"].perplexity,
    merged_dequantised_perplexity=merged["into Ŵ, 16 bits"].perplexity,
    merged_original_perplexity=merged["into W, 16 bits"].perplexity,
    merged_gptq_perplexity=merged["into W, then GPTQ"].perplexity,
    test_passages=TEST_PASSAGES,
)

# %% [markdown]
# **Check yourself.** Why does rounding W + Δ keep Δ on average, and rounding Ŵ + Δ not? A colleague merges into Ŵ in
# 16 bits, then quantises with NF4: what will she see?
#
# <details><summary>Answers</summary>
#
# W lies between two levels, so Δ tips a share of the weights that grows with Δ; Ŵ lies on the levels, and nothing tips
# below half a gap. She gets almost the untrained model back: it is the first merger by another road.
#
# </details>
#
# **Next:** [adapters, expert](adapters.ipynb).
