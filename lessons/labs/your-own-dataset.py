# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Your own dataset
#
# You will be able to take a table of your own texts, however untidy, and make a tested *classifier* of it: a model
# that gives each text one of your labels.
#
# **90 minutes**, three focus sessions (a minute is training, on 2 CPU cores) · **beginner** · before this: [full
# fine-tuning, beginner](../beginner/full-fine-tuning.ipynb) and [LoRA, beginner](../beginner/lora.ipynb) · next:
# [understanding metrics](understanding-metrics.ipynb)
#
# You will
#
# - read a report on what is wrong with the table, and mend it without touching the file;
# - split it so that the test stays honest, and choose a technique that fits this machine;
# - train, compare with three baselines, read the mistakes, save the model and use it.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("labs/your-own-dataset")

# %% [markdown]
# ## 1. The one line that you change
#
# Run the notebook once as it is, with a file that we wrote for it: messages to a shop, and the department that each
# belongs to. Then put **your** texts into the next cell, and run everything again. It takes
#
# - a file: `"my-texts.csv"`, `.tsv`, `.jsonl`, `.parquet` or `.xlsx`;
# - a folder of `.txt` files, with a subfolder for each label: `"reviews"`;
# - or text, pasted between `"""` and `"""`: a first line `text,label`, then one text a line.
#
# A few dozen texts are enough to begin with. Each needs a **label**: the answer that the model shall learn to give.
# The file is only read, and nothing leaves this computer.

# %%
SOURCE = lessonkit.sample_file("support-messages.csv")

# %% [markdown]
# The sizes depend on the machine:

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
MOST_TEXTS = lesson.pick(smoke=120, laptop=1500, gpu=50_000)  # to train on; of more, some are drawn
MOST_TESTED = lesson.pick(smoke=24, laptop=600, gpu=5000)
LONGEST = lesson.pick(smoke=24, laptop=64, gpu=256)  # tokens of a text that are read at most
MOST_TOKENS = lesson.pick(smoke=600, laptop=100_000, gpu=5_000_000)  # in the whole training
LEARNING_RATE = lesson.pick(smoke=5e-3, laptop=5e-3, gpu=5e-4)  # LoRA's, from its lesson
FULL_RATE = lesson.pick(smoke=2e-4, laptop=2e-4, gpu=5e-5)  # and full fine-tuning's
BATCH_SIZE, SEED = 16, 0

# %% [markdown]
# ## 2. What is wrong with it?
#
# Every table of real texts is dirty. A model learns the dirt too, or worse: dirt makes a score look better than it is.
# So we look before we train. `check_texts` reads the table, finds the columns of texts and labels (if it errs, add
# `text="..."` and `label="..."`, the columns' names), and reports.

# %%
tokenizer = lessonkit.load_tokenizer(MODEL)
report = lessonkit.check_texts(SOURCE, tokenizer=tokenizer)
print(report)

# %% [markdown]
# `✖` stops a training, `!` should be mended, `·` is good to know. It looks for
#
# | what | why it matters |
# |---|---|
# | **encoding** | `cafÃ©` was `café`: bytes read as the wrong letters are words that the model never met |
# | **empty** texts, missing labels | nothing to learn from, and they count in the score |
# | **duplicates**, contradictions | one text twice counts twice; with two labels, one of them is wrong |
# | **near-duplicates** | in train and test alike, they make the test easy: a **leak** |
# | **imbalance**, rare labels | a model may ignore a label that it hardly ever sees |
# | spelling and **typos** in labels | `Billing` and `biling` become classes of their own |
# | **length** | a model reads so many tokens; the rest is cut off |
#
# Never believe a report unseen. These are the rows that it means, with their lines in the file:

# %% tags=["nbval-check-output"]
for finding in report.findings:
    for line, text, label in report.examples(finding.name, most=2):
        print(f"{finding.name[:16]:<17}line {line:>4}  [{label}]  {text[:70]!r}")

