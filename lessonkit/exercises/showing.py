"""A check's words on the screen: rich text in a notebook, plain text elsewhere.

Messages are written in a little Markdown: `code`, **bold**, a line that begins with ``- `` and fenced
blocks. Everything else, whatever a learner's answer printed, is shown as it is.
"""

from __future__ import annotations

import html
import re
import sys

from lessonkit.live import in_notebook

__all__ = ["block", "code", "plain_text", "rich_text", "show"]

FENCE = "```"
# The bar at the left says in colour what symbol and words say too; text keeps the theme's own colours.
COLOURS = {"passed": "#009E73", "failed": "#D55E00", "error": "#E69F00", "unattempted": "#999999"}
OTHERWISE = "#0072B2"
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
MONO = "font-family:var(--jp-code-font-family,monospace)"


def code(text: str) -> str:
    """The text as a code span, also if it holds backticks; on one line."""
    text = " ".join(text.split())
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * (longest + 1)
    return f"{marks} {text} {marks}" if longest else f"`{text}`"


def block(text: str) -> str:
    """The text as a fenced block, whatever it holds."""
    inside = text.replace(FENCE, "'''").strip("\n")
    return f"{FENCE}\n{inside}\n{FENCE}"


def plain_text(message: str) -> str:
    """The message for a terminal: no asterisks and no fences; blocks are set in by four spaces."""
    lines = []
    for fenced, text in _parts(message):
        if fenced:
            lines += ["    " + line for line in text.split("\n")]
        else:
            lines += [_outside_code(line, lambda words: BOLD.sub(r"\1", words)) for line in text.split("\n")]
    return "\n".join(lines)


def rich_text(message: str, status: str = "") -> str:
    """The message as HTML that reads well on a light and on a dark page. All of it is escaped."""
    parts = []
    for fenced, text in _parts(message):
        if fenced:
            style = f"{MONO};margin:0.3em 0 0.3em 1em;white-space:pre-wrap;overflow-wrap:anywhere"
            parts.append(f'<pre style="{style}">{html.escape(text, quote=False)}</pre>')
        else:
            parts.append("<br>".join(_rich_line(line) for line in text.split("\n")))
    style = f"padding:0.4em 0.8em;border-left:4px solid {COLOURS.get(status, OTHERWISE)}"
    return f'<div role="status" style="{style}">{"".join(parts)}</div>'


def show(message: str, status: str = "") -> None:
    """Show a message, and never raise: a broken screen is no reason to lose a verdict."""
    try:
        if in_notebook():
            from IPython.display import display

            content = {"text/plain": plain_text(message), "text/html": rich_text(message, status)}
            display(content, raw=True)
        else:
            print(plain_text(message))
    except Exception:  # standard output closed or replaced by something else, a terminal without emoji, ...
        _last_resort(plain_text(message))


def _last_resort(text: str) -> None:
    try:
        stream = sys.__stdout__
        if stream is not None:
            stream.write(text.encode("ascii", "replace").decode() + "\n")
            stream.flush()
    except Exception:  # no screen at all: the outcome is returned all the same
        return


def _parts(message: str) -> list[tuple[bool, str]]:
    """(fenced, text) in order."""
    found: list[tuple[bool, list[str]]] = [(False, [])]
    for line in message.split("\n"):
        if line.strip() == FENCE:
            found.append((not found[-1][0], []))
        else:
            found[-1][1].append(line)
    return [(fenced, "\n".join(lines)) for fenced, lines in found if lines]


def _rich_line(line: str) -> str:
    bullet = line.startswith("- ")
    body = _outside_code(
        html.escape(line[2:] if bullet else line, quote=False),
        lambda words: BOLD.sub(r"<strong>\1</strong>", words),
        lambda inner: f'<code style="{MONO}">{inner}</code>',
    )
    return f"• {body}" if bullet else body


def _outside_code(line: str, change, wrap=None) -> str:
    """``change`` what stands outside of code spans, and ``wrap`` what stands inside, if it is given."""
    done, at = [], 0
    for span in CODE.finditer(line):
        done.append(change(line[at : span.start()]))
        inner = span[2].strip() if len(span[1]) > 1 else span[2]
        done.append(wrap(inner) if wrap else span[0])
        at = span.end()
    return "".join([*done, change(line[at:])])
