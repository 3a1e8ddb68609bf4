"""From raw texts to a saved model with its card, step by step. What is done is kept; what was stopped goes on.

    python pipeline.py --config pipeline.toml [--until STEP] [--run FOLDER]

Each step writes into a folder of its own, named after the step and its *key*: a hash of all that its result depends
on, which is its settings, the contents of its inputs, and its code. The same key: nothing to do. Another key: another
folder. A folder without a record: the step was stopped, and goes on there. Exit status 0: the gate let the model pass,
or --until was reached; 1: it didn't; 2: a step failed, or the configuration is wrong.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import inspect
import json
import os
import sys
import time
import tomllib
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

import lessonkit

__all__ = ["main"]

SETTINGS = {  # the sections of the configuration, and what each must say
    "data": {"file", "text", "label", "cures", "fewest", "test", "validation", "seed"},
    "model": {"name", "target_modules", "max_length", "batch_size", "seed"},
    "search": {"trials", "steps", "learning_rate", "r", "seed"},
    "train": {"steps", "save_every"},
    "baseline": {"kind"},
    "release": {"allow_equal", "margin", "purpose"},
}

# ---- The steps: each gets the configuration, its own folder, and the folders of the steps that it uses ---------
# What is unfinished lies in folder/work; every other file in the folder is the step's result.


def check_data(config, folder, given):
    """raw table -> report.txt, names.json, train.csv, validation.csv, test.csv"""
    wanted = config["data"]
    report = lessonkit.check_texts(given["raw"], text=wanted["text"], label=wanted["label"])
    cured = report.cure(*wanted["cures"], fewest=wanted["fewest"])
    cured.check()  # stops here if there is nothing to train on
    shares = {name: wanted[name] for name in ("test", "validation", "seed")}
    parts = lessonkit.split_texts(cured.dataset, **shares)
    names = cured.dataset.features["label"].names
    write(folder / "report.txt", f"{report}\n\n{cured}\n")
    write(folder / "names.json", json.dumps(names))
    for part, rows in parts.items():
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *((r["text"], names[r["label"]]) for r in rows)])
    sizes = ", ".join(f"{len(rows)} {part}" for part, rows in parts.items())
    print(f"  {len(report.texts)} rows, {len(cured.dataset)} after the cures: {sizes}")


def read_part(data, part):
    """The texts, their class numbers, and the classes' names."""
    names = json.loads((data / "names.json").read_text(encoding="utf-8"))
    with (data / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [names.index(row["label"]) for row in rows], names


def make_trainer(config, data, folder, learning_rate, r, steps, save_every=0):
    """A plain Trainer for LoRA on the training texts; it saves every so many steps, or never."""
    import transformers
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model

    wanted, parts = config["model"], {}
    transformers.set_seed(wanted["seed"])
    tokenizer = lessonkit.load_tokenizer(wanted["name"])
    for part in ("train", "validation"):
        texts, labels, names = read_part(data, part)
        encoded = tokenizer(texts, truncation=True, max_length=wanted["max_length"])
        parts[part] = Dataset.from_dict({**encoded, "label": labels})
    kind = transformers.AutoModelForSequenceClassification
    model = lessonkit.load_model(wanted["name"], kind, num_labels=len(names))
    lora = LoraConfig(task_type="SEQ_CLS", r=r, lora_alpha=2 * r, target_modules=wanted["target_modules"])
    machine = lessonkit.training_arguments()  # what suits this machine
    machine["train_sampling_strategy"] = "random"  # a text's length may tell its label
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=learning_rate,
        warmup_steps=0.1,
        per_device_train_batch_size=wanted["batch_size"],
        seed=wanted["seed"],
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or steps,
        save_total_limit=2,
        disable_tqdm=True,
        **machine,
    )
    trainer = transformers.Trainer(
        get_peft_model(model, lora),
        arguments,
        train_dataset=parts["train"],
        eval_dataset=parts["validation"],
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def search(config, folder, given):
    """data -> best.json: the learning rate and rank of the lowest validation loss; work/search.db keeps all trials"""
    import optuna

    wanted = config["search"]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{folder / 'work' / 'search.db'}"
    study = optuna.create_study(study_name="search", storage=storage, load_if_exists=True)

    def validation_loss(trial):
        rate = trial.suggest_float("learning_rate", *wanted["learning_rate"], log=True)
        r = trial.suggest_categorical("r", wanted["r"])
        trainer = make_trainer(config, given["data"], folder / "work", rate, r, wanted["steps"])
        trainer.train()
        return trainer.evaluate()["eval_loss"]

    while (done := len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))) < wanted["trials"]:
        # A seed for each trial, so that a search that was stopped chooses as one that was not.
        study.sampler = optuna.samplers.TPESampler(seed=wanted["seed"] + done)
        study.optimize(validation_loss, n_trials=1)
        last = study.trials[-1]
        chosen = ", ".join(f"{name} {value:.2g}" for name, value in last.params.items())
        print(f"  trial {done + 1} of {wanted['trials']}: {chosen}, validation loss {last.value:.3f}")
    write(folder / "best.json", json.dumps({**study.best_params, "validation_loss": study.best_value}))


