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
from harness.artifact import Accepted, Launch, RunDir
from harness.config import Strict, flatten
from harness.errors import HarnessError, InputError, suggest
from harness.report.formatting import one_line
from harness.runs.provenance import describe

SHORT = 12
"""Characters of a hash shown to people; JSON holds all."""


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


def print_explanation(explanation: Explanation, console: Console) -> None:
    """Print the explanation, one stage under the other."""
    for line in to_text(explanation).splitlines():
        console.print(escape(line), highlight=False, soft_wrap=True, style=None if line.startswith(" ") else "bold")


def to_text(explanation: Explanation) -> str:
    """The explanation as plain lines."""
    return "\n".join(_lines(explanation)) + "\n"


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


def _lines(explanation: Explanation) -> Iterator[str]:
    value = "unscored" if explanation.value is None else f"{explanation.value:.4g}"
    error = "" if explanation.stderr is None else f" ± {explanation.stderr:.3g}"
    unscored = f", {explanation.n_unscored} unscored" if explanation.n_unscored else ""
    cell = f"{explanation.recipe} / {explanation.row} / {explanation.task}"
    yield f"{cell}: {value}{error} ({explanation.metric}, n {explanation.n}{unscored})"
    yield f"  file      {explanation.score_path}"
    yield f"  sha256    {explanation.sha256}"
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
