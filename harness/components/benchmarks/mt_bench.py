"""MT-Bench: two-turn questions, answered by the recipe's engine, each turn graded from 1 to 10 by a judge.

As FastChat's gen_model_answer.py and gen_judgment.py with single-answer grading, with these differences: the prompt is the
checkpoint's own chat template; sampling is plain (FastChat leaves transformers' default top_k of 50 in place); a verdict in which the
judge component reads no rating is unscored and counted. A turn graded several times scores the mean of its readable ratings. Questions,
GPT-4's references and the judge's prompts are read from the Space lmsys/mt-bench; tasks called tiny_* ask procedural two-turn questions
instead, the second turn a new instruction of the same family.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from transformers import AutoTokenizer

from harness.contracts import Job, Request, Result, Score, Turn, load
from harness.errors import InputError
from harness.evaluation.judge_endpoint import Endpoint, Verdict, collect
from harness.evaluation.mt_bench_questions import SPACE, SPACE_REVISION, TINY_SEED, Question, is_tiny, judge_templates, questions_of
from harness.evaluation.mt_bench_ratings import group_means, intervals, rating_of
from harness.evaluation.statistics import estimate, question_of
from harness.files import digest, read_jsonl, write_jsonl
from harness.lm.progress import progress
from harness.recipe import Chat, Task
from harness.training.pairs import prompt_ids

VERSION = 2

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""FastChat's temperature of the answers to each category; OTHER_TEMPERATURE is its default for any other."""
OTHER_TEMPERATURE = 0.7
MAX_NEW_TOKENS = 1024

Ask = Callable[[str, Turn], Verdict]
Verdicts = Mapping[str, Sequence[Verdict]]


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """A function that scores one task. The engine is loaded when an answer is missing; `job.workspace` keeps answers and verdicts.

    Raises `InputError` (no chat template, question files missing) and `JudgeError` (no key, endpoint down).
    """
    answer, ask = _Answerer(job), _open_judge(job)

    def score_task(task: Task) -> Result:
        questions = questions_of(task)
        answers = answer(task.name, questions)
        turns = {f"{q.question_id}-{t + 1}": _turn(q, t, answers[q.question_id]) for q in questions for t in range(len(q.turns))}
        verdicts = _verdicts(job, turns, ask) if ask else None
        protocol = {**_protocol(job, task, answer.chat_template), "judge_served": _served(verdicts)}
        score = _score(job, task, turns, verdicts).model_copy(update={"protocol": protocol})
        return Result(score, [_sample(q, answers[q.question_id], score, verdicts) for q in questions])

    return score_task


# Answers


