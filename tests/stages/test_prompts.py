"""The prompts of a run are exactly those the recipe names, in order, or an error that says what is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.contracts import Demonstration
from harness.errors import InputError
from harness.recipe import PromptSource
from harness.stages import prompts
from harness.training.pairs import read_demonstrations
from tests.checkpoints import MACHINE

ROWS = [Demonstration(f"id{i}", [{"role": "user", "content": f"question {i} \u2028 自己"}], f"answer {i}\nsecond line") for i in range(5)]
SPEC = PromptSource(source="fake", dataset="set", split="train", num_prompts=3)


def run(monkeypatch: pytest.MonkeyPatch, out: Path, rows: list[Demonstration], spec: PromptSource = SPEC) -> list[Demonstration]:
    """What the stage writes when the source gives `rows`."""
    monkeypatch.setattr(prompts, "load", lambda kind, name: SimpleNamespace(load=lambda spec: rows))
    prompts.run({"prompts": spec.model_dump(mode="json")}, {}, out, MACHINE)
    return read_demonstrations(out / "prompts.jsonl")


def test_rows_are_kept_in_order_and_cut_to_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first `num_prompts` rows, whatever characters they hold, one a line."""
    assert run(monkeypatch, tmp_path, ROWS) == ROWS[:3]
    assert (tmp_path / "prompts.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("num", [0, 2])
def test_too_few_prompts_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, num: int) -> None:
    """An empty or short set says how many it gives and how many were asked for, and writes nothing."""
    with pytest.raises(InputError, match=rf"set \[train\] gives {num} usable prompts, the recipe asks for 3; lower `num_prompts`"):
        run(monkeypatch, tmp_path, ROWS[:num])
    assert list(tmp_path.iterdir()) == []


def test_repeated_prompt_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Responses are keyed by prompt, so one prompt twice cannot be trained on."""
    with pytest.raises(InputError, match="gives a prompt twice"):
        run(monkeypatch, tmp_path, [ROWS[0], ROWS[0], ROWS[1]])


def test_procedural_source_fills_a_stage(tmp_path: Path) -> None:
    """The real procedural source gives distinct prompts, the same in every launch."""
    spec = PromptSource(source="procedural", dataset="procedural", num_prompts=20)
    for name in ("a", "b"):
        prompts.run({"prompts": spec.model_dump(mode="json")}, {}, tmp_path / name, MACHINE)
    rows = read_demonstrations(tmp_path / "a" / "prompts.jsonl")
    assert len({row.prompt_id for row in rows}) == 20
    assert (tmp_path / "a" / "prompts.jsonl").read_bytes() == (tmp_path / "b" / "prompts.jsonl").read_bytes()


def test_unknown_split_is_an_input_error(tmp_path: Path) -> None:
    """A misspelt split of the procedural source gets a suggestion."""
    spec = PromptSource(source="procedural", dataset="procedural", split="trian", num_prompts=2)
    with pytest.raises(InputError, match="no split 'trian'; did you mean 'train'"):
        prompts.run({"prompts": spec.model_dump(mode="json")}, {}, tmp_path, MACHINE)
