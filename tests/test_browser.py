"""The dashboard in a real browser on a real JupyterLab: what is clicked there is in the journal, and back again.

Needs Chrome, Chromium or Edge; skipped, with what to install, where there is none. LESSONKIT_BROWSER may name its
program, and makes a browser that can't be used a failure.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import nbformat
import pytest
from real_browser import REQUIRED, ROOT, Lab, NoBrowserError, launched, serving

from lessonkit.curriculum import load_curriculum
from lessonkit.progress import Journal

pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: python start.py test installs it"
)
from playwright.sync_api import Browser, Locator, Page, expect

NOTEBOOK = "notebooks/00-start-here.ipynb"
BESIDE = ("notebooks/beginner/full-fine-tuning.ipynb", "lessons/introduction/guide.md")
LONGEST_WAIT = 120  # seconds, for what takes one or two on a machine with nothing else to do
BOARD = ".lessonkit-dashboard"
SESSION = "window.jupyterapp?.shell.currentWidget?.context?.sessionContext"
IN_FRONT = f"window.jupyterapp?.shell.currentWidget?.context?.path === '{NOTEBOOK}'"
READY = f"{IN_FRONT} && {SESSION}.isReady && {SESSION}.session?.kernel?.status === 'idle'"
CELLS = "window.jupyterapp.shell.currentWidget.content.model.toJSON().cells.filter(cell => cell.cell_type === 'code')"

CLICKED, BY_KEYBOARD, TYPED = "run-beginner-lora", "run-beginner-prompt-tuning", "compare-trade-offs"

# The contrast of every piece of text with what is behind it, as WCAG 2 computes it: 4.5 is asked for.
CONTRASTS = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => parts(colour).slice(0, 3).map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if ((parts(colour)[3] ?? 1) === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = {};
  for (const element of document.querySelectorAll('BOARD :is(h3, h4, p, td, th, label, span, li, a)')) {
    if (!element.textContent.trim() || !element.offsetParent) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(behind(element))].sort();
    found[element.textContent.trim().slice(0, 40)] = (other + 0.05) / (one + 0.05);
  }
  return found;
}""".replace("BOARD", BOARD)

# What sticks out of the dashboard to the right and can't be scrolled to.
OVERFLOWING = """() => {
  const board = document.querySelector('BOARD');
  const edge = board.getBoundingClientRect().right + 1;
  return [...board.querySelectorAll('*')].filter(each => each.offsetParent && !each.closest('.lk-wide, svg, option'))
    .filter(each => each.getBoundingClientRect().right > edge).map(each => each.outerHTML.slice(0, 120));
}""".replace("BOARD", BOARD)

# What JupyterLab's own parts write as an error when a kernel goes: its debugger asks a kernel for its state when a
# notebook is opened, and anew while the kernel restarts, and that answer can't come; and the old kernel may have spoken
# of a widget's channel that the page has closed. A notebook of one cell, without lessonkit, says so too at almost every
# restart; no waiting before the restart prevents what is asked during it. The first is about no page of ours at any
# time; the second could be, so that it is let pass during a restart only.
DEBUGGER_UNANSWERED = (
    "Could not restore the debugger state: Canceled future for debug_request message before replies were done"
)
CHANNEL_GONE = "Comm not found for comm id"

expect.set_options(timeout=1000 * LONGEST_WAIT)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    started = launched()
    try:
        made = started.__enter__()
    except NoBrowserError as error:
        if os.environ.get(REQUIRED):
            raise
        pytest.skip(str(error))
    yield made
    started.__exit__(None, None, None)


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server for a course of three files, with a journal of its own."""
    root, home = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("home")
    for name in BESIDE:
        (root / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, root / name)
    source = ROOT / "lessons" / "00-start-here.py"
    nbformat.write(build_tool().convert(source, "start-here", NOTEBOOK, ""), root / NOTEBOOK)
    with serving(root, home) as server:
        yield server


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What the page complained of, by its console and its exceptions."""
    return []


@pytest.fixture
def page(opened: Page) -> Page:
    """The same notebook for every test, in front of whatever the one before has opened."""
    in_front(opened)
    expect(opened.locator(BOARD)).to_be_visible()
    return opened


