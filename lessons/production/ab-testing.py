# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # A/B testing
#
# You will be able to plan an experiment with two models, run it on real traffic, look at it whenever you like without
# being fooled, and let a bad canary be rolled back while you sleep.
#
# **90 minutes**, four focus sessions (about 3 minutes are computing, on 2 CPU cores) · **expert** · before this:
# [model serving](serving.ipynb) · next: [cost and latency](cost-and-latency.ipynb)
#
# You will
#
# - compute how many users a difference needs, and see that the plan comes true in simulated experiments;
# - assign users by a hash, and catch an assignment that is broken;
# - see what peeking does, and two ways to look early that keep the promise;
# - put a router before two real servers, decide as labels arrive, and have two bad canaries rolled back.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("production/ab-testing")

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
REPEATS = lesson.pick(smoke=200, laptop=20_000, gpu=20_000)  # simulated experiments
MANY, CHECKED = lesson.pick(
    smoke=(48, 16), laptop=(1500, 400), gpu=(4000, 1000)
)  # B's training texts; others
USERS = lesson.pick(smoke=40, laptop=1000, gpu=2000)  # of the real experiment
CANARY_USERS = lesson.pick(smoke=60, laptop=160, gpu=300)
AT_ONCE = lesson.pick(smoke=2, laptop=4, gpu=16)  # users who ask at the same time
FIRST_LOOK = lesson.pick(smoke=4, laptop=50, gpu=50)  # users of each arm at the first look
WORDS, SEED = 25, 0

# %% [markdown]
# ## 1. How many users?
#
# Offline, on yesterday's texts with labels, you can *pair*: both models answer each text. In production each user
# gets **one** model, so luck decides who gets which, and enough users must even it out. How many depends on the
# smallest difference you don't want to miss. Ours: answers are right in 80 %, and we would switch for 88 %.
#
# Two errors are possible. A **false alarm** sees a difference where there is none (5 % of such experiments, *alpha*);
# the **power** is the share of experiments that find the difference if it is there (80 %).

# %% tags=["nbval-check-output"]
import sys
from pathlib import Path

ROOT = Path(lessonkit.__file__).parents[1]  # where the folder `production` lies
sys.path.insert(0, str(ROOT))

from production import ab

RATE, HOPED = 0.80, 0.88
PLANNED = ab.sample_size(RATE, HOPED)[0]  # of each arm
for rate in (0.84, HOPED, 0.92):
    even, uneven = ab.sample_size(RATE, rate), ab.sample_size(RATE, rate, share=0.1)
    print(f"{RATE:.2f} or {rate:.2f}: {even} users of A and B; with 10 % for B: {uneven}")

# %% [markdown]
# A canary with 10 % needs far more users in all: B's few users decide how sure you can be.
#
# **Exercise 1, predict.** Half the difference to find, same alpha and power: how many times as many users?

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("quarter").check(answer)

# %% [markdown]
# ## 2. Who gets which?
#
# Not by a coin at each request: a user would meet both models. Not by a table either, which every server would have
# to share. A **hash** of the experiment's name and the user's id gives each user a fixed place between 0 and 1;
# below B's share, it is B.
#
# **Exercise 2, code.** Write it: `sha256` of `"experiment:user"`, its first 8 bytes as a whole number (big-endian),
# over 2 ** 64.


# %%
def assigned(user, experiment, share):
    return TODO


lesson.exercise("assigned").check(assigned)

# %% [markdown]
# Is it even, stable, and independent of another experiment on the same users? And what do two tempting shortcuts
# do? One looks at the id's last digit; in this shop every fifth id was given out by a partner, who only uses even
# numbers.

# %% tags=["nbval-check-output"]
import numpy as np

