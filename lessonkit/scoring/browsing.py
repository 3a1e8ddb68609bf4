"""A browser of errors for a notebook: choose by label, by words, and by what another model said of the same text."""

from __future__ import annotations

import html
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.errors import DataError, UnknownNameError
from lessonkit.live import in_notebook
from lessonkit.scoring.gating import both_evaluations
from lessonkit.scoring.predicting import Prediction
from lessonkit.scoring.running import Evaluation, read_evaluation

if TYPE_CHECKING:
    from ipywidgets import Widget

__all__ = ["ErrorBrowser", "error_browser"]

VIEW = "application/vnd.jupyter.widget-view+json"
ALL, NEW, MENDED, BOTH = "all errors", "new errors", "mended", "wrong in both"
LONGEST_TEXT = 400


def error_browser(
    evaluation: Evaluation | str | Path,
    champion: Evaluation | str | Path | None = None,
    *,
    show: str = "",
    most: int = 8,
) -> ErrorBrowser:
    """Browse what a model got wrong, the most confident errors first; a cell's last line shows it.

    champion: the evaluation of another model on the same texts; then errors are parted into "new errors" (only the first
    model errs), "mended" (only the champion erred) and "wrong in both". show: which of these, or "all errors", comes first.
    most: texts shown at a time. Where widgets are not drawn, the same table stands there without its controls.
    Raises DataError if the two did not score the same texts, UnknownNameError for another word in ``show``.
    """
    if champion is None:
        one = evaluation if isinstance(evaluation, Evaluation) else read_evaluation(evaluation)
        return ErrorBrowser(one, None, show, most)
    return ErrorBrowser(*both_evaluations(evaluation, champion), show, most)


class ErrorBrowser:
    """What ``error_browser`` gives. kinds: what can be shown. ``rows(...)`` finds, ``html(...)`` draws."""

    def __init__(self, one: Evaluation, other: Evaluation | None, show: str, most: int) -> None:
        self.kinds = [ALL] if other is None else [NEW, MENDED, BOTH, ALL]
        self.kind = show or self.kinds[0]
        if self.kind not in self.kinds:
            raise UnknownNameError("choice", self.kind, self.kinds)
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise DataError(f"most is {most!r}, no number of texts.", fix="pass most=8, say")
        self.names = list(one.metrics["names"])
        self.most = most
        others = [None] * len(one.predictions) if other is None else other.predictions
        self._pairs = list(zip(one.predictions, others, strict=True))

    def rows(
        self, kind: str = "", true: str = "", predicted: str = "", words: str = ""
    ) -> list[tuple[Prediction, Prediction | None]]:
        """(prediction, the champion's) of the texts that fit, the most confident first; "" stands for any."""
        test = {
            ALL: lambda one, other: not one.right,
            NEW: lambda one, other: not one.right and other.right,
            MENDED: lambda one, other: one.right and not other.right,
            BOTH: lambda one, other: not one.right and not other.right,
        }[kind or self.kind]
        found = [
            (one, other)
            for one, other in self._pairs
            if test(one, other)
            and true in ("", one.label)
            and predicted in ("", one.prediction)
            and words.lower() in one.text.lower()
        ]
        return sorted(found, key=lambda pair: -pair[0].confidence)

    def html(self, **choice: str) -> str:
        """A table of the first ``most`` that fit; whatever a text holds is shown, never run."""
        found = self.rows(**choice)
        kind = choice.get("kind") or self.kind
        head = f"<p>{html.escape(kind)}: {len(found):,}" + (
            f", of which the {self.most} most confident" if len(found) > self.most else ""
        )
        left = "text-align:left;vertical-align:top"
        names = ("line", "true", "predicted", "confidence", *(("champion",) if self._two else ()), "text")
        rows = [
            "".join(f"<td style='{left}'>{html.escape(each)}</td>" for each in self._cells(*pair))
            for pair in found[: self.most]
        ]
        titles = "".join(f"<th style='{left}'>{name}</th>" for name in names)
        return f"{head}</p><table><tr>{titles}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"

    @property
    def _two(self) -> bool:
        return bool(self._pairs) and self._pairs[0][1] is not None

    def _cells(self, one: Prediction, other: Prediction | None) -> list[str]:
        text = one.text if len(one.text) <= LONGEST_TEXT else one.text[:LONGEST_TEXT] + " …"
        said = [] if other is None else [other.prediction]
        return [str(one.line), one.label, one.prediction, f"{one.confidence:.2f}", *said, text]

    def __repr__(self) -> str:
        found = self.rows()
        lines = [
            f"line {one.line}: {one.label} taken for {one.prediction} ({one.confidence:.2f}): {one.text[:70]}"
            for one, _ in found[: self.most]
        ]
        return "\n".join([f"{self.kind}: {len(found):,}", *lines])

    def _repr_mimebundle_(self, **_kwargs: Any) -> dict[str, Any]:
        """Live controls, a table and text in one output; a front end takes the first that it can draw."""
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        if not in_notebook():
            return bundle
        bundle["text/html"] = self.html()
        try:
            live = self.widget._repr_mimebundle_() or {}
        except ImportError:  # without ipywidgets the table has to do
            live = {}
        return bundle | {kind: view for kind, view in live.items() if kind == VIEW}

    @cached_property
    def widget(self) -> Widget:
        """The live browser, an ipywidgets box. Raises ImportError without ipywidgets."""
        from ipywidgets import HTML, Dropdown, HBox, Layout, Text, VBox

        any_of = [("any", ""), *((name, name) for name in self.names)]
        self.controls = {
            "kind": Dropdown(options=self.kinds, value=self.kind, description="show"),
            "true": Dropdown(options=any_of, description="true"),
            "predicted": Dropdown(options=any_of, description="predicted"),
            "words": Text(description="words", continuous_update=False),
        }
        self._table = HTML(self.html())
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        return VBox([HBox(list(self.controls.values()), layout=Layout(flex_flow="row wrap")), self._table])

    def _changed(self, _change: Any) -> None:
        self._table.value = self.html(**{name: each.value for name, each in self.controls.items()})
