"""The plan is pure, its identities change exactly where a result could."""

import subprocess
import sys

import pytest

from harness import recipe as recipes
from harness.errors import RecipeError
from harness.plan import plan, steps_of
from harness.recipe import Chat, Iteration, Lora, Recipe, load, replace
from harness.rows import Row, iteration_of, rows, table_rows
from tests.tiny_family import small_recipe


def with_beta(recipe: Recipe, t: int, beta: float) -> Recipe:
    iterations = list(recipe.iterations)
    iterations[t] = Iteration.model_validate({**iterations[t].model_dump(), "beta": beta})
    return replace(recipe, name="changed", iterations=tuple(iterations))


@pytest.mark.parametrize("name", sorted(recipes.available()))
def test_inputs_come_before_the_stage_that_reads_them(name: str) -> None:
    """The runner may walk the plan from top to bottom."""
    seen: set[str] = set()
    for stage in plan(load(name)):
        assert set(stage.inputs.values()) <= seen
        seen.add(stage.path)


def test_changed_beta_makes_stale_exactly_what_follows() -> None:
    """Another beta in iteration 1 leaves iteration 0 and iteration 1's responses as they are."""
    recipe = load("zephyr-7b")
    before = {stage.path: stage.fingerprint for stage in plan(recipe)}
    after = {stage.path: stage.fingerprint for stage in plan(with_beta(recipe, 1, 0.5))}
    changed = {path for path in before if before[path] != after[path]}
    expected = {path for path in before if path.startswith(("iter2/", "iter3/", "iter1/train", "iter1/eval", "iter1/held_out"))}
    assert changed == expected


def test_chat_settings_bear_identity_only_where_stated() -> None:
    """A recipe without them has the specs it always had; with them every generation, training and evaluation is another."""
    recipe = load("tiny")
    assert all("chat" not in stage.spec for stage in plan(recipe))
    before = {stage.path: stage.fingerprint for stage in plan(recipe)}
    changed = plan(replace(recipe, name="changed", chat=Chat(system_prompt="Be brief.")))
    assert {stage.path for stage in changed if stage.fingerprint == before[stage.path]} == {"sft/model", "prompts", "pretraining/prompts"}
    with pytest.raises(RecipeError, match=r"chat\.template_args are arguments of the model's own chat template"):
        replace(load("zephyr-7b"), name="x", generation_template="alpaca", training_template="zephyr", chat=Chat(template_args={"a": 1}))


def test_how_the_opponent_is_scored_bears_identity_in_bf16_alone() -> None:
    """Other packings of the opponent moved bf16 margins by nats, fp32's by nothing that shows; further SFT has no opponent."""
    baselines = {stage.path: stage.versions for stage in plan(load("zephyr-7b-baselines")) if stage.kind == "train"}
    assert {path for path, versions in baselines.items() if "opponent" not in versions} == {
        f"{row}/train" for row in load("zephyr-7b-baselines").controls
    }
    assert not [stage.path for stage in plan(load("tiny")) if "opponent" in stage.versions]


def test_name_summary_and_reasons_bear_no_identity() -> None:
    """Only what can affect results enters a fingerprint."""
    recipe = load("zephyr-7b")
    renamed = replace(recipe, name="other", summary="other", sizes=recipe.sizes.model_copy(update={"real_tokens": 1.0}))
    assert [stage.fingerprint for stage in plan(renamed)] == [stage.fingerprint for stage in plan(recipe)]


def test_lineage_of_the_papers_iterations() -> None:
    """Iteration 2 starts from iteration 1's checkpoint and trains on the responses of iterations 1 and 2."""
    stages = {stage.path: stage for stage in plan(load("zephyr-7b"))}
    assert stages["iter2/train"].inputs == {
        "policy": "iter1/train",
        "prompts": "prompts",
        "responses1": "iter1/generate",
        "responses2": "iter2/generate",
    }
    assert stages["iter2/generate"].inputs["policy"] == "iter1/train"


def test_two_protocols_of_a_benchmark_are_two_stages() -> None:
    """Each has a directory of its own, below the benchmark's, and an identity of its own; alone it keeps the benchmark's name."""
    base = load("zephyr-7b")
    paper = base.benchmarks[0]
    both = replace(base, name="both", benchmarks=(paper, paper.model_copy(update={"protocol": "current"})))
    stages = [stage for stage in plan(both) if stage.path.startswith("sft/eval/")]
    assert [stage.path for stage in stages] == ["sft/eval/open_llm/lm-eval@46c7966", "sft/eval/open_llm/current"]
    (alone,) = [stage for stage in plan(base) if stage.path == "sft/eval/open_llm"]
    assert [stage.fingerprint == alone.fingerprint for stage in stages] == [True, False]
    with pytest.raises(RecipeError, match="open_llm is listed twice under protocol"):
        replace(base, name="twice", benchmarks=(paper, paper))


