import math
from collections.abc import Iterator
from itertools import chain

import pytest

from harness import paper
from harness.analysis import published
from harness.analysis.record import paper_tables

SIX = ("arc_challenge", "truthfulqa_mc2", "winogrande", "gsm8k", "hellaswag", "mmlu")
MISPRINTED = ("paper/leaderboard", "iter3+dpo")

# (table, row) -> correct answers, as counted when its tables were read.
COUNTS = {
    ("sft", ("arc_challenge", "winogrande", "gsm8k")): (708, 940, 353),
    ("iter0", ("arc_challenge", "winogrande", "gsm8k")): (743, 921, 463),
    ("iter1", ("arc_challenge", "winogrande", "gsm8k")): (764, 916, 472),
    ("iter2", ("arc_challenge", "winogrande", "gsm8k")): (773, 932, 502),
    ("iter3", ("arc_challenge", "winogrande", "gsm8k")): (772, 934, 514),
    ("dpo", ("arc_challenge", "winogrande", "gsm8k")): (746, 920, 441),
}
CAUSAL = {"sft": 105, "iter0": 108, "iter1": 110, "iter2": 111}


def cell(table: str, row: str, task: str) -> published.Claim:
    """The claim, which must be there."""
    found = published.claim(table, row, task)
    assert found is not None, f"{table} {row} {task} is blank"
    return found


def score(row: str, task: str, table: str = "paper/leaderboard") -> float:
    """The printed value, from the paper's leaderboard table unless told."""
    return cell(table, row, task).value


def six_task_rows() -> Iterator[tuple[str, str]]:
    """Every (table, row) that prints all six scores and their mean."""
    for table in dict.fromkeys(claim.table for claim in published.CLAIMS):
        tasks: dict[str, set[str]] = {}
        for claim in published.claims(table):
            tasks.setdefault(claim.row, set()).add(claim.task)
        yield from ((table, row) for row, found in tasks.items() if found >= {*SIX, "average"})


def row_mean(table: str, row: str) -> float:
    """The mean that a row's six cells give, unrounded."""
    return sum(score(row, task, table) for task in SIX) / len(SIX)


def test_printed_means_are_the_means_of_their_rows() -> None:
    """Every printed mean is that of its six cells, to the printed digit, save the one the paper misprints."""
    rows = list(six_task_rows())
    assert len(rows) == 17
    wrong = {key for key in rows if abs(row_mean(*key) - cell(*key, "average").value) > 0.00501}
    assert wrong == {MISPRINTED}


def test_means_of_ten_tasks_are_the_means_of_their_rows() -> None:
    """T-SPIN's Table 1: twelve rows of ten tasks, each beside its mean."""
    tables = [claim for claim in published.CLAIMS if claim.table in ("rerun/tspin_zephyr", "follow_up/tspin_zephyr")]
    by_row: dict[tuple[str, str], dict[str, float]] = {}
    for claim in tables:
        by_row.setdefault((claim.table, claim.row), {})[claim.task] = claim.value
    full = {key: row for key, row in by_row.items() if len(row) == 11}
    assert len(full) == 12
    for key, row in full.items():
        printed = row.pop("average_10")
        assert sum(row.values()) / 10 == pytest.approx(printed, abs=0.00501), key


def test_the_ablations_agree_with_the_tables() -> None:
    """The published iter0 is epoch 2 of the curve; both pictures have the same epoch 1 on 50k; no epoch reaches iteration 1."""
    for task in ("arc_challenge", "truthfulqa_mc2", "average"):
        assert score("epoch2", task, "paper/iter0_epochs") == score("iter0", task)
    assert score("epoch1", "average", "paper/iter0_epochs") == score("50k", "average", "paper/data_size")
    epochs = [score(f"epoch{epoch}", "average", "paper/iter0_epochs") for epoch in range(1, 6)]
    assert max(epochs) + paper_tables.READING_ERROR < score("iter1", "average")
    sizes = [score(row, "average", "paper/data_size") for row in ("sft", "14k", "26k", "50k")]
    assert sizes == sorted(sizes)


def test_what_was_read_off_a_curve_is_graded_so() -> None:
    """Printed numbers are A; digitised ones are B and state their reading error."""
    grades = {claim.table: claim.grade for claim in published.CLAIMS if claim.source == "authors"}
    assert grades == {"paper/data_size": "A", "paper/sft_epochs": "A", "paper/iter0_epochs": "B"}
    assert f"±{paper_tables.READING_ERROR}" in cell("paper/iter0_epochs", "epoch3", "average").note


