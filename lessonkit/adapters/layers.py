"""The two modules that bottleneck adapters are made of: `Adapter`, and the `AdapterStack` at one place.

One adapter (Houlsby et al. 2019, section 2.1), with the numbers of hidden size d = 384 and bottleneck m = 64::

    hidden_states (batch, sequence, 384) ----------------------------.
        |                                                            |
        down: Linear, weight (64, 384), bias (64,)                   |  residual
        |         (batch, sequence, 64)                              |
        nonlinearity                                                 |
        |                                                            |
        up: Linear, weight (384, 64), bias (384,)                    |
        |         (batch, sequence, 384)                             |
        dropout                                                      |
        |                                                            |
        + <----------------------------------------------------------'
        |
    hidden_states (batch, sequence, 384)

Parameters: 2 d m + m + d = 2 * 384 * 64 + 64 + 384 = 49,600.

Precision: the weights are stored in float32 whatever the base model has, because the small steps of an
optimiser are lost in bfloat16's 8 bits of mantissa. The arithmetic is done in the dtype of the hidden
states, as under autocast: fast, no float32 copy of them is kept, and a bfloat16 model stays one.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lessonkit.adapters.config import AdapterConfig
    from lessonkit.adapters.places import Place

__all__ = ["INITS", "NONLINEARITIES", "Adapter", "AdapterStack", "insert"]

#: Name of a non-linearity to the class of `torch.nn`.
NONLINEARITIES = {"gelu": "GELU", "leaky_relu": "LeakyReLU", "relu": "ReLU", "silu": "SiLU", "tanh": "Tanh"}
#: How the weights start; see `Adapter`.
INITS = ("identity", "near-identity")
#: Standard deviation of the "near-identity" start; the results of Houlsby et al. (section 3.6) hold up to it.
NEAR_IDENTITY_STD = 1e-2


Adapter: type[nn.Module]
AdapterStack: type[nn.ModuleDict]


def insert(projection: nn.Module, place: Place, config: AdapterConfig, dtype: torch.dtype | None) -> None:
    """Put a new adapter behind ``projection``, on its device; its stack is made for the first one.

    dtype: of the adapter's weights; None for float32, or float64 behind a float64 projection.
    """
    import torch

    weight = next(projection.parameters())
    adapter = _classes()["Adapter"](
        config.hidden_size,
        config.bottleneck,
        config.nonlinearity,
        config.dropout,
        config.init,
        device=weight.device,
        dtype=dtype or torch.promote_types(weight.dtype, torch.float32),
    )
    stack = getattr(projection, "adapters", None)
    if stack is None:
        stack = _classes()["AdapterStack"](place).train(projection.training)
        stack.attach(projection)
    stack[config.name] = adapter.train(projection.training)  # no dropout in a model that is in eval mode
    stack.configs[config.name] = config


@functools.cache
def _classes() -> dict[str, type]:
    """Built when first asked for, since their base class comes from torch, which is slow to load."""
    from torch import nn

    class Adapter(nn.Module):
        """A bottleneck with its own residual: ``h + dropout(up(nonlinearity(down(h))))``.

        hidden_size, bottleneck: d and m of the module's picture.
        nonlinearity: a name in `NONLINEARITIES`.
        dropout: probability, on what is added to ``h``.
        init: ``"identity"`` sets ``up`` to zero, so that the model starts exactly as the base model, as
            LoRA's B does; ``up`` gets gradients from the first step, ``down`` from the second.
            ``"near-identity"`` draws both weights from a normal distribution of standard deviation 0.01 cut
            at twice that, as in the paper: both learn at once, from outputs slightly off the base model's.
        """

        def __init__(
            self,
            hidden_size: int,
            bottleneck: int,
            nonlinearity: str = "relu",
            dropout: float = 0.0,
            init: str = "identity",
            *,
            device: torch.device | None = None,
            dtype: torch.dtype | None = None,
        ) -> None:
            super().__init__()
            self.down = nn.Linear(hidden_size, bottleneck, device=device, dtype=dtype)
            self.nonlinearity = getattr(nn, NONLINEARITIES[nonlinearity])()
            self.up = nn.Linear(bottleneck, hidden_size, device=device, dtype=dtype)
            self.dropout = nn.Dropout(dropout)
            self.reset_parameters(init)

        def reset_parameters(self, init: str = "identity") -> None:
            """Start anew; torch's global random generator draws."""
            self.down.reset_parameters()
            nn.init.zeros_(self.down.bias)  # a random one could outweigh small inputs and keep a ReLU shut
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)
            if init == "near-identity":
                for weight in (self.down.weight, self.up.weight):
                    std = NEAR_IDENTITY_STD
                    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            """(..., hidden_size) -> (..., hidden_size), dtype unchanged."""
            narrow = self.nonlinearity(_project(self.down, hidden_states))  # (..., bottleneck)
            return hidden_states + self.dropout(_project(self.up, narrow))

    def _project(linear: nn.Linear, hidden_states: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        return nn.functional.linear(hidden_states, linear.weight.to(dtype), linear.bias.to(dtype))

    class AdapterStack(nn.ModuleDict):
        """The adapters at one place, by name; the active ones change what comes by, one after the other.

        place: what `lessonkit.adapters.places.find_places` found.
        active: names in the order of application; one that has no adapter here is passed over.
        configs: name to the `AdapterConfig` that the adapter was made from.
        """

        def __init__(self, place: Place | None) -> None:
            super().__init__()
            self.place = place
            self.active: tuple[str, ...] = ()
            self.configs: dict[str, AdapterConfig] = {}

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            """(..., hidden_size) -> (..., hidden_size)."""
            for name in self.active:
                if name in self:
                    hidden_states = self[name](hidden_states)
            return hidden_states

        def attach(self, projection: nn.Module) -> None:
            """Become a child of ``projection``, whose output goes through this stack from now on."""
            projection.add_module("adapters", self)
            self.handle = projection.register_forward_hook(_adapt_output)

        def detach(self, projection: nn.Module) -> None:
            """Undo `attach`."""
            self.handle.remove()
            del projection.adapters

        def extra_repr(self) -> str:
            return f"active: {' -> '.join(self.active) or 'none'}"

    for built in (Adapter, AdapterStack):  # where pickle finds them again
        built.__module__, built.__qualname__ = __name__, built.__name__
    return {"Adapter": Adapter, "AdapterStack": AdapterStack}


def _adapt_output(projection: nn.Module, _: tuple, output: Any) -> Any:
    """The forward hook. It holds no module itself, so copies and replicas of a model use their own adapters."""
    if isinstance(output, tuple):  # some mixtures of experts return (hidden_states, router_logits)
        return (projection.adapters(output[0]), *output[1:])
    return projection.adapters(output)


def __getattr__(name: str) -> Any:
    if name in ("Adapter", "AdapterStack"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
