"""Write `lessons/troubleshooting.md` from the known errors in `lessonkit/troubleshooting`.

python tools/render_troubleshooting.py           write the page
python tools/render_troubleshooting.py --check   change nothing; exit 1 if the page is out of date
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lessonkit.curriculum import load_curriculum  # noqa: E402
from lessonkit.troubleshooting import TOPICS, Entry  # noqa: E402
from lessonkit.troubleshooting.entry import PAGE, VERSIONS, anchor  # noqa: E402
from lessonkit.troubleshooting.explaining import NEXT_STEPS  # noqa: E402

TOP = """\
# Troubleshooting: error messages and their cures

<!-- Written by `python tools/render_troubleshooting.py` from lessonkit/troubleshooting; change it there. -->

An error is a sentence about your program, not about you. Everybody who trains models meets the ones
on this page, most of them many times.

**The quick way.** In a notebook, after a cell has failed: `lessonkit.explain()`. In a terminal:
`lessonkit explain "the last line of the error"`, or `lessonkit explain` alone, and paste. Both find the
entry below that fits. Nothing of it leaves your computer.

**By hand.** Look at the *last* line of the traceback, find its first words in the table, follow the link.
"""


def page() -> str:
    """The page as Markdown."""
    lines = [TOP, f"**On this page:** {' · '.join(_link(topic) for topic in TOPICS)} ·"]
    lines += ["[When it is not here](#when-it-is-not-here)", "", "## Index by message"]
    for topic, entries in TOPICS.items():
        lines += [
            "",
            f"### Messages: {topic}",
            "",
            "| the message begins, or says | the entry |",
            "|---|---|",
        ]
        lines += [f"| {_cell(entry)} | {_link(entry.title)} |" for entry in entries]
    for topic, entries in TOPICS.items():
        lines += ["", f"## {topic}"]
        for entry in entries:
            lines += ["", *_section(entry)]
    lines += ["", "## When it is not here", ""]
    lines += [f"{number}. {step}" for number, step in enumerate(NEXT_STEPS, 1)]
    return "\n".join([*lines, "", *_how_it_is_known(), ""])


def _link(title: str) -> str:
    return f"[{title}](#{anchor(title)})"


def _cell(entry: Entry) -> str:
    first = (entry.example.strip() or "(no words at all)").splitlines()[0]
    first = first if len(first) <= 90 else first[:87].rstrip() + "..."
    return "`" + first.replace("`", "'").replace("|", "\\|") + "`"


def _section(entry: Entry) -> Iterator[str]:
    yield f"### {entry.title}"
    yield ""
    yield f"```text\n{_as_shown(entry)}\n```"
    yield ""
    yield f"**What it means.** {entry.meaning}"
    yield ""
    yield f"**Why it happens.** {entry.cause}"
    yield ""
    yield "**What to do.**"
    yield ""
    for number, step in enumerate(entry.cure, 1):
        yield f"{number}. {step}"
    for name, code in (("Before", entry.before), ("After", entry.after)):
        if code:
            yield ""
            yield f"{name}:"
            yield ""
            yield f"```python\n{code.strip()}\n```"
    notes = list(_notes(entry))
    if notes:
        yield ""
        yield "*" + " ".join(notes) + "*"


def _as_shown(entry: Entry) -> str:
    text = entry.example.strip()
    return ": ".join(filter(None, [*entry.errors[:1], text]))


def _notes(entry: Entry) -> Iterator[str]:
    if entry.packages:
        yield (
            f"Seen with {entry.seen_with}."
            if entry.reproduced
            else f"A message of {' and '.join(entry.packages)}."
        )
    if entry.packages and not entry.reproduced:
        yield "Not provoked by this course's tests: it needs what a test machine lacks."
    if entry.lesson:
        lesson = load_curriculum(check_files=False).lesson(entry.lesson)
        if lesson.written:
            target = os.path.relpath(ROOT / (lesson.notebook or lesson.source), ROOT / "lessons")
            yield f"Lesson: [{lesson.title}]({Path(target).as_posix()})."


def _how_it_is_known() -> Iterator[str]:
    entries = [entry for entries in TOPICS.values() for entry in entries]
    proven = sum(entry.reproduced for entry in entries)
    named = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
    yield "## How these are known"
    yield ""
    yield (
        f"{len(entries)} entries. The messages of {proven} are provoked by the test suite with real code, which checks that "
        "each still reads like this and leads to its entry and to no other. The rest needs a GPU, a network or an "
        f"unlucky installation, or is no message at all. Versions: {named}."
    )


def main() -> int:
    """Write or check; the exit status."""
    path, text = ROOT / PAGE, page()
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        print(f"{PAGE} is up to date")
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{PAGE} is out of date: python tools/render_troubleshooting.py")
        return 1
    path.write_text(text, encoding="utf-8", newline="\n")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
