"""The exercises of `labs/hyperparameter-search`."""

from __future__ import annotations

import math
from statistics import mean, median
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Attempt, Bar, Exercise, Function, Value, WrongAnswer, part

LOWEST, HIGHEST, BELOW = 1e-4, 1e-1, 1e-3  # of the first exercise, the lesson's range of learning rates
TWENTY, DEVIATION = 20, 0.01
BEST_OF_TWENTY = (
    1.8675  # the mean of the largest of 20 standard normal numbers; the lesson's test draws it anew
)


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_evenly(), _median_rule(), _resumed(), _own_search(), _best_of_twenty()]


def _evenly() -> Exercise:
    share = (BELOW - LOWEST) / (HIGHEST - LOWEST)
    return Value(
        name="evenly",
        reference=share,
        also_right=(0.009, 0.01, "0.9 %"),
        tolerance=0.0012,
        because=f"The range is {HIGHEST - LOWEST:g} long, the part below {BELOW:g} only {BELOW - LOWEST:g}: less than one "
        "draw in a hundred. On a log scale each factor of ten gets a third of the draws.",
        hints=(
            f"Evenly: the share of a stretch is its length, divided by the length of all, {HIGHEST:g} - {LOWEST:g}.",
            f"The stretch goes from {LOWEST:g} to {BELOW:g}.",
        ),
        wrong=(
            WrongAnswer(
                "log-scale",
                1 / 3,
                "That is the share on a log scale, where each factor of ten is as long as the next. Here every 0.001 is as "
                "long as the next.",
            ),
            WrongAnswer(
                "above",
                1 - share,
                "That is the share *above* 0.001. Now you know where nearly all the draws go.",
            ),
            WrongAnswer("percent", 100 * share, "That's in per cent. As a share, divide by 100."),
            WrongAnswer(
                "half",
                0.5,
                f"That would put the middle at {BELOW:g}. The middle of this range is about 0.05.",
            ),
        ),
    )


# ---- The median rule --------------------------------------------------------------------------------


def _median_rule_reference(so_far, finished):
    if not finished:
        return False
    report = len(so_far) - 1
    return max(so_far) < median(curve[report] for curve in finished)


def _median_rule_by_arrays(so_far, finished):
    import numpy as np

    if len(finished) == 0:
        return False
    return np.max(so_far) < np.median(np.array(finished)[:, len(so_far) - 1])


def _median_rule() -> Exercise:
    curves = [[0.1, 0.3, 0.5, 0.55], [0.2, 0.35, 0.3, 0.6], [0.05, 0.1, 0.12, 0.13]]
    more = [*curves, [0.3, 0.31, 0.32, 0.33]]
    return Function(
        name="median-rule",
        reference=_median_rule_reference,
        also_right=(_median_rule_by_arrays,),
        because="That is Optuna's `MedianPruner`, without the trials that it lets pass at first.",
        cases=(
            ([0.05], curves),
            ([0.15], curves),
            ([0.1], curves),  # level with the median: not below
            ([0.32, 0.2], curves),  # its best is above, its last below
            ([0.2, 0.25], curves),
            ([0.2, 0.2, 0.31], more),  # the mean is 0.31, the median too: level
            ([0.1, 0.2, 0.305], curves),  # below the mean of 0.307, above the median of 0.3
            ([0.2, 0.22, 0.24], curves),
            ([0.6], [*curves, [0.7, 0.8, 0.8, 0.8]]),  # below the best alone
            ([0.02, 0.03], []),
        ),
        source="import statistics\n\n\n"
        "def hopeless(so_far, finished):\n"
        "    if not finished:\n"
        "        return False\n"
        "    report = len(so_far) - 1\n"
        "    return max(so_far) < statistics.median([curve[report] for curve in finished])",
        hints=(
            "The newest report is number `len(so_far) - 1`, counted from 0. What did each finished curve have there?",
            "`statistics.median` or `np.median` gives the median of these; compare it with `max(so_far)`.",
            "If `finished` is empty there is no median: return False first.",
        ),
        wrong=(
            WrongAnswer(
                "the-last",
                lambda so_far, finished: (
                    bool(finished) and so_far[-1] < median(curve[len(so_far) - 1] for curve in finished)
                ),
                "You compare the newest value. The rule takes the *best* so far, so that one bad evaluation ends nothing.",
            ),
            WrongAnswer(
                "their-ends",
                lambda so_far, finished: (
                    bool(finished) and max(so_far) < median(curve[-1] for curve in finished)
                ),
                "You compare with what the others had at their *end*. Early on, every training would look hopeless: "
                "compare with what they had at the same report.",
            ),
            WrongAnswer(
                "mean",
                lambda so_far, finished: (
                    bool(finished) and max(so_far) < mean(curve[len(so_far) - 1] for curve in finished)
                ),
                "That is the mean. One very good or very bad trial moves it; the median it doesn't.",
            ),
            WrongAnswer(
                "level",
                lambda so_far, finished: (
                    bool(finished) and max(so_far) <= median(curve[len(so_far) - 1] for curve in finished)
                ),
                "A trial that is level with the median goes on: only what is *below* it is ended.",
            ),
            WrongAnswer(
                "the-best",
                lambda so_far, finished: (
                    bool(finished) and max(so_far) < max(curve[len(so_far) - 1] for curve in finished)
                ),
                "Only a trial that beats the best of all would go on. Half of the others is the bar.",
            ),
            WrongAnswer(
                "turned-round",
                lambda so_far, finished: bool(finished) and not _median_rule_reference(so_far, finished),
                "This ends the good ones. True means hopeless: the best so far is *below* the median.",
            ),
            WrongAnswer(
                "nobody-finished",
                lambda so_far, finished: not finished or _median_rule_reference(so_far, finished),
                "With nobody to compare with, you end the trial: then no trial ever finishes. Return False.",
            ),
        ),
    )


