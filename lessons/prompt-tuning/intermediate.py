# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Prompt tuning, intermediate
#
# You will be able to choose a soft prompt's length, start and kind for a language model, serve several learned
# prompts in one batch, and tell for which tasks to try LoRA beside it.
#
# **90 minutes**, four focus sessions (up to 3 minutes are training, on 2 CPU cores) · **intermediate** · before this:
# [prompt tuning, beginner](../beginner/prompt-tuning.ipynb) and
# [full fine-tuning, intermediate](full-fine-tuning.ipynb) · background:
# [the guide to prompt tuning](../../lessons/prompt-tuning/guide.md) · next: [adapters, intermediate](adapters.ipynb)
#
# You will
#
# - compare lengths, starting values, P-tuning, prefix tuning and LoRA on one budget;
# - build by hand a batch in which every row has its own task's prompt, equal to PEFT row by row;
# - see in the attention itself what no prompt can change, and try a task that the base can't guess.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("intermediate/prompt-tuning")

# %%
MODEL = lesson.pick(smoke="smollm2", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-1.7B-Instruct")
TEXT_TOKENS = lesson.pick(smoke=6, laptop=16, gpu=64)  # of each text: a headline and a little more
STEPS = lesson.pick(smoke=1, laptop=14, gpu=150)  # of each training; of `codes` twice as many
BATCH_SIZE = lesson.pick(smoke=2, laptop=4, gpu=16)
VALIDATION_TEXTS = lesson.pick(smoke=4, laptop=80, gpu=300)
TEST_TEXTS = lesson.pick(smoke=8, laptop=200, gpu=450)
VIRTUAL_TOKENS = 12
PROMPT_RATE = 2e-2  # the learning rate of vectors at the input
PREFIX_RATE = 1e-2  # of keys and values in every layer
NETWORK_RATE = 3e-3  # of P-tuning's network
LORA_RATE = lesson.pick(smoke=2e-3, laptop=2e-3, gpu=5e-4)
SEED = 0

# %% [markdown]
# ## 1. One base, three tasks
#
# BBC news, Usenet posts, and the news again, filed under in-house codes: a letter for each topic, in no order. The
# model answers with one token. Each task has a sentence, from which its prompt starts.

# %%
TASKS = {
    "news": {
        "dataset": "bbc-news",
        "sentence": "Topic: business, entertainment, politics, sports or technology?",
        "topics": ["business", "entertainment", "politics", "sports", "tech"],
        "words": ["business", "entertainment", "politics", "sports", "technology"],
    },
    "posts": {
        "dataset": "20newsgroups",
        "sentence": "Topic: cars, guns, hockey, medicine or space?",
        "topics": ["rec.autos", "talk.politics.guns", "rec.sport.hockey", "sci.med", "sci.space"],
        "words": ["cars", "guns", "hockey", "medicine", "space"],
    },
}
TASKS["codes"] = TASKS["news"] | {
    "sentence": "Code: A, B, C, D or E? Which one is it?",
    "words": ["D", "B", "E", "A", "C"],
}
tokenizer = lessonkit.load_tokenizer(MODEL)

# %% [markdown]
# A row is the text's first tokens, then `Topic:`, then the answer, which alone has a label (-100 masks the rest).


# %%
def prepare(task):
    """The task's rows to train on, to choose by, and to measure with at the end."""
    names = dict(zip(TASKS[task]["topics"], TASKS[task]["words"]))
    data = lessonkit.load_dataset(TASKS[task]["dataset"])
    topics = data["train"].features["label"].names

    def encode(row):
        text = tokenizer(row["text"], truncation=True, max_length=TEXT_TOKENS)["input_ids"]
        asked = text + tokenizer("\nTopic:")["input_ids"]
        answer = tokenizer(" " + names[topics[row["label"]]])["input_ids"]
        return {"input_ids": asked + answer, "labels": [-100] * len(asked) + answer}

    def some(split, first, last):
        chosen = [place for place, label in enumerate(data[split]["label"]) if topics[label] in names]
        rows = data[split].select(chosen).shuffle(seed=SEED)
        return rows.select(range(first, min(last, len(rows)))).map(encode, remove_columns=rows.column_names)

    last = VALIDATION_TEXTS + BATCH_SIZE * (2 * STEPS if task == "codes" else STEPS)
    return {
        "validation": some("train", 0, VALIDATION_TEXTS),
        "train": some("train", VALIDATION_TEXTS, last),
        "test": some("test", 0, TEST_TEXTS),
    }


# %%
data = {task: prepare(task) for task in TASKS}
words = {task: TASKS[task]["words"] for task in TASKS}
for task, rows in data.items():
    print(f"{task:<6} {tokenizer.decode(rows['train'][0]['input_ids'])!r}")

# %% [markdown]
# The base is frozen, so it may stay in 16 bits where the hardware computes in them. **One copy serves every
# training.**

# %%
import torch
from transformers import Trainer, TrainingArguments, set_seed

base = lessonkit.load_model(MODEL, dtype=lesson.hardware.dtype).to(lesson.hardware.device)
layers, hidden = base.config.num_hidden_layers, base.config.hidden_size
heads = base.config.num_key_value_heads
head_size = hidden // base.config.num_attention_heads


def weights_sum():
    return sum(parameter.abs().sum(dtype=torch.float64).item() for parameter in base.parameters())


before = weights_sum()
print(f"{layers} layers, hidden size {hidden}, {heads} key-value heads of {head_size}")

# %% [markdown]
# The collator asks for logits only where an answer stands. PEFT puts virtual tokens *in front*, which moves every
# column, so we count columns from the end.

# %%
from torch.utils.data import DataLoader

pad_rows = lessonkit.CausalLMCollator(tokenizer)


def collator(rows):
    batch = pad_rows(rows)
    batch["logits_to_keep"] -= batch["input_ids"].shape[1]  # the last column is -1, whatever stands in front
    return batch


# %% [markdown]
# The answer is the likeliest of the task's words, at the column where the answer stands.


# %%
@torch.inference_mode()
def word_scores(model, rows, words):
    """The logits of the words as each row's answer, (rows, words)."""
    model.eval()
    ids = [tokenizer(" " + word)["input_ids"][0] for word in words]
    found = []
    for batch in DataLoader(rows, batch_size=32, collate_fn=collator):
        batch = {name: each.to(base.device) for name, each in batch.items()}
        answers = batch.pop("shift_labels") != -100  # where, among the columns kept, an answer stands
        del batch["labels"]  # no loss is needed
        logits = model(**batch).logits  # (rows, columns kept, vocabulary)
        found.append(logits[range(len(logits)), answers.int().argmax(1)][:, ids].float().cpu())
    return torch.cat(found)


# %%
def predict(model, rows, words):
    """For each row, the number of the word that is likeliest as its answer."""
    return word_scores(model, rows, words).argmax(-1).tolist()


def truth(rows, words):
    ids = [tokenizer(" " + word)["input_ids"][0] for word in words]
    return [ids.index(labels[-1]) for labels in rows["labels"]]


def score(predicted, rows, words):
    return lessonkit.classification_scores(truth(rows, words), predicted, words)


# %% [markdown]
# Baselines on the test texts of `news`: the most frequent topic; **counting words**, which learns from the same
# labelled texts as the prompts; a *written* prompt, the sentence before every text; and the same *calibrated*: each
# word's mean score over the validation texts is taken away, which needs no label.

# %%
from peft import PromptTuningConfig, get_peft_model
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def texts_of(rows):
    return [tokenizer.decode(ids[:-1]) for ids in rows["input_ids"]]


def soft_prompt(task, tokens=VIRTUAL_TOKENS, start="TEXT"):
    return PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=tokens,
        prompt_tuning_init=start,
        prompt_tuning_init_text=TASKS[task]["sentence"],
        tokenizer_name_or_path=tokenizer.name_or_path,
    )


