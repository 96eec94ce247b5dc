"""A judge's verdicts on answers to MT-Bench, and the score they add up to, as FastChat's gen_judgment.py with single-answer grading.

A verdict in which the judge component reads no rating is unscored and counted; a turn graded several times scores the mean of its readable
ratings. The answers may be a benchmark's own or those of a finished stage: nothing here generates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.contracts import Result, Score, Turn, load
from harness.evaluation.judge_endpoint import Endpoint, Verdict, collect
from harness.evaluation.mt_bench.questions import SPACE, SPACE_REVISION, Question, judge_templates
from harness.evaluation.mt_bench.ratings import group_means, intervals, rating_of
from harness.evaluation.statistics import estimate, question_of
from harness.machine import Machine
from harness.recipe import Benchmark, Judge, Task

Ask = Callable[[str, Turn], Verdict]
Verdicts = Mapping[str, Sequence[Verdict]]
Answers = Mapping[str, Sequence[Mapping[str, Any]]]
"""{question_id: for each turn a line with answer, finish_reason and prompt}."""


def open_judge(judge: Judge | None, folder: Path, machine: Machine) -> Ask | None:
    """A function from a turn's key and the turn to its verdict, a model's kept in `folder`; None when no judge was chosen."""
    if judge is None:
        return None
    component = load("judges", judge.name)
    if not component.NEEDS_MODEL:
        return lambda key, turn: Verdict(component.decide(turn))
    if judge.model is None:
        return None
    endpoint = Endpoint(judge, folder, machine)
    templates = judge_templates()
    return lambda key, turn: endpoint.ask(key, component.render(turn, templates))


def grade(benchmark: Benchmark, task: Task, questions: Sequence[Question], answers: Answers, ask: Ask | None, machine: Machine) -> Result:
    """Points of 10 over all turns, and every question as asked, answered and graded. The protocol is the judge's served names alone."""
    turns = {f"{q.question_id}-{t + 1}": _turn(q, t, answers[q.question_id]) for q in questions for t in range(len(q.turns))}
    verdicts = _verdicts(benchmark.judge, turns, ask, machine) if ask else None
    score = _score(benchmark, task, turns, verdicts)
    score = score.model_copy(update={"protocol": {"judge_served": _served(verdicts)}})
    return Result(score, [_sample(question, answers[question.question_id], score, verdicts) for question in questions])


def _turn(question: Question, turn: int, answers: Sequence[Mapping[str, Any]]) -> Turn:
    end = turn + 1
    return Turn(
        question.question_id,
        question.category,
        question.turns[:end],
        tuple(line["answer"] for line in answers[:end]),
        question.references[:end],
    )


def judge_rules(judge: Judge | None) -> dict[str, Any]:
    """What two scores must share of their judges to stand in one column."""
    component = load("judges", judge.name) if judge else None
    needs_model = component is not None and component.NEEDS_MODEL
    return {
        "judge": judge.name if judge else None,
        "judge_version": component.VERSION if component else None,
        "judge_model": judge.model if judge and needs_model else None,
        "judge_revision": judge.revision if judge and needs_model else None,
        "judge_repeats": judge.repeats if judge else None,
        "judge_temperature": judge.temperature if judge and needs_model else None,
        "judge_max_tokens": judge.max_tokens if judge and needs_model else None,
        "judge_prompts": f"{SPACE}@{SPACE_REVISION[:12]}" if needs_model else None,
    }


def _verdicts(judge: Judge | None, turns: Mapping[str, Turn], ask: Ask, machine: Machine) -> dict[str, list[Verdict]]:
    """{key: the judge's verdicts on that turn}, one a repeat."""
    repeats = judge.repeats if judge else 1
    asked = {f"{key}.{i + 1}": turn for key, turn in turns.items() for i in range(repeats)}
    found = collect(asked, ask, machine.judge_threads)
    return {key: [found[f"{key}.{i + 1}"] for i in range(repeats)] for key in turns}


