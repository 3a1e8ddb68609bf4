# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # LoRA, beginner
#
# You will be able to fine-tune a model by training a third of a per cent of it, say what that saves and what it
# doesn't, and switch one model between two tasks in milliseconds.
#
# **75 minutes**, three focus sessions (3 minutes are training, on 2 CPU cores) · **beginner** · before this:
# [full fine-tuning, beginner](full-fine-tuning.ipynb) · background: [the guide to LoRA](../../lessons/lora/guide.md) ·
# next: [prompt tuning, beginner](prompt-tuning.ipynb)
#
# You will
#
# - count LoRA's parameters by hand, and prove that it starts by changing nothing;
# - train it beside full fine-tuning, and compare size, memory, time and score;
# - merge it away, and swap two tasks on one base model.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("beginner/lora")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
TRAIN_TEXTS = lesson.pick(smoke=16, laptop=3200, gpu=5000)  # of 5,485; the last 485 are for validation
TEST_TEXTS = lesson.pick(smoke=16, laptop=2189, gpu=2189)  # of 2,189
MAX_LENGTH = lesson.pick(smoke=12, laptop=20, gpu=128)  # tokens of each text that are read
BATCH_SIZE = lesson.pick(smoke=8, laptop=16, gpu=32)
EPOCHS = lesson.pick(smoke=1, laptop=1, gpu=3)
FULL_RATE = lesson.pick(smoke=2e-4, laptop=2e-4, gpu=5e-5)  # learning rate of full fine-tuning
LORA_RATE = lesson.pick(smoke=5e-3, laptop=5e-3, gpu=5e-4)  # and of LoRA: section 8 tries others
RANK = 8  # section 2
BUDGET = lesson.pick(smoke=13_000, laptop=13_000, gpu=45_000)  # trained parameters, in exercise 4
SEED = 0

# %% [markdown]
# ## 1. The same task, the same baselines
#
# All of this is from the [first lesson](full-fine-tuning.ipynb): eight topics of Reuters wires, the same texts, two
# baselines, a model with a fresh head. One thing differs: on a laptop the model reads 20 tokens of each text, to train
# faster, so its scores are lower than they were. Counting words reads whole texts.

# %%
from collections import Counter

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, set_seed

device, bf16 = lesson.hardware.device, lesson.hardware.bf16
tokenizer = lessonkit.load_tokenizer(MODEL)
collator = DataCollatorWithPadding(tokenizer)


def tokenize(rows):
    return tokenizer(rows["text"], truncation=True, max_length=MAX_LENGTH)


data = lessonkit.load_dataset("reuters-r8")
names = data["train"].features["label"].names
shuffled = data["train"].shuffle(seed=SEED)
train_dataset = shuffled.select(range(TRAIN_TEXTS)).map(tokenize, batched=True)
validation = shuffled.select(range(5000, lesson.pick(smoke=5024, laptop=5485, gpu=5485)))
validation = validation.map(tokenize, batched=True)
test_dataset = data["test"].shuffle(seed=SEED).select(range(TEST_TEXTS)).map(tokenize, batched=True)
print(
    f"{len(train_dataset):,} texts to train on, {len(validation)} for choices, {len(test_dataset):,} to test on"
)

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

majority = Counter(train_dataset["label"]).most_common(1)[0][0]
lazy_answers = [majority] * len(test_dataset)  # the same topic for every text
counting = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100))
counting.fit(train_dataset["text"], train_dataset["label"])


def score(predicted):
    return lessonkit.classification_scores(test_dataset["label"], predicted, names, majority_label=majority)


print("counting words:", score(counting.predict(test_dataset["text"])))


# %%
def fresh_model():
    set_seed(SEED)  # the same random head each time
    return lessonkit.load_model(
        MODEL,
        AutoModelForSequenceClassification,
        num_labels=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=lesson.hardware.attention,  # the fastest way on this machine
    )


# %%
def batches(dataset, size):
    columns = dataset.select_columns(["input_ids", "attention_mask", "label"])
    return DataLoader(columns, batch_size=size, collate_fn=collator)


@torch.inference_mode()
def predict(model, dataset, bf16=bf16):
    """Logits, shape (texts, topics)."""
    model.to(device).eval()
    logits = []
    for batch in batches(dataset, 64):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits.append(model(**batch.to(device)).logits.float().cpu())
    return torch.cat(logits).numpy()


