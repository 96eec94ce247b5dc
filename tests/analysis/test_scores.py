"""A table reads what it needs once: each score file is hashed and parsed a single time, whatever asks for it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import pytest

from harness.analysis import scores as scores_module
from harness.analysis.scores import ALL_TOGETHER, OTHER_QUESTIONS, RunScores, difference_of, load_scores, task_columns
from harness.analysis.sweep_table import compare_variants
from harness.artifact import DONE_FILE, RECIPE_FILE, RunDir
from harness.contracts import Score
from harness.errors import InputError
from harness.evaluation.units import is_of_all
from harness.files import dump, write_atomic
from harness.plan import plan
from harness.recipe import Benchmark, Recipe, Task, load, replace
from harness.report.formats.lm_eval_files import write_results
from harness.report.head_to_head import compare, parse_side
from harness.report.tables import collect, combine, to_markdown
from harness.runs.sweeps import SWEEP_FILE, SweepRecord
from tests.synthetic_runs import Values, finish, questions, score_of, small_recipe, write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs that differ in their seeds."""
    return [write_run(tmp_path / f"s{seed}", small_recipe(f"s{seed}", seed=seed)) for seed in range(2)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, Path]]:
    """How often a file was hashed and parsed as a score."""
    found: Counter[tuple[str, Path]] = Counter()

    def counted(name: str, position: int) -> Callable[..., object]:
        real: Callable[..., object] = getattr(scores_module, name)

        def call(*args: object) -> object:
            path = args[position]
            assert isinstance(path, Path)
            found[name, path] += 1
            return real(*args)

        return call

    monkeypatch.setattr(scores_module, "parse_model", counted("parse_model", 2))
    return found


def once(runs: list[Path]) -> dict[tuple[str, Path], int]:
    files = [path for run in runs for path in run.rglob("scores/*.json")]
    return {("parse_model", path): 1 for path in files}


def test_a_runs_table_reads_every_score_once(runs: list[Path], reads: Counter[tuple[str, Path]]) -> None:
    """Cells, differences, claims, gains and the published numbers all ask the same scores."""
    collect(runs[0])
    assert reads == once(runs[:1])


def test_a_table_over_seeds_reads_every_score_once(runs: list[Path], reads: Counter[tuple[str, Path]]) -> None:
    """Spreads, pooled differences and claims too."""
    combine(runs)
    assert reads == once(runs)


def test_a_comparison_reads_two_rows_alone(runs: list[Path], reads: Counter[tuple[str, Path]]) -> None:
    """Two rows of the same run: nothing else is read."""
    compare(parse_side(f"{runs[0]}:iter1"), parse_side(f"{runs[0]}:sft"), 1)
    files = [path for row in ("iter1", "sft") for path in (runs[0] / row).rglob("scores/*.json")]
    assert reads == {("parse_model", path): 1 for path in files}


def test_what_is_not_there_is_none_and_what_changed_is_an_error(runs: list[Path]) -> None:
    """An unfinished evaluation has no score; a file that is not the recorded one is never shown."""
    scores = load_scores(runs[0])
    column = scores.by_label["gsm8k"]
    (runs[0] / "iter0/eval/open_llm" / DONE_FILE).unlink()
    assert scores.score("iter0", column) is None
    path = runs[0] / column.score_path("iter1")
    path.write_text(path.read_text() + " ")
    with pytest.raises(InputError, match=r"iter1/eval/open_llm/scores/gsm8k\.json is not the file its record names"):
        scores.score("iter1", column)


def test_the_value_of_a_row_is_that_of_its_table(runs: list[Path]) -> None:
    """Spreads over seeds and the table of one run show the same numbers."""
    scores = load_scores(runs[0])
    for cell in collect(runs[0]).cells:
        assert scores.value(cell.row, cell.column) == cell.value


NOW = datetime(2026, 11, 27)
HELD_OUT = next(benchmark for benchmark in load("zephyr-7b").benchmarks if benchmark.name == "held_out")
MARGIN, NLL = "held_out_margin", "held_out_nll"


def held_out_recipe(name: str, seed: int = 42) -> Recipe:
    """sft, a control and two iterations on held-out prompts alone."""
    return replace(small_recipe("base", seed=seed), name=name, benchmarks=(HELD_OUT,))


