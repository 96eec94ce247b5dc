"""What the listing commands say is what the recipe, the plan and the disk say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import machine, paper
from harness.analysis.deviations import deviation_list
from harness.artifact import RunDir
from harness.cli import listings as listing
from harness.cli.printing import lineage_of, quantity
from harness.plan import plan
from harness.recipe import available, load
from harness.runs.needs.costs import Cost
from tests.synthetic_runs import small_recipe, write_run

ZEPHYR, RELEASE = load("zephyr-7b"), load("zephyr-7b-release")


def planned(name: str, place: str, folder: Path) -> dict[str, object]:
    return listing.plan_list(load(name), RunDir(folder), machine.load(place))


def test_every_shipped_recipe_is_listed() -> None:
    """A row a recipe, with the summary its file states and the file it is in."""
    rows = {row["name"]: row for row in listing.recipe_list()}
    assert set(rows) == set(available())
    assert rows["zephyr-7b"]["file"] == "recipes/zephyr_7b.py"
    assert rows["zephyr-7b"]["summary"] == ZEPHYR.summary


def test_schedule_is_the_papers(tmp_path: Path) -> None:
    """Four iterations: the opponent is the iteration before, 50k then 100k pairs, the stated beta and learning rate."""
    rows = listing.schedule(ZEPHYR)
    assert [row["opponent"] for row in rows] == ["sft", "iter0", "iter1", "iter2"]
    assert [row["pairs"] for row in rows] == [50_000, 100_000, 100_000, 100_000]
    assert [row["beta"] for row in rows] == [0.1, 0.1, 0.1, 5.0]
    assert [row["learning_rate"] for row in rows] == [5e-7, 5e-7, 1e-7, 1e-7]


def test_plan_sums_its_stages(tmp_path: Path) -> None:
    """Totals are the sums over the stages, and the most memory any stage needs; every value is finite JSON."""
    found = listing.plan_list(ZEPHYR, RunDir(tmp_path), machine.load("a100x8"))
    for name in set(Cost._fields) - {"memory_gb"}:
        assert found["totals"][name] == pytest.approx(sum(stage[name] or 0 for stage in found["stages"]))
    assert found["totals"]["memory_gb"] == max(stage["memory_gb"] for stage in found["stages"])
    assert found["totals"]["paper_hours"] == pytest.approx(sum(paper.TIMES["training_hours"].value) + 4 * 1.45)
    json.dumps(found, allow_nan=False)


def test_plan_warns_where_a_device_is_too_small(tmp_path: Path) -> None:
    """A 7B training on one H100 is said not to fit, with both numbers; on eight A100s only the judge is missing."""
    memory, judge = planned("zephyr-7b", "h100x1", tmp_path)["warnings"]
    assert memory.startswith("train stages of zephyr-7b need 118 GB on each device (")
    assert planned("zephyr-7b", "a100x8", tmp_path)["warnings"] == [judge]


def test_missing_run_is_all_missing(tmp_path: Path) -> None:
    """Looking at a run that was never started creates nothing."""
    rows = listing.status_list(ZEPHYR, RunDir(tmp_path / "none"))
    assert {row["state"] for row in rows} == {"missing"}
    assert [row["path"] for row in rows] == [stage.path for stage in plan(ZEPHYR)]
    assert not (tmp_path / "none").exists()


def test_diff_shows_where_paper_and_release_part() -> None:
    """The known differences are there with the release's reasons, and names and reasons are not differences."""
    rows = {row["field"]: row for row in listing.diff_list(ZEPHYR, RELEASE)}
    assert (rows["max_length"]["left"], rows["max_length"]["right"]) == (2048, 1024)
    assert (rows["sampling.temperature"]["left"], rows["sampling.temperature"]["right"]) == (1.0, 0.0)
    assert rows["iterations.0.schedule_epochs"]["right_reason"].startswith("scripts schedule 6 epochs")
    assert not [field for field in rows if field.split(".")[0] in ("name", "summary", "because")]
    assert listing.diff_list(ZEPHYR, ZEPHYR) == []


def test_deviations_carry_source_and_reason() -> None:
    """Each row of the paper's own recipe is a gap with the place that was read and why the value was chosen."""
    rows = deviation_list(ZEPHYR)
    assert rows
    assert {row["kind"] for row in rows} == {"gap"}
    assert all(row["reason"] and row["where"] and row["source"] for row in rows)


def test_lineage_in_words() -> None:
    """A training names the checkpoint it starts from and plays against, and whose responses it reads."""
    stages = {stage.path: stage for stage in plan(ZEPHYR)}
    assert lineage_of(stages["iter2/train"].inputs) == (
        "policy and opponent iter1/train; prompts; responses of iter1/generate and iter2/generate"
    )
    assert lineage_of(stages["sft/eval/open_llm"].inputs) == "policy sft/model"
    assert lineage_of({}) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""), (0, ""), (4e-5, "<0.001"), (0.0324, "0.032"), (0.985, "0.98"), (1.45, "1.45"), (29.0, "29"), (145.2, "145"),
        (999.9, "1000"), (4321, "4.32k"), (26.7e6, "26.7M"), (134e6, "134M"), (7.3e10, "73G"), (3.39e18, "3.4e18"),
    ],
)  # fmt: skip
def test_quantities_are_short(value: float | None, shown: str) -> None:
    """Three digits or fewer, in at most six characters, so that a column never breaks a number."""
    assert quantity(value) == shown
    assert len(shown) <= 6


def test_estimates_state_what_they_rest_on(tmp_path: Path) -> None:
    """The guessed mfu, what scoring leaves out and the states on the disk are named; a finished stage shows what it took."""
    found = listing.plan_list(ZEPHYR, RunDir(tmp_path / "none"), machine.load("a100x8"))
    text = " ".join(found["assumptions"])
    assert "mfu 0.35" in text
    assert "116 GB at the peak" in text
    assert {stage["measured_hours"] for stage in found["stages"]} == {None}
    done = listing.plan_list(small_recipe(), RunDir(write_run(tmp_path / "run", small_recipe())), machine.load("a100x8"))
    assert {stage["measured_hours"] for stage in done["stages"]} == {1 / 3600}
