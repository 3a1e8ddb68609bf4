"""Render the tables between result markers from `results/*.json`; numbers are never typed by hand.

    python tools/render_results.py           rewrite the tables
    python tools/render_results.py --check   change nothing; exit 1 if a table and its JSON disagree

A table stands between `<!-- results: NAME -->` and `<!-- /results -->` and renders `results/NAME.json`; `NAME/VIEW` is
another view of the same file.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- results: ([\w/-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def full_fine_tuning(measured: dict[str, Any]) -> Iterator[str]:
    """The beginner lesson's training beside its baseline."""
    yield "| | test accuracy | macro-F1 | training | peak memory |"
    yield "|---|---|---|---|---|"
    for row in measured["rows"]:
        cells = [row["name"], f"{row['accuracy']:.3f}", "", "", ""]
        if "seconds" in row:
            cells[1] += f" ± {row['accuracy_spread'] / 2:.3f}"
            cells[2] = f"{row['macro_f1']:.3f} ± {row['macro_f1_spread'] / 2:.3f}"
            cells[3] = f"{row['seconds']:.0f} s"
        if "peak_bytes" in row:
            cells[4] = f"{row['peak_bytes'] / 2**30:.1f} GiB (whole process)"
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield (
        f"{measured['task']}, official test split, n = {measured['test_texts']:,}; {measured['train_texts']:,} training "
        f"texts; mean of {len(measured['seeds'])} seeds, ± half their range. {_measured_on(measured)}"
    )


def attention_on_cpu(measured: dict[str, Any]) -> Iterator[str]:
    """Plain against fused attention."""
    yield "| one training step | plain attention | fused kernel (SDPA) |"
    yield "|---|---|---|"
    for row in measured["rows"]:
        yield f"| {row['name']} | {row['eager_milliseconds']:.0f} ms | {row['sdpa_milliseconds']:.0f} ms |"
    yield ""
    yield f"{measured['model']}, median of {measured['rounds']} alternating rounds. {_measured_on(measured)}"


def memory_foresight(measured: dict[str, Any]) -> Iterator[str]:
    """Predicted beside measured peaks on the CPU."""
    yield "| one training step | predicted | measured | error |"
    yield "|---|---|---|---|"
    for row in measured["rows"]:
        sizes = [f"{row[f'{kind}_bytes'] / 2**20:,.1f} MiB" for kind in ("predicted", "measured")]
        yield f"| {row['name']} | {' | '.join(sizes)} | {100 * row['error']:+.2f} % |"
    yield ""
    yield (
        f"Live tensors at the fullest moment of the second step; median error {100 * measured['median_error']:.2f} %, "
        f"worst {100 * measured['worst_error']:.2f} %, slowest prediction "
        f"{measured['slowest_prediction_seconds']:.1f} s. {_measured_on(measured)}"
    )


def memory_published(measured: dict[str, Any]) -> Iterator[str]:
    """Predicted peaks beside what others measured on a GPU."""
    yield "| Llama-3.2-3B, bfloat16, 4 x 768 tokens | predicted | published | error | file of the measurement |"
    yield "|---|---|---|---|---|"
    for row in measured["rows"]:
        sizes = [f"{row[f'{kind}_bytes'] / 1e9:.1f} GB" for kind in ("predicted", "published")]
        yield f"| {row['name']} | {' | '.join(sizes)} | {100 * row['error']:+.1f} % | {row['source']} |"
    yield ""
    yield (
        f"Predicted without weights and without a GPU; median error {100 * measured['median_error']:.1f} %, worst "
        f"{100 * measured['worst_error']:.1f} %. The allocator's 2.5 % in it were chosen from these runs, the tensors were "
        "not fitted to anything. Published: the most memory that PyTorch reserved on an L40S, in PEFT's method comparison "
        "(github.com/huggingface/peft, method_comparison/MetaMathQA); the last row as reported elsewhere. "
        f"{_measured_on(measured)}"
    )


def survival(measured: dict[str, Any]) -> Iterator[str]:
    """Disturbed trainings, and whether they ended as undisturbed ones do."""
    yield "| disturbed trainings | number | ended with all steps | went on from a checkpoint | weights as undisturbed |"
    yield "|---|---|---|---|---|"
    for row in measured["rows"]:
        if "largest_weight_difference" in row:
            same = f"largest difference {row['largest_weight_difference']:.1e}"
        else:
            same = f"{row['same_weights']} bit for bit"
        went_on = row.get("from_checkpoint", "no need")
        yield f"| {row['name']} | {row['runs']} | {row['survived']} | {went_on} | {same} |"
    yield ""
    yield (
        "Kills at a random moment of a random step, after the first and before the last; so that trainings this short have "
        "checkpoints, one was written after every step, not as usual for 2 % of the time. "
        f"{_measured_on(measured)}"
    )


def speed(measured: dict[str, Any]) -> Iterator[str]:
    """Tokens a second of the same training, three ways."""
    ways = {
        "default_trainer": "`Trainer`, default arguments",
        "plain_loop": "plain fp32 loop",
        "lessonkit": "the lessons' arguments",
    }
    yield f"| | {' | '.join(ways.values())} | times the default | share of the matrix peak |"
    yield "|---|---|---|---|---|---|"
    for row in measured["rows"]:
        cells = [
            f"{row[f'{way}_tokens_per_second']:,.0f} tokens/s, loss {row[f'{way}_loss']:.3f} ± "
            f"{row[f'{way}_loss_deviation']:.3f}"
            for way in ways
        ]
        yield (
            f"| {row['name']} | {' | '.join(cells)} | {row['times_default_trainer']:.2f} | "
            f"{100 * row['share_of_peak']:.0f} % of {row['matrix_peak_gflops']:,} GFLOP/s |"
        )
    yield ""
    yield (
        f"Batch {measured['batch_size']}, the same texts and steps each way; median of "
        f"{measured['rounds']} alternating rounds, each with its own seed; loss on held-out texts, mean and standard "
        f"deviation. {_measured_on(measured)}"
    )


