# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Checkpointing and precision
#
# You will be able to fit a training into the memory you have: say beforehand what each switch of a training script
# costs in bytes and seconds, choose, and prove the choice on a machine made small.
#
# **90 minutes**, four focus sessions (a few minutes are computing, on 2 CPU cores) · **expert** · before this:
# [multi-task learning](multi-task.ipynb), [full fine-tuning, expert](../expert/full-fine-tuning.ipynb) · next:
# [experiment tracking](experiment-tracking.ipynb)
#
# You will
#
# - predict bytes and seconds of four switches, then measure each in a process of its own;
# - let a planner choose, and see a training fail and another one pass under the same real limit;
# - see what float16 loses and bfloat16 doesn't, and when compiling is paid back.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("production/checkpointing-and-precision")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
BATCH, LENGTH = lesson.pick(smoke=(4, 16), laptop=(32, 128), gpu=(64, 256))  # rows of a step, tokens of a row
STEPS = lesson.pick(smoke=2, laptop=4, gpu=8)
LIMIT_SHARE = 0.75  # of what the training takes without switches: the small machine of section 5
SEED = 0

# %% [markdown]
# ## 1. Four switches of one script
#
# [Full fine-tuning, expert](../expert/full-fine-tuning.ipynb) built these by hand, in one process. At work they are
# options of a script, somebody else's machine runs it, and the question is: *which ones does this job need?* Our
# script is `production/train.py`:
#
# | option | it keeps less, or computes faster, by | it pays with |
# |---|---|---|
# | `--gradient-checkpointing` | keeping only each layer's input | a second forward pass |
# | `--accumulate 4` | four small batches before one update | gradients held while the next one runs |
# | `--precision bf16` | matrix products in 16 bits, weights in 32 | 16-bit copies of the weights; digits |
# | `--compile` | joining operations into fewer loops | a long first step |

# %%
import dataclasses
import shutil
import sys
from pathlib import Path

ROOT = Path(lessonkit.__file__).parents[1]  # where the folder `production` lies
sys.path.insert(0, str(ROOT))
from production.switches import Switches, choices, fitting, measure, predict, slowdown
from production.train import Training

training = Training(
    model=MODEL, train_rows=2 * BATCH, batch_size=BATCH, length=LENGTH, steps=STEPS, seed=SEED
)
print(" ".join(Switches(gradient_checkpointing=True, accumulate=4).words()))

# %% [markdown]
# ## 2. Say it before you run it
#
# **Bytes.** `lessonkit.predict_memory` runs one step on tensors without numbers, and counts what is alive at the
# fullest moment. **Seconds.** Matrix products rule a step: the forward pass computes each once, the backward pass
# twice (one for the gradient of the input, one for that of the weights).
#
# **Exercise 1, predict.** By that count, how many times as long is a step with gradient checkpointing?

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("recompute").check(answer)

# %% [markdown]
# Whether 16 bits are faster depends on the machine: units for them make products up to twice as fast on a CPU, and more
# on a GPU; without such units they are imitated. A small product tells:

# %%
device = lesson.hardware.device
bf16 = slowdown(device=device)
print(f"{lesson.hardware.summary()}")
print(f"a product in bf16 takes {bf16:.1f} times float32's seconds")

# %%
plain = Switches()
options = {
    "none": plain,
    "checkpointing": Switches(gradient_checkpointing=True),
    "4 small batches": Switches(accumulate=4),
    "bf16": Switches(precision="bf16"),
}
told = {name: predict(training, each, bf16=bf16) for name, each in options.items()}
for name, cost in told.items():
    print(f"{name:16} {cost.bytes / 1e6:6.0f} MB, fullest: {cost.phase:15} {cost.seconds:5.2f} x the seconds")

# %% [markdown]
# *Fullest* names the moment. As long as it is in the backward pass (`backward-...`) or at the end of the forward pass,
# activations are what to save. Once it is the update (`step`), what remains are weights, gradients and AdamW's states:
# no switch of this page makes those smaller, and more of the same switch saves nothing.
#
# **What do you expect:** how far from these will a real process be?
#
# *Here ends the first focus session.*
#
# ## 3. Measure, each in a process of its own
#
# A process that has trained before holds memory from then. So each setting starts anew; its bytes are the most that
# was resident in memory during the steps, less what it held before the first one, plus the weights. On a GPU they are
# what PyTorch allocated.

# %%
FOLDER = lesson.folder / "switches"
shutil.rmtree(FOLDER, ignore_errors=True)
RUN = lesson.pick(
    smoke=["none", "checkpointing"],
    laptop=["none", "checkpointing", "4 small batches"],
    gpu=list(options),
)
found = {}
for name in RUN:
    found[name] = measure(training, options[name], FOLDER / name.replace(" ", "-"))
    cost, base = found[name], found["none"]
    print(
        f"{name:16} {told[name].bytes / 1e6:5.0f} MB told, {cost.bytes / 1e6:5.0f} MB found; "
        f"{told[name].seconds:4.2f} x told, {cost.seconds / base.seconds:4.2f} x found ({cost.seconds:.2f} s a step)"
    )

