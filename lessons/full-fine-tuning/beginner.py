# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Full fine-tuning, beginner
#
# You will be able to take a pre-trained model, train all of it on your own labelled texts, and say honestly
# how good it has become.
#
# **75 minutes**, three focus sessions (about 2 minutes are training, on 2 CPU cores) · **beginner** · before this:
# [start here](../00-start-here.ipynb) and the [introduction](../../lessons/introduction/guide.md) ·
# background: [the guide to full fine-tuning](../../lessons/full-fine-tuning/guide.md) ·
# next: *LoRA, beginner* (not written yet)
#
# You will
#
# - write a training loop by hand, and see that `Trainer` does exactly the same;
# - judge the model against a baseline, on texts it has never seen, and read its mistakes;
# - watch it overfit on purpose, so that you recognise it when it isn't on purpose.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("beginner/full-fine-tuning")

# %% [markdown]
# That is this computer, and what was chosen for it. The sizes below depend on the scale; change them if you like.

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
TRAIN_TEXTS = lesson.pick(smoke=64, laptop=3200, gpu=5485)  # of 5,485
TEST_TEXTS = lesson.pick(smoke=64, laptop=2189, gpu=2189)  # of 2,189
MAX_LENGTH = lesson.pick(smoke=40, laptop=40, gpu=128)  # tokens of each text that are read
BATCH_SIZE = lesson.pick(smoke=16, laptop=16, gpu=32)
EPOCHS = lesson.pick(smoke=1, laptop=1, gpu=3)  # times through the training texts
LEARNING_RATE = lesson.pick(smoke=2e-4, laptop=2e-4, gpu=5e-5)
SEED = 0

# %% [markdown]
# ## 1. The task: which topic is this news wire about?
#
# *Reuters-21578 R8* is a classic benchmark: short news wires from 1987, each with one of eight topics, split by its
# makers into texts to train on and texts to test on. **A model is judged on texts it was not trained on**, or its
# score says nothing.

# %% tags=["nbval-check-output"]
from collections import Counter

data = lessonkit.load_dataset("reuters-r8")
names = data["train"].features["label"].names
for split in ("train", "test"):
    counts = Counter(names[label] for label in data[split]["label"])
    print(f"{split:<6}{len(data[split]):>6,} texts: ", dict(counts.most_common()))
print("texts that stand in both splits:", len(set(data["train"]["text"]) & set(data["test"]["text"])))

# %% tags=["nbval-check-output"]
for row in data["train"].select([0, 1, 60]):
    print(f"[{names[row['label']]}] {row['text'][:150]}...\n")

# %% [markdown]
# The benchmark's makers lower-cased the wires and removed digits and punctuation. The topics are far from equally
# frequent: `earn` (company results) and `acq` (takeovers) make up most of them. A handful of texts stand in both splits: too
# few to matter here, but count them in every dataset of your own.
#
# ## 2. A baseline, before any model
#
# How good is a "model" that never reads the text and always answers the most frequent topic?
#
# **Exercise 1, predict.** From the counts above, what accuracy does always answering `earn` reach **on the test
# texts**? Give a number between 0 and 1.

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("baseline").check(answer)

# %% tags=["nbval-check-output"]
baseline = lessonkit.majority_baseline(data["train"]["label"], data["test"]["label"])
print(f"Always the most frequent topic: {baseline:.3f} of the {len(data['test']):,} test texts right")

# %% [markdown]
# Read every score below against this number, not against zero.
#
# ## 3. From words to numbers
#
# A model reads numbers. Its **tokenizer** cuts text into known pieces (**tokens**) and replaces each by its number in
# a fixed vocabulary. It belongs to the model: another tokenizer's numbers would mean other words.

# %% tags=["nbval-check-output"]
tokenizer = lessonkit.load_tokenizer("minilm")
text = "crude oil prices fell sharply"
ids = tokenizer(text)["input_ids"]
print(ids)
print(tokenizer.convert_ids_to_tokens(ids))

