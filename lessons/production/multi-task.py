# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Multi-task learning
#
# You will be able to serve several tasks from one base, by shared weights or by an adapter for each, to measure whether
# tasks help or hinder each other, and to add a task without losing the others.
#
# **120 minutes**, four focus sessions (about 5 minutes are computing, on 2 CPU cores) · **expert** · before this:
# [LoRA](../intermediate/lora.ipynb) and [adapters](../intermediate/adapters.ipynb) · previous:
# [distributed training](distributed-training.ipynb) · next:
# [checkpointing and precision](checkpointing-and-precision.ipynb)
#
# You will
#
# - train one encoder on a large and a small task, and let a temperature decide whose turn it is;
# - weigh losses of different units, by hand and by a learned scheme;
# - measure transfer between tasks: each alone against both together, text by text;
# - add a third task in three ways, and count what each of them forgets.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("production/multi-task")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
TEXTS = lesson.pick(  # to train on
    smoke={"topic": 32, "section": 16, "family": 32},
    laptop={"topic": 960, "section": 96, "family": 640},
    gpu={"topic": 5485, "section": 300, "family": 8000},
)
TEST = lesson.pick(smoke=16, laptop=300, gpu=2000)  # texts of each task, at most
STEPS = lesson.pick(smoke=3, laptop=32, gpu=600)  # of a training on both first tasks
MORE_STEPS = lesson.pick(smoke=2, laptop=24, gpu=300)  # of an adapter, or of a new task
WEIGHING_STEPS = lesson.pick(smoke=1, laptop=24, gpu=300)
TIMES = lesson.pick(smoke=2, laptop=10, gpu=50)  # to time something
BATCHES = lesson.pick(smoke=2, laptop=4, gpu=8)  # of each task, to compare gradients
KEPT = lesson.pick(smoke=8, laptop=64, gpu=200)  # texts of each old task, for replay
LENGTH = lesson.pick(smoke=8, laptop=32, gpu=128)  # tokens of a text that are read
RATE, ADAPTER_RATE = lesson.pick(smoke=(2e-4, 5e-3), laptop=(2e-4, 5e-3), gpu=(3e-5, 5e-4))
SEEDS = lesson.pick(smoke=[0], laptop=[0, 1], gpu=[0, 1, 2])
BATCH = lesson.pick(smoke=4, laptop=16, gpu=16)
BF16 = lesson.hardware.bf16

# %% [markdown]
# If the setup cell says that packages are missing, type `python start.py --production` in a terminal, or
# `pip install -e ".[production]"` in an environment of your own, and open this notebook again.
#
# ## 1. Three tasks on real texts
#
# - **topic**: what is a Reuters wire about? The large task.
# - **section**: in which section did the BBC run an article? We take few of its articles: the small task.
# - **family**: from which family of newsgroups (`comp`, `rec`, `sci`, ...) is a post? It arrives in section 7.
#
# Each dataset brings its labels; a family is the first part of a group's name. The baseline: always the most frequent
# class.

# %%
import sys
from pathlib import Path

ROOT = Path(lessonkit.__file__).parents[1]  # where the folder `production` lies
sys.path.insert(0, str(ROOT))
from production.multitask import fresh, read_task

tokenizer = lessonkit.load_tokenizer(MODEL)
data = {name: read_task(name, tokenizer, count, TEST, LENGTH) for name, count in TEXTS.items()}
for name, each in data.items():
    labels, wanted = each.train.labels[name].tolist(), each.test.labels[name].tolist()
    lazy = lessonkit.majority_baseline(labels, wanted)
    print(f"{name:<8} {len(each.train):>5,} to train on, n = {len(each.test):,} to test on, ", end="")
    print(f"{len(each.task.labels)} classes, majority {lazy:.3f}")

# %% [markdown]
# ## 2. One encoder, a head for each
#
# **Hard parameter sharing** is the classic scheme ([Caruana 1997](https://doi.org/10.1023/A:1007379606734)): all tasks
# read the same encoder, and each adds one matrix of its own. It fits in a few lines:

# %%
import torch
from torch import nn


class Shared(nn.Module):
    def __init__(self, encoder, outputs):
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in outputs.items()})

    def forward(self, name, input_ids, attention_mask):
        states = self.encoder(input_ids, attention_mask).last_hidden_state  # (batch, tokens, hidden)
        mask = attention_mask[..., None]
        return self.heads[name]((states * mask).sum(1) / mask.sum(1))  # (batch, classes of this task)


