"""Every task of every protocol is built from the offline cache, and asks what the protocol's harness asked."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
from datasets import load_dataset
from lm_eval.api.task import ConfigurableTask

from harness.analysis import published
from harness.components.benchmarks import big_bench, open_llm
from harness.errors import InputError
from harness.evaluation import lm_eval_tasks as lm_definitions
from harness.evaluation.lm_eval_tasks import load_definition, set_up
from harness.recipe import Task

LM_EVAL, LEADERBOARD = "lm-eval@46c7966", "open-llm-leaderboard-v1"
SHOTS = {"arc_challenge": 25, "hellaswag": 10, "truthfulqa_mc2": 0, "mmlu": 5, "winogrande": 5, "gsm8k": 5, "openbookqa": 1}
BIG_BENCH_OFFLINE = ("bbh_causal_judgement", "bbh_formal_fallacies", "bbh_sports_understanding")
CASES = [(rules, name) for rules, definitions in open_llm.PROTOCOLS.items() for name in definitions] + [
    (rules, name) for rules in big_bench.PROTOCOLS for name in BIG_BENCH_OFFLINE
]


def definition_of(rules: str, name: str) -> lm_definitions.Definition:
    return (big_bench if name.startswith("bbh_") else open_llm).PROTOCOLS[rules][name]


def built(rules: str, name: str) -> ConfigurableTask:
    """The task's (or its first subject's) requests for two questions; built once where protocols define a task alike."""
    return _built(next(like for like in ("current", rules) if definition_of(like, name) == definition_of(rules, name)), name)


@cache
def _built(rules: str, name: str) -> ConfigurableTask:
    subtasks = ("mmlu_astronomy",) if name == "mmlu" else ()
    task = Task(name=name, shots=SHOTS.get(name, 3), metric="acc", limit=2, subtasks=subtasks)
    (subtask,) = load_definition(task, definition_of(rules, name)).values()
    set_up(subtask, task, None)
    subtask.build_all_requests(limit=2)
    return subtask


def prompts(rules: str, name: str) -> list[str]:
    return [request.args[0] for request in built(rules, name).instances]


@pytest.mark.usefixtures("hf_cache")
@pytest.mark.parametrize(("rules", "name"), CASES)
def test_every_task_of_every_protocol_is_built_offline(rules: str, name: str) -> None:
    """Prompts hold the stated number of examples, none where the paper's commit lost them, and no chat markup."""
    subtask = built(rules, name)
    assert subtask.config.num_fewshot == SHOTS.get(name, 3)
    shots = 0 if (rules, name) == (LM_EVAL, "winogrande") else SHOTS.get(name, 3)
    for prompt in prompts(rules, name):
        if name == "truthfulqa_mc2":
            assert prompt.count("\n\n") == 6
        elif name in BIG_BENCH_OFFLINE:
            assert prompt.count("\n\nQ: ") == shots + 1
        else:
            assert prompt.count("\n\n") >= shots
            assert (shots > 0) == ("\n\n" in prompt)
        assert "<|" not in prompt
    assert any(found.name == definition_of(rules, name).filter for found in subtask._filters)


def test_protocols_are_spelt_as_the_published_claims_are() -> None:
    """A score made under a protocol meets the published numbers of that protocol, by name."""
    spelt = {claim.protocol for claim in published.CLAIMS}
    assert {LM_EVAL, LEADERBOARD} <= spelt
    assert set(open_llm.PROTOCOLS) == {"current", LM_EVAL, LEADERBOARD}
    assert set(big_bench.PROTOCOLS) == {"current", LM_EVAL}


@pytest.mark.usefixtures("hf_cache")
def test_the_leaderboard_shuffles_questions_and_draws_examples_with_one_generator() -> None:
    """Rebuilt from the rule's text: Random(42) shuffles, then samples the whole training list for each question."""
    arc, gsm8k = load_dataset("allenai/ai2_arc", "ARC-Challenge"), load_dataset("openai/gsm8k", "main")

    def shown(doc: dict[str, Any]) -> str:
        return doc["choices"]["text"][doc["choices"]["label"].index(doc["answerKey"])] if "choices" in doc else doc["answer"]

    for name, data, shots, per_question in (("arc_challenge", arc, 25, 4), ("gsm8k", gsm8k, 5, 1)):
        generator = random.Random(42)
        questions, training = list(data["test"]), list(data["train"])
        generator.shuffle(questions)
        found = prompts(LEADERBOARD, name)[::per_question]
        for question, prompt in zip(questions, found, strict=False):
            examples = generator.sample(training, shots)
            parts = [f"Question: {doc['question']}\nAnswer: {shown(doc)}" for doc in examples]
            assert prompt == "\n\n".join([*parts, f"Question: {question['question']}\nAnswer:"])


