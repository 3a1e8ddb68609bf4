# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Model registry
#
# You will be able to say which model is in service, what it was trained on and why it is there; to let a better one
# take its place, and only a better one; and to go back in one command.
#
# **90 minutes**, three focus sessions (a few minutes are computing, on 2 CPU cores) · **expert** · before this:
# [experiment tracking](experiment-tracking.ipynb), [evaluation pipeline](../labs/evaluation-pipeline.ipynb) · next:
# [model serving](serving.ipynb)
#
# You will
#
# - look into a safetensors file and a pickle, and see why only one of them is let in;
# - register versions, each with its data, code and run;
# - promote through a gate, be refused by it, and roll back;
# - change one byte, fill the disk, start twice, and see that nothing is lost.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("production/model-registry")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
FEW, MORE = lesson.pick(smoke=(32, 48), laptop=(240, 640), gpu=(1000, 4485))  # texts to train on
STEPS = lesson.pick(smoke=(3, 2, 4), laptop=(30, 8, 60), gpu=(60, 10, 420))  # first, hasty, longer
RATE = lesson.pick(smoke=2e-4, laptop=2e-4, gpu=3e-5)
TEST_TEXTS = lesson.pick(smoke=32, laptop=600, gpu=2189)  # of 2,189, for the gate
MAX_LENGTH = lesson.pick(smoke=24, laptop=40, gpu=128)  # tokens of a text that are read

# %% [markdown]
# ## 1. Three runs
#
# A **run** is one training with its record: data, code, seed, settings ([experiment
# tracking](experiment-tracking.ipynb)). Everything goes into a new folder `WORK`; those of earlier starts are deleted.

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

# %%
from production import trackers

trackers.quiet()  # before MLflow and W&B are imported: nothing is sent
from production.recipe import Tracking, train
from production.records import read_run

common = {"model": MODEL, "validation_texts": 32, "eval_every": 10_000, "max_length": MAX_LENGTH}
recipes = {
    "first": Tracking(train_texts=FEW, steps=STEPS[0], learning_rate=RATE, **common),
    "hasty": Tracking(train_texts=FEW, steps=STEPS[1], learning_rate=RATE / 10, **common),
    "longer": Tracking(train_texts=MORE, steps=STEPS[2], learning_rate=RATE, **common),
}
runs = {name: train(WORK, recipe) for name, recipe in recipes.items()}
for name, folder in runs.items():
    print(f"{name:<8}{folder.name}  {read_run(folder)['settings']['steps']} steps")

# %% [markdown]
# ## 2. Two kinds of files
#
# A **safetensors** file: eight bytes that tell the length of a header, the header, then numbers. The header, in JSON,
# says of each tensor its type, its shape, and where its bytes lie. There is nothing in it that could run.

# %% tags=["nbval-check-output"]
import json

import numpy as np
from safetensors.numpy import save

content = save({"head.bias": np.zeros(8, np.float32)})
length = int.from_bytes(content[:8], "little")
print(length, "bytes of header:", content[8 : 8 + length].decode().strip())
print(len(content) - 8 - length, "bytes of numbers")

# %% [markdown]
# A **pickle** (`pytorch_model.bin`, `.pt`, `.pkl`) is a small program that builds an object. One of its instructions
# is: call this function. What do you expect of loading this "model"?

# %% tags=["nbval-check-output"]
import pickle


class Weights:
    def __reduce__(self):
        return print, ("this line was printed by the file, while it was loaded",)


harmful = pickle.dumps(Weights())
loaded = pickle.loads(harmful)
print("the model:", loaded)

# %% [markdown]
# In place of `print` there could be any function, such as one that deletes files. PyTorch's `weights_only=True` allows
# a short list of functions; a registry can be stricter, and let in numbers only. It must look at the bytes, since a
# name is quickly changed:

# %% tags=["nbval-check-output"]
from production.registry_files import refusals

sample = WORK / "sample"
sample.mkdir()
for told, bytes_ in {"safetensors": content, "pickle": harmful, "cut short": content[:-1]}.items():
    (sample / "model.safetensors").write_bytes(bytes_)
    print(f"{told:<12}", refusals(sample) or "let in")

