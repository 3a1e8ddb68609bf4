"""Several tasks on one base: sampling, weighting, adapters that leave each other alone, and a folder that keeps them."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from peft import PeftModel

import lessonkit
from lessonkit.errors import AdapterError, DataError, LessonError, ModelError, UnknownNameError
from production import multitask, multitask_files
from production.multitask import Settings, add, fresh, read_task, train, with_words
from production.multitask_files import load_system, save_system, save_task
from production.multitask_model import MultiTask, Task, lora_config, pad
from production.multitask_training import (
    FixedWeights,
    Rows,
    Uncertainty,
    batches,
    cosines,
    draw,
    fit,
    gradient,
    predict,
    shares,
)

ONE, TWO = Task("one", labels=("a", "b")), Task("two", labels=("x", "y", "z"))
LENGTH = Task("words", "number", mean=7.0, scale=3.0, unit="words")


@pytest.fixture
def model(tiny) -> MultiTask:
    return fresh(str(tiny.folder), 12)


@pytest.fixture(scope="module")
def rows(tiny) -> Rows:
    texts = tiny.dataset["text"]
    ids = tiny.tokenizer(list(texts), truncation=True, max_length=12)["input_ids"]
    labels = torch.tensor(tiny.dataset["label"])
    words = torch.tensor([float(len(each.split())) for each in texts])
    return Rows(list(texts), ids, {"one": labels, "two": labels + 1, "words": words})


def only(rows: Rows, *names: str) -> Rows:
    return Rows(rows.texts, rows.ids, {name: rows.labels[name] for name in names})


def files(folder: Path) -> dict[str, str]:
    return {
        str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    }


def with_adapters(model: MultiTask, rows: Rows, *tasks: Task) -> MultiTask:
    for task in tasks:
        model.add_task(task, lora_config(4))
        fit(model, {task.name: only(rows, task.name)}, [task.name] * 3, learning_rate=1e-2)
    return model


# ---- Whose batch comes next ------------------------------------------------------------------------------


def test_the_temperature_goes_from_sizes_to_equal_shares() -> None:
    sizes = {"large": 900, "small": 100}
    assert shares(sizes, 1) == pytest.approx({"large": 0.9, "small": 0.1})
    assert shares(sizes, 2) == pytest.approx({"large": 0.75, "small": 0.25})
    assert shares(sizes, math.inf) == {"large": 0.5, "small": 0.5}
    assert shares(sizes, 1e-3) == pytest.approx({"large": 1.0, "small": 0.0})
    for wrong in (0, -1, math.nan):
        with pytest.raises(DataError, match="temperature"):
            shares(sizes, wrong)
    with pytest.raises(DataError, match="No texts for: small"):
        shares({"large": 3, "small": 0}, 1)


@pytest.mark.parametrize(("steps", "small"), [(40, 10), (7, 2), (1, 0)])
def test_each_task_has_its_share_of_the_steps(steps: int, small: int) -> None:
    schedule = draw({"large": 900, "small": 100}, steps, 2, seed=3)
    assert (len(schedule), schedule.count("small")) == (steps, small)
    assert schedule == draw({"large": 900, "small": 100}, steps, 2, seed=3)
    if steps > 7:
        assert schedule != sorted(schedule)
        assert schedule != draw({"large": 900, "small": 100}, steps, 2, seed=4)


def test_each_pass_sees_each_row_once_whoever_else_trains(rows: Rows) -> None:
    stream = batches(rows, 5, seed=1)
    seen = Counter(text for _, batch in zip(range(24), stream, strict=False) for text in batch.texts)
    assert sum(seen.values()) == 120
    assert set(seen) == set(rows.texts)
    assert max(seen.values()) - min(seen.values()) == 0
    first = next(batches(rows, 5, seed=1)).texts
    assert first == next(batches(rows, 5, seed=1)).texts
    assert first != next(batches(rows, 5, seed=2)).texts
    assert len(next(batches(rows.select(range(3)), 5, seed=1))) == 3


# ---- How losses are added --------------------------------------------------------------------------------


def test_a_numbers_loss_is_in_squares_of_its_unit(model: MultiTask, rows: Rows) -> None:
    model.add_task(LENGTH)
    with torch.inference_mode():
        loss = model.losses(**only(rows, "words").batch())["words"]
        guess = predict(model, rows, "words")[:, 0] * LENGTH.scale + LENGTH.mean
    assert float(loss) == pytest.approx(float(((guess - rows.labels["words"]) ** 2).mean()), rel=1e-4)


@pytest.mark.parametrize("loss", [0.2, 5.0])
def test_learned_weights_settle_where_units_fall_out(loss: float) -> None:
    weighting = Uncertainty({"one": "classes", "words": "number"})
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        weighting({"one": torch.tensor(loss), "words": torch.tensor(loss)}).backward()
        optimizer.step()
    assert weighting.weights() == pytest.approx({"one": 1 / (2 * loss), "words": 1 / (2 * loss)}, rel=0.02)


def test_learned_weights_may_start_at_their_best() -> None:
    kinds, first = {"one": "classes", "words": "number"}, {"one": 2.0, "words": 4000.0}
    weighting = Uncertainty(kinds, first)
    assert weighting.weights() == pytest.approx({"one": 1 / 4, "words": 1 / 8000})
    weighting({name: torch.tensor(each) for name, each in first.items()}).backward()
    assert [each.grad.item() for each in weighting.log_variance.values()] == pytest.approx([0, 0], abs=1e-6)


def test_fixed_weights_are_a_sum() -> None:
    losses = {"one": torch.tensor(2.0), "words": torch.tensor(300.0)}
    assert float(FixedWeights({"words": 0.01})(losses)) == pytest.approx(5.0)


def test_a_step_leaves_other_heads_alone(model: MultiTask, rows: Rows) -> None:
    model.add_task(ONE)
    model.add_task(TWO)
    before = model.heads["two"].weight.clone()
    history = fit(
        model, {"one": only(rows, "one"), "two": only(rows, "two")}, ["one"] * 3, learning_rate=1e-2
    )
    assert torch.equal(model.heads["two"].weight, before)
    assert [step for step, _ in history.losses["one"]] == [0, 1, 2]
    assert all(each.requires_grad for each in model.encoder.parameters())
    with pytest.raises(DataError, match="empty"):
        fit(model, {}, [], learning_rate=1)


def test_it_learns_two_tasks_of_one_text(model: MultiTask, rows: Rows) -> None:
    model.add_task(ONE)
    model.add_task(LENGTH)
    weighting = Uncertainty({"one": "classes", "words": "number"})
    both = {"both": only(rows, "one", "words")}
    history = fit(model, both, ["both"] * 40, learning_rate=5e-3, batch_size=12, weighting=weighting)
    for name in ("one", "words"):
        assert history.losses[name][-1][1] < 0.5 * history.losses[name][0][1]
    assert len(history.weights["words"]) == 40


# ---- Gradients -------------------------------------------------------------------------------------------


def test_gradients_of_the_shared_encoder(model: MultiTask, rows: Rows) -> None:
    model.add_task(ONE)
    model.add_task(TWO)
    here, there = gradient(model, rows, "one"), gradient(model, rows, "two")
    found = cosines([here, -2 * here, there])
    assert found.diagonal().tolist() == pytest.approx([1, 1, 1])
    assert float(found[0, 1]) == pytest.approx(-1)
    by_torch = torch.nn.functional.cosine_similarity(here, there, dim=0)
    assert float(found[0, 2]) == pytest.approx(float(by_torch), abs=1e-4)
    assert torch.allclose(found, found.T)
    assert all(each.grad is None for each in model.parameters())
    model.add_task(Task("three", labels=("a", "b")), lora_config(2))
    with pytest.raises(DataError, match="frozen"):
        gradient(model, rows, "one")


# ---- Adapters --------------------------------------------------------------------------------------------


def test_a_new_adapter_leaves_old_answers_bit_for_bit(model: MultiTask, rows: Rows) -> None:
    base = {name: each.clone() for name, each in model.encoder.state_dict().items()}
    with_adapters(model, rows, ONE)
    old = predict(model, rows, "one")
    with_adapters(model, rows, TWO)
    new = predict(model, rows, "two")
    assert torch.equal(predict(model, rows, "one"), old)
    assert torch.equal(predict(model, rows, "two"), new)
    now = model.encoder.get_base_model().state_dict()
    assert all(torch.equal(now.get(name, now.get(_inside(name))), each) for name, each in base.items())
    trained = model.trainable(["one"])
    assert {name.split(".")[-2] for name in trained if "lora" in name} == {"one"}
    assert {name for name in trained if "lora" not in name} == {"heads.one.weight", "heads.one.bias"}
    with pytest.raises(AdapterError, match="pass of its own"):
        model.losses(**only(rows, "one", "two").batch())
    with pytest.raises(AdapterError, match="already"):
        model.add_task(ONE)


def _inside(name: str) -> str:
    module, _, part = name.rpartition(".")
    return f"{module}.base_layer.{part}"


def test_a_shared_encoder_takes_an_adapter_too(model: MultiTask, rows: Rows) -> None:
    model.add_task(ONE)
    fit(model, {"one": only(rows, "one")}, ["one"] * 3, learning_rate=1e-2)
    old = predict(model, rows, "one")
    with_adapters(model, rows, TWO)
    assert model.adapted == ["two"]
    assert torch.equal(predict(model, rows, "one"), old)
    assert not torch.equal(predict(model, rows, "two"), old)


# ---- A folder --------------------------------------------------------------------------------------------


def test_what_is_saved_answers_the_same(model: MultiTask, rows: Rows, tmp_path: Path) -> None:
    model.add_task(LENGTH)  # on the bare encoder
    with_adapters(model, rows, ONE, TWO)
    folder = save_system(model, tmp_path / "system")
    loaded = load_system(folder)
    assert (loaded.tasks, loaded.length, sorted(loaded.adapted)) == (model.tasks, 12, ["one", "two"])
    for name in ("two", "words", "one", "two"):
        assert torch.equal(predict(loaded, rows, name), predict(model, rows, name))
    text = rows.texts[0]
    assert set(loaded.answer(text, "one")) == {"task", "label", "score"}
    assert loaded.answer(text, "words")["unit"] == "words"
    base = lessonkit.load_model(folder / "base", add_pooling_layer=False)
    with warnings.catch_warnings():  # PEFT asks transformers by a name that it is about to drop
        warnings.simplefilter("ignore", FutureWarning)
        peft = PeftModel.from_pretrained(base, folder / "tasks" / "two").eval()
    alone = MultiTask(peft, loaded.tokenizer, 12)
    with torch.inference_mode():
        loaded.use("two")
        ids, mask = pad(rows.ids[:4])
        assert torch.equal(alone.vectors(ids, mask), loaded.vectors(ids, mask))


def test_adding_writes_nothing_that_was_there(model: MultiTask, rows: Rows, tmp_path: Path) -> None:
    folder = save_system(with_adapters(model, rows, ONE), tmp_path / "system")
    before = files(folder)
    later = with_adapters(load_system(folder), rows, TWO)
    save_task(later, "two", folder)
    after = files(folder)
    assert {name: after[name] for name in before} == before
    assert sorted(load_system(folder).tasks) == ["one", "two"]
    with pytest.raises(DataError, match="there already"):
        save_task(later, "two", folder)
    with pytest.raises(DataError, match="not empty"):
        save_system(later, folder)


def test_what_is_half_written_is_not_there(model: MultiTask, rows: Rows, tmp_path: Path, monkeypatch) -> None:
    folder = save_system(with_adapters(model, rows, ONE), tmp_path / "system")
    with_adapters(model, rows, TWO)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(multitask_files, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_task(model, "two", folder)
    with pytest.raises(OSError, match="No space"):
        save_system(model, tmp_path / "other")
    assert list(load_system(folder).tasks) == ["one"]
    assert not (tmp_path / "other").exists()


def test_an_adapter_on_another_base_is_refused(model: MultiTask, rows: Rows, tmp_path: Path) -> None:
    folder = save_system(with_adapters(model, rows, ONE), tmp_path / "system")
    encoder = lessonkit.load_model(folder / "base", add_pooling_layer=False)
    with torch.no_grad():
        encoder.encoder.layer[0].attention.self.query.weight[0, 0] += 1
    encoder.save_pretrained(folder / "base")
    with pytest.raises(ModelError, match="trained on another base"):
        load_system(folder)
    with pytest.raises(ModelError, match="no system"):
        load_system(tmp_path / "nowhere")


def test_what_is_asked_wrongly_is_told(model: MultiTask) -> None:
    model.add_task(ONE)
    with pytest.raises(UnknownNameError, match="Did you mean 'one'"):
        model.answer("word1", "on")
    for nothing in ("", "  ", None):
        with pytest.raises(DataError, match="no text"):
            model.answer(nothing, "one")
    for name in ("base", "a.b", "A", ""):
        with pytest.raises(DataError, match="can't be called"):
            Task(name, labels=("a", "b"))
    with pytest.raises(DataError, match="labels"):
        Task("few", labels=("a",))
    with pytest.raises(DataError, match="scale"):
        Task("flat", "number", scale=0.0)


# ---- The commands ----------------------------------------------------------------------------------------


@pytest.fixture
def small(tiny, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for the tiny model; every dataset is the tiny one."""
    features = Features(text=Value("string"), label=ClassLabel(names=["comp.x", "rec.y"]))
    rows = Dataset.from_dict(tiny.dataset.to_dict(), features=features)
    monkeypatch.setattr(lessonkit, "load_dataset", lambda name: DatasetDict(train=rows, test=rows))
    return Settings(model=str(tiny.folder), train_texts=20, test_texts=10, length=8, steps=2)


