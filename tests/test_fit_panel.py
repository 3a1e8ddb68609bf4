"""The panel says in words, letters and bars whether a training step fits, and follows its controls."""

from __future__ import annotations

import asyncio
import base64
import builtins
import io
import time
from collections.abc import Callable
from typing import Any

import pytest

from lessonkit import memory, plots
from lessonkit.errors import DataError, HardwareError, LessonkitError, ModelError, UnknownNameError
from lessonkit.memory import TECHNIQUES, Settings, predict_memory
from lessonkit.memory import outlook as fit_outlook
from lessonkit.memory import panel as fit_panel
from lessonkit.memory.outlook import Outlook, memory_bars

MIB = 2**20
VIEW = "application/vnd.jupyter.widget-view+json"


def llama(**changes: Any):
    from transformers import LlamaConfig

    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    return LlamaConfig(**{**sizes, **heads, **changes})


def panel(**options: Any) -> fit_panel.FitPanel:
    """A panel for a model that is planned in a moment, with a limit that all of it fits."""
    given = {"sequence_length": 32, "limit_bytes": 64 * MIB, "device": "cpu", "bottleneck": 8, **options}
    return fit_panel.fit_panel(llama(), **given)


@pytest.fixture(scope="module")
def start() -> Outlook:
    return panel().outlook


