"""A Slurm cluster of nodes with 8 x A100-80G: a training is a job of two of them, one torchrun a node. Not run by us."""

from harness.machine import Request, load, on_slurm

NODE = Request(gpus=8, cpus=64, memory_gb=512, minutes=24 * 60)
machine = on_slurm(load("a100x8"), name="slurm-a100x8-two-nodes", node=NODE, train_nodes=2)