# %% [markdown]
# `[CLS]` and `[SEP]` frame every text; the model's answer will be read off at `[CLS]`. A **batch** is a table of several
# texts, so all must have one length: short ones are filled up with `[PAD]`, and an **attention mask** tells the
# model which places are real (1) and which are filling (0). Long texts are cut off at `MAX_LENGTH` tokens.

# %% tags=["nbval-check-output"]
batch = tokenizer(
    ["crude oil", text], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
)
print("input_ids", tuple(batch["input_ids"].shape), "= (texts, tokens)")
print(batch["attention_mask"])

# %% [markdown]
# Now the whole dataset, shuffled once with a fixed seed, so that everybody gets the same texts in the same order.

# %%
tokenizer = lessonkit.load_tokenizer(MODEL)


def tokenize(rows):
    return tokenizer(rows["text"], truncation=True, max_length=MAX_LENGTH)


train_dataset = data["train"].shuffle(seed=SEED).select(range(TRAIN_TEXTS)).map(tokenize, batched=True)
test_dataset = data["test"].shuffle(seed=SEED).select(range(TEST_TEXTS)).map(tokenize, batched=True)
print(f"{len(train_dataset):,} texts to train on, {len(test_dataset):,} to test on")

# %% [markdown]
# **Exercise 2, measure.** Cutting texts off loses something. What share of *all 5,485 training texts* has more than
# 40 tokens, `[CLS]` and `[SEP]` included? Compute it with `tokenizer(...)` **without** truncation, using the tokenizer of
# `minilm`, and pass a number between 0 and 1. (A note that a text is longer than the model takes is fine here.)

# %%
answer = TODO
lesson.exercise("cut-off").check(answer)

# %% [markdown]
# ## 4. The model, before training
#
# MiniLM has read a great deal of English, so it represents texts well. It has never seen our topics: on top of it comes
# a **classification head**, one small layer with an output for each topic, filled with random numbers.
#
# Dropout, which switches off random parts during training, is set to 0: it would only add chance to the comparison
# that we're about to make.

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
        attn_implementation=lesson.hardware.attention,
    )


model = fresh_model()
parts = {"embeddings": model.bert.embeddings, "layers": model.bert.encoder, "pooler": model.bert.pooler}
for part, module in {**parts, "head": model.classifier, "all": model}.items():
    print(f"{part:<12}{sum(p.numel() for p in module.parameters()):>14,} parameters")

# %% [markdown]
# Half of MiniLM's parameters are the embeddings, a vector for each of its 30,522 tokens; the new head is tiny. *Full*
# fine-tuning means that every one of these numbers may change.
#
# What does this model say now? `eval()` and `inference_mode()` say "no training now", and `autocast` does the matrix
# products in 16 bits where the hardware is made for it.

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


@torch.inference_mode()
def predict(model, dataset):
    """Logits, shape (texts, topics)."""
    model.to(device).eval()
    logits = []
    for batch in batches(dataset, 64):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits.append(model(**batch.to(device)).logits.float().cpu())
    return torch.cat(logits).numpy()


def score(logits, dataset=test_dataset):
    majority = Counter(data["train"]["label"]).most_common(1)[0][0]
    return lessonkit.classification_scores(
        dataset["label"], logits.argmax(-1), names, majority_label=majority
    )


print("untrained head:", score(predict(model, test_dataset)))

# %% [markdown]
# Random weights in the head, so a guess, worse than the lazy baseline. All that follows has to beat both.
#
# ## 5. A training loop by hand
#
# Training repeats four steps. **Forward**: run a batch through the model and measure with the *loss* (cross-entropy) how
# little probability it gave to the right topics. **Backward**: find, for every parameter, in which direction the loss
# grows; that's its *gradient*. **Step**: move every parameter a little the other way; AdamW decides how far, from the
# gradients it has seen so far. **Schedule**: warm the learning rate up over the first tenth, then let it fall to zero.

# %%
from transformers import get_linear_schedule_with_warmup


