"""What is counted about responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.machine import load
from harness.stages.response_shards import Responses, repeats_itself, shards

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


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 6, 8, 32])
@pytest.mark.parametrize("num_prompts", [49_800, 20_000, 1000, 17])
def test_no_replica_idles_while_another_has_a_shard(num_prompts: int, num_replicas: int) -> None:
    """Promise: as many shards for each replica where there are batches enough, none larger than the machine's, every prompt in one."""
    machine = load("a100x8").model_copy(update={"num_replicas": num_replicas})
    found = shards(num_prompts, machine)
    assert [place for shard in found for place in shard] == list(range(num_prompts))
    num_batches = -(-num_prompts // machine.generate_batch)
    assert len(found) % num_replicas == 0 or len(found) == num_batches
    sizes = [len(shard) for shard in found[1:]]  # the first has what is left over of the shortest prompts
    assert max(map(len, found)) <= machine.generate_shard
    assert not sizes or max(sizes) - min(sizes) <= machine.generate_batch
    assert all((num_prompts - shard.start) % machine.generate_batch == 0 for shard in found[1:])


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
