"""Verdicts of a judge behind an OpenAI-compatible endpoint: asked a few at a time, each saved as it comes.

The endpoint is OPENAI_BASE_URL and its key OPENAI_API_KEY, both from the environment only; neither is printed or stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import openai

from harness.artifact import digest, write_atomic
from harness.components import Turn
from harness.errors import InputError, JudgeError
from harness.progress import progress
from harness.recipe import Judge

THREADS, RETRIES, TIMEOUT_SECONDS = 8, 5, 180.0


class Verdict(NamedTuple):
    """A judge's text on one turn, and the model name its endpoint reported (None for a rule)."""

    text: str
    model: str | None = None


class Endpoint:
    """Asks `judge.model` and keeps each verdict in `folder`, under the turn's key and a hash of what was asked."""

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.judge, self.folder = judge, folder
        try:
            self.client = openai.OpenAI(max_retries=RETRIES, timeout=TIMEOUT_SECONDS)
        except openai.OpenAIError:
            raise JudgeError(
                f"judge {judge.model} needs OPENAI_API_KEY in the environment (any text for a local server); set it and run again"
            ) from None

    def ask(self, key: str, messages: list[dict[str, str]]) -> Verdict:
        """The verdict on `messages`: the saved one, else the endpoint's, retried with back-off by the client.

        Raises `JudgeError` when the endpoint stays down or refuses. A reply without text is an empty verdict.
        """
        path = self.folder / f"{key}-{digest([self.judge.model, messages])[:16]}.json"
        if path.exists():
            return _read(path)
        verdict = self._request(messages)
        write_atomic(path, (json.dumps(verdict._asdict()) + "\n").encode())
        return verdict

    def _request(self, messages: Any) -> Verdict:
        judge = self.judge
        try:
            completion = self.client.chat.completions.create(
                model=str(judge.model), messages=messages, temperature=judge.temperature, max_tokens=judge.max_tokens
            )
        except openai.APIStatusError as error:
            raise JudgeError(
                f"judge {judge.model}: the endpoint answered HTTP {error.status_code} ({type(error).__name__}); check OPENAI_BASE_URL, "
                "OPENAI_API_KEY and the recipe's judge.model, then run again: answers and verdicts so far are kept"
            ) from None
        except openai.OpenAIError as error:
            raise JudgeError(
                f"judge {judge.model}: no answer from the endpoint after {RETRIES} retries ({type(error).__name__}); "
                "run again when it is up: answers and verdicts so far are kept"
            ) from None
        text = completion.choices[0].message.content if completion.choices else None
        return Verdict(text or "", completion.model)


def collect(turns: Mapping[str, Turn], ask: Callable[[str, Turn], Verdict]) -> dict[str, Verdict]:
    """{key: verdict} for all turns, `THREADS` at a time. After a failure nothing new is asked, and what was asked is still saved."""
    verdicts: dict[str, Verdict] = {}
    with progress("verdicts", len(turns), "turns") as advance, ThreadPoolExecutor(THREADS) as pool:
        futures = {pool.submit(ask, key, turn): key for key, turn in turns.items()}
        try:
            for future in as_completed(futures):
                verdicts[futures[future]] = future.result()
                advance(1)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return {key: verdicts[key] for key in turns}


def _read(path: Path) -> Verdict:
    try:
        return Verdict(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise InputError(f"verdict {path.name} is damaged; remove {path} and run again") from None
