# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Understanding metrics
#
# You will be able to compute the scores of this course yourself, say what each of them hides, and tell a real
# difference from luck.
#
# **75 minutes**, three focus sessions (about 2 minutes are computing, on 2 CPU cores) · **beginner** · before this:
# [full fine-tuning, beginner](../beginner/full-fine-tuning.ipynb) · background: [glossary](../../lessons/glossary.md)
# · next: [full fine-tuning, intermediate](../intermediate/full-fine-tuning.ipynb)
#
# You will
#
# - compute accuracy, F1, calibration error and perplexity by hand, and get what the libraries give;
# - see a high accuracy hide topics that are never found, and small test sets name the wrong winner;
# - score language models with different tokenizers, and generated answers, without fooling yourself.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("labs/understanding-metrics")

# %%
ENCODER = "minilm"  # turns texts into numbers
DECODER = lesson.pick(smoke="smollm2", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-1.7B-Instruct")
TRAIN_TEXTS = lesson.pick(smoke=16, laptop=1600, gpu=5000)  # of 5,485; the last 485 are for validation
VALIDATION_TEXTS = lesson.pick(smoke=24, laptop=485, gpu=485)  # for every choice
TEST_TEXTS = lesson.pick(smoke=24, laptop=2189, gpu=2189)  # of 2,189
MAX_LENGTH = lesson.pick(smoke=16, laptop=32, gpu=128)  # tokens of each text that are read
PASSAGES = lesson.pick(smoke=3, laptop=24, gpu=200)  # of tales, for the language model
SEED = 0

# %% [markdown]
# ## 1. Answers to score
#
# The task is the [first lesson](../beginner/full-fine-tuning.ipynb)'s: which of eight topics is a Reuters wire about?

# %% tags=["nbval-check-output"]
from collections import Counter

data = lessonkit.load_dataset("reuters-r8")
names = data["train"].features["label"].names
counts = Counter(names[label] for label in data["test"]["label"])
print(f"{len(data['test']):,} test texts: ", dict(counts.most_common()))

# %% [markdown]
# To have many models for little time, MiniLM stays **frozen** (none of its weights change). It turns each wire into
# 384 numbers, its **features**; on these, a logistic regression is trained as the head.

# %%
import numpy as np
import torch
from transformers import AutoModel

device = lesson.hardware.device
wordpieces = lessonkit.load_tokenizer(ENCODER)  # its tokenizer; section 8 needs it again
encoder = lessonkit.load_model(ENCODER, AutoModel, attn_implementation=lesson.hardware.attention).to(device)


@torch.inference_mode()
def features(texts):
    """(texts, 384): for each text the mean of its tokens' vectors, scaled to length 1."""
    found = []
    for start in range(0, len(texts), 64):
        some = texts[start : start + 64]
        limits = {"padding": True, "truncation": True, "max_length": MAX_LENGTH}
        batch = wordpieces(some, return_tensors="pt", **limits).to(device)
        vectors = encoder(**batch).last_hidden_state  # (texts, tokens, 384)
        real = batch["attention_mask"][..., None]  # 0 for padding
        mean = (vectors * real).sum(1) / real.sum(1)
        found.append(torch.nn.functional.normalize(mean, dim=-1).cpu())
    return torch.cat(found).numpy()


# %%
shuffled = data["train"].shuffle(seed=SEED)  # the same order for everybody
splits = {
    "train": shuffled.select(range(TRAIN_TEXTS)),
    "validation": shuffled.select(range(5000, 5000 + VALIDATION_TEXTS)),
    "test": data["test"].shuffle(seed=SEED).select(range(TEST_TEXTS)),
}
labels = {name: np.array(split["label"]) for name, split in splits.items()}
with lessonkit.measure() as used:
    inputs = {name: features(list(split["text"])) for name, split in splits.items()}
print({name: each.shape for name, each in inputs.items()}, f"in {used.seconds:.0f} s")

# %%
from sklearn.linear_model import LogisticRegression


def trained_head(C):  # C: how closely to follow the training texts
    return LogisticRegression(C=C, max_iter=3000).fit(inputs["train"], labels["train"])


def probabilities(head, inputs):
    """(texts, topics); a topic that the training texts lack gets almost 0."""
    table = np.full((len(inputs), len(names)), 1e-9)
    table[:, head.classes_] = head.predict_proba(inputs)
    return table / table.sum(axis=1, keepdims=True)


head = trained_head(C=10)
predicted = probabilities(head, inputs["test"]).argmax(axis=1)
true = labels["test"]
for index in range(3):
    text = splits["test"][index]["text"]
    print(f"said {names[predicted[index]]:<9}is {names[true[index]]:<9}{text[:80]}...")

# %% [markdown]
# ## 2. One table that holds it all
#
# Count each pair of true topic (row) and answer (column): the **confusion matrix**. Right answers stand on the
# diagonal, and **accuracy** is their share.

# %%
from sklearn.metrics import accuracy_score, confusion_matrix

confusion = np.zeros((len(names), len(names)), dtype=int)
for row, column in zip(true, predicted):
    confusion[row, column] += 1
accuracy = np.trace(confusion) / confusion.sum()  # trace: the sum of the diagonal
library = confusion_matrix(true, predicted, labels=range(len(names)))
print("the library's matrix is the same:", np.array_equal(confusion, library))
print(f"accuracy by hand {accuracy:.6f}, by scikit-learn {accuracy_score(true, predicted):.6f}")
ax = lessonkit.plots.confusion_matrix(confusion, names)

# %% [markdown]
# ## 3. When accuracy lies
#
# Now one topic alone, `crude` (oil). A **hit** is a `crude` wire that was called `crude`. Two things can go wrong, and
# each has its share:
#
# - **precision** = hits / all that were *called* `crude`: can you trust the answer?
# - **recall** = hits / all that *are* `crude`: does it find them?

# %%
crude = names.index("crude")
hits, called, are = confusion[crude, crude], confusion[:, crude].sum(), confusion[crude].sum()
ax = lessonkit.plots.stacked_bars(
    {
        "called crude (a column)": {"hits": hits, "false alarms": called - hits},
        "are crude (a row)": {"hits": hits, "missed": are - hits},
    },
    xlabel="test texts",
    fmt="{:.0f}",
)
precision, recall = hits / max(called, 1), hits / max(are, 1)
print(f"precision {hits} / {called} = {precision:.3f}, recall {hits} / {are} = {recall:.3f}")

# %% [markdown]
# **F1** makes one number of the two, their *harmonic mean* 2PR / (P + R). It is low if either is low:

# %% tags=["nbval-check-output"]
for p, r in ((0.9, 0.9), (0.9, 0.3), (1.0, 0.05)):
    print(f"precision {p:.2f}, recall {r:.2f}: plain mean {(p + r) / 2:.3f}, F1 {2 * p * r / (p + r):.3f}")

# %% [markdown]
# It is also **2 x hits / (called + are)**, which exists even if nothing was called so. **Macro-F1** is the plain mean
# of all topics' F1: each counts the same, however rare.
#
# **Exercise 1, predict.** A lazy "model" always answers `earn`. On all 2,189 test texts (1,083 are `earn`) its
# accuracy is 0.495. What is its macro-F1 over the eight topics?

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("lazy-f1").check(answer)

# %% [markdown]
# **Exercise 2, write code.** Return the macro-F1 of a confusion matrix of any size, a NumPy array. A topic that is
# never called, or never there, must not break it.


# %%
def macro_f1(matrix):
    return TODO


lesson.exercise("macro-f1").check(macro_f1)

# %% [markdown]
# All topics, in three lines of NumPy. scikit-learn must give the same:

# %%
from sklearn.metrics import f1_score, precision_recall_fscore_support


def per_topic(matrix):
    """Rows: precision, recall and F1; columns: topics."""
    hits, called, are = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    f1 = 2 * hits / np.maximum(called + are, 1)
    return np.array([hits / np.maximum(called, 1), hits / np.maximum(are, 1), f1])


by_hand = per_topic(confusion)
all_topics = {"labels": range(len(names)), "zero_division": 0}
library = np.array(precision_recall_fscore_support(true, predicted, **all_topics)[:3])
print(f"{'':<10}{'texts':>6}{'precision':>11}{'recall':>8}{'F1':>8}")
for topic, texts, (precision, recall, f1) in zip(names, confusion.sum(axis=1), by_hand.T):
    print(f"{topic:<10}{texts:>6,}{precision:>11.3f}{recall:>8.3f}{f1:>8.3f}")
print(f"\nlargest difference from scikit-learn: {abs(by_hand - library).max():.1e}")

# %%
hits, called, are = np.diag(confusion).sum(), confusion.sum(axis=0).sum(), confusion.sum(axis=1).sum()
for average, mine in {"macro": by_hand[2].mean(), "micro": 2 * hits / (called + are)}.items():
    library = f1_score(true, predicted, average=average, **all_topics)
    print(f"{average}-F1 by hand {mine:.6f}, scikit-learn {library:.6f}")
print(f"accuracy         {accuracy:.6f}")

# %% [markdown]
# **Micro-F1** pools all hits first. Where each text has one true topic and gets one answer, each mistake is one false
# alarm and one miss, so micro-F1 *is* accuracy. (With several topics a text, it isn't.)
#
# Four "models": the lazy one; a careless one that gets everything right, but calls each `grain` and `ship` wire
# `crude`; one that counts words (the first lesson's baseline); ours.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

most_frequent = Counter(labels["train"].tolist()).most_common(1)[0][0]
counting = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100, max_iter=3000))
counting.fit(list(splits["train"]["text"]), labels["train"])
answers = {
    "always earn": np.full_like(true, most_frequent),
    "careless": np.where(np.isin(true, [names.index("grain"), names.index("ship")]), crude, true),
    "counting words": counting.predict(list(splits["test"]["text"])),
    "ours": predicted,
}
print(f"{'':<16}{'accuracy':>10}{'macro-F1':>10}")
for name, each in answers.items():
    table = confusion_matrix(true, each, labels=range(len(names)))
    print(f"{name:<16}{(each == true).mean():>10.3f}{per_topic(table)[2].mean():>10.3f}")

