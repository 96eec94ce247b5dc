"""`harness sweep` from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from tests.tiny_family import fake_stages

SWEEP = "from tests.tiny_family import small_sweep\n\nsweep = small_sweep(1)\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SWEEP)
    return tmp_path / "mine.py"


def test_dry_run_counts_and_writes_nothing(file: Path, tmp_path: Path) -> None:
    """Promise: --dry-run shows how many stages are made and shared, and leaves no directory."""
    done = CliRunner().invoke(app, ["sweep", str(file), "--dry-run", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].split() == ["all", "37", "24", "13"]  # 17 of the recipe, then 2 and 5 of 10 that are new
    assert not (tmp_path / "out").exists()


def test_sweep_prints_the_variants_and_tables_repeats_it(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: the command ends in the table, and `harness tables` prints the same one from the records."""
    fake_stages(monkeypatch)
    out = str(tmp_path / "out")
    done = CliRunner().invoke(app, ["sweep", str(file), "--out", out])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, ["tables", out])
    assert again.exit_code == 0
    assert "hinge iter1" in again.stdout
    assert again.stdout in done.stdout


def test_a_file_without_a_sweep_says_so(tmp_path: Path) -> None:
    """Promise: a recipe's file given by mistake is one clear line."""
    (tmp_path / "recipe.py").write_text("from harness.recipe import load\n\nrecipe = load('tiny')\n")
    done = CliRunner().invoke(app, ["sweep", str(tmp_path / "recipe.py")])
    assert done.exit_code != 0
    assert "defines no `sweep`" in str(done.exception)
