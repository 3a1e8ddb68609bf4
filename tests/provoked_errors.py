"""Small programs that provoke the known errors with the installed libraries, and some that show the cure.

``PROVOKED`` and ``LOGGED`` hold (entry, program that raises it) and (entry, program that logs it), ``CURED``
the programs that must run.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tiny
from datasets import ClassLabel, Dataset, DatasetDict, List, Value, concatenate_datasets, load_dataset
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from safetensors.torch import save_file, save_model
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BitsAndBytesConfig,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    T5Config,
    Trainer,
    TrainingArguments,
)

__all__ = ["CURED", "LOGGED", "PROVOKED", "Desk", "Program"]

Program = Callable[["Desk"], Any]
PROVOKED: list[tuple[str, Program]] = []
LOGGED: list[tuple[str, Program]] = []
CURED: list[tuple[str, Program]] = []


class Desk:
    """What the small programs below work with: a tiny model, its tokenizer and data, and a folder."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder
        self.tokenizer, self.dataset = tiny.tokenizer, tiny.dataset
        self.ids = torch.arange(10, 22).reshape(2, 6)
        self.labels = torch.tensor([0, 1])

    def model(self) -> Any:
        return self.tiny.model()

    def writer(self, **config: Any) -> Any:
        """A random GPT-2 of one layer."""
        sizes = {"vocab_size": 100, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2}
        return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1, pad_token_id=0, **config))

    def no_padding(self) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(self.tiny.folder)
        tokenizer.pad_token = None
        return tokenizer

    def rows(self, *columns: str) -> list[dict]:
        """Two tokenized rows of different length."""
        kept = self.tiny.tokenized().select_columns(list(columns))
        return [kept[0], kept[1]]

    def args(self, **changes: Any) -> Any:
        usual = {"max_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
        return TrainingArguments(**{"output_dir": str(self.folder / "out"), **usual, **changes})

    def trainer(self, arguments: dict | None = None, **changes: Any) -> Any:
        usual = {"model": changes.pop("model", None) or self.model(), "args": self.args(**(arguments or {}))}
        data = {"train_dataset": self.tiny.tokenized(), "processing_class": self.tokenizer}
        return Trainer(**{**usual, **data, **changes})

    def saved(self, name: str = "saved") -> Path:
        """A folder with the model."""
        self.model().save_pretrained(self.folder / name)
        return self.folder / name

    def lora(self, **changes: Any) -> Any:
        config = {"task_type": "SEQ_CLS", "target_modules": ["query"], **changes}
        return get_peft_model(self.model(), LoraConfig(**config))

    def adapter(self) -> Path:
        """A folder with an adapter."""
        self.lora().save_pretrained(self.folder / "adapter")
        return self.folder / "adapter"

    def four_bits(self, **changes: Any) -> Any:
        kept = ["classifier", "pooler"]
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=kept, **changes
        )
        return AutoModelForSequenceClassification.from_pretrained(
            self.tiny.folder, quantization_config=config
        )

    def file(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text, encoding="utf-8")
        return str(self.folder / name)


def provokes(name: str) -> Callable[[Program], Program]:
    def keep(function: Program) -> Program:
        PROVOKED.append((name, function))
        return function

    return keep


def logs(name: str) -> Callable[[Program], Program]:
    def keep(function: Program) -> Program:
        LOGGED.append((name, function))
        return function

    return keep


def cures(name: str) -> Callable[[Program], Program]:
    def keep(function: Program) -> Program:
        CURED.append((name, function))
        return function

    return keep


# ---- Python, notebooks and files ------------------------------------------------------------------------


@provokes("a-package-that-this-python-does-not-have")
def missing_package(desk: Desk) -> None:
    import a_package_nobody_has  # noqa: F401


@provokes("a-name-that-nobody-has-defined-yet")
def restarted_kernel(desk: Desk) -> None:
    exec("model", {})


@provokes("a-name-that-the-library-no-longer-has")
def adamw_of_old(desk: Desk) -> None:
    from transformers import AdamW  # noqa: F401


@provokes("a-list-where-a-tensor-is-wanted")
def lists_to_a_model(desk: Desk) -> None:
    desk.model()(desk.tokenizer(["word1"])["input_ids"])


@cures("a-list-where-a-tensor-is-wanted")
def tensors_to_a_model(desk: Desk) -> None:
    desk.model()(**desk.tokenizer(["word1", "word2"], return_tensors="pt", padding=True, truncation=True))


@provokes("a-batch-passed-without-its-two-stars")
def without_stars(desk: Desk) -> None:
    desk.model()(desk.tokenizer("word1", return_tensors="pt"))


@provokes("the-models-whole-answer-where-logits-are-wanted")
def whole_answer(desk: Desk) -> None:
    cross_entropy(desk.model()(input_ids=desk.ids), desk.labels)


@provokes("a-text-without-its-batch-dimension")
def no_batch_dimension(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids[0])


@cures("a-text-without-its-batch-dimension")
def batch_of_one(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids[0].unsqueeze(0))


@provokes("a-file-that-is-not-where-python-looks")
def file_elsewhere(desk: Desk) -> None:
    open("data/train.csv")  # noqa: SIM115


@provokes("a-file-that-is-not-where-python-looks")
def dataset_elsewhere(desk: Desk) -> None:
    load_dataset("csv", data_files="nowhere.csv")


if Path("/dev/full").exists():

    @provokes("the-disk-is-full")
    def full_disk(desk: Desk) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    @provokes("the-disk-is-full")
    def full_disk_of_torch(desk: Desk) -> None:
        torch.save(torch.ones(3), "/dev/full")


