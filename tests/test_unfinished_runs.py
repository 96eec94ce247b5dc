"""A run some of whose stages were never finished is packed when asked: its archive lists them, and the list must be true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.analysis.seed_table import combine
from harness.artifact import RECIPE_FILE
from harness.contracts.run_files import ARCHIVE, UNFINISHED, read_archive, write_archive
from harness.errors import InputError
from harness.files import dump, write_atomic
from harness.plan import plan
from harness.report.bundle import pack, verify_bundle, verify_run, write_bundle
from harness.report.html_pages import write_index
from harness.report.html_report import write_report
from harness.report.tables import read_table, write_tables
from harness.runs.sweeps import SWEEP_FILE, SweepRecord
from tests.cli.test_main import Cli, harness
from tests.reported_runs import write_reported_run
from tests.synthetic_runs import small_recipe

__all__ = ["harness"]
LEFT = ["iter1/eval/open_llm", "iter1/eval/distribution"]
"""Evaluations that end before the run is packed: one in the middle of its tasks, one before it began."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return write_reported_run(tmp_path_factory.mktemp("whole") / "synthetic", small_recipe())


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """A run that ended before its last evaluations did."""
    run = tmp_path / "stopped"
    shutil.copytree(whole, run)
    (run / LEFT[0] / "done.json").unlink()
    shutil.rmtree(run / LEFT[1])
    write_tables(run)
    return run


def as_committed(run: Path, target: Path) -> Path:
    """What a clone has of a run, in `target`."""
    shutil.copytree(run / "tables", target / "tables")
    for name in (RECIPE_FILE, ARCHIVE):
        shutil.copyfile(run / name, target / name)
    return target


def test_an_unfinished_run_is_packed_when_asked(stopped: Path, tmp_path: Path, harness: Cli) -> None:
    """Promise: without the option it is refused, naming it; with it no partial output is packed, and `verify` says what is missing."""
    done = harness("pack", stopped)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "2 of " in done.err
    assert f"stages are not finished ({', '.join(LEFT)}); finish them, or pack" in done.err
    assert "`harness pack RUN --unfinished`" in done.err
    assert not (stopped / ARCHIVE).exists()
    assert harness("pack", stopped, "--unfinished").code == 0
    files = read_archive(stopped / ARCHIVE)
    assert json.loads(files[UNFINISHED]) == {"stages": LEFT}
    assert [name for name in files if name.startswith(tuple(LEFT))] == []
    clone = as_committed(stopped, tmp_path / "clone")
    done = harness("verify", clone)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == f"2 stages were not finished when this was packed: {', '.join(LEFT)}"
    assert json.loads(harness("verify", clone, "--format", "json").out)["unfinished"] == LEFT
    assert verify_bundle(write_bundle(clone, tmp_path / "b.tar.gz")) == verify_run(clone)


def test_the_run_itself_stays_unfinished(stopped: Path, whole: Path) -> None:
    """Promise: where it was made it can go on, so `verify` still names what is not finished; finished, the archive is renewed whole."""
    pack(stopped, partly=True)
    assert {one.path for one in verify_run(stopped).damage} == set(LEFT)
    for path in LEFT:
        shutil.copytree(whole / path, stopped / path, dirs_exist_ok=True)
    assert [(one.path, "harness pack" in one.reason) for one in verify_run(stopped).damage] == [(ARCHIVE, True)]
    pack(stopped)
    assert UNFINISHED not in read_archive(stopped / ARCHIVE)


def test_tables_say_that_a_run_is_unfinished(stopped: Path, tmp_path: Path) -> None:
    """Promise: tables, page and index say it in a line, the same from directories and packed; the rows that ended are all there."""
    table = read_table([stopped])
    pack(stopped, partly=True)
    clone = as_committed(stopped, tmp_path / "results/stopped")
    assert read_table([clone]) == table
    missing = {(cell.row, cell.column) for cell in table.cells if cell.status == "not run"}
    assert missing == {("iter1", name) for name in ("gsm8k", "openbookqa", "kl")}
    told = f"this run is unfinished, 2 of its {len(plan(small_recipe()))} stages have no results: {', '.join(LEFT)}"
    assert told in table.notes
    shown = [write_report(clone), *write_index(clone.parent), clone / "tables/tables.md"]
    assert [path.name for path in shown if told not in path.read_text()] == []


