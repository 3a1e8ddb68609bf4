"""What the lesson computes by hand is what scikit-learn and lessonkit give; its facts are counted anew."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from lesson_source import lesson_text, statement
from sklearn import metrics

import lessonkit
from lessonkit.exercises import labs_understanding_metrics as facts

LESSON = "labs/understanding-metrics"
TOPICS = 5


def own(*names: str, **given_names) -> dict:
    """The lesson's own functions, as a learner has them, with the names that they use."""
    found = {"np": np, "re": re, "Counter": Counter, **given_names}
    for each in names:
        exec(statement(LESSON, each), found)
    return found


def answers(seed: int = 0, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True classes, probabilities of shape (n, TOPICS), and the answers; the last class is never there nor said."""
    random = np.random.default_rng(seed)
    true = random.choice(TOPICS, n, p=[0.5, 0.3, 0.15, 0.05, 0])
    logits = random.normal(size=(n, TOPICS)) + 2 * np.eye(TOPICS)[true]
    logits[:, -1] = -9
    table = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return true, table, table.argmax(axis=1)


# ---- Counts -----------------------------------------------------------------------------------------


def test_the_lazy_models_score_is_that_of_the_official_test_texts():
    labels = lessonkit.load_dataset("reuters-r8")["test"]["label"]
    names = lessonkit.load_dataset("reuters-r8")["test"].features["label"].names
    earn = names.index("earn")
    assert list(labels).count(earn) == facts.EARN
    assert (len(labels), len(names)) == (facts.TEST_TEXTS, facts.TOPICS)
    score = metrics.f1_score(labels, [earn] * len(labels), average="macro", zero_division=0)
    assert facts._lazy_f1().reference == pytest.approx(score, abs=1e-12)
    assert f"{facts.EARN / facts.TEST_TEXTS:.3f}" == "0.495"
    told = " ".join(lesson_text(LESSON).replace("\n# ", " ").split())
    assert "1,083 are `earn`) its accuracy is 0.495" in told


@pytest.mark.parametrize("seed", range(5))
def test_per_topic_scores_are_scikit_learns(seed: int):
    true, _, said = answers(seed)
    matrix = metrics.confusion_matrix(true, said, labels=range(TOPICS))
    mine = own("per_topic")["per_topic"](matrix)
    whole = {"labels": range(TOPICS), "zero_division": 0}
    library = metrics.precision_recall_fscore_support(true, said, **whole)[:3]
    np.testing.assert_allclose(mine, np.array(library), rtol=0, atol=1e-12)
    macro = metrics.f1_score(true, said, average="macro", **whole)
    assert facts._macro_f1_reference(matrix) == pytest.approx(macro, abs=1e-12)
    assert facts._micro(matrix) == pytest.approx(metrics.f1_score(true, said, average="micro", **whole))
    assert facts._micro(matrix) == pytest.approx(metrics.accuracy_score(true, said))
    assert lessonkit.classification_scores(true, said, list("abcde")).macro_f1 == pytest.approx(macro)


def test_the_careless_model_keeps_a_high_accuracy_and_loses_two_topics():
    data = lessonkit.load_dataset("reuters-r8")["test"]
    names, true = data.features["label"].names, np.array(data["label"])
    said = np.where(np.isin(true, [names.index("grain"), names.index("ship")]), names.index("crude"), true)
    assert (said == true).mean() > 0.97
    assert metrics.f1_score(true, said, average="macro", zero_division=0) < 0.75


# ---- The threshold ----------------------------------------------------------------------------------


def test_precision_and_recall_at_a_threshold_are_scikit_learns():
    true, table, _ = answers()
    scores, truth = table[:, 1], true == 1
    alarm_at = own("alarm_at")["alarm_at"]
    precisions, recalls, thresholds = metrics.precision_recall_curve(truth, scores)
    for precision, recall, threshold in zip(precisions[:-1], recalls[:-1], thresholds, strict=True):
        assert alarm_at(threshold, scores, truth)[1:] == pytest.approx((precision, recall))


def test_the_lesson_and_its_exercise_have_one_cost():
    true, table, _ = answers()
    scores, truth = table[:, 1], true == 1
    cost = own("cost")["cost"]
    for threshold in (0, 0.1, 0.5, scores[3], 2):
        assert cost(scores, truth, threshold) == facts.cost(scores.tolist(), truth.tolist(), threshold)
    assert f"A missed oil wire costs {facts.MISS}, a false alarm {facts.FALSE_ALARM}." in lesson_text(LESSON)
    assert f"at most {facts.SLACK:g} above the lowest possible" in lesson_text(LESSON)


def test_the_lesson_and_its_exercise_draw_the_same_validation_texts():
    told = statement(LESSON, "VALIDATION_TEXTS")
    for scale, count in {**facts.VALIDATION, "laptop": 485, "gpu": 485}.items():
        assert re.search(rf"{scale}={count}\b", told)
        assert len(facts._validation(scale).truth) == count
    data = lessonkit.load_dataset("reuters-r8")["train"]
    crude = data.features["label"].names.index("crude")
    names = {
        "data": {"train": data, "test": data},
        "SEED": 0,
        "TRAIN_TEXTS": 64,
        "VALIDATION_TEXTS": facts.VALIDATION["smoke"],
        "TEST_TEXTS": 64,
    }
    drawn = own("shuffled", "splits", **names)["splits"]["validation"]["label"]
    assert facts._validation("smoke").truth == [label == crude for label in drawn]


def test_an_eleventh_is_the_threshold_of_calibrated_probabilities():
    chances = np.linspace(0.001, 0.999, 999)  # texts of all probabilities, each right as often as it says

    def expected(threshold: float) -> float:
        return np.where(chances >= threshold, facts.FALSE_ALARM * (1 - chances), facts.MISS * chances).sum()

    best = min(chances, key=expected)
    assert best == pytest.approx(1 / 11, abs=0.001)


# ---- The bootstrap ----------------------------------------------------------------------------------


def test_the_bootstrap_by_hand_is_lessonkits():
    true, _, said = answers()
    names = own("draws", "scores", right=said == true)
    by_hand = np.quantile(names["scores"], [0.025, 0.975])
    assert tuple(by_hand) == lessonkit.bootstrap_interval(said == true)


def test_twenty_right_answers_leave_the_bootstrap_sure_and_the_rule_of_three_not():
    assert lessonkit.bootstrap_interval(np.ones(20)) == (1.0, 1.0)
    by_luck = (1 - 3 / 20) ** 20  # how often a model that is wrong in 15 % gets that far
    assert 0.03 < by_luck < 0.05


# ---- Calibration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_bins_and_log_loss_are_scikit_learns(seed: int):
    from sklearn.calibration import calibration_curve

    true, table, said = answers(seed)
    names = own("reliability", "calibration_error", "log_loss")
    stated, share, texts = names["reliability"](table, true)
    library = calibration_curve(said == true, table.max(axis=1), n_bins=10)
    np.testing.assert_allclose([share, stated], library, rtol=0, atol=1e-12)
    assert texts.sum() == len(true)
    assert names["log_loss"](table, true) == pytest.approx(
        metrics.log_loss(true, table, labels=range(TOPICS))
    )
    assert names["calibration_error"](table, true) == pytest.approx(
        np.average(abs(stated - share), weights=texts)
    )


def test_a_calibrated_table_has_hardly_any_error_and_a_bold_one_has():
    random = np.random.default_rng(0)
    table = random.dirichlet(np.ones(TOPICS), 20_000)
    true = (table.cumsum(axis=1) > random.random((len(table), 1))).argmax(
        axis=1
    )  # each drawn as the table says
    error = own("reliability", "calibration_error")["calibration_error"]
    bold = table**3 / (table**3).sum(axis=1, keepdims=True)
    assert error(table, true) < 0.02
    assert error(bold, true) > 0.1


def test_a_temperature_keeps_the_answers_and_is_that_of_the_logits():
    from scipy.special import log_softmax, softmax

    logits = np.random.default_rng(0).normal(size=(200, TOPICS)) * 3
    tempered = own("tempered", softmax=softmax)["tempered"]
    for temperature in (0.3, 1, 4):
        found = tempered(np.exp(log_softmax(logits, axis=1)), temperature)
        np.testing.assert_allclose(found, softmax(logits / temperature, axis=1), atol=1e-12)
        assert (found.argmax(axis=1) == logits.argmax(axis=1)).all()


# ---- Perplexity -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2_tokenizer():
    return lessonkit.load_tokenizer("smollm2")


@pytest.fixture(scope="module")
def decoder():
    """A random decoder with SmolLM2's vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.3,
        )
    ).eval()


