"""Big-Bench Hard through lm-eval, all 27 tasks by name: three worked examples, a chain of thought, the answer extracted from it.

The paper's Table 6 names causal judgment, sports understanding and formal fallacies. Both protocols are lm-eval's `bbh_cot_fewshot_*`:
the text after 'the answer is ' up to the last character but one of its line must equal the target. They differ in line breaks, see
docs/protocols.md. The Open LLM Leaderboard of the paper's time had no Big-Bench.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.contracts import Job, Result
from harness.evaluation import lm_eval_suite as lm_tasks
from harness.evaluation.lm_eval_tasks import Definition
from harness.recipe import Task

VERSION = {"current": 1, "lm-eval@46c7966": 2}

TASK_NAMES = (
    "bbh_boolean_expressions", "bbh_causal_judgement", "bbh_date_understanding", "bbh_disambiguation_qa", "bbh_dyck_languages",
    "bbh_formal_fallacies", "bbh_geometric_shapes", "bbh_hyperbaton", "bbh_logical_deduction_five_objects",
    "bbh_logical_deduction_seven_objects", "bbh_logical_deduction_three_objects", "bbh_movie_recommendation",
    "bbh_multistep_arithmetic_two", "bbh_navigate", "bbh_object_counting", "bbh_penguins_in_a_table",
    "bbh_reasoning_about_colored_objects", "bbh_ruin_names", "bbh_salient_translation_error_detection", "bbh_snarks",
    "bbh_sports_understanding", "bbh_temporal_sequences", "bbh_tracking_shuffled_objects_five_objects",
    "bbh_tracking_shuffled_objects_seven_objects", "bbh_tracking_shuffled_objects_three_objects", "bbh_web_of_lies", "bbh_word_sorting",
    "tiny_*",
)  # fmt: skip
QUESTION = "Q: {{input}}\nA: Let's think step by step."


def _examples_end(end: str) -> dict[str, Any]:
    """The question as 46c7966 asked it, and what stands between an example's 'step by step.' and its chain of thought.

    There a task was one template, the examples written out in it, and jinja dropped the final line break of a template (lm-eval keeps it
    since #2116, August 2024). So the question ends with its full stop, while the examples keep what follows theirs.
    """
    return {"doc_to_text": QUESTION, "fewshot_config": {"doc_to_text": QUESTION + end}}


CURRENT = {
    name: Definition(f"bbh/cot_fewshot/{name.removeprefix('bbh_')}.yaml", filter="get-answer")
    for name in TASK_NAMES
    if name.startswith("bbh_")
}
ON_ONE_LINE = ("bbh_sports_understanding",)
"""Tasks whose worked examples go on in the line of 'step by step.' at 46c7966, as in the original prompts."""
PAPER = {name: definition._replace(changes=_examples_end(" " if name in ON_ONE_LINE else "\n")) for name, definition in CURRENT.items()}
PROTOCOLS = {"current": CURRENT, "lm-eval@46c7966": PAPER}


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """What scores a task on the job's checkpoint."""
    return lm_tasks.open_suite(job, PROTOCOLS)
