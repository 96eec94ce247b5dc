"""What is read from a component's source without importing it."""

from __future__ import annotations

import pytest

from harness import contracts as components
from harness.errors import RecipeError
from harness.plan import plan
from harness.recipe import Iteration, load, replace


def test_branches_and_parameters_are_read_from_the_source() -> None:
    """An objective's own file says what it scores and what it takes; nothing is kept elsewhere."""
    assert components.branches("spin") == ("real", "generated")
    assert components.branches("sft") == ("real",)
    assert components.parameters("spin") == ()
    assert components.branches("t_spin") == ("real", "generated", "proto")
    assert components.parameters("t_spin") == ("proto_weight",)
    assert (components.has_opponent("spin"), components.has_opponent("t_spin")) == (True, False)
    assert (components.grade("spin"), components.grade("t_spin"), components.grade("space")) == ("A", "A", "C+")


def test_parameters_an_objective_does_not_take_are_refused() -> None:
    """A parameter that nothing reads would be in the identity and in no number."""
    iterations = (Iteration(beta=0.1, learning_rate=1e-7, pairs_from=(0,), parameters={"mu": 1.0}),)
    with pytest.raises(RecipeError, match=r"iterations.0 states the parameters \['mu'\], objective 'spin' takes \[\]"):
        plan(replace(load("zephyr-7b"), name="mine", iterations=iterations))


def test_a_benchmark_has_a_version_for_each_protocol() -> None:
    """Prompts that change under one protocol make its finished stages stale and no other's."""
    assert (components.version("benchmarks", "big_bench", "current"), components.version("judges", "rule_based")) == (1, 1)
    assert components.version("benchmarks", "big_bench", "lm-eval@46c7966") == 2
    assert components.version("benchmarks", "mt_bench", "single-answer") == components.version("benchmarks", "mt_bench")
    assert components.version("benchmarks", "open_llm", "a protocol of another time") == 1


@pytest.mark.parametrize(("benchmark", "wrong", "near"), [("open_llm", "mmul", "mmlu"), ("big_bench", "bbh_navigat", "bbh_navigate")])
def test_a_task_that_is_none_is_named_before_anything_runs(benchmark: str, wrong: str, near: str) -> None:
    """Promise: the names are read from the benchmark's source, nothing is imported, and the near one is told."""
    found = next(one for one in load("zephyr-7b").benchmarks if one.name == benchmark)
    components.check_tasks((found,))
    misspelt = found.model_copy(update={"tasks": (found.tasks[0].model_copy(update={"name": wrong}),)})
    with pytest.raises(RecipeError, match=rf"benchmark {benchmark} has no task '{wrong}'; did you mean '{near}'"):
        components.check_tasks((misspelt,))


@pytest.mark.parametrize(("benchmark", "table"), [("open_llm", "CURRENT"), ("held_out", "TASKS"), ("distribution", "METRICS")])
def test_stated_task_names_are_the_tasks_there_are(benchmark: str, table: str) -> None:
    """Promise: what is checked before a run is what the benchmark then looks up."""
    module = components.load("benchmarks", benchmark)
    assert tuple(name for name in module.TASK_NAMES if name != "tiny_*") == tuple(getattr(module, table))