# %% [markdown]
# `cure` makes a mended copy. What is safe it does by itself. The rest you ask for, after a look: `biling` *is* a typo
# (in your table, look at that finding before you believe it), and labels of fewer than four texts can't be learned
# *and* tested. To leave a cure out, write `but="HTML"`, say.

# %% tags=["nbval-check-output"]
cured = report.cure("label typos", "rare labels", fewest=4)
print(cured)
cured.check()  # ends the notebook here, and says why, if there is nothing to train on

# %% tags=["nbval-check-output"]
from collections import Counter

names = cured.dataset.features["label"].names
counts = Counter(names[label] for label in cured.dataset["label"])
for name, count in counts.most_common(12):
    print(f"{count:>6} texts  {name}")

# %% [markdown]
# Did your labels come out as you know them? If not, mend the table and run again. **An hour in the table often brings
# more than a day of training.**
#
# ## 3. A test that nobody has seen
#
# A model is judged on texts that were kept from it. Draw them at random?
#
# **Exercise 1, predict.** Each of ten messages stands in a table twice. Every row goes to the test with a probability
# of 1/5, whatever happens to the others. Of the ten pairs, how many do you expect to have one copy in train and the
# other in test? (Decimals are fine.)

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("pairs").check(answer)

# %% [markdown]
# Now with your table, as it was *before* the cures. Duplicates and near-duplicates form **groups**; we draw a random
# test, five times, and count its texts that have a relative in train:

# %%
import numpy as np
from sklearn.model_selection import train_test_split

from lessonkit.texts.duplicates import duplicate_groups

groups = np.array(duplicate_groups(report.texts))
for seed in range(5):
    train, test = train_test_split(groups, test_size=0.2, random_state=seed)
    print(f"seed {seed}: {np.isin(test, train).sum()} of {len(test)} test texts were seen in training")

# %% [markdown]
# Whatever is counted here, the model could answer from memory. `split_texts` keeps a group on one side, and gives each
# label its share of both:

# %%
split = lessonkit.split_texts(cured.dataset, test=0.25, seed=SEED)
groups = np.array(duplicate_groups([*split["train"]["text"], *split["test"]["text"]]))
train, test = np.split(groups, [len(split["train"])])
print(f"{np.isin(test, train).sum()} of {len(test)} test texts were seen in training")


def some(rows, most):
    return rows.shuffle(seed=SEED).select(range(min(most, len(rows))))


train_texts, test_texts = some(split["train"], MOST_TEXTS), some(split["test"], MOST_TESTED)
print(f"{len(train_texts):,} texts to train on, {len(test_texts):,} to test with")

# %% [markdown]
# **Exercise 2, write code.** At work you'll get splits that others made. Write a function that takes the texts of both
# sides, and returns a list of those *test* texts, in their order, that stand in train too. Capitals and the number of
# spaces don't count: `" Hello  World"` is `"hello world"`.


# %%
def leaks(train, test):
    return TODO


lesson.exercise("leaks").check(leaks)

# %% [markdown]
# *Here ends the first focus session.*
#
# ## 4. Three baselines
#
# A **baseline** is the score that a simple way reaches on the same test. The first always gives the most frequent
# label. The second counts pieces of words (two to five letters, so that it works in any language), and finds which
# ones speak for which label.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

true = np.array(test_texts["label"])
majority = Counter(train_texts["label"]).most_common(1)[0][0]


def score(predicted):
    return lessonkit.classification_scores(true, predicted, names, majority_label=majority)


def beginnings(rows):
    return [text[:1000] for text in rows["text"]]  # the first 1,000 characters, so that it doesn't take long


pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), max_features=20_000, sublinear_tf=True)
counting = make_pipeline(pieces, LogisticRegression(C=100, max_iter=1000))
counting.fit(beginnings(train_texts), train_texts["label"])
answers = {f"always {names[majority]!r}": np.full_like(true, majority)}
answers["counting"] = counting.predict(beginnings(test_texts))
print(score(answers["counting"]))

