# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Experiment tracking
#
# You will be able to log trainings with Weights & Biases and MLflow, both without an account or a network, and to make
# a training again from its record, bit for bit.
#
# **90 minutes**, three focus sessions (about 5 minutes are computing, on 2 CPU cores) · **expert** · before this:
# [full fine-tuning](../intermediate/full-fine-tuning.ipynb) · next: [model registry](model-registry.ipynb)
#
# You will
#
# - let one `Trainer` report to both trackers, and see where their callbacks leave gaps;
# - write down what a repetition needs: data, code, seed, hardware, versions;
# - pick the best of three runs from the tracker, and repeat it;
# - measure what another seed, and another number of threads, change.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("production/experiment-tracking")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
TEXTS, VALIDATION = lesson.pick(smoke=(32, 16), laptop=(640, 160), gpu=(4485, 1000))
STEPS, EVERY = lesson.pick(smoke=(3, 2), laptop=(40, 20), gpu=(420, 70))
RATES = lesson.pick(smoke=(1e-4, 1e-3), laptop=(2e-5, 2e-4, 2e-3), gpu=(5e-6, 3e-5, 3e-4))
BATCH = lesson.pick(smoke=4, laptop=16, gpu=16)
MAX_LENGTH = lesson.pick(smoke=24, laptop=40, gpu=128)  # tokens of a text that are read

# %% [markdown]
# If the setup cell says that packages are missing, type `python start.py --production` in a terminal, or
# `pip install -e ".[production]"` in an environment of your own, and open this notebook again.
#
# ## 1. One Trainer, two trackers
#
# A tracker keeps what a training was told and what came of it, where others find it again. **Weights & Biases**
# writes into a folder; `wandb sync` uploads it later, if you want. **MLflow** writes into a database, here one SQLite
# file. Everything of this lesson goes into a new folder, `WORK`; those of earlier starts are deleted.

# %%
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(lessonkit.__file__).parents[1]  # where the folder `production` lies
sys.path.insert(0, str(ROOT))
for old in lesson.folder.glob("work-*"):
    shutil.rmtree(old, ignore_errors=True)
WORK = lesson.folder.resolve() / time.strftime("work-%Y%m%d-%H%M%S")
WORK.mkdir()

# %% [markdown]
# Both libraries read environment variables when they are first imported, so these come first:

# %%
import os

from production import trackers

trackers.quiet()
os.environ["WANDB_DIR"] = str(WORK)
for name in trackers.VARIABLES:
    print(f"{name}={os.environ[name]}")

# %% [markdown]
# Without them both send usage reports, and W&B asks for an account.
#
# The data: Reuters wires with eight topics, put into a CSV file such as you have at work. Some are kept apart to
# choose by.

# %%
import csv
from dataclasses import replace

from production.recipe import Tracking, read_data

base = Tracking(
    model=MODEL, train_texts=TEXTS, validation_texts=VALIDATION, steps=STEPS, eval_every=EVERY,
    batch_size=BATCH, max_length=MAX_LENGTH,
)  # fmt: skip
data = read_data(base)
labels = [label for _, label in data.parts["validation"]]
majority = max(labels.count(name) for name in data.names) / len(labels)
print(f"{TEXTS} texts to train on, {VALIDATION} to choose by; the most frequent topic: {majority:.3f}")

wires = WORK / "wires.csv"
with wires.open("w", encoding="utf-8", newline="") as file:
    csv.writer(file).writerows([("text", "label"), *data.parts["train"], *data.parts["validation"]])
base = replace(base, data=str(wires))

# %% [markdown]
# Now a training as you know it; new is what `report_to` says.

# %%
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

tokenizer = lessonkit.load_tokenizer(MODEL)


def encoded(rows):
    found = tokenizer([text for text, _ in rows], truncation=True, max_length=MAX_LENGTH)
    return Dataset.from_dict({**found, "labels": [data.names.index(label) for _, label in rows]})


set_seed(0)
model = lessonkit.load_model(MODEL, AutoModelForSequenceClassification, num_labels=len(data.names))
arguments = TrainingArguments(
    output_dir=str(WORK / "trainer"), run_name="by-hand", max_steps=3, per_device_train_batch_size=BATCH,
    logging_steps=1, save_strategy="no", disable_tqdm=True,
    **{**lessonkit.training_arguments(), "report_to": ["wandb", "mlflow"]},
)  # fmt: skip

# %% [markdown]
# **Exercise 1, predict.** Below, this Trainer calls `train()` once, and then `evaluate()` once. How many runs will
# MLflow show?

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("runs").check(answer)

# %%
import mlflow
import wandb