def train(config, folder, given):
    """data, search -> model/: the adapter, its tokenizer, and what its class numbers mean"""
    from transformers import TrainerCallback

    from lessonkit.training.checkpoints import newest_checkpoint  # passes over a half-written one

    class Tell(TrainerCallback):
        def on_save(self, args, state, control, **_):
            print(f"  saved at step {state.global_step} of {state.max_steps}")

    best = json.loads((given["search"] / "best.json").read_text(encoding="utf-8"))
    chosen = {"learning_rate": best["learning_rate"], "r": best["r"], **config["train"]}
    trainer = make_trainer(config, given["data"], folder / "work", **chosen)
    trainer.add_callback(Tell())
    saved = newest_checkpoint(folder / "work")
    if saved:
        print(f"  goes on from step {saved.step}")
    trainer.train(resume_from_checkpoint=str(saved.folder) if saved else None)
    # PEFT keeps the modules as a set, whose order changes from run to run, and the file's hash with it.
    trainer.model.peft_config["default"].target_modules = sorted(config["model"]["target_modules"])
    trainer.model.save_pretrained(folder / "model")
    trainer.processing_class.save_pretrained(folder / "model")  # the tokenizer
    write(folder / "model" / "label_names.json", (given["data"] / "names.json").read_text(encoding="utf-8"))


def evaluate(config, folder, given):
    """data, train -> predictions.jsonl, metrics.json, report.html"""
    told = {"text": "text", "label": "label", "max_length": config["model"]["max_length"], "output": folder}
    where = {"model": given["train"] / "model", "data": given["data"] / "test.csv"}
    result = lessonkit.evaluate(lessonkit.scoring.read_config(**where, **told))
    print(f"  {result}".splitlines()[0])


def baseline(config, folder, given):
    """data -> the same three files, of a simple way to do the task"""
    from sklearn.dummy import DummyClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    kind = config["baseline"]["kind"]
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    vectors = FunctionTransformer(frozen_vectors, kw_args={"wanted": config["model"]})
    way = {
        "majority": DummyClassifier(strategy="prior"),
        "counting": make_pipeline(pieces, LogisticRegression(C=100, max_iter=1000)),
        "frozen": make_pipeline(vectors, LogisticRegression(C=10, max_iter=1000)),
    }[kind]
    texts, labels, names = read_part(given["data"], "train")
    way.fit(texts, labels)
    told = {"text": "text", "label": "label", "data": given["data"] / "test.csv", "output": folder}
    settings = lessonkit.scoring.read_config(model=f"baseline: {kind}", **told)
    known = [names[each] for each in way.classes_]
    result = lessonkit.scoring.evaluate_function(settings, way.predict_proba, known)
    print(f"  {result}".splitlines()[0])


def frozen_vectors(texts, wanted):
    """What the untrained base model makes of each text: the mean of its tokens' vectors, scaled to length 1."""
    import torch

    tokenizer, model = lessonkit.load_tokenizer(wanted["name"]), lessonkit.load_model(wanted["name"]).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            batch = tokenizer(text, truncation=True, max_length=wanted["max_length"], return_tensors="pt")
            rows.append(torch.nn.functional.normalize(model(**batch).last_hidden_state[0].mean(0), dim=0))
    return torch.stack(rows).numpy()


