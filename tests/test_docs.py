"""The pages: every link leads somewhere, and what they say of the project is so."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from lessonkit.curriculum import load_curriculum

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "lessons").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("progress", "results", "benchmarks")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
MACHINE_PATH = re.compile(r"(?<![\w./~:])/(?:tmp|root|home|work|private|var)/|[A-Za-z]:\\Users")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(page: Path) -> str:
    """A page's text without its blocks of code."""
    return CODE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[tuple[Path, str]]:
    """The page's links into the project: file and anchor."""
    found = [link for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link)]
    split = (link.partition("#") for link in found)
    return [(page.parent / unquote(file) if file else page, anchor) for file, _, anchor in split]


def anchors(page: Path) -> set[str]:
    """The anchors that headings get: lower case, no punctuation, hyphens for spaces."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page), flags=re.MULTILINE):
        plain = LINK.sub("]", heading).replace("[", "").replace("]", "")
        found.add(re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-"))
    return found


@each_page
def test_its_links_lead_somewhere(page: Path):
    assert [str(file) for file, _ in links(page) if not file.exists()] == []


@each_page
def test_its_anchors_exist(page: Path):
    wanted = [(file, anchor) for file, anchor in links(page) if anchor and file.suffix == ".md"]
    assert [f"{file.name}#{anchor}" for file, anchor in wanted if anchor not in anchors(file)] == []


@each_page
def test_its_blocks_of_code_are_closed(page: Path):
    assert page.read_text(encoding="utf-8").count("\n```") % 2 == 0


@each_page
def test_it_names_no_path_of_a_machine(page: Path):
    assert MACHINE_PATH.findall(page.read_text(encoding="utf-8")) == []


def test_every_checklist_item_stands_in_the_overview():
    overview = (ROOT / "lessons/README.md").read_text(encoding="utf-8")
    course = load_curriculum(check_files=False)
    assert [item.text for item in course.items if f"- [ ] {item.text}\n" not in overview] == []
    assert overview.count("- [ ] ") == len(course.items)


def test_the_overview_knows_the_paths_and_what_is_written():
    overview = (ROOT / "lessons/README.md").read_text(encoding="utf-8")
    course = load_curriculum(check_files=False)
    for number, path in enumerate(course.paths, 1):
        assert f"### {path.emoji} Path {number}: {path.title} ({path.weeks_text})" in overview
        assert f"**Time commitment:** {path.hours_text}" in overview
    for lesson in course.lessons:
        if lesson.written:
            target = lesson.notebook or lesson.source
            assert any(file.resolve() == ROOT / target for file, _ in links(ROOT / "lessons/README.md"))


def test_the_folders_that_the_readme_names_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([\w-]+)/` \|", readme, flags=re.MULTILINE)
    assert {"notebooks", "lessons", "lessonkit", "progress", "results", "tests"} <= set(named)
    made_later = {"outputs"}  # by the lessons, and ignored by git
    assert [name for name in named if name not in made_later and not (ROOT / name).is_dir()] == []
    assert "/outputs/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_programs_that_the_pages_name_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"python ((?:tools|benchmarks)/\w+\.py|start\.py)", text):
            assert (ROOT / name).is_file(), f"{page.name} names {name}"
    benchmarks = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    programs = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    assert set(re.findall(r"^\| `(\w+\.py)` \|", benchmarks, flags=re.MULTILINE)) == programs


def test_the_commands_that_the_pages_name_exist():
    from typer.main import get_command

    from lessonkit.cli import app

    known = set(get_command(app).commands)
    for page in PAGES:
        named = re.findall(r"`lessonkit ([a-z]+)", page.read_text(encoding="utf-8"))
        assert set(named) <= known, f"{page.relative_to(ROOT)} names {set(named) - known}"
