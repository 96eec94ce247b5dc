"""Three Big-Bench Hard tasks through lm-eval: three worked examples, a chain of thought, the answer extracted from it.

The paper's Table 5 names causal judgment, sports understanding and formal fallacies. Protocol `current` is lm-eval's
`bbh_cot_fewshot_*`: the text after 'the answer is ' up to the last character but one of its line must equal the target.
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
        "bbh_causal_judgement": Definition("bbh/cot_fewshot/causal_judgement.yaml", filter="get-answer"),
        "bbh_formal_fallacies": Definition("bbh/cot_fewshot/formal_fallacies.yaml", filter="get-answer"),
        "bbh_sports_understanding": Definition("bbh/cot_fewshot/sports_understanding.yaml", filter="get-answer"),
    }
}


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """What scores a task on the job's checkpoint."""
    return lm_tasks.open_suite(job, PROTOCOLS)
