"""Errors of PEFT and of quantised models."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="Target modules that the model does not have",
        errors=("NoMatchingPeftModuleError", "ValueError"),
        pattern=r"Target modules .* not found in the base model|No modules were targeted for adaptation",
        example="Target modules {'v_proj', 'q_proj'} not found in the base model. Please check the target modules and try "
        "again.",
        meaning="LoRA is put into layers by name, and no layer of this model ends in one of those names.",
        cause="Each family of models has its own: `q_proj` and `v_proj` in Llama and SmolLM2, `query` and `value` in BERT "
        "and MiniLM, `c_attn` in GPT-2. Or an adapter is loaded onto a model of another family.",
        cure=(
            "See the names: `print([name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)])`.",
            "Write the last part of those you want, or `target_modules='all-linear'`. GPT-2's layers are of the class "
            "`Conv1D` and not in that list: `c_attn`, `c_proj`, `c_fc`.",
        ),
        before='LoraConfig(target_modules=["q_proj", "v_proj"])  # MiniLM is a BERT',
        after='LoraConfig(target_modules=["query", "value"])',
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="Target modules to be named",
        errors=("ValueError",),
        pattern=r"Please specify `target_modules`",
        example="Please specify `target_modules` or `target_parameters`in `peft_config`",
        meaning="PEFT knows the usual layers of well-known families only; for this model you have to name them.",
        cause="A model of your own, or of a family that PEFT has no default for.",
        cure=(
            "Name them: `LoraConfig(target_modules=['0', 'linear'])`, or `'all-linear'`.",
            "See the names: `print([name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)])`.",
        ),
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="A target that is no layer of weights",
        errors=("ValueError",),
        pattern=r"Target module .* is not supported\. Currently, only the following modules are supported",
        example="Target module LayerNorm((32,), eps=1e-12, elementwise_affine=True, bias=True) is not supported. "
        "Currently, only the following modules are supported: `torch.nn.Linear`, `torch.nn.Embedding`, ...",
        meaning="LoRA adds to a matrix, and the name given is that of a block of layers or of a normalisation.",
        cause="`target_modules=['attention']` names the whole block rather than its `query` and `value`.",
        cure=(
            "Name the linear layers inside it: `['query', 'value']`.",
            "To train a normalisation or a head in full beside LoRA: `modules_to_save=['LayerNorm', 'classifier']`.",
        ),
        before='LoraConfig(target_modules=["attention"])',
        after='LoraConfig(target_modules=["query", "value"])',
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="A rank that is not positive",
        errors=("ValueError",),
        pattern=r"`r` should be a positive integer value",
        example="`r` should be a positive integer value but the value passed is 0",
        meaning="The rank `r` is the width of the two LoRA matrices: 1 or more.",
        cause="A sweep that begins at 0, or a division that came out as 0.",
        cure=("Begin with `r=8`; the usual range is 4 to 64.",),
        before="LoraConfig(r=0)",
        after="LoraConfig(r=8)",
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="A task type that PEFT does not know",
        errors=("ValueError",),
        pattern=r"Invalid task type: ",
        example="Invalid task type: 'CLASSIFICATION'. Must be one of the following task types: SEQ_CLS, SEQ_2_SEQ_LM, "
        "CAUSAL_LM, TOKEN_CLS, QUESTION_ANS, FEATURE_EXTRACTION.",
        meaning="`task_type` takes one of six words; the message lists them.",
        cause="The name was guessed.",
        cure=(
            "A class for each text: `SEQ_CLS`; for each token: `TOKEN_CLS`. Writing text: `CAUSAL_LM`.",
            "With `SEQ_CLS` PEFT also trains and saves the head, which is what you want.",
        ),
        before='LoraConfig(task_type="CLASSIFICATION")',
        after='LoraConfig(task_type="SEQ_CLS")',
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="An adapter on another base model",
        errors=("RuntimeError",),
        pattern=r"Error\(s\) in loading state_dict for Peft\w+",
        example="Error(s) in loading state_dict for PeftModelForSequenceClassification:\n\tsize mismatch for "
        "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.default.weight: copying a param with shape "
        "torch.Size([8, 32]) from checkpoint, the shape in current model is torch.Size([8, 64]).",
        meaning="An adapter is a change to one particular base model, and this base has other sizes.",
        cause="The adapter was trained on another model of the same family, or with another number of classes.",
        cure=(
            "See what it was trained on: `PeftConfig.from_pretrained(folder).base_model_name_or_path`.",
            "Load that base, with the same `num_labels`, then the adapter.",
        ),
        before="""\
base = AutoModelForSequenceClassification.from_pretrained("another-base")
PeftModel.from_pretrained(base, folder)""",
        after="""\
