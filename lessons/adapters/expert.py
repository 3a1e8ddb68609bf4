# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Adapters, expert
#
# You will be able to write LoRA, prefix tuning and adapters as one formula, fuse adapters with your own attention
# layer, and drop those that a model can do without.
#
# **120 minutes**, five focus sessions (5 minutes are training, on 2 CPU cores) · **expert** · before this:
# [adapters](../intermediate/adapters.ipynb), [LoRA](../intermediate/lora.ipynb) and
# [prompt tuning](../intermediate/prompt-tuning.ipynb), intermediate · background:
# [the guide to adapters](../../lessons/adapters/guide.md) · previous: [QLoRA, expert](qlora.ipynb)
#
# You will
#
# - prove on real layers that three techniques are one formula;
# - write AdapterFusion, and set it beside averaging;
# - measure what dropping adapters saves.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("expert/adapters")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
TRAIN_TEXTS = lesson.pick(smoke=48, laptop=1300, gpu=1300)  # of each task
VALIDATION_TEXTS = lesson.pick(smoke=32, laptop=250, gpu=250)  # of each task, for choices
TEST_TEXTS = lesson.pick(smoke=32, laptop=400, gpu=2000)  # of each task, or all it has
MAX_LENGTH = lesson.pick(smoke=24, laptop=24, gpu=128)  # tokens of each text that are read
STEPS = lesson.pick(smoke=2, laptop=80, gpu=300)  # for each task's adapter
SHORT_STEPS = lesson.pick(smoke=2, laptop=20, gpu=80)  # where places are compared: each text is seen once
FUSION_STEPS = lesson.pick(smoke=2, laptop=60, gpu=240)
SEEDS = lesson.pick(smoke=[0], laptop=[0, 1], gpu=[0, 1, 2])
BATCH_SIZE, WIDTH = 16, 64
RATES = lesson.pick(smoke=[3e-3], laptop=[1e-3, 3e-3], gpu=[3e-4, 1e-3])  # where places are compared
LEARNING_RATE = RATES[-1]
FUSION_RATE = 3e-4  # its matrices are large, and V begins where it should be

# %% [markdown]
# ## 1. Three tasks, one head
#
# Reuters wires (8 topics), BBC articles (5) and 20 newsgroups, as in [LoRA, expert](lora.ipynb). One head has outputs
# for all 33 topics, so a text may arrive and *nobody says which task it belongs to*.

# %% tags=["nbval-check-output"]
import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import DataCollatorWithPadding

tokenizer = lessonkit.load_tokenizer(MODEL)
collator = DataCollatorWithPadding(tokenizer)
sets = {"wires": "reuters-r8", "articles": "bbc-news", "posts": "20newsgroups"}
raw = {task: lessonkit.load_dataset(name) for task, name in sets.items()}
columns, names = {}, []  # each task's outputs, and what they stand for
for task, rows in raw.items():
    labels = rows["train"].features["label"].names
    columns[task] = slice(len(names), len(names) + len(labels))
    names += [f"{task}: {label}" for label in labels]
    print(f"{task:<9} outputs {columns[task].start:>2} to {columns[task].stop - 1}")


# %%
def tokenized(task, split, start, count):
    rows = raw[task][split].shuffle(seed=0)
    rows = rows.select(range(start, min(start + count, len(rows))))
    texts = tokenizer(list(rows["text"]), truncation=True, max_length=MAX_LENGTH, return_token_type_ids=False)
    labels = [columns[task].start + label for label in rows["label"]]
    return Dataset.from_dict({**texts, "label": labels, "text": rows["text"]})


train_set = {task: tokenized(task, "train", 0, TRAIN_TEXTS) for task in sets}
validation = {task: tokenized(task, "train", TRAIN_TEXTS, VALIDATION_TEXTS) for task in sets}
test = {task: tokenized(task, "test", 0, TEST_TEXTS) for task in sets}
everything = {
    split: concatenate_datasets(list(each.values())) for split, each in (("train", train_set), ("test", test))
}

# %% [markdown]
# Baselines: the most frequent topic, and counting words in the same first tokens.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def same_tokens(rows):
    return tokenizer.batch_decode(list(rows["input_ids"]), skip_special_tokens=True)


labels = np.array(everything["test"]["label"])
counting = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100, max_iter=1000))
counting.fit(same_tokens(everything["train"]), everything["train"]["label"])
counted = counting.predict(same_tokens(everything["test"]))
lazy = lessonkit.majority_baseline(everything["train"]["label"], labels)
print(
    f"n = {len(labels):,}, {len(names)} topics: majority {lazy:.3f}, counting words {(counted == labels).mean():.3f}"
)

# %% [markdown]
# ## 2. One formula
#
# [He et al.](https://arxiv.org/abs/2110.04366) (2022) write three techniques as one change to what a frozen module
# puts out, $h$ (vectors are rows):
#
# $$h \leftarrow h + s \cdot f(x W_{down})\, W_{up}$$
#
# | | $x$ | $f$ | $s$ |
# |---|---|---|---|
# | adapter | the module's own output $h$ | ReLU | 1 |
# | parallel adapter | the module's *input* | ReLU | 1, or a constant such as 4 |
# | LoRA | the input of one matrix | none | alpha / r |
# | prefix tuning | the input of attention | softmax | a gate, different for each token |
#
# More than an analogy? One function computes all, beside the libraries' own modules, on a real text.

