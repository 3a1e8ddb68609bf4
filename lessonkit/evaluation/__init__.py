"""Scores that never stand alone: each comes with n, a baseline and an interval.

| question | function | lives in |
|---|---|---|
| Is the class right? | ``classification_scores``, ``majority_baseline`` | ``classification.py`` |
| Is the answer right, word for word? | ``exact_match`` | ``answers.py`` |
| How well is the next token foreseen? | ``perplexity``, ``unigram_perplexity`` | ``language_modelling.py`` |
| How fast is it? | ``latency`` | ``timing.py`` |
| Is one model better than another? | ``compare_classifiers``, ``compare_perplexities`` | ``comparison.py`` |
| How sure is a mean? | ``bootstrap_interval`` | ``bootstrap.py`` |

scikit-learn and torch do the arithmetic, and are loaded by the first function that needs them.
"""

from __future__ import annotations

from lessonkit.evaluation.answers import ExactMatchScores, exact_match, normalize_answer
from lessonkit.evaluation.bootstrap import bootstrap_interval, bootstrap_ratio_interval
from lessonkit.evaluation.classification import ClassificationScores, classification_scores, majority_baseline
from lessonkit.evaluation.comparison import Comparison, compare_classifiers, compare_perplexities
from lessonkit.evaluation.language_modelling import PerplexityScores, perplexity, unigram_perplexity
from lessonkit.evaluation.timing import Latency, latency

__all__ = [
    "ClassificationScores",
    "Comparison",
    "ExactMatchScores",
    "Latency",
    "PerplexityScores",
    "bootstrap_interval",
    "bootstrap_ratio_interval",
    "classification_scores",
    "compare_classifiers",
    "compare_perplexities",
    "exact_match",
    "latency",
    "majority_baseline",
    "normalize_answer",
    "perplexity",
    "unigram_perplexity",
]
