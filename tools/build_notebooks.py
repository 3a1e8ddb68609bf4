"""Build `notebooks/` from `lessons/`: convert, execute, clean, stamp. One way; never edit the result.

python tools/build_notebooks.py                        build what is stale
python tools/build_notebooks.py beginner/lora --force  build one lesson, stale or not
python tools/build_notebooks.py --check                name what is stale; exit 1 if anything is
python tools/build_notebooks.py --dress                renew links and badges in built notebooks, executing nothing
python tools/build_notebooks.py --repository owner/name   write Colab badges (empty: remove them)
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

import lessonkit
from lessonkit.curriculum import Lesson, load_curriculum, project_root
from lessonkit.errors import LessonError, LessonkitError
from lessonkit.execution import environment, execute
from lessonkit.hardware import detect_hardware

ROOT = project_root() or Path(__file__).resolve().parent.parent
NOTEBOOK_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+\.ipynb)\)")
SETTING = re.compile(r'^(repository = )"(.*)"$', re.MULTILINE)  # in pyproject.toml, [tool.lessonkit]
SECONDS_STEP = 30  # seconds are stamped in steps, so that two builds of one notebook are the same bytes
LARGEST_BYTES = 1_000_000
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"

# What the cell tagged "setup" begins with, in every notebook, in place of its `import lessonkit`.
SETUP = """\
# Makes `lessonkit` importable: installed already, in a checkout, or on Colab.
import importlib.util, pathlib, subprocess, sys

if importlib.util.find_spec("lessonkit") is None:
    here = pathlib.Path.cwd()
    checkout = next((p for p in (here, *here.parents) if (p / "lessonkit/__init__.py").exists()), None)
    wheels = sorted(here.glob("lessonkit-*.whl"))
    source = str(wheels[-1]) if wheels else "{source}"
    if checkout:
        sys.path.insert(0, str(checkout))
    elif source:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", source], check=True)
    else:
        sys.exit("lessonkit is missing. Upload the file lessonkit-{version}-py3-none-any.whl beside this "
                 "notebook (`python -m pip wheel --no-deps .` makes it) and run this cell again.")
import lessonkit"""


def repository() -> str:
    """The one setting: ``owner/name`` on GitHub, or empty."""
    found = SETTING.search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found.group(2) if found else ""


def set_repository(name: str) -> None:
    """Write the setting. Raises LessonError if it isn't of the form ``owner/name``."""
    if name and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise LessonError(
            f"{name!r} is not a repository's name.", fix="--repository owner/name, or '' for none"
        )
    path = ROOT / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    text = SETTING.sub(lambda match: f'{match.group(1)}"{name}"', text)
    path.write_text(text, encoding="utf-8", newline="\n")


