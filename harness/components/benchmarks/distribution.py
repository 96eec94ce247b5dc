"""How far a checkpoint is from the procedural source's true distribution p, on held-out prompts.

    kl              forward KL divergence in nats a response: the mean of log p(y|x) - log q(y, end|x) over y drawn from p
    invalid_mass    the share, in percent, of responses drawn from q at temperature 1 that p cannot give

Both are unbiased estimates with one response a prompt. A response that does not end within the token limit is invalid. As p is
0 on every invalid response, the invalid mass is a lower bound of the total variation distance between q and p.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.contracts import Job, Request, Result, Score, load, version
from harness.errors import RecipeError, suggest
from harness.files import digest
from harness.lm.group_logps import Group, score_groups
from harness.lm.progress import progress
from harness.recipe import Task
from harness.training.pairs import Encoding, Pair, encode_pair, prompt_ids

VERSION = 1
TASK_NAMES = ("kl", "invalid_mass")

METRICS = {"kl": "nats", "invalid_mass": "percent"}
SPLIT = "test"
EXAMPLES_SEED = 0
MAX_NEW_TOKENS = 64
ENCODING = Encoding(template="chat", tokenization="modern", max_length=1024, max_prompt_length=512)


class Measured(NamedTuple):
    """One prompt's own estimate, and the response it was made with."""

    prompt: str
    family: str
    response: str
    value: float


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """What measures a task on the job's checkpoint."""
    for task in job.benchmark.tasks:
        _check(task)
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint, local_files_only=True)
    measure = {"kl": _kl, "invalid_mass": _invalid_mass}

    def score(task: Task) -> Result:
        assert task.limit is not None
        examples = load("sources", "procedural").sample(SPLIT, task.limit, EXAMPLES_SEED)
        measured = measure[task.name](job, tokenizer, examples)
        return Result(_summary(job, task, measured), [{"id": digest(one.prompt), **one._asdict()} for one in measured])

    return score


def _check(task: Task) -> None:
    if task.name not in METRICS:
        raise RecipeError(f"no task called {task.name!r}{suggest(task.name, METRICS)}")
    if task.metric != METRICS[task.name]:
        raise RecipeError(f"{task.name} is measured in {METRICS[task.name]!r}, found metric {task.metric!r}")
    if task.limit is None:
        raise RecipeError(f"{task.name} is generated without end; give the task a `limit`")


def _kl(job: Job, tokenizer: Any, examples: Sequence[Any]) -> list[Measured]:
    source = load("sources", "procedural")
    groups = [_group(tokenizer, example) for example in examples]
    logps = list(_logps(job, groups))
    return [
        Measured(example.prompt, example.family, example.response, source.log_prob(example.prompt, example.response) - logp)
        for example, logp in zip(examples, logps, strict=True)
    ]


def _group(tokenizer: Any, example: Any) -> Group:
    """The example as token ids, exactly as it would be trained on: the response ends with EOS."""
    pair = Pair(digest(example.prompt), _messages(example), example.response, None, None)
    encoded = encode_pair(tokenizer, pair, ENCODING)
    return Group(encoded.prompt.ids, [encoded.responses[0].ids])


def _logps(job: Job, groups: Sequence[Group]) -> Iterator[float]:
    """Summed response log-probabilities in nats, in the order of the groups."""
    model = _model(job.checkpoint, job)
    batch = job.machine.evaluate_batch
    with progress("score", len(groups), "responses") as advance:
        for start in range(0, len(groups), batch):
            some = groups[start : start + batch]
            yield from (branches[0].logp for branches in score_groups(model, some))
            advance(len(some))


def _model(checkpoint: Path, job: Job) -> Any:
    dtype = getattr(torch, job.dtype)
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, local_files_only=True).to(job.machine.device).eval()


def _invalid_mass(job: Job, tokenizer: Any, examples: Sequence[Any]) -> list[Measured]:
    source = load("sources", "procedural")
    engine = load("engines", job.engine).open_engine(job.checkpoint, job.dtype, job.machine)
    responses = engine.generate([_request(job, tokenizer, example) for example in examples])
    measured = []
    for example, response in zip(examples, responses, strict=True):
        text = tokenizer.decode(response.token_ids)  # special tokens stay: they make a response invalid
        valid = response.finish_reason == "stop" and source.is_valid(example.prompt, text)
        measured.append(Measured(example.prompt, example.family, text, 0.0 if valid else 100.0))
    return measured


def _request(job: Job, tokenizer: Any, example: Any) -> Request:
    identity = digest(example.prompt)
    return Request(
        request_id=identity,
        token_ids=prompt_ids(tokenizer, "chat", _messages(example), False),
        max_new_tokens=job.benchmark.max_new_tokens or MAX_NEW_TOKENS,
        temperature=1.0,
        top_p=1.0,
        seed=int(digest([job.seed, identity])[:15], 16),
    )


def _messages(example: Any) -> list[dict[str, str]]:
    return [{"role": "user", "content": example.prompt}]


def _summary(job: Job, task: Task, measured: Sequence[Measured]) -> Score:
    values = [one.value for one in measured]
    families = sorted({one.family for one in measured})
    sampled = task.name == "invalid_mass"
    return Score(
        benchmark=job.benchmark.name,
        task=task.name,
        metric=task.metric,
        value=fmean(values),
        stderr=stdev(values) / len(values) ** 0.5 if len(values) > 1 else None,
        n=len(values),
        limit=task.limit,
        protocol={
            "rules": job.benchmark.protocol,
            "source_version": version("sources", "procedural"),
            "split": SPLIT,
            "dtype": job.precision,
            "engine": job.engine if sampled else None,
            "temperature": 1.0 if sampled else None,
            "max_new_tokens": (job.benchmark.max_new_tokens or MAX_NEW_TOKENS) if sampled else None,
            "chat_template": "tokenizer's",
            "limit": task.limit,
        },
        values={digest(one.prompt): one.value for one in measured},
        details={"families": {f: fmean(one.value for one in measured if one.family == f) for f in families}},
    )
