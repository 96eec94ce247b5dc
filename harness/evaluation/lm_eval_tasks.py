"""A task under a protocol, as an lm-eval task: a file of lm-eval's own folder, with the differences of the protocol stated as data.

A file is loaded by its path: indexing the whole folder would take 20 s. Nothing here asks for the network; where `HF_HUB_OFFLINE` is set,
the data sets come from the local cache under their Hub names. docs/protocols.md says why each difference exists.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lm_eval.tasks
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from harness.errors import InputError, RecipeError, suggest
from harness.recipe import Task

FEW_SHOT_SEED = 1234
"""lm-eval's own default."""
LEADERBOARD_SEED = 42


class Definition(NamedTuple):
    """Which of lm-eval's task files a task is (a pattern: one file a subtask), which of its answer filters counts, and what differs.

    `changes` are lm-eval settings that change what is asked, `scoring` those that only change what an answer is worth. `draws` says how
    few-shot examples are drawn; `drops_shots` leaves them out of the prompt. `by_size` weighs subtasks by their questions.
    """

    files: str
    filter: str = "none"
    changes: Mapping[str, Any] = {}
    scoring: Mapping[str, Any] = {}
    draws: Literal["lm-eval", "leaderboard"] = "lm-eval"
    drops_shots: bool = False
    by_size: bool = False

    def asks_as(self, other: Definition) -> bool:
        """Whether both ask the model the same."""
        return self._replace(filter="", scoring={}, by_size=False) == other._replace(filter="", scoring={}, by_size=False)

    def identity(self) -> dict[str, Any]:
        """What a score's protocol says of the differences; empty for lm-eval's own task."""
        shots = {"few_shot_context": "dropped"} if self.drops_shots else {}
        seed = f"{LEADERBOARD_SEED}, after shuffling the questions" if self.draws == "leaderboard" else FEW_SHOT_SEED
        return {"few_shot_seed": seed, **shots}


class WithoutShots(ConfigurableTask):  # type: ignore[misc]
    """A task whose few-shot examples never reach the prompt."""

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, **settings: Any) -> Any:
        """The prompt with no examples, whatever is asked for."""
        return super().fewshot_context(doc, 0, **settings)


class OneGenerator(ContextSampler):  # type: ignore[misc]
    """Draws examples with the generator that shuffled the questions, question after question.

    Always as many as there are shots: lm-eval 0.4 draws one more, to spare, where a task has no test split (HellaSwag, Winogrande), and
    would so move the generator on for every later question.
    """

    def __init__(self, documents: Any, generator: random.Random) -> None:
        super().__init__(list(documents))
        self.rnd = generator

    def sample(self, n: int, **_: Any) -> list[dict[str, Any]]:
        """`n` of the training documents, whatever the question is."""
        return self.rnd.sample(self.df, n)

    def set_rnd(self, rnd: int | None) -> OneGenerator:
        """The seed is the protocol's own."""
        return self


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
            f"the data set of {task.name} could not be loaded: {reason}; run once with the network (HF_HUB_OFFLINE unset), "
            "or point HF_HUB_CACHE and HF_DATASETS_CACHE at a cache that holds it"
        ) from None
    return {name: _changed(subtask, definition) for name, subtask in loaded["tasks"].items()}


def set_up(subtask: ConfigurableTask, task: Task, max_new_tokens: int | None) -> None:
    """Shots, few-shot seed and the cap on generated tokens of an lm-eval task."""
    own = subtask.config.num_fewshot
    subtask.set_config("num_fewshot", own or 0 if task.shots is None else task.shots)
    subtask.set_fewshot_seed(FEW_SHOT_SEED)
    if max_new_tokens is not None and subtask.OUTPUT_TYPE == "generate_until":
        subtask.set_config("generation_kwargs", {"max_gen_toks": max_new_tokens}, update=True)


def _changed(subtask: ConfigurableTask, definition: Definition) -> ConfigurableTask:
    changes = {**definition.changes, **definition.scoring}
    if changes or definition.drops_shots:
        kind = WithoutShots if definition.drops_shots else ConfigurableTask
        config = subtask.config.to_dict(keep_callable=True)
        fewshot = {**(config.get("fewshot_config") or {}), **changes.pop("fewshot_config", {})}
        subtask = kind(config={**config, **changes, **({"fewshot_config": fewshot} if fewshot else {})})
    if definition.draws == "leaderboard":
        _shuffle(subtask)
    return subtask


def _shuffle(subtask: ConfigurableTask) -> None:
    """Shuffle the questions and let the same generator draw the examples, unless the task fixes them."""
    generator = random.Random(LEADERBOARD_SEED)
    split = subtask.config.test_split or subtask.config.validation_split
    order = [*range(len(subtask.dataset[split]))]
    generator.shuffle(order)
    subtask.dataset[split] = subtask.dataset[split].select(order)
    if type(subtask.sampler) is ContextSampler:
        subtask.sampler = OneGenerator(subtask.fewshot_docs(), generator)
