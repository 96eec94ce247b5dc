"""A recipe cut to minutes: what `harness rehearse` runs in its place, through the same stages, launcher, engine, benchmarks and judge.

What is cut: prompts, of which the longest are taken; the steps of each training; the questions of each task. What stays: everything that
decides how a stage works, global batch and length limits above all, so that a step needs the memory that it will need.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from harness.config import Strict
from harness.contracts import Demonstration, LeftOut, Preference, load
from harness.errors import InputError
from harness.files import hash_content
from harness.recipe import LOCAL, Benchmark, Finetuning, Iteration, ModelRef, PairTraining, PromptSource, Recipe, replace

PREFIX = "rehearsal-of-"
NUM_STEPS = 2
"""Optimizer steps of a training: the first warms up, the second is timed."""
NUM_QUESTIONS = 2
"""Questions of a task, of each of its subtasks where there are some."""
NUM_HELD_OUT = 8
NAMED_ROWS = ("hub", LOCAL)
"""The sources whose rows a recipe can name."""

Part = TypeVar("Part", bound=Strict)


def cut(recipe: Recipe, batch: int | None = None) -> Recipe:
    """The rehearsal of `recipe`, under a name of its own and beside no published numbers; `batch` stands in for its global batches.

    A data set is read for its longest rows.
    """
    tunings = (recipe.pretraining, recipe.sft, *recipe.controls.values(), *recipe.rivals.values())
    sharing = [tuning.global_batch_size for tuning in tunings if tuning and tuning.prompts is None]
    num_prompts = batch or max(recipe.global_batch_size, *sharing, 1)
    return replace(
        recipe,
        name=f"{PREFIX}{recipe.name}",
        summary=f"{recipe.name} cut to minutes: no result",
        pretraining=recipe.pretraining and _finetuning(recipe.pretraining, batch),
        sft=recipe.sft and _finetuning(recipe.sft, batch),
        controls={row: _finetuning(control, batch) for row, control in recipe.controls.items()},
        rivals={row: _pairs(rival, batch) for row, rival in recipe.rivals.items()},
        prompts=_longest(recipe.prompts, num_prompts),
        held_out=recipe.held_out and _longest(recipe.held_out, NUM_HELD_OUT),
        global_batch_size=batch or recipe.global_batch_size,
        iterations=tuple(map(_iteration, recipe.iterations)),
        benchmarks=tuple(map(_benchmark, recipe.benchmarks)),
        accepted_checks=(*recipe.accepted_checks, *_shares(recipe)),
        claims=None,
        because={},
    )


def without_vllm(recipe: Recipe) -> Recipe:
    """`recipe` with the engine `hf` where it names vLLM, which is not installed here."""
    return recipe.model_copy(update={"engine": "hf"}) if recipe.engine == "vllm" and find_spec("vllm") is None else recipe


def with_files(recipe: Recipe, folder: Path) -> Recipe:
    """`recipe` with data files of `folder`, named by their split, in place of the Hub's data sets."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no directory; expected one with config.json, a tokenizer and data files named by their split")
    content = hash_content(folder)

    def local(source: PromptSource) -> PromptSource:
        here = {"source": LOCAL, "dataset": str(folder.resolve()), "config": None, "revision": content}
        return source.model_copy(update=here) if source.source == "hub" else source

    found: Recipe = changed(recipe, PromptSource, local)
    return found


def changed(part: Any, kind: type[Part], change: Callable[[Part], Part]) -> Any:
    """A copy of a recipe or a part of one in which every part of a kind is what `change` makes of it."""
    if isinstance(part, kind):
        return change(part)
    if isinstance(part, Strict):
        found = {name: (getattr(part, name), changed(getattr(part, name), kind, change)) for name in type(part).model_fields}
        return part.model_copy(update={name: new for name, (old, new) in found.items() if new is not old})
    if isinstance(part, tuple):
        return tuple(changed(item, kind, change) for item in part)
    return {name: changed(item, kind, change) for name, item in part.items()} if isinstance(part, dict) else part


def models_of(recipe: Recipe) -> list[ModelRef]:
    """The models that a recipe names."""
    return [model for model in (recipe.sft_model, *(anchor.model for anchor in recipe.anchors.values())) if model]


def _shares(recipe: Recipe) -> list[str]:
    """The audit's checks of shares of a data set, of which its longest rows are no sample; the others still stop a training."""
    from harness.training.token_audit import LIMITS

    return [name for name, limit in LIMITS.items() if limit > 0 and name not in recipe.accepted_checks]


def _finetuning(tuning: Finetuning, batch: int | None) -> Finetuning:
    size = batch or tuning.global_batch_size
    prompts = tuning.prompts and _longest(tuning.prompts, size)
    return tuning.model_copy(update={"num_epochs": None, "num_steps": NUM_STEPS, "global_batch_size": size, "prompts": prompts})


def _pairs(rival: PairTraining, batch: int | None) -> PairTraining:
    size = batch or rival.global_batch_size
    prompts = rival.prompts and _longest(rival.prompts, size, "load_preferences")
    return rival.model_copy(update={"num_epochs": NUM_STEPS, "global_batch_size": size, "prompts": prompts})


def _iteration(iteration: Iteration) -> Iteration:
    """With one global batch of prompts an epoch has a step for each iteration that pairs come from."""
    epochs = max(NUM_STEPS // len(iteration.pairs_from), 1)
    return iteration.model_copy(update={"stop_after_epochs": min(iteration.stop_after_epochs, epochs)})


def _benchmark(benchmark: Benchmark) -> Benchmark:
    if benchmark.name == "held_out":
        return benchmark  # its questions are the recipe's held-out prompts
    tasks = [task.model_copy(update={"limit": min(task.limit or NUM_QUESTIONS, NUM_QUESTIONS)}) for task in benchmark.tasks]
    return benchmark.model_copy(update={"tasks": tuple(tasks)})


@cache
def _longest(source: PromptSource, num: int, function: str = "load") -> PromptSource:
    """The `num` longest rows that the recipe would take, where rows have names; else its first."""
    ids: tuple[str, ...] = ()
    if source.source in NAMED_ROWS:
        found = getattr(load("sources", source.source), function)(source)
        rows = sorted((row for row in found if not isinstance(row, LeftOut)), key=_length, reverse=True)
        ids = tuple(row.prompt_id[:16] for row in rows[:num])
    return source.model_copy(update={"num_prompts": min(num, len(ids) or source.num_prompts), "prompt_ids": ids})


def _length(row: Demonstration | Preference) -> int:
    """Characters of the prompt and the responses."""
    responses = [row.real] if isinstance(row, Demonstration) else [row.chosen, row.rejected]
    return sum(len(message["content"]) for message in row.prompt) + sum(map(len, responses))
