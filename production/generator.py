"""A fine-tuned generator behind OpenAI's protocol: ``transformers serve`` on a CPU, vLLM on a GPU, for the same client.

    python -m production.generator --base smollm2 --adapter FOLDER --name tales --port 8001

The client asks for ``name``, and can't tell which of the two answers. ``transformers serve`` (5.23) takes no adapter
alone, so the adapter is merged into a copy of its base first; vLLM applies it beside the base.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from lessonkit.errors import ModelError
from production.commands import only_one, run
from production.processes import check_port
from production.serving import KEY_VARIABLE
from production.settings import work_folder

#: For the server: it looks for nothing outside, also not for a newer version of itself.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}

__all__ = ["OFFLINE", "command", "merged", "uses_vllm"]


def uses_vllm() -> bool:
    """Whether this machine has a GPU and vLLM, which isn't part of the course's installation."""
    if importlib.util.find_spec("vllm") is None:
        return False
    import torch

    return torch.cuda.is_available()


def merged(base: str | Path, adapter: str | Path, folder: str | Path) -> Path:
    """Write the base with the LoRA adapter added into its weights, and the tokenizer, to ``folder``: safetensors.

    base: a folder, or the name of a model of this course. Raises ModelError for a folder that holds no adapter. An
    older copy stays until the new one is whole.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter, folder = Path(adapter), Path(folder)
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(
            f"{adapter} holds no adapter: adapter_config.json is missing.",
            fix="name the folder that save_pretrained of a PEFT model wrote",
        )
    if Path(base).is_dir():
        model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    else:
        import lessonkit

        model = lessonkit.load_model(str(base), AutoModelForCausalLM)
        tokenizer = lessonkit.load_tokenizer(str(base))
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    making = folder.with_name(folder.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    model.save_pretrained(making)
    tokenizer.save_pretrained(making)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(making, folder)
    return folder


def command(folder: str | Path, name: str, port: int, *, vllm_adapter: str | Path = "") -> list[str]:
    """The server's command, for ``production.processes.start``; it answers on this computer only.

    folder: the merged model, in a folder called ``name``: transformers serve names a model as it was asked for it, so
    start it in the folder above. vllm_adapter: for vLLM, the adapter's folder; then ``folder`` is the base. vLLM takes
    its key from the environment variable VLLM_API_KEY; transformers serve has none.
    """
    there = ["--host", "127.0.0.1", "--port", str(port)]
    if vllm_adapter:
        adapter = json.dumps({"name": name, "path": str(vllm_adapter)})
        return ["vllm", "serve", str(folder), *there, "--enable-lora", "--lora-modules", adapter]
    if Path(folder).name != name:
        raise ModelError(
            f"The model {name!r} lies in a folder of another name: {folder}.", fix=f"rename it to {name}"
        )
    return ["python", "-m", "transformers.cli.transformers", "serve", name, *there, "--device", "cpu"]


def main(
    adapter: Annotated[Path, typer.Option(help="Folder of a LoRA adapter.")],
    base: Annotated[str, typer.Option(help="Its base: a folder, or a model of this course.")] = "smollm2",
    name: Annotated[str, typer.Option(help="What clients call the model.")] = "tuned",
    port: int = 8001,
    work: str = "",
) -> None:
    """Serve a generator with its adapter until this process is ended (Ctrl+C)."""
    folder = (Path(work) if work else work_folder()) / "generator"
    with only_one(folder, "serving a generator"):
        check_port(port)
        environment = {**os.environ, **OFFLINE}
        if uses_vllm():
            from lessonkit.models import model_source

            source = model_source(base)
            source = Path(source).resolve() if Path(source).is_dir() else source
            words = command(source, name, port, vllm_adapter=adapter.resolve())
            environment.setdefault("VLLM_API_KEY", os.environ.get(KEY_VARIABLE, ""))
        else:
            words = command(merged(base, adapter, folder / name), name, port)
        words[0] = sys.executable if words[0] == "python" else words[0]
        raise SystemExit(subprocess.call(words, cwd=folder, env=environment))


if __name__ == "__main__":
    run(main)
