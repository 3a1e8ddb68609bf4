"""Exercises of labs/complete-pipeline."""

from __future__ import annotations

from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Attempt, Bar, Choice, Exercise, Function, Value, WrongAnswer, part
from lessonkit.exercises.plain import plain

__all__ = ["exercises"]

# What samples/pipeline.py does; tests/test_lesson_labs_complete_pipeline.py compares.
USES: dict[str, list[str]] = {
    "data": [],
    "search": ["data"],
    "train": ["data", "search"],
    "evaluate": ["data", "train"],
    "baseline": ["data"],
    "release": ["data", "search", "train", "evaluate", "baseline"],
}


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_lost(), _rerun(), _change(), _blind()]


def _lost() -> Exercise:
    return Value(
        name="lost",
        reference=15,
        also_right=("15",),
        tolerance=0.5,
        because="The last checkpoint is that of step 60; steps 61 to 75 are made again. On average half of `save_every` is "
        "lost; saving costs time and disk space as well, so it is weighed against that.",
        hints=(
            "At which steps was a checkpoint saved before the kill?",
            "At 20, 40 and 60. It goes on from the last one.",
        ),
        wrong=(
            WrongAnswer("all", 75, "That would be so without any checkpoint. One was saved every 20 steps."),
            WrongAnswer(
                "to-come",
                60,
                "That is where it goes on from (or how many steps are still to be made after that). Asked for: the steps "
                "since then, which were made and are lost.",
            ),
            WrongAnswer("never-made", 45, "Those 45 had not been made yet when it was killed."),
            WrongAnswer(
                "a-whole-gap",
                20,
                "That is the most that can be lost. It was killed 15 steps after one, not 20.",
            ),
            WrongAnswer(
                "to-the-next", 5, "That is how far the next checkpoint was. Look back to the last one."
            ),
            WrongAnswer("none", 0, "What came after the last checkpoint was only in memory, and is gone."),
        ),
    )


# ---- What must run again ----------------------------------------------------------------------------


def _rerun_reference(uses, changed):
    again = []
    for step, used in uses.items():
        if step in changed or any(each in again for each in used):
            again.append(step)
    return again


def _rerun_by_set(uses, changed):
    """The same with a set."""
    dirty = set(changed)
    for step in uses:
        if dirty & set(uses[step]):
            dirty.add(step)
    return [step for step in uses if step in dirty]


def _direct(uses, changed):
    return [step for step in uses if step in changed or any(each in changed for each in uses[step])]


def _backwards(uses, changed):
    again = set(changed)
    for step in reversed(list(uses)):
        if step in again:
            again |= set(uses[step])
    return [step for step in uses if step in again]


def _rerun() -> Exercise:
    chain = {"z": [], "y": ["z"], "x": ["y"], "w": ["x"]}
    forked = {
        "raw": [],
        "left": ["raw"],
        "right": ["raw"],
        "a-leaf": ["left"],
        "both": ["left", "right"],
        "end": ["both"],
    }
    return Function(
        name="rerun",
        reference=_rerun_reference,
        also_right=(_rerun_by_set,),
        because="In their order, each step is asked once: has it changed, or does it use one that runs again? Whatever "
        "it uses stands before it, so it is decided already. (If a result comes out as it was, the chain ends there.)",
        cases=(
            (USES, ["train"]),
            (USES, ["baseline"]),
            (USES, ["data"]),
            (USES, []),
            (chain, ["y"]),
            (forked, ["right"]),
            (forked, ["left"]),
            (forked, ["end", "right"]),
        ),
        source="def rerun(uses, changed):\n    again = []\n    for step, used in uses.items():\n"
        "        if step in changed or any(each in again for each in used):\n            again.append(step)\n"
        "    return again",
        hints=(
            "Go through the steps in their order, and keep a list of those that must run again.",
            "A step joins it if it stands in `changed`, or if one that it uses is in the list already.",
            "`any(each in again for each in used)` asks the second.",
        ),
        wrong=(
            WrongAnswer(
                "direct-only",
                _direct,
                "You found the changed steps and those that use them directly. A step that uses one of *those* must run as "
                "well: look into your own growing list, not into `changed`.",
            ),
            WrongAnswer(
                "not-themselves",
                lambda uses, changed: [
                    each for each in _rerun_reference(uses, changed) if each not in changed
                ],
                "The changed steps themselves are missing: they run first of all.",
            ),
            WrongAnswer(
                "changed-only",
                lambda uses, changed: [step for step in uses if step in changed],
                "Those are the changed steps. What uses their results must run again too.",
            ),
            WrongAnswer(
                "all-later",
                lambda uses, changed: list(uses)[min(map(list(uses).index, changed), default=len(uses)) :],
                "All later steps run, also those that use nothing that changed: so the baseline would run again after a "
                "change of the training.",
            ),
            WrongAnswer(
                "backwards",
                _backwards,
                "You went the other way: to what the changed steps use. Their inputs are as they were; what uses *them* "
                "that must run.",
            ),
            WrongAnswer(
                "alphabetical",
                lambda uses, changed: sorted(_rerun_reference(uses, changed)),
                "The right steps, sorted by their names. Asked for is the order in which they run, that of `uses`.",
            ),
        ),
    )


# ---- A change of the learner's own ------------------------------------------------------------------

FORM = '{"before": before, "after": last(), "predicted": ["train", ...]}'


