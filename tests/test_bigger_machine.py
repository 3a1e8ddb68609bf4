"""At GPU scale the lessons name models of the Hugging Face Hub, and the lessons' own loading finds them there."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lesson_source import lesson_text
from stand_in_hub import add_repository, family

from lessonkit.curriculum import load_curriculum

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
UNGATED = {"google-bert", "HuggingFaceTB"}  # owners whose models need no account and no accepted licence
TECHNIQUE_LESSONS = [
    each
    for each in load_curriculum(check_files=False).lessons
    if each.written and each.notebook and each.technique
]


def hub_models(lesson) -> list[str]:
    """The repositories that a lesson's ``lesson.pick(gpu=...)`` name."""
    source = lesson.source.removeprefix("lessons/").removesuffix(".py")
    picks = [
        keyword.value
        for node in ast.walk(ast.parse(lesson_text(source)))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "pick"
        for keyword in node.keywords
        if keyword.arg == "gpu"
    ]
    texts = [node.value for pick in picks for node in ast.walk(pick) if isinstance(node, ast.Constant)]
    return sorted({text for text in texts if isinstance(text, str) and REPOSITORY.fullmatch(text)})


@pytest.mark.parametrize("lesson", TECHNIQUE_LESSONS, ids=lambda each: each.id)
def test_a_lesson_names_a_bigger_ungated_model(lesson):
    found = hub_models(lesson)
    assert found, "MODEL = lesson.pick(..., gpu='owner/name') is missing"
    assert {name.split("/")[0] for name in found} <= UNGATED


LOAD = """\
import json, sys
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
import lessonkit
for name, decoder in json.loads(sys.argv[1]):
    tokenizer = lessonkit.load_tokenizer(name)
    if decoder:
        model = lessonkit.load_model(name, AutoModelForCausalLM)
        ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], return_tensors="pt", return_dict=True)
    else:
        model = lessonkit.load_model(name, AutoModelForSequenceClassification, num_labels=3)
        ids = tokenizer("hello", return_tensors="pt")
    print(json.dumps([name, type(model).__name__, list(model(**ids).logits.shape), model.config.hidden_size]))
"""


def test_each_of_them_loads_from_a_local_folder_in_the_hubs_layout(tmp_path: Path):
    names = sorted({name for lesson in TECHNIQUE_LESSONS for name in hub_models(lesson)})
    for name in names:
        add_repository(tmp_path / "hub", name)
    asked = [(name, family(name) == "smollm2") for name in names]
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(asked)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [row[0] for row in loaded] == names
    for (_, decoder), (_, kind, shape, hidden) in zip(asked, loaded, strict=True):
        assert kind == ("LlamaForCausalLM" if decoder else "BertForSequenceClassification")
        assert shape[-1] == (49152 if decoder else 3)
        assert hidden == 48  # the stand-in's, so it came from that folder