name = PeftConfig.from_pretrained(folder).base_model_name_or_path
base = AutoModelForSequenceClassification.from_pretrained(name, num_labels=8)  # as it was trained with
PeftModel.from_pretrained(base, folder)""",
        packages=("peft", "torch"),
        lesson="beginner/lora",
    ),
    Entry(
        title="A folder without an adapter",
        errors=("ValueError",),
        pattern=r"Can't find 'adapter_config\.json' at",
        example="Can't find 'adapter_config.json' at 'my-model'",
        meaning="An adapter's folder has `adapter_config.json`, and this has none.",
        cause="The folder holds a whole model, the path is the folder above, or there is no such folder.",
        cure=(
            "Look into it: `ls` the folder.",
            "A whole model (`config.json`): `AutoModelFor....from_pretrained(folder)` is all it needs.",
            "Save an adapter with `peft_model.save_pretrained(folder)`.",
        ),
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="An adapter by a name that is not there",
        errors=("ValueError",),
        pattern=r"Adapter \S+ (?:not found|does not exist)",
        example="Adapter mine not found.",
        meaning="A model can carry several adapters, each by its name, and none has this one.",
        cause="The first adapter is called `default` unless you name it.",
        cure=(
            "See the names: `print(list(model.peft_config))`.",
            "Name it while loading: `model.load_adapter(folder, adapter_name='mine')`.",
        ),
        before='model.set_adapter("mine")',
        after="""\
model.load_adapter(folder, adapter_name="mine")
model.set_adapter("mine")""",
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="An adapter's name that is taken",
        errors=("ValueError",),
        pattern=r"Adapter with name '.*' already exists",
        example="Adapter with name 'default' already exists.",
        meaning="The model has an adapter of that name already.",
        cause="The cell was run twice, or a second adapter is added without a name of its own.",
        cure=("Another name, or `model.delete_adapter('default')` first.",),
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="Merging what has no adapter",
        errors=("AttributeError",),
        pattern=r"object has no attribute '(?:merge_and_unload|merge_adapter|unload|print_trainable_parameters|"
        r"disable_adapter)'",
        example="'BertForSequenceClassification' object has no attribute 'merge_and_unload'",
        meaning="The model is a plain one, without PEFT around it.",
        cause="It has been merged already (the cell was run twice), or it is a soft prompt, which cannot be merged: it is "
        "input, not weights.",
        cure=(
            "Merged already: go on with it, it is ready.",
            "Otherwise: `model = PeftModel.from_pretrained(base, folder)`, then merge.",
        ),
        before="""\
model = model.merge_and_unload()
model = model.merge_and_unload()""",
        after="merged = peft_model.merge_and_unload()",
        packages=("peft", "transformers"),
        lesson="beginner/lora",
    ),
    Entry(
        title="An adapter that is merged already",
        errors=("UserWarning",),
        pattern=r"All adapters are already merged, nothing to do|Already following adapters were merged",
        example="All adapters are already merged, nothing to do.",
        meaning="A warning, not an error: nothing was added a second time.",
        cause="`merge_adapter()` was called twice.",
        cure=("Go on. To take it out again: `model.unmerge_adapter()`.",),
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="A second adapter by accident",
        errors=("UserWarning",),
        pattern=r"You are trying to modify a model with PEFT for a second time|Already found a `peft_config` attribute",
        example="You are trying to modify a model with PEFT for a second time. If you want to reload the model with a "
        "different config, make sure to call `.unload()` before.",
        meaning="A warning, and a serious one: the model has adapter layers from an earlier call, and got more on top.",
        cause="The cell with `get_peft_model` was run twice on the same model: it changes the model that it is given.",
        cure=(
            "Load the base model anew in the same cell, before `get_peft_model`.",
            "Or take the old one off: `model = peft_model.unload()`.",
        ),
        before="model = get_peft_model(model, config)  # run twice",
        after="""\
base = AutoModelForSequenceClassification.from_pretrained(name)
model = get_peft_model(base, config)""",
        packages=("peft",),
        lesson="beginner/lora",
    ),
    Entry(
        title="Prefix tuning with gradient checkpointing",
        errors=("ValueError",),
        pattern=r"does not work with gradient checkpointing",
        example="PREFIX_TUNING does not work with gradient checkpointing.",
        meaning="A prefix is handed to the layers through the cache, and checkpointing turns the cache off.",
        cause="Both are switched on.",
        cure=(
            "`model.activation_checkpointing_disable()`, or prompt tuning (`PromptTuningConfig`), which works with it.",
        ),
        packages=("peft",),
        lesson="intermediate/prompt-tuning",
    ),
    Entry(
        title="Training a quantised model without an adapter",
        errors=("ValueError",),
        pattern=r"You cannot perform fine-tuning on purely quantized models",
        example="You cannot perform fine-tuning on purely quantized models. Please attach trainable adapters on top of the "
        "quantized model to correctly perform fine-tuning.",
        meaning="Weights of 4 or 8 bits are too coarse to be moved by small steps. They stay, and an adapter learns.",
        cause="The model with `load_in_4bit=True` went into the Trainer as it is.",
        cure=(
            "Put an adapter on it: `model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(...))`.",
            "Then make the Trainer with that model.",
        ),
        before="Trainer(model=model_in_4_bits, args=args, train_dataset=train)",
        after="""\
