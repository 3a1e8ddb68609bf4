"""Errors of loading and saving models and tokenizers: names, folders, files, networks."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="No way to the Hugging Face Hub",
        errors=("OSError", "ConnectionError", "LocalEntryNotFoundError"),
        pattern=r"We couldn't connect to .* to load the files|Couldn't reach .* on the Hub|"
        r"outgoing traffic has been disabled|Cannot find the requested files in the (?:disk|local) cache",
        example="We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached "
        "files.",
        meaning="The model or dataset is not on this computer, and the Hub cannot be reached.",
        cause="There is no network, a company's network blocks the Hub, or `HF_HUB_OFFLINE=1` is set.",
        cure=(
            "Use what the course brings along: `lessonkit.load_model('minilm')`; `lessonkit fetch` gets it once.",
            "You are online? See whether the Hub is switched off: `import os; print(os.environ.get('HF_HUB_OFFLINE'))`. If "
            "it says 1, restart the kernel and run `%env HF_HUB_OFFLINE=0` in its first cell, before any import.",
            "Fetch it where there is a network, `model.save_pretrained('my-model')`, and bring the folder here.",
        ),
        before='AutoModel.from_pretrained("bert-base-uncased")',
        after='lessonkit.load_model("minilm")',
        packages=("transformers", "datasets"),
    ),
    Entry(
        title="A model folder that is not there",
        errors=("OSError", "HFValidationError"),
        pattern=r"Repo id must (?:be in the form|use alphanumeric)|"
        r"is not a local folder and is not a valid model identifier",
        example="Repo id must be in the form 'repo_name' or 'namespace/repo_name': 'outputs/a/my-model'. Use `repo_type` "
        "argument if needed.",
        meaning="There is no folder of that name, so it was taken for the name of a model on the Hub, which it cannot be.",
        cause="A typo in the path, or a path that begins at another folder than the notebook's.",
        cure=(
            "See where you are and what is there: `from pathlib import Path; print(Path.cwd(), Path('outputs').exists())`.",
            "Give the whole path, or `lesson.folder / 'my-model'` as it was saved.",
        ),
        before='AutoModel.from_pretrained("./my-modle")',
        after='AutoModel.from_pretrained(lesson.folder / "my-model")',
        packages=("transformers",),
    ),
    Entry(
        title="A model that asks for permission first",
        errors=("OSError", "GatedRepoError"),
        pattern=r"gated repo|is restricted and you are not in the authorized list",
        example="You are trying to access a gated repo. Make sure to have access to it at ...",
        meaning="The model's makers want their terms accepted before it can be fetched.",
        cause="You have not accepted them on the model's page, or this computer does not know who you are.",
        cure=(
            "Accept the terms on the model's page (it can take hours until they answer, sometimes days).",
            "Make a token in your account's settings and type `hf auth login` in a terminal.",
            "Or take an open model; those of this course need no account.",
        ),
        packages=("transformers",),
        reproduced=False,
    ),
    Entry(
        title="A folder without a model",
        errors=("ValueError",),
        pattern=r"Unrecognized model in .* Should have a `model_type` key in its config\.json",
        example="Unrecognized model in my-model. Should have a `model_type` key in its config.json.",
        meaning="The folder exists, and has no `config.json` that says what kind of model it is.",
        cause="The path leads to the folder above (checkpoints lie in `checkpoint-500` below it), or only an adapter or a "
        "tokenizer was saved there.",
        cure=(
            "Look into it: `ls` the folder. A model has `config.json` and `model.safetensors`.",
            "Only `adapter_config.json`: load the base model, then `PeftModel.from_pretrained(base, folder)`.",
        ),
        before='AutoModel.from_pretrained("outputs")',
        after='AutoModel.from_pretrained("outputs/checkpoint-500")',
        packages=("transformers",),
    ),
    Entry(
        title="A file missing from a model's folder",
        errors=("OSError",),
        pattern=r"Error no file named .* found in directory|does not appear to have a file named",
        example="Error no file named model.safetensors, or pytorch_model.bin, found in directory my-model.",
        meaning="The folder is a model's, and one of its files is missing.",
        cause="Saving or copying broke off, or the folder holds an adapter only.",
        cure=(
            "Save again, with all of it: `model.save_pretrained(folder); tokenizer.save_pretrained(folder)`.",
            "An adapter (`adapter_model.safetensors`) is loaded onto its base: `PeftModel.from_pretrained(base, folder)`.",
        ),
        packages=("transformers",),
    ),
    Entry(
        title="A weight file that is not whole",
        errors=("SafetensorError",),
        pattern=r"Error while deserializing header",
        example="Error while deserializing header: incomplete metadata, file not fully covered",
        meaning="The file does not hold what its beginning promises.",
        cause="A download or a copy broke off (`incomplete metadata`, `invalid header length`), or git fetched a "
        "place-holder instead of the file (`header too large`).",
        cure=(
            "Look at its size: a few hundred bytes are a place-holder; `git lfs pull` fetches the file.",
            "Delete it and fetch or save it again. What `lessonkit fetch` gets is checked.",
        ),
        packages=("safetensors",),
    ),
    Entry(
        title="A weight file that could hide a program",
        errors=("UnpicklingError",),
        pattern=r"Weights only load failed",
        example="Weights only load failed. This file can still be loaded, to do so you have two options, do those steps "
        "only if you trust the source of the checkpoint.",
        meaning="`torch.load` reads only numbers, and this file holds whole Python objects. Loading such a file runs code "
        "that is in it.",
        cause="It was saved as `torch.save(model)` rather than its weights.",
        cure=(
            "Yours: save with `model.save_pretrained(folder)`, or `torch.save(model.state_dict(), file)`.",
            "Your own older file: `torch.load(file, weights_only=False)`.",
            "Someone else's: do not, unless you trust them as much as a program that you install.",
        ),
        before='torch.save(model, "model.pt")',
        after='torch.save(model.state_dict(), "model.pt")',
        packages=("torch",),
    ),
    Entry(
        title="Weights that share their memory",
        errors=("RuntimeError",),
        pattern=r"Some tensors share memory, this will lead to duplicate memory",
        example="Some tensors share memory, this will lead to duplicate memory on disk and potential differences when "
        "loading them again: [{'a', 'b'}].",
        meaning="Two names stand for the same numbers, and a safetensors file would hold them twice.",
        cause="Input embeddings and output layer of a language model are often one (tied) tensor.",
        cure=(
            "Let the model save itself: `model.save_pretrained(folder)`.",
            "Or `safetensors.torch.save_model(model, file)`.",
        ),
        before='save_file(model.state_dict(), "model.safetensors")',
        after='save_model(model, "model.safetensors")',
        packages=("safetensors",),
    ),
    Entry(
        title="A head for another number of classes",
        errors=("RuntimeError",),
        pattern=r"You set `ignore_mismatched_sizes` to `False`",
        example="You set `ignore_mismatched_sizes` to `False`, thus raising an error. For details look at the above report!",
        meaning="The file's weights have other shapes than the model that was asked for; the report above says which.",
        cause="A model trained for 2 classes is loaded with `num_labels=5`, mostly.",
        cure=(
            "For a new task, throw the old head away: `ignore_mismatched_sizes=True`. The new one starts untrained.",
            "To use the model as it was trained, leave `num_labels` out.",
        ),
        before="from_pretrained(folder, num_labels=5)",
        after="from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)",
        packages=("transformers",),
    ),
    Entry(
        title="Weights of another model",
        errors=("RuntimeError",),
        pattern=r"Error\(s\) in loading state_dict for (?!Peft)\w+",
        example='Error(s) in loading state_dict for Linear:\n\tMissing key(s) in state_dict: "bias".',
        meaning="The names or shapes in the file are not those of this model. The message lists what is missing, what is "
        "too much, and what has another shape.",
        cause="The file belongs to another model or another version of your class, or it was saved inside a wrapper, so "
        "that every name begins with `module.` or `base_model.`.",
        cure=(
            "Compare: `print(list(weights)[:5], list(model.state_dict())[:5])`.",
            "Cut a prefix off: `{name.removeprefix('module.'): each for name, each in weights.items()}`.",
        ),
        packages=("torch",),
    ),
    Entry(
        title="A file of JSON that is not whole",
        errors=("JSONDecodeError", "OSError"),
        pattern=r"is not a valid JSON file|(?:Expecting (?:value|property name|',' delimiter|':' delimiter).*|"
        r"Unterminated string starting at|Extra data|Illegal trailing comma.*): line \d+ column \d+",
        example="It looks like the config file at 'my-model/config.json' is not a valid JSON file.",
        meaning="A settings file ends in the middle or breaks the rules of JSON; the message names line and column.",
        cause="Writing it was interrupted (a stopped training, a full disk), or it was edited by hand: one comma too many, "
        "single quotation marks.",
        cure=(
            "Open it at that line. JSON wants double quotation marks and no comma after the last entry.",
            "`trainer_state.json` of a checkpoint: go on from the checkpoint before it.",
            "Empty or cut off: save or fetch it again.",
        ),
        before='{\n    "model_type": "bert",\n}',
        after='{"model_type": "bert"}',
        packages=("transformers",),
    ),
    Entry(
        title="A model newer than the library",
        errors=("ValueError",),
        pattern=r"Transformers does not recognize this architecture",
        example="The checkpoint you are trying to load has model type `futureformer` but Transformers does not recognize "
        "this architecture.",
        meaning="This version of `transformers` has no code for that kind of model.",
        cause="The model is newer than the installed version, or its `config.json` was written by another program.",
        cure=(
            "In an environment of your own, not this course's: `pip install --upgrade transformers`, restart the kernel.",
            "Or take a model of a kind that is known.",
        ),
        packages=("transformers",),
    ),
    Entry(
        title="A tokenizer file newer than the library",
        errors=("Exception",),
        pattern=r"data did not match any variant of untagged enum",
        example="data did not match any variant of untagged enum ModelUntagged at line 1 column 1326",
        meaning="`tokenizer.json` holds something that this version of `tokenizers` does not know.",
        cause="It was saved by a newer version, or edited by hand.",
        cure=(
            "In an environment of your own: `pip install --upgrade tokenizers transformers`, restart the kernel.",
            "Edited: save the tokenizer again with `tokenizer.save_pretrained(folder)`.",
        ),
        packages=("transformers",),
    ),
    Entry(
        title="A tokenizer that needs another package",
        errors=("ValueError", "ImportError"),
        pattern=r"`(?:tiktoken|sentencepiece|protobuf)` is required|requires the SentencePiece library|"
        r"Couldn't instantiate the backend tokenizer",
        example="`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`.",
        meaning="The folder has no `tokenizer.json`, and converting the older file takes a package that is missing.",
        cause="Only `tokenizer.model` was saved or copied; sometimes the other file is just missing.",
        cure=(
            "Look for `tokenizer.json` where the model comes from, and copy it too.",
            "Or install what the message names, `pip install tiktoken sentencepiece`, and restart the kernel.",
        ),
        packages=("transformers",),
    ),
    Entry(
        title="A model that brings its own program",
        errors=("ValueError",),
        pattern=r"contains custom code which must be executed to correctly load the model",
        example="The repository my-model contains custom code which must be executed to correctly load the model.",
        meaning="To load it, Python files of the model's makers would run on your computer.",
        cause="The kind of model is not part of `transformers`.",
        cure=(
            "Read the Python files in its folder. If you trust their makers: `trust_remote_code=True`.",
            "Otherwise take a model that `transformers` knows.",
        ),
        packages=("transformers",),
    ),
    Entry(
        title="A model of the wrong kind for this class",
        errors=("ValueError",),
        pattern=r"Unrecognized configuration class .* for this kind of AutoModel",
        example="Unrecognized configuration class <class 'transformers.models.t5.configuration_t5.T5Config'> for this kind "
        "of AutoModel: AutoModelForCausalLM.",
        meaning="The model exists, but not for that task.",
        cause="T5 and BART read and write with two halves: `AutoModelForSeq2SeqLM`, not `AutoModelForCausalLM`.",
        cure=("Take the class for its kind; the message names the kind before `Config`.",),
        before="AutoModelForCausalLM.from_pretrained(t5)",
        after="AutoModelForSeq2SeqLM.from_pretrained(t5)",
        packages=("transformers",),
    ),
    Entry(
        title="A head that starts untrained",
        errors=(),
        pattern=r"newly initialized because missing from the checkpoint|were not initialized from the model checkpoint",
        example="MISSING: those params were newly initialized because missing from the checkpoint. Consider training on "
        "your downstream task.",
        meaning="A note, not an error: the base model came with its weights, and the head on top was filled with random "
        "numbers.",
        cause="A pre-trained model has no head for your classes yet. That is what you are about to train.",
        cure=(
            "Before training: all is well, if only the head (`classifier`, `score`) is named.",
            "After training: you loaded the base instead of your result. Look at the path.",
        ),
        packages=("transformers",),
        lesson="beginner/full-fine-tuning",
    ),
)
