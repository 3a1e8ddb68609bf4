"""Steps are kept while what they stand on holds, stop where they must, and leave documents that make nothing up."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lessonkit.errors import DataError, LessonError
from production import documentation, pipeline, pipeline_service
from production.commands import only_one
from production.documentation import check, fill, numbers, table, unknown_numbers
from production.documents import direct_needs
from production.pipeline_hashes import code_digest, imported, named_files
from production.pipeline_state import Made, PipelineRun, Step, newest, run_steps
from production.pipeline_steps import Context
from production.pipeline_traffic import Servers
from production.registry import Registry
from production.rules import Rule

# ---- Steps and their state: no model -------------------------------------------------------------------------


class Bench:
    """Three steps that write a file each and count their calls; what they do can be changed between two runs."""

    def __init__(self, folder: Path) -> None:
        self.work, self.calls, self.values, self.stopped = folder, [], {"a": 1, "b": 2, "c": 3}, {}
        self.settings = {"one": {"x": 1}, "two": {"x": 1}}
        self.run = PipelineRun.begin(folder / "pipeline" / "1", folder, champion=0)
        self.steps = (
            Step("a", "first", self._act("a"), (), ("one",)),
            Step("b", "second", self._act("b"), ("a",), ("two",)),
            Step("c", "third", self._act("c"), ("b",)),
        )

    def _act(self, name: str):
        def act(context: object) -> Made:
            self.calls.append(name)
            value = self.values[name]
            if isinstance(value, BaseException):
                raise value
            file = self.work / f"{name}.txt"
            file.write_text(str(value))
            return Made({"value": value}, (file,), "", self.stopped.get(name, ""))

        return act

    def go(self, **options: bool) -> tuple[str, str]:
        """(which steps were done, the stop)"""
        self.calls.clear()
        found = PipelineRun(self.run.folder, self.work)  # as a new process reads it
        stop = run_steps(found, self.steps, self.settings, None, lambda line: None, **options)
        return "".join(self.calls), stop


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_is_done_is_kept(bench: Bench) -> None:
    assert bench.go() == ("abc", "")
    assert bench.go() == ("", "")


@pytest.mark.parametrize(("section", "done"), [("one", "abc"), ("two", "bc")])
def test_a_changed_setting_reaches_what_stands_on_it(bench: Bench, section: str, done: str) -> None:
    bench.go()
    bench.settings[section] = {"x": 2}
    bench.values |= {"a": 5, "b": 6}
    assert bench.go() == (done, "")


def test_the_same_result_changes_nothing_below(bench: Bench) -> None:
    bench.go()
    bench.settings["one"] = {"x": 2}
    assert bench.go() == ("a", "")


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_file_that_is_not_what_it_was_is_made_anew(bench: Bench, damage: str) -> None:
    bench.go()
    file = bench.work / "b.txt"
    file.write_text("other") if damage == "change" else file.unlink()
    assert bench.go() == ("b", "")
    assert file.read_text() == "2"


def test_an_error_marks_its_step_and_the_next_start_goes_on(bench: Bench) -> None:
    bench.values["b"] = OSError("no room")
    with pytest.raises(OSError, match="no room"):
        bench.go()
    found = newest(bench.work)
    assert [found.status(each) for each in "abc"] == ["done", "failed", "waiting"]
    bench.values["b"] = 2
    assert bench.go() == ("bc", "")
    assert newest(bench.work).state["steps"]["b"]["begun"] == 2


def test_a_stop_is_kept_until_something_changes(bench: Bench) -> None:
    bench.stopped["b"] = "not good enough"
    assert bench.go() == ("ab", "b: not good enough")
    bench.stopped.clear()
    assert bench.go() == ("", "b: not good enough")
    assert bench.go(again=True) == ("bc", "")


def test_again_is_for_one_stop_only(bench: Bench) -> None:
    bench.stopped |= {"a": "no", "b": "no"}
    assert bench.go() == ("a", "a: no")
    bench.stopped.pop("a")
    assert bench.go(again=True) == ("ab", "b: no")


@pytest.mark.parametrize(
    ("there", "edited"),
    [('"value": 1', '"value": 9'), ('"code": "', '"code": "0'), ('"seconds": ', '"seconds": 1')],
)
def test_an_edited_record_is_not_trusted(bench: Bench, there: str, edited: str) -> None:
    bench.go()
    file = bench.run.folder / "records" / "a.json"
    assert there in file.read_text()
    file.write_text(file.read_text().replace(there, edited))
    with pytest.raises(DataError, match="can't be trusted"):
        bench.go()
    file.unlink()
    assert bench.go() == ("a", "")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_killed_in_a_step_it_goes_on_there(tmp_path: Path) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from production.pipeline_state import Made, PipelineRun, Step, run_steps
work = Path({str(tmp_path)!r})
def slow(context):
    print("begun", flush=True)
    time.sleep(60)
steps = (Step("a", "", lambda context: Made({{"x": 1}})), Step("b", "", slow, ("a",)))
run_steps(PipelineRun.begin(work / "pipeline" / "1", work), steps, {{}}, None, lambda line: None)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == "begun"
        process.send_signal(signal.SIGKILL)
    found = newest(tmp_path)
    assert [found.status(each) for each in "ab"] == ["done", "running"]
    step = Step("b", "", lambda context: Made({}), ("a",))
    assert found.reason(step, found.inputs(step, {})) == "it was interrupted"
    assert found.reason(Step("a", "", lambda context: Made({})), found.inputs(Step("a", "", print), {})) == ""


def test_the_steps_of_the_pipeline_come_after_what_they_need_and_name_what_exists() -> None:
    seen: set[str] = set()
    sections = pipeline.read_sections()
    for step in pipeline.STEPS:
        assert set(step.needs) <= seen
        assert set(step.reads) <= set(sections)
        seen.add(step.name)
    names = {name for step in pipeline.STEPS for name in step.reads}
    assert set(pipeline.PARTS) <= names
    fields = {name for part in pipeline.PARTS.values() for name in part}
    # Used by all (max_length), or handed to the router (canary).
    assert set(pipeline.Pipeline.__dataclass_fields__) - fields == {"max_length", "canary"}


@pytest.mark.parametrize(
    "changes",
    [{"canary": 0.0}, {"share": 1.0}, {"traffic": 7}, {"rate": 0.0}, {"leak_limit": 1.5}, {"checked": 0}],
)
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        pipeline.Pipeline(**changes)


def test_a_file_that_a_setting_names_is_an_input(bench: Bench) -> None:
    texts = bench.work / "texts.csv"
    texts.write_text("one")
    bench.settings["one"] = {"data": str(texts)}
    bench.go()
    assert bench.go() == ("", "")
    texts.write_text("two")
    assert bench.go() == ("a", "")
    folder = bench.work / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert list(named_files({"model": str(folder), "data": "reuters-r8"})) == [str(folder / "config.json")]


def test_a_steps_code_is_its_modules_with_all_that_they_import() -> None:
    names = {each.name for each in imported(Path(pipeline.__file__).with_name("serving_api.py"))}
    assert {"serving_api.py", "commands.py", "errors.py"} <= names
    assert code_digest(["cost"]) == code_digest(["cost"]) != code_digest(["cost.py"])
    for step in pipeline.STEPS:
        assert re.fullmatch("[0-9a-f]{64}", code_digest(step.modules))


def test_seconds_count_where_they_are_used(bench: Bench) -> None:
    bench.steps = (*bench.steps[:2], Step("c", "third", bench._act("c"), ("b",), times=True))
    bench.go()
    bench.settings["two"] = {"x": 2}  # b is done anew, with the same result at another time
    assert bench.go() == ("bc", "")


def test_a_stop_is_told_as_one_also_if_it_was_ended_before_the_state_was_written(bench: Bench) -> None:
    bench.stopped["b"] = "no"
    bench.go()
    found = PipelineRun(bench.run.folder, bench.work)
    found.mark("b", "running")
    bench.go()
    assert newest(bench.work).status("b") == "stopped"


# ---- Documents -----------------------------------------------------------------------------------------------


def test_numbers_are_seen_and_names_are_not() -> None:
    assert numbers("2,189 texts, 91.4 % (-0.02 to +0.03), 1e-05") == [
        "2,189",
        "91.4",
        "-0.02",
        "+0.03",
        "1e-05",
    ]
    assert numbers("p95, sha256, F1, MiniLM-L6-v2") == []


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("0.914", []),
        ("0.91", []),
        ("91.4 %", []),
        ("91.4", ["91.4"]),
        ("0.92", ["0.92"]),
        ("2,189 texts", []),
        ("-0.020", []),
        ("0.020", ["0.020"]),
        ("2e-04 and 0.0002", []),
        ("run 20260131-120000-3fa9", []),
        ("run 20260131-120000-3fa8", ["20260131", "-120000", "-3"]),
        ("see http://127.0.0.1:8000/ready", []),
        ("http://127.0.0.1:8001/ready", ["127.0", "1", "8001"]),
        ("12.5s", ["12.5"]),
    ],
)
def test_a_number_must_stand_in_a_record_as_it_is_printed(text: str, unknown: list[str]) -> None:
    records = {
        "evaluate": {"accuracy": 0.9144, "n": 2189, "change": -0.0204, "ok": True},
        "train": {"rate": 2e-4, "run": "20260131-120000-3fa9", "see": ["http://127.0.0.1:8000/ready"]},
    }
    found = unknown_numbers(text, records)
    assert bool(found) == bool(unknown)
    if not text.startswith(("run", "http")):
        assert found == unknown


def test_templates_take_numbers_from_records_only() -> None:
    facts = {"a": {"x": 0.5, "list": [1, 2], "none": None}}
    assert fill("{a.x:.1%} of {a.list.1} p95 {a.none:.2f}", facts) == "50.0% of 2 p95 not measured"
    with pytest.raises(DataError, match="number 3"):
        fill("3 of {a.x}", facts)
    with pytest.raises(DataError, match=r"a\.y"):
        fill("{a.y}", facts)
    assert table({"x": "{each}"}, ["a|b"], facts).splitlines()[-1] == "| a\\|b |"


def test_the_picture_leaves_out_arrows_that_follow() -> None:
    needs = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("a", "c")}
    assert direct_needs(needs) == {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}


def test_records_of_two_attempts_are_not_documented_together(bench: Bench) -> None:
    bench.go()
    assert list(documentation._records(newest(bench.work))) == ["a", "b", "c"]
    bench.settings["one"], bench.values["a"], bench.values["b"] = {"x": 2}, 5, OSError("no room")
    with pytest.raises(OSError, match="no room"):
        bench.go()
    (bench.run.folder / "records" / "b.json").write_text("{}")  # as if it had been left there
    with pytest.raises(DataError):
        documentation._records(newest(bench.work))


def test_which_alerts_a_rehearsal_could_have_raised() -> None:
    page, tokens = (
        Rule("A", expr, 60, {}, {})
        for expr in ("up == 0", 'rate(classifier_input_tokens_bucket{le="64"}[5m]) > 1')
    )
    assert pipeline_service._rehearsed(page, 100, 40) == "yes"
    assert pipeline_service._rehearsed(page, 50, 40).startswith("no: it waits 60 s")
    assert pipeline_service._rehearsed(tokens, 100, 40) == "no: texts are cut at 40 tokens"
    assert pipeline_service._rehearsed(tokens, 100, 128) == "yes"


# ---- The A/B decision, from a router's log ---------------------------------------------------------------------


def routed(users: int, right: dict[str, float], share: float = 0.5, first: int = 0) -> list[dict]:
    draw, lines = random.Random(1), []
    for number in range(first, first + users):
        arm = "B" if draw.random() < share else "A"
        lines.append({"event": "request", "id": str(number), "user": str(number), "arm": arm, "share": share})
        lines.append({"event": "outcome", "id": str(number), "value": float(draw.random() < right[arm])})
    return lines


@pytest.mark.parametrize(
    ("users", "right", "said"),
    [
        (400, {"A": 0.8, "B": 0.95}, ""),
        (400, {"A": 0.95, "B": 0.6}, "B is worse"),
        (40, {"A": 0.8, "B": 0.75}, "can't tell"),
    ],
)
def test_the_margin_decides(users: int, right: dict, said: str) -> None:
    facts, stopped = pipeline_service._judged(routed(users, right), 0.5, 0.1)
    assert stopped.startswith(said)
    assert bool(stopped) == bool(said)
    assert sum(facts["users"].values()) == users


def test_a_broken_split_has_no_result() -> None:
    lines = [line | ({"share": 0.5} if line["event"] == "request" else {}) for line in
             routed(400, {"A": 0.8, "B": 0.95}, share=0.2)]  # fmt: skip
    assert "split" in pipeline_service._judged(lines, 0.5, 0.1)[1]


def test_the_canary_has_no_part_in_the_comparison() -> None:
    canary = routed(100, {"A": 1.0, "B": 0.0}, share=0.2, first=1000)
    facts, stopped = pipeline_service._judged([*canary, *routed(400, {"A": 0.8, "B": 0.95})], 0.5, 0.1)
    assert (sum(facts["users"].values()), stopped) == (400, "")


# ---- All steps, really -----------------------------------------------------------------------------------------


def write_texts(file: Path, count: int, seed: int) -> None:
    draw, rows = random.Random(seed), ["text,label"]
    for number in range(count):
        half = number % 2
        words = draw.choices(range(47 * half, 47 * half + 47), k=draw.randint(4, 10))
        rows.append(" ".join(f"word{each}" for each in words) + f",{'zero' if half == 0 else 'one'}")
    file.write_text("\n".join(rows) + "\n")


def write_settings(folder: Path, model: Path, steps: int, rate: float) -> Path:
    file = folder / "settings.toml"
    file.write_text(f"""
