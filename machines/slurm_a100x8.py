"""A Slurm cluster of nodes with 8 x A100-80G: each stage is a job of one node, an engine of a generation one of one GPU. Not run by us.

Your own is this file with your partition and account; docs/clusters.md says what else may differ.
"""

from harness.machine import Request, load, on_slurm

NODE = Request(gpus=8, cpus=64, memory_gb=512, minutes=24 * 60)
machine = on_slurm(load("a100x8"), name="slurm-a100x8", node=NODE)