def test_data_of_a_task(tiny, small: Settings) -> None:
    data = read_task("family", tiny.tokenizer, 20, 10, 8)
    assert data.task.labels == ("comp", "rec")
    assert (len(data.train), len(data.test)) == (20, 10)
    assert max(map(len, data.train.ids)) <= 8
    both, words = with_words(data, most=9)
    counted = [len(each.split()) for each in both.train.texts]
    assert both.train.labels["words"].tolist() == [min(each, 9) for each in counted]
    assert max(counted) > 9
    assert words.mean == pytest.approx(float(both.train.labels["words"].mean()))
    with pytest.raises(UnknownNameError):
        read_task("topics", tiny.tokenizer, 1, 1, 8)


@pytest.mark.parametrize("route", ["adapters", "shared"])
def test_train_add_and_ask(route: str, small: Settings, tmp_path: Path, capsys) -> None:
    settings = Settings(**vars(small) | {"route": route})
    folder = tmp_path / "system"
    found = train(settings, folder)
    assert list(found) == ["topic", "section"]
    before = files(folder)
    added = add("family", settings, folder)
    assert 0 <= added["accuracy"] <= 1 < added["bytes"]
    after = files(folder)
    assert {name: after[name] for name in before} == before
    with pytest.raises(DataError, match="holds a system"):
        train(settings, folder)
    multitask.main("list", [], "", str(folder))
    assert capsys.readouterr().out.count("own") == (3 if route == "adapters" else 1)
    multitask.main("ask", ["family", "word1 word2"], "", str(folder))
    assert "'task': 'family'" in capsys.readouterr().out


def test_commands_are_checked(small: Settings, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="train"):
        multitask.main("tain")
    with pytest.raises(LessonError, match="takes 2 words"):
        multitask.main("ask", ["topic"])
    with pytest.raises(UnknownNameError):
        add("topics", small, tmp_path)
    with pytest.raises(UnknownNameError):
        train(Settings(tasks=("topics",)), tmp_path / "new")
    with pytest.raises(ValueError, match="temperature must be above 0; tasks names no task"):
        Settings(temperature=0, tasks=())