# %%
news = data["news"]
counting = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100, max_iter=1000))
counting.fit(texts_of(news["train"]), truth(news["train"], words["news"]))
asked = get_peft_model(base, soft_prompt("news"))
test_scores = word_scores(asked, news["test"], words["news"])
usual = word_scores(asked, news["validation"], words["news"]).mean(0)
answers = {
    "counting words": counting.predict(texts_of(news["test"])).tolist(),
    "written prompt": test_scores.argmax(-1).tolist(),
    "written, calibrated": (test_scores - usual).argmax(-1).tolist(),
}
for name, each in answers.items():
    print(f"{name:<20}", score(each, news["test"], words["news"]))

# %% [markdown]
# Calibrated, the sentence may well beat counting words, without a label. It ran as a *soft prompt before training*:
# its virtual tokens are the sentence's word vectors, number for number:

# %% tags=["nbval-check-output"]
untrained = get_peft_model(base, soft_prompt("news")).get_prompt(batch_size=1)[0].cpu()
ids = torch.tensor(tokenizer(TASKS["news"]["sentence"])["input_ids"])
vectors = base.get_input_embeddings()(ids.to(base.device)).detach().float().cpu()
print(len(ids), "tokens; equal to the soft prompt before training:", torch.equal(untrained.float(), vectors))

