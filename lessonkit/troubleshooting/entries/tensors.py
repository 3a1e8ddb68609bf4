"""Errors of tensors: shapes, kinds of numbers, devices, memory."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="Labels out of range",
        errors=("IndexError",),
        pattern=r"Target -?\d+ is out of bounds",
        example="Target 5 is out of bounds.",
        meaning="A label has a number for which the model has no output. A model with `num_labels=2` knows the classes "
        "0 and 1, nothing else.",
        cause="`num_labels` was left at its default of 2, the classes are counted from 1 instead of 0, or a missing "
        "label was written as -1.",
        cure=(
            "Look at the labels that there are: `print(sorted(set(dataset['label'])))`.",
            "Count them from 0 without gaps (`dataset.class_encode_column('label')` does it), then load the model with "
            "that many: `num_labels=...`.",
            "A label that must not count is -100, not -1.",
        ),
        before="model = AutoModelForSequenceClassification.from_pretrained(name)",
        after="""\
classes = sorted(set(dataset["label"]))
model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=len(classes))""",
        packages=("torch",),
        lesson="beginner/full-fine-tuning",
    ),
    Entry(
        title="A number too large for an embedding table",
        errors=("IndexError",),
        pattern=r"index out of range in self",
        example="index out of range in self",
        meaning="The model looked up a row in a table that has fewer rows: a token id beyond its vocabulary, or a "
        "position beyond the longest text that it knows.",
        cause="The tokenizer belongs to another model, tokens were added to it but not to the model, or the text has "
        "more tokens than the model has positions.",
        cure=(
            "Compare: `print(input_ids.max(), model.config.vocab_size, input_ids.shape, "
            "model.config.max_position_embeddings)`.",
            "Ids too large: load tokenizer and model by the same name; after adding tokens call "
            "`model.resize_token_embeddings(len(tokenizer))`.",
            "Text too long: tokenize with `truncation=True, max_length=...`.",
        ),
        before="""\