# %% [markdown]
# `production/multitask_model.py` has the same, with names of classes and adapters. Equal weights must give equal logits.

# %%
device = lesson.hardware.device
FIRST = ("topic", "section")
tool = fresh(MODEL, LENGTH, device)
for name in FIRST:
    tool.add_task(data[name].task)
by_hand = Shared(tool.encoder, {name: len(data[name].task.labels) for name in FIRST}).to(device)
by_hand.heads.load_state_dict(tool.heads.state_dict())
batch = data["section"].test.select(range(8)).batch(device)
with torch.inference_mode():
    pair = [model.eval()("section", batch["input_ids"], batch["attention_mask"]) for model in (by_hand, tool)]
print("largest difference:", float((pair[0] - pair[1]).abs().max()))
counts = {"shared": tool.encoder, **{f"head {name}": tool.heads[name] for name in FIRST}}
print({name: f"{sum(p.numel() for p in part.parameters()):,}" for name, part in counts.items()})

# %% [markdown]
# Nearly everything is shared: the promise, and the danger.
#
# ## 3. Whose turn is it?
#
# Each step takes a batch of one task. Task *i* with $n_i$ texts is drawn with probability $p_i \propto n_i^{1/T}$. The
# **temperature** $T$ is what multilingual models tune ([Arivazhagan et al. 2019](https://arxiv.org/abs/1907.05019);
# T5 has it too, [Raffel et al. 2020](https://arxiv.org/abs/1910.10683), section 3.5.2). Our `draw` shuffles rounded
# numbers of turns: a few independent draws may be far from their shares.
#
# **Exercise 1, write code.** `shares(sizes, temperature)` takes a dictionary such as `{"large": 900, "small": 100}` and
# gives one with the probabilities. `math.inf` is a temperature as well. Pass the function itself.

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("shares").check(answer)

# %% tags=["nbval-check-output"]
import math

from production.multitask_training import draw, shares

for temperature in (1, 2, 5, math.inf):
    found = shares({"topic": 960, "section": 96}, temperature)
    print(f"T = {temperature:<4}", {name: f"{share:.2f}" for name, share in found.items()})

# %% [markdown]
# **What do you expect** from T = 1, 2 and infinity, with equally many steps? Who wins, who loses, and how often will the
# small task have seen each of its texts?

# %%
from production.multitask_training import fit, predict

sources = {name: data[name].train for name in FIRST}
options = {"batch_size": BATCH, "bf16": BF16}


def train_shared(schedule, seed=0):
    model = fresh(MODEL, LENGTH, device)
    for name in FIRST:
        model.add_task(data[name].task, seed=seed)  # the same random heads for the same seed
    history = fit(model, sources, schedule, learning_rate=RATE, seed=seed, **options)
    print(f"{history.steps} steps, {history.seconds:.0f} s")
    return model


def predicted(model, name):
    return predict(model, data[name].test, name, bf16=BF16).argmax(-1).numpy()


# %%
sizes = {name: len(rows) for name, rows in sources.items()}
schedules = {temperature: draw(sizes, STEPS, temperature) for temperature in (1, 2, math.inf)}
joint = {temperature: train_shared(schedule) for temperature, schedule in schedules.items()}
said = {(T, name): predicted(model, name) for T, model in joint.items() for name in FIRST}

# %%
true = {name: data[name].test.labels[name].numpy() for name in data}
scores = {}
for (temperature, name), classes in said.items():
    right = classes == true[name]
    low, high = lessonkit.bootstrap_interval(right)
    turns = schedules[temperature].count(name)
    scores[temperature, name] = right.mean()
    print(
        f"T = {temperature:<4} {name:<8} {turns:>3} turns, {turns * BATCH / sizes[name]:>5.2f} passes over its "
        f"texts: accuracy {right.mean():.3f} ({low:.3f} to {high:.3f})"
    )

# %%
import matplotlib.pyplot as plt

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
temperatures = [1 + each / 10 for each in range(91)]
found = [shares(sizes, each) for each in temperatures]
for name in FIRST:
    left.plot(temperatures, [each[name] for each in found], label=name)
    right.plot(["1", "2", "inf"], [scores[T, name] for T in schedules], "o-", label=name)