ids = [str(2 * n if n % 5 == 0 else n) for n in range(1, 10_001)]
one, two = ([ab.assign(user, name) for user in ids] for name in ("one", "two"))
together = np.mean([first == second for first, second in zip(one, two)])
print(f"in the same arm in both experiments: {together:.1%} (independent: 50 %)")
print("hash:      ", ab.ratio_check(one.count("A"), one.count("B")))
digits = ["B" if int(user) % 2 else "A" for user in ids]
print("last digit:", ab.ratio_check(digits.count("A"), digits.count("B")))

# %% [markdown]
# The **sample-ratio check** asks how often luck alone would split so unevenly. It needs no outcome, costs nothing,
# and finds what reading results never will: ids that aren't random, a crash that loses B's users, a bot in one arm.
# Its level is strict (0.001), for it is asked all the time, and its verdict is hard: such an experiment has no
# result.
#
# The other shortcut is Python's own `hash`. It is salted anew in every process, so a restart deals all users again:

# %%
import os
import subprocess

code = "print(''.join('AB'[hash(f'user-{n}') % 2] for n in range(40)))"
plain = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
deals = [
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=plain).stdout.strip()
    for _ in range(2)
]
print(*deals, sep="\n")
print(sum(a != b for a, b in zip(*deals)), "of 40 users changed their model by a restart")

# %% [markdown]
# *Here ends the first focus session.*
#
# ## 3. Does the plan come true?
#
# A simulation knows the truth. We play the planned experiment many times: with no difference (A against A), and with
# the one we hope for. The intervals say how well so many repetitions know a share.

# %%
from scipy.stats import binomtest


def simulate(rate_a, rate_b, sizes, repeats=REPEATS, seed=SEED):
    """For each repetition and look: good outcomes and users of A, the same of B."""
    draws, steps = np.random.default_rng(seed), np.diff(sizes, prepend=0)
    shape = (repeats, len(sizes))
    good_a, good_b = (draws.binomial(steps, rate, shape).cumsum(1) for rate in (rate_a, rate_b))
    return good_a, np.array(sizes), good_b, np.array(sizes)


def share(yes):
    low, high = binomtest(int(yes.sum()), len(yes)).proportion_ci()
    return f"{yes.mean():.3f} ({low:.3f} to {high:.3f})"


# %%
alone = ab.z_test(*simulate(RATE, RATE, [PLANNED]))[:, -1] < 0.05
found = ab.z_test(*simulate(RATE, HOPED, [PLANNED]))[:, -1] < 0.05
print(f"no difference: {share(alone)} false alarms")
planned = ab.power(RATE, HOPED, PLANNED, PLANNED)
print(f"{RATE:.2f} or {HOPED:.2f}: {share(found)} found, {planned:.3f} planned")
n_a, n_b = ab.sample_size(RATE, HOPED, share=0.1)
draws = np.random.default_rng(SEED)
counts = draws.binomial(n_a, RATE, REPEATS), n_a, draws.binomial(n_b, HOPED, REPEATS), n_b
print(f"10 % for B:    {share(ab.z_test(*counts) < 0.05)} found")

# %% [markdown]
# ## 4. Looking every day
#
# Now the same data with a look after every ten users of each arm, as on a dashboard, and the rule *stop at the
# first p below 0.05*. **What do you expect:** of experiments with no difference at all, what share ends in a false
# alarm, if it runs to twice the planned size?
#
# Beside it, two rules that may look early:
#
# - A **confidence sequence** is an interval that holds at *all* looks together. It is wider than the usual one, and
#   in return you may look after each user, stop at will, or go on past the plan. (This one treats rates as normal,
#   so it starts with 50 users in each arm.)
# - A **group-sequential** test fixes a few looks before (here four, up to the planned size) and spends its 5 % on
#   them: nearly nothing on the first, most on the last (O'Brien-Fleming by Lan and DeMets).

# %%
looks = list(range(50, 2 * PLANNED, 10))
four = [round(PLANNED * part) for part in (0.25, 0.5, 0.75, 1)]
tau = ab.tightest(RATE, PLANNED, PLANNED)  # the sequence is narrowest at the planned size
bounds = ab.group_bounds([0.25, 0.5, 0.75, 1])
print("|z| must exceed", bounds.round(2), "at", four, "users of each arm")


