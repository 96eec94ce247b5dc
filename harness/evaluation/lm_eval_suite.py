"""lm-eval behind one function: a benchmark component hands `open_suite` its definitions and gets back what scores a task.

Where another protocol of the component asks the same, the same answers are scored under it too; the score's `details` hold the value
under the protocol's name.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from statistics import fmean, variance
from typing import Any, NamedTuple

import datasets
import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from transformers.utils import logging as transformers_logging

from harness.contracts import Job, Result, Score
from harness.errors import RecipeError, suggest
from harness.evaluation import tiny_tasks as procedural_tasks
from harness.evaluation.lm_eval_model import SharedPromptLM, backend_of
from harness.evaluation.lm_eval_tasks import Definition, load_definition, set_up
from harness.evaluation.statistics import pooled_variance
from harness.recipe import Task


class Question(NamedTuple):
    """A question as lm-eval logged it, with its own value in percent (None: unscored) and the subtask it belongs to."""

    subtask: str
    sample: dict[str, Any]
    value: float | None


class Suite(NamedTuple):
    """The model, the job, and every protocol of the component."""

    lm: SharedPromptLM
    job: Job
    protocols: Mapping[str, Mapping[str, Definition]]


def open_suite(job: Job, protocols: Mapping[str, Mapping[str, Definition]]) -> Callable[[Task], Result]:
    """Load the checkpoint once; the function returned scores a task. `protocols` is {protocol: {task name: definition}}."""
    rules = job.benchmark.protocol
    if rules not in protocols:
        raise RecipeError(f"benchmark {job.benchmark.name} has no protocol {rules!r}{suggest(rules, protocols)}")
    definitions = protocols[rules]
    for task in job.benchmark.tasks:
        _check(task, definitions)
    silence()
    machine = job.machine
    lm = SharedPromptLM(
        job.checkpoint, job.precision, machine.device, machine.evaluate_batch, job.seed,
        workspace=job.workspace / "answers", machine=machine, engine=job.engine,
    )  # fmt: skip
    suite = Suite(lm, job, protocols)

    def score(task: Task) -> Result:
        if procedural_tasks.is_procedural(task):
            config = procedural_tasks.config(task, lm.tokenizer.eos_token)
            return _score(suite, task, {task.name: ConfigurableTask(config=config)}, Definition("", procedural_tasks.FILTER))
        return _score(suite, task, load_definition(task, definitions[task.name]), definitions[task.name])

    return score


def _check(task: Task, definitions: Mapping[str, Definition]) -> None:
    if procedural_tasks.is_procedural(task):
        procedural_tasks.check(task)
    elif task.name not in definitions:
        raise RecipeError(f"no task called {task.name!r}{suggest(task.name, definitions)}")


def _score(suite: Suite, task: Task, subtasks: Mapping[str, ConfigurableTask], definition: Definition) -> Result:
    for subtask in subtasks.values():
        set_up(subtask, task, suite.job.benchmark.max_new_tokens)
    samples = ask(suite.lm, subtasks, task.limit, chat=procedural_tasks.is_procedural(task))
    questions = [
        Question(name, sample, _percent(sample, task))
        for name, found in samples.items()
        for sample in found
        if sample["filter"] == definition.filter
    ]
    if not questions:
        filters = sorted({sample["filter"] for found in samples.values() for sample in found})
        raise RecipeError(f"{task.name} has no answers filtered by {definition.filter!r}; lm-eval gives {', '.join(filters)}")
    score = _summary(suite.job, task, subtasks, questions, definition)
    if under := _under_others(suite, task, questions, definition):
        score = score.model_copy(update={"details": {**score.details, "under": under}})
    return Result(score, [_readable(q, task.metric) for q in questions])


def ask(lm: LM, subtasks: Mapping[str, ConfigurableTask], limit: int | None, *, chat: bool) -> dict[str, list[dict[str, Any]]]:
    """{subtask: lm-eval's logged samples, one for each question and answer filter}."""
    found = evaluate(
        lm=lm, task_dict={"tasks": dict(subtasks)}, limit=limit, bootstrap_iters=0, apply_chat_template=chat, fewshot_as_multiturn=chat
    )
    assert found is not None
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    return samples


def _under_others(suite: Suite, task: Task, questions: Sequence[Question], definition: Definition) -> dict[str, dict[str, float | None]]:
    """{protocol: value and standard error} of the same answers, for the other protocols that ask the same."""
    found = {}
    for rules, definitions in suite.protocols.items():
        other = definitions.get(task.name)
        if rules == suite.job.benchmark.protocol or other is None or not (other.asks_as(definition) and other.filter == definition.filter):
            continue
        again = questions if other.scoring == definition.scoring else _counted_again(task, other, questions)
        strata = [values for values in _strata({q.subtask: None for q in again}, again).values() if values]
        found[rules] = {"value": _mean(strata, other.by_size), "stderr": standard_error(strata, by_size=other.by_size)}
    return found


def _counted_again(task: Task, definition: Definition, questions: Sequence[Question]) -> list[Question]:
    """The same answers, each worth what another definition says."""
    subtasks = load_definition(task, definition)
    metrics = [subtasks[q.subtask].process_results(q.sample["doc"], q.sample["filtered_resps"]) for q in questions]
    return [q._replace(value=_percent(found, task)) for q, found in zip(questions, metrics, strict=True)]


def _strata(subtasks: Iterable[str], questions: Sequence[Question]) -> dict[str, list[float]]:
    return {name: [q.value for q in questions if q.subtask == name and q.value is not None] for name in subtasks}


def _mean(strata: Sequence[Sequence[float]], by_size: bool) -> float | None:
    """The mean over subtasks of each one's mean, or over all their questions."""
    if not strata:
        return None
    return fmean(value for values in strata for value in values) if by_size else fmean(fmean(values) for values in strata)


def _percent(sample: Mapping[str, Any], task: Task) -> float | None:
    """A question's value, from its logged sample or its metrics alone."""
    known = sample.get("metrics", sample)
    if task.metric not in known:
        raise RecipeError(f"{task.name} has no metric {task.metric!r}{suggest(task.metric, known)}")
    value = 100.0 * float(sample[task.metric])
    return value if math.isfinite(value) else None


def _summary(
    job: Job, task: Task, subtasks: Mapping[str, ConfigurableTask], questions: Sequence[Question], definition: Definition
) -> Score:
    """Questions as a Score."""
    scored = {name: values for name, values in _strata(subtasks, questions).items() if values}
    versions = {name: str(subtask.VERSION) for name, subtask in subtasks.items()}
    chat = procedural_tasks.is_procedural(task)
    over_subtasks = len(subtasks) > 1 and not definition.by_size
    return Score(
        benchmark=job.benchmark.name,
        task=task.name,
        metric=task.metric,
        value=_mean([*scored.values()], definition.by_size),
        stderr=standard_error([*scored.values()], by_size=definition.by_size),
        n=len(questions),
        n_unscored=sum(q.value is None for q in questions),
        shots=next(iter(subtasks.values())).config.num_fewshot,
        limit=task.limit,
        protocol={
            "rules": job.benchmark.protocol,
            "lm_eval": metadata.version("lm_eval"),
            "task_version": versions if len(set(versions.values())) > 1 else next(iter(versions.values())),
            "filter": definition.filter,
            "backend": backend_of(job.engine, generates=_generates(subtasks)),
            "dtype": job.precision,
            "add_bos": False,
            "chat_template": "tokenizer's" if chat else None,
            "limit": task.limit,
            "subtasks": len(subtasks),
            "aggregation": "mean over subtasks" if over_subtasks else "mean over questions",
            **definition.identity(),
            "max_new_tokens": _max_new_tokens(subtasks, job.benchmark.max_new_tokens),
        },
        values=_by_id(questions),
        details=_by_subtask(scored, questions) if len(subtasks) > 1 else {},
    )


def _by_subtask(scored: Mapping[str, Sequence[float]], questions: Sequence[Question]) -> dict[str, Any]:
    """Each subtask's mean, and how many of the score's `values` are its own: they lie subtask after subtask."""
    return {"subtasks": {name: fmean(values) for name, values in scored.items()}, "questions": dict(Counter(q.subtask for q in questions))}


def _max_new_tokens(subtasks: Mapping[str, ConfigurableTask], cap: int | None) -> int | str | None:
    if not _generates(subtasks):
        return None
    first = next(iter(subtasks.values()))
    return cap if cap is not None else first.config.generation_kwargs.get("max_gen_toks", "lm-eval's 256")


def _generates(subtasks: Mapping[str, ConfigurableTask]) -> bool:
    return any(subtask.OUTPUT_TYPE == "generate_until" for subtask in subtasks.values())


def standard_error(strata: Sequence[Sequence[float]], *, by_size: bool = False) -> float | None:
    """The standard error of the mean of the strata's means (`by_size`: of all values), from sample variances; None for
    less than two values, and where no value differs from its stratum's others.

    Where a stratum has a single value, whose variance is unknown, all take that within the strata: `pooled_variance`.
    """
    total = sum(map(len, strata))
    weights = [len(values) / total if by_size else 1 / len(strata) for values in strata]
    if any(len(values) < 2 for values in strata):
        pooled, _ = pooled_variance([np.array(values, dtype=np.float64) for values in strata])
        variances = [pooled or 0.0] * len(strata)
    else:
        variances = [variance(values) for values in strata]
    return math.sqrt(sum(w * w * v / len(values) for w, v, values in zip(weights, variances, strata, strict=True))) or None


def _by_id(questions: Sequence[Question]) -> dict[str, float | None]:
    """{lm-eval's hash of the question: value}; a question that occurs again gets '#2', '#3', ... in the data set's order."""
    values: dict[str, float | None] = {}
    seen: dict[str, int] = {}
    for question in questions:
        identity = str(question.sample["doc_hash"])
        seen[identity] = seen.get(identity, 0) + 1
        values[identity if seen[identity] == 1 else f"{identity}#{seen[identity]}"] = question.value
    return values


def _readable(question: Question, metric: str) -> dict[str, Any]:
    """A line of `samples/TASK.jsonl`: the question, the prompt it was asked in, what the model said and what that was worth."""
    sample = question.sample
    return {
        "id": sample["doc_hash"],
        "subtask": question.subtask,
        "question": sample["doc"],
        "target": sample["target"],
        "prompt": sample["arguments"][0][0],
        "responses": sample["resps"],
        "filtered": sample["filtered_resps"],
        metric: question.value,
    }


def silence() -> None:
    """Only errors from lm-eval and the libraries under it: our own progress lines tell what goes on."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)  # pyproject.toml keeps the releases that have it
