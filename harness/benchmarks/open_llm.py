"""The six Open LLM Leaderboard tasks and OpenBookQA, through lm-eval; with procedural tasks for small models.

Protocol `current`: the task definitions of the installed lm-eval, no chat template, no BOS. MMLU is the mean over its subjects,
as on the leaderboard; GSM8K counts an answer only after '####' (lm-eval's strict match).
"""

from __future__ import annotations

from collections.abc import Callable

from harness import lm_tasks
from harness.components import Job, Result
from harness.lm_tasks import Definition
from harness.recipe import Task

VERSION = 1

PROTOCOLS = {
    "current": {
        "arc_challenge": Definition("arc/arc_challenge.yaml"),
        "hellaswag": Definition("hellaswag/hellaswag.yaml"),
        "truthfulqa_mc2": Definition("truthfulqa/truthfulqa_mc2.yaml"),
        "mmlu": Definition("mmlu/default/mmlu_*.yaml"),
        "winogrande": Definition("winogrande/default.yaml"),
        "gsm8k": Definition("gsm8k/gsm8k.yaml", filter="strict-match"),
        "openbookqa": Definition("openbookqa/openbookqa.yaml"),
    }
}


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """What scores a task on the job's checkpoint."""
    return lm_tasks.open_suite(job, PROTOCOLS)
