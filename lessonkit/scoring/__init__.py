"""From a configuration to predictions, metrics with intervals, slices, a report, and a gate between two models.

| step | function | lives in |
|---|---|---|
| what to evaluate | ``EvaluationConfig``, ``read_config`` | ``config.py`` |
| any saved model, any dataset | ``load_scored_model``, ``labelled_texts`` | ``loading.py`` |
| a prediction for each text, and its confidence | ``predict`` | ``predicting.py`` |
| metrics, slices, calibration | ``metrics`` | ``measuring.py`` |
| the files | ``evaluate``, ``evaluate_function`` -> ``Evaluation`` | ``running.py``, ``html_report.py`` |
| better, worse, or can't tell | ``gate`` | ``gating.py`` |
| the errors, to look through | ``error_browser`` | ``browsing.py`` |

``evaluate`` writes ``predictions.jsonl``, ``metrics.json`` and ``report.html`` into one folder; the gate needs no more
than two such folders.
"""

from __future__ import annotations

from lessonkit.scoring.browsing import ErrorBrowser, error_browser
from lessonkit.scoring.config import EvaluationConfig, read_config
from lessonkit.scoring.gating import Gate, gate
from lessonkit.scoring.loading import ScoredModel, labelled_texts, load_scored_model
from lessonkit.scoring.measuring import calibration, metrics
from lessonkit.scoring.predicting import Prediction, predict
from lessonkit.scoring.running import Evaluation, evaluate, evaluate_function, read_evaluation

__all__ = [
    "ErrorBrowser",
    "Evaluation",
    "EvaluationConfig",
    "Gate",
    "Prediction",
    "ScoredModel",
    "calibration",
    "error_browser",
    "evaluate",
    "evaluate_function",
    "gate",
    "labelled_texts",
    "load_scored_model",
    "metrics",
    "predict",
    "read_config",
    "read_evaluation",
]
