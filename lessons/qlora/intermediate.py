# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # QLoRA, intermediate
#
# You will be able to store a frozen model in about four bits per weight, say what that costs and what it saves, and
# plan a 7B or 70B model for the GPU you have.
#
# **100 minutes**, four focus sessions (up to 3 minutes are training, on 2 CPU cores) · **intermediate** · before
# this: [LoRA, beginner](../beginner/lora.ipynb) and [full fine-tuning, intermediate](full-fine-tuning.ipynb); in the
# course's order, [LoRA, intermediate](lora.ipynb) · background: [the guide to QLoRA](../../lessons/qlora/guide.md) ·
# next: [prompt tuning, intermediate](prompt-tuning.ipynb)
#
# You will
#
# - build the 4-bit format NF4 by hand, equal to *bitsandbytes* code for code;
# - lay three 4-bit formats over real weights, and measure each one's error in two ways;
# - train QLoRA beside LoRA, and see which bytes were saved, and which were not.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("intermediate/qlora")

# %%
MODEL = lesson.pick(smoke="smollm2", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-1.7B-Instruct")
MATRICES = lesson.pick(smoke=7, laptop=None, gpu=None)  # how many are rounded by hand; None: all
WINDOW = lesson.pick(smoke=16, laptop=64, gpu=128)  # tokens of a passage
TRAIN_PASSAGES = lesson.pick(smoke=8, laptop=96, gpu=480)
VALIDATION_PASSAGES = lesson.pick(smoke=3, laptop=80, gpu=80)  # to choose with
TEST_PASSAGES = lesson.pick(smoke=3, laptop=80, gpu=160)  # for the last measurement
STEPS = lesson.pick(smoke=2, laptop=12, gpu=60)
BATCH_SIZE = lesson.pick(smoke=2, laptop=8, gpu=8)
LEARNING_RATE = lesson.pick(smoke=1e-3, laptop=1e-3, gpu=5e-4)  # higher where steps are few
SEED = 0

# %% [markdown]
# ## 1. Which sixteen numbers?
#
# LoRA never changes the base model's weights, it only reads them. So they may be stored coarsely. Four bits name one
# of 16 **levels**. Which numbers should these be? We look at the weights first.

# %%
import torch
from transformers import AutoModelForCausalLM

device, bf16, fp16 = lesson.hardware.device, lesson.hardware.bf16, lesson.hardware.fp16
DTYPE = getattr(torch, lesson.hardware.dtype)  # 16 bits where the hardware computes in them, else 32


def load_base(quantization=None):
    model = lessonkit.load_model(
        MODEL,
        AutoModelForCausalLM,
        dtype=DTYPE,
        quantization_config=quantization,
        attn_implementation=lesson.hardware.attention,
    )
    return model if quantization else model.to(device)


# %%
base = load_base()
linear = [
    (name, module)
    for name, module in base.named_modules()
    if isinstance(module, torch.nn.Linear) and module is not base.get_output_embeddings()
]
linear = dict(linear[:MATRICES])
matrices = {name: module.weight.detach().cpu().clone() for name, module in linear.items()}
print(f"{len(matrices)} matrices, {sum(each.numel() for each in matrices.values()):,} weights")

# %% [markdown]
# The linear layers inside the transformer blocks; embeddings and output layer stay as they are, as usual in QLoRA.
#
# **NF4** ("4-bit NormalFloat") assumes normally distributed weights, and puts its levels at quantiles of the normal
# distribution: 8 positive and 7 negative ones, at equal steps of probability, and an exact zero.

# %%
from scipy.stats import norm


def normal_levels(outermost=0.9677083):
    """NF4's 16 levels: quantiles of the standard normal distribution, scaled so that the largest is 1."""
    positive = norm.ppf(torch.linspace(outermost, 0.5, 9)[:-1])  # 8 probabilities, without 0.5 itself
    negative = -norm.ppf(torch.linspace(outermost, 0.5, 8)[:-1])
    levels = torch.tensor(sorted([*negative, 0.0, *positive]), dtype=torch.float32)
    return levels / levels.max()


NF4 = normal_levels()

# %% tags=["nbval-check-output"]
from bitsandbytes.functional import get_4bit_type

print(" ".join(f"{level:.4f}" for level in NF4.tolist()))
print("equal to bitsandbytes' table:", torch.equal(NF4, get_4bit_type("nf4", device="cpu")))
print(f"1 - (1/30 + 1/32) / 2 = {1 - (1 / 30 + 1 / 32) / 2:.7f}")

# %% [markdown]
# To the last bit. The odd 0.9677083 leaves about half a step outside at each end (third line: half a 15th, half a 16th,
# averaged). Over real weights:

# %%
shown = next(name for name in matrices if "up_proj" in name)
weights = matrices[shown].float().flatten()
grid = torch.linspace(-4, 4, 200).numpy()
ax = lessonkit.plots.histogram(
    weights / weights.std(),
    rulers={"NF4's levels": NF4 * norm.ppf(0.9677083)},
    curve=("normal distribution", grid, norm.pdf(grid)),
    limits=(-4, 4),
    xlabel="weight / standard deviation",
    title=shown,
)

# %% [markdown]
# Dense where weights are many. Some lie beyond the last level: scaling takes care of them.
#
# ## 2. A block, by hand
#
# Take 64 neighbouring weights, a **block**. Divide by the largest absolute value, **absmax**, so that all lie between
# -1 and 1. Replace each by the number of its nearest level, its **code**. Keep the codes and absmax.
#
# **Exercise 1, write code.** `block` is a tensor of weights, `levels` a sorted tensor. Return the codes, a tensor
# of whole numbers, and absmax.

# %%
TODO = lessonkit.TODO


def quantize_block(block, levels):
    return TODO


lesson.exercise("quantize-block").check(quantize_block)

# %% [markdown]
# Now all blocks of a matrix at once. The nearest level is found by comparing with the *middles* between levels, and two
# codes share a byte, the first in its upper half.


# %%
def quantize(matrix, levels, block=64):
    """Codes of shape (blocks, block), and absmax of shape (blocks, 1)."""
    blocks = matrix.float().reshape(-1, block)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    scaled = blocks * (1 / absmax.clamp(min=1e-38))  # a block of zeros stays zeros
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(scaled, middles).to(torch.uint8), absmax


def dequantize(codes, absmax, levels):
    return levels[codes.int()] * absmax


def pack(codes):
    first, second = codes.flatten()[0::2], codes.flatten()[1::2]
    return (first << 4) | second


# %% tags=["nbval-check-output"]
block = torch.tensor([0.02, -0.05, 0.10, -0.08])
codes, absmax = quantize(block, NF4, block=4)
print("codes", codes.tolist()[0], "bytes", [f"{byte:08b}" for byte in pack(codes).tolist()])
print("back ", [round(value, 4) for value in dequantize(codes, absmax, NF4)[0].tolist()])

# %% [markdown]
# The largest weight comes back exactly, the others nearly. Is that what bitsandbytes, the library behind QLoRA, does? We
# compare every byte of every matrix.

# %% tags=["nbval-check-output"]
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

same_bytes = same_absmax = same_weights = True
for matrix in matrices.values():
    packed, state = quantize_4bit(matrix, blocksize=64, quant_type="nf4")
    codes, absmax = quantize(matrix, NF4)
    back = dequantize(codes, absmax, NF4).reshape(matrix.shape).to(matrix.dtype)
    same_bytes &= torch.equal(pack(codes), packed.flatten())
    same_absmax &= torch.equal(absmax.flatten(), state.absmax)
    same_weights &= torch.equal(back, dequantize_4bit(packed, state))
print(f"bytes {same_bytes}, absmax {same_absmax}, dequantised weights {same_weights}")

# %% [markdown]
# Code for code. And in two corner cases: values exactly between two levels, and a block of zeros.

# %% tags=["nbval-check-output"]
corner = torch.zeros(128)
corner[0], corner[1:16] = 1.0, (NF4[1:] + NF4[:-1]) / 2  # absmax 1, then all 15 middles
packed, state = quantize_4bit(corner, quant_type="nf4")
print("middles ", quantize(corner, NF4)[0][0, 1:16].tolist())
print("zeros   ", quantize(corner, NF4)[0][1].unique().tolist(), "absmax", state.absmax.tolist())
print("the same", torch.equal(pack(quantize(corner, NF4)[0]), packed.flatten()))

# %% [markdown]
# A tie takes the lower level; a block of zeros gets code 7, the exact zero.
#
# **Exercise 2, predict.** The paper places levels at quantiles so that each is used about equally often. Over all these
# blocks of 64: how often is the most used level used, compared with the least used one? `"a"` about as often, `"b"`
# about twice, `"c"` four times or more.

# %%
answer = TODO
lesson.exercise("equal-use").check(answer)

# %%
every_code = torch.cat([quantize(each, NF4)[0].flatten() for each in matrices.values()])
share = torch.bincount(every_code.int(), minlength=16) / len(every_code)
ax = lessonkit.plots.bars(
    {f"{code:>2}: {level:+.3f}": float(part) for code, (level, part) in enumerate(zip(NF4, share))},
    xlabel="share of all weights (equal use would be 0.0625)",
)
print(f"most used {share.max():.3f}, least used {share.min():.3f}")

# %% [markdown]
# Far from equal. The levels are quantiles of *weights*; but what is rounded are weights divided by the largest of 64,
# and that one lies, for normal draws, at about 2.6 standard deviations, not at NF4's 1.85. So everything is pressed
# towards the middle ([Yoshida 2023](https://arxiv.org/abs/2306.06965)). Whether that matters is for section 3.
#
# *Here ends the first focus session.*
#
# ## 3. Three formats, one histogram
#
# The rivals with the same four bits. **FP4** is a tiny floating-point number: sign, two bits of exponent, one of
# mantissa. **INT4** is evenly spaced. Each wastes a code, so 15 levels remain.

# %% tags=["nbval-check-output"]
positive = torch.tensor([0.0625, 2, 3, 4, 6, 8, 12]) / 12
FORMATS = {
    "NF4": NF4,
    "FP4": torch.cat([-positive.flip(0), torch.zeros(1), positive]),
    "INT4": torch.arange(-7, 8) / 7,
}
print("FP4 is bitsandbytes':", torch.equal(FORMATS["FP4"], get_4bit_type("fp4", device="cpu").unique()))

# %% [markdown]
# The error: squared differences after rounding, as a share of the squared weights.


# %%
def relative_error(matrix, levels, block=64):
    back = dequantize(*quantize(matrix, levels, block), levels)
    original = matrix.float().reshape(back.shape)
    return float((back - original).square().sum() / original.square().sum())


def draw(name, block):
    blocks = matrices[name].float().reshape(-1, block)
    rulers = {
        f"{kind} ({relative_error(matrices[name], levels, block):.2%} error)": levels
        for kind, levels in FORMATS.items()
    }
    title = f"{name}, blocks of {block}"
    scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-38)).flatten()
    return lessonkit.plots.histogram(
        scaled, rulers=rulers, limits=(-1.05, 1.05), xlabel="weight / absmax", title=title
    )


