# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Full fine-tuning, beginner
#
# You will be able to train all of a pre-trained model on your own labelled texts, and say honestly how good it has
# become.
#
# **85 minutes**, three focus sessions (2 minutes are training, on 2 CPU cores) · **beginner** · before this:
# [start here](../00-start-here.ipynb) and the [introduction](../../lessons/introduction/guide.md) · background:
# [the guide to full fine-tuning](../../lessons/full-fine-tuning/guide.md) · next: [LoRA, beginner](lora.ipynb)
#
# You will
#
# - read a training loop written by hand, and see that `Trainer` does exactly the same;
# - judge the model against baselines, on texts it has never seen, and read its mistakes;
# - watch it overfit on purpose, so that you recognise it when it isn't.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("beginner/full-fine-tuning")

# %% [markdown]
# Sizes depend on the scale that it chose:

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
TRAIN_TEXTS = lesson.pick(smoke=64, laptop=3200, gpu=5485)  # of 5,485
TEST_TEXTS = lesson.pick(smoke=32, laptop=2189, gpu=2189)  # of 2,189
MAX_LENGTH = lesson.pick(smoke=16, laptop=40, gpu=128)  # tokens of each text that are read
BATCH_SIZE = lesson.pick(smoke=8, laptop=16, gpu=32)  # texts for each step of the training
EPOCHS = lesson.pick(smoke=1, laptop=1, gpu=3)  # times through the training texts
LEARNING_RATE = lesson.pick(smoke=2e-4, laptop=2e-4, gpu=5e-5)  # how far a step goes
SEED = 0  # the same "random" numbers each time

# %% [markdown]
# ## 1. The task: which topic is this news wire about?
#
# *Reuters-21578 R8* is a classic benchmark: short news wires from 1987, each with one of eight topics, split into texts
# to train on and texts to test on. **A model is judged on texts it was not trained on**, or its score says nothing.

# %% tags=["nbval-check-output"]
from collections import Counter

data = lessonkit.load_dataset("reuters-r8")
names = data["train"].features["label"].names
for split in ("train", "test"):
    counts = Counter(names[label] for label in data[split]["label"])
    print(f"{split:<6}{len(data[split]):>6,} texts: ", dict(counts.most_common()))
print("texts that stand in both splits:", len(set(data["train"]["text"]) & set(data["test"]["text"])))

# %% tags=["nbval-check-output"]
for row in data["train"].select([0, 1, 15]):
    print(f"[{names[row['label']]}] {row['text'][:150]}...\n")

# %% [markdown]
# Digits and punctuation were removed by the benchmark's makers. `earn` (company results) and `acq` (takeovers) make up
# most of the texts. `money-fx` is about currencies, `interest` about interest rates, `crude` about oil. A handful of
# texts stand in both splits: too few to matter here, but always count them.
#
# ## 2. Baselines, before any model
#
# How good is a "model" that always answers the most frequent topic?
#
# **Exercise 1, predict.** What accuracy (share of right answers) does always answering `earn` reach **on the test
# texts**? Replace `TODO` with a number between 0 and 1, and run the cell, before you scroll on.

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("baseline").check(answer)

# %% tags=["nbval-check-output"]
baseline = lessonkit.majority_baseline(data["train"]["label"], data["test"]["label"])
print(f"Always the most frequent topic: {baseline:.3f} of the {len(data['test']):,} test texts right")

# %% [markdown]
# A second baseline does read: it counts words, weighs rare ones more (*TF-IDF*), and finds which words speak for which
# topic (*logistic regression*). It knows nothing of language, and takes seconds.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

train_texts = data["train"].shuffle(seed=SEED).select(range(TRAIN_TEXTS))  # the same for everybody
test_texts = data["test"].shuffle(seed=SEED).select(range(TEST_TEXTS))


def score(predicted, texts=test_texts):
    majority = Counter(data["train"]["label"]).most_common(1)[0][0]
    return lessonkit.classification_scores(texts["label"], predicted, names, majority_label=majority)


