"""Numbers stand beside published ones under two marks: the same evaluation, and the same evaluation and training."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.analysis.anchors import compare_figures
from harness.analysis.comparability import Reasons, claim_for, reasons_against
from harness.analysis.run_table import collect
from harness.contracts import Score
from harness.recipe import Anchor, Benchmark, Lora, ModelRef, Optimizer, Recipe, load, replace
from harness.report.tables import render
from tests.synthetic_runs import write_run

ZEPHYR = load("zephyr-7b")
LEADERBOARD = ZEPHYR.benchmarks[0]
NAME, REVISION = ZEPHYR.sft_model.name, ZEPHYR.sft_model.revision


def reasons(recipe: Recipe, row: str = "iter1", task: str = "gsm8k", num_questions: int | None = None) -> Reasons:
    """The reasons against comparing a cell of `recipe`, from its plan or from a score over `num_questions`."""
    benchmark = recipe.benchmarks[0]
    chosen = next(one for one in benchmark.tasks if one.name == task)
    claim = claim_for(recipe, row, task, benchmark.protocol)
    assert claim is not None
    score = Score(benchmark="open_llm", task=task, metric=chosen.metric, value=50.0, stderr=1.0, n=num_questions or 0, shots=chosen.shots)
    return reasons_against(recipe, row, benchmark, chosen, score if num_questions else None, claim)


def evaluated(**changes: object) -> Recipe:
    """zephyr-7b with another leaderboard benchmark."""
    return replace(ZEPHYR, name="other", benchmarks=(LEADERBOARD.model_copy(update=changes),))


def only_anatomy() -> Benchmark:
    tasks = [task.model_copy(update={"subtasks": ("mmlu_anatomy",)}) if task.name == "mmlu" else task for task in LEADERBOARD.tasks]
    return LEADERBOARD.model_copy(update={"tasks": tuple(tasks)})


@pytest.mark.parametrize("name", ["zephyr-7b", "zephyr-7b-release"])
@pytest.mark.parametrize("row", ["sft", "iter0", "iter3"])
def test_the_papers_recipes_are_comparable_in_full(name: str, row: str) -> None:
    """The text's settings and the release's are both the paper's."""
    assert reasons(load(name), row) == Reasons((), ())


def test_mmlu_on_one_subject_is_another_evaluation() -> None:
    """By the recipe, and by the count of questions where the published values do not tell it."""
    assert reasons(replace(ZEPHYR, name="one", benchmarks=(only_anatomy(),)), task="mmlu").evaluation == ("only 1 of its subtasks",)
    assert reasons(ZEPHYR, task="mmlu", num_questions=135).evaluation == ("questions: ours 135, theirs 14042",)
    assert reasons(ZEPHYR, task="mmlu", num_questions=14042) == Reasons((), ())
    assert reasons(ZEPHYR, task="hellaswag", num_questions=100).evaluation == ("questions: ours 100, theirs 10042",)


def test_a_cap_on_answers_is_another_evaluation_of_what_is_generated() -> None:
    """16 tokens cut GSM8K's reasoning; endings that are only scored stay comparable."""
    capped = evaluated(max_new_tokens=16)
    assert reasons(capped).evaluation == ("answers cut at 16 tokens, a limit of ours",)
    assert reasons(capped, task="hellaswag") == Reasons((), ())


@pytest.mark.parametrize(
    "ref",
    [
        ModelRef(source="path", name=NAME, revision=REVISION),
        ModelRef(source="scratch", name=NAME, revision=REVISION),
        ModelRef(source="package", name=NAME, revision=REVISION),
    ],
    ids=lambda ref: ref.source,
)
def test_only_the_hubs_commit_shows_that_weights_are_the_published_ones(ref: ModelRef) -> None:
    """A directory, random weights or a package that state the pinned name and revision: same evaluation, other weights, in every row."""
    recipe = replace(ZEPHYR, name="local", sft_model=ref)
    for row in ("sft", "iter0"):
        found = reasons(recipe, row)
        assert found.evaluation == ()
        assert found.training == (f"weights from source '{ref.source}': nothing shows that they are {NAME}",)