# ---- Datasets ---------------------------------------------------------------------------------------------


@provokes("a-column-that-is-not-there")
def no_such_column(desk: Desk) -> None:
    desk.dataset["txt"]


@provokes("a-column-that-is-not-there")
def no_column_to_remove(desk: Desk) -> None:
    desk.dataset.remove_columns("txt")


@provokes("a-key-that-is-not-there")
def no_such_key_in_map(desk: Desk) -> None:
    desk.dataset.map(lambda row: {"words": len(row["txt"].split())})


@provokes("a-key-that-is-not-there")
def no_such_split(desk: Desk) -> None:
    DatasetDict(train=desk.dataset)["test"]


@provokes("a-dictionary-of-splits-where-one-split-is-wanted")
def all_splits_to_trainer(desk: Desk) -> None:
    desk.trainer(train_dataset=DatasetDict(train=desk.tiny.tokenized())).train()


@provokes("a-dictionary-of-splits-where-one-split-is-wanted")
def rows_of_all_splits(desk: Desk) -> None:
    DatasetDict(train=desk.dataset).select(range(2))


@provokes("a-split-that-is-not-there")
def split_of_one_file(desk: Desk) -> None:
    load_dataset("csv", data_files=desk.file("reviews.csv", "text,label\nfine,1\n"), split="test")


@cures("a-split-that-is-not-there")
def split_off(desk: Desk) -> None:
    file = desk.file("reviews.csv", "text,label\n" + "fine,1\n" * 10)
    whole = load_dataset("csv", data_files=file, split="train")
    assert len(whole.train_test_split(test_size=0.2, seed=0)["test"]) == 2


@provokes("a-map-that-returns-another-number-of-rows")
def other_number_of_rows(desk: Desk) -> None:
    desk.dataset.map(lambda rows: {"piece": ["a", "b"]}, batched=True)


@cures("a-map-that-returns-another-number-of-rows")
def old_columns_away(desk: Desk) -> None:
    desk.dataset.map(
        lambda rows: {"piece": ["a", "b"]}, batched=True, remove_columns=desk.dataset.column_names
    )


@provokes("a-map-that-returns-no-dictionary")
def bare_value(desk: Desk) -> None:
    desk.dataset.map(lambda row: row["text"].upper())


@provokes("stratifying-by-a-column-that-is-no-class-label")
def stratify_numbers(desk: Desk) -> None:
    desk.dataset.train_test_split(test_size=0.2, stratify_by_column="label")


@cures("stratifying-by-a-column-that-is-no-class-label")
def stratify_classes(desk: Desk) -> None:
    dataset = desk.dataset.class_encode_column("label")
    dataset.train_test_split(test_size=0.25, stratify_by_column="label", seed=0)


@provokes("a-class-with-a-single-row")
def lonely_class(desk: Desk) -> None:
    dataset = Dataset.from_dict({"label": [0] * 9 + [1]}).class_encode_column("label")
    dataset.train_test_split(test_size=0.2, stratify_by_column="label")


@provokes("a-label-name-that-the-classes-do-not-have")
def unknown_class(desk: Desk) -> None:
    Dataset.from_dict({"label": ["a", "c"]}).cast_column("label", ClassLabel(names=["a", "b"]))


@provokes("two-datasets-with-different-columns")
def numbers_and_words(desk: Desk) -> None:
    concatenate_datasets([desk.dataset, Dataset.from_dict({"label": ["a"]})])


@provokes("a-file-that-cannot-be-read-as-a-dataset")
def broken_line(desk: Desk) -> None:
    load_dataset("json", data_files=desk.file("broken.json", '{"text": "a"}\n{"text": \n'))


@provokes("a-file-that-cannot-be-read-as-a-dataset")
def commas_in_a_text(desk: Desk) -> None:
    load_dataset("csv", data_files=desk.file("commas.csv", "text,label\nfine,1\nwell, so, so, so,2\n"))


@provokes("a-row-number-beyond-the-end")
def too_many_selected(desk: Desk) -> None:
    desk.dataset.select(range(1000))


@provokes("a-row-number-beyond-the-end")
def row_beyond(desk: Desk) -> None:
    desk.dataset[1000]


@cures("a-row-number-beyond-the-end")
def what_there_is(desk: Desk) -> None:
    desk.dataset.select(range(min(1000, len(desk.dataset))))


@provokes("a-dataset-that-is-a-program")
def dataset_script(desk: Desk) -> None:
    load_dataset(desk.file("myset.py", ""))


# ---- Tokenizers and batches ---------------------------------------------------------------------------------


@provokes("a-tokenizer-without-a-padding-token")
def pad_without_token(desk: Desk) -> None:
    desk.no_padding()(["word1", "word1 word2"], padding=True)


@provokes("a-tokenizer-without-a-padding-token")
def collate_without_token(desk: Desk) -> None:
    collate = DataCollatorForLanguageModeling(desk.no_padding(), mlm=False)
    collate([{"input_ids": [1, 2]}, {"input_ids": [1]}])


@cures("a-tokenizer-without-a-padding-token")
def pad_with_another(desk: Desk) -> None:
    tokenizer = desk.no_padding()
    tokenizer.pad_token = tokenizer.sep_token
    tokenizer(["word1", "word1 word2"], padding=True)


def writing_classifier() -> Any:
    sizes = {"vocab_size": 100, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2}
    return GPT2ForSequenceClassification(GPT2Config(**sizes))