# %%
from torch import nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanForSequenceClassification(BertForSequenceClassification):
    """The head reads the mean of the tokens' vectors, as in the intermediate lesson."""

    outputs = slice(0, None)  # those that the loss compares: all, or one task's

    def forward(self, input_ids, attention_mask, labels=None, **_):
        states = self.bert(input_ids, attention_mask).last_hidden_state  # (batch, tokens, hidden)
        mask = attention_mask[..., None]
        logits = self.classifier((states * mask).sum(1) / mask.sum(1))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, self.outputs].float(), labels - self.outputs.start)
        return SequenceClassifierOutput(loss, logits)


# %%
def fresh_model(seed=0):
    set_seed(seed)  # the same random head each time
    return lessonkit.load_model(
        MODEL,
        MeanForSequenceClassification,
        num_labels=len(names),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=lesson.hardware.attention,
    )


# %%
from peft import LoraConfig, get_peft_model

from lessonkit.adapters import add_adapter


def change(x, W_down, W_up, f=lambda z: z, s=1.0, b_down=0.0):
    return s * f(x @ W_down + b_down) @ W_up


torch.set_grad_enabled(False)  # until we train
model = fresh_model().eval()
text = validation["wires"][1]
states = model.bert(torch.tensor([text["input_ids"]]), output_hidden_states=True).hidden_states
x = states[2][0]  # what comes into layer 2: (tokens, hidden)

# %%
differences = {}
add_adapter(model, "any", bottleneck=8, init="near-identity")
adapter = model.bert.encoder.layer[2].output.dense.adapters["any"]
ours = x + change(x, adapter.down.weight.T, adapter.up.weight.T, torch.relu)
differences["adapter"] = (ours - adapter(x)).abs().max()

wrapped = get_peft_model(fresh_model(), LoraConfig(r=8, target_modules=["query"], init_lora_weights=False))
lora = wrapped.base_model.model.bert.encoder.layer[2].attention.self.query
A, B = lora.lora_A["default"].weight, lora.lora_B["default"].weight
ours = lora.base_layer(x) + change(x, A.T, B.T, s=lora.scaling["default"])
differences["LoRA"] = (ours - lora(x)).abs().max()

# %% [markdown]
# Prefix tuning puts keys $P_k$ and values $P_v$ in front of the text's own. With $C$ for the text, a softmax over both
# groups of keys splits into one over each:
#
# $$\mathrm{Attn}(xW_q, [P_k; CW_k], [P_v; CW_v]) = (1 - \lambda)\, \mathrm{Attn}(xW_q, CW_k, CW_v) +
# \lambda\, \mathrm{softmax}(x W_q P_k^\top) P_v$$
#
# where $\lambda$ is the share of the exponentials that belongs to the prefix (scores are divided by $\sqrt{d_{head}}$,
# as always). The right part is our formula: $W_{down} = W_q P_k^\top$, $W_{up} = P_v$, $f$ = softmax, $s = \lambda$.
# Only $h$ itself is turned down, by $1 - \lambda$.
#
# **Exercise 1, write code.** For one token: `prefix` are its scores with the prefix, `text` those with the text, both
# tensors. Return $\lambda$. Scores may be large, such as 300.

# %%
TODO = lessonkit.TODO


def gate(prefix, text):
    return TODO


lesson.exercise("gate").check(gate)

# %% [markdown]
# $\lambda = a / (a + b)$, of two sums of exponentials, is a sigmoid of $\log a - \log b$: two `logsumexp` do it
# without overflow. One head of layer 2, against PyTorch's own attention over prefix and text:

# %%
attention = model.bert.encoder.layer[2].attention.self
size = attention.attention_head_size
q, k, v = (getattr(attention, part)(x)[:, :size] for part in ("query", "key", "value"))  # head 0
torch.manual_seed(0)
P_k, P_v = k.std() * torch.randn(8, size), v.std() * torch.randn(8, size)
whole = F.scaled_dot_product_attention(q[None], torch.cat([P_k, k])[None], torch.cat([P_v, v])[None])[0]

W_q, b_q = attention.query.weight[:size].T, attention.query.bias[:size]
W_down, b_down = W_q @ P_k.T / size**0.5, b_q @ P_k.T / size**0.5  # (hidden, 8): eight bottleneck units
lam = (x @ W_down + b_down).logsumexp(-1) - (q @ k.T / size**0.5).logsumexp(-1)
lam = lam.sigmoid()[:, None]  # (tokens, 1)
h = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
ours = (1 - lam) * h + change(x, W_down, P_v, lambda z: z.softmax(-1), lam, b_down)
differences["prefix tuning"] = (ours - whole).abs().max()
for name, difference in differences.items():
    print(f"{name:<14} largest difference from the library {difference:.0e}")
assert max(differences.values()) < 1e-4
print(f"the gate, over this text's tokens: {lam.min():.2f} to {lam.max():.2f}")

# %% [markdown]
# Equal to rounding: a prefix of 8 tokens is an adapter of width 8 in each head. Besides the gate, what differs is $f$.
# The same $x W_{down}$, tokens by units, under all three:

# %%
narrow = x @ W_down + b_down
pictures = {
    "LoRA\nno f": narrow,
    "adapter\nReLU": narrow.relu(),
    "prefix\nsoftmax": narrow.softmax(-1),
}
ax = lessonkit.plots.matrices(
    {name: each.numpy() for name, each in pictures.items()}, title="What f lets through"
)