ax = draw(shown, 64)

# %% [markdown]
# NF4 errs least. FP4 has wide gaps beside zero; INT4 spends levels where few weights are. Move the sliders: what happens
# to the histogram as blocks grow, and whom does it hurt? (Then look at the table below.)

# %%
from ipywidgets import SelectionSlider, interact

SIZES = (32, 64, 256, 1024, 4096)


@interact(
    name=SelectionSlider(options=list(matrices), value=shown, continuous_update=False),
    block=SelectionSlider(options=SIZES, value=64, continuous_update=False),
)
def explore(name, block):
    draw(name, block)


# %%
errors = [
    [100 * relative_error(matrices[shown], levels, block) for block in SIZES] for levels in FORMATS.values()
]
ax = lessonkit.plots.heat_map(
    errors, list(FORMATS), [f"block {block}" for block in SIZES], fmt="{:.2f}", title="relative error in %"
)

# %% [markdown]
# In a large block, one large weight presses all others towards zero, where NF4 is densest: it loses least. Small blocks
# are better for all, and dearer (section 4).
#
# But what we care about is the model: the **perplexity** with all matrices so rounded, on passages of Grimm's tales.
# Whole tales are held out.

# %%
import random

from datasets import Dataset

from lessonkit.evaluation import compare_perplexities