def train_by_hand(model, dataset, epochs, learning_rate):
    model.to(device).train()
    loader = batches(dataset, BATCH_SIZE)
    steps = epochs * len(loader)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, int(np.ceil(0.1 * steps)), steps)
    losses = []
    for _ in range(epochs):
        for batch in loader:
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = model(**batch.to(device)).loss  # forward
            loss.backward()  # backward: fills .grad of every parameter
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # no step larger than this
            optimizer.step()  # moves every parameter
            schedule.step()  # sets the next step's learning rate
            optimizer.zero_grad()  # forgets this batch's gradients
            losses.append(loss.item())
            if len(losses) % 25 == 1:
                print(f"step {len(losses):>4} of {steps}: loss {losses[-1]:.3f}")
    return losses


# %% [markdown]
# With eight topics, a model that knows nothing gives each a probability of 1/8, which costs a loss of ln 8 = 2.08.
# Expect the first step to be near that, and the loss to fall from there.

# %%
by_hand = fresh_model()
with lessonkit.measure() as used:
    hand_losses = train_by_hand(by_hand, train_dataset, EPOCHS, LEARNING_RATE)
print(f"\n{used}")

# %%
hand_scores = score(predict(by_hand, test_dataset))
print(hand_scores)

# %% [markdown]
# That is fine-tuning, and you wrote all of it.
#
# ## 6. The same with `Trainer`
#
# At work you'll rarely write that loop: `Trainer` of *transformers* holds it, with checkpoints, logging and several
# GPUs. Is it really the same loop? We give it the same model, texts, order and settings; each argument below
# stands for a line that you wrote above. We expect the same losses.

# %%
from transformers import Trainer, TrainingArguments

arguments = TrainingArguments(
    output_dir=str(lesson.folder / "trainer"),
    num_train_epochs=EPOCHS,
    per_device_train_batch_size=BATCH_SIZE,
    learning_rate=LEARNING_RATE,
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
trainer_scores = score(predict(by_trainer, test_dataset))
largest = max(abs(np.array(hand_losses) - np.array(trainer_losses)))
agreed = (trainer_scores.confusion == hand_scores.confusion).all()
print(f"largest difference between the {len(hand_losses)} losses: {largest:.1e}")
print(f"by hand     {hand_scores}")
print(f"by Trainer  {trainer_scores}")
print("the same confusion matrix, text for text" if agreed else "the confusion matrices differ a little")

# %%
steps = range(1, len(hand_losses) + 1)
ax = lessonkit.plots.curves(
    {"by hand": (steps, hand_losses), "Trainer": (steps, trainer_losses)},
    xlabel="step",
    ylabel="training loss",
    title="One loop, written twice",
)
# %% [markdown]
# The two curves lie on each other: `Trainer` is your loop, well kept. A single batch's loss is noisy; the trend counts.
#
# ## 7. What one number hides
#
# Accuracy counts all texts alike, so the frequent topics dominate it. The **confusion matrix** shows each
# topic: its row is the true topic, its column what the model said.

# %%
ax = lessonkit.plots.confusion_matrix(trainer_scores.confusion, names)

# %% [markdown]
# Read it row by row: the big topics are nearly perfect; the rare ones, and neighbours such as `money-fx` and
# `interest`, hold most mistakes. **Macro-F1**, printed with the accuracy above, averages over topics instead of
# texts, so a topic with ten texts counts as much as one with a thousand. Well below the accuracy, it says that some
# rare topic is being missed.
#
# **Exercise 3, write code.** *Recall* of a topic is the share of its true texts that the model found. Write a function
# that takes a confusion matrix (rows true, columns predicted) and a topic's number, and returns its recall. A
# topic without any true text has recall 0.


# %%
def recall(matrix, topic):
    return TODO


lesson.exercise("recall").check(recall)

# %% [markdown]
# ## 8. How far did the weights move?
#
# Every parameter could change. Did it? For each part: the length of the difference between the weights after and before,
# divided by the length before (0.01 means "moved by one per cent"). Guess first: which part moved most, which least?


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
print(
    f"the layers moved by {min(layers):.1%} to {max(layers):.1%}, the embeddings by {moved['embeddings']:.1%}, "
    f"pooler and head by {moved['pooler']:.0%} and {moved['head']:.0%}"
)

# %% [markdown]
# The last two parts, which turn what the layers found into one of eight answers, moved by far the most: the head started
# from noise, and MiniLM's pooler had not been used for such a task before. The layers, where the knowledge of English sits,
# moved by a few per cent, and the embeddings by less: only the tokens that occur in our texts were touched. **Fine-tuning
# makes small changes to a model that already knows a lot.** Keep this picture in mind for the next lesson, LoRA,
# which asks: if the change is so small, must we really train every number?
#
# ## 9. Overfitting, provoked
#
# Now something bad on purpose: only 50 training texts, seen again and again. `Trainer` can watch: every `eval_steps` steps,
# it measures the loss on the 50 and on texts that the model hasn't seen. What do you expect of the two curves?

# %%
few = train_dataset.select(range(50))
unseen = test_dataset.select(range(min(400, TEST_TEXTS)))
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
    eval_dataset={"seen": few, "unseen": unseen},
    data_collator=collator,
    compute_metrics=lambda result: {"accuracy": (result.predictions.argmax(-1) == result.label_ids).mean()},
)
run = lessonkit.run(watched)


