"""The unit and the direction of a metric of lm-eval, by the words of its name: shares are given in percent, anything else in its own unit.

lm-eval states no units. These lists hold what the tasks of release 0.4.13 report: https://github.com/EleutherAI/lm-evaluation-harness.
"""

from __future__ import annotations

import re

SHARES = {"acc", "accuracy"}
"""Shares whatever else the name says: bleu_acc is how often the right answers' BLEU is the higher one."""
OWN_UNIT = {
    "perplexity", "ppl", "bits", "likelihood", "loglikelihood",  # no bound
    "bleu", "chrf", "ter", "bleurt", "eqbench", "percent",  # lm-eval gives these between 0 and 100, or without bound
    "wer", "cer", "brier", "mae", "mse", "rmse", "points", "len", "length",
    "mcc", "pearsonr", "spearmanr", "bias", "diff", "difference",  # may be below 0
}  # fmt: skip
ROUGE_IN_HUNDREDS = {"max", "diff", "avg"}
"""TruthfulQA and its translations multiply rouge1_max by 100; a plain rouge1 is a share."""
TASKS_IN_HUNDREDS = ("squadv2", "scrolls")
"""How the names of tasks begin whose metrics come from `evaluate` in percent."""
LOWER_IS_BETTER = {
    "perplexity", "ppl", "bits", "ter", "wer", "cer", "brier", "mae", "mse", "rmse", "bias", "toxicity", "stereotype", "diff", "difference",
}  # fmt: skip
"""Where lm-eval does not tell: its differences are those of stereotypes, except TruthfulQA's, which are between right and wrong answers."""


def scale_of(metric: str, task: str = "") -> float:
    """What a metric's value is multiplied by: 100 for shares. `metric` may hold a filter, as METRIC,FILTER."""
    words = words_of(metric)
    if words & SHARES:
        return 100.0
    own = words & OWN_UNIT or (_is_text_overlap(words) and words & ROUGE_IN_HUNDREDS) or task.startswith(TASKS_IN_HUNDREDS)
    return 1.0 if own else 100.0


def is_lower_better(metric: str) -> bool:
    """Whether less is better."""
    words = words_of(metric)
    return bool(words & LOWER_IS_BETTER) and not words & SHARES and not _is_text_overlap(words)


def words_of(metric: str) -> set[str]:
    """The words of a metric's name: 'filter' and 'character_acc' hold no 'ter'."""
    return set(re.findall(r"[a-z0-9]+", metric.partition(",")[0].lower()))


def _is_text_overlap(words: set[str]) -> bool:
    """BLEU or ROUGE: more is better, of differences too."""
    return any(word.startswith(("bleu", "rouge")) for word in words)
