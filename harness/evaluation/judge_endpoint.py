"""Verdicts of a judge behind an OpenAI-compatible endpoint: asked a few at a time, each saved as it comes.

The endpoint is OPENAI_BASE_URL and its key OPENAI_API_KEY, both from the environment only; neither is printed or stored. What can pass
(a timeout, a cut connection, HTTP 408, 409, 429 or 5xx, a reply that is no completion) is asked again after a pause: the endpoint's
own Retry-After, else one that doubles; after 429 and 503 all threads keep it. What cannot pass is a refusal.

The retries are ours because the openai client's do less: its time limit counts the silence between two bytes, not the whole request;
each thread pauses alone; a body that is no completion is not asked for again, a spent quota is; a Retry-After beyond two minutes ends all.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import openai
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from harness.config import first_fault
from harness.contracts import Turn
from harness.errors import InputError, JudgeError, first_line
from harness.evaluation.mt_bench.ratings import without_thinking
from harness.files import digest, write_atomic
from harness.lm.progress import progress
from harness.machine import Machine
from harness.recipe import Judge

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0
BUSY = (429, 503)
REQUEST_REFUSED = (400, 413, 422)
"""HTTP statuses that speak about one request, such as a prompt longer than the judge's context."""
FAILURES_IN_A_ROW = 3
"""So many requests failed without a success between them: the endpoint is down, and nothing new is asked."""


class Verdict(NamedTuple):
    """A judge's text on one turn, and the model name its endpoint reported (None for a rule).

    `refused` says why there is no text: the endpoint would not take this one request, or the judge was cut before it said anything.
    Such a turn is unscored and counted, and the next launch asks for it again.
    """

    text: str
    model: str | None = None
    refused: str | None = None


CUT = "cut: the judge spent its judge.max_tokens before it gave a verdict"


class _Part(BaseModel):
    """A piece of a message's content, as some servers send it; only those of type text are the judge's words."""

    type: str
    text: str = ""


class _Message(BaseModel):
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """What is read of a reply. Anything else is no completion: `choices` null, a model that is a list, a lone surrogate, JSON too deep."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None


class Endpoint:
    """Asks `judge.model` and keeps each verdict in `folder`, under its key and a hash of the judge and what was asked."""

    def __init__(self, judge: Judge, folder: Path, machine: Machine) -> None:
        self.judge, self.folder, self.retries, self.seconds = judge, folder, machine.judge_retries, machine.judge_timeout_seconds
        self.resume_at, self.lock = 0.0, threading.Lock()
        try:
            self.client = openai.AsyncOpenAI(max_retries=0, timeout=self.seconds)
        except openai.OpenAIError:
            raise JudgeError(
                f"judge {judge.model} needs OPENAI_API_KEY in the environment (any text for a local server); set it and run again"
            ) from None
        except Exception as error:  # of the HTTP library below openai, whichever that is
            reason = first_line(error)
            raise JudgeError(f"OPENAI_BASE_URL is no address ({reason}); expected one such as http://localhost:8000/v1") from None
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def ask(self, key: str, messages: list[dict[str, str]]) -> Verdict:
        """The verdict on `messages`: the saved one, else the endpoint's. A completion without text is an empty verdict.

        A refusal is returned and not saved. Raises `JudgeError` when the endpoint stays down or refuses us.
        """
        asked = digest([self.judge.model_dump(exclude={"repeats"}), messages])
        path = self.folder / f"{key}-{asked[:16]}.json"
        if path.exists():
            return _read(path)
        verdict = self._request(messages)
        if verdict.refused is None:
            write_atomic(path, (json.dumps(verdict._asdict()) + "\n").encode())
        return verdict

    def _request(self, messages: Any) -> Verdict:
        reason, pause = "", 0.0
        for attempt in range(self.retries + 1):
            time.sleep(max(self.resume_at - time.monotonic(), pause))
            pause = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS) * random.uniform(0.75, 1.0)
            try:
                return verdict_of(self._complete(messages))
            except openai.APIStatusError as error:
                reason = f"HTTP {error.status_code} ({type(error).__name__})"
                if error.status_code in REQUEST_REFUSED:
                    return Verdict("", refused=reason)
                if not _may_pass(error):
                    raise JudgeError(
                        f"judge {self.judge.model}: the endpoint answered {reason}; check OPENAI_BASE_URL, "
                        "OPENAI_API_KEY and the recipe's judge.model, then run again: answers and verdicts so far are kept"
                    ) from None
                pause = _retry_after(error.response.headers) or pause
                if error.status_code in BUSY:
                    self._hold_all(pause)
            except ValidationError as error:
                reason = f"a reply that is no chat completion: {first_fault(error)}"
            except TimeoutError:
                reason = f"no whole reply within {self.seconds:g} s"
            except (openai.OpenAIError, ValueError) as error:
                reason = type(error).__name__
        raise JudgeError(
            f"judge {self.judge.model}: no verdict from the endpoint after {self.retries} retries ({reason}); "
            "run again when it is up: answers and verdicts so far are kept"
        )

    def _hold_all(self, seconds: float) -> None:
        with self.lock:
            self.resume_at = max(self.resume_at, time.monotonic() + seconds)

    def _complete(self, messages: Any) -> bytes:
        """The body of the endpoint's reply. `TimeoutError` where it is not whole in time, however busily it drips."""
        judge = self.judge
        asked = self.client.chat.completions.with_raw_response.create(
            model=str(judge.model), messages=messages, temperature=judge.temperature, max_tokens=judge.max_tokens
        )
        reply = asyncio.run_coroutine_threadsafe(asyncio.wait_for(asked, self.seconds), self.loop).result()
        return bytes(reply.content)


