# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Full fine-tuning, expert
#
# You will be able to say where every byte and every second of a training step goes, make both smaller one switch
# at a time, and turn a dial between what a model has learned and what it knew before.
#
# **120 minutes**, five focus sessions (4 to 6 minutes are training, on 2 CPU cores) · **expert** · before this:
# [full fine-tuning, intermediate](../intermediate/full-fine-tuning.ipynb) and
# [adapters, intermediate](../intermediate/adapters.ipynb) · background:
# [the guide to full fine-tuning](../../lessons/full-fine-tuning/guide.md) · next: [LoRA, expert](lora.ipynb)
#
# You will
#
# - predict the peak memory of a step, measure it, and see what each switch really saves and costs;
# - see on real gradients why float16 needs loss scaling and bfloat16 doesn't, and what bfloat16 can't do;
# - average a base model with its tuned self, and find out when that works and why it sometimes can't.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("expert/full-fine-tuning")

# %%
MODEL = lesson.pick(smoke="smollm2", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-360M-Instruct")
LENGTH = lesson.pick(smoke=32, laptop=128, gpu=512)  # tokens in a row
BATCH_SIZE = lesson.pick(smoke=2, laptop=4, gpu=4)  # rows in a step
STEPS = lesson.pick(smoke=2, laptop=18, gpu=200)  # of a training
FEW_STEPS = lesson.pick(smoke=1, laptop=5, gpu=50)  # of each optimiser in section 4
ROWS = lesson.pick(smoke=4, laptop=16, gpu=16)  # validation rows of tales; twice as many to test
LEARNING_RATE = lesson.pick(smoke=1e-4, laptop=1e-4, gpu=5e-5)
REPEATS = lesson.pick(smoke=2, laptop=20, gpu=50)  # of a timed call
SEED = 0

# %% [markdown]
# ## 1. Texts, baselines, and the bill
#
# The new skill: the language of the tales of the brothers Grimm, cut into rows of `LENGTH` tokens. The old one:
# answering questions, which the model was once tuned for. We let the base model answer a few, and keep its answers:
# a model that still gives them a high probability hasn't forgotten. Validation rows, for choices, and test rows, for
# the end, are apart.

# %%
tokenizer = lessonkit.load_tokenizer(MODEL)
tales = lessonkit.load_dataset("grimm-tales")


def rows(texts, count, of_each):
    found = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        cut = [ids[at : at + LENGTH] for at in range(0, len(ids) - LENGTH, LENGTH)]
        found += [{"input_ids": row} for row in cut[:of_each]]
    return found[:count]


train_rows = rows(tales["train"]["text"][:33], None, 20)
validation = {"tales": rows(tales["train"]["text"][33:], ROWS, 3)}
test = {"tales": rows(tales["test"]["text"], 2 * ROWS, 4)}
print(f"{len(train_rows)} rows of tales to train on; held out {len(test['tales'])}")

# %%
import torch
from transformers import AutoModelForCausalLM, set_seed

device, bf16 = lesson.hardware.device, lesson.hardware.bf16
set_seed(SEED)
model = lessonkit.load_model(
    MODEL, AutoModelForCausalLM, dtype=torch.float32, attn_implementation=lesson.hardware.attention
).to(device)
model.config.use_cache = False  # the cache serves generation; in training it only takes memory
base = {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}
parameters = sum(weight.numel() for weight in base.values())
print(f"{parameters:,} parameters")

# %%
SUBJECTS = (
    "the moon, bread, a bicycle, salt, the Nile, a library, chess, rust, honey, an atlas, a bank, yeast, glass, "
    "a compass, tea, a volcano, silk, a calendar, the heart, a bridge, snow, a piano, oil, a passport"
)
ASKS = ("What is {}?", "Give me a tip about {}.", "Why is {} useful?")
questions = [ASKS[at % 3].format(each) for at, each in enumerate(SUBJECTS.split(", "))]


def answered(question):
    """The base model's own answer as a row: labels of -100 leave the question uncounted."""
    chat = [{"role": "user", "content": question}]
    asked = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    ).to(device)
    out = model.generate(
        **asked,
        max_new_tokens=LENGTH // 4,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
    )[0].tolist()
    start = asked["input_ids"].shape[1]
    return {"input_ids": out, "labels": [-100] * start + out[start:]}


