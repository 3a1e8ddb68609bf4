"""All five techniques on one task and one budget, an encoder's and a decoder's: quality, parameters, memory, time, size.

python benchmarks/techniques.py [--seeds 3] [--tasks encoder decoder] [--fresh]

Each technique gets its learning rate by the same search: three rates, each with the whole budget, judged on texts held out
of the training split, and further ones while the best is at an edge. (A shorter search would favour rates at which longer
trainings fall apart.) Then it is trained with the other seeds too, and scored on the test split. Every training is a process
of its own, so that its peak memory is its own; latency is measured apart, all techniques in turns. What is finished is kept
in outputs/, and a second start goes on after it; --fresh begins anew. Then the claims of the overview are judged by what was
measured.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from saving import save
from technique_claims import judge
from technique_tasks import RANK, TASKS, TECHNIQUES, VIRTUAL_TOKENS, Task, latencies, measure, texts

import lessonkit
from lessonkit.errors import TrainingError
from lessonkit.evaluation.bootstrap import percentile_interval, resamples

KEPT = Path(__file__).resolve().parent.parent / "outputs" / "benchmarks" / "techniques.jsonl"
MOST_RATES = 6  # that a technique's search may try
SHOWN = ("validation", "quality", "core_seconds", *TECHNIQUES)
NAMES = {
    "full": "Full fine-tuning",
    "lora": f"LoRA, r = {RANK}",
    "qlora": f"QLoRA, r = {RANK}",
    "prompt": f"Prompt tuning, {VIRTUAL_TOKENS} tokens",
    "adapters": "Adapters, bottleneck {}",
}


def once(order: dict[str, Any]) -> dict[str, Any]:
    """One training in a process of its own, or its result from an earlier start."""
    key = json.dumps(order, sort_keys=True)
    for line in KEPT.read_text(encoding="utf-8").splitlines() if KEPT.exists() else []:
        kept = json.loads(line)
        if kept["order"] == key:
            return kept["found"]
    print(f"  {key}", flush=True)
    done = subprocess.run([sys.executable, __file__, "--one", key], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{key} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with KEPT.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"order": key, "found": found}) + "\n")
    print(f"    {', '.join(f'{name} {found[name]:.4g}' for name in SHOWN if name in found)}", flush=True)
    return found


def order(name: str, technique: str, rate: float, seed: int) -> dict[str, Any]:
    """What a training is told; the task's sizes are in it, so that a change of them is no old result."""
    task = TASKS[name]
    sizes = [task.texts, task.validation_texts, task.test_texts]
    sizes += [task.length, task.batch, task.epochs, task.bottleneck]
    return {"task": name, "technique": technique, "rate": rate, "seed": seed, "sizes": sizes}


def best_rate(name: str, technique: str, seed: int) -> tuple[float, dict[str, float]]:
    """The rate whose training with this seed scored best on the validation texts, and all scores by rate.

    While the best is the highest or the lowest tried, the next one beyond is tried too: whichever technique that
    befalls, so that none is judged at the edge of a grid that somebody guessed.
    """
    better = max if name == "encoder" else min
    found = {}
    for rate in TASKS[name].rates[technique]:
        found[rate] = once(order(name, technique, rate, seed))["validation"]
    while len(found) < MOST_RATES:
        chosen = better(found, key=found.get)
        if min(found) < chosen < max(found):
            break
        beyond = next_rate(chosen, 1 if chosen == max(found) else -1)
        found[beyond] = once(order(name, technique, beyond, seed))["validation"]
    return better(found, key=found.get), {f"{rate:g}": round(found[rate], 4) for rate in sorted(found)}


def next_rate(rate: float, direction: int) -> float:
    """The next of 1, 2, 5, 10, 20, 50... (times a power of ten), upwards or downwards."""
    power = math.floor(math.log10(rate) + 1e-9)
    ladder = [float(f"{step}e{exponent}") for exponent in range(power - 1, power + 2) for step in (1, 2, 5)]
    place = min(range(len(ladder)), key=lambda at: abs(math.log(ladder[at] / rate)))
    return ladder[place + direction]