def count_words(texts):  # C: how closely to follow the training texts
    return make_pipeline(TfidfVectorizer(), LogisticRegression(C=100)).fit(texts["text"], texts["label"])


counting = score(count_words(train_texts).predict(test_texts["text"]))
print("counting words:", counting)

# %% [markdown]
# The *interval* says how much the accuracy would vary with other test texts; *macro-F1* waits for section 7. A strong
# baseline! Read every score below against both.
#
# ## 3. From words to numbers
#
# A model reads numbers. Its **tokenizer** cuts text into known pieces (**tokens**) and replaces each by its number in
# a fixed vocabulary. It belongs to the model: another tokenizer's numbers mean other words.

# %% tags=["nbval-check-output"]
tokenizer = lessonkit.load_tokenizer("minilm")
text = "crude oil prices fell sharply"
ids = tokenizer(text)["input_ids"]
print(ids)
print(tokenizer.convert_ids_to_tokens(ids))

# %% [markdown]
# `[CLS]` and `[SEP]` frame every text; the answer will be read off at `[CLS]`. A **batch** is a table of several texts,
# so all must have one length: short ones are filled up with `[PAD]`, and an **attention mask** tells which places are
# real (1) and which are filling (0). Long texts are cut off at `MAX_LENGTH` tokens. PyTorch's tables are called
# **tensors** (`"pt"`).

# %% tags=["nbval-check-output"]
batch = tokenizer(
    ["crude oil", text], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
)
print("input_ids", tuple(batch["input_ids"].shape), "= (texts, tokens)")
print(batch["attention_mask"])

# %%
tokenizer = lessonkit.load_tokenizer(MODEL)


def tokenize(rows):
    return tokenizer(rows["text"], truncation=True, max_length=MAX_LENGTH)


train_dataset = train_texts.map(tokenize, batched=True)
test_dataset = test_texts.map(tokenize, batched=True)
print(f"{len(train_dataset):,} texts to train on, {len(test_dataset):,} to test on")

# %% [markdown]
# **Exercise 2, measure.** Cutting off loses something. What share of *all 5,485 training texts* has more than 40
# tokens, `[CLS]` and `[SEP]` included? Start from
# `lessonkit.load_tokenizer("minilm")(list(data["train"]["text"]))["input_ids"]`,
# and pass a number between 0 and 1.

# %%
answer = TODO
lesson.exercise("cut-off").check(answer)

# %% [markdown]
# ## 4. The model, before training
#
# MiniLM has read a great deal of English, but has never seen our topics. Its **embeddings** hold a **vector** (a row of
# numbers) for each token, its **layers** mix these, and its **pooler** sums the text up in one vector. On top comes a
# **classification head**, a small layer with an output for each topic, filled with random numbers.
#
# (*Dropout* switches off random parts in training; at 0, it adds no chance to our comparison.)

# %%
from transformers import AutoModelForSequenceClassification, set_seed


def fresh_model():
    set_seed(SEED)  # the same random head each time
    return lessonkit.load_model(
        MODEL,
        AutoModelForSequenceClassification,
        num_labels=len(names),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=lesson.hardware.attention,  # the fastest way on this machine
    )


model = fresh_model()
parts = {"embeddings": model.bert.embeddings, "layers": model.bert.encoder, "pooler": model.bert.pooler}
for part, module in {**parts, "head": model.classifier, "all": model}.items():
    print(f"{part:<12}{sum(p.numel() for p in module.parameters()):>14,} parameters")

# %% [markdown]
# About half of MiniLM's **parameters** (the numbers that training can change) are the embeddings; the head is tiny.
# *Full* fine-tuning means that every one may change.
#
# What does this model say now? First, a loader that hands out batches:

# %%
import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

device = lesson.hardware.device
bf16 = lesson.hardware.bf16
collator = DataCollatorWithPadding(tokenizer)  # pads each batch to its longest text


def batches(dataset, size):
    columns = dataset.select_columns(["input_ids", "attention_mask", "label"])
    return DataLoader(columns, batch_size=size, collate_fn=collator)


