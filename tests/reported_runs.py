"""Finished runs with logs, responses and MT-Bench samples, some of them hostile: what a report is made from."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.artifact import RECIPE_FILE, RunDir, Stage
from harness.files import dump, write_atomic
from harness.plan import plan
from harness.recipe import Recipe
from tests.synthetic_runs import MakeValues, finish, questions, score_of

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</style></pre><b>bold</b>",
    "**Markdown** [link](http://example.org/x) `code`",
    "safe \u202etxet desrever\u202c \u2066isolated\u2069 \x1b[31mred\x07 nul\x00 half \ud800",
)
CATEGORIES = ("writing", "roleplay", "reasoning", "math")


def write_reported_run(path: Path, recipe: Recipe, make_values: MakeValues = questions, num_prompts: int = 12, num_steps: int = 20) -> Path:
    """A run of `recipe` at `path` with everything a report shows; prompt and response 0 to 4 are hostile."""
    run = RunDir(path)
    write_atomic(path / RECIPE_FILE, dump(recipe))
    for stage in plan(recipe):
        if stage.kind == "evaluate":
            finish(run, stage, dict(_evaluation(recipe, stage, make_values)))
        else:
            finish(run, stage, dict(_files(stage, num_prompts, num_steps)))
    return path


def _files(stage: Stage, num_prompts: int, num_steps: int) -> Iterable[tuple[str, bytes]]:
    if stage.kind == "prompts":
        rows = [{"prompt_id": f"p{i}", "prompt": [{"role": "user", "content": f"{_hostile(i)} {i}"}], "real": f"real {i} " * (i % 7 + 1)}
                for i in range(num_prompts)]  # fmt: skip
        yield "prompts.jsonl", _lines(rows)
    elif stage.kind == "generate":
        answers = [{"prompt_id": f"p{i}", "response": f"{_hostile(i)} {stage.path}", "finish_reason": "stop"} for i in range(num_prompts)]
        yield "responses/00000.jsonl", _lines(answers)
    elif stage.kind == "train":
        yield "log.jsonl", _lines(_step(stage, step, num_steps) for step in range(num_steps))
        checks = [
            {"name": "double_bos", "found": 0.0, "limit": 0.0, "accepted": False},
            {"name": "cut_real", "found": 0.3, "limit": 0.2, "accepted": True},
        ]
        yield "audit.json", json.dumps({"num_pairs": num_prompts, "real": {"lengths": {"mean": 5.5}}, "checks": checks}).encode()
        seen = {"prompt": {"text": f"<s>{HOSTILE[0]}"}, "responses": [{"text": "real</s>"}]}
        yield "samples/example.json", json.dumps(seen).encode()
    else:
        yield "model.txt", stage.path.encode()


def _step(stage: Stage, step: int, num_steps: int) -> dict[str, Any]:
    margin = step / num_steps if stage.spec["objective"] == "spin" else None
    pair = dict.fromkeys(("rewards/real", "rewards/generated", "rewards/accuracy", "logps/generated"))
    if margin is not None:
        pair = {"rewards/real": margin / 2, "rewards/generated": -margin / 2, "rewards/accuracy": 0.5, "logps/generated": -12.0 - margin}
    loss = math.log1p(math.exp(-(margin or 0.0)))
    return {"step": step, "epoch": 2 * step // num_steps, "loss": loss, "margin": margin, "logps/real": -10.0, **pair}


def _evaluation(recipe: Recipe, stage: Stage, make_values: MakeValues) -> Iterable[tuple[str, bytes]]:
    row, name = stage.path.split("/eval/")
    benchmark = next(one for one in recipe.benchmarks if one.name == name)
    for task in benchmark.tasks:
        values = make_values(row, task) or {}
        score = score_of(benchmark, task, values)
        if name == "mt_bench":
            rated = score_of(benchmark, task, judged(row))
            categories = {category: {"mean": 5.0 + k, "n": 2} for k, category in enumerate(CATEGORIES)}
            parts = {"turns": {"1": {"mean": 6.0, "n": 8}}, "categories": categories}
            score = rated.model_copy(update={"details": parts})
            yield f"samples/{task.name}.jsonl", _lines(_answered(row, i) for i in range(8))
        yield f"scores/{task.name}.json", dump(score)


def judged(row: str) -> Mapping[str, float | None]:
    """Ratings of eight two-turn questions; iterations rate a little higher."""
    draw = random.Random("judge")
    better = 0.5 * (row.startswith("iter")) + 0.2 * (row == "iter1")
    return {f"{81 + i // 2}-{i % 2 + 1}": 5.0 + draw.random() + better for i in range(16)}


def _answered(row: str, i: int) -> dict[str, Any]:
    asked = [f"question {i} {_hostile(i)}", "and then?"]
    return {"question_id": str(81 + i), "category": CATEGORIES[i % 4], "questions": asked, "answers": [f"{_hostile(i)} by {row}", "more"],
            "ratings": [7.0, None]}  # fmt: skip


def _hostile(i: int) -> str:
    return HOSTILE[i] if i < len(HOSTILE) else "plain"


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
