"""No verdict is lost or invented, whatever the endpoint does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import machine
from harness.components.judges.mt_bench_single import parse
from harness.contracts import Turn
from harness.errors import InputError, JudgeError
from harness.evaluation.judge_endpoint import Endpoint, Verdict, collect
from harness.recipe import Judge
from tests.scripted_judge import SERVED, Reply, Server, serving

JUDGE = Judge(model="scripted-judge")
FAST = machine.load("cpu").model_copy(update={"judge_retries": 2, "judge_timeout_seconds": 0.6})
SECOND_TIME = {
    "timeout": Reply("[[3]]", seconds=1.5),
    "busy": Reply("slow down", status=429, headers=(("Retry-After", "0.3"),)),
    "error": Reply("oops", status=500),
    "cut": Reply("[[3]]", cut=True),
    "garbage": Reply(raw="<html>not json</html>"),
    "no-choices": Reply(raw='{"object": "chat.completion", "choices": []}'),
}
"""What goes wrong once and is well when asked again."""
FOR_GOOD = {"eleven": "[[11]]", "half": "[[7.5]]", "empty": "", "two": "[[3]] or [[4]]", "plain": "I rate it [[9]].", "null": None}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(lambda prompt, times: Reply("[[6]]")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        yield server


def turns_of(*keys: str) -> dict[str, Turn]:
    return {key: Turn(key, "writing", (key,), ("an answer",), ()) for key in keys}


def ask_all(folder: Path, *keys: str, threads: int = 4) -> dict[str, Verdict]:
    endpoint = Endpoint(JUDGE, folder, FAST)
    return collect(turns_of(*keys), lambda key, turn: endpoint.ask(key, [{"role": "user", "content": key}]), threads)


def misbehaving(prompt: str, times: int) -> Reply:
    if prompt in SECOND_TIME:
        return SECOND_TIME[prompt] if times == 1 else Reply("[[5]]")
    return Reply(FOR_GOOD[prompt])


def test_a_misbehaving_endpoint(server: Server, tmp_path: Path) -> None:
    """Timeouts, 429, 500, cut connections and garbage are asked again; what is then answered is read as it stands, unreadable or not."""
    server.script = misbehaving
    verdicts = ask_all(tmp_path, *SECOND_TIME, *FOR_GOOD)
    ratings = {key: parse(verdict.text) for key, verdict in verdicts.items()}
    unreadable = {"eleven": None, "half": 7.5, "empty": None, "two": None, "plain": 9.0, "null": None}
    assert ratings == {**dict.fromkeys(SECOND_TIME, 5.0), **unreadable}
    assert {verdict.model for verdict in verdicts.values()} == {SERVED}
    asked = server.prompts
    assert {key: asked.count(key) for key in verdicts} == {**dict.fromkeys(SECOND_TIME, 2), **dict.fromkeys(FOR_GOOD, 1)}
    server.asked.clear()
    assert ask_all(tmp_path, *SECOND_TIME, *FOR_GOOD) == verdicts
    assert server.asked == []


def test_a_rate_limit_holds_all_threads(server: Server, tmp_path: Path) -> None:
    """After Retry-After: 1 nobody asks for a second, and nothing is lost."""
    server.script = lambda prompt, times: (
        Reply("busy", status=429, headers=(("Retry-After", "1"),)) if prompt == "a" and times == 1 else Reply("[[6]]", seconds=0.1)
    )
    verdicts = ask_all(tmp_path, *"abcdefgh", threads=2)
    assert {parse(verdict.text) for verdict in verdicts.values()} == {6.0}
    gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert max(gaps) >= 0.8


def test_one_turn_that_always_fails_loses_no_other(server: Server, tmp_path: Path) -> None:
    """The other verdicts are asked and saved, the run ends with an error that counts what is missing, and the next asks only that."""
    server.script = lambda prompt, times: Reply("oops", status=500) if prompt == "c" else Reply("[[6]]")
    with pytest.raises(JudgeError, match=r"1 of 8 verdicts are missing: judge scripted-judge: .* after 2 retries \(HTTP 500"):
        ask_all(tmp_path, *"abcdefgh", threads=2)
    assert len(list(tmp_path.glob("*.json"))) == 7
    server.script = lambda prompt, times: Reply("[[6]]")
    server.asked.clear()
    ask_all(tmp_path, *"abcdefgh")
    assert server.prompts == ["c"]


def test_a_request_the_endpoint_will_not_take_is_unscored(server: Server, tmp_path: Path) -> None:
    """A prompt longer than the judge's context (HTTP 400) costs that turn alone and says why; it is not saved as a verdict."""
    server.script = lambda prompt, times: Reply("too long", status=400) if prompt == "b" else Reply("[[6]]")
    verdicts = ask_all(tmp_path, "a", "b", "c")
    assert verdicts["b"] == Verdict("", None, "HTTP 400 (BadRequestError)")
    assert [verdicts[key].refused for key in "ac"] == [None, None]
    assert sorted(path.name[0] for path in tmp_path.glob("*.json")) == ["a", "c"]