# %% [markdown]
# ## 2. Where each method puts its vectors
#
# **Prompt tuning** learns vectors at the input. **P-tuning** ([Liu et al. 2021](https://arxiv.org/abs/2103.10385))
# makes the same with a small network. **Prefix tuning** ([Li and Liang 2021](https://arxiv.org/abs/2101.00190))
# learns keys and values in *every layer*, which the text's tokens attend to as if more had been read before.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

LEARNED, COMPUTED, ABSENT = 2, 1, 0
size = layers + 1, VIRTUAL_TOKENS + 10  # a row for the input, one a layer
at_input, in_layers = np.full(size, COMPUTED), np.full(size, COMPUTED)
at_input[0, :VIRTUAL_TOKENS] = LEARNED
in_layers[1:, :VIRTUAL_TOKENS], in_layers[0, :VIRTUAL_TOKENS] = LEARNED, ABSENT
cached = (layers, 2, heads, VIRTUAL_TOKENS, head_size)
pictures = {
    f"prompt tuning, P-tuning: vectors at the input\n{(VIRTUAL_TOKENS, hidden)}": at_input,
    f"prefix tuning: keys and values in every layer\n{cached}": in_layers,
}
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), sharey=True, layout="constrained", facecolor="white")
for ax, (title, grid) in zip(axes, pictures.items()):
    colours = ListedColormap(["white", "#dddddd", "#D55E00"])
    ax.pcolormesh(grid, cmap=colours, vmin=0, vmax=2, edgecolor="white")
    ax.axvline(VIRTUAL_TOKENS, color="black")
    ax.set_xticks([VIRTUAL_TOKENS / 2, VIRTUAL_TOKENS + 5], ["virtual tokens", "a text's tokens"])
    ax.set_yticks([0.5, layers + 0.5], ["input", f"layer {layers - 1}"])
    ax.set_title(title)
plt.show()

# %% [markdown]
# Orange is learned, grey computed by the frozen model, white isn't there: a prefix has no input, no queries, no
# feed-forward.
#
# **Exercise 1, predict.** How many numbers does prefix tuning train with **20** virtual tokens on SmolLM2-135M (30
# layers, hidden size 576, 9 query heads, 3 key-value heads of 64)?

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("prefix-parameters").check(answer)

# %%
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig

methods = {
    "prompt tuning": soft_prompt("news"),
    "P-tuning": PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS),
    "prefix tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS),
}
total = sum(parameter.numel() for parameter in base.parameters())
trained = {}
for name, config in methods.items():
    trained[name], _ = get_peft_model(base, config).get_nb_trainable_parameters()
    print(f"{name:<14}{trained[name]:>11,} numbers trained, {trained[name] / total:.3%} of the model")

# %% [markdown]
# P-tuning trains far more than it keeps: a network of three layers. Move the slider.

# %%
from ipywidgets import interact


def sizes(tokens):
    network = 3 * (hidden * hidden + hidden)
    return {
        "prompt tuning": tokens * hidden,
        "P-tuning, in training": tokens * hidden + network,
        "P-tuning, saved": tokens * hidden,
        "prefix tuning": tokens * layers * 2 * heads * head_size,
    }


def show_sizes(tokens=20):
    lessonkit.plots.bars(sizes(tokens), xlabel="numbers", title=f"{tokens} virtual tokens", fmt="{:,.0f}")
    plt.show()


show_sizes()
_ = interact(show_sizes, tokens=(1, 100))

# %% [markdown]
# *Here ends the first focus session.*
#
# ## 3. Length and start, on one budget
#
# Every training gets the same texts, order and steps, and is compared on **validation** texts. Three starts: `RANDOM`,
# PEFT's default; `SAMPLE_VOCAB`, words drawn from the vocabulary; `TEXT`, a sentence, cut or repeated to fit. Expect
# random to begin worst: in SmolLM2-135M words' vectors are about 3 long, random ones about $\sqrt{576}$ = 24.


