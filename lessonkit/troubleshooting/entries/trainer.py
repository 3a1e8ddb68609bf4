"""Errors of Trainer and TrainingArguments: settings that contradict each other, batches without labels."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="A training argument with an unknown name",
        errors=("TypeError",),
        pattern=r"TrainingArguments\.__init__\(\) got an unexpected keyword argument",
        example="TrainingArguments.__init__() got an unexpected keyword argument 'evaluation_strategy'",
        meaning="`TrainingArguments` has no argument of that name.",
        cause="Tutorials written for older versions: `evaluation_strategy` is now `eval_strategy`, `no_cuda` is "
        "`use_cpu`, `warmup_ratio=0.1` is `warmup_steps=0.1`, `group_by_length=True` is "
        "`train_sampling_strategy='group_by_length'`, and `overwrite_output_dir` is gone. Or it is a typo.",
        cure=(
            "Write the new name; leave out what is gone.",
            "See all names: `help(TrainingArguments)`, or type `TrainingArguments(` and press Shift-Tab.",
        ),
        before='TrainingArguments(output_dir="out", evaluation_strategy="epoch", no_cuda=True)',
        after='TrainingArguments(output_dir="out", eval_strategy="epoch", use_cpu=True)',
        packages=("transformers",),
    ),
    Entry(
        title="A tokenizer given to Trainer by its old name",
        errors=("TypeError",),
        pattern=r"Trainer\.__init__\(\) got an unexpected keyword argument 'tokenizer'",
        example="Trainer.__init__() got an unexpected keyword argument 'tokenizer'",
        meaning="`Trainer` takes the tokenizer under another name now.",
        cause="The code was written for an older version: `tokenizer=` became `processing_class=`.",
        cure=(
            "Write `processing_class=tokenizer`. The Trainer then also pads batches and saves the tokenizer.",
        ),
        before="Trainer(model=model, args=args, tokenizer=tokenizer)",
        after="Trainer(model=model, args=args, processing_class=tokenizer)",
        packages=("transformers",),
    ),
    Entry(
        title="An argument whose name is going away",
        errors=("FutureWarning", "DeprecationWarning"),
        pattern=r"is deprecated and will be removed in",
        example="`gradient_checkpointing` is deprecated and will be removed in v6. Use `activation_checkpointing` instead.",
        meaning="A warning, not an error: it works today, and will stop working with the version that it names.",
        cause="The name was changed; the message says the new one.",
        cure=("Write the new name. If the line is not yours but a library's, leave it.",),
        before='TrainingArguments(output_dir="out", gradient_checkpointing=True)',
        after='TrainingArguments(output_dir="out", activation_checkpointing=True)',
        packages=("transformers",),
        general=True,
    ),
    Entry(
        title="A strategy that does not exist",
        errors=("ValueError",),
        pattern=r"is not a valid \w+(?:Strategy|Type|Names), please select one of",
        example="epochs is not a valid SaveStrategy, please select one of ['no', 'steps', 'epoch', 'best']",
        meaning="An argument takes one of a few words, and got another; the message lists them.",
        cause="A typo, such as `epochs` for `epoch`.",
        cure=("Write one of the words in the list.",),
        before='TrainingArguments("out", save_strategy="epochs")',
        after='TrainingArguments("out", save_strategy="epoch")',
        packages=("transformers",),
    ),
    Entry(
        title="Evaluation asked for without data for it",
        errors=("ValueError",),
        pattern=r"You have set `args\.eval_strategy` to .* but you didn't pass an `eval_dataset`",
        example="You have set `args.eval_strategy` to IntervalStrategy.EPOCH but you didn't pass an `eval_dataset` to "
        "`Trainer`. Either set `args.eval_strategy` to `no` or pass an `eval_dataset`.",
        meaning="The arguments say that the model is measured during the training, and there is nothing to measure it on.",
        cause="`eval_dataset=` was forgotten.",
        cure=(
            "Pass one: `Trainer(..., eval_dataset=validation)`.",
            "Without one: `validation = train.train_test_split(test_size=0.1, seed=0)['test']`. Never the test set.",
        ),
        before='Trainer(model, TrainingArguments("out", eval_strategy="epoch"), train_dataset=train)',
        after='Trainer(model, TrainingArguments("out", eval_strategy="epoch"), train_dataset=train, '
        "eval_dataset=validation)",
        packages=("transformers",),
        lesson="beginner/full-fine-tuning",
    ),
    Entry(
        title="Training without training data",
        errors=("ValueError",),
        pattern=r"Trainer: training requires a train_dataset",
        example="Trainer: training requires a train_dataset.",
        meaning="`train()` was called and the Trainer has no `train_dataset`.",
        cause="It was forgotten, or the Trainer was made for evaluation only.",
        cure=("Make it with `Trainer(..., train_dataset=train)`.",),
        packages=("transformers",),
    ),
    Entry(
        title="Saving and evaluating at different times",
        errors=("ValueError",),
        pattern=r"--load_best_model_at_end requires",
        example="--load_best_model_at_end requires the save and eval strategy to match, except when "
        '--save_strategy="best", but found\n- Evaluation strategy: IntervalStrategy.EPOCH\n- Save strategy: '
        "SaveStrategy.STEPS",
        meaning="To go back to the best model at the end, each one that is measured must have been saved.",
        cause="`eval_strategy` and `save_strategy` differ, or `save_steps` is not a multiple of `eval_steps`. The default "
        "for saving is every 500 steps.",
        cure=("Set both to the same: `eval_strategy='epoch', save_strategy='epoch'`.",),
        before='TrainingArguments("out", eval_strategy="epoch", load_best_model_at_end=True)',
        after='TrainingArguments("out", eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)',
        packages=("transformers",),
    ),
    Entry(
        title="The metric for the best model is missing",
        errors=("KeyError",),
        pattern=r"The `metric_for_best_model` training argument is set to",
        example="\"The `metric_for_best_model` training argument is set to 'eval_f1', which is not found in the evaluation "
        "metrics. The available evaluation metrics are: ['eval_loss', 'eval_runtime', ...]\"",
        meaning="The best model is to be chosen by a metric that the evaluation does not produce; the message lists those "
        "that it does.",
        cause="`compute_metrics` was not passed, or gives it another name; or the evaluation rows have no labels, so that "
        "no metric is computed at all.",
        cure=(
            "Pass `compute_metrics=` and return the metric by that name: `{'f1': ...}` for `metric_for_best_model='f1'`.",
            "See that the evaluation data has the column `label` or `labels`.",
            "Or choose by the loss: `metric_for_best_model='loss', greater_is_better=False`.",
        ),
        packages=("transformers",),
    ),
    Entry(
        title="No column that the model knows",
        errors=("ValueError",),
        pattern=r"No columns in the dataset match the model's forward method signature",
        example="No columns in the dataset match the model's forward method signature: (input_ids, attention_mask, ..., "
        "labels, label). The following columns have been ignored: [a].",
        meaning="`Trainer` keeps the columns that the model's `forward` takes and drops the rest, and nothing was left.",
        cause="The dataset has not been tokenized, or the columns have names of their own.",
        cure=(
            "Tokenize: `dataset.map(lambda rows: tokenizer(rows['text'], truncation=True), batched=True)`.",
            "See what it has: `print(dataset.column_names)`; it needs `input_ids`, and `labels` or `label`.",
            "With your own collator that turns texts into tensors: `remove_unused_columns=False`.",
        ),
        packages=("transformers",),
        lesson="beginner/full-fine-tuning",
    ),
    Entry(
        title="Rows that were never tokenized",
        errors=("ValueError",),
        pattern=r"You should supply an encoding or a list of encodings to this method that includes input_ids",
        example="You should supply an encoding or a list of encodings to this method that includes input_ids, but you "
        "provided ['label']",
        meaning="The collator got rows without `input_ids`; the message says what they have instead.",
        cause="The texts went into the Trainer as they are; it drops the column of texts, and the labels are left.",
        cure=("Tokenize the dataset first, and give the Trainer the result.",),
        before="Trainer(..., train_dataset=dataset)",
        after="""\
