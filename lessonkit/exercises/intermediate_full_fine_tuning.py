"""The exercises of `intermediate/full-fine-tuning`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from lessonkit.errors import ExerciseError
from lessonkit.exercises import Bar, Choice, Exercise, Function, Value, WrongAnswer, part


def exercises() -> list[Exercise]:
    """Fresh exercises, in the order in which the notebook asks them."""
    return [_mask(), _perplexity(), _padding(), _forgetting(), _patience(), _move_less()]


# ---- Label masking ----------------------------------------------------------------------------------


def _mask_reference(ids, header, end):
    labels, inside = [-100] * len(ids), False
    for place, token in enumerate(ids):
        if inside:
            labels[place] = token
            inside = token != end
        else:
            inside = ids[max(0, place + 1 - len(header)) : place + 1] == header
    return labels


def _mask_by_spans(ids, header, end):
    """The same by looking for each header, and for the end behind it."""
    labels, start = [-100] * len(ids), 0
    while start + len(header) <= len(ids):
        if ids[start : start + len(header)] != header:
            start += 1
            continue
        first = start + len(header)
        last = ids.index(end, first) + 1 if end in ids[first:] else len(ids)
        labels[first:last] = ids[first:last]
        start = last
    return labels


def _answers_of(ids: list[int], header: list[int], end: int) -> list[range]:
    """The places of each answer, its end included."""
    labels, found = _mask_reference(ids, header, end), []
    for place, label in enumerate(labels):
        if label == -100:
            continue
        if found and found[-1].stop == place and ids[place - 1] != end:
            found[-1] = range(found[-1].start, place + 1)
        else:
            found.append(range(place, place + 1))
    return found


def _kept(ids: list[int], places: Sequence[range]) -> list[int]:
    chosen = {place for each in places for place in each}
    return [token if place in chosen else -100 for place, token in enumerate(ids)]


def _without_end(ids, header, end):
    return [-100 if label == end else label for label in _mask_reference(ids, header, end)]


def _with_header(ids, header, end):
    places = [range(each.start - len(header), each.stop) for each in _answers_of(ids, header, end)]
    return _kept(ids, places)


def _last_only(ids, header, end):
    return _kept(ids, _answers_of(ids, header, end)[-1:])


def _first_only(ids, header, end):
    return _kept(ids, _answers_of(ids, header, end)[:1])


def _to_the_end(ids, header, end):
    """All from the first answer on, later questions included."""
    found = _answers_of(ids, header, end)
    return _kept(ids, [range(found[0].start, len(ids))] if found else [])


def _mask() -> Exercise:
    system, user, header, end = [1, 8, 5, 50, 51, 2, 5], [1, 6, 5], [1, 7, 5], 2
    one = [*system, *user, 30, 31, 2, 5, *header, 40, 41, 2]
    two = [*one, 5, *user, 32, 2, 5, *header, 42, 5, 43, 2]
    return Function(
        name="mask",
        reference=_mask_reference,
        also_right=(_mask_by_spans,),
        because="Each answer counts with its end, so the model learns what to say and when to stop; the header is given "
        "to it, as the question is.",
        cases=(
            (one, header, end),
            (two, header, end),
            (two[:-2], header, end),
            ([*user, 30, 31, 2], header, end),
            ([*two, 5, *user, 33], header, end),
        ),
        hints=(
            "Go through the ids and remember whether you are inside an answer.",
            "You are inside from the token behind a header: `ids[place + 1 - len(header) : place + 1] == header` says "
            "that one ends at `place`. You are outside again behind the next `end`.",
            "Start with `labels = [-100] * len(ids)`; inside, set `labels[place] = ids[place]`, the end's too.",
        ),
        source="def mask(ids, header, end):\n    labels, inside = [-100] * len(ids), False\n"
        "    for place, token in enumerate(ids):\n        if inside:\n            labels[place] = token\n"
        "            inside = token != end\n        else:\n"
        "            inside = ids[max(0, place + 1 - len(header)) : place + 1] == header\n    return labels",
        wrong=(
            WrongAnswer(
                "end-masked",
                _without_end,
                "The answers' ends are -100. A model trained so never learns to stop. Look at the last token of each "
                "answer: it must keep its id.",
            ),
            WrongAnswer(
                "header-counted",
                _with_header,
                "The header counts in yours. It is given to the model whenever an answer is wanted, so there is nothing "
                "to learn in it: begin behind it.",
            ),
            WrongAnswer(
                "last-answer-only",
                _last_only,
                "Only the last answer counts in yours. Every answer of the conversation is one to learn from: look at the "
                "case with two turns.",
            ),
            WrongAnswer(
                "first-answer-only",
                _first_only,
                "Only the first answer counts in yours. After its end, look for the next header.",
            ),
            WrongAnswer(
                "later-questions-counted",
                _to_the_end,
                "From the first answer on, all counts in yours, later questions too. An answer is over behind its `end`.",
            ),
            WrongAnswer(
                "nothing-masked",
                lambda ids, header, end: list(ids),
                "Nothing is masked: the model would also learn to write system messages and questions. Start from "
                "`[-100] * len(ids)`.",
            ),
        ),
    )


# ---- Perplexity -------------------------------------------------------------------------------------


def _perplexity_reference(batches):
    tokens = sum(count for _, count in batches)
    return math.exp(sum(loss * count for loss, count in batches) / tokens)


def _perplexity_of_arrays(batches):
    import numpy as np

    losses, counts = np.array(batches, dtype=float).T
    return np.exp(np.average(losses, weights=counts))


def _perplexity() -> Exercise:
    return Function(
        name="perplexity",
        reference=_perplexity_reference,
        also_right=(_perplexity_of_arrays,),
        because="Mean loss times tokens is a batch's summed loss; all sums, divided by all tokens, are the loss of a token.",
        cases=(
            ([(3.0, 100), (2.0, 300)],),
            ([(2.5, 40)],),
            ([(4.0, 10), (3.0, 20), (1.0, 470)],),
        ),
        hints=(
            "A batch of 300 tokens must weigh three times what one of 100 does.",
            "`loss * count` is what a batch's tokens lost together. Add these up, and the counts.",
            "`math.exp(summed / tokens)`: exp comes last, once.",
        ),
        source="def perplexity_of(batches):\n    tokens = sum(count for _, count in batches)\n"
        "    return math.exp(sum(loss * count for loss, count in batches) / tokens)",
        wrong=(
            WrongAnswer(
                "mean-of-batches",
                lambda batches: math.exp(sum(loss for loss, _ in batches) / len(batches)),
                "You average the batches' losses: a short batch's tokens weigh more than a long one's. Weigh each loss by "
                "its count.",
            ),
            WrongAnswer(
                "mean-of-perplexities",
                lambda batches: (
                    sum(math.exp(loss) * count for loss, count in batches)
                    / sum(count for _, count in batches)
                ),
                "You take exp of each batch and average then. One hard batch dominates that; take the mean of the losses "
                "first, exp at the very end.",
            ),
            WrongAnswer(
                "no-exp",
                lambda batches: (
                    sum(loss * count for loss, count in batches) / sum(count for _, count in batches)
                ),
                "That's the mean loss of a token, in nats. Perplexity is exp of it.",
            ),
            WrongAnswer(
                "sum-not-mean",
                lambda batches: math.exp(sum(loss for loss, _ in batches)),
                "You add the losses up. Perplexity is about one token: divide the summed loss by the number of tokens.",
            ),
        ),
    )


# ---- Predictions ------------------------------------------------------------------------------------


def _padding() -> Exercise:
    return Value(
        name="padding",
        reference=0.4,
        also_right=("40 %", Fraction(160, 400)),
        tolerance=0.005,
        because="Four rows of 100 places are 400; the texts fill 240 of them.",
        hints=(
            "Each row is filled up to the longest: how many places has the batch?",
            "4 x 100 places, 30 + 50 + 60 + 100 of them filled.",
        ),
        wrong=(
            WrongAnswer("filled", 0.6, "That's the share that is filled. Padding is the rest."),
            WrongAnswer(
                "against-the-texts",
                160 / 240,
                "You divide the padding by the texts' tokens. The question is about the share of *all* places, 4 x 100.",
            ),
            WrongAnswer(
                "long-row-left-out",
                160 / 300,
                "The longest row has places too: divide by 4 x 100.",
            ),
            WrongAnswer("count", 160, "That many places are padding. Divide by the number of all places."),
        ),
    )


def _patience() -> Exercise:
    return Value(
        name="patience",
        reference={"stops after": 5, "loads": 3},
        also_right=({"loads": 3.0, "stops after": "5"},),
        because="The fourth and the fifth don't beat the best, 3.10 of the third: that's patience used up. That the sixth "
        "would have been better, nobody finds out: that's the price of a short patience.",
        hints=(
            "Write the best value so far beside each evaluation. Which evaluations don't beat it?",
            "3.12 is lower than 3.15, but is it lower than the best?",
        ),
        wrong=(
            WrongAnswer(
                "compares-with-the-last",
                {"stops after": 6, "loads": 6},
                "It is compared with the best so far, not with the one before: 3.12 beats 3.15, but not 3.10.",
            ),
            WrongAnswer(
                "patience-of-one",
                {"stops after": 4, "loads": 3},
                "That would be a patience of 1: it stops at the first evaluation that doesn't beat the best. Two may.",
            ),
            WrongAnswer(
                "last-is-loaded",
                {"stops after": 5, "loads": 5},
                "It stops there, yes. But `load_best_model_at_end` loads the weights with the lowest validation loss.",
            ),
            WrongAnswer(
                "counts-from-zero",
                {"stops after": 4, "loads": 2},
                "Count the evaluations from 1, please.",
            ),
        ),
    )


def _forgetting() -> Exercise:
    return Choice(
        name="forgetting",
        reference="b",
        also_right=('"b"', "(B)", "own answers"),
        options={"a": "news", "b": "own answers", "c": "both about alike", "d": "neither rose"},
        because="Training moved what the model writes behind `<|im_start|>assistant`, and there its old manners lived.",
        hints=(
            "What did the loss reward: any text, or what is written behind a question in a chat?",
            "Behind every question, it now expects a tale. Which of the two texts stands behind questions?",
        ),
        wrong=(
            WrongAnswer(
                "unlike-the-training",
                "a",
                "News are unlike tales, yes. But the steps changed what is said *in a chat*, and the news stand outside of "
                "one: look at the two ratios in the next output.",
            ),
            WrongAnswer(
                "both-alike",
                "c",
                "All weights moved, but they moved for one kind of place: behind a question in a chat. Only one of the two "
                "texts stands there.",
            ),
            WrongAnswer(
                "frozen-knowledge",
                "d",
                "Nothing in the loss held the old answers in place: look at the ratios in the next output.",
            ),
        ),
    )


# ---- A training of the learner's own ------------------------------------------------------------------

BAR = 2.0  # own answers' perplexity, as a multiple of the untrained model's
LEARNED = 0.85  # so far at least must that of the tales have come down


def _comparison(answer: Any, kind: str) -> Any:
    """The learner's comparison of a model of their own with the untrained one."""
    found = part(answer, kind, "answer = mine")
    from lessonkit.evaluation import Comparison

    if not isinstance(found, Comparison) or found.metric != "perplexity":
        fix = f"pass lessonkit.compare_perplexities(after[{kind!r}], before[{kind!r}])"
        raise ExerciseError(f"`{kind}` is no comparison of perplexities.", fix=fix)
    return found