TEXTS = ["once upon a time there lived a king", "Die Überraschung war groß: 5 €!", "hello"]


def test_losses_perplexity_and_bits_by_hand_are_lessonkits(smollm2_tokenizer, decoder):
    import torch

    token_losses = own("token_losses", torch=torch, decoder=decoder, device="cpu")["token_losses"]
    ids = [smollm2_tokenizer(text)["input_ids"] for text in TEXTS if text != "hello"]
    with torch.inference_mode():  # the lesson's decorator
        losses = [token_losses(each) for each in ids]
    scores = lessonkit.perplexity(
        decoder, [{"input_ids": each} for each in ids], tokenizer=smollm2_tokenizer, batch_size=1
    )
    joined = np.concatenate(losses)
    assert scores.tokens == len(joined)
    assert scores.perplexity == pytest.approx(np.exp(joined.mean()), rel=1e-5)
    spelt = "".join(smollm2_tokenizer.decode(each[1:]) for each in ids)
    assert facts._bits_per_byte_reference(joined, spelt) == pytest.approx(scores.bits_per_byte, rel=1e-5)
    batch = torch.tensor([ids[0]])
    assert losses[0].mean() == pytest.approx(decoder(batch, labels=batch).loss.item(), rel=1e-5)


def test_tokenizers_spell_passages_exactly_and_bytes_need_no_tokenizer(smollm2_tokenizer):
    wordpieces = lessonkit.load_tokenizer("minilm")
    names = own(
        "START", "passages", "cut", "cut_by_minilm", tokenizer=smollm2_tokenizer, wordpieces=wordpieces
    )
    found = names["passages"](lessonkit.load_dataset("grimm-tales")["test"]["text"])
    assert len(found) > 200  # as many as the GPU scale wants
    for text in found[::10]:
        assert len(text.split()) == 50
        by_smollm2, by_minilm = names["cut"](text), names["cut_by_minilm"](text)
        assert smollm2_tokenizer.decode(by_smollm2[:1]) == names["START"]
        assert smollm2_tokenizer.decode(by_smollm2[1:]) == text
        assert wordpieces.decode(by_minilm[:1]) == "[CLS]"
        assert wordpieces.decode(by_minilm[1:]) == text


