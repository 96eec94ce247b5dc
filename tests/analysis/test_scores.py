"""A table reads what it needs once: each score file is hashed and parsed a single time, whatever asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.analysis import scores as scores_module
from harness.analysis.scores import load_scores
from harness.artifact import DONE_FILE
from harness.errors import InputError
from harness.report.head_to_head import compare, parse_side
from harness.report.tables import collect, combine
from tests.synthetic_runs import small_recipe, write_run


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
