"""Four nodes of 8 x A100-80G under Slurm: training by torchrun over them, generation by one engine a GPU through Ray.
Written for it; not run by us.

Each stage is a job. One of generation or evaluation starts a Ray cluster over its nodes, works in it and ends it; run directory and
environment are on a disk that all nodes see.
"""

from harness.machine import Request, load

HEAD = '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
SRUN = ("srun", "--ntasks-per-node=1", "--cpus-per-task=64", "--gpus-per-node=8", "--kill-on-bad-exit=1", "bash", "-c")
TRAIN = (
    'exec "$0" -m harness.training.launch --nnodes={num_nodes} --nproc-per-node={node_devices} --rdzv-backend=c10d '
    f'--rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="{HEAD}:29500" "$@"'
)
RAY = f'PATH="$(dirname "$0"):$PATH" exec ray symmetric-run --address="{HEAD}:6379" --min-nodes="$SLURM_JOB_NUM_NODES" -- "$0" "$@"'
NODES = Request(nodes=4, gpus=8, cpus=64, memory_gb=512, minutes=24 * 60)

changes = {
    "name": "slurm-ray",
    "summary": "Slurm, 4 nodes of 8 x A100-80G and Ray, bf16, FSDP2 (not run by us)",
    "num_devices": 32,
    "num_nodes": 4,
    "micro_batch": 2,
    "generate_shard": 1024,
    "num_replicas": 32,
    "replicas_on": "ray",
    "slurm": NODES,
    "slurm_of": load("slurm-a100x8").slurm_of,
    "launcher": (*SRUN, TRAIN, "{python}"),
    "replica_launcher": (*SRUN, RAY, "{python}"),
    "mfu": 0.3,
}
machine = load("a100x8").model_copy(update=changes)
