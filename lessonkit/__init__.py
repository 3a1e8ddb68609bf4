"""Helpers that the fine-tuning lessons share.

Importing this package is quick: torch, transformers and ipywidgets are loaded by the first function
that needs them. What these functions hand out are plain transformers, peft and datasets objects.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Where each public name lives; imported when it is first used.
_HOMES = {
    "CausalLMCollator": "training.collators",
    "Hardware": "hardware",
    "Journal": "progress.journal",
    "LessonkitError": "errors",
    "TODO": "exercises",
    "bootstrap_interval": "evaluation",
    "check_pairs": "texts",
    "check_texts": "texts",
    "classification_scores": "evaluation",
    "compare_classifiers": "evaluation",
    "compare_perplexities": "evaluation",
    "dashboard": "progress.dashboard",
    "detect_hardware": "hardware",
    "error_browser": "scoring",
    "evaluate": "scoring",
    "exact_match": "evaluation",
    "explain": "troubleshooting",
    "fetch": "assets",
    "fit_panel": "memory.panel",
    "focus_panel": "study.focus_view",
    "gate": "scoring",
    "latency": "evaluation",
    "like_length_batches": "training.lengths",
    "load_curriculum": "curriculum",
    "load_dataset": "data",
    "load_model": "models",
    "load_tokenizer": "models",
    "majority_baseline": "evaluation",
    "measure": "training",
    "model_arguments": "training.arguments",
    "only": "study.technique",
    "perplexity": "evaluation",
    "predict_memory": "memory",
    "run": "training",
    "sample_file": "samples",
    "split_texts": "texts",
    "start": "lesson",
    "training_arguments": "training.arguments",
}
_MODULES = (
    "adapters",
    "assets",
    "curriculum",
    "data",
    "errors",
    "evaluation",
    "hardware",
    "memory",
    "models",
    "plots",
    "scoring",
    "texts",
    "training",
)

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"lessonkit.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"lessonkit.{name}")
    else:
        raise AttributeError(f"module 'lessonkit' has no attribute {name!r}; it has: {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
