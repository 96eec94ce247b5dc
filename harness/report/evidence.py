"""What lies behind a run's scores: training curves, log-probability gaps, response lengths, samples, audits, cost.

Curves, gaps and cost come from committed records; lengths and samples need responses and samples, and are empty where those are not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from harness.analysis.scores import task_columns
from harness.artifact import LOG_FILE, RunDir
from harness.config import flatten
from harness.contracts.run_files import read_file, read_lines
from harness.errors import InputError
from harness.files import read_jsonl
from harness.plan import plan
from harness.recipe import Recipe
from harness.rows import opponent_of, rows

POINTS = 160
"""Points of a curve: longer logs are averaged over equal runs of steps."""
PROMPTS, QUESTIONS = 24, 16
"""Prompts and MT-Bench questions whose responses are shown."""
BINS = 40
QUANTITIES = ("loss", "margin", "rewards/real", "rewards/generated", "rewards/accuracy")
"""What is drawn of a training log."""


class Curve(NamedTuple):
    """One logged quantity of a row's training: the mean over each run of steps."""

    row: str
    quantity: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


class Gap(NamedTuple):
    """Mean log p(real) - log p(generated) in nats a pair, over an epoch: under the opponent before, under the policy at the end."""

    row: str
    before: float
    after: float


class Lengths(NamedTuple):
    """How many responses of `name` fall into each of the bins, whose edges are in characters."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float


class Answer(NamedTuple):
    """A response and who gave it. `remark` is a rating, or why it ended."""

    by: str
    text: str
    remark: str


class Sample(NamedTuple):
    """A prompt and the responses to it, in order."""

    prompt: str
    answers: tuple[Answer, ...]


class Check(BaseModel):
    """A check of an audit: the share of pairs it `found`, and the `limit` it must not pass unless the recipe `accepted` it."""

    name: str
    found: float
    limit: float
    accepted: bool


class Audit(NamedTuple):
    """What the tokenization made of a stage's pairs: its checks, what was counted, and a pair as the model sees it."""

    checks: list[Check]
    counts: dict[str, Any]
    example: list[str]


class Cost(NamedTuple):
    """A finished stage: seconds of work and the peak memory of its process."""

    stage: str
    kind: str
    seconds: float
    peak_memory_mb: float
    machine: str


class Evidence(NamedTuple):
    """Everything a report shows beside the scores. `judged` is {MT-Bench task: samples}, `audits` {stage: audit}."""

    curves: list[Curve]
    gaps: list[Gap]
    lengths: list[Lengths]
    samples: list[Sample]
    judged: dict[str, list[Sample]]
    audits: dict[str, Audit]
    costs: list[Cost]


def gather(run: RunDir, recipe: Recipe) -> Evidence:
    """The evidence of a run, as far as it is here."""
    lengths, samples = responses(run, recipe)
    return Evidence(
        curves(run, recipe), list(gaps(run, recipe)), lengths, samples, judged_answers(run, recipe), audits(run, recipe), costs(run, recipe)
    )


def curves(run: RunDir, recipe: Recipe) -> list[Curve]:
    """The curves of every trained row, iterations last, without what was not logged."""
    return [curve for row in rows(recipe) for curve in _curves(_log(run, row), row)]


def gaps(run: RunDir, recipe: Recipe) -> Iterator[Gap]:
    """A gap an iteration. Before: from the first epoch, where the opponent's gap is the policy's less the margin; after: the last epoch."""
    for t in range(len(recipe.iterations)):
        steps = [step for step in _log(run, f"iter{t}") if step.get("margin") is not None]
        if steps:
            first = [step for step in steps if step["epoch"] == steps[0]["epoch"]]
            last = [step for step in steps if step["epoch"] == steps[-1]["epoch"]]
            before = _mean([step["logps/real"] - step["logps/generated"] - step["margin"] for step in first])
            yield Gap(f"iter{t}", before, _mean([step["logps/real"] - step["logps/generated"] for step in last]))