# %% [markdown]
# ## 3. Registering
#
# MLflow's registry knows **versions** (1, 2, 3, ...), **tags** of a version, and **aliases**: names that point to a
# version and can be turned to another. **Champion** is in service, **challenger** wants to be. The files of a version
# are copied to `WORK/registry/topics/VERSION`, so that a run may be deleted one day.
#
# **Exercise 1, choose.** The machine may lose its power at any moment, and readers begin at MLflow's entry. In which
# order should registering go?
#
# - `"a"` entry, copy under the final name
# - `"b"` copy under a hidden name, rename, entry
# - `"c"` copy under the final name, entry
# - `"d"` entry, copy under a hidden name, rename

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("order").check(answer)

# %%
from production.registry import Judging, Registry

rules = Judging(data="reuters-r8", split="test", texts=TEST_TEXTS, max_length=MAX_LENGTH)
registry = Registry(WORK, rules)
versions = {name: registry.register(folder) for name, folder in runs.items()}
print(registry.show())

# %% [markdown]
# In a terminal: `python -m production.registry register RUN_ID`. A run registered twice keeps its version. What does
# MLflow hold?

# %%
first = versions["first"]
for name, value in sorted(registry.entries.all()[first.version].tags.items()):
    print(f"{name:<18}{value[:40]}")
print("\nfiles:", {name: digest[:8] for name, digest in first.sha256.items()})

# %% [markdown]
# The hashes of the files stand in `version.json`, beside them. Whoever changes a file could change that list as well;
# so *its* hash, `manifest_sha256`, stands in the database. A chain: the entry vouches for the list, the list for each
# file, and `resolve` follows it at every load.
#
# *Here ends the first focus session.*
#
# ## 4. The gate
#
# `promote` scores the version and the champion on the same held-out texts, and lets [the
# gate](../labs/evaluation-pipeline.ipynb) compare them text by text. Only "better" passes. The first version has no
# champion to beat; it must beat a baseline: always the most frequent topic. (The gate calls whatever it compares with
# "the champion".)

# %%
decisions = {"first": registry.promote(first.version)}
print(decisions["first"])

# %% [markdown]
# Now the two others, each against the champion of its moment. The hasty one had fewer steps and a tenth of the
# learning rate; the longer one more texts and more steps. What do you expect of each: better, worse, can't tell?

# %%
for name in ("hasty", "longer"):
    decisions[name] = registry.promote(versions[name].version)
    print(decisions[name], "\n")

# %%
import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(6.5, 2.2))
for place, each in enumerate(decisions.values()):
    low, high = each.gate.comparison.interval
    colour = "C0" if each.passed else "C3"
    ax.plot([low, high], [place, place], color=colour, linewidth=3)
    ax.plot(each.gate.comparison.change, place, "o", color=colour)
ax.axvline(0, color="0.4", linestyle="--")
against = [f"version {each.champion}" if each.champion else "baseline" for each in decisions.values()]
labels = [f"{name} against {other}" for name, other in zip(decisions, against)]
ax.set(yticks=range(len(labels)), yticklabels=labels, ylim=(2.5, -0.5))
ax.set_xlabel("difference in accuracy, 95 % interval (red: refused)")
fig.tight_layout()

# %% [markdown]
# To pass, the whole interval must lie right of 0, and no topic may surely lose more than 5 points. The decision is
# kept with the version: reasons in its tags, all answers in a folder.

# %%
print(registry.show(), "\n")
last = decisions["longer"]
kept = json.loads(last.file.read_text(encoding="utf-8"))
print({name: kept[name] for name in ("version", "champion", "verdict", "passed", "date")})
print(sorted(each.relative_to(last.file.parent).as_posix() for each in last.file.parent.rglob("*.*")))

