"""Published checkpoints evaluated here: the same weights, so what differs is the evaluation, or chance on few questions."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from harness.analysis.anchors import AnchorFigure, anchor_notes, compare_figures, conclusions_of, require_anchors
from harness.artifact import RunDir
from harness.errors import RecipeError
from harness.machine import load as load_machine
from harness.plan import plan
from harness.recipe import Anchor, Benchmark, Figure, ModelRef, Recipe, Task, load, replace
from harness.rows import rows
from harness.runs import runner
from tests import ROOT
from tests.synthetic_runs import Values, write_run
from tests.tiny_checkpoints import word_checkpoint

GSM8K = Task(name="gsm8k", shots=5, metric="exact_match")
FEW = Task(name="openbookqa", shots=1, metric="acc_norm", limit=40)
HERE = ModelRef(source="path", name="somewhere")


def figure(task: str, value: float, protocol: str = "current", shots: int = 5, n: int | None = None) -> Figure:
    return Figure(task=task, value=value, protocol=protocol, where="a card", metric="exact_match", shots=shots, n=n)


def anchored(anchors: dict[str, Anchor], *tasks: Task, claims: str | None = None) -> Recipe:
    benchmarks = (Benchmark(name="open_llm", protocol="current", tasks=tasks),)
    return replace(load("zephyr-7b"), name="anchored", iterations=(), anchors=anchors, benchmarks=benchmarks, claims=claims)


def half_right(row: str, task: Task) -> Values:
    """40 questions, every second answered."""
    return {f"q{i}": 100.0 * (i % 2) for i in range(40)}


def found(recipe: Recipe, path: Path) -> list[AnchorFigure]:
    return compare_figures(recipe, write_run(path, recipe, half_right))


def test_an_anchors_recipe_evaluates_and_trains_nothing() -> None:
    """Each pinned checkpoint is fetched and evaluated; one that cannot be pinned is a row without stages."""
    recipe = load("zephyr-7b-anchors")
    stages = plan(recipe)
    assert {stage.kind for stage in stages} == {"model", "evaluate"}
    assert [stage.path for stage in stages if stage.kind == "model"] == ["sft/model", "iter0/model"]
    assert rows(recipe) == ("sft", "iter0", "iter1", "iter2", "iter3")
    assert [note.split(":")[0] for note in anchor_notes(recipe)] == ["iter0", "iter1 is not run", "iter2 is not run", "iter3 is not run"]


def test_the_base_is_evaluated_as_in_the_reproduction() -> None:
    """The anchor of the base model has the identity it has in zephyr-7b, so the two can be compared number by number."""
    anchor, base = (
        {stage.path: stage.fingerprint for stage in plan(load(name)) if stage.path.startswith("sft/")}
        for name in ("zephyr-7b-anchors", "zephyr-7b")
    )
    assert anchor.items() <= base.items()
    assert base.keys() - anchor.keys() == {"sft/held_out", "sft/eval/held_out"}  # an anchor has no opponent


def test_every_published_figure_is_listed_before_anything_runs(tmp_path: Path) -> None:
    """Both the paper's and the leaderboard's figure of iter0, the average too, each with the reasons that are known beforehand."""
    listed = {(one.row, one.task, one.published): one.outcome for one in compare_figures(load("zephyr-7b-anchors"), tmp_path)}
    assert listed["iter0", "gsm8k", 35.10] == "not run"
    assert listed["iter0", "gsm8k", 36.69].startswith("not run; protocol: ours lm-eval@46c7966, theirs open-llm-leaderboard-v1")
    assert listed["sft", "winogrande", 74.19] == "not run"
    assert listed["iter2", "average", 62.97] == "weights not pinned"


def test_all_questions_leave_no_chance(tmp_path: Path) -> None:
    """On the full set a difference is counted in answers; the same rules are named as such, other rules with their reasons."""
    same, other = figure("gsm8k", 52.5, n=40), figure("gsm8k", 50.0, "another harness", shots=8)
    recipe = anchored({"a": Anchor(model=HERE, figures=(same, other, figure("gsm8k", 50.0)))}, GSM8K)
    first, second, third = found(recipe, tmp_path)
    assert (first.ours, first.difference, first.outcome) == (50.0, -2.5, "differs by 1 of 40 answers; same rules")
    assert second.outcome == "equal as printed; protocol: ours current, theirs another harness; shots: ours 5, theirs 8"
    assert third.outcome == "equal as printed; same rules"


def test_few_questions_leave_chance(tmp_path: Path) -> None:
    """On a part of the questions the figure lies inside or outside our interval, and that it was a part is said."""
    near, far = (figure("openbookqa", value, shots=1) for value in (60.0, 80.0))
    recipe = anchored({"a": Anchor(model=HERE, figures=(near, far))}, FEW)
    outcomes = [one.outcome for one in found(recipe, tmp_path)]
    assert outcomes[0].startswith("inside our 95 % interval 33.80 to 66.20; limited to 40 questions")
    assert outcomes[1].startswith("outside our 95 % interval")


def test_answers_all_wrong_leave_chance_too(tmp_path: Path) -> None:
    """0 of 8 does not exclude 30 %: the interval reaches to 36.94 and is not a point."""
    task = FEW.model_copy(update={"limit": 8})
    recipe = anchored({"a": Anchor(model=HERE, figures=(figure("openbookqa", 30.0, shots=1),))}, task)
    run = write_run(tmp_path, recipe, lambda row, task: {f"q{i}": 0.0 for i in range(8)})
    (one,) = compare_figures(recipe, run)
    assert one.stderr is None
    assert one.outcome.startswith("inside our 95 % interval 0.00 to 36.94; limited to 8 questions")


def test_conclusions_keep_sources_apart(tmp_path: Path) -> None:
    """One line a source: the mean and the largest difference over its figures."""
    figures = (figure("gsm8k", 52.0), figure("openbookqa", 49.0, shots=1))
    anchors = {"a": Anchor(model=HERE, figures=figures), "sft": Anchor(note="unknown")}
    recipe = anchored(anchors, GSM8K, FEW, claims=load("zephyr-7b").claims)
    lines = conclusions_of(found(recipe, tmp_path))
    assert lines[0] == "a card (current): ours - theirs is -0.50 on average over 2 figures, at most -2.00"
    assert lines[1] == "paper/leaderboard (lm-eval@46c7966): nothing to compare yet"


def test_a_local_checkpoint_runs_through_the_ordinary_stages(tmp_path: Path) -> None:
    """A directory of weights is copied, evaluated and compared through the same stages and records as any other row."""
    task = Task(name="tiny_pick_choice", shots=0, metric="acc", limit=8)
    ref = ModelRef(source="path", name=str(word_checkpoint(tmp_path / "theirs")))
    recipe = anchored({"theirs": Anchor(model=ref, figures=(figure("tiny_pick_choice", 30.0, shots=0),))}, task)
    run, cpu = RunDir(tmp_path / "run"), load_machine("cpu").model_copy(update={"num_threads": 1})
    for stage in plan(recipe):
        run.begin(stage, cpu, {})
        runner.run_stage(run.stage_dir(stage.path))
        run.finish(stage, 1.0, 1.0)
    (one,) = compare_figures(recipe, run.path)
    assert (one.row, one.n) == ("theirs", 8)
    assert one.ours is not None
    assert one.difference == pytest.approx(one.ours - 30.0)


def test_the_documented_anchors_file_is_one(tmp_path: Path) -> None:
    """The example of docs/judging.md, saved as a file, is a recipe that evaluates one directory."""
    text = (ROOT / "docs" / "judging.md").read_text()
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(text[text.index("    from harness.recipe import Anchor") :].split("\n\nOn all questions")[0]))
    recipe = load(str(file))
    assert [stage.kind for stage in plan(recipe)] == ["model", *["evaluate"] * len(recipe.benchmarks)]
    assert [(one.task, one.published) for one in compare_figures(recipe, tmp_path)] == [("arc_challenge", 27.73)]


def test_an_unpinned_anchor_says_why() -> None:
    """No model and no note is an error; so are anchors in a recipe that trains, and the command on a recipe without any."""
    with pytest.raises(RecipeError, match="an anchor needs a model, or a note"):
        replace(load("zephyr-7b"), name="x", iterations=(), anchors={"a": {}})
    with pytest.raises(RecipeError, match="a recipe with anchors trains nothing"):
        replace(load("zephyr-7b"), name="x", anchors={"a": {"note": "n"}})
    with pytest.raises(RecipeError, match="zephyr-7b names no anchors; expected one such as zephyr-7b-anchors"):
        require_anchors(load("zephyr-7b"))
