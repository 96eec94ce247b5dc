"""One H100-80G. A 7B policy with its gradients and RMSProp state needs 118 GB: smaller models, or adapters. Not run by us."""

from harness.machine import Machine

machine = Machine(
    name="h100x1",
    summary="one H100-80G, bf16 (not run by us)",
    device="cuda",
    num_devices=1,
    micro_batch=8,
    generate_batch=128,
    generate_shard=2048,
    evaluate_batch=16,
    gradient_checkpointing=True,
    checkpoint_every_seconds=900.0,
    peak_tflops=989.0,
    mfu=0.35,
    generate_tokens_per_second=4000.0,
    memory_gb=80.0,
)
