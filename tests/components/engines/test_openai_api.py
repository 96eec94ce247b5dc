"""The openai_api engine against a scripted server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness.components.engines import openai_api
from harness.contracts import Request
from harness.errors import MachineError
from harness.machine import Machine
from tests.checkpoints import MACHINE, save_checkpoint

EOS = 1
ASKED = [Request(f"r{i}", [2, 5 + i, 3], 6, 1.0, 0.9, 2**63 + i) for i in range(9)]


class Server(ThreadingHTTPServer):
    """Echoes a prompt's middle token three times and an EOS; keeps what it was sent. `fails` requests get `failure` first."""

    models: list[str]
    returns_ids = True
    finish_reason = "stop"
    fails = 0
    failure: tuple[int, Any] = (503, {"error": {"message": "loading"}})
    """The status and body of an answer that is none."""
    choices: Any = None
    """Sent instead of the answer where it is set."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokenizer = tokenizer
        self.seen: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model", "created": 0, "owned_by": ""} for name in self.server.models]
        self._reply(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.add(self.headers["Authorization"])
        if self.server.fails:
            self.server.fails -= 1
            self._reply(*self.server.failure)
            return
        if body["top_k"] == 0:  # as SGLang, whose words these are
            self._reply(400, {"object": "error", "message": "top_k must be -1 (disable) or at least 1, got 0.", "code": 400})
            return
        self.server.seen.append(body)
        ids = [body["prompt"][1]] * 3
        choice = {"index": 0, "text": self.server.tokenizer.decode(ids), "finish_reason": self.server.finish_reason, "logprobs": None}
        if self.server.returns_ids:
            choice["token_ids"] = [*ids, EOS]
        choices = self.server.choices or [choice]
        self._reply(200, {"id": "x", "object": "text_completion", "created": 0, "model": body["model"], "choices": choices})

    def _reply(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("openai") / "iter0" / "train" / "checkpoint")


@pytest.fixture
def server(checkpoint: Path) -> Iterator[Server]:
    server = Server(AutoTokenizer.from_pretrained(checkpoint))
    server.models = ["something/else", "iter0/train/checkpoint"]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def machine_of(server: Server) -> Machine:
    return MACHINE.model_copy(update={"server": f"http://127.0.0.1:{server.server_address[1]}/v1"})


@pytest.mark.parametrize("returns_ids", [True, False])
def test_token_ids_in_and_out(server: Server, checkpoint: Path, returns_ids: bool) -> None:
    """Responses come in the order of the requests, without their EOS, from a server that returns token ids and from one that does not."""
    server.returns_ids = returns_ids
    responses = openai_api.open_engine(checkpoint, "float32", machine_of(server)).generate(ASKED)
    assert responses == [(f"r{i}", [5 + i] * 3, "stop") for i in range(9)]
    assert sorted(body["prompt"][1] for body in server.seen) == [5 + i for i in range(9)]


def test_nothing_is_left_to_the_servers_defaults(server: Server, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request carries its own sampling and seed, and switches off what a server would add; a judge's key is not sent."""
    monkeypatch.setenv("OPENAI_API_KEY", "the judge's")
    monkeypatch.setenv("ENGINE_API_KEY", "the engine's")
    openai_api.open_engine(checkpoint, "float32", machine_of(server)).generate(ASKED[:1])
    (body,) = server.seen
    wanted = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 6, "seed": 0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {name: body[name] for name in wanted} == wanted
    assert (body["model"], body["stop_token_ids"]) == ("iter0/train/checkpoint", [EOS])
    assert server.keys == {"Bearer the engine's"}


def test_a_busy_server_is_asked_again(server: Server, checkpoint: Path) -> None:
    """A refusal for a moment costs nothing but time."""
    server.fails = 2
    assert len(openai_api.open_engine(checkpoint, "float32", machine_of(server)).generate(ASKED[:2])) == 2


@pytest.mark.parametrize("models", [[], ["iter1/train/checkpoint"], ["checkpoint"]])
def test_another_model_is_refused(server: Server, checkpoint: Path, models: list[str]) -> None:
    """A server of another iteration's policy, or of one that cannot be told from it, is not asked."""
    server.models = models
    with pytest.raises(MachineError, match=r"expected this stage's policy: serve .* under the name iter0/train/checkpoint"):
        openai_api.open_engine(checkpoint, "float32", machine_of(server))


def test_faults_are_one_line(server: Server, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server named, none there, and an answer that was filtered each say what to do."""
    with pytest.raises(MachineError, match="names none; add `server="):
        openai_api.open_engine(checkpoint, "float32", MACHINE)
    server.finish_reason = "content_filter"
    with pytest.raises(MachineError, match="ended request r0 with 'content_filter'"):
        openai_api.open_engine(checkpoint, "float32", machine_of(server)).generate(ASKED[:1])
    monkeypatch.setattr(openai_api, "RETRIES", 0)
    with pytest.raises(MachineError, match=r"does not answer .*; start it"):
        openai_api.open_engine(checkpoint, "float32", MACHINE.model_copy(update={"server": "http://127.0.0.1:9/v1"}))


TOO_LONG = {"error": {"message": "This model's maximum context length is 128 tokens.", "type": "BadRequestError"}}


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            (400, TOO_LONG),
            r"refuses what it is asked \(.*400.*maximum context length is 128 tokens.*\); expected one that completes token ids",
        ),
        ((400, {"object": "error", "message": "no top_k of 0", "code": 400}), r"refuses what it is asked \(.*no top_k of 0"),
        ((401, {"error": "Unauthorized"}), r"refuses what it is asked \(.*Unauthorized.*ENGINE_API_KEY"),
        ((404, {"detail": "Not Found"}), r"refuses what it is asked \(.*Not Found.*the machine's `server`"),
        ((500, {"error": {"message": "out of memory"}}), r"fails \(.*500.*out of memory.*\); see its log"),
    ],
)
def test_a_server_that_answers_no_is_quoted(
    server: Server, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, failure: tuple[int, Any], expected: str
) -> None:
    """A refusal is told with the server's words, apart from a server that has an error of its own and from one that is not there."""
    monkeypatch.setattr(openai_api, "RETRIES", 0)
    server.fails, server.failure = 1, failure
    with pytest.raises(MachineError, match=expected) as refused:
        openai_api.open_engine(checkpoint, "float32", machine_of(server)).generate(ASKED[:1])
    assert "start it" not in str(refused.value)
    assert "\n" not in str(refused.value)


STOPPED = {"finish_reason": "stop"}


@pytest.mark.parametrize("choices", [{"0": {}}, [None], [{"text": "a"}], [{**STOPPED, "text": 3}], [STOPPED] * 2])
def test_a_reply_that_is_no_completion_is_named(server: Server, checkpoint: Path, choices: Any) -> None:
    """One line, not a traceback; two responses to one prompt are not one."""
    server.choices = choices
    with pytest.raises(MachineError, match=r"the server's reply to request r0 is no completion \(choices.*\); expected one choice"):
        openai_api.open_engine(checkpoint, "float32", machine_of(server)).generate(ASKED[:1])


def test_stops_are_sent_where_there_are_some(server: Server, checkpoint: Path) -> None:
    """Promise: a request's `stops` are the protocol's `stop`, which is left out where there are none."""
    asked = [ASKED[0], ASKED[1]._replace(stops=("one", "two"))]
    openai_api.open_engine(checkpoint, "float32", machine_of(server)).generate(asked)
    stops = {body["prompt"][1]: body.get("stop") for body in server.seen}
    assert stops == {5: None, 6: ["one", "two"]}