def _made(tales: float, own: float) -> dict[str, Any]:
    from lessonkit.evaluation import Comparison

    def compared(change: float) -> Comparison:
        low, high = 0.95 * change, 1.05 * change
        verdict = "better" if high < 1 else "worse" if low > 1 else "can't tell"
        return Comparison(
            "perplexity", ("mine", "base"), (change, 1.0), 28, change, (low, high), verdict, 0, 28
        )

    return {"tales": compared(tales), "own answers": compared(own)}


def _move_less() -> Exercise:
    return Bar(
        name="move-less",
        reference=lambda none: _made(0.54, 1.13),  # measured with an eighth of the rate and 60 rows
        also_right=(lambda none: _made(0.7, 1.1),),
        measure=lambda answer, none: _comparison(answer, "own answers").change,
        bar=BAR,
        higher_is_better=False,
        score_name="perplexity, as a multiple of the untrained model's,",
        measured_on="the held-out own answers",
        because="Smaller steps lose less and learn less. Rehearsal has both: it says in the loss what must stay.",
        hints=(
            "A smaller rate moves the weights less. Try a quarter or an eighth of it.",
            "Look at both numbers: if tales hardly came down, the rate was too small.",
            "`trainer_for(tale_rows, learning_rate=LEARNING_RATE / 8)`, then the same lines.",
        ),
        source="yours = trainer_for(tale_rows, learning_rate=LEARNING_RATE / 8)\n"
        "lessonkit.run(yours)\n"
        "after = measure(yours.model, 'new model')\n"
        "answer = {kind: lessonkit.compare_perplexities(after[kind], before[kind]) for kind in held_out}",
        wrong=(
            WrongAnswer(
                "compared-the-wrong-way-round",
                lambda none: _made(2.5, 0.4),
                "By these numbers the training made tales harder and the old answers easier, so they stand the wrong way "
                "round. Is `after` the first in `compare_perplexities`, and `before` the second?",
                when=lambda attempt: attempt.score < 1 and _comparison(attempt.answer, "tales").change > 1.1,
            ),
            WrongAnswer(
                "nothing-learned",
                lambda none: _made(0.97, 1.01),
                "Little is forgotten, but little is learned either: tales have hardly come down. Try a larger rate.",
                when=lambda attempt: (
                    attempt.reached and _comparison(attempt.answer, "tales").change > LEARNED
                ),
            ),
            WrongAnswer(
                "still-forgets",
                lambda none: _made(0.4, 2.6),
                "The tales are learned, but the old answers are lost. Move less: a smaller rate.",
                when=lambda attempt: not attempt.reached,
            ),
        ),
    )
