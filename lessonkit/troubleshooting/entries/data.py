"""Errors of datasets and of the functions that prepare them."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="A column that is not there",
        errors=("ValueError", "KeyError"),
        pattern=r"^\"?Column '[^']*' doesn't exist|Column name \[.*\] not in the dataset|"
        r"Column name \w+ not in the dataset|Column to remove \[.*\] not in the dataset",
        example="Column 'txt' doesn't exist.",
        meaning="The dataset has no column of that name.",
        cause="A typo, another dataset than you think, or a step before that renamed or removed the column.",
        cure=(
            "See the names: `print(dataset.column_names)`.",
            "Write the name as it stands there, or rename: `dataset.rename_column('sentence', 'text')`.",
        ),
        before='dataset["txt"]',
        after='dataset["text"]',
        packages=("datasets",),
    ),
    Entry(
        title="A key that is not there",
        errors=("KeyError",),
        pattern=r"^'[^']*'$",
        example="'txt'",
        meaning="A row, a dictionary or a set of splits has no entry of that name. The message is nothing but the name.",
        cause="In `dataset.map`, a column that the rows do not have; else a split that is not there, a metric that was "
        "not computed, or a typo.",
        cure=(
            "See what there is: `print(dataset.column_names)`, `print(row.keys())`, or `print(dataset)` for the splits.",
            "Without a test split, make one: `dataset['train'].train_test_split(test_size=0.2, seed=0)`.",
        ),
        before='dataset.map(lambda row: {"words": len(row["txt"].split())})',
        after='dataset.map(lambda row: {"words": len(row["text"].split())})',
        packages=("datasets",),
        general=True,
    ),
    Entry(
        title="A dictionary of splits where one split is wanted",
        errors=("KeyError", "AttributeError"),
        pattern=r"Invalid key: .* Please first select a split|'DatasetDict' object has no attribute",
        example="\"Invalid key: 0. Please first select a split. For example: `my_dataset_dictionary['train'][0]`. Available "
        "splits: ['train']\"",
        meaning="You hold a `DatasetDict`, with a dataset for each split, and it was used as one dataset.",
        cause="`load_dataset(...)` without `split=` returns all splits, and the whole of it went to the Trainer, "
        "or was used with a method of one dataset, such as `select`.",
        cure=("Take the split: `dataset['train']`, or load it with `split='train'`.",),
        before="Trainer(..., train_dataset=dataset)",
        after='Trainer(..., train_dataset=dataset["train"])',
        packages=("datasets",),
    ),
    Entry(
        title="A split that is not there",
        errors=("ValueError",),
        pattern=r"Unknown split \".*\"\. Should be one of",
        example="Unknown split \"test\". Should be one of ['train'].",
        meaning="The files hold other splits than the one that was asked for; the message lists them.",
        cause="One file without further word is the split `train`, whatever is in it.",
        cure=(
            "Ask for one that the message lists.",
            "Say which file is which: `data_files={'train': 'a.csv', 'test': 'b.csv'}`.",
            "Or cut a test set off: `dataset.train_test_split(test_size=0.2, seed=0)`.",
        ),
        before='load_dataset("csv", data_files="reviews.csv", split="test")',
        after="""\
whole = load_dataset("csv", data_files="reviews.csv", split="train")
parts = whole.train_test_split(test_size=0.2, seed=0)""",
        packages=("datasets",),
    ),
    Entry(
        title="A map that returns another number of rows",
        errors=("ArrowInvalid",),
        pattern=r"Column \d+ named .* expected length \d+ but got length \d+",
        example="Column 2 named n expected length 24 but got length 2",
        meaning="The columns of a table must be equally long, and a new one has another number of rows than the old ones.",
        cause="A function for `map(batched=True)` cuts long texts into pieces or drops some, while the old columns stay; "
        "or it treats the batch as a single row.",
        cure=(
            "If rows are split or dropped, take the old columns away: `remove_columns=dataset.column_names`.",
            "With `batched=True` the function gets lists and returns lists, one entry for each row.",
        ),
        before="dataset.map(cut_in_pieces, batched=True)",
        after="dataset.map(cut_in_pieces, batched=True, remove_columns=dataset.column_names)",
        packages=("datasets",),
    ),
    Entry(
        title="A map that returns no dictionary",
        errors=("TypeError",),
        pattern=r"Provided `function` which is applied to .* returns a variable of type",
        example="Provided `function` which is applied to all elements of table returns a variable of type <class 'str'>. "
        "Make sure provided `function` returns a variable of type `dict`",
        meaning="A function for `map` returns columns by name, and this one returned a bare value.",
        cause="The function returns the new text or number itself.",
        cure=("Return a dictionary: the column's name and its value.",),
        before='dataset.map(lambda row: row["text"].lower())',
        after='dataset.map(lambda row: {"text": row["text"].lower()})',
        packages=("datasets",),
    ),
    Entry(
        title="Stratifying by a column that is no class label",
        errors=("ValueError",),
        pattern=r"Stratifying by column is only supported for ClassLabel column",
        example="Stratifying by column is only supported for ClassLabel column, and column label is Value.",
        meaning="To keep the classes' shares equal in both parts, the dataset must know that the column holds classes.",
        cause="The labels are plain numbers or words, as they come from a CSV or JSON file.",
        cure=("Turn the column into classes first: `dataset = dataset.class_encode_column('label')`.",),
        before='dataset.train_test_split(test_size=0.2, stratify_by_column="label")',
        after="""\