# %% [markdown]
# ## 2. The idea: leave W alone, learn a small change beside it
#
# A layer holds **weight matrices**: tables of numbers. Many of MiniLM's are 384 x 384; such a *W* turns the 384
# numbers that stand for a token into 384 others. Full fine-tuning may change all 147,456 of them; last time,
# each layer moved by a few per cent only. **LoRA** (*low-rank adaptation*,
# [Hu et al. 2021](https://arxiv.org/abs/2106.09685)) **freezes** W (never changes it), and learns the
# change as a product of two thin matrices:
#
# **h = W x + (alpha / r) B A x**
#
# *A* squeezes the 384 numbers of *x* into *r*, and *B* spreads these out to 384 again. What can such a product hold?
# Take r = 1, three numbers for B and four for A:

# %% tags=["nbval-check-output"]
thin_b, thin_a = torch.tensor([[1], [2], [-1]]), torch.tensor([[3, 0, 1, 2]])
print(thin_b @ thin_a)  # @ multiplies matrices
print(f"{thin_b.numel() + thin_a.numel()} numbers stored, {(thin_b @ thin_a).numel()} in the product")

# %% [markdown]
# Every row is a multiple of A's single row: such a table has **rank** 1. With r rows in A, each row of the product
# is a mixture of those r. A table of low rank is cheap to store, but can't be just any table. LoRA bets that
# fine-tuning doesn't need just any change.
#
# **Exercise 1, predict.** MiniLM has 6 layers. Two 384 x 384 matrices of each get a pair A, B with r = 8. The head is
# trained in full: 8 outputs, each with 384 weights and 1 bias. How many numbers are trained in all?

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("count").check(answer)

# %% [markdown]
# PEFT (*parameter-efficient fine-tuning*) is the library for this. The two matrices are called `query` and `value`: they
# belong to *attention*, the part of a layer in which tokens look at each other.

# %%
from peft import LoraConfig, get_peft_model


def lora_config(r=RANK):
    return LoraConfig(
        task_type="SEQ_CLS",  # a classifier: its new head is trained, and saved with A and B
        r=r,  # the rank: rows of A, columns of B
        lora_alpha=2 * r,  # the change counts alpha / r times: twice
        target_modules=["query", "value"],  # the matrices that get a pair A, B
    )


base = fresh_model()
untrained_logits = predict(base, validation)  # for section 3
model = get_peft_model(base, lora_config())  # puts A and B into `base` itself, and freezes the rest

# %% tags=["nbval-check-output"]
for name, parameter in model.named_parameters():
    if parameter.requires_grad and ("layer.0." in name or "classifier" in name):
        print(f"{tuple(parameter.shape)!s:<10} {name.removeprefix('base_model.model.')}")
width, layers = model.config.hidden_size, model.config.num_hidden_layers
by_hand = layers * 2 * (RANK * width + width * RANK) + (8 * width + 8)
print(f"\nby hand {by_hand:,}; counted {sum(p.numel() for p in model.parameters() if p.requires_grad):,}")
model.print_trainable_parameters()

# %% [markdown]
# The first layer's four thin matrices, then the head. `modules_to_save` is PEFT's name for parts that are trained in
# full; each adapter keeps its own copy. (An **adapter** is what is added: here A, B and the head.) To scale:


# %%
def thin_matrices(model):
    """W, A and B of the first layer's query matrix."""
    query = model.base_model.model.bert.encoder.layer[0].attention.self.query
    found = query.weight, query.lora_A["default"].weight, query.lora_B["default"].weight
    return [each.detach().cpu() for each in found]


W, A, B = thin_matrices(model)
shapes = [" x ".join(str(size) for size in each.shape) for each in (W, B, A)]
labels = [f"W\n{shapes[0]}\nfrozen", f"B\n{shapes[1]}\ntrained", f"A\n{shapes[2]}\ntrained"]
ax = lessonkit.plots.matrices(dict(zip(labels, (W, B, A))), signs=("+ 2 ×", "×"))

# %% [markdown]
# Red is above 0, blue below. B is blank: it starts as zeros. And if we choose another rank?

