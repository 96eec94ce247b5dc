"""How values, differences and columns are written for people."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.differences import word
from harness.analysis.table_schema import Cell, Column, Comparison, Delta

DECIMALS = {"percent": 2, "points": 2, "nats": 3}
ABSENT = "–"  # noqa: RUF001


def value_text(cell: Cell, column: Column) -> str:
    if cell.status == "unscored":
        return f"unscored {cell.n_unscored}/{cell.n}"
    if cell.value is None:
        return cell.notes[0] if cell.status == "incomplete" else cell.status
    digits = DECIMALS[column.unit]
    text = f"{cell.value:.{digits}f}" + ("" if cell.stderr is None else f" ± {cell.stderr:.{digits}f}")
    if cell.n_unscored:
        text += f", unscored {cell.n_unscored}/{cell.n}"
    return text if column.n in (None, cell.n) else f"{text}, n {cell.n}"


def delta_text(found: Delta | None, column: Column | None, *, p: bool = False) -> str:
    if found is None:
        return ABSENT
    digits = DECIMALS[column.unit] if column else 2
    text = f"{found.difference:+z.{digits}f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+z.{digits}f}, {found.high:+z.{digits}f}]"
    return text + (f" p {_p(found.p_holm)}" if p and found.p_holm is not None else "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def heading(column: Column) -> str:
    return f"{column.label} ↓" if column.lower_is_better else column.label


def direction(columns: Sequence[Column]) -> str:
    return "↓: lower is better." if any(column.lower_is_better for column in columns) else ""


def _limited(n: int, limit: int) -> str:
    return f"first {n}" if n == limit else f"{n} (limit {limit})"


def questions_text(column: Column) -> str:
    return "" if column.n is None else str(column.n) if column.limit is None else _limited(column.n, column.limit)


def outcome_text(found: Delta | None, column: Column) -> str:
    return ABSENT if found is None else f"{delta_text(found, column)}: {word(found, lower_is_better=column.lower_is_better)}"


def lacking_text(one: Comparison) -> str:
    return f" ({len(one.mean_over)} of {len(one.mean_over) + len(one.missing)} tasks)" if one.missing else ""
