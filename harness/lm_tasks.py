"""lm-eval behind one function: a benchmark component hands `open_suite` its definitions and gets back what scores a task.

A definition is a file of lm-eval's own task folder, loaded by its path: indexing the whole folder would take 20 s.
Nothing here asks for the network; where `HF_HUB_OFFLINE` is set, the data sets come from the local cache under their Hub names.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import fmean, variance
from typing import Any, NamedTuple

import datasets
import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from transformers.utils import logging as transformers_logging

from harness import procedural_tasks
from harness.artifact import Score
from harness.components import Job, Result
from harness.errors import InputError, RecipeError, suggest
from harness.lm_model import SharedPromptLM
from harness.recipe import Task

FEW_SHOT_SEED = 1234
"""lm-eval's own default."""


class Definition(NamedTuple):
    """Which of lm-eval's task files a task is (a pattern: one file a subtask), and which of its answer filters counts."""

    files: str
    filter: str = "none"


class Question(NamedTuple):
    """A question as lm-eval logged it, with its own value in percent (None: unscored) and the subtask it belongs to."""

    subtask: str
    sample: dict[str, Any]
    value: float | None


def open_suite(job: Job, protocols: Mapping[str, Mapping[str, Definition]]) -> Callable[[Task], Result]:
    """Load the checkpoint once; the function returned scores a task. `protocols` is {protocol: {task name: definition}}."""
    rules = job.benchmark.protocol
    if rules not in protocols:
        raise RecipeError(f"benchmark {job.benchmark.name} has no protocol {rules!r}{suggest(rules, protocols)}")
    definitions = protocols[rules]
    for task in job.benchmark.tasks:
        _check(task, definitions)
    _silence()
    machine = job.machine
    lm = SharedPromptLM(job.checkpoint, job.precision, machine.device, machine.evaluate_batch, job.seed)

    def score(task: Task) -> Result:
        if procedural_tasks.is_procedural(task):
            config = procedural_tasks.config(task, lm.tokenizer.eos_token)
            return _score(lm, job, task, {task.name: ConfigurableTask(config=config)}, procedural_tasks.FILTER)
        definition = definitions[task.name]
        return _score(lm, job, task, load_definition(task, definition), definition.filter)

    return score


def _check(task: Task, definitions: Mapping[str, Definition]) -> None:
    if procedural_tasks.is_procedural(task):
        procedural_tasks.check(task)
    elif task.name not in definitions:
        raise RecipeError(f"no task called {task.name!r}{suggest(task.name, definitions)}")


def _score(lm: SharedPromptLM, job: Job, task: Task, subtasks: Mapping[str, ConfigurableTask], filter_name: str) -> Result:
    for subtask in subtasks.values():
        _set_up(subtask, task, job.benchmark.max_new_tokens)
    chat = procedural_tasks.is_procedural(task)
    samples = _ask(lm, subtasks, task.limit, chat)
    questions = [
        Question(name, sample, _percent(sample, task, filter_name))
        for name, found in samples.items()
        for sample in found
        if sample["filter"] == filter_name
    ]
    if not questions:
        filters = sorted({sample["filter"] for found in samples.values() for sample in found})
        raise RecipeError(f"{task.name} has no answers filtered by {filter_name!r}; lm-eval gives {', '.join(filters)}")
    return Result(_summary(job, task, subtasks, questions, filter_name), [_readable(q, task.metric) for q in questions])


def load_definition(task: Task, definition: Definition) -> dict[str, ConfigurableTask]:
    """The lm-eval tasks of a definition by name, only `task.subtasks` where it names any."""
    folder = Path(lm_eval.tasks.__file__).parent
    paths = {path.stem: path for path in sorted(folder.glob(definition.files))}
    names = task.subtasks or tuple(paths)
    for name in names:
        if name not in paths:
            raise RecipeError(f"{task.name} has no subtask {name!r}{suggest(name, paths)}")
    try:
        loaded = TaskManager(include_defaults=False).load([str(paths[name]) for name in names])
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the data set of {task.name} cannot be had: {reason}; run once with the network (HF_HUB_OFFLINE unset), "
            "or point HF_HUB_CACHE and HF_DATASETS_CACHE at a cache that holds it"
        ) from None
    return dict(loaded["tasks"])


