"""From one cell of a table to all that made it: the score's file and hash, its stage, every stage before that, commits, versions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.analysis.comparability import AVERAGE
from harness.analysis.scores import RunScores, TaskColumn, load_scores
from harness.analysis.sweep_table import find_row
from harness.artifact import Accepted, Launch, RunDir
from harness.config import Strict, flatten
from harness.errors import HarnessError, InputError, suggest
from harness.evaluation.statistics import spread
from harness.report.formatting import one_line
from harness.runs.provenance import describe
from harness.runs.sweeps import read_sweep

SHORT = 12
"""Characters of a hash shown to people; JSON holds all."""
MAX_STAGES = 7
"""Trainings that the short form names."""
MAIN_SETTINGS = ("objective", "beta", "learning_rate", "global_batch_size", "num_steps", "stop_after_epochs", "seed")
"""A training's values that the short form names."""


class LaunchFacts(Strict):
    """One launch of a stage. None where it was not recorded."""

    commit: str | None
    dirty: bool | None
    command: str | None
    python: str | None
    versions: dict[str, str]


class StageFacts(Strict):
    """A stage behind the cell. `spec` holds the recipe's values as {dotted field: value}; `inputs` maps role -> stage path.

    `content` is the hash of its outputs, and `input_contents` the one each input had when this stage was launched.
    """

    path: str
    kind: str
    fingerprint: str
    spec: dict[str, Any]
    versions: dict[str, int]
    inputs: dict[str, str]
    input_contents: dict[str, str]
    content: str | None
    seconds: float | None
    launches: tuple[LaunchFacts, ...]
    accepted: tuple[Accepted, ...]


class Explanation(Strict):
    """A cell and its lineage. `stages` starts with the evaluation; each stage's inputs follow it, every stage once."""

    recipe: str
    row: str
    task: str
    metric: str
    value: float | None
    stderr: float | None
    n: int
    n_unscored: int
    protocol: dict[str, Any]
    score_path: str
    sha256: str
    stages: tuple[StageFacts, ...]
    because: dict[str, str]


def explain(run: Path, row: str, task: str) -> Explanation:
    """What made the cell at `row` and `task`.

    Raises HarnessError with a suggestion for an unknown row or task, and InputError where the cell is not run or damaged.
    """
    scores, folder = load_scores(run), RunDir(run)
    recipe, column = scores.recipe, _column(scores, row, task)
    score, record = scores.score(row, column), folder.record(column.stage_path(row))
    if score is None or record is None:
        raise InputError(f"{row} {task} is not run yet; `harness reproduce {recipe.name}` makes {column.stage_path(row)}")
    return Explanation(
        recipe=recipe.name,
        row=row,
        task=task,
        metric=score.metric,
        value=score.value,
        stderr=score.stderr or None,
        n=score.n,
        n_unscored=score.n_unscored,
        protocol=score.protocol,
        score_path=column.score_path(row),
        sha256=record.outputs[column.file].sha256,
        stages=tuple(_lineage(folder, column.stage_path(row))),
        because=recipe.because,
    )


class SweepExplanation(Strict):
    """A cell of a sweep's table: mean and standard deviation over its runs, None where one is unscored, and each run's own cell."""

    sweep: str
    row: str
    task: str
    mean: float | None
    sd: float | None
    runs: tuple[Explanation, ...]


def explain_sweep(folder: Path, row: str, task: str) -> SweepExplanation:
    """What made the cell at `row` and `task` of a sweep's table. Raises as `explain`."""
    runs = tuple(explain(run, own, task) for run, own in find_row(folder, row))
    values = [run.value for run in runs if run.value is not None]
    mean, sd = spread(values) if len(values) == len(runs) else (None, None)
    return SweepExplanation(sweep=read_sweep(folder).name, row=row, task=task, mean=mean, sd=sd, runs=runs)


def print_explanation(found: Explanation | SweepExplanation, console: Console, *, full: bool) -> None:
    """Print the explanation: what a reader asks first, or with `full` everything."""
    for line in to_text(found, full=full).splitlines():
        console.print(escape(line), highlight=False, soft_wrap=True, style=None if line.startswith(" ") else "bold")


def to_text(found: Explanation | SweepExplanation, *, full: bool) -> str:
    """The explanation as plain lines."""
    if isinstance(found, SweepExplanation):
        lines = [*_sweep_lines(found), *(line for run in found.runs if full for line in _lines(run))]
    else:
        lines = list(_lines(found) if full else _short_lines(found))
    return "\n".join(lines) + "\n"


def _sweep_lines(found: SweepExplanation) -> Iterator[str]:
    value = "unscored" if found.mean is None else f"{found.mean:.4g}" + ("" if found.sd is None else f" ± {found.sd:.3g}")
    yield f"{found.sweep} / {found.row} / {found.task}: {value} (mean ± standard deviation over {len(found.runs)} runs)"
    for run in found.runs:
        yield f"  {run.recipe}  {_value_text(run)}  {run.score_path}"
    yield f"one run's lineage: harness explain DIRECTORY/{found.runs[0].recipe} {found.runs[0].row} {found.task}; all of them: --full"


