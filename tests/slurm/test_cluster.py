"""A run through a real Slurm, left alone and disturbed in every way, ends in the tables of a local run.

`small` takes seconds of work, so that every disturbance can be seen to hit; `tiny` is the recipe of the README's first command.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness import recipe as recipes
from harness.artifact import RunDir
from harness.plan import plan
from harness.runs.slurm.queue import array_of, job_name
from tests import SMALL
from tests.slurm.cluster import Cluster, running
from tests.smoke.interruption import tables

pytestmark = pytest.mark.slurm
MACHINE = Path(__file__).with_name("small_machine.py")
PATIENCE_SECONDS = 3600


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="module", params=[str(SMALL), "tiny"], ids=["small", "tiny"])
def recipe(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def local(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe without Slurm."""
    out = tmp_path_factory.mktemp("local") / "run"
    command = [sys.executable, "-m", "harness", "reproduce", recipe, "--out", str(out), "--machine", "cpu1"]
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    return out


class Run:
    """A run through the cluster: the command that submits and follows it, and what the queue says of its jobs."""

    def __init__(self, cluster: Cluster, recipe: str, out: Path) -> None:
        self.cluster, self.recipe, self.out, self.process = cluster, recipe, out, None  # type: ignore[var-annotated]
        self.stages = [stage.path for stage in plan(recipes.load(recipe))]
        self.generations = [path for path in self.stages if path.endswith("/generate")]
        self.finished: dict[str, int] = {}

    def command(self, name: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "harness", name, self.recipe, "--out", str(self.out), *options]

    def start(self) -> None:
        with open(self.out.with_suffix(".log"), "a") as log:
            command = self.command("reproduce", "--machine", str(MACHINE))
            self.process = subprocess.Popen(command, env=dict(self.cluster.env), stdout=log, stderr=log, start_new_session=True)

    def end(self) -> int:
        """The exit code of the command that follows, once it ends."""
        assert self.process is not None
        code: int = self.process.wait(timeout=PATIENCE_SECONDS)
        self.check()
        return code

    def check(self) -> None:
        """No stage that was seen finished has another record now."""
        now = {path: file.stat().st_mtime_ns for path in self.stages if (file := self.out / path / "done.json").exists()}
        assert {path: now.get(path) for path in self.finished} == self.finished
        self.finished = now

    def jobs(self, *states: str) -> list[str]:
        """'NUMBER NAME' of every job ever submitted that Slurm remembers, or of those in one of the states; an array is one job."""
        listed = self.cluster.call("squeue", "--noheader", "--states=all", "--format=%i|%j|%T").splitlines()
        rows = [line.split("|") for line in listed]
        ours = job_name(RunDir(self.out), "")
        found = [(number.partition("_")[0], name) for number, name, state in rows if not states or state in states]
        return sorted({f"{number} {name}" for number, name in found if name.endswith(ours)})

    def wait_until_it_runs(self, stage: str, job: str | None = None) -> str:
        """The number of the stage's job, or of its array, once its stage has begun."""

        def runs() -> bool:
            begun = (self.out / stage / "stage.json").exists() and any(_process_of(self.out / stage))
            return begun and any(found.endswith(name) for found in self.jobs("RUNNING"))

        name = f" {job_name(RunDir(self.out), job or stage)}"
        wait_for(runs, f"{stage} to run")
        self.check()
        return next(found.removesuffix(name) for found in self.jobs("RUNNING") if found.endswith(name))


def wait_for(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)


def _process_of(folder: Path) -> Iterator[psutil.Process]:
    """The process of the stage in `folder`."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[-2:] == ["stage", str(folder)]:
            yield process


def test_run_through_slurm_ends_in_the_local_tables(cluster: Cluster, recipe: str, local: Path, tmp_path: Path) -> None:
    """One job a stage, beside the arrays of the generations, and the tables byte for byte."""
    run = Run(cluster, recipe, tmp_path / "run")
    run.start()
    assert run.end() == 0
    assert len(run.jobs()) == len(run.stages) + len(run.generations)
    assert tables(run.out) == tables(local)


def test_disturbed_run_ends_in_the_local_tables(cluster: Cluster, recipe: str, local: Path, tmp_path: Path) -> None:
    """The submitting process killed, a job requeued, one at its limit, slurmd killed, a job cancelled: no finished stage runs twice."""
    run = Run(cluster, recipe, tmp_path / "run")
    run.start()
    run.wait_until_it_runs("sft/model")
    assert run.process is not None
    run.process.kill()
    run.process.wait()
    submitted = run.jobs()
    run.start()

    cluster.call("scontrol", "requeue", run.wait_until_it_runs("iter0/generate", array_of("iter0/generate")))

    number = run.wait_until_it_runs("iter0/train")
    for process in _process_of(run.out / "iter0/train"):
        process.send_signal(signal.SIGSTOP)  # it does not get on before the job's time is over
    wait_for(lambda: not any(_process_of(run.out / "iter0/train")), "the limit to end the stage")
    assert run.wait_until_it_runs("iter0/train") == number

    run.wait_until_it_runs("iter1/generate", array_of("iter1/generate"))
    cluster.kill("slurmd")
    cluster.start_slurmd()
    assert run.jobs() == submitted

    cluster.call("scancel", run.wait_until_it_runs("iter1/train"))
    assert run.end() == 1
    assert "iter1/train failed; what was finished is kept" in run.out.with_suffix(".log").read_text()
    run.start()
    assert run.end() == 0
    assert tables(run.out) == tables(local)
    launches = {path: RunDir(run.out).launch(path) for path in run.stages}
    expected = {**dict.fromkeys(run.stages, 1), **dict.fromkeys(run.generations, 3)}  # two of the array, and the stage's own
    again = {path for path, launch in launches.items() if launch and len(launch.launches) > expected[path]}
    assert again >= {"iter0/generate", "iter0/train", "iter1/train"}
    assert {path for path in again if not path.endswith("/train")} == {"iter0/generate"}  # trainings may reach their limit by themselves


def test_cancel_and_status(cluster: Cluster, tmp_path: Path) -> None:
    """Status shows the jobs of a run that nobody follows, and cancel takes them all out of the queue."""
    run = Run(cluster, str(SMALL), tmp_path / "run")
    run.start()
    number = run.wait_until_it_runs("sft/model")
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(timeout=60) == 1
    shown = subprocess.run(run.command("status"), env=dict(cluster.env), capture_output=True, text=True).stdout
    assert f"job {number}" in shown
    done = subprocess.run(run.command("cancel"), env=dict(cluster.env), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not run.jobs("PENDING", "RUNNING", "COMPLETING"), "the queue to be empty")
