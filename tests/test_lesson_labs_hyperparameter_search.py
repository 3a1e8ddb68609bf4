"""The lab's search prunes, stops and resumes as it says; its arithmetic and its facts about libraries hold."""

from __future__ import annotations

import itertools
import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from lesson_source import lesson_text, statement

import lessonkit
from lessonkit.exercises import labs_hyperparameter_search as facts

LESSON = "labs/hyperparameter-search"
IMPORTS = r"^(?:import torch|from (?:IPython|peft|transformers)\S* import .*)$"


@pytest.fixture(autouse=True)
def quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def own(*names: str, **given: Any) -> dict[str, Any]:
    """The lesson's own functions and classes, as a learner has them, with the names that they use."""
    found = {"np": np, "optuna": optuna, "lessonkit": lessonkit, **given}
    for each in names:
        exec(statement(LESSON, each), found)
    return found


def exercise(name: str) -> Any:
    return next(each for each in facts.exercises() if each.name == name)


# ---- Facts that the text states ---------------------------------------------------------------------


def test_the_library_settings_are_the_libraries_defaults(tmp_path):
    from peft import LoraConfig
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS
    from transformers import TrainingArguments

    library = own("LIBRARY")["LIBRARY"]
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    assert (library["learning_rate"], library["warmup"]) == (arguments.learning_rate, arguments.warmup_steps)
    assert (library["r"], library["alpha"]) == (LoraConfig().r, LoraConfig().lora_alpha)
    assert own("TARGETS")["TARGETS"][library["targets"]] == TARGETS["bert"]


def test_optuna_minimises_unless_told_otherwise():
    assert optuna.create_study().direction.name == "MINIMIZE"


def test_the_first_exercise_has_the_lessons_range():
    study = optuna.create_study()
    given = own("suggest", TARGETS={"some": 1})
    study.optimize(lambda trial: given["suggest"](trial)["learning_rate"], n_trials=1)
    rate = study.trials[0].distributions["learning_rate"]
    assert (rate.low, rate.high, rate.log) == (facts.LOWEST, facts.HIGHEST, True)
    assert (
        f"*evenly* from {facts.LOWEST:g} to {facts.HIGHEST:g}, which share of its draws lies below {facts.BELOW:g}"
        in (lesson_text(LESSON).replace("0.0001", "0.0001"))
    )
    draws = np.random.default_rng(1).uniform(rate.low, rate.high, 1_000_000)
    assert exercise("evenly").reference == pytest.approx(np.mean(draws < facts.BELOW), abs=5e-4)


def test_the_settings_by_hand_lie_in_the_space():
    lesson = SimpleNamespace(pick=lambda smoke, laptop, gpu: laptop)
    given = own("TARGETS", "suggest", "BY_HAND", lesson=lesson)
    study = optuna.create_study()
    study.enqueue_trial(given["BY_HAND"])
    seen = []
    study.optimize(lambda trial: seen.append(given["suggest"](trial)) or 0.0, n_trials=1)
    assert seen == [given["BY_HAND"]]


def test_the_best_of_twenty_stands_where_the_exercise_says():
    rows = np.random.default_rng(1).normal(0, facts.DEVIATION, (100_000, facts.TWENTY))
    assert exercise("best-of-twenty").reference == pytest.approx(rows.max(axis=1).mean(), rel=0.01)
    text = lesson_text(LESSON).replace("\n# ", " ")
    assert "Train twenty times with the *same* settings" in text
    assert f"standard deviation of {facts.DEVIATION}" in text


# ---- Pruning ----------------------------------------------------------------------------------------


def as_optuna_decides(so_far: list[float], finished: list[list[float]]) -> bool:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    for curve in finished:
        values = dict(enumerate(curve, 1))
        study.add_trial(optuna.trial.create_trial(value=curve[-1], intermediate_values=values))
    trial = study.ask()
    for step, value in enumerate(so_far, 1):
        trial.report(value, step)
    return trial.should_prune()


def test_the_second_exercise_is_optunas_median_rule():
    draws = np.random.default_rng(0)
    decided = set()
    for count, length in itertools.product((0, 1, 2, 3, 4, 7), (1, 2, 3)):
        finished = draws.uniform(0, 1, (count, 4)).round(2).tolist()
        for _ in range(8):
            so_far = draws.uniform(0, 0.8, length).round(2).tolist()
            decision = facts._median_rule_reference(so_far, finished)
            assert decision == as_optuna_decides(so_far, finished)
            decided.add(decision)
    assert decided == {True, False}


