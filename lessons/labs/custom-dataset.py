# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Custom dataset
#
# You will be able to turn your own pairs of question and answer into a clean, documented training set, fine-tune a
# model on them with three techniques, and say from held-out answers which of them is worth its price.
#
# **120 minutes**, four focus sessions (about 4 minutes are computing, on 2 CPU cores) · **intermediate** · before this:
# [understanding metrics](understanding-metrics.ipynb), [full fine-tuning,
# intermediate](../intermediate/full-fine-tuning.ipynb) and [LoRA, intermediate](../intermediate/lora.ipynb) · next:
# [compare techniques](compare-techniques.ipynb)
#
# You will
#
# - find what is wrong with the pairs, personal data above all, and see what a search for it misses;
# - write a dataset card that a library reads, and see for each token whether it is trained;
# - compare prompt tuning, LoRA and adapters with two baselines, field by field.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("labs/custom-dataset")

# %% [markdown]
# ## 1. The one line that you change
#
# Run the notebook once as it is, with pairs that we wrote for it: orders to a kitchen in plain words, and the line that
# the kitchen's program wants. Then put **your** file into the next cell and run everything again: `"my-pairs.csv"`,
# `.tsv`, `.jsonl` or `.xlsx`, with a column of questions and one of answers (`prompt` and `answer`, say), or text pasted
# between `"""` and `"""`. It takes 60 pairs or more, short ones to begin with. The file is only read.

# %%
SOURCE = lessonkit.sample_file("orders.jsonl")

# %% [markdown]
# The sizes depend on the machine:

# %%
MODEL = lesson.pick(smoke="smollm2", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-360M-Instruct")
TECHNIQUES = lesson.pick(
    smoke=["prompt tuning", "LoRA", "adapters"],
    laptop=["prompt tuning", "LoRA", "adapters"],
    gpu=["prompt tuning", "LoRA", "adapters", "QLoRA", "full fine-tuning"],
)
STEPS = lesson.pick(smoke=1, laptop=18, gpu=60)  # of each training
BATCH_SIZE = lesson.pick(smoke=2, laptop=4, gpu=8)
MOST_TESTED = lesson.pick(smoke=2, laptop=28, gpu=200)  # pairs that answers are written for
LONGEST = lesson.pick(smoke=96, laptop=96, gpu=512)  # tokens of a whole row; longer ones are left out
NEW_TOKENS = lesson.pick(smoke=3, laptop=48, gpu=256)  # of an answer, at most
RATES = {"prompt tuning": 2e-2, "LoRA": 2e-3, "adapters": 3e-3, "QLoRA": 2e-3, "full fine-tuning": 1e-4}
SEED = 0

# %% [markdown]
# ## 2. What is wrong with them?
#
# `✖` stops a training, `!` should be mended, `·` is good to know. `check` ends the notebook here, and says why, if there
# is nothing to train on.

# %%
report = lessonkit.check_pairs(SOURCE)
print(report)
report.check()

# %% [markdown]
# Look before you believe it. The first pairs, then some that the report means:

# %% tags=["nbval-check-output"]
for prompt, answer in zip(report.prompts[:3], report.answers):
    print(f"{prompt}\n    {answer}")
print()
for finding in report.findings:
    for line, prompt, answer in report.examples(finding.name, most=2):
        print(f"{finding.name[:13]:<14} line {line:>3}  {prompt[:50]!r} -> {answer[:36]!r}")

# %% [markdown]
# A loop, a `TODO`, an echo: a model learns to write these as readily as the rest. `cure` makes a mended copy. One cure
# must be asked for, as only you know whether two answers to one question may both be right. Here they can't, and the
# first is kept (is it the right one?).

# %% tags=["nbval-check-output"]
pairs, steps = report.cure("two answers")
log = [f"{len(report.lines):,} pairs were read", *steps]
print(*log, f"{len(pairs):,} pairs are left", sep="\n")

# %% [markdown]
# ## 3. Personal data
#
# What a model was trained on, it can say again, to anybody. The cure has masked what it found, by two functions:
# `find_personal` looks for patterns and recomputes check digits; `mask_personal` puts a word in their place, so that the
# sentence stays one.

# %%
from lessonkit.texts import find_personal, mask_personal

for line, prompt, _ in report.examples("personal data") if report.finding("personal data") else []:
    print(f"line {line:>3}  {[each.kind for each in find_personal(prompt)]}  {mask_personal(prompt)[0]}")

# %% [markdown]
# **Exercise 1, predict.** Each of these six sentences holds something personal. In how many does `find_personal` find
# it?

# %%
TODO = lessonkit.TODO
sentences = [
    "Ring me on +44 20 7946 0958.",
    "Ring me: oh three oh, five five five, oh one nine nine.",
    "Bill to paolo@example.org.",
    "Bill to paolo at example dot org.",
    "We live at 12 Mill Lane, second floor.",
    "I am diabetic, so nothing sweet.",
]
answer = TODO
lesson.exercise("patterns").check(answer)

# %% tags=["nbval-check-output"]
for sentence in [*sentences, "Parcel 0049 1234 5678 has arrived."]:
    print(f"{', '.join(each.kind for each in find_personal(sentence)) or '-':<7} {sentence}")

# %% [markdown]
# It errs both ways: it misses what has no pattern, health among it, which laws such as the GDPR guard most strictly;
# and the last line is a false alarm. So cast a second, wider net of words that *go with* personal data, and read what
# it brings up; for your file, write your own words into it (ours was made for this one). What it catches here is
# dropped: a handful of pairs isn't worth the risk. (More than one pair in twenty? Then the net is too wide to drop
# by.)

# %%
import re

NET = re.compile(
    r"\b(ring|call|text) me(?!.*\[phone\])|\b\w+ at \w+ dot \w+"
    r"|\b(lane|street|road|flat|floor)\b|\b(diabet|allerg|pregnan)",
    re.IGNORECASE,
)
caught = [bool(NET.search(f"{row['prompt']} {row['answer']}")) for row in pairs]
for row in [row for row, hit in zip(pairs, caught) if hit][:10]:
    print(f"line {row['line']:>3}  {row['prompt'][:100]}")
if sum(caught) <= len(pairs) / 20:
    pairs = pairs.select([place for place, hit in enumerate(caught) if not hit])
    log.append(f"personal data by a net of words, read by eye: {sum(caught)} pairs left out")
print(f"{len(pairs):,} pairs are left")

# %% [markdown]
# The first names stay: the line needs them. At work you would put invented ones in their place, the same in question and
# answer; else the model learns to make names up.
#
# **Exercise 2, write code.** Replace the name `old` by `new` in both texts, and return both. In chats it may be written
# small (`- ada`); a part of another word (`Adam`, `salad at`) must stay.


# %%
def rename(prompt, answer, old, new):
    return TODO


lesson.exercise("rename").check(rename)

# %% [markdown]
# ## 4. Filters of your own
#
# The report knows nothing of *your* task. These answers are lines of `field=value`. If nine in ten have the same fields,
# the others are suspects. So is a value that isn't in the question, in a field that is nearly always copied from it.
# (Answers of plain text have no fields; then only length counts.)

# %%
from collections import Counter


def fields(answer):
    """{"dish": "pizza", ...} of dish=pizza; count=2; what has no = in it is passed over."""
    parts = [part.partition("=") for part in answer.split(";")]
    return {name.strip(): value.strip() for name, sign, value in parts if sign}


usual, count = Counter(tuple(fields(each)) for each in pairs["answer"]).most_common(1)[0]
FIELDS = usual if count >= 0.9 * len(pairs) else ()


def in_question(row, name):
    return fields(row["answer"]).get(name, "").casefold() in row["prompt"].casefold()


copied = {name: sum(in_question(row, name) for row in pairs) / len(pairs) for name in FIELDS}
COPIED = [name for name, share in copied.items() if share >= 0.95]
print({name: f"{share:.0%}" for name, share in copied.items()}, "-> copied:", COPIED)

# %%
tokenizer = lessonkit.load_tokenizer(MODEL)


def flaw(row):
    """What is wrong with a pair, in a word or two; "" if nothing is."""
    found = fields(row["answer"])
    if FIELDS and "; ".join(f"{name}={found.get(name) or '?'}" for name in FIELDS) != row["answer"]:
        return "another form"
    if not all(in_question(row, name) for name in COPIED):
        return "not in the question"
    if len(tokenizer(row["prompt"] + row["answer"])["input_ids"]) > LONGEST - 16:  # 16: the chat's own
        return "too long"
    return ""


# %%
flaws = [flaw(row) for row in pairs]
for row, why in [(row, why) for row, why in zip(pairs, flaws) if why][:8]:
    print(f"{why:<20} line {row['line']:>3}  {row['prompt'][:40]!r} -> {row['answer'][:50]!r}")
pairs = pairs.select([place for place, why in enumerate(flaws) if not why])
log += [f"{why}: {count:,} pairs left out" for why, count in Counter(flaws).items() if why]
log.append(f"{len(pairs):,} pairs are left")
if len(pairs) < 40:
    message = f"{len(pairs)} pairs are left, too few to train on and to test with."
    raise lessonkit.texts.UnusableError(message, why="; ".join(log), fix="add pairs, or raise LONGEST")
print(*log, sep="\n")

# %% [markdown]
# An answer from another customer's order reads as well as a right one; only the comparison with its question gives it
# away. What we can't find so: a wrong count, a wrong time. For those, read a sample of fifty.
#
# Now hold out a test, and some pairs for validation. `split_texts` parts no near-duplicates.

# %%
split = lessonkit.split_texts(pairs, test=0.2, validation=0.1, seed=SEED, text="prompt")
split = {name: split[name].shuffle(seed=SEED) for name in ("train", "validation", "test")}
print({name: len(part) for name, part in split.items()})
print("questions of the test in train:", len(set(split["test"]["prompt"]) & set(split["train"]["prompt"])))

# %% [markdown]
# New orders, but in phrasings that occur in train as well. Whether a model copes with *other* phrasings, this test can't
# tell.
#
# *Here ends the first focus session.*
#
# ## 5. A card
#
# In a year nobody knows what was left out, unless it is written down where the data is. A **dataset card** is a
# `README.md`; its head, between two lines of `---`, is YAML that programs read. The hashes say which bytes it speaks of.

# %%
import hashlib
import json

folder = lesson.folder / "dataset"
folder.mkdir(parents=True, exist_ok=True)
for name, part in split.items():
    rows = [{"prompt": row["prompt"], "answer": row["answer"]} for row in part]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


hashes = {name: sha256(folder / f"{name}.jsonl") for name in split}

# %%
from huggingface_hub import DatasetCard, DatasetCardData

head = DatasetCardData(
    pretty_name=f"Pairs from {report.source}",
    language="en",
    license="unknown",  # say it before you share it; whose texts are they?
    task_categories=["text-generation"],
    size_categories="n<1K" if len(pairs) < 1000 else "1K<n<10K" if len(pairs) < 10_000 else "10K<n<100K",
    configs=[{"config_name": "default", "data_files": [{"split": n, "path": f"{n}.jsonl"} for n in split]}],
    dataset_info={
        "features": [{"name": name, "dtype": "string"} for name in ("prompt", "answer")],
        "splits": [
            {"name": n, "num_bytes": (folder / f"{n}.jsonl").stat().st_size, "num_examples": len(part)}
            for n, part in split.items()
        ],
    },
)

# %%
body = f"""
# {head.pretty_name}

**For** teaching a small model to write such answers. **Not for** any decision about people.

**Fields.** `prompt`: what a person wrote. `answer`: {"; ".join(FIELDS) or "text"}.

**Cleaning:**

{chr(10).join(f"- {each}" for each in log)}

**Splits** at random (seed {SEED}), near-duplicates on one side. SHA-256:

{chr(10).join(f"- `{name}.jsonl` {each}" for name, each in hashes.items())}

**Known limits.** Patterns and a net of words can't find all personal data. Train and test share their phrasings.
"""
card = DatasetCard(f"---\n{head.to_yaml()}\n---\n{body}")
card.save(folder / "README.md")
print((folder / "README.md").read_text(encoding="utf-8"))

# %% [markdown]
# Does a program understand it? `load_dataset` takes the folder, finds the splits by the card, and compares the counts:

# %%
from datasets import load_dataset

loaded = load_dataset(str(folder), cache_dir=str(lesson.folder / "cache"))
print({name: part.num_rows for name, part in loaded.items()}, loaded["train"].column_names)
print("read back as written:", all(loaded[n]["answer"] == split[n]["answer"] for n in split))

# %% [markdown]
# **Exercise 3, predict.** Somebody mends one answer in `test.jsonl`, and says nothing. Who notices?
#
# - **a** `load_dataset`, by the counts
# - **b** the hash in the card, if you compare it
# - **c** both
# - **d** nobody

# %%
answer = TODO
lesson.exercise("tampered").check(answer)

# %%
for what, extra in {"one answer changed": "", "a pair added": '{"prompt": "a", "answer": "b"}\n'}.items():
    other = lesson.folder / what.replace(" ", "-")
    other.mkdir(exist_ok=True)
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    text = (folder / "test.jsonl").read_text(encoding="utf-8")
    last = json.dumps(split["test"]["answer"][-1], ensure_ascii=False)
    changed = text.replace(last, '"mended"') if not extra else text + extra
    (other / "test.jsonl").write_text(changed, encoding="utf-8", newline="\n")
    try:
        said = f"{len(load_dataset(str(other), cache_dir=str(other / 'cache'))['test'])} test pairs, no complaint"
    except Exception as error:
        said = type(error).__name__
    print(f"{what}: load_dataset: {said}; same hash: {sha256(other / 'test.jsonl') == hashes['test']}")

# %% [markdown]
# ## 6. Into the chat's form, with the right tokens trained
#
# As in [full fine-tuning, intermediate](../intermediate/full-fine-tuning.ipynb): the tokenizer's template makes a
# conversation, and labels are -100 where nothing is to be learned. Without a system message this template adds one of
# its own; we pass an empty one, in training and in use alike, which spares its tokens in every row.


# %%
def chat(question, answer=None, system="", examples=()):
    """Token ids up to where the answer begins; with an answer, up to and with its <|im_end|>."""
    messages = [{"role": "system", "content": system}]
    for asked, said in examples:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    messages.append({"role": "user", "content": question})
    if answer is None:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    messages.append({"role": "assistant", "content": answer})
    ids = tokenizer.apply_chat_template(messages)["input_ids"]
    last = len(ids) - 1 - ids[::-1].index(tokenizer.eos_token_id)
    return ids[: last + 1]


def row(prompt, answer):
    asked, ids = chat(prompt), chat(prompt, answer)
    assert ids[: len(asked)] == asked  # else the mask would sit in the wrong place
    return {"input_ids": ids, "labels": [-100] * len(asked) + ids[len(asked) :]}


# %%
from datasets import Dataset


def rows_of(pairs):
    return Dataset.from_list([row(each["prompt"], each["answer"]) for each in pairs])


train_rows = rows_of(split["train"].select(range(min(2000, len(split["train"])))))
first = train_rows[0]
marks = ["masked" if label == -100 else "trained" for label in first["labels"]]
ax = lessonkit.plots.tokens(
    [tokenizer.decode([each]) for each in first["input_ids"]], marks, title="Which tokens are trained?"
)

# %% [markdown]
# By eye for one row, by program for all: what is trained must be the answer and the end mark, no more and no less.

# %% tags=["nbval-check-output"]
wrong = 0
for each, pair in zip(train_rows, split["train"]):
    trained = tokenizer.decode([label for label in each["labels"] if label != -100])
    wrong += trained != pair["answer"] + tokenizer.eos_token
print(f"{wrong} of {len(train_rows):,} rows are masked wrongly")

# %% [markdown]
# **Exercise 4, predict.** A row has 40 masked tokens, then 30 of the answer and the end mark. It is cut to 64 tokens.
# How many are still trained? (And what will this row not teach?)

# %%
answer = TODO
lesson.exercise("cut-off").check(answer)

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 7. Two baselines: tell it, show it
#
# Can the model do it untrained? It gets an instruction; then the same and two examples in the prompt (**few-shot**).
# Write a better `INSTRUCTION`, if you can.

# %%
INSTRUCTION = "Write the answer to this."
if FIELDS:
    INSTRUCTION = "Write this as one line: " + "; ".join(f"{name}=..." for name in FIELDS)
test = split["test"].select(range(min(MOST_TESTED, len(split["test"]))))
examples = [(each["prompt"], each["answer"]) for each in split["train"].select(range(2))]
longest = max(len(tokenizer(each)["input_ids"]) for each in split["train"]["answer"])
MOST_NEW = min(longest + 1, NEW_TOKENS)  # 1: the end mark
print(INSTRUCTION)

# %% [markdown]
# One function writes the answers of every model below. Rows are padded on the left, so that each answer begins where
# its question ends. A soft prompt (vectors in front; section 8) goes *behind* the padding, which is why we hand over
# vectors instead of ids.

# %%
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, set_seed

device, bf16, fp16 = lesson.hardware.device, lesson.hardware.bf16, lesson.hardware.fp16
DTYPE = getattr(torch, lesson.hardware.dtype)


def fresh_model(quantization=None):
    set_seed(SEED)
    attention = lesson.hardware.attention
    model = lessonkit.load_model(
        MODEL, AutoModelForCausalLM, quantization_config=quantization, attn_implementation=attention
    )
    return model if quantization else model.to(device)


# %%
@torch.inference_mode()
def answers(model, prompts, soft_prompt=None):
    """The most likely answer to each prompt, a list of token ids."""
    model.eval()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # LoRA is inside of it
    replies = []
    for at in range(0, len(prompts), 48):
        rows = [
            base.get_input_embeddings()(torch.tensor(ids, device=device)) for ids in prompts[at : at + 48]
        ]
        if soft_prompt is not None:
            rows = [torch.cat([soft_prompt.to(each), each]) for each in rows]
        real = [torch.ones(len(each), dtype=torch.long, device=device) for each in rows]
        batch = {"inputs_embeds": rows, "attention_mask": real}  # each row (its tokens, hidden)
        batch = {n: pad_sequence(each, batch_first=True, padding_side="left") for n, each in batch.items()}
        with torch.autocast(device, DTYPE, enabled=bf16 or fp16):
            written = base.generate(
                **batch, max_new_tokens=MOST_NEW, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        replies += tokenizer.batch_decode(written, skip_special_tokens=True)
    return [" ".join(each.split()) for each in replies]


# %% [markdown]
# Two scores. **Exact match**: the whole answer equals the reference. **Field-wise**: the share of the reference's
# fields that are right, which tells a slip from nonsense; for plain text, the F1 of shared words instead. (`always
# '...'` is the baseline: train's most frequent answer, each time.)

# %%
import numpy as np


def partial(reply, reference):
    if FIELDS:
        given = fields(reply)
        return float(np.mean([given.get(name) == value for name, value in fields(reference).items()]))
    mine, wanted = reply.split(), reference.split()
    return 2 * sum((Counter(mine) & Counter(wanted)).values()) / max(len(mine) + len(wanted), 1)


references = [" ".join(each.split()) for each in test["answer"]]
replies, costs = {}, {}


def judge(name, prompts, model, soft_prompt=None, **cost):
    replies[name] = answers(model, prompts, soft_prompt)
    read = np.mean([len(ids) for ids in prompts]) + (0 if soft_prompt is None else len(soft_prompt))
    costs[name] = {"read": read, **cost}
    parts = [partial(*both) for both in zip(replies[name], references)]
    low, high = lessonkit.bootstrap_interval(parts)
    print(lessonkit.exact_match(replies[name], references, train_answers=split["train"]["answer"]))
    print(f"field-wise {np.mean(parts):.3f} (95 % interval {low:.3f} to {high:.3f})")


# %%
base = fresh_model()
told = [chat(each, system=INSTRUCTION) for each in test["prompt"]]
judge("told", told, base)
shown = [chat(each, system=INSTRUCTION, examples=examples) for each in test["prompt"]]
judge("shown", shown, base)
del base


def show(names, orders=range(3)):
    for place in list(orders)[: len(test)]:
        print(f"{test['prompt'][place]}\n    {'(wanted)':<16} {references[place]}")
        for name in names:
            print(f"    {name:<16} {replies[name][place][:110]}")


show(replies)

# %% [markdown]
# Told, it chats. Shown, it writes the form at once; but what stands in it? Look for dishes and names that come from
# the examples and not from the order. And each order drags instruction and examples along, to be read again every
# time. (0 of 28 gives 0.000 to 0.000, for a bootstrap can't draw what it never saw; the truth may be one in ten.)
#
# ## 8. Three techniques, one budget
#
# [Prompt tuning](../beginner/prompt-tuning.ipynb) trains vectors in front of the question, LoRA low-rank changes of
# the weights, [adapters](../intermediate/adapters.ipynb) small layers behind each block. The same pairs in the same
# order, the same number of steps (on this page 18 of 4 pairs: 72 of the 304 are read); the learning rates are near
# those of our lessons, none tuned here. The prompts are bare: what to do is what training teaches. First the models.
# The soft prompt starts from the words of the instruction.

# %%
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from lessonkit.adapters import add_adapter, save_adapter


def prompt_tuning():
    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=len(tokenizer(INSTRUCTION)["input_ids"]),
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=INSTRUCTION,
        tokenizer_name_or_path=tokenizer.name_or_path,
    )
    return get_peft_model(fresh_model(), config)


def lora(quantization=None):
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
    return get_peft_model(fresh_model(quantization), config)


def adapters():
    model = fresh_model()
    add_adapter(model, "yours", bottleneck=16)  # one behind each feed-forward block
    return model


# %% [markdown]
# These two need more memory or time, and run on a GPU:

# %%
from transformers import BitsAndBytesConfig


def qlora():
    return lora(
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPE)
    )


