"""Finished runs with invented scores, written through artifact's own classes: what tables and explanations are read from."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from harness import machine
from harness.artifact import RECIPE_FILE, RunDir, Stage
from harness.contracts import Score
from harness.evaluation.statistics import estimate, question_of
from harness.files import dump, write_atomic
from harness.plan import folder_of, plan
from harness.recipe import Benchmark, Finetuning, Judge, Optimizer, Recipe, Task, load, replace

Values = Mapping[str, float | None]
MakeValues = Callable[[str, Task], Values | None]
"""(row, task) -> the questions' own scores, or None where the evaluation did not finish."""

LAUNCH = {
    "commit": "c0ffee" * 6 + "c0ff",
    "dirty": True,
    "command": "harness reproduce synthetic",
    "python": "3.11.9",
    "versions": {"torch": "2.13.0"},
}
CONTROL = Finetuning(learning_rate=1e-6, global_batch_size=64, optimizer=Optimizer())


def small_recipe(name: str = "synthetic", *, tasks: tuple[Task, ...] | None = None, claims: str | None = None, seed: int = 42) -> Recipe:
    """zephyr-7b with two iterations, a control and a few tasks."""
    zephyr = load("zephyr-7b")
    chosen = tasks or (Task(name="gsm8k", shots=5, metric="exact_match", limit=40), Task(name="openbookqa", shots=1, metric="acc_norm"))
    return replace(
        zephyr,
        name=name,
        iterations=zephyr.iterations[:2],
        controls={"control": CONTROL},
        benchmarks=(
            Benchmark(name="open_llm", protocol="current", tasks=chosen),
            Benchmark(
                name="mt_bench",
                protocol="single-answer",
                tasks=(Task(name="mt_bench", metric="points of 10"),),
                judge=Judge(name="mt_bench_single"),
            ),
            Benchmark(name="distribution", protocol="exact", tasks=(Task(name="kl", metric="nats", limit=40),)),
        ),
        claims=claims,
        seed=seed,
    )


def questions(row: str, task: Task, seed: int = 0) -> Values:
    """40 questions a task; iterations answer more of them than `sft`, and come closer in kl; MT-Bench has no verdict."""
    better = {"sft": 0.0, "control": 0.02, "iter0": 0.3, "iter1": 0.45}[row]
    draw = random.Random(f"{task.name} {seed}")
    if task.name == "mt_bench":
        return {f"{81 + i // 2}-{i % 2 + 1}": None for i in range(16)}
    if task.name == "kl":
        return {f"p{i}": 1.0 + draw.random() - better + 0.05 * random.Random(f"{row} {i} {seed}").random() for i in range(40)}
    return {f"q{i}": 100.0 if draw.random() < 0.4 + better else 0.0 for i in range(40)}


def score_of(benchmark: Benchmark, task: Task, values: Values) -> Score:
    """The score a benchmark would write for `values`."""
    found = estimate(values, question_of if benchmark.name == "mt_bench" else None)
    return Score(
        benchmark=benchmark.name,
        task=task.name,
        metric=task.metric,
        value=found.value,
        stderr=found.stderr,
        n=len(values),
        n_unscored=found.n_unscored,
        shots=task.shots,
        limit=task.limit,
        protocol={"rules": benchmark.protocol, "dtype": "bf16"},
        values=dict(values),
    )


def write_run(path: Path, recipe: Recipe, make_values: MakeValues = questions) -> Path:
    """A run of `recipe` at `path`; an evaluation with no values is left out."""
    run = RunDir(path)
    write_atomic(path / RECIPE_FILE, dump(recipe))
    for stage in plan(recipe):
        if stage.kind == "evaluate":
            _write_evaluation(run, recipe, stage, make_values)
        else:
            finish(run, stage, {"log.jsonl": stage.path.encode()})
    return path


def finish(run: RunDir, stage: Stage, files: Mapping[str, bytes]) -> None:
    """Write the stage's records and `files`, as the runner and the stage would."""
    run.begin(stage, machine.load("cpu"), LAUNCH)
    for name, content in files.items():
        write_atomic(run.stage_dir(stage.path) / name, content)
    run.finish(stage, 1.0, 2.0)


def _write_evaluation(run: RunDir, recipe: Recipe, stage: Stage, make_values: MakeValues) -> None:
    row, folder = stage.path.split("/eval/")
    benchmark = next(one for one in recipe.benchmarks if folder_of(one, recipe.benchmarks) == folder)
    values = {task: found for task in benchmark.tasks if (found := make_values(row, task)) is not None}
    if values:
        finish(run, stage, {f"scores/{task.name}.json": dump(score_of(benchmark, task, one)) for task, one in values.items()})