class Shown:
    """As much of a trial as the callback and the objective use."""

    def __init__(self, prune_at: int | None) -> None:
        self.reports: list[tuple[int, float]] = []
        self.prune_at = prune_at

    def report(self, value: float, step: int) -> None:
        self.reports.append((step, value))

    def should_prune(self) -> bool:
        return self.prune_at is not None and len(self.reports) >= self.prune_at


@pytest.fixture(scope="module")
def lab(tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The lesson's training on the tiny model, with its upper layer alone, four steps of four reports."""
    folder = tmp_path_factory.mktemp("lab")
    given: dict[str, Any] = {}
    exec("\n".join(re.findall(IMPORTS, lesson_text(LESSON), re.MULTILINE)), given)
    given |= {
        "MODEL": str(tiny.folder),
        "CUT": 1,
        "STEPS": 4,
        "REPORTS": 4,
        "SEED": 0,
        "MAX_LENGTH": 12,
        "device": "cpu",
    }
    given |= {"names": ["a", "b"], "tokenizer": tiny.tokenizer}
    given["lesson"] = SimpleNamespace(folder=folder, hardware=SimpleNamespace(attention="eager"))
    upper = own("AlreadyEmbedded", "whole_model", "upper_model", "LIMITS", **given)
    upper["whole"] = upper["whole_model"]().eval()
    exec("@torch.no_grad()\n" + statement(LESSON, "prepare"), upper)
    rows, means = upper["prepare"](tiny.dataset)
    upper |= {"rows": {"train": rows, "validation": rows[:8]}, "means": means}
    return own("TARGETS", "lora_model", "share_right", "train", "suggest", "Report", "objective", **upper)


# PEFT 0.21 asks transformers 5 by an old name
old_name = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
SETTINGS = {"learning_rate": 1e-2, "r": 2, "alpha": 4.0, "targets": "query-value", "warmup": 0.1}


def test_the_upper_layers_give_what_the_whole_model_gives(lab, tiny):
    import torch

    ids = tiny.tokenizer(tiny.dataset["text"][:8], return_tensors="pt", **lab["LIMITS"])
    with torch.no_grad():
        by_all = lab["whole"](**ids).logits
        by_upper = (
            lab["upper_model"]().eval()(**lab["default_data_collator"](lab["rows"]["train"][:8])).logits
        )
    torch.testing.assert_close(by_all, by_upper)
    assert len(lab["upper_model"]().bert.encoder.layer) == 1
    assert lab["means"].shape == (3, 24, 32)  # embeddings and two layers


@old_name
def test_a_training_reports_four_times_and_changes_only_what_lora_added(lab):
    import torch

    before = lab["lora_model"](SETTINGS, 0).state_dict()
    trainer, curve = lab["train"](SETTINGS)
    assert len(curve) == 4
    for name, value in trainer.model.state_dict().items():
        trained = "lora_" in name or "modules_to_save" in name
        assert trained or torch.equal(value, before[name])
    assert any(not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


@old_name
def test_the_same_seed_trains_the_same_and_another_one_differs(lab):
    losses = []
    for seed in (0, 0, 1):
        trainer, _ = lab["train"](SETTINGS, seed)
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == losses[1] != losses[2]


@old_name
@pytest.mark.parametrize(("prune_at", "reports"), [(None, 4), (1, 1), (3, 3), (4, 4)])
def test_the_objective_reports_each_accuracy_and_stops_where_it_is_told(lab, monkeypatch, prune_at, reports):
    trial = Shown(prune_at)
    monkeypatch.setitem(lab, "suggest", lambda trial: SETTINGS)
    if reports < 4:
        with pytest.raises(optuna.TrialPruned):
            lab["objective"](trial)
    else:
        assert lab["objective"](trial) == trial.reports[-1][1]
    assert [step for step, _ in trial.reports] == list(range(1, reports + 1))


# ---- Storing and resuming ---------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path) -> dict[str, Any]:
    given = {"STORAGE": f"sqlite:///{(tmp_path / 'search.db').as_posix()}", "NAME": "lora", "SEED": 0}
    given |= {"BY_HAND": {"x": 0.5}, "objective": lambda trial: trial.suggest_float("x", 0, 1)}
    return own("open_study", "tell", "search_until", **given)


def test_a_stopped_search_goes_on_where_it_was(stored, capsys):
    stored["search_until"](stored["open_study"](), 4)
    study = stored["open_study"]()
    assert len(study.trials) == 4
    stored["search_until"](study, 9)
    stored["search_until"](stored["open_study"](), 9)  # nothing is left to do
    xs = [trial.params["x"] for trial in stored["open_study"]().trials]
    assert xs[0] == 0.5
    assert len(set(xs)) == len(xs) == 9
    assert len(capsys.readouterr().out.splitlines()) == 9


def test_a_killed_trial_is_not_counted(stored):
    study = stored["open_study"]()
    study.ask()
    stored["search_until"](study, 3)
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "COMPLETE", "COMPLETE", "COMPLETE"]


def test_the_trap_of_the_third_exercise_snaps_with_a_file_too(tmp_path):
    for _ in range(2):
        study = optuna.create_study(
            study_name="trap",
            storage=f"sqlite:///{(tmp_path / 'trap.db').as_posix()}",
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert len(study.trials) == 6
    assert len({trial.params["x"] for trial in study.trials}) == exercise("resumed").reference


# ---- Weighing ---------------------------------------------------------------------------------------


def test_a_gain_has_an_interval_of_seeds_and_one_of_texts():
    from scipy import stats

    draws = np.random.default_rng(0)
    tested = {"better": draws.uniform(size=(4, 600)) < 0.7, "worse": draws.uniform(size=(4, 600)) < 0.5}
    mean, of_seeds, of_texts = own("gain", tested=tested, stats=stats)["gain"]("better", "worse")
    differences = tested["better"].mean(axis=1) - tested["worse"].mean(axis=1)
    expected = stats.ttest_rel(
        tested["better"].mean(axis=1), tested["worse"].mean(axis=1)
    ).confidence_interval()
    assert mean == pytest.approx(differences.mean())
    assert of_seeds == pytest.approx((expected.low, expected.high))
    assert 0 < of_texts[0] < mean < of_texts[1]


def grid() -> dict[str, Any]:
    """A table like the lesson's: two rates, two alphas, one of them best."""
    ends = {
        (rate, alpha, targets): 0.1 * place
        for place, (rate, alpha, targets) in enumerate(itertools.product((1, 2), (3, 4), "ab"), 1)
    }
    table = {key: [end / 4, end / 3, end / 2, end] for key, end in ends.items()}
    return {"table": table, "RATES": (1, 2), "ALPHAS": (3, 4), "TARGETS": {"a": 0, "b": 0}, "REPORTS": 4}


def test_a_replay_gives_results_of_the_table_and_counts_its_steps():
    replay = own("replay", **grid())["replay"]
    reached, price = replay(optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner(), 6)
    assert price == 6
    assert set(np.round(reached, 3)) <= set(np.round(np.arange(1, 9) / 10, 3))
    assert list(reached) == sorted(reached)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    pruned, cheaper = replay(optuna.samplers.RandomSampler(seed=0), pruner, 6)
    assert cheaper < 6
    assert pruned[-1] == reached[-1]  # curves that never cross: pruning loses nothing
    assert math.isclose(4 * cheaper, round(4 * cheaper))


def test_the_pruners_of_the_replays_prune():
    replay = own("replay", **grid())["replay"]
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    prices = [replay(optuna.samplers.RandomSampler(seed=seed), halving)[1] for seed in range(5)]
    assert max(prices) < 12


# ---- The learner's own search -----------------------------------------------------------------------


def test_the_fourth_exercise_says_what_it_asks():
    text = lesson_text(LESSON).replace("\n# ", " ")
    asked = re.search(r"over a factor of (\d+) at least\) and `layer` with at least (\d+) trials", text)
    assert [int(each) for each in asked.groups()] == [facts.WIDEST, facts.FEWEST]
    assert f"by {facts.BAR:g}" in text


def test_what_is_no_study_or_has_no_such_settings_is_told():
    own_search = exercise("own-search")
    assert (
        "must be what `optuna.create_study` gave"
        in own_search.judge({"study": 3, "accuracy": facts._accuracy}).message
    )
    study = optuna.create_study(direction="maximize")
    assert (
        "No trial of the study is complete"
        in own_search.judge({"study": study, "accuracy": facts._accuracy}).message
    )
    study.optimize(lambda trial: trial.suggest_float("c", 0, 1), n_trials=1)
    assert (
        "The best trial has no `C`" in own_search.judge({"study": study, "accuracy": facts._accuracy}).message
    )
