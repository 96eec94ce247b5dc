"""A stage's job as Slurm is asked for it: the machine file's request, turned into options of sbatch."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.artifact import RunDir, Stage
from harness.errors import MachineError, first_line, requires
from harness.machine import Machine, Request
from harness.runs.slurm.queue import JOBS, array_of, job_name
from harness.runs.slurm.stage_job import StageJob, carried
from harness.stages.response_shards import Share

MAX_TIMEOUTS = 1000
SIGNAL_SECONDS = 120
"""How long before its time limit a job asks to be queued again."""


def refuse_without_slurm() -> None:
    """`MachineError` where jobs cannot be submitted from here."""
    with requires("slurm", "submitit"):
        import submitit  # noqa: F401
    if shutil.which("sbatch") is None:
        raise MachineError("this machine's stages go through Slurm, but there is no sbatch here; log in there, or use another --machine")


def request_of(stage: Stage, machine: Machine) -> Request:
    """What the stage's job asks for."""
    request = {str(kind): request for kind, request in machine.slurm_of.items()}.get(stage.kind, machine.slurm)
    assert request is not None
    return request


def within(machine: Machine, stage: Stage, request: Request) -> Machine:
    """The machine as a stage sees it from inside its job: on its nodes, with as many devices and replicas as they have GPUs."""
    num = request.gpus * request.nodes
    if stage.kind == "train" or num in (0, machine.num_devices):
        return machine
    inside = {"num_nodes": request.nodes, "num_devices": num, "num_replicas": max(num // machine.tensor_parallel, 1)}
    return machine.model_copy(update=inside)


def has_array(stage: Stage, machine: Machine) -> bool:
    """Whether an array of jobs shares the stage's work before its own job."""
    return stage.kind == "generate" and request_of(stage, machine).array > 1


def submit(run: RunDir, stage: Stage, machine: Machine, after: Sequence[str], array: str | None = None) -> str:
    """The number of a new job for `stage`, which starts once the jobs `after` have ended well and earlier jobs of the stage have ended.

    One after an array starts when that has ended, well or not: it answers what is missing.
    """
    waits = [*_ended_well(after), *([f"afterany:{array}"] if array else []), "singleton"]
    return _submit(run, stage, machine, stage.path, waits, [None])


def submit_array(run: RunDir, stage: Stage, machine: Machine, after: Sequence[str]) -> str:
    """The number of a new array of jobs, each of which answers its share of a generation."""
    num = request_of(stage, machine).array
    return _submit(run, stage, machine, array_of(stage.path), _ended_well(after), [Share(number, num) for number in range(num)])


def _submit(run: RunDir, stage: Stage, machine: Machine, name: str, waits: Sequence[str], shares: Sequence[Share | None]) -> str:
    import submitit

    request, executor = request_of(stage, machine), _executor(run.path / JOBS / stage.path)
    executor.update_parameters(**_parameters(job_name(run, name), request, ",".join(waits)))
    inside = within(machine, stage, request)
    bodies = [StageJob(run.path.resolve(), stage.path, inside, share) for share in shares]
    try:
        # a job's own variables would be options of the jobs it submits
        with submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext(), _exported(carried(inside)):
            return str(executor.submit_array(bodies)[0].job_id).partition("_")[0]
    except submitit.core.utils.FailedJobError as error:
        raise MachineError(f"Slurm refuses the job of {stage.path}: {first_line(error)}; correct the request in the machine file") from None


def _ended_well(jobs: Sequence[str]) -> list[str]:
    return [f"afterok:{':'.join(jobs)}"] if jobs else []


@contextmanager
def _exported(variables: Mapping[str, str]) -> Iterator[None]:
    """These in the environment that sbatch takes to the job."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def _executor(folder: Path) -> Any:
    """submitit's, whose Python takes the place of the batch script's shell: so Slurm's signals reach it, and a launcher may call srun."""
    import submitit

    return submitit.SlurmExecutor(folder.resolve(), max_num_timeout=MAX_TIMEOUTS, python=f"exec {shlex.quote(sys.executable)}")


def _parameters(name: str, request: Request, dependency: str) -> dict[str, Any]:
    """The options of sbatch, as submitit names them."""
    seconds = min(SIGNAL_SECONDS, request.minutes * 60 // 4)
    more: dict[str, Any] = {"signal": f"B:USR2@{seconds}", "requeue": True, "kill-on-invalid-dep": "yes", **request.options}
    memory = None if request.memory_gb is None else f"{request.memory_gb * 1000:.0f}M"
    optional = {
        "partition": request.partition,
        "account": request.account,
        "gpus_per_node": request.gpus or None,
        "mem": memory,
        "dependency": dependency or None,
    }
    return {
        "job_name": name,
        "time": request.minutes,
        "nodes": request.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": request.cpus,
        **{option: value for option, value in optional.items() if value is not None},
        "use_srun": False,
        "additional_parameters": more,
    }
