"""Commands for studying: the focus timer, and one technique at a time."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lessonkit.cli.app import Json, app, print_json

if TYPE_CHECKING:
    from datetime import datetime

    from lessonkit.study import Focus

__all__ = ["focus", "moment_now", "only", "somebody_asked"]

focus = typer.Typer(help="The focus timer: 25 minutes of work, 5 of rest, or what you set.")
app.add_typer(focus, name="focus")

DAYS_SHOWN, MOST_DAYS = 7, 36_500


# ---- The focus timer --------------------------------------------------------------------------------


@focus.callback(invoke_without_command=True)
def _focus(context: typer.Context, as_json: Json = False) -> None:
    """The focus timer: 25 minutes of work, 5 of rest, or what you set. Alone, it says where it stands."""
    if context.invoked_subcommand is None:
        _show_focus(as_json)


@focus.command("start")
def _focus_start(
    minutes: Annotated[str, typer.Option(help="Of focus, 1 to 180.")] = "25",
    rest: Annotated[str, typer.Option(help="Minutes of break after it, 0 to 60.")] = "5",
    about: Annotated[str, typer.Option(help="What it is for, in a few words.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay and count down to the end of the break.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a session. It goes on without this terminal, and ends by itself."""
    from lessonkit.progress import Journal
    from lessonkit.study.focus import sentence, start_focus

    journal, now = Journal(), moment_now()
    _offer_to_stop(journal, now)
    begun = start_focus(journal, about, minutes, rest, now)  # type: ignore[arg-type]
    if as_json:
        print_json(_focus_dict(begun, now))
        return
    typer.echo(sentence(begun, now))
    if wait:
        _wait(journal, begun)
    else:
        typer.echo('When you are done: lessonkit focus stop --done "what I did"')


@focus.command("stop")
def _focus_stop(
    done: Annotated[str, typer.Option(help="What you did, in a few words.")] = "",
    as_json: Json = False,
) -> None:
    """Stop the session; the time so far counts."""
    from lessonkit.progress import Journal
    from lessonkit.study.focus import last_focus, stop_focus
    from lessonkit.study.times import said

    journal, now = Journal(), moment_now()
    stopped = stop_focus(journal, done, now)
    if as_json:
        print_json(_focus_dict(stopped, now))
        return
    if stopped is None:
        typer.echo("No focus session is running.")
        latest = last_focus(journal, now)
        if latest is not None and latest.ended is None and not latest.done:
            typer.echo(f"The last one ended as planned, after {said(latest.seconds)}. That time counts.")
        typer.echo("Start one: lessonkit focus start")
        return
    if stopped.done:
        typer.echo(f"Kept, with {said(stopped.seconds)}: {stopped.done}")
    else:
        typer.echo(f"Stopped after {said(stopped.seconds)}. That time counts.")
        typer.echo('What did you do? lessonkit focus stop --done "a few words"')


@focus.command("status")
def _focus_status(as_json: Json = False) -> None:
    """Say where the session stands."""
    _show_focus(as_json)


@focus.command("log")
def _focus_log(
    days: Annotated[str, typer.Option(help="How many days back, or all.")] = str(DAYS_SHOWN),
    as_json: Json = False,
) -> None:
    """List what was done, day by day."""
    from lessonkit.progress import Journal
    from lessonkit.study import focus as timer
    from lessonkit.study.times import minutes_in_all, number_between, said

    example = "lessonkit focus log --days 7 (or all)"
    back = MOST_DAYS if days == "all" else number_between(days, 1, MOST_DAYS, "--days", example, "days")
    now = moment_now()
    log = timer.focus_log(Journal(), now)
    if as_json:
        print_json([_focus_dict(each, now) for each in log])
        return
    found = {day: each for day, each in timer.days(log).items() if _days_ago(day, now) < back}
    for day, sessions in sorted(found.items()):
        total = said(60 * minutes_in_all(each.seconds for each in sessions))
        typer.echo(f"{day}  {total} in {len(sessions)} session{'s' * (len(sessions) > 1)}")
        for each in sessions:
            typer.echo(f"  {timer.session_line(each)}")
    if not found:
        when = f"in the last {days} days; all of them: lessonkit focus log --days all" if log else "yet"
        typer.echo(f"No sessions {when}. Start one: lessonkit focus start")


