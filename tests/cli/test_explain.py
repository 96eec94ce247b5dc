"""From a cell of a table to everything that made it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.artifact import DONE_FILE, Accepted, RunDir
from harness.cli.explain import Explanation, explain, print_explanation, to_text
from harness.errors import HarnessError, InputError
from harness.files import dump, hash_file, write_atomic
from tests import ROOT
from tests.synthetic_runs import LAUNCH, small_recipe, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), small_recipe())


def test_leads_to_the_file_and_its_hash(run: Path) -> None:
    """The score's path is inside the run and its hash the recorded one."""
    found = explain(run, "iter1", "gsm8k")
    assert found.score_path == "iter1/eval/open_llm/scores/gsm8k.json"
    assert found.sha256 == hash_file(run / found.score_path).sha256


def test_follows_every_input_once(run: Path) -> None:
    """Evaluation, then its policy, then all that trained it, back to the weights and the prompts."""
    paths = [stage.path for stage in explain(run, "iter1", "gsm8k").stages]
    assert paths[:2] == ["iter1/eval/open_llm", "iter1/train"]
    assert set(paths[2:]) == {"iter0/train", "prompts", "iter0/generate", "iter1/generate", "sft/model"}
    assert len(paths) == len(set(paths))


def test_shows_recipe_values_commit_and_versions(run: Path) -> None:
    """Beta and learning rate of the training stage, the commit and its local changes, command and packages."""
    text = to_text(explain(run, "iter1", "gsm8k"), full=True)
    assert "beta = 0.1" in text
    assert "learning_rate = 5e-07" in text
    assert f"commit {str(LAUNCH['commit'])[:12]} with local changes: harness reproduce synthetic" in text
    assert "python 3.11.9; torch 2.13.0" in text
    assert str(run) not in text


def test_shows_what_was_accepted(tmp_path: Path) -> None:
    """A stage kept by hand says what changed and why."""
    run = write_run(tmp_path, small_recipe())
    launch = RunDir(run).launch("iter0/train")
    assert launch is not None
    accepted = Accepted(fingerprint="0", difference=[("spec.beta", 0.2, 0.1)], because="checked against the log")
    write_atomic(run / "iter0/train/stage.json", dump(launch.model_copy(update={"accepted": [accepted]})))
    assert "accepted  spec.beta: 0.2 -> 0.1, because checked against the log" in to_text(explain(run, "iter0", "kl"), full=True)


def test_prints_and_reads_back(run: Path) -> None:
    """The terminal shows the plain lines; the JSON is the model."""
    found = explain(run, "sft", "mt_bench")
    console = Console(file=io.StringIO(), width=60)
    print_explanation(found, console, full=True)
    assert console.file.getvalue() == to_text(found, full=True)  # type: ignore[attr-defined]
    assert "unscored (points of 10, n 16, 16 unscored)" in to_text(found, full=False)
    assert Explanation.model_validate_json(found.model_dump_json()) == found


def test_short_form_is_15_lines(run: Path) -> None:
    """The cell, its file, each training with what it was made from and its main values, one launch, and how to see the rest."""
    for path, row, task in ((run, "iter1", "gsm8k"), (ROOT / "results/smollm2-135m", "iter2", "gsm8k")):
        lines = to_text(explain(path, row, task), full=False).splitlines()
        assert len(lines) <= 15
        assert any(line.startswith(f"  made by   {row}/train on ") and "beta 0.1" in line for line in lines)
        assert "--full" in lines[-1]


@pytest.mark.parametrize(
    ("row", "task", "message"),
    [("iter9", "gsm8k", "did you mean 'iter0'|did you mean 'iter1'"), ("iter1", "gsm8", "did you mean 'gsm8k'")],
)
def test_misspelt_names_get_a_suggestion(run: Path, row: str, task: str, message: str) -> None:
    """An unknown row or task is one clear line."""
    with pytest.raises(HarnessError, match=message):
        explain(run, row, task)


def test_cell_that_is_not_run_says_so(tmp_path: Path) -> None:
    """The error names the stage that is missing."""
    run = write_run(tmp_path, small_recipe())
    (run / "iter1/eval/open_llm" / DONE_FILE).unlink()
    with pytest.raises(InputError, match="iter1 gsm8k is not run yet"):
        explain(run, "iter1", "gsm8k")
