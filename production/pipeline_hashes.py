"""What a pipeline's step depends on, as sha256: plain data, files that settings name, and code with all that it imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lessonkit
from production.records import code_sha256, file_sha256

__all__ = ["code_digest", "digest", "imported", "named_files"]

#: Where the two packages of this project lie.
PACKAGES = {"production": Path(__file__).parent, "lessonkit": Path(lessonkit.__file__).parent}
#: Settings that may name a file or a folder.
NAMING = ("data", "model")


def digest(value: Any) -> str:
    """Of plain data; the order of a dictionary's names does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def named_files(section: Mapping[str, Any]) -> dict[str, str]:
    """Each file that the section's ``data`` or ``model`` names, or that lies in a folder which they name, with its hash."""
    found = {}
    for name in NAMING:
        path = Path(str(section.get(name) or "")).expanduser()
        if section.get(name) and path.exists():
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            found |= {str(each): file_sha256(each) for each in inside if each.is_file()}
    return found


def code_digest(modules: Iterable[str]) -> str:
    """Of the code of modules of ``production``, and of all that they import from this project.

    A name with a point is a file of that folder, alone: "prices.toml", or "pipeline_steps.py" without its imports.
    """
    files: set[Path] = set()
    for name in modules:
        own = PACKAGES["production"] / (name if "." in name else f"{name}.py")
        files |= {own} if "." in name else imported(own)
    return code_sha256(files)


def imported(module: Path) -> set[Path]:
    """The module's file, and those of all of this project's modules that it imports, at any depth."""
    found: set[Path] = set()
    ahead = [module]
    while ahead:
        file = ahead.pop()
        if file not in found:
            found.add(file)
            ahead += _imports(file, file.stat().st_mtime_ns)
    return found


@functools.cache
def _imports(file: Path, changed: int) -> tuple[Path, ...]:
    """changed: its time, so that an edited file is read anew."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    return tuple(each for name in sorted(names) if (each := _file_of(name)) is not None)


def _file_of(name: str) -> Path | None:
    package, *rest = name.split(".")
    if package not in PACKAGES:
        return None
    base = PACKAGES[package].joinpath(*rest)
    options = (base / "__init__.py", base.with_suffix(".py"))
    return next((each for each in options if each.is_file()), None)
