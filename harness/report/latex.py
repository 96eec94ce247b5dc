"""ResultTable and SeedTable -> LaTeX tables with booktabs rules, for \\input into a paper.

They need \\usepackage{booktabs} and nothing else. All text is escaped; a character pdflatex has no glyph for is written U+XXXX.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.analysis.table_schema import ResultTable, SeedTable
from harness.report.blocks import all_blocks
from harness.report.effects import effects, notes_on, paper_cells
from harness.report.formatting import Block, fit, one_line

WIDTH, GAP = 86, 1.5
"""Digits of \\scriptsize that fit the text width of LaTeX's article class, and between columns of 3pt to either side."""
NARROW = ".,[]()'|/ilj "
"""Characters about half as wide as a digit."""

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", "±": r"$\pm$", "↓": r"$\downarrow$",
    "\u2013": "--", "-": "-{}", '"': r"\textquotedbl{}", "'": "'{}", "`": "`{}", "\u2019": "'", "\u2212": "$-$", "\u00d7": r"$\times$",
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip


def to_latex(table: ResultTable | SeedTable) -> str:
    """Every block as a `table` environment with a caption, a label (`tab:NAME-TITLE`), and the block's lines under the table."""
    title = _name(table)
    parts = [part for whole in all_blocks(table) for part in fit(whole, WIDTH, GAP, _num_digits)]
    lines = [f"% {one_line(title)}: {one_line(table.summary)}", r"% needs \usepackage[T1]{fontenc} and \usepackage{booktabs}"]
    return "\n".join([*lines, *(line for block in parts for line in _environment(block, title))]) + "\n"


def to_paper(table: ResultTable | SeedTable) -> str:
    """The size of the effect alone, as one table of a column's width: ours with its interval, the paper's gain, the share."""
    found = [one for one in effects(table) if one.column is None]
    rows = tuple((f"{one.row} - {one.against}", *paper_cells(one)) for one in found)
    what = ", ".join(dict.fromkeys(one.what for one in found))
    block = Block("Gain", ("", "ours", "paper", "share"), rows)
    caption = f"Difference in percentage points ({what}) with its 95 % interval, beside the paper's gain."
    return "\n".join([*_tabular(block, " ".join([caption, *notes_on(found)]), f"tab:{_slug(_name(table))}", r"\footnotesize")]) + "\n"


def _num_digits(text: str) -> float:
    return sum(0.55 if char in NARROW else 1.0 for char in text)


def _name(table: ResultTable | SeedTable) -> str:
    return table.recipe if isinstance(table, ResultTable) else table.name


def _slug(text: str) -> str:
    """Letters, digits and hyphens: what a label can hold."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _environment(block: Block, name: str) -> Iterator[str]:
    *head, end = _tabular(block, f"{block.title}.", f"tab:{_slug(f'{name} {block.title}')}", r"\scriptsize")
    yield from head
    if block.lines:
        yield r"\par\smallskip\raggedright"
        yield from (f"{escape(line)}\\par" for line in block.lines)
    yield end


def _tabular(block: Block, caption: str, label: str, size: str) -> Iterator[str]:
    yield from ("", r"\begin{table}[tbp]", rf"\centering{size}\setlength{{\tabcolsep}}{{3pt}}")
    yield rf"\caption{{{escape(caption)}}}\label{{{label}}}"
    if block.rows:
        yield rf"\begin{{tabular}}{{@{{}}l{('l' if block.is_prose else 'r') * (len(block.header) - 1)}@{{}}}}"
        yield r"\toprule"
        yield _row(block.header)
        yield r"\midrule"
        yield from (_row(row) for row in block.rows)
        yield from (r"\bottomrule", r"\end{tabular}")
    yield r"\end{table}"


def _row(cells: tuple[str, ...]) -> str:
    return " & ".join(_cell(text, "l" if place == 0 else "r") for place, text in enumerate(cells)) + r" \\"


def _cell(text: str, side: str) -> str:
    stacked = r" \\ ".join(escape(line) for line in text.split("\n"))
    return rf"\shortstack[{side}]{{{stacked}}}" if "\n" in text else stacked


def escape(text: str) -> str:
    """`text` on one line as LaTeX shows it, with minus signs where numbers or rows are subtracted."""
    parts = re.split(r"((?:(?<=^)|(?<=[ \[(]))-(?=[\d ]))", one_line(text))
    return "".join("$-$" if k % 2 else "".join(SPECIAL.get(char) or _plain(char) for char in part) for k, part in enumerate(parts))


def _plain(char: str) -> str:
    known = char.isascii() or (char.isprintable() and "\u00c0" <= char <= "\u00ff")
    return char if known else f"U+{ord(char):04X}"