# %% [markdown]
# One warning: these texts were now asked three times. Of twenty challengers that are no better than the champion, one
# or more passes by luck in about 40 % of cases (the [evaluation pipeline](../labs/evaluation-pipeline.ipynb) computes
# it). Take fresh texts from time to time.
#
# ## 5. Back
#
# The gate sees only what the test holds. When the champion fails in service, you don't want to think: one command,
# and the one before serves again. For that, a promotion writes down who was champion before.
#
# **Exercise 2, predict.** Promotions and rollbacks, in this order: promote 1, promote 2, promote 4, rollback, promote
# 5, rollback, rollback. Which version is champion?

# %%
answer = TODO
lesson.exercise("rollback").check(answer)

# %%
from production.processes import start


def command(*words):
    done = start(["python", "-m", "production.registry", *words, "--work", WORK], WORK / "log", folder=ROOT)
    print(f"exit code {done.wait(timeout=600)}: {done.tail()}\n".replace(str(WORK), "WORK"))


before = registry.entries.history()
command("rollback")
print("champions before:", before, "now:", registry.entries.history())
command("rollback")

# %% [markdown]
# A rollback turns an alias: no file is copied. But first the old version's
# files are checked, for a damaged one would be worse than none. Called again, it goes one further back; where there is
# nothing, it says so and changes nothing.
#
# *Here ends the second focus session.*
#
# ## 6. From an answer back to the data
#
# A server tells with each answer which version gave it. A customer complains; all you have is that number.

# %%
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

passed = "champion" in registry.entries.aliases()  # else (at smoke scale) the first version stands in
served = "champion" if passed else str(first.version)
champion = registry.resolve(served)  # checks every file
model = AutoModelForSequenceClassification.from_pretrained(champion.folder, use_safetensors=True).eval()
tokenizer = AutoTokenizer.from_pretrained(champion.folder)
text = "opec ministers meet to talk about oil output and the price of a barrel"
with torch.inference_mode():
    said = int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())
complaint = {"label": model.config.id2label[said], "version": champion.version}
print(complaint)

# %%
from production.recipe import data_facts, read_data

found = registry.resolve(str(complaint["version"]))
for name, value in found.lineage.items():
    print(f"{name:<14}{value}")
settings = Tracking(**found.record["settings"], seed=found.record["seed"])
today = data_facts(settings, read_data(settings))
print("\nthe data today is the same:", today["sha256"] == found.lineage["data_sha256"])
mlflow_run = registry.entries.client.get_run(registry.entries.all()[found.version].run_id)
print("MLflow's run:", mlflow_run.info.run_name, mlflow_run.info.status)
print("train it again: python -m production.tracking repeat", found.run_id)

# %% [markdown]
# From a number to the run, to the very texts (the hash of what you have today is compared), to the code, and to the
# command that trains it again. `code_dirty True` would say that the commit alone is not the code.
#
# ## 7. What goes wrong
#
# **One byte.** Among millions of weights, one bit is turned. The model would still load, and answer.


# %%
def show(action):
    try:
        action()
        print("no refusal")
    except lessonkit.LessonkitError as error:
        print(f"{error}\n".replace(str(WORK), "WORK"))


def turn_a_bit(file):
    with file.open("r+b") as opened:
        opened.seek(-1, 2)
        last = opened.read(1)[0]
        opened.seek(-1, 2)
        opened.write(bytes([last ^ 1]))


weights = champion.folder / "model.safetensors"
turn_a_bit(weights)
show(lambda: registry.resolve(served))
turn_a_bit(weights)  # and back
print("again version", registry.resolve(served).version)

# %% [markdown]
# **Exercise 3, write code.** Write `differences(registered, found)` for two dictionaries, file name -> sha256: the
# sorted names of all files that were changed, are missing, or were added.

# %%
answer = TODO
lesson.exercise("differences").check(answer)

# %% [markdown]
# **A pickle in place of safetensors, a run without lineage, an entry made by hand.** The runs here even have a record
# that agrees with their files.

# %%
from production.records import write_run


def copied(name, **changes):
    """The first run under another name, and its record with changes."""
    folder = WORK / "runs" / name
    shutil.copytree(runs["first"], folder)
    return folder, read_run(folder) | {"run_id": name} | changes


