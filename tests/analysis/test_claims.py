"""What a run says about each claim of the paper follows from its intervals."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.analysis.claims import asked_of, summarize
from harness.analysis.table_schema import Finding, ResultTable
from harness.paper import CONTEXT
from harness.recipe import PairTraining, Recipe, Task, replace
from harness.report.blocks import blocks
from harness.report.formats.hub import to_card
from harness.report.tables import collect, render
from tests.synthetic_runs import CONTROL, Values, questions, small_recipe, write_run


def found(path: Path, better: Mapping[str, str] | None = None) -> dict[str, Finding]:
    """{claim: finding} of a run in which a row answers as the row it is mapped to."""

    def values(row: str, task: Task) -> Values:
        return questions((better or {}).get(row, row), task)

    return {one.claim: one for one in collect(write_run(path, small_recipe(), values)).findings}


def test_gain_loss_and_noise_are_told_apart(tmp_path: Path) -> None:
    """Above 0 is supported, around 0 is noise, below is contradicted, each with its numbers."""
    claim = "SPIN improves on its SFT model"
    assert found(tmp_path / "a")[claim].verdict == "supported"
    assert found(tmp_path / "b", {"iter1": "sft"})[claim].verdict == "within noise"
    lost = found(tmp_path / "c", {"sft": "iter1", "iter1": "sft"})[claim]
    assert lost.verdict == "contradicted"
    assert lost.evidence[0].startswith("iter1 - sft: -")
    assert "mean of 2 tasks" in lost.evidence[0]


def test_each_iteration_must_gain(tmp_path: Path) -> None:
    """One step back contradicts 'each iteration improves'; a control that catches up contradicts 'improves on further SFT'."""
    claims = found(tmp_path, {"iter0": "iter1", "iter1": "sft", "control": "iter1"})
    steps = claims["each iteration improves on the one before"]
    assert steps.verdict == "contradicted"
    assert len(steps.evidence) == 2
    assert claims["SPIN improves on further SFT"].verdict == "contradicted"


def test_what_was_not_trained_is_not_tested(tmp_path: Path) -> None:
    """No DPO row, no longer iteration 0, no readable verdict of MT-Bench: not tested, and it says why."""
    claims = found(tmp_path)
    for claim in ("SPIN from iteration 1 on beats DPO", "more epochs at iteration 0 do not reach iteration 1", "SPIN raises MT-Bench"):
        assert claims[claim].verdict == "not tested"
    assert claims["SPIN from iteration 1 on beats DPO"].evidence == ("this recipe trains no such row",)
    no_control = replace(small_recipe(), name="bare", controls={})
    bare = {one.claim: one for one in collect(write_run(tmp_path / "bare", no_control)).findings}
    assert bare["SPIN improves on further SFT"].verdict == "not tested"


def test_missing_tasks_leave_a_claim_untested(tmp_path: Path) -> None:
    """A mean over what happens to be there is not a verdict."""
    run = write_run(tmp_path, small_recipe(), lambda row, task: None if (row, task.name) == ("iter1", "gsm8k") else questions(row, task))
    finding = collect(run).findings[0]
    assert finding.verdict == "not tested"
    assert "gsm8k missing" in finding.evidence[0]


def test_tables_open_with_the_verdicts(tmp_path: Path) -> None:
    """The first thing in every format is what the run says about the paper's claims."""
    recipe = replace(small_recipe(), name="two", controls={"a": CONTROL, "b": CONTROL})
    run = write_run(tmp_path, recipe, lambda row, task: questions("sft" if row in "ab" else row, task))
    table = collect(run)
    assert render(table, "markdown").index("## The paper's claims") < render(table, "markdown").index("## Scores")
    assert len({one.claim: one for one in table.findings}["SPIN improves on further SFT"].evidence) == 2