# %%
def watched_over_time(name):
    rows = [entry for entry in run.history if name in entry]
    return [entry["step"] for entry in rows], [entry[name] for entry in rows]


for name in ("eval_seen_loss", "eval_unseen_loss", "eval_unseen_accuracy"):
    print(f"{name:<22}", [round(value, 2) for value in watched_over_time(name)[1]])
ax = lessonkit.plots.curves(
    {
        "the 50 texts it is trained on": watched_over_time("eval_seen_loss"),
        "texts it has not seen": watched_over_time("eval_unseen_loss"),
    },
    xlabel="step",
    ylabel="loss",
    title="50 texts, again and again",
)

# %% [markdown]
# On its 50 texts the model becomes almost certain, while on new texts the loss stops falling long before zero. The gap
# between the two curves is **overfitting**: what was learned holds for those 50 texts only. Cures, best first: more
# data; fewer epochs (stop when the unseen loss stops falling); a smaller learning rate; training fewer parameters.
#
# **Exercise 4, decide.** In another project, your training loss falls to 0.01 while the loss on unseen texts has
# been rising for three epochs. What do you do first? Answer `"a"`, `"b"`, `"c"` or `"d"`.
#
# - **a** keep training: the training loss can still fall
# - **b** go back to the checkpoint where the unseen loss was lowest
# - **c** raise the learning rate
# - **d** report the training accuracy, which is excellent

# %%
answer = TODO
lesson.exercise("overfitting").check(answer)

# %% [markdown]
# ## 10. Read the mistakes
#
# Scores say how often; only the texts say why. Here are the most confident mistakes of the good model.

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
# How many of these would you have labelled as the benchmark did? Some wires fit two topics, although only one counts, and
# some labels are plainly debatable. No model reaches 100 % on such data, and one that claims to deserves suspicion.
#
# ## 11. Save it, load it, use it
#
# A trained model is a folder: weights (`model.safetensors`), settings (`config.json`, with the topics' names) and the
# tokenizer, which must always travel with it.

# %%
folder = lesson.folder / "reuters-topics"
by_trainer.config.id2label = dict(enumerate(names))
by_trainer.config.label2id = {name: number for number, name in enumerate(names)}
by_trainer.save_pretrained(folder)
tokenizer.save_pretrained(folder)
reloaded = lessonkit.load_model(
    folder, AutoModelForSequenceClassification, attn_implementation=lesson.hardware.attention
)
same = np.array_equal(predict(reloaded, unseen), predict(by_trainer, unseen))
print(
    f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.0f} MB on disk; the same predictions: {same}"
)


