"""Ways to make one fine-tuned classifier cheaper, and the command: ``python -m production.optimise measure | choose``.

``make`` writes each variant once into a folder; ``load`` reads one of them. An ONNX variant is loaded without importing
PyTorch: a server that needs none is a part of what is measured (see measure.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lessonkit.errors import DataError, ModelError, UnknownNameError

__all__ = ["KINDS", "Classifier", "Setting", "Variants", "load", "make"]

#: What each kind of variant is. The later ones are made from the merged model.
KINDS = {
    "unmerged": "the base with its LoRA adapter beside it, PyTorch, float32",
    "merged": "the adapter added into the base, PyTorch, float32",
    "bf16": "merged; weights and arithmetic in bfloat16",
    "nf4": "merged; weights in 4 bits (bitsandbytes NF4), arithmetic in float32",
    "compiled": "merged; torch.compile",
    "onnx": "merged; ONNX Runtime, float32",
    "int8": "the ONNX graph; weights and activations of its matrix products in int8 (dynamic quantisation)",
}
NEEDS = {
    "unmerged": ("peft",),
    "nf4": ("bitsandbytes",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "int8": ("onnx", "onnxscript", "onnxruntime"),
}
RECORD = "variants.json"


@dataclass(frozen=True)
class Setting:
    """One way to serve. kind: see ``KINDS``. max_length: tokens of a text that are read. batch_size: requests computed
    together, at most. cache: answers kept, 0 for none.
    """

    kind: str
    max_length: int
    batch_size: int = 1
    cache: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("kind of variant", self.kind, KINDS)
        if min(self.max_length, self.batch_size) < 1 or self.cache < 0:
            raise DataError(
                f"{self} can't be: lengths and batches start at 1.", fix="pass max_length=32, batch_size=1"
            )

    def __str__(self) -> str:
        kept = f", cache {self.cache:,}" if self.cache else ""
        return f"{self.kind}, {self.max_length} tokens, batch {self.batch_size}{kept}"


@dataclass(frozen=True)
class Variants:
    """What ``make`` has made. folder: where. files: kind -> folder or file. left_out: kind -> why it could not be made."""

    folder: Path
    files: dict[str, Path]
    left_out: dict[str, str]

    def bytes_of(self, kind: str) -> int:
        """Bytes of the weights on disk (an unmerged adapter counts with its base)."""
        path, endings = self.files[kind], {".safetensors", ".onnx"}
        if kind == "unmerged":
            config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
            base = Path(config["base_model_name_or_path"])
            places = [path, base] if base.is_dir() else [path, self.files["merged"]]
        else:
            places = [path]
        files = [file for place in places for file in (place.iterdir() if place.is_dir() else [place])]
        return sum(file.stat().st_size for file in files if file.suffix in endings)


# ---- Making them ------------------------------------------------------------------------------------


def make(model: str | Path, folder: str | Path, kinds: Iterable[str] = KINDS) -> Variants:
    """Write the variants of a saved classifier; the merged one always, for the others are made from it.

    model: a folder with a tokenizer, and either a whole classifier, or a PEFT adapter with the ``config.json`` of its base
    (which names the classes). What this machine can't make is left out, with the reason. What lies there from the same
    weights is kept. Raises ModelError if the folder holds no classifier.
    """
    model, folder, kinds = Path(model), Path(folder), list(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError("kind of variant", kind, KINDS)
    if not any((model / name).exists() for name in ("config.json", "adapter_config.json")):
        raise ModelError(
            f"{model} holds no saved classifier.",
            fix="pass a folder that save_pretrained wrote, with its config.json",
        )
    _forget_others(model, folder)
    files, left_out = {}, {}
    steps = {"merged": _merge, "bf16": _halve, "nf4": _four_bits, "onnx": _export, "int8": _quantise}
    for kind in dict.fromkeys(["merged", *(["onnx"] if "int8" in kinds else []), *kinds]):
        reason = _missing(kind, model)
        if reason:
            left_out[kind] = reason
            continue
        if kind in (
            "unmerged",
            "compiled",
        ):  # the one lies there already, the other is compiled when it is loaded
            files[kind] = model if kind == "unmerged" else folder / "merged"
            continue
        place = folder / kind
        if not place.exists():
            new = folder / f".{kind}.new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            steps[kind](model if kind == "merged" else folder, new)
            new.rename(place)
        files[kind] = place / "model.onnx" if kind in ("onnx", "int8") else place
    wanted = {kind: path for kind, path in files.items() if kind in kinds or kind == "merged"}
    return Variants(folder, wanted, {kind: said for kind, said in left_out.items() if kind in kinds})


def _missing(kind: str, model: Path) -> str:
    absent = [name for name in NEEDS.get(kind, ()) if importlib.util.find_spec(name) is None]
    if absent:
        return f"needs {', '.join(absent)}: type `python start.py --production`"
    if kind == "unmerged" and not (model / "adapter_config.json").exists():
        return "this model has no adapter to leave unmerged"
    if kind == "compiled" and not _compiler():
        return "torch.compile needs a C++ compiler on a CPU, and none is found: install g++ (clang++, or on Windows cl)"
    return ""


def _compiler() -> str:
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    return next((found for name in names if name and (found := shutil.which(name))), "")


def _merge(model: Path, place: Path) -> None:
    found = _pytorch(model, adapter=(model / "adapter_config.json").exists())
    if hasattr(found, "merge_and_unload"):
        found = found.merge_and_unload()
    with _quiet():
        found.save_pretrained(place)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (model / name).exists():
            raise ModelError(
                f"{model} has no {name}.", fix=f'tokenizer.save_pretrained("{model.name}") writes it'
            )
        shutil.copy(model / name, place / name)


def _halve(folder: Path, place: Path) -> None:
    import torch

    with _quiet():
        _pytorch(folder / "merged").to(torch.bfloat16).save_pretrained(place)


def _four_bits(folder: Path, place: Path) -> None:
    import torch
    from transformers import BitsAndBytesConfig

    from lessonkit.four_bits import unfit_layers

    # A quantised head fails, and so does a layer of a shape that the CPU's kernels don't take.
    skipped = ["classifier", "pooler", "score", *unfit_layers(_pytorch(folder / "merged"))]
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=skipped,
    )
    with _quiet():
        _pytorch(folder / "merged", quantization_config=config).save_pretrained(place)


def _export(folder: Path, place: Path) -> None:
    import torch

    class Plain(torch.nn.Module):
        """Tensors in, one tensor out: what an ONNX graph is."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    model = Plain(_pytorch(folder / "merged")).eval()
    ids = torch.ones(
        2, 7, dtype=torch.long
    )  # sizes that differ from each other, and from 1: 0 and 1 would be fixed
    free = {0: "batch", 1: "tokens"}
    with _quiet():
        torch.onnx.export(
            model,
            (ids, torch.ones_like(ids)),
            place / "model.onnx",
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": free, "attention_mask": free},
            external_data=False,
            verbose=False,
        )


