"""ResultTable and SeedTable -> blocks: titled grids of plain text with the lines that must be read with them.

Every format that people read (terminal, Markdown, LaTeX, the report) shows these blocks and escapes their text itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.analysis.claims import asked_of
from harness.analysis.differences import ABSENT, DECIMALS, RULE, delta_text
from harness.analysis.forensics import response_sets, training_state
from harness.analysis.published import GAINS
from harness.analysis.table_schema import Cell, Column, Part, PublishedTable, ResultTable, SeedTable
from harness.artifact import RunDir
from harness.recipe import Recipe
from harness.report.effects import size_block
from harness.report.formatting import (
    Block,
    arrow_note,
    comparable_text,
    heading,
    lacking_text,
    outcome_text,
    questions_text,
    value_text,
)
from harness.rows import rows


def blocks(table: ResultTable) -> list[Block]:
    """The effect's size, the paper's claims, scores, tasks, differences, each iteration's step, the last one, the published numbers."""
    found = [size_block(table), _claims(table), _scores(table), _tasks(table), _deltas(table), _steps(table), _comparisons(table)]
    return [*found, *_mt_bench(table), *(_published(table, one) for one in table.published), *_beside(table)]


def all_blocks(table: ResultTable | SeedTable) -> list[Block]:
    """The blocks of a run or of several."""
    return blocks(table) if isinstance(table, ResultTable) else seed_blocks(table)


def seed_blocks(table: SeedTable) -> list[Block]:
    """The paper's claims over the runs, mean and spread, and each run's last iteration against the others."""
    labels = {column.label: column for column in table.columns}
    header = ("", *(heading(column) for column in table.columns))
    grid = tuple((row, *(_spread(table, row, column) for column in table.columns)) for row in table.rows)
    runs = ", ".join(table.runs)
    over = f"standard deviation over {len(table.runs)} runs: {runs}" if len(table.runs) > 1 else f"no spread: one run, {runs}"
    about = f"Mean ± {over}. {arrow_note(table.columns)}"
    notes = tuple(f"Not averaged, {one.row} {note}." for one in table.spreads for note in [one.note] if note)
    spread = Block("Mean over seeds", header, grid, (about, *notes, *table.notes))
    lasts = tuple(
        (
            f"{one.row} - {one.against}",
            one.column,
            *(delta_text(found, labels.get(one.column)) for found in one.per_run),
            delta_text(one.pooled, labels.get(one.column)),
            delta_text(one.over_seeds, labels.get(one.column)),
            one.verdict,
        )
        for one in table.comparisons
    )
    last = Block(
        "Last iteration",
        ("", "task", *table.runs, "pooled over questions", "over seeds", "verdict"),
        lasts,
        (
            "Paired. Pooled: each question's mean over these runs, paired over questions; it speaks about these seeds. "
            "Over seeds: t interval over the runs' differences; it speaks about another seed, and is what the verdict says. "
            f"{RULE}.",
        ),
    )
    return [size_block(table), _claims(table), spread, last]


def _claims(table: ResultTable | SeedTable) -> Block:
    grid = tuple((one.verdict, one.claim) for one in table.findings)
    told = tuple(f"{one.claim} ({one.where}): {'; '.join(one.evidence)}." for one in table.findings)
    seeds = isinstance(table, SeedTable) and len(table.runs) > 1
    interval = "t interval over seeds" if seeds else "interval"
    rule = f"Supported: the 95 % {interval} lies above 0; contradicted: below; of several differences, all must hold."
    lines = (*asked_of(table.findings), *told, rule)
    return Block("The paper's claims", ("these runs" if seeds else "this run", "claim"), grid, lines, is_prose=True)


def _opponents(table: ResultTable) -> tuple[str, ...]:
    """What must be said where a score depends on the row's opponent."""
    names = [c.label for c in table.columns if c.benchmark == "held_out" and not c.lower_is_better]
    told = "set a row against its own opponent: subtracted only between rows that met the same one (docs/metrics.md)"
    return (f"{', '.join(names)} {told}.",) if names else ()


ALL_ALIKE = "Where all answers of a task are alike, its 95 % interval and that of an average over it stand in place of an error."


def _scores(table: ResultTable) -> Block:
    notes, mark = _footnotes(table.cells)
    grid = [(row, *(value_text(table.cell(row, c.label), c) + mark(table.cell(row, c.label)) for c in table.columns)) for row in table.rows]
    about = f"Value ± standard error; percent, except MT-Bench in points of 10 and kl in nats. {arrow_note(table.columns)}"
    own = [column.label for column in table.columns if column.unit == "own"]
    lines = [
        about.strip(),
        *([f"{', '.join(own)}: in lm-eval's own unit, no percent."] if own else []),
        *([ALL_ALIKE] if any(cell.stderr is None and cell.low is not None for cell in table.cells) else []),
    ]
    lines += [*notes, *_opponents(table), *(f"Note: {note}." for note in table.notes)]
    return Block("Scores", _header(table), tuple(grid), tuple(lines))


