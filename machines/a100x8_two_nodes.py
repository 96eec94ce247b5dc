"""Two nodes of eight A100-80G under Slurm, FSDP2 over all sixteen. Written for it; not run by us.

Start `harness reproduce` inside an allocation of two nodes whose run directory both see (`salloc --nodes=2 --gpus-per-node=8`):
a training stage is then one torchrun a node, generation and evaluation use the first node. A node that fails ends the others.
"""

from harness.machine import load

changes = {
    "name": "a100x8-two-nodes",
    "summary": "2 nodes of 8 x A100-80G, inside an allocation of Slurm, bf16, FSDP2 (not run by us)",
    "slurm": None,
    "slurm_of": {},
}
machine = load("slurm-a100x8-two-nodes").model_copy(update=changes)
