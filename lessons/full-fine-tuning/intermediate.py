# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Full fine-tuning, intermediate
#
# You will be able to teach a chat model a style of writing, know which tokens it learns from, measure what it
# forgets on the way, and get that back.
#
# **100 minutes**, four focus sessions (2 to 3 minutes are training, on 2 CPU cores) · **intermediate** · before
# this: [full fine-tuning, beginner](../beginner/full-fine-tuning.ipynb); in the course's order,
# [prompt tuning, beginner](../beginner/prompt-tuning.ipynb) · background:
# [the guide to full fine-tuning](../../lessons/full-fine-tuning/guide.md) · next:
# [LoRA, intermediate](../intermediate/lora.ipynb)
#
# You will
#
# - see, token by token, what is masked and what is counted, and write the masking yourself;
# - compute perplexity by hand, pack texts without letting them see each other, stop training early;
# - measure what a model forgets, with intervals, and cure it by rehearsal.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("intermediate/full-fine-tuning")

# %%
MODEL = lesson.pick(smoke="smollm2", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-360M-Instruct")
TRAIN_ROWS = lesson.pick(smoke=4, laptop=56, gpu=160)  # rows of each training
REHEARSED = TRAIN_ROWS // 4  # so many of them, in section 8
TEST_ROWS = lesson.pick(smoke=2, laptop=28, gpu=120)  # held-out rows of each kind
BATCH_SIZE = lesson.pick(smoke=2, laptop=4, gpu=8)
NEW_TOKENS = lesson.pick(smoke=4, laptop=40, gpu=40)  # of an answer, at most
LEARNING_RATE = 2e-4
SEED = 0

# %% [markdown]
# ## 1. The task: tell it like the Brothers Grimm
#
# The model is SmolLM2-Instruct, which chats politely about anything. It shall continue an opening in the style of
# Grimm's tales. **Passages** of whole sentences are cut from the tales: the first eight words are the opening, the
# rest is the answer. Held out are whole *tales*: a passage from the middle of a known tale would give too much away.

# %%
import math
import random
import re

import torch
from datasets import Dataset

tokenizer = lessonkit.load_tokenizer(MODEL)


def passages(text, most_words=44):
    """Stretches of whole sentences, each as (its first eight words, the rest)."""
    found = []
    for paragraph in re.split(r"\n+|  +", text):
        words = []
        for sentence in re.split(r"(?<=[.!?’”\"]) +", paragraph):  # after a full stop or a closing quote
            if words and len(words) + len(sentence.split()) > most_words:
                found.append(words)
                words = []
            words = words + sentence.split()
        found.append(words)
    whole = [words for words in found if 16 <= len(words) <= most_words]
    return [(" ".join(words[:8]), " ".join(words[8:])) for words in whole]


# %% tags=["nbval-check-output"]
tales, news = lessonkit.load_dataset("grimm-tales"), lessonkit.load_dataset("bbc-news")
for name, dataset in {"tales": tales, "news": news}.items():
    for split in ("train", "test"):
        count = sum(len(passages(text)) for text in dataset[split]["text"])
        print(f"{name} {split:<6}{len(dataset[split]):>6,} texts {count:>7,} passages")
opening, rest = passages(tales["train"]["text"][0])[1]
print(f"\n{opening} ...\n    {rest}")

# %% [markdown]
# The news (articles of the BBC) is one *other text* that the model should not lose while it learns tales: plain text,
# without a chat. A second one follows in section 3.
#
# ## 2. The chat template, and what counts
#
# A chat model was trained on conversations in one fixed form. Its tokenizer brings that form along as a
# **chat template**; fine-tune in another form, and you teach the form as well. `add_generation_prompt=True` ends the
# text where the model is to begin.


# %%
def chat(question, answer=None):
    """Token ids of a conversation: up to where the answer begins, or with it up to <|im_end|>."""
    messages = [{"role": "user", "content": question}]
    if answer is None:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    messages.append({"role": "assistant", "content": answer})
    ids = tokenizer.apply_chat_template(messages)["input_ids"]
    last = len(ids) - 1 - ids[::-1].index(tokenizer.eos_token_id)
    return ids[: last + 1]  # without the line break that the template puts behind


def row(question, answer):
    prompt, ids = chat(question), chat(question, answer)
    assert ids[: len(prompt)] == prompt  # else the mask would sit in the wrong place
    return {"input_ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt) :]}


# %% [markdown]
# The **labels** are the ids again, but -100 (ignored by the loss) on everything that is not the answer: the model
# will be given a question; it need not learn to write one. That is **label masking**.


# %%
def drawn(texts, count):
    """So many passages of these texts, in random order, the same each time."""
    found = [each for text in texts for each in passages(text)]
    random.Random(SEED).shuffle(found)
    return found[:count]


def tell(opening):
    return f"Tell a tale that begins with: {opening} ..."


def tale_dataset(texts, count):
    return Dataset.from_list([row(tell(opening), rest) for opening, rest in drawn(texts, count)])


def news_dataset(texts, count):
    """Plain text, no chat: everything counts."""
    found = [tokenizer(f"{opening} {rest}")["input_ids"] for opening, rest in drawn(texts, count)]
    return Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in found])


