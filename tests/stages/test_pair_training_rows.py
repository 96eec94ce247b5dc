"""Rows beside self-play: further SFT, DPO on preferences, DPO after an iteration, more epochs on iteration 0's pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.analysis.comparability import reasons_against
from harness.analysis.published import claims
from harness.components.sources import hub, procedural
from harness.contracts import LeftOut, Preference
from harness.errors import InputError, RecipeError
from harness.machine import load as load_machine
from harness.plan import plan
from harness.recipe import Iteration, PairTraining, PromptSource, Recipe, load, replace
from harness.rows import baselines, contests, rows
from harness.runs.needs.costs import estimate, steps_at_equal_flops
from harness.runs.sweeps import load as load_sweep
from harness.stages import preferences
from harness.training.instructions import ID_DIGITS
from harness.training.pairs import read_pairs
from tests.checkpoints import MACHINE
from tests.tiny_family import small_recipe

ULTRAFEEDBACK = PromptSource(
    source="hub", dataset="trl-lib/ultrafeedback_binarized", revision="47124cb5778f5d50de1c7676a412828f3ea7c555", num_prompts=50
)


def with_rival(**changes: object) -> Recipe:
    recipe = small_recipe()
    rival = PairTraining.model_validate({**recipe.rivals["dpo"].model_dump(), **changes})
    return replace(recipe, name="changed", rivals={"rival": rival})


def test_rows_and_contests() -> None:
    """Promise: rivals from sft stand before the iterations and are what the last one must beat; a later one is held against its start."""
    recipe = small_recipe()
    assert rows(recipe) == ("sft", "control", "dpo", "iter0", "iter1", "iter1+dpo")
    assert baselines(recipe) == ("sft", "control", "dpo")
    assert contests(recipe) == (("iter1", "sft"), ("iter1", "control"), ("iter1", "dpo"), ("iter1+dpo", "iter1"))


def test_lineage_of_dpo() -> None:
    """Promise: DPO starts from its row, reads its preferences as prompts and responses, and two rivals share one set of them."""
    stages = {stage.path: stage for stage in plan(small_recipe())}
    pairs = {"prompts": "dpo/preferences", "responses0": "dpo/preferences"}
    assert stages["dpo/train"].inputs == {"policy": "sft/train", **pairs}
    assert stages["iter1+dpo/train"].inputs == {"policy": "iter1/train", **pairs}
    assert stages["iter1+dpo/eval/big_bench"].inputs == {"policy": "iter1+dpo/train"}
    assert "iter1+dpo/preferences" not in stages


def test_more_epochs_on_iteration_0s_pairs() -> None:
    """Promise: a rival without preference data trains on the pairs of iteration 0 and differs from its training in the epochs alone."""
    recipe = small_recipe()
    first = recipe.iterations[0]
    longer = with_rival(
        objective="spin", prompts=None, num_epochs=4, beta=first.beta, learning_rate=first.learning_rate, optimizer=recipe.optimizer
    )
    stages = {stage.path: stage for stage in plan(longer)}
    rival, iteration = stages["rival/train"], stages["iter0/train"]
    assert rival.inputs == iteration.inputs
    differing = {name for name in rival.spec if rival.spec[name] != iteration.spec[name]}
    assert differing == {"schedule_epochs", "stop_after_epochs"}


def test_rivals_do_not_disturb_self_play() -> None:
    """Promise: with or without rivals every other stage keeps its identity."""
    recipe = small_recipe()
    alone = {stage.path: stage.fingerprint for stage in plan(replace(recipe, name="alone", rivals={}))}
    both = {stage.path: stage.fingerprint for stage in plan(recipe)}
    assert alone.items() <= both.items()


def test_wrong_rivals_are_refused() -> None:
    """Promise: an unknown start, a source without preferences and a parameter nobody reads are one clear line each."""
    with pytest.raises(RecipeError, match=r"rivals.rival starts from 'iter01'.*did you mean 'iter1'"):
        plan(with_rival(start="iter01"))
    with pytest.raises(RecipeError, match=r"rivals.rival states the parameters \['mu'\], objective 'dpo' takes \[\]"):
        plan(with_rival(parameters={"mu": 1.0}))


@pytest.mark.parametrize("name", ["iter0", "sft", "control", "prompts", "Two Words", "../up"])
def test_row_names_are_directories_of_their_own(name: str) -> None:
    """Promise: a rival named like another row or stage would overwrite it, so the recipe is refused."""
    recipe = small_recipe()
    with pytest.raises(RecipeError, match=f"a control or rival is called '{name}'"):
        replace(recipe, name="changed", rivals={name: recipe.rivals["dpo"]})


def test_every_row_of_the_papers_table_is_planned() -> None:
    """Promise: zephyr-7b-baselines has the rows of the paper's leaderboard table by name; only iterations have a paper time."""
    recipe = load("zephyr-7b-baselines")
    published = {claim.row for claim in claims("paper/leaderboard")}
    assert published <= set(rows(recipe))
    costs = [estimate(recipe, stage, load_machine("a100x8")) for stage in plan(recipe)]
    assert {stage.path for stage, cost in zip(plan(recipe), costs, strict=True) if cost.paper_hours} == {
        f"iter{t}/{step}" for t in range(4) for step in ("generate", "train")
    }