# %% [markdown]
# Now your own sentence. Write like a news wire: lower case, no digits.


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
# The last sentence is about none of the eight topics, yet the model has to name one: it can't say "none of these"
# unless its training data holds such texts.
#
# ## 12. What goes wrong
#
# Three failures that everybody meets, each provoked in a few seconds.
#
# **The learning rate is too high.** Fifty times too high here: the loss falls less, or jumps, and the weights that knew
# English are spoiled.

# %%
spoiled = fresh_model()
with lessonkit.measure() as used:
    spoiled_losses = train_by_hand(
        spoiled, train_dataset.select(range(min(400, TRAIN_TEXTS))), 1, 50 * LEARNING_RATE
    )
short = len(spoiled_losses)
print(
    f"mean of the last 5 losses: {np.mean(spoiled_losses[-5:]):.2f}, "
    f"with the right learning rate at the same step: {np.mean(hand_losses[short - 5 : short]):.2f}"
)

# %% [markdown]
# **A label that the head has no output for.** Eight topics are numbered 0 to 7; an 8 comes from counting from 1, or from a
# new topic in new data.

# %% tags=["nbval-check-output"]
try:
    torch.nn.functional.cross_entropy(torch.zeros(1, 8), torch.tensor([8]))
except IndexError as error:
    print(f"IndexError: {error}")

# %% [markdown]
# On a GPU the same mistake reads `CUDA error: device-side assert triggered`; run it on the CPU to see this clearer
# message. The cure: `num_labels` must be the number of topics, and labels must start at 0.
#
# **Nothing to train.** Freezing parameters (the subject of the next lessons) and forgetting to leave some free:

# %% tags=["nbval-check-output"]
for parameter in spoiled.parameters():
    parameter.requires_grad = False
try:
    lessonkit.run(Trainer(spoiled, arguments, train_dataset=few, data_collator=collator))
except lessonkit.LessonkitError as error:
    print(error)

# %% [markdown]
# ## 13. On a bigger machine
#
# On a GPU with 14 GiB or more, this notebook takes BERT-base from the Hugging Face Hub, all 5,485 texts, 128 tokens of
# each and three epochs; nothing else changes. What must fit is, for each parameter, its weight, its gradient and
# AdamW's two averages, 4 bytes each, and on top of that the activations of one batch:

# %% tags=["nbval-check-output"]
for name, parameters in {"MiniLM": 22_716_296, "BERT-base": 109_488_392}.items():
    print(f"{name:<10}{parameters / 1e6:>7.1f} M parameters x 16 bytes = {16 * parameters / 2**30:.2f} GiB")

# %% [markdown]
# ## 14. The end
#
# 1. Fine-tuning is a loop: forward, backward, step, again. `Trainer` is that loop.
# 2. A score means something beside a baseline, on unseen texts, with n and an interval.
# 3. The pre-trained weights moved little, the new head a lot.
# 4. With few texts and many rounds, a model learns its texts instead of the task.
# 5. Scores say how often a model is wrong; its mistakes say why.
#
# The next cell keeps your result. At laptop or GPU scale it ticks *Run beginner full fine-tuning example* in your
# checklist, because this notebook has just run to its end on your machine.

# %%
lesson.record(
    test_accuracy=trainer_scores.accuracy,
    test_macro_f1=trainer_scores.macro_f1,
    majority_baseline=baseline,
    test_texts=trainer_scores.n,
)

# %% [markdown]
# **Check yourself.** Why would a test accuracy of 0.52 on this data be bad news? What would you look at first if the
# training loss stayed at 2.08?
#
# <details><summary>Answers</summary>
#
# Always answering `earn` reaches almost as much, so such a model has learned next to nothing. A loss that stays at ln 8
# means that the model answers "an eighth each" whatever it reads: look at the learning rate, at whether anything is
# trainable, and at whether labels and texts still belong together.
#
# </details>
#
# **Next:** read the [guide to full fine-tuning](../../lessons/full-fine-tuning/guide.md) for the mathematics, then
# type `lessonkit next`. The LoRA lesson, which starts from the picture in section 8, is not written yet.
