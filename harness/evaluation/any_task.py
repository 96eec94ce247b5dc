"""lm-eval's `simple_evaluate` on any of its tasks, as a benchmark's score: its own numbers, whichever model answers.

Multiple choice and log-likelihoods are answered by `SharedPromptLM`, generation by it or the recipe's engine; tasks of another output type
(rolling log-likelihood) by lm-eval's own `hf` backend, and the score's protocol says so. `simple_evaluate` seeds, builds prompts, filters
and aggregates.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from numbers import Real
from pathlib import Path
from statistics import fmean
from typing import Any

from lm_eval.api.task import Task as LmTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from harness.contracts import Job, Result, Score
from harness.errors import InputError, RecipeError, first_line, suggest
from harness.evaluation.lm_eval_model import SharedPromptLM, backend_of
from harness.evaluation.lm_eval_suite import silence, standard_error
from harness.evaluation.units import OWN_UNIT, scale_of
from harness.recipe import Chat, Task

SERVED = ("multiple_choice", "loglikelihood", "generate_until")
"""Output types that `SharedPromptLM` answers."""
MADE_UP = {"generate_until": "The answer is 4.", "loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0}
"""An answer to each kind of request."""
FIRST = "first"
LM_EVAL_SEED = 0
"""What `simple_evaluate` seeds Python's own generator with."""


class Tasks:
    """The models and the task index of a job, each opened when first needed."""

    def __init__(self, job: Job, folder: Path | None) -> None:
        self.job, self.folder = job, folder
        self._models: dict[bool, Any] = {}
        self._own = TaskManager(include_path=str(folder), include_defaults=False) if folder else None
        self._all: TaskManager | None = None

    def _index(self, task: Task) -> TaskManager:
        """The folder's own tasks where the task is one of them: reading all of lm-eval's takes 10 s."""
        if self._own is not None and task.name in self._own.all_subtasks:
            return self._own
        self._all = self._all or TaskManager(include_path=str(self.folder) if self.folder else None)
        return self._all

    def load(self, task: Task) -> dict[str, Any]:
        """lm-eval's tasks and groups of this name. Paths to data in a folder's YAML files are relative to that folder."""
        random.seed(LM_EVAL_SEED)  # as `simple_evaluate` does before it loads tasks: GPQA shuffles its choices then, once for a cache
        try:
            with contextlib.chdir(self.folder or Path.cwd()):
                found: dict[str, Any] = self._index(task).load([task.name])
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InputError(
                f"{task.name} cannot be loaded: {first_line(error)}; it may need the network once, a package, or HF_DATASETS_CACHE"
            ) from None
        return found

    def model(self, served: bool) -> Any:
        """The shared-prefix model, or lm-eval's own."""
        if served not in self._models:
            job, machine = self.job, self.job.machine
            if served:
                self._models[served] = SharedPromptLM(
                    job.checkpoint, job.precision, machine.device, machine.evaluate_batch, job.seed,
                    workspace=job.workspace / "answers", machine=machine, engine=job.engine,
                )  # fmt: skip
            else:
                settings = {"dtype": job.dtype, "device": machine.device, "batch_size": machine.evaluate_batch}
                self._models[served] = HFLM(pretrained=str(job.checkpoint), add_bos_token=False, **settings)
            self._models[served].chat_template_args = dict(job.chat.template_args)
            self._models[served].think_end_token = job.chat.thinking_ends
        return self._models[served]


def open_tasks(job: Job, folder: Path | None) -> Callable[[Task], Result]:
    """What scores a task on the job's checkpoint; `folder` holds YAML files beside lm-eval's own."""
    silence()
    tasks = Tasks(job, folder)
    for task in job.benchmark.tasks:
        for name, one in _subtasks(task, tasks.load(task)).items():
            _rehearse(name, one)
    return lambda task: _score(tasks, task)


