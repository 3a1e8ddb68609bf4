"""Trouble without an error: what a log shows when a training goes wrong quietly."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="The loss is nan",
        errors=(),
        pattern=r"['\"]?(?:loss|grad_norm)['\"]?\s*[:=]\s*['\"]?nan\b|\bloss (?:is|becomes|turned|turns) (?:to )?nan\b",
        example="{'loss': '0', 'grad_norm': 'nan', 'learning_rate': '0.001', 'epoch': '0.5'}",
        meaning="A result is no number any more (nan: not a number), and so is everything computed with it: the weights "
        "too. `Trainer` leaves nan out of the loss that it prints: the log says 0, or a number that looks healthy, "
        "and only `grad_norm` says nan.",
        cause="The learning rate is too high, float16 overflowed, or a batch had no label that counts (all -100), so "
        "that zero was divided by zero.",
        cure=(
            "Load the model anew: the weights of this run are spoiled.",
            "Divide the learning rate by ten; full fine-tuning rarely wants more than 5e-5, LoRA rarely more than 5e-4.",
            "Use bfloat16 (`bf16=True`, on a CPU with `use_cpu=True`) or float32 instead of float16.",
            "To see each nan in the log: `logging_nan_inf_filter=False` in `TrainingArguments`.",
            "Look for rows whose labels are all -100; `lessonkit.run(trainer)` looks for you and stops at the first nan.",
        ),
        before="learning_rate=1e-2, fp16=True",
        after="learning_rate=2e-5, bf16=True",
        lesson="beginner/full-fine-tuning",
        reproduced=False,
    ),
    Entry(
        title="The loss does not fall",
        errors=(),
        pattern=r"\bloss (?:does not|doesn't|is not|isn't|won't|never) (?:fall|falling|decrease|decreasing|go down|"
        r"going down|change|changing|improve|improving)\b|\bloss (?:stays|is stuck|stuck|remains)\b",
        example="loss stays at 0.693 (two classes), 1.099 (three), 2.079 (eight)",
        meaning="A classifier that guesses has a loss of the natural logarithm of the number of classes, `math.log(8)` = "
        "2.079. A loss that stays there has learned nothing.",
        cause="The part that should learn is frozen, the learning rate is far too low or far too high, or the labels do "
        "not belong to their texts.",
        cure=(
            "Count what is trained: `model.print_trainable_parameters()` with PEFT, else "
            "`sum(p.numel() for p in model.parameters() if p.requires_grad)`. Is the head among it?",
            "Read ten rows of the training data, text beside label.",
            "Train on 16 rows until the loss is near 0. If that fails, it is a mistake in the code, not the data.",
            "Then try the learning rate times 10, and divided by 10.",
        ),
        lesson="beginner/full-fine-tuning",
        reproduced=False,
    ),
    Entry(
        title="The loss is zero from the start",
        errors=(),
        pattern=r"['\"]?loss['\"]?\s*[:=]\s*['\"]?0(?:\.0+)?['\"]?(?=[,}\s]|$)(?!\s*,?\s*['\"]?grad_norm['\"]?\s*[:=]\s*['\"]?nan)"
        r"|\bloss (?:is|of) (?:zero|0(?:\.0+)?)(?![.\d])",
        example="{'loss': '0', 'grad_norm': '0', 'learning_rate': '2e-05', 'epoch': '0.1'}",
        meaning="There is nothing to be wrong about: no label counts, or the answer is in the input.",
        cause="All labels are -100 (the answer was cut off by `max_length`, or the mask covers all of it), or the label "
        "is part of the text.",
        cure=(
            "Look at `grad_norm` in the same line. If it says nan, the loss is nan, too: see "
            "[The loss is nan](#the-loss-is-nan).",
            "Count the labels that count: `sum(each != -100 for each in row['labels'])` for a few rows.",
            "Read a batch as the model gets it: `tokenizer.decode(batch['input_ids'][0])`.",
            "Leave room for the answer: a longer `max_length`, or a shorter prompt.",
        ),
        reproduced=False,
    ),
    Entry(
        title="The kernel died",
        errors=(),
        pattern=r"\b[Kk]ernel\b[^\n]{0,80}\b(?:died|dead|has crashed)\b|\b[Kk]ernel Restarting\b|^\s*Killed\s*$",
        example="The kernel for 00-start-here.ipynb appears to have died. It will restart automatically.",
        meaning="The system ended the Python behind this notebook, without a traceback. Its variables are lost; what was "
        "saved is not.",
        cause="Almost always the memory was full, and the system ended the program that held most of it.",
        cure=(
            "Close other notebooks and programs, then run the cells from the top. Other kernels are listed under the circle "
            "with a square in it, at the left edge of JupyterLab.",
            "Halve `per_device_train_batch_size`, shorten `max_length`, or take a smaller model. What would fit: "
            "`lessonkit plan --config minilm`, or your model's `config.json`.",
            "A training goes on from its newest checkpoint: `lessonkit.run(trainer, resume=True)`.",
        ),
        before="per_device_train_batch_size=32, gradient_accumulation_steps=1",
        after="per_device_train_batch_size=8, gradient_accumulation_steps=4",
        reproduced=False,
    ),
    Entry(
        title="The same accuracy for every model",
        errors=(),
        pattern=r"\baccuracy (?:stays|is stuck|stuck|does not change|doesn't change|never changes|is always the same)\b",
        example="accuracy stays at 0.495, whatever is changed",
        meaning="The model says the same class to every text: its accuracy is the share of the largest class.",
        cause="It has not learned (see [The loss does not fall](#the-loss-does-not-fall)), or one class is so frequent "
        "that naming it is the best guess so far.",
        cure=(
            "Count the predictions: `collections.Counter(predictions.tolist())`.",
            "Compare with the majority baseline, and look at macro-F1 too: it falls where classes are never named.",
            "Train longer or with a higher learning rate; give rare classes more rows or more weight.",
        ),
        reproduced=False,
    ),
)