def test_all_requests_refused_is_an_error(server: Server, tmp_path: Path) -> None:
    """A judge that knows no `temperature`, say, refuses everything: that is a mistake to correct, not 160 unscored turns."""
    server.script = lambda prompt, times: Reply("unsupported parameter", status=400)
    with pytest.raises(JudgeError, match=r"refused all 2 requests \(HTTP 400 \(BadRequestError\)\)"):
        ask_all(tmp_path, "a", "b")


@pytest.mark.parametrize(
    ("status", "raw"), [(401, None), (404, None), (429, '{"error": {"message": "no money", "code": "insufficient_quota"}}')]
)
def test_what_cannot_pass_is_not_asked_again(server: Server, tmp_path: Path, status: int, raw: str | None) -> None:
    """A wrong key, an unknown model and a spent quota end the run at once."""
    server.script = lambda prompt, times: Reply("no", status=status, raw=raw)
    with pytest.raises(JudgeError, match=f"answered HTTP {status}"):
        ask_all(tmp_path, *"abcdefgh", threads=1)
    assert len(server.asked) == 3


def test_another_judge_is_asked_anew(server: Server, tmp_path: Path) -> None:
    """A verdict is never served to a judge of another name, revision or sampling."""
    for judge in (JUDGE, Judge(model="scripted-judge", revision="0" * 40), Judge(model="scripted-judge", temperature=0.5)):
        Endpoint(judge, tmp_path, FAST).ask("a", [{"role": "user", "content": "a"}])
    assert len(server.asked) == 3


def test_a_damaged_verdict_is_named(server: Server, tmp_path: Path) -> None:
    """Half a file is not a verdict."""
    ask_all(tmp_path, "a")
    next(tmp_path.glob("*.json")).write_text('{"text"')
    with pytest.raises(InputError, match="is damaged; remove"):
        ask_all(tmp_path, "a")


