"""ResultTable and SeedTable -> LaTeX tables with booktabs rules, for \\input into a paper.

They need \\usepackage{booktabs} and nothing else. All text is escaped; a character pdflatex has no glyph for is written U+XXXX.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.table_schema import ResultTable, SeedTable
from harness.report.blocks import all_blocks
from harness.report.formatting import Block, fit, one_line

WIDTH = 92
"""Characters of \\scriptsize that fit the text width of LaTeX's article class."""

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", "±": r"$\pm$", "↓": r"$\downarrow$",
    "\u2013": "--", "-": "-{}", '"': r"\textquotedbl{}", "'": "'{}", "`": "`{}", "\u2019": "'", "\u2212": "$-$", "\u00d7": r"$\times$",
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip


def to_latex(table: ResultTable | SeedTable) -> str:
    """Every block as a `table` environment whose caption holds the lines under it."""
    title = table.recipe if isinstance(table, ResultTable) else table.name
    parts = [part for whole in all_blocks(table) for part in fit(whole, WIDTH)]
    lines = [f"% {one_line(title)}: {one_line(table.summary)}", r"% needs \usepackage[T1]{fontenc} and \usepackage{booktabs}"]
    return "\n".join([*lines, *(line for block in parts for line in _environment(block))]) + "\n"


def _environment(block: Block) -> Iterator[str]:
    caption = " ".join(escape(line) for line in (f"{block.title}.", *block.lines))
    yield from ("", r"\begin{table}[p]", r"\centering\scriptsize")
    if block.rows:
        yield rf"\begin{{tabular}}{{@{{}}l{('l' if block.is_prose else 'r') * (len(block.header) - 1)}@{{}}}}"
        yield r"\toprule"
        yield _row(block.header)
        yield r"\midrule"
        yield from (_row(row) for row in block.rows)
        yield from (r"\bottomrule", r"\end{tabular}")
    yield rf"\caption{{{caption}}}"
    yield r"\end{table}"


def _row(cells: tuple[str, ...]) -> str:
    return " & ".join(_cell(text, "l" if place == 0 else "r") for place, text in enumerate(cells)) + r" \\"


def _cell(text: str, side: str) -> str:
    stacked = r" \\ ".join(escape(line) for line in text.split("\n"))
    return rf"\shortstack[{side}]{{{stacked}}}" if "\n" in text else stacked


def escape(text: str) -> str:
    """`text` on one line as LaTeX shows it."""
    return "".join(SPECIAL.get(char) or _plain(char) for char in one_line(text))


def _plain(char: str) -> str:
    known = char.isascii() or (char.isprintable() and "\u00c0" <= char <= "\u00ff")
    return char if known else f"U+{ord(char):04X}"


