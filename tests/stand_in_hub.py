"""Local folders that stand in for repositories of the Hugging Face Hub: real files, small random weights.

They are laid out as the Hub's own cache is, so that ``from_pretrained("owner/name")`` finds them offline.
"""

from __future__ import annotations

from pathlib import Path

import lessonkit

COMMIT = "0" * 40
FAMILIES = {"bert": "minilm", "smollm2": "smollm2"}  # a word of the name -> the asset with its tokenizer


def family(name: str) -> str:
    """The asset whose architecture and tokenizer a repository shares, by the words of its name."""
    for word, asset in FAMILIES.items():
        if word in name.lower():
            return asset
    raise AssertionError(f"{name}: say in tests/stand_in_hub.py which family it belongs to")


def add_repository(cache: Path, name: str) -> Path:
    """Lay out ``owner/name`` in a Hub cache folder, two layers deep; the folder with its files."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    asset = family(name)
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    config = AutoConfig.from_pretrained(lessonkit.fetch(asset))
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = (
        {"num_attention_heads": 4, "num_key_value_heads": 2}
        if asset == "smollm2"
        else {"num_attention_heads": 4}
    )
    config.update(sizes | heads | ({"head_dim": 12} if asset == "smollm2" else {}))
    maker = AutoModelForCausalLM if asset == "smollm2" else AutoModelForMaskedLM
    maker.from_config(config).save_pretrained(folder)
    lessonkit.load_tokenizer(asset).save_pretrained(folder)
    return folder