def release(config, folder, given):
    """evaluate, baseline, train -> verdict.json, and, if the gate lets it pass, model/: whole, with its card"""
    wanted = config["release"]
    allowed = {"allow_equal": wanted["allow_equal"], "margin": wanted["margin"]}
    gate = lessonkit.gate(given["evaluate"], given["baseline"], **allowed)
    print("  " + str(gate).replace("\n", "\n  "))
    if gate.passed:
        scored = lessonkit.scoring.load_scored_model(given["train"] / "model", device="cpu")
        whole = scored.model.merge_and_unload()  # a plain model, without PEFT
        whole.config.id2label = dict(enumerate(scored.names))
        whole.config.label2id = {name: number for number, name in enumerate(scored.names)}
        whole.save_pretrained(folder / "model")
        scored.tokenizer.save_pretrained(folder / "model")
        write(folder / "model" / "README.md", card(config, given, gate))
    write(folder / "verdict.json", json.dumps(gate.to_dict(), indent=1))


def card(config, given, gate):
    """The model card: what it is for, what it was made of, how it was judged, where it is weak."""
    scores = lessonkit.scoring.read_evaluation(given["evaluate"]).metrics
    best = json.loads((given["search"] / "best.json").read_text(encoding="utf-8"))
    trained, tested = (len(read_part(given["data"], part)[0]) for part in ("train", "test"))
    low, high = scores["accuracy_interval"]
    classes = [
        f"| {name} | {each['n']} | {each['precision']:.2f} | {each['recall']:.2f} |\n"
        for name, each in scores["classes"].items()
    ]
    return f"""---
library_name: transformers
pipeline_tag: text-classification
---
# {config["release"]["purpose"]}

Gives a text one of the labels {", ".join(scores["names"])}. Base model: {config["model"]["name"]}, fine-tuned with LoRA
(rank {best["r"]}, learning rate {best["learning_rate"]:.2g}, {config["train"]["steps"]} steps) and merged.

**Data:** {config["data"]["file"]}, checked and mended; {trained} texts to train on, {tested} to test with.

**Scores:** accuracy {scores["accuracy"]:.3f} (95 % interval {low:.3f} to {high:.3f}), macro-F1 {scores["macro_f1"]:.3f};
always the most frequent label: {scores["majority_accuracy"]:.3f}. Against the baseline, {config["baseline"]["kind"]}:
{gate.reasons[0]}.

| label | test texts | precision | recall |
|---|---|---|---|
{"".join(classes)}
**Limits:** every text gets a label, also one that fits none; nothing is known of texts unlike those of the test.

**Made by** the steps {", ".join(each.name for each in given.values())}, with lessonkit {lessonkit.__version__}.
"""


