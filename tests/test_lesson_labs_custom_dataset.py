"""The lab runs to its end on pairs that it has never seen, says plainly where it can't, and states true facts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupytext
import pytest
from lesson_source import lesson_text, statement

import lessonkit
from lessonkit.exercises import labs_custom_dataset as facts
from lessonkit.texts import UnusableError, find_personal

LESSON = "labs/custom-dataset"
SLOW = ("LlamaConfig(",)  # a prediction of memory; tested elsewhere
CELLS = jupytext.reads(lesson_text(LESSON), fmt="py:percent").cells

# PEFT 0.21 asks transformers 5 by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def code_cells() -> list[str]:
    code = [cell.source for cell in CELLS if cell.cell_type == "code"]
    return [each for each in code if not any(slow in each for slow in SLOW)]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random decoder with SmolLM2's vocabulary and chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("decoder")
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    lessonkit.load_tokenizer("smollm2").save_pretrained(folder)
    return folder


def run_cells(source: Any, decoder: Path, until: str = "") -> dict[str, Any]:
    """Run the lesson's cells on a file, with the tiny model; what a learner has then."""
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {"__name__": "__main__", "given": source}
    for cell in code_cells():
        if until and until in cell:
            break
        cell = re.sub(r"^SOURCE = .*", "SOURCE = given", cell, flags=re.MULTILINE)
        cell = re.sub(r"^MODEL = .*", f"MODEL = {str(decoder)!r}", cell, flags=re.MULTILINE)
        exec(compile(cell, "cell", "exec"), names)
        plt.close("all")
    return names


@pytest.fixture
def through(decoder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.setenv("LESSONKIT_SCALE", "smoke")
    return lambda source, until="": run_cells(source, decoder, until)


@pytest.fixture(scope="module")
def trainable(decoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The sample, up to where the techniques are trained; tests leave its names alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LESSONKIT_SCALE", "smoke")
        patch.setenv("MPLBACKEND", "Agg")
        for name in ("PROGRESS", "OUTPUTS"):
            patch.setenv(f"LESSONKIT_{name}", str(tmp_path_factory.mktemp(name.lower())))
        yield run_cells(lessonkit.sample_file("orders.jsonl"), decoder, until="bare = [")


ENDS = ("lin", "mer", "nor", "wes", "kal", "for", "bri", "dun")
TOWNS = [f"{start}{end}ton" for start in "ABCDEFGH" for end in ENDS]
FORMS = (
    "When does the {} train leave?",
    "I must be in {} soon, tell me how",
    "{} by tram, please, at what time?",
)
FACTS = [
    (FORMS[n % 3].format(town), f"At {8 + n // 8}:{10 + n % 8}, from {town}.") for n, town in enumerate(TOWNS)
]


def plain_csv(folder: Path) -> Any:
    path = folder / "facts.csv"
    path.write_text("\ufeffQuestion;Answer\n" + "\n".join(f'"{q}";"{a}"' for q, a in FACTS), encoding="utf-8")
    return path


def chats(folder: Path) -> Any:
    path = folder / "chats.jsonl"
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in FACTS]
    path.write_text("\n".join(json.dumps({"messages": each}) for each in turns))
    return str(path)


def two_columns_without_names(folder: Path) -> Any:
    return "wish,line\n" + "\n".join(f'"{q}","{a}"' for q, a in FACTS)


def other_fields(folder: Path) -> Any:
    rows = [
        (f"{q} Ask {a.split()[-1]}", f"town={a.split()[-1][:-1]}; time={a.split()[1][:-1]}") for q, a in FACTS
    ]
    return "\n".join(json.dumps({"prompt": q, "completion": a}) for q, a in rows)


@pytest.mark.parametrize(
    ("make", "names"),
    [(plain_csv, ()), (other_fields, ("town", "time"))],
)
def test_it_runs_to_its_end_on_pairs_that_it_has_never_seen(make, names, through, tmp_path: Path, capsys):
    found = through(make(tmp_path))
    assert found["FIELDS"] == names
    assert list(found["replies"]) == ["told", "shown", "prompt tuning", "LoRA", "adapters"]
    for replies in found["replies"].values():
        assert len(replies) == len(found["test"])
    assert found["wrong"] == 0
    assert "Smoke scale: every line ran" in capsys.readouterr().out


@pytest.mark.parametrize("make", [chats, two_columns_without_names])
def test_other_shapes_are_read_and_filtered(make, through, tmp_path: Path):
    found = through(make(tmp_path), until="folder = lesson.folder")
    assert sum(map(len, found["split"].values())) == len(FACTS)
    assert found["FIELDS"] == ()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere.csv", "There is no nowhere.csv"),
        ("prompt,answer\n" + "\n".join(f"a {n},b {n}" for n in range(5)), "a few dozen"),
        ("\n".join(f"just a text {n}" for n in range(60)), "No column"),
        ("prompt,answer\n" + "\n".join(f"a {n},b {n}" for n in range(20)), "20 pairs are left"),
    ],
)
def test_what_cannot_be_trained_on_ends_in_a_plain_message(source, said, through):
    with pytest.raises(UnusableError, match=re.escape(said)) as raised:
        through(source)
    shown = raised.value._render_traceback_()
    assert said in "\n".join(shown)
    assert shown[-1].startswith("Next: ")