# %% [markdown]
# The lazy one gets about half right and knows nothing. The careless one never finds two of the eight topics; accuracy
# hardly notices, since their wires are few. **Report accuracy beside the majority class, and macro-F1 beside both**,
# or the table of topics.
#
# ## 4. The threshold: precision against recall
#
# Say you want an *alarm* for oil news. The head gives `crude` a probability; from which one on do you raise the alarm?
# We choose on the validation texts: the test texts are for the last measurement.

# %%
crude_scores = {name: probabilities(head, inputs[name])[:, crude] for name in ("validation", "test")}
is_crude = {name: labels[name] == crude for name in crude_scores}


def alarm_at(threshold, scores, truth):
    alarm = scores >= threshold
    hits = (alarm & truth).sum()
    return alarm.sum(), hits / max(alarm.sum(), 1), hits / max(truth.sum(), 1)


# %%
thresholds = np.arange(0.02, 0.96, 0.02)
_, precisions, recalls = np.array(
    [alarm_at(t, crude_scores["validation"], is_crude["validation"]) for t in thresholds]
).T
ax = lessonkit.plots.curves(
    {"precision": (thresholds, precisions), "recall": (thresholds, recalls)},
    xlabel="threshold",
    ylabel="share",
    title=f"Alarm for crude, {is_crude['validation'].sum()} of {len(is_crude['validation'])} validation texts",
)

