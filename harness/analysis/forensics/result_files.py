"""Results that others made, with each question's own value: lm-eval's files and the Open LLM Leaderboard's details.

    results_DATE.json       lm-eval's metrics, and beside it samples_TASK_DATE.jsonl, a line a question and filter
    details_*.parquet       the leaderboard's, a row a question: acc, acc_norm, ... as columns or in a struct `metrics`; task and shots
                            stand in the file's name (details_harness|arc:challenge|25_DATE.parquet)

Nothing is computed again: a value is what the file says, where it gives none the mean of its questions. All of it is untrusted text.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from harness.analysis.samples import Numbered
from harness.errors import InputError, first_line
from harness.evaluation.units import scale_of
from harness.files import read_jsonl

HASH_DIGITS = 16
"""Of the sha256 of a question by which it is found again: as many as every id of ours has."""
DETAILS = re.compile(r"details_[^|]+\|(?P<task>[^|]+)\|(?P<shots>\d+)_")
LEADERBOARD_NAMES = {
    "arc:challenge": "arc_challenge", "truthfulqa:mc": "truthfulqa_mc2", "drop": "drop", "gsm8k": "gsm8k", "hellaswag": "hellaswag",
    "winogrande": "winogrande",
}  # fmt: skip
SUBJECT = "hendrycksTest-"
"""How the leaderboard's names of MMLU's subjects begin."""
TEXTS = ("example", "query", "full_prompt")
"""The leaderboard's columns that say which question a row is: the question's own id or text, or the whole prompt."""
NO_METRIC = {"gold", "gold_index", "num_asked_few_shots", "num_effective_few_shots", "truncated", "padded", "doc_id"}
EXPECTED = "lm-eval's results_*.json with samples_*.jsonl beside it, or a leaderboard's details_*.parquet"


class Question(NamedTuple):
    """One question: what it can be found by (the beginning of lm-eval's hash, or its texts), its value, and the prompt where it is told."""

    hash: str | None
    texts: frozenset[str]
    value: float | None
    prompt: str | None = None


class Result(NamedTuple):
    """A metric of a task. Shares are in percent, as in our tables; n counts questions, `stderr` is that of the file."""

    source: str
    task: str
    metric: str
    value: float | None
    stderr: float | None
    n: int | None
    shots: int | None
    questions: tuple[Question, ...] = ()


def read_results(paths: Sequence[Path]) -> list[Result]:
    """Every metric of every task in the files, and in the files of directories. Raises InputError where there is none."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    known = [file for file in files if _is_results(file) or file.suffix == ".parquet"]
    found = [result for file in known for result in _read(file)]
    if not found:
        raise InputError(f"no results in {', '.join(map(str, paths))}; expected {EXPECTED}")
    return found


def _read(file: Path) -> list[Result]:
    """The metrics of one file. What it holds may be anything, so whatever reading it raises is an `InputError`."""
    try:
        return [*(_lm_eval(file) if file.suffix == ".json" else _details(file))]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({type(error).__name__}: {first_line(error)}); expected {EXPECTED}") from None


def _is_results(file: Path) -> bool:
    return file.suffix == ".json" and file.name.startswith("results")


# lm-eval


def _lm_eval(file: Path) -> Iterator[Result]:
    """The metrics of one results file. Subtasks of a group are results too; the group's questions are theirs."""
    read = json.loads(file.read_bytes())
    tables: dict[str, dict[str, Any]] = {**read.get("groups", {}), **read["results"]}
    subtasks = read.get("group_subtasks", {})
    samples = {name: _samples(file, name) for name in {*tables, *chain.from_iterable(subtasks.values())}}
    for task, metrics in tables.items():
        lines = list(chain.from_iterable(samples.get(name, ()) for name in _leaves(task, subtasks))) or samples.get(task, [])
        for key, value in metrics.items():
            metric, _, chosen = key.partition(",")
            if metric.endswith("_stderr") or metric in ("alias", "name", "sample_len", "sample_count"):
                continue
            unit = ((read.get("configs", {}).get(task) or {}).get("metadata") or {}).get("unit")
            scale = scale_of(metric, task) if unit is None else 100.0 if unit == "percent" else 1.0
            asked = [line for line in lines if metric in line and line.get("filter", chosen or "none") == (chosen or "none")]
            yield Result(
                source=file.name,
                task=task,
                metric=key.removesuffix(",none"),
                value=_scaled(value, scale),
                stderr=_scaled(metrics.get(f"{metric}_stderr,{chosen}" if chosen else f"{metric}_stderr"), scale),
                n=len(asked) or (read.get("n-samples", {}).get(task) or {}).get("effective"),
                shots=read.get("n-shot", {}).get(task),
                questions=tuple(_question(line, _scaled(line[metric], scale)) for line in asked),
            )


def _leaves(task: str, subtasks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The tasks below a group that are no groups; of a task itself."""
    below = subtasks.get(task) or ()
    yield from chain.from_iterable(_leaves(name, subtasks) for name in below) if below else (task,)


def _samples(results: Path, task: str) -> list[dict[str, Any]]:
    """The lines of a task's samples, of the run that wrote `results`, else of the newest beside it."""
    name = re.sub(r"[\"<>:/|\\?*\[\]]+", "__", task)
    date = results.stem.removeprefix("results_")
    same = results.with_name(f"samples_{name}_{date}.jsonl")
    others = sorted(path for path in results.parent.glob(f"samples_{name}_*.jsonl") if re.match(r"\d{4}-", path.stem.rpartition("_")[2]))
    path = same if same.is_file() else next((path for path in reversed(others) if path.stem.rpartition("_")[0] == f"samples_{name}"), None)
    return [*read_jsonl(path)] if path else []


def _question(line: Mapping[str, Any], value: float | None) -> Question:
    doc, prompt = line.get("doc"), _prompt(line.get("arguments"))
    whole = line.get("doc_hash") or hashlib.sha256(json.dumps(doc, indent=2, default=str, ensure_ascii=False).encode()).hexdigest()
    return Question(short(str(whole)), texts_of(doc, prompt), value, prompt)


def _prompt(arguments: Any) -> str | None:
    """The first request's context: newer releases write a dict of dicts, older ones lists."""
    first = next(iter(arguments.values() if isinstance(arguments, dict) else arguments or ()), None)
    found = next(iter(first.values() if isinstance(first, dict) else first or ()), None) if not isinstance(first, str) else first
    return found if isinstance(found, str) and found else None


# The leaderboard


def _details(file: Path) -> Iterator[Result]:
    """The metrics of one details file."""
    import pyarrow.parquet as parquet

    named = DETAILS.search(file.name)
    columns = {name for name in parquet.read_schema(file).names if name not in ("input_tokens", "cont_tokens", "pred_logits")}
    rows = parquet.read_table(file, columns=sorted(columns)).to_pylist()
    if named is None or not {*TEXTS} & columns:
        raise InputError(f"{file} is no details file: its name or columns are not a leaderboard's; expected {EXPECTED}")
    for row in rows:
        row.update(row.pop("metrics", None) or {})
    for metric in sorted({name for row in rows for name, value in row.items() if name not in NO_METRIC and _number(value) is not None}):
        values = [_scaled(row.get(metric), scale_of(metric, named["task"])) for row in rows]
        known = [value for value in values if value is not None]
        yield Result(
            source=file.name,
            task=_our_name(named["task"]),
            metric=metric,
            value=fmean(known),
            stderr=stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None,
            n=len(rows),
            shots=int(named["shots"]),
            questions=tuple(
                Question(None, frozenset(str(row[name]).strip() for name in TEXTS if row.get(name)), value, row.get("full_prompt") or None)
                for row, value in zip(rows, values, strict=True)
            ),
        )


def _our_name(task: str) -> str:
    return f"mmlu_{task.removeprefix(SUBJECT)}" if task.startswith(SUBJECT) else LEADERBOARD_NAMES.get(task, task)


# Questions found again


def short(name: str) -> str:
    """The beginning of a hash, any other name as it is."""
    return name[:HASH_DIGITS] if re.fullmatch(r"[0-9a-f]{64}", name) else name


def texts_of(doc: Any, prompt: str | None) -> frozenset[str]:
    """What else may stand for a question: the texts of its document, its prompt, and the prompt's ends after a blank line."""
    values = doc.values() if isinstance(doc, dict) else ()
    texts = {value.strip() for value in values if isinstance(value, str)}
    blocks = (prompt or "").split("\n\n")
    return frozenset(text for text in {*texts, *("\n\n".join(blocks[-i:]).strip() for i in (1, 2, 3, len(blocks)))} if text)


def match(ours: Mapping[str, Question], theirs: Sequence[Question]) -> dict[str, Question]:
    """{our id: their question}: by hash, one after another where a question recurs, else by a text only one has on each side."""
    if all(question.hash for question in theirs) and all(question.hash for question in ours.values()):
        numbers, others = Numbered(), Numbered()
        named = {numbers(str(question.hash)): question for question in theirs}
        return {key: named[name] for key, question in ours.items() if (name := others(str(question.hash))) in named}
    index: dict[str, set[str]] = {}
    for key, question in ours.items():
        for text in question.texts:
            index.setdefault(text, set()).add(key)
    found: dict[str, list[Question]] = {}
    for question in theirs:
        keys = {key for text in question.texts for key in index.get(text, ()) if len(index[text]) == 1}
        if len(keys) == 1:
            found.setdefault(keys.pop(), []).append(question)
    return {key: questions[0] for key, questions in found.items() if len(questions) == 1}


def rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """The results as a listing, questions as their number."""
    return [{**result._asdict(), "questions": len(result.questions)} for result in results]


def shown(results: Iterable[Result]) -> list[dict[str, Any]]:
    """The listing as a terminal shows it."""
    texts = {"value", "stderr"}
    return [{name: _short(value) if name in texts else value for name, value in row.items() if name != "source"} for row in rows(results)]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (bool, int, float)) and math.isfinite(value) else None


def _scaled(value: Any, scale: float) -> float | None:
    number = _number(value)
    return None if number is None else round(number * scale, 10)