def _tasks(table: ResultTable) -> Block:
    header = ("", "benchmark", "rules", "metric", "shots", "questions")
    grid = tuple(
        (heading(c), c.benchmark or "", c.protocol or "", c.metric, "" if c.shots is None else str(c.shots), questions_text(c))
        for c in table.columns
    )
    return Block("Tasks", header, grid, is_prose=True)


def _deltas(table: ResultTable) -> Block:
    grid = tuple(
        (row, *(delta_text(table.cell(row, c.label).delta, c, p=True) for c in table.columns)) for row in table.rows if row != "sft"
    )
    lines = (f"Row - sft on the same questions. {RULE}.", *_opponents(table))
    means = {one.row: one for one in table.from_sft}
    grid = tuple((*line, delta_text(means[line[0]].mean, None) + lacking_text(means[line[0]])) for line in grid)
    return Block("Difference from sft", (*_header(table), "mean over tasks"), grid, lines)


def _steps(table: ResultTable) -> Block:
    """Each iteration less the one before it, and the gains the published tables print."""
    grid = [(heading(c), *(delta_text(one.tasks.get(c.label), c) for one in table.gains)) for c in table.columns]
    means = [("mean over tasks", *(delta_text(one.mean, None) + lacking_text(one) for one in table.gains))] if table.gains else []
    shown = {one.table for one in table.published}
    printed: dict[tuple[str, str], list[str]] = {}
    for gain in GAINS:
        if gain.table in shown:
            printed.setdefault((gain.table, gain.task), []).append(f"{gain.row} {gain.value:+.2f}")
    lines = [f"{where} prints as gains on {task}: {', '.join(found)}." for (where, task), found in printed.items()]
    header = ("", *(f"{one.row} - {one.against}" for one in table.gains))
    return Block("Gain of each iteration", header, tuple(means + grid), (f"{RULE}.", *_opponents(table), *lines))


def _mt_bench(table: ResultTable) -> Iterator[Block]:
    """MT-Bench by turn and category, a block a task that has any scored."""
    for column in dict.fromkeys(part.column for part in table.parts if part.value is not None):
        parts = [part for part in table.parts if part.column == column]
        names = dict.fromkeys((part.kind, part.name) for part in parts)
        values = {(part.row, part.kind, part.name): part for part in parts}
        header = ("", *(f"turn {name}" if kind == "turn" else name for kind, name in names))
        grid = tuple((row, *(_part(values.get((row, *name))) for name in names)) for row in table.rows)
        yield Block(f"{column} by turn and category", header, grid, ("Mean points of 10.",))


def _part(part: Part | None) -> str:
    if part is None:
        return "not run"
    return "unscored" if part.value is None else f"{part.value:.2f}"


def _beside(table: ResultTable) -> Iterator[Block]:
    """Ours, theirs, the difference where it may be taken, and why not where it may not."""
    columns = {column.label: column for column in table.columns}
    cells = [cell for cell in table.cells if cell.published is not None]
    numbers = {reason: number for number, reason in enumerate(dict.fromkeys(r for cell in cells for r in cell.reasons), 1)}
    grid = tuple(
        (
            f"{cell.row} {cell.column}",
            value_text(cell, columns[cell.column]),
            f"{cell.published.value:.2f}" if cell.published else ABSENT,
            delta_text(cell.from_published, columns[cell.column]),
            comparable_text(cell, numbers),
        )
        for cell in cells
    )
    if grid:
        lines = (
            "Same evaluation: the numbers differ by weights and chance. And training: the weights are the published ones or trained alike. "
            "A difference is printed only under the same evaluation; 95 % unpaired interval.",
        )
        reasons = tuple(f"({number}) {reason}." for reason, number in numbers.items())
        yield Block("Beside the published numbers", ("", "ours", "published", "ours - published", "same"), grid, lines + reasons)


def _comparisons(table: ResultTable) -> Block:
    """The last iteration less each other row, tasks going down, and what the mean says in words."""
    told = [(heading(column), [outcome_text(one.tasks.get(column.label), column) for one in table.comparisons]) for column in table.columns]
    means = ("mean over tasks", *(delta_text(one.mean, None) + lacking_text(one) for one in table.comparisons))
    grid = (means, *((label, *cells) for label, cells in told)) if table.comparisons else ()
    header = ("", *(f"{one.row} - {one.against}" for one in table.comparisons))
    lines = [f"{one.row} against {one.against}: {one.verdict}." for one in table.comparisons]
    over = sorted({f"Mean over {', '.join(one.mean_over)}." for one in table.comparisons if one.mean_over})
    return Block("Last iteration", header, grid, (*lines, *over, f"{RULE}.", *_opponents(table)))