def _rehearse(name: str, task: LmTask) -> None:
    """Score a made-up answer to a task's first question, so that what scoring needs and is not here is told before anything is generated.

    What lm-eval makes of its YAML metrics it asks of the Hub's `evaluate` when it loads a task, and goes on without what it does not find.
    """
    try:
        _score_made_up(task)
    except Exception as error:  # whatever a task's own code raises
        if isinstance(error, (KeyError, IndexError)) or not isinstance(error, (OSError, ImportError, LookupError)):
            logging.getLogger(__name__).warning("%s was not scored in advance: %s", name, first_line(error))
            return
        raise InputError(f"{name} cannot be scored here: {first_line(error)}; nothing was generated yet (docs/extending.md)") from None


def _score_made_up(task: LmTask) -> None:
    """As lm-eval's `evaluate` does it, with no model."""
    unknown = [metric for metric, function in getattr(task, "_metric_fn_list", {}).items() if function is None]
    if unknown and task.config.process_results is None:
        raise ImportError(f"lm-eval found no metric {', '.join(unknown)}, neither its own nor on the Hub (`evaluate`)")
    task.set_config("num_fewshot", 0)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar over one question
        task.build_all_requests(limit=1)
    for one in task.instances:
        one.resps.extend([MADE_UP[one.request_type]] * (one.repeats or 1))
    task.apply_filters()
    aggregations = task.aggregation()
    for chosen in task.instances[0].filtered_resps:
        found = task.process_results(task.instances[0].doc, [one.filtered_resps[chosen] for one in task.instances])
        for metric, value in found.items():
            aggregations[metric]([value])


def _subtasks(task: Task, loaded: Mapping[str, Any]) -> dict[str, LmTask]:
    """Those that the recipe names, or all."""
    for name in task.subtasks:
        if name not in loaded["tasks"]:
            raise RecipeError(f"{task.name} has no subtask {name!r}{suggest(name, loaded['tasks'])}")
    return {name: one for name, one in loaded["tasks"].items() if not task.subtasks or name in task.subtasks}


def _score(tasks: Tasks, task: Task) -> Result:
    loaded, job = tasks.load(task), tasks.job
    subtasks = _subtasks(task, loaded)
    types = sorted({str(one.OUTPUT_TYPE) for one in subtasks.values()})
    served = all(kind in SERVED for kind in types)
    whole = None if task.subtasks else loaded["groups"].get(task.name)
    found = simple_evaluate(
        model=tasks.model(served),
        tasks=[whole] if whole else [*subtasks.values()],
        num_fewshot=task.shots,
        limit=task.limit,
        bootstrap_iters=0,
        apply_chat_template=job.benchmark.chat_template,
        fewshot_as_multiturn=job.benchmark.chat_template,
        system_instruction=job.chat.system_prompt if job.benchmark.chat_template else None,
        gen_kwargs={"max_gen_toks": job.benchmark.max_new_tokens} if job.benchmark.max_new_tokens else None,
    )
    assert found is not None
    metric, chosen = metric_of(task, subtasks, found["results"])
    samples = [(name, one) for name in subtasks for one in found["samples"][name] if one["filter"] == chosen]
    own = backend_of(job.engine, generates="generate_until" in types)
    backend = own if served else f"hf, lm-eval's own ({', '.join(types)})"
    score = _summary(job, task, found, metric, chosen, backend, samples, is_group=whole is not None)
    return Result(score, [_line(name, one, metric, score) for name, one in samples])


