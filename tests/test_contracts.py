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
