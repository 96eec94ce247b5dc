"""A Slurm cluster of nodes with 8 x A100-80G: each stage is a job of one node, those without a GPU of a few cores. Not run by us.

Your own is this file with your partition and account; docs/clusters.md says what else may differ.
"""

from harness.machine import Request, load

NODE = Request(gpus=8, cpus=64, memory_gb=512, minutes=24 * 60)
FILES = Request(cpus=8, memory_gb=64, minutes=4 * 60)
changes = {
    "name": "slurm-a100x8",
    "summary": "Slurm, nodes of 8 x A100-80G, a job a stage (not run by us)",
    "slurm": NODE,
    "slurm_of": {"model": FILES, "prompts": FILES, "preferences": FILES},
}
machine = load("a100x8").model_copy(update=changes)