# %% [markdown]
# Then a function that predicts. `eval()` and `inference_mode()` say "no training now"; `autocast` computes in bf16,
# numbers of 16 bits, where the hardware is made for that, else in float32, of 32. The **logits** are the head's outputs:
# the highest wins (`argmax`).


# %%
@torch.inference_mode()
def predict(model, dataset):
    """Logits, shape (texts, topics)."""
    model.to(device).eval()
    logits = []
    for batch in batches(dataset, 64):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits.append(model(**batch.to(device)).logits.float().cpu())
    return torch.cat(logits).numpy()


print("untrained head:", score(predict(model, test_dataset).argmax(-1)))

# %% [markdown]
# The head is random, so the answers mean nothing yet, whatever the score.
#
# *Here ends the first focus session. Take five minutes.*
#
# ## 5. A training loop by hand
#
# Training repeats four steps. **Forward**: run a batch through the model; the *loss* (cross-entropy) says how little
# probability it gave to the right topics. **Backward**: find, for every parameter, in which direction the loss grows;
# that's its *gradient*. **Step**: move every parameter a little the other way; the *optimiser*, AdamW, decides how far,
# from the gradients so far and the **learning rate**. **Schedule**: raise that rate over the first tenth, then let it
# fall to zero.

# %%
from transformers import get_linear_schedule_with_warmup


def train_by_hand(model, dataset, epochs, learning_rate):
    model.to(device).train()
    loader = batches(dataset, BATCH_SIZE)
    steps = epochs * len(loader)
    # without weight_decay, which pulls all numbers towards 0; fused is the fast version
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, int(np.ceil(0.1 * steps)), steps)
    losses = []
    for _ in range(epochs):
        for batch in loader:
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = model(**batch.to(device)).loss  # forward
            loss.backward()  # backward: fills .grad of every parameter
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # shortens a gradient longer than 1
            optimizer.step()  # moves every parameter
            schedule.step()  # sets the next step's learning rate
            optimizer.zero_grad()  # forgets this batch's gradients
            losses.append(loss.item())
            if len(losses) % 25 == 1:
                print(f"step {len(losses):>4} of {steps}: loss {losses[-1]:.3f}")
    return losses


# %% [markdown]
# A model that knows nothing gives each of eight topics the probability 1/8, a loss of ln 8 = 2.08. Expect the loss to
# start near that and to fall.

# %%
by_hand = fresh_model()
with lessonkit.measure() as used:
    hand_losses = train_by_hand(by_hand, train_dataset, EPOCHS, LEARNING_RATE)
print(f"\n{used}")

# %%
hand_answers = predict(by_hand, test_dataset).argmax(-1)
print(score(hand_answers))

# %% [markdown]
# That is fine-tuning, no line of it hidden. It is far above the lazy baseline, and not above counting words, which reads
# the texts in full: single words give these topics away. **Always try the simple way too, and report both.** Section 9
# shows where fine-tuning pulls ahead.
#
# ## 6. The same with `Trainer`
#
# At work you'll rarely write that loop: `Trainer` of *transformers* holds it, with checkpoints (saved states), logging
# and several GPUs. We give it the same model, texts, order and settings, and expect the same losses: on a CPU to the
# last digit; a GPU adds numbers in changing order, so they may drift apart.

# %%
from transformers import Trainer, TrainingArguments

arguments = TrainingArguments(
    output_dir=str(lesson.folder / "trainer"),
    num_train_epochs=EPOCHS,
    per_device_train_batch_size=BATCH_SIZE,
    learning_rate=LEARNING_RATE,
    optim="adamw_torch_fused",
    lr_scheduler_type="linear",
    warmup_steps=0.1,  # below 1: a share of all steps
    weight_decay=0.0,
    max_grad_norm=1.0,
    bf16=bf16,
    use_cpu=device == "cpu",
    train_sampling_strategy="sequential",  # the texts are shuffled already
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    seed=SEED,
)
by_trainer = fresh_model()
trainer = Trainer(by_trainer, arguments, train_dataset=train_dataset, data_collator=collator)
run = lessonkit.run(trainer)  # trainer.train(), measured