# %%
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), sharey=True, layout="constrained")
places = range(len(found))
for ax, expected, measured, label in (
    (left, [told[n].bytes / 1e6 for n in found], [c.bytes / 1e6 for c in found.values()], "MB"),
    (
        right,
        [told[n].seconds * base.seconds for n in found],
        [c.seconds for c in found.values()],
        "seconds a step",
    ),
):
    ax.barh(places, measured, height=0.6, color="tab:blue", label="found")
    ax.plot(expected, places, "D", color="black", label="told")
    ax.set_yticks(places, list(found))
    ax.set_xlabel(label)
left.invert_yaxis()
left.legend(loc="lower right", framealpha=1)
plt.show()

# %% [markdown]
# Look at the *differences* between the rows first: what a switch saves, told and found. Then at what all rows have in
# common: a process holds more than its tensors, such as buffers of the libraries that multiply matrices.

# %%
overhead = found["none"].bytes - told["none"].bytes
for name in list(found)[1:]:
    saved_told = (told["none"].bytes - told[name].bytes) / 1e6
    saved_found = (found["none"].bytes - found[name].bytes) / 1e6
    print(f"{name:16} saves {saved_found:4.0f} MB (told {saved_told:4.0f})")
print(f"besides its tensors the process took {overhead / 1e6:.0f} MB")

# %% [markdown]
# Two traps of such measurements. *The allocator*: the C library on Linux keeps freed memory for the next who asks, and
# a process then shows more than its tensors; `measure` tells it to give memory back at once
# (`production/switches.py`, `GIVING_BACK`). *The first step*: it makes AdamW's states, and is left out of the seconds.
#
# Accumulation costs a CPU little time; on a GPU, small batches leave units idle.
#
# ## 4. Is it still the same training?
#
# **Exercise 2, predict.** Which switch changes what is learned by more than rounding?
#
# - a: gradient checkpointing
# - b: accumulation with the same effective batch
# - c: bf16
# - d: compilation

# %%
answer = TODO
lesson.exercise("changes").check(answer)

# %%
for name, cost in found.items():
    apart = max(abs(a - b) for a, b in zip(cost.losses, base.losses))
    print(
        f"{name:16} losses", *(f"{loss:.6f}" for loss in cost.losses), f" at most {apart:.1e} from the first"
    )

# %% [markdown]
# Checkpointing computes the same numbers twice. That holds with dropout too, for PyTorch keeps the state of the dice
# for each layer. Accumulation adds in another order; it is the same only because `train.py` divides sums by the answers
# of the *whole* batch (see [distributed training](distributed-training.ipynb), section 2).
#
# And bf16? A few rows are enough to see it, also where it is slow, and to hold it against what was told:

# %%
few = dataclasses.replace(training, train_rows=4, batch_size=2, length=16, steps=2)
small = {name: measure(few, options[name], FOLDER / f"few-{name}") for name in lesson.pick(
    smoke=[], laptop=["none", "bf16"], gpu=["none", "bf16"]
)}  # fmt: skip
for name, cost in small.items():
    said = predict(few, options[name], small["none"].seconds, bf16)
    print(
        f"{name:5} losses", *(f"{loss:.6f}" for loss in cost.losses), f" {said.bytes / 1e6:.0f} MB told, "
        f"{cost.bytes / 1e6:.0f} found; {said.seconds:.2f} s a step told, {cost.seconds:.2f} found"
    )  # fmt: skip

# %% [markdown]
# If the seconds don't agree, that is the size: with so few tokens a step is mostly AdamW's update of all weights, in 32
# bits with or without autocast, and a small product may be imitated more cheaply than the large one which `slowdown`
# timed. Counting products tells the time where large products rule.
#
# *Here ends the second focus session.*
#
# ## 5. A smaller machine
#
# **Exercise 3, code.** `fastest(costs, limit)`: `costs` maps a name to `(bytes, seconds)`. Give the name of the fastest
# one within the limit, `None` if none is.


# %%
def fastest(costs, limit):
    return TODO


lesson.exercise("fastest").check(fastest)

# %% [markdown]
# The planner does that for all combinations. Give it three quarters of what the training takes without switches:

# %%
costs = {each: predict(training, each, base.seconds, bf16) for each in choices(BATCH)}
limit = max(int(LIMIT_SHARE * told["none"].bytes), min(cost.bytes for cost in costs.values()))
order = fitting(costs, limit)
print(f"limit {limit / 1e6:.0f} MB; {len(order)} of {len(costs)} combinations fit, the fastest first")
for each in order[:4]:
    print(f"{costs[each].bytes / 1e6:6.0f} MB  {costs[each].seconds:6.2f} s  {each}")
best = order[0]

# %% [markdown]
# In a terminal: `python -m production.switches plan --limit 700`.
#
# A plan is a claim. `--room` gives the process that many bytes beyond its weights *and no more*: on Linux by the
# system's limit for private memory, on a GPU by PyTorch's. Both get the same limit (plus the overhead from above, for
# that is no tensor). **What do you expect?**

# %%
from lessonkit.errors import LessonkitError

room = limit - told["none"].weights + overhead
LIMITED = device == "cuda" or sys.platform.startswith("linux")
survived = {}
for each in [plain, best] if LIMITED else []:
    try:
        cost = measure(training, each, FOLDER / f"room-{len(survived)}", room=room)
        survived[each] = True
        print(f"{each!s:32} passed: {cost.bytes / 1e6:.0f} MB, {cost.seconds:.2f} s a step")
    except LessonkitError as error:
        survived[each] = False
        print(f"{each!s:32} failed.", *[line for line in str(error).splitlines() if "fit" in line][:1])
if not LIMITED:
    print("This system can't limit a process on the CPU; on Linux the first fails and the second passes.")

# %% [markdown]
# ## 6. What goes wrong
#
# **float16 instead of bfloat16.** Both have 16 bits. float16 spends 10 on digits and 5 on the exponent: beyond 65,504
# is infinity, and below about 6e-8 is zero. bfloat16 spends 7 and 8: few digits, float32's range.

# %% tags=["nbval-check-output"]
import torch

for value in (70_000.0, 1e-8, 1.001):
    kept = [torch.tensor(value).to(kind).item() for kind in (torch.float16, torch.bfloat16)]
    print(f"{value:>8g}: float16 {kept[0]:<12.6g} bfloat16 {kept[1]:.6g}")

# %% [markdown]
# Small gradients are what float16 loses. **Loss scaling** rescues them: multiply the loss by a large number, so that all
# gradients are larger; divide before the update; if anything became infinite, skip the step and halve the number.
# `torch.amp.GradScaler` does it. By hand, with a gradient of 1e-8:

# %% tags=["nbval-check-output"]
gradient = torch.tensor(1e-8)
scale = 2.0**14
print("without scaling:", gradient.half().float().item())
print(f"with scaling:    {((gradient * scale).half().float() / scale).item():.3g}")

# %% [markdown]
# With bfloat16 you need none of this: prefer it wherever the hardware has it (a T4 hasn't).
#
# **Checkpointing swallows the gradient.** The old form (`use_reentrant=True`) gives none where a layer's *input* needs
# none, which is so for the first layer after a frozen embedding: every LoRA. It only warns.

# %% tags=["nbval-check-output"]
import warnings

from torch.utils.checkpoint import checkpoint

layer, frozen_input = torch.nn.Linear(4, 4), torch.ones(2, 4)
for reentrant in (True, False):
    layer.zero_grad()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        out = checkpoint(layer, frozen_input, use_reentrant=reentrant)
    reached = out.requires_grad
    print(f"use_reentrant={reentrant!s:5}: the weights get a gradient: {reached}; warnings: {len(said)}")

# %% [markdown]
# So `train.py` says `use_reentrant=False`. (With the old form, PEFT users call `enable_input_require_grads()`.)
#
# **Compiling again and again.** A compiled function is made for the shapes it has seen. We count how often it is made,
# with a compiler that does nothing:

# %% tags=["nbval-check-output"]
made = []


def count(graph, inputs):
    made.append(graph)
    return graph.forward


for dynamic, what in ((False, "each length anew"), (True, "one for all lengths")):
    made.clear()
    torch.compiler.reset()
    compiled = torch.compile(torch.nn.Linear(4, 4), backend=count, dynamic=dynamic)
    for length in (8, 9, 10, 11):
        compiled(torch.ones(2, length, 4))
    print(f"dynamic={dynamic!s:5} compiled {len(made)} times: {what}")

# %% [markdown]
# Rows of one length (as `train.py` makes them) or a few lengths (buckets) keep it at that.
#
# **Exercise 4, code.** `paid_back(first, before, after)`: seconds of the first, compiling step, of a step that isn't
# compiled, and of a compiled one. After how many compiled steps is the time of compiling paid back? `None` if never.


# %%
import math


def paid_back(first, before, after):
    return TODO


lesson.exercise("paid-back").check(paid_back)

# %% [markdown]
# What can be told beforehand? Bytes: as many as without. Seconds: only a bound. Compiling joins what lies *between* the
# matrix products, so a step can't become shorter than its products are. Their share, by PyTorch's profiler:

# %%
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForSequenceClassification

model = lessonkit.load_model(MODEL, AutoModelForSequenceClassification, num_labels=8).to(device).train()
row = {
    "input_ids": torch.full((BATCH, LENGTH), 1000, device=device),
    "labels": torch.zeros(BATCH, device=device).long(),
}
model(**row).loss.backward()  # the first one makes buffers
activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
with profile(activities=activities) as seen:
    model(**row).loss.backward()
clock = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
times = {each.key: getattr(each, clock) for each in seen.key_averages()}
names = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
products = sum(time for key, time in times.items() if key in names or "scaled_dot_product" in key)
share = products / sum(times.values())
print(f"products are {share:.0%} of a step, so compiling can make it {1 / share:.2f} times as fast at most")

# %%
if lesson.scale != "smoke":
    try:
        cost = measure(training, Switches(compile=True), FOLDER / "compile")
        gain, said = base.seconds - cost.seconds, predict(training, Switches(compile=True))
        print(
            f"{said.bytes / 1e6:.0f} MB told, {cost.bytes / 1e6:.0f} found (without: {base.bytes / 1e6:.0f}); "
            f"{share * base.seconds:.2f} to {base.seconds:.2f} s a step told, {cost.seconds:.2f} found"
        )
        print(f"the first step, which compiles: {cost.first_seconds:.1f} s")
        never = "compiled steps are no faster here: never paid back"
        steps = math.ceil((cost.first_seconds - cost.seconds) / gain) if gain > 0.02 * base.seconds else None
        print(never if steps is None else f"paid back after {steps} steps")
    except LessonkitError as error:
        print(error)  # without a C++ compiler

# %% [markdown]
# How near a step comes to its bound depends on the machine, its compiler and the shapes. A GPU's products take a smaller
# share, so there is more to gain: many small operations wait for memory, and joined ones wait once. What a model gains
# that only answers is another measurement: [cost and latency](cost-and-latency.ipynb).
#
# ## 7. On a GPU
#
# The same commands; bf16 joins the table, and its seconds are the point. In this order, for a job that doesn't fit:
# bf16 if the hardware has it; then small batches, as long as the GPU stays busy; then checkpointing (a third more time,
# but it grows most with length); then LoRA, 8-bit AdamW, FSDP, for what remains at the `step`.

# %%
for batch, length in lesson.pick(
    smoke=[(8, 128)], laptop=[(8, 128), (8, 512), (64, 512)], gpu=[(8, 512), (64, 512)]
):
    sizes = {
        name: lessonkit.predict_memory(
            MODEL, "full", batch_size=batch, sequence_length=length, task="sequence-classification",
            dtype="float32", device="cuda", mixed_precision=True, gradient_checkpointing=name == "checkpointing",
        ).peak_bytes / 2**30
        for name in ("without", "checkpointing")
    }  # fmt: skip
    print(
        f"on a GPU in bf16, {batch:2} rows x {length:3} tokens:",
        *(f"{n} {s:.2f} GiB" for n, s in sizes.items()),
    )

# %% [markdown]
# ## 8. The end
#
# 1. Predict first: bytes from a step without numbers, seconds by counting products.
# 2. Activations shrink by checkpointing and small batches; weights, gradients and states don't.
# 3. Checkpointing and accumulation compute the same; bf16 doesn't quite.
# 4. 16 bits are fast only on units made for them; prefer bfloat16.
# 5. A plan is proven by a limit that can really be broken.
#
# The next cell keeps your result. At laptop or GPU scale, it earns *Implement gradient checkpointing and mixed
# precision*.

# %%
lesson.record(
    saved_mb_checkpointing=(found["none"].bytes - found["checkpointing"].bytes) / 1e6,
    saved_mb_told=(told["none"].bytes - told["checkpointing"].bytes) / 1e6,
    seconds_ratio_checkpointing=found["checkpointing"].seconds / found["none"].seconds,
    losses_apart_checkpointing=max(
        abs(a - b) for a, b in zip(found["checkpointing"].losses, found["none"].losses)
    ),
    bf16_product_ratio=bf16,
    plan_held=float(survived.get(plain) is False and survived.get(best) is True),
)

# %% [markdown]
# **Check yourself.** A job is fullest at `step`, and you switch on checkpointing: what do you save? Your float16
# training shows a loss of `nan` after the first steps: which two things do you try?
#
# <details><summary>Answers</summary>
#
# Nothing: activations weren't what filled it. bfloat16, if the hardware has it; else a `GradScaler`, which skips steps
# with infinite gradients (and a look at the learning rate).
#
# </details>
#
# **Next:** [experiment tracking](experiment-tracking.ipynb).
