"""The evaluation pipeline: any saved classifier, three files, slices, and a gate that may say "can't tell"."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lessonkit
from lessonkit.cli import app
from lessonkit.errors import DataError, LessonkitError, ModelError
from lessonkit.scoring import (
    Prediction,
    calibration,
    error_browser,
    evaluate,
    evaluate_function,
    gate,
    load_scored_model,
    metrics,
    predict,
    read_config,
    read_evaluation,
)
from lessonkit.scoring.measuring import slices
from lessonkit.scoring.running import Evaluation

NAMES = ["cooking", "movies", "sport"]
TEXTS = [f"{word} number {number}" for number in range(20) for word in ("soup", "film", "ball")]
LABELS = NAMES * 20


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier that tells soup, film and ball apart: its embeddings are set by hand."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = lessonkit.load_tokenizer("minilm")
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=32,
        id2label=dict(enumerate(NAMES)),
        label2id={name: number for number, name in enumerate(NAMES)},
    )
    model = BertForSequenceClassification(config)
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(60):
        optimizer.zero_grad()
        model(**encoded, labels=torch.tensor([NAMES.index(each) for each in LABELS])).loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    rows = [
        f'"{text}",{label},{"left" if number % 2 else "right"}'
        for number, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]
    path.write_text("text,label,side\n" + "\n".join(rows) + "\n")
    return path


def made(right: list[bool], label: str = "a", other: str = "b", digest: str = "same") -> Evaluation:
    """An evaluation of one label's texts, right where it says so."""
    found = [
        Prediction(
            number, f"text {number}", label, label if each else other, 0.9, 0.9 if each else 0.1, 0.1, 5
        )
        for number, each in enumerate(right)
    ]
    return Evaluation(Path("nowhere"), metrics(found, ["a", "b"]) | {"data_sha256": digest}, found)


# ---- What to evaluate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
def test_a_configuration_is_read_and_options_go_before_it(tmp_path: Path, suffix: str):
    (tmp_path / "model").mkdir()
    sign = " = " if suffix == ".toml" else ": "
    lines = {
        "model": '"model"',
        "data": '"reuters-r8"',
        "batch_size": "4",
        "slices": '["side"]',
        "output": '"out"',
    }
    path = tmp_path / f"evaluation{suffix}"
    path.write_text("\n".join(f"{name}{sign}{value}" for name, value in lines.items()))
    found = read_config(path, batch_size=8, text=None)
    assert (found.model, found.data, found.output) == (
        str(tmp_path / "model"),
        "reuters-r8",
        str(tmp_path / "out"),
    )
    assert (found.batch_size, found.slices, found.split) == (8, ("side",), "test")
    assert read_config(**found.to_dict()) == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs model and data"),
        ({"model": "m"}, "needs data"),
        ({"model": "m", "data": "d", "batchsize": 3, "tetx": "x"}, "did you mean 'batch_size'"),
        ({"model": "m", "data": "d", "batch_size": 0, "limit": -1}, "batch_size is 0.*limit is -1"),
        ({"model": "m", "data": "d", "batch_size": True}, "batch_size is True"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_told_at_once(options: dict, said: str):
    with pytest.raises(DataError, match=said):
        read_config(**options)


@pytest.mark.parametrize("text", ["model = ", "- a\n- b", "just words", ""])
def test_a_broken_configuration_is_told(tmp_path: Path, text: str):
    for suffix in (".toml", ".yaml"):
        (tmp_path / f"c{suffix}").write_text(text)
        with pytest.raises(DataError):
            read_config(tmp_path / f"c{suffix}")
    with pytest.raises(DataError, match="cannot be read"):
        read_config(tmp_path / "missing.toml")


# ---- Models ---------------------------------------------------------------------------------------------


def test_the_same_text_gets_the_same_probabilities_in_any_batch(saved: Path):
    scored = load_scored_model(saved)
    assert scored.names == NAMES
    alone, tokens, _ = predict(scored, TEXTS, batch_size=1)
    together, again, _ = predict(scored, TEXTS, batch_size=64)
    assert tokens == again
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.sum(-1), torch.ones(len(TEXTS)))
    backwards, _, _ = predict(scored, TEXTS[::-1], batch_size=7)
    torch.testing.assert_close(backwards.flip(0), alone, atol=1e-5, rtol=1e-4)