def crossed(rate_b):
    """For each rule: the looks, and whether each repetition has stopped by then."""
    counts = simulate(RATE, rate_b, looks)
    low, high = ab.confidence_sequence(*counts, tau=tau)
    planned = np.abs(ab.z_score(*simulate(RATE, rate_b, four)))
    rules = {
        "peeking at p": (looks, ab.z_test(*counts) < 0.05),
        "confidence sequence": (looks, (low > 0) | (high < 0)),
        "four planned looks": (four, planned > bounds),
    }
    return {name: (at, np.logical_or.accumulate(hit, 1)) for name, (at, hit) in rules.items()}


no_difference, difference = crossed(RATE), crossed(HOPED)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
panels = ("no difference", no_difference), (f"{RATE:.2f} or {HOPED:.2f}", difference)
for ax, (title, rules) in zip(axes, panels):
    series = {name: (at, hit.mean(0)) for name, (at, hit) in rules.items()}
    lessonkit.plots.curves(series, xlabel="users of each arm", ylabel="", title=title, ax=ax)
    ax.axvline(PLANNED, color="grey", linewidth=1)
    ax.axhline(0.05 if rules is no_difference else 0.8, color="grey", linewidth=1, linestyle=":")
axes[0].set_ylabel("share that has stopped")
plt.show()


# %%
def stopped_at(at, hit):
    """Users of each arm when each repetition stops, at the last look at the latest."""
    return np.array(at)[np.where(hit[:, -1], hit.argmax(1), len(at) - 1)]


for name in difference:
    at, hit = difference[name]
    by_plan = hit[:, np.searchsorted(at, PLANNED, side="right") - 1]
    print(
        f"{name:<20} false alarms {share(no_difference[name][1][:, -1])}\n"
        f"{'':<20} found by the plan {by_plan.mean():.2f}, in the end {hit[:, -1].mean():.2f}, "
        f"users {stopped_at(at, hit).mean():.0f} (fixed size: {PLANNED})"
    )

# %% [markdown]
# Peeking breaks the promise, and longer peeking breaks it more: its curve on the left keeps rising. The other two
# keep it; the sequence stays below its 5 %, for it keeps some for looks that never came. The price stands on the
# right: at the planned size the sequence has found fewer than the fixed test would, and makes up for it by going
# on. Four planned looks give up nearly nothing and stop earlier on average.
#
# **Exercise 3.** Day 3 of 14, a plan with a fixed size, the dashboard says p = 0.03. What do you do? `"a"` stop, 0.03
# is below 0.05; `"b"` stop, and multiply p by 3 for the three looks; `"c"` go on to the planned size, unless a
# guardrail breaks; `"d"` go on, and stop as soon as p is below 0.05 again.

# %%
answer = TODO
lesson.exercise("peek").check(answer)

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 5. Two real models, real traffic
#
# A and B share a frozen encoder; only their heads differ. B's was trained on many texts, A's on fewer: the smallest
# number below with which 80 % of some *other* texts are right, so that A is what the plan supposes. Both folders
# are what `save_pretrained` writes, so the servers of [model serving](serving.ipynb) take them.

# %%
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification

data = lessonkit.load_dataset("reuters-r8")
names = data["train"].features["label"].names
labels = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
tokenizer = lessonkit.load_tokenizer(MODEL)
model = lessonkit.load_model(
    MODEL, AutoModelForSequenceClassification, num_labels=len(names), **labels
).eval()


def shortened(texts):
    return [" ".join(text.split()[:WORDS]) for text in texts]


@torch.inference_mode()
def features(texts):
    found = []
    for place in range(0, len(texts), 64):
        batch = tokenizer(texts[place : place + 64], truncation=True, padding=True, return_tensors="pt")
        found.append(model.base_model(**batch).pooler_output)
    return torch.cat(found).float().numpy()


