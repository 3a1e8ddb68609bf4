# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Distributed training
#
# You will be able to train with several processes, prove that they train what one would, and let the training survive
# a killed worker.
#
# **120 minutes**, five focus sessions (about 4 minutes are computing, on 2 CPU cores) · **expert** · before this:
# [full fine-tuning](../intermediate/full-fine-tuning.ipynb) · next: [multi-task learning](multi-task.ipynb)
#
# You will
#
# - run one script with one process, with two copies (DDP) and with two shards (FSDP), and compare losses and weights;
# - predict who holds and who sends how many bytes, then measure both;
# - kill a worker, and get the same weights as without;
# - rehearse two machines on one.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("production/distributed-training")

# %%
import torch


def pick(smoke, laptop, gpu):  # two processes need two GPUs: with only one, both take the CPU
    return lesson.pick(smoke=smoke, laptop=laptop, gpu=gpu if torch.cuda.device_count() > 1 else laptop)


MODEL = pick(smoke="tiny", laptop="minilm", gpu="google-bert/bert-base-uncased")
ROWS, TEST_ROWS = pick(smoke=(64, 32), laptop=(480, 200), gpu=(5485, 2189))
STEPS = pick(smoke=4, laptop=16, gpu=300)
BATCH = 16  # the effective batch: all rows of a step, in all processes together
LENGTH = pick(smoke=12, laptop=48, gpu=128)  # tokens of a row
RATE = pick(smoke=1e-2, laptop=3e-4, gpu=3e-5)
LARGEST = pick(smoke=2**20, laptop=2**26, gpu=2**26)  # bytes of the largest message that is timed
SEED = 0

# %% [markdown]
# If the setup cell says that packages are missing, type `python start.py --production` in a terminal, or
# `pip install -e ".[production]"` in an environment of your own, and open this notebook again.
#
# ## 1. Processes that know their place
#
# A **launcher** starts the same program several times, and tells each one its place by environment variables: its
# `RANK`, its `LOCAL_RANK` on this machine, and the `WORLD_SIZE`. `torchrun` is the launcher of PyTorch. The processes
# then meet, and call **collectives** together: an *all-reduce* gives everyone the sum of what each one has. On CPUs
# they talk by *gloo*, on GPUs by *NCCL*; the program is the same.

# %%
import sys
from pathlib import Path

ROOT = Path(lessonkit.__file__).parents[1]  # where the folder `production` lies
sys.path.insert(0, str(ROOT))
from production.group import loopback, torchrun
from production.processes import free_port, start

