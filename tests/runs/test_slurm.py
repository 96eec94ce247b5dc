"""Stages as jobs: the same records, jobs that are found again, and nothing done twice. submitit's local executor plays the cluster."""

from __future__ import annotations

import json
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import machine as machines
from harness.artifact import RunDir
from harness.cli import listings
from harness.errors import BusyError, MachineError, StageError
from harness.machine import Request
from harness.plan import plan
from harness.recipe import load, replace
from harness.runs import runner, slurm
from harness.runs.lock import hold
from tests import SMALL, fake_stages, local_slurm
from tests.fake_stages import launched
from tests.local_slurm import LocalSlurm

CPU = machines.load("cpu1").model_copy(update={"fork_stages": False})
CLUSTER = CPU.model_copy(update={"slurm": Request(minutes=60)})
SMALL_RECIPE = load(str(SMALL))
RECIPE = replace(SMALL_RECIPE, name="small", iterations=SMALL_RECIPE.iterations[:1])
STAGES = {stage.path: stage for stage in plan(RECIPE)}
PATHS = list(STAGES)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSlurm]:
    found = local_slurm.use(monkeypatch)
    yield found
    for job in found.jobs.values():
        if job.is_queued:
            job.cancel()


def reproduce(run: RunDir) -> list[str]:
    """Run through the cluster, and return what was announced."""
    lines: list[str] = []
    runner.reproduce(RECIPE, run, CLUSTER, None, lines.append)
    return lines


