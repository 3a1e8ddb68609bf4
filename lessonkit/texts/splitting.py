"""A train and a test split with no text on both sides, the classes in like proportions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lessonkit.errors import DataError
from lessonkit.texts.duplicates import duplicate_groups

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["split_texts"]

FOLDS = 10  # a split takes whole tenths


def split_texts(
    dataset: Dataset,
    *,
    test: float = 0.2,
    validation: float = 0.0,
    seed: int = 0,
    text: str = "text",
    label: str = "label",
) -> DatasetDict:
    """Split rows into ``train``, ``test`` and, if asked for, ``validation``; shares of all rows, as near as groups allow.

    Near-duplicates stay on one side (``duplicate_groups``), and each class is spread in proportion
    (scikit-learn's StratifiedGroupKFold). Without a label column only the first holds.
    Raises DataError where the shares leave no room, or a class has a single group and could not be in train and test.
    """
    from datasets import DatasetDict

    for name, share in (("test", test), ("validation", validation)):
        if not 0 <= share < 1:
            raise DataError(
                f"{name}={share} is no share of the rows.", fix=f"pass a number such as {name}=0.2"
            )
    if not 0 < test + validation < 1:
        raise DataError("Nothing would be left to train or to test with.", fix="pass test=0.2, say")
    if text not in dataset.column_names:
        raise DataError(
            f"There is no column {text!r}.", fix=f"pass text=..., one of: {', '.join(dataset.column_names)}"
        )
    groups = duplicate_groups(dataset[text])
    labels = list(dataset[label]) if label in dataset.column_names else [0] * len(dataset)
    _check_groups(dataset, labels, groups, label)
    places = list(range(len(dataset)))
    held: dict[str, list[int]] = {}
    for name, share in (("test", test), ("validation", validation)):
        if share:
            held[name] = _hold_out(places, labels, groups, share * len(dataset) / len(places), seed)
            places = sorted(set(places) - set(held[name]))
    return DatasetDict(
        {"train": dataset.select(places), **{name: dataset.select(each) for name, each in held.items()}}
    )


def _check_groups(dataset: Dataset, labels: list, groups: list[int], label: str) -> None:
    if len(set(groups)) < 4:
        raise DataError(
            f"There are {len(set(groups))} different texts.",
            why="near-duplicates count as one",
            fix="a few dozen are needed for a split that tells anything",
        )
    alone = [
        each
        for each in dict.fromkeys(labels)
        if len({group for group, own in zip(groups, labels, strict=True) if own == each}) < 2
    ]
    if alone:
        feature = dataset.features.get(label)
        names = [feature.int2str(each) if hasattr(feature, "int2str") else str(each) for each in alone]
        raise DataError(
            f"Of {', '.join(map(repr, names[:5]))} there is a single text (near-duplicates count as one).",
            why="it can be trained on or tested on, not both",
            fix='add more such texts, or leave the label out: report.cure("rare labels")',
        )


def _hold_out(places: list[int], labels: list, groups: list[int], share: float, seed: int) -> list[int]:
    """About ``share`` of the places: of all runs of neighbouring folds, the one whose classes come nearest to it."""
    import warnings

    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    y, g = np.array([labels[each] for each in places]), np.array([groups[each] for each in places])
    classes, sizes = np.unique(y, return_counts=True)
    folds = max(2, min(FOLDS, len(np.unique(g)), int(sizes.max())))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of classes with fewer texts than folds
        warnings.simplefilter("ignore", UserWarning)
        parts = [test for _, test in splitter.split(np.zeros(len(y)), y, g)]
    run = min(max(1, round(share * folds)), folds - 1)

    def far(part: np.ndarray) -> float:
        """How far its classes' counts are from the wanted ones; a class missing on a side weighs most."""
        counts = np.array([(y[part] == each).sum() for each in classes])
        missing = ((counts == 0) | (counts == sizes)).sum()
        return float(missing * len(y) + np.abs(counts - share * sizes).sum())

    unions = [
        np.concatenate([parts[(first + more) % folds] for more in range(run)]) for first in range(folds)
    ]
    return sorted(places[each] for each in min(unions, key=far).tolist())