# %%
tale_rows = tale_dataset(tales["train"]["text"][:36], TRAIN_ROWS)  # the last five tales are for validation
example = tale_rows[1]
pieces = [tokenizer.decode([each]) for each in example["input_ids"]]
groups = ["masked" if each == -100 else "counted" for each in example["labels"]]
ax = lessonkit.plots.tokens(pieces, groups, title="One training row, token by token")

# %% [markdown]
# The same as plain text:

# %% tags=["nbval-check-output"]
for group in ("masked", "counted"):
    text = "".join(piece for piece, each in zip(pieces, groups) if each == group)
    print(f"--- {group}: {groups.count(group)} tokens\n{text}")

# %% [markdown]
# `<|im_end|>` is counted: **that is how the model learns to stop.** The template's system message is masked, yet it
# takes part of every row's time.
#
# **Exercise 1, write code.** A conversation may have several turns. Given its ids, the ids of the *header* that opens
# each answer (`<|im_start|>assistant\n`) and the id of the *end*, return the labels: each answer's tokens and its end
# keep their ids, all else is -100. An answer that was cut off has no end, and counts up to the last token.


# %%
TODO = lessonkit.TODO


def mask(ids, header, end):
    return TODO


lesson.exercise("mask").check(mask)

# %% [markdown]
# ## 3. Perplexity, and three kinds of held-out text
#
# **Perplexity** is exp of the mean loss of a counted token: 20 means "as unsure as between 20 equally likely tokens".
# Lower is better. The mean is over *tokens*; batches and texts have different numbers of them.
#
# **Exercise 2, write code.** `batches` is a list of pairs: a batch's mean loss, and how many tokens were counted in
# it. Return the perplexity of all of them together.


# %%
def perplexity_of(batches):
    return TODO


lesson.exercise("perplexity").check(perplexity_of)

# %% [markdown]
# By hand on a model, then: the logits at place *t* foretell the token at *t + 1*, so the labels are shifted by one.

# %%
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, set_seed

device, bf16, fp16 = lesson.hardware.device, lesson.hardware.bf16, lesson.hardware.fp16


def fresh_model():
    set_seed(SEED)
    attention = lesson.hardware.attention
    return lessonkit.load_model(MODEL, AutoModelForCausalLM, attn_implementation=attention).to(device)


def mixed_precision():
    """Matrix products in 16 bits, where the hardware has them."""
    return torch.autocast(device, getattr(torch, lesson.hardware.dtype), enabled=bf16 or fp16)


