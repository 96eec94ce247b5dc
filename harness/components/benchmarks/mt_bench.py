"""MT-Bench: two-turn questions, answered by the recipe's engine, each turn graded from 1 to 10 by a judge.

As FastChat's gen_model_answer.py and gen_judgment.py with single-answer grading, with these differences: the prompt is the
checkpoint's own chat template; sampling is plain (FastChat leaves transformers' default top_k of 50 in place); a verdict in which the
judge component reads no rating is unscored and counted. A turn graded several times scores the mean of its readable ratings. Questions,
GPT-4's references and the judge's prompts are read from the Space lmsys/mt-bench; tasks called tiny_* ask procedural two-turn questions
instead, the second turn a new instruction of the same family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import AutoTokenizer

from harness.contracts import Job, Request, Result, load
from harness.errors import InputError
from harness.evaluation.mt_bench.questions import SPACE, SPACE_REVISION, TINY_SEED, Question, is_tiny, questions_of
from harness.evaluation.mt_bench.verdicts import grade, judge_rules, open_judge
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


def open_benchmark(job: Job) -> Callable[[Task], Result]:
    """A function that scores one task. The engine is loaded when an answer is missing; `job.workspace` keeps answers and verdicts.

    Raises `InputError` (no chat template, question files missing) and `JudgeError` (no key, endpoint down).
    """
    benchmark, answer = job.benchmark, _Answerer(job)
    ask = open_judge(benchmark.judge, job.workspace / "verdicts", job.machine)

    def score_task(task: Task) -> Result:
        questions = questions_of(task)
        result = grade(benchmark, task, questions, answer(task.name, questions), ask, job.machine)
        rules = {"rules": benchmark.protocol, **_question_rules(task), **judge_rules(benchmark.judge)}
        protocol = {**rules, **_answer_rules(job, answer.chat_template), **result.score.protocol}
        return Result(result.score.model_copy(update={"protocol": protocol}), result.samples)

    return score_task


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


def _question_rules(task: Task) -> dict[str, Any]:
    """What two scores must share of their questions to stand in one column."""
    return {
        "questions": f"procedural, seed {TINY_SEED}" if is_tiny(task) else f"{SPACE}@{SPACE_REVISION[:12]}",
        "selection": "all" if task.limit is None else f"{task.limit}, in turn from each category, its first questions first",
    }


def _answer_rules(job: Job, chat_template: str) -> dict[str, Any]:
    """What two scores must share of their answers to stand in one column."""
    return {
        "engine": job.engine,
        "precision": job.precision,
        "max_new_tokens": job.benchmark.max_new_tokens or MAX_NEW_TOKENS,
        "temperatures": {**TEMPERATURES, "other": OTHER_TEMPERATURE},
        "chat_template": f"the tokenizer's, sha256 {chat_template}",
        **({"chat": job.chat.model_dump()} if job.chat != Chat() else {}),
    }