# %%
from ipywidgets import FloatSlider, interact


def show(threshold):
    alarms, precision, recall = alarm_at(threshold, crude_scores["validation"], is_crude["validation"])
    print(f"threshold {threshold:.2f}: {alarms:>3} alarms, precision {precision:.2f}, recall {recall:.2f}")


for threshold in (0.05, 0.2, 0.5, 0.8):
    show(threshold)
_ = interact(show, threshold=FloatSlider(0.5, min=0.01, max=0.95, step=0.01, continuous_update=False))

# %% [markdown]
# (The slider needs a running notebook.) A higher threshold can only lose recall, and mostly gains precision. (Where no
# alarm is left, precision is drawn as 0.) Which one is right? That is no question about the model, but about the cost
# of its mistakes.
#
# **Exercise 3, run an experiment.** A missed oil wire costs 10, a false alarm 1. Find a threshold whose cost **on the
# validation texts** is at most 3 above the lowest possible. Above `answer`, try
# `print(cost(crude_scores["validation"], is_crude["validation"], 0.5))` with other thresholds.


# %%
def cost(scores, truth, threshold):
    alarm = scores >= threshold
    return 10 * (truth & ~alarm).sum() + (alarm & ~truth).sum()


answer = {"threshold": TODO, "scores": crude_scores["validation"]}
lesson.exercise("alarm").check(answer)

# %% [markdown]
# *Here ends the first focus session. Take five minutes.*
#
# ## 5. Why n matters
#
# Other test texts would have given another accuracy. How different? The **bootstrap** imitates that: draw n texts out
# of our n *with replacement* (some come twice, some never), score, and repeat 1,000 times. The middle 95 % of these
# scores is the **95 % interval**.

