"""One model behind LitServe on a port of its own: requests that wait together become one batch.

``python -m production.serving_api --model FOLDER --port N --version V`` is what ``production.serving`` starts; only
requests that it has checked arrive here, from this computer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import litserve
import typer

from production.commands import run

__all__ = ["BASE", "ClassifierAPI"]

#: PEFT's name for a row that no adapter is applied to.
BASE = "__base__"


class ClassifierAPI(litserve.LitAPI):
    """LitServe's hooks, in the order in which a batch passes them: decode_request, batch, predict, unbatch, encode.

    folder: the model's. adapters: name -> PEFT folder. max_length: tokens of a text that are read. threads: of torch.
    """

    def __init__(
        self,
        folder: str,
        version: str,
        adapters: dict[str, str],
        max_length: int,
        threads: int,
        **options: Any,
    ) -> None:
        super().__init__(api_path="/classify", **options)
        self.folder, self.version, self.adapters = folder, version, adapters
        self.max_length, self.threads = max_length, threads

    def setup(self, device: str) -> None:
        """Load, once in each worker; the first batch is answered here, so that no user waits for it."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        torch.set_num_threads(self.threads)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(
            self.folder, local_files_only=True, use_safetensors=True
        )
        self.labels = [model.config.id2label[each] for each in range(model.config.num_labels)]
        for number, (name, folder) in enumerate(self.adapters.items()):
            from peft import PeftModel

            if number:
                model.load_adapter(folder, adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, folder, adapter_name=name)
        self.device_used, self.model = device, model.to(device).eval()
        self.predict([{"text": "warm up", "adapter": name} for name in (None, *self.adapters)])

    def decode_request(self, request):
        """{"text", "adapter"}, checked before. No annotation: LitServe would make FastAPI read the body by it."""
        return request

    def predict(self, rows: list[dict]) -> list[dict]:
        """One answer a row. Rows of several adapters share the batch: the base's work is done once for all."""
        import torch

        cut = {"truncation": True, "max_length": self.max_length, "padding": True, "return_tensors": "pt"}
        batch = self.tokenizer([row["text"] for row in rows], **cut).to(self.device_used)
        mixed = {"adapter_names": [row.get("adapter") or BASE for row in rows]} if self.adapters else {}
        with torch.inference_mode():
            shares = self.model(**batch, **mixed).logits.float().softmax(-1).cpu().tolist()
        tokens = batch["attention_mask"].sum(-1).tolist()  # read, special ones included
        return [self._answer(*each) for each in zip(rows, shares, tokens, strict=True)]

    def _answer(self, row: dict, shares: list[float], tokens: int) -> dict:
        scores = dict(zip(self.labels, shares, strict=True))
        label = max(scores, key=scores.__getitem__)
        told = {"version": self.version, "adapter": row.get("adapter"), "tokens": tokens}
        return {"label": label, "score": scores[label], "scores": scores, **told}

    def encode_response(self, output):
        """As it is."""
        return output


def main(
    model: Annotated[Path, typer.Option()],
    port: Annotated[int, typer.Option()],
    version: str = "",
    adapters: str = "{}",
    max_batch_size: int = 32,
    batch_timeout: float = 0.01,
    timeout: float = 10.0,
    max_length: int = 128,
    threads: int = 1,
) -> None:
    """Serve one model folder on the loopback interface. adapters: JSON, name -> folder."""
    single = max_batch_size == 1  # LitServe then calls predict with one row, not with a list of one
    kind = _OneAPI if single else ClassifierAPI
    api = kind(
        str(model), version, json.loads(adapters), max_length, threads,
        max_batch_size=max_batch_size, batch_timeout=0.0 if single else batch_timeout,
    )  # fmt: skip
    server = litserve.LitServer(
        api,
        accelerator="auto",
        devices=1,
        timeout=timeout,
        restart_workers=True,
        disable_openapi_url=True,
    )
    # Seconds between two looks at the workers. Its default of 2 lets the requests of a dead worker wait that long.
    server.monitor_internal = 0.2
    # "thread": the monitor and the requests that wait must share one process. In "process" mode it looks for the
    # requests of a dead worker in its own, empty table, and they wait for ever.
    server.run(
        host="127.0.0.1", port=port, num_api_servers=1, api_server_worker_type="thread",
        generate_client_file=False, log_level="warning",
    )  # fmt: skip


class _OneAPI(ClassifierAPI):
    """Without batching, to compare with."""

    def predict(self, rows: Any) -> Any:
        return super().predict(rows) if isinstance(rows, list) else super().predict([rows])[0]


if __name__ == "__main__":
    run(main)