# %% [markdown]
# LoRA passes everything (blue is negative), ReLU cuts off what is negative, softmax makes units compete: a token's add
# up to 1, and the gate decides how much that 1 counts.
#
# Does it hold for a whole model, with mask, rotary positions and shared keys? Transformers lets us register an
# attention function. Ours never mixes prefix and text in one softmax; PEFT's prefix tuning of SmolLM2 must not notice.

# %%
from peft import PrefixTuningConfig
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.masking_utils import eager_mask

PREFIX = 8


def in_two_parts(module, query, key, value, attention_mask, scaling, **_):
    repeats = query.shape[1] // key.shape[1]  # several heads share their keys and values
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.mT * scaling + attention_mask  # (batch, heads, tokens, prefix + tokens)
    prefix, text = scores[..., :PREFIX], scores[..., PREFIX:]
    lam = (prefix.logsumexp(-1) - text.logsumexp(-1)).sigmoid()[..., None]
    h = text.softmax(-1) @ value[:, :, PREFIX:]
    h = (1 - lam) * h + lam * prefix.softmax(-1) @ value[:, :, :PREFIX]
    return h.transpose(1, 2).contiguous(), None


AttentionInterface.register("in_two_parts", in_two_parts)
AttentionMaskInterface.register("in_two_parts", eager_mask)

# %%
words = lessonkit.load_tokenizer("smollm2")(
    "Attention can be taken apart, and put together.", return_tensors="pt"
)
decoder = lessonkit.load_model("smollm2", AutoModelForCausalLM, dtype="float32", attn_implementation="sdpa")
alone = decoder(**words).logits
set_seed(0)
prefixed = get_peft_model(decoder, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=PREFIX))
library = prefixed(**words).logits
decoder.set_attn_implementation("in_two_parts")
ours = prefixed(**words).logits
print(f"the prefix changes the logits by up to {(library - alone).abs().max():.1f}")
print(f"ours differs from PEFT's by up to       {(ours - library).abs().max():.0e}")
assert (ours - library).abs().max() < 1e-2
del decoder, prefixed

# %% [markdown]
# Thirty layers, the same logits to rounding: prefix tuning *is* a gated adapter inside attention. (With rotary
# positions, $W_{down}$ varies by place.)
#
# *Here ends the first focus session.*
#
# ## 3. Parallel against sequential
#
# An adapter that reads the module's *input* is *parallel*: it doesn't wait for the block. He et al. found it better
# than the sequential one.

# %%
torch.set_grad_enabled(True)
device = lesson.hardware.device


class Change(nn.Module):
    """s f(x W_down) W_up, with biases; zero at the start."""

    def __init__(self, hidden, width, f, s):
        super().__init__()
        self.down, self.up = nn.Linear(hidden, width), nn.Linear(width, hidden)
        self.f, self.s = f, s
        for each in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(each)

    def forward(self, x):
        return self.s * self.up(self.f(self.down(x)))


# %%
def insert(model, place=None, f=F.relu, s=1.0):
    """A Change behind or beside each feed-forward block; the rest is frozen, but for the head."""
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    for layer in model.bert.encoder.layer if place else ():
        layer.change = new = Change(model.config.hidden_size, WIDTH, f, s)
        if place == "sequential":  # after the block's last projection
            layer.output.dense.register_forward_hook(lambda dense, inputs, h, new=new: h + new(h))
        else:  # the block ends in LayerNorm(h + x), so what we add to x is added to h
            layer.output.register_forward_pre_hook(
                lambda block, inputs, new=new: (inputs[0], inputs[1] + new(inputs[1]))
            )
    return model


# %% [markdown]
# Parallel against the layer written out, sequential against `lessonkit.adapters`:


# %%
@torch.no_grad()
def check_places():
    parallel = insert(fresh_model(), "parallel", s=4.0).eval()
    layer = parallel.bert.encoder.layer[2]
    nn.init.normal_(layer.change.up.weight, std=0.02)
    W_down, W_up = layer.change.down.weight.T, layer.change.up.weight.T
    h = layer.output.dense(layer.intermediate(x))  # what the frozen block puts out
    by_hand = layer.output.LayerNorm(h + change(x, W_down, W_up, torch.relu, s=4.0) + x)
    found = {"parallel": (layer.output(layer.intermediate(x), x) - by_hand).abs().max()}

    sequential, library = insert(fresh_model(), "sequential").eval(), fresh_model().eval()
    add_adapter(library, "any", bottleneck=WIDTH)
    for one, other in zip(sequential.bert.encoder.layer, library.bert.encoder.layer):
        nn.init.normal_(one.change.up.weight, std=0.02)
        other.output.dense.adapters["any"].load_state_dict(one.change.state_dict())
    few = {key: torch.tensor([text[key]]) for key in ("input_ids", "attention_mask")}
    found["sequential"] = (sequential(**few).logits - library(**few).logits).abs().max()
    return found


for name, difference in check_places().items():
    print(f"{name:<11} largest difference {difference:.0e}")
    assert difference < 1e-4

# %% [markdown]
# Now four points of the space, and the head alone, on the hardest task, the posts: the same width, texts and steps. No
# text comes twice, so each loss is one on new texts. *No f* is LoRA's choice, for a whole block. Which do you expect
# in front?

# %%
from transformers import Trainer, TrainingArguments