@provokes("a-model-that-does-not-know-its-padding-token")
def model_without_padding(desk: Desk) -> None:
    writing_classifier()(input_ids=desk.ids)


@cures("a-model-that-does-not-know-its-padding-token")
def model_with_padding(desk: Desk) -> None:
    model = writing_classifier()
    model.config.pad_token_id = desk.tokenizer.pad_token_id
    model(input_ids=desk.ids)


@provokes("rows-that-make-no-rectangle")
def tensors_without_padding(desk: Desk) -> None:
    desk.tokenizer(["word1", "word1 word2"], return_tensors="pt")


@provokes("rows-that-make-no-rectangle")
def labels_of_each_token(desk: Desk) -> None:
    rows = [row | {"labels": [0] * len(row["input_ids"])} for row in desk.rows("input_ids")]
    DataCollatorWithPadding(desk.tokenizer)(rows)


@provokes("rows-that-make-no-rectangle")
def text_left_in(desk: Desk) -> None:
    DataCollatorWithPadding(desk.tokenizer)([row | {"text": "word1"} for row in desk.rows("input_ids")])


@cures("rows-that-make-no-rectangle")
def labels_padded_too(desk: Desk) -> None:
    rows = [row | {"labels": [0] * len(row["input_ids"])} for row in desk.rows("input_ids")]
    DataCollatorForTokenClassification(desk.tokenizer)(rows)


@provokes("a-tokenizer-fed-with-something-else-than-text")
def missing_text(desk: Desk) -> None:
    desk.tokenizer(["word1", None])


@provokes("a-tokenizer-fed-with-something-else-than-text")
def whole_rows(desk: Desk) -> None:
    desk.dataset.map(lambda rows: desk.tokenizer(dict(rows)), batched=True)


@provokes("a-tokenizer-without-a-chat-template")
def no_chat_template(desk: Desk) -> None:
    desk.tokenizer.apply_chat_template([{"role": "user", "content": "word1"}])


@provokes("a-masked-word-collator-for-a-model-that-writes-text")
def no_mask_token(desk: Desk) -> None:
    tokenizer = desk.no_padding()
    tokenizer.mask_token = None
    DataCollatorForLanguageModeling(tokenizer)


@cures("a-masked-word-collator-for-a-model-that-writes-text")
def without_masks(desk: Desk) -> None:
    DataCollatorForLanguageModeling(desk.tokenizer, mlm=False)(desk.rows("input_ids"))


@provokes("ignored-labels-decoded-to-text")
def decode_labels(desk: Desk) -> None:
    desk.tokenizer.decode([-100, -100, 7])


@cures("ignored-labels-decoded-to-text")
def decode_what_counts(desk: Desk) -> None:
    assert desk.tokenizer.decode([each for each in [-100, -100, 7] if each != -100])


@provokes("a-prompt-longer-than-the-answer-may-be")
def long_prompt(desk: Desk) -> None:
    desk.writer().generate(desk.ids, max_length=3)


@cures("a-prompt-longer-than-the-answer-may-be")
def new_tokens(desk: Desk) -> None:
    desk.writer().generate(desk.ids, max_new_tokens=3)


@logs("padding-on-the-wrong-side-for-writing")
def padded_at_the_right(desk: Desk) -> None:
    mask = torch.ones_like(desk.ids)
    desk.ids[0, -1] = mask[0, -1] = 0
    desk.writer().generate(desk.ids, attention_mask=mask, max_new_tokens=1)


@provokes("rows-left-unpadded-by-the-plain-collator")
def plain_collator(desk: Desk) -> None:
    desk.trainer(processing_class=None).train()


@provokes("rows-left-unpadded-by-the-plain-collator")
def plain_loader(desk: Desk) -> None:
    next(iter(DataLoader(desk.tiny.tokenized(), batch_size=4)))


@cures("rows-left-unpadded-by-the-plain-collator")
def padding_trainer(desk: Desk) -> None:
    desk.trainer().train()


# ---- Models and their files ---------------------------------------------------------------------------------


@provokes("no-way-to-the-hugging-face-hub")
def model_offline(desk: Desk) -> None:
    AutoModel.from_pretrained("no-such-model", cache_dir=desk.folder)


@provokes("no-way-to-the-hugging-face-hub")
def dataset_offline(desk: Desk) -> None:
    load_dataset("no-such-dataset", cache_dir=str(desk.folder))


@provokes("a-model-folder-that-is-not-there")
def mistyped_folder(desk: Desk) -> None:
    AutoModel.from_pretrained("outputs/a/my-model")


@provokes("a-model-folder-that-is-not-there")
def mistyped_folder_here(desk: Desk) -> None:
    AutoTokenizer.from_pretrained("./my-model")


@provokes("a-folder-without-a-model")
def empty_folder(desk: Desk) -> None:
    AutoModel.from_pretrained(desk.folder)


@provokes("a-file-missing-from-a-models-folder")
def no_weights(desk: Desk) -> None:
    desk.model().config.save_pretrained(desk.folder)
    AutoModelForSequenceClassification.from_pretrained(desk.folder)


@provokes("a-weight-file-that-is-not-whole")
def half_a_file(desk: Desk) -> None:
    file = desk.saved() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    AutoModelForSequenceClassification.from_pretrained(file.parent)


@provokes("a-weight-file-that-is-not-whole")
def place_holder(desk: Desk) -> None:
    file = desk.saved() / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    AutoModelForSequenceClassification.from_pretrained(file.parent)


