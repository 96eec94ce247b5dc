"""Three Big-Bench Hard tasks through lm-eval: worked examples in the prompt, an answer extracted from a chain of thought."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import machine
from harness.components.benchmarks import big_bench
from harness.contracts import Job
from harness.evaluation import lm_eval_tasks as lm_definitions
from harness.recipe import Benchmark, Task
from tests.tiny_checkpoints import byte_checkpoint, word_checkpoint

NAMES = ("bbh_causal_judgement", "bbh_formal_fallacies", "bbh_sports_understanding")
TASKS = tuple(Task(name=name, shots=3, metric="exact_match", limit=2) for name in NAMES)


def _job(checkpoint: Path, tasks: tuple[Task, ...]) -> Job:
    benchmark = Benchmark(name="big_bench", protocol="current", tasks=tasks, max_new_tokens=8)
    return Job(checkpoint, benchmark, "hf", machine.load("cpu"), "fp32", 0, checkpoint / "workspace")


@pytest.mark.usefixtures("hf_cache")
def test_each_task_is_asked_with_three_worked_examples(tmp_path: Path) -> None:
    """A prompt holds three chains of thought and opens a fourth; a random model's text extracts to no answer, which scores 0."""
    score = big_bench.open_benchmark(_job(byte_checkpoint(tmp_path), TASKS))
    for task in TASKS:
        result = score(task)
        assert (result.score.value, result.score.n, result.score.shots) == (0.0, 2, 3)
        assert result.score.protocol["filter"] == "get-answer"
        assert result.score.protocol["max_new_tokens"] == 8
        assert result.samples[0]["prompt"].count("Let's think step by step.") == 4
        assert result.samples[0]["filtered"] == ["[invalid]"]


@pytest.mark.usefixtures("hf_cache")
@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_the_answer_is_extracted_from_the_chain_of_thought(name: str) -> None:
    """'So the answer is X.' gives X, which must equal the target as it is written."""
    (subtask,) = lm_definitions.load_definition(TASKS[0].model_copy(update={"name": name}), big_bench.PROTOCOLS["current"][name]).values()
    document = subtask.eval_docs[0]
    said = f"First this, then that. So the answer is {document['target']}."
    (extracted,) = subtask._filters[0].filters[0]().apply([[said]], [document])[0]
    assert subtask.process_results(document, [extracted]) == {"exact_match": 1.0}
    assert subtask.process_results(document, ["[invalid]"]) == {"exact_match": 0.0}


def test_procedural_questions_take_the_same_path(tmp_path: Path) -> None:
    """A tiny_* task is answered greedily, extracted by a regular expression and judged by the source."""
    task = Task(name="tiny_pick_greedy", shots=0, metric="valid", limit=4)
    result = big_bench.open_benchmark(_job(word_checkpoint(tmp_path), (task,)))(task)
    assert (result.score.n, result.score.benchmark, result.score.protocol["chat_template"]) == (4, "big_bench", "tokenizer's")