# %%
def tune(config, rows, learning_rate, start=None, steps=STEPS):
    """The base with what the configuration adds, trained; and what that cost."""
    set_seed(SEED)
    model = get_peft_model(base, config)
    if start:  # a function that gives it other starting values
        start(model)
    arguments = TrainingArguments(
        output_dir=str(lesson.folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        bf16=lesson.hardware.bf16,
        fp16=lesson.hardware.fp16,
        use_cpu=lesson.hardware.device == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=SEED,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator)
    return model, lessonkit.run(trainer)


# %%
settings = {
    "12, the sentence": {},
    "12, words": {"start": "SAMPLE_VOCAB"},
    "12, random": {"start": "RANDOM"},
    "3, the sentence": {"tokens": 3},
}
tried, validated = {}, {}
for name, setting in settings.items():
    tried[name] = model, run = tune(soft_prompt("news", **setting), news["train"], PROMPT_RATE)
    predicted = predict(model, news["validation"], words["news"])
    validated[name] = score(predicted, news["validation"], words["news"])

# %%
losses = {
    name: [entry["loss"] for entry in run.history if "loss" in entry] for name, (_, run) in tried.items()
}
for name, scores in validated.items():
    print(f"{name:<18}loss {np.mean(losses[name][:3]):6.2f} -> {np.mean(losses[name][-5:]):.2f}", end="   ")
    print(
        f"accuracy {scores.accuracy:.2f} ({scores.interval[0]:.2f} to {scores.interval[1]:.2f}, n = {scores.n})"
    )
starts = {name: (range(1, STEPS + 1), losses[name]) for name in list(losses)[:3]}
ax = lessonkit.plots.curves(
    starts, xlabel="step", ylabel="training loss", title="Three starts, twelve tokens"
)
best = max(validated, key=lambda name: validated[name].accuracy)  # the first, if several are
print("best on the validation texts:", best)

# %% [markdown]
# The **start** decides on so small a budget: the sentence begins lowest and ends lowest, random vectors end far above.
# Five equally likely words would mean a loss of ln 5 = 1.6: what stays above has not fully learned which words may come.
# **Length** matters less: compare the two rows that begin with the sentence, and their intervals. All with one seed, one
# rate and few steps.
#
# ## 4. P-tuning, prefix tuning, and LoRA beside them
#
# The same budget. PEFT starts a prefix from random numbers; with little data Li and Liang found the keys and values
# of real words better. With the sentence's, an untrained prefix *is* the written prompt:


# %%
@torch.no_grad()
def from_the_sentence(model):
    """Give a prefix the keys and values that the base computes for the sentence."""
    sentence = tokenizer(TASKS["news"]["sentence"], return_tensors="pt").to(base.device)
    cache = base(**sentence, use_cache=True).past_key_values
    # each part: (heads, tokens, head size)
    parts = [part[0] for layer in cache.layers for part in (layer.keys, layer.values)]
    start = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], dim=1)
    model.prompt_encoder["default"].embedding.weight.copy_(start[:VIRTUAL_TOKENS])


prefix = get_peft_model(base, methods["prefix tuning"])
few = news["validation"].select(range(4))
for when, start in {"random": None, "from the sentence": from_the_sentence}.items():
    if start:
        start(prefix)
    difference = word_scores(prefix, few, words["news"]) - word_scores(asked, few, words["news"])
    print(f"prefix, {when:<18} differs from the written prompt by {difference.abs().max():.1e}")

# %% [markdown]
# P-tuning can't start so: its network begins at random. `unload()` takes LoRA's matrices out of the base again.

# %%
saved, cost = {}, {}


def keep(name, model, run):
    """Save what was learned; note what it cost, and what it answers on the test texts."""
    model.save_pretrained(lesson.folder / name)
    saved[name] = lesson.folder / name / "adapter_model.safetensors"
    cost[name] = model.get_nb_trainable_parameters()[0], run.seconds
    answers[name] = predict(model, news["test"], words["news"])


# %%
keep("prompt tuning", *tried[best])
keep("P-tuning", *tune(methods["P-tuning"], news["train"], NETWORK_RATE))
keep("prefix tuning", *tune(methods["prefix tuning"], news["train"], PREFIX_RATE, from_the_sentence))
lora_config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
model, run = tune(lora_config, news["train"], LORA_RATE)
keep("LoRA", model, run)
base = model.unload()

# %%
print(f"{'':<14}{'trained':>10}{'saved bytes':>13}{'seconds':>9}   accuracy on the test texts")
for name, (number, seconds) in cost.items():
    scores = score(answers[name], news["test"], words["news"])
    low, high = scores.interval
    print(
        f"{name:<14}{number:>10,}{saved[name].stat().st_size:>13,}{seconds:>9.0f}"
        f"   {scores.accuracy:.3f} ({low:.3f} to {high:.3f}, n = {scores.n})"
    )

# %% [markdown]
# Where intervals overlap, this table doesn't rank the methods. Times are close: every step runs the whole frozen model
# forwards and back. What differs is size. P-tuning trains over a hundred times as many numbers as prompt tuning, for a
# file of twelve vectors; the prefix's file is 20 times as large as that, LoRA's about 350 times.
#
# In the files:

# %%
from safetensors.torch import load_file

