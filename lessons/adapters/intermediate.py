# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Adapters, intermediate
#
# You will be able to write an adapter yourself, choose its place and size from measurements, keep a shelf of
# adapters for several tasks on one model, and say what they cost when the model answers.
#
# **100 minutes**, four focus sessions (3 minutes are training, on 2 CPU cores) · **intermediate** · before this:
# [LoRA, beginner](../beginner/lora.ipynb) · previous: [prompt tuning, intermediate](prompt-tuning.ipynb) ·
# background: [the guide to adapters](../../lessons/adapters/guide.md) · next:
# [full fine-tuning, expert](../expert/full-fine-tuning.ipynb)
#
# You will
#
# - write the bottleneck module, prove that it starts as almost nothing, and break that start on purpose;
# - measure two placements and three sizes, with seeds, and find out which differences are noise;
# - swap adapters in milliseconds, stack them, and time them against LoRA.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("intermediate/adapters")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
DECODER = lesson.pick(smoke="smollm2", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-1.7B-Instruct")
TEXTS = {  # to train on
    "reuters-r8": lesson.pick(smoke=48, laptop=480, gpu=5485 - 300),
    "bbc-news": lesson.pick(smoke=48, laptop=480, gpu=1300),
    "20newsgroups": lesson.pick(smoke=48, laptop=480, gpu=10000),
}
GRID_TEXTS = lesson.pick(smoke=16, laptop=256, gpu=1600)  # for each model of section 5
SHORT_TEXTS = lesson.pick(smoke=16, laptop=192, gpu=640)  # for short trials
FEW_TEXTS = lesson.pick(smoke=16, laptop=64, gpu=64)  # section 8
VALIDATION = lesson.pick(smoke=32, laptop=300, gpu=300)  # texts to choose by
TEST = lesson.pick(smoke=32, laptop=1000, gpu=8000)  # texts for the last measurement, at most
SEEDS = lesson.pick(smoke=[0], laptop=[0, 1, 2], gpu=[0, 1, 2, 3, 4])
MAX_LENGTH = lesson.pick(smoke=32, laptop=32, gpu=128)  # tokens of each text
BATCH_SIZE = lesson.pick(smoke=16, laptop=8, gpu=16)
LEARNING_RATE = lesson.pick(smoke=3e-3, laptop=3e-3, gpu=1e-3)

# %% [markdown]
# ## 1. Three tasks, one frozen model
#
# Adapters were invented for tasks that arrive one after the other, so we take three: topics of news wires (R8),
# sections of BBC articles, and twenty newsgroups. Test texts are for the last measurement, validation texts, out of
# the training split, for choices.

# %%
import numpy as np
import torch
from transformers import DataCollatorWithPadding

tokenizer = lessonkit.load_tokenizer(MODEL)
collator = DataCollatorWithPadding(tokenizer)


def tokenize(rows):
    return tokenizer(rows["text"], truncation=True, max_length=MAX_LENGTH)


def prepare(name):
    data = lessonkit.load_dataset(name)
    train, test = data["train"].shuffle(seed=0), data["test"].shuffle(seed=0)
    last = range(len(train) - VALIDATION, len(train))
    splits = {"train": train.select(range(TEXTS[name])), "validation": train.select(last)}
    splits["test"] = test.select(range(min(TEST, len(test))))
    return {split: rows.map(tokenize, batched=True) for split, rows in splits.items()}


tasks = {name: prepare(name) for name in TEXTS}
wires = tasks["reuters-r8"]

# %% [markdown]
# Baselines first, on the test texts: always the most frequent class; and counting words (TF-IDF and logistic
# regression), in the first `MAX_LENGTH` tokens, which the model will read, and in whole texts.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def same_tokens(rows):
    return tokenizer.batch_decode(list(rows["input_ids"]), skip_special_tokens=True)


def count_words(train, test, texts=same_tokens):
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100, max_iter=1000))
    return model.fit(texts(train), train["label"]).predict(texts(test))


majority, counted = {}, {}
for name, task in tasks.items():
    majority[name] = lessonkit.majority_baseline(task["train"]["label"], task["test"]["label"])
    labels, counted[name] = np.array(task["test"]["label"]), count_words(task["train"], task["test"])
    whole = count_words(task["train"], task["test"], texts=lambda rows: rows["text"])
    print(f"{name:<13} n = {len(labels):,}: majority {majority[name]:.3f}, ", end="")
    print(
        f"counting words {(counted[name] == labels).mean():.3f} (whole texts {(whole == labels).mean():.3f})"
    )

