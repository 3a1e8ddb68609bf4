# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Monitoring
#
# You will be able to see what a served model does, to be told when it goes wrong, and to find out why: metrics, tested
# alert rules, drift, delayed labels, and one incident rehearsed from the alert to the rollback.
#
# **120 minutes**, four focus sessions (about 4 minutes are computing, on 2 CPU cores) · **expert** · before this:
# [model serving](serving.ipynb) · next: [A/B testing](ab-testing.ipynb)
#
# You will
#
# - read the metrics of a running server, and keep texts and keys out of them;
# - write alert rules that have tests of their own, and let Prometheus and Alertmanager deliver an alert;
# - test for drift with a false alarm rate that you know;
# - decide on a rollback by evidence, and show the recovery.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("production/monitoring")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
STEPS = lesson.pick(smoke={"v1": 2, "v2": 2}, laptop={"v1": 60, "v2": 50}, gpu={"v1": 300, "v2": 150})
RATES = lesson.pick(
    smoke={"v1": 4e-4, "v2": 2e-4}, laptop={"v1": 4e-4, "v2": 2e-4}, gpu={"v1": 5e-5, "v2": 5e-5}
)
REFERENCE, WINDOW = lesson.pick(smoke=(80, 20), laptop=(320, 60), gpu=(800, 150))  # requests
RATE = lesson.pick(smoke=20, laptop=14, gpu=50)  # requests a second
REHEARSAL = lesson.pick(smoke=60, laptop=15, gpu=15)  # section 3 explains it
PATIENCE = lesson.pick(smoke=2, laptop=60, gpu=60)  # seconds that an alert is waited for
MAX_LENGTH, SEED = 40, 0

# %% [markdown]
# ## 1. Two versions, and last month's traffic
#
# The task is known: which of eight topics is a Reuters wire about? **v1** learnt from up to 60 wires of each topic.
# **v2** is newer, and learnt from what came in last month: five of six wires were `earn` or `acq`. Both are tested on
# that traffic, as one does.

# %%
import random
from collections import Counter

data = lessonkit.load_dataset("reuters-r8")
names = data["train"].features["label"].names


def topic(row):
    return names[row["label"]]


def mixed(part, often, rarely, most_of_one=10**6):
    """Wires of `earn` and `acq`, and of the six other topics: so many of each kind, in random order."""
    rows, taken = {True: [], False: []}, Counter()
    for row in part:
        usual = topic(row) in ("earn", "acq")
        if len(rows[usual]) < (often if usual else rarely) and taken[topic(row)] < most_of_one:
            taken[topic(row)] += 1
            rows[usual].append(row)
    found = rows[True] + rows[False]
    random.Random(SEED).shuffle(found)
    return found


# %%
train, test = data["train"].shuffle(seed=SEED), data["test"].shuffle(seed=SEED)
learnt = {"v1": mixed(train, 120, 360, most_of_one=60), "v2": mixed(train, 200, 40)}
usual, shifted = mixed(test, 380, 20), mixed(test, 30, 200)
for name, rows in {**learnt, "last month": usual, "later": shifted}.items():
    print(f"{name:<11}{len(rows)} wires", dict(Counter(map(topic, rows)).most_common()))

# %%
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

tokenizer = lessonkit.load_tokenizer(MODEL)
labels = {"id2label": dict(enumerate(names)), "label2id": {name: each for each, name in enumerate(names)}}
for version, rows in learnt.items():
    set_seed(SEED)
    model = lessonkit.load_model(MODEL, AutoModelForSequenceClassification, num_labels=len(names), **labels)
    read = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_LENGTH)
    tokens = Dataset.from_dict({**read, "label": [row["label"] for row in rows]})
    arguments = TrainingArguments(
        output_dir=str(lesson.folder / "trainer"), max_steps=STEPS[version], per_device_train_batch_size=16,
        learning_rate=RATES[version], warmup_steps=0.1, save_strategy="no", seed=SEED,
        **lessonkit.training_arguments(),
    )  # fmt: skip
    collator = DataCollatorWithPadding(tokenizer)
    lessonkit.run(Trainer(model, arguments, train_dataset=tokens, data_collator=collator))
    model.save_pretrained(lesson.folder / version)
    tokenizer.save_pretrained(lesson.folder / version)

# %%
import numpy as np
import torch


