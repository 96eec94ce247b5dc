"""Metrics of lm-eval's tasks have the unit and the direction that lm-eval gives them."""

from __future__ import annotations

import pytest

from harness.evaluation.units import lower_is_better, scale_of


@pytest.mark.parametrize(
    "metric",
    ["acc", "acc_norm,none", "exact_match,flexible-extract", "f1", "rouge1", "rougeL", "em", "prompt_level_strict_acc", "mc2", "pass@1",
     "bleu_acc", "rouge1_acc", "character_acc", "filter", "parameter_match", "likelihood_acc"],
)  # fmt: skip
def test_a_share_is_given_in_percent(metric: str) -> None:
    """Promise: what lies between 0 and 1 is multiplied by 100, whatever letters its name holds."""
    assert scale_of(metric) == 100.0


@pytest.mark.parametrize(
    "metric",
    ["eqbench", "percent_parseable", "bleu", "bleu_max", "bleu_diff", "rouge1_max", "rouge1_diff", "rougeL_avg,none", "chrf++", "ter",
     "wer", "word_perplexity", "bits_per_byte", "likelihood_diff", "brier_score", "mcc", "pearsonr", "bleurt", "age_bias", "average_len",
     "points of 10"],
)  # fmt: skip
def test_what_is_no_share_keeps_lm_evals_number(metric: str) -> None:
    """Promise: EQ-Bench's 60 is 60, TruthfulQA's ROUGE is not multiplied again, and what may be below 0 is no share."""
    assert scale_of(metric) == 1.0


def test_tasks_whose_metrics_are_in_percent_are_known_by_name() -> None:
    """Promise: SQuAD 2's F1 and SCROLLS' ROUGE come from `evaluate` in percent, other tasks' as shares; SCROLLS' accuracy is one."""
    assert (scale_of("f1", "squadv2"), scale_of("HasAns_exact", "squadv2"), scale_of("f1", "drop")) == (1.0, 1.0, 100.0)
    assert (scale_of("rouge1", "scrolls_govreport"), scale_of("em", "scrolls_quality"), scale_of("acc", "scrolls_quality")) == (
        1.0,
        1.0,
        100.0,
    )


def test_less_is_better_for_errors_alone() -> None:
    """Promise: perplexities, error rates and biases go down; a ROUGE or a metric that only contains their letters goes up."""
    lower = ["perplexity,none", "bits_per_byte", "ter", "wer", "brier_score", "mae", "amb_bias_score_Age", "likelihood_diff", "mse"]
    higher = ["acc", "character_acc", "filter", "rouge1_diff", "bleu_diff", "eqbench", "mcc", "likelihood", "exact_match,strict-match"]
    assert [*map(lower_is_better, lower)] == [True] * len(lower)
    assert [*map(lower_is_better, higher)] == [False] * len(higher)