def measured_rows(name: str, seeds: list[int]) -> tuple[list[dict[str, Any]], dict[str, list[list[float]]]]:
    """A row for each technique, and each technique's scores of single texts, by seed."""
    task, rows, single = TASKS[name], [], {}
    total = lessonkit.predict_memory(task.model, "full", **_shape(task, "full")).total_parameters
    for technique in TECHNIQUES:
        rate, tried = best_rate(name, technique, seeds[0])
        runs = [once(order(name, technique, rate, seed)) for seed in seeds]
        single[technique] = [run["scores"] for run in runs]
        plan = lessonkit.predict_memory(task.model, technique, **_shape(task, technique))
        own = runs[0]["trained_parameters"] - runs[0]["head_parameters"]
        row = {
            "name": NAMES[technique].format(task.bottleneck),
            "technique": technique,
            "rate": rate,
            "rates_tried": tried,
            "trained_parameters": runs[0]["trained_parameters"],
            "head_parameters": runs[0]["head_parameters"],
            "share_of_parameters": runs[0]["trained_parameters"] / total,
            "own_share": own / total,
            "predicted_peak_bytes": plan.peak_bytes,
            "saved_bytes": runs[0]["saved_bytes"],
            "base_matrix_bytes": runs[0]["base_matrix_bytes"],
            "threads": runs[0]["threads"],
        }
        for key in ("quality", "macro_f1", "core_seconds", "peak_bytes"):
            values = [run[key] for run in runs if key in run]
            if values:
                row |= {key: float(np.mean(values)), f"{key}_spread": float(np.ptp(values))}
        rows.append(row | {"n": runs[0]["n"]})
    latency = once({"task": name, "latencies": True})
    for row in rows:
        row["latency_milliseconds"] = latency[row["technique"]]
        row |= relative(name, single[row["technique"]], single["full"])
    return [baseline(name, task), *rows], single


def _shape(task: Task, technique: str) -> dict[str, Any]:
    """The task's step, as ``predict_memory`` takes it."""
    hardware = lessonkit.detect_hardware()
    options: dict[str, Any] = {
        "batch_size": task.batch,
        "sequence_length": task.length,
        "dtype": "float32",
        "mixed_precision": hardware.bf16,
        "optimizer": "adamw_torch_fused",
    }
    if task.model == "minilm":
        options |= {"task": "sequence-classification", "num_labels": 8}
    if technique in ("lora", "qlora"):
        options |= {"r": RANK, "target_modules": task.targets}
    elif technique == "prompt":
        options |= {"num_virtual_tokens": VIRTUAL_TOKENS}
    elif technique == "adapters":
        options |= {"bottleneck": task.bottleneck}
    return options


def relative(name: str, scores: list[list[float]], full: list[list[float]]) -> dict[str, Any]:
    """Quality over full fine-tuning's, with its 95 % interval; texts and seeds are drawn, both techniques' together.

    For the encoder the ratio of accuracies; for the decoder the ratio of full fine-tuning's perplexity to this one's, so
    that 1 is equal and less is worse in both.
    """
    ours, theirs = np.array(scores, dtype=float), np.array(full, dtype=float)  # (seeds, texts)
    tokens = TASKS[name].length - 1  # a passage's first token has nothing before it

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        if name == "encoder":
            return float(a.mean() / b.mean())
        return float(np.exp(b.mean() / tokens - a.mean() / tokens))

    draws = np.random.default_rng(0)
    drawn = []
    for places in resamples(ours.shape[1]):
        seeds = draws.integers(0, len(ours), len(ours))
        drawn.append(ratio(ours[seeds][:, places], theirs[seeds][:, places]))
    low, high = percentile_interval(drawn)
    return {"of_full": ratio(ours, theirs), "of_full_interval": [low, high]}


def baseline(name: str, task: Task) -> dict[str, Any]:
    """The majority class, or the model before training, on the same texts."""
    if name == "encoder":
        data = lessonkit.load_dataset("reuters-r8")
        quality = lessonkit.majority_baseline(data["train"]["label"], data["test"]["label"])
        return {"name": "Majority class", "technique": "", "quality": quality, "n": len(data["test"])}
    *_, test = texts(task, 0)
    scored = lessonkit.perplexity(lessonkit.load_model(task.model), test, batch_size=8)
    return {"name": "Untrained", "technique": "", "quality": scored.perplexity, "n": scored.n}


def _one(told: dict[str, Any]) -> dict[str, Any]:
    """What ``once`` asks a process of its own."""
    task = TASKS[told["task"]]
    if told.get("latencies"):
        return latencies(task)
    try:
        found = measure(task, told["technique"], told["rate"], told["seed"])
    except TrainingError as error:  # a rate so high that the loss is no number any more: never chosen
        print(error, file=sys.stderr)
        return {"validation": 0.0 if told["task"] == "encoder" else 1e9}
    if not math.isfinite(found["quality"]):
        sys.exit(f"the quality is {found['quality']}")
    return found


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--fresh", action="store_true", help="forget the trainings of an earlier start")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        told = json.loads(options.one)
        print(json.dumps(_one(told)))
        return
    if options.fresh:
        KEPT.unlink(missing_ok=True)
    seeds = list(range(options.seeds))
    found = {name: measured_rows(name, seeds)[0] for name in options.tasks}
    rows = [row | {"task": name} for name in found for row in found[name]]
    save(
        "techniques",
        rows,
        tasks={
            name: {"name": TASKS[name].name, "texts": TASKS[name].texts, "length": TASKS[name].length}
            | {"batch": TASKS[name].batch, "epochs": TASKS[name].epochs}
            | {"n": found[name][0]["n"]}
            for name in found
        },
        seeds=seeds,
        threads=found[options.tasks[0]][1]["threads"],
        head_parameters=max(row.get("head_parameters", 0) for row in rows if row["technique"] == "lora"),
        claims=judge(rows),
    )


if __name__ == "__main__":
    main()
