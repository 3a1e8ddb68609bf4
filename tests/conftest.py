"""What all tests share: the learner's own files stay untouched, and a model small enough to train."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"word{number}" for number in range(100 - len(SPECIAL)))


gc.set_threshold(100_000, 50, 100)  # with torch loaded, each look for garbage is long
# A busy machine is no failure, and the examples are the same on each: a failure is the change's, not the day's.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A lesson that isn't written yet may lie there unfinished: its own tests wait for it."""
    from lessonkit.curriculum import load_curriculum

    unwritten = {
        f"test_lesson_{each.id.replace('/', '_').replace('-', '_')}.py": each.id
        for each in load_curriculum(check_files=False).lessons
        if not each.written
    }
    for item in items:
        if item.path.name in unwritten:
            item.add_marker(pytest.mark.skip(reason=f"{unwritten[item.path.name]} is not written yet"))


modules_frozen = 0


@pytest.fixture(autouse=True)
def libraries_are_no_garbage() -> None:
    """accelerate looks for garbage around each training, and libraries are most of what it would look through."""
    global modules_frozen
    if len(sys.modules) > modules_frozen + 50:
        gc.collect()
        gc.freeze()
        modules_frozen = len(sys.modules)


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    """A lesson's start sets variables that quieten libraries; they are not left to the next test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def own_surroundings(unchanged_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Progress and outputs go to the test's own folder; no scale, result file or lesson is left over."""
    monkeypatch.setenv("LESSONKIT_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setenv("LESSONKIT_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    for name in ("LESSONKIT_SCALE", "LESSONKIT_RESULT"):
        monkeypatch.delenv(name, raising=False)
    lesson = sys.modules.get("lessonkit.lesson")
    if lesson is not None:
        monkeypatch.setattr(lesson, "_current", None)


@dataclass(frozen=True)
class Tiny:
    """A random BERT of 2 layers for two classes, 100 whole words, and texts that tell the classes apart.

    folder: what ``save_pretrained`` wrote. dataset: columns ``text`` and ``label``, 24 rows.
    """

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    dataset: Dataset

    def model(self) -> PreTrainedModel:
        """The same weights each time."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(self.folder)

    def tokenized(self) -> Dataset:
        """``input_ids``, ``attention_mask`` and ``label``, not padded."""

        def encode(rows: dict) -> dict:
            return self.tokenizer(rows["text"], truncation=True, return_token_type_ids=False)

        return self.dataset.map(encode, batched=True, remove_columns=["text"])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    disable_progress_bars()
    folder = tmp_path_factory.mktemp("tiny-model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
        )
        BertForSequenceClassification(config).save_pretrained(folder)
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_whole_words(), model_max_length=32, **names)
    tokenizer.save_pretrained(folder)
    return Tiny(folder, tokenizer, Dataset.from_dict(_texts()))


def _whole_words() -> Tokenizer:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    numbers = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def _texts() -> dict[str, list]:
    """Texts of 3 to 12 words; class 0 draws from the first half of the words, class 1 from the second."""
    draw, half = random.Random(0), len(WORDS) // 2
    labels = [number % 2 for number in range(24)]
    halves = (WORDS[:half], WORDS[half:])
    return {
        "text": [" ".join(draw.choices(halves[label], k=draw.randint(3, 12))) for label in labels],
        "label": labels,
    }
