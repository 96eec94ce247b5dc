"""Answers that others judged are graded by another judge, in the very words theirs was asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.evaluation.mt_bench.ratings import read_judgments
from harness.evaluation.mt_bench.regrading import regrade
from harness.files import read_jsonl
from harness.recipe import Judge
from tests.checkpoints import MACHINE
from tests.scripted_judge import Reply, serving

JUDGE = Judge(model="scripted-judge", repeats=2)


def judgments(path: Path, **changed: Any) -> Path:
    """Four turns of two questions, judged by gpt-4."""
    lines = [
        {"question_id": q, "model": "m", "judge": ["gpt-4", f"single-v1{'-multi-turn' if turn == 2 else ''}"], "turn": turn, "score": 5,
         "user_prompt": f"grade answer {q} {turn}", "judgment": f"Rating: [[{turn + 4}]]", **changed}
        for q in (81, 82) for turn in (1, 2)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def _space(monkeypatch: pytest.MonkeyPatch) -> None:
    templates = {name: {"system_prompt": f"You are {name}."} for name in ("single-v1", "single-v1-multi-turn")}
    monkeypatch.setattr("harness.evaluation.mt_bench.regrading.judge_templates", lambda: templates)


@pytest.mark.usefixtures("_space")
def test_the_other_judge_is_asked_the_very_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: 8 verdicts are asked of 4 turns graded twice, in the recorded prompts; what comes out is read by `import-judgments`."""
    with serving(lambda prompt, times: Reply("no" if prompt.endswith("82 2") else "Rating: [[7]]")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        out = tmp_path / "again_single.jsonl"
        for _ in range(2):
            regrade([judgments(tmp_path / "gpt-4_single.jsonl")], JUDGE, MACHINE, out)
    assert len(server.asked) == 8, "the second call asks for nothing"
    assert {tuple(message["content"] for message in body["messages"]) for body in server.asked} == {
        (f"You are single-v1{'-multi-turn' if turn == 2 else ''}.", f"grade answer {q} {turn}") for q in (81, 82) for turn in (1, 2)
    }
    found = read_judgments([out])
    assert [(one.judge, one.model, one.question_id, one.turn, one.recorded) for one in found[::2]] == [
        ("scripted-judge", "m", "81", 1, 7.0), ("scripted-judge", "m", "81", 2, 7.0), ("scripted-judge", "m", "82", 1, 7.0),
        ("scripted-judge", "m", "82", 2, None),
    ]  # fmt: skip
    assert [line["repeat"] for line in read_jsonl(out)] == [1, 2] * 4


@pytest.mark.usefixtures("_space")
def test_what_cannot_be_asked_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that does not hold the prompts, a prompt nobody knows, and a judge that is a rule."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with pytest.raises(InputError, match="line 1 has no user_prompt"):
        regrade([judgments(tmp_path / "a.jsonl", user_prompt=None)], JUDGE, MACHINE, tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="was asked with the prompt 'pair-v2', which"):
        regrade([judgments(tmp_path / "a.jsonl", judge=["gpt-4", "pair-v2"])], JUDGE, MACHINE, tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="rule_based is a rule or names no model"):
        regrade([judgments(tmp_path / "a.jsonl")], Judge(name="rule_based", model="rule"), MACHINE, tmp_path / "out.jsonl")