tokenized = dataset.map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True)
Trainer(..., train_dataset=tokenized)""",
        packages=("transformers",),
        lesson="beginner/full-fine-tuning",
    ),
    Entry(
        title="The model returned no loss",
        errors=("ValueError",),
        pattern=r"The model did not return a loss from the inputs",
        example="The model did not return a loss from the inputs, only the following keys: logits. For reference, the "
        "inputs it received are input_ids,attention_mask.",
        meaning="A model computes its loss when it is given labels, and it was given none.",
        cause="The column has another name than `label` or `labels` and was dropped; a text-writing model got no labels "
        "from its collator; or the model has no head for a task (`AutoModel`).",
        cure=(
            "Rename it: `dataset.rename_column('sentiment', 'labels')`.",
            "To train a text-writing model: `data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)`.",
            "Load a model with a head: `AutoModelForSequenceClassification`, not `AutoModel`.",
        ),
        before='dataset = dataset.rename_column("label", "sentiment")',
        after='dataset = dataset.rename_column("sentiment", "labels")',
        packages=("transformers",),
        lesson="beginner/full-fine-tuning",
    ),
    Entry(
        title="A loss that is not there",
        errors=("AttributeError",),
        pattern=r"'NoneType' object has no attribute '(?:backward|item|detach|mean)'",
        example="'NoneType' object has no attribute 'backward'",
        meaning="`outputs.loss` is None: the model was called without labels, so it computed no loss.",
        cause="The batch has no `labels`. In your own loop the name must be exactly that: `label` is passed over.",
        cure=("Pass them: `model(input_ids=..., attention_mask=..., labels=...)`.",),
        before="model(input_ids=input_ids).loss.backward()",
        after="model(input_ids=input_ids, labels=labels).loss.backward()",
        packages=("transformers",),
    ),
    Entry(
        title="A stream of unknown length",
        errors=("ValueError",),
        pattern=r"The train_dataset does not implement __len__",
        example="The train_dataset does not implement __len__, so the number of training steps cannot be inferred; "
        "max_steps has to be specified.",
        meaning="The learning rate falls towards the end of the training, so the end must be known.",
        cause="The dataset is streamed (`streaming=True`), and a stream does not know its length.",
        cure=("Say how many steps: `max_steps = rows * epochs // batch_size`.",),
        before='TrainingArguments("out", num_train_epochs=3)',
        after='TrainingArguments("out", max_steps=1000)',
        packages=("transformers",),
    ),
    Entry(
        title="Two kinds of half precision at once",
        errors=("ValueError",),
        pattern=r"At most one of fp16 and bf16 can be True",
        example="At most one of fp16 and bf16 can be True, but not both",
        meaning="Training computes in float16 or in bfloat16, not in both.",
        cause="Both were set, one of them perhaps by code that you copied.",
        cure=(
            "On GPUs from 2020 on, `bf16=True` alone; on an older one, such as a T4, `fp16=True` alone. On a CPU "
            "`bf16=True, use_cpu=True`, or neither.",
            "`lessonkit.training_arguments()` picks what this machine can do.",
        ),
        before='TrainingArguments("out", fp16=True, bf16=True)',
        after='TrainingArguments("out", bf16=True)',
        packages=("transformers",),
    ),
    Entry(
        title="Half precision on a machine without it",
        errors=("ValueError",),
        pattern=r"Your setup doesn't support bf16|(?:bf16|fp16) mixed precision requires",
        example="Your setup doesn't support bf16/gpu. You need to assign use_cpu if you want to train the model on CPU.",
        meaning="`bf16=True` asks for a GPU that computes in bfloat16, and there is none here.",
        cause="The machine has no GPU, or PyTorch doesn't see it.",
        cure=(
            "Without a GPU: `bf16=True, use_cpu=True`, or leave `bf16` out.",
            "On Colab: Runtime > Change runtime type > T4 GPU. A T4 is faster with `fp16=True`: it only imitates bfloat16.",
            "`lessonkit.training_arguments()` picks what this machine can do.",
        ),
        before='TrainingArguments("out", bf16=True)',
        after='TrainingArguments("out", bf16=True, use_cpu=True)',
        packages=("transformers",),
    ),
    Entry(
        title="A number given as text",
        errors=("TypeError",),
        pattern=r"'<=?' not supported between instances of '(?:float|int)' and 'str'",
        example="'<=' not supported between instances of 'float' and 'str'",
        meaning="A number is compared with a text that looks like a number.",
        cause="A setting was written with quotation marks, or read from a YAML file, where `2e-5` is a text and `2.0e-5` a "
        "number.",
        cure=("Make it a number: `float(settings['learning_rate'])`.",),
        before='TrainingArguments("out", learning_rate="2e-5")',
        after='TrainingArguments("out", learning_rate=2e-5)',
        packages=("torch",),
        general=True,
    ),
    Entry(
        title="No checkpoint to go on from",
        errors=("ValueError",),
        pattern=r"Can't find a valid checkpoint at|No valid checkpoint found in output directory",
        example="No valid checkpoint found in output directory (out)",
        meaning="Training was to go on from a checkpoint, and there is none in that folder.",
        cause="The first run ended before it saved one, `output_dir` is not the folder of that run, or the notebook was "
        "started from another folder.",
        cure=(
            "See what is there: `ls out`. A checkpoint is a folder such as `checkpoint-500`.",
            "Start anew: leave `resume_from_checkpoint` out. Save sooner: `save_steps=50`.",
            "`lessonkit.run(trainer, resume=True)` goes on from the newest whole checkpoint, and from the beginning if "
            "there is none.",
        ),
        packages=("transformers",),
    ),
    Entry(
        title="A checkpoint file that is not whole",
        errors=("RuntimeError",),
        pattern=r"PytorchStreamReader failed",
        example="PytorchStreamReader failed reading zip archive: failed finding central directory.",
        meaning="A file of PyTorch ends in the middle.",
        cause="The program was stopped, or the disk was full, while the checkpoint was written; or a download broke off.",
        cure=(
            "Go on from the checkpoint before it: `trainer.train(resume_from_checkpoint='out/checkpoint-400')`.",
            "Delete the broken folder. A downloaded file: fetch it again.",
        ),
        packages=("torch",),
    ),
)