# %%
@torch.inference_mode()
def perplexity_by_hand(model, rows):
    model.eval()
    loss, tokens = 0.0, 0
    for each in rows:
        ids, labels = (torch.tensor(each[name]).to(device) for name in ("input_ids", "labels"))
        with mixed_precision():
            logits = model(ids[None]).logits[0].float()  # (tokens, vocabulary)
        loss += cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum").item()
        tokens += int((labels[1:] != -100).sum())
    return math.exp(loss / tokens)


# %% [markdown]
# Three kinds of text to measure on. *Tales* and *news* are held out. *Own answers* are what the untrained model says
# to everyday questions: it finds them likely, so a model that drifts away from its old manners finds them less so. No
# old training data is needed for that.

# %%
writer = lessonkit.load_tokenizer(MODEL, padding_side="left")  # an answer begins where the padding ends


@torch.inference_mode()
def answers(model, questions):
    """The model's most likely answers, as lists of ids, up to <|im_end|>."""
    model.eval()
    chats = [[{"role": "user", "content": each}] for each in questions]
    form = {"add_generation_prompt": True, "padding": True, "return_tensors": "pt", "return_dict": True}
    batch = writer.apply_chat_template(chats, **form).to(device)
    with mixed_precision():
        ids = model.generate(
            **batch, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=writer.pad_token_id
        )
    new, end = ids[:, batch["input_ids"].shape[1] :].tolist(), writer.eos_token_id
    return [each[: each.index(end) + 1] if end in each else each for each in new]


def own_answers(model, questions):
    found = []
    for question, answer in zip(questions, answers(model, questions)):
        prompt = chat(question)
        found.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return Dataset.from_list(found)


# %%
base = fresh_model()
SUBJECTS = ["gravity", "bread", "a volcano", "chess", "the Moon", "money", "a bridge"]
FORMS = ["What is {}?", "Explain {} to a child.", "List three facts about {}.", "Write a poem about {}."]
questions = [form.format(subject) for subject in SUBJECTS for form in FORMS]
held_out = {
    "tales": tale_dataset(tales["test"]["text"], TEST_ROWS),
    "news": news_dataset(news["test"]["text"], TEST_ROWS),
    "own answers": own_answers(base, questions[:TEST_ROWS]),
}
for question, each in list(zip(questions, held_out["own answers"]))[:3]:
    print(f"{question} {tokenizer.decode([id for id in each['labels'] if id != -100])!r}")


# %%
def measure(model, name):
    with mixed_precision():
        return {
            kind: lessonkit.perplexity(model, rows, batch_size=16, name=f"{name} ({kind})")
            for kind, rows in held_out.items()
        }


before = measure(base, "untrained model")
few = held_out["tales"].select(range(2))
with mixed_precision():
    library = lessonkit.perplexity(base, few, batch_size=1)
print(f"two tales: by hand {perplexity_by_hand(base, few):.2f}, lessonkit {library.perplexity:.2f}\n")
for scores in before.values():
    print(scores)

# %% [markdown]
# The two agree. The second block is **the baseline: the model before training.** Tales and news are hard for
# it; its own answers are easy, by construction. And what does it write?

# %%
openings = [tell("Hansel and Gretel sat by the fire, and"), tell("The fox once came to a meadow in")]
ordinary = ["What is the capital of France?", "Give me a tip for sleeping well."]


def show(model):
    for question, ids in zip(openings + ordinary, answers(model, openings + ordinary)):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        print(f"> {question}\n  {' '.join(text.split())}")


show(base)

# %% [markdown]
# A story, perhaps, but hardly Grimm's.
#
# *Here ends the first focus session.*
#
# ## 4. Collator, padding, packing
#
# The **collator** makes a batch of rows. Padding fills each up to the longest.
#
# **Exercise 3, predict.** A batch holds rows of 30, 50, 60 and 100 tokens. What share of its places is padding?

# %%
answer = TODO
lesson.exercise("padding").check(answer)