def _quantise(folder: Path, place: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            folder / "onnx" / "model.onnx",
            place / "model.onnx",
            weight_type=QuantType.QInt8,
            per_channel=True,  # a scale for each column of a matrix, not one for all
            reduce_range=True,  # 7 bits of the weights: without VNNI, products of 8 bits overflow 16
        )


def _pytorch(folder: Path, adapter: bool = False, **options: Any) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with _quiet():
        if not adapter:
            return AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
        from peft import PeftConfig, PeftModel

        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
        return PeftModel.from_pretrained(model, folder).eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """None of the libraries' notes on how they convert: what they say of failures they raise."""
    from lessonkit.quiet import quiet_transformers

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), quiet_transformers():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _fingerprint(model: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    for file in sorted(model.iterdir()):
        if file.suffix in (".safetensors", ".json"):
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _forget_others(model: Path, folder: Path) -> None:
    """Variants of other weights must not pass for these."""
    try:
        same = json.loads((folder / RECORD).read_text(encoding="utf-8"))["model"] == _fingerprint(model)
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        for kind in KINDS:
            shutil.rmtree(folder / kind, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        record = {"model": _fingerprint(model), "source": str(model)}
        (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


# ---- Using them -------------------------------------------------------------------------------------


@dataclass
class Classifier:
    """``classifier(texts, max_length)`` gives logits of shape (texts, classes), float32. kind: see ``KINDS``."""

    kind: str
    tokenizer: Any  # of the library tokenizers
    forward: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        self.tokenizer.enable_truncation(max_length)
        self.tokenizer.enable_padding(pad_id=self.tokenizer.token_to_id("[PAD]") or 0)
        rows = self.tokenizer.encode_batch(list(texts))
        ids = np.array([row.ids for row in rows], dtype=np.int64)
        return self.forward(ids, np.array([row.attention_mask for row in rows], dtype=np.int64))


def load(variants: Variants, kind: str, threads: int) -> Classifier:
    """Read one variant, for ``threads`` threads. Raises ModelError for one that was left out."""
    from tokenizers import Tokenizer

    if kind not in variants.files:
        raise ModelError(f"{kind} was not made.", why=variants.left_out.get(kind, ""), fix="make it first")
    tokenizer = Tokenizer.from_file(str(variants.files["merged"] / "tokenizer.json"))
    path = variants.files[kind]
    return Classifier(
        kind, tokenizer, _session(path, threads) if path.suffix == ".onnx" else _torch(path, kind, threads)
    )


def _session(path: Path, threads: int) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def _torch(path: Path, kind: str, threads: int) -> Callable:
    import torch

    torch.set_num_threads(threads)
    model = _pytorch(path, adapter=kind == "unmerged")
    if kind == "compiled":
        model = torch.compile(model, dynamic=True)  # one graph for all lengths

    @torch.inference_mode()
    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        tensors = torch.from_numpy(ids), torch.from_numpy(mask)
        return model(input_ids=tensors[0], attention_mask=tensors[1]).logits.float().numpy()

    return forward


if __name__ == "__main__":
    from production.commands import run
    from production.optimise_command import command

    run(command)