# %%
right = predicted == true
draws = np.random.default_rng(0)
scores = [right[draws.integers(0, len(right), len(right))].mean() for _ in range(1000)]
low, high = np.quantile(scores, [0.025, 0.975])
print(f"by hand   {low:.6f} to {high:.6f}")
print("lessonkit {:.6f} to {:.6f}".format(*lessonkit.bootstrap_interval(right)))
ax = lessonkit.plots.histogram(
    scores, bins=30, rulers={"the middle 95 %": [low, high]}, xlabel="accuracy on 1,000 redrawn test sets"
)

# %%
sizes = [n for n in (20, 50, 100, 200, 500, 1000, 2189) if n <= len(right)]
lows, highs = zip(*(lessonkit.bootstrap_interval(right[:n]) for n in sizes))
shares = [right[:n].mean() for n in sizes]
for n, share, low, high in zip(sizes, shares, lows, highs):
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / n)  # the textbook's formula, for comparison
    print(f"n = {n:>5,}: {share:.3f}, interval {low:.3f} to {high:.3f} (formula: +- {half:.3f})")
ax = lessonkit.plots.curves(
    {"accuracy on the first n texts": (sizes, shares), "accuracy on all": (sizes, [accuracy] * len(sizes))},
    xlabel="n, test texts",
    ylabel="accuracy",
    title="Shaded: the 95 % interval",
)
ax.fill_between(sizes, lows, highs, alpha=0.2)
ax.set_xscale("log")
ax.set_xticks(sizes, sizes)
ax.minorticks_off()

# %% [markdown]
# The interval shrinks with the square root of n: for half the width you need *four times* the texts. Now let two
# models compete, ours and counting words, on small test sets. How often does the one that is worse on all texts come
# out ahead?

# %%
rival = answers["counting words"] == true
behind, ahead = sorted([right, rival], key=np.mean)
draws = np.random.default_rng(SEED)
for n in sizes[1::2]:
    sets = [draws.choice(len(true), n, replace=False) for _ in range(1000)]
    upsets = np.mean([behind[chosen].mean() >= ahead[chosen].mean() for chosen in sets])
    print(f"{n:>5,} test texts: the worse one is level or ahead in {upsets:.0%} of 1,000 test sets")
for n in (min(100, len(true)), len(true)):
    first, second = predicted[:n], answers["counting words"][:n]
    print(lessonkit.compare_classifiers(true[:n], first, second, names=("ours", "counting words")))

# %% [markdown]
# The fewer texts, the nearer to a coin toss. `compare_classifiers` bootstraps the *difference, text by text*, since
# both models saw the same texts; "can't tell" is an honest answer. And macro-F1, which rests on a handful of `grain`
# wires?

# %%
ours = lessonkit.classification_scores(true, predicted, names, majority_label=most_frequent)
print(ours.details())

# %% [markdown]
# An interval speaks of other texts *of the same kind*. It knows nothing of next year's wires, nor of another training
# seed.
#
# ## 6. Calibration: does it know how sure it is?
#
# The **confidence** is the winner's probability. A model is **calibrated** if, of the answers given with confidence
# 0.8, 80 % are right. To check, sort the answers into ten bins by confidence, and compare each bin's mean confidence
# with the share that is right: a **reliability diagram**. The **expected calibration error** (ECE) is the mean gap,
# weighted by the bins' texts. (Calibrating a prompt, in *prompt tuning*, is another matter.)


# %%
def reliability(table, labels):
    """For each bin that holds texts: mean confidence, share right, number of texts."""
    confidence, right = table.max(axis=1), table.argmax(axis=1) == labels
    bins = np.searchsorted(np.linspace(0, 1, 11)[1:-1], confidence)
    filled = [bins == number for number in range(10) if (bins == number).any()]
    return np.array([(confidence[each].mean(), right[each].mean(), each.sum()) for each in filled]).T


def calibration_error(table, labels):
    stated, share, texts = reliability(table, labels)
    return (texts * abs(stated - share)).sum() / texts.sum()


def log_loss(table, labels):
    """Mean of -ln(probability of the true topic): what training minimises."""
    return -np.log(table[range(len(labels)), labels]).mean()


# %% [markdown]
# Two heads, trained to follow the training texts loosely (C = 1) or very closely (C = 10,000):

# %%
from sklearn import metrics
from sklearn.calibration import calibration_curve

