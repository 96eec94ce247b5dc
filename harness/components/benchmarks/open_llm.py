"""The six Open LLM Leaderboard tasks and OpenBookQA, through lm-eval; with procedural tasks for small models.

No protocol uses a chat template or a BOS. docs/protocols.md says what differs between them and why.

    current                   the task definitions of the installed lm-eval; MMLU is the mean over its subjects
    lm-eval@46c7966           the paper's: what the commit it pins did, 0.4.0 of December 2023
    open-llm-leaderboard-v1   the Open LLM Leaderboard's: what lm-eval@b281b09 did
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.contracts import Job, Result
from harness.evaluation import lm_eval_suite as lm_tasks
from harness.evaluation.lm_eval_tasks import Definition
from harness.recipe import Task

VERSION = {"current": 1, "lm-eval@46c7966": 1, "open-llm-leaderboard-v1": 2}
TASK_NAMES = ("arc_challenge", "hellaswag", "truthfulqa_mc2", "mmlu", "winogrande", "gsm8k", "openbookqa", "tiny_*")


def split_at_first_false(doc: Mapping[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """TruthfulQA's mc2 as both old harnesses counted it: what stands before the first label 0 is true, all after it false."""
    first = doc["mc2_targets"]["labels"].index(0)
    probabilities = np.exp(np.array([logp for logp, _ in results]))
    return {"acc": float(probabilities[:first].sum() / probabilities.sum())}


NUMBER = r"#### (\-?[0-9\.\,]+)"
OLD_GSM8K = {
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True, "ignore_punctuation": False,
         "regexes_to_ignore": [",", r"\$", "(?s).*#### "]}
    ],
    "filter_list": [
        {"name": "get-answer", "filter": [{"function": "regex", "regex_pattern": NUMBER}, {"function": "take_first"}]}
    ],
}  # fmt: skip


def _gsm8k(*stops: str) -> dict[str, Any]:
    return {"generation_kwargs": {"until": [*stops], "do_sample": False, "temperature": 0.0}, **OLD_GSM8K}


SPLIT = {"process_results": split_at_first_false}
CURRENT = {
    "arc_challenge": Definition("arc/arc_challenge.yaml"),
    "hellaswag": Definition("hellaswag/hellaswag.yaml"),
    "truthfulqa_mc2": Definition("truthfulqa/truthfulqa_mc2.yaml"),
    "mmlu": Definition("mmlu/default/mmlu_*.yaml"),
    "winogrande": Definition("winogrande/default.yaml"),
    "gsm8k": Definition("gsm8k/gsm8k.yaml", filter="strict-match"),
    "openbookqa": Definition("openbookqa/openbookqa.yaml"),
}
PAPER = {
    **CURRENT,
    "truthfulqa_mc2": CURRENT["truthfulqa_mc2"]._replace(scoring=SPLIT),
    "mmlu": CURRENT["mmlu"]._replace(by_size=True),
    "winogrande": CURRENT["winogrande"]._replace(drops_shots=True),
    "gsm8k": Definition("gsm8k/gsm8k.yaml", "get-answer", _gsm8k("\n\n", "Question:")),
}
LEADERBOARD = {
    name: definition._replace(draws="leaderboard")
    for name, definition in {
        **CURRENT,
        "truthfulqa_mc2": CURRENT["truthfulqa_mc2"]._replace(scoring=SPLIT),
        "gsm8k": Definition("gsm8k/gsm8k.yaml", "get-answer", _gsm8k(":", "Question:", "Question")),
    }.items()
}
PROTOCOLS = {"current": CURRENT, "lm-eval@46c7966": PAPER, "open-llm-leaderboard-v1": LEADERBOARD}


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """What scores a task on the job's checkpoint."""
    return lm_tasks.open_suite(job, PROTOCOLS)