def _show_focus(as_json: bool) -> None:
    from lessonkit.progress import Journal
    from lessonkit.study.focus import last_focus

    journal, now = Journal(), moment_now()
    if as_json:
        print_json(_focus_dict(last_focus(journal, now), now))
        return
    from lessonkit.study.focus_view import FocusPanel

    typer.echo(FocusPanel(journal, moment_now).text())


def _offer_to_stop(journal: Any, now: datetime) -> None:
    """Where a session is running and somebody is there to ask, ask whether to stop it."""
    from lessonkit.study.focus import current_focus, sentence, stop_focus

    running = current_focus(journal, now)
    if running is None or running.phase(now) != "focus" or not somebody_asked():
        return
    typer.echo(sentence(running, now))
    if typer.confirm("Stop it and start a new one?"):
        stop_focus(journal, "", now)


def _wait(journal: Any, begun: Focus) -> None:
    """Count down in the terminal until the break is over, or the session is stopped elsewhere."""
    from lessonkit.study.focus import last_focus, words

    latest: Focus | None = begun
    phase, shown = "focus", ""
    try:
        while latest is not None and latest.session == begun.session and phase != "over":
            shown = _count_down(latest, shown)
            time.sleep(1)
            latest = last_focus(journal, moment_now())
            now = moment_now()
            if latest is not None and latest.phase(now) != phase:
                phase = latest.phase(now)
                typer.echo(_line(words(latest, now)))
    except KeyboardInterrupt:
        typer.echo(_line("The session goes on, and ends by itself. To stop it: lessonkit focus stop"))


def _count_down(latest: Focus, shown: str) -> str:
    """Show the time left: each second in place on a terminal, elsewhere a line a minute."""
    from lessonkit.study.times import at_most

    left = at_most(latest.remaining(moment_now()))
    if sys.stdout.isatty():
        typer.echo(f"\r{left} left ", nl=False)
    elif left.split(":")[0] != shown.split(":")[0]:
        typer.echo(f"{left} left")
    return left


def _line(text: str) -> str:
    """Text on a line of its own, after a countdown in place."""
    return f"\n{text}" if sys.stdout.isatty() else text


def _focus_dict(each: Focus | None, now: datetime) -> dict[str, Any] | None:
    from dataclasses import asdict

    if each is None:
        return None
    fields = asdict(each.at(now))
    fields["started"] = each.started.isoformat()
    fields["ended"] = each.ended.isoformat() if each.ended else None
    return fields | {"phase": each.phase(now), "remaining": round(each.remaining(now), 1)}


# ---- One technique at a time ------------------------------------------------------------------------


@app.command()
def only(
    technique: Annotated[
        str, typer.Argument(help="lora, for example; left out, it says which is chosen.")
    ] = "",
    show_all: Annotated[bool, typer.Option("--all", help="Show all techniques again.")] = False,
) -> None:
    """Study one technique at a time: progress and the dashboard show only that."""
    from lessonkit.cli.app import study
    from lessonkit.study.technique import ALL, choose_technique, technique_text
    from lessonkit.study.times import StudyError

    if technique and show_all and technique != ALL:
        raise StudyError(
            "One technique, or all: not both.", fix=f"lessonkit only {technique}; lessonkit only --all"
        )
    curriculum, journal = study()
    chosen = ALL if show_all else technique
    told = choose_technique(journal, curriculum, chosen) if chosen else technique_text(journal, curriculum)
    typer.echo(told)


def _days_ago(day: str, now: datetime) -> int:
    from datetime import date

    return (now.astimezone().date() - date.fromisoformat(day)).days


def somebody_asked() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def moment_now() -> datetime:
    """The present moment, UTC."""
    from lessonkit.study.times import utc

    return utc()
