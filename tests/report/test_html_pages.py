"""The index lists every run with its verdicts, and a run it cannot read with the reason."""

import shutil
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.recipe import replace
from harness.report.html_pages import write_index
from harness.report.tables import write_tables
from tests import ROOT
from tests.reported_runs import HOSTILE
from tests.synthetic_runs import questions, small_recipe, write_run


def test_a_readme_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    """Promise: `index` writes over what `index` made, and refuses anything else."""
    write_index(tmp_path)
    write_index(tmp_path)
    (tmp_path / "README.md").write_text("my notes")
    with pytest.raises(InputError, match=r"README.md was not written by `harness index`, which would replace it"):
        write_index(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my notes"


def test_every_run_with_its_verdicts(tmp_path: Path) -> None:
    """Gain, noise and a damaged run side by side; links to what is there; the same bytes again; hostile names stay text."""
    write_tables(write_run(tmp_path / "a", replace(small_recipe(), name="a", summary=HOSTILE[0])))
    write_run(tmp_path / "b", small_recipe("b"), lambda row, task: questions("sft", task))
    damaged = write_run(tmp_path / "c", small_recipe("c"))
    (damaged / "iter1/eval/open_llm/scores/gsm8k.json").write_text("{}")
    readme, page = write_index(tmp_path)
    text, html = readme.read_text(), page.read_text()
    assert "| **a** ([tables](a/tables/tables.md), [JSON](a/tables/tables.json), [recipe](a/recipe.json)) | SPIN helped |" in text
    assert "No gain beyond noise" in text
    assert "not readable: iter1/eval/open_llm/scores/gsm8k.json is not the file its record names" in text
    assert "- **supported**: SPIN improves on its SFT model. iter1 - sft: +" in text
    assert 'href="a/tables/tables.md"' in html
    assert html.count('class="badge') == 12
    assert "<script>" not in html
    assert "default-src 'none'" in html
    assert str(tmp_path) not in text + html
    assert [path.read_text() for path in write_index(tmp_path)] == [text, html]


def test_sweeps_stand_beside_runs(tmp_path: Path) -> None:
    """A sweep is listed with what its seeds say together: here the committed one."""
    committed = ROOT / "results" / "tiny-study"
    shutil.copytree(committed, tmp_path / "tiny-study", ignore=shutil.ignore_patterns("checkpoint", "samples", "responses"))
    readme, page = write_index(tmp_path)
    text = readme.read_text()
    sentence = "5 seeds: SPIN (iter2) is better than its SFT model on each, than iter0-longer on 4, than dpo on 1; worse than"
    assert f"[JSON](tiny-study/tables/tables.json)) | {sentence}" in text
    assert "iter2 - sft: +7.90 [" in text
    assert "- **supported**: SPIN improves on its SFT model." in text.partition("## tiny-study")[2]
    assert max(len(line) for line in text.splitlines() if line.startswith("| ")) < 900
    assert sentence in page.read_text()


def test_what_people_wrote_of_a_run_stands_in_the_index(tmp_path: Path) -> None:
    """A run's FINDING.md is one paragraph of its section, escaped; a run without one has none."""
    for name in "ab":
        write_run(tmp_path / name, small_recipe(name))
    (tmp_path / "a/FINDING.md").write_text(f"Two\nlines, {HOSTILE[0]}.\n")
    readme, page = write_index(tmp_path)
    assert readme.read_text().count("\nTwo lines, &lt;script>alert(1)&lt;/script>.\n") == 1
    assert page.read_text().count("<p>Two lines, &lt;script&gt;") == 1
    assert "<p></p>" not in page.read_text()


def test_a_folder_is_needed(tmp_path: Path) -> None:
    """A path that is not a folder is one line."""
    with pytest.raises(InputError, match="is not a folder"):
        write_index(tmp_path / "nowhere")