@provokes("a-weight-file-that-could-hide-a-program")
def pickled_model(desk: Desk) -> None:
    torch.save(desk.model(), desk.folder / "model.pt")
    torch.load(desk.folder / "model.pt")


@cures("a-weight-file-that-could-hide-a-program")
def pickled_weights(desk: Desk) -> None:
    torch.save(desk.model().state_dict(), desk.folder / "model.pt")
    desk.model().load_state_dict(torch.load(desk.folder / "model.pt"))


@provokes("weights-that-share-their-memory")
def tied_weights(desk: Desk) -> None:
    save_file(desk.writer().state_dict(), desk.folder / "model.safetensors")


@cures("weights-that-share-their-memory")
def tied_weights_saved(desk: Desk) -> None:
    save_model(desk.writer(), str(desk.folder / "model.safetensors"))


@provokes("a-head-for-another-number-of-classes")
def other_number_of_classes(desk: Desk) -> None:
    AutoModelForSequenceClassification.from_pretrained(desk.tiny.folder, num_labels=5)


@cures("a-head-for-another-number-of-classes")
def fresh_head(desk: Desk) -> None:
    AutoModelForSequenceClassification.from_pretrained(
        desk.tiny.folder, num_labels=5, ignore_mismatched_sizes=True
    )


@provokes("weights-of-another-model")
def missing_keys(desk: Desk) -> None:
    torch.nn.Linear(3, 2).load_state_dict({"module.weight": torch.ones(2, 3)})


@provokes("a-file-of-json-that-is-not-whole")
def edited_config(desk: Desk) -> None:
    (desk.saved() / "config.json").write_text('{"model_type": "bert",}')
    AutoModel.from_pretrained(desk.folder / "saved")


@provokes("a-file-of-json-that-is-not-whole")
def half_a_checkpoint(desk: Desk) -> None:
    desk.trainer({"save_steps": 1}).train()
    state = desk.folder / "out/checkpoint-1/trainer_state.json"
    state.write_text(state.read_text()[:-60])
    desk.trainer({"max_steps": 2}).train(resume_from_checkpoint=str(state.parent))


@provokes("a-model-newer-than-the-library")
def unknown_architecture(desk: Desk) -> None:
    desk.file("config.json", '{"model_type": "futureformer"}')
    AutoModel.from_pretrained(desk.folder)


@provokes("a-tokenizer-file-newer-than-the-library")
def unknown_tokenizer(desk: Desk) -> None:
    desk.tokenizer.save_pretrained(desk.folder)
    file = desk.folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": {"type": "Novel", "vocab": {}}}))
    AutoTokenizer.from_pretrained(desk.folder)


if not importlib.util.find_spec("tiktoken") and not importlib.util.find_spec("sentencepiece"):

    @provokes("a-tokenizer-that-needs-another-package")
    def older_tokenizer(desk: Desk) -> None:
        desk.file("config.json", '{"model_type": "llama"}')
        desk.file("tokenizer_config.json", '{"tokenizer_class": "LlamaTokenizer"}')
        (desk.folder / "tokenizer.model").write_bytes(b"\n\x0f")
        AutoTokenizer.from_pretrained(desk.folder)


@provokes("a-model-that-brings-its-own-program")
def custom_code(desk: Desk) -> None:
    desk.file("special.py", "")
    desk.file("config.json", '{"model_type": "special", "auto_map": {"AutoConfig": "special.Special"}}')
    AutoModel.from_pretrained(desk.folder, trust_remote_code=False)


@provokes("a-model-of-the-wrong-kind-for-this-class")
def encoder_decoder_as_decoder(desk: Desk) -> None:
    T5Config().save_pretrained(desk.folder)
    AutoModelForCausalLM.from_pretrained(desk.folder)


@logs("a-head-that-starts-untrained")
def head_on_a_base(desk: Desk) -> None:
    desk.model().bert.save_pretrained(desk.folder)
    AutoModelForSequenceClassification.from_pretrained(desk.folder)


# ---- Tensors, devices and memory ------------------------------------------------------------------------------


@provokes("labels-out-of-range")
def third_of_two_classes(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids, labels=desk.labels + 2)


@provokes("labels-out-of-range")
def label_minus_one(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids, labels=desk.labels - 1)


@cures("labels-out-of-range")
def enough_classes(desk: Desk) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        desk.tiny.folder, num_labels=4, ignore_mismatched_sizes=True
    )
    model(input_ids=desk.ids, labels=desk.labels + 2)


@provokes("a-number-too-large-for-an-embedding-table")
def token_of_another_model(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids + 100)


@provokes("a-number-too-large-for-an-embedding-table")
def position_too_far(desk: Desk) -> None:
    desk.writer()(input_ids=desk.ids.repeat(1, 10))


@cures("a-number-too-large-for-an-embedding-table")
def more_rows(desk: Desk) -> None:
    model = desk.model()
    model.resize_token_embeddings(200)
    model(input_ids=desk.ids + 100)


@provokes("a-text-longer-than-the-model-can-read")
def not_truncated(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids.repeat(1, 10))


@logs("a-text-longer-than-the-model-can-read")
def tokenized_in_full(desk: Desk) -> None:
    desk.tokenizer.deprecation_warnings.clear()
    desk.tokenizer("word1 " * 50)


@cures("a-text-longer-than-the-model-can-read")
def truncated(desk: Desk) -> None:
    desk.model()(**desk.tokenizer("word1 " * 50, truncation=True, max_length=16, return_tensors="pt"))


