"""The LaTeX tables go into a paper as they are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.recipe import replace
from harness.report.latex import escape
from harness.report.tables import collect, combine, render
from tests.synthetic_runs import small_recipe, write_run

DOCUMENT = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}\input{tables}\end{document}"
HOSTILE = "50 % of $x_1 & #2 \\input{/etc/passwd} ~^{} <b> “q” é 漢 \u202e ± a%\nb"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
def test_tables_compile(tmp_path: Path) -> None:
    """pdflatex with booktabs accepts the tables of a run and of two seeds, whatever text a recipe holds; no table is too wide."""
    recipes = [replace(small_recipe(claims="zephyr-7b-sft-full", seed=seed), name=f"s{seed}", summary=HOSTILE) for seed in range(2)]
    runs = [write_run(tmp_path / recipe.name, recipe) for recipe in recipes]
    (tmp_path / "run.tex").write_text(DOCUMENT)
    for table in (collect(runs[0]), combine(runs)):
        (tmp_path / "tables.tex").write_text(render(table, "latex"))
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "run.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "run.pdf").exists()
        widths = [float(found) for found in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide", done.stdout)]
        assert max(widths, default=0.0) < 20, widths


def test_text_is_escaped() -> None:
    """Commands in a recipe's words stay words; characters without a glyph are named."""
    assert escape(HOSTILE) == (
        r"50 \% of \$x\_1 \& \#2 \textbackslash{}input\{/etc/passwd\} \textasciitilde{}\textasciicircum{}\{\} $<$b$>$ "
        r"U+201CqU+201D é U+6F22 {[}U+202E{]} $\pm$ a\% b"
    )