tokenizer = lessonkit.load_tokenizer(MODEL)
tales = lessonkit.load_dataset("grimm-tales")


def passages(texts, count):
    found = []
    for text in texts:
        ids = tokenizer(text, verbose=False)["input_ids"]
        found += [ids[at : at + WINDOW] for at in range(0, len(ids) - WINDOW + 1, WINDOW)]
    random.Random(SEED).shuffle(found)
    return Dataset.from_dict({"input_ids": found[:count], "labels": found[:count]})


train_texts = tales["train"]["text"]
train_dataset = passages(train_texts[:-8], TRAIN_PASSAGES)
validation = passages(train_texts[-8:], VALIDATION_PASSAGES)  # eight tales that are not trained on
test_dataset = passages(tales["test"]["text"], TEST_PASSAGES)
print(tokenizer.decode(validation[0]["input_ids"]))


# %%
def measure(model, dataset, name):
    with torch.autocast(device, DTYPE, enabled=bf16 or fp16):
        return lessonkit.perplexity(model, dataset, batch_size=16, name=name)


def rounded(levels, name, block=64):
    """Round every matrix of the base model, and measure."""
    for each, module in linear.items():
        back = dequantize(*quantize(matrices[each], levels, block), levels)
        module.weight.data.copy_(back.reshape(module.weight.shape))
    return measure(base, validation, name)