def held_out_values(row: str, task: Task) -> Values:
    """`sft` meets itself: a margin of 0 everywhere. Other rows have some spread."""
    if task.name == MARGIN and row == "sft":
        return dict.fromkeys(map(str, range(40)), 0.0)
    return {str(i): 1.0 + i % 7 + len(row) for i in range(40)}


def test_rows_that_met_other_opponents_are_not_subtracted(tmp_path: Path) -> None:
    """Promise: a margin against sft's responses and one against iter0's have no difference, and the cell says why; likelihoods have one."""
    scores = load_scores(write_run(tmp_path / "run", held_out_recipe("run"), held_out_values))
    margin, nll = scores.by_label[MARGIN], scores.by_label[NLL]
    for row, against in (("control", "sft"), ("iter0", "sft"), ("iter0", "control")):
        assert scores.difference(row, against, margin).paired is not None
    for row, against in (("iter1", "sft"), ("iter1", "iter0"), ("iter1", "control")):
        assert scores.difference(row, against, margin) == (None, f"no difference from {against}: set against another opponent")
        assert scores.difference(row, against, nll).paired is not None
    table = collect(tmp_path / "run")
    assert table.cell("iter1", MARGIN).notes == ("no difference from sft: set against another opponent",)
    assert [MARGIN in one.tasks for one in table.gains] == [True, False]


def test_rows_of_two_runs_met_one_opponent_only_where_it_is_the_model_they_began_with(tmp_path: Path) -> None:
    """Promise: `compare` subtracts margins against sft's responses across runs, and none against iterations of different runs."""
    for seed in range(2):
        write_run(tmp_path / f"s{seed}", held_out_recipe(f"s{seed}", seed), held_out_values)
    says = {}
    for left, right in (("s0:iter0", "s1:iter0"), ("s0:iter1", "s1:iter1"), ("s0:iter0", "s0:iter1")):
        found = compare(parse_side(f"{tmp_path}/{left}"), parse_side(f"{tmp_path}/{right}"), 0)
        says[left, right] = {one.task: one.note for one in found.tasks}
    assert says["s0:iter0", "s1:iter0"][MARGIN] is None
    assert says["s0:iter1", "s1:iter1"][MARGIN] == "no difference from s0:iter1: set against another opponent"
    assert says["s0:iter0", "s0:iter1"][MARGIN] == "no difference from s0:iter0: set against another opponent"
    assert [notes[NLL] for notes in says.values()] == [None, None, None]


def test_a_sweep_subtracts_no_margins_of_other_opponents(tmp_path: Path) -> None:
    """Promise: a variant's iteration that met its own iteration before is not subtracted from `sft`, nor from the first variant's."""
    first = held_out_recipe("plain")
    steep = replace(first, name="steep", iterations=tuple(one.model_copy(update={"beta": 1.0}) for one in first.iterations), because={})
    for made in (first, steep):
        write_run(tmp_path / made.name, made, held_out_values)
    write_atomic(tmp_path / SWEEP_FILE, dump(SweepRecord(name="s", summary="", runs={"plain": ("plain",), "steep": ("steep",)})))
    found = {(one.row, one.against, one.column): one for one in compare_variants(tmp_path).comparisons}
    for row, against in (("iter1", "sft"), ("steep iter1", "sft"), ("steep iter1", "iter1")):
        assert found[row, against, MARGIN].pooled is None
        assert found[row, against, MARGIN].verdict == f"undecided: no difference from {against}: set against another opponent"
        assert found[row, against, NLL].pooled is not None


def test_a_task_under_two_protocols_counts_once_in_the_mean(tmp_path: Path) -> None:
    """Promise: the same questions answered under two protocols are not twice as many; each protocol keeps its own column."""
    tasks = (Task(name="arc_challenge", shots=25, metric="acc_norm"), Task(name="openbookqa", shots=1, metric="acc_norm"))
    benchmarks = [Benchmark(name="open_llm", protocol=protocol, tasks=tasks) for protocol in ("current", "lm-eval@46c7966")]
    tables = []
    for name, chosen in (("once", benchmarks[:1]), ("twice", benchmarks)):
        made = replace(small_recipe("base"), name=name, benchmarks=tuple(chosen))
        tables.append(collect(write_run(tmp_path / name, made)))
    once, twice = (table.comparisons[0] for table in tables)
    assert len(twice.tasks) == 2 * len(once.tasks) == 4
    assert twice.mean_over == ("open_llm/current/arc_challenge", "open_llm/current/openbookqa")
    assert twice.mean == once.mean