[tracking]
model = "{model}"
data = "{folder / "train.csv"}"
train_texts = 160
validation_texts = 20
steps = {steps}
learning_rate = {rate}
threads = 1
eval_every = 1000
[registry]
data = "{folder / "held-out.csv"}"
texts = 80
[pipeline]
max_length = 16
checked = 20
load = 20
traffic = 24
rate = 40
windows = 20
rehearsal = 60
canary_requests = 10
requests = 20
""")
    return file


class Noting(dict):
    """Settings that note which of them a step reads: a section's name, or "pipeline.NAME" of the pipeline's own."""

    seen: set[str] | None = None

    def __getitem__(self, name: str) -> object:
        found = super().__getitem__(name)
        if self.seen is None:
            return found
        if name != "pipeline":
            self.seen.add(name)
            return found
        sections = self

        class Own:
            def __getattr__(self, field: str) -> object:
                sections.seen.add(f"pipeline.{field}")
                return getattr(found, field)

        return Own()

    def noting(self, step: Step, asked: dict[str, set[str]]):
        def act(context: Context) -> Made:
            self.seen = asked[step.name] = set()
            try:
                return step.act(context)
            finally:
                self.seen = None

        return act


@pytest.fixture(scope="module")
def released(tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(work, settings) after one whole run of a model that learnt its task."""
    work = tmp_path_factory.mktemp("pipeline")
    write_texts(work / "train.csv", 180, 0)
    write_texts(work / "held-out.csv", 140, 1)
    settings = write_settings(work, tiny.folder, 60, 5e-3)
    asked: dict[str, set[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        sections = Noting(pipeline.read_sections(settings))
        steps = tuple(replace(step, act=sections.noting(step, asked)) for step in pipeline.STEPS)
        patch.setattr(pipeline, "STEPS", steps)
        patch.setattr(pipeline, "read_sections", lambda _: sections)
        outcome = pipeline.run_pipeline(work, settings, tell=lambda line: None)
    assert outcome.stopped == ""
    # A setting that a step reads and doesn't declare would leave it kept, though stale.
    for step in pipeline.STEPS:
        declared = {
            *step.reads,
            *(f"pipeline.{name}" for part in step.reads for name in pipeline.PARTS.get(part, ())),
        }
        assert asked[step.name] <= declared, step.name
    return work, settings


def test_a_whole_run_ends_with_a_champion_and_documents(released: tuple[Path, Path]) -> None:
    work, settings = released
    run = newest(work)
    assert [run.status(step.name) for step in pipeline.STEPS] == ["done"] * len(pipeline.STEPS)
    assert run.facts("release")["champion"] == 1
    deployed = run.facts("deploy")
    assert (deployed["checked"], deployed["same"], deployed["failures"]) == (20, 20, {})
    assert run.facts("monitor")["fired"] == []
    assert check(run) == []
    assert "kept" in pipeline.show(work, settings)
    ended = []
    assert pipeline.run_pipeline(work, settings, tell=ended.append).stopped == ""
    assert sum(line.endswith("kept") for line in ended) == len(pipeline.STEPS)


def test_no_document_holds_a_path_or_a_key(released: tuple[Path, Path], tiny) -> None:
    for file in (newest(released[0]).folder / "documents").glob("*.md"):
        text = file.read_text(encoding="utf-8")
        for own in (
            released[0],
            tiny.folder,
        ):  # the data and the base model of this test are named by their paths
            text = text.replace(str(own), "")
        assert not re.search(r"(?<![\w./~:$])/(tmp|home|root|var|work)/", text)
        assert "Bearer" not in text


def test_an_edited_document_is_found_and_made_anew(released: tuple[Path, Path]) -> None:
    work, settings = released
    run, file = newest(work), newest(work).folder / "documents" / "model-card.md"
    kept = file.read_text(encoding="utf-8")
    accuracy = f"{run.facts('evaluate')['accuracy']:.3f}"
    file.write_text(kept.replace(accuracy, "0.98765"), encoding="utf-8")
    assert any("0.98765 stands in no record" in line for line in check(run))
    lines: list[str] = []
    pipeline.run_pipeline(work, settings, tell=lines.append)
    assert sum(line.endswith("kept") for line in lines) == len(pipeline.STEPS) - 1
    assert file.read_text(encoding="utf-8") == kept


def test_another_price_begins_no_new_run(released: tuple[Path, Path]) -> None:
    work, settings = released
    before = settings.read_text()
    try:
        settings.write_text(before + "utilisation = 0.25\n")
        pipeline.run_pipeline(work, settings, tell=lambda line: None)
        assert newest(work).folder.name == "1"
        assert newest(work).facts("costs")["utilisation"] == 0.25
        assert check(newest(work)) == []
    finally:
        settings.write_text(before)


def test_a_refused_challenger_stops_before_anything_serves(released: tuple[Path, Path], tiny) -> None:
    work, settings = released
    before = settings.read_text()
    try:
        write_settings(work, tiny.folder, 1, 1e-9)
        outcome = pipeline.run_pipeline(work, settings, tell=lambda line: None)
    finally:
        settings.write_text(before)
    run = outcome.run
    assert outcome.stopped.startswith("evaluate: the gate refuses this model against version 1")
    assert [run.status(each) for each in ("train", "evaluate", "register", "deploy")] == [
        "done",
        "stopped",
        "waiting",
        "waiting",
    ]
    with pytest.raises(DataError, match="evaluate has stopped"):
        documentation.write_documents(run)


def test_a_leak_stops_before_the_training(released: tuple[Path, Path], tiny, tmp_path: Path) -> None:
    shutil.copy(released[0] / "mlflow.db", tmp_path)  # its tables take seconds to make
    write_texts(tmp_path / "train.csv", 180, 0)
    write_texts(tmp_path / "held-out.csv", 140, 0)  # the same draws
    settings = write_settings(tmp_path, tiny.folder, 1, 1e-3)
    outcome = pipeline.run_pipeline(tmp_path, settings, tell=lambda line: None)
    assert "stand in the training data" in outcome.stopped
    assert not (tmp_path / "runs").exists()


def test_after_a_release_other_settings_begin_another_run(
    released: tuple[Path, Path], tiny, tmp_path: Path
) -> None:
    work, settings = released
    run, sections = newest(work), pipeline.read_sections(settings)
    assert pipeline._chosen(work, sections, 1, False).folder == run.folder
    other = pipeline.read_sections(write_settings(tmp_path, tiny.folder, 3, 1e-3))
    try:  # an unfinished tail does not make the next model a part of this run
        run.mark("document", "failed")
        assert pipeline._chosen(work, other, 1, False).folder.name == "2"
    finally:
        shutil.rmtree(work / "pipeline" / "2", ignore_errors=True)
        newest(work).mark("document", "done")


def test_a_champion_that_came_between_is_not_replaced(
    released: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, settings = released
    sections = pipeline.read_sections(settings)
    registry = Registry(work, sections["registry"])
    monkeypatch.setattr(type(registry.entries), "aliases", lambda self: {"champion": 7})
    monkeypatch.setattr(registry, "promote", lambda version: pytest.fail("it was promoted"))
    with Servers(work, work / "servers") as servers:
        context = Context(newest(work), sections, registry, servers)
        with pytest.raises(LessonError, match="Version 7 became champion"):
            pipeline_service.release(context)


def test_settings_of_a_release_are_read_or_told(released: tuple[Path, Path]) -> None:
    work, settings = released
    sections = pipeline.read_sections(settings)
    with Servers(work, work / "servers") as servers:
        context = Context(newest(work), sections, Registry(work, sections["registry"]), servers)
        found, whose = pipeline_service.released_settings(context, 1)
        assert (found, whose) == (sections["serving"], "its release")
        assert "by hand" in pipeline_service.released_settings(context, 9)[1]
        file = work / "pipeline" / "releases" / "1.json"
        kept = file.read_text()
        try:
            file.write_text("{")
            with pytest.raises(DataError, match="can't be read"):
                pipeline_service.released_settings(context, 1)
        finally:
            file.write_text(kept)


def test_too_few_texts_for_the_users_are_told(released: tuple[Path, Path], tiny, tmp_path: Path) -> None:
    shutil.copy(released[0] / "mlflow.db", tmp_path)
    write_texts(tmp_path / "train.csv", 180, 0)
    write_texts(tmp_path / "held-out.csv", 120, 1)
    settings = write_settings(tmp_path, tiny.folder, 1, 1e-3)
    with pytest.raises(DataError, match="rehearsed users"):
        pipeline.run_pipeline(tmp_path, settings, tell=lambda line: None)


def test_one_pipeline_at_a_time(tmp_path: Path) -> None:
    with only_one(tmp_path / "pipeline", pipeline.WHAT), pytest.raises(LessonError, match="Another process"):
        pipeline.run_pipeline(tmp_path)
    assert pipeline.show(tmp_path).startswith("No run in")


def test_the_state_file_is_whole_or_absent(bench: Bench) -> None:
    bench.go()
    state = json.loads((bench.run.folder / "state.json").read_text())
    assert {each["status"] for each in state["steps"].values()} == {"done"}
    assert not list(bench.run.folder.rglob(".*.part"))
    (bench.run.folder / "state.json").write_text("{")
    with pytest.raises(DataError, match="can't be read"):
        newest(bench.work)