def _published(table: ResultTable, one: PublishedTable) -> Block:
    tasks = tuple(one.reasons)
    grid = tuple((row, *(_printed(table, one, row, task) for task in tasks)) for row in one.rows)
    lines = [f"As printed in {one.where}; protocol: {one.protocol}."]
    if any(not reasons for reasons in one.reasons.values()):
        lines.append("In parentheses: ours, under the same evaluation.")
    for reasons in dict.fromkeys(found for found in one.reasons.values() if found):
        barred = [task for task, found in one.reasons.items() if found == reasons]
        lines.append(f"Not comparable with ours, {', '.join(barred)}: {'; '.join(reasons)}.")
    lines += [*_row_notes(one), *([f"{one.gains}."] if one.gains else [])]
    return Block(f"Published: {one.table}", ("", *tasks), grid, tuple(lines))


def _row_notes(one: PublishedTable) -> Iterator[str]:
    """The source's remark on the whole table, then those on single rows."""
    shared = min(one.notes.values(), key=len, default="")
    if shared:
        yield f"{shared}."
    for row, note in one.notes.items():
        if note != shared:
            yield f"{row}: {note.removesuffix(f'; {shared}')}."


def _printed(table: ResultTable, one: PublishedTable, row: str, task: str) -> str:
    value = one.rows[row].get(task)
    if value is None:
        return "not reported"
    ours = [cell for cell in table.cells if (cell.row, cell.column) == (row, task) and cell.value is not None and cell.same_evaluation]
    here = [cell for cell in ours if cell.published is not None and cell.published.table == one.table]
    printed = f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
    return printed + (f" ({here[0].value:.2f})" if here else "")


def _spread(table: SeedTable, row: str, column: Column) -> str:
    found = next(one for one in table.spreads if (one.row, one.column) == (row, column.label))
    if found.note:
        return "other rules"
    if found.mean is None:
        return f"{found.n} of {len(table.runs)} runs"
    digits = DECIMALS[column.unit]
    return f"{found.mean:.{digits}f}" + ("" if found.sd is None else f" ± {found.sd:.{digits}f}")


def _footnotes(cells: Sequence[Cell]) -> tuple[list[str], Callable[[Cell], str]]:
    """Lines for the cells' notes, and the mark each cell carries."""
    numbers: dict[str, int] = {}
    for cell in cells:
        for note in cell.notes if cell.status != "incomplete" else ():
            numbers.setdefault(note, len(numbers) + 1)
    lines = [f"({number}) {note}." for note, number in numbers.items()]
    return lines, lambda cell: "".join(f" ({numbers[note]})" for note in cell.notes if note in numbers)


def _header(table: ResultTable) -> tuple[str, ...]:
    return ("", *(heading(column) for column in table.columns))


RELEASED_DIR = "released"
"""Where the user puts what others released for a row: RUN/released/ROW/trainer_state.json, RUN/released/iterT/responses.*."""


def released_blocks(run: RunDir, recipe: Recipe) -> Iterator[Block]:
    """A block for each released artifact that lies in the run; none where there is none."""
    for row in rows(recipe):
        folder = run.path / RELEASED_DIR / row
        if (folder / "trainer_state.json").exists():
            yield training_block(row, training_state.compare(run, row, folder / "trainer_state.json"))
    for t in range(len(recipe.iterations)):
        for path in sorted((run.path / RELEASED_DIR / f"iter{t}").glob("responses.*")):
            yield responses_block(f"iter{t}", path, response_sets.compare([run], t, str(path), "train"))


def training_block(row: str, found: training_state.Comparison) -> Block:
    """Where the released training parts from ours."""
    grid = tuple(
        (
            curve.quantity,
            str(curve.num_points),
            "nowhere" if curve.parts_at is None else str(curve.parts_at),
            f"{curve.ours:.4g}",
            f"{curve.theirs:.4g}",
            f"{curve.difference:+.3g}" + ("" if curve.low is None else f" [{curve.low:+.3g}, {curve.high:+.3g}]"),
        )
        for curve in found.curves
    )
    header = ("", "logged steps", "parts at step", "ours", "theirs", "ours - theirs")
    told = (f"{line[0].upper()}{line[1:]}." for line in found.conclusions)
    lines = (*told, "Means from the parting on; 95 % t interval over logged steps.")
    return Block(f"Published training: {row}", header, grid, lines)


def responses_block(row: str, path: Path, found: list[response_sets.Comparison]) -> Block:
    """How far our responses and the released ones run together."""
    header = ("", "prompts", "identical", "common prefix", "of the shorter", "our length", "their length")
    grid = tuple(
        (
            one.run, str(one.matched), str(one.identical), f"{one.common_prefix:g}", f"{one.common_share:.0%}",
            f"{one.our_length:.0f}", f"{one.their_length:.0f}",
        )
        for one in found
    )  # fmt: skip
    lines = (*(f"{one.run}: {one.verdict}." for one in found), "Prefixes are medians, lengths means, in characters.")
    return Block(f"Published responses: {row}, {path.name}", header, grid, lines)
