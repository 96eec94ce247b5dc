"""An OpenAI-compatible endpoint on loopback that does what a script says: answers, errors, silence, garbage, a cut connection."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

SERVED = "scripted-judge-0001"


class Reply(NamedTuple):
    """What the endpoint does with one request. `raw` replaces the body; `cut` closes the connection in the middle of it.

    `drip` sends the body a byte at a time, with so many seconds between two.
    """

    text: str | None = ""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    raw: str | None = None
    cut: bool = False
    drip: float = 0.0


Script = Callable[[str, int], Reply]
"""(user prompt, how often that prompt was asked, from 1) -> reply."""


class Server(ThreadingHTTPServer):
    """Keeps the bodies it was asked and when; `script` may be exchanged at any time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.times = script, list[dict[str, Any]](), list[float]()
        self.lock, self.served = threading.Lock(), SERVED

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        """The user prompts asked, in order."""
        return [body["messages"][-1]["content"] for body in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.asked.append(body)
            self.server.times.append(time.monotonic())
            reply = self.server.script(prompt, self.server.prompts.count(prompt))
        time.sleep(reply.seconds)
        self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply.text}}
        completion = {"id": "x", "object": "chat.completion", "created": 0, "model": self.server.served, "choices": [choice]}
        body = reply.raw if reply.raw is not None else json.dumps(completion if reply.status == 200 else {"error": {"message": reply.text}})
        data = body.encode()
        try:
            self.send_response(reply.status)
            for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(data))), *reply.headers):
                self.send_header(name, value)
            self.end_headers()
            for piece in (data[i : i + 1] for i in range(len(data))) if reply.drip else [data[: len(data) // 2] if reply.cut else data]:
                self.wfile.write(piece)
                time.sleep(reply.drip)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up waiting

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    """A running server."""
    server = Server(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
