"""Generation by any server of the OpenAI completions protocol that serves the stage's own checkpoint.

The prompt goes as token ids, so template and BOS are ours. Every sampling setting a server may have a default of its own for is sent
in neutral form. A server that returns token ids (vLLM) is taken at its word; from others the text is tokenized again, which
reproduces the ids only as far as the tokenizer's text does.

The server's address is the machine's `server`; its key is ENGINE_API_KEY in the environment (a judge's OPENAI_API_KEY is never sent to it).
An engine refuses a server that does not list the checkpoint: each iteration's policy must be served before its stage runs. What is the same
from one call to the next is the server's to promise; `seed` is sent with each request.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import openai
from pydantic import BaseModel, Field, ValidationError
from transformers import AutoTokenizer

from harness.config import first_fault
from harness.contracts import Request, Response
from harness.errors import MachineError
from harness.lm.eos import cut, eos_ids, require_prompts
from harness.machine import Machine

VERSION = 1

RETRIES, TIMEOUT_SECONDS = 5, 600.0
# 'off' in vLLM, SGLang and llama.cpp, whose own defaults need not be; SGLang takes no top_k of 0. `repeat_penalty` is llama.cpp's name
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0, "return_token_ids": True}
SEED_MASK = 2**63 - 1


class _Choice(BaseModel):
    finish_reason: str | None
    text: str = ""
    token_ids: list[int] | None = None


class _Completion(BaseModel):
    """What is read of a reply; one prompt has one response."""

    choices: list[_Choice] = Field(min_length=1, max_length=1)


class Engine:
    """A client of a server; `batch_size` requests are under way at a time."""

    def __init__(self, client: openai.OpenAI, model: str, checkpoint: Path, batch_size: int) -> None:
        self.client = client
        self.model = model
        self.eos = eos_ids(checkpoint)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        self.batch_size = batch_size

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """A response to each request, in their order."""
        require_prompts(requests)
        with ThreadPoolExecutor(self.batch_size) as threads:
            return list(threads.map(self._ask, requests))

    def _ask(self, request: Request) -> Response:
        try:
            reply = self.client.completions.with_raw_response.create(
                model=self.model,
                prompt=request.token_ids,
                max_tokens=request.max_new_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed & SEED_MASK,
                stop=[*request.stops] or openai.omit,
                extra_body={**NEUTRAL, "stop_token_ids": list(self.eos)},
            )
        except openai.OpenAIError as error:
            raise _failure(self.client, error) from None
        try:
            return self._response(request, _Completion.model_validate_json(reply.content).choices[0])
        except ValidationError as error:
            raise MachineError(
                f"the server's reply to request {request.request_id} is no completion ({first_fault(error)}); "
                "expected one choice: check what stands behind the machine's `server`"
            ) from None

    def _response(self, request: Request, choice: _Choice) -> Response:
        if choice.finish_reason not in ("stop", "length"):
            raise MachineError(
                f"the server ended request {request.request_id} with {choice.finish_reason!r}; expected 'stop' or 'length': "
                "serve without filters or stop strings of its own"
            )
        if choice.token_ids is not None:
            return cut(request, choice.token_ids, self.eos)._replace(finish_reason=choice.finish_reason)
        token_ids = self.tokenizer(choice.text, add_special_tokens=False)["input_ids"]
        return Response(request.request_id, cut(request, token_ids, self.eos).token_ids, choice.finish_reason)


def open_engine(checkpoint: Path, dtype: str, machine: Machine) -> Engine:
    """A client of the machine's `server`, which must serve `checkpoint`; in which `dtype` is the server's business.

    Raises `MachineError` where there is no server, it does not answer or refuses, or it serves something else.
    """
    if machine.server is None:
        raise MachineError(
            f"the recipe generates through a server, and machine {machine.name} names none; "
            'add `server="http://HOST:PORT/v1"` to the machine file'
        )
    key = os.environ.get("ENGINE_API_KEY", "none")
    client = openai.OpenAI(base_url=machine.server, api_key=key, max_retries=RETRIES, timeout=TIMEOUT_SECONDS)
    return Engine(client, _served_name(client, checkpoint), checkpoint, machine.generate_batch)


def _served_name(client: openai.OpenAI, checkpoint: Path) -> str:
    """The served model whose name is the checkpoint's path or an end of it, from its last two parts on."""
    try:
        names = [str(model.id) for model in client.models.list()]
    except openai.OpenAIError as error:
        raise _failure(client, error) from None
    parts = checkpoint.resolve().parts
    for name in names:
        named = PurePosixPath(name).parts
        if len(named) > 1 and parts[-len(named) :] == named:
            return name
    wanted = "/".join(parts[-3:])
    raise MachineError(
        f"{client.base_url} serves {', '.join(names) or 'nothing'}; expected this stage's policy: serve {checkpoint} "
        f"under the name {wanted} (vLLM: --served-model-name) and run the same command again"
    )


def _failure(client: openai.OpenAI, error: openai.OpenAIError) -> MachineError:
    """What a server said, or that there is none, in one line; finished shards are kept."""
    found = f"the server at {client.base_url}"
    if not isinstance(error, openai.APIStatusError):
        return MachineError(f"{found} does not answer ({str(error).splitlines()[0][:200]}); start it and run the same command again")
    said = f"HTTP {error.status_code}: {' '.join(error.response.text.split())[:300]}"
    if error.status_code >= 500:
        return MachineError(f"{found} fails ({said}); see its log, and run the same command again once it works")
    return MachineError(
        f"{found} refuses what it is asked ({said}); expected one that completes token ids: check the machine's `server`, "
        "ENGINE_API_KEY and how it serves, then run the same command again"
    )