def _resumed() -> Exercise:
    return Value(
        name="resumed",
        reference=3,
        also_right=(3.0, "3"),
        because="The file keeps trials, not where the sampler's dice stood: with the same seed it throws the same three "
        "again.",
        hints=(
            "What makes two random generators with one seed throw the same numbers?",
            "The study reads its three trials from the file. A random sampler doesn't look at them; where does it begin?",
        ),
        wrong=(
            WrongAnswer(
                "six",
                6,
                "So one would hope. But the sampler is made anew with `seed=0`, and doesn't know that it has thrown before.",
            ),
            WrongAnswer(
                "one",
                1,
                "A seed fixes the whole *row* of throws, not one throw: the first three settings differ.",
            ),
            WrongAnswer("none", 0, "Six trials have six settings; the question is how many of them differ."),
        ),
    )


# ---- A search of the learner's own ------------------------------------------------------------------

FEWEST, WIDEST = 15, 100  # complete trials; the range of C, from its end to its beginning
FORM = 'answer = {"study": study, "accuracy": accuracy}'
NAMES = ("C", "layer")


def _study(answer: Any) -> Any:
    study = part(answer, "study", FORM)
    if not hasattr(study, "trials") or not hasattr(study, "optimize"):
        raise ExerciseError(f"`study` must be what `optuna.create_study` gave. Write `{FORM}`.")
    return study


def _complete(answer: Any) -> list[Any]:
    return [each for each in _study(answer).trials if each.state.name == "COMPLETE"]


def _best(answer: Any) -> Any:
    complete = _complete(answer)
    if not complete:
        raise ExerciseError(
            "No trial of the study is complete.", fix="`study.optimize(head_objective, n_trials=20)`"
        )
    best = _study(answer).best_trial
    missing = [name for name in NAMES if name not in best.params]
    if missing:
        what = f"The best trial has no `{missing[0]}`."
        fix = 'let the objective ask for both: `trial.suggest_float("C", ...)`, `trial.suggest_int("layer", ...)`'
        raise ExerciseError(what, fix=fix)
    return best


def _measured(answer: Any) -> float:
    """The accuracy of the best trial's settings, measured anew."""
    best = _best(answer)
    return float(part(answer, "accuracy", FORM)(best.params["C"], best.params["layer"]))


def _above_default(answer: Any, _held_out: Any) -> float:
    return _measured(answer) - float(part(answer, "accuracy", FORM)(1.0, -1))


def _range(attempt: Attempt) -> Any:
    return _best(attempt.answer).distributions["C"]


def _minimised(attempt: Attempt) -> bool:
    return _study(attempt.answer).direction.name == "MINIMIZE"


def _linear(attempt: Attempt) -> bool:
    return not getattr(_range(attempt), "log", False)


def _narrow(attempt: Attempt) -> bool:
    found = _range(attempt)
    return found.high / max(found.low, 1e-12) < WIDEST


def _one_layer(attempt: Attempt) -> bool:
    return len({each.params.get("layer") for each in _complete(attempt.answer)}) < 2


def _another_value(attempt: Attempt) -> bool:
    return not math.isclose(_best(attempt.answer).value, _measured(attempt.answer), abs_tol=0.005)


def _accuracy(C: float, layer: int) -> float:  # noqa: N803 - scikit-learn's name
    """Much like the lesson's: better with a larger C, up to 10, and in later layers; -1 is the last."""
    return 0.4 - 0.05 * max(0.0, 1 - math.log10(C)) - 0.005 * (6 - layer % 7)


