# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown] tags=["title"]
# # Start here
#
# You will know how this course works, what your machine can do, and which of the three paths is yours.
#
# **20 minutes** · **beginner** · before this: Python, and nothing else · background:
# [the overview](../lessons/README.md) · next: the [introduction](../lessons/introduction/guide.md), then
# [full fine-tuning, beginner](beginner/full-fine-tuning.ipynb)
#
# You will
#
# - see what a lesson looks like, and how an exercise is checked;
# - see what was chosen for your machine, and why;
# - choose a path and your starting point.

# %% tags=["setup"]
import lessonkit

lesson = lessonkit.start("start-here")

# %% [markdown]
# ## 1. Your progress
#
# Choose a path, tick what you have done, go on where you stopped. It follows what your other notebooks and the
# command line write. All of it works by keyboard: **Tab** goes on, **Space** ticks. Nothing is sent anywhere: it is
# lines in one file on this computer; [its page](../progress/README.md) says how to move, merge or delete it.

# %%
lessonkit.dashboard()

# %% [markdown]
# New here? Leave it as it is, read on, and come back to it: every visit begins with *Run All* and this cell.
# In a terminal (*File > New > Terminal*, with `.venv` active) `lessonkit progress` prints the same,
# and `lessonkit tick`, `path`, `next`, `note` and `focus` do the same.
#
# ## 2. How a lesson works
#
# You are in a *notebook*: text, and cells of Python code with what they printed below them. Click into a cell and
# press **Shift + Enter** to run it; *Run > Run All Cells* runs them all. Change anything: a notebook that you
# have spoiled comes back with `git checkout` and its name, as in `git checkout notebooks/00-start-here.ipynb`.
#
# Every lesson but this one trains a real model on this machine, without the internet, and compares it with
# baselines (the scores of a lazy and of a simple guess) on texts it has not seen. The outputs that you see before
# you run anything come from such a run; yours replace them.
#
# **Three scales.** The same notebook runs in three sizes, and the first cell says which one and why:

# %% tags=["nbval-check-output"]
scales = {
    "smoke": "does every line run? Seconds; nothing is learned, so nothing is recorded",
    "laptop": "two CPU cores, 8 GB of memory: real learning in at most three minutes of training",
    "gpu": "a GPU with 14 GiB or more: bigger models, all of the data",
}
for scale, meaning in scales.items():
    print(f"{scale:<8}{meaning}")

# %% [markdown]
# To choose another one, set the environment variable `LESSONKIT_SCALE` before you start JupyterLab.
#
# ## 3. Your machine
#
# What a training may use here, each choice with its reason. Paste this when you ask somebody for help.

# %%
hardware = lesson.hardware
for choice, reason in hardware.reasons.items():
    print(f"{choice:<10}{getattr(hardware, choice)!s:<10} {reason}")
print(f"{'memory':<10}{lessonkit.hardware.format_bytes(hardware.memory_total_bytes)}")

# %% [markdown]
# `bfloat16` and `float16` are 16-bit numbers: half the size of the usual `float32`, and faster where the hardware
# multiplies them directly. CUDA is what NVIDIA's GPUs are programmed with; the `attention` line says how one part
# of the model is computed. You need none of this now.
#
# ## 4. How an exercise works
#
# A cell with a task starts as `answer = TODO`. Until you replace it, it counts as not tried, and *Run All* goes
# on. A wrong answer is told *what* is wrong with it; `.hint()` gives one step more each time, `.solution()` the
# worked answer. Try it: run the cell as it is, then answer wrongly on purpose, then rightly.
#
# **Exercise 1.** Fine-tuning starts from a model that... `"a"` knows nothing yet, `"b"` has been trained on other,
# general texts, or `"c"` has been trained on your task already? Replace `lessonkit.TODO` with the letter, quotes
# included.

# %%
answer = lessonkit.TODO
lesson.exercise("what-it-starts-from").check(answer)

# %% [markdown]
# **Exercise 2.** Other answers are numbers. What a model has learnt lies in its *parameters*, which are numbers too.
# One with 22 million of them, as `float32` (32 bits each; 8 bits are a byte): how many megabytes is that? An MB is a
# million bytes.

# %%
answer = lessonkit.TODO
lesson.exercise("bytes").check(answer)

# %% [markdown]
# **Exercise 3.** Some answers are functions; the check calls yours with several models. Replace the `TODO` behind
# `return`, so that it gives the megabytes of a model with so many parameters, of so many bits each.


# %%
def megabytes(parameters, bits):
    return lessonkit.TODO


lesson.exercise("size").check(megabytes)

# %% [markdown]
# ## 5. Three paths
#
# A path is an order, not a fence: every lesson says what it needs. Hours a week are the plan's, yours may differ.
#
# **Not sure? Take Quick Start** (`quick-start`): the others begin like it. **Deep Dive** (`deep-dive`) is for
# those who will choose between techniques at work, **Production Ready** (`production-ready`) for those who will
# run models for others. Unknown words below are no obstacle: they are what you will learn.

# %% tags=["nbval-check-output"]
curriculum = lessonkit.load_curriculum(check_files=False)
for path in curriculum.paths:
    print(f"\n{path.emoji} {path.title}: {path.weeks_text}, {path.hours_text}\n   {path.goal}")
    for item in path.checklist:
        print(f"   [ ] {item.text}")

# %% [markdown]
# Which of these lessons are ready today, and which are still to be written? The course doesn't pretend:

# %%
for technique, cells in curriculum.grid_rows():
    statuses = [cell.status if cell else "N/A" for cell in cells]
    print(f"{technique.title:<18}" + "".join(f"{status:<18}" for status in statuses))
print("\nready:", ", ".join(each.title for each in curriculum.lessons if each.written))

# %% [markdown]
# Choose yours in the dashboard above, or in a terminal: `lessonkit path quick-start`, then `lessonkit next`.
#
# ## 6. Choose your starting point
#
# - **Complete beginner?** Read the [introduction to fine-tuning](../lessons/introduction/guide.md), then tick it with
#   `lessonkit tick introduction`.
# - **Ready to code?** Open [full fine-tuning, beginner](beginner/full-fine-tuning.ipynb): 85 minutes, a real model.
# - **Want efficiency?** Check out the [LoRA guide](../lessons/lora/guide.md).
# - **Limited resources?** Explore the [QLoRA guide](../lessons/qlora/guide.md); the first lesson runs on two CPU cores.
#
# One focus session is 25 minutes, then 5 of break; every section of every lesson fits into one, and the dashboard
# has the timer. When you are stuck for 15 minutes, stop: take the hint, or a walk. More of it: the
# [study tips](../lessons/study-tips.md).

# %%
lesson.record()

# %% [markdown]
# **Next:** the [introduction](../lessons/introduction/guide.md); if *loss*, *gradient* and *epoch* are familiar
# words, go straight to [full fine-tuning, beginner](beginner/full-fine-tuning.ipynb).
