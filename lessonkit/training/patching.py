"""Change a plain Trainer for the time of one run, and leave it as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["as_callback", "replaced", "wrapped"]


@contextlib.contextmanager
def replaced(target: Any, **values: Any) -> Iterator[None]:
    """Set attributes of one object (not of its class) inside the ``with``; afterwards they are as before."""
    own = vars(target)
    before = {name: own[name] for name in values if name in own}
    for name, value in values.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                setattr(target, name, before[name])
            elif name in own:
                delattr(target, name)


def wrapped(target: Any, name: str, wrapper: Callable[..., Any]) -> contextlib.AbstractContextManager[None]:
    """Let ``wrapper(original, *args, **kwargs)`` stand in for a method of one object inside the ``with``."""
    original = getattr(target, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    # PyTorch's schedulers mark a step method that they know; the mark goes on to ours.
    call.__dict__.update(getattr(original, "__dict__", {}))
    return replaced(target, **{name: call})


def as_callback(part: Any) -> TrainerCallback:
    """A TrainerCallback that hands each event to the method of ``part`` with the event's name, if any.

    So that classes here need not derive from one of transformers, which is slow to import.
    """
    from transformers import TrainerCallback

    def forward(name: str) -> Callable[..., Any]:
        return lambda self, *args, **kwargs: getattr(part, name)(*args, **kwargs)

    events = {name: forward(name) for name in dir(part) if name.startswith("on_")}
    return type(type(part).__name__, (TrainerCallback,), events)()
