"""A Slurm cluster of nodes with 8 x H100-80G: each stage is a job of one node, an engine of a generation one of one GPU. Not run by us."""

from harness.machine import Request, load, on_slurm

NODE = Request(gpus=8, cpus=96, memory_gb=1024, minutes=24 * 60)
machine = on_slurm(load("h100x8"), name="slurm-h100x8", node=NODE)