# %%
trainer_losses = [entry["loss"] for entry in run.history if "loss" in entry]
trainer_answers = predict(by_trainer, test_dataset).argmax(-1)
trainer_scores = score(trainer_answers)
largest = max(abs(np.array(hand_losses) - np.array(trainer_losses)))
print(f"largest difference between the {len(hand_losses)} losses: {largest:.1e}")
print(f"by hand     {score(hand_answers)}")
print(f"by Trainer  {trainer_scores}")
print(f"the same answer for {(hand_answers == trainer_answers).sum():,} of {len(trainer_answers):,} texts")

# %%
steps = range(1, len(hand_losses) + 1)
ax = lessonkit.plots.curves(
    {"by hand": (steps, hand_losses), "Trainer": (steps, trainer_losses)},
    xlabel="step",
    ylabel="training loss",
    title="One loop, written twice",
)
# %% [markdown]
# The curves lie on each other: `Trainer` is your loop. A single batch's loss is noisy; the trend counts.
#
# ## 7. What one number hides
#
# Accuracy counts all texts alike, so the frequent topics dominate it. In the **confusion matrix**, the row is the true
# topic, the column what the model said.

# %%
ax = lessonkit.plots.confusion_matrix(trainer_scores.confusion, names)

# %%
rows = trainer_scores.confusion
mixed = [(rows[t, p], names[t], names[p]) for t in range(len(names)) for p in range(len(names)) if t != p]
for count, true, said in sorted(mixed, reverse=True)[:4]:
    print(f"{count:>4} texts about {true} were called {said}")
for topic in ("earn", "ship", "grain"):
    found, total = rows[names.index(topic), names.index(topic)], rows[names.index(topic)].sum()
    print(f"{topic:<6} found: {found:,} of {total:,}")

# %% [markdown]
# In counts, big and neighbouring topics lead; in shares, the rare ones are worst. A topic's **F1** is high only if the
# model finds its texts (*recall*) *and* is right when it names it (*precision*); **macro-F1** averages F1 over the
# topics, so that ten texts count as much as a thousand.
#
# **Exercise 3, write code.** A topic's *recall* is the share of its true texts that the model found. Write a function
# that takes a confusion matrix and a topic's number, and returns its recall (0 for a topic without texts).


# %%
def recall(matrix, topic):
    return TODO


lesson.exercise("recall").check(recall)

# %% [markdown]
# ## 8. How far did the weights move?
#
# For each part: the length of the change, divided by the length before (0.01: "moved by one per cent"). Guess: which
# part moved most, which least?


# %%
@torch.no_grad()
def movement(before, after):
    difference = sum(((a - b) ** 2).sum() for a, b in zip(after.parameters(), before.parameters()))
    return float((difference / sum((b**2).sum() for b in before.parameters())) ** 0.5)


before, after = fresh_model(), by_trainer.cpu()
moved = {"embeddings": movement(before.bert.embeddings, after.bert.embeddings)}
for number, pair in enumerate(zip(before.bert.encoder.layer, after.bert.encoder.layer)):
    moved[f"layer {number}"] = movement(*pair)
moved["pooler"] = movement(before.bert.pooler, after.bert.pooler)
moved["head"] = movement(before.classifier, after.classifier)
ax = lessonkit.plots.bars(moved, xlabel="relative change of the weights")
# %%
layers = [value for part, value in moved.items() if part.startswith("layer")]
change = (
    after.bert.embeddings.word_embeddings.weight - before.bert.embeddings.word_embeddings.weight
).detach()
touched = (change != 0).any(dim=1).float().mean()
print(
    f"layers {min(layers):.1%} to {max(layers):.1%}, pooler {moved['pooler']:.0%}, head {moved['head']:.0%}"
)
print(f"embeddings {moved['embeddings']:.1%}: {touched:.0%} of the tokens' vectors changed at all")