# %%
lengths = [len(each) for each in tale_rows["input_ids"]]
batched = [lengths[at : at + BATCH_SIZE] for at in range(0, len(lengths), BATCH_SIZE)]
padding = 1 - sum(lengths) / sum(max(each) * len(each) for each in batched)
print(
    f"{min(lengths)} to {max(lengths)} tokens a row; {padding:.0%} of all places in the batches are padding"
)

# %% [markdown]
# Those places are computed and thrown away. **Packing** puts texts end to end into one row instead. Three things need
# care: each text's positions must start at 0; no text may attend to another; and no text's first token may be
# foretold from the end of the one before.


# %%
def pack(rows):
    batch = {"input_ids": [], "labels": [], "position_ids": []}
    for each in rows:
        batch["input_ids"] += each["input_ids"]
        batch["labels"] += [-100, *each["labels"][1:]]
        batch["position_ids"] += range(len(each["input_ids"]))
    return {name: torch.tensor([values]) for name, values in batch.items()}  # each (1, all tokens)


# %% tags=["nbval-check-output"]
from transformers import DataCollatorWithFlattening

theirs, ours = (
    DataCollatorWithFlattening()(list(tale_rows.select(range(3)))),
    pack(tale_rows.select(range(3))),
)
print({name: bool((theirs[name] == values).all()) for name, values in ours.items()})

# %% [markdown]
# So `DataCollatorWithFlattening` is those lines. Who may look at whom (a filled place: the row's token sees the
# column's):

# %%
text = torch.tensor([0] * 5 + [1] * 4 + [2] * 7)
causal = torch.ones(16, 16).tril()
ax = lessonkit.plots.matrices(
    {
        "position_ids forgotten:\ntexts see earlier texts": causal,
        "position_ids start again": causal * (text[:, None] == text),
    },
    title="Three texts of 5, 4 and 7 tokens in one row",
)

# %% [markdown]
# In transformers, `position_ids` that start again bring that about, on two conditions: the batch has no
# `attention_mask`, and the model keeps no cache (`use_cache=False`; `Trainer` sees to it, a loop of your own doesn't).
# If all is right, the loss of packed texts is that of the single texts:


# %%
@torch.inference_mode()
def loss_of(**batch):
    return float(base(**{name: values.to(device) for name, values in batch.items()}).loss)


three = tale_rows.select(range(3))
counted = [sum(label != -100 for label in each["labels"]) for each in three]
alone = sum(loss_of(**pack([each])) * count for each, count in zip(three, counted)) / sum(counted)
packed = pack(three)
base.config.use_cache = False
print(f"one by one              {alone:.4f}\npacked                  {loss_of(**packed):.4f}")
base.config.use_cache = True
print(f"packed, with a cache    {loss_of(**packed):.4f}")
del packed["position_ids"]
print(f"position_ids forgotten  {loss_of(**packed):.4f}")

# %% [markdown]
# Neither mistake raises an error. The loss is only another one, maybe a better one: texts read their neighbours. Now
# the speed of both, forward and backward. `CausalLMCollator` pads, and asks for logits only where something is
# counted; packing gets the same saving, for a fair race.

# %%
collator = lessonkit.CausalLMCollator(tokenizer)


def pack_counted(rows):
    batch = pack(rows)
    following = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
    columns = (following[0] != -100).nonzero().squeeze(1)
    return {**batch, "logits_to_keep": columns, "shift_labels": following[:, columns]}


# %%
def tokens_per_second(collate, rows):
    base.train()
    with lessonkit.measure() as used:
        for at in range(0, len(rows), BATCH_SIZE):
            batch = collate(rows[at : at + BATCH_SIZE])
            with mixed_precision():
                tensors = {name: values.to(device) for name, values in batch.items()}
                loss = base(**tensors, use_cache=False).loss
            loss.backward()
            base.zero_grad()
    return sum(len(each["input_ids"]) for each in rows) / used.seconds