def progress(measured: dict[str, Any]) -> Iterator[str]:
    """How long progress takes with many events."""
    yield "| with 10,000 events in the journal | median | slowest |".replace(
        "10,000", f"{measured['events']:,}"
    )
    yield "|---|---|---|"
    for row in measured["rows"]:
        cells = (f"{row[f'{kind}_milliseconds']:,.0f} ms" for kind in ("median", "slowest"))
        yield f"| {row['name']} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"A journal of {measured['journal_bytes'] / 1e6:.1f} MB; commands as processes of their own, from start to end; "
        f"a tick is on the disk when it is done. The first call is not counted. {_measured_on(measured)}"
    )


def techniques(measured: dict[str, Any]) -> Iterator[str]:
    """All five techniques on each task, one table a task."""
    for key, task in measured["tasks"].items():
        quality = {"encoder": "test accuracy", "decoder": "test perplexity (lower is better)"}[key]
        yield (
            f"| {task['name']} | {quality} | of full fine-tuning's | trained, of all numbers | a step's peak, predicted "
            "| training | file | latency |"
        )
        yield "|---|---|---|---|---|---|---|---|"
        for row in (each for each in measured["rows"] if each["task"] == key):
            yield "| " + " | ".join([row["name"], *_technique_cells(row, key)]) + " |"
        yield ""
    tasks = "; ".join(
        f"{task['name']}: {task['texts']:,} training texts of {task['length']} tokens, {task['epochs']} "
        f"{'epoch' if task['epochs'] == 1 else 'epochs'}, n = {task['n']:,} test texts"
        for task in measured["tasks"].values()
    )
    yield (
        f"{tasks}. Mean of {len(measured['seeds'])} seeds, ± half their range; in brackets 95 % intervals over texts and "
        "seeds. Of perplexities, the share is full fine-tuning's over this one's: above 100 % is better. "
        "Each technique's learning rate comes from the same search, which goes on while the best is at an edge. "
        "Trained: the head of "
        f"{measured['head_parameters']:,} numbers, which the encoder's techniques all need, is left out. Training: "
        f"core-seconds, with {measured['threads']} thread{'s' * (measured['threads'] > 1)}; latency: one text. "
        f"{_measured_on(measured)}"
    )


def _technique_cells(row: dict[str, Any], task: str) -> list[str]:
    digits = {"encoder": 3, "decoder": 2}[task]
    if not row["technique"]:
        return [f"{row['quality']:.{digits}f}", *[""] * 6]
    low, high = (100 * each for each in row["of_full_interval"])
    share = f"{100 * row['own_share']:.3g} %" if row["technique"] != "full" else "100 %"
    return [
        f"{row['quality']:.{digits}f} ± {row['quality_spread'] / 2:.{digits}f}",
        f"{100 * row['of_full']:.1f} % ({low:.1f} to {high:.1f})" if row["technique"] != "full" else "",
        share,
        f"{row['predicted_peak_bytes'] / 2**20:,.0f} MiB",
        f"{row['core_seconds']:.0f} s",
        f"{row['saved_bytes'] / 1e6:.2f} MB",
        f"{row['latency_milliseconds']:.1f} ms",
    ]


def technique_claims(measured: dict[str, Any]) -> Iterator[str]:
    """The overview's claims, each with its verdict."""
    names = {row["technique"]: row["name"].split(",")[0] for row in measured["rows"]}
    yield "| Technique | Claim | Verdict | Measured |"
    yield "|---|---|---|---|"
    for each in measured["claims"]:
        yield f"| {names[each['technique']]} | {each['claim']} | **{each['verdict']}** | {each['because']} |"


TABLES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "attention-on-cpu": attention_on_cpu,
    "full-fine-tuning": full_fine_tuning,
    "memory-foresight": memory_foresight,
    "memory-published": memory_published,
    "progress": progress,
    "speed": speed,
    "survival": survival,
    "techniques": techniques,
    "techniques/claims": technique_claims,
    "speed-without-bf16": speed,
}


def _measured_on(measured: dict[str, Any]) -> str:
    versions = measured["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions)
    return f"Measured on {measured['date']}: {measured['hardware']}; {named}."


def rendered(text: str) -> str:
    """The text with every table made anew. A name without a table or a file is an error."""

    def table(match: re.Match[str]) -> str:
        name = match.group(2)
        file = ROOT / "results" / f"{name.partition('/')[0]}.json"
        measured = json.loads(file.read_text(encoding="utf-8"))
        return match.group(1) + "\n".join(TABLES[name](measured)) + "\n" + match.group(3)

    return BLOCK.sub(table, text)


def pages() -> list[Path]:
    """The pages that may hold tables."""
    return sorted([ROOT / "README.md", *(ROOT / "lessons").rglob("*.md"), *(ROOT / "results").glob("*.md")])


def main() -> int:
    """Render or check; the exit status."""
    check = "--check" in sys.argv[1:]
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = rendered(text)
        if new != text:
            stale.append(page.relative_to(ROOT).as_posix())
            if not check:
                page.write_text(new, encoding="utf-8", newline="\n")
    print(f"{'disagree with results/' if check else 'rendered'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