def test_nats_that_are_all_0_are_no_wrong_answers(tmp_path: Path) -> None:
    """Promise: a margin of 0 for every prompt has no interval; 0 of 40 right answers has its exact one."""
    table = collect(write_run(tmp_path / "nats", held_out_recipe("nats"), held_out_values))
    assert (table.cell("sft", MARGIN).value, table.cell("sft", MARGIN).low, table.cell("sft", MARGIN).high) == (0.0, None, None)
    none_right = write_run(tmp_path / "run", small_recipe("run"), lambda row, task: dict.fromkeys(questions(row, task) or {}, 0.0) or None)
    assert collect(none_right).cell("sft", "openbookqa").high == pytest.approx(8.81, abs=0.005)


def test_rows_scored_on_different_questions_have_no_interval() -> None:
    """Promise: the difference of the two means stands without an interval, and what is missing is explained by that."""
    benchmark = small_recipe().benchmarks[0]
    column = task_columns(small_recipe())[1]
    ours = score_of(benchmark, benchmark.tasks[1], {"a": 100.0, "b": 0.0, "c": 100.0})
    theirs = score_of(benchmark, benchmark.tasks[1], {"a": 100.0, "b": 0.0})
    found = difference_of(ours, theirs, "sft", column)
    assert found.note == OTHER_QUESTIONS
    assert found.paired is not None
    assert (found.paired.difference, found.paired.low) == (pytest.approx(100 / 6), None)


def own_benchmark_run(path: Path, score: Callable[[str], Score]) -> Path:
    """A run with one task, of the score that `score` makes of a row's name."""
    first = score("sft")
    benchmark = Benchmark(name=first.benchmark, protocol="own", tasks=(Task(name=first.task, metric=first.metric),))
    made = replace(small_recipe(), name="own", benchmarks=(benchmark,))
    run = RunDir(path)
    write_atomic(path / RECIPE_FILE, dump(made))
    for stage in plan(made):
        row, _, evaluated = stage.path.partition("/eval/")
        finish(run, stage, {f"scores/{score(row).task}.json": dump(score(row))} if evaluated else {"log.jsonl": b""})
    return path


def test_a_metric_of_all_questions_together_has_no_interval(tmp_path: Path) -> None:
    """Promise: a score without a question's own value is in the table, its difference is that of the scores, a note says why no more."""

    def f1(row: str) -> Score:
        return Score(
            benchmark="lm_eval", task="mrpc", metric="f1,none", value=60.0 + len(row), stderr=None, n=40, protocol={"unit": "percent"}
        )

    table = collect(own_benchmark_run(tmp_path / "run", f1))
    cell = table.cell("control", "mrpc")
    assert (cell.status, cell.value, cell.low, cell.high, cell.notes) == ("scored", 67.0, None, None, (ALL_TOGETHER,))
    assert cell.delta is not None
    assert (cell.delta.difference, cell.delta.low, cell.delta.p, cell.delta.n) == (4.0, None, None, 40)
    assert compare(parse_side(f"{tmp_path}/run:sft"), parse_side(f"{tmp_path}/run:control"), 0).tasks[0].note == ALL_TOGETHER


def lm_eval_score(task: str, metric: str, value: float, values: Mapping[str, float | None], **details: object) -> Score:
    """A score in lm-eval's own unit, as benchmark lm_eval writes it."""
    return Score(
        benchmark="lm_eval", task=task, metric=metric, value=value, stderr=None, n=len(values), protocol={"unit": "lm-eval's"},
        values=dict(values), details=details,
    )  # fmt: skip


