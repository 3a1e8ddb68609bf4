"""Texts of your own: read a file, say what is wrong with it, mend it, split it. Plain pandas and datasets objects.

| step | function | lives in |
|---|---|---|
| any file or folder -> rows of strings | ``read_table`` | ``files.py``, ``delimited.py``, ``decoding.py`` |
| which column is the text, which the label | ``choose_columns`` | ``columns.py`` |
| what is wrong | ``check_texts`` -> ``TextReport`` | ``report.py``, ``findings.py``, ``duplicates.py`` |
| mended | ``TextReport.cure`` -> ``Cured`` | ``cures.py`` |
| the same for instruction pairs | ``check_pairs`` -> ``PairReport`` | ``pairs.py`` |
| personal data found and masked | ``find_personal``, ``mask_personal`` | ``personal.py`` |
| train and test, with no text on both sides | ``split_texts`` | ``splitting.py`` |

No file is ever written to. What can't be read is told, with the line it stands in, and costs no other row.
"""

from __future__ import annotations

from lessonkit.texts.columns import Columns, choose_columns
from lessonkit.texts.cures import Cured, UnusableError
from lessonkit.texts.files import Table, read_table
from lessonkit.texts.findings import Finding
from lessonkit.texts.pairs import PairReport, check_pairs
from lessonkit.texts.personal import find_personal, mask_personal
from lessonkit.texts.report import TextReport, check_texts
from lessonkit.texts.splitting import split_texts

__all__ = [
    "Columns",
    "Cured",
    "Finding",
    "PairReport",
    "Table",
    "TextReport",
    "UnusableError",
    "check_pairs",
    "check_texts",
    "choose_columns",
    "find_personal",
    "mask_personal",
    "read_table",
    "split_texts",
]