@torch.inference_mode()
def ask_folder(version, rows):
    """For each row, by a saved version: whether it is right, and its confidence."""
    model = AutoModelForSequenceClassification.from_pretrained(lesson.folder / version).eval()
    found = []
    for first in range(0, len(rows), 32):
        some = [row["text"] for row in rows[first : first + 32]]
        batch = tokenizer(some, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
        found.append(model(**batch).logits.softmax(-1))
    confidence, said = torch.cat(found).max(-1)
    return (said == torch.tensor([row["label"] for row in rows])).numpy(), confidence.numpy()


for version in learnt:
    right, confidence = ask_folder(version, usual[:200])
    print(
        f"{version} on last month's wires: {right.mean():.3f} right, mean confidence {confidence.mean():.2f}"
    )

# %% [markdown]
# A test on last month's traffic says how a model does on last month's traffic. On it the two are close, so the newer
# one went into service. It is served for real, by the server of [model serving](serving.ipynb); `current` is a link to
# the version in service.

# %%
import secrets
import sys
from pathlib import Path

ROOT = Path(lessonkit.__file__).parents[1]  # where the folder `production` lies
sys.path.insert(0, str(ROOT))
from production.client import Client
from production.processes import free_port, start

KEY, port, current = secrets.token_urlsafe(32), free_port(), lesson.folder / "current"
url, log, settings = f"http://127.0.0.1:{port}", lesson.folder / "log.jsonl", lesson.folder / "settings.toml"
log.unlink(missing_ok=True)
settings.write_text(f"[serving]\nmax_length = {MAX_LENGTH}\nlog = '{log}'\n")


def point(version):
    current.unlink(missing_ok=True)
    current.symlink_to(lesson.folder / version, target_is_directory=True)


# %%
point("v2")
words = ["--model", current, "--port", str(port), "--work", lesson.folder / "work", "--settings", settings]
server = start(
    ["python", "-m", "production.serving", *words], lesson.folder / "server.log",
    env={"SERVING_KEY": KEY, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
)  # fmt: skip
server.wait_for(f"{url}/ready")
client = Client(url, KEY, connections=4)
answer = client.classify(usual[0]["text"])
print({name: answer[name] for name in ("label", "version", "tokens")}, f"score {answer['score']:.2f}")

# %% [markdown]
# *Here ends the first focus session.*
#
# ## 2. What the server tells
#
# `GET /metrics` is a page of numbers that only grow (**counters**), or of counters in buckets (**histograms**).
# Prometheus reads it every few seconds and keeps what it read; the server itself remembers nothing of yesterday.

# %%
import httpx

wanted = ("classifier_requests_total", "classifier_confidence_bucket", "classifier_input_tokens_sum")
httpx.post(f"{url}/classify", json={"text": "no key"}, trust_env=False)  # refused: 401
page = httpx.get(f"{url}/metrics", trust_env=False).text
print(len(page.splitlines()), "lines, among them:")
for line in page.splitlines():
    if line.startswith(wanted) and not line.endswith(" 0.0"):
        print(line)

# %% [markdown]
# Buckets are cumulative: `le="0.9"` counts all answers with a confidence of at most 0.9. `status`, `label` and
# `version` are labels with few values. Each combination of values is a series of its own that is stored for weeks;
# so a text, a key or a request's id must never be one (section 7 shows the price). Those belong into the **prediction
# log**: one line a request, with an id, and by default no text either.

# %%
print(log.read_text().splitlines()[0])

# %% [markdown]
# A counter falls to zero when its server is started again. Whoever computes rates must know that:
#
# **Exercise 1, write code.** `samples` are the values of one counter, in time order. Return by how much it grew
# altogether. Where a value is below the one before, the counter was reset to 0 in between, and has grown to that value
# since. Fewer than two samples: 0.

# %%
TODO = lessonkit.TODO


def increase(samples):
    return TODO


lesson.exercise("increase").check(increase)

# %% [markdown]
# Prometheus' own `increase` does this, and one thing more: it *extrapolates* to the whole window, as its first and last
# sample lie a little inside it. So it may be no whole number. `production/promql.py` follows Prometheus' source in
# this:

# %% tags=["nbval-check-output"]
from production.promql import Store, evaluate, parse

store = Store()
for number, value in enumerate([0, 40, 95, 10, 60]):  # a sample every 15 s; a restart before the fourth
    store.add("requests_total", {}, 15 * number, value)
for text in ("increase(requests_total[1m])", "increase(requests_total[50s])", "rate(requests_total[1m])"):
    print(text, "=", round(evaluate(parse(text), store, 60)[()], 3))

# %% [markdown]
# ## 3. Rules with tests
#
# An alert rule is an expression and a time that it must hold for. From `production/alerts.yml`:

# %%
from production.rules import ALERTS, read_rules, scaled, test_file

rules = {each.alert: each for each in read_rules(ALERTS).rules}
for each in rules.values():
    print(f"{each.alert} ({each.labels['severity']}): for {each.wait:.0f} s\n    {each.expr}")

# %% [markdown]
# `LowConfidence` divides the rate of answers up to 0.6 by the rate of all; behind `and` stands a least number of
# answers, so that three odd texts at night wake nobody. Each rule has an *action*: an alert that asks for nothing
# should not page.
#
# Rules are code, so they have tests: series in, alerts out. Where Prometheus is installed, its own `promtool` runs
# them; `production/rules.py` reads the same files, and must say the same.

# %%
import subprocess

from production.monitoring import find_programs

try:
    programs = find_programs()
except lessonkit.LessonkitError as error:
    programs = {}
    print(error)
tests = ALERTS.with_name("alerts_test.yml")
if programs:
    command = [programs["promtool"], "test", "rules", tests.name]
    done = subprocess.run(command, cwd=tests.parent, capture_output=True, text=True)
    print("promtool:", " ".join(done.stdout.split()))
print("production.rules:", test_file(tests) or "all tests passed")

# %% [markdown]
# A test that can't fail is worth nothing. An impatient colleague removes every `for`:

# %%
impatient = lesson.folder / "impatient"
impatient.mkdir(exist_ok=True)
(impatient / "alerts_test.yml").write_text(tests.read_text())
kept = [line for line in ALERTS.read_text().splitlines() if "for: " not in line]
(impatient / "alerts.yml").write_text("\n".join(kept))
for line in test_file(impatient / "alerts_test.yml"):
    print(line[:100])

# %% [markdown]
# **Exercise 2, predict.** In production, the window is 5 minutes and `for` is 1 minute. Requests come evenly; up to now
# none has a low confidence. From one moment on, 80 % have. The rule wants a share above 0.4. After how many seconds
# does the alert fire?

# %%
answer = TODO
lesson.exercise("when").check(answer)

# %% [markdown]
# Nobody waits for that in a lesson, so we *rehearse*: one factor divides the windows, each `for`, and the 15 s between
# two scrapes. Thresholds stay. What a rehearsal can't show is a slow night: with little traffic the least number of
# answers needs the long window.

# %%
rehearsed = scaled(ALERTS, REHEARSAL, lesson.folder / "alerts.yml")
rule = {each.alert: each for each in read_rules(rehearsed).rules}["LowConfidence"]
print(f"divided by {REHEARSAL}: for {rule.wait:g} s\n{rule.expr}")

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 4. Watched
#
# Prometheus scrapes and evaluates, Alertmanager groups and delivers, both on loopback ports that were free. The
# *webhook* is a few lines of Python here; at work it is a pager or a chat. Beside them runs our **watcher** on the same
# rules: it is what you have where Prometheus isn't installed, and here we can compare.

# %%
from production.monitoring import Receiver, start_stack
from production.watcher import Watcher

receiver = Receiver()
every = 15 / REHEARSAL
watcher = Watcher(url, receiver.url, rehearsed, every)
watcher.start()
stack = None
if programs:
    stack = start_stack(url, receiver.url, rehearsed, lesson.folder / "monitoring", scrape=every)
print("Prometheus runs:", stack is not None, "and the watcher, every", every, "s")

# %% [markdown]
# Now last month's traffic, at a bounded rate. The requests' ids stay with us, for the labels that come later.

# %%
import time

from production.load_test import load

sent = {}  # id -> the wire


def drive(rows, **options):
    """A bounded load: the report. Each answer's id is kept with its wire."""

    def ask(number):
        row = rows[number % len(rows)]
        answer = client.classify(row["text"])
        sent[answer["id"]] = row
        return answer

    return load(ask, 4, rate=RATE, **options)


began = time.time()
print(drive(usual, requests=REFERENCE, seconds=120))
print("alerts:", [f"{each.alert} {each.status} ({each.sender})" for each in receiver.deliveries])

# %%
LOW, ALL = (
    'sum(increase(classifier_confidence_bucket{le="0.6"}[X]))',
    "sum(increase(classifier_confidence_count[X]))",
)
span = f"{round(300 / REHEARSAL)}s"
questions = {
    "answers": ALL,
    "share of low confidence": f"{LOW} / {ALL}",
    "p95, seconds": "histogram_quantile(0.95, sum by (le) (rate(classifier_latency_seconds_bucket[X])))",
    "tokens a text": "sum(rate(classifier_input_tokens_sum[X])) / sum(rate(classifier_input_tokens_count[X]))",
}
for name, text in questions.items():
    text, now = text.replace("X", span), time.time()
    found = {"watcher": watcher.query(text, now), **({"Prometheus": stack.query(text, now)} if stack else {})}
    print(
        f"{name:<25}" + "   ".join(f"{who} {value.get((), float('nan')):.3f}" for who, value in found.items())
    )

# %% [markdown]
# They scrape at different moments. Prometheus began later, too (it looks for new targets every 5 s), so its first window
# may not be full, and count fewer answers; shares and quantiles hardly differ. In the tests of this course, both get the
# same samples, and then they agree.
#
# ## 5. Has the traffic changed?
#
# Metrics say *that* confidence fell. **Drift tests** compare a window of the prediction log with a reference: lengths
# and confidences by Kolmogorov-Smirnov's statistic (the largest gap between two cumulative curves), predicted topics by
# the Jensen-Shannon distance of their shares (0 the same, 1 nothing in common).
#
# What is a large value? Take windows from the reference itself, where nothing has changed, and set the threshold where
# only 1 % of them lie above. Then count on *fresh* windows of the reference how many lie above it.

# %%
from production.drift import STATISTICS, calibrate, detect, domain_classifier
from production.prediction_log import join_labels, read_log

reference = [row for row in read_log(log) if row["id"] in sent]
thresholds = calibrate(reference, WINDOW, alarms=0.01, windows=200)
for name, each in thresholds.items():
    print(
        f"{name:<17}threshold {each.value:.3f}, false alarms {each.false_alarms:.1%} of {each.windows} windows"
    )

# %% [markdown]
# The promise was 1 %. The count shows what it is worth: of 200 windows, the threshold rests on the two largest, so a few
# per cent are possible. More windows, and a longer reference, make it sharper.
#
# **Exercise 3.** Three statistics, each with a false alarm rate of 1 % a window; a window every 15 minutes, around the
# clock. How many false alarms a day do you expect, while nothing changes?

# %%
answer = TODO
lesson.exercise("alarms").check(answer)

# %% [markdown]
# So drift shouldn't page anybody by itself: it is for the diagnosis. And there is a trap in it. p-values assume
# *independent* requests, but wires come in bursts of one topic. Here nothing changes, only the order is bursty:

# %%
draws = np.random.default_rng(SEED)
burst, kinds = 10, sorted({row["label"] for row in reference})
topics = {"topics": STATISTICS["predicted topics"]}


def bursts(number):
    """Rows of so many bursts, each of one topic."""
    return [{"label": name} for name in np.repeat(draws.choice(kinds, number), burst)]


bursty, fresh = bursts(400), bursts(400)
earlier = bursty[: len(bursty) // 2]
windows = [fresh[first : first + WINDOW] for first in range(0, len(fresh) - WINDOW, 7)]
for block in (1, burst, WINDOW):
    bound = calibrate(bursty, WINDOW, alarms=0.05, block=block, statistics=topics)["topics"].value
    alarms = np.mean([topics["topics"](earlier, each) > bound for each in windows])
    print(f"drawn in blocks of {block:>2}: threshold {bound:.3f} for 5 % false alarms, counted: {alarms:.0%}")

# %% [markdown]
# The threshold from single requests takes the bursts for drift. Draw blocks that are several bursts long, up to whole
# windows. (Our rehearsed traffic comes in random order, so single requests will do for it.)
#
# *Here ends the third focus session.*
#
# ## 6. The incident
#
# Now the topics shift: instead of results and takeovers come oil, grain, currencies. Nothing is wrong with the server
# itself. What do you expect of v2's confidence? Which alerts fire, and after how long?

# %%
import threading

ended = threading.Event()
traffic = threading.Thread(
    target=lambda: drive(shifted, requests=10**6, seconds=300, until=ended), daemon=True
)
shift = time.time()
traffic.start()
senders = ["watcher", *(["alertmanager"] if stack else [])]
fired = {each: receiver.wait("LowConfidence", "firing", each, PATIENCE, since=shift) for each in senders}
for sender, each in fired.items():
    print(sender, f"after {each.time - shift:.1f} s: {each.summary}" if each else "delivered nothing new")
print("alerts since the shift:", sorted({each.alert for each in receiver.deliveries if each.time > shift}))

# %% [markdown]
# **Diagnosis, step 1: what changed?** The last window of the log against the reference.

# %%
window = read_log(log)[-WINDOW:]
for finding in detect(reference, window, thresholds):
    print(finding)

# %% [markdown]
# Step 2: the inputs or the model? Predictions may change without any change of the inputs, by a bad version. A **domain
# classifier** looks at the texts: can a small model tell the new ones from the old? It needs texts, which the log
# doesn't have; at work, a sample that is kept for a short time.

# %%
old = [sent[row["id"]]["text"] for row in reference]
new = [sent[row["id"]]["text"] for row in window if row["id"] in sent]
auc, p_value, telling = domain_classifier(old, new)
print(f"AUC {auc:.3f} (0.5: can't tell), p = {p_value:.3f}; words: {', '.join(telling)}")

# %% [markdown]
# An AUC well above 0.5 says: the texts themselves are others. So the world has changed; the server hasn't.
#
# Step 3: does it hurt? A low confidence is no wrong answer yet. True labels come **late**: here, each after a random
# delay of 10 s on average (drawn by us; at work hours or weeks). The log's ids join them; the interval is Wilson's.

# %%
draws = random.Random(SEED)
delays = {}


def arrived(now):
    """The labels that are there by now."""
    rows = [row for row in read_log(log) if row["id"] in sent]
    for row in rows:
        delays.setdefault(row["id"], draws.expovariate(1 / 10))
    found = [
        {"id": r["id"], "label": topic(sent[r["id"]]), "time": r["time"] + delays[r["id"]]} for r in rows
    ]
    return [each for each in found if each["time"] <= now]


print("before the shift: v2", join_labels(reference, arrived(time.time()))["v2"])
print("this window:      v2", join_labels(window, arrived(time.time()))["v2"])

# %% [markdown]
# Few labels, a wide interval; and it takes them for a random part of the window. On this page the first ones look much
# better than the whole window turns out to be below: luck here, as the delays were drawn blindly; at work the first labels
# are often those of the *easy* texts. Don't decide on them alone.
#
# Step 4: would the version before do better *on these inputs*? Both get the kept sample, with all its labels (which, at
# work, somebody writes for a sample of an incident):

# %%
sample = [sent[row["id"]] for row in window if row["id"] in sent]
replayed = {version: ask_folder(version, sample) for version in learnt}
for version, (right, confidence) in replayed.items():
    low = (confidence <= 0.6).mean()
    print(
        f"{version}: {right.mean():.2f} right, mean confidence {confidence.mean():.2f}, up to 0.6: {low:.2f}"
    )

# %% [markdown]
# **Exercise 4.** The alert fired, inputs drifted, confidence fell. When is a rollback the right answer? **a**: always:
# an alert has fired. **b**: if the drift tests say that the inputs changed. **c**: if the version before does better on
# the new inputs, by labels where there are some. **d**: never: the inputs changed, and no version can help that.

# %%
answer = TODO
lesson.exercise("rollback").check(answer)

# %% [markdown]
# Here it is a rollback. With a registry, that is its `rollback()` and a reload; here the link is turned. Traffic goes
# on meanwhile.

# %%
point("v1")
headers = {"Authorization": f"Bearer {KEY}"}
back = time.time()
answer = httpx.post(f"{url}/reload", headers=headers, timeout=120, trust_env=False)
print("in service:", answer.json().get("version"), f"after {time.time() - back:.1f} s")
back = time.time()
resolved = {each: receiver.wait("LowConfidence", "resolved", each, PATIENCE, since=back) for each in senders}
for sender, each in resolved.items():
    print(sender, f"resolved after {each.time - back:.1f} s" if each else "sent no end of the alert")
time.sleep(PATIENCE / 12)
ended.set()
traffic.join()

# %%
after = [row for row in read_log(log) if row["time"] > shift]
for version, found in join_labels(after, arrived(time.time() + 60)).items():  # a minute later, all are there
    print(f"since the shift, {version}: {found}")

# %%
share = f"{LOW} / {ALL}".replace("X", span)
seconds = np.arange(began + every, time.time(), every)
values = [watcher.query(share, now).get((), np.nan) for now in seconds]
ax = lessonkit.plots.curves(
    {"": (seconds - shift, values)}, xlabel="seconds since the shift", ylabel="share up to 0.6"
)
ax.axhline(0.4, color="grey", linewidth=1)
events = {"shift": shift, "rollback": back, "alert": fired["watcher"], "resolved": resolved["watcher"]}
for number, (name, when) in enumerate(events.items()):
    if when:
        x = getattr(when, "time", when) - shift
        ax.axvline(x, color="black", linestyle=":", linewidth=1)
        ax.annotate(name, (x, 1.0 - 0.07 * number), fontsize=9)
_ = ax.set_ylim(0, 1.05)

# %% [markdown]
# The curve is slow for the same reason as the alert: it looks back over a whole window. The rollback took two steps:
# loading v1 beside v2, and then a window's time until the alert was resolved. After a rollback the incident
# isn't over: v2 needs wires of these topics, and its next test needs them, too. **A test set has an age.**
#
# Would confidence always have told? No. A model can be surely wrong on new inputs; then only labels show it. Watch
# both.
#
# ## 7. What goes wrong
#
# **A text as a label.** Each new value is a new series, here in a page of its own:

# %%
import prometheus_client

registry = prometheus_client.CollectorRegistry()
careless = prometheus_client.Counter("requests", "Requests.", ["text"], registry=registry)
for number, row in enumerate(usual[:300], 1):
    careless.labels(row["text"]).inc()
    if number in (3, 30, 300):
        print(
            f"{number:>4} requests: {len(prometheus_client.generate_latest(registry)) / 1000:,.1f} kB for each scrape"
        )

# %% [markdown]
# It grows without end, and whoever may read the page reads what people wrote. `production/metrics.py` gives at most 50
# values of a label a series of their own, and calls the rest `other`.
#
# **The programs aren't installed; a port is taken; a rule that isn't PromQL:**

# %%
import os

path = os.environ["PATH"]
os.environ["PATH"] = ""
broken = lesson.folder / "broken.yml"
broken.write_text("groups: [{name: a, rules: [{alert: Odd, expr: 'median(requests_total) > 1'}]}]")
try:
    for attempt in (find_programs, lambda: Receiver(port), lambda: read_rules(broken)):
        try:
            attempt()
        except lessonkit.LessonkitError as error:
            print(f"{error}\n")
finally:
    os.environ["PATH"] = path

# %% [markdown]
# Nothing is lost in any of these: the server doesn't know who watches it. **But who watches Prometheus?** An alert that
# never comes looks like a quiet night. At work, one rule fires always (`vector(1)`), and somebody else's system calls
# when it stops coming.

# %%
for each in (watcher, *([stack] if stack else []), receiver, server):
    each.stop()
client.close()
print(
    "server:",
    server.running,
    *(f"{each.name}: {each.running}" for each in (stack.processes if stack else [])),
)

# %% [markdown]
# On a cluster the files stay the same: `scrape_configs` lists the servers, or finds them by Kubernetes; the thresholds
# of time lose the rehearsal's factor. The commands: `python -m production.serving --alias champion --log FILE`, and
# `python -m production.monitoring --target http://127.0.0.1:8000`.
#
# ## 8. The end
#
# 1. Counters with few labels; ids in the log; texts in neither.
# 2. A rule has a window, a `for`, a least number, an action, and tests.
# 3. A drift threshold without a known false alarm rate is a guess.
# 4. Alert, what changed, inputs or model, does it hurt, would the version before do better; then act.

# %%
lesson.record(
    seconds_to_alert=fired["watcher"].time - shift if fired["watcher"] else float("nan"),
    low_confidence_v2=float((replayed["v2"][1] <= 0.6).mean()),
    low_confidence_v1=float((replayed["v1"][1] <= 0.6).mean()),
    accuracy_v2=float(replayed["v2"][0].mean()),
    accuracy_v1=float(replayed["v1"][0].mean()),
)

# %% [markdown]
# **Check yourself.** All metrics are quiet and a customer complains: which of this page's tools do you take first? Why
# is `rate(x[1m])` empty if the page is scraped once a minute?
#
# <details><summary>Answers</summary>
#
# The prediction log, by the id of the request; metrics only hold sums. And a rate needs two samples in its window: one
# a minute gives one, or by luck two. A window of four scrapes or more is the rule.
#
# </details>
#
# **Next:** [A/B testing](ab-testing.ipynb) puts two versions side by side *before* one of them has an incident.
