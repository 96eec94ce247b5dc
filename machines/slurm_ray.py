"""Four nodes of 8 x A100-80G under Slurm: training by torchrun over them, generation by one engine a GPU through Ray.
Written for it; not run by us.

Start the Ray cluster inside the allocation, then the harness on its first node; run directory and environment are on a shared disk:

    HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    srun --nodes=1 --ntasks=1 -w "$HEAD" ray start --head --port=6379 --block &
    srun --nodes=3 --ntasks=3 -x "$HEAD" ray start --address="$HEAD:6379" --block &
    RAY_ADDRESS="$HEAD:6379" MAIN_HOST="$HEAD" harness reproduce zephyr-7b-vllm --machine slurm-ray
"""

from harness.machine import Machine

machine = Machine(
    name="slurm-ray",
    summary="4 nodes of 8 x A100-80G, Slurm and Ray, bf16, FSDP2 (not run by us)",
    device="cuda",
    num_devices=32,
    num_nodes=4,
    micro_batch=2,
    opponent_batch=16,
    generate_batch=64,
    generate_shard=1024,
    evaluate_batch=16,
    gradient_checkpointing=True,
    checkpoint_every_seconds=900.0,
    num_replicas=32,
    replicas_on="ray",
    launcher=(
        "srun",
        "--overlap",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=1",
        "bash",
        "-c",
        'exec "$0" -m harness.training.launch --nnodes={num_nodes} --nproc-per-node={node_devices} '
        '--rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" '
        '--rdzv-endpoint="$MAIN_HOST:29500" "$@"',
        "{python}",
    ),
    sharding="fsdp2",
    peak_tflops=312.0,
    mfu=0.3,
    generate_tokens_per_second=2200.0,
    memory_gb=80.0,
)