class _Answerer:
    """Answers questions turn by turn in fixed chunks, each saved whole: what a resumed launch generates is batched as before."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.engine: Any = None
        self.tokenizer = AutoTokenizer.from_pretrained(job.checkpoint, local_files_only=True)
        if not self.tokenizer.chat_template:
            raise InputError(f"the tokenizer of {job.checkpoint} has no chat template; MT-Bench needs one to ask a second turn")
        self.chat_template = hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()[:12]

    def __call__(self, task_name: str, questions: Sequence[Question]) -> dict[str, list[dict[str, Any]]]:
        """{question_id: a dict with answer, finish_reason and prompt for each turn}."""
        answers: dict[str, list[dict[str, Any]]] = {question.question_id: [] for question in questions}
        size = self.job.machine.generate_batch
        with progress(f"{task_name} answers", sum(len(q.turns) for q in questions), "answers") as advance:
            for start in range(0, len(questions), size):
                chunk = questions[start : start + size]
                for turn in range(max(len(question.turns) for question in chunk)):
                    for line in self._saved(task_name, chunk, turn, answers):
                        answers[line["question_id"]].append(line)
                    advance(len(chunk))
        return answers

    def _saved(
        self, task_name: str, chunk: Sequence[Question], turn: int, answers: Mapping[str, list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """The chunk's answers to one turn, from disk if they are there."""
        name = f"{turn + 1}-{digest([question.question_id for question in chunk])[:16]}.jsonl"
        path = self.job.workspace / task_name / "answers" / name
        if not path.exists():
            lines = self._generate([(q, [line["answer"] for line in answers[q.question_id]]) for q in chunk])
            write_jsonl(path, lines)
        return list(read_jsonl(path))

    def _generate(self, dialogues: Sequence[tuple[Question, list[str]]]) -> list[dict[str, Any]]:
        """The next answer in each dialogue; as in FastChat without special tokens and surrounding whitespace."""
        if self.engine is None:
            self.engine = load("engines", self.job.engine).open_engine(self.job.checkpoint, self.job.dtype, self.job.machine)
        requests = [self._request(question, earlier) for question, earlier in dialogues]
        return [
            {
                "question_id": response.request_id,
                "answer": self._said(response.token_ids),
                "finish_reason": response.finish_reason,
                "prompt": self.tokenizer.decode(request.token_ids),
            }
            for request, response in zip(requests, self.engine.generate(requests), strict=True)
        ]

    def _said(self, token_ids: list[int]) -> str:
        """A response as text without what the recipe calls thinking; `thinking_ends` may be a special token."""
        ends = self.job.chat.thinking_ends
        if ends and (found := str(self.tokenizer.decode(token_ids)).rpartition(ends))[1]:
            token_ids = self.tokenizer(found[2], add_special_tokens=False)["input_ids"]
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True)).strip()

    def _request(self, question: Question, earlier: Sequence[str]) -> Request:
        messages = [{"role": "user", "content": question.turns[0]}]
        for answer, ask in zip(earlier, question.turns[1:], strict=False):
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": ask}]
        return Request(
            request_id=question.question_id,
            token_ids=prompt_ids(self.tokenizer, "chat", messages, False, self.job.chat),
            max_new_tokens=self.job.benchmark.max_new_tokens or MAX_NEW_TOKENS,
            temperature=TEMPERATURES.get(question.category, OTHER_TEMPERATURE),
            top_p=1.0,
            seed=int(digest([self.job.seed, question.question_id, len(earlier)])[:16], 16),
        )


def _turn(question: Question, turn: int, answers: Sequence[dict[str, Any]]) -> Turn:
    end = turn + 1
    return Turn(
        question.question_id,
        question.category,
        question.turns[:end],
        tuple(line["answer"] for line in answers[:end]),
        question.references[:end],
    )


# Verdicts and score


def _open_judge(job: Job) -> Ask | None:
    """A function from a turn's key and the turn to its verdict; None when no judge was chosen."""
    judge = job.benchmark.judge
    if judge is None:
        return None
    component = load("judges", judge.name)
    if not component.NEEDS_MODEL:
        return lambda key, turn: Verdict(component.decide(turn))
    if judge.model is None:
        return None
    endpoint = Endpoint(judge, job.workspace / "verdicts", job.machine)
    templates = judge_templates()
    return lambda key, turn: endpoint.ask(key, component.render(turn, templates))


def _verdicts(job: Job, turns: Mapping[str, Turn], ask: Ask) -> dict[str, list[Verdict]]:
    """{key: the judge's verdicts on that turn}, one a repeat."""
    repeats = job.benchmark.judge.repeats if job.benchmark.judge else 1
    asked = {f"{key}.{i + 1}": turn for key, turn in turns.items() for i in range(repeats)}
    found = collect(asked, ask, job.machine.judge_threads)
    return {key: [found[f"{key}.{i + 1}"] for i in range(repeats)] for key in turns}


def _score(job: Job, task: Task, turns: Mapping[str, Turn], verdicts: Verdicts | None) -> Score:
    """Points of 10 over all turns, a question's turns as one cluster; in the details by category and by turn.

    A verdict is unreadable when no rating can be read in it, a turn unscored when all its verdicts are. `read_by_fallback` counts verdicts
    whose rating was read by the looser part of the judge component's rule.
    """
    read = _ratings(job, verdicts) if verdicts else {}
    ratings = {key: rating_of(read.get(key, ())) for key in turns}
    estimated = estimate(ratings, question_of)
    details: dict[str, Any] = {
        "categories": group_means(ratings, {key: turn.category for key, turn in turns.items()}),
        "turns": group_means(ratings, {key: str(len(turn.questions)) for key, turn in turns.items()}),
        "intervals": intervals(ratings),
    }
    if verdicts is None:
        details["reason"] = "no judge was chosen: answers only"
    else:
        asked = [verdict for found in verdicts.values() for verdict in found]
        details["verdicts"] = {
            "asked": len(asked),
            "unreadable": sum(rating is None for found in read.values() for rating in found),
            "refused": dict(Counter(verdict.refused for verdict in asked if verdict.refused)),
        }
        details["read_by_fallback"] = _read_by_fallback(job, asked)
        details |= _note_on_refused(turns, verdicts)
    return Score(
        benchmark=job.benchmark.name,
        task=task.name,
        metric=task.metric,
        value=estimated.value,
        stderr=estimated.stderr,
        n=len(turns),
        n_unscored=sum(rating is None for rating in ratings.values()),
        shots=task.shots,
        limit=task.limit,
        values=ratings,
        details=details,
    )


