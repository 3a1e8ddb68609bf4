"""Commands for being stuck: 15 minutes, what was tried, hint by hint, then the worked answer or a break."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lessonkit.cli import study
from lessonkit.cli.app import Json, app, print_json

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["stuck"]

stuck = typer.Typer(help="Stuck? 15 minutes, hint by hint; then the worked answer or a break.")
app.add_typer(stuck, name="stuck")


@stuck.callback(invoke_without_command=True)
def _stuck(
    context: typer.Context,
    exercise: Annotated[str, typer.Option(help="Its name; leave it out for anything else.")] = "",
    lesson: Annotated[str, typer.Option(help="Its lesson, where the name isn't enough.")] = "",
    tried: Annotated[str, typer.Option(help="What you have tried so far.")] = "",
    as_json: Json = False,
) -> None:
    """Stuck? 15 minutes, hint by hint; then the worked answer or a break. Alone, it starts or says where it stands."""
    if context.invoked_subcommand is not None:
        return
    from lessonkit.progress import Journal
    from lessonkit.study.stuck import current_stuck, start_stuck

    journal, now = Journal(), study.moment_now()
    running = current_stuck(journal, now)
    if running is None or exercise or lesson:
        lesson = _lesson_of(exercise, lesson)
        again = running is not None and (running.lesson, running.exercise) == (lesson, exercise)
        if not tried and not again and study.somebody_asked() and not as_json:
            tried = typer.prompt(
                "What have you tried so far? (Enter to skip)", default="", show_default=False
            )
        running = start_stuck(journal, lesson, exercise, tried, now)
    elif tried:
        running = start_stuck(journal, running.lesson, running.exercise, tried, now)
    _show_stuck(running, now, as_json)


@stuck.command("tried")
def _stuck_tried(text: Annotated[str, typer.Argument(help="What you did, and what came of it.")]) -> None:
    """Keep what you tried; the next hint opens."""
    from lessonkit.progress import Journal
    from lessonkit.study.stuck import tell_tried

    running = tell_tried(Journal(), text, study.moment_now())
    if not running.exercise:
        typer.echo("Kept.")
        return
    more = max((each.number for each in running.hints), default=0) < len(_exercise(running).hints)
    way_on = "A hint is open: lessonkit stuck hint" if more else "The worked answer: lessonkit stuck solution"
    typer.echo(f"Kept. {way_on}")


@stuck.command("hint")
def _stuck_hint() -> None:
    """Show the next hint."""
    from lessonkit.exercises.showing import plain_text
    from lessonkit.progress import Journal
    from lessonkit.study.stuck import current_stuck, take_hint

    journal, now = Journal(), study.moment_now()
    running = current_stuck(journal, now)
    hints = _exercise(running).hints if running is not None and running.exercise else ()
    hint = take_hint(journal, hints, now=now)
    typer.echo(plain_text(f"Hint {hint.number} of {len(hints)}: {hint.text}"))


@stuck.command("solution")
def _stuck_solution() -> None:
    """Show the worked answer, and end: open once the hints or the 15 minutes are used up."""
    from lessonkit.exercises.showing import block, plain_text
    from lessonkit.progress import Journal
    from lessonkit.study.stuck import current_stuck, end_stuck
    from lessonkit.study.times import StudyError, at_most

    journal, now = Journal(), study.moment_now()
    running = current_stuck(journal, now)
    if running is None or not running.exercise:
        what = "There is no exercise whose answer to show." if running else "No stuck timer is running."
        raise StudyError(what, fix="lessonkit stuck --exercise NAME")
    exercise = _exercise(running)
    hints_left = len(running.hints) < len(exercise.hints)
    if running.remaining(now) and hints_left:
        raise StudyError(
            f"The worked answer opens in {at_most(running.remaining(now))}, or after the last hint.",
            fix=f'lessonkit stuck hint; in the notebook it is always there: lesson.exercise("{exercise.name}").solution()',
        )
    end_stuck(journal, "solution", now)
    typer.echo(plain_text(f"A right answer:\n{block(exercise.spoken())}\n{exercise.because}"))


@stuck.command("end")
def _stuck_end(
    how: Annotated[str, typer.Argument(help="solved, break or stopped.")] = "stopped",
) -> None:
    """End: you have it, you take a break, or you leave it."""
    from lessonkit.progress import Journal
    from lessonkit.study.stuck import end_stuck
    from lessonkit.study.times import StudyError, said

    if how not in ("solved", "break", "stopped"):
        raise StudyError(
            f"{how!r} is not one of the ways to end.", fix="lessonkit stuck end solved (or break, or stopped)"
        )
    now = study.moment_now()
    ended = end_stuck(Journal(), how, now)
    if ended is None:
        typer.echo("No stuck timer is running. Start one: lessonkit stuck")
        return
    words = {
        "solved": f"Solved after {said(ended.seconds())}. Well done.",
        "break": "Good choice. Five to ten minutes, away from the screen.",
        "stopped": f"Ended after {said(ended.seconds())}.",
    }
    typer.echo(f"{words[how]} What you tried is kept: lessonkit stuck log")


@stuck.command("log")
def _stuck_log(as_json: Json = False) -> None:
    """Show what you tried, each time you were stuck."""
    from lessonkit.progress import Journal
    from lessonkit.study.stuck import log_text, stuck_log

    now = study.moment_now()
    sessions = stuck_log(Journal(), now)
    if as_json:
        print_json([_stuck_dict(each, now) for each in sessions])
        return
    typer.echo("\n\n".join(map(log_text, sessions)) or "Nothing yet. When you are stuck: lessonkit stuck")


def _show_stuck(running: Any, now: datetime, as_json: bool) -> None:
    from lessonkit.study.stuck import headline
    from lessonkit.study.times import at_most

    if as_json:
        print_json(_stuck_dict(running, now))
        return
    typer.echo(headline(running, now))
    wait = running.hint_wait(now)
    if running.exercise:
        when = f" (opens in {at_most(wait)}, or when you say what you tried)" if wait else ""
        typer.echo(f"  lessonkit stuck hint            the next hint{when}")
    else:
        typer.echo("  lessonkit explain               what an error message means")
        typer.echo("  lessonkit stuck --exercise NAME hints for an exercise of a lesson")
    typer.echo('  lessonkit stuck tried "..."     keep what you tried')
    typer.echo("  lessonkit stuck end solved      or: end break")


def _stuck_dict(each: Any, now: datetime) -> dict[str, Any]:
    return {
        "session": each.session,
        "lesson": each.lesson,
        "exercise": each.exercise,
        "started": each.started.isoformat(),
        "ended": each.ended.isoformat() if each.ended else None,
        "how": each.how,
        "seconds": round(each.seconds(now), 1),
        "tried": [{"at": at.isoformat(), "text": text} for at, text in each.tried],
        "hints": [{"at": at.isoformat(), "number": number, "text": text} for at, number, text in each.hints],
    }


def _exercise(running: Any) -> Any:
    """The exercise that a session is about. Raises UnknownNameError where the course no longer has it."""
    from lessonkit.errors import UnknownNameError
    from lessonkit.exercises import load_exercises

    found = load_exercises(running.lesson)
    if running.exercise not in found:
        raise UnknownNameError("exercise", running.exercise, found)
    return found[running.exercise]


def _lesson_of(exercise: str, lesson: str) -> str:
    """The lesson of an exercise, found by its name where none was given.

    Raises UnknownNameError for a lesson or exercise that doesn't exist, StudyError for a name of several lessons.
    """
    from lessonkit.curriculum import load_curriculum
    from lessonkit.errors import ExerciseError, UnknownNameError
    from lessonkit.exercises import load_exercises
    from lessonkit.study.times import StudyError

    curriculum = load_curriculum(check_files=False)
    names = [curriculum.lesson(lesson).id] if lesson else [each.id for each in curriculum.lessons]
    if not exercise:
        return lesson
    found: dict[str, list[str]] = {}
    for name in names:
        try:
            for each in load_exercises(name):
                found.setdefault(each, []).append(name)
        except ExerciseError:
            continue
    if lesson and not found:
        what = f"The lesson {lesson} has no exercises yet."
        raise StudyError(what, fix=f"lessonkit stuck --lesson {lesson}, for anything else in it")
    if exercise not in found:
        raise UnknownNameError("exercise", exercise, found)
    if len(found[exercise]) > 1:
        one = found[exercise][0]
        what = f"{len(found[exercise])} lessons have an exercise {exercise!r}: {', '.join(found[exercise])}."
        raise StudyError(what, fix=f"say which: lessonkit stuck --exercise {exercise} --lesson {one}")
    return found[exercise][0]
