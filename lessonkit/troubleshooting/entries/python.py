"""Errors of Python, of the notebook and of files."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="A package that this Python does not have",
        errors=("ModuleNotFoundError", "ImportError"),
        pattern=r"^No module named |^Using the `Trainer` with `PyTorch` requires",
        example="No module named 'lessonkit'",
        meaning="The package is not installed in the Python that runs this notebook. A computer can have several.",
        cause="The notebook runs in another kernel than the one that was set up (mostly), or the package was installed "
        "after the kernel had started, or into another Python.",
        cure=(
            "In JupyterLab choose Kernel > Change Kernel and take the project's; `python start.py` opens JupyterLab "
            "with the right one.",
            "See which Python it is: `import sys; print(sys.executable)`.",
            "Install into that very Python: `%pip install NAME` in a cell, then restart the kernel.",
        ),
        before="!pip install peft        # may be another Python's pip",
        after="%pip install peft        # this kernel's own",
        general=True,
    ),
    Entry(
        title="A command that the terminal does not find",
        errors=(),
        pattern=r"lessonkit: (?:command )?not found|command not found: lessonkit|'lessonkit' is not recognized|"
        r"The term 'lessonkit' is not recognized",
        example="bash: lessonkit: command not found",
        meaning="The terminal looks in some folders for commands, and `lessonkit` is in none of them.",
        cause="The project's environment `.venv` is not active in this terminal.",
        cure=(
            "In the project's folder type `source .venv/bin/activate`, on Windows `.venv\\Scripts\\activate`.",
            "There is no folder `.venv` yet: `python start.py` makes it.",
            "In a notebook no terminal is needed: `!lessonkit next` in a cell.",
        ),
        reproduced=False,
    ),
    Entry(
        title="A name that nobody has defined yet",
        errors=("NameError",),
        pattern=r"name '\w+' is not defined",
        example="name 'model' is not defined",
        meaning="Python knows nothing of that name, in this kernel, at this moment.",
        cause="The kernel was restarted (it forgets all), or the cell that defines the name has not been run; sometimes it "
        "is a typo.",
        cure=(
            "Run all cells above this one: Run > Run All Above Selected Cell.",
            "Still there? Check the spelling; capitals matter.",
        ),
        general=True,
    ),
    Entry(
        title="A name that the library no longer has",
        errors=("ImportError",),
        pattern=r"^cannot import name '\w+' from ",
        example="cannot import name 'AdamW' from 'transformers'",
        meaning="The package is there, and has nothing of that name.",
        cause="Code for another version: `AdamW` left `transformers` and lives in `torch.optim`. Or a file of yours has the "
        "name of a package (`datasets.py`, `random.py`) and is found first.",
        cure=(
            "`from torch.optim import AdamW`; for other names, look into the library's migration guide or release notes.",
            "See which file was found: `import transformers; print(transformers.__version__, transformers.__file__)`. If it "
            "is yours, rename it.",
        ),
        before="from transformers import AdamW",
        after="from torch.optim import AdamW",
        packages=("transformers",),
        general=True,
    ),
    Entry(
        title="A list where a tensor is wanted",
        errors=("AttributeError",),
        pattern=r"'list' object has no attribute '(?:to|size|shape|dim|device|cuda|float|long|view|unsqueeze|squeeze)'",
        example="'list' object has no attribute 'size'",
        meaning="A model takes tensors, and got Python lists of numbers.",
        cause="The tokenizer returns lists unless it is asked for tensors.",
        cure=(
            "Ask for tensors: `tokenizer(texts, return_tensors='pt', padding=True, truncation=True)`.",
            "A dataset: `dataset.set_format('torch')`, or a collator in the `DataLoader`.",
        ),
        before='model(tokenizer(texts)["input_ids"])',
        after='model(**tokenizer(texts, return_tensors="pt", padding=True, truncation=True))',
        packages=("transformers",),
    ),
    Entry(
        title="A batch passed without its two stars",
        errors=("AttributeError",),
        pattern=r"^$",
        example="",
        meaning="An error without a word: a model was given the tokenizer's whole result as if it were `input_ids`.",
        cause="`model(batch)` instead of `model(**batch)`. The two stars hand the entries over by name.",
        cure=("Write `model(**batch)`.",),
        before='model(tokenizer(text, return_tensors="pt"))',
        after='model(**tokenizer(text, return_tensors="pt"))',
        packages=("transformers",),
        general=True,
    ),
    Entry(
        title="The model's whole answer where logits are wanted",
        errors=("TypeError",),
        pattern=r"must be Tensor, not \w*Output",
        example="cross_entropy_loss(): argument 'input' (position 1) must be Tensor, not SequenceClassifierOutput",
        meaning="A model returns an object with several parts, and a function of PyTorch wants one tensor.",
        cause="`.logits` was left out.",
        cure=("Take the part: `model(**batch).logits`.",),
        before="cross_entropy(model(**batch), labels)",
        after="cross_entropy(model(**batch).logits, labels)",
        packages=("torch", "transformers"),
    ),
    Entry(
        title="A text without its batch dimension",
        errors=("ValueError",),
        pattern=r"^not enough values to unpack \(expected 2, got 1\)",
        example="not enough values to unpack (expected 2, got 1)",
        meaning="Two things were expected and one came. In a model call: `input_ids` has one dimension, and a model wants "
        "two, (batch, sequence).",
        cause="A single row was taken out of a dataset and put into the model. In a loop of your own: `for a, b in ...` "
        "over single values.",
        cure=(
            "Make a batch of one: `input_ids.unsqueeze(0)`, or tokenize with `return_tensors='pt'`.",
            "Print `input_ids.shape`: it must have two numbers.",
        ),
        before='model(input_ids=dataset[0]["input_ids"])',
        after='model(input_ids=dataset[0]["input_ids"].unsqueeze(0))',
        packages=("transformers",),
        general=True,
    ),
    Entry(
        title="A file that is not where Python looks",
        errors=("FileNotFoundError",),
        pattern=r"\[Errno 2\] No such file or directory|^Unable to find '",
        example="[Errno 2] No such file or directory: 'data/train.csv'",
        meaning="There is no such file, seen from the folder that the notebook runs in.",
        cause="A relative path begins at the notebook's folder, not at the project's; or there is a typo in the name.",
        cure=(
            "See where you are and what is there: `from pathlib import Path; print(Path.cwd(), list(Path().iterdir()))`.",
            "Give the whole path, or go up first: `Path('..') / 'data' / 'train.csv'`.",
        ),
        before='open("data/train.csv")',
        after='open(Path.home() / "project" / "data" / "train.csv")',
        packages=("datasets",),
    ),
    Entry(
        title="The disk is full",
        errors=("OSError", "RuntimeError"),
        pattern=r"\[Errno 28\]|\[Errno 122\]|Disk quota exceeded|No space left on device|"
        r"basic_ios::clear: iostream error|PytorchStreamWriter failed",
        example="[Errno 28] No space left on device",
        meaning="There is no room left on the disk, or none for your account.",
        cause="Checkpoints: each holds the model and, for full fine-tuning, twice as much again for the optimiser.",
        cure=(
            "See what takes the room: `!du -sh ../outputs/*` in a cell (on Windows, look in the Explorer). Delete old "
            "`checkpoint-...` folders.",
            "Keep fewer: `save_total_limit=1`, or `save_only_model=True` if you will not resume.",
        ),
        before='TrainingArguments("out", save_steps=50)',
        after='TrainingArguments("out", save_steps=50, save_total_limit=1)',
    ),
    Entry(
        title="NumPy of another generation",
        errors=("ValueError", "ImportError", "AttributeError"),
        pattern=r"numpy\.dtype size changed|compiled using NumPy 1\.x cannot be run in NumPy",
        example="numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header, got 88 from "
        "PyObject",
        meaning="A package was built for another NumPy than the one that is installed.",
        cause="NumPy was upgraded or downgraded under a running kernel, or below packages built for the other.",
        cure=(
            "Restart the kernel first: often that is all.",
            "`python start.py` puts the tested versions back. On Colab: Runtime > Disconnect and delete runtime.",
        ),
        packages=("numpy",),
        reproduced=False,
    ),
)