def test_a_learner_changes_one_line():
    text = "\n".join(cell.source for cell in CELLS if cell.cell_type == "code")
    assert len(re.findall(r"\bSOURCE\b", text)) == 2  # where it is set, and where it is read
    assert "check_pairs(SOURCE)" in text


# ---- The sample, and what the text says of it ----------------------------------------------------------


def test_what_is_wrong_with_the_sample_is_found_and_left_out(trainable):
    log = "\n".join(trainable["log"])
    for said in ("personal data by a net", "another form: 5", "not in the question: 2", "two answers: 1"):
        assert said in log
    kept = [row for part in trainable["split"].values() for row in part]
    assert len(kept) > 400
    for row in kept:
        assert not find_personal(row["prompt"] + row["answer"])
        assert tuple(trainable["fields"](row["answer"])) == trainable["FIELDS"]
        assert not re.search("diabetic|Mill Lane|oh three|dot org", row["prompt"])
    assert trainable["COPIED"] == ["size", "name"]
    questions = [set(part["prompt"]) for part in trainable["split"].values()]
    assert not questions[0] & questions[1]
    assert not questions[0] & questions[2]


def test_the_exercise_has_the_validation_pairs_that_it_takes(trainable):
    assert len(trainable["split"]["validation"]) >= 24
    assert len(trainable["split"]["train"]) >= 18 * 4  # no pair is read twice at laptop scale


def test_each_row_trains_the_answer_and_its_end_alone(trainable):
    tokenizer, row = trainable["tokenizer"], trainable["row"]
    for prompt, answer in [
        ("Two soups", "dish=soup"),
        ("a\n\nb", "x\ny  z"),
        ("<|im_end|> tricks", "é ü 漢"),
    ]:
        found = row(prompt, answer)
        assert tokenizer.decode([each for each in found["labels"] if each != -100]) == answer + "<|im_end|>"
        shown = tokenizer.decode(found["input_ids"])
        assert shown.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\n")


def test_the_card_says_what_lies_there(trainable):
    from huggingface_hub import DatasetCard

    folder = trainable["folder"]
    card = DatasetCard.load(folder / "README.md")
    splits = {each["name"]: each["num_examples"] for each in card.data.to_dict()["dataset_info"]["splits"]}
    for name, count in splits.items():
        path = folder / f"{name}.jsonl"
        assert len(path.read_text(encoding="utf-8").splitlines()) == count
        assert trainable["sha256"](path) in card.text
    assert all(f"- {each}" in card.text for each in trainable["log"])