@provokes("tensors-on-two-devices")
def two_devices(desk: Desk) -> None:
    torch.nn.Linear(3, 2).to("meta")(torch.ones(1, 3))  # a second device that every machine has


@cures("tensors-on-two-devices")
def one_device(desk: Desk) -> None:
    layer = torch.nn.Linear(3, 2).to("meta")
    layer(torch.ones(1, 3, device=layer.weight.device))


@provokes("weights-that-were-never-loaded")
def from_meta(desk: Desk) -> None:
    torch.nn.Linear(3, 2, device="meta").to("cpu")


@provokes("shapes-that-cannot-be-multiplied")
def wrong_width(desk: Desk) -> None:
    torch.nn.Linear(384, 2)(torch.ones(4, 768))


@cures("shapes-that-cannot-be-multiplied")
def width_of_the_model(desk: Desk) -> None:
    model = desk.model()
    torch.nn.Linear(model.config.hidden_size, 2)(model.bert(input_ids=desk.ids).last_hidden_state)


@provokes("sizes-that-do-not-match")
def three_and_four(desk: Desk) -> None:
    torch.ones(3) + torch.ones(4)


@provokes("two-kinds-of-numbers-in-one-multiplication")
def half_a_layer(desk: Desk) -> None:
    torch.nn.Linear(3, 2).bfloat16()(torch.ones(1, 3))


@provokes("two-kinds-of-numbers-in-one-multiplication")
def half_a_product(desk: Desk) -> None:
    torch.ones(2, 3) @ torch.ones(3, 2, dtype=torch.bfloat16)


@provokes("two-kinds-of-numbers-in-one-multiplication")
def half_a_model(desk: Desk) -> None:
    desk.model().half()(inputs_embeds=torch.ones(1, 3, 32))


@cures("two-kinds-of-numbers-in-one-multiplication")
def mixed_by_autocast(desk: Desk) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.nn.Linear(3, 2).bfloat16()(torch.ones(1, 3))


@provokes("token-ids-that-are-not-whole-numbers")
def empty_text(desk: Desk) -> None:
    desk.model().bert.embeddings.word_embeddings(torch.tensor([]))


@provokes("examples-of-different-length-in-one-batch")
def ragged_batch(desk: Desk) -> None:
    next(iter(DataLoader(desk.tiny.tokenized().with_format("torch"), batch_size=4)))


@cures("examples-of-different-length-in-one-batch")
def padded_batch(desk: Desk) -> None:
    collate = DataCollatorWithPadding(desk.tokenizer)
    next(iter(DataLoader(desk.tiny.tokenized(), batch_size=4, collate_fn=collate)))


@provokes("labels-for-another-number-of-rows")
def one_label_too_many(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids, labels=desk.labels.repeat(2))


@provokes("class-labels-given-as-decimals")
def decimal_labels(desk: Desk) -> None:
    cross_entropy(desk.model()(input_ids=desk.ids).logits, desk.labels.float())


@provokes("several-labels-given-as-whole-numbers")
def whole_labels(desk: Desk) -> None:
    model = desk.model()
    model.config.problem_type = "multi_label_classification"
    model(input_ids=desk.ids, labels=torch.tensor([[0, 1], [1, 0]]))


@cures("several-labels-given-as-whole-numbers")
def decimals_for_several_labels(desk: Desk) -> None:
    model = desk.model()
    model.config.problem_type = "multi_label_classification"
    rows = Dataset.from_dict({"labels": [[0, 1], [1, 0]]}).cast_column("labels", List(Value("float32")))
    model(input_ids=desk.ids, labels=torch.tensor(list(rows["labels"])))


@provokes("not-enough-memory-on-this-computer")
def petabyte(desk: Desk) -> None:
    torch.empty(2**50)


def no_gpu() -> bool:
    return not torch.cuda.is_available()


@provokes("no-gpu-for-pytorch")
def to_the_gpu(desk: Desk) -> None:
    if not no_gpu():
        pytest.skip("this machine has a GPU")
    torch.ones(2).to("cuda")


@provokes("a-tensor-that-numpy-cannot-hold")
def bfloat16_to_numpy(desk: Desk) -> None:
    torch.ones(2, dtype=torch.bfloat16).numpy()


@cures("a-tensor-that-numpy-cannot-hold")
def float32_to_numpy(desk: Desk) -> None:
    torch.ones(2, dtype=torch.bfloat16).float().cpu().numpy()


@provokes("one-number-wanted-and-many-given")
def item_of_three(desk: Desk) -> None:
    torch.ones(3).item()


@provokes("a-yes-or-no-asked-of-many-numbers")
def if_tensor(desk: Desk) -> None:
    if desk.labels == desk.labels:
        pass


@provokes("a-yes-or-no-asked-of-many-numbers")
def if_array(desk: Desk) -> None:
    if desk.labels.numpy() == desk.labels.numpy():
        pass


# ---- Gradients ----------------------------------------------------------------------------------------------


@provokes("nothing-to-train")
def all_frozen(desk: Desk) -> None:
    desk.model().requires_grad_(False)(input_ids=desk.ids, labels=desk.labels).loss.backward()


@provokes("nothing-to-train")
def adapter_for_use_only(desk: Desk) -> None:
    model = PeftModel.from_pretrained(desk.model(), desk.adapter())
    model(input_ids=desk.ids, labels=desk.labels).loss.backward()


@cures("nothing-to-train")
def head_unfrozen(desk: Desk) -> None:
    model = desk.model().requires_grad_(False)
    model.classifier.requires_grad_(True)
    model(input_ids=desk.ids, labels=desk.labels).loss.backward()


