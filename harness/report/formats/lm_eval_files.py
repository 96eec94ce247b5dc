"""A row of a run as lm-eval would have written it: `results_DATE.json` and a `samples_TASK_DATE.jsonl` a task.

lm-eval's own code would load its models to write these; here they are made of the records, so the layout is stated once more
(lm_eval/result_schema.py, release 0.4.13). Values stand in lm-eval's units: a share lies between 0 and 1. What lm-eval has no field for
(protocol, unit) is under a task's `metadata`. Samples without text, as in a fresh checkout, keep the question's hash and its value.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from harness.analysis.samples import answered
from harness.analysis.scores import RunScores, TaskColumn, load_scores, strata_of
from harness.artifact import RunDir
from harness.contracts import Score
from harness.errors import InputError, suggest
from harness.evaluation.units import OWN_UNIT, Unit, is_less_better, unit_of
from harness.files import read_jsonl, write_json, write_jsonl

NOT_A_NAME = re.compile(r"[\"<>:/|\\?*\[\]]+")
"""What lm-eval replaces by '__' in the name of a file."""


class _Task(NamedTuple):
    """A scored task of the row; `name` is its column's label, `key` its metric as lm-eval writes it."""

    name: str
    column: TaskColumn
    score: Score

    @property
    def key(self) -> tuple[str, str]:
        metric, _, chosen = self.score.metric.partition(",")
        return metric, chosen or str(self.score.protocol.get("filter", "none"))

    @property
    def unit(self) -> Unit:
        return unit_of(self.column.benchmark, self.column.task, self.score)

    @property
    def divisor(self) -> float:
        """What one of our values is divided by."""
        return 100.0 if self.unit == "percent" else 1.0


def write_results(run: Path, row: str, folder: Path, now: datetime) -> list[Path]:
    """Write the files to `folder`/MODEL, as lm-eval does; return their paths. Raises InputError where nothing of the row is scored."""
    scores = load_scores(run)
    if row not in scores.rows:
        raise InputError(f"{scores.recipe.name} has no row {row!r}{suggest(row, scores.rows)}")
    tasks = list(_tasks(scores, row))
    if not tasks:
        raise InputError(f"no task of {row} is scored in {run}; `harness status` says what is missing")
    model, date = f"{scores.recipe.name}-{row}", now.isoformat().replace(":", "-")
    target = folder / NOT_A_NAME.sub("__", model)
    hashes: dict[str, str] = {}
    paths = [target / f"results_{date}.json"]
    for task in tasks:
        found: dict[str, list[dict[str, Any]]] = {}
        for subtask, sample in _samples(run, row, task):
            found.setdefault(subtask, []).append(sample)
        for name, samples in found.items():
            paths.append(target / f"samples_{NOT_A_NAME.sub('__', name)}_{date}.jsonl")
            write_jsonl(paths[-1], samples)
            hashes[name] = _hash("".join(one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in samples))
    launch = RunDir(run).launch(tasks[0].column.stage_path(row))
    origin = launch.launches[-1] if launch and launch.launches else {}
    results = {
        **_results(tasks),
        "config": {"model": "harness", "model_args": {"recipe": scores.recipe.name, "row": row}, "limit": None},
        "git_hash": origin.get("commit"),
        "date": now.timestamp(),
        "lm_eval_version": origin.get("versions", {}).get("lm_eval"),
        "transformers_version": origin.get("versions", {}).get("transformers"),
        "task_hashes": hashes,
        "model_source": "harness",
        "model_name": model,
        "model_name_sanitized": target.name,
    }
    write_json(paths[0], results)
    return paths


def _tasks(scores: RunScores, row: str) -> Iterator[_Task]:
    for column in scores.tasks:
        score = scores.score(row, column)
        if score is not None:
            yield _Task(column.label, column, score)