mlflow.set_tracking_uri(f"sqlite:///{(WORK / 'mlflow.db').as_posix()}")
trainer = Trainer(
    model, arguments, data_collator=DataCollatorWithPadding(tokenizer),
    train_dataset=encoded(data.parts["train"][:48]), eval_dataset=encoded(data.parts["validation"][:16]),
)  # fmt: skip
trainer.remove_callback(PrinterCallback)
trainer.train()
trainer.evaluate()
mlflow.flush_async_logging()  # the callback logs in the background
for run in mlflow.search_runs(output_format="list"):
    kept = run.data
    print(f"{run.info.status}: {len(kept.params)} parameters, metrics {sorted(kept.metrics)[:4]} ...")
print("still open:", mlflow.active_run() is not None, "(MLflow),", wandb.run is not None, "(W&B)")

# %% [markdown]
# MLflow's callback ends its run with the training. The evaluation after it finds none open, and MLflow opens a second
# one for it: the score stands in a run that knows no parameters. And it stays open, so the next Trainer of this kernel
# would write into it. W&B's callback never ends its run. **Open the runs yourself, around the Trainer**: a callback
# uses a run that is open, and leaves it open.

# %%
mlflow.end_run()
wandb.finish()
known = mlflow.search_runs(output_format="list")[-1].data.params
print({name: known[name] for name in ("learning_rate", "seed", "max_steps", "hidden_size")})
print("a hash of the data:", any("sha256" in name for name in known))

# %% [markdown]
# Over a hundred parameters, and yet nothing says which texts were trained on. Even the seed is only half of it: 42 is
# the Trainer's default, from which it shuffles and drops out; the 0 that drew the new head in our cell stands nowhere.
#
# ## 2. What a repetition needs
#
# | what | why the name alone won't do |
# |---|---|
# | data: sha256 of all rows, in order | a file keeps its name when a row changes |
# | code: version, sha256, commit, *dirty* | a commit says nothing about what you haven't committed |
# | seed | new weights, order and dropout come from it |
# | hardware, number of threads | sums are split otherwise, and round otherwise |
# | versions of the libraries | a default may have changed |
# | settings, all of them | also those that you left at their defaults |
#
# A **hash** is a short name of a content: another content, another name.

# %% tags=["nbval-check-output"]
from production.records import rows_sha256

rows = [("oil prices rise", "crude"), ("bank lifts rates", "interest")]
for told, each in {
    "as it is": rows,
    "again": list(rows),
    "another order": rows[::-1],
    "one label": [rows[0], ("bank lifts rates", "money-fx")],
}.items():
    print(f"{told:<14}{rows_sha256(each)[:16]}")

# %% [markdown]
# **Exercise 2, write code.** Write `same_data(one, other)`: True if two lists of (text, label) pairs are the same data
# for a training, else False.

# %%
answer = TODO
lesson.exercise("fingerprint").check(answer)

# %% [markdown]
# *Here ends the first focus session.*
#
# ## 3. Three learning rates
#
# `production/recipe.py` does what section 1 did, with both runs opened around the Trainer. In a terminal that is
# `python -m production.tracking train --learning-rate 2e-4`; here we call its function.

# %%
from production.recipe import train
from production.records import read_run

folders = {rate: train(WORK, replace(base, learning_rate=rate)) for rate in RATES}
for rate, folder in folders.items():
    metrics = read_run(folder)["metrics"]
    print(f"{rate:.0e}: accuracy {metrics['eval_accuracy']:.3f}, loss {metrics['eval_loss']:.3f}")

# %% [markdown]
# What do you expect of the curves: which rate is too low, and how would too high a one show?


# %%
def smooth(values, width=5):
    return [
        sum(values[max(0, n - width + 1) : n + 1]) / len(values[max(0, n - width + 1) : n + 1])
        for n in range(len(values))
    ]


curves = {}
for rate, folder in folders.items():
    steps, losses = trackers.history(WORK, folder.name)  # asked of MLflow
    curves[f"learning rate {rate:.0e}"] = (steps, smooth(losses))
ax = lessonkit.plots.curves(curves, xlabel="step", ylabel="training loss, mean of 5 steps")

# %% [markdown]
# Too low a rate: a curve that hardly falls. Too high: one that stays up, or jumps, even if it comes down later. So a
# curve of the training loss tells whether a rate learns at all. What to *choose* by is the validation loss, and the
# tracker is asked, not the eye:

# %%
client = trackers.client(WORK)
found = client.search_runs(
    [trackers.experiment(WORK)],
    "attributes.status = 'FINISHED' and tags.kind = 'train'",
    order_by=["metrics.eval_loss ASC"],
)
for run in found:
    rate, loss = run.data.params["learning_rate"], run.data.metrics["eval_loss"]
    print(f"{run.data.tags['run_id']}  learning rate {rate}, validation loss {loss:.4f}")