@cures("nothing-to-train")
def adapter_to_train_on(desk: Desk) -> None:
    model = PeftModel.from_pretrained(desk.model(), desk.adapter(), is_trainable=True)
    model(input_ids=desk.ids, labels=desk.labels).loss.backward()


@provokes("an-optimiser-without-weights")
def nothing_to_optimise(desk: Desk) -> None:
    model = desk.model().requires_grad_(False)
    torch.optim.AdamW([each for each in model.parameters() if each.requires_grad])


@provokes("a-backward-pass-done-twice")
def twice_backward(desk: Desk) -> None:
    loss = desk.model()(input_ids=desk.ids, labels=desk.labels).loss
    loss.backward()
    loss.backward()


@provokes("a-value-changed-that-the-backward-pass-needs")
def changed_in_place(desk: Desk) -> None:
    y = torch.ones(3, requires_grad=True).exp()
    y += 1
    y.sum().backward()


@cures("a-value-changed-that-the-backward-pass-needs")
def a_new_tensor(desk: Desk) -> None:
    y = torch.ones(3, requires_grad=True).exp()
    y = y + 1
    y.sum().backward()


@provokes("a-weight-changed-by-hand")
def leaf_changed(desk: Desk) -> None:
    weight = torch.ones(3, requires_grad=True)
    weight -= 0.1


@cures("a-weight-changed-by-hand")
def leaf_changed_unrecorded(desk: Desk) -> None:
    weight = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        weight -= 0.1


@provokes("a-gradient-of-more-than-one-number")
def backward_of_logits(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids).logits.backward()


@provokes("numpy-asked-for-a-tensor-that-is-being-learned-from")
def numpy_of_logits(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids).logits.numpy()


@cures("numpy-asked-for-a-tensor-that-is-being-learned-from")
def numpy_without_gradients(desk: Desk) -> None:
    with torch.no_grad():
        desk.model()(input_ids=desk.ids).logits.numpy()


@provokes("whole-numbers-that-cannot-be-learned")
def quantised_weights_unfrozen(desk: Desk) -> None:
    for parameter in desk.four_bits().parameters():
        parameter.requires_grad = True


@provokes("whole-numbers-that-cannot-be-learned")
def quantised_model_unfrozen(desk: Desk) -> None:
    desk.four_bits().requires_grad_(True)


@provokes("mixed-precision-with-weights-in-float16")
def float16_weights(desk: Desk) -> None:
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer, scaler = torch.optim.SGD([weight], 0.1), torch.amp.GradScaler("cpu")
    scaler.scale((weight * weight).sum()).backward()
    scaler.unscale_(optimizer)


def checkpointed(**options: Any) -> None:
    warnings.simplefilter("error")
    checkpoint(torch.nn.Linear(2, 2), torch.ones(1, 2), **options).sum().backward()


@provokes("activation-checkpointing-cut-off-from-the-inputs")
def reentrant(desk: Desk) -> None:
    checkpointed(use_reentrant=True)


@cures("activation-checkpointing-cut-off-from-the-inputs")
def not_reentrant(desk: Desk) -> None:
    checkpointed(use_reentrant=False)


# ---- Trainer ------------------------------------------------------------------------------------------------


@provokes("a-training-argument-with-an-unknown-name")
def evaluation_strategy(desk: Desk) -> None:
    desk.args(evaluation_strategy="epoch")


@provokes("a-training-argument-with-an-unknown-name")
def no_cuda(desk: Desk) -> None:
    desk.args(no_cuda=True)


@cures("a-training-argument-with-an-unknown-name")
def newer_names(desk: Desk) -> None:
    desk.args(eval_strategy="epoch", use_cpu=True, train_sampling_strategy="group_by_length")


@provokes("a-tokenizer-given-to-trainer-by-its-old-name")
def tokenizer_for_trainer(desk: Desk) -> None:
    desk.trainer(tokenizer=desk.tokenizer)


@provokes("an-argument-whose-name-is-going-away")
def older_name(desk: Desk) -> None:
    warnings.simplefilter("error")
    desk.args(gradient_checkpointing=True)


@cures("an-argument-whose-name-is-going-away")
def newer_name(desk: Desk) -> None:
    warnings.simplefilter("error")
    desk.args(activation_checkpointing=True)


@provokes("a-strategy-that-does-not-exist")
def epochs(desk: Desk) -> None:
    desk.args(save_strategy="epochs")


@provokes("evaluation-asked-for-without-data-for-it")
def no_validation(desk: Desk) -> None:
    desk.trainer({"eval_strategy": "epoch"})


@cures("evaluation-asked-for-without-data-for-it")
def validation(desk: Desk) -> None:
    desk.trainer({"eval_strategy": "epoch"}, eval_dataset=desk.tiny.tokenized())


@provokes("training-without-training-data")
def no_training_data(desk: Desk) -> None:
    desk.trainer(train_dataset=None).train()


@provokes("saving-and-evaluating-at-different-times")
def best_of_other_steps(desk: Desk) -> None:
    desk.args(load_best_model_at_end=True, eval_strategy="epoch")


@provokes("saving-and-evaluating-at-different-times")
def best_of_no_multiple(desk: Desk) -> None:
    desk.args(load_best_model_at_end=True, eval_strategy="steps", eval_steps=100, save_steps=150)


