"""Errors of the backward pass: what cannot be differentiated, and what is done twice."""

from __future__ import annotations

from lessonkit.troubleshooting.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        title="Nothing to train",
        errors=("RuntimeError",),
        pattern=r"element 0 of tensors does not require grad",
        example="element 0 of tensors does not require grad and does not have a grad_fn",
        meaning="`backward()` looked for weights that are to be learned, and the loss depends on none.",
        cause="All weights are frozen (`requires_grad = False`) with no adapter put in, the loss was computed under "
        "`torch.no_grad()`, or it was detached on the way (`.item()`, `.detach()`).",
        cure=(
            "Count them: `print(sum(p.requires_grad for p in model.parameters()))`.",
            "None: unfreeze the head, or add an adapter with `get_peft_model(model, LoraConfig(...))`.",
            "An adapter loaded to train on: `PeftModel.from_pretrained(model, folder, is_trainable=True)`.",
            "With activation (gradient) checkpointing and a frozen base: `model.enable_input_require_grads()`.",
        ),
        before="""\
model.requires_grad_(False)
model(**batch).loss.backward()""",
        after="""\
model.requires_grad_(False)
model.classifier.requires_grad_(True)
model(**batch).loss.backward()""",
        packages=("torch",),
        lesson="beginner/full-fine-tuning",
    ),
    Entry(
        title="An optimiser without weights",
        errors=("ValueError",),
        pattern=r"optimizer got an empty parameter list",
        example="optimizer got an empty parameter list",
        meaning="The list of weights to train is empty.",
        cause="Everything is frozen, or the list came from a generator that had been used up.",
        cure=(
            "Unfreeze something or add the adapter first; then make the optimiser.",
            "Make the list anew: `[p for p in model.parameters() if p.requires_grad]`.",
        ),
        packages=("torch",),
    ),
    Entry(
        title="A backward pass done twice",
        errors=("RuntimeError",),
        pattern=r"Trying to backward through the graph a second time",
        example="Trying to backward through the graph a second time (or directly access saved tensors after they have "
        "already been freed).",
        meaning="PyTorch forgets the intermediate results of a forward pass once it has gone backward through them.",
        cause="The cell with `loss.backward()` was run again without the forward pass, or a tensor of an earlier step is "
        "used in the next one (a running loss with its graph, say).",
        cure=(
            "Run forward pass, loss and backward together, in one cell.",
            "Keep running sums as numbers: `total += loss.item()`, not `total += loss`.",
            "Carry a state over to the next step without its graph: `state.detach()`.",
        ),
        before="""\
loss.backward()
loss.backward()""",
        after="""\
for batch in loader:
    loss = model(**batch).loss
    loss.backward()""",
        packages=("torch",),
    ),
    Entry(
        title="A value changed that the backward pass needs",
        errors=("RuntimeError",),
        pattern=r"needed for gradient computation has been modified by an inplace operation",
        example="one of the variables needed for gradient computation has been modified by an inplace operation: "
        "[torch.FloatTensor [3]], which is output 0 of Exp, is at version 1; expected version 0 instead.",
        meaning="A tensor was overwritten, and its old numbers are needed to compute a gradient.",
        cause="`x += ...`, `x[mask] = ...` or a function with a `_` at its end, between forward and backward; or the "
        "optimiser stepped before `backward()`.",
        cure=(
            "Write a new tensor: `x = x + ...`, `torch.where(mask, value, x)`.",
            "Keep the order: forward, backward, `optimizer.step()`, `optimizer.zero_grad()`.",
        ),
        before="y += 1",
        after="y = y + 1",
        packages=("torch",),
    ),
    Entry(
        title="A weight changed by hand",
        errors=("RuntimeError",),
        pattern=r"a leaf Variable that requires grad is being used in an in-place operation",
        example="a leaf Variable that requires grad is being used in an in-place operation.",
        meaning="PyTorch records what is done to a weight, and a weight cannot be overwritten while that goes on.",
        cause="A weight is set or moved by hand (an initial value, a step of your own optimiser).",
        cure=("Tell PyTorch not to record: put the line inside `with torch.no_grad():`.",),
        before="weight -= 0.1 * weight.grad",
        after="""\
with torch.no_grad():
    weight -= 0.1 * weight.grad""",
        packages=("torch",),
    ),
    Entry(
        title="A gradient of more than one number",
        errors=("RuntimeError",),
        pattern=r"grad can be implicitly created only for scalar outputs",
        example="grad can be implicitly created only for scalar outputs",
        meaning="`backward()` starts from one number, the loss, and this is a tensor of several.",
        cause="The loss was computed with `reduction='none'`, or `backward()` was called on logits.",
        cure=("Make one number of it: `loss.mean().backward()`.",),
        before="loss.backward()",
        after="loss.mean().backward()",
        packages=("torch",),
    ),
    Entry(
        title="NumPy asked for a tensor that is being learned from",
        errors=("RuntimeError",),
        pattern=r"Can't call numpy\(\) on Tensor that requires grad",
        example="Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.",
        meaning="The tensor carries the record of how it came about, and NumPy cannot take that along.",
        cause="Predictions were computed without `torch.no_grad()`, and go into a metric or a plot.",
        cure=(
            "For predictions, put the forward pass inside `with torch.no_grad():`; that spares memory too.",
            "Or cut the record off: `tensor.detach().numpy()`.",
        ),
        before="logits = model(**batch).logits.numpy()",
        after="""\
with torch.no_grad():
    logits = model(**batch).logits.numpy()""",
        packages=("torch",),
    ),
    Entry(
        title="Whole numbers that cannot be learned",
        errors=("RuntimeError",),
        pattern=r"[Oo]nly [Tt]ensors of floating point (?:and complex )?dtype can require gradients",
        example="Only Tensors of floating point and complex dtype can require gradients",
        meaning="A gradient moves a weight by a little, and whole numbers can't move by a little.",
        cause="`requires_grad` was set on all weights of a quantised model; its 4-bit or 8-bit weights are stored as "
        "whole numbers.",
        cure=(
            "Leave the quantised weights frozen and train an adapter: `get_peft_model(model, LoraConfig(...))`.",
            "Unfreeze by kind: `if p.is_floating_point(): p.requires_grad = True`.",
        ),
        before="for p in model.parameters():\n    p.requires_grad = True",
        after="model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(...))",
        packages=("torch",),
        lesson="intermediate/qlora",
    ),
    Entry(
        title="Mixed precision with weights in float16",
        errors=("ValueError",),
        pattern=r"Attempting to unscale FP16 gradients",
        example="Attempting to unscale FP16 gradients.",
        meaning="With `fp16=True` the weights stay in float32 and only the computing is done in float16; here the "
        "weights themselves are float16.",
        cause="The model was loaded with `dtype=torch.float16`, or without `dtype` from a file that holds float16 (since "
        "version 5, transformers takes what the file holds), and then trained with `fp16=True`.",
        cure=(
            "Load the weights that are trained in float32: `from_pretrained(name, dtype=torch.float32)`.",
            "With an adapter on a float16 base, turn only the adapter into float32: "
            "`for p in model.parameters(): p.data = p.data.float() if p.requires_grad else p.data`.",
            "On GPUs from 2020 on (A100, RTX 30 and later), load in bfloat16 and set `bf16=True` instead.",
        ),
        before="""\
model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float16)
args = TrainingArguments(output_dir="out", fp16=True)""",
        after="""\
model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
args = TrainingArguments(output_dir="out", fp16=True)""",
        packages=("torch",),
    ),
    Entry(
        title="Activation checkpointing cut off from the inputs",
        errors=("UserWarning",),
        pattern=r"None of the inputs have requires_grad=True",
        example="None of the inputs have requires_grad=True. Gradients will be None",
        meaning="A warning, and a serious one: the checkpointed part of the model will learn nothing.",
        cause="The base is frozen and the embeddings with it, so nothing that enters the checkpointed layers asks for a "
        "gradient, and checkpointing of the older kind stops there.",
        cure=(
            "Use the newer kind: `activation_checkpointing_kwargs={'use_reentrant': False}`.",
            "Or let the inputs ask for one: `model.enable_input_require_grads()` before training.",
        ),
        before="""\
TrainingArguments(
    output_dir="out", activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": True}
)""",
        after="""\
TrainingArguments(
    output_dir="out", activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": False}
)""",
        packages=("torch",),
    ),
)
