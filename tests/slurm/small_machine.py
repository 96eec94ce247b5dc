"""The CPU behind Slurm: a job of one core for each stage, generations an array of two, trainings with the shortest limit there is."""

from harness.machine import Request, load

changes = {
    "name": "small-machine",
    "fork_stages": False,
    "slurm": Request(cpus=1, minutes=5),
    "slurm_of": {"train": Request(cpus=1, minutes=1), "generate": Request(cpus=1, minutes=5, array=2)},
}
machine = load("cpu1").model_copy(update=changes)