def _made(
    *,
    trials: int = 20,
    log: bool = True,
    high: float = 1e3,
    direction: str = "maximize",
    layers: int = 6,
    shown: Any = _accuracy,
) -> Any:
    """An answer made by a search of that kind."""

    def make(_held_out: Any) -> dict[str, Any]:
        import optuna

        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=0))

            def objective(trial: Any) -> float:
                return shown(
                    trial.suggest_float("C", 1e-2, high, log=log), trial.suggest_int("layer", 0, layers)
                )

            study.optimize(objective, n_trials=trials)
        finally:
            optuna.logging.set_verbosity(before)
        return {"study": study, "accuracy": _accuracy}

    return make


BAR = 0.02


def _own_search() -> Exercise:
    return Bar(
        name="own-search",
        reference=_made(),
        also_right=(_made(trials=40, high=1e4),),
        measure=_above_default,
        bar=BAR,
        score_name="gain over C = 1 on the last layer",
        measured_on="the validation texts",
        because="Space, objective, study, budget: every search of this kind has these four parts, whatever it trains.",
        hints=(
            '`def head_objective(trial):`, and in it `C = trial.suggest_float("C", 1e-3, 1e3, log=True)`, and likewise '
            "`layer` with `suggest_int`; it returns `accuracy(C, layer)`.",
            'Then `study = optuna.create_study(direction="maximize")` and `study.optimize(head_objective, n_trials=20)`.',
        ),
        source="def head_objective(trial):\n"
        '    C = trial.suggest_float("C", 1e-3, 1e3, log=True)\n'
        '    layer = trial.suggest_int("layer", 0, depth)\n'
        "    return accuracy(C, layer)\n\n\n"
        'study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))\n'
        "study.optimize(head_objective, n_trials=30)\n"
        'answer = {"study": study, "accuracy": accuracy}',
        wrong=(
            WrongAnswer(
                "minimised",
                _made(direction="minimize"),
                'The study minimises: it looked for the *worst* accuracy. `create_study(direction="maximize")`.',
                when=_minimised,
            ),
            WrongAnswer(
                "too-few",
                _made(trials=5),
                f"Fewer than {FEWEST} trials are complete: `study.optimize(head_objective, n_trials=20)`.",
                when=lambda attempt: len(_complete(attempt.answer)) < FEWEST,
            ),
            WrongAnswer(
                "linear",
                _made(log=False),
                "C is drawn evenly, so that small values hardly ever come: `suggest_float(..., log=True)`.",
                when=_linear,
            ),
            WrongAnswer(
                "narrow",
                _made(high=0.5),
                f"The range of C spans less than a factor of {WIDEST}. If you know it that well, you need no search.",
                when=_narrow,
            ),
            WrongAnswer(
                "one-layer",
                _made(layers=0),
                'All trials read the same layer. Let the trial choose: `trial.suggest_int("layer", 0, ...)`.',
                when=_one_layer,
            ),
            WrongAnswer(
                "another-value",
                _made(shown=lambda C, layer: -_accuracy(C, layer)),  # noqa: N803
                "The best trial's value isn't the accuracy that `accuracy` gives for its settings. The objective must "
                "return `accuracy(C, layer)`.",
                when=_another_value,
            ),
            WrongAnswer(
                "no-gain",
                _made(high=1.0 + 1e-9, layers=1),
                "That is hardly better than C = 1 on the last layer. Does the range hold larger C, too, and all layers? "
                "Then a few more trials may find them.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )


def _best_of_twenty() -> Exercise:
    return Value(
        name="best-of-twenty",
        reference=BEST_OF_TWENTY * DEVIATION,
        also_right=(0.02, 0.018, "1.9 %"),
        relative=0.1,
        because="The more you look, the higher the best one stands, with no setting better than another: that is the "
        "optimism of a search's best score.",
        hints=(
            "`np.random.default_rng(0).normal(0, 0.01, (10_000, 20))` are ten thousand such rows of twenty.",
            "Of each row the largest, `.max(axis=1)`; of these the mean.",
        ),
        wrong=(
            WrongAnswer(
                "no-effect",
                0.0,
                "The *mean* of twenty is 0 above the mean, on average. The largest of twenty isn't.",
            ),
            WrongAnswer(
                "one-deviation",
                DEVIATION,
                "One in six lies more than one standard deviation above. Of twenty, about three do, and the best of these "
                "lies further up.",
            ),
            WrongAnswer(
                "of-the-mean",
                DEVIATION / math.sqrt(TWENTY),
                "That is the standard error of the mean of twenty. Asked for is the largest.",
            ),
            WrongAnswer(
                "range",
                2 * BEST_OF_TWENTY * DEVIATION,
                "That is how far the best lies above the *worst*. Asked for is how far above the mean.",
            ),
            WrongAnswer(
                "sum",
                TWENTY * DEVIATION,
                "Deviations don't add up here: only one of the twenty is taken, the largest.",
            ),
        ),
    )
