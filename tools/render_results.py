"""Render the tables between result markers from `results/*.json`; numbers are never typed by hand.

    python tools/render_results.py           rewrite the tables
    python tools/render_results.py --check   change nothing; exit 1 if a table and its JSON disagree

A table stands between `<!-- results: NAME -->` and `<!-- /results -->` and renders `results/NAME.json`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


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


TABLES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "attention-on-cpu": attention_on_cpu,
    "full-fine-tuning": full_fine_tuning,
}


def _measured_on(measured: dict[str, Any]) -> str:
    versions = measured["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions)
    return f"Measured on {measured['date']}: {measured['hardware']}; {named}."


def rendered(text: str) -> str:
    """The text with every table made anew. A name without a table or a file is an error."""

    def table(match: re.Match[str]) -> str:
        name = match.group(2)
        measured = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
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
