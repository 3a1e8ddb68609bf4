"""After a cell has failed: two lines that name the known error and say how to see its cure.

The traceback stays as it is; the offer comes below it. Nothing is kept and nothing is sent: the error is
the one that Python itself holds until the next one.
"""

from __future__ import annotations

import html
from typing import Any

__all__ = ["install", "offer_text"]

_hinted = False  # the line for unknown errors has been said once in this kernel


def install() -> bool:
    """Offer help after each failed cell of this Jupyter kernel; once, however often it is called.

    Returns whether the offers are on: outside of a notebook there are none.
    """
    from lessonkit.live import in_notebook

    if not in_notebook():
        return False
    from IPython import get_ipython

    events = get_ipython().events
    for each in list(events.callbacks["post_run_cell"]):
        if getattr(each, "__qualname__", "") == after_cell.__qualname__ and each.__module__ == __name__:
            events.unregister("post_run_cell", each)  # an older one, where the module was loaded anew
    events.register("post_run_cell", after_cell)
    return True


def after_cell(result: Any) -> None:
    """What the kernel calls with each cell's result. It never raises: a failed cell is trouble enough."""
    try:
        error = getattr(result, "error_in_exec", None)
        text = offer_text(error) if error is not None else ""
        if text:
            _show(text)
    except Exception:
        return


def offer_text(error: BaseException) -> str:
    """The lines for an error; empty where there is nothing to add."""
    global _hinted
    from lessonkit.errors import LessonkitError
    from lessonkit.troubleshooting.matching import match

    if not isinstance(error, Exception) or isinstance(error, LessonkitError):
        return ""  # a stopped cell, or an error that says itself what to do
    entry = match(error)
    if entry is not None:
        return f"This looks like: {entry.title}.\nWhat it means and what to do: lessonkit.explain()"
    if _hinted:
        return ""
    _hinted = True
    return "lessonkit.explain() says where to start with an error like this."


def _show(text: str) -> None:
    from IPython.display import display

    rich = "<br>".join(html.escape(line) for line in text.splitlines())
    rich = rich.replace("lessonkit.explain()", "<code>lessonkit.explain()</code>")
    style = "border-left: 4px solid currentColor; padding: 0.2em 1em; color: inherit"
    display({"text/plain": text, "text/html": f'<div role="note" style="{style}">{rich}</div>'}, raw=True)
