"""A prediction for each text, with how sure the model is; in batches of like length, in the texts' own order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError

if TYPE_CHECKING:
    import torch

    from lessonkit.scoring.loading import ScoredModel

__all__ = ["Prediction", "predict"]


@dataclass
class Prediction:
    """One text's. line: where it stood. label, prediction: names. confidence: the prediction's probability, 0 to 1.
    label_probability: what the right label got. loss: -log of that. tokens: of the text, as the model got it.
    columns: the data's other columns.
    """

    line: int
    text: str
    label: str
    prediction: str
    confidence: float
    label_probability: float
    loss: float
    tokens: int
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether the prediction is the label."""
        return self.prediction == self.label

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a line of JSON."""
        return asdict(self) | {"right": self.right}


def predict(
    scored: ScoredModel, texts: Sequence[str], *, batch_size: int = 32, max_length: int = 0
) -> tuple[torch.Tensor, list[int], float]:
    """Probabilities of the classes, (n, classes) in float32 on the CPU; each text's tokens, (n,); seconds in all.

    max_length: tokens kept of a text; 0 for the tokenizer's own limit, or the model's where that is lower.
    Raises DataError if there is no text, or the model gives something else than finite logits of shape (batch, classes).
    """
    import torch

    if not texts:
        raise DataError("There is no text to predict.", fix="look at the dataset: is the split empty?")
    limit = max_length or _limit(scored)
    encoded = scored.tokenizer(list(texts), truncation=limit is not None, max_length=limit)["input_ids"]
    counts = [len(each) for each in encoded]
    order = sorted(range(len(texts)), key=counts.__getitem__)
    device = next(scored.model.parameters()).device
    found: list[Any] = [None] * len(texts)
    began = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = scored.tokenizer.pad(
                {"input_ids": [encoded[each] for each in places]}, return_tensors="pt"
            ).to(device)
            logits = scored.model(**batch).logits
            if logits.ndim != 2 or len(logits) != len(places) or not bool(logits.isfinite().all()):
                raise DataError(
                    f"The model gave logits of the shape {tuple(logits.shape)}, or numbers that are not finite.",
                    fix="evaluate a classifier whose training loss was finite",
                )
            for place, row in zip(places, logits.float().softmax(-1).cpu(), strict=True):
                found[place] = row
    return torch.stack(found), counts, time.perf_counter() - began


def _limit(scored: ScoredModel) -> int | None:
    """The tokenizer's limit, or the model's positions, less what a soft prompt takes of them."""
    limits = [
        getattr(scored.tokenizer, "model_max_length", None),
        getattr(scored.model.config, "max_position_embeddings", None),
    ]
    usable = [each for each in limits if isinstance(each, int) and 0 < each < 10**6]
    taken = sum(
        getattr(each, "num_virtual_tokens", 0) or 0
        for each in getattr(scored.model, "peft_config", {}).values()
    )
    return min(usable) - taken if usable else None