def responses(run: RunDir, recipe: Recipe) -> tuple[list[Lengths], list[Sample]]:
    """Lengths of all real and generated responses, and the responses to a few prompts spread over the set."""
    prompts = {row["prompt_id"]: row for row in read_lines(run.path, "prompts/prompts.jsonl")}
    generated = {t: _responses(run, t) for t in range(len(recipe.iterations))}
    texts = {"real": [row["real"] for row in prompts.values()]}
    texts |= {f"iter{t}: by {opponent_of(t)}": [line["response"] for line in lines.values()] for t, lines in generated.items()}
    chosen = list(prompts)[:: max(1, len(prompts) // PROMPTS)][:PROMPTS]
    return _lengths({name: found for name, found in texts.items() if found}), [_sample(prompts[key], generated) for key in chosen]


def judged_answers(run: RunDir, recipe: Recipe) -> dict[str, list[Sample]]:
    """{MT-Bench task: its questions' answers by every row}, the questions spread over the categories."""
    found = {}
    for column in task_columns(recipe):
        if column.benchmark.name == "mt_bench":
            paths = {row: f"{column.stage_path(row)}/samples/{column.task.name}.jsonl" for row in rows(recipe)}
            by_row = {row: {line["question_id"]: line for line in read_lines(run.path, path)} for row, path in paths.items()}
            known = list(next((lines for lines in by_row.values() if lines), {}).values())
            chosen = known[:: max(1, len(known) // QUESTIONS)][:QUESTIONS]
            found[column.label] = [_turn(line, turn, by_row) for line in chosen for turn in range(len(line["questions"]))]
    return {label: samples for label, samples in found.items() if samples}


def audits(run: RunDir, recipe: Recipe) -> dict[str, Audit]:
    """{stage: its tokenization audit} of the training stages that have one."""
    contents = {stage.path: read_file(run.path, f"{stage.path}/audit.json") for stage in plan(recipe) if stage.kind == "train"}
    return {path: _audit(run, path, content) for path, content in contents.items() if content is not None}


def costs(run: RunDir, recipe: Recipe) -> list[Cost]:
    """The finished stages in the plan's order."""
    found = []
    for stage in plan(recipe):
        record, launch = run.record(stage.path), run.launch(stage.path)
        if record and launch:
            found.append(Cost(stage.path, stage.kind, record.seconds, record.peak_memory_mb, launch.machine.summary))
    return found


def _log(run: RunDir, row: str) -> list[dict[str, Any]]:
    return [step for step in read_lines(run.path, f"{row}/train/{LOG_FILE}") if "step" in step]


def _curves(log: Sequence[dict[str, Any]], row: str) -> Iterator[Curve]:
    size = max(1, math.ceil(len(log) / POINTS))
    for quantity in QUANTITIES:
        known = [(step["step"], step[quantity]) for step in log if step.get(quantity) is not None]
        runs = [known[start : start + size] for start in range(0, len(known), size)]
        if runs:
            steps = tuple(_mean([step for step, _ in one]) for one in runs)
            yield Curve(row, quantity, steps, tuple(_mean([value for _, value in one]) for one in runs))


def _responses(run: RunDir, t: int) -> dict[str, dict[str, Any]]:
    folder = run.stage_dir(f"iter{t}/generate") / "responses"
    return {line["prompt_id"]: line for path in sorted(folder.glob("*.jsonl")) for line in read_jsonl(path)}


def _lengths(texts: dict[str, list[str]]) -> list[Lengths]:
    """Histograms over common edges, up to the length that 99 % stay below; longer ones count in the last bin."""
    every = sorted(len(text) for found in texts.values() for text in found)
    top = max(every[int(0.99 * (len(every) - 1))], BINS) if every else BINS
    edges = tuple(top * i / BINS for i in range(BINS + 1))
    found = []
    for name, members in texts.items():
        counts = [0] * BINS
        for text in members:
            counts[min(int(len(text) * BINS / top), BINS - 1)] += 1
        found.append(Lengths(name, edges, tuple(counts), _mean([len(text) for text in members])))
    return found


def _sample(prompt: dict[str, Any], generated: dict[int, dict[str, dict[str, Any]]]) -> Sample:
    given = [Answer("real", prompt["real"], "what SFT was trained on")]
    for t, lines in generated.items():
        line = lines.get(prompt["prompt_id"])
        if line:
            given.append(Answer(opponent_of(t), line["response"], f"for iter{t}, ended by {line['finish_reason']}"))
    return Sample("\n\n".join(message["content"] for message in prompt["prompt"]), tuple(given))


def _turn(line: dict[str, Any], turn: int, by_row: dict[str, dict[str, dict[str, Any]]]) -> Sample:
    answers = []
    for row, lines in by_row.items():
        found = lines.get(line["question_id"])
        if found and turn < len(found["answers"]):
            ratings = found.get("ratings") or []
            rating = ratings[turn] if turn < len(ratings) else None
            answers.append(Answer(row, found["answers"][turn], "unscored" if rating is None else f"rated {rating:g}"))
    return Sample(f"{line['category']}, turn {turn + 1}: {line['questions'][turn]}", tuple(answers))


def _audit(run: RunDir, path: str, content: bytes) -> Audit:
    example = read_file(run.path, f"{path}/samples/example.json")
    try:
        report = json.loads(content)
        checks = [Check.model_validate(check) for check in report["checks"]]
        shown = json.loads(example) if example else {"prompt": None, "responses": []}
        texts = [part["text"] for part in (shown["prompt"], *shown["responses"]) if part]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}/audit.json is not an audit ({type(error).__name__}); see `harness verify`") from None
    return Audit(checks, flatten({name: value for name, value in report.items() if name != "checks"}), texts)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
