"""One file of settings for all commands: ``settings.toml`` beside this module, or another that is named.

A section belongs to one module, which keeps its defaults, their units and their limits in a frozen dataclass; the
file says what differs. ``read("serving", Serving)`` gives that dataclass.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from lessonkit.errors import DataError, nearest

__all__ = ["DEFAULT", "VARIABLE", "read", "settings_file", "work_folder"]

#: The settings that come with the application.
DEFAULT = Path(__file__).with_name("settings.toml")
#: The environment variable that names another file.
VARIABLE = "PRODUCTION_SETTINGS"

Section = TypeVar("Section")


def settings_file(path: str | Path = "") -> Path:
    """The file in force: ``path``, else what ``PRODUCTION_SETTINGS`` names, else the one beside this module."""
    return Path(path or os.environ.get(VARIABLE, "") or DEFAULT).expanduser()


def work_folder(path: str | Path = "") -> Path:
    """Where the application keeps what it makes: ``[work] folder``, which counts from the folder you are in."""
    return Path(_sections(settings_file(path)).get("work", {}).get("folder", "outputs/production")).resolve()


def read(section: str, kind: type[Section], path: str | Path = "", **options: Any) -> Section:
    """The ``[section]`` of the settings as the dataclass ``kind``; options that are not None go before the file.

    Raises DataError for a file that can't be read, and for names, types and values that the section doesn't take: all
    problems at once, each with the nearest known name. ``kind`` may refuse values in ``__post_init__`` by ValueError.
    """
    file = settings_file(path)
    given = dict(_sections(file).get(section, {}))
    given |= {name: value for name, value in options.items() if value is not None}
    wanted = typing.get_type_hints(kind)
    known = [each.name for each in dataclasses.fields(kind)]
    problems = []
    for name, value in given.items():
        if name not in known:
            guess = nearest(name, known)
            problems.append(f"{name!r} is unknown" + (f" (did you mean {guess[0]!r}?)" if guess else ""))
        elif (fitting := _fitted(value, wanted[name])) is None:
            problems.append(f"{name} is {value!r}, but must be {_said(wanted[name])}")
        else:
            given[name] = fitting[0]
    missing = [
        each.name
        for each in dataclasses.fields(kind)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    ]
    problems += [f"{name} is missing" for name in missing if name not in given]
    if not problems:
        try:
            return kind(**given)
        except ValueError as error:
            problems.append(str(error))
    raise DataError(
        f"[{section}] of {file} can't be used: {'; '.join(problems)}.",
        fix=f"mend it; [{section}] takes: {', '.join(known)}",
    )


def _sections(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"The settings {file} can't be read: {error.strerror}.",
            fix=f"check the path, or start from a copy of {DEFAULT}",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"The settings {file} are no TOML: {error}.", fix="mend that line") from None
    loose = [name for name, value in found.items() if not isinstance(value, dict)]
    if loose:
        raise DataError(
            f"In the settings {file} these stand in no section: {', '.join(loose)}.",
            fix="move them under a line such as [serving]",
        )
    return found


def _fitted(value: Any, kind: Any) -> tuple[Any] | None:
    """The value as ``kind`` wants it, in a tuple; None if it does not fit."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return (value,)
    if origin in (typing.Union, types.UnionType):
        return next((found for each in inner if (found := _fitted(value, each)) is not None), None)
    if origin is typing.Literal:
        return (value,) if value in inner else None
    if origin is tuple and isinstance(value, list | tuple):
        items = [_fitted(each, inner[0] if inner else Any) for each in value]
        return None if None in items else (tuple(each[0] for each in items),)
    if origin is dict:
        if not isinstance(value, dict):
            return None
        items = [_fitted(each, inner[1]) for each in value.values()]
        return None if None in items else (dict(zip(value, (each[0] for each in items), strict=True)),)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return (float(value),)
    if kind is Path and isinstance(value, str | Path):
        return (Path(value),)
    if kind is int and isinstance(value, bool):
        return None
    return (value,) if isinstance(value, origin or kind) else None


def _said(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(repr(each) for each in typing.get_args(kind))
    return words.get(kind, getattr(kind, "__name__", str(kind)))
