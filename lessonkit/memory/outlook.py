"""Whether a training step fits, technique beside technique: computed step by step, in words, and drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from lessonkit import plots
from lessonkit.errors import LessonkitError
from lessonkit.hardware import GIB, format_bytes
from lessonkit.memory import TECHNIQUES, MemoryPlan, Settings, largest_batch, predict_memory
from lessonkit.memory.gpus import CONTEXT_BYTES, GPUS, Change, advice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from transformers import PretrainedConfig

__all__ = ["Outlook", "foresee", "memory_bars", "png"]

#: The parts of a bar: what a picture calls them, and the letter that draws them in a terminal.
PARTS = {
    "weights": ("weights", "W"),
    "gradients": ("gradients (at that moment)", "G"),
    "optimizer": ("optimiser states", "O"),
    "activations": ("activations", "A"),
    "rest": ("in passing, batch", "p"),
    "allocator": ("allocator", "+"),
}
COMPARED_GPUS = ("T4 (16 GB)", "A100 (40 GB)", "A100, H100 (80 GB)")
TEXT_WIDTH = 48  # characters of the longest bar in a terminal


@dataclass(frozen=True)
class Outlook:
    """What one position of the sliders comes to.

    settings: what was asked for. limit_bytes: what may be taken; None if unknown. limit_words: whose limit it is.
    plans: for each technique its plan, or the error that says why there is none; the chosen one first.
    largest_batch: rows that fit with the chosen one; None if unknown. changes: what to change, in order, until
    the chosen one fits; empty if it does. pending: what is still being computed; empty once all is there.
    """

    settings: Settings
    limit_bytes: int | None = None
    limit_words: str = ""
    plans: Mapping[str, MemoryPlan | LessonkitError] = field(default_factory=dict)
    largest_batch: int | None = None
    changes: tuple[Change, ...] = ()
    pending: str = ""

    @property
    def error(self) -> LessonkitError | None:
        """Why the chosen technique cannot be planned, if so."""
        found = self.plans.get(self.settings.technique)
        return found if isinstance(found, LessonkitError) else None

    @property
    def fits(self) -> bool | None:
        """Whether the chosen technique fits; None if that is not known."""
        plan = self.plans.get(self.settings.technique)
        if not isinstance(plan, MemoryPlan) or self.limit_bytes is None:
            return None
        return plan.peak_bytes <= self.limit_bytes

    def heading(self) -> str:
        """The settings in one line."""
        asked = self.settings
        rank = f" r={asked.r}" if asked.technique in ("lora", "qlora") else ""
        saving = ", gradient checkpointing" if asked.gradient_checkpointing else ""
        size = f"batch {asked.batch_size} x {asked.sequence_length} tokens, {asked.dtype}"
        return f"{asked.technique}{rank}, {size}{saving}"

    def sentence(self) -> str:
        """Whether it fits, in words; the error's text where there is one."""
        if self.error is not None:
            return str(self.error)
        peak = self.plans[self.settings.technique].peak_bytes
        if self.limit_bytes is None:
            return f"takes {format_bytes(peak)}; how much memory this machine has is unknown"
        told = f"{format_bytes(peak)} of {format_bytes(self.limit_bytes)} {self.limit_words}"
        length = self.settings.sequence_length
        largest = f"Largest batch of {length} tokens that fits: {self.largest_batch or 'none'}."
        if self.fits:
            return f"fits: {told}. {largest}"
        if not self.changes:
            return f"does not fit: {told}. {largest} Take a smaller model or a larger GPU."
        return f"does not fit: {told}. {largest} First change: {self._changes()}."

    def _changes(self) -> str:
        words = []
        for each in self.changes:
            option = each.option.removeprefix("--").replace(" --", ", ").replace("-", " ")
            words.append(f"{option} -> {format_bytes(each.plan.peak_bytes)}")
        short = self.changes[-1].plan.peak_bytes > self.limit_bytes
        return "; then ".join(words) + ("; and even so it does not fit" if short else "")

    def notes(self) -> list[str]:
        """For each other technique that cannot be planned, why not."""
        others = ((name, each) for name, each in self.plans.items() if name != self.settings.technique)
        return [f"{name}: {each.what}" for name, each in others if isinstance(each, LessonkitError)]

    def verdict(self, technique: str) -> str:
        """What stands at the end of a technique's bar."""
        plan = self.plans[technique]
        if isinstance(plan, LessonkitError):
            return "not possible like this"
        size = format_bytes(plan.peak_bytes)
        if self.limit_bytes is None:
            return size
        return f"{size}, fits" if plan.peak_bytes <= self.limit_bytes else f"{size}, too much"

    def __str__(self) -> str:
        lines = [self.heading(), self.sentence(), "", *_text_bars(self), *self.notes()]
        return "\n".join(lines)


