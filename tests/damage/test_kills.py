"""SIGKILL at any moment of a run with several stages at once: the same command ends it as if nothing had been."""

from __future__ import annotations

import fcntl
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from harness.artifact import DONE_FILE, RunDir
from harness.runs.lock import LOCK_FILE
from tests import Told
from tests.damage import STAGES, launch
from tests.smoke.interruption import EVENT, tables

pytestmark = pytest.mark.damage

NUM_KILLS = 30
VICTIMS = ("runner", "stage", "all")
MUST_BE_HIT = {"pretraining/train", "train", "generate", "mt_bench"}
"""Work that must have been under way at a kill; runs are added until it was."""


def running(out: Path) -> dict[str, int]:
    """The stages that run and their processes, as the lock names them."""
    return {path: int(pid) for path, pid in re.findall(r"with stage ([^(]\S*), pid (\d+)", (out / LOCK_FILE).read_text())}


def work_of(path: str) -> str:
    """What a stage does, with what comes before self-play kept apart: 'pretraining/train', 'train', 'mt_bench'."""
    return path if path.startswith("pretraining/") else path.rpartition("/")[2]


class Kills(NamedTuple):
    """Who was killed how often, and how often which work of the run was under way then."""

    victims: Counter[str]
    work: Counter[str]


def kill(process: subprocess.Popen[str], victim: str, out: Path, is_early: bool, seconds: float, num: Kills) -> None:
    """SIGKILL to the runner alone, to one of the stages that run, or to all: so long after the first stage has begun, or was to begin."""
    while not is_early and not running(out) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    with suppress(ProcessLookupError, IndexError):  # it has just ended
        if process.poll() is not None:
            return
        under_way = running(out)
        hit = [random.choice([*under_way])] if victim == "stage" else [*under_way]
        if victim == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid if victim == "runner" else under_way[hit[0]], signal.SIGKILL)
        num.victims[victim] += 1
        num.work.update(map(work_of, hit))


def wait_until_free(out: Path) -> None:
    """Wait for what a killed runner left: its stages finish on their own."""
    with open(out / LOCK_FILE, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def records(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob(DONE_FILE)}


def contents(out: Path) -> dict[str, str]:
    """What each stage made, but for the timings in its log."""
    run = RunDir(out)
    return {path: record.content for path in run.stages() if (record := run.record(path))}


def killed(undisturbed: Path, out: Path, rng: random.Random, num: Kills) -> None:
    """A run in `out` that is killed at a random moment of every launch until it has ended all the same; `num` grows by the kills."""
    typical = median(record.seconds for path in STAGES if (record := RunDir(undisturbed).record(path)))
    while not (out / "tables").exists():
        before, so_far = records(out), num.victims.total()
        victim = rng.choice(VICTIMS)
        moment = {"is_early": rng.random() < 0.2, "seconds": rng.uniform(0, 2 * typical)}
        said = launch(out, partial(kill, victim=victim, out=out, num=num, **moment))
        wait_until_free(out)
        assert num.victims.total() > so_far or (out / "tables").exists(), "\n".join(said[-20:])
        made = {f"{stage}/{DONE_FILE}" for stage, what in EVENT.findall("\n".join(said)) if what in ("starts", "continues")}
        assert made.isdisjoint(before), f"made twice: {made & set(before)}"
        assert before.items() <= records(out).items()
    assert tables(out) == tables(undisturbed)
    assert contents(out) == contents(undisturbed)


def test_kills(tmp_path: Path, undisturbed: Path, told: Told) -> None:
    """Promise: whoever is killed, the same command ends in the same tables and the same bytes of every stage; none is made twice."""
    num, runs = Kills(Counter(), Counter()), 0
    while num.victims.total() < NUM_KILLS or not num.work.keys() >= MUST_BE_HIT:
        killed(undisturbed, tmp_path / str(runs), random.Random(runs), num)
        runs += 1
    total, victims, work = num.victims.total(), *(", ".join(f"{n} of {what}" for what, n in some.most_common()) for some in num)
    told(f"kills {total}/{total} in {runs} runs ({victims}); under way then: {work}")
