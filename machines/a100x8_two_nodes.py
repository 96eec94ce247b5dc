"""Two nodes of eight A100-80G under Slurm, FSDP2 over all sixteen. Written for it; not run by us.

Start `harness reproduce` inside an allocation of two nodes whose run directory both see (`salloc --nodes=2 --gpus-per-node=8`):
a training stage is then one torchrun a node, generation and evaluation use the first node. `env` is what `accelerate launch` would set.
"""

from harness.machine import Machine

TORCHRUN = (
    'exec "$0" -m torch.distributed.run --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" '
    '--rdzv-endpoint="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500" "$@"'
)

machine = Machine(
    name="a100x8-two-nodes",
    summary="2 nodes of 8 x A100-80G, Slurm, bf16, FSDP2 (not run by us)",
    device="cuda",
    num_devices=16,
    micro_batch=4,
    opponent_batch=16,
    generate_batch=64,
    generate_shard=2048,
    evaluate_batch=16,
    gradient_checkpointing=True,
    checkpoint_every_seconds=900.0,
    launcher=("srun", "--nodes=2", "--ntasks-per-node=1", "bash", "-c", TORCHRUN, "{python}"),
    env={
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    },
    peak_tflops=312.0,
    mfu=0.3,
    generate_tokens_per_second=2200.0,
    memory_gb=80.0,
)