def test_controls_by_steps_by_epochs_and_by_default() -> None:
    """Promise: a control takes the steps or epochs it states, else as many steps as all iterations together."""
    recipe = small_recipe()
    control = recipe.controls["control"]
    changed = replace(
        recipe,
        name="changed",
        controls={
            "equal": control,
            "steps": control.model_copy(update={"num_steps": 7}),
            "epochs": control.model_copy(update={"num_epochs": 3}),
        },
    )
    specs = {stage.path: stage.spec for stage in plan(changed)}
    assert specs["equal/train"]["num_steps"] == 2 * 4 + 2 * 8
    assert specs["steps/train"]["num_steps"] == 7
    assert specs["epochs/train"]["num_steps"] is None
    assert specs["epochs/train"]["stop_after_epochs"] == 3


def test_equal_compute_is_that_of_the_estimates() -> None:
    """Promise: a control with that many steps costs, by the estimates, what all iterations cost, to within half a step."""
    recipe = small_recipe()
    steps = steps_at_equal_flops(recipe, 8)
    control = recipe.controls["control"].model_copy(update={"num_steps": steps})
    recipe = replace(recipe, name="compute", controls={"control": control})
    costs = {stage.path: estimate(recipe, stage, load_machine("cpu")).flops for stage in plan(recipe)}
    spent = sum(cost for path, cost in costs.items() if path.startswith(("iter0/", "iter1/")) and "/eval/" not in path)
    assert abs(costs["control/train"] - spent) <= costs["control/train"] / steps / 2 * 1.001


def test_other_losses_are_not_set_beside_the_papers_numbers() -> None:
    """Promise: the published iterations are SPIN's, so another objective's iteration says why it may not be compared with them."""
    recipe = replace(load("zephyr-7b"), name="hinge", objective="spin_hinge")
    task = recipe.benchmarks[0].tasks[3]
    for row, expected in (("iter0", True), ("sft", False)):
        claim = next(one for one in claims("paper/leaderboard") if (one.row, one.task) == (row, task.name))
        reasons = reasons_against(recipe, row, recipe.benchmarks[0], task, None, claim)
        assert ("objective: ours spin_hinge, the paper's spin" in reasons.training) is expected


def test_costs_follow_the_branches_and_the_opponent() -> None:
    """Promise: a third branch costs a response more a pair, and an objective without opponent no pass of one."""
    recipe = replace(small_recipe(), name="t", iterations=small_recipe().iterations[:1], controls={}, rivals={})
    first = recipe.iterations[0].model_copy(update={"parameters": {"proto_weight": 0.1}})
    flops = [
        next(estimate(one, stage, load_machine("cpu")).flops for stage in plan(one) if stage.path == "iter0/train")
        for one in (recipe, replace(recipe, name="t", objective="t_spin", iterations=(first,)))
    ]
    sizes = recipe.sizes
    pair, triplet = (sizes.prompt_tokens + sizes.real_tokens + number * sizes.generated_tokens for number in (1, 2))
    assert flops[0] == pytest.approx(sizes.num_parameters * 32 * pair * (6 * 2 + 2))
    assert flops[1] == pytest.approx(sizes.num_parameters * 32 * triplet * 6 * 2)


