"""Two CPU cores and 16 GB or more: what `tiny` and `smollm2-135m` were measured on."""

from harness.machine import Machine

machine = Machine(
    name="cpu",
    summary="two CPU cores, fp32",
    device="cpu",
    num_threads=2,
    micro_batch=8,
    generate_batch=32,
    generate_shard=32,
    evaluate_batch=4,
    checkpoint_every_seconds=20.0,
    fork_stages=True,
    peak_tflops=0.067,
    mfu=0.75,
    generate_tokens_per_second=11.0,
    memory_gb=16.0,
)
