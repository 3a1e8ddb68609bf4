"""What a notebook's first cell starts: the scale, a place for files, exercises, and the record at its end."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lessonkit import colab, training
from lessonkit.curriculum import load_curriculum, project_root
from lessonkit.errors import LessonError
from lessonkit.hardware import Hardware, detect_hardware
from lessonkit.progress.journal import Journal
from lessonkit.progress.study_clock import start_clock
from lessonkit.quiet import quiet_libraries

if TYPE_CHECKING:
    from lessonkit.exercises import Exercise, Outcome
    from lessonkit.study.stuck_view import StuckPanel
    from lessonkit.training import Run

__all__ = ["Lesson", "current", "note_run", "start"]

T = TypeVar("T")
RESULT_VARIABLE = "LESSONKIT_RESULT"  # `lessonkit run` names a file here, and reads the metrics from it
PRODUCTION = "production"  # a kind of lesson, and the extra with the packages that it needs
CURVES_KEPT = 4  # of a lesson's trainings; a search may have run a hundred

_current: Lesson | None = None


class Lesson:
    """One lesson under way.

    name, title: as in the curriculum. scale: ``"smoke"``, ``"laptop"`` or ``"gpu"``.
    hardware: the machine. journal: where results are kept. runs: the trainings measured so far.
    """

    def __init__(self, name: str, title: str, hardware: Hardware, journal: Journal) -> None:
        self.name = name
        self.title = title
        self.hardware = hardware
        self.scale = hardware.scale
        self.journal = journal
        self.runs: list[Run] = []
        self._exercises: dict[str, Exercise] | None = None

    def __repr__(self) -> str:
        return f"Lesson({self.name!r}, scale={self.scale!r})"

    def pick(self, *, smoke: T, laptop: T, gpu: T) -> T:
        """The value for this machine's scale."""
        return {"smoke": smoke, "laptop": laptop, "gpu": gpu}[self.scale]

    @property
    def folder(self) -> Path:
        """A folder for what this lesson saves; made when first asked for. Not under version control."""
        from lessonkit.progress.keeping import outputs_folder

        folder = outputs_folder(project_root()) / self.name.replace("/", "-")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LessonError(
                f"The folder {folder} cannot be made.",
                why=str(error),
                fix="set the environment variable LESSONKIT_OUTPUTS to a folder of yours, restart the kernel",
            ) from error
        return folder

    def exercise(self, name: str) -> Exercise:
        """One of this lesson's exercises: it has ``check(answer)``, ``hint()`` and ``solution()``."""
        from lessonkit.errors import UnknownNameError
        from lessonkit.exercises import load_exercises

        if self._exercises is None:
            self._exercises = load_exercises(self.name)
            for each in self._exercises.values():
                each.on_outcome, each.scale = self._keep_outcome, self.scale
        if name not in self._exercises:
            raise UnknownNameError("exercise", name, self._exercises)
        return self._exercises[name]

    def stuck(self, name: str = "", tried: str = "") -> StuckPanel:
        """Start the 15-minute timer for an exercise that resists, or for anything else; a cell's last line shows it.

        name: of the exercise, as in ``exercise(name)``. tried: what you tried so far; the next hint comes at once.
        Where a timer for it runs already, this goes on with it. Raises UnknownNameError for a name that isn't there.
        """
        from lessonkit.study.stuck_view import stuck_panel

        return stuck_panel(self.journal, self.name, self.exercise(name) if name else None, tried)

    def record(self, **metrics: float) -> None:
        """Keep this lesson's results: in the journal, as evidence, unless the scale is ``smoke``.

        metrics: numbers by name, such as ``test_accuracy=0.96``.
        Raises LessonError if one is not a number, or LESSONKIT_RESULT names a file that cannot be written.
        """
        result = {
            "lesson": self.name,
            "scale": self.scale,
            "metrics": {name: _number(name, value) for name, value in metrics.items()},
            "seconds": round(sum(run.seconds for run in self.runs), 2),
            "peak_bytes": max((run.peak_bytes for run in self.runs), default=0),
        }
        asked = os.environ.get(RESULT_VARIABLE)
        if asked:
            try:
                Path(asked).write_text(json.dumps(result), encoding="utf-8")
            except OSError as error:
                fix = f"let {RESULT_VARIABLE} name a file in a folder that can be written"
                raise LessonError("The results could not be written.", why=str(error), fix=fix) from error
        if self.scale == "smoke":
            print("Smoke scale: every line ran. Nothing is recorded, for nothing was learned at this size.")
            return
        curves = _curves(self.runs)
        result |= {"hardware": self.hardware.summary()} | ({"curves": curves} if curves else {})
        self.journal.append("run", **result)
        print(f"Recorded in your journal: {self.title}, {self.scale} scale.")
        self._tick_earned()

    def _keep_outcome(self, exercise: Exercise, outcome: Outcome) -> None:
        self.journal.append(
            "exercise",
            lesson=self.name,
            exercise=exercise.name,
            outcome=outcome.status,
            diagnosis=outcome.diagnosis,
        )
        if outcome.passed:
            self._end_stuck(exercise.name)
            self._tick_earned()

    def _end_stuck(self, exercise: str) -> None:
        from lessonkit.study.stuck import end_if_solved

        told = end_if_solved(self.journal, self.name, exercise)
        if told:
            print(told)

    def _tick_earned(self) -> None:
        from lessonkit.progress.evidence import record_evidence

        curriculum = load_curriculum(check_files=False)
        for event in record_evidence(self.journal, curriculum):
            item = event.data["item"]
            texts = {each.id: each.text for each in curriculum.items}
            print(f"✅ Ticked: {texts.get(item, item)} ({event.data['why']})")