# ---- What depends on what ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """does: its function. uses: the steps whose results it reads. settings: the sections of the configuration that it
    reads. helpers: the functions that it calls; their code counts as its own.
    """

    does: Callable
    uses: tuple[str, ...]
    settings: tuple[str, ...]
    helpers: tuple[Callable, ...] = ()


STEPS = {  # in the order in which they run
    "data": Step(check_data, (), ("data",)),
    "search": Step(search, ("data",), ("model", "search"), (make_trainer, read_part)),
    "train": Step(train, ("data", "search"), ("model", "train"), (make_trainer, read_part)),
    "evaluate": Step(evaluate, ("data", "train"), ("model",)),
    "baseline": Step(baseline, ("data",), ("model", "baseline"), (read_part, frozen_vectors)),
    "release": Step(
        release, ("data", "search", "train", "evaluate", "baseline"), tuple(SETTINGS), (card, read_part)
    ),
}


def run_step(name, config, run, raw, done):
    """Run the step, go on with it, or keep what it made; its folder, and which of the three it was."""
    step = STEPS[name]
    given = {used: done[used] for used in step.uses} or {"raw": raw}
    inputs = {} if step.uses else {"raw": hashed(raw.read_bytes())}
    for used in step.uses:
        record = json.loads((done[used] / "record.json").read_text(encoding="utf-8"))
        inputs |= {f"{used}/{file}": content for file, content in record["outputs"].items()}
    depends = {
        "step": name,
        "settings": {section: config[section] for section in step.settings},
        "inputs": inputs,
        "code": hashed("".join(inspect.getsource(each) for each in (step.does, *step.helpers)).encode()),
    }
    folder = run / f"{name}-{hashed(json.dumps(depends, sort_keys=True).encode())[:8]}"
    if is_finished(folder):
        return folder, "kept"
    status = "gone on with" if folder.exists() else "run"
    print(f"{name}: {'goes on' if folder.exists() else 'starts'} in {folder.name}")
    (folder / "work").mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    step.does(config, folder, given)
    about = {"seconds": round(time.perf_counter() - start, 2), "finished": time.strftime("%Y-%m-%d %H:%M:%S")}
    record = {**depends, "outputs": outputs(folder), **about}
    write(folder / "record.json", json.dumps(record, indent=1))  # last: without it the step counts as stopped
    return folder, status


def hashed(content):
    """The fingerprint of bytes."""
    return hashlib.sha256(content).hexdigest()


def outputs(folder):
    """The fingerprint of each file that the step made."""
    files = {
        each.relative_to(folder).as_posix(): each for each in sorted(folder.rglob("*")) if each.is_file()
    }
    results = {
        name: each for name, each in files.items() if name.split("/")[0] not in ("work", "record.json")
    }
    return {name: hashed(each.read_bytes()) for name, each in results.items()}


def is_finished(folder):
    """Whether the step has left its record, and its results are what it recorded."""
    try:
        return json.loads((folder / "record.json").read_text(encoding="utf-8"))["outputs"] == outputs(folder)
    except (OSError, ValueError):
        return False


def write(path, text):
    """All or nothing: a kill leaves the old file or the new one."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, path)


def read_settings(path):
    """The configuration; ends the program if something is unknown or missing in it."""
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    there = {f"[{section}] {name}" for section, each in config.items() for name in each}
    wanted = {f"[{section}] {name}" for section, names in SETTINGS.items() for name in names}
    if there != wanted:
        print(f"{path}: unknown {sorted(there - wanted)}, missing {sorted(wanted - there)}")
        raise SystemExit(2)
    return config


def main(arguments=None):
    """Run the steps in order; the exit status."""
    parser = argparse.ArgumentParser(description="From raw texts to a saved model with its card.")
    parser.add_argument("--config", type=Path, default=Path("pipeline.toml"))
    parser.add_argument("--until", choices=STEPS, default="release", help="the last step to run")
    parser.add_argument(
        "--run", type=Path, help="where the steps' folders lie; run, beside the configuration"
    )
    chosen = parser.parse_args(arguments)
    config = read_settings(chosen.config)
    run = chosen.run or chosen.config.parent / "run"
    run.mkdir(parents=True, exist_ok=True)
    done, status = {}, {}
    with FileLock(run / ".lock", timeout=0):  # one pipeline at a time
        for name in STEPS:
            try:
                raw = chosen.config.parent / config["data"]["file"]
                done[name], status[name] = run_step(name, config, run, raw, done)
            except Exception as error:
                traceback.print_exc()
                print(f"{name} failed: {error}\nThe same command goes on from here.")
                return 2
            print(f"{name}: {status[name]}, {done[name].name}")
            if name == chosen.until:
                break
        summary = {name: {"status": status[name], "folder": done[name].name} for name in done}
        write(run / "last.json", json.dumps({"config": config, "steps": summary}, indent=1))
        if "release" not in done:
            return 0
        if not json.loads((done["release"] / "verdict.json").read_text(encoding="utf-8"))["passed"]:
            print("Not released: the gate did not let the model pass.")
            return 1
        write(run / "released.json", json.dumps({"model": f"{done['release'].name}/model"}))
        print(f"Released: {done['release'].name}/model")
        return 0


if __name__ == "__main__":
    warnings.filterwarnings(
        "ignore", category=FutureWarning
    )  # of PEFT, which calls transformers by old names
    sys.stdout.reconfigure(line_buffering=True)  # whoever reads along sees each line at once
    raise SystemExit(main())
