"""An effect's size stands beside the paper's, with the reasons why the two may not be compared."""

from pathlib import Path

import pytest

from harness.analysis.comparability import LEADERBOARD_TASKS
from harness.analysis.run_table import collect
from harness.analysis.seed_table import combine
from harness.analysis.table_schema import Delta, ResultTable, SeedTable
from harness.recipe import Recipe, Task, load, replace
from harness.report.effects import OTHER_MODEL, OTHER_TASKS, effects, main_effect, size_block, size_text, study_sentence
from harness.report.tables import read_table, render
from tests.committed import RESULTS, committed_table
from tests.synthetic_runs import Values, questions, small_recipe, write_run


@pytest.fixture(scope="module")
def real() -> ResultTable:
    found = committed_table(RESULTS / "smollm2-135m")
    assert isinstance(found, ResultTable)
    return found


def test_headline_tells_the_share_of_the_paper_s_gain(real: ResultTable) -> None:
    """The six-task average of both: ours, the paper's 62.97 - 58.14, the share, and on which side of our interval the paper's lies."""
    main = main_effect(real)
    assert main is not None
    assert main.ours is not None
    assert main.paper == 4.83
    assert main.share == pytest.approx(100 * main.ours.difference / 4.83)
    assert size_text(main).startswith("iter2 - sft: +0.60 [")
    assert size_text(main).endswith(
        "beside the paper's +4.83: our interval contains both 0 and the paper's value "
        "(six-task average; not comparable: another model than the paper's)"
    )
    narrow = main._replace(ours=Delta(against="sft", difference=1.7, low=1.0, high=2.4, n=9, p=0.001, method="t"))
    assert "(35 %; the paper's value lies outside our interval" in size_text(narrow)
    above = main._replace(ours=Delta(against="sft", difference=3.0, low=1.0, high=5.0, n=9, p=0.01, method="t"))
    assert "of the paper's +4.83 (62 %; the paper's value lies inside our interval" in size_text(above)
    assert narrow.from_paper is not None
    assert (narrow.from_paper.low, narrow.from_paper.high) == (pytest.approx(1.0 - 4.83), pytest.approx(2.4 - 4.83))


def test_a_row_without_scores_is_no_row_without_a_claim(tmp_path: Path) -> None:
    """Promise: where the last iteration was never scored, the sentence says so, and the paper's gain still stands in its line."""
    six = tuple(Task(name=name, metric="acc") for name in LEADERBOARD_TASKS)
    run = write_run(tmp_path, small_recipe(tasks=six), lambda row, task: None if row == "iter1" else questions(row, task))
    table = collect(run)
    main = main_effect(table)
    assert main is not None
    assert (main.row, main.ours, main.paper, main.share) == ("iter1", None, 3.98, None)
    assert size_text(main) == "iter1 - sft: no difference yet (six-task average)"
    lines = {row[0]: row[1:] for row in size_block(table).rows}
    assert lines["iter1 - sft, six-task average"] == ("–", "+3.98", "–", "–", "no (1)")  # noqa: RUF001
    assert not any("mean of 0" in name for name in lines)


def test_first_table_gives_size_and_reason(real: ResultTable) -> None:
    """Every row against sft, then the tasks; another model's gain is printed beside the paper's and marked as not comparable."""
    block = size_block(real)
    assert render(real, "markdown").split("\n## ")[1].startswith("Size of the effect")
    assert [row[0] for row in block.rows[:3]] == [f"iter{t} - sft, six-task average" for t in range(3)]
    assert {row[-1] for row in block.rows} == {"no (1)"}
    assert "(1) another model than the paper's." in block.lines


def test_no_share_where_the_interval_holds_0_and_the_paper_s_gain(real: ResultTable) -> None:
    """Promise: 8 questions of ARC, +12.50 [-30.27, +50.27] beside the paper's +5.55, print no '225 %'; one that tells has its share."""
    shares = {row[0].removeprefix("iter2 - sft, "): row[4] for row in size_block(real).rows}
    assert (shares["arc_challenge"], shares["gsm8k"], shares["truthfulqa_mc2"]) == ("cannot tell", "cannot tell", "-5 %")
    assert (shares["winogrande"], shares["mt_bench"]) == ("–", "–")  # noqa: RUF001
    assert any(line.startswith("Cannot tell: ") for line in size_block(real).lines)