dataset = dataset.class_encode_column("label")
parts = dataset.train_test_split(test_size=0.2, stratify_by_column="label", seed=0)""",
        packages=("datasets",),
    ),
    Entry(
        title="A class with a single row",
        errors=("ValueError",),
        pattern=r"The least populated class in .* (?:has|have) only 1 member",
        example="The least populated class in label column has only 1 member, which is too few. The minimum number of "
        "groups for any class cannot be less than 2.",
        meaning="A class with one row cannot be in the training part and in the test part.",
        cause="A rare class, or a mistyped label that became a class of its own.",
        cure=(
            "Count the classes: `collections.Counter(dataset['label'])`.",
            "Mend the mistyped ones; drop or merge what is too rare to be learned and measured.",
        ),
        packages=("datasets",),
    ),
    Entry(
        title="A label name that the classes do not have",
        errors=("ValueError",),
        pattern=r"Invalid string class label",
        example="Invalid string class label c",
        meaning="A label is a word that is not among the names given to `ClassLabel`.",
        cause="Capitals, spaces at the ends, or a class left out of the list of names.",
        cure=(
            "See what there is: `sorted(set(dataset['label']))`.",
            "Let the dataset make the list: `dataset.class_encode_column('label')`.",
        ),
        packages=("datasets",),
    ),
    Entry(
        title="Two datasets with different columns",
        errors=("ValueError",),
        pattern=r"The features can't be aligned",
        example="The features can't be aligned because the key label of features {'label': Value('string')} has "
        "unexpected type - Value('string') (expected either Value('int64') or Value(\"null\").",
        meaning="Datasets can be joined if their columns of one name hold the same kind of values.",
        cause="Labels are words in one and numbers in the other, or classes with different names.",
        cure=(
            "Compare: `print(first.features, second.features)`.",
            "Turn the one into the other's kind: `second = second.cast(first.features)`; words to numbers by a `map` first.",
        ),
        packages=("datasets",),
    ),
    Entry(
        title="A file that cannot be read as a dataset",
        errors=("DatasetGenerationError",),
        pattern=r"An error occurred while generating the dataset",
        example="An error occurred while generating the dataset",
        meaning="The file was found, and reading it failed. What exactly is said further up in the traceback.",
        cause="A CSV file with a comma inside an unquoted text, a JSON file with a broken line, or files with different "
        "columns.",
        cure=(
            "Scroll up to the error above this one: it names the line or the column.",
            "Look at that line in a text editor; in JSON Lines each line is one whole object.",
            "Texts with commas belong between quotation marks in a CSV file.",
        ),
        packages=("datasets",),
    ),
    Entry(
        title="A row number beyond the end",
        errors=("IndexError",),
        pattern=r"Invalid key: -?\d+ is out of bounds for size \d+|Index -?\d+ out of range for dataset of size \d+",
        example="Index 99 out of range for dataset of size 24.",
        meaning="Rows are counted from 0; a dataset of 24 rows ends with row 23.",
        cause="`select(range(1000))` on a dataset with fewer rows, often after filtering.",
        cure=("Take at most what there is: `dataset.select(range(min(1000, len(dataset))))`.",),
        before="dataset.select(range(1000))",
        after="dataset.select(range(min(1000, len(dataset))))",
        packages=("datasets",),
    ),
    Entry(
        title="A dataset that is a program",
        errors=("RuntimeError",),
        pattern=r"Dataset scripts are no longer supported",
        example="Dataset scripts are no longer supported, but found myset.py",
        meaning="Some older datasets come as a Python file, and the library no longer runs such files.",
        cause="The name points to an old dataset, and the tutorial was written before version 4 of `datasets`.",
        cure=(
            "Look on the dataset's page for a version in Parquet, and load that: "
            "`load_dataset(name, revision='refs/convert/parquet')`.",
            "Or load the data files themselves: `load_dataset('csv', data_files=...)`.",
        ),
        packages=("datasets",),
    ),
)
