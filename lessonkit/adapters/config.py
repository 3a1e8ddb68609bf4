"""What an adapter is made from, and every check that it can be made so in the model at hand."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lessonkit.adapters.layers import INITS, NONLINEARITIES
from lessonkit.adapters.places import KINDS, Place
from lessonkit.errors import AdapterError, UnknownNameError

__all__ = ["PLACEMENTS", "AdapterConfig", "check_fit", "check_name", "make_config"]

#: Placement to the kinds of place that it uses.
PLACEMENTS = {"houlsby": KINDS, "pfeiffer": ("feed_forward",)}
DEFAULT_BOTTLENECK = 64
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter was made from; `lessonkit.adapters.add_adapter` explains the options.

    layers: numbers of those that have it, from 0.
    hidden_size, num_layers, model_type: of the base model.
    """

    name: str
    placement: str
    bottleneck: int
    nonlinearity: str
    dropout: float
    init: str
    layers: tuple[int, ...]
    hidden_size: int
    num_layers: int
    model_type: str

    def places(self, places: Iterable[Place]) -> list[Place]:
        """Those of a model's places where this adapter sits."""
        kinds = PLACEMENTS[self.placement]
        return [place for place in places if place.kind in kinds and place.layer in self.layers]

    def shapes(self, places: Iterable[Place]) -> dict[str, tuple[int, ...]]:
        """Each parameter's name, as `adapter_parameters` gives it, and its shape."""
        d, m = self.hidden_size, self.bottleneck
        inner = {"down.weight": (m, d), "down.bias": (m,), "up.weight": (d, m), "up.bias": (d,)}
        return {f"{each.key}.{name}": shape for each in self.places(places) for name, shape in inner.items()}


def make_config(
    name: str,
    places: Sequence[Place],
    model_type: str,
    *,
    placement: str,
    bottleneck: int | None,
    reduction_factor: float | None,
    nonlinearity: str,
    dropout: float,
    init: str,
    layers: Iterable[int] | None,
) -> AdapterConfig:
    """The checked options. Raises AdapterError, UnknownNameError."""
    for kind, value, choices in (
        ("placement", placement, PLACEMENTS),
        ("non-linearity", nonlinearity, NONLINEARITIES),
        ("init", init, INITS),
    ):
        if value not in tuple(choices):
            raise UnknownNameError(kind, str(value), choices)
    hidden_size, num_layers = places[0].hidden_size, places[-1].layer + 1
    return AdapterConfig(
        name=name,
        placement=placement,
        bottleneck=_bottleneck(bottleneck, reduction_factor, hidden_size),
        nonlinearity=nonlinearity,
        dropout=_dropout(dropout),
        init=init,
        layers=_layers(layers, num_layers),
        hidden_size=hidden_size,
        num_layers=num_layers,
        model_type=model_type,
    )


def check_name(name: object, taken: Collection[str], reserved: Collection[str]) -> None:
    """Raises AdapterError unless ``name`` can become a module's name and is free."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise AdapterError(
            f"{name!r} cannot be an adapter's name.",
            why="it becomes a part of the parameters' names, where a dot separates the parts",
            fix='use letters, digits, "_" and "-", such as "news"',
        )
    if name in taken:
        raise AdapterError(
            f"The model already has an adapter called {name!r}.",
            fix=f'choose another name, or first remove_adapter(model, "{name}")',
        )
    if name in reserved:
        raise AdapterError(
            f"{name!r} cannot be an adapter's name.",
            why="PyTorch's ModuleDict, which holds the adapters, has an attribute of that name",
            fix=f'use another, such as "{name}_adapter"',
        )


def check_fit(settings: dict[str, Any], places: Sequence[Place], model_type: str) -> AdapterConfig:
    """A saved adapter's configuration, checked against the model that it should go into.

    Raises AdapterError that lists all differences, or says that the settings are not whole.
    """
    names = {field.name for field in fields(AdapterConfig)}
    if missing := sorted(names - settings.keys()):
        raise AdapterError(
            f"The saved adapter's settings lack {', '.join(missing)}.",
            fix="save the adapter again with save_adapter(model, folder, name)",
        )
    here = {
        "model_type": model_type,
        "hidden_size": places[0].hidden_size,
        "num_layers": places[-1].layer + 1,
    }
    differences = [
        f"{key} is {settings[key]} there and {value} here"
        for key, value in here.items()
        if settings[key] != value
    ]
    if differences:
        base = settings.get("base_model") or settings["model_type"]
        raise AdapterError(
            f"The adapter {settings['name']!r} does not fit this model.",
            why="; ".join(differences),
            fix=f"load it into the base model that it was trained on: {base}",
        )
    options = {
        key: settings[key] for key in ("placement", "bottleneck", "nonlinearity", "dropout", "init", "layers")
    }
    return make_config(settings["name"], places, model_type, reduction_factor=None, **options)


def _bottleneck(bottleneck: int | None, reduction_factor: float | None, hidden_size: int) -> int:
    if bottleneck is not None and reduction_factor is not None:
        raise AdapterError(
            "Both bottleneck and reduction_factor are given.",
            why="each follows from the other: bottleneck = hidden size / reduction_factor",
            fix="pass one of them",
        )
    if reduction_factor is not None:
        if not _is_number(reduction_factor) or not 1 <= reduction_factor <= hidden_size:
            raise AdapterError(
                f"reduction_factor={reduction_factor!r} does not work.",
                why=f"the hidden size is divided by it, and {hidden_size} should become 1 to {hidden_size}",
                fix="use a number such as 4, 8 or 16",
            )
        return int(hidden_size // reduction_factor)
    width = DEFAULT_BOTTLENECK if bottleneck is None else bottleneck
    if not isinstance(width, int) or isinstance(width, bool) or not 1 <= width <= hidden_size:
        raise AdapterError(
            f"A bottleneck of {width!r} does not work in this model.",
            why=f"it should be narrower than the hidden size, {hidden_size}",
            fix=f"use a whole number from 1 to {hidden_size}, such as bottleneck={max(1, hidden_size // 8)}",
        )
    return width


def _dropout(dropout: float) -> float:
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise AdapterError(
            f"dropout={dropout!r} does not work.",
            why="it is the probability that a number is set to zero",
            fix="use 0.0 up to, but not including, 1.0, such as dropout=0.1",
        )
    return float(dropout)


def _layers(layers: Iterable[int] | None, num_layers: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(num_layers))
    chosen = list(layers) if isinstance(layers, Iterable) else [layers]
    wrong = [each for each in chosen if isinstance(each, bool) or each not in range(num_layers)]
    if wrong or not chosen:
        raise AdapterError(
            f"There is no layer {', '.join(map(repr, wrong))}." if wrong else "The list of layers is empty.",
            why=f"this model has {num_layers} layers, numbered 0 to {num_layers - 1}",
            fix=f"for the upper half, pass layers=range({num_layers // 2}, {num_layers}); for all, leave it out",
        )
    return tuple(sorted(set(chosen)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
