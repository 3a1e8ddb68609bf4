"""Known errors: each is provoked with the installed libraries and leads to its entry and to no other.

If a library words its message anew, the test of that entry fails: then the entry wants looking at.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Tiny
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from provoked_errors import CURED, LOGGED, PROVOKED, Desk, Program
from typer.testing import CliRunner

from lessonkit import cli
from lessonkit.curriculum import load_curriculum
from lessonkit.errors import LessonkitError
from lessonkit.execution import execute
from lessonkit.troubleshooting import ENTRIES, explain, match, nearest_entries, offer
from lessonkit.troubleshooting.entry import PAGE, VERSIONS, Entry
from lessonkit.troubleshooting.matching import entries_of
from lessonkit.troubleshooting.reading import errors_in, told

ROOT = Path(__file__).resolve().parents[1]
KNOWN = {entry.id: entry for entry in ENTRIES}


@pytest.fixture
def desk(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    datasets.disable_caching()
    gc.freeze()  # Trainer collects garbage each time, and would look through all of torch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about each other's deprecated names
        yield Desk(tiny, tmp_path)
    gc.unfreeze()
    datasets.enable_caching()


def parameters(kept: list[tuple[str, Program]]) -> list:
    return [pytest.param(name, function, id=f"{name}-{function.__name__}") for name, function in kept]


# ---- The entries against what was provoked ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "program"), parameters(PROVOKED))
def test_provoked_error_leads_to_its_entry_and_no_other(name: str, program: Program, desk: Desk):
    with pytest.raises((Exception, Warning)) as caught:
        program(desk)
    error = caught.value
    assert [entry.id for entry in entries_of(told(error))] == [name], repr(error)
    assert match(error).id == name
    typed = f"Traceback (most recent call last):\n  File ...\n{type(error).__module__}.{type(error).__name__}: {error}"
    assert match(typed).id == name, "the same as a pasted text"


@pytest.mark.parametrize(("name", "program"), parameters(LOGGED))
def test_logged_note_leads_to_its_entry(name: str, program: Program, desk: Desk, capture: list[str]):
    program(desk)
    assert name in {entry.id for text in capture for entry in entries_of(errors_in(text)[0])}, capture


@pytest.mark.parametrize(("name", "program"), parameters(CURED))
def test_the_cure_works(name: str, program: Program, desk: Desk):
    program(desk)


@pytest.fixture
def capture() -> Iterator[list[str]]:
    """What transformers logs."""
    from transformers.utils import logging as transformers_logging

    kept: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: kept.append(record.getMessage())
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    logging.getLogger("transformers").addHandler(handler)
    yield kept
    logging.getLogger("transformers").removeHandler(handler)
    transformers_logging.set_verbosity(level)


def test_every_entry_that_claims_it_is_provoked():
    provoked = {name for name, _ in [*PROVOKED, *LOGGED]}
    claimed = {entry.id for entry in ENTRIES if entry.reproduced}
    not_here = {"a-tokenizer-that-needs-another-package", "the-disk-is-full"}  # where the machine differs
    assert claimed - provoked <= not_here
    assert provoked <= claimed
    errors = {
        name for name, _ in PROVOKED if not all(kind.endswith("Warning") for kind in KNOWN[name].errors)
    }
    assert len(errors) >= 30


def test_every_cure_is_of_an_entry():
    assert {name for name, _ in CURED} <= set(KNOWN)


# ---- The entries themselves ---------------------------------------------------------------------------------------

each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=[entry.id for entry in ENTRIES])


@each_entry
def test_its_example_leads_to_it_alone(entry: Entry):
    for kinds in ((), entry.errors):
        if entry.example or kinds:
            found = [each.id for each in ENTRIES if each.fits(entry.example, kinds)]
            assert found == [entry.id]


@each_entry
def test_it_says_all_that_is_needed(entry: Entry):
    assert entry.meaning.endswith(".")
    assert entry.cause.endswith(".")
    assert entry.cure
    assert all(step[-1] in ".?" for step in entry.cure)
    assert bool(entry.before) <= bool(entry.after), "what is wrong without what is right"
    assert set(entry.packages) <= set(VERSIONS)
    if entry.lesson:
        load_curriculum(check_files=False).lesson(entry.lesson)


@each_entry
def test_its_code_is_python(entry: Entry):
    for code in (entry.before, entry.after):
        lines = [line for line in code.splitlines() if not line.startswith(("!", "%"))]
        source = "\n".join(lines)
        try:
            compile(source, entry.id, "exec")
        except SyntaxError:  # arguments alone, out of a longer call
            compile(f"f({source})", entry.id, "exec")


def test_names_are_unique():
    assert len({entry.id for entry in ENTRIES}) == len(ENTRIES)


def test_versions_are_those_that_are_tested():
    pinned = dict(
        re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    )
    assert {name: pinned[name] for name in VERSIONS} == VERSIONS


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("{'loss': nan, 'grad_norm': nan}", "the-loss-is-nan"),
        ("{'loss': 'nan', 'grad_norm': 'nan'}", "the-loss-is-nan"),
        ("{'loss': '0', 'grad_norm': 'nan', 'epoch': '0.5'}", "the-loss-is-nan"),
        ("{'loss': '1.234', 'grad_norm': 'nan'}", "the-loss-is-nan"),
        ("my loss is nan after 10 steps", "the-loss-is-nan"),
        ("my loss stays at 0.69", "the-loss-does-not-fall"),
        ("the loss does not go down", "the-loss-does-not-fall"),
        ("{'loss': '0.0', 'epoch': '0.1'}", "the-loss-is-zero-from-the-start"),
        ("{'loss': '0', 'grad_norm': '0', 'epoch': '0.1'}", "the-loss-is-zero-from-the-start"),
        ("The kernel appears to have died. It will restart automatically.", "the-kernel-died"),
        ("Killed", "the-kernel-died"),
        ("zsh: command not found: lessonkit", "a-command-that-the-terminal-does-not-find"),
        ("OSError: [Errno 122] Disk quota exceeded", "the-disk-is-full"),
        ("accuracy stays the same", "the-same-accuracy-for-every-model"),
    ],
)
def test_trouble_without_an_error_is_found_by_its_words(said: str, name: str):
    assert match(said).id == name


@pytest.mark.parametrize(
    "said", ["{'loss': 0.0312, 'epoch': 1.0}", "{'loss': '0.6932'}", "loss fell to 0.05"]
)
def test_a_healthy_log_is_no_trouble(said: str):
    assert match(said) is None


# ---- Finding the error in what is pasted ----------------------------------------------------------------------------

NOTEBOOK = """\
\x1b[31m---------------------------------------------------------------------------\x1b[39m
\x1b[31mIndexError\x1b[39m                                Traceback (most recent call last)
\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[12]\x1b[39m\x1b[32m, line 1\x1b[39m
\x1b[32m----> \x1b[39m\x1b[32m1\x1b[39m model(**batch)

\x1b[31mIndexError\x1b[39m: Target 5 is out of bounds.
"""
CHAINED = """\
Traceback (most recent call last):
  File "a.py", line 1, in <module>
KeyError: 'size'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
    raise ValueError("something else entirely")
ValueError: something else entirely
"""


def test_a_notebooks_coloured_traceback_is_read():
    assert match(NOTEBOOK).id == "labels-out-of-range"
    assert errors_in(NOTEBOOK)[0].first_line == "IndexError: Target 5 is out of bounds."


def test_a_message_of_several_lines_is_read_whole():
    text = 'RuntimeError: Error(s) in loading state_dict for Net:\n\tMissing key(s) in state_dict: "bias".'
    (error,) = errors_in(text)
    assert error.message.endswith('"bias".')


def test_windows_line_ends_and_pytest_marks_are_read():
    assert match("E       IndexError: Target 5 is out of bounds.\r\n").id == "labels-out-of-range"


def test_a_line_of_spaces_is_read_at_once():
    """Where two parts of a pattern can take the same spaces, these few would take hours."""
    start = time.perf_counter()
    errors_in("E" + " " * 100_000 + ".")
    assert time.perf_counter() - start < 30


def test_a_common_message_among_the_causes_says_nothing():
    assert [error.kinds for error in errors_in(CHAINED)] == [("ValueError",), ("KeyError",)]
    assert match(CHAINED) is None


def test_a_telling_cause_is_found_below_an_unknown_error():
    error = RuntimeError("the training failed")
    error.__cause__ = IndexError("Target 5 is out of bounds.")
    assert match(error).id == "labels-out-of-range"


def test_the_kind_of_exception_counts_where_it_is_known():
    assert match(KeyError("txt")).id == "a-key-that-is-not-there"
    assert match(ValueError("'txt'")) is None


def test_subclasses_count():
    class OwnIndexError(IndexError):
        pass

    assert match(OwnIndexError("Target 5 is out of bounds.")).id == "labels-out-of-range"


@pytest.mark.parametrize(
    "said", ["", "   ", "\x1b[31m", "nothing of the kind", "x" * 100_000, "Error: \n" * 5000, "🤖\0"]
)
def test_anything_can_be_asked(said: str):
    assert match(said) is None
    explain(said)


@given(st.text() | st.text(alphabet="ETr: \n'.ba", max_size=60))
def test_any_text_is_explained(said: str):
    explanation = explain(said)
    assert str(explanation)
    assert explanation._repr_html_()
    json.dumps(explanation.to_dict())


def test_an_exception_that_cannot_be_printed_is_no_trouble():
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    assert match(MuteError()) is None


def test_nearest_entries_share_telling_words():
    near = nearest_entries(
        "ValueError: the tokenizer here lacks a pad_token, select a token to use as padding"
    )
    assert "a-tokenizer-without-a-padding-token" in [entry.id for entry in near]
    assert nearest_entries("TypeError: colours of the rainbow") == []


# ---- Explaining -----------------------------------------------------------------------------------------------------


def test_a_known_error_is_explained_in_text_and_html():
    explanation = explain(IndexError("Target 5 is out of bounds."))
    for wanted in (
        "Labels out of range",
        "Target 5",
        "What to do:",
        "1. ",
        "Before:",
        f"{PAGE}#labels-out-of-range",
    ):
        assert wanted in str(explanation)
    page = explanation._repr_html_()
    assert "<code>num_labels=2</code>" in page
    assert "background: #" not in page
    assert max(map(len, str(explanation).splitlines())) <= 110


def test_html_of_an_explanation_holds_no_markup_of_the_error():
    page = explain("ValueError: <script>alert(1)</script>")._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_an_unknown_error_gets_next_steps():
    explanation = explain(ValueError("the moon is in the wrong house"))
    assert explanation.entry is None
    assert "not among the known ones" in str(explanation)
    assert "lessonkit stuck" in str(explanation)
    assert explanation.to_dict()["next_steps"]


def test_an_error_of_lessonkit_speaks_for_itself():
    explanation = explain(LessonkitError("The disk is on fire.", fix="call for help"))
    assert "Next: call for help" in str(explanation)
    assert "not among the known ones" not in str(explanation)
    pasted = explain("lessonkit.errors.DataError: The disk is on fire.\nNext: call for help")
    assert "not among the known ones" not in str(pasted)


def test_the_last_error_is_explained(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "last_exc", None, raising=False)
    monkeypatch.setattr(sys, "last_value", IndexError("Target 5 is out of bounds."), raising=False)
    assert explain().entry.id == "labels-out-of-range"
    monkeypatch.setattr(sys, "last_value", None)
    with pytest.raises(LessonkitError, match="no error to explain"):
        explain()


# ---- The offer after a failed cell --------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer, "_hinted", False)


def test_a_known_error_is_named_in_two_lines(fresh: None):
    text = offer.offer_text(IndexError("Target 5 is out of bounds."))
    assert text.splitlines()[0] == "This looks like: Labels out of range."
    assert "lessonkit.explain()" in text.splitlines()[1]
    assert len(text.splitlines()) == 2


def test_an_unknown_error_gets_one_line_once(fresh: None):
    error = ValueError("the moon is in the wrong house")
    assert len(offer.offer_text(error).splitlines()) == 1
    assert offer.offer_text(error) == ""
    assert offer.offer_text(IndexError("Target 5 is out of bounds."))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), LessonkitError("told")])
def test_what_needs_no_help_gets_none(fresh: None, error: BaseException):
    assert offer.offer_text(error) == ""


def test_the_offer_never_raises(fresh: None, monkeypatch: pytest.MonkeyPatch):
    def broken(text: str) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(offer, "_show", broken)
    offer.after_cell(SimpleNamespace(error_in_exec=IndexError("Target 5 is out of bounds.")))
    offer.after_cell(SimpleNamespace(error_in_exec=None))
    offer.after_cell(None)


def test_there_are_no_offers_outside_of_a_notebook():
    assert offer.install() is False


CELLS = (
    "import lessonkit\nlesson = lessonkit.start('start-here')\nlesson = lessonkit.start('start-here')",
    "def mine():\n    raise IndexError('Target 5 is out of bounds.')\nmine()",
    "lessonkit.explain()",
    "raise KeyboardInterrupt",
    "from lessonkit.errors import LessonkitError\nraise LessonkitError('told', fix='mend it')",
    "1 + 1",
)


def test_in_a_kernel_the_offer_stands_below_an_unchanged_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LESSONKIT_SCALE", "smoke")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in CELLS])
    client = NotebookClient(notebook, kernel_name="python3", timeout=120, allow_errors=True)
    client.execute(cwd=str(tmp_path))
    _, failed, explained, stopped, ours, fine = [cell.outputs for cell in notebook.cells]

    assert [output.output_type for output in failed] == ["error", "display_data"], (
        "one offer, after two starts"
    )
    assert failed[0].ename == "IndexError"
    assert failed[0].evalue == "Target 5 is out of bounds."
    assert "mine()" in re.sub(r"\x1b\[[\d;]*m", "", "\n".join(failed[0].traceback))
    assert failed[1].data["text/plain"].startswith("This looks like: Labels out of range.\n")
    assert "<code>lessonkit.explain()</code>" in failed[1].data["text/html"]

    assert "What to do:" in explained[0].data["text/plain"]
    assert "Labels out of range" in explained[0].data["text/html"]
    assert [output.output_type for output in (*stopped, *ours)] == ["error", "error"]
    assert [output.output_type for output in fine] == ["execute_result"]


# ---- The command ----------------------------------------------------------------------------------------------------------


def command(*arguments: str, given: str | None = None) -> Any:
    return CliRunner().invoke(cli.app, ["explain", *arguments], input=given)


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_the_command_explains_what_is_pasted(arguments: tuple):
    said = command(*arguments, given=NOTEBOOK)
    assert said.exit_code == 0
    assert said.stdout.startswith("Labels out of range\n")


def test_the_command_explains_words_and_names():
    assert "Labels out of range" in command("IndexError:", "Target", "5", "is", "out of bounds.").stdout
    assert "Labels out of range" in command("labels-out-of-range").stdout


def test_a_mistyped_name_of_an_entry_is_told_with_the_nearest():
    said = command("labels-out-of-rang")
    assert isinstance(said.exception, LessonkitError)
    assert "labels-out-of-range" in str(said.exception)


def test_the_command_says_plainly_what_it_does_not_know():
    said = command("something", "entirely", "else")
    assert said.exit_code == 0
    assert "not among the known ones" in said.stdout
    assert "lessonkit stuck" in said.stdout


def test_the_command_writes_json():
    told = json.loads(command("--json", "Target 5 is out of bounds.").stdout)
    assert told["id"] == "labels-out-of-range"
    assert told["cure"]
    assert told["link"] == f"{PAGE}#labels-out-of-range"
    assert json.loads(command("--json", "no", "such").stdout)["known"] is False
    assert [each["id"] for each in json.loads(command("--list", "--json").stdout)] == list(KNOWN)


def test_the_command_lists_them():
    said = command("--list").stdout
    assert [title for title in (entry.title for entry in ENTRIES) if title not in said] == []


@pytest.mark.parametrize("given", ["", "  \n\n"])
def test_nothing_to_explain_is_told(given: str):
    said = command(given=given)
    assert isinstance(said.exception, LessonkitError)
    assert "Next: lessonkit explain" in str(said.exception)


def test_a_notebook_run_from_the_command_line_names_the_known_error():
    notebook = new_notebook(cells=[new_code_cell("raise IndexError('Target 5 is out of bounds.')")])
    with pytest.raises(LessonkitError, match="lessonkit explain labels-out-of-range"):
        execute(notebook, Path.cwd())


# ---- The page -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("render_page", ROOT / "tools/render_troubleshooting.py")
    module = importlib.util.module_from_spec(spec)
    with contextlib.ExitStack() as stack:
        before = list(sys.path)
        stack.callback(lambda: sys.path.__setitem__(slice(None), before))
        spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(tool: Any):
    told = "python tools/render_troubleshooting.py"
    assert (ROOT / PAGE).read_text(encoding="utf-8") == tool.page(), f"run: {told}"


def test_the_page_has_an_anchor_for_each_entry(tool: Any):
    prose = re.sub(r"^```.*?^```", "", tool.page(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert {entry.title for entry in ENTRIES} <= set(headings)
