"""Every task of every protocol is built from the offline cache, and asks what the protocol's harness asked.

protocol_prompts.json holds the sha256 of each context and continuation that the code of the two old commits itself builds on the sets
of the offline cache: at 46c7966 for the first 8 questions of a task, at b281b09 for the first 6 after its shuffle.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
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
RECORDED: dict[str, dict[str, list[dict[str, Any]]]] = json.loads((Path(__file__).parent / "protocol_prompts.json").read_text())
RECORDED_AS = {LM_EVAL: "lm-eval@46c7966", LEADERBOARD: "lm-eval@b281b09"}
RECORDED_CASES = [(rules, task) for rules, commit in RECORDED_AS.items() for task in RECORDED[commit]]


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


@pytest.mark.usefixtures("hf_cache")
@pytest.mark.parametrize(("rules", "task"), RECORDED_CASES)
def test_prompts_are_those_of_the_old_harness(rules: str, task: str) -> None:
    """Every recorded context and continuation, few-shot examples included, in the order of the requests."""
    name = "mmlu" if task.startswith("mmlu_") else task
    subtasks = (task,) if name == "mmlu" else ()
    asked = Task(name=name, shots=SHOTS.get(name, 3), metric="acc", subtasks=subtasks)
    (subtask,) = load_definition(asked, definition_of(rules, name)).values()
    set_up(subtask, asked, None)
    recorded = RECORDED[RECORDED_AS[rules]][task]
    if (rules, task) == (LEADERBOARD, "truthfulqa_mc2"):
        recorded = [*_second_choices(recorded, subtask.dataset["validation"])]
    subtask.build_all_requests(limit=8 if rules == LM_EVAL else 6)
    found = [(_sha256(request.args[0]), _sha256(request.args[1])) for request in subtask.instances]
    assert found == [(one["context_sha256"], one["continuation_sha256"]) for one in recorded]


def _second_choices(recorded: list[dict[str, Any]], questions: Any) -> Iterator[dict[str, Any]]:
    """Of each question's requests at b281b09, mc1's choices and then mc2's, the latter."""
    requests = iter(recorded)
    for question in questions.select(range(6)):
        for _ in question["mc1_targets"]["choices"]:
            next(requests)
        yield from islice(requests, len(question["mc2_targets"]["choices"]))
    assert next(requests, None) is None


def _sha256(text: object) -> str | None:
    """Generation settings in place of a continuation are not recorded."""
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else None


def test_the_recorded_prompts_are_the_shared_ones(shared_data: Path) -> None:
    """The copy beside this file is the record as it was made."""
    assert json.loads((shared_data / "protocol_prompts.json").read_text()) == RECORDED


@pytest.mark.usefixtures("hf_cache")
@pytest.mark.parametrize(("rules", "name"), CASES)
def test_where_a_template_ends_in_a_line_break(rules: str, name: str) -> None:
    """Only Big-Bench's do, and lm-eval kept a template's last line break from August 2024 on: no other protocol may have one."""
    config = built(rules, name).config
    choices = config.doc_to_choice if isinstance(config.doc_to_choice, list) else [config.doc_to_choice]
    templates = [template for template in (config.doc_to_text, config.doc_to_target, *choices) if isinstance(template, str)]
    kept = rules == "current" and name in BIG_BENCH_OFFLINE
    assert any(template.endswith("\n") for template in templates) == kept


def test_protocols_are_spelt_as_the_published_claims_are() -> None:
    """A score made under a protocol meets the published numbers of that protocol, by name."""
    spelt = {claim.protocol for claim in published.CLAIMS}
    assert {LM_EVAL, LEADERBOARD} <= spelt
    assert set(open_llm.PROTOCOLS) == {"current", LM_EVAL, LEADERBOARD}
    assert set(big_bench.PROTOCOLS) == {"current", LM_EVAL}


@pytest.mark.usefixtures("hf_cache")
def test_the_leaderboard_shuffles_questions_and_draws_examples_with_one_generator() -> None:
    """Rebuilt from the rule's text: Random(42) shuffles, then samples the whole training list for each question, as many as shots."""
    sets = {
        "arc_challenge": (load_dataset("allenai/ai2_arc", "ARC-Challenge"), "test", 4),
        "gsm8k": (load_dataset("openai/gsm8k", "main"), "test", 1),
        "openbookqa": (load_dataset("allenai/openbookqa", "main"), "test", 4),
        "winogrande": (load_dataset("allenai/winogrande", "winogrande_xl"), "validation", 2),
    }
    for name, (data, split, per_question) in sets.items():
        generator = random.Random(42)
        questions, training = list(data[split]), list(data["train"])
        generator.shuffle(questions)
        for question, prompt in zip(questions, prompts(LEADERBOARD, name)[::per_question], strict=False):
            examples = generator.sample(training, SHOTS[name])
            assert prompt == "\n\n".join([*map(_worked, examples), _asked(question)])


def _asked(doc: dict[str, Any]) -> str:
    """A question as it stands at the end of a prompt; Winogrande's with its first option."""
    if "sentence" in doc:
        return str(doc["sentence"].split("_")[0] + doc["option1"])
    return str(doc.get("question_stem") or f"Question: {doc['question']}\nAnswer:")


def _worked(doc: dict[str, Any]) -> str:
    """A question with its answer."""
    if "sentence" in doc:
        before, after = doc["sentence"].split("_")
        return f"{before}{doc['option' + doc['answer']]} {after.strip()}"
    shown = doc["choices"]["text"][doc["choices"]["label"].index(doc["answerKey"])] if "choices" in doc else doc["answer"]
    return f"{_asked(doc)} {shown}"


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
def test_big_bench_differs_in_line_breaks() -> None:
    """At the paper's commit a question ends with its full stop; sports_understanding's examples go on in the line, the others' do not."""
    for name in BIG_BENCH_OFFLINE:
        theirs, today = prompts(LM_EVAL, name), prompts("current", name)
        assert all(prompt.endswith("A: Let's think step by step.") for prompt in theirs)
        goes_on = name == "bbh_sports_understanding"
        assert theirs[0].count("step by step. ") == (3 if goes_on else 0)
        assert [prompt.replace("step by step. ", "step by step.\n") + "\n" for prompt in theirs] == today
        assert not big_bench.PAPER[name].asks_as(big_bench.CURRENT[name])


@pytest.mark.usefixtures("hf_cache")
def test_all_27_tasks_of_big_bench_hard_are_known() -> None:
    """Each has lm-eval's file; one whose data is not in the cache says so in a line."""
    assert len(big_bench.PROTOCOLS["current"]) == len(big_bench.PROTOCOLS[LM_EVAL]) == 27
    assert not any(definition.changes["doc_to_text"].endswith("\n") for definition in big_bench.PROTOCOLS[LM_EVAL].values())
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
