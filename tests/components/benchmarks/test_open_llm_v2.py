"""The second leaderboard's tasks are lm-eval's own files; their data sets are not in the offline cache, so none is asked here."""

from __future__ import annotations

from pathlib import Path

import lm_eval.tasks
import pytest
import yaml

from harness import recipe as recipes
from harness.components.benchmarks import open_llm_v2
from harness.errors import InputError
from harness.evaluation.lm_eval_tasks import load_definition
from harness.recipe import Task

FOLDER = Path(lm_eval.tasks.__file__).parent
SUBTASKS = {"math": 7, "musr": 3, "mmlu_pro": 1, "gpqa": 3, "bbh": 24, "ifeval": 1}


class Loader(yaml.SafeLoader):
    """Reads lm-eval's files without running the functions they name."""


Loader.add_constructor("!function", lambda loader, node: None)


def settings(path: Path) -> dict[str, object]:
    """The settings of a task's file, those of its template included."""
    found = yaml.load(path.read_text(), Loader)
    include = found.pop("include", None)
    return {**(settings(path.parent / include) if include else {}), **found}


def test_each_task_is_all_files_of_the_leaderboards_group() -> None:
    """Templates and groups are no tasks, every subtask is one."""
    assert {name: len(list(FOLDER.glob(files))) for name, files in open_llm_v2.FILES.items()} == SUBTASKS


@pytest.mark.parametrize("name", ["zephyr-7b-t-spin", "zephyr-7b-spin-of-t-spin"])
def test_recipes_ask_for_shots_and_metrics_that_the_files_have(name: str) -> None:
    """A metric that lm-eval does not give would be found only after hours."""
    (benchmark,) = (one for one in recipes.load(name).benchmarks if one.name == "open_llm_v2")
    assert {task.name for task in benchmark.tasks} == set(SUBTASKS)
    for task in benchmark.tasks:
        for path in FOLDER.glob(open_llm_v2.FILES[task.name]):
            found = settings(path)
            assert found.get("num_fewshot", 0) == task.shots, path
            assert task.metric in [one["metric"] for one in found["metric_list"]], path  # type: ignore[attr-defined]


@pytest.mark.usefixtures("hf_cache")
def test_a_data_set_that_is_not_here_is_named_in_a_line() -> None:
    """As for every other task of lm-eval."""
    with pytest.raises(InputError, match="the data set of musr could not be loaded"):
        load_definition(Task(name="musr", shots=0, metric="acc_norm"), open_llm_v2.PROTOCOLS["current"]["musr"])
