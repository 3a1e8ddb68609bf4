# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # LoRA, expert
#
# You will be able to write LoRA from its paper, prove it equal to PEFT, judge the newer ways to start, train and merge
# it, and serve many adapters in one batch.
#
# **120 minutes**, five focus sessions (5 minutes are training, on 2 CPU cores) · **expert** · before this:
# [LoRA, intermediate](../intermediate/lora.ipynb) and [full fine-tuning, expert](full-fine-tuning.ipynb) · background:
# [the guide to LoRA](../../lessons/lora/guide.md) · next: [QLoRA, expert](qlora.ipynb)
#
# You will
#
# - write the layer in forty lines, and compare forward, gradients, training and merging with PEFT's, digit for digit;
# - measure whether PiSSA, OLoRA, LoftQ and LoRA+ learn faster here;
# - merge three adapters into one, see what is lost and why, and serve all three side by side.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("expert/lora")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
TRAIN_TEXTS = lesson.pick(smoke=48, laptop=320, gpu=1600)  # of each task
VALIDATION_TEXTS = lesson.pick(smoke=16, laptop=200, gpu=160)  # of each task, for choices
TEST_TEXTS = lesson.pick(smoke=16, laptop=400, gpu=2000)  # of each task, or all it has
MAX_LENGTH = lesson.pick(smoke=16, laptop=16, gpu=128)  # tokens of each text that are read
BATCH_SIZE = lesson.pick(smoke=8, laptop=16, gpu=32)
STEPS = lesson.pick(smoke=2, laptop=80, gpu=300)  # for each task
SHORT_STEPS = lesson.pick(smoke=2, laptop=24, gpu=150)  # where beginnings are compared
SEEDS = lesson.pick(smoke=[0], laptop=[0, 1, 2], gpu=[0, 1, 2, 3, 4])
RATES = lesson.pick(smoke=[5e-3], laptop=[2e-3, 5e-3], gpu=[2e-4, 5e-4])  # where beginnings are compared
LEARNING_RATE = RATES[-1]  # of A and B
HEAD_RATE = lesson.pick(smoke=3e-2, laptop=3e-2, gpu=1e-3)  # of the head, which is new
RANK, ALPHA, TARGETS = 8, 16, ["query", "value"]

# %% [markdown]
# ## 1. Three tasks, one model, one head
#
# Reuters wires (8 topics), BBC articles (5) and 20 newsgroups: an adapter for each. The model they share has a head
# with an output for every topic.

# %% tags=["nbval-check-output"]
sets = {"wires": "reuters-r8", "articles": "bbc-news", "posts": "20newsgroups"}
raw = {task: lessonkit.load_dataset(name) for task, name in sets.items()}
columns, topics = {}, 0
for task, rows in raw.items():
    count = rows["train"].features["label"].num_classes
    columns[task] = slice(topics, topics + count)
    topics += count
    print(f"{task:<9} outputs {columns[task].start:>2} to {columns[task].stop - 1}")

# %%
from datasets import Dataset
from transformers import DataCollatorWithPadding

tokenizer = lessonkit.load_tokenizer(MODEL)
collator = DataCollatorWithPadding(tokenizer)


def tokenized(task, split, start, count):
    rows = raw[task][split].shuffle(seed=0)
    rows = rows.select(range(start, min(start + count, len(rows))))
    texts = tokenizer(list(rows["text"]), truncation=True, max_length=MAX_LENGTH, return_token_type_ids=False)
    labels = [columns[task].start + label for label in rows["label"]]
    return Dataset.from_dict({**texts, "label": labels, "text": rows["text"]})


train = {task: tokenized(task, "train", 0, TRAIN_TEXTS) for task in sets}
validation = {task: tokenized(task, "train", TRAIN_TEXTS, VALIDATION_TEXTS) for task in sets}
test = {task: tokenized(task, "test", 0, TEST_TEXTS) for task in sets}

# %% [markdown]
# Two baselines: the most frequent topic; and counting words, in the tokens that the model will read.

# %%
from collections import Counter

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def words_read(rows):
    return tokenizer.batch_decode(list(rows["input_ids"]), skip_special_tokens=True)


majority = {task: Counter(train[task]["label"]).most_common(1)[0][0] for task in sets}
counted = {}
for task in sets:
    counting = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100))
    counting.fit(words_read(train[task]), train[task]["label"])
    counted[task] = counting.predict(words_read(test[task]))
    labels = np.array(test[task]["label"])
    print(f"{task:<9} n = {len(labels):>5,}:", end=" ")
    print(
        f"majority {(labels == majority[task]).mean():.3f}, counting words {(labels == counted[task]).mean():.3f}"
    )

# %% [markdown]
# ## 2. LoRA in forty lines
#
# From section 4.1 of [the paper](https://arxiv.org/abs/2106.09685): *h = W x + (alpha / r) B A x*. For r = 8, *x* has
# 384 numbers, *A x* 8, *B A x* 384. Where *W* is bfloat16, A and B stay float32, as in PEFT.

# %%
import math

import torch
from torch import nn
from torch.nn import functional as F


