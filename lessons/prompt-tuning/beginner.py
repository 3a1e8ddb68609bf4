# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Prompt tuning, beginner
#
# You will be able to teach a frozen language model a task by training nothing but a few vectors in front of the
# text, and to say what those vectors tell and what they don't.
#
# **60 minutes**, three focus sessions (3 minutes are training, on 2 CPU cores) · **beginner** · before this:
# [LoRA, beginner](lora.ipynb) · background: [the guide to prompt tuning](../../lessons/prompt-tuning/guide.md) ·
# next: [full fine-tuning, intermediate](../intermediate/full-fine-tuning.ipynb)
#
# You will
#
# - ask a language model in words, and turn those words into a *soft prompt* that can be trained;
# - see the learning rate of full fine-tuning fail here, and why one 100 times larger works;
# - look up the words nearest to what was learned, and test whether they mean anything.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("beginner/prompt-tuning")

# %%
MODEL = lesson.pick(smoke="smollm2", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-1.7B-Instruct")
TEXT_TOKENS = lesson.pick(smoke=10, laptop=16, gpu=40)  # tokens of each article that are read
TRAIN_TEXTS = lesson.pick(smoke=16, laptop=160, gpu=960)  # of 1,761
VALIDATION_TEXTS = lesson.pick(smoke=8, laptop=120, gpu=400)  # others of the 1,761, for every choice
TEST_TEXTS = lesson.pick(smoke=8, laptop=300, gpu=464)  # of 464, for the last measurement
BATCH_SIZE = lesson.pick(smoke=2, laptop=4, gpu=16)
STEPS = lesson.pick(smoke=2, laptop=40, gpu=120)
FULL_RATE = 2e-4  # the learning rate of full fine-tuning, in the first lesson
SEED = 0

# %% [markdown]
# ## 1. A task that can be asked in words
#
# BBC news articles, five topics. The model is a **decoder**, SmolLM2: it reads a text and gives every token of its
# vocabulary a score for coming next. So we need no new head. We let the text end in `Topic:` and look which of five
# *words* the model would write next.

# %% tags=["nbval-check-output"]
from collections import Counter

data = lessonkit.load_dataset("bbc-news")
names = data["train"].features["label"].names
for split in ("train", "test"):
    counts = Counter(names[label] for label in data[split]["label"])
    print(f"{split:<6}{len(data[split]):>6,} articles: ", dict(counts.most_common()))

# %%
import torch

tokenizer = lessonkit.load_tokenizer(MODEL)
ending = tokenizer("\nTopic:")["input_ids"]
topic_tokens = torch.tensor([tokenizer(" " + name)["input_ids"][0] for name in names])  # each is one token


def prepare(article):
    start = tokenizer(article["text"], truncation=True, max_length=TEXT_TOKENS)["input_ids"]
    return {"input_ids": start + ending, "labels": int(topic_tokens[article["label"]])}


def some(split, first, count):
    texts = data[split].shuffle(seed=SEED)  # the same order for everybody
    return texts.select(range(first, first + count)).map(prepare)


validation = some("train", 0, VALIDATION_TEXTS)
train_dataset = some("train", VALIDATION_TEXTS, TRAIN_TEXTS)
test_dataset = some("test", 0, TEST_TEXTS)
for row in train_dataset.select(range(3)):
    print(repr(tokenizer.decode(row["input_ids"])), "->", repr(tokenizer.decode([row["labels"]])))

# %% [markdown]
# We read the headline and a few words, which keeps training short. Every article is longer, so all rows have one
# length, and no padding is needed.
#
# ## 2. The baseline: a written prompt
#
# A model never meets words. It looks up one vector per token in its **embedding matrix**, and the layers read those.
# A written prompt is therefore a matrix, too: as many rows as tokens.

# %% tags=["nbval-check-output"]
small = lessonkit.load_model("smollm2").get_input_embeddings().weight
question = "Which topic is this news about: business, entertainment, politics, sports or tech?\n"
question_ids = tokenizer(question)["input_ids"]
print("embedding matrix:", tuple(small.shape), "= (tokens in the vocabulary, numbers for each)")
print("the question:    ", tuple(small[question_ids].shape), "= (its tokens, numbers for each)")

# %% [markdown]
# Now a function that puts any such matrix in front of the texts, and one that asks the model. Each topic's score is
# the logarithm of the probability that the model gives to its word. We ask for the scores after the last token only,
# `LAST`: those at other places would be 49,152 numbers each, computed for nothing.

# %%
base = lessonkit.load_model(MODEL, dtype=lesson.hardware.dtype, attn_implementation=lesson.hardware.attention)
base.to(lesson.hardware.device).eval()
LAST = torch.tensor([-1])
table = base.get_input_embeddings().weight.detach().float().cpu()  # (tokens, numbers for each)


def put_in_front(prompt, input_ids):
    """prompt (p, d) and texts of n tokens (batch, n) -> what the layers read (batch, p + n, d)."""
    words = base.get_input_embeddings()(input_ids)  # one vector for each token
    prompts = prompt.to(words).expand(len(words), -1, -1)  # the same one for each text
    return torch.cat([prompts, words], dim=1)


@torch.inference_mode()
def scores(prompt, dataset):
    """Log-probabilities of the topic words, shape (texts, topics)."""
    found = []
    for ids in torch.tensor(dataset["input_ids"]).split(32):  # 32 texts at a time
        inputs = put_in_front(prompt, ids.to(base.device))
        logits = base(inputs_embeds=inputs, logits_to_keep=LAST).logits[:, -1].float()
        found.append(logits.log_softmax(-1)[:, topic_tokens].cpu())
    return torch.cat(found)


# %% [markdown]
# Wording matters, so one would be an unfair baseline: here are four, the first nothing but the `Topic:` at the end.
# Each is also **calibrated**: a model often prefers one of the words whatever the text, so from each word's score we
# subtract its mean over all the texts, which takes no labels ([batch calibration](https://arxiv.org/abs/2309.17249)).
# Which of the four would you bet on?

# %%
wordings = {
    "(nothing)": "",
    "label": "News article:\n",
    "question": question,
    "order": "Sort the news into business, entertainment, politics, sports and tech.\n\nNews: ",
}
true = torch.tensor(validation["label"])


def share(answers, labels=true):
    return (answers == labels).float().mean().item()


def shares(prompt):
    """Shares of the validation texts right: as it is, and calibrated."""
    found = scores(prompt, validation)
    return share(found.argmax(-1)), share((found - found.mean(0)).argmax(-1))


# %%
written = {}
for name, text in wordings.items():
    written[name] = table[tokenizer(text)["input_ids"]] if text else table[:0]
calibrated = {}
for name, prompt in written.items():
    plain, calibrated[name] = shares(prompt)
    print(f"{name:<10} {plain:.2f} right, calibrated {calibrated[name]:.2f}")
best = max(calibrated, key=calibrated.get)
print("best on the validation texts:", best)

# %% [markdown]
# Guessing would give 0.20. The model does know something, but how much of it you get hangs on the wording: naming the
# topics first need not even help. Nor can you ask which way to change a word. You could only try.
#
# ## 3. A soft prompt
#
# The *vectors* of the words can be asked: each number has a gradient. A **soft prompt** is that matrix, trained, while
# the model stays frozen. Its rows, the **virtual tokens**, may end where no word is.
#
# **Exercise 1, count.** SmolLM2-135M has 134,515,008 parameters. If the question above becomes a soft prompt of as
# many virtual tokens, how many numbers are trained? Both shapes are printed in section 2.

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("count").check(answer)

# %%
pieces = [tokenizer.decode([i]) for i in question_ids + train_dataset[0]["input_ids"]]
groups = ["soft prompt: trained"] * len(question_ids) + ["text: looked up, frozen"] * len(pieces)
groups = groups[: len(pieces) - len(ending)] + ["the end: now the model answers"] * len(ending)
ax = lessonkit.plots.tokens(pieces, groups, title="What the layers read: one vector a box")

# %% [markdown]
# With PEFT that is one configuration. `prompt_tuning_init="TEXT"` starts from the vectors of our question.

# %%
from peft import PromptTuningConfig, get_peft_model
from transformers import set_seed


def with_soft_prompt(text=question, **changes):
    set_seed(SEED)
    options = {
        "task_type": "CAUSAL_LM",  # a decoder that predicts the next token
        "num_virtual_tokens": len(tokenizer(text)["input_ids"]),
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": text,
        "tokenizer_name_or_path": tokenizer.name_or_path,
    }
    return get_peft_model(base, PromptTuningConfig(**(options | changes)))


def prompt_of(model):
    return model.prompt_encoder["default"].embedding.weight


model = with_soft_prompt()
model.print_trainable_parameters()

# %% [markdown]
# Untrained, it must be exactly the written question. Is it?

# %% tags=["nbval-check-output"]
ids = torch.tensor(validation["input_ids"][:4], device=base.device)
with torch.inference_mode():
    by_peft = model(input_ids=ids, logits_to_keep=LAST).logits
    by_hand = base(inputs_embeds=put_in_front(table[question_ids], ids), logits_to_keep=LAST).logits
print("the soft prompt starts as the written one:", torch.equal(by_peft, by_hand))

# %% [markdown]
# *Here ends the first focus session. Take five minutes.*
#
# ## 4. Training, at two learning rates
#
# The loss is the first lesson's cross-entropy, over all the 49,152 tokens that could come next: how little probability
# did the right word get? A *callback*, code that `Trainer` calls between steps, keeps copies of the prompt.

# %%
from transformers import Trainer, TrainerCallback, TrainingArguments


def collate(rows):
    batch = {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}
    return batch | {"logits_to_keep": LAST}


def next_word_loss(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs.logits[:, -1].float(), labels)


class Travel(TrainerCallback):
    def __init__(self, model):
        self.prompt = prompt_of(model)
        self.path = [self.prompt.detach().cpu().clone()]  # the start, then one copy a step

    def on_step_end(self, args, state, control, **kwargs):
        self.path.append(self.prompt.detach().cpu().clone())


# %% [markdown]
# The rest is the `Trainer` you know.


# %%
def train(model, dataset, learning_rate, steps=STEPS, seed=SEED):
    arguments = TrainingArguments(
        output_dir=str(lesson.folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=learning_rate,
        warmup_steps=0.1,  # a tenth of the steps
        fp16=lesson.hardware.fp16,
        use_cpu=lesson.hardware.device == "cpu",
        label_names=["labels"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=seed,
    )
    travel = Travel(model)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=dataset,
        data_collator=collate,
        compute_loss_func=next_word_loss,
        callbacks=[travel],
    )
    return travel.path, lessonkit.run(trainer)


# %% [markdown]
# First with the learning rate that full fine-tuning used in the first lesson.
#
# **Exercise 2, predict.** AdamW moves each number by about the learning rate in a step, at most. With a constant
# `2e-4`, how far can one number of the prompt get in 40 steps?

# %%
answer = TODO
lesson.exercise("reach").check(answer)

# %%
slow_path, slow_run = train(model, train_dataset, FULL_RATE)
for when, prompt in {"before": slow_path[0], "after": slow_path[-1]}.items():
    print("{}: {:.2f} of the validation texts right, calibrated {:.2f}".format(when, *shares(prompt)))

# %% [markdown]
# Now 100 times as much, from the same start, on the same texts in the same order. (Fifty times as much wrecked the
# model of the first lesson.) What do you expect?

# %%
LEARNING_RATE = 100 * FULL_RATE
model = with_soft_prompt()
path, run = train(model, train_dataset, LEARNING_RATE)
learned = path[-1]
print("{:.2f} of the validation texts right, calibrated {:.2f}".format(*shares(learned)))

# %%
losses = {"full fine-tuning's rate": slow_run, "100 times that": run}
ax = lessonkit.plots.curves(
    {name: list(zip(*each.losses)) for name, each in losses.items()},
    xlabel="step",
    ylabel="training loss",
    title="One soft prompt, two learning rates",
)

# %% [markdown]
# The larger rate reaches a far lower loss, and more right answers. Why? It's a question of distance: how far has a
# virtual token gone from its start, beside the length of a real word's vector?


# %%
def distances(path):
    return [(prompt - path[0]).norm(dim=1).mean().item() for prompt in path]


word_length = table.norm(dim=1).mean().item()
steps = range(len(path))
ax = lessonkit.plots.curves(
    {
        "full fine-tuning's rate": (steps, distances(slow_path)),
        "100 times that": (steps, distances(path)),
        "length of an average word's vector": (steps, [word_length] * len(path)),
    },
    xlabel="step",
    ylabel="distance from the start",
)
# %%
for name, each in {"full fine-tuning's rate": slow_path, "100 times that": path}.items():
    print(
        f"{name}: {distances(each)[-1]:.2f} from the start, {distances(each)[-1] / word_length:.1%} of a word"
    )

# %% [markdown]
# To the model, a prompt that has moved by a few hundredths of a word's length is nearly the old prompt. Full
# fine-tuning gets by with tiny steps because all its millions of numbers take one, and the effects add up through the
# layers. Here some ten thousand numbers at the entrance must do it all. Hence learning rates 10 to 100 times as large.
# And a bold step is less dangerous: the weights that hold the knowledge of English are frozen.
#
# ## 5. Is it better than the written prompt?
#
# The choices are made; now the test texts, for the first time. The written prompt is the wording that did best on the
# validation texts (be it `(nothing)`), calibrated on them.

# %%
test_true = torch.tensor(test_dataset["label"])
usual = scores(written[best], validation).mean(0)  # for calibration
written_answers = (scores(written[best], test_dataset) - usual).argmax(-1)
soft_answers = scores(learned, test_dataset).argmax(-1)
majority = Counter(data["train"]["label"]).most_common(1)[0][0]
test_scores = {
    name: lessonkit.classification_scores(test_true, answers, names, majority_label=majority)
    for name, answers in {"written prompt": written_answers, "soft prompt": soft_answers}.items()
}
for name, each in test_scores.items():
    print(f"{name:<15} {each}")
comparison = lessonkit.compare_classifiers(
    test_true, soft_answers, written_answers, names=("the soft prompt", "the written prompt")
)
print(f"\n{comparison}")

# %% [markdown]
# The soft prompt is ahead, and the interval leaves out 0: same model, no weight changed. (Its score differs from that
# on the few validation texts? The test texts decided nothing, so they count.) Some answers that differ:

# %%
for index in (soft_answers != written_answers).nonzero().flatten()[:5].tolist():
    row = test_dataset[index]
    print(
        f"{names[row['label']]:<13} written: {names[written_answers[index]]:<13} soft: {names[soft_answers[index]]}"
    )
    print(f"    {tokenizer.decode(row['input_ids'][: -len(ending)])!r}")

# %% [markdown]
# Save it: the file holds the prompt, not the model.

# %%
from peft import PeftModel

folder = lesson.folder / "bbc-topics"
model.save_pretrained(folder)
reloaded = PeftModel.from_pretrained(base, folder)
kilobytes = (folder / "adapter_model.safetensors").stat().st_size / 1000
print(f"{kilobytes:.0f} kB; the same vectors: {torch.equal(prompt_of(reloaded).cpu(), learned)}")

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 6. What do the learned vectors say?
#
# A tempting idea: for each learned vector, look up the nearest word, and read what the model was told. *Nearest* is
# mostly meant by the **cosine**: 1 for the same direction, 0 for unrelated ones, whatever the lengths.
#
# **Exercise 3, write code.** Write a function that takes a vector and a table of vectors (tensors), and returns the
# cosine of the vector with each row of the table: their products, summed, divided by both lengths.


# %%
def cosines(vector, table):
    return TODO


lesson.exercise("cosines").check(cosines)

# %% [markdown]
# For all virtual tokens at once that is a matrix product. First, what is a cosine worth? The best of 49,152 is never
# 0, not even for pure noise.


# %%
def all_cosines(prompt):
    """Shape (virtual tokens, words in the vocabulary)."""
    normalize = torch.nn.functional.normalize
    return normalize(prompt) @ normalize(table).T


set_seed(SEED)
noise = torch.randn(len(learned), table.shape[1])
chance = all_cosines(noise).max(-1).values.mean().item()
some_words = [tokenizer.decode([i]) for i in all_cosines(noise).argmax(-1)[:8].tolist()]
print(f"nearest words of pure noise: cosine {chance:.2f}, such as {some_words}")

# %% [markdown]
# So a cosine of about that size says nothing. Now ours. The soft prompt began as our question: will its nearest words
# still be that question, or words that fit the task better? Guess.


# %%
def nearest(prompt, count=3):
    best = all_cosines(prompt).topk(count)
    return [
        ", ".join(f"{tokenizer.decode([i])!r} {c:.2f}" for i, c in zip(ids, cosines))
        for ids, cosines in zip(best.indices.tolist(), best.values.tolist())
    ]


print(f"{'started as':<17}nearest words now, by cosine")
for start, words in zip(question_ids, nearest(learned)):
    print(f"{tokenizer.decode([start])!r:<17}{words}")

# %%
kept = (all_cosines(learned).argmax(-1) == torch.tensor(question_ids)).sum().item()
moved = (learned - path[0]).norm(dim=1).mean() / path[0].norm(dim=1).mean()
print(f"{kept} of {len(question_ids)} virtual tokens are still nearest to the word they started as,")
print(f"though they moved by {moved:.0%} of their length, on average")

# %% [markdown]
# The slider shows them during training. (No slider? Above is its last position.)

# %%
from ipywidgets import IntSlider, interact


def show(step):
    for start, words in zip(question_ids, nearest(path[step])):
        print(f"{tokenizer.decode([start])!r:<17}{words}")


_ = interact(show, step=IntSlider(value=0, max=len(path) - 1))

# %% [markdown]
# Does the model still read our question, then? Test it. **If the nearest words were what the prompt says, writing
# those words would work as well.** And if training led to fitting words, a prompt that starts from noise (PEFT's
# default, `"RANDOM"`) should find some:

# %%
random_model = with_soft_prompt(prompt_tuning_init="RANDOM")
random_path, _ = train(random_model, train_dataset, LEARNING_RATE)
for which, each in {"from the question": path, "from noise": random_path}.items():
    top, top_at_start = all_cosines(each[-1]).max(-1), all_cosines(each[0]).max(-1)
    same = (top.indices == top_at_start.indices).sum().item()
    print(f"{which}: best cosines {top.values.mean():.2f} on average (noise: {chance:.2f})")
    print(f"    nearest words: {tokenizer.decode(top.indices)!r}")
    print(f"    {same} of {len(top.indices)} are what they were before the training")
    print("    the learned vectors: {:.2f} right, calibrated {:.2f}".format(*shares(each[-1])))
    print("    their nearest words: {:.2f} right, calibrated {:.2f}".format(*shares(table[top.indices])))

# %% [markdown]
# From the question: the nearest words are the question, which scores as in section 2. **What was learned sits in the
# difference between the vectors and those words.** From noise: most of the nearest words are those of the noise it
# began with, and no nearer than noise ever is. (That prompt has learned little, too: calibrated, it scores about as
# the best written one. Start from words.) In both, the words mostly tell where the prompt *began*.
#
# Papers agree, mostly. [Lester et al.](https://arxiv.org/abs/2104.08691) (section 7) found groups of related words,
# and class names that stayed where they had been put as a start. [Khashabi et al.](https://arxiv.org/abs/2112.08348)
# trained prompts whose nearest words spell out *another* task, at hardly any loss.
#
# The other common measure is the plain dot product, which the model's own attention and output layer use:

# %%
products = learned @ table.T
winners = products.argmax(-1)
print("nearest by dot product:", [tokenizer.decode([i]) for i in winners.tolist()])
print(
    f"{len(set(winners.tolist()))} different words; their vectors are {table[winners].norm(dim=1).mean():.2f} long"
)
print(f"an average word's vector: {word_length:.2f}")

# %% [markdown]
# It favours long vectors, so some words win that have no part in the question, and more than once. A "meaning" that
# depends on the ruler is weak evidence.
#
# **Exercise 4, decide.** A colleague's soft prompt for sorting support mail has the nearest words *delete*,
# *refund* and *Paris*. What follows?
#
# - **a** the prompt tells the model to delete and refund
# - **b** the training failed: *Paris* has nothing to do with support mail
# - **c** nothing yet: look at what the model does with the prompt, on texts you have checked
# - **d** replace the vectors by these words: a written prompt is simpler and does the same

# %%
answer = TODO
lesson.exercise("reading").check(answer)

# %% [markdown]
# ## 7. How few examples are enough?
#
# Labels cost money. We train with 10 and with 40 texts, twice each with other ones; all training texts had their turn
# in section 4. Beside it, counting words (the first lesson's TF-IDF) in the same texts: in the same few tokens of
# each, and in whole articles.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

SIZES = lesson.pick(smoke=(4, 8), laptop=(10, 40), gpu=(10, 40))
FEW_STEPS = lesson.pick(smoke=1, laptop=16, gpu=60)


def as_read(dataset):
    return [tokenizer.decode(ids[: -len(ending)]) for ids in dataset["input_ids"]]


def count_words(dataset, texts, asked):
    counting = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100))
    return share(torch.tensor(counting.fit(texts, dataset["label"]).predict(asked)))