def _score(benchmark: Benchmark, task: Task, turns: Mapping[str, Turn], verdicts: Verdicts | None) -> Score:
    """Points of 10 over all turns, a question's turns as one cluster; in the details by category and by turn.

    A verdict is unreadable when no rating can be read in it, a turn unscored when all its verdicts are. `read_by_fallback` counts verdicts
    whose rating was read by the looser part of the judge component's rule.
    """
    read = _ratings(benchmark.judge, verdicts) if verdicts else {}
    ratings = {key: rating_of(read.get(key, ())) for key in turns}
    estimated = estimate(ratings, question_of)
    details: dict[str, Any] = {
        "categories": group_means(ratings, {key: turn.category for key, turn in turns.items()}),
        "turns": group_means(ratings, {key: str(len(turn.questions)) for key, turn in turns.items()}),
        "intervals": intervals(ratings),
    }
    if verdicts is None:
        details["reason"] = "no judge was chosen: answers only"
    else:
        asked = [verdict for found in verdicts.values() for verdict in found]
        details["verdicts"] = {
            "asked": len(asked),
            "unreadable": sum(rating is None for found in read.values() for rating in found),
            "refused": dict(Counter(verdict.refused for verdict in asked if verdict.refused)),
        }
        details["read_by_fallback"] = _read_by_fallback(benchmark.judge, asked)
        details |= _note_on_refused(turns, verdicts)
    return Score(
        benchmark=benchmark.name,
        task=task.name,
        metric=task.metric,
        value=estimated.value,
        stderr=estimated.stderr,
        n=len(turns),
        n_unscored=sum(rating is None for rating in ratings.values()),
        shots=task.shots,
        limit=task.limit,
        values=ratings,
        details=details,
    )


def _served(verdicts: Verdicts | None) -> list[str]:
    """The model names the endpoint reported: what stands behind the judge's name may change between two rows."""
    return sorted({verdict.model for found in (verdicts or {}).values() for verdict in found if verdict.model})


def _ratings(judge: Judge | None, verdicts: Verdicts) -> dict[str, list[float | None]]:
    assert judge is not None
    parse = load("judges", judge.name).parse
    return {key: [None if verdict.refused else parse(verdict.text) for verdict in found] for key, found in verdicts.items()}


def _note_on_refused(turns: Mapping[str, Turn], verdicts: Verdicts) -> dict[str, str]:
    """A note where every verdict on some turn was refused: how long these turns are beside the others, whose mean the score then is."""
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for key, turn in turns.items():
        lengths[all(verdict.refused for verdict in verdicts[key])].append(sum(map(len, (*turn.questions, *turn.answers))))
    if not lengths[True]:
        return {}
    means = {refused: f"{fmean(found):.0f} characters" if found else "none" for refused, found in lengths.items()}
    return {"note": f"{len(lengths[True])} turns refused, in the mean {means[True]} of dialogue; the graded {means[False]}"}


def _read_by_fallback(judge: Judge | None, verdicts: Sequence[Verdict]) -> int:
    assert judge is not None
    is_fallback = load("judges", judge.name).is_fallback
    return sum(is_fallback(verdict.text) for verdict in verdicts if not verdict.refused)


def _sample(question: Question, answers: Sequence[Mapping[str, Any]], score: Score, verdicts: Verdicts | None) -> dict[str, Any]:
    """One question as asked, answered and graded; prompts and questions are evaluation content and stay out of the score."""
    keys = [f"{question.question_id}-{turn + 1}" for turn in range(len(question.turns))]
    return {
        "question_id": question.question_id,
        "category": question.category,
        "questions": list(question.turns),
        "answers": [line["answer"] for line in answers],
        "finish_reasons": [line["finish_reason"] for line in answers],
        "prompts": [line["prompt"] for line in answers],
        "verdicts": [[verdict.text for verdict in verdicts[key]] if verdicts else None for key in keys],
        "ratings": [score.values[key] for key in keys],
    }