for name in ("prompt tuning", "P-tuning", "prefix tuning"):
    print(f"{name:<14}", {key: tuple(value.shape) for key, value in load_file(saved[name]).items()})
print(f"{'LoRA':<14}", len(load_file(saved["LoRA"])), "matrices")

# %% [markdown]
# P-tuning's network isn't there: PEFT saves what it *makes*; in use, P-tuning is prompt tuning. A prefix has a row
# for each virtual token.
#
# The comparisons that count, text by text:

# %%
news_truth = truth(news["test"], words["news"])


def compare(first, second):
    print(lessonkit.compare_classifiers(news_truth, answers[first], answers[second], names=(first, second)))


print(f"trained on {len(news['train'])} labelled texts:")
for other in ("counting words", "written prompt", "written, calibrated", "LoRA"):
    compare("prompt tuning", other)

# %% [markdown]
# The prompt beats counting words, which saw the same texts, and the written prompt as it stands. Beside the **calibrated**
# one look twice: taking a mean away, without any label, may be worth as much as training on so few labelled texts.
#
# *Here ends the second focus session.*
#
# ## 5. Different prompts for different rows of one batch
#
# A prompt is input, so nothing forces the rows of a batch to share one. The other tasks, with the setting that was
# best for `news`; `codes`, which the base can't guess, gets twice the steps:

# %%
tuned = {}
for task, steps in {"posts": STEPS, "codes": STEPS * 2}.items():
    config = soft_prompt(task, **settings[best])
    tuned[task], run = tune(config, data[task]["train"], PROMPT_RATE, steps=steps)
    tuned[task].save_pretrained(lesson.folder / task)
    saved[task] = lesson.folder / task / "adapter_model.safetensors"
    predicted = predict(tuned[task], data[task]["validation"], words[task])
    print(f"{task}, validation texts:", score(predicted, data[task]["validation"], words[task]))
saved["news"] = saved["prompt tuning"]
prompts = {task: load_file(saved[task])["prompt_embeddings"].to(base.device) for task in TASKS}
print({task: tuple(prompt.shape) for task, prompt in prompts.items()})

# %% [markdown]
# `posts` is learned in part; `codes` hardly, if at all: compare it with always naming its most frequent code (more in
# section 7).
#
# The batch, by hand: each row is its task's prompt, then its words. Padding goes to the far left, *before* the prompt,
# with 0 in the mask. (Shifted positions do no harm here: *rotary* ones count distances only.)

# %%
from torch.nn.utils.rnn import pad_sequence


def mixed_batch(base, prompts, tasks, texts):
    """Row i has the prompt of tasks[i] before the token ids texts[i]."""
    vectors = base.get_input_embeddings()
    rows = []
    for task, ids in zip(tasks, texts):
        read = vectors(torch.tensor(ids, device=base.device))  # (tokens, hidden)
        rows.append(torch.cat([prompts[task].to(read.dtype), read]))  # (virtual + tokens, hidden)
    seen = [torch.ones(len(row), dtype=torch.long, device=base.device) for row in rows]
    return {
        "inputs_embeds": pad_sequence(rows, batch_first=True, padding_side="left"),
        "attention_mask": pad_sequence(seen, batch_first=True, padding_side="left"),
    }


# %%
def without_answer(task, number):
    return data[task]["test"][number]["input_ids"][:-1]


tasks = ["news", "codes", "posts", "news"]
texts = [without_answer(task, number) for number, task in enumerate(tasks)]
texts[3] = texts[3][2:]  # a shorter row
batch = mixed_batch(base, prompts, tasks, texts)
print("inputs_embeds", tuple(batch["inputs_embeds"].shape))
print(batch["attention_mask"])

# %% [markdown]
# Is that what PEFT computes for each row alone? In 32 bits we expect differences near a millionth of the logits; and
# large ones, as a counter-check, if every row gets the first row's prompt.

# %%
from peft import PeftModel

base.float()
served = PeftModel.from_pretrained(base, saved["news"].parent, adapter_name="news")
for task in ("posts", "codes"):
    served.load_adapter(saved[task].parent, adapter_name=task)


@torch.inference_mode()
def alone(task, ids):
    served.set_adapter(task)
    ids = torch.tensor([ids], device=base.device)
    return served(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1).logits[0, -1]


with torch.inference_mode():
    together = base(**mixed_batch(base, prompts, tasks, texts), logits_to_keep=1).logits[:, -1]
    wrong = base(**mixed_batch(base, prompts, ["news"] * 4, texts), logits_to_keep=1).logits[:, -1]
    single = torch.stack([alone(task, ids) for task, ids in zip(tasks, texts)])