heads = {f"C = {C:,}": trained_head(C) for C in (1, 10_000)}
tables = {name: probabilities(each, inputs["test"]) for name, each in heads.items()}
for name, table in tables.items():
    answers_right = table.argmax(axis=1) == true
    stated, share, texts = reliability(table, true)
    library = calibration_curve(answers_right, table.max(axis=1), n_bins=10)
    print(f"{name}: accuracy {answers_right.mean():.3f}, mean confidence {table.max(axis=1).mean():.3f}")
    print(f"    ECE {calibration_error(table, true):.3f}, log loss {log_loss(table, true):.3f}", end="; ")
    print(f"scikit-learn's log loss {metrics.log_loss(true, table, labels=range(len(names))):.3f}")
    print(f"    bins differ from scikit-learn's by {abs(np.array(library) - [share, stated]).max():.1e}")


# %%
def draw(tables, title):
    series = {name: reliability(table, true)[:2] for name, table in tables.items()}
    ax = lessonkit.plots.curves(
        {**series, "calibrated": ([0, 1], [0, 1])}, xlabel="confidence", ylabel="share right", title=title
    )
    return ax


ax = draw(tables, "Says 0.8: is it right in 80 %?")

# %% [markdown]
# Above the diagonal a model is **underconfident**: more often right than it says. Below, **overconfident**. The usual
# cure is a **temperature** T: divide the scores (logits) by T before the softmax. T > 1 makes the model humbler, T < 1
# bolder. It is chosen on validation texts, by log loss.
#
# **Exercise 4, predict.** Which scores of a model can a temperature change? `"a"` only accuracy and macro-F1, `"b"`
# these and log loss and calibration error, `"c"` only log loss and calibration error, `"d"` none of the four.

# %%
answer = TODO
lesson.exercise("temperature").check(answer)

# %%
from scipy.special import softmax


def tempered(table, temperature):
    return softmax(np.log(table) / temperature, axis=1)  # ln(probability) is a logit, up to a constant


def best_temperature(head):
    table = probabilities(head, inputs["validation"])
    return min(np.geomspace(0.1, 10, 201), key=lambda T: log_loss(tempered(table, T), labels["validation"]))


cured = {}
for name, each in heads.items():
    T = best_temperature(each)
    cured[name] = tempered(tables[name], T)
    same = (cured[name].argmax(axis=1) == tables[name].argmax(axis=1)).all()
    errors = [calibration_error(table, true) for table in (tables[name], cured[name])]
    print(f"{name}: T = {T:.2f}, ECE {errors[0]:.3f} -> {errors[1]:.3f}, the same answers: {same}")
ax = draw(cured, "With a temperature")

# %% [markdown]
# Nearly equal in accuracy, the two heads differed in what their 0.8 meant. (Bins with few texts jump about: n again.)
# Calibrated probabilities spare you exercise 3's search. With probability p that it is `crude`, no alarm costs 10 p on
# average, an alarm 1 - p; so raise it from **p = 1/11** on. (This needs `crude`'s own probabilities to be right; ECE
# looks at winners only.) On the test texts:

# %%
for name, table in {**tables, **{f"{name}, tempered": table for name, table in cured.items()}}.items():
    costs = [cost(table[:, crude], is_crude["test"], threshold) for threshold in (0.5, 1 / 11)]
    print(f"{name:<22} cost at 0.5: {costs[0]:>4}   at 1/11: {costs[1]:>4}")

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 7. Perplexity: scoring a model that writes
#
# A **language model** gives every token a probability to come next. Score it on a real text: how probable was what
# really came? In **bits**, -log2(p): 1 bit is a coin toss, each further bit halves the probability, so that 1/8 is 3
# bits.

# %%
from transformers import AutoModelForCausalLM

tokenizer = lessonkit.load_tokenizer(DECODER)
decoder = lessonkit.load_model(DECODER, AutoModelForCausalLM).to(device).eval()
START = "<|endoftext|>"  # stood between two texts in its training: a place to begin from


def cut(text):
    return tokenizer(START + text)["input_ids"]


@torch.inference_mode()
def token_losses(ids):
    """-ln(probability) of each token but the first, from those before it."""
    logits = decoder(torch.tensor([ids], device=device)).logits[0].float().cpu()  # (tokens, vocabulary)
    logs = logits.log_softmax(-1)
    return -logs[range(len(ids) - 1), ids[1:]].double().numpy()  # row t foretells token t + 1


ids = cut("The cat sat on the mat, and the dog sat on the moon.")
losses = token_losses(ids)
bits = losses / np.log(2)
pieces = [f"{place}: {tokenizer.decode([id])!r}" for place, id in enumerate(ids[1:], 1)]
ax = lessonkit.plots.bars(dict(zip(pieces, bits)), xlabel="surprise in bits", fmt="{:.1f}")