# %%
results = {"soft prompt": {}, "counting words, same tokens": {}, "counting words, whole articles": {}}


def add(texts, prompt):
    """One point for each curve: this prompt's, and counting words on the texts that it was trained on."""
    found = (
        shares(prompt)[0],
        count_words(texts, as_read(texts), as_read(validation)),
        count_words(texts, texts["text"], validation["text"]),
    )
    for each, value in zip(results.values(), found):
        each.setdefault(len(texts), []).append(value)


# %%
for size in SIZES:
    for draw in (0, 1):
        few = train_dataset.select(range(draw * size, (draw + 1) * size))
        few_path, _ = train(with_soft_prompt(), few, LEARNING_RATE, FEW_STEPS, seed=draw)
        add(few, few_path[-1])
add(train_dataset, learned)  # the prompt of section 4

# %%
for name, each in results.items():
    print(f"{name:<31}", {size: [round(value, 2) for value in values] for size, values in each.items()})
sizes = list(results["soft prompt"])
series = {name: (sizes, [sum(v) / len(v) for v in each.values()]) for name, each in results.items()}
series["written prompt, no labels"] = (sizes, [calibrated[best]] * len(sizes))
ax = lessonkit.plots.curves(series, xlabel="labelled texts", ylabel="right, of the validation texts")
ax.set_xscale("log")
ax.minorticks_off()
_ = ax.set_xticks(sizes, sizes)

