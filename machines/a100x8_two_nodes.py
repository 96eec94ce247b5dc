"""Two nodes of eight A100-80G under Slurm, FSDP2 over all sixteen. Written for it; not run by us.

Start `harness reproduce` inside an allocation of two nodes whose run directory both see (`salloc --nodes=2 --gpus-per-node=8`):
a training stage is then one torchrun a node, generation and evaluation use the first node. A node that fails ends the others.
"""

from harness.machine import load

TORCHRUN = (
    'exec "$0" -m harness.training.launch --nnodes={num_nodes} --nproc-per-node={node_devices} '
    '--rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" '
    '--rdzv-endpoint="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500" "$@"'
)

changes = {
    "name": "a100x8-two-nodes",
    "summary": "2 nodes of 8 x A100-80G, Slurm, bf16, FSDP2 (not run by us)",
    "num_devices": 16,
    "num_nodes": 2,
    "launcher": ("srun", "--nodes={num_nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "bash", "-c", TORCHRUN, "{python}"),
    "mfu": 0.3,
}
machine = load("a100x8").model_copy(update=changes)