best = trackers.best_run(WORK)
print("best:", best)

# %% [markdown]
# Three runs and one seed each: a small lead may be luck (section 5 shows how much a seed moves). The test texts stay
# untouched.
#
# What stands in its record? The file is written last, and in one move: a run without it doesn't count.

# %%
record = read_run(WORK / "runs" / best)
for name in ("data", "code", "seed", "hardware", "versions", "settings", "metrics"):
    told = str(record[name]).replace(str(WORK), "WORK")
    print(f"{name:<9} {told[:96]}{'...' if len(told) > 96 else ''}")
for name, digest in record["files"].items():
    print(f"{name:<32} {digest[:16]}")

# %% [markdown]
# ## 4. The same training again
#
# `repeat` gets the record and nothing else. It first compares the data's hash, then trains, then compares the weights'
# sha256 and each step's loss. It runs as a process of its own, so that nothing of this kernel can help it. What do you
# expect: equal to how many digits?

# %%
from production.processes import start
from production.tracking import table

words = ["python", "-m", "production.tracking", "repeat", best, "--work", WORK]
second = start(words, WORK / "repeat.log", folder=ROOT)
print("exit code:", second.wait(timeout=1200))
print(second.tail())

# %% [markdown]
# "Bit for bit" is a strong word: one other rounding, in one of millions of sums, would give other weights and another
# hash. On a CPU with the same settings, threads and libraries it is what to expect. Should yours say NOT the same, the
# lines above the verdict name what was recorded otherwise; if there are none, the cause is something that the record
# doesn't hold.
#
# **Exercise 3, choose.** The same run with another seed. How does its loss at **step 1** compare?
#
# - `"a"` it is the same: the pretrained weights are
# - `"b"` it is the same: the first batch holds the same texts
# - `"c"` it differs: the new head's weights, the batch and the dropout all come from the seed
# - `"d"` it differs by rounding alone

# %%
answer = TODO
lesson.exercise("seed").check(answer)

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 5. One thing changed
#
# Now the best run with another seed, and with another number of threads; all else is equal.

# %%
from production.comparing import compare_runs
from production.records import list_runs

again = next(each for each in list_runs(WORK) if each["repeats"] == best)
settings = Tracking(**record["settings"], seed=record["seed"])
other_threads = 1 if settings.threads > 1 else 2
changed = {
    "another seed": replace(settings, seed=settings.seed + 1),
    f"{other_threads} instead of {settings.threads} threads": replace(settings, threads=other_threads),
}
records = {name: read_run(train(WORK, each)) for name, each in changed.items()}
for each in records.values():
    print(compare_runs(record, each), "\n")

# %%
FLOOR = 1e-9  # a logarithm has no place for 0
gaps = {}
for name, each in {**records, "repeated": again}.items():
    pairs = zip(record["losses"], each["losses"])
    gaps[name] = [max(FLOOR, abs((one or 0) - (other or 0))) for (_, one), (_, other) in pairs]
steps = [step for step, _ in record["losses"]]
ax = lessonkit.plots.curves({name: (steps, values) for name, values in gaps.items()}, xlabel="step",
    ylabel="difference of the loss\n(1e-9 stands for 0)")  # fmt: skip
ax.set_yscale("log")

# %% [markdown]
# Two kinds of "different". The seed draws another head, other batches, other dropout: it is another training of the
# same recipe, and how far its score lies from the first gives a first idea of what luck is worth here. The threads
# draw nothing anew: they split the same sums otherwise, so what differs begins with rounding and is carried on from
# step to step. A float32 number holds about seven digits, so near a loss of 1 a gap of 1e-7 is the last of them.
# (Where the line of the threads lies at the bottom, no loss shows it; the weights' hashes above say whether anything
# differs.) So a repetition on another machine may be *right* and yet not equal; then compare scores, with an interval,
# as in the [evaluation pipeline](../labs/evaluation-pipeline.ipynb).
#
# **Exercise 4, write code.** Write `changed(then, now)` for two dictionaries of library versions: the sorted names of
# all libraries that have another version now, that are gone, or that are new.

# %%
answer = TODO
lesson.exercise("changed").check(answer)

# %% [markdown]
# ## 6. What W&B has kept
#
# A folder for each run, whose `.wandb` file holds all that was logged. W&B has a reader for it, `wandb leet inspect`
# (without `--json`, in a terminal, it is a viewer):

# %%
kept = trackers.offline_folder(WORK, best)
for file in sorted(each for each in kept.rglob("*") if each.is_file()):
    print(f"{file.relative_to(kept).as_posix():<40} {file.stat().st_size / 1e3:>8.1f} kB")