def foresee(config: PretrainedConfig, start: Outlook) -> Iterator[Outlook]:
    """Outlooks that know more and more; between two of them lies one prediction. The last one is complete."""
    settings, limit = start.settings, start.limit_bytes
    now = start
    for technique in (settings.technique, *(name for name in TECHNIQUES if name != settings.technique)):
        now = replace(now, pending=technique)
        yield now
        try:
            plan: MemoryPlan | LessonkitError = _predict(config, replace(settings, technique=technique))
        except LessonkitError as error:
            plan = error
        now = replace(now, plans={**now.plans, technique: plan})
        if now.error is not None:
            break  # what is wrong with the chosen one is all there is to say
    if now.error is None and limit is not None:
        now = replace(now, pending="the largest batch")
        yield now
        now = replace(now, largest_batch=largest_batch(config, limit, **asdict(settings)))
        if not now.fits:
            now = replace(now, pending="what to change")
            yield now
            now = replace(now, changes=tuple(advice(config, settings, limit)))
    yield replace(now, pending="")


def _predict(config: PretrainedConfig, settings: Settings) -> MemoryPlan:
    return predict_memory(config, **asdict(settings))


def memory_bars(outlook: Outlook, *, ax: Axes | None = None) -> Axes:
    """The plans of an outlook as stacked bars, one a technique, with the limit and common GPUs as lines."""
    plans = {name: outlook.plans[name] for name in TECHNIQUES if name in outlook.plans}
    widest = max((each.peak_bytes for each in plans.values() if isinstance(each, MemoryPlan)), default=0)
    unit, size = ("GiB", GIB) if widest >= GIB else ("MiB", 2**20)
    parts = {
        name: {PARTS[part][0]: value / size for part, value in each.breakdown.items()}
        if isinstance(each, MemoryPlan)
        else {}
        for name, each in plans.items()
    }
    limit = outlook.limit_bytes
    gpus = {name: (GPUS[name] * GIB - CONTEXT_BYTES) for name in COMPARED_GPUS}
    answer = {True: "fits", False: "does not fit", None: "memory of this machine unknown"}[outlook.fits]
    return plots.stacked_bars(
        parts,
        xlabel=f"{unit} at the fullest moment of a training step",
        title=f"{outlook.heading()}: {answer}",
        chosen=outlook.settings.technique,
        ends={name: outlook.verdict(name) for name in plans},
        limit=None if limit is None else (f"limit {format_bytes(limit)}", limit / size),
        marks={
            name: at / size for name, at in gpus.items() if limit is None or abs(at - limit) > 0.03 * limit
        },
        fmt="{:.1f}" if unit == "GiB" else "{:.0f}",
        ax=ax,
    )


def png(outlook: Outlook) -> bytes:
    """``memory_bars`` as an image."""
    from matplotlib.figure import Figure

    # Not made by pyplot: a notebook would show it a second time at the end of the cell.
    figure = Figure(figsize=(7.6, 3.9), layout="constrained", facecolor="white")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    memory_bars(outlook, ax=ax)
    stored = io.BytesIO()
    figure.savefig(stored, format="png", dpi=100)
    return stored.getvalue()


def _text_bars(outlook: Outlook) -> Iterator[str]:
    """Bars of letters, one a technique, with a | where the limit is."""
    plans = {name: outlook.plans[name] for name in TECHNIQUES if name in outlook.plans}
    widest = max((each.peak_bytes for each in plans.values() if isinstance(each, MemoryPlan)), default=1)
    limit = outlook.limit_bytes
    scale = TEXT_WIDTH / max(widest, limit if limit is not None and limit <= 4 * widest else 0)
    for name, plan in plans.items():
        sign = ">" if name == outlook.settings.technique else " "
        drawn = _text_bar(plan.breakdown, scale) if isinstance(plan, MemoryPlan) else ""
        at = None if limit is None else round(limit * scale)
        if at is not None and at <= TEXT_WIDTH:
            drawn = f"{drawn:<{TEXT_WIDTH + 1}}"
            drawn = f"{drawn[:at]}|{drawn[at + 1 :]}"
        yield f"{sign} {name:<9} {drawn:<{TEXT_WIDTH + 1}} {outlook.verdict(name)}"
    told = "  ".join(f"{letter} {words}" for words, letter in PARTS.values())
    yield f"  {told}" + ("  | limit" if limit is not None and round(limit * scale) <= TEXT_WIDTH else "")


def _text_bar(breakdown: Mapping[str, int], scale: float) -> str:
    """Letters for the parts: each ends where it does on the scale, so rounding does not add up."""
    drawn, end = "", 0.0
    for part, value in breakdown.items():
        end += value * scale
        drawn += PARTS[part][1] * (round(end) - len(drawn))
    return drawn
