"""lm-eval task configurations made from the procedural source: `tiny_FAMILY_KIND`, nothing downloaded.

    tiny_shuffle_choice    which of four responses is likelier: a valid one or three corruptions, each with its end token; metric acc
    tiny_shuffle_sample    is a response drawn at temperature 1 valid? metric valid
    tiny_shuffle_greedy    is the greedy response valid, after the answer is extracted by a regular expression? metric valid

`mixed` instead of a family asks the families in turn. A model trained on the source knows only its chat format, so these tasks, unlike
the real ones, are rendered with the tokenizer's chat template; the score's protocol says so.
"""

from __future__ import annotations

import random
from typing import Any

from datasets import Dataset

from harness.contracts import load, version
from harness.errors import RecipeError, suggest
from harness.recipe import Task

PREFIX = "tiny_"
FILTER = "none"
KINDS = {"choice": "acc", "sample": "valid", "greedy": "valid"}
"""{kind of task: its metric}."""

SPLIT, SHOTS_SPLIT = "test", "validation"
EXAMPLES_SEED = 0
NUM_SHOT_EXAMPLES = 30
NUM_CORRUPTIONS = 3
MAX_NEW_TOKENS = 64


def is_procedural(task: Task) -> bool:
    return task.name.startswith(PREFIX)


def check(task: Task) -> None:
    """A `RecipeError` unless the name, metric and limit of a procedural task can be followed."""
    families = (*load("sources", "procedural").FAMILIES, "mixed")
    metrics = {f"{PREFIX}{family}_{kind}": metric for family in families for kind, metric in KINDS.items()}
    if task.name not in metrics:
        raise RecipeError(f"no task called {task.name!r}{suggest(task.name, metrics)}")
    if task.metric != metrics[task.name]:
        raise RecipeError(f"{task.name} is measured by {metrics[task.name]!r}, found metric {task.metric!r}")
    if task.limit is None:
        raise RecipeError(f"{task.name} is generated without end; give the task a `limit`")


def config(task: Task, end: str) -> dict[str, Any]:
    """The lm-eval configuration of a procedural task; `end` is the text of the token that ends a response."""
    check(task)
    family, _, kind = task.name.removeprefix(PREFIX).rpartition("_")
    assert task.limit is not None
    docs = _documents(SPLIT, family, task.limit, end)
    shots = _documents(SHOTS_SPLIT, family, NUM_SHOT_EXAMPLES, end)
    return {
        "task": task.name,
        "custom_dataset": lambda **_: {SPLIT: Dataset.from_list(docs), SHOTS_SPLIT: Dataset.from_list(shots)},
        "test_split": SPLIT,
        "fewshot_split": SHOTS_SPLIT,
        "doc_to_text": "{{prompt}}",
        "metric_list": [{"metric": task.metric, "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": version("sources", "procedural")},
        **(_choice() if kind == "choice" else _generation(kind, end)),
    }


def _choice() -> dict[str, Any]:
    return {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold"}


def _generation(kind: str, end: str) -> dict[str, Any]:
    settings = {"until": [end], "max_gen_toks": MAX_NEW_TOKENS}
    drawn = {"do_sample": True, "temperature": 1.0}
    greedy = {"do_sample": False, "temperature": 0.0}
    # an answer is one line; over several lines nothing is extracted, and nothing is not valid
    answer = [{"function": "regex", "regex_pattern": r"^\s*(.*?)\s*$", "fallback": ""}, {"function": "take_first"}]
    return {
        "output_type": "generate_until",
        "doc_to_target": "{{response}}",
        "generation_kwargs": settings | (drawn if kind == "sample" else greedy),
        "process_results": _judge,
        **({"filter_list": [{"name": FILTER, "filter": answer}]} if kind == "greedy" else {}),
    }


def _judge(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"valid": float(load("sources", "procedural").is_valid(doc["prompt"], results[0]))}


def _documents(split: str, family: str, num: int, end: str) -> list[dict[str, Any]]:
    """`num` examples of a family, each with its valid response among corruptions, in an order drawn from its own prompt."""
    source = load("sources", "procedural")
    families = source.FAMILIES if family == "mixed" else (family,)
    examples = source.sample(split, num * len(source.FAMILIES) // len(families), EXAMPLES_SEED)
    documents = []
    for example in [e for e in examples if e.family in families][:num]:
        rng = random.Random(example.prompt)
        choices = [example.response, *source.corruptions(example.prompt, example.response, rng, NUM_CORRUPTIONS)]
        rng.shuffle(choices)
        documents.append(
            {
                "prompt": example.prompt,
                "response": example.response,
                "choices": [choice + end for choice in choices],
                "gold": choices.index(example.response),
            }
        )
    return documents
