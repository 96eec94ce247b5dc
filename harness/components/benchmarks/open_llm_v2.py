"""The six tasks of the second Open LLM Leaderboard through lm-eval, which T-SPIN (arXiv 2601.08198) reports beside the first one's.

MATH here is its hardest level. GPQA is a gated data set: log in to the Hub once. IFEval and MATH need lm-eval's extras of those names.
Every task counts each question alike, as the leaderboard's own groups do.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.contracts import Job, Result
from harness.evaluation import lm_eval_suite as lm_tasks
from harness.evaluation.lm_eval_tasks import Definition
from harness.recipe import Task

VERSION = 1

FILES = {
    "math": "leaderboard/math/math_*.yaml",
    "musr": "leaderboard/musr/musr_*.yaml",
    "mmlu_pro": "leaderboard/mmlu_pro/mmlu_pro.yaml",
    "gpqa": "leaderboard/gpqa/gpqa_*.yaml",
    "bbh": "leaderboard/bbh_mc/[a-z]*.yaml",
    "ifeval": "leaderboard/ifeval/ifeval.yaml",
}
PROTOCOLS = {"current": {name: Definition(files, by_size=True) for name, files in FILES.items()}}


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """What scores a task on the job's checkpoint."""
    return lm_tasks.open_suite(job, PROTOCOLS)
