"""Eight A100-80G on one node, the paper's hardware. Written for it; not run by us."""

from harness.machine import Machine

machine = Machine(
    name="a100x8",
    summary="8 x A100-80G, one node, bf16, FSDP2 (not run by us)",
    device="cuda",
    num_devices=8,
    micro_batch=8,  # a device's whole share of 64 pairs: the weights are gathered once a step
    generate_batch=64,
    generate_shard=2048,
    evaluate_batch=16,
    gradient_checkpointing=True,
    checkpoint_every_seconds=900.0,
    launcher=("{python}", "-m", "harness.training.launch", "--standalone", "--nproc-per-node={num_devices}"),
    sharding="fsdp2",
    peak_tflops=312.0,
    mfu=0.35,
    generate_tokens_per_second=2200.0,
    memory_gb=80.0,
)