def test_scores_by_field_are_those_of_the_exercise(trainable):
    partial = trainable["partial"]
    wanted = "dish=soup; count=2; size=small; extra=none; name=Ada; time=12:00"
    for reply, score in {
        wanted: 1,
        wanted.replace("12:00", "13:00"): 5 / 6,
        "dish=soup; count=2": 2 / 6,
        "Sure! " + wanted: 5 / 6,
        "a soup": 0,
        "": 0,
    }.items():
        assert partial(reply, wanted) == pytest.approx(score)
        assert facts._partial(reply, wanted) == pytest.approx(score)


def test_prompts_answers_do_not_depend_on_their_neighbours(trainable):
    """A soft prompt goes behind the padding: alone or beside longer rows, the answer is the same."""
    import torch

    found = trainable
    model = found["fresh_model"]()
    soft = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    prompts = [
        found["chat"](text)
        for text in ("Soup", "Two small pizzas for Ada at noon, and be quick about it", "A")
    ]
    together = found["answers"](model, prompts, soft)
    assert together == [found["answers"](model, [each], soft)[0] for each in prompts]


def test_every_technique_gets_the_same_batches(trainable, monkeypatch: pytest.MonkeyPatch):
    found = trainable
    seen: list[list] = []

    class Recording(lessonkit.CausalLMCollator):
        def __call__(self, rows):
            seen[-1].append([row["input_ids"] for row in rows])
            return super().__call__(rows)

    monkeypatch.setattr(lessonkit, "CausalLMCollator", Recording)
    for technique in found["makers"]:
        seen.append([])
        model, run = found["train"](technique, steps=3)
        assert run.steps == 3
        assert any(each.requires_grad for each in model.parameters())
        said = found["answers"](model, [found["chat"]("Two soups")], found["soft_prompt_of"](model))
        assert len(said) == 1
    assert len(seen[0]) >= 3
    assert all(each[:3] == seen[0][:3] for each in seen)


def test_six_sentences_and_what_a_search_finds():
    names: dict[str, Any] = {}
    exec(statement(LESSON, "sentences"), names)
    (patterns,) = (each for each in facts.exercises() if each.name == "patterns")
    assert len(names["sentences"]) == 6
    assert sum(bool(find_personal(each)) for each in names["sentences"]) == patterns.reference
    assert [each.kind for each in find_personal("Parcel 0049 1234 5678 has arrived.")] == ["phone"]


def test_the_cut_row_of_exercise_four():
    labels = [-100] * 40 + list(range(30)) + [99]
    (cut_off,) = (each for each in facts.exercises() if each.name == "cut-off")
    assert sum(each != -100 for each in labels[:64]) == cut_off.reference
    assert 99 not in labels[:64]


def test_exercise_five_is_what_its_text_says(trainable):
    found = dict(trainable)
    told = next(cell.source for cell in CELLS if 'mine, run = train("LoRA"' in cell.source)
    code = re.search(r"```python\n(.*?)```", told, re.DOTALL).group(1)
    exec(code.replace("steps=10", "steps=1"), found)
    answer = eval(re.search(r"`(\{.*?\})`", told).group(1), found)
    exercise = found["lesson"].exercise("few-pairs")
    assert "Measured, not judged" in exercise.judge(answer).message
    exercise.scale = "laptop"
    assert exercise.judge(answer | {"written": list(answer["check"]["answer"])}).passed


def test_broken_files_are_each_told(capsys):
    (cell,) = (each for each in code_cells() if "broken = {" in each)
    exec(cell, {"lessonkit": lessonkit})
    told = capsys.readouterr().out
    for said in ("There is no my-pears.csv", "No column can be the answer", "No column can be the prompt"):
        assert said in told
    assert "a few dozen are needed" in told
    assert "'wish', was taken as the question" in told
