"""Keeping transformers quiet while it does what was just said in other words."""

from __future__ import annotations

__all__ = ["quiet_transformers"]


class quiet_transformers:  # noqa: N801 - used like a function
    """No progress bars and no notes of transformers inside the ``with``; warnings of the fresh head among them.

    A load or a save takes about a second, and a fresh classification head is what every lesson wants.
    """

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._bar = logging.is_progress_bar_enabled()
        self._level = logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._level)
        if self._bar:
            logging.enable_progress_bar()
