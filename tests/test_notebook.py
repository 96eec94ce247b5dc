"""docs/results.ipynb runs, and prints what it shows."""

from __future__ import annotations

from tests.notebook import held, printed, read


def test_the_notebook_prints_what_it_shows() -> None:
    """Promise: every code cell runs on the committed records and prints the very text beside it; `python -m tests.notebook` renews it."""
    cells = read()["cells"]
    assert printed(cells) == held(cells)
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 5
