"""Every engine ends a response in the same place."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GenerationConfig

from harness.contracts import Request
from harness.errors import InputError
from harness.lm.eos import cut, eos_ids, require_prompts
from tests.checkpoints import save_checkpoint

REQUEST = Request("r", [1, 2], 4, 0.0, 1.0, 0)


@pytest.mark.parametrize(
    ("generated", "kept", "reason"),
    [([5, 6, 9, 7], [5, 6], "stop"), ([5, 6, 7, 8, 9], [5, 6, 7, 8], "length"), ([9], [], "stop"), ([5, 6, 7, 9], [5, 6, 7], "stop")],
)
def test_a_response_ends_at_eos_or_its_limit(generated: list[int], kept: list[int], reason: str) -> None:
    """The EOS is no part of the response; an EOS after the limit does not count."""
    response = cut(REQUEST, generated, (9,))
    assert (response.token_ids, response.finish_reason) == (kept, reason)


def test_eos_of_settings_and_tokenizer(tmp_path: Path) -> None:
    """A checkpoint's generation settings may name several EOS ids; the tokenizer's own counts too, each once."""
    save_checkpoint(tmp_path)
    assert eos_ids(tmp_path) == (1,)
    GenerationConfig(eos_token_id=[7, 1]).save_pretrained(tmp_path)
    assert eos_ids(tmp_path) == (7, 1)


def test_eos_without_generation_settings(tmp_path: Path) -> None:
    """Where a checkpoint has no generation_config.json its config.json says what ends a response."""
    save_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"eos_token_id": 1', '"eos_token_id": 6'))
    assert eos_ids(tmp_path) == (6, 1)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    """An empty directory and an empty prompt are one clear line each."""
    with pytest.raises(InputError, match="cannot be loaded as a model"):
        eos_ids(tmp_path)
    with pytest.raises(InputError, match="request r has an empty prompt"):
        require_prompts([REQUEST._replace(token_ids=[])])
