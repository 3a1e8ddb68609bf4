"""Plain Hugging Face models and tokenizers, from this project's assets, a local folder or the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.assets import assets, fetch
from lessonkit.errors import ModelError, UnknownNameError
from lessonkit.four_bits import keep_trainable, misread_layers
from lessonkit.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_model", "load_tokenizer", "model_source"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.*", "*.gguf")


def model_source(name: str | Path) -> str:
    """What ``from_pretrained`` should be given for ``name``.

    An asset's name gives its folder in the cache (fetched if needed), a local folder gives itself,
    and ``owner/name`` is a repository on the Hugging Face Hub.
    Raises UnknownNameError for anything else.
    """
    text = str(name)
    known = assets()
    if text in known and known[text].kind != "dataset":
        return str(fetch(text))
    if text.strip() and Path(text).expanduser().is_dir():  # "" would be the current folder
        return str(Path(text).expanduser())
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and all(text.split("/")):
        return text
    models = [each.name for each in known.values() if each.kind != "dataset"]
    fix = f"use {' or '.join(models)}, a folder that `save_pretrained` wrote, or a Hub name like owner/name"
    raise UnknownNameError("model", text, models, fix=fix)


def load_tokenizer(name: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """``AutoTokenizer.from_pretrained`` on an asset, a folder or a Hub name; kwargs go through."""
    from transformers import AutoTokenizer

    source = model_source(name)
    folder = Path(source)
    if folder.is_dir() and not any(found for kind in TOKENIZER_FILES for found in folder.glob(kind)):
        # transformers would make up a tokenizer that knows no words
        raise ModelError(
            f"{source} holds no tokenizer.",
            why="it has neither tokenizer.json nor a vocabulary",
            fix="save the tokenizer beside the model with `tokenizer.save_pretrained(folder)`",
        )
    return _load(AutoTokenizer, source, kwargs)


def load_model(name: str | Path, auto_class: type | None = None, **kwargs: Any) -> PreTrainedModel:
    """``auto_class.from_pretrained`` on an asset, a folder or a Hub name; kwargs go through.

    auto_class: one of transformers' ``AutoModelFor...`` classes. Left out, a decoder comes as
    ``AutoModelForCausalLM`` and everything else as ``AutoModel``.
    Weights come in float32, the precision to train in, unless ``dtype`` says otherwise. 4-bit layers are kept from
    repacking themselves on a CPU, after which they could not be trained through (``lessonkit.four_bits``).
    Raises ModelError for what can't be loaded, and for 4-bit layers that this CPU would read back wrongly.
    """
    import transformers

    if auto_class is None:
        known = assets().get(str(name))
        decoder = known is not None and known.kind == "decoder"
        auto_class = transformers.AutoModelForCausalLM if decoder else transformers.AutoModel
    kwargs.setdefault("dtype", "float32")
    return _load(auto_class, name, kwargs)


def _load(auto_class: type, name: str | Path, kwargs: dict[str, Any]) -> Any:
    from safetensors import SafetensorError

    source = model_source(name)
    local = Path(source).is_dir()
    # In a folder, damaged weights and an unfinished config.json are told by other errors than OSError.
    expected = (OSError, SafetensorError, ValueError) if local else (OSError,)
    try:
        with quiet_transformers():
            loaded = auto_class.from_pretrained(source, **kwargs)
    except expected as error:
        raise ModelError(
            f"{source} could not be loaded with {auto_class.__name__}.",
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="check that the folder holds a whole config.json and model.safetensors, and that they suit "
            f"{auto_class.__name__}"
            if local
            else "check the name and the network (what was loaded once is kept), or restart the kernel with "
            "LESSONKIT_SCALE=laptop, which needs no network",
        ) from error
    if kwargs.get("quantization_config") is not None:
        keep_trainable(loaded)
        _check_rows(loaded)
    return loaded


def _check_rows(loaded: Any) -> None:
    wrong = misread_layers(loaded)
    if wrong:
        raise ModelError(
            f"This CPU would read {len(wrong)} of the model's 4-bit layers back wrongly, such as {wrong[0]}.",
            why="their rows are not whole blocks of 64 numbers, and bitsandbytes' AVX-512 kernel takes wrong scales",
            fix="leave them as they are: load the model without 4 bits as `whole`, then `from lessonkit.four_bits import "
            "unfit_layers` and `BitsAndBytesConfig(..., llm_int8_skip_modules=unfit_layers(whole))`",
        )
