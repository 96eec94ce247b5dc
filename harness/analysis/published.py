"""The numbers others measured: the paper's tables and pictures, the model cards, the independent re-runs and the follow-ups.

A number here was read in the place its `where` names, and only grades A (read verbatim) and B (follows from what was
released, or read off a curve) are encoded. Units: percent, MT-Bench points (1 to 10) for `mt_bench`, length-controlled win
rate in percent for `alpaca_eval2_lc`, for the others what `metric` says.

Score sets made with different harnesses live in different tables and must not be mixed: the same checkpoint gets
38.97 on GSM8K in the paper and 34.19 on its card.
"""

from __future__ import annotations

from harness.analysis.record import follow_ups, paper_tables, reruns
from harness.analysis.record.paper_tables import GAINS
from harness.analysis.record.table import Claim, Gain

__all__ = ["CLAIMS", "GAINS", "Claim", "Gain", "claim", "claims"]

CLAIMS: tuple[Claim, ...] = tuple(cell for table in (*paper_tables.TABLES, *reruns.TABLES, *follow_ups.TABLES) for cell in table.cells())
"""Every cell of every table, in the order of the tables, row by row."""

_CELLS = {(cell.table, cell.row, cell.task): cell for cell in CLAIMS}
_NAMES = tuple(dict.fromkeys(names) for names in zip(*_CELLS, strict=True))


def claims(table: str) -> tuple[Claim, ...]:
    """Every cell of one table, row by row. An unknown table is a LookupError that lists the known ones."""
    _check_known("table", table, _NAMES[0])
    return tuple(cell for cell in CLAIMS if cell.table == table)


def claim(table: str, row: str, task: str) -> Claim | None:
    """The cell, or None where that table has no such cell (MT-Bench of iter3, say).

    A table, row or task that no table at all has is a typo, and a LookupError.
    """
    for kind, name, known in zip(("table", "row", "task"), (table, row, task), _NAMES, strict=True):
        _check_known(kind, name, known)
    return _CELLS.get((table, row, task))


def _check_known(kind: str, name: str, known: dict[str, str | None]) -> None:
    if name not in known:
        raise LookupError(f"no published table has the {kind} {name!r}; the known ones are: {', '.join(known)}")