ENVIRONMENT = {**loopback(threads=1), "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
NO_GPU = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
ENVIRONMENT = ENVIRONMENT if torch.cuda.device_count() > 1 else NO_GPU
_ = (lesson.folder / "hello.py").write_text("""
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
mine = torch.tensor(10.0 ** dist.get_rank())
said = f"rank {dist.get_rank()} of {dist.get_world_size()}: I had {mine:.0f}"
dist.all_reduce(mine)
everyone = [None] * dist.get_world_size()
dist.all_gather_object(everyone, f"{said}, now I have {mine:.0f}")
if dist.get_rank() == 0:
    print(*everyone, sep="\\n")
dist.destroy_process_group()
""")

# %% tags=["nbval-check-output"]
command = torchrun("hello", processes=2)
print("torchrun", *command[3:])
with start(command, lesson.folder / "hello.log", env=ENVIRONMENT, folder=lesson.folder) as process:
    assert process.wait(120) == 0, process.tail()
    print(*(line for line in process.tail().splitlines() if line.startswith("rank")), sep="\n")

# %% [markdown]
# Each process has one thread (`OMP_NUM_THREADS=1`): threads of torch wait by spinning, so two processes with two
# threads each fight over two cores.
#
# ## 2. One batch, two processes
#
# **DDP** (distributed data parallel): each process holds a whole copy of the model, computes gradients on its part of
# the batch, and an all-reduce averages the gradients. Then all take the same step.
#
# To train the *same* as one process, the **effective batch** must be the same: here the 16 rows of a step are dealt
# out, 8 each. (The other habit, 16 rows for each process, doubles the batch; then the learning rate is another
# question.)
#
# **Exercise 1, code.** Deal out a step: `mine(rows, rank, world, accumulate)` gives the rows of this rank, every
# `world`-th from `rank` on, as a list of `accumulate` small batches of equal size. If `rows` can't be split evenly
# into all of them, raise a `ValueError`.


# %%
TODO = lessonkit.TODO


def mine(rows, rank, world, accumulate):
    return TODO


lesson.exercise("mine").check(mine)

# %% [markdown]
# Averages hide a trap. Two processes have rows with 3 and 1 answers (tokens, say); each takes the mean of its own,
# then the means are averaged:

# %% tags=["nbval-check-output"]
losses = [[1.0, 1.0, 1.0], [5.0]]
mean_of_means = sum(sum(each) / len(each) for each in losses) / len(losses)
mean_of_all = sum(map(sum, losses)) / sum(map(len, losses))
print(f"mean of the means {mean_of_means}, mean of all {mean_of_all}")

# %% [markdown]
# So `production/train.py` sums the loss, divides by the answers of the *whole* batch, and multiplies by the number of
# processes, because DDP will divide by it. Dropout is off: each process would draw its own.

# %%
import json
import shutil

FOLDER = lesson.folder / "runs"
shutil.rmtree(FOLDER, ignore_errors=True)  # a training goes on where it was; this notebook starts anew
SIZES = {"model": MODEL, "train-rows": ROWS, "length": LENGTH, "batch-size": BATCH, "steps": STEPS}
SIZES |= {"learning-rate": RATE, "seed": SEED}


def words(**changes):
    given = SIZES | {name.replace("_", "-"): value for name, value in changes.items()}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def trained(name, processes=2, options=(), save_every=0, **changes):  # 0: no checkpoints
    given = ["--folder", str(FOLDER / name), *words(save_every=save_every, **changes)]
    command = ["python", "-m", "production.train", *given]
    if processes > 1:
        command = torchrun("production.train", *given, processes=processes, options=options)
    with start(command, FOLDER / f"{name}.log", env=ENVIRONMENT, folder=ROOT) as process:
        if process.wait(600):
            raise RuntimeError(process.tail(200))
    return json.loads((FOLDER / name / "record.json").read_text())


# %% [markdown]
# **What do you expect** of the two losses after the last step: equal to the last bit, equal to some digits, or close?

# %%
runs = {"single": trained("single", 1, strategy="single", test_rows=TEST_ROWS)}
runs["ddp"] = trained("ddp", strategy="ddp", test_rows=TEST_ROWS)
for name, run in runs.items():
    print(f"{name:8}", *(f"{loss:.6f}" for loss in run["losses"][:: max(1, STEPS // 4)]))
    print(f"{'':8} accuracy {run['accuracy']['model']:.3f}, majority {run['accuracy']['majority']:.3f}")

# %% [markdown]
# Equal to rounding: sums in another order have other last bits. And the weights?

# %%
from safetensors.torch import load_file


def apart(one, other):
    first, second = (load_file(FOLDER / name / "model" / "model.safetensors") for name in (one, other))
    gaps = {name: (first[name] - second[name]).abs().max().item() for name in first}
    return sorted(gaps.items(), key=lambda each: -each[1])


for name, gap in apart("single", "ddp")[:4]:
    print(f"{gap:.1e}  {name}")

# %% [markdown]
# At laptop scale look for `attention.self.key.bias` among the largest gaps. A key's bias adds the same number to
# all scores of a row, and softmax ignores it, so its true gradient is **zero**; what is computed is rounding noise.
# AdamW divides a gradient by its own size, and turns noise into steps. It changes nothing that the model says, but a
# comparison by eye would alarm you. Compare losses first, then the weights that matter.
#
# ## 3. Who holds what
#
# DDP's copies waste memory. **FSDP** (fully sharded data parallel; `fully_shard` in PyTorch) cuts each parameter
# along its first dimension: each process holds only its shard, of the weights, the gradients and AdamW's states.
# When a layer computes, its weights are gathered, and let go of afterwards.
#
# **What do you expect**, in MB for each process, of the three?

# %%
runs["fsdp"] = trained("fsdp", strategy="fsdp", test_rows=TEST_ROWS)
print(f"{runs['single']['parameters'] / 1e6:.2f} M parameters; MB by rank, measured (predicted)")
for name, run in runs.items():
    for rank in run["ranks"]:
        found, told = rank["held"], rank["predicted"]
        parts = [
            f"{part} {found[part] / 1e6:.2f} ({told[part] / 1e6:.2f})"
            for part in ("parameters", "gradients", "optimizer")
        ]
        print(f"{name:7} rank {rank['rank']}", *parts, sep="  ")

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 2.6))
bars = [(f"{name} {rank['rank']}", rank["held"]) for name, run in runs.items() for rank in run["ranks"]]
left = [0.0] * len(bars)
for part in ("parameters", "gradients", "optimizer"):
    sizes = [held[part] / 1e6 for _, held in bars]
    axes.barh([label for label, _ in bars], sizes, left=left, label=part)
    left = [sum(each) for each in zip(left, sizes)]
axes.invert_yaxis()
axes.set_xlabel("MB held by a process")
axes.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# The arithmetic is `production/sharding.py`'s: 4 bytes a weight, 4 for its gradient, 8 for AdamW. A shard is a part of
# the rows, so a parameter with fewer rows than processes leaves some with nothing. Not in the bars: activations, and
# what is gathered for a moment, a layer at a time.

# %%
for name, run in runs.items():
    peaks = ", ".join(f"{rank['peak_bytes'] / 1e6:.0f}" for rank in run["ranks"])
    print(f"{name:7} peak MB of each whole process: {peaks}; {run['seconds_per_step']:.3f} s a step")
print("fsdp and single: losses apart by at most", end=" ")
print(f"{max(abs(a - b) for a, b in zip(runs['fsdp']['losses'], runs['single']['losses'])):.1e}")

# %% [markdown]
# A whole process also holds Python, torch, activations and buffers, so with a small model little of the saving shows
# there. Read the seconds with care: every process has one thread here, so one process uses one core, and two use
# two. But these share memory and caches, and with DDP each updates *all* weights. It is more *devices* that make
# several processes worth their messages.
#
# **Exercise 2, predict.** A model with 3 billion weights is trained with AdamW in float32, by FSDP over 8 processes.
# How many GB (10^9 bytes) of weights, gradients and optimiser states does each process hold?

# %%
answer = TODO
lesson.exercise("held").check(answer)

# %% [markdown]
# ## 4. What is sent
#
# A ring **all-reduce** of G bytes among N processes sends 2 (N - 1) / N G from each: a *reduce-scatter*, after which
# each process has its part of the sum, then an *all-gather* of the parts. FSDP gathers the weights for the forward and
# again for the backward pass, and scatters the gradients: three halves of DDP's bytes.

# %% tags=["nbval-check-output"]
from production.communication import sent_per_step

print("MB that each process sends in a step, of a model with 100 M weights in float32")
for world in (1, 2, 8, 64):
    sent = {name: sent_per_step(100_000_000, world, name) / 1e6 for name in ("ddp", "fsdp")}
    print(f"{world:3} processes:", ", ".join(f"{name} {size:6.1f}" for name, size in sent.items()))

# %% [markdown]
# The bytes of each process soon stop growing; the *total* grows with N, and so does the number of messages. How long
# does it take? **Expect** a floor for small messages (latency), then time in proportion to bytes.

# %%
command = torchrun(
    "production.communication", "--output", str(FOLDER / "communication.json"), "--largest", str(LARGEST)
)
with start(command, FOLDER / "communication.log", env=ENVIRONMENT, folder=ROOT) as process:
    assert process.wait(300) == 0, process.tail()
timed = json.loads((FOLDER / "communication.json").read_text())["rows"]
figure, axes = plt.subplots(figsize=(6, 3))
for call in ("all_reduce", "all_gather", "reduce_scatter"):
    axes.loglog([row["bytes"] for row in timed], [1e3 * row[call] for row in timed], marker="o", label=call)
axes.set_xlabel("bytes of the whole message")
axes.set_ylabel("milliseconds")
axes.legend(frameon=False)
plt.show()

# %%
gradients = 4 * runs["ddp"]["parameters"]
largest = timed[-1]
rate = largest["bytes"] / largest["all_reduce"]
print(f"{rate / 1e6:.0f} MB of gradients a second, at {largest['bytes'] / 1e6:.0f} MB")
print(f"so about {gradients / rate:.3f} s for this model's {gradients / 1e6:.0f} MB, if nothing overlapped;")
print(f"a step takes {runs['ddp']['seconds_per_step']:.3f} s")

# %% [markdown]
# DDP hides part of it: while the backward pass still computes early layers, gradients of late ones are on their way,
# in *buckets*. With **accumulation** (`--accumulate`) gradients travel once for several small batches (`no_sync`);
# FSDP must gather the weights for each.
#
# **Exercise 3, code.** `sent(parameters, world, strategy, accumulate)`: bytes that each process sends for one
# update, for `"ddp"` and `"fsdp"`, all in float32.


# %%
def sent(parameters, world, strategy, accumulate):
    return TODO


lesson.exercise("sent").check(sent)

# %% [markdown]
# ## 5. A worker is killed
#
# The more machines, the sooner one fails. `torchrun --max-restarts 3` watches its workers: if one dies, it ends the
# others and starts all again. What they do then is the program's business. Ours loads the newest checkpoint:
#
# - all processes write their shards into `step-000010.partial`; only when all are done is it renamed. So whatever is
#   killed when, a folder without `.partial` is whole;
# - which rows a step takes follows from its number, so there is no state of a data loader to lose;
# - `loopback()` has set `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`. Else torchrun (PyTorch 2.13) keeps one store for all
#   restarts, with the dead workers' addresses in it, and the new ones may call those: `Connection refused`.
#
# `--fail-at` is a rehearsal: before that step, once, the last process kills itself by SIGKILL, which no program can
# catch. **What do you expect** of the weights at the end: the same bits as those of a run that nobody killed?

# %%
SAVE = STEPS // 2
runs["killed"] = trained(
    "killed", options=("--max-restarts", "1"), strategy="ddp", save_every=SAVE, fail_at=SAVE + 1
)
mark = (FOLDER / "killed" / f"failed-at-{SAVE + 1}").read_text()
print(f"process {mark} died; at the end ran {[rank['pid'] for rank in runs['killed']['ranks']]}")
print(f"went on from step {runs['killed']['restored_from']} of {STEPS}")
same = runs["killed"]["weights_sha256"] == runs["ddp"]["weights_sha256"]
print("the same weights, bit for bit:", same)
gaps = [abs(a - b) for a, b in zip(runs["killed"]["losses"], runs["ddp"]["losses"])]
print("losses apart by", max(gaps))

# %% [markdown]
# The work since the checkpoint was done twice: that is its price, so save as often as you can bear to lose. On GPUs
# some operations add in no fixed order; expect equal digits there, not equal bits.
#
# The files are not tied to the number of processes: type the same command with one process, or with `--strategy fsdp`,
# and it goes on from the same checkpoint (each gets its part of it).

# %%
for each in sorted((FOLDER / "killed" / "checkpoints").iterdir()):
    print(each.name, f"{sum(file.stat().st_size for file in each.rglob('*')) / 1e6:.0f} MB", end=": ")
    print(*sorted(file.name for file in each.iterdir()))
shutil.rmtree(FOLDER / "killed" / "checkpoints")  # three numbers of four bytes for each weight: large

# %% [markdown]
# ## 6. Two machines, rehearsed on one
#
# Each machine runs its own launcher; they find each other at a **rendezvous**, a host and a port that all can reach.
# Two launchers with one worker each, on loopback, take the same way:

# %%
port = free_port()
rendezvous = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}")
command = torchrun(
    "production.train", "--folder", str(FOLDER / "nodes"), *words(model="tiny", strategy="ddp"),
    processes=1, options=(*rendezvous, "--rdzv-id", "rehearsal"),
)  # fmt: skip
nodes = [start(command, FOLDER / f"node-{n}.log", env=NO_GPU, folder=ROOT) for n in (0, 1)]
try:
    print("exit codes:", [node.wait(300) for node in nodes])
finally:
    for node in nodes:
        node.stop()
runs["nodes"] = json.loads((FOLDER / "nodes" / "record.json").read_text())
print(f"{runs['nodes']['world']} processes, loss {runs['nodes']['losses'][-1]:.4f}")

# %% [markdown]
# On real machines write the first one's name in place of 127.0.0.1, leave out `--local-addr`, and give a `--folder`
# that all can read and write: shards of a checkpoint come from everywhere.
#
# **accelerate** is a layer above: it finds the device, wraps the model, deals the batches out. Checkpoints, resuming,
# and which rows a step takes stay yours (`production/train_accelerate.py`).

# %%
accelerate = ["python", "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
accelerate += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
accelerate += ["--main_process_port", str(free_port()), "-m", "production.train_accelerate"]
given = [*words(model="tiny"), "--folder", str(FOLDER / "accelerate")]
with start([*accelerate, *given], FOLDER / "accelerate.log", env=NO_GPU, folder=ROOT) as process:
    assert process.wait(300) == 0, process.tail(100)
accelerated = json.loads((FOLDER / "accelerate" / "record.json").read_text())
print(f"{accelerated['world']} processes")
print(f"{'step':4} {'two launchers':>14} {'accelerate':>11}")
for step in range(0, STEPS, max(1, STEPS // 4)):
    print(f"{step:4} {runs['nodes']['losses'][step]:14.6f} {accelerated['losses'][step]:11.6f}")

# %% [markdown]
# In a terminal it is `accelerate launch --multi_gpu ...`, with options, or with a file of answers (`accelerate
# config`). `--multi_gpu` only means "start it by torchrun", also where there is no GPU: the script asks for the CPU
# then. The flag that sounds right, `--cpu --num_processes 2`, starts a *single* process (accelerate 1.15 leaves more
# of them to `mpirun`). So print the number of processes.
#
# ## 7. What goes wrong
#
# **Everyone trains alone**, since a switch was forgotten: each would write over the other's files. **A batch that
# can't be dealt out**, and **another run's folder**. All three are refused, in each process alike:

# %%
from lessonkit.errors import LessonkitError
from production.batches import check_split
from production.group import Group
from production.sharding import distribute
from production.train import Training, train


def told(call, *given):
    try:
        call(*given)
        print("it ran")
    except LessonkitError as error:
        print(str(error).replace(str(FOLDER), "runs"), end="\n\n")


first_of_two = Group(rank=0, world=2, launched=True, device=torch.device("cpu"), backend="gloo")
alone = Group(rank=0, world=1, launched=False, device=torch.device("cpu"), backend="none")
told(distribute, torch.nn.Linear(2, 2), "single", first_of_two, "fp32")
told(check_split, BATCH, 3, 1)
kept = json.loads((FOLDER / "nodes" / "settings.json").read_text())
told(train, Training(**kept | {"learning_rate": 0.5}, strategy="single"), FOLDER / "nodes", alone)

# %% [markdown]
# **It hangs.** The commonest fault of all: a collective waits for *everyone*, and one process never calls it, since it
# stands under an `if rank == 0`, or its data ended sooner. Here rank 1 skips an all-reduce; the others wait 3 seconds
# (the usual limit is 10 to 30 minutes):

# %%
(lesson.folder / "skips.py").write_text("""
import time
from datetime import timedelta

import torch
import torch.distributed as dist

dist.init_process_group("gloo", timeout=timedelta(seconds=3))
if dist.get_rank() == 0:
    dist.all_reduce(torch.ones(1))
else:
    time.sleep(60)
""")
detailed = {**ENVIRONMENT, "TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
with start(torchrun("skips"), lesson.folder / "skips.log", env=detailed, folder=lesson.folder) as process:
    print("exit code", process.wait(120))
    lines = process.tail(200).splitlines()
    print(next((line[-160:] for line in lines if "RuntimeError" in line), lines[-1]))

# %% [markdown]
# The message names the rank that isn't there thanks to `TORCH_DISTRIBUTED_DEBUG=DETAIL`; without it you read of a
# timeout only. Two relatives: saving under `if rank == 0` with FSDP (rank 0 has a shard only, and gathering is a
# collective), and one rank that evaluates more batches than the others.
#
# **A second start** in the same folder is refused while the first one runs: rank 0 holds a lock.
#
# ## 8. What to use when
#
# | | each process holds | sends in a step | take it when |
# |---|---|---|---|
# | DDP | all | 2 halves | it fits in one device |
# | FSDP | 1/N | 3 halves | it doesn't fit; links are fast |
# | DeepSpeed ZeRO 1 / 2 / 3 | 1/N of: states / gradients too / all | 2 / 2 / 3 halves | you need its offload |
# | pipeline | some layers | activations at cuts | links are too slow for FSDP; stages wait |
#
# A *half* is (N - 1) / N of the weights' bytes. Before any of them: bf16, LoRA, gradient checkpointing, a smaller
# optimiser. One device used well beats two used badly.
#
# **Exercise 4, predict.** A model with 7 billion weights, full fine-tuning with AdamW in float32, one machine with
# eight GPUs of 80 GB and fast links. What do you choose?
#
# - a: DDP, it sends the least
# - b: FSDP within the machine
# - c: a pipeline over all eight GPUs
# - d: one GPU with a batch of 1

# %%
answer = TODO
lesson.exercise("which").check(answer)

# %% [markdown]
# ## 9. On GPUs
#
# The same files: each process takes the GPU of its `LOCAL_RANK`, and NCCL instead of gloo. (This notebook does so
# where it finds two GPUs.)
#
#     torchrun --nproc-per-node 8 -m production.train --strategy fsdp --precision bf16 --folder SHARED/run
#
# With `--precision bf16` FSDP gathers weights in 16 bits: half the bytes on the way, while shards stay in float32.
#
# ## 10. The end
#
# 1. Same effective batch, sums divided by all answers: N processes train what one does, to rounding.
# 2. DDP copies, FSDP cuts: 16 bytes a weight, or 16 / N.
# 3. DDP sends 2 (N - 1) / N of the gradients; FSDP half as much again, and more with accumulation.
# 4. A checkpoint is whole or isn't there; the launcher restarts, the program resumes.
# 5. A collective waits for everyone: what one rank skips, all wait for.
#
# The next cell keeps your result. At laptop or GPU scale it earns *Implement distributed training (multi-GPU)*.

# %%
lesson.record(
    accuracy=runs["fsdp"]["accuracy"]["model"],
    majority_baseline=runs["fsdp"]["accuracy"]["majority"],
    losses_apart_ddp=max(abs(a - b) for a, b in zip(runs["ddp"]["losses"], runs["single"]["losses"])),
    losses_apart_fsdp=max(abs(a - b) for a, b in zip(runs["fsdp"]["losses"], runs["single"]["losses"])),
    share_held_fsdp=runs["fsdp"]["ranks"][0]["held"]["total"] / runs["single"]["ranks"][0]["held"]["total"],
    same_after_kill=float(same),
    test_rows=TEST_ROWS,
)

# %% [markdown]
# **Check yourself.** You go from 2 to 4 processes and leave `--batch-size` alone: what changes? Rank 0 prints
# "saving", then nothing for ten minutes: where do you look first?
#
# <details><summary>Answers</summary>
#
# The result doesn't, but rounding; each process gets half as many rows in a step, so communication weighs more.
# Whether *all* ranks call the saving: it gathers or waits, so it is a collective.
#
# </details>
#
# **Next:** [multi-task learning](multi-task.ipynb).
