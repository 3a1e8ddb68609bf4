"""The losses of texts under a causal language model: checked, batch by batch, in little memory."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError, TrainingError
from lessonkit.evaluation.token_texts import TokenText
from lessonkit.hardware.shortage import is_out_of_memory

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["check_counted", "check_ids", "check_model", "check_texts", "text_losses"]


def text_losses(model: torch.nn.Module, texts: list[TokenText], batch_size: int) -> tuple[np.ndarray, int]:
    """The summed loss of each text in nats, (texts,) in float64, and the size of the vocabulary.

    Texts without counted tokens get 0. Only one batch's logits exist at a time. Out of memory halves the
    batch; with a single text, and where the model gives NaN, it raises TrainingError.
    """
    import numpy as np
    import torch

    losses, vocabulary, done = np.zeros(len(texts)), 0, 0
    # Texts of about one length waste little on padding; the longest first, so that too little memory shows.
    order = sorted((n for n, text in enumerate(texts) if len(text.places)), key=lambda n: -len(texts[n].ids))
    with _evaluating(model), torch.no_grad():
        while done < len(order):
            numbers = order[done : done + batch_size]
            try:
                losses[numbers], vocabulary = _batch_losses(model, [texts[n] for n in numbers])
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(numbers) == 1:
                    raise _too_little_memory(numbers[0], texts[numbers[0]], error) from None
                batch_size = max(1, len(numbers) // 2)
                continue
            _check_finite(losses, numbers)
            done += len(numbers)
    return losses, vocabulary


def _batch_losses(model: torch.nn.Module, batch: list[TokenText]) -> tuple[list[float], int]:
    """One forward pass: the summed loss of each text of the batch, and the size of the vocabulary."""
    import torch
    from torch.nn.functional import cross_entropy

    width = max(len(text.ids) for text in batch)
    # Padded on the right, where a causal model's tokens cannot see it and keep their positions.
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text.ids)] = torch.from_numpy(text.ids)
        mask[row, : len(text.ids)] = 1
    first = min(int(text.places[0]) for text in batch)
    logits = _logits(model, ids, mask, keep=width - first)  # (batch, width - first, vocabulary)
    losses = []
    for row, text in enumerate(batch):
        if text.targets.max() >= logits.shape[-1]:
            raise _too_large("label", int(text.targets.max()), logits.shape[-1])
        chosen = logits[row, torch.from_numpy(text.places - first).to(logits.device)].float()
        targets = torch.from_numpy(text.targets).to(logits.device)
        # float64 for the sum, on the CPU because Apple's GPUs have none
        losses.append(float(cross_entropy(chosen, targets, reduction="none").cpu().double().sum()))
    return losses, logits.shape[-1]


def _logits(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, *, keep: int) -> torch.Tensor:
    """Logits of the last ``keep`` tokens, (batch, keep, vocabulary); the model is asked for no others."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepted = inspect.signature(base.forward).parameters
    anything = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values())
    wanted = {"logits_to_keep": keep, "use_cache": False}
    extra = {name: value for name, value in wanted.items() if name in accepted}
    device = _device(model)
    if "attention_mask" in accepted or anything:
        extra["attention_mask"] = mask.to(device)
    output = model(ids.to(device), **extra)
    logits = getattr(output, "logits", output)
    if getattr(logits, "ndim", 0) != 3 or logits.shape[1] < keep:
        shape = tuple(getattr(logits, "shape", ())) or type(logits).__name__
        raise DataError(
            f"The model returns {shape} where logits of (batch, tokens, vocabulary) belong.",
            why="perplexity needs a probability for each token, as a causal language model gives",
            fix="load the model with AutoModelForCausalLM",
        )
    return logits[:, -keep:]  # a soft prompt's logits stand before these


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module is in the mode it was in, frozen parts included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _device(model: torch.nn.Module) -> torch.device:
    """Where the model reads token ids: its embeddings' device, if it is spread over several."""
    import torch

    embeddings = _embeddings(model)
    weight = next((embeddings if embeddings is not None else model).parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def _embeddings(model: torch.nn.Module) -> torch.nn.Module | None:
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None  # a module that is not transformers' own


def _too_little_memory(number: int, text: TokenText, error: RuntimeError) -> TrainingError:
    return TrainingError(
        f"Memory runs out with one text at a time (text {number}, {len(text.ids):,} tokens).",
        why=str(error).splitlines()[0],
        fix="cut the texts shorter, or free memory: restart the kernel and load one model only",
    )


def check_model(model: Any) -> None:
    """Raise DataError for anything but a causal language model."""
    import torch

    if not isinstance(model, torch.nn.Module):
        raise DataError(
            f"{model!r} is not a model."
            if isinstance(model, str)
            else f"{type(model).__name__} is no model.",
            fix='load it first: model = lessonkit.load_model("smollm2")',
        )
    config = getattr(model, "config", None)
    generates = model.can_generate() if hasattr(model, "can_generate") else True
    if getattr(config, "is_encoder_decoder", False) or not generates:
        raise DataError(
            f"{type(model).__name__} is not a causal language model.",
            why="perplexity asks how likely each token is after those before it; an encoder sees both sides",
            fix="load the model with AutoModelForCausalLM",
        )


def check_texts(model: torch.nn.Module, texts: list[TokenText]) -> None:
    """Raise DataError for what would end in an index error, or a silently wrong number, inside the model."""
    embeddings = _embeddings(model)
    if embeddings is not None:
        check_ids(texts, embeddings.weight.shape[0])
    check_counted(texts)
    config = getattr(model, "config", None)
    limit = getattr(config, "max_position_embeddings", None)
    prompt = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    longest = max(range(len(texts)), key=lambda number: len(texts[number].ids))
    if isinstance(limit, int) and len(texts[longest].ids) + prompt > limit:
        taken = f" ({prompt} of them taken by the soft prompt)" if prompt else ""
        raise DataError(
            f"Text {longest} has {len(texts[longest].ids):,} tokens; the model's limit is {limit:,}{taken}.",
            why="it was trained on no position beyond that, so its probabilities there mean nothing",
            fix=f"truncate: tokenizer(text, truncation=True, max_length={limit - prompt}), "
            "or cut long texts into several rows",
        )


def check_ids(texts: list[TokenText], vocabulary: int) -> None:
    """Raise DataError for a token id or a counted label outside of 0 to ``vocabulary`` - 1."""
    for number, text in enumerate(texts):
        for what, values in (("token id", text.ids), ("label", text.targets)):
            if len(values) and values.min() < 0:
                raise DataError(
                    f"Text {number} has the {what} {int(values.min())}.",
                    why="token ids begin at 0; only a label may be -100, which is not counted",
                    fix="use -100 for labels to leave out, and the tokenizer's ids for all others",
                )
            if len(values) and values.max() >= vocabulary:
                raise _too_large(what, int(values.max()), vocabulary)


def _too_large(what: str, value: int, vocabulary: int) -> DataError:
    return DataError(
        f"There is a {what} {value:,}, but the model knows {vocabulary:,} tokens (0 to {vocabulary - 1:,}).",
        why="the texts were tokenized for another model, or tokens were added to the tokenizer",
        fix="tokenize with the tokenizer of the same name as the model, "
        "or call model.resize_token_embeddings(len(tokenizer))",
    )


def check_counted(texts: list[TokenText]) -> None:
    """Raise DataError if no text has a counted token."""
    if not any(len(text.places) for text in texts):
        raise DataError(
            "No token of these texts is counted.",
            why="all labels are -100, or no text has two tokens (the first has nothing before it)",
            fix="look at the label masking: the answer's tokens must keep their ids; and at the truncation, "
            "which may have cut the answer off",
        )


def _check_finite(losses: np.ndarray, numbers: list[int]) -> None:
    for number in numbers:
        if math.isnan(losses[number]):
            raise TrainingError(
                f"The model gives NaN (not a number) for text {number}.",
                why="its weights hold NaN, as after a training that diverged, or float16 overflowed",
                fix="reload the weights; then train with a lower learning rate, or load with dtype=torch.float32",
            )
        if math.isinf(losses[number]):
            raise TrainingError(
                f"The model gives a token of text {number} no probability at all, so the perplexity is infinite.",
                why="its logits hold infinities, as after an overflow in float16",
                fix="load the model with dtype=torch.float32, or reload the weights",
            )
