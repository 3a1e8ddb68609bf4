"""From YAML to dataclasses, telling everything that is wrong, each problem with its line.

The dataclasses' type hints are the schema. What holds between entries is ``curriculum_checks``' part.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lessonkit.errors import CurriculumError, nearest

__all__ = ["Reader", "Table", "guess", "parse"]

VERSION = 1


class Table(dict):
    """A YAML mapping that knows its line, the lines of its keys, and its repeated keys."""

    def __init__(self, line: int = 0) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[Any, int] = {}
        self.repeated: list[tuple[Any, int]] = []


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # the C parser, where it was built
    """Makes a ``Table`` of each mapping."""


def _construct_table(loader: Any, node: yaml.MappingNode) -> Table:
    table = Table(node.start_mark.line + 1)
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if key in table:
            table.repeated.append((key, line))
            continue
        table[key] = loader.construct_object(value_node, deep=True)
        table.lines[key] = line
    return table


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_table)


def parse(file: Path, fix: str) -> Table:
    """The file's YAML. fix: what to do about a file that holds no curriculum.

    Raises CurriculumError if it isn't YAML, has no keys at its top, or has another version.
    """
    try:
        raw = yaml.load(file.read_text(encoding="utf-8-sig"), _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: not UTF-8, or no such date
        raise CurriculumError(
            f"{file.name} is not valid YAML:", problems=[_syntax(error)], fix=fix
        ) from error
    if not isinstance(raw, Table):
        what = f"{file.name} must be a mapping of keys to values at its top, found {_name(raw)}."
        raise CurriculumError(what, fix=fix)
    if isinstance(raw.get("version"), int) and raw["version"] != VERSION:
        what = f"{file.name} has version {raw['version']}; this lessonkit reads version {VERSION}."
        raise CurriculumError(what, fix=fix)
    return raw


def _syntax(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return " ".join(str(error).split()) or type(error).__name__
    text = ", ".join(part for part in (error.context, error.problem) if part)
    return f"line {mark.line + 1}, column {mark.column + 1}: {text}"


_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a fraction",
    list: "a list",
    dict: "a mapping",
    Table: "a mapping",
    type(None): "nothing",
}


def _name(value: Any) -> str:
    kind = _NAMES.get(type(value), type(value).__name__)
    shown = str(value) if len(str(value)) <= 40 else f"{str(value)[:40]}..."
    return f"{kind} ({shown})" if isinstance(value, str | bool | int | float) else kind


_hints = functools.lru_cache(typing.get_type_hints)


class Reader:
    """Builds dataclasses from YAML, noting what is wrong and going on with an empty value instead.

    So later checks can run over the rest; they take an empty value as "already told".
    """

    def __init__(self) -> None:
        self._problems: list[tuple[int, str]] = []  # (line, text)
        self._places: dict[int, tuple[str, Table]] = {}  # id() of a built object: its name and its YAML

    def told(self) -> list[str]:
        """The problems so far, each once, in the order of the file."""
        return list(dict.fromkeys(text for _, text in sorted(self._problems, key=lambda told: told[0])))

    def report(self, owner: Any, key: str, message: str) -> None:
        """A problem with a field of an object that was built here."""
        where, table = self._places[id(owner)]
        self._note(table, key, where, message)

    def table(self, kind: type, raw: Table, where: str = "") -> Any:
        """A dataclass from a mapping; where: what to call it in a problem."""
        fields = {spec.name: spec for spec in dataclasses.fields(kind)}
        self._note_repeats(raw, where)
        for key in raw:
            if key not in fields:
                self._note(raw, key, where, f"unknown key {key!r}{guess(str(key), fields)}")
        values = {}
        for name, spec in fields.items():
            required = spec.default is dataclasses.MISSING
            if name in raw:
                values[name] = self._value(_hints(kind)[name], raw, name, where, spec.metadata.get("least"))
                if required and raw[name] == []:
                    self._note(raw, name, where, f"{name!r} is empty")
            elif required:
                self._note(raw, name, where, f"the key {name!r} is missing")
                values[name] = _empty(_hints(kind)[name])
        return self._built(kind(**values), raw, where)

    def _value(self, hint: Any, raw: Table, key: str, where: str, least: int | None = None) -> Any:
        value = raw[key]
        if isinstance(hint, types.UnionType):  # "str | None" is the only kind of union in the schema
            if value is None:
                return None
            hint = typing.get_args(hint)[0]
        origin = typing.get_origin(hint)
        expected = hint if hint in (str, int, bool) else list if origin is tuple else Table
        if type(value) is not expected:  # not isinstance: True is no number here
            self._note(raw, key, where, f"{key!r} must be {_NAMES[expected]}, found {_name(value)}")
            return _empty(hint)
        if hint is str and not value.strip():
            self._note(raw, key, where, f"{key!r} is empty")
        if least is not None and value < least:
            self._note(raw, key, where, f"{key!r} must be at least {least}, found {value}")
            return _empty(hint)
        if expected is list:
            return self._sequence(typing.get_args(hint)[0], raw, key, where)
        if origin is Mapping:
            return self._mapping(typing.get_args(hint)[1], value, _join(where, key))
        return self.table(hint, value, _join(where, key)) if expected is Table else value

    def _sequence(self, hint: Any, raw: Table, key: str, where: str) -> tuple:
        built = []
        for number, entry in enumerate(raw[key], start=1):
            place = _join(where, key, _label(entry, number))
            expected = str if hint is str else Table
            if not isinstance(entry, expected):
                self._note(raw, key, place, f"must be {_NAMES[expected]}, found {_name(entry)}")
                continue
            if hint is str and not entry.strip():
                self._note(raw, key, place, "is empty")
            built.append(entry if hint is str else self.table(hint, entry, place))
        return tuple(built)

    def _mapping(self, hint: Any, raw: Table, where: str) -> Mapping:
        self._note_repeats(raw, where)
        if not raw:
            self._note(raw, None, where, "is empty")
        names = [key for key in raw if isinstance(key, str)]
        for key in raw:
            if key not in names:
                self._note(raw, key, where, f"the key {key!r} must be text, found {_name(key)}")
        built = types.MappingProxyType({name: self._value(hint, raw, name, where) for name in names})
        return self._built(built, raw, where)

    def _built(self, built: Any, raw: Table, where: str) -> Any:
        self._places[id(built)] = (where, raw)
        return built

    def _note(self, table: Table, key: Any, where: str, message: str) -> None:
        self._note_line(table.lines.get(key, table.line), where, message)

    def _note_line(self, line: int, where: str, message: str) -> None:
        self._problems.append((line, f"line {line}: " + (f"{where}: " if where else "") + message))

    def _note_repeats(self, raw: Table, where: str) -> None:
        for key, line in raw.repeated:
            self._note_line(line, where, f"the key {key!r} stands here a second time")


def _empty(hint: Any) -> Any:
    """What stands for a value that could not be read."""
    if dataclasses.is_dataclass(hint):
        return hint(**{name: _empty(inner) for name, inner in _hints(hint).items()})
    if isinstance(hint, types.UnionType):
        return None
    if hint in (str, int, bool):
        return hint()
    return types.MappingProxyType({}) if typing.get_origin(hint) is Mapping else ()


def _join(*parts: str) -> str:
    return " > ".join(part for part in parts if part)


def _label(entry: Any, number: int) -> str:
    """What to call an entry of a list: its id or title where it has one, its number otherwise."""
    if isinstance(entry, Table):
        for key in ("id", "title", "label", "text"):
            if isinstance(entry.get(key), str) and entry[key]:
                return entry[key]
    return f"entry {number}"


def guess(name: str, choices: Iterable[str]) -> str:
    """Words that offer the choice most like ``name``; none where none is close."""
    guesses = nearest(name, choices, count=1)
    return f" (did you mean {guesses[0]!r}?)" if guesses else ""