# %% [markdown]
# With ten labels the soft prompt is far ahead of counting words, for the model brings its English along, and near the
# written prompt, which needs none; it takes more labels to come out above that. Counting words in the same tokens stays
# behind; but it can read whole articles in no time, and with enough labels it then wins. **Report the simple way, too.**
# Draws of one size differ, and 120 texts leave an interval of some 0.08 to each side: smaller differences say little.
#
# **Exercise 5, run an experiment.** Does it take a whole question? Train a soft prompt of **at most 5 virtual
# tokens** on `train_dataset`, and reach **0.65 on the validation texts**. You choose its start, the learning rate and
# the steps (40 take about half a minute on 2 CPU cores). Take this into the cell, above `answer`:
#
# ```python
# mine = with_soft_prompt("Topic of this news?")
# my_path, _ = train(mine, train_dataset, LEARNING_RATE)
# ```
#
# Then replace `TODO` with `{"prompt": my_path[-1], "predicted": scores(my_path[-1], validation).argmax(-1)}`.

# %%
answer = TODO
lesson.exercise("five-tokens").check(answer)

# %% [markdown]
# ## 8. What goes wrong
#
# **The rate of full fine-tuning**: section 4. Nothing warns you; print how far the prompt has moved.
#
# **The wrong word.** A word with a space in front has other tokens than without. After `Topic:` comes a space, so the
# model expects the word *with* it; train without, and you work against its habits.

