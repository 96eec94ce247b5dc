"""A job looks at the run when it starts, and its file holds no secret."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.artifact import RunDir
from harness.errors import MachineError
from harness.machine import Machine
from harness.runs import runner
from harness.runs.lock import hold
from harness.runs.slurm.following import Jobs
from harness.runs.slurm.stage_job import StageJob, with_carried
from harness.stages.response_shards import Share
from tests import fake_stages
from tests.fake_stages import launched
from tests.runs.slurm import CLUSTER, CPU, RECIPE, STAGES


def test_job_that_gets_nowhere_is_not_queued_for_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A time limit too short for the stage to keep anything ends with a word on what to change; any progress starts the count anew. Steps
    that a training logs and then loses are no progress, states are."""
    body, folder = StageJob(tmp_path, "iter0/train", CLUSTER), tmp_path / "iter0/train"
    folder.mkdir(parents=True)
    assert [body.checkpoint() is None for _ in range(2)] == [False, False]
    (folder / "state/step-00000001").mkdir(parents=True)
    (folder / "state/step-00000001/progress.json").write_text("{}")
    assert body.checkpoint() is not None
    body.before = body._written()
    for launch, is_last in enumerate((False, False, True)):
        (folder / "log.jsonl").write_text("{}" * launch)
        assert (body.checkpoint() is None) is is_last
    assert "iter0/train got no further in 3 runs; give it more `minutes`" in capsys.readouterr().err


def test_job_of_a_finished_stage_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a stage was submitted twice, the second job finds it done."""
    fake_stages.use(monkeypatch)
    runner.reproduce(RECIPE, RunDir(tmp_path), CPU, None, lambda _: None)
    before = (tmp_path / "iter0/train/done.json").stat().st_mtime_ns
    StageJob(tmp_path, "iter0/train", CLUSTER)()
    assert (tmp_path / "iter0/train/done.json").stat().st_mtime_ns == before
    assert launched(tmp_path).count("iter0/train") == 1


WAITING = """
import os, signal, subprocess, sys, threading
from pathlib import Path
from harness.machine import load
from harness.runs.slurm.stage_job import StageJob

def wait(job, run):
    stage = subprocess.Popen(["sleep", "1000"])
    signal.signal(signal.SIGTERM, lambda *_: (stage.kill(), os._exit(0)))
    os.write(1, b"begun")
    os.wait4(stage.pid, 0)

signal.signal(signal.SIGCONT, lambda *_: None)
signal.signal(signal.SIGUSR2, lambda *_: os.write(1, b"heard"))
threading.Thread(target=threading.Event().wait, daemon=True).start()
StageJob._run = wait
StageJob(Path(sys.argv[1]), "iter0/train", load("cpu1"))()
"""


def test_the_signal_before_the_limit_is_heard_at_once(tmp_path: Path) -> None:
    """In a process with submitit's handlers and a thread of some library, each of 50 pairs as Slurm sends them; one in two was lost."""
    with subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)], stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        said = job.stdout.fileno()
        try:
            assert os.read(said, 100) == b"begun"
            for _ in range(50):
                job.send_signal(signal.SIGCONT)
                job.send_signal(signal.SIGUSR2)
                assert select.select([said], [], [], 30)[0], "SIGUSR2 was not heard"
                assert os.read(said, 100) == b"heard"
        finally:
            job.terminate()


def test_orphan_of_an_earlier_job_is_not_written_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stage that outlived its job on this node keeps the next one out, whose log says so."""
    (tmp_path / "recipe.json").write_text(RECIPE.model_dump_json())
    with hold(tmp_path / "jobs/sft/model"), pytest.raises(SystemExit):
        StageJob(tmp_path, "sft/model", CLUSTER)()
    assert "jobs/sft/model is in use by pid" in capsys.readouterr().err


def test_a_share_leaves_the_record_to_the_stage_s_own_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of an array do their shares in whatever order; the stage is done when its own job has run after them."""
    fake_stages.use(monkeypatch)
    runner.reproduce(RECIPE, RunDir(tmp_path), CPU, "sft/model", lambda _: None)
    runner.reproduce(RECIPE, RunDir(tmp_path), CPU, "prompts", lambda _: None)
    for share in (Share(1, 2), Share(0, 2)):
        StageJob(tmp_path, "iter0/generate", CLUSTER, share)()
        assert RunDir(tmp_path).record("iter0/generate") is None
    StageJob(tmp_path, "iter0/generate", CLUSTER)()
    assert RunDir(tmp_path).record("iter0/generate") is not None
    assert launched(tmp_path).count("iter0/generate") == 3
    launch = RunDir(tmp_path).launch("iter0/generate")
    assert launch is not None
    assert len(launch.launches) == 3


def test_secret_values_are_in_no_file_of_a_job(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine's variables that may be secret reach the stage by the environment of sbatch, and no file keeps them."""
    secret = "s3cret-of-nobody"
    machine = CLUSTER.model_copy(update={"env": {"WANDB_API_KEY": secret, "OMP_NUM_THREADS": "1"}})
    run = RunDir(tmp_path / "run")
    Jobs(list(STAGES.values()), run, machine, lambda _: None).submit()
    assert [path for path in run.path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()] == []
    assert f"HARNESS_ENV_WANDB_API_KEY={secret}" in (recorded / "environment").read_text().splitlines()
    assert "HARNESS_ENV_WANDB_API_KEY" not in os.environ

    body = pickle.loads(pickle.dumps(StageJob(run.path, "sft/model", machine)))
    there = Machine.model_validate_json(body.machine)
    with pytest.raises(MachineError, match=r"WANDB_API_KEY of the env of machine cpu1 did not reach the job.*SBATCH_EXPORT"):
        with_carried(there)
    monkeypatch.setenv("HARNESS_ENV_WANDB_API_KEY", secret)
    assert with_carried(there) == machine