def test_steps_are_those_of_the_release() -> None:
    """49.8k pairs at 64 a step are 778 steps an epoch, which the authors' log shows (uclaml/SPIN issue 12)."""
    assert steps_of(load("zephyr-7b-release"), 0) == 2 * 778


def test_rows_are_in_the_order_of_the_tables() -> None:
    """sft first, then controls, then the iterations."""
    assert rows(load("zephyr-7b")) == ("sft", "iter0", "iter1", "iter2", "iter3")


@pytest.mark.parametrize("command", [["--help"], ["plan", "zephyr-7b"], ["status", "tiny"], ["diff", "zephyr-7b", "zephyr-7b-release"]])
def test_light_commands_import_nothing_heavy(command: list[str]) -> None:
    """--help, plan, status and diff start without torch, vllm, lm_eval or transformers."""
    code = (
        "import sys\nsys.argv = ['harness', *sys.argv[1:]]\nfrom harness.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('HEAVY', [m for m in ('torch', 'vllm', 'lm_eval', 'transformers', 'datasets', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stderr


def test_adapters_are_trained_by_every_row_but_sft() -> None:
    """Under `lora` sft is trained in full, and iterations, rivals and every control (by steps, epochs or neither) as adapters."""
    recipe = small_recipe()
    control, lora = recipe.controls["control"], Lora(rank=2, alpha=4.0, targets=("q_proj",))
    controls = {
        "control": control,
        "sft+steps": control.model_copy(update={"num_steps": 3}),
        "sft+1epoch": control.model_copy(update={"num_epochs": 1}),
    }
    for sft in (recipe.sft, control.model_copy(update={"num_steps": 3})):
        stages = plan(replace(recipe, name="adapters", lora=lora, sft=sft, controls=controls))
        in_full = [stage.path for stage in stages if stage.kind == "train" and stage.spec["lora"] is None]
        assert in_full == ["sft/train"]


def test_a_rival_of_its_own_data_needs_no_iteration() -> None:
    """Without iterations a rival trains on its own preferences; one without them is told what is missing."""
    dpo = load("zephyr-7b-baselines").rivals["dpo"]
    changes = {"iterations": (), "because": {"iterations": "the rival alone", "rivals": "the rival alone"}}
    alone = plan(replace(load("zephyr-7b-baselines"), name="alone", rivals={"dpo": dpo}, **changes))
    trained = next(stage for stage in alone if stage.path == "dpo/train")
    assert set(trained.inputs.values()) == {"sft/model", "dpo/preferences"}
    without = dpo.model_copy(update={"prompts": None})
    with pytest.raises(
        RecipeError, match=r"rivals\.dpo trains on the pairs of iteration 0, and there are no iterations; give it `prompts`"
    ):
        plan(replace(load("zephyr-7b-baselines"), name="alone", rivals={"dpo": without}, **changes))


def test_a_row_is_a_value() -> None:
    """Each row names its kind, the stage whose checkpoint it is (which the plan holds), its iteration and its opponent."""
    recipe = small_recipe()
    assert table_rows(recipe) == (
        Row("sft", "sft", "sft/train"),
        Row("control", "control", "control/train"),
        Row("dpo", "rival", "dpo/train", opponent="sft"),
        Row("iter0", "iteration", "iter0/train", 0, "sft"),
        Row("iter1", "iteration", "iter1/train", 1, "iter0"),
        Row("iter1+dpo", "rival", "iter1+dpo/train", opponent="iter1"),
    )
    for name in recipes.available():
        paths = {stage.path for stage in plan(load(name))}
        assert {row.train_stage for row in table_rows(load(name))} - {None} <= paths


@pytest.mark.parametrize(
    ("row", "t"), [("iter0", 0), ("iter12", 12), ("sft", None), ("3", None), ("iter0@epoch3", None), ("iter1+dpo", None), ("iter", None)]
)
def test_the_iteration_of_a_row(row: str, t: int | None) -> None:
    """Only `iterT` is an iteration, whatever other rows are called."""
    assert iteration_of(row) == t


def test_no_other_row_is_called_like_an_iteration() -> None:
    """A control `iter9` of a recipe with two iterations would be drawn and counted as one."""
    recipe = small_recipe()
    with pytest.raises(RecipeError, match="a control or rival is called 'iter9'"):
        replace(recipe, name="changed", controls={"iter9": recipe.controls["control"]})


def test_another_engine_is_part_of_what_it_answered() -> None:
    """Promise: an evaluation states the VERSION of the engine that generates its texts; with hf, whose part lm-eval's tasks are given by
    the evaluation itself, it is what it always was.
    """
    recipe = small_recipe()
    stated = {}
    for engine in ("hf", "vllm"):
        stages = plan(replace(recipe, name=engine, engine=engine, because={"engine": "to compare"}))
        stated[engine] = {"engine" in stage.versions for stage in stages if stage.kind == "evaluate"}
    assert stated == {"hf": {False}, "vllm": {True}}