@cures("saving-and-evaluating-at-different-times")
def best_of_each_epoch(desk: Desk) -> None:
    desk.args(load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")


BEST_BY_F1 = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "f1",
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_steps": 1,
}


@provokes("the-metric-for-the-best-model-is-missing")
def best_by_what(desk: Desk) -> None:
    desk.trainer(BEST_BY_F1, eval_dataset=desk.tiny.tokenized()).train()


@provokes("the-metric-for-the-best-model-is-missing")
def best_without_labels(desk: Desk) -> None:
    unlabelled = desk.tiny.tokenized().remove_columns("label")
    desk.trainer(BEST_BY_F1, eval_dataset=unlabelled, compute_metrics=lambda output: {"f1": 1.0}).train()


@cures("the-metric-for-the-best-model-is-missing")
def best_by_f1(desk: Desk) -> None:
    data = desk.tiny.tokenized()
    desk.trainer(BEST_BY_F1, eval_dataset=data, compute_metrics=lambda output: {"f1": 1.0}).train()


@provokes("no-column-that-the-model-knows")
def names_of_their_own(desk: Desk) -> None:
    desk.trainer(train_dataset=desk.dataset.rename_columns({"text": "words", "label": "class"})).train()


@provokes("rows-that-were-never-tokenized")
def texts_to_trainer(desk: Desk) -> None:
    desk.trainer(train_dataset=desk.dataset).train()


@provokes("the-model-returned-no-loss")
def labels_by_another_name(desk: Desk) -> None:
    desk.trainer(train_dataset=desk.tiny.tokenized().rename_column("label", "sentiment")).train()


@provokes("the-model-returned-no-loss")
def no_head(desk: Desk) -> None:
    desk.trainer(model=desk.model().bert).train()


@cures("the-model-returned-no-loss")
def labels_by_their_name(desk: Desk) -> None:
    desk.trainer(train_dataset=desk.tiny.tokenized().rename_column("label", "labels")).train()


@provokes("a-loss-that-is-not-there")
def label_without_s(desk: Desk) -> None:
    desk.model()(input_ids=desk.ids, label=desk.labels).loss.backward()


@provokes("a-stream-of-unknown-length")
def stream(desk: Desk) -> None:
    desk.trainer({"max_steps": -1}, train_dataset=desk.tiny.tokenized().to_iterable_dataset())


@provokes("two-kinds-of-half-precision-at-once")
def both_halves(desk: Desk) -> None:
    desk.args(fp16=True, bf16=True)


@provokes("half-precision-on-a-machine-without-it")
def bfloat16_without_a_gpu(desk: Desk) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
        desk.args(bf16=True, use_cpu=False)


@cures("half-precision-on-a-machine-without-it")
def bfloat16_on_the_cpu(desk: Desk) -> None:
    desk.args(bf16=True, use_cpu=True)


@provokes("a-number-given-as-text")
def rate_as_text(desk: Desk) -> None:
    desk.trainer({"learning_rate": "2e-5"}).train()


@provokes("no-checkpoint-to-go-on-from")
def no_checkpoint(desk: Desk) -> None:
    desk.trainer().train(resume_from_checkpoint=True)


@provokes("no-checkpoint-to-go-on-from")
def no_such_checkpoint(desk: Desk) -> None:
    desk.trainer().train(resume_from_checkpoint=str(desk.folder / "out/checkpoint-500"))


@provokes("a-checkpoint-file-that-is-not-whole")
def half_an_optimizer(desk: Desk) -> None:
    desk.trainer({"save_steps": 1}).train()
    file = desk.folder / "out/checkpoint-1/optimizer.pt"
    file.write_bytes(file.read_bytes()[:-5000])
    desk.trainer({"max_steps": 2}).train(resume_from_checkpoint=str(file.parent))


# ---- Metrics --------------------------------------------------------------------------------------------------


@provokes("scores-given-where-classes-are-wanted")
def logits_to_accuracy(desk: Desk) -> None:
    accuracy_score([0, 1], [[0.1, 0.9], [0.8, 0.2]])


@provokes("an-average-to-be-chosen-for-several-classes")
def f1_of_three(desk: Desk) -> None:
    f1_score([0, 1, 2], [0, 1, 1])


@cures("an-average-to-be-chosen-for-several-classes")
def macro_f1_of_three(desk: Desk) -> None:
    f1_score([0, 1, 2], [0, 1, 1], average="macro")


@provokes("more-predictions-than-labels-or-fewer")
def one_prediction_short(desk: Desk) -> None:
    accuracy_score([0, 1, 1], [0, 1])


@provokes("missing-numbers-in-a-metric")
def nan_to_metric(desk: Desk) -> None:
    mean_squared_error([0.0, 1.0], [0.0, float("nan")])


@provokes("missing-numbers-in-a-metric")
def nan_to_regression(desk: Desk) -> None:
    LogisticRegression().fit([[float("nan")], [1.0]], [0, 1])


@provokes("rows-of-different-length-for-numpy")
def several_outputs(desk: Desk) -> None:
    np.argmax((np.ones((4, 2)), np.ones((4, 3, 5))), axis=-1)


@provokes("a-metric-function-that-returns-no-dictionary")
def bare_metric(desk: Desk) -> None:
    desk.trainer(compute_metrics=lambda output: 0.5, eval_dataset=desk.tiny.tokenized()).evaluate()


# ---- Adapters and quantised models -------------------------------------------------------------------------------


@provokes("target-modules-that-the-model-does-not-have")
def modules_of_llama(desk: Desk) -> None:
    desk.lora(target_modules=["q_proj", "v_proj"])