def optimizer_for(model, rate):
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    fusion = [name for name in trained if ".fusion." in name]  # section 5
    groups = [{"params": [trained.pop(name) for name in fusion], "lr": FUSION_RATE, "weight_decay": 0.01}]
    groups.append({"params": list(trained.values()), "lr": rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups)


# %%
def train(model, dataset, steps=STEPS, seed=0, rate=LEARNING_RATE):
    arguments = TrainingArguments(
        output_dir=str(lesson.folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        warmup_steps=0.1,
        bf16=lesson.hardware.bf16,
        use_cpu=device == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=seed,
    )
    first, last = min(dataset["label"]), max(dataset["label"])
    own = [place for place in columns.values() if place.start <= first and last < place.stop]
    model.outputs = own[0] if own else slice(0, None)  # a task's texts: its topics alone compete
    optimizers = optimizer_for(model, rate), None
    trainer = Trainer(model, arguments, train_dataset=dataset, data_collator=collator, optimizers=optimizers)
    run = lessonkit.run(trainer)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # else it would stay in bf16
    return run


# %%
from IPython.display import clear_output

ARMS = {
    "head alone": {},
    "sequential": {"place": "sequential"},
    "parallel": {"place": "parallel"},
    "parallel, s = 4": {"place": "parallel", "s": 4.0},
    "parallel, no f": {"place": "parallel", "f": nn.Identity()},
}
late = {}
for name, options in ARMS.items():
    for rate in RATES:
        for seed in SEEDS:
            clear_output(wait=True)  # only the last training's line stays
            run = train(insert(fresh_model(seed), **options), train_set["posts"], SHORT_STEPS, seed, rate)
            late[name, rate, seed] = np.mean([loss for _, loss in run.losses[-10:]])

# %%
print("loss, mean of the last 10 steps; one number a seed")
print(f"{'':<16}", *(f"   rate {rate:<9g}" for rate in RATES))
for name in ARMS:
    cells = [" ".join(f"{late[name, rate, seed]:.3f}" for seed in SEEDS) for rate in RATES]
    print(f"{name:<16}", *(f"   {cell:<14}" for cell in cells))

# %% [markdown]
# Rows that differ less than one row's seeds are not told apart. On the machine that built this page, *no f* is in
# front at both rates, and *parallel* nowhere clearly ahead of *sequential*. AdamW's steps don't shrink with the
# gradient, so *s = 4* makes each count fourfold, like a higher rate: too high, for one seed. And so few steps say who
# is quick; He et al. compared where trainings end.
#
# *Here ends the second focus session.*
#
# ## 4. Three skills, and averaging them
#
# An adapter for each task, trained with the head, whose other tasks' rows stay out of the loss. Then the trained rows
# are joined. All three start from the same random `down`.

# %%
from lessonkit.adapters import adapter_parameters, load_adapter, save_adapter, set_active

heads = {}
for task in sets:
    model = fresh_model()
    add_adapter(model, task, bottleneck=WIDTH)
    train(model, train_set[task])
    save_adapter(model, lesson.folder / task, task)
    heads[task] = model.classifier.cpu().state_dict()
joined = {
    part: torch.cat([heads[task][part][place] for task, place in columns.items()])
    for part in ("weight", "bias")
}


def shelf():
    """A fresh model with the three trained adapters, none of them active or trainable, and the joined head."""
    model = fresh_model()
    for task in sets:
        load_adapter(model, lesson.folder / task, head=False)
    set_active(model, [], train=[])
    model.classifier.load_state_dict(joined)
    return model


# %%
@torch.inference_mode()
def logits_of(model, dataset):
    """(texts, outputs)"""
    model.to(device).eval()
    rows, found = dataset.select_columns(["input_ids", "attention_mask"]), []
    for start in range(0, len(rows), 64):
        inputs = tokenizer.pad(rows[start : start + 64], return_tensors="pt").to(device)
        with torch.autocast(device, torch.bfloat16, enabled=lesson.hardware.bf16):
            found.append(model(**inputs).logits.float().cpu())
    return torch.cat(found)


def answers(logits, task=None):
    """The highest output; of a task's own only, if we tell which task it is."""
    place = columns[task] if task else slice(0, len(names))
    return logits[:, place].argmax(-1).numpy() + place.start


def validated(model, task):
    """Accuracy on a task's validation texts, told the task."""
    right = answers(logits_of(model, validation[task]), task) == np.array(validation[task]["label"])
    return float(right.mean())


# %% [markdown]
# Now average the three adapters' *weights*, number by number, into one.


# %%
def averaged(model, name="average"):
    """Adds an adapter that is the mean of the three."""
    parts = [adapter_parameters(model, task) for task in sets]
    means = {key: torch.stack([each[key].detach() for each in parts]).mean(0) for key in parts[0]}
    add_adapter(model, name, bottleneck=WIDTH)
    for key, parameter in adapter_parameters(model, name).items():
        parameter.data.copy_(means[key])
    return model


model = averaged(shelf())
for active in (*sets, "average", None):
    set_active(model, [active] if active else [], train=[])
    found = {task: f"{validated(model, task):.3f}" for task in sets}
    print(f"{active or 'no adapter':<11}", found)

# %% [markdown]
# On 250 texts, differences below about 0.06 may be noise. On the machine that built this page, another task's adapter
# is never better than none, and mostly worse by more than that. The average, a third of each, is near none or above,
# and never above a task's own.
#
# **Exercise 2, predict.** Shuffle a trained adapter's 64 bottleneck units: rows of `down` (and its bias) and columns
# of `up` in the same order. Then average it with the original. `"a"` Shuffling changes the adapter's answers. `"b"` It
# changes neither its answers nor what the average computes. `"c"` Its answers stay, but the average is another
# adapter.

# %%
answer = TODO
lesson.exercise("shuffled").check(answer)


# %%
@torch.no_grad()
def shuffle(adapter):
    order = torch.randperm(adapter.down.out_features, generator=torch.Generator().manual_seed(0))
    adapter.down.weight.copy_(adapter.down.weight[order])
    adapter.down.bias.copy_(adapter.down.bias[order])
    adapter.up.weight.copy_(adapter.up.weight[:, order])


with torch.no_grad():
    model = shelf()
    one = model.bert.encoder.layer[2].output.dense.adapters["posts"]
    before, weights = one(x) - x, {key: each.clone() for key, each in one.state_dict().items()}
    shuffle(one)
    print(f"changed by shuffling: {(one(x) - x - before).norm() / before.norm():.0e} of what it adds")
    one.load_state_dict({key: (each + weights[key]) / 2 for key, each in one.state_dict().items()})
    print(f"changed by averaging with itself, unshuffled: {(one(x) - x - before).norm() / before.norm():.0%}")

# %% [markdown]
# The same function, yet its weights no longer average to themselves: units have no fixed order. Average weights only
# where units still correspond, as after a common start. Averages of *outputs* have no such trouble.
#
# ## 5. AdapterFusion: whom to listen to
#
# [Pfeiffer et al.](https://arxiv.org/abs/2005.00247) (2021) leave the adapters as they are, and learn an attention
# over their outputs, in each layer, for each token. $h$ is what the frozen block puts out, $z_n$ what adapter $n$
# makes of it (now vectors are columns):
#
# $$s = \mathrm{softmax}_n\big((Q h) \cdot (K z_n)\big), \qquad o = \sum_n s_n V z_n$$
#
# **Exercise 3, write code.** For one token: `h` (d), `z` (N, d), and `Q`, `K`, `V` (d, d), all tensors. Return $o$
# (d).


# %%
def fuse(h, z, Q, K, V):
    return TODO


lesson.exercise("fuse").check(fuse)


# %% [markdown]
# The layer, for all tokens. With $K$ on the query's side, and $V$ behind the sum, there are fewer products.


# %%
class Fusion(nn.Module):
    """Attention over the outputs of frozen adapters."""

    def __init__(self, adapters, hidden):
        super().__init__()
        # a plain list: as modules they belong to the model's own stacks, and would count twice here
        self.adapters = [each.requires_grad_(False) for each in adapters]
        self.query = nn.Parameter(torch.randn(hidden, hidden) / hidden**0.5)
        self.key = nn.Parameter(torch.zeros(hidden, hidden))
        self.value = nn.Parameter(torch.zeros(hidden, hidden))  # V = identity + value

    def forward(self, h):  # (batch, tokens, hidden)
        z = torch.stack([each(h) for each in self.adapters], dim=-2)  # (batch, tokens, adapters, hidden)
        asked = h @ self.query.T @ self.key  # (batch, tokens, hidden)
        self.weights = (z @ asked[..., None]).squeeze(-1).softmax(-1)  # (batch, tokens, adapters)
        mixed = (self.weights[..., None] * z).sum(-2)
        return mixed + mixed @ self.value.T


def add_fusion(model):
    for layer in model.bert.encoder.layer:
        stack = layer.output.dense.adapters
        layer.fusion = new = Fusion([stack[task] for task in sets], model.config.hidden_size)
        layer.output.dense.register_forward_hook(lambda dense, inputs, h, new=new: new(h))
    return model


# %% [markdown]
# Our $K = 0$ gives each adapter a third, so that it begins as the average of *outputs* (the authors draw $K$ at
# random). And $V$ is identity plus a change, so weight decay pulls it to the identity, as their regulariser does.


# %%
@torch.no_grad()
def check_fusion():
    stack = shelf().bert.encoder.layer[2].output.dense.adapters
    zs = torch.stack([stack[task](x) for task in sets])
    fusion = Fusion([stack[task] for task in sets], x.shape[-1])
    print(f"at the start, from the mean of the outputs: {(fusion(x) - zs.mean(0)).abs().max():.0e}")
    fusion.key.normal_(std=1e4)  # scores so large that softmax chooses one
    chosen = fusion(x), zs[fusion.weights.argmax(-1), torch.arange(len(x))]
    print(f"with large scores, from the chosen adapter: {(chosen[0] - chosen[1]).abs().max():.0e}")


check_fusion()

# %% [markdown]
# Now the multi-task model: fusion and head, on all tasks' texts mixed. (The paper learns a fusion for each target
# task; ours serves all, and must find out whose text it reads.) Baselines are heads over simpler things, trained in as
# many steps: no adapter, averaged weights, averaged outputs. The rival: *one adapter for all*, in as many steps as the
# three together.


# %%
def outputs_averaged():
    model = add_fusion(shelf())
    for layer in model.bert.encoder.layer:
        layer.fusion.requires_grad_(False)
    return model


def only_head(model):
    set_active(model, "average", train=[])
    return model


makers = {
    "no adapter": shelf,
    "weights averaged": lambda: only_head(averaged(shelf())),
    "outputs averaged": outputs_averaged,
    "fusion": lambda: add_fusion(shelf()),
}

# %%
models = {}
for name, make in makers.items():
    models[name] = model = make()
    model.classifier.requires_grad_(True)
    train(model, everything["train"], FUSION_STEPS)
models["one for all"] = model = fresh_model()
add_adapter(model, "together", bottleneck=WIDTH)
run = train(model, everything["train"], len(sets) * STEPS)

# %% [markdown]
# On the test texts. The last row is told the task, and takes that task's adapter and outputs.

# %%
said, told = {}, {}
for name, model in models.items():
    logits = {task: logits_of(model, test[task]) for task in sets}
    said[name] = answers(torch.cat(list(logits.values())))
    told[name] = np.concatenate([answers(logits[task], task) for task in sets])
own = shelf()
for task in sets:
    set_active(own, task, train=[])
    logits[task] = answers(logits_of(own, test[task]), task)
said["own, told"] = told["own, told"] = np.concatenate(list(logits.values()))

# %%
ends = np.cumsum([len(test[task]) for task in sets])[:-1]
print(f"{'test accuracy':<17}{'nothing told':>13}   told the task:", *(f"{task:>9}" for task in sets))
for name in said:
    parts = [f"{part.mean():>9.3f}" for part in np.split(told[name] == labels, ends)]
    print(f"{name:<17}{(said[name] == labels).mean():>13.3f}", " " * 16, *parts)

# %%
most = max(set(everything["train"]["label"]), key=everything["train"]["label"].count)
rivals = {"majority": [most] * len(labels), "counting words": counted} | {
    name: said[name] for name in ("outputs averaged", "weights averaged", "one for all", "own, told")
}
for name, theirs in rivals.items():
    print(lessonkit.compare_classifiers(labels, said["fusion"], theirs, names=("fusion", name)), "\n")

# %% [markdown]
# In this page's build, fusion beats the majority and both averages: no interval includes 0 (over texts; each model was
# trained once). Once told the task, it is behind the tasks' own adapters only on the posts; the rest is lost because
# nobody tells. Counting words is not told apart from it: so few steps show no gain from pretraining. And *one for all*
# comes out ahead: if all texts are in one place, train one adapter. Fusion is for adapters that exist already and must
# stay as they are.
#
# Where does it take one task for another?

# %%
firsts = [columns[task].start for task in sets][1:]
crossed = np.flatnonzero(np.digitize(said["fusion"], firsts) != np.digitize(labels, firsts))
print(f"{len(crossed)} of {len(labels):,} texts get another task's topic, such as")
for number in crossed[:4].tolist():
    print(f"  said {names[said['fusion'][number]]}, labelled {names[labels[number]]}:")
    print(f"     {everything['test'][number]['text'][:90]!r}")

# %% [markdown]
# Some are hardly mistakes: a wire may be about business, too.
#
# And whom does it listen to? Each adapter's mean weight, by layer, for each task's texts:

# %%
import matplotlib.pyplot as plt


def listened(model, rows):
    """(layers, adapters): mean weights over the texts' tokens."""
    with torch.inference_mode():
        inputs = tokenizer.pad(
            rows.select_columns(["input_ids", "attention_mask"])[:100], return_tensors="pt"
        )
        model.to(device).eval()(**inputs.to(device))
    mask = inputs["attention_mask"].bool().to(device)
    return (
        torch.stack([layer.fusion.weights[mask].mean(0) for layer in model.bert.encoder.layer]).cpu().numpy()
    )


fused = models["fusion"]
layers = [f"layer {number}" for number in range(len(fused.bert.encoder.layer))]
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
for ax, task in zip(axes, sets):
    weights = listened(fused, validation[task])
    lessonkit.plots.heat_map(
        weights, layers, list(sets), title=f"texts: {task}", fmt="{:.2f}", limits=(0, 1), ax=ax
    )

# %% [markdown]
# In the lowest layer each keeps about the third that it began with. Higher up, wires and posts mostly listen to their
# own adapter, though nobody named it; in this page's build the articles often listened more to the posts'.
#
# Token by token: move the sliders, or read the picture below.

# %%
from ipywidgets import IntSlider, interact

mixed = [validation[task][number] for number in range(2) for task in sets]


def show_tokens(number, layer):
    row = mixed[number]
    inputs = {key: torch.tensor([row[key]], device=device) for key in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        said_now = answers(fused.to(device).eval()(**inputs).logits.cpu())[0]
    weights = fused.bert.encoder.layer[layer].fusion.weights[0].float().cpu()
    listens = [f"{list(sets)[each]} most" for each in weights.argmax(-1).tolist()]
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    title = f"layer {layer}; said {names[said_now]}; labelled {names[row['label']]}"
    return lessonkit.plots.tokens(pieces, listens, title=title)


@interact(number=IntSlider(0, 0, len(mixed) - 1), layer=IntSlider(len(layers) - 2, 0, len(layers) - 1))
def explore(number, layer):
    show_tokens(number, layer)


# %%
ax = show_tokens(0, len(layers) - 2)

# %% [markdown]
# In this text nearly all tokens agree: this layer chose by text more than by word.
#
# *Here ends the third focus session.*
#
# ## 6. AdapterDrop
#
# Do the lower layers need their adapters? [Rücklé et al.](https://arxiv.org/abs/2010.11918) (2021) take out those of
# the lowest $n$ layers. *Robust* training is used to it: each batch draws its $n$.


# %%
def drop(model, n, name):
    """The adapters of the lowest n layers rest."""
    for number, layer in enumerate(model.bert.encoder.layer):
        layer.output.dense.adapters.active = () if number < n else (name,)


robust = fresh_model()
add_adapter(robust, "posts", bottleneck=WIDTH)
draw = np.random.default_rng(0)
hook = robust.register_forward_pre_hook(
    lambda model, _: drop(model, int(draw.integers(len(layers))), "posts") if model.training else None
)
train(robust, train_set["posts"])
hook.remove()

# %% [markdown]
# Their *specialised* training never puts them in: here, adapters in the upper half only.

# %%
plain = shelf()
curves = {"dropped afterwards": plain, "trained for it": robust}
numbers = list(range(len(layers) + 1))
kept = {name: [] for name in curves}
for name, model in curves.items():
    for n in numbers:
        drop(model, n, "posts")
        kept[name].append(validated(model, "posts"))
half = len(layers) // 2
model = fresh_model()
add_adapter(model, "posts", bottleneck=WIDTH, layers=range(half, len(layers)))
train(model, train_set["posts"])
kept["never there"] = [validated(model, "posts")]

# %%
ax = lessonkit.plots.curves(
    {name: ([half] if name == "never there" else numbers, values) for name, values in kept.items()},
    xlabel="layers without adapters, from below",
    ylabel="validation accuracy (posts)",
)
for name, values in kept.items():
    print(f"{name:<19}", *(f"{value:.3f}" for value in values))

# %% [markdown]
# Most differences are within noise. In this page's build, dropping afterwards seems to cost little by little, down to
# the bare base model. *Never there* is hardly behind the whole. Robust training shows no gain, and does no worse with
# no adapter left, which it never practised: perhaps six models in one need more steps.
#
# Now the time. In **training**, nothing below the lowest adapter needs a gradient, so the backward pass ends there. In
# **use**, only the adapters' own products are saved.

# %%
rows = [
    {key: row[key] for key in ("input_ids", "attention_mask", "label")}
    for row in test["posts"].select(range(32))
]
batches = {size: collator(rows[:size]).to(device) for size in (1, BATCH_SIZE, 32)}
timed = fresh_model().to(device).eval()
add_adapter(timed, "any", bottleneck=WIDTH)
full = fresh_model().to(device).eval()


# %%
def step(n):
    model = full if n == "full" else timed
    if n != "full":
        drop(timed, n, "any")
    model(**batches[BATCH_SIZE]).loss.backward()
    model.zero_grad()


@torch.inference_mode()
def reply(n):
    drop(timed, n, "any")
    return timed(**batches[size]).logits


def in_turns(function, cases, rounds):
    """Milliseconds, (rounds, cases): one case after the other, round after round."""
    found = lessonkit.latency(function, cases, warmup=len(cases), repeats=rounds)
    return found.times.reshape(rounds, len(cases))


# %%
cases = [*numbers, "full"]
times = in_turns(step, cases, lesson.pick(smoke=2, laptop=12, gpu=50))
medians = dict(zip(cases, np.median(times, axis=0)))
shown = {f"adapters, lowest {n} layers without": medians[n] for n in numbers[:-1]}
shown |= {"the head alone": medians[numbers[-1]], "full fine-tuning": medians["full"]}
ax = lessonkit.plots.bars(shown, xlabel="ms for a step (forward and backward)", fmt="{:.0f}")

# %%
for size, rounds in lesson.pick(smoke={1: 2}, laptop={1: 80, 32: 12}, gpu={1: 200, 32: 60}).items():
    times = in_turns(reply, numbers[::-1], rounds)  # the first has no adapter at all
    ratios = np.median(times / times[:, :1], axis=0)[::-1]
    print(f"batches of {size:>2}: {np.median(times[:, 0]):.1f} ms without adapters;", end=" ")
    print("times that with n dropped:", ", ".join(f"{ratio:.2f}" for ratio in ratios))

# %% [markdown]
# On the whole, the more layers without, the shorter a step, down to the head's alone. In use, a single text gains the
# little that adapters cost; in the batch it drowns in noise.
#
# The larger gain comes with **several tasks on one text**: layers without adapters give all tasks the same, so they
# run once.
#
# **Exercise 4, predict.** Three tasks, six layers, the lowest four without adapters. One pass through a layer is one
# unit of work; without sharing it takes 18. What share of that is left?

# %%
answer = TODO
lesson.exercise("shared").check(answer)


# %%
@torch.inference_mode()
def all_tasks(model, inputs, n):
    """Each task's logits; the lowest n layers, without adapters, run once."""
    mask = (1.0 - inputs["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min
    set_active(model, [], train=[])
    shared = model.bert.embeddings(inputs["input_ids"])
    for layer in model.bert.encoder.layer[:n]:
        shared = layer(shared, mask)
    found, weights = {}, inputs["attention_mask"][..., None]
    for task in sets:
        drop(model, n, task)
        states = shared
        for layer in model.bert.encoder.layer[n:]:
            states = layer(states, mask)
        found[task] = model.classifier((states * weights).sum(1) / weights.sum(1))
    return found


@torch.inference_mode()
def one_by_one(model, inputs, n):
    found = {}
    for task in sets:
        drop(model, n, task)
        found[task] = model(inputs["input_ids"], inputs["attention_mask"]).logits
    return found


# %%
plain.to(device).eval()
few = batches[BATCH_SIZE]
for n in (0, 2, 4):
    pairs = zip(all_tasks(plain, few, n).values(), one_by_one(plain, few, n).values())
    off = max(float((one - other).abs().max()) for one, other in pairs)
    assert off < 1e-3
    cases = [(one_by_one, n), (all_tasks, n)]
    times = in_turns(
        lambda case: case[0](plain, few, case[1]), cases, lesson.pick(smoke=2, laptop=12, gpu=50)
    )
    ratio, passes = np.median(times[:, 1] / times[:, 0]), n + 3 * (len(layers) - n)
    print(
        f"n = {n}: the same logits to {off:.0e}; {passes} passes for {3 * len(layers)}; {ratio:.2f} of the time"
    )

# %% [markdown]
# The share of time follows the share of passes.
#
# **Exercise 5, run an experiment.** Train for the posts **with adapters in the upper half of the layers only**, and
# reach **0.65 on the validation texts**. You choose width, steps and texts (`tokenized("posts", "train", start,
# count)` gives more, but leave the validation texts alone). Start with this above `answer`:
#
# ```python
# yours = fresh_model()
# add_adapter(yours, "upper", bottleneck=16, layers=range(half, len(layers)))
# train(yours, train_set["posts"], steps=STEPS // 2)
# predicted = answers(logits_of(yours, validation["posts"]), "posts")
# ```
#
# Then replace `TODO` with `{"model": yours, "predicted": predicted}`.

# %%
answer = TODO
lesson.exercise("upper").check(answer)

# %% [markdown]
# *Here ends the fourth focus session.*
#
# ## 7. What goes wrong
#
# **Stacked, where fused was meant.** `set_active` takes several names, but sends each adapter's output into the next:

# %%
model = shelf()
for active in (["posts"], ["wires", "articles", "posts"]):
    set_active(model, active, train=[])
    print(f"{' -> '.join(active):<27} {validated(model, 'posts'):.3f}")

# %% [markdown]
# **Registered twice.** With `nn.ModuleList(adapters)` in `Fusion`, each adapter belongs to two modules. Then the model
# can't be saved:

# %% tags=["nbval-check-output"]
model = add_fusion(shelf())
for layer in model.bert.encoder.layer:
    layer.fusion.adapters = nn.ModuleList(layer.fusion.adapters)
try:
    model.save_pretrained(lesson.folder / "fused")
except RuntimeError as error:
    print(str(error).split("[")[0], "...")

# %% [markdown]
# Keep what belongs elsewhere in a plain list.
#
# **A random value matrix in the fusion.** Then the next layer gets nothing like what it was trained for:

# %%
ends = {}
for start in ("identity", "random"):
    model = add_fusion(shelf())
    model.classifier.requires_grad_(True)
    if start == "random":
        for layer in model.bert.encoder.layer:
            hidden = layer.fusion.value.shape[0]
            layer.fusion.value.data = torch.randn(hidden, hidden) / hidden**0.5 - torch.eye(hidden)
    ends[start] = [loss for _, loss in train(model, everything["train"], SHORT_STEPS // 2).losses]
for start, losses in ends.items():
    first, last = np.mean(losses[:5]), np.mean(losses[-5:])
    print(f"V starts as {start:<9} loss of the first 5 steps {first:.2f}, of the last 5 {last:.2f}")

# %% [markdown]
# Twice the loss, and so few steps mend nothing
# ([troubleshooting](../../lessons/troubleshooting.md#the-loss-does-not-fall)): the frozen layers cannot adapt.
#
# ## 8. On a bigger machine
#
# On a GPU this notebook takes BERT-base, 128 tokens, more steps and seeds. The predicted peak for one adapter's step,
# and what fusion adds at 16 bytes for each trained number (weight, gradient, AdamW's two means):

# %%
from transformers import BertConfig

bert = BertConfig(num_labels=len(names), architectures=["BertForSequenceClassification"])  # BERT-base's sizes
plan = lessonkit.predict_memory(
    bert,
    "adapters",
    bottleneck=WIDTH,
    batch_size=BATCH_SIZE,
    sequence_length=128,
    dtype="float32",
    device="cuda",
)
fusion_numbers = bert.num_hidden_layers * 3 * bert.hidden_size**2
print(f"an adapter: peak {plan.peak_bytes / 2**30:.1f} GiB of a T4's 15")
print(
    f"fusion: {fusion_numbers / 1e6:.1f} million numbers, {16 * fusion_numbers / 2**30:.2f} GiB more, without activations"
)

# %% [markdown]
# ## 9. The end
#
# 1. $h + s f(x W_{down}) W_{up}$ holds adapters, LoRA and prefixes; they differ in $x$, $f$, $s$ and place.
# 2. A prefix is a gated softmax adapter in each head.
# 3. Units have no order: averages of weights need a common start, averages of outputs don't.
# 4. Fusion learns whom to listen to, and leaves its adapters untouched.
# 5. Adapters low in the model can go, at a small price here: training stops above them, and several tasks share what
#    is below.
#
# The next cell keeps your result. At laptop or GPU scale it counts towards the expert examples.

# %%
lesson.record(
    fusion_test_accuracy=(said["fusion"] == labels).mean(),
    averaged_weights_test_accuracy=(said["weights averaged"] == labels).mean(),
    one_for_all_test_accuracy=(said["one for all"] == labels).mean(),
    majority_baseline=lazy,
    test_texts=len(labels),
)

# %% [markdown]
# **Check yourself.** Your fusion has one adapter and $V$ at the identity: what does it compute, whatever $Q$ and $K$?
# A colleague trains adapters in layers 3 to 5 only, and sees no faster *answers*: why, and where is the gain?
#
# <details><summary>Answers</summary>
#
# That adapter: a softmax over one score is 1. And an answer still passes through all layers, only the missing
# adapters' small products are saved. The gain is in training, and where several tasks read one text.
#
# </details>
#
# **Next:** the [overview](../../lessons/README.md) compares all techniques; this was the last of their notebooks.