left.set(xlabel="temperature", ylabel="share of the batches", ylim=(0, 1))
right.set(xlabel="temperature", ylabel="test accuracy", ylim=(0, 1))
_ = right.legend()

# %% [markdown]
# A turn for one task is taken from the other; the temperature only distributes them. What more turns bring depends on
# what is left to learn: see the table. The passes warn: at a high temperature, a small task sees the same texts again
# and again, so in a long training it can overfit while the large one still learns.
#
# *Here ends the first focus session.*
#
# ## 4. Do they help or hinder each other?
#
# **Transfer** is the difference that the *other* task makes. So *alone* trains on the very batches that the task had in
# the joint training, in the same order, from the same heads; only the other task's steps are left out (and the learning
# rate runs down over the steps that remain). Both models answer the same test texts: the comparison is paired.
#
# **What do you expect** for the large task, and for the small one: positive transfer, negative transfer, or can't tell?

# %%
gains = {}
for seed in SEEDS:
    schedule = schedules[math.inf] if seed == 0 else draw(sizes, STEPS, math.inf, seed)
    together = joint[math.inf] if seed == 0 else train_shared(schedule, seed)
    for name in FIRST:
        alone = train_shared([each for each in schedule if each == name], seed)
        pair = predicted(together, name), predicted(alone, name)
        compared = lessonkit.compare_classifiers(true[name], *pair, names=("together", "alone"))
        gains[seed, name] = compared
        print(f"seed {seed}, {name}: {compared}")

# %%
fig, ax = plt.subplots(figsize=(7, 0.9 + 0.4 * len(gains)), layout="constrained")
for place, each in enumerate(gains.values()):
    ax.plot(each.interval, [place, place], color="tab:blue")
    ax.plot(each.change, place, "o", color="tab:blue")
ax.set_yticks(range(len(gains)), [f"{name}, seed {seed}" for seed, name in gains])
ax.axvline(0, color="black", linewidth=0.8)
_ = ax.set(xlabel="accuracy together minus alone, 95 % interval", ylim=(len(gains) - 0.5, -0.5))

# %% [markdown]
# Right of the line the other task helped; to the left it hindered: *negative transfer*. "Can't tell" (the interval
# reaches the line, or McNemar's test isn't sure) doesn't mean "no difference": where all points lie on one side, more
# texts may decide. And intervals speak of other *texts*, not of other trainings: where seeds disagree, believe neither.
#
# **Why could they hinder?** Both pull at the same weights. The cosine between two tasks' gradients on the shared encoder
# says how: 1 the same way, 0 at right angles, below 0 against each other. It needs a yardstick, for even two batches of
# *one* task don't agree. So: some batches of each task, all pairs.

# %%
import numpy as np

from production.multitask_training import cosines, gradient


def some_gradients(model, name):
    rows = data[name].train
    starts = [BATCH * each for each in range(BATCHES)]
    places = [[(start + each) % len(rows) for each in range(BATCH)] for start in starts]
    return [gradient(model, rows.select(each), name) for each in places]


def agreement(model):
    """Cosines between batches of one task, and between batches of both."""
    found = cosines([each for name in FIRST for each in some_gradients(model, name)]).numpy()
    above = np.triu_indices(BATCHES, 1)  # each pair once
    return {
        "topic and topic": found[:BATCHES, :BATCHES][above],
        "section and section": found[BATCHES:, BATCHES:][above],
        "topic and section": found[:BATCHES, BATCHES:].ravel(),
    }


angles = {"before": agreement(tool), "after": agreement(joint[math.inf])}

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 2.4), sharex=True, sharey=True, layout="constrained")
for ax, (when, found) in zip(axes, angles.items()):
    for place, (what, values) in enumerate(found.items()):
        ax.plot(values, [place] * len(values), "o", alpha=0.5)
        against = int((values < 0).sum())
        print(f"{when:<7} {what:<20} mean {values.mean():+.3f}, below 0 in {against} of {len(values)} pairs")
    ax.set_yticks(range(len(found)), list(found))
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(title=f"{when} training", xlabel="cosine", xlim=(-1, 1), ylim=(2.5, -0.5))
    ax.set_xticks([-1, -0.5, 0, 0.5, 1])