raced = list(tale_rows.select(range(2 * BATCH_SIZE)))
for name, collate in {"padding": collator, "packing": pack_counted}.items():
    speeds = [tokens_per_second(collate, raced) for _ in range(lesson.pick(smoke=1, laptop=2, gpu=3))]
    print(f"{name}: {max(speeds):,.0f} real tokens per second")

# %% [markdown]
# No packed place is wasted, so packing can save up to the share of padding: little here, where rows are alike (hardly
# anything, on the machine that built this page); a lot where lengths differ. Attention takes a part of it
# back: the packed row is long, and what its texts may not see is computed and thrown away, unless
# `attn_implementation="flash_attention_2"` (GPUs only) skips it.
#
# ## 5. Schedule and weight decay
#
# The learning rate of every step, for three schedules:

# %%
from transformers import get_scheduler

STEPS = math.ceil(TRAIN_ROWS / BATCH_SIZE)


def rates(kind, warmup, steps=100):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=LEARNING_RATE)
    schedule, found = get_scheduler(kind, optimizer, int(warmup * steps), steps), []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return range(steps), found


kinds = ["constant_with_warmup", "linear", "cosine"]
ax = lessonkit.plots.curves(
    {kind: rates(kind, 0.1) for kind in kinds}, xlabel="per cent of the steps", ylabel="learning rate"
)

# %%
from ipywidgets import interact


@interact(kind=kinds, warmup=(0.0, 0.5, 0.1))
def draw(kind="cosine", warmup=0.1):
    lessonkit.plots.curves(
        {kind: rates(kind, warmup)}, xlabel="per cent of the steps", ylabel="learning rate"
    )


# %% [markdown]
# All warm up: in its first steps, AdamW's averages rest on few gradients. *Cosine* stays high for longer than *linear*
# and then falls faster; both end near 0, where the weights settle.
#
# **Weight decay** pulls weights towards 0 by a small share of themselves at each step. That suits matrices. A norm's
# scale multiplies a whole channel, and starts at 1, not near 0; biases are few and shift outputs. `Trainer` makes two
# groups:

# %%
from transformers import Trainer, TrainingArguments

arguments = TrainingArguments(
    output_dir=str(lesson.folder / "tales"),
    num_train_epochs=1,
    per_device_train_batch_size=BATCH_SIZE,
    learning_rate=LEARNING_RATE,
    lr_scheduler_type="cosine",
    warmup_steps=0.1,
    weight_decay=0.01,
    optim="adamw_torch_fused",
    bf16=bf16,
    fp16=fp16,
    use_cpu=device == "cpu",
    logging_steps=2,
    save_strategy="no",
    report_to="none",
    seed=SEED,
)


# %%
def trainer_for(rows, learning_rate=LEARNING_RATE):
    arguments.learning_rate = learning_rate
    return Trainer(fresh_model(), arguments, train_dataset=rows, data_collator=collator)


trainer = trainer_for(tale_rows)
parameters = dict(trainer.model.named_parameters())
decayed = set(trainer.get_decay_parameter_names(trainer.model)) & set(parameters)
for name in list(parameters)[:11]:
    print(f"{'decays' if name in decayed else '-':<8}{name:<48}{tuple(parameters[name].shape)}")
matrices = {name for name in parameters if parameters[name].ndim > 1}
print(f"\n{len(decayed)} of {len(parameters)} tensors decay; they are the matrices: {decayed == matrices}")
del parameters

# %% [markdown]
# This model has no biases. Its embeddings decay too; as they are also its output layer (*tied*), they are listed once.
#
# *Here ends the second focus session.*
#
# ## 6. Plain fine-tuning
#
# One pass through the tale passages. Expect the loss to fall fast at first: much of a style is quickly learned.

# %%
plain_run = lessonkit.run(trainer)
plain = trainer.model
plain.zero_grad()
after_plain = measure(plain, "plain fine-tuning")
print(lessonkit.compare_perplexities(after_plain["tales"], before["tales"]))

