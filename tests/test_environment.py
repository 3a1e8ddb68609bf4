"""The lists of packages agree: pyproject.toml's bounds, the pins of both requirements.txt, the conda twin."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = (ROOT / "requirements.txt", ROOT / "production" / "requirements.txt")


def lines(*files: Path) -> list[str]:
    return [line for file in files or PINS for line in file.read_text(encoding="utf-8").splitlines()]


def declared() -> dict[str, SpecifierSet]:
    """Every direct dependency of pyproject.toml, all extras and the build included: name -> bounds."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = table["project"]["dependencies"] + table["build-system"]["requires"]
    found += [line for extra in table["project"]["optional-dependencies"].values() for line in extra]
    found = [Requirement(line) for line in found]
    return {canonicalize_name(each.name): each.specifier for each in found}


def pinned(*files: Path) -> dict[str, str]:
    """Every pin of the files (all, if none is named): name -> version."""
    found = [Requirement(line) for line in lines(*files) if line and not line.startswith("#")]
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in found}


def test_every_line_is_a_comment_or_one_exact_pin():
    odd = [line for line in lines() if line and not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==\d[\w.]*", line)]
    assert odd == []


def test_no_package_is_pinned_twice():
    assert len([line for line in lines() if "==" in line and not line.startswith("#")]) == len(pinned())


def test_pins_and_dependencies_name_the_same_packages():
    assert sorted(pinned()) == sorted(declared())


def test_the_production_part_is_pinned_apart():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = {
        canonicalize_name(Requirement(line).name) for line in table["optional-dependencies"]["production"]
    }
    assert {*pinned(PINS[1])} == extra


@pytest.mark.parametrize("name", sorted(declared()))
def test_pin_is_within_the_bounds(name: str):
    assert declared()[name].contains(pinned()[name], prereleases=False)


def test_bounds_are_lower_bounds_only():
    # An upper bound in the package would replace the torch and NumPy that a hosted notebook brings.
    kinds = {spec.operator for bounds in declared().values() for spec in bounds}
    assert kinds == {">="}


def test_conda_twin_reads_the_same_pins_and_python():
    twin = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    *conda, pip = twin["dependencies"]
    python = next(line for line in conda if line.startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(project["requires-python"])
    assert [line for line in conda if line != python] == ["pip"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