# %% [markdown]
# ## 2. The module, by hand
#
# An adapter squeezes each token's vector $h$ of width $d$ through a **bottleneck** of width $m$ and adds the result to
# $h$: $h' = h + U\,f(D h + b_D) + b_U$, with $f$ = ReLU. `down` is $D$, `up` is $U$.

# %%
from torch import nn


class Adapter(nn.Module):
    def __init__(self, hidden, bottleneck, std=0.01):
        super().__init__()
        self.down = nn.Linear(hidden, bottleneck)  # weight (bottleneck, hidden)
        self.up = nn.Linear(bottleneck, hidden)  # weight (hidden, bottleneck)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(linear.bias)

    def forward(self, h):  # (batch, tokens, hidden)
        narrow = torch.relu(self.down(h))  # (batch, tokens, bottleneck)
        return h + self.up(narrow)  # (batch, tokens, hidden)


# %% [markdown]
# Now the model around it. Its head reads the mean over a text's tokens, as MiniLM's last training did, in place of
# BERT's usual pooler.

# %%
from transformers import BertForSequenceClassification, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanForSequenceClassification(BertForSequenceClassification):
    def forward(self, input_ids, attention_mask, labels=None, **_):
        states = self.bert(input_ids, attention_mask).last_hidden_state  # (batch, tokens, hidden)
        mask = attention_mask[..., None]
        logits = self.classifier((states * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss, logits, hidden_states=(states,))


def fresh_model(labels=8, seed=0):
    set_seed(seed)  # the same random head each time
    return lessonkit.load_model(
        MODEL,
        MeanForSequenceClassification,
        num_labels=labels,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=lesson.hardware.attention,
    )


# %% [markdown]
# And the adapters into the model. Everything is frozen but the fresh head, and each chosen block's last projection
# gets an adapter behind it: `nn.Sequential` runs one after the other.


# %%
def insert(model, bottleneck, placement, std=0.01):
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    for layer in model.bert.encoder.layer:
        both = [layer.attention.output, layer.output]
        for block in both if placement == "houlsby" else both[1:]:
            block.dense = nn.Sequential(block.dense, Adapter(block.dense.out_features, bottleneck, std))
    return model


# %% [markdown]
# The two classic placements are named after the first authors of their papers.

# %%
frozen, new, data = "frozen", "trained", "hidden states"
columns = {
    "Houlsby": [
        ("x  (batch, tokens, 384)", data),
        ("self-attention, output.dense", frozen),
        ("adapter", new),
        ("+ x, LayerNorm", frozen),
        ("feed-forward 384 → 1,536 → 384", frozen),
        ("adapter", new),
        ("+, LayerNorm", frozen),
        ("(batch, tokens, 384)", data),
    ],
    "inside one adapter": [
        ("h  (batch, tokens, 384)", data),
        ("down  (64, 384)", new, 0.7),
        ("ReLU, (64)", new, 0.5),
        ("up  (384, 64)", new, 0.7),
        ("+ h", new),
        ("(batch, tokens, 384)", data),
    ],
}
houlsby = columns["Houlsby"]
columns = {"Houlsby": houlsby, "Pfeiffer": houlsby[:2] + houlsby[3:], **columns}
around = {"Houlsby": [(0, 3), (3, 6)], "Pfeiffer": [(0, 2), (2, 5)], "inside one adapter": [(0, 4)]}
ax = lessonkit.plots.flow(columns, around=around, title="One of MiniLM's six layers")

# %% [markdown]
# *Houlsby* puts an adapter behind attention **and** behind the feed-forward block, *Pfeiffer* behind the latter only.
# (Papers differ in where they normalise: [guide](../../lessons/adapters/guide.md#where-they-sit).) So one adapter has
# $d m + m$ numbers in `down`, $m d + d$ in `up`: with $m$ = 64, 2 · 384 · 64 + 64 + 384 = 49,600.
#
# **Exercise 1, predict.** How many numbers do *all* adapters of a Houlsby placement with a bottleneck of 16 have in
# MiniLM (six layers, $d$ = 384), the head not counted?

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("count").check(answer)

# %% tags=["nbval-check-output"]
for placement in ("pfeiffer", "houlsby"):
    minilm = lessonkit.load_model("minilm", MeanForSequenceClassification, num_labels=8)
    added = [each for each in insert(minilm, 64, placement).modules() if isinstance(each, Adapter)]
    numbers = sum(p.numel() for each in added for p in each.parameters())
    print(f"{placement}, 64: {len(added)} adapters, {numbers:,} numbers")

# %% [markdown]
# As counted: 6 · 49,600 and 12 · 49,600.
#
# ## 3. It starts as almost nothing
#
# LoRA starts with $B = 0$. Houlsby et al. start *near* the identity instead: small random numbers in both matrices.
# Their standard deviation is 0.01; we expect hidden states within a few per cent of the base model's.

# %%
device = lesson.hardware.device
first = [
    {key: row[key] for key in ("input_ids", "attention_mask", "label")}
    for row in wires["train"].select(range(16))
]
batch = collator(first).to(device)


@torch.inference_mode()
def outputs(model):
    """Logits, and the last layer's hidden states."""
    words = {key: batch[key] for key in ("input_ids", "attention_mask")}
    found = model.to(device).eval()(**words)
    return found.logits, found.hidden_states[-1]


logits, hidden = outputs(fresh_model())
changes = {}
for std in (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0):
    other, moved = outputs(insert(fresh_model(), 64, "pfeiffer", std))
    changes[std] = float((moved - hidden).norm() / hidden.norm())
    print(
        f"std {std:<7} largest change of a logit {(other - logits).abs().max():.0e}, hidden states {changes[std]:.2%}"
    )
assert changes[1e-2] < 0.1  # near the identity

# %% [markdown]
# The product of two matrices changes with the *square* of their size: ten times the start, a hundred times the
# change, until normalisation bounds it. At 0.1 the change is larger than the hidden states themselves: what the base
# model knew is drowned.
#
# Why not exactly zero, as with LoRA's $B$? With $g$ the gradient that arrives, `up`'s is $g \cdot f(Dh)^\top$, and
# `down`'s is ($U^\top g$, where ReLU is open) $\cdot\, h^\top$.
#
# **Exercise 2, predict.** Start with `up` at exactly 0 and `down` random. Which of the two weight matrices gets a
# gradient other than zero from the first batch? `"a"` both, `"b"` only `up`, `"c"` only `down`, `"d"` neither.

# %%
answer = TODO
lesson.exercise("first-gradient").check(answer)

# %% tags=["nbval-check-output"]
starts = {"near zero": (), "up = 0": ("up",), "down = 0": ("down",), "both = 0": ("up", "down")}
for start, zeroed in starts.items():
    model = insert(fresh_model(), 64, "pfeiffer").to(device)
    mine = [each for each in model.modules() if isinstance(each, Adapter)]
    for adapter in mine:
        for name in zeroed:
            nn.init.zeros_(getattr(adapter, name).weight)
    model(**batch).loss.backward()
    arrives = {
        part: any((getattr(each, part).weight.grad != 0).any() for each in mine) for part in ("down", "up")
    }
    print(
        f"{start:<10} a gradient reaches: {', '.join(part for part in arrives if arrives[part]) or 'neither'}"
    )

# %% [markdown]
# With `up` at zero it learns: `up` from the first step, `down` from the second. That is an exact identity, and the
# default of `lessonkit.adapters`. With `down` at zero, every ReLU is shut and passes nothing back: the bottleneck is
# dead for good, and only `up`'s bias can still learn.
#
# And a large start? A short training each, on the same texts; losses are means of the last ten steps.

# %%
from transformers import Trainer, TrainingArguments


def train(model, dataset, epochs=1, learning_rate=LEARNING_RATE, seed=0):
    arguments = TrainingArguments(
        output_dir=str(lesson.folder / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=learning_rate,  # higher than full fine-tuning's: new weights have a long way to go
        warmup_steps=0.1,
        bf16=lesson.hardware.bf16,
        use_cpu=device == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=seed,
    )
    return lessonkit.run(Trainer(model, arguments, train_dataset=dataset, data_collator=collator))


# %%
def last_loss(run):
    return np.mean([loss for _, loss in run.losses[-10:]])


short = wires["train"].select(range(SHORT_TEXTS))
ends = {std: last_loss(train(insert(fresh_model(), 64, "pfeiffer", std), short)) for std in (1e-2, 1e-1, 1.0)}
for std, loss in ends.items():
    print(f"std {std}: loss {loss:.2f}")

# %% [markdown]
# The larger the start, the higher the loss where the same steps on the same texts end.
# [Houlsby et al.](https://arxiv.org/abs/1902.00751) (section 3.6) report the same: worse above 0.01. Here it is one
# run each, so take the order, not the digits.
#
# ## 4. The same from `lessonkit.adapters`
#
# PEFT has no bottleneck adapters, so the course brings its own. It hangs the module on the projection with a *forward
# hook* (a function that PyTorch calls with a module's output), so that the base model's weights keep their names.
# Is it your module? The same weights in both, the same batch, forward and backward, both placements:

# %%
from lessonkit.adapters import adapter_parameters, add_adapter, count_parameters


def my_parameters(model):
    return [p for each in model.modules() if isinstance(each, Adapter) for p in each.parameters()]


def largest(ones, others):
    return max(float((one - other).detach().abs().max()) for one, other in zip(ones, others, strict=True))


for placement in ("pfeiffer", "houlsby"):
    by_hand, library = insert(fresh_model(), 64, placement), fresh_model()
    add_adapter(library, "topics", bottleneck=64, placement=placement)
    theirs = list(adapter_parameters(library, "topics").values())
    with torch.no_grad():
        for parameter, mine in zip(theirs, my_parameters(by_hand), strict=True):
            parameter.copy_(mine)
    results = [model.to(device)(**batch) for model in (by_hand, library)]
    for result in results:
        result.loss.backward()
    gradients = largest([p.grad for p in my_parameters(by_hand)], [p.grad for p in theirs])
    logits = largest([results[0].logits], [results[1].logits])
    print(f"{placement}: largest difference of the logits {logits:.0e}, of the gradients {gradients:.0e}")
    assert max(logits, gradients) < 1e-5

# %% [markdown]
# From here on we use the library's: it can also swap, stack and save.
#
# *Here ends the first focus session.*
#
# ## 5. Where, and how wide?
#
# Four models, each with several seeds (they draw head, adapters and order of texts): three widths at Pfeiffer's
# places, and Houlsby with 16, which has about as many parameters as Pfeiffer with 32. Same texts, same steps. What do
# you expect of nearly sixty times the parameters?


# %%
@torch.inference_mode()
def predict(model, dataset):
    """A class for each text."""
    model.to(device).eval()
    rows, answers = dataset.select_columns(["input_ids", "attention_mask"]), []
    for start in range(0, len(rows), 64):
        inputs = tokenizer.pad(rows[start : start + 64], return_tensors="pt").to(device)
        with torch.autocast(device, torch.bfloat16, enabled=lesson.hardware.bf16):
            answers.append(model(**inputs).logits.float().argmax(-1).cpu())
    return torch.cat(answers).numpy()


def accuracy(answers, dataset):
    return float((answers == np.array(dataset["label"])).mean())


# %%
from IPython.display import clear_output

GRID = {
    "Pfeiffer 4": ("pfeiffer", 4),
    "Pfeiffer 32": ("pfeiffer", 32),
    "Pfeiffer 256": ("pfeiffer", 256),
    "Houlsby 16": ("houlsby", 16),
}
some, validation = wires["train"].select(range(GRID_TEXTS)), wires["validation"]
answers, numbers = {}, {}
for name, (placement, bottleneck) in GRID.items():
    for seed in SEEDS:
        clear_output(wait=True)  # only the last training's line stays
        model = fresh_model(8, seed)
        add_adapter(model, "topics", bottleneck=bottleneck, placement=placement)
        train(model, some, seed=seed)
        answers[name, seed] = predict(model, validation)
    numbers[name] = count_parameters(model).adapters["topics"]

# %%
scores = {name: [accuracy(answers[name, seed], validation) for seed in SEEDS] for name in GRID}
for name, found in scores.items():
    print(
        f"{name:<13}{numbers[name]:>11,} numbers: {np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})"
    )
pfeiffer = [name for name in GRID if name.startswith("Pfeiffer")]
tried = [GRID[name][1] for name in pfeiffer]  # their widths
lines = {f"seed {seed}": (tried, [scores[name][at] for name in pfeiffer]) for at, seed in enumerate(SEEDS)}
ax = lessonkit.plots.curves(lines, xlabel="bottleneck (Pfeiffer)", ylabel="validation accuracy")
ax.set_xscale("log", base=2)
_ = ax.set_xticks(tried, tried)

# %% [markdown]
# Read the spread first: two models that differ by less than a seed does to one of them are not told apart. Text by
# text, for each seed:

# %%
labels = validation["label"]
for one, other in (
    ("Houlsby 16", "Pfeiffer 32"),
    ("Pfeiffer 256", "Pfeiffer 32"),
    ("Pfeiffer 4", "Pfeiffer 32"),
):
    pairs = [
        lessonkit.compare_classifiers(labels, answers[one, seed], answers[other, seed]) for seed in SEEDS
    ]
    found = ", ".join(f"{pair.change:+.3f} ({pair.verdict})" for pair in pairs)
    print(f"{one} against {other}: {found}")

# %% [markdown]
# Place: in this page's build, Houlsby was ahead of equally large Pfeiffer with two seeds of three, by less than a seed
# moves either: a hint, no law. Width: 4 kept up with 32 at a seventh of its numbers, and 256, at the same learning
# rate, led with one seed and fell far behind with two. Wider is not better by itself. How small an adapter may be is
# for exercise 3.
#
# What does a width cost? Move the slider; the plot below needs none.

# %%
from ipywidgets import interact

sizes = {"pfeiffer": 1, "houlsby": 2}  # adapters in a layer
config, base_numbers = model.config, count_parameters(model).base


def adapter_numbers(bottleneck, placement):
    d = config.hidden_size
    return sizes[placement] * config.num_hidden_layers * (2 * d * bottleneck + bottleneck + d)


@interact(bottleneck=(1, 512), placement=list(sizes))
def show(bottleneck=64, placement="pfeiffer"):
    count = adapter_numbers(bottleneck, placement)
    print(
        f"{count:,} numbers, {count / base_numbers:.2%} of the base model, {4 * count / 1e6:.1f} MB on disk"
    )


# %%
widths = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
shares = {each: [100 * adapter_numbers(m, each) / base_numbers for m in widths] for each in sizes}
ax = lessonkit.plots.curves(
    {each: (widths, shares[each]) for each in sizes}, xlabel="bottleneck", ylabel="% of the base model"
)
ax.set(xscale="log", yscale="log")
_ = ax.axhspan(1, 5, color="#999999", alpha=0.2)  # 1 to 5 %

# %% [markdown]
# "Adapters train 1 to 5 %", as tables say (the grey band), is a choice, not a law.
#
# **Exercise 3, run an experiment.** How small may it be? Train an adapter for the *BBC* articles in which, head
# included, **at most 0.25 % of all the model's numbers** are trained, and reach **0.85 on the validation texts**. You
# choose placement, width (or `layers=range(3, 6)`), epochs and rate. Start with this above `answer`:
#
# ```python
# bbc = tasks["bbc-news"]
# yours = fresh_model(labels=5)
# add_adapter(yours, "small", bottleneck=64)
# train(yours, bbc["train"])
# print(count_parameters(yours).trainable_share)
# ```
#
# Then replace `TODO` with `{"model": yours, "predicted": predict(yours, bbc["validation"])}`.

# %%
answer = TODO
lesson.exercise("small").check(answer)

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 6. A shelf of adapters
#
# One base model, three adapters, three heads. Each new task gets its adapter beside the others; only the newest is
# trained. `add_adapter` and `set_active` do not switch the head, so that is up to us.

# %%
import hashlib

from lessonkit.adapters import list_adapters, load_adapter, remove_adapter, save_adapter, set_active


def base_digest(model):
    """Of every byte but adapters and head."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if ".adapters." not in name and not name.startswith("classifier."):
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


# %%
shelf, heads = fresh_model(), {}
untouched = base_digest(shelf)
for seed, (name, task) in enumerate(tasks.items()):
    set_seed(seed)  # for the head
    classes = task["train"].features["label"].num_classes
    shelf.classifier = nn.Linear(shelf.config.hidden_size, classes)  # a fresh head
    shelf.config.num_labels = classes  # the configuration tells how many there are
    add_adapter(shelf, name, bottleneck=64)  # active, trainable; the others rest
    train(shelf, task["train"], epochs=2)
    heads[name] = shelf.classifier
    save_adapter(shelf, lesson.folder / name, name)
print("on the shelf:", ", ".join(list_adapters(shelf)))
print("the base model's bytes are unchanged:", base_digest(shelf) == untouched)


# %%
def switch(model, name):
    set_active(model, name, train=[])  # for use: nothing is trainable
    model.classifier = heads[name]


results = {}
for name, task in tasks.items():
    switch(shelf, name)
    labels, results[name] = task["test"]["label"], predict(shelf, task["test"])
    always = [max(set(task["train"]["label"]), key=task["train"]["label"].count)] * len(labels)
    print(name)
    for other, theirs in {"majority": always, "counting words": counted[name]}.items():
        print(
            "   ", lessonkit.compare_classifiers(labels, results[name], theirs, names=("the adapter", other))
        )

# %% [markdown]
# Each adapter beats the majority class by far more than the interval, and no byte of the base moved: what is learned
# for one task cannot harm another. Counting words is the harder opponent. Where the verdict is *can't tell*, these
# texts show no gain from pretraining. How long does a swap take?

# %%
swap = lessonkit.latency(lambda name: switch(shelf, name), list(heads), repeats=20)
load = lessonkit.latency(lambda _: fresh_model(), [None], warmup=1, repeats=3)
print(f"a swap {swap.p50:.2f} ms, loading a model {load.p50:,.0f} ms")
files = {name: sum(file.stat().st_size for file in (lesson.folder / name).iterdir()) for name in tasks}
print("on disk:", ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in files.items()))

# %% [markdown]
# Another person needs the base model and that small file. Loaded, it must answer alike; removed, leave nothing.

# %%
again = fresh_model(labels=5)
load_adapter(again, lesson.folder / "bbc-news")  # its head too
print("the same answers:", np.array_equal(predict(again, tasks["bbc-news"]["test"]), results["bbc-news"]))
remove_adapter(again, "bbc-news")
print("as before:", torch.equal(outputs(again)[1], hidden), "and", base_digest(again) == untouched)

# %% [markdown]
# ## 7. Stacking
#
# Two active adapters at one place work one after the other: the second reads what the first puts out.
#
# **Exercise 4, write code.** `adapters` is a list of pairs `(down, up)` without biases, the lowest first, `h` one
# token's vector; all are NumPy arrays (`down @ h`, `np.maximum`). Return what comes out of the stack.


# %%
def stacked(h, adapters):
    return TODO


lesson.exercise("stacked").check(stacked)

# %% [markdown]
# `set_active(model, ["first", "second"])` does that. First the tempting way: two adapters that were trained apart.
# What do you expect of R8's, with another task's below it?

# %%
shelf.classifier = heads["reuters-r8"]
for names in (["reuters-r8"], ["bbc-news", "reuters-r8"], ["20newsgroups", "reuters-r8"], []):
    set_active(shelf, names, train=[])
    right = accuracy(predict(shelf, validation), validation)
    print(f"{' below '.join(names) or 'no adapter':<30} accuracy {right:.3f}")

# %% [markdown]
# With another task's adapter below, R8 loses much or all of what its own adapter had gained (the last line: its head
# on the bare base model; of 300 texts, 0.03 may be luck). It learned to read the base model's hidden states, not what
# another adapter makes of them.
#
# [MAD-X](https://arxiv.org/abs/2005.00052) stacks otherwise: below, an adapter learned from *unlabelled* text of a
# language, then frozen; above, a task's adapter *trained on top of it*. Ours learns from wires without labels: the two
# halves of one wire should get vectors more alike than halves of two wires.

# %%
DOMAIN_STEPS, PAIRS = lesson.pick(smoke=2, laptop=20, gpu=200), lesson.pick(smoke=8, laptop=32, gpu=64)
unlabelled = (
    lessonkit.load_dataset("reuters-r8")["train"].shuffle(seed=0).select(range(5485 - VALIDATION))["text"]
)


def text_vectors(model, texts):
    """Means over the tokens, of length 1."""
    inputs = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt").to(
        device
    )
    with torch.autocast(device, torch.bfloat16, enabled=lesson.hardware.bf16):
        states = model.base_model(**inputs).last_hidden_state.float()
    mask = inputs["attention_mask"][..., None]
    return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


# %%
domain = fresh_model().to(device)
add_adapter(domain, "wires", bottleneck=64, train_head=False)
optimizer = torch.optim.AdamW(adapter_parameters(domain, "wires").values(), lr=1e-3)
draws, losses = np.random.default_rng(0), []
for _ in range(DOMAIN_STEPS):
    words = [unlabelled[int(each)].split() for each in draws.choice(len(unlabelled), PAIRS, replace=False)]
    halves = [" ".join(each[: len(each) // 2]) for each in words] + [
        " ".join(each[len(each) // 2 :]) for each in words
    ]
    vectors = text_vectors(domain, halves)
    likeness = vectors[:PAIRS] @ vectors[PAIRS:].T / 0.05  # (first halves, second halves)
    loss = nn.functional.cross_entropy(likeness, torch.arange(PAIRS, device=device))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
print(f"loss, first steps {np.mean(losses[:5]):.2f}, last steps {np.mean(losses[-5:]):.2f}")
_ = save_adapter(domain, lesson.folder / "wires", "wires", head=False)

# %% [markdown]
# Now few labels, where knowing the domain should help most: `FEW_TEXTS` training texts (others for each seed), with
# the domain's adapter below, with the newsgroups' adapter below as a control, and with none.

# %%
stacks = {}
for below in (None, "wires", "20newsgroups"):
    for seed in SEEDS:
        clear_output(wait=True)
        model = fresh_model(8, seed)
        if below:
            load_adapter(model, lesson.folder / below, head=False)
        add_adapter(model, "topics", bottleneck=64)
        set_active(model, [below, "topics"] if below else "topics", train="topics")
        texts = wires["train"].select(range(FEW_TEXTS * seed, FEW_TEXTS * (seed + 1)))
        train(model, texts, epochs=lesson.pick(smoke=1, laptop=4, gpu=10), seed=seed)
        together = predict(model, validation)
        set_active(model, "topics", train=[])  # and with the lower one taken away
        stacks[below, seed] = together, predict(model, validation)

# %%
for below in (None, "wires", "20newsgroups"):
    both, without = zip(*(stacks[below, seed] for seed in SEEDS))
    text = ", ".join(f"{accuracy(each, validation):.3f}" for each in both)
    gone = ", ".join(f"{accuracy(each, validation):.3f}" for each in without)
    print(f"{below or 'nothing'} below: {text}" + (f"; taken away afterwards: {gone}" if below else ""))

# %% [markdown]
# Trained on top, the upper adapter copes with what lies below. But no gain over *nothing below* stands out from what a
# seed does. Telling related texts from others is what MiniLM was made by, from far more text than ours; MAD-X gained
# with languages that its base hardly knew. Take the lower adapter away again, and the upper one is mostly worse: it
# counts on what lies below.
#
# *Here ends the third focus session.*
#
# ## 8. Latency, against a merged LoRA
#
# Training is paid once, answering every day. LoRA can be merged into the weights (as in its lesson); an adapter
# cannot, because of the ReLU in its middle.
#
# **Exercise 5, predict.** A layer of MiniLM takes about $12 d^2$ multiplications per token, one adapter $2 d m$. By
# what share does Pfeiffer with $m$ = 64 increase the multiplications ($d$ = 384)? A number between 0 and 1.

# %%
answer = TODO
lesson.exercise("extra-work").check(answer)

# %% [markdown]
# Is the extra *time* as small? Five models answer the same texts, in float32; the base comes twice, to show this
# machine's noise. The added matrices are random: a product takes as long with any numbers.

# %%
from peft import LoraConfig, TaskType, get_peft_model

lora_config = LoraConfig(
    task_type=TaskType.SEQ_CLS, r=8, target_modules=["query", "value"], init_lora_weights=False
)
contenders = {"base": fresh_model(), "LoRA, apart": get_peft_model(fresh_model(), lora_config)}
contenders["LoRA, merged"] = get_peft_model(fresh_model(), lora_config).merge_and_unload()
for placement in ("pfeiffer", "houlsby"):
    contenders[f"adapters, {placement}"] = model = fresh_model()
    add_adapter(model, "topics", bottleneck=64, placement=placement, init="near-identity")
contenders["base, again"] = contenders["base"]
for model in contenders.values():
    model.to(device).eval()
merged, apart = (outputs(contenders[name])[0] for name in ("LoRA, merged", "LoRA, apart"))
assert torch.allclose(merged, apart, atol=1e-4)  # merging changes where it is computed, not what


# %%
@torch.inference_mode()
def answer_once(name):
    return contenders[name](**inputs)


repeats = lesson.pick(smoke={1: 3, 4: 3}, laptop={1: 100, 16: 20}, gpu={1: 300, 128: 60})
for size, rounds in repeats.items():
    rows = wires["test"].select_columns(["input_ids", "attention_mask"])[:size]
    inputs = tokenizer.pad(rows, return_tensors="pt").to(device)
    found = lessonkit.latency(answer_once, list(contenders), warmup=2 * len(contenders), repeats=rounds)
    times = found.times.reshape(rounds, len(contenders))  # one after the other, round after round
    ratios = times / times[:, :1]
    drawn = np.random.default_rng(0).integers(rounds, size=(1000, rounds))  # a bootstrap of the rounds
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975], axis=0)
    print(f"batches of {size}, {inputs['input_ids'].shape[1]} tokens each")
    for at, name in enumerate(contenders):
        ratio = f"{np.median(ratios[:, at]):.2f} times the base ({low[at]:.2f} to {high[at]:.2f})"
        print(f"  {name:<19}{np.median(times[:, at]):>8.2f} ms, {ratio}")

# %% [markdown]
# For one short text the adapters' extra time is larger than their extra multiplications (3 and 6 %): small products,
# one after the other, keep a processor waiting. LoRA kept apart costs about as much; merged, it is the base. In the
# larger batch look at *base, again* first: what differs by less is noise. The
# [LoRA paper](https://arxiv.org/abs/2106.09685) (Table 1) measured, on a GPU, 20 to 30 % with one text of 128 tokens,
# 2 to 3 % with 32 of 512.
#
# ## 9. What goes wrong
#
# **Full fine-tuning's learning rate.** The adapter starts from nothing and has a long way to go. The short training of
# section 3 again, with the usual start, slower:

# %%
slow = last_loss(train(insert(fresh_model(), 64, "pfeiffer"), short, learning_rate=5e-5))
print(f"learning rate {LEARNING_RATE}: loss {ends[1e-2]:.2f}")
print(f"learning rate {5e-5}: loss {slow:.2f}")

# %% [markdown]
# At 5e-5, a good rate for a whole BERT, it stays near ln 8 = 2.08. See
# [the loss does not fall](../../lessons/troubleshooting.md#the-loss-does-not-fall).
#
# **The wrong head.** Nothing complains when an adapter swaps and the head stays:

# %%
switch(shelf, "reuters-r8")
rows = wires["validation"]
right = accuracy(predict(shelf, rows), rows)
shelf.classifier = heads["20newsgroups"]
print(f"R8 adapter, R8's head: {right:.2f}; newsgroups' head: {accuracy(predict(shelf, rows), rows):.2f}")

# %% [markdown]
# Keep adapter and head together, as `switch` does. **Nothing active, or a name twice:**

# %% tags=["nbval-check-output"]
try:
    add_adapter(shelf, "reuters-r8")
except lessonkit.LessonkitError as error:
    print(error)
set_active(shelf, [])  # the base model: what can still learn?
shelf.classifier.requires_grad_(False)
try:
    train(shelf, short)
except lessonkit.LessonkitError as error:
    print(error)

# %% [markdown]
# With the head left trainable, the second would have run and trained the head alone: print `count_parameters(model)`
# before you train. An optimiser made before `add_adapter` doesn't know the new weights: first the adapter, then
# `Trainer`.
#
# ## 10. A decoder, and a bigger machine
#
# The same call works on a language model; the places are found by the layers' names (here `o_proj` and `down_proj`).

# %%
decoder = lessonkit.load_model(DECODER, dtype="bfloat16")
words = lessonkit.load_tokenizer(DECODER)("An adapter is", return_tensors="pt")
with torch.inference_mode():
    alone = decoder(**words).logits
add_adapter(decoder, "style", bottleneck=64)
with torch.inference_mode():
    print("identity at the start:", torch.equal(decoder(**words).logits, alone))
found = count_parameters(decoder)
print(f"{found.trainable:,} of {found.total:,} numbers to train: {found.trainable_share:.2%}")

# %% [markdown]
# On a GPU with 14 GiB or more, this notebook takes BERT-base, 128 tokens of each text, and SmolLM2-1.7B above. Does
# training fit into a T4's 15 GiB? Predicted:

# %%
from transformers import BertConfig, LlamaConfig

bert = BertConfig(
    num_labels=20, architectures=["BertForSequenceClassification"]
)  # the defaults are BERT-base's
smollm2 = LlamaConfig(
    vocab_size=49152,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=24,
    num_attention_heads=32,
    tie_word_embeddings=True,
    architectures=["LlamaForCausalLM"],
)
for name, config, sizes in (
    ("BERT-base, float32", bert, {"batch_size": 16, "sequence_length": 128, "dtype": "float32"}),
    ("SmolLM2-1.7B, bfloat16", smollm2, {"batch_size": 4, "sequence_length": 512}),
):
    plan = lessonkit.predict_memory(config, "adapters", bottleneck=64, device="cuda", **sizes)
    print(f"{name}: peak {plan.peak_bytes / 2**30:.1f} GiB of 15 GiB")

# %% [markdown]
# ## 11. The end
#
# 1. An adapter is down, non-linearity, up, and a residual, behind a frozen block; it starts as (almost) nothing.
# 2. `up` may start at exactly zero; `down` may not, and neither may be large.
# 3. Place mattered no more than the seed; a narrow adapter kept up, and the widest was the least steady.
# 4. A shelf of adapters swaps in milliseconds on untouched base weights; the head must go with its adapter.
# 5. Adapters trained apart do not simply add up, and they stay in the model: a short answer pays for them.
#
# The next cell keeps your result. At laptop or GPU scale it counts towards *Run all intermediate examples*.

# %%
topics = wires["test"]["label"]
lesson.record(
    test_accuracy=accuracy(results["reuters-r8"], wires["test"]),
    majority_baseline=majority["reuters-r8"],
    word_counting_baseline=accuracy(counted["reuters-r8"], wires["test"]),
    swap_milliseconds=swap.p50,
    test_texts=len(topics),
)

# %% [markdown]
# **Check yourself.** Your service answers single short requests and time counts: adapters or LoRA? You swap an
# adapter, and one task drops to chance while the other is fine: what did you forget?
#
# <details><summary>Answers</summary>
#
# LoRA, merged: it costs exactly what the base model costs. And the head: it belongs to its adapter.
#
# </details>
#
# **Next:** [full fine-tuning, expert](../expert/full-fine-tuning.ipynb). The [guide](../../lessons/adapters/guide.md)
# has the mathematics, and [adapters, expert](../expert/adapters.ipynb) goes on from here: fusion, dropping, one
# formula.