@provokes("target-modules-that-the-model-does-not-have")
def adapter_on_another_family(desk: Desk) -> None:
    PeftModel.from_pretrained(desk.writer(), desk.adapter())


@provokes("target-modules-that-the-model-does-not-have")
def modules_of_llama_alone(desk: Desk) -> None:
    get_peft_model(desk.model(), LoraConfig(target_modules=["q_proj"]))


@cures("target-modules-that-the-model-does-not-have")
def modules_of_bert(desk: Desk) -> None:
    desk.lora(target_modules=["query", "value"])
    desk.lora(target_modules="all-linear")


@provokes("target-modules-to-be-named")
def own_model(desk: Desk) -> None:
    get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraConfig())


@provokes("a-target-that-is-no-layer-of-weights")
def whole_block(desk: Desk) -> None:
    desk.lora(target_modules=["attention"])


@provokes("a-target-that-is-no-layer-of-weights")
def normalisation(desk: Desk) -> None:
    desk.lora(target_modules=["LayerNorm"])


@provokes("a-rank-that-is-not-positive")
def rank_zero(desk: Desk) -> None:
    desk.lora(r=0)


@provokes("a-task-type-that-peft-does-not-know")
def guessed_task(desk: Desk) -> None:
    desk.lora(task_type="CLASSIFICATION")


@provokes("an-adapter-on-another-base-model")
def adapter_on_a_wider_base(desk: Desk) -> None:
    sizes = {"vocab_size": 100, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    wider = BertForSequenceClassification(BertConfig(hidden_size=64, **sizes))
    PeftModel.from_pretrained(wider, desk.adapter())


@provokes("an-adapter-on-another-base-model")
def adapter_on_more_classes(desk: Desk) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(
        desk.tiny.folder, num_labels=5, ignore_mismatched_sizes=True
    )
    PeftModel.from_pretrained(base, desk.adapter())


@provokes("a-folder-without-an-adapter")
def model_as_adapter(desk: Desk) -> None:
    PeftModel.from_pretrained(desk.model(), str(desk.tiny.folder))


@provokes("an-adapter-by-a-name-that-is-not-there")
def unnamed_adapter(desk: Desk) -> None:
    desk.lora().set_adapter("mine")


@cures("an-adapter-by-a-name-that-is-not-there")
def named_adapter(desk: Desk) -> None:
    model, folder = desk.lora(), desk.adapter()
    model.load_adapter(folder, adapter_name="mine")
    model.set_adapter("mine")


@provokes("an-adapters-name-that-is-taken")
def second_default(desk: Desk) -> None:
    desk.lora().add_adapter("default", LoraConfig(target_modules=["query"]))


@provokes("merging-what-has-no-adapter")
def merged_twice(desk: Desk) -> None:
    desk.lora().merge_and_unload().merge_and_unload()


@provokes("merging-what-has-no-adapter")
def merged_prompt(desk: Desk) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(desk.writer(), config).merge_and_unload()


@provokes("an-adapter-that-is-merged-already")
def merged_again(desk: Desk) -> None:
    model = desk.lora()
    model.merge_adapter()
    warnings.simplefilter("error")
    model.merge_adapter()


@provokes("a-second-adapter-by-accident")
def cell_run_twice(desk: Desk) -> None:
    model = desk.lora()
    warnings.simplefilter("error", UserWarning)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))


@provokes("prefix-tuning-with-gradient-checkpointing")
def prefix_and_checkpointing(desk: Desk) -> None:
    model = desk.writer()
    model.activation_checkpointing_enable()
    get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))


@cures("prefix-tuning-with-gradient-checkpointing")
def prompt_and_checkpointing(desk: Desk) -> None:
    model = desk.writer()
    model.activation_checkpointing_enable()
    model = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    model(input_ids=desk.ids, labels=desk.ids).loss.backward()


@provokes("training-a-quantised-model-without-an-adapter")
def four_bits_to_trainer(desk: Desk) -> None:
    desk.trainer(model=desk.four_bits())


@cures("training-a-quantised-model-without-an-adapter")
def adapter_on_four_bits(desk: Desk) -> None:
    model = prepare_model_for_kbit_training(desk.four_bits())
    desk.trainer(model=get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"])))


@provokes("quantisation-without-bitsandbytes")
def no_bitsandbytes(desk: Desk) -> None:
    with pytest.MonkeyPatch.context() as patch:
        module = "transformers.quantizers.quantizer_bnb_4bit"
        patch.setattr(f"{module}.is_bitsandbytes_available", lambda: False)
        desk.four_bits()


@provokes("quantisation-asked-for-in-the-old-way")
def load_in_4bit(desk: Desk) -> None:
    AutoModelForSequenceClassification.from_pretrained(desk.tiny.folder, load_in_4bit=True)


@provokes("4-bits-and-8-bits-at-once")
def twelve_bits(desk: Desk) -> None:
    desk.four_bits(load_in_8bit=True)


@provokes("a-quantised-model-asked-for-another-kind-of-number")
def half_of_four_bits(desk: Desk) -> None:
    desk.four_bits().half()


@provokes("a-quantised-model-asked-for-another-kind-of-number")
def four_bits_to_bfloat16(desk: Desk) -> None:
    desk.four_bits().to(torch.bfloat16)


@provokes("merging-into-4-bit-weights")
def merge_into_four_bits(desk: Desk) -> None:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    model = get_peft_model(desk.four_bits(), config)
    warnings.simplefilter("error", UserWarning)
    model.merge_and_unload()