# %% [markdown]
# Pooler and head changed most: AdamW moves every number by about the learning rate a step, and theirs started small. The
# layers moved by a few per cent; the embeddings by less, because only tokens that occur in our texts get a gradient.
# **Fine-tuning makes small changes to a model that already knows a lot.** LoRA, the next lesson, asks: must we train
# every number?
#
# *Here ends the second focus session.*
#
# ## 9. Overfitting, provoked
#
# Something bad on purpose: only 50 training texts, again and again. Every `eval_steps` steps, `Trainer` measures the loss
# on the 50, and on 250 **validation texts** that this model hasn't seen. They come out of the training split: test texts
# are for the last measurement, never for decisions. What do you expect of the two curves?

# %%
few = train_dataset.select(range(50))
validation = train_dataset.select(range(50, min(300, TRAIN_TEXTS)))
few_arguments = TrainingArguments(
    output_dir=str(lesson.folder / "few"),
    num_train_epochs=lesson.pick(smoke=2, laptop=20, gpu=40),
    per_device_train_batch_size=BATCH_SIZE,
    per_device_eval_batch_size=64,
    learning_rate=LEARNING_RATE,
    lr_scheduler_type="constant",
    eval_strategy="steps",
    eval_steps=8,
    bf16=bf16,
    use_cpu=device == "cpu",
    save_strategy="no",
    report_to="none",
)
watched = Trainer(
    fresh_model(),
    few_arguments,
    train_dataset=few,
    eval_dataset={"training": few, "validation": validation},
    data_collator=collator,
    compute_metrics=lambda result: {"accuracy": (result.predictions.argmax(-1) == result.label_ids).mean()},
)
run = lessonkit.run(watched)


# %%
def watched_over_time(name):
    rows = [entry for entry in run.history if name in entry]
    return [entry["step"] for entry in rows], [entry[name] for entry in rows]


for name in ("eval_training_loss", "eval_validation_loss", "eval_validation_accuracy"):
    print(f"{name:<25}", [round(value, 2) for value in watched_over_time(name)[1]])
ax = lessonkit.plots.curves(
    {
        "the 50 training texts": watched_over_time("eval_training_loss"),
        "validation texts": watched_over_time("eval_validation_loss"),
    },
    xlabel="step",
    ylabel="loss",
    title="50 texts, again and again",
)

# %% [markdown]
# On its 50 texts the loss goes to almost 0. On the validation texts it falls too, at first, and then no more: from there
# on, the model only learns its 50 texts by heart. That gap is **overfitting**. Cures, best first: more data; fewer
# epochs (stop when the validation loss stops falling); a smaller learning rate; training fewer parameters.
#
# And counting words, given the same 50 texts?

# %%
counted = count_words(train_texts.select(range(50))).predict(validation["text"])
print(
    f"counting words, 50 texts:  {(counted == np.array(validation['label'])).mean():.2f} of {len(validation)} right"
)
print(f"fine-tuning, 50 texts:     {watched_over_time('eval_validation_accuracy')[1][-1]:.2f}")

# %% [markdown]
# Here the pre-trained model is ahead, overfitted as it is: it knows words that its 50 texts never show. How far ahead
# depends on the draw of the 50. With few labelled texts, try fine-tuning first; with thousands, count words too.
#
# **Exercise 4, decide.** In another project, your training loss falls to 0.01 while the validation loss has been rising
# for three epochs. What do you do first? Answer `"a"`, `"b"`, `"c"` or `"d"`.
#
# - **a** keep training
# - **b** go back to the checkpoint where the validation loss was lowest
# - **c** raise the learning rate
# - **d** report the training accuracy, which is excellent

# %%
answer = TODO
lesson.exercise("overfitting").check(answer)