# %%
train = data["train"].shuffle(seed=SEED).select(range(MANY + CHECKED))
inputs, classes = features(shortened(train["text"])), np.array(train["label"])


def head(count):
    """A linear classifier on the frozen features of so many texts."""
    return LogisticRegression(C=30, max_iter=5000).fit(inputs[:count], classes[:count])


sizes = [count for count in (24, 40, 60, 100, 160, 250, 400, 640, 1000) if count < MANY]
scores = {count: head(count).score(inputs[MANY:], classes[MANY:]) for count in sizes}
print({count: round(float(score), 3) for count, score in scores.items()})
few = next((count for count, score in scores.items() if score >= RATE), sizes[-1])
heads = {"v1": head(few), "v2": head(MANY)}
print(f"A's head has seen {few} texts, B's {MANY}")


# %%
for name, each in heads.items():
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.fill_(-20)  # classes that it has never seen
        model.classifier.weight[each.classes_] = torch.tensor(each.coef_, dtype=model.dtype)
        model.classifier.bias[each.classes_] = torch.tensor(each.intercept_, dtype=model.dtype)
    model.save_pretrained(lesson.folder / name)
    tokenizer.save_pretrained(lesson.folder / name)

# %% [markdown]
# Three processes of ours: a server for each version, and `production/router.py` before them. It reads the user's id
# from the header `X-User-Id`, asks the arm's server, and writes one line: no text, and a pseudonym for the id.

# %%
import secrets
import shutil

from production.processes import free_port, start

KEY, ROUTER_KEY = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
ENVIRONMENT = {"SERVING_KEY": KEY, "ROUTER_KEY": ROUTER_KEY, "PYTHONPATH": str(ROOT)}
ENVIRONMENT |= {"TOKENIZERS_PARALLELISM": "false"}


# %%
def serve(version, *options):
    port = free_port()
    command = ["python", "-m", "production.serving", "--model", lesson.folder / version, "--port", str(port)]
    command += ["--work", lesson.folder / "work", *options]
    process = start(command, lesson.folder / f"server-{port}.log", env=ENVIRONMENT)
    return process, f"http://127.0.0.1:{port}"


def route(url_a, url_b, experiment, share):
    port, folder = free_port(), lesson.folder / experiment
    shutil.rmtree(folder, ignore_errors=True)  # else it would go on with an earlier day's log
    command = ["python", "-m", "production.router", "--a", url_a, "--b", url_b, "--port", str(port)]
    command += ["--experiment", experiment, "--share", str(share), "--folder", folder]
    process = start(command, lesson.folder / f"{experiment}.log", env=ENVIRONMENT)
    process.wait_for(f"http://127.0.0.1:{port}/health")
    return process, f"http://127.0.0.1:{port}", folder / "router.jsonl"


# %%
(server_a, url_a), (server_b, url_b) = serve("v1"), serve("v2")
for process, url in ((server_a, url_a), (server_b, url_b)):
    process.wait_for(f"{url}/ready")
router, url, log = route(url_a, url_b, "better-head", 0.5)
print("running:", [each.running for each in (server_a, server_b, router)])

# %%
from concurrent.futures import ThreadPoolExecutor

import httpx

test = data["test"].shuffle(seed=SEED).select(range(USERS))
texts, truths = shortened(test["text"]), [names[label] for label in test["label"]]


def traffic(url, users):
    """(user, HTTP status, id of the request, label) for each, several users at a time."""

    def ask(user):
        headers = {"X-User-Id": f"user-{user}", "Authorization": f"Bearer {KEY}"}
        answer = http.post("/classify", json={"text": texts[user % len(texts)]}, headers=headers)
        return user, answer.status_code, answer.headers["x-request-id"], answer.json().get("label")

    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http, ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, users))


answers = traffic(url, range(USERS))
print(f"{sum(status == 200 for _, status, *_ in answers)} of {USERS} users got an answer")

# %%
from production.routing import read_log