unrounded = measure(base, validation, "base as it is")
by_format = {name: rounded(levels, name) for name, levels in FORMATS.items()}
by_format["NF4, blocks of 1024"] = rounded(NF4, "NF4, blocks of 1024", block=1024)
print(unrounded, "\n")
for scores in by_format.values():
    print(compare_perplexities(scores, unrounded), "\n")
print(compare_perplexities(by_format["NF4"], by_format["FP4"]), "\n")
print(compare_perplexities(by_format["FP4"], by_format["INT4"]))

# %% [markdown]
# NF4 loses least, INT4 most. So squared error had FP4 and INT4 in the wrong order: it is a guide, not a verdict. (In the
# [paper](https://arxiv.org/abs/2305.14314)'s Table 2, INT4 is last, too.) And even NF4 costs this model a good deal; the
# paper's far larger ones lost next to nothing. Larger blocks cost more still.
#
# One caution: our SmolLM2 comes from a file that was rounded to 4 bits before (another format, GGUF's Q4_1), so "as it
# is" hides an older loss. A matrix of MiniLM, which never was rounded, gives nearly the same squared errors:

# %%
other = lessonkit.load_model("minilm").encoder.layer[3].intermediate.dense.weight.detach()
for kind, levels in FORMATS.items():
    print(
        f"{kind:<5}{relative_error(matrices[shown], levels):>7.2%} ours{relative_error(other, levels):>8.2%} MiniLM"
    )

# %% [markdown]
# **Exercise 3, run an experiment.** NF4 was designed for one distribution; you have the weights. Find 16 levels of your
# own whose squared error on *other* matrices is **at most 0.96 of NF4's**. The check measures on matrices from the
# upper third of SmolLM2, so learn from lower ones. A start, to go above `answer`:
#
# ```python
# blocks = torch.cat([matrices[name].float().reshape(-1, 64) for name in list(matrices)[:7]])
# scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-38)).flatten()
# mine = NF4.clone()  # now improve these: which weights take level 3, and where would it serve them best?
# ```
#
# Then `answer = mine`. It takes seconds.

# %%
answer = TODO
lesson.exercise("own-levels").check(answer)

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 4. Double quantisation, in bits
#
# Absmax is a 32-bit number for each 64 weights. **Double quantisation** stores it in 8 bits: the mean of all is
# subtracted, then 256 of them share one 32-bit scale of their own.

# %% tags=["nbval-check-output"]
print(f"codes and 32-bit scales    4 + 32/64              = {4 + 32 / 64:.3f} bits per weight")
print(f"double quantisation        4 + 8/64 + 32/(64*256) = {4 + 8 / 64 + 32 / (64 * 256):.3f}")

# %% [markdown]
# **Exercise 4, predict.** The same two numbers for blocks of 128: pass `{"single": ..., "double": ...}`.

# %%
answer = TODO
lesson.exercise("bits").check(answer)

# %% [markdown]
# So much for arithmetic. Now we load the model in 4 bits, as you would at work, and count the bytes of its tensors. None
# of the three settings is the default:

# %% tags=["nbval-check-output"]
from transformers import BitsAndBytesConfig