# %%
ranks = [1, 2, 4, 8, 16, 32, 64, 128, 192, 256]
ax = lessonkit.plots.curves(
    {
        "A and B": (ranks, [r * (width + width) for r in ranks]),
        "W itself": (ranks, [width * width for _ in ranks]),
    },
    xlabel="rank r",
    ylabel="numbers for one matrix",
)
for wide in (width, 4096):
    print(f"width {wide:,}, r = 8: A and B are {8 * (wide + wide) / wide**2:.1%} of W")

# %%
from ipywidgets import IntSlider, interact


def trained_at(r):
    count = layers * 2 * r * (width + width) + (8 * width + 8)
    print(f"r = {r}: {count:,} trained, {count / (base.num_parameters()):.2%} of the model")


_ = interact(trained_at, r=IntSlider(8, min=1, max=256, continuous_update=False))

# %% [markdown]
# (The slider needs a running notebook.) The count grows in step with r; at half the width the two thin matrices hold
# as many numbers as W, and nothing is saved. Wider models save more: 4,096 is the width of many language models of 7
# billion parameters.
#
# ## 3. B = 0: nothing has changed yet
#
# If B is zero, so is B A x, and h is exactly what W alone gave. Let's not believe it: we compare the logits from
# before with those of the model that holds the adapters, and the base's weights by a **fingerprint** (SHA-256): change a
# single bit, and it becomes another.

# %%
import hashlib


