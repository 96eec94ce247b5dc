"""A judge on loopback whose ratings follow from what it is asked, and a whole run to hurt copies of."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.damage import launch
from tests.scripted_judge import Reply, Server, serving


def healthy(prompt: str, times: int) -> Reply:
    """A rating from 1 to 10."""
    return Reply(f"Rating: [[{zlib.crc32(prompt.encode()) % 10 + 1}]]")


@pytest.fixture(scope="session", autouse=True)
def judge() -> Iterator[Server]:
    """A healthy judge, which the environment names."""
    with serving(healthy) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", server.url)
        patch.setenv("OPENAI_API_KEY", "sk-not-for-anyone")
        yield server


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, hf_cache: Path) -> Path:
    """A whole run that nobody hurt, not to be changed; its judge is asked with the prompts of MT-Bench."""
    out = tmp_path_factory.mktemp("undisturbed") / "whole"
    launch(out)
    return out