def test_no_share_of_a_gain_on_other_tasks(tmp_path: Path) -> None:
    """A mean over tasks of one's own has no share of the paper's, and the sentence says why."""
    table = read_table([write_run(tmp_path, small_recipe())])
    main = main_effect(table)
    assert main is not None
    assert (main.share, main.from_paper) == (None, None)
    assert "no share of the paper's +3.98: other tasks than the paper's six, another model than the paper's" in size_text(main)


def test_no_share_of_a_loss(real: ResultTable) -> None:
    """The paper lost on winogrande: a share of that would mislead."""
    found = next(one for one in effects(real) if one.what == "winogrande")
    assert found.paper is not None
    assert found.paper < 0
    assert found.share is None


def test_published_model_gives_the_cell_s_own_reasons(tmp_path: Path) -> None:
    """Where the recipe names a published model, the reasons are those of the scores."""
    table = read_table([write_run(tmp_path, small_recipe(claims="zephyr-7b-sft-full"))])
    found = next(one for one in effects(table) if one.what == "gsm8k")
    assert isinstance(table, ResultTable)
    assert found.reasons == table.cell("iter1", "gsm8k").reasons
    assert found.reasons


PUBLISHED = "zephyr-7b-sft-full"


def without_scores(path: Path, recipe: Recipe) -> ResultTable:
    """The table of a run of which nothing was scored: what may be compared follows from the recipe alone."""
    return collect(write_run(path, recipe, lambda row, task: None))


def reasons_of(table: ResultTable | SeedTable) -> dict[tuple[str, str], tuple[str, ...]]:
    """{(row, against): why its average may not be compared} of the effects that the paper prints."""
    return {(one.row, one.against): one.reasons for one in effects(table) if one.column is None and one.paper is not None}


def test_a_difference_has_the_reasons_of_both_rows(tmp_path: Path) -> None:
    """Promise: iteration 3 as the paper trained it, less a row whose training the paper does not state, is not called comparable."""
    table = without_scores(tmp_path, load("zephyr-7b-baselines"))
    reasons = reasons_of(table)
    unknown = {row: (f"how the published {row} was trained is not stated in full",) for row in ("dpo", "sft+1epoch", "iter3+dpo")}
    assert reasons["iter3", "sft"] == ()
    assert reasons["iter3", "dpo"] == unknown["dpo"]
    assert reasons["iter3", "sft+1epoch"] == unknown["sft+1epoch"]
    assert reasons["iter3+dpo", "iter3"] == reasons["iter3+dpo", "sft"] == unknown["iter3+dpo"]  # no reason stands twice


def test_a_misprinted_mean_is_corrected_and_named(tmp_path: Path) -> None:
    """Promise: the paper's gain is that of its own cells where it misprints the mean, and a line says so where such a row is shown."""
    table = without_scores(tmp_path / "with", load("zephyr-7b-baselines"))
    gains = {(one.row, one.against): one.paper for one in effects(table) if one.column is None}
    assert (gains["iter3+dpo", "iter3"], gains["iter3+dpo", "sft"], gains["iter3", "sft"]) == (1.57, 6.6, 5.02)
    told = [line for line in size_block(table).lines if line.startswith("Misprint")]
    where = "V3 Tables 3 to 5, row SPIN iter3 + DPO"
    assert told == [
        f"Misprint, corrected here: average of SPIN iter3 + DPO, printed 64.05, by its own cells 64.74 ({where}).",
        f"Misprint, corrected here: gain of SPIN iter3 + DPO over iter3, printed 0.89, by its own cells 1.57 ({where}).",
    ]
    assert "printed 64.05" in render(table, "paper")
    without = size_block(without_scores(tmp_path / "without", load("zephyr-7b"))).lines
    assert not any("Misprint" in line for line in without)


