# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Model serving
#
# You will be able to put a classifier behind an HTTP server that survives bad requests, load, a killed worker and a
# change of version, and to measure that it does.
#
# **120 minutes**, four focus sessions (a few minutes are computing, on 2 CPU cores) · **expert** · before this:
# [model registry](model-registry.ipynb) · next: [A/B testing](ab-testing.ipynb)
#
# You will
#
# - batch requests that arrive together, and measure what that is worth, and what it isn't;
# - choose an adapter for each request, several in one batch;
# - refuse what is broken before it reaches the model;
# - change the version, and kill a worker, under load, and count the failed requests;
# - put a fine-tuned generator behind OpenAI's protocol, and ask it whole and streamed.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("production/serving")

# %% [markdown]
# If the setup cell says that packages are missing, type `python start.py --production` in a terminal, or
# `pip install -e ".[production]"` in an environment of your own, and open this notebook again.

# %%
MODEL = lesson.pick(smoke="minilm", laptop="minilm", gpu="google-bert/bert-base-uncased")
TEXTS, STEPS = lesson.pick(smoke=(32, 2), laptop=(480, 25), gpu=(5485, 500))
LOAD_SECONDS = lesson.pick(smoke=1, laptop=6, gpu=10)  # of each load test
REQUESTS = lesson.pick(smoke=40, laptop=3000, gpu=20_000)  # at most, in each
USERS = lesson.pick(smoke=4, laptop=64, gpu=64)
MAX_LENGTH, SEED = 64, 0
BASE = lesson.pick(smoke="tiny", laptop="smollm2", gpu="HuggingFaceTB/SmolLM2-135M")  # of the generator
TALES, TALE_STEPS = lesson.pick(smoke=(8, 1), laptop=(80, 10), gpu=(1000, 200))
TOKENS = lesson.pick(smoke=4, laptop=24, gpu=64)  # of each answer

# %% [markdown]
# ## 1. Something to serve
#
# Two versions of a topic classifier, the second trained for longer, and a LoRA adapter of the first. At work they come
# from the registry (`--alias champion`); here from run folders: the model, and beside it `run.json` with each file's
# SHA-256, of which the server looks at the run's id and the hashes.

# %%
import sys
from pathlib import Path

from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

ROOT = Path(lessonkit.__file__).parents[1]  # where the folder `production` lies
sys.path.insert(0, str(ROOT))
data = lessonkit.load_dataset("reuters-r8")
names = data["train"].features["label"].names
tokenizer = lessonkit.load_tokenizer(MODEL)
train = data["train"].shuffle(seed=SEED).select(range(TEXTS))
train = train.map(lambda row: tokenizer(row["text"], truncation=True, max_length=MAX_LENGTH))
labels = {"id2label": dict(enumerate(names)), "label2id": {name: each for each, name in enumerate(names)}}


# %%
def trained(model, steps, rate):
    arguments = TrainingArguments(
        output_dir=str(lesson.folder / "trainer"), max_steps=steps, per_device_train_batch_size=16,
        learning_rate=rate, warmup_steps=0.1, save_strategy="no", seed=SEED, **lessonkit.training_arguments(),
    )  # fmt: skip
    lessonkit.run(
        Trainer(model, arguments, train_dataset=train, data_collator=DataCollatorWithPadding(tokenizer))
    )
    return model


# %%
import json

from peft import LoraConfig, get_peft_model

from production.records import file_hashes

RUNS = lesson.folder / "runs"


def classifier(folder=None):
    if folder is not None:
        return AutoModelForSequenceClassification.from_pretrained(folder)
    return lessonkit.load_model(MODEL, AutoModelForSequenceClassification, num_labels=len(names), **labels)


for version, steps in {"v1": STEPS, "v2": 2 * STEPS}.items():
    model = trained(classifier(), steps, 2e-4)
    model.save_pretrained(RUNS / version / "model")
    tokenizer.save_pretrained(RUNS / version / "model")
    record = {"run_id": version, "files": file_hashes(RUNS / version)}
    (RUNS / version / "run.json").write_text(json.dumps(record), encoding="utf-8")