def convert(source: Path, lesson_id: str, notebook_path: str, repo: str) -> NotebookNode:
    """A lesson's percent-format source as a notebook without outputs, with stable cell ids."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": KERNEL,
            "language_info": {"name": "python"},
            "lessonkit": {"lesson": lesson_id, "source_sha256": source_hash(source)},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    unlink_unwritten(notebook, notebook_path)
    dress(notebook, notebook_path, repo)
    return notebook


def dress(notebook: NotebookNode, notebook_path: str, repo: str) -> None:
    """Write the Colab badge and the setup cell for this repository setting; then give ids anew."""
    tag_of = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    if "setup" not in tag_of or "title" not in tag_of:
        fix = 'mark the first cell `# %% [markdown] tags=["title"]` and the import cell `# %% tags=["setup"]`'
        raise LessonError(f"{notebook_path} needs one cell tagged title and one tagged setup.", fix=fix)
    source = f"git+https://github.com/{repo}" if repo else ""
    setup = SETUP.replace("{source}", source).replace("{version}", lessonkit.__version__)
    cell = tag_of["setup"]
    own = cell.source.split("import lessonkit\n", 1)[-1]  # what the lesson itself wrote below
    cell.source = f"{setup}\n{own}"
    title = tag_of["title"]
    plain = re.sub(r"\n*\[!\[Open in Colab\]\(.*?\)\]\(.*?\)", "", title.source)
    link = f"https://colab.research.google.com/github/{repo}/blob/main/{notebook_path}"
    title.source = plain + (f"\n\n[![Open in Colab]({BADGE})]({link})" if repo else "")
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        cell["id"] = digest if not seen[digest] else f"{digest}-{seen[digest]}"
        seen[digest] += 1


def unlink_unwritten(notebook: NotebookNode, notebook_path: str) -> None:
    """Turn links to notebooks of lessons that are not written yet into plain words, which say so."""
    unwritten = {
        ROOT / each.notebook
        for each in load_curriculum(check_files=False).lessons
        if not each.written and each.notebook
    }
    folder = (ROOT / notebook_path).parent

    def words(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / link[2]))
        return f"{link[1]} (not written yet)" if target in unwritten else link[0]

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = NOTEBOOK_LINK.sub(words, cell.source)


def dress_anew(lesson: Lesson) -> bool:
    """Give a built notebook the texts that its source gives today, if its code is unchanged; whether it could be.

    Sizes of another scale than the one that it was built at may change: its outputs would be the same.
    """
    path = ROOT / lesson.notebook
    notebook = nbformat.read(path, as_version=4)
    wanted = convert(ROOT / lesson.source, lesson.id, lesson.notebook, repository())
    scale = notebook.metadata.lessonkit.get("scale", "")
    code = [
        [
            at_scale(c.source, scale)
            for c in each.cells
            if c.cell_type == "code" and "setup" not in c.metadata.get("tags", [])
        ]
        for each in (notebook, wanted)
    ]
    if code[0] != code[1] or len(notebook.cells) != len(wanted.cells):
        return False
    for cell, new in zip(notebook.cells, wanted.cells, strict=True):
        cell.source, cell["id"] = new.source, new["id"]
        if "tags" in new.metadata:
            cell.metadata["tags"] = new.metadata["tags"]
        else:
            cell.metadata.pop("tags", None)
    notebook.metadata.lessonkit.source_sha256 = wanted.metadata.lessonkit.source_sha256
    write(notebook, path)
    return True


def at_scale(code: str, scale: str) -> str:
    """What a cell does at a scale: its syntax, but for what the other scales ``pick``; as it stands if it is no Python."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a magic command, say
        return code
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "pick":
            chosen = [each for each in call.keywords if each.arg == scale]
            call.keywords = chosen or call.keywords
    return ast.dump(tree)