# %% [markdown]
# On tales that it has never seen, the whole interval of the ratio lies far below 1: it has learned the style, after
# one pass.
#
# ## 7. What it forgot
#
# **Exercise 4, predict.** Training mentioned neither news nor everyday questions. News is plain text; the own answers
# stand in a chat, as the tales do. Whose perplexity rose by the larger factor? `"a"` news: nothing in the training is
# like it; `"b"` own answers; `"c"` both about alike; `"d"` neither rose.

# %%
answer = TODO
lesson.exercise("forgetting").check(answer)

# %%
for kind in held_out:
    print(lessonkit.compare_perplexities(after_plain[kind], before[kind]), "\n")

# %%
show(plain)

# %% [markdown]
# This is **catastrophic forgetting**, and it has a place. The news are hardly touched. But behind a question in a
# chat the model now expects a tale (speech in quotation marks, short clauses, many an *and*), whatever was asked:
# there, what it used to say has become far less likely. (Whether what it knew is gone or only out of reach, these
# numbers can't tell.) Had we measured news alone, we would have called this training harmless. A part of the gain on
# tales is form: it goes on in mid-sentence, where the untrained model began anew.
#
# ## 8. The cure: mix some back in
#
# **Rehearsal**: a quarter of the rows become what was lost, here the untrained model's own answers, to *other*
# questions than the held-out ones. The number of rows stays, so there are fewer tales.

# %%
from datasets import concatenate_datasets

OTHERS = ["rain", "music", "a clock", "salt", "a map", "a horse", "paper", "a garden", "winter", "the heart"]
asked = [form.format(subject) for subject in OTHERS for form in FORMS]
random.Random(SEED).shuffle(asked)
rehearsal = own_answers(base, asked[:REHEARSED])
mixture = concatenate_datasets([tale_rows.select(range(TRAIN_ROWS - REHEARSED)), rehearsal])
mixture = mixture.shuffle(seed=SEED)  # else the rehearsal would all come last
print(f"{len(mixture)} rows, {len(rehearsal)} of them own answers; questions shared with the test:", end=" ")
print(len(set(asked) & set(questions)))

# %%
del trainer, plain
trainer = trainer_for(mixture)
mixed_run = lessonkit.run(trainer)
mixed = trainer.model
mixed.zero_grad()
after_mixed = measure(mixed, "rehearsal")

# %%
for kind in held_out:
    print(lessonkit.compare_perplexities(after_mixed[kind], after_plain[kind]))
    print(lessonkit.compare_perplexities(after_mixed[kind], before[kind]), "\n")

# %%
ratios = {
    f"{kind}, {name}": after[kind].perplexity / before[kind].perplexity
    for kind in held_out
    for name, after in {"plain": after_plain, "rehearsal": after_mixed}.items()
}
ax = lessonkit.plots.bars(ratios, xlabel="perplexity, as a multiple of the untrained model's", fmt="{:.2f}")
_ = ax.axvline(1, color="black", linewidth=1, linestyle=":")  # as before training

# %%
show(mixed)

# %% [markdown]
# For each kind, the first line compares with plain fine-tuning, the second with the untrained model. On the machine
# that built this page, own answers came back from 2.8 times the untrained model's perplexity to 1.02 times, which
# can't be told from 1. Tales gave up next to nothing, with a quarter fewer rows. And everyday questions get answers
# again (not true in every detail); those asked here were not rehearsed, the last one not even in its form.
#
# What nobody rehearses, nothing protects. And the intervals tell how much other *texts* would change, not another
# training: that takes more seeds.
#
# *Here ends the third focus session.*
#
# ## 9. Early stopping
#
# When is a model trained enough? Watch the loss on **validation** rows, here from the five tales that we kept out of
# training, and stop when it no longer falls. To see that happen soon, the model gets only eight rows, again
# and again. `load_best_model_at_end` brings the best checkpoint back; without `save_only_model`, each would hold
# AdamW's averages as well, three times the size.

