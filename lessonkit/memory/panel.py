"""Will it fit? Sliders for a notebook that show what a training step takes, technique beside technique."""

from __future__ import annotations

import asyncio
import base64
import html
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonkit.errors import HardwareError, LessonkitError, UnknownNameError
from lessonkit.hardware import detect_hardware
from lessonkit.live import in_notebook
from lessonkit.memory import TECHNIQUES, Settings, load_config, predict_memory
from lessonkit.memory.gpus import room_bytes
from lessonkit.memory.outlook import Outlook, foresee, png

if TYPE_CHECKING:
    from ipywidgets import Widget
    from transformers import PretrainedConfig

__all__ = ["FitPanel", "fit_panel"]

LONGEST_RANK, LARGEST_BATCH, SHORTEST, USUAL_LENGTH = 256, 64, 8, 512
VIEW = "application/vnd.jupyter.widget-view+json"


def fit_panel(
    config: PretrainedConfig | str | Path,
    *,
    limit_bytes: int | None = None,
    technique: str = "lora",
    r: int = 8,
    batch_size: int = 4,
    sequence_length: int | None = None,
    gradient_checkpointing: bool = False,
    **options: Any,
) -> FitPanel:
    """Sliders that show whether a training step fits; in a terminal, and where widgets are not drawn, a picture.

    config: as ``predict_memory`` takes it. limit_bytes: what may be taken; left out, what this machine has.
    technique, r, batch_size, sequence_length, gradient_checkpointing: where the controls start; without a
    sequence_length 512 tokens, or as many as the model can take. options: anything else that ``predict_memory``
    takes (target_modules, optimizer, dtype, ...); without a device, this machine's kind.
    Make it a cell's last line to see it; ``print`` shows text. Raises what ``predict_memory`` raises, and
    HardwareError for a limit that is no number of bytes.
    """
    _check(limit_bytes, gradient_checkpointing)
    if technique not in TECHNIQUES:
        raise UnknownNameError("technique", str(technique), TECHNIQUES)
    hardware = detect_hardware()
    config = load_config(config)
    options.setdefault("device", "cuda" if hardware.device == "cuda" else "cpu")
    if sequence_length is None:
        virtual = (
            options.get("num_virtual_tokens", Settings.num_virtual_tokens) if technique == "prompt" else 0
        )
        sequence_length = max(1, min(USUAL_LENGTH, _longest(config) - virtual))
    plan = predict_memory(
        config,
        technique,
        r=r,
        batch_size=batch_size,
        sequence_length=sequence_length,
        gradient_checkpointing=gradient_checkpointing,
        **options,
    )
    words = "that the limit allows"
    if limit_bytes is None:
        limit_bytes = room_bytes(hardware)
        words = "free on this machine" if hardware.device == "cpu" else "on this machine's GPU"
    return FitPanel(config, Outlook(plan.settings, limit_bytes, words))


def _check(limit_bytes: Any, gradient_checkpointing: Any) -> None:
    number = isinstance(limit_bytes, int | float) and not isinstance(limit_bytes, bool)
    if limit_bytes is not None and not (number and 0 < limit_bytes < float("inf")):
        raise HardwareError(
            f"limit_bytes is {limit_bytes!r}, which is no amount of memory.",
            why="it is a number of bytes, more than 0",
            fix="for example limit_bytes=16 * 2**30, or leave it out for this machine's own",
        )
    if not isinstance(gradient_checkpointing, bool):
        raise HardwareError(
            f"gradient_checkpointing is {gradient_checkpointing!r}.", fix="pass True or False, without quotes"
        )


def _longest(config: PretrainedConfig) -> int:
    """Tokens that the model has positions for."""
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else 8192


