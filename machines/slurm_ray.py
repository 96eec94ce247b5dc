"""Four nodes of 8 x A100-80G under Slurm: training by torchrun over them, generation by one engine a GPU through Ray.
Written for it; not run by us.

Each stage is a job. One of generation or evaluation starts a Ray cluster over its nodes, works in it and ends it; run directory and
environment are on a disk that all nodes see.
"""

from harness.machine import HEAD_NODE, Request, load, on_slurm, srun

NUM_NODES = 4
RAY = f'PATH="$(dirname "$0"):$PATH" exec ray symmetric-run --address="{HEAD_NODE}:6379" --min-nodes="$SLURM_JOB_NUM_NODES" -- "$0" "$@"'

NODE = Request(gpus=8, cpus=64, memory_gb=512, minutes=24 * 60)
trained = on_slurm(load("a100x8"), name="slurm-ray", node=NODE, train_nodes=NUM_NODES)
NODES = trained.slurm_of["train"]
changes = {
    "summary": f"Slurm, {NUM_NODES} nodes of 8 x A100-80G and Ray, bf16, FSDP2 (not run by us)",
    "micro_batch": 2,
    "generate_shard": 1024,
    "num_replicas": trained.num_devices,
    "replicas_on": "ray",
    "slurm_of": {**trained.slurm_of, "generate": NODES, "evaluate": NODES},
    "replica_launcher": (*srun(NODE), RAY, "{python}"),
}
machine = trained.model_copy(update=changes)
