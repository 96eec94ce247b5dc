"""Stage `evaluate`: one benchmark on one checkpoint -> `scores/TASK.json` and `samples/TASK.jsonl`.

A task's samples are written before its score, so a score on disk means the task is finished; a launch after a kill goes on with
the tasks that have none.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.contracts import Job, Result, Score, load
from harness.contracts.stage_specs import EvaluateSpec
from harness.errors import InputError, RecipeError
from harness.files import dump, read_model, write_atomic, write_jsonl
from harness.machine import Machine
from harness.recipe import Task


def run(spec: dict[str, Any], inputs: Mapping[str, Path], out: Path, machine: Machine) -> None:
    """Score the tasks that have no score yet."""
    stage = EvaluateSpec.model_validate(spec)
    missing = [task for task in _named_once(stage.benchmark.tasks) if not is_scored(out, task)]
    job = Job(
        checkpoint=inputs["policy"] / "checkpoint",
        benchmark=stage.benchmark,
        engine=stage.engine,
        machine=machine,
        precision=stage.precision,
        seed=stage.seed,
        workspace=out / "workspace",
        chat=stage.chat,
        inputs={role: path for role, path in inputs.items() if role != "policy"},
        encoding=stage.encoding,
    )
    if missing:
        _score(job, missing, out)
    shutil.rmtree(job.workspace, ignore_errors=True)


def score_path(out: Path, task: Task) -> Path:
    """Where a task's score lies in its stage's directory."""
    return out / "scores" / f"{task.name}.json"


def samples_path(out: Path, task: Task) -> Path:
    """Where a task's samples lie in its stage's directory."""
    return out / "samples" / f"{task.name}.jsonl"


def is_scored(out: Path, task: Task) -> bool:
    """Whether an earlier launch has scored the task. Raises `InputError` where what it left cannot be that."""
    score, samples = score_path(out, task), samples_path(out, task)
    if not score.exists():
        return False
    if read_model(Score, score).task != task.name or not samples.is_file():
        what = f"{samples} is missing" if not samples.is_file() else f"{score} is the score of another task"
        raise InputError(f"{what}; remove {score} and run again: the task is scored anew")
    return True


def _score(job: Job, tasks: list[Task], out: Path) -> None:
    if not job.checkpoint.is_dir():
        raise InputError(f"{job.checkpoint} is missing; run the stage that makes it first")
    score = load("benchmarks", job.benchmark.name).open_benchmark(job)
    for task in tasks:
        result: Result = score(task)
        write_jsonl(samples_path(out, task), result.samples)
        write_atomic(score_path(out, task), dump(result.score))


def _named_once(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    for name, times in Counter(task.name for task in tasks).items():
        if times > 1:
            raise RecipeError(f"task {name!r} is listed {times} times in one benchmark; its score file can hold only one")
    return tasks