@pytest.mark.usefixtures("hf_cache")
def test_the_paper_asks_winogrande_without_examples() -> None:
    """Two contexts that are the bare sentence up to each option, and one ending."""
    first = built(LM_EVAL, "winogrande").eval_docs[0]
    before, after = first["sentence"].split("_")
    assert [request.args for request in built(LM_EVAL, "winogrande").instances[:2]] == [
        (before + option, " " + after.strip()) for option in (first["option1"], first["option2"])
    ]
    for rules in ("current", LEADERBOARD):
        assert all(prompt.count("\n\n") == 5 for prompt in prompts(rules, "winogrande"))


@pytest.mark.usefixtures("hf_cache")
def test_gsm8k_stops_and_counts_as_each_harness_did() -> None:
    """Only a number after '####' counts; the stops are each harness's own; a final full stop is forgiven today only."""
    stops = {"current": ["Question:", "</s>", "<|im_end|>"], LM_EVAL: ["\n\n", "Question:"], LEADERBOARD: [":", "Question:", "Question"]}
    for rules, expected in stops.items():
        subtask = built(rules, "gsm8k")
        assert subtask.instances[0].args[1]["until"] == expected
        doc = {"question": "?", "answer": "so\n#### 1,234"}
        worth = {}
        for said in ("#### 1234", "It is 1234", "#### 1234.", "a #### 1,234 b #### 7"):
            chosen = next(found for found in subtask._filters if found.name == definition_of(rules, "gsm8k").filter)
            filtered = [[said]]
            for step in chosen.filters:
                filtered = list(step().apply(filtered, [doc]))
            worth[said] = subtask.process_results(doc, filtered)["exact_match"]
        assert [*worth.values()] == [1.0, 0.0, float(rules == "current"), 1.0]


@pytest.mark.usefixtures("hf_cache")
def test_truthfulqa_is_split_at_the_first_false_label_in_both_old_harnesses() -> None:
    """Labels 1 0 1 with equal likelihoods: a third is true by the split, two thirds by today's mask."""
    doc = {"mc2_targets": {"labels": [1, 0, 1]}}
    results = [(-1.0, False)] * 3
    for rules, expected in ((LM_EVAL, 1 / 3), (LEADERBOARD, 1 / 3), ("current", 2 / 3)):
        assert built(rules, "truthfulqa_mc2").process_results(doc, results)["acc"] == pytest.approx(expected)


@pytest.mark.usefixtures("hf_cache")
def test_big_bench_differs_in_the_line_break_of_one_task() -> None:
    """At the paper's commit the worked examples of sports_understanding go on after 'step by step. '; the rest is today's text."""
    for name in BIG_BENCH_OFFLINE:
        theirs, today = prompts(LM_EVAL, name), prompts("current", name)
        if name == "bbh_sports_understanding":
            assert theirs[0].count("step by step. ") == 3
            assert [prompt.replace("step by step. ", "step by step.\n") for prompt in theirs] == today
        else:
            assert theirs == today


@pytest.mark.usefixtures("hf_cache")
def test_all_27_tasks_of_big_bench_hard_are_known() -> None:
    """Each has lm-eval's file; one whose data is not in the cache says so in a line."""
    assert len(big_bench.PROTOCOLS["current"]) == 27
    task = Task(name="bbh_web_of_lies", shots=3, metric="exact_match")
    with pytest.raises(InputError, match="bbh_web_of_lies could not be loaded"):
        load_definition(task, big_bench.PROTOCOLS["current"][task.name])


@pytest.mark.usefixtures("hf_cache")
def test_requests_are_the_same_where_only_scoring_differs() -> None:
    """What `asks_as` promises: equal prompts and endings under both protocols."""
    for name in ("arc_challenge", "truthfulqa_mc2", "mmlu"):
        assert open_llm.PAPER[name].asks_as(open_llm.CURRENT[name])
        ours, theirs = ([request.args for request in built(rules, name).instances] for rules in ("current", LM_EVAL))
        assert ours == theirs
    assert not open_llm.PAPER["winogrande"].asks_as(open_llm.CURRENT["winogrande"])
    assert not open_llm.LEADERBOARD["arc_challenge"].asks_as(open_llm.CURRENT["arc_challenge"])
