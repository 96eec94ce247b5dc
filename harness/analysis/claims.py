"""The paper's claims, each with what a run, or several seeds, say about it: supported, contradicted, within noise or not tested.

A claim is supported where the 95 % interval of the difference it speaks about lies above 0, and contradicted where it lies below.
The paper's claims are about SPIN. Of a run of another objective the same is asked, under that objective's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.analysis.comparability import AVERAGE
from harness.analysis.differences import REFERENCE, compare_rows, delta, delta_text
from harness.analysis.published import CLAIMS
from harness.analysis.scores import RunScores
from harness.analysis.table_schema import Column, Comparison, Delta, Finding, ResultTable
from harness.files import bare_name
from harness.paper import CONTEXT
from harness.plan import plan
from harness.recipe import Recipe
from harness.rows import baselines, opponent_of

Verdict = Literal["supported", "contradicted", "within noise", "not tested"]
Spec = dict[str, Any]
SPIN = "SPIN"
IMPROVES = " improves on its SFT model"
"""How the first claim goes on after the name of what was trained."""
FURTHER_SFT = " improves on further SFT"
HEADLINES = {
    "supported": "{} helped",
    "contradicted": "{} did harm",
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


class Effect(NamedTuple):
    """One row less another, as far as a claim needs it: the difference that decides, the tasks it lacks, and both in words."""

    difference: Delta | None
    missing: tuple[str, ...]
    text: str


MeasureEffect = Callable[[str, str, Column | None], Effect]
"""(row, against, column) -> the effect on that column, on the mean over tasks where there is no column."""


def check_claims(scores: RunScores) -> Iterator[Finding]:
    """What one run says about each claim, in the paper's order."""

    def measure(row: str, against: str, column: Column | None) -> Effect:
        if column is None:
            comparison = compare_rows(scores, row, against)
            return Effect(headline(comparison), _missing(comparison), _mean_text(comparison))
        difference = delta(against, scores.difference(row, against, scores.by_label[column.label]).paired)
        text = delta_text(difference, column) if difference else "no difference, unscored or not run"
        return Effect(difference, (), f"{row} - {against} on {column.label}: {text}")

    return check_claims_by(measure, scores.recipe, scores.columns)


def check_claims_by(
    measure: MeasureEffect, recipe: Recipe, columns: Sequence[Column], sizes: Sequence[tuple[str, str]] = ()
) -> Iterator[Finding]:
    """What the effects that `measure` gives say about each claim, in the paper's order.

    `sizes` are (row, row trained on less data) of runs that differ in nothing else; only with such rows is there a claim about them.
    """
    name = _name_of(recipe.objective)
    for finding in _findings(measure, recipe, columns, sizes, name) if recipe.iterations else ():
        yield finding if name == SPIN else finding.model_copy(update={"where": f"said of SPIN: {finding.where}"})


def _name_of(objective: str) -> str:
    """'SPIN' of every loss the paper allows; else the objective's own name, a file's without its hash."""
    return SPIN if objective in CONTEXT["paper.losses"].value else Path(bare_name(objective)).name


def _findings(
    measure: MeasureEffect, recipe: Recipe, columns: Sequence[Column], sizes: Sequence[tuple[str, str]], name: str
) -> Iterator[Finding]:
    last = f"iter{len(recipe.iterations) - 1}"
    for claim, pairs in _claims(recipe, last, name).items():
        yield _finding(claim, [measure(row, against, None) for row, against in pairs])
    if sizes:
        yield _finding(_Claim("the score rises with data", _SIZES), [measure(row, less, None) for row, less in sizes])
    judged = [column for column in columns if column.benchmark == "mt_bench"]
    for column in judged:  # each judge says for itself
        by = f" by {column.label}" if len(judged) > 1 else ""
        yield _finding(_Claim(f"{name} raises MT-Bench{by}", _MT_BENCH), [measure(last, REFERENCE, column)])


def _claims(recipe: Recipe, last: str, name: str) -> dict[_Claim, list[tuple[str, str]]]:
    """{claim: the pairs of rows it speaks about}; the first row of every pair must be better than the second."""
    later = [f"iter{t}" for t in range(1, len(recipe.iterations))]
    others, first = _other_training(recipe)
    return {
        _Claim(f"{name}{IMPROVES}", _LEADERBOARD): [(last, REFERENCE)],
        _Claim("each iteration improves on the one before", _LEADERBOARD): _steps(recipe),
        _Claim(f"{name}{FURTHER_SFT}", f"{_LEADERBOARD}, SFT + 1 epoch"): [(last, row) for row in _trained_with(others, "sft")],
        _Claim(f"{name} from iteration 1 on beats DPO", _LEADERBOARD): [
            (row, dpo) for dpo in _trained_with(others, "dpo") for row in later
        ],
        _Claim("more epochs at iteration 0 do not reach iteration 1", _EPOCHS): [
            ("iter1", longer) for longer in _longer_than(first, others) if later
        ],
    }