def test_log2_of_the_bytes_perplexity_is_their_bits_per_byte_and_two_cuts_are_not_compared():
    from lessonkit.evaluation import unigram_perplexity

    rows = [{"input_ids": list(text.encode())} for text in TEXTS]
    scores = unigram_perplexity(rows, rows, vocabulary_size=256)
    counted = sum(len(text.encode()) - 1 for text in TEXTS)
    assert math.log2(scores.perplexity) == pytest.approx(scores.text_losses.sum() / math.log(2) / counted)
    words = [{"input_ids": [len(word) for word in text.split()] + [1]} for text in TEXTS]
    other = unigram_perplexity(words, words, vocabulary_size=256)
    with pytest.raises(lessonkit.LessonkitError, match="other tokens"):
        lessonkit.compare_perplexities(scores, other)


def test_the_parameters_of_the_two_decoders_are_counted_right():
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    larger = LlamaConfig(
        vocab_size=49152,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        tie_word_embeddings=True,
    )
    for config in (AutoConfig.from_pretrained(lessonkit.fetch("smollm2")), larger):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        assert f"{model.num_parameters():_}" in lesson_text(LESSON)


# ---- Generated text ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overlap() -> dict:
    return own("words", "token_f1", "rouge_l")


PHRASES = [
    "Paris",
    " paris. ",
    "The Paris!",
    "a cat and the dog",
    "Cats, dogs",
    "It's the 5th - day",
    "",
    "the",
]


def test_words_are_what_lessonkit_compares(overlap: dict):
    on = {"ignore_case": True, "ignore_punctuation": True, "ignore_articles": True}
    pairs = list(itertools.product(PHRASES, PHRASES))
    mine = [overlap["words"](one) == overlap["words"](two) for one, two in pairs]
    library = lessonkit.exact_match(*zip(*pairs, strict=True), **on)
    assert mine == library.right.tolist()
    assert any(mine)
    assert not all(mine)


@settings(max_examples=60, deadline=None)
@given(some.lists(some.sampled_from("abc"), max_size=6), some.lists(some.sampled_from("abc"), max_size=6))
def test_rouge_l_finds_the_longest_common_subsequence(reply: list, reference: list):
    def subsequences(words: list) -> set:
        return {kept for size in range(len(words) + 1) for kept in itertools.combinations(words, size)}

    longest = max(map(len, subsequences(reply) & subsequences(reference)))
    found = own("rouge_l")["rouge_l"](reply, reference)
    assert found == pytest.approx(2 * longest / max(len(reply) + len(reference), 1))
    if longest:
        precision, recall = longest / len(reply), longest / len(reference)
        assert found == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_last_exercise_has_the_lessons_sentences_and_score(overlap: dict):
    reply, reference = facts.PREDICTED.split(), facts.REFERENCE.split()
    assert overlap["rouge_l"](reply, reference) == pytest.approx(facts._rouge().reference)
    assert overlap["token_f1"](reply, reference) == 1
    text = lesson_text(LESSON).replace("\n# ", " ")
    assert f"reply *{facts.PREDICTED}*, reference *{facts.REFERENCE}*" in text


def test_the_opposite_overlaps_more_than_the_paraphrase(overlap: dict):
    wanted, opposite, paraphrase = (
        overlap["words"](text)
        for text in (
            "the central bank raised its interest rate",
            "the central bank lowered its interest rate",
            "borrowing became dearer at the central bank",
        )
    )
    for score in (overlap["token_f1"], overlap["rouge_l"]):
        assert score(opposite, wanted) > 0.8 > 0.5 > score(paraphrase, wanted)
