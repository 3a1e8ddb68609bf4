"""The dashboard's widgets and where they stand; what they mean is ``panel``'s business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lessonkit import colab
from lessonkit.progress.dashboard.style import CLASS, STYLE

if TYPE_CHECKING:
    from ipywidgets import Box, Checkbox, Widget

    from lessonkit.curriculum import Curriculum

__all__ = ["Controls", "set_html", "set_options"]

FULL = {"width": "auto", "max_width": "100%"}


class Controls:
    """Every widget by what it is for; ``root`` holds them all.

    path, only, about, lesson: dropdowns whose values are ids. boxes: the checkboxes made so far, by the
    id of what they tick. The rest is HTML that ``set_html`` writes, buttons, and the note's text.
    Raises ImportError without ipywidgets.
    """

    def __init__(self, curriculum: Curriculum, timer: Widget | None) -> None:
        from ipywidgets import HTML, Button, Checkbox, Layout, Textarea, ToggleButton

        techniques = [(each.title, each.id) for each in curriculum.techniques]
        paths = [(f"{each.emoji} {each.title}", each.id) for each in curriculum.paths]
        self.path = _dropdown("Path", "The path whose boxes are shown", paths)
        self.only = _dropdown("Show", "One technique at a time, or all", _only_options(techniques))
        self.others = ToggleButton(value=False, layout=Layout(**FULL))
        self.head, self.said, self.warning, self.hidden = HTML(), HTML(), HTML(), HTML()
        self.next_step, self.grid = _linking(), _linking()
        self.about = _dropdown("Note on", "What the note is about", [*techniques, ("anything else", "")])
        self.note = Textarea(
            placeholder="What did you find out? It stays on this computer.",
            description="Your note",
            rows=2,
            style={"description_width": "6em"},
            layout=Layout(width="34em", max_width="100%"),
        )
        self.keep = Button(description="Keep the note", tooltip="Write the note into your journal")
        self.notes, self.runs, self.chart = HTML(), HTML(), HTML()
        self.lesson = _dropdown("Lesson", "The lesson whose runs are drawn", [], width="26em")
        self.celebrate = Checkbox(
            description="Celebrate what I complete", indent=False, layout=Layout(**FULL)
        )
        self.boxes: dict[str, Checkbox] = {}
        self._pieces: dict[tuple[str, ...], Widget] = {}
        self.weeks = _column([])
        self.root = self._arranged(timer)

    def _arranged(self, timer: Widget | None) -> Box:
        from ipywidgets import HTML, HBox, Layout

        main = _column([_row([self.path, self.only]), self.hidden, self.others, self.weeks], flex="3 1 26em")
        timer_title = [HTML("<h4>Focus timer</h4>"), timer] if timer is not None else []
        side = _column([*timer_title, self.celebrate], flex="2 1 20em")
        card = _column([self.next_step])
        for place, name in ((card, "lk-card"), (card, "lk-next"), (self.said, "lk-news")):
            place.add_class(name)  # these keep room for what comes, so that no box moves away under a click
        wrap = Layout(flex_flow="row wrap", align_items="flex-start", width="100%")
        root = _column(
            [
                HTML(STYLE),
                self.head,
                card,
                self.said,
                self.warning,
                HBox([main, side], layout=wrap),
                HTML("<h4>Techniques and notes</h4>"),
                self.grid,
                self.about,
                self.notes,
                self.note,
                self.keep,
                HTML("<h4>Runs so far</h4>"),
                self.runs,
                self.lesson,
                self.chart,
            ]
        )
        root.add_class(CLASS)
        return root

    def box(self, name: str) -> tuple[Checkbox, bool]:
        """The checkbox that ticks this item or guide, and whether it was made just now."""
        from ipywidgets import Checkbox, Layout

        fresh = name not in self.boxes
        if fresh:
            self.boxes[name] = Checkbox(indent=False, layout=Layout(**FULL))
        return self.boxes[name], fresh

    def piece(self, *name: str) -> Widget:
        """An HTML widget of that name, the same one each time."""
        from ipywidgets import HTML

        return self._pieces.setdefault(name, self._pieces.get(name) or HTML())

    def close(self) -> None:
        """Close every widget, in the notebook too."""
        for widget in [*self.boxes.values(), *self._pieces.values(), *_tree(self.root)]:
            widget.close()


def set_html(widget: Any, text: str) -> None:
    """Show HTML in a widget; what is there already stays untouched, with its focus and its selection."""
    if hasattr(widget, "outputs"):
        data = {"text/html": text, "text/plain": ""}
        shown = ({"output_type": "display_data", "data": data, "metadata": {}},) if text else ()
        if tuple(widget.outputs) != shown:
            widget.outputs = shown
    elif widget.value != text:
        widget.value = text


def set_options(dropdown: Any, options: list[tuple[str, str]], value: str | None) -> None:
    """Offer these options, the present choice kept where it still is one, else ``value``."""
    chosen = dropdown.value if dropdown.value in [each for _, each in options] else value
    if tuple(dropdown.options) != tuple(options):
        dropdown.options = options
    if dropdown.value != chosen:
        dropdown.value = chosen
    show(dropdown, bool(options))


def show(widget: Any, shown: bool) -> None:
    """Show or hide a widget; what is hidden can't be reached by keyboard either."""
    wanted = None if shown else "none"
    if widget.layout.display != wanted:
        widget.layout.display = wanted


def _only_options(techniques: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [("all techniques", ""), *((f"{title} only", name) for title, name in techniques)]


def _dropdown(words: str, tip: str, options: list[tuple[str, str]], width: str = "19em") -> Any:
    from ipywidgets import Dropdown, Layout

    return Dropdown(
        options=options,
        description=words,
        tooltip=tip,
        style={"description_width": "6em"},
        layout=Layout(width=width, max_width="100%"),
    )


def _linking() -> Any:
    """A place for HTML with links to files beside the notebook.

    In an output the front end opens them itself, in a tab of its own; in an HTML widget they would leave
    the page. Colab opens no files beside its notebook and gets no such links.
    """
    from ipywidgets import HTML, Output

    return HTML() if colab.on_colab() else Output()


def _column(children: list[Any], **layout: Any) -> Any:
    from ipywidgets import Layout, VBox

    return VBox(children, layout=Layout(min_width="0", max_width="100%", overflow="visible", **layout))


def _row(children: list[Any]) -> Any:
    from ipywidgets import HBox, Layout

    return HBox(children, layout=Layout(flex_flow="row wrap", max_width="100%"))


def _tree(widget: Any) -> list[Any]:
    return [widget, *(each for child in getattr(widget, "children", ()) for each in _tree(child))]