def contents(run: RunDir) -> dict[str, str]:
    records = {path: run.record(path) for path in run.stages()}
    return {path: record.content for path, record in records.items() if record}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def leave_when(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the first look at the queue after `path` is there."""

    def sleep(seconds: float) -> None:
        wait_for(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "time", SimpleNamespace(sleep=sleep))


def test_jobs_leave_what_a_local_run_leaves(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage is one job, submitted after those it waits for, and every record has the content of a local run's."""
    lines = reproduce(RunDir(tmp_path / "jobs"))
    assert sorted(launched(tmp_path / "jobs")) == sorted(PATHS)
    assert [line for line in lines if "finished in" in line and "iter0/train" in line]
    fake_stages.use(monkeypatch)
    runner.reproduce(RECIPE, RunDir(tmp_path / "here"), CPU, None, lambda _: None)
    assert contents(RunDir(tmp_path / "jobs")) == contents(RunDir(tmp_path / "here"))
    assert all(line.endswith("done earlier") for line in reproduce(RunDir(tmp_path / "jobs")))


def test_left_run_finds_its_jobs(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves the jobs in the queue; status shows them, a local run is refused, and the same command follows the same jobs."""
    run = RunDir(tmp_path)
    monkeypatch.setenv("FAKE_STAGES", "iter0/train wait")
    with monkeypatch.context() as patch:
        leave_when(tmp_path / "iter0/train/waits.tmp", patch)
        with pytest.raises(StageError, match="no longer followed; jobs in the queue stay there"):
            reproduce(run)
    number = slurm.queued(run)["iter0/train"].number
    rows = {row["path"]: row["job"] for row in listings.status_list(RECIPE, run)}
    assert rows["iter0/train"] == f"job {number} running (reason)"
    assert rows["sft/model"] is None
    with pytest.raises(BusyError, match=r"job\(s\) in Slurm's queue: iter0/train \(job"):
        runner.reproduce(RECIPE, run, CPU, None, lambda _: None)
    submitted = len(cluster.jobs)
    with monkeypatch.context() as patch:
        leave_when(tmp_path, patch)
        with pytest.raises(StageError, match="no longer followed"):
            reproduce(run)
    assert len(cluster.jobs) == submitted == len(PATHS)


def test_cancelled_jobs_are_submitted_anew(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling keeps what is finished; the same command then submits the rest, and no finished stage runs twice."""
    run = RunDir(tmp_path)
    monkeypatch.setenv("FAKE_STAGES", "iter0/train wait")
    with monkeypatch.context() as patch:
        leave_when(tmp_path / "iter0/train/waits.tmp", patch)
        with pytest.raises(StageError):
            reproduce(run)
    finished = set(contents(run))
    assert slurm.cancel(run).keys() == set(PATHS) - finished
    assert slurm.queued(run) == {}
    monkeypatch.delenv("FAKE_STAGES")
    reproduce(run)
    assert {path: launched(tmp_path).count(path) for path in finished} == dict.fromkeys(finished, 1)
    assert set(contents(run)) == set(PATHS)


def test_failed_job_is_told_with_the_end_of_its_log(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is named once, the jobs that waited for it are not blamed, and the same command continues."""
    run, lines = RunDir(tmp_path), list[str]()
    monkeypatch.setenv("FAKE_STAGES", "iter0/train exit 70")
    with pytest.raises(StageError, match=r"^iter0/train failed; what was finished is kept"):
        runner.reproduce(RECIPE, run, CLUSTER, None, lines.append)
    assert [line for line in lines if "iter0/train: job" in line and "ends: error: iter0/train ended with exit code 70" in line]
    assert [line for line in lines if line.endswith("iter0/eval/distribution: not run, for want of iter0/train")]
    monkeypatch.delenv("FAKE_STAGES")
    reproduce(run)
    assert {path: launched(tmp_path).count(path) for path in PATHS} == {**dict.fromkeys(PATHS, 1), "iter0/train": 2}


def test_job_at_its_time_limit_comes_back_and_continues(cluster: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal before the limit sends the job to the queue again; its stage is launched a second time there, under one number."""
    monkeypatch.setenv("FAKE_STAGES", "iter0/train once")
    with monkeypatch.context() as patch:
        leave_when(tmp_path / "iter0/train/waits.tmp", patch)
        with pytest.raises(StageError):
            reproduce(RunDir(tmp_path))
    cluster.of("iter0/train").requeue()
    reproduce(RunDir(tmp_path))
    assert {path: launched(tmp_path).count(path) for path in PATHS} == {**dict.fromkeys(PATHS, 1), "iter0/train": 2}
    assert len(cluster.jobs) == len(PATHS)


def test_job_that_gets_nowhere_is_not_queued_for_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A time limit too short for the stage to write anything ends with a word on what to change; any progress starts the count anew."""
    body, folder = slurm.StageJob(tmp_path, "iter0/train", CLUSTER), tmp_path / "iter0/train"
    folder.mkdir(parents=True)
    assert [body.checkpoint() is None for _ in range(2)] == [False, False]
    (folder / "log.jsonl").write_text("{}")
    assert body.checkpoint() is not None
    body.before = body._written()
    assert [body.checkpoint() is None for _ in range(3)] == [False, False, True]
    assert "iter0/train wrote nothing in 3 runs; give it more `minutes`" in capsys.readouterr().err


def test_job_of_a_finished_stage_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a stage was submitted twice, the second job finds it done."""
    fake_stages.use(monkeypatch)
    runner.reproduce(RECIPE, RunDir(tmp_path), CPU, None, lambda _: None)
    before = (tmp_path / "iter0/train/done.json").stat().st_mtime_ns
    slurm.StageJob(tmp_path, "iter0/train", CLUSTER)()
    assert (tmp_path / "iter0/train/done.json").stat().st_mtime_ns == before
    assert launched(tmp_path).count("iter0/train") == 1


def test_orphan_of_an_earlier_job_is_not_written_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stage that outlived its job on this node keeps the next one out, whose log says so."""
    (tmp_path / "recipe.json").write_text(RECIPE.model_dump_json())
    with hold(tmp_path / "jobs/sft/model"), pytest.raises(SystemExit):
        slurm.StageJob(tmp_path, "sft/model", CLUSTER)()
    assert "jobs/sft/model is in use by pid" in capsys.readouterr().err


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where an sbatch that runs nothing keeps its scripts, as 1, 2, ..."""
    folder = tmp_path / "recorded"
    (folder / "bin").mkdir(parents=True)
    scripts = {
        "sbatch": f'n=$(($(ls {folder} | wc -l))); cp "$1" {folder}/$n; echo "Submitted batch job $n"',
        "srun": "exit 1",
        "squeue": "exit 0",
    }
    for name, text in scripts.items():
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{shutil.os.environ['PATH']}")
    return folder


def test_requests_reach_sbatch(recorded: Path, tmp_path: Path) -> None:
    """Each kind of stage has its own request, waits for its inputs' jobs, and comes back to the queue at its limit."""
    train = Request(nodes=2, gpus=8, cpus=64, memory_gb=512, minutes=1440, partition="long", account="spin", options={"qos": "low"})
    machine = CLUSTER.model_copy(update={"slurm": Request(gpus=1, cpus=8, minutes=1), "slurm_of": {"train": train}})
    slurm.Jobs(list(STAGES.values()), RunDir(tmp_path / "run"), machine, lambda _: None).submit()
    number = str(PATHS.index("iter0/train") + 1)
    options = set((recorded / number).read_text().splitlines())
    after = sorted(PATHS.index(path) + 1 for path in STAGES["iter0/train"].inputs.values())
    wanted = ["nodes=2", "gpus-per-node=8", "cpus-per-task=64", "mem=512000M", "time=1440", "partition=long", "account=spin", "qos=low"]
    assert {f"#SBATCH --{option}" for option in [*wanted, "requeue", "signal=B:USR2@120", "kill-on-invalid-dep=yes"]} <= options
    dependency = next(line for line in options if "--dependency=" in line).split("afterok:")[1].split(",")[0]
    assert sorted(map(int, dependency.split(":"))) == after
    first = (recorded / "1").read_text()
    assert "#SBATCH --dependency=singleton" in first
    assert "#SBATCH --signal=B:USR2@15" in first  # a quarter of a minute
    assert "\nexec " in first  # Python in the shell's place, which the signal reaches
    assert "srun" not in first


def test_refused_request_names_the_stage(recorded: Path, tmp_path: Path) -> None:
    """What sbatch says is shown with the stage and what to correct."""
    (recorded / "bin/sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: long' >&2; exit 1\n")
    with pytest.raises(MachineError, match=r"Slurm refuses the job of sft/model: .*; correct the request"):
        slurm.Jobs(list(STAGES.values()), RunDir(tmp_path / "run"), CLUSTER, lambda _: None).submit()


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slurm machine on a host without Slurm is one line, before anything is written but the run's own files."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MachineError, match="there is no sbatch here"):
        reproduce(RunDir(tmp_path))


def test_a_stage_sees_the_devices_of_its_job() -> None:
    """A generation on two of eight GPUs has two replicas, or one of two GPUs; a training has what the launcher starts."""
    machine = machines.load("a100x8").model_copy(update={"slurm": Request(gpus=2, minutes=1)})
    generate, train = STAGES["iter0/generate"], STAGES["iter0/train"]
    assert slurm.within(machine, generate, Request(gpus=2, minutes=1)).num_replicas == 2
    parallel = machine.model_copy(update={"tensor_parallel": 2})
    assert slurm.within(parallel, generate, Request(gpus=2, minutes=1)).num_replicas == 1
    assert slurm.within(machine, train, Request(gpus=2, minutes=1)) == machine


def test_names_tell_directories_apart(tmp_path: Path) -> None:
    """Two runs of one name in two places do not take each other's jobs for their own."""
    names = {slurm.job_name(RunDir(tmp_path / where / "small"), "iter0/train") for where in ("a", "b")}
    assert len(names) == 2
    assert all(name.startswith("iter0/train@small-") for name in names)


def test_queue_is_not_asked_without_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that submitted nothing costs no question, and a copy of one on a host without Slurm has no jobs."""
    monkeypatch.setattr(slurm, "_ask", lambda *command: json.loads("not asked"))
    assert slurm.queued(RunDir(tmp_path)) == {}
    (tmp_path / "jobs").mkdir()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert slurm.queued(RunDir(tmp_path)) == {}