default = BitsAndBytesConfig(load_in_4bit=True)
print(default.bnb_4bit_quant_type, default.bnb_4bit_use_double_quant, default.bnb_4bit_compute_dtype)

# %%
import bitsandbytes as bnb

quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=DTYPE,  # weights are unpacked into this for each product
)


# %%
def four_bit_bytes(model):
    """Bytes of the 4-bit layers by what they are for, and how many weights these layers have."""
    held, count = {"codes": 0, "scales": 0, "scales of scales": 0, "lookup tables": 0}, 0
    for layer in model.modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            state = layer.weight.quant_state
            held["codes"] += layer.weight.nbytes
            held["scales"] += state.absmax.nbytes
            held["scales of scales"] += state.state2.absmax.nbytes
            held["lookup tables"] += state.code.nbytes + state.state2.code.nbytes + state.offset.nbytes
            count += state.shape.numel()
    return held, count


quantized = load_base(quantization)
held, count = four_bit_bytes(quantized)
for name, size in held.items():
    print(f"{name:<17}{8 * size / count:.3f}")
print(f"{'together':<17}{8 * sum(held.values()) / count:.3f} bits per weight")

# %% [markdown]
# As computed; each layer also keeps its lookup tables, about a kilobyte: nothing, in a large model. But matrices are not
# the whole model:

# %%
everything = sum(each.nbytes for each in base.parameters())
rest = sum(each.nbytes for each in quantized.parameters()) - held["codes"]
sizes = {
    "LoRA's base": {"matrices": everything - rest, "everything else": rest},
    "QLoRA's base": {"matrices": sum(held.values()), "everything else": rest},
}
sizes = {name: {part: size / 2**20 for part, size in each.items()} for name, each in sizes.items()}
title = f"in {lesson.hardware.dtype}; QLoRA's matrices in NF4"
ax = lessonkit.plots.stacked_bars(sizes, xlabel="MiB of weights", fmt="{:.0f}", title=title)

# %% [markdown]
# "Four times smaller" holds for the matrices, against 16 bits; where LoRA's base is in 32, as on a CPU without bf16
# units, it is eight. The rest is mostly embeddings, and the smaller the model, the more they weigh.
#
# *Here ends the third focus session.*
#
# ## 5. QLoRA beside LoRA
#
# The same adapter, texts, steps and seed over two bases. In each layer, forwards and backwards, QLoRA unpacks the codes
# into ordinary weights, multiplies, and throws these away. Guess: which is faster?

# %%
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, set_seed

collator = lessonkit.CausalLMCollator(tokenizer)


def train(model):
    set_seed(SEED)  # LoRA's random A
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
    model = get_peft_model(model, config)
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
    trainer = Trainer(model, arguments, train_dataset=train_dataset, data_collator=collator)
    return model, lessonkit.run(trainer)


# %% [markdown]
# Many recipes call `prepare_model_for_kbit_training` first; section 7 says why we don't. The baselines, untrained, on the
# test passages:

# %%
for name, module in linear.items():
    module.weight.data.copy_(matrices[name])  # section 3 left them rounded
baselines = {
    "LoRA": measure(base, test_dataset, "untrained base"),
    "QLoRA": measure(quantized, test_dataset, "untrained base in NF4"),
}
for scores in baselines.values():
    print(scores, "\n")
print(compare_perplexities(baselines["QLoRA"], baselines["LoRA"]))

# %% [markdown]
# What rounding alone costs: QLoRA starts in this hole. Now train.

# %%
lora_model, run = train(base)
lora_scores = measure(lora_model, test_dataset, "model after LoRA")

# %%
qlora_model, run = train(quantized)
qlora_scores = measure(qlora_model, test_dataset, "model after QLoRA")

# %%
print(compare_perplexities(lora_scores, baselines["LoRA"]), "\n")
print(compare_perplexities(qlora_scores, baselines["QLoRA"]), "\n")
print(compare_perplexities(qlora_scores, lora_scores))

# %% [markdown]
# Both learned, by far more than their intervals. QLoRA ends behind LoRA: so few steps don't close the distance that
# rounding had made. From 7B up, the paper found next to no distance (its Table 4); small models pay.
#
# And time? One training's seconds depend on what else the machine does. So single steps of both, in turns, and the
# fastest of each:


# %%
def step_seconds(model, rows):
    batch = collator(list(train_dataset.select(range(rows)))).items()
    batch = {name: tensor.to(device) for name, tensor in batch}
    model.train()
    with lessonkit.measure() as used:
        with torch.autocast(device, DTYPE, enabled=bf16 or fp16):
            loss = model(**batch).loss
        loss.backward()
    model.zero_grad()
    return used.seconds


TURNS = {1: lesson.pick(smoke=1, laptop=8, gpu=20), BATCH_SIZE: lesson.pick(smoke=1, laptop=3, gpu=20)}
seconds = {}
for rows, turns in TURNS.items():
    taken = [(step_seconds(lora_model, rows), step_seconds(qlora_model, rows)) for _ in range(turns)]
    seconds["LoRA"], seconds["QLoRA"] = map(min, zip(*taken))
    slower = seconds["QLoRA"] / seconds["LoRA"]
    print(f"{rows} x {WINDOW} tokens: a step of QLoRA takes {slower:.2f} times as long as one of LoRA")

# %% [markdown]
# QLoRA is slower. Unpacking costs the same however many tokens share it, so expect the ratio to fall as batches grow: it
# drowns in what both have to do, products, logits, the adapter. (Something running beside can hide that.)
#
# Memory: a process's memory also holds whatever this notebook still keeps, so the step's peak is predicted
# (within 1 % of what was measured, in `results/memory-foresight.json`).


# %%
def predicted(technique, **more):
    options = {
        "r": 8,
        "target_modules": "all-linear",
        "batch_size": BATCH_SIZE,
        "sequence_length": WINDOW,
        "dtype": lesson.hardware.dtype,
        "mixed_precision": bf16,
    }
    return lessonkit.predict_memory(base.config, technique, **(options | more)).peak_bytes / 2**20


print(f"{'':<8}{'weights':>10}{'peak of a step':>17}{'step':>10}{'perplexity':>13}")
for name, scores in (("LoRA", lora_scores), ("QLoRA", qlora_scores)):
    size, step = sum(sizes[f"{name}'s base"].values()), seconds[name]
    peak = predicted(name.lower())
    print(f"{name:<8}{size:>6.0f} MiB{peak:>13.0f} MiB{step:>8.2f} s{scores.perplexity:>13.2f}")

# %% [markdown]
# More than half of the weights' bytes are saved, and a far smaller share of the peak: activations and the logits of a
# large vocabulary stay. For a model this small, a poor bargain.
#
# ## 6. Plan a model that you can't load
#
# Savings grow with the model. `LlamaConfig`'s defaults are LLaMA-7B's shape; five numbers make a 70B of it. No weights
# are needed: the step runs on tensors without content (in a terminal: `lessonkit plan`).

# %%
from transformers import LlamaConfig

from lessonkit.memory.gpus import CONTEXT_BYTES, GPUS

SHAPES = {
    "7B": LlamaConfig(),
    "70B": LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    ),
}


PLANNED = {"r": 16, "target_modules": "all-linear", "device": "cuda", "gradient_checkpointing": True}


def plan(shape, technique, batch_size=1, length=1024, **more):
    options = PLANNED | {"batch_size": batch_size, "sequence_length": length} | more
    return lessonkit.predict_memory(SHAPES[shape], technique, **options)


# %%
def plan_all(batch_size, length):
    for shape in SHAPES:
        for technique in ("lora", "qlora"):
            peak = plan(shape, technique, batch_size, length).peak_bytes
            fits = [gpu for gpu, total in GPUS.items() if peak + CONTEXT_BYTES <= total * 2**30]
            print(
                f"{shape:>3} {technique:<6}{peak / 2**30:6.1f} GiB  fits from: {fits[0] if fits else 'none'}"
            )


plan_all(batch_size=1, length=1024)

# %% [markdown]
# In bfloat16, with gradient checkpointing, r = 16 on all linear layers; half a GiB is set aside for CUDA itself. "None"
# means: no single GPU of the list, which ends at 80 GB. A 7B model with LoRA leaves a T4 nothing to spare; with QLoRA it
# fits the smallest card, and 70B fits one of 48 GB. (T4 and V100 compute in float16; the sizes are the same.)

# %%
from ipywidgets import IntSlider