# %%
class LoRALinear(nn.Module):
    """A frozen linear layer, and the change beside it."""

    def __init__(self, base, r, alpha, dropout=0.0):
        super().__init__()
        self.base, self.scaling, self.merged = base.requires_grad_(False), alpha / r, False
        self.dropout = nn.Dropout(dropout)  # on the way to A only
        self.A = nn.Parameter(torch.empty(r, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as nn.Linear and PEFT do; the paper: Gaussian

    def change(self):
        return self.B @ self.A * self.scaling  # (out, in), as W

    def forward(self, x):
        h = self.base(x)
        if self.merged:
            return h
        x = self.dropout(x.to(self.A.dtype))
        return (h + F.linear(F.linear(x, self.A), self.B) * self.scaling).to(h.dtype)


# %%
def merge(layer):
    if not layer.merged:
        layer.base.weight.data += layer.change().detach()
    layer.merged = True


def unmerge(layer):
    if layer.merged:
        layer.base.weight.data -= layer.change().detach().to(layer.base.weight.dtype)
    layer.merged = False


def add_lora(model, targets, r, alpha, dropout=0.0):
    """Freezes the model, and puts a LoRALinear in place of each linear layer named in targets."""
    model.requires_grad_(False)
    for path, layer in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if name in targets and isinstance(layer, nn.Linear):
            setattr(model.get_submodule(parent), name, LoRALinear(layer, r, alpha, dropout))
    return model


# %% [markdown]
# Note the order in `forward`: B (A x) costs r (in + out) products a token; (B A) x would build a matrix as large as W.
#
# ## 3. Is it PEFT's?
#
# Two copies of the model, with our layers and with PEFT's, the same A and B. B is random: with B = 0, a wrong A
# would go unnoticed.

# %%
from functools import partial

from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from transformers import AutoModelForSequenceClassification, set_seed


def fresh_model(seed=0, dtype="float32"):
    set_seed(seed)  # the same random head each time
    return lessonkit.load_model(
        MODEL,
        AutoModelForSequenceClassification,
        num_labels=topics,
        dtype=dtype,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=lesson.hardware.attention,
    )


# %%
def layers_of(model, kind):
    return [layer for layer in model.modules() if isinstance(layer, kind)]


def twins(dtype, alpha=ALPHA):
    hand = add_lora(fresh_model(dtype=dtype), TARGETS, RANK, alpha)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, init_lora_weights=False)
    library = get_peft_model(fresh_model(dtype=dtype), config)
    pairs = list(zip(layers_of(hand, LoRALinear), layers_of(library, PeftLinear), strict=True))
    for ours, theirs in pairs:
        theirs.lora_B["default"].weight.data *= 0.1
        ours.A.data.copy_(theirs.lora_A["default"].weight)
        ours.B.data.copy_(theirs.lora_B["default"].weight)
    return hand, library, pairs


# %% [markdown]
# We compare the output; the gradients of A, B and the input; A and B after three steps of AdamW; the merged weights,
# and their output.


# %%
def everything(model, layers, batch):
    """{what: numbers}. layers: for each LoRA layer A, B, the frozen W, and the function that merges."""
    x = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    rest = {name: batch[name] for name in ("attention_mask", "labels")}
    result = model(inputs_embeds=x, **rest)
    result.loss.backward()
    found = {"output": [result.logits], "gradient of x": [x.grad]}
    found["gradient of A"] = [A.grad.clone() for A, *_ in layers]
    found["gradient of B"] = [B.grad.clone() for _, B, *_ in layers]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    found["A and B, 3 steps on"] = [p.detach().clone() for A, B, *_ in layers for p in (A, B)]
    for *_, merge in layers:
        merge()
    found["merged W"] = [W.detach() for _, _, W, _ in layers]
    found["output, merged"] = [model(**batch).logits]
    return {what: torch.cat([each.detach().float().flatten() for each in all]) for what, all in found.items()}


# %%
def compare(dtype, batch, alpha=ALPHA):
    """{what: (largest difference, largest value)}. alpha: ours; PEFT's is ALPHA."""
    hand, library, pairs = twins(dtype, alpha)
    ours = [(one.A, one.B, one.base.weight, partial(merge, one)) for one, _ in pairs]
    theirs = [
        (one.lora_A["default"].weight, one.lora_B["default"].weight, one.base_layer.weight, one.merge)
        for _, one in pairs
    ]
    first, second = everything(hand, ours, batch), everything(library, theirs, batch)
    return {what: ((first[what] - second[what]).abs().max(), first[what].abs().max()) for what in first}


# %% [markdown]
# Float32 carries about seven digits, bfloat16 two to three. Expect differences no larger than that, relative to the
# values. Third column: could this table show a mistake at all? There, our alpha is 17 in place of 16.

# %%
rows = train["wires"].select_columns(["input_ids", "attention_mask", "label"])
few = collator([rows[number] for number in range(8)])
found = {dtype: compare(dtype, few) for dtype in ("float32", "bfloat16")}
found["alpha 17, not 16"] = compare("float32", few, alpha=17)
print(f"{'largest difference (value)':<28}", *(f"{name:<20}" for name in found))
for what in found["float32"]:
    cells = [f"{off:.1e} ({largest:.1e})  " for off, largest in (each[what] for each in found.values())]
    print(f"{what:<28}", *cells)

# %% [markdown]
# Ours *is* PEFT's layer, here to the last digit: the same operations in the same order. (Elsewhere expect rounding.)
# Last, does `unmerge` bring W back?

# %%
for dtype in ("float32", "bfloat16"):
    hand, _, pairs = twins(dtype)
    before = [ours.base.weight.clone() for ours, _ in pairs]
    for ours, _ in pairs:
        merge(ours)
        unmerge(ours)
    lost = max((ours.base.weight - old).abs().max().item() for (ours, _), old in zip(pairs, before))
    print(f"{dtype:<9} largest change of W after merge and unmerge: {lost:.1e}")

# %% [markdown]
# Not quite: each addition rounds, in bfloat16 2¹⁶ times more coarsely. A server that swaps adapters by merging adds
# that up. Keep a clean copy of W.
#
# *Here ends the first focus session.*
#
# ## 4. Where B = 0 leads, and LoRA+
#
# With *g* the gradient at *h* and *s* = alpha / r:
#
# **gradient of B = s g (A x)ᵀ, gradient of A = s Bᵀ g xᵀ**
#
# At the start B = 0, so A's gradient is zero, and stays small as long as B does. We train on the posts, the hardest
# task, and note how long both gradients are. The new head has a larger learning rate.

# %%
import itertools

from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

device, bf16 = lesson.hardware.device, lesson.hardware.bf16


def adapted(base, init=True, r=RANK):
    """PEFT's LoRA in the base, and a head that is trained as it is."""
    config = LoraConfig(r=r, lora_alpha=2 * r, target_modules=TARGETS, init_lora_weights=init)
    model = get_peft_model(base, config).to(device)
    model.base_model.model.classifier.requires_grad_(True)
    return model


# %%
def adamw(model, rate=LEARNING_RATE, ratio=1):
    """A learns at this rate, B at ratio times it, the head always at HEAD_RATE."""
    groups = {"lora_A": (rate, []), "lora_B": (ratio * rate, []), "classifier": (HEAD_RATE, [])}
    for name, p in model.named_parameters():
        if p.requires_grad:
            next(group for part, (_, group) in groups.items() if part in name).append(p)
    groups = [{"params": group, "lr": lr} for lr, group in groups.values()]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def batches(dataset, size, seed=None):
    rows = dataset.select_columns(["input_ids", "attention_mask", "label"])
    order = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(rows, size, shuffle=seed is not None, generator=order, collate_fn=collator)


# %%
def train_by_hand(model, optimizer, seed, steps=SHORT_STEPS):
    """Losses, and the lengths of the gradients of all A and all B, one a step."""
    model.train()
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    seen = {"loss": [], "lora_A": [], "lora_B": []}
    loader = itertools.cycle(batches(train["posts"], BATCH_SIZE, seed))
    for batch in itertools.islice(loader, steps):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = model(**batch.to(device)).loss
        loss.backward()
        seen["loss"].append(loss.item())
        for part in ("lora_A", "lora_B"):
            lengths = [p.grad.norm() for name, p in model.named_parameters() if part in name]
            seen[part].append(torch.stack(lengths).norm().item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return seen


# %%
model = adapted(fresh_model())
with lessonkit.measure() as used:
    seen = train_by_hand(model, adamw(model), seed=0)
print(used)
steps = range(1, SHORT_STEPS + 1)
ax = lessonkit.plots.curves(
    {"gradient of A": (steps, seen["lora_A"]), "gradient of B": (steps, seen["lora_B"])},
    xlabel="step",
    ylabel="length of the gradient",
    title="A is seen through B, and B starts at zero",
)
# %%
print("gradient of A in the first step:", seen["lora_A"][0])
print(f"gradient of B in the first step: {seen['lora_B'][0]:.2f}")

# %% [markdown]
# A's gradient begins at exactly 0 and grows as B does. AdamW divides by a gradient's size, so A and B both
# move by about the learning rate a step. [LoRA+](https://arxiv.org/abs/2402.12354) argues that for wide models B
# should take larger steps. PEFT makes such an optimiser, an ordinary one with parameter groups:

# %% tags=["nbval-check-output"]
from peft.optimizers import create_loraplus_optimizer

RATIO = 4  # B's learning rate divided by A's
model = adapted(fresh_model())
optimizer = create_loraplus_optimizer(
    model, torch.optim.AdamW, lr=0.001, loraplus_lr_ratio=RATIO, weight_decay=0.0
)
names = {parameter: name for name, parameter in model.named_parameters()}
for group in filter(lambda group: group["params"], optimizer.param_groups):  # one may be empty
    kinds = Counter(
        next(k for k in ("lora_A", "lora_B", "weight", "bias") if k in names[p]) for p in group["params"]
    )
    print(f"learning rate {group['lr']:.3f}: {dict(kinds)}")

# %% [markdown]
# `weight` and `bias` are the head's: here its bias learns at B's rate. Our `adamw` keeps the head apart; section 6
# measures, with the same ratio, whether a faster B helps.
#
# *Here ends the second focus session.*
#
# ## 5. Other beginnings: PiSSA, OLoRA, LoftQ
#
# Zero is not the only B that changes nothing. Take something out of W and put it into A and B:
#
# **W = W' + s B A**, with W' frozen
#
# - [PiSSA](https://arxiv.org/abs/2404.02948) takes W's r largest singular directions: what matters most is trained.
# - [OLoRA](https://arxiv.org/abs/2406.01775) takes B and A from W's QR decomposition: B's columns have length 1, at
#   right angles.
#
# Each claims the same model at step 0. For one W:

# %%
starts = {"LoRA": True, "PiSSA": "pissa", "OLoRA": "olora"}
W = layers_of(adapted(fresh_model()), PeftLinear)[0].base_layer.weight.detach().cpu()
spectra = {"W": torch.linalg.svdvals(W)}
for name, init in starts.items():
    layer = layers_of(adapted(fresh_model(), init), PeftLinear)[0].cpu()
    A, B = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    rest = layer.base_layer.weight.detach()
    off = (rest + layer.scaling["default"] * B @ A - W).abs().max()
    spectra[f"W' of {name}"] = torch.linalg.svdvals(rest)
    moved = (rest - W).norm() / W.norm()
    print(f"{name:<6} W' moved by {moved:.0%}; |A| {A.norm():.1f}, |B| {B.norm():.1f}; sum off by {off:.0e}")

# %%
del spectra["W' of LoRA"]  # it is W
ax = lessonkit.plots.curves(
    {name: (range(1, 25), values[:24]) for name, values in spectra.items()},
    xlabel="number of the singular value",
    ylabel="singular value",
    title="What is left in the frozen matrix",
)

# %% [markdown]
# All sums are W, to rounding. PiSSA's W' has lost its eight largest singular values: they are in A and B, where
# training can reach them. OLoRA takes out twice (s = 2) a product that stood in W once, which mirrors W: its line
# lies on W's.
#
# **Exercise 1, write code.** Write PiSSA: from W (out, in), r and the scaling s, return W', A and B. Split the
# singular values evenly between A and B, as PEFT does. `torch.linalg.svd(W, full_matrices=False)` gives U, S and Vᵀ.


# %%
TODO = lessonkit.TODO


def pissa(W, r, s):
    return TODO


lesson.exercise("pissa").check(pissa)

# %% [markdown]
# [LoftQ](https://arxiv.org/abs/2310.08659) has another aim. A 4-bit base, as in [QLoRA](../intermediate/qlora.ipynb),
# begins with an error: Q differs from W. LoftQ lets A and B begin with the best rank-r approximation of that error. So
# the sum is not W, only nearer to it than Q. PEFT's own LoftQ needs a GPU, so we write it, with bitsandbytes' NF4
# (each weight rounded to one of 16 levels):

# %%
import bitsandbytes as bnb


def nf4(W):
    """W as a 4-bit base holds it, turned back into float32."""
    codes, state = bnb.functional.quantize_4bit(W.contiguous(), quant_type="nf4")
    return bnb.functional.dequantize_4bit(codes, state)


def loftq(W, r, s, rounds=1):
    """Q, A and B, so that Q + s B A is near W."""
    BA = torch.zeros_like(W)
    for _ in range(rounds):
        Q = nf4(W - BA)
        U, S, Vh = torch.linalg.svd(W - Q, full_matrices=False)
        root = S[:r].sqrt()
        A, B = root[:, None] * Vh[:r], U[:, :r] * root
        BA = B @ A
    return Q, A / s, B


def error(Q, A, B, s):
    return ((W - Q - s * B @ A).norm() / W.norm()).item()


# %%
ranks = [1, 2, 4, 8, 16, 32, 64, 128]
alone = ((W - nf4(W)).norm() / W.norm()).item()
by_rank = {rounds: [error(*loftq(W, r, 2, rounds), 2) for r in ranks] for rounds in (1, 5)}
ax = lessonkit.plots.curves(
    {
        "NF4 alone": (ranks, [alone] * len(ranks)),
        "LoftQ, 1 round": (ranks, by_rank[1]),
        "LoftQ, 5 rounds": (ranks, by_rank[5]),
    },
    xlabel="rank r",
    ylabel="error, as a share of |W|",
)
# %%
from ipywidgets import IntSlider, interact


def error_at(r):
    print(f"r = {r}: NF4 alone {alone:.2%}, with LoftQ {error(*loftq(W, r, 2), 2):.2%}")


_ = interact(error_at, r=IntSlider(RANK, min=1, max=128, continuous_update=False))

# %% [markdown]
# (The slider needs a running notebook.) LoftQ is always below NF4 alone, but at r = 8 only a little: rounding errors
# are nearly noise, spread over all directions.
#
# **Exercise 2, predict.** Our `loftq` divides A by s. PEFT 0.21's doesn't: it sets B A to the best approximation E of
# the error, and the layer then adds s B A. With `lora_alpha = 2 * r`, so s = 2, how far is the sum from W, compared
# with NF4 alone? `"a"` nearer, as it should be; `"b"` exactly as far; `"c"` farther.

# %%
answer = TODO
lesson.exercise("loftq-scaling").check(answer)

# %%
Q, A, B = loftq(W, RANK, 1)  # B A is E, undivided, as in PEFT
for s in (1, 2, 4):
    print(f"s = {s}: error {error(Q, A, B, s):.3%}; NF4 alone {alone:.3%}")

# %% [markdown]
# At s = 2 the whole gain is gone: one E corrects the error, the second puts as much back. **With PEFT's LoftQ, set
# `lora_alpha = r`.**
#
# *Here ends the third focus session.*
#
# ## 6. Do they learn faster?
#
# Six ways, the same texts, steps and seeds (order of texts, head, random A), and two learning rates: one that suits a
# small B need not suit a large one. In the 4-bit ones, the adapted matrices are as NF4 stores them.


# %%
@torch.no_grad()
def on_nf4(seed, with_loftq):
    model = adapted(fresh_model(seed))
    for layer in layers_of(model, PeftLinear):
        Q, A, B = loftq(layer.base_layer.weight, RANK, layer.scaling["default"])
        layer.base_layer.weight.copy_(Q)
        if with_loftq:
            layer.lora_A["default"].weight.copy_(A)
            layer.lora_B["default"].weight.copy_(B)
    return model


# %%
arms = {  # how a model is made, and B's learning rate divided by A's
    "LoRA": (lambda seed: adapted(fresh_model(seed)), 1),
    "LoRA+": (lambda seed: adapted(fresh_model(seed)), RATIO),
    "PiSSA": (lambda seed: adapted(fresh_model(seed), "pissa"), 1),
    "OLoRA": (lambda seed: adapted(fresh_model(seed), "olora"), 1),
    "NF4": (lambda seed: on_nf4(seed, with_loftq=False), 1),
    "NF4 with LoftQ": (lambda seed: on_nf4(seed, with_loftq=True), 1),
}


# %%
@torch.inference_mode()
def predict(model, dataset, task):
    """Class numbers, (texts,): the highest of the task's own outputs."""
    model.to(device).eval()
    logits = []
    for batch in batches(dataset, 64):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits.append(model(**batch.to(device)).logits.float().cpu())
    place = columns[task]
    return torch.cat(logits)[:, place].argmax(-1).numpy() + place.start


def accuracy(model, task, dataset=None):
    dataset = validation[task] if dataset is None else dataset[task]
    return (predict(model, dataset, task) == np.array(dataset["label"])).mean()


# %%
losses, right = {}, {}
with lessonkit.measure() as used:
    for (name, (make, ratio)), rate in itertools.product(arms.items(), RATES):
        losses[name, rate], right[name, rate] = [], []
        for seed in SEEDS:
            model = make(seed)
            losses[name, rate].append(train_by_hand(model, adamw(model, rate, ratio), seed)["loss"])
            right[name, rate].append(accuracy(model, "posts"))
print(used)

# %%
late = {arm: np.mean([each[-10:] for each in runs], axis=1) for arm, runs in losses.items()}
best = {name: min(RATES, key=lambda rate: late[name, rate].mean()) for name in arms}
print(f"loss of the last 10 steps, mean of {len(SEEDS)} seeds; gap to LoRA's at its best rate, seed by seed")
for (name, rate), values in late.items():
    rival = "NF4" if "LoftQ" in name else "LoRA"
    gap = values - late[rival, best[rival]]
    print(
        f"{name:<15}{rate:.4f}{'*' if rate == best[name] else ' '} loss {values.mean():.3f}"
        f" (gap {gap.min():+.3f} to {gap.max():+.3f}), accuracy {np.mean(right[name, rate]):.3f}"
        f" ({min(right[name, rate]):.3f} to {max(right[name, rate]):.3f})"
    )
# %%
smooth = {
    name: np.convolve(np.mean(losses[name, rate], axis=0), np.ones(10) / 10, "valid")
    for name, rate in best.items()
}
ax = lessonkit.plots.curves(
    {name: (range(10, 10 + len(line)), line) for name, line in smooth.items()},
    xlabel="step",
    ylabel="loss (mean of 10 steps)",
    title="Each at its better learning rate",
)

# %% [markdown]
# The star marks the better rate. Read the brackets: a way is faster *here* only if its gap is below zero for every
# seed. (`NF4 with LoftQ` is compared with `NF4`.) In this page's build LoRA+, PiSSA and OLoRA pass, by less than 0.1;
# LoftQ doesn't; all brackets of accuracy overlap. And all stars are at our largest rate: at a larger one LoRA might
# catch up.
#
# ## 7. Three adapters on one model
#
# `Trainer` trains each, and the head with it, outside of PEFT (no `task_type`): section 10 shows why. A fourth
# adapter, *together*, learns all tasks at once, in as many steps as they had in sum.

# %%
from copy import deepcopy

from datasets import concatenate_datasets
from transformers import Trainer, TrainingArguments

config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS)
shelf = get_peft_model(fresh_model(), config, adapter_name="wires").to(device)
head = shelf.base_model.model.classifier
untrained, heads = deepcopy(head.state_dict()), {}


# %%
def arguments(name, steps):
    return TrainingArguments(
        output_dir=str(lesson.folder / name),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        warmup_steps=0.1,
        bf16=bf16,
        use_cpu=device == "cpu",
        save_strategy="no",
        report_to="none",
        seed=0,
    )


# %%
def train_adapter(name, dataset, steps):
    if name not in shelf.peft_config:
        shelf.add_adapter(name, config)
    shelf.set_adapter(name)  # this one is used, and alone it is trained
    head.load_state_dict(untrained)
    head.requires_grad_(True)
    trainer = Trainer(
        shelf,
        arguments(name, steps),
        train_dataset=dataset.remove_columns("text"),
        data_collator=collator,
        optimizers=(adamw(shelf), None),  # None: a schedule as the arguments say
    )
    lessonkit.run(trainer)
    trainer.accelerator.unwrap_model(shelf, keep_fp32_wrapper=False)  # else `shelf` would stay in bf16
    heads[name] = deepcopy(head.state_dict())


# %%
for task in sets:
    train_adapter(task, train[task], STEPS)

# %%
train_adapter("together", concatenate_datasets(list(train.values())), len(sets) * STEPS)

# %% [markdown]
# No two tasks share an output, so the three heads need no merging: each task's rows go into one.

# %%
joined = deepcopy(untrained)
for task, place in columns.items():
    for part in ("weight", "bias"):
        joined[part][place] = heads[task][part][place]


def use(name):
    shelf.set_adapter(name)
    head.load_state_dict(heads["together"] if name == "together" else joined)


for name in (*sets, "together"):
    use(name)
    print(f"{name:<9}", {task: f"{accuracy(shelf, task):.3f}" for task in sets}, "on validation")

# %% [markdown]
# Where row and column agree, an adapter does its own task; elsewhere another's, with that task's rows of the head.
# *Together*: one adapter of the same rank that saw all the data.
#
# *Here ends the fourth focus session.*
#
# ## 8. Three adapters in one
#
# Could one adapter do all three tasks, without training? Tempting: add up the As and the Bs.
#
# **Exercise 3, predict.** Multiplied out, (B₁ + B₂ + B₃)(A₁ + A₂ + A₃) has the three products that we want, B₁A₁, B₂A₂
# and B₃A₃. How many others does it have?

# %%
answer = TODO
lesson.exercise("cross-terms").check(answer)

# %% tags=["nbval-check-output"]
B1, A1 = torch.tensor([[1], [0]]), torch.tensor([[2, 0]])
B2, A2 = torch.tensor([[0], [1]]), torch.tensor([[0, 3]])
print("B1 A1 + B2 A2 =", (B1 @ A1 + B2 @ A2).tolist())
print("(B1 + B2)(A1 + A2) =", ((B1 + B2) @ (A1 + A2)).tolist())

# %% [markdown]
# The others pair one task's A with another's B; no training asked for them. How large are they in the first matrix?

# %%
first = layers_of(shelf, PeftLinear)[0]
pairs = [(first.lora_B[task].weight.detach(), first.lora_A[task].weight.detach()) for task in sets]
wanted = sum(B @ A for B, A in pairs)
summed = sum(B for B, _ in pairs) @ sum(A for _, A in pairs)
print(
    f"length of the cross terms: {(summed - wanted).norm() / wanted.norm():.2f} times that of what is wanted"
)

# %% [markdown]
# PEFT's `add_weighted_adapter` has ways that differ in *what* they add up:
#
# - `linear`: the As and the Bs, cross terms and all. `cat`: the products, exactly, at rank 3 r. `svd`: these, cut
#   back to rank r.
# - [`ties`](https://arxiv.org/abs/2306.01708): keep the largest entries (`density` of them), let the tasks vote on
#   each entry's sign, average those that agree. [`dare_linear`](https://arxiv.org/abs/2311.03099): drop entries at
#   random, scale up the rest. With `_svd` at the end they do it to the products, else to A and B.

# %%
ways = {
    "linear": {"combination_type": "linear"},
    "cat": {"combination_type": "cat"},
    "svd": {"combination_type": "svd"},
    "ties": {"combination_type": "ties_svd", "density": 0.5, "svd_rank": 3 * RANK},
    "dare": {"combination_type": "dare_linear_svd", "density": 0.5, "svd_rank": 3 * RANK},
}
WEIGHTS = [0.15, 0.3, 0.5, 1.0]
set_seed(0)  # dare draws
for (name, options), weight in itertools.product(ways.items(), WEIGHTS):
    merged = f"{name} at {weight:.0%}"  # PEFT refuses a name with a dot
    shelf.add_weighted_adapter(list(sets), [weight] * 3, merged, **options)
shelf.add_weighted_adapter(list(sets), [0.0] * 3, "no adapter", combination_type="cat")

# %% [markdown]
# How loud should each be? At weight 1 each task hears the two others at full strength. We try weights on the
# validation texts, the same for all three; at 0 there is only the base model, with the joint head.


# %%
def mean_accuracy(name):
    use(name)
    return np.mean([accuracy(shelf, task) for task in sets])


nothing = mean_accuracy("no adapter")
sweep = {name: [mean_accuracy(f"{name} at {weight:.0%}") for weight in WEIGHTS] for name in ways}
ax = lessonkit.plots.curves(
    {name: ([0, *WEIGHTS], [nothing, *values]) for name, values in sweep.items()},
    xlabel="weight of each adapter",
    ylabel="validation accuracy, mean of the tasks",
)

# %%
chosen = {name: WEIGHTS[int(np.argmax(values))] for name, values in sweep.items()}
winner = max(ways, key=lambda name: max(sweep[name]))
print("weight       0.00 ", *(f"{weight:>6.2f}" for weight in WEIGHTS))
for name, values in sweep.items():
    print(f"{name:<12} {nothing:.3f}", *(f"{value:>6.3f}" for value in values), f" best at {chosen[name]}")
print("the best of all:", winner)

# %% [markdown]
# (`ties` averages, so it is quieter; in this page's build its best is the largest weight tried.) Now the test texts,
# never seen before, each way at its best weight:

# %%
shown = dict.fromkeys(sets, "own adapter") | {"together": "together", "no adapter": "no adapter"}
shown |= {f"{name} at {chosen[name]:.0%}": name for name in ways}
answers, table = {}, {}
for adapter, name in shown.items():
    use(adapter)
    for task in [adapter] if adapter in sets else sets:
        answers[name, task] = predict(shelf, test[task], task)
        right = (answers[name, task] == np.array(test[task]["label"])).mean()
        table.setdefault(name, []).append(right)
print(f"{'test accuracy':<14}", *(f"{task:>9}" for task in sets), "     mean")
for name, values in table.items():
    print(f"{name:<14}", *(f"{value:>9.3f}" for value in (*values, np.mean(values))))

# %%
for task in sets:
    answers["counting words", task] = counted[task]
duels = [("own adapter", "counting words"), (winner, "no adapter"), (winner, "own adapter")]
for tasks in (*([task] for task in sets), list(sets)):
    print(" + ".join(tasks))
    labels = np.concatenate([list(test[task]["label"]) for task in tasks])
    for names in duels:
        pair = [np.concatenate([answers[name, task] for task in tasks]) for name in names]
        print(" ", lessonkit.compare_classifiers(labels, *pair, names=names))

# %% [markdown]
# For each task, then for all: does LoRA beat counting words; does the best merger beat no adapter; what did it cost?
# (Each adapter was trained once: intervals know of texts only.)
#
# **Exercise 4, run an experiment.** Merge one adapter, with weights and a way of your choice, that reaches a mean
# accuracy of **0.68** over the three tasks' validation texts. Equal weights may do; can you find better ones? Take
# this into the cell, above `answer`:
#
# ```python
# shelf.add_weighted_adapter(list(sets), [1.0, 1.0, 1.0], "mine", combination_type="linear")
# use("mine")
# mine = {task: predict(shelf, validation[task], task) for task in sets}
# shelf.delete_adapter("mine")  # so that you can try again
# ```
#
# Then replace `TODO` with `mine`.

# %%
answer = TODO
lesson.exercise("merge").check(answer)

# %% [markdown]
# ## 9. Or keep them apart: one batch, several adapters
#
# Nothing is lost if each row of a batch gets its own adapter, and W x, the expensive part, is shared:

# %%
head.load_state_dict(joined)
shelf.eval()
mixed = [(task, test[task][number]) for number in range(2) for task in sets]
batch = collator(
    [{key: row[key] for key in ("input_ids", "attention_mask", "label")} for _, row in mixed]
).to(device)
names = [task for task, _ in mixed]
with torch.inference_mode():
    together = shelf(**batch, adapter_names=names).logits
    alone = []
    for number, task in enumerate(names):
        shelf.set_adapter(task)
        alone.append(shelf(**{key: value[number : number + 1] for key, value in batch.items()}).logits)
print(f"largest difference from serving each row alone: {(together - torch.cat(alone)).abs().max():.0e}")

# %%
for (task, row), logits in zip(mixed, together):
    place = columns[task]
    labels = raw[task]["train"].features["label"].names
    said = labels[int(logits[place].argmax())]
    print(f"{task:<9} said {said}, labelled {labels[row['label'] - place.start]}: {row['text'][:60]!r}")

# %% [markdown]
# The same, to rounding. PEFT goes through the adapters one after another. [Punica](https://arxiv.org/abs/2310.18547)
# and [S-LoRA](https://arxiv.org/abs/2311.03285) serve all rows at once, by GPU kernels of their own. In PyTorch: stack
# all As and Bs, gather each row's own, and multiply in one batched product.
#
# **Exercise 5, write code.** The heart of it, for one token a row: from x (rows, in), stacked A (adapters, r, in) and
# B (adapters, out, r), the adapter's number for each row, and the scaling, return what is to be added to W x: (rows,
# out).


# %%
def many(x, A, B, which, scaling):
    return TODO


lesson.exercise("many").check(many)

# %% [markdown]
# As a layer, for all tokens, in place of PEFT's:


# %%
class ManyLoRA(nn.Module):
    """One W, many adapters: row i of the batch gets adapter rows["now"][i]."""

    def __init__(self, layer, names, rows):
        super().__init__()
        self.base, self.rows = layer.base_layer, rows
        self.A = torch.stack([layer.scaling[name] * layer.lora_A[name].weight.detach() for name in names])
        self.B = torch.stack([layer.lora_B[name].weight.detach() for name in names])

    def forward(self, x):  # (rows, tokens, in)
        A, B = self.A[self.rows["now"]], self.B[self.rows["now"]]  # (rows, r, in), (rows, out, r)
        return self.base(x) + torch.bmm(torch.bmm(x, A.mT), B.mT)


# %%
def gathered(model, names, rows):
    """A copy of the plain model in which ManyLoRA stands for each of PEFT's layers."""
    plain = deepcopy(model).base_model.model
    for path, layer in list(plain.named_modules()):
        if isinstance(layer, PeftLinear):
            parent, _, name = path.rpartition(".")
            setattr(plain.get_submodule(parent), name, ManyLoRA(layer, names, rows))
    return plain.eval()


# %%
rows = {"now": torch.tensor([list(sets).index(task) for task in names], device=device)}
with torch.inference_mode():
    ours = gathered(shelf, list(sets), rows)(**batch).logits
print(f"largest difference from PEFT: {(ours - together).abs().max():.0e}")

# %% [markdown]
# How fast? A batch of 16 texts, for 1 to 16 customers with an adapter each. *Swapping* serves each customer alone.

# %%
CUSTOMERS = [f"customer {number}" for number in range(16)]
served = get_peft_model(
    fresh_model(), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS), CUSTOMERS[0]
)
for name in CUSTOMERS[1:]:
    served.add_adapter(name, config)
