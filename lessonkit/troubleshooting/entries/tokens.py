"""Errors of tokenizers and collators: padding, missing special tokens, what goes in."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="A tokenizer without a padding token",
        errors=("ValueError",),
        pattern=r"Asking to pad but the tokenizer does not have a padding token|"
        r"attempting to pad samples but the tokenizer you are using",
        example="Asking to pad but the tokenizer does not have a padding token. Please select a token to use as "
        "`pad_token` `(tokenizer.pad_token = tokenizer.eos_token e.g.)` or add a new pad token via "
        "`tokenizer.add_special_tokens({'pad_token': '[PAD]'})`.",
        meaning="Shorter texts of a batch are filled up with a padding token, and this tokenizer has none.",
        cause="Models that write text (GPT-2, Llama) were trained without padding, so their tokenizers come without it.",
        cure=(
            "Before the texts are tokenized: `tokenizer.pad_token = tokenizer.eos_token`.",
            "The attention mask and labels of -100 keep padding out of what is learned; "
            "`lessonkit.CausalLMCollator` masks it by position, so that the real end of text is still learned.",
        ),
        before='tokenizer(["short", "a longer text"], padding=True)',
        after="""\
tokenizer.pad_token = tokenizer.eos_token
tokenizer(["short", "a longer text"], padding=True)""",
        packages=("transformers",),
    ),
    Entry(
        title="A model that does not know its padding token",
        errors=("ValueError",),
        pattern=r"Cannot handle batch sizes > 1 if no padding token is defined",
        example="Cannot handle batch sizes > 1 if no padding token is defined.",
        meaning="A text-writing model that classifies reads the last token before the padding, so it must know which "
        "token is padding. Giving it to the tokenizer is not enough.",
        cause="`tokenizer.pad_token` was set and `model.config.pad_token_id` was not.",
        cure=("Set both, before training: `model.config.pad_token_id = tokenizer.pad_token_id`.",),
        before="tokenizer.pad_token = tokenizer.eos_token",
        after="""\