def _short_lines(found: Explanation) -> Iterator[str]:
    """At most 15 lines: the cell, its file and rules, who was trained on what by which stage, and one launch."""
    first = found.stages[0]
    yield from _cell_lines(found)
    trained = [stage for stage in found.stages if stage.kind == "train"]
    for stage in trained[:MAX_STAGES]:
        yield f"  made by   {one_line(f'{stage.path} on {_from(stage)}: {_settings(stage)}')}"
    if len(trained) > MAX_STAGES:
        yield f"            and {len(trained) - MAX_STAGES} trainings before that"
    for launch in first.launches[-1:]:
        text = describe(launch.model_dump())
        yield f"  launch    commit {text.commit}: {one_line(text.command)}"
        yield f"            python {text.python}; {text.packages}"
    accepted = [stage.path for stage in found.stages if stage.accepted]
    if accepted:
        yield f"  accepted  by hand, see --full: {', '.join(accepted)}"
    yield f"{len(found.stages)} stages stand behind it; --full shows each with its identity, values, inputs and launches"


def _from(stage: StageFacts) -> str:
    return " and ".join(dict.fromkeys(stage.inputs.values())) or "nothing"


def _settings(stage: StageFacts) -> str:
    return ", ".join(f"{field} {stage.spec[field]}" for field in MAIN_SETTINGS if stage.spec.get(field) is not None)


def _column(scores: RunScores, row: str, task: str) -> TaskColumn:
    name = scores.recipe.name
    if row not in scores.rows:
        raise HarnessError(f"{name} has no row {row!r}{suggest(row, scores.rows)}")
    if task == AVERAGE and scores.leaderboard:
        raise HarnessError(f"average is the mean of {', '.join(column.label for column in scores.leaderboard)}; explain one of them")
    if task not in scores.by_label:
        raise HarnessError(f"{name} has no task {task!r}{suggest(task, scores.by_label)}")
    return scores.by_label[task]


def _lineage(run: RunDir, path: str) -> Iterator[StageFacts]:
    """The stage at `path` and all before it, nearest first, each once."""
    waiting, seen = [path], {path}
    while waiting:
        facts = _stage(run, waiting.pop(0))
        yield facts
        new = [before for before in facts.inputs.values() if before not in seen]
        seen.update(new)
        waiting += new


def _stage(run: RunDir, path: str) -> StageFacts:
    launch, record = run.launch(path), run.record(path)
    if launch is None:
        raise InputError(f"{path}/stage.json is missing, so the lineage ends there; restore it from the commit it came with")
    return StageFacts(
        path=path,
        kind=launch.stage.kind,
        fingerprint=launch.stage.fingerprint,
        spec={field: list(value) if isinstance(value, tuple) else value for field, value in flatten(launch.stage.spec).items()},
        versions=launch.stage.versions,
        inputs=launch.stage.inputs,
        input_contents=launch.input_contents,
        content=record.content if record else None,
        seconds=record.seconds if record else None,
        launches=tuple(_launches(launch)),
        accepted=tuple(launch.accepted),
    )


def _launches(launch: Launch) -> Iterator[LaunchFacts]:
    for one in launch.launches:
        yield LaunchFacts(versions=one.get("versions", {}), **{name: one.get(name) for name in ("commit", "dirty", "command", "python")})


def _value_text(found: Explanation) -> str:
    value = "unscored" if found.value is None else f"{found.value:.4g}"
    error = "" if found.stderr is None else f" ± {found.stderr:.3g}"
    unscored = f", {found.n_unscored} unscored" if found.n_unscored else ""
    return f"{value}{error} ({found.metric}, n {found.n}{unscored})"


def _cell_lines(found: Explanation) -> Iterator[str]:
    yield f"{found.recipe} / {found.row} / {found.task}: {_value_text(found)}"
    yield f"  file      {found.score_path}"
    yield f"  sha256    {found.sha256}"


def _lines(explanation: Explanation) -> Iterator[str]:
    yield from _cell_lines(explanation)
    for field, found in flatten(explanation.protocol).items():
        yield f"  protocol  {one_line(f'{field} = {found}')}"
    for stage in explanation.stages:
        yield from _stage_lines(stage, explanation.task)
    if explanation.because:
        yield "recipe's reasons"
    for field, why in explanation.because.items():
        yield f"  {field}: {one_line(why)}"


def _stage_lines(stage: StageFacts, task: str) -> Iterator[str]:
    yield f"{stage.path} ({stage.kind})"
    yield f"  identity  {stage.fingerprint[:SHORT]}{'' if stage.content else ', not finished'}"
    if stage.content:
        yield f"  content   {stage.content[:SHORT]}, made in {stage.seconds} s"
    for role, path in stage.inputs.items():
        yield f"  input     {role} = {path} (content {stage.input_contents.get(role, 'not recorded')[:SHORT]})"
    for field, value in _of_task(stage.spec, task).items():
        yield f"  {'value':<9} {one_line(f'{field} = {value}')}"
    for name, number in stage.versions.items():
        yield f"  version   {name} {number}"
    for launch in stage.launches:
        text = describe(launch.model_dump())
        yield f"  launch    commit {text.commit}: {one_line(text.command)}"
        yield f"            python {text.python}; {text.packages}"
    for accepted in stage.accepted:
        changes = ", ".join(f"{field}: {old} -> {new}" for field, old, new in accepted.difference)
        yield f"  accepted  {one_line(changes)}, because {one_line(accepted.because)}"


def _of_task(spec: dict[str, Any], task: str) -> dict[str, Any]:
    """`spec` without the other tasks of an evaluation."""
    tasks = {field.removesuffix(".name"): value for field, value in spec.items() if re.fullmatch(r"benchmark\.tasks\.\d+\.name", field)}
    others = tuple(f"{prefix}." for prefix, name in tasks.items() if name != task.rpartition("/")[2])
    return {field: value for field, value in spec.items() if not field.startswith(others)}
