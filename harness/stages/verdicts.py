"""Stage `verdicts`: another judge on the answers of a finished evaluation -> `scores/TASK.json` and `samples/TASK.jsonl`.

Nothing is answered again, and no checkpoint is needed: the answers are the samples of the stage they come from.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.contracts import Result, Score
from harness.contracts.stage_specs import VerdictsSpec
from harness.errors import InputError
from harness.evaluation.mt_bench.questions import Question, questions_of
from harness.evaluation.mt_bench.verdicts import Answers, grade, judge_rules, open_judge
from harness.files import dump, read_jsonl, read_model, write_atomic, write_jsonl
from harness.machine import Machine
from harness.recipe import Task
from harness.stages.evaluate import is_scored, samples_path, score_path


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Grade the answers to the tasks that have no score yet."""
    benchmark, workspace = VerdictsSpec.model_validate(spec).benchmark, out / "workspace"
    ask = open_judge(benchmark.judge, workspace / "verdicts", machine)
    if ask is None:
        raise InputError(f"protocol {benchmark.protocol!r} names no model as its judge, so there are no verdicts; give it judge.model")
    for task in (task for task in benchmark.tasks if not is_scored(out, task)):
        questions = questions_of(task)
        result: Result = grade(benchmark, task, questions, _answers(inputs["answers"], task, questions), ask, machine)
        answered = read_model(Score, score_path(inputs["answers"], task)).protocol
        protocol = {**answered, "rules": benchmark.protocol, **judge_rules(benchmark.judge), **result.score.protocol}
        write_jsonl(samples_path(out, task), result.samples)
        write_atomic(score_path(out, task), dump(result.score.model_copy(update={"protocol": protocol})))
    shutil.rmtree(workspace, ignore_errors=True)


def _answers(stage: Path, task: Task, questions: list[Question]) -> Answers:
    """What the stage's samples hold, where they are answers to just these questions."""
    found = {line["question_id"]: line for line in read_jsonl(samples_path(stage, task))}
    other = [q.question_id for q in questions if q.question_id not in found or tuple(found[q.question_id]["questions"]) != q.turns]
    if other:
        raise InputError(f"{stage} holds no answers to {len(other)} of {len(questions)} questions of {task.name} (first: {other[0]})")
    return {
        key: [
            {"answer": answer, "finish_reason": reason, "prompt": prompt}
            for answer, reason, prompt in zip(line["answers"], line["finish_reasons"], line["prompts"], strict=True)
        ]
        for key, line in found.items()
    }