lines = read_log(log)
print({name: value for name, value in lines[1].items() if name not in ("time", "id", "user")})
requests = [line for line in lines if line["event"] == "request"]
arms = [line["arm"] for line in requests]
print(ratio := ab.ratio_check(arms.count("A"), arms.count("B")))

# %% [markdown]
# The ratio is checked before anybody looks at an outcome.
#
# **Labels come later**, in another order: here somebody finds out what each wire was about, and sends it with the
# request's id to `/outcome`. In truth some never come; that does no harm as long as it depends neither on the arm
# nor on the outcome.

# %%
later = np.random.default_rng(SEED).permutation(len(answers))
with httpx.Client(
    base_url=url, headers={"Authorization": f"Bearer {ROUTER_KEY}"}, trust_env=False
) as labelling:
    for place in later:
        user, _, request, label = answers[place]
        right = int(label == truths[user % len(truths)])
        labelling.post("/outcome", json={"id": request, "value": right}).raise_for_status()

outcomes = ab.per_user(read_log(log))  # (arm, value) by user, in the order of arrival
is_b = np.array([arm == "B" for arm, _ in outcomes])
value = np.array([value for _, value in outcomes])
n_b, good_b = is_b.cumsum(), (value * is_b).cumsum()
n_a, good_a = (~is_b).cumsum(), (value * ~is_b).cumsum()
first = int(np.argmax(np.minimum(n_a, n_b) >= FIRST_LOOK))
low, high = ab.confidence_sequence(good_a[first:], n_a[first:], good_b[first:], n_b[first:], tau=tau)

# %%
decided = (low > 0) | (high < 0)
stop = int(decided.argmax()) if decided.any() else len(low) - 1
verdict = "B is better" if low[stop] > 0 else "A is better" if high[stop] < 0 else "can't tell"
print(f"{verdict}: after {first + stop + 1} labels, B minus A is {low[stop]:+.3f} to {high[stop]:+.3f}")
print(f"planned were {2 * PLANNED} users; after all {len(value)} labels {low[-1]:+.3f} to {high[-1]:+.3f}")
seen = np.arange(first, len(value)) + 1
figure, ax = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
ax.fill_between(seen, low, high, alpha=0.3, label="confidence sequence")
ax.plot(seen, good_b[first:] / n_b[first:] - good_a[first:] / n_a[first:], label="difference so far")
ax.axhline(0, color="black", linewidth=1)
ax.axvline(first + stop + 1, color="grey", linestyle=":", label=f"decision: {verdict}")
ax.set(xlabel="labels that have arrived", ylabel="B minus A, share right")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The first moment at which the interval leaves zero out decides, and that is no peeking: this interval was made for
# it. The difference *at that moment* tends to be too large, since a lucky stretch stops early; quote the interval. If
# the moment has not come, the answer is *can't tell*, even where B is better in truth: section 4 showed how often that
# happens at this size. More users help then. Taking the usual test instead, because it would say yes, is peeking.
#
# **Guardrails** are what must not get worse while something else gets better. "Not significantly slower" proves
# nothing: with ten users, nothing is significant. So turn it round (*non-inferiority*): fix a margin, and ask that
# the whole interval lies within it. And because this is a lesson, we may look at the truth: both heads on all of
# these texts.

# %%
for name, facts, margin in (("seconds", "seconds", 0.05), ("failed", "failed", 0.02)):
    by_arm = [[line[facts] for line in requests if line["arm"] == arm] for arm in "AB"]
    held, change, bound = ab.not_worse(*by_arm, margin)
    print(f"{name}: B minus A {change:+.4f}, at most {bound:+.4f} (95 %), margin {margin}: {held}")
known = features(texts)
truth = {name: head.score(known, test["label"]) for name, head in heads.items()}
print({name: round(score, 3) for name, score in truth.items()}, f"n = {len(texts):,}")
print(f"inside the interval: {low[-1] <= truth['v2'] - truth['v1'] <= high[-1]}")