def fingerprint(model):
    """Of the base's weights alone, adapters left out."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if "lora_" not in name and "modules_to_save" not in name:
            digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


# %% tags=["nbval-check-output"]
BASE = fingerprint(fresh_model())
print("all of B is zero:", not B.any(), "  all of A is zero:", not A.any())
print("the same logits, bit for bit:", (predict(model, validation) == untrained_logits).all())
print("the base's bytes are the same:", fingerprint(model) == BASE)

# %% [markdown]
# A new adapter does nothing at all, so training starts from what the base knows.
#
# **Exercise 2, predict.** The next cell runs one batch forward and backward. A parameter whose gradient is zero stays
# where it is. Which gradients are *not* all zero, with B at zero? `"a"` those of A and of B, `"b"` only those of A,
# `"c"` only those of B, `"d"` neither.

# %%
answer = TODO
lesson.exercise("first-step").check(answer)

# %% tags=["nbval-check-output"]
model.train()
model(**next(iter(batches(train_dataset, BATCH_SIZE))).to(device)).loss.backward()
for part in ("lora_A", "lora_B"):
    gradients = [parameter.grad for name, parameter in model.named_parameters() if part in name]
    print(f"{part}: {len(gradients)} matrices, all gradients zero: {not any(g.any() for g in gradients)}")
frozen = [parameter.grad for parameter in model.parameters() if not parameter.requires_grad]
print(f"frozen: {len(frozen)} parts, with a gradient: {sum(gradient is not None for gradient in frozen)}")
model.zero_grad()

# %% [markdown]
# What A does reaches the loss only through B, and B is zero. So B moves first, and from the second step on A does too.
# If both began at zero, neither would ever move. What is frozen, W among it, has no gradient at all: none is
# computed, none stored.
#
# *Here ends the first focus session.*
#
# ## 4. Train it
#
# The same `Trainer` as last time. Only the learning rate differs: 25 times higher (on a GPU, 10 times); section 8 tries
# others. Expect the loss to start near ln 8 = 2.08, as with any untrained head of eight outputs, and to fall.

# %%
from transformers import Trainer, TrainingArguments


def arguments(learning_rate, epochs=EPOCHS, steps=-1):
    return TrainingArguments(
        output_dir=str(lesson.folder / "trainer"),
        num_train_epochs=epochs,
        max_steps=steps,  # -1: as many as the epochs take
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=learning_rate,
        warmup_steps=0.1,
        bf16=bf16,
        use_cpu=device == "cpu",
        save_strategy="no",
        report_to="none",
        seed=SEED,
    )


trainer = Trainer(model, arguments(LORA_RATE), train_dataset=train_dataset, data_collator=collator)
lora_run = lessonkit.run(trainer)

# %%
lora_answers = predict(model, test_dataset).argmax(-1)
print("LoRA:", score(lora_answers), "\n")
test_labels = test_dataset["label"]
print(
    lessonkit.compare_classifiers(
        test_labels, lora_answers, lazy_answers, names=("LoRA", "always the same topic")
    )
)

# %% [markdown]
# It has learned the task with a fraction of a per cent of the parameters. (Counting words, of whole texts, is as strong
# as it was.) What has become of the matrix that we drew?

# %%
W, A, B = thin_matrices(model)
change = 2 * B.double() @ A.double()  # in 64 bits, so that the rank isn't blurred by rounding
ax = lessonkit.plots.matrices(
    {"the change to W": change, "B": B, "A": A}, signs=("= 2 ×", "×"), title="after training"
)
print("rank of the change:", int(torch.linalg.matrix_rank(change)))
print(f"length of the change, compared with W: {change.norm() / W.double().norm():.1%}")
print("the base's bytes are the same:", fingerprint(model) == BASE)

# %% [markdown]
# Stripes, since all rows are mixtures of eight. B isn't blank any more, and the base is untouched.
#
# ## 5. Side by side with full fine-tuning
#
# **Exercise 3, predict.** LoRA trains 0.34 % of the parameters. How long does the same training take, compared with
# full fine-tuning? `"a"` about 0.34 % of it, `"b"` about a tenth, `"c"` less, but more than a third, `"d"` longer.

# %%
answer = TODO
lesson.exercise("seconds").check(answer)

# %%
full = fresh_model()
trainer = Trainer(full, arguments(FULL_RATE), train_dataset=train_dataset, data_collator=collator)
full_run = lessonkit.run(trainer)
full_answers = predict(full, test_dataset).argmax(-1)
print("full:", score(full_answers))

# %% [markdown]
# Memory needs care: measured on a CPU, the peak is the whole notebook's, with everything that it holds. So
# `predict_memory` follows one such training step alone, as in the first lesson. And we save both models.

# %%
full.save_pretrained(lesson.folder / "full")
model.save_pretrained(lesson.folder / "reuters")  # A, B and the head


def megabytes(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def predicted(config, technique, **options):
    settings = {"dtype": "float32", "mixed_precision": bf16, "optimizer": "adamw_torch_fused"}
    settings |= {"task": "sequence-classification", "num_labels": 8, "target_modules": ["query", "value"]}
    return lessonkit.predict_memory(config, technique, **(settings | options))


# %%
rows = {}
for name, technique, run, trained, folder, answers in (
    ("full", "full", full_run, full, "full", full_answers),
    ("LoRA", "lora", lora_run, model, "reuters", lora_answers),
):
    plan = predicted(full.config, technique, batch_size=BATCH_SIZE, sequence_length=MAX_LENGTH, device=device)
    training_state = plan.gradients_bytes + plan.optimizer_bytes
    rows[name] = {
        "parameters trained": sum(p.numel() for p in trained.parameters() if p.requires_grad),
        "file saved, MB": megabytes(lesson.folder / folder),
        "gradients and AdamW's averages, MiB": training_state / 2**20,
        "peak memory of a step, MiB": plan.peak_bytes / 2**20,
        "seconds of training": run.seconds,
        "test accuracy": score(answers).accuracy,
    }
print(f"{'':<37}{'full':>14}{'LoRA':>14}{'LoRA / full':>14}")
for row, value in rows["full"].items():
    other = rows["LoRA"][row]
    digits = ".3f" if value < 1 else ",.0f" if value > 1e4 else ",.1f"
    print(f"{row:<37}{value:>14{digits}}{other:>14{digits}}{other / value:>14.1%}")

# %%
print(
    lessonkit.compare_classifiers(test_labels, lora_answers, full_answers, names=("LoRA", "full fine-tuning"))
)

# %% [markdown]
# *Hundreds of times smaller:* what is trained, what is saved, and what training keeps for each trained number (its
# gradient and AdamW's two averages). *Smaller, but not hundreds of times:* the peak of memory and the time. The base
# must still be there, each text still goes through all of it, and gradients still come back through its layers. *Close:*
# the score, after equally many steps. (The line above compares one run of each: its interval speaks of other texts, not
# of other seeds.) At this small size, full fine-tuning is affordable too; section 9 shows where it isn't.
#
# **Exercise 4, run an experiment.** How small can it get? Train on 800 texts and reach an accuracy of **0.9 on the
# validation texts** with **at most `BUDGET` trained parameters** (13,000; on a GPU, 45,000), head included. Choose
# rank, learning rate and epochs.
# Take this into the cell, above `answer`:
#
# ```python
# few = train_dataset.select(range(800))
# yours = get_peft_model(fresh_model(), lora_config(r=8))  # too many: see what it prints
# yours.print_trainable_parameters()
# lessonkit.run(Trainer(yours, arguments(LORA_RATE, epochs=1), train_dataset=few, data_collator=collator))
# ```
#
# Then replace `TODO` with `{"model": yours, "predicted": predict(yours, validation).argmax(-1)}`.

# %%
answer = TODO
lesson.exercise("budget").check(answer)

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 6. Merge it
#
# B A has the shape of W. So after training you can add it into W, once, and throw A and B away: **merging**.
#
# **Exercise 5, write code.** Write the function that returns the merged matrix. `weight` (W) has the shape
# (out, in), `lora_a` (r, in), `lora_b` (out, r); all are tensors. `weight.shape[0]` is a size.


# %%
def merged(weight, lora_a, lora_b, alpha):
    return TODO


lesson.exercise("merge").check(merged)

# %% [markdown]
# PEFT does it for all matrices. We load what was saved onto a fresh base and merge that, and expect the same logits,
# up to **rounding**: a float32 keeps about seven digits, and (W + 2BA) x adds up in another order than W x + 2BAx. (In
# float32 on both sides: 16-bit numbers would round far more.)

# %%
from peft import PeftModel

unmerged = PeftModel.from_pretrained(fresh_model(), lesson.folder / "reuters")
plain = PeftModel.from_pretrained(fresh_model(), lesson.folder / "reuters").merge_and_unload()
print("afterwards it is a", type(plain).__name__, f"with {plain.num_parameters():,} parameters")
two_ways = predict(unmerged, validation, bf16=False), predict(plain, validation, bf16=False)
difference = abs(two_ways[0] - two_ways[1]).max()
print(f"largest logit {abs(two_ways[0]).max():.1f}, largest difference {difference:.1e}")
same = (two_ways[0].argmax(-1) == two_ways[1].argmax(-1)).sum()
print(f"the same answer for {same} of {len(validation)} texts")

# %%
TIMED = lesson.pick(smoke=3, laptop=30, gpu=30)  # times that each is run
one_text = next(iter(batches(validation, 1))).to(device)
with torch.inference_mode():
    for name, each in {"not merged": unmerged, "merged": plain, "not merged, again": unmerged}.items():
        timed = lessonkit.latency(lambda batch, model=each: model(**batch), [one_text], repeats=TIMED)
        print(f"one text, {name}: {timed.p50:.1f} ms")

# %% [markdown]
# Merged, the model has the base's shape: A and B take no time any more, and it needs no PEFT. In a model this small that
# may drown in chance: look how far the same model's two measurements lie apart, and the merged one's from both. What is
# lost is the next section.
#
# ## 7. Two tasks, one base, swapped in milliseconds
#
# Kept apart, adapters can be exchanged. We train a second one, for another task: to which of five sections does a BBC
# article belong? One detail: PEFT copies the base's head for each adapter, so **all heads have its shape**. Five topics in a
# head of eight outputs leave three that no label ever names; we cut these off.

# %%
bbc = lessonkit.load_dataset("bbc-news")
bbc_names = bbc["train"].features["label"].names
bbc_train = bbc["train"].shuffle(seed=SEED)
bbc_train = bbc_train.select(range(lesson.pick(smoke=16, laptop=1761, gpu=1761))).map(tokenize, batched=True)
bbc_test = bbc["test"].select(range(lesson.pick(smoke=16, laptop=464, gpu=464))).map(tokenize, batched=True)

second = get_peft_model(fresh_model(), lora_config())
trainer = Trainer(second, arguments(LORA_RATE), train_dataset=bbc_train, data_collator=collator)
lessonkit.run(trainer)
bbc_answers = predict(second, bbc_test)[:, : len(bbc_names)].argmax(-1)
bbc_majority = Counter(bbc_train["label"]).most_common(1)[0][0]
bbc_scores = lessonkit.classification_scores(
    bbc_test["label"], bbc_answers, bbc_names, majority_label=bbc_majority
)
print("BBC:", bbc_scores)
second.save_pretrained(lesson.folder / "bbc")

# %% [markdown]
# Now one base, and both adapters on it.

# %%
shared = PeftModel.from_pretrained(fresh_model(), lesson.folder / "reuters", adapter_name="reuters")
_ = shared.load_adapter(lesson.folder / "bbc", adapter_name="bbc")
shared.to(device)
for task in ("reuters", "bbc"):
    count = sum(p.numel() for name, p in shared.named_parameters() if f".{task}." in name)
    print(f"{task:<8}{count:>8,} parameters, {megabytes(lesson.folder / task):.2f} MB on disk")

# %%
switch = lessonkit.latency(shared.set_adapter, ["bbc", "reuters"], repeats=50)
load = lessonkit.latency(
    lambda folder: lessonkit.load_model(folder, AutoModelForSequenceClassification).to(device),
    [lesson.folder / "full"],
    warmup=1,
    repeats=5,
)
print(f"set_adapter: {switch.p50:.2f} ms. Loading a fully fine-tuned model: {load.p50:.0f} ms")

# %% [markdown]
# Swapping moves no weights: it only says which A, B and head take part. After all those swaps, is each task still done
# as well as right after its training? And the base?

# %%
kept = {"reuters": (test_dataset, names, lora_answers), "bbc": (bbc_test, bbc_names, bbc_answers)}
for task in ("bbc", "reuters", "bbc", "reuters"):
    shared.set_adapter(task, inference_mode=True)  # to answer, not to train on
    dataset, topics, before = kept[task]
    answers = predict(shared, dataset)[:, : len(topics)].argmax(-1)
    right = (answers == dataset["label"]).mean()
    print(f"{task:<8} accuracy {right:.3f}; answers as after training: {(answers == before).mean():.1%}")

# %% tags=["nbval-check-output"]
print("the base's bytes are the same:", fingerprint(shared) == BASE)

# %% [markdown]
# Two tasks, each as good as alone, and not one bit of the base has changed. The same sentence, put to both:

# %%
sentences = [
    "opec ministers agree to cut oil output",
    "shares rose after the airline reported a higher quarterly profit",
    "the striker scored twice in the cup final",
    "the film won three awards at the festival",
]
asked = tokenizer(sentences, padding=True, return_tensors="pt").to(device)
said = {}
for task, (_, topics, _) in kept.items():
    shared.set_adapter(task, inference_mode=True)
    with torch.inference_mode():
        chosen = shared(**asked).logits[:, : len(topics)].argmax(-1).tolist()
    said[task] = [topics[number] for number in chosen]
for sentence, *topics in zip(sentences, *said.values()):
    print(f"{sentence:<66}{topics[0]:<10}{topics[1]}")

# %% [markdown]
# Each adapter knows its own topics alone: the Reuters one has to find a Reuters topic for the striker, too. What does a
# shelf of such tasks take?

# %%
tasks = range(1, 21)
one_adapter, one_model = megabytes(lesson.folder / "bbc"), megabytes(lesson.folder / "full")
ax = lessonkit.plots.curves(
    {
        "a whole model for each task": (tasks, [each * one_model for each in tasks]),
        "one base, an adapter for each task": (tasks, [one_model + each * one_adapter for each in tasks]),
    },
    xlabel="tasks",
    ylabel="MB on disk",
)
_ = ax.set_xticks([1, 5, 10, 15, 20])

# %% [markdown]
# ## 8. What goes wrong
#
# **Full fine-tuning's learning rate, and a head left out.** Short trainings: ours; the same at `FULL_RATE`, and at ten
# times that; and one without `task_type`, so that PEFT doesn't know of a head and freezes it with its random numbers.

# %%
attempts = {
    "ours": (LORA_RATE, "SEQ_CLS"),
    "rate of full": (FULL_RATE, "SEQ_CLS"),
    "ten times that": (10 * FULL_RATE, "SEQ_CLS"),
    "no task_type": (LORA_RATE, None),
}
losses = {}
for name, (learning_rate, task_type) in attempts.items():
    config = lora_config()
    config.task_type = task_type
    attempt = get_peft_model(fresh_model(), config)
    short = arguments(learning_rate, steps=lesson.pick(smoke=2, laptop=40, gpu=40))
    run = lessonkit.run(Trainer(attempt, short, train_dataset=train_dataset, data_collator=collator))
    right = (predict(attempt, validation).argmax(-1) == validation["label"]).mean()
    trained = sum(p.numel() for p in attempt.parameters() if p.requires_grad)
    print(f"{name:<15}{trained:>8,} trained at {learning_rate:g}, validation accuracy {right:.2f}")
    losses[name] = tuple(zip(*run.curve(20)))

# %%
ax = lessonkit.plots.curves(losses, xlabel="step", ylabel="training loss")

# %% [markdown]
# Ours falls soonest. At full fine-tuning's rate the loss hardly moves, at ten times that it does, if slowly for so few
# steps. (On a GPU, ours *is* ten times that.) The cures: begin LoRA at ten times full fine-tuning's rate, and try higher
# ones too; and count what is trained: in the last attempt, the head's numbers are missing.
#
# **Target names of another model.** `q_proj` is what Llama and SmolLM2 call their query matrix.

# %% tags=["nbval-check-output"]
try:
    get_peft_model(fresh_model(), LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))
except ValueError as error:
    print(error)
linear = [name for name, module in fresh_model().named_modules() if isinstance(module, torch.nn.Linear)]
print("\nthis model's:", sorted({name.split(".")[-1] for name in linear}))

# %% [markdown]
# **A loaded adapter that won't train.** `from_pretrained` loads for use, not for training, and freezes everything.

# %% tags=["nbval-check-output"]
frozen = PeftModel.from_pretrained(fresh_model(), lesson.folder / "reuters")
try:
    lessonkit.run(Trainer(frozen, arguments(LORA_RATE), train_dataset=train_dataset, data_collator=collator))
except lessonkit.LessonkitError as error:
    print(error)

# %% [markdown]
# The cure: `PeftModel.from_pretrained(..., is_trainable=True)`. More messages, among them an adapter on a base of
# another size: [troubleshooting](../../lessons/troubleshooting.md#adapters-and-quantised-models).
#
# ## 9. On a bigger machine
#
# On a GPU this notebook takes BERT-base, 128 tokens and three epochs; the code is the same. What will that need of the 15
# GiB of a T4, and what would a language model of 1.7 billion parameters? The prediction needs shapes, no weights.

# %%
from transformers import BertConfig, LlamaConfig

smollm2 = LlamaConfig(  # SmolLM2-1.7B
    vocab_size=49152,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=24,
    num_attention_heads=32,
    tie_word_embeddings=True,
)
step = {"batch_size": 4, "sequence_length": 256, "task": "causal-lm", "target_modules": ["q_proj", "v_proj"]}
plans = {
    "BERT-base": (BertConfig(), {"batch_size": 32, "sequence_length": 128}),
    "SmolLM2-1.7B": (smollm2, step),
}
for name, (config, options) in plans.items():
    for technique in ("full", "lora"):
        plan = predicted(config, technique, device="cuda", mixed_precision=False, **options)
        print(f"{name:<14}{technique:<6}{plan.peak_bytes / 2**30:>6.1f} GiB of 15")

# %% [markdown]
# BERT-base fits either way. The larger model fits with LoRA alone: that is what LoRA is for.
#
# ## 10. The end
#
# 1. LoRA freezes W and learns a change B A of low rank beside it: r x (in + out) numbers instead of in x out.
# 2. B starts at zero, so a fresh adapter changes nothing.
# 3. What is trained, kept for training and saved shrinks hundreds of times; time and the whole peak by much less.
# 4. Merged, it is an ordinary model, equal up to rounding.
# 5. Not merged, one base serves many tasks, swapped in milliseconds.
#
# The next cell keeps your result. At laptop or GPU scale it ticks *Run beginner LoRA example*: the notebook has just
# run to its end on your machine.

# %%
lesson.record(
    test_accuracy=score(lora_answers).accuracy,
    full_fine_tuning_accuracy=score(full_answers).accuracy,
    majority_baseline=score(lazy_answers).accuracy,
    bbc_accuracy=bbc_scores.accuracy,
    trained_parameters=by_hand,
    swap_milliseconds=switch.p50,
)

# %% [markdown]
# **Check yourself.** Why does LoRA save so much less memory than parameters? You serve one task only, at the highest
# speed: do you merge?
#
# <details><summary>Answers</summary>
#
# The frozen weights must be there, and so must the activations that the gradients need on their way back through the
# layers. Only gradients and AdamW's averages go. And yes: merged, it is as fast as the base; you would keep it apart to
# swap it.
#
# </details>
#
# **Next:** [prompt tuning](prompt-tuning.ipynb), which leaves even more alone.
