"""Models come as plain transformers objects, from an asset, a folder or the Hub, or with a clear error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lessonkit.assets import asset, fetch
from lessonkit.errors import LessonkitError, ModelError, UnknownNameError
from lessonkit.models import load_model, load_tokenizer, model_source


def test_source_of_an_asset_is_its_cached_folder():
    assert model_source("minilm") == str(fetch("minilm"))


def test_source_of_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert model_source(tmp_path) == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert Path(model_source("~/mine")) == tmp_path / "mine"


def test_source_of_a_hub_name_is_itself():
    assert model_source(asset("minilm").hub) == asset("minilm").hub


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("minlm", "minilm"),
        ("smollm", "smollm2"),
        ("reuters-r8", None),
        ("a/b/c", None),
        ("./gone", None),
        ("", None),
    ],
)
def test_unknown_model_is_told_what_can_be_given(name: str, near: str | None):
    with pytest.raises(UnknownNameError) as caught:
        model_source(name)
    assert near is None or near in caught.value.nearest
    assert "save_pretrained" in caught.value.fix


def test_encoder_is_a_float32_model_ready_to_train():
    import torch

    model = load_model("minilm")
    assert type(model).__name__ == "BertModel"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(22.7e6, rel=0.01)


def test_encoder_takes_a_head_and_its_options(capfd: pytest.CaptureFixture[str]):
    from transformers import AutoModelForSequenceClassification

    model = load_model("minilm", AutoModelForSequenceClassification, num_labels=8, dtype="bfloat16")
    assert tuple(model.classifier.weight.shape) == (8, 384)
    assert str(model.classifier.weight.dtype) == "torch.bfloat16"
    assert capfd.readouterr() == ("", "")  # no bars, no table of fresh weights


def test_decoder_comes_as_a_language_model():
    model = load_model("smollm2", dtype="bfloat16")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.num_parameters() == pytest.approx(134.5e6, rel=0.01)


def test_tokenizers_of_the_assets():
    encoder = load_tokenizer("minilm")
    assert encoder.decode(encoder("Profit rose.")["input_ids"]) == "[CLS] profit rose. [SEP]"
    decoder = load_tokenizer("smollm2")
    assert decoder.decode(decoder("Profit rose.")["input_ids"]) == "Profit rose."
    assert decoder.chat_template
    assert "<|im_start|>user" in decoder.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )


def test_saved_model_loads_from_its_folder(tiny):
    import torch
    from transformers import AutoModelForSequenceClassification

    loaded = load_model(tiny.folder, AutoModelForSequenceClassification)
    for name, weight in tiny.model().state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)
    assert load_tokenizer(str(tiny.folder)).get_vocab() == tiny.tokenizer.get_vocab()


def test_loading_leaves_transformers_as_loud_as_it_was(tiny):
    from transformers.utils import logging

    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.set_verbosity_info()
    try:
        load_model(tiny.folder)
        with pytest.raises(ModelError):
            load_model(tiny.folder.parent)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled() == bar
    finally:
        logging.set_verbosity(level)


@pytest.fixture
def damaged(tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.folder, tmp_path / "model"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("config.json", b'{"model_type": "no-such-type"}'),
        ("model.safetensors", None),
        ("model.safetensors", b""),
        ("model.safetensors", b"garbage"),
    ],
)
def test_damaged_model_folder_is_told(damaged: Path, file: str, content: bytes | None):
    (damaged / file).unlink()
    if content is not None:
        (damaged / file).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_model(damaged)
    assert str(damaged) in caught.value.what
    assert "config.json" in caught.value.fix


def test_half_written_weights_are_told(damaged: Path):
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError):
        load_model(damaged)


def test_head_that_the_model_cannot_have_is_told(tiny):
    from transformers import AutoModelForSeq2SeqLM

    with pytest.raises(ModelError, match="AutoModelForSeq2SeqLM") as caught:
        load_model(tiny.folder, AutoModelForSeq2SeqLM)
    assert "BertConfig" in caught.value.why


def test_folder_without_a_tokenizer_is_told(damaged: Path):
    for path in [*damaged.glob("tokenizer*"), *damaged.glob("special*"), *damaged.glob("vocab*")]:
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer") as caught:
        load_tokenizer(damaged)
    assert "save_pretrained" in caught.value.fix


def test_hub_name_without_a_network_is_told():
    import huggingface_hub.constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        for load in (load_model, load_tokenizer):
            with pytest.raises(LessonkitError, match="network") as caught:
                load("nobody-at-all/no-such-model")
            assert isinstance(caught.value, ModelError)