def test_a_text_longer_than_the_model_is_cut_not_refused(saved: Path):
    _, tokens, _ = predict(load_scored_model(saved), ["word " * 500])
    assert tokens == [32]
    _, tokens, _ = predict(load_scored_model(saved), ["word " * 500], max_length=10)
    assert tokens == [10]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_is_scored_as_it_was_trained(saved: Path, tmp_path: Path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    base = lessonkit.load_model(saved, AutoModelForSequenceClassification)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    model = get_peft_model(base, config)
    torch.nn.init.normal_(model.classifier.modules_to_save["default"].weight)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "label_names.json").write_text(json.dumps(NAMES))
    scored = load_scored_model(tmp_path / "adapter", base=str(saved))
    assert scored.names == NAMES
    tokenizer = lessonkit.load_tokenizer(saved)
    with torch.inference_mode():
        wanted = model.eval()(**tokenizer(TEXTS[:4], padding=True, return_tensors="pt")).logits.softmax(-1)
    torch.testing.assert_close(predict(scored, TEXTS[:4])[0], wanted, atol=1e-5, rtol=1e-4)


def broken_models(saved: Path, tmp_path: Path) -> dict[str, tuple[Path, str]]:
    import shutil

    for name in ("no config", "damaged", "headless", "cut", "bad adapter"):
        shutil.copytree(saved, tmp_path / name)
    (tmp_path / "no config" / "config.json").unlink()
    (tmp_path / "damaged" / "config.json").write_text("{")
    config = json.loads((saved / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (tmp_path / "headless" / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "bad adapter" / "adapter_config.json").write_text("{}")
    return {
        "no config": (tmp_path / "no config", "holds no model"),
        "damaged": (tmp_path / "damaged", "holds no model"),
        "headless": (tmp_path / "headless", "random numbers"),
        "cut": (tmp_path / "cut", "could not be loaded"),
        "bad adapter": (tmp_path / "bad adapter", "adapter"),
    }


def test_what_is_no_saved_classifier_is_refused_with_the_reason(saved: Path, tmp_path: Path):
    for folder, said in broken_models(saved, tmp_path).values():
        with pytest.raises(ModelError, match=said):
            load_scored_model(folder)
    with pytest.raises(LessonkitError, match="no model called"):
        load_scored_model(tmp_path / "missing")


# ---- Metrics --------------------------------------------------------------------------------------------


def test_metrics_are_scikit_learns():
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

    draw = np.random.default_rng(0)
    names = ["a", "b", "c"]
    probabilities = draw.dirichlet([1, 1, 1], 200)
    true = draw.integers(0, 3, 200)
    found = [
        Prediction(
            n, "", names[t], names[int(p.argmax())], float(p.max()), float(p[t]), float(-np.log(p[t])), 3
        )
        for n, (t, p) in enumerate(zip(true, probabilities, strict=True))
    ]
    scored, predicted = metrics(found, names), probabilities.argmax(-1)
    assert scored["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert scored["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert scored["micro_f1"] == pytest.approx(f1_score(true, predicted, average="micro"))
    assert scored["mean_loss"] == pytest.approx(log_loss(true, probabilities))
    assert scored["confusion"] == confusion_matrix(true, predicted).tolist()
    assert scored["n"] == sum(each["n"] for each in scored["classes"].values()) == 200
    json.dumps(scored)


def test_calibration_is_zero_where_confidence_is_accuracy_and_their_distance_elsewhere():
    sure = [Prediction(n, "", "a", "a" if n % 10 < 8 else "b", 0.8, 0.5, 0.5, 3) for n in range(100)]
    assert calibration(sure)["error"] == pytest.approx(0)
    too_sure = [Prediction(n, "", "a", "a" if n % 10 < 5 else "b", 0.95, 0.5, 0.5, 3) for n in range(100)]
    assert calibration(too_sure)["error"] == pytest.approx(0.45)
    assert calibration([Prediction(0, "", "a", "a", 1.0, 1.0, 0.0, 3)])["bins"][0]["from"] == 0.9


def test_a_weak_slice_is_found_and_a_small_one_is_not_sure():
    found = [
        Prediction(
            n,
            "",
            "a",
            "b" if (n % 2 and n % 3) else "a",
            0.9,
            0.5,
            0.5,
            n,
            {"side": "left" if n % 2 else "right"},
        )
        for n in range(120)
    ] + [Prediction(999, "", "a", "b", 0.9, 0.5, 0.5, 5, {"side": "rare"})]
    by = {(each["slice"], each["value"]): each for each in slices(found, ["side"])}
    assert by["side", "left"]["sure"]
    assert not by["side", "rare"]["sure"]
    assert by["side", "left"]["accuracy"] == pytest.approx(20 / 60)
    assert sum(each["n"] for key, each in by.items() if key[0] == "length") == 121
    assert [each["accuracy"] for each in slices(found)] == sorted(each["accuracy"] for each in slices(found))


# ---- The whole ------------------------------------------------------------------------------------------


def test_an_evaluation_writes_three_files_that_agree(saved: Path, data: Path, tmp_path: Path):
    config = read_config(model=str(saved), data=str(data), output=str(tmp_path / "out"), slices="side")
    found = evaluate(config)
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "metrics.json",
        "predictions.jsonl",
        "report.html",
    ]
    assert found.metrics["accuracy"] > 0.9 > found.metrics["majority_accuracy"]
    again = read_evaluation(tmp_path / "out")
    assert again.predictions == found.predictions
    assert again.metrics == json.loads(json.dumps(found.metrics))
    assert [each.text for each in found.predictions] == TEXTS
    assert {each["slice"] for each in found.metrics["slices"]} == {"label", "length", "side"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{found.metrics['accuracy']:.3f}" in page
    assert not re.search(r"(src|href)=.?https?:", page)
    assert "accuracy" in str(found)


def test_what_a_text_holds_is_shown_and_never_run(saved: Path, tmp_path: Path):
    evil = '<script>alert("x")</script> film {{ 7 * 7 }} </pre><img src=x onerror=alert(1)>'
    rows = [
        {"text": evil, "label": "cooking"},
        *({"text": t, "label": n} for t, n in zip(TEXTS, LABELS, strict=True)),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluate(read_config(model=str(saved), data=str(tmp_path / "a.jsonl"), output=str(tmp_path / "out")))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    shown = "&lt;script&gt;alert" in page
    assert shown == ("{{ 7 * 7 }}" in page)  # if it was an error, it stands there as it is


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows, '"one more",chess,left'], "does not know the label 'chess'"),
        (lambda rows: [row.split(",")[0] for row in rows], "no labelled texts"),
        (lambda rows: [], "no labelled texts"),
    ],
)
def test_data_that_does_not_fit_is_told_and_nothing_is_written(
    saved: Path, data: Path, tmp_path: Path, change, said
):
    head, *rows = data.read_text().splitlines()
    data.write_text("\n".join([head, *change(rows)]))
    with pytest.raises(DataError, match=said):
        evaluate(read_config(model=str(saved), data=str(data), output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_labels_are_matched_whatever_their_spelling_and_empty_rows_left_out(
    saved: Path, data: Path, tmp_path: Path
):
    text = data.read_text().replace(",cooking,", ", COOKING ,").replace('"soup number 3"', '""')
    data.write_text(text)
    found = evaluate(read_config(model=str(saved), data=str(data), output=str(tmp_path / "out")))
    assert found.metrics["n"] == len(TEXTS) - 1
    assert "1 rows without a text or a label" in found.metrics["notes"][0]


def test_an_evaluation_that_is_not_whole_is_told(saved: Path, data: Path, tmp_path: Path):
    out = tmp_path / "out"
    evaluate(read_config(model=str(saved), data=str(data), output=str(out)))
    whole = (out / "predictions.jsonl").read_text()
    for text in (whole[: len(whole) // 2], "\n".join(whole.splitlines()[:5]) + "\n", ""):
        (out / "predictions.jsonl").write_text(text)
        with pytest.raises(DataError):
            read_evaluation(out)
    with pytest.raises(DataError, match="no whole evaluation"):
        read_evaluation(tmp_path / "missing")


# ---- The gate -------------------------------------------------------------------------------------------


def test_the_gate_says_better_worse_or_cannot_tell():
    good, bad = [n % 10 > 0 for n in range(300)], [n % 10 > 3 for n in range(300)]
    assert gate(made(good), made(bad)).passed
    assert gate(made(good), made(bad)).verdict == "better"
    lost = gate(made(bad), made(good))
    assert (lost.verdict, lost.passed) == ("worse", False)
    assert lost.slices
    same = gate(made(good), made(good))
    assert (same.verdict, same.passed) == ("can't tell", False)
    assert gate(made(good), made(good), allow_equal=True, margin=0.01).passed
    few = gate(made([True] * 8 + [False] * 2), made([True] * 7 + [False] * 3), allow_equal=True, margin=0.01)
    assert few.verdict == "can't tell"
    assert "PASSED" in str(few)
    json.dumps(same.to_dict())


def test_a_candidate_that_loses_a_label_does_not_pass_though_better_in_all():
    names = ["a", "b"]

    def both(a: list[bool], b: list[bool]) -> Evaluation:
        found = [*made(a).predictions, *made(b, "b", "a").predictions]
        return Evaluation(Path("x"), metrics(found, names) | {"data_sha256": "same"}, found)

    champion = both([n % 2 == 0 for n in range(400)], [True] * 60)
    candidate = both([True] * 400, [n % 3 > 0 for n in range(60)])
    found = gate(candidate, champion)
    assert found.verdict == "better"
    assert not found.passed
    assert found.slices[0].startswith("b (-0.3")


def test_two_evaluations_of_other_texts_are_not_compared():
    with pytest.raises(DataError, match="not of the same texts"):
        gate(made([True]), made([True], digest="another"))
    with pytest.raises(DataError, match="margin"):
        gate(made([True, False]), made([True, False]), margin=2)


# ---- The command line -----------------------------------------------------------------------------------


def test_the_commands_evaluate_and_gate(saved: Path, data: Path, tmp_path: Path):
    run = CliRunner().invoke
    for name in ("one", "two"):
        options = ["--model", str(saved), "--data", str(data), "--output", str(tmp_path / name)]
        told = run(app, ["evaluate", *options])
        assert told.exit_code == 0, told.output
        assert "accuracy" in told.output
    held = run(app, ["gate", str(tmp_path / "one"), str(tmp_path / "two")])
    assert (held.exit_code, "NOT PASSED" in held.output) == (1, True)
    passed = run(app, ["gate", str(tmp_path / "one"), str(tmp_path / "two"), "--allow-equal", "--json"])
    assert passed.exit_code == 0
    assert json.loads(passed.stdout)["verdict"] == "can't tell"
    assert json.loads(run(app, ["evaluate", *options, "--json"]).stdout)["n"] == len(TEXTS)


def test_the_command_checks_a_file(data: Path, tmp_path: Path):
    run = CliRunner().invoke
    assert run(app, ["check", str(data)]).exit_code == 0
    assert json.loads(run(app, ["check", str(data), "--json"]).stdout)["rows"] == len(TEXTS)
    missing = run(app, ["check", str(tmp_path / "missing.csv")])
    assert missing.exit_code == 1
    assert "There is no missing.csv" in missing.output


def test_a_label_is_not_lost_by_a_handful_of_texts():
    """Two texts of two lost: the bootstrap alone would be sure."""
    names = ["a", "b"]

    def with_few(a: list[bool], b: list[bool]) -> Evaluation:
        found = [*made(a).predictions, *made(b, "b", "a").predictions]
        return Evaluation(Path("x"), metrics(found, names) | {"data_sha256": "same"}, found)

    champion = with_few([n % 2 == 0 for n in range(400)], [True] * 5)
    assert gate(with_few([True] * 400, [False] * 5), champion).slices == []
    champion = with_few([n % 2 == 0 for n in range(400)], [True] * 6)
    assert gate(with_few([True] * 400, [False] * 6), champion).slices == ["b (-1.000, n = 6)"]


# ---- The browser of errors ------------------------------------------------------------------------------


def test_errors_are_parted_by_what_the_champion_said_and_the_surest_come_first():
    one, other = made([True, True, False, False, False]), made([True, False, True, False, False])
    one.predictions[4].confidence = 0.99
    alone, both = error_browser(one), error_browser(one, other)
    assert [each.line for each, _ in alone.rows()] == [one.predictions[n].line for n in (4, 2, 3)]
    lines = {kind: {each.line for each, _ in both.rows(kind)} for kind in both.kinds}
    first = one.predictions[0].line
    wanted = {"new errors": {2}, "mended": {1}, "wrong in both": {3, 4}, "all errors": {2, 3, 4}}
    assert lines == {kind: {first + n for n in places} for kind, places in wanted.items()}
    assert both.kind == "new errors"
    assert error_browser(one, other, show="mended").rows()[0][0].right
    assert not alone.rows(true="b")
    assert len(alone.rows(true="a", predicted="b")) == 3


def test_the_browser_shows_what_a_text_holds_and_never_runs_it():
    one = made([False] * 12)
    for each in one.predictions:
        each.text = "<script>alert(1)</script>"
    shown = error_browser(one, most=3)
    assert "<script>" not in shown.html()
    assert shown.html().count("&lt;script&gt;") == 3
    assert "12, of which the 3 most confident" in shown.html()
    assert len(repr(shown).splitlines()) == 4


def test_the_browsers_controls_choose():
    one = made([False] * 4)
    one.predictions[2].text = "Needle"
    browser = error_browser(one)
    assert browser._repr_mimebundle_() == {"text/plain": repr(browser)}  # no notebook here
    widget = browser.widget
    table = widget.children[1]
    assert "all errors: 4" in table.value
    browser.controls["words"].value = "needle"
    assert "all errors: 1" in table.value
    browser.controls["true"].value = "b"
    assert "all errors: 0" in table.value


def test_the_browser_refuses_what_it_cannot_show():
    with pytest.raises(DataError, match="not of the same texts"):
        error_browser(made([True]), made([True], digest="another"))
    with pytest.raises(LessonkitError, match="no choice called"):
        error_browser(made([True]), show="mended")
    with pytest.raises(DataError, match="most is 0"):
        error_browser(made([True]), most=0)


# ---- Anything that gives probabilities ------------------------------------------------------------------


def test_any_function_is_scored_like_a_model_and_the_gate_compares_it(
    saved: Path, data: Path, tmp_path: Path
):
    options = {"data": str(data), "slices": "side"}
    model = evaluate(read_config(model=str(saved), output=str(tmp_path / "model"), **options))
    config = read_config(model="always the same", output=str(tmp_path / "lazy"), **options)
    lazy = evaluate_function(config, lambda texts: np.eye(3)[[0] * len(texts)], NAMES)
    assert lazy.metrics["accuracy"] == pytest.approx(1 / 3)
    assert lazy.metrics["data_sha256"] == model.metrics["data_sha256"]
    assert read_evaluation(tmp_path / "lazy").predictions == lazy.predictions
    assert gate(tmp_path / "model", tmp_path / "lazy").verdict == "better"
    backwards = evaluate_function(config, lambda texts: np.eye(3)[[0] * len(texts)], NAMES[::-1])
    assert {each.prediction for each in backwards.predictions} == {NAMES[-1]}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda texts: np.ones((len(texts), 2)) / 2, "the shape"),
        (lambda texts: np.ones((len(texts), 3)), "no probabilities"),
        (lambda texts: np.full((len(texts), 3), np.nan), "no probabilities"),
    ],
)
def test_what_is_no_probability_is_refused(data: Path, tmp_path: Path, answer, said: str):
    config = read_config(model="odd", data=str(data), output=str(tmp_path / "odd"))
    with pytest.raises(DataError, match=said):
        evaluate_function(config, answer, NAMES)
    assert not (tmp_path / "odd").exists()
