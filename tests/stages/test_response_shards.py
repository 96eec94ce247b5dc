"""What is counted about responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.stages.response_shards import Responses, repeats_itself

LOOP = "the rain falls on the hill and " * 8


def line(prompt_id: str, response: str, num_tokens: int, finish_reason: str = "stop") -> dict[str, Any]:
    return {"prompt_id": prompt_id, "response": response, "finish_reason": finish_reason, "num_tokens": num_tokens}


@pytest.mark.parametrize(
    ("text", "stuck"),
    [
        (LOOP, True),
        ("no " * 200, True),
        ("no " * 8, False),
        ("", False),
        (" ".join("abcdefghijklmnopqrstuvwxyz"), False),
        ("a b c d e f g h " * 2, False),
    ],
)
def test_a_response_that_loops_is_seen(text: str, stuck: bool) -> None:
    """Most four-word runs having occurred before is a loop; a short answer, or one sentence said twice, is not."""
    assert repeats_itself(text) is stuck


def test_each_shard_is_counted(tmp_path: Path) -> None:
    """Lengths, cut, empty and looping responses, for each shard and over all."""
    responses = Responses(tmp_path, {name: i for i, name in enumerate("abcd")})
    responses.write(0, [line("b", LOOP, 60, "length"), line("a", "  ", 2)])
    responses.write(1, [line("c", "yes", 1), line("d", "no", 1)])
    shared = {"num_responses": 2, "mean_tokens": 31.0, "share_length": 0.5, "share_empty": 0.5, "share_repeating": 0.5}
    found = responses.statistics()
    assert found["shards"]["00000"] == shared
    assert {name: found[name] for name in shared} == {
        "num_responses": 4, "mean_tokens": 16.0, "share_length": 0.25, "share_empty": 0.25, "share_repeating": 0.25,
    }  # fmt: skip
    assert responses.answered() == b"\1\1\1\1"


def test_an_unanswered_prompt_is_no_statistic(tmp_path: Path) -> None:
    """Statistics of part of the prompts are refused."""
    responses = Responses(tmp_path, {"a": 0, "b": 1})
    responses.write(0, [line("b", "yes", 1)])
    with pytest.raises(InputError, match="1 of 2 prompts have no response"):
        responses.statistics()
