"""The tables people read: gains, MT-Bench's parts, the published numbers beside ours, and narrow terminals."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.artifact import RunDir
from harness.files import dump
from harness.plan import plan
from harness.recipe import Task, replace
from harness.report.blocks import all_blocks
from harness.report.formatting import Block, fit
from harness.report.tables import collect, print_tables, render
from tests.committed import RESULTS, committed_table
from tests.synthetic_runs import finish, score_of, small_recipe, write_run

POWER = RESULTS / "smollm2-135m-power"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run compared with the paper, with MT-Bench's details and one task under the paper's own rules."""
    base = small_recipe(tasks=(Task(name="gsm8k", shots=5, metric="exact_match"),), claims="zephyr-7b-sft-full")
    pinned = base.benchmarks[0].model_copy(update={"protocol": "lm-eval@46c7966"})
    recipe = replace(base, name="pinned", benchmarks=(pinned, *base.benchmarks[1:]))
    path = write_run(tmp_path_factory.mktemp("run"), recipe)
    stages = {stage.path: stage for stage in plan(recipe)}
    for row, solved in (("iter0", 440), ("iter1", 500)):
        score = score_of(pinned, pinned.tasks[0], {str(i): 100.0 * (i < solved) for i in range(1319)})
        finish(RunDir(path), stages[f"{row}/eval/open_llm"], {"scores/gsm8k.json": dump(score)})
    judged = score_of(recipe.benchmarks[1], recipe.benchmarks[1].tasks[0], {"81-1": 8.0, "81-2": 6.0})
    details = {"turns": {"1": {"mean": 8.0, "n": 1}, "2": {"mean": 6.0, "n": 1}}, "categories": {"writing": {"mean": None, "n": 0}}}
    finish(RunDir(path), stages["iter0/eval/mt_bench"], {"scores/mt_bench.json": dump(judged.model_copy(update={"details": details}))})
    return path


def test_gains_are_against_the_iteration_before(run: Path) -> None:
    """iter0 against sft, iter1 against iter0, and the gains the paper prints below."""
    table = collect(run)
    assert [(one.row, one.against) for one in table.gains] == [("iter0", "sft"), ("iter1", "iter0")]
    assert table.gains[1].tasks["gsm8k"].difference == pytest.approx(100 * 60 / 1319, rel=1e-5)
    assert "paper/mt_bench prints as gains on mt_bench: iter0 +0.52, iter1 +0.19" in render(table, "markdown")


def test_mt_bench_has_its_turns_and_categories(run: Path) -> None:
    """Means by turn and by category; what no judge read is unscored and what was not evaluated is not run."""
    text = render(collect(run), "markdown")
    block = text[text.index("## mt_bench by turn and category") :]
    assert "| iter0 | 8.00 | 6.00 | unscored |" in block
    assert "| sft | not run | not run | not run |" in block


def test_difference_from_the_paper_only_where_it_may_be_taken(run: Path) -> None:
    """Same rules: ours less theirs with the errors of both. Other rules: both numbers, no difference, the reason."""
    table = collect(run)
    gap = table.cell("iter0", "gsm8k").from_published
    assert gap is not None
    assert gap.difference == pytest.approx(100 * 440 / 1319 - 35.10, abs=1e-4)
    assert gap.low is not None
    assert gap.difference - gap.low == pytest.approx(1.96 * 1.84, rel=0.01)  # sqrt(1.30^2 + 1.31^2)
    assert table.cell("iter0", "mt_bench").from_published is None
    text = render(table, "markdown")
    beside = text[text.index("## Beside the published numbers") :]
    line = next(line for line in beside.splitlines() if line.startswith("| iter0 gsm8k | 33.36 ± 1.30, n 1319 | 35.10 | -1.74 ["))
    assert line.endswith("] | evaluation and training |")
    assert "judge: ours mt_bench_single, the paper's not stated." in beside


def test_reruns_of_others_are_shown_with_their_rules(run: Path) -> None:
    """Independent re-runs have tables of their own, never comparable where their harness is unknown."""
    table = collect(run)
    rerun = next(one for one in table.published if one.table == "rerun/joyyang158")
    assert rerun.rows["iter0"]["gsm8k"] == 28.89
    assert rerun.reasons["gsm8k"][0] == "harness not stated"


def test_terminal_of_80_columns_cuts_between_columns(run: Path) -> None:
    """Every line fits, no name is cut short, and a table too wide goes on under the same first column."""
    console = Console(file=io.StringIO(), width=80)
    print_tables(collect(run), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert "mt_bench" in text


def test_wide_block_is_cut_and_keeps_its_lines_last() -> None:
    """Intervals move below their difference; each part repeats the first column; notes stand under the last part."""
    cells = ("+1.00 [+0.50, +1.50]: better", "+2.00 [+1.50, +2.50]: better")
    block = Block("t", ("", "a", "b"), (("row", *cells), ("other", *cells)), ("note",))
    assert fit(block, 100) == [block]
    first, second = fit(block, 25)
    assert first.rows[0] == ("row", "+1.00\n[+0.50, +1.50]\nbetter")
    assert (first.header, second.header) == (("", "a"), ("", "b"))
    assert (first.lines, second.lines) == ((), ("note",))


def test_a_block_that_fits_on_its_side_is_turned() -> None:
    """Tasks go down rather than into a second grid, where that is narrow enough."""
    names = ("first_long_task", "second_long_task", "third_long_task")
    block = Block("t", ("", *names), (("sft", "1.0", "2.0", "3.0"), ("iter0", "1.5", "2.5", "3.5")), ("note",))
    (turned,) = fit(block, 40)
    assert turned.header == ("", "sft", "iter0")
    assert turned.rows[0] == ("first_long_task", "1.0", "1.5")
    assert turned.lines == ("note",)


def test_scores_against_an_own_opponent_are_not_compared_silently() -> None:
    """Promise: wherever held-out margins stand side by side, a line says that rows may have other opponents; other runs lack it."""
    told = {block.title for block in all_blocks(committed_table(POWER)) if any("its own opponent" in line for line in block.lines)}
    assert told == {"Scores", "Difference from sft", "Gain of each iteration", "Last iteration"}
    assert not [block for block in all_blocks(committed_table(RESULTS / "tiny")) if "own opponent" in " ".join(block.lines)]
