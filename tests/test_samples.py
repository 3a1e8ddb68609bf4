"""The files that come with the course, and the pipeline among them: kept, gone on with, repeated just where needed."""

from __future__ import annotations

import csv
import inspect
import json
import random
import re
import shutil
import sys
from pathlib import Path

import pytest

import lessonkit
from lessonkit.errors import UnknownNameError
from lessonkit.samples import pipeline, sample_names

# PEFT 0.21 asks transformers 5 by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def test_every_sample_is_found_by_its_name():
    assert sample_names() == ["orders.jsonl", "pipeline.py", "pipeline.toml", "support-messages.csv"]
    for name in sample_names():
        assert lessonkit.sample_file(name).is_file()
    with pytest.raises(UnknownNameError, match=r"pipeline\.py"):
        lessonkit.sample_file("pipelin.py")


def test_the_samples_travel_with_the_package():
    import tomllib

    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    setuptools = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert "lessonkit.samples" in setuptools["packages"]
    patterns = [each for each in setuptools["package-data"]["lessonkit"] if each.startswith("samples/")]
    folder = lessonkit.sample_file("pipeline.py").parents[1]
    carried = {path.name for each in patterns for path in folder.glob(each)}
    assert carried >= {name for name in sample_names() if not name.endswith(".py")}


# ---- The pipeline ---------------------------------------------------------------------------------------

SMALL = {
    "file": '"texts.csv"',
    "max_length": "16",
    "batch_size": "4",
    "trials": "2",
    "save_every": "2",
    "test": "0.15",  # so few of each label that none can surely be lost
    "kind": '"majority"',
    "allow_equal": "true",
    "margin": "0.99",
}
ALL = list(pipeline.STEPS)


