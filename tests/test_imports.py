"""Importing is quick and runs one way: what each module may import is pinned here."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lessonkit

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lessonkit"

#: Slow to load, so they are imported inside the functions that need them (or for type checkers only).
HEAVY = {
    "IPython",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "huggingface_hub",
    "ipywidgets",
    "matplotlib",
    "nbclient",
    "nbformat",
    "numpy",
    "pandas",
    "peft",
    "safetensors",
    "scipy",
    "sklearn",
    "tokenizers",
    "torch",
    "transformers",
}

ERROR_TOPICS = (
    "adapting",
    "data",
    "gradients",
    "loading",
    "metrics",
    "python",
    "silent",
    "tensors",
    "tokens",
    "trainer",
)

#: Which module of lessonkit may import which others when it is loaded. A new module takes its place here.
MAY_IMPORT: dict[str, set[str]] = {
    "": set(),
    "__main__": {"cli"},
    "errors": set(),
    "four_bits": set(),
    "live": set(),
    "quiet": set(),
    # what stands on the errors alone
    "assets": {"errors"},
    "colab": {"errors"},
    "conversions": set(),
    "curriculum": {"errors", "curriculum_checks", "curriculum_reading"},
    "curriculum_checks": {"curriculum_reading"},
    "curriculum_reading": {"errors"},
    "hardware": {"errors", "hardware.devices", "hardware.system"},
    "hardware.devices": {"hardware.system"},
    "hardware.shortage": {"errors"},
    "hardware.system": set(),
    "memory": {"memory.configs", "memory.settings"},
    "memory.configs": {"errors"},
    "memory.models": {"errors", "memory.stand_ins"},
    "memory.numberless": set(),
    "memory.settings": {"errors"},
    "memory.stand_ins": set(),
    "memory.trace": {"memory.numberless"},
    "memory.gpus": {"errors", "hardware", "memory"},
    "progress": {
        f"progress.{each}"
        for each in (
            "events",
            "evidence",
            "folding",
            "journal",
            "records",
            "report",
            "suggestions",
            "tracker",
        )
    },
    "progress.events": {"errors"},
    "progress.journal": {"errors", "progress.events"},
    "progress.suggestions": set(),
    "progress.records": {"progress.events", "progress.suggestions"},
    "progress.folding": {"progress.events", "progress.records"},
    "progress.evidence": {"progress.events", "progress.folding", "progress.journal", "progress.records"},
    "progress.tracker": {
        "errors",
        "progress.events",
        "progress.folding",
        "progress.journal",
        "progress.records",
    },
    "progress.pace": {"progress.events"},
    "progress.charts": set(),
    "progress.report": {
        "progress.events",
        "progress.pace",
        "progress.records",
        "progress.suggestions",
        "progress.weeks",
    },
    "progress.portfolio": {
        "errors",
        "progress.charts",
        "progress.events",
        "progress.evidence",
        "progress.pace",
        "progress.portfolio_html",
        "progress.records",
        "progress.report",
    },
    "progress.portfolio_html": {"progress.charts"},
    "progress.keeping": {"errors", "progress.folding", "progress.journal", "progress.portfolio"},
    "progress.study_clock": {"errors", "progress.journal"},
    # study aids: timers that are folds of the journal
    "study": {"study.focus", "study.stuck", "study.times"},
    "study.times": {"errors"},
    "study.focus": {"study.times"},
    "study.stuck": {"study.times"},
    "study.technique": {"errors"},
    "study.ticking": set(),
    "study.panels": {"errors", "live", "study.ticking", "study.times"},
    "study.focus_view": {"progress.journal", "study.focus", "study.panels", "study.times"},
    "study.stuck_view": {"exercises.showing", "study.panels", "study.stuck", "study.times"},
    # plain Hugging Face objects
    "data": {"assets", "errors"},
    "models": {"assets", "errors", "four_bits", "quiet"},
    "adapters": {"adapters.config", "adapters.files", "adapters.places", "errors", "hardware"},
    "adapters.config": {"adapters.layers", "adapters.places", "errors"},
    "adapters.files": {"errors"},
    "adapters.layers": set(),
    "adapters.places": {"errors"},
    # what is done with them
    "evaluation": {
        f"evaluation.{each}"
        for each in ("answers", "bootstrap", "classification", "comparison", "language_modelling", "timing")
    },
    "evaluation.answers": {"errors", "evaluation.bootstrap"},
    "evaluation.bootstrap": {"errors"},
    "evaluation.classification": {"errors", "evaluation.bootstrap"},
    "evaluation.comparison": {
        "errors",
        "evaluation.bootstrap",
        "evaluation.classification",
        "evaluation.language_modelling",
    },
    "evaluation.language_modelling": {
        "errors",
        "evaluation.bootstrap",
        "evaluation.token_losses",
        "evaluation.token_texts",
    },
    "evaluation.timing": {"errors", "evaluation.bootstrap"},
    "evaluation.token_losses": {"errors", "evaluation.token_texts", "hardware.shortage"},
    "evaluation.token_texts": {"errors"},
    "training": {
        "four_bits",
        "hardware",
        "live",
        "training.checkpoints",
        "training.checks",
        "training.patching",
        "training.safety",
        "training.survival",
        "training.watch",
    },
    "training.arguments": {"hardware"},
    "training.batches": {"errors"},
    "training.checkpoints": {"errors"},
    "training.checks": {"errors", "four_bits", "training.column_checks", "training.dataset_checks"},
    "training.collators": {"errors"},
    "training.column_checks": {"training.dataset_checks"},
    "training.dataset_checks": set(),
    "training.lengths": {"errors", "hardware", "training.arguments"},
    "training.patching": set(),
    "training.safety": {"quiet", "training.checkpoints", "training.patching"},
    "training.advice": {"errors"},
    "training.survival": {
        "errors",
        "hardware.shortage",
        "training.advice",
        "training.batches",
        "training.patching",
    },
    "training.watch": {"errors", "training.patching"},
    "troubleshooting": {f"troubleshooting.{each}" for each in ("entries", "entry", "explaining", "matching")},
    "troubleshooting.entry": set(),
    "troubleshooting.entries": {
        "troubleshooting.entry",
        *(f"troubleshooting.entries.{each}" for each in ERROR_TOPICS),
    },
    **{f"troubleshooting.entries.{each}": {"troubleshooting.entry"} for each in ERROR_TOPICS},
    "troubleshooting.reading": set(),
    "troubleshooting.matching": {f"troubleshooting.{each}" for each in ("entries", "entry", "reading")},
    "troubleshooting.explaining": {
        "errors",
        *(f"troubleshooting.{each}" for each in ("entry", "matching", "reading")),
    },
    "troubleshooting.offer": set(),
    "samples": {"errors"},
    "samples.pipeline": {""},  # a script that learners copy: it uses the package as they do
    # texts of a learner's own, and any saved model on them
    "texts": {
        f"texts.{each}"
        for each in ("columns", "cures", "files", "findings", "pairs", "personal", "report", "splitting")
    },
    "texts.columns": {"errors"},
    "texts.cures": {"errors", "texts.duplicates", "texts.findings"},
    "texts.decoding": {"errors"},
    "texts.delimited": {"errors"},
    "texts.duplicates": set(),
    "texts.files": {"errors", "texts.decoding", "texts.delimited"},
    "texts.findings": {"texts.duplicates"},
    "texts.pairs": {
        "errors",
        *(f"texts.{each}" for each in ("cures", "duplicates", "files", "findings", "personal")),
    },
    "texts.personal": set(),
    "texts.report": {"errors", *(f"texts.{each}" for each in ("columns", "cures", "files", "findings"))},
    "texts.splitting": {"errors", "texts.duplicates"},
    "scoring": {
        f"scoring.{each}"
        for each in ("browsing", "config", "gating", "loading", "measuring", "predicting", "running")
    },
    "scoring.browsing": {"errors", "live", "scoring.gating", "scoring.predicting", "scoring.running"},
    "scoring.config": {"errors"},
    "scoring.gating": {"errors", "evaluation", "scoring.running"},
    "scoring.html_report": {"scoring.predicting"},
    "scoring.loading": {"assets", "data", "errors", "models", "texts", "texts.findings"},
    "scoring.measuring": {"errors", "evaluation", "scoring.predicting"},
    "scoring.predicting": {"errors"},
    "scoring.running": {
        "errors",
        *(f"scoring.{each}" for each in ("config", "html_report", "loading", "measuring", "predicting")),
    },
    # what a notebook and the command line use
    "exercises": {f"exercises.{each}" for each in ("bar", "base", "functions", "kinds", "loading")},
    "exercises.bar": {"errors"}
    | {f"exercises.{each}" for each in ("base", "plain", "sandbox", "showing", "surroundings")},
    "exercises.base": {"errors", "exercises.plain", "exercises.sandbox", "exercises.showing"},
    "exercises.functions": {
        f"exercises.{each}" for each in ("base", "plain", "sandbox", "showing", "surroundings")
    },
    "exercises.kinds": {f"exercises.{each}" for each in ("base", "plain", "sandbox", "showing")},
    "exercises.loading": {"errors", "exercises.base"},
    "exercises.plain": set(),
    "exercises.sandbox": {"exercises.plain", "exercises.surroundings"},
    "exercises.showing": {"live"},
    "exercises.surroundings": {"errors"},
    "plots": {"errors"},
    "progress.dashboard": {"progress.dashboard.panel"},
    "progress.dashboard.controls": {"colab", "progress.dashboard.style"},
    "progress.dashboard.links": {"colab"},
    "progress.dashboard.pages": {
        "progress.charts",
        "progress.dashboard.links",
        "progress.weeks",
        "progress.events",
        "progress.pace",
        "progress.report",
        "progress.suggestions",
    },
    "progress.dashboard.panel": {
        "colab",
        "curriculum",
        "errors",
        "live",
        "progress.dashboard.pages",
        "progress.weeks",
        "progress.evidence",
        "progress.folding",
        "progress.journal",
        "progress.report",
        "progress.tracker",
        "study.focus_view",
        "study.ticking",
    },
    "progress.dashboard.style": set(),
    "progress.weeks": set(),
    "memory.outlook": {"errors", "hardware", "memory", "memory.gpus", "plots"},
    "memory.panel": {"errors", "hardware", "live", "memory", "memory.gpus", "memory.outlook"},
    "memory.plan": {"hardware", "memory", "memory.gpus"},
    "lesson": {
        "colab",
        "curriculum",
        "errors",
        "hardware",
        "progress.journal",
        "progress.study_clock",
        "quiet",
        "training",
    },
    "execution": {"curriculum", "errors", "lesson"},
    "doctor": {"", "doctor.checks", "doctor.installation", "errors", "hardware", "hardware.system"},
    "doctor.checks": {"doctor.installation", "errors", "hardware", "hardware.system"},
    "doctor.installation": {"colab", "hardware.devices", "hardware.system"},
    "cli": {
        "cli.app",
        "cli.data",
        "cli.evaluate",
        "cli.explain",
        "cli.lessons",
        "cli.machine",
        "cli.progress",
        "cli.stuck",
        "cli.study",
        "errors",
    },
    "cli.app": set(),
    "cli.data": {"cli.app"},
    "cli.evaluate": {"cli.app"},
    "cli.explain": {"cli.app"},
    "cli.lessons": {"cli.app"},
    "cli.machine": {"cli.app"},
    "cli.progress": {"cli.app"},
    "cli.stuck": {"cli.app", "cli.study"},
    "cli.study": {"cli.app"},
}
#: A lesson's exercises import the engine's public names, how it reads an answer, and the errors; nothing else of lessonkit.
EXERCISES_MAY_IMPORT = {"errors", "exercises", "exercises.plain"}


def module_name(path: Path) -> str:
    """``lessonkit/progress/journal.py`` -> ``progress.journal``; the package itself is ``""``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_on_load(path: Path) -> set[str]:
    """Dotted names imported outside of functions, and not for type checkers only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                visit(ast.Module(child.orelse, []))
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name}: imports are absolute"
                base = child.module or ""
                for alias in child.names:
                    inner = f"{base}.{alias.name}".removeprefix("lessonkit.")
                    found.add(
                        f"lessonkit.{inner}" if inner in MODULES and base.startswith("lessonkit") else base
                    )
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def allowed(name: str) -> set[str]:
    if name.startswith("exercises.") and name not in MAY_IMPORT:
        return EXERCISES_MAY_IMPORT
    return MAY_IMPORT[name]


def test_every_module_has_its_place():
    assert {name for name in MODULES if not name.startswith("exercises.")} <= set(MAY_IMPORT)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_imports_only_what_stands_below_it(name: str):
    own = {each for each in imported_on_load(MODULES[name]) if each.split(".")[0] == "lessonkit"}
    assert {each.removeprefix("lessonkit").lstrip(".") for each in own} <= allowed(name)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_loads_nothing_heavy(name: str):
    assert {each.split(".")[0] for each in imported_on_load(MODULES[name])} & HEAVY == set()


def test_the_pinned_arrows_run_one_way():
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()  # raises on a cycle


def test_the_reader_of_imports_sees_them(tmp_path: Path):
    source = tmp_path / "sample.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "import torch.nn\n"
        "from lessonkit import errors\n"
        "from lessonkit.progress import journal, Journal\n"
        "if TYPE_CHECKING:\n    import numpy\nelse:\n    import pandas\n"
        "try:\n    import yaml\nexcept ImportError:\n    pass\n"
        "def inside():\n    import sklearn\n"
        "class Here:\n    import csv\n    def inside(self):\n        import json\n"
    )
    wanted = {"typing", "torch.nn", "lessonkit.errors", "lessonkit.progress.journal", "lessonkit.progress"}
    assert imported_on_load(source) == wanted | {"pandas", "yaml", "csv"}


def fresh_python(script: str) -> dict:
    """What a script prints as JSON, run by a new Python that has loaded nothing yet."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