def test_misprints_recompute_from_the_claims() -> None:
    """What MISPRINTS calls right follows from the paper's own cells, and what it calls printed is what CLAIMS hold."""
    average, gain, gsm8k = paper.MISPRINTS
    mean = row_mean(*MISPRINTED)
    assert average[4:] == ("iter3+dpo", "average", None)
    assert gain[4:] == ("iter3+dpo", "average", "iter3")
    assert (average.printed, average.recomputed) == (score("iter3+dpo", "average"), round(mean, 2))
    assert gain.printed == next(g.value for g in published.GAINS if g.row == "iter3+dpo")
    assert gain.recomputed == round(mean - row_mean("paper/leaderboard", "iter3"), 2)
    assert gsm8k.recomputed == round(score("iter0", "gsm8k") - score("sft", "gsm8k"), 2) < gsm8k.printed
    assert round(score("iter0", "truthfulqa_mc2") - score("sft", "truthfulqa_mc2"), 2) == 5.45


def test_intro_gain_holds_from_iter2() -> None:
    """The introduction's '10 % or more' on both GSM8K and TruthfulQA is true of iter2 and iter3, not before."""
    least = {
        row: min(score(row, task) - score("sft", task) for task in ("gsm8k", "truthfulqa_mc2"))
        for row in ("iter0", "iter1", "iter2", "iter3")
    }
    assert [row for row, gain in least.items() if gain >= paper.CONTEXT["paper.intro_gain"].value] == ["iter2", "iter3"]


@pytest.mark.parametrize("gain", published.GAINS, ids=lambda gain: f"{gain.table}:{gain.row}")
def test_printed_gain_is_the_difference_of_printed_scores(gain: published.Gain) -> None:
    """A gain in parentheses is the row's printed score minus the row's before it."""
    difference = score(gain.row, gain.task, gain.table) - score(gain.against, gain.task, gain.table)
    assert round(difference, 2) == gain.value


def test_scores_are_whole_numbers_of_questions() -> None:
    """Where n is given, a whole number of right answers prints as the claimed score: the full test set was used."""
    counted = [claim for claim in published.CLAIMS if claim.n is not None]
    assert len(counted) > 60
    for claim in counted:
        assert claim.n is not None
        right = round(claim.value * claim.n / 100)
        assert round(100 * right / claim.n, 2) == claim.value, claim


def test_counts_of_right_answers_are_the_known_ones() -> None:
    """The counts of right answers read off the paper's tables are those that its percentages give."""
    for (row, tasks), counts in COUNTS.items():
        for task, right in zip(tasks, counts, strict=True):
            found = cell("paper/leaderboard", row, task)
            assert found.n is not None
            assert round(found.value * found.n / 100) == right
    for row, right in CAUSAL.items():
        assert round(score(row, "bbh_causal_judgement", "paper/big_bench") * 1.87) == right


def test_standard_errors_are_binomial() -> None:
    """A quoted standard error is that of a share of n questions, so it cannot be confused with a spread over seeds."""
    for task in ("arc_challenge", "winogrande", "gsm8k"):
        found = cell("paper/leaderboard", "iter0", task)
        assert found.n is not None
        share = found.value / 100
        expected = 100 * math.sqrt(share * (1 - share) / found.n)
        assert paper.STANDARD_ERRORS[task].value == pytest.approx(expected, abs=0.05)


def test_settings_and_release_answer_the_same_questions() -> None:
    """The paper and its code are compared field by field, so each names every field, if only to say 'not stated'."""
    assert set(paper.SETTINGS) == set(paper.RELEASED)


def test_known_disagreements_are_all_there_are() -> None:
    """Where both speak, the paper and its code differ in exactly these fields; a slip in either dict shows here."""
    pairs = {key: (paper.SETTINGS[key].value, paper.RELEASED[key].value) for key in paper.SETTINGS}
    differ = {key for key, (said, done) in pairs.items() if said != done and paper.NOT_STATED not in (said, done)}
    schedules = {f"iterations.{t}.schedule_epochs" for t in range(paper.NUM_ITERATIONS)}
    assert differ == {"prompts.num_prompts", "training_template", "max_length"} | schedules


