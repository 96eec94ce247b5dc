"""The LaTeX tables go into a paper as they are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.recipe import replace
from harness.report.latex import escape
from harness.report.tables import collect, combine, render
from tests.committed import RESULTS, committed_table
from tests.synthetic_runs import small_recipe, write_run

DOCUMENT = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}\input{tables}\end{document}"
HOSTILE = "50 % of $x_1 & #2 \\input{/etc/passwd} ~^{} <b> “q” é 漢 \u202e ± a%\nb"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
def test_tables_compile(tmp_path: Path) -> None:
    """pdflatex with booktabs accepts the tables of a run and of two seeds, whatever text a recipe holds; no table is too wide."""
    recipes = [replace(small_recipe(claims="zephyr-7b-sft-full", seed=seed), name=f"s{seed}", summary=HOSTILE) for seed in range(2)]
    runs = [write_run(tmp_path / recipe.name, recipe) for recipe in recipes]
    (tmp_path / "run.tex").write_text(DOCUMENT)
    tables = (collect(runs[0]), combine(runs))
    for text in [render(table, format) for table in tables for format in ("latex", "paper")]:
        (tmp_path / "tables.tex").write_text(text)
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "run.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "run.pdf").exists()
        widths = [float(found) for found in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide", done.stdout)]
        assert max(widths, default=0.0) < 20, widths


def test_every_table_has_a_short_caption_a_label_and_minus_signs() -> None:
    """Captions are titles, what must be read with a table stands under it, labels differ, and a loss has a minus sign."""
    text = render(committed_table(RESULTS / "tiny"), "latex")
    captions = re.findall(r"\\caption\{(.*)\}\\label\{(tab:[a-z0-9-]+)\}", text)
    assert len(captions) == text.count(r"\begin{table}") > 5
    assert max(len(caption) for caption, _ in captions) < 80
    assert len({label for _, label in captions}) == len(captions)
    assert "tab:tiny-scores" in {label for _, label in captions}
    assert "Scores (continued)" not in text
    assert "$-$2.29 {[}$-$" in text
    assert not re.search(r"[ \[&]-\{?\}?\d", text)


def test_paper_table_is_one_narrow_table() -> None:
    """Ours with its interval, the paper's gain, the share: one table, no line too long for a column."""
    for run in ("smollm2-135m", "tiny-study"):
        text = render(committed_table(RESULTS / run), "paper")
        assert text.count(r"\begin{table}") == 1
        assert r"\toprule" in text
        assert rf"\label{{tab:{run}}}" in text
    text = render(committed_table(RESULTS / "smollm2-135m"), "paper")
    assert r"& cannot tell \\" in text
    assert "Cannot tell: the interval contains both 0" in text


def test_text_is_escaped() -> None:
    """Commands in a recipe's words stay words; characters without a glyph are named."""
    assert escape(HOSTILE) == (
        r"50 \% of \$x\_1 \& \#2 \textbackslash{}input\{/etc/passwd\} \textasciitilde{}\textasciicircum{}\{\} $<$b$>$ "
        r"U+201CqU+201D é U+6F22 {[}U+202E{]} $\pm$ a\% b"
    )