def test_a_task_s_difference_has_sft_s_reasons_too(tmp_path: Path) -> None:
    """Promise: what bars the score of `sft` alone, questions that were not scored, bars the difference from it."""
    recipe = small_recipe(claims=PUBLISHED)

    def values(row: str, task: Task) -> Values:
        return {name: None if (row, name) == ("sft", "q0") else value for name, value in questions(row, task).items()}

    table = collect(write_run(tmp_path, recipe, values))
    found = next(one for one in effects(table) if one.what == "gsm8k")
    assert "1 of 40 unscored" in found.reasons
    assert "1 of 40 unscored" not in table.cell("iter1", "gsm8k").reasons


def test_the_paper_s_model_is_not_called_another(tmp_path: Path) -> None:
    """Promise: where the model is the paper's, other tasks and the training are the reasons; another model is one where it is another."""
    ten_tasks = reasons_of(without_scores(tmp_path / "ten", load("zephyr-7b-spin-of-t-spin")))
    assert ten_tasks["iter0", "sft"] == (OTHER_TASKS,)
    assert ten_tasks["iter1", "sft"] == (OTHER_TASKS, "iterations.1.pairs_from: ours (1,), the paper's (0, 1)")
    assert reasons_of(without_scores(tmp_path / "another", small_recipe()))["iter1", "sft"] == (OTHER_TASKS, OTHER_MODEL)


def test_seeds_say_why_an_average_may_not_be_compared(tmp_path: Path) -> None:
    """Promise: seeds of the paper's own model and tasks are comparable save for what bars a row; those of another model are not."""

    def seeds(recipe: Recipe) -> SeedTable:
        folders = [tmp_path / f"{recipe.name}-{seed}" for seed in (1, 2)]
        recipes = [replace(recipe, name=folder.name, seed=seed) for seed, folder in enumerate(folders)]
        return combine([write_run(folder, own, lambda row, task: None) for folder, own in zip(folders, recipes, strict=True)])

    base = load("zephyr-7b-baselines")
    asked = base.benchmarks[0]
    tasks = tuple(task for task in asked.tasks if task.name in LEADERBOARD_TASKS)
    six = replace(base, name="six", benchmarks=(asked.model_copy(update={"tasks": tasks}),))
    reasons = reasons_of(seeds(six))
    assert reasons["iter3", "sft"] == ()
    assert reasons["iter3", "dpo"] == ("how the published dpo was trained is not stated in full",)
    other = seeds(replace(six, name="other", claims=None))
    assert other.reasons == {}
    assert reasons_of(other)["iter3", "sft"] == (OTHER_MODEL,)


def test_study_is_told_in_a_sentence() -> None:
    """On how many seeds the last iteration beats each baseline or is beaten, and the variants the last iteration."""
    table = committed_table(RESULTS / "tiny-study")
    assert isinstance(table, SeedTable)
    assert study_sentence(table) == (
        "5 seeds: SPIN (iter2) is better than its SFT model on each, than iter0-longer on 4, than dpo on 1; "
        "worse than control and control-compute on 3; "
        "against iter2, better: space iter2 on 1; worse: t-spin iter2 on each; within noise: hinge iter2 on each"
    )
    assert [one.row for one in effects(table)][:2] == ["iter2", "iter2"]


def test_a_study_of_another_objective_is_told_under_its_name(tmp_path: Path) -> None:
    """Promise: seeds that were trained with SPACE are not called SPIN."""
    base = small_recipe()
    iterations = tuple(one.model_copy(update={"parameters": {"mu": 1.0}}) for one in base.iterations)
    recipe = replace(base, name="space", objective="space", iterations=iterations)
    table = combine([write_run(tmp_path / str(seed), replace(recipe, name=f"seed{seed}", seed=seed)) for seed in (1, 2)])
    assert study_sentence(table).startswith("2 seeds: space (iter1) is better than its SFT model")