_ = served.to(device).eval()

# %%
fast = gathered(served, CUSTOMERS, rows)
sixteen = collator([{"input_ids": row} for row in test["posts"]["input_ids"][:16]]).to(device)


def swapping(names):
    for name in dict.fromkeys(names):
        mine = [number for number, each in enumerate(names) if each == name]
        served.set_adapter(name)
        served(**{key: value[mine] for key, value in sixteen.items()})


def by_gathering(names):
    rows["now"] = torch.tensor([CUSTOMERS.index(name) for name in names], device=device)
    fast(**sixteen)


contenders = {
    "swapping": swapping,
    "PEFT, adapter_names": lambda names: served(**sixteen, adapter_names=names),
    "gathered": by_gathering,
}

# %%
counts, times = [1, 2, 4, 8, 16], {name: [] for name in contenders}
with torch.inference_mode():
    for count in counts:
        names = [CUSTOMERS[number % count] for number in range(16)]
        for name, serve in contenders.items():
            times[name].append(
                lessonkit.latency(serve, [names], repeats=lesson.pick(smoke=2, laptop=5, gpu=30)).p50
            )
ax = lessonkit.plots.curves(
    {name: (counts, values) for name, values in times.items()},
    xlabel="adapters in a batch of 16",
    ylabel="median time (ms)",
)
# %%
for name, values in times.items():
    print(f"{name:<20}", *(f"{value:>7.1f}" for value in values), " ms")