@pytest.fixture(scope="module")
def opened(browser: Browser, lab: Lab, told: list[str]) -> Iterator[Page]:
    """The notebook, open and run to its end."""
    made = browser.new_page(viewport={"width": 1280, "height": 1000})
    made.set_default_timeout(1000 * LONGEST_WAIT)
    made.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: told.append(str(error)))
    made.goto(lab.page(NOTEBOOK))
    run_all(made)
    yield made
    made.close()


def build_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_for_browser", ROOT / "tools" / "build_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def do(page: Page, command: str, **arguments: str) -> None:
    """Give JupyterLab one of its own commands, without waiting for its end."""
    page.evaluate(
        "([name, given]) => { void window.jupyterapp.commands.execute(name, given) }", [command, arguments]
    )


def in_front(page: Page) -> None:
    """Bring the notebook to the front, once JupyterLab has put back what was open when the page was left.

    It does that after a page is loaded, with whatever was in front then: a command given before goes to that one.
    """
    page.wait_for_function("window.jupyterapp !== undefined")
    page.evaluate("() => window.jupyterapp.restored.then(() => true)")
    do(page, "docmanager:open", path=NOTEBOOK)
    page.wait_for_function(IN_FRONT)


def run_all(page: Page) -> None:
    """Run every cell of the notebook anew, and wait for the dashboard that this makes."""
    in_front(page)
    page.wait_for_function(READY)
    do(page, "notebook:clear-all-cell-outputs")
    page.wait_for_function(f"{CELLS}.every(cell => cell.outputs.length === 0)")
    do(page, "notebook:run-all-cells")
    page.wait_for_function(f"{CELLS}.every(cell => cell.execution_count) && {READY}")
    expect(page.locator(BOARD)).to_have_count(1)


def text_of(item: str) -> str:
    return load_curriculum(check_files=False).item(item).text


def box(page: Page, item: str) -> Locator:
    """The checkbox of an item."""
    return page.locator(BOARD).get_by_label(text_of(item))


def kept(lab: Lab, kind: str) -> list[dict]:
    """What the journal file holds of a kind, oldest first."""
    return [event.data for event in Journal(lab.progress / "journal.jsonl").read(kind).events]


def is_ticked(lab: Lab, item: str) -> bool:
    return item in [data["item"] for data in kept(lab, "tick")]


def wait_for(found: Callable[[], bool]) -> None:
    """Wait for something outside of the browser."""
    end = time.monotonic() + LONGEST_WAIT
    while not found():
        assert time.monotonic() < end, "this was never seen in the journal"
        time.sleep(0.05)