# %% [markdown]
# (*n* is the number of test texts. *Macro-F1* counts each label alike, rare ones too; the [first
# lesson](../beginner/full-fine-tuning.ipynb) builds it.)
#
# For the third we need the model's **tokens**, the pieces of words that it reads. It takes so many of each text, and
# each costs time, so we keep enough for nearly all texts, up to `LONGEST`:

# %%
lengths = np.array(report.tokens)
MAX_LENGTH = int(np.clip(np.quantile(lengths, 0.95), 8, LONGEST))
print(
    f"We read {MAX_LENGTH} tokens of a text; {np.mean(lengths <= MAX_LENGTH):.0%} of the texts are no longer."
)
print(f"{sum(map(len, report.texts)) / lengths.sum():.1f} characters for each token")
limits = np.unique(np.linspace(1, lengths.max(), 200).astype(int))
ax = lessonkit.plots.curves(
    {"texts": (limits, [np.mean(lengths <= each) for each in limits])},
    xlabel="tokens that are read of a text",
    ylabel="share of texts read whole",
)
line = ax.axvline(MAX_LENGTH, color="black", linestyle="--")

# %% [markdown]
# In English, a token has about four characters. One or two mean that the model spells your language letter by letter,
# since it has hardly read it: expect less, and see section 13. The line shows where we cut; if much lies beyond it,
# put what matters first.

# %%
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, set_seed

device, bf16 = lesson.hardware.device, lesson.hardware.bf16
collator = DataCollatorWithPadding(tokenizer)  # fills a batch up to its longest text


def tokenized(rows):
    def cut(batch):
        return tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH)

    return rows.map(cut, batched=True)


def batches(dataset, size=64):
    columns = dataset.select_columns(["input_ids", "attention_mask", "label"])
    return DataLoader(columns, batch_size=size, collate_fn=collator)


train_dataset, test_dataset = tokenized(train_texts), tokenized(test_texts)

# %% [markdown]
# The third baseline is the pre-trained model as it is, **frozen**. It turns each text into a row of 384 numbers (the
# mean over its tokens); only a small classifier on top is fitted. If that is good enough, you need no fine-tuning.


