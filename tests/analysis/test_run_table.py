"""A table never says more than its records: missing is missing, noise is noise, other rules are other rules."""

import csv
import io
import json
import math
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from harness.analysis.comparability import LEADERBOARD_TASKS, published_tables, shown_tables
from harness.analysis.differences import UNDECIDED
from harness.analysis.published import claims
from harness.analysis.table_schema import ResultTable, SeedTable
from harness.artifact import DONE_FILE, Accepted, RunDir, write_recipe
from harness.contracts import Score
from harness.errors import InputError, RecipeError
from harness.files import dump, read_model, write_atomic
from harness.plan import plan
from harness.recipe import Recipe, Task, load, replace
from harness.report.tables import collect, combine, print_tables, render, write_tables
from harness.runs import runner
from tests.synthetic_runs import LAUNCH, Values, finish, questions, score_of, small_recipe, write_run

SIX = tuple(Task(name=name, shots=shots, metric=metric) for name, shots, metric in (
    ("arc_challenge", 25, "acc_norm"), ("truthfulqa_mc2", 0, "acc"), ("winogrande", 5, "acc"), ("gsm8k", 5, "exact_match"),
    ("hellaswag", 10, "acc_norm"), ("mmlu", 5, "acc"),
))  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "a", small_recipe())


def terminal(table: ResultTable | SeedTable, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_tables(table, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_rows_and_columns_are_the_recipes(run: Path) -> None:
    """sft, controls, iterations; tasks in the recipe's order; no average while the six leaderboard tasks are not all there."""
    table = collect(run)
    assert table.rows == ("sft", "control", "iter0", "iter1")
    assert [column.label for column in table.columns] == ["gsm8k", "openbookqa", "mt_bench", "kl"]
    assert len(table.cells) == 16


def test_cell_holds_the_score_and_its_difference(run: Path) -> None:
    """Value, error and n are the score's, its interval holds it; the difference is over the same questions."""
    cell = collect(run).cell("iter1", "gsm8k")
    scored = read_model(Score, run / "iter1/eval/open_llm/scores/gsm8k.json")
    reference = read_model(Score, run / "sft/eval/open_llm/scores/gsm8k.json")
    assert (cell.value, cell.stderr, cell.n) == (scored.value, scored.stderr, 40)
    assert cell.delta is not None
    assert cell.delta.difference == pytest.approx(scored.value - reference.value)  # type: ignore[operator]
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < cell.value < cell.high  # type: ignore[operator]


def test_unread_verdicts_are_unscored_and_never_zero(run: Path) -> None:
    """MT-Bench without a judge prints its counts."""
    table = collect(run)
    assert table.cell("iter0", "mt_bench").value is None
    assert "unscored 16/16" in render(table, "markdown")
    assert "unscored 16/16" in terminal(table)


def test_lower_is_better_is_said_and_used(run: Path) -> None:
    """kl carries its mark, and a fall is 'better'."""
    text = render(collect(run), "markdown")
    assert "kl ↓" in text
    assert "lower is better" in text
    outcome = text[text.index("## Last iteration") :]
    line = next(line for line in outcome.splitlines() if line.startswith("| kl ↓"))
    assert re.match(r"\| kl ↓ \| -0\.\d+ \[-0\.\d+, -0\.\d+\]: better \|", line)


def test_unfinished_evaluation_is_not_run(tmp_path: Path) -> None:
    """A stage without done.json has no numbers, whatever lies in its directory, and the goal stays undecided."""
    run = write_run(tmp_path, small_recipe())
    (run / "iter1/eval/open_llm" / DONE_FILE).unlink()
    table = collect(run)
    assert table.cell("iter1", "gsm8k").status == "not run"
    assert "not run" in terminal(table)
    assert table.comparisons[0].verdict == "undecided: no difference yet on gsm8k, openbookqa"
    assert "(0 of 2 tasks)" in render(table, "markdown")


def test_changed_score_is_refused(tmp_path: Path) -> None:
    """A score whose bytes are not the recorded ones never reaches a table; nor does one that is gone."""
    run = write_run(tmp_path, small_recipe())
    path = run / "sft/eval/open_llm/scores/gsm8k.json"
    path.write_bytes(path.read_bytes().replace(b"100.0", b"000.0", 1))
    with pytest.raises(InputError, match="another sha256"):
        collect(run)
    path.unlink()
    with pytest.raises(InputError, match="missing though"):
        collect(run)


def test_directory_without_a_recipe_is_named(tmp_path: Path) -> None:
    """The error says what was expected."""
    with pytest.raises(InputError, match=r"holds no recipe\.json"):
        collect(tmp_path)


def test_tables_need_only_committed_records(run: Path, tmp_path: Path) -> None:
    """Without logs, checkpoints and responses the tables are the same bytes."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("log.jsonl", "tables"))
    first = [path.read_bytes() for path in write_tables(run)]
    assert [path.read_bytes() for path in write_tables(copy)] == first
    assert str(run).encode() not in b"".join(first)


def test_json_is_the_documented_layout(run: Path) -> None:
    """tables.json reads back as a ResultTable."""
    table = collect(run)
    assert ResultTable.model_validate_json(render(table, "json")) == table
    assert json.loads(render(table, "json"))["layout"] == 2


def test_csv_has_a_line_a_cell(run: Path) -> None:
    """Unknown is empty, not 0."""
    lines = list(csv.DictReader(io.StringIO(render(collect(run), "csv"))))
    assert len(lines) == 16
    unscored = next(line for line in lines if line["row"] == "sft" and line["task"] == "mt_bench")
    assert (unscored["value"], unscored["n_unscored"], unscored["status"]) == ("", "16", "unscored")


def test_gain_beyond_noise_meets_the_goal(run: Path) -> None:
    """The last iteration is held against sft and every control, over the tasks in percent."""
    against_sft, against_control = collect(run).comparisons
    assert (against_sft.row, against_sft.against, against_control.against) == ("iter1", "sft", "control")
    assert against_sft.mean_over == ("gsm8k", "openbookqa")
    assert against_sft.mean is not None
    assert against_sft.mean.low is not None
    assert against_sft.mean.low > 0
    assert against_sft.verdict.startswith("goal met")


def test_no_gain_is_said_plainly(tmp_path: Path) -> None:
    """The same answers from every row: within noise."""
    run = write_run(tmp_path, small_recipe(), lambda row, task: questions("sft", task))
    assert collect(run).comparisons[0].verdict == "goal not met: within noise, the interval contains 0"
    loss = write_run(tmp_path / "loss", small_recipe(), lambda row, task: questions({"sft": "iter1"}.get(row, "sft"), task))
    assert collect(loss).comparisons[0].verdict == "goal not met: the interval lies below 0"


def test_average_needs_all_six_tasks(tmp_path: Path) -> None:
    """Complete it is their plain mean; with one evaluation unscored it has no value and says how many there are."""

    def five_in_iter0(row: str, task: Task) -> Values | None:
        return {"q0": None, "q1": None} if (row, task.name) == ("iter0", "mmlu") else questions(row, task)

    table = collect(write_run(tmp_path, small_recipe(tasks=SIX), five_in_iter0))
    mean = sum(table.cell("sft", task).value or 0.0 for task in LEADERBOARD_TASKS) / 6
    assert table.cell("sft", "average").value == pytest.approx(mean)
    assert table.cell("iter0", "average").status == "incomplete"
    assert table.cell("iter0", "average").value is None
    assert "5 of 6 tasks" in render(table, "markdown")
    difference = table.cell("iter1", "average").delta
    assert difference is not None
    assert difference.method == "mean of 6 paired differences"


def six_tasks(row: str, task: Task) -> Values:
    """Every second of 160 answers is right, and iterations gain all ten of MMLU's small subject."""
    if task.name != "mmlu":
        return {f"q{i}": 100.0 * (i % 2) for i in range(160)}
    return {f"q{i}": 100.0 * (row.startswith("iter") if i < 10 else i % 2) for i in range(160)}


def with_subjects(run: Path, recipe: Recipe, *, counted: bool) -> Path:
    """Turn the MMLU scores of `run` into means over a subject of 10 questions and one of 150."""
    for stage in plan(recipe):
        if not stage.path.endswith("eval/open_llm"):
            continue
        folder = run / stage.path / "scores"
        scores = {path.name: read_model(Score, path) for path in sorted(folder.glob("*.json"))}
        score = scores["mmlu.json"]
        means = [sum(v or 0.0 for v in part) / len(part) for part in ([*score.values.values()][:10], [*score.values.values()][10:])]
        details = {"subtasks": {"small": means[0], "large": means[1]}, **({"questions": {"small": 10, "large": 150}} if counted else {})}
        protocol = {**score.protocol, "aggregation": "mean over subtasks", "subtasks": 2}
        update = {"value": sum(means) / 2, "stderr": 2.0, "details": details, "protocol": protocol}
        scores["mmlu.json"] = score.model_copy(update=update)
        finish(RunDir(run), stage, {f"scores/{name}": dump(one) for name, one in scores.items()})
    return run


def test_the_averages_difference_is_the_difference_of_the_averages(tmp_path: Path) -> None:
    """MMLU as a mean over subjects: 25 and 75 where the questions' mean gains 6.25; averages 45.83 and 54.17, difference +8.33."""
    recipe = small_recipe(tasks=SIX)
    table = collect(with_subjects(write_run(tmp_path, recipe, six_tasks), recipe, counted=True))
    before, after = table.cell("sft", "average"), table.cell("iter1", "average")
    assert (before.value, after.value) == (pytest.approx(45.833, abs=1e-3), pytest.approx(54.167, abs=1e-3))
    mmlu, average = table.cell("iter1", "mmlu").delta, after.delta
    assert mmlu is not None
    assert average is not None
    assert (mmlu.difference, average.difference) == (50.0, pytest.approx(25 / 3, abs=1e-4))
    assert table.comparisons[0].tasks["average"] == average
    assert average.low is not None
    assert average.low < average.difference
    assert table.findings[0].evidence[0].startswith("iter1 - sft: +8.33 [")


def test_a_record_that_cannot_be_weighted_has_a_difference_without_interval(tmp_path: Path) -> None:
    """Older records do not tell whose each question is: the scores subtract, the note says why there is no interval, nothing is tested."""
    recipe = small_recipe(tasks=SIX)
    table = collect(with_subjects(write_run(tmp_path, recipe, six_tasks), recipe, counted=False))
    cell, average = table.cell("iter1", "mmlu"), table.cell("iter1", "average").delta
    assert cell.delta is not None
    assert (cell.delta.difference, cell.delta.low) == (50.0, None)
    assert cell.notes[0].startswith("no interval: the score is a mean over subtasks")
    assert average is not None
    assert (average.difference, average.low) == (pytest.approx(25 / 3, abs=1e-4), None)
    assert table.findings[0].verdict == "not tested"


def test_alike_answers_have_an_interval_and_no_error(tmp_path: Path) -> None:
    """0 of 8: the exact interval reaches to 36.94; the average is uncertain by it, and no limit leaves 0 to 100."""

    def none_right(row: str, task: Task) -> Values:
        return {f"q{i}": 0.0 if task.name == "gsm8k" else 100.0 * (i % 2) for i in range(8)}

    table = collect(write_run(tmp_path, small_recipe(tasks=SIX), none_right))
    cell, average = table.cell("sft", "gsm8k"), table.cell("sft", "average")
    assert (cell.value, cell.stderr, cell.low, cell.high) == (0.0, None, 0.0, pytest.approx(36.94, abs=0.005))
    assert "| 0.00 [0.00, 36.94] |" in render(table, "markdown")
    assert average.stderr is None
    assert average.high is not None
    other = table.cell("sft", "mmlu")
    assert average.high - average.value == pytest.approx(  # type: ignore[operator]
        math.sqrt(36.94**2 + 5 * (other.high - other.value) ** 2) / 6, abs=0.01  # type: ignore[operator]
    )  # fmt: skip


def test_equal_gains_give_no_verdict(tmp_path: Path) -> None:
    """Three seeds that each gain 0.5 points on MT-Bench, and two questions that each gain 1: a mean, no interval, undecided."""

    def rated(row: str, task: Task) -> Values:
        if task.name != "mt_bench":
            return questions("sft", task)
        return {f"{81 + i // 2}-{i % 2 + 1}": 5.0 + (row == "iter1") for i in range(4)}

    runs = [write_run(tmp_path / f"s{seed}", small_recipe(f"s{seed}", seed=seed), rated) for seed in range(3)]
    one = collect(runs[0])
    cell = one.cell("iter1", "mt_bench")
    assert cell.delta is not None
    assert (cell.delta.difference, cell.delta.low, cell.delta.p, cell.stderr) == (1.0, None, None, None)
    assert next(found for found in one.findings if found.claim == "SPIN raises MT-Bench").verdict == "not tested"
    against_sft = next(found for found in combine(runs).comparisons if (found.against, found.column) == ("sft", "mt_bench"))
    assert against_sft.over_seeds is not None
    assert (against_sft.over_seeds.difference, against_sft.over_seeds.low) == (1.0, None)
    assert against_sft.verdict == UNDECIDED


def test_published_numbers_come_with_every_reason_against_them(tmp_path: Path) -> None:
    """Another harness, fewer questions, an unnamed judge: each is printed, and the paper's value is never in our columns."""
    run = write_run(tmp_path, small_recipe(claims="zephyr-7b-sft-full"))
    table = collect(run)
    cell = table.cell("iter0", "gsm8k")
    assert cell.published is not None
    assert (cell.published.value, cell.comparable) == (35.10, False)
    assert cell.reasons == ("protocol: ours current, theirs lm-eval@46c7966", "limited to 40 questions")
    text = render(table, "markdown")
    assert "## Published: paper/leaderboard" in text
    assert "Not comparable with ours, gsm8k: protocol: ours current" in text
    assert "judge: ours mt_bench_single, the paper's not stated" in text
    assert "Of 4 gains over the row before, 1 exceed their own unpaired 95 % sampling error: iter0 gsm8k +8.34." in text
    ours = text[: text.index("## Published")]
    assert "35.10" not in ours


def test_same_protocol_stands_beside_the_published_number(tmp_path: Path) -> None:
    """Only under the paper's own harness, shots, precision and question count does ours stand in its column."""
    base = small_recipe(tasks=(Task(name="gsm8k", shots=5, metric="exact_match"),), claims="zephyr-7b-sft-full")
    pinned = base.benchmarks[0].model_copy(update={"protocol": "lm-eval@46c7966"})
    recipe = replace(base, name="pinned", benchmarks=(pinned,))
    run = write_run(tmp_path, recipe, lambda row, task: {str(i): 100.0 * (i < 440) for i in range(1319)})
    cell = collect(run).cell("iter0", "gsm8k")
    assert (cell.comparable, cell.reasons) == (True, ())
    assert "35.10 (33.36)" in render(collect(run), "markdown")


def test_two_protocols_stand_side_by_side(tmp_path: Path) -> None:
    """Each has its column, named by its protocol, and only the published number of that protocol is comparable with it."""
    base = small_recipe(tasks=(Task(name="gsm8k", shots=5, metric="exact_match"),), claims="zephyr-7b-sft-full")
    protocols = ("lm-eval@46c7966", "open-llm-leaderboard-v1", "current")
    recipe = replace(base, name="side", benchmarks=tuple(base.benchmarks[0].model_copy(update={"protocol": p}) for p in protocols))
    table = collect(write_run(tmp_path, recipe, lambda row, task: {str(i): 100.0 * (i < 440) for i in range(1319)}))
    assert [column.label for column in table.columns] == [f"open_llm/{protocol}/gsm8k" for protocol in protocols]
    cells = [table.cell("iter0", column.label) for column in table.columns]
    assert [cell.published.value if cell.published else None for cell in cells] == [35.10, 36.69, 35.10]
    assert [cell.reasons for cell in cells[:2]] == [(), ()]
    assert cells[2].reasons == ("protocol: ours current, theirs lm-eval@46c7966",)


@pytest.mark.parametrize("name", ["zephyr-7b", "zephyr-7b-release"])
def test_paper_recipes_name_their_claims(name: str) -> None:
    """The recipes of the paper's model find the paper's tables."""
    assert {"paper/leaderboard", "paper/mt_bench", "paper/big_bench"} <= set(published_tables(load(name)))


def test_unknown_claims_are_an_error() -> None:
    """A misspelt model gets a suggestion."""
    with pytest.raises(RecipeError, match="did you mean 'zephyr-7b-sft-full'"):
        published_tables(small_recipe(claims="zephyr-7b-sft-ful"))


def test_scores_under_other_rules_are_marked_and_not_subtracted(tmp_path: Path) -> None:
    """A row made with another protocol keeps its number, gets a note, and no difference."""
    recipe = small_recipe()
    run = write_run(tmp_path, recipe)
    stage = next(stage for stage in plan(recipe) if stage.path == "iter1/eval/open_llm")
    benchmark = recipe.benchmarks[0]
    scores = {task.name: score_of(benchmark, task, questions("iter1", task)) for task in benchmark.tasks}
    scores["gsm8k"] = scores["gsm8k"].model_copy(update={"protocol": {"rules": "older", "dtype": "bf16"}})
    finish(RunDir(run), stage, {f"scores/{name}.json": dump(score) for name, score in scores.items()})
    cell = collect(run).cell("iter1", "gsm8k")
    assert cell.delta is None
    assert cell.notes[0] == "other rules than the rows above: protocol.rules 'older', there 'current'"
    assert "(1) other rules than the rows above" in render(collect(run), "markdown")


def test_work_of_another_identity_is_named(tmp_path: Path) -> None:
    """Numbers made under an older recipe, or kept by hand, are shown and said to be so."""
    run = write_run(tmp_path, small_recipe())
    changed = replace(small_recipe(), name="synthetic", seed=7)
    write_atomic(run / "recipe.json", dump(changed))
    assert "made under another identity" in collect(run).notes[0]
    write_atomic(run / "recipe.json", dump(small_recipe()))
    launch = RunDir(run).launch("iter0/train")
    assert launch is not None
    accepted = Accepted(fingerprint="0", difference=[("spec.beta", 0.2, 0.1)], because="the log shows it ran with 0.1")
    write_atomic(run / "iter0/train/stage.json", dump(launch.model_copy(update={"accepted": [accepted]})))
    note = "iter0/train was kept with spec.beta 0.2 where the recipe says 0.1, because the log shows it ran with 0.1"
    assert collect(run).notes == (note,)


def test_text_from_outside_cannot_break_the_layout(tmp_path: Path) -> None:
    """Markup in a summary or a note stays text."""
    run = write_run(tmp_path, replace(small_recipe(), name="loud", summary="a | b <img src=x> [x](http://y) [red]r[/red] *z*\n# h"))
    table = collect(run)
    text = render(table, "markdown")
    assert r"a \| b &lt;img src=x> [x]\(http://y) [red]r[/red] \*z\* # h" in text
    assert "gsm8k" in terminal(table)


def test_seeds_are_averaged_with_their_spread(tmp_path: Path) -> None:
    """Three runs: mean and deviation a cell; per run, pooled and over-seeds differences of the last iteration."""
    runs = [
        write_run(tmp_path / f"s{seed}", small_recipe(f"s{seed}", seed=seed), lambda row, task, s=seed: questions(row, task, s))  # type: ignore[misc]
        for seed in range(3)
    ]
    table = combine(runs)
    values = [collect(run).cell("iter1", "gsm8k").value for run in runs]
    found = next(one for one in table.spreads if (one.row, one.column) == ("iter1", "gsm8k"))
    assert found.mean == pytest.approx(sum(value or 0.0 for value in values) / 3)
    mean = table.comparisons[0]
    assert (mean.row, mean.against, mean.column, len(mean.per_run)) == ("iter1", "sft", "mean over tasks", 3)
    assert mean.pooled is not None
    assert mean.over_seeds is not None
    assert mean.pooled.difference == pytest.approx(mean.over_seeds.difference)
    assert mean.verdict.startswith("goal met")
    assert SeedTable.model_validate_json(render(table, "json")) == table
    assert "0 of 3 runs" in render(table, "markdown")
    assert "pooled" in terminal(table)


def test_runs_of_different_recipes_are_not_averaged(tmp_path: Path) -> None:
    """Only the seeds may differ; the error names what else does."""
    one = write_run(tmp_path / "a", small_recipe())
    other = write_run(tmp_path / "b", replace(small_recipe(), name="other", max_length=1536))
    with pytest.raises(InputError, match="differ in max_length"):
        combine([one, other])
    optimizer = small_recipe().optimizer.model_copy(update={"name": "adamw"})
    of_adamw = write_run(tmp_path / "c", replace(small_recipe(seed=7), name="adamw", optimizer=optimizer))
    with pytest.raises(InputError, match=r"differ in optimizer\.name"):
        combine([one, of_adamw])
    with pytest.raises(InputError, match="no run to combine"):
        combine([])


def test_runs_of_the_same_seeds_are_no_seeds(tmp_path: Path) -> None:
    """Promise: a run made again, or given twice, is refused: a spread over runs of one seed would be of something else."""
    one, again = (write_run(tmp_path / name, small_recipe()) for name in "ab")
    with pytest.raises(InputError, match="two runs of synthetic have the same seeds"):
        combine([one, again])


def test_runs_of_one_name_are_named_by_their_directories(tmp_path: Path) -> None:
    """Promise: two seeds of a recipe that kept its name are two runs of the table."""
    runs = [write_run(tmp_path / f"s{seed}", small_recipe(seed=seed)) for seed in range(2)]
    assert combine(runs).runs == ("s0", "s1")
    deeper = [write_run(tmp_path / f"{place}/run", small_recipe(seed=seed)) for seed, place in enumerate("ab")]
    assert combine(deeper).runs == tuple(map(str, deeper))


def test_a_table_says_what_was_kept_by_hand(tmp_path: Path) -> None:
    """Promise: a kept stage is named once, with what differs and the reason; what was made from it is kept with it, without a line."""
    held_out = next(benchmark for benchmark in load("zephyr-7b").benchmarks if benchmark.name == "held_out")
    recipe = replace(small_recipe("base"), name="synthetic", benchmarks=(held_out,))
    run = write_run(tmp_path / "run", recipe, lambda row, task: {str(i): float(i) for i in range(9)})
    changed = replace(recipe, name="synthetic", iterations=tuple(one.model_copy(update={"beta": 0.5}) for one in recipe.iterations))
    for path in ("iter0/train", "iter1/train"):
        runner.accept(changed, RunDir(run), path, "the same to us")
    assert {RunDir(run).state(stage) for stage in plan(changed)} == {"done"}  # iter1/eval/held_out was made from both
    write_recipe(run, changed)
    told = [note for note in collect(run).notes if "kept with" in note or "another identity" in note]
    assert told == [f"iter{t}/train was kept with spec.beta 0.1 where the recipe says 0.5, because the same to us" for t in range(2)]


def test_launch_records_stay_out_of_the_tables(run: Path) -> None:
    """Commit, command and machine differ from launch to launch, so no table holds them."""
    written = "".join(path.read_text() for path in write_tables(run))
    assert str(LAUNCH["commit"]) not in written
    assert str(LAUNCH["command"]) not in written


def test_average_over_mixed_rules_is_not_taken(tmp_path: Path) -> None:
    """One of the six tasks under another protocol: its cell is flagged and the row's average has no value."""
    recipe = small_recipe(tasks=SIX)
    run = write_run(tmp_path, recipe)
    stage = next(stage for stage in plan(recipe) if stage.path == "iter1/eval/open_llm")
    benchmark = recipe.benchmarks[0]
    scores = {task.name: score_of(benchmark, task, questions("iter1", task)) for task in benchmark.tasks}
    scores["mmlu"] = scores["mmlu"].model_copy(update={"protocol": {"rules": "older", "dtype": "bf16"}})
    finish(RunDir(run), stage, {f"scores/{name}.json": dump(score) for name, score in scores.items()})
    cell = collect(run).cell("iter1", "average")
    assert (cell.status, cell.value, cell.notes) == ("incomplete", None, ("other rules: mmlu",))


def test_seeds_under_different_rules_are_not_averaged(tmp_path: Path) -> None:
    """Another version of lm-eval in one run: no mean, no pooled or over-seeds difference, and the rule that differs is named."""
    recipes = [small_recipe(f"s{seed}", seed=seed) for seed in range(2)]
    runs = [write_run(tmp_path / recipe.name, recipe) for recipe in recipes]
    stage = next(stage for stage in plan(recipes[1]) if stage.path == "iter1/eval/open_llm")
    benchmark = recipes[1].benchmarks[0]
    update = {"protocol": {"rules": "newer", "dtype": "bf16"}}
    newer = {task.name: score_of(benchmark, task, questions("iter1", task)).model_copy(update=update) for task in benchmark.tasks}
    finish(RunDir(runs[1]), stage, {f"scores/{name}.json": dump(score) for name, score in newer.items()})
    table = combine(runs)
    found = next(one for one in table.spreads if (one.row, one.column) == ("iter1", "gsm8k"))
    assert (found.mean, found.sd) == (None, None)
    against_sft = next(one for one in table.comparisons if one.column == "gsm8k")
    assert (against_sft.pooled, against_sft.over_seeds) == (None, None)
    assert "Not averaged, iter1 gsm8k: other rules than s0: protocol.rules 'newer', there 'current'" in render(table, "markdown")


def test_every_published_figure_stands_beside_its_source(tmp_path: Path) -> None:
    """All figures of the record that speak about the recipe's model are in its tables, under the place they were read in."""
    recipe = small_recipe(claims="zephyr-7b-sft-full")
    text = render(collect(write_run(tmp_path, recipe)), "markdown")
    sections = {section.split("\n", 1)[0]: section for section in text.split("\n## Published: ")}
    shown = shown_tables(recipe)
    assert {"paper/data_size", "paper/sft_epochs", "paper/iter0_epochs", "rerun/tspin_zephyr", "rerun/argilla_held_out"} <= set(shown)
    for table in shown:
        header, _, *lines = (line.strip("| ").split(" | ") for line in sections[table].splitlines() if line.startswith("|"))
        tasks, cells = header[-len(lines[0]) + 1 :], {line[0]: line[1:] for line in lines}
        for claim in claims(table):
            assert claim.where in sections[table]
            printed = dict(zip(tasks, cells[claim.row], strict=True))[claim.task]
            assert float(printed.split()[0]) == claim.value, claim


def test_the_paper_of_an_objective_is_shown_with_it() -> None:
    """T-SPIN's own rows stand in the tables of a recipe that trains with it, and in no other."""
    assert not [table for table in shown_tables(load("zephyr-7b")) if table.startswith("follow_up")]
    assert "follow_up/tspin_zephyr" in shown_tables(load("zephyr-7b-t-spin"))