def collect(turns: Mapping[str, Turn], ask: Callable[[str, Turn], Verdict], threads: int) -> dict[str, Verdict]:
    """{key: verdict} for all turns, `threads` at a time.

    A request that fails does not stop the others, whose verdicts are saved; three failures in a row do. Raises the first `JudgeError`
    once all is saved, and one where the endpoint refused every single request.
    """
    verdicts: dict[str, Verdict] = {}
    failures: list[JudgeError] = []
    in_a_row = 0
    waiting = iter(turns.items())
    with progress("verdicts", len(turns), "turns") as advance, ThreadPoolExecutor(threads) as pool:
        running: dict[Future[Verdict], str] = {}
        while True:
            while in_a_row < FAILURES_IN_A_ROW and len(running) < threads and (item := next(waiting, None)):
                running[pool.submit(ask, *item)] = item[0]
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key, error = running.pop(future), future.exception()
                if isinstance(error, JudgeError):
                    failures.append(error)
                    in_a_row += 1
                    continue
                verdicts[key], in_a_row = future.result(), 0
                advance(1)
    _check(verdicts, failures, len(turns))
    return {key: verdicts[key] for key in turns}


def _check(verdicts: Mapping[str, Verdict], failures: list[JudgeError], num_turns: int) -> None:
    if failures:
        raise JudgeError(f"{num_turns - len(verdicts)} of {num_turns} verdicts are missing: {failures[0]}")
    refused = {verdict.refused for verdict in verdicts.values()}
    if refused and None not in refused:
        raise JudgeError(
            f"the judge's endpoint refused all {num_turns} requests ({', '.join(sorted(map(str, refused)))}); "
            "check that it knows the recipe's judge.model, temperature and max_tokens"
        )


def verdict_of(body: bytes) -> Verdict:
    """The verdict in a reply's body. `ValidationError` where it is no chat completion."""
    reply = _Completion.model_validate_json(body)
    choice = reply.choices[0]
    if choice.finish_reason == "length" and not without_thinking(choice.message.text).strip():
        return Verdict("", reply.model, CUT)
    return Verdict(choice.message.text, reply.model)


def _may_pass(error: openai.APIStatusError) -> bool:
    """Whether the same request can succeed later; a spent quota (a 429 too) cannot."""
    return error.code != "insufficient_quota" and (error.status_code in (408, 409, 429) or error.status_code >= 500)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds an endpoint asks to wait, at most ten minutes; None where it states none (or a date)."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(seconds, LONGEST_RETRY_AFTER_SECONDS) if seconds > 0 else None


def _read(path: Path) -> Verdict:
    try:
        return TypeAdapter(Verdict).validate_json(path.read_bytes())
    except ValidationError:
        raise InputError(f"verdict {path.name} is damaged; remove {path} and run again") from None