def type_command(lab: Lab, *arguments: str) -> None:
    """What a learner types in a terminal: ``lessonkit ...``."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"LESSONKIT_PROGRESS": str(lab.progress), "PYTHONPATH": path}
    command = [sys.executable, "-m", "lessonkit", *arguments]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=LONGEST_WAIT)


# The tests stand in the order of a visit; each of them can be run alone too.


def test_the_notebook_runs_without_an_error_and_shows_the_dashboard(page: Page):
    outputs = page.evaluate(f"{CELLS}.flatMap(cell => cell.outputs)")
    assert [each for each in outputs if each["output_type"] == "error" or each.get("name") == "stderr"] == []
    expect(page.locator(BOARD)).to_contain_text(re.compile(r"Quick Start .*: \d of 6 done"))
    expect(page.locator(BOARD)).to_contain_text("Next:")
    expect(box(page, CLICKED)).not_to_be_checked()


def test_a_clicked_box_is_in_the_journal(page: Page, lab: Lab):
    box(page, CLICKED).check()
    wait_for(lambda: is_ticked(lab, CLICKED))
    expect(page.locator(f"{BOARD} [role=status]").first).to_contain_text("Done: Run beginner LoRA example")
    expect(page.locator(f"{BOARD} h3").first).to_contain_text("1 of 6 done")


def test_the_keyboard_alone_reaches_and_ticks_a_box(page: Page, lab: Lab):
    wanted = text_of(BY_KEYBOARD)
    page.locator(BOARD).get_by_label("Path").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('label')?.innerText ?? ''").startswith(wanted):
            break
    expect(box(page, BY_KEYBOARD)).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"  # where one is can be seen
    page.keyboard.press("Space")
    wait_for(lambda: is_ticked(lab, BY_KEYBOARD))
    expect(box(page, BY_KEYBOARD)).to_be_checked()
    expect(box(page, BY_KEYBOARD)).to_be_focused()


def test_the_focus_timer_starts_and_stops(page: Page, lab: Lab):
    page.locator(BOARD).get_by_role("button", name="Start", exact=True).click()
    wait_for(lambda: [each["action"] for each in kept(lab, "focus")] == ["start"])
    expect(page.locator(f"{BOARD} [role=timer]")).to_contain_text(re.compile(r"2[45]:\d\d"))

    # A second click within a second of the first counts as a double click: try as a person would.
    def stopped() -> bool:
        stop = page.locator(BOARD).get_by_role("button", name="Stop", exact=True)
        if stop.count():
            stop.click()
        page.wait_for_timeout(500)
        return [each["action"] for each in kept(lab, "focus")] == ["start", "stop"]

    wait_for(stopped)
    expect(page.locator(BOARD).get_by_role("button", name="Start", exact=True)).to_be_visible()
    started, ended = kept(lab, "focus")
    assert started["session"] == ended["session"]


def test_what_the_command_line_writes_shows_without_a_click_and_costs_no_typed_word(page: Page, lab: Lab):
    note = page.locator(BOARD).get_by_label("Your note")
    note.fill("half a thought")
    type_command(lab, "tick", TYPED)
    expect(box(page, TYPED)).to_be_checked()
    expect(note).to_have_value("half a thought")
    page.locator(BOARD).get_by_role("button", name="Keep the note").click()
    wait_for(lambda: [each["text"] for each in kept(lab, "note")] == ["half a thought"])
    expect(note).to_have_value("")


def test_the_next_step_opens_beside_the_dashboard(page: Page, lab: Lab):
    type_command(lab, "tick", "start-here")
    type_command(lab, "tick", "introduction")
    page.locator(f"{BOARD} .lk-next").get_by_role("link", name="Open Full Fine-Tuning, Beginner").click()
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.title.label === 'full-fine-tuning.ipynb'")


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_after_a_reload_all_of_it_is_there_and_readable_in_either_theme(page: Page, lab: Lab, theme: str):
    before = {item: box(page, item).is_checked() for item in (CLICKED, BY_KEYBOARD, TYPED)}
    lab.set("apputils-extension", "themes", theme=theme)
    page.reload()
    run_all(page)
    for item, on in before.items():
        expect(box(page, item)).to_be_checked(checked=on)
    dark = page.evaluate("document.body.dataset.jpThemeLight") == "false"
    assert dark == (theme == "JupyterLab Dark")
    assert {name: round(ratio, 1) for name, ratio in page.evaluate(CONTRASTS).items() if ratio < 4.5} == {}


def test_after_a_restarted_kernel_all_of_it_is_there(page: Page, lab: Lab, told: list[str]):
    said_before = len(told)
    before = {item: box(page, item).is_checked() for item in (CLICKED, BY_KEYBOARD, TYPED)}
    page.evaluate(f"() => {{ void {SESSION}.restartKernel() }}")
    page.wait_for_function(f"{SESSION}.session.kernel.status !== 'idle'")
    page.wait_for_function(READY)
    told[said_before:] = [each for each in told[said_before:] if not each.startswith(CHANNEL_GONE)]
    run_all(page)
    for item, on in before.items():
        expect(box(page, item)).to_be_checked(checked=on)
        assert on == is_ticked(lab, item)


def test_a_narrow_window_cuts_nothing_off(page: Page):
    size = page.viewport_size
    page.evaluate("window.jupyterapp.shell.collapseLeft()")  # the list of files
    page.set_viewport_size({"width": 480, "height": 900})
    try:
        page.wait_for_function(f"document.querySelector('{BOARD}').getBoundingClientRect().width < 400")
        assert page.evaluate(OVERFLOWING) == []
    finally:
        page.set_viewport_size(size)


def test_the_page_complained_of_nothing(page: Page, told: list[str]):
    expect(page.locator(BOARD)).to_be_visible()
    assert [each for each in told if each != DEBUGGER_UNANSWERED] == []