class FitPanel:
    """The panel of ``fit_panel``. outlook: what it shows. config: of the model.

    A notebook shows the live controls, or a picture where widgets are not drawn; everything else shows text.
    """

    def __init__(self, config: PretrainedConfig, start: Outlook) -> None:
        self.config = config
        self.outlook = start
        self._asked = 0  # counts what the controls asked for, so that what is overtaken stops
        self._tasks: set[asyncio.Task] = set()
        for self.outlook in foresee(config, start):
            pass
        if self.outlook.error is not None:
            raise self.outlook.error

    def __repr__(self) -> str:
        return str(self.outlook)

    def png(self) -> bytes:
        """The bars as they are now, as an image."""
        return png(self.outlook)

    def _repr_mimebundle_(self, **_kwargs: Any) -> dict[str, Any]:
        """Live controls with a picture and text beside them in one output.

        A front end takes the first of these that it can draw. Without the widgets' state nbconvert and GitHub pass
        them over, as JupyterLab does in a notebook that is not trusted, and take the picture.
        """
        bundle: dict[str, Any] = {"text/plain": str(self.outlook)}
        if not in_notebook():
            return bundle
        bundle["image/png"] = base64.b64encode(self.png()).decode("ascii")
        try:
            live = self.widget._repr_mimebundle_() or {}
        except ImportError:  # without ipywidgets the picture has to do
            live = {}
        return bundle | {kind: view for kind, view in live.items() if kind == VIEW}

    @cached_property
    def widget(self) -> Widget:
        """The live panel, an ipywidgets box. Raises ImportError without ipywidgets."""
        from ipywidgets import HTML, HBox, Layout, VBox

        self._said, self._picture = HTML(), HTML()
        self._show(self.outlook)
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        row = Layout(flex_flow="row wrap")
        names = (("technique", "r"), ("batch_size", "sequence_length"), ("gradient_checkpointing",))
        rows = [HBox([self.controls[name] for name in each], layout=row) for each in names]
        return VBox([*rows, self._said, self._picture])

    @cached_property
    def controls(self) -> dict[str, Widget]:
        """The input widgets by the setting that they change."""
        from ipywidgets import Checkbox, Dropdown, Layout, SelectionSlider

        now = self.outlook.settings
        style, layout = {"description_width": "8.5em"}, Layout(width="26em", max_width="100%")

        def slider(name: str, words: str, tip: str, first: int, last: int) -> Widget:
            value = getattr(now, name)
            return SelectionSlider(
                options=_powers(first, last, value),
                value=value,
                description=words,
                tooltip=tip,
                continuous_update=False,
                style=style,
                layout=layout,
            )

        controls = {
            "technique": Dropdown(
                options=TECHNIQUES,
                value=now.technique,
                description="technique",
                tooltip="How the model is fine-tuned",
                style=style,
                layout=layout,
            ),
            "r": slider("r", "rank r", "Rank of LoRA's two matrices", 1, LONGEST_RANK),
            "batch_size": slider("batch_size", "batch size", "Rows in one step", 1, LARGEST_BATCH),
            "sequence_length": slider(
                "sequence_length", "tokens in a row", "Sequence length", SHORTEST, _longest(self.config)
            ),
            "gradient_checkpointing": Checkbox(
                value=now.gradient_checkpointing,
                description="gradient checkpointing",
                tooltip="Keep fewer activations and compute them a second time",
                style=style,
                layout=layout,
            ),
        }
        controls["r"].disabled = now.technique not in ("lora", "qlora")
        return controls

    def _changed(self, _change: Any) -> None:
        """A control was moved: compute and show it, in between the messages of the kernel where it has a loop."""
        self._asked += 1
        values = {name: control.value for name, control in self.controls.items()}
        self.controls["r"].disabled = values["technique"] not in ("lora", "qlora")
        fresh = Outlook(
            replace(self.outlook.settings, **values), self.outlook.limit_bytes, self.outlook.limit_words
        )
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for _ in self._compute(fresh):
                pass
            return
        task = loop.create_task(self._compute_in_between(fresh, self._asked))
        self._tasks.add(task)  # a task that nobody holds may vanish
        task.add_done_callback(self._tasks.discard)

    async def _compute_in_between(self, fresh: Outlook, asked: int) -> None:
        for _ in self._compute(fresh):
            await asyncio.sleep(0.02)  # lets the next move of a slider in
            if asked != self._asked:
                return

    def _compute(self, fresh: Outlook) -> Iterator[None]:
        """Show what is computed, step by step; whatever goes wrong is shown too, for nobody else would see it."""
        try:
            for outlook in foresee(self.config, fresh):
                self.outlook = outlook
                if outlook.pending:
                    self._say(f"computing {outlook.pending}...")
                else:
                    self._show(outlook)
                yield
        except Exception as error:
            told = str(error) if isinstance(error, LessonkitError) else f"{type(error).__name__}: {error}"
            self._say(f"This could not be computed.\n{told}")
            self._picture.value = ""

    def _say(self, text: str) -> None:
        lines = "<br>".join(html.escape(line) for line in text.splitlines())
        self._said.value = f'<div role="status" aria-live="polite">{lines}</div>'

    def _show(self, outlook: Outlook) -> None:
        self._say("\n".join([outlook.sentence(), *outlook.notes()]))
        if outlook.error is not None:
            self._picture.value = ""
            return
        image = base64.b64encode(png(outlook)).decode("ascii")
        told = html.escape("; ".join(f"{name} {outlook.verdict(name)}" for name in outlook.plans))
        source = f"data:image/png;base64,{image}"
        self._picture.value = (
            f'<img alt="Memory by technique: {told}" style="max-width: 100%" src="{source}">'
        )


def _powers(first: int, last: int, value: int) -> list[int]:
    """The powers of two from first to last, and the value itself, in order."""
    powers = [2**each for each in range(24) if first <= 2**each <= last]
    return sorted({*powers, value})
