"""The shipped sweeps are whole: they load, plan, share what they should, and give reasons."""

from __future__ import annotations

import pytest

from harness import paper
from harness.analysis.deviations import deviations
from harness.plan import plan
from harness.recipe import load as load_recipe
from harness.rows import rows
from harness.runs import sweeps as sweeps
from harness.runs.needs.costs import steps_at_equal_flops
from harness.runs.sweeps import Sweep, load, shared_list

STATED = {field: fact.value for field, fact in paper.SETTINGS.items()}


@pytest.fixture(scope="module", params=sorted(sweeps.available()))
def sweep(request: pytest.FixtureRequest) -> Sweep:
    return load(request.param)


def test_sweep_name_is_its_files_name(sweep: Sweep) -> None:
    """Promise: `harness sweep NAME` writes to results/NAME."""
    assert sweep == load(sweep.name)


def test_variants_share_and_differ(sweep: Sweep) -> None:
    """Promise: every variant plans, is more than a renamed copy of another, and shares at least its model with the first."""
    plans = {name: {stage.fingerprint for stage in plan(recipes[0])} for name, recipes in sweep.variants.items()}
    assert len({frozenset(one) for one in plans.values()}) == len(plans)
    first = next(iter(plans.values()))
    assert all(one & first for one in plans.values())
    assert (shared_list(sweep)[-1]["shared"] > 0) is (len(plans) > 1)


def test_tiny_study_asks_what_the_issue_asks() -> None:
    """Promise: five seeds of SPIN, hinge, SPACE and T-SPIN; beside SPIN further SFT at equal steps and at equal compute, and DPO."""
    study, tiny = load("tiny-study"), load_recipe("tiny")
    assert list(study.variants) == ["spin", "hinge", "space", "t-spin"]
    assert {len(recipes) for recipes in study.variants.values()} == {5}
    spin = study.variants["spin"][0]
    equal = [row for row, control in tiny.controls.items() if control.num_epochs is None]
    assert equal
    assert {*tiny.controls, *(f"{row}-compute" for row in equal), "dpo", "iter0-longer"} <= set(rows(spin))
    specs = {stage.path: stage.spec for stage in plan(spin)}
    for row in equal:
        assert specs[f"{row}-compute/train"]["num_steps"] == steps_at_equal_flops(tiny, tiny.controls[row].global_batch_size)
    both = {stage.path: stage.fingerprint for stage in plan(tiny)}
    assert both.items() <= {stage.path: stage.fingerprint for stage in plan(spin)}.items()


def test_ablations_of_the_paper_give_reasons() -> None:
    """Promise: every variant of the 7B ablations says why it differs from the text; a reason without a deviation is a leftover."""
    for recipes in load("zephyr-7b-ablations").variants.values():
        found = {item.field: item.reason for item in deviations(recipes[0], STATED, paper.NOT_STATED)}
        assert [field for field, reason in found.items() if not reason] == []
        unused = [key for key in recipes[0].because if not any(field == key or field.startswith(key + ".") for field in found)]
        assert unused == []


def test_subsets_are_nested() -> None:
    """Promise: 14k, 26k and 50k differ in the number of prompts alone, so a smaller one is a prefix of the same shuffle."""
    variants = load("zephyr-7b-ablations").variants
    small, middle, large = (variants[name][0].prompts for name in ("14k", "26k", "50k"))
    assert (small.num_prompts, middle.num_prompts, large.num_prompts) == (14_000, 26_000, 50_000)
    assert small.model_copy(update={"num_prompts": 50_000}) == middle.model_copy(update={"num_prompts": 50_000}) == large