# %% tags=["nbval-check-output"]
for text in ("sports", " sports", " showbusiness"):
    print(f"{text!r:<16}", tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]))

# %% [markdown]
# Only the second will do: an answer that we read off one place must be a single token.
#
# **No task type.** PEFT must know what kind of model it wraps:

# %% tags=["nbval-check-output"]
try:
    get_peft_model(base, PromptTuningConfig(num_virtual_tokens=5))
except KeyError as error:
    print(f"KeyError: {error}")

# %% [markdown]
# **A prompt for another model.** The vectors fit one set of weights. Loaded onto a model of another width, they fail
# only when it is used; on another *version* of the same model not even then, so nothing warns you: train again.

# %%
from transformers import LlamaConfig, LlamaForCausalLM

tiny = LlamaConfig(
    vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
)
stranger = PeftModel.from_pretrained(LlamaForCausalLM(tiny), folder)
try:
    stranger(input_ids=torch.tensor([[1, 2, 3]]))
except RuntimeError as error:
    print(f"RuntimeError: {error}")

# %% [markdown]
# More in [troubleshooting](../../lessons/troubleshooting.md).
#
# ## 9. On a bigger machine
#
# With 14 GiB of GPU memory or more, the same cells take SmolLM2-1.7B, more texts and more of each. Its predicted peak,
# weights in 16 bits:

# %%
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
    num_virtual_tokens=len(question_ids),
    batch_size=16,
    sequence_length=43,
    dtype="float16",
    device="cuda",
)
for part, size in plan.breakdown.items():
    print(f"{part:<12}{size / 2**30:>6.2f} GiB")
print(f"{'at the peak':<12}{plan.peak_bytes / 2**30:>6.2f} GiB, of the 15 that a T4 has")

# %% [markdown]
# Gradients and optimiser take almost nothing. The activations do: the gradient passes through every frozen layer on
# its way to the prompt. For larger models, prompts also come closer to full fine-tuning
# ([Lester et al.](https://arxiv.org/abs/2104.08691), section 3).
#
# ## 10. The end
#
# 1. A prompt is a matrix: a row for each token. Train the rows, freeze the model: a soft prompt.
# 2. Started from a written question, it is that question, until it is trained.
# 3. It needs a large learning rate: its vectors must travel a good part of a word's length.
# 4. The nearest words mostly tell where a prompt began; put in the vectors' place, they lose what was learned.
# 5. With few labels it beats counting words; with many, count words too; with none, write the prompt.
#
# The next cell keeps your result. At laptop or GPU scale it ticks *Run beginner prompt tuning example*: it has just
# run to its end.

# %%
lesson.record(
    soft_prompt_accuracy=test_scores["soft prompt"].accuracy,
    written_prompt_accuracy=test_scores["written prompt"].accuracy,
    majority_baseline=test_scores["soft prompt"].baseline,
    nearest_words_kept=kept,
    test_texts=len(test_dataset),
)

# %% [markdown]
# **Check yourself.** Your soft prompt's loss has hardly fallen after 200 steps: what do you look at first? Your
# prompt's nearest words are exactly the words you started from: has it learned nothing?
#
# <details><summary>Answers</summary>
#
# The learning rate, and how far the vectors have moved, in lengths of a word's vector. Not so: a vector can move far
# and its start still be the nearest word, as in so many dimensions all others are farther still. Only the score tells.
#
# </details>
#
# **Next:** [full fine-tuning, intermediate](../intermediate/full-fine-tuning.ipynb), where SmolLM2 learns a style;
# more on soft prompts in [prompt tuning, intermediate](../intermediate/prompt-tuning.ipynb).
