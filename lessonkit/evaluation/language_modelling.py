"""Perplexity of a causal language model, never without n, an interval and a baseline.

Perplexity is exp of the mean loss (negative log likelihood, in nats) of a token. The mean is over all
tokens of all texts: a mean of batch means would give a short batch's tokens more weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError
from lessonkit.evaluation.bootstrap import bootstrap_ratio_interval
from lessonkit.evaluation.token_losses import check_counted, check_ids, check_model, check_texts, text_losses
from lessonkit.evaluation.token_texts import TokenText, read_texts

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["PerplexityScores", "perplexity", "unigram_perplexity"]

BATCH_SIZE = 8


@dataclass(frozen=True)
class PerplexityScores:
    """How well a language model foresees the tokens of some texts; lower is better, 1 is the least.

    name: what was scored. n: texts scored. tokens: tokens counted in them.
    skipped: texts left out because none of their tokens counts.
    perplexity: exp of the mean loss of a token. interval: its 95 % bootstrap interval, which resamples
    texts, or None for a single text, which cannot tell how texts differ.
    baseline, baseline_name: the perplexity of a simpler model on the same tokens.
    vocabulary_size: tokens to choose from; the perplexity of a model that finds all equally likely.
    bits_per_byte: bits of loss for each UTF-8 byte of the counted text; None where no tokenizer was given.
    text_losses: (texts,) summed loss of each text in nats; text_tokens: (texts,) its counted tokens; both
    in the order of the dataset, 0 for a skipped text.
    """

    name: str
    n: int
    tokens: int
    skipped: int
    perplexity: float
    interval: tuple[float, float] | None
    baseline: float
    baseline_name: str
    vocabulary_size: int
    bits_per_byte: float | None
    text_losses: np.ndarray = field(repr=False, compare=False)
    text_tokens: np.ndarray = field(repr=False, compare=False)

    def __str__(self) -> str:
        within = "no interval"
        if self.interval is not None:
            within = "95 % interval {} to {}".format(*map(_short, self.interval))
        size = f"n = {self.n:,} {'text' if self.n == 1 else 'texts'}, {self.tokens:,} tokens"
        left_out = f", {self.skipped:,} without counted tokens left out" if self.skipped else ""
        bits = "" if self.bits_per_byte is None else f", {self.bits_per_byte:.3f} bits per byte"
        return (
            f"perplexity of the {self.name} {_short(self.perplexity)} ({within}, {size}{left_out}){bits}; "
            f"{self.baseline_name} {_short(self.baseline)}"
        )

    def to_dict(self) -> dict:
        """Plain data for JSON, without the single texts."""
        return {
            name: value for name, value in vars(self).items() if name not in ("text_losses", "text_tokens")
        }


def perplexity(
    model: torch.nn.Module,
    dataset: Any,
    *,
    batch_size: int | None = None,
    baseline: PerplexityScores | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str = "model",
) -> PerplexityScores:
    """Perplexity of a causal language model on tokenised texts: exp(summed loss / counted tokens).

    model: an ``AutoModelForCausalLM``, with or without PEFT adapters, or any module that returns logits of
    shape (batch, tokens, vocabulary). It is scored in eval mode, where it stands, and left as it was.
    dataset: rows or batches with ``input_ids`` and, where they exist, ``attention_mask`` and ``labels``.
    As in transformers, a label of -100 is not counted, left out labels are the input ids, and each token is
    foreseen from those before it; so the first one is never counted, not even after a soft prompt. Padding
    (``attention_mask`` 0) is never counted.
    batch_size: texts at a time, 8 or as many as the dataset's batches hold. The logits take
    batch_size x tokens x vocabulary numbers; when memory runs out the batch is halved. It changes the
    time, not the score.
    baseline: an earlier result on the same texts, of ``unigram_perplexity`` or of the base model before it
    was trained; left out, the uniform model, whose perplexity is the size of the vocabulary.
    tokenizer: when given, bits per byte are told too, which also compare models of different tokenizers.
    name: what to call the model in the printed line.

    The interval resamples texts, not tokens: the tokens of one text share its topic and style, so they are
    not independent, and resampling them would promise more than the texts can tell.

    Raises DataError for a dataset, model or baseline that cannot be scored, and TrainingError if the model
    gives NaN or runs out of memory with a single text.
    """
    check_model(model)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise DataError(f"batch_size is {batch_size!r}.", fix="use a whole number of at least 1, such as 8")
    texts, together = read_texts(dataset)
    check_texts(model, texts)
    _check_baseline(baseline, texts)
    losses, vocabulary = text_losses(model, texts, batch_size or (together if together > 1 else BATCH_SIZE))
    return _scores(name, texts, losses, vocabulary, baseline, tokenizer)


def unigram_perplexity(
    train_dataset: Any,
    dataset: Any,
    *,
    vocabulary_size: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PerplexityScores:
    """Perplexity of a model that knows how often each token occurs, and nothing of what stood before it.

    A token's probability is its share of the counted tokens of ``train_dataset``, with one added to each
    count so that a token never seen is not impossible (Laplace; Jurafsky and Martin, "Speech and Language
    Processing", chapter 3). Pass the result on: ``perplexity(..., baseline=unigram)``.
    A language model that is no better has learned nothing from the order of words.
    vocabulary_size: ``model.config.vocab_size``. Raises DataError for a token beyond it.
    """
    import numpy as np

    if not isinstance(vocabulary_size, int) or vocabulary_size < 1:
        raise DataError(
            f"vocabulary_size is {vocabulary_size!r}.", fix="use vocabulary_size=model.config.vocab_size"
        )
    train_texts, texts = read_texts(train_dataset)[0], read_texts(dataset)[0]
    for each in (train_texts, texts):
        check_ids(each, vocabulary_size)
        check_counted(each)
    counts = np.bincount(np.concatenate([text.targets for text in train_texts]), minlength=vocabulary_size)
    surprise = np.log(counts.sum() + vocabulary_size) - np.log(counts + 1)  # -log of each probability
    losses = np.array([surprise[text.targets].sum() for text in texts])
    return _scores("unigram model", texts, losses, vocabulary_size, None, tokenizer)


def _scores(
    name: str,
    texts: list[TokenText],
    losses: np.ndarray,
    vocabulary: int,
    baseline: PerplexityScores | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> PerplexityScores:
    import numpy as np

    tokens = np.array([len(text.places) for text in texts])
    scored = tokens > 0
    interval = None
    if scored.sum() > 1:
        low, high = bootstrap_ratio_interval(losses[scored], tokens[scored])
        interval = (_exp(low), _exp(high))
    return PerplexityScores(
        name=name,
        n=int(scored.sum()),
        tokens=int(tokens.sum()),
        skipped=int((~scored).sum()),
        perplexity=_exp(losses.sum() / tokens.sum()),
        interval=interval,
        baseline=float(vocabulary) if baseline is None else baseline.perplexity,
        baseline_name="uniform model" if baseline is None else baseline.name,
        vocabulary_size=vocabulary,
        bits_per_byte=None if tokenizer is None else _bits_per_byte(texts, losses, tokenizer),
        text_losses=losses,
        text_tokens=tokens,
    )


def _bits_per_byte(texts: list[TokenText], losses: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> float:
    """Over the counted tokens' own bytes; an end-of-text token adds loss and no bytes."""
    decoded = (tokenizer.decode(text.targets.tolist(), skip_special_tokens=True) for text in texts)
    size = sum(len(text.encode("utf-8")) for text in decoded)
    if not size:
        raise DataError(
            "The counted tokens are no text, so there are no bytes to count.",
            fix="leave tokenizer out, or look at the labels: are only special tokens counted?",
        )
    return float(losses.sum() / math.log(2) / size)


def _check_baseline(baseline: Any, texts: list[TokenText]) -> None:
    if baseline is None:
        return
    if not isinstance(baseline, PerplexityScores):
        raise DataError(
            f"baseline is {type(baseline).__name__}, not an earlier result.",
            fix="pass baseline=unigram_perplexity(...) or what perplexity(...) gave for the base model",
        )
    if [len(text.places) for text in texts] != baseline.text_tokens.tolist():
        raise DataError(
            f"The baseline ({baseline.name}) was scored on other tokens.",
            why="perplexities compare only on the same texts, cut into the same tokens",
            fix="score the baseline on this dataset, with this tokenizer and these labels",
        )


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf  # exp(710) is beyond float64


def _short(value: float) -> str:
    return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