lora = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
adapted = trained(get_peft_model(classifier(RUNS / "v1" / "model"), lora), STEPS, 1e-3)
adapted.save_pretrained(lesson.folder / "adapters" / "longer")

# %% [markdown]
# ## 2. Start it
#
# Two kinds of processes. The **gateway** (`production/gateway.py`, FastAPI) is what clients see: it checks the key and
# the request. Behind it, a **LitServe** server for one version (`production/serving_api.py`) collects requests into
# batches for its worker. The key comes from an environment variable: arguments show in the list of processes.
#
# The model is named by a link, `current`, which is turned to another version later, as a registry's alias would be.

# %%
import os
import secrets

from production.client import Client
from production.load_test import load
from production.processes import free_port, start

KEY = secrets.token_urlsafe(32)
ENVIRONMENT = {"SERVING_KEY": KEY, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
current = lesson.folder / "current"


def point(version):
    current.unlink(missing_ok=True)
    current.symlink_to(RUNS / version / "model", target_is_directory=True)


# %%
def serve(*options):
    """(process, url) of a server that is ready."""
    port = free_port()
    command = ["python", "-m", "production.serving", "--model", current, "--port", str(port)]
    command += ["--adapters", lesson.folder / "adapters", "--work", lesson.folder / "work", *options]
    process = start(command, lesson.folder / f"server-{port}.log", env=ENVIRONMENT)
    seconds = process.wait_for(f"http://127.0.0.1:{port}/ready")
    print(f"ready after {seconds:.1f} s", *options)
    return process, f"http://127.0.0.1:{port}"


# %%
point("v1")
process, url = serve()
client = Client(url, KEY, connections=USERS)
for adapter in (None, "longer"):
    answer = client.classify("wheat exports fell by two mln tonnes", adapter)
    print({name: answer[name] for name in ("label", "version", "adapter")}, f"score {answer['score']:.2f}")

# %% [markdown]
# Each answer names its version and adapter: without that, nobody can tell later which model said what.
#
# **Several adapters, one batch.** The base's work is the same for all rows. PEFT's `adapter_names` takes one name a
# row (`__base__` for none), and each LoRA layer adds each row's own update. So adapters need no servers of their own.
#
# ## 3. What batching is worth
#
# A worker that is asked for 32 texts at once reads the weights once, and pays Python's price per call once. Against
# that: the first request waits for others (`batch_timeout`), short texts are padded to the longest one, and HTTP and
# tokenisation cost the same per text as before.
#
# **Exercise 1, predict.** A closed-loop load test: 32 users, each asks again as soon as it has its answer. The server
# gives 80 answers a second. How many seconds does a request take on average?

# %%
TODO = lessonkit.TODO
answer = TODO
lesson.exercise("waiting").check(answer)

# %% [markdown]
# Now measured: one user and many, with batching and by a server that takes one text at a time. Many means twice what a
# batch takes, so that one batch gathers while another is computed. *What do you expect*: how many times more answers
# than one request at a time (one user, no batching)? How many times more than the same users get without batching? And
# what does a single user gain by it?

# %%
texts = [" ".join(row.split()[:8]) for row in data["test"]["text"][:200]]
reports = {}


def loaded(name, asker, users):
    ask = lambda number: asker.classify(texts[number % len(texts)])  # noqa: E731
    reports[name] = load(ask, users, seconds=LOAD_SECONDS, requests=REQUESTS)
    print(f"{name}: {reports[name]}")


client.close()
process.stop()  # one server at a time: an idle one takes its share of the machine, too
single, single_url = serve("--max-batch-size", "1")
with single, Client(single_url, KEY, connections=USERS) as other:
    loaded("no batching, 1 user", other, 1)
    loaded(f"no batching, {USERS} users", other, USERS)
process, url = serve()
client = Client(url, KEY, connections=USERS)
loaded("batching, 1 user", client, 1)
loaded(f"batching, {USERS} users", client, USERS)

# %%
rates = {name: report.throughput for name, report in reports.items()}
many = rates[f"batching, {USERS} users"]
print(f"against one request at a time: {many / rates['no batching, 1 user']:.1f} times")
print(f"against as many users without batching: {many / rates[f'no batching, {USERS} users']:.1f} times")

# %%
ax = lessonkit.plots.bars(rates, xlabel="answers a second")

# %% [markdown]
# Where does the time go? The model alone, without HTTP, for one text at a time and for batches:

# %%
import time

import torch

alone = classifier(RUNS / "v1" / "model").eval()
threads = torch.get_num_threads()
torch.set_num_threads(1)  # as the server's worker
per_text = {}
for size in (1, 8, 32):
    began, count = time.perf_counter(), 0
    with torch.inference_mode():
        while time.perf_counter() - began < LOAD_SECONDS / 3:
            alone(**tokenizer(texts[:size], padding=True, truncation=True, return_tensors="pt"))
            count += size
    per_text[size] = (time.perf_counter() - began) / count
    print(f"batches of {size:>2}: {1000 * per_text[size]:.2f} ms a text")
torch.set_num_threads(threads)
print(f"so batching can give {per_text[1] / per_text[32]:.1f} times at most, by the model alone")
print(f"the server under load: {1000 / many:.2f} ms a text")

# %% [markdown]
# That is what batching can give by the model's own work, on one core. A server that takes one text at a time also pays
# the queue and the answer for each, so the server's ratio may be higher; HTTP and tokenisation, which cost the same
# either way, pull it down. Against one request at a time there is more to gain: client, gateway and worker, which else
# wait for each other, work at once. So what lies between them must be small. If a ratio is below three, these lines show
# what holds it there. On a GPU single texts leave most of the card idle.
#
# (LitServe's own step in this direction, `fast_queue=True`, changes nothing in 0.2.19, [issue
# 751](https://github.com/Lightning-AI/LitServe/issues/751): a setting counts when its effect was measured.)
#
# A single user can't gain: nobody else comes within `batch_timeout`. And one server ran at a time, for a fair
# comparison: LitServe's batching worker asks its queue about every millisecond even when nobody comes
# (`collate_requests` in `litserve/loops/base.py`), and a second server would pay for that.
#
# *Here ends the first focus session.*
#
# ## 4. What is refused, and where
#
# **Exercise 2, predict.** LitServe's worker runs `decode_request` for all requests of a batch, inside one `try`, and
# answers an `HTTPException` by `for uid in uids: put_response(...)`. One of 32 requests has an empty text, and
# `decode_request` raises `HTTPException(422)` for it. What happens? **a**: its sender gets the 422, the other 31 their
# answers. **b**: all 32 senders get the 422. **c**: the worker process ends.

# %%
answer = TODO
lesson.exercise("before").check(answer)

# %% [markdown]
# So the gateway checks (`production/requests_checks.py`), and compares the key by `hmac.compare_digest`, which takes
# as long for a nearly right key as for a wrong one. Every refusal has one form: a status, a word for programs, a
# sentence.

# %% tags=["nbval-check-output"]
import httpx

good = {"Authorization": f"Bearer {KEY}"}
BAD = {
    "no key": ({}, b'{"text": "a"}'),
    "wrong key": ({"Authorization": "Bearer guess"}, b'{"text": "a"}'),
    "no JSON": (good, b"{text: a}"),
    "wrong type": (good, b'{"text": 3}'),
    "empty text": (good, b'{"text": " "}'),
    "1 MB": (good, json.dumps({"text": "a" * 1_000_000}).encode()),
    "unknown adapter": (good, b'{"text": "a", "adapter": "longr"}'),
}
for name, (headers, body) in BAD.items():
    answer = httpx.post(f"{url}/classify", content=body, headers=headers, trust_env=False)
    error = answer.json()["error"]
    print(f"{name:<16}{answer.status_code} {error['code']}: {error['message'][:70]}")
print("still ready:", httpx.get(f"{url}/ready", trust_env=False).status_code == 200)

# %% [markdown]
# 4xx says: *your* request is wrong, don't send it again. **503** says: not now. With it goes `Retry-After`, in
# seconds.
#
# **Exercise 3, write code.** How long does a client wait before it asks again? `tries` have failed so far (1 or
# more), `retry_after` is the header's text or None. A number there is obeyed. Without one, or if it is a date: 0.1 s
# after the first failure, doubled by each further one, 5 s at most.


# %%
def pause(tries, retry_after):
    return TODO


lesson.exercise("pause").check(pause)

# %% [markdown]
# *Here ends the second focus session.*
#
# ## 5. A new version, under load
#
# **Exercise 4.** Which order loses no request? **a**: stop the old, start the new, turn requests to it. **b**: start
# the new, turn requests to it, wait until it is ready, stop the old. **c**: start the new, wait until it is ready,
# turn requests to it, stop the old. **d**: as c, but *drain* the old before it is stopped.

# %%
answer = TODO
lesson.exercise("order").check(answer)

# %% [markdown]
# That is **blue/green**. Its price: for a while both versions lie in memory. How many requests fail?

# %%
import subprocess
import threading


def under_load(act):
    """The report of a load that goes on while `act` runs, and a little longer; the client asks again after a 503."""
    done, found = threading.Event(), []
    with Client(url, KEY, deadline=60, connections=4) as patient:
        ask = lambda number: patient.classify(texts[number % len(texts)])  # noqa: E731
        loader = threading.Thread(
            target=lambda: found.append(load(ask, 4, seconds=90, requests=10**6, until=done))
        )
        loader.start()
        time.sleep(1)
        act()
        time.sleep(1)
        done.set()
        loader.join()
        print(f"{found[0]}\nversions: {found[0].versions}; asked again: {patient.tries_again}")
    return found[0]


# %%
def command(*words):
    line = [sys.executable, "-m", "production.serving", *words]
    done = subprocess.run(
        line, capture_output=True, text=True, env=os.environ | ENVIRONMENT, cwd=lesson.folder
    )
    said = (done.stdout or done.stderr).strip().replace(str(lesson.folder), "FOLDER")
    print(f"{said}\n(exit status {done.returncode})\n")


def reload():
    point("v2")
    command("reload", "--port", url.rpartition(":")[2])


reloaded = under_load(reload)

# %% [markdown]
# ## 6. A killed worker
#
# LitServe 0.2.19 ends the *whole server* when a worker dies, unless it was made with `restart_workers=True`. Then it
# starts another, and tells the requests that the dead one had in hand: 500. But only if its monitor sees them: with
# `api_server_worker_type="process"` the table of waiting requests lies in another process than the monitor, and they
# wait for ever. We use `"thread"`, and the gateway turns the 500 into a 503 with `Retry-After`. Requests still in the
# queue are not lost. What do you expect: failures? repeats?

# %%
import contextlib

import psutil


def workers():
    """The processes that hold the model in service."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            if "spawn_main" in " ".join(each.cmdline()):
                found.append(each)
    return found


def kill():
    before = workers()
    for each in before:
        each.kill()
    end = time.monotonic() + 30
    while not [each for each in workers() if each not in before] and time.monotonic() < end:
        time.sleep(0.2)


killed = under_load(kill)

# %% [markdown]
# *Failures* counts users who got no answer in the end. *Asked again* counts the 503s behind that, and p99 shows what it
# cost: whoever asked meanwhile waited until a new worker had started and loaded the model. Two workers would halve the
# capacity for a moment, not stop it. A repeat is harmless here: classifying changes nothing. A request that *does*
# something (a payment) needs an id by which the server knows it again.
#
# *Here ends the third focus session.*
#
# ## 7. What goes wrong
#
# **A second start while the first still runs; a port that is taken; a model that is missing; no key:**

# %%
PORT = url.rpartition(":")[2]
command("--model", str(current), "--port", PORT, "--work", str(lesson.folder / "work"))
command("--model", str(current), "--port", PORT, "--work", str(lesson.folder / "elsewhere"))
command("--model", str(lesson.folder / "nowhere"), "--port", str(free_port()))
ENVIRONMENT["SERVING_KEY"] = ""
command("--model", str(current), "--port", str(free_port()))
ENVIRONMENT["SERVING_KEY"] = KEY

# %% [markdown]
# **A file that isn't what was trained.** One bit of the weights is turned over; then a pickle takes the weights' place,
# under their name. Which of the two would load without any complaint, if nobody looked?

# %%
import shutil


def spoiled(version, spoil):
    """Ask the running server to change to a copy of v2 whose weights were spoiled."""
    shutil.copytree(RUNS / "v2", RUNS / version, dirs_exist_ok=True)
    spoil(RUNS / version / "model" / "model.safetensors")
    point(version)
    command("reload", "--port", PORT)


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


spoiled("flipped", flip)
spoiled("pickled", lambda file: torch.save({"weight": torch.ones(2)}, file))
print("in service:", client.classify("oil")["version"])

# %% [markdown]
# Both reloads were refused, and the old version serves on. The flipped bit would have loaded: a safetensors file has no
# checksum of its own, so only the hash from training can tell. The pickle is refused because loading one may run
# whatever code it holds.
#
# **Overload.** In a closed loop, users wait politely. The world doesn't: requests come at their own rate. An **open
# loop** at twice what the server can do shows what happens then; each request's time counts from when it was due:

# %%
hasty = Client(url, KEY, deadline=2, connections=2 * USERS)
with hasty:
    ask = lambda number: hasty.classify(texts[number % len(texts)])  # noqa: E731
    print(load(ask, 2 * USERS, seconds=LOAD_SECONDS, requests=REQUESTS, rate=2 * many))

# %% [markdown]
# Waiting grows for as long as the overload lasts: a request counts from when it was due, and waits first for one of so
# many connections, then for the worker. Who gets no answer within two seconds of *sending* gives up (`no_answer`, if
# there are any above). No setting helps against that; `max_open` only makes the queue end in a 503 instead of in memory.
#
# **`batch_timeout=0`** looks like the fastest choice. LitServe's worker then asks its queue without any pause, and
# keeps a core busy while nothing happens; `production/serving.py` refuses it.
#
# *Here ends the fourth focus session.*
#
# ## 8. A generator
#
# Text generation has servers of its own, and most speak OpenAI's protocol. On a CPU: `transformers serve`. It has no
# key, so it listens on this computer only, and no list of adapters: a folder with an adapter alone has no `config.json`,
# and is refused. So the adapter is merged into a copy of its base. First, an adapter: SmolLM2 reads pieces of Grimm's
# tales (at smoke scale: a tiny model, one step).

# %%
from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

words = lessonkit.load_tokenizer("smollm2")
tales = lessonkit.load_dataset("grimm-tales")["train"]["text"]
pieces = [text[at : at + 250] for text in tales for at in range(0, len(text), 250)][:TALES]
tales = Dataset.from_dict({"text": pieces}).map(
    lambda row: words(row["text"], truncation=True, max_length=64), remove_columns="text"
)
if BASE == "tiny":
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BASE = lesson.folder / "tiny"
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **tiny)).save_pretrained(BASE)
    words.save_pretrained(BASE)
    base = LlamaForCausalLM.from_pretrained(BASE)
else:
    base = lessonkit.load_model(BASE, AutoModelForCausalLM, use_cache=False)

# %%
teller = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
arguments = TrainingArguments(
    output_dir=str(lesson.folder / "trainer"),
    max_steps=TALE_STEPS,
    per_device_train_batch_size=4,
    learning_rate=1e-3,
    save_strategy="no",
    seed=SEED,
    **lessonkit.training_arguments(),
)
collator = lessonkit.CausalLMCollator(words)
lessonkit.run(Trainer(teller, arguments, train_dataset=tales, data_collator=collator))
teller.save_pretrained(lesson.folder / "teller")

# %% [markdown]
# `production/generator.py` merges and starts it. The client is OpenAI's own; **what do you expect**: does a streamed
# answer take longer, or only *feel* shorter?

# %%
from openai import OpenAI

from production.generator import OFFLINE, merged
from production.generator import command as generator_command

port = free_port()
folder = merged(BASE, lesson.folder / "teller", lesson.folder / "generator" / "tales")
generator = start(
    generator_command(folder, "tales", port),
    lesson.folder / "generator.log",
    env=OFFLINE,
    folder=folder.parent,
)
print(f"ready after {generator.wait_for(f'http://127.0.0.1:{port}/health'):.1f} s")
openai = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
asked = {
    "model": "tales",
    "prompt": "Once upon a time there was a poor",
    "max_tokens": TOKENS,
    "temperature": 0,
}

# %%
for _ in range(2):  # the first request makes buffers; the second one counts
    began = time.perf_counter()
    found = openai.completions.create(**asked)
    seconds = time.perf_counter() - began
whole, tokens = found.choices[0].text, found.usage.completion_tokens
print(f"whole:    {seconds:.2f} s, {tokens / seconds:.1f} tokens/s: {asked['prompt']}{whole}")
began, arrivals, streamed = time.perf_counter(), [], ""
for piece in openai.completions.create(**asked, stream=True):
    if piece.choices and piece.choices[0].text:
        arrivals.append(time.perf_counter() - began)
        streamed += piece.choices[0].text
print(
    f"streamed: {arrivals[-1]:.2f} s, the first piece after {arrivals[0]:.2f} s; same text: {streamed == whole}"
)

# %% [markdown]
# Users wait for the *first* token (time to first token, TTFT), then read along. Both belong into a load test of a
# generator; answers a second say little where answers differ in length.
#
# The server is pinned to its model. Another name, and a message in place of a text:

# %%
import openai as openai_package

for change in ({"model": "another"}, {"prompt": [{"role": "user", "content": "hi"}]}):
    try:
        openai.completions.create(**asked | change)
        print("answered")
    except openai_package.APIStatusError as error:
        print(error.status_code, str(error.body)[:140])
generator.stop()
openai.close()

# %% [markdown]
# On a GPU, vLLM batches token by token (*continuous batching*: a finished answer makes room at once) and keeps the
# adapter apart from its base. `production/generator.py` then starts this instead, and the client above is not changed:

# %%
import shlex

print(
    shlex.join(generator_command("FOLDER_OF_THE_BASE", "tales", 8001, vllm_adapter="FOLDER_OF_THE_ADAPTER"))
)

# %% [markdown]
# vLLM isn't part of this course's installation, and isn't run on this page. The classifier's own files run on a GPU
# unchanged (`accelerator="auto"`); raise `max_batch_size` there, and measure again. Now everything is stopped:

# %%
client.close()
process.stop()
print("running:", process.running)

# %% [markdown]
# ## 9. The end
#
# 1. Check before the queue; a refusal says what is wrong, 503 says when to come again.
# 2. Batching pays what the model gains per text, less HTTP, waiting and padding. Compare with a server without it.
# 3. Ready first, then switch, then drain, then stop.
# 4. A worker will die. What counts is whether somebody notices, and whether clients ask again.
# 5. One protocol, several servers: the client doesn't change where the generator moves.
#
# The next cell keeps your result. At laptop or GPU scale, it earns *Deploy model to production endpoint*.

# %%
lesson.record(
    throughput=many,
    against_one_at_a_time=many / rates["no batching, 1 user"],
    against_no_batching=many / rates[f"no batching, {USERS} users"],
    failed_in_reload=sum(reloaded.failures.values()),
    failed_after_kill=sum(killed.failures.values()),
)

# %% [markdown]
# **Check yourself.** p50 is 20 ms and p99 is 900 ms: who notices? `/health` says alive and `/ready` says 503: should
# the process be restarted?
#
# <details><summary>Answers</summary>
#
# One request in a hundred; somebody who asks a hundred times a day meets it daily. And no: it lives, and has no worker
# ready, which may be a restart under way. A load balancer sends it nothing until `/ready` says 200.
#
# </details>
#
# **Next:** [A/B testing](ab-testing.ipynb) puts two such servers side by side.
