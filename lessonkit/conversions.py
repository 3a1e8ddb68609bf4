"""Conversions that an asset needs once after its download; each works in place on a folder."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

__all__ = ["folders_to_jsonl", "gguf_to_safetensors"]


def gguf_to_safetensors(folder: Path) -> None:
    """Turn the folder's one GGUF file into a plain bf16 safetensors model with its tokenizer.

    Loading GGUF takes many seconds and dequantises to float32; the result loads in under a second.
    The weights stay those of the 4-bit file: rounding them to bf16 loses less than 4 bits did.
    """
    from transformers.utils import logging

    source = next(folder.glob("*.gguf"))
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # two bars that ignore the setting above
            _dequantise(folder, source)
    finally:
        if bar:
            logging.enable_progress_bar()
    source.unlink()


def _dequantise(folder: Path, source: Path) -> None:
    """Read the GGUF file and write what it holds as a plain bf16 model beside it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=source.name, dtype=torch.float32)
    # transformers refuses to save what was loaded from GGUF, although it is dequantised by now.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def folders_to_jsonl(folder: Path) -> None:
    """Turn ``raw/<label>/<number>.txt`` into one ``texts.jsonl`` with path, label and text a line.

    The files are UTF-8, but for a stray one in Latin-1 (a pound sign).
    """
    raw = folder / "raw"
    with (folder / "texts.jsonl").open("w", encoding="utf-8", newline="\n") as target:
        for path in sorted(raw.glob("*/*.txt"), key=lambda path: path.relative_to(raw).as_posix()):
            content = path.read_bytes()
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError:
                text = content.decode("latin-1")
            row = {"path": path.relative_to(raw).as_posix(), "label": path.parent.name, "text": text.strip()}
            target.write(json.dumps(row, ensure_ascii=False) + "\n")
    shutil.rmtree(raw)