@interact(batch_size=IntSlider(1, 1, 16), length=IntSlider(1024, 256, 4096, 256))
def explore_plan(batch_size, length):
    plan_all(batch_size, length)


# %%
SOME = [(1, 1024), (4, 1024), (8, 2048)]
bars = {}
for batch_size, length in lesson.pick(smoke=SOME[:1], laptop=SOME, gpu=SOME):
    for technique in ("lora", "qlora"):
        parts = plan("7B", technique, batch_size, length).breakdown
        other = sum(parts.values()) - parts["weights"] - parts["activations"]
        row = {"weights": parts["weights"], "activations": parts["activations"], "all else": other}
        bars[f"{technique}, {batch_size} x {length}"] = {part: size / 2**30 for part, size in row.items()}
ax = lessonkit.plots.stacked_bars(
    bars, xlabel="GiB", title="7B", marks={name: GPUS[name] for name in ("T4 (16 GB)", "A10G, L4 (24 GB)")}
)

# %% [markdown]
# The saving is the same in each pair: the weights. Activations grow with batch and length, and QLoRA doesn't touch them.
#
# And yours? With a GPU, this takes its memory; else name one of the list.

# %%
from lessonkit.memory.gpus import room_bytes

MINE = "T4 (16 GB)"  # or another key of GPUS
room = room_bytes(lesson.hardware) if device == "cuda" else GPUS[MINE] * 2**30 - CONTEXT_BYTES
print(f"batches of 1,024 tokens, in {room / 2**30:.1f} GiB")
for shape in lesson.pick(smoke=["7B"], laptop=SHAPES, gpu=SHAPES):
    for technique in ("lora", "qlora"):
        rows = lessonkit.memory.largest_batch(
            SHAPES[shape], int(room), technique, **PLANNED, sequence_length=1024
        )
        print(f"{shape:>3} {technique:<6}largest batch {rows}")

# %% [markdown]
# 0 means that not even one row fits: then a larger GPU, several, or a smaller model.
#
# **Exercise 5, decide.** 7B, LoRA in bfloat16, batch 8 of 2,048 tokens, *no* gradient checkpointing: out of memory on
# 80 GB. Which one change cures it? `"a"` QLoRA, `"b"` gradient checkpointing, `"c"` rank 4 in place of
# 16, `"d"` an 8-bit optimiser.

# %%
answer = TODO
lesson.exercise("out-of-memory").check(answer)

# %%
crowded = {"technique": "lora", "batch_size": 8, "length": 2048, "gradient_checkpointing": False}
changes = {
    "as it is": {},
    "a: QLoRA": {"technique": "qlora"},
    "b: gradient checkpointing": {"gradient_checkpointing": True},
    "c: rank 4": {"r": 4},
    "d: 8-bit optimiser": {"optimizer": "adamw_8bit"},
}
tried = list(changes)[: lesson.pick(smoke=1, laptop=5, gpu=5)]
peaks = {name: plan("7B", **crowded | changes[name]).peak_bytes / 2**30 for name in tried}
ax = lessonkit.plots.bars(peaks, xlabel="GiB", fmt="{:.0f}")

# %% [markdown]
# Ask first *what* fills the memory.
#
# ## 7. What goes wrong
#
# **No adapter.** 4-bit codes can't be trained: they have no in-between.

# %% tags=["nbval-check-output"]
plain = qlora_model.unload()  # the 4-bit base, without its adapter
arguments = TrainingArguments(
    output_dir=str(lesson.folder / "plain"), use_cpu=device == "cpu", report_to="none"
)
try:
    Trainer(plain, arguments, train_dataset=train_dataset, data_collator=collator)
except ValueError as error:
    print(f"ValueError: {str(error).split('. ')[0]}.")

# %% [markdown]
# The cure: `get_peft_model` first. **Cast as a whole**, as people do to save memory:

# %% tags=["nbval-check-output"]
try:
    plain.half()
except ValueError as error:
    print(f"ValueError: {str(error).split('. ')[0]}.")

# %% [markdown]
# The cure: `dtype` and `bnb_4bit_compute_dtype` when loading. **A silent one, on CPUs with AVX-512 bf16 only**: one
# evaluation, and no gradient passes any more. A bare layer, without the switch that `lessonkit.load_model` sets:

# %%
import warnings

