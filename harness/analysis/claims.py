"""The paper's claims, each with what a run, or several seeds, say about it: supported, contradicted, within noise or not tested.

A claim is supported where the 95 % interval of the difference it speaks about lies above 0, and contradicted where it lies below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from harness.analysis.comparability import AVERAGE
from harness.analysis.differences import REFERENCE, compare, delta, delta_text, difference
from harness.analysis.published import CLAIMS
from harness.analysis.scores import Scores, sources
from harness.analysis.table_schema import Column, Comparison, Delta, Finding, ResultTable
from harness.plan import baselines, plan
from harness.recipe import Recipe

Verdict = Literal["supported", "contradicted", "within noise", "not tested"]
Spec = dict[str, Any]
HEADLINES = {
    "supported": "SPIN helped",
    "contradicted": "SPIN did harm",
    "within noise": "No gain beyond noise",
    "not tested": "Not tested yet",
}
_LEADERBOARD = "V3 Tables 3 to 5"
_MT_BENCH = "V3 Table 6"
_AVERAGES = {(cell.table, cell.row): cell.value for cell in CLAIMS if cell.task == AVERAGE}
_AT_SIZE = {row: value for (table, row), value in _AVERAGES.items() if table == "paper/data_size"}
_SIZES = f"V3 Fig. 5: {', '.join(map(str, _AT_SIZE.values()))} with 0, {', '.join([*_AT_SIZE][1:])} prompts"
_AT_EPOCH = [value for (table, row), value in _AVERAGES.items() if table == "paper/iter0_epochs" and row.startswith("epoch")]
_EPOCHS = f"V3 Fig. 4: {max(_AT_EPOCH)} at best in {len(_AT_EPOCH)} epochs, {_AVERAGES['paper/leaderboard', 'iter1']} at iteration 1"


class Measured(NamedTuple):
    """What was found of one row less another: the difference that decides, what kept it from being whole, and both in words."""

    decides: Delta | None
    missing: tuple[str, ...]
    told: str


Measure = Callable[[str, str, Column | None], Measured]
"""(row, against, column) -> what was found, of the mean over tasks where there is no column."""


def findings(recipe: Recipe, columns: Sequence[Column], scores: Scores) -> Iterator[Finding]:
    """A finding for each claim, in the paper's order, from one run."""
    by_label = {source.label: source for source in sources(recipe)}

    def measure(row: str, against: str, column: Column | None) -> Measured:
        if column is None:
            one = compare(recipe, columns, scores, row, against)
            return Measured(headline(one), _missing(one), _told(one))
        found = delta(against, difference(row, against, by_label[column.label], scores).paired)
        told = delta_text(found, column) if found else "no difference, unscored or not run"
        return Measured(found, (), f"{row} - {against} on {column.label}: {told}")

    return judge(recipe, columns, measure)


def judge(recipe: Recipe, columns: Sequence[Column], measure: Measure, sizes: Sequence[tuple[str, str]] = ()) -> Iterator[Finding]:
    """A finding for each claim, in the paper's order, by what `measure` finds of the rows that it speaks about.

    `sizes` are (row, row trained on less data) of runs that differ in nothing else; only with such rows is there a claim about them.
    """
    if not recipe.iterations:
        return
    t_last = len(recipe.iterations) - 1
    last, later = f"iter{t_last}", [f"iter{t}" for t in range(1, t_last + 1)]
    others, first = _other_training(recipe)
    pairs = {
        _Claim("SPIN improves on its SFT model", _LEADERBOARD): [(last, REFERENCE)],
        _Claim("each iteration improves on the one before", _LEADERBOARD): _steps(recipe),
        _Claim("SPIN improves on further SFT", f"{_LEADERBOARD}, SFT + 1 epoch"): [(last, row) for row in _trained_with(others, "sft")],
        _Claim("SPIN from iteration 1 on beats DPO", _LEADERBOARD): [(row, dpo) for dpo in _trained_with(others, "dpo") for row in later],
        _Claim("more epochs at iteration 0 do not reach iteration 1", _EPOCHS): [
            ("iter1", longer) for longer in _longer_than(first, others) if later
        ],
    }
    for claim, rows_of in pairs.items():
        yield _finding(claim, [measure(row, against, None) for row, against in rows_of])
    if sizes:
        yield _finding(_Claim("the score rises with data", _SIZES), [measure(row, less, None) for row, less in sizes])
    for column in columns:  # MT-Bench, one finding a judge's task that the recipe has
        if column.benchmark == "mt_bench":
            yield _finding(_Claim("SPIN raises MT-Bench", _MT_BENCH), [measure(last, REFERENCE, column)])


