"""The CPU behind Slurm: a job of one core for each stage, trainings with a limit that a test can wait for."""

from harness.machine import Request, load

changes = {
    "name": "small-machine",
    "fork_stages": False,
    "slurm": Request(cpus=1, minutes=5),
    "slurm_of": {"train": Request(cpus=1, minutes=2)},
}
machine = load("cpu1").model_copy(update=changes)