# %% [markdown]
# **Exercise 5, run an experiment.** More data is the first cure. Train a fresh model on texts 300 to 699, none of them a
# validation text, and reach an accuracy of **0.91 on the validation texts**. You choose epochs and learning rate; look at
# the printed losses. (On a laptop, four epochs take half as long as section 6.) Take this into the cell, above `answer`:
#
# ```python
# mine = data["train"].shuffle(seed=SEED).select(range(300, 700)).map(tokenize, batched=True)
# yours = fresh_model()
# train_by_hand(yours, mine, 1, LEARNING_RATE)  # one epoch: is that enough?
# ```
#
# Then replace `TODO` with
# `{"trained_on": mine["text"], "predicted": predict(yours, validation).argmax(-1)}`.

# %%
answer = TODO
lesson.exercise("more-texts").check(answer)

# %% [markdown]
# ## 10. Read the mistakes
#
# The most confident mistakes of section 6's model:

# %%
logits = torch.tensor(predict(by_trainer, test_dataset))
confidence, predicted = logits.softmax(-1).max(-1)
labels = torch.tensor(test_dataset["label"])
wrong = (predicted != labels).nonzero().flatten()
worst = wrong[confidence[wrong].argsort(descending=True)][:5].tolist()
print(f"{len(wrong)} of {len(labels):,} wrong; the five most confident:\n")
for index in worst:
    print(f"said {names[predicted[index]]} ({confidence[index]:.0%}), labelled {names[labels[index]]}:")
    print(f"    {test_dataset[index]['text'][:170]}...\n")

# %% [markdown]
# How many would you have labelled as the benchmark did? Some wires fit two topics, and some labels are debatable. Don't
# expect 100 % on such data.
#
# ## 11. Save it, load it, use it
#
# A trained model is a folder: weights (`model.safetensors`), settings (`config.json`, with the topics' names) and the
# tokenizer, which must travel with them.

# %%
folder = lesson.folder / "reuters-topics"
by_trainer.config.id2label = dict(enumerate(names))
by_trainer.config.label2id = {name: number for number, name in enumerate(names)}
by_trainer.save_pretrained(folder)
tokenizer.save_pretrained(folder)
reloaded = lessonkit.load_model(
    folder, AutoModelForSequenceClassification, attn_implementation=lesson.hardware.attention
)
same = np.array_equal(predict(reloaded, validation), predict(by_trainer, validation))
print(
    f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.0f} MB on disk; the same predictions: {same}"
)


# %% [markdown]
# Now your own sentence: add a line `topic_of("...")` and run the cell again. `softmax` turns logits into probabilities.


# %%
@torch.inference_mode()
def topic_of(sentence):
    inputs = tokenizer(sentence, truncation=True, max_length=MAX_LENGTH, return_tensors="pt").to(device)
    shares = reloaded(**inputs).logits.softmax(-1)[0]
    best = shares.topk(3)
    ranked = [f"{reloaded.config.id2label[int(i)]} {float(s):.0%}" for s, i in zip(best.values, best.indices)]
    print(f"{sentence!r}\n    {', '.join(ranked)}")


topic_of("opec ministers agree to cut oil output")
topic_of("the bank of england cuts its base lending rate by half a point")
topic_of("the cat sat on the mat and looked at the moon")  # no topic fits: what does it say?

# %% [markdown]
# The last sentence fits no topic, yet the model must name one: its training data holds no "none of these".
#
# ## 12. What goes wrong
#
# **The learning rate is wrong.** Two short trainings: ours, and fifty times ours.

# %%
SHORT = lesson.pick(smoke=32, laptop=320, gpu=1280)  # texts, none of them a validation text
short = train_dataset.select(range(TRAIN_TEXTS - SHORT, TRAIN_TEXTS))


def short_training(learning_rate):
    model = fresh_model()
    losses = train_by_hand(model, short, 1, learning_rate)
    said = predict(model, validation).argmax(-1)
    right = (said == np.array(validation["label"])).mean()
    print(
        f"    mean of the last 5 losses {np.mean(losses[-5:]):.2f}; {right:.2f} of the validation texts right,"
    )
    print(f"    topics named: {sorted({names[topic] for topic in said})}")