def _served(verdicts: Verdicts | None) -> list[str]:
    """The model names the endpoint reported: what stands behind the judge's name may change between two rows."""
    return sorted({verdict.model for found in (verdicts or {}).values() for verdict in found if verdict.model})


def _ratings(job: Job, verdicts: Verdicts) -> dict[str, list[float | None]]:
    assert job.benchmark.judge is not None
    parse = load("judges", job.benchmark.judge.name).parse
    return {key: [None if verdict.refused else parse(verdict.text) for verdict in found] for key, found in verdicts.items()}


def _note_on_refused(turns: Mapping[str, Turn], verdicts: Verdicts) -> dict[str, str]:
    """A note where every verdict on some turn was refused: how long these turns are beside the others, whose mean the score then is."""
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for key, turn in turns.items():
        lengths[all(verdict.refused for verdict in verdicts[key])].append(sum(map(len, (*turn.questions, *turn.answers))))
    if not lengths[True]:
        return {}
    means = {refused: f"{fmean(found):.0f} characters" if found else "none" for refused, found in lengths.items()}
    return {"note": f"{len(lengths[True])} turns refused, in the mean {means[True]} of dialogue; the graded {means[False]}"}


def _read_by_fallback(job: Job, verdicts: Sequence[Verdict]) -> int:
    assert job.benchmark.judge is not None
    is_fallback = load("judges", job.benchmark.judge.name).is_fallback
    return sum(is_fallback(verdict.text) for verdict in verdicts if not verdict.refused)


def _sample(question: Question, answers: Sequence[dict[str, Any]], score: Score, verdicts: Verdicts | None) -> dict[str, Any]:
    """One question as asked, answered and graded; prompts and questions are evaluation content and stay out of the score."""
    keys = [f"{question.question_id}-{turn + 1}" for turn in range(len(question.turns))]
    return {
        "question_id": question.question_id,
        "category": question.category,
        "questions": list(question.turns),
        "answers": [line["answer"] for line in answers],
        "finish_reasons": [line["finish_reason"] for line in answers],
        "prompts": [line["prompt"] for line in answers],
        "verdicts": [[verdict.text for verdict in verdicts[key]] if verdicts else None for key in keys],
        "ratings": [score.values[key] for key in keys],
    }


def _protocol(job: Job, task: Task, chat_template: str) -> dict[str, Any]:
    """Everything two MT-Bench scores must share to stand in one column."""
    judge = job.benchmark.judge
    space = f"{SPACE}@{SPACE_REVISION[:12]}"
    needs_model = judge is not None and load("judges", judge.name).NEEDS_MODEL
    return {
        "rules": job.benchmark.protocol,
        "questions": f"procedural, seed {TINY_SEED}" if is_tiny(task) else space,
        "selection": "all" if task.limit is None else f"{task.limit}, in turn from each category, its first questions first",
        "judge": judge.name if judge else None,
        "judge_version": load("judges", judge.name).VERSION if judge else None,
        "judge_model": judge.model if judge and needs_model else None,
        "judge_revision": judge.revision if judge and needs_model else None,
        "judge_repeats": judge.repeats if judge else None,
        "judge_temperature": judge.temperature if judge and needs_model else None,
        "judge_max_tokens": judge.max_tokens if judge and needs_model else None,
        "judge_prompts": space if needs_model else None,
        "engine": job.engine,
        "precision": job.precision,
        "max_new_tokens": job.benchmark.max_new_tokens or MAX_NEW_TOKENS,
        "temperatures": {**TEMPERATURES, "other": OTHER_TEMPERATURE},
        "chat_template": f"the tokenizer's, sha256 {chat_template}",
        **({"chat": job.chat.model_dump()} if job.chat != Chat() else {}),
    }