# %% [markdown]
# Compare the two tasks' row with the rows above it. Before training, gradients come through random heads, so *after*
# says more. A cosine near 0 says: neither help nor harm, to first order; only clearly negative ones are a conflict.
# Gradient surgery (*PCGrad*, [Yu et al. 2020](https://arxiv.org/abs/2001.06782)) then takes away the part of one gradient
# that lies against the other.
#
# **Exercise 2, write code.** `without_conflict(mine, other)` takes two gradients as lists of numbers. Where their
# product is below 0, it gives `mine` without its part along `other`; else `mine` as it is.

# %%
answer = TODO
lesson.exercise("surgery").check(answer)

# %% [markdown]
# ## 5. Losses that don't speak one language
#
# So far a step had one loss. Often a text has several labels, and their losses are added. Here a second label is
# derived from the wires themselves: how many *words* the whole wire has (counted up to 300), though the model reads its
# beginning only. Its loss is a squared error, in words², and the topic's is in nats.

# %%
from production.multitask import with_words

both, words = with_words(data["topic"])
start = fresh(MODEL, LENGTH, device)
for task in (both.task, words):
    start.add_task(task)
with torch.inference_mode():
    first = start.losses(**both.train.select(range(min(64, len(both.train)))).batch(device))
first = {name: loss.item() for name, loss in first.items()}
print("losses before training:", {name: f"{loss:,.1f}" for name, loss in first.items()})

# %% [markdown]
# **Exercise 3, predict.** A colleague adds the topic's loss and 0.001 times the squared error in words². You count
# words in *hundreds*. Which weight gives you the same training?

# %%
answer = TODO
lesson.exercise("unit").check(answer)

# %% [markdown]
# The schemes:
#
# - **fixed weights**: the squared error divided by the variance of the training numbers, and a quarter of that;
# - **1 : 1** in words²: whoever has the larger numbers is heard;
# - **learned weights** ([Kendall et al. 2018](https://arxiv.org/abs/1705.07115)): for each task a number
#   $s = \log \sigma^2$ is trained as well, and the sum is $\sum_i c_i\, e^{-s_i} L_i + s_i / 2$, with $c = 1/2$ for a
#   squared error and 1 for a cross-entropy. Without $s_i / 2$, all weights would shrink to 0.
#
# Set the derivative by $s$ to zero: at its best, each loss counts $1 / (2 L_i)$, without a unit. We start $s$ there.
#
# **What do you expect** of the topic under each, compared with the topic alone (weight 0 for the words)?

# %%
from production.multitask_training import FixedWeights, Uncertainty


def weigh(weighting):
    """(topic predictions, squared errors in words²) on the test wires."""
    model = fresh(MODEL, LENGTH, device)
    for task in (both.task, words):
        model.add_task(task)
    schedule = ["both"] * WEIGHING_STEPS
    fit(model, {"both": both.train}, schedule, learning_rate=RATE, weighting=weighting, **options)
    guesses = predict(model, both.test, "words", bf16=BF16)[:, 0] * words.scale + words.mean
    classes = predict(model, both.test, "topic", bf16=BF16).argmax(-1).numpy()
    return classes, ((guesses - both.test.labels["words"]) ** 2).numpy()


kinds, variance = {"topic": "classes", "words": "number"}, words.scale**2
schemes = {
    "topic alone": weigh(FixedWeights({"words": 0.0})),
    "1 / 4 variance": weigh(FixedWeights({"words": 0.25 / variance})),
    "1 / variance": weigh(FixedWeights({"words": 1 / variance})),
    "1 : 1": weigh(FixedWeights()),
    "learned": weigh(Uncertainty(kinds, first)),
}

# %%
fig, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
lazy = ((both.test.labels["words"] - words.mean) ** 2).mean() ** 0.5
print(f"always the mean of {words.mean:.0f} words: off by {lazy:.1f} (root of the mean square)")
alone = schemes["topic alone"][0]
for name, (classes, squares) in schemes.items():
    compared = lessonkit.compare_classifiers(true["topic"], classes, alone)
    accuracy, off = compared.values[0], squares.mean() ** 0.5
    low, high = (each**0.5 for each in lessonkit.bootstrap_interval(squares))
    if name == "topic alone":
        print(f"{name:<15} topic {accuracy:.3f}")
        continue
    print(
        f"{name:<15} topic {accuracy:.3f} ({compared.verdict}), off by {off:.1f} words ({low:.1f} to {high:.1f})"
    )
    ax.plot(off, accuracy, "s" if name == "learned" else "o", label=name)