def _steps(recipe: Recipe) -> list[tuple[str, str]]:
    return [(f"iter{t}", f"iter{t - 1}" if t else REFERENCE) for t in range(len(recipe.iterations))]


class _Claim(NamedTuple):
    text: str
    where: str


def _trained_with(others: Mapping[str, Spec], objective: str) -> list[str]:
    return [row for row, spec in others.items() if spec["objective"] == objective]


def _longer_than(first: Spec, others: Mapping[str, Spec]) -> list[str]:
    """Rows trained as iteration 0 is, for more epochs."""
    return [row for row in _trained_with(others, first["objective"]) if others[row]["stop_after_epochs"] > first["stop_after_epochs"]]


def _other_training(recipe: Recipe) -> tuple[dict[str, Spec], Spec]:
    """{row: its training} of the rows no iteration had a part in, without `sft`, and the training of iteration 0."""
    specs = {stage.path: stage.spec for stage in plan(recipe) if stage.kind == "train"}
    others = [row for row in baselines(recipe) if row != REFERENCE]
    return {row: specs[f"{row}/train"] for row in others if f"{row}/train" in specs}, specs["iter0/train"]


def headline(one: Comparison) -> Delta | None:
    """What a verdict is about: the six-task average where there is one, else the mean over the recipe's accuracy tasks."""
    return one.tasks.get(AVERAGE, one.mean)


def _missing(one: Comparison) -> tuple[str, ...]:
    return () if AVERAGE in one.tasks else one.missing


def _told(one: Comparison) -> str:
    found = headline(one)
    what = "leaderboard average" if AVERAGE in one.tasks else f"mean of {len(one.mean_over)} tasks"
    if found is None:
        return f"{one.row} - {one.against}: no difference yet"
    lacking = f", {', '.join(_missing(one))} missing" if _missing(one) else ""
    return f"{one.row} - {one.against}: {delta_text(found, None)} ({what}{lacking})"


def _verdict(found: Delta | None, missing: Sequence[str]) -> Verdict:
    if found is None or found.low is None or found.high is None or missing:
        return "not tested"
    return "supported" if found.low > 0 else "contradicted" if found.high < 0 else "within noise"


def _joined(verdicts: Sequence[Verdict]) -> Verdict:
    """All must hold: one contradiction contradicts, else the weakest decides."""
    order: tuple[Verdict, ...] = ("contradicted", "not tested", "within noise", "supported")
    return min(verdicts, key=order.index, default="not tested")


def _finding(claim: _Claim, found: Sequence[Measured]) -> Finding:
    """Whether the first row of every pair beats the second; not tested where the recipe has no such pair."""
    verdict = _joined([_verdict(one.decides, one.missing) for one in found])
    evidence = tuple(one.told for one in found) or ("this recipe trains no such row",)
    return Finding(claim=claim.text, where=claim.where, verdict=verdict, evidence=evidence)


def in_short(table: ResultTable) -> tuple[str, str, list[str]]:
    """What the run says first: words, verdict, the numbers."""
    claims = {finding.claim: finding for finding in table.findings}
    first = next(iter(table.findings), Finding(claim="", where="", verdict="not tested", evidence=("no iteration",)))
    told = list(first.evidence)
    further = claims.get("SPIN improves on further SFT")
    if further and further.verdict != "not tested":
        than = {"supported": "more than", "contradicted": "less than", "within noise": "within noise of"}[further.verdict]
        told.append(f"{than} further SFT: {'; '.join(further.evidence)}")
    if first.verdict == "supported" and further and further.verdict == "contradicted":
        return "SPIN helped, but less than further SFT", "within noise", told
    return HEADLINES[first.verdict], first.verdict, told