@pytest.fixture(scope="module")
def encoder(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without a head, as pre-trained encoders come."""
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("encoder")
    BertForSequenceClassification.from_pretrained(tiny.folder).bert.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


class Place:
    """A learner's folder with a small configuration."""

    def __init__(self, folder: Path, encoder: Path) -> None:
        self.folder = folder
        shutil.copy(lessonkit.sample_file("pipeline.toml"), folder)
        for name, value in {**SMALL, "name": f'"{encoder.as_posix()}"'}.items():
            self.change(name, value)
        self.change("steps", "2", count=1)  # of a trial
        self.change("steps", "6", after="[train]")
        draw = random.Random(0)
        rows = [
            (" ".join(f"word{draw.randrange(47) + 47 * (n % 2)}" for _ in range(9)), "ab"[n % 2])
            for n in range(60)
        ]
        with (folder / "texts.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("message", "topic"), *rows])

    def change(self, name: str, value: str, *, after: str = "", count: int = 0) -> None:
        path = self.folder / "pipeline.toml"
        before, mark, rest = path.read_text().rpartition(after) if after else ("", "", path.read_text())
        rest = re.sub(rf"^{name} = .*$", f"{name} = {value}", rest, count=count, flags=re.MULTILINE)
        path.write_text(before + mark + rest)

    def run(self, *more: str) -> int:
        return pipeline.main(["--config", str(self.folder / "pipeline.toml"), *more])

    def last(self) -> dict:
        return json.loads((self.folder / "run" / "last.json").read_text())

    def ran(self) -> list[str]:
        return [name for name, each in self.last()["steps"].items() if each["status"] != "kept"]

    def step(self, name: str, run: str = "run") -> Path:
        (found,) = (self.folder / run).glob(f"{name}-*")
        return found


@pytest.fixture
def place(tmp_path: Path, encoder: Path) -> Place:
    return Place(tmp_path, encoder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Place:
    """A run to the end; copy it before you change it."""
    made = Place(tmp_path_factory.mktemp("finished"), encoder)
    assert made.run() == 0
    return made


@pytest.fixture
def done(finished: Place, tmp_path: Path) -> Place:
    made = object.__new__(Place)
    made.folder = Path(shutil.copytree(finished.folder, tmp_path / "again"))
    return made


def killed_at(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Ctrl-C as soon as the pipeline says so."""

    def say(*said: object, **_: object) -> None:
        if words in str(said[0]):
            monkeypatch.delattr(pipeline, "print")
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "print", say, raising=False)


def test_a_run_ends_in_a_model_with_its_card(finished: Place):
    assert finished.ran() == ALL
    metrics = {
        name: json.loads((finished.step(name) / "metrics.json").read_text())
        for name in ("evaluate", "baseline")
    }
    assert metrics["evaluate"]["data_sha256"] == metrics["baseline"]["data_sha256"]
    released = json.loads((finished.folder / "run" / "released.json").read_text())
    folder = finished.folder / "run" / released["model"]
    scored = lessonkit.scoring.load_scored_model(folder)
    assert scored.names == ["a", "b"]
    assert not (folder / "adapter_config.json").exists()
    accuracy = json.loads((finished.step("evaluate") / "metrics.json").read_text())["accuracy"]
    card = (folder / "README.md").read_text()
    for said in (f"accuracy {accuracy:.3f}", "a, b", "texts.csv", finished.step("train").name):
        assert said in card
    found = lessonkit.evaluate(
        lessonkit.scoring.read_config(
            model=str(folder),
            data=str(finished.step("data") / "test.csv"),
            text="text",
            label="label",
            max_length=16,
            output=str(finished.folder / "anew"),
        )
    )
    assert found.metrics["accuracy"] == accuracy


def test_every_file_is_recorded_with_its_hash(finished: Place):
    for name in ALL:
        folder = finished.step(name)
        record = json.loads((folder / "record.json").read_text())
        files = {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}
        kept = {each for each in files if not each.startswith("work/")} - {"record.json"}
        assert set(record["outputs"]) == kept
        for used in pipeline.STEPS[name].uses:
            theirs = json.loads((finished.step(used) / "record.json").read_text())["outputs"]
            assert {f"{used}/{file}": content for file, content in theirs.items()}.items() <= record[
                "inputs"
            ].items()


def test_nothing_changed_and_nothing_is_done(done: Place, monkeypatch: pytest.MonkeyPatch):
    for step in pipeline.STEPS.values():
        assert step.does.__module__ == "lessonkit.samples.pipeline"
    (done.folder / "pipeline.toml").write_text("# a remark\n" + (done.folder / "pipeline.toml").read_text())
    assert done.run() == 0
    assert done.ran() == []


@pytest.mark.parametrize(
    ("name", "value", "after", "again"),
    [
        ("steps", "8", "[train]", ["train", "evaluate", "release"]),
        ("kind", '"counting"', "", ["baseline", "release"]),
        ("margin", "0.98", "", ["release"]),
    ],
)
def test_a_change_repeats_what_depends_on_it_and_going_back_repeats_nothing(
    done: Place, name: str, value: str, after: str, again: list[str]
):
    before = (done.folder / "pipeline.toml").read_text()
    done.change(name, value, after=after)
    assert done.run() == (name == "kind")  # the tiny model doesn't reach the counting baseline
    assert done.ran() == again
    (done.folder / "pipeline.toml").write_text(before)
    assert done.run() == 0
    assert done.ran() == []


def test_the_frozen_baseline_is_one(done: Place):
    done.change("kind", '"frozen"')
    assert done.run() in (0, 1)
    assert done.ran() == ["baseline", "release"]


def test_a_killed_training_goes_on_to_the_same_weights(place: Place, finished: Place, monkeypatch):
    killed_at(monkeypatch, "saved at step 4")
    with pytest.raises(KeyboardInterrupt):
        place.run()
    assert not (place.step("train") / "record.json").exists()
    assert place.run() == 0
    assert place.last()["steps"]["train"]["status"] == "gone on with"
    assert place.last()["steps"]["search"]["status"] == "kept"
    records = [json.loads((each.step("train") / "record.json").read_text()) for each in (place, finished)]
    assert records[0]["outputs"] == records[1]["outputs"]
    assert place.step("train").name == finished.step("train").name


def test_a_killed_search_keeps_its_trials_and_finds_the_same(place: Place, finished: Place, monkeypatch):
    killed_at(monkeypatch, "trial 1 of")
    with pytest.raises(KeyboardInterrupt):
        place.run("--until", "search")
    assert place.run("--until", "search") == 0
    assert list(place.last()["steps"]) == ["data", "search"]
    best = [(each.step("search") / "best.json").read_text() for each in (place, finished)]
    assert best[0] == best[1]


def test_a_result_that_was_touched_is_made_again_and_what_follows_is_kept(done: Place):
    best = done.step("search") / "best.json"
    whole = best.read_text()
    best.write_text(whole + " ")
    assert done.run() == 0
    assert done.ran() == ["search"]
    assert best.read_text() == whole


def test_a_model_that_the_gate_stops_is_not_saved_and_the_old_one_stays(done: Place):
    before = (done.folder / "run" / "released.json").read_text()
    done.change("allow_equal", "false")
    assert done.run() == 1
    assert (done.folder / "run" / "released.json").read_text() == before
    stopped = done.folder / "run" / done.last()["steps"]["release"]["folder"]
    assert not (stopped / "model").exists()
    assert json.loads((stopped / "verdict.json").read_text())["passed"] is False


def test_a_step_that_fails_stops_the_run_there(place: Place, capsys):
    (place.folder / "texts.csv").write_text("message,topic\nonly one,a\nand two,a\n")
    assert place.run() == 2
    assert "data failed" in capsys.readouterr().out
    assert [each.name[:5] for each in (place.folder / "run").iterdir() if each.is_dir()] == ["data-"]


def test_what_is_unknown_or_missing_in_the_configuration_is_told_at_once(place: Place, capsys):
    text = (
        (place.folder / "pipeline.toml")
        .read_text()
        .replace("save_every", "safe_every")
        .replace("kind", "kin")
    )
    (place.folder / "pipeline.toml").write_text(text)
    with pytest.raises(SystemExit) as raised:
        place.run()
    assert raised.value.code == 2
    told = capsys.readouterr().out
    for said in ("[train] safe_every", "[train] save_every", "[baseline] kin'", "[baseline] kind"):
        assert said in told


def test_two_pipelines_do_not_work_in_one_folder(place: Place):
    from filelock import FileLock, Timeout

    (place.folder / "run").mkdir()
    with FileLock(place.folder / "run" / ".lock"), pytest.raises(Timeout):
        place.run()


@pytest.mark.parametrize("name", ALL)
def test_a_step_reads_only_what_its_key_knows(name: str):
    step = pipeline.STEPS[name]
    code = "".join(inspect.getsource(each) for each in (step.does, *step.helpers))
    assert set(re.findall(r'(?<!\w)config\["(\w+)"\]', code)) <= set(step.settings)
    assert set(re.findall(r'given\["(\w+)"\]', code)) <= {*step.uses, "raw"}
    own = {
        each.__name__
        for each in vars(pipeline).values()
        if inspect.isfunction(each) and each.__module__ == pipeline.__name__
    }
    called = set(re.findall(r"(?<![\w.])(\w+)\(|Transformer\((\w+)", code))
    called = {each for group in called for each in group if each} & own
    assert called - {step.does.__name__, "write"} == {each.__name__ for each in step.helpers}
    assert all(ALL.index(used) < ALL.index(name) for used in step.uses)
    assert set(step.settings) <= set(pipeline.SETTINGS)


def test_it_runs_as_a_script_from_anywhere(tmp_path: Path):
    import subprocess

    script = Path(shutil.copy(lessonkit.sample_file("pipeline.py"), tmp_path))
    root = Path(lessonkit.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script.name, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root), "SYSTEMROOT": "C:\\Windows"},
    )
    assert done.returncode == 0, done.stderr
    assert "--until" in done.stdout