ax.axhline((alone == true["topic"]).mean(), color="grey", linestyle=":", label="topic alone")
ax.axvline(float(lazy), color="grey", linestyle="--", label="always the mean")
ax.set(xlabel="off by so many words (left is better)", ylabel="topic accuracy")
_ = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# (The verdict compares with the topic alone, on the same texts.) Under 1 : 1 the encoder's step is the squared error's,
# nearly alone: the topic drowns by the factor between the losses, and AdamW, whose steps are all about equally long,
# won't bring it back. So a weight means nothing without the unit of its loss.
#
# The fixed weights are points on a trade-off, up for the topic, left for the words; below the dotted line, transfer is
# negative. The learned scheme picks such a point as well: it frees you of the unit, not of the choice, for it knows
# nothing of which task *you* need.
#
# *Here ends the second focus session.*
#
# ## 6. An adapter for each task
#
# The other architecture: the base stays frozen, and each task gets a LoRA adapter and a head. Tasks can't hinder each
# other, for they share nothing that moves.

# %%
from production.multitask_model import lora_config

system, seconds = fresh(MODEL, LENGTH, device), {}


def add_adapter(name):
    system.add_task(data[name].task, lora_config(rank=8))
    rows = {name: data[name].train}
    history = fit(system, rows, [name] * MORE_STEPS, learning_rate=ADAPTER_RATE, **options)
    seconds[name] = history.seconds
    trained = sum(each.numel() for each in system.trainable([name]).values())
    accuracy = (predicted(system, name) == true[name]).mean()
    print(f"{name:<8} {trained:,} numbers trained, {history.seconds:.0f} s, accuracy {accuracy:.3f}")


for name in FIRST:
    add_adapter(name)

# %% [markdown]
# A request brings its task's name. Switching copies nothing: PEFT's layers are told which A and B to add.

# %%
text = data["section"].test.texts[0]
for name in FIRST:
    print(system.answer(text, name), "<-", " ".join(text.split())[:40])


def timed(what):
    with lessonkit.measure(device) as run:
        for _ in range(TIMES):
            what()
    return run.seconds / TIMES * 1000  # ms


def switch():
    for name in FIRST:
        system.use(name)


def both_answers(model, passes):
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.inference_mode():
        if passes == 1:
            vectors = model.vectors(ids, mask)
            return [model.heads[name](vectors) for name in FIRST]
        return [model(name, ids, mask) for name in FIRST]


# %%
print(f"two switches: {timed(switch):.1f} ms")
one, two = timed(lambda: both_answers(joint[math.inf], 1)), timed(lambda: both_answers(system, 2))
print(f"both tasks, 8 texts: shared encoder {one:.0f} ms (one pass), adapters {two:.0f} ms (two passes)")

# %% [markdown]
# The price of independence: whoever asks *all* tasks about each text pays a pass for each, while a shared encoder needs
# one. (A batch of mixed requests, one task each, can go through one pass: `adapter_names` in
# [serving](serving.ipynb).)
#
# And the folder: `base/` once, then `tasks/NAME/` each, which PEFT alone can read, too.

# %%
import hashlib
import shutil

from production.multitask_files import save_system, save_task

folder = lesson.folder / "system"
shutil.rmtree(folder, ignore_errors=True)
save_system(system, folder)