def test_rivals_test_the_claims_about_dpo_and_epochs(tmp_path: Path) -> None:
    """A DPO row and a longer iteration 0 are what those claims are tested on; DPO after an iteration is not."""
    base = small_recipe()
    optimizer = base.optimizer
    dpo = PairTraining(objective="dpo", beta=0.1, learning_rate=5e-7, num_epochs=2, global_batch_size=64, optimizer=optimizer)
    longer = dpo.model_copy(update={"objective": "spin", "num_epochs": 4})
    rivals = {"dpo": dpo, "longer": longer, "late": dpo.model_copy(update={"start": "iter1"})}
    recipe = replace(base, name="rivals", rivals=rivals)
    answers = {"dpo": "sft", "longer": "iter1", "late": "iter1"}
    run = write_run(tmp_path, recipe, lambda row, task: questions(answers.get(row, row), task))
    claims = {one.claim: one for one in collect(run).findings}
    against_dpo = claims["SPIN from iteration 1 on beats DPO"]
    assert (against_dpo.verdict, len(against_dpo.evidence)) == ("supported", 1)
    assert against_dpo.evidence[0].startswith("iter1 - dpo: +")
    assert claims["more epochs at iteration 0 do not reach iteration 1"].verdict == "within noise"


OWN_OBJECTIVE = """
VERSION = 1
BRANCHES = ("real", "generated")
OPPONENT = True
GRADE = "D"


def loss(logps, beta):
    return -beta * logps.margin
"""


def other_objective(objective: str) -> Recipe:
    """The recipe for tests, trained with another objective than SPIN's."""
    base, parameters = small_recipe(), {"t_spin": {"proto_weight": 0.1}, "space": {"mu": 1.0}}.get(objective, {})
    iterations = tuple(one.model_copy(update={"parameters": parameters}) for one in base.iterations)
    return replace(base, name="other", objective=objective, iterations=iterations)


def losing_to_control(row: str, task: Task) -> Values:
    """Answers in which the last iteration gains on `sft`, and the control more."""
    return questions({"control": "iter1", "iter1": "iter0"}.get(row, row), task)


def claims_of(table: ResultTable) -> dict[str, str]:
    """{claim: where it stands}."""
    return {one.claim: one.where for one in table.findings}


@pytest.mark.parametrize("objective", ["t_spin", "space", "dpo"])
def test_claims_and_headline_name_what_was_trained(tmp_path: Path, objective: str) -> None:
    """Promise: a run of another objective says nothing of SPIN, save that it is SPIN the paper says this of."""
    run = write_run(tmp_path, other_objective(objective), losing_to_control)
    table = collect(run)
    assert claims_of(table)[f"{objective} improves on its SFT model"] == "said of SPIN: V3 Tables 3 to 5"
    assert f"{objective} from iteration 1 on beats DPO" in claims_of(table)
    assert f"{objective} raises MT-Bench" in claims_of(table)
    assert not any("SPIN" in claim.replace(objective, "") for claim in claims_of(table))
    assert summarize(table).headline == f"{objective} helped, but less than further SFT"
    note = f"The paper says this of SPIN; here it is asked of {objective}."
    assert next(block for block in blocks(table) if block.title == "The paper's claims").lines[0] == note
    assert note in str(to_card(run, "iter1"))


def test_an_own_objective_is_called_as_its_file(tmp_path: Path) -> None:
    """Promise: the name of a user's own objective is its file's, without folder and hash."""
    (tmp_path / "steep.py").write_text(OWN_OBJECTIVE)
    table = collect(write_run(tmp_path / "run", other_objective(str(tmp_path / "steep.py"))))
    assert next(iter(claims_of(table))) == "steep.py improves on its SFT model"
    assert summarize(table).headline == "steep.py helped"


@pytest.mark.parametrize("objective", CONTEXT["paper.losses"].value)
def test_every_loss_the_paper_allows_is_spin(tmp_path: Path, objective: str) -> None:
    """Promise: logistic, hinge, exponential and correlation loss are all SPIN, of which the paper's claims are the paper's."""
    table = collect(write_run(tmp_path, other_objective(objective), losing_to_control))
    assert claims_of(table)["SPIN improves on its SFT model"] == "V3 Tables 3 to 5"
    assert summarize(table).headline == "SPIN helped, but less than further SFT"
    assert asked_of(table.findings) == ()