# %% [markdown]
# *Swapping* runs the whole model for each adapter. The others compute W x once for all rows; only PEFT's thin products
# come one adapter after another. (*Gathered* goes up and down: noise.)
#
# ## 10. What goes wrong
#
# (More in [troubleshooting](../../lessons/troubleshooting.md).)
#
# **Adapters with heads won't merge.** `task_type="SEQ_CLS"` makes the head a part of each adapter, and PEFT can't
# merge heads. Hence ours outside.

# %% tags=["nbval-check-output"]
config = LoraConfig(task_type="SEQ_CLS", r=RANK, target_modules=TARGETS)
model = get_peft_model(fresh_model(), config, adapter_name="one")
model.add_adapter("two", config)
try:
    model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "both", combination_type="cat")
except ValueError as error:
    print(error)

# %% [markdown]
# **A PiSSA adapter changes the base for all others.** Loading one takes its start out of W; a second takes out
# another, and the first is wrong from then on:

# %%
import warnings

from peft import PeftModel

model = adapted(fresh_model(), "pissa")
model.base_model.model.classifier.requires_grad_(False)  # A and B alone, for this
model.save_pretrained(lesson.folder / "start")  # before training
train_by_hand(model, adamw(model), seed=0, steps=3)
model.save_pretrained(lesson.folder / "pissa")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # for a moment it loads the start beside the trained one
    model.save_pretrained(
        lesson.folder / "plain", path_initial_model_for_weight_conversion=str(lesson.folder / "start")
    )