# %%
from transformers import EarlyStoppingCallback

del trainer, mixed
watched = TrainingArguments(
    output_dir=str(lesson.folder / "early"),
    num_train_epochs=lesson.pick(smoke=2, laptop=10, gpu=10),
    per_device_train_batch_size=4,
    per_device_eval_batch_size=16,
    learning_rate=3e-4,
    lr_scheduler_type="constant",
    eval_strategy="epoch",
    save_strategy="epoch",
    save_only_model=True,
    save_total_limit=1,
    load_best_model_at_end=True,
    metric_for_best_model="eval_loss",
    prediction_loss_only=True,
    logging_strategy="epoch",
    bf16=bf16,
    fp16=fp16,
    use_cpu=device == "cpu",
    report_to="none",
    seed=SEED,
)

# %%
stopper = Trainer(
    fresh_model(),
    watched,
    train_dataset=tale_rows.select(range(lesson.pick(smoke=2, laptop=8, gpu=8))),
    eval_dataset=tale_dataset(tales["train"]["text"][36:], lesson.pick(smoke=2, laptop=8, gpu=64)),
    data_collator=collator,
    callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
)
stopped_run = lessonkit.run(stopper)

# %%
series = {}
for name, key in {"the eight rows": "loss", "validation rows": "eval_loss"}.items():
    entries = [entry for entry in stopped_run.history if key in entry]
    series[name] = [entry["epoch"] for entry in entries], [entry[key] for entry in entries]
ax = lessonkit.plots.curves(series, xlabel="epoch", ylabel="loss")
steps_per_epoch = stopper.state.global_step / stopper.state.epoch
best = round(stopper.state.best_global_step / steps_per_epoch)
print(f"stopped after epoch {stopper.state.epoch:.0f} of {watched.num_train_epochs}; loaded: epoch {best}")
del stopper  # with AdamW's averages

# %% [markdown]
# Where the curves part, the model learns its eight rows by heart. That is **overfitting**: it fails on new texts of
# the *same* task; forgetting fails on another. **Patience** is how many evaluations in a row may fail to beat the
# *best* so far before it stops. The learning rate is constant here on purpose: a decaying schedule that is cut off
# never reaches its small steps.
#
# **Exercise 5, predict.** Six evaluations would give 3.60, 3.20, 3.10, 3.15, 3.12 and 3.05. With a patience of 2,
# after which one does the training stop, and which one's weights are loaded? Count from 1.

# %%
answer = {"stops after": TODO, "loads": TODO}
lesson.exercise("patience").check(answer)

# %% [markdown]
# **Exercise 6, run an experiment.** Without rehearsal, one can still *move less*. Train on `tale_rows` alone, with
# another learning rate, so that own answers have at most **2.0 times** the untrained model's perplexity, and tales at
# most 0.85 times. Take this into the cell, above `answer`, and change the rate:
#
# ```python
# yours = trainer_for(tale_rows, learning_rate=2e-4)  # as before
# lessonkit.run(yours)
# after = measure(yours.model, "new model")
# mine = {kind: lessonkit.compare_perplexities(after[kind], before[kind]) for kind in held_out}
# print(*mine.values(), sep="\n")
# ```
#
# Then replace `TODO` with `mine`. How far do tales come, beside rehearsal at the full rate?

# %%
answer = TODO
lesson.exercise("move-less").check(answer)

# %% [markdown]
# ## 10. What goes wrong
#
# **It never stops.** SmolLM2 pads with `<|im_end|>`. Transformers' collator for language modelling makes labels from
# the ids, and ignores *every* padding token, so the end marks of the answers go too:

# %% tags=["nbval-check-output"]
from transformers import DataCollatorForLanguageModeling

