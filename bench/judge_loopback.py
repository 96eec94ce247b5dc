"""MT-Bench with a real judge process: a small model behind an OpenAI-compatible server on loopback grades its own answers.

    python bench/judge_loopback.py CHECKPOINT [--questions 2] [--repeats 1] [--out DIR]
    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 python bench/judge_loopback.py CHECKPOINT --served-name NAME     a server that runs already

The verdicts are worthless: a model of this size cannot judge. What is real is the path: questions, answers, judge prompts, HTTP, verdicts,
scores, and a second run that asks nothing. Ends with exit code 1 where a count is not what it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness import machine as machines
from harness.contracts import Job
from harness.recipe import Benchmark, Judge, Task

ANSWER_TOKENS = 32
TASK = Task(name="mt_bench", metric="points of 10")


class Model:
    """A checkpoint that completes chats, one at a time."""

    def __init__(self, checkpoint: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True).eval()
        self.lock = threading.Lock()

    def complete(self, messages: list[dict[str, str]], max_tokens: int) -> str:
        """The greedy answer to `messages`."""
        prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with self.lock:
            output = self.model.generate(**prompt, max_new_tokens=max_tokens, do_sample=False)
        return str(self.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def serve(checkpoint: Path) -> None:
    """Answer /v1/chat/completions until killed; the first line on stdout is the port."""
    model = Model(checkpoint)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = model.complete(body["messages"], body["max_tokens"])
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            reply = {"id": "0", "object": "chat.completion", "created": int(time.time()), "model": checkpoint.name, "choices": [choice]}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            print(f"judge: {format % args}", file=sys.stderr)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


@contextlib.contextmanager
def judge_server(checkpoint: Path) -> Iterator[None]:
    """`serve` in a process of its own, the environment pointing at it; a server that OPENAI_BASE_URL names is used as it is."""
    if "OPENAI_BASE_URL" in os.environ:
        yield
        return
    process = subprocess.Popen([sys.executable, __file__, str(checkpoint), "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        os.environ["OPENAI_BASE_URL"] = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        yield
    finally:
        process.terminate()
        process.wait()


def judged(job: Job, task: Task) -> dict[str, Any]:
    """One run of the benchmark: its score without the questions' own values, and the seconds it took."""
    from harness.components.benchmarks.mt_bench import open_benchmark

    began = time.monotonic()
    score, _ = open_benchmark(job)(task)
    return {**score.model_dump(exclude={"protocol"}), "seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--verdict-tokens", type=int, default=48, help="a small model says its rating late, if at all")
    parser.add_argument("--served-name", default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.checkpoint)
        return
    os.environ.setdefault("OPENAI_API_KEY", "none")
    task = TASK.model_copy(update={"limit": options.questions})
    judge = Judge(model=options.served_name or options.checkpoint.name, max_tokens=options.verdict_tokens, repeats=options.repeats)
    benchmark = Benchmark(name="mt_bench", protocol="single-answer", tasks=(task,), judge=judge, max_new_tokens=ANSWER_TOKENS)
    machine = machines.load("cpu").model_copy(update={"judge_threads": 2, "judge_timeout_seconds": 600.0})
    workspace = options.out or Path(tempfile.mkdtemp(prefix="judge-loopback-"))
    job = Job(options.checkpoint, benchmark, "hf", machine, "fp32", 0, workspace)
    with judge_server(options.checkpoint):
        first = judged(job, task)
    asked = len(list((workspace / "verdicts").glob("*.json")))
    second = judged(job, task)  # the server is gone: every answer and verdict must come from the workspace
    print(json.dumps({"note": "worthless verdicts, real plumbing", "verdicts_on_disk": asked, "first": first, "second": second}, indent=1))
    expected = 2 * options.questions * options.repeats
    same = {**first, "seconds": 0} == {**second, "seconds": 0}
    if asked != expected or first["n"] != 2 * options.questions or first["details"]["verdicts"]["asked"] != expected or not same:
        sys.exit(f"expected {expected} verdicts and two equal scores")


if __name__ == "__main__":
    main()