# %%
print(f"mean {bits.mean():.3f} bits: 2 to that power       {2 ** bits.mean():.4f}")
print(f"mean {losses.mean():.3f} nats (ln): e to that power  {np.exp(losses.mean()):.4f}")
print(f"1 / geometric mean of the probabilities  {1 / np.exp(-losses).prod() ** (1 / len(losses)):.4f}")

# %% [markdown]
# Compare *moon* with *mat*, and the second *on* with the first. **Perplexity** is 2 to the power of the mean, or e to
# the power of the mean loss in nats (natural logarithms): the model is as unsure as if it chose between so many equally
# likely tokens. Lower is better, 1 is the least.
#
# Now passages of Grimm's tales, lower case and letters only, which section 8 needs. The baseline knows how often each
# token occurs in other tales, and nothing of what stood before it (**unigram model**).

# %%
import re

from datasets import Dataset

from lessonkit.evaluation import unigram_perplexity


def passages(texts, length=50):
    """Stretches of so many words, without capitals, digits and punctuation."""
    words = [re.findall("[a-z]+", text.lower()) for text in texts]
    return [" ".join(each[at : at + length]) for each in words for at in range(0, len(each) - length, length)]


tales = lessonkit.load_dataset("grimm-tales")
train_passages = passages(tales["train"]["text"])
drawn = np.random.default_rng(SEED).permutation(passages(tales["test"]["text"]))
test_passages = drawn[:PASSAGES].tolist()


def rows(texts, cut):
    return Dataset.from_list([{"input_ids": cut(text)} for text in texts])


# %%
test_rows = rows(test_passages, cut)
unigram = unigram_perplexity(
    rows(train_passages, cut), test_rows, vocabulary_size=len(tokenizer), tokenizer=tokenizer
)
model_scores = lessonkit.perplexity(decoder, test_rows, baseline=unigram, tokenizer=tokenizer)
losses = np.concatenate([token_losses(ids) for ids in test_rows["input_ids"]])
print(model_scores)
print(f"by hand {np.exp(losses.mean()):.4f}, by lessonkit {model_scores.perplexity:.4f}")

# %% [markdown]
# Far below the baseline: it uses what stood before. The interval resamples *passages*, since the tokens of one passage
# belong together.
#
# ## 8. Perplexity per what?
#
# The same summed loss, shared out among tokens, words and bytes:

# %%
text_bytes = sum(len(text.encode()) for text in test_passages)
text_words = sum(len(text.split()) for text in test_passages)
units = {"token": len(losses), "word": text_words, "byte": text_bytes}
for unit, count in units.items():
    print(f"per {unit:<6}{count:>6,} of them: perplexity {np.exp(losses.sum() / count):>8.2f}")

# %% [markdown]
# One model, one text, three perplexities. A tokenizer that cuts into smaller pieces asks easier questions, and more of
# them. So **perplexities per token only compare with the same tokenizer, on the same text**. What does compare is the
# loss per byte of text: **bits per byte**.
#
# **Exercise 5, write code.** `losses` are a text's token losses in nats, `text` is what these tokens spell. Return the
# bits per byte.


# %%
def bits_per_byte(losses, text):
    return TODO


lesson.exercise("bits-per-byte").check(bits_per_byte)

# %% [markdown]
# Three unigram models cut the same passages into bytes, MiniLM's tokens and SmolLM2's; the fourth row is SmolLM2
# itself. Guess: which has the lowest perplexity? (First the check that both tokenizers lose nothing of these texts. On
# ordinary text, MiniLM's would lose capitals: an easier task.)


# %%
def cut_by_minilm(text):
    return wordpieces(text)["input_ids"][:-1]  # [CLS] to begin from, and no [SEP]


cuts = {  # how to cut, how many different pieces there are, the tokenizer
    "bytes": (lambda text: [0, *text.encode()], 256, None),  # 0 to begin from
    "MiniLM's": (cut_by_minilm, len(wordpieces), wordpieces),
    "SmolLM2's": (cut, len(tokenizer), tokenizer),
}
for name in ("MiniLM's", "SmolLM2's"):
    cut_into, _, cutter = cuts[name]
    kept = sum(cutter.decode(cut_into(text)[1:]) == text for text in test_passages)
    print(f"{name} tokens spell {kept} of {len(test_passages)} passages exactly")