short_training(LEARNING_RATE)
short_training(50 * LEARNING_RATE)

# %% [markdown]
# Steps that are too large wreck what the model knew: it names one topic, whatever the text. Divide by 3 or 10, and
# compare again.
#
# **Exercise 6, experiment.** Run `short_training(LEARNING_RATE / 50)` above `answer`. What does the loss do? `"a"` it falls
# as with ours, `"b"` it hardly moves from ln 8 = 2.08, `"c"` it jumps up and down.

# %%
answer = TODO
lesson.exercise("too-low").check(answer)

# %% [markdown]
# **A label that the head has no output for.** Eight topics are numbered 0 to 7; who counts from 1 meets this:

# %% tags=["nbval-check-output"]
try:
    torch.nn.functional.cross_entropy(torch.zeros(1, 8), torch.tensor([8]))
except IndexError as error:
    print(f"IndexError: {error}")

# %% [markdown]
# On a GPU this reads `CUDA error: device-side assert triggered`; a run on the CPU shows the clearer message. The cure:
# `num_labels` is the number of topics, and labels start at 0.
#
# ## 13. On a bigger machine
#
# On a GPU with 14 GiB or more, this notebook takes BERT-base from the Hugging Face Hub, all 5,485 texts, 128 tokens of
# each and three epochs. For each parameter, its value, its gradient and AdamW's two averages (of the gradient and of its
# square) must fit, 4 bytes each:

# %% tags=["nbval-check-output"]
for name, parameters in {"MiniLM": 22_716_296, "BERT-base": 109_488_392}.items():
    print(f"{name:<10}{parameters / 1e6:>7.1f} M parameters x 16 bytes = {16 * parameters / 2**30:.2f} GiB")

# %% [markdown]
# On top come the *activations*, what each layer keeps of a batch for the backward pass. `lessonkit` predicts the whole:

# %%
from transformers import BertConfig

plan = lessonkit.predict_memory(
    BertConfig(architectures=["BertForSequenceClassification"]),  # BertConfig's own sizes are BERT-base's
    "full",
    num_labels=8,
    batch_size=32,
    sequence_length=128,
    dtype="float32",
    device="cuda",
)
for part, size in plan.breakdown.items():
    print(f"{part:<12}{size / 2**30:>6.2f} GiB")
print(f"{'at the peak':<12}{plan.peak_bytes / 2**30:>6.2f} GiB, of the 15 that a T4 has")

# %% [markdown]
# The activations outweigh all the rest. (At the fullest moment of a step, few gradients are there yet.)
#
# ## 14. The end
#
# 1. Fine-tuning is a loop: forward, backward, step, again. `Trainer` is that loop.
# 2. A score means something beside baselines, a lazy and a simple one, on unseen texts, with n and an interval.
# 3. Relative to their size, embeddings and layers moved by a few per cent only.
# 4. With few texts and many rounds, the training loss falls on when new texts no longer gain.
# 5. Scores say how often a model is wrong; its mistakes say why.
#
# The next cell keeps your result. At laptop or GPU scale it ticks *Run beginner full fine-tuning example*: the notebook
# has just run to its end on your machine.

# %%
lesson.record(
    test_accuracy=trainer_scores.accuracy,
    test_macro_f1=trainer_scores.macro_f1,
    majority_baseline=baseline,
    word_counting_baseline=counting.accuracy,
    test_texts=trainer_scores.n,
)

# %% [markdown]
# **Check yourself.** Why would a test accuracy of 0.52 on this data be bad news? What would you look at first if the
# training loss stayed at 2.08?
#
# <details><summary>Answers</summary>
#
# Always answering `earn` reaches almost as much. A loss of ln 8 means "an eighth each", whatever the text: look at the
# learning rate, and at whether labels and texts still belong together.
#
# </details>
#
# **Next:** the [guide](../../lessons/full-fine-tuning/guide.md) has the mathematics; [LoRA, beginner](lora.ipynb) does
# the same task with under 1 % of the parameters trained.