# %% [markdown]
# **Exercise 4, code.** From the log's lines to `{"A": [...], "B": [...]}`: the first known outcome of each user, in
# the order of arrival. A request has `id`, `user`, `arm` and `answered_by`; an outcome `id` and `value`.


# %%
def outcomes_by_arm(lines):
    return TODO


lesson.exercise("outcomes").check(outcomes_by_arm)

# %% [markdown]
# *Here ends the third focus session.*
#
# ## 6. A canary
#
# A new server first gets a few users, and somebody must watch it: a program. It looks after *every* request, so it
# must not peek either. The router's guardrails bet: start with 1 coin, and stake a part of it on each request of B
# being bad. As long as at most the allowed share is bad, the money doesn't grow on average, and reaches 200 coins
# with a probability of at most 1/200, at any time. If it gets there, B is rolled back.

# %%
draws, requests_seen = np.random.default_rng(SEED), lesson.pick(smoke=100, laptop=1000, gpu=1000)
for bad in (0.02, 0.05, 0.2, 1.0):
    evidence = ab.running_evidence(draws.random((REPEATS // 10, requests_seen)) < bad, 0.02)
    back = (evidence >= 200).any(1)
    when = np.median((evidence >= 200).argmax(1)[back]) + 1 if back.any() else np.nan
    print(f"{bad:.0%} bad, 2 % allowed: rolled back {share(back)}, if so after {when:.0f} requests (median)")

# %% [markdown]
# Now for real: the *better* head, on a server that somebody has set up carelessly. It waits up to a full second to
# fill its batches. The canary starts with 5 % of the users; a command gives it more.

# %%
router.stop()
careless, careless_url = serve("v2", "--batch-timeout", "1.0")
careless.wait_for(f"{careless_url}/ready")
router, url, log = route(url_a, careless_url, "canary-slow", 0.05)


def give(share, *more):
    """The command that changes B's share."""
    port = url.rsplit(":", 1)[1]
    command = ["python", "-m", "production.router", "share", "--share", str(share), "--port", port, *more]
    with start(command, lesson.folder / "share.log", env=ENVIRONMENT) as change:
        print(f"exit code {change.wait(60)}\n{change.tail()}")


answers = traffic(url, range(CANARY_USERS // 4))
give(0.3)
answers += traffic(url, range(1000, 1000 + CANARY_USERS))


# %%
def story(log):
    """What was decided, and who was asked in between."""
    asked = []
    for line in [*read_log(log), {"event": "end"}]:
        if line["event"] == "request":
            asked.append(line)
        elif line["event"] != "outcome":
            seconds = {
                arm: [each["seconds"] for each in asked if each["arm"] == arm and not each["failed"]]
                for arm in "AB"
            }
            told = [f"{arm} {len(s)}, median {np.median(s):.2f} s" for arm, s in seconds.items() if s]
            if asked:
                failed = sum(each["failed"] for each in asked)
                print(f"  {len(asked)} requests: {'; '.join([*told, f'{failed} failed'])}")
            asked = []
            print({name: each for name, each in line.items() if name not in ("time", "experiment")})


story(log)

# %% [markdown]
# Slow is measured against A at the same time: more than twice the p95 of A's last requests. So an hour in which
# everything is slow is not B's fault. The better model lost its place by its *server*; accuracy alone would never
# have told.
#
# The second canary is healthy, gets half of the users, and then its process ends:

# %%
router.stop()
careless.stop()
router, url, log = route(url_a, url_b, "canary-crash", 0.5)
before = traffic(url, range(CANARY_USERS // 4))
server_b.stop()
answers = before + traffic(url, range(1000, 1000 + CANARY_USERS))
story(log)
lost = sum(status != 200 for _, status, *_ in answers)
print(f"{lost} of {len(answers)} users got no answer")

# %% [markdown]
# Where B failed, the router asked A, so the users of a dead server got their answers. The log keeps both facts: `arm`
# is what was drawn, `answered_by` who helped out.
#
# A restart of the router with the same command doesn't bring B back, for it reads its log first. Only a person does
# that, with `--again`:

# %%
give(0.5)
give(0.5, "--again")

# %%
for process in (router, server_a, server_b, careless):
    process.stop()
print("running:", [process.running for process in (router, server_a, server_b, careless)])

# %% [markdown]
# ## 7. What goes wrong
#
# **Requests counted as users.** Users were assigned, and one user's requests resemble each other: some are always
# served well, some never. A test that counts requests believes it has five times as many independent values. No
# difference, five requests a user, four kinds of counting:

# %%
draws, repeats = np.random.default_rng(SEED), lesson.pick(smoke=100, laptop=4000, gpu=4000)
for alike, (a, b) in {"all users alike": (800, 200), "users differ": (1.6, 0.4)}.items():
    good = [draws.binomial(5, draws.beta(a, b, (repeats, PLANNED))) for _ in "AB"]
    by_request = ab.z_test(good[0].sum(1), 5 * PLANNED, good[1].sum(1), 5 * PLANNED) < 0.05
    error = np.sqrt(sum(each.var(1, ddof=1) / PLANNED for each in good))
    by_user = np.abs(good[1].mean(1) - good[0].mean(1)) > 1.96 * error
    print(f"{alike}: false alarms by requests {share(by_request)}, by users {share(by_user)}")

# %% [markdown]
# **Twenty metrics.** Each has its 5 %, so one of twenty is "significant" by luck more often than not. Name *one*
# metric that decides, before; the others are guardrails.
#
# **The share is changed in the middle.** If B gets 5 % on a bad Monday and 50 % on a good Tuesday, B looks better on
# the sum. For the decision, use a stretch with one share and a name of its own.
#
# **The same salt again.** Under an old experiment's name, its users of B are the new users of B, with all that
# happened to them.
#
# ## 8. The same on bigger machines
#
# Router and statistics don't know what stands behind the addresses: GPU servers, several machines, another company's
# API with the same contract. Several routers agree about every user without talking to each other, because the hash
# needs no table; but each keeps its own log and guardrails, so count them together, or run one router per experiment.
# More traffic makes smaller differences visible. It does not shorten what takes a whole week to show itself.
#
# ```
# python -m production.serving --model FOLDER_A --port 8001
# python -m production.serving --model FOLDER_B --port 8002
# python -m production.router --a http://127.0.0.1:8001 --b http://127.0.0.1:8002 --share 0.05 --experiment NAME
# python -m production.router share --share 0.5
# ```
#
# Terminate TLS in front of it, and keep raw user ids out of other logs, too. A pseudonym is not anonymous: whoever has
# the list of ids can compute it.

# %%
lesson.record(
    false_alarms=alone.mean(),
    power=found.mean(),
    peeking=no_difference["peeking at p"][1][:, -1].mean(),
    sequence=no_difference["confidence sequence"][1][:, -1].mean(),
    labels_until_decision=first + stop + 1,
    lost_answers=lost,
)

# %% [markdown]
# ## Recap
#
# 1. The smallest difference that matters fixes the size; half of it costs four times the users.
# 2. A salted hash assigns; the ratio check comes before the result.
# 3. A p-value is for one look. For more, use a confidence sequence or planned looks.
# 4. Guardrails want a margin and the whole interval within it; a canary's watch must hold at every request.
# 5. Count what was assigned: users.
#
# Tick *Set up A/B testing framework*: you have planned an experiment, run it, and seen it defend itself.
#
# **Check yourself.** The ratio check says p = 0.00001, and B's result is splendid: what do you report? Why may a
# guardrail look after every request, and a dashboard's p-value not?
#
# <details><summary>Answers</summary>
#
# A broken experiment, and the search for its cause; who is missing may be just those that B failed. And because its
# promise holds for all looks together: the probability that the bet *ever* reaches 200 is at most 1/200.
#
# </details>
#
# **Next:** [cost and latency](cost-and-latency.ipynb) makes the winner cheaper.