tokenizer = AutoTokenizer.from_pretrained("one-model")
model = AutoModelForCausalLM.from_pretrained("another-model")""",
        after="""\
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name)""",
        packages=("torch",),
        lesson="beginner/full-fine-tuning",
    ),
    Entry(
        title="A text longer than the model can read",
        errors=("RuntimeError",),
        pattern=r"The expanded size of the tensor \(\d+\) must match the existing size \(\d+\) at non-singleton dimension 1|"
        r"Token indices sequence length is longer than the specified maximum",
        example="The expanded size of the tensor (40) must match the existing size (32) at non-singleton dimension 1.  "
        "Target sizes: [2, 40].  Tensor sizes: [1, 32]",
        meaning="A batch has more tokens in a row (the first number in brackets) than the model has positions (the second).",
        cause="The texts were tokenized without `truncation=True`, so one long text went through in full. The "
        "tokenizer's warning `Token indices sequence length is longer than ...` says so beforehand; it does no harm while "
        "you only count tokens.",
        cure=(
            "Tokenize with `truncation=True, max_length=model.config.max_position_embeddings` or less (RoBERTa: 2 less).",
            "If the ends of the texts matter, cut the texts into several pieces instead.",
        ),
        before='tokenizer(rows["text"])',
        after='tokenizer(rows["text"], truncation=True, max_length=256)',
        packages=("torch", "transformers"),
    ),
    Entry(
        title="Tensors on two devices",
        errors=("RuntimeError",),
        pattern=r"Expected all tensors to be on the same device|is not on the expected device|"
        r"Unhandled FakeTensor Device Propagation",
        example="Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        meaning="Numbers on the GPU and numbers in the main memory cannot be combined. On a machine without a GPU the "
        "message can read `Tensor on device meta is not on the expected device cpu!`.",
        cause="The model was moved to the GPU and the batch was not, or a tensor was made inside your own code without "
        "saying where.",
        cure=(
            "Move the inputs to the model: `batch = {name: each.to(model.device) for name, each in batch.items()}`.",
            "A tensor that you make yourself takes its device from another one: `torch.zeros(3, device=logits.device)`.",
            "`Trainer` moves its batches on its own; then look at your own loss or metric.",
        ),
        before='outputs = model(**tokenizer(text, return_tensors="pt"))',
        after='outputs = model(**tokenizer(text, return_tensors="pt").to(model.device))',
        packages=("torch",),
    ),
    Entry(
        title="Weights that were never loaded",
        errors=("NotImplementedError",),
        pattern=r"Cannot copy out of meta tensor",
        example="Cannot copy out of meta tensor; no data! Please use torch.nn.Module.to_empty() instead of "
        "torch.nn.Module.to() when moving module from meta to a different device.",
        meaning="A part of the model is on the `meta` device: it has shapes and no numbers, so there is nothing to move.",
        cause="The model was made under `torch.device('meta')` or `init_empty_weights()`, or `device_map='auto'` left "
        "parts of it outside the GPU and it was then moved by hand.",
        cure=(
            "Load the weights: `from_pretrained(name)` without `.to(...)` after `device_map=...`.",
            "Too big for the memory? See what would fit: `lessonkit plan --config smollm2`, or your model's `config.json`.",
        ),
        before="""\
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config)
model.to("cpu")""",
        after="model = AutoModelForCausalLM.from_pretrained(name)",
        packages=("torch",),
    ),
    Entry(
        title="Shapes that cannot be multiplied",
        errors=("RuntimeError",),
        pattern=r"mat1 and mat2 shapes cannot be multiplied",
        example="mat1 and mat2 shapes cannot be multiplied (4x768 and 384x2)",
        meaning="A layer got vectors of another width than it was made for. With (4x768 and 384x2): 4 vectors of 768 "
        "numbers, and a layer that takes 384 and gives 2.",
        cause="Your own head or adapter has the hidden size of another model written into it, or the tensor was "
        "flattened or transposed on the way.",
        cure=(
            "Print the shape just before the layer, `hidden.shape`: its last number must be the layer's `in_features`.",
            "Take the width from the model, never from memory: `model.config.hidden_size`.",
        ),
        before="head = torch.nn.Linear(384, 2)",
        after="head = torch.nn.Linear(model.config.hidden_size, 2)",
        packages=("torch",),
    ),
    Entry(
        title="Sizes that do not match",
        errors=("RuntimeError",),
        pattern=r"The size of tensor a \(\d+\) must match the size of tensor b \(\d+\)",
        example="The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0",
        meaning="Two tensors are to be added, multiplied or compared number by number, and differ in length along one "
        "dimension (counted from 0).",
        cause="A mask, position or soft prompt was not lengthened along with the inputs, or one of the two lacks a "
        "dimension.",
        cure=(
            "Print both shapes just before the line.",
            "If inputs were lengthened by virtual tokens, lengthen the attention mask and the labels as well.",
            "If one lacks a dimension, add it: `x.unsqueeze(-1)`.",
        ),
        packages=("torch",),
    ),
    Entry(
        title="Two kinds of numbers in one multiplication",
        errors=("RuntimeError",),
        pattern=r"must have the same dtype|to have the same dtype, but got|mixed dtype \(CPU\)",
        example="mat1 and mat2 must have the same dtype, but got Float and BFloat16",
        meaning="One side is in float32 (Float), the other in bfloat16 or float16 (Half). A matrix product needs one kind.",
        cause="The model is in half precision and the inputs, a new head or an adapter are in float32, or the other way "
        "round. Since version 5, transformers loads a model as its file holds it, unless `dtype=` says otherwise.",
        cure=(
            "See the kinds: `print({p.dtype for p in model.parameters()})`.",
            "To train, load in float32 (`dtype=torch.float32`) and let `bf16=True` in `TrainingArguments` do the mixing.",
            "In your own loop, compute inside `with torch.autocast(model.device.type, dtype=torch.bfloat16):`.",
            "Or turn your own layer into the model's kind: `head.to(model.dtype)`.",
        ),
        before="logits = head(hidden)  # hidden is bfloat16, head float32",
        after="logits = head(hidden.to(head.weight.dtype))",
        packages=("torch",),
    ),
    Entry(
        title="Token ids that are not whole numbers",
        errors=("RuntimeError",),
        pattern=r"Expected tensor for argument #1 'indices' to have one of the following scalar types",
        example="Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got "
        "torch.FloatTensor instead (while checking arguments for embedding)",
        meaning="The embedding looks rows up by number, and got decimals where it takes whole numbers.",
        cause="An empty list became a tensor (PyTorch makes decimals of it), or the whole batch was turned into "
        "`float()` or `bfloat16`.",
        cure=(
            "Turn only the model into half precision, never the batch.",
            "Look for empty texts: `dataset.filter(lambda row: len(row['input_ids']) > 0)`.",
            "If the ids are right otherwise: `input_ids.long()`.",
        ),
        before='torch.tensor(tokenizer("")["input_ids"])  # empty: float32',
        after='torch.tensor(tokenizer(text)["input_ids"], dtype=torch.long)',
        packages=("torch",),
    ),
    Entry(
        title="Examples of different length in one batch",
        errors=("RuntimeError",),
        pattern=r"stack expects each tensor to be equal size",
        example="stack expects each tensor to be equal size, but got [3] at entry 0 and [4] at entry 1",
        meaning="A batch is a rectangle, and the rows have different lengths.",
        cause="The `DataLoader` puts rows together as they are; nobody filled them up (padded them) to one length.",
        cure=(
            "Give the loader a collator that pads: `collate_fn=DataCollatorWithPadding(tokenizer)`.",
            "For `Trainer`, pass `processing_class=tokenizer`: then it pads on its own.",
        ),
        before="DataLoader(dataset, batch_size=8)",
        after="DataLoader(dataset, batch_size=8, collate_fn=DataCollatorWithPadding(tokenizer))",
        packages=("torch",),
    ),
    Entry(
        title="Labels for another number of rows",
        errors=("ValueError",),
        pattern=r"Expected input batch_size \(\d+\) to match target batch_size \(\d+\)",
        example="Expected input batch_size (2) to match target batch_size (3).",
        meaning="The loss got predictions for one number of rows (or tokens) and labels for another.",
        cause="There is a label for each token but one for each text is wanted, or the reverse; or the labels were not cut "
        "and padded along with the texts.",
        cure=(
            "Print `logits.shape` and `labels.shape`; without the last dimension of the logits they must be equal.",
            "One label for each text: a `...ForSequenceClassification` model. One for each token: "
            "`...ForTokenClassification`, with `DataCollatorForTokenClassification`.",
        ),
        packages=("torch",),
    ),
    Entry(
        title="Class labels given as decimals",
        errors=("RuntimeError",),
        pattern=r"expected target dtype to be Long|expected scalar type Long but found (?:Float|Double)",
        example="expected target dtype to be Long or Byte, but got Float",
        meaning="Cross-entropy takes the number of the right class, a whole number, and got a decimal.",
        cause="The labels came from a table with missing values, where whole numbers turn into 1.0 and 2.0; or the loss "
        "is meant for something else (a score, several classes at once).",
        cure=(
            "One class out of several: `labels.long()`, or `dataset.cast_column('label', Value('int64'))`.",
            "A score to predict: load with `num_labels=1, problem_type='regression'`.",
            "Several classes at once: `problem_type='multi_label_classification'`, with decimals 0.0 and 1.0.",
        ),
        before="labels = torch.tensor([0.0, 1.0])",
        after="labels = torch.tensor([0, 1])",
        packages=("torch",),
    ),
    Entry(
        title="Several labels given as whole numbers",
        errors=("RuntimeError",),
        pattern=r"result type Float can't be cast to the desired output type (?:Long|long int)",
        example="result type Float can't be cast to the desired output type Long",
        meaning="For several classes at once the loss compares decimals with decimals, and the labels are whole numbers.",
        cause="`problem_type='multi_label_classification'` with labels such as `[0, 1, 1]` instead of `[0.0, 1.0, 1.0]`.",
        cure=(
            "Make them decimals in the dataset: `dataset.cast_column('labels', List(Value('float32')))`, with "
            "`from datasets import List, Value`. A `map` that returns decimals leaves the column's kind as it was.",
        ),
        before='dataset = dataset.map(lambda row: {"labels": [float(each) for each in row["labels"]]})',
        after='dataset = dataset.cast_column("labels", List(Value("float32")))',
        packages=("torch",),
    ),
    Entry(
        title="Not enough memory on this computer",
        errors=("RuntimeError",),
        pattern=r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)",
        example="[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)",
        meaning="The main memory does not have room for one more tensor of that size.",
        cause="The batch, the texts or the model are too large for this machine, or other programs and other notebooks "
        "hold the memory.",
        cure=(
            "Close other notebooks (in JupyterLab: the circle with a square in it, at the left edge, lists what runs) and "
            "restart this kernel.",
            "Halve `per_device_train_batch_size` and double `gradient_accumulation_steps`: the same training, less memory.",
            "Shorten the texts (`max_length`), or train fewer weights (LoRA).",
            "See what would fit before you start: `lessonkit plan --config minilm`, or your model's `config.json`.",
        ),
        before="per_device_train_batch_size=32, gradient_accumulation_steps=1",
        after="per_device_train_batch_size=8, gradient_accumulation_steps=4",
        packages=("torch",),
    ),
    Entry(
        title="Not enough memory on the GPU",
        errors=("OutOfMemoryError", "RuntimeError"),
        pattern=r"CUDA out of memory",
        example="CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 14.74 GiB of which "
        "1.06 GiB is free.",
        meaning="The GPU's memory does not have room for one more tensor of that size.",
        cause="The batch, the texts or the model are too large for it, or an earlier cell or another notebook still "
        "holds memory there.",
        cure=(
            "Restart the kernel: after a failed run, its traceback still holds the memory.",
            "Halve `per_device_train_batch_size` and double `gradient_accumulation_steps`; `lessonkit.run(trainer)` does "
            "that by itself.",
            "Then `activation_checkpointing=True` (in older versions `gradient_checkpointing=True`), shorter texts, LoRA, "
            "QLoRA, in this order.",
            "See what would fit before you start: `lessonkit plan --config minilm`, or your model's `config.json`.",
        ),
        before="per_device_train_batch_size=32, gradient_accumulation_steps=1",
        after="per_device_train_batch_size=8, gradient_accumulation_steps=4",
        packages=("torch",),
        reproduced=False,
    ),
    Entry(
        title="An error on the GPU that names no line",
        errors=("RuntimeError", "AcceleratorError"),
        pattern=r"CUDA error: device-side assert triggered",
        example="CUDA error: device-side assert triggered",
        meaning="A check failed on the GPU, which works ahead of Python: the line in the traceback may be the wrong one, "
        "and the GPU is of no use until the kernel is restarted.",
        cause="Mostly a label or a token id out of range.",
        cure=(
            "Restart the kernel and run the same on the CPU (`use_cpu=True`, or `model.to('cpu')`): there the error says "
            "what it is.",
            "Then look it up again; `lessonkit explain labels-out-of-range` is the likely one.",
        ),
        packages=("torch",),
        reproduced=False,
    ),
    Entry(
        title="No GPU for PyTorch",
        errors=("AssertionError", "RuntimeError"),
        pattern=r"Torch not compiled with CUDA enabled|Found no NVIDIA driver on your system",
        example="Torch not compiled with CUDA enabled",
        meaning="Something was to go to the GPU, and this PyTorch has none to use.",
        cause="The code says `.cuda()` or `.to('cuda')` and the machine has no NVIDIA GPU, or the PyTorch installed here "
        "is the one for the CPU.",
        cure=(
            "Write code that runs on both: `device = 'cuda' if torch.cuda.is_available() else 'cpu'`.",
            "On Colab: Runtime > Change runtime type > T4 GPU.",
            "With a GPU in the machine: `lessonkit doctor` says what is missing.",
        ),
        before='model.to("cuda")',
        after='model.to("cuda" if torch.cuda.is_available() else "cpu")',
        packages=("torch",),
    ),
    Entry(
        title="A tensor that NumPy cannot hold",
        errors=("TypeError",),
        pattern=r"Got unsupported ScalarType BFloat16",
        example="Got unsupported ScalarType BFloat16",
        meaning="NumPy has no bfloat16, so such a tensor cannot become an array.",
        cause="The outputs of a model in bfloat16 go into a metric or a plot.",
        cure=("Turn it into float32 first: `logits.float().numpy()`.",),
        before="logits.numpy()",
        after="logits.float().cpu().numpy()",
        packages=("torch",),
    ),
    Entry(
        title="One number wanted and many given",
        errors=("RuntimeError",),
        pattern=r"a Tensor with \d+ elements cannot be converted to Scalar",
        example="a Tensor with 3 elements cannot be converted to Scalar",
        meaning="`.item()` or `float()` makes a Python number out of a tensor with exactly one number, and this has more.",
        cause="A loss for each row was not averaged, or a whole batch of predictions is treated as one.",
        cure=(
            "A loss: `loss.mean().item()`.",
            "All of the numbers: `predictions.tolist()`.",
        ),
        before="loss.item()",
        after="loss.mean().item()",
        packages=("torch",),
    ),
    Entry(
        title="A yes or no asked of many numbers",
        errors=("RuntimeError", "ValueError"),
        pattern=r"Boolean value of Tensor with more than one value is ambiguous|"
        r"truth value of an array with more than one element is ambiguous",
        example="Boolean value of Tensor with more than one value is ambiguous",
        meaning="`if` needs one yes or no, and a comparison of tensors gives one for each number.",
        cause="`if predictions == labels:` with whole batches, or `tensor in list`.",
        cure=(
            "All of them: `(predictions == labels).all()`. Which share: `(predictions == labels).float().mean()`.",
        ),
        before="""\
if predictions == labels:
    right += 1""",
        after="right += (predictions == labels).sum().item()",
        packages=("torch",),
    ),
)