def test_a_perplexity_is_no_percentage(tmp_path: Path) -> None:
    """Promise: exp(-mean log-probability) has its own unit and no interval, less is better, and it is not in the mean over tasks."""

    def perplexity(row: str) -> Score:
        values = {f"lambada_openai/{i}-{i:016}": -1.5 - i % 5 / 10 - len(row) / 100 for i in range(20)}
        return lm_eval_score("lambada_openai", "perplexity,none", math.exp(1.7 + len(row) / 100), values)

    table = collect(own_benchmark_run(tmp_path / "run", perplexity))
    (column,), cell = table.columns, table.cell("control", "lambada_openai")
    assert (column.unit, column.lower_is_better, column.is_accuracy) == ("own", True, False)
    assert (cell.low, cell.high, cell.notes) == (None, None, (ALL_TOGETHER,))
    assert cell.delta is not None
    assert (cell.delta.difference, cell.delta.low) == (pytest.approx(math.exp(1.77) - math.exp(1.73), rel=1e-4), None)
    assert all(one.mean is None and not one.mean_over and not one.missing for one in table.comparisons)
    text = to_markdown(table)
    assert "| control | 5.871 (1) |" in text
    assert "openai: in lm-eval's own unit, no percent." in text


def test_a_mean_in_lm_evals_own_unit_has_its_interval(tmp_path: Path) -> None:
    """Promise: a mean of values of any size has a t interval that nothing cuts off, its difference too, and lm-eval tells the direction."""

    def rouge(row: str) -> Score:
        values = {f"truthfulqa_gen/{i}-{i:016}": -6.0 + i % 7 + len(row) * (i % 3) for i in range(21)}
        return lm_eval_score("truthfulqa_gen", "rouge1_diff,none", sum(values.values()) / 21, values, lower_is_better=True)

    table = collect(own_benchmark_run(tmp_path / "run", rouge))
    (column,), cell = table.columns, table.cell("control", "truthfulqa_gen")
    assert (column.unit, column.lower_is_better, column.is_accuracy) == ("own", True, False)
    low = table.cell("sft", "truthfulqa_gen").low
    assert low is not None
    assert low < 0
    assert cell.delta is not None
    assert (cell.delta.difference, cell.delta.low is None, cell.notes) == (4.0, False, ())
    found = compare(parse_side(f"{tmp_path}/run:sft"), parse_side(f"{tmp_path}/run:control"), 0).tasks[0]
    assert found.says == "worse"
    (written,) = [path for path in write_results(tmp_path / "run", "sft", tmp_path / "out", NOW) if path.name.startswith("results")]
    results = json.loads(written.read_text())
    assert results["higher_is_better"] == {"truthfulqa_gen": {"rouge1_diff": False}}
    assert results["results"]["truthfulqa_gen"]["rouge1_diff,none"] == pytest.approx(0.0)


def test_subtasks_of_a_perplexity_are_no_means_either() -> None:
    """Promise: of a mean over subtasks each subtask is looked at: perplexities are none of their values' means, accuracies are."""
    values = {f"{name}/{i}-{i:016}": -float(i) for name, n in (("a", 2), ("b", 3)) for i in range(1, n + 1)}
    of_both = lm_eval_score("both", "perplexity,none", 6.0, values, subtasks={"a": 4.5, "b": 7.5})
    assert is_of_all(of_both)
    assert not is_of_all(of_both.model_copy(update={"value": -1.75}))
    assert not is_of_all(of_both.model_copy(update={"value": -1.6, "details": {"subtasks": {"a": -1.5, "b": -2.0}}}))


def test_units_before_anything_is_scored() -> None:
    """Promise: a task not yet scored has the unit that its metric's name tells; a user's own benchmark may be in points of 10 or nats."""
    own = Benchmark(name="own.py", protocol="mine", tasks=(Task(name="grade", metric="points of 10"), Task(name="cost", metric="nats")))
    tasks = (Task(name="lambada_openai", metric="perplexity"), Task(name="arc_easy", metric="acc"), Task(name="wikitext"))
    made = replace(small_recipe(), name="own", benchmarks=(own, Benchmark(name="lm_eval", protocol="own", tasks=tasks)))
    columns = RunScores(made, ("sft",), lambda row, column: None, lambda row: "sft").columns
    assert [column.unit for column in columns] == ["points", "nats", "own", "percent", "percent"]
    assert [column.lower_is_better for column in columns] == [False, False, True, False, False]
