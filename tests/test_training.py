"""A measured run trains exactly what `trainer.train()` trains, and counts what it cost."""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessonkit import training
from lessonkit.errors import TrainingError
from lessonkit.training import Run, measure, run

EPOCHS = 2
BATCH = 5  # 24 rows: the last batch is smaller, and batches are padded


@pytest.fixture
def make_trainer(tiny, tmp_path: Path):
    """A function that makes a fresh Trainer, of the same weights and data each time."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    def make(**changes) -> Trainer:
        options = {"num_train_epochs": EPOCHS, "learning_rate": 1e-3, "seed": 3} | changes.pop(
            "arguments", {}
        )
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"),
            per_device_train_batch_size=BATCH,
            logging_steps=2,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
            **options,
        )
        parts = {
            "model": tiny.model(),
            "train_dataset": tiny.tokenized(),
            "data_collator": DataCollatorWithPadding(tiny.tokenizer),
        }
        return Trainer(args=arguments, **(parts | changes))

    return make


def tokens_of(dataset) -> int:
    return sum(sum(mask) for mask in dataset["attention_mask"])


def test_run_counts_steps_tokens_seconds_and_memory(make_trainer, tiny):
    trainer = make_trainer()
    measured = run(trainer)
    assert measured.steps == trainer.state.global_step == EPOCHS * math.ceil(24 / BATCH)
    assert measured.tokens == EPOCHS * tokens_of(tiny.tokenized())
    assert measured.seconds > 0
    assert measured.peak_bytes > 2**20
    assert "memory" in measured.peak_kind
    assert measured.tokens_per_second == pytest.approx(measured.tokens / measured.seconds)
    assert measured.loss == pytest.approx(trainer.state.log_history[-1]["train_loss"])
    assert measured.history == trainer.state.log_history


def test_run_trains_what_train_trains(make_trainer):
    import torch

    measured = make_trainer()
    run(measured)
    plain = make_trainer()  # made only now: the Trainer sets its seed when it is made
    before = {name: weight.clone() for name, weight in plain.model.state_dict().items()}
    plain.train()
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(measured.model.state_dict()[name], weight, rtol=0, atol=0)
    assert any(not torch.equal(weight, before[name]) for name, weight in plain.model.state_dict().items())
    losses = [
        [entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (measured, plain)
    ]
    assert losses[0] == losses[1]


def test_tiny_model_really_learns(make_trainer):
    measured = run(make_trainer(arguments={"num_train_epochs": 15, "learning_rate": 5e-3}))
    losses = [entry["loss"] for entry in measured.history if "loss" in entry]
    assert losses[-1] < losses[0] / 2


def test_evaluation_on_the_way_is_not_counted(make_trainer, tiny):
    measured = run(make_trainer(eval_dataset=tiny.tokenized(), arguments={"eval_strategy": "epoch"}))
    assert measured.tokens == EPOCHS * tokens_of(tiny.tokenized())
    assert sum("eval_loss" in entry for entry in measured.history) == EPOCHS


def test_accumulated_batches_are_counted_once(make_trainer, tiny):
    measured = run(
        make_trainer(arguments={"gradient_accumulation_steps": 2, "activation_checkpointing": True})
    )
    assert measured.tokens == EPOCHS * tokens_of(tiny.tokenized())
    assert measured.steps == EPOCHS * math.ceil(math.ceil(24 / BATCH) / 2)


def test_without_a_mask_every_token_counts(make_trainer, tiny):
    rows = tiny.tokenized().select(range(4))
    length = min(map(len, rows["input_ids"]))
    rows = rows.map(lambda row: {"input_ids": row["input_ids"][:length]}, remove_columns=["attention_mask"])
    from transformers import default_data_collator

    measured = run(make_trainer(train_dataset=rows, data_collator=default_data_collator))
    assert measured.tokens == EPOCHS * 4 * length


def test_callbacks_and_hooks_are_as_before(make_trainer):
    from transformers import TrainerCallback

    class Mine(TrainerCallback):
        ended = 0

        def on_train_end(self, args, state, control, **kwargs) -> None:
            self.ended += 1

    trainer, mine = make_trainer(), Mine()
    trainer.add_callback(mine)
    before = sorted(map(id, trainer.callback_handler.callbacks))
    run(trainer)
    assert sorted(map(id, trainer.callback_handler.callbacks)) == before
    assert mine.ended == 1
    assert not trainer.model._forward_pre_hooks


def test_a_failing_run_raises_its_own_error_and_restores(make_trainer):
    from transformers import TrainerCallback

    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            raise RuntimeError("out of memory, say")

    trainer, threads = make_trainer(), threading.active_count()
    trainer.add_callback(Fails())
    before = sorted(map(id, trainer.callback_handler.callbacks))
    with pytest.raises(RuntimeError, match="out of memory, say"):
        run(trainer)
    assert sorted(map(id, trainer.callback_handler.callbacks)) == before
    assert not trainer.model._forward_pre_hooks
    assert threading.active_count() == threads


def test_progress_is_a_few_lines_and_the_last_is_the_result(make_trainer, capfd):
    measured = run(make_trainer())
    shown = capfd.readouterr()
    assert shown.out == ""  # the Trainer's own table of losses is not printed beside it
    lines = shown.err.splitlines()
    assert lines[0] == "step 0 of 10"
    assert lines[-1] == str(measured)
    assert len(lines) <= 12
    assert any(", loss " in line for line in lines)


def test_frozen_model_is_told_before_training(make_trainer):
    trainer = make_trainer()
    trainer.model.requires_grad_(False)
    with pytest.raises(TrainingError, match="frozen") as caught:
        run(trainer)
    assert "requires_grad" in caught.value.fix
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("rows", [None, 0])
def test_missing_data_is_told_before_training(make_trainer, tiny, rows):
    dataset = None if rows is None else tiny.tokenized().select(range(rows))
    with pytest.raises(TrainingError, match="no training data") as caught:
        run(make_trainer(train_dataset=dataset))
    assert "train_dataset" in caught.value.fix


def test_data_of_unknown_length_may_be_trained_on(make_trainer, tiny):
    stream = tiny.tokenized().to_iterable_dataset()
    measured = run(make_trainer(train_dataset=stream, arguments={"max_steps": 3}))
    assert measured.steps == 3


def test_measure_takes_time_and_memory():
    with measure() as measured:
        time.sleep(0.02)
    assert 0.02 <= measured.seconds < 5
    assert measured.peak_bytes > 2**20


def test_measure_sees_memory_that_is_given_back():
    with measure() as before:
        pass
    with measure() as measured:
        held = bytearray(200 * 2**20)
        held[::4096] = b"x" * len(held[::4096])  # touched, so that it is really there
        time.sleep(3 * training.SAMPLE_SECONDS)
        del held
    assert measured.peak_bytes - before.peak_bytes > 100 * 2**20


def test_measure_ends_its_thread_and_is_final_after_an_error():
    threads = threading.active_count()
    seen = []

    def fail() -> None:
        with measure() as measured:
            seen.append(measured)
            time.sleep(0.01)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert seen[0].seconds >= 0.01
    assert seen[0].peak_bytes > 0
    assert threading.active_count() == threads


def test_measured_runs_are_noted_in_the_lesson_under_way(monkeypatch):
    from lessonkit import lesson
    from lessonkit.hardware import detect_hardware
    from lessonkit.progress.journal import Journal

    under_way = lesson.Lesson("any", "Any", detect_hardware(), Journal())
    monkeypatch.setattr(lesson, "_current", under_way)
    with measure() as first:
        pass
    with pytest.raises(ValueError, match="mine"), measure():
        raise ValueError("mine")
    assert under_way.runs == [first]  # what failed is no result


def test_run_keeps_the_loss_of_each_step(make_trainer):
    measured = run(make_trainer(arguments={"max_steps": 7}))
    assert [step for step, _ in measured.losses] == list(range(1, 8))
    assert sum(loss for _, loss in measured.losses) / 7 == pytest.approx(measured.loss, rel=1e-4)


@pytest.mark.parametrize("steps", [0, 1, 59, 60, 61, 1000])
def test_a_kept_curve_is_small_and_ends_where_the_training_did(steps: int):
    measured = Run(losses=[(step, float(step)) for step in range(1, steps + 1)])
    curve = measured.curve()
    assert len(curve) <= 60
    assert steps < 60 or len(curve) > 20
    assert [step for step, _ in curve][-1:] == ([steps] if steps else [])
    assert all(first[0] < second[0] for first, second in itertools.pairwise(curve))
    size = -(-steps // 60)
    assert all(step - size < loss <= step for step, loss in curve)


def test_run_is_plain_data_and_one_line():
    measured = Run(
        seconds=2.0, steps=1200, tokens=5000, peak_bytes=3 * 2**30, peak_kind="all", history=[{"a": 1}]
    )
    plain = json.loads(json.dumps(measured.to_dict()))
    assert plain["tokens_per_second"] == 2500
    assert "history" not in plain
    assert str(measured) == "1,200 steps, 2.0 s, 2,500 tokens/s, peak 3.0 GiB (all)"
    assert str(Run(seconds=1.0, peak_kind="all")) == "1.0 s, peak 0 bytes (all)"
    assert Run().tokens_per_second == 0


@pytest.mark.gpu
def test_on_a_gpu_the_peak_is_the_gpus(make_trainer, tiny):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    measured = run(make_trainer(arguments={"use_cpu": False}))
    assert measured.peak_kind == "GPU memory allocated"
    assert 0 < measured.peak_bytes <= torch.cuda.max_memory_allocated()
    assert measured.tokens == EPOCHS * tokens_of(tiny.tokenized())


@given(st.lists(st.floats(-1e6, 1e6), max_size=400), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_loss_curves_are_small_and_inside_their_frame(losses: list[float], steps: int):
    from xml.etree import ElementTree

    from lessonkit.live import HEIGHT, WIDTH, loss_curve

    svg = loss_curve(list(enumerate(losses, 1)), steps)
    if len(losses) < 2:
        assert svg == ""
        return
    points = ElementTree.fromstring(svg).find("polyline").get("points").split()
    assert 2 <= len(points) <= 120
    for point in points:
        across, down = map(float, point.split(","))
        assert 0 <= across <= WIDTH
        assert 0 <= down <= HEIGHT


def test_a_falling_loss_falls_in_its_curve():
    import re

    from lessonkit.live import loss_curve

    svg = loss_curve([(1, 3.0), (2, 2.0), (3, 1.0)])
    points = [
        tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', svg).group(1).split()
    ]
    assert [across for across, _ in points] == sorted(across for across, _ in points)
    assert [down for _, down in points] == sorted(down for _, down in points)  # SVG counts downwards


class TestLiveLine:
    @pytest.fixture
    def notebook(self, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
        """What a Jupyter front end would be asked to show."""
        from lessonkit import live

        shown: list[dict] = []

        class Handle:
            def update(self, content: dict, raw: bool) -> None:
                shown.append(content)

        def display(content: dict, raw: bool, display_id: bool) -> Handle:
            shown.append(content)
            return Handle()

        monkeypatch.setattr(live, "in_notebook", lambda: True)
        monkeypatch.setattr("IPython.display.display", display)
        return shown

    def test_pytest_is_no_notebook(self):
        from lessonkit.live import in_notebook

        assert not in_notebook()

    def test_notebook_shows_a_bar_and_then_only_the_result(self, notebook: list[dict]):
        from lessonkit.live import LiveLine

        line = LiveLine()
        line.update(0.25, "a <b> c", force=True)
        line.update(0.26, "too soon")
        line.close("done")
        assert [content["text/plain"] for content in notebook] == ["a <b> c", "done"]
        assert 'value="0.2500"' in notebook[0]["text/html"]
        assert "a &lt;b&gt; c" in notebook[0]["text/html"]
        assert "<progress" not in notebook[1]["text/html"]

    def test_notes_stay_and_the_curve_is_redrawn_in_place(self, notebook: list[dict]):
        from lessonkit.live import LiveLine

        line = LiveLine()
        line.note("first, a <note>")
        losses = [(step, 2.0 / step) for step in range(1, 11)]
        line.update(0.5, "half", force=True, losses=losses[:5], steps=10)
        line.note("another")
        line.close("done", losses=losses, steps=10)
        assert [content["text/html"].count("<svg") for content in notebook] == [0, 1, 1, 1]
        assert notebook[-1]["text/plain"] == "first, a <note>\nanother\ndone"
        assert "first, a &lt;note&gt;" in notebook[-1]["text/html"]
        assert "loss 2.000" in notebook[-1]["text/html"]
        assert "step 10" in notebook[1]["text/html"]  # the right end is the whole training's from the start

    def test_a_run_leaves_one_output_with_its_curve(self, notebook: list[dict], make_trainer):
        measured = run(make_trainer())
        assert notebook[-1]["text/plain"] == str(measured)
        assert notebook[-1]["text/html"].count("<svg") == 1
        assert len(notebook[-1]["text/html"]) < 10_000

    def test_a_run_that_fails_closes_its_line(self, notebook: list[dict], make_trainer):
        trainer = make_trainer()
        trainer.model.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(trainer)
        assert notebook[-1]["text/plain"] == "Stopped after step 0 of 10: division by zero"
        assert "<progress" not in notebook[-1]["text/html"]

    def test_a_log_file_gets_a_line_for_each_tenth(self, capsys: pytest.CaptureFixture[str]):
        from lessonkit.live import LiveLine

        line = LiveLine()
        for number in range(1001):
            line.update(number / 1000, f"{number}")
        line.close("done")
        shown = capsys.readouterr().err.splitlines()
        assert shown[0] == "0"
        assert shown[-1] == "done"
        assert 10 <= len(shown) <= 13

    def test_a_terminal_keeps_one_line(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        import sys

        from lessonkit.live import LiveLine

        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        line = LiveLine()
        line.update(0, "a longer line", force=True)
        line.close("end")
        shown = capsys.readouterr().err
        assert shown.count("\r") == 1
        assert shown.endswith("\n")
        assert shown.split("\r")[1].startswith("end   ")  # blanks cover what was there


@pytest.mark.parametrize("damaged", [False, True])
def test_the_best_checkpoint_of_a_model_with_tied_weights_is_loaded_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, damaged: bool
):
    """transformers warns of the tied weights' second name, which no checkpoint holds; of others, it shall."""
    import logging

    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=30, tie_word_embeddings=True, **sizes))
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3, 4]] * 4, "labels": [[1, 2, 3, 4]] * 4})
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_only_model=True,
        load_best_model_at_end=True,
        prediction_loss_only=True,
        report_to="none",
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    if damaged:
        saved = LlamaForCausalLM.state_dict
        without = lambda self, *args, **kwargs: {  # noqa: E731
            name: each for name, each in saved(self, *args, **kwargs).items() if "norm" not in name
        }
        monkeypatch.setattr(LlamaForCausalLM, "state_dict", without)
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        run(trainer)
    assert any("missing keys" in each.message for each in caplog.records) == damaged
    assert model.lm_head.weight is model.model.embed_tokens.weight