model = prepare_model_for_kbit_training(model_in_4_bits)
model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
Trainer(model=model, args=args, train_dataset=train)""",
        packages=("transformers", "bitsandbytes"),
        lesson="intermediate/qlora",
    ),
    Entry(
        title="Quantisation without bitsandbytes",
        errors=("ImportError",),
        pattern=r"Using `bitsandbytes` .*quantization requires|requires bitsandbytes",
        example="Using `bitsandbytes` 4-bit quantization requires bitsandbytes: `pip install -U bitsandbytes>=0.46.1`",
        meaning="Loading in 4 or 8 bits is done by the package bitsandbytes, which this Python does not have.",
        cause="It is not installed, or in another environment than the one that the notebook runs in.",
        cure=(
            "`python start.py` installs it with the rest; on its own: `%pip install bitsandbytes`.",
            "Then restart the kernel: whether the package is there is looked up only once.",
        ),
        packages=("transformers", "bitsandbytes"),
        lesson="intermediate/qlora",
    ),
    Entry(
        title="Quantisation asked for in the old way",
        errors=("TypeError",),
        pattern=r"got an unexpected keyword argument 'load_in_[48]bit'",
        example="BertForSequenceClassification.__init__() got an unexpected keyword argument 'load_in_4bit'",
        meaning="`from_pretrained` no longer takes `load_in_4bit` itself.",
        cause="The code was written for an older version. Now it goes into a `BitsAndBytesConfig`.",
        cure=("Pass `quantization_config=BitsAndBytesConfig(load_in_4bit=True)`.",),
        before="from_pretrained(name, load_in_4bit=True)",
        after='from_pretrained(name, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))',
        packages=("transformers", "bitsandbytes"),
        lesson="intermediate/qlora",
    ),
    Entry(
        title="4 bits and 8 bits at once",
        errors=("ValueError",),
        pattern=r"load_in_4bit and load_in_8bit are both True",
        example="load_in_4bit and load_in_8bit are both True, but only one can be used at the same time",
        meaning="The weights are stored in 4 bits or in 8.",
        cause="Both were set.",
        cure=("Keep `load_in_4bit=True` for QLoRA.",),
        before="BitsAndBytesConfig(load_in_4bit=True, load_in_8bit=True)",
        after="BitsAndBytesConfig(load_in_4bit=True)",
        packages=("transformers", "bitsandbytes"),
        lesson="intermediate/qlora",
    ),
    Entry(
        title="A quantised model asked for another kind of number",
        errors=("ValueError",),
        pattern=r"`\.(?:half|float)\(\)` is not supported for quantized model|You cannot cast a bitsandbytes model in a new",
        example="`.half()` is not supported for quantized model. Please use the model as it is, since the model has already "
        "been casted to the correct `dtype`.",
        meaning="4-bit weights cannot be turned into another kind of number; the kind to compute in is set when loading.",
        cause="`.half()`, `.float()` or `.to(torch.bfloat16)` on a quantised model.",
        cure=(
            "Delete the line. To compute in bfloat16: `bnb_4bit_compute_dtype=torch.bfloat16` in the config.",
        ),
        before="model = model_in_4_bits.half()",
        after="BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)",
        packages=("transformers", "bitsandbytes"),
        lesson="intermediate/qlora",
    ),
    Entry(
        title="Merging into 4-bit weights",
        errors=("UserWarning",),
        pattern=r"Merge lora module to [48]-bit linear may get different generations",
        example="Merge lora module to 4-bit linear may get different generations due to rounding errors.",
        meaning="A warning: the sum is rounded to 4 bits again, and a part of what the adapter learned is rounded away.",
        cause="`merge_and_unload()` on a quantised base.",
        cure=(
            "Load the base in bfloat16, then the adapter, then merge.",
            "Measure the merged model on held-out data before you use it.",
        ),
        before="merged = peft_model_in_4_bits.merge_and_unload()",
        after="""\
base = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
merged = PeftModel.from_pretrained(base, folder).merge_and_unload()""",
        packages=("peft", "bitsandbytes"),
        lesson="intermediate/qlora",
    ),
)