def metric_of(task: Task, subtasks: Mapping[str, LmTask], results: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """(metric, filter): as the recipe says, or the task's own first. Raises `RecipeError` for one that is not reported."""
    first = next(iter(subtasks))
    reported = [tuple(key.split(",", 1)) for key in results[first] if "," in key and "_stderr," not in key]
    metric, _, chosen = task.metric.partition(",")
    for name, filtered in reported:
        if metric in (FIRST, name) and chosen in ("", filtered):
            return name, filtered
    raise RecipeError(f"{task.name} has no metric {task.metric!r}{suggest(task.metric, [','.join(pair) for pair in reported])}")


def _summary(
    job: Job, task: Task, found: Mapping[str, Any], metric: str, chosen: str, backend: str, samples: Sequence[tuple[str, Any]], *,
    is_group: bool,
) -> Score:  # fmt: skip
    names = [*dict.fromkeys(name for name, _ in samples)]
    results, scale = found["results"], scale_of(metric, names[0])
    whole = results.get(task.name, {}) if is_group or names == [task.name] else {}
    of_subtasks = [float(results[name][f"{metric},{chosen}"]) * scale for name in names]
    value, error = _number(whole.get(f"{metric},{chosen}")), _number(whole.get(f"{metric}_stderr,{chosen}"))
    values = _values(samples, metric)
    aggregated = "lm-eval's own" if value is not None else "mean over subtasks"
    if value is None:
        strata = [[v for (name, _), v in zip(samples, values, strict=True) if name == one and v is not None] for one in names]
        are_means = all(s and math.isclose(fmean(s) * scale, v, abs_tol=1e-9) for s, v in zip(strata, of_subtasks, strict=True))
        value, error = fmean(of_subtasks) / scale, standard_error(strata) if are_means else None
    configs = [found["configs"][name] for name in names]
    generates = any(config["output_type"] == "generate_until" for config in configs)
    return Score(
        benchmark=job.benchmark.title,
        task=task.name,
        metric=f"{metric},{chosen}",
        value=value * scale,
        stderr=None if error is None else error * scale,
        n=len(samples),
        shots=found["n-shot"][names[0]],
        limit=task.limit,
        protocol={
            "rules": job.benchmark.protocol,
            "lm_eval": metadata.version("lm_eval"),
            "task_version": {name: str(found["versions"].get(name)) for name in names},
            "task_folder": job.benchmark.task_folder,
            "backend": backend,
            "dtype": job.precision,
            "add_bos": False,
            "chat_template": "tokenizer's" if job.benchmark.chat_template else None,
            **({"chat": job.chat.model_dump()} if job.chat != Chat() else {}),
            "unit": "percent" if scale != 1.0 else OWN_UNIT,
            "limit": task.limit,
            "subtasks": len(names),
            "aggregation": aggregated,
            "max_new_tokens": (job.benchmark.max_new_tokens or "the task's") if generates else None,
        },
        values=_by_id(samples, [None if v is None else v * scale for v in values]),
        details={
            **({"subtasks": dict(zip(names, of_subtasks, strict=True))} if len(names) > 1 else {}),
            **_direction([found["higher_is_better"][name].get(metric) for name in names]),
        },
    )


def _direction(higher_is_better: Sequence[Any]) -> dict[str, bool]:
    """Whether less is better, where lm-eval tells and the subtasks agree."""
    told = higher_is_better[0]
    return {"lower_is_better": not told} if isinstance(told, bool) and all(one is told for one in higher_is_better) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _values(samples: Sequence[tuple[str, Any]], metric: str) -> list[float | None]:
    """Each question's own value, None where the metric is one of all questions together."""
    return [_number(sample.get(metric)) for _, sample in samples]


def _by_id(samples: Sequence[tuple[str, Any]], values: Sequence[float | None]) -> dict[str, float | None]:
    """{subtask and lm-eval's hash of the question: value}, empty for a metric that is one of all questions together."""
    if all(value is None for value in values):
        return {}
    return {f"{name}/{sample['doc_id']}-{sample['doc_hash'][:16]}": value for (name, sample), value in zip(samples, values, strict=True)}


def _line(name: str, sample: Mapping[str, Any], metric: str, score: Score) -> dict[str, Any]:
    identity = f"{name}/{sample['doc_id']}-{sample['doc_hash'][:16]}"
    return {
        "id": identity,
        "subtask": name,
        "question": sample["doc"],
        "target": sample["target"],
        "prompt": sample["arguments"][0][0],
        "responses": sample["resps"],
        "filtered": sample["filtered_resps"],
        metric: score.values.get(identity),
    }