def _run(answer: Any, name: str) -> tuple[dict[str, dict], dict[str, str]]:
    """(configuration, folder by step) of a whole run."""
    found = plain(part(answer, name, FORM))
    try:
        steps = {step: str(each["folder"]) for step, each in found["steps"].items()}
        config = {section: dict(each) for section, each in found["config"].items()}
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ExerciseError(f"`{name}` must be what `last()` gave.", fix=f"write `{FORM}`") from None
    if set(steps) != set(USES):
        raise ExerciseError(
            f"`{name}` is of a run that ended early: it has {len(steps)} of the {len(USES)} steps.",
            fix='run all: terminal("python pipeline.py")',
        )
    return config, steps


def _ran_again(answer: Any) -> list[str]:
    """The steps whose folder is another one after the change."""
    before, after = _run(answer, "before")[1], _run(answer, "after")[1]
    return [step for step in USES if before[step] != after[step]]


def _sections(answer: Any) -> set[str]:
    before, after = _run(answer, "before")[0], _run(answer, "after")[0]
    return {section for section in {*before, *after} if before.get(section) != after.get(section)}


def _predicted(answer: Any) -> list[str]:
    found = plain(part(answer, "predicted", FORM))
    if isinstance(found, str):
        found = [found]
    if isinstance(found, frozenset):
        found = list(found)
    if not isinstance(found, list) or not all(each in USES for each in found):
        raise ExerciseError(f"`predicted` must be a list of steps, each one of {', '.join(USES)}.")
    return found


def _share_foreseen(answer: Any, _held_out: Any) -> float:
    again, predicted = _ran_again(answer), _predicted(answer)
    return sum((step in again) == (step in predicted) for step in USES) / len(USES)


def _missed(attempt: Attempt) -> set[str]:
    return set(_ran_again(attempt.answer)) - set(_predicted(attempt.answer))


def _made(sections: dict[str, int], changed: list[str], predicted: list[str]) -> dict[str, Any]:
    """An answer: ``sections`` with another value each, ``changed`` steps in other folders."""
    config = {name: {"value": 0} for name in ("data", "model", "search", "train", "baseline", "release")}
    before = {"config": config, "steps": {step: {"folder": f"{step}-1"} for step in USES}}
    after = {
        "config": config | {name: {"value": value} for name, value in sections.items()},
        "steps": {step: {"folder": f"{step}-{2 if step in changed else 1}"} for step in USES},
    }
    return {"before": before, "after": after, "predicted": predicted}


def _change() -> Exercise:
    longer = ["train", "evaluate", "release"]
    return Bar(
        name="change",
        reference=lambda _: _made({"train": 1}, longer, longer),
        also_right=(
            lambda _: _made({"train": 1}, longer, longer[::-1]),
            lambda _: _made({"release": 1}, ["release"], ["release"]),
        ),
        measure=_share_foreseen,
        bar=1.0,
        score_name="share of the steps foreseen",
        measured_on="your two runs",
        because="The section's readers run, then whatever uses a result that came out differently. What reads "
        "neither is kept: that is the whole saving.",
        hints=(
            "In `STEPS`, the second bracket of each step names the sections that it reads. Which steps read yours?",
            "Then follow the first bracket: who uses those, and who uses them in turn?",
            "`release` reads all sections, since the card tells of them: it always runs again.",
        ),
        source='before = last()\nchange("train", "steps", 60)\nterminal("python pipeline.py")\n'
        'answer = {"before": before, "after": last(), "predicted": ["train", "evaluate", "release"]}',
        wrong=(
            WrongAnswer(
                "nothing-changed",
                lambda _: _made({}, [], []),
                "The two runs have one configuration. Call `before = last()` first, then `change(...)`, then the pipeline.",
                when=lambda attempt: not _sections(attempt.answer),
            ),
            WrongAnswer(
                "the-lessons-own",
                lambda _: _made({"baseline": 1}, ["baseline", "release"], ["baseline", "release"]),
                "You changed `[baseline]`, as section 6 did. Take another section, and predict anew.",
                when=lambda attempt: _sections(attempt.answer) == {"baseline"},
            ),
            WrongAnswer(
                "all-of-them",
                lambda _: _made({"train": 1}, longer, list(USES)),
                "You expected all six to run. Those that neither read the section nor use a changed result were kept: "
                "compare with `STEPS`.",
                when=lambda attempt: not attempt.reached and len({*_predicted(attempt.answer)}) == len(USES),
            ),
            WrongAnswer(
                "readers-only",
                lambda _: _made({"train": 1}, longer, ["train"]),
                "More steps ran than you expected: what uses a changed result runs again too, and so on to the end.",
                when=lambda attempt: bool(_missed(attempt)),
            ),
            WrongAnswer(
                "too-many",
                lambda _: _made({"train": 1}, longer, ["search", *longer]),
                "You expected a step to run that was kept. It neither reads the section that you changed, nor did anything "
                "that it uses come out differently.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )


def _blind() -> Exercise:
    return Choice(
        name="blind",
        reference="b",
        also_right=("B",),
        options={
            "a": "every step runs again",
            "b": "all steps are kept; metrics.json still names the old version",
            "c": "only train and what uses it run again",
            "d": "it stops with an error",
        },
        because="The key knows settings, inputs and the script's own code. Pin the versions, or put them "
        "into the key if you want an update to count.",
        hints=(
            "What goes into the key? Look at `depends` in `run_step`: step, settings, inputs, code.",
            "Is there a library's version among these?",
        ),
        wrong=(
            WrongAnswer(
                "sees-all",
                "a",
                "That would be so if versions were part of the key. Look at `depends` in `run_step`.",
            ),
            WrongAnswer(
                "sees-libraries",
                "c",
                "`code` is the text of the step's own function and its helpers, not of the libraries that they call.",
            ),
            WrongAnswer("guards", "d", "Nothing compares versions: the step is simply kept."),
        ),
    )