tokenizer.pad_token = tokenizer.eos_token
model.config.pad_token_id = tokenizer.pad_token_id""",
        packages=("transformers",),
    ),
    Entry(
        title="Rows that make no rectangle",
        errors=("ValueError",),
        pattern=r"Unable to create tensor, you should probably activate truncation and/or padding",
        example="Unable to create tensor, you should probably activate truncation and/or padding with 'padding=True' "
        "'truncation=True' to have batched tensors with the same length. Perhaps your features (`labels` in this case) "
        "have excessive nesting (inputs type `list` where type `int` is expected).",
        meaning="A column (the message names it) holds rows of different lengths, or texts, and cannot become a tensor.",
        cause="The texts were tokenized with `return_tensors='pt'` and without padding; labels have one entry per token and "
        "the collator pads only the inputs; or a column of texts is still in the dataset.",
        cure=(
            "Tokenize without `return_tensors`, and let the collator pad each batch.",
            "Labels for each token: `DataCollatorForTokenClassification` (or `DataCollatorForSeq2Seq`), which pads them "
            "with -100.",
            "Take columns of text out: `dataset.remove_columns(['text'])`.",
        ),
        before='tokenizer(texts, return_tensors="pt")',
        after='tokenizer(texts, return_tensors="pt", padding=True, truncation=True)',
        packages=("transformers",),
    ),
    Entry(
        title="A tokenizer fed with something else than text",
        errors=("ValueError", "TypeError"),
        pattern=r"text input must be of type `str`|TextEncodeInput must be Union|TextInputSequence must be str",
        example="TextEncodeInput must be Union[TextInputSequence, Tuple[InputSequence, InputSequence]]",
        meaning="A tokenizer takes a text or a list of texts, but got something else: a missing value, a number, a whole "
        "row.",
        cause="The column has empty cells (None), the wrong column was passed, or a row instead of its text.",
        cure=(
            "Look at what goes in: `print(type(texts), texts[:3])`.",
            "Drop empty cells: `dataset.filter(lambda row: row['text'] is not None)`.",
            "In `map`, pass the column: `tokenizer(rows['text'])`.",
        ),
        before="dataset.map(lambda rows: tokenizer(rows), batched=True)",
        after='dataset.map(lambda rows: tokenizer(rows["text"]), batched=True)',
        packages=("transformers",),
    ),
    Entry(
        title="A tokenizer without a chat template",
        errors=("ValueError",),
        pattern=r"Cannot use chat template functions because tokenizer\.chat_template is not set",
        example="Cannot use chat template functions because tokenizer.chat_template is not set and no template argument "
        "was passed!",
        meaning="The tokenizer does not know how a conversation is written as one text for this model.",
        cause="It belongs to a base model, which was never taught conversations; only the versions named Instruct or "
        "Chat bring a template.",
        cure=(
            "Use the Instruct version of the model, if there is one.",
            "Or write the prompt yourself, and the same way in training and in use.",
            "Or give it a template: `tokenizer.chat_template = ...`, before training.",
        ),
        before="tokenizer.apply_chat_template(messages)",
        after='prompt = f"Question: {question}\\nAnswer:"',
        packages=("transformers",),
    ),
    Entry(
        title="A masked-word collator for a model that writes text",
        errors=("ValueError",),
        pattern=r"This tokenizer does not have a mask token which is necessary for masked language modeling",
        example="This tokenizer does not have a mask token which is necessary for masked language modeling. You should "
        "pass `mlm=False` to train on causal language modeling instead.",
        meaning="`DataCollatorForLanguageModeling` hides words behind a mask token by default, and this tokenizer has none.",
        cause="The model writes text from left to right (GPT-2, Llama), where nothing is masked.",
        cure=("Pass `mlm=False`.",),
        before="DataCollatorForLanguageModeling(tokenizer)",
        after="DataCollatorForLanguageModeling(tokenizer, mlm=False)",
        packages=("transformers",),
    ),
    Entry(
        title="Ignored labels decoded to text",
        errors=("OverflowError",),
        pattern=r"number too (?:small|large) to fit in target type",
        example="number too small to fit in target type",
        meaning="A token id is negative or enormous, and no token has such a number.",
        cause="Labels are -100 where they do not count, and they were given to `tokenizer.decode` as they are.",
        cure=("Put the padding token in their place, or leave them out, before decoding.",),
        before="tokenizer.decode(labels)",
        after="tokenizer.decode([each for each in labels if each != -100])",
        packages=("transformers",),
    ),
    Entry(
        title="A prompt longer than the answer may be",
        errors=("ValueError",),
        pattern=r"Input length of input_ids is \d+, but `max_length` is set to \d+",
        example="Input length of input_ids is 20, but `max_length` is set to 10. This can lead to unexpected behavior. You "
        "should consider increasing `max_length` or, better yet, setting `max_new_tokens`.",
        meaning="`max_length` counts the prompt and the answer together, and the prompt alone is longer.",
        cause="`max_length` was meant to say how long the answer may be.",
        cure=("Say that: `model.generate(**inputs, max_new_tokens=50)`.",),
        before="model.generate(**inputs, max_length=50)",
        after="model.generate(**inputs, max_new_tokens=50)",
        packages=("transformers",),
    ),
    Entry(
        title="Padding on the wrong side for writing",
        errors=(),
        pattern=r"A decoder-only architecture is being used, but right-padding was detected",
        example="A decoder-only architecture is being used, but right-padding was detected! For correct generation results, "
        "please set `padding_side='left'` when initializing the tokenizer.",
        meaning="A warning, and a serious one: the model writes on after the last token, and that is padding. The answers "
        "to shorter prompts get worse.",
        cause="Tokenizers pad at the right by default, which is right for training.",
        cure=("Before writing, not before training: `tokenizer.padding_side = 'left'`.",),
        before='inputs = tokenizer(prompts, return_tensors="pt", padding=True)',
        after="""\
tokenizer.padding_side = "left"
inputs = tokenizer(prompts, return_tensors="pt", padding=True)""",
        packages=("transformers",),
    ),
    Entry(
        title="Rows left unpadded by the plain collator",
        errors=("ValueError", "RuntimeError"),
        pattern=r"^expected sequence of length \d+ at dim 1 \(got \d+\)|"
        r"each element in list of batch should be of equal size",
        example="expected sequence of length 11 at dim 1 (got 8)",
        meaning="A batch is a rectangle, and the rows have different lengths.",
        cause="`Trainer` was made without a tokenizer, so it puts rows together as they are; or a plain `DataLoader` did.",
        cure=(
            "Give the Trainer the tokenizer: `processing_class=tokenizer`; then it pads each batch.",
            "Or the collator itself: `data_collator=DataCollatorWithPadding(tokenizer)`.",
        ),
        before="Trainer(model=model, args=args, train_dataset=tokenized)",
        after="Trainer(model=model, args=args, train_dataset=tokenized, processing_class=tokenizer)",
        packages=("transformers", "torch"),
    ),
)