def _results(tasks: list[_Task]) -> dict[str, Any]:
    """lm-eval's tables of metrics, versions, shots and counts; a task with subtasks is a group with them below it."""
    found: dict[str, dict[str, Any]] = {
        name: {} for name in ("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
    }
    for task in tasks:
        score, parts = task.score, task.score.details.get("subtasks", {})
        found["results"][task.name] = {"alias": task.name, "sample_len": score.n, **_metrics(task, score.value, score.stderr)}
        found["group_subtasks"][task.name] = list(parts)
        for part, value in parts.items():
            found["results"][part] = {"alias": part, **_metrics(task, value, None)}
        if parts:
            found["groups"][task.name] = found["results"][task.name]
        for name in (task.name, *parts):
            version = score.protocol.get("task_version")
            found["versions"][name] = version.get(name) if isinstance(version, Mapping) else version
            found["n-shot"][name] = score.shots
            found["higher_is_better"][name] = {task.key[0]: not is_less_better(score)}
        found["n-samples"][task.name] = {"original": score.n, "effective": score.n}
        metadata = {
            "unit": OWN_UNIT if task.unit == "own" else task.unit,
            "n_unscored": score.n_unscored,
            "limit": score.limit,
            "protocol": score.protocol,
        }
        found["configs"][task.name] = {"task": task.name, "num_fewshot": score.shots, "metadata": metadata}
    return {name: value for name, value in found.items() if value or name != "groups"}


def _metrics(task: _Task, value: float | None, stderr: float | None) -> dict[str, Any]:
    metric, chosen = task.key
    values = {f"{metric},{chosen}": value, f"{metric}_stderr,{chosen}": stderr}
    return {name: "N/A" if found is None else found / task.divisor for name, found in values.items()}


def _samples(run: Path, row: str, task: _Task) -> Iterator[tuple[str, dict[str, Any]]]:
    """(subtask, a line of its file) for each question, in the order of the score's values."""
    path = run / task.column.stage_path(row) / "samples" / f"{task.column.task.name}.jsonl"
    lines = {one.question: one for one in answered(read_jsonl(path))} if path.exists() else {}
    metric, chosen = task.key
    strata, numbers = strata_of(task.score), dict[str, int]()
    for question, value in task.score.values.items():
        one = lines.get(question)
        text = _text(one.line, one.turn) if one else {"doc": {}, "target": "", "prompt": "", "resps": [], "filtered_resps": []}
        name, identity = _names(question, one.line if one else {}, text["doc"])
        subtask = strata.of[question] if strata else name or task.name
        numbers[subtask] = numbers.get(subtask, -1) + 1
        prompt, target = str(text.pop("prompt")), str(text.pop("target"))
        yield (
            subtask,
            {
                "doc_id": identity[0] if identity[0] is not None else numbers[subtask],
                "target": target,
                **text,
                "arguments": {"gen_args_0": {"arg_0": prompt}},
                "filter": chosen,
                "metrics": [metric],
                "doc_hash": identity[1],
                "prompt_hash": _hash(prompt),
                "target_hash": _hash(target),
                metric: None if value is None else value / task.divisor,
            },
        )


def _text(line: Mapping[str, Any], turn: int | None) -> dict[str, Any]:
    """What was asked and said, of an MT-Bench line in one turn, as the fields of lm-eval's sample."""
    if turn is not None:
        doc = {"question_id": line["question_id"], "category": line["category"], "turn": turn + 1, "question": line["questions"][turn]}
        said = line["answers"][turn]
        return {"doc": doc, "target": "", "prompt": line["prompts"][turn], "resps": [[said]], "filtered_resps": [said]}
    said = line.get("responses", [[line["response"]]] if "response" in line else [])
    doc = line.get("question", {name: line[name] for name in line if name not in ("id", "response")})
    return {
        "doc": doc,
        "target": line.get("target", ""),
        "prompt": str(line.get("prompt", "")),
        "resps": _as_text(said),
        "filtered_resps": _as_text(line.get("filtered", said)),
    }


def _names(question: str, line: Mapping[str, Any], doc: Any) -> tuple[str | None, tuple[int | None, str]]:
    """(subtask, (doc_id, doc_hash)) that a question's id in our scores tells; the hash is whole where the document is here."""
    parts = re.fullmatch(r"(?P<task>.+)/(?P<id>\d+)-(?P<hash>[0-9a-f]{16})", question)
    if parts is None:
        return line.get("subtask"), (None, question.partition("#")[0])
    whole = _hash(json.dumps(doc, indent=2, default=str, ensure_ascii=False))
    return parts["task"], (int(parts["id"]), whole if whole.startswith(parts["hash"]) else parts["hash"])


def _as_text(value: Any) -> Any:
    """lm-eval writes every number in a response as text."""
    return [_as_text(one) for one in value] if isinstance(value, list) else str(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