print(f"logits up to {single.abs().max():.0f}; largest difference from each row alone:")
print(f"  each row its own prompt    {(together - single).abs().max():.1e}")
print(f"  all rows the first prompt  {(wrong - single).abs().max():.1e}")

# %% [markdown]
# `generate` takes such a batch as it is. One headline, three prompts:

# %%
base.to(getattr(torch, lesson.hardware.dtype))
headline = without_answer("news", 0)
print(repr(tokenizer.decode(headline)))
batch = mixed_batch(base, prompts, list(TASKS), [headline] * 3)
said = base.generate(**batch, max_new_tokens=1, do_sample=False, pad_token_id=tokenizer.pad_token_id)
for task, ids in zip(TASKS, said):
    print(f"  with the prompt of {task:<6} -> {tokenizer.decode(ids)}")

# %% [markdown]
# Each row answers for its own task, rightly or not (tech is code `C`).
#
# **What is it worth?** The same requests one by one, grouped by task, and in one mixed batch. Guess: how many times
# faster is the last than the first?

# %%
each_task = range(lesson.pick(smoke=1, laptop=8, gpu=8))
requests = [(task, without_answer(task, number)) for number in each_task for task in TASKS]


def one_by_one(requests):
    return [alone(task, ids) for task, ids in requests]


@torch.inference_mode()
def mixed(requests):
    return base(**mixed_batch(base, prompts, *zip(*requests)), logits_to_keep=1).logits[:, -1]


def by_task(requests):
    return [mixed([request for request in requests if request[0] == task]) for task in TASKS]


# %%
timed = {}
for way in (one_by_one, by_task, mixed):
    timed[way.__name__] = lessonkit.latency(
        way, [requests], warmup=1, repeats=lesson.pick(smoke=1, laptop=3, gpu=20), items=len(requests)
    )
ax = lessonkit.plots.bars(
    {name: each.items_per_second for name, each in timed.items()},
    xlabel="requests a second",
    title=f"{len(requests)} requests for {len(TASKS)} tasks",
    fmt="{:.0f}",
)

# %%
for name, each in timed.items():
    print(
        f"{name:<11}{each.p50:>8.0f} ms ({each.interval[0]:.0f} to {each.interval[1]:.0f}), {len(requests)} requests"
    )

# %% [markdown]
# The mixed batch is far faster than one by one, and no slower than grouping: the gain is the batch's. Mixing spares
# you waiting until one task has requests enough to fill one.
#
# [Lester et al.](https://arxiv.org/abs/2104.08691) (2021, figure 2) call this *mixed-task inference*. A server that
# takes embeddings as input, such as [vLLM](https://docs.vllm.ai/en/stable/features/prompt_embeds/) with
# `--enable-prompt-embeds`, needs nothing else.
#
# **Exercise 2, write code.** The same for *prefixes*. `saved` holds all tasks' files, stacked: (tasks, tokens,
# layers x 2 x heads x head size); in a row the layer changes slowest, then key and value, then the head. `rows` is a
# tensor, each row's task. Return the batch's prefixes, **(layers, 2, rows, heads, tokens, head size)**.


# %%
def mixed_prefixes(saved, rows, layers, heads):
    return TODO


lesson.exercise("mixed-prefixes").check(mixed_prefixes)

# %% [markdown]
# *Here ends the third focus session.*
#
# ## 6. What no prompt can change
#
# A token's attention to the text adds up to 1. A prefix puts more tokens into that softmax, and takes a share
# $\lambda$.
#
# **Exercise 3, predict.** Without a prefix, a token gives three words attention 0.2, 0.3 and 0.5. With it, the prefix
# gets 0.4. What do the words get, in that layer? Pass a list of three numbers.

# %%
answer = TODO
lesson.exercise("rescaled-attention").check(answer)

# %% [markdown]
# Measured with the trained prefix, in the first layer:

# %%
base.float().set_attn_implementation("eager")  # the implementation that can hand out its attention
sentence = tokenizer("Oil prices fell after the minister spoke", return_tensors="pt").to(base.device)


@torch.inference_mode()
def attention(model, layer, skip=0):
    """(query heads, tokens, tokens), among the text's own tokens."""
    model.eval()
    given = model(**sentence, output_attentions=True).attentions[layer][0]
    return given[:, :, skip:].float().cpu()


plain = attention(base, 0)
prefixed = PeftModel.from_pretrained(base, saved["prefix tuning"].parent)
with_prefix = attention(prefixed, 0, VIRTUAL_TOKENS)
ratio = (with_prefix / plain).nan_to_num()
ax = lessonkit.plots.matrices(
    {"attention without": plain[0], "with the prefix": with_prefix[0], "with / without": ratio[0]},
    title="First layer, first head: a row is a token that attends",
)