def _set_up(subtask: ConfigurableTask, task: Task, max_new_tokens: int | None) -> None:
    """Shots, few-shot seed and the cap on generated tokens of an lm-eval task."""
    own = subtask.config.num_fewshot
    subtask.set_config("num_fewshot", own or 0 if task.shots is None else task.shots)
    subtask.set_fewshot_seed(FEW_SHOT_SEED)
    if max_new_tokens is not None and subtask.OUTPUT_TYPE == "generate_until":
        subtask.set_config("generation_kwargs", {"max_gen_toks": max_new_tokens}, update=True)


def _ask(lm: SharedPromptLM, subtasks: Mapping[str, ConfigurableTask], limit: int | None, chat: bool) -> dict[str, list[dict[str, Any]]]:
    """{subtask: lm-eval's logged samples, one for each question and answer filter}."""
    found = evaluate(
        lm=lm, task_dict={"tasks": dict(subtasks)}, limit=limit, bootstrap_iters=0, apply_chat_template=chat, fewshot_as_multiturn=chat
    )
    assert found is not None
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    return samples


def _percent(sample: Mapping[str, Any], task: Task, filter_name: str) -> float | None:
    if task.metric not in sample["metrics"]:
        raise RecipeError(f"{task.name} has no metric {task.metric!r}{suggest(task.metric, sample['metrics'])}")
    value = 100.0 * float(sample[task.metric])
    return value if math.isfinite(value) else None


def _summary(job: Job, task: Task, subtasks: Mapping[str, ConfigurableTask], questions: Sequence[Question], filter_name: str) -> Score:
    """Questions as a Score: the mean over subtasks of each subtask's mean."""
    strata = {name: [q.value for q in questions if q.subtask == name and q.value is not None] for name in subtasks}
    scored = {name: values for name, values in strata.items() if values}
    versions = {name: str(subtask.VERSION) for name, subtask in subtasks.items()}
    chat = procedural_tasks.is_procedural(task)
    return Score(
        benchmark=job.benchmark.name,
        task=task.name,
        metric=task.metric,
        value=fmean(fmean(values) for values in scored.values()) if scored else None,
        stderr=standard_error(list(scored.values())),
        n=len(questions),
        n_unscored=sum(q.value is None for q in questions),
        shots=next(iter(subtasks.values())).config.num_fewshot,
        limit=task.limit,
        protocol={
            "rules": job.benchmark.protocol,
            "lm_eval": metadata.version("lm_eval"),
            "task_version": versions if len(set(versions.values())) > 1 else next(iter(versions.values())),
            "filter": filter_name,
            "backend": "hf, endings of one context in one row",
            "dtype": job.precision,
            "add_bos": False,
            "chat_template": "tokenizer's" if chat else None,
            "limit": task.limit,
            "subtasks": len(subtasks),
            "aggregation": "mean over subtasks" if len(subtasks) > 1 else "mean over questions",
            "few_shot_seed": FEW_SHOT_SEED,
            "max_new_tokens": _max_new_tokens(subtasks, job.benchmark.max_new_tokens),
        },
        values=_by_id(questions),
        details={"subtasks": {name: fmean(values) for name, values in scored.items()}} if len(subtasks) > 1 else {},
    )


def _max_new_tokens(subtasks: Mapping[str, ConfigurableTask], cap: int | None) -> int | str | None:
    first = next(iter(subtasks.values()))
    if first.OUTPUT_TYPE != "generate_until":
        return None
    return cap if cap is not None else first.config.generation_kwargs.get("max_gen_toks", "lm-eval's 256")


def standard_error(strata: Sequence[Sequence[float]]) -> float | None:
    """The standard error of the mean of the strata's means, from sample variances; None for fewer than two values.

    Where a stratum has a single value its variance is unknown: all values then count as one sample, which overstates it.
    """
    if any(len(values) < 2 for values in strata):
        strata = [[value for values in strata for value in values]]
    if not strata or len(strata[0]) < 2:
        return None
    return math.sqrt(sum(variance(values) / len(values) for values in strata)) / len(strata)


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


def _silence() -> None:
    """Only errors from lm-eval and the libraries under it: our own progress lines tell what goes on."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
