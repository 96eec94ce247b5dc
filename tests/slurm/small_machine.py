"""The CPU behind Slurm: a job of one core for each stage, generations an array of two, trainings with the shortest limit there is.

Slurm looks at limits every 30 seconds and sends the signal before one up to 30 seconds early: with the usual quarter of the limit to spare
a training had 15 to 45 seconds of its minute, the same 22 each time, and on busy cores it is not further than its imports by then.
"""

from harness.machine import Request, load

changes = {
    "name": "small-machine",
    "fork_stages": False,
    "slurm": Request(cpus=1, minutes=5),
    "slurm_of": {"train": Request(cpus=1, minutes=1, options={"signal": "B:USR2@5"}), "generate": Request(cpus=1, minutes=5, array=2)},
}
machine = load("cpu1").model_copy(update=changes)