layer = bnb.nn.Linear4bit(128, 128, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4").to(device)
x = torch.randn(4, 128, device=device, requires_grad=True)


def gradient_norm():
    x.grad = None
    with warnings.catch_warnings(record=True):  # PyTorch warns of an operation without gradient
        layer.train()(x).square().sum().backward()
    return 0.0 if x.grad is None else float(x.grad.norm())


first = gradient_norm()
with torch.no_grad():
    layer.eval()(x.detach())
print(f"gradient before an evaluation {first:.1f}, after it {gradient_norm():.1f}")

# %% [markdown]
# Where the second number is 0, bitsandbytes has repacked the weights for fast inference, and nothing flows back through
# them. Adapters in lower layers then hardly train, and the loss just stops falling. The cure:
# `support_avx512bf16_for_cpu = False` on every 4-bit layer, before the first evaluation; `lessonkit.load_model` does that.
# **The usual recipe on a small model**: `prepare_model_for_kbit_training` casts all that isn't quantised to float32.
# Predicted for our step in bfloat16, in MiB:

# %%
in_bf16 = {"dtype": "bfloat16", "mixed_precision": True}
print(f"LoRA                         {predicted('lora', **in_bf16):,.0f}")
print(f"QLoRA                        {predicted('qlora', **in_bf16):,.0f}")
print(f"QLoRA, prepared for k bits   {predicted('qlora', prepare_for_kbit_training=True, **in_bf16):,.0f}")

# %% [markdown]
# In float32, embeddings and output layer cost more than 4 bits had saved. On a large model the cast hardly counts, and
# may steady a float16 training.
#
# More: [troubleshooting](../../lessons/troubleshooting.md#adapters-and-quantised-models).
#
# ## 8. On a bigger machine
#
# With a GPU of 14 GiB or more, this notebook takes SmolLM2-1.7B-Instruct and passages of 128 tokens. The predicted peaks,
# in a T4's float16:

# %%
larger = LlamaConfig(
    vocab_size=49152,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=24,
    num_attention_heads=32,
    num_key_value_heads=32,
    tie_word_embeddings=True,
)
for technique in ("lora", "qlora"):
    peak = lessonkit.predict_memory(
        larger,
        technique,
        r=8,
        target_modules="all-linear",
        batch_size=8,
        sequence_length=128,
        dtype="float16",
        device="cuda",
    ).peak_bytes
    print(f"{technique:<6}{peak / 2**30:.1f} GiB of a T4's 15")

# %% [markdown]
# ## 9. The end
#
# 1. NF4: 16 quantiles of the normal distribution, blocks of 64, one absmax each, two codes a byte. You built it.
# 2. It isn't optimal for such blocks, and yet the best of the three here; small blocks matter as much.
# 3. 4.5 bits per weight, 4.127 with double quantisation; embeddings and activations keep their size.
# 4. QLoRA saves memory for weights and pays in time: worth it when the weights decide whether it fits.
# 5. Predict before you rent a GPU, and measure what rounding alone costs before you train.
#
# The next cell keeps your result. At laptop or GPU scale it counts towards *Run all intermediate examples*.

# %%
lesson.record(
    base_perplexity=baselines["LoRA"].perplexity,
    base_nf4_perplexity=baselines["QLoRA"].perplexity,
    lora_perplexity=lora_scores.perplexity,
    qlora_perplexity=qlora_scores.perplexity,
    lora_step_seconds=seconds["LoRA"],
    qlora_step_seconds=seconds["QLoRA"],
    bits_per_weight=8 * sum(held.values()) / count,
    test_passages=TEST_PASSAGES,
)

# %% [markdown]
# **Check yourself.** Why can the adapter make up for some of the rounding, though it knows nothing of it? Your colleague
# quantises a 135M model for a laptop and saves little: why?
#
# <details><summary>Answers</summary>
#
# It is trained beside the rounded weights, so the loss it lowers contains the rounding's errors. And in a small model
# the embeddings, which stay in 16 bits, and the activations are a large part of what there is.
#
# </details>
#
# **Next:** [prompt tuning, intermediate](prompt-tuning.ipynb) leaves every weight alone and trains the input. The expert
# lesson on [QLoRA](../expert/qlora.ipynb) follows the error through the layers, and asks into which weights to merge.
