"""A sweep makes each stage once, shows what it shares, and sets the variants side by side."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import machine
from harness.analysis.differences import delta_text
from harness.analysis.table_schema import SeedTable
from harness.artifact import RunDir
from harness.errors import InputError, RecipeError, StageError
from harness.plan import plan
from harness.recipe import replace
from harness.report import tables as tables
from harness.runs import launches, runner
from harness.runs import sweeps as sweeping
from harness.runs.sweeps import Sweep, seeded
from harness.runs.sweeps import load as load_sweep
from harness.runs.verification import verify
from tests.tiny_family import fake_stages, listening, quiet, small_recipe, small_sweep, stage_dirs

CPU = machine.load("cpu")


class Finished(NamedTuple):
    """A sweep's directory after it ran once, what was announced, and the fingerprints of the stages that ran."""

    out: Path
    table: SeedTable
    lines: list[str]
    ran: list[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """The sweep for tests, run once; tests may read it and run it again."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        out, lines, ran = tmp_path_factory.mktemp("sweep") / "out", list[str](), fake_stages(monkeypatch)
        sweeping.run(small_sweep(), out, CPU, listening(lines))
        yield Finished(out, tables.write_sweep_tables(out), lines, ran)


def test_no_stage_runs_twice(finished: Finished) -> None:
    """Promise: over all recipes of the sweep each identity is made once; all the others are links, and everything verifies."""
    ran, sweep = finished.ran, small_sweep()
    stages = [stage for recipe in sweep.recipes for stage in plan(recipe)]
    assert len(ran) == len(set(ran)) == len({stage.fingerprint for stage in stages})
    assert len(stage_dirs(finished.out)) == len(stages)
    shared = len(stages) - len(ran)
    assert shared > 0
    assert finished.lines[-1] == f"{len(ran)} stage(s) ran, {shared} were shared; everything is in {finished.out}"
    assert sum(": shared with" in line for line in finished.lines) == shared
    for recipe in sweep.recipes:
        assert verify(RunDir(finished.out / recipe.name))[:2] == ([], [])


def test_a_damaged_run_beside_the_sweep_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a run that is no part of the sweep and whose records cannot be read is named, and the sweep makes everything itself."""
    ran, lines = fake_stages(monkeypatch), list[str]()
    other = RunDir(tmp_path / "a run")
    runner.reproduce(small_recipe(), other, CPU, None, quiet)
    (other.stage_dir("sft/model") / "stage.json").write_text("{")
    ran.clear()
    sweeping.run(small_sweep(1), tmp_path / "sweep", CPU, listening(lines))
    assert len(ran) == sweeping.shared_list(small_sweep(1))[-1]["made"]
    assert lines[0].startswith("nothing is shared with a run: ")
    assert "sft/model/stage.json" in lines[0]


def test_claims_are_judged_over_seeds(finished: Finished) -> None:
    """Promise: of each claim of the paper a sweep says what its first variant's seeds say, and gives the evidence."""
    by_row = {(one.row, one.against): one for one in finished.table.comparisons if one.column == "mean over tasks"}
    first = finished.table.findings[0]
    over_seeds, pooled = by_row["iter1", "sft"].over_seeds, by_row["iter1", "sft"].pooled
    assert over_seeds is not None
    assert pooled is not None
    assert first.claim == "SPIN improves on its SFT model"
    assert first.evidence == (
        f"iter1 - sft: {delta_text(over_seeds, None)}, pooled over questions {delta_text(pooled, None)} (mean of 1 tasks, 2 runs)",
    )
    assert (over_seeds.low, over_seeds.high, first.verdict) == (None, None, "not tested")  # the fakes' seeds are equal: no spread is known
    dpo = next(one for one in finished.table.findings if "DPO" in one.claim)
    assert dpo.verdict != "not tested"
    assert [row.split(":")[0] for row in dpo.evidence] == ["iter1 - dpo"]


def test_a_finished_run_beside_the_sweep_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: what `harness reproduce` made in a directory beside the sweep's is not made again, whatever its recipe is called."""
    ran, lines = fake_stages(monkeypatch), list[str]()
    stages = plan(small_recipe())
    runner.reproduce(small_recipe(), RunDir(tmp_path / "a run"), CPU, None, quiet)
    assert len(ran) == len(stages)
    sweeping.run(small_sweep(1), tmp_path / "sweep", CPU, listening(lines))
    assert len(ran) == len(set(ran)) == sweeping.shared_list(small_sweep(1))[-1]["made"]
    assert sum(line.endswith(": shared with a run") for line in lines) >= len(stages)


def test_counts_are_known_before_anything_runs(finished: Finished) -> None:
    """Promise: what the plan says is made and shared is what then happened, run by run and kind by kind."""
    expected = list(sweeping.run_list(small_sweep()))
    kinds = {row["stages"]: row for row in sweeping.shared_list(small_sweep())}
    assert sum(row["makes"] for row in expected) == kinds["all"]["made"] == len(finished.ran)
    assert sum(row["shares"] for row in expected) == kinds["all"]["shared"]
    assert kinds["preferences"] == {"stages": "preferences", "planned": 2, "made": 2, "shared": 0}
    assert kinds["model"] == {"stages": "model", "planned": 6, "made": 2, "shared": 4}


def test_same_command_again_does_nothing(finished: Finished) -> None:
    """Promise: a finished sweep is only tabulated again, to the same bytes."""
    count, before = len(finished.ran), (finished.out / "tables" / "tables.json").read_bytes()
    lines: list[str] = []
    sweeping.run(small_sweep(), finished.out, CPU, listening(lines))
    assert len(finished.ran) == count
    assert lines[-1].startswith("0 stage(s) ran, 0 were shared")
    assert (finished.out / "tables" / "tables.json").read_bytes() == before


def test_stopped_sweep_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: interrupted at any stage, the same command makes only what is missing."""
    ran = fake_stages(monkeypatch)
    launch, calls = launches.launch, iter(range(1000))

    def interrupted(*args: object) -> float:
        if next(calls) == 9:
            os.kill(os.getpid(), signal.SIGINT)
            deadline = time.monotonic() + 60
            while not args[3].signals and time.monotonic() < deadline:  # type: ignore[attr-defined]
                time.sleep(0.01)
            raise StageError("ended by signal 2")
        return launch(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(launches, "launch", interrupted)
        with pytest.raises(StageError, match="interrupted"):
            sweeping.run(small_sweep(1), tmp_path / "out", CPU, quiet)
    sweeping.run(small_sweep(1), tmp_path / "out", CPU, quiet)
    assert len(ran) == len(set(ran)) == sweeping.shared_list(small_sweep(1))[-1]["made"]


def test_variants_stand_side_by_side(finished: Finished) -> None:
    """Promise: shared rows once, other rows under their variant's name, means over seeds, and each variant against sft and the first."""
    table, out = finished.table, finished.out
    assert table.runs == ("seed 0", "seed 1")
    assert table.rows == (
        "sft", "control", "dpo", "iter0", "iter1", "iter1+dpo", "fresh iter1", "hinge iter0", "hinge iter1",
    )  # fmt: skip
    seeds = [tables.collect(out / f"small-hinge-seed{k}").cell("iter1", "tiny_mixed_sample").value for k in range(2)]
    spread = next(one for one in table.spreads if one.row == "hinge iter1")
    assert None not in seeds
    assert spread.mean == pytest.approx(sum(value or 0 for value in seeds) / 2)
    contests = {(one.row, one.against) for one in table.comparisons}
    assert contests == {
        ("iter1", "sft"), ("iter1", "control"), ("iter1", "dpo"), ("iter1+dpo", "iter1"),
        ("fresh iter1", "iter1"), ("fresh iter1", "sft"), ("hinge iter1", "iter1"), ("hinge iter1", "sft"),
    }  # fmt: skip
    one = next(found for found in table.comparisons if (found.row, found.against) == ("hinge iter1", "iter1"))
    first = [tables.collect(out / f"small-seed{k}").cell("iter1", "tiny_mixed_sample").value for k in range(2)]
    expected = [(ours or 0) - (theirs or 0) for ours, theirs in zip(seeds, first, strict=True)]
    assert [delta.difference for delta in one.per_run if delta] == pytest.approx(expected)


def test_table_needs_the_committed_records_alone(finished: Finished, tmp_path: Path) -> None:
    """Promise: `harness tables SWEEP` rebuilds the table without weights; every format is written beside it."""
    shutil.copytree(finished.out, tmp_path / "sweep", ignore=shutil.ignore_patterns("checkpoint"))
    assert tables.read_table([tmp_path / "sweep"]) == finished.table
    for name in tables.FILES.values():
        assert "hinge iter1" in (tmp_path / "sweep" / "tables" / name).read_text()


def test_uncertain_formulas_are_named_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a loss whose formula was not read where it was published says so under the run's table and under the sweep's."""
    fake_stages(monkeypatch)
    base = replace(small_recipe(), name="base", controls={}, rivals={}, iterations=small_recipe().iterations[:1])
    first = base.iterations[0].model_copy(update={"parameters": {"mu": 1.0}})
    space = replace(base, name="other", objective="space", iterations=(first,))
    sweeping.run(Sweep(name="s", summary="", variants={"spin": (base,), "space": (space,)}), tmp_path, CPU, quiet)
    table = tables.write_sweep_tables(tmp_path)
    note = "the iterations use space, whose formula is not certain (grade C+): see harness/components/objectives/space.py"
    assert table.notes == (f"space: {note}",)
    assert tables.collect(tmp_path / "other").notes == (note,)
    assert tables.collect(tmp_path / "base").notes == ()
    assert "grade C+" in (tmp_path / "tables" / "tables.md").read_text()


def test_variants_of_several_sizes_test_that_the_score_rises_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: each size is held against the one below it, the smallest against `sft`; the claim carries the paper's own numbers."""
    fake_stages(monkeypatch)
    base = replace(small_recipe(), name="large", sft=None, controls={}, rivals={}, iterations=small_recipe().iterations[:1])
    small, middle = (
        replace(base, name=f"n{num}", prompts=base.prompts.model_copy(update={"num_prompts": num}), because={}) for num in (8, 16)
    )
    other = replace(base, name="hinge", objective="spin_hinge")
    variants = {"large": (base,), "small": (small,), "middle": (middle,), "hinge": (other,)}
    sweeping.run(Sweep(name="s", summary="", variants=variants), tmp_path, CPU, quiet)
    findings = {one.claim: one for one in tables.write_sweep_tables(tmp_path).findings}
    found = findings["the score rises with data"]
    assert [told.split(":")[0] for told in found.evidence] == ["small iter0 - sft", "middle iter0 - small iter0", "iter0 - middle iter0"]
    assert found.where == "V3 Fig. 5: 58.14, 59.55, 60.16, 60.83 with 0, 14k, 26k, 50k prompts"


def test_one_size_makes_no_claim_about_sizes(finished: Finished) -> None:
    """Promise: a sweep whose variants all train on the same prompts says nothing of it."""
    assert "the score rises with data" not in {one.claim for one in finished.table.findings}


def test_variants_must_answer_the_same_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: variants with other benchmarks are refused instead of set side by side."""
    fake_stages(monkeypatch)
    base = small_recipe()
    asked = base.benchmarks[0].tasks[0].model_copy(update={"limit": 10})
    other = replace(base, name="other", benchmarks=(base.benchmarks[0].model_copy(update={"tasks": (asked,)}),))
    sweep = Sweep(name="wrong", summary="", variants={"a": (base,), "b": (other,)})
    sweeping.run(sweep, tmp_path, CPU, quiet)
    with pytest.raises(InputError, match="variants a and b are evaluated on other benchmarks"):
        tables.write_sweep_tables(tmp_path)


def test_seeds_move_together() -> None:
    """Promise: every seed of a recipe moves by 1000 a run, nothing else changes, and the first run is the recipe itself."""
    base = small_recipe()
    first, second = seeded(base, 2)
    assert (first.name, second.name) == ("small-seed0", "small-seed1")
    assert [stage.fingerprint for stage in plan(first)] == [stage.fingerprint for stage in plan(base)]
    assert (second.seed, second.sft_model.seed, second.prompts.shuffle_seed) == tuple(
        seed + 1000 for seed in (base.seed, base.sft_model.seed, base.prompts.shuffle_seed)
    )
    assert second.iterations == base.iterations
    assert not {s.fingerprint for s in plan(first)} & {s.fingerprint for s in plan(second)}


def test_lopsided_or_repeated_sweeps_are_refused() -> None:
    """Promise: every variant has the same number of seeds, and no two runs write to one directory."""
    base = small_recipe()
    with pytest.raises(ValueError, match="equally many seeds"):
        Sweep(name="s", summary="", variants={"a": seeded(base, 2), "b": (base,)})
    with pytest.raises(ValueError, match="small stand twice"):
        Sweep(name="s", summary="", variants={"a": (base,), "b": (base,)})
    with pytest.raises(RecipeError, match="did you mean 'tiny-study'"):
        load_sweep("tiny-studi")