makers = {
    "prompt tuning": prompt_tuning,
    "LoRA": lora,
    "adapters": adapters,
    "QLoRA": qlora,
    "full fine-tuning": fresh_model,
}

# %%
from transformers import Trainer, TrainingArguments


def train(technique, rows=train_rows, steps=STEPS, learning_rate=None):
    model = makers[technique]()
    arguments = TrainingArguments(
        output_dir=str(lesson.folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=learning_rate or RATES[technique],
        warmup_steps=0.1,
        save_strategy="no",
        seed=SEED,
        **lessonkit.training_arguments(),  # what suits this machine
    )
    # virtual tokens in front would shift the columns that have labels
    collator = lessonkit.CausalLMCollator(tokenizer, labelled_logits_only=technique != "prompt tuning")
    run = lessonkit.run(Trainer(model, arguments, train_dataset=rows, data_collator=collator))
    return model, run


def soft_prompt_of(model):
    return model.get_prompt(1)[0] if hasattr(model, "prompt_encoder") else None  # (virtual tokens, hidden)


# %%
bare = [chat(each) for each in test["prompt"]]
runs = {}
for technique in TECHNIQUES:
    print(f"--- {technique}")
    model, runs[technique] = train(technique)
    target = lesson.folder / technique.replace(" ", "-")
    if technique == "adapters":
        save_adapter(model, target, "yours")
    else:
        model.save_pretrained(target)
    kilobytes = sum(path.stat().st_size for path in target.glob("*.safetensors")) / 1000
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    cost = {"trained": trained, "seconds": runs[technique].seconds, "kB": kilobytes}
    judge(technique, bare, model, soft_prompt_of(model), **cost)
    del model

# %%
ax = lessonkit.plots.curves(
    {name: list(zip(*run.losses)) for name, run in runs.items()}, xlabel="step", ylabel="training loss"
)
_ = ax.set_xticks(range(0, STEPS + 1, max(1, STEPS // 6)))

# %% [markdown]
# The soft prompt begins lower (its start is the instruction), and ends higher.
#
# *Here ends the third focus session.*
#
# ## 9. Compared
#
# *Read* is the tokens in front of each answer, virtual ones included.

# %%
parts = {name: np.array([partial(*both) for both in zip(each, references)]) for name, each in replies.items()}
exact = {name: np.array([a == b for a, b in zip(each, references)]) for name, each in replies.items()}
print(
    f"{'':<17}{'trained':>12}{'seconds':>9}{'kB':>10}{'read':>6}{'exact':>8}{'fields':>8}   n = {len(test)}"
)
for name, cost in costs.items():
    print(
        f"{name:<17}{cost.get('trained', 0):>12,}{cost.get('seconds', 0):>9.0f}{cost.get('kB', 0):>10,.0f}"
        f"{cost['read']:>6.0f}{exact[name].mean():>8.3f}{parts[name].mean():>8.3f}"
    )

# %% [markdown]
# Which differences hold? Two models at a time, order by order: by exact match (it says *accuracy*), and by the
# field-wise score:

# %%
from itertools import combinations

for one, two in combinations(["shown", *TECHNIQUES], 2):
    print(lessonkit.compare_classifiers(np.ones(len(test), int), exact[one], exact[two], names=(one, two)))
    low, high = lessonkit.bootstrap_interval(parts[one] - parts[two])
    print(
        f"    field-wise by {(parts[one] - parts[two]).mean():+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    )

# %% [markdown]
# On this page, LoRA and adapters are ahead of the examples in the prompt by either score, can't be told from each
# other, and read less than a fifth of the tokens for an order. Prompt tuning, whose file is by far the smallest, is
# ahead by the field-wise score alone: with so few orders, six fields a line say more than one yes or no. Of twelve
# comparisons, though, one that misses 0 by 0.012 may be luck. (*Can't tell*, though an interval leaves out 0? The few
# orders that only one got right might still be [a coin's work](../../lessons/glossary.md#mcnemars-test).)
#
# All that is about other *orders*. Another *seed* would move the numbers, too: this is one training of each, at one
# learning rate. [Compare techniques](compare-techniques.ipynb) repeats them.
#
# Where are the mistakes?

# %%
if FIELDS:
    table = [
        [np.mean([fields(a).get(f) == fields(b)[f] for a, b in zip(replies[n], references)]) for f in FIELDS]
        for n in replies
    ]
    ax = lessonkit.plots.heat_map(
        table, list(replies), list(FIELDS), fmt="{:.2f}", title="Share of test orders right", limits=(0, 1)
    )

# %% [markdown]
# The orders that the techniques got least right:

# %%
hardest = np.argsort(np.mean([parts[name] for name in TECHNIQUES], axis=0), kind="stable")
show(["shown", *TECHNIQUES], [int(each) for each in hardest[:4]])

# %% [markdown]
# What is copied, size and name, is nearly always right with LoRA and adapters (though `ivo` became `Ovio`). What must
# be *worked out* lags behind: on this page no model got half of the times (7 pm is 19:00), and where an order takes
# back its count, the first one may stay. More steps (most pairs were never read), or more pairs of just that kind, are
# what you would try next.
#
# Try sentences of your own, phrased as nobody in train would:

# %%
from peft import PeftModel

yours = [
    "Evening! Pizza for the crew, four large ones, olives on top. Name's Theo. Nine-ish? No, 8 pm.",
    "can u do me 1 curry, medium, mild pls, picking up 12:45, its for wanda",
    "Is the shop open on Sundays?",
]
tuned = PeftModel.from_pretrained(fresh_model(), lesson.folder / "LoRA")
for sentence, reply in zip(yours, answers(tuned, [chat(each) for each in yours])):
    print(f"{sentence}\n    {reply}")

# %% [markdown]
# That is LoRA, loaded from its file. Names and phrasings are new to it: dish, count and name are right on this page,
# but 8 pm became 19:00, and `mild` a size. And the last sentence is no order: nothing in the training showed what to
# say then, so a line comes all the same. If such questions will come, put pairs of them in.
#
# ## 10. How many pairs does it take?
#
# **Exercise 5, run an experiment.** Train LoRA on **at most 60** of the pairs, so many steps and at such a rate as you
# like, and reach a field-wise score of **0.70** on the validation pairs. Take this into the cell, above `answer`, and
# change the numbers:
#
# ```python
# few = split["train"].select(range(60))
# mine, run = train("LoRA", rows_of(few), steps=10, learning_rate=1e-3)
# check = split["validation"].select(range(24))
# written = answers(mine, [chat(each) for each in check["prompt"]])
# print(np.mean([partial(*both) for both in zip(written, check["answer"])]))
# ```
#
# Then replace `TODO` with `{"few": few, "check": check, "written": written}`.

# %%
answer = TODO
lesson.exercise("few-pairs").check(answer)

# %% [markdown]
# ## 11. What goes wrong
#
# **Bad files** are told, not raised as a traceback; so are guesses:

# %%
many = "\n".join(f"question number {n},answer {n * 7}" for n in range(60))
broken = {
    "a missing file": "my-pears.csv",
    "one column": "prompt\n" + "\n".join(f"question {n}" for n in range(60)),
    "other names, three columns": "id,wish,line\n" + "\n".join(f"{n},wish {n},line {n}" for n in range(60)),
    "five pairs": "prompt,answer\n" + "\n".join(f"a {n},b {n}" for n in range(5)),
    "two columns, other names": "wish,line\n" + many,
}
for what, source in broken.items():
    told = str(lessonkit.check_pairs(source)).splitlines()
    print(f"{what}:\n    " + "\n    ".join(told[:3]))

# %% [markdown]
# **Labels in shifted columns.** The collator that spares logits names the columns that have labels. A soft prompt in
# front moves them, and nothing complains:

# %%
del tuned
prompted = PeftModel.from_pretrained(fresh_model(), lesson.folder / "prompt-tuning").eval()
for spared in (False, True):
    collate = lessonkit.CausalLMCollator(tokenizer, labelled_logits_only=spared)
    batch = {name: each.to(device) for name, each in collate([train_rows[0], train_rows[1]]).items()}
    with torch.inference_mode():
        loss = float(prompted(**batch).loss)
    print(f"labelled_logits_only={spared!s:<6} loss of the trained soft prompt {loss:.2f}")
del prompted

# %% [markdown]
# A training would have gone on from there, teaching the wrong tokens. **The prompt trained as well**, or an answer
# without its end mark: section 6 counts. **Asked in another form than trained**: keep `chat` with the model. More:
# [troubleshooting](../../lessons/troubleshooting.md).
#
# ## 12. On a bigger machine
#
# On a GPU with 14 GiB or more, the notebook takes SmolLM2-360M, and all five techniques. Predicted peaks of a training
# step, for rows of `LONGEST` tokens (96 at laptop scale; longer rows take more):

# %%
from transformers import LlamaConfig

larger = LlamaConfig(  # SmolLM2-360M
    vocab_size=49152, hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15,
    num_key_value_heads=5, tie_word_embeddings=True,
)  # fmt: skip
for technique in ("lora", "full"):
    plan = lessonkit.predict_memory(
        larger, technique, batch_size=8, sequence_length=LONGEST, device="cuda", dtype="float32",
        mixed_precision=True, optimizer="adamw_torch_fused",
    )  # fmt: skip
    print(
        f"{technique:<5}{plan.total_parameters / 1e6:>5.0f} M parameters: {plan.peak_bytes / 2**30:.1f} GiB"
    )

# %% [markdown]
# ## 13. The end
#
# 1. Patterns find some personal data, never all; what is left, read.
# 2. Your task's own rules (the form, what must be copied) find what no general check can.
# 3. A card says what a dataset is, with counts, cleaning and hashes.
# 4. Check for all rows that what is trained is the answer and its end mark.
# 5. Baselines first: told, shown. Then the same budget for each technique, and differences with intervals.
#
# The next cell keeps your result. At laptop or GPU scale, and with exercises 2 and 4 passed, it ticks *Prepare custom
# dataset*; *Fine-tune model on custom data with 3+ techniques* needs the run alone.

# %%
lesson.record(
    told_fields=parts["told"].mean(),
    shown_fields=parts["shown"].mean(),
    **{f"{name.replace(' ', '_')}_fields": parts[name].mean() for name in TECHNIQUES},
    **{f"{name.replace(' ', '_')}_exact_match": exact[name].mean() for name in TECHNIQUES},
    test_pairs=len(test),
    train_pairs=len(train_rows),
)

# %% [markdown]
# **Check yourself.** A model has a field-wise score of 0.83 with six fields, and an exact match of 0.1. What kind of
# mistake does it make? Why is the test drawn *after* the duplicates are gone?
#
# <details><summary>Answers</summary>
#
# About one field of six is wrong in nearly each line. Is it always the same one? Look at the table of fields. A copy
# on the other side would be answered from memory, and the score would say nothing of new orders.
#
# </details>
#
# **Next:** [compare techniques](compare-techniques.ipynb) measures all five on one task, with several seeds.