def test_proto_reaches_training() -> None:
    """Promise: an objective with the branch proto reads iteration 0's responses in every iteration; others do not."""
    recipe = small_recipe()
    iterations = tuple(Iteration(beta=1.0, learning_rate=1e-4, pairs_from=(t,), parameters={"proto_weight": 0.1 * t}) for t in range(2))
    stages = {stage.path: stage for stage in plan(replace(recipe, name="t", objective="t_spin", iterations=iterations))}
    assert stages["iter1/train"].inputs["proto"] == "iter0/generate"
    assert stages["iter1/train"].spec["parameters"] == {"proto_weight": 0.1}
    assert "proto" not in {stage.path: stage for stage in plan(recipe)}["iter1/train"].inputs


def run_stage(source: PromptSource, out: Path) -> None:
    preferences.run({"prompts": source.model_dump(mode="json")}, {}, out, MACHINE)


def test_training_reads_preferences_as_pairs(tmp_path: Path) -> None:
    """Promise: chosen is real, rejected is generated, prompt by prompt, through the reader every training uses."""
    source = PromptSource(source="procedural", dataset="procedural", num_prompts=12)
    run_stage(source, tmp_path)
    pairs = read_pairs({"prompts": tmp_path, "responses0": tmp_path})
    expected = procedural.load_preferences(source)
    assert [(p.prompt_id, p.real, p.generated, p.finish_reason) for p in pairs] == [
        (one.prompt_id, one.chosen, one.rejected, "stop") for one in expected
    ]
    for pair in pairs:
        prompt = pair.prompt[0]["content"]
        assert procedural.is_valid(prompt, pair.real)
        assert not procedural.is_valid(prompt, str(pair.generated))


def test_too_few_preferences_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: fewer usable rows than the recipe asks for is an error, not a smaller run."""
    one = Preference("a", [{"role": "user", "content": "Q"}], "yes", "no")
    monkeypatch.setattr(procedural, "load_preferences", lambda spec: [one])
    with pytest.raises(InputError, match="gives 1 usable prompts, the recipe asks for 12"):
        run_stage(PromptSource(source="procedural", dataset="procedural", num_prompts=12), tmp_path)


def test_ultrafeedback_preferences(hf_cache: Path, tmp_path: Path) -> None:
    """Promise: real preference data: one row a prompt, both answers to the same prompt and different, the same rows by name."""
    run_stage(ULTRAFEEDBACK, tmp_path)
    pairs = read_pairs({"prompts": tmp_path, "responses0": tmp_path})
    assert len({pair.prompt_id for pair in pairs}) == 50
    assert all(pair.real.strip() and str(pair.generated).strip() and pair.real != pair.generated for pair in pairs)
    wanted = tuple(pair.prompt_id[:ID_DIGITS] for pair in pairs[7:10])
    named = hub.load_preferences(ULTRAFEEDBACK.model_copy(update={"num_prompts": 3, "prompt_ids": wanted}))
    kept = [one for one in named if not isinstance(one, LeftOut)]
    assert [(one.chosen, one.rejected) for one in kept] == [(pair.real, pair.generated) for pair in pairs[7:10]]
    lines = (tmp_path / "responses" / "00000.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"prompt_id", "response", "finish_reason"}


def test_preferences_of_smollm2_study_are_there(hf_cache: Path, tmp_path: Path) -> None:
    """Promise: every prompt the study names for DPO has two different answers, and its chosen one is SPIN's real response."""
    recipe = load_sweep("smollm2-study").variants["spin"][0]
    source = recipe.rivals["dpo"].prompts
    assert source is not None
    run_stage(source, tmp_path)
    real = {row.prompt_id: row.real for row in hub.load(recipe.prompts) if not isinstance(row, LeftOut)}
    pairs = read_pairs({"prompts": tmp_path, "responses0": tmp_path})
    assert len(pairs) == len(real) - 1
    assert all(pair.real == real[pair.prompt_id] for pair in pairs)