# %%
@torch.inference_mode()
def vectors(dataset):
    """What the frozen model makes of each text, shape (texts, width)."""
    model = lessonkit.load_model(MODEL, attn_implementation=lesson.hardware.attention).to(device).eval()
    found = []
    for batch in batches(dataset):
        inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        hidden, real = model(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
        found.append(((hidden * real).sum(1) / real.sum(1)).float().cpu())
    return torch.cat(found).numpy()


on_top = make_pipeline(Normalizer(), LogisticRegression(C=10, max_iter=1000))
on_top.fit(vectors(train_dataset), train_dataset["label"])
answers["frozen model"] = on_top.predict(vectors(test_dataset))
print(score(answers["frozen model"]))

# %% [markdown]
# ## 5. Which technique? Will it fit?
#
# The first question is memory. The panel follows one training step of this model with each technique of the course,
# and draws what it would take beside what your machine has. Move the controls (in a running notebook): what would a
# batch of 64 texts take, what 512 tokens?


# %%
def fresh_model():
    set_seed(SEED)  # the same random head each time
    return lessonkit.load_model(
        MODEL,
        AutoModelForSequenceClassification,
        id2label=dict(enumerate(names)),  # so that the saved model knows your labels' names
        label2id={name: number for number, name in enumerate(names)},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=lesson.hardware.attention,
    )


# %%
settings = {"dtype": "float32", "mixed_precision": bf16, "optimizer": "adamw_torch_fused"}
lessonkit.fit_panel(
    fresh_model().config,
    batch_size=BATCH_SIZE,
    sequence_length=MAX_LENGTH,
    target_modules=["query", "value"],
    task="sequence-classification",
    **settings,
)

# %% [markdown]
# A small model fits in every way, so memory doesn't decide here; with a large one it would. What else counts:
#
# - *few texts* (less than a thousand, say): train few numbers. **LoRA** is the usual start, and so we take it here;
# - *many texts and much time*: **full** fine-tuning may gain a little; exercise 4 can try it;
# - *a large model that doesn't fit*: QLoRA. *Many tasks, one model*: LoRA, prompt tuning or adapters.

# %%
from peft import LoraConfig, get_peft_model

TECHNIQUE = "lora"  # or "full"


def prepared(technique):
    """The model, and the learning rate that goes with the technique."""
    if technique == "full":
        return fresh_model(), FULL_RATE
    config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    return get_peft_model(fresh_model(), config), LEARNING_RATE


numbers = [(p.numel(), p.requires_grad) for p in prepared(TECHNIQUE)[0].parameters()]
trained, total = sum(count for count, trains in numbers if trains), sum(count for count, _ in numbers)
print(f"{TECHNIQUE}: {trained:,} of {total:,} numbers are trained ({trained / total:.2%})")

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 6. Train
#
# How long? A **step** is one batch of 16 texts. We take at least 120 steps, or eight rounds through the texts if that
# is more, but never more tokens than `MOST_TOKENS`, so that you don't wait for long.

# %%
read = np.mean([len(ids) for ids in train_dataset["input_ids"]])  # tokens of a text


def steps_for(dataset):
    wanted = max(120, 8 * len(dataset) / BATCH_SIZE)
    return int(max(1, min(wanted, MOST_TOKENS / (BATCH_SIZE * read))))


steps = steps_for(train_dataset)
print(
    f"{steps} steps of {BATCH_SIZE} texts: each text is read {steps * BATCH_SIZE / len(train_dataset):.1f} times"
)

# %%
from transformers import Trainer, TrainingArguments


def train_model(dataset, technique=TECHNIQUE):
    model, learning_rate = prepared(technique)
    machine = lessonkit.training_arguments()  # what suits this machine
    machine["train_sampling_strategy"] = "random"  # a text's length may tell its label
    arguments = TrainingArguments(
        output_dir=str(lesson.folder / "trainer"),
        max_steps=steps_for(dataset),
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=learning_rate,
        warmup_steps=0.1,  # the rate rises over the first tenth, then falls to 0
        save_strategy="no",
        seed=SEED,
        **machine,
    )
    trainer = Trainer(model, arguments, train_dataset=dataset, data_collator=collator)
    return model, lessonkit.run(trainer)


model, run = train_model(train_dataset)


# %% [markdown]
# ## 7. Compared with the baselines


# %%
@torch.inference_mode()
def predict(model, dataset):
    """Logits, shape (texts, labels): a number for each label, the highest wins."""
    model.to(device).eval()
    logits = []
    for batch in batches(dataset):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits.append(model(**batch.to(device)).logits.float().cpu())
    return torch.cat(logits).numpy()


logits = predict(model, test_dataset)
answers["fine-tuned"] = logits.argmax(-1)
for name, predicted in answers.items():
    print(f"{name}\n{score(predicted)}\n")
ax = lessonkit.plots.bars(
    {name: score(predicted).accuracy for name, predicted in answers.items()},
    xlabel=f"share of {len(true)} test texts right",
)

# %% [markdown]
# Which is better? With a few dozen test texts, one text is worth several hundredths. `compare_classifiers` takes two
# models' answers text by text, and says *better* only where chance would hardly do it:

# %%
for name in list(answers)[:3]:
    print(
        lessonkit.compare_classifiers(true, answers["fine-tuned"], answers[name], names=("fine-tuned", name))
    )

# %% [markdown]
# Is the frozen model as good? Then its reading before you came did most of the work, and that is a result as well.
# Fine-tuning pays where the labels need something that general reading doesn't teach, and where texts are many.
#
# **Exercise 3, decide.** On 24 test texts, your fine-tuned model has 20 right, a baseline 17. The comparison says
# "can't tell". What do you report?
#
# - **a** the fine-tuned model is better: 83 % against 71 %
# - **b** both are equally good
# - **c** this test can't tell them apart; more test texts are needed, and until then the cheaper one may do
# - **d** nothing yet: train again with other seeds until the difference is clear

# %%
answer = TODO
lesson.exercise("cant-tell").check(answer)

# %% [markdown]
# Which labels are mixed up? Row: the true label; column: what the model said. (Of many labels, the twelve most
# frequent.)

# %%
scores = score(answers["fine-tuned"])
shown = np.sort(np.argsort(-scores.confusion.sum(1), kind="stable")[:12])
ax = lessonkit.plots.confusion_matrix(scores.confusion[np.ix_(shown, shown)], [names[each] for each in shown])

# %% [markdown]
# ## 8. Read the mistakes
#
# The most confident ones first, with their line in your file. Would *you* have given that label? A mistake often is a
# wrong label, or a text that fits two.

# %%
shares = torch.tensor(logits).softmax(-1).numpy()  # logits as probabilities
wrong = np.flatnonzero(answers["fine-tuned"] != true)
print(f"{len(wrong)} of {len(true)} wrong")
for place in sorted(wrong, key=lambda each: -shares[each].max())[:5]:
    row, said = test_texts[int(place)], shares[place].argmax()
    print(
        f"\nline {row['line']}: said {names[said]!r} ({shares[place, said]:.0%}), labelled {names[row['label']]!r}"
    )
    print(f"    {row['text'][:200]}")

# %% [markdown]
# ## 9. Save it, load it, use it
#
# `merge_and_unload` adds LoRA's matrices into the model (see [LoRA, beginner](../beginner/lora.ipynb)), so the folder
# holds a plain model that needs no PEFT. The tokenizer travels with it.

# %%
folder = lesson.folder / "model"
whole = model.merge_and_unload() if TECHNIQUE == "lora" else model
whole.save_pretrained(folder)
tokenizer.save_pretrained(folder)
reloaded = lessonkit.load_model(
    folder, AutoModelForSequenceClassification, attn_implementation=lesson.hardware.attention
)
again = predict(reloaded, test_dataset).argmax(-1)
print(f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.0f} MB on disk")
print(f"the same answer for {(again == answers['fine-tuned']).sum()} of {len(again)} test texts")

# %% [markdown]
# Now try it: write sentences of your own. The last one below fits no label, and yet gets one; a low percentage is the
# only sign that you get, and not a sure one.

# %%
from transformers import pipeline

classify = pipeline("text-classification", model=reloaded, tokenizer=tokenizer, device=device)
yours = [
    "Where is my parcel? It should have been here on Monday.",
    "I paid twice, please send one of the amounts back.",
    "Purple mountains sing quietly on Tuesdays.",
]
for sentence in [*test_texts["text"][:2], *yours]:
    best = classify(sentence, top_k=2, truncation=True, max_length=MAX_LENGTH)
    print(f"{sentence[:70]!r}\n    " + ", ".join(f"{each['label']} {each['score']:.0%}" for each in best))

# %% [markdown]
# In a terminal, `lessonkit check FILE` writes the report of section 2, and `lessonkit evaluate --model FOLDER --data
# FILE` scores a saved model on another table.
#
# ## 10. Would more texts help?
#
# **Exercise 4, run an experiment.** Train on half of the texts. If that is nearly as good, more texts of this kind
# won't change much. The test has done its duty, so we part the *training* texts once more. Copy this into the cell,
# above `answer`:
#
# ```python
# parts = lessonkit.split_texts(train_texts, test=0.3, seed=1)
# half = parts["train"].shuffle(seed=1)
# half = tokenized(half.select(range(len(half) // 2)))
# check = tokenized(parts["test"])
# half_model, run = train_model(half)
# ```
#
# Then replace `TODO` with `{"half": half, "check": check, "predicted": predict(half_model, check).argmax(-1)}`. The
# bar: a tenth more right answers than the most frequent label gives. Afterwards train on `tokenized(parts["train"])`
# as well, and compare the two on `check`; or try `technique="full"`.

# %%
answer = TODO
lesson.exercise("half").check(answer)

# %% [markdown]
# ## 11. What goes wrong
#
# Tables that can't be trained on get a report too, not a traceback:

# %%
lines = [f"message number {number}, all about something else {number * 7}" for number in range(40)]
broken = {
    "a missing file": "my-textz.csv",
    "one label": "text,label\n" + "\n".join(f'"{line}",good' for line in lines),
    "no labels": "\n".join(line.replace(",", "") for line in lines),
    "a number as label": "text,score\n" + "\n".join(f'"{line}",{n / 7:.3f}' for n, line in enumerate(lines)),
    "three rows": "text,label\none,a\ntwo,b\nthree,a",
}
for what, source in broken.items():
    told = str(lessonkit.check_texts(source)).splitlines()
    stops = [line for line in told if line.startswith("✖")] or told
    print(f"{what}:\n    {stops[0]}")

# %% [markdown]
# What no report can find: labels that were given without care; test texts that are easier than tomorrow's; a language
# that the model doesn't know (section 13). And texts of **people** (names, addresses, illnesses) don't belong in a
# model that you share: it can give them away.
#
# ## 12. A dataset of your own
#
# **Exercise 5, make one.** Invent a small task (moods, hobbies, urgent or not) and write a table: at least 24 texts,
# two labels or more, at least eight texts of each, in your own words. Begin like this:
#
# ```python
# answer = lessonkit.check_texts("""text,label
# "What a lovely day",good
# "The soup was cold, again",bad
# """)
# ```
#
# When it passes, make the table your `SOURCE` in section 1, and run all.

# %%
answer = TODO
lesson.exercise("your-own").check(answer)

# %% [markdown]
# ## 13. On a bigger machine, in another language
#
# On a GPU with 14 GiB or more this notebook takes BERT-base, up to 50,000 texts and 256 tokens of each. Both models
# have read English. For other languages write a multilingual one as `MODEL`, such as `"FacebookAI/xlm-roberta-base"`
# from the Hugging Face Hub (which needs a network once). Its memory, predicted before a byte of it is fetched:

# %%
from transformers import XLMRobertaConfig

config = XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1)
for technique in ("full", "lora"):
    plan = lessonkit.predict_memory(
        config,
        technique,
        batch_size=BATCH_SIZE,
        sequence_length=128,
        target_modules=["query", "value"],
        task="sequence-classification",
        num_labels=len(names),
        **settings,
    )
    print(
        f"{technique:<5}{plan.total_parameters / 1e6:>6.0f} M parameters, {plan.peak_bytes / 2**30:.1f} GiB"
    )

