"""The way from where a notebook runs to another lesson's file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from lessonkit import colab

if TYPE_CHECKING:
    from lessonkit.curriculum import Lesson

__all__ = ["link_to"]

LEVELS_UP = 4  # how far above the notebook the course's folder may be


def link_to(lesson: Lesson, here: Path | None = None) -> str:
    """A relative link to a lesson's notebook or guide; empty where there is none.

    here: the folder of the notebook that shows the link, by default the working folder, which Jupyter
    sets to it. Empty for what isn't written, what isn't on this disk, and on Colab, which opens single files.
    """
    name = lesson.notebook or lesson.source
    if not lesson.written or colab.on_colab():
        return ""
    here = Path.cwd() if here is None else here
    for folder in (here, *here.parents)[: LEVELS_UP + 1]:
        if (folder / name).is_file():
            return quote(Path(os.path.relpath(folder / name, here)).as_posix())
    return ""