@pytest.fixture
def in_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_panel, "in_notebook", lambda: True)


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of every step that is really traced, as it happens."""
    seen: list[Settings] = []
    whole = memory._trace_whole

    def noting(config: Any, settings: Settings) -> Any:
        seen.append(settings)
        return whole(config, settings)

    monkeypatch.setattr(memory, "_trace_whole", noting)
    return seen


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    from matplotlib import pyplot

    assert pyplot.get_fignums() == [] or not pyplot.close("all")


def png_size(data: bytes) -> tuple[int, int]:
    from PIL import Image

    return Image.open(io.BytesIO(data)).size


# ---- What it says -----------------------------------------------------------------------------------


def test_the_plans_are_those_of_predict_memory(start: Outlook):
    assert set(start.plans) == set(TECHNIQUES)
    for technique, plan in start.plans.items():
        same = predict_memory(
            llama(), technique, batch_size=4, sequence_length=32, device="cpu", bottleneck=8
        )
        assert plan.peak_bytes == same.peak_bytes


def test_what_fits_is_said_in_words(start: Outlook):
    rows = memory.largest_batch(llama(), 64 * MIB, "lora", batch_size=4, sequence_length=32, device="cpu")
    assert start.fits is True
    assert start.sentence().startswith("fits: ")
    assert (
        f"of 64.0 MiB that the limit allows. Largest batch of 32 tokens that fits: {rows}."
        in start.sentence()
    )
    assert rows > 4


def test_what_does_not_fit_says_what_to_change_first():
    peak = panel().outlook.plans["lora"].peak_bytes
    small = panel(limit_bytes=int(0.6 * peak)).outlook
    assert small.fits is False
    first = small.changes[0]
    assert "batch size 2, gradient accumulation steps 2" in small.sentence()
    assert small.sentence().index("First change") < small.sentence().index("batch size 2")
    assert first.plan.peak_bytes < peak


def test_nothing_fits_into_nothing():
    told = panel(limit_bytes=1000).outlook
    assert told.largest_batch == 0
    assert "that fits: none" in told.sentence()
    assert "even so it does not fit" in told.sentence()


def test_the_limit_is_this_machines_unless_one_is_given(monkeypatch):
    monkeypatch.setattr(fit_panel, "room_bytes", lambda hardware: 48 * MIB)
    assert panel(limit_bytes=None).outlook.limit_bytes == 48 * MIB
    assert panel(limit_bytes=64 * MIB).outlook.limit_bytes == 64 * MIB


def test_an_unknown_limit_stays_unknown(monkeypatch):
    monkeypatch.setattr(fit_panel, "room_bytes", lambda hardware: None)
    told = panel(limit_bytes=None)
    assert told.outlook.fits is None
    assert "unknown" in told.outlook.sentence()
    assert "fits" not in told.outlook.verdict("full")
    assert "unknown" in str(told)
    assert len(told.png()) > 1000


def test_text_has_a_bar_for_each_technique_and_marks_the_chosen_one(start: Outlook):
    lines = str(start).splitlines()
    bars = {line.split()[1 if line.startswith(">") else 0]: line for line in lines[3 : 3 + len(TECHNIQUES)]}
    assert list(bars) == list(TECHNIQUES)
    assert [name for name, line in bars.items() if line.startswith(">")] == ["lora"]
    assert all("fits" in line for line in bars.values())
    assert all(len(line) < 110 for line in lines[3:8])
    str(start).encode("cp1252")  # terminals of old


def test_the_longest_bar_is_the_biggest_step_and_letters_follow_the_breakdown(start: Outlook):
    lines = str(start).splitlines()[3 : 3 + len(TECHNIQUES)]
    drawn = {name: line[12:61] for name, line in zip(TECHNIQUES, lines, strict=True)}
    lengths = {name: len(text.rstrip()) for name, text in drawn.items()}
    peaks = {name: plan.peak_bytes for name, plan in start.plans.items()}
    for one in TECHNIQUES:
        assert lengths[one] == pytest.approx(48 * peaks[one] / max(peaks.values()), abs=1)
    share = start.plans["full"].breakdown["activations"] / peaks["full"]
    assert drawn["full"].count("A") == pytest.approx(share * lengths["full"], abs=1.5)


def test_text_shows_where_the_limit_is(start: Outlook):
    peak = max(plan.peak_bytes for plan in start.plans.values())
    lines = str(panel(limit_bytes=peak // 2)).splitlines()
    assert {line.index("|") for line in lines if line.startswith(("  full", "> lora", "  qlora"))} == {
        12 + 24
    }
    assert "| limit" not in str(start)  # far to the right of all bars


def test_a_technique_that_is_not_possible_costs_the_others_nothing():
    told = panel(sequence_length=120).outlook  # 20 virtual tokens more than there are positions
    assert isinstance(told.plans["prompt"], LessonkitError)
    assert told.verdict("prompt") == "not possible like this"
    assert "prompt: 120 tokens and 20 virtual ones" in str(told)
    assert told.fits is True
    assert len(panel(sequence_length=120).png()) > 1000


# ---- The picture ------------------------------------------------------------------------------------


def test_picture_shows_each_part_once_at_its_size(start: Outlook):
    ax = memory_bars(start)
    widths = [bar.get_width() for bar in ax.patches if bar.get_fill()]
    wanted = [value / MIB for name in TECHNIQUES for value in start.plans[name].breakdown.values()]
    assert widths == pytest.approx(wanted)
    outlined = [bar for bar in ax.patches if not bar.get_fill()]
    assert [bar.get_width() for bar in outlined] == pytest.approx([start.plans["lora"].peak_bytes / MIB])
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert [label for label in labels if "▶" in label] == ["▶ lora"]
    assert len({bar.get_hatch() for bar in ax.patches if bar.get_fill()}) == 6  # told apart without colours


def gigabytes(peak_gib: float, limit_gib: float) -> Outlook:
    """An outlook of one plan, made up."""
    from lessonkit.memory import MemoryPlan

    size = int(peak_gib * 2**30)
    plan = MemoryPlan(size, {"weights": size}, "forward", 0, 0, 1, 1, Settings("lora"))
    return Outlook(Settings("lora"), int(limit_gib * 2**30), plans={"lora": plan}, largest_batch=1)


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_limit_and_common_gpus_are_lines_where_they_are_in_range():
    ax = memory_bars(gigabytes(12, 20))
    at = sorted(line.get_xdata()[0] for line in ax.lines)
    assert at == pytest.approx([14.06, 20])
    assert "limit 20.0 GiB" in texts(ax)
    assert "T4 (16 GB)" in texts(ax)
    big = memory_bars(gigabytes(70, 38))
    assert [text for text in texts(big) if "GB)" in text] == [
        "T4 (16 GB)",
        "A100, H100 (80 GB)",
    ]  # 38 is an A100's


def test_a_limit_far_away_does_not_shrink_the_bars():
    ax = memory_bars(gigabytes(1, 60))
    assert ax.get_xlim()[1] < 2
    assert not ax.lines
    assert [text for text in texts(ax) if "far to the right" in text] == [
        "limit 60.0 GiB, far to the right →"
    ]


def test_stacked_bars_refuse_what_is_no_bar():
    with pytest.raises(DataError, match="no bar"):
        plots.stacked_bars({}, xlabel="x")
    with pytest.raises(DataError, match="negative"):
        plots.stacked_bars({"a": {"b": -1.0}}, xlabel="x")


# ---- In a notebook ----------------------------------------------------------------------------------


def test_a_terminal_gets_text_and_no_widget():
    assert list(panel()._repr_mimebundle_()) == ["text/plain"]
    assert repr(panel()) == str(panel().outlook)


@pytest.mark.usefixtures("in_notebook")
def test_a_notebook_gets_controls_with_picture_and_text_in_one_output():
    shown = panel()
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png", VIEW}
    assert bundle["text/plain"] == str(shown.outlook)
    assert bundle[VIEW]["model_id"] == shown.widget.model_id
    width, height = png_size(base64.b64decode(bundle["image/png"]))
    assert width > 600
    assert height > 300
    assert len(bundle["image/png"]) < 150_000  # a notebook may have 1 MB


@pytest.mark.usefixtures("in_notebook")
def test_a_notebook_without_ipywidgets_gets_the_picture(monkeypatch):
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("ipywidgets"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert set(panel()._repr_mimebundle_()) == {"text/plain", "image/png"}


def test_every_control_is_described_and_computes_on_release():
    controls = panel().controls
    assert all(each.description and each.tooltip for each in controls.values())
    assert not any(getattr(each, "continuous_update", False) for each in controls.values())


def test_sliders_go_by_powers_of_two_within_what_the_model_can_take():
    controls = panel(r=6, batch_size=3).controls
    assert [value for value in controls["r"].options if value != 6] == [2**each for each in range(9)]
    assert controls["r"].value == 6
    assert list(controls["batch_size"].options) == [1, 2, 3, 4, 8, 16, 32, 64]
    assert list(controls["sequence_length"].options) == [8, 16, 32, 64, 128]


def test_without_a_length_it_starts_within_the_models():
    assert panel(sequence_length=None).outlook.settings.sequence_length == 128
    assert panel(sequence_length=None, technique="prompt").outlook.settings.sequence_length == 108


def test_the_rank_is_for_lora_and_qlora_only():
    shown = panel()
    assert shown.widget
    for technique in ("full", "qlora", "adapters"):
        shown.controls["technique"].value = technique
        assert shown.controls["r"].disabled == (technique not in ("lora", "qlora"))
    assert panel(technique="full").controls["r"].disabled


def moved(shown: fit_panel.FitPanel, **values: Any) -> list[str]:
    """Move controls; returns what the panel said meanwhile."""
    said: list[str] = []
    assert shown.widget
    shown._said.observe(lambda change: said.append(change["new"]), names="value")
    for name, value in values.items():
        shown.controls[name].value = value
    return said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("technique", "full"),
        ("r", 32),
        ("batch_size", 8),
        ("sequence_length", 64),
        ("gradient_checkpointing", True),
    ],
)
def test_the_panel_follows_each_control(name: str, value: Any):
    shown = panel()
    before = shown.widget and shown._picture.value
    said = moved(shown, **{name: value})
    settings = shown.outlook.settings
    assert getattr(settings, name) == value
    options = {
        "r": settings.r,
        "batch_size": settings.batch_size,
        "sequence_length": settings.sequence_length,
    }
    saving = settings.gradient_checkpointing
    same = predict_memory(llama(), settings.technique, gradient_checkpointing=saving, device="cpu", **options)
    assert shown.outlook.plans[settings.technique].peak_bytes == same.peak_bytes
    assert "computing" in said[0]
    assert "fits: " in said[-1]
    assert "computing" not in said[-1]
    assert shown._picture.value != before
    assert 'alt="Memory by technique: ' in shown._picture.value


def test_what_was_computed_is_remembered(traces: list[Settings]):
    shown = panel()
    moved(shown, batch_size=16)
    count = len(traces)
    moved(shown, batch_size=4)
    moved(shown, batch_size=16)
    assert len(traces) == count


def test_an_error_is_shown_in_the_panel_and_goes_again():
    shown = panel(technique="prompt", sequence_length=64)
    said = moved(shown, sequence_length=128)
    assert "128 tokens and 20 virtual ones are more than" in said[-1]
    assert "Next: --sequence-length 108" in said[-1]
    assert shown._picture.value == ""
    said = moved(shown, sequence_length=32)
    assert "fits: " in said[-1]
    assert shown._picture.value


def test_an_error_of_ours_is_shown_too(monkeypatch):
    shown = panel()
    assert shown.widget
    monkeypatch.setattr(fit_outlook, "predict_memory", lambda *args, **options: 1 / 0)
    said = moved(shown, batch_size=2)
    assert "could not be computed" in said[-1]
    assert "ZeroDivisionError" in said[-1]


def test_what_is_shown_is_escaped(monkeypatch):
    def refuse(*args: Any, **options: Any) -> None:
        raise ModelError("a <b>bold</b> name")

    shown = panel()
    assert shown.widget
    monkeypatch.setattr(fit_outlook, "predict_memory", refuse)
    assert "a &lt;b&gt;bold" in moved(shown, batch_size=2)[-1]


def test_with_a_loop_moves_that_are_overtaken_stop(traces: list[Settings]):
    """In a kernel controls move while a prediction runs: only the last position is computed to its end."""
    shown = panel(num_labels=3)  # nothing of it is remembered from other tests

    async def drag() -> None:
        for rows in (8, 16, 32, 64):
            moved(shown, batch_size=rows)
        await settled(lambda: shown.outlook.settings.batch_size == 64 and not shown.outlook.pending)

    before = len(traces)
    asyncio.run(drag())
    assert shown.outlook.settings.batch_size == 64
    assert "fits" in shown._said.value
    sizes = [each.batch_size for each in traces[before:] if each.technique == "adapters"]
    assert sizes == [64]


async def settled(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


# ---- What makes no sense ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"technique": "lore"}, UnknownNameError, "lora"),
        ({"technique": None}, UnknownNameError, "qlora"),
        ({"limit_bytes": 0}, HardwareError, "16 * 2**30"),
        ({"limit_bytes": -1}, HardwareError, "more than 0"),
        ({"limit_bytes": "16 GB"}, HardwareError, "number of bytes"),
        ({"limit_bytes": True}, HardwareError, "number of bytes"),
        ({"limit_bytes": float("nan")}, HardwareError, "number of bytes"),
        ({"r": 0}, HardwareError, "r is 0"),
        ({"batch_size": 2.5}, HardwareError, "batch_size is 2.5"),
        ({"sequence_length": 129}, ModelError, "--sequence-length 128"),
        ({"gradient_checkpointing": "yes"}, HardwareError, "True or False"),
        ({"rank": 8}, UnknownNameError, "prepare_for_kbit_training, r, "),
        ({"target_modules": "query"}, UnknownNameError, "q_proj"),
        ({"dtype": "int8"}, UnknownNameError, "bfloat16"),
    ],
)
def test_what_makes_no_sense_is_told(options: dict, kind: type, says: str):
    with pytest.raises(kind) as caught:
        panel(**options)
    assert says in str(caught.value)
    assert "Next:" in str(caught.value)


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModelError, match="cannot be used"):
        fit_panel.fit_panel(tmp_path / "config.json")