# %% [markdown]
# On the right each row has one colour: one factor, $1 - \lambda$, for all words that a token attends to. Over all
# heads and tokens: how far do the words' shares of what they get *together* move?


# %%
def reweighed(before, after):
    """How far the words' shares of what they get together have moved: 0 if all were rescaled alike, 1 at most."""
    return (after / after.sum(-1, keepdim=True) - before).abs().max().item()


for layer in (0, 1, layers // 2):
    change = reweighed(attention(base, layer), attention(prefixed, layer, VIRTUAL_TOKENS))
    print(f"prefix, layer {layer:>2}: {change:.1e}")
lora = PeftModel.from_pretrained(base, saved["LoRA"].parent)
change = reweighed(plain, attention(lora, 0))
base = lora.unload()
print(f"LoRA,   layer  0: {change:.1e}")

# %% [markdown]
# In the first layer the prefix leaves the words' proportions alone, to rounding; LoRA, which changes queries and
# keys, moves them, here a little. Higher up the prefix does alter them, by much, but only because the tokens arrive
# changed from the layers below.
# [Petrov, Torr and Bibi](https://arxiv.org/abs/2310.19698) (2024) conclude that prompts and prefixes bring out
# skills that a model has, and may fail at tasks that need new attention patterns. (No law for every model: they also
# [construct](https://arxiv.org/abs/2402.14753) frozen transformers that a prefix can bring near any continuous
# function.)
#
# ## 7. Where it fails, and why scale helps
#
# `codes` asks about the same headlines, but the base can't know that sport is `A`. Does its prompt keep up with
# LoRA, which gets the same texts and steps?

# %%
base.set_attn_implementation(lesson.hardware.attention)
base.to(getattr(torch, lesson.hardware.dtype))

codes = data["codes"]
answers["prompt, codes"] = predict(tuned["codes"], codes["test"], words["codes"])
model, run = tune(lora_config, codes["train"], LORA_RATE, steps=STEPS * 2)
answers["LoRA, codes"] = predict(model, codes["test"], words["codes"])
base = model.unload()

# %%
for name in ("prompt, codes", "LoRA, codes"):
    print(f"{name:<14}", score(answers[name], codes["test"], words["codes"]))
compare("prompt tuning", "LoRA")
compare("prompt, codes", "LoRA, codes")
shares = {
    name: score(answers[name], news["test"], words["news"]).accuracy
    for name in ("prompt tuning", "LoRA", "prompt, codes", "LoRA, codes")
}
ax = lessonkit.plots.bars(
    shares, xlabel="accuracy on the test texts", title="Words that fit, and codes that don't"
)

# %% [markdown]
# Here it doesn't: LoRA learns the codes, and the prompt stays near what the most frequent code alone gets. **Why** this
# run can't say. More steps or another rate might help; nothing here shows that codes need other attention.
#
# **Why scale helps.** Lester et al. compared prompts with full fine-tuning on SuperGLUE, for five sizes of T5.
# *Measured* (figure 1): small models stay far behind, the gap closes as they grow, and at 11 billion parameters it
# is gone. There even a single virtual token does well. That is one family of models, one set of tasks.
#
# *Why* is conjecture. Hardly the prompt's size: its share of the model shrinks while the gap closes. The authors
# suggest that a larger model needs less of a signal.
#
# To *see* it you need two sizes; offline this course has one. On a GPU, `MODEL` is more than ten
# times as large: look at both gaps to LoRA there, though texts and trainings are longer too.
#
# ## 8. What goes wrong
#
# **Texts padded on the left**: PEFT puts the prompt before the padding, so away from the text, and an answer depends
# on its neighbour's length.

# %%
short, long = without_answer("news", 0)[-6:], without_answer("news", 1)
rows = tokenizer.pad({"input_ids": [short, long]}, padding_side="left", return_tensors="pt").to(base.device)
base.float()
with torch.inference_mode():
    served.set_adapter("news")
    beside = served(**rows, logits_to_keep=1).logits[0, -1]
    by_hand = base(**mixed_batch(base, prompts, ["news"] * 2, [short, long]), logits_to_keep=1).logits[0, -1]
print(
    f"PEFT, beside a longer row: differs from the row alone by {(beside - alone('news', short)).abs().max():.1e}"
)
print(
    f"padding before the prompt: differs from the row alone by {(by_hand - alone('news', short)).abs().max():.1e}"
)

# %% [markdown]
# Cure: padding on the right for training and scoring; for generating, `mixed_batch`.
#
# **P-tuning, taken up again.** Its file holds the network's outputs. Loaded into a model that still has the network,
# as by `load_best_model_at_end`, they go in as its *inputs*, without a word.

# %%
from peft import set_peft_model_state_dict

file = saved["P-tuning"]
in_use = PeftModel.from_pretrained(base, file.parent).get_prompt(1)[0].cpu()
resumed = get_peft_model(base, methods["P-tuning"])
set_peft_model_state_dict(resumed, load_file(file))
print("loaded for use: the saved prompt:      ", torch.equal(in_use, load_file(file)["prompt_embeddings"]))
print(
    "loaded into training: the saved prompt:",
    torch.allclose(resumed.get_prompt(1)[0].cpu(), in_use, atol=0.01),
)

# %% [markdown]
# **A prefix with activation checkpointing**, which switches off the cache in which it travels.

# %% tags=["nbval-check-output"]
base.activation_checkpointing_enable()
try:
    get_peft_model(base, methods["prefix tuning"])
except ValueError as error:
    print(f"ValueError: {error}")
base.activation_checkpointing_disable()

# %% [markdown]
# More, with cures: [troubleshooting](../../lessons/troubleshooting.md#prefix-tuning-with-gradient-checkpointing).
#
# **Exercise 4, run an experiment.** Every virtual token costs time in use. With at most **3**, reach an accuracy of
# **0.65 on the validation texts of `news`** (section 3 shows what twelve tokens got). Choose the words to
# start from and the learning rate. Take this into the cell, above `answer`:
#
# ```python
# TASKS["news"]["sentence"] = "..."  # your words, of at most 3 tokens
# mine, run = tune(soft_prompt("news", tokens=3), news["train"], PROMPT_RATE)
# ```
#
# Then replace `TODO` with
# `{"prompt": mine.get_prompt(1)[0], "predicted": predict(mine, news["validation"], words["news"])}`.

# %%
answer = TODO
lesson.exercise("short-prompt").check(answer)

# %% [markdown]
# ## 9. On a bigger machine
#
# On a GPU the same cells take SmolLM2-1.7B. Predicted peak of tuning its prompt:

# %%
from transformers import LlamaConfig

config = LlamaConfig(
    vocab_size=49152,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=24,
    num_attention_heads=32,
    tie_word_embeddings=True,
)
plan = lessonkit.predict_memory(
    config,
    "prompt",
    num_virtual_tokens=VIRTUAL_TOKENS,
    batch_size=16,
    sequence_length=68,
    dtype="float16",
    device="cuda",
)
print(f"predicted peak {plan.peak_bytes / 2**30:.1f} GiB; a T4 has 15")

# %% [markdown]
# ## 10. The end

# %% tags=["nbval-check-output"]
base.to(getattr(torch, lesson.hardware.dtype))
print("after all these trainings, the base is what it was:", weights_sum() == before)

# %% [markdown]
# 1. Prompt tuning and P-tuning learn vectors at the input, prefix tuning keys and values in every layer.
# 2. Start from a sentence that fits; on a small budget a random start falls behind. Baseline: that sentence,
#    calibrated.
# 3. P-tuning's file holds only what its network makes.
# 4. A prompt is data: one batch, one base, a task for each row. Padding goes before the prompt.
# 5. Within a layer, a prefix rescales a token's attention to the text by one factor. Where the base can't guess the
#    answers, compare with LoRA.
#
# The next cell keeps your result. At laptop or GPU scale this counts towards *Run all intermediate examples*.

# %%
final = score(answers["prompt tuning"], news["test"], words["news"])
lesson.record(
    prompt_accuracy=final.accuracy,
    written_prompt_accuracy=score(answers["written, calibrated"], news["test"], words["news"]).accuracy,
    majority_baseline=final.baseline,
    lora_accuracy=shares["LoRA"],
    prompt_accuracy_codes=shares["prompt, codes"],
    lora_accuracy_codes=shares["LoRA, codes"],
    mixed_batch_speedup=timed["one_by_one"].p50 / timed["mixed"].p50,
    test_texts=final.n,
)

# %% [markdown]
# **Check yourself.** You serve 500 customers, each with a prompt of 20 tokens for SmolLM2-135M: how many bytes are
# their prompts, in 32 bits? A colleague's prefix is `init_weights="zero"`; is the untrained model then the base?
#
# <details><summary>Answers</summary>
#
# 500 x 20 x 576 x 4 = 23 MB, less than a tenth of the base in 16 bits. No: a zero key has score 0, so $e^0 = 1$ for
# each virtual token enters the softmax and takes attention, for a value of zero.
#
# </details>
#
# **Next:** [adapters, intermediate](adapters.ipynb), which work inside the layers.
