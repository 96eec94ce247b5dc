"""What the number of a score is: its unit and what it can be, which way is better, and whether it is a mean over questions.

lm-eval states no units: a metric's is told by the words of its name. Shares are given in percent, anything else in its own unit. The lists
hold what the tasks of release 0.4.13 report: https://github.com/EleutherAI/lm-evaluation-harness.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from statistics import fmean
from typing import Literal

from harness.contracts import Score
from harness.recipe import Benchmark, Task

Unit = Literal["percent", "points", "nats", "own"]
"""`own`: as lm-eval reports what is no share."""
OWN_UNIT = "lm-eval's"
"""What the protocol of a score in lm-eval's own unit says."""
ANY = (-math.inf, math.inf)
RANGES: Mapping[Unit, tuple[float, float]] = {"percent": (0.0, 100.0), "points": (0.0, 10.0), "nats": ANY, "own": ANY}
"""What a score can be: no interval reaches beyond it."""
NOISE_SHARE = 1e-4
"""Of the largest value: so far a score may lie from the mean of its values and be it, after another machine's noise was taken out."""
SHARES = {"acc", "accuracy"}
"""Shares whatever else the name says: bleu_acc is how often the right answers' BLEU is the higher one."""
NO_SHARES = {
    "perplexity", "ppl", "bits", "likelihood", "loglikelihood",  # no bound
    "bleu", "chrf", "ter", "bleurt", "eqbench", "percent",  # lm-eval gives these between 0 and 100, or without bound
    "wer", "cer", "brier", "mae", "mse", "rmse", "points", "len", "length",
    "mcc", "pearsonr", "spearmanr", "bias", "diff", "difference",  # may be below 0
}  # fmt: skip
ROUGE_IN_HUNDREDS = {"max", "diff", "avg"}
"""TruthfulQA and its translations multiply rouge1_max by 100; a plain rouge1 is a share."""
TASKS_IN_HUNDREDS = ("squadv2", "scrolls")
"""How the names of tasks begin whose metrics come from `evaluate` in percent."""
LESS_IS_BETTER_OF_OURS = ("kl", "invalid", "held_out_nll")
"""How the names of metrics or tasks of ours begin where less is better."""
LESS_IS_BETTER = {
    "perplexity", "ppl", "bits", "ter", "wer", "cer", "brier", "mae", "mse", "rmse", "bias", "toxicity", "stereotype", "diff", "difference",
}  # fmt: skip
"""Where lm-eval does not tell: its differences are those of stereotypes, except TruthfulQA's, which are between right and wrong answers."""


def unit_of(benchmark: Benchmark, task: Task, score: Score | None) -> Unit:
    """The unit of a score, as its record says; before there is one and for other benchmarks than lm-eval's by the metric's name."""
    metric = score.metric if score else task.metric
    told = score.protocol.get("unit") if score else None
    if benchmark.name == "lm_eval":
        return "own" if told == OWN_UNIT or (told is None and scale_of(metric, task.name) == 1.0) else "percent"
    if benchmark.name == "mt_bench" or metric.startswith("points"):
        return "points"
    return "nats" if metric.startswith(("kl", "nats")) else "percent"


def scale_of(metric: str, task: str = "") -> float:
    """What a metric's value is multiplied by: 100 for shares. `metric` may hold a filter, as METRIC,FILTER."""
    words = words_of(metric)
    if words & SHARES:
        return 100.0
    own = words & NO_SHARES or (_is_text_overlap(words) and words & ROUGE_IN_HUNDREDS) or task.startswith(TASKS_IN_HUNDREDS)
    return 1.0 if own else 100.0


def lower_is_better(metric: str, task: str = "") -> bool:
    """Whether less is better, by the name of the metric or of the task."""
    words = words_of(metric)
    by_words = bool(words & LESS_IS_BETTER) and not words & SHARES and not _is_text_overlap(words)
    return by_words or metric.startswith(LESS_IS_BETTER_OF_OURS) or task.startswith(LESS_IS_BETTER_OF_OURS)


def is_less_better(score: Score) -> bool:
    """Whether less is better, as lm-eval told when the score was made, else by the names."""
    told = score.details.get("lower_is_better")
    return told if isinstance(told, bool) else lower_is_better(score.metric, score.task)


def is_of_all(score: Score) -> bool:
    """Whether a score is made of all questions together: none has a value of its own (MCC), or the score is no mean of them.

    exp(-mean) of log-probabilities, a perplexity, is none. Only what lm-eval aggregates itself can be so.
    """
    known = {key: value for key, value in score.values.items() if value is not None}
    if score.value is None or not known or score.benchmark != "lm_eval":
        return score.value is not None and not known
    parts: dict[str, list[float]] = {}
    for key, value in known.items():
        parts.setdefault(key.rpartition("/")[0], []).append(value)
    means = {name: fmean(values) for name, values in parts.items()}
    noise = NOISE_SHARE * max(map(abs, known.values()))
    if any(abs(score.value - mean) <= noise for mean in (fmean(known.values()), fmean(means.values()))):
        return False
    subtasks: Mapping[str, float] = score.details.get("subtasks", {})
    return not subtasks or not all(abs(mean - subtasks.get(name, math.inf)) <= noise for name, mean in means.items())


def words_of(metric: str) -> set[str]:
    """The words of a metric's name: 'filter' and 'character_acc' hold no 'ter'."""
    return set(re.findall(r"[a-z0-9]+", metric.partition(",")[0].lower()))


def _is_text_overlap(words: set[str]) -> bool:
    """BLEU or ROUGE: more is better, of differences too."""
    return any(word.startswith(("bleu", "rouge")) for word in words)