IMPORT = """
import json, sys, time
start = time.perf_counter()
import lessonkit
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "modules": list(sys.modules)}))
"""


def test_importing_lessonkit_is_quick_and_light():
    runs = [fresh_python(IMPORT) for _ in range(4)]
    assert min(run["seconds"] for run in runs) < 0.1
    assert {name.split(".")[0] for name in runs[0]["modules"]} & HEAVY == set()


def test_importing_all_of_its_modules_is_light():
    names = [f"lessonkit.{name}".rstrip(".") for name in MODULES if name != "__main__"]
    script = f"""
import importlib, json, sys
for name in {names!r}:
    importlib.import_module(name)
print(json.dumps(list(sys.modules)))
"""
    assert {name.split(".")[0] for name in fresh_python(script)} & HEAVY == set()


@pytest.mark.parametrize("name", lessonkit.__all__)
def test_public_name_resolves(name: str):
    assert getattr(lessonkit, name) is not None
    assert name in dir(lessonkit)


def test_public_names_are_sorted_and_there_once():
    assert list(lessonkit.__all__) == sorted(set(lessonkit.__all__))


def test_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match=r"load_dataset"):
        lessonkit.load_data_set  # noqa: B018


def test_version_is_the_packages():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{lessonkit.__version__}"' in text


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"", "__main__"}))
def test_modules_say_what_is_public(name: str):
    module = importlib.import_module(f"lessonkit.{name}")
    assert module.__doc__
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public)
        documented = getattr(module, public)
        assert not callable(documented) or documented.__doc__, f"{name}.{public} has no docstring"
