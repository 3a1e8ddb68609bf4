"""The dashboard: reads the journal, shows what it adds up to, writes what is ticked, chosen and noted in it."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lessonkit import colab
from lessonkit.curriculum import Curriculum, load_curriculum
from lessonkit.errors import LessonkitError
from lessonkit.live import in_notebook
from lessonkit.progress.dashboard import pages
from lessonkit.progress.evidence import record_evidence
from lessonkit.progress.folding import fold
from lessonkit.progress.journal import Journal
from lessonkit.progress.report import render_text
from lessonkit.progress.tracker import add_note, choose_path, set_celebrate, set_only, tick, untick
from lessonkit.progress.weeks import weeks
from lessonkit.study.focus_view import FocusPanel
from lessonkit.study.ticking import follow, unfollow

if TYPE_CHECKING:
    from ipywidgets import Widget

    from lessonkit.progress.dashboard.controls import Controls
    from lessonkit.progress.records import Progress

__all__ = ["Dashboard", "dashboard"]

VIEW = "application/vnd.jupyter.widget-view+json"
WARNINGS_SHOWN = 2

_shown: Dashboard | None = None


def dashboard(journal: Journal | None = None, curriculum: Curriculum | None = None) -> Dashboard:
    """Your progress, to look at and to tick: make it a cell's last line; ``print`` shows it as text.

    journal, curriculum: by default the learner's own and the course's. Called again, it takes the place
    of the one before.
    """
    global _shown
    if _shown is not None:
        _shown.close()
    _shown = Dashboard(journal, curriculum)
    return _shown


class Dashboard:
    """The panel of ``dashboard``. journal, curriculum: what it shows. progress: as last read.

    problem: the sentence that is shown where the journal could not be read, else empty.
    A notebook shows live controls, or the same without controls where widgets are not drawn; everything
    else shows text. Core ipywidgets are all it needs, which Colab draws without any setting.
    """

    def __init__(self, journal: Journal | None = None, curriculum: Curriculum | None = None) -> None:
        self.journal = Journal() if journal is None else journal
        self.curriculum = load_curriculum(check_files=False) if curriculum is None else curriculum
        self.progress = fold((), self.curriculum)
        self.problem = ""
        self._warnings: list[str] = []
        # A front end's messages and the ticks come in threads of their own; one at a time gets through.
        self._lock = threading.RLock()
        self._showing = False
        self._stamp: tuple = ()
        self._timer: Any = None
        self._read()

    def __repr__(self) -> str:
        with self._lock:
            self._read()
            return self.problem or render_text(self.progress, self.curriculum)

    def _repr_mimebundle_(self, **_kwargs: Any) -> dict[str, Any]:
        """Live controls, the same as HTML without controls, and text, in one output.

        A front end takes the first of these that it can draw. Without the widgets' state nbconvert and
        GitHub pass them over, as JupyterLab does in a notebook that is not trusted, and take the HTML.
        """
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        if not in_notebook():
            return bundle
        trouble = pages.message(self.problem, kind="trouble")
        bundle["text/html"] = trouble or pages.page(self.progress)
        try:
            live = self.widget._repr_mimebundle_() or {}
        except ImportError:  # without ipywidgets the HTML has to do
            live = {}
        if live and colab.on_colab():  # which always draws widgets: give it nothing else to choose
            del bundle["text/html"]
        return bundle | {kind: view for kind, view in live.items() if kind == VIEW}

    @cached_property
    def controls(self) -> Controls:
        """The widgets, made when first asked for. Raises ImportError without ipywidgets."""
        from lessonkit.progress.dashboard.controls import Controls

        self._timer = FocusPanel(self.journal)
        try:
            timer = self._timer.widget
        except LessonkitError:  # the journal can't be read, which the dashboard says itself
            timer = None
        made = Controls(self.curriculum, timer)
        made.said.value = pages.message(pages.HINT)
        self._connect(made)
        return made

    @property
    def widget(self) -> Widget:
        """The live panel, an ipywidgets box; from now on it follows the journal until it is closed."""
        root = self.controls.root
        with self._lock:
            self._show()
        follow(self)
        return root

    def refresh(self) -> None:
        """Read the journal now and show what it says."""
        with self._lock:
            before = self.progress
            self._read()
            if "controls" in self.__dict__:
                self._show()
                self._praise(before)

    def close(self) -> None:
        """Stop following the journal and close the widgets."""
        unfollow(self)
        if "controls" in self.__dict__:
            self.controls.close()
            self._timer.close()

    # ---- What the learner does -------------------------------------------------------------------

    def _connect(self, made: Controls) -> None:
        """Let each control write what it stands for."""
        journal, course = self.journal, self.curriculum

        def on(control: Any, work: Callable[[Any], object]) -> None:
            control.observe(lambda change: self._act(lambda: work(change["new"])), names="value")

        on(made.path, lambda name: choose_path(journal, course, name))
        on(made.only, lambda name: set_only(journal, course, name))
        on(made.celebrate, lambda value: set_celebrate(journal, value))
        for control in (made.others, made.about, made.lesson):  # these change the view only
            on(control, lambda _value: None)
        made.keep.on_click(lambda _button: self._act(self._keep_note))
        made.root.observe(self._closed, names="comm")

    def _act(self, work: Callable[[], object]) -> None:
        """Do what a control asks for and show what the journal then says; a text that comes back is told.

        Whatever goes wrong is told too, for nobody sees a traceback of a widget; the controls go back to
        what the journal says.
        """
        with self._lock:
            if self._showing:  # the control followed the journal: nothing was asked for
                return
            trouble, said = "", None
            try:
                said = work()
            except LessonkitError as error:
                trouble = str(error)
            except Exception as error:
                trouble = f"This did not work, by a mistake of the dashboard: {type(error).__name__}: {error}"
            if isinstance(said, str):
                self._tell(said)
            self.refresh()
            if trouble:
                self._tell(trouble, "trouble")

    def _ticked(self, name: str, on: bool) -> str:
        outcome = (tick if on else untick)(self.journal, self.curriculum, name)
        if outcome.changed:
            record_evidence(self.journal, self.curriculum)
        return outcome.message

    def _keep_note(self) -> str:
        note, about = self.controls.note, self.controls.about.value
        kept = note.value
        add_note(self.journal, self.curriculum, kept, about)
        if note.value == kept:  # unless its writer has gone on
            note.value = ""
        on = f", in your notes on {self.curriculum.technique(about).title}" if about else ""
        return f"Kept{on}. All of them: lessonkit note"

    # ---- What it shows ----------------------------------------------------------------------------

    def tick(self) -> None:
        """Follow the journal where another program, or another cell, has written to it; called each second."""
        with self._lock:
            if self._look() == self._stamp:
                return
            try:
                self.refresh()
            except Exception as error:
                self._tell(
                    f"The dashboard can't follow your journal: {type(error).__name__}: {error}", "trouble"
                )

    def _closed(self, change: dict[str, Any]) -> None:
        if change["new"] is None:
            unfollow(self)

    def _look(self) -> tuple:
        """What is another one as soon as the journal's file has changed, or the learner's day has."""
        today = datetime.date.today()
        try:
            found = self.journal.path.stat()
        except OSError as error:
            return (today, type(error).__name__)
        return (today, found.st_ino, found.st_size, found.st_mtime_ns)

    def _read(self) -> None:
        self._stamp = self._look()  # before reading, so that nothing written meanwhile is missed
        try:
            reading = self.journal.read()
        except LessonkitError as error:
            self.problem = str(error)
            return
        self.problem = ""
        self.progress = fold(reading.events, self.curriculum)
        self._warnings = [str(each) for each in reading.problems]

    def _tell(self, text: str, kind: str = "said") -> None:
        from lessonkit.progress.dashboard.controls import set_html

        set_html(self.controls.said, pages.message(text, kind=kind))

    def _show(self) -> None:
        """Let every control say what the journal says, without taking that for a wish."""
        self._showing = True
        try:
            self._show_path()
            self._show_boxes()
            self._show_notes_and_runs()
        finally:
            self._showing = False

    def _show_path(self) -> None:
        from lessonkit.progress.dashboard.controls import set_html, show

        progress, made = self.progress, self.controls
        made.path.value, made.only.value = progress.path, progress.only
        made.celebrate.value = progress.celebrate
        warnings = [f"Note: {text}" for text in self._warnings[:WARNINGS_SHOWN]]
        set_html(
            made.warning, pages.message(self.problem, kind="trouble") or pages.message("\n".join(warnings))
        )
        set_html(made.head, pages.head(progress))
        set_html(made.next_step, pages.next_step(progress))
        set_html(made.hidden, pages.hidden(progress))
        show(made.others, bool(progress.only))
        made.others.description = "Hide the others again" if made.others.value else "Show the others too"

    def _show_boxes(self) -> None:
        from lessonkit.progress.dashboard.controls import set_html

        progress, made, children = self.progress, self.controls, []
        path = self.curriculum.path(progress.path)
        for week in weeks(self.curriculum, path, self._filter):
            title, listed = made.piece(path.id, week.title), made.piece(path.id, week.title, "steps")
            set_html(title, f"<h4>{week.title}</h4>")
            set_html(listed, pages.steps(progress, week.steps))
            labels = {guide.id: f"I have read: {guide.title}" for guide in week.guides}
            labels |= {item.id: pages.item_label(progress, item) for item in week.items}
            children += [title, listed, *(self._box(name, label) for name, label in labels.items())]
        if made.weeks.children != tuple(children):
            made.weeks.children = children

    def _box(self, name: str, label: str) -> Widget:
        box, fresh = self.controls.box(name)
        box.description, box.value = label, name in self.progress.ticked
        if fresh:
            box.observe(
                lambda change: self._act(lambda: self._ticked(name, change["new"])),
                names="value",
            )
        return box

    def _show_notes_and_runs(self) -> None:
        from lessonkit.progress.dashboard.controls import set_html, set_options

        progress, made = self.progress, self.controls
        set_html(made.grid, pages.grid(progress, self._filter))
        set_html(made.notes, pages.notes(progress, made.about.value))
        runs = pages.all_runs(progress)
        titles = {lesson.id: lesson.title for lesson in self.curriculum.lessons}
        options = [(titles.get(name, name), name) for name in progress.runs]
        set_options(made.lesson, options, runs[-1].lesson if runs else None)
        set_html(made.runs, pages.run_table(runs))
        set_html(made.chart, pages.run_chart(progress, made.lesson.value) if runs else "")

    @property
    def _filter(self) -> str:
        """The one technique that is shown now, or empty."""
        return "" if self.controls.others.value else self.progress.only

    def _praise(self, before: Progress) -> None:
        """Say what has been completed since; loudly, unless its reader asked for quiet."""
        now, loud = self.progress, self.progress.celebrate
        fresh = [
            item for item in self.curriculum.items if item.id in now.ticked.keys() - before.ticked.keys()
        ]
        lines = []
        for item in fresh:
            done = now.done(self.curriculum.path_of(item.id).id)
            lines.append(f"{'🎉 Done' if loud else 'Ticked'}: {item.text}. {done.ticked} of {done.total}.")
        for path in self.curriculum.paths:
            done = now.done(path.id)
            if done.ticked == done.total > before.done(path.id).ticked:
                end = " You did that." if loud else ""
                lines.append(f"{'🏆 ' if loud else ''}{path.title} is complete: all {done.total} boxes.{end}")
        if lines:
            self._tell("\n".join(lines), "cheer" if loud else "said")