def fingerprints():
    files = [each for each in sorted(folder.rglob("*")) if each.is_file()]
    return {str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


for name in fingerprints():
    print(f"{(folder / name).stat().st_size:>12,} bytes  {name}")

# %% [markdown]
# *Here ends the third focus session.*
#
# ## 7. A third task arrives
#
# **Exercise 4, predict.** After which of these do the old tasks give the same logits, bit for bit? `"a"` train
# everything further on the new task, at a hundredth of the learning rate; `"b"` train everything further, with texts
# of the old tasks replayed in between; `"c"` a new adapter and a new head on the frozen base; `"d"` train everything
# further, with a new head, the old heads frozen.

# %%
answer = TODO
lesson.exercise("same-bits").check(answer)

# %% [markdown]
# Three of them, measured. *Sequential*: the shared model of section 3 (T = infinity) is trained further on `family`.
# *Replay*: the same, and after every second batch one of kept old texts, `topic` and `section` by turns. *Adapter*: the
# system of section 6 gets a third one. **What do you expect** of the old tasks?

# %%
import copy

old = {name: predict(system, data[name].test, name, bf16=BF16) for name in FIRST}
kept = {name: data[name].train.select(range(KEPT)) for name in FIRST}
new = {"family": data["family"].train}
plain = ["family"] * MORE_STEPS
mixed = []
for step, each in enumerate(plain):
    mixed += [each, FIRST[step // 2 % 2]] if step % 2 else [each]


def train_further(schedule):
    model = copy.deepcopy(joint[math.inf])
    model.add_task(data["family"].task)
    return model, fit(model, new | kept, schedule, learning_rate=RATE, **options).seconds


# %%
sequential, sequential_seconds = train_further(plain)
replayed, replay_seconds = train_further(mixed)
untouched = fingerprints()
add_adapter("family")
save_task(system, "family", folder)
now = fingerprints()
same = {name: torch.equal(predict(system, data[name].test, name, bf16=BF16), old[name]) for name in FIRST}
print("old logits bit for bit:", same)
print("old files untouched:", {name: now[name] for name in untouched} == untouched)

# %%
whole = (folder / "base" / "model.safetensors").stat().st_size
added = sum(each.stat().st_size for each in (folder / "tasks" / "family").iterdir())
routes = {
    "sequential": (joint[math.inf], sequential, sequential_seconds, whole),
    "replay": (joint[math.inf], replayed, replay_seconds, whole),
    "adapter": (None, system, seconds["family"], added),
}
after, lost = {}, {}
print(f"{'':<11}{'topic':>16}{'section':>16}{'family':>8}{'seconds':>9}{'MB written':>12}")
for route, (before, model, took, written) in routes.items():
    after[route] = {name: predicted(model, name) for name in data}
    start = {name: old[name].argmax(-1).numpy() if before is None else said[math.inf, name] for name in FIRST}
    shown = [(each[name] == true[name]).mean() for name in FIRST for each in (start, after[route])]
    lost[route] = {
        name: lessonkit.compare_classifiers(true[name], after[route][name], start[name]) for name in FIRST
    }
    family = (after[route]["family"] == true["family"]).mean()
    print(f"{route:<11}" + "{:>7.3f} -> {:.3f}{:>7.3f} -> {:.3f}".format(*shown), end="")
    print(f"{family:>8.3f}{took:>9.0f}{written / 1e6:>12.2f}")

# %%
for route, found in lost.items():
    for name, each in found.items():
        low, high = each.interval
        verdict = "the same bits" if route == "adapter" and same[name] else each.verdict
        print(f"{route:<11}{name:<8} change {each.change:+.3f} ({low:+.3f} to {high:+.3f}): {verdict}")
fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
for place, (route, found) in enumerate(after.items()):
    heights = [(found[name] == true[name]).mean() for name in data]
    ax.bar([each + 0.27 * (place - 1) for each in range(3)], heights, width=0.25, label=route)
ax.set_xticks(range(3), [f"{name} (new)" if name == "family" else name for name in data])
ax.set(ylabel="test accuracy", title="after the third task")
_ = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# What a further training loses is called **catastrophic forgetting**: nothing in the new task's loss asks for the old
# answers. The old heads are still there, but they now read vectors that have moved. Replay puts the old losses back
# among the gradients; it needs old *texts*, which you may not be allowed to keep, and more steps. (A "can't tell" would
# be no proof that nothing was lost.)
#
# The adapter forgets nothing, by construction, and writes a small fraction of the bytes. What it can't do: let `family`
# improve the others.
#
# ## 8. The system
#
# One function, any task, from files alone:

# %%
from production.multitask_files import load_system

served = load_system(folder).to(device)
print("tasks:", *served.tasks)
for name in data:
    text, label = data[name].test.texts[1], data[name].task.labels[true[name][1]]
    print(f"{served.answer(text, name)}  (label: {label})")
equal = [
    torch.equal(predict(served, data[name].test, name), predict(system, data[name].test, name))
    for name in data
]
print("loaded = saved, bit for bit:", equal)

# %%
from production.processes import start as start_process

words_typed = ["ask", "family", "the shuttle reached its orbit after a second burn", "--folder", folder]
command = ["python", "-m", "production.multitask", *words_typed]
process = start_process(command, lesson.folder / "ask.log", env={"PYTHONPATH": str(ROOT)})
process.wait(timeout=120)
print(process.tail(1))

# %% [markdown]
# The other commands: `python -m production.multitask train` (with `--route shared`, too), `add family`, `list`. Their
# section in `production/settings.toml` is `[multitask]`.
#
# ## 9. What goes wrong
#
# **The base is exchanged below its adapters**, say for a newer version of the same name. All shapes fit, and PyTorch
# raises nothing. Each `task.json` therefore holds its base's SHA-256. **A task that isn't there** isn't answered by the
# nearest adapter.

# %%
from lessonkit.errors import LessonkitError

other = lesson.folder / "other-base"
shutil.rmtree(other, ignore_errors=True)
shutil.copytree(folder, other)
joint[math.inf].encoder.save_pretrained(other / "base")
for attempt in (lambda: load_system(other), lambda: served.answer("oil prices rise", "topics")):
    try:
        attempt()
    except LessonkitError as error:
        print(str(error).replace(str(lesson.folder), "..."), "\n")

# %% [markdown]
# What does that spare you? We forge the SHA-256:

# %%
from production.multitask_files import sha256

for place in other.glob("tasks/*/task.json"):
    place.write_text(place.read_text().replace(sha256(folder / "base"), sha256(other / "base")))
forged = load_system(other).to(device)
for name in data:
    pair = [(predicted(model, name) == true[name]).mean() for model in (system, forged)]
    print("{:<8} accuracy on its own base {:.3f}, on the other {:.3f}".format(name, *pair))

# %% [markdown]
# No error is raised; only the scores can tell.
#
# **Learned weights that never arrive.** From $s = 0$ and a constant loss of 10,000, Adam needs to bring $s$ to
# log 10,000 = 9.2. Its memory of the first, huge gradient makes its later steps small:

# %% tags=["nbval-check-output"]
for rate in (0.001, 0.1, 0.3):
    weighting = Uncertainty({"words": "number"})
    optimizer = torch.optim.Adam(weighting.parameters(), lr=rate)
    for _ in range(100):
        optimizer.zero_grad()
        weighting({"words": torch.tensor(10_000.0)}).backward()
        optimizer.step()
    print(f"rate {rate}: s = {weighting.log_variance['words'].item():.1f} after 100 steps, wanted 9.2")

# %% [markdown]
# So start $s$ at the first losses, as above, and don't give it the model's learning rate.
#
# **A mean over tasks** can rise while the smallest one falls. Report each, with its n.
#
# ## 10. On a bigger machine
#
# At `gpu` scale the same cells take BERT base, longer texts and more steps. With several GPUs
# ([distributed training](distributed-training.ipynb)), DDP expects a gradient of each parameter, and heads without a
# batch have none: pass `find_unused_parameters=True`. Processes may then work on different tasks in one step; the mean of
# their gradients is a mixed batch.
#
# ## 11. The end
#
# 1. Sharing: one pass for all tasks, one training for all, and a change to one is a change to all.
# 2. The temperature distributes turns; count the passes over the small task.
# 3. Weights of losses have units. Learned ones free you of the unit, not of the choice.
# 4. Transfer is measured against the same batches alone, on the same texts, with an interval and more than one seed.
# 5. A new task: an adapter leaves the old ones bit for bit; replay holds them roughly; a plain further training doesn't
#    ask for them at all.

# %%
final = {name: (predicted(system, name) == true[name]).mean() for name in data}
lesson.record(
    **{f"{name}_accuracy": value for name, value in final.items()},
    topic_lost_sequential=-lost["sequential"]["topic"].change,
    topic_lost_replay=-lost["replay"]["topic"].change,
    adapter_megabytes=added / 1e6,
)

# %% [markdown]
# **Check yourself.** Two tasks' gradients have a cosine of 0.01: what follows? An adapter was trained on a shared
# encoder, which is then trained further: what happens to its task?
#
# <details><summary>Answers</summary>
#
# Nothing much: two unrelated directions look so, too; compare with two batches of one task. And the adapter's task is
# answered from a base that it doesn't know; it has to be trained anew, and the saved system refuses to load it.
#
# </details>
#
# This lesson earns *Build multi-task fine-tuning system*: you have one.
#
# **Next:** [checkpointing and precision](checkpointing-and-precision.ipynb) makes the same trainings fit and run faster.