def test_another_model_or_revision_is_named() -> None:
    """The Hub's overwritten main is not the revision that was trained."""
    for update, said in (
        ({"name": "other/model"}, "another model: other/model"),
        ({"revision": "0" * 40}, "another revision of the model"),
    ):
        recipe = replace(ZEPHYR, name="hub", sft_model=ZEPHYR.sft_model.model_copy(update=update))
        assert reasons(recipe, "sft").training[0].startswith(said)


def test_an_anchor_from_a_directory_is_not_the_published_checkpoint(tmp_path: Path) -> None:
    """`iter0` may be any directory: its evaluation is comparable, its weights are not, and the figures say so; the Hub's own is both."""
    anchors = load("zephyr-7b-anchors")
    assert reasons(anchors, "iter0") == Reasons((), ())
    ref = ModelRef(source="path", name="somewhere")
    local = replace(anchors, name="local", anchors={"iter0": Anchor(model=ref)})
    found = reasons(local, "iter0")
    assert found.evaluation == ()
    assert found.training == ("weights from source 'path': nothing shows that they are UCLA-AGI/zephyr-7b-sft-full-SPIN-iter0",)
    outcomes = {one.outcome for one in compare_figures(local, tmp_path) if one.source.startswith("paper/leaderboard")}
    assert outcomes == {f"not run; {found.training[0]}"}
    other = anchors.anchors["iter0"].model
    assert other is not None
    wrong = replace(anchors, name="wrong", anchors={"iter1": Anchor(model=other)})
    assert reasons(wrong, "iter1").training[0].startswith("another model: UCLA-AGI/zephyr-7b-sft-full-SPIN-iter0")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": ZEPHYR.prompts.model_copy(update={"num_prompts": 64})}, "prompts.num_prompts: ours 64, the paper's 50000"),
        (
            {"iterations": tuple(one.model_copy(update={"learning_rate": 1e-5}) for one in ZEPHYR.iterations)},
            "iterations.0.learning_rate: ours 1e-05, the paper's 5e-07",
        ),
        ({"lora": Lora(rank=8, alpha=16, targets=("q_proj",))}, "lora: the paper trained without"),
        ({"optimizer": Optimizer(name="adamw")}, "optimizer.name: ours adamw, the paper's rmsprop"),
        ({"grouping": "groups"}, "grouping: the paper trained without"),
    ],
    ids=["prompts", "learning rate", "lora", "adamw", "grouping"],
)
def test_other_training_leaves_the_evaluation_comparable(changes: dict[str, object], said: str) -> None:
    """The iterations' numbers are made under the same evaluation, by other training; `sft` is not touched."""
    recipe = replace(ZEPHYR, name="trained", **changes)
    found = reasons(recipe, "iter1")
    assert found.evaluation == ()
    assert said in found.training
    assert reasons(recipe, "sft") == Reasons((), ())


def test_a_later_iterations_settings_do_not_touch_an_earlier_one() -> None:
    """Iteration 2 at another learning rate: iterations 0 and 1 are trained as the paper's."""
    changed = ZEPHYR.iterations[2].model_copy(update={"learning_rate": 1e-5})
    recipe = replace(ZEPHYR, name="late", iterations=(*ZEPHYR.iterations[:2], changed, ZEPHYR.iterations[3]))
    assert reasons(recipe, "iter1") == Reasons((), ())
    assert reasons(recipe, "iter2").training == reasons(recipe, "iter3").training != ()


def test_both_marks_reach_cell_average_and_page(tmp_path: Path) -> None:
    """LoRA: same evaluation, not comparable in full. MMLU on one subject bars the average's evaluation too. Each reason is printed."""
    trained = replace(ZEPHYR, name="lora", lora=Lora(rank=8, alpha=16, targets=("q_proj",)))
    table = collect(write_run(tmp_path / "lora", trained, lambda row, task: None))
    for column in ("gsm8k", "average"):
        cell = table.cell("iter0", column)
        assert (cell.same_evaluation, cell.comparable) == (True, False)
        assert cell.training_reasons == cell.reasons == ("lora: the paper trained without",)
    assert table.cell("sft", "average").comparable
    assert "| evaluation (" in render(table, "markdown")
    table = collect(write_run(tmp_path / "one", replace(ZEPHYR, name="one", benchmarks=(only_anatomy(),)), lambda row, task: None))
    average = table.cell("iter0", "average")
    assert (average.same_evaluation, average.comparable) == (False, False)
    assert average.reasons == ("tasks that are not comparable: mmlu",)
