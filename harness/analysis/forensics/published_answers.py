"""A row of ours beside results that others made, question by question: the same questions, so a difference is paired.

The rules may differ (prompts, shots, metric, release of lm-eval): where prompts are told on both sides, the number that are the same to the
byte says how far the two are one evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from harness.analysis.forensics.result_files import Question, Result, match, short, texts_of
from harness.analysis.samples import Answered, answered
from harness.analysis.scores import TaskColumn, load_scores, strata_of
from harness.contracts import Score
from harness.errors import InputError, suggest
from harness.evaluation.paired import Strata, paired_difference
from harness.files import read_jsonl

OWN_ID = re.compile(r".+/\d+-(?P<hash>[0-9a-f]{16})")
"""How the benchmark `lm_eval` names a question."""


class Comparison(NamedTuple):
    """`ours - theirs` over the `paired` questions both scored, with its 95 % interval; means are over these questions.

    `changed` questions have another score; `same_prompts` counts prompts that are the same text, None where one side does not tell them.
    """

    task: str
    metric: str
    ours: float | None
    theirs: float | None
    paired: int
    only_ours: int
    only_theirs: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    changed: int
    same_prompts: int | None
    source: str


def compare(run: Path, row: str, results: Sequence[Result]) -> list[Comparison]:
    """Every task of the row that the results have under the same metric.

    Raises InputError where there is none, or where no question is in common.
    """
    scores = load_scores(run)
    if row not in scores.rows:
        raise InputError(f"{scores.recipe.name} has no row {row!r}{suggest(row, scores.rows)}")
    found, ours = [], []
    for column in scores.tasks:
        score = scores.score(row, column)
        if score is not None:
            ours.append(f"{column.label} ({metric_of(score)})")
            found += [_compare(column, score, _questions(run, row, column, score), one) for one in _same(column, score, results)]
    if not found:
        theirs = sorted({f"{one.task} ({one.metric})" for one in results})
        raise InputError(f"no task and metric in common: {row} of {run} has {', '.join(ours)}; the results have {', '.join(theirs)}")
    if not any(one.paired for one in found):
        raise InputError(f"no question in common with {row} of {run}; expected the same tasks, and our samples where theirs have no hashes")
    return found


def metric_of(score: Score) -> str:
    """The metric as lm-eval writes it, its filter left out where there is none."""
    metric, _, chosen = score.metric.partition(",")
    chosen = chosen or str(score.protocol.get("filter", "none"))
    return metric if chosen == "none" else f"{metric},{chosen}"


def _same(column: TaskColumn, score: Score, results: Sequence[Result]) -> Iterator[Result]:
    """What the results have of a task: itself, or its subtasks together, a source at a time."""
    metric, task = metric_of(score), column.task.name
    same = [one for one in results if one.questions and one.metric in (metric, metric.partition(",")[0])]
    whole = [one for one in same if one.task == column.label] or [one for one in same if one.task == task]
    parts = set(score.details.get("subtasks", {}))
    below = [one for one in same if one.task in parts]
    yield from whole
    if below and not whole:
        questions = tuple(question for one in below for question in one.questions)
        yield below[0]._replace(source=f"{len(below)} of {len(parts)} subtasks", task=task, questions=questions)


def _questions(run: Path, row: str, column: TaskColumn, score: Score) -> dict[str, Question]:
    """{id: our question}, with its texts and prompt where the samples are here."""
    path = run / column.stage_path(row) / "samples" / f"{column.task.name}.jsonl"
    asked = {one.question: one for one in answered(read_jsonl(path))} if path.exists() else {}
    found = {}
    for key, value in score.values.items():
        parts, one = OWN_ID.fullmatch(key), asked.get(key)
        prompt = _prompt(one) if one else None
        texts = texts_of(one.line.get("question"), prompt) if one else frozenset()
        found[key] = Question(parts["hash"] if parts else short(key.partition("#")[0]), texts, value, prompt)
    return found


def _prompt(one: Answered) -> str:
    """The whole prompt, of MT-Bench the dialogue up to the turn."""
    return one.prompt if one.turn is None else str(one.line.get("prompts", {one.turn: one.prompt})[one.turn])


def _compare(column: TaskColumn, score: Score, ours: Mapping[str, Question], theirs: Result) -> Comparison:
    pairs = match(ours, theirs.questions)
    both = {key: other for key, other in pairs.items() if ours[key].value is not None and other.value is not None}
    values = {key: score.values[key] for key in both}, {key: other.value for key, other in both.items()}
    found = paired_difference(*values, column.cluster, _strata(score, [*both]))
    means = [fmean(value for value in side.values() if value is not None) if both else None for side in values]
    prompts = [(ours[key].prompt, other.prompt) for key, other in both.items() if ours[key].prompt and other.prompt]
    return Comparison(
        task=column.label,
        metric=theirs.metric,
        ours=means[0],
        theirs=means[1],
        paired=len(both),
        only_ours=len(ours) - len(both),
        only_theirs=len(theirs.questions) - len(both),
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=found.p,
        changed=sum(not math.isclose(float(values[0][key] or 0), float(values[1][key] or 0), abs_tol=1e-9) for key in both),
        same_prompts=sum(a == b for a, b in prompts) if prompts else None,
        source=theirs.source,
    )


def _strata(score: Score, keys: Sequence[str]) -> Strata | None:
    """The subtasks of the paired questions; all of one sample where only some subtasks have any."""
    strata = strata_of(score)
    return strata if strata and len({strata.of[key] for key in keys}) > 1 else None


def shown(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The comparisons as a terminal shows them."""
    return [
        {
            "task": one.task,
            "metric": one.metric,
            "ours": _short(one.ours),
            "theirs": _short(one.theirs),
            "ours less theirs": "" if one.difference is None else f"{one.difference:+.2f}{_interval(one)}",
            "paired": one.paired,
            "only ours": one.only_ours,
            "only theirs": one.only_theirs,
            "changed": one.changed,
            "same prompts": one.same_prompts,
        }
        for one in found
    ]


def _interval(one: Comparison) -> str:
    return "" if one.low is None or one.high is None else f" [{one.low:+.2f}, {one.high:+.2f}]"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