def source_hash(source: Path) -> str:
    """sha256 (hex) of the source's text, with line ends as they are in the repository."""
    return hashlib.sha256(source.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def clean(notebook: NotebookNode, replacements: dict[str, str]) -> None:
    """Remove what differs from build to build without meaning anything, and this machine's paths."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop("application/vnd.jupyter.widget-view+json", None) and set(data) <= {"text/plain"}:
                continue  # a widget alone; its cell prints a static fallback beside it
            output.pop("transient", None)
            for field in (output, data):
                for key, value in field.items():
                    if isinstance(value, str) and key != "image/png":
                        field[key] = _replaced(value, replacements)
            kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept


def _replaced(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def problems(notebook: NotebookNode, source: Path | None = None) -> list[str]:
    """What keeps a built notebook from being committed; empty if nothing does."""
    found = []
    stamp = notebook.metadata.get("lessonkit", {})
    if source is not None and stamp.get("source_sha256") != source_hash(source):
        found.append("it is stale: its source has changed since it was built")
    found += [
        f"the stamp lacks {key}" for key in ("version", "hardware", "seconds", "scale") if key not in stamp
    ]
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its execution counts have gaps: not all cells ran once, in order")
    for cell in code:
        first = cell.source.splitlines()[0]
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"an error output: {output.ename} in the cell {first!r}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"a warning in the cell {first!r}: {output.text.strip()[:120]}")
    size = len(nbformat.writes(notebook).encode())
    if size > LARGEST_BYTES:
        found.append(f"it has {size:,} bytes; {LARGEST_BYTES:,} are the limit")
    return found


def build(lesson: Lesson, scale: str, target: Path, source: Path | None = None) -> NotebookNode:
    """Convert, execute, clean and stamp one lesson, and write it to ``target``.

    Raises LessonError if a cell fails or the result may not be committed; ``target`` is then as it was, and the
    notebook as far as it came lies in outputs/refused.
    """
    source = source or ROOT / lesson.source
    notebook = convert(source, lesson.id, lesson.notebook, repository())
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        variables = {"LESSONKIT_PROGRESS": f"{folder}/progress", "LESSONKIT_OUTPUTS": f"{folder}/outputs"}
        variables["LESSONKIT_SCALE"] = scale
        if scale != "gpu":  # whose models come from the Hub
            variables["HF_HUB_OFFLINE"] = "1"
        start = time.perf_counter()
        with environment(variables), kept_if_refused(notebook, lesson):
            execute(notebook, target.parent, tell=lambda text: print(f"  {text}", flush=True))
        seconds = time.perf_counter() - start
        clean(notebook, {f"LESSONKIT_SCALE={scale} asks for it": _usual_reason(scale), f"{folder}/": ""})
    clean(notebook, {f"{ROOT}/": "", str(Path.home()): "~"})
    notebook.metadata.lessonkit.update(
        version=lessonkit.__version__,
        scale=scale,
        hardware=detect_hardware().summary(),
        seconds=int(-(-seconds // SECONDS_STEP) * SECONDS_STEP),
    )
    found = problems(notebook, source)
    with kept_if_refused(notebook, lesson):
        if found:
            raise LessonError(
                f"{lesson.notebook} may not be committed: " + "; ".join(found), fix=f"mend {source}"
            )
    write(notebook, target)
    print(f"  {lesson.notebook}: {seconds:.0f} s, {target.stat().st_size / 1000:.0f} kB")
    return notebook


@contextlib.contextmanager
def kept_if_refused(notebook: NotebookNode, lesson: Lesson) -> Iterator[None]:
    """Keep a notebook that fails or may not be committed where its author can read it."""
    try:
        yield
    except LessonError:
        path = ROOT / "outputs/refused" / Path(lesson.notebook).relative_to("notebooks")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(notebook, path)
        print(f"  as far as it came: {path.relative_to(ROOT)}")
        raise


def _usual_reason(scale: str) -> str:
    """Why a learner's machine would run at this scale, in place of the build's own wish."""
    return {"laptop": "no GPU: sizes are chosen to learn something real on two CPU cores"}.get(scale, scale)


def write(notebook: NotebookNode, target: Path) -> None:
    """Write all or nothing."""
    nbformat.validate(notebook)
    part = target.with_suffix(".part")
    part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    part.replace(target)


def lessons_to_build() -> Iterator[Lesson]:
    """Every written lesson that has a notebook."""
    yield from (each for each in load_curriculum(check_files=False).lessons if each.written and each.notebook)


def stale(lesson: Lesson) -> list[str]:
    """Why a lesson's notebook must be built; empty if it is fresh."""
    path = ROOT / lesson.notebook
    if not path.exists():
        return ["it is not built yet"]
    try:
        notebook = nbformat.read(path, as_version=4)
    except ValueError as error:  # no JSON: the marks of an unfinished merge, say
        return [f"it cannot be read: {str(error).splitlines()[0][:80]}"]
    return problems(notebook, ROOT / lesson.source)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do as it says; the exit status."""
    parser = argparse.ArgumentParser(description="Build notebooks/ from lessons/.")
    parser.add_argument(
        "lessons", nargs="*", help="names such as beginner/lora; all that are stale if left out"
    )
    parser.add_argument("--scale", default="laptop", choices=("smoke", "laptop", "gpu"))
    parser.add_argument("--force", action="store_true", help="build fresh ones too")
    parser.add_argument(
        "--dress",
        action="store_true",
        help="execute nothing; renew texts, links and badges of built notebooks",
    )
    parser.add_argument("--check", action="store_true", help="build nothing; name what is stale")
    parser.add_argument("--output", type=Path, help="write below this folder in place of the project's")
    parser.add_argument("--repository", help="owner/name for the Colab badges; '' for none")
    options = parser.parse_args(arguments)
    if options.repository is not None:
        set_repository(options.repository)
    if options.dress or options.repository is not None:
        built = [each for each in lessons_to_build() if (ROOT / each.notebook).exists()]
        stale_ones = [each.id for each in built if not dress_anew(each)]
        print(f"Dressed {len(built) - len(stale_ones)} notebooks.")
        if stale_ones:
            print(f"Their code has changed, so build them: {' '.join(stale_ones)}")
        return int(bool(stale_ones))
    curriculum = load_curriculum(check_files=False)
    chosen = [curriculum.lesson(name) for name in options.lessons] or list(lessons_to_build())
    reasons = {lesson.id: stale(lesson) for lesson in chosen}
    if options.check:
        for name, found in reasons.items():
            print(f"{name}: {'; '.join(found) or 'fresh'}")
        return int(any(reasons.values()))
    for lesson in chosen:
        if reasons[lesson.id] or options.force or options.output:
            print(f"Building {lesson.notebook} at {options.scale} scale", flush=True)
            build(lesson, options.scale, (options.output or ROOT) / lesson.notebook)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LessonkitError as error:
        sys.exit(str(error))
