"""Two rows are compared on the same questions, and what changed sides can be read."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.analysis.differences import delta_text
from harness.analysis.table_schema import Delta
from harness.errors import HarnessError, InputError
from harness.recipe import Task, replace
from harness.report.head_to_head import compare, parse_side, print_comparison
from harness.report.tables import collect
from tests.reported_runs import HOSTILE, write_reported_run
from tests.synthetic_runs import MakeValues, small_recipe, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reported_run(tmp_path_factory.mktemp("run") / "a:b", small_recipe())


def test_differences_are_the_tables(run: Path) -> None:
    """`compare sft iter1` is iter1 - sft: the differences the tables print, and as many changed questions as they come from."""
    found = compare(parse_side(f"{run}:sft"), parse_side(f"{run}:iter1"), 2)
    cell = collect(run).cell("iter1", "gsm8k").delta
    task = next(one for one in found.tasks if one.task == "gsm8k")
    assert cell is not None
    assert task.difference is not None
    assert (task.difference.difference, task.difference.low, task.difference.p) == (cell.difference, cell.low, cell.p)
    assert task.says == "better"
    assert 100 * (task.gained - task.lost) / 40 == pytest.approx(cell.difference)
    assert [one.right > one.left for one in task.changed] == [True] * min(task.gained, 2) + [False] * min(task.lost, 2)


def test_answers_stand_side_by_side_as_text(run: Path) -> None:
    """MT-Bench answers of both rows, without running their markup or their control characters."""
    found = compare(parse_side(str(run)), parse_side(f"{run}:sft"), 50)
    task = next(one for one in found.tasks if one.task == "mt_bench")
    answers = {one.question: (one.left_answer, one.right_answer) for one in task.changed}
    assert answers["82-1"] == (f"{HOSTILE[1]} by iter1", f"{HOSTILE[1]} by sft")
    console = Console(file=io.StringIO(), width=100)
    print_comparison(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[31m" not in text
    assert "\u202e" not in text
    assert "[U+202E]" in text


def test_row_is_the_last_one_unless_named(run: Path) -> None:
    """A path with a colon in it is a path; an unknown row or run is one line."""
    assert parse_side(str(run)).row == "iter1"
    assert parse_side(f"{run}:control").row == "control"
    with pytest.raises(HarnessError, match="did you mean 'control'"):
        parse_side(f"{run}:contrl")
    with pytest.raises(InputError, match=r"holds no recipe\.json"):
        parse_side(f"{run}-nowhere")


def test_other_rules_and_missing_scores_have_no_difference(run: Path, tmp_path: Path) -> None:
    """Another protocol, or a task that was not run: both scores stay, no difference, and the reason."""
    base = small_recipe()
    older = base.benchmarks[0].model_copy(update={"protocol": "older"})
    other = write_run(tmp_path / "o", replace(base, name="other", benchmarks=(older, base.benchmarks[1])))
    tasks = {one.task: one for one in compare(parse_side(str(run)), parse_side(str(other)), 1).tasks}
    assert tasks["gsm8k"].difference is None
    assert tasks["gsm8k"].note == "other rules than other:iter1: protocol.rules 'current', there 'older'"
    assert set(tasks) == {"gsm8k", "openbookqa", "mt_bench"}


def test_runs_without_a_common_task_are_refused(run: Path, tmp_path: Path) -> None:
    """There is nothing to pair."""
    recipe = replace(small_recipe(tasks=(Task(name="winogrande", shots=5, metric="acc"),)), name="apart")
    apart = replace(recipe, name="apart", benchmarks=recipe.benchmarks[:1])
    with pytest.raises(HarnessError, match="share no task"):
        compare(parse_side(str(run)), parse_side(str(write_run(tmp_path / "o", apart))), 1)


def test_float_noise_is_no_change(tmp_path: Path) -> None:
    """Promise: a run made again on another machine, whose kl differs in the eighth digit, changed no question and is not 'worse'."""

    def of(noise: float) -> MakeValues:
        return lambda row, task: {str(i): (1.0 + i % 5) * (1 + noise * (i % 3)) for i in range(40)} if task.name == "kl" else None

    for name, noise in (("here", 0.0), ("there", 1e-7), ("moved", 1e-3)):
        write_run(tmp_path / name, small_recipe(name), of(noise))
    found = {
        name: next(one for one in compare(parse_side(f"{tmp_path}/here"), parse_side(f"{tmp_path}/{name}"), 0).tasks if one.task == "kl")
        for name in ("there", "moved")
    }
    assert (found["there"].gained, found["there"].lost, found["there"].says) == (0, 0, "undecided: too little spread for an interval")
    assert found["moved"].gained > 20
    assert found["moved"].says == "worse"


def test_a_difference_too_small_for_its_digits_shows_its_size() -> None:
    """Promise: no line says +0.00 [+0.00, +0.00] and calls that better; a difference of exactly 0 stays 0.00."""
    tiny = Delta(against="sft", difference=2e-5, low=1e-5, high=3e-5, n=9, p=0.01, method="t")
    assert delta_text(tiny, None) == "+2.0e-05 [+1.0e-05, +3.0e-05]"
    assert delta_text(tiny.model_copy(update={"high": 0.2}), None) == "+0.00 [+0.00, +0.20]"
    assert delta_text(tiny.model_copy(update={"difference": 0.0, "low": 0.0, "high": 0.0}), None) == "+0.00 [+0.00, +0.00]"
