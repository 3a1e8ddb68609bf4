"""A generator with its adapter, merged for transformers serve, named for vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import lessonkit
from lessonkit.errors import ModelError
from production.generator import OFFLINE, command, merged
from production.processes import free_port, start

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.Tensor]:
    """A tiny base with its tokenizer, an adapter that changes it, and the adapted model's logits for three tokens."""
    folder = tmp_path_factory.mktemp("generator")
    tokenizer = lessonkit.load_tokenizer("smollm2")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, tie_word_embeddings=True))
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(folder / "adapter")
    with torch.no_grad():
        return folder / "base", folder / "adapter", adapted(torch.tensor([[1, 2, 3]])).logits


def test_the_merged_model_says_what_the_adapted_one_says(tuned, tmp_path: Path):
    base, adapter, wanted = tuned
    folder = merged(base, adapter, tmp_path / "tales")
    assert list(folder.glob("*.safetensors"))
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([[1, 2, 3]])).logits
        plain = AutoModelForCausalLM.from_pretrained(base)(torch.tensor([[1, 2, 3]])).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (plain - wanted).abs().max() > 1e-3


def test_a_folder_without_an_adapter_is_refused_and_nothing_is_lost(tuned, tmp_path: Path):
    base, adapter, _ = tuned
    kept = merged(base, adapter, tmp_path / "tales")
    with pytest.raises(ModelError, match="holds no adapter"):
        merged(base, base, kept)
    assert (kept / "config.json").is_file()


def test_both_servers_answer_on_this_computer_only_and_by_the_same_name(tmp_path: Path):
    for words in (
        command(tmp_path / "tales", "tales", 8001),
        command("base", "tales", 8001, vllm_adapter="lora"),
    ):
        assert words[words.index("--host") + 1] == "127.0.0.1"
        assert words[words.index("--port") + 1] == "8001"
        assert any("tales" in word for word in words)
    named = json.loads(command("base", "tales", 8001, vllm_adapter="lora")[-1])
    assert named == {"name": "tales", "path": "lora"}
    with pytest.raises(ModelError, match="another name"):
        command(tmp_path / "other", "tales", 8001)


def test_the_openai_client_gets_the_same_text_whole_and_streamed(tuned, tmp_path: Path):
    from openai import OpenAI

    base, adapter, _ = tuned
    merged(base, adapter, tmp_path / "tales")
    port = free_port()
    with start(
        command(tmp_path / "tales", "tales", port), tmp_path / "log", env=OFFLINE, folder=tmp_path
    ) as process:
        process.wait_for(f"http://127.0.0.1:{port}/health")
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
            asked = {"model": "tales", "prompt": "Once", "max_tokens": 6, "temperature": 0}
            whole = client.completions.create(**asked).choices[0].text
            with client.completions.create(**asked, stream=True) as pieces:
                streamed = "".join(each.choices[0].text or "" for each in pieces if each.choices)
    assert whole
    assert streamed == whole