# %%
found = {}
for name, (cut_into, size, cutter) in cuts.items():
    train, test = rows(train_passages, cut_into), rows(test_passages, cut_into)
    found[f"unigram, {name}"] = unigram_perplexity(train, test, vocabulary_size=size, tokenizer=cutter)
found["SmolLM2"] = model_scores
for name, each in found.items():
    print(f"{name:<22}{each.tokens:>7,} tokens")
mine = losses.sum() / np.log(2) / text_bytes
print(f"\nbits per byte of SmolLM2 by hand {mine:.4f}, by lessonkit {model_scores.bits_per_byte:.4f}")
perplexities = {name: each.perplexity for name, each in found.items()}
ax = lessonkit.plots.bars(perplexities, xlabel="perplexity, per token of its own", fmt="{:,.0f}")
# log2(perplexity) is bits per token; if tokens are bytes, that is bits per byte
bits = {name: each.bits_per_byte or np.log2(each.perplexity) for name, each in found.items()}
ax = lessonkit.plots.bars(bits, xlabel="bits per byte", fmt="{:.2f}")

# %% [markdown]
# Bytes have the lowest perplexity and the most bits per byte: each choice is easy, but there are so many of them. By
# bits per byte the order is what you would expect, SmolLM2 first.
#
# ## 9. Generated answers
#
# No list of topics now: the model writes. **Exact match** asks whether answer and reference are equal, here after
# dropping case, punctuation and *a, an, the* on both sides.

# %%
questions = {
    "What is the capital of France?": "Paris",
    "How many legs does a spider have?": "eight",
    "Which planet is closest to the Sun?": "Mercury",
    "Who wrote Romeo and Juliet?": "William Shakespeare",
    "What is the opposite of hot?": "cold",
    "What is frozen water called?": "ice",
    "What is the largest ocean?": "the Pacific Ocean",
    "Which language is spoken in Brazil?": "Portuguese",
}
references = list(questions.values())
writer = lessonkit.load_tokenizer(DECODER, padding_side="left")  # an answer begins where the padding ends
chats = [[{"role": "user", "content": f"{each} Answer with one word."}] for each in questions]
form = {"add_generation_prompt": True, "padding": True, "return_tensors": "pt", "return_dict": True}
batch = writer.apply_chat_template(chats, **form).to(device)
with torch.inference_mode():
    written = decoder.generate(**batch, max_new_tokens=12, do_sample=False, pad_token_id=writer.pad_token_id)
replies = writer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)

# %% [markdown]
# Gentler are overlap scores. **Token F1** is F1 over shared words, in any order. **ROUGE-L** takes the *longest common
# subsequence* instead: words in the same order, gaps allowed.


# %%
def words(text):
    found = re.sub(r"[^\w\s]", "", text.casefold()).split()
    return [word for word in found if word not in ("a", "an", "the")]


def token_f1(reply, reference):
    shared = sum((Counter(reply) & Counter(reference)).values())
    return 2 * shared / max(len(reply) + len(reference), 1)


def rouge_l(reply, reference):
    best = [0] * (len(reference) + 1)  # best[j]: longest so far that uses the first j words of the reference
    for word in reply:
        before = best.copy()
        for j, other in enumerate(reference, 1):
            best[j] = before[j - 1] + 1 if word == other else max(before[j], best[j - 1])
    return 2 * best[-1] / max(len(reply) + len(reference), 1)


# %%
matches = []
print("match  inside    F1  ROUGE-L  reference | reply")
for reply, reference in zip(replies, references):
    mine, wanted = words(reply), words(reference)
    matches.append(mine == wanted)
    inside = f" {' '.join(wanted)} " in f" {' '.join(mine)} "
    f1, rouge = token_f1(mine, wanted), rouge_l(mine, wanted)
    print(f"{matches[-1]:>5}{inside:>8}{f1:>6.2f}{rouge:>9.2f}  {reference} | {reply!r}")
library = lessonkit.exact_match(
    replies, references, ignore_case=True, ignore_punctuation=True, ignore_articles=True
)
print(f"\nby hand {np.mean(matches):.3f}; lessonkit: {library}")

# %% [markdown]
# Read the replies: which would *you* call right? Exact match punishes a correct sentence around the word; *inside*
# forgives it, and a wrong sentence with the word in it, too. (Does the interval have no width? Section 10 says why not
# to believe it.)
#
# **Exercise 6, predict.** Keep all words, articles too: reply *the cat sat on the mat*, reference *the mat sat on the
# cat*. Token F1 is 1. What is ROUGE-L?

# %%
answer = TODO
lesson.exercise("rouge").check(answer)

