"""Padding a batch of texts for language modelling, with logits only where there are labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CausalLMCollator"]

IGNORED = -100


class CausalLMCollator:
    """Pads rows of ``input_ids`` and ``labels`` to the longest of the batch, for a causal language model.

    With ``labels`` on the answers alone (-100 elsewhere), most positions need no logits. A batch then also has
    ``logits_to_keep``, the K columns after which some row has a label, and ``shift_labels`` of shape (batch, K);
    transformers' causal models take both, and multiply only those K hidden states by the vocabulary's matrix. The
    loss is the same. Pass ``labelled_logits_only=False`` where something else counts the columns:
      - prompt or prefix tuning, whose virtual tokens move them;
      - ``label_smoothing_factor`` or a ``compute_loss_func``, which meet K logits and all the labels;
      - models whose forward takes no ``logits_to_keep``;
      - several GPUs in one process (``DataParallel``), which would share the columns out; torchrun is fine.

    An evaluation's loss is right as it is. ``compute_metrics`` would get K columns of logits beside all the labels,
    without a word: set ``TrainingArguments(label_names=["shift_labels"])``, and both are (rows, K), -100 where there
    is nothing to predict, and logits stand at the label they predict (do not shift them). Or, without
    ``compute_metrics``, ``prediction_loss_only=True``.

    tokenizer: needs a padding token. Rows without ``labels`` get their own ``input_ids``, padding left out.
    Raises DataError for a tokenizer without a padding token, no rows, rows that are not columns of numbers, without
    ``input_ids``, of unequal lengths of ids, mask and labels, or a batch without a single label.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, labelled_logits_only: bool = True) -> None:
        from transformers import DataCollatorForSeq2Seq

        if tokenizer.pad_token is None:
            raise DataError(
                "The tokenizer has no padding token, so texts of unequal length cannot share a batch.",
                fix="set one before: tokenizer.pad_token = tokenizer.eos_token",
            )
        self.labelled_logits_only = labelled_logits_only
        self._pad = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=IGNORED)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of tensors: input_ids, attention_mask, labels, all (batch, length), and the two named above."""
        from torch.nn.functional import pad

        if not rows:
            raise DataError(
                "A batch of no rows has nothing to learn from.", fix="give the collator at least one row"
            )
        batch = dict(self._pad([_checked(row) for row in rows]))
        if not self.labelled_logits_only:
            return batch
        # (batch, length): at each token the next one's label
        following = pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
        columns = (following != IGNORED).any(dim=0).nonzero().squeeze(1)  # (K,)
        if not len(columns):
            raise DataError(
                "No text of this batch has a label to learn from.",
                why="every label is -100, or stands on the first token, which nothing comes before",
                fix="look at how the labels are masked, and whether truncation cut the answers off",
            )
        return batch | {"logits_to_keep": columns, "shift_labels": following[:, columns]}


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's columns of this collator as lists of equal length."""
    if not isinstance(row, Mapping) or "input_ids" not in row:
        held = (
            f"only {', '.join(row) or 'nothing'}"
            if isinstance(row, Mapping)
            else f"it is a {type(row).__name__}"
        )
        raise DataError(
            f"A row has no input_ids, {held}.",
            fix="tokenize the texts first: dataset.map(lambda rows: tokenizer(rows['text']), batched=True)",
        )
    ids = _listed(row, "input_ids")
    mask = [1] * len(ids) if row.get("attention_mask") is None else _listed(row, "attention_mask")
    if row.get("labels") is None:
        labels = [each if seen else IGNORED for each, seen in zip(ids, mask, strict=False)]
    else:
        labels = _listed(row, "labels")
    for name, values in (("attention_mask", mask), ("labels", labels)):
        if len(ids) != len(values):
            raise DataError(
                f"A row has {len(ids)} input_ids and {len(values)} {name}.",
                fix="give each token one label, -100 where it is not to be learned"
                if name == "labels"
                else "truncate both alike, or leave attention_mask out",
            )
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _listed(row: Mapping[str, Any], name: str) -> list[int]:
    """A column of whole numbers, from a list, an array or a tensor."""
    values = row[name].tolist() if hasattr(row[name], "tolist") else row[name]
    if not isinstance(values, (list, tuple)) or not all(isinstance(each, int) for each in values):
        raise DataError(
            f"A row's {name} are no list of whole numbers: {str(values)[:60]!r}.",
            why="one text is one row here, and each token needs its own number",
            fix="look at dataset[0]; a class for a whole text needs DataCollatorWithPadding instead",
        )
    return list(values)