def test_tables_of_several_runs_name_the_unfinished_one(stopped: Path, whole: Path) -> None:
    """Promise: in the table of several seeds or of a sweep a line names the run, and none a run that is whole."""
    told = f"stopped: this run is unfinished, 2 of its {len(plan(small_recipe()))} stages have no results: {', '.join(LEFT)}"
    write_atomic(stopped.parent / SWEEP_FILE, dump(SweepRecord(name="study", summary="one variant", runs={"spin": (stopped.name,)})))
    assert [note for note in read_table([stopped.parent]).notes if "unfinished" in note] == [told]
    assert [note for note in combine([stopped]).notes if "unfinished" in note] == [told]
    assert not [note for note in combine([whole]).notes if "unfinished" in note]


EDITS: dict[str, bytes] = {
    name: json.dumps({"stages": stages}, indent=1).encode()
    for name, stages in {
        "a finished stage": ["iter1/train", *LEFT],
        "one fewer": LEFT[:1],
        "none": [],
        "a stage of no plan": [*LEFT, "iter7/train"],
        "another order": LEFT[::-1],
        "one twice": [*LEFT, LEFT[0]],
        "a place outside": [*LEFT, "../iter1"],
    }.items()
} | {"no JSON": b"[", "nothing": b"", "another field": json.dumps({"stages": LEFT, "because": "x"}).encode()}


@pytest.mark.parametrize("edit", EDITS)
def test_the_list_must_be_true(stopped: Path, tmp_path: Path, edit: str) -> None:
    """Promise: a list that names another stage, or fewer, or is no list, is damage of the archive, and so is its absence."""
    pack(stopped, partly=True)
    clone = as_committed(stopped, tmp_path / "clone")
    files = dict(read_archive(stopped / ARCHIVE))
    assert files[UNFINISHED] not in EDITS.values()
    write_archive(clone / ARCHIVE, {**files, UNFINISHED: EDITS[edit]})
    assert [one for one in verify_run(clone).damage if ARCHIVE in one.path]
    del files[UNFINISHED]
    write_archive(clone / ARCHIVE, files)
    assert {one.path for one in verify_run(clone).damage} == set(LEFT)


def test_the_list_is_the_one_file_of_no_stage(stopped: Path, tmp_path: Path) -> None:
    """Promise: a file whose name only begins like the list's is still a file of no stage."""
    pack(stopped, partly=True)
    clone = as_committed(stopped, tmp_path / "clone")
    write_archive(clone / ARCHIVE, {**read_archive(stopped / ARCHIVE), f"{UNFINISHED}.x": b"x"})
    assert [one.path for one in verify_run(clone).damage] == [f"{ARCHIVE}/{UNFINISHED}.x"]


def test_other_records_may_not_be_missing(stopped: Path, tmp_path: Path) -> None:
    """Promise: a stage that is gone and not listed is damage; one that finished stages were made from is never left out."""
    pack(stopped, partly=True)
    clone = as_committed(stopped, tmp_path / "clone")
    gone = "iter0/eval/open_llm"
    write_archive(clone / ARCHIVE, {name: data for name, data in read_archive(stopped / ARCHIVE).items() if not name.startswith(gone)})
    assert {one.path for one in verify_run(clone).damage} == {gone, f"{ARCHIVE}/{UNFINISHED}"}
    (stopped / "iter0/train/done.json").unlink()
    with pytest.raises(InputError, match=r"was made from other bytes of iter0/train .*only a run that `harness verify` accepts"):
        pack(stopped, partly=True)
    for path in [*stopped.rglob("done.json")]:
        path.unlink()
    with pytest.raises(InputError, match=r"finish them$"):
        pack(stopped, partly=True)
