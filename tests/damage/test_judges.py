"""A judge that is sick in every way we could think of: the run ends in a clear state and goes on when the judge is well."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import machine
from harness import recipe as recipes
from harness.artifact import RunDir
from harness.components.judges import mt_bench_strict
from harness.contracts import Score
from harness.errors import USER_ERROR_EXIT, HarnessError
from harness.files import read_model
from harness.report.tables import write_tables
from harness.runs import runner
from harness.runs.stage_processes import Ended, Processes, Started
from harness.runs.verification import verify
from tests import Told
from tests.damage import MACHINE, RECIPE
from tests.damage.conftest import healthy
from tests.scripted_judge import SERVED, Reply, Script, Server
from tests.smoke.interruption import tables

pytestmark = pytest.mark.damage

STAGE = "sft/eval/mt_bench"
HEALTHY_FIRST = 4
"""Turns that the sick judge still grades well: they are kept."""
FAST = {"judge_retries": 1, "judge_timeout_seconds": 10.0, "judge_threads": 1}


class Fault(NamedTuple):
    """What the judge does to a turn, the name it serves under, and whether that can only be counted, not asked for again."""

    reply: Reply
    served: str = SERVED
    is_counted: bool = False


def body(message: str, model: str = f'"{SERVED}"') -> str:
    return f'{{"model": {model}, "choices": [{{"index": 0, "finish_reason": "stop", "message": {message}}}]}}'


FAULTS = {
    **{f"HTTP {status}": Fault(Reply("no", status=status)) for status in (301, 401, 403, 404, 408, 409, 418, 429, 500, 502, 503, 599)},
    **{f"HTTP {status}, of some turns": Fault(Reply("no", status=status), is_counted=True) for status in (400, 413, 422)},
    "429 with a pause": Fault(Reply("no", status=429, headers=(("Retry-After", "1"),))),
    "429 with an odd pause": Fault(Reply("no", status=429, headers=(("Retry-After", "nan"),))),
    "a spent quota": Fault(Reply(status=429, raw='{"error": {"code": "insufficient_quota", "message": "x"}}')),
    "silence": Fault(Reply("[[5]]", seconds=15.0)),
    "drip": Fault(Reply("[[5]]", drip=0.1)),
    "a closed connection": Fault(Reply("Rating: [[5]]", cut=True)),
    "a length that is too great": Fault(Reply("[[5]]", headers=(("Content-Length", "100000"),))),
    "cut JSON": Fault(Reply(raw=body('{"content": "Rating: [[5]]"}')[:-9])),
    "no JSON": Fault(Reply(raw="<html>busy</html>")),
    "an empty body": Fault(Reply(raw="")),
    "a list for a body": Fault(Reply(raw="[[5]]")),
    "NaN": Fault(Reply(raw='{"choices": NaN}')),
    "no choices": Fault(Reply(raw='{"choices": []}')),
    "choices null": Fault(Reply(raw='{"choices": null}')),
    "a number for content": Fault(Reply(raw=body('{"content": 5}'))),
    "a list of numbers for content": Fault(Reply(raw=body('{"content": [5]}'))),
    "a lone surrogate": Fault(Reply(raw=body('{"content": "Rating: [[5]] \\ud800"}'))),
    "deep JSON": Fault(Reply(raw="[" * 100_000)),
    "an error with HTTP 200": Fault(Reply(raw='{"error": {"message": "overloaded"}}')),
    "a list for a model": Fault(Reply(raw=body('{"content": "[[5]]"}', model="[1]"))),
    "null content": Fault(Reply(raw=body('{"content": null}')), is_counted=True),
    "no rating": Fault(Reply("I cannot judge this."), is_counted=True),
    "a rating of 11": Fault(Reply("Rating: [[11]]"), is_counted=True),
    "a rating of NaN": Fault(Reply("Rating: [[nan]]"), is_counted=True),
    "a rating of 400 digits": Fault(Reply("Rating: [[" + "9" * 400 + "]]"), is_counted=True),
    "content in parts that are no text": Fault(Reply(raw=body('{"content": [{"type": "image"}]}')), is_counted=True),
}


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    """Stages run here: to start a process for each would take longer than they do. A defect of theirs is the test's own exception."""

    def run(self: Processes, directory: Path, started: Started) -> Ended:
        try:
            runner.run_stage(directory)
        except HarnessError:
            return Ended(USER_ERROR_EXIT, 0.0)
        return Ended(0, 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "fork", run)
        yield


def reproduce(run: RunDir) -> str | None:
    """Run the stage; None, or what the run ended with, in one line."""
    place = machine.load(str(MACHINE)).model_copy(update=FAST)
    try:
        runner.reproduce(recipes.load(str(RECIPE)), run, place, STAGE, lambda line: None)
    except HarnessError as error:
        said = str(error)
    else:
        return None
    assert len(said.splitlines()) == 1, said
    return said


def sick(fault: Fault) -> Script:
    """Well for the first turns it is asked, then not any more."""
    asked: list[str] = []

    def reply(prompt: str, times: int) -> Reply:
        asked.extend([prompt] if prompt not in asked else [])
        return healthy(prompt, times) if asked.index(prompt) < HEALTHY_FIRST else fault.reply

    return reply


@pytest.fixture
def broken(judge: Server) -> Iterator[Callable[[Fault | None], int]]:
    """Makes the judge sick or well again; returns how many turns it was asked about since the last time."""

    def become(fault: Fault | None) -> int:
        num = len(set(judge.prompts))
        judge.asked.clear()
        judge.script, judge.served = (sick(fault), fault.served) if fault else (healthy, SERVED)
        return num

    yield become
    become(None)


def test_judge_faults(undisturbed: Path, tmp_path: Path, broken: Callable[[Fault | None], int], told: Told) -> None:
    """Promise: what may pass ends the run in one line, keeps the verdicts it has, asks only for the others when the judge is well, and
    ends in the same tables; what cannot is counted as unscored. A rating is never made up."""
    assert all(mt_bench_strict.parse(f.reply.text or "") is None for f in FAULTS.values() if f.is_counted)
    stopped = counted = 0
    for name, fault in FAULTS.items():
        run = RunDir(tmp_path / "run")
        shutil.copytree(undisturbed, run.path)
        shutil.rmtree(run.stage_dir(STAGE))
        broken(fault)
        said = reproduce(run)
        num = broken(None)
        assert (said is None) == fault.is_counted, (name, said)
        if said is None:
            score = read_model(Score, run.stage_dir(STAGE) / "scores" / "tiny_mt_bench.json")
            assert (score.n, score.n_unscored) == (num, num - HEALTHY_FIRST), name
            assert not [item for item in verify(run).damage if STAGE in item.path], name
            counted += 1
        else:
            assert run.record(STAGE) is None, name
            assert reproduce(run) is None, name
            assert broken(None) == 12 - HEALTHY_FIRST, name
            write_tables(run.path)
            assert tables(run.path) == tables(undisturbed), name
            stopped += 1
        shutil.rmtree(run.path)
    told(f"judge faults {stopped + counted}/{len(FAULTS)} ({stopped} ended in one line and went on, {counted} counted as unscored)")