# %% tags=["nbval-check-output"]
reference = "the central bank raised its interest rate"
for kind, reply in {
    "same words": "the central bank raised its interest rate",
    "opposite": "the central bank lowered its interest rate",
    "same sense": "borrowing became dearer at the central bank",
}.items():
    mine, wanted = words(reply), words(reference)
    f1, rouge = token_f1(mine, wanted), rouge_l(mine, wanted)
    print(f"{kind:<12} exact match {mine == wanted:d}, token F1 {f1:.2f}, ROUGE-L {rouge:.2f}")

# %% [markdown]
# The opposite beats the paraphrase by far. **Overlap counts words, not truth**: use it to compare versions of one
# model, and read a sample of answers each time.
#
# ## 10. What goes wrong
#
# **Arguments swapped.** scikit-learn wants the truth first; swapped, precision and recall change places, silently.
# **Topics left out.** Without `labels`, macro-F1 averages over the topics that happen to occur.

# %%
one = {"labels": [crude], "average": "macro", "zero_division": 0}
proper, swapped = (metrics.precision_score(*each, **one) for each in ((true, predicted), (predicted, true)))
print(f"precision of crude {proper:.3f}; arguments swapped {swapped:.3f}, its recall {by_hand[1, crude]:.3f}")
few, said = true[:40], predicted[:40]
some = f1_score(few, said, average="macro"), f1_score(few, said, average="macro", **all_topics)
print(
    f"macro-F1 of 40 texts: {some[0]:.3f} over the {len({*few, *said})} topics there, {some[1]:.3f} over all 8"
)

# %% [markdown]
# **Perplexities of two tokenizers compared**, and **a perfect score on a small n**:

# %%
try:
    lessonkit.compare_perplexities(found["unigram, bytes"], found["SmolLM2"])
except lessonkit.LessonkitError as error:
    print(error)
print("\n20 of 20 right, bootstrap interval:", lessonkit.bootstrap_interval(np.ones(20)))

# %% [markdown]
# The bootstrap can't draw mistakes that it never saw, so it promises certainty. Remember the **rule of three**:
# after n right answers and no wrong one, up to 3 / n may still be wrong, here 15 %. More mistakes and cures:
# [troubleshooting](../../lessons/troubleshooting.md).
#
# ## 11. On a bigger machine
#
# On a GPU this notebook embeds longer texts and scores 200 passages with SmolLM2-1.7B; only its weights must fit, as
# nothing is trained:

# %% tags=["nbval-check-output"]
for name, parameters in {"SmolLM2-135M": 134_515_008, "SmolLM2-1.7B": 1_711_376_384}.items():
    print(f"{name}: {parameters:,} parameters x 4 bytes = {4 * parameters / 2**30:.2f} GiB")

# %% [markdown]
# ## 12. The end
#
# 1. The confusion matrix holds accuracy, precision, recall and F1. Accuracy overlooks rare topics; macro-F1 doesn't.
# 2. A threshold trades precision for recall; the cost of mistakes chooses it.
# 3. Every score has an interval; four times the texts halve its width. Compare models on the same texts.
# 4. Calibration: is 0.8 right in 80 %? A temperature mends it and changes no answer.
# 5. Perplexity depends on the tokenizer, bits per byte doesn't. Overlap with a reference isn't truth.
#
# The next cell keeps your result. At laptop or GPU scale, with exercises 1, 2 and 5 passed, it earns *Understand
# evaluation metrics (perplexity, accuracy, F1)*.

# %%
lesson.record(
    test_accuracy=accuracy,
    test_macro_f1=by_hand[2].mean(),
    majority_baseline=ours.baseline,
    calibration_error=calibration_error(tables["C = 1"], true),
    calibration_error_tempered=calibration_error(cured["C = 1"], true),
    perplexity=model_scores.perplexity,
    bits_per_byte=bits["SmolLM2"],
    exact_match=library.exact_match,
)

# %% [markdown]
# **Check yourself.** A spam filter has accuracy 0.99. What do you ask first? Model A has perplexity 12, model B 18,
# and their tokenizers differ: which is better?
#
# <details><summary>Answers</summary>
#
# What share of the mail is spam (always "no spam" may reach 0.99), then recall and precision of spam, and n. And
# nobody can say: ask for bits per byte on the same text.
#
# </details>
#
# **Next:** [full fine-tuning, intermediate](../intermediate/full-fine-tuning.ipynb) trains SmolLM2 and watches its
# perplexity on several kinds of text.