def _steps(recipe: Recipe) -> list[tuple[str, str]]:
    return [(f"iter{t}", opponent_of(t)) for t in range(len(recipe.iterations))]


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


def headline(comparison: Comparison) -> Delta | None:
    """What a verdict is about: the six-task average where there is one, else the mean over the recipe's accuracy tasks."""
    return comparison.tasks.get(AVERAGE, comparison.mean)


def _missing(comparison: Comparison) -> tuple[str, ...]:
    return () if AVERAGE in comparison.tasks else comparison.missing


def _mean_text(comparison: Comparison) -> str:
    difference, missing = headline(comparison), _missing(comparison)
    pair = f"{comparison.row} - {comparison.against}"
    if difference is None:
        return f"{pair}: no difference yet"
    tasks = "leaderboard average" if AVERAGE in comparison.tasks else f"mean of {len(comparison.mean_over)} tasks"
    lacking = f", {', '.join(missing)} missing" if missing else ""
    return f"{pair}: {delta_text(difference, None)} ({tasks}{lacking})"


def _verdict(effect: Effect) -> Verdict:
    difference = effect.difference
    if difference is None or difference.low is None or difference.high is None or effect.missing:
        return "not tested"
    return "supported" if difference.low > 0 else "contradicted" if difference.high < 0 else "within noise"


def _joined(verdicts: Sequence[Verdict]) -> Verdict:
    """All must hold: one contradiction contradicts, else the weakest decides."""
    order: tuple[Verdict, ...] = ("contradicted", "not tested", "within noise", "supported")
    return min(verdicts, key=order.index, default="not tested")


def _finding(claim: _Claim, effects: Sequence[Effect]) -> Finding:
    """Whether every effect is above 0; not tested where the recipe has no pair of rows that the claim speaks about."""
    verdict = _joined([_verdict(effect) for effect in effects])
    evidence = tuple(effect.text for effect in effects) or ("this recipe trains no such row",)
    return Finding(claim=claim.text, where=claim.where, verdict=verdict, evidence=evidence)


class Summary(NamedTuple):
    """What a run says first: a headline, its verdict, and the numbers behind it, a line each."""

    headline: str
    verdict: Verdict
    numbers: list[str]


def subject(findings: Sequence[Finding]) -> str:
    """What the findings are about, as the first claim begins: SPIN, or the objective that was trained in its place."""
    return findings[0].claim.removesuffix(IMPROVES) if findings else SPIN


def asked_of(findings: Sequence[Finding]) -> tuple[str, ...]:
    """A line that the paper claims this of SPIN alone, where another objective was trained."""
    name = subject(findings)
    return () if name == SPIN else (f"The paper says this of SPIN; here it is asked of {name}.",)


def overall(findings: Sequence[Finding]) -> Verdict:
    """The first claim's verdict; what helped, but less than further SFT did, counts as within noise."""
    verdicts = {finding.claim: finding.verdict for finding in findings}
    first = findings[0].verdict if findings else "not tested"
    return "within noise" if first == "supported" and verdicts.get(f"{subject(findings)}{FURTHER_SFT}") == "contradicted" else first


def summarize(table: ResultTable) -> Summary:
    """What the run says about the first claim, and beside it about further SFT."""
    claims, name = {finding.claim: finding for finding in table.findings}, subject(table.findings)
    first = next(iter(table.findings), Finding(claim="", where="", verdict="not tested", evidence=("no iteration",)))
    numbers = list(first.evidence)
    further = claims.get(f"{name}{FURTHER_SFT}")
    if further and further.verdict != "not tested":
        than = {"supported": "more than", "contradicted": "less than", "within noise": "within noise of"}[further.verdict]
        numbers.append(f"{than} further SFT: {'; '.join(further.evidence)}")
    if first.verdict == "supported" and further and further.verdict == "contradicted":
        return Summary(f"{name} helped, but less than further SFT", overall(table.findings), numbers)
    return Summary(HEADLINES[first.verdict].format(name), first.verdict, numbers)
