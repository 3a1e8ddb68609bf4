"""Keeping libraries quiet about what only distracts, and transformers while it does what was just said."""

from __future__ import annotations

import logging
import os
import sys
import warnings

__all__ = ["quiet_libraries", "quiet_transformers"]


def quiet_libraries() -> None:
    """For this process: no warning of a tokenizer about forks, no library notes about optional kernels."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else PyTorch's profiler tells that it starts and stops
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # PEFT 0.21 asks transformers 5 by an old name, in every get_peft_model: nothing that a learner could mend
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    else:
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


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
