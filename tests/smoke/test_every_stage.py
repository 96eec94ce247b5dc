"""SIGTERM, and a full disk, in every kind of stage and of evaluation: what was done is kept, and the same command ends the run."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.artifact import DONE_FILE, STAGE_FILE, RunDir, Stage
from harness.errors import STOPPED_EXIT
from harness.files import hash_file
from harness.machine import load
from harness.plan import plan
from harness.recipe import load as load_recipe
from harness.report.tables import write_tables
from harness.runs import launches, runner
from harness.runs import lock as locks
from harness.runs.stage_processes import Processes
from tests import Told
from tests.scripted_judge import Reply, Server, serving
from tests.small_disk import enlarge, small_disk
from tests.smoke.interruption import tables

pytestmark = pytest.mark.damage

RECIPE = load_recipe(str(Path(__file__).parent / "every_kind.py"))
MACHINE = load("cpu1").model_copy(update={"judge_threads": 2, "checkpoint_every_seconds": 1e6})
BEGUN = {"generate": "responses/*.jsonl", "train": "log.jsonl", "verdicts": "workspace/verdicts/*", "mt_bench": "workspace/verdicts/*"}
"""What shows that a stage, of a kind or of a benchmark, has done a part of its work; of the others SIGTERM meets the beginning."""
KEPT = {"generate": "responses/*.jsonl", "train": "state/step-*", "verdicts": "workspace/verdicts/*", "mt_bench": "workspace/verdicts/*"}
"""What it must have left behind."""
NUM_TURNS = 12


def one_of_each() -> list[Stage]:
    """The first stage of each kind, of evaluations the first of each benchmark."""
    first: dict[str, Stage] = {}
    for stage in plan(RECIPE):
        first.setdefault(name_of(stage), stage)
    return list(first.values())


def name_of(stage: Stage) -> str:
    return str(stage.spec["benchmark"]["name"]) if stage.kind == "evaluate" else stage.kind


@pytest.fixture(scope="module")
def judge(hf_cache: Path) -> Iterator[Server]:
    """A judge whose ratings follow from what it is asked, and which takes its time."""

    def rate(prompt: str, times: int) -> Reply:
        return Reply(f"Rating: [[{zlib.crc32(prompt.encode()) % 10 + 1}]]", seconds=0.1)

    with serving(rate) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", server.url)
        patch.setenv("OPENAI_API_KEY", "none")
        yield server


@pytest.fixture(scope="module")
def undisturbed(judge: Server, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = RunDir(tmp_path_factory.mktemp("undisturbed") / "run")
    runner.reproduce(RECIPE, run, MACHINE, None, lambda _: None)
    write_tables(run.path)
    return run


def test_sigterm_in_every_kind_of_stage(undisturbed: RunDir, judge: Server, tmp_path: Path, told: Told) -> None:
    """Promise: a stage told to end does so and keeps what it did; the next launch ends in the files, and the run in the tables, of an
    undisturbed one, and no judge is paid twice but for what was in its hands."""
    run = RunDir(tmp_path / "run")
    shutil.copytree(undisturbed.path, run.path)
    judge.asked.clear()
    ended = list[str]()
    with locks.hold(run.path) as lock, Processes(launches.environment(MACHINE), lock) as processes:
        for stage in one_of_each():
            folder = run.stage_dir(stage.path)
            shutil.rmtree(folder)
            run.begin(stage, MACHINE, {})
            pids: list[int] = []

            def tell(pid: int, folder: Path = folder, begun: str | None = BEGUN.get(name_of(stage)), pids: list[int] = pids) -> None:
                pids.append(pid)
                threading.Thread(target=terminate, args=(pid, folder, begun)).start()

            assert processes.fork(folder, tell).code in (STOPPED_EXIT, -signal.SIGTERM), stage.path
            assert not is_alive(pids[0])
            if kept := KEPT.get(name_of(stage)):
                assert [*folder.glob(kept)], stage.path
            assert processes.fork(folder, lambda pid: None).code == 0, stage.path
            assert results(folder) == results(undisturbed.stage_dir(stage.path)), stage.path
            shutil.copy(undisturbed.stage_dir(stage.path) / DONE_FILE, folder)  # the runner writes this record
            ended.append(name_of(stage))
    told(f"signals {len(ended)}/{len(one_of_each())} (SIGTERM in {', '.join(ended)})")
    with locks.hold(run.path):
        pass
    shutil.rmtree(run.path / "tables")
    write_tables(run.path)
    assert tables(run.path) == tables(undisturbed.path)
    assert 2 * NUM_TURNS <= len(judge.asked) <= 2 * (NUM_TURNS + MACHINE.judge_threads)


def terminate(pid: int, folder: Path, begun: str | None) -> None:
    """SIGTERM to a stage as soon as it has done a part of its work."""
    while begun and not any(path.stat().st_size for path in folder.glob(begun)):
        time.sleep(0.002)
    os.kill(pid, signal.SIGTERM)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, other than one that waits to be asked how it ended."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_full_disk_in_every_kind_of_stage(undisturbed: RunDir, tmp_path: Path, capfd: pytest.CaptureFixture[str], told: Told) -> None:
    """Promise: each says so in one line; with more room the same stage ends in the files of an undisturbed one."""
    run = RunDir(tmp_path / "run")
    shutil.copytree(undisturbed.path, run.path)
    said_so = list[str]()
    with locks.hold(run.path) as lock, Processes(launches.environment(MACHINE), lock) as processes:
        for stage in one_of_each():
            folder = run.stage_dir(stage.path)
            shutil.rmtree(folder)
            with small_disk(folder, "1m") as disk:
                run.begin(stage, MACHINE, {})
                enlarge(disk, f"{math.ceil((folder / STAGE_FILE).stat().st_size / 4096) * 4 + 4}k")
                capfd.readouterr()
                assert processes.fork(folder, lambda pid: None).code == 1, stage.path
                said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
                assert len(said) == 1, stage.path
                assert said[0].startswith("error: disk full"), stage.path
                enlarge(disk, "50m")
                assert processes.fork(folder, lambda pid: None).code == 0, stage.path
                assert results(folder) == results(undisturbed.stage_dir(stage.path)), stage.path
            folder.rmdir()  # the disk is gone
            shutil.copytree(undisturbed.stage_dir(stage.path), folder)
            said_so.append(name_of(stage))
    told(f"full disks {len(said_so)}/{len(one_of_each())} (in {', '.join(said_so)})")


def results(folder: Path) -> dict[str, str]:
    """Hashes of what a stage makes, but for what its clock wrote."""
    made: Callable[[Path], bool] = lambda path: path.is_file() and path.name not in (STAGE_FILE, DONE_FILE, "log.jsonl")  # noqa: E731
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if made(path)}