end = tokenizer.eos_token_id
two = [{"input_ids": chat("Hello", "Good day."), "attention_mask": [1] * len(chat("Hello", "Good day."))}] * 2
naive = DataCollatorForLanguageModeling(tokenizer, mlm=False)(two)["labels"]
careful = collator([row("Hello", "Good day.")] * 2)["labels"]
print("pad token:", tokenizer.pad_token)
for name, labels in {"DataCollatorForLanguageModeling": naive, "labels of our own": careful}.items():
    print(
        f"{name}: {int((labels == end).sum())} end marks counted, {int((labels != -100).sum())} tokens in all"
    )

# %% [markdown]
# Nothing teaches such a model to stop where your answers stop; and it learns to write questions, as the prompt is
# counted.
#
# **Nothing is counted.** Truncation cut the answer off behind a long prompt:

# %% tags=["nbval-check-output"]
short = {name: values[:20] for name, values in row("Who was Rapunzel?", "A girl in a tower.").items()}
try:
    collator([short])
except lessonkit.LessonkitError as error:
    print(error)

# %% [markdown]
# **Two texts in one.** A template applied, then tokenized again by a tokenizer that adds its own begin and end marks;
# or an answer trained in another template than it is asked in later. The cure for all of these: decode one row and
# read it, as section 2 does. More: [troubleshooting](../../lessons/troubleshooting.md).
#
# ## 11. On a bigger machine
#
# With a GPU of 14 GiB or more, the notebook takes SmolLM2-360M-Instruct, twice the training rows, and more
# held-out texts. Predicted peak of a training step:

# %%
from transformers import LlamaConfig

larger = LlamaConfig(  # SmolLM2-360M
    vocab_size=49152, hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15,
    num_key_value_heads=5, tie_word_embeddings=True,
)  # fmt: skip
plan = lessonkit.predict_memory(
    larger, batch_size=8, sequence_length=128, device="cuda", dtype="float32", mixed_precision=True,
    optimizer="adamw_torch_fused",
)  # fmt: skip
print(f"{plan.total_parameters / 1e6:.0f} M parameters: {plan.peak_bytes / 2**30:.1f} GiB of a T4's 15 GiB")

# %% [markdown]
# ## 12. The end
#
# 1. Only the answer's tokens count, with `<|im_end|>`; look at one row before you train.
# 2. Perplexity is exp of the loss per token, over all tokens; compare it on the same texts, with an interval.
# 3. Packing spares the padding, if texts can't see each other.
# 4. Plain fine-tuning forgets what nobody asked it to keep; you only see that if you measure it, on the right text.
# 5. Some of the lost text in the new data, at no further step, brings it back; the model can write it itself.
#
# The next cell keeps your result. At laptop or GPU scale it counts towards *Run all intermediate examples*.

# %%
lesson.record(
    tales_before=before["tales"].perplexity,
    tales_plain=after_plain["tales"].perplexity,
    tales_rehearsal=after_mixed["tales"].perplexity,
    news_before=before["news"].perplexity,
    news_plain=after_plain["news"].perplexity,
    news_rehearsal=after_mixed["news"].perplexity,
    own_answers_before=before["own answers"].perplexity,
    own_answers_plain=after_plain["own answers"].perplexity,
    own_answers_rehearsal=after_mixed["own answers"].perplexity,
    padding_share=padding,
    test_rows=TEST_ROWS,
)

# %% [markdown]
# **Check yourself.** Your tuned model's perplexity on held-out news is that of the untrained model. Has it forgotten
# nothing? Why is a model's perplexity on its own most likely answers so low?
#
# <details><summary>Answers</summary>
#
# That says something about news, and nothing about chats or code: measure what you will need. And it chose each token
# of those answers because it found it the most likely one.
#
# </details>
#
# **Next:** [LoRA, intermediate](../intermediate/lora.ipynb) asks what full fine-tuning really changed: how many
# directions, seen in the singular values of the weights' differences.