# %%
@torch.inference_mode()
def answer_of(model):
    return model.to(device).eval()(**few.to(device)).logits


for kind in ("pissa", "plain"):
    loaded = PeftModel.from_pretrained(fresh_model(), lesson.folder / kind)
    once = (answer_of(loaded) - answer_of(model)).abs().max()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded.load_adapter(lesson.folder / kind, "second")
    twice = (answer_of(loaded) - answer_of(model)).abs().max()
    rank = loaded.peft_config["default"].r
    print(f"{kind:<5} (rank {rank:>2}): off by {once:.0e} when loaded, by {twice:.0e} once a second is there")
    print(*(f"      PEFT warns: {str(each.message).split('. ')[0]}." for each in said[:1]))

# %% [markdown]
# The cure is the last `save_pretrained`: it writes the difference from the start as a plain LoRA of twice the rank,
# which leaves W alone.
#
# **A merged adapter rules out `adapter_names`**, for every row would get it:

# %% tags=["nbval-check-output"]
shelf.set_adapter("wires")
shelf.merge_adapter()
try:
    shelf(**few, adapter_names=["wires"] * len(few["labels"]))
except ValueError as error:
    print(error)
shelf.unmerge_adapter()

# %% [markdown]
# ## 11. On a bigger machine
#
# On a GPU: BERT-base, longer texts, more steps and seeds. The predicted peak of a training step, and what a customer's
# adapter adds to a server:

# %%
from transformers import BertConfig

bert = BertConfig()  # the defaults are BERT-base's
plan = lessonkit.predict_memory(
    bert,
    "lora",
    r=RANK,
    target_modules=tuple(TARGETS),
    batch_size=32,
    sequence_length=128,
    dtype="float32",
    mixed_precision=True,
    device="cuda",
    optimizer="adamw_torch_fused",
    task="sequence-classification",
    num_labels=topics,
)
adapter = bert.num_hidden_layers * len(TARGETS) * RANK * 2 * bert.hidden_size
print(f"BERT-base, 32 texts of 128 tokens: {plan.peak_bytes / 2**30:.1f} GiB; a T4 has 15 GiB")
print(f"each adapter more: {4 * adapter / 2**20:.2f} MiB in float32")

# %% [markdown]
# ## 12. The end
#
# 1. LoRA is one small layer; ours and PEFT's agree to rounding, in training and in merging.
# 2. At the start only B learns. PiSSA and OLoRA move a part of W into A and B, LoftQ a part of the rounding error.
# 3. A beginning is a claim to measure, with seeds, at your own learning rate.
# 4. Adding up A and B brings cross terms; adding up the products doesn't. Merging cost accuracy either way.
# 5. One batch can serve many adapters, with nothing lost.
#
# The next cell keeps your result. At laptop or GPU scale it counts towards the expert examples; the exercises,
# towards understanding them.

# %%
lesson.record(
    adapters_test_accuracy=np.mean(table["own adapter"]),
    multi_task_test_accuracy=np.mean(table["together"]),
    merged_test_accuracy=np.mean(table[winner]),
    largest_difference_float32=max(float(difference) for difference, _ in found["float32"].values()),
)

# %% [markdown]
# **Check yourself.** Why does `cat` need rank 3 r where `linear` needs r? Why is a batch of 16 customers not 16 times
# slower than one of a single customer?
#
# <details><summary>Answers</summary>
#
# A sum of three products of rank r has rank up to 3 r; `linear` keeps rank r, by adding the factors, and pays with
# cross terms. W x is computed once for the whole batch; only the thin products differ from row to row.
#
# </details>
#
# **Next:** [QLoRA, expert](qlora.ipynb), or the [guide to LoRA](../../lessons/lora/guide.md) for the mathematics.
