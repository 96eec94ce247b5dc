"""A run takes no directory but its own: nothing of anybody else's is overwritten, and no run lies in another."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.artifact import RunDir
from harness.errors import InputError
from harness.machine import load as load_machine
from harness.recipe import load
from harness.runs import runner
from harness.runs.needs.directory import ignore, refuse_foreign
from tests.tiny_family import fake_stages, quiet, small_recipe

TINY = load("tiny")


@pytest.mark.parametrize("name", ["notes.txt", ".git/HEAD", "src/main.py", "Makefile"])
def test_a_directory_with_files_of_somebody_else_is_refused(tmp_path: Path, name: str) -> None:
    """Promise: found, what to do, and nothing is written there."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=rf"is no run and not empty \({name.split('/')[0]}\); name a new or empty directory"):
        runner.reproduce(TINY, RunDir(tmp_path), load_machine("cpu"), None, quiet)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_run_leaves_before_its_recipe_is_taken(tmp_path: Path) -> None:
    """Promise: a new directory, an empty one, and one with locks, released files or a finding are a run's."""
    refuse_foreign(tmp_path / "new", TINY)
    refuse_foreign(tmp_path, TINY)
    for name in (".lock", ".claim", "FINDING.md", "half.tmp"):
        (tmp_path / name).touch()
    for name in ("released", "sft", "prompts"):
        (tmp_path / name).mkdir()
    refuse_foreign(tmp_path, TINY)


@pytest.mark.parametrize("below", ["iter0", "iter0/train", "anything/deeper"])
def test_no_run_lies_inside_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    """Promise: a stage's directory of a run, or any other below it, is refused, and the outer run keeps its files."""
    fake_stages(monkeypatch)
    outer = tmp_path / "outer"
    runner.reproduce(small_recipe("outer"), RunDir(outer), load_machine("cpu"), None, quiet)
    before = sorted(outer.rglob("*"))
    with pytest.raises(InputError, match=rf"{below} lies inside the run .*outer; a run has a directory of its own"):
        runner.reproduce(small_recipe("inner"), RunDir(outer / below), load_machine("cpu"), None, quiet)
    assert sorted(outer.rglob("*")) == before


def test_a_recipe_of_another_program_is_no_run(tmp_path: Path) -> None:
    """Promise: a recipe.json somewhere above that is not harness's, or not readable, does not stand in the way."""
    for text in ('{"name": "pancakes"}', "[1]", "7", "not json"):
        (tmp_path / "recipe.json").write_text(text)
        refuse_foreign(tmp_path / "results/tiny", TINY)


def test_lines_of_the_users_own_stay_in_gitignore(tmp_path: Path) -> None:
    """Promise: what is ignored already stays ignored, the run's lines are added once."""
    (tmp_path / ".gitignore").write_text("secret.key\n/sft/\n")
    for _ in range(2):
        ignore(tmp_path, TINY)
    lines = (tmp_path / ".gitignore").read_text().splitlines()
    assert lines[:2] == ["secret.key", "/sft/"]
    assert len(lines) == len(set(lines))
    assert {"/iter0/", "*.tmp", ".lock"} <= {*lines}
