"""Errors of metrics: predictions and labels that do not fit each other."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="Scores given where classes are wanted",
        errors=("ValueError",),
        pattern=r"Classification metrics can't handle a mix of",
        example="Classification metrics can't handle a mix of binary and continuous-multioutput targets",
        meaning="Accuracy and F1 compare class numbers with class numbers, and got decimals on one side.",
        cause="The logits went into the metric; the class is the place of the largest logit.",
        cure=("Take the class first: `predictions = logits.argmax(axis=-1)`.",),
        before="accuracy_score(labels, logits)",
        after="accuracy_score(labels, logits.argmax(axis=-1))",
        packages=("scikit-learn",),
        lesson="beginner/full-fine-tuning",
    ),
    Entry(
        title="An average to be chosen for several classes",
        errors=("ValueError",),
        pattern=r"Target is multiclass but average='binary'",
        example="Target is multiclass but average='binary'. Please choose another average setting, one of [None, 'micro', "
        "'macro', 'weighted'].",
        meaning="F1, precision and recall are computed for each class, and with more than two classes you say how they are "
        "averaged.",
        cause="The default is meant for two classes.",
        cure=(
            "`average='macro'` lets each class count the same, rare ones too; that is what this course reports.",
            "`average='weighted'` lets each row count the same.",
        ),
        before="f1_score(labels, predictions)",
        after='f1_score(labels, predictions, average="macro")',
        packages=("scikit-learn",),
        lesson="beginner/full-fine-tuning",
    ),
    Entry(
        title="More predictions than labels, or fewer",
        errors=("ValueError",),
        pattern=r"Found input variables with inconsistent numbers of samples",
        example="Found input variables with inconsistent numbers of samples: [3, 2]",
        meaning="Each prediction is compared with one label, and their numbers differ.",
        cause="Predictions of one split and labels of another, a last batch that was dropped, or token labels flattened on "
        "one side only.",
        cure=(
            "Print `len(predictions), len(labels)`.",
            "Take both from one place: `output = trainer.predict(dataset)`; `output.predictions, output.label_ids`.",
        ),
        packages=("scikit-learn",),
    ),
    Entry(
        title="Missing numbers in a metric",
        errors=("ValueError",),
        pattern=r"Input (?:X |y |contains )?contains NaN|Input contains NaN",
        example="Input X contains NaN.",
        meaning="Among the numbers are some that are none (NaN).",
        cause="The model's outputs became nan (see [The loss is nan](#the-loss-is-nan)), or the table has empty cells.",
        cure=(
            "Where from: `np.isnan(logits).any()`, and the same for the table.",
            "From the model: it is spoiled; load it anew and train with a lower learning rate.",
            "From the table: drop the rows, `frame.dropna()`.",
        ),
        packages=("scikit-learn",),
    ),
    Entry(
        title="Rows of different length for NumPy",
        errors=("ValueError",),
        pattern=r"The requested array has an inhomogeneous shape",
        example="setting an array element with a sequence. The requested array has an inhomogeneous shape after 2 "
        "dimensions. The detected shape was (2, 4) + inhomogeneous part.",
        meaning="An array is a rectangle, and the parts have different shapes.",
        cause="In `compute_metrics` the predictions are several arrays in a tuple (logits and hidden states), or token "
        "predictions of texts with different lengths.",
        cure=(
            "Take the logits out: `if isinstance(predictions, tuple): predictions = predictions[0]`.",
            "For tokens, compare text by text, and leave out the places where the label is -100.",
        ),
        before="np.argmax(predictions, axis=-1)",
        after="""\
logits = predictions[0] if isinstance(predictions, tuple) else predictions
np.argmax(logits, axis=-1)""",
        packages=("numpy",),
    ),
    Entry(
        title="A metric function that returns no dictionary",
        errors=("TypeError",),
        pattern=r"'(?:float|int|numpy\.float64)' object does not support item assignment",
        example="'float' object does not support item assignment",
        meaning="Something wants to add an entry to what it takes for a dictionary, and it is a number.",
        cause="`compute_metrics` returned the bare number, and `Trainer` adds its own measurements to it.",
        cure=("Return a dictionary of names and numbers.",),
        before="def compute_metrics(output):\n    return accuracy_score(...)",
        after='def compute_metrics(output):\n    return {"accuracy": accuracy_score(...)}',
        packages=("transformers",),
    ),
)