def start(name: str) -> Lesson:
    """Begin a lesson: say what machine this is, the scale and why, and where progress is kept.

    Raises UnknownNameError for a lesson that is not in the curriculum (the nearest is offered), and
    LessonError for one that is not written yet, or whose packages aren't installed.
    """
    global _current
    entry = load_curriculum(check_files=False).lesson(name)
    extras = (PRODUCTION,) if entry.kind == PRODUCTION else ()
    if colab.on_colab():
        colab.install_missing(colab.EXTRAS + extras)
    if not entry.written:
        raise LessonError(
            f"{entry.title} ({name}) is not written yet.", fix="see `lessonkit lessons` for what is"
        )
    if extras:
        _check_packages(name, extras)
    quiet_libraries()
    _one_gpu()
    lesson = Lesson(name, entry.title, detect_hardware(), Journal())
    _use_threads(lesson.hardware.threads)
    reasons = lesson.hardware.reasons
    print(f"Machine:  {lesson.hardware.summary()} ({reasons['device']})")
    print(f"Numbers:  {lesson.hardware.dtype} for matrix work ({reasons['dtype']})")
    print(f"Scale:    {lesson.scale} ({reasons['scale']})")
    print(f"Progress: {_short(lesson.journal.path)}")
    if colab.on_colab() and not os.environ.get("LESSONKIT_PROGRESS"):
        print(
            "Note:     Colab deletes this when you leave; mount a Drive and point LESSONKIT_PROGRESS to it."
        )
    reading = lesson.journal.read()
    for problem in reading.problems[:3]:
        print(f"Note:     {problem}")
    _current = lesson
    if lesson.scale != "smoke" and not os.environ.get(RESULT_VARIABLE):
        start_clock(lesson.journal, name)
    _offer_help()
    return lesson


def _check_packages(name: str, extras: tuple[str, ...]) -> None:
    try:
        missing = colab.missing_requirements(extras)
    except metadata.PackageNotFoundError:  # used from a checkout, without an installation
        return
    if missing:
        raise LessonError(
            f"The lesson {name} needs packages that aren't installed here: {', '.join(missing)}.",
            why="they are many, so only `python start.py --production` installs them",
            fix="close JupyterLab and type `python start.py --production`, in an environment of your own "
            '`pip install -e ".[production]"`; then open this notebook again',
        )


def _offer_help() -> None:
    """After a failed cell, name the known error below its traceback."""
    from lessonkit.troubleshooting import offer

    offer.install()


def current() -> Lesson | None:
    """The lesson that this kernel has started, or None."""
    return _current


def note_run(run: Run) -> None:
    """Add a measured training to the lesson under way, if there is one."""
    if _current is not None:
        _current.runs.append(run)


training.listeners.append(note_run)


def _one_gpu() -> None:
    """Show one GPU to PyTorch: `Trainer` would else multiply the batch by their number, unasked.

    Set CUDA_VISIBLE_DEVICES yourself for another one or for several; no effect once CUDA is in use.
    """
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")


def _use_threads(count: int) -> None:
    """As many threads as cores may be used; more than that, as in a container, wait for each other."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _curves(runs: list[Run]) -> dict[str, list[list[float]]]:
    """The loss by step of the last trainings, thinned out to what a small picture can show."""
    curves = {f"training {index}": run.curve() for index, run in enumerate(runs, 1)}
    kept = {name: points for name, points in curves.items() if len(points) > 1}
    return dict(list(kept.items())[-CURVES_KEPT:])


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        fix = f"pass one number: lesson.record({name}=0.96)"
        raise LessonError(
            f"The metric {name} is not a number: {value!r}.", why=str(error), fix=fix
        ) from error


def _short(path: Path) -> str:
    """A path as a reader would write it: from the project's folder, or from the home folder."""
    for base, sign in ((project_root(), ""), (Path.home(), "~/")):
        if base is not None and path.is_relative_to(base):
            return sign + path.relative_to(base).as_posix()
    return str(path)