# %% [markdown]
# ## 14. The end
#
# 1. Look at the table first; mend a copy; look again.
# 2. Near-duplicates on both sides make a test lie.
# 3. Three baselines before the model, and a comparison that may say "can't tell".
# 4. Memory says what fits, the number of texts what is wise.
# 5. A mistake's line in the file is the shortest way to a better dataset.
#
# The next cell keeps your result. At laptop or GPU scale it ticks *Fine-tune a model on your own simple dataset*, for
# the notebook has just run to its end on your machine. If that was still the sample: now it's your table's turn.

# %%
lesson.record(
    test_accuracy=scores.accuracy,
    test_macro_f1=scores.macro_f1,
    majority_baseline=scores.baseline,
    counting_baseline=score(answers["counting"]).accuracy,
    frozen_baseline=score(answers["frozen model"]).accuracy,
    test_texts=scores.n,
    labels=len(names),
)

# %% [markdown]
# **Check yourself.** Why are rows kept together that are nearly the same? Your model is 0.95 right, and 95 % of your
# texts have one label: what has it learned?
#
# <details><summary>Answers</summary>
#
# Else the model is tested on what it was trained on, and the score says nothing of new texts. Perhaps nothing: always
# giving that label is as good. Look at macro-F1, and at the rare label's row of the confusion matrix.
#
# </details>
#
# **Next:** this was the last lesson of path 1. [Understanding metrics](understanding-metrics.ipynb) opens path 2, and
# [custom dataset](custom-dataset.ipynb) does the same for models that write.
