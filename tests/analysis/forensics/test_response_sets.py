"""Released responses against ours: greedy decoding is told from drawing, on a model small enough to do both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from harness import machine
from harness.analysis.forensics.response_sets import compare, compare_texts
from harness.artifact import RunDir
from harness.contracts import Request, load
from harness.errors import InputError
from tests.tiny_checkpoints import byte_checkpoint

PROMPTS = [f"Tell me about number {i}." for i in range(24)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """{how they were decoded: {prompt: response}} by one model."""
    checkpoint = byte_checkpoint(tmp_path_factory.mktemp("model"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    engine = load("engines", "hf").open_engine(checkpoint, "float32", machine.load("cpu"))

    def decoded(template: str, temperature: float, seed: int) -> dict[str, str]:
        asked = [tokenizer(template.format(prompt))["input_ids"] for prompt in PROMPTS]
        requests = [Request(str(i), ids, 40, temperature, 1.0, seed + i) for i, ids in enumerate(asked)]
        return {prompt: tokenizer.decode(one.token_ids) for prompt, one in zip(PROMPTS, engine.generate(requests), strict=True)}

    return {"greedy": decoded("{}", 0.0, 0), "drawn": decoded("{}", 1.0, 0), "other template": decoded("Q: {}\nA:", 0.0, 0)}


def test_greedy_is_told_from_drawn(answers: dict[str, dict[str, str]]) -> None:
    """Greedy again gives every response again; draws from the same model, or greedy behind another template, part at once."""
    released = answers["greedy"]
    same, drawn, other = (compare_texts(name, answers[name], released, "set") for name in ("greedy", "drawn", "other template"))
    assert (same.identical, same.common_share, same.verdict) == (24, 1.0, "the same responses")
    for found in (drawn, other):
        assert found.identical == 0
        assert found.common_share < 0.25
        assert found.verdict.startswith("decoded otherwise")


def test_flips_of_near_ties_leave_it_greedy(answers: dict[str, dict[str, str]]) -> None:
    """A few responses that go their own way half-way do not hide that the decoding is the same; blanks around do not count."""
    flipped = {
        prompt: text[: len(text) // 2] + "~" * (len(text) // 2) if i % 3 == 0 else f"  {text}\n"
        for i, (prompt, text) in enumerate(answers["greedy"].items())
    }
    found = compare_texts("greedy", answers["greedy"], flipped, "set")
    assert found.identical == 16
    assert found.verdict.startswith("decoded alike: greedy")


def released(path: Path, responses: dict[str, str]) -> Path:
    """A set as the authors released theirs: real and generated conversations."""
    lines = [
        {
            name: [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            for name, text in (("real", "R"), ("generated", said))
        }
        for prompt, said in responses.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run_of(path: Path, responses: dict[str, str]) -> RunDir:
    """A run that holds the prompts and iteration 0's responses."""
    for folder in ("prompts", "iter0/generate/responses"):
        (path / folder).mkdir(parents=True)
    rows = [{"prompt_id": f"p{i}", "prompt": [{"role": "user", "content": prompt}], "real": "R"} for i, prompt in enumerate(responses)]
    lines = [
        {"prompt_id": f"p{i}", "response": text, "finish_reason": "stop", "num_tokens": 1} for i, text in enumerate(responses.values())
    ]
    (path / "prompts/prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "iter0/generate/responses/00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunDir(path)


def test_runs_are_ranked_by_how_alike_they_decode(tmp_path: Path, answers: dict[str, dict[str, str]]) -> None:
    """From files as the user has them; prompts that only one side answers are left out."""
    source = released(tmp_path / "set.jsonl", {**answers["greedy"], "A prompt of theirs alone.": "x"})
    runs = [run_of(tmp_path / name.replace(" ", "-"), answers[name]) for name in ("drawn", "greedy")]
    found = compare(runs, 0, str(source), "train")
    assert [(one.run, one.matched) for one in found] == [("greedy", 24), ("drawn", 24)]


def test_no_common_prompt_and_no_responses_are_errors(tmp_path: Path) -> None:
    """Each says what to do."""
    source = released(tmp_path / "set.jsonl", {"Another?": "x"})
    with pytest.raises(InputError, match="answer no prompt in common"):
        compare([run_of(tmp_path / "run", {"Mine?": "y"})], 0, str(source), "train")
    with pytest.raises(InputError, match="holds no responses of iter1"):
        compare([RunDir(tmp_path / "run")], 1, str(source), "train")
