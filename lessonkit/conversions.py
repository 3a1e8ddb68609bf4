"""Conversions that an asset needs once after its download; each works in place on a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

__all__ = ["folders_to_jsonl", "gguf_to_safetensors"]


def gguf_to_safetensors(folder: Path) -> None:
    """Turn the folder's one GGUF file into a plain bf16 safetensors model with its tokenizer.

    Loading GGUF takes many seconds and dequantises to float32; the result loads in under a second.
    The weights stay those of the 4-bit file: rounding them to bf16 loses less than 4 bits did.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    source = next(folder.glob("*.gguf"))
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=source.name)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=source.name, dtype=torch.float32)
    finally:
        if bar:
            logging.enable_progress_bar()
    # transformers refuses to save what was loaded from GGUF, although it is dequantised by now.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    source.unlink()


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
