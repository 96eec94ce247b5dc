"""A sweep's directory is taken wherever a run's is: status, verify, explain, compare, bundle and report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.analysis.sweep_table import compare_variants
from harness.cli.explain import SweepExplanation, explain_sweep
from harness.contracts.run_files import ARCHIVE, DONE_FILE, read_archive, write_archive
from harness.errors import HarnessError
from harness.files import dump, write_atomic
from harness.runs.sweeps import SWEEP_FILE, SweepRecord
from tests import ROOT
from tests.cli.test_main import Cli, harness

__all__ = ["harness"]
RUNS = {"spin": ("tiny-spin-seed0", "tiny-spin-seed1"), "hinge": ("tiny-hinge-seed0", "tiny-hinge-seed1")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants and two seeds of the committed study, without their tables."""
    folder = tmp_path_factory.mktemp("results") / "small-study"
    for names in RUNS.values():
        for name in names:
            shutil.copytree(ROOT / "results/tiny-study" / name, folder / name, ignore=shutil.ignore_patterns("tables"))
    write_atomic(folder / SWEEP_FILE, dump(SweepRecord(name="small-study", summary="two variants, two seeds", runs=RUNS)))
    return folder


def test_status_counts_each_run_s_stages(harness: Cli, study: Path) -> None:
    """A line a run; a run's own directory is shown stage by stage."""
    rows = json.loads(harness("status", study, "--format", "json").out)
    assert [row["run"] for row in rows] == [name for names in RUNS.values() for name in names]
    assert all(row["done"] == row["stages"] > 0 for row in rows)
    own = json.loads(harness("status", study / "tiny-spin-seed0", "--format", "json").out)
    assert len(own) == rows[0]["stages"]
    assert "tiny-spin-seed0" in harness("status", study).out


def test_status_takes_a_sweep_s_file(harness: Cli, tmp_path: Path) -> None:
    """Promise: a file that defines `sweep` is a sweep to `status` and `status --watch`; one that defines `recipe` stays a recipe."""
    two = "{name: (replace(load('tiny'), name=f'mine-{name}'),) for name in 'ab'}"
    imports = "from harness.recipe import load, replace\nfrom harness.runs.sweeps import Sweep\n"
    (tmp_path / "mine.py").write_text(f"{imports}sweep = Sweep(name='mine', summary='two', variants={two})\n")
    rows = json.loads(harness("status", tmp_path / "mine.py", "--out", tmp_path / "runs", "--format", "json").out)
    assert [(row["run"], row["missing"] == row["stages"]) for row in rows] == [("mine-a", True), ("mine-b", True)]
    watched = harness("status", tmp_path / "mine.py", "--out", tmp_path / "runs", "--watch").out
    assert "mine-a" in watched
    assert "mine-b" in watched
    (tmp_path / "one.py").write_text(f"{imports}recipe = replace(load('tiny'), name='one')\n")
    stages = json.loads(harness("status", tmp_path / "one.py", "--out", tmp_path / "runs", "--format", "json").out)
    assert "iter0/train" in {stage["path"] for stage in stages}


def test_explain_traces_a_cell_to_every_seed(harness: Cli, study: Path) -> None:
    """Mean and spread, and each run's own value, file and lineage; another variant's row goes to its runs."""
    found = explain_sweep(study, "hinge iter2", "tiny_pick_choice")
    assert [run.recipe for run in found.runs] == list(RUNS["hinge"])
    assert {run.row for run in found.runs} == {"iter2"}
    values = [run.value for run in found.runs if run.value is not None]
    assert found.mean == pytest.approx(sum(values) / 2)
    shown = harness("explain", study, "hinge iter2", "tiny_pick_choice").out
    assert len(shown.splitlines()) <= 15
    assert SweepExplanation.model_validate_json(harness("explain", study, "iter2", "kl", "--format", "json").out).row == "iter2"
    with pytest.raises(HarnessError, match="did you mean 'hinge iter2'"):
        explain_sweep(study, "hinge iter3", "kl")


def test_bundle_holds_every_run_and_verifies(harness: Cli, study: Path, tmp_path: Path) -> None:
    """The study verifies, so does its archive, and a changed score is found in both."""
    target = tmp_path / "study.tar.gz"
    assert harness("verify", study).code == 0
    assert harness("bundle", study, "--out", target).code == 0
    assert (study / "tables/tables.md").exists()
    assert harness("verify", target).code == 0
    damaged = tmp_path / "damaged"
    shutil.copytree(study, damaged)
    archive = damaged / "tiny-hinge-seed1" / ARCHIVE
    left = {name: data for name, data in read_archive(archive).items() if name != f"iter2/eval/distribution/{DONE_FILE}"}
    write_archive(archive, left)
    done = harness("verify", damaged)
    assert done.code == 1
    assert "tiny-hinge-seed1/iter2/eval/distribution" in done.err


def test_compare_pairs_a_study_s_questions_and_its_seeds(harness: Cli, study: Path) -> None:
    """`compare STUDY:sft STUDY:iter2` gives the differences of the study's table: pooled over questions, and over seeds, which decide."""
    found = json.loads(harness("compare", f"{study}:sft", f"{study}:iter2", "--format", "json").out)
    assert (found["left"], found["right"]) == ("small-study:sft", "small-study:iter2")
    table = compare_variants(study)
    for task in found["tasks"]:
        same = next(one for one in table.comparisons if (one.row, one.against, one.column) == ("iter2", "sft", task["task"]))
        assert same.pooled is not None
        assert same.over_seeds is not None
        assert (task["difference"]["difference"], task["difference"]["low"]) == (same.pooled.difference, same.pooled.low)
        assert task["over_seeds"]["low"] == same.over_seeds.low
        assert task["says"] == same.verdict
    other = harness("compare", f"{study}:iter2", f"{study}:hinge iter2")
    assert other.code == 0
    assert "over seeds" in other.out


def test_every_command_takes_a_real_study_of_one_seed(harness: Cli, tmp_path: Path) -> None:
    """Promise: results/smollm2-study, whose one seed has no spread, goes through every command that takes a run, and into the index."""
    pytest.importorskip("matplotlib", reason="needs the report extra's matplotlib")
    study = tmp_path / "results" / "smollm2-study"
    shutil.copytree(ROOT / "results/smollm2-study", study)
    archive = tmp_path / "study.tar.gz"
    for command in (
        ["status", study],
        ["verify", study],
        ["explain", study, "hinge iter1", "arc_challenge"],
        ["compare", f"{study}:sft", f"{study}:iter2"],
        ["report", study],
        ["bundle", study, "--out", archive],
        ["verify", archive],
        ["index", study.parent],
    ):
        assert harness(*command).code == 0, command
    assert "1 seed: SPIN (iter2) is within noise of its SFT model" in (study / "report.html").read_text()
    assert "1 seed: SPIN (iter2) is within noise of its SFT model" in (study.parent / "index.html").read_text()