# %%
answers = [answered(question) for question in questions[: 3 * ROWS // 2]]
validation["answers"], test["answers"] = answers[: ROWS // 2], answers[ROWS // 2 :]
before = {kind: lessonkit.perplexity(model, test[kind], name="base model") for kind in test}
for kind, found in before.items():
    print(f"{kind}: {found}")
print(f"\n{questions[0]} {tokenizer.decode(answers[0]['input_ids'][-(LENGTH // 4) :])!r}")

# %% [markdown]
# Those two perplexities are the baselines: training shall lower the first; the second shows what it costs. (It is so
# low because the answers are the model's own.)
#
# Before the first step, the bill. AdamW in float32 keeps, for every parameter, the weight, the gradient, and two
# moving averages (of the gradient and of its square).
#
# **Exercise 1, predict.** SmolLM2-135M has 134,515,008 parameters. How many **GiB** (2^30 bytes) are weights,
# gradients and AdamW's states together, all in float32?

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("bill").check(answer)

# %% [markdown]
# On top come the activations: what the forward pass keeps for the backward pass. They grow with batch and length,
# the rest doesn't. `predict_memory` runs a step on *fake tensors*, which have shapes and no numbers, and adds up
# what is alive at each moment. We check it with PyTorch's profiler, which sees every real allocation.


# %%
import time


def now():
    """Seconds on a clock, after the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def step(model, optimizer, batches, autocast=bf16):
    """One optimiser step over equal micro-batches: seconds for the gradients, and for the update."""
    start = now()
    for batch in batches:
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = model(input_ids=batch, labels=batch).loss / len(batches)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    middle = now()
    optimizer.step()
    optimizer.zero_grad()
    return middle - start, now() - middle


# %%
def measured_peak(optimizer, batches, autocast=bf16):
    """Bytes of all tensors alive at the fullest moment of a step."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step(model, optimizer, batches, autocast)
        return torch.cuda.max_memory_allocated()
    states = [value for state in optimizer.state.values() for value in state.values()]
    before = [*model.parameters(), *model.buffers(), *states]
    there = sum(each.nbytes for each in before if torch.is_tensor(each))
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as seen:
        step(model, optimizer, batches, autocast)
    live = highest = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            highest = max(highest, live)
    return there + highest


# %% [markdown]
# *Here ends the first focus session.*
#
# ## 2. Four switches
#
# - **Mixed precision** (`bf16=True`): matrix products in 16 bits, weights and AdamW's states still in 32. Where the
#   machine has no bf16 units (see the top) it stays off here, and the row repeats the first.
# - **Gradient checkpointing** (or *activation checkpointing*): keep only each layer's input, and run the layer again
#   in the backward pass.
# - **Accumulation**: two micro-batches of half the size, one optimiser step.
# - **8-bit AdamW** (bitsandbytes): the two averages in one byte each, with a scale for every 256 of them.
#
# Which saves most at this batch and length? Note your guess.

# %%
from bitsandbytes.optim import AdamW8bit

batch = torch.tensor([row["input_ids"] for row in train_rows[:BATCH_SIZE]], device=device)
halves = list(batch.chunk(2))
SWITCHES = {  # autocast, checkpointing, micro-batches, optimiser
    "none": (False, False, [batch], "adamw_torch_fused"),
    "mixed precision": (bf16, False, [batch], "adamw_torch_fused"),
    "checkpointing": (False, True, [batch], "adamw_torch_fused"),
    "accumulation": (False, False, halves, "adamw_torch_fused"),
    "8-bit AdamW": (False, False, [batch], "adamw_8bit"),
    "all four": (bf16, True, halves, "adamw_8bit"),
}


def make_adamw(kind, groups, rate=LEARNING_RATE):
    if kind == "adamw_8bit":
        return AdamW8bit(groups, lr=rate, weight_decay=0.0)
    return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, fused=True)


# %%
def predicted(autocast, checkpointing, batches, kind):
    return lessonkit.predict_memory(
        model.config,
        "full",
        batch_size=len(batches[0]),
        gradient_accumulation_steps=len(batches),
        sequence_length=LENGTH,
        padding=False,
        dtype="float32",
        mixed_precision=autocast,
        gradient_checkpointing=checkpointing,
        optimizer=kind,
    )


def set_checkpointing(on):
    model.activation_checkpointing_enable() if on else model.activation_checkpointing_disable()


# %%
parts, measured = {}, {}
model.train()
for name, (autocast, checkpointing, batches, kind) in SWITCHES.items():
    plan = predicted(autocast, checkpointing, batches, kind)
    parts[name] = {part: size / 2**30 for part, size in plan.breakdown.items() if part != "allocator"}
    set_checkpointing(checkpointing)
    optimizer = make_adamw(kind, model.parameters(), rate=0.0)  # the weights stay where they are
    step(model, optimizer, batches, autocast)  # the first step makes the optimiser's states
    gradient_seconds, update_seconds = step(model, optimizer, batches, autocast)
    measured[name] = measured_peak(optimizer, batches, autocast)
    print(
        f"{name:<16} predicted {plan.live_bytes / 2**30:.2f} GiB, measured {measured[name] / 2**30:.2f}; "
        f"gradients {gradient_seconds:.2f} s, update {update_seconds:.2f} s; fullest: {plan.peak_phase}"
    )
del optimizer

# %%
ax = lessonkit.plots.stacked_bars(
    parts,
    xlabel="GiB alive at the fullest moment of a step (predicted)",
    ends={name: f"measured {size / 2**30:.2f}" for name, size in measured.items()},
    title="One model, one batch, six ways to train it",
)

# %% [markdown]
# Read the bars by their parts. With these few tokens, weights and states are most of the bill, so the optimiser is
# the switch that saves most, and checkpointing has less to save; with long rows it is the other way round. Mixed
# precision saves time (where it is on) and no memory: its smaller activations are paid for with a 16-bit copy of each
# weight. Checkpointing pays with a second forward pass. Accumulation halves the activations, but the first half's
# gradients must be held while the second half runs. (The seconds are those of a single step, and so rough: whatever else
# the machine did in that moment is in them. The bytes are exact.)
#
# And 8-bit AdamW's update: for GPUs it is one fused kernel. On a CPU, bitsandbytes unpacks both averages of a tensor to
# float32, and then finds the nearest of 256 levels for every number again. That takes the seconds of its rows, and
# moves the last row's fullest moment into the update ("step"), where the embeddings, the largest tensor, are unpacked.
#
# Do the switches change what is learned? Checkpointing computes the same numbers twice, and accumulation adds the
# same gradients in another order. Proof, on a tenth of all gradients:


# %%
def gradients(batches, checkpointing=False):
    set_checkpointing(checkpointing)
    model.zero_grad()
    for each in batches:
        (model(input_ids=each, labels=each).loss / len(batches)).backward()
    set_checkpointing(False)
    found = torch.cat([weight.grad.flatten()[::10] for weight in model.parameters()])  # every tenth will do
    model.zero_grad()
    return found


whole = gradients([batch])
for name, other in {"checkpointing": gradients([batch], True), "accumulation": gradients(halves)}.items():
    print(
        f"{name}: largest difference {(other - whole).abs().max():.1e}, largest gradient {whole.abs().max():.1e}"
    )

# %% [markdown]
# Rounding only. But our micro-batches hold equally many tokens. With padding or masked labels they don't, and the
# mean of the means isn't the mean:
#
# **Exercise 2, write code.** Given the mean loss of each micro-batch and the number of tokens counted in each,
# return the loss of the whole batch.


# %%
def accumulated_loss(mean_losses, tokens):
    return TODO


lesson.exercise("accumulated-loss").check(accumulated_loss)

# %% [markdown]
# `Trainer` does this for you: it counts the batch's tokens first and divides by all of them.
#
# *Here ends the second focus session.*
#
# ## 3. Sixteen bits: what float16 loses and what bfloat16 loses
#
# Both have 16 bits. float16 spends 5 on the exponent and 10 on the fraction; bfloat16 spends 8, as many as
# float32, and 7. So float16 is finer, and its range ends at about 6e-8 below and 65,504 above. Where do a
# language model's gradients lie?

# %%
import matplotlib.pyplot as plt
import numpy as np

size = whole[whole != 0].abs().cpu()
figure, ax = plt.subplots(figsize=(6.5, 3.2))
ax.hist(size.log2().numpy(), bins=120, range=(-45, 0), color="0.6")
ax.margins(y=0.35)
for power, text, side in ((-24, "float16's\nsmallest ", "right"), (-14, " below: fewer\n digits", "left")):
    ax.axvline(power, color="C3")
    ax.text(power, ax.get_ylim()[1] * 0.97, text, fontsize=9, color="C3", ha=side, va="top")
ax.set(xlabel="gradient, log2 of its size", ylabel="how many", yticks=[], title="The gradients of one step")
plt.show()


# %%
def lost(dtype, scale):
    """Shares of the non-zero gradients that become 0, and that become infinite."""
    cast = (size * scale).to(dtype)
    return (cast == 0).double().mean().item(), cast.isinf().double().mean().item()


for dtype, scale in ((torch.float16, 1), (torch.float16, 2**16), (torch.float16, 2**40), (torch.bfloat16, 1)):
    zero, infinite = lost(dtype, scale)
    print(
        f"{str(dtype)[6:]:<9} times 2^{int(np.log2(scale)):<3} to zero {zero:7.2%}, to infinity {infinite:7.2%}"
    )

# %% [markdown]
# Unscaled, a part of the gradients vanishes in float16. **Loss scaling** multiplies the loss by a large number,
# and by the chain rule every gradient too, before the backward pass; divided out in float32 before the step.
# Too large, and some overflow: then the step is skipped and the scale halved. `Trainer(fp16=True)` does that on a
# GPU. bfloat16 has float32's range, so it needs no scaling, and that is why `lessonkit` picks it where the hardware
# has it. (In real float16 training also the gradients *between* the layers pass through these limits.)
#
# What bfloat16 lacks is fineness, and that bites in the *weights*. Prediction first:
#
# **Exercise 3, predict.** A weight of 0.1 is kept in bfloat16. Each step adds 1e-5 to it. What is it after 1,000
# steps?

# %%
answer = TODO
lesson.exercise("thousand-steps").check(answer)

# %% tags=["nbval-check-output"]
for dtype in (torch.float32, torch.bfloat16):
    weight = torch.tensor(0.1, dtype=dtype)
    for _ in range(1000):
        weight += 1e-5
    print(f"{str(dtype)[6:]:<9} {weight.item():.5f}")

# %% [markdown]
# In bfloat16 the neighbours of 0.1 are 0.0005 away: an update of less than half of that is rounded off, a thousand
# times in a row. How many of our model's weights would be stuck so, at AdamW's first step, which moves each by
# about the learning rate?

# %%
weights = torch.cat([weight.flatten()[::10] for weight in base.values()])
for rate in (1e-3, LEARNING_RATE, 1e-5):
    stuck = ((weights.bfloat16() + rate).float() == weights.bfloat16().float()).double().mean().item()
    print(f"a step of {rate:.0e} moves {1 - stuck:4.0%} of the weights, if they are kept in bfloat16")

# %% [markdown]
# So: **compute in 16 bits, keep the weights in 32**. That is what autocast does, and why `bf16=True` saves
# activations and time but not weights. (Pure bfloat16 training exists; it needs larger steps, or rounding
# by lot: *stochastic rounding*.)
#
# *Here ends the third focus session.*
#
# ## 4. Optimisers: eight bytes, two, or next to none
#
# AdamW keeps two float32 numbers a parameter. 8-bit AdamW keeps them in a byte each
# ([Dettmers et al., 2021](https://arxiv.org/abs/2110.02861)). **Adafactor** *factorises* the second average: of a
# matrix it keeps one number per row and one per column, and no first average
# ([Shazeer and Stern, 2018](https://arxiv.org/abs/1804.04235)). Same start, same rows, same number of steps; the
# validation rows judge. Expect the quality to be close, and the bytes not.

# %%
import random

from transformers import Adafactor, get_linear_schedule_with_warmup


def restart():
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(base[name])


def train(optimizer, steps=STEPS):
    model.train()
    schedule = get_linear_schedule_with_warmup(optimizer, max(1, steps // 10), steps)
    order = random.Random(SEED)  # the same rows in the same order each time
    for _ in range(steps):
        chosen = order.sample(train_rows, BATCH_SIZE)
        step(model, optimizer, [torch.tensor([row["input_ids"] for row in chosen], device=device)])
        schedule.step()


def judge(name):
    return {kind: lessonkit.perplexity(model, validation[kind], name=name) for kind in validation}


# %%
def state_bytes(optimizer):
    held = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in held if torch.is_tensor(value)) / parameters


MAKERS = {
    "Adafactor": lambda groups: Adafactor(
        groups, lr=LEARNING_RATE, scale_parameter=False, relative_step=False, warmup_init=False
    ),
    "8-bit AdamW": lambda groups: make_adamw("adamw_8bit", groups),
    "AdamW": lambda groups: make_adamw("adamw_torch_fused", groups),
}

# %%
restart()
untrained = judge("base model")
judged = {}
for name, make in MAKERS.items():
    restart()
    optimizer = make(list(model.parameters()))
    start = now()
    train(optimizer, FEW_STEPS)
    spent = now() - start
    judged[name] = judge(name)
    print(
        f"{name:<12} {state_bytes(optimizer):5.2f} bytes of states a parameter, {spent:4.0f} s, "
        f"tales {judged[name]['tales'].perplexity:.1f}, answers {judged[name]['answers'].perplexity:.2f}"
    )
print(f"base model: tales {untrained['tales'].perplexity:.1f}, answers {untrained['answers'].perplexity:.2f}")

# %%
for name in ("8-bit AdamW", "Adafactor"):
    print(lessonkit.compare_perplexities(judged[name]["tales"], judged["AdamW"]["tales"]))

# %% [markdown]
# The intervals say whether these rows can tell the optimisers apart; another order of the rows would move the
# figures as well. What is beyond doubt is the column of bytes. (The scales are what 8-bit AdamW has beyond two.)
#
# Now the training that the rest of this notebook is about: AdamW, `STEPS` steps.

# %%
del optimizer  # its states would lie beside the next one's
restart()
with lessonkit.measure() as used:
    train(MAKERS["AdamW"](list(model.parameters())))
tuned = {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}
uniform = judge("one rate for all")
print(used)
for kind in validation:
    print(lessonkit.compare_perplexities(uniform[kind], untrained[kind]))

# %% [markdown]
# The tales have become likelier, and its own former answers less likely: new skill, and forgetting.
#
# ## 5. Layer-wise learning rates
#
# Lower layers hold what every text shares; the upper ones are closer to the task. So give each layer a smaller rate
# than the one above it ([Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146)): here, each layer 0.9 times
# the one above, and the embeddings, at the bottom, least. A parameter group is all it takes.


# %%
def groups(decay):
    layers = model.model.layers
    found = [{"params": list(model.model.norm.parameters()), "lr": LEARNING_RATE}]
    for depth, layer in enumerate(reversed(layers)):
        found.append({"params": list(layer.parameters()), "lr": LEARNING_RATE * decay**depth})
    embeddings = list(model.model.embed_tokens.parameters())  # the head is tied to them: the same tensor
    return [*found, {"params": embeddings, "lr": LEARNING_RATE * decay ** len(layers)}]


restart()
by_layer = groups(0.9)
print(f"learning rates: {by_layer[0]['lr']:.1e} at the top, {by_layer[-1]['lr']:.1e} at the bottom")
assert sum(weight.numel() for group in by_layer for weight in group["params"]) == parameters
train(MAKERS["AdamW"](by_layer))
layered = judge("layer-wise rates")
for kind in validation:
    print(f"{kind}: {lessonkit.compare_perplexities(layered[kind], uniform[kind])}")

# %% [markdown]
# Smaller steps below mean less of both: less learned in the same time, less forgotten. Whether it is a better
# *trade* than one smaller rate for all is a question for the dial in section 7.
#
# *Here ends the fourth focus session.*
#
# ## 6. Compilation
#
# `torch.compile` reads what a module does, fuses neighbouring operations, and writes C++ (or, on a GPU, Triton)
# for it. That takes time once, and pays back at every step. We compile one decoder layer; it needs a C++ compiler,
# and says so where there is none.

# %%
import copy

layer = copy.deepcopy(model.model.layers[0]).train()
hidden = torch.randn(BATCH_SIZE, LENGTH, model.config.hidden_size, device=device)
positions = model.model.rotary_emb(hidden, torch.arange(LENGTH, device=device)[None])


def layer_step(module):
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        output = module(hidden, position_embeddings=positions)
    (output[0] if isinstance(output, tuple) else output).float().pow(2).mean().backward()


def layer_seconds(module):
    start = time.perf_counter()
    layer_step(module)
    first = time.perf_counter() - start
    times = [time.perf_counter()]
    for _ in range(REPEATS):
        layer_step(module)
        times.append(time.perf_counter())
    return first, float(np.median(np.diff(times)))


# %%
compiled = torch.compile(layer, backend=lesson.pick(smoke="aot_eager", laptop="inductor", gpu="inductor"))
_, eager_seconds = layer_seconds(layer)
try:
    first, compiled_seconds = layer_seconds(compiled)
    print(
        f"eager {1000 * eager_seconds:.1f} ms, compiled {1000 * compiled_seconds:.1f} ms, first call {first:.0f} s"
    )
    saved = eager_seconds - compiled_seconds
    print(
        f"paid back after {first / saved:,.0f} steps"
        if saved > 0
        else "compiled is no faster here: never paid back"
    )
except Exception as error:
    print(
        f"not compiled: {type(error).__name__}. A C++ compiler is needed (Debian and Ubuntu: apt install g++)."
    )

# %% [markdown]
# Where the gain is small, only a very long training pays it back; GPUs, which wait between many small operations,
# usually gain more. Measure before you switch it on (`torch_compile=True` in `TrainingArguments`), and keep to rows of one
# length: a new one may mean compiling anew.
#
# ## 7. The dial: averaging base and tuned model
#
# Training took the weights from a point *base* to a point *tuned*. Walk the straight line between them:
# $\theta(\alpha) = (1-\alpha)\,\theta_{base} + \alpha\,\theta_{tuned}$. It costs no training
# ([Wortsman et al., 2021](https://arxiv.org/abs/2109.01903) call it WiSE-FT). A network isn't linear, so nothing
# promises that the points between are any good.
#
# **Exercise 4, write code.** Write that line for a dictionary of weights. Neither input may change.


# %%
def interpolate(base, tuned, alpha):
    return TODO


lesson.exercise("interpolate").check(interpolate)

# %% [markdown]
# Halfway along the line: is the perplexity on tales halfway, worse than both ends, or better than halfway? And on
# the answers? Guess, then run.


# %%
def set_dial(alpha):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_((1 - alpha) * base[name] + alpha * tuned[name])


ALPHAS = lesson.pick(
    smoke=[0.0, 0.5, 1.0], laptop=[0.0, 0.25, 0.5, 0.75, 1.0], gpu=[i / 10 for i in range(11)]
)
dial = {}
for alpha in ALPHAS:
    set_dial(alpha)
    dial[alpha] = {kind: found.perplexity for kind, found in judge("average").items()}
    print(f"alpha {alpha:.2f}: tales {dial[alpha]['tales']:6.2f}, answers {dial[alpha]['answers']:6.2f}")
print(f"layer-wise: tales {layered['tales'].perplexity:6.2f}, answers {layered['answers'].perplexity:6.2f}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
for ax, kind in zip(axes, validation):
    values = [dial[alpha][kind] for alpha in ALPHAS]
    lines = {"measured": (ALPHAS, values), "straight line": ([0, 1], [values[0], values[-1]])}
    lessonkit.plots.curves(lines, xlabel="alpha: 0 base, 1 tuned", ylabel="perplexity", title=kind, ax=ax)
trade = {
    "the dial, by alpha": tuple([dial[alpha][kind] for alpha in ALPHAS] for kind in validation),
    "layer-wise rates": tuple([layered[kind].perplexity] for kind in validation),
}
names = {"xlabel": "perplexity of tales", "ylabel": "perplexity of answers"}
lessonkit.plots.curves(trade, **names, title="lower left is better", ax=axes[2])
for alpha in ALPHAS:
    axes[2].annotate(f" {alpha:g}", (dial[alpha]["tales"], dial[alpha]["answers"]), va="bottom")
plt.show()

# %% [markdown]
# Where the curve lies below the straight line, the average is better than its share: most of the new skill comes in
# the first part of the way, and most of the forgetting in the last. So there is a point that keeps most of the gain
# at a fraction of the price. In the third picture, is section 5's training below the dial's line? If not, averaging
# did as well without a training of its own. We choose on validation rows: the largest part of the gain less the price.


# %%
def share(alpha, kind):
    """How far this alpha has gone of the whole change in log perplexity, 0 to 1."""
    first, here, last = (np.log(dial[each][kind]) for each in (0.0, alpha, 1.0))
    return (here - first) / (last - first)


chosen = max(ALPHAS, key=lambda alpha: share(alpha, "tales") - share(alpha, "answers"))
print(
    f"chosen alpha: {chosen}: {share(chosen, 'tales'):.0%} of the gain for {share(chosen, 'answers'):.0%} of the price"
)

# %%
after = {}
for name, alpha in {"tuned": 1.0, "averaged": chosen}.items():
    set_dial(alpha)
    after[name] = {kind: lessonkit.perplexity(model, test[kind], name=f"{name} model") for kind in test}
for kind in test:
    print(f"{kind}, held-out rows:")
    for first, second in (
        (after["tuned"], before),
        (after["averaged"], before),
        (after["averaged"], after["tuned"]),
    ):
        print(f"  {lessonkit.compare_perplexities(first[kind], second[kind])}")

# %% [markdown]
# The tuned model beats the base model on tales it has never seen by more than the interval; the average shows how
# much of that stays, and what it gives back on the answers. What do they write?


# %%
def write(prompt):
    ids = tokenizer(prompt, return_tensors="pt").to(device)
    out = model.eval().generate(
        **ids,
        max_new_tokens=lesson.pick(smoke=4, laptop=30, gpu=40),
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :]).replace("\n", " ")


chat = [{"role": "user", "content": "What is the capital of France?"}]
question = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
for prompt in ("Once upon a time there was a king who", question):
    print(prompt.strip().replace("\n", " ")[-80:])
    for name, alpha in {"base": 0.0, "averaged": chosen, "tuned": 1.0}.items():
        set_dial(alpha)
        print(f"  {name:<9} {write(prompt)}")

# %% [markdown]
# **Exercise 5, run an experiment.** The line doesn't end at 1. Add a cell, call `set_dial(2.0)` and then
# `judge("beyond")`, and compare with the values at 1. What happens to the perplexities on the validation rows?
# Answer `"a"`: tales go on improving, the answers stay; `"b"`: tales and answers both get worse; `"c"`: nothing changes.

# %%
answer = TODO
lesson.exercise("beyond").check(answer)

# %% [markdown]
# *A slider is fun here: `ipywidgets.interact(lambda alpha: (set_dial(alpha), write("Once upon a time"))[1],
# alpha=(0.0, 2.0, 0.25))`. Stop at 1 when you are done.*
#
# *Here ends the fifth focus session.*
#
# ## 8. What goes wrong
#
# **Averaging strangers.** The line works because both ends share a history: unit 7 of a layer means nearly the same
# in both. We shuffle the units of each feed-forward layer of the tuned model. It computes the same function, as the
# first line proves; and yet:

# %%
shuffled = {name: weight.clone() for name, weight in tuned.items()}
draw = torch.Generator().manual_seed(SEED)
for number in range(model.config.num_hidden_layers):
    order = torch.randperm(model.config.intermediate_size, generator=draw)
    prefix = f"model.layers.{number}.mlp"
    for part in ("gate_proj", "up_proj"):
        shuffled[f"{prefix}.{part}.weight"] = tuned[f"{prefix}.{part}.weight"][order]
    shuffled[f"{prefix}.down_proj.weight"] = tuned[f"{prefix}.down_proj.weight"][:, order]

with torch.no_grad():
    for alpha in (1.0, 0.5):
        for name, weight in model.named_parameters():
            weight.copy_((1 - alpha) * base[name] + alpha * shuffled[name])
        found = lessonkit.perplexity(model, validation["tales"])
        print(
            f"alpha {alpha}: perplexity {found.perplexity:,.1f}; with the units in place {dial[alpha]['tales']:,.1f}"
        )

# %% [markdown]
# Average only models tuned from the same base, never two trained from scratch.
#
# **A learning rate that is too high** ends in NaN, in float16 soonest. `lessonkit.run` stops at the first one and
# says so. **Out of memory**: `lessonkit plan` says before the run what fits;
# [troubleshooting](../../lessons/troubleshooting.md) lists the messages. **A silent one**: `use_cache=True` while
# training keeps keys and values that nobody reads; with checkpointing, transformers switches it off by itself.
#
# ## 9. On a bigger machine
#
# On a GPU this notebook takes SmolLM2-360M, rows of 512 tokens, and longer trainings. Its shape is known, so its
# bill is too:

# %%
from transformers import LlamaConfig

larger = LlamaConfig(
    vocab_size=49152,
    hidden_size=960,
    intermediate_size=2560,
    num_hidden_layers=32,
    num_attention_heads=15,
    num_key_value_heads=5,
    tie_word_embeddings=True,
    architectures=["LlamaForCausalLM"],
)
for kind, checkpointing in (("adamw_torch_fused", False), ("adamw_8bit", False), ("adamw_8bit", True)):
    plan = lessonkit.predict_memory(
        larger,
        "full",
        batch_size=4,
        sequence_length=512,
        padding=False,
        dtype="float32",
        gradient_checkpointing=checkpointing,
        optimizer=kind,
        device="cuda",
    )
    print(f"{kind:<18} checkpointing {checkpointing!s:<6} {plan.peak_bytes / 2**30:5.1f} GiB; a T4 has 15")

# %% [markdown]
# ## 10. The end
#
# 1. A step's memory is weights, gradients, states and activations; each switch moves one of them.
# 2. Checkpointing and accumulation change no gradient beyond rounding; count tokens, not micro-batches.
# 3. float16 runs out of range, so it needs loss scaling; bfloat16 runs out of digits, so weights stay in float32.
# 4. Optimisers differ by bytes more surely than by quality.
# 5. Between a base model and its tuned self lies a line worth walking: most of the skill, less of the forgetting.
#
# The next cell keeps your result. At laptop or GPU scale it counts towards *All Expert Examples*.

# %%
lesson.record(
    base_perplexity_tales=before["tales"].perplexity,
    tuned_perplexity_tales=after["tuned"]["tales"].perplexity,
    averaged_perplexity_tales=after["averaged"]["tales"].perplexity,
    base_perplexity_answers=before["answers"].perplexity,
    tuned_perplexity_answers=after["tuned"]["answers"].perplexity,
    averaged_perplexity_answers=after["averaged"]["answers"].perplexity,
    chosen_alpha=chosen,
    test_rows=before["tales"].n,
)

# %% [markdown]
# **Check yourself.** Your step is out of memory by a few per cent, on rows of 2,048 tokens: which switch first? And
# on rows of 64?
#
# <details><summary>Answers</summary>
#
# Long rows: checkpointing, since activations rule the bill. Short ones: an 8-bit or factored optimiser, since
# weights and states do.
#
# </details>
#
# **Next:** [LoRA, expert](lora.ipynb) leaves the weights where they are, and is written by hand.
