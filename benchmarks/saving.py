"""How a benchmark writes its result: rows, with the date, hardware and versions they were measured with."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from lessonkit.hardware import detect_hardware, versions

RESULTS = Path(__file__).resolve().parent.parent / "results"


def save(name: str, rows: list[dict[str, Any]], **about: Any) -> Path:
    """Write ``results/<name>.json`` and print the rows; ``about`` says how they were measured."""
    RESULTS.mkdir(exist_ok=True)
    measured = {
        "date": datetime.date.today().isoformat(),
        "hardware": detect_hardware().summary(),
        "versions": versions(),
        **about,
        "rows": rows,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    print(f"written: results/{name}.json")
    return path