print(trackers.offline_records(WORK, best))

# %% [markdown]
# To upload it, once you have an account and a network: `wandb login`, then `wandb sync` and the folder. MLflow's pages
# need neither; in a terminal, `mlflow server --backend-store-uri sqlite:///FOLDER/mlflow.db` shows them at a local
# address (FOLDER is where `WORK` lies).
#
# ## 7. What goes wrong
#
# **A run that isn't there, data that has changed, weights that have.**


# %%
def show(action):
    try:
        action()
    except lessonkit.LessonkitError as error:
        print(f"{error}\n".replace(str(WORK), "WORK"))


from production.records import find_run, verify_run
from production.tracking import repeat

original = wires.read_text(encoding="utf-8")
wires.write_text(original.replace(" the ", " THE ", 1), encoding="utf-8")
other = WORK / "runs" / records["another seed"]["run_id"]
with (other / "model" / "config.json").open("a") as file:
    file.write("\n")
show(lambda: find_run(WORK, best[:-1]))
show(lambda: repeat(WORK, best))
show(lambda: verify_run(other))
_ = wires.write_text(original, encoding="utf-8")

# %% [markdown]
# One word of one text, and one line break in one file. Without hashes nobody would have noticed.
#
# **A second start while the first still trains, and a training that is killed.** The first runs as a process of its
# own, for far too many steps:

# %%
from production.records import incomplete_runs

words = ["python", "-m", "production.tracking", "train", "--steps", "100000", "--work", WORK]
first = start(words, WORK / "train.log", folder=ROOT)
while first.running and not incomplete_runs(WORK):
    time.sleep(0.1)
show(lambda: train(WORK, base))
first.stop()
print(table(WORK))

# %% [markdown]
# Its folder is there, without a record: told, and never taken for a run. A full disk ends the same way.
#
# **Keeping all weights**, or a copy of them at each checkpoint (`WANDB_LOG_MODEL=checkpoint`,
# `HF_MLFLOW_LOG_ARTIFACTS=1`). Here the trackers get the record, and the weights lie once, in the run's folder. That
# is still most of the room. While a run's data, code and libraries are at hand, it can be repeated, and need not keep
# its weights; all but the best one's go:


# %%
def megabytes(name):
    files = [WORK / name, *(WORK / name).rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


before = megabytes("runs")
for each in list_runs(WORK):
    if each["run_id"] != best:
        shutil.rmtree(WORK / "runs" / each["run_id"] / "model")
print(f"runs: {before:.0f} MB, then {megabytes('runs'):.0f} MB with {len(list_runs(WORK))} records")
for name in ("wandb", "artifacts", "mlflow.db"):
    print(f"{name}: {megabytes(name):.1f} MB")

# %% [markdown]
# ## 8. On a bigger machine
#
# The same file runs on a GPU; `precision = "bfloat16"` in the settings uses its matrix units. There the same seed is
# not enough: some GPU operations add in whatever order their threads arrive. `full_determinism = true` makes PyTorch
# take deterministic ones, or refuse; that costs speed. With several processes only the first reports (the callbacks
# see to that), and the number of processes belongs into the record.
#
# A team gives MLflow a server's address in place of the file (`_uri` in `production/trackers.py`), and sets
# `WANDB_MODE=online`; the Trainer stays as it is.
#
# ## 9. The end
#
# 1. Open the trackers' runs around the Trainer; the callbacks use what is open.
# 2. Record data, code, seed, hardware, versions and settings; write the record last, in one move.
# 3. Ask the tracker for the best run, by validation.
# 4. A repetition is proven by hashes; on the same CPU and libraries, expect equality.
# 5. Another seed is another training; another number of threads is another rounding.

# %%
wandb.teardown()
best_metrics = record["metrics"]
lesson.record(
    best_accuracy=best_metrics["eval_accuracy"],
    majority_baseline=best_metrics["majority_accuracy"],
    best_loss=best_metrics["eval_loss"],
    repeated_bit_for_bit=float(compare_runs(record, again).same),
    seed_largest_gap=compare_runs(record, records["another seed"]).largest,
    validation_texts=len(labels),
)

# %% [markdown]
# **Check yourself.** A colleague has your commit, your seed and the name of your data, and gets another score. What
# do you compare first? Why is the record written after the model, and not before?
#
# <details><summary>Answers</summary>
#
# The data's hash, whether your commit was *dirty*, the libraries' versions; then threads and hardware. A record before
# the model would vouch for weights that a crash may have kept from being written.
#
# </details>
#
# **Next:** the [model registry](model-registry.ipynb) takes such run folders, and lets only tested ones into service.
