"""As ``speed.py``, on a CPU without bf16 instructions: they are hidden from oneDNN, and so from lessonkit.

python benchmarks/speed_without_bf16.py [--rounds 5]
"""

from __future__ import annotations

import os

os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"  # read when torch is first used

from speed import full_task, lora_task, measure_all

if __name__ == "__main__":
    measure_all("speed-without-bf16", lora_task(12, 40), full_task(16, 64))