folder, record = copied("pickled")
(folder / "model" / "model.safetensors").write_bytes(harmful)
write_run(folder, record)
show(lambda: registry.register(folder))

orphan, record = copied("orphan", data={"name": "some texts"})
write_run(orphan, record)
show(lambda: registry.register(orphan))

client = registry.entries.client
by_hand = client.create_model_version("topics", (WORK / "sample").as_uri())
show(lambda: registry.promote(by_hand.version))
client.delete_model_version("topics", by_hand.version)

# %% [markdown]
# **The disk is full in the middle of registering.** A process may limit the size of the files that it writes; the
# system then fails its writes as a full disk does, half-way through the weights.

# %%
full, record = copied("full")
write_run(full, record)
script = """
import sys
from production.registry import Registry
from lessonkit.errors import ModelError
registry = Registry(sys.argv[1])
try:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))  # bytes
    registry.register(sys.argv[2])
except ImportError:
    print("this system has no such limit")
except ModelError as error:
    print(error)
"""
table = registry.show()
limited = start(["python", "-c", script, WORK, full], WORK / "full.log", folder=ROOT)
limited.wait(timeout=600)
print(limited.tail(), "\n")
print("the same table as before:", registry.show() == table)
print("left behind:", [each.name for each in registry.root.glob(".part-*")])

# %% [markdown]
# **A second start while the first still runs.** The first, a process of its own, promotes the longer run again.

# %%
words = ["promote", str(versions["longer"].version), "--work", WORK]
one = start(["python", "-m", "production.registry", *words], WORK / "promote.log", folder=ROOT)
while one.running and not (registry.root / ".changing-the-registry.pid").exists():
    time.sleep(0.05)
show(lambda: registry.register(runs["first"]))
print(f"the first: exit code {one.wait(timeout=600)}\n{one.tail()}")

# %% [markdown]
# Reading goes on meanwhile: servers find their champion while someone registers. If the first is killed, the system
# frees the lock, and the next start tidies up: a hidden folder is deleted, a whole version that lacks only its entry
# is entered.
#
# ## 8. On a bigger machine
#
# The registry doesn't care where a run was trained: weights of any size are hashed as they are copied (hashing reads
# each file once more at a load: seconds for some gigabytes). In a team, MLflow runs as a server, versions lie in
# shared or object storage, and rights decide who may set an alias: hashes find damage and mistakes, but whoever may
# write both the database and the files can vouch for anything. Against that, sign the manifest
# ([OpenSSF model signing](https://github.com/sigstore/model-transparency)).
#
# The gate's settings are in `[registry]` of `production/settings.toml`. Where a cheaper model may replace a champion
# that it doesn't beat, set `allow_equal = true` with a `margin`.
#
# ## 9. The end
#
# 1. Safetensors hold numbers; a pickle runs code when it is loaded.
# 2. Copy under a hidden name, rename, then enter: nothing is ever half there.
# 3. The entry vouches for the manifest, the manifest for each file, at every load.
# 4. Only the gate makes a champion; its decision stays with the version.
# 5. A rollback turns an alias back, as often as there were champions.

# %%
print(registry.show())
compared = {name: each.gate.comparison for name, each in decisions.items()}
lesson.record(
    first_accuracy=compared["first"].values[0],
    majority_baseline=compared["first"].values[1],
    hasty_accuracy=compared["hasty"].values[0],
    longer_accuracy=compared["longer"].values[0],
    hasty_passed=float(decisions["hasty"].passed),
    longer_passed=float(decisions["longer"].passed),
    test_texts=compared["first"].n,
)

# %% [markdown]
# **Check yourself.** Why is the manifest's hash kept in the database, and not beside the files? A challenger is one
# point better, and the gate refuses it: what can you do, and what should you not?
#
# <details><summary>Answers</summary>
#
# Who can change a file can change a list beside it in the same way. Score more texts, which narrows the interval; or
# decide *beforehand* that equal is good enough. Don't ask again with other seeds until one passes.
#
# </details>
#
# **Next:** [model serving](serving.ipynb) starts a server with `--alias champion`.
