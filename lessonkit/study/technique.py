"""One technique at a time: the others are left out of sight until they are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lessonkit.errors import UnknownNameError

if TYPE_CHECKING:
    from lessonkit.curriculum import Curriculum
    from lessonkit.progress.journal import Journal

__all__ = ["ALL", "choose_technique", "only", "technique_text"]

ALL = "all"


def only(technique: str = "") -> None:
    """Study one technique at a time: ``lessonkit.only("lora")``; all again: ``lessonkit.only("all")``.

    Without a technique it says which one is chosen. Nothing is lost: what is hidden keeps its ticks.
    Raises UnknownNameError for what is no technique.
    """
    from lessonkit.curriculum import load_curriculum
    from lessonkit.progress.journal import Journal

    curriculum, journal = load_curriculum(check_files=False), Journal()
    if technique:
        print(choose_technique(journal, curriculum, technique))
    else:
        print(technique_text(journal, curriculum))


def choose_technique(journal: Journal, curriculum: Curriculum, technique: str) -> str:
    """Show one technique only, or ``"all"``; a sentence for the learner. Raises UnknownNameError."""
    from lessonkit.progress.tracker import set_only

    titles = {each.id: each.title for each in curriculum.techniques}
    technique = technique.strip().lower() if isinstance(technique, str) else technique
    if not isinstance(technique, str) or technique not in {*titles, ALL}:
        raise UnknownNameError("technique", str(technique), [*titles, ALL])
    chosen = _chosen(journal, curriculum)
    if technique == (chosen or ALL):
        return technique_text(journal, curriculum)
    set_only(journal, curriculum, "" if technique == ALL else technique)
    if technique == ALL:
        return "All techniques are shown again."
    chosen = f"Only {titles[technique]} is shown from now on."
    return f"{chosen}{_unwritten(curriculum, technique)} Nothing is lost; all again: lessonkit only --all"


def technique_text(journal: Journal, curriculum: Curriculum) -> str:
    """Which technique is shown, and how to change that."""
    chosen = _chosen(journal, curriculum)
    if chosen:
        title = next(each.title for each in curriculum.techniques if each.id == chosen)
        return f"Only {title} is shown.{_unwritten(curriculum, chosen)} All again: lessonkit only --all"
    names = ", ".join(each.id for each in curriculum.techniques)
    return f"All techniques are shown. One at a time: lessonkit only NAME (one of {names})"


def _unwritten(curriculum: Curriculum, technique: str) -> str:
    """A word to whoever would look for the lessons of a technique that has none yet."""
    written = any(each.written for each in curriculum.lessons if each.technique == technique)
    return "" if written else " Its lessons are not written yet."


def _chosen(journal: Journal, curriculum: Curriculum) -> str:
    """The id of the technique that is shown; empty for all."""
    from lessonkit.progress import fold

    return fold(journal.read("only").events, curriculum).only