def test_nothing_is_said_without_a_source() -> None:
    """Every fact, protocol and claim names a known source and a place to look it up."""
    dicts = (paper.SETTINGS, paper.RELEASED, paper.CONTEXT, paper.TIMES, paper.HARNESS, paper.STANDARD_ERRORS)
    facts = chain(*(d.values() for d in dicts), paper.RERUNS.values())
    origins = [(said.source, said.where) for group in (facts, paper.PROTOCOL.values(), published.CLAIMS) for said in group]
    assert len(origins) > 300
    for source, where in origins:
        assert source in paper.SOURCES, where
        assert where.strip(), source
    assert {fact.source for fact in paper.SETTINGS.values()} == {"paper"}
    assert all(item.what and item.reason for item in paper.NOT_RECOVERABLE)


def test_only_what_was_read_is_encoded() -> None:
    """No figure from a secondary source or from memory (grades C, D) is among the claims."""
    assert {claim.grade for claim in published.CLAIMS} <= {"A", "B"}


def test_no_cell_is_claimed_twice() -> None:
    """A table has one value for a row and a task."""
    keys = [(claim.table, claim.row, claim.task) for claim in published.CLAIMS]
    assert len(keys) == len(set(keys))


def test_paper_scores_follow_the_stated_protocol() -> None:
    """Metric and shots on the paper's cells are those its protocol tables give."""
    for claim in published.CLAIMS:
        if claim.source == "paper" and claim.task != "average":
            stated = paper.PROTOCOL[claim.task]
            assert (claim.metric, claim.shots) == (stated.metric, stated.shots), claim


def test_winogrande_is_the_only_task_whose_shots_are_lost() -> None:
    """The pinned harness drops the few-shot context of Winogrande alone."""
    lost = {t for t, p in paper.PROTOCOL.items() if p.shots_in_effect is not None and p.shots != p.shots_in_effect}
    assert lost == {"winogrande"}


def test_training_time_shows_two_epochs_of_the_released_pairs() -> None:
    """778 steps x 2 epochs x 10 s is the 4.32 h printed; 50,000 pairs or 3 epochs would print another number."""
    steps, seconds = paper.TIMES["steps_per_epoch"].value, paper.TIMES["training_seconds_per_64"].value
    batch, printed = paper.SETTINGS["global_batch_size"].value, paper.TIMES["training_hours"].value

    def hours(num_steps: int, epochs: int) -> float:
        return round(num_steps * epochs * float(seconds) / 3600, 2)

    assert steps == paper.RELEASED["prompts.num_prompts"].value // batch
    assert hours(steps, paper.SETTINGS["iterations.0.stop_after_epochs"].value) == printed[0]
    assert {hours(2 * steps, 2)} == set(printed[1:])
    assert hours(math.ceil(50_000 / batch), 2) != printed[0] != hours(steps, 3)


def test_generation_time_fits_its_rate() -> None:
    """778 batches of 64 at 6.69 s take the 1.45 h printed for each iteration."""
    hours = paper.TIMES["steps_per_epoch"].value * paper.TIMES["generation_seconds_per_64"].value / 3600
    assert {round(hours, 2)} == set(paper.TIMES["generation_hours"].value)


def test_pairs_from_matches_the_stated_number_of_pairs() -> None:
    """An iteration trains on as many sets of 50k pairs as the paper counts."""
    per_set = paper.SETTINGS["prompts.num_prompts"].value
    num_pairs = [len(paper.SETTINGS[f"iterations.{t}.pairs_from"].value) * per_set for t in range(paper.NUM_ITERATIONS)]
    assert tuple(num_pairs) == paper.CONTEXT["paper.pairs"].value


def test_reruns_are_tables_of_claims() -> None:
    """Every re-run has a table, and every table of a re-run says what was run."""
    tables = {claim.table for claim in published.CLAIMS if claim.table.startswith("rerun/")}
    assert set(paper.RERUNS) == tables


def test_the_card_of_another_revision_is_not_the_baseline() -> None:
    """The live leaderboard has no row for the SFT revision SPIN trained, so no baseline can be read from it."""
    assert published.claim("cards/leaderboard", "sft", "average") is None
    assert cell("cards/leaderboard", "sft@main", "average").value == 57.56


def test_a_blank_cell_is_none_and_a_typo_is_an_error() -> None:
    """What was not reported is None; a name that no table has is refused, and the message lists the names there are."""
    assert published.claim("paper/mt_bench", "iter3", "mt_bench") is None
    with pytest.raises(LookupError, match=r"no published table has the task 'gsmk8'.*gsm8k"):
        published.claim("paper/leaderboard", "iter0", "gsmk8")
    with pytest.raises(LookupError, match=r"'paper/leaderbord'.*paper/leaderboard"):
        published.claims("paper/leaderbord")