COMPLETION = '{"object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": "%s", "message": %s}]}'
BAD_REPLIES = {
    "choices-null": '{"model": "m", "choices": null}',
    "choices-dict": '{"model": "m", "choices": {"0": {}}}',
    "choice-null": '{"model": "m", "choices": [null]}',
    "no-message": '{"model": "m", "choices": [{"finish_reason": "stop"}]}',
    "model-list": COMPLETION.replace('"m"', '["m"]') % ("stop", '{"content": "Rating: [[3]]"}'),
    "number": COMPLETION % ("stop", '{"content": 3}'),
    "lone-surrogate": COMPLETION % ("stop", r'{"content": "Rating: [[3]] \ud83d"}'),
    "deep": COMPLETION % ("stop", '{"content": "Rating: [[3]]", "more": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "list": "[]",
    "empty-body": "",
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_bad_reply_is_asked_for_again_and_never_saved(server: Server, tmp_path: Path, name: str) -> None:
    """What is no completion costs a retry and leaves nothing on disk; where it stays so, one line says what is wrong with it."""
    server.script = lambda prompt, times: Reply(raw=BAD_REPLIES[name])
    with pytest.raises(JudgeError, match=r"after 2 retries \(a reply that is no chat completion: ") as caught:
        ask_all(tmp_path, "a")
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []
    server.script = lambda prompt, times: Reply("Rating: [[7]]")
    assert ask_all(tmp_path, "a")["a"].text == "Rating: [[7]]"


def test_a_reply_in_pieces_is_its_text(server: Server, tmp_path: Path) -> None:
    """Content as a list of parts, as some servers send it: the parts of type text, in their order."""
    parts = [{"type": "thinking", "thinking": "[[1]]"}, {"type": "text", "text": "Good. "}, {"type": "text", "text": "Rating: [[7]]"}]
    server.script = lambda prompt, times: Reply(raw=COMPLETION % ("stop", json.dumps({"content": parts})))
    assert ask_all(tmp_path, "a")["a"] == Verdict("Good. Rating: [[7]]", "m")
    assert ask_all(tmp_path, "a")["a"] == Verdict("Good. Rating: [[7]]", "m")
    assert len(server.asked) == 1


@pytest.mark.parametrize("content", ["null", '""', '"<think>It claims Rating: [[10]]. But"'])
def test_a_judge_that_spent_its_tokens_is_asked_again_by_the_next_launch(server: Server, tmp_path: Path, content: str) -> None:
    """No text but thinking and finish_reason length: unscored, the recipe's field named, not saved. Cut text is a verdict."""
    empty = COMPLETION % ("length", f'{{"content": {content}}}')
    server.script = lambda prompt, times: Reply(raw=empty if prompt == "a" else COMPLETION % ("length", '{"content": "Rating: [[7]]"}'))
    verdicts = ask_all(tmp_path, "a", "b")
    assert verdicts["a"].refused is not None
    assert "judge.max_tokens" in verdicts["a"].refused
    assert verdicts["b"] == Verdict("Rating: [[7]]", "m")
    server.script = lambda prompt, times: Reply("Rating: [[4]]")
    assert [verdict.text for verdict in ask_all(tmp_path, "a", "b").values()] == ["Rating: [[4]]", "Rating: [[7]]"]
    server.script = lambda prompt, times: Reply(raw=empty)
    with pytest.raises(JudgeError, match=r"refused all 2 requests \(cut: the judge spent its judge.max_tokens"):
        ask_all(tmp_path, "c", "d")


def test_the_time_limit_bounds_the_whole_request(server: Server, tmp_path: Path) -> None:
    """An endpoint that drips a byte every 0.2 s is never silent for the 0.6 s allowed, and is given up all the same."""
    server.script = lambda prompt, times: Reply("Rating: [[3]]", drip=0.2) if times == 1 else Reply("Rating: [[5]]")
    assert ask_all(tmp_path, "a")["a"].text == "Rating: [[5]]"
    server.script = lambda prompt, times: Reply("Rating: [[3]]", drip=0.2)
    with pytest.raises(JudgeError, match=r"after 2 retries \(no whole reply within 0.6 s\)"):
        ask_all(tmp_path, "b")


def test_a_verdict_file_of_another_shape_is_damaged(server: Server, tmp_path: Path) -> None:
    """JSON that is no verdict is named, too."""
    for content in ('{"text": 5}', '{"text": null}', "[]", '{"text": "x", "stars": 5}', "[" * 100_000):
        ask_all(tmp_path, "a")
        path = next(tmp_path.glob("*.json"))
        path.write_text(content)
        with pytest.raises(InputError, match="is damaged; remove"):
            ask_all(tmp_path, "a")
        path.unlink()


KILLED = """
import sys
from pathlib import Path
from tests.evaluation.test_judge_endpoint import ask_all
ask_all(Path(sys.argv[1]), *sys.argv[2:], threads=2)
"""


def test_a_kill_loses_only_what_was_under_way(server: Server, tmp_path: Path) -> None:
    """After SIGKILL a re-run asks exactly the keys without a saved verdict, and ends with all of them."""
    keys = [f"k{i}" for i in range(12)]
    server.script = lambda prompt, times: Reply("[[6]]", seconds=0.05 if int(prompt[1:]) < 6 else 30.0)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), *keys], env=dict(os.environ))
    _until(lambda: len(list(tmp_path.glob("*.json"))) == 6 and len(server.asked) >= 8)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = {path.name.split("-")[0] for path in tmp_path.glob("*.json")}
    assert saved == set(keys[:6])
    server.asked.clear()
    server.script = lambda prompt, times: Reply("[[8]]")
    verdicts = ask_all(tmp_path, *keys)
    assert sorted(server.prompts) == sorted(set(keys) - saved)
    assert [parse(verdicts[key].text) for key in keys] == [6.0] * 6 + [8.0] * 6
    assert all(json.loads(path.read_text())["text"] for path in tmp_path.glob("*.json"))


def _until(happened: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
