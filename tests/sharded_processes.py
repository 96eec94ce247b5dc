"""Several processes under accelerate's own FSDP2 code on a CPU: a program for the launcher, and a call that starts it.

accelerate offers FSDP2 on accelerators only. Its code runs over gloo as soon as its state is told that the processes have one.

    python -m tests.sharded_processes JOBS.json     a rank: runs the training stage once a job
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests import ROOT


class Job(NamedTuple):
    """A training stage. At the start of step `stop_at` the last rank alone is told to stop, by SIGTERM."""

    inputs: dict[str, str]
    out: str
    spec: dict[str, Any]
    machine: dict[str, Any]
    stop_at: int | None = None


def train_sharded(num_processes: int, jobs: Sequence[Job], folder: Path) -> subprocess.CompletedProcess[str]:
    """The jobs one after another on `num_processes`, under the project's launcher; importing the libraries takes most of the time."""
    path = folder / f"jobs of {num_processes}.json"
    path.write_text(json.dumps(jobs))
    options = ["--standalone", f"--nproc-per-node={num_processes}", "-m", "tests.sharded_processes", str(path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "harness.training.launch", *options]
    finished = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished


def pretend_accelerators() -> None:
    """Make accelerate take a gloo world for one of accelerators, and keep that world for the next job.

    Pinned memory, for offloaded weights, is then not to be had.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def pretending(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = pretending
    PartialState.destroy_process_group = lambda *_: None
    torch.Tensor.pin_memory = lambda tensor, *_: tensor  # type: ignore[method-assign,assignment]


def run(job: Job) -> None:
    """The body of a rank."""
    from accelerate.state import AcceleratorState, GradientState

    import harness.stages.train as stage
    from harness.machine import Machine

    step = stage._step
    stage._step = step if job.stop_at is None else stopping(step, job.stop_at)
    with contextlib.suppress(SystemExit):
        stage.run(job.spec, {role: Path(path) for role, path in job.inputs.items()}, Path(job.out), Machine.model_validate(job.machine))
    stage._step = step
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def stopping(step: Callable[..., Any], stop_at: int) -> Callable[..., Any]:
    """`step`, at whose call number `stop_at` the last rank gets SIGTERM."""

    def told(training: Any, opponent: Mapping[str, Any], number: int) -> Any:
        if number == stop_at and training.accelerator.is_last_process:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(training, opponent, number)

    return told


if __name__ == "__main__":
    pretend_accelerators()
    for values in json.loads(Path(sys.argv[1]).read_text()):
        run(Job(*values))
    torch.distributed.barrier()  # a process that leaves while the other still talks aborts it
    torch.distributed.destroy_process_group()
